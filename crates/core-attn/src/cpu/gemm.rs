//! Matrix products over raw strides: the one place that talks to the `gemm` crate.

/// A matrix inside a buffer: element `(i, j)` lies at `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row: usize,
    col: usize,
}

impl<'a> Mat<'a> {
    /// `rows × cols` values, `row` apart from line to line.
    #[inline]
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, row: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row + cols <= data.len());
        Self {
            data,
            rows,
            cols,
            row,
            col: 1,
        }
    }

    /// The transpose; nothing moves.
    #[inline]
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row: self.col,
            col: self.row,
            ..self
        }
    }
}

/// `dst ← beta·dst + alpha·lhs·rhs`, where `dst` is `lhs.rows × rhs.cols` with lines `dst_row` apart and `beta` is 0 or 1.
/// With `beta` 0 the old contents of `dst` are not read.
///
/// # Safety
/// `dst` must be valid for writes (and reads, with `accumulate`) at every `i * dst_row + j` of the product, and nobody else
/// may touch these places meanwhile.
#[inline]
pub(crate) unsafe fn product_raw(
    dst: *mut f32,
    dst_row: usize,
    alpha: f32,
    lhs: Mat<'_>,
    rhs: Mat<'_>,
    accumulate: bool,
) {
    assert_eq!(lhs.cols, rhs.rows);
    // SAFETY: `Mat::new` checked that both operands lie inside their slices; the destination is the caller's promise.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.cols,
            lhs.cols,
            dst,
            1,
            dst_row as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.col as isize,
            lhs.row as isize,
            rhs.data.as_ptr(),
            rhs.col as isize,
            rhs.row as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// [`product_raw`] into a slice.
#[inline]
pub(crate) fn product(
    dst: &mut [f32],
    dst_row: usize,
    alpha: f32,
    lhs: Mat<'_>,
    rhs: Mat<'_>,
    accumulate: bool,
) {
    if lhs.rows == 0 || rhs.cols == 0 {
        return;
    }
    assert!((lhs.rows - 1) * dst_row + rhs.cols <= dst.len());
    // SAFETY: the assertion above keeps every write inside `dst`, which is borrowed mutably.
    unsafe { product_raw(dst.as_mut_ptr(), dst_row, alpha, lhs, rhs, accumulate) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_beta_and_strides() {
        let a: Vec<f32> = (0..12).map(|x| x as f32).collect(); // 3 lines of 4, 2 columns used
        let b: Vec<f32> = (0..6).map(|x| 1.0 - x as f32).collect(); // 2 × 3
        let mut c = vec![f32::NAN; 9];
        product(
            &mut c,
            3,
            2.0,
            Mat::new(&a, 3, 2, 4),
            Mat::new(&b, 2, 3, 3),
            false,
        );
        for i in 0..3 {
            for j in 0..3 {
                let want = 2.0 * (a[i * 4] * b[j] + a[i * 4 + 1] * b[3 + j]);
                assert_eq!(c[i * 3 + j], want);
            }
        }
        let old = c.clone();
        product(
            &mut c,
            3,
            1.0,
            Mat::new(&b, 2, 3, 3).t(),
            Mat::new(&b, 2, 3, 3),
            true,
        );
        for i in 0..3 {
            for j in 0..3 {
                let want = old[i * 3 + j] + b[i] * b[j] + b[3 + i] * b[3 + j];
                assert_eq!(c[i * 3 + j], want);
            }
        }
    }
}
