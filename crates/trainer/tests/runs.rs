//! What a run keeps, when it stops, and what it says when something is wrong.

mod common;

use common::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use trainer::*;

fn steps(dir: &Path) -> Vec<u64> {
    let mut steps: Vec<u64> = fs::read_dir(dir.join("checkpoints"))
        .expect("a folder of checkpoints")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .map(|name| {
            name.strip_prefix("step-")
                .expect("no leftovers")
                .parse()
                .expect("a number")
        })
        .collect();
    steps.sort_unstable();
    steps
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    (dir, run)
}

#[test]
fn a_run_leaves_everything_its_folder_promises() {
    let (_dir, run) = folder();
    let recipe = recipe(24, clock());
    let outcome = train(&run, &recipe, &devices()[0], &[]).expect("a run");
    for file in [
        "recipe.json",
        "environment.json",
        "metrics.jsonl",
        "best",
        "log.txt",
        "model/weights.bin",
        "results.json",
        "figures.json",
        "report.html",
        "plots/error-valid.svg",
        "plots/loss-train.svg",
        "artefacts/found.txt",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    assert!(!run.join(".new-model").exists());
    let reader = RunReader::open(&run).expect("a run folder");
    assert_eq!(reader.results.as_ref(), Some(&outcome));
    assert_eq!(reader.recipe.resolved(), recipe.resolved());
    assert_eq!(outcome.stages.len(), 2);
    assert_eq!((outcome.stages[0].steps, outcome.stages[1].steps), (6, 18));
    let evaluated = reader.series(Kind::Evaluation, Some(Split::Valid), "error");
    let at: Vec<f64> = evaluated.iter().map(|point| point.0).collect();
    assert_eq!(
        at,
        [6.0, 12.0, 18.0, 24.0],
        "every sixth step of each stage"
    );
    let test = reader.series(Kind::Evaluation, Some(Split::Test), "error");
    assert_eq!(test, [(24.0, outcome.test.get("error").expect("a result"))]);
    let rates = reader.series(Kind::Time, None, "rows_per_second");
    assert!(!rates.is_empty() && rates.iter().all(|rate| rate.1 > 0.0));
    assert_eq!(outcome.parameters, Some(15));
    let report = fs::read_to_string(run.join("report.html")).expect("a report");
    for part in [
        "<svg",
        "guessing",
        "7.2500",
        "1.5000",
        "&lt;call me Ishmael&gt;",
        "memory &lt;at the end&gt;",
        "b &amp; c",
        "prefers-color-scheme",
    ] {
        assert!(report.contains(part), "{part} is missing");
    }
    assert!(
        !report.contains("<script") && !report.contains("src="),
        "nothing is loaded"
    );
}

#[test]
fn the_window_of_the_log_is_averaged_over_its_steps() {
    let (_dir, every) = folder();
    let (_dir2, fourth) = folder();
    let device = &devices()[0];
    train(&every, &recipe(16, json!({ "log_every": 1 })), device, &[]).expect("a run");
    train(&fourth, &recipe(16, json!({ "log_every": 4 })), device, &[]).expect("a run");
    let series = |dir: &Path, name| {
        RunReader::open(dir)
            .expect("a run")
            .series(Kind::Train, Some(Split::Train), name)
    };
    let (fine, coarse) = (series(&every, "loss"), series(&fourth, "loss"));
    assert_eq!(fine.len(), 16);
    assert_eq!(coarse[0].0, 4.0);
    let mean = fine[..4].iter().map(|p| p.1).sum::<f64>() / 4.0;
    assert!((coarse[0].1 - mean).abs() < 1e-12, "{} {mean}", coarse[0].1);
    assert_eq!(
        series(&fourth, "lr")[0].1,
        series(&every, "lr")[3].1,
        "a number is not averaged"
    );
}

#[test]
fn the_last_checkpoints_and_the_best_are_kept_and_the_best_is_the_result() {
    let (_dir, run) = folder();
    let clock = json!({ "evaluate_every": 2, "checkpoint_every": 2, "keep_checkpoints": 2 });
    let recipe = recipe(40, clock);
    let outcome = train(&run, &recipe, &devices()[0], &[Fault::Worsen(30)]).expect("a run");
    let best = outcome.best.expect("a best state");
    assert!(
        best.step <= 29 && best.stage == "main" && best.value < 1000.0,
        "{best:?}"
    );
    assert_eq!(steps(&run), [best.step, 38, 40]);
    assert_eq!(
        fs::read_to_string(run.join("best"))
            .expect("a pointer")
            .trim(),
        format!("step-{}", best.step)
    );
    let reader = RunReader::open(&run).expect("a run");
    let checkpoint = reader.best_checkpoint().expect("whole").expect("there");
    assert_eq!(
        checkpoint.json::<Value>("toy").expect("its state")[1],
        best.step
    );
    // What was tested and exported is the best state, not the last, which the fault made worse.
    assert!(outcome.test.get("error").expect("a result") < 1000.0);
    assert_eq!(outcome.test.get("error"), Some(best.value + 0.5));
}

#[test]
fn a_stage_that_no_longer_improves_stops() {
    let (_dir, run) = folder();
    let clock = json!({ "evaluate_every": 2, "early_stopping": { "patience": 3 } });
    let recipe = recipe(80, clock);
    let outcome = train(&run, &recipe, &devices()[0], &[Fault::Worsen(31)]).expect("a run");
    let main = &outcome.stages[1];
    // The evaluations after 32, 34 and 36 steps of the run are no better.
    assert!(main.stopped_early && outcome.steps == 36, "{outcome:?}");
    let log = fs::read_to_string(run.join("log.txt")).expect("a log");
    assert!(log.contains("stage `main` stops at step 16"), "{log}");
}

#[test]
fn nan_stops_the_run_and_names_the_step_and_the_checkpoint() {
    let (_dir, run) = folder();
    let recipe = recipe(40, clock());
    let device = &devices()[0];
    let error = train(&run, &recipe, device, &[Fault::NanLoss(22)]).expect_err("it stops");
    let text = error.to_string();
    let Error::NotFinite {
        scalar,
        step,
        first,
        last,
        checkpoint,
        ..
    } = error
    else {
        panic!("another error: {text}");
    };
    assert_eq!((scalar.as_str(), step), ("loss", 23));
    // Scalars are read together every four steps of the stage, which began at 10.
    assert!(first <= 23 && 23 <= last, "{first} {last}");
    // Evaluated and found best after 22 steps, the twelfth of the stage.
    let good = run.join("checkpoints/step-22");
    assert_eq!(checkpoint.as_deref(), Some(good.as_path()));
    assert!(
        text.contains("step-22") && text.contains("step 23"),
        "{text}"
    );
    CheckpointReader::open(&good).expect("the checkpoint named is whole");
    assert!(
        fs::read_to_string(run.join("log.txt"))
            .expect("a log")
            .contains("NaN")
    );
    // Nothing is lost: with the fault gone, the run goes on from there.
    assert_eq!(train(&run, &recipe, device, &[]).expect("a run").steps, 40);
}

#[test]
fn two_runs_never_share_a_folder() {
    let (_dir, dir) = folder();
    let recipe = recipe(8, json!({}));
    let held = Run::create(&dir, &recipe).expect("an empty folder");
    assert!(matches!(
        Run::create(&dir, &recipe),
        Err(Error::InUse { .. })
    ));
    let error = Run::resume(&dir, &recipe)
        .expect_err("it is held")
        .to_string();
    assert!(
        error.contains("in use") && error.contains("--out"),
        "{error}"
    );
    drop(held);
    let error = Run::create(&dir, &recipe)
        .expect_err("not empty")
        .to_string();
    assert!(
        error.contains("not empty") && error.contains("--resume"),
        "{error}"
    );
    Run::resume(&dir, &recipe).expect("it is free again");
}

#[test]
fn a_folder_that_is_no_run_or_another_run_is_refused() {
    let (temp, dir) = folder();
    let recipe = recipe(8, json!({}));
    assert!(matches!(
        Run::resume(&dir, &recipe),
        Err(Error::NoRun { .. })
    ));
    fs::create_dir(&dir).expect("a folder");
    fs::write(dir.join("notes.txt"), "mine").expect("a file");
    assert!(matches!(
        Run::resume(&dir, &recipe),
        Err(Error::NoRun { .. })
    ));
    assert!(matches!(
        Run::create(&dir, &recipe),
        Err(Error::NotEmpty { .. })
    ));
    assert!(matches!(RunReader::open(&dir), Err(Error::NoRun { .. })));
    let run = temp.path().join("other");
    drop(Run::create(&run, &recipe).expect("a run"));
    let mut other = recipe.clone();
    other.training["optimizer"]["lr"] = json!(0.5);
    let error = Run::resume(&run, &other)
        .expect_err("another recipe")
        .to_string();
    assert!(
        error.contains("training.optimizer.lr was 0.05, now 0.5"),
        "{error}"
    );
    other = recipe.clone();
    other.training["steps"] = json!(99);
    other.training["clock"] = json!({ "log_every": 1 });
    Run::resume(&run, &other).expect("a longer run is the same run");
}

#[test]
fn a_damaged_checkpoint_is_left_out_with_a_warning() {
    let (_dir, run) = folder();
    let recipe = recipe(40, clock());
    let device = &devices()[0];
    let (_dir2, whole) = folder();
    train(&whole, &recipe, device, &[]).expect("a whole run");
    train(&run, &recipe, device, &[Fault::DieInStep(33)]).expect_err("it dies");
    let last = *steps(&run).last().expect("checkpoints");
    let weights = run.join(format!("checkpoints/step-{last}/net.safetensors"));
    let bytes = fs::read(&weights).expect("weights");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("half a file");
    train(&run, &recipe, device, &[]).expect("the one before is whole");
    let log = fs::read_to_string(run.join("log.txt")).expect("a log");
    assert!(
        log.contains(&format!("warning: the checkpoint step-{last} is damaged")),
        "{log}"
    );
    assert_eq!(traces(&whole), traces(&run));
}

#[test]
fn a_place_that_cannot_be_written_is_one_clear_error() {
    let (temp, dir) = folder();
    let recipe = recipe(40, clock());
    let file = temp.path().join("file");
    fs::write(&file, "").expect("a file");
    let error = Run::create(&file.join("run"), &recipe)
        .expect_err("no folder")
        .to_string();
    assert!(error.contains("could not create the folder"), "{error}");
    // The folder of checkpoints turns unwritable in the middle of a run: what was written before stays.
    train(&dir, &recipe, &devices()[0], &[Fault::DieInStep(18)]).expect_err("it dies");
    let (checkpoints, aside) = (dir.join("checkpoints"), temp.path().join("aside"));
    struct Blocks(std::path::PathBuf, std::path::PathBuf);
    impl Observer for Blocks {
        fn step(&mut self, progress: &Progress) {
            if progress.global == 20 {
                fs::rename(&self.0, &self.1).expect("moved");
                fs::write(&self.0, "").expect("blocked");
            }
        }
    }
    let mut toy = Toy::open(&recipe, &devices()[0]).expect("an experiment");
    let options = Options {
        observer: Box::new(Blocks(checkpoints.clone(), aside.clone())),
        ..Options::default()
    };
    let run = Run::resume(&dir, &recipe).expect("resumed");
    let error = run
        .train(&mut toy, options)
        .expect_err("no place to write")
        .to_string();
    assert!(
        error.contains("checkpoints") && error.starts_with("could not"),
        "{error}"
    );
    fs::remove_file(&checkpoints).expect("unblocked");
    fs::rename(&aside, &checkpoints).expect("moved back");
    let outcome = train(&dir, &recipe, &devices()[0], &[]).expect("nothing was lost");
    assert_eq!(outcome.steps, 40);
}

#[test]
fn an_objective_that_is_not_measured_is_named() {
    struct Blind(Toy);
    impl Experiment for Blind {
        fn stages(&self) -> Vec<Stage> {
            vec![Stage::new("only", 3, Objective::maximize("accuracy"))]
        }
        fn train_step(&mut self, at: Step, cx: &mut Context) -> Result<Scalars> {
            self.0.train_step(at, cx)
        }
        fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
            self.0.evaluate(split, cx)
        }
        fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
            self.0.save(to)
        }
        fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
            self.0.restore(from)
        }
        fn export(&self, dir: &Path) -> Result<()> {
            self.0.export(dir)
        }
    }
    let (_dir, dir) = folder();
    let recipe = recipe(8, json!({}));
    let mut blind = Blind(Toy::open(&recipe, &devices()[0]).expect("an experiment"));
    let run = Run::create(&dir, &recipe).expect("a folder");
    let error = run
        .train(&mut blind, Options::default())
        .expect_err("no accuracy");
    assert_eq!(
        error.to_string(),
        "stage `only` is judged by `accuracy`, but the evaluation gives error"
    );
}

#[test]
fn steps_are_measured() {
    let mut toy = Toy::open(&recipe(8, json!({})), &devices()[0]).expect("an experiment");
    let (_dir, dir) = folder();
    let mut cx = Context::new(Some(dir), toy.cancel.clone(), Box::new(Silent));
    let measured = measure(&mut toy, 1, 1, 4, &mut cx).expect("measured");
    let (rate, unit) = measured.work_per_second.expect("a rate");
    assert!(measured.ms_per_step > 0.0 && unit == "rows");
    assert!((rate * measured.ms_per_step - 2000.0).abs() < 1e-6);
    assert!(measure(&mut toy, 1, 1, 0, &mut cx).is_err());
}
