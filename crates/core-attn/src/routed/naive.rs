//! The obvious versions: full sorts, one small product after another, explicit embeddings for every pair.

use super::attention::{Fate, Hide, RoutedAttention, clear_nan};
use super::local::LocalAttention;
use super::members::{MemberOrder, Scores};
use super::shaw::{shaw_scores_naive, shaw_values_naive};
use crate::dropout::{Dropout, dropout_naive};
use crate::error::Result;
use burn::prelude::*;

/// [`Scores::top`] by sorting all positions: `[batch · heads · clusters][members]`.
pub fn top_members_naive(scores: &Scores, count: usize, order: MemberOrder) -> Vec<Vec<u32>> {
    let [batch, heads, length, clusters] = scores.dims();
    let rows = 0..batch * heads * clusters;
    rows.map(|row| {
        best(
            scores,
            row / clusters,
            row % clusters,
            length,
            count,
            order,
            |_| true,
        )
    })
    .collect()
}

/// [`Scores::prefix`] by choosing anew at every position: batch row times heads plus head, cluster, query and its keys.
pub fn prefix_members_naive(
    scores: &Scores,
    count: usize,
    padding: Option<&[bool]>,
) -> Vec<(usize, usize, usize, Vec<u32>)> {
    let [batch, heads, length, clusters] = scores.dims();
    let mut found = vec![];
    for row in 0..batch * heads * clusters {
        let (group, cluster) = (row / clusters, row % clusters);
        let live = |t: u32| padding.is_none_or(|p| !p[group / heads * length + t as usize]);
        for t in 0..length {
            let order = MemberOrder::Position;
            let keys = best(scores, group, cluster, t + 1, count, order, live);
            if live(t as u32) && keys.last() == Some(&(t as u32)) {
                found.push((group, cluster, t, keys));
            }
        }
    }
    found
}

fn best(
    scores: &Scores,
    group: usize,
    cluster: usize,
    length: usize,
    count: usize,
    order: MemberOrder,
    live: impl Fn(u32) -> bool,
) -> Vec<u32> {
    let mut all: Vec<u32> = (0..length as u32).filter(|t| live(*t)).collect();
    let score = |t: &u32| {
        let s = scores.at(group, *t as usize, cluster);
        if s.is_nan() { f32::NEG_INFINITY } else { s }
    };
    // A stable sort: ties stay ascending.
    all.sort_by(|a, b| {
        score(b)
            .partial_cmp(&score(a))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    all.truncate(count);
    if order == MemberOrder::Position {
        all.sort_unstable();
    }
    all
}

/// Softmax of one row after another, with nothing assumed about it.
fn softmax(scores: Tensor<2>) -> Tensor<2> {
    let top = scores.clone().detach().max_dim(1);
    let e = (scores - top).exp();
    e.clone() / e.sum_dim(1)
}

fn change(scores: Tensor<2>, fates: &[Fate], hide: Hide, own: Option<f64>) -> Tensor<2> {
    let [q, k] = scores.dims();
    let device = scores.device();
    let mask = |fate: Fate| {
        let values: Vec<bool> = fates.iter().map(|f| *f == fate).collect();
        Tensor::<2, Bool>::from_data(TensorData::new(values, [q, k]), &device)
    };
    let scores = match hide {
        Hide::Replace(with) => scores.mask_fill(mask(Fate::Hidden), with),
        Hide::Add(by) => scores + mask(Fate::Hidden).float().mul_scalar(by),
    };
    match own {
        Some(own) => scores.mask_fill(mask(Fate::Own), own),
        None => scores,
    }
}

/// A matrix with one 1 per row: `[rows, columns]`.
fn one_hot(at: &[usize], columns: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![0.0f32; at.len() * columns];
    for (row, column) in at.iter().enumerate() {
        values[row * columns + column] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [at.len(), columns]), device)
}

/// [`super::routed_attention`] one cluster at a time, rows picked and put back by one-hot products. Dropout is only the same
/// with rate 0, since it is a function of an element's place.
///
/// # Errors
/// As [`super::routed_attention`].
pub fn routed_attention_naive(input: RoutedAttention<'_>) -> Result<Tensor<4>> {
    input.check()?;
    let [batch, heads, queries, width] = input.query.dims();
    let [_, _, keys, _] = input.key.dims();
    let device = input.query.device();
    let flat = |t: Tensor<4>, n: usize| t.reshape([batch * heads, n, width]);
    let query = flat(clear_nan(input.query.clone(), input.query_padding), queries);
    let key = flat(clear_nan(input.key.clone(), input.key_padding), keys);
    let value = flat(clear_nan(input.value.clone(), input.key_padding), keys);
    let row = |t: &Tensor<3>, i: usize, n: usize| t.clone().narrow(0, i, 1).reshape([n, width]);
    let mut sums: Vec<Tensor<2>> = (0..batch * heads)
        .map(|_| Tensor::zeros([queries, width], &device))
        .collect();
    for group in input.routing.groups() {
        let to_queries = one_hot(&group.queries, queries, &device);
        let to_keys = one_hot(&group.keys, keys, &device);
        let q = to_queries.clone().matmul(row(&query, group.head, queries));
        let k = to_keys.clone().matmul(row(&key, group.head, keys));
        let v = to_keys.matmul(row(&value, group.head, keys));
        let mut scores = q.clone().matmul(k.transpose()).mul_scalar(input.scale);
        let count = group.keys.len();
        if let Some(shaw) = &input.relative {
            let table = shaw.key.clone();
            let more = shaw_scores_naive(q.clone().unsqueeze(), table, count, group.first);
            scores = scores + more.reshape([group.queries.len(), count]);
        }
        let pairs = group
            .queries
            .iter()
            .flat_map(|i| group.keys.iter().map(move |j| (*i, *j)));
        let fates: Vec<Fate> = pairs.map(|(i, j)| input.fate(group.head, i, j)).collect();
        let mut scores = change(scores, &fates, input.hide, input.own);
        let mut slots = 0;
        let mut memory_value = None;
        if let Some(memory) = &input.memory {
            let [_, _, m, _] = memory.key.dims();
            let pick = |t: &Tensor<4>| {
                t.clone()
                    .narrow(0, group.head % heads, 1)
                    .narrow(1, group.cluster, 1)
                    .reshape([m, width])
            };
            let front = q.matmul(pick(&memory.key).transpose());
            scores = Tensor::cat(vec![front.mul_scalar(input.scale), scores], 1);
            memory_value = Some(pick(&memory.value));
            slots = m;
        }
        let weights = dropout_naive(softmax(scores), Dropout::off());
        let own = weights.clone().narrow(1, slots, count);
        let mut out = own.clone().matmul(v);
        if let Some(value) = memory_value {
            out = out + weights.narrow(1, 0, slots).matmul(value);
        }
        if let Some(shaw) = &input.relative {
            let more = shaw_values_naive(own.unsqueeze(), shaw.value.clone(), group.first);
            out = out + more.reshape([group.queries.len(), width]);
        }
        let back = to_queries.transpose().matmul(out);
        sums[group.head] = sums[group.head].clone() + back;
    }
    let counts: Vec<f32> = input.routing.counts().iter().map(|c| *c as f32).collect();
    let counts = TensorData::new(counts, [batch, heads, queries, 1]);
    let counts = Tensor::<4>::from_data(counts, &device).add_scalar(input.epsilon);
    let sum = Tensor::<2>::cat(sums, 0).reshape([batch, heads, queries, width]);
    Ok(sum / counts)
}

/// [`super::local_attention`] as attention of every query to every key with the other pairs left out.
///
/// # Errors
/// As [`super::local_attention`].
pub fn local_attention_naive(input: LocalAttention<'_>) -> Result<Tensor<4>> {
    input.check()?;
    let [batch, heads, length, width] = input.query.dims();
    let device = input.query.device();
    let window = input.window;
    let span = (input.back + 1 + input.forward) * window;
    let clear = |t: &Tensor<4>| clear_nan(t.clone(), input.padding);
    let flat = |t: Tensor<4>| t.reshape([batch * heads, length, width]);
    let (query, key, value) = (
        flat(input.query.clone()),
        flat(clear(&input.key)),
        flat(clear(&input.value)),
    );
    let mut rows = vec![];
    for head in 0..batch * heads {
        for t in 0..length {
            let q = query
                .clone()
                .narrow(0, head, 1)
                .narrow(1, t, 1)
                .reshape([1, width]);
            // The keys of the block and its neighbours; those outside the text have a value of their own.
            let start = (t / window) as i64 - input.back as i64;
            let places: Vec<i64> = (0..span as i64)
                .map(|j| start * window as i64 + j)
                .collect();
            let inside = |p: i64| (0..length as i64).contains(&p);
            let mut pick = vec![0.0f32; span * length];
            for (j, p) in places.iter().enumerate().filter(|(_, p)| inside(**p)) {
                pick[j * length + *p as usize] = 1.0;
            }
            let pick = Tensor::<2>::from_data(TensorData::new(pick, [span, length]), &device);
            let of = |x: &Tensor<3>| {
                let x = x.clone().narrow(0, head, 1).reshape([length, width]);
                pick.clone().matmul(x)
            };
            let outside: Vec<f32> = places
                .iter()
                .map(|p| {
                    if inside(*p) {
                        0.0
                    } else {
                        input.outside as f32
                    }
                })
                .collect();
            let outside = Tensor::<2>::from_data(TensorData::new(outside, [span, 1]), &device);
            let (k, v) = (of(&key), of(&value) + outside);
            let first = input.back * window + t % window;
            let mut scores = q.clone().matmul(k.transpose()).mul_scalar(input.scale);
            if let Some(shaw) = &input.relative {
                let more = shaw_scores_naive(q.unsqueeze(), shaw.key.clone(), span, first);
                scores = scores + more.reshape([1, span]);
            }
            let fates: Vec<Fate> = places.iter().map(|p| input.fate(head, t, *p)).collect();
            let weights = softmax(change(scores, &fates, input.hide, input.own));
            let mut out = weights.clone().matmul(v);
            if let Some(shaw) = &input.relative {
                let more = shaw_values_naive(weights.unsqueeze(), shaw.value.clone(), first);
                out = out + more.reshape([1, width]);
            }
            rows.push(out);
        }
    }
    Ok(Tensor::<2>::cat(rows, 0).reshape([batch, heads, length, width]))
}
