//! `predict`: inputs as JSON, answers as JSON.

use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::models::Model;
use crate::out;
use anyhow::Context as _;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Answers each JSON value of a file, one line for each
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model folder or run
    #[arg(value_name = "MODEL_DIR|RUN")]
    pub model: PathBuf,
    /// The file with one or more JSON values; - reads stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// The architecture, if the folder does not tell
    #[arg(long, value_name = "NAME")]
    pub architecture: Option<String>,
    /// The backend
    #[arg(long)]
    pub backend: Option<Backend>,
}

/// Runs the command.
///
/// # Errors
/// When the model cannot be opened, cannot answer, or an input has another form.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let mut model = Model::open(&args.model, args.architecture.as_deref(), args.backend, app)?;
    let Some(predictor) = model.predictor() else {
        return Err(usage(format!(
            "{} answers no inputs; try: cargo xtask generate, or cargo xtask forward",
            args.model.display()
        )));
    };
    let name = args.input.display();
    let text = read(&args.input)?;
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    for (i, value) in values.enumerate() {
        let value = value.map_err(|e| usage(format!("{name}: value {}: {e}", i + 1)))?;
        let answer = predictor
            .predict(&value)
            .with_context(|| format!("{name}: value {}", i + 1))?;
        out::line(answer);
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
