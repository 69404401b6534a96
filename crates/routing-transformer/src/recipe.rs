//! The recipe's sections `training` and `evaluation`; `model` is [`crate::RoutingTransformerConfig`], `data` is
//! [`datasets::CorpusSpec`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trainer::{Clock, Error, OptimizerConfig, Result, Sampling, Schedule};

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Updates in all.
    pub steps: u64,
    /// Rows of the stream.
    pub batch_size: usize,
    /// Tokens per row and update; a text begins anew with every block.
    pub block_size: usize,
    /// Parts the batch is cut into, whose gradients are summed and whose counts of the clusters are added up; saves memory.
    pub batch_split: usize,
    /// Cuts every block to a length drawn from 2 to `block_size`, for models that are to continue short prompts.
    pub random_truncation: bool,
    /// Share of tokens hidden and asked for, where attention is not causal.
    pub masked_share: f64,
    /// Keeps the centroids where they are: a baseline.
    pub freeze_centroids: bool,
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
        Self {
            steps: 1000,
            batch_size: 8,
            block_size: 512,
            batch_split: 1,
            random_truncation: false,
            masked_share: 0.15,
            freeze_centroids: false,
            optimizer: OptimizerConfig::Adafactor {
                lr: 0.01,
                decay_power: 0.8,
                clip: 1.0,
                eps: [1e-30, 1e-3],
                weight_decay: 0.0,
                groups: vec![],
            },
            schedule: Schedule::InverseSqrt {
                warmup: 10_000,
                // As high as the base rate: flat, then falling.
                warmup_from: 0.01,
                from_zero: false,
                min_lr: 0.0,
            },
            clip: None,
            ema: None,
            clock: Clock::default(),
        }
    }
}

impl TrainingConfig {
    /// Checks every value and gives a decay without an end that of the stage.
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
        if self.block_size < 2 {
            let expected = "at least 2 tokens, so that a block holds a past and a target";
            let at = "training.block_size";
            return Err(Error::value(at, self.block_size, expected));
        }
        if !self.batch_size.is_multiple_of(self.batch_split) {
            let expected = format!("a divisor of training.batch_size = {}", self.batch_size);
            let at = "training.batch_split";
            return Err(Error::value(at, self.batch_split, expected));
        }
        if !(self.masked_share > 0.0 && self.masked_share < 1.0) {
            let at = "training.masked_share";
            return Err(Error::value(
                at,
                self.masked_share,
                "a share between 0 and 1",
            ));
        }
        self.clock.validate("training.clock")?;
        self.schedule.validate("training.schedule")?;
        self.schedule = self.schedule.over(self.steps);
        Ok(self)
    }
}

/// How the model is evaluated: in windows that do not overlap, each token scored from what its window holds before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Windows that run side by side.
    pub batch_size: usize,
    /// Tokens per window; absent: as in training.
    pub block_size: Option<usize>,
    /// Pictures of a split that are scored, the first ones; absent: all.
    pub pictures: Option<usize>,
    /// What the sample at the end of the run continues; absent: the beginning of the test split.
    pub prompt: Option<String>,
    /// How the sample at the end of the run is drawn.
    pub sample: Sampling,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            batch_size: 8,
            block_size: None,
            pictures: None,
            prompt: None,
            sample: Sampling::default(),
        }
    }
}

impl EvaluationConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub fn validate(&self) -> Result<()> {
        for (key, n) in [
            ("batch_size", Some(self.batch_size)),
            ("block_size", self.block_size),
            ("pictures", self.pictures),
        ] {
            if n == Some(0) {
                return Err(Error::value(format!("evaluation.{key}"), 0, "at least 1"));
            }
        }
        self.sample.validate("evaluation.sample")
    }
}
