//! Causal attention over a fixed-length band: every query sees the same number of rows that precede it.
//!
//! Keys and values are the rows of a cache followed by the current block, so query `m` of the block sees the `window` rows
//! that end just before it (or with it). Column `l` of its scores stands for distance `window − l` (or `window − 1 − l`);
//! the band itself is the causality, nothing else is masked. Sukhbaatar et al. 2019, sections 2 and 3.

#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
mod naive;

#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(crate) use cpu::{Inputs, backward, forward};
pub use naive::{banded_attention_naive, skew, unskew};

use crate::dropout::{Dropout, Keep};
use crate::error::{Result, shape, value};
use burn::prelude::*;

const OP: &str = "banded_attention";

/// Where a query's band ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nearest {
    /// With the row before the query: distances `1..=window`.
    #[default]
    Previous,
    /// With the query's own row: distances `0..window`.
    Current,
}

/// The weights of a soft window.
#[derive(Debug, Clone)]
pub enum SpanMask {
    /// `[heads, window]`: the same for every query.
    PerHead(Tensor<2>),
    /// `[batch, heads, query, window]`: a window of each query's own. Computed by composition on every backend.
    PerQuery(Tensor<4>),
}

/// A soft window per head over the columns of the band.
#[derive(Debug, Clone)]
pub struct SpanWindow {
    /// Multiplied onto the attention weights before they are normalised again. A column where it is 0 takes no part at all:
    /// neither in the softmax nor in any gradient.
    pub mask: SpanMask,
    /// For each head the number of columns, counted from the nearest, outside of which its mask is 0. Work is done for
    /// these columns only.
    pub keep: Vec<usize>,
    /// Added to the sum that the masked weights are divided by, as a share of the unmasked sum over the columns that take part
    /// (1e−8 in the reference, where columns with a mask of 0 count as well: a row whose scores lie more than 14 nats higher
    /// out there sums to less than 1, here it does not).
    pub epsilon: f64,
}

/// Keys and values that every position sees, whatever its band (Sukhbaatar et al. 2019, "persistent memory").
#[derive(Debug, Clone)]
pub struct Persistent {
    /// `[heads, head_dim, vectors]`.
    pub key: Tensor<3>,
    /// `[heads, vectors, head_dim]`.
    pub value: Tensor<3>,
}

/// The arguments of [`banded_attention`]. Heads lie side by side in the last dimension, as a projection leaves them.
#[derive(Debug, Clone)]
pub struct BandedAttention {
    /// `[batch, query, heads * head_dim]`.
    pub query: Tensor<3>,
    /// `[batch, past + query, heads * head_dim]`; the last `query` rows are the block itself.
    pub key: Tensor<3>,
    /// `[batch, past + query, heads * head_dim]`.
    pub value: Tensor<3>,
    /// Number of heads.
    pub heads: usize,
    /// Columns of the band; `past` must hold at least this many rows (one fewer with [`Nearest::Current`]).
    pub window: usize,
    /// Where the band ends.
    pub nearest: Nearest,
    /// Relative position table `[head_dim, window]`, shared by all heads: column `l` is added to every key seen in column
    /// `l`.
    pub relative: Option<Tensor<2>>,
    /// Soft windows; without them the band is an ordinary softmax.
    pub span: Option<SpanWindow>,
    /// Vectors seen beside the band.
    pub persistent: Option<Persistent>,
    /// Multiplies the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// Dropout on the attention weights.
    pub dropout: Dropout,
}

/// Attention over the band: `[batch, query, heads * head_dim]`.
///
/// On flex and ndarray this is one operation with its own backward pass, which stores nothing of size
/// `[query, window]` and lets each head work over its own window; elsewhere it is [`banded_attention_naive`].
///
/// # Errors
/// Shapes that do not fit together, a window longer than the rows that are there, a head whose `keep` is 0 or exceeds the
/// window.
pub fn banded_attention(input: BandedAttention) -> Result<Tensor<3>> {
    let plan = Plan::new(&input)?;
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::all_have_kernels(&[&input.query, &input.key, &input.value]) && !plan.per_query {
        return Ok(crate::kernels::banded(input, plan));
    }
    Ok(naive::compose(input, &plan))
}

/// The sizes of a call, checked.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub window: usize,
    pub nearest: Nearest,
    pub keeps: Vec<usize>,
    pub masked: bool,
    pub per_query: bool,
    pub relative: bool,
    pub persistent: usize,
    pub scale: f32,
    pub epsilon: f32,
    pub dropout: Keep,
}

impl Plan {
    fn new(input: &BandedAttention) -> Result<Self> {
        let [batch, queries, width] = input.query.dims();
        let [_, keys, _] = input.key.dims();
        let (heads, window) = (input.heads, input.window);
        if heads == 0 || width % heads != 0 {
            return Err(shape(
                OP,
                "query",
                &input.query.dims(),
                format!("[batch, query, heads * head_dim] with heads = {heads}"),
            ));
        }
        let head_dim = width / heads;
        if queries == 0 || batch == 0 {
            return Err(shape(
                OP,
                "query",
                &input.query.dims(),
                "at least one batch row and one query",
            ));
        }
        let past = usize::from(input.nearest == Nearest::Previous);
        if window == 0 || window > keys || keys + 1 < queries + window + past {
            return Err(value(
                OP,
                "window",
                window,
                format!(
                    "expected 1..={} for {keys} key rows and {queries} queries",
                    (keys + 1).saturating_sub(queries + past)
                ),
            ));
        }
        for (name, dims) in [("key", input.key.dims()), ("value", input.value.dims())] {
            if dims != [batch, keys, width] {
                let expected = format!("[{batch}, {keys}, {width}] (batch, past + query, width)");
                return Err(shape(OP, name, &dims, expected));
            }
        }
        if let Some(table) = &input.relative
            && table.dims() != [head_dim, window]
        {
            let expected = format!("[{head_dim}, {window}] (head_dim, window)");
            return Err(shape(OP, "relative", &table.dims(), expected));
        }
        let mut keeps = vec![window; heads];
        if let Some(span) = &input.span {
            match &span.mask {
                SpanMask::PerHead(mask) if mask.dims() != [heads, window] => {
                    let expected = format!("[{heads}, {window}] (heads, window)");
                    return Err(shape(OP, "span.mask", &mask.dims(), expected));
                }
                SpanMask::PerQuery(mask) if mask.dims() != [batch, heads, queries, window] => {
                    let expected = format!(
                        "[{batch}, {heads}, {queries}, {window}] (batch, heads, query, window)"
                    );
                    return Err(shape(OP, "span.mask", &mask.dims(), expected));
                }
                _ => {}
            }
            let fits = |k: &usize| (1..=window).contains(k);
            if span.keep.len() != heads || !span.keep.iter().all(fits) {
                return Err(value(
                    OP,
                    "span.keep",
                    format!("{:?}", span.keep),
                    format!("expected {heads} numbers in 1..={window}"),
                ));
            }
            keeps.clone_from(&span.keep);
        }
        let mut persistent = 0;
        if let Some(p) = &input.persistent {
            persistent = p.key.dims()[2];
            if p.key.dims() != [heads, head_dim, persistent] || persistent == 0 {
                let expected = format!("[{heads}, {head_dim}, vectors] (heads, head_dim, vectors)");
                return Err(shape(OP, "persistent.key", &p.key.dims(), expected));
            }
            if p.value.dims() != [heads, persistent, head_dim] {
                let expected =
                    format!("[{heads}, {persistent}, {head_dim}] (heads, vectors, head_dim)");
                return Err(shape(OP, "persistent.value", &p.value.dims(), expected));
            }
        }
        Ok(Self {
            batch,
            queries,
            keys,
            heads,
            head_dim,
            window,
            nearest: input.nearest,
            keeps,
            masked: input.span.is_some(),
            per_query: input
                .span
                .as_ref()
                .is_some_and(|s| matches!(s.mask, SpanMask::PerQuery(_))),
            relative: input.relative.is_some(),
            persistent,
            scale: input.scale as f32,
            epsilon: input.span.as_ref().map_or(0.0, |s| s.epsilon) as f32,
            dropout: input.dropout.keep(),
        })
    }

    /// `heads * head_dim`.
    pub(crate) fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The key row that query 0 sees in column 0.
    pub(crate) fn first_key(&self) -> usize {
        let own = usize::from(self.nearest == Nearest::Current);
        self.keys + own - self.queries - self.window
    }

    /// Multiply-adds of the scores, roughly: decides whether threads pay.
    pub(crate) fn work(&self) -> usize {
        let columns: usize = self.keeps.iter().sum();
        self.batch * self.queries * columns * self.head_dim
    }
}
