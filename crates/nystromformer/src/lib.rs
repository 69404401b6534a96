//! Nyströmformer: softmax attention approximated through landmarks, in time and memory linear in the length.
//!
//! Y. Xiong, Z. Zeng, R. Chakraborty, M. Tan, G. Fung, Y. Li, V. Singh, *Nyströmformer: A Nyström-Based Algorithm for
//! Approximating Self-Attention*, AAAI 2021, [arXiv:2102.03902](https://arxiv.org/abs/2102.03902).
//!
//! The classes of Hugging Face's library, the official Long Range Arena classifiers and the official pre-training model, each
//! in its own keys and tensor names: published checkpoints load, and what is saved here loads there.
//!
//! ```
//! use bert::{EncoderInput, Mode};
//! use burn::prelude::*;
//! use core_attn::random::Key;
//! use nystromformer::{LandmarkPolicy, NystromformerConfig, NystromformerForMaskedLm};
//!
//! let config = NystromformerConfig {
//!     vocab_size: 100,
//!     hidden_size: 32,
//!     intermediate_size: 64,
//!     num_hidden_layers: 2,
//!     num_attention_heads: 4,
//!     num_landmarks: 8,
//!     conv_kernel_size: Some(5),
//!     landmark_policy: LandmarkPolicy::Uneven, // any length; `Strict` is Hugging Face's rule
//!     ..Default::default()
//! };
//! let device = Device::flex();
//! let model: NystromformerForMaskedLm = config.init(Key::new(1), &device)?;
//! let input = EncoderInput::new((0..45).map(|i| 2 + i % 90).collect(), 1, 45)?;
//! let scores = model.forward(&input, Mode::evaluation())?;
//! assert_eq!(scores.dims(), [1, 45, 100]); // [batch, length, vocab]
//!
//! let folder = std::env::temp_dir().join("nystromformer-example");
//! model.save_pretrained(&folder)?;
//! let again = NystromformerForMaskedLm::from_pretrained(&folder, &device)?;
//! assert_eq!(again.forward(&input, Mode::evaluation())?.into_data(), scores.into_data());
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok::<(), nystromformer::Error>(())
//! ```
//!
//! The feature `train` (on by default) adds what the tools need: recipes, the training run, replays and benchmarks.
#![recursion_limit = "256"]

#[cfg(feature = "train")]
mod answer;
mod attention;
#[cfg(feature = "train")]
mod bench;
mod config;
#[cfg(feature = "train")]
mod folder;
mod heads;
mod layout;
mod lra;
mod model;
pub mod names;
mod pretraining;
#[cfg(feature = "train")]
mod recipe;
#[cfg(feature = "train")]
mod replay;
#[cfg(feature = "train")]
mod tasks;
mod weights;

pub use attention::{AttentionOutput, AttentionSettings, Masking, NystromSelfAttention};
pub use bert::{Error, Result};
pub use config::{LandmarkPolicy, NystromformerConfig};
pub use heads::{
    NystromformerForMaskedLm, NystromformerForMultipleChoice, NystromformerForQuestionAnswering,
    NystromformerForSequenceClassification, NystromformerForTokenClassification, Task,
};
pub use layout::Checkpoint;
pub use lra::{
    LraBlock, LraClassifier, LraConfig, LraDualClassifier, LraEncoder, LraHead, LraModel,
    LraOutput, PoolingMode,
};
pub use model::{LayerConfig, LayerView, NystromformerLayer, NystromformerModel};
pub use pretraining::{
    NystromformerForPreTraining, PreTrainingBatch, PreTrainingConfig, PreTrainingLosses,
};
pub use weights::{
    CONFIG_FILE, LoadNotes, WEIGHTS_FILE, from_pretrained, from_tensors, save_pretrained,
};
#[cfg(feature = "train")]
pub use {
    folder::Folder,
    recipe::{ClassificationSpec, DataConfig, EvaluationConfig, Padding, TextSpec, TrainingConfig},
    tasks::{
        BytesSpec, Classification, Documents, Instance, LraData, LraExample, LraExperiment,
        MaskedLm, PreTraining,
    },
};

/// What this crate registers with the tools.
#[cfg(feature = "train")]
pub static ARCHITECTURE: trainer::Architecture = trainer::Architecture {
    name: "nystromformer",
    summary: "Attention through landmark queries and keys, in time and memory linear in the length",
    paper: "Xiong et al.: Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention, AAAI 2021, arXiv:2102.03902",
    schema: || {
        trainer::recipe_schema::<recipe::ModelSection, DataConfig, TrainingConfig, EvaluationConfig>(
            "nystromformer",
        )
    },
    open: tasks::open,
    load: |dir, device| Ok(Box::new(Folder::open(dir, device)?)),
    claims: folder::claims,
    convert: |from, device| Ok(Box::new(Folder::convert(from, device)?)),
    replays: replay::REPLAYS,
    bench: Some(bench::bench),
};
