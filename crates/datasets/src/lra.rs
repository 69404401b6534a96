//! The tasks of the Long Range Arena (Tay et al., ICLR 2021): readers of its published files, and what stands in for them where they are
//! not at hand.
//!
//! | task | published files | stand-in without a download |
//! | --- | --- | --- |
//! | ListOps | `listops-files` | `listops`, the same distribution |
//! | Text | `text` (the folder `aclImdb`) | `text-labelled`, any labelled texts as bytes |
//! | Retrieval | `retrieval` (the folder `tsv_data`) | `retrieval-speeches`, are two passages of one speech? |
//! | Image | `image` (the folder `cifar-10-batches-bin`) | `image-fashion`, imported Fashion-MNIST |
//! | Pathfinder | `pathfinder-files` | `pathfinder`, drawn here |
//!
//! ```
//! use datasets::lra::{Data, LraSpec};
//!
//! let spec: LraSpec = serde_json::from_str(r#"{ "task": "text-labelled", "name": "sotu-era4", "max_length": 500 }"#)?;
//! let Data::Sequences(data) = spec.load(".".as_ref())? else { unreachable!("texts are no pairs") };
//! // A byte is its value plus 1; 0 is padding.
//! assert_eq!((data.vocab_size, data.classes, data.longest()), (257, 4, 500));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod files;
mod pairs;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use files::{imdb, pathfinder, retrieval};
pub use pairs::{PairExample, Pairs, same_speech};

use crate::error::{Result, value};
use crate::glue::{Example as TextExample, Label};
use crate::images;
use crate::labelled::{self, Labelled, LabelledSpec};
use crate::listops::{self, ListOpsSpec};
use crate::pathfinder::PathfinderSpec;
use crate::sequences::{Example, Sequences};

/// Number of ids of texts as bytes: 256 values and padding.
pub const BYTE_IDS: usize = 257;

/// Which task to read or make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum LraSpec {
    /// ListOps trees, generated.
    Listops(ListOpsSpec),
    /// The published ListOps files.
    ListopsFiles(ListOpsFiles),
    /// Pathfinder-like pictures, generated.
    Pathfinder(PathfinderSpec),
    /// The published Pathfinder pictures: a folder such as `pathfinder32/curv_contour_length_14`.
    PathfinderFiles(Folder),
    /// IMDB reviews as bytes: the published folder `aclImdb`.
    Text(Texts),
    /// Embedded or imported labelled texts as bytes.
    TextLabelled(NamedTexts),
    /// Pairs of papers as bytes: the published folder `tsv_data` with `new_aan_pairs.*.tsv`.
    Retrieval(Texts),
    /// Pairs of embedded passages as bytes: are they of one speech?
    RetrievalSpeeches(MaxLength),
    /// CIFAR-10 in grey: the published folder `cifar-10-batches-bin`.
    Image(Folder),
    /// Imported Fashion-MNIST in the middle of 32 x 32 pixels.
    ImageFashion(Nothing),
}

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

/// A folder, relative to the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
}

/// A folder of texts, relative to the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// The folder.
    pub path: PathBuf,
    /// Bytes of a text that are read.
    #[serde(default = "max_length")]
    pub max_length: usize,
}

/// Labelled texts by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedTexts {
    /// An embedded or imported data set of single texts, such as `movie-reviews-imdb`.
    pub name: String,
    /// Bytes of a text that are read.
    #[serde(default = "max_length")]
    pub max_length: usize,
}

/// How much is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaxLength {
    /// Bytes of a text that are read.
    #[serde(default = "max_length")]
    pub max_length: usize,
}

/// No further choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

fn max_length() -> usize {
    4000
}

/// What a task gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Sequences with a class each.
    Sequences(Sequences),
    /// Pairs of sequences with a class each.
    Pairs(Pairs),
}

impl LraSpec {
    /// Generates or reads the data. Relative paths count from `base`, the folder of the recipe.
    ///
    /// # Errors
    /// Values that make no sense, files that are missing or malformed.
    pub fn load(&self, base: &Path) -> Result<Data> {
        let length = match self {
            Self::Text(Texts { max_length, .. })
            | Self::Retrieval(Texts { max_length, .. })
            | Self::TextLabelled(NamedTexts { max_length, .. })
            | Self::RetrievalSpeeches(MaxLength { max_length }) => *max_length,
            _ => 1,
        };
        if !(1..=1 << 24).contains(&length) {
            return Err(value("data.max_length", length, "from 1 to 2^24"));
        }
        let sequences = match self {
            Self::Retrieval(spec) => {
                return retrieval(&base.join(&spec.path), length).map(Data::Pairs);
            }
            Self::RetrievalSpeeches(_) => return same_speech(length).map(Data::Pairs),
            Self::Listops(spec) => spec.generate(),
            Self::ListopsFiles(spec) => listops::read(&base.join(&spec.path), spec.close_bracket),
            Self::Pathfinder(spec) => spec.generate(),
            Self::PathfinderFiles(spec) => pathfinder(&base.join(&spec.path)),
            Self::Text(spec) => imdb(&base.join(&spec.path), length),
            Self::TextLabelled(spec) => {
                let data = labelled::load(&LabelledSpec::named(&spec.name), base)?;
                byte_sequences(&data, length)
            }
            Self::Image(spec) => {
                let pictures = images::cifar10(&base.join(&spec.path))?;
                Ok(pictures.grey().sequences())
            }
            Self::ImageFashion(_) => {
                let pictures = images::fashion_mnist(base)?.padded(32, 32, 0)?;
                Ok(pictures.sequences())
            }
        };
        sequences.map(Data::Sequences)
    }
}

/// The first `max_length` bytes of a text as ids: a byte's value plus 1, because 0 is padding.
pub fn byte_ids(text: &[u8], max_length: usize) -> Vec<u16> {
    let bytes = text.iter().take(max_length);
    bytes.map(|byte| u16::from(*byte) + 1).collect()
}

/// Labelled texts as bytes.
///
/// # Errors
/// Pairs, and numbers instead of classes.
pub fn byte_sequences(data: &Labelled, max_length: usize) -> Result<Sequences> {
    let Some(labels) = &data.labels else {
        return Err(value("data", &data.name, "texts with classes, not numbers"));
    };
    let example = |example: &TextExample| match (&example.text_b, example.label) {
        (None, Label::Class(class)) => Ok(Example {
            ids: byte_ids(example.text_a.as_bytes(), max_length),
            label: class as u16,
        }),
        _ => Err(value("data", &data.name, "single texts with a class each")),
    };
    let all = |examples: &[TextExample]| examples.iter().map(example).collect::<Result<_>>();
    Ok(Sequences {
        name: format!("{}, as bytes", data.name),
        train: all(&data.train)?,
        valid: all(&data.valid)?,
        test: all(&data.test)?,
        vocab_size: BYTE_IDS,
        classes: labels.len(),
    })
}
