//! The model against its twin in loops over `f64`: outputs, memories, compression losses and the gradient of every weight, for what
//! no golden case covers.

mod naive;

use burn::prelude::*;
use compressive_transformer::{
    CompressedMemoryState, CompressionLoss, CompressiveTransformer, CompressiveTransformerConfig,
    CompressorKind, Mode, NormPlace, Pooling, Position, Usage,
};
use core_attn::dropout::Dropout;
use core_attn::random::Key;
use naive::{Memory, Rows, Twin};
use std::collections::BTreeMap;

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use common::devices;

const BATCH: usize = 2;
const WIDTH: usize = 6;
type Change = fn(&mut CompressiveTransformerConfig);

fn small() -> CompressiveTransformerConfig {
    CompressiveTransformerConfig {
        vocab_size: Some(5),
        chunk_size: 5,
        memory_size: 7,
        compressed_memory_size: 4,
        compression_rate: 2,
        value_size: 3,
        num_heads: 2,
        num_layers: 2,
        mlp_hidden_sizes: vec![7],
        ..Default::default()
    }
}

fn variants() -> Vec<(&'static str, CompressiveTransformerConfig)> {
    let all: [(&str, Change); 17] = [
        ("plain", |_| {}),
        ("contiguous", |c| c.position = Position::Contiguous),
        ("contiguous, clamped", |c| {
            c.position = Position::Contiguous;
            c.clamp_time_range = 3;
        }),
        ("clamped", |c| c.clamp_time_range = 4),
        ("both norms", |c| c.layer_norm = NormPlace::Both),
        ("output norms", |c| c.layer_norm = NormPlace::Output),
        ("same length", |c| c.same_attention_length = true),
        ("same length, contiguous, both norms", |c| {
            c.same_attention_length = true;
            c.position = Position::Contiguous;
            c.layer_norm = NormPlace::Both;
        }),
        ("most used", |c| c.compressor = CompressorKind::MostUsed),
        ("most used, running", |c| {
            c.compressor = CompressorKind::MostUsed;
            c.usage = Usage::Running;
        }),
        ("max pool, wide", |c| {
            c.compressor = CompressorKind::Pool;
            c.pooling = Pooling::Max;
            c.kernel_size = 1;
        }),
        ("dilated", |c| c.dilation_rates = Some(vec![1, 2])),
        ("auto-encoder", |c| c.compression_loss = CompressionLoss::Ae),
        ("nothing learned", |c| {
            c.compression_loss = CompressionLoss::None;
        }),
        ("short memory, wide window", |c| {
            c.memory_size = 3;
            c.kernel_size = 2;
        }),
        ("two hidden layers", |c| c.mlp_hidden_sizes = vec![4, 8]),
        ("transformer-xl", |c| c.compressed_memory_size = 0),
    ];
    let with = |(name, change): (&'static str, Change)| {
        let mut config = small();
        change(&mut config);
        (name, config)
    };
    all.into_iter().map(with).collect()
}

/// Lengths of the chunks of a text: whole ones, single tokens, and a short one at the end.
const CHUNKS: [usize; 11] = [5, 5, 5, 1, 1, 1, 1, 5, 5, 3, 5];

/// Rows `[batch, length, width]`, host and device.
fn rows(name: &str, length: usize, device: &Device) -> (Vec<Rows>, Tensor<3>) {
    let key = Key::new(5).site(name);
    let at = |b: usize, t: usize, j: usize| key.normal(((b * length + t) * WIDTH + j) as u64);
    let host: Vec<Rows> = (0..BATCH)
        .map(|b| {
            let row = |t: usize| (0..WIDTH).map(|j| at(b, t, j) as f32 as f64).collect();
            (0..length).map(row).collect()
        })
        .collect();
    let flat: Vec<f32> = host.iter().flatten().flatten().map(|x| *x as f32).collect();
    let data = TensorData::new(flat, [BATCH, length, WIDTH]);
    (host, Tensor::from_data(data, device))
}

/// The model with every weight drawn anew, so that no bias or gain is at its special initial value; and its twin.
fn pair<'a>(
    config: &'a CompressiveTransformerConfig,
    device: &Device,
) -> (CompressiveTransformer, Twin<'a>) {
    let model = config.init(Key::new(1), device).unwrap();
    let mut weights = pretrained::collect_weights(&model);
    for (name, data) in &mut weights {
        let key = Key::new(2).site(name);
        let shift = if name.ends_with("gamma") { 1.0 } else { 0.0 };
        let values = data.iter::<f64>().enumerate();
        let values = values.map(|(i, w)| (w + 0.2 * key.normal(i as u64) + shift * 0.1) as f32);
        *data = TensorData::new(values.collect::<Vec<f32>>(), data.shape().clone());
    }
    let twin = Twin {
        config,
        weights: numbers(&weights),
    };
    let file = "drawn".as_ref();
    let model = compressive_transformer::from_tensors(config, weights, file, device).unwrap();
    (model, twin)
}

fn numbers(tensors: &pretrained::NamedTensors) -> BTreeMap<String, Vec<f64>> {
    let all = tensors.iter();
    all.map(|(name, data)| (name.clone(), data.iter::<f64>().collect()))
        .collect()
}

#[track_caller]
fn close(name: &str, found: Tensor<3>, expected: &[Rows]) {
    let found: Vec<f64> = found.into_data().iter::<f64>().collect();
    let expected: Vec<f64> = expected.iter().flatten().flatten().copied().collect();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        let off = (f - e).abs();
        assert!(
            off <= 2e-5 + 2e-5 * e.abs(),
            "{name}: element {i} is {f}, expected {e}"
        );
    }
}

fn blank(model: &CompressiveTransformer) -> CompressedMemoryState {
    model.state(BATCH, model.memory_sizes(), false).unwrap()
}

#[test]
fn a_text_is_read_as_the_twin_reads_it() {
    for (backend, device) in devices() {
        for (name, config) in variants() {
            let (model, twin) = pair(&config, &device);
            let (text, tensor) = rows("text", CHUNKS.iter().sum(), &device);
            let mut state = blank(&model);
            let mut memories = vec![twin.blank(); BATCH];
            let mut at = 0;
            for (k, n) in CHUNKS.into_iter().enumerate() {
                let what = format!("{backend} {name} chunk {k}");
                let mode = Mode::training(Dropout::off());
                let chunk = tensor.clone().narrow(1, at, n);
                let out = model.forward_rows(chunk, state, mode, &mut |_| {}).unwrap();
                let read =
                    |b: usize| twin.read(&text[b][at..at + n].to_vec(), &memories[b], k as u64);
                let twins: Vec<_> = (0..BATCH).map(read).collect();
                let hidden: Vec<Rows> = twins.iter().map(|t| t.hidden.clone()).collect();
                close(&what, out.hidden, &hidden);
                for (i, layer) in out.state.layers.iter().enumerate() {
                    let of = |f: fn(&Memory) -> &Rows| -> Vec<Rows> {
                        twins.iter().map(|t| f(&t.memories[i]).clone()).collect()
                    };
                    close(&what, layer.episodic.rows().unwrap(), &of(|m| &m.episodic));
                    if let Some(rows) = layer.compressed.rows() {
                        close(&what, rows, &of(|m| &m.compressed));
                    }
                    let loss = twins.iter().map(|t| t.losses[i]).sum::<f64>() / BATCH as f64;
                    let found = f64::from(out.losses[i].clone().into_scalar::<f32>());
                    let off = (found - loss).abs();
                    assert!(
                        off <= 1e-5 + 1e-4 * loss,
                        "{what} layer {i}: {found}, expected {loss}"
                    );
                }
                memories = twins.into_iter().map(|t| t.memories).collect();
                state = out.state;
                at += n;
            }
        }
    }
}

/// The slope of `f` along a direction over one weight, by central differences.
fn slope(twin: &Twin<'_>, name: &str, direction: &[f64], f: &dyn Fn(&Twin<'_>) -> f64) -> f64 {
    let step = 1e-5;
    let moved = |by: f64| {
        let mut weights = twin.weights.clone();
        for (w, d) in weights.get_mut(name).unwrap().iter_mut().zip(direction) {
            *w += by * d;
        }
        let config = twin.config;
        f(&Twin { config, weights })
    };
    (moved(step) - moved(-step)) / (2.0 * step)
}

/// A scalar of the outputs that weighs each of them differently.
fn weighed(hidden: Tensor<3>, target: &Tensor<3>) -> Tensor<1> {
    (hidden * target.clone()).mean()
}

fn weighed_rows(hidden: &[Rows], target: &[Rows]) -> f64 {
    let pairs = hidden
        .iter()
        .flatten()
        .flatten()
        .zip(target.iter().flatten().flatten());
    let all: Vec<f64> = pairs.map(|(h, t)| h * t).collect();
    all.iter().sum::<f64>() / all.len() as f64
}

/// Gradients of the model against slopes of the twin, weight by weight; `expected` gives nothing for a weight that must have none.
fn check_gradients(
    what: &str,
    model: &CompressiveTransformer,
    twin: &Twin<'_>,
    loss: Tensor<1>,
    expected: &dyn Fn(&str, &[f64]) -> Option<f64>,
) {
    let grads = numbers(&pretrained::collect_gradients(model, &loss.backward()));
    for (name, weights) in &twin.weights {
        if name.contains("/embed/") || name.contains("/output/") {
            continue;
        }
        let key = Key::new(9).site(name);
        let direction: Vec<f64> = (0..weights.len()).map(|i| key.normal(i as u64)).collect();
        let none = vec![0.0; weights.len()];
        let grad = grads.get(name).unwrap_or(&none);
        let found: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
        match expected(name, &direction) {
            Some(slope) => {
                let size: f64 = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
                let off = (found - slope).abs();
                assert!(
                    off <= 1e-5 + 1e-3 * (slope.abs() + size),
                    "{what} {name}: {found}, expected {slope}"
                );
            }
            None => assert_eq!(grad, &none, "{what} {name} must have no gradient"),
        }
    }
}

fn is_compressor(name: &str) -> bool {
    name.contains("conv_compressor")
}

#[test]
fn every_weight_has_the_gradient_of_its_own_loss_and_no_other() {
    for (backend, device) in devices() {
        if backend == "wgpu" {
            // The outputs are compared there; the differences of its f32 sums are larger than this test allows.
            continue;
        }
        for (name, config) in variants() {
            let tracked = device.clone().autodiff();
            let (model, twin) = pair(&config, &tracked);
            let (text, tensor) = rows("text", 20, &device);
            let (aim, aim_tensor) = rows("aim", 5, &device);
            let mut state = blank(&model);
            let mut memories = vec![twin.blank(); BATCH];
            let chunk = |b: usize, k: usize| text[b][k * 5..(k + 1) * 5].to_vec();
            let mode = Mode::training(Dropout::off());
            for k in 0..3 {
                let part = tensor.clone().narrow(1, k * 5, 5);
                let out = model.forward_rows(part, state, mode, &mut |_| {}).unwrap();
                state = out.state.detach();
                let read = |b: usize| twin.read(&chunk(b, k), &memories[b], k as u64).memories;
                memories = (0..BATCH).map(read).collect();
            }
            let last = || {
                let part = tensor.clone().narrow(1, 15, 5);
                model
                    .forward_rows(part, state.clone(), mode, &mut |_| {})
                    .unwrap()
            };
            let twins = |twin: &Twin<'_>| -> Vec<_> {
                (0..BATCH)
                    .map(|b| twin.read(&chunk(b, 3), &memories[b], 3))
                    .collect()
            };
            let what = format!("{backend} {name}: task");
            let task = |twin: &Twin<'_>| {
                let hidden: Vec<Rows> = twins(twin).into_iter().map(|t| t.hidden).collect();
                weighed_rows(&hidden, &aim)
            };
            let loss = weighed(last().hidden, &aim_tensor);
            check_gradients(&what, &model, &twin, loss, &|name, direction| {
                (!is_compressor(name)).then(|| slope(&twin, name, direction, &task))
            });
            let aux = last().aux_loss().unwrap();
            assert_eq!(aux.is_tracked(), config.has_compression_loss(), "{name}");
            if !aux.is_tracked() {
                continue;
            }
            let what = format!("{backend} {name}: compression");
            let loss = |twin: &Twin<'_>| {
                let all: Vec<f64> = twins(twin).into_iter().flat_map(|t| t.losses).collect();
                all.iter().sum::<f64>() / all.len() as f64
            };
            check_gradients(&what, &model, &twin, aux, &|name, direction| {
                is_compressor(name).then(|| slope(&twin, name, direction, &loss))
            });
        }
    }
}

#[test]
fn the_tasks_loss_reaches_the_compressors_through_one_chunk_and_the_memories_stay_fixed() {
    let device = Device::flex();
    for dilation_rates in [None, Some(vec![1])] {
        let config = CompressiveTransformerConfig {
            compression_loss: CompressionLoss::Bptt,
            dilation_rates,
            ..small()
        };
        let (model, twin) = pair(&config, &device.clone().autodiff());
        let (text, tensor) = rows("text", 25, &device);
        let (aim, aim_tensor) = rows("aim", 5, &device);
        let chunk = |b: usize, k: usize| text[b][k * 5..(k + 1) * 5].to_vec();
        let mode = Mode::training(Dropout::off());
        let mut state = blank(&model);
        // What each sequence remembers before each chunk.
        let mut past = vec![vec![twin.blank(); BATCH]];
        let mut tasks = vec![];
        for k in 0..5 {
            if k <= 3 {
                state = state.detach();
            }
            let part = tensor.clone().narrow(1, k * 5, 5);
            let out = model.forward_rows(part, state, mode, &mut |_| {}).unwrap();
            tasks.push(weighed(out.hidden, &aim_tensor));
            state = out.state;
            let read = |b: usize| twin.read(&chunk(b, k), &past[k][b], k as u64).memories;
            past.push((0..BATCH).map(read).collect());
        }
        let loss = Tensor::cat(tasks.split_off(3), 0).mean();
        let task = |twin: &Twin<'_>, k: usize, before: &[Vec<Memory>]| {
            let read = |b: usize| twin.read(&chunk(b, k), &before[b], k as u64).hidden;
            weighed_rows(&(0..BATCH).map(read).collect::<Vec<_>>(), &aim)
        };
        // A weight of the model moves both chunks but not what they remember; one of a compressor moves what chunk 3 leaves to 4.
        let main = |twin: &Twin<'_>| (task(twin, 3, &past[3]) + task(twin, 4, &past[4])) / 2.0;
        let own = |moved: &Twin<'_>| {
            let read = |b: usize| moved.read(&chunk(b, 3), &past[3][b], 3).memories;
            let before: Vec<Vec<Memory>> = (0..BATCH).map(read).collect();
            (task(moved, 3, &past[3]) + task(moved, 4, &before)) / 2.0
        };
        check_gradients("bptt", &model, &twin, loss, &|name, direction| {
            Some(match is_compressor(name) {
                true => slope(&twin, name, direction, &own),
                false => slope(&twin, name, direction, &main),
            })
        });
    }
}
