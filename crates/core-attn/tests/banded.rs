//! The banded kernel against its composition of tensor operations: outputs and every gradient, at odd sizes.

mod common;

use burn::prelude::*;
use burn::tensor::activation::softmax;
use common::{assert_close, devices, normal};
use core_attn::banded::{
    BandedAttention, Nearest, Persistent, SpanMask, SpanWindow, banded_attention,
    banded_attention_naive, skew, unskew,
};
use core_attn::dropout::Dropout;
use core_attn::random::Key;
use core_attn::span::SoftSpanMask;

#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    query: usize,
    past: usize,
    heads: usize,
    head_dim: usize,
    window: usize,
    nearest: Nearest,
    relative: bool,
    span: bool,
    persistent: usize,
    dropout: f64,
}

const PLAIN: Sizes = Sizes {
    batch: 2,
    query: 7,
    past: 13,
    heads: 3,
    head_dim: 5,
    window: 11,
    nearest: Nearest::Previous,
    relative: true,
    span: false,
    persistent: 0,
    dropout: 0.0,
};

fn cases() -> Vec<Sizes> {
    let span = Sizes {
        span: true,
        ..PLAIN
    };
    let long = Sizes {
        batch: 1,
        query: 83,
        past: 131,
        window: 131,
        head_dim: 9,
        ..span
    };
    vec![
        PLAIN,
        span,
        long,
        Sizes {
            relative: false,
            ..PLAIN
        },
        Sizes {
            nearest: Nearest::Current,
            past: 10,
            ..PLAIN
        },
        Sizes {
            nearest: Nearest::Current,
            past: 0,
            window: 1,
            ..span
        },
        Sizes {
            query: 1,
            batch: 1,
            ..span
        },
        Sizes {
            persistent: 4,
            ..PLAIN
        },
        Sizes {
            persistent: 3,
            ..long
        },
        Sizes {
            persistent: 3,
            dropout: 0.4,
            ..span
        },
        Sizes {
            dropout: 0.25,
            ..PLAIN
        },
    ]
}

/// The loss `Σ out·w` and its gradients for query, key, value, table, span fractions, persistent key and value.
fn run(s: Sizes, device: &Device, fast: bool) -> (Tensor<3>, Vec<(&'static str, Tensor<1>)>) {
    let device = &device.clone().autodiff();
    let width = s.heads * s.head_dim;
    let leaf = |name: &str, shape| normal::<3>(name, shape, device).require_grad();
    let query = leaf("q", [s.batch, s.query, width]);
    let key = leaf("k", [s.batch, s.past + s.query, width]);
    let value = leaf("v", [s.batch, s.past + s.query, width]);
    let table = normal::<2>("p", [s.head_dim, s.window], device).require_grad();
    let fractions: Vec<f32> = (0..s.heads).map(|h| 0.02 + 0.31 * h as f32).collect();
    let z = Tensor::<1>::from_floats(fractions.as_slice(), device).require_grad();
    let pk = leaf("pk", [s.heads, s.head_dim, s.persistent.max(1)]);
    let pv = leaf("pv", [s.heads, s.persistent.max(1), s.head_dim]);
    let soft = SoftSpanMask::new(s.window, 3).unwrap();
    let input = BandedAttention {
        query: query.clone(),
        key: key.clone(),
        value: value.clone(),
        heads: s.heads,
        window: s.window,
        nearest: s.nearest,
        relative: s.relative.then(|| table.clone()),
        span: s.span.then(|| SpanWindow {
            mask: SpanMask::PerHead(soft.mask(z.clone(), s.window)),
            keep: fractions.iter().map(|z| soft.size(*z)).collect(),
            epsilon: 1e-3, // large, so that its own gradient is seen
        }),
        persistent: (s.persistent > 0).then(|| Persistent {
            key: pk.clone(),
            value: pv.clone(),
        }),
        scale: 0.7,
        dropout: Dropout::new(s.dropout, Key::new(5)).unwrap(),
    };
    let out = if fast {
        banded_attention(input).unwrap()
    } else {
        banded_attention_naive(input).unwrap()
    };
    let weights = normal::<3>("w", [s.batch, s.query, width], device);
    let grads = (out.clone() * weights).sum().backward();
    let mut all = vec![];
    for (name, leaf) in [
        ("q", &query),
        ("k", &key),
        ("v", &value),
        ("pk", &pk),
        ("pv", &pv),
    ] {
        if let Some(g) = leaf.grad(&grads) {
            let n = g.shape().num_elements();
            all.push((name, g.reshape([n])));
        }
    }
    if let Some(g) = table.grad(&grads) {
        let n = g.shape().num_elements();
        all.push(("table", g.reshape([n])));
    }
    if let Some(g) = z.grad(&grads) {
        all.push(("z", g));
    }
    (out.inner(), all)
}

#[test]
fn kernel_equals_composition() {
    for (backend, device) in devices() {
        for case in cases() {
            let (fast, fast_grads) = run(case, &device, true);
            let (naive, naive_grads) = run(case, &device, false);
            let name = format!("{backend} {case:?}");
            assert_close(&name, fast, naive, 2e-6, 2e-5);
            assert_eq!(fast_grads.len(), naive_grads.len(), "{name}: gradients");
            for ((leaf, f), (_, n)) in fast_grads.into_iter().zip(naive_grads) {
                assert_close(&format!("{name} grad {leaf}"), f, n, 2e-5, 1e-4);
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences_in_f64() {
    // The composition in f64 is checked by differences; `kernel_equals_composition` ties the kernel to it.
    let device = Device::flex();
    let options = (&device, burn::tensor::DType::F64);
    let s = Sizes {
        span: true,
        persistent: 2,
        ..PLAIN
    };
    let width = s.heads * s.head_dim;
    let make = |name: &str, shape: [usize; 3]| {
        let data = normal::<3>(name, shape, &device)
            .into_data()
            .convert::<f64>();
        Tensor::<3>::from_data(data, options)
    };
    let q = make("q", [s.batch, s.query, width]);
    let k = make("k", [s.batch, s.past + s.query, width]);
    let v = make("v", [s.batch, s.past + s.query, width]);
    let pk = make("pk", [s.heads, s.head_dim, s.persistent]);
    let pv = make("pv", [s.heads, s.persistent, s.head_dim]);
    let z: Vec<f64> = (0..s.heads).map(|h| 0.02 + 0.31 * h as f64).collect();
    let z = Tensor::<1>::from_data(TensorData::new(z, [s.heads]), options);
    let soft = SoftSpanMask::new(s.window, 3).unwrap();
    let loss = |q: Tensor<3>, k: Tensor<3>, z: Tensor<1>, pk: Tensor<3>| {
        let out = banded_attention_naive(BandedAttention {
            query: q,
            key: k,
            value: v.clone(),
            heads: s.heads,
            window: s.window,
            nearest: s.nearest,
            relative: None,
            span: Some(SpanWindow {
                mask: SpanMask::PerHead(soft.mask(z, s.window)),
                keep: vec![s.window; s.heads],
                epsilon: 1e-3,
            }),
            persistent: Some(Persistent {
                key: pk,
                value: pv.clone(),
            }),
            scale: 0.7,
            dropout: Dropout::off(),
        });
        let w = make("w", [s.batch, s.query, width]);
        (out.unwrap() * w).sum()
    };
    let [qa, ka, pka] = [&q, &k, &pk].map(|t| t.clone().autodiff().require_grad());
    let za = z.clone().autodiff().require_grad();
    let grads = loss(qa.clone(), ka.clone(), za.clone(), pka.clone()).backward();
    let h = 1e-6;
    let number = |t: Tensor<1>| t.into_data().iter::<f64>().next().unwrap();
    for i in [0usize, 17, 40] {
        for (which, leaf, grad) in [(0, &q, &qa), (1, &k, &ka), (2, &pk, &pka)] {
            let shape = leaf.dims();
            let mut data: Vec<f64> = leaf.to_data().iter::<f64>().collect();
            let i = i % data.len();
            let mut at = |x: f64| {
                data[i] += x;
                let t = Tensor::<3>::from_data(TensorData::new(data.clone(), shape), options);
                data[i] -= x;
                number(match which {
                    0 => loss(t, k.clone(), z.clone(), pk.clone()),
                    1 => loss(q.clone(), t, z.clone(), pk.clone()),
                    _ => loss(q.clone(), k.clone(), z.clone(), t),
                })
            };
            let numeric = (at(h) - at(-h)) / (2.0 * h);
            let exact = grad
                .grad(&grads)
                .unwrap()
                .to_data()
                .iter::<f64>()
                .nth(i)
                .unwrap();
            assert!(
                (numeric - exact).abs() < 1e-6 + 1e-6 * exact.abs(),
                "{which}[{i}]: {numeric} {exact}"
            );
        }
    }
    let exact: Vec<f64> = za.grad(&grads).unwrap().to_data().iter::<f64>().collect();
    for i in 0..s.heads {
        let at = |x: f64| {
            let mut data: Vec<f64> = z.to_data().iter::<f64>().collect();
            data[i] += x;
            let t = Tensor::<1>::from_data(TensorData::new(data, [s.heads]), options);
            number(loss(q.clone(), k.clone(), t, pk.clone()))
        };
        let numeric = (at(h) - at(-h)) / (2.0 * h);
        assert!(
            (numeric - exact[i]).abs() < 1e-5,
            "z[{i}]: {numeric} {}",
            exact[i]
        );
    }
}

#[test]
fn rows_outside_every_band_may_hold_nan() {
    for (backend, device) in devices() {
        for nearest in [Nearest::Previous, Nearest::Current] {
            let device = device.clone().autodiff();
            let (window, past, query) = (6, 20, 5);
            let blank = |t: Tensor<3>| {
                let poison = Tensor::full([2, past - window, 4], f32::NAN, &device);
                t.slice_assign(s![.., 0..past - window, ..], poison)
            };
            let q = normal::<3>("q", [2, query, 4], &device).require_grad();
            let k = blank(normal("k", [2, past + query, 4], &device)).require_grad();
            let v = blank(normal("v", [2, past + query, 4], &device)).require_grad();
            for run in [banded_attention, banded_attention_naive] {
                let out = run(BandedAttention {
                    query: q.clone(),
                    key: k.clone(),
                    value: v.clone(),
                    heads: 2,
                    window,
                    nearest,
                    relative: None,
                    span: None,
                    persistent: None,
                    scale: 1.0,
                    dropout: Dropout::off(),
                })
                .unwrap();
                let grads = out.clone().sum().backward();
                for t in [
                    out.inner(),
                    q.grad(&grads).unwrap(),
                    k.grad(&grads).unwrap(),
                ] {
                    let finite = t.into_data().iter::<f32>().all(f32::is_finite);
                    assert!(finite, "{backend} {nearest:?}: NaN leaked");
                }
            }
        }
    }
}

#[test]
fn a_diverged_query_gives_nan_and_not_zero() {
    for (backend, device) in devices() {
        let query = normal::<3>("q", [1, 3, 4], &device);
        let query =
            query.slice_assign(s![.., 1..2, ..], Tensor::full([1, 1, 4], f32::NAN, &device));
        let out = banded_attention(BandedAttention {
            query,
            key: normal("k", [1, 8, 4], &device),
            value: normal("v", [1, 8, 4], &device),
            heads: 2,
            window: 4,
            nearest: Nearest::Previous,
            relative: None,
            span: None,
            persistent: None,
            scale: 1.0,
            dropout: Dropout::off(),
        })
        .unwrap();
        let nan: Vec<bool> = out.into_data().iter::<f32>().map(f32::is_nan).collect();
        let row = |r: usize| &nan[r * 4..][..4];
        assert_eq!(
            [row(0), row(1), row(2)],
            [[false; 4], [true; 4], [false; 4]],
            "{backend}"
        );
    }
}

#[test]
fn masking_before_the_softmax_equals_the_reference_s_masking_after_it() {
    for (backend, device) in devices() {
        let (batch, query, heads, head_dim, window) = (2, 5, 2, 4, 30);
        let width = heads * head_dim;
        let soft = SoftSpanMask::new(window, 6).unwrap();
        let z = [0.1f32, 0.5];
        let fractions = Tensor::<1>::from_floats(z, &device);
        let q = normal::<3>("q", [batch, query, width], &device);
        let k = normal::<3>("k", [batch, window + query, width], &device);
        let v = normal::<3>("v", [batch, window + query, width], &device);
        let found = banded_attention(BandedAttention {
            query: q.clone(),
            key: k.clone(),
            value: v.clone(),
            heads,
            window,
            nearest: Nearest::Previous,
            relative: None,
            span: Some(SpanWindow {
                mask: SpanMask::PerHead(soft.mask(fractions.clone(), window)),
                keep: z.map(|z| soft.size(z)).to_vec(),
                epsilon: 1e-8,
            }),
            persistent: None,
            scale: 0.5,
            dropout: Dropout::off(),
        })
        .unwrap();
        // Softmax over every column, then the mask, then the sum again: one query and head at a time.
        let mut expected = vec![];
        for b in 0..batch {
            for m in 0..query {
                for h in 0..heads {
                    let part = |x: &Tensor<3>, from: usize, rows: usize| {
                        x.clone()
                            .slice(s![
                                b..b + 1,
                                from..from + rows,
                                h * head_dim..(h + 1) * head_dim
                            ])
                            .reshape([rows, head_dim])
                    };
                    let scores = part(&q, m, 1).matmul(part(&k, m, window).transpose()) * 0.5;
                    let weights = softmax(scores, 1).reshape([1, 1, window]);
                    let one = fractions.clone().slice(s![h..h + 1]);
                    let weights = soft.apply(weights, one, 1e-8).unwrap();
                    expected.push(weights.reshape([1, window]).matmul(part(&v, m, window)));
                }
            }
        }
        let expected = Tensor::cat(expected, 0).reshape([batch, query, width]);
        assert_close(backend, found, expected, 2e-6, 2e-5);
    }
}

#[test]
fn trimming_changes_nothing() {
    for (_, device) in devices() {
        let s = SoftSpanMask::new(64, 5).unwrap();
        let z = [0.1f32, 0.3];
        let fractions = Tensor::<1>::from_floats(z, &device);
        let out = |window: usize, keep: Vec<usize>| {
            banded_attention(BandedAttention {
                query: normal("q", [2, 9, 8], &device),
                key: normal("k", [2, 64 + 9, 8], &device),
                value: normal("v", [2, 64 + 9, 8], &device),
                heads: 2,
                window,
                nearest: Nearest::Previous,
                relative: Some(normal::<2>("p", [4, 64], &device).narrow(1, 64 - window, window)),
                span: Some(SpanWindow {
                    mask: SpanMask::PerHead(s.mask(fractions.clone(), window)),
                    keep,
                    epsilon: 1e-8,
                }),
                persistent: None,
                scale: 0.5,
                dropout: Dropout::new(0.3, Key::new(1)).unwrap(),
            })
            .unwrap()
        };
        let full = out(64, vec![64, 64]);
        assert_close("layer", out(32, vec![32, 32]), full.clone(), 1e-6, 1e-5);
        assert_close(
            "head",
            out(32, z.map(|z| s.size(z)).to_vec()),
            full,
            1e-6,
            1e-5,
        );
    }
}

#[test]
fn one_thread_and_many_give_the_same_bits() {
    let pool = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    };
    let case = cases()[2];
    let device = Device::flex();
    let (one, one_grads) = pool(1).install(|| run(case, &device, true));
    let (many, many_grads) = pool(4).install(|| run(case, &device, true));
    assert_eq!(one.into_data(), many.into_data());
    for ((name, a), (_, b)) in one_grads.into_iter().zip(many_grads) {
        assert_eq!(a.into_data(), b.into_data(), "{name}");
    }
}

#[test]
fn skew_undoes_unskew() {
    for (_, device) in devices() {
        let band = normal::<4>("band", [2, 3, 5, 7], &device);
        assert_close("band", unskew(skew(band.clone())), band, 0.0, 0.0);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let device = Device::flex();
    let input = |window, key: usize, heads| BandedAttention {
        query: normal("q", [1, 4, 6], &device),
        key: normal("k", [1, key, 6], &device),
        value: normal("v", [1, key, 6], &device),
        heads,
        window,
        nearest: Nearest::Previous,
        relative: None,
        span: None,
        persistent: None,
        scale: 1.0,
        dropout: Dropout::off(),
    };
    let message = |i| banded_attention(i).unwrap_err().to_string();
    assert!(message(input(5, 8, 2)).contains("expected 1..=4"));
    assert!(message(input(0, 8, 2)).contains("`window` is 0"));
    assert!(message(input(2, 8, 4)).contains("heads = 4"));
    assert!(message(input(2, 3, 2)).contains("`window`"));
}
