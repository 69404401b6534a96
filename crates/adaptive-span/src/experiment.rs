//! The run: truncated back-propagation over a stream, with the spans learned beside the weights.

use crate::cache::HiddenCache;
use crate::config::AdaptiveSpanConfig;
use crate::generate::{SpanReader, SpanScorer, TextGenerator};
use crate::model::{Mode, TransformerSeq};
use crate::recipe::{EvaluationConfig, TrainingConfig};
use crate::stream::Stream;
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::random::Key;
use datasets::{Block, Corpus, CorpusSpec};
use language::{Mean, ScoreTask, tokens};
use std::path::Path;
use trainer::{
    Axis, CheckpointReader, CheckpointWriter, Context, Error, Experiment, Figure, Generate,
    Heatmap, Learner, Metrics, Objective, Recipe, Reference, Result, Sampled, Scalars, Score,
    Scoring, Split, Stage, Step, Table, TokenScore, UpdateInfo, Work,
};

/// A recipe brought to life.
pub struct AdaptiveSpanExperiment {
    config: AdaptiveSpanConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    corpus: Corpus,
    learner: Learner<TransformerSeq>,
    train: Stream,
    /// Carried between validations where the recipe asks for it.
    valid: Option<Stream>,
    generator: Option<TextGenerator>,
    /// Whether this is a training run: whether it has made a step.
    trained: bool,
    device: Device,
}

/// Bytes of cached rows beyond which a recipe is a slip of the pen.
const MOST_CACHE: f64 = 1e11;

/// One update on a block: the batch in `parts` slices, each with its part of the past; the spans are clamped behind it.
///
/// Returns the mean loss in nats per token without the span penalty, `[1]`, and the past of the next block.
///
/// # Errors
/// Whatever the update does not accept.
pub(crate) fn update(
    learner: &mut Learner<TransformerSeq>,
    number: u64,
    block: &Block,
    cache: &HiddenCache,
    parts: usize,
    key: Key,
    device: &Device,
) -> Result<(Tensor<1>, HiddenCache, UpdateInfo)> {
    let rows = block.batch / parts;
    let shards = block
        .split(parts)
        .map_err(Error::other)?
        .into_iter()
        .enumerate();
    let config = learner.model().config();
    let (rate, emb_rate) = (config.dropout, config.emb_dropout);
    let (info, results) = learner.step(number, shards.collect(), |model, (i, shard)| {
        let key = key.fold(i as u64);
        let mode = Mode {
            dropout: Dropout::new(rate, key.site("dropout")).map_err(Error::other)?,
            emb_dropout: Dropout::new(emb_rate, key.site("emb_dropout")).map_err(Error::other)?,
            trim: true,
        };
        let inputs = tokens(&shard.inputs, rows, device);
        let targets = tokens(&shard.targets, rows, device);
        let output = model.forward(inputs, cache.batch(i * rows, rows), mode)?;
        let loss = model.nll(output.hidden.clone(), targets)?.mean();
        let total = match model.span_loss(&output) {
            Some(penalty) => loss.clone() + penalty,
            None => loss.clone(),
        };
        Ok((total, (loss.inner(), output.cache)))
    })?;
    let (losses, caches): (Vec<_>, Vec<_>) = results.into_iter().unzip();
    let loss = Tensor::cat(losses, 0).mean();
    Ok((loss, HiddenCache::join(caches), info))
}

impl AdaptiveSpanExperiment {
    /// Reads the recipe's sections, loads its data and initialises the model from its seed.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let mut config: AdaptiveSpanConfig = recipe.section("model")?;
        let spec: CorpusSpec = recipe.section("data")?;
        let training: TrainingConfig = recipe.section::<TrainingConfig>("training")?.resolved()?;
        for section in ["optimizer", "schedule"] {
            let training = &recipe.training;
            if training.get("optim").is_some() && training.get(section).is_some() {
                return Err(Error::value(
                    format!("training.{section}"),
                    "given beside `training.optim`",
                    "one spelling of the update rule, not two",
                ));
            }
        }
        let evaluation: EvaluationConfig = recipe.section("evaluation")?;
        evaluation.validate()?;
        config.validate()?;
        let corpus = datasets::load(&spec, recipe.base_dir()).map_err(Error::other)?;
        let ids = corpus.vocabulary.len();
        match config.vocab_size {
            Some(n) if n < ids => {
                let expected = format!("at least the {ids} token ids of the data, or absent");
                return Err(Error::value("model.vocab_size", n, expected));
            }
            Some(_) => {}
            None => config.vocab_size = Some(ids),
        }
        config.validate()?;
        if let Some(prompt) = &evaluation.prompt {
            // Told now and not after the training.
            corpus.vocabulary.encode_prompt(prompt).map_err(|e| {
                Error::value(
                    "evaluation.prompt",
                    format!("{prompt:?}"),
                    format!("text of the data's vocabulary: {e}"),
                )
            })?;
        }
        let device = device.clone().without_autodiff();
        let model = config.init(
            Key::new(recipe.seed).site("init"),
            &device.clone().autodiff(),
        )?;
        let stream = |split: &datasets::Split, batch: usize, block: usize| -> Result<Stream> {
            let rows: f64 = model.cache_rows() as f64 * batch as f64;
            let bytes = rows * config.hidden_size as f64 * 4.0;
            if bytes > MOST_CACHE {
                let found = format!("{:.0} GiB of cached rows", bytes / f64::from(1 << 30));
                let expected = "a past that fits into memory: fewer rows (batch_size), a smaller model.attn_span, or learned spans that start at 0";
                return Err(Error::value("the past of a batch", found, expected));
            }
            Ok(Stream {
                blocks: split.stream(batch, block).map_err(Error::other)?,
                cache: model.empty_cache(batch),
            })
        };
        let train = stream(&corpus.train, training.batch_size, training.block_size)?;
        let eval_block = evaluation.block_size.unwrap_or(training.block_size);
        // Opened now, so that a split too short for its blocks is told before the first step and not after the last.
        let valid = stream(&corpus.valid, evaluation.batch_size, eval_block)?;
        stream(&corpus.test, evaluation.batch_size, eval_block)?;
        let learner = Learner::new(
            model,
            &training.optimizer,
            &training.schedule,
            training.clip,
            training.ema,
        )?;
        Ok(Self {
            valid: evaluation.valid_blocks.is_some().then_some(valid),
            config,
            training,
            evaluation,
            corpus,
            learner,
            train,
            generator: None,
            trained: false,
            device,
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> &TransformerSeq {
        self.learner.model()
    }

    /// The data.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    fn metric(&self) -> &'static str {
        self.corpus.unit.metric()
    }

    fn blocks(&self) -> usize {
        self.evaluation
            .block_size
            .unwrap_or(self.training.block_size)
    }

    /// Runs a split once from an empty past: the mean of the blocks' losses, nats per token.
    fn pass(&self, split: &datasets::Split, name: Split, cx: &mut Context) -> Result<f64> {
        let model = self.learner.evaluation_model();
        let batch = self.evaluation.batch_size;
        let stream = split.stream(batch, self.blocks()).map_err(Error::other)?;
        let pass = stream.pass();
        let total = pass.len() as u64;
        let mut cache = model.empty_projected_cache(batch);
        let mut mean = Mean::default();
        for (i, block) in pass.enumerate() {
            let output = model.forward(
                tokens(&block.inputs, batch, &self.device),
                cache,
                Mode::evaluation(),
            )?;
            cache = output.cache;
            mean.add(
                model
                    .nll(output.hidden, tokens(&block.targets, batch, &self.device))?
                    .mean(),
            );
            cx.progress(
                i as u64 + 1,
                total,
                &format!("evaluating on {}", name.name()),
            );
            if cx.cancelled() {
                return Err(Error::Cancelled { checkpoint: None });
            }
        }
        Ok(mean.value())
    }

    /// The published validation during training: some blocks, carrying the past from one validation to the next. `None`
    /// outside a training run, and where the recipe does not ask for it.
    fn next_valid_blocks(&mut self) -> Result<Option<f64>> {
        let (Some(count), Some(stream), true) =
            (self.evaluation.valid_blocks, &mut self.valid, self.trained)
        else {
            return Ok(None);
        };
        let model = self.learner.evaluation_model();
        let batch = self.evaluation.batch_size;
        let device = &self.device;
        let mut mean = Mean::default();
        for _ in 0..count.min(stream.blocks.blocks_per_pass()) {
            // Validation wraps to the beginning: it needs no randomness.
            let block = stream.blocks.next_block(|_| 0);
            let cache = if block.fresh {
                model.empty_cache(batch)
            } else {
                stream.cache.clone()
            };
            let output = model.forward(
                tokens(&block.inputs, batch, device),
                cache,
                Mode::evaluation(),
            )?;
            stream.cache = output.cache;
            mean.add(
                model
                    .nll(output.hidden, tokens(&block.targets, batch, device))?
                    .mean(),
            );
        }
        Ok(Some(mean.value()))
    }

    fn text_generator(&mut self) -> &mut TextGenerator {
        // Made anew each time: the weights may have moved since.
        let reader = SpanReader::new(self.learner.evaluation_model(), self.device.clone());
        let vocabulary = self.corpus.vocabulary.clone();
        self.generator
            .insert(TextGenerator::new(reader, vocabulary))
    }
}

impl Experiment for AdaptiveSpanExperiment {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::minimize(self.metric());
        vec![Stage::new("train", self.training.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        self.trained = true;
        let draw = at.key.site("stream");
        let block = self.train.blocks.next_block(|n| draw.below(0, n));
        if block.fresh {
            self.train.cache = self.learner.model().empty_cache(block.batch);
        }
        let (loss, cache, info) = update(
            &mut self.learner,
            at.update(),
            &block,
            &self.train.cache,
            self.training.batch_split,
            at.key,
            &self.device,
        )?;
        self.train.cache = cache;
        self.learner.update_model(TransformerSeq::clamp_spans);
        let mut scalars = Scalars::new().mean("loss", loss).value("lr", info.lr);
        if let Some(norm) = info.grad_norm {
            scalars.add_mean("grad_norm", norm);
        }
        if let Some(spans) = self.learner.model().spans() {
            scalars.add_value("span_mean", spans.mean_tokens());
            scalars.add_value("span_avg", spans.average());
            scalars.add_value("span_max", spans.max() as f64);
        }
        Ok(scalars)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let nats = match split {
            Split::Train => self.pass(&self.corpus.train, split, cx)?,
            Split::Valid => match self.next_valid_blocks()? {
                Some(nats) => nats,
                None => self.pass(&self.corpus.valid, split, cx)?,
            },
            Split::Test => self.pass(&self.corpus.test, split, cx)?,
        };
        let mut metrics = Metrics::new()
            .with(self.metric(), self.corpus.unit.from_nats(nats))
            .with("loss", nats);
        if let Some(spans) = self.learner.model().spans() {
            metrics.insert("span_mean", spans.mean_tokens());
        }
        Ok(metrics)
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        self.learner.save("model", to)?;
        self.train.save("train", to)?;
        match &self.valid {
            Some(valid) => valid.save("valid", to),
            None => Ok(()),
        }
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learner.restore("model", from)?;
        self.train.restore("train", from, &self.device)?;
        match &mut self.valid {
            // `eval` may ask for other rows or blocks than the run had; the carried validation is not used there.
            Some(valid) if from.has("valid") && valid.fits("valid", from)? => {
                valid.restore("valid", from, &self.device)
            }
            _ => Ok(()),
        }
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let model = self.learner.evaluation_model();
        model.save_pretrained(dir)?;
        let vocabulary = self.corpus.vocabulary.to_json();
        pretrained::write_atomic(&dir.join(crate::folder::VOCAB_FILE), vocabulary.as_bytes())?;
        Ok(())
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let model = TransformerSeq::from_pretrained(dir, &self.device.clone().autodiff())
            .map_err(Error::other)?;
        if model.config().vocab_size < Some(self.corpus.vocabulary.len()) {
            let found = format!("{:?} token ids", model.config().vocab_size.unwrap_or(0));
            let expected = format!(
                "at least the {} of the recipe's data; give the recipe the vocabulary the model was trained with (`data.vocab`)",
                self.corpus.vocabulary.len()
            );
            return Err(Error::value(
                format!("the model in {}", dir.display()),
                found,
                expected,
            ));
        }
        self.config = model.config().clone();
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
            amount: (self.training.batch_size * self.training.block_size) as f64,
            unit: "tokens",
        })
    }

    fn reach(&self) -> Option<usize> {
        Some(self.learner.model().reach())
    }

    fn summary(&self) -> Vec<(String, String)> {
        let c = &self.config;
        let spans = match (c.adapt_span_enabled, c.dynamic()) {
            (false, _) => format!("fixed at {} tokens", c.attn_span),
            (true, false) => format!(
                "learned, up to {} tokens, ramp {}",
                c.attn_span, c.adapt_span_ramp
            ),
            (true, true) => format!(
                "a function of the query, up to {} tokens, ramp {}",
                c.attn_span, c.adapt_span_ramp
            ),
        };
        vec![
            language::describe(&self.corpus),
            (
                "model".into(),
                format!(
                    "{} layers of {} heads, hidden size {}",
                    c.nb_layers, c.nb_heads, c.hidden_size
                ),
            ),
            ("spans".into(), spans),
        ]
    }

    fn references(&self) -> Vec<Reference> {
        language::anchors(&self.corpus)
    }

    fn figures(&self) -> Vec<Figure> {
        let Some(spans) = self.learner.model().spans() else {
            return vec![];
        };
        let tokens = spans.tokens();
        let heads: Vec<String> = (1..=self.config.nb_heads)
            .map(|h| format!("head {h}"))
            .collect();
        let layers: Vec<String> = (1..=tokens.len()).map(|l| format!("layer {l}")).collect();
        let rows = layers.iter().zip(&tokens).map(|(layer, spans)| {
            let cells = spans.iter().map(|s| format!("{s:.1}"));
            std::iter::once(layer.clone()).chain(cells).collect()
        });
        let columns = std::iter::once(String::new()).chain(heads.iter().cloned());
        vec![
            Figure::Table(Table {
                title: "Learned span of every head (tokens, without the ramp)".into(),
                columns: columns.collect(),
                rows: rows.collect(),
            }),
            Figure::Heatmap(Heatmap {
                title: "Learned spans".into(),
                x: Axis::new("head"),
                y: Axis::new("layer"),
                columns: heads,
                rows: layers,
                values: tokens,
                scale: Axis::with_unit("span", "tokens"),
            }),
        ]
    }

    fn samples(&mut self, _cx: &mut Context) -> Result<Vec<Sampled>> {
        self.text_generator();
        let Self {
            generator,
            corpus,
            evaluation,
            ..
        } = self;
        let Some(generator) = generator else {
            return Ok(vec![]);
        };
        language::sample(
            generator,
            corpus,
            evaluation.prompt.as_deref(),
            &evaluation.sample,
        )
    }

    fn generator(&mut self) -> Option<&mut dyn Generate> {
        Some(self.text_generator())
    }
    fn scorer(&mut self) -> Option<&mut dyn Score> {
        Some(self)
    }
}

impl Score for AdaptiveSpanExperiment {
    fn score(
        &mut self,
        split: Split,
        options: &Scoring,
        sink: &mut dyn FnMut(TokenScore<'_>) -> Result<()>,
        cx: &mut Context,
    ) -> Result<Metrics> {
        let model = self.learner.evaluation_model();
        let mut scorer = SpanScorer::new(model, self.blocks(), self.device.clone());
        let task = ScoreTask {
            corpus: &self.corpus,
            split,
            rows: self.evaluation.batch_size,
            by_document: false,
            options: *options,
        };
        language::score(&mut scorer, task, sink, cx)
    }
}
