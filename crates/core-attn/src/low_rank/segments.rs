//! Landmarks as means of runs of rows (section 3.2 of the paper).

use crate::error::{Result, shape, value};
use burn::prelude::*;

const OP: &str = "segment_means";

/// How many rows each of `segments` runs takes of `rows`: with `s = ⌊rows / segments⌋`, the first runs have `s` rows and,
/// where it does not divide, the last `rows mod segments` have `s + 1`.
///
/// # Errors
/// No segments, or more segments than rows.
pub fn segment_lengths(rows: usize, segments: usize) -> Result<Vec<usize>> {
    if segments == 0 || segments > rows {
        let expected = format!("expected 1 to {rows}, the number of rows");
        return Err(value(OP, "segments", segments, expected));
    }
    let short = rows / segments;
    let first = segments - rows % segments;
    Ok((0..segments)
        .map(|i| short + usize::from(i >= first))
        .collect())
}

/// The mean of each run of rows: `[batch, heads, length, dim]` to `[batch, heads, segments, dim]`. The runs are those of
/// [`segment_lengths`].
///
/// # Errors
/// No segments, or more segments than rows.
pub fn segment_means(x: Tensor<4>, segments: usize) -> Result<Tensor<4>> {
    let [batch, heads, rows, dim] = x.dims();
    let lengths = segment_lengths(rows, segments)?;
    let short = lengths[0];
    let first = lengths.iter().filter(|l| **l == short).count();
    let means = |x: Tensor<4>, from: usize, count: usize, length: usize| -> Tensor<4> {
        x.narrow(2, from, count * length)
            .reshape([batch, heads, count, length, dim])
            .mean_dim(3)
            .reshape([batch, heads, count, dim])
    };
    if first == segments {
        return Ok(means(x, 0, segments, short));
    }
    let front = means(x.clone(), 0, first, short);
    let back = means(x, first * short, segments - first, short + 1);
    Ok(Tensor::cat(vec![front, back], 2))
}

/// Landmarks over the rows that are no padding.
#[derive(Debug, Clone)]
pub struct MaskedMeans {
    /// Sum over the kept rows of a run, divided by their number + 10⁻⁸: `[batch, heads, segments, dim]`.
    pub means: Tensor<4>,
    /// Whether a run holds a kept row: `[batch, segments]`.
    pub kept: Tensor<2, Bool>,
}

/// [`segment_means`] over the rows where `keep` `[batch, length]` is true; what the others hold, NaN included, reaches
/// nothing.
///
/// # Errors
/// A length that `segments` does not divide (pad it on the left), or a mask of another shape.
pub fn masked_segment_means(
    x: Tensor<4>,
    keep: Tensor<2, Bool>,
    segments: usize,
) -> Result<MaskedMeans> {
    let [batch, heads, rows, dim] = x.dims();
    if segments == 0 || !rows.is_multiple_of(segments) || rows == 0 {
        let expected = format!("expected a divisor of {rows}, the number of rows");
        return Err(value(OP, "segments", segments, expected));
    }
    if keep.dims() != [batch, rows] {
        let expected = format!("[{batch}, {rows}] (batch, length)");
        return Err(shape(OP, "keep", &keep.dims(), expected));
    }
    let length = rows / segments;
    let sums = clear(x, &keep)
        .reshape([batch, heads, segments, length, dim])
        .sum_dim(3)
        .reshape([batch, heads, segments, dim]);
    let device = sums.device().without_autodiff();
    let ones = Tensor::<2>::ones([batch, rows], (&device, sums.dtype()));
    let counts = ones
        .mask_fill(keep.bool_not(), 0.0)
        .reshape([batch, segments, length])
        .sum_dim(2)
        .reshape([batch, segments]);
    let kept = counts.clone().greater_elem(0.0);
    let divisor = counts.add_scalar(1e-8).reshape([batch, 1, segments, 1]);
    Ok(MaskedMeans {
        means: sums / divisor,
        kept,
    })
}

/// `x` with zeros where `keep` is false.
pub(super) fn clear(x: Tensor<4>, keep: &Tensor<2, Bool>) -> Tensor<4> {
    let [batch, heads, rows, dim] = x.dims();
    let hidden = keep
        .clone()
        .bool_not()
        .reshape([batch, 1, rows, 1])
        .expand([batch, heads, rows, dim]);
    x.mask_fill(hidden, 0.0)
}
