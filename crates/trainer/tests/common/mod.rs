//! A small experiment with everything that makes a resume hard: a carried state, noise that depends on the step, momentum,
//! averaged weights, two stages of which the second reads what the first left behind.
#![allow(dead_code)] // each test program uses a part of this

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use pretrained::NamedTensors;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use trainer::*;

/// The CPU backends that are compiled in.
pub fn devices() -> Vec<Device> {
    vec![
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        {
            #[allow(deprecated)] // the second, independent CPU implementation
            Device::ndarray()
        },
    ]
}

#[derive(Module, Debug)]
pub struct Net {
    pub hidden: Inner,
    pub bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
pub struct Inner {
    pub weight: Param<Tensor<2>>,
}

impl Net {
    /// A network of `[4, 3]` weights and 3 biases with values that follow from `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        let key = core_attn::random::Key::new(seed);
        let values = |site: &str, n: u64| -> Vec<f32> {
            (0..n).map(|i| key.site(site).normal(i) as f32).collect()
        };
        let weight = TensorData::new(values("weight", 12), [4, 3]);
        let bias = TensorData::new(values("bias", 3), [3]);
        Self {
            hidden: Inner {
                weight: Param::from_tensor(Tensor::from_data(weight, device)),
            },
            bias: Param::from_tensor(Tensor::from_data(bias, device)),
        }
    }
}

/// What should go wrong, and after how many steps of the whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The process dies in a training step.
    DieInStep(u64),
    /// The process dies while a checkpoint is written.
    DieInSave(u64),
    /// The process dies in an evaluation.
    DieInEvaluation(u64),
    /// The loss is NaN.
    NanLoss(u64),
    /// The user presses Ctrl-C.
    Cancel(u64),
    /// The user presses Ctrl-C during an evaluation that heeds it.
    CancelInEvaluation(u64),
    /// The validation metric only gets worse from here on.
    Worsen(u64),
}

pub struct Toy {
    learner: Learner<Net>,
    device: Device,
    memory: Tensor<1>,
    cursor: u64,
    done: u64,
    stages: Vec<Stage>,
    prefix: String,
    pub faults: Vec<Fault>,
    pub cancel: Arc<AtomicBool>,
}

pub const DEATH: &str = "the process dies here";

impl Toy {
    pub fn open(recipe: &Recipe, device: &Device) -> Result<Self> {
        let device = device.clone().autodiff();
        let steps = recipe.training["steps"].as_u64().unwrap_or(0);
        let optimizer: OptimizerConfig =
            serde_json::from_value(recipe.training["optimizer"].clone()).map_err(Error::other)?;
        let schedule: Schedule =
            serde_json::from_value(recipe.training["schedule"].clone()).map_err(Error::other)?;
        let net = Net::new(recipe.seed, &device);
        Ok(Self {
            learner: Learner::new(net, &optimizer, &schedule, Some(0.5), Some(0.9))?,
            memory: Tensor::zeros([3], &device.clone().without_autodiff()),
            device,
            cursor: 0,
            done: 0,
            stages: vec![
                Stage::new("warm", steps / 4, Objective::minimize("error")),
                Stage::new("main", steps - steps / 4, Objective::minimize("error")),
            ],
            prefix: String::new(),
            faults: Vec::new(),
            cancel: Arc::default(),
        })
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn dies(&self, fault: Fault) -> Result<()> {
        match self.has(fault) {
            true => Err(Error::other(DEATH)),
            false => Ok(()),
        }
    }

    pub fn weights(&self) -> Vec<u8> {
        let net = self.learner.model();
        let mut bytes = net.hidden.weight.val().into_data().as_bytes().to_vec();
        bytes.extend(net.bias.val().into_data().as_bytes());
        bytes.extend(self.memory.to_data().as_bytes());
        let mean = self.learner.evaluation_model();
        bytes.extend(mean.bias.val().into_data().as_bytes());
        bytes.extend(self.cursor.to_le_bytes());
        bytes.extend(self.prefix.as_bytes());
        bytes
    }
}

impl Experiment for Toy {
    fn stages(&self) -> Vec<Stage> {
        self.stages.clone()
    }

    fn begin_stage(&mut self, stage: usize, cx: &mut Context) -> Result<()> {
        if stage == 0 {
            return cx.artefact("found.txt", b"from the first stage");
        }
        self.prefix = String::from_utf8_lossy(&cx.read_artefact("found.txt")?).into_owned();
        Ok(())
    }

    fn train_step(&mut self, at: Step, _cx: &mut Context) -> Result<Scalars> {
        self.dies(Fault::DieInStep(self.done))?;
        if self.has(Fault::Cancel(self.done)) {
            self.cancel.store(true, Ordering::Relaxed);
        }
        let noise = at.key.site("noise");
        let x: Vec<f32> = (0..8)
            .map(|i| noise.normal(i) as f32 + self.cursor as f32 * 0.01)
            .collect();
        let x = Tensor::<2>::from_data(TensorData::new(x, [2, 4]), &self.device);
        let shards: Vec<Tensor<2>> = x.chunk(2, 0);
        let memory = Tensor::from_inner(self.memory.clone());
        let poison = if self.has(Fault::NanLoss(self.done)) {
            f32::NAN
        } else {
            1.0
        };
        let (info, parts) = self.learner.step(at.global + 1, shards, |net, x| {
            let y = x.matmul(net.hidden.weight.val()).squeeze_dim::<1>(0) + net.bias.val();
            let loss = (y.clone() - memory.clone())
                .square()
                .mean()
                .mul_scalar(poison);
            Ok((loss.clone(), (loss.detach(), y.inner())))
        })?;
        self.learner.update_model(|net| Net {
            bias: net.bias.map(|b| {
                let clamped = b.clone().inner().clamp(-1.0, 1.0);
                Tensor::from_inner(clamped).set_require_grad(b.is_require_grad())
            }),
            ..net
        });
        let mut scalars = Scalars::new().value("lr", info.lr);
        let mut sum = None;
        for (loss, y) in parts {
            self.memory = self.memory.clone().mul_scalar(0.9) + y.mul_scalar(0.05);
            sum = Some(match sum {
                None => loss,
                Some(sum) => sum + loss,
            });
        }
        if let Some(loss) = sum {
            scalars.add_mean("loss", loss);
        }
        self.cursor = (self.cursor + 3) % 7;
        self.done += 1;
        Ok(scalars)
    }

    fn evaluate(&mut self, split: Split, cx: &mut Context) -> Result<Metrics> {
        self.dies(Fault::DieInEvaluation(self.done))?;
        if self.has(Fault::CancelInEvaluation(self.done)) {
            self.cancel.store(true, Ordering::Relaxed);
        }
        if cx.cancelled() {
            return Err(Error::cancelled());
        }
        let net = self.learner.evaluation_model();
        let error = net.bias.val().square().sum() + net.hidden.weight.val().square().mean();
        let mut error = f64::from(error.into_scalar::<f32>());
        let worsens = |fault: &Fault| matches!(fault, Fault::Worsen(from) if self.done >= *from);
        if self.faults.iter().any(worsens) {
            error = 1000.0 + self.done as f64;
        }
        let error = if split == Split::Test {
            error + 0.5
        } else {
            error
        };
        Ok(Metrics::new().with("error", error))
    }

    fn save(&self, to: &mut CheckpointWriter) -> Result<()> {
        self.learner.save("net", to)?;
        self.dies(Fault::DieInSave(self.done))?;
        let memory = NamedTensors::from([("memory".to_owned(), self.memory.to_data())]);
        to.tensors("memory", memory)?;
        to.json("toy", &json!([self.cursor, self.done, self.prefix]))
    }

    fn restore(&mut self, from: &CheckpointReader) -> Result<()> {
        self.learner.restore("net", from)?;
        let device = self.device.clone().without_autodiff();
        let memory = from
            .tensors("memory")?
            .remove("memory")
            .unwrap_or_else(|| TensorData::from([0f32; 3]));
        self.memory = Tensor::from_data(memory, &device);
        (self.cursor, self.done, self.prefix) = from.json("toy")?;
        Ok(())
    }

    fn export(&self, dir: &Path) -> Result<()> {
        std::fs::write(dir.join("weights.bin"), self.weights()).map_err(Error::io("write", dir))
    }

    fn parameters(&self) -> Option<usize> {
        Some(15)
    }

    fn work_per_step(&self) -> Option<Work> {
        Some(Work {
            amount: 2.0,
            unit: "rows",
        })
    }

    fn references(&self) -> Vec<Reference> {
        vec![Reference {
            name: "guessing".to_owned(),
            metric: "error".to_owned(),
            value: 7.25,
        }]
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::Table(Table {
            title: "memory <at the end>".to_owned(),
            columns: vec!["a".to_owned()],
            rows: vec![vec!["b & c".to_owned()]],
        })]
    }

    fn samples(&mut self, _cx: &mut Context) -> Result<Vec<Sampled>> {
        Ok(vec![Sampled {
            title: "a sample".to_owned(),
            text: "<call me Ishmael>".to_owned(),
        }])
    }
}

/// A recipe of `steps` steps; `clock` replaces its clock.
pub fn recipe(steps: u64, clock: Value) -> Recipe {
    let value = json!({
        "architecture": "toy", "seed": 5, "expected": { "test.error": 1.5 },
        "training": {
            "steps": steps,
            "optimizer": { "name": "adam", "lr": 0.05, "groups": [{ "match": "bias$", "lr_scale": 2.0 }] },
            "schedule": { "name": "cosine", "warmup": 5, "steps": 100 },
            "clock": clock,
        },
    });
    Recipe::from_value(value, Path::new("configs/toy/quickstart.json"), &[]).expect("a recipe")
}

/// The default clock of these tests: nothing falls together.
pub fn clock() -> Value {
    json!({ "log_every": 4, "evaluate_every": 6, "checkpoint_every": 5, "finish_with": "last" })
}

pub fn options(toy: &Toy) -> Options {
    Options {
        cancel: toy.cancel.clone(),
        ..Options::default()
    }
}

/// Starts or resumes a run in `dir` with faults.
pub fn train(dir: &Path, recipe: &Recipe, device: &Device, faults: &[Fault]) -> Result<Outcome> {
    let mut toy = Toy::open(recipe, device)?;
    toy.faults = faults.to_vec();
    let run = match dir.exists() {
        true => Run::resume(dir, recipe)?,
        false => Run::create(dir, recipe)?,
    };
    let options = options(&toy);
    run.train(&mut toy, options)
}

/// What two runs of one recipe must share: the model, the last checkpoint's state of the experiment, and all records but times.
pub fn traces(dir: &Path) -> (Vec<u8>, Vec<Vec<u8>>, Vec<String>, Vec<u64>) {
    let read =
        |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let run = RunReader::open(dir).expect("a run folder");
    let last = run
        .latest_checkpoint()
        .expect("readable")
        .expect("a checkpoint")
        .1;
    let parts = [
        "net.safetensors",
        "net.optimizer.safetensors",
        "net.optimizer.json",
        "net.ema.safetensors",
        "memory.safetensors",
        "toy.json",
    ];
    let state = parts.map(|part| read(&last.dir().join(part))).to_vec();
    let metrics = String::from_utf8(read(&dir.join("metrics.jsonl"))).expect("text");
    let records = metrics
        .lines()
        .filter(|line| !line.contains("\"kind\":\"time\""));
    let records = records.map(str::to_owned).collect();
    (
        read(&dir.join("model/weights.bin")),
        state,
        records,
        event_lengths(dir),
    )
}

/// The lengths of the frames of the only event file.
pub fn event_lengths(dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let mut files = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains("tfevents"));
    let bytes = std::fs::read(files.next().expect("an event file")).expect("readable");
    assert!(files.next().is_none(), "one event file only");
    let (mut at, mut lengths) = (0, Vec::new());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        lengths.push(length);
        at += 16 + length as usize;
    }
    assert_eq!(at, bytes.len(), "the file ends with a whole frame");
    lengths
}
