//! Where attention goes.

use crate::error::{Result, shape};
use burn::prelude::*;

/// Buckets that each region of keys is cut into.
pub const REGION_BUCKETS: usize = 6;

/// Attention mass by region and age: the mean over batch, heads and queries of the weights `[batch, heads, query, key]`, summed in
/// six buckets per region, oldest first: `[6 * regions]`.
///
/// `regions` are the numbers of keys of each region, in the order of the columns; a region of 0 keys is left out. Buckets are
/// `keys / 6` wide, rounded down, and the last takes the rest.
///
/// # Errors
/// Regions that do not add up to the keys.
pub fn attention_region_stats(weights: &Tensor<4>, regions: &[usize]) -> Result<Tensor<1>> {
    let [_, _, _, keys] = weights.dims();
    if regions.iter().sum::<usize>() != keys {
        let expected = format!("keys that the regions {regions:?} add up to");
        return Err(shape(
            "attention_region_stats",
            "weights",
            &weights.dims(),
            expected,
        ));
    }
    let regions: Vec<usize> = regions.iter().copied().filter(|n| *n > 0).collect();
    let buckets = REGION_BUCKETS * regions.len();
    let mut member = vec![0f32; keys * buckets];
    let mut column = 0;
    for (region, &n) in regions.iter().enumerate() {
        for i in 0..n {
            let bucket = match n / REGION_BUCKETS {
                0 => REGION_BUCKETS - 1,
                wide => (i / wide).min(REGION_BUCKETS - 1),
            };
            member[column * buckets + region * REGION_BUCKETS + bucket] = 1.0;
            column += 1;
        }
    }
    let weights = weights.clone().detach();
    let device = weights.device().without_autodiff();
    let member = Tensor::<2>::from_data(TensorData::new(member, [keys, buckets]), &device);
    let mean: Tensor<2> = weights
        .mean_dim(0)
        .mean_dim(1)
        .mean_dim(2)
        .reshape([1, keys]);
    Ok(mean.matmul(member).reshape([buckets]))
}
