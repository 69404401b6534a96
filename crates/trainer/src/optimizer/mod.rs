//! Optimisers with torch's formulas and defaults, whose state is a plain table: module path and slot name to a row of numbers.

mod adafactor;
mod adagrad;
mod adagrad_grad_clip;
mod adam;
mod adamw;
mod config;
mod sgd;

pub use config::{Group, OptimizerConfig};

use crate::paths::{Leaf, Path, Place, flat, row, track_path};
use crate::{Error, ModuleGradients, Result};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use pretrained::NamedTensors;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an optimiser remembers of one parameter, by slot name.
pub(crate) type Slots = BTreeMap<String, Tensor<1>>;

/// What a rule needs to know for one update of one parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hyper {
    /// The rate of this update, with the scale of the parameter's group.
    pub lr: f64,
    /// The decay of the parameter's group.
    pub weight_decay: f64,
    /// Which update of this parameter this is, counted from 1. A parameter without a gradient is not updated.
    pub count: u64,
}

/// One family of optimisers: how a parameter, given as a row, moves.
pub(crate) trait Rule: Send + Sync {
    /// The names of the slots it may keep.
    fn slots(&self) -> &'static [&'static str];

    /// The new parameter. Slots are empty at the first update.
    fn update(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1>;

    /// [`update`](Self::update) for a rule to which the shape of the parameter matters.
    fn update_shaped(
        &self,
        hyper: Hyper,
        _shape: &[usize],
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        self.update(hyper, param, gradient, slots)
    }

    /// Whether a slot of `found` elements may belong to a parameter of `elements`.
    fn fits(&self, _slot: &str, found: usize, elements: usize) -> bool {
        found == elements
    }
}

struct State {
    count: u64,
    slots: Slots,
}

struct CompiledGroup {
    regex: Regex,
    lr_scale: f64,
    weight_decay: Option<f64>,
}

/// A rule with its groups and the state of every parameter.
pub(crate) struct Optimizer {
    name: &'static str,
    rule: Box<dyn Rule>,
    weight_decay: f64,
    groups: Vec<CompiledGroup>,
    states: BTreeMap<String, State>,
}

/// The part of an optimiser's state that is no tensor.
#[derive(Serialize, Deserialize)]
pub(crate) struct Counts {
    optimizer: String,
    updates: BTreeMap<String, u64>,
}

impl Optimizer {
    /// Builds the optimiser and checks that each group matches a parameter of the model.
    pub fn new(config: &OptimizerConfig, places: &BTreeMap<String, Place>) -> Result<Self> {
        config.validate("training.optimizer")?;
        let mut groups = Vec::new();
        for (i, group) in config.groups().iter().enumerate() {
            let at = format!("training.optimizer.groups.{i}.match");
            let regex = Regex::new(&group.pattern)
                .map_err(|e| Error::value(&at, format!("`{}`", group.pattern), e.to_string()))?;
            if !places.keys().any(|path| regex.is_match(path)) {
                let some: Vec<&str> = places.keys().take(5).map(String::as_str).collect();
                return Err(Error::value(
                    &at,
                    format!("`{}`, which matches no parameter", group.pattern),
                    format!("a pattern for paths such as {}", some.join(", ")),
                ));
            }
            groups.push(CompiledGroup {
                regex,
                lr_scale: group.lr_scale,
                weight_decay: group.weight_decay,
            });
        }
        Ok(Self {
            name: config.name(),
            rule: config.rule(),
            weight_decay: config.weight_decay(),
            groups,
            states: BTreeMap::new(),
        })
    }

    /// Moves every parameter that has a gradient.
    pub fn step<M: Module>(
        &mut self,
        model: M,
        lr: f64,
        gradients: ModuleGradients,
    ) -> (M, Result<()>) {
        struct Update<'a> {
            path: Path,
            optimizer: &'a mut Optimizer,
            lr: f64,
            gradients: ModuleGradients,
            problems: Vec<String>,
        }
        impl ModuleMapper for Update<'_> {
            track_path!();
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let path = self.path.name();
                let Some(gradient) = self.gradients.take(&path) else {
                    return param;
                };
                let (found, expected) = (gradient.dims()[0], param.lazy_shape().num_elements());
                if found != expected {
                    let problem = format!("{path} has {expected} elements, its gradient {found}");
                    self.problems.push(problem);
                    return param;
                }
                param.map(|old| {
                    let (leaf, shape) = (Leaf::of(&old), old.shape());
                    let row = flat(old.inner());
                    let new =
                        self.optimizer
                            .update(&path, self.lr, shape.as_slice(), row, gradient);
                    leaf.wrap(new.reshape(shape))
                })
            }
        }
        let mut update = Update {
            path: Path::default(),
            optimizer: self,
            lr,
            gradients,
            problems: Vec::new(),
        };
        let model = model.map(&mut update);
        let left: Vec<String> = update
            .gradients
            .paths()
            .map(|path| format!("{path} is no parameter of the model"))
            .collect();
        update.problems.extend(left);
        let result = match update.problems.as_slice() {
            [] => Ok(()),
            problems => Err(Error::Update {
                what: problems.join("; "),
                remedy: "apply gradients to the model they belong to".to_owned(),
            }),
        };
        (model, result)
    }

    fn update(
        &mut self,
        path: &str,
        lr: f64,
        shape: &[usize],
        param: Tensor<1>,
        gradient: Tensor<1>,
    ) -> Tensor<1> {
        let group = self.groups.iter().rev().find(|g| g.regex.is_match(path));
        let state = self.states.entry(path.to_owned()).or_insert_with(|| State {
            count: 0,
            slots: Slots::new(),
        });
        state.count += 1;
        let hyper = Hyper {
            lr: lr * group.map_or(1.0, |g| g.lr_scale),
            weight_decay: group
                .and_then(|g| g.weight_decay)
                .unwrap_or(self.weight_decay),
            count: state.count,
        };
        self.rule
            .update_shaped(hyper, shape, param, gradient, &mut state.slots)
    }

    pub fn counts(&self) -> Counts {
        let counts = self.states.iter();
        Counts {
            optimizer: self.name.to_owned(),
            updates: counts.map(|(p, s)| (p.clone(), s.count)).collect(),
        }
    }

    /// The slots as `path/slot`.
    pub fn to_tensors(&self) -> NamedTensors {
        let slots = self.states.iter().flat_map(|(path, state)| {
            let slots = state.slots.iter();
            slots.map(move |(slot, t)| (format!("{path}/{slot}"), t.to_data()))
        });
        slots.collect()
    }

    pub fn restore(
        &mut self,
        counts: Counts,
        tensors: NamedTensors,
        places: &BTreeMap<String, Place>,
        what: &str,
    ) -> Result<()> {
        let misfit = |problems: String| Error::State {
            what: what.to_owned(),
            problems,
        };
        if counts.optimizer != self.name {
            return Err(misfit(format!(
                "it was written by the optimiser {}, this is {}",
                counts.optimizer, self.name
            )));
        }
        let mut states = BTreeMap::new();
        for (path, count) in counts.updates {
            if !places.contains_key(&path) {
                return Err(misfit(format!("{path} is no parameter of the model")));
            }
            let slots = Slots::new();
            states.insert(path, State { count, slots });
        }
        for (name, data) in tensors {
            let parts = name
                .rsplit_once('/')
                .filter(|(_, slot)| self.rule.slots().contains(slot))
                .and_then(|(path, slot)| Some((slot, states.get_mut(path)?, places.get(path)?)));
            let Some((slot, state, place)) = parts else {
                return Err(misfit(format!("{name} is no slot of this optimiser")));
            };
            if !self.rule.fits(slot, data.num_elements(), place.elements) {
                return Err(misfit(format!(
                    "{name} has {} elements, expected {}",
                    data.num_elements(),
                    place.elements
                )));
            }
            let tensor = row(data, &place.device, &name)?;
            state.slots.insert(slot.to_owned(), tensor);
        }
        self.states = states;
        Ok(())
    }
}

impl std::fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Optimizer")
            .field("name", &self.name)
            .field("parameters", &self.states.len())
            .finish_non_exhaustive()
    }
}
