//! Adagrad with a clip for each tensor that shortens the step and leaves the sum of squares alone.

use super::adagrad::accumulate;
use super::{Hyper, Rule, Slots};
use burn::tensor::Tensor;

/// step ← lr, or lr · c / (‖g‖ + eps) where ‖g‖ > c; G ← G + g² with the unclipped g; p ← p − step · g / (√G + eps).
pub(crate) struct AdagradGradClip {
    pub grad_clip: Option<f64>,
    pub eps: f64,
}

impl Rule for AdagradGradClip {
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
        let root = accumulate(slots, &gradient, 0.0);
        let direction = gradient.clone() / root.add_scalar(self.eps);
        let Some(clip) = self.grad_clip else {
            return param - direction.mul_scalar(hyper.lr);
        };
        // Nothing is read from the device: the step stays a tensor. At norms up to `clip` the quotient is at least about 1,
        // and exactly 1 is wanted, which the mask gives even where rounding would put the quotient just below.
        let norm = gradient.square().sum().sqrt();
        let within = norm.clone().lower_equal_elem(clip);
        let step = norm
            .add_scalar(self.eps)
            .recip()
            .mul_scalar(clip)
            .mask_fill(within, 1.0)
            .mul_scalar(hyper.lr);
        param - direction * step
    }
}
