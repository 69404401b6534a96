//! Model folders of Python's transformers: they load here to the same numbers, and what is written here loads there.
//!
//! Needs a Python with torch, transformers and safetensors: the one that BURN_FORMERS_PYTHON names, else `python3`. Where there
//! is none the test says so and checks nothing.

use burn_formers_tests::{root, succeed, text};
use pretrained::{NamedTensors, read_tensors};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How far a number may be from Python's.
const TOLERANCE: f32 = 1e-4;

struct Python {
    program: String,
}

impl Python {
    /// The Python to use, or why there is none.
    fn find() -> Result<Self, String> {
        let program = std::env::var("BURN_FORMERS_PYTHON").unwrap_or_else(|_| "python3".into());
        let probe = Command::new(&program)
            .args(["-c", "import torch, transformers, safetensors"])
            .output();
        match probe {
            Ok(output) if output.status.success() => Ok(Self { program }),
            Ok(output) => {
                let message = text(&output.stderr);
                let last = message.lines().last().unwrap_or("no message").to_owned();
                Err(format!("{program} cannot import what is needed: {last}"))
            }
            Err(error) => Err(format!("{program} does not start: {error}")),
        }
    }

    fn run(&self, words: &[&str]) -> String {
        let script = root().join("tests/python/round_trip.py");
        let output: Output = Command::new(&self.program)
            .arg(script)
            .args(words)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .expect("Python starts");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}:\n{stdout}\n{stderr}");
        stdout
    }
}

fn word(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn json_of(path: &Path) -> Value {
    pretrained::read_json(path).expect("JSON")
}

/// Every difference of two sets of tensors.
fn differences(expected: &NamedTensors, found: &NamedTensors) -> Vec<String> {
    let names = |all: &NamedTensors| all.keys().cloned().collect::<Vec<_>>();
    if names(expected) != names(found) {
        return vec![format!(
            "outputs {:?} instead of {:?}",
            names(found),
            names(expected)
        )];
    }
    let mut all = vec![];
    for (name, expected) in expected {
        let found = &found[name];
        if expected.shape() != found.shape() {
            all.push(format!(
                "{name} is of shape {:?}, not {:?}",
                found.shape(),
                expected.shape()
            ));
            continue;
        }
        let pairs = expected.iter::<f32>().zip(found.iter::<f32>());
        let worst = pairs.fold(0.0, |worst: f32, (a, b)| match (a - b).abs() {
            off if off.is_nan() => f32::INFINITY,
            off => worst.max(off),
        });
        if worst > TOLERANCE {
            all.push(format!("{name} differs by {worst}"));
        }
    }
    all
}

/// A folder with a tokenizer: the same probabilities from text.
fn texts(dir: &Path) -> Vec<String> {
    let model = dir.join("model");
    let mut all = vec![];
    let expected = json_of(&dir.join("texts.json"));
    let list = expected.as_array().expect("a list");
    let inputs: Vec<String> = list
        .iter()
        .map(|t| json!({ "text": t["text"], "text_pair": t["text_pair"] }).to_string())
        .collect();
    let file = dir.join("inputs.jsonl");
    fs::write(&file, inputs.join("\n")).expect("written");
    let answers = succeed(root(), &["predict", word(&model), "--input", word(&file)]);
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect();
    assert_eq!(answers.len(), list.len());
    for (expected, answer) in list.iter().zip(&answers) {
        let scores = answer["scores"].as_object().expect("scores by label");
        let wanted = expected["scores"].as_array().expect("numbers");
        let pairs = scores.values().zip(wanted);
        let off = pairs.fold(0.0, |off: f64, (a, b)| {
            off.max((a.as_f64().unwrap_or(9.0) - b.as_f64().unwrap_or(0.0)).abs())
        });
        if scores.len() != wanted.len() || off > f64::from(TOLERANCE) {
            all.push(format!(
                "{} gives {scores:?}, not {wanted:?}",
                expected["text"]
            ));
        }
    }
    all
}

#[test]
fn folders_of_python_load_here_and_folders_of_ours_load_there() {
    let python = match Python::find() {
        Ok(python) => python,
        Err(reason) => {
            eprintln!(
                "skipped: {reason}; name a Python with torch, transformers and safetensors in BURN_FORMERS_PYTHON"
            );
            return;
        }
    };
    let dir = tempfile::tempdir().expect("a folder");
    let made = python.run(&["make", word(dir.path())]);
    eprintln!("{}", made.trim());
    let mut folders: Vec<PathBuf> = fs::read_dir(dir.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.sort();
    assert!(
        folders.len() > 130,
        "only {} cases were made",
        folders.len()
    );

    let mut misses = vec![];
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let (model, converted) = (folder.join("model"), folder.join("converted"));
        let mut convert = vec!["convert", word(&model), "--out", word(&converted)];
        if folder.join("texts.json").is_file() {
            misses.extend(texts(folder).iter().map(|miss| format!("{name}: {miss}")));
            succeed(root(), &convert);
            continue;
        }
        let case = json_of(&folder.join("case.json"));
        let [inputs, out, expected] =
            ["inputs", "out", "expected"].map(|f| folder.join(format!("{f}.safetensors")));
        let mut forward = vec!["forward", word(&model), "--inputs", word(&inputs)];
        forward.extend(["--out", word(&out)]);
        if let Some(head) = case["head"].as_str() {
            forward.extend(["--head", head]);
            convert.extend(["--head", head]);
        }
        succeed(root(), &forward);
        let [expected, found] = [expected, out].map(|f| read_tensors(&f).expect("tensors"));
        let wrong = differences(&expected, &found);
        misses.extend(wrong.iter().map(|miss| format!("{name}: {miss}")));
        succeed(root(), &convert);
    }
    assert!(misses.is_empty(), "{misses:#?}");

    let checked = python.run(&["check", word(dir.path())]);
    assert!(!checked.contains("MISS"), "{checked}");
    let all = format!("{} agree", folders.len());
    assert!(checked.contains(&all), "expected {all}: {checked}");
}
