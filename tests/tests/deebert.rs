//! A published folder of early exits through the commands: recognised, run with and without a threshold, converted, asked.

use burn::tensor::TensorData;
use burn_formers_tests::{root, succeed, text, xtask};
use pretrained::{NamedTensors, read_tensors, write_safetensors};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A golden case as the folder that the published code would have written, with its inputs beside it; gives the case's tensors.
fn published(dir: &Path, case: &str) -> NamedTensors {
    let case = root().join("tests/golden/deebert").join(case);
    let tensors = read_tensors(&case.with_extension("safetensors")).expect("a case");
    let json: Value = pretrained::read_json(&case.with_extension("json")).expect("a case");
    let mut config = json["config"].clone();
    // Files of 2019 do not say what they are.
    let keys = config.as_object_mut().expect("a configuration");
    keys.shift_remove("model_type");
    let part = |prefix: &str| -> NamedTensors {
        let all = tensors.iter();
        let own = all.filter_map(|(n, d)| Some((n.strip_prefix(prefix)?.to_owned(), d.clone())));
        own.filter(|(n, _)| n != "labels" && n != "thresholds")
            .collect()
    };
    fs::create_dir(dir.join("model")).expect("a folder");
    fs::write(dir.join("model/config.json"), config.to_string()).expect("written");
    write_safetensors(&dir.join("model/model.safetensors"), &part("weights.")).expect("written");
    write_safetensors(&dir.join("inputs.safetensors"), &part("input.")).expect("written");
    tensors
}

fn forward(dir: &Path, model: &str, more: &[&str]) -> NamedTensors {
    let mut words = vec![
        "forward",
        model,
        "--inputs",
        "inputs.safetensors",
        "--out",
        "out.safetensors",
    ];
    words.extend(more);
    succeed(dir, &words);
    read_tensors(&dir.join("out.safetensors")).expect("outputs")
}

#[track_caller]
fn close(name: &str, found: &TensorData, expected: impl Iterator<Item = f32>) {
    let expected: Vec<f32> = expected.collect();
    assert_eq!(found.num_elements(), expected.len(), "{name}");
    for (a, b) in found.iter::<f32>().zip(expected) {
        assert!((a - b).abs() <= 1e-4, "{name}: {a} {b}");
    }
}

#[test]
fn a_published_folder_leaves_where_the_published_numbers_say() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let case = published(dir, "mnli_exit");
    let seen = forward(dir, "model", &[]);
    close(
        "logits",
        &seen["logits"],
        case["output.final_logits"].iter(),
    );
    close(
        "highway_logits",
        &seen["highway_logits"],
        case["output.highway_logits"].iter(),
    );
    assert!(!seen.contains_key("exit_layer"));

    let layers: Vec<i64> = case["output.exit_layer"].iter().collect();
    let samples = layers.len() / case["input.thresholds"].num_elements();
    for (t, threshold) in case["input.thresholds"].iter::<f32>().enumerate() {
        let early = forward(dir, "model", &["--threshold", &threshold.to_string()]);
        let found: Vec<i64> = early["exit_layer"].iter().collect();
        assert_eq!(found, layers[t * samples..(t + 1) * samples], "{threshold}");
        let logits = case["output.exit_logits"].iter::<f32>();
        let size = 3 * samples;
        close(
            "exit_logits",
            &early["exit_logits"],
            logits.skip(t * size).take(size),
        );
    }
    let one_each = forward(dir, "model", &["--threshold", "0,0,9,0,0,0"]);
    assert!(one_each["exit_layer"].iter::<i64>().all(|layer| layer == 3));

    succeed(dir, &["convert", "model", "--out", "converted"]);
    let again = forward(dir, "converted", &[]);
    assert_eq!(again["logits"], seen["logits"]);
    assert_eq!(again["highway_logits"], seen["highway_logits"]);
}

#[test]
fn what_cannot_be_done_with_a_folder_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    published(dir, "bert_exit");
    let fails = |words: &[&str], part: &str| {
        let output = xtask(dir, words);
        let said = text(&output.stderr);
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{words:?}: {said}"
        );
        assert!(said.contains(part), "{words:?}: {said} does not say {part}");
    };
    let forward = |more: &[&'static str]| {
        let mut words = vec![
            "forward",
            "model",
            "--inputs",
            "inputs.safetensors",
            "--out",
            "o.safetensors",
        ];
        words.extend(more);
        words
    };
    fails(&forward(&["--threshold", "0.1,0.2"]), "a list of 2");
    fails(&forward(&["--threshold", "NaN"]), "NaN");
    fails(&forward(&["--threshold", "much"]), "--threshold");
    fs::write(dir.join("texts.json"), "\"a text\"").expect("written");
    fails(&["predict", "model", "--input", "texts.json"], "tokenizer");
    // Without off-ramps it is an ordinary classifier, which has no exits.
    let file = dir.join("model/model.safetensors");
    let mut plain = read_tensors(&file).expect("weights");
    plain.retain(|name, _| !name.contains("highway"));
    write_safetensors(&file, &plain).expect("written");
    fails(&forward(&["--threshold", "0.1"]), "thresholds");
}
