//! Activation functions by Hugging Face's names.

use crate::error::{Result, config_error};
use burn::prelude::*;
use burn::tensor::activation::{relu, sigmoid};

/// The function between the two maps of a feed-forward layer, and in some heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)` with the exact error function.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`.
    GeluTanh,
    /// `max(0, x)`.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// `x · σ(x)`.
    Silu,
}

impl Activation {
    /// The function that a `hidden_act` names.
    ///
    /// # Errors
    /// A name that is not among those supported.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => Self::GeluTanh,
            "relu" => Self::Relu,
            "tanh" => Self::Tanh,
            "silu" | "swish" => Self::Silu,
            _ => {
                return Err(config_error(
                    "hidden_act",
                    format!("{name:?}"),
                    "expected gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, tanh, silu or swish",
                ));
            }
        })
    }

    /// Applies the function to every element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::Relu => relu(x),
            Self::Tanh => x.tanh(),
            Self::Silu => x.clone() * sigmoid(x),
        }
    }
}

/// Exact GELU, `x · (erf(x/√2) + 1) / 2`.
///
/// It is composed of tensor operations: Burn's own GELU has the derivative of the tanh form on some backends.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let phi = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
    x * phi * 0.5
}

/// The tanh form of GELU.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let inner = (x.clone().powi_scalar(2) * 0.044715 + 1.0) * x.clone();
    let tanh = (inner * (2.0 / std::f64::consts::PI).sqrt()).tanh();
    x * (tanh + 1.0) * 0.5
}
