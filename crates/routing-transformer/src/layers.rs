//! Small parts that both flavors share.

use crate::stats::RoutingStats;
use burn::module::Param;
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::routed::{Members, PrefixMembers};

/// How a forward pass runs.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// The stream of random numbers for every dropout, with the rates of the configuration; `None` in evaluation.
    pub dropout: Option<core_attn::random::Key>,
    /// Whether clusters take their members from a position's past alone; `None`: as the configuration says.
    pub strict_causal_routing: Option<bool>,
}

impl Mode {
    /// Evaluation: no dropout.
    pub const fn evaluation() -> Self {
        Self {
            dropout: None,
            strict_causal_routing: None,
        }
    }

    /// Training with the dropout that `key` draws.
    pub const fn training(key: core_attn::random::Key) -> Self {
        Self {
            dropout: Some(key),
            strict_causal_routing: None,
        }
    }

    /// Dropout of a configured rate at a place of the model.
    pub(crate) fn drop(self, rate: f64, site: &str) -> Dropout {
        let drop = |key| Dropout::new(rate, key).ok();
        let drop = self.dropout.and_then(|key| drop(key.site(site)));
        drop.unwrap_or_else(Dropout::off)
    }
}

/// What a routed layer saw and decided.
#[derive(Debug, Clone)]
pub struct Routed {
    /// Index of the layer.
    pub layer: usize,
    /// What the centroids need for their update: the queries, then the keys where they are not shared.
    pub seen: Vec<crate::kmeans::ClusterSums>,
    /// How the positions are spread.
    pub stats: RoutingStats,
    /// Similarity of the queries, then of the keys, to the centroids: `[batch, heads, length, clusters]`.
    pub similarity: Vec<Tensor<4>>,
    /// Members among the queries, then among the keys; empty where a position's prefix decides.
    pub members: Vec<Members>,
    /// The members that each position's prefix gives it, where that decides.
    pub prefix: Option<std::sync::Arc<PrefixMembers>>,
}

/// One layer's tensors, handed to whoever watches a forward pass.
#[derive(Debug)]
pub struct LayerView<'a> {
    /// Index of the layer.
    pub layer: usize,
    /// Output of the attention before the residual sum: `[batch, length, hidden]`.
    pub attn_out: &'a Tensor<3>,
    /// Output of the feed-forward layer before the residual sum: `[batch, length, hidden]`.
    pub ff_out: &'a Tensor<3>,
}

/// What a forward pass gives.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[batch, length, hidden]`, after the last layer.
    pub hidden: Tensor<3>,
    /// `[batch, length, vocab]`.
    pub logits: Tensor<3>,
    /// Sum of the layers' clustering losses, `[1]`.
    pub clustering_loss: Tensor<1>,
    /// What every routed layer saw, for [`crate::RoutingTransformerLM::with_centroids`].
    pub routed: Vec<Routed>,
}

/// `[batch, length, in]` times `[in, out]`, as one product of `batch · length` rows.
pub(crate) fn project(x: Tensor<3>, weight: &Param<Tensor<2>>) -> Tensor<3> {
    let [batch, length, width] = x.dims();
    let weight = weight.val();
    let [_, out] = weight.dims();
    x.reshape([batch * length, width])
        .matmul(weight)
        .reshape([batch, length, out])
}

/// [`project`] with a bias.
pub(crate) fn affine(
    x: Tensor<3>,
    weight: &Param<Tensor<2>>,
    bias: &Param<Tensor<1>>,
) -> Tensor<3> {
    project(x, weight) + bias.val().unsqueeze()
}

/// `[batch, length, heads · head_dim]` to `[batch, heads, length, head_dim]`.
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads.max(1)])
        .swap_dims(1, 2)
}

/// `[batch, heads, length, head_dim]` to `[batch, length, heads · head_dim]`.
pub(crate) fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * width])
}

/// Rows of a table by id: `[ids, width]` and `[batch, length]` to `[batch, length, width]`.
pub(crate) fn embed(table: &Param<Tensor<2>>, ids: Tensor<2, Int>) -> Tensor<3> {
    let [batch, length] = ids.dims();
    let table = table.val();
    let [_, width] = table.dims();
    table
        .select(0, ids.reshape([batch * length]))
        .reshape([batch, length, width])
}

/// Ids on the host, checked against the vocabulary.
///
/// # Errors
/// An empty input or an id the model does not have.
pub(crate) fn checked_ids(ids: &Tensor<2, Int>, vocab: usize) -> crate::Result<()> {
    let [batch, length] = ids.dims();
    if batch * length == 0 {
        let found = format!("[{batch}, {length}]");
        return Err(crate::error::input(
            "tokens",
            found,
            "expected at least one token",
        ));
    }
    let bad = ids
        .clone()
        .into_data()
        .iter::<i64>()
        .find(|id| *id < 0 || *id >= vocab as i64);
    match bad {
        Some(id) => Err(crate::error::input(
            "a token id",
            id,
            format!("expected one of 0..{vocab}"),
        )),
        None => Ok(()),
    }
}
