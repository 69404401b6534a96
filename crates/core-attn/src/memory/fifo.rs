//! First in, first out.

use burn::prelude::*;

/// The newest rows of a stream, oldest first: `[batch, rows, width]`, never more than its size.
///
/// Rows pushed at the end drop the oldest ones. Where few rows are pushed at a time, the buffer has room behind its end, so a push
/// writes only the new rows and the rest is moved once in as many pushes as the memory has rows.
#[derive(Debug, Clone)]
pub struct MemoryFifo {
    /// Absent while there are no rows.
    buffer: Option<Tensor<3>>,
    start: usize,
    len: usize,
    size: usize,
}

impl MemoryFifo {
    /// A memory of at most `size` rows that holds none yet.
    pub fn empty(size: usize) -> Self {
        Self {
            buffer: None,
            start: 0,
            len: 0,
            size,
        }
    }

    /// A memory that starts as `size` zero rows.
    pub fn zeros(batch: usize, size: usize, width: usize, device: &Device) -> Self {
        match size {
            0 => Self::empty(0),
            _ => Self::from_rows(Tensor::zeros([batch, size, width], device), size),
        }
    }

    /// A memory of at most `size` rows that holds the newest of these.
    pub fn from_rows(rows: Tensor<3>, size: usize) -> Self {
        Self::empty(size).push(rows)
    }

    /// The rows, oldest first; `None` where there are none.
    pub fn rows(&self) -> Option<Tensor<3>> {
        let buffer = self.buffer.clone()?;
        let [_, capacity, _] = buffer.dims();
        Some(match self.len == capacity {
            true => buffer,
            false => buffer.narrow(1, self.start, self.len),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most rows it holds.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Appends the rows of a block `[batch, rows, width]`; the oldest rows beyond the size are gone.
    #[must_use]
    pub fn push(self, block: Tensor<3>) -> Self {
        let [batch, added, width] = block.dims();
        if self.size == 0 || added == 0 {
            return self;
        }
        if added >= self.size {
            let newest = block.narrow(1, added - self.size, self.size);
            return Self {
                buffer: Some(newest),
                start: 0,
                len: self.size,
                size: self.size,
            };
        }
        let kept = self.len.min(self.size - added);
        let start = self.start + self.len - kept;
        let Some(buffer) = self.buffer else {
            return Self {
                buffer: Some(block),
                start: 0,
                len: added,
                size: self.size,
            };
        };
        let [_, capacity, _] = buffer.dims();
        let end = start + kept;
        if end + added <= capacity {
            let place = s![.., end as i64..(end + added) as i64, ..];
            return Self {
                buffer: Some(buffer.slice_assign(place, block)),
                start,
                len: kept + added,
                size: self.size,
            };
        }
        let mut parts = vec![];
        if kept > 0 {
            parts.push(buffer.narrow(1, start, kept));
        }
        // A graph would be dragged along by an assignment in place, so only plain rows get room to grow.
        if added * 4 <= self.size && !block.is_tracked() && !parts.iter().any(|p| p.is_tracked()) {
            let options = (&block.device(), block.dtype());
            let room = Tensor::zeros([batch, self.size, width], options);
            parts.extend([block, room]);
        } else {
            parts.push(block);
        }
        Self {
            buffer: Some(Tensor::cat(parts, 1)),
            start: 0,
            len: kept + added,
            size: self.size,
        }
    }

    /// The oldest `n` of the memory's rows followed by a block's: what a push is about to drop, and what follows it.
    /// `None` where `n` is 0; fewer rows where there are fewer.
    pub fn oldest(&self, block: &Tensor<3>, n: usize) -> Option<Tensor<3>> {
        let [_, added, _] = block.dims();
        let own = n.min(self.len);
        let more = (n - own).min(added);
        let own = self.rows().filter(|_| own > 0).map(|r| r.narrow(1, 0, own));
        let more = (more > 0).then(|| block.clone().narrow(1, 0, more));
        match (own, more) {
            (Some(a), Some(b)) => Some(Tensor::cat(vec![a, b], 1)),
            (a, b) => a.or(b),
        }
    }

    /// The memory with its rows cut from the graph that made them.
    #[must_use]
    pub fn detach(self) -> Self {
        Self {
            buffer: self.buffer.map(Tensor::detach),
            ..self
        }
    }

    /// The memory with all rows of some sequences of the batch set to zero; the number of rows stays.
    #[must_use]
    pub fn clear_sequences(self, sequences: &[usize]) -> Self {
        let Some(buffer) = self.buffer.clone().filter(|_| !sequences.is_empty()) else {
            return self;
        };
        let [batch, _, _] = buffer.dims();
        let keep: Vec<f32> = (0..batch)
            .map(|b| f32::from(u8::from(!sequences.contains(&b))))
            .collect();
        let device = buffer.device().without_autodiff();
        let keep = Tensor::<3>::from_data(TensorData::new(keep, [batch, 1, 1]), &device);
        Self {
            buffer: Some(buffer * keep),
            ..self
        }
    }
}
