//! Data of the Long Range Arena's tasks: sequences of ids, or pairs of them, with a class.

use crate::recipe::DataConfig;
use datasets::glue::{Example as Text, Label};
use datasets::labelled::{self, LabelledSpec};
use datasets::listops;
use datasets::sequences::{Example, Sequences};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use trainer::{Error, Recipe, Result};

/// Where the published ListOps files are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListOpsFiles {
    /// The folder with `basic_train.tsv`, `basic_val.tsv` and `basic_test.tsv`.
    pub path: PathBuf,
    /// Whether closing brackets stay; upstream's tokenizer drops them.
    #[serde(default = "keep")]
    pub close_bracket: bool,
}

fn keep() -> bool {
    true
}

/// Labelled texts or pairs of texts, read byte by byte: the id of a byte is its value plus 1, and 0 is padding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BytesSpec {
    /// Which texts; pairs become the two sequences of a retrieval task.
    pub texts: LabelledSpec,
    /// Bytes of a text that are kept; absent: as many as the model's `max_seq_len`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_bytes: Option<usize>,
}

/// Number of ids of texts read byte by byte.
const BYTE_IDS: usize = 257;

/// One or two sequences and their class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LraExample {
    /// Ids; 0 is padding.
    pub first: Vec<u16>,
    /// The second sequence's ids; empty where there is none.
    pub second: Vec<u16>,
    /// The class.
    pub label: u16,
}

/// Three splits of sequences or pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LraData {
    /// What it is, for reports.
    pub name: String,
    /// To learn from.
    pub train: Vec<LraExample>,
    /// To choose by.
    pub valid: Vec<LraExample>,
    /// To report.
    pub test: Vec<LraExample>,
    /// Number of ids, padding included.
    pub vocab_size: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Whether examples are pairs.
    pub pairs: bool,
}

impl From<Sequences> for LraData {
    fn from(data: Sequences) -> Self {
        let all = |list: Vec<Example>| -> Vec<LraExample> {
            let examples = list.into_iter().map(|e| LraExample {
                first: e.ids,
                second: vec![],
                label: e.label,
            });
            examples.collect()
        };
        Self {
            name: data.name,
            train: all(data.train),
            valid: all(data.valid),
            test: all(data.test),
            vocab_size: data.vocab_size,
            classes: (0..data.classes).map(|i| i.to_string()).collect(),
            pairs: false,
        }
    }
}

impl LraData {
    /// Generates or reads what a recipe asks for.
    ///
    /// # Errors
    /// Values that make no sense, files that are missing or malformed, and a task of whole texts.
    pub fn load(data: &DataConfig, recipe: &Recipe) -> Result<Self> {
        let brackets = |close: bool| match close {
            true => ", closing brackets kept",
            false => ", closing brackets dropped",
        };
        let named = |data: std::result::Result<Sequences, datasets::Error>, note: &str| {
            let mut data = Self::from(data.map_err(Error::other)?);
            data.name.push_str(note);
            Ok(data)
        };
        match data {
            DataConfig::Listops(spec) => named(spec.generate(), brackets(spec.close_bracket)),
            DataConfig::ListopsFiles(files) => {
                let read = listops::read(&recipe.path(&files.path), files.close_bracket);
                named(read, brackets(files.close_bracket))
            }
            DataConfig::Pathfinder(spec) => named(spec.generate(), ""),
            DataConfig::Bytes(spec) => Self::of_texts(spec, recipe),
            _ => Err(super::other_task("a task of sequences")),
        }
    }

    fn of_texts(spec: &BytesSpec, recipe: &Recipe) -> Result<Self> {
        if spec.most_bytes == Some(0) {
            return Err(Error::value("data.most_bytes", 0, "at least 1"));
        }
        let most = spec.most_bytes.unwrap_or(usize::MAX);
        let data = labelled::load(&spec.texts, recipe.base_dir()).map_err(Error::other)?;
        let Some(classes) = data.labels.clone() else {
            let expected = "a task with classes";
            return Err(Error::value("data.texts", "a regression", expected));
        };
        let ids = |text: &str| -> Vec<u16> {
            let bytes = text.as_bytes().iter().take(most);
            bytes.map(|b| u16::from(*b) + 1).collect()
        };
        let all = |texts: &[Text]| -> Vec<LraExample> {
            let known = texts.iter().filter_map(|text| match text.label {
                Label::Class(class) => Some(LraExample {
                    first: ids(&text.text_a),
                    second: text.text_b.as_deref().map(ids).unwrap_or_default(),
                    label: class as u16,
                }),
                _ => None,
            });
            known.collect()
        };
        Ok(Self {
            name: format!("{}, bytes", data.name),
            train: all(&data.train),
            valid: all(&data.valid),
            test: all(&data.test),
            vocab_size: BYTE_IDS,
            classes,
            pairs: data.train.iter().any(|e| e.text_b.is_some()),
        })
    }

    /// Share of the test split that has the most frequent class of the training split: what a classifier that looks at
    /// nothing gets right.
    pub fn majority_share(&self) -> f64 {
        let mut counts = vec![0usize; self.classes.len()];
        for example in &self.train {
            if let Some(count) = counts.get_mut(usize::from(example.label)) {
                *count += 1;
            }
        }
        // The first of equals.
        let most = counts.iter().max().copied().unwrap_or(0);
        let class = counts.iter().position(|c| *c == most).unwrap_or(0);
        let hits = self.test.iter().filter(|e| usize::from(e.label) == class);
        hits.count() as f64 / self.test.len().max(1) as f64
    }
}
