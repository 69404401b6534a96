//! What is carried from chunk to chunk (section 3 of the paper).

use crate::error::{Result, input};
use burn::prelude::*;
use core_attn::memory::{MemoryFifo, SinusoidTable};

/// How many rows the memories of a layer hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySizes {
    /// Rows of the ordinary memory.
    pub episodic: usize,
    /// Rows of the compressed memory.
    pub compressed: usize,
}

/// The memories of one layer.
#[derive(Debug, Clone)]
pub struct LayerMemory {
    /// The newest rows, `[batch, n_m, width]`, oldest first.
    pub episodic: MemoryFifo,
    /// What older rows were compressed to, `[batch, n_cm, width]`, oldest first.
    pub compressed: MemoryFifo,
    /// Per ordinary row the attention it has received and in how many steps, `[batch, n_m, 2]`; only where it is asked for.
    pub usage: Option<MemoryFifo>,
    /// Projections of the same rows, in evaluation: they never change while a row lives.
    pub projected: Option<Projected>,
}

/// Keys and values of remembered rows, side by side: `[batch, rows, 2 * width]`.
#[derive(Debug, Clone)]
pub struct Projected {
    /// Of the ordinary memory.
    pub episodic: MemoryFifo,
    /// Of the compressed memory.
    pub compressed: MemoryFifo,
    /// Keys of the relative positions, `[distances, width]`, of the ordinary and, where it has its own, the compressed memory.
    pub relative: [Option<Tensor<2>>; 2],
}

impl LayerMemory {
    /// Appends the rows of a chunk `[batch, chunk, width]` and, where there are any, new compressed rows. In both memories the
    /// oldest rows drop out, first in, first out.
    #[must_use]
    pub fn push(self, chunk: Tensor<3>, compressed: Option<Tensor<3>>) -> Self {
        Self {
            episodic: self.episodic.push(chunk),
            compressed: match compressed {
                Some(rows) => self.compressed.push(rows),
                None => self.compressed,
            },
            ..self
        }
    }

    fn map(self, f: impl Fn(MemoryFifo) -> MemoryFifo) -> Self {
        Self {
            episodic: f(self.episodic),
            compressed: f(self.compressed),
            usage: self.usage.map(&f),
            projected: self.projected.map(|p| Projected {
                episodic: f(p.episodic),
                compressed: f(p.compressed),
                relative: p.relative,
            }),
        }
    }
}

/// The memories of all layers, by value: into a forward pass and out of it.
#[derive(Debug, Clone)]
pub struct CompressedMemoryState {
    /// One per layer that has a memory, first to last.
    pub layers: Vec<LayerMemory>,
    /// Chunks read so far; decides when single tokens are compressed.
    pub index: u64,
    pub(crate) table: Option<SinusoidTable>,
}

impl CompressedMemoryState {
    /// The state with all memories cut from the graph that made them.
    #[must_use]
    pub fn detach(self) -> Self {
        self.map(MemoryFifo::detach)
    }

    /// The state with the memories of some sequences of the batch set to zero, as at the beginning of a document.
    #[must_use]
    pub fn clear_sequences(self, sequences: &[usize]) -> Self {
        match sequences.is_empty() {
            true => self,
            false => self.map(|fifo| fifo.clear_sequences(sequences)),
        }
    }

    /// The state with its compressed memories set to zero: what they are worth is seen in the loss.
    #[must_use]
    pub fn without_compressed(self) -> Self {
        let clear = |fifo: MemoryFifo| match fifo.rows() {
            Some(rows) => {
                let batch: Vec<usize> = (0..rows.dims()[0]).collect();
                fifo.clear_sequences(&batch)
            }
            None => fifo,
        };
        let layers = self.layers.into_iter().map(|layer| LayerMemory {
            compressed: clear(layer.compressed),
            projected: layer.projected.map(|p| Projected {
                compressed: clear(p.compressed),
                ..p
            }),
            ..layer
        });
        Self {
            layers: layers.collect(),
            ..self
        }
    }

    fn map(self, f: impl Fn(MemoryFifo) -> MemoryFifo) -> Self {
        let layers = self.layers.into_iter().map(|layer| layer.map(&f));
        Self {
            layers: layers.collect(),
            ..self
        }
    }

    /// Checks that the state fits a model and a batch.
    pub(crate) fn check(&self, layers: usize, batch: usize, width: usize) -> Result<()> {
        if self.layers.len() != layers {
            let expected = format!("expected the {layers} of the model");
            return Err(input(
                "the state",
                format!("of {} layers", self.layers.len()),
                expected,
            ));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            for (name, fifo) in [
                ("ordinary", &layer.episodic),
                ("compressed", &layer.compressed),
            ] {
                let Some(rows) = fifo.rows() else { continue };
                let [b, _, w] = rows.dims();
                if [b, w] != [batch, width] {
                    return Err(input(
                        "the state",
                        format!("a {name} memory of layer {i} of batch {b} and width {w}"),
                        format!("expected batch {batch} and width {width}"),
                    ));
                }
            }
        }
        Ok(())
    }
}
