//! When a run logs, evaluates, writes checkpoints and stops.

use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The cadence of a run, the section `training.clock` of a recipe.
///
/// All intervals are counted in steps of the current stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// Read and log the training scalars every so many steps.
    pub log_every: u64,
    /// Evaluate on the validation split every so many steps, and at the end of each stage; absent: at the end only.
    pub evaluate_every: Option<u64>,
    /// Write a checkpoint every so many steps; absent: with every evaluation. One is always written at the end of a stage.
    pub checkpoint_every: Option<u64>,
    /// How many of the latest checkpoints to keep; the best one is kept besides.
    pub keep_checkpoints: usize,
    /// Stop a stage when its objective no longer improves.
    pub early_stopping: Option<EarlyStopping>,
    /// Which weights a stage ends with.
    pub finish_with: Finish,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            log_every: 10,
            evaluate_every: None,
            checkpoint_every: None,
            keep_checkpoints: 2,
            early_stopping: None,
            finish_with: Finish::Best,
        }
    }
}

/// Stops a stage after `patience` evaluations without an improvement by more than `min_delta`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Evaluations to wait for an improvement.
    pub patience: u64,
    /// How much better the objective must become to count as improved.
    #[serde(default)]
    pub min_delta: f64,
}

/// Which state a stage ends with, and therefore what is tested and exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The state with the best objective on the validation split.
    Best,
    /// The state after the last step.
    Last,
}

impl Clock {
    /// Checks that every interval is positive; `at` is the path of this section in the recipe.
    ///
    /// # Errors
    /// [`Error::Value`] naming the first interval that is zero or the first threshold that is negative.
    pub fn validate(&self, at: &str) -> Result<()> {
        let intervals = [
            ("log_every", Some(self.log_every)),
            ("evaluate_every", self.evaluate_every),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", Some(self.keep_checkpoints as u64)),
            (
                "early_stopping.patience",
                self.early_stopping.as_ref().map(|e| e.patience),
            ),
        ];
        for (name, value) in intervals {
            if value == Some(0) {
                return Err(Error::value(format!("{at}.{name}"), 0, "at least 1"));
            }
        }
        if let Some(early) = &self.early_stopping
            && !(early.min_delta >= 0.0 && early.min_delta.is_finite())
        {
            return Err(Error::value(
                format!("{at}.early_stopping.min_delta"),
                early.min_delta,
                "a number of at least 0",
            ));
        }
        Ok(())
    }

    /// Whether an evaluation is due after `step` steps of a stage of `steps`.
    pub(crate) fn evaluates(&self, step: u64, steps: u64) -> bool {
        step == steps || due(self.evaluate_every, step)
    }

    /// Whether a checkpoint is due after `step` steps of a stage of `steps`.
    pub(crate) fn checkpoints(&self, step: u64, steps: u64) -> bool {
        match self.checkpoint_every {
            None => self.evaluates(step, steps),
            every => step == steps || due(every, step),
        }
    }
}

fn due(every: Option<u64>, step: u64) -> bool {
    step > 0 && every.is_some_and(|every| step.is_multiple_of(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_count_steps_and_always_include_the_end() {
        let clock = Clock {
            evaluate_every: Some(4),
            ..Clock::default()
        };
        let due: Vec<u64> = (0..=10).filter(|&s| clock.evaluates(s, 10)).collect();
        assert_eq!(due, [4, 8, 10]);
        let with_evaluation: Vec<u64> = (0..=10).filter(|&s| clock.checkpoints(s, 10)).collect();
        assert_eq!(with_evaluation, due);
        let own = Clock {
            checkpoint_every: Some(5),
            ..clock
        };
        let saved: Vec<u64> = (0..=11).filter(|&s| own.checkpoints(s, 11)).collect();
        assert_eq!(saved, [5, 10, 11]);
    }

    #[test]
    fn zero_intervals_are_refused_by_name() {
        let clock = Clock {
            keep_checkpoints: 0,
            ..Clock::default()
        };
        let error = clock.validate("training.clock").unwrap_err().to_string();
        assert_eq!(
            error,
            "training.clock.keep_checkpoints is 0, expected at least 1"
        );
    }
}
