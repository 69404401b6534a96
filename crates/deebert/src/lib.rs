//! DeeBERT: a classifier behind every layer of a BERT or RoBERTa, so that easy inputs leave early.
//!
//! J. Xin, R. Tang, J. Lee, Y. Yu, J. Lin, *DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference*, ACL 2020,
//! [arXiv:2004.12993](https://arxiv.org/abs/2004.12993).
//!
//! A sample leaves at the first off-ramp whose scores have an entropy below a threshold. The threshold is chosen after training
//! and trades quality for time. Single samples and batches get the same answers: rows that have left are taken out of a batch.
//!
//! ```
//! use bert::{BertConfig, EncoderInput, Mode};
//! use burn::prelude::*;
//! use core_attn::random::Key;
//! use deebert::{DeeBertConfig, DeeBertForSequenceClassification, ExitCurve, ExitTable, Thresholds};
//!
//! let config = DeeBertConfig {
//!     bert: BertConfig {
//!         vocab_size: 50,
//!         hidden_size: 32,
//!         num_hidden_layers: 4,
//!         num_attention_heads: 4,
//!         intermediate_size: 64,
//!         max_position_embeddings: 16,
//!         ..BertConfig::default()
//!     },
//!     ..DeeBertConfig::default()
//! };
//! let device = Device::flex();
//! let model = config.init(Key::new(1), &device)?;
//! let batch = EncoderInput::from_rows(&[vec![2, 17, 9, 3], vec![2, 30, 3]], 0)?;
//!
//! // Every exit's scores, as training and evaluation want them; what thresholds would do follows from them.
//! let all = model.forward_all_exits(&batch, Mode::evaluation())?;
//! assert_eq!(all.highway[0].logits.dims(), [2, 2]); // [batch, labels]
//! let scores: Tensor<3> = Tensor::stack(all.answers().cloned().collect(), 1); // [batch, layers, labels]
//! let table = ExitTable::new(4, 2, scores.into_data().iter().collect());
//! let right = |classes: &[usize]| classes.iter().filter(|c| **c == 1).count() as f64;
//! let curve = ExitCurve::new(&table, &right);
//! let threshold = curve.for_budget(2.5).expect("a threshold that runs 2.5 layers in the mean");
//!
//! // Leaving early.
//! let records = model.infer(&batch, &Thresholds::One(threshold))?;
//! let layers: Vec<usize> = records.iter().map(|record| record.layer).collect();
//! assert_eq!(layers, curve.at(threshold).exit_layers);
//! assert!(layers.iter().sum::<usize>() <= 5);
//!
//! let folder = std::env::temp_dir().join("deebert-example");
//! model.save_pretrained(&folder)?; // the published names; Python loads the plain classifier
//! let again = DeeBertForSequenceClassification::from_pretrained(&folder, &device)?;
//! assert_eq!(again.infer(&batch, &Thresholds::One(threshold))?, records);
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok::<(), deebert::Error>(())
//! ```
//!
//! | of the paper | here |
//! |---|---|
//! | off-ramps (3.1) | [`OffRamp`], [`OffRamps`], [`DeeBertForSequenceClassification`] |
//! | two stages of training (3.2) | [`ExitSchedule`], [`stage2_loss`], [`joint_loss`], [`DeeBertForSequenceClassification::features`] |
//! | entropy and thresholds (3.3) | [`entropy`], [`Thresholds`], [`DeeBertForSequenceClassification::infer`] |
//! | quality against time (4) | [`ExitTable`], [`ExitCurve`], [`ExitPoint`] |
//!
//! The feature `train` (on by default) adds what the tools need: recipes, the run, model folders with tokenizers, replays.
#![recursion_limit = "256"]

#[cfg(feature = "train")]
mod bench;
mod config;
mod curve;
#[cfg(feature = "train")]
mod data;
#[cfg(feature = "train")]
mod evaluate;
mod exits;
#[cfg(feature = "train")]
mod experiment;
#[cfg(feature = "train")]
mod figures;
#[cfg(feature = "train")]
mod folder;
mod model;
mod ramp;
#[cfg(feature = "train")]
mod recipe;
#[cfg(feature = "train")]
mod replay;
mod schedule;
#[cfg(feature = "train")]
mod start;
mod weights;

/// Runs the snippet of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use bert::{Error, Result};
pub use config::{DeeBertConfig, EXIT_KEY, ExitConfig, OffRampPooling};
pub use curve::{ExitCurve, ExitPoint, ExitTable};
pub use exits::{ExitRecord, ExitRule, InferOptions, Thresholds, entropy};
pub use model::{AllExits, DeeBertForSequenceClassification};
pub use ramp::{HighwayExit, OffRamp, OffRamps, RampOutput, summary};
pub use schedule::{ExitSchedule, JointWeights, joint_loss, stage2_loss};
pub use weights::{checkpoint_of, open_checkpoint};
#[cfg(feature = "train")]
pub use {
    data::DataConfig,
    experiment::DeeBertExperiment,
    folder::Folder,
    recipe::{EvaluationConfig, OffRampTraining, TrainingConfig},
};

/// What this crate registers with the tools.
#[cfg(feature = "train")]
pub static ARCHITECTURE: trainer::Architecture = trainer::Architecture {
    name: "deebert",
    summary: "An encoder with a classifier behind every layer, so that easy inputs leave early; the threshold is chosen after training",
    paper: "Xin, Tang, Lee, Yu, Lin: DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference, ACL 2020, arXiv:2004.12993",
    schema: || {
        trainer::recipe_schema::<DeeBertConfig, DataConfig, TrainingConfig, EvaluationConfig>(
            "deebert",
        )
    },
    open: |recipe, device| Ok(Box::new(DeeBertExperiment::open(recipe, device)?)),
    load: |dir, device| Ok(Box::new(Folder::open(dir, device)?)),
    claims: folder::claims,
    convert: |from, device| Ok(Box::new(Folder::convert(from, device)?)),
    replays: replay::REPLAYS,
    bench: Some(bench::bench),
};
