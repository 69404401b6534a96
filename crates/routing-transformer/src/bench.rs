//! The paper's claims, measured: how time and memory grow with the length, what a generated token costs, and recall beyond
//! the reach of local heads.

use crate::config::{EmaCountRule, RoutingTransformerConfig};
use crate::layers::Mode;
use crate::lm::{RoutingTransformerLM, cross_entropy};
use crate::lucidrains::{LocalHeads, LucidrainsConfig};
use crate::paper::{PaperRouting, route};
use crate::spread::Spread;
use burn::prelude::*;
use core_attn::dense::{Attention, attention};
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::mask::Mask;
use core_attn::random::Key;
use core_attn::routed::{Hide, LocalAttention, local_attention};
use std::time::Instant;
use trainer::{
    Axis, BenchOptions, Context, Error, Figure, Learner, Lines, OptimizerConfig, Result, Schedule,
    Series, Table, memory,
};

/// Measures everything; about half an hour on two cores, two minutes with `quick`.
pub(crate) fn bench(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let mut figures = lengths(options.quick, device, cx)?;
    figures.push(reading(options.quick, device, cx)?);
    for (length, questions) in [(128, 92), (256, 220)] {
        let text = Probe { length, questions };
        figures.extend(recall(text, options, device, cx)?);
        if options.quick {
            break;
        }
    }
    Ok(figures)
}

/// The text of the probe: how long it is, and from where on questions are asked.
#[derive(Clone, Copy)]
struct Probe {
    length: usize,
    questions: usize,
}

/// Keys and values of the probe, and where records and questions stand.
const KEYS: usize = 16;
const VALUES: usize = 4;
const RECORDS_END: usize = 40;
const BATCH: usize = 32;

/// Ids: padding, records, questions, answers, filling.
const RECORD: i32 = 1;
const QUESTION: i32 = RECORD + (KEYS * VALUES) as i32;
const ANSWER: i32 = QUESTION + KEYS as i32;
const FILLING: i32 = ANSWER + VALUES as i32;

/// Sixteen records of a key and a value in one token each, and all keys asked for much later: inputs and targets
/// `[batch, length]`, padding where no answer is asked.
fn probe(probe: Probe, key: Key) -> (Vec<i32>, Vec<i32>) {
    let (mut inputs, mut targets) = (vec![], vec![]);
    for row in 0..BATCH as u64 {
        let key = key.fold(row);
        let order = |site: &str, n: usize| {
            let key = key.site(site);
            let mut all: Vec<usize> = (0..n).collect();
            all.sort_by_key(|i| key.bits(*i as u64));
            all
        };
        let value = |k: usize| key.site("value").below(k as u64, VALUES) as i32;
        let mut text = vec![FILLING; probe.length];
        let mut asked = vec![0; probe.length];
        for (k, place) in order("place", RECORDS_END)
            .into_iter()
            .take(KEYS)
            .enumerate()
        {
            text[place] = RECORD + (k * VALUES) as i32 + value(k);
        }
        for (i, k) in order("question", KEYS).into_iter().enumerate() {
            let at = probe.questions + 2 * i;
            text[at] = QUESTION + k as i32;
            text[at + 1] = ANSWER + value(k);
            asked[at] = ANSWER + value(k);
        }
        inputs.extend(text);
        targets.extend(asked);
    }
    (inputs, targets)
}

fn rows(ids: Vec<i32>, device: &Device) -> Tensor<2, Int> {
    let length = ids.len() / BATCH;
    Tensor::from_data(TensorData::new(ids, [BATCH, length]), device)
}

/// Share of right answers over some batches that training does not see.
fn accuracy(
    text: Probe,
    model: &RoutingTransformerLM,
    key: Key,
    device: &Device,
) -> Result<(f64, Spread)> {
    let (mut right, mut all, mut spread) = (0usize, 0usize, Spread::default());
    for batch in 0..8 {
        let (inputs, targets) = probe(text, key.site("test").fold(batch));
        let output = model
            .forward(rows(inputs, device), Mode::evaluation())
            .map_err(Error::other)?;
        spread.see(&output.routed);
        let answers = output
            .logits
            .narrow(2, ANSWER as usize, VALUES)
            .argmax(2)
            .into_data();
        for (found, asked) in answers.iter::<i64>().zip(targets).filter(|(_, t)| *t != 0) {
            right += usize::from(found == i64::from(asked - ANSWER));
            all += 1;
        }
    }
    Ok((right as f64 / all as f64, spread))
}

fn recall(
    text: Probe,
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let half = text.length / 2;
    let steps: u64 = if options.quick { 20 } else { 400 };
    let model = |local: [usize; 3], window: usize| LucidrainsConfig {
        num_tokens: Some(FILLING as usize + 1),
        dim: 96,
        depth: 3,
        max_seq_len: text.length,
        heads: 4,
        dim_head: Some(24),
        window_size: window,
        local_attn_window_size: Some(8),
        n_local_attn_heads: LocalHeads::Each(local.to_vec()),
        causal: true,
        kmeans_ema_decay: 0.99,
        ..Default::default()
    };
    let variants = [
        ("local heads only", model([4, 4, 4], half), false),
        (
            "routing, 2 clusters of half the text",
            model([4, 2, 2], half),
            false,
        ),
        (
            "the same, random centroids that never move",
            model([4, 2, 2], half),
            true,
        ),
        (
            "routing, 8 clusters of an eighth",
            model([4, 2, 2], text.length / 8),
            false,
        ),
    ];
    let key = Key::new(options.seed).site("probe");
    let mut cells = vec![];
    let mut curves = vec![];
    for (name, config, frozen) in variants {
        let config = RoutingTransformerConfig::from(config);
        let autodiff = device.clone().without_autodiff().autodiff();
        let model = config
            .init(key.site("init"), &autodiff)
            .map_err(Error::other)?;
        let parameters = burn::module::Module::num_params(&model);
        let optimizer: OptimizerConfig =
            serde_json::from_value(serde_json::json!({ "name": "adam", "lr": 2e-3 }))
                .map_err(Error::other)?;
        let mut learner = Learner::new(model, &optimizer, &Schedule::default(), Some(0.5), None)?;
        let (mut entropy, mut last) = (vec![], f64::NAN);
        for step in 0..steps {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let key = key.site("train").fold(step);
            let (inputs, targets) = probe(text, key);
            let (inputs, targets) = (rows(inputs, device), rows(targets, device));
            if !frozen && learner.model().needs_first_data() {
                let first = learner.model().clone();
                let first = first
                    .with_first_data(inputs.clone(), key)
                    .map_err(Error::other)?;
                learner.update_model(|_| first);
            }
            let (_, mut results) = learner.step(step + 1, vec![()], |model, ()| {
                let output = model
                    .forward(inputs.clone(), Mode::training(key))
                    .map_err(Error::other)?;
                let (loss, _) =
                    cross_entropy(output.logits, targets.clone()).map_err(Error::other)?;
                let total = loss.clone() + output.clustering_loss;
                Ok((total, (loss.inner(), output.routed)))
            })?;
            if let Some((loss, routed)) = results.pop() {
                if step % 10 == 0 {
                    let mut spread = Spread::default();
                    spread.see(&routed);
                    if spread.routes() {
                        entropy.push((step as f64, spread.entropy()));
                    }
                    last = f64::from(loss.into_scalar::<f32>());
                }
                if !frozen {
                    learner.update_model(|m| m.with_centroids(&[routed]));
                }
            }
            cx.progress(step + 1, steps, name);
        }
        let (share, spread) = accuracy(text, &learner.evaluation_model(), key, device)?;
        let routed = |value: f64| match spread.routes() {
            true => format!("{value:.2}"),
            false => "–".to_owned(),
        };
        cells.push(vec![
            name.to_owned(),
            parameters.to_string(),
            format!("{:.1} %", 100.0 * share),
            format!("{last:.3}"),
            routed(spread.entropy()),
            routed(spread.uncovered()),
        ]);
        if !entropy.is_empty() {
            curves.push(Series {
                name: name.to_owned(),
                points: entropy,
            });
        }
    }
    let columns = [
        "heads",
        "parameters",
        "right answers",
        "last training loss (nats)",
        "occupancy entropy",
        "uncovered positions",
    ];
    Ok(vec![
        Figure::Table(Table {
            title: format!(
                "Recall of 16 records over {} to {} tokens, {steps} updates of {BATCH} texts of {} (chance 25 %, local heads reach 45 tokens)",
                text.questions - RECORDS_END,
                text.length - 2,
                text.length,
            ),
            columns: columns.map(str::to_owned).to_vec(),
            rows: cells,
        }),
        Figure::Lines(Lines {
            title: format!(
                "Occupancy entropy of the clusters on texts of {}",
                text.length
            ),
            x: Axis::new("step"),
            y: Axis::new("entropy / ln k"),
            series: curves,
        }),
    ])
}

/// Processor time of all threads of this process in seconds, which other programs on the machine do not lengthen; where the
/// system does not tell, the clock's.
fn seconds(start: Instant) -> f64 {
    let total = || -> Option<f64> {
        let mut nanoseconds = 0.0;
        for thread in std::fs::read_dir("/proc/self/task").ok()? {
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            nanoseconds += text.split(' ').next()?.parse::<f64>().ok()?;
        }
        Some(nanoseconds * 1e-9)
    };
    total().unwrap_or_else(|| start.elapsed().as_secs_f64())
}

/// Median processor time in ms of a few calls, after one that is not counted, and the memory in MiB that they took beyond
/// what was held before, where the system tells.
fn median(mut call: impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    let held = memory::reset().then(memory::peak).flatten();
    call()?;
    let peak = held.and_then(|held| Some(memory::peak()?.saturating_sub(held)));
    let first = Instant::now();
    call()?;
    // The system counts in steps of some ms: short calls are counted together.
    let together = (0.05 / first.elapsed().as_secs_f64().max(1e-6))
        .ceil()
        .clamp(1.0, 1e4) as usize;
    let mut times = vec![];
    // Nine times, or as often as fits into a few seconds.
    while times.len() < 9 && (times.len() < 3 || first.elapsed().as_secs_f64() < 4.0) {
        let before = seconds(first);
        for _ in 0..together {
            call()?;
        }
        times.push((seconds(first) - before) * 1e3 / together as f64);
    }
    times.sort_by(f64::total_cmp);
    let mib = peak.map_or(f64::NAN, |bytes| bytes as f64 / f64::from(1 << 20));
    Ok((times[times.len() / 2], mib))
}

/// The forward pass of the attention alone: full, local and routed with √n clusters of √n members.
fn lengths(quick: bool, device: &Device, cx: &mut Context) -> Result<Vec<Figure>> {
    const HEADS: usize = 2;
    const WIDTH: usize = 64;
    let all: &[usize] = if quick {
        &[256, 1024]
    } else {
        &[1024, 2048, 4096, 8192]
    };
    let device = device.clone().without_autodiff();
    let names = ["full", "routed", "local (block of 256 and the one before)"];
    let mut points: [Vec<(f64, f64)>; 3] = Default::default();
    let mut memories: [Vec<(f64, f64)>; 3] = Default::default();
    for (i, n) in all.iter().copied().enumerate() {
        let key = Key::new(1).site("lengths");
        let heads =
            |name: &str, shape: [usize; 4]| init::normal(shape, 1.0, key.site(name), &device).val();
        let shape = [1, HEADS, n, WIDTH];
        let (q, v) = (heads("q", shape), heads("v", shape));
        let flat = |t: &Tensor<4>| t.clone().swap_dims(1, 2).reshape([1, n, HEADS * WIDTH]);
        let full = median(|| {
            let out = attention(Attention {
                query: flat(&q),
                key: flat(&q),
                value: flat(&v),
                heads: HEADS,
                mask: Some(Mask::causal(n, n, &device)),
                bias: None,
                scale: 0.125,
                dropout: Dropout::off(),
            });
            drop(out.map_err(Error::other)?.into_data());
            Ok(())
        })?;
        let side = (n as f64).sqrt().round() as usize;
        let means = heads("means", [1, HEADS, side, WIDTH]).reshape([HEADS, side, WIDTH]);
        let routed = median(|| {
            let with = PaperRouting {
                window: side,
                causal: true,
                strict: false,
                share_qk: true,
                ema: true,
                beta: 1e-4,
                rule: EmaCountRule::PerHead,
                relative: None,
                padding: None,
                dropout: Dropout::off(),
            };
            let (out, _, _) =
                route(q.clone(), None, v.clone(), &means, with).map_err(Error::other)?;
            drop(out.into_data());
            Ok(())
        })?;
        let local = median(|| {
            let out = local_attention(LocalAttention {
                query: q.clone(),
                key: q.clone(),
                value: v.clone(),
                window: 256,
                back: 1,
                forward: 0,
                causal: true,
                exact: false,
                scale: 0.125,
                padding: None,
                outside: 0.0,
                own: None,
                hide: Hide::Add(-1e9),
                relative: None,
                dropout: Dropout::off(),
            });
            drop(out.map_err(Error::other)?.into_data());
            Ok(())
        })?;
        let found = [full, routed, local];
        for ((times, sizes), (ms, mib)) in points.iter_mut().zip(&mut memories).zip(found) {
            times.push((n as f64, ms));
            sizes.push((n as f64, mib));
        }
        cx.progress(i as u64 + 1, all.len() as u64, "time over the length");
    }
    let slope = |list: &[(f64, f64)]| match (list.first(), list.last()) {
        (Some((n, a)), Some((m, b))) => (b / a).ln() / (m / n).ln(),
        _ => f64::NAN,
    };
    let row = |(name, list): (&&str, &Vec<(f64, f64)>)| {
        let values = list.iter().map(|(_, value)| format!("{value:.1}"));
        let first = std::iter::once((*name).to_owned());
        first
            .chain(values)
            .chain([format!("{:.2}", slope(list))])
            .collect()
    };
    let cells = names.iter().zip(&points).map(row);
    let size = |(name, list): (&&str, &Vec<(f64, f64)>)| {
        // A call that is served from memory held already reaches no new mark and tells nothing.
        let value = |mib: f64| match mib > 0.0 {
            true => format!("{mib:.1}"),
            false => "–".to_owned(),
        };
        let first = std::iter::once((*name).to_owned());
        first
            .chain(list.iter().map(|(_, mib)| value(*mib)))
            .collect()
    };
    let sizes = names.iter().zip(&memories).map(size).collect();
    let curves = |lists: &[Vec<(f64, f64)>; 3]| {
        let series = names.iter().zip(lists).map(|(name, points)| Series {
            name: (*name).into(),
            points: points.clone(),
        });
        series.collect()
    };
    let mut columns = vec!["attention".to_owned()];
    let mut held = columns.clone();
    columns.extend(all.iter().map(|n| format!("{n} tokens (ms)")));
    columns.push("slope".into());
    held.extend(all.iter().map(|n| format!("{n} tokens (MiB)")));
    Ok(vec![
        Figure::Table(Table {
            title: "Forward pass of the attention alone, 2 heads of 64, medians of processor time; routed: √n clusters of √n, with assignment and losses"
                .into(),
            columns,
            rows: cells.collect(),
        }),
        Figure::Lines(Lines {
            title: "Time over the length of the text".into(),
            x: Axis::with_unit("length", "tokens").logarithmic(),
            y: Axis::with_unit("time", "ms").logarithmic(),
            series: curves(&points),
        }),
        Figure::Table(Table {
            title: "Memory of the same passes beyond what was held before, where they reach a new mark".into(),
            columns: held,
            rows: sizes,
        }),
        Figure::Lines(Lines {
            title: "Memory over the length of the text".into(),
            x: Axis::with_unit("length", "tokens").logarithmic(),
            y: Axis::with_unit("memory", "MiB").logarithmic(),
            series: curves(&memories),
        }),
    ])
}

/// What the last token of a text costs when it is read on, and when the whole window is read again.
fn reading(quick: bool, device: &Device, cx: &mut Context) -> Result<Figure> {
    let all: &[usize] = if quick {
        &[64]
    } else {
        &[256, 512, 1024, 2048]
    };
    let device = device.clone().without_autodiff();
    let mut rows = vec![];
    for (i, n) in all.iter().copied().enumerate() {
        let config = RoutingTransformerConfig::from(LucidrainsConfig {
            num_tokens: Some(97),
            dim: 96,
            depth: 3,
            max_seq_len: n,
            heads: 4,
            dim_head: Some(24),
            window_size: 32,
            local_attn_window_size: Some(32),
            n_local_attn_heads: LocalHeads::Each(vec![4, 2, 2]),
            causal: true,
            strict_causal_routing: true,
            ..Default::default()
        });
        let key = Key::new(1).site("reading");
        let model = config.init(key, &device).map_err(Error::other)?;
        let ids: Vec<i32> = (0..n as u64).map(|i| 1 + key.below(i, 96) as i32).collect();
        let part = |ids: &[i32]| {
            let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
            Tensor::<2, Int>::from_data(data, &device)
        };
        let stream = model.stream().map_err(Error::other)?;
        let (_, before) = model
            .read_on(part(&ids[..n - 1]), stream)
            .map_err(Error::other)?;
        let (on, _) = median(|| {
            let next = model.read_on(part(&ids[n - 1..]), before.clone());
            drop(next.map_err(Error::other)?.0.into_data());
            Ok(())
        })?;
        let (again, _) = median(|| {
            let out = model.forward(part(&ids), Mode::evaluation());
            drop(out.map_err(Error::other)?.logits.into_data());
            Ok(())
        })?;
        rows.push(vec![
            n.to_string(),
            format!("{on:.2}"),
            format!("{again:.1}"),
            format!("{:.0}", again / on),
        ]);
        cx.progress(i as u64 + 1, all.len() as u64, "reading on");
    }
    let columns = [
        "tokens before it",
        "read on (ms, with a copy of what is kept)",
        "window read again by the strict rule (ms)",
        "ratio",
    ];
    Ok(Figure::Table(Table {
        title: "A generated token of the quickstart's model under the strict rule, medians of processor time".into(),
        columns: columns.map(str::to_owned).to_vec(),
        rows,
    }))
}
