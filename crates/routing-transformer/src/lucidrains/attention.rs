//! Attention of mixed local and routing heads.

use super::config::LucidrainsConfig;
use crate::config::EmaCountRule;
use crate::error::Result;
use crate::kmeans::{ClusterSums, UnitKMeans, commitment, similarity, unit};
use crate::layers::{Mode, Routed, merge_heads, project, split_heads};
use crate::stats::RoutingStats;
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::{Dropout, dropout};
use core_attn::init;
use core_attn::random::Key;
use core_attn::routed::rotary::{Pairs, rotate};
use core_attn::routed::{
    Hide, LocalAttention, MemberOrder, Memory, RoutedAttention, Routing, Scores, local_attention,
    routed_attention,
};

/// A hidden score. The reference has the most negative number; any whose exponential is 0 gives the same, and this one
/// survives a change of base without becoming infinite.
pub(crate) const HIDDEN: Hide = Hide::Replace(-1e30);
/// What the local-attention package puts around a text; a query that sees nothing averages it in.
pub(crate) const OUTSIDE: f64 = -1.0;
/// A position's own score where queries are keys: only used if nothing else is visible.
pub(crate) fn own_score(shared: bool) -> Option<f64> {
    shared.then_some(-5e4)
}

/// Added to the number of a position's clusters.
pub(super) const EPSILON: f64 = 1e-5;

/// Which positions are there, `[batch, length]` in row-major order, true where they are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Masks<'a> {
    pub query: Option<&'a [bool]>,
    pub key: Option<&'a [bool]>,
}

/// `[batch, length]` of what is there to `[batch, heads, length]` of what is not.
pub(crate) fn missing(mask: &[bool], heads: usize, length: usize) -> Vec<bool> {
    let rows = mask.chunks_exact(length.max(1));
    let absent = |row: &[bool]| row.iter().map(|m| !m).collect::<Vec<_>>();
    rows.flat_map(|row| absent(row).repeat(heads)).collect()
}

/// What routing needs beside the heads and the centroids.
pub(crate) struct UnitRouting<'a> {
    pub window: usize,
    /// Members of a cluster among the keys.
    pub key_window: usize,
    pub causal: bool,
    pub strict: bool,
    pub commitment: f64,
    pub masks: Masks<'a>,
    pub memory: Option<Memory>,
    pub dropout: Dropout,
}

/// Routing attention of given heads `[batch, heads, length, head_dim]`, after any rotation. Without a `key` the normalised
/// queries serve.
pub(crate) fn route(
    query: Tensor<4>,
    key: Option<Tensor<4>>,
    value: Tensor<4>,
    means: &Tensor<3>,
    with: UnitRouting<'_>,
) -> Result<(Tensor<4>, Tensor<1>, Routed)> {
    let [_, heads, length, _] = query.dims();
    let [_, _, keys, _] = value.dims();
    let [_, clusters, _] = means.dims();
    let shared = key.is_none();
    // Queries and keys of their own are clustered as one text.
    let all = match &key {
        Some(key) => Tensor::cat(vec![query.clone(), key.clone()], 2),
        None => query.clone(),
    };
    let all = unit(all);
    let similar = similarity(&all, means);
    let scores = Scores::read(similar.clone());
    let nearest = scores.nearest();
    let loss = commitment(all.clone(), means, &nearest).mul_scalar(with.commitment);
    let seen = ClusterSums::new(&all, &nearest, clusters, EmaCountRule::PerHead, false);
    let [_, _, clustered, _] = all.dims();
    let stats = RoutingStats::new(nearest, heads, clustered, clusters);

    let query_padding = with.masks.query.map(|m| missing(m, heads, length));
    let key_padding = with.masks.key.map(|m| missing(m, heads, keys));
    let absent: Option<Vec<bool>> = with.masks.query.map(|m| m.iter().map(|m| !m).collect());
    let prefix = with
        .strict
        .then(|| scores.prefix(with.window, absent.as_deref()));
    let order = MemberOrder::Score;
    let mut members = vec![];
    if !with.strict {
        members.push(scores.narrow(0, length).top(with.window, order));
        if !shared {
            members.push(scores.narrow(length, keys).top(with.key_window, order));
        }
    }
    let (routing, stats) = match &prefix {
        Some(prefix) => (Routing::Prefix(prefix), stats.with_prefix(prefix)),
        None => {
            let (query, key) = (&members[0], &members[members.len() - 1]);
            (Routing::Clusters { query, key }, stats.with_members(query))
        }
    };
    let [_, _, _, width] = query.dims();
    let out = routed_attention(RoutedAttention {
        key: key.unwrap_or_else(|| unit(query.clone())),
        query,
        value,
        routing,
        scale: (width as f64).powf(-0.5),
        causal: with.causal,
        query_padding: query_padding.as_deref(),
        key_padding: key_padding.as_deref(),
        own: own_score(shared),
        hide: HIDDEN,
        relative: None,
        memory: with.memory,
        epsilon: EPSILON,
        dropout: with.dropout,
    })?;
    let similarity = match shared {
        true => vec![similar],
        false => vec![
            similar.clone().narrow(2, 0, length),
            similar.narrow(2, length, keys),
        ],
    };
    let routed = Routed {
        layer: 0,
        seen: vec![seen],
        stats,
        similarity,
        members,
        prefix: prefix.map(std::sync::Arc::new),
    };
    Ok((out, loss, routed))
}

/// Learned keys and values of every cluster: `[heads, clusters, slots, head_dim]`.
#[derive(Module, Debug)]
pub struct MemoryKeys {
    /// The keys, used as they are.
    pub key: Param<Tensor<4>>,
    /// The values.
    pub value: Param<Tensor<4>>,
}

/// The routing heads of a layer.
#[derive(Module, Debug)]
pub struct RoutingHeads {
    /// `[dim, heads · head_dim]`.
    pub to_q: Param<Tensor<2>>,
    /// Absent where queries serve as keys.
    pub to_k: Option<Param<Tensor<2>>>,
    /// `[dim, heads · head_dim]`.
    pub to_v: Param<Tensor<2>>,
    /// The centroids.
    pub kmeans: UnitKMeans,
    /// Learned keys and values.
    pub memory: Option<MemoryKeys>,
}

/// Local and routing heads of a layer. With `receives_context` its routing heads attend to another text.
#[derive(Module, Debug)]
pub struct LucidrainsAttention {
    /// Queries, keys and values of the local heads side by side: `[dim, 3 · heads · head_dim]`.
    pub local_to_qkv: Option<Param<Tensor<2>>>,
    /// `[3 · heads · head_dim]`.
    pub local_to_qkv_bias: Option<Param<Tensor<1>>>,
    /// The routing heads.
    pub routing: Option<RoutingHeads>,
    /// `[heads · head_dim, dim]`.
    pub to_out: Param<Tensor<2>>,
}

/// Torch's initial values of a linear map.
pub(super) fn linear(shape: [usize; 2], key: Key, device: &Device) -> Param<Tensor<2>> {
    init::uniform(shape, (shape[0].max(1) as f64).powf(-0.5), key, device)
}

/// Torch's initial values of the bias of a linear map with `fan_in` inputs.
pub(super) fn bias(n: usize, fan_in: usize, key: Key, device: &Device) -> Param<Tensor<1>> {
    init::uniform([n], (fan_in.max(1) as f64).powf(-0.5), key, device)
}

impl LucidrainsAttention {
    /// A layer with `local` local heads; the others route.
    ///
    /// # Errors
    /// More local heads than heads, or local heads in a layer that receives another text.
    pub fn new(
        config: &LucidrainsConfig,
        local: usize,
        receives_context: bool,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        if local > config.heads || (receives_context && local > 0) {
            return Err(crate::error::config(
                "n_local_attn_heads",
                local,
                format!(
                    "expected up to {} heads, none of them local where another text is attended to",
                    config.heads
                ),
            ));
        }
        let (dim, d) = (config.dim, config.head_dim());
        let routing = config.heads - local;
        let map = |name, heads: usize| linear([dim, heads * d], key.site(name), device);
        let clusters = config.clusters();
        // A text attended to has keys of its own.
        let shared = config.shared() && !receives_context;
        let slots = match receives_context {
            true => config.num_mem_kv,
            false => config.memory_slots(),
        };
        let memory =
            |name| init::normal([routing, clusters, slots, d], 1.0, key.site(name), device);
        Ok(Self {
            local_to_qkv: (local > 0).then(|| map("local_to_qkv", 3 * local)),
            local_to_qkv_bias: (local > 0)
                .then(|| bias(3 * local * d, dim, key.site("local_to_qkv.bias"), device)),
            routing: (routing > 0).then(|| RoutingHeads {
                to_q: map("to_q", routing),
                to_k: (!shared).then(|| map("to_k", routing)),
                to_v: map("to_v", routing),
                kmeans: UnitKMeans::new([routing, clusters, d], key.site("means"), device),
                memory: (slots > 0).then(|| MemoryKeys {
                    key: memory("mem_key"),
                    value: memory("mem_value"),
                }),
            }),
            to_out: linear([config.heads * d, dim], key.site("to_out"), device),
        })
    }

    /// Queries (and keys, where they are others) before normalisation, as the first data for the centroids.
    pub(super) fn first_data(
        &self,
        x: &Tensor<3>,
        context: Option<&Tensor<3>>,
    ) -> Result<Option<Tensor<4>>> {
        let Some(heads) = &self.routing else {
            return Ok(None);
        };
        let (query, key, _) = heads.project(x, context, 0)?;
        Ok(Some(match key {
            Some(key) => Tensor::cat(vec![query, key], 2),
            None => query,
        }))
    }

    /// Attends within `x` `[batch, length, dim]`, or with `context` `[batch, other length, dim]` to that. `mask` (and
    /// `context_mask`) are true where there is a token. Returns the output, and loss and record of the routing heads.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn forward(
        &self,
        x: Tensor<3>,
        context: Option<Tensor<3>>,
        [mask, context_mask]: [Option<&[bool]>; 2],
        config: &LucidrainsConfig,
        mode: Mode,
        site: &str,
    ) -> Result<(Tensor<3>, Option<(Tensor<1>, Routed)>)> {
        let [_, length, _] = x.dims();
        let d = config.head_dim();
        let drop = |kind: &str| mode.drop(config.attn_dropout, &format!("{site}.{kind}"));
        // Local heads first, routing heads behind them.
        let mut outs = vec![];
        if let Some([query, key, value]) = self.local_heads(&x, config, 0)? {
            let [_, heads, _, _] = query.dims();
            let padding = mask.map(|m| missing(m, heads, length));
            outs.push(local_attention(LocalAttention {
                query,
                key,
                value,
                window: config.local_attn_window_size.unwrap_or(length).max(1),
                back: 1,
                forward: usize::from(!config.causal),
                causal: config.causal,
                exact: false,
                scale: (d as f64).powf(-0.5),
                padding: padding.as_deref(),
                outside: OUTSIDE,
                own: None,
                hide: HIDDEN,
                relative: None,
                dropout: drop("local"),
            })?);
        }
        let mut record = None;
        if let Some(heads) = &self.routing {
            let (query, key, value) = heads.project(&x, context.as_ref(), 0)?;
            let [_, _, keys, _] = value.dims();
            let masks = Masks {
                query: mask,
                key: if context.is_some() {
                    context_mask
                } else {
                    mask
                },
            };
            let (out, loss, routed) = route(
                query,
                key,
                value,
                &heads.kmeans.means.val(),
                UnitRouting {
                    window: config.window_size.min(length),
                    key_window: config.window_size.min(keys),
                    causal: config.causal && context.is_none(),
                    strict: context.is_none()
                        && mode
                            .strict_causal_routing
                            .unwrap_or(config.strict_causal_routing),
                    commitment: config.commitment_factor,
                    masks,
                    memory: heads.memory.as_ref().map(|m| Memory {
                        key: m.key.val(),
                        value: m.value.val(),
                    }),
                    dropout: drop("routed"),
                },
            )?;
            outs.push(out);
            record = Some((loss, routed));
        }
        let out = self.merged(outs);
        let rate = config.attn_layer_dropout;
        let out = dropout(out, mode.drop(rate, &format!("{site}.attn_layer_dropout")));
        Ok((out, record))
    }
}

impl LucidrainsAttention {
    /// Queries, keys and values of the local heads, turned by their positions from `start` on.
    pub(super) fn local_heads(
        &self,
        x: &Tensor<3>,
        config: &LucidrainsConfig,
        start: usize,
    ) -> Result<Option<[Tensor<4>; 3]>> {
        let (Some(map), Some(bias)) = (&self.local_to_qkv, &self.local_to_qkv_bias) else {
            return Ok(None);
        };
        let d = config.head_dim();
        let all = project(x.clone(), map) + bias.val().unsqueeze();
        let [_, length, width] = all.dims();
        let heads = width / (3 * d);
        let part = |i: usize| split_heads(all.clone().narrow(2, i * heads * d, heads * d), heads);
        // The reference counts queries from the end of what they see, keys from its beginning.
        let ahead = match config.causal {
            true => 0,
            false => config.local_attn_window_size.unwrap_or(length).max(1),
        };
        let positions: Vec<usize> = (start..start + length).collect();
        let turned: Vec<usize> = positions.iter().map(|p| p + ahead).collect();
        Ok(Some([
            rotate(part(0), &turned, Pairs::HalfSplit)?,
            rotate(part(1), &positions, Pairs::HalfSplit)?,
            part(2),
        ]))
    }

    /// Outputs of the heads side by side, `[batch, heads, length, head_dim]`, to `[batch, length, dim]`.
    pub(super) fn merged(&self, outs: Vec<Tensor<4>>) -> Tensor<3> {
        project(merge_heads(Tensor::cat(outs, 1)), &self.to_out)
    }
}

/// Queries, keys where they are others, values.
type Heads = (Tensor<4>, Option<Tensor<4>>, Tensor<4>);

impl RoutingHeads {
    /// Within one text queries, keys and values are all turned by their positions from `start` on, values too; with another
    /// text nothing is.
    pub(super) fn project(
        &self,
        x: &Tensor<3>,
        context: Option<&Tensor<3>>,
        start: usize,
    ) -> Result<Heads> {
        let [heads, _, _] = self.kmeans.means.dims();
        let source = context.unwrap_or(x);
        let split =
            |t: &Tensor<3>, map: &Param<Tensor<2>>| split_heads(project(t.clone(), map), heads);
        let turn = |t: Tensor<4>| -> Result<Tensor<4>> {
            let [_, _, length, _] = t.dims();
            Ok(match context {
                Some(_) => t,
                None => rotate(
                    t,
                    &(start..start + length).collect::<Vec<_>>(),
                    Pairs::Interleaved,
                )?,
            })
        };
        let key = match &self.to_k {
            Some(map) => Some(turn(split(source, map))?),
            None => None,
        };
        Ok((
            turn(split(x, &self.to_q))?,
            key,
            turn(split(source, &self.to_v))?,
        ))
    }
}
