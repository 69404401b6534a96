//! An exponential moving average of the weights, to evaluate and export instead of the weights themselves.

use crate::paths::{Leaf, Path, Place, flat, row, track_path};
use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use pretrained::NamedTensors;
use std::collections::BTreeMap;

/// `average ← decay · average + (1 − decay) · weight` after each update, starting from the initial weights.
#[derive(Debug, Clone)]
pub(crate) struct Ema {
    decay: f64,
    average: BTreeMap<String, Tensor<1>>,
}

impl Ema {
    pub fn new<M: Module>(decay: f64, model: &M) -> Self {
        let mut ema = Self {
            decay,
            average: BTreeMap::new(),
        };
        ema.update(model);
        ema
    }

    pub fn update<M: Module>(&mut self, model: &M) {
        struct Update<'a> {
            path: Path,
            ema: &'a mut Ema,
        }
        impl ModuleVisitor for Update<'_> {
            track_path!();
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let path = self.path.name();
                let weight = flat(param.base().inner());
                let decay = self.ema.decay;
                let average = match self.ema.average.remove(&path) {
                    Some(average) => average.mul_scalar(decay) + weight.mul_scalar(1.0 - decay),
                    None => weight,
                };
                self.ema.average.insert(path, average);
            }
        }
        model.visit(&mut Update {
            path: Path::default(),
            ema: self,
        });
    }

    /// The model with the averaged weights.
    pub fn apply<M: Module>(&self, model: M) -> M {
        struct Apply<'a> {
            path: Path,
            ema: &'a Ema,
        }
        impl ModuleMapper for Apply<'_> {
            track_path!();
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.ema.average.get(&self.path.name()) {
                    Some(average) => {
                        param.map(|old| Leaf::of(&old).wrap(average.clone().reshape(old.shape())))
                    }
                    None => param,
                }
            }
        }
        model.map(&mut Apply {
            path: Path::default(),
            ema: self,
        })
    }

    pub fn to_tensors(&self) -> NamedTensors {
        let all = self.average.iter();
        all.map(|(path, t)| (path.clone(), t.to_data())).collect()
    }

    pub fn restore(
        &mut self,
        tensors: NamedTensors,
        places: &BTreeMap<String, Place>,
        what: &str,
    ) -> Result<()> {
        let fits = tensors.len() == places.len()
            && places.iter().all(|(path, place)| {
                tensors
                    .get(path)
                    .is_some_and(|data| data.num_elements() == place.elements)
            });
        if !fits {
            return Err(Error::State {
                what: what.to_owned(),
                problems: "the averaged weights are those of another model".to_owned(),
            });
        }
        let mut average = BTreeMap::new();
        for (path, data) in tensors {
            let tensor = row(data, &places[&path].device, &path)?;
            average.insert(path, tensor);
        }
        self.average = average;
        Ok(())
    }
}
