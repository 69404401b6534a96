//! Relative positions.

use burn::prelude::*;

/// Turns scores by relative offset into scores by key (Dai et al. 2019, appendix B).
///
/// Input `[batch, heads, query, key]`, where column `c` of row `i` is the score at distance `key − 1 − c` from the query;
/// output the same shape, where column `j` is the score of key `j` and the last query stands at the last key. Keys after
/// the query get 0.
pub fn relative_shift(scores: Tensor<4>) -> Tensor<4> {
    let [b, h, q, k] = scores.dims();
    let device = scores.device();
    let blank = Tensor::zeros([b, h, q, 1], (&device, scores.dtype()));
    let shifted = Tensor::cat(vec![blank, scores], 3)
        .reshape([b, h, k + 1, q])
        .narrow(2, 1, k)
        .reshape([b, h, q, k]);
    let after = Tensor::<2, Bool>::tril_mask([q, k], k as i64 - q as i64, &device);
    shifted.mask_fill(after.unsqueeze::<4>().expand([b, h, q, k]), 0.0)
}

/// [`relative_shift`] by an explicit index for every element.
pub fn relative_shift_naive(scores: Tensor<4>) -> Tensor<4> {
    let [b, h, q, k] = scores.dims();
    let device = scores.device();
    let column = |i: usize, j: usize| j + (q - 1 - i);
    let index: Vec<i32> = (0..q)
        .flat_map(|i| (0..k).map(move |j| column(i, j).min(k - 1) as i32))
        .collect();
    let after: Vec<bool> = (0..q)
        .flat_map(|i| (0..k).map(move |j| column(i, j) >= k))
        .collect();
    let index = Tensor::<2, Int>::from_data(TensorData::new(index, [q, k]), &device);
    let after = Tensor::<2, Bool>::from_data(TensorData::new(after, [q, k]), &device);
    scores
        .gather(3, index.unsqueeze::<4>().expand([b, h, q, k]))
        .mask_fill(after.unsqueeze::<4>().expand([b, h, q, k]), 0.0)
}
