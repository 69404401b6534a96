//! The section `training.optimizer` of a recipe.

use super::Rule;
use super::adafactor::Adafactor;
use super::adagrad::Adagrad;
use super::adagrad_grad_clip::AdagradGradClip;
use super::adam::Adam;
use super::adamw::AdamW;
use super::sgd::Sgd;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An optimiser and its settings; names and defaults are torch's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Stochastic gradient descent.
    Sgd {
        /// The base rate, which the schedule moves.
        lr: f64,
        /// How much of the last direction is kept.
        #[serde(default)]
        momentum: f64,
        /// How much less of the gradient enters the direction, after the first update.
        #[serde(default)]
        dampening: f64,
        /// Look ahead along the direction; needs a momentum and no dampening.
        #[serde(default)]
        nesterov: bool,
        /// Added to the gradient, times the parameter.
        #[serde(default)]
        weight_decay: f64,
        /// Exceptions for some parameters.
        #[serde(default)]
        groups: Vec<Group>,
    },
    /// Adam; the weight decay is added to the gradient.
    Adam {
        /// The base rate, which the schedule moves.
        lr: f64,
        /// Decay of the first and of the second moment.
        #[serde(default = "betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "adam_eps")]
        eps: f64,
        /// Added to the gradient, times the parameter.
        #[serde(default)]
        weight_decay: f64,
        /// Divide the moments by `1 − beta^count`; BERT's original optimiser does not.
        #[serde(default = "yes")]
        bias_correction: bool,
        /// Exceptions for some parameters.
        #[serde(default)]
        groups: Vec<Group>,
    },
    /// Adam with the weight decay apart from the gradient.
    #[serde(rename = "adamw")]
    AdamW {
        /// The base rate, which the schedule moves.
        lr: f64,
        /// Decay of the first and of the second moment.
        #[serde(default = "betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "adam_eps")]
        eps: f64,
        /// Shrinks the parameter by `lr · weight_decay` before the update.
        #[serde(default = "adamw_decay")]
        weight_decay: f64,
        /// Divide the moments by `1 − beta^count`; BERT's original optimiser does not.
        #[serde(default = "yes")]
        bias_correction: bool,
        /// Exceptions for some parameters.
        #[serde(default)]
        groups: Vec<Group>,
    },
    /// Adagrad.
    Adagrad {
        /// The base rate, which the schedule moves.
        lr: f64,
        /// Divides the rate by `1 + (count − 1) · lr_decay`.
        #[serde(default)]
        lr_decay: f64,
        /// Added to the gradient, times the parameter.
        #[serde(default)]
        weight_decay: f64,
        /// What the sum of squares starts from.
        #[serde(default)]
        initial_accumulator: f64,
        /// Added to the root of the sum of squares.
        #[serde(default = "adagrad_eps")]
        eps: f64,
        /// Exceptions for some parameters.
        #[serde(default)]
        groups: Vec<Group>,
    },
    /// Adagrad whose step, not whose gradient, is clipped for each tensor, as the adaptive-span reference has it.
    AdagradGradClip {
        /// The base rate, which the schedule moves.
        lr: f64,
        /// The norm of a tensor's gradient above which its step is shortened.
        #[serde(default)]
        grad_clip: Option<f64>,
        /// Added to the root of the sum of squares and to the norm.
        #[serde(default = "adagrad_eps")]
        eps: f64,
        /// Exceptions for some parameters.
        #[serde(default)]
        groups: Vec<Group>,
    },
    /// Adafactor without a first moment: matrices keep row and column means of the squares, steps are relative to the size
    /// of the parameter. Its usual schedule is `inverse-sqrt` with as long a warm-up as the rate stays flat, from `lr`.
    Adafactor {
        /// The base rate, which the schedule moves; relative to the size of a parameter.
        lr: f64,
        /// The second moment decays by `1 − count^−decay_power`.
        #[serde(default = "adafactor_power")]
        decay_power: f64,
        /// Root mean square that a direction is shortened to.
        #[serde(default = "one")]
        clip: f64,
        /// Added to squares; the least size of a parameter.
        #[serde(default = "adafactor_eps")]
        eps: [f64; 2],
        /// Added to the gradient, times the parameter.
        #[serde(default)]
        weight_decay: f64,
        /// Exceptions for some parameters.
        #[serde(default)]
        groups: Vec<Group>,
    },
}

fn adafactor_power() -> f64 {
    0.8
}

fn adafactor_eps() -> [f64; 2] {
    [1e-30, 1e-3]
}

fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn adam_eps() -> f64 {
    1e-8
}

fn adamw_decay() -> f64 {
    0.01
}

fn adagrad_eps() -> f64 {
    1e-10
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

/// An exception for the parameters whose module path matches; where several match, the last counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// A regular expression, found anywhere in a path such as `layers.3.norm.gamma`. It must match some parameter.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Multiplies the rate.
    #[serde(default = "one")]
    pub lr_scale: f64,
    /// Replaces the weight decay.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

impl OptimizerConfig {
    /// The base rate.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd { lr, .. }
            | Self::Adam { lr, .. }
            | Self::AdamW { lr, .. }
            | Self::Adagrad { lr, .. }
            | Self::AdagradGradClip { lr, .. }
            | Self::Adafactor { lr, .. } => *lr,
        }
    }

    /// The exceptions.
    pub fn groups(&self) -> &[Group] {
        match self {
            Self::Sgd { groups, .. }
            | Self::Adam { groups, .. }
            | Self::AdamW { groups, .. }
            | Self::Adagrad { groups, .. }
            | Self::AdagradGradClip { groups, .. }
            | Self::Adafactor { groups, .. } => groups,
        }
    }

    /// The name in a recipe.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd { .. } => "sgd",
            Self::Adam { .. } => "adam",
            Self::AdamW { .. } => "adamw",
            Self::Adagrad { .. } => "adagrad",
            Self::AdagradGradClip { .. } => "adagrad-grad-clip",
            Self::Adafactor { .. } => "adafactor",
        }
    }

    /// Checks the ranges; `at` is the path of this section.
    ///
    /// # Errors
    /// [`Error::Value`] naming the first value out of range.
    pub fn validate(&self, at: &str) -> Result<()> {
        let mut numbers = vec![("lr", self.lr()), ("weight_decay", self.weight_decay())];
        match self {
            Self::Sgd {
                momentum,
                dampening,
                nesterov,
                ..
            } => {
                numbers.extend([("momentum", *momentum), ("dampening", *dampening)]);
                if *nesterov && (*momentum <= 0.0 || *dampening != 0.0) {
                    return Err(Error::value(
                        format!("{at}.nesterov"),
                        true,
                        "a momentum above 0 and a dampening of 0 beside it",
                    ));
                }
            }
            Self::Adam { betas, eps, .. } | Self::AdamW { betas, eps, .. } => {
                numbers.push(("eps", *eps));
                for beta in betas {
                    if !(0.0..1.0).contains(beta) {
                        return Err(Error::value(
                            format!("{at}.betas"),
                            beta,
                            "two numbers from 0 to below 1",
                        ));
                    }
                }
            }
            Self::Adagrad {
                lr_decay,
                initial_accumulator,
                eps,
                ..
            } => numbers.extend([
                ("lr_decay", *lr_decay),
                ("initial_accumulator", *initial_accumulator),
                ("eps", *eps),
            ]),
            Self::Adafactor {
                decay_power,
                clip,
                eps,
                ..
            } => {
                numbers.extend([
                    ("decay_power", *decay_power),
                    ("eps", eps[0]),
                    ("eps", eps[1]),
                ]);
                if !(*clip > 0.0 && clip.is_finite()) {
                    return Err(Error::value(format!("{at}.clip"), clip, "a number above 0"));
                }
            }
            Self::AdagradGradClip { grad_clip, eps, .. } => {
                numbers.push(("eps", *eps));
                if let Some(clip) = grad_clip
                    && !(*clip > 0.0 && clip.is_finite())
                {
                    return Err(Error::value(
                        format!("{at}.grad_clip"),
                        clip,
                        "a number above 0",
                    ));
                }
            }
        }
        for (i, group) in self.groups().iter().enumerate() {
            let decay = group.weight_decay.unwrap_or(0.0);
            for (name, value) in [("lr_scale", group.lr_scale), ("weight_decay", decay)] {
                if !(value >= 0.0 && value.is_finite()) {
                    let at = format!("{at}.groups.{i}.{name}");
                    return Err(Error::value(at, value, "a number of at least 0"));
                }
            }
            if group.weight_decay.is_some() && matches!(self, Self::AdagradGradClip { .. }) {
                let at = format!("{at}.groups.{i}.weight_decay");
                return Err(Error::value(at, decay, "none: this optimiser has no decay"));
            }
        }
        for (name, value) in numbers {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::value(
                    format!("{at}.{name}"),
                    value,
                    "a number of at least 0",
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd { weight_decay, .. }
            | Self::Adam { weight_decay, .. }
            | Self::AdamW { weight_decay, .. }
            | Self::Adagrad { weight_decay, .. }
            | Self::Adafactor { weight_decay, .. } => *weight_decay,
            Self::AdagradGradClip { .. } => 0.0,
        }
    }

    pub(crate) fn rule(&self) -> Box<dyn Rule> {
        match *self {
            Self::Adafactor {
                decay_power,
                clip,
                eps,
                ..
            } => Box::new(Adafactor {
                decay_power,
                clip,
                eps,
            }),
            Self::Sgd {
                momentum,
                dampening,
                nesterov,
                ..
            } => Box::new(Sgd {
                momentum,
                dampening,
                nesterov,
            }),
            Self::Adam {
                betas,
                eps,
                bias_correction,
                ..
            } => Box::new(Adam {
                betas,
                eps,
                bias_correction,
            }),
            Self::AdamW {
                betas,
                eps,
                bias_correction,
                ..
            } => Box::new(AdamW(Adam {
                betas,
                eps,
                bias_correction,
            })),
            Self::Adagrad {
                lr_decay,
                initial_accumulator,
                eps,
                ..
            } => Box::new(Adagrad {
                lr_decay,
                initial_accumulator,
                eps,
            }),
            Self::AdagradGradClip { grad_clip, eps, .. } => {
                Box::new(AdagradGradClip { grad_clip, eps })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_torchs() {
        let read = |value| serde_json::from_value::<OptimizerConfig>(value);
        let adamw = read(json!({ "name": "adamw", "lr": 1e-3 })).expect("adamw");
        let OptimizerConfig::AdamW {
            betas,
            eps,
            weight_decay,
            bias_correction,
            ..
        } = adamw
        else {
            panic!("another optimiser: {adamw:?}");
        };
        assert_eq!((betas, eps, weight_decay), ([0.9, 0.999], 1e-8, 0.01));
        assert!(bias_correction);
        assert!(
            read(json!({ "name": "adam" })).is_err(),
            "the rate is required"
        );
        assert!(read(json!({ "name": "adam", "lr": 1.0, "beta": 1.0 })).is_err());
        for name in ["sgd", "adam", "adamw", "adagrad", "adagrad-grad-clip"] {
            let config = read(json!({ "name": name, "lr": 0.1 })).expect(name);
            assert_eq!((config.name(), config.lr()), (name, 0.1));
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (value, part) in [
            (json!({ "name": "sgd", "lr": -1.0 }), "o.lr is -1"),
            (
                json!({ "name": "sgd", "lr": 1.0, "nesterov": true }),
                "o.nesterov",
            ),
            (
                json!({ "name": "adam", "lr": 1.0, "betas": [0.9, 1.0] }),
                "o.betas",
            ),
            (
                json!({ "name": "adagrad-grad-clip", "lr": 1.0, "grad_clip": 0.0 }),
                "o.grad_clip",
            ),
            (
                json!({ "name": "adam", "lr": 1.0, "groups": [{ "match": "x", "lr_scale": -1.0 }] }),
                "o.groups.0.lr_scale",
            ),
        ] {
            let config: OptimizerConfig = serde_json::from_value(value).expect("well formed");
            let error = config.validate("o").expect_err(part).to_string();
            assert!(error.starts_with(part), "{error}");
        }
    }
}
