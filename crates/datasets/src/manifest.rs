//! What stands beside data: where it comes from, what was done to it, under which licence, and its digests.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, io};
use crate::figures::Bounds;
use crate::prepare::TextFormat;

/// Name of the manifest in a data folder.
pub const MANIFEST: &str = "manifest.json";

/// The manifest of one data set, embedded or in a data folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name used in recipes.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Where it comes from.
    pub source: Source,
    /// What is in it, and so what reads it.
    #[serde(default, skip_serializing_if = "Kind::is_text")]
    pub kind: Kind,
    /// What was done to it.
    pub transformation: String,
    /// The licence as its source states it.
    pub licence: String,
    /// Files with the full licence texts, relative to the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub licence_files: Vec<String>,
    /// How the text is cut into tokens, for data that is one text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TextFormat>,
    /// Whether the vocabulary is completed to all 256 byte values, because single bytes occur outside train only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_bytes: bool,
    /// The classes in the order of their indices, for labelled data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The rule by which it is split.
    pub split: String,
    /// Length of the content in bytes.
    pub bytes: u64,
    /// SHA-256 of the content (of all files one after another, in the order of `files`).
    pub sha256: String,
    /// The compressed file, for embedded data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressed: Option<Compressed>,
    /// What general compressors make of the whole content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// The files of a data folder, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileEntry>,
    /// Further figures, such as the span that a generated task requires.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, f64>,
}

/// What a data set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Running text, read by [`crate::load`].
    #[default]
    Text,
    /// Texts with a class each, read by [`crate::labelled`].
    Labelled,
    /// Verses in several translations, read by [`crate::verses`] and, as labelled pairs, by [`crate::labelled`].
    Verses,
    /// Pictures, read by [`crate::images`].
    Images,
    /// A model folder.
    Model,
    /// Names of pictures, read with them by [`crate::images`].
    Captions,
    /// A token vocabulary, read by [`crate::embedded::bert_base_uncased`].
    Vocabulary,
}

impl Kind {
    fn is_text(&self) -> bool {
        *self == Self::Text
    }

    /// The kind in a reader's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "running text",
            Self::Labelled => "labelled texts",
            Self::Verses => "verses in several translations",
            Self::Images => "pictures",
            Self::Model => "a model folder",
            Self::Captions => "names of pictures",
            Self::Vocabulary => "a vocabulary",
        }
    }
}

/// Where data comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `npm`, `pip`, `apt`, `web`, or `generated`.
    pub client: String,
    /// Package name, or the address for `web`, or the task for `generated`.
    pub package: String,
    /// Package version; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Path inside the package or archive.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub inner_path: String,
    /// SHA-256 of the archive that was imported, where it was one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_sha256: Option<String>,
}

/// A compressed file compiled into this crate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compressed {
    /// File name beside the manifest.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

/// One file of a data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path relative to the manifest, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

impl Manifest {
    /// Whether an embedded file is the content itself, because it is compressed by its own format.
    pub(crate) fn stored_as_is(&self) -> bool {
        let file = self.compressed.as_ref().map(|compressed| &compressed.file);
        file.is_some_and(|file| file.ends_with(".png"))
    }

    /// Reads the manifest of a data folder; `None` where the folder has none.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Json`].
    pub fn of_folder(folder: &Path) -> Result<Option<Manifest>> {
        let path = folder.join(MANIFEST);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
        serde_json::from_str(&text).map(Some).map_err(|error| Error::Json {
            file: path.display().to_string(),
            message: format!("{error}; it is written by the import and should not be edited: import the data again"),
        })
    }

    /// Compares a file of the folder with its entry, if it has one.
    pub(crate) fn check(&self, relative: &str, content: &[u8], file: &str) -> Result<()> {
        match self.files.iter().find(|entry| entry.path == relative) {
            Some(entry) => verify(
                content,
                entry.bytes,
                &entry.sha256,
                file,
                "the file was changed after its import; import the data again",
            ),
            None => Ok(()),
        }
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// MD5 in lower-case hexadecimal; only for digests that others published.
pub(crate) fn md5(content: &[u8]) -> String {
    hex(&md5::Md5::digest(content))
}

/// Both digests of a file, read in pieces.
pub(crate) fn file_digests(path: &Path) -> Result<(String, String)> {
    let mut file = std::fs::File::open(path).map_err(io("open", path))?;
    let (mut sha256, mut md5) = (Sha256::new(), md5::Md5::new());
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(io("read", path))?;
        if read == 0 {
            return Ok((hex(&sha256.finalize()), hex(&md5.finalize())));
        }
        sha256.update(&buffer[..read]);
        md5.update(&buffer[..read]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Length and SHA-256 of a content against what they should be.
pub(crate) fn verify(
    content: &[u8],
    bytes: u64,
    digest: &str,
    file: &str,
    remedy: &str,
) -> Result<()> {
    expect_equal("length", bytes, content.len(), file, remedy)?;
    expect_equal("sha256", digest, sha256(content), file, remedy)
}

/// An [`Error::Digest`] unless both print the same.
pub(crate) fn expect_equal(
    what: &'static str,
    expected: impl ToString,
    found: impl ToString,
    file: &str,
    remedy: &str,
) -> Result<()> {
    let (expected, found) = (expected.to_string(), found.to_string());
    match expected.eq_ignore_ascii_case(&found) {
        true => Ok(()),
        false => Err(Error::Digest {
            file: file.into(),
            what,
            expected,
            found,
            remedy: remedy.into(),
        }),
    }
}
