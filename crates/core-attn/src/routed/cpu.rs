//! Attention within clusters on the CPU where no gradient is asked for: everything of one cluster stays in the cache, from
//! the gathered rows to its outputs.

use super::attention::{Hide, RoutedAttention};
use super::members::{Members, host};
use crate::cpu::gemm::{Mat, product};
use crate::cpu::simd::{Task, dispatch, exp_sum, max};
use burn::prelude::*;
use rayon::prelude::*;

/// Whether [`attend`] can stand for the composition of tensor operations.
pub(super) fn serves(input: &RoutedAttention<'_>) -> bool {
    let tensors = [&input.query, &input.key, &input.value];
    crate::cpu::all_have_kernels(&tensors)
        && !tensors.iter().any(|t| t.device().is_autodiff())
        && input.relative.is_none()
        && input.memory.is_none()
        && input.dropout.rate() == 0.0
}

/// Rows of one cluster, its scores and its outputs.
#[derive(Default)]
struct Scratch {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    scores: Vec<f32>,
}

fn gather(into: &mut Vec<f32>, from: &[f32], rows: &[u32], width: usize) {
    into.clear();
    for row in rows {
        let at = *row as usize * width;
        into.extend_from_slice(&from[at..at + width]);
    }
}

/// The shares of each row of scores, in place.
struct Shares<'a> {
    scores: &'a mut [f32],
    keys: usize,
}

impl Task for Shares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for row in self.scores.chunks_exact_mut(self.keys) {
            let top = max(row);
            let share = 1.0 / exp_sum::<FMA>(row, top);
            row.iter_mut().for_each(|x| *x *= share);
        }
    }
}

/// [`super::routed_attention`] of clusters; `query`, `key` and `value` are free of NaN.
pub(super) fn attend(
    input: &RoutedAttention<'_>,
    [query, key, value]: [Tensor<4>; 3],
    [query_members, key_members]: [&Members; 2],
) -> Tensor<4> {
    let dims = query.dims();
    let [batch, heads, queries, width] = dims;
    let [_, _, keys, _] = key.dims();
    let device = query.device();
    let [query, key, value] = [query, key, value].map(|t| host(t.into_data()));
    let [_, _, clusters, q] = query_members.dims();
    let [_, _, _, k] = key_members.dims();
    let rows = batch * heads;

    // Every cluster by itself, then the sums of every head in the order of its clusters: the same for any number of threads.
    let mut outs = vec![0.0f32; rows * clusters * q * width];
    outs.par_chunks_mut(q * width).enumerate().for_each_init(
        Scratch::default,
        |scratch, (group, out)| {
            let head = group / clusters;
            let own = &query_members.positions()[group * q..(group + 1) * q];
            let others = &key_members.positions()[group * k..(group + 1) * k];
            let of_head = |n: usize| head * n * width..(head + 1) * n * width;
            gather(&mut scratch.query, &query[of_head(queries)], own, width);
            gather(&mut scratch.key, &key[of_head(keys)], others, width);
            gather(&mut scratch.value, &value[of_head(keys)], others, width);
            scratch.scores.resize(q * k, 0.0);
            let scores = &mut scratch.scores[..q * k];
            product(
                scores,
                k,
                input.scale as f32,
                Mat::new(&scratch.query, q, width, width),
                Mat::new(&scratch.key, k, width, width).t(),
                false,
            );
            change(input, head, scores, own, others);
            dispatch(Shares { scores, keys: k });
            product(
                out,
                width,
                1.0,
                Mat::new(scores, q, k, k),
                Mat::new(&scratch.value, k, width, width),
                false,
            );
        },
    );

    let mut sums = vec![0.0f32; rows * queries * width];
    let counts = query_members.counts();
    let size = clusters * q;
    sums.par_chunks_mut((queries * width).max(1))
        .enumerate()
        .for_each(|(head, sum)| {
            let members = &query_members.positions()[head * size..(head + 1) * size];
            let outs = outs[head * size * width..(head + 1) * size * width].chunks_exact(width);
            for (position, out) in members.iter().zip(outs) {
                let at = *position as usize * width;
                let sum = &mut sum[at..at + width];
                sum.iter_mut().zip(out).for_each(|(s, o)| *s += o);
            }
            let counts = &counts[head * queries..(head + 1) * queries];
            for (sum, count) in sum.chunks_exact_mut(width).zip(counts) {
                let share = (1.0 / (f64::from(*count) + input.epsilon)) as f32;
                sum.iter_mut().for_each(|s| *s *= share);
            }
        });
    Tensor::from_data(TensorData::new(sums, dims), &device)
}

/// Scores as [`RoutedAttention::fate`] has it, without asking it for every pair.
fn change(
    input: &RoutedAttention<'_>,
    head: usize,
    scores: &mut [f32],
    queries: &[u32],
    keys: &[u32],
) {
    let [_, _, query_length, _] = input.query.dims();
    let [_, _, key_length, _] = input.key.dims();
    let of = |list: Option<&[bool]>, at: usize| list.is_some_and(|l| l[at]);
    let padded_keys = input.key_padding.is_some();
    if !input.causal && input.own.is_none() && !padded_keys && input.query_padding.is_none() {
        return;
    }
    let hidden = |score: &mut f32| match input.hide {
        Hide::Add(by) => *score += by as f32,
        Hide::Replace(with) => *score = with as f32,
    };
    for (row, query) in scores.chunks_exact_mut(keys.len()).zip(queries) {
        let nothing = of(input.query_padding, head * query_length + *query as usize);
        for (score, key) in row.iter_mut().zip(keys) {
            match input.own {
                Some(own) if key == query => *score = own as f32,
                _ if nothing
                    || (input.causal && key > query)
                    || (padded_keys
                        && of(input.key_padding, head * key_length + *key as usize)) =>
                {
                    hidden(score);
                }
                _ => {}
            }
        }
    }
}
