//! The soft window of the Adaptive Span Transformer (Sukhbaatar et al. 2019, section 2), usable in any model.

use crate::error::{Result, shape, value};
use burn::prelude::*;

/// A window whose length is learned: 1 up to a span `z`, then a linear ramp of `ramp` positions down to 0.
///
/// The span is given as a *fraction* of `max_span`, one per head. Distance counts from 1, and a position at distance
/// `x + 1` has weight `clamp((ramp + z·max_span − x) / ramp, 0, 1)`.
///
/// ```
/// use burn::prelude::*;
/// use core_attn::span::SoftSpanMask;
///
/// let window = SoftSpanMask::new(8, 2)?;
/// let fractions = Tensor::<1>::from_floats([0.25], &Device::flex());
/// // Columns run from the farthest position to the nearest.
/// let mask = window.mask(fractions, 8).into_data();
/// let mask: Vec<f32> = mask.iter().collect();
/// assert_eq!(mask, [0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]);
/// assert_eq!(window.size(0.25), 4);
/// # Ok::<(), core_attn::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftSpanMask {
    max_span: usize,
    ramp: usize,
}

impl SoftSpanMask {
    /// A window of at most `max_span` positions with a ramp of `ramp` positions.
    ///
    /// # Errors
    /// Either is 0.
    pub fn new(max_span: usize, ramp: usize) -> Result<Self> {
        for (name, n) in [("max_span", max_span), ("ramp", ramp)] {
            if n == 0 {
                return Err(value("SoftSpanMask::new", name, n, "expected at least 1"));
            }
        }
        Ok(Self { max_span, ramp })
    }

    /// The longest window.
    pub fn max_span(self) -> usize {
        self.max_span
    }

    /// The length of the ramp.
    pub fn ramp(self) -> usize {
        self.ramp
    }

    /// The weights of the last `window` columns for each head: `[heads]` fractions to `[heads, window]`.
    ///
    /// The gradient with respect to a fraction is `max_span / ramp` strictly inside the ramp and 0 elsewhere, the two ends
    /// of the ramp included.
    pub fn mask(self, fractions: Tensor<1>, window: usize) -> Tensor<2> {
        let device = fractions.device().without_autodiff();
        let (l, r) = (self.max_span as f64, self.ramp as f64);
        let first = self.max_span as i64 - window as i64;
        let template: Vec<f32> = (first..self.max_span as i64)
            .map(|column| (column + 1 - self.max_span as i64) as f32)
            .collect();
        let template = TensorData::new(template, [1, window]);
        let template = Tensor::<2>::from_data(template, (&device, fractions.dtype()));
        let raw = (fractions.mul_scalar(l).unsqueeze_dim::<2>(1) + template)
            .div_scalar(r)
            .add_scalar(1.0);
        // `clamp` would pass the gradient at its two bounds.
        let inside = raw
            .clone()
            .greater_elem(0.0)
            .bool_and(raw.clone().lower_elem(1.0));
        let flat = raw.clone().detach().clamp(0.0, 1.0);
        flat.mask_where(inside, raw)
    }

    /// Applies the mask to attention weights `[batch * heads, query, window]` (batch-major) and normalises again:
    /// `a·m / (Σ a·m + epsilon)`.
    ///
    /// # Errors
    /// Rows that are no multiple of the heads, or a window of no columns or of more than `max_span`.
    pub fn apply(
        self,
        weights: Tensor<3>,
        fractions: Tensor<1>,
        epsilon: f64,
    ) -> Result<Tensor<3>> {
        let [rows, query, window] = weights.dims();
        let [heads] = fractions.dims();
        if heads == 0 || rows % heads != 0 || !(1..=self.max_span).contains(&window) {
            let expected = format!(
                "[batch * {heads}, query, window] with a window in 1..={}",
                self.max_span
            );
            return Err(shape(
                "SoftSpanMask::apply",
                "weights",
                &weights.dims(),
                expected,
            ));
        }
        let mask = self.mask(fractions, window).reshape([1, heads, 1, window]);
        let masked = weights.reshape([rows / heads, heads, query, window]) * mask;
        let total = masked.clone().sum_dim(3).add_scalar(epsilon);
        Ok((masked / total).reshape([rows, query, window]))
    }

    /// Positions that a head with this fraction sees, ramp included.
    pub fn size(self, fraction: f32) -> usize {
        // Widened before the product: f32(0.31)·200 is a little more than 62, and the ceiling must see that.
        let span = (f64::from(fraction) * self.max_span as f64).ceil();
        (span + self.ramp as f64).clamp(0.0, self.max_span as f64) as usize
    }

    /// The size of the widest head.
    pub fn max_size(self, fractions: &[f32]) -> usize {
        self.size(fractions.iter().copied().fold(f32::NEG_INFINITY, f32::max))
    }

    /// The size that the mean fraction gives.
    pub fn average_size(self, fractions: &[f32]) -> usize {
        self.size(fractions.iter().sum::<f32>() / fractions.len().max(1) as f32)
    }

    /// Farthest columns that no head needs, rounded down to a multiple of `granularity`.
    pub fn trim_len(self, fractions: &[f32], granularity: usize) -> usize {
        let unused = self.max_span - self.max_size(fractions);
        unused.min(self.max_span - 1) / granularity * granularity
    }

    /// Columns that any head needs: `max_span − trim_len`.
    pub fn window(self, fractions: &[f32], granularity: usize) -> usize {
        self.max_span - self.trim_len(fractions, granularity)
    }

    /// Rows worth carrying to the next block: the window and room for it to grow by `granularity`.
    pub fn cache_size(self, fractions: &[f32], granularity: usize) -> usize {
        (self.window(fractions, granularity) + granularity).min(self.max_span)
    }
}
