//! The Routing Transformer: heads that attend locally beside heads that attend within clusters found by online k-means.
//!
//! A. Roy, M. Saffar, A. Vaswani, D. Grangier, *Efficient Content-Based Sparse Attention with Routing Transformers*, TACL 9,
//! 2021, [arXiv:2003.05997](https://arxiv.org/abs/2003.05997).
//!
//! There are two flavors, told apart by the configuration's key `flavor`: [`paper`], the authors' model, and [`lucidrains`],
//! the PyTorch package of that name. Configuration keys and tensor names are those of each, so that their weights load, and
//! what is saved here loads there.
//!
//! ```
//! use burn::prelude::*;
//! use core_attn::random::Key;
//! use routing_transformer::paper::{OneAxis, PaperConfig, PaperTransformer};
//! use routing_transformer::{Mode, RoutingTransformerConfig, RoutingTransformerLM};
//!
//! let config: RoutingTransformerConfig = PaperConfig {
//!     vocab_size: Some(50),
//!     hidden_size: 32,
//!     num_decoder_layers: 2,
//!     filter_size: 64,
//!     local_num_heads: 2,
//!     sparsity_cluster_num_heads: 2,
//!     sparsity_cluster_size: 4,
//!     sparsity_cluster_attention_window: 4,
//!     query_shape: OneAxis::Number(4),
//!     memory_flange: OneAxis::Number(4),
//!     max_relative_position: Some(8),
//!     ..Default::default()
//! }
//! .into();
//! let device = Device::flex();
//! let model = config.init(Key::new(1), &device)?;
//! let tokens = Tensor::<2, Int>::from_ints([[3, 1, 4, 1, 5, 9, 2, 6]], &device);
//! let output = model.forward(PaperTransformer::shifted(tokens), Mode::evaluation())?;
//! assert_eq!(output.logits.dims(), [1, 8, 50]);
//!
//! // The centroids move by what forward passes saw, and only when they are told to.
//! let moved = model.clone().with_centroids(&[output.routed]);
//!
//! let folder = std::env::temp_dir().join("routing-transformer-example");
//! moved.save_pretrained(&folder)?;
//! let again = RoutingTransformerLM::from_pretrained(&folder, &device)?;
//! assert_eq!(again.config(), config);
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok::<(), routing_transformer::Error>(())
//! ```
//!
//! The feature `train` (on by default) adds what the tools need: recipes, the training run, replays and benchmarks. Without it
//! the crate depends on Burn, `core-attn` and `pretrained` alone.
#![recursion_limit = "256"]

/// Runs the snippet of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "train")]
mod assignments;
#[cfg(feature = "train")]
mod bench;
mod config;
mod error;
#[cfg(feature = "train")]
mod experiment;
#[cfg(feature = "train")]
mod folder;
#[cfg(feature = "train")]
mod generate;
mod kmeans;
mod layers;
mod lm;
pub mod lucidrains;
pub mod paper;
#[cfg(feature = "train")]
mod picture_experiment;
#[cfg(feature = "train")]
mod pictures;
#[cfg(feature = "train")]
mod recipe;
#[cfg(feature = "train")]
mod replay;
#[cfg(feature = "train")]
mod spread;
mod stats;
mod stream;
#[cfg(feature = "train")]
mod subwords;
#[cfg(feature = "train")]
mod task;
#[cfg(feature = "train")]
mod update;

pub use config::{EmaCountRule, Flavor, RoutingTransformerConfig};
pub use error::{Error, Result};
pub use kmeans::{
    ClusterSums, OnlineKMeans, PendingMeans, UnitKMeans, codebook, commitment, similarity, sphere,
    unit,
};
pub use layers::{LayerView, Mode, Output, Routed};
pub use lm::{
    CONFIG_FILE, PADDING, RoutingTransformerLM, WEIGHTS_FILE, cross_entropy, cross_entropy_of_bytes,
};
pub use stats::RoutingStats;
pub use stream::TextStream;

#[cfg(feature = "train")]
pub use {
    experiment::RoutingExperiment,
    folder::{Folder, VOCAB_FILE},
    generate::{StreamReader, TextGenerator, TextReader, WindowReader},
    picture_experiment::PictureExperiment,
    recipe::{EvaluationConfig, TrainingConfig},
};

/// What this crate registers with the tools.
#[cfg(feature = "train")]
pub static ARCHITECTURE: trainer::Architecture = trainer::Architecture {
    name: "routing-transformer",
    summary: "Heads attend within clusters found by online k-means, so long texts cost length^1.5",
    paper: "Roy, Saffar, Vaswani, Grangier: Efficient Content-Based Sparse Attention with Routing Transformers, TACL 2021, arXiv:2003.05997",
    schema: || {
        trainer::recipe_schema::<
            RoutingTransformerConfig,
            datasets::CorpusSpec,
            TrainingConfig,
            EvaluationConfig,
        >("routing-transformer")
    },
    open: experiment::open,
    load: |dir, device| Ok(Box::new(Folder::open(dir, device)?)),
    claims: folder::claims,
    convert: |from, device| Ok(Box::new(Folder::convert(from, device)?)),
    replays: replay::REPLAYS,
    bench: Some(bench::bench),
};
