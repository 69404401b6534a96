//! Properties of the models that no golden case shows.

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use bert::{BertConfig, BertModel, EncoderCall, EncoderInput, Mode};
use burn::prelude::*;
use common::{assert_close, devices};
use core_attn::random::Key;
use nystromformer::{
    LandmarkPolicy, LraClassifier, LraConfig, LraDualClassifier, NystromformerConfig,
    NystromformerForMaskedLm, NystromformerForMultipleChoice, NystromformerForPreTraining,
    NystromformerForQuestionAnswering, NystromformerForSequenceClassification,
    NystromformerForTokenClassification, NystromformerModel, PoolingMode, PreTrainingConfig, Task,
    from_pretrained, from_tensors, names, save_pretrained,
};
use pretrained::{NamedTensors, Weights, collect_weights};
use serde_json::json;

fn small() -> NystromformerConfig {
    NystromformerConfig {
        vocab_size: 40,
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        max_position_embeddings: 30,
        segment_means_seq_len: 24,
        num_landmarks: 6,
        conv_kernel_size: Some(5),
        initializer_range: 0.3,
        num_labels: Some(1),
        ..Default::default()
    }
}

fn lra() -> LraConfig {
    LraConfig {
        embedding_dim: 12,
        transformer_dim: 12,
        transformer_hidden_dim: 16,
        head_dim: 5,
        num_head: 2,
        max_seq_len: 20,
        vocab_size: Some(15),
        num_classes: Some(3),
        num_landmarks: 4,
        conv_kernel_size: Some(3),
        ..Default::default()
    }
}

fn input(batch: usize, length: usize, below: usize) -> EncoderInput {
    let key = Key::new(3);
    let ids = (0..(batch * length) as u64).map(|i| 2 + key.below(i, below - 2) as i64);
    EncoderInput::new(ids.collect(), batch, length).unwrap()
}

fn hidden(model: &NystromformerModel, input: &EncoderInput) -> Tensor<3> {
    model.forward(input, Mode::evaluation()).unwrap()
}

fn round_trip<T: Task>(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let model: T = small().init(Key::new(5), device).unwrap();
    save_pretrained(&model, dir.path()).unwrap();
    let (again, notes) = from_pretrained::<T>(dir.path(), Key::new(9), device).unwrap();
    assert!(
        notes.new.is_empty() && notes.unused.is_empty(),
        "{}: {notes:?}",
        T::CLASS
    );
    assert_eq!(
        collect_weights(&model),
        collect_weights(&again),
        "{}",
        T::CLASS
    );
    let config = NystromformerConfig::from_file(dir.path().join("config.json")).unwrap();
    assert_eq!(config.architectures, Some(vec![T::CLASS.to_owned()]));
    let file = pretrained::read_tensors(&dir.path().join("model.safetensors")).unwrap();
    assert!(
        !file.contains_key("cls.predictions.decoder.weight"),
        "tied tensors stay out"
    );
}

#[test]
fn every_class_survives_a_round_trip() {
    for (_, device) in devices() {
        round_trip::<NystromformerModel>(&device);
        round_trip::<NystromformerForMaskedLm>(&device);
        round_trip::<NystromformerForSequenceClassification>(&device);
        round_trip::<NystromformerForTokenClassification>(&device);
        round_trip::<NystromformerForQuestionAnswering>(&device);
        round_trip::<NystromformerForMultipleChoice>(&device);
        let dir = tempfile::tempdir().unwrap();
        for tied_weights in [false, true] {
            let config = LraConfig {
                tied_weights,
                ..lra()
            };
            let model = LraClassifier::new(&config, Key::new(1), &device).unwrap();
            model.save_pretrained(dir.path()).unwrap();
            let again = LraClassifier::from_pretrained(dir.path(), &device).unwrap();
            assert_eq!(collect_weights(&model), collect_weights(&again));
            let model = LraDualClassifier::new(&config, Key::new(1), &device).unwrap();
            model.save_pretrained(dir.path()).unwrap();
            let again = LraDualClassifier::from_pretrained(dir.path(), &device).unwrap();
            assert_eq!(collect_weights(&model), collect_weights(&again));
        }
    }
}

#[test]
fn a_body_becomes_the_beginning_of_another_task() {
    let (_, device) = devices().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let lm: NystromformerForMaskedLm = small().init(Key::new(5), &device).unwrap();
    lm.save_pretrained(dir.path()).unwrap();
    let loaded = from_pretrained(dir.path(), Key::new(2), &device).unwrap();
    let (model, notes): (NystromformerForSequenceClassification, _) = loaded;
    let new = [
        "dense.bias",
        "dense.weight",
        "out_proj.bias",
        "out_proj.weight",
    ];
    assert_eq!(notes.new, new.map(|n| format!("classifier.{n}")));
    assert!(
        notes.unused.contains(&"cls.predictions.bias".to_owned()),
        "{notes:?}"
    );
    assert_eq!(
        collect_weights(&model.nystromformer),
        collect_weights(&lm.nystromformer)
    );
    let strict = NystromformerForSequenceClassification::from_pretrained(dir.path(), &device);
    assert!(
        strict
            .unwrap_err()
            .to_string()
            .contains("classifier.dense.bias")
    );
    // A file without the body's prefix, and with the names of old files.
    let mut bare = NamedTensors::new();
    for (name, data) in collect_weights(&lm.nystromformer) {
        let old = name
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        bare.insert(old, data);
    }
    bare.insert(
        "embeddings.position_ids".into(),
        TensorData::from([0i64, 1, 2]),
    );
    let loaded = from_tensors(
        &small(),
        bare,
        "old.bin".as_ref(),
        false,
        Key::new(5),
        &device,
    );
    let (again, notes): (NystromformerForMaskedLm, _) = loaded.unwrap();
    assert_eq!(
        collect_weights(&again.nystromformer),
        collect_weights(&lm.nystromformer)
    );
    assert_eq!(notes.unused, ["nystromformer.embeddings.position_ids"]);
}

#[test]
fn a_bert_in_full_mode_gives_its_own_hidden_states() {
    for (backend, device) in devices() {
        let config = BertConfig {
            vocab_size: 40,
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 20,
            max_position_embeddings: 30,
            initializer_range: 0.3,
            ..Default::default()
        };
        let bert = BertModel::new(&config, true, Key::new(4), &device).unwrap();
        let mut named = NamedTensors::new();
        {
            #[derive(Clone)]
            struct Named(BertModel);
            impl Weights for Named {
                fn bind<B: pretrained::Binder>(&mut self, b: &mut B) {
                    self.0.bind_under(b, "bert.");
                }
            }
            named.extend(collect_weights(&Named(bert.clone())));
        }
        let json = serde_json::to_value(&config).unwrap();
        let (config, tensors, dropped) = names::from_bert(&json, named).unwrap();
        assert_eq!(
            dropped,
            ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
        );
        assert_eq!(
            (config.conv_kernel_size, config.layer_norm_eps),
            (None, 1e-12)
        );
        let file = "bert".as_ref();
        let loaded = from_tensors(&config, tensors, file, true, Key::new(0), &device);
        let (model, _): (NystromformerModel, _) = loaded.unwrap();
        let mask = (0..26).map(|i| i % 13 < 13 - 4 * (i / 13)).collect();
        let input = input(2, 13, 40).with_attention_mask(mask).unwrap();
        let expected = bert.forward(&input, &EncoderCall::default()).unwrap();
        // Rows of padding are hidden from everything and compared all the same.
        assert_close(
            backend,
            hidden(&model, &input),
            expected.last_hidden_state,
            1e-5,
            1e-5,
        );
        // The same weights through landmarks come near it, and nearer with more of them.
        let mut off = vec![];
        for num_landmarks in [2, 12] {
            let policy = LandmarkPolicy::Uneven;
            let config = NystromformerConfig {
                num_landmarks,
                landmark_policy: policy,
                ..config.clone()
            };
            let weights = collect_weights(&model);
            let loaded = from_tensors(&config, weights, file, true, Key::new(0), &device);
            let (low, _): (NystromformerModel, _) = loaded.unwrap();
            let distance = (hidden(&low, &input) - hidden(&model, &input)).abs().mean();
            off.push(distance.into_scalar::<f32>());
        }
        assert!(off[1] < off[0], "{backend}: {off:?}");
    }
}

#[test]
fn official_names_become_hugging_faces() {
    let (_, device) = devices().remove(0);
    let config = PreTrainingConfig {
        vocab_size: 40,
        max_seq_len: 24,
        num_layers: 2,
        embedding_dim: 12,
        dim: 12,
        hidden_dim: 20,
        num_head: 3,
        head_dim: 4,
        num_landmarks: 6,
        conv_kernel_size: Some(5),
        landmark_policy: LandmarkPolicy::Strict,
        ..Default::default()
    };
    let official = NystromformerForPreTraining::new(&config, Key::new(3), &device).unwrap();
    let (mut tensors, dropped) = names::from_official(collect_weights(&official)).unwrap();
    assert_eq!(
        dropped,
        [
            "model.pooler.bias",
            "model.pooler.weight",
            "sen_class.bias",
            "sen_class.weight"
        ]
    );
    names::shift_positions(&mut tensors).unwrap();
    let ours = NystromformerConfig {
        max_position_embeddings: 24,
        hidden_act: "gelu".into(),
        pad_token_id: None,
        ..small()
    };
    let loaded = from_tensors(
        &ours,
        tensors,
        "net.model".as_ref(),
        true,
        Key::new(0),
        &device,
    );
    let (model, _): (NystromformerForMaskedLm, _) = loaded.unwrap();
    let input = input(2, 24, 40);
    let expected = official.encode(&input, Mode::evaluation()).unwrap();
    // Row and column maxima against column maxima alone: rows sum to 1.
    assert_close(
        "official",
        hidden(&model.nystromformer, &input),
        expected,
        1e-4,
        1e-4,
    );
    // The other spelling of the layers.
    let mut older = NamedTensors::new();
    for (name, data) in collect_weights(&official) {
        let name = name
            .replace("backbone.backbone.encoders.", "transformer_")
            .replace(".ff.0.", ".ff1.")
            .replace(".ff.2.", ".ff2.");
        older.insert(name, data);
    }
    let (renamed, _) = names::from_official(older).unwrap();
    assert!(renamed.contains_key("nystromformer.encoder.layer.1.output.dense.weight"));
    assert!(renamed.contains_key("nystromformer.encoder.layer.1.attention.output.dense.weight"));
    let narrow = PreTrainingConfig {
        embedding_dim: 8,
        ..config
    };
    let narrow = NystromformerForPreTraining::new(&narrow, Key::new(3), &device).unwrap();
    assert!(names::from_official(collect_weights(&narrow)).is_err());
}

#[test]
fn positions_are_tiled_for_longer_inputs() {
    let (_, device) = devices().remove(0);
    let config = NystromformerConfig {
        max_position_embeddings: 24,
        ..small()
    };
    let model: NystromformerModel = config.init(Key::new(5), &device).unwrap();
    let mut tensors = collect_weights(&model);
    let mut longer = config.clone();
    names::extend_positions(&mut tensors, &mut longer, 72).unwrap();
    assert_eq!(
        (longer.max_position_embeddings, longer.segment_means_seq_len),
        (72, 72)
    );
    let loaded = from_tensors(
        &longer,
        tensors.clone(),
        "x".as_ref(),
        true,
        Key::new(0),
        &device,
    );
    let (long, _): (NystromformerModel, _) = loaded.unwrap();
    let [old, new] = [&model, &long].map(|m| m.embeddings.position_embeddings.val());
    assert_eq!(new.dims(), [74, 12]);
    assert_close("tile", new.clone().narrow(0, 0, 26), old.clone(), 0.0, 0.0);
    assert_close(
        "tile",
        new.narrow(0, 50, 24),
        old.narrow(0, 2, 24),
        0.0,
        0.0,
    );
    assert_eq!(hidden(&long, &input(1, 72, 40)).dims(), [1, 72, 12]);
    assert!(names::extend_positions(&mut tensors, &mut longer, 100).is_err());
}

#[test]
fn policies() {
    for (backend, device) in devices() {
        let policy = |landmark_policy| NystromformerConfig {
            landmark_policy,
            ..small()
        };
        let model = |p| -> NystromformerModel { policy(p).init(Key::new(5), &device).unwrap() };
        let strict = model(LandmarkPolicy::Strict);
        let uneven = model(LandmarkPolicy::Uneven);
        let masked = model(LandmarkPolicy::Masked);
        let at_length = input(2, 24, 40);
        assert_close(
            backend,
            hidden(&strict, &at_length),
            hidden(&uneven, &at_length),
            0.0,
            0.0,
        );
        // The published code would mix samples here: 3 · 8 = 24.
        let message = strict
            .forward(&input(3, 8, 40), Mode::evaluation())
            .unwrap_err()
            .to_string();
        assert!(message.contains('8') && message.contains("24"), "{message}");
        for length in [1, 5, 6, 7, 23, 29] {
            let input = input(2, length, 40);
            for model in [&uneven, &masked] {
                let out = hidden(model, &input);
                assert!(
                    out.into_data().iter::<f32>().all(f32::is_finite),
                    "{backend} {length}"
                );
            }
        }
        // Without padding in landmarks, left padding changes nothing but the positions, which are given here.
        let exact = NystromformerConfig {
            inv_coeff_init_option: true,
            ..policy(LandmarkPolicy::Masked)
        };
        let masked: NystromformerModel = exact.init(Key::new(5), &device).unwrap();
        let short = input(1, 18, 40);
        let mut ids = vec![1; 6];
        ids.extend(short.input_ids());
        let mut positions = vec![2; 6];
        positions.extend(2..20);
        let padded = EncoderInput::new(ids, 1, 24)
            .and_then(|i| i.with_positions(positions))
            .and_then(|i| i.with_attention_mask((0..24).map(|t| t >= 6).collect()))
            .unwrap();
        let out = hidden(&masked, &padded);
        assert!(
            out.clone().into_data().iter::<f32>().all(f32::is_finite),
            "{backend}"
        );
        // Six landmarks: three rows each without padding, four with; the same rows but other runs. What padding holds
        // reaches nothing.
        let mut other = padded.input_ids().to_vec();
        other[..6].fill(7);
        let other = EncoderInput::new(other, 1, 24)
            .and_then(|i| i.with_positions(padded.position_ids().unwrap().to_vec()))
            .and_then(|i| i.with_attention_mask((0..24).map(|t| t >= 6).collect()))
            .unwrap();
        let other = hidden(&masked, &other);
        assert_close(
            backend,
            out.narrow(1, 6, 18),
            other.narrow(1, 6, 18),
            1e-6,
            1e-6,
        );
    }
}

#[test]
fn exact_start_makes_samples_independent_of_their_batch() {
    for (backend, device) in devices() {
        let both = input(2, 24, 40);
        let alone = EncoderInput::new(both.input_ids()[..24].to_vec(), 1, 24).unwrap();
        let exact = NystromformerConfig {
            inv_coeff_init_option: true,
            ..small()
        };
        let model: NystromformerModel = exact.init(Key::new(5), &device).unwrap();
        let together = hidden(&model, &both).narrow(0, 0, 1);
        assert_close(backend, together, hidden(&model, &alone), 1e-5, 1e-5);
    }
}

#[test]
fn constant_input_and_dropout_stay_finite() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        let model: NystromformerForMaskedLm = small().init(Key::new(5), &device).unwrap();
        let same = EncoderInput::new(vec![7; 48], 2, 24).unwrap();
        let mode = Mode::training(Key::new(1));
        let body = model.nystromformer.forward(&same, mode).unwrap();
        let loss = model.loss(body, &[3; 48]).unwrap();
        let grads = pretrained::collect_gradients(&model, &loss.backward());
        for (name, grad) in grads {
            assert!(grad.iter::<f32>().all(f32::is_finite), "{backend} {name}");
        }
        // Dropout is a function of the key.
        let run = |seed| hidden_of(&model, &same, seed);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}

fn hidden_of(model: &NystromformerForMaskedLm, input: &EncoderInput, seed: u64) -> TensorData {
    let mode = Mode::training(Key::new(seed));
    model
        .nystromformer
        .forward(input, mode)
        .unwrap()
        .into_data()
}

#[test]
fn a_class_token_takes_the_place_of_the_last() {
    let (_, device) = devices().remove(0);
    let config = LraConfig {
        pooling_mode: PoolingMode::Cls,
        ..lra()
    };
    let model = LraClassifier::new(&config, Key::new(1), &device).unwrap();
    let first = input(2, 20, 14);
    let (scores, _) = model.forward(&first, Mode::evaluation()).unwrap();
    let mut ids = first.input_ids().to_vec();
    ids[19] = 3 + (ids[19] + 1) % 9;
    let other = EncoderInput::new(ids, 2, 20).unwrap();
    let (again, _) = model.forward(&other, Mode::evaluation()).unwrap();
    assert_close("last token", scores, again, 0.0, 0.0);
}

#[test]
fn wrong_configurations_are_told_by_their_key() {
    let dir = tempfile::tempdir().unwrap();
    for (value, parts) in [
        (
            json!({ "num_attention_heads": 7 }),
            ["hidden_size", "num_attention_heads"],
        ),
        (
            json!({ "conv_kernel_size": 4 }),
            ["conv_kernel_size", "odd"],
        ),
        (
            json!({ "num_landmarks": 7 }),
            ["num_landmarks", "segment_means_seq_len"],
        ),
        (json!({ "num_landmarks": 128 }), ["num_landmarks", "64"]),
        (json!({ "is_decoder": true }), ["is_decoder", "causal"]),
        (
            json!({ "position_embedding_type": "relative_key" }),
            ["position_embedding_type", "absolute"],
        ),
        (json!({ "hidden_act": "swoosh" }), ["hidden_act", "swoosh"]),
        (
            json!({ "hidden_dropout_prob": 1.5 }),
            ["hidden_dropout_prob", "1.5"],
        ),
        (json!({ "hidden_size": "wide" }), ["hidden_size", "string"]),
        (json!({ "pad_token_id": 30000 }), ["pad_token_id", "30000"]),
        (json!({ "vocab_size": 0 }), ["vocab_size", "at least 1"]),
        (
            json!({ "model_type": "bert" }),
            ["model_type", "nystromformer"],
        ),
        (
            json!({ "hidden_size": 1200000000, "num_attention_heads": 1 }),
            ["hidden_size", "parameters"],
        ),
    ] {
        let file = dir.path().join("config.json");
        std::fs::write(&file, value.to_string()).unwrap();
        let message = NystromformerConfig::from_file(&file)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(message.contains(part), "{value}: {message}");
        }
    }
    // What does not concern the model is kept.
    let file = dir.path().join("config.json");
    std::fs::write(
        &file,
        r#"{"transformers_version": "4.46.3", "use_cache": true}"#,
    )
    .unwrap();
    let config = NystromformerConfig::from_file(&file).unwrap();
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["transformers_version"], "4.46.3");
    for (config, part) in [
        (
            LraConfig {
                embedding_dim: 8,
                ..lra()
            },
            "embedding_dim",
        ),
        (
            LraConfig {
                learn_pos_emb: false,
                ..lra()
            },
            "learn_pos_emb",
        ),
        (
            LraConfig {
                conv_kernel_size: Some(2),
                ..lra()
            },
            "conv_kernel_size",
        ),
        (
            LraConfig {
                attn_type: "performer-256".into(),
                ..lra()
            },
            "attn_type",
        ),
        (
            LraConfig {
                seq_len: Some(3),
                ..lra()
            },
            "seq_len",
        ),
        (
            LraConfig {
                vocab_size: None,
                ..lra()
            },
            "vocab_size",
        ),
        (
            LraConfig {
                num_landmarks: 7,
                landmark_policy: LandmarkPolicy::Strict,
                ..lra()
            },
            "num_landmarks",
        ),
    ] {
        let (_, device) = devices().remove(0);
        let message = LraClassifier::new(&config, Key::new(0), &device)
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn wrong_inputs_are_told() {
    let (_, device) = devices().remove(0);
    let model: NystromformerModel = small().init(Key::new(5), &device).unwrap();
    let run = |input: EncoderInput| {
        model
            .forward(&input, Mode::evaluation())
            .unwrap_err()
            .to_string()
    };
    let of = |id: i64, length: usize| EncoderInput::new(vec![id; length], 1, length).unwrap();
    assert!(run(of(40, 24)).contains("0..40"));
    assert!(run(of(-1, 24)).contains("-1"));
    assert!(run(of(3, 31)).contains("31"));
    assert!(run(of(3, 23)).contains("23"));
    let types = of(3, 24).with_token_types(vec![2; 24]).unwrap();
    assert!(run(types).contains("token_type_ids"));
    let classifier = LraClassifier::new(&lra(), Key::new(1), &device).unwrap();
    let long = classifier
        .forward(&input(1, 21, 14), Mode::evaluation())
        .unwrap_err();
    assert!(long.to_string().contains("max_seq_len"));
    let dir = tempfile::tempdir().unwrap();
    let missing = NystromformerModel::from_pretrained(dir.path(), &device).unwrap_err();
    assert!(missing.to_string().contains("config.json"), "{missing}");
    // A missing tensor and a misshapen one, by name.
    let mut tensors = collect_weights(&model);
    tensors.remove("encoder.layer.1.attention.self.query.bias");
    tensors.insert(
        "encoder.layer.0.attention.self.key.bias".into(),
        TensorData::from([1.0f32]),
    );
    let file = "file.safetensors".as_ref();
    let loaded =
        from_tensors::<NystromformerModel>(&small(), tensors, file, true, Key::new(0), &device);
    let message = loaded.unwrap_err().to_string();
    for part in [
        "file.safetensors",
        "layer.1.attention.self.query.bias",
        "layer.0.attention.self.key.bias",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
