//! What can go wrong in this crate.

use std::path::PathBuf;

/// An error that names the value, the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration that the model cannot have.
    #[error("{key} is {found}: {expected}")]
    Config {
        /// The configuration's key.
        key: String,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// An input the model cannot take.
    #[error("{input} is {found}: {expected}")]
    Input {
        /// The input's name, with the place inside it.
        input: String,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A tokenizer that cannot be read or does not fit the model.
    #[error("{file}: {message}")]
    Tokenizer {
        /// The file, or what stands for it.
        file: PathBuf,
        /// What is wrong, and what to do.
        message: String,
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

/// An [`Error::Config`]: `key` with its value, and what is allowed.
pub fn config_error(
    key: impl Into<String>,
    found: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::Config {
        key: key.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

/// An [`Error::Input`]: the input with what was given, and what is allowed.
pub fn input_error(
    input: impl Into<String>,
    found: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::Input {
        input: input.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}
