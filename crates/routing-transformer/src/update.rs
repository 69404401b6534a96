//! One update of the weights and of the centroids, whatever is learned.

use crate::config::RoutingTransformerConfig;
use crate::layers::{Mode, Routed};
use crate::lm::RoutingTransformerLM;
use crate::recipe::TrainingConfig;
use crate::spread::Spread;
use burn::prelude::*;
use core_attn::random::Key;
use serde::{Deserialize, Serialize};
use trainer::{Error, Learner, OptimizerConfig, Result, Scalars, Step};

/// Loss in nats, clustering loss, what the routed layers saw.
pub(crate) type Answer = (Tensor<1>, Tensor<1>, Vec<Routed>);

/// What a checkpoint holds of the routing beside the centroids.
#[derive(Serialize, Deserialize)]
pub(crate) struct Routing {
    /// Layers whose centroids were taken from data.
    pub initted: Vec<bool>,
    /// How the positions spread over the clusters so far.
    pub spread: Spread,
}

/// The optimiser, the schedule and the clipping that a recipe asks for.
pub(crate) fn learner(
    model: RoutingTransformerLM,
    training: &TrainingConfig,
) -> Result<Learner<RoutingTransformerLM>> {
    Learner::new(
        model,
        &training.optimizer,
        &training.schedule,
        training.clip,
        training.ema,
    )
}

/// Gradients of the shards, added up, move the weights; what the shards saw of the clusters, added up, moves the centroids.
/// `answer` is given the model, a shard, its key and how to run.
pub(crate) fn update<S>(
    learner: &mut Learner<RoutingTransformerLM>,
    training: &TrainingConfig,
    spread: &mut Spread,
    at: Step,
    shards: Vec<S>,
    answer: impl Fn(&RoutingTransformerLM, S, Key, Mode) -> Result<Answer>,
) -> Result<Scalars> {
    let shards: Vec<(usize, S)> = shards.into_iter().enumerate().collect();
    let (info, results) = learner.step(at.update(), shards, |model, (i, shard)| {
        let key = at.key.fold(i as u64);
        let mode = Mode::training(key.site("dropout"));
        let (loss, clustering, routed) = answer(model, shard, key, mode)?;
        let total = loss.clone() + clustering.clone();
        Ok((total, (loss.inner(), clustering.inner(), routed)))
    })?;
    let (mut losses, mut clusterings, mut passes) = (vec![], vec![], vec![]);
    for (loss, clustering, routed) in results {
        losses.push(loss);
        clusterings.push(clustering);
        passes.push(routed);
    }
    let mut scalars = Scalars::new()
        .mean("loss", Tensor::cat(losses, 0).mean())
        .value("lr", info.lr);
    if let Some(norm) = info.grad_norm {
        scalars.add_mean("grad_norm", norm);
    }
    let all: Vec<Routed> = passes.concat();
    if !all.is_empty() {
        let mut seen = Spread::default();
        seen.see(&all);
        scalars.add_mean("clustering_loss", Tensor::cat(clusterings, 0).mean());
        scalars.add_value("occupancy_entropy", seen.entropy());
        scalars.add_value("uncovered", seen.uncovered());
        spread.record(at.global, training.steps, &seen);
    }
    if !training.freeze_centroids {
        learner.update_model(|m| m.with_centroids(&passes));
    }
    Ok(scalars)
}

/// Takes the centroids from the first data, where they wait for it.
pub(crate) fn first_data(
    learner: &mut Learner<RoutingTransformerLM>,
    inputs: impl FnOnce() -> Tensor<2, Int>,
    key: Key,
) -> Result<()> {
    if !learner.model().needs_first_data() {
        return Ok(());
    }
    let model = learner.model().clone();
    let model = model.with_first_data(inputs(), key).map_err(Error::other)?;
    learner.update_model(|_| model);
    Ok(())
}

/// The line about memory before a run starts.
pub(crate) fn memory_line(
    config: &RoutingTransformerConfig,
    training: &TrainingConfig,
    length: usize,
) -> (String, String) {
    let slots = match training.optimizer {
        OptimizerConfig::Adam { .. } | OptimizerConfig::AdamW { .. } => 2.0,
        // Rows and columns are few.
        OptimizerConfig::Adafactor { .. } => 0.1,
        _ => 1.0,
    };
    let rows = training.batch_size / training.batch_split.max(1);
    let mib = config.training_bytes(rows, length, slots) / f64::from(1 << 20);
    let text =
        format!("about {mib:.0} MiB for a training step (an estimate; `--dry-run` measures)");
    ("memory".into(), text)
}
