//! Adagrad (Duchi, Hazan and Singer, 2011).

use super::sgd::decayed;
use super::{Hyper, Rule, Slots};
use burn::tensor::Tensor;

/// G ← G + g²; p ← p − lr/(1 + (t − 1)·lr_decay) · g / (√G + eps), with g + weight_decay·p for g.
pub(crate) struct Adagrad {
    pub lr_decay: f64,
    pub initial_accumulator: f64,
    pub eps: f64,
}

impl Rule for Adagrad {
    fn slots(&self) -> &'static [&'static str] {
        &["sum"]
    }

    fn update(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        let gradient = decayed(hyper.weight_decay, &param, gradient);
        let lr = hyper.lr / (1.0 + (hyper.count - 1) as f64 * self.lr_decay);
        let root = accumulate(slots, &gradient, self.initial_accumulator);
        param - (gradient / root.add_scalar(self.eps)).mul_scalar(lr)
    }
}

/// Adds the square of the gradient to the sum of squares and gives the root of the sum.
pub(super) fn accumulate(slots: &mut Slots, gradient: &Tensor<1>, start: f64) -> Tensor<1> {
    let square = gradient.clone().square();
    let sum = match slots.remove("sum") {
        Some(sum) => sum + square,
        None => square.add_scalar(start),
    };
    slots.insert("sum".to_owned(), sum.clone());
    sum.sqrt()
}
