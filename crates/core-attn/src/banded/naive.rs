//! Banded attention as the paper writes it: all columns of all heads, one tensor operation after the other.

use super::{BandedAttention, Plan, SpanMask};
use crate::error::Result;
use burn::prelude::*;
use burn::tensor::activation::softmax;

/// [`super::banded_attention`] by its composition of tensor operations, on any backend.
///
/// # Errors
/// As [`super::banded_attention`].
pub fn banded_attention_naive(input: BandedAttention) -> Result<Tensor<3>> {
    let plan = Plan::new(&input)?;
    Ok(compose(input, &plan))
}

/// Rectangle to band: `[a, b, query, window + query]` to `[a, b, query, window]`, where row `m` keeps columns
/// `m .. m + window`. The buffer is read with lines one element longer than they are.
pub fn unskew(rectangle: Tensor<4>) -> Tensor<4> {
    let [a, b, m, columns] = rectangle.dims();
    let window = columns - m;
    let flat = rectangle.reshape([a, b, m * columns]);
    let padding = Tensor::zeros([a, b, m], (&flat.device(), flat.dtype()));
    Tensor::cat(vec![flat, padding], 2)
        .reshape([a, b, m, columns + 1])
        .narrow(3, 0, window)
}

/// Band to rectangle: `[a, b, query, window]` to `[a, b, query, window + query]`, zero outside the band. The inverse of
/// [`unskew`] on the band.
pub fn skew(band: Tensor<4>) -> Tensor<4> {
    let [a, b, m, window] = band.dims();
    let padding = Tensor::zeros([a, b, m, m + 1], (&band.device(), band.dtype()));
    Tensor::cat(vec![band, padding], 3)
        .reshape([a, b, m * (window + m + 1)])
        .narrow(2, 0, m * (window + m))
        .reshape([a, b, m, window + m])
}

pub(super) fn compose(input: BandedAttention, plan: &Plan) -> Tensor<3> {
    let (b, m, k, d) = (plan.batch, plan.queries, plan.heads, plan.head_dim);
    let window = plan.window;
    let split = |x: Tensor<3>| {
        let [_, rows, _] = x.dims();
        x.reshape([b, rows, k, d]).swap_dims(1, 2)
    };
    // Rows no band reaches are cut first: they may hold anything.
    let rows = (window + m).min(plan.keys - plan.first_key());
    let cut = |x: Tensor<3>| x.narrow(1, plan.first_key(), rows);
    let query = split(input.query);
    let mut key = split(cut(input.key));
    let mut value = split(cut(input.value));
    if rows < window + m {
        // With `Nearest::Previous` the last row of the block is no query's key; the rectangle wants a column for it all the
        // same.
        let blank = Tensor::zeros([b, k, 1, d], (&key.device(), key.dtype()));
        key = Tensor::cat(vec![key, blank.clone()], 2);
        value = Tensor::cat(vec![value, blank], 2);
    }
    let mut scores = unskew(query.clone().matmul(key.swap_dims(2, 3)));
    if let Some(table) = input.relative {
        scores = scores + query.clone().matmul(table.unsqueeze());
    }
    let mut scores = scores.mul_scalar(input.scale);
    let mask = input.span.as_ref().map(|s| match &s.mask {
        SpanMask::PerHead(mask) => mask.clone().reshape([1, k, 1, window]),
        SpanMask::PerQuery(mask) => mask.clone(),
    });
    if let Some(mask) = &mask {
        let hidden = mask.clone().lower_equal_elem(0.0).expand([b, k, m, window]);
        scores = scores.mask_fill(hidden, f64::NEG_INFINITY);
    }
    let mut columns = vec![scores];
    if let Some(p) = &input.persistent {
        let extra = query.matmul(p.key.clone().unsqueeze());
        columns.push(extra.mul_scalar(input.scale));
    }
    let weights = softmax(Tensor::cat(columns, 3), 3);
    let mut context = weights.clone().narrow(3, 0, window);
    let mut extra = (plan.persistent > 0).then(|| weights.narrow(3, window, plan.persistent));
    if let (Some(mask), Some(span)) = (mask, &input.span) {
        context = context * mask;
        let mut total = context.clone().sum_dim(3);
        if let Some(extra) = &extra {
            total = total + extra.clone().sum_dim(3);
        }
        let total = total.add_scalar(span.epsilon);
        context = context / total.clone();
        extra = extra.map(|e| e / total);
    }
    if plan.dropout.active() {
        let (f, g) = dropout_factors(plan);
        let options = (&context.device(), context.dtype());
        context = context * Tensor::from_data(f, options);
        extra = extra.map(|e| e * Tensor::from_data(g, options));
    }
    let mut out = skew(context).matmul(value);
    if let (Some(extra), Some(p)) = (extra, input.persistent) {
        out = out + extra.matmul(p.value.unsqueeze());
    }
    out.swap_dims(1, 2).reshape([b, m, k * d])
}

/// The factors that the kernel asks for element by element, as `[batch, heads, query, window]` and
/// `[batch, heads, query, vectors]`.
fn dropout_factors(plan: &Plan) -> (TensorData, TensorData) {
    let rows = (plan.batch * plan.heads * plan.queries) as u64;
    let window = plan.window as u64;
    let keep = plan.dropout;
    let band = (0..rows)
        .flat_map(|r| (0..window).map(move |l| keep.factor(r << 32 | (window - 1 - l))))
        .collect::<Vec<f32>>();
    let extra = (0..rows)
        .flat_map(|r| (0..plan.persistent as u64).map(move |j| keep.factor(r << 32 | 1 << 31 | j)))
        .collect::<Vec<f32>>();
    let (b, k, m) = (plan.batch, plan.heads, plan.queries);
    (
        TensorData::new(band, [b, k, m, plan.window]),
        TensorData::new(extra, [b, k, m, plan.persistent]),
    )
}
