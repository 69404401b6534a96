//! Parameters by module path (`layers.3.norm.gamma`): how states and gradients are addressed.
//!
//! A path follows from the structure of the model, so a checkpoint written by one process fits the model built by another;
//! Burn's parameter ids are drawn at random and do not.

use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{
    Bool, DType, Device, GradientCheckpointingStrategy, Gradients, Int, Tensor, TensorData,
};
use pretrained::NamedTensors;
use std::collections::BTreeMap;

/// The stack of names on the way to a parameter.
#[derive(Debug, Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub fn exit(&mut self) {
        self.0.pop();
    }

    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Writes `enter_module` and `exit_module` of a visitor or mapper whose field `path` is a [`Path`].
macro_rules! track_path {
    () => {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
    };
}
pub(crate) use track_path;

/// Where a parameter lives and how many elements it has.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub device: Device,
    pub elements: usize,
}

/// The float parameters of a model.
pub(crate) fn places<M: Module>(model: &M) -> BTreeMap<String, Place> {
    struct Places {
        path: Path,
        found: BTreeMap<String, Place>,
    }
    impl ModuleVisitor for Places {
        track_path!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let place = Place {
                device: param.lazy_device().without_autodiff(),
                elements: param.lazy_shape().num_elements(),
            };
            self.found.insert(self.path.name(), place);
        }
    }
    let mut places = Places {
        path: Path::default(),
        found: BTreeMap::new(),
    };
    model.visit(&mut places);
    places.found
}

/// The values of all parameters and buffers.
pub(crate) fn collect<M: Module>(model: &M) -> NamedTensors {
    struct Collect {
        path: Path,
        found: NamedTensors,
    }
    impl ModuleVisitor for Collect {
        track_path!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found
                .insert(self.path.name(), param.base().into_data());
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.found
                .insert(self.path.name(), param.base().into_data());
        }
        fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
            self.found
                .insert(self.path.name(), param.base().into_data());
        }
    }
    let mut collect = Collect {
        path: Path::default(),
        found: NamedTensors::new(),
    };
    model.visit(&mut collect);
    collect.found
}

/// Puts values that [`collect`] took back into a model of the same structure; `what` names the state in errors.
pub(crate) fn restore<M: Module>(model: M, tensors: NamedTensors, what: &str) -> Result<M> {
    struct Restore {
        path: Path,
        tensors: NamedTensors,
        problems: Vec<String>,
    }
    impl Restore {
        fn take(&mut self, shape: &[usize], fits: fn(DType) -> bool) -> Option<TensorData> {
            let name = self.path.name();
            let problem = match self.tensors.remove(&name) {
                None => format!("{name} is missing, expected {shape:?}"),
                Some(data) if data.shape().as_slice() != shape => {
                    format!(
                        "{name} is {:?}, expected {shape:?}",
                        data.shape().as_slice()
                    )
                }
                Some(data) if !fits(data.dtype()) => {
                    format!("{name} has the element type {:?}", data.dtype())
                }
                Some(data) => return Some(data),
            };
            self.problems.push(problem);
            None
        }
    }
    impl ModuleMapper for Restore {
        track_path!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let shape = param.lazy_shape();
            match self.take(shape.as_slice(), |dtype| dtype.is_float()) {
                Some(data) => param.map(|old| {
                    let options = (&old.device().without_autodiff(), data.dtype());
                    Leaf::of(&old).wrap(Tensor::from_data(data, options))
                }),
                None => param,
            }
        }
        fn map_int<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Int>>,
        ) -> Param<Tensor<D, Int>> {
            let shape = param.lazy_shape();
            match self.take(shape.as_slice(), |d| d.is_int() || d.is_uint()) {
                Some(data) => param.map(|old| {
                    let dtype = data.dtype();
                    Tensor::from_data(data, (&old.device(), dtype))
                }),
                None => param,
            }
        }
        fn map_bool<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Bool>>,
        ) -> Param<Tensor<D, Bool>> {
            let shape = param.lazy_shape();
            // Files hold booleans as bytes on some backends.
            match self.take(shape.as_slice(), |d| d.is_bool() || d.is_uint()) {
                Some(data) => param.map(|old| Tensor::from_data(data, &old.device())),
                None => param,
            }
        }
    }
    let mut restore = Restore {
        path: Path::default(),
        tensors,
        problems: Vec::new(),
    };
    let model = model.map(&mut restore);
    let unused = restore.tensors.into_keys();
    restore
        .problems
        .extend(unused.map(|name| format!("{name} has no place in the model")));
    match restore.problems.as_slice() {
        [] => Ok(model),
        problems => Err(Error::State {
            what: what.to_owned(),
            problems: problems.join("; "),
        }),
    }
}

/// The autodiff context of a parameter's value, to be put onto the value that replaces it.
pub(crate) struct Leaf {
    autodiff: bool,
    require_grad: bool,
    checkpointing: Option<GradientCheckpointingStrategy>,
}

impl Leaf {
    pub fn of<const D: usize>(value: &Tensor<D>) -> Self {
        Self {
            autodiff: value.is_autodiff(),
            require_grad: value.is_require_grad(),
            checkpointing: value.gradient_checkpointing_strategy(),
        }
    }

    /// A plain tensor as a value with this context.
    pub fn wrap<const D: usize>(self, value: Tensor<D>) -> Tensor<D> {
        if !self.autodiff {
            return value;
        }
        let mut leaf = value.autodiff();
        if let Some(strategy) = self.checkpointing {
            leaf = leaf.with_gradient_checkpointing_strategy(strategy);
        }
        leaf.set_require_grad(self.require_grad)
    }
}

/// A tensor as a row of its elements.
pub(crate) fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let elements = tensor.shape().num_elements();
    tensor.reshape([elements])
}

/// The gradients of one model by module path, each as a row of elements, on the plain device.
///
/// Parameters that a loss does not reach, or that require no gradient, are absent.
#[derive(Debug, Clone, Default)]
pub struct ModuleGradients {
    by_path: BTreeMap<String, Tensor<1>>,
}

impl ModuleGradients {
    pub(crate) fn collect<M: Module>(model: &M, gradients: &mut Gradients) -> Self {
        struct Collect<'a> {
            path: Path,
            gradients: &'a mut Gradients,
            found: BTreeMap<String, Tensor<1>>,
        }
        impl ModuleVisitor for Collect<'_> {
            track_path!();
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(gradient) = param.base().grad_remove(self.gradients) {
                    self.found.insert(self.path.name(), flat(gradient));
                }
            }
        }
        let mut collect = Collect {
            path: Path::default(),
            gradients,
            found: BTreeMap::new(),
        };
        model.visit(&mut collect);
        Self {
            by_path: collect.found,
        }
    }

    /// Adds other gradients of the same model.
    ///
    /// # Errors
    /// When a parameter has another number of elements there.
    pub fn add(&mut self, other: Self) -> Result<()> {
        for (path, gradient) in other.by_path {
            let sum = match self.by_path.remove(&path) {
                None => gradient,
                Some(sum) if sum.dims() == gradient.dims() => sum + gradient,
                Some(sum) => {
                    return Err(Error::Update {
                        what: format!(
                            "the gradient of {path} has {} elements, then {}",
                            sum.dims()[0],
                            gradient.dims()[0]
                        ),
                        remedy: "add gradients of one model only".to_owned(),
                    });
                }
            };
            self.by_path.insert(path, sum);
        }
        Ok(())
    }

    /// Multiplies every gradient.
    pub fn scale(self, factor: f64) -> Self {
        self.map(|gradient| gradient.mul_scalar(factor))
    }

    /// Keeps the gradients of some parameters and returns those of the others, to be clipped or applied on their own.
    pub fn split(self, mut keep: impl FnMut(&str) -> bool) -> (Self, Self) {
        let (kept, rest) = self.by_path.into_iter().partition(|(path, _)| keep(path));
        (Self { by_path: kept }, Self { by_path: rest })
    }

    /// The paths of the parameters that have a gradient.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }

    /// The gradient of one parameter, as a row of its elements.
    pub fn get(&self, path: &str) -> Option<&Tensor<1>> {
        self.by_path.get(path)
    }

    /// How many parameters have a gradient.
    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Whether no parameter has one.
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// The gradients as data, to be stored with a checkpoint between two updates.
    pub fn to_tensors(&self) -> NamedTensors {
        let all = self.by_path.iter();
        all.map(|(path, g)| (path.clone(), g.to_data())).collect()
    }

    /// Gradients stored by [`to_tensors`](Self::to_tensors).
    ///
    /// # Errors
    /// When one is no row of floats.
    pub fn from_tensors(tensors: NamedTensors, device: &Device) -> Result<Self> {
        let device = device.clone().without_autodiff();
        let mut by_path = BTreeMap::new();
        for (path, data) in tensors {
            by_path.insert(path.clone(), row(data, &device, &path)?);
        }
        Ok(Self { by_path })
    }

    pub(crate) fn map(self, mut f: impl FnMut(Tensor<1>) -> Tensor<1>) -> Self {
        let mapped = self.by_path.into_iter().map(|(path, g)| (path, f(g)));
        Self {
            by_path: mapped.collect(),
        }
    }

    pub(crate) fn take(&mut self, path: &str) -> Option<Tensor<1>> {
        self.by_path.remove(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Tensor<1>)> {
        self.by_path.iter()
    }
}

/// Stored data as a row of floats on a plain device.
pub(crate) fn row(data: TensorData, device: &Device, what: &str) -> Result<Tensor<1>> {
    let dtype = data.dtype();
    if data.rank() != 1 || !dtype.is_float() {
        return Err(Error::State {
            what: what.to_owned(),
            problems: format!(
                "expected a row of floats, found {dtype:?} {:?}",
                data.shape().as_slice()
            ),
        });
    }
    Ok(Tensor::from_data(data, (device, dtype)))
}
