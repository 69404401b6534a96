//! The BERT encoder: embeddings, post-norm layers that can be called one by one, heads, WordPiece, Hugging Face weights.
//!
//! J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, *BERT: Pre-training of Deep Bidirectional Transformers for Language
//! Understanding*, NAACL 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805).
//!
//! Configuration keys and tensor names are those of Hugging Face's transformers, for BERT and for RoBERTa: a folder that
//! Python saved loads here, and what is saved here loads there. Sequences are checked on the host, so that a wrong id is
//! an error that says where it stands.
//!
//! ```
//! use bert::{BertConfig, BertForMaskedLm, BertTokenizer, EncoderCall, TokenizerOptions};
//! use burn::prelude::*;
//! use core_attn::random::Key;
//!
//! let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "whale", "##s", "swim"];
//! let tokenizer = BertTokenizer::from_vocab(&words, TokenizerOptions::default(), "vocab.txt".as_ref())?;
//! let config = BertConfig {
//!     vocab_size: words.len(),
//!     hidden_size: 32,
//!     num_hidden_layers: 2,
//!     num_attention_heads: 4,
//!     intermediate_size: 64,
//!     max_position_embeddings: 16,
//!     ..BertConfig::default()
//! };
//! let device = Device::flex();
//! let model = BertForMaskedLm::new(&config, Key::new(1), &device)?;
//! let batch = tokenizer.batch(&[("The [MASK]s swim", None), ("swim", None)], Some(16))?;
//! let (logits, _) = model.forward(&batch, &EncoderCall::default())?;
//! assert_eq!(logits.dims(), [2, 6, 9]); // [batch, length, vocab]
//!
//! let folder = std::env::temp_dir().join("bert-example");
//! model.save_pretrained(&folder)?;
//! let again = BertForMaskedLm::from_pretrained(&folder, &device)?;
//! assert_eq!(again.bert.config().hidden_size, 32);
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok::<(), bert::Error>(())
//! ```
//!
//! | module of the paper | here |
//! |---|---|
//! | embeddings, layers, pooler | [`BertEmbeddings`], [`BertLayer`] (one at a time, or [`BertEncoder`]), [`BertPooler`], [`BertModel`] |
//! | pre-training | [`BertForPreTraining`], [`BertForMaskedLm`], [`BertForNextSentencePrediction`] |
//! | fine-tuning | [`BertForSequenceClassification`], [`BertForTokenClassification`], [`BertForQuestionAnswering`], [`BertForMultipleChoice`] |
//! | WordPiece | [`BertTokenizer`], [`train_vocabulary`] |
//! | checkpoints | [`load_pretrained`], [`Checkpoint`], [`AnyBert`] |
//!
//! Classes load folders of Hugging Face's library, the older `.bin` files and shards among them; with the feature `hub` also
//! the names of published models, such as `bert-base-uncased`. The feature `train` (on by default) adds what the tools need: recipes, the two training runs and replays. Without it the
//! crate depends on Burn, `core-attn`, `pretrained` and `tokenizers` alone.
#![recursion_limit = "256"]

mod activation;
mod attention;
mod auto;
#[cfg(feature = "train")]
mod bench;
mod classes;
mod config;
#[cfg(feature = "train")]
mod data;
mod embeddings;
mod error;
#[cfg(feature = "train")]
mod experiment;
#[cfg(feature = "train")]
mod finetuning;
#[cfg(feature = "train")]
mod folder;
mod heads;
mod input;
#[cfg(feature = "train")]
mod instances;
mod loss;
mod model;
mod parts;
mod predict;
#[cfg(feature = "train")]
mod pretraining;
#[cfg(feature = "train")]
mod recipe;
#[cfg(feature = "train")]
mod replay;
#[cfg(feature = "train")]
mod replay_text;
mod sentence;
mod tokenizer;
#[cfg(feature = "train")]
mod two_stages;
mod vocabulary;
mod weights;

/// Runs the snippet of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use activation::{Activation, gelu, gelu_tanh};
pub use attention::{AttentionOutput, BertAttention, BertSelfAttention, LayerCall, LayerWidth};
pub use auto::{AnyBert, class_of, class_of_head, load_pretrained, names_class};
pub use classes::{
    BertForMaskedLm, BertForMultipleChoice, BertForNextSentencePrediction, BertForPreTraining,
    BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
    PreTrainingOutput,
};
pub use config::{BertConfig, ProblemType, Variant};
pub use embeddings::{BertEmbeddings, EmbeddingsConfig, PositionRule};
pub use error::{Error, Result, config_error, input_error};
pub use heads::{
    FirstTokenHead, LinearHead, MaskedLmHead, MaskedLmNames, SequenceHead, span_logits,
};
pub use input::{EncoderInput, HIDDEN_SCORE, TableSizes, integers};
pub use loss::{
    IGNORED, Labels, classification_loss, cross_entropy, indices, kept_rows, select_rows, span_loss,
};
pub use model::{
    BertEncoder, BertLayer, BertModel, BertOutput, BertPooler, EncoderCall, LayerOutput,
    first_token,
};
pub use parts::{FeedForward, Mode, Norm, Projection, ResidualOutput, linear};
pub use sentence::{Pooling, longest_sentence, normalise, pool, pooling_of};
pub use tokenizer::{
    BertTokenizer, Encoded, MaskToken, SpecialIds, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
    TOKENIZER_FILES, TokenizerOptions, VOCAB_FILE, collate, tokenizer_files,
};
pub use weights::{
    BertClass, CONFIG_FILE, Checkpoint, LoadReport, WEIGHTS_FILE, class_name, load, save,
    saved_tensors,
};

#[cfg(feature = "train")]
pub use experiment::start_folder;
pub use predict::{Answering, Form, Scores, answer};
pub use vocabulary::{SPECIAL_TOKENS, train_vocabulary};
#[cfg(feature = "train")]
pub use {
    finetuning::FineTuning,
    folder::Folder,
    pretraining::PreTraining,
    recipe::{BertData, EvaluationConfig, PreTrainingConfig, TrainingConfig},
    two_stages::PreTrainedTuning,
};

/// What this crate registers with the tools.
#[cfg(feature = "train")]
pub static ARCHITECTURE: trainer::Architecture = trainer::Architecture {
    name: "bert",
    summary: "The bidirectional encoder with its heads: pre-training, fine-tuning, and Hugging Face's checkpoints both ways",
    paper: "Devlin, Chang, Lee, Toutanova: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, NAACL 2019, arXiv:1810.04805",
    schema: || {
        trainer::recipe_schema::<BertConfig, BertData, TrainingConfig, EvaluationConfig>("bert")
    },
    open: experiment::open,
    load: |dir, device| Ok(Box::new(Folder::open(dir, device)?)),
    claims: folder::claims,
    convert: |from, device| Ok(Box::new(Folder::convert(from, device)?)),
    replays: replay::REPLAYS,
    bench: Some(bench::bench),
};
