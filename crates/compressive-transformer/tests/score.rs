//! Scores of single tokens against a reader that begins every one of them anew.
#![cfg(feature = "train")]

use burn::prelude::*;
use compressive_transformer::{
    ARCHITECTURE, CompressiveExperiment, CompressiveTransformer, LucidrainsTransformer,
    MemoryModel, MemoryReader,
};
use language::Reader;
use serde_json::{Value, json};
use std::path::Path;
use trainer::{Context, Experiment, Metrics, Recipe, Scoring, Split, Step};

fn recipe(model: Value, data: Value) -> Recipe {
    let value = json!({
        "architecture": "compressive-transformer",
        "seed": 3,
        "model": model,
        "data": data,
        "training": { "steps": 8, "batch_size": 3, "optimizer": { "name": "adam", "lr": 1e-2 }, "clip": 0.5 },
        "evaluation": { "batch_size": 3, "word_perplexity": true }
    });
    Recipe::from_value(value, Path::new("tiny.json"), &[]).unwrap()
}

fn deepmind() -> Value {
    json!({
        "chunk_size": 8, "memory_size": 8, "compressed_memory_size": 6, "compression_rate": 2, "value_size": 4, "num_heads": 2,
        "num_layers": 2, "mlp_hidden_sizes": [12]
    })
}

fn lucidrains() -> Value {
    json!({ "dim": 8, "depth": 2, "heads": 2, "seq_len": 8, "mem_len": 8, "cmem_len": 4, "cmem_ratio": 2 })
}

fn generated() -> Value {
    json!({ "make": { "task": "gap", "span": 8, "bytes": 1500 }, "all_bytes": true })
}

/// Log-probabilities by position.
fn scores(experiment: &mut dyn Experiment, options: Scoring) -> (Vec<(usize, f64)>, Metrics) {
    let mut all = vec![];
    let scorer = experiment.scorer().unwrap();
    let mut sink = |token: trainer::TokenScore<'_>| {
        all.push((token.position, token.logprob));
        Ok(())
    };
    let metrics = scorer
        .score(Split::Test, &options, &mut sink, &mut Context::detached())
        .unwrap();
    (all, metrics)
}

fn check<M: MemoryModel>(model: Value, data: Value) {
    let device = Device::flex();
    let recipe = recipe(model.clone(), data);
    let mut experiment = CompressiveExperiment::<M>::open(&recipe, model, &device).unwrap();
    let mut cx = Context::detached();
    for step in 0..6 {
        experiment
            .train_step(Step::new(3, 0, step, step), &mut cx)
            .unwrap();
    }
    let plain = experiment.evaluate(Split::Test, &mut cx).unwrap();
    let (_, once) = scores(&mut experiment, Scoring::default());
    for (name, value) in plain.iter() {
        let found = once.get(name).unwrap();
        assert!(
            found == value || (found / value - 1.0).abs() < 1e-5,
            "{name}: {found}, {value}"
        );
    }
    let test = experiment.corpus().test.clone();
    let texts = language::documents(&test.documents, test.tokens.len());
    let mut reader = MemoryReader::new(experiment.model().clone(), device).unwrap();
    for (window, stride) in [(20, 7), (16, 16), (11, 1)] {
        let options = Scoring {
            stride: Some(stride),
            window: Some(window),
        };
        let (found, _) = scores(&mut experiment, options);
        let mut found = found.into_iter();
        for &(start, length) in &texts {
            for i in 1..length {
                let first = i.saturating_sub(window).div_ceil(stride) * stride;
                let first = first.min((length - 1).saturating_sub(window));
                reader.restart().unwrap();
                let past = &test.tokens[start + first..start + i];
                let expected = reader.read(past).unwrap()[test.tokens[start + i] as usize];
                let (position, logprob) = found.next().unwrap();
                assert_eq!(position, start + i);
                let off = (logprob - f64::from(expected)).abs();
                assert!(
                    off < 1e-4,
                    "{window} {stride} at {position}: {logprob}, {expected}"
                );
            }
        }
        assert_eq!(found.next(), None);
    }
}

#[test]
fn a_token_has_the_probability_that_its_window_gives_it() {
    check::<CompressiveTransformer>(deepmind(), generated());
    check::<LucidrainsTransformer>(lucidrains(), generated());
}

#[test]
fn no_window_leaves_its_document() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..24 {
        let text = format!("Document {i}: {}", "words and more. ".repeat(1 + i % 4));
        std::fs::write(folder.path().join(format!("{i:02}.txt")), text).unwrap();
    }
    let data = json!({ "path": folder.path(), "layout": "documents", "format": "bytes", "all_bytes": true });
    check::<CompressiveTransformer>(deepmind(), data);
}

#[test]
fn a_window_holds_a_chunk_and_what_a_layer_remembers() {
    let recipe = recipe(deepmind(), generated());
    let mut experiment =
        (ARCHITECTURE.open)(&recipe, &Device::flex()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(experiment.reach(), Some(2 * (8 + 2 * 6)));
    let of = |window| Scoring {
        stride: Some(5),
        window,
    };
    let (whole, _) = scores(&mut *experiment, of(None));
    let (same, _) = scores(&mut *experiment, of(Some(8 + 8 + 2 * 6)));
    assert_eq!(whole, same);
    let scorer = experiment.scorer().unwrap();
    let mut cx = Context::detached();
    let wrong = scorer.score(Split::Test, &of(Some(4)), &mut |_| Ok(()), &mut cx);
    assert!(wrong.unwrap_err().to_string().contains("1 to 4"));
}
