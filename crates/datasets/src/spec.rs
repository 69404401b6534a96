//! The `data` part of a recipe that says which text to read.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, value};
use crate::make::MakeSpec;
use crate::prepare::TextFormat;
use crate::vocabulary::IdOrder;

/// Which text to read, how to cut it into tokens and how to split it. Exactly one of `name`, `path` and `make` is given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusSpec {
    /// An embedded, imported or fetched data set, for example "moby-dick".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A file or folder, relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A generated task with a known required span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub make: Option<MakeSpec>,
    /// How the text is cut into tokens; by default what the manifest says, else bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<TextFormat>,
    /// How a path is laid out; by default seen from what is there.
    pub layout: Layout,
    /// True for enwik8 or text8 files that the published preparation has been applied to already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prepared: bool,
    /// Shares of train, valid and test where one text is split by position.
    pub split: SplitShares,
    /// Order of token ids.
    pub order: IdOrder,
    /// Completes a byte vocabulary to all 256 values, so that no byte is unknown; by default what the manifest says, else false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_bytes: Option<bool>,
    /// A `vocab.json`, relative to the recipe, to be used instead of one made from the training text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab: Option<PathBuf>,
}

/// How a path is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// A file is one text; a folder with train, valid and test (files or folders) is split already; any other folder holds
    /// documents.
    #[default]
    Auto,
    /// One file, split by position.
    File,
    /// A folder with the files train, valid and test, or with folders of that name that hold documents.
    Splits,
    /// A folder of documents: in the order of their names every 10th is test, every 10th + 5 is valid.
    Documents,
}

/// Shares in which one text is split by position; only their proportions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitShares {
    /// Share of the beginning.
    pub train: u32,
    /// Share after it.
    pub valid: u32,
    /// Share of the end.
    pub test: u32,
}

impl Default for SplitShares {
    fn default() -> Self {
        SplitShares {
            train: 90,
            valid: 5,
            test: 5,
        }
    }
}

impl SplitShares {
    /// Where valid and where test begin in a text of `length` bytes.
    pub(crate) fn cuts(self, length: usize) -> (usize, usize) {
        let total = u128::from(self.train) + u128::from(self.valid) + u128::from(self.test);
        let at = |share: u128| (length as u128 * share / total.max(1)) as usize;
        let train = u128::from(self.train);
        (at(train), at(train + u128::from(self.valid)))
    }
}

impl CorpusSpec {
    /// The spec of a named data set.
    pub fn named(name: &str) -> Self {
        CorpusSpec {
            name: Some(name.into()),
            ..CorpusSpec::default()
        }
    }

    /// The spec of a file or folder.
    pub fn at(path: impl Into<PathBuf>, format: TextFormat) -> Self {
        CorpusSpec {
            path: Some(path.into()),
            format: Some(format),
            ..CorpusSpec::default()
        }
    }

    /// Finds contradictions without touching a file.
    ///
    /// ```
    /// use datasets::CorpusSpec;
    ///
    /// let own: CorpusSpec = serde_json::from_str(r#"{ "path": "../notes", "layout": "documents" }"#)?;
    /// assert!(own.validate().is_ok());
    /// let both: CorpusSpec = serde_json::from_str(r#"{ "path": "../notes", "name": "moby-dick" }"#)?;
    /// assert!(both.validate().is_err());
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Value`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let given: Vec<&str> = [
            ("name", self.name.is_some()),
            ("path", self.path.is_some()),
            ("make", self.make.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
        .collect();
        if given.len() != 1 {
            let found = if given.is_empty() {
                "nothing".into()
            } else {
                given.join(" and ")
            };
            return Err(value(
                "data",
                found,
                "exactly one of \"name\", \"path\" and \"make\"",
            ));
        }
        let SplitShares { train, valid, test } = self.split;
        if train == 0 || valid == 0 || test == 0 {
            let found = format!("{train}/{valid}/{test}");
            return Err(value(
                "split",
                found,
                "three shares of at least 1, such as 90/5/5",
            ));
        }
        if self.prepared
            && !matches!(
                self.format,
                None | Some(TextFormat::Enwik8 | TextFormat::Text8)
            )
        {
            return Err(value(
                "prepared",
                true,
                "only enwik8 and text8 have a prepared form",
            ));
        }
        if self.format == Some(TextFormat::Subwords) && self.vocab.is_none() {
            let expected =
                "with \"vocab\", a file of pieces such as `cargo xtask data vocab` makes";
            return Err(value("format", "\"subwords\"", expected));
        }
        if self.all_bytes == Some(true) && self.vocab.is_some() {
            let expected = "without \"vocab\", which fixes the ids already";
            return Err(value("all_bytes", true, expected));
        }
        self.make.as_ref().map_or(Ok(()), MakeSpec::validate)
    }
}
