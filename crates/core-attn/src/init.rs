//! Initial parameters as a function of a [`Key`], drawn on the host: the same on every backend.

use crate::random::Key;
use burn::module::{Param, ParamId};
use burn::prelude::*;

/// Drawn when it is first used: a model whose weights are then read from a file never draws them.
fn fill<const D: usize>(
    shape: [usize; D],
    device: &Device,
    draw: impl Fn(u64) -> f64 + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    let trainable = device.is_autodiff();
    let init = move |device: &Device, trainable: bool| {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n as u64).map(|i| draw(i) as f32).collect();
        let value = Tensor::from_data(TensorData::new(values, shape), device);
        if trainable {
            value.require_grad()
        } else {
            value
        }
    };
    Param::uninitialized(
        ParamId::new(),
        init,
        device.clone(),
        trainable,
        shape.into(),
    )
}

/// A parameter that starts at this value; it takes gradients if its device has autodiff.
pub fn from_tensor<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    let value = value.detach();
    let value = if value.device().is_autodiff() {
        value.require_grad()
    } else {
        value
    };
    Param::initialized(ParamId::new(), value)
}

/// Normal with the given standard deviation and mean 0.
pub fn normal<const D: usize>(
    shape: [usize; D],
    std: f64,
    key: Key,
    device: &Device,
) -> Param<Tensor<D>> {
    fill(shape, device, move |i| std * key.normal(i))
}

/// Uniform in `[−bound, bound)`.
pub fn uniform<const D: usize>(
    shape: [usize; D],
    bound: f64,
    key: Key,
    device: &Device,
) -> Param<Tensor<D>> {
    fill(shape, device, move |i| bound * (2.0 * key.uniform(i) - 1.0))
}

/// All elements the same.
pub fn constant<const D: usize>(
    shape: [usize; D],
    value: f64,
    device: &Device,
) -> Param<Tensor<D>> {
    fill(shape, device, move |_| value)
}
