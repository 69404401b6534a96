//! The recipe's sections `training` and `evaluation`; `model` is [`crate::AdaptiveSpanConfig`], `data` is
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
    #[serde(alias = "batch")]
    pub batch_size: usize,
    /// Tokens per row and update.
    pub block_size: usize,
    /// Parts the batch is cut into, whose gradients are summed; saves memory.
    pub batch_split: usize,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the updates.
    pub schedule: Schedule,
    /// Limit of the gradients' global norm; the update rule `adagrad-grad-clip` has a limit of its own.
    pub clip: Option<f64>,
    /// Decay of averaged weights used in evaluation.
    pub ema: Option<f64>,
    /// When to log, evaluate and write checkpoints.
    pub clock: Clock,
    /// Upstream's spelling of the update rule: `adagrad`, `sgd` or `adam`, with the four keys below. Written back as
    /// `optimizer`, `schedule` and `clip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optim: Option<String>,
    /// Upstream's spelling of the learning rate; needs `optim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Upstream's spelling of the momentum of `sgd` (0.9 where absent, as there); needs `optim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Upstream's spelling of the warm-up; needs `optim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_warmup: Option<u64>,
    /// Upstream's spelling of the clip; needs `optim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_clip: Option<f64>,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 64,
            block_size: 512,
            batch_split: 1,
            optimizer: upstream_adagrad(0.07, Some(0.03)),
            schedule: constant(0),
            clip: None,
            ema: None,
            clock: Clock::default(),
            optim: None,
            lr: None,
            momentum: None,
            lr_warmup: None,
            grad_clip: None,
        }
    }
}

fn constant(warmup: u64) -> Schedule {
    Schedule::Constant {
        warmup,
        warmup_from: 0.0,
        from_zero: false,
    }
}

fn upstream_adagrad(lr: f64, grad_clip: Option<f64>) -> OptimizerConfig {
    OptimizerConfig::AdagradGradClip {
        lr,
        grad_clip,
        eps: 1e-10,
        groups: vec![],
    }
}

impl TrainingConfig {
    /// Turns upstream's spellings into ours and checks every value.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub fn resolved(mut self) -> Result<Self> {
        let flat = [
            ("lr", self.lr.is_some()),
            ("momentum", self.momentum.is_some()),
            ("lr_warmup", self.lr_warmup.is_some()),
            ("grad_clip", self.grad_clip.is_some()),
        ];
        match self.optim.take() {
            None => {
                if let Some((key, _)) = flat.iter().find(|(_, given)| *given) {
                    return Err(Error::value(
                        format!("training.{key}"),
                        "given without `training.optim`",
                        "use training.optimizer, training.schedule and training.clip, or name the rule by `optim`",
                    ));
                }
            }
            Some(rule) => {
                let lr = self.lr.take().ok_or_else(|| {
                    Error::value(
                        "training.lr",
                        "absent",
                        "`training.optim` needs a learning rate",
                    )
                })?;
                if self.momentum.is_some() && rule != "sgd" {
                    let expected = "absent: only `sgd` has one";
                    return Err(Error::value("training.momentum", "given", expected));
                }
                let clip = self.grad_clip.take().filter(|c| *c > 0.0);
                self.optimizer = match rule.as_str() {
                    "adagrad" => upstream_adagrad(lr, clip),
                    "sgd" => section(serde_json::json!({
                        "name": "sgd", "lr": lr, "momentum": self.momentum.unwrap_or(0.9)
                    }))?,
                    "adam" => section(serde_json::json!({ "name": "adam", "lr": lr }))?,
                    other => {
                        return Err(Error::value(
                            "training.optim",
                            format!("{other:?}"),
                            "one of \"adagrad\", \"sgd\", \"adam\"",
                        ));
                    }
                };
                if rule != "adagrad" {
                    self.clip = clip.or(self.clip);
                }
                self.schedule = constant(self.lr_warmup.take().unwrap_or(0));
                self.momentum = None;
            }
        }
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
            return Err(Error::value(
                "training.block_size",
                self.block_size,
                expected,
            ));
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

fn section<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(Error::other)
}

/// How the model is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Rows the file is cut into; each starts with an empty past, so fewer rows mean fewer cold starts.
    pub batch_size: usize,
    /// Tokens per block; absent: as in training.
    pub block_size: Option<usize>,
    /// Validation during training runs over this many blocks only and carries its own past from one to the next, as
    /// published; absent: over the whole split from an empty past.
    pub valid_blocks: Option<usize>,
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
            valid_blocks: None,
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
            ("valid_blocks", self.valid_blocks),
        ] {
            if n == Some(0) {
                return Err(Error::value(format!("evaluation.{key}"), 0, "at least 1"));
            }
        }
        self.sample.validate("evaluation.sample")
    }
}
