//! One model, two optimisers.

use crate::compressor::Compressor;
use crate::memory_model::MemoryModel;
use crate::recipe::TrainingConfig;
use burn::module::Module;
use burn::prelude::*;
use trainer::{
    CheckpointReader, CheckpointWriter, Learner, ModuleGradients, Result, clip_global_norm,
};

/// Beginning of the module paths of the compression functions.
const COMPRESSORS: &str = "compressors.";

/// The compression functions under the module paths they have in the model.
#[derive(Module, Debug)]
pub(crate) struct CompressorSet {
    pub compressors: Vec<Compressor>,
}

/// Two optimisers for one model: one moves the compression functions, the other everything else.
pub(crate) struct Learners<M: MemoryModel> {
    pub main: Learner<M>,
    /// Absent where nothing is learned by the compression functions.
    compressor: Option<Learner<CompressorSet>>,
    joint_clip: Option<f64>,
}

/// What an update did.
pub(crate) struct Update {
    pub lr: f64,
    pub compressor_lr: Option<f64>,
    pub grad_norm: Option<Tensor<1>>,
    pub compressor_grad_norm: Option<Tensor<1>>,
}

impl<M: MemoryModel> Learners<M> {
    pub fn new(model: M, training: &TrainingConfig) -> Result<Self> {
        let learns = model.compressors().iter().any(|c| c.conv.is_some());
        let joint = training.joint_clip;
        let set = CompressorSet {
            compressors: model.compressors().to_vec(),
        };
        let optimizer = &training.optimizer;
        let clip = |own: Option<f64>| own.or(training.clip).filter(|_| !joint);
        let compressor = learns.then(|| {
            Learner::new(
                set,
                training.compressor_optimizer.as_ref().unwrap_or(optimizer),
                training
                    .compressor_schedule
                    .as_ref()
                    .unwrap_or(&training.schedule),
                clip(training.compressor_clip),
                None,
            )
        });
        Ok(Self {
            main: Learner::new(model, optimizer, &training.schedule, clip(None), None)?,
            compressor: compressor.transpose()?,
            joint_clip: training.clip.filter(|_| joint),
        })
    }

    /// One update of each part from gradients of the whole model.
    pub fn apply(&mut self, update: u64, gradients: ModuleGradients) -> Result<Update> {
        let (gradients, joint_norm) = match self.joint_clip {
            Some(clip) => clip_global_norm(gradients, clip),
            None => (gradients, None),
        };
        let (own, rest) = gradients.split(|path| path.starts_with(COMPRESSORS));
        let mut done = Update {
            lr: self.main.lr(update),
            compressor_lr: None,
            grad_norm: joint_norm,
            compressor_grad_norm: None,
        };
        if !rest.is_empty() {
            let info = self.main.apply(update, rest)?;
            done.grad_norm = done.grad_norm.or(info.grad_norm);
        }
        if let Some(learner) = &mut self.compressor {
            done.compressor_lr = Some(learner.lr(update));
            if !own.is_empty() {
                let info = learner.apply(update, own)?;
                done.compressor_grad_norm = info.grad_norm;
                let moved = learner.model().compressors.clone();
                self.main
                    .update_model(|model| model.with_compressors(moved));
            }
        }
        Ok(done)
    }

    pub fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        self.main.save("model", to)?;
        match &self.compressor {
            Some(learner) => learner.save("compressor", to),
            None => Ok(()),
        }
    }

    pub fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.main.restore("model", from)?;
        if let Some(learner) = &mut self.compressor {
            learner.restore("compressor", from)?;
            let known = learner.model().compressors.clone();
            self.main
                .update_model(|model| model.with_compressors(known));
        }
        Ok(())
    }
}
