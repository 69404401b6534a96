//! The recipe's sections `data`, `training` and `evaluation`; `model` is [`crate::BertConfig`].

use crate::config::BertConfig;
use datasets::CorpusSpec;
use datasets::labelled::LabelledSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use trainer::{Clock, Error, Group, OptimizerConfig, Recipe, Result, Schedule};

/// What is trained on. A `corpus` alone is for pre-training (masked words and next sentences); with `labelled` texts a
/// classifier is trained, after pre-training if `training.pretraining` asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BertData {
    /// A text to pre-train on; absent: the texts of `labelled`, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<CorpusSpec>,
    /// The texts of a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labelled: Option<LabelledSpec>,
    /// A folder with `tokenizer.json` or `vocab.txt`, relative to the recipe; absent: that of `training.from`, else a
    /// vocabulary is made from the training text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Most entries of a vocabulary that is made.
    pub vocab_size: usize,
    /// Whether a vocabulary that is made is of small letters.
    pub lowercase: bool,
    /// Longest sequence in tokens, special tokens included.
    pub max_length: usize,
}

impl Default for BertData {
    fn default() -> Self {
        Self {
            corpus: None,
            labelled: None,
            tokenizer: None,
            vocab_size: 2000,
            lowercase: true,
            max_length: 128,
        }
    }
}

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Updates in all; absent: `epochs` over the data of a classifier, 1000 in pre-training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Times the training data is seen, where `steps` is absent.
    pub epochs: f64,
    /// Sequences of an update.
    pub batch_size: usize,
    /// Parts the batch is cut into, whose gradients are summed; saves memory.
    pub batch_split: usize,
    /// A model to start from: a folder, relative to the recipe; or the name of one that was imported, such as "minilm", or, with
    /// the feature `hub`, of a published one. Absent: random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Share of the tokens that are to be guessed in pre-training.
    pub mask_share: f64,
    /// For a classifier: pre-training that comes first, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretraining: Option<PreTrainingConfig>,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the updates.
    pub schedule: Schedule,
    /// Limit of the gradients' global norm.
    pub clip: Option<f64>,
    /// When to log, evaluate and write checkpoints.
    pub clock: Clock,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: 3.0,
            batch_size: 32,
            batch_split: 1,
            from: None,
            mask_share: 0.15,
            pretraining: None,
            optimizer: OptimizerConfig::AdamW {
                lr: 5e-5,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.01,
                bias_correction: true,
                groups: no_decay(),
            },
            schedule: Schedule::Linear {
                warmup: 0,
                warmup_from: 0.0,
                from_zero: true,
                steps: None,
                end_lr: 0.0,
            },
            clip: Some(1.0),
            clock: Clock::default(),
        }
    }
}

/// How a classifier's body is pre-trained; what is absent is as in `training`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreTrainingConfig {
    /// Updates.
    pub steps: u64,
    /// Sequences of an update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Longest sequence in tokens; `data.max_length` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// The update rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerConfig>,
    /// The learning rate over the updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

impl Default for PreTrainingConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: None,
            max_length: None,
            optimizer: None,
            schedule: None,
        }
    }
}

impl TrainingConfig {
    /// The same for the pre-training that comes first.
    pub(crate) fn of_pretraining(&self, first: &PreTrainingConfig) -> Self {
        Self {
            steps: Some(first.steps),
            batch_size: first.batch_size.unwrap_or(self.batch_size),
            optimizer: first
                .optimizer
                .clone()
                .unwrap_or_else(|| self.optimizer.clone()),
            schedule: first
                .schedule
                .clone()
                .unwrap_or_else(|| self.schedule.clone()),
            pretraining: None,
            ..self.clone()
        }
    }
}

/// Biases and normalisations are not decayed.
fn no_decay() -> Vec<Group> {
    vec![Group {
        pattern: r"(bias|norm)".into(),
        lr_scale: 1.0,
        weight_decay: Some(0.0),
    }]
}

impl TrainingConfig {
    /// Checks every value, and completes the schedule for `per_epoch` updates an epoch.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub fn resolved(mut self, per_epoch: Option<u64>) -> Result<(Self, u64)> {
        for (key, n) in [
            ("batch_size", self.batch_size),
            ("batch_split", self.batch_split),
        ] {
            if n == 0 {
                return Err(Error::value(format!("training.{key}"), n, "at least 1"));
            }
        }
        if !self.batch_size.is_multiple_of(self.batch_split) {
            let expected = format!("a divisor of training.batch_size = {}", self.batch_size);
            let split = self.batch_split;
            return Err(Error::value("training.batch_split", split, expected));
        }
        if !(self.epochs > 0.0 && self.epochs.is_finite()) {
            return Err(Error::value("training.epochs", self.epochs, "above 0"));
        }
        if !(self.mask_share > 0.0 && self.mask_share < 1.0) {
            let share = self.mask_share;
            return Err(Error::value(
                "training.mask_share",
                share,
                "a share in (0, 1)",
            ));
        }
        let steps = match (self.steps, per_epoch) {
            (Some(0), _) => return Err(Error::value("training.steps", 0, "at least 1")),
            (Some(steps), _) => steps,
            (None, Some(n)) => ((n as f64 * self.epochs).ceil() as u64).max(1),
            (None, None) => 1000,
        };
        self.clock.validate("training.clock")?;
        self.schedule.validate("training.schedule")?;
        self.schedule = self.schedule.over(steps);
        Ok((self, steps))
    }
}

/// How the model is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Sequences of a forward pass.
    pub batch_size: usize,
    /// Sequences that pre-training is judged by; the same ones every time.
    pub sequences: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            batch_size: 32,
            sequences: 256,
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
            ("batch_size", self.batch_size),
            ("sequences", self.sequences),
        ] {
            if n == 0 {
                return Err(Error::value(format!("evaluation.{key}"), n, "at least 1"));
            }
        }
        Ok(())
    }
}

/// The recipe's section `model`, where an unknown key is an error, and whether it says how many token ids there are.
///
/// # Errors
/// A key that is unknown, or a value the model cannot have.
pub(crate) fn model_section(recipe: &Recipe) -> Result<(BertConfig, bool)> {
    let config: BertConfig = recipe.section("model")?;
    if let Some(key) = config.extra.keys().next() {
        let schema = serde_json::to_value(BertConfig::default()).map_err(Error::other)?;
        let known = schema.as_object().into_iter().flat_map(|m| m.keys());
        let near = pretrained::did_you_mean(key, known.map(String::as_str));
        let expected = match near {
            Some(near) => format!("a key of a BERT's configuration; did you mean `{near}`?"),
            None => "a key of a BERT's configuration".to_owned(),
        };
        return Err(Error::value(format!("model.{key}"), "unknown", expected));
    }
    config.validate().map_err(Error::other)?;
    Ok((config, recipe.model.get("vocab_size").is_some()))
}
