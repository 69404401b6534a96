//! The same functions, composed of tensor operations, on any backend.

use super::Gelu;
use burn::prelude::*;
use burn::tensor::activation::log_softmax;

/// [`super::layer_norm`] by its composition of tensor operations.
pub fn layer_norm_naive<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let centred = x.clone() - x.mean_dim(D - 1);
    let variance = centred.clone().square().mean_dim(D - 1);
    centred / variance.add_scalar(epsilon).sqrt() * gamma.unsqueeze() + beta.unsqueeze()
}

/// [`super::gelu`] by its composition of tensor operations.
pub fn gelu_naive<const D: usize>(x: Tensor<D>, bias: Option<Tensor<1>>, kind: Gelu) -> Tensor<D> {
    let x = match bias {
        Some(bias) => x + bias.unsqueeze(),
        None => x,
    };
    let half = match kind {
        Gelu::Exact => x.clone().div_scalar(std::f64::consts::SQRT_2).erf(),
        Gelu::Tanh => {
            let cubed = x.clone() * x.clone() * x.clone();
            let inner = x.clone() + cubed.mul_scalar(0.044_715);
            inner.mul_scalar((2.0 / std::f64::consts::PI).sqrt()).tanh()
        }
    };
    x * half.add_scalar(1.0).mul_scalar(0.5)
}

/// [`super::cross_entropy`] by its composition of tensor operations.
pub fn cross_entropy_naive(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1)
        .gather(1, targets.unsqueeze_dim::<2>(1))
        .squeeze_dim::<1>(1)
        .neg()
}
