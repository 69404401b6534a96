//! What a query knows about where a key lies.

use crate::error::{Result, value};
use crate::mask::Mask;
use burn::prelude::*;

/// Sinusoids of the distances `length − 1, …, 0`: `[length, width]`, the sines in the first half of each row, the cosines in the
/// second (Dai et al. 2019). Distances above `clamp` count as `clamp`.
///
/// # Errors
/// A width that is odd or 0.
pub fn sinusoid_table(
    length: usize,
    width: usize,
    clamp: Option<usize>,
    device: &Device,
) -> Result<Tensor<2>> {
    if width == 0 || !width.is_multiple_of(2) {
        let expected = "expected an even number, one half for sines and one for cosines";
        return Err(value("sinusoid_table", "width", width, expected));
    }
    let frequencies: Vec<f64> = (0..width / 2)
        .map(|k| 10_000f64.powf(-((2 * k) as f64) / width as f64))
        .collect();
    let mut table = Vec::with_capacity(length * width);
    for distance in (0..length).rev() {
        let distance = clamp.map_or(distance, |c| distance.min(c)) as f64;
        table.extend(frequencies.iter().map(|f| (distance * f).sin() as f32));
        table.extend(frequencies.iter().map(|f| (distance * f).cos() as f32));
    }
    let device = device.clone().without_autodiff();
    Ok(Tensor::from_data(
        TensorData::new(table, [length, width]),
        &device,
    ))
}

/// A [`sinusoid_table`] that is made once: the table of a shorter reach is the end of that of a longer one.
#[derive(Debug, Clone)]
pub struct SinusoidTable {
    rows: Tensor<2>,
}

impl SinusoidTable {
    /// The table of distances up to `length − 1`.
    ///
    /// # Errors
    /// As [`sinusoid_table`].
    pub fn new(length: usize, width: usize, clamp: Option<usize>, device: &Device) -> Result<Self> {
        Ok(Self {
            rows: sinusoid_table(length.max(1), width, clamp, device)?,
        })
    }

    /// Number of distances.
    pub fn len(&self) -> usize {
        self.rows.dims()[0]
    }

    /// Never: there is always distance 0.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The rows of distances `length − 1, …, 0`: `[length, width]`.
    ///
    /// # Errors
    /// A length beyond that of the table.
    pub fn rows(&self, length: usize) -> Result<Tensor<2>> {
        let all = self.len();
        if length > all {
            let expected = format!("expected at most {all}, for which the table was made");
            return Err(value("SinusoidTable::rows", "length", length, expected));
        }
        Ok(self.rows.clone().narrow(0, all - length, length))
    }
}

/// Queries are the last of the keys: all memories are visible, and the chunk up to the query itself.
///
/// With `same_length` the first `query` keys are hidden one more per query, so that every query sees equally many.
pub fn causal_memory_mask(query: usize, key: usize, same_length: bool, device: &Device) -> Mask {
    let device = device.clone().without_autodiff();
    let causal = Mask::causal(query, key, &device);
    if !same_length {
        return causal;
    }
    let hidden: Vec<bool> = (0..query)
        .flat_map(|i| (0..key).map(move |j| j < query && j < i))
        .collect();
    let hidden = TensorData::new(hidden, [1, 1, query, key]);
    causal.and(Mask::from_hidden(Tensor::from_data(hidden, &device)))
}
