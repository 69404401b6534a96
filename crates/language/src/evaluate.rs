//! Reading a split once, from blank memories.

use crate::stream::{Chunk, documents};
use burn::prelude::*;
use trainer::{Error, Result};

/// Device scalars read together.
const AT_ONCE: usize = 32;

/// Nats and tokens, added up on the host in f64; the device is read a few times only.
#[derive(Default)]
pub struct Loss {
    waiting: Vec<Tensor<1>>,
    nats: f64,
    tokens: usize,
}

impl Loss {
    /// Losses of single tokens `[batch, chunk]`.
    pub fn add(&mut self, nll: Tensor<2>) {
        self.tokens += nll.shape().num_elements();
        self.waiting.push(nll.sum());
        if self.waiting.len() == AT_ONCE {
            self.read();
        }
    }

    fn read(&mut self) {
        if !self.waiting.is_empty() {
            let values = Tensor::cat(std::mem::take(&mut self.waiting), 0).into_data();
            self.nats += values.iter::<f64>().sum::<f64>();
        }
    }

    /// Nats per token.
    pub fn mean(mut self) -> f64 {
        self.read();
        self.nats / self.tokens.max(1) as f64
    }
}

/// A mean over many device scalars that reads them a few at a time.
#[derive(Default)]
pub struct Mean {
    waiting: Vec<Tensor<1>>,
    sum: f64,
    count: usize,
}

impl Mean {
    /// One more value, `[1]`.
    pub fn add(&mut self, value: Tensor<1>) {
        self.waiting.push(value);
        if self.waiting.len() == AT_ONCE {
            self.read();
        }
    }

    fn read(&mut self) {
        if !self.waiting.is_empty() {
            let values = Tensor::cat(std::mem::take(&mut self.waiting), 0).into_data();
            for value in values.iter::<f64>() {
                self.sum += value;
                self.count += 1;
            }
        }
    }

    /// The mean; 0 of nothing.
    pub fn value(mut self) -> f64 {
        self.read();
        self.sum / self.count.max(1) as f64
    }
}

/// Chunks of one text cut into rows; the last one is shorter where the rows do not divide.
///
/// # Errors
/// More rows than the split has tokens to predict.
pub fn row_pass(split: &datasets::Split, rows: usize, chunk: usize) -> Result<Vec<Chunk>> {
    let text = &split.tokens;
    let width = text.len().saturating_sub(1) / rows.max(1);
    if width == 0 {
        let expected = format!(
            "at most {}: each row of the split of {} tokens needs one token and its successor",
            text.len().saturating_sub(1),
            text.len()
        );
        return Err(Error::value("evaluation.batch_size", rows, expected));
    }
    Ok(cut(
        text,
        (0..rows).map(|r| r * width).collect(),
        width,
        chunk,
    ))
}

/// Chunks of each document, by itself.
pub fn document_pass(split: &datasets::Split, chunk: usize) -> Vec<Vec<Chunk>> {
    let all = documents(&split.documents, split.tokens.len());
    all.into_iter()
        .map(|(start, length)| cut(&split.tokens, vec![start], length - 1, chunk))
        .collect()
}

fn cut(text: &[u32], starts: Vec<usize>, width: usize, chunk: usize) -> Vec<Chunk> {
    let mut chunks = vec![];
    for at in (0..width).step_by(chunk) {
        let n = chunk.min(width - at);
        let rows = |shift: usize| -> Vec<u32> {
            let rows = starts.iter().map(|start| &text[start + at + shift..][..n]);
            rows.flatten().copied().collect()
        };
        chunks.push(Chunk {
            inputs: rows(0),
            targets: rows(1),
            batch: starts.len(),
            real: None,
            fresh: vec![],
        });
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_predicted_once() {
        let split = datasets::Split {
            tokens: (0..23u32).collect(),
            documents: [0, 9].into(),
            bytes: 23,
        };
        let chunks = row_pass(&split, 2, 4).unwrap();
        let of = |f: fn(&Chunk) -> &Vec<u32>| -> Vec<u32> {
            let mut all: Vec<u32> = chunks.iter().flat_map(|c| f(c).clone()).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(of(|c| &c.targets), (1..23).collect::<Vec<u32>>());
        assert_eq!(of(|c| &c.inputs), (0..22).collect::<Vec<u32>>());
        assert_eq!(chunks.last().map(|c| c.inputs.len()), Some(2 * 3));
        let texts = document_pass(&split, 4);
        let predicted: Vec<u32> = texts
            .iter()
            .flatten()
            .flat_map(|c| c.targets.clone())
            .collect();
        let expected: Vec<u32> = (1..9).chain(10..23).collect();
        assert_eq!(predicted, expected);
        assert!(row_pass(&split, 23, 4).is_err());
    }
}
