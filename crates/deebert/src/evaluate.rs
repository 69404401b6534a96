//! Judging a run: every exit by itself, then what thresholds make of them.

use crate::curve::{ExitCurve, ExitPoint, ExitTable};
use crate::exits::{ExitRule, InferOptions, Thresholds};
use crate::experiment::{DeeBertExperiment, by_length};
use crate::model::DeeBertForSequenceClassification;
use bert::Mode;
use burn::prelude::*;
use core_attn::random::Key;
use std::time::Instant;
use trainer::{Context, Error, Metrics, Result, Split};

/// Draws that the metric of random exits is the mean of.
const DRAWS: u64 = 20;

/// Points of the curve in the report.
const POINTS: usize = 60;

/// What the test split showed.
pub(crate) struct Judged {
    /// The metric of every exit.
    pub exits: Vec<f64>,
    /// The thresholds of the recipe.
    pub rows: Vec<Row>,
    /// The curve of the entropy rule with its baselines, by mean exit layer.
    pub curve: Vec<Row>,
    /// The threshold that the validation split chose, where the recipe says how.
    pub chosen: Option<f32>,
    /// Milliseconds a sample takes without off-ramps, where that was timed.
    pub plain_ms: Option<f64>,
}

/// One threshold.
pub(crate) struct Row {
    pub threshold: f32,
    pub point: ExitPoint,
    /// The metric where every sample stops at the same depth, at the same mean.
    pub fixed: f64,
    /// The metric where as many leave at each layer, but anyone.
    pub random: f64,
    /// With real exits, one sample at a time: their mean exit layer, and the milliseconds each takes.
    pub timed: Option<(f64, f64)>,
}

impl DeeBertExperiment {
    /// One pass of a split through the whole model.
    pub(crate) fn table(
        &self,
        model: &DeeBertForSequenceClassification,
        split: Split,
        cx: &mut Context,
    ) -> Result<ExitTable> {
        let samples = self.texts.split(split);
        let labels = model.config().bert.labels();
        let sample = model.layers() * labels;
        let mut logits = vec![0f32; samples.len() * sample];
        let mut done = 0;
        for part in by_length(samples).chunks(self.evaluation.batch_size) {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let (input, _) = self.texts.batch(part.iter().map(|&i| &samples[i]))?;
            let all = model.forward_all_exits(&input, Mode::evaluation())?;
            let exits: Tensor<3> = Tensor::stack(all.answers().cloned().collect(), 1);
            let values: Vec<f32> = exits.into_data().iter::<f32>().collect();
            for (&i, row) in part.iter().zip(values.chunks(sample)) {
                logits[i * sample..(i + 1) * sample].copy_from_slice(row);
            }
            done += part.len();
            let what = format!("evaluating on {}", split.name());
            cx.progress(done as u64, samples.len() as u64, &what);
        }
        Ok(ExitTable::new(model.layers(), labels, logits))
    }

    /// The task's metrics where each sample leaves at its layer.
    fn metrics_at(&self, table: &ExitTable, layers: &[usize], split: Split) -> Result<Metrics> {
        let predictions: Vec<f64> = match self.texts.classes {
            Some(_) => table
                .predictions(layers)
                .iter()
                .map(|c| *c as f64)
                .collect(),
            None => {
                let exits = layers.iter().enumerate();
                exits
                    .map(|(i, layer)| f64::from(table.logits(i, *layer)[0]))
                    .collect()
            }
        };
        self.texts.metrics(&predictions, &self.labels_of(split))
    }

    fn main_metric(&self, metrics: &Metrics) -> f64 {
        metrics.get(self.texts.metric()).unwrap_or(f64::NAN)
    }

    /// The metric of every exit where all samples leave there.
    fn by_layer(&self, table: &ExitTable, split: Split) -> Result<Vec<f64>> {
        let at = |layer| {
            let layers = vec![layer; table.len()];
            Ok(self.main_metric(&self.metrics_at(table, &layers, split)?))
        };
        (1..=table.layers()).map(at).collect()
    }

    /// The final classifier's metrics and loss, the metric of every exit, and the off-ramps' loss.
    pub(crate) fn exit_metrics(&self, table: &ExitTable, split: Split) -> Result<Metrics> {
        let layers = table.layers();
        let mut metrics = self.metrics_at(table, &vec![layers; table.len()], split)?;
        let labels = self.labels_of(split);
        let classes = self.texts.classes.is_some();
        let loss = |layer: usize| {
            let samples = labels.iter().enumerate();
            let losses = samples.map(|(i, y)| host_loss(table.logits(i, layer), *y, classes));
            losses.sum::<f64>() / labels.len().max(1) as f64
        };
        metrics.insert("loss", loss(layers));
        if layers > 1 {
            metrics.insert("ramp_loss", (1..layers).map(loss).sum());
        }
        let exits = self.by_layer(table, split)?;
        for (i, value) in exits.iter().enumerate() {
            metrics.insert(format!("exit_{}", i + 1), *value);
        }
        metrics.insert("exits_mean", exits.iter().sum::<f64>() / layers as f64);
        Ok(metrics)
    }

    /// Chooses the threshold on the validation split, and says what it and the recipe's do on the test split.
    pub(crate) fn judge(
        &mut self,
        model: &DeeBertForSequenceClassification,
        table: ExitTable,
        metrics: &mut Metrics,
        cx: &mut Context,
    ) -> Result<()> {
        let exits = self.by_layer(&table, Split::Test)?;
        let mut judged = Judged {
            exits,
            rows: vec![],
            curve: vec![],
            chosen: None,
            plain_ms: None,
        };
        // A regression has no entropy, and one layer no choice: its exits are all there is to say.
        if model.config().check_entropy().is_err() || table.layers() == 1 {
            self.judged = Some(judged);
            return Ok(());
        }
        let classes: Vec<f64> = self.labels_of(Split::Test);
        let metric = |labels: &[f64], predictions: &[usize]| {
            let predictions: Vec<f64> = predictions.iter().map(|p| *p as f64).collect();
            let found = self.texts.metrics(&predictions, labels);
            found.map_or(f64::NAN, |found| self.main_metric(&found))
        };
        let on_test = |predictions: &[usize]| metric(&classes, predictions);
        let curve = ExitCurve::new(&table, &on_test);
        let row = |threshold: f32| {
            let point = curve.at(threshold);
            Row {
                threshold,
                fixed: curve.fixed_between(point.mean_layer),
                random: curve.random(&point, Key::new(self.seed).site("random exits"), DRAWS),
                point,
                timed: None,
            }
        };
        judged.rows = self.evaluation.thresholds.iter().map(|s| row(*s)).collect();
        let ends = [0.0f32, f32::INFINITY];
        let mut all = table.candidates(POINTS);
        all.extend(ends);
        all.sort_by(f32::total_cmp);
        judged.curve = all.into_iter().map(row).collect();
        let gap = judged
            .curve
            .iter()
            .map(|r| (r.point.metric - r.fixed) / self.error_of(r.fixed));
        metrics.insert("worst_gap_se", gap.fold(f64::INFINITY, f64::min));
        let mean = |of: fn(&Row) -> f64| {
            let rows = &judged.curve;
            rows.iter().map(|r| r.point.metric - of(r)).sum::<f64>() / rows.len() as f64
        };
        metrics.insert("mean_gain_fixed", mean(|r| r.fixed));
        metrics.insert("mean_gain_random", mean(|r| r.random));

        if self.evaluation.mean_layer.is_some() || self.evaluation.tolerance.is_some() {
            let valid = self.table(model, Split::Valid, cx)?;
            let labels = self.labels_of(Split::Valid);
            let on_valid = |predictions: &[usize]| metric(&labels, predictions);
            let on_valid = ExitCurve::new(&valid, &on_valid);
            let chosen = match (self.evaluation.mean_layer, self.evaluation.tolerance) {
                (Some(mean), _) => on_valid.for_budget(mean),
                (None, Some(tolerance)) => Some(on_valid.for_tolerance(tolerance)),
                (None, None) => None,
            };
            if let Some(threshold) = chosen {
                let row = row(threshold);
                metrics.insert("threshold", f64::from(threshold));
                metrics.insert("mean_layer", row.point.mean_layer);
                metrics.insert("runtime_ratio", row.point.runtime_ratio);
                metrics.insert(format!("{}_early", self.texts.metric()), row.point.metric);
                metrics.insert(format!("{}_fixed_depth", self.texts.metric()), row.fixed);
                if !judged.rows.iter().any(|r| r.threshold == threshold) {
                    judged.rows.push(row);
                    judged
                        .rows
                        .sort_by(|a, b| a.threshold.total_cmp(&b.threshold));
                }
            }
            judged.chosen = chosen;
        }
        if self.evaluation.timed_samples > 0 {
            self.time(model, &mut judged, cx)?;
        }
        self.judged = Some(judged);
        Ok(())
    }

    /// The standard error of an accuracy on the test split.
    pub(crate) fn error_of(&self, accuracy: f64) -> f64 {
        let n = self.texts.split(Split::Test).len().max(1) as f64;
        // At 0 and 1 the formula says that there is none; half a sample is the least that can be told apart.
        (accuracy * (1.0 - accuracy) / n).sqrt().max(0.5 / n)
    }

    /// Times real exits, one sample at a time, beside the model without off-ramps.
    fn time(
        &self,
        model: &DeeBertForSequenceClassification,
        judged: &mut Judged,
        cx: &mut Context,
    ) -> Result<()> {
        let samples = self.texts.split(Split::Test);
        let count = self.evaluation.timed_samples.min(samples.len());
        // Spread over the split, whose order may be by document.
        let mut inputs = vec![];
        for i in 0..count {
            let sample = &samples[i * samples.len() / count];
            inputs.push(self.texts.batch(std::iter::once(sample))?.0);
        }
        let plain = |input: &bert::EncoderInput| -> Result<()> {
            let scores = model.classify(input, Mode::evaluation());
            drop(scores?.into_data());
            Ok(())
        };
        if let Some(input) = inputs.first() {
            plain(input)?;
        }
        let start = Instant::now();
        for input in &inputs {
            plain(input)?;
        }
        let each = |start: Instant| start.elapsed().as_secs_f64() * 1e3 / count.max(1) as f64;
        judged.plain_ms = Some(each(start));
        let total = judged.rows.len() as u64;
        for (i, row) in judged.rows.iter_mut().enumerate() {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let rule = ExitRule::Entropy(Thresholds::One(row.threshold));
            let options = InferOptions::new(rule);
            let start = Instant::now();
            let mut layers = 0;
            for input in &inputs {
                let records = model.infer_with(input, &options)?;
                layers += records.iter().map(|r| r.layer).sum::<usize>();
            }
            row.timed = Some((layers as f64 / count.max(1) as f64, each(start)));
            cx.progress(i as u64 + 1, total, "timing real exits");
        }
        Ok(())
    }
}

/// The loss of one sample at one exit, in nats for classes and squared units for numbers, on the host.
fn host_loss(logits: &[f32], label: f64, classes: bool) -> f64 {
    if !classes {
        return (f64::from(logits[0]) - label).powi(2);
    }
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|z| f64::from(z - top).exp()).sum();
    let own = logits.get(label as usize).copied().unwrap_or(f32::NAN);
    sum.ln() - f64::from(own - top)
}
