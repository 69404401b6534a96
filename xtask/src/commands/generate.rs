//! `generate`: a text goes on.

use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::models::{self, Model};
use crate::out;
use serde_json::json;
use std::path::PathBuf;
use trainer::Sampling;

/// Continues a text; the continuation is printed as it comes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model folder or run
    #[arg(value_name = "MODEL_DIR|RUN")]
    pub model: PathBuf,
    /// The text to continue
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// How many tokens to generate
    #[arg(long, value_name = "N", default_value_t = Sampling::default().length)]
    pub length: usize,
    /// Divides the logits; 0 takes the most probable token
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature)]
    pub temperature: f64,
    /// Draw among the K most probable tokens only
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw among the smallest set of tokens with this probability only
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Decides the draws
    #[arg(long, value_name = "N", default_value_t = Sampling::default().seed)]
    pub seed: u64,
    /// Stop when the continuation contains this text
    #[arg(long, value_name = "TEXT")]
    pub stop: Option<String>,
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
/// When the model cannot be opened, cannot continue texts, or does not know a token of the prompt.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let options = Sampling {
        length: args.length,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
        stop: args.stop,
    };
    check(&options)?;
    let mut model = Model::open(
        &models::place(&args.model, app)?,
        &args.kind,
        args.backend,
        app,
    )?;
    let Some(generator) = model.generator() else {
        return Err(usage(format!(
            "{} cannot continue texts",
            args.model.display()
        )));
    };
    if app.json {
        let text = generator.generate(&args.prompt, &options, &mut |_| {})?;
        return out::json(&json!({ "prompt": args.prompt, "continuation": text }));
    }
    let mut last = String::new();
    generator.generate(&args.prompt, &options, &mut |piece| {
        out::raw(piece);
        piece.clone_into(&mut last);
    })?;
    if !last.ends_with('\n') {
        out::line("");
    }
    Ok(())
}

/// Names the flag, not a path of a recipe.
fn check(options: &Sampling) -> anyhow::Result<()> {
    options.validate("-").map_err(|error| {
        let text = error.to_string().replacen("-.", "--", 1);
        usage(text.replace("top_", "top-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_named_by_its_flag() {
        let options = Sampling {
            top_p: Some(2.0),
            ..Sampling::default()
        };
        let error = check(&options).expect_err("out of range").to_string();
        assert_eq!(error, "--top-p is 2, expected a number above 0 and up to 1");
    }
}
