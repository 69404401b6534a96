//! Everything that can be wrong with data, each with its place and its remedy.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A JSON file of ours could not be understood.
    #[error("{file}: {message}")]
    Json {
        /// The file.
        file: String,
        /// What is wrong in it.
        message: String,
    },
    /// A token that the training text never showed.
    #[error(
        "{file}: unknown token {token} at position {position} (byte {byte}): it does not occur in the training text; {remedy}"
    )]
    UnknownToken {
        /// The token as a reader would write it.
        token: String,
        /// The file (and document) it stands in.
        file: String,
        /// Number of tokens before it in that file.
        position: usize,
        /// Offset in bytes in that file.
        byte: usize,
        /// What to do.
        remedy: String,
    },
    /// Text that should be UTF-8 and is not.
    #[error(
        "{file}: not valid UTF-8 at byte {byte}; convert the file, or use \"format\": \"bytes\""
    )]
    NotUtf8 {
        /// The file.
        file: String,
        /// Offset of the first bad byte.
        byte: usize,
    },
    /// A setting with a value that makes no sense.
    #[error("{key}: {found} is not valid: {expected}")]
    Value {
        /// The setting.
        key: String,
        /// Its value.
        found: String,
        /// What would be valid.
        expected: String,
    },
    /// A data set name that nobody knows.
    #[error(
        "there is no data set named \"{name}\"; known are {known}; for a file of your own write \"path\" instead of \"name\""
    )]
    UnknownName {
        /// The name asked for.
        name: String,
        /// All known names.
        known: String,
    },
    /// A known data set that is not on this machine.
    #[error(
        "the data set \"{name}\" is not on this machine (looked in {looked}). {how}. {fallback}"
    )]
    Missing {
        /// The data set.
        name: String,
        /// Folders that were searched.
        looked: String,
        /// How to get it: package, version and the commands to type.
        how: String,
        /// What can be used without it.
        fallback: String,
    },
    /// A folder or file that does not hold what was expected.
    #[error("{}: {message}", path.display())]
    Layout {
        /// The folder or file.
        path: PathBuf,
        /// What is missing and what would be accepted.
        message: String,
    },
    /// A text too short for the batch asked for.
    #[error(
        "a stream of {length} tokens is too short for batch {batch} and block {block}: it must be at least {needed} tokens long (batch · (block + 1)); {remedy}"
    )]
    TooShort {
        /// Tokens there are.
        length: usize,
        /// Tokens there must be.
        needed: usize,
        /// Rows asked for.
        batch: usize,
        /// Tokens per block asked for.
        block: usize,
        /// What would fit.
        remedy: String,
    },
    /// A saved position that belongs to another stream.
    #[error(
        "the saved stream position does not fit this stream: {key} was {saved}, here it is {here}; resume with the data, batch and block size of the saved run"
    )]
    Cursor {
        /// What differs.
        key: &'static str,
        /// Its value in the checkpoint.
        saved: usize,
        /// Its value (or largest value) here.
        here: usize,
    },
    /// Content that is not what it should be.
    #[error("{file}: {what} is {found}, expected {expected}; {remedy}")]
    Digest {
        /// The file.
        file: String,
        /// What was compared: `sha256`, `md5`, `length`, ...
        what: &'static str,
        /// The expected value.
        expected: String,
        /// The actual value.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// An archive that is damaged, hostile, or not an archive.
    #[error("{}: {message}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong, naming the entry.
        message: String,
    },
    /// A download that failed.
    #[error("cannot fetch {url}: {message}; {remedy}")]
    Http {
        /// The address.
        url: String,
        /// What happened.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {len} tokens")]
    TokenId {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        len: usize,
    },
}

/// Makes the closure that turns an [`std::io::Error`] into one naming the file.
pub(crate) fn io<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io {
        path: path.to_path_buf(),
        action,
        source,
    }
}

/// A [`Error::Value`] in one line.
pub(crate) fn value(key: &str, found: impl ToString, expected: &str) -> Error {
    Error::Value {
        key: key.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}
