//! The authors' model against its twin in plain numbers: what no golden case covers. Scores, losses and centroids are
//! compared; gradients with differences of the twin's loss, which f64 makes exact to many digits.

mod twin;

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use burn::prelude::*;
use common::devices;
use core_attn::random::Key;
use routing_transformer::paper::{OneAxis, PaperConfig, PaperTransformer};
use routing_transformer::*;
use twin::{Numbers, Twin, numbers};

const VOCAB: usize = 11;

/// Two local and two routing heads; no length below is a multiple of the block of 4.
fn base() -> PaperConfig {
    PaperConfig {
        vocab_size: Some(VOCAB),
        hidden_size: 24,
        embedding_dims: Some(10),
        num_decoder_layers: 2,
        filter_size: 14,
        local_num_heads: 2,
        sparsity_cluster_num_heads: 2,
        sparsity_cluster_size: 3,
        sparsity_cluster_attention_window: 5,
        query_shape: OneAxis::Number(4),
        memory_flange: OneAxis::Number(4),
        max_relative_position: Some(3),
        beta: 0.2,
        decay: 0.9,
        ..Default::default()
    }
}

fn cases() -> Vec<(&'static str, PaperConfig)> {
    vec![
        ("length no multiple of the block", base()),
        (
            "normalised before, ReLU, timing, first layer local, two blocks back",
            PaperConfig {
                layer_preprocess_sequence: "n".into(),
                layer_postprocess_sequence: "da".into(),
                ffn_layer: "relu".into(),
                add_timing_signal: true,
                sparsity_skip_first: 1,
                memory_flange: OneAxis::Number(8),
                embedding_dims: None,
                ..base()
            },
        ),
        (
            "bidirectional, keys of their own",
            PaperConfig {
                causal: false,
                share_qk: false,
                ..base()
            },
        ),
        (
            "bidirectional, shared, two blocks on either side",
            PaperConfig {
                causal: false,
                memory_flange: OneAxis::Number(8),
                local_relative: false,
                ..base()
            },
        ),
        (
            "centroids trained by gradients",
            PaperConfig {
                ema: false,
                ..base()
            },
        ),
        (
            "bidirectional, keys of their own, centroids trained by gradients",
            PaperConfig {
                causal: false,
                share_qk: false,
                ema: false,
                ..base()
            },
        ),
        (
            "strictly causal routing",
            PaperConfig {
                strict_causal_routing: true,
                ..base()
            },
        ),
        (
            "routing heads only, clusters wider than the text",
            PaperConfig {
                local_num_heads: 0,
                sparsity_cluster_num_heads: 4,
                sparsity_cluster_relative: false,
                sparsity_cluster_attention_window: 40,
                max_relative_position: None,
                ..base()
            },
        ),
        ("pictures", pictures()),
        (
            "grey pictures without places, strictly causal",
            PaperConfig {
                frame_height: Some(4),
                frame_width: Some(5),
                num_channels: Some(1),
                add_positional_emb: Some(false),
                strict_causal_routing: true,
                ..pictures()
            },
        ),
    ]
}

/// Pictures of 2 x 3 pixels: 18 bytes.
fn pictures() -> PaperConfig {
    PaperConfig {
        vocab_size: None,
        embedding_dims: None,
        frame_height: Some(2),
        frame_width: Some(3),
        ffn_layer: "conv_hidden_relu".into(),
        local_relative: false,
        sparsity_cluster_relative: false,
        max_relative_position: None,
        ..base()
    }
}

/// Texts in which tokens repeat, as the ids of `[batch][length]`; the last one ends in padding that is not scored.
fn texts(config: &PaperConfig) -> (Vec<Vec<i64>>, Vec<Vec<i64>>) {
    let key = Key::new(3).site("texts");
    let row = |r: u64| -> Vec<i64> {
        let id = |i: u64| 1 + key.below(r * 100 + i, VOCAB - 1) as i64;
        (0..config.frame().map_or(13, |f| f.size()) as u64)
            .map(id)
            .collect()
    };
    let inputs = vec![row(0), row(1)];
    let mut targets = vec![row(2), row(3)];
    targets[1][11..].fill(0);
    (inputs, targets)
}

fn ids(rows: &[Vec<i64>], device: &Device) -> Tensor<2, Int> {
    let all: Vec<i32> = rows.iter().flatten().map(|id| *id as i32).collect();
    Tensor::from_data(TensorData::new(all, [rows.len(), rows[0].len()]), device)
}

fn loss(config: &PaperConfig, logits: Tensor<3>, targets: &[Vec<i64>]) -> Tensor<1> {
    let targets = ids(targets, &logits.device());
    match config.frame() {
        Some(_) => cross_entropy_of_bytes(logits, targets).unwrap(),
        None => {
            let (loss, count) = cross_entropy(logits, targets).unwrap();
            assert_eq!(count, 24);
            loss
        }
    }
}

fn model(config: &PaperConfig, device: &Device) -> PaperTransformer {
    config.init(Key::new(9), device).unwrap()
}

fn close(what: &str, found: f64, expected: f64, abs: f64, rel: f64) {
    let off = (found - expected).abs();
    assert!(
        off <= abs + rel * expected.abs(),
        "{what}: {found}, expected {expected} (off by {off:e})"
    );
}

#[test]
fn scores_losses_and_centroids_are_the_twins() {
    for (backend, device) in devices() {
        for (name, config) in cases() {
            let (inputs, targets) = texts(&config);
            let name = format!("{backend}: {name}");
            let model = RoutingTransformerLM::Paper(model(&config, &device));
            let weights = numbers(model.weights());
            let twin = Twin {
                config: &config,
                weights: &weights,
                strict: config.strict_causal_routing,
                stopped: None,
            };
            let expected = twin.run(&inputs, &targets);
            let out = model
                .forward(ids(&inputs, &device), Mode::evaluation())
                .unwrap();
            let found = out.logits.clone().into_data();
            let all = expected.logits.iter().flatten().flatten();
            for (f, e) in found.iter::<f64>().zip(all) {
                close(&name, f, *e, 2e-5, 2e-4);
            }
            let loss = loss(&config, out.logits, &targets);
            let one = |t: Tensor<1>| f64::from(t.into_scalar::<f32>());
            close(&name, one(loss), expected.cross_entropy, 1e-5, 1e-5);
            close(
                &name,
                one(out.clustering_loss),
                expected.clustering,
                1e-5,
                1e-5,
            );

            let moved = numbers(model.with_centroids(&[out.routed]).weights());
            for layer in config.sparsity_skip_first..2 {
                centroids(&name, &config, layer, &weights, &moved, &expected.stopped);
            }
        }
    }
}

/// `N ← γN + (1 − γ)·count`, `S ← γS + (1 − γ)·sum`, `μ = S / Ñ`; queries and keys of their own one after the other.
fn centroids(
    name: &str,
    config: &PaperConfig,
    layer: usize,
    before: &Numbers,
    after: &Numbers,
    seen: &twin::Stopped,
) {
    let place = format!(
        "decoder_layer_{layer}/self_attention/self_attention/attention_nd/cluster_attention/cluster_attention"
    );
    let of = |all: &Numbers, what: &str| all[&format!("{place}/{what}")].clone();
    if !config.ema {
        assert_eq!(of(before, "means"), of(after, "means"), "{name}");
        return;
    }
    let (k, d, g) = (
        config.sparsity_cluster_size,
        config.head_dim(),
        config.decay,
    );
    for head in 0..config.sparsity_cluster_num_heads {
        let mut n = of(before, "ema_count")[head * k..(head + 1) * k].to_vec();
        let mut s = of(before, "ema_means")[head * k * d..(head + 1) * k * d].to_vec();
        for side in 0..if config.share_qk { 1 } else { 2 } {
            let (count, sum) = seen.sums(layer, head, side, k);
            let move_on = |old: &mut f64, new: &f64| *old = g * *old + (1.0 - g) * new;
            n.iter_mut().zip(&count).for_each(|(n, c)| move_on(n, c));
            s.iter_mut()
                .zip(sum.iter().flatten())
                .for_each(|(s, x)| move_on(s, x));
        }
        let total: f64 = n.iter().sum();
        for c in 0..k {
            close(name, of(after, "ema_count")[head * k + c], n[c], 1e-5, 1e-5);
            let smooth = (n[c] + 1e-5) / (total + k as f64 * 1e-5) * total;
            for i in 0..d {
                let at = (head * k + c) * d + i;
                close(name, of(after, "ema_means")[at], s[c * d + i], 1e-5, 1e-5);
                close(
                    name,
                    of(after, "means")[at],
                    s[c * d + i] / smooth,
                    1e-4,
                    1e-4,
                );
            }
        }
    }
}

#[test]
fn gradients_are_differences_of_the_twins_loss() {
    let device = Device::flex().autodiff();
    for (name, config) in cases() {
        let (inputs, targets) = texts(&config);
        let model = RoutingTransformerLM::Paper(model(&config, &device));
        let out = model
            .forward(ids(&inputs, &device), Mode::evaluation())
            .unwrap();
        let loss = loss(&config, out.logits, &targets);
        let grads = numbers(model.gradients(&(loss + out.clustering_loss).backward()));
        let weights = numbers(model.weights());
        let twin = |weights: &Numbers, stopped| {
            let twin = Twin {
                config: &config,
                weights,
                strict: config.strict_causal_routing,
                stopped,
            };
            twin.run(&inputs, &targets)
        };
        let stopped = twin(&weights, None).stopped;
        let mut compared = 0;
        for (tensor, values) in &weights {
            if tensor.contains("ema_") {
                continue;
            }
            // Three places of every tensor, and what is largest.
            let key = Key::new(5).site(tensor);
            let mut places: Vec<usize> = (0..3).map(|i| key.below(i, values.len())).collect();
            if let Some(grad) = grads.get(tensor) {
                places.extend(
                    (0..grad.len()).max_by(|a, b| grad[*a].abs().total_cmp(&grad[*b].abs())),
                );
            }
            for at in places {
                let shifted = |by: f64| {
                    let mut all = weights.clone();
                    all.get_mut(tensor).unwrap()[at] += by;
                    twin(&all, Some(&stopped)).loss()
                };
                let h = 1e-6;
                let slope = (shifted(h) - shifted(-h)) / (2.0 * h);
                // A weight without a gradient, such as a centroid that an average moves, must not matter.
                let found = grads.get(tensor).map_or(0.0, |g| g[at]);
                close(&format!("{name}: {tensor}[{at}]"), found, slope, 2e-6, 2e-3);
                compared += 1;
            }
            let centroid = tensor.ends_with("/means");
            assert!(
                !centroid || config.ema != grads.contains_key(tensor),
                "{name}: {tensor}"
            );
        }
        assert!(compared > 60, "{name}: only {compared} derivatives");
    }
}
