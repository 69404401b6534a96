//! Which positions belong to which cluster.

use burn::prelude::*;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// The similarity of every position to every cluster, `[batch, heads, length, clusters]`, on the host.
#[derive(Debug, Clone)]
pub struct Scores {
    values: Vec<f32>,
    dims: [usize; 4],
}

/// In which order the members of a cluster stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberOrder {
    /// Ascending by position.
    Position,
    /// Descending by score, ties ascending by position.
    Score,
}

/// Sorts the best first: descending by score (NaN behind everything), ties ascending by position.
pub(super) fn rank(score: f32, position: usize) -> u64 {
    // Adding 0 turns −0 into 0, so that the two tie.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    let descending = if score.is_nan() { u32::MAX } else { !ascending };
    u64::from(descending) << 32 | position as u64
}

impl Scores {
    /// Reads `[batch, heads, length, clusters]` from the device.
    pub fn read(scores: Tensor<4>) -> Self {
        let dims = scores.dims();
        let values = host(scores.into_data());
        Self { values, dims }
    }

    /// `[batch, heads, length, clusters]`.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    pub(crate) fn at(&self, group: usize, position: usize, cluster: usize) -> f32 {
        let [_, _, length, clusters] = self.dims;
        self.values[(group * length + position) * clusters + cluster]
    }

    /// `[batch, heads, clusters, length]`: what is chosen from lies in a row. In tiles, so that neither side jumps through
    /// memory.
    fn by_cluster(&self) -> Vec<f32> {
        const TILE: usize = 16;
        let [_, _, length, clusters] = self.dims;
        let mut out = vec![0.0; self.values.len()];
        let size = (length * clusters).max(1);
        let pairs = out.par_chunks_mut(size).zip(self.values.par_chunks(size));
        pairs.for_each(|(out, values)| {
            for t in (0..length).step_by(TILE) {
                for c in (0..clusters).step_by(TILE) {
                    for i in t..length.min(t + TILE) {
                        for j in c..clusters.min(c + TILE) {
                            out[j * length + i] = values[i * clusters + j];
                        }
                    }
                }
            }
        });
        out
    }

    /// Positions `start .. start + count` alone.
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        let [batch, heads, length, clusters] = self.dims;
        let rows = self.values.chunks_exact((length * clusters).max(1));
        let part = |row: &[f32]| row[start * clusters..(start + count) * clusters].to_vec();
        Self {
            values: rows.flat_map(part).collect(),
            dims: [batch, heads, count, clusters],
        }
    }

    /// The most similar cluster of every position, `batch · heads · length` numbers in row-major order; ties go to the
    /// lowest cluster.
    pub fn nearest(&self) -> Vec<u32> {
        let [_, _, _, clusters] = self.dims;
        let best = |row: &[f32]| {
            let ranks = row.iter().enumerate().map(|(c, s)| rank(*s, c));
            ranks.min().map_or(0, |r| r as u32)
        };
        self.values
            .par_chunks_exact(clusters.max(1))
            .map(best)
            .collect()
    }

    /// The `count` most similar positions of every cluster (all of them if there are fewer); ties go to the lowest position.
    ///
    /// Partial selection: linear in the length for each cluster.
    pub fn top(&self, count: usize, order: MemberOrder) -> Members {
        let [batch, heads, length, clusters] = self.dims;
        let members = count.min(length);
        let mut index = vec![0; batch * heads * clusters * members];
        let by_cluster = self.by_cluster();
        index
            .par_chunks_mut(members.max(1))
            .zip(by_cluster.par_chunks(length.max(1)))
            .for_each_init(Vec::new, |ranks, (out, scores)| {
                ranks.clear();
                ranks.extend(scores.iter().enumerate().map(|(t, s)| rank(*s, t)));
                if members < length && members > 0 {
                    ranks.select_nth_unstable(members - 1);
                    ranks.truncate(members);
                }
                if order == MemberOrder::Score {
                    ranks.sort_unstable();
                }
                for (o, r) in out.iter_mut().zip(ranks.iter()) {
                    *o = *r as u32;
                }
                if order == MemberOrder::Position {
                    out.sort_unstable();
                }
            });
        Members {
            index,
            dims: [batch, heads, clusters, members],
            length,
        }
    }

    /// What [`Scores::top`] would take at every position if nothing came after it: position `t` is a query of a cluster if it
    /// is among the `count` most similar of the positions up to `t`, and its keys are exactly those, ascending.
    ///
    /// `padding` `[batch, length]` marks positions that are neither. Each cluster's list is built once from left to right.
    pub fn prefix(&self, count: usize, padding: Option<&[bool]>) -> PrefixMembers {
        let [batch, heads, length, clusters] = self.dims;
        let window = count.min(length).max(1);
        let padded = |group: usize, t: usize| {
            let row = group / heads.max(1);
            padding.is_some_and(|p| p.get(row * length + t) == Some(&true))
        };
        let lists: Vec<Vec<(u32, Vec<u32>)>> = (0..batch * heads * clusters)
            .into_par_iter()
            .map(|row| {
                let (group, cluster) = (row / clusters, row % clusters);
                let mut best = BTreeSet::new();
                let mut found = vec![];
                for t in (0..length).filter(|t| !padded(group, *t)) {
                    let new = rank(self.at(group, t, cluster), t);
                    best.insert(new);
                    if best.len() > window {
                        // A tie with the last one goes to the lower position, which is never the new one.
                        let last = best.pop_last();
                        if last == Some(new) {
                            continue;
                        }
                    }
                    let mut keys: Vec<u32> = best.iter().map(|r| *r as u32).collect();
                    keys.sort_unstable();
                    found.push((t as u32, keys));
                }
                found
            })
            .collect();
        let pairs = lists.iter().map(Vec::len).sum();
        let mut all = PrefixMembers {
            queries: Vec::with_capacity(pairs),
            keys: Vec::with_capacity(pairs * window),
            clusters: Vec::with_capacity(pairs),
            window,
            dims: [batch, heads, length],
            of: clusters,
        };
        for (row, list) in lists.into_iter().enumerate() {
            for (t, keys) in list {
                all.queries.push(t);
                all.clusters.push(row as u32);
                // On the right, so that a slot's distance from the query in ranks is the same for all.
                let blank = std::iter::repeat_n(PrefixMembers::NOBODY, window - keys.len());
                all.keys.extend(blank.chain(keys));
            }
        }
        all
    }
}

/// The members of every cluster, `[batch, heads, clusters, members]` positions, on the host. A position may be a member of
/// several clusters, or of none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    pub(crate) index: Vec<u32>,
    pub(crate) dims: [usize; 4],
    pub(crate) length: usize,
}

impl Members {
    /// `[batch, heads, clusters, members]`.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// The number of positions that were chosen from.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The positions in row-major order.
    pub fn positions(&self) -> &[u32] {
        &self.index
    }

    /// How many clusters each position is a member of: `batch · heads · length` numbers in row-major order.
    pub fn counts(&self) -> Vec<u32> {
        let [batch, heads, clusters, members] = self.dims;
        let mut counts = vec![0; batch * heads * self.length];
        let size = clusters * members;
        for (i, position) in self.index.iter().enumerate() {
            counts[i / size * self.length + *position as usize] += 1;
        }
        counts
    }

    /// Rows of `[batch · heads · length, …]`.
    pub(crate) fn rows(&self) -> Vec<i32> {
        let [_, _, clusters, members] = self.dims;
        let size = (clusters * members).max(1);
        let row = |(i, p): (usize, &u32)| (i / size * self.length + *p as usize) as i32;
        self.index.iter().enumerate().map(row).collect()
    }
}

/// The members of every cluster as every position finds them, without looking ahead: a list of pairs of a query and a cluster,
/// each with its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixMembers {
    /// Position of each pair's query.
    pub(crate) queries: Vec<u32>,
    /// `[pairs, window]`: positions of the keys on the right, the query last, [`PrefixMembers::NOBODY`] before them.
    pub(crate) keys: Vec<u32>,
    /// `(batch · heads) · clusters + cluster` of each pair.
    pub(crate) clusters: Vec<u32>,
    pub(crate) window: usize,
    /// `[batch, heads, length]`.
    pub(crate) dims: [usize; 3],
    /// Number of clusters.
    pub(crate) of: usize,
}

impl PrefixMembers {
    pub(crate) const NOBODY: u32 = u32::MAX;

    /// Number of pairs of a query and a cluster.
    pub fn pairs(&self) -> usize {
        self.queries.len()
    }

    /// The pair's batch row times heads plus head, its cluster, its query and its keys.
    pub fn pair(&self, i: usize) -> (usize, usize, usize, &[u32]) {
        let row = self.clusters[i] as usize;
        let keys = &self.keys[i * self.window..(i + 1) * self.window];
        let first = keys.iter().position(|k| *k != Self::NOBODY);
        let keys = &keys[first.unwrap_or(self.window)..];
        (row / self.of, row % self.of, self.queries[i] as usize, keys)
    }

    /// How many clusters each position is a query of: `batch · heads · length` numbers in row-major order.
    pub fn counts(&self) -> Vec<u32> {
        let [batch, heads, length] = self.dims;
        let mut counts = vec![0; batch * heads * length];
        for (t, row) in self.queries.iter().zip(&self.clusters) {
            counts[*row as usize / self.of * length + *t as usize] += 1;
        }
        counts
    }
}

/// Which rows of `[batch, heads, length, width]` are exactly zero: `batch · heads · length` in row-major order.
pub fn blank_rows(x: &Tensor<4>) -> Vec<bool> {
    let [_, _, _, width] = x.dims();
    host(x.clone().into_data())
        .par_chunks_exact(width.max(1))
        .map(|row| row.iter().all(|v| *v == 0.0))
        .collect()
}

/// The values as `f32`, copied in one go where they are that already.
pub(super) fn host(data: TensorData) -> Vec<f32> {
    match data.as_slice::<f32>() {
        Ok(_) => data.try_into_vec::<f32>().unwrap_or_default(),
        Err(_) => data.iter::<f32>().collect(),
    }
}
