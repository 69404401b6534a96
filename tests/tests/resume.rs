//! A run that is killed and resumed equals one that was not, and a kill at any moment leaves a run that goes on.

use burn_formers_tests::{command, succeed, text, write_tiny};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Kills at random moments.
const KILLS: u64 = 20;
/// Longer than any of these runs takes.
const PATIENCE: Duration = Duration::from_secs(120);

fn spawn(dir: &Path, words: &[&str]) -> Child {
    let mut command = command(dir, words);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// Kills the program as `kill -9` does.
fn kill(mut child: Child) -> bool {
    let killed = child.kill().is_ok();
    let status = child.wait().expect("it ends");
    killed && !status.success()
}

/// The files of a checkpoint with their bytes. Times differ between two runs, so those of the runner's state are left out, and the
/// lengths of files that hold times, and the digest of that state.
fn checkpoint(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let mut bytes = fs::read(&path).expect("a file");
        if name == "run.json" || name == "manifest.json" {
            let mut value: Value = serde_json::from_slice(&bytes).expect("JSON");
            for key in ["seconds", "training_seconds", "metrics_length", "events"] {
                value.as_object_mut().expect("an object").remove(key);
            }
            if let Some(files) = value.get_mut("files").and_then(Value::as_object_mut) {
                files.remove("run.json");
            }
            bytes = value.to_string().into_bytes();
        }
        files.push((name, bytes));
    }
    files.sort();
    files
}

/// The lines of `metrics.jsonl` that hold no times.
fn metrics(run: &Path) -> Vec<String> {
    let all = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let lines = all
        .lines()
        .filter(|line| !line.contains(r#""kind":"time""#));
    lines.map(str::to_owned).collect()
}

fn assert_equal_runs(a: &Path, b: &Path, step: u64) {
    let name = format!("checkpoints/step-{step}");
    let (x, y) = (checkpoint(&a.join(&name)), checkpoint(&b.join(&name)));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&x), names(&y));
    assert!(x.len() >= 4, "a checkpoint has more than {} files", x.len());
    for ((name, x), (_, y)) in x.iter().zip(&y) {
        assert!(x == y, "{name} of step {step} differs");
    }
    assert_eq!(metrics(a), metrics(b));
    let model = |run: &Path| fs::read(run.join("model/model.safetensors")).expect("a model");
    assert!(model(a) == model(b), "the exported weights differ");
}

#[test]
fn forty_steps_equal_twenty_a_kill_and_a_resume() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    // Steps long enough to be hit between two checkpoints.
    write_tiny(dir, |recipe| {
        recipe["model"]["hidden_size"] = 64.into();
        recipe["training"]["batch_size"] = 16.into();
        recipe["training"]["block_size"] = 64.into();
        recipe["training"]["clock"]["evaluate_every"] = 20.into();
        recipe["evaluation"]["block_size"] = 16.into();
    });
    succeed(dir, &["train", "tiny.json", "--out", "whole"]);
    let child = spawn(dir, &["train", "tiny.json", "--out", "cut"]);
    let start = Instant::now();
    while !dir.join("cut/checkpoints/step-20").is_dir() {
        assert!(start.elapsed() < PATIENCE, "no checkpoint after 20 steps");
        sleep(Duration::from_millis(1));
    }
    assert!(kill(child), "the run had ended before it was killed");
    assert!(
        !dir.join("cut/checkpoints/step-40").exists(),
        "the kill came too late to test anything"
    );
    succeed(dir, &["train", "--resume", "cut"]);
    assert_equal_runs(&dir.join("whole"), &dir.join("cut"), 20);
    assert_equal_runs(&dir.join("whole"), &dir.join("cut"), 40);
}

#[test]
fn a_kill_at_any_moment_leaves_a_run_that_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| {
        recipe["training"]["clock"]["evaluate_every"] = 4.into();
        recipe["training"]["clock"]["keep_checkpoints"] = 2.into();
        recipe["evaluation"]["valid_blocks"] = 2.into();
    });
    let start = Instant::now();
    succeed(dir, &["train", "tiny.json", "--out", "whole"]);
    let whole = start.elapsed();
    let mut killed = 0;
    for n in 0..KILLS {
        // Spread over the run, at moments that have nothing to do with its steps.
        let share = core_attn::random::Key::new(2).uniform(n);
        let words = match dir.join("cut").exists() {
            true => ["train", "tiny.json", "--resume", "cut"],
            false => ["train", "tiny.json", "--out", "cut"],
        };
        let child = spawn(dir, &words);
        sleep(whole.mul_f64(share));
        killed += u64::from(kill(child));
    }
    assert!(killed > 0, "no run was hit");
    if !dir.join("cut").exists() {
        fs::create_dir(dir.join("cut")).expect("a folder");
        fs::write(dir.join("cut/lock"), "").expect("a lock");
    }
    succeed(dir, &["train", "tiny.json", "--resume", "cut"]);
    assert_equal_runs(&dir.join("whole"), &dir.join("cut"), 40);
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_a_checkpoint_and_exits_with_130() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| recipe["training"]["steps"] = 100_000.into());
    let child = spawn(dir, &["train", "tiny.json", "--out", "run"]);
    let start = Instant::now();
    while !dir.join("run/checkpoints/step-10").is_dir() {
        assert!(start.elapsed() < PATIENCE, "no checkpoint after 10 steps");
        sleep(Duration::from_millis(1));
    }
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: a signal to a child that has not been waited for; no memory is shared with it.
    let sent = unsafe { libc::kill(pid, libc::SIGINT) };
    assert_eq!(sent, 0);
    let output = child.wait_with_output().expect("it ends");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("checkpoints/step-"), "{stderr}");
    assert!(stderr.contains("--resume run"), "{stderr}");
    let more = |steps: u64| format!("training.steps={steps}");
    let last = fs::read_dir(dir.join("run/checkpoints")).expect("checkpoints");
    let steps = last.filter_map(|entry| {
        let name = entry.expect("an entry").file_name().into_string().ok()?;
        name.strip_prefix("step-")?.parse::<u64>().ok()
    });
    let last = steps.max().expect("a checkpoint");
    succeed(dir, &["train", "--resume", "run", "--set", &more(last + 2)]);
}

#[test]
fn a_folder_in_use_is_refused_and_the_run_in_it_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write_tiny(dir, |recipe| recipe["training"]["steps"] = 100_000.into());
    let child = spawn(dir, &["train", "tiny.json", "--out", "run"]);
    let start = Instant::now();
    while !dir.join("run/checkpoints/step-10").is_dir() {
        assert!(start.elapsed() < PATIENCE, "no checkpoint after 10 steps");
        sleep(Duration::from_millis(1));
    }
    for words in [
        ["train", "tiny.json", "--out", "run"],
        ["train", "tiny.json", "--resume", "run"],
    ] {
        let output = command(dir, &words).output().expect("it starts");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("is in use by another process"), "{stderr}");
    }
    assert!(kill(child), "the run ended by itself");
    assert!(dir.join("run/checkpoints/step-10").is_dir() || dir.join("run/best").is_file());
}
