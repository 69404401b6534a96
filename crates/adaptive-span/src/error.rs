//! What can go wrong in this crate.

/// An error that names the value, the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration that the model cannot have.
    #[error("model.{key} is {found}: {expected}")]
    Config {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// An input the model cannot take.
    #[error("{input} is {found}: {expected}")]
    Input {
        /// The input's name.
        input: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// Files and weights.
    #[error(transparent)]
    Pretrained(#[from] pretrained::Error),
    /// Arguments of a kernel.
    #[error(transparent)]
    Kernel(#[from] core_attn::Error),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn config(
    key: &'static str,
    found: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::Config {
        key,
        found: found.to_string(),
        expected: expected.into(),
    }
}

pub(crate) fn input(
    input: &'static str,
    found: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::Input {
        input,
        found: found.to_string(),
        expected: expected.into(),
    }
}

#[cfg(feature = "train")]
impl From<Error> for trainer::Error {
    /// Keeps what the tools tell apart: a file that cannot be read or written is no mistake in the input.
    fn from(error: Error) -> Self {
        match error {
            Error::Pretrained(error) => Self::Pretrained(error),
            error => Self::other(error),
        }
    }
}
