//! The run: exact resume with centroids, evaluation that moves nothing, errors of recipes, generation, both kinds of task.
#![cfg(feature = "train")]

use burn::prelude::*;
use pretrained::NamedTensors;
use routing_transformer::{ARCHITECTURE, Folder, RoutingExperiment, StreamReader, WindowReader};
use serde_json::{Value, json};
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Conversion, Experiment, Pretrained, Recipe,
    Sampling, Split, Step,
};

fn package() -> Value {
    json!({
        "flavor": "lucidrains", "dim": 16, "depth": 2, "max_seq_len": 24, "heads": 2, "dim_head": 8,
        "n_local_attn_heads": [2, 1], "local_attn_window_size": 6, "window_size": 6, "causal": true,
        "kmeans_ema_decay": 0.9, "ff_dropout": 0.1
    })
}

fn paper() -> Value {
    json!({
        "hidden_size": 16, "num_decoder_layers": 2, "filter_size": 16, "local_num_heads": 1,
        "sparsity_cluster_num_heads": 1, "sparsity_cluster_size": 4, "sparsity_cluster_attention_window": 6,
        "query_shape": [6], "memory_flange": [6], "max_relative_position": 8, "target_dropout": 0.1
    })
}

fn recipe(model: Value, training: Value) -> Recipe {
    let mut all = json!({ "steps": 8, "batch_size": 2, "block_size": 24 });
    for (key, value) in training.as_object().unwrap() {
        all[key] = value.clone();
    }
    let value = json!({
        "architecture": "routing-transformer",
        "seed": 3,
        "model": model,
        "data": { "make": { "task": "copy", "span": 6, "bytes": 2000 } },
        "training": all,
        "evaluation": { "batch_size": 1, "prompt": "a", "sample": { "length": 5 } }
    });
    Recipe::from_value(value, Path::new("test.json"), &[]).unwrap()
}

fn open(recipe: &Recipe) -> RoutingExperiment {
    RoutingExperiment::open(recipe, &Device::flex()).unwrap()
}

fn train(experiment: &mut RoutingExperiment, steps: std::ops::Range<u64>) {
    let mut cx = Context::detached();
    for step in steps {
        experiment
            .train_step(Step::new(3, 0, step, step), &mut cx)
            .unwrap();
    }
}

fn weights(experiment: &RoutingExperiment) -> NamedTensors {
    experiment.model().weights()
}

fn cases() -> Vec<Recipe> {
    let adam = json!({ "name": "adam", "lr": 0.01 });
    vec![
        recipe(
            package(),
            json!({ "optimizer": adam, "clip": 0.5, "random_truncation": true }),
        ),
        recipe(paper(), json!({ "batch_split": 2 })),
    ]
}

#[test]
fn a_resumed_run_equals_one_that_was_not_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    for (i, recipe) in cases().iter().enumerate() {
        let mut whole = open(recipe);
        let start = weights(&whole);
        train(&mut whole, 0..8);
        let mut first = open(recipe);
        train(&mut first, 0..4);
        let folder = dir.path().join(i.to_string());
        CheckpointWriter::write(&folder, |to| first.save(to)).unwrap();
        let mut second = open(recipe);
        second
            .restore(&CheckpointReader::open(&folder).unwrap())
            .unwrap();
        assert_eq!(weights(&second), weights(&first));
        train(&mut second, 4..8);
        assert_eq!(weights(&second), weights(&whole));
        let figures = |e: &RoutingExperiment| format!("{:?}", e.figures());
        assert_eq!(figures(&second), figures(&whole));
        let centroids = weights(&whole)
            .into_iter()
            .filter(|(name, _)| name.ends_with("means"));
        let moved: Vec<_> = centroids
            .filter(|(name, data)| start[name] != *data)
            .collect();
        assert!(!moved.is_empty(), "no centroid moved");
    }
}

#[test]
fn evaluation_moves_nothing_and_gives_its_figures() {
    for recipe in cases() {
        let mut experiment = open(&recipe);
        train(&mut experiment, 0..2);
        let before = weights(&experiment);
        let mut cx = Context::detached();
        let metrics = experiment.evaluate(Split::Test, &mut cx).unwrap();
        for name in [
            "bits_per_byte",
            "bits_per_byte_strict",
            "occupancy_entropy",
            "uncovered",
        ] {
            let value = metrics.get(name).unwrap_or(f64::NAN);
            assert!((0.0..10.0).contains(&value), "{name} is {value}");
        }
        assert_eq!(weights(&experiment), before);
        assert_eq!(experiment.figures().len(), 2);
        assert_eq!(experiment.samples(&mut cx).unwrap().len(), 1);
    }
}

#[test]
fn frozen_centroids_stay() {
    let mut experiment = open(&recipe(paper(), json!({ "freeze_centroids": true })));
    let before = weights(&experiment);
    train(&mut experiment, 0..3);
    for (name, data) in weights(&experiment) {
        let centroid = name.ends_with("means") || name.ends_with("ema_count");
        let unused = name.ends_with("final_dense_1/kernel");
        assert_eq!(before[&name] == data, centroid || unused, "{name}");
    }
}

#[test]
fn bidirectional_models_learn_hidden_tokens() {
    let mut model = paper();
    model["causal"] = false.into();
    model["share_qk"] = false.into();
    let adam = json!({ "name": "adam", "lr": 0.01 });
    let recipe = recipe(model, json!({ "optimizer": adam, "steps": 40 }));
    let mut experiment = open(&recipe);
    let mut cx = Context::detached();
    let mut loss = |e: &mut RoutingExperiment| {
        let metrics = e.evaluate(Split::Valid, &mut cx).unwrap();
        metrics.get("masked_loss").unwrap()
    };
    let before = loss(&mut experiment);
    train(&mut experiment, 0..40);
    let after = loss(&mut experiment);
    assert!(after < before - 0.1, "{before} to {after}");
    assert!(experiment.generator().is_none());
}

#[test]
fn folders_generate_and_answer() {
    let dir = tempfile::tempdir().unwrap();
    for (i, recipe) in cases().iter().enumerate() {
        let mut experiment = open(recipe);
        train(&mut experiment, 0..2);
        let folder = dir.path().join(i.to_string());
        experiment.export(&folder).unwrap();
        let mut model = Folder::open(&folder, &Device::flex()).unwrap();
        let options = Sampling {
            length: 30,
            seed: 4,
            ..Sampling::default()
        };
        let mut shown = String::new();
        let generator = model.generator().unwrap();
        // Longer than the model's window.
        let text = generator
            .generate("abcabc|", &options, &mut |piece| shown.push_str(piece))
            .unwrap();
        assert_eq!(text, shown);
        assert_eq!(text.len(), 30);
        let again = generator
            .generate("abcabc|", &options, &mut |_| {})
            .unwrap();
        assert_eq!(text, again);
        let input = if i == 0 { "tokens" } else { "targets" };
        let ids = TensorData::new(vec![1i64, 2, 3, 1, 2, 3, 1], [1, 7]);
        let out = model.forward([(input.to_owned(), ids)].into()).unwrap();
        assert_eq!(out["logits"].shape()[..2], [1, 7]);
        assert!(out.keys().any(|name| name.starts_with("assignment.")));
        let bad = TensorData::new(vec![99i64], [1, 1]);
        assert!(model.forward([(input.to_owned(), bad)].into()).is_err());
        assert!(
            model
                .forward([("text".to_owned(), TensorData::new(vec![1i64], [1, 1]))].into())
                .is_err()
        );
        let mut cx = Context::detached();
        let before = experiment.evaluate(Split::Valid, &mut cx).unwrap();
        let mut other = open(recipe);
        other.load_model(&folder).unwrap();
        assert_eq!(other.evaluate(Split::Valid, &mut cx).unwrap(), before);
        // A converted checkpoint needs its configuration.
        let from = Conversion {
            checkpoint: folder.join("model.safetensors"),
            ..Conversion::default()
        };
        let message = Folder::convert(&from, &Device::flex())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(message.contains("--config"), "{message}");
        let config = Some(folder.join("config.json"));
        assert!(Folder::convert(&Conversion { config, ..from }, &Device::flex()).is_ok());
    }
    let bundle = Conversion {
        checkpoint: dir.path().join("ckpt-3530000.index"),
        ..Conversion::default()
    };
    let message = Folder::convert(&bundle, &Device::flex())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(message.contains("safetensors"), "{message}");
}

#[test]
fn impossible_recipes_are_told() {
    let bad = |model: Value, training: Value, part: &str| {
        let result = RoutingExperiment::open(&recipe(model, training), &Device::flex());
        let message = result.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(part), "{part} is not in {message}");
    };
    let set = |mut model: Value, key: &str, value: Value| {
        model[key] = value;
        model
    };
    bad(
        set(paper(), "sparsity_cluster_attention_window", 25.into()),
        json!({}),
        "sparsity_cluster_attention_window",
    );
    bad(
        set(package(), "window_size", 5.into()),
        json!({}),
        "model.max_seq_len",
    );
    bad(
        package(),
        json!({ "block_size": 48 }),
        "training.block_size",
    );
    bad(
        set(paper(), "vocab_size", 3.into()),
        json!({}),
        "model.vocab_size",
    );
    bad(
        set(paper(), "hiden_size", 3.into()),
        json!({}),
        "hidden_size",
    );
    bad(paper(), json!({ "batch_split": 3 }), "training.batch_split");
    bad(
        paper(),
        json!({ "masked_share": 1.0 }),
        "training.masked_share",
    );
    bad(paper(), json!({ "step": 1 }), "steps");
    bad(paper(), json!({ "batch_size": 2000 }), "batch");
}

#[test]
fn every_recipe_of_this_architecture_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/routing-transformer");
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let recipe = Recipe::load(&path, &[]).unwrap();
        let model = recipe.model.clone();
        let config =
            routing_transformer::RoutingTransformerConfig::from_value(model, &path, "model")
                .unwrap();
        config.validate().unwrap();
        let training: routing_transformer::TrainingConfig = recipe.section("training").unwrap();
        training.resolved().unwrap();
        let evaluation: routing_transformer::EvaluationConfig =
            recipe.section("evaluation").unwrap();
        evaluation.validate().unwrap();
        recipe.clock().unwrap();
        names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    for name in [
        "quickstart",
        "small",
        "paper-enwik8",
        "paper-pg19",
        "paper-wikitext-103",
        "paper-cifar10",
        "paper-imagenet64",
        "emoji",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} is missing");
    }
    assert_eq!(ARCHITECTURE.name, "routing-transformer");
}

#[test]
fn the_default_rate_is_flat_and_then_falls() {
    // 0.01·√w / √max(t, w) with w = 10 000.
    let training = routing_transformer::TrainingConfig::default()
        .resolved()
        .unwrap();
    let trainer::OptimizerConfig::Adafactor { lr, .. } = training.optimizer else {
        panic!("not Adafactor");
    };
    for (update, expected) in [(1, 0.01), (5_000, 0.01), (10_000, 0.01), (40_000, 0.005)] {
        let found = training.schedule.lr(lr, update);
        assert!(
            (found - expected).abs() < 1e-9,
            "{found} at update {update}"
        );
    }
}

#[test]
fn reading_on_and_reading_again_agree_within_the_window() {
    use language::Reader;

    let device = Device::flex();
    for mut model in [package(), paper()] {
        model["strict_causal_routing"] = true.into();
        let mut experiment = open(&recipe(model, json!({})));
        train(&mut experiment, 0..3);
        let model = experiment.model().weights();
        let config = experiment.model().config();
        let file = Path::new("trained");
        let model =
            routing_transformer::RoutingTransformerLM::from_tensors(&config, model, file, &device);
        let model = model.unwrap();
        let mut on = StreamReader::new(model.clone(), 24, device.clone());
        let mut again = WindowReader::new(model, 24, device.clone());
        let text: Vec<u32> = (0..23).map(|i| (i * i + i / 3) % 3).collect();
        let both = |on: &mut StreamReader, again: &mut WindowReader, part: &[u32]| {
            let (one, other) = (on.read(part).unwrap(), again.read(part).unwrap());
            assert_eq!(one.len(), other.len());
            one.iter()
                .zip(&other)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max)
        };
        assert!(both(&mut on, &mut again, &text[..5]) < 1e-4);
        for t in 5..23 {
            let off = both(&mut on, &mut again, &text[t..=t]);
            assert!(off < 1e-4, "token {t}: off by {off}");
        }
        // Behind a full window the two differ in what they still know; a restart brings them together.
        for t in 0..40 {
            assert!(on.read(&[t % 3]).unwrap().iter().all(|s| s.is_finite()));
        }
        on.restart().unwrap();
        again.restart().unwrap();
        assert!(both(&mut on, &mut again, &text[..9]) < 1e-4);
        // A prompt longer than the window.
        assert!(
            on.read(&text.repeat(3))
                .unwrap()
                .iter()
                .all(|s| s.is_finite())
        );
        // The tools read on as well.
        let options = Sampling {
            length: 60,
            seed: 4,
            ..Sampling::default()
        };
        let generator = experiment.generator().unwrap();
        let text = generator
            .generate("abcabc|", &options, &mut |_| {})
            .unwrap();
        assert_eq!(text.len(), 60);
    }
}

/// Pictures of 4 x 4 pixels: stripes of a colour that a picture keeps, so that its first pixel tells the others.
fn picture_recipe(dir: &Path, training: Value) -> Recipe {
    let picture = |i: usize| -> Vec<u8> {
        let colour = [[200, 30, 30], [30, 200, 30], [30, 30, 200]][i % 3];
        let row = |y: usize| {
            if y.is_multiple_of(2) {
                colour
            } else {
                [255, 255, 255]
            }
        };
        (0..4).flat_map(|y| row(y).repeat(4)).collect()
    };
    std::fs::write(
        dir.join("pictures.bin"),
        (0..40).flat_map(picture).collect::<Vec<u8>>(),
    )
    .unwrap();
    let mut all = json!({
        "steps": 30, "batch_size": 4, "block_size": 48, "optimizer": { "name": "adam", "lr": 0.01 }
    });
    for (key, value) in training.as_object().unwrap() {
        all[key] = value.clone();
    }
    let value = json!({
        "architecture": "routing-transformer",
        "seed": 3,
        "model": {
            "frame_height": 4, "frame_width": 4, "hidden_size": 16, "num_decoder_layers": 2, "filter_size": 24,
            "ffn_layer": "conv_hidden_relu", "local_num_heads": 1, "sparsity_cluster_num_heads": 1,
            "sparsity_cluster_size": 4, "sparsity_cluster_attention_window": 12, "query_shape": [12],
            "memory_flange": [12], "local_relative": false, "sparsity_cluster_relative": false,
            "max_relative_position": 0
        },
        "data": { "path": "pictures.bin", "split": { "train": 8, "valid": 1, "test": 1 } },
        "training": all,
        "evaluation": { "batch_size": 3, "pictures": 3 }
    });
    Recipe::from_value(value, &dir.join("recipe.json"), &[]).unwrap()
}

#[test]
fn pictures_are_learned_resumed_scored_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let open = |recipe: &Recipe| (ARCHITECTURE.open)(recipe, &Device::flex()).unwrap();
    let step = |experiment: &mut dyn Experiment, steps: std::ops::Range<u64>| {
        for step in steps {
            let at = Step::new(3, 0, step, step);
            experiment.train_step(at, &mut Context::detached()).unwrap();
        }
    };
    let recipe = picture_recipe(dir.path(), json!({ "batch_split": 2 }));
    let mut cx = Context::detached();
    let mut whole = open(&recipe);
    let before = whole.evaluate(Split::Test, &mut cx).unwrap();
    step(whole.as_mut(), 0..30);
    let after = whole.evaluate(Split::Test, &mut cx).unwrap();
    let bits = |m: &trainer::Metrics, name: &str| m.get(name).unwrap();
    assert!(
        (bits(&before, "bits_per_dim") - 8.0).abs() < 1.0,
        "{before:?}"
    );
    assert!(bits(&after, "bits_per_dim") < 3.0, "{after:?}");
    assert!(bits(&after, "bits_per_dim_strict") < 3.0, "{after:?}");
    for reference in whole.references() {
        assert_eq!(reference.metric, "bits_per_dim");
        assert!((0.0..8.0).contains(&reference.value), "{reference:?}");
    }
    assert_eq!(whole.figures().len(), 2);

    let mut first = open(&recipe);
    step(first.as_mut(), 0..13);
    let folder = dir.path().join("checkpoint");
    CheckpointWriter::write(&folder, |to| first.save(to)).unwrap();
    let mut second = open(&recipe);
    second
        .restore(&CheckpointReader::open(&folder).unwrap())
        .unwrap();
    step(second.as_mut(), 13..30);
    assert_eq!(second.evaluate(Split::Test, &mut cx).unwrap(), after);

    // A run draws into its folder; a folder of the model draws tensors.
    let artefacts = dir.path().join("artefacts");
    let mut drawing = Context::new(
        Some(artefacts.clone()),
        Default::default(),
        Box::new(trainer::Silent),
    );
    assert_eq!(whole.samples(&mut drawing).unwrap().len(), 1);
    assert_eq!(
        std::fs::read(artefacts.join("pictures.bmp")).unwrap()[..2],
        *b"BM"
    );
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    whole.export(&model).unwrap();
    let mut model = Folder::open(&model, &Device::flex()).unwrap();
    assert!(model.generator().is_none());
    let sampler = model.sampler().unwrap();
    let drawn = sampler.sample(2, 7).unwrap();
    assert_eq!(drawn["pictures"].shape()[..], [2, 4, 4, 3]);
    assert_eq!(drawn["pictures"], sampler.sample(2, 7).unwrap()["pictures"]);
    assert!(sampler.sample(0, 7).is_err());
    let ids = TensorData::new(vec![0i64; 48], [1, 48]);
    let out = model.forward([("targets".to_owned(), ids)].into()).unwrap();
    assert_eq!(out["logits"].shape()[..], [1, 48, 256]);
    assert!(out["ce_loss"].iter::<f32>().all(|x| x > 0.0));
}

#[test]
fn impossible_pictures_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let bad = |at: &str, value: Value, part: &str| {
        let mut all = picture_recipe(dir.path(), json!({})).resolved();
        let (section, key) = at.split_once('.').unwrap();
        all[section][key] = value;
        let recipe = Recipe::from_value(all, &dir.path().join("recipe.json"), &[]).unwrap();
        let result = (ARCHITECTURE.open)(&recipe, &Device::flex());
        let message = result.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(part), "{part} is not in {message}");
    };
    bad("training.block_size", 47.into(), "training.block_size");
    bad(
        "training.random_truncation",
        true.into(),
        "random_truncation",
    );
    bad("evaluation.pictures", 0.into(), "evaluation.pictures");
    bad("data.path", "absent.bin".into(), "absent.bin");
    bad("data.format", "bytes".into(), "data");
    bad("model.frame_height", 5.into(), "training.block_size");
    bad("model.num_channels", 1.into(), "training.block_size");
    bad(
        "model.sparsity_cluster_attention_window",
        49.into(),
        "sparsity_cluster_attention_window",
    );
    let mut text = recipe(paper(), json!({})).resolved();
    text["evaluation"]["pictures"] = 3.into();
    let text = Recipe::from_value(text, Path::new("test.json"), &[]).unwrap();
    let message = RoutingExperiment::open(&text, &Device::flex())
        .map(|_| ())
        .unwrap_err();
    assert!(
        message.to_string().contains("evaluation.pictures"),
        "{message}"
    );
}

#[test]
fn clusters_are_exported_and_agree_with_the_forward_pass() {
    let dir = tempfile::tempdir().unwrap();
    for (i, strict) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut model = if i == 0 { package() } else { paper() };
        model["strict_causal_routing"] = strict.into();
        let mut experiment = open(&recipe(model, json!({})));
        train(&mut experiment, 0..2);
        let folder = dir.path().join(format!("{i}-{strict}"));
        experiment.export(&folder).unwrap();
        let mut model = Folder::open(&folder, &Device::flex()).unwrap();
        let predictor = model.predictor().unwrap();
        let answer = predictor.predict(&json!({ "text": "abcabca" })).unwrap();
        let ids: Vec<i64> = serde_json::from_value(answer["ids"].clone()).unwrap();
        let tokens = answer["tokens"].as_array().unwrap();
        let spelled: String = tokens.iter().filter_map(Value::as_str).collect();
        assert_eq!(spelled, if i == 0 { "abcabca" } else { "abcabc" });
        let layers = answer["layers"].as_array().unwrap();
        assert_eq!(layers.len(), if i == 0 { 1 } else { 2 });
        // The same by name: the authors' model is given what it foretells.
        let (name, given) = match i {
            0 => ("tokens", ids.clone()),
            _ => ("targets", [&ids[1..], &[ids[1]]].concat()),
        };
        for layer in layers {
            let index = layer["layer"].as_u64().unwrap();
            for head in layer["heads"].as_array().unwrap() {
                let clusters: Vec<Vec<usize>> =
                    serde_json::from_value(head["clusters"].clone()).unwrap();
                let nearest: Vec<i64> = serde_json::from_value(head["nearest"].clone()).unwrap();
                assert_eq!((clusters.len(), nearest.len()), (7, 7));
                assert!(clusters.iter().flatten().all(|c| *c < 4));
                // The first position is alone with its past, so all clusters take it.
                assert!(!strict || clusters[0] == [0, 1, 2, 3]);
            }
            assert!(index < 2);
        }
        let data = TensorData::new(given, [1, 7]);
        let out = model.forward([(name.to_owned(), data)].into()).unwrap();
        let layer = &layers[0];
        let name = format!("assignment.{}", layer["layer"]);
        let found: Vec<i64> = out[&name].iter::<i64>().take(7).collect();
        let nearest: Vec<i64> =
            serde_json::from_value(layer["heads"][0]["nearest"].clone()).unwrap();
        assert_eq!(found, nearest);
        assert_eq!(out.keys().any(|name| name.starts_with("members.")), !strict);
        let predictor = model.predictor().unwrap();
        assert!(predictor.predict(&json!({ "ids": ids })).is_ok());
        for (bad, part) in [
            (json!({ "txt": "a" }), "`text`"),
            (json!({ "ids": [1.5] }), "whole numbers"),
            (json!({ "ids": [] }), "empty"),
            (json!({ "ids": [99] }), "token id"),
            (json!({ "text": "zzz" }), "unknown token"),
            (json!("a"), "`ids`"),
        ] {
            let message = predictor.predict(&bad).unwrap_err().to_string();
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }
}

#[test]
fn released_sub_words_stand_beside_released_weights() {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = vec!["'<pad>'".to_owned(), "'<EOS>'".to_owned()];
    lines.extend("\\_u;0123456789abcdefgh".chars().map(|c| format!("'{c}'")));
    lines.push("'abc_'".into());
    let vocab = dir.path().join("vocab.test.subwords");
    std::fs::write(&vocab, lines.join("\n")).unwrap();
    let mut config = paper();
    config["vocab_size"] = lines.len().into();
    let file = dir.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let model = routing_transformer::RoutingTransformerConfig::from_file(&file)
        .unwrap()
        .init(core_attn::random::Key::new(1), &Device::flex())
        .unwrap();
    let checkpoint = dir.path().join("released.safetensors");
    pretrained::write_safetensors(&checkpoint, &model.weights()).unwrap();
    let from = Conversion {
        checkpoint,
        config: Some(file),
        vocab: Some(vocab),
        ..Conversion::default()
    };
    let converted = Folder::convert(&from, &Device::flex()).unwrap();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    converted.save(&folder).unwrap();
    let mut model = Folder::open(&folder, &Device::flex()).unwrap();
    let facts = model.describe();
    assert!(
        facts
            .iter()
            .any(|(_, value)| value.contains("25 sub-words")),
        "{facts:?}"
    );
    let options = Sampling {
        length: 40,
        ..Sampling::default()
    };
    let generator = model.generator().unwrap();
    let mut shown = String::new();
    let text = generator
        .generate("abc de", &options, &mut |piece| shown.push_str(piece))
        .unwrap();
    assert_eq!(text, shown);
    assert_eq!(
        text,
        generator.generate("abc de", &options, &mut |_| {}).unwrap()
    );
    let stop = Sampling {
        stop: text.chars().nth(1).map(String::from),
        ..options
    };
    let stopped = generator.generate("abc de", &stop, &mut |_| {}).unwrap();
    assert!(text.starts_with(&stopped) && stopped.len() < text.len());
    assert!(generator.generate("", &stop, &mut |_| {}).is_err());
    let answer = model
        .predictor()
        .unwrap()
        .predict(&json!({ "text": "abc de" }))
        .unwrap();
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 4);
    // More sub-words than the model has ids.
    std::fs::write(
        folder.join("vocab.subwords"),
        lines.join("\n") + "\n'x'\n'y'\n",
    )
    .unwrap();
    let message = Folder::open(&folder, &Device::flex())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(message.contains("27 tokens"), "{message}");
}
