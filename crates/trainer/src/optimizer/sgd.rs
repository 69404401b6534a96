//! Stochastic gradient descent.

use super::{Hyper, Rule, Slots};
use burn::tensor::Tensor;

/// With g' = g + weight_decay·p: b ← g' at the first update, else momentum·b + (1 − dampening)·g'; the direction is
/// g' + momentum·b with Nesterov and b without; p ← p − lr · direction.
pub(crate) struct Sgd {
    pub momentum: f64,
    pub dampening: f64,
    pub nesterov: bool,
}

impl Rule for Sgd {
    fn slots(&self) -> &'static [&'static str] {
        &["momentum_buffer"]
    }

    fn update(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        let gradient = decayed(hyper.weight_decay, &param, gradient);
        if self.momentum == 0.0 {
            return param - gradient.mul_scalar(hyper.lr);
        }
        let buffer = match slots.remove("momentum_buffer") {
            Some(buffer) => {
                buffer.mul_scalar(self.momentum) + gradient.clone().mul_scalar(1.0 - self.dampening)
            }
            None => gradient.clone(),
        };
        let direction = if self.nesterov {
            gradient + buffer.clone().mul_scalar(self.momentum)
        } else {
            buffer.clone()
        };
        slots.insert("momentum_buffer".to_owned(), buffer);
        param - direction.mul_scalar(hyper.lr)
    }
}

/// The gradient with the gradient of ½·weight_decay·p² added.
pub(super) fn decayed(weight_decay: f64, param: &Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
    if weight_decay == 0.0 {
        return gradient;
    }
    gradient + param.clone().mul_scalar(weight_decay)
}
