//! The three factors and their product with the values.

use super::pinv::{PinvInit, iterative_pinv};
use super::segments::{clear, masked_segment_means, segment_means};
use crate::dense::{Attention, attention};
use crate::dropout::Dropout;
use crate::error::{Result, shape, value as wrong};
use crate::softmax::masked_softmax;
use burn::prelude::*;

const OP: &str = "nystrom_attention";

/// The arguments of [`nystrom_attention`].
#[derive(Debug, Clone)]
pub struct NystromAttention {
    /// `[batch, heads, length, head_dim]`.
    pub query: Tensor<4>,
    /// `[batch, heads, length, head_dim]`.
    pub key: Tensor<4>,
    /// `[batch, heads, length, value_dim]`.
    pub value: Tensor<4>,
    /// Number of landmarks, at most the length.
    pub landmarks: usize,
    /// Multiplies the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// Added to the scores between landmark queries and keys: `[batch or 1, heads or 1, 1, length]`, a large negative number
    /// for padding. Padding still takes part in the landmarks, as in the published models.
    pub key_bias: Option<Tensor<4>>,
    /// Rows that are no padding, `[batch, length]`: the others take no part in anything. Needs a length that `landmarks`
    /// divides.
    pub keep: Option<Tensor<2, Bool>>,
    /// Iterations of the pseudo-inverse, 6 in the paper.
    pub iterations: usize,
    /// Where the pseudo-inverse begins.
    pub init: PinvInit,
}

/// What [`nystrom_attention`] gives: the result and its factors.
#[derive(Debug, Clone)]
pub struct Nystrom {
    /// `F·Z·B·V`: `[batch, heads, length, value_dim]`.
    pub context: Tensor<4>,
    /// Landmark queries to landmark keys: `[batch, heads, landmarks, landmarks]`.
    pub kernel_2: Tensor<4>,
    /// `Z`, the approximate inverse of `kernel_2`.
    pub pinv: Tensor<4>,
    queries: Side,
    keys: Side,
    scale: f64,
}

/// Rows, their landmarks, and what is added to the scores between these rows and the other side's landmarks.
#[derive(Debug, Clone)]
struct Side {
    rows: Tensor<4>,
    landmarks: Tensor<4>,
    bias: Option<Tensor<4>>,
}

impl Nystrom {
    /// `F`, queries to landmark keys: `[batch, heads, length, landmarks]`, computed for this call; the result is found
    /// without it.
    pub fn kernel_1(&self) -> Tensor<4> {
        let (rows, columns) = (&self.queries.rows, &self.keys.landmarks);
        weights(rows, columns, self.scale, self.queries.bias.clone())
    }

    /// `B`, landmark queries to keys: `[batch, heads, landmarks, length]`, computed for this call.
    pub fn kernel_3(&self) -> Tensor<4> {
        let (rows, columns) = (&self.queries.landmarks, &self.keys.rows);
        weights(rows, columns, self.scale, self.keys.bias.clone())
    }

    /// `F·Z`, `[batch, heads, length, landmarks]`: what the published models report as attention probabilities.
    pub fn probabilities(&self) -> Tensor<4> {
        self.kernel_1().matmul(self.pinv.clone())
    }

    /// `F·Z·B`, `[batch, heads, length, length]`: the approximated matrix itself, for measuring how good it is. Nothing else
    /// forms it.
    pub fn matrix(&self) -> Tensor<4> {
        self.probabilities().matmul(self.kernel_3())
    }
}

/// Attention through landmarks in time and memory linear in the length; see the [module](super).
///
/// Both wide factors are attentions of their own, so [`attention`] applies them to its values without storing them: the
/// landmark queries over all keys first, then all queries over the landmark keys.
///
/// A landmark query whose keys are all hidden by finite biases attends to all of them alike, as upstream's does.
///
/// # Errors
/// Shapes that do not fit together, and a number of landmarks that the length does not allow.
pub fn nystrom_attention(input: NystromAttention) -> Result<Nystrom> {
    check(&input)?;
    let (m, scale) = (input.landmarks, input.scale);
    let (queries, keys, value, middle) = match &input.keep {
        None => {
            let side = |rows: Tensor<4>, bias| -> Result<Side> {
                let landmarks = segment_means(rows.clone(), m)?;
                Ok(Side {
                    rows,
                    landmarks,
                    bias,
                })
            };
            let queries = side(input.query, None)?;
            (queries, side(input.key, input.key_bias)?, input.value, None)
        }
        Some(keep) => {
            let query = clear(input.query, keep);
            let key = clear(input.key, keep);
            let by_query = masked_segment_means(query.clone(), keep.clone(), m)?;
            let by_key = masked_segment_means(key.clone(), keep.clone(), m)?;
            let kept = by_query.kept;
            let hidden = pair_bias(&kept, keep, &key);
            let middle = pair_bias(&kept, &kept, &key);
            let queries = Side {
                rows: query,
                landmarks: by_query.means,
                bias: Some(pair_bias(keep, &kept, &key)),
            };
            let keys = Side {
                rows: key,
                landmarks: by_key.means,
                bias: Some(match input.key_bias {
                    Some(bias) => hidden + bias,
                    None => hidden,
                }),
            };
            (queries, keys, clear(input.value, keep), Some(middle))
        }
    };
    let kernel_2 = weights(&queries.landmarks, &keys.landmarks, scale, middle);
    let pinv = iterative_pinv(kernel_2.clone(), input.iterations, input.init)?;
    let seen = apply(
        &queries.landmarks,
        &keys.rows,
        value,
        scale,
        keys.bias.clone(),
    )?;
    let mixed = pinv.clone().matmul(seen);
    let (rows, columns) = (&queries.rows, &keys.landmarks);
    let context = apply(rows, columns, mixed, scale, queries.bias.clone())?;
    Ok(Nystrom {
        context,
        kernel_2,
        pinv,
        queries,
        keys,
        scale,
    })
}

/// `softmax(scale · rows·columnsᵀ + bias)`.
fn weights(
    rows: &Tensor<4>,
    columns: &Tensor<4>,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Tensor<4> {
    let transposed = columns.clone().swap_dims(2, 3);
    let scores = rows.clone().matmul(transposed).mul_scalar(scale);
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    masked_softmax(scores, None)
}

/// [`weights`] times `values`, without the weights: `[batch, heads, rows, value_dim]`.
fn apply(
    rows: &Tensor<4>,
    columns: &Tensor<4>,
    values: Tensor<4>,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Result<Tensor<4>> {
    let [batch, heads, count, _] = rows.dims();
    let [_, _, others, width] = values.dims();
    let flat = |x: Tensor<4>| -> Tensor<3> {
        let [_, _, rows, dim] = x.dims();
        x.swap_dims(1, 2).reshape([batch, rows, heads * dim])
    };
    let out = attention(Attention {
        query: flat(rows.clone()),
        key: flat(columns.clone()),
        value: flat(values),
        heads,
        mask: None,
        bias: bias.map(|bias| {
            let [b, h, _, _] = bias.dims();
            bias.expand([b, h, count, others])
        }),
        scale,
        dropout: Dropout::off(),
    })?;
    Ok(out.reshape([batch, count, heads, width]).swap_dims(1, 2))
}

/// The smallest finite number where row or column is not kept, `[batch, 1, rows, columns]`: a row without any kept column
/// becomes even, not NaN.
fn pair_bias(rows: &Tensor<2, Bool>, columns: &Tensor<2, Bool>, like: &Tensor<4>) -> Tensor<4> {
    let [batch, r] = rows.dims();
    let [_, c] = columns.dims();
    let device = like.device().without_autodiff();
    let none = Tensor::<4>::zeros([batch, 1, r, c], (&device, like.dtype()));
    hide_pairs(none, rows, columns)
}

/// Scores with the smallest finite number where row or column is not kept: a row without any kept column becomes even, not
/// NaN.
pub(super) fn hide_pairs(
    scores: Tensor<4>,
    rows: &Tensor<2, Bool>,
    columns: &Tensor<2, Bool>,
) -> Tensor<4> {
    let [batch, heads, r, c] = scores.dims();
    let all = [batch, heads, r, c];
    let row = rows.clone().bool_not().reshape([batch, 1, r, 1]);
    let column = columns.clone().bool_not().reshape([batch, 1, 1, c]);
    let hidden = row.expand(all).bool_or(column.expand(all));
    scores.mask_fill(hidden, f64::from(f32::MIN))
}

pub(super) fn check(input: &NystromAttention) -> Result<()> {
    let [batch, heads, length, dim] = input.query.dims();
    if batch * heads * length * dim == 0 {
        let expected = "[batch, heads, length, head_dim], none of them 0";
        return Err(shape(OP, "query", &input.query.dims(), expected));
    }
    if input.key.dims() != input.query.dims() {
        let expected = format!("[{batch}, {heads}, {length}, {dim}], as `query`");
        return Err(shape(OP, "key", &input.key.dims(), expected));
    }
    if input.value.dims()[..3] != [batch, heads, length] {
        let expected = format!("[{batch}, {heads}, {length}, value_dim]");
        return Err(shape(OP, "value", &input.value.dims(), expected));
    }
    if let Some(bias) = &input.key_bias {
        let [b, h, r, n] = bias.dims();
        if (b != 1 && b != batch) || (h != 1 && h != heads) || r != 1 || n != length {
            let expected = format!("[{batch} or 1, {heads} or 1, 1, {length}]");
            return Err(shape(OP, "key_bias", &bias.dims(), expected));
        }
    }
    if let Some(keep) = &input.keep {
        if keep.dims() != [batch, length] {
            let expected = format!("[{batch}, {length}] (batch, length)");
            return Err(shape(OP, "keep", &keep.dims(), expected));
        }
        if input.landmarks == 0 || !length.is_multiple_of(input.landmarks) {
            let expected = format!("expected a divisor of {length}, the length, with `keep`");
            return Err(wrong(OP, "landmarks", input.landmarks, expected));
        }
    }
    Ok(())
}
