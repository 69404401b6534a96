//! `forward`: named tensors in, named tensors out.

use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::{models, out, table};
use anyhow::Context as _;
use burn::tensor::TensorData;
use serde_json::json;
use std::path::PathBuf;

/// Runs a model on the tensors of a safetensors file and writes its outputs into another
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model folder, or a finished run
    #[arg(value_name = "MODEL_DIR")]
    pub model: PathBuf,
    /// The inputs, by name
    #[arg(long, value_name = "FILE")]
    pub inputs: PathBuf,
    /// Where the outputs go
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Let samples leave early, below this entropy in nats: one for all layers, or one for each, separated by commas
    #[arg(
        long,
        value_name = "NATS",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub threshold: Vec<f32>,
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
/// When the model cannot be opened, or an input is missing or misshapen.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let device = Backend::choose(args.backend, None)?.device(&app.command)?;
    let dir = models::place(&args.model, app)?;
    let mut inputs = pretrained::read_tensors(&args.inputs)?;
    let early = !args.threshold.is_empty();
    if early {
        let count = args.threshold.len();
        let data = TensorData::new(args.threshold.clone(), [count]);
        inputs.insert("thresholds".to_owned(), data);
    }
    let mut model = models::load(&dir, &args.kind, &device)?;
    let outputs = model.forward(inputs).with_context(|| {
        format!(
            "running {} on {}",
            args.model.display(),
            args.inputs.display()
        )
    })?;
    if early && !outputs.contains_key("exit_layer") {
        return Err(usage(format!(
            "{} has no early exits; leave out --threshold",
            args.model.display()
        )));
    }
    pretrained::write_safetensors(&args.out, &outputs)?;
    let shapes = outputs
        .iter()
        .map(|(name, data)| (name, data.shape().as_slice().to_vec()));
    if app.json {
        let shapes: serde_json::Map<_, _> = shapes.map(|(n, s)| (n.clone(), json!(s))).collect();
        return out::json(&json!({ "out": args.out, "outputs": shapes }));
    }
    let rows = shapes.map(|(name, shape)| vec![name.clone(), format!("{shape:?}")]);
    out::raw(table::text(&table::table(
        "",
        &["output", "shape"],
        rows.collect(),
    )));
    app.note(&format!("written to {}", args.out.display()));
    Ok(())
}
