//! Attention of the members of a cluster to each other.

use super::cpu;
use super::members::{Members, PrefixMembers};
use super::shaw::{Shaw, shaw_scores, shaw_values};
use crate::dropout::{Dropout, dropout};
use crate::error::{Result, shape, value};
use crate::softmax::masked_softmax;
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;

pub(super) const OP: &str = "routed_attention";

/// Who meets whom.
#[derive(Debug, Clone, Copy)]
pub enum Routing<'a> {
    /// The members of a cluster among the queries meet those among the keys.
    Clusters {
        /// Chosen from the queries.
        query: &'a Members,
        /// Chosen from the keys.
        key: &'a Members,
    },
    /// Every query meets the keys that its prefix gives it.
    Prefix(&'a PrefixMembers),
}

/// What a hidden score becomes. A row in which everything is hidden attends to all of it evenly, as the references do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hide {
    /// This is added; where everything is hidden, the scores still get gradients.
    Add(f64),
    /// This stands in its place.
    Replace(f64),
}

/// Learned keys and values in front of every cluster's members, which every query sees: `[heads, clusters, slots, head_dim]`.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The keys.
    pub key: Tensor<4>,
    /// The values.
    pub value: Tensor<4>,
}

/// The arguments of [`routed_attention`].
#[derive(Debug, Clone)]
pub struct RoutedAttention<'a> {
    /// `[batch, heads, query, head_dim]`.
    pub query: Tensor<4>,
    /// `[batch, heads, key, head_dim]`.
    pub key: Tensor<4>,
    /// `[batch, heads, key, head_dim]`.
    pub value: Tensor<4>,
    /// Who meets whom.
    pub routing: Routing<'a>,
    /// Multiplies the scores.
    pub scale: f64,
    /// A query sees keys up to its own position only.
    pub causal: bool,
    /// Queries that see nothing but the memory, `batch · heads · query` in row-major order.
    pub query_padding: Option<&'a [bool]>,
    /// Keys that nobody sees, `batch · heads · key`.
    pub key_padding: Option<&'a [bool]>,
    /// The score of a query's own position, where it is not computed like any other.
    pub own: Option<f64>,
    /// What a hidden score becomes.
    pub hide: Hide,
    /// Relative embeddings by rank among the members.
    pub relative: Option<Shaw>,
    /// Learned keys and values.
    pub memory: Option<Memory>,
    /// Added to the number of clusters of a position when its outputs are averaged.
    pub epsilon: f64,
    /// Dropout on the attention weights.
    pub dropout: Dropout,
}

/// One product: some queries and some keys of one head.
pub(super) struct Group {
    /// Batch row times heads plus head.
    pub head: usize,
    pub cluster: usize,
    pub queries: Vec<usize>,
    pub keys: Vec<usize>,
    /// Rank of the first query among the keys.
    pub first: usize,
}

impl Routing<'_> {
    /// All products, one after another.
    pub(super) fn groups(&self) -> Vec<Group> {
        match self {
            Self::Clusters { query, key } => {
                let [batch, heads, clusters, members] = query.dims;
                let keys = key.dims[3];
                let part = |index: &[u32], size: usize, row: usize| -> Vec<usize> {
                    let part = &index[row * size..(row + 1) * size];
                    part.iter().map(|p| *p as usize).collect()
                };
                let group = |row: usize| Group {
                    head: row / clusters,
                    cluster: row % clusters,
                    queries: part(&query.index, members, row),
                    keys: part(&key.index, keys, row),
                    first: 0,
                };
                (0..batch * heads * clusters).map(group).collect()
            }
            Self::Prefix(prefix) => {
                let group = |i: usize| {
                    let (head, cluster, query, keys) = prefix.pair(i);
                    Group {
                        head,
                        cluster,
                        queries: vec![query],
                        keys: keys.iter().map(|k| *k as usize).collect(),
                        first: keys.len() - 1,
                    }
                };
                (0..prefix.pairs()).map(group).collect()
            }
        }
    }

    /// In how many clusters each query is.
    pub(super) fn counts(&self) -> Vec<u32> {
        match self {
            Self::Clusters { query, .. } => query.counts(),
            Self::Prefix(prefix) => prefix.counts(),
        }
    }

    fn clusters(&self) -> usize {
        match self {
            Self::Clusters { query, .. } => query.dims[2],
            Self::Prefix(prefix) => prefix.of,
        }
    }
}

impl RoutedAttention<'_> {
    pub(super) fn check(&self) -> Result<()> {
        let [batch, heads, queries, width] = self.query.dims();
        let [_, _, keys, _] = self.key.dims();
        for (name, t) in [("key", &self.key), ("value", &self.value)] {
            if t.dims() != [batch, heads, keys, width] {
                let expected = format!("[{batch}, {heads}, {keys}, {width}] as the others");
                return Err(shape(OP, name, &t.dims(), expected));
            }
        }
        let fits = match self.routing {
            Routing::Clusters { query, key } => {
                query.dims[..3] == key.dims[..3]
                    && query.dims[..2] == [batch, heads]
                    && (query.length, key.length) == (queries, keys)
                    && query.dims[3] > 0
                    && key.dims[3] > 0
            }
            Routing::Prefix(prefix) => {
                prefix.dims == [batch, heads, queries] && queries == keys && self.causal
            }
        };
        if !fits {
            return Err(value(
                OP,
                "routing",
                "made for other tensors",
                "expected members of these queries and keys, at least one of each; lists by prefix need `causal`",
            ));
        }
        for (name, list, n) in [
            ("query_padding", self.query_padding, queries),
            ("key_padding", self.key_padding, keys),
        ] {
            if list.is_some_and(|l| l.len() != batch * heads * n) {
                let found = list.map_or(0, <[bool]>::len);
                let expected = format!("[{batch}, {heads}, {n}] in a row");
                return Err(shape(OP, name, &[found], expected));
            }
        }
        if let Some(m) = &self.memory {
            let [_, _, slots, _] = m.key.dims();
            let expected = [heads, self.routing.clusters(), slots, width];
            for (name, t) in [("memory.key", &m.key), ("memory.value", &m.value)] {
                if t.dims() != expected {
                    let expected = format!("{expected:?} (heads, clusters, slots, head_dim)");
                    return Err(shape(OP, name, &t.dims(), expected));
                }
            }
        }
        if let Some(r) = &self.relative {
            let [rows, _] = r.key.dims();
            for (name, t) in [("relative.key", &r.key), ("relative.value", &r.value)] {
                if t.dims() != [rows, width] || rows.is_multiple_of(2) {
                    let expected = format!("[2 · reach + 1, {width}]");
                    return Err(shape(OP, name, &t.dims(), expected));
                }
            }
        }
        Ok(())
    }

    /// How the score of a pair is changed.
    pub(super) fn fate(&self, head: usize, query: usize, key: usize) -> Fate {
        let [_, _, queries, _] = self.query.dims();
        let [_, _, keys, _] = self.key.dims();
        let at = |list: Option<&[bool]>, i: usize| list.is_some_and(|l| l[i]);
        if self.own.is_some() && query == key {
            Fate::Own
        } else if at(self.query_padding, head * queries + query)
            || at(self.key_padding, head * keys + key)
            || (self.causal && key > query)
        {
            Fate::Hidden
        } else {
            Fate::Seen
        }
    }
}

/// What happens to the score of a query and a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Seen,
    Hidden,
    Own,
    /// No key at all: of no weight even where everything else is hidden.
    Absent,
}

/// The score of an absent key: below every hidden one, and finite after a change of base.
const ABSENT: f64 = -1.5e38;

/// Scores `[groups, query, key]` with the fates of their pairs (`groups` here may divide the number of groups: the fates
/// then repeat).
pub(super) fn apply(
    scores: Tensor<3>,
    fates: &[Fate],
    [groups, q, k]: [usize; 3],
    hide: Hide,
    own: Option<f64>,
) -> Tensor<3> {
    let device = scores.device();
    let all = scores.dims();
    let spread = |fate: Fate| -> Option<Tensor<3, Bool>> {
        let values: Vec<bool> = fates.iter().map(|f| *f == fate).collect();
        if !values.contains(&true) {
            return None;
        }
        let mask = Tensor::<3, Bool>::from_data(TensorData::new(values, [groups, q, k]), &device);
        Some(repeat(mask, all))
    };
    let mut scores = scores;
    match hide {
        Hide::Add(by) => {
            if fates.contains(&Fate::Hidden) {
                let values: Vec<f32> = fates
                    .iter()
                    .map(|f| if *f == Fate::Hidden { by as f32 } else { 0.0 })
                    .collect();
                let options = (&device, scores.dtype());
                let bias = Tensor::<3>::from_data(TensorData::new(values, [groups, q, k]), options);
                scores = match all[0] == groups {
                    true => scores + bias,
                    false => {
                        let times = all[0] / groups;
                        let bias = bias.unsqueeze::<4>();
                        (scores.reshape([times, groups, q, k]) + bias).reshape(all)
                    }
                };
            }
        }
        Hide::Replace(with) => {
            if let Some(mask) = spread(Fate::Hidden) {
                scores = scores.mask_fill(mask, with);
            }
        }
    }
    if let Some(mask) = spread(Fate::Absent) {
        scores = scores.mask_fill(mask, ABSENT);
    }
    match (own, spread(Fate::Own)) {
        (Some(own), Some(mask)) => scores.mask_fill(mask, own),
        _ => scores,
    }
}

fn repeat(mask: Tensor<3, Bool>, all: [usize; 3]) -> Tensor<3, Bool> {
    let [groups, q, k] = mask.dims();
    match all[0] == groups {
        true => mask,
        false => mask
            .unsqueeze::<4>()
            .expand([all[0] / groups, groups, q, k])
            .reshape(all),
    }
}

/// Padding may hold anything; zero times NaN would still be NaN, in the output and in the gradients.
pub(super) fn clear_nan(rows: Tensor<4>, padding: Option<&[bool]>) -> Tensor<4> {
    let Some(padding) = padding.filter(|p| p.contains(&true)) else {
        return rows;
    };
    let [batch, heads, length, width] = rows.dims();
    let data = TensorData::new(padding.to_vec(), [batch, heads, length, 1]);
    let padding = Tensor::<4, Bool>::from_data(data, &rows.device());
    let padding = padding.expand([batch, heads, length, width]);
    let poison = rows
        .clone()
        .detach()
        .is_finite()
        .bool_not()
        .bool_and(padding);
    rows.mask_fill(poison, 0.0)
}

fn index(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Softmax and dropout over the keys of `[groups, query, key]`.
pub(super) fn weights(scores: Tensor<3>, drop: Dropout) -> Tensor<3> {
    let [groups, q, k] = scores.dims();
    let weights = masked_softmax(scores.reshape([1, groups, q, k]), None);
    dropout(weights, drop).reshape([groups, q, k])
}

/// For every position the sum of its clusters' `softmax(scale · Q·Kᵀ)·V`, divided by their number plus `epsilon`:
/// `[batch, heads, query, head_dim]`; zero for a position that is in no cluster.
///
/// Rows are gathered, multiplied per cluster, and scattered; time and memory grow with clusters × members², not with
/// length².
///
/// # Errors
/// Shapes that do not fit together.
pub fn routed_attention(input: RoutedAttention<'_>) -> Result<Tensor<4>> {
    input.check()?;
    let [batch, heads, queries, width] = input.query.dims();
    let [_, _, keys, _] = input.key.dims();
    let device = input.query.device();
    let key = clear_nan(input.key.clone(), input.key_padding);
    let value = clear_nan(input.value.clone(), input.key_padding);
    let query = clear_nan(input.query.clone(), input.query_padding);
    if let Routing::Clusters {
        query: own,
        key: others,
    } = input.routing
        && cpu::serves(&input)
    {
        return Ok(cpu::attend(&input, [query, key, value], [own, others]));
    }
    let query = query.reshape([batch * heads * queries, width]);
    let key = key.reshape([batch * heads * keys, width]);
    let value = value.reshape([batch * heads * keys, width]);

    // Rows of the queries and keys of every group, and the fates of their pairs.
    let (groups, q, k, query_rows, key_rows, fates, cluster_rows, first) = match input.routing {
        Routing::Clusters { query, key } => {
            let [_, _, clusters, q] = query.dims;
            let k = key.dims[3];
            let groups = batch * heads * clusters;
            let fates = cluster_fates(&input, query, key);
            let rows = (0..groups as u32).collect();
            (groups, q, k, query.rows(), key.rows(), fates, rows, 0)
        }
        Routing::Prefix(prefix) => {
            let (rows, keys, fates) = prefix_rows(&input, prefix);
            let k = prefix.window;
            let clusters = prefix.clusters.clone();
            (prefix.pairs(), 1, k, rows, keys, fates, clusters, k - 1)
        }
    };
    if groups == 0 {
        return Ok(Tensor::zeros([batch, heads, queries, width], &device));
    }
    let query_rows = index(query_rows, &device);
    let key_rows = index(key_rows, &device);
    let gathered = query
        .select(0, query_rows.clone())
        .reshape([groups, q, width]);
    let mut key = key.select(0, key_rows.clone()).reshape([groups, k, width]);
    let mut value = value.select(0, key_rows).reshape([groups, k, width]);
    let mut fates = fates;
    let mut slots = 0;
    if let Some(memory) = &input.memory {
        let [_, clusters, m, _] = memory.key.dims();
        slots = m;
        let all = heads * clusters;
        let rows = cluster_rows
            .iter()
            .map(|row: &u32| *row as i32 % all as i32);
        let rows = index(rows.collect(), &device);
        let front = |t: &Tensor<4>| {
            let t = t.clone().reshape([all, m * width]);
            t.select(0, rows.clone()).reshape([groups, m, width])
        };
        key = Tensor::cat(vec![front(&memory.key), key], 1);
        value = Tensor::cat(vec![front(&memory.value), value], 1);
        fates = fates
            .chunks_exact(k)
            .flat_map(|row| std::iter::repeat_n(Fate::Seen, m).chain(row.iter().copied()))
            .collect();
    }
    let mut scores = gathered
        .clone()
        .matmul(key.swap_dims(1, 2))
        .mul_scalar(input.scale);
    if let Some(shaw) = &input.relative {
        let relative = shaw_scores(gathered, shaw.key.clone(), k, first);
        scores = match slots {
            0 => scores + relative,
            m => {
                let memory = scores.clone().narrow(2, 0, m);
                let rest = scores.narrow(2, m, k) + relative;
                Tensor::cat(vec![memory, rest], 2)
            }
        };
    }
    let scores = apply(
        scores,
        &fates,
        [groups, q, slots + k],
        input.hide,
        input.own,
    );
    let weights = weights(scores, input.dropout);
    let mut out = weights.clone().matmul(value);
    if let Some(shaw) = &input.relative {
        let weights = weights.narrow(2, slots, k);
        out = out + shaw_values(weights, shaw.value.clone(), first);
    }
    let shares: Vec<f32> = input
        .routing
        .counts()
        .iter()
        .map(|count| (1.0 / (f64::from(*count) + input.epsilon)) as f32)
        .collect();
    let options = (&device, out.dtype());
    let shares = TensorData::new(shares, [batch * heads * queries, 1]);
    let sum = Tensor::<2>::zeros([batch * heads * queries, width], options).select_assign(
        0,
        query_rows,
        out.reshape([groups * q, width]),
        IndexingUpdateOp::Add,
    );
    Ok((sum * Tensor::from_data(shares, options)).reshape([batch, heads, queries, width]))
}

fn cluster_fates(input: &RoutedAttention<'_>, query: &Members, key: &Members) -> Vec<Fate> {
    use rayon::prelude::*;

    let [_, _, clusters, q] = query.dims;
    let k = key.dims[3];
    let plain = !input.causal
        && input.own.is_none()
        && input.query_padding.is_none()
        && input.key_padding.is_none();
    let groups = query.index.len() / q;
    let mut fates = vec![Fate::Seen; groups * q * k];
    if plain {
        return fates;
    }
    fates
        .par_chunks_mut(q * k)
        .enumerate()
        .for_each(|(group, out)| {
            let head = group / clusters;
            let keys = &key.index[group * k..(group + 1) * k];
            let queries = &query.index[group * q..(group + 1) * q];
            for (row, i) in out.chunks_exact_mut(k).zip(queries) {
                for (fate, j) in row.iter_mut().zip(keys) {
                    *fate = input.fate(head, *i as usize, *j as usize);
                }
            }
        });
    fates
}

/// Rows of the queries, rows of the keys, and the fates of their pairs; empty slots are absent and read row 0.
fn prefix_rows(
    input: &RoutedAttention<'_>,
    prefix: &PrefixMembers,
) -> (Vec<i32>, Vec<i32>, Vec<Fate>) {
    let [_, _, length] = prefix.dims;
    let mut rows = Vec::with_capacity(prefix.pairs());
    let mut keys = Vec::with_capacity(prefix.keys.len());
    let mut fates = Vec::with_capacity(prefix.keys.len());
    for (i, query) in prefix.queries.iter().enumerate() {
        let head = prefix.clusters[i] as usize / prefix.of;
        rows.push((head * length + *query as usize) as i32);
        for key in &prefix.keys[i * prefix.window..(i + 1) * prefix.window] {
            if *key == PrefixMembers::NOBODY {
                keys.push(0);
                fates.push(Fate::Absent);
            } else {
                keys.push((head * length + *key as usize) as i32);
                fates.push(input.fate(head, *query as usize, *key as usize));
            }
        }
    }
    (rows, keys, fates)
}
