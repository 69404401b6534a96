//! A convolution along time, one filter per head shared by the head's channels (section 3.3 of the paper).

use crate::error::{Result, shape, value as wrong};
use burn::prelude::*;

const OP: &str = "time_convolution";

/// `out[t] = Σ_s weight[s] · value[t + s − size/2]` with zeros beyond both ends: `[batch, heads, length, dim]` with filters
/// `[heads, size]`, `size` odd.
///
/// On flex and ndarray this is one operation that reads each row where it lies; elsewhere it is
/// [`super::time_convolution_naive`].
///
/// # Errors
/// An even size, and shapes that do not fit together.
pub fn time_convolution(value: Tensor<4>, weight: Tensor<2>) -> Result<Tensor<4>> {
    check(&value, &weight)?;
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::has_kernels(&value) && crate::cpu::has_kernels(&weight) {
        return Ok(super::kernel::time_convolution(value, weight));
    }
    super::time_convolution_naive(value, weight)
}

pub(super) fn check(value: &Tensor<4>, weight: &Tensor<2>) -> Result<()> {
    let [batch, heads, length, dim] = value.dims();
    let [filters, size] = weight.dims();
    if batch * heads * length * dim == 0 {
        let expected = "[batch, heads, length, dim], none of them 0";
        return Err(shape(OP, "value", &value.dims(), expected));
    }
    if filters != heads {
        let expected = format!("[{heads}, size] (heads, size)");
        return Err(shape(OP, "weight", &weight.dims(), expected));
    }
    if size.is_multiple_of(2) {
        let expected = "expected an odd number, so that a filter has a middle";
        return Err(wrong(OP, "size", size, expected));
    }
    Ok(())
}
