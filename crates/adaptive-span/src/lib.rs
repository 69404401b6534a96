//! The Adaptive Span Transformer: every attention head learns how far back it looks.
//!
//! S. Sukhbaatar, E. Grave, P. Bojanowski, A. Joulin, *Adaptive Attention Span in Transformers*, ACL 2019,
//! [arXiv:1905.07799](https://arxiv.org/abs/1905.07799); with the option of persistent vectors instead of feed-forward layers,
//! S. Sukhbaatar et al., *Augmenting Self-attention with Persistent Memory*,
//! [arXiv:1907.01470](https://arxiv.org/abs/1907.01470).
//!
//! A text is read in blocks; each layer keeps the rows of earlier blocks, as many as its heads look back. Configuration keys
//! and tensor names are upstream's, so published checkpoints load, and what is saved here loads there.
//!
//! ```
//! use adaptive_span::{AdaptiveSpanConfig, Mode, TransformerSeq};
//! use burn::prelude::*;
//! use core_attn::random::Key;
//!
//! let config = AdaptiveSpanConfig {
//!     vocab_size: Some(50),
//!     hidden_size: 32,
//!     inner_hidden_size: 64,
//!     nb_layers: 2,
//!     attn_span: 128,
//!     ..Default::default()
//! };
//! let device = Device::flex();
//! let model = config.init(Key::new(1), &device)?;
//! let tokens = Tensor::<2, Int>::from_ints([[3, 1, 4, 1, 5]], &device);
//! let output = model.forward(tokens, model.empty_projected_cache(1), Mode::evaluation())?;
//! let log_probabilities = model.log_probabilities(output.hidden);
//! assert_eq!(log_probabilities.dims(), [1, 5, 50]);
//! // `output.cache` is the past of the next block.
//!
//! let folder = std::env::temp_dir().join("adaptive-span-example");
//! model.save_pretrained(&folder)?;
//! let again = TransformerSeq::from_pretrained(&folder, &device)?;
//! assert_eq!(again.config(), model.config());
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok::<(), adaptive_span::Error>(())
//! ```
//!
//! The feature `train` (on by default) adds what the tools need: recipes, the training run, replays and benchmarks. Without it
//! the crate depends on Burn, `core-attn`, `pretrained` and serde alone.
#![recursion_limit = "256"]

mod attention;
#[cfg(feature = "train")]
mod bench;
mod cache;
mod config;
mod error;
#[cfg(feature = "train")]
mod experiment;
#[cfg(feature = "train")]
mod folder;
#[cfg(feature = "train")]
mod generate;
mod model;
#[cfg(feature = "train")]
mod recipe;
#[cfg(feature = "train")]
mod replay;
mod span;
#[cfg(feature = "train")]
mod stream;
mod weights;

pub use attention::{PersistentMemory, SeqAttention};
pub use cache::{HiddenCache, LayerCache};
pub use config::{AdaptiveSpanConfig, SpanKind};
pub use error::{Error, Result};
pub use model::{
    FeedForward, InputEmbedding, LayerView, Mode, Output, OutputLayer, OutputProjection,
    TransformerSeq, TransformerSeqLayer,
};
pub use span::{AdaptiveSpan, DynamicSpan, SpanReport, TRIM_GRANULARITY};

pub use weights::{CONFIG_FILE, WEIGHTS_FILE};
#[cfg(feature = "train")]
pub use {
    experiment::AdaptiveSpanExperiment,
    folder::{Folder, VOCAB_FILE},
    generate::{SpanReader, TextGenerator},
    recipe::{EvaluationConfig, TrainingConfig},
};

/// What this crate registers with the tools.
#[cfg(feature = "train")]
pub static ARCHITECTURE: trainer::Architecture = trainer::Architecture {
    name: "adaptive-span",
    summary: "Every attention head learns how far back it looks, so time and memory follow the learned spans",
    paper: "Sukhbaatar, Grave, Bojanowski, Joulin: Adaptive Attention Span in Transformers, ACL 2019, arXiv:1905.07799",
    schema: || {
        trainer::recipe_schema::<
            AdaptiveSpanConfig,
            datasets::CorpusSpec,
            TrainingConfig,
            EvaluationConfig,
        >("adaptive-span")
    },
    open: |recipe, device| Ok(Box::new(AdaptiveSpanExperiment::open(recipe, device)?)),
    load: |dir, device| Ok(Box::new(Folder::open(dir, device)?)),
    claims: folder::claims,
    convert: |from, device| Ok(Box::new(Folder::convert(from, device)?)),
    replays: replay::REPLAYS,
    bench: Some(bench::bench),
};
