//! Attention over memories: the fast version against the naive one, on every backend, and the memories themselves.

mod common;

use burn::prelude::*;
use common::{assert_close, devices, normal};
use core_attn::dropout::Dropout;
use core_attn::mask::Mask;
use core_attn::memory::{
    Attended, MemoryFifo, RelativeAttention, Segment, SinusoidTable, attention_region_stats,
    causal_memory_mask, relative_attention, relative_attention_naive, sinusoid_table,
};
use core_attn::random::Key;

/// Rows and reach of a segment.
type Shape = (usize, usize);

struct Case {
    batch: usize,
    query: usize,
    heads: usize,
    dim: usize,
    value_dim: usize,
    segments: &'static [Shape],
    biases: bool,
    same_length: bool,
    extra: bool,
    dropout: f64,
}

const CASES: [Case; 5] = [
    // Compressed memory, memory and chunk: the compressed rows' table reaches past their end.
    Case {
        batch: 2,
        query: 7,
        heads: 3,
        dim: 5,
        value_dim: 4,
        segments: &[(6, 13), (16, 16)],
        biases: true,
        same_length: false,
        extra: false,
        dropout: 0.0,
    },
    Case {
        batch: 1,
        query: 63,
        heads: 2,
        dim: 60,
        value_dim: 60,
        segments: &[(20, 83), (32, 95), (63, 63)],
        biases: true,
        same_length: true,
        extra: true,
        dropout: 0.0,
    },
    // One segment without biases, as where all keys are numbered together.
    Case {
        batch: 3,
        query: 5,
        heads: 1,
        dim: 8,
        value_dim: 8,
        segments: &[(11, 11)],
        biases: false,
        same_length: false,
        extra: false,
        dropout: 0.3,
    },
    Case {
        batch: 1,
        query: 1,
        heads: 2,
        dim: 2,
        value_dim: 3,
        segments: &[(4, 5), (3, 3)],
        biases: true,
        same_length: true,
        extra: true,
        dropout: 0.0,
    },
    Case {
        batch: 2,
        query: 4,
        heads: 2,
        dim: 3,
        value_dim: 3,
        segments: &[(4, 4)],
        biases: true,
        same_length: true,
        extra: false,
        dropout: 0.5,
    },
];

#[test]
fn fast_equals_naive() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for (index, case) in CASES.iter().enumerate() {
            let Case {
                batch,
                query: n,
                heads,
                dim,
                value_dim,
                ..
            } = *case;
            let leaf2 =
                |name: &str, shape: [usize; 2]| normal::<2>(name, shape, &device).require_grad();
            let leaf3 =
                |name: &str, shape: [usize; 3]| normal::<3>(name, shape, &device).require_grad();
            let query = leaf3("q", [batch, n, heads * dim]);
            let content = case.biases.then(|| leaf2("u", [heads, dim]));
            let segments: Vec<Segment> = case
                .segments
                .iter()
                .enumerate()
                .map(|(i, &(rows, reach))| Segment {
                    key: leaf3(&format!("k{i}"), [batch, rows, heads * dim]),
                    value: leaf3(&format!("v{i}"), [batch, rows, heads * value_dim]),
                    relative: leaf2(&format!("r{i}"), [reach, heads * dim]),
                    bias: case.biases.then(|| leaf2(&format!("w{i}"), [heads, dim])),
                })
                .collect();
            let keys = case.segments.iter().map(|s| s.0).sum();
            let extra = case
                .extra
                .then(|| normal::<4>("b", [1, heads, n, keys], &device).require_grad());
            let weight = normal::<3>("w", [batch, n, heads * value_dim], &device);
            let run = |f: fn(RelativeAttention) -> core_attn::Result<Attended>, weights: bool| {
                let attended = f(RelativeAttention {
                    query: query.clone(),
                    heads,
                    content_bias: content.clone(),
                    segments: segments.clone(),
                    mask: Some(causal_memory_mask(n, keys, case.same_length, &device)),
                    bias: extra.clone(),
                    dropout: Dropout::new(case.dropout, Key::new(4)).unwrap(),
                    weights,
                })
                .unwrap();
                let grads = (attended.out.clone() * weight.clone()).sum().backward();
                let mut all = vec![("q".to_owned(), flat(query.grad(&grads).unwrap()))];
                for (i, s) in segments.iter().enumerate() {
                    all.push((format!("k{i}"), flat(s.key.grad(&grads).unwrap())));
                    all.push((format!("v{i}"), flat(s.value.grad(&grads).unwrap())));
                    all.push((format!("r{i}"), flat(s.relative.grad(&grads).unwrap())));
                    if let Some(w) = &s.bias {
                        all.push((format!("w{i}"), flat(w.grad(&grads).unwrap())));
                    }
                }
                if let Some(u) = &content {
                    all.push(("u".into(), flat(u.grad(&grads).unwrap())));
                }
                if let Some(b) = &extra {
                    all.push(("bias".into(), flat(b.grad(&grads).unwrap())));
                }
                (attended, all)
            };
            let (naive, naive_grads) = run(relative_attention_naive, true);
            for weights in [false, true] {
                let name = format!("{backend} case {index} weights {weights}");
                let (fast, grads) = run(relative_attention, weights);
                assert_close(
                    &name,
                    fast.out.inner(),
                    naive.out.clone().inner(),
                    1e-5,
                    1e-4,
                );
                assert_eq!(fast.weights.is_some(), weights);
                if let (Some(f), Some(n)) = (fast.weights, naive.weights.clone()) {
                    assert_close(&name, f.inner(), n.inner(), 1e-5, 1e-4);
                }
                for ((which, f), (_, n)) in grads.into_iter().zip(naive_grads.clone()) {
                    assert_close(&format!("{name} grad {which}"), f, n, 2e-4, 5e-4);
                }
            }
        }
    }
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n = x.shape().num_elements();
    x.reshape([n])
}

/// A call on one segment of six rows, with a mask.
fn call(key: Tensor<3>, value: Tensor<3>, mask: Mask) -> RelativeAttention {
    let device = key.device();
    RelativeAttention {
        query: normal("q", [2, 3, 4], &device),
        heads: 2,
        content_bias: None,
        segments: vec![Segment {
            key,
            value,
            relative: normal("r", [6, 4], &device),
            bias: None,
        }],
        mask: Some(mask),
        bias: None,
        dropout: Dropout::off(),
        weights: false,
    }
}

#[test]
fn padding_may_hold_nan() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        let mask = Mask::lengths(&[6, 4], 3, 6, &device).unwrap();
        let mask = mask.and(causal_memory_mask(3, 6, false, &device));
        let rows = |name: &str, hole: f32| {
            let t = normal::<3>(name, [2, 6, 4], &device);
            t.slice_assign(s![1.., 4.., ..], Tensor::full([1, 2, 4], hole, &device))
                .require_grad()
        };
        let run = |hole: f32, weights: bool| {
            let (key, value) = (rows("k", hole), rows("v", hole));
            let input = RelativeAttention {
                weights,
                ..call(key.clone(), value.clone(), mask.clone())
            };
            let out = relative_attention(input).unwrap().out;
            let grads = out.clone().square().sum().backward();
            [
                out.inner(),
                key.grad(&grads).unwrap(),
                value.grad(&grads).unwrap(),
            ]
        };
        let clean = run(0.0, false);
        for weights in [false, true] {
            for (found, expected) in run(f32::NAN, weights).into_iter().zip(clean.clone()) {
                assert_close(backend, found, expected, 1e-5, 1e-5);
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let device = Device::flex();
    let mask = || causal_memory_mask(3, 6, false, &device);
    let rows = |n: usize, w: usize| Tensor::<3>::ones([2, n, w], &device);
    let message = |input: RelativeAttention| relative_attention(input).unwrap_err().to_string();
    for (found, part) in [
        (message(call(rows(6, 3), rows(6, 4), mask())), "`key`"),
        (message(call(rows(6, 4), rows(5, 4), mask())), "`value`"),
        (message(call(rows(7, 4), rows(7, 4), mask())), "`relative`"),
        (message(call(rows(5, 4), rows(5, 4), mask())), "`mask`"),
    ] {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    let none = RelativeAttention {
        segments: vec![],
        ..call(rows(6, 4), rows(6, 4), mask())
    };
    assert!(message(none).contains("segments"));
    let no_heads = RelativeAttention {
        heads: 3,
        ..call(rows(6, 4), rows(6, 4), mask())
    };
    assert!(message(no_heads).contains("`query`"));
}

#[test]
fn memories_are_first_in_first_out() {
    for (backend, device) in devices() {
        // Numbers count up, so a memory's rows say which ones it holds.
        let block = |from: usize, n: usize| {
            let rows: Vec<f32> = (from..from + n).map(|x| x as f32).collect();
            Tensor::<3>::from_data(TensorData::new(rows, [1, n, 1]), &device)
        };
        let held = |fifo: &MemoryFifo| -> Vec<i32> {
            let rows = fifo
                .rows()
                .map(|r| r.into_data().iter::<f32>().collect::<Vec<_>>());
            rows.unwrap_or_default()
                .into_iter()
                .map(|x| x as i32)
                .collect()
        };
        for size in [1, 3, 8, 13] {
            let mut fifo = MemoryFifo::empty(size);
            let mut all: Vec<i32> = vec![];
            let mut from = 0;
            for n in [
                1, 1, 2, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 20, 1, 2, 3, 1, 1, 1, 1, 1, 1,
            ] {
                let next = block(from, n);
                let known: Vec<i32> = held(&fifo)
                    .into_iter()
                    .chain((from..from + n).map(|x| x as i32))
                    .collect();
                for k in [0, 1, n, size, size + n] {
                    let oldest = fifo.oldest(&next, k);
                    let oldest: Vec<i32> = oldest.map_or(vec![], |t| {
                        t.into_data().iter::<f32>().map(|x| x as i32).collect()
                    });
                    assert_eq!(oldest, known[..k.min(known.len())], "{backend}");
                }
                // Views taken before a push must not change with it.
                let before = fifo.clone();
                let seen = held(&before);
                fifo = fifo.push(next);
                assert_eq!(held(&before), seen, "{backend}");
                all.extend((from..from + n).map(|x| x as i32));
                from += n;
                assert_eq!(
                    held(&fifo),
                    all[all.len().saturating_sub(size)..],
                    "{backend} size {size}"
                );
                assert_eq!(fifo.len(), all.len().min(size));
            }
        }
        let fifo = MemoryFifo::zeros(2, 3, 1, &device).push(Tensor::ones([2, 2, 1], &device));
        let cleared = fifo.clear_sequences(&[1]).rows().unwrap();
        let values: Vec<f32> = cleared.into_data().iter::<f32>().collect();
        assert_eq!(values, [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert!(
            MemoryFifo::zeros(2, 0, 1, &device)
                .push(Tensor::ones([2, 2, 1], &device))
                .is_empty()
        );
    }
}

#[test]
fn sinusoids_run_to_distance_zero() {
    let device = Device::flex();
    let table = sinusoid_table(5, 4, None, &device).unwrap();
    let values: Vec<f32> = table.into_data().iter::<f32>().collect();
    let row = |p: f32| [p.sin(), (p * 0.01).sin(), p.cos(), (p * 0.01).cos()];
    for (i, found) in values.chunks(4).enumerate() {
        for (f, e) in found.iter().zip(row(4.0 - i as f32)) {
            assert!((f - e).abs() < 1e-6);
        }
    }
    let clamped = sinusoid_table(5, 4, Some(2), &device).unwrap();
    let long = SinusoidTable::new(9, 4, Some(2), &device).unwrap();
    assert_close("clamped", long.rows(5).unwrap(), clamped.clone(), 0.0, 0.0);
    assert_close(
        "all far distances are alike",
        clamped.clone().narrow(0, 0, 1),
        clamped.narrow(0, 2, 1),
        0.0,
        0.0,
    );
    assert!(long.rows(10).is_err() && sinusoid_table(3, 5, None, &device).is_err());
}

#[test]
fn attention_mass_by_region() {
    let device = Device::flex();
    // Two queries over 4 compressed rows, none remembered, and 13 of the chunk.
    let weights = Tensor::<4>::ones([1, 1, 2, 17], &device) / 17.0;
    let stats = attention_region_stats(&weights, &[4, 0, 13]).unwrap();
    let stats: Vec<f32> = stats.into_data().iter::<f32>().collect();
    let expected = [0., 0., 0., 0., 0., 4., 2., 2., 2., 2., 2., 3.];
    assert_eq!(stats.len(), expected.len());
    for (f, e) in stats.iter().zip(expected) {
        assert!((f - e / 17.0).abs() < 1e-6, "{stats:?}");
    }
    assert!(attention_region_stats(&weights, &[4, 4, 4]).is_err());
}

#[test]
fn every_query_sees_equally_many_keys() {
    let device = Device::flex();
    for (query, key) in [(4, 9), (4, 4), (3, 20)] {
        let visible = causal_memory_mask(query, key, true, &device).visible();
        let counts: Vec<i64> = visible.int().sum_dim(3).into_data().iter::<i64>().collect();
        assert!(
            counts.iter().all(|c| *c == (key - query + 1) as i64),
            "{counts:?}"
        );
    }
}
