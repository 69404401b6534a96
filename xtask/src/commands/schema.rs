//! `schema`: what a recipe may hold.

use crate::app::App;
use crate::{out, registry};

/// Prints the JSON schema of an architecture's recipes, for editors and validators
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The architecture
    #[arg(value_name = "ARCHITECTURE")]
    pub architecture: String,
}

/// Runs the command.
///
/// # Errors
/// When there is no such architecture.
pub fn run(args: Args, _: &App) -> anyhow::Result<()> {
    out::json(&(registry::find(&args.architecture)?.schema)())
}
