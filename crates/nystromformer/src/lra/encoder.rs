//! Embeddings, pre-norm blocks and pooling of the official LRA code.

use super::config::{LraConfig, PoolingMode};
use crate::attention::{AttentionOutput, NystromSelfAttention};
use crate::model::{bind_mha, padding_mask};
use bert::{
    Activation, EncoderInput, Mode, Norm, Projection, Result, TableSizes, indices, input_error,
};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::dropout;
use core_attn::init;
use core_attn::random::Key;
use pretrained::Binder;

/// One pre-norm layer: `x += drop(MHA(LN x))`, `x += MLP(LN x)`.
#[derive(Module, Debug)]
pub struct LraBlock {
    /// Before the attention.
    pub norm1: Norm,
    /// Attention with its convolution.
    pub attention: NystromSelfAttention,
    /// `[heads * head_dim, hidden]`, behind the attention.
    pub output: Projection,
    /// Before the feed-forward maps.
    pub norm2: Norm,
    /// `[hidden, inner]`, with the exact GELU behind it.
    pub inner: Projection,
    /// `[inner, hidden]`.
    pub outer: Projection,
    dropout: f64,
}

impl LraBlock {
    fn new(config: &LraConfig, key: Key, device: &Device) -> Self {
        let (d, inner) = (config.transformer_dim, config.transformer_hidden_dim);
        let width = config.num_head * config.head_dim;
        let filter = config.conv_kernel_size.filter(|_| !config.full());
        let map = |from: usize, to: usize, site: &str| fan_in(from, to, key.site(site), device);
        let mut attention = NystromSelfAttention::new(
            d,
            filter,
            config.attention(),
            0.02,
            key.site("attention"),
            device,
        );
        attention.query = map(d, width, "W_q");
        attention.key = map(d, width, "W_k");
        attention.value = map(d, width, "W_v");
        if let Some(size) = filter {
            // torch's default for a convolution whose filters see `size` places each.
            let bound = (size as f64).powf(-0.5);
            let shape = [config.num_head, 1, size, 1];
            attention.conv = Some(init::uniform(shape, bound, key.site("conv"), device));
        }
        Self {
            norm1: Norm::new(d, 1e-5, device),
            attention,
            output: map(width, d, "ff"),
            norm2: Norm::new(d, 1e-5, device),
            inner: map(d, inner, "inner"),
            outer: map(inner, d, "outer"),
            dropout: config.dropout_prob,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&Tensor<2>>,
        mode: Mode,
    ) -> Result<(Tensor<3>, AttentionOutput)> {
        let drop = mode.dropout(self.dropout)?;
        let attention = self
            .attention
            .forward(self.norm1.forward(x.clone()), mask)?;
        let out = self.output.forward(attention.merged());
        let x = x + dropout(out, drop.site("attention"));
        let inner = Activation::Gelu.apply(self.inner.forward(self.norm2.forward(x.clone())));
        let out = self.outer.forward(dropout(inner, drop.site("inner")));
        Ok((x + dropout(out, drop.site("outer")), attention))
    }

    fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        let at = |rest: &str| format!("{name}.{rest}");
        self.norm1.bind(b, &at("norm1"));
        bind_mha(&mut self.attention, &mut self.output, b, &at("mha"));
        self.norm2.bind(b, &at("norm2"));
        self.inner.bind(b, &at("mlpblock.0"));
        self.outer.bind(b, &at("mlpblock.3"));
    }
}

/// torch's initialisation of a linear map: U(±1/√fan-in) for weight and bias.
pub(super) fn fan_in(from: usize, to: usize, key: Key, device: &Device) -> Projection {
    let bound = (from as f64).powf(-0.5);
    Projection {
        weight: init::uniform([from, to], bound, key, device),
        bias: init::uniform([to], bound, key.site("bias"), device),
    }
}

/// Embeddings, blocks and the last normalisation.
#[derive(Module, Debug)]
pub struct LraEncoder {
    /// `[vocab, hidden]`.
    pub word_embeddings: Param<Tensor<2>>,
    /// `[max_seq_len, hidden]`.
    pub position_embeddings: Param<Tensor<2>>,
    /// The layers, first to last; one for all of them with `tied_weights`.
    pub blocks: Vec<LraBlock>,
    /// Behind the last layer.
    pub norm: Norm,
    #[module(skip)]
    pub(super) config: LraConfig,
}

/// What an encoder gives for one sequence of each sample.
#[derive(Debug, Clone)]
pub struct LraOutput {
    /// States behind the last normalisation, zero at padding: `[batch, length, hidden]`.
    pub tokens: Tensor<3>,
    /// `[batch, hidden]`.
    pub pooled: Tensor<2>,
    /// The first layer's attention.
    pub first_attention: Option<AttentionOutput>,
}

impl LraEncoder {
    pub(super) fn new(config: &LraConfig, key: Key, device: &Device) -> Result<Self> {
        config.validate()?;
        let vocab = LraConfig::known("vocab_size", config.vocab_size)?;
        let d = config.transformer_dim;
        let blocks = match config.tied_weights {
            true => config.num_layers.min(1),
            false => config.num_layers,
        };
        let positions = [config.max_seq_len, d];
        Ok(Self {
            word_embeddings: init::normal([vocab, d], 0.02, key.site("word"), device),
            position_embeddings: init::normal(positions, 0.02, key.site("position"), device),
            blocks: (0..blocks)
                .map(|i| LraBlock::new(config, key.site("blocks").fold(i as u64), device))
                .collect(),
            norm: Norm::new(d, 1e-5, device),
            config: config.clone(),
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &LraConfig {
        &self.config
    }

    /// Ids with their mask to states and one vector per sequence.
    ///
    /// # Errors
    /// Ids outside the vocabulary, and lengths that the position table or the landmark policy do not allow.
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<LraOutput> {
        let config = &self.config;
        let cls;
        let input = match config.pooling_mode {
            PoolingMode::Mean => input,
            PoolingMode::Cls => {
                cls = self.with_class_token(input)?;
                &cls
            }
        };
        let [vocab, d] = self.word_embeddings.val().dims();
        input.check(TableSizes {
            words: vocab,
            positions: config.max_seq_len,
            types: 1,
        })?;
        let (batch, length) = (input.batch(), input.length());
        if length > config.max_seq_len {
            let expected = format!("expected at most max_seq_len = {}", config.max_seq_len);
            return Err(input_error(
                "input_ids",
                format!("{length} tokens long"),
                expected,
            ));
        }
        let words = self.word_embeddings.val();
        let device = words.device();
        let words = words
            .select(0, indices(input.input_ids(), &device))
            .reshape([batch, length, d]);
        let positions = self.position_embeddings.val().narrow(0, 0, length);
        let drop = mode.dropout(config.dropout_prob)?;
        let mut x = dropout(words + positions.unsqueeze(), drop.site("embeddings"));
        let mask = padding_mask(input, &device);
        let mut first_attention = None;
        for i in 0..config.num_layers {
            let block = &self.blocks[i.min(self.blocks.len() - 1)];
            let mode = mode.site("layer").fold(i as u64);
            let (y, attention) = block.forward(x, mask.as_ref(), mode)?;
            x = y;
            if i == 0 {
                first_attention = Some(attention);
            }
        }
        let mut tokens = self.norm.forward(x);
        if let Some(mask) = mask {
            tokens = tokens * mask.reshape([batch, length, 1]);
        }
        let pooled = match config.pooling_mode {
            PoolingMode::Mean => tokens.clone().mean_dim(1).reshape([batch, d]),
            PoolingMode::Cls => bert::first_token(tokens.clone()),
        };
        Ok(LraOutput {
            tokens,
            pooled,
            first_attention,
        })
    }

    /// The class token in front, the last token dropped.
    fn with_class_token(&self, input: &EncoderInput) -> Result<EncoderInput> {
        let [vocab, _] = self.word_embeddings.val().dims();
        let (batch, length) = (input.batch(), input.length());
        fn shift<T: Copy>(rows: &[T], length: usize, first: T) -> Vec<T> {
            let row = |row: &[T]| {
                let rest = row[..length - 1].to_vec();
                std::iter::once(first).chain(rest).collect::<Vec<_>>()
            };
            rows.chunks_exact(length).flat_map(row).collect()
        }
        let ids = shift(input.input_ids(), length, vocab as i64 - 1);
        let shifted = EncoderInput::new(ids, batch, length)?;
        match input.attention_mask() {
            Some(mask) => shifted.with_attention_mask(shift(mask, length, true)),
            None => Ok(shifted),
        }
    }

    pub(super) fn bind<B: Binder>(&mut self, b: &mut B) {
        b.param(
            "model.embeddings.word_embeddings.weight",
            &mut self.word_embeddings,
        );
        b.param(
            "model.embeddings.position_embeddings.weight",
            &mut self.position_embeddings,
        );
        let tied = self.config.tied_weights;
        for (i, block) in self.blocks.iter_mut().enumerate() {
            match tied {
                true => block.bind(b, "model.transformer"),
                false => block.bind(b, &format!("model.transformer_{i}")),
            }
        }
        self.norm.bind(b, "model.norm");
    }
}
