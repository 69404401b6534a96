//! Attention of mixed local and routing heads (sections 3 and 4 of the paper).

use super::config::PaperConfig;
use crate::config::EmaCountRule;
use crate::error::Result;
use crate::kmeans::{ClusterSums, OnlineKMeans, codebook, commitment, similarity, sphere};
use crate::layers::{Mode, Routed, merge_heads, project, split_heads};
use crate::stats::RoutingStats;
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::random::Key;
use core_attn::routed::{
    Hide, LocalAttention, MemberOrder, RoutedAttention, Routing, Scores, Shaw, blank_rows,
    local_attention, routed_attention,
};

/// Added to a hidden score.
pub(super) const HIDDEN: Hide = Hide::Add(-1e9);
/// Added to the number of a position's clusters; one cluster alone is thus divided by 1.01.
pub(super) const EPSILON: f64 = 1e-2;
/// Of the normalisation onto the sphere.
pub(super) const SPHERE_EPSILON: f64 = 1e-6;

/// Relative embeddings of one kind of head, shared by all heads of the layer: both `[2 · max_relative_position + 1, head_dim]`.
#[derive(Module, Debug)]
pub struct RelativeTables {
    /// Added to the keys.
    pub keys: Param<Tensor<2>>,
    /// Added to the values.
    pub values: Param<Tensor<2>>,
}

impl RelativeTables {
    fn new(config: &PaperConfig, key: Key, device: &Device) -> Self {
        let rows = 2 * config.max_relative_position.unwrap_or(0) + 1;
        let table = |name| unit_scaling([rows, config.head_dim()], key.site(name), device);
        Self {
            keys: table("keys"),
            values: table("values"),
        }
    }

    fn shaw(&self) -> Shaw {
        Shaw {
            key: self.keys.val(),
            value: self.values.val(),
        }
    }
}

/// The reference's initial values: uniform, scaled by the first dimension, gain 0.2.
pub(super) fn unit_scaling(shape: [usize; 2], key: Key, device: &Device) -> Param<Tensor<2>> {
    let bound = (3.0 / shape[0].max(1) as f64).sqrt() * 0.2;
    init::uniform(shape, bound, key, device)
}

/// Local and routing heads of a layer.
#[derive(Module, Debug)]
pub struct PaperAttention {
    /// `[hidden, hidden]`.
    pub q: Param<Tensor<2>>,
    /// `[hidden, hidden]`; without local heads and with shared queries nothing uses it.
    pub k: Param<Tensor<2>>,
    /// `[hidden, hidden]`.
    pub v: Param<Tensor<2>>,
    /// Applied to every head alike: `[head_dim, head_dim]`.
    pub dense: Param<Tensor<2>>,
    /// `[hidden, hidden]`.
    pub output_transform: Param<Tensor<2>>,
    /// Centroids of the routing heads.
    pub kmeans: Option<OnlineKMeans>,
    /// Relative embeddings of the routing heads, by rank among the members.
    pub routed_relative: Option<RelativeTables>,
    /// Relative embeddings of the local heads.
    pub local_relative: Option<RelativeTables>,
}

/// What routing needs beside the heads and the centroids.
pub(crate) struct PaperRouting<'a> {
    pub window: usize,
    pub causal: bool,
    pub strict: bool,
    pub share_qk: bool,
    pub ema: bool,
    pub beta: f64,
    pub rule: EmaCountRule,
    pub relative: Option<Shaw>,
    /// Keys nobody sees, `batch · heads · length`.
    pub padding: Option<&'a [bool]>,
    pub dropout: Dropout,
}

/// Routing attention of given heads `[batch, heads, length, head_dim]` (`key` is not looked at where it is shared): output,
/// clustering loss `[1]`, and what was seen.
pub(crate) fn route(
    query: Tensor<4>,
    key: Option<Tensor<4>>,
    value: Tensor<4>,
    means: &Tensor<3>,
    with: PaperRouting<'_>,
) -> Result<(Tensor<4>, Tensor<1>, Routed)> {
    let [_, heads, length, _] = query.dims();
    let [_, clusters, _] = means.dims();
    let query = sphere(query, SPHERE_EPSILON);
    let key = key
        .filter(|_| !with.share_qk)
        .map(|key| sphere(key, SPHERE_EPSILON));
    // What is clustered: the queries, and the keys where they are other vectors.
    let sides: Vec<Tensor<4>> = std::iter::once(query.clone()).chain(key.clone()).collect();
    let (mut losses, mut seen, mut similarities) = (vec![], vec![], vec![]);
    let (mut scores, mut nearest) = (vec![], vec![]);
    for x in &sides {
        let similar = similarity(x, means);
        let read = Scores::read(similar.clone());
        let own = read.nearest();
        let loss = match with.ema {
            true => commitment(x.clone(), means, &own).mul_scalar(with.beta),
            false => {
                commitment(x.clone(), means, &own).mul_scalar(with.beta)
                    + codebook(x.clone(), means.clone(), &own)
            }
        };
        // Shared vectors are queries and keys, and pay for both.
        losses.push(if sides.len() == 1 {
            loss.mul_scalar(2.0)
        } else {
            loss
        });
        seen.push(ClusterSums::new(x, &own, clusters, with.rule, true));
        similarities.push(similar);
        scores.push(read);
        nearest.push(own);
    }
    let loss = losses
        .into_iter()
        .reduce(|a, b| a + b)
        .unwrap_or_else(|| Tensor::zeros([1], &query.device()));

    // A value of exactly zero marks padding, as in the reference.
    let mut hidden = blank_rows(&value);
    if let Some(padding) = with.padding {
        for (h, p) in hidden.iter_mut().zip(padding) {
            *h |= *p;
        }
    }
    let stats = RoutingStats::new(nearest.swap_remove(0), heads, length, clusters);
    let members: Vec<_> = match with.strict {
        true => vec![],
        false => scores
            .iter()
            .map(|s| s.top(with.window, MemberOrder::Position))
            .collect(),
    };
    let prefix = with.strict.then(|| scores[0].prefix(with.window, None));
    let (routing, stats) = match &prefix {
        Some(prefix) => (Routing::Prefix(prefix), stats.with_prefix(prefix)),
        None => {
            let (query, key) = (&members[0], &members[members.len() - 1]);
            (Routing::Clusters { query, key }, stats.with_members(query))
        }
    };
    let out = routed_attention(RoutedAttention {
        key: key.unwrap_or_else(|| query.clone()),
        query,
        value,
        routing,
        scale: 1.0,
        causal: with.causal,
        query_padding: None,
        key_padding: hidden.contains(&true).then_some(&hidden[..]),
        own: None,
        hide: HIDDEN,
        relative: with.relative,
        memory: None,
        epsilon: EPSILON,
        dropout: with.dropout,
    })?;
    let routed = Routed {
        layer: 0,
        seen,
        stats,
        similarity: similarities,
        members,
        prefix: prefix.map(std::sync::Arc::new),
    };
    Ok((out, loss, routed))
}

impl PaperAttention {
    pub(super) fn new(config: &PaperConfig, layer: usize, key: Key, device: &Device) -> Self {
        let (h, d) = (config.hidden_size, config.head_dim());
        let routing = config.routing_heads(layer);
        let local = config.heads() - routing;
        let map = |name, n| unit_scaling([n, n], key.site(name), device);
        let tables =
            |yes: bool, name| yes.then(|| RelativeTables::new(config, key.site(name), device));
        let clusters = config.sparsity_cluster_size;
        Self {
            q: map("q", h),
            k: map("k", h),
            v: map("v", h),
            dense: map("dense", d),
            output_transform: map("output_transform", h),
            kmeans: (routing > 0)
                .then(|| OnlineKMeans::new([routing, clusters, d], key.site("means"), device)),
            routed_relative: tables(routing > 0 && config.sparsity_cluster_relative, "routed"),
            local_relative: tables(local > 0 && config.local_relative, "local"),
        }
    }

    /// Queries already scaled, keys where any head uses them, values: `[batch, heads, length, head_dim]`.
    pub(super) fn heads(
        &self,
        x: Tensor<3>,
        config: &PaperConfig,
    ) -> (Tensor<4>, Option<Tensor<4>>, Tensor<4>) {
        let (heads, d) = (config.heads(), config.head_dim());
        let query = project(x.clone(), &self.q).mul_scalar((d as f64).powf(-0.5));
        let needs_key = self.k_is_used(config);
        let key = needs_key.then(|| split_heads(project(x.clone(), &self.k), heads));
        let value = split_heads(project(x, &self.v), heads);
        (split_heads(query, heads), key, value)
    }

    fn k_is_used(&self, config: &PaperConfig) -> bool {
        let routing = self.kmeans.as_ref().map_or(0, |k| k.means.dims()[0]);
        config.heads() > routing || !config.share_qk
    }

    /// Outputs of the heads side by side, `[batch, heads, length, head_dim]`, to `[batch, length, hidden]`.
    pub(super) fn merged(&self, outs: Vec<Tensor<4>>) -> Tensor<3> {
        let outs = Tensor::cat(outs, 1);
        let [batch, heads, length, d] = outs.dims();
        let out = outs
            .reshape([batch * heads * length, d])
            .matmul(self.dense.val())
            .reshape([batch, heads, length, d]);
        project(merge_heads(out), &self.output_transform)
    }

    /// Attends within `[batch, length, hidden]`: the output of the same shape, and loss and record of the routing heads.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        config: &PaperConfig,
        layer: usize,
        mode: Mode,
    ) -> Result<(Tensor<3>, Option<(Tensor<1>, Routed)>)> {
        let routing = config.routing_heads(layer);
        let local = config.heads() - routing;
        let site = |kind: &str| {
            let site = format!("layers.{layer}.attention.{kind}");
            mode.drop(config.attention_dropout, &site)
        };
        let (query, key, value) = self.heads(x, config);
        let part = |t: &Tensor<4>, from: usize, count: usize| t.clone().narrow(1, from, count);

        // Routing heads first, local heads behind them.
        let (mut outs, mut routed) = (vec![], None);
        if let Some(kmeans) = &self.kmeans {
            let (out, loss, record) = route(
                part(&query, 0, routing),
                key.as_ref().map(|k| part(k, 0, routing)),
                part(&value, 0, routing),
                &kmeans.means.val(),
                PaperRouting {
                    window: config.sparsity_cluster_attention_window,
                    causal: config.causal,
                    strict: mode
                        .strict_causal_routing
                        .unwrap_or(config.strict_causal_routing),
                    share_qk: config.share_qk,
                    ema: config.ema,
                    beta: config.beta,
                    rule: config.ema_count_rule,
                    relative: self.routed_relative.as_ref().map(RelativeTables::shaw),
                    padding: None,
                    dropout: site("routed"),
                },
            )?;
            outs.push(out);
            routed = Some((loss, Routed { layer, ..record }));
        }
        if let Some(key) = key.filter(|_| local > 0) {
            let value = part(&value, routing, local);
            let hidden = blank_rows(&value);
            outs.push(local_attention(LocalAttention {
                query: part(&query, routing, local),
                key: part(&key, routing, local),
                value,
                window: config.block(),
                back: config.blocks_back(),
                forward: if config.causal {
                    0
                } else {
                    config.blocks_back()
                },
                causal: config.causal,
                exact: false,
                scale: 1.0,
                padding: hidden.contains(&true).then_some(&hidden[..]),
                outside: 0.0,
                own: None,
                hide: HIDDEN,
                relative: self.local_relative.as_ref().map(RelativeTables::shaw),
                dropout: site("local"),
            })?);
        }
        Ok((self.merged(outs), routed))
    }
}
