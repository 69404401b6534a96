//! Masked words alone, over blocks of one length: pre-training of Hugging Face's class, and the way to longer documents or
//! from full attention to landmarks (sections 4.1 and 4.3 of the paper).

use super::hide::hide;
use super::sop::unigram_nats;
use super::start::{self, start};
use super::text::{Texts, tokenizer};
use super::{number, other_task, sections};
use crate::answer::{answering, fitted};
use crate::heads::{NystromformerForMaskedLm, Task};
use crate::recipe::{DataConfig, EvaluationConfig, TextSpec, TrainingConfig};
use crate::weights::{LoadNotes, from_pretrained};
use bert::{BertTokenizer, EncoderInput, Form, IGNORED, Mode, Scores, cross_entropy, select_rows};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::{Map, Value};
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Learner, Metrics, Objective,
    Predict, Recipe, Reference, Result, Scalars, Split, Stage, Step, Work,
};

/// A batch of blocks with hidden words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Blocks {
    /// Ids `[batch, length]`.
    pub input: EncoderInput,
    /// `[batch, length]`, −100 where nothing is to be guessed.
    pub labels: Vec<i64>,
}

/// A text as ids, read in blocks.
#[derive(Debug, Clone)]
pub(crate) struct TextIds {
    ids: Vec<u32>,
    tokenizer: BertTokenizer,
    length: usize,
    mask: (f64, usize),
}

impl TextIds {
    /// Texts one after the other; blocks have `length` tokens, of which `mask` are hidden: a share, and at most so many.
    pub(crate) fn new(
        texts: &[String],
        tokenizer: &BertTokenizer,
        length: usize,
        mask: (f64, usize),
    ) -> Result<Self> {
        let mut ids = vec![];
        // Lines, so that no piece of text is longer than a tokenizer likes.
        for line in texts.iter().flat_map(|text| text.lines()) {
            let encoded = tokenizer.encode(line, None, None).map_err(Error::other)?;
            let own = encoded.ids.iter().zip(&encoded.special);
            ids.extend(own.filter(|(_, s)| !**s).map(|(id, _)| *id));
        }
        if length < 4 || ids.len() < length {
            let expected = format!("from 4 to the {} tokens of the shortest split", ids.len());
            return Err(Error::value("data.max_length", length, expected));
        }
        Ok(Self {
            ids,
            tokenizer: tokenizer.clone(),
            length,
            mask,
        })
    }

    /// `[CLS] block [SEP]` from a random place, one for each of `rows`, drawn from `key`.
    pub(crate) fn blocks(&self, key: Key, rows: std::ops::Range<usize>) -> Result<Blocks> {
        let special = self.tokenizer.special();
        let vocab = self.tokenizer.vocab_size();
        let room = self.length - 2;
        let (count, mut all, mut labels) = (rows.len(), vec![], vec![]);
        for row in rows {
            let key = key.fold(row as u64);
            let start = key.site("start").below(0, self.ids.len() - room + 1);
            let mut ids = vec![special.class];
            ids.extend(&self.ids[start..start + room]);
            ids.push(special.separator);
            let (share, most) = self.mask;
            let mut own = vec![IGNORED; self.length];
            for (place, word) in hide(&mut ids, key.site("mask"), special, vocab, share, most) {
                own[place] = i64::from(word);
            }
            all.extend(ids.into_iter().map(i64::from));
            labels.extend(own);
        }
        let input = EncoderInput::new(all, count, self.length).map_err(Error::other)?;
        Ok(Blocks { input, labels })
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().copied()
    }
}

/// The scores of the hidden words `[words, vocab]`, and the words.
pub(crate) fn hidden_scores(
    model: &NystromformerForMaskedLm,
    blocks: &Blocks,
) -> Result<(Tensor<2>, Vec<i64>)> {
    let hidden = model
        .nystromformer
        .forward(&blocks.input, Mode::evaluation());
    let hidden = hidden.map_err(Error::other)?;
    let [batch, length, width] = hidden.dims();
    let places: Vec<usize> = (0..blocks.labels.len())
        .filter(|&i| blocks.labels[i] != IGNORED)
        .collect();
    let words = places.iter().map(|&i| blocks.labels[i]).collect();
    let rows = select_rows(hidden.reshape([batch * length, width]), &places);
    let scores = model.scores(rows.reshape([1, places.len(), width]));
    let [_, count, vocab] = scores.dims();
    Ok((scores.reshape([count, vocab]), words))
}

/// A masked language model under training.
pub struct MaskedLm {
    learner: Learner<NystromformerForMaskedLm>,
    /// Train, valid, test.
    text: [TextIds; 3],
    name: String,
    tokenizer: BertTokenizer,
    spec: TextSpec,
    training: TrainingConfig,
    steps: u64,
    evaluation: EvaluationConfig,
    notes: LoadNotes,
    device: Device,
}

impl MaskedLm {
    /// Reads the recipe's sections and texts, makes a vocabulary where none is given, and initialises the model or loads the
    /// one that `training.from` names.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let DataConfig::MaskedLm(spec) = recipe.section("data")? else {
            return Err(other_task("`masked-lm`"));
        };
        let (training, evaluation) = sections(recipe)?;
        let (training, steps) = training.resolved(None)?;
        start::section(recipe)?;
        let texts = Texts::load(&spec, recipe)?;
        let from = training.from.as_deref();
        let tokenizer = tokenizer(
            recipe,
            spec.tokenizer.as_deref(),
            from,
            spec.vocab_size,
            spec.lowercase,
            &|| texts.splits[0].join("\n"),
        )?;
        let length = spec.max_length;
        let mask = (training.mask_share, training.most_masked);
        let [train, valid, test] = &texts.splits;
        let read = |split: &[String]| TextIds::new(split, &tokenizer, length, mask);
        let text = [read(train)?, read(valid)?, read(test)?];
        let (model, notes) = start(recipe, from, &tokenizer, length, Map::new(), device)?;
        let learner = Learner::new(
            model,
            &training.optimizer,
            &training.schedule,
            training.clip,
            training.ema,
        )?;
        Ok(Self {
            learner,
            text,
            name: texts.name,
            tokenizer,
            spec,
            training,
            steps,
            evaluation,
            notes,
            device: device.clone().without_autodiff(),
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> &NystromformerForMaskedLm {
        self.learner.model()
    }
}

impl Experiment for MaskedLm {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::minimize("loss");
        vec![Stage::new("train", self.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let rows = self.training.batch_size / self.training.batch_split;
        let key = at.key.site("blocks");
        let shards: Result<Vec<_>> = (0..self.training.batch_split)
            .map(|i| Ok((i, self.text[0].blocks(key, i * rows..(i + 1) * rows)?)))
            .collect();
        let (info, losses) = self
            .learner
            .step(at.update(), shards?, |model, (i, blocks)| {
                let mode = Mode::training(at.key.site("dropout").fold(i as u64));
                let hidden = model.nystromformer.forward(&blocks.input, mode);
                let loss = model.loss(hidden.map_err(Error::other)?, &blocks.labels);
                let loss = loss.map_err(Error::other)?;
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
        let which = split as usize;
        let model = self.learner.evaluation_model();
        // The same blocks every time, whatever the run's seed.
        let key = Key::new(0).site("evaluation").fold(which as u64);
        let total = self.evaluation.sequences;
        let (mut nats, mut hits, mut words, mut at) = (0.0, 0usize, 0usize, 0);
        while at < total {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let rows = at..(at + self.evaluation.batch_size).min(total);
            at = rows.end;
            let blocks = self.text[which].blocks(key, rows)?;
            let (scores, labels) = hidden_scores(&model, &blocks)?;
            let best = scores.clone().argmax(1).into_data();
            let pairs = best.iter::<i64>().zip(&labels);
            hits += pairs.filter(|(a, b)| a == *b).count();
            let loss = cross_entropy(scores, &labels, IGNORED).map_err(Error::other)?;
            nats += number(loss) * labels.len() as f64;
            words += labels.len();
            let what = format!("evaluating on {}", split.name());
            cx.progress(at as u64, total as u64, &what);
        }
        let words = words.max(1) as f64;
        Ok(Metrics::new()
            .with("loss", nats / words)
            .with("accuracy", hits as f64 / words))
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        // The blocks are a function of the step: the weights and the moments are the whole state.
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
        let loaded = from_pretrained::<NystromformerForMaskedLm>(dir, Key::new(0), &device);
        let (model, _) = loaded.map_err(Error::other)?;
        let (rows, ids) = (
            model.body().config().vocab_size,
            self.tokenizer.vocab_size(),
        );
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
        let [train, valid, test] = &self.text;
        let mut all = vec![(
            "data".to_owned(),
            format!(
                "{}: {} / {} / {} tokens, {} ids, blocks of {}",
                self.name,
                train.ids.len(),
                valid.ids.len(),
                test.ids.len(),
                self.tokenizer.vocab_size(),
                self.spec.max_length
            ),
        )];
        all.extend(start::lines(self.model().body().config(), &self.notes));
        all
    }

    fn references(&self) -> Vec<Reference> {
        let [train, _, test] = &self.text;
        vec![Reference {
            name: "words by their frequency alone".into(),
            metric: "loss".into(),
            value: unigram_nats(test.ids(), train.ids(), self.tokenizer.vocab_size()),
        }]
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for MaskedLm {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        let model = self.learner.evaluation_model();
        let config = model.body().config();
        let answering = answering(config, &self.tokenizer, Form::Words);
        let mut run = |batch: &EncoderInput| {
            let batch = fitted(config, batch, &self.tokenizer);
            model.forward(&batch, Mode::evaluation()).map(Scores::Words)
        };
        answering.answer(input, &mut run).map_err(Error::other)
    }
}
