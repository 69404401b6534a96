//! How near landmarks come to the softmax, and how fast the pseudo-inverse converges.

use super::{DIM, HEADS, LANDMARKS, values};
use burn::prelude::*;
use core_attn::low_rank::{NystromAttention, PinvInit, iterative_pinv, nystrom_attention};
use core_attn::random::Key;
use core_attn::softmax::masked_softmax;
use trainer::{Axis, Error, Figure, Lines, Result, Series};

/// Rows that change slowly along the sequence, as a sum of a few waves and a little noise.
fn smooth(n: usize, key: Key, device: &Device) -> Tensor<4> {
    let noise = key.site("noise");
    let rows = (0..HEADS * n * DIM).map(|i| {
        let (channel, t) = (i / (n * DIM) * DIM + i % DIM, (i / DIM) % n);
        let waves: f64 = (1..4u64)
            .map(|w| {
                let phase = key.fold(w).uniform(channel as u64);
                let turns = w as f64 * t as f64 / n as f64 + phase;
                key.site("size").fold(w).normal(channel as u64)
                    * (std::f64::consts::TAU * turns).sin()
            })
            .sum();
        (0.6 * waves + 0.1 * noise.normal(i as u64)) as f32
    });
    let data = TensorData::new(rows.collect::<Vec<_>>(), [1, HEADS, n, DIM]);
    Tensor::from_data(data, device)
}

fn norm(x: Tensor<4>) -> f64 {
    let total = x.square().sum().sqrt().into_data();
    total.iter::<f64>().next().unwrap_or(f64::NAN)
}

pub(super) fn error_over_landmarks(quick: bool, key: Key, device: &Device) -> Result<Figure> {
    let n = if quick { 256 } else { 1024 };
    let scale = (DIM as f64).powf(-0.5);
    let query = smooth(n, key.site("smooth q"), device);
    let keys = smooth(n, key.site("smooth k"), device);
    let scores = query
        .clone()
        .matmul(keys.clone().swap_dims(2, 3))
        .mul_scalar(scale);
    let full = masked_softmax(scores, None);
    let size = norm(full.clone());
    let mut points = vec![];
    for landmarks in [8, 16, 32, 64, 128, 256].into_iter().filter(|m| *m < n) {
        let out = nystrom_attention(NystromAttention {
            query: query.clone(),
            key: keys.clone(),
            value: query.clone(),
            landmarks,
            scale,
            key_bias: None,
            keep: None,
            iterations: 6,
            init: PinvInit::Exact,
        })
        .map_err(Error::other)?;
        points.push((landmarks as f64, norm(out.matrix() - full.clone()) / size));
    }
    Ok(Figure::Lines(Lines {
        title: format!("Distance from the softmax matrix over {n} slowly changing rows, relative"),
        x: Axis::new("landmarks").logarithmic(),
        y: Axis::new("‖F·Z·B − S‖ / ‖S‖").logarithmic(),
        series: vec![Series {
            name: "6 iterations, exact".into(),
            points,
        }],
    }))
}

pub(super) fn convergence(key: Key, device: &Device) -> Result<Figure> {
    let shape = [4, HEADS, LANDMARKS, LANDMARKS];
    let scores = values(shape, key.site("kernel"), device).mul_scalar(2.0);
    let a = masked_softmax(scores, None);
    let size = norm(a.clone());
    let mut series = vec![];
    for (name, init) in [("original", PinvInit::Original), ("exact", PinvInit::Exact)] {
        let mut points = vec![];
        for iterations in 1..=12 {
            let z = iterative_pinv(a.clone(), iterations, init).map_err(Error::other)?;
            let off = a.clone().matmul(z).matmul(a.clone()) - a.clone();
            points.push((iterations as f64, norm(off) / size));
        }
        series.push(Series {
            name: name.into(),
            points,
        });
    }
    Ok(Figure::Lines(Lines {
        title: "Residual of the pseudo-inverse over its iterations".into(),
        x: Axis::new("iterations"),
        y: Axis::new("‖A·Z·A − A‖ / ‖A‖").logarithmic(),
        series,
    }))
}
