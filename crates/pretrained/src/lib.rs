//! Model folders: `config.json`, safetensors and torch checkpoints, loaded strictly by their upstream names.
//!
//! A model describes itself by one table, [`Weights::bind`]; loading, saving and the names of gradients follow from it.
//!
//! ```
//! use burn::module::{Initializer, Module, Param};
//! use burn::tensor::{Device, Tensor};
//! use pretrained::{Binder, LoadOptions, Weights, collect_weights, load_weights, read_tensors, write_safetensors};
//!
//! /// y = x W + b
//! #[derive(Module, Debug)]
//! struct Head {
//!     weight: Param<Tensor<2>>, // [in, out]
//!     bias: Param<Tensor<1>>,
//! }
//!
//! impl Weights for Head {
//!     fn bind<B: Binder>(&mut self, binder: &mut B) {
//!         binder.linear("head.weight", &mut self.weight); // [out, in] in the file
//!         binder.param("head.bias", &mut self.bias);
//!     }
//! }
//!
//! let device = Device::flex();
//! let new_head = |value| Head {
//!     weight: Initializer::Constant { value }.init([3, 2], &device),
//!     bias: Initializer::Constant { value }.init([2], &device),
//! };
//!
//! let folder = tempfile::tempdir()?;
//! let file = folder.path().join("model.safetensors");
//! write_safetensors(&file, &collect_weights(&new_head(1.0)))?;
//!
//! let (head, _) = load_weights(new_head(0.0), read_tensors(&file)?, &file, &LoadOptions::default())?;
//! assert_eq!(head.weight.val().sum().into_scalar::<f32>(), 6.0);
//!
//! // A name that does not fit is an error that says which.
//! let mut tensors = read_tensors(&file)?;
//! let bias = tensors.remove("head.bias").unwrap();
//! tensors.insert("head.bais".to_string(), bias);
//! let error = load_weights(new_head(0.0), tensors, &file, &LoadOptions::default()).unwrap_err();
//! assert!(error.to_string().contains("`head.bais`: found [2], not part of the model; did you mean `head.bias`?"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Files are taken for hostile: no length in them is believed before it is compared with the file's own.

mod bind;
mod data;
mod error;
#[cfg(feature = "hub")]
mod hub;
mod json;
mod model_error;
mod names;
mod place;
mod read;
mod safe;
mod torch;
mod write;

use std::collections::BTreeMap;

pub use bind::{
    Binder, LoadOptions, LoadReport, Weights, collect_gradients, collect_weights, load_weights,
};
pub use error::{Error, Result, TensorProblem};
pub use json::{parse_json, parse_value, read_json};
pub use model_error::{ModelError, ModelResult};
pub use names::did_you_mean;
pub use place::{Download, is_published_name, model_folder, model_folder_with};
pub use read::{TensorHeader, read_tensors, tensor_headers, weights_file};
pub use safe::read_safetensors_with_metadata;
pub use torch::read_torch;
pub use write::{write_atomic, write_safetensors, write_safetensors_with_metadata};

/// Tensors by their upstream names, in upstream's layout.
pub type NamedTensors = BTreeMap<String, burn::tensor::TensorData>;
