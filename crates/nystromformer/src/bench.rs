//! The paper's claim, measured: time of attention over the length, how near it comes to the softmax it replaces, and how fast
//! the pseudo-inverse converges (sections 3 and 4 of the paper).

use burn::prelude::*;
use core_attn::dense::{Attention, attention};
use core_attn::dropout::Dropout;
use core_attn::low_rank::{
    NystromAttention, PinvInit, iterative_pinv, nystrom_attention, time_convolution,
};
use core_attn::random::Key;
use core_attn::softmax::masked_softmax;
use std::time::Instant;
use trainer::{Axis, BenchOptions, Context, Error, Figure, Lines, Result, Series, Table};

const HEADS: usize = 2;
const DIM: usize = 64;
const LANDMARKS: usize = 64;
const FILTER: usize = 33;

fn values<const D: usize>(shape: [usize; D], key: Key, device: &Device) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| key.normal(i) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Median time of a call in milliseconds, after one to warm up.
fn milliseconds(repeats: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let mut times = vec![];
    for _ in 0..repeats {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Slope of a line through the points' logarithms, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let logs = || points.iter().map(|(x, y)| (x.ln(), y.ln()));
    let mx = logs().map(|(x, _)| x).sum::<f64>() / n;
    let my = logs().map(|(_, y)| y).sum::<f64>() / n;
    let top: f64 = logs().map(|(x, y)| (x - mx) * (y - my)).sum();
    top / logs().map(|(x, _)| (x - mx) * (x - mx)).sum::<f64>()
}

/// Measures everything; about a minute on two cores.
pub(crate) fn bench(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let key = Key::new(options.seed).site("bench");
    let mut figures = over_length(options.quick, key, device, cx)?;
    figures.push(error_over_landmarks(options.quick, key, device)?);
    figures.push(convergence(key, device)?);
    Ok(figures)
}

fn over_length(quick: bool, key: Key, device: &Device, cx: &mut Context) -> Result<Vec<Figure>> {
    let lengths: &[usize] = match quick {
        true => &[128, 256, 512, 1024, 2048],
        false => &[64, 128, 256, 512, 1024, 2048, 4096, 8192],
    };
    let (mut nystrom, mut full) = (vec![], vec![]);
    let mut rows = vec![];
    let filter = values([HEADS, FILTER], key.site("filter"), device).mul_scalar(0.1);
    for (i, &n) in lengths.iter().enumerate() {
        if cx.cancelled() {
            return Err(Error::cancelled());
        }
        let input = |name: &str| values([1, n, HEADS * DIM], key.site(name), device);
        let flat = ["q", "k", "v"].map(input);
        let split =
            |x: &Tensor<3>| -> Tensor<4> { x.clone().reshape([1, n, HEADS, DIM]).swap_dims(1, 2) };
        let scale = (DIM as f64).powf(-0.5);
        let repeats = if n >= 4096 { 7 } else { 21 };
        let fast = milliseconds(repeats, || {
            let [query, key, value] = flat.each_ref().map(split);
            let out = nystrom_attention(NystromAttention {
                query,
                key,
                value: value.clone(),
                landmarks: LANDMARKS,
                scale,
                key_bias: None,
                keep: None,
                iterations: 6,
                init: PinvInit::Exact,
            })
            .map_err(Error::other)?;
            let near = time_convolution(value, filter.clone()).map_err(Error::other)?;
            crate::attention::merge(out.context + near).into_data();
            Ok(())
        })?;
        let slow = milliseconds(repeats, || {
            let [query, key, value] = flat.clone();
            let out = attention(Attention {
                query,
                key,
                value,
                heads: HEADS,
                mask: None,
                bias: None,
                scale,
                dropout: Dropout::off(),
            });
            out.map_err(Error::other)?.into_data();
            Ok(())
        })?;
        nystrom.push((n as f64, fast));
        full.push((n as f64, slow));
        let cells = [fast, slow, slow / fast].map(|x| format!("{x:.2}"));
        rows.push(std::iter::once(n.to_string()).chain(cells).collect());
        cx.progress(
            i as u64 + 1,
            lengths.len() as u64,
            "attention over the length",
        );
    }
    let from = |points: &[(f64, f64)]| {
        let long: Vec<_> = points
            .iter()
            .copied()
            .filter(|(n, _)| *n >= 1024.0)
            .collect();
        slope(&long)
    };
    let pairs = || nystrom.iter().zip(&full);
    let crossover = pairs()
        .find(|(fast, slow)| fast.1 < slow.1)
        .map(|(fast, _)| fast.0);
    let crossover = match crossover {
        Some(n) => format!("Nyström attention is faster from {n} tokens"),
        None => "full attention is faster at every length measured".to_owned(),
    };
    Ok(vec![
        Figure::Table(Table {
            title: format!(
                "Attention forward, batch 1, {HEADS} heads of {DIM}, {LANDMARKS} landmarks, convolution over {FILTER} tokens (full attention without); slope of time over length from 1024 tokens: Nyström {:.2}, full {:.2}; {crossover}",
                from(&nystrom),
                from(&full)
            ),
            columns: ["tokens", "Nyström, ms", "full, ms", "full / Nyström"]
                .map(str::to_owned)
                .to_vec(),
            rows,
        }),
        Figure::Lines(Lines {
            title: "Attention forward over the length".into(),
            x: Axis::with_unit("length", "tokens").logarithmic(),
            y: Axis::with_unit("time", "ms").logarithmic(),
            series: vec![
                Series {
                    name: format!("Nyström, {LANDMARKS} landmarks, with convolution"),
                    points: nystrom,
                },
                Series {
                    name: "full softmax".into(),
                    points: full,
                },
            ],
        }),
    ])
}

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

fn error_over_landmarks(quick: bool, key: Key, device: &Device) -> Result<Figure> {
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

fn convergence(key: Key, device: &Device) -> Result<Figure> {
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
