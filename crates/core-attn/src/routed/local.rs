//! Attention of every block to itself and its neighbours.

use super::attention::{Fate, Hide, apply, clear_nan, weights};
use super::shaw::{Shaw, shaw_scores, shaw_values};
use crate::dropout::Dropout;
use crate::error::{Result, shape, value};
use burn::prelude::*;

const OP: &str = "local_attention";

/// The arguments of [`local_attention`].
#[derive(Debug, Clone)]
pub struct LocalAttention<'a> {
    /// `[batch, heads, length, head_dim]`.
    pub query: Tensor<4>,
    /// `[batch, heads, length, head_dim]`.
    pub key: Tensor<4>,
    /// `[batch, heads, length, head_dim]`.
    pub value: Tensor<4>,
    /// Length of a block.
    pub window: usize,
    /// How many blocks before its own a query sees.
    pub back: usize,
    /// How many blocks after its own a query sees.
    pub forward: usize,
    /// A query sees keys up to its own position only.
    pub causal: bool,
    /// A query sees keys at most `back · window` before it and `forward · window` after it, wherever in its block it stands.
    pub exact: bool,
    /// Multiplies the scores.
    pub scale: f64,
    /// Keys that nobody sees, `batch · heads · length` in row-major order.
    pub padding: Option<&'a [bool]>,
    /// What values outside the text are: a query that sees nothing averages them in.
    pub outside: f64,
    /// The score of a query's own position, where it is not computed like any other.
    pub own: Option<f64>,
    /// What a hidden score becomes.
    pub hide: Hide,
    /// Relative embeddings by distance.
    pub relative: Option<Shaw>,
    /// Dropout on the attention weights.
    pub dropout: Dropout,
}

impl LocalAttention<'_> {
    pub(super) fn check(&self) -> Result<()> {
        let dims = self.query.dims();
        let [batch, heads, length, width] = dims;
        for (name, t) in [("key", &self.key), ("value", &self.value)] {
            if t.dims() != dims {
                return Err(shape(OP, name, &t.dims(), format!("{dims:?} as the query")));
            }
        }
        if self.window == 0 {
            return Err(value(OP, "window", 0, "expected at least 1"));
        }
        if length == 0 {
            return Err(shape(OP, "query", &dims, "at least one position"));
        }
        if self.causal && self.forward > 0 {
            let expected = "expected 0 where a query sees no key after it";
            return Err(value(OP, "forward", self.forward, expected));
        }
        if let Some(padding) = self.padding
            && padding.len() != batch * heads * length
        {
            let expected = format!("[{batch}, {heads}, {length}] in a row");
            return Err(shape(OP, "padding", &[padding.len()], expected));
        }
        if let Some(r) = &self.relative {
            let [rows, _] = r.key.dims();
            for (name, t) in [("relative.key", &r.key), ("relative.value", &r.value)] {
                if t.dims() != [rows, width] || rows.is_multiple_of(2) {
                    let expected = format!("[2 · reach + 1, {width}]");
                    return Err(shape(OP, name, &t.dims(), expected));
                }
            }
        }
        Ok(())
    }

    /// How the score of a pair is changed; `key` may lie outside the text.
    pub(super) fn fate(&self, head: usize, query: usize, key: i64) -> Fate {
        let [_, _, length, _] = self.query.dims();
        let distance = query as i64 - key;
        let near = -((self.forward * self.window) as i64)..=(self.back * self.window) as i64;
        let inside = (0..length as i64).contains(&key);
        let padded = |p: &[bool]| p[head * length + key as usize];
        if !inside || self.padding.is_some_and(padded) {
            Fate::Hidden
        } else if self.own.is_some() && distance == 0 {
            Fate::Own
        } else if (self.causal && distance < 0) || (self.exact && !near.contains(&distance)) {
            Fate::Hidden
        } else {
            Fate::Seen
        }
    }
}

/// Attention in blocks of `window` positions, each to its own block, `back` before and `forward` after it:
/// `[batch, heads, length, head_dim]`. The length need not be a multiple of the block.
///
/// Time and memory grow with length × (back + 1 + forward) · window.
///
/// # Errors
/// Shapes or numbers that do not fit together.
pub fn local_attention(input: LocalAttention<'_>) -> Result<Tensor<4>> {
    input.check()?;
    let [batch, heads, length, width] = input.query.dims();
    let device = input.query.device();
    let (window, back, forward) = (input.window, input.back, input.forward);
    let blocks = length.div_ceil(window);
    let padded = blocks * window;
    let around = back + 1 + forward;
    let span = around * window;
    let rows = batch * heads;
    let filled = |n: usize, with: f64| {
        Tensor::<3>::full([rows, n, width], with, (&device, input.query.dtype()))
    };
    let flat = |t: Tensor<4>, before: usize, after: usize, with: f64| {
        let t = t.reshape([rows, length, width]);
        let mut parts = vec![];
        if before > 0 {
            parts.push(filled(before, with));
        }
        parts.push(t);
        if after > 0 {
            parts.push(filled(after, with));
        }
        Tensor::cat(parts, 1)
    };
    let tail = padded - length;
    let query = flat(input.query.clone(), 0, tail, 0.0).reshape([rows * blocks, window, width]);
    // Every block's keys are the blocks around it: `around` shifted copies side by side.
    let neighbours = |t: &Tensor<4>, outside: f64| {
        let t = clear_nan(t.clone(), input.padding);
        let t = flat(t, back * window, tail + forward * window, outside);
        let shifted = (0..around).map(|o| {
            t.clone()
                .narrow(1, o * window, padded)
                .reshape([rows, blocks, window, width])
        });
        Tensor::cat(shifted.collect(), 2).reshape([rows * blocks, span, width])
    };
    let key = neighbours(&input.key, 0.0);
    let value = neighbours(&input.value, input.outside);
    let mut scores = query
        .clone()
        .matmul(key.swap_dims(1, 2))
        .mul_scalar(input.scale);
    let first = back * window;
    if let Some(shaw) = &input.relative {
        scores = scores + shaw_scores(query, shaw.key.clone(), span, first);
    }
    // Without padding all batch rows and heads have the same fates.
    let distinct = if input.padding.is_some() { rows } else { 1 };
    let mut fates = Vec::with_capacity(distinct * padded * span);
    for head in 0..distinct {
        for t in 0..padded {
            let start = (t / window) as i64 - back as i64;
            let places = (0..span as i64).map(|j| start * window as i64 + j);
            fates.extend(places.map(|p| match t < length {
                true => input.fate(head, t, p),
                false => Fate::Seen,
            }));
        }
    }
    let scores = apply(
        scores,
        &fates,
        [distinct * blocks, window, span],
        input.hide,
        input.own,
    );
    let weights = weights(scores, input.dropout);
    let mut out = weights.clone().matmul(value);
    if let Some(shaw) = &input.relative {
        out = out + shaw_values(weights, shaw.value.clone(), first);
    }
    let out = out.reshape([rows, padded, width]).narrow(1, 0, length);
    Ok(out.reshape([batch, heads, length, width]))
}
