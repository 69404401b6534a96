//! Self-attention through landmarks, with the convolution beside it (section 3 of the paper).

use crate::config::LandmarkPolicy;
use bert::{Projection, Result, input_error};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dense::{Attention, attention};
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::low_rank::{
    Nystrom, NystromAttention, PinvInit, nystrom_attention, time_convolution,
};
use core_attn::random::Key;
use core_attn::softmax::masked_softmax;

/// What the attention mask does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    /// Padded keys are hidden from landmark queries; landmarks and convolution see padding (Hugging Face's classes).
    Keys,
    /// Queries, keys and the convolution's values of padding are set to zero as well (the official LRA and pre-training code).
    Rows,
}

/// Whatever of an attention is not a parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSettings {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of landmarks; `None` for full attention.
    pub landmarks: Option<usize>,
    /// The only length in landmark mode, with [`LandmarkPolicy::Strict`].
    pub length: usize,
    /// Which rows make the landmarks.
    pub policy: LandmarkPolicy,
    /// Iterations of the pseudo-inverse.
    pub iterations: usize,
    /// Where the pseudo-inverse starts.
    pub init: PinvInit,
    /// What the attention mask does.
    pub masking: Masking,
}

/// Projections, Nyström attention, and the convolution over the values.
#[derive(Module, Debug)]
pub struct NystromSelfAttention {
    /// `[hidden, heads * head_dim]`.
    pub query: Projection,
    /// `[hidden, heads * head_dim]`.
    pub key: Projection,
    /// `[hidden, heads * head_dim]`.
    pub value: Projection,
    /// One filter per head, `[heads, 1, size, 1]`.
    pub conv: Option<Param<Tensor<4>>>,
    #[module(skip)]
    settings: AttentionSettings,
}

/// What attention gives, and how it came to it.
#[derive(Debug, Clone)]
pub struct AttentionOutput {
    /// Attention plus convolution, heads apart: `[batch, heads, length, head_dim]`.
    pub heads: Tensor<4>,
    /// The factors; `None` with full attention.
    pub factors: Option<Nystrom>,
    query: Tensor<4>,
    key: Tensor<4>,
    scale: f64,
    bias: Option<Tensor<4>>,
}

impl AttentionOutput {
    /// Heads side by side: `[batch, length, heads * head_dim]`.
    pub fn merged(&self) -> Tensor<3> {
        merge(self.heads.clone())
    }

    /// What upstream reports as attention probabilities: `F·Z` `[batch, heads, length, landmarks]`, or the softmax
    /// `[batch, heads, length, length]` of full attention, which is computed for this call.
    pub fn probabilities(&self) -> Tensor<4> {
        match &self.factors {
            Some(factors) => factors.probabilities(),
            None => {
                let keys = self.key.clone().swap_dims(2, 3);
                let scores = self.query.clone().matmul(keys).mul_scalar(self.scale);
                let scores = match &self.bias {
                    Some(bias) => scores + bias.clone(),
                    None => scores,
                };
                masked_softmax(scores, None)
            }
        }
    }
}

pub(crate) fn merge(heads: Tensor<4>) -> Tensor<3> {
    let [batch, count, length, dim] = heads.dims();
    heads.swap_dims(1, 2).reshape([batch, length, count * dim])
}

impl NystromSelfAttention {
    /// Weights N(0, `std`²), filters with `filter` places.
    pub fn new(
        hidden: usize,
        filter: Option<usize>,
        settings: AttentionSettings,
        std: f64,
        key: Key,
        device: &Device,
    ) -> Self {
        let width = settings.heads * settings.head_dim;
        let project = |name: &str| Projection::new(hidden, width, std, key.site(name), device);
        let conv =
            |size: usize| init::normal([settings.heads, 1, size, 1], std, key.site("conv"), device);
        Self {
            query: project("query"),
            key: project("key"),
            value: project("value"),
            conv: filter.map(conv),
            settings,
        }
    }

    /// Whatever is not a parameter.
    pub fn settings(&self) -> &AttentionSettings {
        &self.settings
    }

    /// Landmarks for inputs of this length; `None` for full attention.
    fn landmarks(&self, length: usize) -> Result<Option<usize>> {
        let s = &self.settings;
        let Some(m) = s.landmarks else {
            return Ok(None);
        };
        match s.policy {
            LandmarkPolicy::Strict if m == s.length => Ok(None),
            LandmarkPolicy::Strict if length != s.length => Err(input_error(
                "the input's length",
                length,
                format!(
                    "expected {}, the segment_means_seq_len, with landmark_policy \"strict\": pad the input, or set landmark_policy to \"uneven\" or \"masked\"",
                    s.length
                ),
            )),
            LandmarkPolicy::Strict => Ok(Some(m)),
            LandmarkPolicy::Uneven | LandmarkPolicy::Masked => Ok((m < length).then_some(m)),
        }
    }

    /// `[batch, length, hidden]` and a mask `[batch, length]`, 1 for tokens and 0 for padding, to attention plus convolution.
    ///
    /// # Errors
    /// A length that the policy does not allow.
    pub fn forward(&self, hidden: Tensor<3>, mask: Option<&Tensor<2>>) -> Result<AttentionOutput> {
        let s = &self.settings;
        let [batch, length, _] = hidden.dims();
        let landmarks = self.landmarks(length)?;
        let split = |x: Tensor<3>| -> Tensor<4> {
            x.reshape([batch, length, s.heads, s.head_dim])
                .swap_dims(1, 2)
        };
        let mut query = split(self.query.forward(hidden.clone()));
        let mut key = split(self.key.forward(hidden.clone()));
        let value = split(self.value.forward(hidden));
        if s.policy == LandmarkPolicy::Masked
            && let Some(m) = landmarks
        {
            return self.masked([query, key, value], m, mask);
        }
        let rows = mask.map(|mask| mask.clone().reshape([batch, 1, length, 1]));
        let mut filtered = value.clone();
        if let (Masking::Rows, Some(rows)) = (s.masking, rows) {
            query = query * rows.clone();
            key = key * rows.clone();
            filtered = filtered * rows;
        }
        let bias = mask.map(|mask| {
            let lowest = match s.masking {
                Masking::Keys => f64::from(f32::MIN),
                Masking::Rows => -1e9,
            };
            let hidden = mask.clone().neg().add_scalar(1.0).mul_scalar(lowest);
            hidden.reshape([batch, 1, 1, length])
        });
        let scale = (s.head_dim as f64).powf(-0.5);
        let (mut heads, factors) = match landmarks {
            Some(landmarks) => {
                let factors = nystrom_attention(NystromAttention {
                    query: query.clone(),
                    key: key.clone(),
                    value,
                    landmarks,
                    scale,
                    key_bias: bias.clone(),
                    keep: None,
                    iterations: s.iterations,
                    init: s.init,
                })?;
                (factors.context.clone(), Some(factors))
            }
            None => {
                let context = attention(Attention {
                    query: merge(query.clone()),
                    key: merge(key.clone()),
                    value: merge(value),
                    heads: s.heads,
                    mask: None,
                    bias: bias.clone().map(|b| b.expand([batch, 1, length, length])),
                    scale,
                    dropout: Dropout::off(),
                })?;
                (split(context), None)
            }
        };
        if let Some(conv) = &self.conv {
            heads = heads + time_convolution(filtered, filters(conv))?;
        }
        Ok(AttentionOutput {
            heads,
            factors,
            query,
            key,
            scale,
            bias,
        })
    }

    /// Padding on the left up to a multiple of the landmarks, and no padding in anything.
    fn masked(
        &self,
        rows: [Tensor<4>; 3],
        landmarks: usize,
        mask: Option<&Tensor<2>>,
    ) -> Result<AttentionOutput> {
        let s = &self.settings;
        let [batch, count, length, dim] = rows[0].dims();
        let device = rows[0].device().without_autodiff();
        let left = length.next_multiple_of(landmarks) - length;
        let keep = match mask {
            Some(mask) => mask.clone().greater_elem(0.5),
            None => Tensor::<2>::ones([batch, length], &device).greater_elem(0.5),
        };
        let (keep, rows) = match left {
            0 => (keep, rows),
            _ => {
                let none = Tensor::<2>::zeros([batch, left], &device).greater_elem(0.5);
                let zeros = Tensor::<4>::zeros([batch, count, left, dim], &device);
                let pad = |x: Tensor<4>| Tensor::cat(vec![zeros.clone(), x], 2);
                (Tensor::cat(vec![none, keep], 1), rows.map(pad))
            }
        };
        let [query, key, value] = rows;
        let scale = (dim as f64).powf(-0.5);
        let factors = nystrom_attention(NystromAttention {
            query: query.clone(),
            key: key.clone(),
            value: value.clone(),
            landmarks,
            scale,
            key_bias: None,
            keep: Some(keep.clone()),
            iterations: s.iterations,
            init: s.init,
        })?;
        let mut heads = factors.context.clone();
        if let Some(conv) = &self.conv {
            let all = [batch, count, length + left, dim];
            let hidden = keep.bool_not().reshape([batch, 1, length + left, 1]);
            let value = value.mask_fill(hidden.expand(all), 0.0);
            heads = heads + time_convolution(value, filters(conv))?;
        }
        Ok(AttentionOutput {
            heads: heads.narrow(2, left, length),
            factors: Some(factors),
            query,
            key,
            scale,
            bias: None,
        })
    }
}

/// The filters `[heads, 1, size, 1]` as the kernel takes them: `[heads, size]`.
pub(crate) fn filters(conv: &Param<Tensor<4>>) -> Tensor<2> {
    let [heads, _, size, _] = conv.val().dims();
    conv.val().reshape([heads, size])
}
