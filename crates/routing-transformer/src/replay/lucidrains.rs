//! The PyTorch package's flavor.

use super::{Setting, ids, leaf, marks, other, rows, say, tensor, wanted, whole};
use crate::config::EmaCountRule;
use crate::kmeans::{ClusterSums, PendingMeans, UnitKMeans, commitment, similarity, unit};
use crate::layers::Mode;
use crate::lucidrains::{
    HIDDEN, LucidrainsConfig, LucidrainsTransformer, Masks, OUTSIDE, UnitRouting, missing,
    own_score, route,
};
use crate::{RoutingTransformerConfig, RoutingTransformerLM, cross_entropy};
use burn::module::Module;
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::routed::rotary::{Pairs, rotate};
use core_attn::routed::{LocalAttention, MemberOrder, Memory, Scores, local_attention};
use trainer::golden::{Case, Replayed};
use trainer::{Error, Result};

/// Initialisation from data, training forwards and updates of the centroids alone.
pub(super) fn kmeans(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let factor = setting.number("commitment")?;
    let decay = setting.number("ema_decay")?;
    let clusters = setting.size("num_clusters")?;
    let window = setting.size("window")?;
    let mut found = Replayed::default();
    let start = || -> Result<UnitKMeans> {
        Ok(UnitKMeans {
            means: init::from_tensor(tensor(case, "input.means0", device)?),
            initted: true,
        })
    };
    if wanted(case, "input.init_x") {
        let x = tensor::<4>(case, "input.init_x", device)?;
        let rows: Vec<usize> = case
            .tensor("input.init_indices")?
            .iter::<i64>()
            .map(|i| i as usize)
            .collect();
        let means = start()?.initialised_from(&x, &rows).means.val();
        say(&mut found, "output.means_after_init", means.into_data());
    }
    let mut kmeans = start()?;
    let mut pending = PendingMeans::default();
    for n in (0..).take_while(|n| wanted(case, &format!("input.x{n}"))) {
        let x = leaf::<4>(case, &format!("input.x{n}"), device)?;
        let normal = unit(x.clone());
        let means = kmeans.means.val();
        let similar = similarity(&normal, &means);
        let scores = Scores::read(similar.clone());
        let nearest = scores.nearest();
        let loss = commitment(normal.clone(), &means, &nearest).mul_scalar(factor);
        let [b, h, l, _] = normal.dims();
        let rule = EmaCountRule::PerHead;
        let seen = ClusterSums::new(&normal, &nearest, clusters, rule, false);
        pending = pending.plus(&seen, &means);
        let top = scores.top(window, MemberOrder::Score);
        say(&mut found, format!("output.dists{n}"), similar.into_data());
        say(
            &mut found,
            format!("output.buckets{n}"),
            whole(&nearest, [b, h, l]),
        );
        let top = whole(top.positions(), top.dims());
        say(&mut found, format!("output.indices_top{n}"), top);
        say(
            &mut found,
            format!("output.commit_loss{n}"),
            loss.clone().into_data(),
        );
        if let Some(value) = pending.value() {
            say(
                &mut found,
                format!("output.pending_means{n}"),
                value.into_data(),
            );
        }
        if let Some(grad) = x.grad(&loss.backward()) {
            say(&mut found, format!("grad.x{n}"), grad.into_data());
        }
        let after = format!("output.means_after_step{n}");
        if wanted(case, &after) {
            kmeans = kmeans.updated(&std::mem::take(&mut pending), decay);
            say(&mut found, after, kmeans.means.val().into_data());
        }
    }
    let x = unit(tensor::<4>(case, "input.x0", device)?);
    let means = kmeans.means.val();
    let similar = similarity(&x, &means);
    let nearest = Scores::read(similar.clone()).nearest();
    let loss = commitment(x, &means, &nearest).mul_scalar(factor);
    say(&mut found, "output.eval_dists", similar.into_data());
    say(&mut found, "output.eval_commit_loss", loss.into_data());
    Ok(found)
}

/// Routing attention of given heads.
pub(super) fn routing(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let shared = setting.flag("shared_qk", false);
    let query = leaf::<4>(case, "input.q", device)?;
    let key = match shared {
        true => None,
        false => Some(leaf::<4>(case, "input.k", device)?),
    };
    let value = leaf::<4>(case, "input.v", device)?;
    let [_, _, length, _] = query.dims();
    let [_, _, keys, _] = value.dims();
    let memory = match wanted(case, "weights.mem_key") {
        true => Some([
            leaf::<4>(case, "weights.mem_key", device)?,
            leaf::<4>(case, "weights.mem_value", device)?,
        ]),
        false => None,
    };
    let kmeans = UnitKMeans {
        means: init::from_tensor(tensor(case, "weights.kmeans.means", device)?),
        initted: true,
    };
    let query_mask = marks(case, "input.query_mask")?;
    let context = setting.all.get("context_len").is_some_and(|n| !n.is_null());
    let key_mask = match marks(case, "input.key_mask")? {
        Some(mask) => Some(mask),
        None if context => None,
        None => query_mask.clone(),
    };
    let window = setting.size("window_size")?;
    let key_window = match context {
        true => setting.size_or("context_window_size", window),
        false => window.min(length),
    };
    let (out, aux, record) = other(route(
        query.clone(),
        key.clone(),
        value.clone(),
        &kmeans.means.val(),
        UnitRouting {
            window: window.min(length),
            key_window: key_window.min(keys),
            causal: setting.flag("causal", false),
            strict: false,
            commitment: setting.number("commitment")?,
            masks: Masks {
                query: query_mask.as_deref(),
                key: key_mask.as_deref(),
            },
            memory: memory.as_ref().map(|[key, value]| Memory {
                key: key.clone(),
                value: value.clone(),
            }),
            dropout: Dropout::off(),
        },
    ))?;
    let weights = tensor::<4>(case, "input.loss_weight", device)?;
    let loss = (out.clone() * weights).sum() + aux.clone();
    let mut found = Replayed::default();
    say(&mut found, "output.out", out.into_data());
    say(&mut found, "output.aux_loss", aux.into_data());
    say(&mut found, "output.loss", loss.clone().into_data());
    for (side, members) in ["q", "kv"].iter().zip(&record.members) {
        let data = whole(members.positions(), members.dims());
        say(&mut found, format!("mid.{side}_indices"), data);
    }
    if let Some(members) = record.members.first() {
        let [b, h, _, _] = members.dims();
        let counts: Vec<f32> = members.counts().iter().map(|c| *c as f32).collect();
        let counts = TensorData::new(counts, [b, h, members.length()]);
        say(&mut found, "mid.membership_count", counts);
    }
    let grads = loss.backward();
    let memory_leaves = memory.iter().flatten();
    let leaves = [Some(&query), key.as_ref(), Some(&value)];
    let named = ["q", "k", "v"].iter().zip(leaves);
    let named = named.filter_map(|(n, t)| Some((*n, t?)));
    for (name, input) in named.chain(["mem_key", "mem_value"].into_iter().zip(memory_leaves)) {
        if let Some(grad) = input.grad(&grads) {
            say(&mut found, format!("grad.{name}"), grad.into_data());
        }
    }
    if setting.flag("training", false) {
        let means = kmeans.means.val();
        let seen = record.seen.iter();
        let pending = seen.fold(PendingMeans::default(), |p, s| p.plus(s, &means));
        if let Some(value) = pending.value() {
            say(&mut found, "output.pending_means", value.into_data());
        }
        let kmeans = kmeans.updated(&pending, setting.number("ema_decay")?);
        let means = kmeans.means.val();
        say(&mut found, "output.means_after_update", means.into_data());
    }
    Ok(found)
}

/// Attention in blocks of given heads.
pub(super) fn local(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let query = leaf::<4>(case, "input.q", device)?;
    let key = leaf::<4>(case, "input.k", device)?;
    let value = leaf::<4>(case, "input.v", device)?;
    let [batch, heads, given, width] = query.dims();
    let window = setting.size("window_size")?;
    // Padded to whole blocks, with keys that are hidden only where there is a mask.
    let length = match setting.flag("autopad", false) {
        true => given.div_ceil(window.max(1)) * window,
        false => given,
    };
    let padded = |t: Tensor<4>| match length - given {
        0 => t,
        n => {
            let zeros = Tensor::zeros([batch, heads, n, width], &t.device());
            Tensor::cat(vec![t, zeros], 2)
        }
    };
    let mask = marks(case, "input.mask")?.map(|mask| -> Vec<bool> {
        let rows = mask.chunks(given.max(1));
        rows.flat_map(|row| {
            row.iter()
                .copied()
                .chain(std::iter::repeat_n(false, length - given))
        })
        .collect()
    });
    let padding = mask.map(|mask| missing(&mask, heads, length));
    let causal = setting.flag("causal", false);
    let forward = setting.size_or("look_forward", usize::from(!causal));
    let shared = setting.flag("shared_qk", false);
    let positions: Vec<usize> = (0..length).collect();
    let ahead: Vec<usize> = positions.iter().map(|p| p + forward * window).collect();
    let keys = match shared {
        true => unit(key.clone()),
        false => key.clone(),
    };
    let turn = |t: Tensor<4>, at: &[usize]| match setting.flag("rotary", true) {
        true => rotate(t, at, Pairs::HalfSplit).map_err(Error::other),
        false => Ok(t),
    };
    let out = local_attention(LocalAttention {
        query: turn(padded(query.clone()), &ahead)?,
        key: turn(padded(keys), &positions)?,
        value: padded(value.clone()),
        window,
        back: setting.size_or("look_backward", 1),
        forward,
        causal,
        exact: setting.flag("exact_windowsize", false),
        scale: (width as f64).powf(-0.5),
        padding: padding.as_deref(),
        outside: OUTSIDE,
        own: own_score(shared),
        hide: HIDDEN,
        relative: None,
        dropout: Dropout::off(),
    })
    .map_err(Error::other)?
    .narrow(2, 0, given);
    let weights = tensor::<4>(case, "input.loss_weight", device)?;
    let loss = (out.clone() * weights).sum();
    let mut found = Replayed::default();
    say(&mut found, "output.out", out.into_data());
    say(&mut found, "output.loss", loss.clone().into_data());
    let grads = loss.backward();
    for (name, input) in [("q", &query), ("k", &key), ("v", &value)] {
        if let Some(grad) = input.grad(&grads) {
            say(&mut found, format!("grad.{name}"), grad.into_data());
        }
    }
    Ok(found)
}

/// One training forward of a whole model, its gradients, an update of the centroids, and an evaluation after it.
pub(super) fn language_model(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let mut config: LucidrainsConfig = setting.model()?;
    config.flavor = crate::Flavor::Lucidrains;
    let config = RoutingTransformerConfig::Lucidrains(config);
    let tensors = case.with_prefix("weights.");
    let autodiff = device.clone().autodiff();
    let model = RoutingTransformerLM::from_tensors(&config, tensors, &case.file, &autodiff);
    let RoutingTransformerLM::Lucidrains(model) = other(model)? else {
        return Err(case.malformed("the flavor is not lucidrains"));
    };
    let tokens = rows(case, "input.tokens")?;
    let [batch, columns] = tokens.1;
    let length = columns - 1;
    let mask = marks(case, "input.mask")?.map(|all| {
        let rows = all.chunks_exact(columns);
        let first: Vec<bool> = rows.flat_map(|row| row[..length].to_vec()).collect();
        Tensor::<2, Bool>::from_data(TensorData::new(first, [batch, length]), device)
    });
    let mut found = Replayed::default();
    let output = other(model.forward_padded(
        ids(&tokens, 0, length, device),
        mask,
        Mode::evaluation(),
        &mut |view| {
            let i = view.layer;
            for (name, data) in [("attn_out", view.attn_out), ("ff_out", view.ff_out)] {
                let name = format!("mid.layer{i}.{name}");
                found.tensors.insert(name, data.clone().into_data());
            }
        },
    ))?;
    let targets = ids(&tokens, 1, length, device);
    let logits = output.logits.clone().narrow(1, 0, length);
    let aux = output.clustering_loss;
    let loss = other(cross_entropy(logits, targets))?.0 + aux.clone();
    say(&mut found, "output.logits", output.logits.into_data());
    say(&mut found, "output.aux_loss", aux.into_data());
    say(&mut found, "output.loss", loss.clone().into_data());
    for (n, members) in output.routed.iter().flat_map(|r| &r.members).enumerate() {
        let [b, h, clusters, size] = members.dims();
        let name = format!("mid.indices_call{n}");
        let ours = as_sets(case, &name, members.positions(), size);
        say(&mut found, name, whole(&ours, [b, h, clusters * size]));
    }
    let grads = loss.backward();
    for (name, data) in pretrained::collect_gradients(&model, &grads) {
        say(&mut found, format!("grad.{name}"), data);
    }
    let model: LucidrainsTransformer = model.with_centroids(&[output.routed]).valid();
    for (name, data) in pretrained::collect_weights(&model) {
        say(&mut found, format!("output.after_update.{name}"), data);
    }
    const EVALUATED: &str = "output.eval_logits_after_update";
    if wanted(case, EVALUATED) {
        let short = case.tensor(EVALUATED)?.shape().get(1).copied();
        let short = short.unwrap_or(length).min(columns);
        let output =
            other(model.forward(ids(&tokens, 0, short, device), None, Mode::evaluation()))?;
        say(&mut found, EVALUATED, output.logits.into_data());
    }
    Ok(found)
}

/// Members in the order of the case wherever a cluster has the same: neighbours may be as good as tied, and their order has
/// no effect.
fn as_sets(case: &Case, name: &str, ours: &[u32], size: usize) -> Vec<u32> {
    let Some(expected) = case.tensors.get(name) else {
        return ours.to_vec();
    };
    let expected: Vec<u32> = expected.iter::<i64>().map(|i| i as u32).collect();
    if expected.len() != ours.len() {
        return ours.to_vec();
    }
    let pairs = ours.chunks(size.max(1)).zip(expected.chunks(size.max(1)));
    pairs
        .flat_map(|(ours, expected)| {
            let sorted = |list: &[u32]| {
                let mut list = list.to_vec();
                list.sort_unstable();
                list
            };
            match sorted(ours) == sorted(expected) {
                true => expected.to_vec(),
                false => ours.to_vec(),
            }
        })
        .collect()
}
