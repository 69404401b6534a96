//! `eval`: a run or a model on a split of its data, or token by token.

use super::results::results;
use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::models::{self, Place, Which};
use crate::{out, table};
use anyhow::Context as _;
use serde_json::json;
use std::path::PathBuf;
use trainer::{Error, Experiment, Metrics, Recipe, RunReader, Scoring, Split};

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
    /// Read the text in overlapping windows that begin N tokens apart, each from nothing
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Tokens of a window; by default what the model can see
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Also write the log-probability of every token to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
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
    let scored = args.stride.is_some() || args.window.is_some() || args.tokens.is_some();
    let metrics = match scored {
        true => score(&args, &recipe, experiment.as_mut(), &mut cx),
        false => Ok(experiment.evaluate(split, &mut cx)?),
    };
    drop(cx);
    let metrics = metrics?;
    if let Some(file) = &args.tokens {
        app.note(&format!("written to {}", file.display()));
    }
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

/// The same token by token, where the architecture can.
fn score(
    args: &Args,
    recipe: &Recipe,
    experiment: &mut dyn Experiment,
    cx: &mut trainer::Context,
) -> anyhow::Result<Metrics> {
    let Some(scorer) = experiment.scorer() else {
        return Err(usage(format!(
            "`{}` does not say how likely single tokens are as this recipe has it: --stride, --window and --tokens are for language models that read from left to right",
            recipe.architecture
        )));
    };
    let options = Scoring {
        stride: args.stride,
        window: args.window,
    };
    let mut lines: Vec<u8> = Vec::new();
    let mut sink = |token: trainer::TokenScore<'_>| {
        if args.tokens.is_some() {
            let line = json!({
                "position": token.position, "id": token.id, "token": String::from_utf8_lossy(token.piece), "logprob": token.logprob,
            });
            serde_json::to_writer(&mut lines, &line).map_err(Error::other)?;
            lines.push(b'\n');
        }
        Ok(())
    };
    let metrics = scorer.score(args.split.into(), &options, &mut sink, cx)?;
    if let Some(file) = &args.tokens {
        pretrained::write_atomic(file, &lines)?;
    }
    Ok(metrics)
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
