//! The run: fine-tuning, then the off-ramps; or both at once (section 3.2 of the paper).

use crate::data::{DataConfig, Sample, Texts};
use crate::evaluate::Judged;
use crate::exits::Thresholds;
use crate::folder::answer;
use crate::model::DeeBertForSequenceClassification;
use crate::ramp::OffRamps;
use crate::recipe::{EvaluationConfig, Part, StagePlan, TrainingConfig, model_section};
use crate::schedule::{joint_loss, stage2_loss};
use crate::start::start;
use crate::weights::open_checkpoint;
use bert::{LoadReport, Mode};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::LoadOptions;
use serde_json::Value;
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Figure, Learner, Metrics,
    Objective, Predict, Recipe, Reference, Result, Scalars, Split, Stage, Step, UpdateInfo, Work,
};

/// The parts of a checkpoint.
const MODEL: &str = "model";
const RAMPS: &str = "off-ramps";
const FROZEN: &str = "frozen";

/// A recipe brought to life.
pub struct DeeBertExperiment {
    phase: Phase,
    plans: Vec<StagePlan>,
    pub(crate) texts: Texts,
    max_length: usize,
    training: TrainingConfig,
    pub(crate) evaluation: EvaluationConfig,
    report: LoadReport,
    pub(crate) seed: u64,
    device: Device,
    /// What the test split showed, with the threshold that the validation split chose.
    pub(crate) judged: Option<Judged>,
}

/// What is being trained.
// One value a program: the size of the larger does not matter.
#[allow(clippy::large_enum_variant)]
enum Phase {
    /// The encoder with everything on it.
    Model(Learner<DeeBertForSequenceClassification>),
    /// The off-ramps alone.
    Ramps {
        learner: Learner<OffRamps>,
        /// The rest, which rests, without autodiff.
        frozen: Box<DeeBertForSequenceClassification>,
        /// What the off-ramps see of every training sample, `[L − 1]` of `[samples, hidden]`, where the encoder does not drop out.
        features: Option<Vec<Tensor<2>>>,
    },
}

impl DeeBertExperiment {
    /// Reads the recipe's sections, loads the data, and makes or loads the model.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let config = model_section(recipe)?;
        let data: DataConfig = recipe.section("data")?;
        let training = TrainingConfig::read(recipe)?;
        let evaluation: EvaluationConfig = recipe.section("evaluation")?;
        let device = device.clone().without_autodiff();
        if training.from.is_none() {
            // What a wrong recipe costs should not be the reading of its data: the layers are checked again below.
            evaluation.validate(config.layers())?;
            training.plan(1, config.layers())?;
        }
        let (model, texts, report) = start(recipe, config, &data, &training, &device)?;
        evaluation.validate(model.layers())?;
        let plans = training.plan(texts.split(Split::Train).len(), model.layers())?;
        let first = &plans[0];
        let clip = training.clip;
        let learner = Learner::new(model, &first.optimizer, &first.schedule, clip, None)?;
        Ok(Self {
            phase: Phase::Model(learner),
            plans,
            texts,
            max_length: data.max_length,
            training,
            evaluation,
            report,
            seed: recipe.seed,
            device,
            judged: None,
        })
    }

    /// The model as it stands, without autodiff.
    pub fn model(&self) -> DeeBertForSequenceClassification {
        match &self.phase {
            Phase::Model(learner) => learner.evaluation_model(),
            Phase::Ramps {
                learner, frozen, ..
            } => {
                let model = (**frozen).clone();
                model.with_off_ramps(learner.evaluation_model())
            }
        }
    }

    /// What stage 2 begins with: the off-ramps with copies of the pooler as it is now, the rest at rest.
    fn enter_ramps(&mut self, plan: &StagePlan) -> Result<()> {
        let Phase::Model(learner) = &self.phase else {
            return Ok(());
        };
        let ramps = learner.model().clone().with_copied_poolers().off_ramps();
        let frozen = learner.evaluation_model().with_copied_poolers();
        self.phase = Phase::Ramps {
            learner: self.ramp_learner(ramps, plan)?,
            frozen: Box::new(frozen),
            features: None,
        };
        Ok(())
    }

    fn ramp_learner(&self, ramps: OffRamps, plan: &StagePlan) -> Result<Learner<OffRamps>> {
        let clip = self.training.clip;
        Learner::new(ramps, &plan.optimizer, &plan.schedule, clip, None)
    }

    /// The samples of one update: every epoch goes once through the data in an order of its own, a function of seed, stage and
    /// epoch, so that a resumed run needs no position.
    fn order(&self, at: Step, batch_size: usize) -> Vec<usize> {
        let n = self.texts.split(Split::Train).len();
        let per_epoch = n.div_ceil(batch_size) as u64;
        let key = Key::new(self.seed).site("order").fold(at.stage as u64);
        let key = key.fold(at.step / per_epoch);
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, key.below(i as u64, i + 1));
        }
        let from = (at.step % per_epoch) as usize * batch_size;
        order[from..(from + batch_size).min(n)].to_vec()
    }

    /// An update of stage 1 or of a joint schedule.
    fn model_step(&mut self, at: Step, plan: &StagePlan) -> Result<Scalars> {
        let order = self.order(at, plan.batch_size);
        let rows = order.len().div_ceil(self.training.batch_split);
        let samples = self.texts.split(Split::Train);
        let mut shards = vec![];
        for (i, part) in order.chunks(rows).enumerate() {
            let batch = self.texts.batch(part.iter().map(|&i| &samples[i]))?;
            shards.push((i, batch));
        }
        let weights = self.training.joint_weights;
        let joint = match plan.part {
            Part::Alternating => at.update().is_multiple_of(2),
            part => part == Part::Joint,
        };
        let Phase::Model(learner) = &mut self.phase else {
            return Err(wrong_phase());
        };
        let (info, losses) = learner.step(at.update(), shards, |model, (i, (input, labels))| {
            let mode = Mode::training(at.key.site("dropout").fold(i as u64));
            let loss = if joint {
                let all = model.forward_all_exits(&input, mode)?;
                let losses = model.losses(&all, &labels)?;
                joint_loss(&losses, weights).ok_or_else(wrong_phase)?
            } else {
                let scores = model.classify(&input, mode)?;
                model.loss(scores, &labels)?
            };
            Ok((loss.clone(), loss.inner()))
        })?;
        let loss = Tensor::cat(losses, 0).mean();
        Ok(scalars(
            if joint { "joint_loss" } else { "loss" },
            loss,
            info,
        ))
    }

    /// An update of the off-ramps.
    fn ramp_step(&mut self, at: Step, plan: &StagePlan, cx: &mut Context) -> Result<Scalars> {
        if !self.training.stage2_encoder_dropout {
            self.keep_features(cx)?;
        }
        let order = self.order(at, plan.batch_size);
        let samples = self.texts.split(Split::Train);
        let labels: Vec<f64> = order.iter().map(|&i| samples[i].label).collect();
        let labels = self.texts.labels(&labels);
        let key = at.key.site("dropout");
        let Phase::Ramps {
            learner,
            frozen,
            features,
        } = &mut self.phase
        else {
            return Err(wrong_phase());
        };
        let vectors: Vec<Tensor<2>> = match features {
            Some(kept) => {
                let index: Vec<i64> = order.iter().map(|i| *i as i64).collect();
                let index = bert::indices(&index, &self.device);
                kept.iter()
                    .map(|x| x.clone().select(0, index.clone()))
                    .collect()
            }
            None => {
                let (input, _) = self.texts.batch(order.iter().map(|&i| &samples[i]))?;
                let mode = Mode::training(key.site("encoder"));
                frozen.features(&input, mode)?
            }
        };
        let shard = vec![vectors];
        let (info, losses) = learner.step(at.update(), shard, |ramps, vectors| {
            let scores = ramps.forward(vectors, Mode::training(key));
            let losses = scores?.into_iter();
            let losses = losses.map(|z| Ok(frozen.loss(z, &labels)?));
            let loss = stage2_loss(losses.collect::<Result<Vec<_>>>()?);
            let loss = loss.ok_or_else(wrong_phase)?;
            Ok((loss.clone(), loss.inner()))
        })?;
        Ok(scalars("ramp_loss", Tensor::cat(losses, 0).mean(), info))
    }

    /// Computes what the off-ramps see of every training sample, once. It follows from the frozen encoder, so a resumed run
    /// computes the same again.
    fn keep_features(&mut self, cx: &mut Context) -> Result<()> {
        let Phase::Ramps {
            frozen, features, ..
        } = &mut self.phase
        else {
            return Err(wrong_phase());
        };
        if features.is_some() {
            return Ok(());
        }
        let samples = self.texts.split(Split::Train);
        let (total, hidden) = (samples.len(), frozen.config().bert.hidden_size);
        let mut kept = vec![vec![0f32; total * hidden]; frozen.layers() - 1];
        let mut done = 0;
        for part in by_length(samples).chunks(self.evaluation.batch_size) {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let (input, _) = self.texts.batch(part.iter().map(|&i| &samples[i]))?;
            let vectors = frozen.features(&input, Mode::evaluation());
            for (layer, x) in kept.iter_mut().zip(vectors?) {
                let values: Vec<f32> = x.into_data().iter::<f32>().collect();
                for (&i, row) in part.iter().zip(values.chunks(hidden)) {
                    layer[i * hidden..(i + 1) * hidden].copy_from_slice(row);
                }
            }
            done += part.len();
            cx.progress(done as u64, total as u64, "what the off-ramps see");
        }
        let tensor = |values| {
            let data = TensorData::new(values, [total, hidden]);
            Tensor::from_data(data, &self.device)
        };
        *features = Some(kept.into_iter().map(tensor).collect());
        Ok(())
    }

    pub(crate) fn labels_of(&self, split: Split) -> Vec<f64> {
        self.texts.split(split).iter().map(|s| s.label).collect()
    }
}

/// The indices of samples from short to long, so that a batch has little padding.
pub(crate) fn by_length(samples: &[Sample]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&i| samples[i].encoded.ids.len());
    order
}

fn scalars(name: &str, loss: Tensor<1>, info: UpdateInfo) -> Scalars {
    let mut scalars = Scalars::new().mean(name, loss).value("lr", info.lr);
    if let Some(norm) = info.grad_norm {
        scalars.add_mean("grad_norm", norm);
    }
    scalars
}

fn wrong_phase() -> Error {
    Error::State {
        what: "the run".into(),
        problems: "a stage was entered whose parts are not there; start the run anew".into(),
    }
}

impl Experiment for DeeBertExperiment {
    fn stages(&self) -> Vec<Stage> {
        let stage = |plan: &StagePlan| {
            let (name, objective) = match plan.part {
                Part::FineTune => ("fine-tune", Objective::maximize(self.texts.metric())),
                Part::OffRamps => ("off-ramps", Objective::minimize("ramp_loss")),
                Part::Joint => ("joint", Objective::maximize("exits_mean")),
                Part::Alternating => ("alternating", Objective::maximize("exits_mean")),
            };
            Stage::new(name, plan.steps, objective)
        };
        self.plans.iter().map(stage).collect()
    }

    fn train_step(&mut self, at: Step, cx: &mut Context) -> Result<Scalars> {
        let plan = self.plans.get(at.stage).cloned().ok_or_else(wrong_phase)?;
        match plan.part {
            Part::OffRamps => {
                self.enter_ramps(&plan)?;
                self.ramp_step(at, &plan, cx)
            }
            _ => self.model_step(at, &plan),
        }
    }

    fn begin_stage(&mut self, stage: usize, _cx: &mut Context) -> Result<()> {
        match self.plans.get(stage).cloned() {
            Some(plan) if plan.part == Part::OffRamps => self.enter_ramps(&plan),
            _ => Ok(()),
        }
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let model = self.model();
        let table = self.table(&model, split, cx)?;
        let mut metrics = self.exit_metrics(&table, split)?;
        if split == Split::Test {
            self.judge(&model, table, &mut metrics, cx)?;
        }
        Ok(metrics)
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        match &self.phase {
            Phase::Model(learner) => learner.save(MODEL, to),
            Phase::Ramps {
                learner, frozen, ..
            } => {
                to.tensors(FROZEN, pretrained::collect_weights(&**frozen))?;
                learner.save(RAMPS, to)
            }
        }
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        if from.has(MODEL) {
            let Phase::Model(learner) = &mut self.phase else {
                return Err(wrong_phase());
            };
            return learner.restore(MODEL, from);
        }
        let plan = self.plans.iter().find(|plan| plan.part == Part::OffRamps);
        let plan = plan.cloned().ok_or_else(wrong_phase)?;
        self.enter_ramps(&plan)?;
        let Phase::Ramps {
            learner,
            frozen,
            features,
        } = &mut self.phase
        else {
            return Err(wrong_phase());
        };
        let (tensors, file) = (from.tensors(FROZEN)?, from.dir().join(FROZEN));
        let loaded =
            pretrained::load_weights((**frozen).clone(), tensors, &file, &LoadOptions::default());
        **frozen = loaded?.0;
        *features = None;
        learner.restore(RAMPS, from)
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let mut model = self.model();
        if let Some(threshold) = self.judged.as_ref().and_then(|judged| judged.chosen) {
            let mut exits = model.config().deebert.clone();
            exits.thresholds = Some(Thresholds::One(threshold));
            model = model.with_exits(exits)?;
        }
        model.save_pretrained(dir)?;
        self.texts.tokenizer.save_for(dir, Some(self.max_length))?;
        Ok(())
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let checkpoint = open_checkpoint(dir)?;
        let (key, device) = (Key::new(0), self.device.clone().autodiff());
        let (model, _) =
            DeeBertForSequenceClassification::from_checkpoint(checkpoint, key, &device)?;
        let (own, other) = (self.model(), model.config());
        for (what, own, other) in [
            (
                "number of classes",
                own.config().bert.labels(),
                other.bert.labels(),
            ),
            ("number of layers", own.layers(), model.layers()),
        ] {
            if own != other {
                let expected = format!("{own}, as in the recipe");
                return Err(Error::value(format!("the model's {what}"), other, expected));
            }
        }
        let ids = self.texts.tokenizer.vocab_size();
        if other.bert.vocab_size < ids {
            let expected = format!("at least the {ids} entries of the recipe's tokenizer");
            return Err(Error::value(
                "the model's vocab_size",
                other.bert.vocab_size,
                expected,
            ));
        }
        let plan = &self.plans[0];
        let clip = self.training.clip;
        let learner = Learner::new(model, &plan.optimizer, &plan.schedule, clip, None)?;
        self.phase = Phase::Model(learner);
        Ok(())
    }

    fn parameters(&self) -> Option<usize> {
        Some(match &self.phase {
            Phase::Model(learner) => learner.model().num_params(),
            Phase::Ramps { frozen, .. } => frozen.num_params(),
        })
    }

    fn work_per_step(&self) -> Option<Work> {
        let plan = match &self.phase {
            Phase::Model(_) => self.plans.first(),
            Phase::Ramps { .. } => self.plans.last(),
        };
        plan.map(|plan| Work {
            amount: plan.batch_size as f64,
            unit: "sequences",
        })
    }

    fn summary(&self) -> Vec<(String, String)> {
        let sizes = [Split::Train, Split::Valid, Split::Test].map(|s| self.texts.split(s).len());
        let [train, valid, test] = sizes;
        let ids = self.texts.tokenizer.vocab_size();
        let model = self.model();
        let c = model.config();
        let mut all = vec![
            (
                "data".to_owned(),
                format!(
                    "{}: {train} / {valid} / {test} examples, {ids} ids",
                    self.texts.name
                ),
            ),
            (
                "model".to_owned(),
                format!(
                    "{} layers of {} heads, hidden size {}, off-ramps on {}",
                    c.layers(),
                    c.bert.num_attention_heads,
                    c.bert.hidden_size,
                    match c.deebert.off_ramp_pooling {
                        crate::OffRampPooling::Cls => "the first token",
                        crate::OffRampPooling::Mean => "the mean of the tokens",
                    }
                ),
            ),
        ];
        for (what, names) in [("new", &self.report.new), ("unused", &self.report.unused)] {
            if !names.is_empty() {
                all.push((format!("{what} tensors"), names.join(", ")));
            }
        }
        all
    }

    fn references(&self) -> Vec<Reference> {
        let Some(classes) = self
            .texts
            .classes
            .as_ref()
            .filter(|_| self.texts.metric() == "acc")
        else {
            return vec![];
        };
        let share = |split: Split, class: usize| {
            let labels = self.labels_of(split);
            let hits = labels.iter().filter(|l| **l as usize == class).count();
            hits as f64 / labels.len().max(1) as f64
        };
        // The first of equals.
        let frequent = (0..classes.len())
            .rev()
            .max_by(|&a, &b| share(Split::Train, a).total_cmp(&share(Split::Train, b)));
        let value = share(Split::Test, frequent.unwrap_or(0));
        vec![Reference {
            name: "always the most frequent class of the training split".into(),
            metric: "acc".into(),
            value,
        }]
    }

    fn figures(&self) -> Vec<Figure> {
        self.judged
            .as_ref()
            .map_or(vec![], |judged| judged.figures(self))
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for DeeBertExperiment {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        answer(&self.model(), &self.texts.tokenizer, input)
    }
}
