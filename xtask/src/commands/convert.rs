//! `convert`: a published checkpoint becomes a model folder.

use crate::app::App;
use crate::backend::Backend;
use crate::{models, out, registry, table};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use trainer::Conversion;

/// Turns a published checkpoint into a model folder that loads here and in Python
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file with the weights, or the folder it lies in
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// What the checkpoint is
    #[command(flatten)]
    pub kind: models::Kind,
    /// A JSON file with what the tensors cannot tell; by default config.json beside the checkpoint, if there is one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The vocabulary to store beside the weights
    #[arg(long, value_name = "FILE")]
    pub vocab: Option<PathBuf>,
    /// Leave this tensor out; a name ending in * stands for all that begin so; may be repeated
    #[arg(long, value_name = "NAME")]
    pub ignore: Vec<String>,
    /// The model folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When no architecture recognises the checkpoint, tensors do not fit, or the folder cannot be written.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let given = models::place(&args.checkpoint, app)?;
    let checkpoint = match given.is_dir() {
        true => pretrained::model_folder(&given)?,
        false => given.clone(),
    };
    let config = args.config.clone().or_else(|| beside(&checkpoint));
    let architecture = match &args.kind.architecture {
        Some(name) => registry::find(name)?,
        None => {
            let value = match &config {
                Some(file) => pretrained::read_json(file)?,
                None => Value::Null,
            };
            let names = models::tensor_names(&checkpoint)?;
            models::claimed(&value, &names, &args.checkpoint)?
        }
    };
    let device = Backend::choose(None, None)?.device(&app.command)?;
    let conversion = Conversion {
        checkpoint: given,
        config,
        vocab: args.vocab,
        ignore: args.ignore,
        head: args.kind.head,
    };
    let converted = (architecture.convert)(&conversion, &device);
    let model = converted.with_context(|| args.checkpoint.display().to_string())?;
    // Only now, so that a checkpoint that does not fit leaves no folder behind.
    models::empty_folder(&args.out)?;
    model.save(&args.out)?;
    let facts = model.describe();
    if app.json {
        let facts: serde_json::Map<_, _> = facts.into_iter().map(|(n, v)| (n, json!(v))).collect();
        let name = architecture.name;
        return out::json(&json!({ "architecture": name, "out": args.out, "model": facts }));
    }
    let mut all = vec![("architecture".to_owned(), architecture.name.to_owned())];
    all.extend(facts);
    all.push(("written to".to_owned(), args.out.display().to_string()));
    out::raw(table::facts(&all));
    Ok(())
}

fn beside(checkpoint: &Path) -> Option<PathBuf> {
    let folder = match checkpoint.is_dir() {
        true => checkpoint,
        false => checkpoint.parent()?,
    };
    let config = folder.join("config.json");
    config.is_file().then_some(config)
}
