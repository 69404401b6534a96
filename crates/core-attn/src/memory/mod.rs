//! Attention over memories: several key segments, each numbered by positions of its own, and the memories themselves.
//!
//! A transformer that reads a stream in chunks attends to what earlier chunks left behind (Dai et al. 2019, Rae et al. 2020).
//! Keys then come in segments, oldest first: rows compressed long ago, rows of the last chunks, the chunk itself. Each segment
//! has its own table of relative keys and its own position bias; one softmax runs over all of them.

mod fifo;
mod naive;
mod position;
mod stats;

pub use fifo::MemoryFifo;
pub use naive::relative_attention_naive;
pub use position::{SinusoidTable, causal_memory_mask, sinusoid_table};
pub use stats::{REGION_BUCKETS, attention_region_stats};

use crate::dense::{Attention, attention};
use crate::dropout::{Dropout, dropout};
use crate::error::{Result, shape, value};
use crate::mask::Mask;
use crate::relative::relative_shift;
use crate::softmax::masked_softmax;
use burn::prelude::*;

const OP: &str = "relative_attention";

/// Keys that share a numbering of positions.
#[derive(Debug, Clone)]
pub struct Segment {
    /// `[batch, rows, heads * head_dim]`, oldest first.
    pub key: Tensor<3>,
    /// `[batch, rows, heads * value_dim]`.
    pub value: Tensor<3>,
    /// Keys of the relative positions `[reach, heads * head_dim]`: row `r` stands for distance `reach − 1 − r`. Key `j` of the
    /// segment lies at distance `reach − 1 − j − (query − 1 − i)` from query `i`; where that is negative the position adds
    /// nothing, and a mask is expected to hide the key.
    pub relative: Tensor<2>,
    /// Added to the queries before they meet the relative keys: `[heads, head_dim]`.
    pub bias: Option<Tensor<2>>,
}

/// The arguments of [`relative_attention`]. Heads lie side by side in the last dimension.
#[derive(Debug, Clone)]
pub struct RelativeAttention {
    /// Scaled queries `[batch, query, heads * head_dim]`.
    pub query: Tensor<3>,
    /// Number of heads.
    pub heads: usize,
    /// Added to the queries before they meet the keys: `[heads, head_dim]`.
    pub content_bias: Option<Tensor<2>>,
    /// The keys, in the order of the mask's columns.
    pub segments: Vec<Segment>,
    /// Which keys each query may see, over all segments.
    pub mask: Option<Mask>,
    /// Added to the scores: `[batch or 1, heads or 1, query, keys of all segments]`.
    pub bias: Option<Tensor<4>>,
    /// Dropout on the attention weights.
    pub dropout: Dropout,
    /// Whether the weights are wanted as well; they cost memory of the size of the scores.
    pub weights: bool,
}

/// What [`relative_attention`] gives.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[batch, query, heads * value_dim]`.
    pub out: Tensor<3>,
    /// The weights before dropout `[batch, heads, query, keys of all segments]`, where they were asked for.
    pub weights: Option<Tensor<4>>,
}

/// `softmax((q + u)·Kᵀ + shift((q + w)·Rᵀ))·V` per head, with one `R` and `w` for each segment of keys.
///
/// The products with the relative keys are taken once per head for the whole batch. Without weights the softmax and the sum over
/// values run in the kernel of [`crate::dense::attention`], to which the position scores are an additive bias.
///
/// # Errors
/// Shapes that do not fit together, or no segment.
pub fn relative_attention(input: RelativeAttention) -> Result<Attended> {
    let plan = Plan::new(&input)?;
    let scores: Vec<Tensor<4>> = input
        .segments
        .iter()
        .map(|segment| position_scores(&input.query, segment, &plan))
        .collect();
    let mut bias = cat(scores, 3);
    if let Some(more) = input.bias {
        bias = bias + more;
    }
    let query = match input.content_bias {
        Some(u) => input.query + u.reshape([1, 1, plan.heads * plan.head_dim]),
        None => input.query,
    };
    let (keys, values) = input
        .segments
        .into_iter()
        .map(|segment| (segment.key, segment.value))
        .unzip();
    let (key, value) = (cat(keys, 1), cat(values, 1));
    if !input.weights {
        let out = attention(Attention {
            query,
            key,
            value,
            heads: plan.heads,
            mask: input.mask,
            bias: Some(bias),
            scale: 1.0,
            dropout: input.dropout,
        })?;
        return Ok(Attended { out, weights: None });
    }
    let clear = |rows: Tensor<3>| match &input.mask {
        Some(mask) => mask.clear_padding(rows),
        None => rows,
    };
    let scores = plan
        .split(query)
        .matmul(plan.split(clear(key)).swap_dims(2, 3))
        + bias;
    let weights = masked_softmax(scores, input.mask.as_ref());
    let dropped = dropout(weights.clone(), input.dropout);
    let out = plan.join(dropped.matmul(plan.split(clear(value))));
    Ok(Attended {
        out,
        weights: Some(weights),
    })
}

/// `shift((q + w)·Rᵀ)` cut to the segment's keys: `[batch, heads, query, rows]`.
fn position_scores(query: &Tensor<3>, segment: &Segment, plan: &Plan) -> Tensor<4> {
    let (b, n, h, d) = (plan.batch, plan.queries, plan.heads, plan.head_dim);
    let [reach, _] = segment.relative.dims();
    let [_, rows, _] = segment.key.dims();
    let mut query = query.clone().reshape([b * n, h, d]);
    if let Some(w) = &segment.bias {
        query = query + w.clone().unsqueeze();
    }
    let relative = segment.relative.clone().reshape([reach, h, d]);
    let scores: Tensor<3> = query.swap_dims(0, 1).matmul(relative.permute([1, 2, 0]));
    let scores = scores.reshape([h, b, n, reach]).swap_dims(0, 1);
    let shifted = relative_shift(scores);
    match rows == reach {
        true => shifted,
        false => shifted.narrow(3, 0, rows),
    }
}

fn cat<const D: usize>(mut parts: Vec<Tensor<D>>, dim: usize) -> Tensor<D> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, dim),
    }
}

/// The sizes of a call, checked.
struct Plan {
    batch: usize,
    queries: usize,
    heads: usize,
    head_dim: usize,
}

impl Plan {
    fn new(input: &RelativeAttention) -> Result<Self> {
        let [batch, queries, width] = input.query.dims();
        let heads = input.heads;
        if heads == 0 || width % heads != 0 || batch * queries == 0 {
            let expected = format!("[batch, query, heads * head_dim] with heads = {heads}");
            return Err(shape(OP, "query", &input.query.dims(), expected));
        }
        let head_dim = width / heads;
        let Some(first) = input.segments.first() else {
            return Err(value(OP, "segments", "empty", "expected at least one"));
        };
        let [_, _, value_width] = first.value.dims();
        let mut keys = 0;
        for segment in &input.segments {
            let [b, rows, w] = segment.key.dims();
            if [b, w] != [batch, width] || rows == 0 {
                let expected = format!("[{batch}, rows, {width}] (batch, rows, heads * head_dim)");
                return Err(shape(OP, "key", &segment.key.dims(), expected));
            }
            if segment.value.dims() != [batch, rows, value_width] || value_width % heads != 0 {
                let expected = format!("[{batch}, {rows}, heads * value_dim], heads = {heads}");
                return Err(shape(OP, "value", &segment.value.dims(), expected));
            }
            let [reach, w] = segment.relative.dims();
            if w != width || reach < rows {
                let expected = format!("[at least {rows}, {width}] (reach, heads * head_dim)");
                return Err(shape(OP, "relative", &segment.relative.dims(), expected));
            }
            if let Some(bias) = &segment.bias
                && bias.dims() != [heads, head_dim]
            {
                let expected = format!("[{heads}, {head_dim}] (heads, head_dim)");
                return Err(shape(OP, "segment bias", &bias.dims(), expected));
            }
            keys += rows;
        }
        if let Some(bias) = &input.content_bias
            && bias.dims() != [heads, head_dim]
        {
            let expected = format!("[{heads}, {head_dim}] (heads, head_dim)");
            return Err(shape(OP, "content_bias", &bias.dims(), expected));
        }
        for (name, dims) in [
            ("mask", input.mask.as_ref().map(|m| m.hidden().dims())),
            ("bias", input.bias.as_ref().map(|b| b.dims())),
        ] {
            let Some([b, h, q, k]) = dims else { continue };
            if (b != 1 && b != batch) || (h != 1 && h != heads) || [q, k] != [queries, keys] {
                let expected = format!("[{batch} or 1, {heads} or 1, {queries}, {keys}]");
                return Err(shape(OP, name, &[b, h, q, k], expected));
            }
        }
        Ok(Self {
            batch,
            queries,
            heads,
            head_dim,
        })
    }

    /// `[batch, rows, heads * dim]` to `[batch, heads, rows, dim]`.
    fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, rows, width] = x.dims();
        x.reshape([b, rows, self.heads, width / self.heads])
            .swap_dims(1, 2)
    }

    /// Undoes [`Plan::split`].
    fn join(&self, x: Tensor<4>) -> Tensor<3> {
        let [b, h, rows, d] = x.dims();
        x.swap_dims(1, 2).reshape([b, rows, h * d])
    }
}
