//! Folders, other layouts, and conversions.

mod common;

use bert::{BertConfig, BertModel, EncoderCall, Mode};
use burn::prelude::*;
use common::{assert_close, devices, hidden, input, lra, small};
use core_attn::random::Key;
use nystromformer::{
    LandmarkPolicy, LraClassifier, LraConfig, LraDualClassifier, NystromformerConfig,
    NystromformerForMaskedLm, NystromformerForMultipleChoice, NystromformerForPreTraining,
    NystromformerForQuestionAnswering, NystromformerForSequenceClassification,
    NystromformerForTokenClassification, NystromformerModel, PreTrainingConfig, Task,
    from_pretrained, from_tensors, names, save_pretrained,
};
use pretrained::{NamedTensors, Weights, collect_weights};

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
