//! Properties of the models that no golden case shows.

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use burn::prelude::*;
use common::{assert_close, devices};
use compressive_transformer::{
    CompressedMemoryState, CompressionLoss, CompressiveTransformer, CompressiveTransformerConfig,
    CompressorKind, LucidrainsConfig, LucidrainsTransformer, MemoryModel, MemorySizes, Mode,
    NormPlace, Pooling, Position, Usage, most_used_rows,
};
use core_attn::dropout::Dropout;
use core_attn::random::Key;

const VOCAB: usize = 17;

fn small() -> CompressiveTransformerConfig {
    CompressiveTransformerConfig {
        vocab_size: Some(VOCAB),
        chunk_size: 6,
        memory_size: 6,
        compressed_memory_size: 4,
        compression_rate: 3,
        value_size: 4,
        num_heads: 3,
        num_layers: 2,
        mlp_hidden_sizes: vec![20],
        ..Default::default()
    }
}

fn lucid() -> LucidrainsConfig {
    serde_json::from_value(serde_json::json!({
        "num_tokens": VOCAB, "dim": 12, "depth": 3, "heads": 3, "seq_len": 6, "mem_len": 6, "cmem_len": 2, "cmem_ratio": 3
    }))
    .unwrap()
}

fn ids(batch: usize, length: usize, device: &Device) -> Tensor<2, Int> {
    let key = Key::new(3);
    let ids: Vec<i32> = (0..(batch * length) as u64)
        .map(|i| key.below(i, VOCAB) as i32)
        .collect();
    Tensor::from_data(TensorData::new(ids, [batch, length]), device)
}

fn training() -> Mode {
    Mode::training(Dropout::off())
}

/// Log-probabilities of a text read in chunks, and the memories behind it.
fn read<M: MemoryModel>(
    model: &M,
    text: &Tensor<2, Int>,
    chunks: &[usize],
    mut state: CompressedMemoryState,
) -> (Tensor<3>, CompressedMemoryState) {
    let (mut at, mut parts) = (0, vec![]);
    for &n in chunks {
        let chunk = text.clone().narrow(1, at, n);
        let out = model
            .read(chunk, None, state, Mode::evaluation(), &mut |_| {})
            .unwrap();
        state = out.state;
        parts.push(model.log_probabilities(out.hidden));
        at += n;
    }
    (Tensor::cat(parts, 1), state)
}

fn variants() -> Vec<(&'static str, CompressiveTransformerConfig)> {
    let with = |f: fn(&mut CompressiveTransformerConfig)| {
        let mut config = small();
        f(&mut config);
        config
    };
    vec![
        ("plain", small()),
        ("contiguous", with(|c| c.position = Position::Contiguous)),
        ("both norms", with(|c| c.layer_norm = NormPlace::Both)),
        ("output norms", with(|c| c.layer_norm = NormPlace::Output)),
        ("same length", with(|c| c.same_attention_length = true)),
        ("clamped", with(|c| c.clamp_time_range = 4)),
        ("transformer-xl", with(|c| c.compressed_memory_size = 0)),
        (
            "most used",
            with(|c| c.compressor = CompressorKind::MostUsed),
        ),
        (
            "most used, running",
            with(|c| {
                c.compressor = CompressorKind::MostUsed;
                c.usage = Usage::Running;
            }),
        ),
        (
            "max pool, wide",
            with(|c| {
                c.compressor = CompressorKind::Pool;
                c.pooling = Pooling::Max;
                c.kernel_size = 1;
            }),
        ),
        (
            "dilated",
            with(|c| {
                c.dilation_rates = Some(vec![1, 2]);
            }),
        ),
        (
            "auto-encoder",
            with(|c| c.compression_loss = CompressionLoss::Ae),
        ),
        ("short memory", with(|c| c.memory_size = 2)),
        (
            "two hidden layers",
            with(|c| c.mlp_hidden_sizes = vec![10, 14]),
        ),
    ]
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

#[test]
fn kept_projections_do_not_change_the_answer() {
    for (backend, device) in devices() {
        for (name, config) in variants() {
            let model = config.init(Key::new(1), &device).unwrap();
            let text = ids(2, 45, &device);
            let chunks = [6, 6, 6, 1, 1, 1, 1, 1, 1, 6, 5, 6, 4];
            let run = |projected: bool| {
                let state = model.state(2, model.memory_sizes(), projected).unwrap();
                read(&model, &text, &chunks, state)
            };
            let (plain, _) = run(false);
            let (kept, _) = run(true);
            assert_close(&format!("{backend} {name}"), kept, plain, 3e-5, 3e-5);
        }
        let one = LucidrainsConfig {
            memory_layers: Some(vec![2]),
            ..lucid()
        };
        let still = LucidrainsConfig {
            enhanced_recurrence: false,
            memory_layers: Some(vec![2, 3]),
            ..lucid()
        };
        for (config, kept) in [(lucid(), false), (one, true), (still, true)] {
            let model = config.init(Key::new(1), &device).unwrap();
            let text = ids(2, 40, &device);
            let chunks = [6, 6, 6, 4, 6, 6, 6];
            let sizes = model.sizes();
            let (plain, _) = read(
                &model,
                &text,
                &chunks,
                model.start(2, sizes, false).unwrap(),
            );
            let (found, state) = read(&model, &text, &chunks, model.start(2, sizes, true).unwrap());
            assert_close(&format!("{backend} {config:?}"), found, plain, 3e-5, 3e-5);
            for layer in state.layers {
                assert_eq!(layer.projected.is_some(), kept, "{config:?}");
                if let Some(projected) = layer.projected {
                    assert_eq!(projected.episodic.len(), layer.episodic.len());
                    assert_eq!(projected.compressed.len(), layer.compressed.len());
                }
            }
        }
    }
}

#[test]
fn nothing_sees_the_future() {
    for (backend, device) in devices() {
        for (name, config) in variants() {
            let model = config.init(Key::new(1), &device).unwrap();
            let text = ids(1, 24, &device);
            let changed = text.clone().slice_assign(
                s![.., 14..15],
                (text.clone().slice(s![.., 14..15]) + 1).remainder_scalar(VOCAB as i32),
            );
            let run = |t: &Tensor<2, Int>| {
                let state = model.state(1, model.memory_sizes(), false).unwrap();
                read(&model, t, &[6, 6, 6, 6], state).0
            };
            let (a, b) = (run(&text), run(&changed));
            let what = format!("{backend} {name}");
            assert_close(
                &what,
                a.clone().narrow(1, 0, 14),
                b.clone().narrow(1, 0, 14),
                1e-6,
                1e-6,
            );
            let moved = host((a - b).narrow(1, 14, 10).abs().max());
            assert!(moved[0] > 1e-4, "{what}: the change is not seen at all");
        }
    }
}

/// Sums of the absolute gradients: outside the compressors, and of them.
fn gradient_sums<M: MemoryModel>(model: &M, loss: Tensor<1>, marks: &[&str]) -> (f64, f64) {
    let all = pretrained::collect_gradients(model, &loss.backward());
    let (mut outside, mut inside) = (0.0, 0.0);
    for (name, data) in all {
        let sum: f64 = data.iter::<f64>().map(f64::abs).sum();
        match marks.iter().any(|mark| name.contains(mark)) {
            true => inside += sum,
            false => outside += sum,
        }
    }
    (outside, inside)
}

const MARKS: [&str; 2] = ["conv_compressor", "compress_mem_fn"];

#[test]
fn the_compression_loss_moves_the_compressors_and_nothing_else() {
    for (backend, device) in devices() {
        for loss in [
            CompressionLoss::Mha,
            CompressionLoss::Ae,
            CompressionLoss::None,
        ] {
            for dilations in [None, Some(vec![1])] {
                if loss == CompressionLoss::Ae && dilations.is_some() {
                    continue;
                }
                let config = CompressiveTransformerConfig {
                    compression_loss: loss,
                    dilation_rates: dilations,
                    ..small()
                };
                let device = device.clone().autodiff();
                let model = config.init(Key::new(1), &device).unwrap();
                let text = ids(2, 24, &device.clone().without_autodiff());
                let mut state = model.state(2, model.memory_sizes(), false).unwrap();
                for k in 0..3 {
                    let chunk = text.clone().narrow(1, k * 6, 6);
                    state = model.forward(chunk, state, training()).unwrap().state;
                }
                let last = |state| {
                    model
                        .forward(text.clone().narrow(1, 18, 6), state, training())
                        .unwrap()
                };
                let output = last(state.clone());
                let aux = output.aux_loss().unwrap();
                if loss == CompressionLoss::None {
                    assert!(!aux.is_tracked() && host(aux) == [0.0]);
                } else {
                    assert!(host(aux.clone().inner())[0] > 0.0);
                    let (outside, inside) = gradient_sums(&model, aux, &MARKS);
                    assert_eq!(outside, 0.0, "{backend} {loss:?}: the auxiliary loss leaks");
                    assert!(inside > 0.0, "{backend} {loss:?}");
                }
                let output = last(state.detach());
                let targets = text.clone().narrow(1, 17, 6);
                let task = model.nll(output.hidden, targets).unwrap().mean();
                let (outside, inside) = gradient_sums(&model, task, &MARKS);
                assert_eq!(
                    inside, 0.0,
                    "{backend} {loss:?}: the task moves the compressor"
                );
                assert!(outside > 0.0);
            }
        }
        let device = device.autodiff();
        let model = lucid().init(Key::new(1), &device).unwrap();
        let text = ids(2, 18, &device.clone().without_autodiff());
        let mut state = model.state(model.sizes()).unwrap();
        for k in 0..3 {
            let chunk = text.clone().narrow(1, k * 6, 6);
            let output = model
                .forward(chunk, None, state, training(), &mut |_| {})
                .unwrap();
            if k == 2 {
                let (outside, inside) = gradient_sums(&model, output.aux_loss().unwrap(), &MARKS);
                assert_eq!(outside, 0.0);
                assert!(inside > 0.0);
            }
            state = output.state;
        }
    }
}

#[test]
fn bptt_reaches_the_compressors_through_the_next_chunk() {
    for (backend, device) in devices() {
        let config = CompressiveTransformerConfig {
            compression_loss: CompressionLoss::Bptt,
            ..small()
        };
        let device = device.autodiff();
        let model = config.init(Key::new(1), &device).unwrap();
        let text = ids(2, 25, &device.clone().without_autodiff());
        let run = |unroll: usize| {
            let mut state = model.state(2, model.memory_sizes(), false).unwrap();
            let mut tasks = vec![];
            for k in 0..4 {
                if k == 4 - unroll {
                    state = state.detach();
                }
                let output = model
                    .forward(text.clone().narrow(1, k * 6, 6), state, training())
                    .unwrap();
                assert!(output.aux_loss().is_none_or(|aux| !aux.is_tracked()));
                let targets = text.clone().narrow(1, k * 6 + 1, 6);
                let task = model.nll(output.hidden, targets).unwrap().mean();
                if k >= 4 - unroll {
                    tasks.push(task);
                }
                state = output.state;
            }
            gradient_sums(&model, Tensor::cat(tasks, 0).mean(), &MARKS)
        };
        assert_eq!(
            run(1).1,
            0.0,
            "{backend}: a row is read one chunk after it was compressed"
        );
        let (outside, inside) = run(2);
        assert!(outside > 0.0 && inside > 0.0, "{backend}");
    }
}

#[test]
fn rows_leave_first_in_first_out_and_the_oldest_are_compressed() {
    for (backend, device) in devices() {
        let config = CompressiveTransformerConfig {
            compressor: CompressorKind::Pool,
            memory_size: 12,
            compressed_memory_size: 5,
            ..small()
        };
        let model = config.init(Key::new(1), &device).unwrap();
        let text = ids(2, 60, &device);
        let mut state = model.state(2, model.memory_sizes(), false).unwrap();
        // All rows ever appended to the memory of layer 0, behind the zeros it starts with.
        let mut past = Tensor::<3>::zeros([2, 12, 12], &device);
        for k in 0..10 {
            let chunk = text.clone().narrow(1, k * 6, 6);
            let mut appended = None;
            let output = model
                .read(chunk, None, state, Mode::evaluation(), &mut |view| {
                    if view.layer == 0 {
                        appended = Some(view.appended.clone());
                    }
                })
                .unwrap();
            past = Tensor::cat(vec![past, appended.unwrap()], 1);
            let layer = &output.state.layers[0];
            let [_, rows, _] = past.dims();
            let name = format!("{backend} chunk {k}");
            let newest = past.clone().narrow(1, rows - 12, 12);
            assert_close(&name, layer.episodic.rows().unwrap(), newest, 0.0, 0.0);
            // What has left is pooled three to one; the newest five of those remain, zeros before there are as many.
            let left = past
                .clone()
                .narrow(1, 0, rows - 12)
                .reshape([2, (rows - 12) / 3, 3, 12]);
            let pooled: Tensor<3> = left.mean_dim(2).squeeze_dim(2);
            let zeros = Tensor::zeros([2, 5, 12], &device);
            let all = Tensor::cat(vec![zeros, pooled], 1);
            let [_, count, _] = all.dims();
            let expected = all.narrow(1, count - 5, 5);
            assert_close(
                &name,
                layer.compressed.rows().unwrap(),
                expected,
                1e-6,
                1e-6,
            );
            // The memory holds two chunks: the first rows to leave are zeros.
            if k < 2 {
                let sum = host(layer.compressed.rows().unwrap().abs().sum());
                assert_eq!(sum, [0.0], "{name}");
            }
            state = output.state;
        }
    }
}

#[test]
fn single_tokens_are_compressed_when_a_window_has_come() {
    for (backend, device) in devices() {
        let model = small().init(Key::new(1), &device).unwrap();
        let text = ids(1, 30, &device);
        let mut state = model.state(1, model.memory_sizes(), false).unwrap();
        let mut seen = vec![];
        for k in 0..30 {
            let before = state.layers[1].compressed.rows().unwrap();
            let out = model
                .forward(text.clone().narrow(1, k, 1), state, training())
                .unwrap();
            let after = out.state.layers[1].compressed.rows().unwrap();
            let moved = host((after - before).abs().sum())[0] > 0.0;
            if moved {
                seen.push(k);
            }
            if k % 3 != 2 {
                assert_eq!(
                    host(out.aux_loss().unwrap().inner()),
                    [0.0],
                    "{backend} {k}"
                );
            }
            state = out.state;
        }
        // The first real row is among the oldest three of memory and token once it has moved down to there.
        assert!(seen.iter().all(|k| k % 3 == 2), "{backend} {seen:?}");
        assert_eq!(seen.first(), Some(&5), "{backend} {seen:?}");
        assert_eq!(seen.len(), 9, "{backend} {seen:?}");
    }
}

#[test]
fn contiguous_positions_equal_separate_ones_without_compressed_memory() {
    for (backend, device) in devices() {
        let run = |position: Position| {
            let config = CompressiveTransformerConfig {
                compressed_memory_size: 0,
                position,
                ..small()
            };
            let model = config.init(Key::new(1), &device).unwrap();
            let state = model.state(2, model.memory_sizes(), false).unwrap();
            read(&model, &ids(2, 18, &device), &[6, 6, 6], state).0
        };
        assert_close(
            backend,
            run(Position::Contiguous),
            run(Position::Separate),
            0.0,
            0.0,
        );
    }
}

#[test]
fn what_is_most_used_is_kept_as_it_is() {
    for (backend, device) in devices() {
        for usage in [Usage::Leaving, Usage::Running] {
            let config = CompressiveTransformerConfig {
                compressor: CompressorKind::MostUsed,
                usage,
                memory_size: 12,
                ..small()
            };
            let model = config.init(Key::new(1), &device).unwrap();
            let text = ids(2, 36, &device);
            let mut state = model.state(2, model.memory_sizes(), false).unwrap();
            // Sums and counts of the attention that each row of the memory of layer 1 has received.
            let mut life = [[(0f32, 0f32); 12]; 2];
            for k in 0..6 {
                let mode = Mode {
                    weights: true,
                    ..Mode::evaluation()
                };
                let mut found = None;
                let output = model
                    .read(
                        text.clone().narrow(1, k * 6, 6),
                        None,
                        state,
                        mode,
                        &mut |view| {
                            if view.layer == 1 {
                                found = Some((
                                    view.weights.unwrap().clone(),
                                    view.compression.unwrap(),
                                ));
                            }
                        },
                    )
                    .unwrap();
                let (weights, compression) = found.unwrap();
                // Columns: 4 compressed, 12 remembered, 6 of the chunk.
                let received: Tensor<2> = weights.mean_dim(1).mean_dim(2).reshape([2, 22]);
                let received = host(received);
                let mut usage_now = vec![];
                for (b, life) in life.iter_mut().enumerate() {
                    let now = &received[b * 22 + 4..b * 22 + 22];
                    let mut all: Vec<(f32, f32)> =
                        life.iter().copied().chain([(0.0, 0.0); 6]).collect();
                    for ((sum, count), now) in all.iter_mut().zip(now) {
                        *sum += now;
                        *count += 1.0;
                    }
                    for i in 0..6 {
                        usage_now.push(match usage {
                            Usage::Leaving => now[i],
                            Usage::Running => all[i].0 / all[i].1,
                        });
                    }
                    life.copy_from_slice(&all[6..]);
                }
                let usage_now = Tensor::<2>::from_data(TensorData::new(usage_now, [2, 6]), &device);
                let index = most_used_rows(&usage_now, 2)
                    .unsqueeze_dim::<3>(2)
                    .expand([2, 2, 12]);
                let expected = compression.old.gather(1, index);
                let name = format!("{backend} {usage:?} {k}");
                assert_close(&name, compression.new, expected, 0.0, 0.0);
                state = output.state;
            }
        }
    }
    let device = Device::flex();
    let usage = Tensor::<2>::from_data([[0.5, 0.1, 0.5, 0.5, 0.2]], &device);
    let index: Vec<i64> = most_used_rows(&usage, 2)
        .into_data()
        .iter::<i64>()
        .collect();
    assert_eq!(index, [0, 2], "of rows used alike the older ones are kept");
}

/// The slope of a chunk's loss along a direction over all weights: by differences, and by the gradient.
fn slopes(config: &CompressiveTransformerConfig, seed: u64, device: &Device) -> (f64, f64) {
    let model = config
        .init(Key::new(seed), &device.clone().autodiff())
        .unwrap();
    let text = ids(2, 19, device);
    // The memories stay what they were: no gradient goes through them, so none may show in the differences.
    let blank = model.state(2, model.memory_sizes(), false).unwrap();
    let (_, state) = read(&model, &text, &[6, 6], blank);
    let state = state.detach();
    let loss = |model: &CompressiveTransformer| {
        let chunk = text.clone().narrow(1, 12, 6);
        let output = model
            .forward(chunk, state.clone(), Mode::evaluation())
            .unwrap();
        model
            .nll(output.hidden, text.clone().narrow(1, 13, 6))
            .unwrap()
            .mean()
    };
    let grads = pretrained::collect_gradients(&model, &loss(&model).backward());
    let weights = pretrained::collect_weights(&model);
    let direction = |name: &str, i: usize| Key::new(seed).site(name).normal(i as u64);
    let mut slope = 0.0;
    for (name, grad) in &grads {
        for (i, g) in grad.iter::<f64>().enumerate() {
            slope += g * direction(name, i);
        }
    }
    let moved = |by: f64| {
        let tensors = weights.iter().map(|(name, data)| {
            let values: Vec<f32> = data
                .iter::<f64>()
                .enumerate()
                .map(|(i, w)| (w + by * direction(name, i)) as f32)
                .collect();
            (name.clone(), TensorData::new(values, data.shape().clone()))
        });
        let model: CompressiveTransformer = compressive_transformer::from_tensors(
            config,
            tensors.collect(),
            "moved".as_ref(),
            device,
        )
        .unwrap();
        f64::from(host(loss(&model))[0])
    };
    let step = 1e-4;
    ((moved(step) - moved(-step)) / (2.0 * step), slope)
}

#[test]
fn gradients_agree_with_differences() {
    let device = Device::flex();
    for (name, config) in variants() {
        let all: Vec<(f64, f64)> = (0..5).map(|seed| slopes(&config, seed, &device)).collect();
        // Where a ReLU's kink lies within the step the two cannot agree; with most weights none does.
        let agree = all
            .iter()
            .filter(|(found, slope)| (found - slope).abs() < 0.01 * slope.abs() + 1e-2);
        assert!(agree.count() >= 3, "{name}: {all:?}");
    }
}

#[test]
fn a_cleared_sequence_begins_anew() {
    for (backend, device) in devices() {
        let model = small().init(Key::new(1), &device).unwrap();
        let text = ids(2, 30, &device);
        for projected in [false, true] {
            let blank = |batch| model.state(batch, model.memory_sizes(), projected).unwrap();
            let (_, state) = read(&model, &text, &[6, 6, 6], blank(2));
            let rest = text.clone().narrow(1, 18, 12);
            let (kept, _) = read(&model, &rest, &[6, 6], state.clone());
            let (found, _) = read(&model, &rest, &[6, 6], state.clear_sequences(&[1]));
            let (fresh, _) = read(&model, &rest.narrow(0, 1, 1), &[6, 6], blank(1));
            assert_close(backend, found.clone().narrow(0, 1, 1), fresh, 2e-6, 2e-6);
            assert_close(
                backend,
                found.narrow(0, 0, 1),
                kept.narrow(0, 0, 1),
                2e-6,
                2e-6,
            );
        }
    }
}

#[test]
fn memories_may_grow_at_evaluation_where_positions_are_sinusoids() {
    let device = Device::flex();
    let model = small().init(Key::new(1), &device).unwrap();
    let larger = MemorySizes {
        episodic: 9,
        compressed: 11,
    };
    let text = ids(1, 48, &device);
    let (own, _) = read(
        &model,
        &text,
        &[6; 8],
        model.state(1, model.memory_sizes(), true).unwrap(),
    );
    let (more, state) = read(
        &model,
        &text,
        &[6; 8],
        model.state(1, larger, true).unwrap(),
    );
    assert_eq!(
        (
            state.layers[0].episodic.len(),
            state.layers[0].compressed.len()
        ),
        (9, 11)
    );
    assert!(host((own - more.clone()).abs().max())[0] > 1e-5);
    assert!(host(more).iter().all(|x| x.is_finite()));
    let blind = model.state(1, larger, true).unwrap().without_compressed();
    assert!(read(&model, &text, &[6], blind).0.dims() == [1, 6, VOCAB]);

    let learned = lucid().init(Key::new(1), &device).unwrap();
    let message = learned.start(1, larger, true).unwrap_err().to_string();
    assert!(message.contains("learned position table"), "{message}");
    let plain = CompressiveTransformerConfig {
        compressed_memory_size: 0,
        ..small()
    };
    let plain = plain.init(Key::new(1), &device).unwrap();
    assert!(
        plain
            .state(1, larger, true)
            .unwrap_err()
            .to_string()
            .contains("no compressor")
    );
}

#[test]
fn a_peek_leaves_the_memories_alone() {
    let device = Device::flex();
    let text = ids(1, 18, &device);
    let check =
        |model: &dyn Fn(&Tensor<2, Int>, CompressedMemoryState, Mode) -> CompressedMemoryState,
         blank: CompressedMemoryState| {
            let chunk = |k: usize, n: usize| text.clone().narrow(1, k * 6, n);
            let state = model(&chunk(0, 6), blank, Mode::evaluation());
            let rows = |s: &CompressedMemoryState| {
                s.layers
                    .iter()
                    .map(|l| host(l.episodic.rows().unwrap()))
                    .collect::<Vec<_>>()
            };
            let before = rows(&state);
            let peeked = model(&chunk(1, 3), state.clone(), Mode::peek());
            assert_eq!(rows(&peeked), before);
            let moved = model(&chunk(1, 6), state, Mode::evaluation());
            assert_ne!(rows(&moved), before);
        };
    let model = small().init(Key::new(1), &device).unwrap();
    check(
        &|t, s, m| model.forward(t.clone(), s, m).unwrap().state,
        model.state(1, model.memory_sizes(), true).unwrap(),
    );
    let model = lucid().init(Key::new(1), &device).unwrap();
    check(
        &|t, s, m| {
            model
                .forward(t.clone(), None, s, m, &mut |_| {})
                .unwrap()
                .state
        },
        model.state(model.sizes()).unwrap(),
    );
}

#[test]
fn padding_reaches_no_real_token() {
    for (backend, device) in devices() {
        let text = ids(2, 12, &device);
        let real: Vec<bool> = (0..12).map(|i| i < 6 || i % 6 < 4).collect();
        let real = Tensor::<2, Bool>::from_data(TensorData::new(real, [2, 6]), &device);
        let other = text.clone().slice_assign(
            s![1.., 10..],
            (text.clone().slice(s![1.., 10..]) + 3).remainder_scalar(VOCAB as i32),
        );
        fn check<M: MemoryModel>(
            what: &str,
            model: &M,
            [text, other]: [&Tensor<2, Int>; 2],
            real: &Tensor<2, Bool>,
        ) {
            let run = |t: &Tensor<2, Int>| {
                let state = model.start(2, model.sizes(), false).unwrap();
                let (_, state) = read(model, t, &[6], state);
                let chunk = t.clone().narrow(1, 6, 6);
                let out = model
                    .read(
                        chunk,
                        Some(real.clone()),
                        state,
                        Mode::evaluation(),
                        &mut |_| {},
                    )
                    .unwrap();
                model.log_probabilities(out.hidden)
            };
            let (a, b) = (run(text), run(other));
            let real = |x: Tensor<3>| x.narrow(0, 1, 1).narrow(1, 0, 4);
            assert_close(what, real(a), real(b), 1e-6, 1e-6);
        }
        let deepmind = small().init(Key::new(1), &device).unwrap();
        let lucid = lucid().init(Key::new(1), &device).unwrap();
        check(backend, &deepmind, [&text, &other], &real);
        check(backend, &lucid, [&text, &other], &real);
    }
}

#[test]
fn dropout_is_a_function_of_its_key() {
    let device = Device::flex();
    let model = small().init(Key::new(1), &device).unwrap();
    let text = ids(1, 6, &device);
    let run = |key: u64| {
        let mode = Mode::training(Dropout::new(0.3, Key::new(key)).unwrap());
        let state = model.state(1, model.memory_sizes(), false).unwrap();
        host(model.forward(text.clone(), state, mode).unwrap().hidden)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn folders_round_trip_and_wrong_ones_are_named() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let text = ids(2, 12, &device);
    let mut all: Vec<CompressiveTransformerConfig> = variants().into_iter().map(|v| v.1).collect();
    for tied in [false, true] {
        all.push(CompressiveTransformerConfig {
            adapt_io: true,
            adapt_io_tied: tied,
            adapt_io_divval: 2,
            adapt_io_cutoffs: vec![5, 9],
            ..small()
        });
    }
    for config in all {
        let model = config.init(Key::new(1), &device).unwrap();
        model.save_pretrained(folder.path()).unwrap();
        let again = CompressiveTransformer::from_pretrained(folder.path(), &device).unwrap();
        assert_eq!(again.config(), &config);
        let [a, b] = [&model, &again].map(|m| {
            let state = m.state(2, m.memory_sizes(), false).unwrap();
            host(read(m, &text, &[6, 6], state).0)
        });
        assert_eq!(a, b);
        assert_eq!(model.num_params() as f64, config.parameters(), "{config:?}");
    }
    let file = folder.path().join("model.safetensors");
    let mut tensors = pretrained::read_tensors(&file).unwrap();
    let key = "compressive_transformer/transformer_tower/layer_0/multihead_attention/key/linear/w";
    tensors.remove(key).unwrap();
    tensors.insert("extra/w".into(), TensorData::new(vec![1.0f32], [1]));
    pretrained::write_safetensors(&file, &tensors).unwrap();
    let message = CompressiveTransformer::from_pretrained(folder.path(), &device)
        .unwrap_err()
        .to_string();
    for part in [key, "[12, 12]", "extra/w"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    for config in [
        lucid(),
        LucidrainsConfig {
            emb_dim: Some(5),
            ff_glu: true,
            gru_gated_residual: false,
            enhanced_recurrence: false,
            memory_layers: Some(vec![2, 3]),
            reconstruction_loss_weight: 0.5,
            ..lucid()
        },
    ] {
        let model = config.init(Key::new(1), &device).unwrap();
        model.save_pretrained(folder.path()).unwrap();
        let again = LucidrainsTransformer::from_pretrained(folder.path(), &device).unwrap();
        assert_eq!(again.config(), &config);
        let [a, b] =
            [&model, &again].map(|m| host(read(m, &text, &[6, 6], m.state(m.sizes()).unwrap()).0));
        assert_eq!(a, b);
        assert_eq!(model.num_params() as f64, config.parameters());
    }
    let message = CompressiveTransformer::from_pretrained(folder.path(), &device)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("lucidrains") && message.contains("profile"),
        "{message}"
    );
}

#[test]
fn impossible_configurations_are_named() {
    let with = |f: fn(&mut CompressiveTransformerConfig)| {
        let mut config = small();
        f(&mut config);
        config
    };
    for (config, part) in [
        (with(|c| c.compression_rate = 0), "model.compression_rate"),
        (with(|c| c.chunk_size = 0), "model.chunk_size"),
        (with(|c| c.num_heads = 0), "model.num_heads"),
        (
            with(|c| (c.num_heads, c.value_size) = (3, 3)),
            "model.value_size",
        ),
        (
            with(|c| c.mlp_hidden_sizes = vec![]),
            "model.mlp_hidden_sizes",
        ),
        (with(|c| c.dropout_rate = 1.0), "model.dropout_rate"),
        (with(|c| c.dropout_rate = f64::NAN), "model.dropout_rate"),
        (with(|c| c.memory_size = 0), "model.memory_size"),
        (with(|c| c.vocab_size = None), "model.vocab_size"),
        (with(|c| c.input_dim = Some(3)), "model.input_dim"),
        (with(|c| c.compression_rate = 30), "no window fits"),
        (
            with(|c| c.dilation_rates = Some(vec![4, 5])),
            "no window fits",
        ),
        (
            with(|c| c.dilation_rates = Some(vec![0])),
            "model.dilation_rates",
        ),
        (
            with(|c| {
                c.compression_loss = CompressionLoss::Ae;
                c.kernel_size = 1;
            }),
            "model.compression_loss",
        ),
        (with(|c| c.num_layers = 3 << 40), "model.num_layers"),
        (with(|c| c.memory_size = usize::MAX / 2), "model.num_layers"),
    ] {
        let message = config
            .init(Key::new(0), &Device::flex())
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let learned = |f: fn(&mut LucidrainsConfig)| {
        let mut config = lucid();
        f(&mut config);
        config
    };
    for (config, part) in [
        (learned(|c| c.heads = 5), "model.dim"),
        (learned(|c| c.mem_len = Some(5)), "model.mem_len"),
        (learned(|c| c.cmem_len = Some(1)), "model.cmem_len"),
        (
            learned(|c| c.memory_layers = Some(vec![4])),
            "model.memory_layers",
        ),
        (
            learned(|c| c.memory_layers = Some(vec![0])),
            "model.memory_layers",
        ),
        (learned(|c| c.one_kv_head = true), "model.one_kv_head"),
        (learned(|c| c.mogrify_gru = true), "model.mogrify_gru"),
        (learned(|c| c.num_tokens = None), "model.num_tokens"),
    ] {
        let message = config
            .init(Key::new(0), &Device::flex())
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let lost = with(|c| (c.chunk_size, c.compressed_memory_size) = (7, 1));
    let warnings = lost.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("newest 1 are dropped"), "{warnings:?}");
    assert!(small().warnings().is_empty());
}

#[test]
fn impossible_inputs_are_named() {
    let device = Device::flex();
    let model = small().init(Key::new(1), &device).unwrap();
    let state = |batch| model.state(batch, model.memory_sizes(), false).unwrap();
    let message = |batch: usize, chunk: usize, state| {
        let out = model.forward(ids(batch, chunk, &device), state, Mode::evaluation());
        out.unwrap_err().to_string()
    };
    assert!(message(1, 7, state(1)).contains("1..=6"));
    assert!(message(2, 6, state(1)).contains("expected batch 2"));
    let mut short = state(1);
    short.layers.pop();
    assert!(message(1, 6, short).contains("2 of the model"));
    let dense = CompressiveTransformerConfig {
        vocab_size: None,
        input_dim: Some(5),
        ..small()
    };
    let dense = dense.init(Key::new(1), &device).unwrap();
    let rows = Tensor::<3>::ones([1, 6, 4], &device);
    let blank = || dense.state(1, dense.memory_sizes(), false).unwrap();
    let out = dense.forward_dense(rows, blank(), Mode::evaluation(), &mut |_| {});
    assert!(out.unwrap_err().to_string().contains("expected 5"));
    let out = dense.forward(ids(1, 6, &device), blank(), Mode::evaluation());
    assert!(out.unwrap_err().to_string().contains("forward_rows"));
}
