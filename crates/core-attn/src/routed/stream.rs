//! A text that is read on: the members of every cluster and the rows of the last blocks, with their keys and values.
//!
//! [`ClusterStream`] gives token by token what [`super::routed_attention`] gives with [`super::Routing::Prefix`], and
//! [`BlockStream`] what a causal [`super::local_attention`] gives. Both work on the host; what they keep does not grow with
//! the text.

use super::attention::Hide;
use super::members::rank;
use crate::cpu::simd::{Task, dispatch, exp_sum, max, sum2};
use crate::error::{Result, shape, value};
use std::collections::BTreeSet;

/// How scores are made and outputs averaged: the parts of [`super::RoutedAttention`] that do not change with the text.
#[derive(Debug, Clone, Copy)]
pub struct StreamRules<'a> {
    /// Multiplies the scores.
    pub scale: f64,
    /// The score of a token with itself, where it is not computed like any other.
    pub own: Option<f64>,
    /// What the score of a hidden key becomes.
    pub hide: Hide,
    /// Relative embeddings of keys and of values, `[2 · reach + 1, head_dim]` each.
    pub relative: Option<(&'a [f32], &'a [f32])>,
    /// Learned keys and values of every cluster, `[heads, clusters, slots, head_dim]` each.
    pub memory: Option<(&'a [f32], &'a [f32])>,
    /// Added to the number of a token's clusters when its outputs are averaged.
    pub epsilon: f64,
}

/// The next token of a text.
#[derive(Debug, Clone, Copy)]
pub struct NewToken<'a> {
    /// `[heads, head_dim]`.
    pub query: &'a [f32],
    /// `[heads, head_dim]`.
    pub key: &'a [f32],
    /// `[heads, head_dim]`.
    pub value: &'a [f32],
    /// Heads whose key nobody sees; empty: none.
    pub hidden: &'a [bool],
}

/// Keys and values in the order of their positions.
#[derive(Debug, Clone, Default)]
struct Rows {
    keys: Vec<f32>,
    values: Vec<f32>,
    hidden: Vec<bool>,
}

impl Rows {
    fn len(&self) -> usize {
        self.hidden.len()
    }

    fn push(&mut self, new: &NewToken<'_>, head: usize, width: usize) {
        let row = head * width..(head + 1) * width;
        self.keys.extend_from_slice(&new.key[row.clone()]);
        self.values.extend_from_slice(&new.value[row]);
        self.hidden.push(new.hidden.get(head) == Some(&true));
    }

    fn remove(&mut self, rows: std::ops::Range<usize>, width: usize) {
        let values = rows.start * width..rows.end * width;
        self.keys.drain(values.clone());
        self.values.drain(values);
        self.hidden.drain(rows);
    }
}

/// The last of some rows attends to all of them, and to the slots of its cluster.
struct Attend<'a> {
    query: &'a [f32],
    rows: &'a Rows,
    slots: Option<(&'a [f32], &'a [f32])>,
    rules: &'a StreamRules<'a>,
    scores: &'a mut Vec<f32>,
    /// Its output is added here.
    out: &'a mut [f32],
}

impl Task for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            query,
            rows,
            slots,
            rules,
            scores,
            out,
        } = self;
        let width = query.len();
        let scale = rules.scale as f32;
        let product = |key: &[f32]| scale * sum2(query, key, |a, b| a * b);
        scores.clear();
        let (front_keys, front_values) = slots.unwrap_or_default();
        scores.extend(front_keys.chunks_exact(width).map(product));
        let front = scores.len();
        let last = rows.len() - 1;
        for (j, key) in rows.keys.chunks_exact(width).enumerate() {
            let mut score = product(key);
            if let Some((table, _)) = rules.relative {
                let row = relative_row(table, width, last - j);
                score += sum2(query, row, |a, b| a * b);
            }
            score = match (rules.own, rules.hide) {
                (Some(own), _) if j == last => own as f32,
                (_, Hide::Add(by)) if rows.hidden[j] => score + by as f32,
                (_, Hide::Replace(with)) if rows.hidden[j] => with as f32,
                _ => score,
            };
            scores.push(score);
        }
        let top = max(scores);
        let sum = exp_sum::<FMA>(scores, top);
        let mut add = |share: f32, row: &[f32]| {
            for (o, v) in out.iter_mut().zip(row) {
                *o += share / sum * v;
            }
        };
        for (share, value) in scores.iter().zip(front_values.chunks_exact(width)) {
            add(*share, value);
        }
        for (j, value) in rows.values.chunks_exact(width).enumerate() {
            let share = scores[front + j];
            add(share, value);
            if let Some((_, table)) = rules.relative {
                add(share, relative_row(table, width, last - j));
            }
        }
    }
}

/// The embedding of a key `back` ranks before the query.
fn relative_row(table: &[f32], width: usize, back: usize) -> &[f32] {
    let reach = table.len() / width / 2;
    let row = reach - back.min(reach);
    &table[row * width..(row + 1) * width]
}

fn check(op: &'static str, new: &NewToken<'_>, [heads, width]: [usize; 2]) -> Result<()> {
    for (name, row) in [("query", new.query), ("key", new.key), ("value", new.value)] {
        if row.len() != heads * width {
            let expected = format!("[{heads}, {width}] in a row");
            return Err(shape(op, name, &[row.len()], expected));
        }
    }
    if !new.hidden.is_empty() && new.hidden.len() != heads {
        let expected = format!("[{heads}], or nothing");
        return Err(shape(op, "hidden", &[new.hidden.len()], expected));
    }
    Ok(())
}

fn check_rules(
    op: &'static str,
    rules: &StreamRules<'_>,
    [heads, clusters, width]: [usize; 3],
) -> Result<()> {
    let tables = rules.relative.map(|(k, v)| [k, v]).into_iter().flatten();
    for table in tables {
        if !table.len().is_multiple_of(width) || (table.len() / width).is_multiple_of(2) {
            let expected = format!("[2 · reach + 1, {width}]");
            return Err(shape(op, "relative", &[table.len()], expected));
        }
    }
    if let Some((keys, values)) = rules.memory
        && (keys.len() != values.len() || !keys.len().is_multiple_of(heads * clusters * width))
    {
        let expected = format!("[{heads}, {clusters}, slots, {width}], keys and values alike");
        return Err(shape(op, "memory", &[keys.len(), values.len()], expected));
    }
    Ok(())
}

/// What the routing heads of a layer remember of a text: for every cluster its members, best first, with their rows.
#[derive(Debug, Clone)]
pub struct ClusterStream {
    heads: usize,
    clusters: usize,
    width: usize,
    window: usize,
    lists: Vec<List>,
    read: usize,
}

/// The members of one cluster of one head.
#[derive(Debug, Clone, Default)]
struct List {
    /// Ranks as [`rank`] gives them: the last one is the first to go.
    ranks: BTreeSet<u64>,
    /// Ascending, beside the rows.
    positions: Vec<u32>,
    rows: Rows,
}

impl ClusterStream {
    /// The beginning of a text, for heads of `head_dim` with clusters of at most `window` members each.
    ///
    /// # Errors
    /// A size of 0.
    pub fn new([heads, clusters, head_dim]: [usize; 3], window: usize) -> Result<Self> {
        let op = "ClusterStream";
        for (name, n) in [
            ("heads", heads),
            ("clusters", clusters),
            ("head_dim", head_dim),
            ("window", window),
        ] {
            if n == 0 {
                return Err(value(op, name, 0, "expected at least 1"));
            }
        }
        Ok(Self {
            heads,
            clusters,
            width: head_dim,
            window,
            lists: vec![List::default(); heads * clusters],
            read: 0,
        })
    }

    /// Number of tokens read.
    pub fn len(&self) -> usize {
        self.read
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.read == 0
    }

    /// The members of a cluster as they are now, ascending.
    pub fn members(&self, head: usize, cluster: usize) -> &[u32] {
        let list = self.lists.get(head * self.clusters + cluster);
        list.map_or(&[], |l| &l.positions)
    }

    /// Reads a token: with its similarities `[heads, clusters]` it becomes a member where it is among the best, and attends
    /// to the members of those clusters. Returns `[heads, head_dim]`, zero where it is in no cluster.
    ///
    /// # Errors
    /// Slices of other lengths than these sizes.
    pub fn read(
        &mut self,
        new: NewToken<'_>,
        similarity: &[f32],
        rules: &StreamRules<'_>,
    ) -> Result<Vec<f32>> {
        let op = "ClusterStream::read";
        let (heads, clusters, width) = (self.heads, self.clusters, self.width);
        check(op, &new, [heads, width])?;
        check_rules(op, rules, [heads, clusters, width])?;
        if similarity.len() != heads * clusters {
            let expected = format!("[{heads}, {clusters}] in a row");
            return Err(shape(op, "similarity", &[similarity.len()], expected));
        }
        let position = u32::try_from(self.read)
            .map_err(|_| value(op, "text", self.read, "expected fewer than 2^32 tokens"))?;
        let mut out = vec![0.0; heads * width];
        let mut scores = vec![];
        for (head, out) in out.chunks_exact_mut(width).enumerate() {
            let mut count = 0;
            for cluster in 0..clusters {
                let at = head * clusters + cluster;
                let list = &mut self.lists[at];
                if !list.admit(rank(similarity[at], self.read), self.window, width) {
                    continue;
                }
                list.positions.push(position);
                list.rows.push(&new, head, width);
                count += 1;
                let slots = rules.memory.map(|(keys, values)| {
                    let size = keys.len() / (heads * clusters);
                    let part = at * size..(at + 1) * size;
                    (&keys[part.clone()], &values[part])
                });
                dispatch(Attend {
                    query: &new.query[head * width..(head + 1) * width],
                    rows: &list.rows,
                    slots,
                    rules,
                    scores: &mut scores,
                    out,
                });
            }
            let share = (1.0 / (f64::from(count) + rules.epsilon)) as f32;
            out.iter_mut().for_each(|o| *o *= share);
        }
        self.read += 1;
        Ok(out)
    }
}

impl List {
    /// Takes a rank in, and the last one out where there is no room; false where that is the same one.
    fn admit(&mut self, new: u64, window: usize, width: usize) -> bool {
        if self.ranks.len() == window {
            // A tie goes to the lower position, which is never the new one.
            match self.ranks.last() {
                Some(last) if *last < new => return false,
                _ => {}
            }
            if let Some(out) = self.ranks.pop_last()
                && let Ok(at) = self.positions.binary_search(&(out as u32))
            {
                self.positions.remove(at);
                self.rows.remove(at..at + 1, width);
            }
        }
        self.ranks.insert(new)
    }
}

/// What causal local heads remember of a text: the rows of the block that is being read and of those before it that it sees.
#[derive(Debug, Clone)]
pub struct BlockStream {
    heads: usize,
    width: usize,
    window: usize,
    back: usize,
    rows: Vec<Rows>,
    first: usize,
    read: usize,
}

impl BlockStream {
    /// The beginning of a text, for `heads` of `head_dim` that see their block of `window` and `back` blocks before it.
    ///
    /// # Errors
    /// A size of 0.
    pub fn new([heads, head_dim]: [usize; 2], window: usize, back: usize) -> Result<Self> {
        for (name, n) in [("heads", heads), ("head_dim", head_dim), ("window", window)] {
            if n == 0 {
                return Err(value("BlockStream", name, 0, "expected at least 1"));
            }
        }
        Ok(Self {
            heads,
            width: head_dim,
            window,
            back,
            rows: vec![Rows::default(); heads],
            first: 0,
            read: 0,
        })
    }

    /// Reads a token, which attends to the blocks it sees up to itself: `[heads, head_dim]`. Averages and memory of the
    /// rules belong to clusters and are not looked at.
    ///
    /// # Errors
    /// Slices of other lengths than these sizes.
    pub fn read(&mut self, new: NewToken<'_>, rules: &StreamRules<'_>) -> Result<Vec<f32>> {
        let op = "BlockStream::read";
        let (heads, width) = (self.heads, self.width);
        check(op, &new, [heads, width])?;
        check_rules(op, rules, [heads, 1, width])?;
        let first = (self.read / self.window).saturating_sub(self.back) * self.window;
        let gone = first - self.first;
        let mut out = vec![0.0; heads * width];
        let mut scores = vec![];
        let all = self.rows.iter_mut().zip(out.chunks_exact_mut(width));
        for (head, (rows, out)) in all.enumerate() {
            rows.remove(0..gone, width);
            rows.push(&new, head, width);
            dispatch(Attend {
                query: &new.query[head * width..(head + 1) * width],
                rows,
                slots: None,
                rules,
                scores: &mut scores,
                out,
            });
        }
        self.first = first;
        self.read += 1;
        Ok(out)
    }
}
