//! The time convolution as a Burn operation with its own backward pass, on flex and ndarray.

#![allow(deprecated)] // ndarray is deprecated upstream; it is kept as a second, independent CPU implementation

use crate::cpu::Raw;
use crate::cpu::simd::{Task, dispatch, fma, sum2};
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::prelude::*;
use rayon::prelude::*;

/// The sizes of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    batch: usize,
    heads: usize,
    length: usize,
    dim: usize,
    size: usize,
}

impl Plan {
    fn shape(&self) -> Shape {
        Shape::new([self.batch, self.heads, self.length, self.dim])
    }
}

#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub(crate) trait TimeConvolution: Backend {
    fn filter_time(
        value: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;
}

macro_rules! implement {
    ($backend:ty) => {
        impl TimeConvolution for $backend {
            fn filter_time(
                value: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                plan: Plan,
            ) -> FloatTensor<Self> {
                let out = Self::with(&value, |v| Self::with(&weight, |w| filter(&plan, v, w)));
                Self::make(out, plan.shape())
            }
        }
    };
}

#[cfg(feature = "flex")]
implement!(burn::backend::Flex);
#[cfg(feature = "ndarray")]
implement!(burn::backend::NdArray);

impl<B: TimeConvolution + Raw, C: CheckpointStrategy> TimeConvolution for Autodiff<B, C> {
    fn filter_time(
        value: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Filter;

        impl<B: TimeConvolution + Raw> Backward<B, 2> for Filter {
            type State = ([NodeId; 2], Plan);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (ids, plan) = ops.state;
                let grad = grads.consume::<B>(&ops.node);
                let [value, weight]: [FloatTensor<B>; 2] =
                    ids.map(|id| checkpointer.retrieve_node_output(id));
                let [value_node, weight_node] = ops.parents;
                if let Some(node) = value_node {
                    let out = B::with(&grad, |g| {
                        B::with(&weight, |w| {
                            // The transpose of a centred filter is the filter reversed.
                            let reversed: Vec<f32> = w
                                .chunks_exact(plan.size)
                                .flat_map(|w| w.iter().rev().copied())
                                .collect();
                            filter(&plan, g, &reversed)
                        })
                    });
                    grads.register::<B>(node.id, B::make(out, plan.shape()));
                }
                if let Some(node) = weight_node {
                    let out = B::with(&grad, |g| B::with(&value, |v| filter_gradient(&plan, v, g)));
                    let shape = Shape::new([plan.heads, plan.size]);
                    grads.register::<B>(node.id, B::make(out, shape));
                }
            }
        }

        let nodes = [value.node(), weight.node()];
        match Filter.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [prep.checkpoint(&value), prep.checkpoint(&weight)];
                let out = B::filter_time(value.into_primitive(), weight.into_primitive(), plan);
                prep.finish((ids, plan), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::filter_time(
                value.into_primitive(),
                weight.into_primitive(),
                plan,
            )),
        }
    }
}

/// Runs the kernel; the caller has checked shapes and device.
pub(super) fn time_convolution(value: Tensor<4>, weight: Tensor<2>) -> Tensor<4> {
    let [batch, heads, length, dim] = value.dims();
    let [_, size] = weight.dims();
    let plan = Plan {
        batch,
        heads,
        length,
        dim,
        size,
    };
    Tensor::from_dispatch(<Dispatch as TimeConvolution>::filter_time(
        value.into_dispatch(),
        weight.into_dispatch(),
        plan,
    ))
}

/// Rows of output that one task fills.
const ROWS: usize = 256;
/// Channels summed in registers.
const LANES: usize = 16;

/// `out[t] = Σ_s w[s] · x[t + s − size/2]` for every head.
fn filter(plan: &Plan, x: &[f32], w: &[f32]) -> Vec<f32> {
    let (n, d) = (plan.length, plan.dim);
    let mut out = vec![0.0; x.len()];
    let heads = out.par_chunks_mut(n * d).enumerate();
    heads.for_each(|(head, out)| {
        let x = &x[head * n * d..][..n * d];
        let w = &w[head % plan.heads * plan.size..][..plan.size];
        let blocks = out.par_chunks_mut(ROWS * d).enumerate();
        blocks.for_each(|(i, out)| {
            dispatch(Rows {
                out,
                first: i * ROWS,
                x,
                w,
                dim: d,
            });
        });
    });
    out
}

/// Some rows of one head.
struct Rows<'a> {
    out: &'a mut [f32],
    first: usize,
    x: &'a [f32],
    w: &'a [f32],
    dim: usize,
}

impl Task for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (d, half) = (self.dim, self.w.len() / 2);
        let length = self.x.len() / d;
        for (i, row) in self.out.chunks_exact_mut(d).enumerate() {
            let t = self.first + i;
            // The places of the filter that lie inside the sequence, and the first row they meet.
            let low = half.saturating_sub(t);
            let high = self.w.len().min(length + half - t);
            let w = &self.w[low..high];
            let x = &self.x[(t + low - half) * d..];
            let (chunks, tail) = row.as_chunks_mut::<LANES>();
            let whole = chunks.len() * LANES;
            for (c, chunk) in chunks.iter_mut().enumerate() {
                let mut sum = [0.0f32; LANES];
                for (s, &w) in w.iter().enumerate() {
                    let x = &x[s * d + c * LANES..][..LANES];
                    for (sum, &x) in sum.iter_mut().zip(x) {
                        *sum = fma::<FMA>(w, x, *sum);
                    }
                }
                *chunk = sum;
            }
            for (c, out) in tail.iter_mut().enumerate() {
                let places = w.iter().enumerate();
                *out = places.fold(0.0, |sum, (s, &w)| fma::<FMA>(w, x[s * d + whole + c], sum));
            }
        }
    }
}

/// `Σ_{b,t} ⟨g[t], x[t + s − size/2]⟩` for every head and place `s`, summed in a fixed order.
fn filter_gradient(plan: &Plan, x: &[f32], g: &[f32]) -> Vec<f32> {
    struct Dot<'a>(&'a [f32], &'a [f32]);
    impl Task for Dot<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<const FMA: bool>(self) -> f32 {
            sum2(self.0, self.1, |a, b| a * b)
        }
    }

    let (n, d, half) = (plan.length, plan.dim, plan.size / 2);
    let places = (0..plan.heads * plan.size).into_par_iter();
    let sums = places.map(|i| {
        let (head, s) = (i / plan.size, i % plan.size);
        // Rows t of the gradient that meet a row t + s − half of the values: both runs are contiguous.
        let (from_g, from_x) = (half.saturating_sub(s), s.saturating_sub(half));
        let rows = n.saturating_sub(from_g.max(from_x));
        let batches = (0..plan.batch).map(|b| {
            let at = (b * plan.heads + head) * n * d;
            let g = &g[at + from_g.min(n) * d..][..rows * d];
            let x = &x[at + from_x.min(n) * d..][..rows * d];
            dispatch(Dot(g, x))
        });
        batches.sum()
    });
    sums.collect()
}
