//! Rotary position embeddings: pairs of channels turned by an angle proportional to the position (Su et al. 2021).

use crate::error::{Result, shape};
use burn::prelude::*;

/// Which channels make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Channels `2i` and `2i + 1`.
    Interleaved,
    /// Channels `i` and `i + head_dim / 2`.
    HalfSplit,
}

impl Pairs {
    /// The two channels of pair `i` among `width`.
    fn channels(self, i: usize, width: usize) -> (usize, usize) {
        match self {
            Self::Interleaved => (2 * i, 2 * i + 1),
            Self::HalfSplit => (i, i + width / 2),
        }
    }
}

/// The angle of pair `i` at a position, in radians: `position · 10000^(−2i / width)`.
pub fn angle(position: usize, i: usize, width: usize) -> f64 {
    position as f64 * 10_000f64.powf(-2.0 * i as f64 / width as f64)
}

fn check<const D: usize>(x: &Tensor<D>, positions: &[usize], length: usize) -> Result<()> {
    let dims = x.dims();
    if !dims[D - 1].is_multiple_of(2) {
        return Err(shape("rotate", "x", &dims, "an even width of the heads"));
    }
    if positions.len() != length {
        let expected = format!("[{length}], a position for each row");
        return Err(shape("rotate", "positions", &[positions.len()], expected));
    }
    Ok(())
}

/// Turns every row of `[batch, heads, length, head_dim]` by the angles of its position.
///
/// # Errors
/// An odd `head_dim`, or another number of positions than rows.
pub fn rotate(x: Tensor<4>, positions: &[usize], pairs: Pairs) -> Result<Tensor<4>> {
    let [batch, heads, length, width] = x.dims();
    check(&x, positions, length)?;
    let half = width / 2;
    let device = x.device();
    let table = |f: fn(f64) -> f64| {
        let values: Vec<f32> = positions
            .iter()
            .flat_map(|p| (0..half).map(move |i| f(angle(*p, i, width)) as f32))
            .collect();
        Tensor::<2>::from_data(TensorData::new(values, [length, half]), &device)
    };
    let (cos, sin) = (table(f64::cos), table(f64::sin));
    let groups = batch * heads;
    Ok(match pairs {
        Pairs::Interleaved => {
            let x = x.reshape([groups, length, half, 2]);
            let side = |t: Tensor<2>| t.reshape([1, length, half, 1]);
            let (cos, sin) = (side(cos), side(sin));
            let (a, b) = (x.clone().narrow(3, 0, 1), x.narrow(3, 1, 1));
            let first = a.clone() * cos.clone() - b.clone() * sin.clone();
            Tensor::cat(vec![first, b * cos + a * sin], 3)
        }
        Pairs::HalfSplit => {
            let x = x.reshape([groups, length, width]);
            let side = |t: Tensor<2>| t.reshape([1, length, half]);
            let (cos, sin) = (side(cos), side(sin));
            let (a, b) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
            let first = a.clone() * cos.clone() - b.clone() * sin.clone();
            Tensor::cat(vec![first, b * cos + a * sin], 2).unsqueeze()
        }
    }
    .reshape([batch, heads, length, width]))
}

/// [`rotate`] by a rotation matrix for each position.
///
/// # Errors
/// As [`rotate`].
pub fn rotate_naive(x: Tensor<4>, positions: &[usize], pairs: Pairs) -> Result<Tensor<4>> {
    let [batch, heads, length, width] = x.dims();
    check(&x, positions, length)?;
    let device = x.device();
    let rows = positions.iter().enumerate().map(|(t, position)| {
        let mut matrix = vec![0.0f32; width * width];
        for i in 0..width / 2 {
            let (a, b) = pairs.channels(i, width);
            let (sin, cos) = angle(*position, i, width).sin_cos();
            matrix[a * width + a] = cos as f32;
            matrix[b * width + b] = cos as f32;
            matrix[b * width + a] = -sin as f32;
            matrix[a * width + b] = sin as f32;
        }
        let matrix = Tensor::<2>::from_data(TensorData::new(matrix, [width, width]), &device);
        x.clone()
            .narrow(2, t, 1)
            .reshape([batch * heads, width])
            .matmul(matrix)
            .reshape([batch, heads, 1, width])
    });
    Ok(Tensor::cat(rows.collect(), 2))
}
