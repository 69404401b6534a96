//! Real text for training and evaluation: embedded data, importers, vocabularies made from the training text alone, and batch
//! streams whose position can be saved.
//!
//! ```
//! use datasets::{CorpusSpec, load};
//!
//! // The embedded book as bytes, split 90/5/5 by position; no file and no network is needed.
//! let corpus = load(&CorpusSpec::named("moby-dick"), ".".as_ref())?;
//! let mut stream = corpus.train.stream(16, 64)?;
//! let block = stream.next_block(|below| below / 2); // inputs and targets, 16 rows of 64 tokens
//! assert_eq!(block.inputs.len(), 16 * 64);
//! assert_eq!(block.inputs[1..64], block.targets[..63]);
//!
//! // Goes on with the very next block after a checkpoint.
//! let saved = serde_json::to_string(&stream.cursor())?;
//! let mut resumed = corpus.train.stream(16, 64)?;
//! resumed.restore(serde_json::from_str(&saved)?)?;
//! assert_eq!(resumed.next_block(|_| 0), stream.next_block(|_| 0));
//!
//! // What to print beside a result in bits per byte: without context 4.55, xz on the whole book 2.65.
//! let anchors = corpus.anchors(&corpus.test);
//! assert_eq!(format!("{:.2} {:.2}", anchors.order0_train, anchors.xz.unwrap()), "4.55 2.65");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`CorpusSpec`], [`load`], [`Corpus`] | a text, read, split and turned into ids |
//! | [`Vocabulary`] | tokens and ids, `vocab.json` |
//! | [`prepare`](prepare()), [`prepared_text`] | the published preparations of enwik8, text8 and WikiText-103 |
//! | [`BatchStream`], [`Block`], [`StreamCursor`] | contiguous rows, read in blocks |
//! | [`order0_entropy`], [`Anchors`], [`Bounds`] | figures to print beside results |
//! | [`SubwordsT2t`] | Tensor2Tensor's sub-word vocabularies |
//! | `train_subwords` (feature `subwords`) | a vocabulary of pieces of one's own |
//! | [`pg19`] | the list of books of PG-19 |
//! | [`labelled`], [`glue`] | texts and pairs with a class each |
//! | [`verses`] | parallel verses in three translations |
//! | [`images`] | small pictures, as bytes in raster order |
//! | [`lra`], [`sequences`], [`listops`], [`pathfinder`] | long sequences and pairs of them with a class each |
//! | [`ProbeSpec`] | questions planted in a text, at known distances |
//! | [`list`], [`info`], [`import`](import()), `fetch`, [`MakeSpec`] | getting data |
//!
//! There is no random generator here: where a stream needs a random number, its caller gives one.

mod archive;
mod catalogue;
mod corpus;
pub mod embedded;
mod error;
#[cfg(feature = "fetch")]
mod fetch;
mod figures;
mod folder;
pub mod glue;
pub mod images;
mod import;
pub mod labelled;
pub mod listops;
pub mod lra;
mod make;
mod manifest;
pub mod pathfinder;
pub mod pg19;
mod prepare;
mod probe;
mod remake;
pub mod sequences;
mod spec;
mod stream;
pub mod subword_t2t;
#[cfg(feature = "subwords")]
mod subwords;
pub mod verses;
mod vocabulary;

/// Runs the snippet of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use catalogue::{Availability, DATA_FOLDER, Info, info, list};
pub use corpus::{Corpus, Split, load};
pub use error::{Error, Result};
#[cfg(feature = "fetch")]
pub use fetch::{FetchOptions, Progress, fetch};
pub use figures::{Anchors, Bounds, order0_cross_entropy, order0_entropy};
pub use import::{ImportOptions, import};
pub use make::{Made, MakeSpec, Task};
pub use manifest::{Compressed, FileEntry, Kind, MANIFEST, Manifest, Source};
pub use prepare::{EOS, Prepared, TextFormat, TokenUnit, prepare, prepared_text};
pub use probe::{Answer, Planted, ProbeSpec};
pub use remake::{Remade, remake};
pub use spec::{CorpusSpec, Layout, SplitShares};
pub use stream::{BatchStream, Block, StreamCursor, batchify};
pub use subword_t2t::SubwordsT2t;
#[cfg(feature = "subwords")]
pub use subwords::train_subwords;
pub use vocabulary::{IdOrder, Vocabulary};
