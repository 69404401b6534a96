//! Banded attention over slices: tiles of queries, each against its own window of keys.
//!
//! Nothing of size `[query, window]` outlives a tile: the backward pass computes the scores again. Every head runs over its
//! own number of columns, so a short head costs little beside a long one. One task is one (batch, head); the sums that cross
//! tasks (relative table, mask, persistent vectors) are added in a fixed order, so any number of threads gives the same bits.

use super::Plan;
use crate::cpu::Shared;
use crate::cpu::gemm::{Mat, product, product_raw};
use crate::cpu::simd::{self, Task, dispatch};
use crate::dropout::Keep;
use rayon::prelude::*;

/// The arguments as slices, in the shapes of [`super::BandedAttention`].
pub(crate) struct Inputs<'a> {
    pub query: &'a [f32],
    pub key: &'a [f32],
    pub value: &'a [f32],
    pub relative: &'a [f32],
    pub mask: &'a [f32],
    pub persistent_key: &'a [f32],
    pub persistent_value: &'a [f32],
}

/// Gradients in the shapes of the inputs; those of absent arguments are empty.
pub(crate) struct Gradients {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    pub relative: Vec<f32>,
    pub mask: Vec<f32>,
    pub persistent_key: Vec<f32>,
    pub persistent_value: Vec<f32>,
}

/// Sums that cross (batch, head) tasks are gathered in this many partial buffers, whatever the number of threads.
const GROUPS: usize = 8;

/// `[batch, query, heads · head_dim]`.
pub(crate) fn forward(plan: &Plan, x: &Inputs<'_>) -> Vec<f32> {
    let mut out = vec![0.0; plan.batch * plan.queries * plan.width()];
    let shared = Shared::new(&mut out);
    let run = |task: usize| {
        dispatch(Forward {
            tile: Head::new(plan, x, task),
            out: shared,
        })
    };
    let tasks = plan.batch * plan.heads;
    if plan.work() < 1 << 15 {
        (0..tasks).for_each(run);
    } else {
        (0..tasks).into_par_iter().for_each(run);
    }
    out
}

/// Gradients of `sum(out · grad)`.
pub(crate) fn backward(plan: &Plan, x: &Inputs<'_>, grad: &[f32]) -> Gradients {
    let (mut query, mut key, mut value) = (
        vec![0.0; x.query.len()],
        vec![0.0; x.key.len()],
        vec![0.0; x.value.len()],
    );
    let (dq, dk, dv) = (
        Shared::new(&mut query),
        Shared::new(&mut key),
        Shared::new(&mut value),
    );
    let tasks = plan.batch * plan.heads;
    let groups = GROUPS.min(tasks);
    let partial: Vec<Partial> = (0..groups)
        .into_par_iter()
        .map(|group| {
            let mut partial = Partial::new(plan);
            for task in (group..tasks).step_by(groups) {
                dispatch(Backward {
                    tile: Head::new(plan, x, task),
                    grad,
                    dq,
                    dk,
                    dv,
                    partial: &mut partial,
                });
            }
            partial
        })
        .collect();
    let mut total = Partial::new(plan);
    for p in &partial {
        total.add(p);
    }
    Gradients {
        query,
        key,
        value,
        relative: total.relative,
        mask: total.mask,
        persistent_key: total.persistent_key,
        persistent_value: total.persistent_value,
    }
}

/// The gradients that several tasks add to.
struct Partial {
    relative: Vec<f32>,
    mask: Vec<f32>,
    persistent_key: Vec<f32>,
    persistent_value: Vec<f32>,
}

impl Partial {
    fn new(plan: &Plan) -> Self {
        let persistent = plan.heads * plan.head_dim * plan.persistent;
        Self {
            relative: vec![
                0.0;
                if plan.relative {
                    plan.head_dim * plan.window
                } else {
                    0
                }
            ],
            mask: vec![
                0.0;
                if plan.masked {
                    plan.heads * plan.window
                } else {
                    0
                }
            ],
            persistent_key: vec![0.0; persistent],
            persistent_value: vec![0.0; persistent],
        }
    }

    fn add(&mut self, other: &Self) {
        for (a, b) in [
            (&mut self.relative, &other.relative),
            (&mut self.mask, &other.mask),
            (&mut self.persistent_key, &other.persistent_key),
            (&mut self.persistent_value, &other.persistent_value),
        ] {
            for (a, b) in a.iter_mut().zip(b) {
                *a += b;
            }
        }
    }
}

/// One (batch, head) and its buffers for one tile of queries.
struct Head<'a> {
    plan: &'a Plan,
    x: &'a Inputs<'a>,
    batch: usize,
    head: usize,
    /// Columns this head computes: the last `keep` of the window.
    keep: usize,
    /// Queries in a tile.
    tile: usize,
    /// `[tile, keep + tile − 1]`: scores against the tile's window of keys; query `r` owns columns `r .. r + keep`.
    scores: Vec<f32>,
    /// `[tile, keep]`: position logits, then probabilities.
    band: Vec<f32>,
    /// `[tile, persistent]`.
    extra: Vec<f32>,
}

/// Rows of a tile at most.
const TILE: usize = 64;

impl<'a> Head<'a> {
    fn new(plan: &'a Plan, x: &'a Inputs<'a>, task: usize) -> Self {
        let head = task % plan.heads;
        let keep = plan.keeps[head];
        // A tile computes `tile − 1` columns beside its band, so short bands want short tiles.
        let tile = keep.clamp(16, TILE).min(plan.queries);
        Self {
            plan,
            x,
            batch: task / plan.heads,
            head,
            keep,
            tile,
            scores: vec![0.0; tile * (keep + tile - 1)],
            band: vec![0.0; tile * keep],
            extra: vec![0.0; tile * plan.persistent],
        }
    }

    /// Offset of query row `m` (and of its output and gradients).
    fn query_at(&self, m: usize) -> usize {
        (self.batch * self.plan.queries + m) * self.plan.width() + self.head * self.plan.head_dim
    }

    /// Offset of the key row that column 0 of query `m` sees.
    fn key_at(&self, m: usize) -> usize {
        let row = self.plan.first_key() + self.plan.window - self.keep + m;
        (self.batch * self.plan.keys + row) * self.plan.width() + self.head * self.plan.head_dim
    }

    fn queries(&self, m: usize, rows: usize) -> Mat<'a> {
        let d = self.plan.head_dim;
        Mat::new(
            &self.x.query[self.query_at(m)..],
            rows,
            d,
            self.plan.width(),
        )
    }

    fn keys(&self, m: usize, rows: usize) -> Mat<'a> {
        let d = self.plan.head_dim;
        Mat::new(&self.x.key[self.key_at(m)..], rows, d, self.plan.width())
    }

    fn values(&self, m: usize, rows: usize) -> Mat<'a> {
        let d = self.plan.head_dim;
        Mat::new(&self.x.value[self.key_at(m)..], rows, d, self.plan.width())
    }

    /// The last `keep` columns of the relative table, `[head_dim, keep]`.
    fn table(&self) -> Mat<'a> {
        let plan = self.plan;
        Mat::new(
            &self.x.relative[plan.window - self.keep..],
            plan.head_dim,
            self.keep,
            plan.window,
        )
    }

    fn mask(&self) -> &'a [f32] {
        let end = (self.head + 1) * self.plan.window;
        &self.x.mask[end - self.keep..end]
    }

    fn persistent_key(&self) -> Mat<'a> {
        let (d, n) = (self.plan.head_dim, self.plan.persistent);
        Mat::new(&self.x.persistent_key[self.head * d * n..], d, n, n)
    }

    fn persistent_value(&self) -> Mat<'a> {
        let (d, n) = (self.plan.head_dim, self.plan.persistent);
        Mat::new(&self.x.persistent_value[self.head * d * n..], n, d, d)
    }

    /// Width of the tile's window of keys.
    fn span(&self, rows: usize) -> usize {
        self.keep + rows - 1
    }

    /// Fills `band` with the exponentials of the scores (0 where the mask is 0) and `extra` with those of the persistent
    /// vectors, and returns per row what turns them into weights: one over their masked sum (0 where nothing is visible).
    #[inline(always)]
    fn exponentials<const FMA: bool>(&mut self, m: usize, rows: usize) -> [f32; TILE] {
        let mut inverses = [0.0; TILE];
        let (keep, n, scale) = (self.keep, self.plan.persistent, self.plan.scale);
        let span = self.span(rows);
        let (q, k) = (self.queries(m, rows), self.keys(m, span).t());
        product(&mut self.scores, span, scale, q, k, false);
        if self.plan.relative {
            let table = self.table();
            product(&mut self.band, keep, scale, q, table, false);
        }
        if n > 0 {
            let k = self.persistent_key();
            product(&mut self.extra, n, scale, q, k, false);
        }
        let masked = self.plan.masked;
        let mask = if masked { self.mask() } else { &[] };
        for (r, inverse) in inverses.iter_mut().enumerate().take(rows) {
            let content = &self.scores[r * span + r..][..keep];
            let band = &mut self.band[r * keep..][..keep];
            if self.plan.relative {
                for (b, c) in band.iter_mut().zip(content) {
                    *b += c;
                }
            } else {
                band.copy_from_slice(content);
            }
            if masked {
                for (b, m) in band.iter_mut().zip(mask) {
                    *b = if *m <= 0.0 { f32::NEG_INFINITY } else { *b };
                }
            }
            let extra = &mut self.extra[r * n..][..n];
            let top = simd::max(band);
            let top_extra = simd::max(extra);
            let top = if top_extra > top { top_extra } else { top };
            if top == f32::NEG_INFINITY {
                // Nothing visible: the row attends to nothing and gives zero. A row of NaN must not pass for that.
                if band.iter().chain(&*extra).any(|s| s.is_nan()) {
                    *inverse = f32::NAN;
                }
                band.fill(0.0);
                extra.fill(0.0);
                continue;
            }
            let context = simd::exp_sum::<FMA>(band, top);
            let persistent = simd::exp_sum::<FMA>(extra, top);
            let z = context + persistent;
            let total = if masked {
                simd::sum2(band, mask, |e, m| e * m) + persistent + self.plan.epsilon * z
            } else {
                z
            };
            *inverse = 1.0 / total;
        }
        inverses
    }
}

struct Forward<'a> {
    tile: Head<'a>,
    out: Shared,
}

impl Task for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { tile: mut t, out } = self;
        let plan = t.plan;
        let (keep, n) = (t.keep, plan.persistent);
        for m in (0..plan.queries).step_by(t.tile) {
            let rows = t.tile.min(plan.queries - m);
            let span = t.span(rows);
            let inverses = t.exponentials::<FMA>(m, rows);
            let mask = if plan.masked { t.mask() } else { &[] };
            for r in 0..rows {
                let inverse = inverses[r];
                let row = &mut t.scores[r * span..][..span];
                row[..r].fill(0.0);
                row[r + keep..].fill(0.0);
                let weights = &mut row[r..r + keep];
                let band = &t.band[r * keep..][..keep];
                if plan.masked {
                    for ((w, e), m) in weights.iter_mut().zip(band).zip(mask) {
                        *w = e * m * inverse;
                    }
                } else {
                    for (w, e) in weights.iter_mut().zip(band) {
                        *w = e * inverse;
                    }
                }
                let extra = &mut t.extra[r * n..][..n];
                for e in extra.iter_mut() {
                    *e *= inverse;
                }
                if plan.dropout.active() {
                    drop_row(plan, t.batch, t.head, m + r, weights, extra);
                }
            }
            // SAFETY: this task alone writes the columns of its (batch, head); the rows lie inside the output.
            unsafe {
                let dst = out.at(t.query_at(m));
                let a = Mat::new(&t.scores, rows, span, span);
                product_raw(dst, plan.width(), 1.0, a, t.values(m, span), false);
                if n > 0 {
                    let a = Mat::new(&t.extra, rows, n, n);
                    product_raw(dst, plan.width(), 1.0, a, t.persistent_value(), true);
                }
            }
        }
    }
}

/// Multiplies a row of weights by its dropout factors. Columns are named by their distance, so trimming changes nothing.
#[inline(always)]
fn drop_row(plan: &Plan, batch: usize, head: usize, m: usize, band: &mut [f32], extra: &mut [f32]) {
    let keep: &Keep = &plan.dropout;
    let row = (((batch * plan.heads + head) * plan.queries + m) as u64) << 32;
    let last = band.len() as u64;
    for (l, w) in band.iter_mut().enumerate() {
        *w *= keep.factor(row | (last - 1 - l as u64));
    }
    for (j, w) in extra.iter_mut().enumerate() {
        *w *= keep.factor(row | 1 << 31 | j as u64);
    }
}

struct Backward<'a> {
    tile: Head<'a>,
    grad: &'a [f32],
    dq: Shared,
    dk: Shared,
    dv: Shared,
    partial: &'a mut Partial,
}

impl Task for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            tile: mut t,
            grad,
            dq,
            dk,
            dv,
            partial,
        } = self;
        let plan = t.plan;
        let (keep, n, d, width) = (t.keep, plan.persistent, plan.head_dim, plan.width());
        let scale = plan.scale;
        let mut upstream = vec![0.0; t.scores.len()];
        let mut upstream_extra = vec![0.0; t.extra.len()];
        let mut dropped = vec![0.0; keep];
        let mut dropped_extra = vec![0.0; n];
        for m in (0..plan.queries).step_by(t.tile) {
            let rows = t.tile.min(plan.queries - m);
            let span = t.span(rows);
            let inverses = t.exponentials::<FMA>(m, rows);
            let dout = Mat::new(&grad[t.query_at(m)..], rows, d, width);
            product(&mut upstream, span, 1.0, dout, t.values(m, span).t(), false);
            if n > 0 {
                let v = t.persistent_value().t();
                product(&mut upstream_extra, n, 1.0, dout, v, false);
            }
            let mask = if plan.masked { t.mask() } else { &[] };
            for r in 0..rows {
                let inverse = inverses[r];
                let band = &mut t.band[r * keep..][..keep];
                let extra = &mut t.extra[r * n..][..n];
                let weights_row = &mut t.scores[r * span..][..span];
                weights_row[..r].fill(0.0);
                weights_row[r + keep..].fill(0.0);
                let weights = &mut weights_row[r..r + keep];
                let da_row = &mut upstream[r * span..][..span];
                da_row[..r].fill(0.0);
                da_row[r + keep..].fill(0.0);
                let da = &mut da_row[r..r + keep];
                let da_extra = &mut upstream_extra[r * n..][..n];

                if plan.dropout.active() {
                    dropped.fill(1.0);
                    dropped_extra.fill(1.0);
                    drop_row(
                        plan,
                        t.batch,
                        t.head,
                        m + r,
                        &mut dropped,
                        &mut dropped_extra,
                    );
                    for (g, f) in da.iter_mut().zip(&dropped) {
                        *g *= f;
                    }
                    for (g, f) in da_extra.iter_mut().zip(&dropped_extra) {
                        *g *= f;
                    }
                }
                // Attention weights before dropout: a = e·m / total, persistent e / total.
                if plan.masked {
                    for ((w, e), m) in weights.iter_mut().zip(&*band).zip(mask) {
                        *w = e * m * inverse;
                    }
                } else {
                    for (w, e) in weights.iter_mut().zip(&*band) {
                        *w = e * inverse;
                    }
                }
                // Σ da·a over the whole row.
                let mut inner = simd::sum2(da, weights, |x, y| x * y);
                inner += inverse * simd::sum2(da_extra, extra, |x, y| x * y);
                if plan.masked {
                    // total = Σ e·m + Σ e_persistent + ε·Z, so d(loss)/d(e_l) = (m_l·(da_l − inner) − ε·inner) / total;
                    // a column whose mask is 0 has no weight in any of the sums and no gradient.
                    let base = plan.epsilon * inner;
                    let dm = &mut partial.mask[(t.head + 1) * plan.window - keep..][..keep];
                    for l in 0..keep {
                        let g = (da[l] - inner) * inverse * band[l];
                        dm[l] += g;
                        da[l] = g * mask[l] - base * inverse * band[l];
                    }
                    for (g, e) in da_extra.iter_mut().zip(&*extra) {
                        *g = (*g - inner - base) * inverse * e;
                    }
                } else {
                    for (g, w) in da.iter_mut().zip(&*weights) {
                        *g = (*g - inner) * w;
                    }
                    for (g, e) in da_extra.iter_mut().zip(&*extra) {
                        *g = (*g - inner) * inverse * e;
                    }
                }
                // What multiplies the values: weights after dropout.
                if plan.dropout.active() {
                    for (w, f) in weights.iter_mut().zip(&dropped) {
                        *w *= f;
                    }
                    for (e, f) in extra.iter_mut().zip(&dropped_extra) {
                        *e *= f * inverse;
                    }
                } else {
                    for e in extra.iter_mut() {
                        *e *= inverse;
                    }
                }
                // The compact band of d(scores), for the relative table.
                band.copy_from_slice(da);
            }
            let q = t.queries(m, rows);
            let ds = Mat::new(&upstream, rows, span, span);
            let a = Mat::new(&t.scores, rows, span, span);
            // SAFETY: this task alone writes the columns of its (batch, head) in all three gradients.
            unsafe {
                let dq = dq.at(t.query_at(m));
                product_raw(dq, width, scale, ds, t.keys(m, span), false);
                product_raw(dk.at(t.key_at(m)), width, scale, ds.t(), q, true);
                product_raw(dv.at(t.key_at(m)), width, 1.0, a.t(), dout, true);
                if plan.relative {
                    let band = Mat::new(&t.band, rows, keep, keep);
                    product_raw(dq, width, scale, band, t.table().t(), true);
                }
                if n > 0 {
                    let ds = Mat::new(&upstream_extra, rows, n, n);
                    product_raw(dq, width, scale, ds, t.persistent_key().t(), true);
                }
            }
            if plan.relative {
                let band = Mat::new(&t.band, rows, keep, keep);
                let dst = &mut partial.relative[plan.window - keep..];
                product(dst, plan.window, scale, q.t(), band, true);
            }
            if n > 0 {
                let at = t.head * d * n;
                let ds = Mat::new(&upstream_extra, rows, n, n);
                let a = Mat::new(&t.extra, rows, n, n);
                product(&mut partial.persistent_key[at..], n, scale, q.t(), ds, true);
                product(
                    &mut partial.persistent_value[at..],
                    d,
                    1.0,
                    a.t(),
                    dout,
                    true,
                );
            }
        }
    }
}
