//! The recipe's sections `training` and `evaluation`; `model` is [`DeeBertConfig`], `data` is [`bert::BertData`].

use crate::config::DeeBertConfig;
use crate::schedule::{ExitSchedule, JointWeights};
use bert::BertConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use trainer::{Clock, Error, OptimizerConfig, Recipe, Result, Schedule};

/// How the model is trained. The defaults are the published code's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// In which order encoder and off-ramps are trained.
    pub exit_schedule: ExitSchedule,
    /// What the exits count in the joint loss.
    pub joint_weights: JointWeights,
    /// Whether the encoder is fine-tuned first in the two-stage schedule; `false` for a folder that is fine-tuned already.
    pub fine_tune: bool,
    /// Whether the encoder drops out in stage 2, as published. Without that each layer's vectors are computed once and kept, and
    /// the off-ramps train in seconds.
    pub stage2_encoder_dropout: bool,
    /// A model to start from: a folder, relative to the recipe; the name of one that was imported, such as "minilm"; or, with the
    /// feature `hub`, a published model's name. Absent: random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Updates of the first stage; absent: `epochs` over the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Times the first stage sees the data, where `steps` is absent.
    pub epochs: f64,
    /// Sequences of an update.
    pub batch_size: usize,
    /// Parts the batch is cut into, whose gradients are summed; saves memory.
    pub batch_split: usize,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the updates of a stage.
    pub schedule: Schedule,
    /// Limit of the gradients' global norm; in stage 2 that of the off-ramps' alone.
    pub clip: Option<f64>,
    /// What stage 2 does otherwise than the first.
    pub off_ramps: OffRampTraining,
    /// When to log, evaluate and write checkpoints.
    pub clock: Clock,
}

/// What stage 2 does otherwise than the first stage; what is absent is the first stage's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OffRampTraining {
    /// Updates; absent: `epochs` over the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Times the data is seen, where `steps` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Sequences of an update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// The update rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerConfig>,
    /// The learning rate over the updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            exit_schedule: ExitSchedule::TwoStage,
            joint_weights: JointWeights::Equal,
            fine_tune: true,
            stage2_encoder_dropout: true,
            from: None,
            steps: None,
            epochs: 3.0,
            batch_size: 8,
            batch_split: 1,
            optimizer: OptimizerConfig::AdamW {
                lr: 2e-5,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.0,
                bias_correction: true,
                groups: vec![],
            },
            schedule: Schedule::Linear {
                warmup: 0,
                warmup_from: 0.0,
                from_zero: true,
                steps: None,
                end_lr: 0.0,
            },
            clip: Some(1.0),
            off_ramps: OffRampTraining::default(),
            clock: Clock::default(),
        }
    }
}

/// What a stage of the run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the off-ramps, for the final classifier.
    FineTune,
    /// The off-ramps that answer.
    OffRamps,
    /// Everything, for all exits.
    Joint,
    /// Odd updates as `FineTune`, even ones as `Joint`.
    Alternating,
}

/// A stage with its lengths and rates.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StagePlan {
    pub part: Part,
    pub steps: u64,
    pub batch_size: usize,
    pub optimizer: OptimizerConfig,
    pub schedule: Schedule,
}

impl TrainingConfig {
    /// Reads the section.
    ///
    /// # Errors
    /// A key that is unknown or of the wrong type.
    pub(crate) fn read(recipe: &Recipe) -> Result<Self> {
        const NAMES: [&str; 3] = ["two_stage", "joint", "alternating"];
        if let Some(name) = recipe.training.get("schedule").and_then(|v| v.as_str())
            && NAMES.contains(&name)
        {
            return Err(Error::value(
                "training.schedule",
                format!("{name:?}"),
                format!("the learning rate over the updates; say \"exit_schedule\": {name:?}"),
            ));
        }
        recipe.section("training")
    }

    /// Checks every value and says what the stages are, for `samples` training samples and a model of `layers` layers.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub(crate) fn plan(&self, samples: usize, layers: usize) -> Result<Vec<StagePlan>> {
        if self.batch_split == 0 || !self.batch_size.is_multiple_of(self.batch_split) {
            let expected = format!("a divisor of training.batch_size = {}", self.batch_size);
            return Err(Error::value(
                "training.batch_split",
                self.batch_split,
                expected,
            ));
        }
        self.clock.validate("training.clock")?;
        let stage = |part, place: &str, ramps: &OffRampTraining| -> Result<StagePlan> {
            let batch_size = ramps.batch_size.unwrap_or(self.batch_size);
            let epochs = ramps.epochs.unwrap_or(self.epochs);
            if batch_size == 0 {
                return Err(Error::value(format!("{place}.batch_size"), 0, "at least 1"));
            }
            if !(epochs > 0.0 && epochs.is_finite()) {
                return Err(Error::value(format!("{place}.epochs"), epochs, "above 0"));
            }
            let given = match part {
                // The first stage's number of updates is not the second's unless it says so: their batches may differ.
                Part::OffRamps => ramps.steps,
                _ => self.steps,
            };
            let per_epoch = samples.div_ceil(batch_size) as f64;
            let steps = match given {
                Some(0) => return Err(Error::value(format!("{place}.steps"), 0, "at least 1")),
                Some(steps) => steps,
                None => ((per_epoch * epochs).ceil() as u64).max(1),
            };
            let schedule = ramps.schedule.as_ref().unwrap_or(&self.schedule);
            schedule.validate(&format!("{place}.schedule"))?;
            Ok(StagePlan {
                part,
                steps,
                batch_size,
                optimizer: ramps
                    .optimizer
                    .clone()
                    .unwrap_or_else(|| self.optimizer.clone()),
                schedule: schedule.over(steps),
            })
        };
        let first = |part| stage(part, "training", &OffRampTraining::default());
        let mut all = vec![];
        match self.exit_schedule {
            ExitSchedule::Joint => all.push(first(Part::Joint)?),
            ExitSchedule::Alternating => all.push(first(Part::Alternating)?),
            ExitSchedule::TwoStage => {
                if self.fine_tune {
                    all.push(first(Part::FineTune)?);
                }
                // A single layer has the final classifier and nothing to leave by.
                if layers > 1 {
                    let mut ramps = self.off_ramps.clone();
                    if ramps.steps.is_none() && ramps.epochs.is_none() {
                        ramps.steps = self.steps;
                    }
                    all.push(stage(Part::OffRamps, "training.off_ramps", &ramps)?);
                }
            }
        }
        if all.is_empty() {
            return Err(Error::value(
                "training.fine_tune",
                "false for a model of one layer",
                "true: there are no off-ramps to train",
            ));
        }
        Ok(all)
    }
}

/// How the model is evaluated and its threshold chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Sequences of a forward pass.
    pub batch_size: usize,
    /// Entropies in nats that the report's table shows. The defaults are the published sweep's.
    pub thresholds: Vec<f32>,
    /// Chooses the smallest threshold whose mean exit layer on the validation split is at most this; not with `tolerance`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_layer: Option<f64>,
    /// Chooses the largest threshold whose metric on the validation split is at least the whole model's less this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Samples of the test split whose exits are timed one by one; 0 times none.
    pub timed_samples: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            batch_size: 32,
            thresholds: vec![
                0.0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7,
            ],
            mean_layer: None,
            tolerance: None,
            timed_samples: 64,
        }
    }
}

impl EvaluationConfig {
    /// Checks every value for a model of `layers` layers.
    ///
    /// # Errors
    /// The first value that is out of range, by its path in the recipe.
    pub(crate) fn validate(&self, layers: usize) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::value("evaluation.batch_size", 0, "at least 1"));
        }
        if let Some(bad) = self.thresholds.iter().find(|t| t.is_nan()) {
            return Err(Error::value(
                "evaluation.thresholds",
                bad,
                "entropies in nats",
            ));
        }
        if let (Some(_), Some(_)) = (self.mean_layer, self.tolerance) {
            return Err(Error::value(
                "evaluation.tolerance",
                "given beside `mean_layer`",
                "one way to choose the threshold, not two",
            ));
        }
        if let Some(mean) = self.mean_layer
            && !(1.0..=layers as f64).contains(&mean)
        {
            let expected = format!("a mean exit layer from 1 to {layers}");
            return Err(Error::value("evaluation.mean_layer", mean, expected));
        }
        if let Some(tolerance) = self.tolerance
            && !(tolerance >= 0.0 && tolerance.is_finite())
        {
            return Err(Error::value(
                "evaluation.tolerance",
                tolerance,
                "0 or above",
            ));
        }
        Ok(())
    }
}

/// The recipe's section `model`, where an unknown key is an error.
///
/// # Errors
/// A key that is unknown, or a value the model cannot have.
pub(crate) fn model_section(recipe: &Recipe) -> Result<DeeBertConfig> {
    let config: DeeBertConfig = recipe.section("model")?;
    if let Some(key) = config.bert.extra.keys().next() {
        let schema = serde_json::to_value(BertConfig::default()).map_err(Error::other)?;
        let known = schema.as_object().into_iter().flat_map(|m| m.keys());
        let known = known.map(String::as_str).chain([crate::EXIT_KEY]);
        let expected = match pretrained::did_you_mean(key, known) {
            Some(near) => format!("a key of a DeeBERT's configuration; did you mean `{near}`?"),
            None => "a key of a DeeBERT's configuration".to_owned(),
        };
        return Err(Error::value(format!("model.{key}"), "unknown", expected));
    }
    if let Some(thresholds) = &config.deebert.thresholds {
        return Err(Error::value(
            "model.deebert.thresholds",
            format!("{thresholds:?}"),
            "no thresholds before the training; `evaluation.mean_layer` or `evaluation.tolerance` chooses them",
        ));
    }
    config.validate()?;
    Ok(config)
}
