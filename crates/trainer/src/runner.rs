//! The loop of a run: it decides when to step, log, evaluate, save and stop.

use crate::checkpoint::CheckpointReader;
use crate::context::{Context, Progress};
use crate::events::EventWriter;
use crate::log::{Appender, Kind, Record};
use crate::run::{ENVIRONMENT, METRICS, Options, Run};
use crate::scalars::{self, Reading};
use crate::state::{Best, StageResult, State};
use crate::{
    Clock, Error, Experiment, Finish, Metrics, Objective, Reference, Result, Sampled, Scalars,
    Split, Stage, Step, memory, run,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The runner's own part of a checkpoint, the one name that an experiment cannot use.
const STATE: &str = "run";
const NO_STAGES: &str = "at least one stage of at least one step";

/// How a run ended; stored as `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Training steps done.
    pub steps: u64,
    /// Time spent, in seconds, all sessions together.
    pub seconds: f64,
    /// Time of a training step, in milliseconds, on average; evaluations and checkpoints do not count.
    pub ms_per_step: f64,
    /// What a step consumes per second, and its unit.
    pub work_per_second: Option<(f64, String)>,
    /// How each stage ended.
    pub stages: Vec<StageResult>,
    /// The state that was tested and exported, if it is a best one.
    pub best: Option<Best>,
    /// The result on the test split.
    pub test: Metrics,
    /// Figures to compare it with.
    pub references: Vec<Reference>,
    /// Facts about the experiment.
    pub summary: Vec<(String, String)>,
    /// Samples of the result.
    pub samples: Vec<Sampled>,
    /// The number of scalars in the weights.
    pub parameters: Option<usize>,
    /// How many tokens back the output of a language model can depend on.
    #[serde(default)]
    pub reach: Option<usize>,
    /// The most memory the process held in the last session, in bytes.
    pub peak_memory: Option<u64>,
    /// The model folder.
    pub model: PathBuf,
    /// The report.
    pub report: PathBuf,
}

pub(crate) struct Runner<'a> {
    run: &'a Run,
    experiment: &'a mut dyn Experiment,
    clock: Clock,
    stages: Vec<Stage>,
    total: u64,
    cx: Context,
    state: State,
    metrics: Appender,
    events: EventWriter,
    /// Scalars not read yet, of consecutive steps that end with the last one done.
    pending: Vec<Scalars>,
    /// The position of the last checkpoint.
    saved: Option<(usize, u64, bool, Option<u64>)>,
    last_checkpoint: Option<PathBuf>,
    session: Instant,
    /// When this process entered the stage, and at which step.
    entered: (Instant, u64),
}

impl<'a> Runner<'a> {
    pub fn start(
        run: &'a Run,
        experiment: &'a mut dyn Experiment,
        options: Options,
    ) -> Result<Self> {
        memory::reset();
        let stages = experiment.stages();
        if stages.is_empty() || stages.iter().any(|stage| stage.steps == 0) {
            let found = stages.iter().map(|s| format!("{}: {}", s.name, s.steps));
            let found = format!("[{}]", found.collect::<Vec<_>>().join(", "));
            return Err(Error::value("the list of stages", found, NO_STAGES));
        }
        run::write_json(&run.dir.join(ENVIRONMENT), &options.environment)?;
        let mut cx = Context::new(
            Some(run.dir.join("artefacts")),
            options.cancel,
            options.observer,
        )
        .with_log(run.log());
        let (state, restored) = match run.resumed {
            true => restore(run, &stages, experiment, &mut cx)?,
            false => (State::default(), None),
        };
        let events = match &state.events {
            Some((name, length)) => EventWriter::resume(&run.dir, name, *length)?,
            None => {
                for file in crate::events::files(&run.dir) {
                    std::fs::remove_file(&file).map_err(Error::io("remove", &file))?;
                }
                EventWriter::create(&run.dir)?
            }
        };
        let runner = Self {
            clock: run.recipe.clock()?,
            total: stages
                .iter()
                .fold(0, |sum, stage| stage.steps.saturating_add(sum)),
            metrics: Appender::open(&run.dir.join(METRICS), state.metrics_length)?,
            events,
            pending: Vec::new(),
            saved: restored.is_some().then(|| state.position()),
            last_checkpoint: restored,
            session: Instant::now(),
            entered: (Instant::now(), 0),
            run,
            experiment,
            stages,
            cx,
            state,
        };
        runner.run.point_to_best(runner.state.best_to_keep())?;
        Ok(runner)
    }

    pub fn run(mut self) -> Result<Outcome> {
        self.go().map_err(|error| match error {
            // An experiment that gives up does not know the checkpoint to go on from.
            Error::Cancelled { checkpoint: None } => Error::Cancelled {
                checkpoint: self.last_checkpoint.clone(),
            },
            error => error,
        })
    }

    fn go(&mut self) -> Result<Outcome> {
        while let Some(stage) = self.stages.get(self.state.stage).cloned() {
            self.stage(&stage)?;
        }
        self.finish()
    }

    fn stage(&mut self, stage: &Stage) -> Result<()> {
        let index = self.state.stage;
        if !self.state.begun {
            self.experiment.begin_stage(index, &mut self.cx)?;
            self.state.begun = true;
        }
        let (of, done) = (self.stages.len(), self.state.step);
        self.cx.observer().stage(index, of, stage, done);
        self.entered = (Instant::now(), done);
        loop {
            let step = self.state.step;
            let evaluation_due = stage.objective.is_some()
                && (step >= stage.steps || self.clock.evaluates(step, stage.steps))
                && self.state.evaluated != Some(step);
            let mut improved = false;
            if let (Some(objective), true) = (&stage.objective, evaluation_due) {
                self.flush(stage, true)?;
                match self.evaluate(stage, objective) {
                    Ok(better) => improved = better,
                    Err(Error::Cancelled { .. }) => return self.cancel(stage),
                    Err(error) => return Err(error),
                }
            }
            let done = step >= stage.steps || self.state.stopped_early;
            let due = done || improved || self.clock.checkpoints(step, stage.steps);
            if due && self.saved != Some(self.state.position()) {
                self.flush(stage, done)?;
                self.checkpoint()?;
            }
            if done {
                break;
            }
            if self.cx.cancelled() {
                return self.cancel(stage);
            }
            self.train_step(stage)?;
        }
        self.end_stage(stage)
    }

    fn train_step(&mut self, stage: &Stage) -> Result<()> {
        let state = &mut self.state;
        let at = Step::new(self.run.recipe.seed, state.stage, state.step, state.global);
        let start = Instant::now();
        // A step that fails or gives up half-way leaves a state that no checkpoint may hold.
        let scalars = self.experiment.train_step(at, &mut self.cx)?;
        self.pending.push(scalars);
        state.step += 1;
        state.global += 1;
        let log = state.step.is_multiple_of(self.clock.log_every);
        if log {
            self.flush(stage, true)?;
        }
        self.state.training_seconds += start.elapsed().as_secs_f64();
        let rate = self.rate();
        let left = self.total.saturating_sub(self.state.global) as f64;
        let progress = Progress {
            stage: &stage.name,
            step: self.state.step,
            steps: stage.steps,
            global: self.state.global,
            total: self.total,
            steps_per_second: rate,
            remaining: Duration::try_from_secs_f64(left / rate).ok(),
            work_per_second: self
                .experiment
                .work_per_step()
                .map(|work| (work.amount * rate, work.unit)),
        };
        self.cx.observer().step(&progress);
        Ok(())
    }

    /// Steps per second since this process entered the stage.
    fn rate(&self) -> f64 {
        let (since, from) = self.entered;
        let steps = self.state.step.saturating_sub(from);
        steps as f64 / since.elapsed().as_secs_f64().max(1e-9)
    }

    /// Reads the scalars that are still on the device, checks them, and writes a line of the log if `write` says so.
    fn flush(&mut self, stage: &Stage, write: bool) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let count = pending.len() as u64;
        let last = self.state.global;
        for (i, readings) in (0u64..).zip(scalars::read(pending)?) {
            for reading in readings {
                if !reading.value.is_finite() {
                    return Err(self.not_finite(reading, last - count + 1 + i, last - count + 1));
                }
                self.state.window.add(reading);
            }
        }
        if !write || self.state.window.is_empty() {
            return Ok(());
        }
        let values = self.state.window.take();
        self.record(stage, Kind::Train, Some(Split::Train), values)?;
        let mut times = Metrics::new()
            .with("steps_per_second", self.rate())
            .with("seconds", self.seconds());
        if let Some(work) = self.experiment.work_per_step() {
            let name = format!("{}_per_second", work.unit);
            times.insert(name, work.amount * self.rate());
        }
        self.record(stage, Kind::Time, None, times)
    }

    fn not_finite(&self, reading: Reading, step: u64, first: u64) -> Error {
        Error::NotFinite {
            scalar: reading.name,
            value: reading.value,
            step,
            first,
            last: self.state.global,
            checkpoint: self.last_checkpoint.clone(),
        }
    }

    fn record(
        &mut self,
        stage: &Stage,
        kind: Kind,
        split: Option<Split>,
        values: Metrics,
    ) -> Result<()> {
        let record = Record {
            kind,
            stage: stage.name.clone(),
            split,
            step: self.state.global,
            values,
        };
        let mut line = serde_json::to_vec(&record).map_err(Error::other)?;
        line.push(b'\n');
        self.metrics.append(&line)?;
        let group = split.map_or("time", Split::name);
        let tags: Vec<(String, f64)> = record
            .values
            .iter()
            .map(|(name, value)| (format!("{group}/{name}"), value))
            .collect();
        let tags = tags.iter().map(|(tag, value)| (tag.as_str(), *value));
        self.events.scalars(record.step, tags)?;
        self.cx.observer().record(&record);
        Ok(())
    }

    /// Evaluates on the validation split and says whether the objective is the best so far.
    fn evaluate(&mut self, stage: &Stage, objective: &Objective) -> Result<bool> {
        let metrics = self.experiment.evaluate(Split::Valid, &mut self.cx)?;
        let Some(value) = metrics.get(&objective.metric) else {
            let known: Vec<&str> = metrics.iter().map(|(name, _)| name).collect();
            return Err(Error::Objective {
                stage: stage.name.clone(),
                metric: objective.metric.clone(),
                known: match known.as_slice() {
                    [] => "no metrics".to_owned(),
                    known => known.join(", "),
                },
            });
        };
        let split = Some(Split::Valid);
        self.record(stage, Kind::Evaluation, split, metrics.clone())?;
        let state = &mut self.state;
        state.valid = metrics;
        state.evaluated = Some(state.step);
        let improved = state.judge(stage, objective, value);
        if let Some(early) = &self.clock.early_stopping
            && state.wait(objective, value, early)
        {
            state.stopped_early = true;
            let text = format!(
                "stage `{}` stops at step {}: no better {} in {} evaluations",
                stage.name, state.step, objective.metric, early.patience
            );
            self.cx.message(&text);
        }
        Ok(improved)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.state.metrics_length = self.metrics.sync()?;
        self.state.events = Some((self.events.name().to_owned(), self.events.sync()?));
        let mut state = self.state.clone();
        state.seconds = self.seconds();
        let checkpoints = &self.run.checkpoints;
        let path = checkpoints.write(self.state.global, |to| {
            to.json(STATE, &state)?;
            self.experiment.save(to)
        })?;
        self.last_checkpoint = Some(path);
        self.saved = Some(self.state.position());
        let best = self.state.best_to_keep();
        self.run.point_to_best(best)?;
        checkpoints.prune(self.clock.keep_checkpoints, best)
    }

    fn cancel(&mut self, stage: &Stage) -> Result<()> {
        self.flush(stage, false)?;
        if self.saved != Some(self.state.position()) {
            self.checkpoint()?;
        }
        Err(Error::Cancelled {
            checkpoint: self.last_checkpoint.clone(),
        })
    }

    fn end_stage(&mut self, stage: &Stage) -> Result<()> {
        let best = self.state.best.clone();
        if let (Finish::Best, Some(best)) = (self.clock.finish_with, &best)
            && best.step != self.state.global
        {
            let dir = self.run.checkpoints.path(best.step);
            match CheckpointReader::open(&dir) {
                Ok(from) => self.experiment.restore(&from)?,
                Err(error) => self.cx.warning(&format!(
                    "the stage goes on from its last state, because its best is damaged: {error}"
                )),
            }
        }
        self.state.next_stage(stage);
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.state.seconds + self.session.elapsed().as_secs_f64()
    }

    /// Tests, exports and reports.
    fn finish(&mut self) -> Result<Outcome> {
        let test = self.experiment.evaluate(Split::Test, &mut self.cx)?;
        if let (Some(last), false) = (self.stages.last().cloned(), test.is_empty()) {
            self.record(&last, Kind::Evaluation, Some(Split::Test), test.clone())?;
        }
        let model = self.export()?;
        let samples = self.experiment.samples(&mut self.cx)?;
        let state = &self.state;
        let ms_per_step = 1e3 * state.training_seconds / state.global.max(1) as f64;
        let best = match self.clock.finish_with {
            Finish::Best => state.stages.last().and_then(|stage| stage.best.clone()),
            Finish::Last => None,
        };
        let outcome = Outcome {
            steps: state.global,
            seconds: self.seconds(),
            ms_per_step,
            work_per_second: self.experiment.work_per_step().map(|work| {
                (
                    work.amount * 1e3 / ms_per_step.max(1e-9),
                    work.unit.to_owned(),
                )
            }),
            stages: state.stages.clone(),
            best,
            test,
            references: self.experiment.references(),
            summary: self.experiment.summary(),
            samples,
            parameters: self.experiment.parameters(),
            reach: self.experiment.reach(),
            peak_memory: memory::peak(),
            model,
            report: self.run.dir.join(run::REPORT),
        };
        self.metrics.sync()?;
        self.events.sync()?;
        run::write_json(&self.run.dir.join(run::FIGURES), &self.experiment.figures())?;
        run::write_json(&self.run.dir.join(run::RESULTS), &outcome)?;
        crate::report::write(&self.run.dir)?;
        Ok(outcome)
    }

    /// Writes the model folder beside its place, then moves it there.
    fn export(&self) -> Result<PathBuf> {
        let place = self.run.dir.join("model");
        let new = self.run.dir.join(".new-model");
        if new.exists() {
            std::fs::remove_dir_all(&new).map_err(Error::io("remove", &new))?;
        }
        std::fs::create_dir_all(&new).map_err(Error::io("create the folder", &new))?;
        self.experiment.export(&new)?;
        if place.exists() {
            std::fs::remove_dir_all(&place).map_err(Error::io("replace", &place))?;
        }
        std::fs::rename(&new, &place).map_err(Error::io("put into place", &place))?;
        Ok(place)
    }
}

/// Takes up the last whole checkpoint: the runner's state and where it came from, or a fresh state if there is none.
fn restore(
    run: &Run,
    stages: &[Stage],
    experiment: &mut dyn Experiment,
    cx: &mut Context,
) -> Result<(State, Option<PathBuf>)> {
    let (found, damaged) = run.checkpoints.latest()?;
    for (step, reason) in damaged {
        cx.warning(&format!(
            "the checkpoint step-{step} is damaged and left out: {reason}"
        ));
        run.checkpoints.remove(step)?;
    }
    let Some((step, from)) = found else {
        cx.message("there is no checkpoint yet: the run starts from its first step");
        return Ok((State::default(), None));
    };
    let state: State = from.json(STATE)?;
    let known = stages.get(state.stage).map(|stage| stage.steps);
    if known.is_none() || state.global != step {
        return Err(Error::State {
            what: from.dir().display().to_string(),
            problems: format!("it was written in stage {} of another run", state.stage),
        });
    }
    experiment.restore(&from)?;
    cx.message(&format!("resumed from step {step}"));
    Ok((state, Some(from.dir().to_path_buf())))
}
