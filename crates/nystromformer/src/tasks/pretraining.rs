//! Pre-training of the official code: masked words and the order of sentences (section 4.1 of the paper).

use super::sop::{Documents, batch, unigram_nats};
use super::text::{Texts, tokenizer};
use super::{number, other_task, sections};
use crate::pretraining::{NystromformerForPreTraining, PreTrainingBatch, PreTrainingConfig};
use crate::recipe::{DataConfig, EvaluationConfig, TextSpec, TrainingConfig};
use bert::{Answering, BertTokenizer, EncoderInput, Form, Mode, Scores};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::Value;
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Learner, Metrics, Objective,
    Predict, Recipe, Reference, Result, Scalars, Split, Stage, Step, Work,
};

/// The official pre-training model under training.
pub struct PreTraining {
    learner: Learner<NystromformerForPreTraining>,
    /// Train, valid, test.
    documents: [Documents; 3],
    name: String,
    tokenizer: BertTokenizer,
    spec: TextSpec,
    training: TrainingConfig,
    steps: u64,
    evaluation: EvaluationConfig,
    device: Device,
}

impl PreTraining {
    /// Reads the recipe's sections and texts, makes a vocabulary where none is given, and initialises the model.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let DataConfig::PreTraining(spec) = recipe.section("data")? else {
            return Err(other_task("`pre-training`"));
        };
        let (training, evaluation) = sections(recipe)?;
        let (training, steps) = training.resolved(None)?;
        let mut config: PreTrainingConfig = recipe.section("model")?;
        let given = |key: &str| recipe.model.get(key).is_some();
        if spec.max_length < 8 {
            let expected = "at least 8 tokens for two stretches of text";
            return Err(Error::value("data.max_length", spec.max_length, expected));
        }
        config.validate().map_err(Error::other)?;
        let texts = Texts::load(&spec, recipe)?;
        let tokenizer = tokenizer(
            recipe,
            spec.tokenizer.as_deref(),
            training.from.as_deref(),
            spec.vocab_size,
            spec.lowercase,
            &|| texts.splits[0].join("\n"),
        )?;
        let [train, valid, test] = &texts.splits;
        let cut = |split: &[String]| Documents::new(split, &tokenizer);
        let documents = [cut(train)?, cut(valid)?, cut(test)?];
        if let Some(few) = documents.iter().find(|d| d.len() < 8) {
            let found = format!("a split of {} sentences", few.len());
            let expected = "at least 8 sentences in documents of two or more";
            return Err(Error::value("data", found, expected));
        }
        let device = device.clone().without_autodiff();
        let ad = device.clone().autodiff();
        let model = match &training.from {
            Some(from) => NystromformerForPreTraining::from_pretrained(recipe.path(from), &ad),
            None => {
                if !given("vocab_size") {
                    config.vocab_size = tokenizer.vocab_size();
                }
                if !given("max_seq_len") {
                    config.max_seq_len = spec.max_length;
                }
                let key = Key::new(recipe.seed).site("init");
                NystromformerForPreTraining::new(&config, key, &ad)
            }
        };
        let model = model.map_err(Error::other)?;
        let (rows, ids) = (model.config().vocab_size, tokenizer.vocab_size());
        if rows < ids {
            let expected = format!("at least the tokenizer's {ids} entries");
            return Err(Error::value("model.vocab_size", rows, expected));
        }
        let most = model.config().max_seq_len;
        if most < spec.max_length {
            let expected = format!("at most model.max_seq_len = {most}");
            return Err(Error::value("data.max_length", spec.max_length, expected));
        }
        let learner = Learner::new(
            model,
            &training.optimizer,
            &training.schedule,
            training.clip,
            training.ema,
        )?;
        Ok(Self {
            learner,
            documents,
            name: texts.name,
            tokenizer,
            spec,
            training,
            steps,
            evaluation,
            device,
        })
    }

    /// Sequences `rows` of a split, each drawn from its own key.
    fn batch(
        &self,
        which: usize,
        key: Key,
        rows: std::ops::Range<usize>,
    ) -> Result<PreTrainingBatch> {
        let special = self.tokenizer.special();
        let vocab = self.tokenizer.vocab_size();
        let mask = (self.training.mask_share, self.training.most_masked);
        let length = self.spec.max_length;
        let instances: Vec<_> = rows
            .map(|i| {
                let key = key.fold(i as u64);
                self.documents[which].instance(key, length, special, vocab, mask)
            })
            .collect();
        batch(&instances, length, special.pad)
    }
}

impl Experiment for PreTraining {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::minimize("loss");
        vec![Stage::new("pre-train", self.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let rows = self.training.batch_size / self.training.batch_split;
        let key = at.key.site("instances");
        let shards: Result<Vec<_>> = (0..self.training.batch_split)
            .map(|i| Ok((i, self.batch(0, key, i * rows..(i + 1) * rows)?)))
            .collect();
        let (info, losses) = self
            .learner
            .step(at.update(), shards?, |model, (i, batch)| {
                let mode = Mode::training(at.key.site("dropout").fold(i as u64));
                let out = model.forward(&batch, mode).map_err(Error::other)?;
                let parts = (out.mlm_loss.clone().inner(), out.sen_loss.clone().inner());
                Ok((out.total(), parts))
            })?;
        let (words, order): (Vec<_>, Vec<_>) = losses.into_iter().unzip();
        let words = Tensor::cat(words, 0).mean();
        let order = Tensor::cat(order, 0).mean();
        let mut scalars = Scalars::new()
            .mean("loss", words.clone() + order.clone())
            .mean("mlm_loss", words)
            .mean("sop_loss", order)
            .value("lr", info.lr);
        if let Some(norm) = info.grad_norm {
            scalars.add_mean("grad_norm", norm);
        }
        Ok(scalars)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let which = split as usize;
        let model = self.learner.evaluation_model();
        // The same sequences every time, whatever the run's seed.
        let key = Key::new(0).site("evaluation").fold(which as u64);
        let total = self.evaluation.sequences;
        let (mut nats, mut hits, mut words) = (0.0, 0.0, 0.0);
        let (mut order_nats, mut order_hits) = (0.0, 0.0);
        let mut at = 0;
        while at < total {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let rows = at..(at + self.evaluation.batch_size).min(total);
            at = rows.end;
            let count = rows.len() as f64;
            let batch = self.batch(which, key, rows)?;
            let out = model.forward(&batch, Mode::evaluation());
            let out = out.map_err(Error::other)?;
            words += out.valid_count;
            nats += number(out.mlm_loss) * out.valid_count;
            hits += number(out.mlm_accuracy) * out.valid_count;
            order_nats += number(out.sen_loss) * count;
            order_hits += number(out.sen_accuracy) * count;
            let what = format!("evaluating on {}", split.name());
            cx.progress(at as u64, total as u64, &what);
        }
        let (words, total) = (words.max(1.0), total as f64);
        Ok(Metrics::new()
            .with("loss", nats / words + order_nats / total)
            .with("mlm_loss", nats / words)
            .with("mlm_accuracy", hits / words)
            .with("sop_loss", order_nats / total)
            .with("sop_accuracy", order_hits / total))
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
            .save_for(dir, Some(self.spec.max_length))
            .map_err(Error::other)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let device = self.device.clone().autodiff();
        let model = NystromformerForPreTraining::from_pretrained(dir, &device);
        let model = model.map_err(Error::other)?;
        let (rows, ids) = (model.config().vocab_size, self.tokenizer.vocab_size());
        if rows < ids {
            let expected = format!("at least the {ids} token ids of the recipe");
            return Err(Error::value("the model's vocab_size", rows, expected));
        }
        self.learner.update_model(|_| model);
        Ok(())
    }

    fn parameters(&self) -> Option<usize> {
        Some(self.learner.model().num_params())
    }

    fn work_per_step(&self) -> Option<Work> {
        Some(Work {
            amount: (self.training.batch_size * self.spec.max_length) as f64,
            unit: "tokens",
        })
    }

    fn summary(&self) -> Vec<(String, String)> {
        let c = self.learner.model().config();
        let [train, valid, test] = &self.documents;
        let conv = match c.conv_kernel_size {
            Some(size) => format!("convolution over {size} tokens"),
            None => "no convolution".to_owned(),
        };
        vec![
            (
                "data".into(),
                format!(
                    "{}: {} / {} / {} sentences, {} ids",
                    self.name,
                    train.len(),
                    valid.len(),
                    test.len(),
                    self.tokenizer.vocab_size()
                ),
            ),
            (
                "model".into(),
                format!(
                    "{} layers of {} heads, hidden size {}, length {}",
                    c.num_layers, c.num_head, c.dim, self.spec.max_length
                ),
            ),
            (
                "attention".into(),
                format!("{} landmarks, {conv}", c.num_landmarks),
            ),
        ]
    }

    fn references(&self) -> Vec<Reference> {
        let [train, _, test] = &self.documents;
        let vocab = self.tokenizer.vocab_size();
        let reference = |name: &str, metric: &str, value| Reference {
            name: name.into(),
            metric: metric.into(),
            value,
        };
        vec![
            reference(
                "words by their frequency alone",
                "mlm_loss",
                unigram_nats(test.ids(), train.ids(), vocab),
            ),
            reference("a guess at the order", "sop_accuracy", 0.5),
        ]
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for PreTraining {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        fill_masks(&self.learner.evaluation_model(), &self.tokenizer, input)
    }
}

/// Answers texts with the likeliest words for every mask.
pub(crate) fn fill_masks(
    model: &NystromformerForPreTraining,
    tokenizer: &BertTokenizer,
    input: &Value,
) -> Result<Value> {
    let config = model.config();
    let answering = Answering {
        tokenizer,
        form: Form::Words,
        longest: config.max_seq_len,
        segments: config.num_sen_type,
        labels: vec![],
        problem: None,
    };
    let mut run = |batch: &EncoderInput| {
        let (_, words, _) = model.scores(batch, Mode::evaluation())?;
        Ok(Scores::Words(words))
    };
    answering.answer(input, &mut run).map_err(Error::other)
}
