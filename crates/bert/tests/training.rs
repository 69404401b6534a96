//! Recipes: what they open, exact resume, the folders they leave, and what is wrong in them.
#![cfg(feature = "train")]

use bert::{ARCHITECTURE, load_pretrained};
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::{Value, json};
use std::path::Path;
use trainer::{CheckpointReader, CheckpointWriter, Context, Experiment, Recipe, Split, Step};

fn text() -> String {
    let mut all = String::new();
    for i in 0..600 {
        let part = ["red fish swim", "blue birds fly", "green frogs jump"][i / 200];
        all += &format!("{part} over hill {} and dale {}. ", i % 7, i % 5);
    }
    all
}

fn recipe(dir: &Path, data: Value) -> Recipe {
    std::fs::write(dir.join("text.txt"), text()).unwrap();
    let mut all = json!({
        "corpus": { "path": "text.txt", "format": "bytes", "split": { "train": 60, "valid": 20, "test": 20 } },
        "vocab_size": 120, "max_length": 24
    });
    all.as_object_mut()
        .unwrap()
        .extend(data.as_object().unwrap().clone());
    let value = json!({
        "architecture": "bert", "seed": 3,
        "model": { "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
            "max_position_embeddings": 32, "initializer_range": 0.1 },
        "data": all,
        "training": { "steps": 6, "batch_size": 8, "optimizer": { "name": "adamw", "lr": 0.01 }, "schedule": { "name": "constant" } },
        "evaluation": { "batch_size": 8, "sequences": 16 }
    });
    Recipe::from_value(value, &dir.join("recipe.json"), &[]).unwrap()
}

/// Writes a GLUE task whose words tell the classes, and gives the section `data` that reads it.
fn films(dir: &Path) -> Value {
    let rows = |n: usize| {
        let rows = (0..n).map(|i| match i % 2 {
            0 => format!("a {} bad film . it was slow . \t0\n", i % 9),
            _ => format!("a {} good film . it was fast . \t1\n", i % 9),
        });
        format!("sentence\tlabel\n{}", rows.collect::<String>())
    };
    std::fs::write(dir.join("train.tsv"), rows(40)).unwrap();
    std::fs::write(dir.join("dev.tsv"), rows(10)).unwrap();
    json!({ "labelled": { "task": "sst-2", "path": "." }, "vocab_size": 80, "max_length": 24 })
}

fn open(recipe: &Recipe) -> Box<dyn Experiment> {
    (ARCHITECTURE.open)(recipe, &Device::flex()).unwrap()
}

fn steps(experiment: &mut dyn Experiment, range: std::ops::Range<u64>) {
    let mut cx = Context::detached();
    for step in range {
        let key = Key::new(3).fold(step);
        let at = Step {
            stage: 0,
            step,
            global: step,
            key,
        };
        experiment.train_step(at, &mut cx).unwrap();
    }
}

fn exported(experiment: &dyn Experiment) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    experiment.export(dir.path()).unwrap();
    std::fs::read(dir.path().join("model.safetensors")).unwrap()
}

#[test]
fn a_resumed_run_ends_at_the_same_bits() {
    for task in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe(dir.path(), json!({}));
        if task {
            recipe.data = films(dir.path());
        }
        let mut whole = open(&recipe);
        steps(&mut *whole, 0..6);

        let mut first = open(&recipe);
        steps(&mut *first, 0..3);
        let saved = dir.path().join("checkpoint");
        CheckpointWriter::write(&saved, |to| first.save(to)).unwrap();
        let mut second = open(&recipe);
        second
            .restore(&CheckpointReader::open(&saved).unwrap())
            .unwrap();
        steps(&mut *second, 3..6);
        assert!(exported(&*whole) == exported(&*second));
        // Judging a run changes nothing in it.
        let mut cx = Context::detached();
        whole.evaluate(Split::Valid, &mut cx).unwrap();
        assert!(exported(&*whole) == exported(&*second));
        std::fs::remove_dir_all(&saved).unwrap();
    }
}

#[test]
fn a_task_is_learned_and_the_folder_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), json!({}));
    recipe.data = films(dir.path());
    let mut experiment = open(&recipe);
    steps(&mut *experiment, 0..40);
    let found = experiment
        .evaluate(Split::Test, &mut Context::detached())
        .unwrap();
    assert!(found.get("acc").unwrap() > 0.9, "{found:?}");

    let out = dir.path().join("model");
    std::fs::create_dir(&out).unwrap();
    experiment.export(&out).unwrap();
    let model = load_pretrained(&out, &Device::flex()).unwrap();
    assert_eq!(model.class(), "ForSequenceClassification");
    let mut folder = (ARCHITECTURE.load)(&out, &Device::flex()).unwrap();
    let answer = folder
        .predictor()
        .unwrap()
        .predict(&json!("a good film"))
        .unwrap();
    assert_eq!(answer["label"], "1");
    assert_eq!(answer["scores"].as_object().unwrap().len(), 2);

    // The tokenizer travels.
    let copy = dir.path().join("copy");
    folder.save(&copy).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            std::fs::read(out.join(name)).unwrap(),
            std::fs::read(copy.join(name)).unwrap()
        );
    }
    experiment.load_model(&copy).unwrap();
    let again = experiment
        .evaluate(Split::Test, &mut Context::detached())
        .unwrap();
    assert_eq!(found, again);
}

#[test]
fn pre_training_learns_and_is_fine_tuned_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut pre = open(&recipe(dir.path(), json!({})));
    let mut cx = Context::detached();
    let before = pre.evaluate(Split::Train, &mut cx).unwrap();
    steps(&mut *pre, 0..40);
    let after = pre.evaluate(Split::Train, &mut cx).unwrap();
    let loss = |m: &trainer::Metrics| m.get("mlm_loss").unwrap();
    assert!(loss(&after) < loss(&before) - 1.0, "{before:?} {after:?}");
    let answer = pre.predictor().unwrap().predict(&json!("red [MASK] swim"));
    let answer = answer.unwrap();
    assert_eq!(answer["masks"][0].as_array().unwrap().len(), 5);
    assert!(pre.predictor().unwrap().predict(&json!("no mask")).is_err());

    let out = dir.path().join("pre");
    std::fs::create_dir(&out).unwrap();
    pre.export(&out).unwrap();
    let mut recipe = recipe(dir.path(), json!({}));
    recipe.data = films(dir.path());
    recipe.training["from"] = "pre".into();
    let tuned = open(&recipe);
    let said = tuned.summary();
    let line = |name: &str| said.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    assert_eq!(
        line("new tensors").unwrap(),
        "classifier.bias, classifier.weight"
    );
    assert!(
        line("unused tensors")
            .unwrap()
            .contains("cls.seq_relationship.weight")
    );
}

/// Steps of a run in two stages, as the runner takes them.
fn staged(experiment: &mut dyn Experiment, range: std::ops::Range<u64>, first: u64) {
    let mut cx = Context::detached();
    for global in range {
        let (stage, step) = match global < first {
            true => (0, global),
            false => (1, global - first),
        };
        if step == 0 {
            experiment.begin_stage(stage, &mut cx).unwrap();
        }
        let at = Step::new(3, stage, step, global);
        experiment.train_step(at, &mut cx).unwrap();
    }
}

#[test]
fn pre_training_and_fine_tuning_are_one_run_that_resumes_in_either() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), json!({}));
    recipe.data = films(dir.path());
    recipe.training["pretraining"] = json!({ "steps": 4 });
    recipe.training["steps"] = 30.into();
    let mut whole = open(&recipe);
    let stages = whole.stages();
    let names: Vec<_> = stages.iter().map(|s| (s.name.as_str(), s.steps)).collect();
    assert_eq!(names, [("pre-train", 4), ("fine-tune", 30)]);
    staged(&mut *whole, 0..34, 4);

    for cut in [2, 9] {
        let mut first = open(&recipe);
        staged(&mut *first, 0..cut, 4);
        let saved = dir.path().join(format!("checkpoint-{cut}"));
        CheckpointWriter::write(&saved, |to| first.save(to)).unwrap();
        let mut second = open(&recipe);
        second
            .restore(&CheckpointReader::open(&saved).unwrap())
            .unwrap();
        staged(&mut *second, cut..34, 4);
        assert!(exported(&*whole) == exported(&*second), "cut at {cut}");
    }
    let found = whole.evaluate(Split::Test, &mut Context::detached());
    assert_eq!(found.unwrap().get("acc"), Some(1.0));
    let said = whole.references();
    assert!(
        said.iter()
            .any(|r| r.name.contains("Bayes") && r.value == 1.0),
        "{said:?}"
    );

    // The first stage leaves its mark: without it the run ends elsewhere.
    let mut alone = recipe.clone();
    alone
        .training
        .as_object_mut()
        .unwrap()
        .remove("pretraining");
    let mut alone = open(&alone);
    steps(&mut *alone, 0..30);
    assert!(exported(&*whole) != exported(&*alone));
}

#[test]
fn what_is_wrong_in_a_recipe_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let base = recipe(dir.path(), json!({}));
    let fails = |change: &dyn Fn(&mut Recipe), text: &str| {
        let mut recipe = base.clone();
        change(&mut recipe);
        let found = (ARCHITECTURE.open)(&recipe, &Device::flex());
        let error = found.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    };
    fails(
        &|r| r.model["hiden_size"] = 8.into(),
        "did you mean `hidden_size`",
    );
    fails(
        &|r| r.model["hidden_size"] = 15.into(),
        "num_attention_heads = 2",
    );
    fails(&|r| r.model["vocab_size"] = 20.into(), "model.vocab_size");
    fails(
        &|r| r.data["max_length"] = 33.into(),
        "max_position_embeddings = 32",
    );
    fails(&|r| r.data["max_length"] = 4.into(), "data.max_length");
    fails(&|r| r.data["vocab_size"] = 10.into(), "vocab_size is 10");
    fails(&|r| r.data = json!({}), "data");
    fails(
        &|r| r.data = json!({ "labelled": { "task": "sst", "path": "." } }),
        "one of cola, sst-2",
    );
    fails(
        &|r| r.data = json!({ "labelled": { "task": "rte", "path": "." } }),
        "train.tsv",
    );
    fails(
        &|r| r.training["batch_size"] = 0.into(),
        "training.batch_size",
    );
    fails(
        &|r| r.training["mask_share"] = 1.into(),
        "training.mask_share",
    );
    fails(&|r| r.training["from"] = "nowhere".into(), "nowhere");
    fails(&|r| r.training["stepz"] = 3.into(), "stepz");
    fails(
        &|r| r.training["pretraining"] = json!({ "steps": 3 }),
        "training.pretraining",
    );
    fails(
        &|r| r.data["labelled"] = json!({ "name": "sotu-era4" }),
        "data.corpus",
    );
    fails(
        &|r| r.evaluation["sequences"] = 0.into(),
        "evaluation.sequences",
    );
}

#[test]
fn only_its_own_folders_are_claimed() {
    let claims = |config: Value, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        (ARCHITECTURE.claims)(&config, &names)
    };
    let words = "bert.embeddings.word_embeddings.weight";
    assert!(claims(json!({ "model_type": "bert" }), &[words]));
    assert!(claims(
        json!({ "model_type": "roberta" }),
        &["roberta.embeddings.word_embeddings.weight"]
    ));
    assert!(claims(json!({}), &["embeddings.word_embeddings.weight"]));
    assert!(!claims(
        json!({ "model_type": "nystromformer" }),
        &["nystromformer.embeddings.word_embeddings.weight"]
    ));
    assert!(!claims(json!({}), &["key_pe"]));
    assert!(!claims(
        json!({ "model_type": "bert" }),
        &[words, "bert.encoder.highway.0.pooler.dense.weight"]
    ));
}
