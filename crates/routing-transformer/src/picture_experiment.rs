//! The run on pictures: whole pictures in an order drawn anew for every pass, each byte foretold from those before it.

use crate::config::RoutingTransformerConfig;
use crate::experiment::check_length;
use crate::layers::Mode;
use crate::lm::{RoutingTransformerLM, cross_entropy_of_bytes};
use crate::paper::{Frame, PaperTransformer};
use crate::pictures::{METRIC, Pictures, bitmap};
use crate::recipe::{EvaluationConfig, TrainingConfig};
use crate::spread::Spread;
use crate::update::{Answer, Routing, learner, memory_line, update};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use datasets::CorpusSpec;
use pretrained::NamedTensors;
use std::path::Path;
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Error, Experiment, Figure, Learner, Metrics,
    Objective, Recipe, Reference, Result, Sample, Sampled, Sampling, Scalars, Split, Stage, Step,
    Work, sample_token,
};

/// Pictures drawn at the end of a run, and the size of their pixels in the file.
const DRAWN: usize = 4;
const ZOOM: usize = 4;

/// A recipe for pictures brought to life.
pub struct PictureExperiment {
    config: RoutingTransformerConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    pictures: Pictures,
    learner: Learner<RoutingTransformerLM>,
    spread: Spread,
    sampler: Option<PictureSampler>,
    /// The pass over the training pictures, and its order.
    order: (u64, Vec<usize>),
    seed: u64,
    device: Device,
}

impl PictureExperiment {
    /// Reads the recipe's sections, loads its pictures and initialises the model from its seed.
    ///
    /// # Errors
    /// Anything in the recipe or the data that cannot be; the message names the place.
    pub fn open(
        recipe: &Recipe,
        config: RoutingTransformerConfig,
        device: &Device,
    ) -> Result<Self> {
        config.validate().map_err(Error::other)?;
        let Some(frame) = config.frame() else {
            let expected = "the height of the pictures";
            return Err(Error::value("model.frame_height", "absent", expected));
        };
        let spec: CorpusSpec = recipe.section("data")?;
        let training: TrainingConfig = recipe.section::<TrainingConfig>("training")?.resolved()?;
        let evaluation: EvaluationConfig = recipe.section("evaluation")?;
        evaluation.validate()?;
        for (at, found) in [
            ("training.block_size", Some(training.block_size)),
            ("evaluation.block_size", evaluation.block_size),
        ] {
            if let Some(n) = found.filter(|n| *n != frame.size()) {
                let expected = format!("{}, the bytes of a picture", frame.size());
                return Err(Error::value(at, n, expected));
            }
        }
        if training.random_truncation {
            let expected = "false: pictures are read whole";
            return Err(Error::value("training.random_truncation", true, expected));
        }
        check_length(&config, frame.size(), "training.block_size")?;
        let pictures = Pictures::load(&spec, frame, recipe.base_dir())?;
        let device = device.clone().without_autodiff();
        let key = Key::new(recipe.seed).site("init");
        let model = config
            .init(key, &device.clone().autodiff())
            .map_err(Error::other)?;
        Ok(Self {
            learner: learner(model, &training)?,
            config,
            training,
            evaluation,
            pictures,
            spread: Spread::default(),
            sampler: None,
            order: (u64::MAX, vec![]),
            seed: recipe.seed,
            device,
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> &RoutingTransformerLM {
        self.learner.model()
    }

    /// Which pictures an update reads: a function of its number alone.
    fn batch(&mut self, update: u64) -> Vec<Vec<u8>> {
        let pictures = self.pictures.split(Split::Train);
        let n = pictures.len() as u64;
        let batch = self.training.batch_size as u64;
        let mut chosen = vec![];
        for at in update * batch..(update + 1) * batch {
            let (pass, place) = (at / n, (at % n) as usize);
            if self.order.0 != pass {
                let key = Key::new(self.seed).site("order").fold(pass);
                let mut all: Vec<usize> = (0..n as usize).collect();
                all.sort_by_key(|i| key.bits(*i as u64));
                self.order = (pass, all);
            }
            chosen.push(pictures[self.order.1[place]].clone());
        }
        chosen
    }

    /// How many pictures of a split are scored.
    fn scored(&self, split: Split) -> usize {
        let all = self.pictures.split(split).len();
        self.evaluation.pictures.map_or(all, |n| n.min(all))
    }

    fn pass(
        &self,
        split: Split,
        mode: Mode,
        rows: usize,
        cx: &mut Context,
    ) -> Result<(f64, Spread)> {
        let model = self.learner.evaluation_model();
        let pictures = &self.pictures.split(split)[..self.scored(split)];
        let (mut nats, mut spread) = (0.0, Spread::default());
        for (i, part) in pictures.chunks(rows).enumerate() {
            let (loss, _, routed) = answer(&model, part, mode, &self.device)?;
            nats += f64::from(loss.into_scalar::<f32>()) * part.len() as f64;
            spread.see(&routed);
            let done = (i * rows + part.len()) as u64;
            let what = format!("evaluating on {}", split.name());
            cx.progress(done, pictures.len() as u64, &what);
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
        }
        Ok((nats / pictures.len().max(1) as f64, spread))
    }

    fn picture_sampler(&mut self) -> &mut PictureSampler {
        // Made anew each time: the weights may have moved since.
        let model = self.learner.evaluation_model();
        self.sampler.insert(PictureSampler {
            model,
            frame: self.pictures.frame,
            options: self.evaluation.sample.clone(),
            device: self.device.clone(),
        })
    }
}

/// Loss over all bytes of some pictures.
fn answer(
    model: &RoutingTransformerLM,
    pictures: &[Vec<u8>],
    mode: Mode,
    device: &Device,
) -> Result<Answer> {
    let size = pictures.first().map_or(0, Vec::len);
    let ids: Vec<i32> = pictures.iter().flatten().map(|b| i32::from(*b)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [pictures.len(), size]), device);
    let output = model
        .forward(PaperTransformer::shifted(ids.clone()), mode)
        .map_err(Error::other)?;
    let loss = cross_entropy_of_bytes(output.logits, ids).map_err(Error::other)?;
    Ok((loss, output.clustering_loss, output.routed))
}

/// Draws pictures byte by byte, reading on under the strict rule.
pub(crate) struct PictureSampler {
    pub model: RoutingTransformerLM,
    pub frame: Frame,
    pub options: Sampling,
    pub device: Device,
}

impl PictureSampler {
    /// One picture; `keep_on` is asked now and then.
    fn draw(&self, key: Key, keep_on: &mut dyn FnMut(usize) -> bool) -> Result<Vec<u8>> {
        let mut stream = self.model.stream().map_err(Error::other)?;
        let mut picture: Vec<u8> = vec![];
        for t in 0..self.frame.size() {
            let last = i32::from(picture.last().copied().unwrap_or(0));
            let ids = Tensor::from_data(TensorData::new(vec![last], [1, 1]), &self.device);
            let (logits, next) = self.model.read_on(ids, stream).map_err(Error::other)?;
            stream = next;
            let scores: Vec<f32> = logits.into_data().iter::<f32>().collect();
            picture.push(sample_token(&scores, &self.options, key, t as u64) as u8);
            if !keep_on(t) {
                return Err(Error::cancelled());
            }
        }
        Ok(picture)
    }
}

impl Sample for PictureSampler {
    /// `pictures` `[count, height, width, channel]`, bytes.
    fn sample(&mut self, count: usize, seed: u64) -> Result<NamedTensors> {
        if count == 0 {
            return Err(Error::value("the number of pictures", 0, "at least 1"));
        }
        let key = Key::new(seed).site("pictures");
        let all = (0..count as u64).map(|i| self.draw(key.fold(i), &mut |_| true));
        let bytes = all.collect::<Result<Vec<_>>>()?.concat();
        let Frame {
            height,
            width,
            channels,
        } = self.frame;
        let data = TensorData::new(bytes, [count, height, width, channels]);
        Ok(NamedTensors::from([("pictures".to_owned(), data)]))
    }
}

impl Experiment for PictureExperiment {
    fn stages(&self) -> Vec<Stage> {
        let objective = Objective::minimize(METRIC);
        vec![Stage::new("train", self.training.steps, objective)]
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        let chosen = self.batch(at.global);
        let rows = self.training.batch_size / self.training.batch_split;
        let shards = chosen.chunks(rows).map(<[_]>::to_vec).collect();
        let device = &self.device;
        update(
            &mut self.learner,
            &self.training,
            &mut self.spread,
            at,
            shards,
            |model, shard: Vec<Vec<u8>>, _, mode| answer(model, &shard, mode, device),
        )
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        let bits = |nats: f64| nats / std::f64::consts::LN_2;
        let rows = self.evaluation.batch_size;
        let (nats, spread) = self.pass(split, Mode::evaluation(), rows, cx)?;
        let mut metrics = Metrics::new().with(METRIC, bits(nats)).with("loss", nats);
        if split == Split::Test && spread.routes() && self.config.could_be_strict() {
            let strict = Mode {
                strict_causal_routing: Some(true),
                ..Mode::evaluation()
            };
            // One at a time: every position has a list of members.
            let (nats, _) = self.pass(split, strict, 1, cx)?;
            metrics.insert(format!("{METRIC}_strict"), bits(nats));
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
        let routing = Routing {
            initted: self.learner.model().initted(),
            spread: self.spread.history_only(),
        };
        to.json("routing", &routing)
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learner.restore("model", from)?;
        let routing: Routing = from.json("routing")?;
        self.spread = routing.spread;
        Ok(())
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let model = self.learner.evaluation_model();
        model.save_pretrained(dir).map_err(Error::other)
    }

    fn load_model(&mut self, dir: &Path) -> Result<()> {
        let device = self.device.clone().autodiff();
        let model = RoutingTransformerLM::from_pretrained(dir, &device).map_err(Error::other)?;
        let config = model.config();
        if config.frame() != self.config.frame() {
            let at = format!("the model in {}", dir.display());
            let expected = "a model of pictures of the recipe's size";
            return Err(Error::value(at, format!("{:?}", config.frame()), expected));
        }
        self.config = config;
        self.learner = learner(model, &self.training)?;
        Ok(())
    }

    fn parameters(&self) -> Option<usize> {
        Some(self.learner.model().num_params())
    }

    fn work_per_step(&self) -> Option<Work> {
        Some(Work {
            amount: (self.training.batch_size * self.pictures.frame.size()) as f64,
            unit: "bytes",
        })
    }

    fn summary(&self) -> Vec<(String, String)> {
        let Frame {
            height,
            width,
            channels,
        } = self.pictures.frame;
        let counts = [Split::Train, Split::Valid, Split::Test];
        let [train, valid, test] = counts.map(|s| self.pictures.split(s).len());
        let scored = [self.scored(Split::Valid), self.scored(Split::Test)];
        let data = format!(
            "{}: {train} / {valid} / {test} pictures of {height} x {width} x {channels} bytes, {} and {} of them scored",
            self.pictures.name, scored[0], scored[1]
        );
        vec![
            ("data".into(), data),
            ("model".into(), self.config.summary()),
            memory_line(&self.config, &self.training, self.pictures.frame.size()),
        ]
    }

    fn references(&self) -> Vec<Reference> {
        self.pictures.anchors(self.scored(Split::Test))
    }

    fn figures(&self) -> Vec<Figure> {
        self.spread.figures()
    }

    fn samples(&mut self, cx: &mut Context) -> Result<Vec<Sampled>> {
        const FILE: &str = "pictures.bmp";
        let seed = self.evaluation.sample.seed;
        let frame = self.pictures.frame;
        let sampler = self.picture_sampler();
        let key = Key::new(seed).site("pictures");
        let total = (DRAWN * frame.size()) as u64;
        let mut drawn = vec![];
        for i in 0..DRAWN {
            let before = i * frame.size();
            let picture = sampler.draw(key.fold(i as u64), &mut |t| {
                if t % 64 == 0 {
                    cx.progress((before + t) as u64, total, "drawing pictures");
                }
                !cx.cancelled()
            });
            drawn.push(picture?);
        }
        cx.artefact(FILE, &bitmap(&drawn, frame, ZOOM))?;
        let temperature = self.evaluation.sample.temperature;
        Ok(vec![Sampled {
            title: format!("{DRAWN} pictures at temperature {temperature}"),
            text: format!("artefacts/{FILE}"),
        }])
    }

    fn sampler(&mut self) -> Option<&mut dyn Sample> {
        Some(self.picture_sampler())
    }
}
