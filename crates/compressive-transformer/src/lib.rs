//! The Compressive Transformer: old memories are compressed instead of forgotten.
//!
//! J. W. Rae, A. Potapenko, S. M. Jayakumar, C. Hillier, T. P. Lillicrap, *Compressive Transformers for Long-Range Sequence
//! Modelling*, ICLR 2020, [arXiv:1911.05507](https://arxiv.org/abs/1911.05507).
//!
//! A text is read in chunks. Each layer keeps the newest rows of earlier chunks, as a Transformer-XL does; rows that leave this
//! memory are compressed, `c` to one, and kept in a second one, from which the oldest drop out in turn. What compresses them is
//! optimised apart from the rest of the model.
//!
//! ```
//! use burn::prelude::*;
//! use compressive_transformer::{CompressiveTransformer, CompressiveTransformerConfig, MemoryModel, Mode};
//! use core_attn::random::Key;
//!
//! let config = CompressiveTransformerConfig {
//!     vocab_size: Some(50),
//!     chunk_size: 8,
//!     memory_size: 8,
//!     compressed_memory_size: 6,
//!     compression_rate: 4,
//!     value_size: 8,
//!     num_heads: 2,
//!     num_layers: 2,
//!     mlp_hidden_sizes: vec![32],
//!     ..Default::default()
//! };
//! let device = Device::flex();
//! let model = config.init(Key::new(1), &device)?;
//! let mut state = model.state(1, model.memory_sizes(), true)?;
//! for chunk in [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]] {
//!     let tokens = Tensor::<2, Int>::from_ints([chunk], &device);
//!     let output = model.forward(tokens, state, Mode::evaluation())?;
//!     assert_eq!(model.log_probabilities(output.hidden).dims(), [1, 8, 50]);
//!     state = output.state; // the past of the next chunk
//! }
//!
//! let folder = std::env::temp_dir().join("compressive-transformer-example");
//! model.save_pretrained(&folder)?;
//! let again = CompressiveTransformer::from_pretrained(&folder, &device)?;
//! assert_eq!(again.config(), model.config());
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok::<(), compressive_transformer::Error>(())
//! ```
//!
//! There are two profiles: `deepmind` ([`CompressiveTransformer`], the default) computes what the authors' released code computes,
//! `lucidrains` ([`LucidrainsTransformer`]) what the PyTorch package computes. The feature `train` (on by default) adds what the
//! tools need: recipes, the training run, replays and benchmarks.
#![recursion_limit = "256"]

mod attention;
#[cfg(feature = "train")]
mod bench;
mod compressor;
mod config;
mod error;
#[cfg(feature = "train")]
mod experiment;
#[cfg(feature = "train")]
mod figures;
#[cfg(feature = "train")]
mod folder;
#[cfg(feature = "train")]
mod generate;
mod head;
#[cfg(feature = "train")]
mod learners;
mod lucidrains;
mod lucidrains_config;
mod memory;
mod memory_model;
mod model;
#[cfg(feature = "train")]
mod probe;
mod profile;
#[cfg(feature = "train")]
mod recipe;
#[cfg(feature = "train")]
mod replay;
#[cfg(feature = "train")]
mod schedule;
#[cfg(feature = "train")]
mod update;
mod weights;

pub use attention::MultiHeadAttention;
pub use compressor::{Compression, Compressor, Read, most_used_rows, reconstruction_loss};
pub use config::{
    CompressionLoss, CompressiveTransformerConfig, CompressorKind, NormPlace, Pooling, Position,
    Usage,
};
pub use error::{Error, Result};
pub use head::{Dense, LanguageHead, OutputLayer, TokenEmbedding};
pub use lucidrains::{AttentionLayer, FeedForwardLayer, GruGate, LucidrainsTransformer};
pub use lucidrains_config::LucidrainsConfig;
pub use memory::{CompressedMemoryState, LayerMemory, MemorySizes, Projected};
pub use memory_model::{CompressionView, CompressiveOutput, LayerView, MemoryModel, Mode};
pub use model::{CompressiveTransformer, Norms, TransformerLayer};
pub use profile::ModelConfig;
pub use weights::{CONFIG_FILE, WEIGHTS_FILE, from_pretrained, from_tensors, save_pretrained};

#[cfg(feature = "train")]
pub use {
    experiment::CompressiveExperiment,
    folder::{Folder, VOCAB_FILE},
    generate::{MemoryReader, TextGenerator},
    recipe::{EvalMemory, EvaluationConfig, TrainingConfig, Words},
    schedule::{UpdateRule, UpdateSchedule, paper_schedule},
};

/// What this crate registers with the tools.
#[cfg(feature = "train")]
pub static ARCHITECTURE: trainer::Architecture = trainer::Architecture {
    name: "compressive-transformer",
    summary: "Old memories are compressed instead of forgotten, so the past that can be reached grows at the same cost",
    paper: "Rae, Potapenko, Jayakumar, Hillier, Lillicrap: Compressive Transformers for Long-Range Sequence Modelling, ICLR 2020, arXiv:1911.05507",
    schema: || {
        trainer::recipe_schema::<ModelConfig, datasets::CorpusSpec, TrainingConfig, EvaluationConfig>(
            "compressive-transformer",
        )
    },
    open: experiment::open,
    load: folder::open,
    claims: folder::claims,
    convert: folder::convert,
    replays: replay::REPLAYS,
    bench: Some(bench::bench),
};
