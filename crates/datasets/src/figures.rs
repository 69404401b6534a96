//! Figures to print beside a result: what a model without context would reach, and what compressors reach.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lengths of a text after general compressors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Bytes after `xz -9`.
    pub xz_bytes: u64,
    /// Bytes after `gzip -9`.
    pub gzip_bytes: u64,
}

/// Entropy of the tokens' own frequencies, in bits per token; 0 for an empty stream.
///
/// ```
/// assert_eq!(datasets::order0_entropy(&[0, 1, 0, 1, 2, 2, 3, 3]), 2.0);
/// ```
pub fn order0_entropy(tokens: &[u32]) -> f64 {
    order0_cross_entropy(tokens, tokens)
}

/// Mean cost of `tokens` in bits per token under the frequencies of `train`; 0 for an empty stream. A token that `train` lacks
/// is counted as if `train` had shown it once.
pub fn order0_cross_entropy(train: &[u32], tokens: &[u32]) -> f64 {
    if tokens.is_empty() {
        return 0.0;
    }
    let here = counts(tokens);
    let mut model = counts(train);
    model.resize(model.len().max(here.len()), 0);
    for (seen, &n) in model.iter_mut().zip(&here) {
        if n > 0 {
            *seen = (*seen).max(1);
        }
    }
    let total = model.iter().sum::<u64>() as f64;
    let bits: f64 = model
        .iter()
        .zip(&here)
        .filter(|(_, n)| **n > 0)
        .map(|(&seen, &n)| n as f64 * (total / seen as f64).log2())
        .sum();
    bits / tokens.len() as f64
}

fn counts(tokens: &[u32]) -> Vec<u64> {
    let len = tokens.iter().max().map_or(0, |&max| max as usize + 1);
    let mut counts = vec![0u64; len];
    for &token in tokens {
        counts[token as usize] += 1;
    }
    counts
}

/// What to print beside a model's figure on one split. Everything is in bits per byte of the raw text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Anchors {
    /// The split coded with the token frequencies of the training text: a model that knows no context.
    pub order0_train: f64,
    /// The split coded with its own token frequencies.
    pub order0_own: f64,
    /// The whole text (not only this split) after `xz -9`, where known.
    pub xz: Option<f64>,
    /// The whole text (not only this split) after `gzip -9`, where known.
    pub gzip: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_follow_the_frequencies_of_train() {
        // p(0) = 1/2, p(1) = p(2) = 1/4.
        assert_eq!(order0_cross_entropy(&[0, 0, 1, 2], &[0, 1]), 1.5);
        // Token 1 counts once: p(0) = 3/4, p(1) = 1/4.
        assert_eq!(order0_cross_entropy(&[0, 0, 0], &[1, 1]), 2.0);
        assert_eq!(order0_cross_entropy(&[], &[7]), 0.0);
        assert_eq!(order0_cross_entropy(&[1], &[]), 0.0);
        assert_eq!(order0_entropy(&[5; 9]), 0.0);
    }
}
