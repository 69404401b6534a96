//! The table of commands.

use crate::app::App;
use crate::commands::{
    bench, ci, compare, convert, data, eval, forward, generate, inspect, list, predict, report,
    schema, train, verify,
};
use clap::{Args, Parser, Subcommand};
use std::num::NonZeroUsize;

/// Trains, evaluates, converts and checks the transformers of this workspace.
#[derive(Debug, Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    version,
    arg_required_else_help = true,
    after_help = "Results go to stdout, progress to stderr. Exit codes: 0 success, 1 failure, 2 wrong usage or bad input, 130 Ctrl-C."
)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// Threads of the CPU backends; all cores by default
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

macro_rules! commands {
    ($($(#[$meta:meta])* $name:ident($module:ident),)*) => {
        /// The commands; each has a file of its own.
        #[derive(Debug, Subcommand)]
        pub enum Command { $($(#[$meta])* $name($module::Args),)* }

        impl Command {
            /// Carries the command out.
            ///
            /// # Errors
            /// Whatever the command cannot do.
            pub fn run(self, app: &App) -> anyhow::Result<()> {
                match self { $(Self::$name(args) => $module::run(args, app),)* }
            }
        }
    };
}

commands! {
    /// Train a recipe, or go on with a run
    Train(train),
    /// Measure a run or a model on a split of its data
    Eval(eval),
    /// Run a model on named tensors: a safetensors file in, a safetensors file out
    Forward(forward),
    /// Continue a text
    Generate(generate),
    /// Answer inputs given as JSON
    Predict(predict),
    /// Measure time and memory of a recipe, or what an architecture claims
    Bench(bench),
    /// Put runs side by side
    Compare(compare),
    /// Write the report of a run again
    Report(report),
    /// List the architectures
    List(list),
    /// Print the JSON schema of an architecture's recipes
    Schema(schema),
    /// List, import, fetch and make data
    Data(data),
    /// Turn a published checkpoint into a model folder
    Convert(convert),
    /// Say what is in a weights file, a model folder, a run or a checkpoint
    Inspect(inspect),
    /// Replay golden cases and report every difference
    Verify(verify),
    /// Run all checks of the workspace
    Ci(ci),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_is_sound() {
        Cli::command().debug_assert();
    }
}
