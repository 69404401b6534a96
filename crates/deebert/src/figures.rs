//! What the report shows of a run.

use crate::evaluate::{Judged, Row};
use crate::experiment::DeeBertExperiment;
use trainer::{Axis, Bars, Figure, Heatmap, Lines, Series, Table};

impl Judged {
    /// The curve with its baselines, where samples leave, the table of thresholds, time over depth, and every exit by itself.
    pub(crate) fn figures(&self, of: &DeeBertExperiment) -> Vec<Figure> {
        let metric = of.texts.metric();
        let mut all = vec![self.by_layer(metric)];
        if self.rows.is_empty() {
            return all;
        }
        all.insert(0, self.curve(metric));
        all.push(self.histogram());
        all.push(self.table(metric, of));
        if let Some(plain) = self.plain_ms {
            all.push(self.times(plain));
        }
        all
    }

    fn curve(&self, metric: &str) -> Figure {
        let by = |of: &dyn Fn(&Row) -> f64| {
            let mut points: Vec<(f64, f64)> = self
                .curve
                .iter()
                .map(|r| (r.point.mean_layer, of(r)))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let fixed = self.exits.iter().enumerate();
        let series = |name: &str, points| Series {
            name: name.into(),
            points,
        };
        Figure::Lines(Lines {
            title: format!("Test {metric} over the mean exit layer"),
            x: Axis::with_unit("mean exit layer", "layers"),
            y: Axis::new(metric),
            series: vec![
                series("entropy rule", by(&|r| r.point.metric)),
                series(
                    "fixed depth",
                    fixed.map(|(i, m)| ((i + 1) as f64, *m)).collect(),
                ),
                series("random exits, same histogram", by(&|r| r.random)),
            ],
        })
    }

    fn by_layer(&self, metric: &str) -> Figure {
        let exits = self.exits.iter().enumerate();
        Figure::Bars(Bars {
            title: format!("Test {metric} of every exit, all samples leaving there"),
            x: Axis::new("layer"),
            y: Axis::new(metric),
            bars: exits.map(|(i, m)| ((i + 1).to_string(), *m)).collect(),
        })
    }

    fn histogram(&self) -> Figure {
        let share = |row: &Row| {
            let total = row.point.exit_layers.len().max(1) as f64;
            row.point
                .histogram
                .iter()
                .map(|n| *n as f64 / total)
                .collect()
        };
        Figure::Heatmap(Heatmap {
            title: "Where test samples leave".into(),
            x: Axis::new("exit layer"),
            y: Axis::with_unit("threshold", "nats"),
            columns: (1..=self.exits.len()).map(|l| l.to_string()).collect(),
            rows: self.rows.iter().map(|r| short(r.threshold)).collect(),
            values: self.rows.iter().map(share).collect(),
            scale: Axis::new("share of the samples"),
        })
    }

    fn table(&self, metric: &str, of: &DeeBertExperiment) -> Figure {
        let timed = self.plain_ms.is_some();
        let mut columns = [
            "threshold, nats",
            "mean exit layer",
            "runtime ratio",
            "saving",
            metric,
            "fixed depth",
            "random exits",
            "standard error",
        ]
        .map(str::to_owned)
        .to_vec();
        if timed {
            columns.push("ms per sample".to_owned());
        }
        let row = |r: &Row| {
            let mark = if Some(r.threshold) == self.chosen {
                " (chosen)"
            } else {
                ""
            };
            let mut cells = vec![format!("{}{mark}", short(r.threshold))];
            let p = &r.point;
            cells.push(format!("{:.2}", p.mean_layer));
            let numbers = [p.runtime_ratio, p.saving, p.metric, r.fixed, r.random];
            cells.extend(numbers.map(|x| format!("{x:.3}")));
            cells.push(format!("{:.3}", of.error_of(r.fixed)));
            if timed {
                cells.push(r.timed.map_or("–".into(), |(_, ms)| format!("{ms:.2}")));
            }
            cells
        };
        let plain = self.plain_ms.map_or(String::new(), |ms| {
            format!("; without off-ramps {ms:.2} ms per sample, one at a time")
        });
        Figure::Table(Table {
            title: format!("Thresholds on the test split{plain}"),
            columns,
            rows: self.rows.iter().map(row).collect(),
        })
    }

    fn times(&self, plain: f64) -> Figure {
        let mut points: Vec<(f64, f64)> = self.rows.iter().filter_map(|r| r.timed).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let layers = self.exits.len() as f64;
        Figure::Lines(Lines {
            title: "Time of a sample over the mean exit layer, one at a time".into(),
            x: Axis::with_unit("mean exit layer", "layers"),
            y: Axis::with_unit("time", "ms"),
            series: vec![
                Series {
                    name: "with exits".into(),
                    points,
                },
                Series {
                    name: "in proportion to the layers".into(),
                    points: vec![(1.0, plain / layers), (layers, plain)],
                },
            ],
        })
    }
}

/// A threshold in few digits.
fn short(threshold: f32) -> String {
    let text = format!("{threshold:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() {
        "0".into()
    } else {
        text.into()
    }
}
