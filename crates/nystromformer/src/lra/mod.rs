//! The classifiers of the official Long Range Arena code: pre-norm layers, positions from 0, no normalisation of embeddings.

mod classifier;
mod config;
mod encoder;

pub use classifier::{LraClassifier, LraDualClassifier, LraHead, LraModel};
pub use config::{LraConfig, PoolingMode};
pub use encoder::{LraBlock, LraEncoder, LraOutput};
