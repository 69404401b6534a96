//! The heads: small models on top of an encoder's states.

use crate::activation::{Activation, gelu};
use crate::config::{BertConfig, Variant};
use crate::error::Result;
use crate::loss::{IGNORED, cross_entropy, kept_rows, select_rows};
use crate::model::{BertOutput, first_token};
use crate::parts::{Mode, Norm, Projection};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::dropout;
use core_attn::init;
use core_attn::random::Key;
use pretrained::Binder;

/// Scores of every word at a position: `LN(act(x·W + b))·Eᵀ + bias`, where `E` is the word embedding.
#[derive(Module, Debug)]
pub struct MaskedLmHead {
    /// `[hidden, hidden]`.
    pub dense: Projection,
    /// Behind the activation.
    pub norm: Norm,
    /// `[vocab]`.
    pub bias: Param<Tensor<1>>,
    /// The decoder of a model whose decoder is not the word embedding, `[vocab, hidden]`.
    pub decoder: Option<Param<Tensor<2>>>,
    /// Behind the map.
    #[module(skip)]
    pub activation: Activation,
}

/// Where the parts of a [`MaskedLmHead`] are in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedLmNames {
    /// Of the map.
    pub dense: &'static str,
    /// Of the normalisation.
    pub norm: &'static str,
    /// Of the bias.
    pub bias: &'static str,
    /// Of the decoder, whose `.weight` and `.bias` are further names of other tensors.
    pub decoder: &'static str,
}

impl MaskedLmNames {
    /// `cls.predictions.…`, BERT's.
    pub const BERT: Self = Self {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        bias: "cls.predictions.bias",
        decoder: "cls.predictions.decoder",
    };

    /// `lm_head.…`, RoBERTa's.
    pub const ROBERTA: Self = Self {
        dense: "lm_head.dense",
        norm: "lm_head.layer_norm",
        bias: "lm_head.bias",
        decoder: "lm_head.decoder",
    };
}

impl MaskedLmHead {
    /// Weights N(0, `initializer_range`²), biases 0. RoBERTa's activation is the exact GELU whatever `hidden_act` says.
    ///
    /// # Errors
    /// An activation or model type that is not supported.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        let (v, h, std) = (
            config.vocab_size,
            config.hidden_size,
            config.initializer_range,
        );
        let decoder = (!config.tie_word_embeddings)
            .then(|| init::normal([v, h], std, key.site("decoder"), device));
        Ok(Self {
            dense: Projection::new(h, h, std, key.site("dense"), device),
            norm: Norm::new(h, config.layer_norm_eps, device),
            bias: init::constant([v], 0.0, device),
            decoder,
            activation: match config.variant()? {
                Variant::Bert => config.activation()?,
                Variant::Roberta => Activation::Gelu,
            },
        })
    }

    /// States `[rows, hidden]` and the word table `[vocab, hidden]` to scores `[rows, vocab]`.
    pub fn forward(&self, states: Tensor<2>, words: Tensor<2>) -> Tensor<2> {
        let width = states.dims()[1];
        let inner = self.dense.forward_sliced(states, width, width);
        let inner = match self.activation {
            Activation::Gelu => gelu(inner),
            other => other.apply(inner),
        };
        let table = match &self.decoder {
            Some(decoder) => decoder.val(),
            None => words,
        };
        self.norm.forward(inner).matmul(table.transpose()) + self.bias.val().unsqueeze()
    }

    /// Scores of every position: `[batch, length, hidden]` to `[batch, length, vocab]`.
    pub fn logits(&self, states: Tensor<3>, words: Tensor<2>) -> Tensor<3> {
        let [batch, length, hidden] = states.dims();
        let scores = self.forward(states.reshape([batch * length, hidden]), words);
        let vocab = scores.dims()[1];
        scores.reshape([batch, length, vocab])
    }

    /// Mean cross entropy in nats over the positions whose label `[batch, length]` is not −100, `[1]`. Only these
    /// positions go through the decoder.
    ///
    /// # Errors
    /// A number of labels other than the positions, or a label outside the vocabulary.
    pub fn loss(&self, states: Tensor<3>, words: Tensor<2>, labels: &[i64]) -> Result<Tensor<1>> {
        let [batch, length, hidden] = states.dims();
        let vocab = self.bias.val().dims()[0];
        let kept = kept_rows("labels", labels, batch * length, vocab, IGNORED)?;
        let rows = states.reshape([batch * length, hidden]);
        if kept.is_empty() {
            return Ok(rows.sum().mul_scalar(0.0));
        }
        let targets: Vec<i64> = kept.iter().map(|&i| labels[i]).collect();
        cross_entropy(
            self.forward(select_rows(rows, &kept), words),
            &targets,
            IGNORED,
        )
    }

    /// Binds the head under `names`; `words` is the full name of the word table, which a tied decoder shares.
    pub fn bind<B: Binder>(&mut self, b: &mut B, names: MaskedLmNames, words: &str) {
        self.dense.bind(b, names.dense);
        self.norm.bind(b, names.norm);
        b.param(names.bias, &mut self.bias);
        let weight = format!("{}.weight", names.decoder);
        match &mut self.decoder {
            Some(decoder) => b.param(&weight, decoder),
            None => b.alias(&weight, words),
        }
        b.alias(&format!("{}.bias", names.decoder), names.bias);
    }
}

/// A linear map behind dropout: the head of token classification, and of classes from a pooled vector.
#[derive(Module, Debug)]
pub struct LinearHead {
    /// `[hidden, labels]`.
    pub classifier: Projection,
    /// Share of the input dropped in training.
    pub dropout: f64,
}

impl LinearHead {
    /// Weights N(0, `initializer_range`²) to `outputs`.
    pub fn new(config: &BertConfig, outputs: usize, key: Key, device: &Device) -> Self {
        Self {
            classifier: Projection::new(
                config.hidden_size,
                outputs,
                config.initializer_range,
                key,
                device,
            ),
            dropout: config.head_dropout(),
        }
    }

    /// `[…, hidden]` to `[…, labels]`.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, mode: Mode) -> Result<Tensor<D>> {
        let width = x.dims()[D - 1];
        let outputs = self.classifier.bias.val().dims()[0];
        let x = dropout(x, mode.site("head").dropout(self.dropout)?);
        Ok(self.classifier.forward_sliced(x, width, outputs))
    }
}

/// The head that turns a sequence into scores of classes.
#[derive(Module, Debug)]
pub enum SequenceHead {
    /// BERT's: a linear map of the pooled vector.
    Pooled(LinearHead),
    /// RoBERTa's: two maps of the first token's state.
    FirstToken(FirstTokenHead),
}

/// `act(dropout(x[:, 0])·W + b)`, dropout, then the map to the classes.
#[derive(Module, Debug)]
pub struct FirstTokenHead {
    /// `[hidden, hidden]`.
    pub dense: Projection,
    /// `[hidden, labels]`.
    pub out_proj: Projection,
    /// Share dropped before either map in training.
    pub dropout: f64,
    /// Between the maps; RoBERTa's is tanh.
    #[module(skip)]
    pub activation: Activation,
}

impl FirstTokenHead {
    /// Weights N(0, `initializer_range`²) to `outputs`.
    pub fn new(
        config: &BertConfig,
        outputs: usize,
        activation: Activation,
        key: Key,
        device: &Device,
    ) -> Self {
        let (h, std) = (config.hidden_size, config.initializer_range);
        Self {
            dense: Projection::new(h, h, std, key.site("dense"), device),
            out_proj: Projection::new(h, outputs, std, key.site("out_proj"), device),
            dropout: config.head_dropout(),
            activation,
        }
    }

    /// `[batch, length, hidden]` to `[batch, labels]`.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn forward(&self, states: Tensor<3>, mode: Mode) -> Result<Tensor<2>> {
        let first = dropout(
            first_token(states),
            mode.site("head").dropout(self.dropout)?,
        );
        let inner = self.activation.apply(self.dense.forward(first));
        let inner = dropout(inner, mode.site("head.out").dropout(self.dropout)?);
        Ok(self.out_proj.forward(inner))
    }

    /// Binds `name.dense.*` and `name.out_proj.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        self.dense.bind(b, &format!("{name}.dense"));
        self.out_proj.bind(b, &format!("{name}.out_proj"));
    }
}

impl SequenceHead {
    /// The head of the configuration's variant.
    ///
    /// # Errors
    /// A model type that is not supported.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        let outputs = config.labels();
        Ok(match config.variant()? {
            Variant::Bert => Self::Pooled(LinearHead::new(config, outputs, key, device)),
            Variant::Roberta => Self::FirstToken(FirstTokenHead::new(
                config,
                outputs,
                Activation::Tanh,
                key,
                device,
            )),
        })
    }

    /// An encoder's output to `[batch, labels]`.
    ///
    /// # Errors
    /// An output without a pooled vector where the head needs one.
    pub fn forward(&self, body: &BertOutput, mode: Mode) -> Result<Tensor<2>> {
        match self {
            Self::Pooled(head) => head.forward(pooled(body)?, mode),
            Self::FirstToken(head) => head.forward(body.last_hidden_state.clone(), mode),
        }
    }

    /// Binds `name.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        match self {
            Self::Pooled(head) => head.classifier.bind(b, name),
            Self::FirstToken(head) => head.bind(b, name),
        }
    }
}

/// The pooled vector of an output.
pub(crate) fn pooled(body: &BertOutput) -> Result<Tensor<2>> {
    body.pooler_output.clone().ok_or_else(|| {
        crate::error::input_error(
            "pooler_output",
            "absent",
            "this head needs an encoder with a pooler",
        )
    })
}

/// Scores of start and end: `[batch, length, hidden]` to two tensors `[batch, length]`, columns 0 and 1 of the map.
pub fn span_logits(outputs: &Projection, states: Tensor<3>) -> (Tensor<2>, Tensor<2>) {
    let [batch, length, _] = states.dims();
    let both = outputs.forward(states);
    let column = |i: usize| both.clone().narrow(2, i, 1).reshape([batch, length]);
    (column(0), column(1))
}
