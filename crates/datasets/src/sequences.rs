//! Labelled sequences of ids: what classifiers of long inputs are trained on.

/// A sequence and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids; 0 is padding.
    pub ids: Vec<u16>,
    /// Its class.
    pub label: u16,
}

/// Three splits of labelled sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// What it is, for reports.
    pub name: String,
    /// To learn from.
    pub train: Vec<Example>,
    /// To choose by.
    pub valid: Vec<Example>,
    /// To report.
    pub test: Vec<Example>,
    /// Number of ids, padding included.
    pub vocab_size: usize,
    /// Number of classes.
    pub classes: usize,
}

impl Sequences {
    /// Share of `examples` that have the most frequent class of the training split: what a classifier that looks at nothing
    /// gets right.
    pub fn majority_share(&self, examples: &[Example]) -> f64 {
        let mut counts = vec![0usize; self.classes];
        for example in &self.train {
            if let Some(count) = counts.get_mut(usize::from(example.label)) {
                *count += 1;
            }
        }
        // The first of equals.
        let most = counts.iter().max().copied().unwrap_or(0);
        let class = counts.iter().position(|c| *c == most).unwrap_or(0);
        let hits = examples.iter().filter(|e| usize::from(e.label) == class);
        hits.count() as f64 / examples.len().max(1) as f64
    }

    /// Length of the longest sequence.
    pub fn longest(&self) -> usize {
        let all = self.train.iter().chain(&self.valid).chain(&self.test);
        all.map(|e| e.ids.len()).max().unwrap_or(0)
    }
}
