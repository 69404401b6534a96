//! The two nouns of a run: a recipe brought to life, and a trained model.

use crate::{
    CheckpointReader, CheckpointWriter, Context, Error, Figure, Generate, Metrics, Predict, Result,
    Sample, Scalars, Score,
};
use core_attn::random::Key;
use pretrained::NamedTensors;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A recipe brought to life: it owns models, optimisers, data cursors and every state carried between steps.
///
/// The runner decides when something happens; the experiment decides what. Everything that influences a later step must go
/// through [`save`](Self::save) and [`restore`](Self::restore), and all randomness must come from [`Step::key`]: then a run that was
/// killed and resumed equals one that was not, bit for bit on a CPU.
pub trait Experiment {
    /// The stages of the run, in order. At least one; the list must not change during a run.
    fn stages(&self) -> Vec<Stage>;

    /// Does one update, whatever that is here: a block of a stream, an adversarial pair, one generation of a search.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn train_step(&mut self, at: Step, cx: &mut Context) -> Result<Scalars>;

    /// Measures the current state on a split; the training state stays as it is.
    ///
    /// # Errors
    /// Whatever stops the run. A long evaluation may return [`Error::Cancelled`](crate::Error::Cancelled) when [`Context::cancelled`] says so; it is then repeated on resume.
    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics>;

    /// Writes everything that a later step depends on.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn save(&self, to: &mut CheckpointWriter) -> Result<()>;

    /// Takes up the state that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    fn restore(&mut self, from: &CheckpointReader) -> Result<()>;

    /// Writes the result as a model folder; `dir` exists and is empty.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn export(&self, dir: &Path) -> Result<()>;

    /// Takes the weights of a model folder instead of the initial ones, to evaluate them on the recipe's data.
    ///
    /// # Errors
    /// When the folder does not fit the recipe, or the architecture does not support this.
    fn load_model(&mut self, _dir: &Path) -> Result<()> {
        Err(Error::Unsupported {
            what: "evaluating a model folder".to_owned(),
            remedy: "evaluate a run folder of this architecture".to_owned(),
        })
    }

    /// Called once when a stage is entered at its first step, and not again when the run is resumed later in that stage.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn begin_stage(&mut self, _stage: usize, _cx: &mut Context) -> Result<()> {
        Ok(())
    }

    /// The number of scalars in the weights.
    fn parameters(&self) -> Option<usize> {
        None
    }

    /// What one training step consumes, for rates such as tokens per second.
    fn work_per_step(&self) -> Option<Work> {
        None
    }

    /// How many tokens back the output of a language model can depend on, as it stands.
    fn reach(&self) -> Option<usize> {
        None
    }

    /// Facts worth knowing before the run starts: name and value.
    fn summary(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Figures to print beside the result, such as the entropy of the test split.
    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }

    /// What this architecture adds to the report.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }

    /// Samples of the result, made once at the end of the run.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn samples(&mut self, _cx: &mut Context) -> Result<Vec<Sampled>> {
        Ok(Vec::new())
    }

    /// The ability to continue a text.
    fn generator(&mut self) -> Option<&mut dyn Generate> {
        None
    }

    /// The ability to answer one input.
    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        None
    }

    /// The ability to draw samples from nothing.
    fn sampler(&mut self) -> Option<&mut dyn Sample> {
        None
    }

    /// The ability to say how likely each token of a text is.
    fn scorer(&mut self) -> Option<&mut dyn Score> {
        None
    }
}

/// A trained model as the tools see it: named tensors in, named tensors out.
pub trait Pretrained {
    /// Runs the model on named inputs.
    ///
    /// # Errors
    /// When an input is missing or has a wrong shape.
    fn forward(&mut self, inputs: NamedTensors) -> Result<NamedTensors>;

    /// Writes the model folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn save(&self, dir: &Path) -> Result<()>;

    /// Facts about the model: name and value.
    fn describe(&self) -> Vec<(String, String)>;

    /// The ability to continue a text.
    fn generator(&mut self) -> Option<&mut dyn Generate> {
        None
    }

    /// The ability to answer one input.
    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        None
    }

    /// The ability to draw samples from nothing.
    fn sampler(&mut self) -> Option<&mut dyn Sample> {
        None
    }
}

/// A stretch of a run with one aim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, unique within the run.
    pub name: String,
    /// How many training steps it has, at least 1.
    pub steps: u64,
    /// By what it is judged; without one no best state is kept and the stage is not evaluated.
    pub objective: Option<Objective>,
}

impl Stage {
    /// A stage judged by an objective.
    pub fn new(name: impl Into<String>, steps: u64, objective: Objective) -> Self {
        Self {
            name: name.into(),
            steps,
            objective: Some(objective),
        }
    }

    /// A stage that is not evaluated, such as the extraction of a network that an earlier stage found.
    pub fn unscored(name: impl Into<String>, steps: u64) -> Self {
        Self {
            name: name.into(),
            steps,
            objective: None,
        }
    }
}

/// A metric of the validation split and which way it should go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// The name of the metric, as [`Experiment::evaluate`] gives it.
    pub metric: String,
    /// Which way is better.
    pub direction: Direction,
}

impl Objective {
    /// Less is better.
    pub fn minimize(metric: impl Into<String>) -> Self {
        Self {
            metric: metric.into(),
            direction: Direction::Minimize,
        }
    }

    /// More is better.
    pub fn maximize(metric: impl Into<String>) -> Self {
        Self {
            metric: metric.into(),
            direction: Direction::Maximize,
        }
    }
}

/// Which way a metric should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Less is better.
    Minimize,
    /// More is better.
    Maximize,
}

impl Direction {
    /// Whether `new` is better than `old` by more than `by`; NaN is never better.
    pub fn improves(self, new: f64, old: f64, by: f64) -> bool {
        match self {
            Self::Minimize => new < old - by,
            Self::Maximize => new > old + by,
        }
    }
}

/// Where a run stands when it asks for a training step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The index of the stage.
    pub stage: usize,
    /// The step within the stage, counted from 0.
    pub step: u64,
    /// The step within the run, counted from 0.
    pub global: u64,
    /// The source of all randomness of this step: a function of the seed of the recipe and of `global`.
    pub key: Key,
}

impl Step {
    /// The step `step` of a stage, with the key that follows from `seed` and `global`.
    pub fn new(seed: u64, stage: usize, step: u64, global: u64) -> Self {
        Self {
            stage,
            step,
            global,
            key: Key::new(seed).fold(global),
        }
    }

    /// The number of the update within the stage, counted from 1, as schedules count.
    pub fn update(&self) -> u64 {
        self.step + 1
    }
}

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What is learned from.
    Train,
    /// What decides between states and settings.
    Valid,
    /// What is reported at the end.
    Test,
}

impl Split {
    /// `train`, `valid` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// What one training step consumes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// How much.
    pub amount: f64,
    /// Of what, in the plural ("tokens").
    pub unit: &'static str,
}

/// A known figure to print beside a metric of the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// What it is ("order-0 entropy of the test split").
    pub name: String,
    /// The metric it compares with.
    pub metric: String,
    /// Its value, in the unit of the metric.
    pub value: f64,
}

/// A sample of a trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// What it is, and from which prompt.
    pub title: String,
    /// The sample.
    pub text: String,
}
