//! Attention through landmarks, linear in the length (Xiong et al., *Nyströmformer*, AAAI 2021, arXiv:2102.03902).
//!
//! With `m` landmark queries and keys, the means of `m` runs of rows, `softmax(Q·Kᵀ)` is replaced by the product
//!
//! ```text
//! F · Z · B,   F = softmax(Q·K̃ᵀ) [n, m],   B = softmax(Q̃·Kᵀ) [m, n],   Z ≈ softmax(Q̃·K̃ᵀ)⁺ [m, m]
//! ```
//!
//! whose factors are applied to the values one after the other, so that nothing of size `n × n` exists. A convolution along
//! time adds what is near.
//!
//! | function | what it is |
//! |---|---|
//! | [`segment_means`], [`masked_segment_means`] | landmarks: even, uneven, and over the rows that are no padding |
//! | [`iterative_pinv`] | the Moore–Penrose inverse by matrix products alone |
//! | [`nystrom_attention`] | the three factors and their product with the values |
//! | [`time_convolution`] | one filter per head along time, never a dense convolution |

mod convolution;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod kernel;
mod naive;
mod nystrom;
mod pinv;
mod segments;

pub use convolution::time_convolution;
pub use naive::{
    NaiveNystrom, iterative_pinv_naive, nystrom_attention_naive, segment_means_naive,
    time_convolution_naive,
};
pub use nystrom::{Nystrom, NystromAttention, nystrom_attention};
pub use pinv::{PinvInit, iterative_pinv};
pub use segments::{MaskedMeans, masked_segment_means, segment_lengths, segment_means};
