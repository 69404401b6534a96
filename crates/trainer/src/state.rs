//! What the runner itself remembers from step to step; it goes into every checkpoint.

use crate::scalars::Reading;
use crate::{EarlyStopping, Metrics, Objective, Stage};
use serde::{Deserialize, Serialize};

/// The state with the best objective of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The stage.
    pub stage: String,
    /// The number of steps of the whole run after which it was reached; its checkpoint is `step-N`.
    pub step: u64,
    /// The metric it was judged by.
    pub metric: String,
    /// Its value.
    pub value: f64,
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageResult {
    /// The stage.
    pub name: String,
    /// Steps done.
    pub steps: u64,
    /// Whether it stopped before its last step, because its objective no longer improved.
    pub stopped_early: bool,
    /// Its best state.
    pub best: Option<Best>,
    /// Its last evaluation on the validation split.
    pub valid: Metrics,
}

/// Where the run is, and everything that decides what happens next.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub stage: usize,
    /// Steps done of the stage.
    pub step: u64,
    /// Steps done of the run.
    pub global: u64,
    /// Whether the experiment knows that the stage has begun.
    pub begun: bool,
    /// The step of the stage at which it was evaluated last.
    pub evaluated: Option<u64>,
    pub best: Option<Best>,
    pub stopped_early: bool,
    /// The last evaluation.
    pub valid: Metrics,
    /// The value early stopping compares with, and for how many evaluations it has stood.
    waiting: Option<(f64, u64)>,
    pub window: Window,
    pub stages: Vec<StageResult>,
    pub metrics_length: u64,
    pub events: Option<(String, u64)>,
    pub seconds: f64,
    pub training_seconds: f64,
}

impl State {
    /// What distinguishes two states worth a checkpoint of their own.
    pub fn position(&self) -> (usize, u64, bool, Option<u64>) {
        (self.stage, self.step, self.begun, self.evaluated)
    }

    /// Notes a new value of the objective; whether it is the best of the stage.
    pub fn judge(&mut self, stage: &Stage, objective: &Objective, value: f64) -> bool {
        let better = match &self.best {
            Some(best) => objective.direction.improves(value, best.value, 0.0),
            None => value.is_finite(),
        };
        if better {
            self.best = Some(Best {
                stage: stage.name.clone(),
                step: self.global,
                metric: objective.metric.clone(),
                value,
            });
        }
        better
    }

    /// Notes a new value of the objective; whether the stage has waited long enough for a better one.
    pub fn wait(&mut self, objective: &Objective, value: f64, early: &EarlyStopping) -> bool {
        let improved = match self.waiting {
            Some((old, _)) => objective.direction.improves(value, old, early.min_delta),
            None => value.is_finite(),
        };
        if improved {
            self.waiting = Some((value, 0));
            return false;
        }
        // A stage whose first values are not finite has nothing to compare with yet: it waits all the same.
        let (old, waited) = self.waiting.unwrap_or_else(|| {
            let worst = match objective.direction {
                crate::Direction::Minimize => f64::MAX,
                crate::Direction::Maximize => f64::MIN,
            };
            (worst, 0)
        });
        self.waiting = Some((old, waited + 1));
        waited + 1 >= early.patience
    }

    /// The step whose checkpoint must not be pruned.
    pub fn best_to_keep(&self) -> Option<u64> {
        let before = || {
            self.stages
                .iter()
                .rev()
                .find_map(|stage| stage.best.as_ref())
        };
        self.best.as_ref().or_else(before).map(|best| best.step)
    }

    /// Files the stage and turns to the next.
    pub fn next_stage(&mut self, stage: &Stage) {
        self.stages.push(StageResult {
            name: stage.name.clone(),
            steps: self.step,
            stopped_early: self.stopped_early && self.step < stage.steps,
            best: self.best.take(),
            valid: std::mem::take(&mut self.valid),
        });
        self.stage += 1;
        self.step = 0;
        self.begun = false;
        self.evaluated = None;
        self.stopped_early = false;
        self.waiting = None;
    }
}

/// The scalars since the last line of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Window(Vec<Sum>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sum {
    name: String,
    sum: f64,
    count: u64,
    last: f64,
    averaged: bool,
}

impl Window {
    pub fn add(&mut self, reading: Reading) {
        let index = match self.0.iter().position(|s| s.name == reading.name) {
            Some(index) => index,
            None => {
                self.0.push(Sum {
                    name: reading.name,
                    sum: 0.0,
                    count: 0,
                    last: 0.0,
                    averaged: reading.averaged,
                });
                self.0.len() - 1
            }
        };
        let sum = &mut self.0[index];
        sum.sum += reading.value;
        sum.count += 1;
        sum.last = reading.value;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self) -> Metrics {
        let sums = std::mem::take(&mut self.0).into_iter();
        sums.map(|s| match s.averaged {
            true => (s.name, s.sum / s.count as f64),
            false => (s.name, s.last),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective() -> (Stage, Objective) {
        let objective = Objective::minimize("loss");
        (Stage::new("train", 9, objective.clone()), objective)
    }

    #[test]
    fn the_best_is_the_first_of_equals_and_never_nan() {
        let (stage, objective) = objective();
        let mut state = State::default();
        let judged: Vec<bool> = [f64::NAN, 2.0, 2.0, f64::NAN, 1.5, 1.7]
            .into_iter()
            .map(|value| state.judge(&stage, &objective, value))
            .collect();
        assert_eq!(judged, [false, true, false, false, true, false]);
        assert_eq!(state.best.map(|b| b.value), Some(1.5));
    }

    #[test]
    fn patience_counts_evaluations_without_enough_improvement() {
        let (_, objective) = objective();
        let early = EarlyStopping {
            patience: 2,
            min_delta: 0.1,
        };
        let mut state = State::default();
        let stops: Vec<bool> = [3.0, 2.95, 2.8, 2.75, 2.71]
            .into_iter()
            .map(|value| state.wait(&objective, value, &early))
            .collect();
        assert_eq!(stops, [false, false, false, false, true]);
        let mut state = State::default();
        let nan = [f64::NAN, f64::NAN].map(|value| state.wait(&objective, value, &early));
        assert_eq!(nan, [false, true]);
        // The state must survive JSON, which has no infinity.
        let text = serde_json::to_string(&state).expect("JSON");
        let back: State = serde_json::from_str(&text).expect("a state");
        assert_eq!(back.waiting, state.waiting);
    }

    #[test]
    fn windows_average_tensors_and_keep_the_last_number() {
        let mut window = Window::default();
        for value in [1.0, 4.0] {
            for averaged in [true, false] {
                window.add(Reading {
                    name: if averaged { "loss" } else { "lr" }.to_owned(),
                    value,
                    averaged,
                });
            }
        }
        let values = window.take();
        assert_eq!(
            (values.get("loss"), values.get("lr")),
            (Some(2.5), Some(4.0))
        );
        assert!(window.is_empty());
    }
}
