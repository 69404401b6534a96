//! Runs over texts: exact resume, export, conversion, answers, and what is refused.
#![cfg(feature = "train")]

mod common;

use common::devices;
use nystromformer::{ARCHITECTURE, Folder, NystromformerConfig};
use pretrained::NamedTensors;
use serde_json::{Value, json};
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Experiment, Pretrained, Recipe, Split, Step,
};

/// Sentences whose order can be told, as GLUE's files have them; written into `dir`.
fn write_texts(dir: &Path) {
    let words = ["one", "two", "three", "four", "five", "six", "seven"];
    let sentence = |i: usize| format!("{} comes before {}.", words[i % 6], words[i % 6 + 1]);
    let row = |i: usize| {
        let text: Vec<String> = (0..2 + i % 3).map(|s| sentence(i + s)).collect();
        format!("{}\t{}\n", text.join(" "), i % 2)
    };
    for (file, rows) in [("train.tsv", 40), ("dev.tsv", 20)] {
        let rows: String = (0..rows).map(row).collect();
        std::fs::write(dir.join(file), format!("sentence\tlabel\n{rows}")).unwrap();
    }
}

fn recipe(dir: &Path, task: &str, sets: &[&str]) -> Recipe {
    let texts = json!({ "task": "sst-2", "path": "." });
    let (data, model) = match task {
        "pre-training" => (
            json!({ "task": task, "texts": texts, "vocab_size": 60, "max_length": 24 }),
            json!({
                "num_layers": 2, "embedding_dim": 8, "dim": 12, "hidden_dim": 16, "num_head": 2, "head_dim": 5,
                "num_landmarks": 4, "conv_kernel_size": 3, "shared_weight": true
            }),
        ),
        "bytes" => (
            json!({ "task": task, "texts": texts, "max_length": 30 }),
            json!({
                "embedding_dim": 8, "transformer_dim": 8, "transformer_hidden_dim": 12, "head_dim": 4, "num_head": 2,
                "num_layers": 1, "max_seq_len": 32, "num_landmarks": 4, "conv_kernel_size": 3
            }),
        ),
        _ => {
            let data = json!({ "task": task, "texts": texts, "vocab_size": 60, "max_length": 20 });
            let model = json!({
                "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
                "num_landmarks": 4, "conv_kernel_size": 3
            });
            (data, model)
        }
    };
    let value = json!({
        "architecture": "nystromformer", "seed": 3, "model": model, "data": data,
        "training": {
            "steps": 6, "batch_size": 8, "batch_split": 2, "clip": 1.0, "optimizer": { "name": "adamw", "lr": 1e-3 },
            "schedule": { "name": "linear", "warmup": 2 }
        },
        "evaluation": { "batch_size": 8, "sequences": 12 },
    });
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Recipe::from_value(value, &dir.join("recipe.json"), &sets).unwrap()
}

const TASKS: [&str; 4] = ["pre-training", "masked-lm", "classification", "bytes"];

fn run(experiment: &mut dyn Experiment, steps: std::ops::Range<u64>) {
    let cx = &mut Context::detached();
    for step in steps {
        experiment
            .train_step(Step::new(3, 0, step, step), cx)
            .unwrap();
    }
}

fn weights(experiment: &dyn Experiment, dir: &Path) -> NamedTensors {
    CheckpointWriter::write(dir, |to| experiment.save(to)).unwrap();
    CheckpointReader::open(dir)
        .unwrap()
        .tensors("model")
        .unwrap()
}

#[test]
fn a_resumed_run_is_the_run_and_its_folder_gives_its_numbers() {
    for (backend, device) in devices() {
        if backend == "wgpu" {
            continue; // bit for bit is promised on the CPU
        }
        for task in TASKS {
            let dir = tempfile::tempdir().unwrap();
            write_texts(dir.path());
            let recipe = recipe(dir.path(), task, &[]);
            let open = || (ARCHITECTURE.open)(&recipe, &device).unwrap();
            let mut whole = open();
            run(whole.as_mut(), 0..6);
            let mut first = open();
            run(first.as_mut(), 0..3);
            let checkpoint = dir.path().join("checkpoint");
            CheckpointWriter::write(&checkpoint, |to| first.save(to)).unwrap();
            let mut second = open();
            second
                .restore(&CheckpointReader::open(&checkpoint).unwrap())
                .unwrap();
            run(second.as_mut(), 3..6);
            let cx = &mut Context::detached();
            let before = second.evaluate(Split::Valid, cx).unwrap();
            assert_eq!(
                weights(whole.as_ref(), &dir.path().join("whole")),
                weights(second.as_ref(), &dir.path().join("second")),
                "{backend} {task}"
            );
            let model = dir.path().join("model");
            std::fs::create_dir(&model).unwrap();
            second.export(&model).unwrap();
            let mut other = open();
            other.load_model(&model).unwrap();
            assert_eq!(other.evaluate(Split::Valid, cx).unwrap(), before, "{task}");
            // The folder answers as the run does.
            let input = match task {
                "bytes" => json!({ "input_ids": [5, 6, 7] }),
                "classification" => json!("One comes before two."),
                _ => json!({ "text": "One comes [MASK] two." }),
            };
            let answer = second.predictor().unwrap().predict(&input).unwrap();
            let mut folder = (ARCHITECTURE.load)(&model, &device).unwrap();
            let again = folder.predictor().unwrap().predict(&input).unwrap();
            assert_eq!(answer, again, "{task}");
            let told = match task {
                "bytes" | "classification" => &answer["scores"],
                _ => &answer["masks"],
            };
            assert!(!told.is_null(), "{answer}");
        }
    }
}

#[test]
fn a_run_goes_on_from_a_folder_with_more_positions_and_other_attention() {
    let (_, device) = devices().remove(0);
    let dir = tempfile::tempdir().unwrap();
    write_texts(dir.path());
    let first = recipe(dir.path(), "masked-lm", &["model.conv_kernel_size=null"]);
    let mut first = (ARCHITECTURE.open)(&first, &device).unwrap();
    run(first.as_mut(), 0..2);
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    first.export(&model).unwrap();
    let longer = recipe(
        dir.path(),
        "masked-lm",
        &[
            r#"model={"max_position_embeddings":40,"num_landmarks":6,"conv_kernel_size":5}"#,
            "data.max_length=40",
            "training.from=model",
        ],
    );
    let mut second = (ARCHITECTURE.open)(&longer, &device).unwrap();
    let said = second.summary();
    let new = said.iter().find(|(name, _)| name == "new tensors").unwrap();
    assert!(
        new.1.contains("layer.1.attention.self.conv.weight"),
        "{new:?}"
    );
    let out = dir.path().join("longer");
    std::fs::create_dir(&out).unwrap();
    second.export(&out).unwrap();
    let config = NystromformerConfig::from_file(out.join("config.json")).unwrap();
    assert_eq!(config.max_position_embeddings, 40);
    assert_eq!(config.num_landmarks, 6);
    let rows = |dir: &Path| {
        let tensors = pretrained::read_tensors(&dir.join("model.safetensors")).unwrap();
        let table = &tensors["nystromformer.embeddings.position_embeddings.weight"];
        table.iter::<f32>().collect::<Vec<f32>>()
    };
    let (short, long) = (rows(&model), rows(&out));
    assert_eq!(long.len() / 8, 42);
    assert_eq!(long[..22 * 8], short[..]);
    assert_eq!(long[22 * 8..], short[2 * 8..]);
    run(second.as_mut(), 0..1);
    // A classifier takes the body and lists its new head.
    let tuned = recipe(
        dir.path(),
        "classification",
        &["model={}", "training.from=model"],
    );
    let tuned = (ARCHITECTURE.open)(&tuned, &device).unwrap();
    let said = tuned.summary();
    let new = said.iter().find(|(name, _)| name == "new tensors").unwrap();
    assert!(new.1.contains("classifier.out_proj.weight"), "{new:?}");
}

#[test]
fn a_pre_trained_folder_keeps_both_heads_and_becomes_hugging_faces() {
    let (_, device) = devices().remove(0);
    let dir = tempfile::tempdir().unwrap();
    write_texts(dir.path());
    let sets = ["model.embedding_dim=10", "model.dim=10"];
    let recipe = recipe(dir.path(), "pre-training", &sets);
    let mut experiment = (ARCHITECTURE.open)(&recipe, &device).unwrap();
    run(experiment.as_mut(), 0..1);
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    experiment.export(&model).unwrap();
    let inputs = || {
        let ids = burn::tensor::TensorData::new(vec![2i64, 9, 8, 3, 7, 3], [1, 6]);
        NamedTensors::from([("input_ids".to_owned(), ids)])
    };
    let own = Folder::open(&model, &device).unwrap().forward(inputs());
    let own = own.unwrap();
    assert_eq!(own["seq_relationship_logits"].shape()[..], [1, 2]);
    let from = trainer::Conversion {
        checkpoint: model.clone(),
        ..trainer::Conversion::default()
    };
    let converted = (ARCHITECTURE.convert)(&from, &device).unwrap();
    let out = dir.path().join("converted");
    converted.save(&out).unwrap();
    let mut again = Folder::open(&out, &device).unwrap();
    let again = again.forward(inputs()).unwrap();
    // Six tokens with four landmarks: the two layouts differ in where the pseudo-inverse starts, by rounding alone, as the
    // rows of a softmax sum to 1.
    for (a, b) in [
        ("last_hidden_state", "last_hidden_state"),
        ("prediction_logits", "logits"),
    ] {
        let pairs = own[a].iter::<f32>().zip(again[b].iter::<f32>());
        for (a, b) in pairs {
            assert!((a - b).abs() < 1e-4 + 1e-4 * b.abs(), "{a} {b}");
        }
    }
}

#[test]
fn wrong_recipes_are_told_by_their_key() {
    let (_, device) = devices().remove(0);
    let dir = tempfile::tempdir().unwrap();
    write_texts(dir.path());
    for (task, set, part) in [
        ("pre-training", "model.num_layer=3", "num_layers"),
        ("pre-training", "model.vocab_size=20", "model.vocab_size"),
        ("pre-training", "data.max_length=7", "data.max_length"),
        ("pre-training", "model.max_seq_len=12", "max_seq_len"),
        ("pre-training", "training.epochs=2", "training.epochs"),
        (
            "pre-training",
            "training.mask_share=1",
            "training.mask_share",
        ),
        ("masked-lm", "model.hidden_sise=8", "hidden_size"),
        ("masked-lm", "model.vocab_size=20", "model.vocab_size"),
        ("masked-lm", "data.max_length=100000", "data.max_length"),
        (
            "masked-lm",
            "model.max_position_embeddings=12",
            "max_position_embeddings",
        ),
        ("masked-lm", "training.from=nowhere", "nowhere"),
        (
            "masked-lm",
            r#"data.corpus={"name":"moby-dick"}"#,
            "one of the two",
        ),
        ("classification", "data.texts.path=nowhere", "nowhere"),
        ("classification", "data.padding=\"short\"", "short"),
        (
            "classification",
            "model.num_attention_heads=3",
            "hidden_size",
        ),
        (
            "classification",
            "training.most_masked=0",
            "training.most_masked",
        ),
        ("bytes", "data.max_length=0", "data.max_length"),
        ("bytes", "training.from=model", "training.from"),
        ("bytes", "evaluation.sequences=0", "evaluation.sequences"),
    ] {
        let recipe = recipe(dir.path(), task, &[set]);
        let error = (ARCHITECTURE.open)(&recipe, &device)
            .err()
            .unwrap_or_else(|| panic!("{task} {set}"));
        assert!(error.to_string().contains(part), "{task} {set}: {error}");
    }
    let recipe = recipe(dir.path(), "classification", &[]);
    let mut experiment = (ARCHITECTURE.open)(&recipe, &device).unwrap();
    let predictor = experiment.predictor().unwrap();
    assert!(predictor.predict(&Value::from(3)).is_err());
}
