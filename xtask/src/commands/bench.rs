//! `bench`: what a step of a recipe costs, or what an architecture claims.

use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::{format, models, out, registry, table};
use anyhow::Context as _;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use trainer::{Architecture, BenchOptions, Environment, Figure, Recipe};

/// Measures ms per step, rate and peak memory of a recipe, or regenerates the measurements of an architecture
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A recipe or an architecture; by default every architecture that has measurements
    #[arg(value_name = "RECIPE|ARCHITECTURE")]
    pub what: Option<String>,
    /// A rough answer soon
    #[arg(long)]
    pub quick: bool,
    /// Steps of a recipe to measure
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Change a value of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Also write the figures into this Markdown file
    #[arg(long, value_name = "FILE.md")]
    pub out: Option<PathBuf>,
    /// The seed of the measurements of an architecture
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The backend; by default what the recipe says, else flex
    #[arg(long)]
    pub backend: Option<Backend>,
}

/// Runs the command.
///
/// # Errors
/// When there is nothing of that name, or a step fails.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let (backend, figures) = match &args.what {
        Some(what) if is_recipe(what) => recipe(Path::new(what), &args, app)?,
        what => {
            if !args.set.is_empty() || args.steps.is_some() {
                return Err(usage("--set and --steps belong to a recipe"));
            }
            architectures(what.as_deref(), &args, app)?
        }
    };
    if app.json {
        out::json(&json!({ "backend": backend, "threads": app.threads, "figures": figures }))?;
    } else {
        for (i, figure) in figures.iter().enumerate() {
            if i > 0 {
                out::line("");
            }
            out::raw(table::figure_text(figure));
        }
    }
    if let Some(file) = &args.out {
        pretrained::write_atomic(file, document(&figures, backend, app).as_bytes())?;
        app.note(&format!("written to {}", file.display()));
    }
    Ok(())
}

/// An architecture has a plain name; anything else is a path.
fn is_recipe(what: &str) -> bool {
    let path = Path::new(what);
    path.is_file() || path.extension().is_some() || what.contains(['/', '\\'])
}

fn recipe(file: &Path, args: &Args, app: &App) -> anyhow::Result<(Backend, Vec<Figure>)> {
    let recipe = Recipe::load(file, &args.set)?;
    let backend = Backend::choose(args.backend, recipe.backend.as_deref())?;
    let device = backend.device(&app.command)?;
    let mut experiment = models::open(&recipe, &device)?;
    let (warm_up, steps) = if args.quick { (1, 5) } else { (5, 30) };
    let steps = args.steps.unwrap_or(steps);
    let mut cx = app.context(None);
    let measured = trainer::measure(experiment.as_mut(), recipe.seed, warm_up, steps, &mut cx);
    drop(cx);
    let measured = measured?;
    let parameters = experiment.parameters();
    let mut columns = vec![
        "recipe",
        "parameters",
        "ms per step (median)",
        "peak memory",
    ];
    let mut row = vec![
        file.display().to_string(),
        parameters.map_or("n/a".to_owned(), format::whole),
        format::number(measured.ms_per_step),
        format::memory(measured.peak_memory),
    ];
    let rate = measured
        .work_per_second
        .map(|(rate, unit)| (rate, format!("{unit} per second")));
    if let Some((rate, unit)) = &rate {
        columns.push(unit);
        row.push(format::count(rate.round()));
    }
    let title = format!("{steps} training steps on {}", backend.name());
    let figure = Figure::Table(table::table(&title, &columns, vec![row]));
    Ok((backend, vec![figure]))
}

fn architectures(
    name: Option<&str>,
    args: &Args,
    app: &App,
) -> anyhow::Result<(Backend, Vec<Figure>)> {
    let chosen: Vec<&Architecture> = match name {
        Some(name) => vec![registry::find(name)?],
        None => {
            let all = registry::ARCHITECTURES.iter().copied();
            all.filter(|architecture| architecture.bench.is_some())
                .collect()
        }
    };
    let backend = Backend::choose(args.backend, None)?;
    let device = backend.device(&app.command)?;
    let options = BenchOptions {
        quick: args.quick,
        seed: args.seed,
    };
    let mut figures = Vec::new();
    for architecture in chosen {
        let Some(bench) = architecture.bench else {
            return Err(usage(format!(
                "`{}` has no measurements of its own; measure one of its recipes: cargo xtask bench RECIPE",
                architecture.name
            )));
        };
        let mut cx = app.context(None);
        let found = bench(&options, &device, &mut cx);
        drop(cx);
        figures.extend(found.with_context(|| format!("measuring {}", architecture.name))?);
    }
    Ok((backend, figures))
}

/// The figures with what they were measured on.
fn document(figures: &[Figure], backend: Backend, app: &App) -> String {
    let device = backend.describe(app.threads);
    let environment = Environment::collect(
        backend.name(),
        &device,
        app.threads,
        [String::from("cargo xtask")]
            .into_iter()
            .chain(app.command.clone())
            .collect(),
    );
    let command = environment.command.join(" ");
    let machine = environment
        .processor
        .as_deref()
        .unwrap_or("an unknown processor");
    let mut text = format!(
        "<!-- Written by `{command}`; do not edit. -->\n\nMeasured by `{command}` on {} ({device}; {machine}).\n",
        backend.name()
    );
    for figure in figures {
        let _ = write!(text, "\n{}", table::figure_markdown(figure));
    }
    text
}
