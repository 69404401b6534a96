//! The recipe's sections `data`, `training` and `evaluation`, and which model's keys the section `model` has.

use crate::config::NystromformerConfig;
use crate::lra::LraConfig;
use crate::pretraining::PreTrainingConfig;
use crate::tasks::BytesSpec;
use datasets::CorpusSpec;
use datasets::labelled::LabelledSpec;
use datasets::listops::ListOpsSpec;
use datasets::lra::{Folder, ListOpsFiles, LraSpec, MaxLength, Nothing, Texts};
use datasets::pathfinder::PathfinderSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use trainer::{Clock, Error, OptimizerConfig, Result, Schedule};

/// What the section `model` holds: the keys of the class that the data's `task` trains.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)] // it is only described
pub(crate) enum ModelSection {
    /// Tasks of the Long Range Arena.
    Lra(LraConfig),
    /// `pre-training`.
    PreTraining(PreTrainingConfig),
    /// `masked-lm` and `classification`.
    HuggingFace(NystromformerConfig),
}

/// What is learned. The tasks of the Long Range Arena train its classifiers, `pre-training` the official model of masked
/// words and sentence order, the other two Hugging Face's classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum DataConfig {
    /// ListOps trees, generated.
    Listops(ListOpsSpec),
    /// The published ListOps files.
    ListopsFiles(ListOpsFiles),
    /// Pathfinder-like pictures, generated.
    Pathfinder(PathfinderSpec),
    /// The published Pathfinder pictures: a folder such as `pathfinder32/curv_contour_length_14`.
    PathfinderFiles(Folder),
    /// IMDB reviews as bytes: the published folder `aclImdb`.
    Text(Texts),
    /// Pairs of papers as bytes: the published folder `tsv_data` with `new_aan_pairs.*.tsv`.
    Retrieval(Texts),
    /// Pairs of embedded passages as bytes: are they of one speech?
    RetrievalSpeeches(MaxLength),
    /// CIFAR-10 in grey: the published folder `cifar-10-batches-bin`.
    Image(Folder),
    /// Imported Fashion-MNIST in the middle of 32 x 32 pixels.
    ImageFashion(Nothing),
    /// Embedded, imported or GLUE's labelled texts or pairs of texts, byte by byte.
    Bytes(BytesSpec),
    /// Masked words and the order of sentences.
    PreTraining(TextSpec),
    /// Masked words.
    MaskedLm(TextSpec),
    /// Labelled texts or pairs of texts, as GLUE has them.
    Classification(ClassificationSpec),
}

impl Default for DataConfig {
    fn default() -> Self {
        Self::Listops(ListOpsSpec::default())
    }
}

impl DataConfig {
    /// The task as the data's crate knows it; `None` for texts.
    pub(crate) fn arena(&self) -> Option<LraSpec> {
        Some(match self.clone() {
            Self::Listops(spec) => LraSpec::Listops(spec),
            Self::ListopsFiles(spec) => LraSpec::ListopsFiles(spec),
            Self::Pathfinder(spec) => LraSpec::Pathfinder(spec),
            Self::PathfinderFiles(spec) => LraSpec::PathfinderFiles(spec),
            Self::Text(spec) => LraSpec::Text(spec),
            Self::Retrieval(spec) => LraSpec::Retrieval(spec),
            Self::RetrievalSpeeches(spec) => LraSpec::RetrievalSpeeches(spec),
            Self::Image(spec) => LraSpec::Image(spec),
            Self::ImageFashion(spec) => LraSpec::ImageFashion(spec),
            Self::Bytes(_) | Self::PreTraining(_) | Self::MaskedLm(_) | Self::Classification(_) => {
                return None;
            }
        })
    }

    /// Whether closing brackets are among the tokens; `None` where there are none anyway.
    pub fn close_bracket(&self) -> Option<bool> {
        match self {
            Self::Listops(spec) => Some(spec.close_bracket),
            Self::ListopsFiles(spec) => Some(spec.close_bracket),
            _ => None,
        }
    }
}

/// A text and how it becomes ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TextSpec {
    /// A text. Exactly one of `corpus` and `texts` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<CorpusSpec>,
    /// Labelled texts, whose labels are left aside: each is a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<LabelledSpec>,
    /// A `tokenizer.json`, a `vocab.txt` or a folder with one of them, relative to the recipe; absent: that of
    /// `training.from`, else a vocabulary is made from the training text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Most entries of a vocabulary that is made.
    pub vocab_size: usize,
    /// Whether a vocabulary that is made is of small letters.
    pub lowercase: bool,
    /// Longest sequence in tokens, special tokens included. Sequences of `masked-lm` are all so long.
    pub max_length: usize,
}

impl Default for TextSpec {
    fn default() -> Self {
        Self {
            corpus: None,
            texts: None,
            tokenizer: None,
            vocab_size: 2000,
            lowercase: true,
            max_length: 128,
        }
    }
}

/// How far sequences of a batch are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// To the longest of the batch.
    #[default]
    Longest,
    /// To `max_length`, as `landmark_policy` "strict" needs it.
    MaxLength,
}

/// Labelled texts or pairs and how they become ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassificationSpec {
    /// Which texts.
    pub texts: LabelledSpec,
    /// As in `masked-lm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Most entries of a vocabulary that is made.
    pub vocab_size: usize,
    /// Whether a vocabulary that is made is of small letters.
    pub lowercase: bool,
    /// Longest sequence in tokens, special tokens included.
    pub max_length: usize,
    /// How far sequences of a batch are padded.
    pub padding: Padding,
    /// Whether the model is told which tokens are padding; the official GLUE code does not.
    pub attention_mask: bool,
}

impl Default for ClassificationSpec {
    fn default() -> Self {
        Self {
            texts: LabelledSpec::default(),
            tokenizer: None,
            vocab_size: 2000,
            lowercase: true,
            max_length: 128,
            padding: Padding::Longest,
            attention_mask: true,
        }
    }
}

/// How the model is trained. The defaults are the official LRA code's for ListOps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Updates in all; 5000 where neither these nor `epochs` are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Times the training data are seen, instead of `steps`; for tasks whose data are examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Sequences per update.
    pub batch_size: usize,
    /// Parts the batch is cut into, whose gradients are summed; saves memory.
    pub batch_split: usize,
    /// A model folder to start from, relative to the recipe: this crate's, Hugging Face's, the official code's, or a BERT's.
    /// Its configuration counts, except for what the section `model` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Share of the words that are hidden in `pre-training` and `masked-lm`.
    pub mask_share: f64,
    /// Most words of a sequence that are hidden.
    pub most_masked: usize,
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
            steps: None,
            epochs: None,
            batch_size: 32,
            batch_split: 1,
            from: None,
            mask_share: 0.15,
            most_masked: 80,
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
    /// Checks every value, finds the number of updates, and ends an open schedule with them. `examples` are those of the
    /// training split; `None` where sequences are drawn from a text.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub fn resolved(mut self, examples: Option<usize>) -> Result<(Self, u64)> {
        for (key, n) in [
            ("steps", self.steps.unwrap_or(1) as usize),
            ("batch_size", self.batch_size),
            ("batch_split", self.batch_split),
            ("most_masked", self.most_masked),
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
        if !(self.mask_share > 0.0 && self.mask_share < 1.0) {
            let share = self.mask_share;
            let expected = "a share between 0 and 1";
            return Err(Error::value("training.mask_share", share, expected));
        }
        let steps = match (self.steps, self.epochs, examples) {
            (Some(_), Some(epochs), _) => {
                let expected = "absent, as training.steps is given";
                return Err(Error::value("training.epochs", epochs, expected));
            }
            (None, Some(epochs), None) => {
                let expected = "absent: sequences are drawn from a text; give training.steps";
                return Err(Error::value("training.epochs", epochs, expected));
            }
            (None, Some(epochs), Some(_)) if !(epochs > 0.0 && epochs.is_finite()) => {
                return Err(Error::value("training.epochs", epochs, "above 0"));
            }
            (None, Some(epochs), Some(n)) => {
                let per_epoch = n.div_ceil(self.batch_size) as f64;
                ((per_epoch * epochs).ceil() as u64).max(1)
            }
            (steps, None, _) => steps.unwrap_or(5_000),
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
    /// Sequences at a time. With `inv_coeff_init_option` false a sequence's result depends on it.
    pub batch_size: usize,
    /// Sequences drawn from a text that `pre-training` and `masked-lm` are judged by; the same ones every time.
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
