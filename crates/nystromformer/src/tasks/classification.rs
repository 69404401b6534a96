//! Fine-tuning: a classifier of texts or pairs (section 4.2 of the paper).

use super::start::{self, start};
use super::text::tokenizer;
use super::{Order, not_empty, other_task, sections};
use crate::answer::{answering, fitted, padded};
use crate::heads::{NystromformerForSequenceClassification, Task};
use crate::recipe::{ClassificationSpec, DataConfig, EvaluationConfig, Padding, TrainingConfig};
use crate::weights::{LoadNotes, from_pretrained};
use bert::{BertTokenizer, Encoded, EncoderInput, Form, Labels, Mode, Scores, classification_loss};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use datasets::glue::{self, Label};
use datasets::labelled;
use serde_json::{Map, Value, json};
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Learner, Metrics, Objective,
    Predict, Recipe, Reference, Result, Scalars, Split, Stage, Step, Work, task_metrics,
};

/// A labelled text or pair.
struct Sample {
    encoded: Encoded,
    /// The class's index, or the number to be found.
    label: f64,
}

/// A classifier of texts under training.
pub struct Classification {
    learner: Learner<NystromformerForSequenceClassification>,
    /// Train, valid, test.
    samples: [Vec<Sample>; 3],
    name: String,
    task: Option<glue::Task>,
    /// `None` for a regression.
    classes: Option<Vec<String>>,
    tokenizer: BertTokenizer,
    spec: ClassificationSpec,
    training: TrainingConfig,
    steps: u64,
    evaluation: EvaluationConfig,
    notes: LoadNotes,
    order: Order,
    device: Device,
}

impl Classification {
    /// Reads the recipe's sections and texts, makes a vocabulary where none is given, and initialises the model or loads the
    /// body that `training.from` names.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let DataConfig::Classification(spec) = recipe.section("data")? else {
            return Err(other_task("`classification`"));
        };
        let (training, evaluation) = sections(recipe)?;
        training.clone().resolved(Some(1))?;
        start::section(recipe)?;
        let data = labelled::load(&spec.texts, recipe.base_dir()).map_err(Error::other)?;
        not_empty(data.train.len(), data.valid.len(), data.test.len())?;
        let (training, steps) = training.resolved(Some(data.train.len()))?;
        let from = training.from.as_deref();
        let text = || {
            let texts = data.train.iter();
            let texts = texts.flat_map(|e| [Some(&e.text_a), e.text_b.as_ref()]);
            let texts: Vec<&str> = texts.flatten().map(String::as_str).collect();
            texts.join("\n")
        };
        let tokenizer = tokenizer(
            recipe,
            spec.tokenizer.as_deref(),
            from,
            spec.vocab_size,
            spec.lowercase,
            &text,
        )?;
        let encode = |list: &[glue::Example]| -> Result<Vec<Sample>> {
            let known = list.iter().filter_map(|example| {
                let label = match example.label {
                    Label::Class(class) => class as f64,
                    Label::Value(value) => value,
                    Label::None => return None,
                };
                let (a, b) = (&example.text_a, example.text_b.as_deref());
                let encoded = tokenizer.encode(a, b, Some(spec.max_length));
                Some(
                    encoded
                        .map_err(Error::other)
                        .map(|encoded| Sample { encoded, label }),
                )
            });
            known.collect()
        };
        let samples = [
            encode(&data.train)?,
            encode(&data.valid)?,
            encode(&data.test)?,
        ];
        let mut head = Map::new();
        match &data.labels {
            Some(names) => {
                let names = names.iter().enumerate();
                let names: Map<String, Value> = names
                    .map(|(i, name)| (i.to_string(), json!(name)))
                    .collect();
                let numbers: Map<String, Value> = names
                    .iter()
                    .map(|(i, name)| {
                        (
                            name.as_str().unwrap_or_default().to_owned(),
                            json!(i.parse::<u32>().unwrap_or(0)),
                        )
                    })
                    .collect();
                head.insert("num_labels".into(), names.len().into());
                head.insert("label2id".into(), numbers.into());
                head.insert("problem_type".into(), "single_label_classification".into());
                head.insert("id2label".into(), names.into());
            }
            None => {
                head.insert("num_labels".into(), 1.into());
                head.insert("problem_type".into(), "regression".into());
                head.insert("id2label".into(), json!({ "0": "score" }));
            }
        }
        let (model, notes) = start(recipe, from, &tokenizer, spec.max_length, head, device)?;
        let learner = Learner::new(
            model,
            &training.optimizer,
            &training.schedule,
            training.clip,
            training.ema,
        )?;
        Ok(Self {
            learner,
            order: Order::new(recipe.seed, samples[0].len()),
            samples,
            name: data.name,
            task: data.task,
            classes: data.labels,
            tokenizer,
            spec,
            training,
            steps,
            evaluation,
            notes,
            device: device.clone().without_autodiff(),
        })
    }

    fn metric(&self) -> &'static str {
        match self.task {
            Some(glue::Task::Cola) => "mcc",
            Some(glue::Task::Mrpc | glue::Task::Qqp) => "f1",
            Some(glue::Task::StsB) => "spearmanr",
            _ => "acc",
        }
    }

    fn batch(&self, samples: &[&Sample]) -> Result<(EncoderInput, Labels)> {
        let rows: Vec<Encoded> = samples.iter().map(|s| s.encoded.clone()).collect();
        let length = match self.spec.padding {
            Padding::Longest => None,
            Padding::MaxLength => Some(self.spec.max_length),
        };
        let mut input = padded(&rows, self.tokenizer.special().pad, length)?;
        if !self.spec.attention_mask {
            let all = vec![true; input.batch() * input.length()];
            input = input.with_attention_mask(all).map_err(Error::other)?;
        }
        let labels = match self.classes {
            Some(_) => Labels::Classes(samples.iter().map(|s| s.label as i64).collect()),
            None => Labels::Values(samples.iter().map(|s| s.label as f32).collect()),
        };
        Ok((input, labels))
    }

    /// Every sample's outputs, in the samples' order; they run sorted by length, so that little is padded.
    fn outputs(&self, split: Split, cx: &mut Context) -> Result<Vec<Vec<f32>>> {
        let samples = &self.samples[split as usize];
        let model = self.learner.evaluation_model();
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&i| samples[i].encoded.ids.len());
        let mut found = vec![vec![]; samples.len()];
        let mut done = 0;
        for part in order.chunks(self.evaluation.batch_size) {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let batch: Vec<&Sample> = part.iter().map(|&i| &samples[i]).collect();
            let (input, _) = self.batch(&batch)?;
            let scores = model.forward(&input, Mode::evaluation());
            let scores = scores.map_err(Error::other)?;
            let [_, width] = scores.dims();
            let values: Vec<f32> = scores.into_data().iter::<f32>().collect();
            for (&i, row) in part.iter().zip(values.chunks(width)) {
                found[i] = row.to_vec();
            }
            done += part.len() as u64;
            let what = format!("evaluating on {}", split.name());
            cx.progress(done, samples.len() as u64, &what);
        }
        Ok(found)
    }
}

impl Experiment for Classification {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::maximize(self.metric());
        vec![Stage::new("fine-tune", self.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let order = self.order.batch(at.step, self.training.batch_size);
        let rows = order.len() / self.training.batch_split;
        let shards: Result<Vec<_>> = order
            .chunks(rows)
            .enumerate()
            .map(|(i, part)| {
                let samples: Vec<&Sample> = part.iter().map(|&i| &self.samples[0][i]).collect();
                Ok((i, self.batch(&samples)?))
            })
            .collect();
        let problem = self.learner.model().body().config().problem_type;
        let (info, losses) = self
            .learner
            .step(at.update(), shards?, |model, (i, batch)| {
                let (input, labels) = batch;
                let mode = Mode::training(at.key.site("dropout").fold(i as u64));
                let scores = model.forward(&input, mode).map_err(Error::other)?;
                let loss = classification_loss(scores, &labels, problem).map_err(Error::other)?;
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
        let outputs = self.outputs(split, cx)?;
        let samples = &self.samples[split as usize];
        let labels: Vec<f64> = samples.iter().map(|s| s.label).collect();
        let found = outputs.iter().map(|o| match self.classes {
            Some(_) => task_metrics::argmax(o) as f64,
            None => f64::from(o[0]),
        });
        let found: Vec<f64> = found.collect();
        let task = self.task.map_or("sst-2", |task| task.name());
        task_metrics::glue(task, &found, &labels)
            .ok_or_else(|| Error::value("data.texts.task", task, "a task with metrics"))
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
        self.tokenizer
            .save_for(dir, Some(self.spec.max_length))
            .map_err(Error::other)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let device = self.device.clone().autodiff();
        let loaded =
            from_pretrained::<NystromformerForSequenceClassification>(dir, Key::new(0), &device);
        let (model, notes) = loaded.map_err(Error::other)?;
        let own = self.learner.model().body().config().labels();
        let others = model.body().config().labels();
        if own != others || !notes.new.is_empty() {
            let found = match notes.new.is_empty() {
                true => format!("{others} classes"),
                false => format!("without {}", notes.new.join(", ")),
            };
            let expected = format!("a classifier of the {own} classes of the recipe's data");
            let place = format!("the model in {}", dir.display());
            return Err(Error::value(place, found, expected));
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
        let [train, valid, test] = &self.samples;
        let mut all = vec![(
            "data".to_owned(),
            format!(
                "{}: {} / {} / {} examples, {} ids",
                self.name,
                train.len(),
                valid.len(),
                test.len(),
                self.tokenizer.vocab_size()
            ),
        )];
        let config = self.learner.model().body().config();
        all.extend(start::lines(config, &self.notes));
        all
    }

    fn references(&self) -> Vec<Reference> {
        let Some(classes) = &self.classes else {
            return vec![];
        };
        if self.metric() != "acc" {
            return vec![];
        }
        let count = |samples: &[Sample], class: usize| {
            samples.iter().filter(|s| s.label as usize == class).count()
        };
        let [train, _, test] = &self.samples;
        // The first of equals.
        let most = (0..classes.len())
            .rev()
            .max_by_key(|&class| count(train, class));
        let hits = count(test, most.unwrap_or(0)) as f64;
        vec![Reference {
            name: "always the most frequent class of the training split".into(),
            metric: "acc".into(),
            value: hits / test.len().max(1) as f64,
        }]
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for Classification {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        let model = self.learner.evaluation_model();
        let config = model.body().config();
        let answering = answering(config, &self.tokenizer, Form::Classes);
        let mut run = |batch: &EncoderInput| {
            let batch = fitted(config, batch, &self.tokenizer);
            model
                .forward(&batch, Mode::evaluation())
                .map(Scores::Classes)
        };
        answering.answer(input, &mut run).map_err(Error::other)
    }
}
