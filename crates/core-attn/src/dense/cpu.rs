//! Dense attention over slices: tiles of queries against all keys; the backward pass computes the scores again.
//!
//! One task is one (batch, head) and so owns its part of the three gradients; the gradient of a broadcast bias is summed in
//! a fixed order, so any number of threads gives the same bits.

use super::Plan;
use crate::cpu::Shared;
use crate::cpu::gemm::{Mat, product_raw};
use crate::cpu::simd::{self, Task, dispatch};
use rayon::prelude::*;

/// The arguments as slices, in the shapes of [`super::Attention`].
pub(crate) struct Inputs<'a> {
    pub query: &'a [f32],
    pub key: &'a [f32],
    pub value: &'a [f32],
    /// Broadcast in its first two dimensions as the plan says.
    pub bias: &'a [f32],
}

/// Gradients in the shapes of the inputs; that of the bias is empty where it was not asked for.
pub(crate) struct Gradients {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Bias gradients are gathered in this many partial buffers, whatever the number of threads.
const GROUPS: usize = 4;

/// Scores of a tile at most, so that it stays in the second-level cache.
const TILE_SCORES: usize = 1 << 16;

/// `[batch, query, heads · value_dim]`.
pub(crate) fn forward(plan: &Plan, x: &Inputs<'_>) -> Vec<f32> {
    let mut out = vec![0.0; plan.batch * plan.queries * plan.heads * plan.value_dim];
    let shared = Shared::new(&mut out);
    let tile = tile(plan);
    let tiles = plan.queries.div_ceil(tile);
    (0..plan.batch * plan.heads * tiles)
        .into_par_iter()
        .for_each(|i| {
            dispatch(Forward {
                head: Head::new(plan, x, i / tiles),
                first: i % tiles * tile,
                out: shared,
            });
        });
    out
}

/// Gradients of `sum(out · grad)`; that of the bias only with `want_bias`.
pub(crate) fn backward(plan: &Plan, x: &Inputs<'_>, grad: &[f32], want_bias: bool) -> Gradients {
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
    let size = if want_bias { x.bias.len() } else { 0 };
    let groups = if want_bias { GROUPS.min(tasks) } else { tasks };
    let partial: Vec<Vec<f32>> = (0..groups)
        .into_par_iter()
        .map(|group| {
            let mut bias = vec![0.0; size];
            for task in (group..tasks).step_by(groups) {
                dispatch(Backward {
                    head: Head::new(plan, x, task),
                    grad,
                    dq,
                    dk,
                    dv,
                    bias: &mut bias,
                });
            }
            bias
        })
        .collect();
    let mut bias = vec![0.0; size];
    for part in &partial {
        for (a, b) in bias.iter_mut().zip(part) {
            *a += b;
        }
    }
    Gradients {
        query,
        key,
        value,
        bias,
    }
}

fn tile(plan: &Plan) -> usize {
    (TILE_SCORES / plan.keys).clamp(8, 64).min(plan.queries)
}

struct Head<'a> {
    plan: &'a Plan,
    x: &'a Inputs<'a>,
    batch: usize,
    head: usize,
}

impl<'a> Head<'a> {
    fn new(plan: &'a Plan, x: &'a Inputs<'a>, task: usize) -> Self {
        Self {
            plan,
            x,
            batch: task / plan.heads,
            head: task % plan.heads,
        }
    }

    fn at(&self, length: usize, row: usize, dim: usize) -> usize {
        (self.batch * length + row) * self.plan.heads * dim + self.head * dim
    }

    fn queries(&self, m: usize, rows: usize) -> Mat<'a> {
        let (d, width) = (self.plan.head_dim, self.plan.heads * self.plan.head_dim);
        Mat::new(
            &self.x.query[self.at(self.plan.queries, m, d)..],
            rows,
            d,
            width,
        )
    }

    fn keys(&self) -> Mat<'a> {
        let (d, width) = (self.plan.head_dim, self.plan.heads * self.plan.head_dim);
        let at = self.at(self.plan.keys, 0, d);
        Mat::new(&self.x.key[at..], self.plan.keys, d, width)
    }

    fn values(&self) -> Mat<'a> {
        let (d, width) = (self.plan.value_dim, self.plan.heads * self.plan.value_dim);
        let at = self.at(self.plan.keys, 0, d);
        Mat::new(&self.x.value[at..], self.plan.keys, d, width)
    }

    /// Offset of the bias of query `m`, if anything is added to the scores.
    fn bias_at(&self, m: usize) -> Option<usize> {
        let [batch, heads] = self.plan.bias?;
        let plane = self.batch.min(batch - 1) * heads + self.head.min(heads - 1);
        Some((plane * self.plan.queries + m) * self.plan.keys)
    }

    /// Softmax of the tile's scores into `weights` `[rows, keys]`.
    #[inline(always)]
    fn softmax<const FMA: bool>(&self, m: usize, rows: usize, weights: &mut [f32]) {
        let n = self.plan.keys;
        let (q, k) = (self.queries(m, rows), self.keys().t());
        crate::cpu::gemm::product(weights, n, self.plan.scale, q, k, false);
        for r in 0..rows {
            let row = &mut weights[r * n..][..n];
            if let Some(at) = self.bias_at(m + r) {
                for (s, b) in row.iter_mut().zip(&self.x.bias[at..at + n]) {
                    *s += b;
                }
            }
            softmax_row::<FMA>(row);
        }
    }

    #[inline(always)]
    fn drop_row(&self, m: usize, row: &mut [f32]) {
        let plan = self.plan;
        let first = ((self.batch * plan.heads + self.head) * plan.queries + m) * plan.keys;
        for (j, w) in row.iter_mut().enumerate() {
            *w *= plan.dropout.factor((first + j) as u64);
        }
    }
}

/// Softmax of one row in place; a row of −∞ becomes zeros.
#[inline(always)]
pub(crate) fn softmax_row<const FMA: bool>(row: &mut [f32]) {
    let top = simd::max(row);
    if top == f32::NEG_INFINITY {
        let nan = row.iter().any(|x| x.is_nan());
        row.fill(if nan { f32::NAN } else { 0.0 });
        return;
    }
    let inverse = 1.0 / simd::exp_sum::<FMA>(row, top);
    for w in row {
        *w *= inverse;
    }
}

struct Forward<'a> {
    head: Head<'a>,
    first: usize,
    out: Shared,
}

impl Task for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            head,
            first: m,
            out,
        } = self;
        let plan = head.plan;
        let n = plan.keys;
        let rows = tile(plan).min(plan.queries - m);
        let mut weights = vec![0.0; rows * n];
        head.softmax::<FMA>(m, rows, &mut weights);
        if plan.dropout.active() {
            for (r, row) in weights.chunks_exact_mut(n).enumerate() {
                head.drop_row(m + r, row);
            }
        }
        // SAFETY: this task alone writes these rows of its (batch, head).
        unsafe {
            let dst = out.at(head.at(plan.queries, m, plan.value_dim));
            let a = Mat::new(&weights, rows, n, n);
            let width = plan.heads * plan.value_dim;
            product_raw(dst, width, 1.0, a, head.values(), false);
        }
    }
}

struct Backward<'a> {
    head: Head<'a>,
    grad: &'a [f32],
    dq: Shared,
    dk: Shared,
    dv: Shared,
    bias: &'a mut [f32],
}

impl Task for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            head,
            grad,
            dq,
            dk,
            dv,
            bias,
        } = self;
        let plan = head.plan;
        let (n, tile) = (plan.keys, tile(plan));
        let width = plan.heads * plan.head_dim;
        let value_width = plan.heads * plan.value_dim;
        let mut weights = vec![0.0; tile * n];
        let mut upstream = vec![0.0; tile * n];
        let mut factors = vec![1.0; if plan.dropout.active() { n } else { 0 }];
        for m in (0..plan.queries).step_by(tile) {
            let rows = tile.min(plan.queries - m);
            head.softmax::<FMA>(m, rows, &mut weights);
            let at = head.at(plan.queries, m, plan.value_dim);
            let dout = Mat::new(&grad[at..], rows, plan.value_dim, value_width);
            crate::cpu::gemm::product(&mut upstream, n, 1.0, dout, head.values().t(), false);
            for r in 0..rows {
                let w = &mut weights[r * n..][..n];
                let g = &mut upstream[r * n..][..n];
                if plan.dropout.active() {
                    factors.fill(1.0);
                    head.drop_row(m + r, &mut factors);
                    for (g, f) in g.iter_mut().zip(&factors) {
                        *g *= f;
                    }
                }
                let inner = simd::sum2(g, w, |x, y| x * y);
                for (g, w) in g.iter_mut().zip(&*w) {
                    *g = (*g - inner) * w;
                }
                if !bias.is_empty()
                    && let Some(at) = head.bias_at(m + r)
                {
                    for (b, g) in bias[at..at + n].iter_mut().zip(&*g) {
                        *b += g;
                    }
                }
                for (w, f) in w.iter_mut().zip(&factors) {
                    *w *= f;
                }
            }
            let q = head.queries(m, rows);
            let ds = Mat::new(&upstream, rows, n, n);
            let a = Mat::new(&weights, rows, n, n);
            // SAFETY: this task alone writes the columns of its (batch, head) in all three gradients.
            unsafe {
                let dq = dq.at(head.at(plan.queries, m, plan.head_dim));
                product_raw(dq, width, plan.scale, ds, head.keys(), false);
                let dk = dk.at(head.at(n, 0, plan.head_dim));
                product_raw(dk, width, plan.scale, ds.t(), q, true);
                let dv = dv.at(head.at(n, 0, plan.value_dim));
                product_raw(dv, value_width, 1.0, a.t(), dout, true);
            }
        }
    }
}
