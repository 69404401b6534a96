//! What can go wrong in this crate.

pub use pretrained::{ModelError as Error, ModelResult as Result};

/// An [`Error::Config`]: `key` with its value, and what is allowed.
pub fn config_error(
    key: impl Into<String>,
    found: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::config(key, found, expected)
}

/// An [`Error::Input`]: the input with what was given, and what is allowed.
pub fn input_error(
    input: impl Into<String>,
    found: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::input(input, found, expected)
}
