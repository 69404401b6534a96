//! Chunks for training: of one long text in rows, or of documents, each with memories of its own.

use burn::prelude::*;
use datasets::{BatchStream, StreamCursor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use trainer::{Error, Result};

/// Tokens of a chunk and those that follow them.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// `[batch, length]`, row by row.
    pub inputs: Vec<u32>,
    /// The next token of each.
    pub targets: Vec<u32>,
    /// Number of rows.
    pub batch: usize,
    /// False where a row is padded behind the end of its document; absent where no row is.
    pub real: Option<Vec<bool>>,
    /// Rows that begin a text.
    pub fresh: Vec<usize>,
}

/// Ids `[batch, length]` on a device.
pub fn tokens(ids: &[u32], batch: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let shape = [batch, ids.len() / batch.max(1)];
    Tensor::from_data(TensorData::new(ids, shape), device)
}

impl Chunk {
    /// Where tokens are real, `[batch, length]`.
    pub fn real(&self, device: &Device) -> Option<Tensor<2, Bool>> {
        let real = self.real.clone()?;
        let shape = [self.batch, real.len() / self.batch.max(1)];
        Some(Tensor::from_data(TensorData::new(real, shape), device))
    }
}

/// Where the chunks come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// One text in contiguous rows.
    Rows(BatchStream),
    /// Whole documents, one after another in each row.
    Documents(DocumentStream),
}

/// Where a source stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cursor {
    /// In one text in rows.
    Rows(StreamCursor),
    /// In documents.
    Documents(DocumentCursor),
}

impl Source {
    /// Rows where the split is one text, documents where it is several.
    ///
    /// # Errors
    /// More rows than the split has tokens or documents.
    pub fn new(split: &datasets::Split, batch: usize, chunk: usize) -> Result<Self> {
        Ok(match split.documents.len() {
            0 | 1 => Self::Rows(split.stream(batch, chunk).map_err(Error::other)?),
            _ => Self::Documents(DocumentStream::new(
                split.tokens.clone(),
                &split.documents,
                batch,
                chunk,
            )?),
        })
    }

    /// The next chunk; `draw(n)` gives a number uniform in `0..n`.
    pub fn next(&mut self, draw: impl FnOnce(usize) -> usize) -> Chunk {
        match self {
            Self::Rows(stream) => {
                let block = stream.next_block(draw);
                Chunk {
                    inputs: block.inputs,
                    targets: block.targets,
                    batch: block.batch,
                    real: None,
                    fresh: match block.fresh {
                        true => (0..block.batch).collect(),
                        false => vec![],
                    },
                }
            }
            Self::Documents(stream) => stream.next(),
        }
    }

    /// Where it stands.
    pub fn cursor(&self) -> Cursor {
        match self {
            Self::Rows(stream) => Cursor::Rows(stream.cursor()),
            Self::Documents(stream) => Cursor::Documents(stream.cursor.clone()),
        }
    }

    /// Goes to where it stood.
    ///
    /// # Errors
    /// A place of other data.
    pub fn restore(&mut self, saved: Cursor) -> Result<()> {
        match (self, saved) {
            (Self::Rows(stream), Cursor::Rows(cursor)) => {
                stream.restore(cursor).map_err(Error::other)
            }
            (Self::Documents(stream), Cursor::Documents(cursor)) => stream.restore(cursor),
            _ => Err(Error::value(
                "the checkpoint's `stream`",
                "of other data",
                "a checkpoint of this recipe",
            )),
        }
    }
}

/// Where a [`DocumentStream`] stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentCursor {
    /// Of each row: its document, and the token in it at which the next chunk begins.
    rows: Vec<(usize, usize)>,
    /// The document that the next row to end takes up.
    next: usize,
}

/// Each row reads a document from its beginning to its end, then takes the next one that no row has read.
#[derive(Debug, Clone)]
pub struct DocumentStream {
    tokens: Arc<[u32]>,
    /// First token and length of each document of at least two tokens.
    documents: Vec<(usize, usize)>,
    chunk: usize,
    cursor: DocumentCursor,
}

impl DocumentStream {
    /// Documents that begin at `starts`, in `batch` rows, read in chunks of `chunk` tokens.
    ///
    /// # Errors
    /// More rows than documents with something to predict.
    pub fn new(tokens: Arc<[u32]>, starts: &[usize], batch: usize, chunk: usize) -> Result<Self> {
        let documents = documents(starts, tokens.len());
        if documents.len() < batch || batch == 0 {
            return Err(Error::value(
                "training.batch_size",
                batch,
                format!("1..={}, the number of documents", documents.len()),
            ));
        }
        Ok(Self {
            tokens,
            documents,
            chunk,
            cursor: DocumentCursor {
                rows: (0..batch).map(|row| (row, 0)).collect(),
                next: batch,
            },
        })
    }

    fn next(&mut self) -> Chunk {
        let batch = self.cursor.rows.len();
        let (mut inputs, mut targets, mut real) = (vec![], vec![], vec![]);
        let mut fresh = vec![];
        for (row, (document, position)) in self.cursor.rows.iter_mut().enumerate() {
            let (_, length) = self.documents[*document];
            if *position + 1 >= length {
                (*document, *position) = (self.cursor.next % self.documents.len(), 0);
                self.cursor.next += 1;
            }
            let (start, length) = self.documents[*document];
            if *position == 0 {
                fresh.push(row);
            }
            let n = self.chunk.min(length - 1 - *position);
            let from = start + *position;
            let padding = self.chunk - n;
            inputs.extend_from_slice(&self.tokens[from..from + n]);
            inputs.extend(std::iter::repeat_n(0, padding));
            targets.extend_from_slice(&self.tokens[from + 1..from + 1 + n]);
            targets.extend(std::iter::repeat_n(0, padding));
            real.extend((0..self.chunk).map(|i| i < n));
            *position += n;
        }
        Chunk {
            inputs,
            targets,
            batch,
            real: real.contains(&false).then_some(real),
            fresh,
        }
    }

    fn restore(&mut self, saved: DocumentCursor) -> Result<()> {
        let inside = |&(document, position): &(usize, usize)| {
            self.documents
                .get(document)
                .is_some_and(|(_, length)| position < *length)
        };
        if saved.rows.len() != self.cursor.rows.len() || !saved.rows.iter().all(inside) {
            return Err(Error::value(
                "the checkpoint's `stream`",
                "a place outside the data",
                "a checkpoint of this recipe",
            ));
        }
        self.cursor = saved;
        Ok(())
    }
}

/// First token and length of each document in which there is something to predict.
pub fn documents(starts: &[usize], tokens: usize) -> Vec<(usize, usize)> {
    let ends = starts.iter().skip(1).copied().chain([tokens]);
    let all = starts.iter().zip(ends);
    all.map(|(&start, end)| (start, end.saturating_sub(start)))
        .filter(|(_, length)| *length >= 2)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_whole_and_none_twice_in_a_pass() {
        // Documents of 5, 1 (nothing to predict), 8, 3 and 4 tokens.
        let starts = [0, 5, 6, 14, 17];
        let tokens: Arc<[u32]> = (0..21u32).collect();
        let mut stream = DocumentStream::new(tokens, &starts, 2, 3).unwrap();
        let first = stream.next();
        assert_eq!(first.inputs, [0, 1, 2, 6, 7, 8]);
        assert_eq!(first.targets, [1, 2, 3, 7, 8, 9]);
        assert_eq!((first.fresh, first.real), (vec![0, 1], None));
        let second = stream.next();
        assert_eq!(second.inputs, [3, 0, 0, 9, 10, 11]);
        assert_eq!(second.targets, [4, 0, 0, 10, 11, 12]);
        assert!(second.fresh.is_empty());
        assert_eq!(
            second.real,
            Some(vec![true, false, false, true, true, true])
        );
        let saved = stream.cursor.clone();
        let third = stream.next();
        assert_eq!(third.inputs, [14, 15, 0, 12, 0, 0]);
        assert_eq!(third.fresh, [0]);
        let fourth = stream.next();
        assert_eq!(fourth.inputs, [17, 18, 19, 0, 1, 2]);
        assert_eq!(fourth.fresh, [0, 1]);
        stream.restore(saved).unwrap();
        assert_eq!(stream.next().inputs, third.inputs);
        assert!(DocumentStream::new((0..21u32).collect(), &starts, 5, 3).is_err());
    }
}
