//! `report`: the report of a run, written again.

use crate::app::App;
use crate::out;
use serde_json::json;
use std::path::PathBuf;

/// Writes report.html and the plots of a run again, also while it is going on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When it is no run folder, or a file cannot be written.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let path = trainer::report::write(&args.run)?;
    match app.json {
        true => out::json(&json!({ "report": path })),
        false => {
            out::line(path.display());
            Ok(())
        }
    }
}
