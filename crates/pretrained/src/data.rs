//! Bytes of a file into [`TensorData`] of any element type, and into `f32`.

use burn::tensor::{BoolStore, DType, TensorData, bf16, f16};
use half::slice::HalfFloatSliceExt;

// Both formats store little-endian elements and the code below copies them as they are.
#[cfg(target_endian = "big")]
compile_error!("reading and writing weights needs a little-endian host");

/// The elements of `bytes`, `N` bytes each.
pub(crate) fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Little-endian `bytes` as a tensor; `None` if their number does not fit `shape` and `dtype`.
pub(crate) fn tensor_data(dtype: DType, shape: &[usize], bytes: &[u8]) -> Option<TensorData> {
    let count = shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))?;
    if count.checked_mul(dtype.size()) != Some(bytes.len()) {
        return None;
    }
    // Vectors of the element's own type, so that later views of the data find it aligned.
    macro_rules! typed {
        ($type:ty) => {
            TensorData::new(
                elements(bytes)
                    .map(<$type>::from_le_bytes)
                    .collect::<Vec<_>>(),
                shape,
            )
        };
    }
    Some(match dtype {
        DType::F64 => typed!(f64),
        DType::F32 => typed!(f32),
        DType::F16 => typed!(f16),
        DType::BF16 => typed!(bf16),
        DType::I64 => typed!(i64),
        DType::I32 => typed!(i32),
        DType::I16 => typed!(i16),
        DType::I8 => typed!(i8),
        DType::U64 => typed!(u64),
        DType::U32 => typed!(u32),
        DType::U16 => typed!(u16),
        DType::U8 => TensorData::new(bytes.to_vec(), shape),
        DType::Bool(BoolStore::Native) => TensorData::new(
            bytes.iter().map(|&byte| byte != 0).collect::<Vec<_>>(),
            shape,
        ),
        DType::Flex32 | DType::Bool(_) | DType::QFloat(_) => return None,
    })
}

/// The values of a tensor of floats as `f32`; `None` for other elements.
pub(crate) fn to_f32(data: TensorData) -> Option<Vec<f32>> {
    match data.dtype() {
        DType::F32 => data.try_into_vec::<f32>().ok(),
        DType::F64 => {
            let values = data.as_slice::<f64>().ok()?;
            Some(values.iter().map(|&value| value as f32).collect())
        }
        DType::F16 => Some(data.as_slice::<f16>().ok()?.to_f32_vec()),
        DType::BF16 => Some(data.as_slice::<bf16>().ok()?.to_f32_vec()),
        _ => None,
    }
}

/// The element type as files call it: `F32`, `I64`, `BOOL`.
pub(crate) fn dtype_name(dtype: DType) -> String {
    match dtype {
        DType::Bool(_) => "BOOL".to_string(),
        other => format!("{other:?}"),
    }
}

/// `values`, `[rows, columns]` in row-major order, as `[columns, rows]`.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    // In tiles, so that both sides stay in the cache.
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row_tile in (0..rows).step_by(TILE) {
        for column_tile in (0..columns).step_by(TILE) {
            for row in row_tile..(row_tile + TILE).min(rows) {
                for column in column_tile..(column_tile + TILE).min(columns) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_holds_across_tiles() {
        let (rows, columns) = (37, 70);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let out = transposed(&values, rows, columns);
        for row in 0..rows {
            for column in 0..columns {
                assert_eq!(out[column * rows + row], values[row * columns + column]);
            }
        }
        assert!(transposed(&[], 0, 5).is_empty());
    }

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        assert!(tensor_data(DType::F32, &[2, 3], &[0; 23]).is_none());
        assert!(tensor_data(DType::F32, &[usize::MAX, 2], &[0; 8]).is_none());
        assert!(tensor_data(DType::F32, &[0, 3], &[]).is_some());
    }
}
