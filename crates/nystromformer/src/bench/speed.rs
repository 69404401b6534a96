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

/// Processor time of all threads so far, in seconds: what else the machine does weighs on it much less than on the clock.
/// `None` where the system does not tell.
fn processor_seconds() -> Option<f64> {
    let mut nanoseconds = 0u64;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let file = thread.ok()?.path().join("schedstat");
        let text = std::fs::read_to_string(file).ok()?;
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(nanoseconds as f64 / 1e9)
}

/// Resident memory in MiB that a call reaches beyond what was resident at the start, for every length where it reaches a new
/// mark: freed memory stays with the process, so that small calls after large ones tell nothing.
fn memory_over_length(
    lengths: &[usize],
    inputs: &dyn Fn(usize) -> [Tensor<3>; 3],
    filter: &Tensor<2>,
) -> Result<[Vec<(f64, f64)>; 2]> {
    let mut held: [Vec<(f64, f64)>; 2] = Default::default();
    memory::reset();
    let Some(start) = memory::peak() else {
        return Ok(held);
    };
    let mut mark = start;
    for (way, held) in [Way::Nystrom, Way::Stored].into_iter().zip(&mut held) {
        for &n in lengths {
            let inputs = inputs(n);
            way.run(inputs, filter)?;
            let peak = memory::peak().unwrap_or(mark);
            if peak > mark {
                let more = peak.saturating_sub(start) as f64 / f64::from(1 << 20);
                held.push((n as f64, more));
                mark = peak;
            }
        }
    }
    Ok(held)
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
    let inputs =
        |n: usize| ["q", "k", "v"].map(|name| values([1, n, HEADS * DIM], key.site(name), device));
    let held = memory_over_length(lengths, &inputs, &filter)?;
    let by_processor = processor_seconds().is_some();
    let mut times: [Vec<(f64, f64)>; 3] = Default::default();
    for (i, &n) in lengths.iter().enumerate() {
        let inputs = inputs(n);
        // The ways take turns, so that whatever else the machine does weighs on all of them alike.
        let repeats = if n >= 4096 { 7 } else { 21 };
        let mut each: [Vec<f64>; 3] = Default::default();
        for repeat in 0..=repeats {
            for (way, times) in Way::ALL.into_iter().zip(&mut each) {
                if cx.cancelled() {
                    return Err(Error::cancelled());
                }
                let (clock, processor) = (Instant::now(), processor_seconds());
                way.run(inputs.clone(), &filter)?;
                let passed = match (processor, processor_seconds()) {
                    (Some(from), Some(to)) => to - from,
                    _ => clock.elapsed().as_secs_f64(),
                };
                // The first one warms up.
                if repeat > 0 {
                    times.push(passed * 1e3);
                }
            }
        }
        for (way, each) in each.into_iter().enumerate() {
            times[way].push((n as f64, median(each)));
        }
        let what = "attention over the length";
        cx.progress(i as u64 + 1, lengths.len() as u64, what);
    }
    Ok(figures(lengths, &times, &held, by_processor))
}

fn figures(
    lengths: &[usize],
    times: &[Vec<(f64, f64)>; 3],
    held: &[Vec<(f64, f64)>; 2],
    by_processor: bool,
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
    let cell = |points: &[(f64, f64)], n: usize, digits: usize| {
        let found = points.iter().find(|(x, _)| *x == n as f64);
        found.map_or("–".to_owned(), |(_, y)| format!("{y:.digits$}"))
    };
    let rows = lengths.iter().enumerate().map(|(i, n)| {
        let mut row = vec![n.to_string()];
        row.extend(times.iter().map(|points| cell(points, *n, 2)));
        let ratio = full[i].1 / nystrom[i].1;
        row.push(format!("{ratio:.2}"));
        row.extend(held.iter().map(|points| cell(points, *n, 1)));
        row
    });
    let columns = [
        "tokens",
        "Nyström, ms",
        "full, one pass, ms",
        "full, stored, ms",
        "one pass / Nyström",
        "Nyström, MiB",
        "full, stored, MiB",
    ];
    let lines = |title: &str, y: Axis, ways: &[Way], all: &[Vec<(f64, f64)>]| {
        let series = ways.iter().zip(all).map(|(way, points)| Series {
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
    let clock = match by_processor {
        true => "processor time of all threads",
        false => "time by the clock",
    };
    vec![
        Figure::Table(Table {
            title: format!(
                "Attention forward, batch 1, {HEADS} heads of {DIM}, {LANDMARKS} landmarks, convolution over {FILTER} tokens (full attention without); {clock}, medians of calls that take turns. Slope of time over length from 1024 tokens: Nyström {:.2}, full in one pass {:.2}, full with stored scores {:.2}; {crossover}. Memory: what a call with its inputs adds to the process at its peak, where that passes what the process had held before",
                slopes[0], slopes[1], slopes[2]
            ),
            columns: columns.map(str::to_owned).to_vec(),
            rows: rows.collect(),
        }),
        lines(
            "Time of attention forward over the length",
            Axis::with_unit("time", "ms"),
            &Way::ALL,
            times,
        ),
        lines(
            "Memory of attention forward over the length",
            Axis::with_unit("memory", "MiB"),
            &[Way::Nystrom, Way::Stored],
            held,
        ),
    ]
}
