//! The encoder, top to bottom (section 3 of the paper; the layer is BERT's).

use crate::attention::{AttentionOutput, AttentionSettings, Masking, NystromSelfAttention};
use crate::config::NystromformerConfig;
use bert::{
    Activation, BertEmbeddings, EmbeddingsConfig, EncoderInput, FeedForward, Mode, PositionRule,
    Projection, ResidualOutput, Result, TableSizes,
};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{Binder, Weights};

/// One post-norm layer: Nyström attention, then the feed-forward map, each with residual connection and normalisation.
#[derive(Module, Debug)]
pub struct NystromformerLayer {
    /// Attention with its convolution.
    pub attention: NystromSelfAttention,
    /// Behind the attention.
    pub output: ResidualOutput,
    /// The two maps behind it.
    pub feed_forward: FeedForward,
}

/// The sizes and constants of a [`NystromformerLayer`].
#[derive(Debug, Clone)]
pub struct LayerConfig {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width between the two maps of the feed-forward layer.
    pub intermediate: usize,
    /// Places of the convolution's filters.
    pub filter: Option<usize>,
    /// Heads and landmarks.
    pub attention: AttentionSettings,
    /// Between the two maps.
    pub activation: Activation,
    /// Standard deviation of the initial weights.
    pub std: f64,
    /// Added to the variance in normalisations.
    pub eps: f64,
    /// Dropout behind attention and feed-forward map.
    pub dropout: f64,
}

impl NystromformerLayer {
    /// Weights N(0, `std`²), biases 0.
    pub fn new(config: &LayerConfig, key: Key, device: &Device) -> Self {
        let width = config.attention.heads * config.attention.head_dim;
        let (std, eps, dropout) = (config.std, config.eps, config.dropout);
        Self {
            attention: NystromSelfAttention::new(
                config.hidden,
                config.filter,
                config.attention.clone(),
                std,
                key.site("attention"),
                device,
            ),
            output: ResidualOutput::new(
                [width, config.hidden],
                std,
                eps,
                dropout,
                key.site("attention.output"),
                device,
            ),
            feed_forward: FeedForward::new(
                [config.hidden, config.intermediate],
                config.activation,
                std,
                eps,
                dropout,
                key.site("feed_forward"),
                device,
            ),
        }
    }

    /// `[batch, length, hidden]` to the same; what the attention gave is returned beside it.
    ///
    /// # Errors
    /// A length that the landmark policy does not allow.
    pub fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&Tensor<2>>,
        mode: Mode,
    ) -> Result<(Tensor<3>, AttentionOutput)> {
        let attention = self.attention.forward(x.clone(), mask)?;
        let y = self
            .output
            .forward(attention.merged(), x, mode.site("attention"))?;
        let z = self.feed_forward.forward(y, None, mode.site("output"))?;
        Ok((z, attention))
    }

    fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        let at = |rest: &str| format!("{name}.attention.{rest}");
        self.attention.query.bind(b, &at("self.query"));
        self.attention.key.bind(b, &at("self.key"));
        self.attention.value.bind(b, &at("self.value"));
        if let Some(conv) = &mut self.attention.conv {
            b.param(&at("self.conv.weight"), conv);
        }
        self.output.bind(b, &at("output"));
        self.feed_forward.bind(b, name);
    }

    /// Binds the names of the official pre-training code.
    pub(crate) fn bind_official<B: Binder>(&mut self, b: &mut B, name: &str) {
        let at = |rest: &str| format!("{name}.{rest}");
        bind_mha(&mut self.attention, &mut self.output.dense, b, &at("mha"));
        self.output.norm.bind(b, &at("norm1"));
        self.feed_forward.intermediate.bind(b, &at("ff.0"));
        self.feed_forward.output.dense.bind(b, &at("ff.2"));
        self.feed_forward.output.norm.bind(b, &at("norm2"));
    }
}

/// Binds the attention's names of the official code: `W_q`, `W_k`, `W_v`, `attn.conv` and `ff`.
pub(crate) fn bind_mha<B: Binder>(
    attention: &mut NystromSelfAttention,
    output: &mut Projection,
    b: &mut B,
    name: &str,
) {
    let at = |rest: &str| format!("{name}.{rest}");
    attention.query.bind(b, &at("W_q"));
    attention.key.bind(b, &at("W_k"));
    attention.value.bind(b, &at("W_v"));
    if let Some(conv) = &mut attention.conv {
        b.param(&at("attn.conv.weight"), conv);
    }
    output.bind(b, &at("ff"));
}

/// One layer's tensors, handed to whoever watches a forward pass.
#[derive(Debug)]
pub struct LayerView<'a> {
    /// Index of the layer; the embeddings' output is shown as layer 0's input.
    pub layer: usize,
    /// Input of the layer: `[batch, length, hidden]`.
    pub input: &'a Tensor<3>,
    /// What its attention gave.
    pub attention: &'a AttentionOutput,
    /// Output of the layer: `[batch, length, hidden]`.
    pub output: &'a Tensor<3>,
}

/// Embeddings and layers.
#[derive(Module, Debug)]
pub struct NystromformerModel {
    /// Ids to vectors; positions count from 2.
    pub embeddings: BertEmbeddings,
    /// The layers, first to last.
    pub layers: Vec<NystromformerLayer>,
    #[module(skip)]
    config: NystromformerConfig,
}

impl NystromformerModel {
    /// A freshly initialised model, drawn from `key`: weights N(0, `initializer_range`²), biases 0.
    ///
    /// # Errors
    /// A configuration that [`NystromformerConfig::validate`] refuses.
    pub fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self> {
        config.validate()?;
        let layer = LayerConfig {
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            filter: config.conv_kernel_size,
            attention: AttentionSettings {
                heads: config.num_attention_heads,
                head_dim: config.hidden_size / config.num_attention_heads,
                landmarks: Some(config.num_landmarks),
                length: config.segment_means_seq_len,
                policy: config.landmark_policy,
                iterations: config.pinv_iterations,
                init: config.pinv_init(),
                masking: Masking::Keys,
            },
            activation: Activation::from_name(&config.hidden_act)?,
            std: config.initializer_range,
            eps: config.layer_norm_eps,
            dropout: config.hidden_dropout_prob,
        };
        let embeddings = EmbeddingsConfig {
            tables: TableSizes {
                words: config.vocab_size,
                positions: config.max_position_embeddings + 2,
                types: config.type_vocab_size,
            },
            hidden: config.hidden_size,
            std: config.initializer_range,
            eps: config.layer_norm_eps,
            dropout: config.hidden_dropout_prob,
            padding: config.pad_token_id,
            positions: PositionRule::Slots { offset: 2 },
        };
        let key_of = |i: usize| key.site("layers").fold(i as u64);
        Ok(Self {
            embeddings: BertEmbeddings::new(&embeddings, key.site("embeddings"), device),
            layers: (0..config.num_hidden_layers)
                .map(|i| NystromformerLayer::new(&layer, key_of(i), device))
                .collect(),
            config: config.clone(),
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &NystromformerConfig {
        &self.config
    }

    /// Token ids to hidden states `[batch, length, hidden]`.
    ///
    /// # Errors
    /// Ids outside the tables, a sequence that is too long, and in landmark mode a length that the policy does not allow.
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<Tensor<3>> {
        self.forward_watched(input, mode, &mut |_| {})
    }

    /// [`NystromformerModel::forward`] that shows each layer's tensors to `watch`.
    ///
    /// # Errors
    /// As [`NystromformerModel::forward`].
    pub fn forward_watched(
        &self,
        input: &EncoderInput,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<Tensor<3>> {
        let mut x = self.embeddings.forward(input, mode)?;
        let mask = padding_mask(input, &x.device());
        for (i, layer) in self.layers.iter().enumerate() {
            let mode = mode.site("layer").fold(i as u64);
            let (y, attention) = layer.forward(x.clone(), mask.as_ref(), mode)?;
            watch(LayerView {
                layer: i,
                input: &x,
                attention: &attention,
                output: &y,
            });
            x = y;
        }
        Ok(x)
    }

    /// Binds every parameter; each name begins with `prefix`, such as `nystromformer.`.
    pub(crate) fn bind_under<B: Binder>(&mut self, b: &mut B, prefix: &str) {
        self.embeddings.bind(b, &format!("{prefix}embeddings"));
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.bind(b, &format!("{prefix}encoder.layer.{i}"));
        }
    }
}

impl Weights for NystromformerModel {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.bind_under(b, "");
    }
}

/// The mask `[batch, length]`; `None` where every token is real.
pub(crate) fn padding_mask(input: &EncoderInput, device: &Device) -> Option<Tensor<2>> {
    let padded = input
        .attention_mask()
        .is_some_and(|mask| mask.contains(&false));
    padded.then(|| input.mask_tensor(device))
}
