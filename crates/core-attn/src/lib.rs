//! Attention kernels on Burn.
#![recursion_limit = "256"]

pub mod adaptive_io;
pub mod banded;
pub mod cache;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
pub mod dense;
pub mod dropout;
mod error;
pub mod init;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod kernels;
pub mod mask;
pub mod random;
pub mod relative;
pub mod softmax;
pub mod span;

pub use error::{Error, Result};
