//! Fine-tuning: a classifier of texts or pairs (section 4.1 of the paper).

use crate::classes::BertForSequenceClassification;
use crate::config::{BertConfig, ProblemType};
use crate::data::{Labelled, Sample};
use crate::experiment::{Common, report_lines, start};
use crate::model::EncoderCall;
use crate::parts::Mode;
use crate::predict::answer;
use crate::recipe::{EvaluationConfig, TrainingConfig};
use crate::sentence::Pooling;
use crate::tokenizer::BertTokenizer;
use crate::weights::{BertClass, Checkpoint, LoadReport, load};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::NamedTensors;
use serde_json::Value;
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Learner, Metrics, Objective,
    Predict, Recipe, Reference, Result, Sampled, Scalars, Split, Stage, Step, Work, task_metrics,
};

/// Fine-tuning brought to life.
pub struct FineTuning {
    learner: Learner<BertForSequenceClassification>,
    data: Labelled,
    max_length: usize,
    training: TrainingConfig,
    steps: u64,
    evaluation: EvaluationConfig,
    report: LoadReport,
    seed: u64,
    device: Device,
}

impl FineTuning {
    pub(crate) fn open(recipe: &Recipe, common: Common, device: &Device) -> Result<Self> {
        Self::with(recipe, common, None, device)
    }

    /// Fine-tuning with a tokenizer that is there already.
    pub(crate) fn with(
        recipe: &Recipe,
        common: Common,
        tokenizer: Option<BertTokenizer>,
        device: &Device,
    ) -> Result<Self> {
        let Common {
            mut config,
            vocab_given,
            data: spec,
            training,
            evaluation,
        } = common;
        let data = Labelled::load(recipe, &spec, &training, tokenizer)?;
        if data.train.is_empty() || data.valid.is_empty() {
            let found = format!("{} / {} examples", data.train.len(), data.valid.len());
            return Err(Error::value(
                "data",
                found,
                "examples to train and to judge on",
            ));
        }
        let per_epoch = data.train.len().div_ceil(training.batch_size.max(1)) as u64;
        let (training, steps) = training.resolved(Some(per_epoch))?;
        config = match &data.classes {
            Some(names) => config.with_label_names(names),
            None => config.with_label_names(&["score"]),
        };
        if data.classes.is_none() {
            config.problem_type = Some(ProblemType::Regression);
        }
        let (model, report) = start(
            recipe,
            config,
            vocab_given,
            &spec,
            &training,
            &data.tokenizer,
            device,
        )?;
        let learner = Learner::new(
            model,
            &training.optimizer,
            &training.schedule,
            training.clip,
            None,
        )?;
        Ok(Self {
            learner,
            data,
            max_length: spec.max_length,
            training,
            steps,
            evaluation,
            report,
            seed: recipe.seed,
            device: device.clone().without_autodiff(),
        })
    }

    /// Takes over the body of a pre-trained model; the classes' own map starts anew.
    pub(crate) fn begin_from(&mut self, tensors: NamedTensors) -> Result<()> {
        let config = self.learner.model().bert.config().clone();
        let checkpoint = Checkpoint {
            config: BertConfig {
                architectures: None,
                ..config
            },
            tensors,
            file: "the pre-trained model".into(),
        };
        let device = self.device.clone().autodiff();
        let key = Key::new(self.seed).site("head");
        let (model, _) = load::<BertForSequenceClassification>(checkpoint, key, &device)
            .map_err(Error::other)?;
        self.learner.update_model(|_| model);
        Ok(())
    }

    fn metric(&self) -> &'static str {
        use datasets::glue::Task;
        match self.data.task {
            Some(Task::Cola) => "mcc",
            Some(Task::Mrpc | Task::Qqp) => "f1",
            Some(Task::StsB) => "spearmanr",
            _ => "acc",
        }
    }

    /// The samples of one update: every epoch goes once through the data in an order of its own, a function of the seed
    /// and the epoch, so that a resumed run needs no position.
    fn order(&self, step: u64) -> Vec<usize> {
        let n = self.data.train.len();
        let batch = self.training.batch_size.min(n);
        let per_epoch = n.div_ceil(self.training.batch_size) as u64;
        let key = Key::new(self.seed).site("order").fold(step / per_epoch);
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, key.below(i as u64, i + 1));
        }
        let from = (step % per_epoch) as usize * self.training.batch_size;
        (from..(from + batch).min(n)).map(|i| order[i]).collect()
    }

    /// Every sample's outputs, in the samples' order; they run sorted by length, so that little is padded.
    fn outputs(&self, samples: &[Sample], name: Split, cx: &mut Context) -> Result<Vec<Vec<f32>>> {
        let model = self.learner.evaluation_model();
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&i| samples[i].encoded.ids.len());
        let mut found = vec![vec![]; samples.len()];
        let mut done = 0;
        for part in order.chunks(self.evaluation.batch_size) {
            let batch: Vec<&Sample> = part.iter().map(|&i| &samples[i]).collect();
            let (input, _) = self.data.batch(&batch)?;
            let (logits, _) = model
                .forward(&input, &EncoderCall::default())
                .map_err(Error::other)?;
            let width = logits.dims()[1];
            let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
            for (&i, row) in part.iter().zip(values.chunks(width)) {
                found[i] = row.to_vec();
            }
            done += part.len();
            cx.progress(
                done as u64,
                samples.len() as u64,
                &format!("evaluating on {}", name.name()),
            );
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
        }
        Ok(found)
    }
}

impl Experiment for FineTuning {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::maximize(self.metric());
        vec![Stage::new("fine-tune", self.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let order = self.order(at.step);
        let rows = order.len().div_ceil(self.training.batch_split);
        let mut shards = vec![];
        for (i, part) in order.chunks(rows).enumerate() {
            let samples: Vec<&Sample> = part.iter().map(|&i| &self.data.train[i]).collect();
            shards.push((i, self.data.batch(&samples)?));
        }
        let (info, losses) = self
            .learner
            .step(at.update(), shards, |model, (i, batch)| {
                let (input, labels) = batch;
                let mode = Mode::training(at.key.site("dropout").fold(i as u64));
                let (logits, _) = model
                    .forward(&input, &EncoderCall::new(mode))
                    .map_err(Error::other)?;
                let loss = model.loss(logits, &labels).map_err(Error::other)?;
                Ok((loss.clone(), loss.inner()))
            })?;
        let mut scalars = Scalars::new()
            .mean("loss", Tensor::cat(losses, 0).mean())
            .value("lr", info.lr);
        if let Some(norm) = info.grad_norm {
            scalars.add_mean("grad_norm", norm);
        }
        Ok(scalars)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let samples = match split {
            Split::Train => &self.data.train,
            Split::Valid => &self.data.valid,
            Split::Test => &self.data.test,
        };
        let outputs = self.outputs(samples, split, cx)?;
        let labels: Vec<f64> = samples.iter().map(|s| s.label).collect();
        let predictions: Vec<f64> = match self.data.classes {
            Some(_) => outputs
                .iter()
                .map(|o| task_metrics::argmax(o) as f64)
                .collect(),
            None => outputs.iter().map(|o| f64::from(o[0])).collect(),
        };
        let task = self.data.task.map_or("sst-2", |task| task.name());
        task_metrics::glue(task, &predictions, &labels)
            .ok_or_else(|| Error::value("data.labelled.task", task, "a task with metrics"))
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        self.learner.save("model", to)
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learner.restore("model", from)
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let model = self.learner.evaluation_model();
        model.save_pretrained(dir).map_err(Error::other)?;
        self.data
            .tokenizer
            .save_for(dir, Some(self.max_length))
            .map_err(Error::other)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(dir).map_err(Error::other)?;
        let device = self.device.clone().autodiff();
        let (model, _) = load::<BertForSequenceClassification>(checkpoint, Key::new(0), &device)
            .map_err(Error::other)?;
        let (own, others) = (
            self.learner.model().bert.config().labels(),
            model.body().config().labels(),
        );
        if own != others {
            let expected = format!("the {own} classes of the recipe's data");
            return Err(Error::value(
                "the model's number of classes",
                others,
                expected,
            ));
        }
        self.learner.update_model(|_| model);
        Ok(())
    }

    fn parameters(&self) -> Option<usize> {
        Some(self.learner.model().num_params())
    }

    fn work_per_step(&self) -> Option<Work> {
        Some(Work {
            amount: self.training.batch_size as f64,
            unit: "sequences",
        })
    }

    fn summary(&self) -> Vec<(String, String)> {
        let d = &self.data;
        let mut all = vec![(
            "data".to_owned(),
            format!(
                "{}: {} / {} / {} examples, {} ids",
                d.name,
                d.train.len(),
                d.valid.len(),
                d.test.len(),
                d.tokenizer.vocab_size()
            ),
        )];
        all.extend(report_lines(
            self.learner.model().bert.config(),
            &self.report,
        ));
        all
    }

    fn references(&self) -> Vec<Reference> {
        let Some(classes) = &self.data.classes else {
            return vec![];
        };
        if self.metric() != "acc" {
            return vec![];
        }
        let mut counts = vec![0usize; classes.len()];
        for sample in &self.data.test {
            if let Some(count) = counts.get_mut(sample.label as usize) {
                *count += 1;
            }
        }
        let most = counts.into_iter().max().unwrap_or(0) as f64;
        let mut all = vec![Reference {
            name: "the most frequent class".into(),
            metric: "acc".into(),
            value: most / self.data.test.len().max(1) as f64,
        }];
        all.extend(self.data.naive_bayes().map(|value| Reference {
            name: "counting words (naive Bayes)".into(),
            metric: "acc".into(),
            value,
        }));
        all
    }

    fn samples(&mut self, _cx: &mut Context) -> Result<Vec<Sampled>> {
        /// Examples of the test to show.
        const SHOWN: usize = 4;
        let Some(classes) = self.data.classes.clone() else {
            return Ok(vec![]);
        };
        let step = (self.data.test.len() / SHOWN).max(1);
        let shown: Vec<(Vec<u32>, usize)> = self
            .data
            .test
            .iter()
            .step_by(step)
            .map(|s| (s.encoded.ids.clone(), s.label as usize))
            .take(SHOWN)
            .collect();
        let mut all = vec![];
        for (ids, label) in shown {
            let text = self.data.tokenizer.decode(&ids).map_err(Error::other)?;
            let answer = self.predict(&Value::from(text.clone()))?;
            let name = |class: usize| classes.get(class).cloned().unwrap_or_default();
            let found = answer["label"].as_str().unwrap_or_default();
            let score = answer["score"].as_f64().unwrap_or_default();
            all.push(Sampled {
                title: format!("{} is taken for {found} ({score:.2})", name(label)),
                text,
            });
        }
        Ok(all)
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for FineTuning {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        let model = crate::AnyBert::SequenceClassification(self.learner.evaluation_model());
        answer(&model, &self.data.tokenizer, Pooling::Mean, input).map_err(Error::other)
    }
}
