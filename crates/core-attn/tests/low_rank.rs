//! Landmarks, pseudo-inverse, Nyström attention and time convolution: fast against naive, on every backend.

mod common;

use burn::prelude::*;
use common::{assert_close, devices, normal};
use core_attn::low_rank::*;
use core_attn::softmax::masked_softmax;

/// Output of `f` and the gradient of its product with fixed weights.
fn run<const D: usize>(
    x: &Tensor<D>,
    f: impl FnOnce(Tensor<D>) -> Tensor<4>,
) -> (Tensor<4>, Tensor<D>) {
    let x = x.clone().detach().require_grad();
    let y = f(x.clone());
    let w = normal::<4>("weights of the sum", y.dims(), &y.device());
    let grads = (y.clone() * w).sum().backward();
    (y.inner(), x.grad(&grads).unwrap())
}

#[test]
fn segment_means_even_and_uneven() {
    assert_eq!(segment_lengths(23, 5).unwrap(), [4, 4, 5, 5, 5]);
    assert_eq!(segment_lengths(12, 4).unwrap(), [3; 4]);
    assert_eq!(segment_lengths(7, 7).unwrap(), [1; 7]);
    for (backend, device) in devices() {
        let device = device.autodiff();
        for (n, m, d) in [(24, 6, 5), (23, 5, 8), (13, 1, 3), (7, 7, 4), (63, 8, 60)] {
            let x = normal::<4>("x", [2, 3, n, d], &device);
            let (fast, fast_grad) = run(&x, |x| segment_means(x, m).unwrap());
            let (naive, naive_grad) = run(&x, |x| segment_means_naive(x, m).unwrap());
            let name = format!("{backend} {n} {m}");
            assert_close(&name, fast, naive, 1e-6, 1e-5);
            assert_close(&name, fast_grad, naive_grad, 1e-6, 1e-5);
        }
        let x = normal::<4>("x", [1, 1, 4, 2], &device);
        assert!(segment_means(x.clone(), 5).is_err());
        assert!(segment_means(x, 0).is_err());
    }
}

fn stochastic(name: &str, dims: [usize; 4], device: &Device) -> Tensor<4> {
    masked_softmax(normal::<4>(name, dims, device).mul_scalar(2.0), None)
}

const INITS: [PinvInit; 3] = [PinvInit::Original, PinvInit::Exact, PinvInit::RowColumn];

#[test]
fn pinv_without_the_identity_is_pinv_with_it() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for init in INITS {
            for (m, iterations) in [(1, 3), (6, 1), (5, 6), (12, 8)] {
                let a = stochastic("a", [2, 3, m, m], &device);
                let (fast, fast_grad) = run(&a, |a| iterative_pinv(a, iterations, init).unwrap());
                let (naive, naive_grad) =
                    run(&a, |a| iterative_pinv_naive(a, iterations, init).unwrap());
                let name = format!("{backend} {init:?} {m} {iterations}");
                assert_close(&name, fast, naive, 1e-3, 1e-3);
                let size = naive_grad.clone().abs().max().into_scalar::<f32>() as f64;
                assert_close(&name, fast_grad, naive_grad, 1e-3 * size, 1e-3);
            }
        }
        assert!(iterative_pinv(normal("a", [1, 1, 3, 4], &device), 6, INITS[0]).is_err());
    }
}

/// `‖A·Z·A − A‖ / ‖A‖` of each matrix.
fn residuals(a: &Tensor<4>, z: Tensor<4>) -> Vec<f32> {
    let [batch, heads, m, _] = a.dims();
    let norm = |x: Tensor<4>| x.square().reshape([batch * heads, m * m]).sum_dim(1).sqrt();
    let off = norm(a.clone().matmul(z).matmul(a.clone()) - a.clone());
    (off / norm(a.clone())).into_data().iter::<f32>().collect()
}

#[test]
fn pinv_converges_and_exact_never_lags() {
    for (backend, device) in devices() {
        let a = stochastic("a", [3, 2, 8, 8], &device);
        let mut before = [f32::INFINITY; 2];
        for iterations in [2, 4, 6, 10, 16] {
            let worst = [PinvInit::Original, PinvInit::Exact].map(|init| {
                let z = iterative_pinv(a.clone(), iterations, init).unwrap();
                residuals(&a, z).into_iter().fold(0.0, f32::max)
            });
            assert!(
                worst[1] <= worst[0] + 1e-4,
                "{backend} {iterations}: {worst:?}"
            );
            for (now, before) in worst.iter().zip(before) {
                assert!(*now <= before + 1e-3, "{backend} {iterations}: {worst:?}");
            }
            before = worst;
        }
        assert!(before[1] < 1e-3, "{backend}: {before:?}");
        // All rows alike: singular, and finite all the same.
        let flat = Tensor::<4>::full([1, 1, 8, 8], 0.125, &device);
        for init in INITS {
            let z = iterative_pinv(flat.clone(), 6, init).unwrap();
            assert!(z.into_data().iter::<f32>().all(f32::is_finite));
        }
    }
}

fn rows_kept(keep: &[&[u8]], device: &Device) -> Tensor<2, Bool> {
    let (rows, columns) = (keep.len(), keep[0].len());
    let all: Vec<bool> = keep
        .iter()
        .flat_map(|r| r.iter().map(|k| *k == 1))
        .collect();
    Tensor::from_data(TensorData::new(all, [rows, columns]), device)
}

#[test]
fn nystrom_equals_the_formula_with_its_matrix() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        // batch, heads, length, head_dim, value_dim, landmarks, bias, keep
        for (b, h, n, d, dv, m, bias, keep) in [
            (2, 3, 24, 8, 8, 6, false, false),
            (1, 2, 23, 5, 7, 5, false, false),
            (2, 1, 63, 60, 60, 7, true, false),
            (2, 2, 12, 4, 3, 3, false, true),
            (1, 1, 1, 1, 1, 1, false, false),
        ] {
            let inputs = [
                normal::<4>("q", [b, h, n, d], &device),
                normal::<4>("k", [b, h, n, d], &device),
                normal::<4>("v", [b, h, n, dv], &device),
            ]
            .map(Tensor::require_grad);
            let padded = n / 3;
            let key_bias = bias.then(|| {
                let hidden: Vec<f32> = (0..b * n)
                    .map(|i| {
                        if i % n >= n - padded * (i / n) {
                            f32::MIN
                        } else {
                            0.0
                        }
                    })
                    .collect();
                Tensor::<4>::from_data(TensorData::new(hidden, [b, 1, 1, n]), &device)
            });
            let keep = keep.then(|| {
                let kept: Vec<bool> = (0..b * n).map(|i| i % n >= 5 * (i / n)).collect();
                Tensor::<2, Bool>::from_data(TensorData::new(kept, [b, n]), &device)
            });
            let arguments = || {
                let [query, key, value] = inputs.clone();
                NystromAttention {
                    query,
                    key,
                    value,
                    landmarks: m,
                    scale: (d as f64).powf(-0.5),
                    key_bias: key_bias.clone(),
                    keep: keep.clone(),
                    iterations: 6,
                    init: PinvInit::Exact,
                }
            };
            let gradients = |context: Tensor<4>| {
                let w = normal::<4>("w", [b, h, n, dv], &device);
                let grads = (context * w).sum().backward();
                inputs.each_ref().map(|x| x.grad(&grads).unwrap())
            };
            let fast = nystrom_attention(arguments()).unwrap();
            let naive = nystrom_attention_naive(arguments()).unwrap();
            let name = format!("{backend} n {n} m {m}");
            for (what, f, s) in [
                ("kernel 1", fast.kernel_1(), naive.kernel_1),
                ("kernel 2", fast.kernel_2.clone(), naive.kernel_2),
                ("kernel 3", fast.kernel_3(), naive.kernel_3),
                ("context", fast.context.clone(), naive.context.clone()),
                ("matrix", fast.matrix(), naive.matrix),
            ] {
                assert_close(&format!("{name} {what}"), f.inner(), s.inner(), 2e-4, 2e-4);
            }
            let fast_grads = gradients(fast.context);
            let naive_grads = gradients(naive.context);
            for (what, (f, s)) in ["q", "k", "v"]
                .iter()
                .zip(fast_grads.into_iter().zip(naive_grads))
            {
                let size = f64::from(s.clone().abs().max().into_scalar::<f32>()).max(1.0);
                assert_close(&format!("{name} grad {what}"), f, s, 5e-4 * size, 1e-3);
            }
        }
    }
}

#[test]
fn masked_rows_may_hold_nan_and_reach_nothing() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        // The second sample has a run without any kept row, the third none at all.
        let keep = rows_kept(
            &[
                &[1, 1, 1, 1, 1, 0],
                &[0, 0, 0, 1, 1, 1],
                &[0, 0, 0, 0, 0, 0],
            ],
            &device,
        );
        let hidden = keep
            .clone()
            .bool_not()
            .reshape([3, 1, 6, 1])
            .expand([3, 2, 6, 4]);
        let run = |poison: f64| {
            let inputs = ["q", "k", "v"].map(|name| {
                let x = normal::<4>(name, [3, 2, 6, 4], &device);
                x.mask_fill(hidden.clone(), poison).require_grad()
            });
            let [query, key, value] = inputs.clone();
            let out = nystrom_attention(NystromAttention {
                query,
                key,
                value,
                landmarks: 3,
                scale: 0.5,
                key_bias: None,
                keep: Some(keep.clone()),
                iterations: 6,
                init: PinvInit::Exact,
            })
            .unwrap();
            let grads = out.context.clone().sum().backward();
            let mut all = inputs.map(|x| x.grad(&grads).unwrap()).to_vec();
            all.push(out.context.inner());
            all
        };
        for (a, b) in run(f64::NAN).into_iter().zip(run(3.0)) {
            assert!(
                a.clone().into_data().iter::<f32>().all(f32::is_finite),
                "{backend}"
            );
            assert_close(backend, a, b, 0.0, 0.0);
        }
    }
}

#[test]
fn a_sample_whose_keys_are_all_hidden_attends_evenly() {
    for (backend, device) in devices() {
        let x = normal::<4>("x", [1, 2, 8, 4], &device);
        let out = nystrom_attention(NystromAttention {
            query: x.clone(),
            key: x.clone(),
            value: x,
            landmarks: 2,
            scale: 0.5,
            key_bias: Some(Tensor::full([1, 1, 1, 8], f32::MIN, &device)),
            keep: None,
            iterations: 6,
            init: PinvInit::Original,
        })
        .unwrap();
        let even = Tensor::<4>::full([1, 2, 2, 8], 0.125, &device);
        assert_close(backend, out.kernel_3(), even, 1e-6, 0.0);
        assert!(out.context.into_data().iter::<f32>().all(f32::is_finite));
    }
}

#[test]
fn more_landmarks_come_nearer_to_full_attention() {
    for (backend, device) in devices() {
        // Rows that change slowly, as those of real text do more than noise does.
        let [q, k] = ["q", "k"].map(|name| {
            let phases: Vec<f32> = normal::<2>(name, [2, 16], &device)
                .into_data()
                .iter()
                .collect();
            let rows = (0..2 * 64 * 16).map(|i| {
                let (h, t, c) = (i / (64 * 16), i / 16 % 64, i % 16);
                2.0 * (0.04 * (1 + c % 3) as f32 * t as f32 + 3.0 * phases[h * 16 + c]).sin()
            });
            let data = TensorData::new(rows.collect::<Vec<f32>>(), [1, 2, 64, 16]);
            Tensor::<4>::from_data(data, &device)
        });
        let full = masked_softmax(
            q.clone().matmul(k.clone().swap_dims(2, 3)).mul_scalar(0.25),
            None,
        );
        let mut before = f32::INFINITY;
        for landmarks in [2, 8, 32, 64] {
            let out = nystrom_attention(NystromAttention {
                query: q.clone(),
                key: k.clone(),
                value: q.clone(),
                landmarks,
                scale: 0.25,
                key_bias: None,
                keep: None,
                iterations: 20,
                init: PinvInit::Exact,
            })
            .unwrap();
            let off = (out.matrix() - full.clone())
                .square()
                .sum()
                .sqrt()
                .into_scalar::<f32>();
            assert!(
                off <= before * 1.02,
                "{backend} {landmarks}: {off} after {before}"
            );
            before = off;
        }
        // As many landmarks as rows: exact, up to the inverse's residual.
        assert!(before < 0.05, "{backend}: {before}");
    }
}

#[test]
fn time_convolution_kernel_equals_shifted_copies() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for (b, h, n, d, size) in [
            (2, 3, 13, 8, 5),
            (1, 1, 1, 1, 1),
            (2, 2, 7, 17, 33),
            (1, 4, 600, 3, 35),
            (3, 1, 63, 60, 9),
            (1, 2, 2, 32, 7),
        ] {
            // Heads beside each other, as a projection leaves them: a strided view.
            let v = normal::<4>("v", [b, n, h, d], &device).require_grad();
            let w = normal::<2>("w", [h, size], &device).require_grad();
            let run = |f: fn(Tensor<4>, Tensor<2>) -> core_attn::Result<Tensor<4>>| {
                let y = f(v.clone().swap_dims(1, 2), w.clone()).unwrap();
                let grads = (y.clone() * normal("g", [b, h, n, d], &device))
                    .sum()
                    .backward();
                (y.inner(), v.grad(&grads).unwrap(), w.grad(&grads).unwrap())
            };
            let (fast, fast_v, fast_w) = run(time_convolution);
            let (naive, naive_v, naive_w) = run(time_convolution_naive);
            let name = format!("{backend} {n} {d} {size}");
            assert_close(&name, fast, naive, 1e-5, 1e-5);
            assert_close(&name, fast_v, naive_v, 1e-5, 1e-5);
            assert_close(&name, fast_w, naive_w, 1e-4, 1e-4);
        }
        let v = normal::<4>("v", [1, 2, 4, 3], &device);
        assert!(time_convolution(v.clone(), normal("w", [2, 4], &device)).is_err());
        assert!(time_convolution(v, normal("w", [3, 3], &device)).is_err());
    }
}

#[test]
fn shapes_that_do_not_fit_are_told() {
    for (_, device) in devices() {
        let x = normal::<4>("x", [2, 2, 8, 4], &device);
        let good = NystromAttention {
            query: x.clone(),
            key: x.clone(),
            value: x.clone(),
            landmarks: 4,
            scale: 1.0,
            key_bias: None,
            keep: None,
            iterations: 6,
            init: PinvInit::Original,
        };
        assert!(nystrom_attention(good.clone()).is_ok());
        let bad = [
            NystromAttention {
                landmarks: 9,
                ..good.clone()
            },
            NystromAttention {
                key: x.clone().narrow(2, 0, 7),
                ..good.clone()
            },
            NystromAttention {
                value: x.clone().narrow(2, 0, 7),
                ..good.clone()
            },
            NystromAttention {
                key_bias: Some(x.clone()),
                ..good.clone()
            },
            NystromAttention {
                landmarks: 3,
                keep: Some(rows_kept(&[&[1; 8], &[1; 8]], &device)),
                ..good.clone()
            },
            NystromAttention {
                keep: Some(rows_kept(&[&[1; 7], &[1; 7]], &device)),
                ..good
            },
        ];
        for (i, input) in bad.into_iter().enumerate() {
            assert!(nystrom_attention(input.clone()).is_err(), "{i}");
            assert!(nystrom_attention_naive(input).is_err(), "{i}");
        }
    }
}
