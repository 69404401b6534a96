//! `predict`: inputs as JSON, answers as JSON.

use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::models::{self, Model};
use crate::out;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Answers each JSON value of a file with one line: a text, or an object with text and text_pair, with question and context, or
/// with text and choices, as the model's head needs it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model folder or run
    #[arg(value_name = "MODEL_DIR|RUN")]
    pub model: PathBuf,
    /// The file with one or more JSON values; - reads stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Answer this text instead of a file's; may be repeated
    #[arg(long, value_name = "TEXT", conflicts_with = "input")]
    pub text: Vec<String>,
    /// Every line of the file is a text, not JSON
    #[arg(long)]
    pub lines: bool,
    /// How many words to name for every mask
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// What the folder is
    #[command(flatten)]
    pub kind: models::Kind,
    /// The backend
    #[arg(long)]
    pub backend: Option<Backend>,
}

/// Runs the command.
///
/// # Errors
/// When the model cannot be opened, cannot answer, or an input has another form.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let dir = models::place(&args.model, app)?;
    let mut model = Model::open(&dir, &args.kind, args.backend, app)?;
    let Some(predictor) = model.predictor() else {
        return Err(usage(format!(
            "{} answers no inputs; try: cargo xtask generate, or cargo xtask forward",
            args.model.display()
        )));
    };
    let name = match args.text.is_empty() {
        true => args.input.display().to_string(),
        false => "--text".to_owned(),
    };
    for (i, value) in values(&args, &name)?.into_iter().enumerate() {
        let value = match (value?, args.top_k) {
            (value, None) => value,
            (Value::String(text), Some(k)) => json!({ "text": text, "top_k": k }),
            (mut value, Some(k)) => {
                if let Some(object) = value.as_object_mut() {
                    object.entry("top_k").or_insert(k.into());
                }
                value
            }
        };
        let answer = predictor
            .predict(&value)
            .with_context(|| format!("{name}: value {}", i + 1))?;
        out::line(answer);
    }
    Ok(())
}

/// The inputs; one that is no JSON is an error in its place, so that those before it are answered.
fn values(args: &Args, name: &str) -> anyhow::Result<Vec<anyhow::Result<Value>>> {
    if !args.text.is_empty() {
        return Ok(args.text.iter().map(|text| Ok(json!(text))).collect());
    }
    let text = read(&args.input)?;
    if args.lines {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        return Ok(lines.map(|line| Ok(json!(line))).collect());
    }
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let values = values.enumerate().map(|(i, value)| {
        value.map_err(|e| {
            let number = i + 1;
            usage(format!(
                "{name}: value {number}: {e}; a text in JSON stands in quotes, or give plain texts with --lines or --text"
            ))
        })
    });
    Ok(values.collect())
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
