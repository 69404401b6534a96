//! Pre-training and fine-tuning in one run: the body that the first stage leaves is where the second begins.

use crate::data::tokenizer;
use crate::experiment::Common;
use crate::finetuning::FineTuning;
use crate::instances::Texts;
use crate::pretraining::PreTraining;
use crate::recipe::PreTrainingConfig;
use crate::weights::saved_tensors;
use burn::prelude::*;
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Metrics, Predict, Recipe,
    Reference, Result, Sampled, Scalars, Split, Stage, Step, Work,
};

/// The stage that fine-tunes.
const TUNING: usize = 1;

/// The file of a checkpoint that says in which stage it was written.
const STAGE: &str = "stage";

/// A classifier whose body is pre-trained first (sections 3.1 and 3.2 of the paper).
pub struct PreTrainedTuning {
    first: PreTraining,
    second: FineTuning,
    stage: usize,
}

impl PreTrainedTuning {
    pub(crate) fn open(
        recipe: &Recipe,
        common: Common,
        first: &PreTrainingConfig,
        device: &Device,
    ) -> Result<Self> {
        let mut before = common.clone();
        before.training = common.training.of_pretraining(first);
        before.data.max_length = first.max_length.unwrap_or(common.data.max_length);
        let texts = Texts::load(recipe, &common.data)?;
        // Without a corpus of its own, pre-training reads the task's texts, and one vocabulary serves both.
        let text = || texts.splits[0].join("\n\n");
        let tokenizer = tokenizer(recipe, &common.data, &common.training, &text)?;
        let second = FineTuning::with(recipe, common, Some(tokenizer.clone()), device)?;
        Ok(Self {
            first: PreTraining::on(recipe, before, &texts, tokenizer, device)?,
            second,
            stage: 0,
        })
    }

    fn now(&self) -> &dyn Experiment {
        match self.stage {
            TUNING => &self.second,
            _ => &self.first,
        }
    }

    fn now_mut(&mut self) -> &mut dyn Experiment {
        match self.stage {
            TUNING => &mut self.second,
            _ => &mut self.first,
        }
    }
}

impl Experiment for PreTrainedTuning {
    fn stages(&self) -> Vec<Stage> {
        let mut all = self.first.stages();
        all.extend(self.second.stages());
        all
    }

    fn begin_stage(&mut self, stage: usize, _cx: &mut Context) -> Result<()> {
        if stage == TUNING {
            self.second.begin_from(saved_tensors(&self.first.model()))?;
        }
        self.stage = stage;
        Ok(())
    }

    fn train_step(&mut self, at: Step, cx: &mut Context) -> Result<Scalars> {
        self.now_mut().train_step(at, cx)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        self.now_mut().evaluate(split, cx)
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        // What the other stage holds is its beginning, or no longer needed.
        to.json(STAGE, &self.stage)?;
        self.now().save(to)
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.stage = from.json(STAGE)?;
        if self.stage > TUNING {
            return Err(Error::value("the checkpoint's stage", self.stage, "0 or 1"));
        }
        self.now_mut().restore(from)
    }

    fn export(&self, dir: &Path) -> Result<()> {
        self.now().export(dir)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        self.stage = TUNING;
        self.second.load_model(dir)
    }

    fn parameters(&self) -> Option<usize> {
        self.second.parameters()
    }

    fn work_per_step(&self) -> Option<Work> {
        self.now().work_per_step()
    }

    fn summary(&self) -> Vec<(String, String)> {
        let mut all = self.second.summary();
        let texts = self.first.summary().into_iter().take(1);
        all.extend(texts.map(|(_, text)| ("pre-trained on".to_owned(), text)));
        // The report sets only the task's anchors beside its result.
        let anchors = self.first.references().into_iter();
        all.extend(anchors.map(|r| (r.name, format!("{} {:.3}", r.metric, r.value))));
        all
    }

    fn references(&self) -> Vec<Reference> {
        self.second.references()
    }

    fn samples(&mut self, cx: &mut Context) -> Result<Vec<Sampled>> {
        self.now_mut().samples(cx)
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        self.now_mut().predictor()
    }
}
