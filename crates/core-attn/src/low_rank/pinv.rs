//! The Moore–Penrose inverse by matrix products alone (section 3.2 of the paper, after Razavi et al. 2014).

use crate::error::{Result, shape};
use burn::prelude::*;

/// What the transposed matrix is divided by to begin with. Rows of the matrix sum to 1, as those of a softmax do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PinvInit {
    /// The largest column sum of all matrices together, so that a sample's result depends on its batch.
    #[default]
    Original,
    /// The largest column sum of each matrix: independent of the batch, and never slower to converge.
    Exact,
    /// The largest column sum times the largest row sum of all matrices together.
    RowColumn,
}

/// An approximate inverse of each `[batch, heads, m, m]` matrix of non-negative numbers by `iterations` of
/// `Z ← ¼·Z·(13·I − T·(15·I − T·(7·I − T)))`, `T = A·Z`, beginning at the scaled transpose.
///
/// Written without the identity: `P = 7T − T·T`, `Q = 15T − T·P`, `Z ← ¼·(13Z − Z·Q)`. Gradients flow through everything,
/// the scale included. Where a matrix is close to singular, more iterations are needed to converge; the result is finite all
/// the same.
///
/// # Errors
/// Matrices that are not square.
pub fn iterative_pinv(a: Tensor<4>, iterations: usize, init: PinvInit) -> Result<Tensor<4>> {
    let mut z = start(&a, init)?;
    for _ in 0..iterations {
        let t = a.clone().matmul(z.clone());
        let p = t.clone().mul_scalar(7.0) - t.clone().matmul(t.clone());
        let q = t.clone().mul_scalar(15.0) - t.matmul(p);
        z = z.clone().mul_scalar(3.25) - z.matmul(q.mul_scalar(0.25));
    }
    Ok(z)
}

/// The transpose, scaled.
pub(super) fn start(a: &Tensor<4>, init: PinvInit) -> Result<Tensor<4>> {
    let [batch, heads, rows, columns] = a.dims();
    if rows != columns || batch * heads * rows == 0 {
        let expected = "[batch, heads, m, m]";
        return Err(shape("iterative_pinv", "a", &a.dims(), expected));
    }
    let transposed = a.clone().swap_dims(2, 3);
    // The largest of all, `[1, 1, 1, 1]`. `max_dim` sends the gradient to one arg-max.
    let largest = |sums: Tensor<4>| -> Tensor<4> {
        let n = batch * heads * rows;
        sums.reshape([1, n]).max_dim(1).reshape([1, 1, 1, 1])
    };
    let columns = a.clone().sum_dim(2);
    Ok(match init {
        PinvInit::Original => transposed / largest(columns),
        PinvInit::Exact => transposed / columns.max_dim(3),
        PinvInit::RowColumn => transposed / (largest(columns) * largest(a.clone().sum_dim(3))),
    })
}
