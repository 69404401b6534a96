//! What a recipe may train, one file for each task.

mod classification;
mod hide;
mod lra;
mod masked_lm;
mod pretraining;
mod sequences;
mod sop;
mod start;
mod text;

pub use classification::Classification;
pub use lra::LraExperiment;
pub use masked_lm::MaskedLm;
pub use pretraining::PreTraining;
pub use sequences::{BytesSpec, LraData, LraExample};
pub use sop::{Documents, Instance};

pub(crate) use lra::answer as lra_answer;
pub(crate) use masked_lm::{Blocks, TextIds, hidden_scores};
pub(crate) use pretraining::fill_masks;

use crate::lra::{LraClassifier, LraDualClassifier};
use crate::recipe::{DataConfig, EvaluationConfig, TrainingConfig};
use burn::prelude::*;
use core_attn::random::Key;
use trainer::{Error, Experiment, Recipe, Result};

/// Brings a recipe to life.
///
/// # Errors
/// Anything in the recipe or the data that cannot be; the message names the place.
pub(crate) fn open(recipe: &Recipe, device: &Device) -> Result<Box<dyn Experiment>> {
    let data: DataConfig = recipe.section("data")?;
    Ok(match &data {
        DataConfig::PreTraining(_) => Box::new(PreTraining::open(recipe, device)?),
        DataConfig::MaskedLm(_) => Box::new(MaskedLm::open(recipe, device)?),
        DataConfig::Classification(_) => Box::new(Classification::open(recipe, device)?),
        _ => {
            let (training, evaluation) = sections(recipe)?;
            lra::check(recipe, &training)?;
            let data = LraData::load(&data, recipe)?;
            match data.pairs {
                true => Box::new(LraExperiment::<LraDualClassifier>::with(
                    recipe, data, training, evaluation, device,
                )?),
                false => Box::new(LraExperiment::<LraClassifier>::with(
                    recipe, data, training, evaluation, device,
                )?),
            }
        }
    })
}

/// The sections `training` and `evaluation`.
pub(crate) fn sections(recipe: &Recipe) -> Result<(TrainingConfig, EvaluationConfig)> {
    let evaluation: EvaluationConfig = recipe.section("evaluation")?;
    evaluation.validate()?;
    let training: TrainingConfig = recipe.section("training")?;
    if let Some(dir) = training.from.as_deref().map(|from| recipe.path(from))
        && !dir.is_dir()
    {
        let expected = "a model folder; this one does not exist: train or download the model first";
        return Err(Error::value("training.from", dir.display(), expected));
    }
    Ok((training, evaluation))
}

/// The data of another task than the one that is asked for.
pub(crate) fn other_task(expected: &str) -> Error {
    Error::value("data.task", "of another kind", expected)
}

/// The order in which examples are trained on: every epoch goes once through them in an order of its own, a function of the
/// seed and the epoch alone, so that a resumed run needs no position.
#[derive(Debug)]
pub(crate) struct Order {
    key: Key,
    size: usize,
    epoch: u64,
    order: Vec<u32>,
}

impl Order {
    pub(crate) fn new(seed: u64, size: usize) -> Self {
        Self {
            key: Key::new(seed).site("order"),
            size,
            epoch: u64::MAX,
            order: vec![],
        }
    }

    fn at(&mut self, place: u64) -> usize {
        let (epoch, place) = (place / self.size as u64, place % self.size as u64);
        if self.epoch != epoch {
            let key = self.key.fold(epoch);
            self.order = (0..self.size as u32).collect();
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, key.below(i as u64, i + 1));
            }
            self.epoch = epoch;
        }
        self.order[place as usize] as usize
    }

    /// Indices of the examples of an update, counted from 0.
    pub(crate) fn batch(&mut self, step: u64, size: usize) -> Vec<usize> {
        let size = size as u64;
        (step * size..(step + 1) * size)
            .map(|i| self.at(i))
            .collect()
    }
}

/// Refuses splits that cannot be trained on or judged by.
pub(crate) fn not_empty(train: usize, valid: usize, test: usize) -> Result<()> {
    match train == 0 || valid == 0 || test == 0 {
        true => Err(Error::value(
            "data",
            format!("{train} / {valid} / {test} examples"),
            "some to learn from, to choose by and to report",
        )),
        false => Ok(()),
    }
}

/// The value of a tensor of one element.
pub(crate) fn number(x: Tensor<1>) -> f64 {
    x.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}
