//! Relative attention as the papers write it: the key of every distance looked up for every query and key.

use super::{Attended, Plan, RelativeAttention, cat};
use crate::dropout::dropout_naive;
use crate::error::Result;
use crate::softmax::masked_softmax_naive;
use burn::prelude::*;

/// [`super::relative_attention`] with an explicit index for every query and key, on any backend. It always gives the weights.
///
/// # Errors
/// As [`super::relative_attention`].
pub fn relative_attention_naive(input: RelativeAttention) -> Result<Attended> {
    let plan = Plan::new(&input)?;
    let (b, n, h, d) = (plan.batch, plan.queries, plan.heads, plan.head_dim);
    let device = input.query.device();
    let clear = |rows: Tensor<3>| match &input.mask {
        Some(mask) => mask.clear_padding(rows),
        None => rows,
    };
    let content = match &input.content_bias {
        Some(u) => input.query.clone() + u.clone().reshape([1, 1, h * d]),
        None => input.query.clone(),
    };
    let mut scores = vec![];
    let mut values = vec![];
    let mut at = 0;
    let keys: Vec<Tensor<3>> = input.segments.iter().map(|s| s.key.clone()).collect();
    let keys = clear(cat(keys, 1));
    for segment in &input.segments {
        let [reach, _] = segment.relative.dims();
        let [_, rows, _] = segment.key.dims();
        let key = plan.split(keys.clone().narrow(1, at, rows));
        let by_content = plan.split(content.clone()).matmul(key.swap_dims(2, 3));
        // Query i and key j meet at row j + (n − 1 − i) of the relative keys; rows past the end are after the query.
        let pairs = || (0..n).flat_map(|i| (0..rows).map(move |j| j + (n - 1 - i)));
        let index: Vec<i32> = pairs().map(|row| row.min(reach - 1) as i32).collect();
        let inside: Vec<f32> = pairs()
            .map(|row| f32::from(u8::from(row < reach)))
            .collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [n * rows]), &device);
        let inside = TensorData::new(inside, [1, 1, n, rows]);
        let inside = Tensor::<4>::from_data(inside, &device.clone().without_autodiff());
        let relative = segment.relative.clone().select(0, index);
        let relative = relative.reshape([1, n, rows, h, d]);
        let mut query = input.query.clone().reshape([b, n, 1, h, d]);
        if let Some(w) = &segment.bias {
            query = query + w.clone().reshape([1, 1, 1, h, d]);
        }
        let by_position: Tensor<4> = (query * relative).sum_dim(4).squeeze_dim(4);
        scores.push(by_content + by_position.permute([0, 3, 1, 2]) * inside);
        values.push(segment.value.clone());
        at += rows;
    }
    let mut scores = cat(scores, 3);
    if let Some(bias) = input.bias.clone() {
        scores = scores + bias;
    }
    let weights = masked_softmax_naive(scores, input.mask.as_ref());
    let dropped = dropout_naive(weights.clone(), input.dropout);
    let out = plan.join(dropped.matmul(plan.split(clear(cat(values, 1)))));
    Ok(Attended {
        out,
        weights: Some(weights),
    })
}
