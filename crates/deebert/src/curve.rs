//! What a threshold costs and saves, from one pass through the whole model (sections 3.3 and 4 of the paper).

use crate::exits::entropy;
use core_attn::random::Key;

/// Most thresholds that are tried where one is looked for.
const MOST_CANDIDATES: usize = 2_000;

/// The scores of every exit that answers, for every sample of a data set. From it follows what any threshold would do.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitTable {
    layers: usize,
    labels: usize,
    /// `[samples, layers, labels]`.
    logits: Vec<f32>,
    /// `[samples, layers]`, in nats.
    entropies: Vec<f32>,
}

impl ExitTable {
    /// From scores `[samples, layers, labels]`, row-major; the last layer's are the final classifier's. Values that fill no whole
    /// sample are left out.
    pub fn new(layers: usize, labels: usize, mut logits: Vec<f32>) -> Self {
        let sample = (layers * labels).max(1);
        logits.truncate(logits.len() / sample * sample);
        Self {
            entropies: logits.chunks(labels.max(1)).map(entropy).collect(),
            layers,
            labels,
            logits,
        }
    }

    /// Number of layers, which is the number of exits.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.entropies.len() / self.layers.max(1)
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scores of a sample at the exit of a layer, counted from 1.
    pub fn logits(&self, sample: usize, layer: usize) -> &[f32] {
        let at = (sample * self.layers + layer - 1) * self.labels;
        &self.logits[at..at + self.labels]
    }

    /// The entropy of a sample at the exit of a layer, counted from 1, in nats.
    pub fn entropy(&self, sample: usize, layer: usize) -> f32 {
        self.entropies[sample * self.layers + layer - 1]
    }

    /// The layers at which the samples leave, for one threshold for each layer.
    pub fn exit_layers(&self, thresholds: &[f32]) -> Vec<usize> {
        let leaves = |entropies: &[f32]| {
            let ramps = entropies.iter().zip(thresholds).take(self.layers - 1);
            let early = ramps.enumerate().find(|(_, (e, s))| e < s);
            early.map_or(self.layers, |(i, _)| i + 1)
        };
        self.entropies
            .chunks(self.layers.max(1))
            .map(leaves)
            .collect()
    }

    /// The classes answered where each sample leaves at its layer; the first of equal scores.
    pub fn predictions(&self, exit_layers: &[usize]) -> Vec<usize> {
        let predict = |(sample, layer): (usize, &usize)| {
            let z = self.logits(sample, *layer);
            let better = |best, i| if z[i] > z[best] { i } else { best };
            (0..z.len()).reduce(better).unwrap_or(0)
        };
        exit_layers.iter().enumerate().map(predict).collect()
    }

    /// The entropies at off-ramps, sorted, without those that are not finite.
    fn sorted_entropies(&self) -> Vec<f32> {
        let ramps = self.entropies.chunks(self.layers.max(1));
        let ramps = ramps.flat_map(|row| row[..self.layers - 1].iter().copied());
        let mut all: Vec<f32> = ramps.filter(|e| e.is_finite()).collect();
        all.sort_by(f32::total_cmp);
        all.dedup();
        all
    }

    /// Thresholds at which something changes: just above entropies that occur, ascending, at most `count`, evenly among them.
    pub fn candidates(&self, count: usize) -> Vec<f32> {
        let all = self.sorted_entropies();
        let just_above = |e: f32| e.next_up();
        if all.len() <= count {
            return all.into_iter().map(just_above).collect();
        }
        let last = all.len() - 1;
        let pick = |i: usize| just_above(all[i * last / (count - 1).max(1)]);
        (0..count).map(pick).collect()
    }
}

/// What one choice of exits does.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitPoint {
    /// The layer at which each sample leaves, counted from 1.
    pub exit_layers: Vec<usize>,
    /// Samples that leave at layer 1, 2, … L.
    pub histogram: Vec<usize>,
    /// The mean of `exit_layers`.
    pub mean_layer: f64,
    /// The share of the layers that are run: `sum(exit_layers) / (samples · L)`. The published code prints this as "expected saving".
    pub runtime_ratio: f64,
    /// The share of the layers that are not run: `1 − runtime_ratio`.
    pub saving: f64,
    /// The metric of the answers.
    pub metric: f64,
}

/// A table with a measure of its answers.
pub struct ExitCurve<'a> {
    table: &'a ExitTable,
    /// From one class for each sample to a value, more of which is better.
    metric: &'a dyn Fn(&[usize]) -> f64,
}

impl<'a> ExitCurve<'a> {
    /// A curve over this table; `metric` judges one predicted class for each sample, and more is better.
    pub fn new(table: &'a ExitTable, metric: &'a dyn Fn(&[usize]) -> f64) -> Self {
        Self { table, metric }
    }

    /// Every sample leaves at the first off-ramp whose entropy is below `threshold`.
    pub fn at(&self, threshold: f32) -> ExitPoint {
        self.at_each(&vec![threshold; self.table.layers])
    }

    /// [`at`](Self::at) with one threshold for each layer.
    pub fn at_each(&self, thresholds: &[f32]) -> ExitPoint {
        self.point(self.table.exit_layers(thresholds))
    }

    /// Every sample leaves at this layer, counted from 1.
    pub fn fixed(&self, layer: usize) -> ExitPoint {
        self.point(vec![layer; self.table.len()])
    }

    /// The metric of fixed exits at a mean depth between two layers: a mixture of both, so the line between them.
    pub fn fixed_between(&self, mean_layer: f64) -> f64 {
        let low = (mean_layer.floor() as usize).clamp(1, self.table.layers);
        let high = (low + 1).min(self.table.layers);
        let share = mean_layer - low as f64;
        let [a, b] = [low, high].map(|layer| self.fixed(layer).metric);
        a + (b - a) * share.clamp(0.0, 1.0)
    }

    /// The metric where the samples leave as often at each layer as in `point`, but which ones is drawn from `key`; the mean of
    /// `draws` draws.
    pub fn random(&self, point: &ExitPoint, key: Key, draws: u64) -> f64 {
        let mut sum = 0.0;
        for draw in 0..draws {
            let key = key.fold(draw);
            let mut layers = point.exit_layers.clone();
            for i in (1..layers.len()).rev() {
                layers.swap(i, key.below(i as u64, i + 1));
            }
            sum += (self.metric)(&self.table.predictions(&layers));
        }
        sum / draws as f64
    }

    /// The smallest threshold whose mean exit layer is at most `mean_layer`; `None` where no threshold comes so low.
    pub fn for_budget(&self, mean_layer: f64) -> Option<f32> {
        // More entropy allowed is fewer layers run, so the first that fits is found by halving.
        let mut candidates = vec![0.0];
        candidates.extend(self.table.sorted_entropies().into_iter().map(f32::next_up));
        let fits = |s: &f32| {
            let layers = self.table.exit_layers(&vec![*s; self.table.layers]);
            mean(&layers) <= mean_layer
        };
        let first = candidates.partition_point(|s| !fits(s));
        candidates.get(first).copied()
    }

    /// The largest threshold whose metric is at least that of the whole model less `tolerance`, among at most 2,000 that are
    /// spread over the entropies; 0 where only the whole model is good enough.
    pub fn for_tolerance(&self, tolerance: f64) -> f32 {
        let least = self.fixed(self.table.layers).metric - tolerance;
        let candidates = self.table.candidates(MOST_CANDIDATES);
        let good = candidates
            .into_iter()
            .rev()
            .find(|s| self.at(*s).metric >= least);
        good.unwrap_or(0.0)
    }

    fn point(&self, exit_layers: Vec<usize>) -> ExitPoint {
        let mut histogram = vec![0; self.table.layers];
        for layer in &exit_layers {
            histogram[layer - 1] += 1;
        }
        let mean_layer = mean(&exit_layers);
        let runtime_ratio = mean_layer / self.table.layers as f64;
        ExitPoint {
            metric: (self.metric)(&self.table.predictions(&exit_layers)),
            exit_layers,
            histogram,
            mean_layer,
            runtime_ratio,
            saving: 1.0 - runtime_ratio,
        }
    }
}

fn mean(layers: &[usize]) -> f64 {
    layers.iter().sum::<usize>() as f64 / layers.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes, three layers; the score of class 1 over class 0.
    fn table(scores: &[[f32; 3]]) -> ExitTable {
        let logits = scores.iter().flatten().flat_map(|z| [0.0, *z]);
        ExitTable::new(3, 2, logits.collect())
    }

    #[test]
    fn a_curve_says_what_exits_do() {
        // Truth: all are class 1. Sample 0 is sure and right at once, sample 1 late, sample 2 sure and wrong at layer 2.
        let table = table(&[
            [9.0, 9.0, 9.0],
            [-0.1, 5.0, 9.0],
            [0.1, -5.0, 3.0],
            [-0.1, 0.2, 3.0],
        ]);
        let metric = |p: &[usize]| p.iter().filter(|c| **c == 1).count() as f64 / 4.0;
        let curve = ExitCurve::new(&table, &metric);
        let none = curve.at(0.0);
        assert_eq!(none.exit_layers, [3; 4]);
        assert_eq!((none.metric, none.saving), (1.0, 0.0));
        let some = curve.at(0.1);
        assert_eq!(some.exit_layers, [1, 2, 2, 3]);
        assert_eq!(some.histogram, [1, 2, 1]);
        assert_eq!((some.mean_layer, some.metric), (2.0, 0.75));
        assert!((some.runtime_ratio - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(curve.at(1.0).exit_layers, [1; 4]);
        assert_eq!(curve.at_each(&[0.0, 1.0, 0.0]).exit_layers, [2; 4]);
        assert_eq!(curve.fixed(2).metric, 0.75);
        assert!((curve.fixed_between(2.5) - 0.875).abs() < 1e-12);
        assert_eq!(curve.fixed_between(3.0), 1.0);

        // A budget takes the smallest threshold that meets it, a tolerance the largest.
        let s = curve.for_budget(2.0).unwrap();
        assert!(curve.at(s).mean_layer <= 2.0);
        assert!(curve.at(s.next_down()).mean_layer > 2.0);
        assert_eq!(curve.for_budget(3.0), Some(0.0));
        assert_eq!(curve.for_budget(0.5), None);
        let s = curve.for_tolerance(0.25);
        assert!(curve.at(s).metric >= 0.75);
        let s = curve.for_tolerance(0.0);
        assert_eq!(curve.at(s).exit_layers, curve.at(0.01).exit_layers);

        // The expectation over random exits: each sample takes each layer as often as the histogram says.
        let found = curve.random(&some, Key::new(1), 4_000);
        let expected = (1.0 * 0.5 + 2.0 * 0.75 + 1.0 * 1.0) / 4.0;
        assert!((found - expected).abs() < 0.01, "{found}");
    }

    #[test]
    fn nothing_and_one_layer_are_no_trouble() {
        let metric = |_: &[usize]| 1.0;
        let empty = ExitTable::new(2, 3, vec![]);
        assert!(empty.is_empty() && empty.candidates(5).is_empty());
        assert_eq!(ExitCurve::new(&empty, &metric).at(0.5).histogram, [0, 0]);
        let one = ExitTable::new(1, 2, vec![0.0, 1.0, 1.0, 0.0]);
        let point = ExitCurve::new(&one, &metric).at(10.0);
        assert_eq!(point.exit_layers, [1, 1]);
        assert_eq!(one.predictions(&point.exit_layers), [1, 0]);
        assert!(one.candidates(3).is_empty());
    }
}
