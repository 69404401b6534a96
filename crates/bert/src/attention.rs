//! Self-attention of one layer.

use crate::config::BertConfig;
use crate::error::{Result, config_error};
use crate::parts::{Mode, Projection, ResidualOutput};
use burn::module::Module;
use burn::prelude::*;
use core_attn::dense::{Attention, attention};
use core_attn::dropout::dropout;
use core_attn::random::Key;
use core_attn::softmax::masked_softmax;
use pretrained::Binder;

/// The part of a layer that runs: the first heads, hidden elements and neurons. Gradients reach the full parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerWidth {
    /// Attention heads.
    pub heads: usize,
    /// Width of queries, keys and values together, a multiple of `heads`.
    pub qkv: usize,
    /// Neurons of the feed-forward layer.
    pub intermediate: usize,
}

/// How one layer is run. The default is evaluation of the whole layer without a mask.
#[derive(Debug, Clone, Copy)]
pub struct LayerCall<'a> {
    /// Added to the scores: `[batch or 1, 1 or heads, 1 or length, length]`, see
    /// [`EncoderInput::attention_bias`](crate::EncoderInput::attention_bias).
    pub bias: Option<&'a Tensor<4>>,
    /// Multiplies each head's attention weights, after dropout: `[heads]`.
    pub head_mask: Option<&'a Tensor<1>>,
    /// Dropout.
    pub mode: Mode,
    /// Whether to give the attention weights.
    pub attentions: bool,
    /// Whether to give the scores before the softmax.
    pub scores: bool,
    /// Run this part of the layer only.
    pub width: Option<LayerWidth>,
}

impl Default for LayerCall<'_> {
    fn default() -> Self {
        Self {
            bias: None,
            head_mask: None,
            mode: Mode::evaluation(),
            attentions: false,
            scores: false,
            width: None,
        }
    }
}

/// What self-attention gives.
#[derive(Debug, Clone)]
pub struct AttentionOutput {
    /// The heads' outputs side by side, `[batch, length, qkv]`.
    pub context: Tensor<3>,
    /// The softmax's output, `[batch, heads, query, key]`, where [`LayerCall::attentions`] asked for it.
    pub attentions: Option<Tensor<4>>,
    /// `q·kᵀ / √head_dim + bias`, `[batch, heads, query, key]`, where [`LayerCall::scores`] asked for it.
    pub scores: Option<Tensor<4>>,
}

/// Queries, keys and values of one layer, and the attention between them.
#[derive(Module, Debug)]
pub struct BertSelfAttention {
    /// `[hidden, qkv]`.
    pub query: Projection,
    /// `[hidden, qkv]`.
    pub key: Projection,
    /// `[hidden, qkv]`.
    pub value: Projection,
    /// Number of heads; head `h` owns columns `h·d..(h+1)·d`.
    pub heads: usize,
    /// Share of the attention weights dropped in training.
    pub dropout: f64,
}

impl BertSelfAttention {
    /// Weights N(0, `initializer_range`²).
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Self {
        let map = |name: &str| {
            let (h, q) = (config.hidden_size, config.attention_width());
            Projection::new(h, q, config.initializer_range, key.site(name), device)
        };
        Self {
            query: map("query"),
            key: map("key"),
            value: map("value"),
            heads: config.num_attention_heads,
            dropout: config.attention_probs_dropout_prob,
        }
    }

    /// `[batch, length, hidden]` to the heads' outputs.
    ///
    /// # Errors
    /// A bias or head mask of another shape, or a width that is no multiple of the heads.
    pub fn forward(&self, x: Tensor<3>, call: &LayerCall<'_>) -> Result<AttentionOutput> {
        let hidden = x.dims()[2];
        let (heads, qkv) = match call.width {
            Some(width) => (width.heads, width.qkv),
            None => (self.heads, self.query.bias.val().dims()[0]),
        };
        if heads == 0 || !qkv.is_multiple_of(heads) {
            return Err(config_error(
                "width.qkv",
                qkv,
                format!("expected a multiple of {heads} heads"),
            ));
        }
        let drop = call.mode.site("attention").dropout(self.dropout)?;
        let query = self.query.forward_sliced(x.clone(), hidden, qkv);
        let key = self.key.forward_sliced(x.clone(), hidden, qkv);
        let value = self.value.forward_sliced(x, hidden, qkv);
        let [batch, length, _] = query.dims();
        let bias = call.bias.map(|bias| {
            let [b, h, q, k] = bias.dims();
            match q == length {
                true => bias.clone(),
                false => bias.clone().expand([b, h, length.max(q), k]),
            }
        });
        let head_dim = qkv / heads;
        let scale = (head_dim as f64).powf(-0.5);
        let (context, attentions, scores) = if call.attentions || call.scores {
            let split = |x: Tensor<3>| x.reshape([batch, length, heads, head_dim]).swap_dims(1, 2);
            let (query, key, value) = (split(query), split(key), split(value));
            let mut scores = query.matmul(key.swap_dims(2, 3)).mul_scalar(scale);
            if let Some(bias) = bias {
                scores = scores + bias;
            }
            let weights = masked_softmax(scores.clone(), None);
            let context = dropout(weights.clone(), drop).matmul(value);
            let context = context.swap_dims(1, 2).reshape([batch, length, qkv]);
            (
                context,
                call.attentions.then_some(weights),
                call.scores.then_some(scores),
            )
        } else {
            let context = attention(Attention {
                query,
                key,
                value,
                heads,
                mask: None,
                bias,
                scale,
                dropout: drop,
            })?;
            (context, None, None)
        };
        // A factor on a head's weights is the same factor on its output.
        let context = match call.head_mask {
            Some(mask) if mask.dims() == [heads] => {
                let mask = mask.clone().reshape([1, 1, heads, 1]);
                let split = context.reshape([batch, length, heads, head_dim]);
                (split * mask).reshape([batch, length, qkv])
            }
            Some(mask) => {
                let expected = format!("expected one factor for each of {heads} heads");
                return Err(config_error(
                    "head_mask",
                    format!("{:?}", mask.dims()),
                    expected,
                ));
            }
            None => context,
        };
        Ok(AttentionOutput {
            context,
            attentions,
            scores,
        })
    }

    /// Binds `name.query.*`, `name.key.*`, `name.value.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        self.query.bind(b, &format!("{name}.query"));
        self.key.bind(b, &format!("{name}.key"));
        self.value.bind(b, &format!("{name}.value"));
    }
}

/// Self-attention, its output map, residual connection and normalisation.
#[derive(Module, Debug)]
pub struct BertAttention {
    /// The attention.
    pub self_attention: BertSelfAttention,
    /// `[qkv, hidden]`, with residual and normalisation.
    pub output: ResidualOutput,
}

impl BertAttention {
    /// Weights N(0, `initializer_range`²).
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Self {
        Self {
            self_attention: BertSelfAttention::new(config, key.site("self"), device),
            output: ResidualOutput::new(
                [config.attention_width(), config.hidden_size],
                config.initializer_range,
                config.layer_norm_eps,
                config.hidden_dropout_prob,
                key.site("output"),
                device,
            ),
        }
    }

    /// `[batch, length, hidden]` to the same, with what [`LayerCall`] asked for beside it in [`AttentionOutput`], whose
    /// `context` is the input of the output map.
    ///
    /// # Errors
    /// As [`BertSelfAttention::forward`].
    pub fn forward(
        &self,
        x: Tensor<3>,
        call: &LayerCall<'_>,
    ) -> Result<(Tensor<3>, AttentionOutput)> {
        let found = self.self_attention.forward(x.clone(), call)?;
        let mode = call.mode.site("attention.output");
        let out = self.output.forward(found.context.clone(), x, mode)?;
        Ok((out, found))
    }

    /// Binds `name.self.*` and `name.output.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        self.self_attention.bind(b, &format!("{name}.self"));
        self.output.bind(b, &format!("{name}.output"));
    }
}
