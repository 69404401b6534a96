//! The run: exact resume, the shipped recipes, and learning.
#![cfg(feature = "train")]

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use common::devices;
use nystromformer::{LraClassifier, LraExperiment};
use pretrained::collect_weights;
use serde_json::json;
use std::path::Path;
use trainer::{CheckpointReader, CheckpointWriter, Context, Experiment, Recipe, Split, Step};

fn recipe(sets: &[String]) -> Recipe {
    let value = json!({
        "architecture": "nystromformer",
        "seed": 3,
        "model": {
            "embedding_dim": 16, "transformer_dim": 16, "transformer_hidden_dim": 24, "head_dim": 8, "num_head": 2,
            "num_layers": 1, "max_seq_len": 40, "num_landmarks": 5, "conv_kernel_size": 7,
        },
        "data": { "task": "listops", "min_length": 3, "max_length": 40, "train": 50, "valid": 20, "test": 20 },
        "training": { "steps": 6, "batch_size": 12, "batch_split": 2, "clip": 1.0, "optimizer": { "name": "adamw", "lr": 1e-3 } },
    });
    Recipe::from_value(value, Path::new("recipe.json"), sets).unwrap()
}

fn run(experiment: &mut LraExperiment<LraClassifier>, steps: std::ops::Range<u64>) {
    let cx = &mut Context::detached();
    for step in steps {
        experiment
            .train_step(Step::new(3, 0, step, step), cx)
            .unwrap();
    }
}

#[test]
fn a_resumed_run_is_the_run() {
    for (backend, device) in devices() {
        if backend == "wgpu" {
            continue; // bit for bit is promised on the CPU
        }
        let recipe = recipe(&[]);
        let mut whole = LraExperiment::<LraClassifier>::open(&recipe, &device).unwrap();
        run(&mut whole, 0..6);
        let mut first = LraExperiment::<LraClassifier>::open(&recipe, &device).unwrap();
        run(&mut first, 0..3);
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = dir.path().join("checkpoint");
        CheckpointWriter::write(&checkpoint, |to| first.save(to)).unwrap();
        let mut second = LraExperiment::<LraClassifier>::open(&recipe, &device).unwrap();
        second
            .restore(&CheckpointReader::open(&checkpoint).unwrap())
            .unwrap();
        run(&mut second, 3..6);
        assert_eq!(
            collect_weights(whole.model()),
            collect_weights(second.model()),
            "{backend}"
        );
        // Evaluation leaves the state alone, and the exported folder gives the same numbers.
        let cx = &mut Context::detached();
        let before = second.evaluate(Split::Valid, cx).unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        second.export(&model).unwrap();
        let mut other = LraExperiment::<LraClassifier>::open(&recipe, &device).unwrap();
        other.load_model(&model).unwrap();
        assert_eq!(other.evaluate(Split::Valid, cx).unwrap(), before);
        assert_eq!(
            collect_weights(whole.model()),
            collect_weights(second.model())
        );
    }
}

#[test]
fn wrong_recipes_are_told_by_their_key() {
    let (_, device) = devices().remove(0);
    for (set, part) in [
        ("model.num_landmark=3", "num_landmarks"),
        ("model.vocab_size=3", "model.vocab_size"),
        ("model.conv_kernel_size=8", "conv_kernel_size"),
        ("training.batch_split=5", "training.batch_split"),
        ("training.steps=0", "training.steps"),
        ("evaluation.batch_size=0", "evaluation.batch_size"),
        ("data.max_args=1", "data.max_args"),
        ("data.task=\"sudoku\"", "sudoku"),
        ("data.tran=3", "tran"),
    ] {
        let recipe = recipe(&[set.to_owned()]);
        let error = LraExperiment::<LraClassifier>::open(&recipe, &device)
            .err()
            .unwrap_or_else(|| panic!("{set}"));
        assert!(error.to_string().contains(part), "{set}: {error}");
    }
}

#[test]
fn shipped_recipes_on_generated_data_open() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/nystromformer");
    let (_, device) = devices().remove(0);
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let recipe = Recipe::load(&file, &[]).unwrap();
        if !["listops", "pathfinder"].contains(&recipe.data["task"].as_str().unwrap_or("listops")) {
            continue;
        }
        // Fewer sequences: this is about the recipe, not the generator's speed.
        let sets = ["data.train=20", "data.valid=4", "data.test=4"].map(str::to_owned);
        let recipe = Recipe::load(&file, &sets).unwrap();
        let name = file.display();
        LraExperiment::<LraClassifier>::open(&recipe, &device)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        seen += 1;
    }
    assert!(seen >= 5);
}
