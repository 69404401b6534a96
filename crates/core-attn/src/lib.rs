//! Attention kernels for efficient transformers on [Burn](https://burn.dev). The crate knows no model.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mask`] | masks whose polarity cannot be confused |
//! | [`dense`] | attention of every query to every key |
//! | [`banded`] | causal attention over a fixed-length band with relative positions, soft windows and persistent vectors |
//! | [`span`] | the soft window whose length is learned |
//! | [`softmax`], [`dropout`], [`relative`] | the pieces attention is made of |
//! | [`low_rank`] | attention through landmarks: segment means, the iterative pseudo-inverse, depthwise convolution |
//! | [`memory`] | attention over several segments of memory with relative positions |
//! | [`routed`] | attention within clusters, block-local attention, rotary and Shaw positions |
//! | [`pointwise`] | layer normalisation, GELU with bias, cross-entropy |
//! | [`cache`] | the rows a stream carries from block to block |
//! | [`adaptive_io`] | embedding and softmax over large vocabularies, in clusters by frequency |
//! | [`init`], [`random`] | initial values and random numbers as functions of a key |
//!
//! Operations of our own run on flex and ndarray, forward and backward, in `f32`; on other backends and types the same
//! function is a composition of tensor operations. That composition stays public as `…_naive`, and is what the kernels are
//! tested against, outputs and gradients.
//!
//! ```
//! use burn::prelude::*;
//! use core_attn::dense::{Attention, attention};
//! use core_attn::dropout::Dropout;
//! use core_attn::mask::Mask;
//!
//! let device = Device::flex();
//! let x = Tensor::<3>::ones([2, 5, 8], &device); // [batch, length, heads * head_dim]
//! let out = attention(Attention {
//!     query: x.clone(),
//!     key: x.clone(),
//!     value: x,
//!     heads: 2,
//!     mask: Some(Mask::causal(5, 5, &device)),
//!     bias: None,
//!     scale: 0.5,
//!     dropout: Dropout::off(),
//! })?;
//! assert_eq!(out.dims(), [2, 5, 8]);
//! # Ok::<(), core_attn::Error>(())
//! ```
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
pub mod low_rank;
pub mod mask;
pub mod memory;
pub mod pointwise;
pub mod random;
pub mod relative;
pub mod routed;
pub mod softmax;
pub mod span;

pub use error::{Error, Result};

use burn::prelude::*;

/// True for a device whose tensors lie in the host's memory, so that reading one costs nothing but a copy.
pub fn is_host(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        burn::backend::DispatchDevice::NdArray(_) => true,
        #[allow(unreachable_patterns)]
        _ => false,
    }
}
