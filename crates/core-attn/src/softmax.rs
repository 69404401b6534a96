//! Softmax over rows in which everything may be hidden.

use crate::mask::Mask;
use burn::prelude::*;

/// Softmax of `[batch, heads, query, key]` scores over the visible keys. A row that sees nothing is all zeros, and so is
/// its gradient; hidden scores may hold anything, NaN included.
pub fn masked_softmax(scores: Tensor<4>, mask: Option<&Mask>) -> Tensor<4> {
    let scores = hide(scores, mask);
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::has_kernels(&scores) {
        return crate::kernels::softmax(scores);
    }
    compose(scores)
}

/// [`masked_softmax`] by its composition of tensor operations, on any backend.
pub fn masked_softmax_naive(scores: Tensor<4>, mask: Option<&Mask>) -> Tensor<4> {
    compose(hide(scores, mask))
}

/// Softmax of every row of `row` elements; a row of −∞ becomes zeros.
#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(crate) fn rows(x: &[f32], row: usize) -> Vec<f32> {
    use crate::cpu::simd::{Task, dispatch};
    use rayon::prelude::*;

    struct Rows<'a>(&'a mut [f32], usize);
    impl Task for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for row in self.0.chunks_exact_mut(self.1) {
                crate::dense::softmax_row::<FMA>(row);
            }
        }
    }

    let mut out = x.to_vec();
    let chunk = (1 << 15) / row.max(1) * row;
    out.par_chunks_mut(chunk.max(row).max(1))
        .for_each(|rows| dispatch(Rows(rows, row.max(1))));
    out
}

/// Gradient of [`rows`] from its output: `y·(g − Σ g·y)`.
#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(crate) fn rows_backward(y: &[f32], grad: &[f32], row: usize) -> Vec<f32> {
    use crate::cpu::simd::{Task, dispatch, sum2};
    use rayon::prelude::*;

    struct Rows<'a>(&'a mut [f32], &'a [f32], usize);
    impl Task for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let rows = self.0.chunks_exact_mut(self.2);
            for (g, y) in rows.zip(self.1.chunks_exact(self.2)) {
                let inner = sum2(g, y, |a, b| a * b);
                for (g, y) in g.iter_mut().zip(y) {
                    *g = (*g - inner) * y;
                }
            }
        }
    }

    let mut out = grad.to_vec();
    let row = row.max(1);
    let chunk = ((1 << 15) / row * row).max(row);
    out.par_chunks_mut(chunk)
        .zip(y.par_chunks(chunk))
        .for_each(|(g, y)| dispatch(Rows(g, y, row)));
    out
}

fn hide(scores: Tensor<4>, mask: Option<&Mask>) -> Tensor<4> {
    match mask {
        Some(mask) => {
            let hidden = mask.hidden().expand(scores.dims());
            scores.mask_fill(hidden, f64::NEG_INFINITY)
        }
        None => scores,
    }
}

fn compose(scores: Tensor<4>) -> Tensor<4> {
    let top = scores.clone().detach().max_dim(3);
    // A row without a finite score would be −∞ − (−∞).
    let blind = top.clone().lower_elem(f64::from(f32::MIN));
    let e = (scores - top.mask_fill(blind.clone(), 0.0)).exp();
    let total = e.clone().sum_dim(3).mask_fill(blind, 1.0);
    e / total
}
