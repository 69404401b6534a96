//! Text, token by token: blocks of one with projected caches, so a token costs the sum of the spans.

use crate::cache::HiddenCache;
use crate::model::{Mode, TransformerSeq};
use burn::prelude::*;
use language::{Reader, Scorer, tokens};
use trainer::Result;

/// A model that continues text.
pub type TextGenerator = language::TextGenerator<SpanReader>;

/// Reads a text with projected caches, on a device without autodiff.
pub struct SpanReader {
    cache: HiddenCache,
    model: TransformerSeq,
    device: Device,
}

impl SpanReader {
    /// Begins a text.
    pub fn new(model: TransformerSeq, device: Device) -> Self {
        Self {
            cache: model.empty_projected_cache(1),
            model,
            device,
        }
    }
}

impl Reader for SpanReader {
    fn restart(&mut self) -> Result<()> {
        self.cache = self.model.empty_projected_cache(1);
        Ok(())
    }

    fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let block = tokens(ids, 1, &self.device);
        let cache = self.cache.clone();
        let output = self.model.forward(block, cache, Mode::evaluation())?;
        self.cache = output.cache;
        let [_, length, _] = output.hidden.dims();
        let last = output.hidden.narrow(1, length - 1, 1);
        let scores = self.model.log_probabilities(last).into_data();
        Ok(scores.iter::<f32>().collect())
    }
}

/// Reads texts side by side with projected caches, on a device without autodiff.
pub(crate) struct SpanScorer {
    cache: HiddenCache,
    model: TransformerSeq,
    block: usize,
    device: Device,
}

impl SpanScorer {
    /// Reads at most `block` tokens at a time.
    pub(crate) fn new(model: TransformerSeq, block: usize, device: Device) -> Self {
        Self {
            cache: model.empty_projected_cache(1),
            model,
            block,
            device,
        }
    }
}

impl Scorer for SpanScorer {
    fn begin(&mut self, rows: usize) -> Result<()> {
        self.cache = self.model.empty_projected_cache(rows);
        Ok(())
    }

    fn read(&mut self, inputs: &[u32], targets: &[u32], rows: usize) -> Result<Tensor<2>> {
        let inputs = tokens(inputs, rows, &self.device);
        let cache = self.cache.clone();
        let output = self.model.forward(inputs, cache, Mode::evaluation())?;
        self.cache = output.cache;
        let targets = tokens(targets, rows, &self.device);
        Ok(self.model.nll(output.hidden, targets)?)
    }

    fn longest(&self) -> usize {
        self.block
    }

    fn remembers(&self) -> bool {
        true
    }

    /// A block and the longest past that a layer keeps before it.
    fn window(&self) -> usize {
        let longest = self.cache.lengths().into_iter().max();
        self.block + longest.unwrap_or(0)
    }
}
