//! `train`: a recipe becomes a run.

use super::results::results;
use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::format;
use crate::models;
use crate::out;
use crate::progress::Watcher;
use crate::{registry, table};
use anyhow::Context as _;
use serde_json::json;
use std::path::{Path, PathBuf};
use trainer::{
    Environment, Error, Experiment, Figure, Options, Outcome, Recipe, Run, RunReader, Split,
};

/// Steps that a dry run measures, after one that it does not count.
const MEASURED: u64 = 5;

/// Trains a recipe from its first step or goes on with a run
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe; with --resume that of the run is used
    #[arg(value_name = "RECIPE", required_unless_present = "resume")]
    pub recipe: Option<PathBuf>,
    /// The backend; by default what the recipe says, else flex
    #[arg(long)]
    pub backend: Option<Backend>,
    /// Change a value of the recipe, such as training.steps=50; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The run folder; by default the first free runs/ARCHITECTURE-RECIPE-N
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Go on with the run in this folder from its last checkpoint
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Say what it would take, and train nothing
    #[arg(long, conflicts_with_all = ["resume", "out"])]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops the run.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let mut recipe = load(&args)?;
    let backend = Backend::choose(args.backend, recipe.backend.as_deref())?;
    recipe.backend = Some(backend.name().to_owned());
    if let Some(dir) = &args.out {
        refuse_occupied(dir)?;
    }
    let device = backend.device(&app.command)?;
    let mut experiment = models::open(&recipe, &device)?;
    if args.dry_run {
        announce(&recipe, backend, experiment.as_ref(), None, app)?;
        return dry_run(&recipe, experiment.as_mut(), app);
    }
    let run = match &args.resume {
        Some(dir) => Run::resume(dir, &recipe)?,
        None => create(&args, &recipe)?,
    };
    let dir = run.dir().to_path_buf();
    announce(&recipe, backend, experiment.as_ref(), Some(&dir), app)?;
    app.wait_for_cancel();
    let options = Options {
        environment: Environment::collect(
            backend.name(),
            &backend.describe(app.threads),
            app.threads,
            [String::from("cargo xtask")]
                .into_iter()
                .chain(app.command.clone())
                .collect(),
        ),
        cancel: app.cancel.clone(),
        observer: Box::new(Watcher::new(app.verbose)),
    };
    let outcome = run.train(experiment.as_mut(), options);
    let outcome = outcome.map_err(|error| advise(error, &dir))?;
    if app.json {
        let mut value = serde_json::to_value(&outcome)?;
        value["run"] = json!(dir);
        return out::json(&value);
    }
    show(&outcome, &recipe, &dir)
}

/// The recipe: the one given, or that of the run that goes on; a run keeps its backend.
fn load(args: &Args) -> anyhow::Result<Recipe> {
    let Some(dir) = &args.resume else {
        let file = args.recipe.as_deref().unwrap_or(Path::new(""));
        return Ok(Recipe::load(file, &args.set)?);
    };
    let stored = dir.join("recipe.json");
    let Some(file) = &args.recipe else {
        if !stored.is_file() {
            let (dir, missing) = (dir.clone(), "recipe.json");
            return Err(Error::NoRun { dir, missing }.into());
        }
        return Ok(Recipe::load(&stored, &args.set)?);
    };
    let mut recipe = Recipe::load(file, &args.set)?;
    if recipe.backend.is_none() && stored.is_file() {
        recipe.backend = Recipe::load(&stored, &[])?.backend;
    }
    Ok(recipe)
}

/// Refuses a folder that holds something before any work is done; whether it is free is decided when it is taken.
fn refuse_occupied(dir: &Path) -> anyhow::Result<()> {
    let occupied = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().any(|entry| entry.file_name() != "lock"),
        Err(_) => false,
    };
    // A folder in use is told from one that is merely full by its lock, which `Run::create` tries.
    match occupied && !dir.join("lock").exists() {
        true => Err(Error::NotEmpty {
            dir: dir.to_path_buf(),
        }
        .into()),
        false => Ok(()),
    }
}

/// Takes the folder asked for, or the first free one under `runs`.
fn create(args: &Args, recipe: &Recipe) -> anyhow::Result<Run> {
    if let Some(dir) = &args.out {
        return Ok(Run::create(dir, recipe)?);
    }
    let name = recipe
        .file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    for n in 1u32.. {
        let dir = Path::new("runs").join(format!("{}-{name}-{n}", recipe.architecture));
        if dir.exists() {
            continue;
        }
        match Run::create(&dir, recipe) {
            // Another process was faster.
            Err(Error::InUse { .. } | Error::NotEmpty { .. }) => continue,
            result => return Ok(result?),
        }
    }
    Err(usage("every run folder is taken; choose one with --out"))
}

/// Says what is about to happen.
fn announce(
    recipe: &Recipe,
    backend: Backend,
    experiment: &dyn Experiment,
    dir: Option<&Path>,
    app: &App,
) -> anyhow::Result<()> {
    let architecture = registry::find(&recipe.architecture)?;
    let mut facts = vec![
        (
            "architecture".to_owned(),
            format!("{}: {}", architecture.name, architecture.summary),
        ),
        ("recipe".to_owned(), recipe.file.display().to_string()),
    ];
    facts.extend(
        recipe
            .about
            .iter()
            .map(|about| ("about".to_owned(), about.clone())),
    );
    facts.extend(experiment.summary());
    if let Some(parameters) = experiment.parameters() {
        facts.push(("parameters".to_owned(), format::whole(parameters)));
    }
    let stages = experiment.stages();
    let steps = stages
        .iter()
        .map(|stage| format!("{} × {}", stage.steps, stage.name));
    facts.push(("steps".to_owned(), steps.collect::<Vec<_>>().join(", ")));
    let device = backend.describe(app.threads);
    facts.push((
        "backend".to_owned(),
        format!("{} ({device})", backend.name()),
    ));
    facts.extend(dir.map(|dir| ("run folder".to_owned(), dir.display().to_string())));
    app.note(&table::facts(&facts));
    Ok(())
}

/// Adds what to do next to an error that leaves something to go on from.
fn advise(error: Error, dir: &Path) -> anyhow::Error {
    let stopped = matches!(error, Error::Cancelled { .. });
    let error = anyhow::Error::new(error);
    match stopped {
        true => {
            out::note(format!(
                "go on with: cargo xtask train --resume {}",
                dir.display()
            ));
            error
        }
        false => error.context(format!("the run in {} stopped", dir.display())),
    }
}

fn dry_run(recipe: &Recipe, experiment: &mut dyn Experiment, app: &App) -> anyhow::Result<()> {
    let mut cx = app.context(None);
    let measured = trainer::measure(experiment, recipe.seed, 1, MEASURED, &mut cx);
    drop(cx);
    let measured = measured.context("measuring a few steps")?;
    let steps: u64 = experiment.stages().iter().map(|stage| stage.steps).sum();
    let seconds = measured.ms_per_step * 1e-3 * steps as f64;
    let parameters = experiment.parameters();
    if app.json {
        return out::json(&json!({
            "architecture": recipe.architecture, "parameters": parameters, "steps": steps,
            "ms_per_step": measured.ms_per_step, "peak_memory": measured.peak_memory,
            "work_per_second": measured.work_per_second, "seconds": seconds,
        }));
    }
    let mut facts = vec![
        (
            "parameters".to_owned(),
            parameters.map_or("n/a".to_owned(), format::whole),
        ),
        (
            "memory (peak of a few steps)".to_owned(),
            format::memory(measured.peak_memory),
        ),
        (
            "ms per step".to_owned(),
            format::number(measured.ms_per_step),
        ),
    ];
    if let Some((rate, unit)) = measured.work_per_second {
        facts.push((format!("{unit} per second"), format::count(rate.round())));
    }
    facts.push((
        format!("{steps} steps take about"),
        format!("{} (evaluations not counted)", format::seconds(seconds)),
    ));
    out::raw(table::facts(&facts));
    Ok(())
}

/// Prints the result of a run.
fn show(outcome: &Outcome, recipe: &Recipe, dir: &Path) -> anyhow::Result<()> {
    let expected = &recipe.expected;
    let results = results(Split::Test, &outcome.test, expected, &outcome.references);
    out::line("");
    out::raw(table::text(&results));
    for figure in RunReader::open(dir)?.figures {
        if matches!(figure, Figure::Table(_) | Figure::Text(_)) {
            out::line("");
            out::raw(table::figure_text(&figure));
        }
    }
    for sample in &outcome.samples {
        out::line("");
        out::line(&sample.title);
        for line in sample.text.lines() {
            out::line(format!("  {line}").trim_end());
        }
    }
    let mut facts = Vec::new();
    for stage in &outcome.stages {
        let early = if stage.stopped_early {
            ", stopped early"
        } else {
            ""
        };
        let best = stage.best.as_ref().map_or(String::new(), |best| {
            format!(
                "; best {} {} at step {}",
                best.metric,
                format::number(best.value),
                best.step
            )
        });
        let name = match outcome.stages.len() {
            1 => "steps".to_owned(),
            _ => format!("stage {}", stage.name),
        };
        facts.push((name, format!("{}{early}{best}", stage.steps)));
    }
    facts.push(("time".to_owned(), format::seconds(outcome.seconds)));
    facts.push((
        "ms per step".to_owned(),
        format::number(outcome.ms_per_step),
    ));
    if let Some((rate, unit)) = &outcome.work_per_second {
        facts.push((format!("{unit} per second"), format::count(rate.round())));
    }
    facts.push((
        "peak memory".to_owned(),
        format::memory(outcome.peak_memory),
    ));
    facts.push(("model".to_owned(), outcome.model.display().to_string()));
    facts.push(("report".to_owned(), outcome.report.display().to_string()));
    out::line("");
    out::raw(table::facts(&facts));
    Ok(())
}
