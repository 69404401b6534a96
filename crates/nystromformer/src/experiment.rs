//! The run of an LRA classifier: cross entropy over whole sequences, accuracy on held-out ones.

use crate::lra::{LraClassifier, LraConfig};
use crate::recipe::{DataConfig, EvaluationConfig, TrainingConfig};
use bert::{EncoderInput, IGNORED, Mode, cross_entropy};
use burn::prelude::*;
use core_attn::random::Key;
use datasets::sequences::{Example, Sequences};
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Learner, Metrics, Objective,
    Recipe, Reference, Result, Scalars, Split, Stage, Step, Work,
};

/// Most training sequences that an evaluation of the training split looks at.
const TRAIN_SAMPLE: usize = 1_000;

/// A recipe brought to life.
pub struct LraExperiment {
    config: LraConfig,
    data: DataConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    sequences: Sequences,
    learner: Learner<LraClassifier>,
    /// The order of the training split, and the epoch it belongs to.
    order: (u64, Vec<u32>),
    key: Key,
}

/// Examples as a batch, padded to `length`; longer ones are cut, as upstream does.
pub(crate) fn batch(examples: &[&Example], length: usize) -> Result<EncoderInput> {
    let mut ids = Vec::with_capacity(examples.len() * length);
    for example in examples {
        let row = example.ids.iter().take(length).map(|id| i64::from(*id));
        ids.extend(row);
        ids.resize(ids.len().next_multiple_of(length).max(length), 0);
    }
    // Id 0 is padding, as in the official code; an empty picture would hold nothing else, so its first pixel counts.
    let mut mask: Vec<bool> = ids.iter().map(|id| *id != 0).collect();
    for row in mask.chunks_mut(length) {
        if !row.contains(&true) {
            row[0] = true;
        }
    }
    EncoderInput::new(ids, examples.len(), length)
        .and_then(|input| input.with_attention_mask(mask))
        .map_err(Error::other)
}

impl LraExperiment {
    /// Reads the recipe's sections, makes its data and initialises the model from its seed.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let mut config: LraConfig = recipe.section("model")?;
        let data: DataConfig = recipe.section("data")?;
        let training: TrainingConfig = recipe.section::<TrainingConfig>("training")?.resolved()?;
        let evaluation: EvaluationConfig = recipe.section("evaluation")?;
        if evaluation.batch_size == 0 {
            return Err(Error::value("evaluation.batch_size", 0, "at least 1"));
        }
        config.validate().map_err(Error::other)?;
        let sequences = data.load(recipe)?;
        for (key, size, least) in [
            ("vocab_size", &mut config.vocab_size, sequences.vocab_size),
            ("num_classes", &mut config.num_classes, sequences.classes),
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
        let model = LraClassifier::new(&config, key.site("init"), &device.autodiff());
        let model = model.map_err(Error::other)?;
        let learner = Learner::new(
            model,
            &training.optimizer,
            &training.schedule,
            training.clip,
            training.ema,
        )?;
        Ok(Self {
            order: (u64::MAX, vec![]),
            config,
            data,
            training,
            evaluation,
            sequences,
            learner,
            key: key.site("order"),
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> &LraClassifier {
        self.learner.model()
    }

    /// The data.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// The training split in the order of an epoch, a function of the seed and the epoch alone.
    fn order(&mut self, epoch: u64) -> &[u32] {
        if self.order.0 != epoch {
            let key = self.key.fold(epoch);
            let mut order: Vec<u32> = (0..self.sequences.train.len() as u32).collect();
            for i in (1..order.len()).rev() {
                order.swap(i, key.below(i as u64, i + 1));
            }
            self.order = (epoch, order);
        }
        &self.order.1
    }

    /// Indices of the sequences of an update.
    fn indices(&mut self, step: u64) -> Vec<usize> {
        let (size, all) = (
            self.training.batch_size as u64,
            self.sequences.train.len() as u64,
        );
        let places = step * size..(step + 1) * size;
        places
            .map(|place| self.order(place / all)[(place % all) as usize] as usize)
            .collect()
    }

    fn split(&self, split: Split) -> &[Example] {
        match split {
            Split::Train => {
                let all = &self.sequences.train;
                &all[..all.len().min(TRAIN_SAMPLE)]
            }
            Split::Valid => &self.sequences.valid,
            Split::Test => &self.sequences.test,
        }
    }
}

impl Experiment for LraExperiment {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::maximize("accuracy");
        vec![Stage::new("train", self.training.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let indices = self.indices(at.global);
        let rows = indices.len() / self.training.batch_split;
        let length = self.config.max_seq_len;
        let shards = indices.chunks(rows).enumerate().collect();
        let train = &self.sequences.train;
        let (info, results) = self
            .learner
            .step(at.update(), shards, |model, (i, shard)| {
                let examples: Vec<&Example> = shard.iter().map(|i| &train[*i]).collect();
                let labels: Vec<i64> = examples.iter().map(|e| i64::from(e.label)).collect();
                let mode = Mode::training(at.key.site("dropout").fold(i as u64));
                let input = batch(&examples, length)?;
                let (scores, _) = model.forward(&input, mode).map_err(Error::other)?;
                let loss = cross_entropy(scores, &labels, IGNORED).map_err(Error::other)?;
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
            let part: Vec<&Example> = part.iter().collect();
            let labels: Vec<i64> = part.iter().map(|e| i64::from(e.label)).collect();
            let input = batch(&part, self.config.max_seq_len)?;
            let (scores, _) = model
                .forward(&input, Mode::evaluation())
                .map_err(Error::other)?;
            let best = scores.clone().argmax(1).into_data();
            hits += best
                .iter::<i64>()
                .zip(&labels)
                .filter(|(a, b)| a == *b)
                .count();
            let loss = cross_entropy(scores, &labels, IGNORED).map_err(Error::other)?;
            let loss = loss.into_data().iter::<f64>().next().unwrap_or(f64::NAN);
            nats += loss * part.len() as f64;
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
        self.learner
            .evaluation_model()
            .save_pretrained(dir)
            .map_err(Error::other)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let device = self.model().model.word_embeddings.val().device();
        let model = LraClassifier::from_pretrained(dir, &device).map_err(Error::other)?;
        let found = model.config();
        if found.vocab_size < Some(self.sequences.vocab_size)
            || found.num_classes < Some(self.sequences.classes)
        {
            let sizes = format!(
                "{} ids and {} classes",
                found.vocab_size.unwrap_or(0),
                found.num_classes.unwrap_or(0)
            );
            let expected = format!(
                "at least the {} ids and {} classes of the recipe's data",
                self.sequences.vocab_size, self.sequences.classes
            );
            return Err(Error::value(
                format!("the model in {}", dir.display()),
                sizes,
                expected,
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
        let (c, s) = (&self.config, &self.sequences);
        let attention = match c.attn_type == "softmax" {
            true => "full softmax".to_owned(),
            false => format!("{} landmarks", c.num_landmarks),
        };
        let conv = match c.conv_kernel_size.filter(|_| c.attn_type != "softmax") {
            Some(size) => format!("convolution over {size} tokens"),
            None => "no convolution".to_owned(),
        };
        let brackets = match self.data.close_bracket() {
            Some(true) => ", closing brackets kept",
            Some(false) => ", closing brackets dropped",
            None => "",
        };
        vec![
            (
                "data".into(),
                format!(
                    "{}: {} / {} / {} sequences{brackets}",
                    s.name,
                    s.train.len(),
                    s.valid.len(),
                    s.test.len()
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
            value: self.sequences.majority_share(&self.sequences.test),
        }]
    }
}
