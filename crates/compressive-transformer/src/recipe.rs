//! The recipe's sections `training` and `evaluation`, and the schema of `model`; `data` is [`datasets::CorpusSpec`].

use crate::config::CompressiveTransformerConfig;
use crate::lucidrains_config::LucidrainsConfig;
use crate::memory::MemorySizes;
use crate::profile::ModelConfig;
use crate::schedule::UpdateSchedule;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use trainer::{Clock, Error, OptimizerConfig, Result, Sampling, Schedule};

/// How the model is trained (section 5 of the paper).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Steps in all: chunks read, or groups of `bptt_unroll` chunks where the compression loss is "bptt".
    pub steps: u64,
    /// Rows of the stream.
    pub batch_size: usize,
    /// The update rule of the model.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// Limit of the global norm of the model's gradients.
    pub clip: Option<f64>,
    /// The update rule of the compression functions; absent: another instance of `optimizer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressor_optimizer: Option<OptimizerConfig>,
    /// Its learning rate over the steps; absent: `schedule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressor_schedule: Option<Schedule>,
    /// Limit of the global norm of the compression functions' gradients; absent: `clip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressor_clip: Option<f64>,
    /// One limit `clip` for the norm of all gradients together, instead of one for each part.
    pub joint_clip: bool,
    /// How often parameters are updated.
    pub update_every: UpdateSchedule,
    /// Chunks that one backward pass goes through where the compression loss is "bptt".
    pub bptt_unroll: usize,
    /// When to log, evaluate and write checkpoints.
    pub clock: Clock,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 16,
            optimizer: OptimizerConfig::Adam {
                lr: 3e-4,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.0,
                bias_correction: true,
                groups: vec![],
            },
            schedule: Schedule::default(),
            clip: Some(0.1),
            compressor_optimizer: None,
            compressor_schedule: None,
            compressor_clip: None,
            joint_clip: false,
            update_every: UpdateSchedule::default(),
            bptt_unroll: 2,
            clock: Clock::default(),
        }
    }
}

impl TrainingConfig {
    /// Gives open schedules their end and checks every value.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub fn resolved(mut self) -> Result<Self> {
        for (key, n) in [
            ("steps", self.steps as usize),
            ("batch_size", self.batch_size),
        ] {
            if n == 0 {
                return Err(Error::value(format!("training.{key}"), n, "at least 1"));
            }
        }
        if self.bptt_unroll < 2 {
            return Err(Error::value(
                "training.bptt_unroll",
                self.bptt_unroll,
                "at least 2: a row compressed in one chunk is first read in the next, so with 1 the compression functions would have no gradient",
            ));
        }
        if self.joint_clip && self.compressor_clip.is_some() {
            return Err(Error::value(
                "training.compressor_clip",
                "given with `joint_clip`",
                "one of the two",
            ));
        }
        self.update_every.validate("training.update_every")?;
        self.clock.validate("training.clock")?;
        self.schedule.validate("training.schedule")?;
        self.schedule = self.schedule.over(self.steps);
        if let Some(schedule) = self.compressor_schedule.take() {
            schedule.validate("training.compressor_schedule")?;
            self.compressor_schedule = Some(schedule.over(self.steps));
        }
        Ok(self)
    }
}

/// Other sizes of the memories in evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalMemory {
    /// Rows of the ordinary memory.
    pub memory_size: usize,
    /// Rows of the compressed memory.
    pub compressed_memory_size: usize,
}

impl From<EvalMemory> for MemorySizes {
    fn from(sizes: EvalMemory) -> Self {
        Self {
            episodic: sizes.memory_size,
            compressed: sizes.compressed_memory_size,
        }
    }
}

/// White-space words of the original text of the splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// Of the validation split.
    pub valid: u64,
    /// Of the test split.
    pub test: u64,
}

/// How the model is evaluated (section 5 of the paper).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Rows a single text is cut into; each starts with blank memories, so fewer rows mean fewer cold starts. Documents are read
    /// one after another.
    pub batch_size: usize,
    /// Other sizes of the memories than in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_memory: Option<EvalMemory>,
    /// Report the perplexity per white-space word of the text as well, whatever the tokens are.
    pub word_perplexity: bool,
    /// Words to divide by for that; absent: counted in the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<Words>,
    /// What the sample at the end of the run continues; absent: the beginning of the test split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// How the sample at the end of the run is drawn.
    pub sample: Sampling,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            batch_size: 4,
            eval_memory: None,
            word_perplexity: false,
            words: None,
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
        if self.batch_size == 0 {
            return Err(Error::value("evaluation.batch_size", 0, "at least 1"));
        }
        for (key, n) in self
            .words
            .iter()
            .flat_map(|w| [("valid", w.valid), ("test", w.test)])
        {
            if n == 0 {
                return Err(Error::value(
                    format!("evaluation.words.{key}"),
                    0,
                    "at least 1",
                ));
            }
        }
        self.sample.validate("evaluation.sample")
    }
}

/// The keys of both profiles and the one that tells them apart.
impl JsonSchema for ModelConfig {
    fn schema_name() -> Cow<'static, str> {
        "CompressiveTransformerModel".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = CompressiveTransformerConfig::json_schema(generator);
        let other = LucidrainsConfig::json_schema(generator);
        let more = other.get("properties").and_then(|p| p.as_object()).cloned();
        let keys = schema
            .ensure_object()
            .entry("properties")
            .or_insert_with(|| serde_json::json!({}));
        if let Some(keys) = keys.as_object_mut() {
            keys.insert(
                "model_type".into(),
                serde_json::json!({ "const": "compressive-transformer" }),
            );
            keys.insert(
                "profile".into(),
                serde_json::json!({
                    "enum": ["deepmind", "lucidrains"],
                    "default": "deepmind",
                    "description": "Which upstream's keys and computations the others are: the authors' released code, or the PyTorch package."
                }),
            );
            for (key, mut value) in more.into_iter().flatten() {
                if let Some(value) = value.as_object_mut() {
                    let text = value
                        .get("description")
                        .and_then(|d| d.as_str())
                        .unwrap_or("");
                    let text = format!("Profile lucidrains. {text}");
                    value.insert("description".into(), text.into());
                }
                keys.entry(key).or_insert(value);
            }
        }
        schema.ensure_object().remove("required");
        schema
    }
}
