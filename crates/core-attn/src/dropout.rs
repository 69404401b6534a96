//! Dropout whose mask is a function of a [`Key`] and the element's index.
//!
//! No mask is stored: the backward pass asks for the same factors again.

use crate::error::{Result, value};
use crate::random::Key;
use burn::prelude::*;

/// How much to drop, and which stream of random numbers decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    rate: f64,
    key: Key,
}

impl Dropout {
    /// Drops a share `rate` of the elements and scales the others by `1 / (1 − rate)`.
    ///
    /// # Errors
    /// `rate` outside `[0, 1)`.
    pub fn new(rate: f64, key: Key) -> Result<Self> {
        if (0.0..1.0).contains(&rate) {
            Ok(Self { rate, key })
        } else {
            Err(value("dropout", "rate", rate, "expected a share in [0, 1)"))
        }
    }

    /// Drops nothing: evaluation.
    pub const fn off() -> Self {
        Self {
            rate: 0.0,
            key: Key::from_bits(0),
        }
    }

    /// The same rate with the random stream of another place.
    pub fn site(self, name: &str) -> Self {
        Self {
            key: self.key.site(name),
            ..self
        }
    }

    /// The share of elements dropped.
    pub fn rate(self) -> f64 {
        self.rate
    }

    pub(crate) fn keep(self) -> Keep {
        Keep {
            key: self.key.to_bits(),
            threshold: (self.rate * f64::from(u32::MAX)) as u32,
            scale: (1.0 / (1.0 - self.rate)) as f32,
        }
    }
}

/// [`Dropout`] in the numbers a kernel needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Keep {
    key: u64,
    threshold: u32,
    scale: f32,
}

impl Keep {
    pub(crate) fn active(&self) -> bool {
        self.threshold > 0
    }

    /// What element `index` is multiplied by: 0 or `1 / (1 − rate)`.
    #[inline(always)]
    pub(crate) fn factor(&self, index: u64) -> f32 {
        let draw = (Key::from_bits(self.key).bits(index) >> 32) as u32;
        if draw < self.threshold {
            0.0
        } else {
            self.scale
        }
    }

    /// The factors of elements `0..n`.
    pub(crate) fn factors(&self, n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| self.factor(i)).collect()
    }
}

/// Applies dropout elementwise; element `i` in row-major order is decided by index `i` of the key.
pub fn dropout<const D: usize>(x: Tensor<D>, dropout: Dropout) -> Tensor<D> {
    let keep = dropout.keep();
    if !keep.active() {
        return x;
    }
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if crate::cpu::has_kernels(&x) {
        return crate::kernels::dropout(x, keep);
    }
    naive(x, keep)
}

/// The factors made on the host and multiplied: what [`dropout`] does on backends without a kernel of ours.
fn naive<const D: usize>(x: Tensor<D>, keep: Keep) -> Tensor<D> {
    let shape = x.shape();
    let factors = TensorData::new(keep.factors(shape.num_elements()), shape);
    let factors = Tensor::from_data(factors, (&x.device(), x.dtype()));
    x * factors
}

/// [`dropout`] by its composition of tensor operations.
#[doc(hidden)]
pub fn dropout_naive<const D: usize>(x: Tensor<D>, dropout: Dropout) -> Tensor<D> {
    naive(x, dropout.keep())
}
