//! Devices and comparisons for tests that hold on every backend.
#![allow(dead_code)] // each test binary uses its own part

use burn::prelude::*;
use core_attn::random::Key;

/// Every backend compiled in, by name. With the feature `wgpu`, that too where an adapter is found.
pub fn devices() -> Vec<(&'static str, Device)> {
    let mut all = vec![];
    #[cfg(feature = "flex")]
    all.push(("flex", Device::flex()));
    #[cfg(feature = "ndarray")]
    #[allow(deprecated)] // ndarray is kept as a second, independent CPU implementation
    all.push(("ndarray", Device::ndarray()));
    if let Some(device) = wgpu() {
        all.push(("wgpu", device));
    }
    all
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Option<Device> {
    let device = std::panic::catch_unwind(|| {
        let device = Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
        Tensor::<1>::ones([2], &device).into_data();
        device
    });
    if device.is_err() {
        eprintln!("skipped on wgpu: no adapter was found on this machine");
    }
    device.ok()
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Option<Device> {
    None
}

/// Normal values that depend on the name alone.
pub fn normal<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let key = Key::new(11).site(name);
    let values: Vec<f32> = (0..n as u64).map(|i| key.normal(i) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Largest difference in units of `abs + rel·|expected|`; fails above 1, on NaN and on unequal shapes.
#[track_caller]
pub fn assert_close<const D: usize>(
    name: &str,
    found: Tensor<D>,
    expected: Tensor<D>,
    abs: f64,
    rel: f64,
) {
    assert_eq!(found.dims(), expected.dims(), "{name}: shapes");
    let found: Vec<f64> = found.into_data().iter::<f64>().collect();
    let expected: Vec<f64> = expected.into_data().iter::<f64>().collect();
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        let off = (f - e).abs();
        assert!(
            off <= abs + rel * e.abs(),
            "{name}: element {i} is {f}, expected {e} (off by {off:e})"
        );
    }
}
