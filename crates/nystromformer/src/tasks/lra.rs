//! The run of an LRA classifier: cross entropy over whole sequences or pairs, accuracy on held-out ones.

use super::sequences::{LraData, LraExample};
use super::{Order, not_empty, number, sections};
use crate::lra::{LraConfig, LraModel};
use crate::recipe::{DataConfig, EvaluationConfig, TrainingConfig};
use bert::{EncoderInput, IGNORED, Mode, cross_entropy};
use burn::prelude::*;
use burn::tensor::activation::softmax;
use core_attn::random::Key;
use serde_json::{Map, Value, json};
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Learner, Metrics, Objective,
    Predict, Recipe, Reference, Result, Scalars, Split, Stage, Step, Work,
};

/// Most training sequences that an evaluation of the training split looks at.
const TRAIN_SAMPLE: usize = 1_000;

/// A classifier of sequences or pairs under training.
pub struct LraExperiment<M: LraModel> {
    config: LraConfig,
    training: TrainingConfig,
    steps: u64,
    evaluation: EvaluationConfig,
    data: LraData,
    learner: Learner<M>,
    order: Order,
}

/// Rows of ids as a batch, padded to `length`; longer ones are cut, as upstream does.
fn batch(rows: &[&[u16]], length: usize) -> Result<EncoderInput> {
    let mut ids = Vec::with_capacity(rows.len() * length);
    for (i, row) in rows.iter().enumerate() {
        ids.extend(row.iter().take(length).map(|id| i64::from(*id)));
        ids.resize((i + 1) * length, 0);
    }
    // Id 0 is padding, as in the official code; an empty picture would hold nothing else, so its first pixel counts.
    let mut mask: Vec<bool> = ids.iter().map(|id| *id != 0).collect();
    for row in mask.chunks_mut(length) {
        if !row.contains(&true) {
            row[0] = true;
        }
    }
    EncoderInput::new(ids, rows.len(), length)
        .and_then(|input| input.with_attention_mask(mask))
        .map_err(Error::other)
}

/// One batch for each sequence of the examples.
fn batches<M: LraModel>(examples: &[&LraExample], length: usize) -> Result<Vec<EncoderInput>> {
    let ids: Vec<_> = examples.iter().map(|example| example.ids()).collect();
    let tower = |t: usize| {
        let rows = ids.iter().map(|ids| ids.get(t).map_or(&[][..], |row| row));
        batch(&rows.collect::<Vec<&[u16]>>(), length)
    };
    (0..M::TOWERS).map(tower).collect()
}

fn labels(examples: &[&LraExample]) -> Vec<i64> {
    examples.iter().map(|e| i64::from(e.label())).collect()
}

/// Refuses what is wrong with the sections before the data are made, which may take long.
pub(super) fn check(recipe: &Recipe, training: &TrainingConfig) -> Result<()> {
    let config: LraConfig = recipe.section("model")?;
    config.validate().map_err(Error::other)?;
    if let Some(from) = &training.from {
        let expected = "absent: the tasks of the Long Range Arena start from random weights";
        return Err(Error::value("training.from", from.display(), expected));
    }
    training.clone().resolved(Some(1)).map(|_| ())
}

impl<M: LraModel> LraExperiment<M> {
    /// Reads the recipe's sections, makes its data and initialises the model from its seed.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let data: DataConfig = recipe.section("data")?;
        let (training, evaluation) = sections(recipe)?;
        check(recipe, &training)?;
        let data = LraData::load(&data, recipe)?;
        Self::with(recipe, data, training, evaluation, device)
    }

    /// As [`LraExperiment::open`], with data that are there already.
    ///
    /// # Errors
    /// As [`LraExperiment::open`], and examples of another number of sequences.
    pub fn with(
        recipe: &Recipe,
        data: LraData,
        training: TrainingConfig,
        evaluation: EvaluationConfig,
        device: &Device,
    ) -> Result<Self> {
        let mut config: LraConfig = recipe.section("model")?;
        config.validate().map_err(Error::other)?;
        not_empty(data.train.len(), data.valid.len(), data.test.len())?;
        if data.pairs != (M::TOWERS == 2) {
            let found = match data.pairs {
                true => "pairs",
                false => "single sequences",
            };
            let expected = format!("examples of {} sequences", M::TOWERS);
            return Err(Error::value("data", found, expected));
        }
        let (training, steps) = training.resolved(Some(data.train.len()))?;
        for (key, size, least) in [
            ("vocab_size", &mut config.vocab_size, data.vocab_size),
            ("num_classes", &mut config.num_classes, data.classes.len()),
        ] {
            match size {
                Some(n) if *n < least => {
                    let expected = format!("at least the {least} of the data, or absent");
                    return Err(Error::value(format!("model.{key}"), *n, expected));
                }
                Some(_) => {}
                None => *size = Some(least),
            }
        }
        let device = device.clone().without_autodiff();
        let key = Key::new(recipe.seed);
        let model = M::create(&config, key.site("init"), &device.autodiff());
        let learner = Learner::new(
            model.map_err(Error::other)?,
            &training.optimizer,
            &training.schedule,
            training.clip,
            training.ema,
        )?;
        Ok(Self {
            order: Order::new(recipe.seed, data.train.len()),
            config,
            training,
            steps,
            evaluation,
            data,
            learner,
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> &M {
        self.learner.model()
    }

    /// The data.
    pub fn data(&self) -> &LraData {
        &self.data
    }

    fn split(&self, split: Split) -> &[LraExample] {
        match split {
            Split::Train => {
                let all = &self.data.train;
                &all[..all.len().min(TRAIN_SAMPLE)]
            }
            Split::Valid => &self.data.valid,
            Split::Test => &self.data.test,
        }
    }
}

impl<M: LraModel> Experiment for LraExperiment<M> {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::maximize("accuracy");
        vec![Stage::new("train", self.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let indices = self.order.batch(at.global, self.training.batch_size);
        let rows = indices.len() / self.training.batch_split;
        let length = self.config.max_seq_len;
        let shards = indices.chunks(rows).enumerate().collect();
        let train = &self.data.train;
        let (info, results) = self
            .learner
            .step(at.update(), shards, |model, (i, shard)| {
                let examples: Vec<&LraExample> = shard.iter().map(|i| &train[*i]).collect();
                let mode = Mode::training(at.key.site("dropout").fold(i as u64));
                let inputs = batches::<M>(&examples, length)?;
                let scores = model.scores(&inputs, mode).map_err(Error::other)?;
                let loss =
                    cross_entropy(scores, &labels(&examples), IGNORED).map_err(Error::other)?;
                Ok((loss.clone(), loss.inner()))
            })?;
        let loss = Tensor::cat(results, 0).mean();
        let mut scalars = Scalars::new().mean("loss", loss).value("lr", info.lr);
        if let Some(norm) = info.grad_norm {
            scalars.add_mean("grad_norm", norm);
        }
        Ok(scalars)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let model = self.learner.evaluation_model();
        let examples = self.split(split);
        let (mut hits, mut nats, mut done) = (0usize, 0.0, 0u64);
        for part in examples.chunks(self.evaluation.batch_size) {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let part: Vec<&LraExample> = part.iter().collect();
            let labels = labels(&part);
            let inputs = batches::<M>(&part, self.config.max_seq_len)?;
            let scores = model
                .scores(&inputs, Mode::evaluation())
                .map_err(Error::other)?;
            let best = scores.clone().argmax(1).into_data();
            let pairs = best.iter::<i64>().zip(&labels);
            hits += pairs.filter(|(a, b)| a == *b).count();
            let loss = cross_entropy(scores, &labels, IGNORED).map_err(Error::other)?;
            nats += number(loss) * part.len() as f64;
            done += part.len() as u64;
            cx.progress(
                done,
                examples.len() as u64,
                &format!("evaluating on {}", split.name()),
            );
        }
        let n = examples.len().max(1) as f64;
        Ok(Metrics::new()
            .with("accuracy", hits as f64 / n)
            .with("loss", nats / n))
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        // The position in the data is a function of the step.
        self.learner.save("model", to)
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learner.restore("model", from)
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let model = self.learner.evaluation_model();
        model.save(dir).map_err(Error::other)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let device = self.model().encoder().word_embeddings.val().device();
        let model = M::load(dir, &device).map_err(Error::other)?;
        let found = model.encoder().config();
        let (ids, classes) = (self.data.vocab_size, self.data.classes.len());
        if found.vocab_size < Some(ids) || found.num_classes < Some(classes) {
            let sizes = format!(
                "{} ids and {} classes",
                found.vocab_size.unwrap_or(0),
                found.num_classes.unwrap_or(0)
            );
            return Err(Error::value(
                format!("the model in {}", dir.display()),
                sizes,
                format!("at least the {ids} ids and {classes} classes of the recipe's data"),
            ));
        }
        self.config = found.clone();
        let training = &self.training;
        self.learner = Learner::new(
            model,
            &training.optimizer,
            &training.schedule,
            training.clip,
            training.ema,
        )?;
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
        let (c, d) = (&self.config, &self.data);
        let attention = match c.attn_type == "softmax" {
            true => "full softmax".to_owned(),
            false => format!("{} landmarks", c.num_landmarks),
        };
        let conv = match c.conv_kernel_size.filter(|_| c.attn_type != "softmax") {
            Some(size) => format!("convolution over {size} tokens"),
            None => "no convolution".to_owned(),
        };
        let what = if d.pairs { "pairs" } else { "sequences" };
        vec![
            (
                "data".into(),
                format!(
                    "{}: {} / {} / {} {what}",
                    d.name,
                    d.train.len(),
                    d.valid.len(),
                    d.test.len()
                ),
            ),
            (
                "model".into(),
                format!(
                    "{} layers of {} heads, hidden size {}, length {}",
                    c.num_layers, c.num_head, c.transformer_dim, c.max_seq_len
                ),
            ),
            ("attention".into(), format!("{attention}, {conv}")),
        ]
    }

    fn references(&self) -> Vec<Reference> {
        vec![Reference {
            name: "always the most frequent class of the training split".into(),
            metric: "accuracy".into(),
            value: self.data.majority_share(),
        }]
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl<M: LraModel> Predict for LraExperiment<M> {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        answer(&self.learner.evaluation_model(), input, &self.data.classes)
    }
}

/// Answers `{"input_ids": [ids]}`, or `{"input_ids": [[ids], [ids]]}` for a pair, with the best class; classes without a
/// name are called by their number.
pub(crate) fn answer<M: LraModel>(model: &M, input: &Value, names: &[String]) -> Result<Value> {
    let wrong = || {
        let form = match M::TOWERS {
            1 => "an object with `input_ids`, a list of ids",
            _ => "an object with `input_ids`, two lists of ids",
        };
        Error::value("the input", input, form)
    };
    let list = input.get("input_ids").ok_or_else(wrong)?;
    let ids = |list: &Value| -> Result<Vec<u16>> {
        let list = list.as_array().filter(|list| !list.is_empty());
        let ids = list.ok_or_else(wrong)?.iter().map(|id| {
            let id = id.as_u64().and_then(|id| u16::try_from(id).ok());
            id.ok_or_else(wrong)
        });
        ids.collect()
    };
    let rows: Vec<Vec<u16>> = match (M::TOWERS, list.as_array().map(Vec::as_slice)) {
        (1, _) => vec![ids(list)?],
        (_, Some([first, second])) => vec![ids(first)?, ids(second)?],
        _ => return Err(wrong()),
    };
    let length = model.encoder().config().max_seq_len;
    let inputs: Result<Vec<EncoderInput>> = rows.iter().map(|row| batch(&[row], length)).collect();
    let scores = model
        .scores(&inputs?, Mode::evaluation())
        .map_err(Error::other)?;
    let scores: Vec<f32> = softmax(scores, 1).into_data().iter::<f32>().collect();
    let name = |i: usize| names.get(i).cloned().unwrap_or_else(|| i.to_string());
    let best = trainer::task_metrics::argmax(&scores);
    let all: Map<String, Value> = scores
        .iter()
        .enumerate()
        .map(|(i, score)| (name(i), json!(score)))
        .collect();
    Ok(json!({ "label": name(best), "score": scores[best], "scores": all }))
}
