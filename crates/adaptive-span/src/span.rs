//! The learned spans: parameters, what they say today, and their penalty.

use crate::config::AdaptiveSpanConfig;
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::sigmoid;
use core_attn::init;
use core_attn::random::Key;
use core_attn::span::SoftSpanMask;

/// Columns are trimmed, and caches sized, in steps of this many tokens.
pub const TRIM_GRANULARITY: usize = 64;

/// Added to the sum that masked attention weights are divided by.
pub(crate) const EPSILON: f64 = 1e-8;

/// One span per head: `current_val` holds `z / attn_span`, a fraction.
#[derive(Module, Debug)]
pub struct AdaptiveSpan {
    /// `[heads, 1, 1]`, each in `[0, 1]`.
    pub current_val: Param<Tensor<3>>,
}

impl AdaptiveSpan {
    pub(crate) fn new(config: &AdaptiveSpanConfig, device: &Device) -> Self {
        let shape = [config.nb_heads, 1, 1];
        Self {
            current_val: init::constant(shape, config.adapt_span_init, device),
        }
    }

    /// The fractions `[heads]`.
    pub fn fractions(&self) -> Tensor<1> {
        let value = self.current_val.val();
        let [heads, _, _] = value.dims();
        value.reshape([heads])
    }

    /// The spans brought back into `[0, 1]`: the penalty would push them below, where no gradient brings them back.
    pub(crate) fn clamped(self) -> Self {
        Self {
            current_val: self.current_val.map(|z| {
                let required = z.is_require_grad();
                let clamped = z.without_autodiff().clamp(0.0, 1.0);
                if required {
                    clamped.autodiff().require_grad()
                } else {
                    clamped
                }
            }),
        }
    }
}

/// Spans as a function of the query: `z = σ(x·v + b)` per head and position.
#[derive(Module, Debug)]
pub struct DynamicSpan {
    /// `[hidden, heads]`.
    pub weight: Param<Tensor<2>>,
    /// `[heads]`.
    pub bias: Param<Tensor<1>>,
}

impl DynamicSpan {
    pub(crate) fn new(config: &AdaptiveSpanConfig, key: Key, device: &Device) -> Self {
        // The bias starts every head near `adapt_span_init`; an exact 0 or 1 would be infinitely far out.
        let start = config.adapt_span_init.clamp(0.02, 0.98);
        let bound = (config.hidden_size as f64).powf(-0.5);
        Self {
            weight: init::uniform([config.hidden_size, config.nb_heads], bound, key, device),
            bias: init::constant([config.nb_heads], (start / (1.0 - start)).ln(), device),
        }
    }

    /// Fractions `[batch, heads, query]` for hidden states `[batch, query, hidden]`.
    pub fn fractions(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, query, width] = hidden.dims();
        let flat = hidden.reshape([batch * query, width]);
        let logits = flat.matmul(self.weight.val()) + self.bias.val().unsqueeze();
        let [_, heads] = logits.dims();
        sigmoid(logits)
            .reshape([batch, query, heads])
            .swap_dims(1, 2)
    }
}

/// The spans of all heads and what follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanReport {
    window: SoftSpanMask,
    /// `[layer][head]`, each a fraction of the longest span.
    pub fractions: Vec<Vec<f32>>,
}

impl SpanReport {
    pub(crate) fn new(window: SoftSpanMask, fractions: Vec<Vec<f32>>) -> Self {
        Self { window, fractions }
    }

    /// Learned span of every head in tokens, without the ramp: `[layer][head]`.
    pub fn tokens(&self) -> Vec<Vec<f64>> {
        let longest = self.window.max_span() as f64;
        let layer = |z: &Vec<f32>| z.iter().map(|z| f64::from(*z) * longest).collect();
        self.fractions.iter().map(layer).collect()
    }

    /// Mean learned span over all heads in tokens, without the ramp.
    pub fn mean_tokens(&self) -> f64 {
        let all: Vec<f64> = self.tokens().into_iter().flatten().collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }

    /// Mean over layers of the layers' average size, ramp included: upstream's `span_avg`.
    pub fn average(&self) -> f64 {
        let sizes = self.fractions.iter().map(|z| self.window.average_size(z));
        sizes.sum::<usize>() as f64 / self.fractions.len().max(1) as f64
    }

    /// Largest size of any head, ramp included: upstream's `span_max`.
    pub fn max(&self) -> usize {
        let sizes = self.fractions.iter().map(|z| self.window.max_size(z));
        sizes.max().unwrap_or(0)
    }

    /// Columns trimmed in each layer.
    pub fn trim_len(&self) -> Vec<usize> {
        let trim = |z: &Vec<f32>| self.window.trim_len(z, TRIM_GRANULARITY);
        self.fractions.iter().map(trim).collect()
    }
}
