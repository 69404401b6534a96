//! The run: clock, stages, checkpoints, exact resume, metrics, plots and report.
//!
//! This crate knows no model. An architecture implements [`Experiment`] (what one step does, how it is measured, what its state is);
//! the runner decides when: it steps, evaluates, writes checkpoints, stops, tests, exports and reports. [`Learner`] is the ordinary
//! case of an experiment's inside: model, optimiser, schedule, clip, accumulation.
//!
//! ```
//! use burn::module::{Module, Param};
//! use burn::tensor::{Device, Tensor};
//! use std::path::Path;
//! use trainer::*;
//!
//! #[derive(Module, Debug)]
//! struct Line { slope: Param<Tensor<1>> }
//!
//! /// Learns the slope of y = 3x.
//! struct Fit { learner: Learner<Line>, device: Device, steps: u64 }
//!
//! impl Experiment for Fit {
//!     fn stages(&self) -> Vec<Stage> {
//!         vec![Stage::new("fit", self.steps, Objective::minimize("error"))]
//!     }
//!     fn train_step(&mut self, at: Step, _: &mut Context) -> Result<Scalars> {
//!         let x = at.key.site("x").uniform(0); // all randomness is a function of the step
//!         let (info, losses) = self.learner.step(at.update(), vec![x], |model, x| {
//!             let loss = (model.slope.val() * x - 3.0 * x).square();
//!             Ok((loss.clone(), loss))
//!         })?;
//!         Ok(Scalars::new().mean("loss", losses[0].clone()).value("lr", info.lr))
//!     }
//!     fn evaluate(&mut self, _: Split, _: &mut Context) -> Result<Metrics> {
//!         let slope = self.learner.evaluation_model().slope.val().into_scalar::<f32>();
//!         Ok(Metrics::new().with("error", f64::from((slope - 3.0).abs())))
//!     }
//!     fn save(&self, to: &mut CheckpointWriter) -> Result<()> { self.learner.save("line", to) }
//!     fn restore(&mut self, from: &CheckpointReader) -> Result<()> { self.learner.restore("line", from) }
//!     fn export(&self, _: &Path) -> Result<()> { Ok(()) }
//! }
//!
//! # fn main() -> Result<()> {
//! let recipe = serde_json::json!({ "architecture": "line", "training": { "steps": 60 } });
//! let recipe = Recipe::from_value(recipe, Path::new("line.json"), &[])?;
//! let device = Device::flex().autodiff();
//! let line = Line { slope: Param::from_tensor(Tensor::from_data([0.0f32], &device)) };
//! let optimizer = serde_json::from_str(r#"{ "name": "adam", "lr": 0.2 }"#).map_err(Error::other)?;
//! let learner = Learner::new(line, &optimizer, &Schedule::default(), None, None)?;
//!
//! let dir = tempfile::tempdir().map_err(Error::other)?;
//! let run = Run::create(&dir.path().join("run"), &recipe)?;
//! let outcome = run.train(&mut Fit { learner, device, steps: 60 }, Options::default())?;
//! assert!(outcome.test.get("error").is_some_and(|error| error < 0.1));
//! assert!(outcome.report.is_file());
//! # Ok(())
//! # }
//! ```

mod ability;
mod architecture;
mod checkpoint;
mod clip;
mod clock;
mod context;
mod ema;
mod environment;
mod error;
pub mod events;
mod experiment;
mod figure;
pub mod golden;
mod learner;
mod log;
mod measure;
pub mod memory;
mod optimizer;
mod paths;
pub mod plot;
mod recipe;
pub mod report;
mod run;
mod runner;
mod scalars;
mod schedule;
mod state;
pub mod task_metrics;

pub use ability::{Generate, Predict, Sample, Sampling, Score, Scoring, TokenScore, sample_token};
pub use architecture::{Architecture, Bench, BenchOptions, Conversion, Replay};
pub use checkpoint::{CheckpointReader, CheckpointWriter};
pub use clip::{clip_global_norm, global_norm};
pub use clock::{Clock, EarlyStopping, Finish};
pub use context::{Context, Level, Observer, Progress, Silent};
pub use environment::Environment;
pub use error::{Error, Result};
pub use experiment::{
    Direction, Experiment, Objective, Pretrained, Reference, Sampled, Split, Stage, Step, Work,
};
pub use figure::{Axis, Bars, Figure, Heatmap, Lines, Series, Table, Text};
pub use learner::{Learner, UpdateInfo};
pub use log::{Kind, Record};
pub use measure::{Measured, measure};
pub use optimizer::{Group, OptimizerConfig};
pub use paths::ModuleGradients;
pub use recipe::{Recipe, recipe_schema};
pub use run::{Options, Run, RunReader};
pub use runner::Outcome;
pub use scalars::{Metrics, Scalars};
pub use schedule::Schedule;
pub use state::{Best, StageResult};
