//! Layer normalisation, GELU and cross-entropy: kernel against composition, outputs and every gradient.

mod common;

use burn::prelude::*;
use burn::tensor::DType;
use common::{assert_close, devices, normal};
use core_attn::pointwise::{
    Gelu, cross_entropy, cross_entropy_naive, gelu, gelu_naive, layer_norm, layer_norm_naive,
};

#[test]
fn layer_norm_equals_its_composition() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for (rows, width) in [(1, 1), (3, 7), (67, 33), (130, 200)] {
            let x = (normal::<3>("x", [2, rows, width], &device) * 3.0 + 5.0).detach();
            let x = x.without_autodiff().autodiff().require_grad();
            let gamma = normal::<1>("gamma", [width], &device).require_grad();
            let beta = normal::<1>("beta", [width], &device).require_grad();
            let run = |fast: bool| {
                let (x, g, b) = (x.clone(), gamma.clone(), beta.clone());
                let y = match fast {
                    true => layer_norm(x, g, b, 1e-5).unwrap(),
                    false => layer_norm_naive(x, g, b, 1e-5),
                };
                let w = normal::<3>("w", [2, rows, width], &device);
                (y.clone().inner(), (y * w).sum().backward())
            };
            let ((fast, f), (naive, n)) = (run(true), run(false));
            let name = format!("{backend} {rows}×{width}");
            assert_close(&name, fast, naive, 1e-5, 1e-4);
            assert_close(&name, x.grad(&f).unwrap(), x.grad(&n).unwrap(), 2e-5, 1e-3);
            assert_close(
                &name,
                gamma.grad(&f).unwrap(),
                gamma.grad(&n).unwrap(),
                1e-4,
                1e-4,
            );
            assert_close(
                &name,
                beta.grad(&f).unwrap(),
                beta.grad(&n).unwrap(),
                1e-4,
                1e-4,
            );
        }
    }
}

#[test]
fn gelu_equals_its_composition() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for kind in [Gelu::Exact, Gelu::Tanh] {
            for biased in [true, false] {
                let x = normal::<3>("x", [3, 41, 77], &device).without_autodiff() * 2.5;
                let bias = normal::<1>("bias", [77], &device).without_autodiff();
                let w = normal::<3>("w", [3, 41, 77], &device).without_autodiff();
                // In f32 the composition itself cancels by some 1e−6 on the far negative side, so where the backend has
                // f64 it computes in that.
                let run = |fast: bool| {
                    let exact = !fast && backend != "wgpu";
                    let dtype = if exact { DType::F64 } else { DType::F32 };
                    let leaf_x = x.clone().cast(dtype).autodiff().require_grad();
                    let leaf_b = bias.clone().cast(dtype).autodiff().require_grad();
                    let b = biased.then(|| leaf_b.clone());
                    let y = match fast {
                        true => gelu(leaf_x.clone(), b, kind).unwrap(),
                        false => gelu_naive(leaf_x.clone(), b, kind),
                    };
                    let grads = (y.clone() * w.clone().cast(dtype).autodiff())
                        .sum()
                        .backward();
                    (y.inner(), leaf_x.grad(&grads).unwrap(), leaf_b.grad(&grads))
                };
                let ((fast, fx, fb), (naive, nx, nb)) = (run(true), run(false));
                let name = format!("{backend} {kind:?} bias {biased}");
                let abs = if backend == "wgpu" { 1e-5 } else { 1e-6 };
                assert_close(&name, fast, naive, abs, 1e-5);
                assert_close(&name, fx, nx, abs, 1e-5);
                if let (Some(f), Some(n)) = (fb, nb) {
                    assert_close(&name, f, n, 20.0 * abs, 1e-4);
                }
            }
        }
    }
}

#[test]
fn cross_entropy_equals_its_composition() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for (rows, classes) in [(1, 1), (5, 3), (70, 513)] {
            let x = normal::<2>("x", [rows, classes], &device).require_grad();
            let targets: Vec<i32> = (0..rows as i32).map(|i| i * 7 % classes as i32).collect();
            let plain = device.clone().without_autodiff();
            let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &plain);
            let run = |f: &dyn Fn(Tensor<2>, Tensor<1, Int>) -> Tensor<1>| {
                let y = f(x.clone(), targets.clone());
                let w = normal::<1>("w", [rows], &device);
                (y.clone().inner(), (y * w).sum().backward())
            };
            let (fast, f) = run(&|x, t| cross_entropy(x, t).unwrap());
            let (naive, n) = run(&cross_entropy_naive);
            let name = format!("{backend} {rows}×{classes}");
            assert_close(&name, fast, naive, 2e-6, 1e-5);
            assert_close(&name, x.grad(&f).unwrap(), x.grad(&n).unwrap(), 1e-6, 1e-5);
        }
    }
}

#[test]
fn widths_that_differ_are_named() {
    let device = Device::flex();
    let x = Tensor::<2>::zeros([2, 3], &device);
    let wrong = Tensor::<1>::zeros([4], &device);
    let message = layer_norm(x.clone(), wrong.clone(), wrong.clone(), 1e-5).unwrap_err();
    assert!(message.to_string().contains("`gamma` has shape [4]"));
    let message = gelu(x.clone(), Some(wrong), Gelu::Exact).unwrap_err();
    assert!(message.to_string().contains("`bias` has shape [4]"));
    let targets = Tensor::<1, Int>::zeros([3], &device);
    assert!(cross_entropy(x, targets).is_err());
}
