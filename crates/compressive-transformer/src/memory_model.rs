//! What the profiles have in common: a language model that carries memories from chunk to chunk.

use crate::compressor::Compressor;
use crate::error::Result;
use crate::memory::{CompressedMemoryState, MemorySizes};
use burn::module::Module;
use burn::prelude::*;
use core_attn::dropout::Dropout;
use pretrained::Weights;
use std::path::Path;

/// How a chunk is read.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Dropout, with the step's random stream.
    pub dropout: Dropout,
    /// Whether the memories move on. Without, the state comes back as it went in: what a partial chunk of a text that is being
    /// written needs.
    pub update: bool,
    /// Whether the compression losses are taken.
    pub losses: bool,
    /// Whether attention weights are shown to `watch`; they cost memory.
    pub weights: bool,
}

impl Mode {
    /// No dropout and no losses; the memories move on.
    pub const fn evaluation() -> Self {
        Self {
            dropout: Dropout::off(),
            update: true,
            losses: false,
            weights: false,
        }
    }

    /// With dropout and compression losses.
    pub const fn training(dropout: Dropout) -> Self {
        Self {
            dropout,
            update: true,
            losses: true,
            weights: false,
        }
    }

    /// Evaluation that leaves the memories alone.
    pub const fn peek() -> Self {
        Self {
            update: false,
            ..Self::evaluation()
        }
    }
}

/// The rows that a layer compressed.
#[derive(Debug, Clone)]
pub struct CompressionView {
    /// `[batch, rows, width]`.
    pub old: Tensor<3>,
    /// `[batch, rows / c, width]`.
    pub new: Tensor<3>,
    /// The scaled queries that the reconstruction loss asks with: `[batch, query, width]`.
    pub query: Tensor<3>,
}

/// A look into a layer.
pub struct LayerView<'a> {
    /// Its number, from 0.
    pub layer: usize,
    /// What is appended to its memory: `[batch, chunk, width]`.
    pub appended: &'a Tensor<3>,
    /// Attention weights `[batch, heads, chunk, compressed + memory + chunk]`, where the mode asks for them.
    pub weights: Option<&'a Tensor<4>>,
    /// Keys of compressed memory, memory and chunk.
    pub regions: [usize; 3],
    /// Behind the attention's residual connection: `[batch, chunk, width]`.
    pub after_attention: &'a Tensor<3>,
    /// Behind the feed-forward layer's: `[batch, chunk, width]`.
    pub after_mlp: &'a Tensor<3>,
    /// What was compressed, if anything was.
    pub compression: Option<CompressionView>,
}

/// What a forward pass gives.
#[derive(Debug, Clone)]
pub struct CompressiveOutput {
    /// Rows behind the last layer `[batch, chunk, width]`.
    pub hidden: Tensor<3>,
    /// The memories for the next chunk.
    pub state: CompressedMemoryState,
    /// The compression loss of each layer that has a memory, `[1]` each; 0 where nothing was compressed or nothing is learned.
    pub losses: Vec<Tensor<1>>,
    /// What their mean is multiplied by.
    pub loss_weight: f64,
}

impl CompressiveOutput {
    /// The auxiliary loss: the mean of the layers' compression losses, `[1]`. No parameter outside the compressors has a gradient
    /// from it.
    pub fn aux_loss(&self) -> Option<Tensor<1>> {
        if self.losses.is_empty() {
            return None;
        }
        let mean = Tensor::cat(self.losses.clone(), 0).mean();
        Some(mean.mul_scalar(self.loss_weight))
    }
}

/// A model of token ids with memories, whichever profile it has.
pub trait MemoryModel: Module + Weights + std::fmt::Debug + Sized + 'static {
    /// Its configuration.
    type Config: Clone + std::fmt::Debug;

    /// The profile's name in `config.json`.
    const PROFILE: &'static str;

    /// The configuration of a JSON object, which does not hold the key `profile` any more; `at` is its path in `file`.
    ///
    /// # Errors
    /// An unknown key or a value the model cannot have.
    fn parse(value: serde_json::Value, file: &Path, at: &str) -> Result<Self::Config>;

    /// The configuration as JSON, without `profile`.
    ///
    /// # Errors
    /// A number that JSON cannot hold.
    fn json(config: &Self::Config) -> Result<serde_json::Value>;

    /// The vocabulary's size, where it is known.
    fn vocab_size(config: &Self::Config) -> Option<usize>;

    /// Sets the vocabulary's size.
    fn set_vocab_size(config: &mut Self::Config, ids: usize);

    /// What is worth saying about a valid configuration.
    fn warnings(config: &Self::Config) -> Vec<String>;

    /// Rate of dropout in training.
    fn dropout_rate(config: &Self::Config) -> f64;

    /// Facts about the model, name and value.
    fn facts(config: &Self::Config) -> Vec<(String, String)>;

    /// How many tokens back the output can depend on: over the layers that remember, the memory's rows and what stands behind
    /// the compressed ones.
    fn reach(config: &Self::Config) -> usize;

    /// Numbers that a training step holds at once, in f64 so that no size overflows: `[0]` whatever the batch (weights, gradients and
    /// the two averages of an optimiser such as Adam), `[1]` for each row of it (memories, and what the backward pass needs of a
    /// chunk). An estimate: allocators and the operations' own buffers come on top.
    fn numbers(config: &Self::Config) -> [f64; 2];

    /// A model with initial parameters.
    ///
    /// # Errors
    /// A value the model cannot have.
    fn build(config: &Self::Config, key: core_attn::random::Key, device: &Device) -> Result<Self>;

    /// Its configuration.
    fn settings(&self) -> &Self::Config;

    /// Most tokens of a chunk.
    fn chunk_size(&self) -> usize;

    /// The sizes of the memories it was configured with.
    fn sizes(&self) -> MemorySizes;

    /// The memories at the beginning of a text; with `evaluation` in the form that is read fastest.
    ///
    /// # Errors
    /// Sizes the model cannot have.
    fn start(
        &self,
        batch: usize,
        sizes: MemorySizes,
        evaluation: bool,
    ) -> Result<CompressedMemoryState>;

    /// Whether the task's loss is to reach the compressors through later chunks.
    fn unrolls(&self) -> bool {
        false
    }

    /// Reads a chunk of ids `[batch, chunk]`. `real` `[batch, chunk]` is true where a token is no padding.
    ///
    /// # Errors
    /// A chunk that is too long, or a state of another model or batch.
    fn read(
        &self,
        tokens: Tensor<2, Int>,
        real: Option<Tensor<2, Bool>>,
        state: CompressedMemoryState,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<CompressiveOutput>;

    /// Log-probabilities of all ids: `[batch, chunk, width]` to `[batch, chunk, vocab]`.
    fn log_probabilities(&self, hidden: Tensor<3>) -> Tensor<3>;

    /// Negative log-likelihood in nats of each target: `[batch, chunk]`.
    ///
    /// # Errors
    /// With clusters, a target outside the vocabulary.
    fn nll(&self, hidden: Tensor<3>, targets: Tensor<2, Int>) -> Result<Tensor<2>>;

    /// The compression functions. Their module paths begin with `compressors.`.
    fn compressors(&self) -> &[Compressor];

    /// The model with these compression functions.
    #[must_use]
    fn with_compressors(self, compressors: Vec<Compressor>) -> Self;
}
