//! Every kernel of this module as its formula is written: what the fast versions are tested against.

use super::nystrom::{NystromAttention, check, hide_pairs};
use super::pinv::{PinvInit, start};
use super::segments::{clear, segment_lengths};
use crate::error::Result;
use crate::softmax::masked_softmax_naive;
use burn::prelude::*;

/// The matrix `[1, 1, segments, rows]` that takes means of runs of rows.
fn averaging(rows: usize, segments: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
    let mut weights = vec![0.0f32; segments * rows];
    let mut from = 0;
    for (i, length) in segment_lengths(rows, segments)?.into_iter().enumerate() {
        weights[i * rows + from..][..length].fill(1.0 / length as f32);
        from += length;
    }
    let device = like.device().without_autodiff();
    let data = TensorData::new(weights, [1, 1, segments, rows]);
    Ok(Tensor::from_data(data, (&device, like.dtype())))
}

/// [`super::segment_means`] as a product with a matrix of weights.
///
/// # Errors
/// As [`super::segment_means`].
pub fn segment_means_naive(x: Tensor<4>, segments: usize) -> Result<Tensor<4>> {
    let [batch, heads, rows, _] = x.dims();
    let weights = averaging(rows, segments, &x)?;
    Ok(weights.expand([batch, heads, segments, rows]).matmul(x))
}

/// [`super::iterative_pinv`] with the identity written out.
///
/// # Errors
/// As [`super::iterative_pinv`].
pub fn iterative_pinv_naive(a: Tensor<4>, iterations: usize, init: PinvInit) -> Result<Tensor<4>> {
    let mut z = start(&a, init)?;
    let [_, _, m, _] = a.dims();
    let device = a.device().without_autodiff();
    let eye = Tensor::<2>::eye(m, &device)
        .cast(a.dtype())
        .unsqueeze::<4>();
    let eye = |factor: f64| eye.clone().mul_scalar(factor);
    for _ in 0..iterations {
        let t = a.clone().matmul(z.clone());
        let inner = eye(7.0) - t.clone();
        let inner = eye(15.0) - t.clone().matmul(inner);
        let inner = eye(13.0) - t.matmul(inner);
        z = z.matmul(inner).mul_scalar(0.25);
    }
    Ok(z)
}

/// [`super::time_convolution`] as a sum of shifted copies, one per place of the filter.
///
/// # Errors
/// As [`super::time_convolution`].
pub fn time_convolution_naive(value: Tensor<4>, weight: Tensor<2>) -> Result<Tensor<4>> {
    super::convolution::check(&value, &weight)?;
    let [batch, heads, length, dim] = value.dims();
    let [_, size] = weight.dims();
    let half = size / 2;
    let device = value.device().without_autodiff();
    let border = Tensor::<4>::zeros([batch, heads, half, dim], (&device, value.dtype()));
    let padded = Tensor::cat(vec![border.clone(), value, border], 2);
    let mut sum: Option<Tensor<4>> = None;
    for s in 0..size {
        let factor = weight.clone().narrow(1, s, 1).reshape([1, heads, 1, 1]);
        let part = padded.clone().narrow(2, s, length) * factor;
        sum = Some(match sum {
            Some(sum) => sum + part,
            None => part,
        });
    }
    // `check` refuses a filter without places.
    Ok(sum.unwrap_or(padded))
}

/// What [`nystrom_attention_naive`] gives.
#[derive(Debug, Clone)]
pub struct NaiveNystrom {
    /// `matrix·V`: `[batch, heads, length, value_dim]`.
    pub context: Tensor<4>,
    /// Queries to landmark keys: `[batch, heads, length, landmarks]`.
    pub kernel_1: Tensor<4>,
    /// Landmark queries to landmark keys: `[batch, heads, landmarks, landmarks]`.
    pub kernel_2: Tensor<4>,
    /// Landmark queries to keys: `[batch, heads, landmarks, length]`.
    pub kernel_3: Tensor<4>,
    /// The approximate inverse of `kernel_2`.
    pub pinv: Tensor<4>,
    /// The approximated softmax: `[batch, heads, length, length]`.
    pub matrix: Tensor<4>,
}

/// [`super::nystrom_attention`] with the `[length, length]` matrix in between.
///
/// # Errors
/// As [`super::nystrom_attention`].
pub fn nystrom_attention_naive(input: NystromAttention) -> Result<NaiveNystrom> {
    check(&input)?;
    let [batch, heads, length, _] = input.query.dims();
    let m = input.landmarks;
    let query = input.query.mul_scalar(input.scale);
    let parts = |x: Tensor<4>| -> Result<(Tensor<4>, Tensor<4>)> {
        match &input.keep {
            None => Ok((x.clone(), segment_means_naive(x, m)?)),
            Some(keep) => {
                let x = clear(x, keep);
                // Means over the kept rows from means over all rows.
                let all = segment_means_naive(x.clone(), m)?;
                let share = kept_share(keep, m, &all)?;
                Ok((x, all / share.expand([batch, heads, m, 1])))
            }
        }
    };
    let (query, landmark_query) = parts(query)?;
    let (key, landmark_key) = parts(input.key)?;
    let value = match &input.keep {
        Some(keep) => clear(input.value, keep),
        None => input.value,
    };
    let mut scores = [
        query.matmul(landmark_key.clone().swap_dims(2, 3)),
        landmark_query.clone().matmul(landmark_key.swap_dims(2, 3)),
        landmark_query.matmul(key.swap_dims(2, 3)),
    ];
    if let Some(keep) = &input.keep {
        let kept = kept_share(keep, m, &scores[0])?
            .reshape([batch, m])
            .greater_elem(1e-6);
        let [a, b, c] = scores;
        scores = [
            hide_pairs(a, keep, &kept),
            hide_pairs(b, &kept, &kept),
            hide_pairs(c, &kept, keep),
        ];
    }
    let [a, b, mut c] = scores;
    if let Some(bias) = input.key_bias {
        c = c + bias.expand([batch, heads, m, length]);
    }
    let [kernel_1, kernel_2, kernel_3] = [a, b, c].map(|s| masked_softmax_naive(s, None));
    let pinv = iterative_pinv_naive(kernel_2.clone(), input.iterations, input.init)?;
    let matrix = kernel_1
        .clone()
        .matmul(pinv.clone())
        .matmul(kernel_3.clone());
    Ok(NaiveNystrom {
        context: matrix.clone().matmul(value),
        kernel_1,
        kernel_2,
        kernel_3,
        pinv,
        matrix,
    })
}

/// Share of kept rows in each run, a little above 0: `[batch, 1, segments, 1]`.
fn kept_share(keep: &Tensor<2, Bool>, segments: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
    let [batch, rows] = keep.dims();
    let device = like.device().without_autodiff();
    let ones = Tensor::<2>::ones([batch, rows], (&device, like.dtype()));
    let ones = ones.mask_fill(keep.clone().bool_not(), 0.0);
    let share = segment_means_naive(ones.reshape([batch, 1, rows, 1]), segments)?;
    Ok(share.add_scalar(1e-8 * segments as f64 / rows as f64))
}
