//! What a trained model may be able to do, as small traits, and how a token is drawn from its logits.

use crate::{Context, Error, Metrics, Result, Split};
use core_attn::random::Key;
use pretrained::NamedTensors;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Continues a text.
pub trait Generate {
    /// Continues `prompt`; each piece goes to `sink` as soon as it is there, the whole continuation is returned.
    ///
    /// # Errors
    /// When the prompt holds a token the vocabulary does not know, or the options are out of range.
    fn generate(
        &mut self,
        prompt: &str,
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String>;
}

/// Answers one input.
pub trait Predict {
    /// Answers one input, both in the model's own JSON form.
    ///
    /// # Errors
    /// When the input has another form.
    fn predict(&mut self, input: &Value) -> Result<Value>;
}

/// Draws samples from nothing, such as images.
pub trait Sample {
    /// Draws `count` samples; the seed decides which.
    ///
    /// # Errors
    /// When the model refuses the count.
    fn sample(&mut self, count: usize, seed: u64) -> Result<NamedTensors>;
}

/// Says how likely each token of a split is.
pub trait Score {
    /// Scores the tokens of a split and returns the metrics over all that were scored; `sink` is given each of them, in the order
    /// of the text.
    ///
    /// # Errors
    /// When the options are out of range, `sink` fails, or the work is cancelled.
    fn score(
        &mut self,
        split: Split,
        options: &Scoring,
        sink: &mut dyn FnMut(TokenScore<'_>) -> Result<()>,
        cx: &mut Context,
    ) -> Result<Metrics>;
}

/// What stands before a token that is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scoring {
    /// Read the text in windows that begin so many tokens apart, each from nothing. A token is scored in the first window that
    /// holds it, so that all but those of the first window have at least `window - stride` tokens before them. Without a stride a
    /// model that remembers reads each row of the text once from its beginning, and another reads windows that do not overlap.
    pub stride: Option<usize>,
    /// Tokens of a window; absent: what the model can see.
    pub window: Option<usize>,
}

/// The score of a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore<'a> {
    /// Its place among the tokens of the split, from 0.
    pub position: usize,
    /// Its id.
    pub id: u32,
    /// What it stands for.
    pub piece: &'a [u8],
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// How a text is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// How many tokens to generate.
    pub length: usize,
    /// Divides the logits before the softmax; 0 takes the most probable token.
    pub temperature: f64,
    /// Draw among the so many most probable tokens only.
    pub top_k: Option<usize>,
    /// Draw among the smallest set of tokens only whose probabilities sum to at least this.
    pub top_p: Option<f64>,
    /// Decides the draws.
    pub seed: u64,
    /// Stop when the continuation contains this text.
    pub stop: Option<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            length: 256,
            temperature: 0.8,
            top_k: None,
            top_p: None,
            seed: 1,
            stop: None,
        }
    }
}

impl Sampling {
    /// Checks the ranges; `at` is the path of this section.
    ///
    /// # Errors
    /// [`Error::Value`] naming the first value out of range.
    pub fn validate(&self, at: &str) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::value(
                format!("{at}.temperature"),
                self.temperature,
                "a number of at least 0",
            ));
        }
        if self.top_k == Some(0) {
            return Err(Error::value(format!("{at}.top_k"), 0, "at least 1"));
        }
        if let Some(p) = self.top_p
            && !(p > 0.0 && p <= 1.0)
        {
            return Err(Error::value(
                format!("{at}.top_p"),
                p,
                "a number above 0 and up to 1",
            ));
        }
        Ok(())
    }
}

/// Draws a token: temperature, then top-k, then top-p, then one uniform draw `key.uniform(index)`.
///
/// With temperature 0, and for logits without any finite value, the first of the largest logits wins. NaN counts as minus
/// infinity. Ties are ordered by token id. An empty slice gives 0.
pub fn sample_token(logits: &[f32], options: &Sampling, key: Key, index: u64) -> usize {
    let value = |id: usize| {
        let logit = f64::from(logits[id]);
        if logit.is_nan() {
            f64::NEG_INFINITY
        } else {
            logit
        }
    };
    let larger = |a: usize, b: usize| if value(b) > value(a) { b } else { a };
    let Some(best) = (0..logits.len()).reduce(larger) else {
        return 0;
    };
    // A temperature that is no positive number counts as 0.
    if options.temperature.is_nan() || options.temperature <= 0.0 || !value(best).is_finite() {
        return best;
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
    order.truncate(options.top_k.unwrap_or(usize::MAX).max(1));
    let mut weights: Vec<f64> = order
        .iter()
        .map(|&id| ((value(id) - value(best)) / options.temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    if let Some(p) = options.top_p {
        let mut sum = 0.0;
        let keep = weights
            .iter()
            .position(|w| {
                sum += w / total;
                sum >= p
            })
            .map_or(weights.len(), |last| last + 1);
        weights.truncate(keep);
    }
    let mut left = key.uniform(index) * weights.iter().sum::<f64>();
    for (&id, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return id;
        }
    }
    // Rounding may leave a rest after the last weight: the last token with any weight takes it.
    weights
        .iter()
        .rposition(|&w| w > 0.0)
        .map_or(best, |last| order[last])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(options: &Sampling, logits: &[f32], n: u64) -> Vec<f64> {
        let mut counts = vec![0u32; logits.len()];
        for index in 0..n {
            counts[sample_token(logits, options, Key::new(7), index)] += 1;
        }
        let share = |count| f64::from(count) / n as f64;
        counts.into_iter().map(share).collect()
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, (2.0f32).ln(), f32::NEG_INFINITY, (5.0f32).ln()];
        let options = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        let found = draws(&options, &logits, 20_000);
        for (f, e) in found.iter().zip([0.125, 0.25, 0.0, 0.625]) {
            assert!((f - e).abs() < 0.015, "{found:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, (2.0f32).ln(), (5.0f32).ln()];
        let k = Sampling {
            temperature: 1.0,
            top_k: Some(2),
            ..Sampling::default()
        };
        let found = draws(&k, &logits, 20_000);
        assert!(
            found[0] == 0.0 && (found[1] - 2.0 / 7.0).abs() < 0.015,
            "{found:?}"
        );
        let p = Sampling {
            top_k: None,
            top_p: Some(0.6),
            ..k
        };
        assert_eq!(draws(&p, &logits, 100)[2], 1.0);
    }

    #[test]
    fn temperature_zero_is_greedy_and_broken_logits_do_not_panic() {
        let greedy = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        let key = Key::new(1);
        assert_eq!(sample_token(&[1.0, 3.0, 3.0], &greedy, key, 0), 1);
        let hot = Sampling::default();
        assert_eq!(
            sample_token(&[f32::NAN, f32::NEG_INFINITY], &hot, key, 0),
            0
        );
        assert_eq!(sample_token(&[f32::NAN, 0.5], &hot, key, 3), 1);
        assert_eq!(sample_token(&[], &hot, key, 0), 0);
        assert!(
            Sampling {
                top_p: Some(0.0),
                ..hot
            }
            .validate("evaluation.sample")
            .is_err()
        );
    }
}
