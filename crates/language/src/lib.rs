//! What the runs of language models share, whatever their attention is.
//!
//! Streams of rows and of whole documents ([`Source`]), a pass over a split ([`row_pass`], [`document_pass`], [`Loss`]), text
//! written token by token ([`TextGenerator`] over a [`Reader`]), how likely each token is ([`score`] over a [`Scorer`]), and what is printed beside a result ([`anchors`],
//! [`describe`], [`sample`]).
//!
//! ```
//! use language::{Reader, TextGenerator};
//! use trainer::{Generate, Result, Sampling};
//!
//! /// Says "ab" for ever: the other letter than the last one is the likely one.
//! struct Alternate(u32);
//!
//! impl Reader for Alternate {
//!     fn restart(&mut self) -> Result<()> { Ok(()) }
//!     fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
//!         self.0 = tokens.last().copied().unwrap_or(self.0);
//!         Ok(match self.0 { 0 => vec![-9.0, 0.0], _ => vec![0.0, -9.0] })
//!     }
//! }
//!
//! let vocabulary = datasets::Vocabulary::from_train(datasets::TextFormat::Bytes, b"ab", datasets::IdOrder::default(), "ab.txt");
//! let (vocabulary, _) = vocabulary.map_err(trainer::Error::other)?;
//! let mut generator = TextGenerator::new(Alternate(0), vocabulary);
//! let options = Sampling { length: 5, temperature: 0.0, ..Sampling::default() };
//! assert_eq!(generator.generate("a", &options, &mut |_| {})?, "babab");
//! # Ok::<(), trainer::Error>(())
//! ```

mod evaluate;
mod generate;
mod report;
mod score;
mod stream;

pub use evaluate::{Loss, Mean, document_pass, row_pass};
pub use generate::{Reader, TextGenerator};
pub use report::{anchors, describe, sample};
pub use score::{ScoreTask, Scorer, score};
pub use stream::{Chunk, Cursor, DocumentCursor, DocumentStream, Source, documents, tokens};
