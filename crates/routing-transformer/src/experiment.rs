//! The run: windows of a text, gradients for the weights, sums and counts for the centroids.

use crate::config::RoutingTransformerConfig;
use crate::generate::{TextGenerator, TextReader, WindowScorer};
use crate::layers::Mode;
use crate::lm::RoutingTransformerLM;
use crate::picture_experiment::PictureExperiment;
use crate::recipe::{EvaluationConfig, TrainingConfig};
use crate::spread::Spread;
use crate::task::{answer, ids_for, question};
use crate::update::{Routing, first_data, learner, memory_line, update};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use datasets::{BatchStream, Block, Corpus, CorpusSpec, StreamCursor};
use language::ScoreTask;
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Figure, Generate, Learner,
    Metrics, Objective, Recipe, Reference, Result, Sampled, Scalars, Score, Scoring, Split, Stage,
    Step, TokenScore, Work,
};

/// A recipe brought to life.
pub struct RoutingExperiment {
    config: RoutingTransformerConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    corpus: Corpus,
    learner: Learner<RoutingTransformerLM>,
    train: BatchStream,
    spread: Spread,
    generator: Option<TextGenerator>,
    seed: u64,
    device: Device,
}

impl RoutingExperiment {
    /// Reads the recipe's sections, loads its data and initialises the model from its seed.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let config =
            RoutingTransformerConfig::from_value(recipe.model.clone(), &recipe.file, "model")
                .map_err(Error::other)?;
        if config.frame().is_some() {
            let expected = "absent: this is the run on texts, not on pictures";
            return Err(Error::value("model.frame_height", "given", expected));
        }
        let spec: CorpusSpec = recipe.section("data")?;
        let training: TrainingConfig = recipe.section::<TrainingConfig>("training")?.resolved()?;
        let evaluation: EvaluationConfig = recipe.section("evaluation")?;
        evaluation.validate()?;
        if evaluation.pictures.is_some() {
            let expected = "absent: the data are texts";
            return Err(Error::value("evaluation.pictures", "given", expected));
        }
        config.validate().map_err(Error::other)?;
        let window = evaluation.block_size.unwrap_or(training.block_size);
        check_length(&config, training.block_size, "training.block_size")?;
        check_length(&config, window, "evaluation.block_size")?;
        let corpus = datasets::load(&spec, recipe.base_dir()).map_err(Error::other)?;
        let ids = ids_for(&config, corpus.vocabulary.len());
        let config = match config.vocab() {
            Some(n) if n < ids => {
                let at = format!("model.{}", config.vocab_key());
                let expected = format!(
                    "at least {ids} (the data's tokens, and ids for padding and mask), or absent"
                );
                return Err(Error::value(at, n, expected));
            }
            Some(_) => config,
            None => config.with_vocab(ids),
        };
        config.validate().map_err(Error::other)?;
        let device = device.clone().without_autodiff();
        let key = Key::new(recipe.seed).site("init");
        let model = config
            .init(key, &device.clone().autodiff())
            .map_err(Error::other)?;
        let stream = |split: &datasets::Split, batch: usize, block: usize| {
            split.stream(batch, block).map_err(Error::other)
        };
        // Opened now, so that a split too short for its windows is told before the first step and not after the last.
        stream(&corpus.valid, evaluation.batch_size, window)?;
        stream(&corpus.test, evaluation.batch_size, window)?;
        Ok(Self {
            train: stream(&corpus.train, training.batch_size, training.block_size)?,
            learner: learner(model, &training)?,
            spread: Spread::default(),
            config,
            training,
            evaluation,
            corpus,
            generator: None,
            seed: recipe.seed,
            device,
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> &RoutingTransformerLM {
        self.learner.model()
    }

    fn metric(&self) -> &'static str {
        match self.config.causal() {
            true => self.corpus.unit.metric(),
            false => "masked_loss",
        }
    }

    fn window(&self) -> usize {
        let given = self.evaluation.block_size;
        given.unwrap_or(self.training.block_size)
    }

    /// Scores a split once, window by window: mean nats per token, and how the positions spread.
    fn pass(&self, split: Split, mode: Mode, cx: &mut Context) -> Result<(f64, Spread)> {
        let model = self.learner.evaluation_model();
        let data = match split {
            Split::Train => &self.corpus.train,
            Split::Valid => &self.corpus.valid,
            Split::Test => &self.corpus.test,
        };
        let window = self.window();
        let stream = data
            .stream(self.evaluation.batch_size, window)
            .map_err(Error::other)?;
        let total = stream.pass().len() as u64;
        let key = Key::new(self.seed).site("evaluation").site(split.name());
        let (mut sum, mut spread) = (0.0, Spread::default());
        for (i, block) in stream.pass().enumerate() {
            let ask = question(
                &self.config,
                &block,
                window,
                self.training.masked_share,
                false,
                key.fold(i as u64),
                &self.device,
            );
            let (loss, _, routed) = answer(&model, ask, mode).map_err(Error::other)?;
            sum += f64::from(loss.into_scalar::<f32>());
            spread.see(&routed);
            let done = i as u64 + 1;
            cx.progress(done, total, &format!("evaluating on {}", split.name()));
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
        }
        Ok((sum / total.max(1) as f64, spread))
    }

    fn text_generator(&mut self) -> &mut TextGenerator {
        // Made anew each time: the weights may have moved since.
        let model = self.learner.evaluation_model();
        let reader = TextReader::new(model, self.window(), self.device.clone());
        let vocabulary = self.corpus.vocabulary.clone();
        self.generator
            .insert(TextGenerator::new(reader, vocabulary))
    }
}

/// The run that a recipe asks for: on texts or on pictures.
///
/// # Errors
/// Anything in the recipe or the data that cannot be; the message names the place.
pub(crate) fn open(recipe: &Recipe, device: &Device) -> Result<Box<dyn Experiment>> {
    let config = RoutingTransformerConfig::from_value(recipe.model.clone(), &recipe.file, "model")
        .map_err(Error::other)?;
    Ok(match config.frame() {
        Some(_) => Box::new(PictureExperiment::open(recipe, config, device)?),
        None => Box::new(RoutingExperiment::open(recipe, device)?),
    })
}

/// A window must hold the members of a cluster, and fit the model.
pub(crate) fn check_length(
    config: &RoutingTransformerConfig,
    length: usize,
    at: &str,
) -> Result<()> {
    if let RoutingTransformerConfig::Paper(c) = config
        && c.routes()
        && c.sparsity_cluster_attention_window > length
    {
        let expected = format!(
            "at most {at} = {length}: a cluster cannot have more members than there are positions"
        );
        return Err(Error::value(
            "model.sparsity_cluster_attention_window",
            c.sparsity_cluster_attention_window,
            expected,
        ));
    }
    match config.longest() {
        Some(longest) if longest < length => {
            let expected = format!("at most model.max_seq_len = {longest}");
            Err(Error::value(at, length, expected))
        }
        _ => Ok(()),
    }
}

impl Experiment for RoutingExperiment {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::minimize(self.metric());
        vec![Stage::new("train", self.training.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let draw = at.key.site("stream");
        let block = self.train.next_block(|n| draw.below(0, n));
        let (config, device, share) = (&self.config, &self.device, self.training.masked_share);
        let key = at.key.site("first");
        let whole = || question(config, &block, block.length, share, false, key, device).inputs;
        first_data(&mut self.learner, whole, key.site("first_data"))?;
        let length = match self.training.random_truncation {
            true => 2 + at.key.site("length").below(0, block.length - 1),
            false => block.length,
        };
        let shards = block
            .split(self.training.batch_split)
            .map_err(Error::other)?;
        update(
            &mut self.learner,
            &self.training,
            &mut self.spread,
            at,
            shards,
            |model, shard: Block, key, mode| {
                let ask = question(config, &shard, length, share, true, key, device);
                answer(model, ask, mode).map_err(Error::other)
            },
        )
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let (nats, spread) = self.pass(split, Mode::evaluation(), cx)?;
        let value = |nats: f64| match self.config.causal() {
            true => self.corpus.unit.from_nats(nats),
            false => nats,
        };
        let mut metrics = Metrics::new()
            .with(self.metric(), value(nats))
            .with("loss", nats);
        // Under the reference's rule a position's clusters depend on what comes after it. The final figure is given without
        // that help as well.
        if split == Split::Test && spread.routes() && self.config.could_be_strict() {
            let strict = Mode {
                strict_causal_routing: Some(true),
                ..Mode::evaluation()
            };
            let (nats, _) = self.pass(split, strict, cx)?;
            metrics.insert(format!("{}_strict", self.metric()), value(nats));
        }
        if spread.routes() {
            metrics.insert("occupancy_entropy", spread.entropy());
            metrics.insert("uncovered", spread.uncovered());
            self.spread.show(&spread);
        }
        Ok(metrics)
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        self.learner.save("model", to)?;
        to.json("train", &self.train.cursor())?;
        let routing = Routing {
            initted: self.learner.model().initted(),
            spread: self.spread.history_only(),
        };
        to.json("routing", &routing)
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learner.restore("model", from)?;
        let cursor: StreamCursor = from.json("train")?;
        self.train.restore(cursor).map_err(Error::other)?;
        let routing: Routing = from.json("routing")?;
        self.learner
            .update_model(|m| m.with_initted(&routing.initted));
        self.spread = routing.spread;
        Ok(())
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let model = self.learner.evaluation_model();
        model.save_pretrained(dir).map_err(Error::other)?;
        let vocabulary = self.corpus.vocabulary.to_json();
        pretrained::write_atomic(&dir.join(crate::folder::VOCAB_FILE), vocabulary.as_bytes())?;
        Ok(())
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let device = self.device.clone().autodiff();
        let model = RoutingTransformerLM::from_pretrained(dir, &device).map_err(Error::other)?;
        let config = model.config();
        let (found, needed) = (
            config.vocab().unwrap_or(0),
            ids_for(&config, self.corpus.vocabulary.len()),
        );
        if found < needed {
            let expected = format!(
                "at least the {needed} of the recipe's data; give the recipe the vocabulary the model was trained with (`data.vocab`)"
            );
            let at = format!("the model in {}", dir.display());
            return Err(Error::value(at, format!("{found} token ids"), expected));
        }
        check_length(&config, self.window(), "evaluation.block_size")?;
        self.config = config;
        self.learner = learner(model, &self.training)?;
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
        let causal = self.config.causal();
        causal.then(|| self.config.reach(self.window()))
    }

    fn summary(&self) -> Vec<(String, String)> {
        let rule = match (self.config.causal(), self.config.strict_causal_routing()) {
            (false, _) => "over the whole window",
            (true, false) => {
                "over the whole window (the reference's rule: membership of a position depends on later ones)"
            }
            (true, true) => "from each position's past alone",
        };
        vec![
            language::describe(&self.corpus),
            ("model".into(), self.config.summary()),
            memory_line(&self.config, &self.training, self.training.block_size),
            ("members chosen".into(), rule.into()),
        ]
    }

    fn references(&self) -> Vec<Reference> {
        match self.config.causal() {
            true => language::anchors(&self.corpus),
            false => vec![],
        }
    }

    fn figures(&self) -> Vec<Figure> {
        self.spread.figures()
    }

    fn samples(&mut self, _cx: &mut Context) -> Result<Vec<Sampled>> {
        if !self.config.causal() {
            return Ok(vec![]);
        }
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
        match self.config.causal() {
            true => Some(self.text_generator()),
            false => None,
        }
    }
    fn scorer(&mut self) -> Option<&mut dyn Score> {
        match self.config.causal() {
            true => Some(self),
            false => None,
        }
    }
}

impl Score for RoutingExperiment {
    fn score(
        &mut self,
        split: Split,
        options: &Scoring,
        sink: &mut dyn FnMut(TokenScore<'_>) -> Result<()>,
        cx: &mut Context,
    ) -> Result<Metrics> {
        let mut scorer = WindowScorer {
            model: self.learner.evaluation_model(),
            window: self.window(),
            device: self.device.clone(),
        };
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
