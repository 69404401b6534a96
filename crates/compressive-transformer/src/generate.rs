//! Text, token by token, and how likely each token is. The chunk being written is read again for each token; memories move on once a
//! chunk is full.

use crate::memory::{CompressedMemoryState, MemorySizes};
use crate::memory_model::{MemoryModel, Mode};
use burn::prelude::*;
use language::{Reader, Scorer, tokens};
use trainer::Result;

/// A model that continues text.
pub type TextGenerator<M> = language::TextGenerator<MemoryReader<M>>;

/// Reads a text in chunks, on a device without autodiff.
pub struct MemoryReader<M> {
    model: M,
    /// What has been read of the present chunk.
    chunk: Vec<u32>,
    state: CompressedMemoryState,
    device: Device,
}

impl<M: MemoryModel> MemoryReader<M> {
    /// Begins a text.
    ///
    /// # Errors
    /// Memories the model cannot have.
    pub fn new(model: M, device: Device) -> Result<Self> {
        Ok(Self {
            state: model.start(1, model.sizes(), true)?,
            model,
            chunk: vec![],
            device,
        })
    }

    fn forward(&mut self, ids: &[u32], mode: Mode) -> Result<Tensor<3>> {
        let ids = tokens(ids, 1, &self.device);
        let state = self.state.clone();
        let output = self.model.read(ids, None, state, mode, &mut |_| {})?;
        self.state = output.state;
        Ok(output.hidden)
    }
}

impl<M: MemoryModel> Reader for MemoryReader<M> {
    fn restart(&mut self) -> Result<()> {
        self.chunk.clear();
        self.state = self.model.start(1, self.model.sizes(), true)?;
        Ok(())
    }

    fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let size = self.model.chunk_size();
        self.chunk.extend(ids);
        while self.chunk.len() > size {
            let rest = self.chunk.split_off(size);
            let full = std::mem::replace(&mut self.chunk, rest);
            self.forward(&full, Mode::evaluation())?;
        }
        let full = self.chunk.len() == size;
        let mode = match full {
            true => Mode::evaluation(),
            false => Mode::peek(),
        };
        let chunk = self.chunk.clone();
        let hidden = self.forward(&chunk, mode)?;
        if full {
            self.chunk.clear();
        }
        let end = hidden.narrow(1, chunk.len() - 1, 1);
        let scores = self.model.log_probabilities(end).into_data();
        Ok(scores.iter::<f32>().collect())
    }
}

/// Reads texts side by side, on a device without autodiff.
pub(crate) struct MemoryScorer<M> {
    model: M,
    sizes: MemorySizes,
    state: CompressedMemoryState,
    device: Device,
}

impl<M: MemoryModel> MemoryScorer<M> {
    pub(crate) fn new(model: M, sizes: MemorySizes, device: Device) -> Result<Self> {
        Ok(Self {
            state: model.start(1, sizes, true)?,
            model,
            sizes,
            device,
        })
    }
}

impl<M: MemoryModel> Scorer for MemoryScorer<M> {
    fn begin(&mut self, rows: usize) -> Result<()> {
        self.state = self.model.start(rows, self.sizes, true)?;
        Ok(())
    }

    fn read(&mut self, inputs: &[u32], targets: &[u32], rows: usize) -> Result<Tensor<2>> {
        let inputs = tokens(inputs, rows, &self.device);
        let state = self.state.clone();
        let mode = Mode::evaluation();
        let output = self.model.read(inputs, None, state, mode, &mut |_| {})?;
        self.state = output.state;
        let targets = tokens(targets, rows, &self.device);
        Ok(self.model.nll(output.hidden, targets)?)
    }

    fn longest(&self) -> usize {
        self.model.chunk_size()
    }

    fn remembers(&self) -> bool {
        true
    }

    /// A chunk and what one layer can remember before it.
    fn window(&self) -> usize {
        let compressors = self.model.compressors().first();
        let rate = compressors.map_or(0, |c| c.compression().rate);
        self.longest() + self.sizes.episodic + rate * self.sizes.compressed
    }
}
