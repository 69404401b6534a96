//! Masks whose polarity cannot be confused.
//!
//! Libraries disagree whether `true` means *may be seen* or *is hidden*. A [`Mask`] is made by a constructor that says
//! which, and read by a method that says which.

use crate::error::{Result, shape, value};
use burn::prelude::*;

/// Which keys each query may see: `[batch or 1, heads or 1, query, key]`.
#[derive(Debug, Clone)]
pub struct Mask {
    hidden: Tensor<4, Bool>,
    /// `[batch or 1, key]`: keys that no query sees, whose contents may be anything, NaN included.
    padding: Option<Tensor<2, Bool>>,
}

impl Mask {
    /// From a tensor that is true where a query **may see** a key.
    pub fn from_visible(visible: Tensor<4, Bool>) -> Self {
        Self::from_hidden(visible.bool_not())
    }

    /// From a tensor that is true where a key **is hidden** from a query.
    pub fn from_hidden(hidden: Tensor<4, Bool>) -> Self {
        Self {
            hidden,
            padding: None,
        }
    }

    /// Every query sees the keys up to its own position; with more keys than queries the last query sees all of them.
    pub fn causal(query: usize, key: usize, device: &Device) -> Self {
        let offset = key as i64 - query as i64;
        let hidden = Tensor::<2, Bool>::tril_mask([query, key], offset, device);
        Self::from_hidden(hidden.unsqueeze())
    }

    /// Hides the rows behind each sequence's end: sequence `b` of the batch has `lengths[b]` rows, padded to `key`. The
    /// padding's contents reach nothing, not even as NaN.
    ///
    /// # Errors
    /// A length above `key`, or no lengths.
    pub fn lengths(lengths: &[usize], query: usize, key: usize, device: &Device) -> Result<Self> {
        if lengths.is_empty() {
            return Err(shape(
                "Mask::lengths",
                "lengths",
                &[0],
                "one length per sequence",
            ));
        }
        if let Some(bad) = lengths.iter().find(|l| **l > key) {
            let expected = format!("expected 0..={key}, the padded length");
            return Err(value("Mask::lengths", "lengths", bad, expected));
        }
        let hidden: Vec<bool> = lengths
            .iter()
            .flat_map(|&l| (0..key).map(move |j| j >= l))
            .collect();
        let batch = lengths.len();
        let padding = Tensor::<2, Bool>::from_data(TensorData::new(hidden, [batch, key]), device);
        Ok(Self {
            hidden: padding
                .clone()
                .reshape([batch, 1, 1, key])
                .expand([batch, 1, query, key]),
            padding: Some(padding),
        })
    }

    /// Hides what either mask hides.
    pub fn and(self, other: Self) -> Self {
        let padding = match (self.padding, other.padding) {
            (Some(a), Some(b)) => Some(a.bool_or(b)),
            (a, b) => a.or(b),
        };
        let [a, b] = [self.hidden.dims(), other.hidden.dims()];
        let to = [0, 1, 2, 3].map(|i| a[i].max(b[i]));
        Self {
            hidden: self.hidden.expand(to).bool_or(other.hidden.expand(to)),
            padding,
        }
    }

    /// True where a key is hidden: `[batch or 1, heads or 1, query, key]`.
    pub fn hidden(&self) -> Tensor<4, Bool> {
        self.hidden.clone()
    }

    /// True where a key may be seen.
    pub fn visible(&self) -> Tensor<4, Bool> {
        self.hidden.clone().bool_not()
    }

    /// Sets the rows of keys or values `[batch, key, width]` that are padding to zero.
    pub(crate) fn clear_padding(&self, rows: Tensor<3>) -> Tensor<3> {
        let Some(padding) = self.padding.clone() else {
            return rows;
        };
        let [batch, key, width] = rows.dims();
        let padding = padding.unsqueeze_dim::<3>(2).expand([batch, key, width]);
        rows.mask_fill(padding, 0.0)
    }
}
