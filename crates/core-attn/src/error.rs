//! What can be wrong with a kernel's arguments.

/// An argument that a kernel cannot work with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Two arguments disagree, or one has a shape the kernel cannot take.
    #[error("{op}: `{argument}` has shape {found:?}, expected {expected}")]
    Shape {
        /// The function that was called.
        op: &'static str,
        /// The argument that does not fit.
        argument: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape in the letters of the function's documentation.
        expected: String,
    },
    /// A number lies outside its range.
    #[error("{op}: `{argument}` is {found}, {expected}")]
    Value {
        /// The function that was called.
        op: &'static str,
        /// The argument that does not fit.
        argument: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn shape(
    op: &'static str,
    argument: &'static str,
    found: &[usize],
    expected: impl Into<String>,
) -> Error {
    Error::Shape {
        op,
        argument,
        found: found.to_vec(),
        expected: expected.into(),
    }
}

pub(crate) fn value(
    op: &'static str,
    argument: &'static str,
    found: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::Value {
        op,
        argument,
        found: found.to_string(),
        expected: expected.into(),
    }
}
