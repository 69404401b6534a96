//! The ordinary case of training, written once: model, optimiser, schedule, clip, accumulation, averaged weights.

use crate::clip::clip_global_norm;
use crate::ema::Ema;
use crate::optimizer::{Counts, Optimizer};
use crate::paths::{self, ModuleGradients};
use crate::{CheckpointReader, CheckpointWriter, Error, OptimizerConfig, Result, Schedule};
use burn::module::Module;
use burn::tensor::Tensor;

/// A model under training. An experiment owns one, or two if it plays one model against another.
#[derive(Debug)]
pub struct Learner<M: Module> {
    // Empty only while an update holds the model.
    model: Option<M>,
    optimizer: Optimizer,
    base_lr: f64,
    schedule: Schedule,
    clip: Option<f64>,
    ema: Option<Ema>,
}

/// What an update did.
#[derive(Debug, Clone)]
pub struct UpdateInfo {
    /// The learning rate.
    pub lr: f64,
    /// The norm of all gradients together before clipping, `[1]`, where clipping is on.
    pub grad_norm: Option<Tensor<1>>,
}

impl<M: Module> Learner<M> {
    /// A learner for a model on an autodiff device.
    ///
    /// `clip` is the largest norm of all gradients together; `ema` the decay of an average of the weights that
    /// [`evaluation_model`](Self::evaluation_model) then uses.
    ///
    /// # Errors
    /// When a setting is out of range, a parameter group matches nothing, or the schedule has no end ([`Schedule::over`] gives it one).
    pub fn new(
        model: M,
        optimizer: &OptimizerConfig,
        schedule: &Schedule,
        clip: Option<f64>,
        ema: Option<f64>,
    ) -> Result<Self> {
        schedule.validate("training.schedule")?;
        if schedule.is_open() {
            // Without an end the rate would silently never fall.
            return Err(Error::value(
                "training.schedule.steps",
                "absent",
                "a number, or the length of the stage through `Schedule::over`",
            ));
        }
        if let Some(clip) = clip
            && !(clip > 0.0 && clip.is_finite())
        {
            return Err(Error::value(
                "the clip of the gradient norm",
                clip,
                "a number above 0",
            ));
        }
        if let Some(decay) = ema
            && !(0.0..1.0).contains(&decay)
        {
            return Err(Error::value(
                "the decay of the averaged weights",
                decay,
                "a number from 0 to below 1",
            ));
        }
        Ok(Self {
            optimizer: Optimizer::new(optimizer, &paths::places(&model))?,
            base_lr: optimizer.lr(),
            schedule: schedule.clone(),
            clip,
            ema: ema.map(|decay| Ema::new(decay, &model)),
            model: Some(model),
        })
    }

    /// The model.
    pub fn model(&self) -> &M {
        self.model.as_ref().expect(HELD)
    }

    /// Replaces the model by a function of it, such as a clamp after an update.
    ///
    /// Parameters must keep their paths and sizes, or their optimiser state no longer fits. The averaged weights are not touched.
    pub fn update_model(&mut self, f: impl FnOnce(M) -> M) {
        self.model = self.model.take().map(f);
    }

    /// The model, without its optimiser.
    pub fn into_model(self) -> M {
        self.model.expect(HELD)
    }

    /// A copy of the model for evaluation: without autodiff, with the averaged weights where they are kept.
    pub fn evaluation_model(&self) -> M {
        let model = self.model().valid();
        match &self.ema {
            Some(ema) => ema.apply(model),
            None => model,
        }
    }

    /// The learning rate of an update, counted from 1.
    pub fn lr(&self, update: u64) -> f64 {
        self.schedule.lr(self.base_lr, update)
    }

    /// Runs the shards one after another, sums the gradients of their losses divided by the number of shards, and does one update.
    ///
    /// `update` counts from 1. Each call of `f` gives the loss of a shard, one element on the autodiff device, and whatever the caller
    /// wants back, such as the state that belongs to the shard; the second part of the result holds these in order.
    ///
    /// # Errors
    /// When there is no shard, `f` fails, or a loss cannot be differentiated; the model is unchanged then.
    pub fn step<S, R>(
        &mut self,
        update: u64,
        shards: Vec<S>,
        mut f: impl FnMut(&M, S) -> Result<(Tensor<1>, R)>,
    ) -> Result<(UpdateInfo, Vec<R>)> {
        let share = 1.0 / shards.len() as f64;
        let one = shards.len() == 1;
        let mut sum = ModuleGradients::default();
        let mut results = Vec::with_capacity(shards.len());
        for shard in shards {
            let (loss, result) = f(self.model(), shard)?;
            let loss = if one { loss } else { loss.mul_scalar(share) };
            sum.add(self.gradients(loss)?)?;
            results.push(result);
        }
        Ok((self.apply(update, sum)?, results))
    }

    /// The gradients of one loss, for updates that [`step`](Self::step) does not cover: sum several with
    /// [`ModuleGradients::add`], then [`apply`](Self::apply) them.
    ///
    /// # Errors
    /// When the loss has not exactly one element or no parameter of the model takes part in it.
    pub fn gradients(&self, loss: Tensor<1>) -> Result<ModuleGradients> {
        if loss.dims() != [1] {
            return Err(Error::Update {
                what: format!("the loss has {} elements", loss.dims()[0]),
                remedy: "take its mean or its sum".to_owned(),
            });
        }
        let unreached = || Error::Update {
            what: "no parameter that requires a gradient takes part in the loss".to_owned(),
            remedy: "build the model and the inputs on `device.autodiff()`".to_owned(),
        };
        if !loss.is_tracked() {
            return Err(unreached());
        }
        let gradients = ModuleGradients::collect(self.model(), &mut loss.backward());
        match gradients.is_empty() {
            true => Err(unreached()),
            false => Ok(gradients),
        }
    }

    /// Clips the gradients, moves the parameters once, and averages the weights.
    ///
    /// # Errors
    /// When there are no gradients, or they belong to another model.
    pub fn apply(&mut self, update: u64, gradients: ModuleGradients) -> Result<UpdateInfo> {
        if gradients.is_empty() {
            return Err(Error::Update {
                what: "there is nothing to update with".to_owned(),
                remedy: "give at least one shard".to_owned(),
            });
        }
        let (gradients, grad_norm) = match self.clip {
            Some(clip) => clip_global_norm(gradients, clip),
            None => (gradients, None),
        };
        let lr = self.lr(update);
        let model = self.model.take().expect(HELD);
        let (model, result) = self.optimizer.step(model, lr, gradients);
        let model = self.model.insert(model);
        result?;
        if let Some(ema) = &mut self.ema {
            ema.update(model);
        }
        Ok(UpdateInfo { lr, grad_norm })
    }

    /// Writes weights, optimiser state and averaged weights, exactly, under names that begin with `name`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, name: &str, to: &mut CheckpointWriter) -> Result<()> {
        to.tensors(name, paths::collect(self.model()))?;
        to.tensors(&format!("{name}.optimizer"), self.optimizer.to_tensors())?;
        to.json(&format!("{name}.optimizer"), &self.optimizer.counts())?;
        if let Some(ema) = &self.ema {
            to.tensors(&format!("{name}.ema"), ema.to_tensors())?;
        }
        Ok(())
    }

    /// Takes up what [`save`](Self::save) wrote; training then goes on as if it had not stopped.
    ///
    /// # Errors
    /// When a file is missing, or does not fit this model and optimiser.
    pub fn restore(&mut self, name: &str, from: &CheckpointReader) -> Result<()> {
        let state = format!("{name}.optimizer");
        let counts: Counts = from.json(&state)?;
        let slots = from.tensors(&state)?;
        let model = paths::restore(self.model().clone(), from.tensors(name)?, name)?;
        let places = paths::places(&model);
        if let Some(ema) = &mut self.ema {
            let averages = format!("{name}.ema");
            ema.restore(from.tensors(&averages)?, &places, &averages)?;
        }
        self.optimizer.restore(counts, slots, &places, &state)?;
        self.model = Some(model);
        Ok(())
    }
}

const HELD: &str = "the model is absent only while an update of the optimiser holds it";
