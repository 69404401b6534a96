//! Data of the Long Range Arena's tasks: sequences of ids, or pairs of them, with a class.

use crate::recipe::DataConfig;
use datasets::glue::{Example as Text, Label};
use datasets::labelled::{self, LabelledSpec};
use datasets::lra::{BYTE_IDS, Data, PairExample, Pairs, byte_ids};
use datasets::sequences::{Example, Sequences};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use trainer::{Error, Recipe, Result};

/// Labelled texts or pairs of texts, read byte by byte: the id of a byte is its value plus 1, and 0 is padding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BytesSpec {
    /// Which texts; pairs become the two sequences of a retrieval task.
    pub texts: LabelledSpec,
    /// Bytes of a text that are read.
    #[serde(default = "most")]
    pub max_length: usize,
}

fn most() -> usize {
    4000
}

/// One or two sequences and their class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LraExample {
    /// A sequence.
    One(Example),
    /// Two texts.
    Two(PairExample),
}

impl LraExample {
    /// Its class.
    pub fn label(&self) -> u16 {
        match self {
            Self::One(example) => example.label,
            Self::Two(pair) => pair.label,
        }
    }

    /// The ids of its sequences; 0 is padding.
    pub fn ids(&self) -> Vec<Cow<'_, [u16]>> {
        match self {
            Self::One(example) => vec![Cow::Borrowed(&example.ids[..])],
            Self::Two(pair) => pair.ids().map(Cow::Owned).into(),
        }
    }
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

fn numbered(classes: usize) -> Vec<String> {
    (0..classes).map(|i| i.to_string()).collect()
}

impl From<Sequences> for LraData {
    fn from(data: Sequences) -> Self {
        let all = |list: Vec<Example>| list.into_iter().map(LraExample::One).collect();
        Self {
            name: data.name,
            train: all(data.train),
            valid: all(data.valid),
            test: all(data.test),
            vocab_size: data.vocab_size,
            classes: numbered(data.classes),
            pairs: false,
        }
    }
}

impl From<Pairs> for LraData {
    fn from(data: Pairs) -> Self {
        let all = |list: Vec<PairExample>| list.into_iter().map(LraExample::Two).collect();
        Self {
            name: data.name,
            train: all(data.train),
            valid: all(data.valid),
            test: all(data.test),
            vocab_size: data.vocab_size,
            classes: numbered(data.classes),
            pairs: true,
        }
    }
}

impl LraData {
    /// Generates or reads what a recipe asks for.
    ///
    /// # Errors
    /// Values that make no sense, files that are missing or malformed, and a task of whole texts.
    pub fn load(data: &DataConfig, recipe: &Recipe) -> Result<Self> {
        if let DataConfig::Bytes(spec) = data {
            return Self::of_texts(spec, recipe);
        }
        let spec = data
            .arena()
            .ok_or_else(|| super::other_task("a task of sequences"))?;
        let mut found = match spec.load(recipe.base_dir()).map_err(Error::other)? {
            Data::Sequences(data) => Self::from(data),
            Data::Pairs(data) => Self::from(data),
        };
        found.name.push_str(match data.close_bracket() {
            Some(true) => ", closing brackets kept",
            Some(false) => ", closing brackets dropped",
            None => "",
        });
        Ok(found)
    }

    fn of_texts(spec: &BytesSpec, recipe: &Recipe) -> Result<Self> {
        let most = spec.max_length;
        if most == 0 {
            return Err(Error::value("data.max_length", most, "at least 1"));
        }
        let data = labelled::load(&spec.texts, recipe.base_dir()).map_err(Error::other)?;
        let Some(classes) = data.labels.clone() else {
            let expected = "a task with classes";
            return Err(Error::value("data.texts", "a regression", expected));
        };
        let all = |texts: &[Text]| -> Vec<LraExample> {
            let known = texts.iter().filter_map(|text| {
                let Label::Class(class) = text.label else {
                    return None;
                };
                let (first, label) = (text.text_a.as_bytes(), class as u16);
                Some(match &text.text_b {
                    Some(second) => {
                        let second = second.as_bytes();
                        LraExample::Two(PairExample::new(first, second, most, label))
                    }
                    None => LraExample::One(Example {
                        ids: byte_ids(first, most),
                        label,
                    }),
                })
            });
            known.collect()
        };
        Ok(Self {
            name: format!("{}, as bytes", data.name),
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
            if let Some(count) = counts.get_mut(usize::from(example.label())) {
                *count += 1;
            }
        }
        // The first of equals.
        let most = counts.iter().max().copied().unwrap_or(0);
        let class = counts.iter().position(|c| *c == most).unwrap_or(0);
        let hits = self.test.iter().filter(|e| usize::from(e.label()) == class);
        hits.count() as f64 / self.test.len().max(1) as f64
    }
}
