//! The authors' flavor.

use super::{Setting, ids, leaf, marks, other, rows, say, tensor, wanted, whole};
use crate::config::EmaCountRule;
use crate::kmeans::{ClusterSums, OnlineKMeans, commitment, similarity, sphere};
use crate::layers::Mode;
use crate::paper::{PaperConfig, PaperRouting, PaperTransformer, route};
use crate::{RoutingTransformerConfig, RoutingTransformerLM, cross_entropy};
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::routed::{Scores, Shaw};
use trainer::Result;
use trainer::golden::{Case, Replayed};

/// Training forwards of online k-means alone, with either rule for the counts.
pub(super) fn kmeans(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let (beta, decay) = (setting.number("beta")?, setting.number("decay")?);
    let clusters = setting.size("num_clusters")?;
    let mut found = Replayed::default();
    for (rule, place) in [
        (EmaCountRule::Reference, "output."),
        (EmaCountRule::PerHead, "output.perhead."),
    ] {
        let mut kmeans = OnlineKMeans {
            means: init::from_tensor(tensor(case, "input.means0", device)?),
            ema_count: init::from_tensor(tensor(case, "input.ema_count0", device)?),
            ema_means: init::from_tensor(tensor(case, "input.ema_means0", device)?),
        };
        for n in (0..).take_while(|n| wanted(case, &format!("input.x{n}"))) {
            let x = leaf::<4>(case, &format!("input.x{n}"), device)?;
            let normal = sphere(x.clone(), 1e-6);
            let means = kmeans.means.val();
            let similar = similarity(&normal, &means);
            let nearest = Scores::read(similar.clone()).nearest();
            let loss = commitment(normal.clone(), &means, &nearest).mul_scalar(beta);
            let [b, h, l, _] = normal.dims();
            let seen = ClusterSums::new(&normal, &nearest, clusters, rule, true);
            say(&mut found, format!("mid.x_norm{n}"), normal.into_data());
            say(
                &mut found,
                format!("{place}dist{n}"),
                similar.neg().into_data(),
            );
            say(
                &mut found,
                format!("{place}assign{n}"),
                whole(&nearest, [b, h, l]),
            );
            say(
                &mut found,
                format!("{place}loss{n}"),
                loss.clone().into_data(),
            );
            let grads = loss.backward();
            if let (EmaCountRule::Reference, Some(grad)) = (rule, x.grad(&grads)) {
                say(&mut found, format!("grad.x{n}"), grad.into_data());
            }
            kmeans = kmeans.updated(&seen, decay);
            let next = n + 1;
            say(
                &mut found,
                format!("{place}means{next}"),
                kmeans.means.val().into_data(),
            );
            say(
                &mut found,
                format!("{place}ema_count{next}"),
                kmeans.ema_count.val().into_data(),
            );
            say(
                &mut found,
                format!("{place}ema_means{next}"),
                kmeans.ema_means.val().into_data(),
            );
        }
    }
    Ok(found)
}

/// Routing attention of given heads.
pub(super) fn routing(case: &Case, device: &Device) -> Result<Replayed> {
    const PLACE: &str = "att/cluster_attention/cluster_attention";
    let setting = Setting::of(case)?;
    let share_qk = setting.flag("share_qk", true);
    let weight = |name: &str| format!("weights.{PLACE}/{name}");
    let query = leaf::<4>(case, "input.q", device)?;
    let key = match share_qk {
        true => None,
        false => Some(leaf::<4>(case, "input.k", device)?),
    };
    let value = leaf::<4>(case, "input.v", device)?;
    let tables = match setting.flag("relative", false) {
        false => None,
        true => {
            let table = |kind: &str| {
                let name = weight(&format!("relative_positions_{kind}/embeddings"));
                leaf::<2>(case, &name, device)
            };
            Some([table("keys")?, table("values")?])
        }
    };
    let kmeans = OnlineKMeans {
        means: init::from_tensor(tensor(case, &weight("means"), device)?),
        ema_count: init::from_tensor(tensor(case, &weight("ema_count"), device)?),
        ema_means: init::from_tensor(tensor(case, &weight("ema_means"), device)?),
    };
    let [_, heads, length, _] = query.dims();
    let padding: Option<Vec<bool>> = marks(case, "input.padding")?.map(|marks| {
        let rows = marks.chunks_exact(length.max(1));
        rows.flat_map(|row| row.repeat(heads)).collect()
    });
    let (out, aux, record) = other(route(
        query.clone(),
        key.clone(),
        value.clone(),
        &kmeans.means.val(),
        PaperRouting {
            window: setting.size("attention_window")?,
            causal: setting.flag("masked", true),
            strict: false,
            share_qk,
            ema: setting.flag("ema", true),
            beta: setting.number("beta")?,
            rule: EmaCountRule::Reference,
            relative: tables.as_ref().map(|[k, v]| Shaw {
                key: k.clone(),
                value: v.clone(),
            }),
            padding: padding.as_deref(),
            dropout: Dropout::off(),
        },
    ))?;
    let weights = tensor::<4>(case, "input.loss_weight", device)?;
    let loss = (out.clone() * weights).sum() + aux.clone();
    let mut found = Replayed::default();
    say(&mut found, "output.out", out.into_data());
    say(&mut found, "output.aux_loss", aux.into_data());
    say(&mut found, "output.loss", loss.clone().into_data());
    for (side, similar) in ["q", "k"].iter().zip(&record.similarity) {
        say(
            &mut found,
            format!("mid.{side}_dist"),
            similar.clone().neg().into_data(),
        );
    }
    for (side, members) in ["q", "k"].iter().zip(&record.members) {
        let data = whole(members.positions(), members.dims());
        say(&mut found, format!("mid.{side}_indices"), data);
    }
    let grads = loss.backward();
    let inputs = [
        ("q", Some(&query)),
        ("k", key.as_ref()),
        ("v", Some(&value)),
    ];
    for (name, input) in inputs {
        if let Some(grad) = input.and_then(|t| t.grad(&grads)) {
            say(&mut found, format!("grad.{name}"), grad.into_data());
        }
    }
    for (kind, table) in ["keys", "values"].iter().zip(tables.iter().flatten()) {
        if let Some(grad) = table.grad(&grads) {
            let name = format!("grad.{PLACE}/relative_positions_{kind}/embeddings");
            say(&mut found, name, grad.into_data());
        }
    }
    if setting.flag("training", false) {
        let decay = setting.number("decay")?;
        let moved = record.seen.iter();
        let kmeans = moved.fold(kmeans, |kmeans, seen| kmeans.updated(seen, decay));
        let mut after = |name: &str, data| {
            say(&mut found, format!("output.after.{PLACE}/{name}"), data);
        };
        after("means", kmeans.means.val().into_data());
        after("ema_count", kmeans.ema_count.val().into_data());
        after("ema_means", kmeans.ema_means.val().into_data());
    }
    Ok(found)
}

/// One training forward of a whole model, its gradients, and the centroids after it.
pub(super) fn language_model(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let mut config: PaperConfig = setting.model()?;
    config.ema_count_rule = EmaCountRule::Reference;
    let config = RoutingTransformerConfig::Paper(config);
    let model = other(RoutingTransformerLM::from_tensors(
        &config,
        case.with_prefix("weights."),
        &case.file,
        &device.clone().autodiff(),
    ))?;
    let targets = rows(case, "input.targets")?;
    let [_, length] = targets.1;
    let targets = ids(&targets, 0, length, device);
    let shifted = PaperTransformer::shifted(targets.clone());
    let output = other(model.forward(shifted, Mode::evaluation()))?;
    let (ce, _) = other(cross_entropy(output.logits.clone(), targets))?;
    let loss = ce.clone() + output.clustering_loss.clone();
    let mut found = Replayed::default();
    say(&mut found, "output.logits", output.logits.into_data());
    say(&mut found, "output.ce_loss", ce.into_data());
    say(
        &mut found,
        "output.extra_loss",
        output.clustering_loss.into_data(),
    );
    say(&mut found, "output.loss", loss.clone().into_data());
    say(&mut found, "mid.decoder_output", output.hidden.into_data());
    // Queries, then keys; one and the same where they are shared.
    for (n, record) in output.routed.iter().enumerate() {
        let (first, last) = (record.similarity.first(), record.similarity.last());
        for (side, similar) in [first, last].into_iter().flatten().enumerate() {
            let name = format!("mid.cluster_dist{}", 2 * n + side);
            say(&mut found, name, similar.clone().neg().into_data());
        }
    }
    let grads = loss.backward();
    for (name, data) in model.gradients(&grads) {
        say(&mut found, format!("grad.{name}"), data);
    }
    let after = model.with_centroids(&[output.routed]);
    for (name, data) in after.weights() {
        say(&mut found, format!("output.after.{name}"), data);
    }
    Ok(found)
}
