//! The slice kernels as Burn operations with their own backward passes, on flex and ndarray.
#![allow(deprecated)] // ndarray is deprecated upstream; it is kept as a second, independent CPU implementation

use super::{Gelu, cpu};
use crate::cpu::Raw;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{
    Autodiff, Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::prelude::*;

/// How a GELU is computed, and whether its second argument is a bias or a stand-in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GeluPlan {
    kind: Gelu,
    biased: bool,
}

#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub(crate) trait Pointwise: Backend {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    fn fused_gelu(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        plan: GeluPlan,
    ) -> FloatTensor<Self>;

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

macro_rules! implement {
    ($backend:ty) => {
        impl Pointwise for $backend {
            fn fused_layer_norm(
                x: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                epsilon: f32,
            ) -> FloatTensor<Self> {
                let out = Self::with(&x, |x| {
                    Self::with(&gamma, |gamma| {
                        Self::with(&beta, |beta| cpu::layer_norm(x, gamma, beta, epsilon))
                    })
                });
                Self::make(out, x.shape())
            }

            fn fused_gelu(
                x: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                plan: GeluPlan,
            ) -> FloatTensor<Self> {
                let out = Self::with(&x, |v| {
                    Self::with(&bias, |bias| {
                        cpu::gelu(v, plan.real(bias), width::<Self>(&x), plan.kind)
                    })
                });
                Self::make(out, x.shape())
            }

            fn fused_cross_entropy(
                logits: FloatTensor<Self>,
                targets: FloatTensor<Self>,
            ) -> FloatTensor<Self> {
                let out = Self::with(&logits, |x| {
                    Self::with(&targets, |t| {
                        cpu::cross_entropy(x, t, width::<Self>(&logits))
                    })
                });
                Self::make(out, targets.shape())
            }
        }
    };
}

#[cfg(feature = "flex")]
implement!(burn::backend::Flex);
#[cfg(feature = "ndarray")]
implement!(burn::backend::NdArray);

impl GeluPlan {
    fn real(self, bias: &[f32]) -> &[f32] {
        if self.biased { bias } else { &[] }
    }
}

fn width<B: Backend>(x: &FloatTensor<B>) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - 1]
}

impl<B: Pointwise + Raw, C: CheckpointStrategy> Pointwise for Autodiff<B, C> {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Norm;

        impl<B: Pointwise + Raw> Backward<B, 3> for Norm {
            type State = ([NodeId; 2], f32);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (ids, epsilon) = ops.state;
                let grad = grads.consume::<B>(&ops.node);
                let [x, gamma]: [FloatTensor<B>; 2] =
                    ids.map(|id| checkpointer.retrieve_node_output(id));
                let (dx, dgamma, dbeta) = B::with(&x, |x| {
                    B::with(&gamma, |gamma| {
                        B::with(&grad, |grad| {
                            cpu::layer_norm_backward(x, gamma, grad, epsilon)
                        })
                    })
                });
                let shapes = [x.shape(), gamma.shape(), gamma.shape()];
                let parts = [dx, dgamma, dbeta].into_iter().zip(shapes);
                for (node, (part, shape)) in ops.parents.into_iter().zip(parts) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, B::make(part, shape));
                    }
                }
            }
        }

        let nodes = [x.node(), gamma.node(), beta.node()];
        match Norm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [prep.checkpoint(&x), prep.checkpoint(&gamma)];
                let [x, gamma, beta] = [x, gamma, beta].map(|t| t.into_primitive());
                let out = B::fused_layer_norm(x, gamma, beta, epsilon);
                prep.finish((ids, epsilon), out)
            }
            OpsKind::UnTracked(prep) => {
                let [x, gamma, beta] = [x, gamma, beta].map(|t| t.into_primitive());
                prep.finish(B::fused_layer_norm(x, gamma, beta, epsilon))
            }
        }
    }

    fn fused_gelu(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        plan: GeluPlan,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Activation;

        impl<B: Pointwise + Raw> Backward<B, 2> for Activation {
            type State = ([NodeId; 2], GeluPlan);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (ids, plan) = ops.state;
                let grad = grads.consume::<B>(&ops.node);
                let [x, bias]: [FloatTensor<B>; 2] =
                    ids.map(|id| checkpointer.retrieve_node_output(id));
                let (dx, dbias) = B::with(&x, |v| {
                    B::with(&bias, |bias| {
                        B::with(&grad, |grad| {
                            cpu::gelu_backward(v, plan.real(bias), grad, width::<B>(&x), plan.kind)
                        })
                    })
                });
                let parts = [(dx, x.shape()), (dbias, bias.shape())];
                for (node, (part, shape)) in ops.parents.into_iter().zip(parts) {
                    if let Some(node) = node
                        && !part.is_empty()
                    {
                        grads.register::<B>(node.id, B::make(part, shape));
                    }
                }
            }
        }

        let nodes = [x.node(), bias.node()];
        match Activation.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [prep.checkpoint(&x), prep.checkpoint(&bias)];
                let out = B::fused_gelu(x.into_primitive(), bias.into_primitive(), plan);
                prep.finish((ids, plan), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_gelu(
                x.into_primitive(),
                bias.into_primitive(),
                plan,
            )),
        }
    }

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Loss;

        impl<B: Pointwise + Raw> Backward<B, 1> for Loss {
            type State = (NodeId, FloatTensor<B>);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (id, targets) = ops.state;
                let grad = grads.consume::<B>(&ops.node);
                let logits: FloatTensor<B> = checkpointer.retrieve_node_output(id);
                let [node] = ops.parents;
                if let Some(node) = node {
                    let out = B::with(&logits, |x| {
                        B::with(&targets, |t| {
                            B::with(&grad, |g| {
                                cpu::cross_entropy_backward(x, t, g, width::<B>(&logits))
                            })
                        })
                    });
                    grads.register::<B>(node.id, B::make(out, logits.shape()));
                }
            }
        }

        let targets = targets.into_primitive();
        match Loss
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let id = prep.checkpoint(&logits);
                let out = B::fused_cross_entropy(logits.into_primitive(), targets.clone());
                prep.finish((id, targets), out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_cross_entropy(logits.into_primitive(), targets))
            }
        }
    }
}

pub(super) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f32,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Pointwise>::fused_layer_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon,
    ))
}

pub(super) fn gelu<const D: usize>(x: Tensor<D>, bias: Option<Tensor<1>>, kind: Gelu) -> Tensor<D> {
    let plan = GeluPlan {
        kind,
        biased: bias.is_some(),
    };
    let bias = bias.unwrap_or_else(|| Tensor::zeros([1], &x.device()));
    Tensor::from_dispatch(<Dispatch as Pointwise>::fused_gelu(
        x.into_dispatch(),
        bias.into_dispatch(),
        plan,
    ))
}

pub(super) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Pointwise>::fused_cross_entropy(
        logits.into_dispatch(),
        targets.into_dispatch(),
    ))
}
