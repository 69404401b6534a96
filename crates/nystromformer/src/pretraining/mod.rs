//! Pre-training of the official code: masked words and the order of two sentences.

mod config;

pub use config::PreTrainingConfig;

use crate::attention::{AttentionSettings, Masking};
use crate::model::{LayerConfig, NystromformerLayer, padding_mask};
use crate::weights::{CONFIG_FILE, write_folder};
use bert::{
    Activation, BertEmbeddings, EmbeddingsConfig, EncoderInput, IGNORED, Mode, Norm, PositionRule,
    Projection, Result, TableSizes, cross_entropy, first_token, gelu, indices, input_error,
};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::dropout;
use core_attn::init;
use core_attn::low_rank::PinvInit;
use core_attn::random::Key;
use pretrained::{Binder, LoadOptions, NamedTensors, Weights};
use std::path::Path;

/// A batch of pre-training: two sentences with hidden words.
#[derive(Debug, Clone, PartialEq)]
pub struct PreTrainingBatch {
    /// Ids `[batch, length]` with mask, segments and positions.
    pub input: EncoderInput,
    /// Places of the hidden words, `[batch, masked]`; 0 where a sample has fewer.
    pub mask_positions: Vec<i64>,
    /// The hidden words, `[batch, masked]`.
    pub mask_labels: Vec<i64>,
    /// Which of them count, `[batch, masked]`.
    pub label_mask: Vec<bool>,
    /// 1 where the sentences are out of order, `[batch]`.
    pub sentence_labels: Vec<i64>,
}

/// The encoder with both heads.
#[derive(Module, Debug)]
pub struct NystromformerForPreTraining {
    /// Tables of width `embedding_dim`; the normalisation is behind `project`.
    pub embeddings: BertEmbeddings,
    /// `[embedding_dim, dim]`; absent where they are equal.
    pub project: Option<Projection>,
    /// The layers, first to last; one for all of them with `shared_weight`.
    pub layers: Vec<NystromformerLayer>,
    /// `[dim, embedding_dim]`, with a tanh behind it.
    pub pooler: Projection,
    /// `[dim, embedding_dim]`.
    pub mlm_dense: Projection,
    /// Behind the GELU of the word head.
    pub mlm_norm: Norm,
    /// `[vocab]`; the decoder is the word table.
    pub mlm_bias: Param<Tensor<1>>,
    /// `[embedding_dim, num_classes]`.
    pub sen_class: Projection,
    #[module(skip)]
    config: PreTrainingConfig,
}

/// What a pre-training step gives.
#[derive(Debug, Clone)]
pub struct PreTrainingLosses {
    /// Encoder output, `[batch, length, dim]`.
    pub backbone: Tensor<3>,
    /// Its rows at the hidden words, `[batch, masked, dim]`.
    pub token_out: Tensor<3>,
    /// Scores of the hidden words, `[batch, masked, vocab]`.
    pub mlm_scores: Tensor<3>,
    /// The pooled vector, `[batch, embedding_dim]`.
    pub sentence_out: Tensor<2>,
    /// Scores of all sentence classes, `[batch, num_classes]`.
    pub sen_scores_all: Tensor<2>,
    /// Mean over the words that count, in nats, `[1]`.
    pub mlm_loss: Tensor<1>,
    /// Mean over the samples, in nats, `[1]`.
    pub sen_loss: Tensor<1>,
    /// Share of the words that count which are right, `[1]`.
    pub mlm_accuracy: Tensor<1>,
    /// Share of the sentence labels that are right, `[1]`.
    pub sen_accuracy: Tensor<1>,
    /// Number of words that count.
    pub valid_count: f64,
}

impl PreTrainingLosses {
    /// What pre-training minimises, `[1]`.
    pub fn total(&self) -> Tensor<1> {
        self.mlm_loss.clone() + self.sen_loss.clone()
    }
}

impl NystromformerForPreTraining {
    /// A freshly initialised model, drawn from `key`: weights N(0, 0.02²), biases 0.
    ///
    /// # Errors
    /// A configuration that [`PreTrainingConfig::validate`] refuses.
    pub fn new(config: &PreTrainingConfig, key: Key, device: &Device) -> Result<Self> {
        config.validate()?;
        const STD: f64 = 0.02;
        const EPS: f64 = 1e-5;
        let (e, d) = (config.embedding_dim, config.dim);
        let tables = EmbeddingsConfig {
            tables: TableSizes {
                words: config.vocab_size,
                positions: config.max_seq_len,
                types: config.num_sen_type,
            },
            hidden: e,
            std: STD,
            eps: EPS,
            dropout: config.dropout_prob,
            padding: None,
            positions: PositionRule::Slots { offset: 0 },
        };
        let mut embeddings = BertEmbeddings::new(&tables, key.site("embeddings"), device);
        embeddings.norm = Norm::new(d, EPS, device);
        let layer = LayerConfig {
            hidden: d,
            intermediate: config.hidden_dim,
            filter: config.conv_kernel_size,
            attention: AttentionSettings {
                heads: config.num_head,
                head_dim: config.head_dim,
                landmarks: Some(config.num_landmarks),
                length: config.max_seq_len,
                policy: config.landmark_policy,
                iterations: 6,
                init: PinvInit::RowColumn,
                masking: Masking::Rows,
            },
            activation: Activation::Gelu,
            std: STD,
            eps: EPS,
            dropout: config.dropout_prob,
        };
        let layers = match config.shared_weight {
            true => config.num_layers.min(1),
            false => config.num_layers,
        };
        let map = |from, to, site: &str| Projection::new(from, to, STD, key.site(site), device);
        Ok(Self {
            embeddings,
            project: (e != d).then(|| map(e, d, "project")),
            layers: (0..layers)
                .map(|i| {
                    let key = key.site("layers").fold(i as u64);
                    NystromformerLayer::new(&layer, key, device)
                })
                .collect(),
            pooler: map(d, e, "pooler"),
            mlm_dense: map(d, e, "mlm"),
            mlm_norm: Norm::new(e, EPS, device),
            mlm_bias: init::constant([config.vocab_size], 0.0, device),
            sen_class: map(e, config.num_classes, "sen_class"),
            config: config.clone(),
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &PreTrainingConfig {
        &self.config
    }

    /// Ids to hidden states, `[batch, length, dim]`.
    ///
    /// # Errors
    /// Ids outside the tables, and lengths that the position table or the landmark policy do not allow.
    pub fn encode(&self, input: &EncoderInput, mode: Mode) -> Result<Tensor<3>> {
        let mut x = self.embeddings.lookup(input)?;
        if let Some(project) = &self.project {
            x = project.forward(x);
        }
        let drop = mode.site("embeddings").dropout(self.config.dropout_prob)?;
        let mut x = dropout(self.embeddings.norm.forward(x), drop);
        let mask = padding_mask(input, &x.device());
        for i in 0..self.config.num_layers {
            let layer = &self.layers[i.min(self.layers.len() - 1)];
            let mode = mode.site("layer").fold(i as u64);
            x = layer.forward(x, mask.as_ref(), mode)?.0;
        }
        Ok(x)
    }

    /// Both heads and their losses. Only the hidden words go through the decoder.
    ///
    /// # Errors
    /// As [`NystromformerForPreTraining::encode`]; places and labels of another number or range.
    pub fn forward(&self, batch: &PreTrainingBatch, mode: Mode) -> Result<PreTrainingLosses> {
        let (rows, length) = (batch.input.batch(), batch.input.length());
        let masked = batch.mask_positions.len() / rows;
        let bad = batch
            .mask_positions
            .iter()
            .find(|p| **p < 0 || **p >= length as i64);
        if let Some(bad) = bad {
            let expected = format!("expected places in 0..{length}");
            return Err(input_error("mask_pos_ids", bad, expected));
        }
        for (name, n, of) in [
            (
                "mask_pos_ids",
                batch.mask_positions.len(),
                rows * masked.max(1),
            ),
            ("mask_label", batch.mask_labels.len(), rows * masked),
            ("label_mask", batch.label_mask.len(), rows * masked),
            ("sentence_label", batch.sentence_labels.len(), rows),
        ] {
            if n != of {
                return Err(input_error(
                    name,
                    format!("{n} values"),
                    format!("expected {of}"),
                ));
            }
        }
        let backbone = self.encode(&batch.input, mode)?;
        let [_, _, dim] = backbone.dims();
        let device = backbone.device();
        let flat = batch.mask_positions.iter().enumerate();
        let places: Vec<i64> = flat
            .map(|(i, p)| (i / masked * length) as i64 + p)
            .collect();
        let token_out = backbone
            .clone()
            .reshape([rows * length, dim])
            .select(0, indices(&places, &device));
        let x = self
            .mlm_norm
            .forward(gelu(self.mlm_dense.forward(token_out.clone())));
        let words = self.embeddings.word_embeddings.val();
        let [vocab, _] = words.dims();
        let scores = x.matmul(words.transpose()) + self.mlm_bias.val().unsqueeze();
        let pairs = batch.mask_labels.iter().zip(&batch.label_mask);
        let labels: Vec<i64> = pairs
            .map(|(l, counts)| if *counts { *l } else { IGNORED })
            .collect();
        let count = batch.label_mask.iter().filter(|m| **m).count() as f64;
        // Upstream's mean has 10⁻⁶ in its divisor.
        let share = count / (count + 1e-6);
        let mlm_loss = cross_entropy(scores.clone(), &labels, IGNORED)?.mul_scalar(share);
        let drop = mode.site("pooler").dropout(self.config.dropout_prob)?;
        let sentence_out = self.pooler.forward(first_token(backbone.clone())).tanh();
        let sen_scores_all = self.sen_class.forward(dropout(sentence_out.clone(), drop));
        let valid = sen_scores_all
            .clone()
            .narrow(1, 0, self.config.num_valid_classes);
        let sen_loss = cross_entropy(valid.clone(), &batch.sentence_labels, IGNORED)?;
        let weights: Vec<f64> = batch
            .label_mask
            .iter()
            .map(|m| f64::from(*m) / (count + 1e-6))
            .collect();
        let even = vec![1.0 / rows as f64; rows];
        Ok(PreTrainingLosses {
            mlm_accuracy: hits(scores.clone(), &batch.mask_labels, &weights),
            sen_accuracy: hits(valid, &batch.sentence_labels, &even),
            token_out: token_out.reshape([rows, masked, dim]),
            mlm_scores: scores.reshape([rows, masked, vocab]),
            backbone,
            sentence_out,
            sen_scores_all,
            mlm_loss,
            sen_loss,
            valid_count: count,
        })
    }

    /// Encoder output `[batch, length, dim]`, scores of every word at every place `[batch, length, vocab]`, and scores of the
    /// order `[batch, num_valid_classes]`.
    ///
    /// # Errors
    /// As [`NystromformerForPreTraining::encode`].
    pub fn scores(
        &self,
        input: &EncoderInput,
        mode: Mode,
    ) -> Result<(Tensor<3>, Tensor<3>, Tensor<2>)> {
        let (rows, length) = (input.batch(), input.length());
        let batch = PreTrainingBatch {
            input: input.clone(),
            mask_positions: (0..length as i64).cycle().take(rows * length).collect(),
            mask_labels: vec![0; rows * length],
            label_mask: vec![false; rows * length],
            sentence_labels: vec![0; rows],
        };
        let out = self.forward(&batch, mode)?;
        let valid = self.config.num_valid_classes;
        let order = out.sen_scores_all.narrow(1, 0, valid);
        Ok((out.backbone, out.mlm_scores, order))
    }

    /// A model with these weights, by upstream's names with or without the prefix `module.`.
    ///
    /// # Errors
    /// Every tensor that is missing, unused or misshapen; `file` is named in the message.
    pub fn from_tensors(
        config: &PreTrainingConfig,
        tensors: NamedTensors,
        file: &Path,
        device: &Device,
    ) -> Result<Self> {
        let model = Self::new(config, Key::new(0), device)?;
        let options = LoadOptions {
            strip_prefix: Some("module.".into()),
            ignore: vec![],
        };
        Ok(pretrained::load_weights(model, tensors, file, &options)?.0)
    }

    /// Loads a folder with `config.json` and weights, strictly.
    ///
    /// # Errors
    /// A missing or damaged file, a wrong configuration, and every tensor that is missing, unused or misshapen.
    pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let dir = dir.as_ref();
        let config: PreTrainingConfig = pretrained::read_json(&dir.join(CONFIG_FILE))?;
        let file = pretrained::weights_file(dir)?;
        Self::from_tensors(&config, pretrained::read_tensors(&file)?, &file, device)
    }

    /// Writes `config.json` and `model.safetensors`; the names are those of upstream's `state_dict`.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        write_folder(
            dir.as_ref(),
            &self.config,
            &pretrained::collect_weights(self),
        )
    }
}

/// The weighted sum over the rows whose best score is at the label, `[1]`.
fn hits(scores: Tensor<2>, labels: &[i64], weights: &[f64]) -> Tensor<1> {
    let scores = scores.detach();
    let [rows, _] = scores.dims();
    let device = scores.device();
    let right = scores
        .argmax(1)
        .reshape([rows])
        .equal(indices(labels, &device));
    let weights: Vec<f32> = weights.iter().map(|w| *w as f32).collect();
    let weights = Tensor::<1>::from_data(TensorData::new(weights, [rows]), &device);
    weights.mask_fill(right.bool_not(), 0.0).sum()
}

impl Weights for NystromformerForPreTraining {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let words = "model.embeddings.word_embeddings.weight";
        let tables = &mut self.embeddings;
        b.param(words, &mut tables.word_embeddings);
        b.param(
            "model.embeddings.position_embeddings.weight",
            &mut tables.position_embeddings,
        );
        b.param(
            "model.embeddings.token_type_embeddings.weight",
            &mut tables.token_type_embeddings,
        );
        if let Some(project) = &mut self.project {
            project.bind(b, "model.embeddings.dense");
        }
        self.embeddings.norm.bind(b, "model.embeddings.norm");
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.bind_official(b, &format!("model.backbone.backbone.encoders.{i}"));
        }
        self.pooler.bind(b, "model.pooler");
        self.mlm_dense.bind(b, "mlm.dense");
        self.mlm_norm.bind(b, "mlm.norm");
        b.alias("mlm.mlm_class.weight", words);
        b.param("mlm.mlm_class.bias", &mut self.mlm_bias);
        self.sen_class.bind(b, "sen_class");
    }
}
