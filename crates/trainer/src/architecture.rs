//! What an architecture registers: one static, one line in a table.

use crate::{Context, Experiment, Figure, Pretrained, Recipe, Result, golden};
use burn::tensor::Device;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One architecture, as the tools see it.
pub struct Architecture {
    /// The name in recipes and commands, kebab-case.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub summary: &'static str,
    /// The paper: authors, title, year, link.
    pub paper: &'static str,
    /// The JSON schema of its recipes.
    pub schema: fn() -> Value,
    /// Brings a recipe to life.
    pub open: fn(&Recipe, &Device) -> Result<Box<dyn Experiment>>,
    /// Opens a model folder.
    pub load: fn(&Path, &Device) -> Result<Box<dyn Pretrained>>,
    /// Whether a folder with this `config.json` and these tensor names is one of its own.
    pub claims: fn(&Value, &[String]) -> bool,
    /// Reads a published checkpoint.
    pub convert: fn(&Conversion, &Device) -> Result<Box<dyn Pretrained>>,
    /// One replay for each `check` value of its golden cases.
    pub replays: &'static [(&'static str, Replay)],
    /// Measures what the architecture claims, as tables and charts.
    pub bench: Option<Bench>,
}

/// Replays a golden case.
pub type Replay = fn(&golden::Case, &Device) -> Result<golden::Replayed>;

/// Measures an architecture.
pub type Bench = fn(&BenchOptions, &Device, &mut Context) -> Result<Vec<Figure>>;

/// How much to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Whether a rough answer in a minute is preferred to the whole table.
    pub quick: bool,
    /// The seed of every run within the measurement.
    pub seed: u64,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            quick: false,
            seed: 1,
        }
    }
}

/// What a published checkpoint consists of, and what its tensors cannot tell.
#[derive(Debug, Clone, Default)]
pub struct Conversion {
    /// The file with the weights.
    pub checkpoint: PathBuf,
    /// A JSON file with the configuration.
    pub config: Option<PathBuf>,
    /// The vocabulary to store beside the weights.
    pub vocab: Option<PathBuf>,
    /// Tensors to leave out: exact names, or prefixes ending in `*`.
    pub ignore: Vec<String>,
    /// The head to load, for architectures whose checkpoints may have one of several.
    pub head: Option<String>,
}

impl Conversion {
    /// For architectures whose checkpoints are all of one kind.
    ///
    /// # Errors
    /// A head that was asked for.
    pub fn without_head(&self) -> Result<()> {
        match &self.head {
            None => Ok(()),
            Some(head) => Err(crate::Error::value(
                "--head",
                head,
                "left out: this architecture's checkpoints are all of one kind",
            )),
        }
    }
}

impl Architecture {
    /// The replay for a `check` value.
    pub fn replay(&self, check: &str) -> Option<Replay> {
        self.replays
            .iter()
            .find(|(name, _)| *name == check)
            .map(|(_, replay)| *replay)
    }
}

impl std::fmt::Debug for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Architecture")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
