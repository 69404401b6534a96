//! Relative embeddings by rank (Shaw, Uszkoreit, Vaswani 2018), without a tensor of size `[query, key, head_dim]`.

use burn::prelude::*;

/// Tables of relative embeddings, both `[2 · reach + 1, head_dim]`: row `clip(j − i, −reach, reach) + reach` belongs to key
/// `j` seen from query `i`.
#[derive(Debug, Clone)]
pub struct Shaw {
    /// Added to the keys in the scores.
    pub key: Tensor<2>,
    /// Added to the values in the output.
    pub value: Tensor<2>,
}

/// The rows of a table in the order of offsets, `[query + key − 1, head_dim]`: the first belongs to the last query and
/// the first key. Query 0 has rank `first` among the keys.
fn by_offset(table: Tensor<2>, query: usize, key: usize, first: usize) -> Tensor<2> {
    let device = table.device();
    let [rows, _] = table.dims();
    let reach = (rows / 2) as i64;
    let index: Vec<i32> = (0..query + key - 1)
        .map(|c| {
            let offset = c as i64 - (query - 1) as i64 - first as i64;
            (offset.clamp(-reach, reach) + reach) as i32
        })
        .collect();
    let n = index.len();
    table.select(0, Tensor::from_data(TensorData::new(index, [n]), &device))
}

/// `q_i · R[j − i]` for queries `[groups, query, head_dim]` and `key` keys: `[groups, query, key]`. Query 0 stands at rank
/// `first` of the keys.
pub fn shaw_scores(query: Tensor<3>, table: Tensor<2>, key: usize, first: usize) -> Tensor<3> {
    let [groups, q, width] = query.dims();
    let table = by_offset(table, q, key, first);
    let device = query.device();
    // One row of scores by offset for each query; each is then shifted by its query's rank, which a change of the row
    // length by one does: no index is needed.
    let scores = query
        .reshape([groups * q, width])
        .matmul(table.transpose())
        .reshape([groups, q, q + key - 1]);
    let blank = Tensor::zeros([groups, q, 1], (&device, scores.dtype()));
    Tensor::cat(vec![scores, blank], 2)
        .reshape([groups, q * (q + key)])
        .narrow(1, q - 1, q * (q + key - 1))
        .reshape([groups, q, q + key - 1])
        .narrow(2, 0, key)
}

/// `Σ_j a_ij R[j − i]` for weights `[groups, query, key]`: `[groups, query, head_dim]`. Query 0 stands at rank `first` of the
/// keys.
pub fn shaw_values(weights: Tensor<3>, table: Tensor<2>, first: usize) -> Tensor<3> {
    let [groups, q, key] = weights.dims();
    let [_, width] = table.dims();
    let table = by_offset(table, q, key, first);
    let options = (&weights.device(), weights.dtype());
    let offsets = q + key - 1;
    // The adjoint of the shift in `shaw_scores`.
    let wide = Tensor::cat(vec![weights, Tensor::zeros([groups, q, q - 1], options)], 2)
        .reshape([groups, q * offsets]);
    Tensor::cat(
        vec![
            Tensor::zeros([groups, q - 1], options),
            wide,
            Tensor::zeros([groups, 1], options),
        ],
        1,
    )
    .reshape([groups, q, offsets + 1])
    .narrow(2, 0, offsets)
    .reshape([groups * q, offsets])
    .matmul(table)
    .reshape([groups, q, width])
}

/// The embedding of every pair, `[query, key, head_dim]`.
fn every_pair(table: Tensor<2>, query: usize, key: usize, first: usize) -> Tensor<3> {
    let device = table.device();
    let [rows, width] = table.dims();
    let reach = (rows / 2) as i64;
    let offset = |i: usize, j: usize| j as i64 - (i + first) as i64;
    let index: Vec<i32> = (0..query)
        .flat_map(|i| (0..key).map(move |j| (offset(i, j).clamp(-reach, reach) + reach) as i32))
        .collect();
    let index = Tensor::from_data(TensorData::new(index, [query * key]), &device);
    table.select(0, index).reshape([query, key, width])
}

/// [`shaw_scores`] with the embedding of every pair.
pub fn shaw_scores_naive(
    query: Tensor<3>,
    table: Tensor<2>,
    key: usize,
    first: usize,
) -> Tensor<3> {
    let [groups, q, width] = query.dims();
    let pairs = every_pair(table, q, key, first).unsqueeze::<4>();
    let query = query.unsqueeze_dim::<4>(2).expand([groups, q, key, width]);
    (query * pairs.expand([groups, q, key, width]))
        .sum_dim(3)
        .reshape([groups, q, key])
}

/// [`shaw_values`] with the embedding of every pair.
pub fn shaw_values_naive(weights: Tensor<3>, table: Tensor<2>, first: usize) -> Tensor<3> {
    let [groups, q, key] = weights.dims();
    let [_, width] = table.dims();
    let pairs = every_pair(table, q, key, first).unsqueeze::<4>();
    let weights = weights
        .unsqueeze_dim::<4>(3)
        .expand([groups, q, key, width]);
    (weights * pairs.expand([groups, q, key, width]))
        .sum_dim(2)
        .reshape([groups, q, width])
}
