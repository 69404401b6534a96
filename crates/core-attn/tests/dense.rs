//! Dense attention, masked softmax, dropout and relative shift: kernel against composition, on every backend.

mod common;

use burn::prelude::*;
use common::{assert_close, devices, normal};
use core_attn::dense::{Attention, attention, attention_naive};
use core_attn::dropout::{Dropout, dropout, dropout_naive};
use core_attn::mask::Mask;
use core_attn::random::Key;
use core_attn::relative::{relative_shift, relative_shift_naive};
use core_attn::softmax::{masked_softmax, masked_softmax_naive};

#[test]
fn kernel_equals_composition() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        // batch, query, key, heads, head_dim, value_dim, causal, lengths, bias shape, dropout
        type Case = (
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            bool,
            bool,
            Option<[usize; 2]>,
            f64,
        );
        let cases: [Case; 6] = [
            (2, 63, 63, 3, 60, 60, true, false, None, 0.0),
            (1, 5, 9, 2, 7, 3, true, false, Some([1, 2]), 0.0),
            (3, 4, 11, 1, 8, 8, false, true, None, 0.3),
            (2, 70, 33, 2, 5, 6, false, true, Some([2, 1]), 0.0),
            (2, 3, 3, 2, 4, 4, false, false, Some([2, 2]), 0.5),
            (1, 1, 1, 1, 1, 1, false, false, None, 0.0),
        ];
        for case in cases {
            let (b, q, k, h, d, dv, causal, padded, bias, rate) = case;
            let query = normal::<3>("q", [b, q, h * d], &device).require_grad();
            let key = normal::<3>("k", [b, k, h * d], &device).require_grad();
            let value = normal::<3>("v", [b, k, h * dv], &device).require_grad();
            let bias = bias.map(|[x, y]| normal::<4>("b", [x, y, q, k], &device).require_grad());
            let mut mask = causal.then(|| Mask::causal(q, k, &device));
            if padded {
                let lengths: Vec<usize> = (0..b).map(|i| k - i * 2).collect();
                let padding = Mask::lengths(&lengths, q, k, &device).unwrap();
                mask = Some(match mask {
                    Some(m) => m.and(padding),
                    None => padding,
                });
            }
            let run = |f: fn(Attention) -> core_attn::Result<Tensor<3>>| {
                let out = f(Attention {
                    query: query.clone(),
                    key: key.clone(),
                    value: value.clone(),
                    heads: h,
                    mask: mask.clone(),
                    bias: bias.clone(),
                    scale: (d as f64).powf(-0.5),
                    dropout: Dropout::new(rate, Key::new(2)).unwrap(),
                })
                .unwrap();
                let w = normal::<3>("w", [b, q, h * dv], &device);
                let grads = (out.clone() * w).sum().backward();
                let leaves = [&query, &key, &value].map(|t| t.grad(&grads).unwrap());
                (
                    out.inner(),
                    leaves,
                    bias.as_ref().map(|b| b.grad(&grads).unwrap()),
                )
            };
            let (fast, fast_grads, fast_bias) = run(attention);
            let (naive, naive_grads, naive_bias) = run(attention_naive);
            let name = format!("{backend} {case:?}");
            assert_close(&name, fast, naive, 2e-6, 2e-5);
            for (f, n) in fast_grads.into_iter().zip(naive_grads) {
                assert_close(&name, f, n, 2e-5, 1e-4);
            }
            if let (Some(f), Some(n)) = (fast_bias, naive_bias) {
                assert_close(&format!("{name} bias"), f, n, 2e-5, 1e-4);
            }
        }
    }
}

#[test]
fn padding_may_hold_nan_and_blind_queries_give_zero() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        let mask = Mask::lengths(&[3, 0], 2, 5, &device).unwrap();
        let poison = |name: &str| {
            let t = normal::<3>(name, [2, 5, 4], &device);
            let t = t.slice_assign(
                s![0..1, 3.., ..],
                Tensor::full([1, 2, 4], f32::NAN, &device),
            );
            t.slice_assign(s![1.., .., ..], Tensor::full([1, 5, 4], f32::NAN, &device))
                .require_grad()
        };
        let (key, value) = (poison("k"), poison("v"));
        let query = normal::<3>("q", [2, 2, 4], &device).require_grad();
        for run in [attention, attention_naive] {
            let out = run(Attention {
                query: query.clone(),
                key: key.clone(),
                value: value.clone(),
                heads: 2,
                mask: Some(mask.clone()),
                bias: None,
                scale: 1.0,
                dropout: Dropout::off(),
            })
            .unwrap();
            let grads = out.clone().sum().backward();
            let blind = out.clone().inner().narrow(0, 1, 1);
            assert_close(backend, blind.clone(), blind.zeros_like(), 0.0, 0.0);
            let tensors = [&query, &key, &value].map(|t| t.grad(&grads).unwrap());
            for t in tensors.into_iter().chain([out.inner()]) {
                assert!(
                    t.into_data().iter::<f32>().all(f32::is_finite),
                    "{backend}: NaN leaked"
                );
            }
        }
    }
}

#[test]
fn softmax_rows() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        let x = normal::<4>("x", [2, 3, 5, 37], &device);
        let x = x.slice_assign(
            s![.., .., 4.., ..],
            Tensor::full([2, 3, 1, 37], f32::NAN, &device),
        );
        let x = x.require_grad();
        // Row 4 sees nothing, row 0 one key.
        let visible: Vec<bool> = (0..5 * 37)
            .map(|i| i / 37 != 4 && (i / 37 != 0 || i % 37 == 3))
            .collect();
        let visible =
            Tensor::<4, Bool>::from_data(TensorData::new(visible, [1, 1, 5, 37]), &device);
        let mask = Mask::from_visible(visible);
        let run = |f: fn(Tensor<4>, Option<&Mask>) -> Tensor<4>| {
            let y = f(x.clone(), Some(&mask));
            let grads = (y.clone() * normal("w", [2, 3, 5, 37], &device))
                .sum()
                .backward();
            (y.inner(), x.grad(&grads).unwrap())
        };
        let (fast, fast_grad) = run(masked_softmax);
        let (naive, naive_grad) = run(masked_softmax_naive);
        assert_close(backend, fast.clone(), naive, 1e-7, 1e-5);
        assert_close(backend, fast_grad, naive_grad, 1e-6, 1e-5);
        let sums: Vec<f32> = fast.sum_dim(3).into_data().iter().collect();
        for (i, s) in sums.iter().enumerate() {
            let expected = if i % 5 == 4 { 0.0 } else { 1.0 };
            assert!(
                (s - expected).abs() < 1e-6,
                "{backend}: row {i} sums to {s}"
            );
        }
    }
}

#[test]
fn dropout_is_the_same_everywhere_and_again() {
    let keep = Dropout::new(0.3, Key::new(9).site("here")).unwrap();
    let mut first = None;
    for (backend, device) in devices() {
        let device = device.autodiff();
        let x = normal::<3>("x", [7, 31, 13], &device).require_grad();
        let fast = dropout(x.clone(), keep);
        let naive = dropout_naive(x.clone(), keep);
        assert_close(backend, fast.clone().inner(), naive.inner(), 0.0, 1e-6);
        let grads = fast.clone().sum().backward();
        let grad = x.grad(&grads).unwrap();
        let dropped = grad
            .clone()
            .equal_elem(0.0)
            .int()
            .sum()
            .into_scalar::<i64>();
        let share = dropped as f64 / (7.0 * 31.0 * 13.0);
        assert!((share - 0.3).abs() < 0.03, "{backend}: dropped {share}");
        let data = fast.into_data();
        if let Some(first) = &first {
            data.assert_approx_eq::<f32>(first, burn::tensor::Tolerance::absolute(1e-6));
        } else {
            first = Some(data);
        }
    }
    assert!(Dropout::new(1.0, Key::new(0)).is_err());
    assert!(Dropout::new(f64::NAN, Key::new(0)).is_err());
}

#[test]
fn relative_shift_by_reshaping_and_by_index() {
    for (backend, device) in devices() {
        for (q, k) in [(5, 5), (3, 8), (1, 4), (6, 6)] {
            let device = device.clone().autodiff();
            let x = normal::<4>("x", [2, 3, q, k], &device).require_grad();
            let run = |f: fn(Tensor<4>) -> Tensor<4>| {
                let y = f(x.clone());
                let grads = (y.clone() * normal("w", [2, 3, q, k], &device))
                    .sum()
                    .backward();
                (y.inner(), x.grad(&grads).unwrap())
            };
            let (fast, fast_grad) = run(relative_shift);
            let (naive, naive_grad) = run(relative_shift_naive);
            assert_close(backend, fast, naive, 0.0, 0.0);
            assert_close(backend, fast_grad, naive_grad, 0.0, 0.0);
        }
    }
}
