//! What is refused, and how it is told.

mod common;

use bert::{EncoderInput, Mode};
use burn::tensor::TensorData;
use common::{devices, input, lra, small};
use core_attn::random::Key;
use nystromformer::{
    LandmarkPolicy, LraClassifier, LraConfig, NystromformerConfig, NystromformerModel, from_tensors,
};
use pretrained::collect_weights;
use serde_json::json;

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
