//! Adam with the weight decay apart from the gradient (Loshchilov and Hutter, 2019).

use super::adam::Adam;
use super::{Hyper, Rule, Slots};
use burn::tensor::Tensor;

/// p ← p · (1 − lr·weight_decay), then Adam without decay.
pub(crate) struct AdamW(pub Adam);

impl Rule for AdamW {
    fn slots(&self) -> &'static [&'static str] {
        self.0.slots()
    }

    fn update(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        let param = match hyper.weight_decay {
            0.0 => param,
            decay => param.mul_scalar(1.0 - hyper.lr * decay),
        };
        self.0.moved(hyper, param, gradient, slots)
    }
}
