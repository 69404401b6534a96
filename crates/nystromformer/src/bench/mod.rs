//! The paper's claims, measured: time and memory of attention over the length, how near it comes to the softmax it replaces,
//! how fast the pseudo-inverse converges (sections 3 and 4 of the paper), and what becomes of a trained model whose full
//! attention is replaced.

mod approximation;
mod drop_in;
mod speed;

use burn::prelude::*;
use core_attn::random::Key;
use trainer::{BenchOptions, Context, Figure, Result};

const HEADS: usize = 2;
const DIM: usize = 64;
const LANDMARKS: usize = 64;

fn values<const D: usize>(shape: [usize; D], key: Key, device: &Device) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| key.normal(i) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Measures everything; some minutes on two cores, most of them for the model that is converted.
pub(crate) fn bench(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let key = Key::new(options.seed).site("bench");
    let mut figures = speed::over_length(options.quick, key, device, cx)?;
    figures.push(approximation::error_over_landmarks(
        options.quick,
        key,
        device,
    )?);
    figures.push(approximation::convergence(key, device)?);
    figures.extend(drop_in::drop_in(options, device, cx)?);
    Ok(figures)
}
