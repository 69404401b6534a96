//! The paper's claim, measured: the time saved follows the layers saved (section 4.3 of the paper), one sample at a time and in
//! batches.

use crate::config::DeeBertConfig;
use crate::curve::{ExitCurve, ExitTable};
use crate::exits::{ExitRule, InferOptions, Thresholds};
use crate::model::DeeBertForSequenceClassification;
use bert::{BertConfig, EncoderInput, Mode};
use burn::prelude::*;
use core_attn::random::Key;
use std::time::Instant;
use trainer::{Axis, BenchOptions, Context, Error, Figure, Lines, Result, Series, Table};

/// Mean exit layers as shares of the layers.
const SHARES: [f64; 5] = [0.3, 0.45, 0.6, 0.75, 0.9];
const BATCH: usize = 32;

/// Sizes of a measurement.
struct Shape {
    hidden: usize,
    layers: usize,
    length: usize,
}

/// A random model whose off-ramps are sure of some samples and not of others, as trained ones are.
fn model(shape: &Shape, key: Key, device: &Device) -> Result<DeeBertForSequenceClassification> {
    let config = DeeBertConfig {
        bert: BertConfig {
            vocab_size: 1000,
            hidden_size: shape.hidden,
            num_hidden_layers: shape.layers,
            num_attention_heads: shape.hidden / 64,
            intermediate_size: 4 * shape.hidden,
            max_position_embeddings: shape.length,
            initializer_range: 0.05,
            ..BertConfig::default()
        },
        ..DeeBertConfig::default()
    };
    let mut model = config.init(key, device)?;
    for ramp in &mut model.highway {
        // Fresh classifiers are sure of nothing: every entropy would be next to that of a guess.
        let weight = ramp.classifier.weight.val().mul_scalar(4.0);
        ramp.classifier.weight = core_attn::init::from_tensor(weight);
    }
    Ok(model)
}

/// Sequences of `lengths` random tokens, padded to the longest.
fn sequences(lengths: &[usize], key: Key) -> Result<EncoderInput> {
    let row = |(i, n): (usize, &usize)| -> Vec<u32> {
        let key = key.fold(i as u64);
        (0..*n as u64)
            .map(|j| 5 + key.below(j, 900) as u32)
            .collect()
    };
    let rows: Vec<Vec<u32>> = lengths.iter().enumerate().map(row).collect();
    Ok(EncoderInput::from_rows(&rows, 0)?)
}

/// The shortest of several times: what else the machine does only makes one longer.
fn shortest(times: Vec<f64>) -> f64 {
    times.into_iter().fold(f64::NAN, f64::min)
}

fn milliseconds(call: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// What every sample's exits say.
fn table(model: &DeeBertForSequenceClassification, inputs: &[EncoderInput]) -> Result<ExitTable> {
    let mut logits = vec![];
    for input in inputs {
        let all = model.forward_all_exits(input, Mode::evaluation())?;
        let exits: Tensor<3> = Tensor::stack(all.answers().cloned().collect(), 1);
        logits.extend(exits.into_data().iter::<f32>());
    }
    Ok(ExitTable::new(model.layers(), 2, logits))
}

/// Measures everything; about a minute on two cores.
pub(crate) fn bench(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let (shapes, samples, rounds) = match options.quick {
        true => (vec![(256, 6, 64)], 24, 9),
        false => (vec![(256, 6, 64), (384, 6, 128), (768, 12, 128)], 32, 9),
    };
    let key = Key::new(options.seed).site("bench");
    let (mut rows, mut batches, mut series) = (vec![], vec![], vec![]);
    for (hidden, layers, length) in shapes {
        let shape = Shape {
            hidden,
            layers,
            length,
        };
        // The largest model costs a second a sample on one core.
        let (samples, rounds) = if hidden > 512 {
            (12, 3)
        } else {
            (samples, rounds)
        };
        let model = model(&shape, key.site("model"), device)?;
        let name = format!("{hidden} × {layers}, {length} tokens");
        let points = one_by_one(&model, &shape, &name, (samples, rounds), key, &mut rows, cx)?;
        series.push(Series {
            name: name.clone(),
            points,
        });
        batched(&model, &shape, &name, rounds, key, &mut batches)?;
    }
    let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let line = vec![(0.0, 0.0), (1.0, 1.0)];
    series.push(Series {
        name: "in proportion".into(),
        points: line,
    });
    Ok(vec![
        Figure::Table(Table {
            title: "One sample at a time: time with exits over time of the same encoder and final classifier without off-ramps".into(),
            columns: columns(&[
                "hidden × layers, tokens",
                "threshold, nats",
                "mean exit layer",
                "runtime ratio",
                "time ratio",
                "difference, points",
                "ms without off-ramps",
                "ms with exits",
            ]),
            rows,
        }),
        Figure::Lines(Lines {
            title: "Share of the time over share of the layers, one sample at a time".into(),
            x: Axis::new("share of the layers that is run"),
            y: Axis::new("share of the time"),
            series,
        }),
        Figure::Table(Table {
            title: format!("Batches of {BATCH} sequences of a quarter to the whole length"),
            columns: columns(&[
                "hidden × layers, tokens",
                "threshold, nats",
                "runtime ratio",
                "ms without exits",
                "ms with exits",
                "time ratio",
                "ms with compact_min_fraction 0.25",
            ]),
            rows: batches,
        }),
    ])
}

fn one_by_one(
    model: &DeeBertForSequenceClassification,
    shape: &Shape,
    name: &str,
    (samples, rounds): (usize, usize),
    key: Key,
    rows: &mut Vec<Vec<String>>,
    cx: &mut Context,
) -> Result<Vec<(f64, f64)>> {
    let mut inputs = vec![];
    for i in 0..samples as u64 {
        inputs.push(sequences(&[shape.length], key.site("single").fold(i))?);
    }
    let table = table(model, &inputs)?;
    let nothing = |_: &[usize]| f64::NAN;
    let curve = ExitCurve::new(&table, &nothing);
    let mut points = vec![];
    for share in SHARES {
        if cx.cancelled() {
            return Err(Error::cancelled());
        }
        let Some(threshold) = curve.for_budget(share * shape.layers as f64) else {
            continue;
        };
        let point = curve.at(threshold);
        let options = InferOptions::new(ExitRule::Entropy(Thresholds::One(threshold)));
        let (mut plain, mut early) = (vec![f64::NAN; samples], vec![f64::NAN; samples]);
        // A sample's rounds lie apart in time, and its two times side by side: what else the machine does hits few of them, and
        // then both.
        for _ in 0..rounds {
            for (i, input) in inputs.iter().enumerate() {
                let time = milliseconds(|| {
                    let scores = model.classify(input, Mode::evaluation());
                    drop(scores?.into_data());
                    Ok(())
                })?;
                plain[i] = plain[i].min(time);
                let time = milliseconds(|| {
                    model.infer_with(input, &options)?;
                    Ok(())
                })?;
                early[i] = early[i].min(time);
            }
        }
        let [plain, early] = [plain, early].map(|t| t.iter().sum::<f64>() / samples as f64);
        let ratio = early / plain;
        points.push((point.runtime_ratio, ratio));
        rows.push(vec![
            name.to_owned(),
            format!("{threshold:.4}"),
            format!("{:.2}", point.mean_layer),
            format!("{:.3}", point.runtime_ratio),
            format!("{ratio:.3}"),
            format!("{:+.1}", 100.0 * (ratio - point.runtime_ratio)),
            format!("{plain:.2}"),
            format!("{early:.2}"),
        ]);
        cx.progress(points.len() as u64, SHARES.len() as u64, name);
    }
    Ok(points)
}

fn batched(
    model: &DeeBertForSequenceClassification,
    shape: &Shape,
    name: &str,
    rounds: usize,
    key: Key,
    rows: &mut Vec<Vec<String>>,
) -> Result<()> {
    let key = key.site("batch");
    let quarter = shape.length / 4;
    let lengths: Vec<usize> = (0..BATCH as u64)
        .map(|i| shape.length - key.site("length").below(i, shape.length - quarter + 1))
        .collect();
    let batch = sequences(&lengths, key)?;
    let table = table(model, std::slice::from_ref(&batch))?;
    let nothing = |_: &[usize]| f64::NAN;
    let curve = ExitCurve::new(&table, &nothing);
    let never = InferOptions::new(ExitRule::Layer(shape.layers));
    for share in [0.45, 0.75] {
        let Some(threshold) = curve.for_budget(share * shape.layers as f64) else {
            continue;
        };
        let at_once = InferOptions::new(ExitRule::Entropy(Thresholds::One(threshold)));
        let lazily = InferOptions {
            compact_min_fraction: 0.25,
            ..at_once.clone()
        };
        let mut times = [vec![], vec![], vec![]];
        for _ in 0..rounds.max(3) {
            for (options, times) in [&never, &at_once, &lazily].into_iter().zip(&mut times) {
                times.push(milliseconds(|| {
                    model.infer_with(&batch, options)?;
                    Ok(())
                })?);
            }
        }
        let [whole, early, lazy] = times.map(shortest);
        rows.push(vec![
            name.to_owned(),
            format!("{threshold:.4}"),
            format!("{:.3}", curve.at(threshold).runtime_ratio),
            format!("{whole:.1}"),
            format!("{early:.1}"),
            format!("{:.3}", early / whole),
            format!("{lazy:.1}"),
        ]);
    }
    Ok(())
}
