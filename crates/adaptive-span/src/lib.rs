//! The Adaptive Span Transformer.
#![recursion_limit = "256"]

mod attention;
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
    generate::TextGenerator,
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
    bench: None,
};
