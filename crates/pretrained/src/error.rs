//! What can go wrong with a model folder, in words a user can act on.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Most problems an [`Error::Tensors`] prints; the rest is counted.
const SHOWN_PROBLEMS: usize = 20;

/// Longest message taken over from a parser, in characters: a damaged file can put anything into it.
const LONGEST_MESSAGE: usize = 600;

/// A file, a JSON value or a set of tensors that cannot be used.
///
/// The message holds the whole reason, so the chain of [`std::error::Error::source`] ends here.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: `read`, `write`.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A JSON text that does not fit the type it is read as.
    Json {
        /// The file the text comes from.
        file: PathBuf,
        /// The place inside, such as `model.hidden_size`; empty for the whole text.
        at: String,
        /// What is wrong there.
        message: String,
        /// What to do about it, where that is known.
        hint: Option<String>,
    },
    /// A weights file whose structure is damaged, truncated or hostile.
    Header {
        /// The file.
        file: PathBuf,
        /// What does not hold.
        message: String,
    },
    /// A file of a kind that holds no weights this crate can read.
    Format {
        /// The file.
        file: PathBuf,
        /// What the file is.
        found: String,
        /// What to do instead.
        remedy: String,
    },
    /// Tensors that do not fit the model: all of them, sorted by name.
    Tensors {
        /// The file the tensors come from.
        file: PathBuf,
        /// One entry per tensor.
        problems: Vec<TensorProblem>,
    },
    /// A published model that cannot be had.
    Hub {
        /// Its name.
        name: String,
        /// Why, and what to do about it.
        message: String,
    },
    /// A value that was given and cannot be used.
    Value {
        /// Its name or place, such as `model.nb_heads`.
        at: String,
        /// The value as given.
        value: String,
        /// What it must be.
        message: String,
    },
}

impl Error {
    /// An [`Error::Value`]: `at` names the value, `message` says what it must be.
    pub fn value(
        at: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        Self::Value {
            at: at.into(),
            value: value.to_string(),
            message: message.into(),
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            action,
            source,
        }
    }

    pub(crate) fn header(file: &Path, message: impl Into<String>) -> Self {
        Self::Header {
            file: file.to_path_buf(),
            message: shortened(message.into()),
        }
    }

    pub(crate) fn format(file: &Path, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Format {
            file: file.to_path_buf(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

pub(crate) fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
        message.truncate(end);
        message.push_str(" ...");
    }
    message
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                path,
                action,
                source,
            } => write!(f, "cannot {action} {}: {source}", path.display()),
            Self::Json {
                file,
                at,
                message,
                hint,
            } => {
                write!(f, "{}: ", file.display())?;
                if !at.is_empty() {
                    write!(f, "{at}: ")?;
                }
                f.write_str(message)?;
                match hint {
                    Some(hint) => write!(f, "; {hint}"),
                    None => Ok(()),
                }
            }
            Self::Header { file, message } => write!(f, "{}: {message}", file.display()),
            Self::Format {
                file,
                found,
                remedy,
            } => write!(f, "{} is {found}; {remedy}", file.display()),
            Self::Tensors { file, problems } => {
                let noun = match problems.len() {
                    1 => "tensor does",
                    _ => "tensors do",
                };
                write!(
                    f,
                    "{}: {} {noun} not fit the model:",
                    file.display(),
                    problems.len()
                )?;
                for problem in problems.iter().take(SHOWN_PROBLEMS) {
                    write!(f, "\n  {problem}")?;
                }
                match problems.len().saturating_sub(SHOWN_PROBLEMS) {
                    0 => Ok(()),
                    more => write!(f, "\n  and {more} more"),
                }
            }
            Self::Hub { name, message } => write!(f, "cannot get the model `{name}`: {message}"),
            Self::Value { at, value, message } => write!(f, "{at} = {value}: {message}"),
        }
    }
}

impl std::error::Error for Error {}

/// One tensor that does not fit, printed as one line.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TensorProblem {
    /// The model needs it and the file lacks it.
    Missing {
        /// The upstream name.
        name: String,
        /// The upstream shape the model expects.
        expected: Vec<usize>,
        /// The nearest name among the tensors that the model does not use.
        similar: Option<String>,
    },
    /// The file holds it and the model has no place for it.
    Unused {
        /// The name in the file.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The nearest name among the tensors that are missing.
        similar: Option<String>,
    },
    /// It has another shape than the model expects.
    Shape {
        /// The upstream name.
        name: String,
        /// The upstream shape the model expects.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// Its elements are of a type that cannot be used here.
    Dtype {
        /// The name in the file.
        name: String,
        /// The element type in the file, such as `I64`.
        found: String,
    },
    /// It is a second name of another tensor and holds other values.
    AliasDiffers {
        /// The second name.
        name: String,
        /// The name of the tensor it must equal.
        of: String,
        /// The greatest absolute difference.
        difference: f32,
    },
    /// Two names in the file become one when the prefix is removed.
    Duplicate {
        /// The name without its prefix.
        name: String,
        /// The name with it.
        other: String,
    },
}

impl TensorProblem {
    /// The name of the tensor the problem is about.
    pub fn name(&self) -> &str {
        match self {
            Self::Missing { name, .. }
            | Self::Unused { name, .. }
            | Self::Shape { name, .. }
            | Self::Dtype { name, .. }
            | Self::AliasDiffers { name, .. }
            | Self::Duplicate { name, .. } => name,
        }
    }
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing {
                name,
                expected,
                similar,
            } => {
                write!(f, "`{name}`: expected {expected:?}, not in the file")?;
                match similar {
                    Some(near) => write!(f, "; it holds `{near}`"),
                    None => Ok(()),
                }
            }
            Self::Unused {
                name,
                found,
                similar,
            } => {
                write!(f, "`{name}`: found {found:?}, not part of the model")?;
                match similar {
                    Some(near) => write!(f, "; did you mean `{near}`?"),
                    None => Ok(()),
                }
            }
            Self::Shape {
                name,
                expected,
                found,
            } => write!(f, "`{name}`: expected {expected:?}, found {found:?}"),
            Self::Dtype { name, found } => write!(
                f,
                "`{name}`: expected F32, F16, BF16 or F64 elements, found {found}"
            ),
            Self::AliasDiffers {
                name,
                of,
                difference,
            } => write!(
                f,
                "`{name}`: expected the values of `{of}`, found others (they differ by up to {difference})"
            ),
            Self::Duplicate { name, other } => write!(
                f,
                "`{name}`: found a second time as `{other}`, which has the same name without its prefix"
            ),
        }
    }
}
