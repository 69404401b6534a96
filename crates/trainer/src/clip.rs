//! Clipping by the norm of all gradients together, as torch's `clip_grad_norm_` does it.

use crate::ModuleGradients;
use burn::tensor::Tensor;

/// The square root of the sum of the squares of all gradients, `[1]`; `None` when there are none.
pub fn global_norm(gradients: &ModuleGradients) -> Option<Tensor<1>> {
    let squares = gradients.iter().map(|(_, g)| g.clone().square().sum());
    squares.reduce(|a, b| a + b).map(Tensor::sqrt)
}

/// Multiplies every gradient by `min(1, max_norm / (norm + 1e-6))` and returns the norm from before.
///
/// Nothing is read from the device.
pub fn clip_global_norm(
    gradients: ModuleGradients,
    max_norm: f64,
) -> (ModuleGradients, Option<Tensor<1>>) {
    let Some(norm) = global_norm(&gradients) else {
        return (gradients, None);
    };
    let factor = norm
        .clone()
        .add_scalar(1e-6)
        .recip()
        .mul_scalar(max_norm)
        .clamp_max(1.0);
    (
        gradients.map(|gradient| gradient * factor.clone()),
        Some(norm),
    )
}
