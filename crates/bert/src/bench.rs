//! What a forward pass and an update of fine-tuning cost.

use crate::classes::BertForSequenceClassification;
use crate::config::BertConfig;
use crate::input::EncoderInput;
use crate::loss::Labels;
use crate::model::EncoderCall;
use crate::parts::Mode;
use crate::recipe::TrainingConfig;
use burn::prelude::*;
use core_attn::random::Key;
use std::time::Instant;
use trainer::{BenchOptions, Context, Error, Figure, Learner, Result, Table};

/// Tokens of a sequence.
const LENGTH: usize = 128;

/// Name, layers, width, heads of the models that are measured; the feed-forward width is four times the width.
const SIZES: [(&str, usize, usize, usize); 3] = [
    ("4 layers of 256", 4, 256, 4),
    ("MiniLM: 6 layers of 384", 6, 384, 12),
    ("base: 12 layers of 768", 12, 768, 12),
];

/// Median time of a call in milliseconds, after one to warm up.
fn milliseconds(repeats: usize, mut call: impl FnMut(u64) -> Result<()>) -> Result<f64> {
    call(0)?;
    let mut times = vec![];
    for i in 0..repeats {
        let start = Instant::now();
        call(i as u64 + 1)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Measures everything with random weights; about three minutes on two cores, half a minute with `quick`.
pub(crate) fn bench(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let sizes = if options.quick {
        &SIZES[..2]
    } else {
        &SIZES[..]
    };
    let mut rows = vec![];
    let total = 2 * sizes.len() as u64;
    for &(name, layers, width, heads) in sizes {
        let config = BertConfig {
            vocab_size: 8192,
            hidden_size: width,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            intermediate_size: 4 * width,
            ..BertConfig::default()
        };
        let key = Key::new(options.seed).site("bench");
        for batch in [1, 16] {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let ids = (0..batch * LENGTH).map(|i| key.below(i as u64, 8000) as i64 + 100);
            let input = EncoderInput::new(ids.collect(), batch, LENGTH).map_err(Error::other)?;
            let large = layers * width * batch > 100_000;
            let repeats = if large || options.quick { 3 } else { 7 };
            let forward = forward(&config, &input, repeats, device)?;
            let update = update(&config, &input, repeats, device)?;
            // Multiplications and additions of a forward pass, without embeddings.
            let per_token = layers * (24 * width * width + 4 * LENGTH * width);
            let work = (batch * LENGTH * per_token) as f64;
            rows.push(vec![
                name.to_owned(),
                batch.to_string(),
                format!("{forward:.1}"),
                format!("{:.1}", batch as f64 / forward * 1e3),
                format!("{:.1}", work / forward / 1e6),
                format!("{update:.1}"),
                format!("{:.1}", batch as f64 / update * 1e3),
            ]);
            cx.progress(rows.len() as u64, total, "forward passes and updates");
        }
    }
    let columns = [
        "model",
        "batch",
        "forward, ms",
        "sequences per second",
        "GFLOP per second",
        "update, ms",
        "sequences per second in training",
    ];
    Ok(vec![Figure::Table(Table {
        title: format!(
            "A classifier on sequences of {LENGTH} tokens; an update is AdamW's with dropout"
        ),
        columns: columns.map(str::to_owned).to_vec(),
        rows,
    })])
}

fn forward(
    config: &BertConfig,
    input: &EncoderInput,
    repeats: usize,
    device: &Device,
) -> Result<f64> {
    let model = BertForSequenceClassification::new(config, Key::new(1), device);
    let model = model.map_err(Error::other)?;
    milliseconds(repeats, |_| {
        let out = model.forward(input, &EncoderCall::default());
        out.map_err(Error::other)?.0.into_data();
        Ok(())
    })
}

fn update(
    config: &BertConfig,
    input: &EncoderInput,
    repeats: usize,
    device: &Device,
) -> Result<f64> {
    let device = device.clone().autodiff();
    let model = BertForSequenceClassification::new(config, Key::new(1), &device);
    let training = TrainingConfig::default();
    let mut learner = Learner::new(
        model.map_err(Error::other)?,
        &training.optimizer,
        &training.schedule.over(100),
        training.clip,
        None,
    )?;
    let labels = Labels::Classes((0..input.batch() as i64).map(|i| i % 2).collect());
    milliseconds(repeats, |i| {
        let (_, losses) = learner.step(i + 1, vec![()], |model, ()| {
            let mode = Mode::training(Key::new(i));
            let (logits, _) = model
                .forward(input, &EncoderCall::new(mode))
                .map_err(Error::other)?;
            let loss = model.loss(logits, &labels).map_err(Error::other)?;
            Ok((loss.clone(), loss.inner()))
        })?;
        for loss in losses {
            loss.into_data();
        }
        Ok(())
    })
}
