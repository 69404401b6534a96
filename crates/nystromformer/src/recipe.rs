//! The recipe's sections `data`, `training` and `evaluation`; `model` is [`crate::LraConfig`].

use datasets::listops::{self, ListOpsSpec};
use datasets::pathfinder::PathfinderSpec;
use datasets::sequences::Sequences;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use trainer::{Clock, Error, OptimizerConfig, Recipe, Result, Schedule};

/// A task of the Long Range Arena.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum DataConfig {
    /// ListOps trees, generated.
    Listops(ListOpsSpec),
    /// The published ListOps files.
    ListopsFiles(ListOpsFiles),
    /// Pathfinder-like pictures, generated.
    Pathfinder(PathfinderSpec),
}

/// Where the published ListOps files are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListOpsFiles {
    /// The folder with `basic_train.tsv`, `basic_val.tsv` and `basic_test.tsv`.
    pub path: PathBuf,
    /// Whether closing brackets stay; upstream's tokenizer drops them.
    #[serde(default = "keep")]
    pub close_bracket: bool,
}

fn keep() -> bool {
    true
}

impl Default for DataConfig {
    fn default() -> Self {
        Self::Listops(ListOpsSpec::default())
    }
}

impl DataConfig {
    /// Generates or reads the sequences.
    ///
    /// # Errors
    /// Values that make no sense, files that are missing or malformed.
    pub fn load(&self, recipe: &Recipe) -> Result<Sequences> {
        match self {
            Self::Listops(spec) => spec.generate(),
            Self::ListopsFiles(files) => {
                listops::read(&recipe.path(&files.path), files.close_bracket)
            }
            Self::Pathfinder(spec) => spec.generate(),
        }
        .map_err(Error::other)
    }

    /// Whether closing brackets are among the tokens; `None` where there are none anyway.
    pub fn close_bracket(&self) -> Option<bool> {
        match self {
            Self::Listops(spec) => Some(spec.close_bracket),
            Self::ListopsFiles(files) => Some(files.close_bracket),
            Self::Pathfinder(_) => None,
        }
    }
}

/// How the model is trained. The defaults are the official LRA code's for ListOps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Updates in all.
    pub steps: u64,
    /// Sequences per update.
    pub batch_size: usize,
    /// Parts the batch is cut into, whose gradients are summed; saves memory.
    pub batch_split: usize,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the updates.
    pub schedule: Schedule,
    /// Limit of the gradients' global norm.
    pub clip: Option<f64>,
    /// Decay of averaged weights used in evaluation.
    pub ema: Option<f64>,
    /// When to log, evaluate and write checkpoints.
    pub clock: Clock,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        const LR: f64 = 1e-4;
        Self {
            steps: 5_000,
            batch_size: 32,
            batch_split: 1,
            optimizer: OptimizerConfig::AdamW {
                lr: LR,
                betas: [0.9, 0.999],
                eps: 1e-6,
                weight_decay: 0.0,
                bias_correction: true,
                groups: vec![],
            },
            // torch's OneCycleLR with a linear anneal.
            schedule: Schedule::Linear {
                warmup: 1_000,
                warmup_from: LR / 25.0,
                from_zero: false,
                steps: None,
                end_lr: LR / 25.0 / 1e4,
            },
            clip: None,
            ema: None,
            clock: Clock::default(),
        }
    }
}

impl TrainingConfig {
    /// Checks every value and ends an open schedule with the run.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub fn resolved(mut self) -> Result<Self> {
        for (key, n) in [
            ("steps", self.steps as usize),
            ("batch_size", self.batch_size),
            ("batch_split", self.batch_split),
        ] {
            if n == 0 {
                return Err(Error::value(format!("training.{key}"), n, "at least 1"));
            }
        }
        if !self.batch_size.is_multiple_of(self.batch_split) {
            let expected = format!("a divisor of training.batch_size = {}", self.batch_size);
            return Err(Error::value(
                "training.batch_split",
                self.batch_split,
                expected,
            ));
        }
        self.clock.validate("training.clock")?;
        self.schedule.validate("training.schedule")?;
        self.schedule = self.schedule.over(self.steps);
        Ok(self)
    }
}

/// How the model is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Sequences at a time. With `inv_coeff_init_option` false a sequence's result depends on it.
    pub batch_size: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { batch_size: 32 }
    }
}
