//! A run that was stopped and resumed equals one that was not, bit for bit.

mod common;

use common::*;
use core_attn::random::Key;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use trainer::*;

#[test]
fn half_a_run_and_a_resume_equal_a_whole_run() {
    for device in devices() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
        let recipe = recipe(40, clock());
        train(&whole, &recipe, &device, &[]).expect("a whole run");
        let error = train(&parts, &recipe, &device, &[Fault::DieInStep(20)]);
        assert_eq!(error.expect_err("it dies").to_string(), DEATH);
        let outcome = train(&parts, &recipe, &device, &[]).expect("the rest of the run");
        assert_eq!(outcome.steps, 40);
        assert_eq!(traces(&whole), traces(&parts));
    }
}

#[test]
fn a_run_that_is_stopped_anywhere_in_any_way_goes_on_as_if_it_had_not() {
    let faults: [fn(u64) -> Fault; 5] = [
        Fault::DieInStep,
        Fault::DieInSave,
        Fault::DieInEvaluation,
        Fault::Cancel,
        Fault::CancelInEvaluation,
    ];
    let device = &devices()[0];
    let dir = tempfile::tempdir().expect("a temporary folder");
    for round in 0..8u64 {
        let mut clock = clock();
        clock["finish_with"] = json!(["last", "best"][round as usize % 2]);
        let recipe = recipe(40, clock);
        let whole = dir.path().join(format!("whole-{round}"));
        train(&whole, &recipe, device, &[]).expect("a whole run");
        let parts = dir.path().join(format!("parts-{round}"));
        let key = Key::new(11).fold(round);
        for index in 0..9 {
            let fault = faults[key.site("kind").below(index, faults.len())];
            let at = 4 * index + key.site("at").below(index, 4) as u64;
            // Not every fault strikes: a checkpoint may not be due. Then the process dies two steps later.
            let faults = [fault(at), Fault::DieInStep(at + 2)];
            train(&parts, &recipe, device, &faults).expect_err("it stops");
        }
        train(&parts, &recipe, device, &[]).expect("the rest of the run");
        assert_eq!(traces(&whole), traces(&parts), "round {round}");
    }
}

#[test]
fn every_step_is_a_good_moment_to_press_ctrl_c() {
    let device = &devices()[0];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let recipe = recipe(12, clock());
    train(&whole, &recipe, device, &[]).expect("a whole run");
    for step in 0..12 {
        let error = train(&parts, &recipe, device, &[Fault::Cancel(step)]);
        let Err(Error::Cancelled {
            checkpoint: Some(checkpoint),
        }) = error
        else {
            panic!("step {step}: {error:?}");
        };
        assert_eq!(
            checkpoint,
            parts.join(format!("checkpoints/step-{}", step + 1))
        );
    }
    train(&parts, &recipe, device, &[]).expect("the rest of the run");
    assert_eq!(traces(&whole), traces(&parts));
}

#[test]
fn a_finished_run_can_be_resumed_and_lengthened() {
    let device = &devices()[0];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let short = recipe(20, json!({ "log_every": 5, "finish_with": "last" }));
    let first = train(&run, &short, device, &[]).expect("a run");
    let again = train(&run, &short, device, &[]).expect("nothing is left to do");
    assert_eq!((first.steps, &first.test), (20, &again.test));
    // The first stage keeps its 5 steps only if the total allows it: the stages of 24 are 6 and 18.
    let long = recipe(24, json!({ "log_every": 5, "finish_with": "last" }));
    let more = train(&run, &long, device, &[]).expect("four steps more");
    assert!(more.steps > 20, "{more:?}");
}

/// Runs only in the child process that the test below starts.
#[test]
fn child() {
    struct Speaks;
    impl Observer for Speaks {
        fn step(&mut self, progress: &Progress) {
            println!("step {}", progress.global);
        }
    }
    let Ok(dir) = std::env::var("TRAINER_TEST_DIR") else {
        return;
    };
    let (dir, recipe) = (Path::new(&dir), recipe(60, clock()));
    let mut toy = Toy::open(&recipe, &devices()[0]).expect("an experiment");
    let run = match dir.exists() {
        true => Run::resume(dir, &recipe),
        false => Run::create(dir, &recipe),
    };
    let options = Options {
        observer: Box::new(Speaks),
        ..Options::default()
    };
    run.and_then(|run| run.train(&mut toy, options))
        .expect("the run ends well");
}

#[test]
fn a_killed_process_leaves_a_run_that_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    train(&whole, &recipe(60, clock()), &devices()[0], &[]).expect("a whole run");
    let this = std::env::current_exe().expect("the test program");
    let start = || {
        Command::new(&this)
            .args(["--exact", "child", "--nocapture"])
            .env("TRAINER_TEST_DIR", &killed)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child process")
    };
    for step in [3, 5, 17, 31, 48] {
        let mut child = start();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut lines = output.lines().map_while(std::result::Result::ok);
        // The child is wherever it is when the kill arrives: in a step, a checkpoint, an evaluation.
        let reached = lines.any(|line| line.ends_with(&format!("step {step}")));
        child.kill().expect("killed");
        child.wait().expect("dead");
        assert!(reached, "step {step} was reached");
    }
    assert!(
        start()
            .wait_with_output()
            .expect("it ends")
            .status
            .success()
    );
    assert_eq!(traces(&whole), traces(&killed));
}
