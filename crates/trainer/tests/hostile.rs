//! Mutated recipes and checkpoints: an error or a value, never a panic.

mod common;

use common::*;
use core_attn::random::Key;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use trainer::*;

/// Puts odd values and keys at random places of a JSON value.
fn mutated(value: &Value, key: Key, counter: &mut u64) -> Value {
    *counter += 1;
    let odd = [
        json!(null),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e308),
        json!(-0.5),
        json!("x"),
        json!(true),
        json!([]),
        json!([0.9]),
        json!({}),
        json!({ "name": "cosine" }),
    ];
    if key.site("replace").uniform(*counter) < 0.06 {
        return odd[key.site("odd").below(*counter, odd.len())].clone();
    }
    match value {
        Value::Object(map) => {
            let mut entries = serde_json::Map::new();
            for (name, part) in map {
                let part = mutated(part, key, counter);
                match key.site("key").below(*counter, 40) {
                    0 => {}
                    1 => drop(entries.insert(format!("{name}s"), part)),
                    _ => drop(entries.insert(name.clone(), part)),
                }
            }
            Value::Object(entries)
        }
        Value::Array(items) => items
            .iter()
            .map(|item| mutated(item, key, counter))
            .collect(),
        other => other.clone(),
    }
}

#[test]
fn mutated_recipes_are_read_or_refused() {
    let recipe = recipe(
        12,
        json!({ "log_every": 4, "evaluate_every": 6, "early_stopping": { "patience": 3, "min_delta": 0.1 } }),
    );
    let (mut refused, mut opened) = (0, 0);
    for round in 0..3000 {
        let value = mutated(&recipe.resolved(), Key::new(1).fold(round), &mut 0);
        let open = || {
            let recipe = Recipe::from_value(value.clone(), Path::new("mutated.json"), &[])?;
            let clock = recipe.clock()?;
            let toy = Toy::open(&recipe, &devices()[0])?;
            Ok::<_, Error>((clock, toy.stages().len()))
        };
        match open() {
            Ok(_) => opened += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(
        refused > 300 && opened > 300,
        "{refused} refused, {opened} opened"
    );
}

#[test]
fn mutated_schedules_give_numbers() {
    let schedules = [
        json!({ "name": "constant", "warmup": 3, "warmup_from": 0.1, "from_zero": true }),
        json!({ "name": "linear", "warmup": 3, "steps": 9, "end_lr": 0.1 }),
        json!({ "name": "polynomial", "warmup": 3, "steps": 9, "power": 0.5 }),
        json!({ "name": "inverse-sqrt", "warmup": 3, "min_lr": 0.1 }),
        json!({ "name": "noam", "warmup": 3, "hidden_size": 8 }),
        json!({ "name": "step", "milestones": [1, 5], "gamma": 0.1 }),
    ];
    let mut read = 0;
    for round in 0..4000 {
        let value = mutated(
            &schedules[round as usize % 6],
            Key::new(2).fold(round),
            &mut 0,
        );
        let Ok(schedule) = serde_json::from_value::<Schedule>(value.clone()) else {
            continue;
        };
        if schedule.validate("schedule").is_err() {
            continue;
        }
        read += 1;
        for update in [0, 1, 2, 3, 9, 10, u64::MAX] {
            let lr = schedule.lr(0.5, update);
            assert!(lr >= 0.0, "{value} at {update}: {lr}");
        }
    }
    assert!(read > 1000, "{read}");
}

#[test]
fn a_checkpoint_with_any_byte_changed_is_recognised() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let recipe = recipe(12, clock());
    train(&run, &recipe, &devices()[0], &[]).expect("a run");
    let checkpoint = run.join("checkpoints/step-12");
    let files: Vec<_> = fs::read_dir(&checkpoint)
        .expect("a checkpoint")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let key = Key::new(3);
    for (index, file) in (0..400).zip(files.iter().cycle()) {
        let whole = fs::read(file).expect("a file");
        let mut bytes = whole.clone();
        let at = key.site("at").below(index, bytes.len());
        match index % 3 {
            0 => bytes.truncate(at),
            _ => bytes[at] ^= 1 << key.site("bit").below(index, 8),
        }
        fs::write(file, &bytes).expect("damage is done");
        let opened = CheckpointReader::open(&checkpoint);
        let manifest = file.ends_with("manifest.json");
        // A manifest may change in its blanks only, and then it says what it said before.
        assert!(opened.is_err() || manifest, "{} byte {at}", file.display());
        if let Ok(reader) = opened {
            let mut toy = Toy::open(&recipe, &devices()[0]).expect("an experiment");
            let _ = toy.restore(&reader);
        }
        fs::write(file, &whole).expect("repaired");
    }
    CheckpointReader::open(&checkpoint).expect("whole again");
}
