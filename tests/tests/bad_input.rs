//! Bad input: one clear error each, the right exit code, and nothing lost.

use burn_formers_tests::{golden_config, root, succeed, text, write_tiny, xtask};
use pretrained::{read_tensors, write_safetensors};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Output;

/// One error line (more only for lists of tensors), no dump, no backtrace, this exit code and these phrases.
fn assert_refused(output: &Output, code: i32, phrases: &[&str], what: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{what}: {stderr}");
    for phrase in phrases {
        assert!(
            stderr.contains(phrase),
            "{what}: `{phrase}` is not in: {stderr}"
        );
    }
    for dump in [
        "panicked",
        "RUST_BACKTRACE",
        "this is a bug",
        "Os {",
        "Error {",
    ] {
        assert!(!stderr.contains(dump), "{what}: {stderr}");
    }
    assert!(output.stdout.is_empty(), "{what}: {}", text(&output.stdout));
}

type Change = fn(&mut Value);

#[test]
fn recipes_that_are_wrong_are_refused_before_anything_is_written() {
    let table: &[(&str, Change, i32, &[&str])] = &[
        (
            "misspelt key",
            |r| r["model"]["hiden_size"] = 8.into(),
            2,
            &["model.hiden_size", "did you mean `hidden_size`?"],
        ),
        (
            "misspelt section",
            |r| r["trainig"] = json!({}),
            2,
            &["trainig", "did you mean `training`?"],
        ),
        (
            "misspelt key of training",
            |r| r["training"]["batchsize"] = 4.into(),
            2,
            &["training.batchsize", "batch_size"],
        ),
        (
            "misspelt key of the clock",
            |r| r["training"]["clock"]["log_evry"] = 4.into(),
            2,
            &["training.clock.log_evry", "log_every"],
        ),
        (
            "misspelt optimiser",
            |r| r["training"]["optimizer"]["name"] = "adagrd".into(),
            2,
            &["training.optimizer", "adagrad"],
        ),
        (
            "misspelt data key",
            |r| r["data"]["pth"] = "x".into(),
            2,
            &["data.pth", "did you mean `path`?"],
        ),
        (
            "wrong type",
            |r| r["model"]["nb_layers"] = "two".into(),
            2,
            &["model.nb_layers", "\"two\""],
        ),
        (
            "negative size",
            |r| r["model"]["nb_layers"] = (-2).into(),
            2,
            &["model.nb_layers", "-2"],
        ),
        (
            "heads that do not divide",
            |r| r["model"]["nb_heads"] = 3.into(),
            2,
            &["hidden_size", "nb_heads = 3"],
        ),
        (
            "span below 1",
            |r| r["model"]["attn_span"] = 0.into(),
            2,
            &["attn_span", "at least 1"],
        ),
        (
            "ramp below 1",
            |r| r["model"]["adapt_span_ramp"] = 0.into(),
            2,
            &["adapt_span_ramp", "at least 1"],
        ),
        (
            "initial span above 1",
            |r| r["model"]["adapt_span_init"] = 1.5.into(),
            2,
            &["adapt_span_init", "[0, 1]"],
        ),
        (
            "absurd size",
            |r| r["model"]["hidden_size"] = 1_000_000_000_000u64.into(),
            2,
            &["hidden_size"],
        ),
        (
            "no steps",
            |r| r["training"]["steps"] = 0.into(),
            2,
            &["training.steps", "at least 1"],
        ),
        (
            "split that does not divide",
            |r| r["training"]["batch_split"] = 3.into(),
            2,
            &["batch_split", "batch_size = 4"],
        ),
        (
            "batch larger than the text",
            |r| r["training"]["batch_size"] = 9000.into(),
            2,
            &["too short"],
        ),
        (
            "interval of 0",
            |r| r["training"]["clock"]["log_every"] = 0.into(),
            2,
            &["training.clock.log_every", "at least 1"],
        ),
        (
            "unknown data set",
            |r| r["data"] = json!({ "name": "moby" }),
            2,
            &["moby-dick"],
        ),
        (
            "data that is not here",
            |r| r["data"] = json!({ "name": "enwik8" }),
            2,
            &["cargo xtask data fetch enwik8"],
        ),
        (
            "text that is not there",
            |r| r["data"]["path"] = "none.txt".into(),
            2,
            &["none.txt"],
        ),
        (
            "unknown architecture",
            |r| r["architecture"] = "adaptive-spam".into(),
            2,
            &["did you mean `adaptive-span`?"],
        ),
        (
            "unknown backend",
            |r| r["backend"] = "flx".into(),
            2,
            &["did you mean `flex`?"],
        ),
        (
            "no architecture",
            |r| drop(r.as_object_mut().map(|r| r.remove("architecture"))),
            2,
            &["architecture", "missing"],
        ),
    ];
    for (what, change, code, phrases) in table {
        let dir = tempfile::tempdir().expect("a folder");
        write_tiny(dir.path(), change);
        let output = xtask(dir.path(), &["train", "tiny.json"]);
        assert_refused(&output, *code, phrases, what);
        assert!(
            !dir.path().join("runs").exists(),
            "{what}: a run folder was left"
        );
    }
}

#[test]
fn command_lines_that_are_wrong_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |_| {});
    fs::write(dir.join("broken.json"), "{ \"architecture\": ").expect("written");
    fs::create_dir(dir.join("full")).expect("a folder");
    fs::write(dir.join("full/precious.txt"), "keep").expect("written");
    let table: &[(&[&str], i32, &[&str])] = &[
        (&["train", "absent.json"], 2, &["absent.json"]),
        (&["train"], 2, &["RECIPE"]),
        (&["trian", "tiny.json"], 2, &["train"]),
        (&["train", "broken.json"], 2, &["broken.json", "line 1"]),
        (
            &["train", "tiny.json", "--set", "training.steps"],
            2,
            &["--set", "no `=`"],
        ),
        (
            &["train", "tiny.json", "--set", "training.stps=3"],
            2,
            &["training.stps", "steps"],
        ),
        (
            &["train", "tiny.json", "--backend", "cuda"],
            2,
            &["--backend", "flex"],
        ),
        (&["train", "tiny.json", "--threads", "0"], 2, &["--threads"]),
        (
            &["train", "tiny.json", "--out", "full"],
            2,
            &["full", "not empty", "--out"],
        ),
        (
            &["train", "--resume", "full"],
            2,
            &["full", "recipe.json is missing"],
        ),
        (
            &["train", "--resume", "absent"],
            2,
            &["absent", "recipe.json is missing"],
        ),
        (&["eval", "absent"], 2, &["absent"]),
        (&["eval", "full"], 2, &["--recipe"]),
        (&["report", "full"], 2, &["not a run folder"]),
        (&["compare", "full"], 2, &["not a run folder"]),
        (&["generate", "full"], 2, &["config.json is missing"]),
        (
            &["forward", "full", "--inputs", "absent", "--out", "x"],
            2,
            &["absent"],
        ),
        (&["inspect", "tiny.json"], 2, &["tiny.json"]),
        (&["inspect", "text.txt"], 2, &["not a weights file"]),
        (
            &["schema", "adaptive"],
            2,
            &["did you mean `adaptive-span`?"],
        ),
        (&["data", "info", "nothing"], 2, &["moby-dick"]),
        (
            &["data", "import", "sotu", "--from", "absent"],
            2,
            &["absent"],
        ),
        (&["data", "make", "recall", "--span", "7"], 2, &["span"]),
        (
            &["bench", "nothing"],
            2,
            &["there is no architecture `nothing`"],
        ),
    ];
    for (words, code, phrases) in table {
        let output = xtask(dir, words);
        assert_refused(&output, *code, phrases, &words.join(" "));
    }
    assert_eq!(
        fs::read_to_string(dir.join("full/precious.txt")).expect("kept"),
        "keep"
    );
    assert!(!dir.join("runs").exists());
}

#[test]
fn a_token_that_training_never_showed_is_named_with_its_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| recipe["data"] = json!({ "path": "own" }));
    fs::create_dir(dir.join("own")).expect("a folder");
    let plain = "call me ishmael. some years ago never mind how long precisely. ".repeat(40);
    for split in ["train", "valid", "test"] {
        let strange = if split == "valid" { "~" } else { "" };
        fs::write(
            dir.join(format!("own/{split}.txt")),
            format!("{plain}{strange}"),
        )
        .expect("written");
    }
    let output = xtask(dir, &["train", "tiny.json"]);
    assert_refused(
        &output,
        2,
        &["unknown token", "valid.txt", "~"],
        "unknown token",
    );
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| {
        recipe["training"]["optimizer"] = json!({ "name": "sgd", "lr": 1e30 });
        recipe["training"]["schedule"] =
            json!({ "name": "step", "milestones": [1, 2], "gamma": 1.0 });
    });
    let output = xtask(dir, &["train", "tiny.json", "--out", "run"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("became") && stderr.contains("at step"),
        "{stderr}"
    );
    assert!(stderr.contains("checkpoint"), "{stderr}");
    assert!(dir.join("run/recipe.json").is_file());
}

/// A converted model folder.
fn model(dir: &Path) {
    let golden = root().join("tests/golden/adaptive-span");
    let config = golden_config(&golden.join("seq_adaptive_cache.json"));
    fs::write(dir.join("config.json"), config.to_string()).expect("written");
    let checkpoint = golden.join("checkpoint_zip.pt");
    let checkpoint = checkpoint.to_str().expect("a plain path");
    succeed(
        dir,
        &[
            "convert",
            checkpoint,
            "--config",
            "config.json",
            "--out",
            "model",
        ],
    );
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    model(dir);
    let file = dir.join("model/model.safetensors");
    let whole = read_tensors(&file).expect("weights");
    let refused = |what: &str, phrases: &[&str]| {
        let words = [
            "generate",
            "model",
            "--architecture",
            "adaptive-span",
            "--prompt",
            "a",
        ];
        let output = xtask(dir, &words);
        assert_refused(&output, 2, phrases, what);
    };
    let mut missing = whole.clone();
    missing.remove("key_pe");
    write_safetensors(&file, &missing).expect("written");
    refused("missing tensor", &["`key_pe`", "not in the file"]);

    let mut unused = whole.clone();
    unused.insert(
        "layers.9.norm1.weight".to_owned(),
        whole["out_emb.bias"].clone(),
    );
    write_safetensors(&file, &unused).expect("written");
    refused(
        "unused tensor",
        &["`layers.9.norm1.weight`", "not part of the model"],
    );

    let mut misshapen = whole.clone();
    misshapen.insert("key_pe".to_owned(), whole["out_emb.bias"].clone());
    write_safetensors(&file, &misshapen).expect("written");
    refused("misshapen tensor", &["`key_pe`", "expected", "found"]);

    write_safetensors(&file, &whole).expect("written");
    let bytes = fs::read(&file).expect("a file");
    fs::write(&file, &bytes[..bytes.len() / 2]).expect("truncated");
    refused("truncated file", &["model.safetensors"]);
    let hostile = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    fs::write(&file, hostile).expect("written");
    refused("hostile header", &["model.safetensors"]);
    fs::write(&file, b"").expect("emptied");
    refused("empty file", &["model.safetensors", "empty"]);
}

#[test]
fn damaged_checkpoints_of_a_run_are_left_out_and_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| recipe["training"]["steps"] = 20.into());
    succeed(dir, &["train", "tiny.json", "--out", "run"]);
    let damage = |step: u64| {
        let folder = dir.join(format!("run/checkpoints/step-{step}"));
        let files = fs::read_dir(&folder).expect("a checkpoint").flatten();
        let file = files
            .map(|f| f.path())
            .find(|f| f.extension().is_some_and(|e| e == "safetensors"));
        let file = file.expect("weights");
        let mut bytes = fs::read(&file).expect("bytes");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, bytes).expect("damaged");
    };
    damage(20);
    let output = xtask(dir, &["train", "--resume", "run"]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("warning: the checkpoint step-20 is damaged"),
        "{stderr}"
    );
    assert!(stderr.contains("resumed from step 10"), "{stderr}");
    for step in [10, 20] {
        damage(step);
    }
    let output = xtask(dir, &["train", "--resume", "run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("no usable checkpoint"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn another_recipe_is_refused_on_resume() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| recipe["training"]["steps"] = 4.into());
    succeed(dir, &["train", "tiny.json", "--out", "run"]);
    let output = xtask(dir, &["train", "--resume", "run", "--set", "seed=9"]);
    assert_refused(
        &output,
        2,
        &["another recipe", "seed was 3, now 9"],
        "another seed",
    );
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_one_error() {
    use std::os::unix::fs::PermissionsExt;
    // SAFETY: asks for a number and touches nothing.
    if unsafe { libc::geteuid() } == 0 {
        println!("skipped: root can write everywhere");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |_| {});
    fs::create_dir(dir.join("closed")).expect("a folder");
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o555)).expect("closed");
    let output = xtask(dir, &["train", "tiny.json", "--out", "closed/run"]);
    assert_refused(&output, 1, &["closed/run"], "unwritable folder");
}
