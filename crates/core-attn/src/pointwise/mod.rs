//! What stands between the matrix products: normalisation, activation, loss.
//!
//! Composed of tensor operations each of these walks over memory many times and calls a scalar `erf` or `exp` per element;
//! as one operation with its own backward pass it walks once.

#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
mod naive;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod ops;

pub use naive::{cross_entropy_naive, gelu_naive, layer_norm_naive};

use crate::error::{Result, shape};
use crate::init;
use burn::module::{Module, Param};
use burn::prelude::*;

/// Layer normalisation with its parameters.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`, starts at 1.
    pub gamma: Param<Tensor<1>>,
    /// `[width]`, starts at 0.
    pub beta: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    /// Normalisation of vectors of this width; `epsilon` is added to the variance.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            gamma: init::constant([width], 1.0, device),
            beta: init::constant([width], 0.0, device),
            epsilon,
        }
    }

    /// Normalises the last dimension.
    ///
    /// # Errors
    /// `x` of another width.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}

/// Which function is called GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gelu {
    /// `x·Φ(x)` with the error function (Hendrycks and Gimpel 2016).
    #[default]
    Exact,
    /// The approximation `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, called `gelu_new` in checkpoints.
    Tanh,
}

/// Normalises the last dimension to mean 0 and variance 1 (biased, plus `epsilon`), then scales by `gamma` and shifts by
/// `beta`, both `[width]` (Ba et al. 2016).
///
/// # Errors
/// `gamma` or `beta` of another width than `x`.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Result<Tensor<D>> {
    let width = x.dims()[D - 1];
    for (name, t) in [("gamma", &gamma), ("beta", &beta)] {
        if t.dims() != [width] {
            return Err(shape(
                "layer_norm",
                name,
                &t.dims(),
                format!("[{width}], the width of x"),
            ));
        }
    }
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::has_kernels(&x) && width > 0 {
        return Ok(ops::layer_norm(x, gamma, beta, epsilon as f32));
    }
    Ok(layer_norm_naive(x, gamma, beta, epsilon))
}

/// GELU of `x + bias`, where `bias` `[width]` is added along the last dimension if it is there.
///
/// # Errors
/// A bias of another width than `x`.
pub fn gelu<const D: usize>(
    x: Tensor<D>,
    bias: Option<Tensor<1>>,
    kind: Gelu,
) -> Result<Tensor<D>> {
    let width = x.dims()[D - 1];
    if let Some(bias) = &bias
        && bias.dims() != [width]
    {
        return Err(shape(
            "gelu",
            "bias",
            &bias.dims(),
            format!("[{width}], the width of x"),
        ));
    }
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::has_kernels(&x) && width > 0 {
        return Ok(ops::gelu(x, bias, kind));
    }
    Ok(gelu_naive(x, bias, kind))
}

/// Negative log-likelihood in nats of `targets` `[rows]` under the softmax of `logits` `[rows, classes]`: `[rows]`.
///
/// The softmax itself is never stored. A target outside `0..classes` gives NaN in its row.
///
/// # Errors
/// Another number of targets than of rows.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Result<Tensor<1>> {
    let [rows, classes] = logits.dims();
    if targets.dims() != [rows] {
        let expected = format!("[{rows}], one per row of logits");
        return Err(shape("cross_entropy", "targets", &targets.dims(), expected));
    }
    // Ids travel as floats, which are exact up to 2^24.
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::has_kernels(&logits) && classes > 0 && classes < 1 << 24 {
        return Ok(ops::cross_entropy(logits, targets.float()));
    }
    Ok(cross_entropy_naive(logits, targets))
}
