//! Scores of single tokens against a reader that begins every one of them anew.
#![cfg(feature = "train")]

use adaptive_span::{AdaptiveSpanExperiment, SpanReader};
use burn::prelude::*;
use language::Reader;
use serde_json::json;
use std::path::Path;
use trainer::{Context, Experiment, Recipe, Scoring, Split, Step};

#[test]
fn a_token_has_the_probability_that_its_window_gives_it() {
    let value = json!({
        "architecture": "adaptive-span",
        "seed": 3,
        "model": {
            "hidden_size": 8, "inner_hidden_size": 12, "nb_layers": 2, "nb_heads": 2, "attn_span": 16, "adapt_span_enabled": true,
            "adapt_span_init": 0.5, "adapt_span_ramp": 4, "adapt_span_cache": true
        },
        "data": { "make": { "task": "gap", "span": 8, "bytes": 1500 }, "all_bytes": true },
        "training": { "steps": 8, "batch_size": 3, "block_size": 6 },
        "evaluation": { "batch_size": 3 }
    });
    let recipe = Recipe::from_value(value, Path::new("tiny.json"), &[]).unwrap();
    let device = Device::flex();
    let mut experiment = AdaptiveSpanExperiment::open(&recipe, &device).unwrap();
    let mut cx = Context::detached();
    for step in 0..6 {
        experiment
            .train_step(Step::new(3, 0, step, step), &mut cx)
            .unwrap();
    }
    let test = experiment.corpus().test.clone();
    let mut reader = SpanReader::new(experiment.model().clone(), device);
    let largest: usize = experiment.model().reach();
    assert_eq!(experiment.reach(), Some(largest));
    assert!((1..=2 * 16).contains(&largest));
    for (window, stride) in [(20, 7), (16, 16), (11, 1)] {
        let options = Scoring {
            stride: Some(stride),
            window: Some(window),
        };
        let mut found = vec![];
        let mut sink = |token: trainer::TokenScore<'_>| {
            found.push((token.position, token.logprob));
            Ok(())
        };
        let scorer = experiment.scorer().unwrap();
        scorer
            .score(Split::Test, &options, &mut sink, &mut cx)
            .unwrap();
        assert_eq!(found.len(), test.tokens.len() - 1);
        for (i, (position, logprob)) in (1usize..).zip(found) {
            let first = i.saturating_sub(window).div_ceil(stride) * stride;
            let first = first.min((test.tokens.len() - 1).saturating_sub(window));
            reader.restart().unwrap();
            let scores = reader.read(&test.tokens[first..i]).unwrap();
            let expected = f64::from(scores[test.tokens[i] as usize]);
            assert_eq!(position, i);
            let off = (logprob - expected).abs();
            assert!(
                off < 1e-4,
                "{window} {stride} at {i}: {logprob}, {expected}"
            );
        }
    }
}
