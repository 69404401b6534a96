//! What follows from the sizes alone and must hold exactly: when the compressed memory fills, and how far back the model reaches.

use burn::prelude::*;
use compressive_transformer::{CompressiveTransformer, CompressiveTransformerConfig, Mode};
use core_attn::random::Key;

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use common::devices;

const VOCAB: usize = 11;

/// `[chunk, memory, compressed memory, rate, layers]`.
fn config([n_s, n_m, n_cm, c, layers]: [usize; 5]) -> CompressiveTransformerConfig {
    CompressiveTransformerConfig {
        vocab_size: Some(VOCAB),
        chunk_size: n_s,
        memory_size: n_m,
        compressed_memory_size: n_cm,
        compression_rate: c,
        value_size: 4,
        num_heads: 2,
        num_layers: layers,
        mlp_hidden_sizes: vec![12],
        ..Default::default()
    }
}

fn text(length: usize) -> Vec<i32> {
    let key = Key::new(3);
    let ids = (0..length as u64).map(|i| key.below(i, VOCAB) as i32);
    ids.collect()
}

/// Rows behind the last layer of the last chunk of a text of whole chunks, in evaluation.
fn last_chunk(model: &CompressiveTransformer, text: &[i32], device: &Device) -> Vec<f32> {
    let chunk = model.config().chunk_size;
    let mut state = model.state(1, model.memory_sizes(), true).unwrap();
    let mut last = vec![];
    for ids in text.chunks_exact(chunk) {
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, chunk]), device);
        let out = model.forward(ids, state, Mode::evaluation()).unwrap();
        state = out.state;
        last = out.hidden.into_data().iter::<f32>().collect();
    }
    last
}

#[test]
fn the_reach_is_what_is_reported_and_not_a_token_more() {
    // Memories that hold whole chunks, so that the reach counts from the chunk's first token.
    let sizes = [
        [6, 6, 4, 3, 1],
        [6, 6, 4, 3, 2],
        [4, 8, 6, 2, 2],
        [6, 6, 2, 3, 3],
        [5, 5, 0, 3, 3],
        [4, 8, 0, 2, 2],
    ];
    for (backend, device) in devices() {
        for all in sizes {
            let [n_s, n_m, n_cm, c, layers] = all;
            let config = config(all);
            let reach = layers * (n_m + c * n_cm);
            assert_eq!(config.reach(), reach);
            let model = config.init(Key::new(1), &device).unwrap();
            let chunks = reach.div_ceil(n_s) + 3;
            let text = text(chunks * n_s);
            let start = (chunks - 1) * n_s;
            let plain = last_chunk(&model, &text, &device);
            let changed = |at: usize| {
                let mut other = text.clone();
                other[at] = (other[at] + 1) % VOCAB as i32;
                last_chunk(&model, &other, &device) != plain
            };
            let what = format!("{backend} {all:?}");
            assert!(changed(start - reach), "{what}: the farthest token counts");
            assert!(!changed(start - reach - 1), "{what}: one farther does not");
        }
    }
}

#[test]
fn nothing_but_zeros_is_compressed_before_the_memory_is_full() {
    let sizes = [
        [6, 6, 4, 3, 2],
        [6, 18, 8, 3, 1],
        [4, 8, 6, 2, 2],
        [8, 16, 3, 4, 2],
    ];
    for (backend, device) in devices() {
        for all in sizes {
            let [n_s, n_m, ..] = all;
            let model = config(all).init(Key::new(1), &device).unwrap();
            let text = text(n_s * (n_m / n_s + 2));
            let mut state = model.state(1, model.memory_sizes(), false).unwrap();
            for (k, ids) in text.chunks_exact(n_s).enumerate() {
                let ids = Tensor::from_data(TensorData::new(ids.to_vec(), [1, n_s]), &device);
                state = model.forward(ids, state, Mode::evaluation()).unwrap().state;
                for (i, layer) in state.layers.iter().enumerate() {
                    let rows = layer.compressed.rows().unwrap();
                    let mass = rows.abs().sum().into_scalar::<f32>();
                    let what = format!("{backend} {all:?} layer {i} after chunk {}", k + 1);
                    assert_eq!(mass == 0.0, k < n_m / n_s, "{what}");
                }
            }
        }
    }
}
