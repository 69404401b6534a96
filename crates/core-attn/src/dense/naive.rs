//! Attention as the papers write it, one tensor operation after the other.

use super::{Attention, Plan, additive, clear_padding};
use crate::error::Result;
use crate::softmax::masked_softmax_naive;
use burn::prelude::*;

/// [`super::attention`] by its composition of tensor operations, on any backend.
///
/// # Errors
/// As [`super::attention`].
pub fn attention_naive(input: Attention) -> Result<Tensor<3>> {
    let plan = Plan::new(&input)?;
    Ok(compose(clear_padding(input), &plan))
}

pub(super) fn compose(input: Attention, plan: &Plan) -> Tensor<3> {
    let (b, h, q, k) = (plan.batch, plan.heads, plan.queries, plan.keys);
    let split = |x: Tensor<3>, d: usize| {
        let [_, rows, _] = x.dims();
        x.reshape([b, rows, h, d]).swap_dims(1, 2)
    };
    let bias = additive(&input);
    let query = split(input.query, plan.head_dim);
    let key = split(input.key, plan.head_dim);
    let value = split(input.value, plan.value_dim);
    let mut scores = query.matmul(key.swap_dims(2, 3)).mul_scalar(input.scale);
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    let mut weights = masked_softmax_naive(scores, None);
    if plan.dropout.active() {
        let factors = TensorData::new(plan.dropout.factors(b * h * q * k), [b, h, q, k]);
        weights =
            weights.clone() * Tensor::from_data(factors, (&weights.device(), weights.dtype()));
    }
    let out = weights.matmul(value);
    out.swap_dims(1, 2).reshape([b, q, h * plan.value_dim])
}
