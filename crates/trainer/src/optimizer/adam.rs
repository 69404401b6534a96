//! Adam (Kingma and Ba, 2015).

use super::sgd::decayed;
use super::{Hyper, Rule, Slots};
use burn::tensor::Tensor;

/// m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²; p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps), with g + weight_decay·p for g.
pub(crate) struct Adam {
    pub betas: [f64; 2],
    pub eps: f64,
    pub bias_correction: bool,
}

impl Rule for Adam {
    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn update(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        let gradient = decayed(hyper.weight_decay, &param, gradient);
        self.moved(hyper, param, gradient, slots)
    }
}

impl Adam {
    /// The update without any decay.
    pub fn moved(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        let [beta1, beta2] = self.betas;
        let mut average = |slot: &str, beta: f64, value: Tensor<1>| {
            let new = value.mul_scalar(1.0 - beta);
            let average = match slots.remove(slot) {
                Some(old) => old.mul_scalar(beta) + new,
                None => new,
            };
            slots.insert(slot.to_owned(), average.clone());
            average
        };
        let mean = average("exp_avg", beta1, gradient.clone());
        let square = average("exp_avg_sq", beta2, gradient.square());
        let correction = |beta: f64| {
            if self.bias_correction {
                1.0 - beta.powf(hyper.count as f64)
            } else {
                1.0
            }
        };
        let scale = square
            .sqrt()
            .div_scalar(correction(beta2).sqrt())
            .add_scalar(self.eps);
        param - (mean / scale).mul_scalar(hyper.lr / correction(beta1))
    }
}
