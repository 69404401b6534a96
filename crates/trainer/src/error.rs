//! What can go wrong in a run, with the value, the place and the remedy.

use std::path::PathBuf;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong while a recipe is read or a run is carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model folder, a tensor file or a JSON document could not be read or written.
    #[error(transparent)]
    Pretrained(#[from] pretrained::Error),
    /// The file system refused.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb ("write", "lock").
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The recipe itself is wrong.
    #[error("{}: {at}: {message}", file.display())]
    Recipe {
        /// The recipe.
        file: PathBuf,
        /// Where in it, as a dotted path.
        at: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A value is out of range.
    #[error("{at} is {found}, expected {expected}")]
    Value {
        /// The dotted path of the value.
        at: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// The run was asked to stop and did so after writing a checkpoint.
    #[error("the run was stopped on request; {}", kept(checkpoint))]
    Cancelled {
        /// The checkpoint to go on from.
        checkpoint: Option<PathBuf>,
    },
    /// A loss or another scalar of a training step became NaN or infinite.
    #[error(
        "{scalar} became {value} at step {step} (noticed while reading steps {first} to {last}); {}; lower the learning rate, clip the gradient or lengthen the warm-up",
        kept(checkpoint)
    )]
    NotFinite {
        /// Which scalar.
        scalar: String,
        /// Its value, NaN or infinite.
        value: f64,
        /// The first step with such a value, counted from 1 over the whole run.
        step: u64,
        /// The first of the steps whose scalars were read together.
        first: u64,
        /// The last of them.
        last: u64,
        /// The last good checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// Another process trains in this folder.
    #[error("the run folder {} is in use by another process; wait for it or choose another folder with --out", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// A new run would overwrite something.
    #[error("the folder {} is not empty; choose another with --out, or continue the run in it with --resume", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// There is nothing to resume or to read.
    #[error("{} is not a run folder: {missing} is missing", dir.display())]
    NoRun {
        /// The folder.
        dir: PathBuf,
        /// The file that a run folder would have.
        missing: &'static str,
    },
    /// A run is to be resumed with a recipe that is not its own.
    #[error("the run in {} was started with another recipe: {at} was {was}, now {now}; start a new run with --out, or resume without the change (training.steps and training.clock may change)", dir.display())]
    OtherRecipe {
        /// The run folder.
        dir: PathBuf,
        /// The first difference, as a dotted path.
        at: String,
        /// The value the run was started with.
        was: String,
        /// The value given now.
        now: String,
    },
    /// Every checkpoint of a run is damaged.
    #[error("no usable checkpoint in {}: {reasons}; remove that folder to start again from the first step", dir.display())]
    NoGoodCheckpoint {
        /// The folder of checkpoints.
        dir: PathBuf,
        /// What is wrong with each.
        reasons: String,
    },
    /// A stage is judged by a metric that its evaluation does not give.
    #[error("stage `{stage}` is judged by `{metric}`, but the evaluation gives {known}")]
    Objective {
        /// The stage.
        stage: String,
        /// The metric asked for.
        metric: String,
        /// The metrics there are.
        known: String,
    },
    /// A checkpoint does not fit what it should be restored into.
    #[error("the state `{what}` does not fit: {problems}")]
    State {
        /// Which part of the checkpoint.
        what: String,
        /// The misfits.
        problems: String,
    },
    /// A loss cannot be differentiated, or an update cannot be made.
    #[error("{what}: {remedy}")]
    Update {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A golden case is malformed.
    #[error("{}: {message}", file.display())]
    Golden {
        /// The case.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A chart could not be drawn.
    #[error("could not draw `{title}`: {message}")]
    Plot {
        /// The chart.
        title: String,
        /// Why.
        message: String,
    },
    /// Reading values from the device failed.
    #[error("could not read values from the device: {0}")]
    Device(String),
    /// Something is asked for that this experiment or model cannot do.
    #[error("{what} is not possible here: {remedy}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do instead.
        remedy: String,
    },
    /// An error of an architecture or of its data.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl From<pretrained::ModelError> for Error {
    /// Keeps what the tools tell apart: a file that cannot be read or written is no mistake in the input.
    fn from(error: pretrained::ModelError) -> Self {
        match error {
            pretrained::ModelError::Pretrained(error) => Self::Pretrained(error),
            error => Self::other(error),
        }
    }
}

impl Error {
    /// Wraps an error of an architecture or of its data.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// The error of an experiment that gives up because [`Context::cancelled`](crate::Context::cancelled) says so.
    pub fn cancelled() -> Self {
        Self::Cancelled { checkpoint: None }
    }

    /// A value out of range: `Error::value("training.batch_size", 0, "a positive number")`.
    pub fn value(
        at: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Value {
            at: at.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// A file system error with what was tried and where.
    pub fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

fn kept(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "there is no checkpoint yet".to_owned(),
    }
}
