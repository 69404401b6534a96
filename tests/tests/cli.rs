//! The commands end to end, on a model that trains in a second.

use burn_formers_tests::{golden_config, root, succeed, text, write_tiny, xtask};
use pretrained::{NamedTensors, read_tensors, write_safetensors};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn train(dir: &Path) -> Value {
    write_tiny(dir, |recipe| {
        recipe["training"]["steps"] = 12.into();
        recipe["expected"] = serde_json::json!({ "test.bits_per_byte": 7.0 });
    });
    json(&succeed(
        dir,
        &["train", "tiny.json", "--out", "run", "--json"],
    ))
}

#[test]
fn a_run_leaves_what_it_promises_and_every_command_reads_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let outcome = train(dir);
    let measured = outcome["test"]["bits_per_byte"].as_f64().expect("a result");
    assert!(measured > 1.0 && measured < 9.0, "{measured}");
    for file in [
        "recipe.json",
        "environment.json",
        "metrics.jsonl",
        "results.json",
        "report.html",
        "log.txt",
        "best",
        "model/config.json",
        "model/model.safetensors",
        "model/vocab.json",
    ] {
        assert!(dir.join("run").join(file).is_file(), "{file} is missing");
    }
    // The finished run says the same again, and shows it for people.
    let shown = succeed(dir, &["train", "--resume", "run"]);
    for part in [
        "test bits_per_byte",
        "7.0000",
        "order-0",
        "head 1",
        "ms per step",
        "report.html",
    ] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let of_run = json(&succeed(dir, &["eval", "run", "--json"]));
    assert_eq!(of_run["metrics"]["bits_per_byte"].as_f64(), Some(measured));
    let words = ["eval", "run/model", "--recipe", "tiny.json", "--json"];
    let of_model = json(&succeed(dir, &words));
    assert_eq!(
        of_model["metrics"]["bits_per_byte"].as_f64(),
        Some(measured)
    );
    let valid = succeed(
        dir,
        &["eval", "run", "--split", "valid", "--checkpoint", "latest"],
    );
    assert!(valid.contains("valid bits_per_byte"), "{valid}");

    fs::remove_file(dir.join("run/report.html")).expect("removed");
    succeed(dir, &["report", "run"]);
    assert!(dir.join("run/report.html").is_file());

    succeed(
        dir,
        &["train", "tiny.json", "--out", "other", "--set", "seed=4"],
    );
    let table = succeed(dir, &["compare", "run", "other", "--csv", "table.csv"]);
    assert!(
        table.contains("bits_per_byte") && table.contains("other"),
        "{table}"
    );
    let csv = fs::read_to_string(dir.join("table.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 3, "{csv}");

    for (path, part) in [
        ("run", "best checkpoint"),
        ("run/model", "adaptive-span"),
        ("run/model/model.safetensors", "current_val"),
        ("run/checkpoints/step-12", "every file is whole"),
    ] {
        let shown = succeed(dir, &["inspect", path]);
        assert!(shown.contains(part), "{path}: {shown}");
        json(&succeed(dir, &["inspect", path, "--json"]));
    }
}

#[test]
fn tokens_are_scored_in_windows_and_written_one_a_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    train(dir);
    let words = |stride: &'static str| {
        [
            "eval",
            "run",
            "--json",
            "--stride",
            stride,
            "--window",
            "24",
            "--tokens",
            "tokens.jsonl",
        ]
    };
    let scored = json(&succeed(dir, &words("7")));
    let lines = fs::read_to_string(dir.join("tokens.jsonl")).expect("written");
    let lines: Vec<Value> = lines.lines().map(json).collect();
    assert_eq!(
        scored["metrics"]["tokens_scored"].as_f64(),
        Some(lines.len() as f64)
    );
    let sum: f64 = lines.iter().filter_map(|l| l["logprob"].as_f64()).sum();
    let bits = -sum / lines.len() as f64 / std::f64::consts::LN_2;
    let shown = scored["metrics"]["bits_per_byte"]
        .as_f64()
        .expect("a result");
    assert!((bits - shown).abs() < 1e-6, "{bits} {shown}");
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["position"].as_u64(), Some(i as u64 + 1));
        assert!(line["logprob"].as_f64().is_some_and(|l| l <= 0.0) && line["token"].is_string());
    }
    for stride in ["0", "25"] {
        let output = xtask(dir, &words(stride));
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains("the stride") && message.contains("24"),
            "{message}"
        );
    }
    let output = xtask(dir, &["eval", "run", "--window", "24"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("a stride beside it"));
}

#[test]
fn recipes_are_trained_once_and_compared_on_a_page() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| recipe["training"]["steps"] = 12.into());
    fs::copy(dir.join("tiny.json"), dir.join("other.json")).expect("copied");
    let words = [
        "compare",
        "tiny.json",
        "other.json",
        "--runs-in",
        "all",
        "--page",
        "page.md",
    ];
    let table = succeed(dir, &words);
    for part in [
        "adaptive-span-tiny",
        "adaptive-span-other",
        "ms per token",
        "reach (tokens)",
        "bits_per_byte",
    ] {
        assert!(table.contains(part), "{part} is not in:\n{table}");
    }
    let page = fs::read_to_string(dir.join("page.md")).expect("a page");
    for part in [
        "do not edit",
        "cargo xtask compare tiny.json",
        "| adaptive-span-tiny |",
        "A test.",
    ] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    let log = fs::metadata(dir.join("all/adaptive-span-tiny/results.json")).expect("a run");
    let again = json(&succeed(
        dir,
        &[
            "compare",
            "tiny.json",
            "--runs-in",
            "all",
            "--page",
            "page.html",
            "--json",
        ],
    ));
    assert!(
        again[0]["reach"]
            .as_u64()
            .is_some_and(|reach| reach > 0 && reach <= 64)
    );
    let same = fs::metadata(dir.join("all/adaptive-span-tiny/results.json")).expect("a run");
    assert_eq!(log.modified().ok(), same.modified().ok(), "trained again");
    let page = fs::read_to_string(dir.join("page.html")).expect("a page");
    assert!(
        page.contains("<svg") && page.contains("loss in training"),
        "{page}"
    );

    write_tiny(dir, |recipe| recipe["seed"] = 5.into());
    let output = xtask(dir, &["compare", "tiny.json", "--runs-in", "all"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("another recipe"));
}

#[test]
fn texts_go_on_in_the_same_way_from_a_model_and_from_a_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    train(dir);
    let rest = [
        "--prompt",
        "the ",
        "--length",
        "20",
        "--temperature",
        "0",
        "--json",
    ];
    let words = |what: &'static str| [&["generate", what], &rest[..]].concat();
    let of_model = json(&succeed(dir, &words("run/model")));
    let continuation = of_model["continuation"].as_str().expect("a text");
    assert!(!continuation.is_empty());
    assert_eq!(json(&succeed(dir, &words("run"))), of_model);
    // An unfinished run generates from its best checkpoint.
    fs::remove_dir_all(dir.join("run/model")).expect("removed");
    assert_eq!(json(&succeed(dir, &words("run"))), of_model);
    let output = xtask(dir, &["generate", "run", "--top-p", "2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("--top-p is 2"),
        "{}",
        text(&output.stderr)
    );
    let output = xtask(dir, &["predict", "run"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_published_checkpoint_is_converted_and_gives_the_published_numbers() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let golden = root().join("tests/golden/adaptive-span");
    let config = golden_config(&golden.join("seq_adaptive_cache.json"));
    fs::write(dir.join("config.json"), config.to_string()).expect("written");
    for (file, out) in [
        ("checkpoint_zip.pt", "zip"),
        ("checkpoint_legacy.pt", "legacy"),
    ] {
        let checkpoint = golden.join(file);
        let checkpoint = checkpoint.to_str().expect("a plain path");
        let words = [
            "convert",
            checkpoint,
            "--config",
            "config.json",
            "--out",
            out,
        ];
        let shown = succeed(dir, &words);
        assert!(shown.contains("adaptive-span"), "{shown}");
    }
    let tensors = |out: &str| read_tensors(&dir.join(out)).expect("weights");
    assert_eq!(tensors("zip"), tensors("legacy"));
    let again = xtask(dir, &["convert", "zip", "--out", "zip"]);
    assert_eq!(again.status.code(), Some(2), "{}", text(&again.stderr));

    // The inputs of the golden case, under their names without the prefix.
    let all = read_tensors(&golden.join("seq_adaptive_cache.safetensors")).expect("tensors");
    let inputs = all.iter();
    let mut inputs: NamedTensors = inputs
        .filter_map(|(name, data)| Some((name.strip_prefix("input.")?.to_owned(), data.clone())))
        .collect();
    let block = burn::tensor::TensorData::from([16i64]);
    inputs.insert("block_size".to_owned(), block);
    write_safetensors(&dir.join("in.safetensors"), &inputs).expect("written");
    let words = [
        "forward",
        "zip",
        "--inputs",
        "in.safetensors",
        "--out",
        "out.safetensors",
    ];
    succeed(dir, &words);
    let outputs = read_tensors(&dir.join("out.safetensors")).expect("outputs");
    assert!(!outputs.is_empty());
    let mut compared = 0;
    for (name, found) in &outputs {
        let Some(expected) = all.get(&format!("output.{name}")) else {
            continue;
        };
        let pairs = expected.iter::<f32>().zip(found.iter::<f32>());
        let worst = pairs.map(|(e, f)| (e - f).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name} differs by {worst}");
        compared += 1;
    }
    assert_eq!(compared, 8, "{:?}", outputs.keys());
}

#[test]
fn what_there_is_can_be_listed_measured_and_made() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let list = json(&succeed(root(), &["list", "--json"]));
    assert_eq!(list["architectures"][0]["name"], "adaptive-span");
    let schema = json(&succeed(dir, &["schema", "adaptive-span"]));
    assert!(schema["properties"]["model"].is_object());
    write_tiny(dir, |_| {});
    let dry = json(&succeed(
        dir,
        &["train", "tiny.json", "--dry-run", "--json"],
    ));
    assert_eq!(dry["steps"], 40);
    assert!(dry["ms_per_step"].as_f64().is_some_and(|ms| ms > 0.0) && dry["parameters"].is_u64());
    assert!(!dir.join("runs").exists(), "a dry run leaves nothing");
    let bench = succeed(dir, &["bench", "tiny.json", "--quick", "--out", "bench.md"]);
    assert!(bench.contains("tokens per second"), "{bench}");
    let page = fs::read_to_string(dir.join("bench.md")).expect("a page");
    assert!(page.contains("| recipe |"), "{page}");

    let made = json(&succeed(
        dir,
        &[
            "data", "make", "gap", "--span", "8", "--bytes", "2000", "--json",
        ],
    ));
    assert_eq!(made["manifest"]["name"], "gap-8");
    let list = json(&succeed(dir, &["data", "list", "--json"]));
    let names: Vec<&str> = list
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|i| i["name"].as_str())
        .collect();
    assert!(
        names.contains(&"gap-8") && names.contains(&"moby-dick"),
        "{names:?}"
    );
    assert!(succeed(dir, &["data", "info", "gap-8"]).contains("span of 8"));
    // The data made is found by its name, and the first run folder is free.
    let words = [
        "train",
        "tiny.json",
        "--set",
        "data={\"name\":\"gap-8\"}",
        "--set",
        "training.steps=2",
    ];
    succeed(
        dir,
        &[
            &words[..],
            &[
                "--set",
                "evaluation.block_size=8",
                "--set",
                "evaluation.prompt=abc",
            ],
        ]
        .concat(),
    );
    assert!(dir.join("runs/adaptive-span-tiny-1/report.html").is_file());
}

#[test]
fn backends_agree_and_an_absent_one_is_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    train(dir);
    let measured = |backend: &str| {
        let found = json(&succeed(
            dir,
            &["eval", "run", "--json", "--backend", backend],
        ));
        found["metrics"]["bits_per_byte"]
            .as_f64()
            .expect("a number")
    };
    let (flex, ndarray) = (measured("flex"), measured("ndarray"));
    assert!((flex - ndarray).abs() < 1e-4, "{flex} and {ndarray}");
    if !xtask::backend::Backend::Wgpu.compiled() {
        let output = xtask(dir, &["train", "tiny.json", "--backend", "wgpu"]);
        assert_eq!(output.status.code(), Some(2));
        let expected = "cargo run -p xtask --features wgpu -- train tiny.json --backend wgpu";
        assert!(
            text(&output.stderr).contains(expected),
            "{}",
            text(&output.stderr)
        );
    }
}
