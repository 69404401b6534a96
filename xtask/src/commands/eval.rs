//! `eval`: a run or a model on a split of its data.

use super::results::results;
use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::models::{self, Place, Which};
use crate::{out, table};
use anyhow::Context as _;
use serde_json::json;
use std::path::PathBuf;
use trainer::{Experiment, Recipe, RunReader, Split};

/// Measures a run or a model folder on a split
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A run folder, or a model folder together with --recipe
    #[arg(value_name = "RUN|MODEL_DIR")]
    pub path: PathBuf,
    /// The recipe that says on which data and how; a run has its own
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// Change a value of the recipe, such as evaluation.batch_size=4; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The split
    #[arg(long, value_enum, default_value_t = Part::Test)]
    pub split: Part,
    /// Which state of a run
    #[arg(long, value_enum, default_value_t = Which::Best)]
    pub checkpoint: Which,
    /// The backend; by default what the recipe says, else flex
    #[arg(long)]
    pub backend: Option<Backend>,
}

/// A split as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What is learned from
    Train,
    /// What decides between settings
    Valid,
    /// What is reported
    Test,
}

impl From<Part> for Split {
    fn from(part: Part) -> Self {
        match part {
            Part::Train => Self::Train,
            Part::Valid => Self::Valid,
            Part::Test => Self::Test,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the path is neither, or the model does not fit the recipe.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let (recipe, mut experiment) = open(&args, app)?;
    let split = Split::from(args.split);
    let mut cx = app.context(None);
    let metrics = experiment.evaluate(split, &mut cx);
    drop(cx);
    let metrics = metrics?;
    let references = experiment.references();
    if app.json {
        return out::json(&json!({
            "path": args.path, "split": split, "metrics": metrics, "references": references,
        }));
    }
    out::raw(table::text(&results(
        split,
        &metrics,
        &recipe.expected,
        &references,
    )));
    Ok(())
}

fn open(args: &Args, app: &App) -> anyhow::Result<(Recipe, Box<dyn Experiment>)> {
    let device = |recipe: &Recipe| {
        let backend = Backend::choose(args.backend, recipe.backend.as_deref())?;
        backend.device(&app.command)
    };
    match Place::of(&args.path)? {
        Place::Run => {
            let mut run = RunReader::open(&args.path)?;
            let file = args
                .recipe
                .clone()
                .unwrap_or_else(|| args.path.join("recipe.json"));
            run.recipe = Recipe::load(&file, &args.set)?;
            let experiment = models::restore(&run, args.checkpoint, &device(&run.recipe)?)?;
            Ok((run.recipe, experiment))
        }
        Place::Model => {
            let Some(file) = &args.recipe else {
                return Err(usage(format!(
                    "{} is a model folder, which does not say on what to measure; give a recipe with --recipe",
                    args.path.display()
                )));
            };
            let recipe = Recipe::load(file, &args.set)?;
            let mut experiment = models::open(&recipe, &device(&recipe)?)?;
            experiment
                .load_model(&args.path)
                .with_context(|| args.path.display().to_string())?;
            Ok((recipe, experiment))
        }
        Place::Checkpoint | Place::File => Err(usage(format!(
            "{} is neither a run folder nor a model folder",
            args.path.display()
        ))),
    }
}
