//! What is written, byte by byte: Python's transformers reads it without this crate's help.

use bert::{BertConfig, BertForMaskedLm, BertForSequenceClassification, CONFIG_FILE, WEIGHTS_FILE};
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

fn config() -> BertConfig {
    let extra = [("use_cache", Value::Bool(true)), ("note", "kept".into())];
    BertConfig {
        vocab_size: 11,
        hidden_size: 6,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 10,
        max_position_embeddings: 8,
        num_labels: Some(3),
        extra: extra.map(|(k, v)| (k.to_owned(), v)).into_iter().collect(),
        ..BertConfig::default()
    }
}

/// The header of a safetensors file and the data behind it, read as the format's specification says.
fn parts(dir: &Path) -> (Map<String, Value>, Vec<u8>) {
    let bytes = fs::read(dir.join(WEIGHTS_FILE)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0, "the data begins at a multiple of eight");
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let Value::Object(header) = header else {
        panic!("the header is no object");
    };
    (header, bytes[8 + length..].to_vec())
}

fn floats(header: &Map<String, Value>, data: &[u8], name: &str) -> (Vec<u64>, Vec<f32>) {
    let entry = &header[name];
    let numbers = |key: &str| -> Vec<u64> {
        let list = entry[key].as_array().unwrap().iter();
        list.map(|n| n.as_u64().unwrap()).collect()
    };
    let offsets = numbers("data_offsets");
    let bytes = &data[offsets[0] as usize..offsets[1] as usize];
    let values = bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (numbers("shape"), values.collect())
}

#[test]
fn the_file_is_what_the_format_and_python_ask_for() {
    let model =
        BertForSequenceClassification::new(&config(), Key::new(3), &Device::flex()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save_pretrained(dir.path()).unwrap();
    let (header, data) = parts(dir.path());
    assert_eq!(header["__metadata__"]["format"], "pt");

    // Contiguous, in order, all of the file, every element four bytes.
    let mut entries: Vec<(&String, &Value)> = header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    entries.sort_by_key(|(_, e)| e["data_offsets"][0].as_u64());
    let mut end = 0;
    for (name, entry) in &entries {
        assert_eq!(entry["dtype"], "F32", "{name}");
        assert_eq!(entry["data_offsets"][0], end, "{name}");
        let shape = entry["shape"].as_array().unwrap().iter();
        let elements: u64 = shape.map(|n| n.as_u64().unwrap()).product();
        end += 4 * elements;
        assert_eq!(entry["data_offsets"][1], end, "{name}");
    }
    assert_eq!(data.len() as u64, end);
    assert_eq!(entries.len(), 5 + 16 + 2 + 2);

    // A linear map is [out, in], row after row; here it is [in, out].
    let ours = &model.bert.encoder.layers[0]
        .feed_forward
        .intermediate
        .weight;
    let ours: Vec<f32> = ours.val().into_data().iter::<f32>().collect();
    let name = "bert.encoder.layer.0.intermediate.dense.weight";
    let (shape, theirs) = floats(&header, &data, name);
    assert_eq!(shape, [10, 6]);
    for (out, row) in theirs.chunks(6).enumerate() {
        for (input, value) in row.iter().enumerate() {
            assert_eq!(value.to_bits(), ours[input * 10 + out].to_bits());
        }
    }
    // An embedding stays as it is.
    let words = model.bert.embeddings.word_embeddings.val().into_data();
    let words: Vec<f32> = words.iter::<f32>().collect();
    let (shape, theirs) = floats(&header, &data, "bert.embeddings.word_embeddings.weight");
    assert_eq!((shape, theirs), (vec![11, 6], words));

    let config: Value = pretrained::read_json(&dir.path().join(CONFIG_FILE)).unwrap();
    for (key, value) in [
        (
            "architectures",
            serde_json::json!(["BertForSequenceClassification"]),
        ),
        ("model_type", "bert".into()),
        ("note", "kept".into()),
        ("use_cache", true.into()),
        ("hidden_size", 6.into()),
        ("layer_norm_eps", 1e-12.into()),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
}

#[test]
fn a_tied_decoder_is_left_out_and_one_of_its_own_is_written() {
    for tied in [true, false] {
        let config = BertConfig {
            tie_word_embeddings: tied,
            ..config()
        };
        let model = BertForMaskedLm::new(&config, Key::new(3), &Device::flex()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        model.save_pretrained(dir.path()).unwrap();
        let (header, _) = parts(dir.path());
        for name in ["weight", "bias"] {
            let name = format!("cls.predictions.decoder.{name}");
            assert_eq!(header.contains_key(&name), !tied, "{name}");
        }
        assert!(header.contains_key("cls.predictions.bias"));
        assert!(!header.keys().any(|name| name.contains("pooler")));
    }
}
