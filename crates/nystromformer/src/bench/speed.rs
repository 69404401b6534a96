//! Time and memory of attention over the length.

use super::{DIM, HEADS, LANDMARKS, values};
use burn::prelude::*;
use core_attn::dense::{Attention, attention};
use core_attn::dropout::Dropout;
use core_attn::low_rank::{NystromAttention, PinvInit, nystrom_attention, time_convolution};
use core_attn::random::Key;
use core_attn::softmax::masked_softmax;
use std::time::Instant;
use trainer::{Axis, Context, Error, Figure, Lines, Result, Series, Table, memory};

const FILTER: usize = 33;
const SCALE: f64 = 0.125;

/// The three ways to attend that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through landmarks, with the convolution.
    Nystrom,
    /// Full softmax in one pass over the keys, as this workspace computes it.
    Full,
    /// Full softmax with the scores of all pairs stored.
    Stored,
}

impl Way {
    const ALL: [Self; 3] = [Self::Nystrom, Self::Full, Self::Stored];

    fn name(self) -> String {
        match self {
            Self::Nystrom => format!("Nyström, {LANDMARKS} landmarks, with convolution"),
            Self::Full => "full softmax, one pass".into(),
            Self::Stored => "full softmax, scores stored".into(),
        }
    }

    /// One forward pass over `[1, length, heads * dim]`, waited for.
    fn run(self, [query, key, value]: [Tensor<3>; 3], filter: &Tensor<2>) -> Result<()> {
        let [_, n, _] = query.dims();
        let split = |x: Tensor<3>| -> Tensor<4> { x.reshape([1, n, HEADS, DIM]).swap_dims(1, 2) };
        match self {
            Self::Nystrom => {
                let value = split(value);
                let out = nystrom_attention(NystromAttention {
                    query: split(query),
                    key: split(key),
                    value: value.clone(),
                    landmarks: LANDMARKS,
                    scale: SCALE,
                    key_bias: None,
                    keep: None,
                    iterations: 6,
                    init: PinvInit::Exact,
                })
                .map_err(Error::other)?;
                let near = time_convolution(value, filter.clone()).map_err(Error::other)?;
                crate::attention::merge(out.context + near).into_data();
            }
            Self::Full => {
                let out = attention(Attention {
                    query,
                    key,
                    value,
                    heads: HEADS,
                    mask: None,
                    bias: None,
                    scale: SCALE,
                    dropout: Dropout::off(),
                });
                out.map_err(Error::other)?.into_data();
            }
            Self::Stored => {
                let keys = split(key).swap_dims(2, 3);
                let scores = split(query).matmul(keys).mul_scalar(SCALE);
                let out = masked_softmax(scores, None).matmul(split(value));
                crate::attention::merge(out).into_data();
            }
        }
        Ok(())
    }
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

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Time and memory of the three ways at every length.
pub(super) fn over_length(
    quick: bool,
    key: Key,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let lengths: &[usize] = match quick {
        true => &[128, 256, 512, 1024, 2048],
        false => &[64, 128, 256, 512, 1024, 2048, 4096, 8192],
    };
    let filter = values([HEADS, FILTER], key.site("filter"), device).mul_scalar(0.1);
    let mut times: [Vec<(f64, f64)>; 3] = Default::default();
    let mut held: [Vec<(f64, f64)>; 3] = Default::default();
    for (i, &n) in lengths.iter().enumerate() {
        let input = |name: &str| values([1, n, HEADS * DIM], key.site(name), device);
        let inputs = ["q", "k", "v"].map(input);
        // The ways take turns, so that whatever else the machine does weighs on all of them alike.
        let repeats = if n >= 4096 { 7 } else { 21 };
        let mut each: [Vec<f64>; 3] = Default::default();
        for repeat in 0..=repeats {
            for (way, times) in Way::ALL.into_iter().zip(&mut each) {
                if cx.cancelled() {
                    return Err(Error::cancelled());
                }
                let start = Instant::now();
                way.run(inputs.clone(), &filter)?;
                // The first one warms up.
                if repeat > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        for (way, each) in each.into_iter().enumerate() {
            times[way].push((n as f64, median(each)));
        }
        for (way, held) in Way::ALL.into_iter().zip(&mut held) {
            memory::reset();
            let before = memory::peak();
            way.run(inputs.clone(), &filter)?;
            if let (Some(before), Some(after)) = (before, memory::peak()) {
                let more = after.saturating_sub(before) as f64 / f64::from(1 << 20);
                held.push((n as f64, more));
            }
        }
        let what = "attention over the length";
        cx.progress(i as u64 + 1, lengths.len() as u64, what);
    }
    Ok(figures(lengths, &times, &held))
}

fn figures(
    lengths: &[usize],
    times: &[Vec<(f64, f64)>; 3],
    held: &[Vec<(f64, f64)>; 3],
) -> Vec<Figure> {
    let slopes = times.each_ref().map(|points| {
        let long = points.iter().copied().filter(|(n, _)| *n >= 1024.0);
        slope(&long.collect::<Vec<_>>())
    });
    let [nystrom, full, _] = times;
    let crossover = nystrom.iter().zip(full).find(|(a, b)| a.1 < b.1);
    let crossover = match crossover {
        Some((a, _)) => format!(
            "Nyström attention is faster than one pass from {} tokens",
            a.0
        ),
        None => "full attention in one pass is faster at every length measured".to_owned(),
    };
    let cell = |points: &[(f64, f64)], i: usize, digits: usize| {
        points
            .get(i)
            .map_or("n/a".to_owned(), |(_, y)| format!("{y:.digits$}"))
    };
    let rows = lengths.iter().enumerate().map(|(i, n)| {
        let mut row = vec![n.to_string()];
        row.extend(times.iter().map(|points| cell(points, i, 2)));
        let ratio = full[i].1 / nystrom[i].1;
        row.push(format!("{ratio:.2}"));
        row.extend(held.iter().map(|points| cell(points, i, 1)));
        row
    });
    let columns = [
        "tokens",
        "Nyström, ms",
        "full, one pass, ms",
        "full, stored, ms",
        "one pass / Nyström",
        "Nyström, MiB",
        "full, one pass, MiB",
        "full, stored, MiB",
    ];
    let lines = |title: &str, y: Axis, all: &[Vec<(f64, f64)>; 3]| {
        let series = Way::ALL.into_iter().zip(all).map(|(way, points)| Series {
            name: way.name(),
            points: points.clone(),
        });
        Figure::Lines(Lines {
            title: title.into(),
            x: Axis::with_unit("length", "tokens").logarithmic(),
            y: y.logarithmic(),
            series: series.collect(),
        })
    };
    vec![
        Figure::Table(Table {
            title: format!(
                "Attention forward, batch 1, {HEADS} heads of {DIM}, {LANDMARKS} landmarks, convolution over {FILTER} tokens (full attention without); medians of calls that take turns. Slope of time over length from 1024 tokens: Nyström {:.2}, full in one pass {:.2}, full with stored scores {:.2}; {crossover}. Memory: what a call adds to the process at its peak",
                slopes[0], slopes[1], slopes[2]
            ),
            columns: columns.map(str::to_owned).to_vec(),
            rows: rows.collect(),
        }),
        lines(
            "Time of attention forward over the length",
            Axis::with_unit("time", "ms"),
            times,
        ),
        lines(
            "Memory of attention forward over the length",
            Axis::with_unit("memory", "MiB"),
            held,
        ),
    ]
}
