//! The run: chunks of a stream, memories carried along, two optimisers (section 5 of the paper).

use crate::folder::VOCAB_FILE;
use crate::generate::{MemoryReader, MemoryScorer, TextGenerator};
use crate::learners::Learners;
use crate::lucidrains::LucidrainsTransformer;
use crate::memory::{CompressedMemoryState, MemorySizes};
use crate::memory_model::{MemoryModel, Mode};
use crate::model::CompressiveTransformer;
use crate::recipe::{EvaluationConfig, TrainingConfig};
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::memory::MemoryFifo;
use core_attn::random::Key;
use datasets::{Corpus, CorpusSpec};
use language::{Chunk, Cursor, Loss, ScoreTask, Source, document_pass, row_pass, tokens};
use pretrained::NamedTensors;
use serde::{Deserialize, Serialize};
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Figure, Generate, Metrics,
    ModuleGradients, Objective, Recipe, Reference, Result, Sampled, Scalars, Score, Scoring, Split,
    Stage, Step, TokenScore, Work,
};

/// Loss of a chunk in nats per real token, `[1]`.
pub(crate) fn chunk_loss<M: MemoryModel>(
    model: &M,
    hidden: Tensor<3>,
    chunk: &Chunk,
    device: &Device,
) -> Result<Tensor<1>> {
    let nll = model
        .nll(hidden, tokens(&chunk.targets, chunk.batch, device))
        .map_err(Error::other)?;
    Ok(match chunk.real(device) {
        Some(real) => {
            let real = real.float();
            let count = real.clone().sum().clamp_min(1.0);
            (nll * real).sum() / count
        }
        None => nll.mean(),
    })
}

/// Gradients summed since the last update.
struct Pending {
    gradients: ModuleGradients,
    chunks: u64,
}

/// The part of the state that is no tensor.
#[derive(Serialize, Deserialize)]
struct Place {
    cursor: Cursor,
    /// Chunks read since the memories were blank.
    index: u64,
    /// Chunks whose gradients wait for an update.
    pending: u64,
}

/// A recipe brought to life, for a model of either profile.
pub struct CompressiveExperiment<M: MemoryModel> {
    config: M::Config,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    corpus: Corpus,
    learners: Learners<M>,
    source: Source,
    state: CompressedMemoryState,
    pending: Option<Pending>,
    generator: Option<TextGenerator<M>>,
    device: Device,
}

impl<M: MemoryModel> CompressiveExperiment<M> {
    /// Reads the recipe's sections, loads its data and initialises the model from its seed. `keys` is the section `model` without
    /// the keys that say which profile it is.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(recipe: &Recipe, keys: serde_json::Value, device: &Device) -> Result<Self> {
        let mut config = M::parse(keys, &recipe.file, "model").map_err(Error::other)?;
        let spec: CorpusSpec = recipe.section("data")?;
        let training: TrainingConfig = recipe.section::<TrainingConfig>("training")?.resolved()?;
        let evaluation: EvaluationConfig = recipe.section("evaluation")?;
        evaluation.validate()?;
        let corpus = datasets::load(&spec, recipe.base_dir()).map_err(Error::other)?;
        let ids = corpus.vocabulary.len();
        match M::vocab_size(&config) {
            Some(n) if n < ids => {
                let expected = format!("at least the {ids} token ids of the data, or absent");
                return Err(Error::value("the model's number of token ids", n, expected));
            }
            Some(_) => {}
            None => M::set_vocab_size(&mut config, ids),
        }
        let device = device.clone().without_autodiff();
        let key = Key::new(recipe.seed).site("init");
        let model = M::build(&config, key, &device.clone().autodiff()).map_err(Error::other)?;
        let source = Source::new(&corpus.train, training.batch_size, model.chunk_size())?;
        let state = model
            .start(training.batch_size, model.sizes(), false)
            .map_err(Error::other)?;
        let experiment = Self {
            learners: Learners::new(model, &training)?,
            config,
            training,
            evaluation,
            corpus,
            source,
            state,
            pending: None,
            generator: None,
            device,
        };
        // Tried now, so that what evaluation cannot do is told before the first step and not after the last.
        experiment.blank(1)?;
        for split in [&experiment.corpus.valid, &experiment.corpus.test] {
            if split.documents.len() < 2 {
                row_pass(split, experiment.evaluation.batch_size, experiment.chunk())?;
            }
        }
        Ok(experiment)
    }

    /// The model as it stands.
    pub fn model(&self) -> &M {
        self.learners.main.model()
    }

    /// The data.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    fn chunk(&self) -> usize {
        self.model().chunk_size()
    }

    fn metric(&self) -> &'static str {
        self.corpus.unit.metric()
    }

    fn eval_sizes(&self) -> MemorySizes {
        let own = self.model().sizes();
        self.evaluation.eval_memory.map_or(own, MemorySizes::from)
    }

    /// Memories for evaluation at the beginning of a text.
    fn blank(&self, batch: usize) -> Result<CompressedMemoryState> {
        self.model()
            .start(batch, self.eval_sizes(), true)
            .map_err(Error::other)
    }

    /// Reads a split once: nats in all and tokens predicted. `change` is done to the memories before each chunk.
    pub(crate) fn pass(
        &self,
        split: &datasets::Split,
        name: Split,
        change: fn(CompressedMemoryState) -> CompressedMemoryState,
        cx: &mut Context,
    ) -> Result<Loss> {
        let model = self.learners.main.evaluation_model();
        let blank = |batch: usize| {
            model
                .start(batch, self.eval_sizes(), true)
                .map_err(Error::other)
        };
        let mut loss = Loss::default();
        let texts = match split.documents.len() {
            0 | 1 => vec![row_pass(split, self.evaluation.batch_size, self.chunk())?],
            _ => document_pass(split, self.chunk()),
        };
        let total: usize = texts.iter().map(Vec::len).sum();
        let mut done = 0;
        for text in texts {
            let mut state = blank(text.first().map_or(1, |chunk| chunk.batch))?;
            for chunk in text {
                let inputs = tokens(&chunk.inputs, chunk.batch, &self.device);
                let output = model
                    .read(inputs, None, change(state), Mode::evaluation(), &mut |_| {})
                    .map_err(Error::other)?;
                state = output.state;
                let targets = tokens(&chunk.targets, chunk.batch, &self.device);
                loss.add(model.nll(output.hidden, targets).map_err(Error::other)?);
                done += 1;
                let what = format!("evaluating on {}", name.name());
                cx.progress(done, total as u64, &what);
                if cx.cancelled() {
                    return Err(Error::cancelled());
                }
            }
        }
        Ok(loss)
    }

    fn split(&self, split: Split) -> &datasets::Split {
        match split {
            Split::Train => &self.corpus.train,
            Split::Valid => &self.corpus.valid,
            Split::Test => &self.corpus.test,
        }
    }

    /// Adds the perplexity per word of the text, where the recipe asks for it.
    fn add_words(&self, metrics: &mut Metrics, nats: f64, split: Split) -> Result<()> {
        if self.evaluation.word_perplexity {
            let data = self.split(split);
            let words = self.words(data, split)?;
            let total = nats * data.tokens.len() as f64;
            metrics.insert("word_perplexity", (total / words).exp());
        }
        Ok(())
    }

    /// White-space words of a split.
    fn words(&self, split: &datasets::Split, name: Split) -> Result<f64> {
        let known = self.evaluation.words.and_then(|words| match name {
            Split::Valid => Some(words.valid),
            Split::Test => Some(words.test),
            Split::Train => None,
        });
        if let Some(words) = known {
            return Ok(words as f64);
        }
        let text = self
            .corpus
            .vocabulary
            .decode_bytes(&split.tokens)
            .map_err(Error::other)?;
        let words = text.split(u8::is_ascii_whitespace);
        Ok(words.filter(|word| !word.is_empty()).count().max(1) as f64)
    }

    fn text_generator(&mut self) -> Result<&mut TextGenerator<M>> {
        // Made anew each time: the weights may have moved since.
        let model = self.learners.main.evaluation_model();
        let reader = MemoryReader::new(model, self.device.clone())?;
        let vocabulary = self.corpus.vocabulary.clone();
        Ok(self
            .generator
            .insert(TextGenerator::new(reader, vocabulary)))
    }

    /// The next chunk, with the memories of rows that begin a text made blank.
    fn next_chunk(&mut self, at: Step, part: u64) -> Result<Chunk> {
        let draw = at.key.site("stream").fold(part);
        let chunk = self.source.next(|n| draw.below(0, n));
        if chunk.fresh.len() == chunk.batch {
            let model = self.learners.main.model();
            self.state = model
                .start(chunk.batch, model.sizes(), false)
                .map_err(Error::other)?;
        } else {
            self.state = self.state.clone().clear_sequences(&chunk.fresh);
        }
        Ok(chunk)
    }
}

impl<M: MemoryModel> Experiment for CompressiveExperiment<M> {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::minimize(self.metric());
        vec![Stage::new("train", self.training.steps, objective)]
    }

    fn begin_stage(&mut self, _stage: usize, cx: &mut Context) -> Result<()> {
        for warning in M::warnings(&self.config) {
            cx.warning(&warning);
        }
        Ok(())
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let unrolls = self.model().unrolls();
        let chunks = if unrolls {
            self.training.bptt_unroll
        } else {
            1
        };
        let rate = M::dropout_rate(&self.config);
        let (mut tasks, mut aux) = (vec![], None);
        for part in 0..chunks as u64 {
            let chunk = self.next_chunk(at, part)?;
            let key = at.key.site("dropout").fold(part);
            let dropout = Dropout::new(rate, key).map_err(Error::other)?;
            let model = self.learners.main.model();
            let output = model
                .read(
                    tokens(&chunk.inputs, chunk.batch, &self.device),
                    chunk.real(&self.device),
                    self.state.clone(),
                    Mode::training(dropout),
                    &mut |_| {},
                )
                .map_err(Error::other)?;
            aux = output.aux_loss();
            tasks.push(chunk_loss(model, output.hidden, &chunk, &self.device)?);
            self.state = output.state;
        }
        let task = Tensor::cat(tasks, 0).mean();
        self.state = self.state.clone().detach();
        let mut scalars = Scalars::new().mean("loss", task.clone().inner());
        // The two losses share no parameter, so one backward pass gives both their gradients.
        let total = match aux.filter(Tensor::is_tracked) {
            Some(aux) => {
                scalars.add_mean("compression_loss", aux.clone().inner());
                task + aux
            }
            None => task,
        };
        let gradients = self.learners.main.gradients(total)?;
        let pending = match self.pending.take() {
            Some(mut pending) => {
                pending.gradients.add(gradients)?;
                pending.chunks += 1;
                pending
            }
            None => Pending {
                gradients,
                chunks: 1,
            },
        };
        if !self.training.update_every.applies(at.step) {
            scalars.add_value("lr", self.learners.main.lr(at.update()));
            self.pending = Some(pending);
            return Ok(scalars);
        }
        let mean = match pending.chunks {
            1 => pending.gradients,
            n => pending.gradients.scale(1.0 / n as f64),
        };
        let done = self.learners.apply(at.update(), mean)?;
        scalars.add_value("lr", done.lr);
        if let Some(lr) = done.compressor_lr {
            scalars.add_value("compressor_lr", lr);
        }
        for (name, norm) in [
            ("grad_norm", done.grad_norm),
            ("compressor_grad_norm", done.compressor_grad_norm),
        ] {
            if let Some(norm) = norm {
                scalars.add_mean(name, norm);
            }
        }
        Ok(scalars)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let pass = self.pass(self.split(split), split, |memories| memories, cx)?;
        let nats = pass.mean();
        let mut metrics = Metrics::new()
            .with(self.metric(), self.corpus.unit.from_nats(nats))
            .with("loss", nats);
        self.add_words(&mut metrics, nats, split)?;
        Ok(metrics)
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        self.learners.save(to)?;
        let waiting = self.pending.as_ref();
        to.json(
            "stream",
            &Place {
                cursor: self.source.cursor(),
                index: self.state.index,
                pending: waiting.map_or(0, |p| p.chunks),
            },
        )?;
        if let Some(pending) = waiting {
            to.tensors("pending", pending.gradients.to_tensors())?;
        }
        let mut tensors = NamedTensors::new();
        for (i, layer) in self.state.layers.iter().enumerate() {
            for (name, fifo) in parts(layer) {
                if let Some(rows) = fifo.and_then(MemoryFifo::rows) {
                    tensors.insert(format!("{name}.{i}"), rows.into_data());
                }
            }
        }
        to.tensors("memories", tensors)
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learners.restore(from)?;
        let place: Place = from.json("stream")?;
        self.source.restore(place.cursor)?;
        self.pending = match place.pending {
            0 => None,
            chunks => Some(Pending {
                gradients: ModuleGradients::from_tensors(from.tensors("pending")?, &self.device)?,
                chunks,
            }),
        };
        let mut tensors = from.tensors("memories")?;
        let model = self.learners.main.model();
        let mut state = model
            .start(self.training.batch_size, model.sizes(), false)
            .map_err(Error::other)?;
        state.index = place.index;
        for (i, layer) in state.layers.iter_mut().enumerate() {
            let mut take = |name: &str, blank: MemoryFifo| -> Result<MemoryFifo> {
                let key = format!("{name}.{i}");
                let Some(data) = tensors.remove(&key) else {
                    // Memories that grow are absent while they are empty.
                    return match blank.is_empty() {
                        true => Ok(blank),
                        false => Err(misshapen(&key)),
                    };
                };
                let &[batch, rows, _] = &data.shape()[..] else {
                    return Err(misshapen(&key));
                };
                if batch != self.training.batch_size || rows > blank.size() {
                    return Err(misshapen(&key));
                }
                let rows = Tensor::from_data(data, &self.device);
                Ok(MemoryFifo::from_rows(rows, blank.size()))
            };
            layer.episodic = take("episodic", layer.episodic.clone())?;
            layer.compressed = take("compressed", layer.compressed.clone())?;
            if let Some(usage) = layer.usage.take() {
                layer.usage = Some(take("usage", usage)?);
            }
        }
        self.state = state;
        Ok(())
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let model = self.learners.main.evaluation_model();
        crate::weights::save_pretrained(&model, dir).map_err(Error::other)?;
        let vocabulary = self.corpus.vocabulary.to_json();
        pretrained::write_atomic(&dir.join(VOCAB_FILE), vocabulary.as_bytes())?;
        Ok(())
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let device = self.device.clone().autodiff();
        let model: M = crate::weights::from_pretrained(dir, &device).map_err(Error::other)?;
        let ids = M::vocab_size(model.settings()).unwrap_or(0);
        if ids < self.corpus.vocabulary.len() {
            let expected = format!(
                "at least the {} of the recipe's data; give the recipe the vocabulary the model was trained with (`data.vocab`)",
                self.corpus.vocabulary.len()
            );
            let at = format!("the model in {}", dir.display());
            return Err(Error::value(at, format!("{ids} token ids"), expected));
        }
        self.config = model.settings().clone();
        self.source = Source::new(
            &self.corpus.train,
            self.training.batch_size,
            model.chunk_size(),
        )?;
        self.state = model
            .start(self.training.batch_size, model.sizes(), false)
            .map_err(Error::other)?;
        self.pending = None;
        self.learners = Learners::new(model, &self.training)?;
        Ok(())
    }

    fn parameters(&self) -> Option<usize> {
        Some(self.model().num_params())
    }

    fn work_per_step(&self) -> Option<Work> {
        let chunks = match self.model().unrolls() {
            true => self.training.bptt_unroll,
            false => 1,
        };
        Some(Work {
            amount: (self.training.batch_size * self.chunk() * chunks) as f64,
            unit: "tokens",
        })
    }

    fn reach(&self) -> Option<usize> {
        Some(M::reach(&self.config))
    }

    fn summary(&self) -> Vec<(String, String)> {
        let mut all = vec![language::describe(&self.corpus)];
        all.extend(M::facts(&self.config));
        let rows: usize = self
            .state
            .layers
            .iter()
            .map(|l| l.episodic.size() + l.compressed.size())
            .sum();
        let width = self.state.layers.iter().find_map(|l| l.episodic.rows());
        if let Some(width) = width.map(|rows| rows.dims()[2]) {
            let bytes = rows * width * 4 * self.training.batch_size;
            let mebibytes = bytes as f64 / f64::from(1 << 20);
            all.push((
                "memories of the batch".into(),
                format!("{mebibytes:.1} MiB"),
            ));
        }
        let [fixed, row] = M::numbers(&self.config);
        let numbers = fixed + row * self.training.batch_size as f64;
        let gibibytes = numbers * 4.0 / f64::from(1 << 30);
        all.push((
            "memory of a step, estimated".into(),
            format!("{gibibytes:.2} GiB"),
        ));
        all
    }

    fn references(&self) -> Vec<Reference> {
        language::anchors(&self.corpus)
    }

    fn figures(&self) -> Vec<Figure> {
        let model = self.learners.main.evaluation_model();
        // A figure that cannot be made is no reason to lose the run it would describe.
        crate::figures::of(&model, &self.corpus.valid, &self.device).unwrap_or_default()
    }

    fn samples(&mut self, _cx: &mut Context) -> Result<Vec<Sampled>> {
        self.text_generator()?;
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
        // The memories were made before, when the recipe was opened.
        let generator = self.text_generator().ok()?;
        Some(generator)
    }

    fn scorer(&mut self) -> Option<&mut dyn Score> {
        Some(self)
    }
}

impl<M: MemoryModel> Score for CompressiveExperiment<M> {
    fn score(
        &mut self,
        split: Split,
        options: &Scoring,
        sink: &mut dyn FnMut(TokenScore<'_>) -> Result<()>,
        cx: &mut Context,
    ) -> Result<Metrics> {
        let model = self.learners.main.evaluation_model();
        let mut scorer = MemoryScorer::new(model, self.eval_sizes(), self.device.clone())?;
        let task = ScoreTask {
            corpus: &self.corpus,
            split,
            rows: self.evaluation.batch_size,
            by_document: self.split(split).documents.len() > 1,
            options: *options,
        };
        let mut metrics = language::score(&mut scorer, task, sink, cx)?;
        let nats = metrics.get("loss").unwrap_or(f64::NAN);
        self.add_words(&mut metrics, nats, split)?;
        Ok(metrics)
    }
}

/// Opens a recipe of either profile.
pub(crate) fn open(recipe: &Recipe, device: &Device) -> Result<Box<dyn Experiment>> {
    let (profile, keys) =
        crate::profile::profile(recipe.model.clone(), "model").map_err(Error::other)?;
    Ok(match profile == LucidrainsTransformer::PROFILE {
        true => Box::new(CompressiveExperiment::<LucidrainsTransformer>::open(
            recipe, keys, device,
        )?),
        false => Box::new(CompressiveExperiment::<CompressiveTransformer>::open(
            recipe, keys, device,
        )?),
    })
}

/// The memories of a layer by the names they are stored under.
fn parts(layer: &crate::memory::LayerMemory) -> [(&'static str, Option<&MemoryFifo>); 3] {
    [
        ("episodic", Some(&layer.episodic)),
        ("compressed", Some(&layer.compressed)),
        ("usage", layer.usage.as_ref()),
    ]
}

fn misshapen(key: &str) -> Error {
    Error::value(
        format!("`{key}` of the checkpoint's `memories`"),
        "absent or misshapen",
        "a checkpoint of this recipe",
    )
}
