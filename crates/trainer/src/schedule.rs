//! Learning rates as pure functions of the number of the update: there is nothing to save and nothing to restore.

use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate moves.
///
/// Updates are counted k = 1, 2, … Every schedule but `noam` warms up linearly, `from + (lr − from)·k/warmup` while `k < warmup`;
/// for `constant` that is `lr·min(1, k/warmup)`. With `from_zero` the count starts at 0 instead, as in Hugging Face's and fairseq's
/// schedulers, so that the first update has the rate `warmup_from`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// The rate stays what it is after the warm-up.
    Constant {
        /// Updates until the full rate is reached.
        #[serde(default)]
        warmup: u64,
        /// The rate the warm-up starts from.
        #[serde(default)]
        warmup_from: f64,
        /// Count updates from 0.
        #[serde(default)]
        from_zero: bool,
    },
    /// Falls in a line to `end_lr` at update `steps`.
    Linear {
        /// Updates until the full rate is reached.
        #[serde(default)]
        warmup: u64,
        /// The rate the warm-up starts from.
        #[serde(default)]
        warmup_from: f64,
        /// Count updates from 0.
        #[serde(default)]
        from_zero: bool,
        /// The update that reaches the end; absent: the last of the stage.
        #[serde(default)]
        steps: Option<u64>,
        /// The rate at the end and after it.
        #[serde(default)]
        end_lr: f64,
    },
    /// Falls along half a cosine to `end_lr` at update `steps`.
    Cosine {
        /// Updates until the full rate is reached.
        #[serde(default)]
        warmup: u64,
        /// The rate the warm-up starts from.
        #[serde(default)]
        warmup_from: f64,
        /// Count updates from 0.
        #[serde(default)]
        from_zero: bool,
        /// The update that reaches the end; absent: the last of the stage.
        #[serde(default)]
        steps: Option<u64>,
        /// The rate at the end and after it.
        #[serde(default)]
        end_lr: f64,
    },
    /// Falls as `end_lr + (lr − end_lr)·(1 − t)^power`, t going from 0 after the warm-up to 1 at update `steps`.
    Polynomial {
        /// Updates until the full rate is reached.
        #[serde(default)]
        warmup: u64,
        /// The rate the warm-up starts from.
        #[serde(default)]
        warmup_from: f64,
        /// Count updates from 0.
        #[serde(default)]
        from_zero: bool,
        /// The update that reaches the end; absent: the last of the stage.
        #[serde(default)]
        steps: Option<u64>,
        /// The rate at the end and after it.
        #[serde(default)]
        end_lr: f64,
        /// The exponent; 1 is linear.
        #[serde(default = "one")]
        power: f64,
    },
    /// Falls as `lr·√(warmup/k)`, never below `min_lr`.
    InverseSqrt {
        /// Updates until the full rate is reached, at least 1.
        warmup: u64,
        /// The rate the warm-up starts from.
        #[serde(default)]
        warmup_from: f64,
        /// Count updates from 0.
        #[serde(default)]
        from_zero: bool,
        /// The rate never falls below this after the warm-up.
        #[serde(default)]
        min_lr: f64,
    },
    /// `lr · hidden_size^−½ · min(k^−½, k·warmup^−3/2)`, after "Attention Is All You Need", section 5.3.
    Noam {
        /// Updates until the peak, at least 1.
        warmup: u64,
        /// The width of the model.
        hidden_size: u64,
    },
    /// Multiplied by `gamma` after each milestone.
    Step {
        /// Updates until the full rate is reached.
        #[serde(default)]
        warmup: u64,
        /// The rate the warm-up starts from.
        #[serde(default)]
        warmup_from: f64,
        /// Count updates from 0.
        #[serde(default)]
        from_zero: bool,
        /// Updates after which the rate falls.
        milestones: Vec<u64>,
        /// The factor.
        gamma: f64,
    },
}

fn one() -> f64 {
    1.0
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant {
            warmup: 0,
            warmup_from: 0.0,
            from_zero: false,
        }
    }
}

/// The parts that every schedule with a linear warm-up shares.
struct WarmUp {
    updates: u64,
    from: f64,
    from_zero: bool,
}

impl Schedule {
    /// The rate of update number `update`, counted from 1, for a base rate `base`.
    ///
    /// A decay whose end is not known yet ([`is_open`](Self::is_open)) stays at `base`.
    pub fn lr(&self, base: f64, update: u64) -> f64 {
        if let Self::Noam {
            warmup,
            hidden_size,
        } = *self
        {
            let k = update.max(1) as f64;
            let rise = k * (warmup.max(1) as f64).powf(-1.5);
            return base * (hidden_size.max(1) as f64).powf(-0.5) * k.powf(-0.5).min(rise);
        }
        let warm_up = self.warm_up();
        let k = if warm_up.from_zero {
            update.saturating_sub(1)
        } else {
            update
        };
        if k < warm_up.updates {
            let share = k as f64 / warm_up.updates as f64;
            return warm_up.from + (base - warm_up.from) * share;
        }
        let t = |steps: Option<u64>| match steps {
            // How far the decay is, from 0 to 1. One that ends with the warm-up is over at once.
            Some(steps) if steps > warm_up.updates => {
                ((k - warm_up.updates) as f64 / (steps - warm_up.updates) as f64).min(1.0)
            }
            Some(_) => 1.0,
            None => 0.0,
        };
        match self {
            Self::Constant { .. } | Self::Noam { .. } => base,
            Self::Linear { steps, end_lr, .. } => end_lr + (base - end_lr) * (1.0 - t(*steps)),
            Self::Cosine { steps, end_lr, .. } => {
                end_lr + (base - end_lr) * (1.0 + (std::f64::consts::PI * t(*steps)).cos()) / 2.0
            }
            Self::Polynomial {
                steps,
                end_lr,
                power,
                ..
            } => end_lr + (base - end_lr) * (1.0 - t(*steps)).powf(*power),
            Self::InverseSqrt { min_lr, .. } => {
                let fall = (warm_up.updates.max(1) as f64 / k.max(1) as f64).sqrt();
                (base * fall).max(*min_lr)
            }
            Self::Step {
                milestones, gamma, ..
            } => {
                let passed = milestones.iter().filter(|&&m| k > m).count();
                base * gamma.powi(i32::try_from(passed).unwrap_or(i32::MAX))
            }
        }
    }

    /// Whether this is a decay whose end is not known yet: no `steps` are given and [`over`](Self::over) was not called.
    pub fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Linear { steps: None, .. }
                | Self::Cosine { steps: None, .. }
                | Self::Polynomial { steps: None, .. }
        )
    }

    /// The same schedule, ending at update `total` where its end is not given.
    pub fn over(&self, total: u64) -> Self {
        let mut schedule = self.clone();
        if let Self::Linear { steps, .. }
        | Self::Cosine { steps, .. }
        | Self::Polynomial { steps, .. } = &mut schedule
        {
            steps.get_or_insert(total);
        }
        schedule
    }

    /// Checks the ranges; `at` is the path of this section.
    ///
    /// # Errors
    /// [`Error::Value`] naming the first value out of range.
    pub fn validate(&self, at: &str) -> Result<()> {
        let rates: Vec<(&str, f64)> = match self {
            Self::Constant { warmup_from, .. } => vec![("warmup_from", *warmup_from)],
            Self::Linear {
                warmup_from,
                end_lr,
                ..
            }
            | Self::Cosine {
                warmup_from,
                end_lr,
                ..
            } => {
                vec![("warmup_from", *warmup_from), ("end_lr", *end_lr)]
            }
            Self::Polynomial {
                warmup_from,
                end_lr,
                power,
                ..
            } => vec![
                ("warmup_from", *warmup_from),
                ("end_lr", *end_lr),
                ("power", *power),
            ],
            Self::InverseSqrt {
                warmup_from,
                min_lr,
                ..
            } => {
                vec![("warmup_from", *warmup_from), ("min_lr", *min_lr)]
            }
            Self::Noam { .. } => Vec::new(),
            Self::Step {
                warmup_from, gamma, ..
            } => vec![("warmup_from", *warmup_from), ("gamma", *gamma)],
        };
        for (name, rate) in rates {
            if !(rate >= 0.0 && rate.is_finite()) {
                return Err(Error::value(
                    format!("{at}.{name}"),
                    rate,
                    "a number of at least 0",
                ));
            }
        }
        if let Self::InverseSqrt { warmup: 0, .. } | Self::Noam { warmup: 0, .. } = self {
            return Err(Error::value(format!("{at}.warmup"), 0, "at least 1"));
        }
        if let Self::Noam { hidden_size: 0, .. } = self {
            return Err(Error::value(format!("{at}.hidden_size"), 0, "at least 1"));
        }
        Ok(())
    }

    fn warm_up(&self) -> WarmUp {
        match *self {
            Self::Constant {
                warmup,
                warmup_from,
                from_zero,
            }
            | Self::Linear {
                warmup,
                warmup_from,
                from_zero,
                ..
            }
            | Self::Cosine {
                warmup,
                warmup_from,
                from_zero,
                ..
            }
            | Self::Polynomial {
                warmup,
                warmup_from,
                from_zero,
                ..
            }
            | Self::InverseSqrt {
                warmup,
                warmup_from,
                from_zero,
                ..
            }
            | Self::Step {
                warmup,
                warmup_from,
                from_zero,
                ..
            } => WarmUp {
                updates: warmup,
                from: warmup_from,
                from_zero,
            },
            Self::Noam { warmup, .. } => WarmUp {
                updates: warmup,
                from: 0.0,
                from_zero: false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schedule(value: serde_json::Value) -> Schedule {
        serde_json::from_value(value).expect("a well-formed schedule")
    }

    fn check(value: serde_json::Value, base: f64, expected: &[(u64, f64)]) {
        let schedule = schedule(value.clone());
        for &(update, lr) in expected {
            let found = schedule.lr(base, update);
            assert!(
                (found - lr).abs() <= 1e-12 * lr.abs().max(1e-6),
                "{value} at {update}: {found} instead of {lr}"
            );
        }
    }

    #[test]
    fn constant_with_warm_up_is_the_minimum_of_one_and_k_over_warm_up() {
        let warm = schedule(json!({ "name": "constant", "warmup": 3 }));
        for k in 1..=8u64 {
            assert_eq!(warm.lr(0.07, k), 0.07 * (k as f64 / 3.0).min(1.0));
        }
        assert_eq!(Schedule::default().lr(0.5, 1), 0.5);
    }

    #[test]
    fn linear_counts_from_zero_as_hugging_face_does() {
        // factor = s/warmup while s < warmup, else max(0, (T − s)/(T − warmup)), s = 0, 1, …
        let value = json!({ "name": "linear", "warmup": 4, "steps": 12, "from_zero": true });
        let expected = [
            (1, 0.0),
            (2, 0.25),
            (5, 1.0),
            (7, 0.75),
            (13, 0.0),
            (99, 0.0),
        ];
        check(value, 1.0, &expected);
    }

    #[test]
    fn cosine_runs_between_two_rates() {
        // lo + (hi − lo)·s/warmup, then lo + (hi − lo)(1 + cos(π·min(1, (s − warmup)/decay)))/2; s is the update less 1.
        let value = json!({
            "name": "cosine", "warmup": 4000, "warmup_from": 1e-6, "end_lr": 1e-6, "steps": 104_000, "from_zero": true
        });
        check(
            value,
            3e-4,
            &[
                (1, 1e-6),
                (2, 1.07475e-6),
                (2001, 1.505e-4),
                (4001, 3e-4),
                (29_001, 0.000_256_212_463_787_388_83),
                (54_001, 1.505e-4),
                (104_001, 1e-6),
                (200_001, 1e-6),
            ],
        );
    }

    #[test]
    fn the_others_match_their_formulas() {
        check(
            json!({ "name": "inverse-sqrt", "warmup": 100, "warmup_from": 1e-7, "min_lr": 1e-5 }),
            5e-4,
            &[
                (50, 0.5 * (5e-4 + 1e-7)),
                (100, 5e-4),
                (400, 2.5e-4),
                (4_000_000, 1e-5),
            ],
        );
        check(
            json!({ "name": "noam", "warmup": 400, "hidden_size": 64 }),
            2.0,
            &[
                (1, 2.0 / 8.0 / 8000.0),
                (400, 2.0 / 8.0 / 20.0),
                (1600, 2.0 / 8.0 / 40.0),
            ],
        );
        check(
            json!({ "name": "polynomial", "warmup": 2, "steps": 6, "end_lr": 0.1, "power": 2.0 }),
            1.1,
            &[(1, 0.55), (2, 1.1), (4, 0.1 + 0.25), (6, 0.1), (7, 0.1)],
        );
        check(
            json!({ "name": "step", "milestones": [10, 20], "gamma": 0.1 }),
            1.0,
            &[(10, 1.0), (11, 0.1), (20, 0.1), (21, 0.01)],
        );
    }

    #[test]
    fn the_end_of_the_stage_ends_an_open_decay() {
        let open = schedule(json!({ "name": "linear" }));
        assert_eq!(open.lr(1.0, 50), 1.0);
        assert!(open.is_open() && !open.over(100).is_open() && !Schedule::default().is_open());
        assert_eq!(open.over(100).lr(1.0, 50), 0.5);
        let given = schedule(json!({ "name": "cosine", "steps": 10 }));
        assert_eq!(given.over(100), given);
        // A warm-up longer than the whole decay leaves nothing to fall along.
        let short = schedule(json!({ "name": "linear", "warmup": 10, "steps": 5 }));
        assert_eq!(short.lr(1.0, 10), 0.0);
    }

    #[test]
    fn nonsense_is_refused() {
        for value in [
            json!({ "name": "inverse-sqrt", "warmup": 0 }),
            json!({ "name": "noam", "warmup": 1, "hidden_size": 0 }),
            json!({ "name": "cosine", "end_lr": -1.0 }),
        ] {
            let error = schedule(value).validate("training.schedule").unwrap_err();
            assert!(
                error.to_string().starts_with("training.schedule."),
                "{error}"
            );
        }
        let unknown = json!({ "name": "constant", "warm_up": 3 });
        assert!(serde_json::from_value::<Schedule>(unknown).is_err());
    }
}
