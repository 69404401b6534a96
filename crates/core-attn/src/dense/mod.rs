//! Scaled dot-product attention of every query to every key.

#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
mod naive;

#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(crate) use cpu::{Inputs, backward, forward, softmax_row};
pub use naive::attention_naive;

use crate::dropout::{Dropout, Keep};
use crate::error::{Result, shape};
use crate::mask::Mask;
use burn::prelude::*;

const OP: &str = "attention";

/// The arguments of [`attention`]. Heads lie side by side in the last dimension, as a projection leaves them.
#[derive(Debug, Clone)]
pub struct Attention {
    /// `[batch, query, heads * head_dim]`.
    pub query: Tensor<3>,
    /// `[batch, key, heads * head_dim]`.
    pub key: Tensor<3>,
    /// `[batch, key, heads * value_dim]`.
    pub value: Tensor<3>,
    /// Number of heads.
    pub heads: usize,
    /// Which keys each query may see; all of them without a mask. A query that sees nothing gives zero.
    pub mask: Option<Mask>,
    /// Added to the scaled scores: `[batch or 1, heads or 1, query, key]`.
    pub bias: Option<Tensor<4>>,
    /// Multiplies the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// Dropout on the attention weights.
    pub dropout: Dropout,
}

/// `softmax(scale · Q·Kᵀ + bias)·V` per head: `[batch, query, heads * value_dim]`.
///
/// On flex and ndarray this is one operation with its own backward pass, which stores nothing of size `[query, key]`;
/// elsewhere it is [`attention_naive`].
///
/// # Errors
/// Shapes that do not fit together.
pub fn attention(input: Attention) -> Result<Tensor<3>> {
    let plan = Plan::new(&input)?;
    let input = clear_padding(input);
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::all_have_kernels(&[&input.query, &input.key, &input.value]) {
        return Ok(crate::kernels::dense(input, plan));
    }
    Ok(naive::compose(input, &plan))
}

/// Padding may hold anything: zero times NaN would still be NaN, in the output and in the gradients.
fn clear_padding(mut input: Attention) -> Attention {
    if let Some(mask) = &input.mask {
        input.key = mask.clear_padding(input.key);
        input.value = mask.clear_padding(input.value);
    }
    input
}

/// What is added to the scores, masks included, in the smallest shape that broadcasts; `None` where nothing is.
pub(crate) fn additive(input: &Attention) -> Option<Tensor<4>> {
    let Some(mask) = &input.mask else {
        return input.bias.clone();
    };
    let hidden = mask.hidden();
    let bias = match &input.bias {
        Some(bias) => {
            let [a, b] = [bias.dims(), hidden.dims()];
            let to = [0, 1, 2, 3].map(|i| a[i].max(b[i]));
            return Some(
                bias.clone()
                    .expand(to)
                    .mask_fill(hidden.expand(to), f64::NEG_INFINITY),
            );
        }
        None => Tensor::zeros(
            hidden.shape(),
            (
                &input.query.device().without_autodiff(),
                input.query.dtype(),
            ),
        ),
    };
    Some(bias.mask_fill(hidden, f64::NEG_INFINITY))
}

/// The sizes of a call, checked.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub scale: f32,
    pub dropout: Keep,
    /// `[batch or 1, heads or 1]` of what is added to the scores; `None` where nothing is.
    pub bias: Option<[usize; 2]>,
}

impl Plan {
    fn new(input: &Attention) -> Result<Self> {
        let [batch, queries, width] = input.query.dims();
        let [key_batch, keys, key_width] = input.key.dims();
        let [_, _, value_width] = input.value.dims();
        let heads = input.heads;
        if heads == 0 || width % heads != 0 || batch * queries == 0 {
            let expected = format!("[batch, query, heads * head_dim] with heads = {heads}");
            return Err(shape(OP, "query", &input.query.dims(), expected));
        }
        if [key_batch, key_width] != [batch, width] || keys == 0 {
            let expected = format!("[{batch}, key, {width}] (batch, key, heads * head_dim)");
            return Err(shape(OP, "key", &input.key.dims(), expected));
        }
        if input.value.dims()[..2] != [batch, keys] || value_width % heads != 0 {
            let expected = format!("[{batch}, {keys}, {heads} * value_dim]");
            return Err(shape(OP, "value", &input.value.dims(), expected));
        }
        let mut bias = None;
        let mask = input.mask.as_ref().map(|m| m.hidden().dims());
        for (name, dims) in [
            ("mask", mask),
            ("bias", input.bias.as_ref().map(|b| b.dims())),
        ] {
            let Some([b, h, q, k]) = dims else { continue };
            if (b != 1 && b != batch) || (h != 1 && h != heads) || [q, k] != [queries, keys] {
                let expected = format!("[{batch} or 1, {heads} or 1, {queries}, {keys}]");
                return Err(shape(OP, name, &[b, h, q, k], expected));
            }
            let [x, y] = bias.unwrap_or([1, 1]);
            bias = Some([x.max(b), y.max(h)]);
        }
        Ok(Self {
            batch,
            queries,
            keys,
            heads,
            head_dim: width / heads,
            value_dim: value_width / heads,
            scale: input.scale as f32,
            dropout: input.dropout.keep(),
            bias,
        })
    }
}
