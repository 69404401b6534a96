//! Recipes: the stages, exact resume over them, what the run leaves, and what is wrong in them.
#![cfg(feature = "train")]

use burn::prelude::*;
use deebert::{ARCHITECTURE, DeeBertExperiment, DeeBertForSequenceClassification, Thresholds};
use pretrained::{NamedTensors, collect_weights};
use serde_json::{Value, json};
use std::path::Path;
use trainer::{CheckpointReader, CheckpointWriter, Context, Experiment, Recipe, Split, Step};

/// A GLUE folder in the layout of SST-2: the word that decides, among others that do not.
fn write_task(dir: &Path) {
    let rows = |from: usize, n: usize| {
        let row = |i: usize| {
            let word = ["dull", "fine"][i % 2];
            format!("a {word} film number {} of {}\t{}\n", i % 7, i % 5, i % 2)
        };
        let rows: String = (from..from + n).map(row).collect();
        format!("sentence\tlabel\n{rows}")
    };
    std::fs::write(dir.join("train.tsv"), rows(0, 60)).unwrap();
    std::fs::write(dir.join("dev.tsv"), rows(60, 24)).unwrap();
}

fn recipe(dir: &Path, training: Value) -> Recipe {
    write_task(dir);
    let mut all = json!({
        "steps": 6, "batch_size": 8, "batch_split": 2,
        "optimizer": { "name": "adamw", "lr": 0.01, "weight_decay": 0.01 }, "schedule": { "name": "constant" },
    });
    let map = all.as_object_mut().unwrap();
    map.extend(training.as_object().unwrap().clone());
    let value = json!({
        "architecture": "deebert", "seed": 3,
        "model": { "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
            "max_position_embeddings": 16, "initializer_range": 0.1, "deebert": { "off_ramp_pooling": "mean" } },
        "data": { "labelled": { "task": "sst-2", "path": "." }, "vocab_size": 80, "max_length": 16 },
        "training": all,
        "evaluation": { "batch_size": 7, "tolerance": 0.0, "timed_samples": 2, "thresholds": [0.0, 0.3, 0.7] }
    });
    Recipe::from_value(value, &dir.join("recipe.json"), &[]).unwrap()
}

fn open(recipe: &Recipe) -> DeeBertExperiment {
    DeeBertExperiment::open(recipe, &Device::flex()).unwrap()
}

/// Runs as the runner does: stage after stage, from one global step to another.
fn run(experiment: &mut DeeBertExperiment, range: std::ops::Range<u64>) {
    let cx = &mut Context::detached();
    let mut first = 0;
    for (stage, of) in experiment.stages().into_iter().enumerate() {
        for step in 0..of.steps {
            let global = first + step;
            if range.contains(&global) {
                if step == 0 {
                    experiment.begin_stage(stage, cx).unwrap();
                }
                let at = Step::new(3, stage, step, global);
                experiment.train_step(at, cx).unwrap();
            }
        }
        first += of.steps;
    }
}

fn weights(experiment: &DeeBertExperiment) -> NamedTensors {
    collect_weights(&experiment.model())
}

fn names(experiment: &DeeBertExperiment) -> Vec<String> {
    experiment
        .stages()
        .into_iter()
        .map(|stage| stage.name)
        .collect()
}

#[test]
fn a_resumed_run_ends_at_the_same_bits_wherever_it_stopped() {
    for training in [
        json!({}),
        json!({ "stage2_encoder_dropout": false, "off_ramps": { "steps": 5, "batch_size": 4 } }),
        json!({ "exit_schedule": "joint", "joint_weights": "linear" }),
        json!({ "exit_schedule": "alternating" }),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let recipe = recipe(dir.path(), training);
        let mut whole = open(&recipe);
        let total: u64 = whole.stages().iter().map(|stage| stage.steps).sum();
        run(&mut whole, 0..total);
        // Inside the first stage, at its end, just behind it, and inside the second.
        for stop in [3, 6, 7, 9].into_iter().filter(|stop| *stop < total) {
            let mut first = open(&recipe);
            run(&mut first, 0..stop);
            let saved = dir.path().join("checkpoint");
            CheckpointWriter::write(&saved, |to| first.save(to)).unwrap();
            let mut second = open(&recipe);
            second
                .restore(&CheckpointReader::open(&saved).unwrap())
                .unwrap();
            assert_eq!(weights(&first), weights(&second), "restored at {stop}");
            run(&mut second, stop..total);
            assert_eq!(weights(&whole), weights(&second), "stopped at {stop}");
        }
        // Judging a run changes nothing in it.
        let before = weights(&whole);
        whole
            .evaluate(Split::Test, &mut Context::detached())
            .unwrap();
        assert_eq!(weights(&whole), before);
    }
}

#[test]
fn each_stage_trains_its_part_alone() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), json!({}));
    let mut experiment = open(&recipe);
    assert_eq!(names(&experiment), ["fine-tune", "off-ramps"]);
    let start = weights(&experiment);
    run(&mut experiment, 0..6);
    let tuned = weights(&experiment);
    for (name, data) in &tuned {
        let ramp = name.contains("highway");
        // One segment and a short text leave rows of the tables without a gradient, not the tables.
        assert_eq!(start[name] == *data, ramp, "{name} in stage 1");
    }
    run(&mut experiment, 6..12);
    let done = weights(&experiment);
    for (name, data) in &done {
        let trained = name.contains("highway.0.") || name.contains("highway.1.");
        let last = name.contains("highway.2.pooler");
        assert_eq!(tuned[name] != *data, trained || last, "{name} in stage 2");
    }
    // The pooler of the off-ramp that is never trained is the copy that stage 2 began with.
    for part in ["weight", "bias"] {
        let copy = format!("bert.encoder.highway.2.pooler.dense.{part}");
        assert_eq!(done[&copy], tuned[&format!("bert.pooler.dense.{part}")]);
    }
}

#[test]
fn kept_features_are_those_of_the_encoder() {
    // Without any dropout both ways of stage 2 are the same mathematics.
    let dir = tempfile::tempdir().unwrap();
    let runs = [true, false].map(|dropout| {
        let mut recipe = recipe(dir.path(), json!({ "stage2_encoder_dropout": dropout }));
        for key in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
            recipe.model[key] = 0.0.into();
        }
        let mut experiment = open(&recipe);
        run(&mut experiment, 0..12);
        weights(&experiment)
    });
    for (name, data) in &runs[0] {
        let pairs = data.iter::<f32>().zip(runs[1][name].iter::<f32>());
        for (a, b) in pairs {
            assert!((a - b).abs() < 1e-4, "{name}: {a} {b}");
        }
    }
}

#[test]
fn exits_are_learned_and_the_folder_answers() {
    let dir = tempfile::tempdir().unwrap();
    let training =
        json!({ "steps": 40, "stage2_encoder_dropout": false, "off_ramps": { "steps": 60 } });
    let recipe = recipe(dir.path(), training);
    let mut experiment = open(&recipe);
    run(&mut experiment, 0..100);
    let cx = &mut Context::detached();
    let found = experiment.evaluate(Split::Test, cx).unwrap();
    for name in ["acc", "exit_1", "exit_2", "exit_3", "acc_early"] {
        assert!(found.get(name).unwrap() > 0.95, "{name}: {found:?}");
    }
    assert!(found.get("mean_layer").unwrap() < 2.0, "{found:?}");
    let titles: Vec<String> = experiment
        .figures()
        .iter()
        .map(|f| f.title().to_owned())
        .collect();
    assert_eq!(titles.len(), 5, "{titles:?}");
    assert_eq!(experiment.references()[0].value, 0.5);

    let out = dir.path().join("model");
    std::fs::create_dir(&out).unwrap();
    experiment.export(&out).unwrap();
    let model = DeeBertForSequenceClassification::from_pretrained(&out, &Device::flex()).unwrap();
    let threshold = found.get("threshold").unwrap() as f32;
    assert_eq!(
        model.config().deebert.thresholds,
        Some(Thresholds::One(threshold))
    );
    let mut folder = (ARCHITECTURE.load)(&out, &Device::flex()).unwrap();
    let predictor = folder.predictor().unwrap();
    let answer = predictor
        .predict(&json!("a dull film number 3 of 4"))
        .unwrap();
    assert_eq!(answer["label"], "0", "{answer}");
    assert_eq!(answer["scores"].as_object().unwrap().len(), 2);
    let layer = answer["exit_layer"].as_u64().unwrap() as usize;
    assert!((1..=3).contains(&layer));
    assert_eq!(answer["entropies"].as_array().unwrap().len(), layer);
    let whole = json!({ "text": "a fine film", "threshold": 0 });
    let answer = predictor.predict(&whole).unwrap();
    assert_eq!(
        (&answer["label"], &answer["exit_layer"]),
        (&json!("1"), &json!(3))
    );
    for wrong in [
        json!(3),
        json!({ "text": "a", "threshold": "x" }),
        json!({ "text": "a", "threshold": [1] }),
    ] {
        assert!(predictor.predict(&wrong).is_err(), "{wrong}");
    }

    // The folder's copy gives the same figures on the recipe's data.
    let copy = dir.path().join("copy");
    folder.save(&copy).unwrap();
    assert!(copy.join("tokenizer.json").is_file());
    let mut other = open(&recipe);
    other.load_model(&copy).unwrap();
    assert_eq!(other.evaluate(Split::Test, cx).unwrap(), found);

    // A model that is fine-tuned already goes to stage 2 at once.
    let mut recipe = recipe.clone();
    recipe.model = json!({ "hidden_dropout_prob": 0.0, "deebert": { "off_ramp_pooling": "mean" } });
    recipe.training["from"] = "model".into();
    recipe.training["fine_tune"] = false.into();
    let mut third = open(&recipe);
    assert_eq!(names(&third), ["off-ramps"]);
    run(&mut third, 0..60);
    let again = third.evaluate(Split::Test, cx).unwrap();
    assert_eq!(again.get("acc"), found.get("acc"));
    assert_eq!(third.model().config().bert.hidden_dropout_prob, 0.0);
    assert!(again.get("exit_1").unwrap() > 0.95, "{again:?}");
}

#[test]
fn a_folder_runs_named_tensors_with_and_without_thresholds() {
    let dir = tempfile::tempdir().unwrap();
    let experiment = open(&recipe(dir.path(), json!({})));
    let out = dir.path().join("model");
    std::fs::create_dir(&out).unwrap();
    experiment.export(&out).unwrap();
    let mut folder = (ARCHITECTURE.load)(&out, &Device::flex()).unwrap();
    let ids = TensorData::new(vec![2i64, 5, 9, 3, 2, 7, 3, 0], [2, 4]);
    let mask = TensorData::new(vec![1i64, 1, 1, 1, 1, 1, 1, 0], [2, 4]);
    let inputs: NamedTensors = [
        ("input_ids".to_owned(), ids),
        ("attention_mask".to_owned(), mask),
    ]
    .into();
    let found = folder.forward(inputs.clone()).unwrap();
    let shapes: Vec<(&str, &[usize])> = found
        .iter()
        .map(|(n, d)| (n.as_str(), d.shape().as_slice()))
        .collect();
    assert_eq!(
        shapes,
        [
            ("highway_logits", &[2, 3, 2][..]),
            ("last_hidden_state", &[2, 4, 16]),
            ("logits", &[2, 2]),
            ("pooler_output", &[2, 16]),
        ]
    );
    for (thresholds, layers) in [
        (vec![0.7f32], 1i64),
        (vec![0.0], 3),
        (vec![0.0, 0.7, 0.0], 2),
    ] {
        let mut inputs = inputs.clone();
        let n = thresholds.len();
        inputs.insert("thresholds".into(), TensorData::new(thresholds, [n]));
        let early = folder.forward(inputs).unwrap();
        let exits: Vec<i64> = early["exit_layer"].iter().collect();
        assert_eq!(exits, [layers; 2]);
        let answers: Vec<f32> = early["exit_logits"].iter().collect();
        let all: Vec<f32> = found["highway_logits"].iter().collect();
        let last: Vec<f32> = found["logits"].iter().collect();
        for i in 0..2 {
            let at = (i * 3 + layers as usize - 1) * 2;
            let expected = if layers == 3 {
                &last[2 * i..2 * i + 2]
            } else {
                &all[at..at + 2]
            };
            for (a, b) in answers[2 * i..2 * i + 2].iter().zip(expected) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
        assert_eq!(early["logits"], found["logits"]);
    }
    let mut wrong = inputs;
    wrong.insert("tokens".into(), TensorData::from([1i64]));
    assert!(
        folder
            .forward(wrong)
            .unwrap_err()
            .to_string()
            .contains("`tokens`")
    );
}

#[test]
fn a_regression_has_exits_and_no_thresholds() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), json!({}));
    let rows = |n: usize| {
        let row = |i: usize| {
            format!(
                "{{\"sentence1\": \"number {i}\", \"sentence2\": \"so\", \"label\": {}}}\n",
                i % 5
            )
        };
        (0..n).map(row).collect::<String>()
    };
    for (name, n) in [("train", 20), ("dev", 10)] {
        std::fs::write(dir.path().join(format!("{name}.jsonl")), rows(n)).unwrap();
        std::fs::remove_file(dir.path().join(format!("{name}.tsv"))).unwrap();
    }
    recipe.data["labelled"]["task"] = "sts-b".into();
    let mut experiment = open(&recipe);
    run(&mut experiment, 0..12);
    let found = experiment
        .evaluate(Split::Test, &mut Context::detached())
        .unwrap();
    for name in ["spearmanr", "pearson", "loss", "ramp_loss", "exit_1"] {
        assert!(found.get(name).is_some(), "{name}: {found:?}");
    }
    assert_eq!(found.get("threshold"), None);
    assert_eq!(experiment.figures().len(), 1);
}

#[test]
fn one_layer_has_one_stage() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), json!({}));
    recipe.model["num_hidden_layers"] = 1.into();
    let mut experiment = open(&recipe);
    assert_eq!(names(&experiment), ["fine-tune"]);
    run(&mut experiment, 0..6);
    let found = experiment
        .evaluate(Split::Test, &mut Context::detached())
        .unwrap();
    assert_eq!(found.get("exit_1"), found.get("acc"));
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
    fails(&|r| r.model["deebrt"] = json!({}), "did you mean `deebert`");
    fails(
        &|r| r.model["deebert"] = json!({ "pooling": "mean" }),
        "off_ramp_pooling",
    );
    fails(
        &|r| r.model["deebert"] = json!({ "thresholds": 0.1 }),
        "evaluation.tolerance",
    );
    fails(
        &|r| r.model["hidden_size"] = 15.into(),
        "num_attention_heads = 2",
    );
    fails(&|r| r.model["vocab_size"] = 20.into(), "model.vocab_size");
    fails(&|r| r.data["max_length"] = 17.into(), "data.max_length");
    fails(
        &|r| r.data["labelled"]["task"] = "sst".into(),
        "one of cola, sst-2",
    );
    fails(
        &|r| r.data["labelled"]["path"] = "nowhere".into(),
        "train.tsv",
    );
    fails(
        &|r| r.data = json!({ "labelled": { "name": "no-such-data" } }),
        "no-such-data",
    );
    fails(
        &|r| r.training["schedule"] = "joint".into(),
        "exit_schedule",
    );
    fails(
        &|r| r.training["exit_schedule"] = "twice".into(),
        "two_stage",
    );
    fails(&|r| r.training["batch_size"] = 0.into(), "batch_size");
    fails(
        &|r| r.training["batch_split"] = 3.into(),
        "training.batch_split",
    );
    fails(&|r| r.training["steps"] = 0.into(), "training.steps");
    fails(
        &|r| r.training["off_ramps"] = json!({ "epochs": 0 }),
        "training.off_ramps.epochs",
    );
    fails(&|r| r.training["from"] = "nowhere".into(), "nowhere");
    let own = dir.path().join("own");
    std::fs::create_dir(&own).unwrap();
    open(&base).export(&own).unwrap();
    fails(
        &|r| r.training["from"] = "own".into(),
        "given beside training.from",
    );
    fails(&|r| r.training["stepz"] = 3.into(), "stepz");
    fails(
        &|r| r.evaluation["batch_size"] = 0.into(),
        "evaluation.batch_size",
    );
    fails(
        &|r| r.evaluation["mean_layer"] = 2.into(),
        "evaluation.tolerance",
    );
    fails(
        &|r| r.evaluation = json!({ "mean_layer": 4 }),
        "evaluation.mean_layer",
    );
    fails(
        &|r| r.evaluation["tolerance"] = (-1).into(),
        "evaluation.tolerance",
    );
    fails(
        &|r| {
            r.model["num_hidden_layers"] = 1.into();
            r.training["fine_tune"] = false.into();
        },
        "training.fine_tune",
    );
}

#[test]
fn only_its_own_folders_are_claimed() {
    let claims = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        (ARCHITECTURE.claims)(&json!({}), &names)
    };
    let words = "bert.embeddings.word_embeddings.weight";
    assert!(claims(&[
        words,
        "bert.encoder.highway.0.pooler.dense.weight"
    ]));
    assert!(claims(&["roberta.encoder.highway.0.classifier.bias"]));
    assert!(!claims(&[words, "classifier.weight"]));
}
