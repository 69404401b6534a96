//! Scores of single tokens against a model that is shown the window of each by itself.
#![cfg(feature = "train")]

use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use routing_transformer::{Mode, RoutingExperiment, RoutingTransformerLM};
use serde_json::{Value, json};
use std::path::Path;
use trainer::{Context, Experiment, Recipe, Scoring, Split, Step};

fn check(model: Value) {
    let value = json!({
        "architecture": "routing-transformer",
        "seed": 3,
        "model": model,
        "data": { "make": { "task": "gap", "span": 8, "bytes": 1500 }, "all_bytes": true },
        "training": { "steps": 8, "batch_size": 3, "block_size": 16, "optimizer": { "name": "adam", "lr": 1e-3 } },
        "evaluation": { "batch_size": 3 }
    });
    let recipe = Recipe::from_value(value, Path::new("tiny.json"), &[]).unwrap();
    let device = Device::flex();
    let mut experiment = RoutingExperiment::open(&recipe, &device).unwrap();
    let mut cx = Context::detached();
    for step in 0..4 {
        experiment
            .train_step(Step::new(3, 0, step, step), &mut cx)
            .unwrap();
    }
    let spec = serde_json::from_value(recipe.data.clone()).unwrap();
    let text = datasets::load(&spec, ".".as_ref()).unwrap().test.tokens;
    let model = experiment.model().clone();
    let front = usize::from(matches!(model, RoutingTransformerLM::Paper(_)));
    for (window, stride) in [(None, None), (None, Some(5)), (Some(9), Some(4))] {
        let options = Scoring { stride, window };
        let mut found = vec![];
        let mut sink = |token: trainer::TokenScore<'_>| {
            found.push((token.position, token.logprob));
            Ok(())
        };
        let scorer = experiment.scorer().unwrap();
        scorer
            .score(Split::Test, &options, &mut sink, &mut cx)
            .unwrap();
        assert_eq!(found.len(), text.len() - 1);
        let window = window.unwrap_or(16 - front);
        let stride = stride.unwrap_or(window);
        for (i, (position, logprob)) in (1usize..).zip(found) {
            let first = i.saturating_sub(window).div_ceil(stride) * stride;
            let first = first.min((text.len() - 1).saturating_sub(window));
            // Id 0 is padding, which stands in front of the authors' texts.
            let ids = vec![0; front];
            let tokens = text[first..first + window].iter().map(|id| *id as i32 + 1);
            let ids: Vec<i32> = ids.into_iter().chain(tokens).collect();
            let shape = [1, ids.len()];
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &device);
            let logits = model.forward(ids, Mode::evaluation()).unwrap().logits;
            let row = logits.narrow(1, front + i - 1 - first, 1);
            let scores = log_softmax(row, 2).into_data();
            let scores: Vec<f64> = scores.iter::<f64>().collect();
            let expected = scores[text[i] as usize + 1];
            assert_eq!(position, i);
            let off = (logprob - expected).abs();
            assert!(
                off < 1e-4,
                "{window} {stride} at {i}: {logprob}, {expected}"
            );
        }
    }
}

#[test]
fn a_token_has_the_probability_that_its_window_gives_it() {
    check(json!({
        "flavor": "lucidrains", "dim": 8, "depth": 2, "max_seq_len": 16, "heads": 2, "n_local_attn_heads": [1, 0],
        "local_attn_window_size": 4, "window_size": 4, "causal": true
    }));
    check(json!({
        "hidden_size": 8, "num_decoder_layers": 2, "filter_size": 12, "local_num_heads": 1, "sparsity_cluster_num_heads": 1,
        "sparsity_cluster_size": 3, "sparsity_cluster_attention_window": 5, "query_shape": 4, "memory_flange": 4
    }));
}
