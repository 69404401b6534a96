//! Pre-training: masked words and next sentences (sections 3.1 and A.2 of the paper).

use crate::classes::BertForPreTraining;
use crate::config::BertConfig;
use crate::data::tokenizer;
use crate::experiment::{Common, report_lines, start};
use crate::instances::{Sentences, Texts, batch_of};
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
use serde_json::Value;
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Learner, Metrics, Objective,
    Predict, Recipe, Reference, Result, Sampled, Scalars, Split, Stage, Step, Work,
};

/// Pre-training brought to life.
pub struct PreTraining {
    learner: Learner<BertForPreTraining>,
    /// Train, valid, test.
    sentences: [Sentences; 3],
    name: String,
    tokenizer: BertTokenizer,
    max_length: usize,
    training: TrainingConfig,
    steps: u64,
    evaluation: EvaluationConfig,
    report: LoadReport,
    device: Device,
}

impl PreTraining {
    pub(crate) fn open(recipe: &Recipe, common: Common, device: &Device) -> Result<Self> {
        let texts = Texts::load(recipe, &common.data)?;
        let text = || texts.splits[0].join("\n\n");
        let tokenizer = tokenizer(recipe, &common.data, &common.training, &text)?;
        Self::on(recipe, common, &texts, tokenizer, device)
    }

    /// Pre-training on these texts, cut by this tokenizer.
    pub(crate) fn on(
        recipe: &Recipe,
        common: Common,
        texts: &Texts,
        tokenizer: BertTokenizer,
        device: &Device,
    ) -> Result<Self> {
        let Common {
            config,
            vocab_given,
            data,
            training,
            evaluation,
        } = common;
        if data.max_length < 8 {
            let expected = "at least 8 tokens for two segments";
            return Err(Error::value("data.max_length", data.max_length, expected));
        }
        let (training, steps) = training.resolved(None)?;
        let mut sentences = vec![];
        for split in &texts.splits {
            let found = Sentences::new(split, &tokenizer)?;
            if found.len() < 8 {
                let found = format!("a split of {} sentences", found.len());
                return Err(Error::value("data.corpus", found, "at least 8 sentences"));
            }
            sentences.push(found);
        }
        let sentences: [Sentences; 3] = sentences.try_into().map_err(|_| {
            Error::value("data.corpus", "not three splits", "train, valid and test")
        })?;
        let (model, report) = start(
            recipe,
            config,
            vocab_given,
            &data,
            &training,
            &tokenizer,
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
            sentences,
            name: texts.name.clone(),
            tokenizer,
            max_length: data.max_length,
            training,
            steps,
            evaluation,
            report,
            device: device.clone().without_autodiff(),
        })
    }

    /// The model, without automatic differentiation.
    pub(crate) fn model(&self) -> BertForPreTraining {
        self.learner.evaluation_model()
    }

    fn config(&self) -> &BertConfig {
        self.learner.model().bert.config()
    }

    /// Sequences `rows` of a split, each drawn from its own key.
    fn batch(
        &self,
        split: &Sentences,
        key: Key,
        rows: std::ops::Range<usize>,
    ) -> Result<(crate::EncoderInput, Vec<i64>, Vec<i64>)> {
        let special = self.tokenizer.special();
        let vocab = self.tokenizer.vocab_size();
        let share = self.training.mask_share;
        let instances = rows
            .map(|i| split.instance(key.fold(i as u64), self.max_length, special, vocab, share))
            .collect();
        batch_of(instances, special.pad)
    }
}

impl Experiment for PreTraining {
    fn stages(&self) -> Vec<Stage> {
        vec![Stage::new(
            "pre-train",
            self.steps,
            Objective::minimize("loss"),
        )]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let rows = self.training.batch_size / self.training.batch_split;
        let key = at.key.site("instances");
        let mut shards = vec![];
        for i in 0..self.training.batch_split {
            shards.push((
                i,
                self.batch(&self.sentences[0], key, i * rows..(i + 1) * rows)?,
            ));
        }
        let (info, losses) = self
            .learner
            .step(at.update(), shards, |model, (i, batch)| {
                let (input, labels, next) = batch;
                let mode = Mode::training(at.key.site("dropout").fold(i as u64));
                let body = model.bert.forward(&input, &EncoderCall::new(mode));
                let body = body.map_err(Error::other)?;
                let (words, follows) = model.losses(&body, &labels, &next).map_err(Error::other)?;
                Ok((
                    words.clone() + follows.clone(),
                    (words.inner(), follows.inner()),
                ))
            })?;
        let (words, follows): (Vec<_>, Vec<_>) = losses.into_iter().unzip();
        let words = Tensor::cat(words, 0).mean();
        let follows = Tensor::cat(follows, 0).mean();
        let mut scalars = Scalars::new()
            .mean("loss", words.clone() + follows.clone())
            .mean("mlm_loss", words)
            .mean("nsp_loss", follows)
            .value("lr", info.lr);
        if let Some(norm) = info.grad_norm {
            scalars.add_mean("grad_norm", norm);
        }
        Ok(scalars)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let which = match split {
            Split::Train => 0,
            Split::Valid => 1,
            Split::Test => 2,
        };
        let model = self.learner.evaluation_model();
        // The same sequences every time, whatever the run's seed.
        let key = Key::new(0).site("evaluation").fold(which as u64);
        let total = self.evaluation.sequences;
        let (mut nats, mut hits, mut guessed) = (0.0, 0usize, 0usize);
        let (mut next_nats, mut next_hits) = (0.0, 0usize);
        let mut at = 0;
        while at < total {
            let rows = at..(at + self.evaluation.batch_size).min(total);
            let count = rows.len();
            let (input, labels, next) = self.batch(&self.sentences[which], key, rows)?;
            let body = model
                .bert
                .forward(&input, &EncoderCall::default())
                .map_err(Error::other)?;
            let places: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] >= 0).collect();
            let (words, follows) = model.losses(&body, &labels, &next).map_err(Error::other)?;
            let number = |x: Tensor<1>| x.into_data().iter::<f64>().sum::<f64>();
            nats += number(words) * places.len() as f64;
            next_nats += number(follows) * count as f64;
            if !places.is_empty() {
                let [batch, length, hidden] = body.last_hidden_state.dims();
                let rows = body.last_hidden_state.reshape([batch * length, hidden]);
                let words = model.bert.embeddings.word_embeddings.val();
                let scores = model.head.forward(crate::select_rows(rows, &places), words);
                let best = scores.argmax(1).into_data();
                let pairs = best.iter::<i64>().zip(&places);
                hits += pairs.filter(|(id, place)| *id == labels[**place]).count();
            }
            if let Some(pooled) = body.pooler_output {
                let best = model.seq_relationship.forward(pooled).argmax(1).into_data();
                let pairs = best.iter::<i64>().zip(&next);
                next_hits += pairs.filter(|(a, b)| a == *b).count();
            }
            guessed += places.len();
            at += count;
            cx.progress(
                at as u64,
                total as u64,
                &format!("evaluating on {}", split.name()),
            );
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
        }
        let words = nats / guessed.max(1) as f64;
        let follows = next_nats / total as f64;
        Ok(Metrics::new()
            .with("loss", words + follows)
            .with("mlm_loss", words)
            .with("mlm_accuracy", hits as f64 / guessed.max(1) as f64)
            .with("nsp_loss", follows)
            .with("nsp_accuracy", next_hits as f64 / total as f64))
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        // The sequences are a function of the step: the weights and the moments are the whole state.
        self.learner.save("model", to)
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learner.restore("model", from)
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let model = self.learner.evaluation_model();
        model.save_pretrained(dir).map_err(Error::other)?;
        self.tokenizer
            .save_for(dir, Some(self.max_length))
            .map_err(Error::other)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(dir).map_err(Error::other)?;
        let device = self.device.clone().autodiff();
        let (model, _) =
            load::<BertForPreTraining>(checkpoint, Key::new(0), &device).map_err(Error::other)?;
        let (own, others) = (self.config().vocab_size, model.body().config().vocab_size);
        if others < self.tokenizer.vocab_size() {
            let expected = format!("the {own} token ids of the recipe");
            return Err(Error::value("the model's vocab_size", others, expected));
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
        let [train, valid, test] = self.sentences.each_ref().map(Sentences::tokens);
        let mut all = vec![(
            "data".to_owned(),
            format!(
                "{}: {train} / {valid} / {test} tokens, {} ids",
                self.name,
                self.tokenizer.vocab_size()
            ),
        )];
        all.extend(report_lines(self.config(), &self.report));
        all
    }

    fn references(&self) -> Vec<Reference> {
        let nats = self.sentences[2].unigram_nats(&self.sentences[0], self.tokenizer.vocab_size());
        vec![
            Reference {
                name: "words guessed by their frequency alone".into(),
                metric: "mlm_loss".into(),
                value: nats,
            },
            Reference {
                name: "next sentence guessed blindly".into(),
                metric: "nsp_accuracy".into(),
                value: 0.5,
            },
        ]
    }

    fn samples(&mut self, _cx: &mut Context) -> Result<Vec<Sampled>> {
        let mask = self.tokenizer.special().mask;
        let mask = self.tokenizer.token(mask).unwrap_or_default();
        let prompt = format!("the captain stood upon the {mask} .");
        let found = self.predict(&Value::from(prompt.clone()))?;
        let guesses = found["masks"][0].as_array().into_iter().flatten();
        let lines = guesses.map(|g| {
            let token = g["token"].as_str().unwrap_or_default();
            let score = g["score"].as_f64().unwrap_or_default();
            format!("{score:.3} {token}")
        });
        Ok(vec![Sampled {
            title: prompt,
            text: lines.collect::<Vec<_>>().join("\n"),
        }])
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for PreTraining {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        let model = crate::AnyBert::PreTraining(self.learner.evaluation_model());
        answer(&model, &self.tokenizer, Pooling::Mean, input).map_err(Error::other)
    }
}
