//! The memories moving on (section 3 of the paper, Algorithm 1), and the loss of what that compresses (Algorithm 2).

use crate::compressor::{Compressor, Read, reconstruction_loss};
use crate::config::{CompressionLoss, CompressorKind};
use crate::error::Result;
use crate::memory::{LayerMemory, Projected};
use crate::memory_model::CompressionView;
use crate::model::{CompressiveTransformer, Scene};
use burn::prelude::*;
use core_attn::memory::MemoryFifo;

/// What a layer's attention had in hand when the memories move on.
pub(crate) struct Step<'a> {
    pub appended: &'a Tensor<3>,
    pub query: &'a Tensor<3>,
    pub own: Read,
    pub recent: Read,
    pub weights: Option<&'a Tensor<4>>,
}

pub(crate) struct Moved {
    pub memory: LayerMemory,
    pub view: Option<CompressionView>,
    pub loss: Option<Tensor<1>>,
}

impl CompressiveTransformer {
    /// Compresses the oldest rows and appends the chunk's (section 3, Algorithm 1).
    pub(crate) fn update_memory(
        &self,
        i: usize,
        memory: LayerMemory,
        step: Step<'_>,
        scene: &Scene<'_>,
    ) -> Result<Moved> {
        let config = self.config();
        let appended = step.appended.clone().detach();
        let [_, chunk, _] = appended.dims();
        let size = memory.episodic.size();
        // A single token is compressed when a window's worth of them has come.
        let due = chunk > 1
            || scene.index % config.compression_rate as u64 == config.compression_rate as u64 - 1;
        let compressor = self
            .compressors
            .get(i)
            .filter(|_| memory.compressed.size() > 0 && due);
        let mut usage = match (&memory.usage, step.weights) {
            (Some(past), Some(weights)) => Some(add_usage(past, weights, memory.compressed.len())),
            _ => None,
        };
        let mut new = None;
        let (mut view, mut loss) = (None, None);
        if let Some(compressor) = compressor {
            let count = config.compressed_rows(chunk, size);
            let old = memory.episodic.oldest(&appended, count);
            // A text may end in a chunk too short for a window; its memories are not read again.
            let fits = |old: &Tensor<3>| {
                chunk == config.chunk_size || compressor.compression().rows_out(old.dims()[1]) > 0
            };
            if let Some(old) = old.filter(fits) {
                let [_, rows, _] = old.dims();
                let received = match (&usage, step.weights) {
                    (Some(life), _) => Some(mean_usage(life.clone().narrow(1, 0, rows))),
                    (None, Some(weights))
                        if compressor.compression().kind == CompressorKind::MostUsed =>
                    {
                        Some(received(weights).narrow(1, memory.compressed.len(), rows))
                    }
                    _ => None,
                };
                let compressed = compressor.compress(old.clone(), received.as_ref())?;
                let from = rows.saturating_sub(size);
                let query = step.query.clone().detach().narrow(1, from, chunk - from);
                if scene.mode.losses {
                    loss = self.compression_loss(
                        i,
                        compressor,
                        &query,
                        &step.recent,
                        &old,
                        &compressed,
                    )?;
                }
                view = Some(CompressionView {
                    old,
                    new: compressed.clone().detach(),
                    query,
                });
                new = Some(match config.is_bptt() {
                    true => compressed,
                    false => compressed.detach(),
                });
            }
        }
        let projected = match memory.projected.clone() {
            Some(p) => {
                let side = |read: Read| Tensor::cat(vec![read.key, read.value], 2);
                let new = new
                    .clone()
                    .map(|rows| side(self.layers[i].attention.read(rows)));
                Some(Projected {
                    episodic: p.episodic.push(side(step.own)),
                    compressed: match new {
                        Some(rows) => p.compressed.push(rows),
                        None => p.compressed,
                    },
                    relative: p.relative,
                })
            }
            None => None,
        };
        let usage = usage.take().map(|rows| MemoryFifo::from_rows(rows, size));
        let memory = LayerMemory {
            usage: usage.or(memory.usage.clone()),
            projected,
            ..memory
        };
        Ok(Moved {
            memory: memory.push(appended, new),
            view,
            loss,
        })
    }

    /// The compression loss of a layer, open to the gradients of its compressor alone.
    fn compression_loss(
        &self,
        i: usize,
        compressor: &Compressor,
        query: &Tensor<3>,
        recent: &Read,
        old: &Tensor<3>,
        compressed: &Tensor<3>,
    ) -> Result<Option<Tensor<1>>> {
        if !self.config().has_compression_loss() {
            return Ok(None);
        }
        if self.config().compression_loss == CompressionLoss::Ae {
            return Ok(compressor.autoencoding_loss(old.clone(), compressed.clone()));
        }
        let [_, rows, _] = old.dims();
        // The old rows are the oldest of memory and chunk, whose keys and values the attention has just made.
        let old = Read {
            key: recent.key.clone().narrow(1, 0, rows).detach(),
            value: recent.value.clone().narrow(1, 0, rows).detach(),
        };
        let new = self.layers[i].attention.read_fixed(compressed.clone());
        Ok(Some(reconstruction_loss(
            query.clone(),
            old,
            new,
            self.config().num_heads,
        )?))
    }
}

/// Attention that each key received, mean over heads and queries: `[batch, keys]`.
fn received(weights: &Tensor<4>) -> Tensor<2> {
    let [batch, _, _, keys] = weights.dims();
    let weights = weights.clone().detach();
    weights.mean_dim(1).mean_dim(2).reshape([batch, keys])
}

/// Sums and step counts of the memory's rows and the chunk's, with this step added: `[batch, rows, 2]`.
fn add_usage(past: &MemoryFifo, weights: &Tensor<4>, compressed: usize) -> Tensor<3> {
    let now = received(weights);
    let [batch, keys] = now.dims();
    let now = now
        .narrow(1, compressed, keys - compressed)
        .unsqueeze_dim::<3>(2);
    let now = Tensor::cat(vec![now.clone(), now.ones_like()], 2);
    let known = past.len();
    let chunk = keys - compressed - known;
    let fresh = Tensor::zeros([batch, chunk, 2], &now.device().without_autodiff());
    match past.rows() {
        Some(rows) => Tensor::cat(vec![rows, fresh], 1) + now,
        None => now,
    }
}

/// `[batch, rows, 2]` sums and counts to means `[batch, rows]`.
fn mean_usage(life: Tensor<3>) -> Tensor<2> {
    let sums = life.clone().narrow(2, 0, 1);
    let counts = life.narrow(2, 1, 1);
    (sums / counts).squeeze_dim(2)
}
