//! Tests of the workspace as a whole: golden parity, the command line end to end, every shipped recipe, every command of the
//! README. What they share is here.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in a folder of the workspace")
}

/// The program under test, which cargo puts into the folder above that of the test executables.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own executable");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps");
    let program = profile.join(format!("xtask{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} is missing; these tests need the program: run `cargo test --workspace`, or `cargo build -p xtask` first",
        program.display()
    );
    program
}

/// The program with a command line, in a folder, with one thread and without colours.
pub fn command(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(words)
        .args(["--threads", "1"])
        .current_dir(dir);
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn xtask(dir: &Path, words: &[&str]) -> Output {
    let output = command(dir, words).output();
    output.expect("the program starts")
}

/// Runs the program and expects success; gives stdout.
pub fn succeed(dir: &Path, words: &[&str]) -> String {
    let output = xtask(dir, words);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{words:?} failed:\n{stdout}\n{stderr}"
    );
    stdout
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A recipe so small that a step takes milliseconds: two layers of two heads over an excerpt of the embedded book, `text.txt`.
pub fn tiny() -> Value {
    json!({
        "architecture": "adaptive-span",
        "about": "A test.",
        "seed": 3,
        "model": {
            "hidden_size": 16, "inner_hidden_size": 32, "nb_layers": 2, "nb_heads": 2, "attn_span": 32,
            "adapt_span_ramp": 4, "adapt_span_loss": 1e-5, "dropout": 0.1
        },
        "data": { "path": "text.txt", "all_bytes": true },
        "training": {
            "steps": 40, "batch_size": 4, "block_size": 16, "batch_split": 2,
            "optimizer": { "name": "adagrad-grad-clip", "lr": 0.07, "grad_clip": 0.03 },
            "schedule": { "name": "constant", "warmup": 10 },
            "clock": { "log_every": 5, "evaluate_every": 10, "keep_checkpoints": 10 }
        },
        "evaluation": { "batch_size": 4, "prompt": "the ", "sample": { "length": 8 } }
    })
}

/// Writes `tiny.json` and its text into a folder, after `change` had its way with the recipe.
pub fn write_tiny(dir: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let book = datasets::embedded::open("moby-dick").expect("it is embedded");
    fs::write(dir.join("text.txt"), &book[30_000..50_000]).expect("the text is written");
    let mut recipe = tiny();
    change(&mut recipe);
    let path = dir.join("tiny.json");
    fs::write(&path, recipe.to_string()).expect("the recipe is written");
    path
}

/// The model's configuration of a golden case, as a `config.json` would hold it: without the keys that belong to the harness, and
/// under our spelling.
pub fn golden_config(case: &Path) -> Value {
    let case: Value = pretrained::read_json(case).expect("a case");
    let mut config = case["config"].clone();
    let keys = config.as_object_mut().expect("a case has a configuration");
    for key in ["batch", "steps", "block_size", "spans", "optimizer", "lr"] {
        keys.remove(key);
    }
    if let Some(enabled) = keys.remove("adapt_span") {
        keys.insert("adapt_span_enabled".to_owned(), enabled);
    }
    config
}
