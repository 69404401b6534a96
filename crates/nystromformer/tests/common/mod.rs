//! Small models and inputs.
#![allow(dead_code, unused_imports)] // each test uses some of it

#[path = "../../../core-attn/tests/common/mod.rs"]
mod kernels;

use bert::{EncoderInput, Mode};
use burn::prelude::*;
use core_attn::random::Key;
pub use kernels::{assert_close, devices};
use nystromformer::{LraConfig, NystromformerConfig, NystromformerModel};

pub fn small() -> NystromformerConfig {
    NystromformerConfig {
        vocab_size: 40,
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        max_position_embeddings: 30,
        segment_means_seq_len: 24,
        num_landmarks: 6,
        conv_kernel_size: Some(5),
        initializer_range: 0.3,
        num_labels: Some(1),
        ..Default::default()
    }
}

pub fn lra() -> LraConfig {
    LraConfig {
        embedding_dim: 12,
        transformer_dim: 12,
        transformer_hidden_dim: 16,
        head_dim: 5,
        num_head: 2,
        max_seq_len: 20,
        vocab_size: Some(15),
        num_classes: Some(3),
        num_landmarks: 4,
        conv_kernel_size: Some(3),
        ..Default::default()
    }
}

pub fn input(batch: usize, length: usize, below: usize) -> EncoderInput {
    let key = Key::new(3);
    let ids = (0..(batch * length) as u64).map(|i| 2 + key.below(i, below - 2) as i64);
    EncoderInput::new(ids.collect(), batch, length).unwrap()
}

pub fn hidden(model: &NystromformerModel, input: &EncoderInput) -> Tensor<3> {
    model.forward(input, Mode::evaluation()).unwrap()
}
