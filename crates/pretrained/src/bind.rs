//! One table per model: upstream names to parameters, for loading, saving and naming gradients.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::Param;
use burn::tensor::{DType, Gradients, Tensor, TensorData};

use crate::NamedTensors;
use crate::data::{dtype_name, to_f32, transposed};
use crate::error::{Error, Result, TensorProblem};
use crate::names::nearest_tensor;

/// Most problems whose nearest names are looked up; an error message shows no more.
const MOST_SUGGESTIONS: usize = 20;

/// What a model's table is told to: it walks the parameters by their upstream names.
pub trait Binder {
    /// Binds a parameter that upstream stores in the same layout.
    fn param<const D: usize>(&mut self, name: &str, param: &mut Param<Tensor<D>>);

    /// Binds the weight of a linear map: `[in, out]` here, `[out, in]` upstream.
    fn linear(&mut self, name: &str, param: &mut Param<Tensor<2>>);

    /// Binds a buffer that follows from the configuration.
    ///
    /// It is written on saving, so that upstream's strict loading finds it; on loading it may be absent, and only its
    /// shape is looked at.
    fn derived(&mut self, name: &str, value: &dyn Fn() -> TensorData);

    /// Gives the tensor bound earlier as `of` a second upstream name.
    ///
    /// It is written on saving. On loading it may be absent and must else equal `of`; a file with this name alone is
    /// accepted.
    fn alias(&mut self, name: &str, of: &str);
}

/// A model with a table of upstream names.
pub trait Weights: Clone {
    /// Tells `binder` every parameter, derived buffer and alias, in a fixed order.
    fn bind<B: Binder>(&mut self, binder: &mut B);
}

/// How the names of a file become upstream names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Removed from the beginning of every name that has it, such as `module.` or `bert.`.
    pub strip_prefix: Option<String>,
    /// Tensors that may be there without being used: exact names, or beginnings that end in `*`. They are compared
    /// with the names after the prefix is removed.
    pub ignore: Vec<String>,
}

/// What loading left aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// The tensors that [`LoadOptions::ignore`] allowed and the model did not use, sorted.
    pub ignored: Vec<String>,
}

/// Puts `tensors` into the parameters of `model`, all of them and nothing else.
///
/// Values become `f32` whatever float type the file holds. Each parameter keeps its identifier, its device and
/// whether it takes gradients; a parameter not initialised yet is never initialised. `file` is only named in errors.
///
/// # Errors
///
/// [`Error::Tensors`] with every tensor that is missing, unused, misshapen, of another type, or differs from what it
/// is an alias of.
pub fn load_weights<W: Weights>(
    mut model: W,
    tensors: NamedTensors,
    file: &Path,
    options: &LoadOptions,
) -> Result<(W, LoadReport)> {
    let mut aliases = Aliases::default();
    model.bind(&mut aliases);

    let mut loader = Loader {
        aliases: aliases.0,
        ..Loader::default()
    };
    loader.take_all(tensors, options.strip_prefix.as_deref());
    model.bind(&mut loader);

    let report = loader.finish(&options.ignore);
    if loader.problems.is_empty() {
        return Ok((model, report));
    }
    Err(Error::Tensors {
        file: file.to_path_buf(),
        problems: loader.problems,
    })
}

/// The weights of `model` under their upstream names and in upstream's layout, derived buffers and aliases included.
///
/// # Panics
///
/// If the device fails to hand out its data.
pub fn collect_weights<W: Weights>(model: &W) -> NamedTensors {
    let mut collector = Collector::default();
    model.clone().bind(&mut collector);
    collector.0
}

/// The gradients of `model`'s parameters under their upstream names and in upstream's layout.
///
/// Parameters without a gradient are absent, and so are derived buffers and aliases.
///
/// # Panics
///
/// If the device fails to hand out its data.
pub fn collect_gradients<W: Weights>(model: &W, grads: &Gradients) -> NamedTensors {
    let mut collector = GradientCollector {
        grads,
        found: NamedTensors::new(),
    };
    model.clone().bind(&mut collector);
    collector.found
}

/// First walk of a load: which tensors have further names.
#[derive(Default)]
struct Aliases(BTreeMap<String, Vec<String>>);

impl Binder for Aliases {
    fn param<const D: usize>(&mut self, _name: &str, _param: &mut Param<Tensor<D>>) {}

    fn linear(&mut self, _name: &str, _param: &mut Param<Tensor<2>>) {}

    fn derived(&mut self, _name: &str, _value: &dyn Fn() -> TensorData) {}

    fn alias(&mut self, name: &str, of: &str) {
        self.0
            .entry(of.to_string())
            .or_default()
            .push(name.to_string());
    }
}

/// Second walk of a load: takes each tensor out of the file's and notes what does not fit.
#[derive(Default)]
struct Loader {
    tensors: NamedTensors,
    aliases: BTreeMap<String, Vec<String>>,
    /// Shape and values of the tensors that have aliases, to compare these with.
    aliased: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    derived: BTreeMap<String, Vec<usize>>,
    problems: Vec<TensorProblem>,
}

impl Loader {
    fn take_all(&mut self, tensors: NamedTensors, prefix: Option<&str>) {
        let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else {
            self.tensors = tensors;
            return;
        };
        let mut stripped = Vec::new();
        for (name, data) in tensors {
            match name.strip_prefix(prefix) {
                Some(rest) if !rest.is_empty() => stripped.push((rest.to_string(), name, data)),
                _ => {
                    self.tensors.insert(name, data);
                }
            }
        }
        let plain: BTreeSet<String> = self.tensors.keys().cloned().collect();
        for (name, other, data) in stripped {
            if plain.contains(&name) {
                self.problems.push(TensorProblem::Duplicate { name, other });
            } else {
                self.tensors.insert(name, data);
            }
        }
    }

    /// The values of the tensor `name` if they are there and fit `expected`, the upstream shape.
    fn take(&mut self, name: &str, expected: &[usize]) -> Option<Vec<f32>> {
        let aliases = self.aliases.get(name);
        let data = self.tensors.remove(name).or_else(|| {
            // The alias itself stays, for the table's own line about it.
            let mut others = aliases.into_iter().flatten();
            others.find_map(|alias| self.tensors.get(alias).cloned())
        });
        let Some(data) = data else {
            self.problems.push(TensorProblem::Missing {
                name: name.to_string(),
                expected: expected.to_vec(),
                similar: None,
            });
            return None;
        };
        let found = data.shape().to_vec();
        if !same_shape(&found, expected) {
            self.misshapen(name, expected, found);
            return None;
        }
        let dtype = data.dtype();
        let Some(values) = to_f32(data) else {
            self.problems.push(TensorProblem::Dtype {
                name: name.to_string(),
                found: dtype_name(dtype),
            });
            return None;
        };
        if aliases.is_some() {
            self.aliased
                .insert(name.to_string(), (expected.to_vec(), values.clone()));
        }
        Some(values)
    }

    fn misshapen(&mut self, name: &str, expected: &[usize], found: Vec<usize>) {
        self.problems.push(TensorProblem::Shape {
            name: name.to_string(),
            expected: expected.to_vec(),
            found,
        });
    }

    /// Sorts out what no line of the table asked for.
    fn finish(&mut self, ignore: &[String]) -> LoadReport {
        let mut report = LoadReport::default();
        let mut unused = Vec::new();
        for (name, data) in std::mem::take(&mut self.tensors) {
            // A tensor without elements (torch writes a linear map to 0 channels) holds nothing that could be lost.
            let empty = data.shape().contains(&0);
            if empty || ignore.iter().any(|pattern| matches(pattern, &name)) {
                report.ignored.push(name);
            } else {
                unused.push((name, data.shape().to_vec()));
            }
        }
        for (name, found) in &unused {
            self.problems.push(TensorProblem::Unused {
                name: name.clone(),
                found: found.clone(),
                similar: None,
            });
        }
        self.problems.sort_by(|a, b| a.name().cmp(b.name()));

        let missing: Vec<String> = self
            .problems
            .iter()
            .filter(|problem| matches!(problem, TensorProblem::Missing { .. }))
            .map(|problem| problem.name().to_string())
            .collect();
        for problem in self.problems.iter_mut().take(MOST_SUGGESTIONS) {
            match problem {
                TensorProblem::Missing { name, similar, .. } => {
                    let others = unused.iter().map(|(other, _)| other.as_str());
                    *similar = nearest_tensor(name, others).map(str::to_string);
                }
                TensorProblem::Unused { name, similar, .. } => {
                    let others = missing.iter().map(String::as_str);
                    *similar = nearest_tensor(name, others).map(str::to_string);
                }
                _ => {}
            }
        }
        report
    }
}

impl Binder for Loader {
    fn param<const D: usize>(&mut self, name: &str, param: &mut Param<Tensor<D>>) {
        let shape = param.lazy_shape().to_vec();
        if let Some(values) = self.take(name, &shape) {
            set(param, values, shape);
        }
    }

    fn linear(&mut self, name: &str, param: &mut Param<Tensor<2>>) {
        let shape = param.lazy_shape().to_vec();
        let [rows, columns] = [shape[0], shape[1]];
        if let Some(values) = self.take(name, &[columns, rows]) {
            set(param, transposed(&values, columns, rows), shape);
        }
    }

    fn derived(&mut self, name: &str, value: &dyn Fn() -> TensorData) {
        let expected = value().shape().to_vec();
        if let Some(data) = self.tensors.remove(name) {
            let found = data.shape().to_vec();
            if !same_shape(&found, &expected) {
                self.misshapen(name, &expected, found);
            }
        }
        self.derived.insert(name.to_string(), expected);
    }

    fn alias(&mut self, name: &str, of: &str) {
        let Some(data) = self.tensors.remove(name) else {
            return;
        };
        let found = data.shape().to_vec();
        if let Some(expected) = self.derived.get(of).cloned() {
            if !same_shape(&found, &expected) {
                self.misshapen(name, &expected, found);
            }
            return;
        }
        // A tensor that did not fit is reported under its first name.
        let Some((expected, values)) = self.aliased.get(of) else {
            return;
        };
        if !same_shape(&found, expected) {
            let expected = expected.clone();
            self.misshapen(name, &expected, found);
            return;
        }
        let dtype = data.dtype();
        let problem = match to_f32(data) {
            Some(others) => {
                let difference = greatest_difference(values, &others);
                (difference > 0.0).then(|| TensorProblem::AliasDiffers {
                    name: name.to_string(),
                    of: of.to_string(),
                    difference,
                })
            }
            None => Some(TensorProblem::Dtype {
                name: name.to_string(),
                found: dtype_name(dtype),
            }),
        };
        self.problems.extend(problem);
    }
}

fn set<const D: usize>(param: &mut Param<Tensor<D>>, values: Vec<f32>, shape: Vec<usize>) {
    let device = param.lazy_device();
    let tensor = Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32));
    // Keeps the identifier, the gradient setting and the device, and does not run a pending initialisation.
    let id = param.id;
    *param = param.clone().transform_for_load(tensor, id);
}

/// Whether the shapes are equal, where torch's scalar `[]` and `[1]` count as one shape, as they do in torch.
fn same_shape(a: &[usize], b: &[usize]) -> bool {
    a == b || matches!((a, b), ([], [1]) | ([1], []))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// The greatest absolute difference; infinite where one of two values is NaN or they are unequal infinities.
fn greatest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |greatest: f32, (&x, &y)| {
        let same = x == y || (x.is_nan() && y.is_nan());
        let difference = match same {
            true => 0.0,
            false => (x - y).abs(),
        };
        greatest.max(if difference.is_nan() {
            f32::INFINITY
        } else {
            difference
        })
    })
}

#[derive(Default)]
struct Collector(NamedTensors);

impl Binder for Collector {
    fn param<const D: usize>(&mut self, name: &str, param: &mut Param<Tensor<D>>) {
        let value = param.transform_for_save().val();
        self.0
            .insert(name.to_string(), value.without_autodiff().into_data());
    }

    fn linear(&mut self, name: &str, param: &mut Param<Tensor<2>>) {
        let value = param.transform_for_save().val();
        self.0.insert(
            name.to_string(),
            value.without_autodiff().transpose().into_data(),
        );
    }

    fn derived(&mut self, name: &str, value: &dyn Fn() -> TensorData) {
        self.0.insert(name.to_string(), value());
    }

    fn alias(&mut self, name: &str, of: &str) {
        if let Some(data) = self.0.get(of).cloned() {
            self.0.insert(name.to_string(), data);
        }
    }
}

struct GradientCollector<'a> {
    grads: &'a Gradients,
    found: NamedTensors,
}

impl Binder for GradientCollector<'_> {
    fn param<const D: usize>(&mut self, name: &str, param: &mut Param<Tensor<D>>) {
        if let Some(gradient) = param.base().grad(self.grads) {
            self.found.insert(name.to_string(), gradient.into_data());
        }
    }

    fn linear(&mut self, name: &str, param: &mut Param<Tensor<2>>) {
        if let Some(gradient) = param.base().grad(self.grads) {
            self.found
                .insert(name.to_string(), gradient.transpose().into_data());
        }
    }

    fn derived(&mut self, _name: &str, _value: &dyn Fn() -> TensorData) {}

    fn alias(&mut self, _name: &str, _of: &str) {}
}
