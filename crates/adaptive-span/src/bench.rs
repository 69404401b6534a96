//! The paper's claims, measured: quality and time per step against a fixed span, flatness in the longest span, the span
//! penalty, and that trimming changes nothing.

use crate::experiment::AdaptiveSpanExperiment;
use crate::model::Mode;
use burn::prelude::*;
use language::tokens;
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use trainer::{
    Axis, BenchOptions, Context, Error, Experiment, Figure, Lines, Recipe, Result, Series, Split,
    Step, Table, memory,
};

/// Longest spans compared.
const LENGTHS: [usize; 3] = [512, 2048, 8192];
/// Weights of the span penalty compared, per token.
const PENALTIES: [f64; 3] = [0.0, 1e-5, 1e-4];
const SEEDS: [u64; 3] = [1, 2, 3];

/// How many updates each part gets.
struct Plan {
    train: u64,
    /// Updates of a fixed span whose quality is not compared.
    time_only: u64,
    sweep: u64,
}

/// A trained model of the table and what it cost.
struct Row {
    ms: f64,
    peak: Option<u64>,
    bits: f64,
    experiment: AdaptiveSpanExperiment,
}

fn recipe(span: usize, adaptive: bool, penalty: f64, seed: u64, steps: u64) -> Result<Recipe> {
    let value = json!({
        "architecture": "adaptive-span",
        "seed": seed,
        "model": {
            "hidden_size": 96, "inner_hidden_size": 256, "nb_layers": 3, "nb_heads": 4, "attn_span": span,
            "adapt_span_enabled": adaptive, "adapt_span_loss": penalty, "adapt_span_ramp": 32,
        },
        "data": { "name": "moby-dick" },
        "training": {
            "steps": steps, "batch_size": 16, "block_size": 64,
            "optimizer": { "name": "adagrad-grad-clip", "lr": 0.07, "grad_clip": 0.03 },
            "schedule": { "name": "constant", "warmup": 100 },
        },
        "evaluation": { "batch_size": 8 },
    });
    Recipe::from_value(value, Path::new("bench.json"), &[])
}

/// Trains one model; the time per step is the median over the second half of its updates.
fn train(
    recipe: &Recipe,
    steps: u64,
    evaluate: bool,
    device: &Device,
    cx: &mut Context,
    what: &str,
) -> Result<Row> {
    let mut experiment = AdaptiveSpanExperiment::open(recipe, device)?;
    let mut times = vec![];
    memory::reset();
    for step in 0..steps {
        if cx.cancelled() {
            return Err(Error::Cancelled { checkpoint: None });
        }
        let start = Instant::now();
        experiment.train_step(Step::new(recipe.seed, 0, step, step), cx)?;
        if step >= steps / 2 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        cx.progress(step + 1, steps, what);
    }
    let peak = memory::peak();
    times.sort_by(f64::total_cmp);
    let ms = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    let bits = match evaluate {
        true => experiment
            .evaluate(Split::Valid, cx)?
            .get("bits_per_byte")
            .unwrap_or(f64::NAN),
        false => f64::NAN,
    };
    Ok(Row {
        ms,
        peak,
        bits,
        experiment,
    })
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        "–".into()
    }
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or("n/a".into(), |b| {
        format!("{:.0}", b as f64 / (1 << 20) as f64)
    })
}

/// Measures everything; about a quarter of an hour on two cores, one minute with `quick`.
pub(crate) fn bench(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let plan = match options.quick {
        true => Plan {
            train: 60,
            time_only: 6,
            sweep: 60,
        },
        false => Plan {
            train: 1000,
            time_only: 12,
            sweep: 400,
        },
    };
    let mut figures = against_fixed(&plan, options.seed, device, cx)?;
    figures.push(sweep(&plan, device, cx)?);
    Ok(figures)
}

fn against_fixed(plan: &Plan, seed: u64, device: &Device, cx: &mut Context) -> Result<Vec<Figure>> {
    // The learned ones first: memory that a long fixed span has used is not given back and would count as theirs.
    let mut learned = vec![];
    for span in LENGTHS {
        let recipe = recipe(span, true, 1e-5, seed, plan.train)?;
        let what = format!("learned spans, up to {span} tokens");
        learned.push(train(&recipe, plan.train, true, device, cx, &what)?);
    }
    let mut rows = vec![];
    let mut curves = [vec![], vec![]];
    let mut trimming = vec![];
    for (span, adaptive) in LENGTHS.into_iter().zip(learned) {
        let recipe = recipe(span, false, 1e-5, seed, plan.train)?;
        let what = format!("a fixed span of {span} tokens");
        let compare = span == LENGTHS[0];
        let steps = if compare { plan.train } else { plan.time_only };
        let fixed = train(&recipe, steps, compare, device, cx, &what)?;
        curves[0].push((span as f64, adaptive.ms));
        curves[1].push((span as f64, fixed.ms));
        let spans = adaptive.experiment.model().spans();
        rows.push(vec![
            span.to_string(),
            number(adaptive.ms, 1),
            number(fixed.ms, 1),
            number(adaptive.ms / fixed.ms, 2),
            mebibytes(adaptive.peak),
            mebibytes(fixed.peak),
            number(adaptive.bits, 3),
            number(fixed.bits, 3),
            number(spans.as_ref().map_or(f64::NAN, |s| s.mean_tokens()), 1),
        ]);
        let error = trimming_error(&adaptive.experiment, device)?;
        trimming.push(vec![
            span.to_string(),
            format!("{:.1e}", error.absolute),
            format!("{:.1e}", error.relative),
        ]);
    }
    let [adaptive, fixed] = curves;
    Ok(vec![
        Figure::Table(Table {
            title: format!(
                "Learned spans against fixed ones, {} updates (fixed beyond 512: {} updates, time only)",
                plan.train, plan.time_only
            ),
            columns: [
                "longest span",
                "ms per step, learned",
                "ms per step, fixed",
                "ratio",
                "peak MiB, learned",
                "peak MiB, fixed",
                "valid bits per byte, learned",
                "valid bits per byte, fixed",
                "mean learned span",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows,
        }),
        Figure::Lines(Lines {
            title: "Time per step over the longest span".into(),
            x: Axis::with_unit("longest span", "tokens").logarithmic(),
            y: Axis::with_unit("time per step", "ms").logarithmic(),
            series: vec![
                Series {
                    name: "learned spans".into(),
                    points: adaptive,
                },
                Series {
                    name: "fixed span".into(),
                    points: fixed,
                },
            ],
        }),
        Figure::Table(Table {
            title: "Largest difference between log-probabilities with and without trimming".into(),
            columns: vec![
                "longest span".into(),
                "difference (nats)".into(),
                "relative to 1 + |value|".into(),
            ],
            rows: trimming,
        }),
    ])
}

/// How far log-probabilities `a` and `b` lie apart at most.
#[derive(Default)]
struct Apart {
    /// |a - b|, nats.
    absolute: f64,
    /// |a - b| / (1 + |b|).
    relative: f64,
}

/// Three blocks with a carried past, trimmed and not.
fn trimming_error(experiment: &AdaptiveSpanExperiment, device: &Device) -> Result<Apart> {
    let model = experiment.model().valid();
    let stream = experiment
        .corpus()
        .valid
        .stream(4, 64)
        .map_err(Error::other)?;
    let mut caches = [
        model.empty_projected_cache(4),
        model.empty_projected_cache(4),
    ];
    let mut worst = Apart::default();
    for block in stream.pass().take(3) {
        let mut scores = vec![];
        for (cache, trim) in caches.iter_mut().zip([true, false]) {
            let mode = Mode {
                trim,
                ..Mode::evaluation()
            };
            let inputs = tokens(&block.inputs, 4, device);
            let output = model.forward(inputs, cache.clone(), mode)?;
            *cache = output.cache;
            scores.push(model.log_probabilities(output.hidden));
        }
        if let [a, b] = &scores[..] {
            let difference = (a.clone() - b.clone()).abs();
            let relative = difference.clone() / (b.clone().abs() + 1.0);
            let largest = |values: Tensor<3>| values.max().into_scalar::<f32>().into();
            worst.absolute = worst.absolute.max(largest(difference));
            worst.relative = worst.relative.max(largest(relative));
        }
    }
    Ok(worst)
}

fn sweep(plan: &Plan, device: &Device, cx: &mut Context) -> Result<Figure> {
    let mut rows = vec![];
    for penalty in PENALTIES {
        let (mut cells, mut spans, mut bits) = (vec![format!("{penalty:e}")], 0.0, 0.0);
        for seed in SEEDS {
            let what = format!("span penalty {penalty:e}, seed {seed}");
            let recipe = recipe(512, true, penalty, seed, plan.sweep)?;
            let row = train(&recipe, plan.sweep, true, device, cx, &what)?;
            let mean = row
                .experiment
                .model()
                .spans()
                .map_or(f64::NAN, |s| s.mean_tokens());
            cells.push(number(mean, 1));
            spans += mean / SEEDS.len() as f64;
            bits += row.bits / SEEDS.len() as f64;
        }
        cells.extend([number(spans, 1), number(bits, 3)]);
        rows.push(cells);
    }
    let seeds = SEEDS.map(|s| format!("seed {s}"));
    let mut columns = vec!["penalty λ per token".to_owned()];
    columns.extend(seeds);
    columns.extend(["mean".to_owned(), "valid bits per byte".to_owned()]);
    Ok(Figure::Table(Table {
        title: format!(
            "Mean learned span in tokens, without the ramp, by the weight of the penalty ({} updates)",
            plan.sweep
        ),
        columns,
        rows,
    }))
}
