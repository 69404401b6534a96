//! What can go wrong in this crate.

pub use pretrained::{ModelError as Error, ModelResult as Result};

/// An error about a key of the section `model`.
pub(crate) fn config(key: &str, found: impl ToString, expected: impl Into<String>) -> Error {
    Error::model_key(key, found, expected)
}

/// An error about an input.
pub(crate) fn input(input: &str, found: impl ToString, expected: impl Into<String>) -> Error {
    Error::input(input, found, expected)
}
