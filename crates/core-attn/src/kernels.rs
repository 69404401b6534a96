//! The slice kernels as Burn operations with their own backward passes, on flex and ndarray.
//!
//! Callers ask [`crate::cpu::has_kernels`] first and use the composition of tensor operations elsewhere. Optional tensors
//! travel as one-element stand-ins, since an operation has a fixed list of parents; the plan says which are real.

#![allow(deprecated)] // ndarray is deprecated upstream; it is kept as a second, independent CPU implementation

use crate::banded::{self, BandedAttention, Persistent, Plan, SpanMask};
use crate::cpu::Raw;
use crate::dense::{self, Attention};
use crate::dropout::Keep;
use crate::softmax;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::prelude::*;

#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub(crate) trait Kernels: Backend {
    #[allow(clippy::too_many_arguments)]
    fn banded_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        relative: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        persistent_key: FloatTensor<Self>,
        persistent_value: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;

    fn dense_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        plan: dense::Plan,
    ) -> FloatTensor<Self>;

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self>;

    fn keyed_dropout(x: FloatTensor<Self>, keep: Keep) -> FloatTensor<Self>;
}

macro_rules! implement {
    ($backend:ty) => {
        impl Kernels for $backend {
            fn banded_attention(
                query: FloatTensor<Self>,
                key: FloatTensor<Self>,
                value: FloatTensor<Self>,
                relative: FloatTensor<Self>,
                mask: FloatTensor<Self>,
                persistent_key: FloatTensor<Self>,
                persistent_value: FloatTensor<Self>,
                plan: Plan,
            ) -> FloatTensor<Self> {
                let tensors = [
                    query,
                    key,
                    value,
                    relative,
                    mask,
                    persistent_key,
                    persistent_value,
                ];
                let out = with_inputs::<Self, _>(&tensors, |x| banded::forward(&plan, x));
                Self::make(out, Shape::new([plan.batch, plan.queries, plan.width()]))
            }

            fn dense_attention(
                query: FloatTensor<Self>,
                key: FloatTensor<Self>,
                value: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                plan: dense::Plan,
            ) -> FloatTensor<Self> {
                let tensors = [query, key, value, bias];
                let out = with_dense::<Self, _>(&tensors, |x| dense::forward(&plan, x));
                let width = plan.heads * plan.value_dim;
                Self::make(out, Shape::new([plan.batch, plan.queries, width]))
            }

            fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
                let shape = shape_of::<Self>(&x);
                let row = shape[shape.num_dims() - 1];
                let out = Self::with(&x, |x| softmax::rows(x, row));
                Self::make(out, shape)
            }

            fn keyed_dropout(x: FloatTensor<Self>, keep: Keep) -> FloatTensor<Self> {
                drop_elements::<Self>(x, keep)
            }
        }
    };
}

#[cfg(feature = "flex")]
implement!(burn::backend::Flex);
#[cfg(feature = "ndarray")]
implement!(burn::backend::NdArray);

/// Calls `f` with the seven tensors of a banded attention as slices.
fn with_inputs<B: Raw, R>(
    tensors: &[FloatTensor<B>; 7],
    f: impl FnOnce(&banded::Inputs<'_>) -> R,
) -> R {
    let [q, k, v, relative, mask, pk, pv] = tensors;
    B::with(q, |query| {
        B::with(k, |key| {
            B::with(v, |value| {
                B::with(relative, |relative| {
                    B::with(mask, |mask| {
                        B::with(pk, |persistent_key| {
                            B::with(pv, |persistent_value| {
                                f(&banded::Inputs {
                                    query,
                                    key,
                                    value,
                                    relative,
                                    mask,
                                    persistent_key,
                                    persistent_value,
                                })
                            })
                        })
                    })
                })
            })
        })
    })
}

/// Calls `f` with the four tensors of a dense attention as slices.
fn with_dense<B: Raw, R>(
    tensors: &[FloatTensor<B>; 4],
    f: impl FnOnce(&dense::Inputs<'_>) -> R,
) -> R {
    let [q, k, v, bias] = tensors;
    B::with(q, |query| {
        B::with(k, |key| {
            B::with(v, |value| {
                B::with(bias, |bias| {
                    f(&dense::Inputs {
                        query,
                        key,
                        value,
                        bias,
                    })
                })
            })
        })
    })
}

fn drop_elements<B: Raw>(x: FloatTensor<B>, keep: Keep) -> FloatTensor<B> {
    let shape = shape_of::<B>(&x);
    let out = B::with(&x, |x| {
        let pairs = x.iter().enumerate();
        pairs.map(|(i, v)| v * keep.factor(i as u64)).collect()
    });
    B::make(out, shape)
}

fn shape_of<B: Backend>(x: &FloatTensor<B>) -> Shape {
    use burn::backend::TensorMetadata;
    x.shape()
}

impl<B: Kernels + Raw, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn banded_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        relative: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        persistent_key: FloatTensor<Self>,
        persistent_value: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Banded;

        impl<B: Kernels + Raw> Backward<B, 7> for Banded {
            type State = ([NodeId; 7], Plan);

            fn backward(
                self,
                ops: Ops<Self::State, 7>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (ids, plan) = ops.state;
                let grad = grads.consume::<B>(&ops.node);
                let tensors: [FloatTensor<B>; 7] =
                    ids.map(|id| checkpointer.retrieve_node_output(id));
                let out = B::with(&grad, |grad| {
                    with_inputs::<B, _>(&tensors, |x| banded::backward(&plan, x, grad))
                });
                let parts = [
                    out.query,
                    out.key,
                    out.value,
                    out.relative,
                    out.mask,
                    out.persistent_key,
                    out.persistent_value,
                ];
                for ((node, part), tensor) in ops.parents.into_iter().zip(parts).zip(&tensors) {
                    // Stand-ins of absent arguments have no gradient.
                    if let Some(node) = node
                        && !part.is_empty()
                    {
                        grads.register::<B>(node.id, B::make(part, shape_of::<B>(tensor)));
                    }
                }
            }
        }

        let tensors = [
            query,
            key,
            value,
            relative,
            mask,
            persistent_key,
            persistent_value,
        ];
        let nodes = tensors.each_ref().map(|t| t.node());
        match Banded.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = tensors.each_ref().map(|t| prep.checkpoint(t));
                let [q, k, v, r, m, pk, pv] = tensors.map(|t| t.into_primitive());
                let out = B::banded_attention(q, k, v, r, m, pk, pv, plan.clone());
                prep.finish((ids, plan), out)
            }
            OpsKind::UnTracked(prep) => {
                let [q, k, v, r, m, pk, pv] = tensors.map(|t| t.into_primitive());
                prep.finish(B::banded_attention(q, k, v, r, m, pk, pv, plan))
            }
        }
    }

    fn dense_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        plan: dense::Plan,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Dense;

        impl<B: Kernels + Raw> Backward<B, 4> for Dense {
            type State = ([NodeId; 4], dense::Plan);

            fn backward(
                self,
                ops: Ops<Self::State, 4>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (ids, plan) = ops.state;
                let grad = grads.consume::<B>(&ops.node);
                let tensors: [FloatTensor<B>; 4] =
                    ids.map(|id| checkpointer.retrieve_node_output(id));
                let want_bias = plan.bias.is_some() && ops.parents[3].is_some();
                let out = B::with(&grad, |grad| {
                    with_dense::<B, _>(&tensors, |x| dense::backward(&plan, x, grad, want_bias))
                });
                let parts = [out.query, out.key, out.value, out.bias];
                for ((node, part), tensor) in ops.parents.into_iter().zip(parts).zip(&tensors) {
                    if let Some(node) = node
                        && !part.is_empty()
                    {
                        grads.register::<B>(node.id, B::make(part, shape_of::<B>(tensor)));
                    }
                }
            }
        }

        let tensors = [query, key, value, bias];
        let nodes = tensors.each_ref().map(|t| t.node());
        match Dense.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = tensors.each_ref().map(|t| prep.checkpoint(t));
                let [q, k, v, bias] = tensors.map(|t| t.into_primitive());
                let out = B::dense_attention(q, k, v, bias, plan.clone());
                prep.finish((ids, plan), out)
            }
            OpsKind::UnTracked(prep) => {
                let [q, k, v, bias] = tensors.map(|t| t.into_primitive());
                prep.finish(B::dense_attention(q, k, v, bias, plan))
            }
        }
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Softmax;

        impl<B: Kernels + Raw> Backward<B, 1> for Softmax {
            type State = FloatTensor<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let [node] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                if let Some(node) = node {
                    let shape = shape_of::<B>(&ops.state);
                    let row = shape[shape.num_dims() - 1];
                    let out = B::with(&ops.state, |y| {
                        B::with(&grad, |g| softmax::rows_backward(y, g, row))
                    });
                    grads.register::<B>(node.id, B::make(out, shape));
                }
            }
        }

        match Softmax.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::row_softmax(x.into_primitive());
                prep.finish(y.clone(), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::row_softmax(x.into_primitive())),
        }
    }

    fn keyed_dropout(x: FloatTensor<Self>, keep: Keep) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Drop;

        impl<B: Kernels + Raw> Backward<B, 1> for Drop {
            type State = Keep;

            fn backward(self, ops: Ops<Keep, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                if let Some(node) = node {
                    grads.register::<B>(node.id, drop_elements::<B>(grad, ops.state));
                }
            }
        }

        match Drop.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(keep, B::keyed_dropout(x.into_primitive(), keep)),
            OpsKind::UnTracked(prep) => prep.finish(B::keyed_dropout(x.into_primitive(), keep)),
        }
    }
}

/// Runs the banded kernel; the caller has checked the plan and the device.
pub(crate) fn banded(input: BandedAttention, plan: Plan) -> Tensor<3> {
    let device = input.query.device();
    let mask = input.span.map(|span| match span.mask {
        SpanMask::PerHead(mask) => mask,
        SpanMask::PerQuery(_) => unreachable!("windows per query take the composition"),
    });
    let (pk, pv) = match input.persistent {
        Some(Persistent { key, value }) => (key, value),
        None => (
            Tensor::zeros([1, 1, 1], &device),
            Tensor::zeros([1, 1, 1], &device),
        ),
    };
    let absent = || Tensor::<2>::zeros([1, 1], &device);
    Tensor::from_dispatch(<Dispatch as Kernels>::banded_attention(
        input.query.into_dispatch(),
        input.key.into_dispatch(),
        input.value.into_dispatch(),
        input.relative.unwrap_or_else(absent).into_dispatch(),
        mask.unwrap_or_else(absent).into_dispatch(),
        pk.into_dispatch(),
        pv.into_dispatch(),
        plan,
    ))
}

/// Runs the dense kernel; the caller has checked the plan and the device.
pub(crate) fn dense(input: Attention, plan: dense::Plan) -> Tensor<3> {
    let bias = dense::additive(&input)
        .unwrap_or_else(|| Tensor::zeros([1, 1, 1, 1], &input.query.device()));
    Tensor::from_dispatch(<Dispatch as Kernels>::dense_attention(
        input.query.into_dispatch(),
        input.key.into_dispatch(),
        input.value.into_dispatch(),
        bias.into_dispatch(),
        plan,
    ))
}

/// Runs the softmax kernel over the last dimension; the caller has checked the device.
pub(crate) fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Kernels>::row_softmax(x.into_dispatch()))
}

/// Runs the dropout kernel; the caller has checked the device.
pub(crate) fn dropout<const D: usize>(x: Tensor<D>, keep: Keep) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Kernels>::keyed_dropout(
        x.into_dispatch(),
        keep,
    ))
}
