//! How the positions spread over the clusters, over training and at its end.

use crate::layers::Routed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use trainer::{Axis, Figure, Heatmap, Lines, Series};

/// Points of the curve over a whole run.
const POINTS: u64 = 200;

/// Sums over forward passes, and a history of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    layers: BTreeMap<usize, Layer>,
    /// Step and entropy of each routed layer.
    history: Vec<(u64, Vec<f64>)>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Layer {
    passes: usize,
    entropy: f64,
    uncovered: f64,
    histogram: Vec<Vec<u64>>,
}

impl Spread {
    /// Takes in what forward passes saw.
    pub(crate) fn see(&mut self, routed: &[Routed]) {
        for record in routed {
            let stats = &record.stats;
            let layer = self.layers.entry(record.layer).or_default();
            layer.passes += 1;
            layer.entropy += stats.entropy();
            layer.uncovered += stats.uncovered;
            if layer.histogram.is_empty() {
                let blank = |head: &Vec<u32>| vec![0; head.len()];
                layer.histogram = stats.histogram.iter().map(blank).collect();
            }
            for (sums, head) in layer.histogram.iter_mut().zip(&stats.histogram) {
                for (sum, count) in sums.iter_mut().zip(head) {
                    *sum += u64::from(*count);
                }
            }
        }
    }

    /// Whether any layer routes.
    pub(crate) fn routes(&self) -> bool {
        !self.layers.is_empty()
    }

    fn mean(&self, of: impl Fn(&Layer) -> f64) -> f64 {
        let all = self.layers.values().map(|l| of(l) / l.passes.max(1) as f64);
        all.sum::<f64>() / self.layers.len().max(1) as f64
    }

    /// Mean entropy over passes and layers.
    pub(crate) fn entropy(&self) -> f64 {
        self.mean(|l| l.entropy)
    }

    /// Mean share of positions in no cluster.
    pub(crate) fn uncovered(&self) -> f64 {
        self.mean(|l| l.uncovered)
    }

    /// Puts a step's spread on the curve, as often as is worth drawing.
    pub(crate) fn record(&mut self, step: u64, steps: u64, seen: &Self) {
        if step.is_multiple_of(steps.div_ceil(POINTS).max(1)) {
            let of = |l: &Layer| l.entropy / l.passes.max(1) as f64;
            self.history
                .push((step, seen.layers.values().map(of).collect()));
        }
    }

    /// Keeps an evaluation's spread for the report.
    pub(crate) fn show(&mut self, seen: &Self) {
        self.layers.clone_from(&seen.layers);
    }

    /// The part that belongs into a checkpoint.
    pub(crate) fn history_only(&self) -> Self {
        Self {
            layers: BTreeMap::new(),
            history: self.history.clone(),
        }
    }

    /// The curve of the entropies, and the clusters of every head by size.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![];
        let layers = self.history.first().map_or(0, |(_, all)| all.len());
        if layers > 0 {
            let name = |i: usize| match self.layers.keys().nth(i) {
                Some(layer) => format!("layer {}", layer + 1),
                None => format!("routed layer {}", i + 1),
            };
            let points = |i: usize| {
                let point = |(step, all): &(u64, Vec<f64>)| Some((*step as f64, *all.get(i)?));
                self.history.iter().filter_map(point).collect()
            };
            figures.push(Figure::Lines(Lines {
                title: "Occupancy entropy of the clusters (1: all used alike)".into(),
                x: Axis::new("step"),
                y: Axis::new("entropy / ln k"),
                series: (0..layers)
                    .map(|i| Series {
                        name: name(i),
                        points: points(i),
                    })
                    .collect(),
            }));
        }
        let heads = self.layers.iter().flat_map(|(layer, l)| {
            let head = move |(h, counts): (usize, &Vec<u64>)| {
                let total = counts.iter().sum::<u64>().max(1) as f64;
                let mut shares: Vec<f64> = counts.iter().map(|c| *c as f64 / total).collect();
                shares.sort_by(|a, b| b.total_cmp(a));
                (format!("layer {}, head {}", layer + 1, h + 1), shares)
            };
            l.histogram.iter().enumerate().map(head)
        });
        let (rows, values): (Vec<_>, Vec<Vec<f64>>) = heads.unzip();
        if let Some(clusters) = values.first().map(Vec::len) {
            figures.push(Figure::Heatmap(Heatmap {
                title: "Share of positions nearest to each centroid, largest first".into(),
                x: Axis::new("cluster, by size"),
                y: Axis::new("head"),
                columns: (1..=clusters).map(|c| c.to_string()).collect(),
                rows,
                values,
                scale: Axis::new("share"),
            }));
        }
        figures
    }
}
