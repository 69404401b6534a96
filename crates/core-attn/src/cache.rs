//! The rows of earlier blocks that a stream carries along.

use burn::prelude::*;

/// The newest rows of a stream, oldest first: `[batch, length, width]`. Its length may differ from layer to layer and
/// change over time. Rows in it never carry gradients.
#[derive(Debug, Clone)]
pub struct StreamCache {
    rows: Tensor<3>,
}

impl StreamCache {
    /// A cache of `length` zero rows.
    pub fn zeros(batch: usize, length: usize, width: usize, device: &Device) -> Self {
        Self {
            rows: Tensor::zeros([batch, length, width], device),
        }
    }

    /// A cache of these rows `[batch, length, width]`.
    pub fn from_rows(rows: Tensor<3>) -> Self {
        Self {
            rows: rows.detach(),
        }
    }

    /// The rows, oldest first.
    pub fn rows(&self) -> Tensor<3> {
        self.rows.clone()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.dims()[1]
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a block `[batch, block, width]` and keeps the newest `size` rows (fewer where there are not as many).
    pub fn push(self, block: Tensor<3>, size: usize) -> Self {
        let block = block.detach();
        let [_, added, _] = block.dims();
        let rows = if size > added {
            let old = (size - added).min(self.len());
            let start = self.len() - old;
            Tensor::cat(vec![self.rows.narrow(1, start, old), block], 1)
        } else {
            block.narrow(1, added - size, size)
        };
        Self { rows }
    }

    /// Exactly the newest `n` rows, with zero rows in front where there are fewer.
    pub fn last(&self, n: usize) -> Tensor<3> {
        let [batch, length, width] = self.rows.dims();
        if n <= length {
            return self.rows.clone().narrow(1, length - n, n);
        }
        let options = (&self.rows.device(), self.rows.dtype());
        let blank = Tensor::zeros([batch, n - length, width], options);
        Tensor::cat(vec![blank, self.rows.clone()], 1)
    }

    /// The cache of rows `start .. start + count` of the batch.
    pub fn batch(&self, start: usize, count: usize) -> Self {
        Self {
            rows: self.rows.clone().narrow(0, start, count),
        }
    }

    /// The caches of parts of a batch as one; all must have the same length and width.
    pub fn join(parts: Vec<Self>) -> Self {
        Self {
            rows: Tensor::cat(parts.into_iter().map(|p| p.rows).collect(), 0),
        }
    }
}
