//! A token stream cut into rows and blocks, with a position that is plain data.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, value};

/// Cuts a stream into `batch` contiguous rows of equal width; the remainder is dropped.
///
/// # Errors
/// [`Error::Value`] for a batch of 0 or one larger than the stream.
pub fn batchify(tokens: &[u32], batch: usize) -> Result<Vec<Vec<u32>>> {
    let width = tokens.len().checked_div(batch).unwrap_or(0);
    if width == 0 {
        let expected = format!(
            "a batch between 1 and the {} tokens of the stream",
            tokens.len()
        );
        return Err(value("batch", batch, &expected));
    }
    Ok(tokens
        .chunks_exact(width)
        .take(batch)
        .map(<[u32]>::to_vec)
        .collect())
}

/// One block of tokens and the tokens that follow them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Token ids, `[batch, length]`, row by row.
    pub inputs: Vec<u32>,
    /// The next token of each, `[batch, length]`.
    pub targets: Vec<u32>,
    /// Number of rows.
    pub batch: usize,
    /// Tokens per row.
    pub length: usize,
    /// Column of the stream at which the block begins.
    pub position: usize,
    /// True when this block does not continue the one before: whatever is carried between blocks must be reset to zero first.
    pub fresh: bool,
    /// `(row, column)` of every token in this block that begins a document.
    pub document_starts: Vec<(usize, usize)>,
}

impl Block {
    /// Cuts the rows into `parts` equal groups, for gradient accumulation.
    ///
    /// # Errors
    /// [`Error::Value`] when the batch is not divisible by `parts`.
    pub fn split(&self, parts: usize) -> Result<Vec<Block>> {
        if parts == 0 || !self.batch.is_multiple_of(parts) {
            let expected = format!("a divisor of the batch of {} rows", self.batch);
            return Err(value("batch_split", parts, &expected));
        }
        let rows = self.batch / parts;
        Ok((0..parts)
            .map(|part| {
                let range = part * rows * self.length..(part + 1) * rows * self.length;
                Block {
                    inputs: self.inputs[range.clone()].to_vec(),
                    targets: self.targets[range].to_vec(),
                    batch: rows,
                    length: self.length,
                    position: self.position,
                    fresh: self.fresh,
                    document_starts: self
                        .document_starts
                        .iter()
                        .filter(|(row, _)| row / rows == part)
                        .map(|(row, column)| (row - part * rows, *column))
                        .collect(),
                }
            })
            .collect())
    }
}

/// Where a stream stands; save it with the model and restore it to go on with the very next block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamCursor {
    /// Column at which the next block begins.
    pub position: usize,
    /// Whether the next block begins anew, so that carried state must be reset.
    pub fresh: bool,
    /// How often the end of the rows has been reached.
    pub passes: u64,
    /// Number of rows of the stream.
    pub batch: usize,
    /// Tokens per row of the stream.
    pub width: usize,
    /// Tokens per row of a block.
    pub block: usize,
}

/// `batch` contiguous rows of a stream, read in blocks from left to right.
///
/// ```
/// use datasets::BatchStream;
///
/// let tokens: Vec<u32> = (0..22).collect();
/// let mut stream = BatchStream::new(tokens, 2, 4)?; // two rows of 11, blocks of 4
/// let first = stream.next_block(|_| 0);
/// assert_eq!(first.inputs, [0, 1, 2, 3, 11, 12, 13, 14]);
/// assert_eq!(first.targets, [1, 2, 3, 4, 12, 13, 14, 15]);
/// assert!(first.fresh);
/// // The second block ends at column 8 >= 11 - 4, so the third begins at a drawn column below 4, with empty caches.
/// assert!(!stream.next_block(|below| below - 1).fresh);
/// let third = stream.next_block(|_| 0);
/// assert_eq!((third.position, third.fresh), (3, true));
/// # Ok::<(), datasets::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchStream {
    tokens: Arc<[u32]>,
    documents: Arc<[usize]>,
    cursor: StreamCursor,
}

impl BatchStream {
    /// Cuts a stream into `batch` rows, to be read in blocks of `block` tokens.
    ///
    /// # Errors
    /// [`Error::Value`] for a batch or block of 0, [`Error::TooShort`] when a row would not hold one block and one more token.
    pub fn new(tokens: impl Into<Arc<[u32]>>, batch: usize, block: usize) -> Result<Self> {
        BatchStream::with_documents(tokens, Vec::new(), batch, block)
    }

    /// As [`new`](Self::new), with the offsets at which documents begin (ascending), so that blocks can report them.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_documents(
        tokens: impl Into<Arc<[u32]>>,
        documents: impl Into<Arc<[usize]>>,
        batch: usize,
        block: usize,
    ) -> Result<Self> {
        let tokens = tokens.into();
        if batch == 0 {
            return Err(value("batch_size", batch, "at least 1"));
        }
        if block == 0 {
            return Err(value("block_size", block, "at least 1"));
        }
        let width = tokens.len() / batch;
        if width <= block {
            let needed = batch.saturating_mul(block.saturating_add(1));
            let remedy = match tokens.len() / block.saturating_add(1) {
                0 => match tokens.len() {
                    0 | 1 => "give it more text".to_string(),
                    length => format!(
                        "use a block of at most {} with batch 1, or more text",
                        length - 1
                    ),
                },
                rows => format!("use a batch of at most {rows}, a smaller block, or more text"),
            };
            return Err(Error::TooShort {
                length: tokens.len(),
                needed,
                batch,
                block,
                remedy,
            });
        }
        Ok(BatchStream {
            tokens,
            documents: documents.into(),
            cursor: StreamCursor {
                position: 0,
                fresh: true,
                passes: 0,
                batch,
                width,
                block,
            },
        })
    }

    /// Tokens per row.
    pub fn width(&self) -> usize {
        self.cursor.width
    }

    /// Blocks in one pass over the rows; the tail that does not fill a block is left out.
    pub fn blocks_per_pass(&self) -> usize {
        (self.cursor.width - self.cursor.block).div_ceil(self.cursor.block)
    }

    /// Where the stream stands.
    pub fn cursor(&self) -> StreamCursor {
        self.cursor
    }

    /// Goes on from a saved position.
    ///
    /// # Errors
    /// [`Error::Cursor`] when the position was saved with another batch, block or stream length, or lies outside the rows.
    pub fn restore(&mut self, saved: StreamCursor) -> Result<()> {
        let here = self.cursor;
        for (key, saved, here) in [
            ("the batch", saved.batch, here.batch),
            ("the block", saved.block, here.block),
            ("the width of a row", saved.width, here.width),
        ] {
            if saved != here {
                return Err(Error::Cursor { key, saved, here });
            }
        }
        let last = here.width - here.block - 1;
        if saved.position > last {
            return Err(Error::Cursor {
                key: "the position",
                saved: saved.position,
                here: last,
            });
        }
        self.cursor = saved;
        Ok(())
    }

    /// The next block for training. Where the rows end after it (`position >= width - block`), `draw(n)` is asked for a number
    /// that is uniform in `0..n`: the column at which the next pass begins, with `fresh` set. `n` is the block size, or
    /// `width - block` if rows are narrower than two blocks.
    pub fn next_block(&mut self, draw: impl FnOnce(usize) -> usize) -> Block {
        let StreamCursor {
            position, fresh, ..
        } = self.cursor;
        let block = self.block_at(position, fresh);
        let at = &mut self.cursor;
        at.position += at.block;
        at.fresh = at.position >= at.width - at.block;
        if at.fresh {
            let below = at.block.min(at.width - at.block);
            at.position = draw(below) % below;
            at.passes += 1;
        }
        block
    }

    /// All blocks from the first column on, once, whatever the position; only the first is `fresh`. This is the published
    /// evaluation: it stops at `position >= width - block`.
    pub fn pass(&self) -> impl ExactSizeIterator<Item = Block> + '_ {
        (0..self.blocks_per_pass())
            .map(|index| self.block_at(index * self.cursor.block, index == 0))
    }

    fn block_at(&self, position: usize, fresh: bool) -> Block {
        let StreamCursor {
            batch,
            width,
            block,
            ..
        } = self.cursor;
        let mut inputs = Vec::with_capacity(batch * block);
        let mut targets = Vec::with_capacity(batch * block);
        let mut document_starts = Vec::new();
        for row in 0..batch {
            let start = row * width + position;
            inputs.extend_from_slice(&self.tokens[start..start + block]);
            targets.extend_from_slice(&self.tokens[start + 1..start + block + 1]);
            let first = self.documents.partition_point(|&at| at < start);
            let here = self.documents[first..]
                .iter()
                .take_while(|&&at| at < start + block);
            document_starts.extend(here.map(|at| (row, at - start)));
        }
        Block {
            inputs,
            targets,
            batch,
            length: block,
            position,
            fresh,
            document_starts,
        }
    }
}
