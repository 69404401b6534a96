//! The encoder, top to bottom (section 3 of the paper).

use crate::attention::{AttentionOutput, BertAttention, LayerCall};
use crate::config::BertConfig;
use crate::embeddings::{BertEmbeddings, EmbeddingsConfig};
use crate::error::{Result, config_error};
use crate::input::EncoderInput;
use crate::parts::{FeedForward, Mode, Projection};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::Binder;

/// One post-norm layer: attention, then the feed-forward map, each with residual connection and normalisation.
#[derive(Module, Debug)]
pub struct BertLayer {
    /// Attention with its output map.
    pub attention: BertAttention,
    /// The two maps behind it.
    pub feed_forward: FeedForward,
}

/// What one layer gives.
#[derive(Debug, Clone)]
pub struct LayerOutput {
    /// `[batch, length, hidden]`.
    pub hidden: Tensor<3>,
    /// What the attention gave, see [`LayerCall`].
    pub attention: AttentionOutput,
}

impl BertLayer {
    /// Weights N(0, `initializer_range`²).
    ///
    /// # Errors
    /// An activation that is not supported.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            attention: BertAttention::new(config, key.site("attention"), device),
            feed_forward: FeedForward::new(
                [config.hidden_size, config.intermediate_size],
                config.activation()?,
                config.initializer_range,
                config.layer_norm_eps,
                config.hidden_dropout_prob,
                key.site("feed_forward"),
                device,
            ),
        })
    }

    /// `[batch, length, hidden]` to the same.
    ///
    /// # Errors
    /// As [`crate::BertSelfAttention::forward`].
    pub fn forward(&self, x: Tensor<3>, call: &LayerCall<'_>) -> Result<LayerOutput> {
        let (y, attention) = self.attention.forward(x, call)?;
        let width = call.width.map(|w| w.intermediate);
        let mode = call.mode.site("output");
        Ok(LayerOutput {
            hidden: self.feed_forward.forward(y, width, mode)?,
            attention,
        })
    }

    /// Binds `name.attention.*`, `name.intermediate.*` and `name.output.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        self.attention.bind(b, &format!("{name}.attention"));
        self.feed_forward.bind(b, name);
    }
}

/// The layers, first to last.
#[derive(Module, Debug)]
pub struct BertEncoder {
    /// To be called one by one, or by [`BertEncoder::forward`].
    pub layers: Vec<BertLayer>,
}

/// How an encoder is run. The default is evaluation, giving the last hidden state alone.
#[derive(Debug, Clone)]
pub struct EncoderCall {
    /// Dropout.
    pub mode: Mode,
    /// Whether to give the output of the embeddings and of every layer.
    pub hidden_states: bool,
    /// Whether to give every layer's attention weights.
    pub attentions: bool,
    /// Whether to give every layer's scores before the softmax.
    pub scores: bool,
    /// Multiplies the heads' attention weights: `[layers, heads]`.
    pub head_mask: Option<Tensor<2>>,
}

impl Default for EncoderCall {
    fn default() -> Self {
        Self {
            mode: Mode::evaluation(),
            hidden_states: false,
            attentions: false,
            scores: false,
            head_mask: None,
        }
    }
}

impl EncoderCall {
    /// In this mode, giving the last hidden state alone.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

impl BertEncoder {
    /// `num_hidden_layers` layers with weights N(0, `initializer_range`²).
    ///
    /// # Errors
    /// An activation that is not supported.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        let layer = |i: usize| BertLayer::new(config, key.fold(i as u64), device);
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Result<_>>()?,
        })
    }

    /// `[batch, length, hidden]` through all layers; `bias` as in [`LayerCall::bias`].
    ///
    /// # Errors
    /// As [`crate::BertSelfAttention::forward`].
    pub fn forward(
        &self,
        x: Tensor<3>,
        bias: Option<&Tensor<4>>,
        call: &EncoderCall,
    ) -> Result<BertOutput> {
        if let Some(mask) = &call.head_mask
            && mask.dims()[0] != self.layers.len()
        {
            return Err(config_error(
                "head_mask",
                format!("{:?}", mask.dims()),
                format!("expected [{}, heads]", self.layers.len()),
            ));
        }
        let mut out = BertOutput {
            last_hidden_state: x.clone(),
            pooler_output: None,
            hidden_states: vec![],
            attentions: vec![],
            scores: vec![],
        };
        let mut x = x;
        if call.hidden_states {
            out.hidden_states.push(x.clone());
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let head_mask = call.head_mask.clone().map(|mask| {
                let [_, heads] = mask.dims();
                mask.narrow(0, i, 1).reshape([heads])
            });
            let found = layer.forward(
                x,
                &LayerCall {
                    bias,
                    head_mask: head_mask.as_ref(),
                    mode: call.mode.site("layer").fold(i as u64),
                    attentions: call.attentions,
                    scores: call.scores,
                    width: None,
                },
            )?;
            x = found.hidden;
            if call.hidden_states {
                out.hidden_states.push(x.clone());
            }
            out.attentions.extend(found.attention.attentions);
            out.scores.extend(found.attention.scores);
        }
        out.last_hidden_state = x;
        Ok(out)
    }

    /// Binds `name.layer.i.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.bind(b, &format!("{name}.layer.{i}"));
        }
    }
}

/// `tanh(x[:, 0]·W + b)`: the first token's state, for heads that want one vector of a sequence.
#[derive(Module, Debug)]
pub struct BertPooler {
    /// `[hidden, hidden]`.
    pub dense: Projection,
}

impl BertPooler {
    /// Weights N(0, `initializer_range`²).
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Self {
        let h = config.hidden_size;
        Self {
            dense: Projection::new(h, h, config.initializer_range, key, device),
        }
    }

    /// `[batch, length, hidden]` to `[batch, hidden]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let first = first_token(x);
        let hidden = first.dims()[1];
        self.dense.forward_sliced(first, hidden, hidden).tanh()
    }
}

/// The first token's state: `[batch, length, hidden]` to `[batch, hidden]`.
pub fn first_token(x: Tensor<3>) -> Tensor<2> {
    let [batch, _, hidden] = x.dims();
    x.narrow(1, 0, 1).reshape([batch, hidden])
}

/// What an encoder gives.
#[derive(Debug, Clone)]
pub struct BertOutput {
    /// `[batch, length, hidden]`.
    pub last_hidden_state: Tensor<3>,
    /// `[batch, hidden]`; `None` for a model without a pooler.
    pub pooler_output: Option<Tensor<2>>,
    /// The embeddings' output and each layer's, where [`EncoderCall::hidden_states`] asked for them.
    pub hidden_states: Vec<Tensor<3>>,
    /// Each layer's attention weights `[batch, heads, query, key]`, where [`EncoderCall::attentions`] asked for them.
    pub attentions: Vec<Tensor<4>>,
    /// Each layer's scores before the softmax, where [`EncoderCall::scores`] asked for them.
    pub scores: Vec<Tensor<4>>,
}

/// Embeddings, layers and pooler.
#[derive(Module, Debug)]
pub struct BertModel {
    /// Ids to vectors.
    pub embeddings: BertEmbeddings,
    /// The layers.
    pub encoder: BertEncoder,
    /// Absent in models whose heads look at every token.
    pub pooler: Option<BertPooler>,
    #[module(skip)]
    pub(crate) config: BertConfig,
}

impl BertModel {
    /// A freshly initialised model, drawn from `key`: weights N(0, `initializer_range`²), biases 0.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses.
    pub fn new(config: &BertConfig, pooler: bool, key: Key, device: &Device) -> Result<Self> {
        config.validate()?;
        let embeddings = EmbeddingsConfig::of(config)?;
        Ok(Self {
            embeddings: BertEmbeddings::new(&embeddings, key.site("embeddings"), device),
            encoder: BertEncoder::new(config, key.site("encoder"), device)?,
            pooler: pooler.then(|| BertPooler::new(config, key.site("pooler"), device)),
            config: config.clone(),
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The device the weights are on.
    pub fn device(&self) -> Device {
        self.embeddings.word_embeddings.val().device()
    }

    /// Token ids to hidden states.
    ///
    /// # Errors
    /// Ids outside the tables, a sequence that is too long, a sequence without a real token.
    pub fn forward(&self, input: &EncoderInput, call: &EncoderCall) -> Result<BertOutput> {
        let x = self.embeddings.forward(input, call.mode)?;
        let bias = input.attention_bias(&x.device());
        let mut out = self.encoder.forward(x, bias.as_ref(), call)?;
        let pooler = self.pooler.as_ref();
        out.pooler_output = pooler.map(|p| p.forward(out.last_hidden_state.clone()));
        Ok(out)
    }

    /// Binds every parameter; each name begins with `prefix`, such as `bert.`.
    pub fn bind_under<B: Binder>(&mut self, b: &mut B, prefix: &str) {
        self.embeddings.bind(b, &format!("{prefix}embeddings"));
        self.encoder.bind(b, &format!("{prefix}encoder"));
        if let Some(pooler) = &mut self.pooler {
            pooler.dense.bind(b, &format!("{prefix}pooler.dense"));
        }
    }
}
