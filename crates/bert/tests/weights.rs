//! Model folders: names both ways, prefixes, old names, half precision, shards, strictness, and what is written.

use bert::{
    AnyBert, BertConfig, BertForMaskedLm, BertForMultipleChoice, BertForPreTraining,
    BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification, BertModel,
    CONFIG_FILE, Checkpoint, EncoderCall, EncoderInput, WEIGHTS_FILE, load_pretrained,
};
use burn::prelude::*;
use burn::tensor::f16;
use core_attn::random::Key;
use pretrained::{NamedTensors, read_tensors, write_safetensors};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn tiny(variant: &str) -> BertConfig {
    let roberta = variant == "roberta";
    BertConfig {
        model_type: Some(variant.into()),
        vocab_size: 30,
        hidden_size: 16,
        num_hidden_layers: 2,
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

fn inputs() -> NamedTensors {
    let ids = TensorData::new(vec![2i64, 5, 9, 3, 2, 7, 3, 0], [2, 4]);
    let mask = TensorData::new(vec![1i64, 1, 1, 1, 1, 1, 1, 0], [2, 4]);
    [("input_ids".into(), ids), ("attention_mask".into(), mask)].into()
}

fn outputs(model: &AnyBert) -> NamedTensors {
    model.forward(inputs()).unwrap()
}

fn equal(a: &NamedTensors, b: &NamedTensors, off: f32) {
    let names = |x: &NamedTensors| x.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    for (name, a) in a {
        let pairs = a.iter::<f32>().zip(b[name].iter::<f32>());
        for (x, y) in pairs {
            assert!((x - y).abs() <= off, "{name}: {x} {y}");
        }
    }
}

fn config_of(dir: &Path) -> Value {
    pretrained::read_json(&dir.join(CONFIG_FILE)).unwrap()
}

fn set_config(dir: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let mut config = config_of(dir);
    change(config.as_object_mut().unwrap());
    fs::write(dir.join(CONFIG_FILE), config.to_string()).unwrap();
}

/// Rewrites the tensors of a folder.
fn rewrite(dir: &Path, change: impl FnOnce(NamedTensors) -> NamedTensors) {
    let file = dir.join(WEIGHTS_FILE);
    write_safetensors(&file, &change(read_tensors(&file).unwrap())).unwrap();
}

fn renamed(tensors: NamedTensors, f: impl Fn(&str) -> String) -> NamedTensors {
    tensors.into_iter().map(|(n, d)| (f(&n), d)).collect()
}

fn saved(class: &str, variant: &str) -> (tempfile::TempDir, AnyBert) {
    let device = Device::flex();
    let checkpoint = Checkpoint {
        config: BertConfig {
            architectures: None,
            ..tiny(variant)
        },
        tensors: pretrained::collect_weights(
            &BertModel::new(&tiny(variant), true, Key::new(1), &device).unwrap(),
        ),
        file: "made".into(),
    };
    let (model, _) = AnyBert::from_checkpoint(checkpoint, class, &device).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save_pretrained(dir.path()).unwrap();
    (dir, model)
}

#[test]
fn every_class_of_both_variants_survives_the_round_trip() {
    for variant in ["bert", "roberta"] {
        for class in AnyBert::CLASSES {
            let bert_only = ["ForPreTraining", "ForNextSentencePrediction"].contains(class);
            if (variant == "roberta" && bert_only) || *class == "ForMultipleChoice" {
                continue;
            }
            let (dir, model) = saved(class, variant);
            let again = load_pretrained(dir.path(), &Device::flex()).unwrap();
            assert_eq!(again.class(), *class);
            equal(&outputs(&model), &outputs(&again), 0.0);
            let name = if variant == "bert" { "Bert" } else { "Roberta" };
            assert_eq!(
                config_of(dir.path())["architectures"],
                json!([format!("{name}{class}")])
            );
        }
    }
}

#[test]
fn names_and_layouts_are_hugging_faces() {
    let expect = |class: &str, variant: &str, head: &[(&str, &[usize])]| {
        let (dir, _) = saved(class, variant);
        let tensors = read_tensors(&dir.path().join(WEIGHTS_FILE)).unwrap();
        let bytes = fs::read(dir.path().join(WEIGHTS_FILE)).unwrap();
        let header = String::from_utf8_lossy(&bytes[8..400]).into_owned();
        assert!(
            header.contains(r#""__metadata__":{"format":"pt"}"#),
            "{header}"
        );
        let prefix = format!("{variant}.");
        let body = if class == "Model" { "" } else { &prefix };
        let heads: Vec<&String> = tensors
            .keys()
            .filter(|n| class != "Model" && !n.starts_with(&prefix))
            .collect();
        let mut wanted: Vec<&str> = head.iter().map(|(n, _)| *n).collect();
        wanted.sort_unstable();
        assert_eq!(heads, wanted, "{class} {variant}");
        for (name, shape) in head {
            assert_eq!(tensors[*name].shape()[..], **shape, "{name}");
        }
        for (name, shape) in [
            ("embeddings.word_embeddings.weight", &[30, 16][..]),
            ("embeddings.position_embeddings.weight", &[12, 16]),
            ("embeddings.LayerNorm.weight", &[16]),
            ("encoder.layer.1.attention.self.query.weight", &[16, 16]),
            ("encoder.layer.1.attention.self.value.bias", &[16]),
            ("encoder.layer.0.attention.output.LayerNorm.bias", &[16]),
            ("encoder.layer.0.intermediate.dense.weight", &[24, 16]),
            ("encoder.layer.0.output.dense.weight", &[16, 24]),
            ("encoder.layer.0.output.LayerNorm.weight", &[16]),
        ] {
            assert_eq!(
                tensors[&format!("{body}{name}")].shape()[..],
                *shape,
                "{name}"
            );
        }
    };
    let lm: &[(&str, &[usize])] = &[
        ("cls.predictions.bias", &[30]),
        ("cls.predictions.transform.dense.weight", &[16, 16]),
        ("cls.predictions.transform.dense.bias", &[16]),
        ("cls.predictions.transform.LayerNorm.weight", &[16]),
        ("cls.predictions.transform.LayerNorm.bias", &[16]),
    ];
    expect("ForMaskedLM", "bert", lm);
    let mut both = lm.to_vec();
    both.push(("cls.seq_relationship.weight", &[2, 16]));
    both.push(("cls.seq_relationship.bias", &[2]));
    expect("ForPreTraining", "bert", &both);
    let classifier: &[(&str, &[usize])] =
        &[("classifier.weight", &[3, 16]), ("classifier.bias", &[3])];
    expect("ForSequenceClassification", "bert", classifier);
    expect("ForTokenClassification", "roberta", classifier);
    let qa: &[(&str, &[usize])] = &[("qa_outputs.weight", &[2, 16]), ("qa_outputs.bias", &[2])];
    expect("ForQuestionAnswering", "bert", qa);
    expect(
        "ForSequenceClassification",
        "roberta",
        &[
            ("classifier.dense.weight", &[16, 16]),
            ("classifier.dense.bias", &[16]),
            ("classifier.out_proj.weight", &[3, 16]),
            ("classifier.out_proj.bias", &[3]),
        ],
    );
    expect(
        "ForMaskedLM",
        "roberta",
        &[
            ("lm_head.bias", &[30]),
            ("lm_head.dense.weight", &[16, 16]),
            ("lm_head.dense.bias", &[16]),
            ("lm_head.layer_norm.weight", &[16]),
            ("lm_head.layer_norm.bias", &[16]),
        ],
    );
    expect("Model", "bert", &[]);
}

#[test]
fn old_names_buffers_prefixes_and_tied_copies_load() {
    let (dir, model) = saved("ForMaskedLM", "bert");
    let before = outputs(&model);
    rewrite(dir.path(), |tensors| {
        let mut old = renamed(tensors, |n| {
            let n = n.replace("LayerNorm.weight", "LayerNorm.gamma");
            n.replace("LayerNorm.bias", "LayerNorm.beta")
        });
        let words = old["bert.embeddings.word_embeddings.weight"].clone();
        old.insert("cls.predictions.decoder.weight".into(), words);
        let bias = old["cls.predictions.bias"].clone();
        old.insert("cls.predictions.decoder.bias".into(), bias);
        let positions = TensorData::new((0..12i64).collect::<Vec<_>>(), [1, 12]);
        old.insert("bert.embeddings.position_ids".into(), positions);
        let pooler = TensorData::new(vec![0f32; 16 * 16], [16, 16]);
        old.insert("bert.pooler.dense.weight".into(), pooler);
        old
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let (again, report) =
        AnyBert::from_checkpoint(checkpoint, "BertForMaskedLM", &Device::flex()).unwrap();
    equal(&before, &outputs(&again), 0.0);
    assert_eq!(
        report.unused,
        ["bert.embeddings.position_ids", "bert.pooler.dense.weight"]
    );
    assert!(report.new.is_empty());

    // A file without the prefix, and the body out of a file with one.
    rewrite(dir.path(), |t| {
        renamed(t, |n| n.trim_start_matches("bert.").to_owned())
    });
    equal(
        &before,
        &outputs(&load_pretrained(dir.path(), &Device::flex()).unwrap()),
        0.0,
    );
    let body = BertModel::from_pretrained(dir.path(), &Device::flex()).unwrap();
    let states = before["last_hidden_state"].iter::<f32>();
    let input = EncoderInput::from_named(&inputs()).unwrap();
    let found = body.forward(&input, &EncoderCall::default()).unwrap();
    assert!(
        body.pooler.is_some(),
        "the weight is there, the bias starts anew"
    );
    assert!(states.eq(found.last_hidden_state.into_data().iter::<f32>()));
}

#[test]
fn half_precision_shards_and_the_old_file_name_load() {
    let (dir, model) = saved("ForSequenceClassification", "bert");
    let before = outputs(&model);
    let file = dir.path().join(WEIGHTS_FILE);
    let tensors = read_tensors(&file).unwrap();
    let half = |data: &TensorData| {
        let values: Vec<f16> = data.iter::<f32>().map(f16::from_f32).collect();
        TensorData::new(values, data.shape().clone())
    };
    rewrite(dir.path(), |t| {
        t.iter().map(|(n, d)| (n.clone(), half(d))).collect()
    });
    set_config(dir.path(), |c| {
        drop(c.insert("torch_dtype".into(), "float16".into()))
    });
    let loaded = load_pretrained(dir.path(), &Device::flex()).unwrap();
    equal(&before, &outputs(&loaded), 0.05);
    // What is written is f32 and says so.
    let other = tempfile::tempdir().unwrap();
    loaded.save_pretrained(other.path()).unwrap();
    assert_eq!(config_of(other.path())["torch_dtype"], "float32");
    equal(
        &outputs(&loaded),
        &outputs(&load_pretrained(other.path(), &Device::flex()).unwrap()),
        0.0,
    );

    fs::remove_file(&file).unwrap();
    let (mut first, mut second) = (NamedTensors::new(), NamedTensors::new());
    let mut map = serde_json::Map::new();
    for (i, (name, data)) in tensors.iter().enumerate() {
        let shard = i % 2;
        let part = if shard == 0 { &mut first } else { &mut second };
        part.insert(name.clone(), data.clone());
        map.insert(
            name.clone(),
            format!("model-0000{}-of-00002.safetensors", shard + 1).into(),
        );
    }
    write_safetensors(&dir.path().join("model-00001-of-00002.safetensors"), &first).unwrap();
    write_safetensors(
        &dir.path().join("model-00002-of-00002.safetensors"),
        &second,
    )
    .unwrap();
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    equal(
        &before,
        &outputs(&load_pretrained(dir.path(), &Device::flex()).unwrap()),
        0.0,
    );

    for name in [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    write_safetensors(&dir.path().join("pytorch_model.bin"), &tensors).unwrap();
    equal(
        &before,
        &outputs(&load_pretrained(dir.path(), &Device::flex()).unwrap()),
        0.0,
    );
}

#[test]
fn the_class_that_is_named_must_be_complete_and_another_lists_what_is_new() {
    let (dir, _) = saved("ForMaskedLM", "bert");
    rewrite(dir.path(), |mut t| {
        t.remove("cls.predictions.transform.dense.bias");
        t
    });
    let error = BertForMaskedLm::from_pretrained(dir.path(), &Device::flex()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`cls.predictions.transform.dense.bias`: expected [16]"),
        "{error}"
    );

    let (dir, _) = saved("ForMaskedLM", "bert");
    let open = || Checkpoint::open(dir.path()).unwrap();
    let (_, report) =
        BertForSequenceClassification::from_checkpoint(open(), Key::new(1), &Device::flex())
            .unwrap();
    let new = [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    ];
    assert_eq!(report.new, new);
    assert_eq!(report.unused.len(), 5);
    assert!(
        report
            .unused
            .iter()
            .all(|n| n.starts_with("cls.predictions."))
    );

    // A body that is incomplete, or of another size, is an error always.
    rewrite(dir.path(), |mut t| {
        t.remove("bert.encoder.layer.1.output.dense.bias");
        t
    });
    let error = BertForQuestionAnswering::from_checkpoint(open(), Key::new(1), &Device::flex());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("`bert.encoder.layer.1.output.dense.bias`"),
        "{error}"
    );
    set_config(dir.path(), |c| {
        drop(c.insert("hidden_size".into(), 8.into()))
    });
    let error = BertForTokenClassification::from_checkpoint(open(), Key::new(1), &Device::flex());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("expected [30, 8], found [30, 16]"),
        "{error}"
    );

    let (dir, _) = saved("ForMaskedLM", "bert");
    set_config(dir.path(), |c| {
        drop(c.insert("num_hidden_layers".into(), 1.into()))
    });
    let error = BertForMaskedLm::from_pretrained(dir.path(), &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("layer.1"), "{error}");
}

#[test]
fn a_decoder_of_its_own_is_kept_apart() {
    let device = Device::flex();
    let config = BertConfig {
        tie_word_embeddings: false,
        ..tiny("bert")
    };
    let model = BertForPreTraining::new(&config, Key::new(3), &device).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save_pretrained(dir.path()).unwrap();
    let tensors = read_tensors(&dir.path().join(WEIGHTS_FILE)).unwrap();
    assert!(tensors.contains_key("cls.predictions.decoder.weight"));
    let again = BertForPreTraining::from_pretrained(dir.path(), &device).unwrap();
    let decoder = |m: &BertForPreTraining| m.head.decoder.as_ref().unwrap().val().into_data();
    assert_eq!(decoder(&model), decoder(&again));
    rewrite(dir.path(), |mut t| {
        t.remove("cls.predictions.decoder.weight");
        t
    });
    assert!(BertForPreTraining::from_pretrained(dir.path(), &device).is_err());
}

#[test]
fn folders_of_2019_and_folders_without_a_class_are_recognised() {
    let (dir, model) = saved("ForSequenceClassification", "roberta");
    let before = outputs(&model);
    set_config(dir.path(), |c| {
        for key in ["model_type", "architectures", "pad_token_id"] {
            c.remove(key);
        }
        c.insert("finetuning_task".into(), "mnli".into());
    });
    let again = load_pretrained(dir.path(), &Device::flex()).unwrap();
    equal(&before, &outputs(&again), 0.0);
    let body = again.body().config();
    assert_eq!(body.pad_token_id, Some(1));
    assert_eq!(body.extra["finetuning_task"], "mnli");
}

#[test]
fn broken_folders_are_explained() {
    let device = Device::flex();
    let (dir, _) = saved("Model", "bert");
    let file = dir.path().join(WEIGHTS_FILE);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        load_pretrained(dir.path(), &device)
            .unwrap_err()
            .to_string()
            .contains("model.safetensors")
    );
    fs::remove_file(&file).unwrap();
    assert!(
        load_pretrained(dir.path(), &device)
            .unwrap_err()
            .to_string()
            .contains("without weights")
    );
    fs::remove_file(dir.path().join(CONFIG_FILE)).unwrap();
    assert!(
        load_pretrained(dir.path(), &device)
            .unwrap_err()
            .to_string()
            .contains(CONFIG_FILE)
    );

    let (dir, _) = saved("Model", "bert");
    set_config(dir.path(), |c| {
        drop(c.insert("architectures".into(), json!(["BertLMHeadModel"])))
    });
    let error = load_pretrained(dir.path(), &device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("BertLMHeadModel") && error.contains("ForMaskedLM"),
        "{error}"
    );
}

#[test]
fn inputs_by_name_are_checked() {
    let (_dir, model) = saved("ForSequenceClassification", "bert");
    let fails = |inputs: NamedTensors, text: &str| {
        let error = model.forward(inputs).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let mut more = inputs();
    more.insert("labels".into(), TensorData::new(vec![1i64], [1]));
    fails(more, "labels is unknown");
    fails(NamedTensors::new(), "input_ids is absent");
    let mut other = inputs();
    other.insert(
        "attention_mask".into(),
        TensorData::new(vec![1i64; 6], [2, 3]),
    );
    fails(other, "expected [2, 4] as input_ids");
    let mut floats = inputs();
    floats.insert("input_ids".into(), TensorData::new(vec![1f32; 8], [2, 4]));
    fails(floats, "expected integers");
}

#[test]
fn multiple_choice_takes_three_dimensions_and_gives_one_score_a_choice() {
    let device = Device::flex();
    for variant in ["bert", "roberta"] {
        let model = BertForMultipleChoice::new(&tiny(variant), Key::new(2), &device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        model.save_pretrained(dir.path()).unwrap();
        let again = load_pretrained(dir.path(), &device).unwrap();
        let ids = TensorData::new(vec![2i64, 5, 3, 2, 6, 3, 2, 7, 3, 2, 8, 3], [2, 2, 3]);
        let out = again.forward([("input_ids".into(), ids)].into()).unwrap();
        assert_eq!(out["logits"].shape()[..], [2, 2]);
        // Each score is that of its sequence alone.
        let alone = EncoderInput::new(vec![2, 7, 3], 1, 3).unwrap();
        let (score, _) = model.forward(&alone, 1, &EncoderCall::default()).unwrap();
        let third = out["logits"].iter::<f32>().nth(2).unwrap();
        assert!((score.into_scalar::<f32>() - third).abs() < 1e-5);
    }
    let (_dir, model) = saved("ForSequenceClassification", "bert");
    let ids = TensorData::new(vec![2i64, 5, 3, 2], [1, 2, 2]);
    assert!(model.forward([("input_ids".into(), ids)].into()).is_err());
}

#[test]
fn a_head_is_named_as_people_write_it_and_its_tensors_must_be_there() {
    let device = Device::flex();
    for (class, head) in [
        ("ForTokenClassification", "token-classification"),
        ("ForMultipleChoice", "MultipleChoice"),
        ("ForMaskedLM", "BertForMaskedLM"),
        ("Model", "model"),
    ] {
        let (dir, model) = saved(class, "bert");
        set_config(dir.path(), |config| {
            config.remove("architectures");
        });
        let open = || Checkpoint::open(dir.path()).unwrap();
        let (found, _) = AnyBert::complete(open(), Some(head), &device).unwrap();
        assert_eq!(found.class(), class);
        if class != "ForMultipleChoice" {
            equal(&outputs(&model), &outputs(&found), 0.0);
        }
        let other = AnyBert::complete(open(), Some("question-answering"), &device).unwrap_err();
        assert!(other.to_string().contains("qa_outputs.weight"), "{other}");
        let none = AnyBert::complete(open(), Some("translation"), &device).unwrap_err();
        assert!(none.to_string().contains("masked-lm"), "{none}");
    }
    // Where nothing is named, the tensors tell as much as they can.
    for (class, variant) in [
        ("ForTokenClassification", "bert"),
        ("ForTokenClassification", "roberta"),
        ("ForSequenceClassification", "roberta"),
        ("ForMultipleChoice", "roberta"),
        ("ForSequenceClassification", "bert"),
    ] {
        let (dir, _) = saved(class, variant);
        set_config(dir.path(), |config| {
            config.remove("architectures");
        });
        assert_eq!(load_pretrained(dir.path(), &device).unwrap().class(), class);
    }
}

#[test]
fn values_that_make_it_another_model_are_refused_by_name() {
    let (dir, _) = saved("ForSequenceClassification", "bert");
    let original = config_of(dir.path());
    for (key, value) in [
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("pruned_heads", json!({ "0": [1] })),
        ("hidden_act", json!("mish")),
        ("model_type", json!("deberta")),
        ("embedding_size", json!(8)),
        ("problem_type", json!("ranking")),
        ("num_attention_heads", json!(3)),
        ("hidden_size", json!("16")),
        ("architectures", json!(["BertForTranslation"])),
    ] {
        set_config(dir.path(), |config| {
            config.insert(key.into(), value.clone());
        });
        let error = load_pretrained(dir.path(), &Device::flex()).unwrap_err();
        assert!(
            error.to_string().contains(key) || key == "num_attention_heads",
            "{key}: {error}"
        );
        fs::write(dir.path().join(CONFIG_FILE), original.to_string()).unwrap();
    }
    // Values that leave it the same model are no reason to refuse.
    set_config(dir.path(), |config| {
        for (key, value) in [
            ("position_embedding_type", json!("absolute")),
            ("is_decoder", json!(false)),
            ("pruned_heads", json!({})),
            ("torch_dtype", json!("float16")),
            ("some_future_key", json!([1, { "a": null }])),
        ] {
            config.insert(key.into(), value);
        }
    });
    let model = load_pretrained(dir.path(), &Device::flex()).unwrap();
    let other = tempfile::tempdir().unwrap();
    model.save_pretrained(other.path()).unwrap();
    let config = config_of(other.path());
    assert_eq!(config["some_future_key"], json!([1, { "a": null }]));
    assert_eq!(config["torch_dtype"], "float32", "what is written is f32");
}
