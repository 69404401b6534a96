//! Golden cases: numbers that a reference implementation gave, and how they are compared with ours.
//!
//! A case is a JSON file that names the model and the check, usually with a configuration and a tolerance, and a safetensors file of
//! the same name beside it with `weights.*`, `input.*`, `mid.*`, `output.*` and `grad.*`. A replay runs our implementation on the case;
//! [`compare`] holds one against the other.

mod case;
mod compare;
mod folder;
#[cfg(test)]
mod tests;

pub use case::{Case, Tolerance, find};
pub use compare::{Fact, FactReport, NotCompared, Replayed, Report, TensorReport, compare};
pub use folder::{FolderReport, replay_folder};
