//! When parameters move: the paper's learning rate, and updates that become rarer (section 5 of the paper).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trainer::{Error, Result, Schedule};

/// Lowest learning rate of the paper's schedule.
const LOW: f64 = 1e-6;
/// Highest learning rate of the paper's schedule.
const HIGH: f64 = 3e-4;

/// The paper's learning rate: a line from 1e−6 to 3e−4 over `warmup` chunks, then half a cosine back over `decay` more.
///
/// Returns the base rate and the schedule; chunk `s`, counted from 0, is update `s + 1`.
pub fn paper_schedule(warmup: u64, decay: u64) -> (f64, Schedule) {
    let schedule = Schedule::Cosine {
        warmup,
        warmup_from: LOW,
        from_zero: true,
        steps: Some(warmup + decay),
        end_lr: LOW,
    };
    (HIGH, schedule)
}

/// From a step on, gradients of so many successive chunks are averaged before each update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateRule {
    /// The first step, counted from 0, for which this holds.
    pub from_step: u64,
    /// Chunks per update.
    pub every: u64,
}

/// How often parameters are updated. Memories move on with every chunk all the same.
///
/// Rarer updates take the place of a smaller learning rate: a model that relies on its memories is adapted by its own updates while
/// it reads, and loses when they become tiny.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct UpdateSchedule(pub Vec<UpdateRule>);

impl Default for UpdateSchedule {
    fn default() -> Self {
        Self(vec![UpdateRule {
            from_step: 0,
            every: 1,
        }])
    }
}

impl UpdateSchedule {
    /// Every chunk at first, every `every` chunks from step `after` on.
    pub fn after(after: u64, every: u64) -> Self {
        let rule = |from_step, every| UpdateRule { from_step, every };
        Self(vec![rule(0, 1), rule(after, every)])
    }

    /// The rule that holds at a step.
    fn rule(&self, step: u64) -> UpdateRule {
        let mut rules = self.0.iter().rev();
        let found = rules.find(|rule| rule.from_step <= step).copied();
        found.unwrap_or(UpdateRule {
            from_step: 0,
            every: 1,
        })
    }

    /// Whether the parameters are updated at a step, counted from 0.
    pub fn applies(&self, step: u64) -> bool {
        let UpdateRule { from_step, every } = self.rule(step);
        let every = every.max(1);
        (step - from_step) % every == every - 1
    }

    /// Checks that the rules rise and each updates at some time.
    ///
    /// # Errors
    /// The first rule that does not.
    pub fn validate(&self, at: &str) -> Result<()> {
        for (i, rule) in self.0.iter().enumerate() {
            if rule.every == 0 {
                return Err(Error::value(format!("{at}.{i}.every"), 0, "at least 1"));
            }
            let before = i.checked_sub(1).map(|i| self.0[i].from_step);
            if before.is_some_and(|before| before >= rule.from_step) {
                return Err(Error::value(
                    format!("{at}.{i}.from_step"),
                    rule.from_step,
                    "a step after that of the rule before",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_cannot_be_are_refused() {
        let rule = |from_step, every| UpdateRule { from_step, every };
        assert!(UpdateSchedule::default().validate("u").is_ok());
        assert!(UpdateSchedule(vec![rule(0, 0)]).validate("u").is_err());
        let falling = UpdateSchedule(vec![rule(5, 1), rule(5, 2)]);
        let message = falling
            .validate("training.update_every")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("training.update_every.1.from_step"),
            "{message}"
        );
    }
}
