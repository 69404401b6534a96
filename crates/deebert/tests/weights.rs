//! Model folders: published names, files of 2019, plain classifiers, and what does not fit.

use bert::{
    BertConfig, BertForMaskedLm, BertForSequenceClassification, CONFIG_FILE, EncoderCall,
    EncoderInput, Mode, WEIGHTS_FILE,
};
use burn::prelude::*;
use core_attn::random::Key;
use deebert::{
    DeeBertConfig, DeeBertForSequenceClassification, ExitConfig, OffRampPooling, Thresholds,
    checkpoint_of, open_checkpoint,
};
use pretrained::{NamedTensors, read_tensors, write_safetensors};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn config(variant: &str) -> BertConfig {
    let roberta = variant == "roberta";
    BertConfig {
        model_type: Some(variant.into()),
        vocab_size: 30,
        hidden_size: 16,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        intermediate_size: 24,
        max_position_embeddings: 12,
        type_vocab_size: if roberta { 1 } else { 2 },
        pad_token_id: Some(usize::from(roberta)),
        initializer_range: 0.3,
        num_labels: Some(3),
        ..BertConfig::default()
    }
}

fn model(variant: &str) -> DeeBertForSequenceClassification {
    let config = DeeBertConfig {
        bert: config(variant),
        ..DeeBertConfig::default()
    };
    config.init(Key::new(4), &Device::flex()).unwrap()
}

fn batch() -> EncoderInput {
    EncoderInput::from_rows(&[vec![2, 5, 9, 3, 7], vec![2, 7, 3]], 1).unwrap()
}

fn scores(model: &DeeBertForSequenceClassification) -> Vec<f32> {
    let all = model
        .forward_all_exits(&batch(), Mode::evaluation())
        .unwrap();
    let ramps = all.highway.into_iter().map(|ramp| ramp.logits);
    let all = ramps.chain([all.logits]);
    all.flat_map(|z| z.into_data().iter::<f32>().collect::<Vec<_>>())
        .collect()
}

fn tensors(dir: &Path) -> NamedTensors {
    read_tensors(&dir.join(WEIGHTS_FILE)).unwrap()
}

fn load(dir: &Path) -> bert::Result<DeeBertForSequenceClassification> {
    DeeBertForSequenceClassification::from_pretrained(dir, &Device::flex())
}

fn config_of(dir: &Path) -> Value {
    pretrained::read_json(&dir.join(CONFIG_FILE)).unwrap()
}

fn write_config(dir: &Path, config: &Value) {
    fs::write(dir.join(CONFIG_FILE), config.to_string()).unwrap();
}

#[test]
fn the_round_trip_keeps_every_exit_under_the_published_names() {
    for variant in ["bert", "roberta"] {
        let exits = ExitConfig {
            off_ramp_pooling: OffRampPooling::Mean,
            thresholds: Some(Thresholds::PerLayer(vec![0.1, 0.25, 0.0])),
            ..ExitConfig::default()
        };
        let model = model(variant).with_exits(exits.clone()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        model.save_pretrained(dir.path()).unwrap();
        let again = load(dir.path()).unwrap();
        assert_eq!(scores(&model), scores(&again));
        assert_eq!(again.config().deebert, exits);
        let held = tensors(dir.path());
        for i in 0..3 {
            for (name, shape) in [
                ("pooler.dense.weight", &[16, 16][..]),
                ("pooler.dense.bias", &[16]),
                ("classifier.weight", &[3, 16]),
                ("classifier.bias", &[3]),
            ] {
                let name = format!("{variant}.encoder.highway.{i}.{name}");
                assert_eq!(held[&name].shape()[..], *shape, "{name}");
            }
        }
        assert_eq!(held["classifier.weight"].shape()[..], [3, 16]);
        let config = config_of(dir.path());
        let expected = json!({ "off_ramp_pooling": "mean", "thresholds": [0.1, 0.25, 0.0] });
        assert_eq!(config["deebert"], expected);
        let class = match variant {
            "bert" => "BertForSequenceClassification",
            _ => "RobertaForSequenceClassification",
        };
        assert_eq!(config["architectures"], json!([class]));
    }
}

#[test]
fn bert_reads_the_folder_as_the_plain_classifier() {
    for variant in ["bert", "roberta"] {
        let dir = tempfile::tempdir().unwrap();
        let model = model(variant);
        model.save_pretrained(dir.path()).unwrap();
        // As Python does it: what belongs to the off-ramps, or has another name there, is passed by.
        let mut checkpoint = bert::Checkpoint::open(dir.path()).unwrap();
        checkpoint
            .tensors
            .retain(|name, _| !name.contains("highway"));
        let device = Device::flex();
        let loaded =
            BertForSequenceClassification::from_checkpoint(checkpoint, Key::new(0), &device);
        let (plain, _) = loaded.unwrap();
        let (logits, _) = plain.forward(&batch(), &EncoderCall::default()).unwrap();
        let found: Vec<f32> = logits.into_data().iter().collect();
        for (a, b) in found.iter().zip(&scores(&model)[18..]) {
            assert!((a - b).abs() < 1e-6, "{variant}: {a} {b}");
        }
    }
}

#[test]
fn files_of_2019_name_no_model_and_load() {
    for variant in ["bert", "roberta"] {
        let dir = tempfile::tempdir().unwrap();
        let model = model(variant);
        model.save_pretrained(dir.path()).unwrap();
        let mut config = config_of(dir.path());
        let map = config.as_object_mut().unwrap();
        for key in ["model_type", "architectures", "deebert", "pad_token_id"] {
            map.shift_remove(key);
        }
        map.insert("finetuning_task".into(), "sst-2".into());
        map.insert("pruned_heads".into(), json!({}));
        write_config(dir.path(), &config);
        // Old names of the normalisations, and buffers.
        let renamed = tensors(dir.path()).into_iter().map(|(name, data)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            (name.replace("LayerNorm.bias", "LayerNorm.beta"), data)
        });
        write_safetensors(&dir.path().join(WEIGHTS_FILE), &renamed.collect()).unwrap();
        let again = load(dir.path()).unwrap();
        assert_eq!(scores(&model), scores(&again), "{variant}");
        assert_eq!(
            again.config().bert.variant().unwrap().prefix(),
            format!("{variant}.")
        );
    }
}

#[test]
fn a_plain_classifier_gets_off_ramps_that_begin_with_its_pooler() {
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    let plain = BertForSequenceClassification::new(&config("bert"), Key::new(3), &device).unwrap();
    plain.save_pretrained(dir.path()).unwrap();
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    let loaded =
        DeeBertForSequenceClassification::from_checkpoint(checkpoint, Key::new(1), &device);
    let (model, report) = loaded.unwrap();
    assert_eq!(report.new.len(), 12);
    assert!(
        report
            .new
            .iter()
            .all(|name| name.contains("encoder.highway."))
    );
    assert!(report.unused.is_empty());
    let (logits, _) = plain.forward(&batch(), &EncoderCall::default()).unwrap();
    let expected: Vec<f32> = logits.into_data().iter().collect();
    assert_eq!(scores(&model)[18..], expected);
    let held = pretrained::collect_weights(&model);
    for i in 0..3 {
        for part in ["weight", "bias"] {
            let ramp = format!("bert.encoder.highway.{i}.pooler.dense.{part}");
            assert_eq!(held[&ramp], held[&format!("bert.pooler.dense.{part}")]);
        }
        let weight = &held[&format!("bert.encoder.highway.{i}.classifier.weight")];
        let values: Vec<f32> = weight.iter().collect();
        assert!(values.iter().any(|w| *w != 0.0));
    }
    // Another key, other classifiers.
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    let other = DeeBertForSequenceClassification::from_checkpoint(checkpoint, Key::new(2), &device);
    assert_ne!(scores(&other.unwrap().0)[..18], scores(&model)[..18]);
}

#[test]
fn an_encoder_gets_a_classifier_too() {
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    let other = BertForMaskedLm::new(&config("bert"), Key::new(3), &device).unwrap();
    other.save_pretrained(dir.path()).unwrap();
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    let loaded =
        DeeBertForSequenceClassification::from_checkpoint(checkpoint, Key::new(1), &device);
    let (_, report) = loaded.unwrap();
    for name in ["classifier.weight", "bert.pooler.dense.weight"] {
        assert!(report.new.iter().any(|n| n == name), "{:?}", report.new);
    }
    assert!(
        report
            .unused
            .iter()
            .any(|n| n.starts_with("cls.predictions."))
    );
}

#[test]
fn hugging_faces_roberta_classifier_is_pooler_and_classifier() {
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    let plain = BertForSequenceClassification::new(&config("roberta"), Key::new(3), &device);
    let plain = plain.unwrap();
    plain.save_pretrained(dir.path()).unwrap();
    // An older file may hold a pooler that this classifier does not use.
    let mut held = tensors(dir.path());
    let other = TensorData::new(vec![9f32; 256], [16, 16]);
    held.insert("roberta.pooler.dense.weight".into(), other);
    write_safetensors(&dir.path().join(WEIGHTS_FILE), &held).unwrap();
    let model = load(dir.path()).unwrap();
    let (logits, _) = plain.forward(&batch(), &EncoderCall::default()).unwrap();
    let expected: Vec<f32> = logits.into_data().iter().collect();
    for (a, b) in scores(&model)[18..].iter().zip(expected) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn only_the_off_ramp_that_never_answers_may_be_absent() {
    let dir = tempfile::tempdir().unwrap();
    let model = model("bert");
    model.save_pretrained(dir.path()).unwrap();
    let whole = tensors(dir.path());
    let without = |part: &str| {
        let mut rest = whole.clone();
        rest.retain(|name, _| !name.contains(part));
        assert!(rest.len() < whole.len(), "{part}");
        write_safetensors(&dir.path().join(WEIGHTS_FILE), &rest).unwrap();
        load(dir.path())
    };
    let found = without("highway.2.").unwrap();
    assert_eq!(scores(&found)[..12], scores(&model)[..12]);
    assert_eq!(scores(&found)[18..], scores(&model)[18..]);
    for part in [
        "highway.0.classifier.bias",
        "highway.1.pooler",
        "bert.pooler",
        "layer.1.output",
    ] {
        let error = without(part).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = without("classifier.weight").unwrap_err().to_string();
    assert!(error.contains("classifier.weight"), "{error}");
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    model("bert").save_pretrained(dir.path()).unwrap();
    let config = config_of(dir.path());
    let fails = |change: &dyn Fn(&mut Value), part: &str| {
        let mut config = config.clone();
        change(&mut config);
        write_config(dir.path(), &config);
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    };
    fails(
        &|c| c["deebert"] = json!({ "thresholds": [0.1] }),
        "a list of 1",
    );
    fails(
        &|c| c["deebert"] = json!({ "threshold": 0.1 }),
        "thresholds",
    );
    fails(&|c| c["num_hidden_layers"] = 4.into(), "encoder.layer.3");
    fails(&|c| c["num_labels"] = 2.into(), "classifier.weight");
    fails(
        &|c| c["position_embedding_type"] = "relative_key".into(),
        "position_embedding_type",
    );
    write_config(dir.path(), &config);
    let bytes = fs::read(dir.path().join(WEIGHTS_FILE)).unwrap();
    fs::write(dir.path().join(WEIGHTS_FILE), &bytes[..bytes.len() / 2]).unwrap();
    assert!(load(dir.path()).is_err());
    fs::remove_file(dir.path().join(WEIGHTS_FILE)).unwrap();
    assert!(load(dir.path()).is_err());
    let no_object = checkpoint_of(
        json!([1]),
        "config.json".as_ref(),
        NamedTensors::new(),
        "x".as_ref(),
    );
    assert!(
        no_object
            .unwrap_err()
            .to_string()
            .contains("no JSON object")
    );
}
