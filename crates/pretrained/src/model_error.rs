//! What can go wrong in a model: its configuration, its inputs, its files, the arguments of its kernels.

use std::path::PathBuf;

/// An error of a model that names the value, the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A value of the configuration that the model cannot have.
    #[error("{key} is {found}: {expected}")]
    Config {
        /// The configuration's key, with the section where it stands in one.
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
    Pretrained(#[from] crate::Error),
    /// Arguments of a kernel.
    #[error(transparent)]
    Kernel(#[from] core_attn::Error),
}

/// A result of a model.
pub type ModelResult<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    /// A [`Config`](Self::Config): `key` with its value, and what is allowed.
    pub fn config(
        key: impl Into<String>,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Config {
            key: key.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// As [`config`](Self::config), for a key of a recipe's section `model`.
    pub fn model_key(key: &str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::config(format!("model.{key}"), found, expected)
    }

    /// An [`Input`](Self::Input): the input with what was given, and what is allowed.
    pub fn input(
        input: impl Into<String>,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Input {
            input: input.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}
