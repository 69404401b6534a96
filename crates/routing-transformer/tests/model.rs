//! Properties of the models that no golden case shows.

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use burn::module::Module;
use burn::prelude::*;
use common::{assert_close, devices, normal};
use core_attn::random::Key;
use routing_transformer::lucidrains::{LocalHeads, LucidrainsAttention, LucidrainsConfig};
use routing_transformer::paper::{OneAxis, PaperConfig, PaperTransformer};
use routing_transformer::*;

const VOCAB: usize = 19;

fn paper() -> PaperConfig {
    PaperConfig {
        vocab_size: Some(VOCAB),
        hidden_size: 24,
        embedding_dims: Some(10),
        num_decoder_layers: 2,
        filter_size: 20,
        local_num_heads: 2,
        sparsity_cluster_num_heads: 2,
        sparsity_cluster_size: 3,
        sparsity_cluster_attention_window: 5,
        query_shape: OneAxis::Number(4),
        memory_flange: OneAxis::List(vec![4]),
        max_relative_position: Some(6),
        ..Default::default()
    }
}

/// Bytes of pictures of 3 x 3 pixels.
fn picture() -> PaperConfig {
    PaperConfig {
        vocab_size: None,
        embedding_dims: None,
        frame_height: Some(3),
        frame_width: Some(3),
        ffn_layer: "relu".into(),
        local_relative: false,
        sparsity_cluster_relative: false,
        ..paper()
    }
}

fn package() -> LucidrainsConfig {
    LucidrainsConfig {
        num_tokens: Some(VOCAB),
        dim: 24,
        depth: 2,
        max_seq_len: 24,
        heads: 4,
        window_size: 6,
        local_attn_window_size: Some(4),
        n_local_attn_heads: LocalHeads::Each(vec![4, 2]),
        causal: true,
        ..Default::default()
    }
}

/// Both flavors in many shapes.
fn all() -> Vec<RoutingTransformerConfig> {
    vec![
        paper().into(),
        PaperConfig {
            layer_preprocess_sequence: "n".into(),
            layer_postprocess_sequence: "da".into(),
            sparsity_skip_first: 1,
            ffn_layer: "relu".into(),
            add_timing_signal: true,
            ..paper()
        }
        .into(),
        PaperConfig {
            causal: false,
            share_qk: false,
            memory_flange: OneAxis::Number(8),
            embedding_dims: None,
            ..paper()
        }
        .into(),
        PaperConfig {
            local_num_heads: 0,
            sparsity_cluster_num_heads: 4,
            sparsity_cluster_relative: false,
            ..paper()
        }
        .into(),
        PaperConfig {
            num_channels: Some(2),
            layer_preprocess_sequence: "n".into(),
            layer_postprocess_sequence: "da".into(),
            ..picture()
        }
        .into(),
        package().into(),
        LucidrainsConfig {
            emb_dim: Some(10),
            shared_qk: Some(false),
            use_scale_norm: true,
            shift_tokens: true,
            ff_glu: true,
            tie_embedding: true,
            num_mem_kv: 2,
            ..package()
        }
        .into(),
        LucidrainsConfig {
            causal: false,
            use_rezero: true,
            shift_tokens: true,
            ..package()
        }
        .into(),
        LucidrainsConfig {
            n_local_attn_heads: LocalHeads::All(0),
            local_attn_window_size: None,
            ..package()
        }
        .into(),
    ]
}

fn ids(batch: usize, length: usize, device: &Device) -> Tensor<2, Int> {
    let key = Key::new(3);
    let ids: Vec<i32> = (0..(batch * length) as u64)
        .map(|i| 1 + key.below(i, VOCAB - 1) as i32)
        .collect();
    Tensor::from_data(TensorData::new(ids, [batch, length]), device)
}

fn logits(model: &RoutingTransformerLM, text: Tensor<2, Int>, strict: Option<bool>) -> Tensor<3> {
    let mode = Mode {
        strict_causal_routing: strict,
        ..Mode::evaluation()
    };
    model.forward(text, mode).unwrap().logits
}

fn largest(x: Tensor<3>) -> f32 {
    x.abs().max().into_data().iter::<f32>().next().unwrap()
}

/// `text` with one token replaced.
fn changed(text: &Tensor<2, Int>, at: usize) -> Tensor<2, Int> {
    let other = text
        .clone()
        .slice(s![.., at..at + 1])
        .remainder_scalar(VOCAB as i32 - 1)
        + 1;
    text.clone().slice_assign(s![.., at..at + 1], other)
}

#[test]
fn a_changed_future_changes_the_past_by_the_reference_rule_and_never_by_the_strict_one() {
    for (backend, device) in devices() {
        for config in [
            RoutingTransformerConfig::from(paper()),
            LucidrainsConfig {
                n_local_attn_heads: LocalHeads::Each(vec![2, 2]),
                ..package()
            }
            .into(),
        ] {
            let model = config.init(Key::new(5), &device).unwrap();
            let text = ids(2, 20, &device);
            let (mut leaks, mut moved) = (0.0f32, 0.0f32);
            for at in 6..20 {
                let other = changed(&text, at);
                let run = |t: &Tensor<2, Int>, strict| logits(&model, t.clone(), Some(strict));
                let difference = run(&text, true) - run(&other, true);
                let past = largest(difference.clone().narrow(1, 0, at));
                assert_eq!(past, 0.0, "{backend} {:?}: token {at}", config.flavor());
                moved = moved.max(largest(difference.narrow(1, at, 1)));
                let difference = run(&text, false) - run(&other, false);
                leaks = leaks.max(largest(difference.narrow(1, 0, at)));
            }
            assert!(moved > 1e-4, "{backend}: the change is not seen at all");
            assert!(
                leaks > 1e-4,
                "{backend}: the reference rule should look ahead"
            );
        }
    }
}

#[test]
fn strict_scores_are_those_of_a_text_that_ends_there() {
    for (backend, device) in devices() {
        for config in [RoutingTransformerConfig::from(paper()), package().into()] {
            let model = config.init(Key::new(5), &device).unwrap();
            let text = ids(1, 17, &device);
            let whole = logits(&model, text.clone(), Some(true));
            for length in 1..=17 {
                let short = logits(&model, text.clone().narrow(1, 0, length), Some(true));
                assert_close(
                    &format!("{backend} {:?} {length}", config.flavor()),
                    short.narrow(1, length - 1, 1),
                    whole.clone().narrow(1, length - 1, 1),
                    1e-5,
                    1e-4,
                );
            }
        }
    }
}

#[test]
fn a_text_read_on_has_the_strict_scores_of_the_whole() {
    let mut cases = all();
    cases.retain(|c| c.causal() && (c.strict_causal_routing() || c.could_be_strict()));
    cases.push(
        LucidrainsConfig {
            shift_tokens: true,
            num_mem_kv: 2,
            emb_dim: Some(10),
            use_rezero: true,
            ..package()
        }
        .into(),
    );
    cases.push(picture().into());
    assert!(cases.len() >= 5);
    for (backend, device) in devices() {
        for config in &cases {
            let name = format!("{backend} {config:?}");
            let mut model = config.init(Key::new(5), &device).unwrap();
            if let RoutingTransformerLM::Lucidrains(m) = &mut model {
                // Branches that start at zero would hide everything.
                for layer in &mut m.layers {
                    for norm in [&mut layer.norm, &mut layer.ff_norm] {
                        if let lucidrains::BranchNorm::Rezero(weight) = norm {
                            *weight = weight.clone().map(|w| w + 0.7);
                        }
                    }
                }
            }
            let text = ids(1, 18, &device);
            let whole = logits(&model, text.clone(), Some(true));
            let values = config.vocab().unwrap();
            let at = |t: usize| whole.clone().narrow(1, t, 1).reshape([1, values]);
            // A prompt in one go, then token by token, then some at once.
            let mut stream = model.stream().unwrap();
            let mut read = 0;
            for length in [7, 1, 1, 1, 4, 1, 3] {
                let part = text.clone().narrow(1, read, length);
                let (scores, next) = model.read_on(part, stream).unwrap();
                (stream, read) = (next, read + length);
                assert_eq!(stream.len(), read);
                assert_close(&format!("{name} {read}"), scores, at(read - 1), 2e-5, 2e-4);
            }
            let two = ids(2, 3, &device);
            assert!(model.read_on(two, stream.clone()).is_err(), "{name}");
            let wrong = Tensor::<2, Int>::full([1, 1], values as i32, &device);
            assert!(model.read_on(wrong, stream.clone()).is_err(), "{name}");
            if let RoutingTransformerConfig::Lucidrains(_) = config {
                let message = model.read_on(ids(1, 7, &device), stream).unwrap_err();
                assert!(
                    message.to_string().contains("max_seq_len"),
                    "{name}: {message}"
                );
            }
        }
    }
    let device = Device::flex();
    let refused = |config: RoutingTransformerConfig| {
        let model = config.init(Key::new(1), &device).unwrap();
        model.stream().unwrap_err().to_string()
    };
    let both_ways = PaperConfig {
        causal: false,
        ..paper()
    };
    assert!(refused(both_ways.into()).contains("model.causal"));
    let own_keys = LucidrainsConfig {
        shared_qk: Some(false),
        ..package()
    };
    assert!(refused(own_keys.into()).contains("model.shared_qk"));
}

#[test]
fn every_shape_runs_learns_and_comes_back_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (backend, device) in devices() {
        let device = device.autodiff();
        for config in all() {
            let name = format!("{backend} {config:?}");
            let model = config.init(Key::new(1), &device).unwrap();
            let parameters = match &config {
                RoutingTransformerConfig::Paper(c) => c.parameters(),
                RoutingTransformerConfig::Lucidrains(c) => c.parameters(),
            };
            assert_eq!(model.num_params() as f64, parameters, "{name}");
            // 13 is no multiple of the block, and more than the members of a cluster.
            let text = ids(2, 14, &device);
            let (read, asked) = (text.clone().narrow(1, 0, 13), text.narrow(1, 1, 13));
            let first = model
                .clone()
                .with_first_data(read.clone(), Key::new(2))
                .unwrap();
            assert!(!first.needs_first_data(), "{name}");
            let output = first
                .forward(read.clone(), Mode::training(Key::new(4)))
                .unwrap();
            assert_eq!(
                output.logits.dims(),
                [2, 13, config.vocab().unwrap()],
                "{name}"
            );
            let (loss, count) = cross_entropy(output.logits, asked).unwrap();
            assert_eq!(count, 26);
            let grads = (loss + output.clustering_loss).backward();
            let all = first.gradients(&grads);
            for (name, data) in &all {
                assert!(data.iter::<f32>().all(f32::is_finite), "{name}");
            }
            assert!(
                !all.keys().any(|n| n.ends_with("means")),
                "{name}: centroids took gradients"
            );
            for record in &output.routed {
                assert!((0.0..=1.0).contains(&record.stats.entropy()), "{name}");
                assert!((0.0..1.0).contains(&record.stats.uncovered), "{name}");
            }
            let moved = first.clone().with_centroids(&[output.routed]);
            let (before, after) = (first.weights(), moved.weights());
            for (tensor, data) in &before {
                let centroid = tensor.ends_with("means") || tensor.ends_with("ema_count");
                assert_eq!(after[tensor] != *data, centroid, "{name}: {tensor}");
            }
            moved.save_pretrained(folder.path()).unwrap();
            let again = RoutingTransformerLM::from_pretrained(folder.path(), &device).unwrap();
            assert_eq!(again.config(), config, "{name}");
            assert_eq!(again.needs_first_data(), moved.needs_first_data(), "{name}");
            let [a, b] = [&moved, &again].map(|m| logits(m, read.clone(), None).into_data());
            assert_eq!(a, b, "{name}");
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    // Bidirectional attention, lengths that fill no block, `ema = false`: no golden case has these.
    let device = Device::flex().autodiff();
    for config in [
        PaperConfig {
            causal: false,
            ema: false,
            beta: 0.3,
            ..paper()
        },
        PaperConfig {
            layer_preprocess_sequence: "n".into(),
            layer_postprocess_sequence: "da".into(),
            ..paper()
        },
    ] {
        let ema = config.ema;
        let model = config.init(Key::new(7), &device).unwrap();
        let text = ids(1, 7, &device);
        let loss = |m: &PaperTransformer| {
            let out = m.forward(text.clone(), Mode::evaluation()).unwrap();
            cross_entropy(out.logits, text.clone()).unwrap().0 + out.clustering_loss
        };
        let grads = loss(&model).backward();
        let value = |m: &PaperTransformer| loss(m).into_data().iter::<f64>().next().unwrap();
        let mut checked = 0;
        let mut check = |grad: Option<Tensor<2>>, shifted: &dyn Fn(f32) -> PaperTransformer| {
            let grad = grad.unwrap().into_data().iter::<f64>().next().unwrap();
            let h = 2e-3;
            let slope = (value(&shifted(h)) - value(&shifted(-h))) / f64::from(2.0 * h);
            assert!(
                (grad - slope).abs() < 3e-3 + 0.03 * slope.abs(),
                "{grad} against {slope}"
            );
            checked += 1;
        };
        let bump = |t: Tensor<2>, by: f32| {
            let first = t.clone().narrow(0, 0, 1).narrow(1, 0, 1) + by;
            t.slice_assign(s![0..1, 0..1], first)
        };
        for layer in 0..2 {
            let grad = model.layers[layer].attention.v.val().grad(&grads);
            check(grad, &|by| {
                let mut m = model.clone();
                let attention = &mut m.layers[layer].attention;
                attention.v = attention.v.clone().map(|t| bump(t, by));
                m
            });
            let tables = model.layers[layer]
                .attention
                .routed_relative
                .as_ref()
                .unwrap();
            check(tables.values.val().grad(&grads), &|by| {
                let mut m = model.clone();
                let tables = m.layers[layer].attention.routed_relative.as_mut().unwrap();
                tables.values = tables.values.clone().map(|t| bump(t, by));
                m
            });
        }
        assert_eq!(checked, 4);
        let kmeans = model.layers[0].attention.kmeans.as_ref().unwrap();
        let took = kmeans
            .means
            .val()
            .grad(&grads)
            .is_some_and(|g| g.abs().sum().into_data().iter::<f32>().next().unwrap() > 0.0);
        assert_eq!(
            took, !ema,
            "centroids take gradients where no average moves them"
        );
    }
}

/// What no golden case of the package has, by a step along the whole gradient: the loss must rise as the gradient says.
#[test]
fn the_packages_loss_rises_along_its_gradient() {
    let device = Device::flex().autodiff();
    let both = |shared| LucidrainsConfig {
        causal: false,
        shared_qk: Some(shared),
        ..package()
    };
    let cases = [
        ("bidirectional, shared", both(true)),
        ("bidirectional, keys of their own", both(false)),
        (
            "causal, keys of their own, shifted tokens",
            LucidrainsConfig {
                shared_qk: Some(false),
                shift_tokens: true,
                ..package()
            },
        ),
    ];
    for (name, config) in cases {
        let config = RoutingTransformerConfig::from(LucidrainsConfig {
            commitment_factor: 0.1,
            ..config
        });
        // 11 is no multiple of the block of 4.
        let text = ids(2, 11, &device);
        let loss = |m: &RoutingTransformerLM| {
            let out = m.forward(text.clone(), Mode::evaluation()).unwrap();
            // In which order the members of a cluster stand is of no account.
            let members = |r: &Routed| {
                let sorted = |m: &core_attn::routed::Members| {
                    let [_, _, _, size] = m.dims();
                    let mut all = m.positions().to_vec();
                    all.chunks_mut(size).for_each(<[u32]>::sort_unstable);
                    all
                };
                let lists: Vec<_> = r.members.iter().map(sorted).collect();
                (lists, r.stats.uncovered, r.stats.nearest.clone())
            };
            let members: Vec<_> = out.routed.iter().map(members).collect();
            let loss = cross_entropy(out.logits, text.clone()).unwrap().0 + out.clustering_loss;
            (loss, members)
        };
        let of_seed = |seed: u64| {
            let model = config.init(Key::new(seed), &device).unwrap();
            let (at_first, members) = loss(&model);
            let grads = model.gradients(&at_first.backward());
            let weights = model.weights();
            let square: f64 = grads
                .values()
                .flat_map(|g| g.iter::<f64>().map(|x| x * x).collect::<Vec<_>>())
                .sum();
            let value = |step: f64| {
                let moved = weights.iter().map(|(name, data)| {
                    let data = match grads.get(name) {
                        Some(grad) => {
                            let all = data.iter::<f64>().zip(grad.iter::<f64>());
                            let all: Vec<f32> = all.map(|(w, g)| (w + step * g) as f32).collect();
                            TensorData::new(all, data.shape().clone())
                        }
                        None => data.clone(),
                    };
                    (name.clone(), data)
                });
                let file = std::path::Path::new("moved");
                let moved =
                    RoutingTransformerLM::from_tensors(&config, moved.collect(), file, &device);
                let (loss, moved) = loss(&moved.unwrap());
                let loss = loss.into_data().iter::<f64>().next().unwrap();
                (moved == members).then_some(loss)
            };
            // Where a member is exchanged the loss jumps; the largest step that exchanges none is taken.
            let steps = [1e-4, 3e-5].map(|length| length / square.sqrt());
            let slope = |h: f64| Some((value(h)? - value(-h)?) / (2.0 * h));
            Some((steps.into_iter().find_map(slope)?, square))
        };
        let (slope, square) = (1..9).find_map(of_seed).expect(name);
        assert!(
            (slope - square).abs() < 0.01 * square,
            "{name}: the loss rises by {slope} per step along a gradient of square {square}"
        );
    }
}

#[test]
fn shards_move_the_centroids_as_one_batch() {
    let device = Device::flex();
    let model = RoutingTransformerConfig::from(paper())
        .init(Key::new(1), &device)
        .unwrap();
    let text = ids(4, 12, &device);
    let seen = |from, rows| {
        let part = text.clone().narrow(0, from, rows);
        model.forward(part, Mode::evaluation()).unwrap().routed
    };
    let one = model.clone().with_centroids(&[seen(0, 4)]).weights();
    let two = model
        .clone()
        .with_centroids(&[seen(0, 2), seen(2, 2)])
        .weights();
    for (name, data) in one {
        let tolerance = burn::tensor::Tolerance::absolute(1e-4);
        data.assert_approx_eq::<f32>(&two[&name], tolerance);
    }
    // Evaluation hands the record out like training does; a model moves only if it is told to.
    assert_eq!(model.weights(), model.clone().with_centroids(&[]).weights());
}

#[test]
fn another_text_is_attended_to() {
    for (backend, device) in devices() {
        let config = LucidrainsConfig {
            causal: false,
            ..package()
        };
        let layer = LucidrainsAttention::new(&config, 0, true, Key::new(1), &device).unwrap();
        let x = normal::<3>("x", [2, 5, 24], &device);
        let context = normal::<3>("c", [2, 9, 24], &device);
        let run = |context: Tensor<3>, mask: Option<&[bool]>| {
            let masks = [None, mask];
            let mode = Mode::evaluation();
            let (out, record) = layer
                .forward(x.clone(), Some(context), masks, &config, mode, "layer")
                .unwrap();
            assert_eq!(record.unwrap().1.members.len(), 2);
            out
        };
        let out = run(context.clone(), None);
        assert_eq!(out.dims(), [2, 5, 24]);
        assert!(
            largest(out.clone() - run(context.clone().neg(), None)) > 1e-4,
            "{backend}"
        );
        // What is masked is not attended to; that it is clustered changes members only.
        let mask: Vec<bool> = (0..18).map(|i| i % 9 < 5).collect();
        let masked = run(context.clone(), Some(&mask));
        assert!(largest(out - masked) > 1e-5, "{backend}");
        assert!(LucidrainsAttention::new(&config, 1, true, Key::new(1), &device).is_err());
    }
}

#[test]
fn padding_and_identical_tokens_stay_finite() {
    for (backend, device) in devices() {
        let model = RoutingTransformerConfig::from(package())
            .init(Key::new(1), &device)
            .unwrap();
        let RoutingTransformerLM::Lucidrains(model) = model else {
            panic!("the other flavor")
        };
        let text = Tensor::<2, Int>::full([2, 11], 3, &device);
        for mask in [vec![false; 22], (0..22).map(|i| i % 11 < 6).collect()] {
            let mask = Tensor::from_data(TensorData::new(mask, [2, 11]), &device);
            let out = model
                .forward(text.clone(), Some(mask), Mode::evaluation())
                .unwrap();
            let finite = out.logits.into_data().iter::<f32>().all(f32::is_finite);
            assert!(finite, "{backend}");
        }
        let model = RoutingTransformerConfig::from(paper())
            .init(Key::new(1), &device)
            .unwrap();
        let first = logits(&model, text.clone(), None);
        assert_eq!(
            first.into_data(),
            logits(&model, text, None).into_data(),
            "{backend}"
        );
    }
}

#[test]
fn dropout_is_a_function_of_its_key() {
    let device = Device::flex();
    let config = PaperConfig {
        attention_dropout: 0.2,
        relu_dropout: 0.2,
        dropout: 0.2,
        ..paper()
    };
    let model = config.init(Key::new(1), &device).unwrap();
    let run = |key| {
        let mode = Mode::training(Key::new(key));
        model
            .forward(ids(1, 12, &device), mode)
            .unwrap()
            .logits
            .into_data()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn wrong_folders_and_names_are_told() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let config = RoutingTransformerConfig::from(paper());
    let model = config.init(Key::new(1), &device).unwrap();
    // Names as a conversion may write them.
    let dotted: pretrained::NamedTensors = model
        .weights()
        .into_iter()
        .map(|(n, d)| {
            (
                n.replace("sparse_transformer/body/", "").replace('/', "."),
                d,
            )
        })
        .collect();
    let file = folder.path().join("model.safetensors");
    let again = RoutingTransformerLM::from_tensors(&config, dotted, &file, &device).unwrap();
    assert_eq!(again.weights(), model.weights());
    model.save_pretrained(folder.path()).unwrap();
    let mut tensors = pretrained::read_tensors(&file).unwrap();
    let layer = "sparse_transformer/body/decoder_layer_0/self_attention";
    tensors.remove(&format!("{layer}/self_attention/q/kernel"));
    tensors.insert(format!("{layer}/extra"), TensorData::new(vec![1.0f32], [1]));
    pretrained::write_safetensors(&file, &tensors).unwrap();
    let message = RoutingTransformerLM::from_pretrained(folder.path(), &device)
        .unwrap_err()
        .to_string();
    for part in ["self_attention/q/kernel", "[24, 24]", "/extra"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let json = folder.path().join("config.json");
    for (text, part) in [
        (r#"{ "flavor": "pape" }"#, "pape"),
        (r#"{ "hiden_size": 3 }"#, "hidden_size"),
        (
            r#"{ "flavor": "lucidrains", "hidden_size": 3 }"#,
            "hidden_size",
        ),
        (r#"{ "flavor": "lucidrains", "causl": true }"#, "causal"),
    ] {
        std::fs::write(&json, text).unwrap();
        let message = RoutingTransformerConfig::from_file(&json)
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn impossible_configurations_are_named() {
    let paper_cases = [
        (
            PaperConfig {
                hidden_size: 25,
                ..paper()
            },
            "model.hidden_size",
        ),
        (
            PaperConfig {
                memory_flange: OneAxis::Number(6),
                ..paper()
            },
            "model.memory_flange",
        ),
        (
            PaperConfig {
                query_shape: OneAxis::List(vec![4, 4]),
                ..paper()
            },
            "model.query_shape",
        ),
        (
            PaperConfig {
                share_qk: false,
                ..paper()
            },
            "model.share_qk",
        ),
        (
            PaperConfig {
                max_relative_position: None,
                ..paper()
            },
            "model.max_relative_position",
        ),
        (
            PaperConfig {
                layer_preprocess_sequence: "n".into(),
                ..paper()
            },
            "model.layer_postprocess_sequence",
        ),
        (
            PaperConfig {
                ffn_layer: "swish".into(),
                ..paper()
            },
            "model.ffn_layer",
        ),
        (
            PaperConfig {
                attention_key_channels: 8,
                ..paper()
            },
            "model.attention_key_channels",
        ),
        (
            PaperConfig {
                sparsity_strided_num_heads: 1,
                ..paper()
            },
            "model.sparsity_strided_num_heads",
        ),
        (
            PaperConfig {
                use_tpu: true,
                ..paper()
            },
            "model.use_tpu",
        ),
        (
            PaperConfig {
                sparsity_cluster_size: 0,
                ..paper()
            },
            "model.sparsity_cluster_size",
        ),
        (
            PaperConfig {
                attention_dropout: 1.0,
                ..paper()
            },
            "model.attention_dropout",
        ),
        (
            PaperConfig {
                decay: f64::NAN,
                ..paper()
            },
            "model.decay",
        ),
        (
            PaperConfig {
                hidden_size: 4 << 40,
                ..paper()
            },
            "model.hidden_size",
        ),
        (
            PaperConfig {
                vocab_size: None,
                ..paper()
            },
            "model.vocab_size",
        ),
        (
            PaperConfig {
                local_num_heads: 0,
                sparsity_cluster_num_heads: 0,
                ..paper()
            },
            "model.local_num_heads",
        ),
        (
            PaperConfig {
                strict_causal_routing: true,
                causal: false,
                ..paper()
            },
            "model.strict_causal_routing",
        ),
        (
            PaperConfig {
                frame_width: None,
                ..picture()
            },
            "model.frame_width",
        ),
        (
            PaperConfig {
                vocab_size: Some(255),
                ..picture()
            },
            "model.vocab_size",
        ),
        (
            PaperConfig {
                embedding_dims: Some(8),
                ..picture()
            },
            "model.embedding_dims",
        ),
        (
            PaperConfig {
                add_timing_signal: true,
                ..picture()
            },
            "model.add_timing_signal",
        ),
        (
            PaperConfig {
                num_channels: Some(3),
                ..paper()
            },
            "model.num_channels",
        ),
        (
            PaperConfig {
                unconditional: false,
                ..picture()
            },
            "model.unconditional",
        ),
    ];
    let package_cases = [
        (
            LucidrainsConfig {
                window_size: 5,
                ..package()
            },
            "model.max_seq_len",
        ),
        (
            LucidrainsConfig {
                local_attn_window_size: None,
                ..package()
            },
            "model.local_attn_window_size",
        ),
        (
            LucidrainsConfig {
                dim_head: Some(5),
                ..package()
            },
            "model.dim_head",
        ),
        (
            LucidrainsConfig {
                dim: 25,
                ..package()
            },
            "model.dim",
        ),
        (
            LucidrainsConfig {
                n_local_attn_heads: LocalHeads::Each(vec![1]),
                ..package()
            },
            "model.n_local_attn_heads",
        ),
        (
            LucidrainsConfig {
                n_local_attn_heads: LocalHeads::All(5),
                ..package()
            },
            "model.n_local_attn_heads",
        ),
        (
            LucidrainsConfig {
                num_tokens: None,
                ..package()
            },
            "model.num_tokens",
        ),
        (
            LucidrainsConfig {
                kmeans_ema_decay: 1.0,
                ..package()
            },
            "model.kmeans_ema_decay",
        ),
    ];
    let all = paper_cases
        .into_iter()
        .map(|(c, at)| (RoutingTransformerConfig::from(c), at));
    let more = package_cases
        .into_iter()
        .map(|(c, at)| (RoutingTransformerConfig::from(c), at));
    for (config, place) in all.chain(more) {
        let message = config
            .init(Key::new(0), &Device::flex())
            .unwrap_err()
            .to_string();
        assert!(message.contains(place), "{place} is not in {message}");
    }
}

#[test]
fn impossible_inputs_are_named() {
    let device = Device::flex();
    for config in [RoutingTransformerConfig::from(paper()), package().into()] {
        let model = config.init(Key::new(1), &device).unwrap();
        let run = |ids: Tensor<2, Int>| {
            model
                .forward(ids, Mode::evaluation())
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        let high = Tensor::<2, Int>::full([1, 3], VOCAB as i32, &device);
        assert!(run(high).contains("a token id is 19"));
        assert!(run(Tensor::<2, Int>::zeros([1, 0], &device)).contains("tokens"));
    }
    let model = RoutingTransformerConfig::from(package())
        .init(Key::new(1), &device)
        .unwrap();
    let long = ids(1, 25, &device);
    let message = model
        .forward(long, Mode::evaluation())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(message.contains("model.max_seq_len = 24"), "{message}");
    let model = RoutingTransformerConfig::from(picture())
        .init(Key::new(1), &device)
        .unwrap();
    let message = model
        .forward(ids(1, 28, &device), Mode::evaluation())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(message.contains("model.frame_height 3"), "{message}");
}

#[test]
fn the_estimate_of_memory_grows_with_what_is_kept() {
    for config in all() {
        let bytes = |rows, length| config.training_bytes(rows, length, 2.0);
        let weights = match &config {
            RoutingTransformerConfig::Paper(c) => c.parameters(),
            RoutingTransformerConfig::Lucidrains(c) => c.parameters(),
        };
        assert!(bytes(1, 12) > 4.0 * 5.0 * weights, "{config:?}");
        let (one, two) = (bytes(1, 12), bytes(2, 12));
        assert!(
            two > one && bytes(4, 12) - two > 1.9 * (two - one),
            "{config:?}"
        );
        assert!(bytes(1, 24) > one, "{config:?}");
    }
}
