//! Sequential attention over the rows that precede each query, with per-head spans and optional persistent vectors.

use crate::cache::LayerCache;
use crate::config::AdaptiveSpanConfig;
use crate::error::Result;
use crate::span::{AdaptiveSpan, DynamicSpan, EPSILON};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::banded::{
    BandedAttention, Nearest, Persistent, SpanMask, SpanWindow, banded_attention,
};
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::random::Key;
use core_attn::span::SoftSpanMask;

/// Vectors that every query sees beside its band; they replace the feed-forward layer ("all-attention").
#[derive(Module, Debug)]
pub struct PersistentMemory {
    /// `[heads, head_dim, vectors]`, stored divided by `sqrt(head_dim)`.
    pub key: Param<Tensor<3>>,
    /// `[heads, vectors, head_dim]`, stored divided by `sqrt(vectors)`.
    pub val: Param<Tensor<3>>,
}

impl PersistentMemory {
    fn new(config: &AdaptiveSpanConfig, key: Key, device: &Device) -> Self {
        let (k, d, n) = (config.nb_heads, config.head_dim(), config.pers_mem_size);
        let (key_std, val_std) = ((d as f64).powf(-0.5), (n as f64).powf(-0.5));
        Self {
            key: init::normal([k, d, n], key_std, key.site("key"), device),
            val: init::normal([k, n, d], val_std, key.site("val"), device),
        }
    }

    /// The vectors at the size they are used with.
    fn vectors(&self) -> Persistent {
        let [_, d, n] = self.key.val().dims();
        Persistent {
            key: self.key.val().mul_scalar((d as f64).sqrt()),
            value: self.val.val().mul_scalar((n as f64).sqrt()),
        }
    }
}

/// Multi-head attention to the `attn_span` rows before each query. The query's own row is not among them.
#[derive(Module, Debug)]
pub struct SeqAttention {
    /// `[hidden, hidden]`, without bias like the other three.
    pub proj_query: Param<Tensor<2>>,
    /// `[hidden, hidden]`.
    pub proj_key: Param<Tensor<2>>,
    /// `[hidden, hidden]`.
    pub proj_val: Param<Tensor<2>>,
    /// `[hidden, hidden]`.
    pub proj_out: Param<Tensor<2>>,
    /// One learned span per head.
    pub span: Option<AdaptiveSpan>,
    /// Spans as a function of the query.
    pub dynamic_span: Option<DynamicSpan>,
    /// Vectors seen beside the band.
    pub persistent_memory: Option<PersistentMemory>,
}

/// What the attention of one layer needs beside its input.
pub(crate) struct Scene<'a> {
    /// `[head_dim, attn_span]`, shared by all layers.
    pub table: &'a Tensor<2>,
    /// The soft window and this layer's fractions on the host, with learned spans.
    pub window: Option<(SoftSpanMask, &'a [f32])>,
    pub heads: usize,
    pub dropout: Dropout,
    /// With dynamic spans the span penalty is a function of the input: the mean fraction is added here.
    pub mean_fraction: &'a mut Option<Tensor<1>>,
    pub trim: bool,
}

impl SeqAttention {
    pub(crate) fn new(config: &AdaptiveSpanConfig, key: Key, device: &Device) -> Self {
        let h = config.hidden_size;
        let projection = |name: &str| {
            let bound = (h as f64).powf(-0.5);
            init::uniform([h, h], bound, key.site(name), device)
        };
        let adaptive = config.adapt_span_enabled;
        let dynamic = config.dynamic();
        Self {
            proj_query: projection("proj_query"),
            proj_key: projection("proj_key"),
            proj_val: projection("proj_val"),
            proj_out: projection("proj_out"),
            span: (adaptive && !dynamic).then(|| AdaptiveSpan::new(config, device)),
            dynamic_span: dynamic.then(|| DynamicSpan::new(config, key.site("span"), device)),
            persistent_memory: (config.pers_mem_size > 0)
                .then(|| PersistentMemory::new(config, key.site("persistent"), device)),
        }
    }

    /// Attends from the block `h` `[batch, block, hidden]` to the cached rows and the block itself.
    pub(crate) fn forward(
        &self,
        h: Tensor<3>,
        cache: LayerCache,
        size: usize,
        scene: Scene<'_>,
    ) -> Result<(Tensor<3>, LayerCache)> {
        let [_, span] = scene.table.dims();
        let query = project(h.clone(), &self.proj_query);
        // Fractions of this step, widest first: how many columns anybody needs.
        let dynamic = self.dynamic_span.as_ref().map(|s| s.fractions(h.clone()));
        let sizes: Option<Vec<usize>> = match (scene.window, &dynamic) {
            (Some((window, _)), Some(fractions)) => {
                *scene.mean_fraction = Some(fractions.clone().mean());
                let widest = fractions
                    .clone()
                    .detach()
                    .max()
                    .into_data()
                    .iter::<f32>()
                    .next();
                Some(vec![window.size(widest.unwrap_or(1.0)); scene.heads])
            }
            (Some((window, fractions)), None) => {
                Some(fractions.iter().map(|z| window.size(*z)).collect())
            }
            (None, _) => None,
        };
        let keep = match &sizes {
            Some(sizes) if scene.trim => sizes.iter().copied().max().unwrap_or(span).clamp(1, span),
            _ => span,
        };
        let (key, value, cache) = match cache {
            LayerCache::Hidden(past) => {
                // Trimmed before the projection: rows no head reaches are never multiplied.
                let all = Tensor::cat(vec![past.last(keep), h.clone()], 1);
                let key = project(all.clone(), &self.proj_key);
                let value = project(all, &self.proj_val);
                (key, value, LayerCache::Hidden(past.push(h, size)))
            }
            LayerCache::Projected {
                key: past_key,
                value: past_value,
            } => {
                let (k, v) = (
                    project(h.clone(), &self.proj_key),
                    project(h, &self.proj_val),
                );
                let key = Tensor::cat(vec![past_key.last(keep), k.clone()], 1);
                let value = Tensor::cat(vec![past_value.last(keep), v.clone()], 1);
                let cache = LayerCache::Projected {
                    key: past_key.push(k, size),
                    value: past_value.push(v, size),
                };
                (key, value, cache)
            }
        };
        let span_window = scene.window.map(|(window, _)| {
            let mask = match (dynamic, &self.span) {
                (Some(fractions), _) => {
                    let [batch, heads, query] = fractions.dims();
                    let flat = fractions.reshape([batch * heads * query]);
                    SpanMask::PerQuery(window.mask(flat, keep).reshape([batch, heads, query, keep]))
                }
                (None, Some(span)) => SpanMask::PerHead(window.mask(span.fractions(), keep)),
                (None, None) => {
                    unreachable!("a model with a window has spans; its constructor sees to it")
                }
            };
            let sizes = sizes.unwrap_or_default();
            SpanWindow {
                mask,
                keep: match scene.trim {
                    true => sizes.iter().map(|s| (*s).clamp(1, keep)).collect(),
                    false => vec![keep; scene.heads],
                },
                epsilon: EPSILON,
            }
        });
        let [head_dim, _] = scene.table.dims();
        let out = banded_attention(BandedAttention {
            query,
            key,
            value,
            heads: scene.heads,
            window: keep,
            nearest: Nearest::Previous,
            relative: Some(scene.table.clone().narrow(1, span - keep, keep)),
            span: span_window,
            persistent: self
                .persistent_memory
                .as_ref()
                .map(PersistentMemory::vectors),
            scale: (head_dim as f64).powf(-0.5),
            dropout: scene.dropout,
        })?;
        Ok((project(out, &self.proj_out), cache))
    }
}

/// `[batch, length, in]` times `[in, out]`, as one product of `batch · length` rows.
pub(crate) fn project(x: Tensor<3>, weight: &Param<Tensor<2>>) -> Tensor<3> {
    let [batch, length, width] = x.dims();
    let weight = weight.val();
    let [_, out] = weight.dims();
    x.reshape([batch * length, width])
        .matmul(weight)
        .reshape([batch, length, out])
}
