//! Text, token by token: blocks of one with projected caches, so a token costs the sum of the spans.

use crate::experiment::tokens;
use crate::model::{Mode, TransformerSeq};
use burn::prelude::*;
use core_attn::random::Key;
use datasets::Vocabulary;
use trainer::{Error, Generate, Result, Sampling, sample_token};

/// A model that continues text.
pub struct TextGenerator {
    model: TransformerSeq,
    vocabulary: Vocabulary,
    device: Device,
}

impl TextGenerator {
    /// Continues text with this model on a device without autodiff.
    pub fn new(model: TransformerSeq, vocabulary: Vocabulary, device: Device) -> Self {
        Self {
            model,
            vocabulary,
            device,
        }
    }
}

impl Generate for TextGenerator {
    fn generate(
        &mut self,
        prompt: &str,
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let prompt = self
            .vocabulary
            .encode_prompt(prompt)
            .map_err(Error::other)?;
        self.continue_ids(prompt, options, sink)
    }
}

impl TextGenerator {
    /// Continues a text given as ids.
    ///
    /// # Errors
    /// No ids, or options out of range.
    pub fn continue_ids(
        &mut self,
        prompt: Vec<u32>,
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        options.validate("sampling")?;
        let Some(mut last) = prompt.last().copied() else {
            return Err(Error::value(
                "the prompt",
                "empty",
                "at least one token to continue",
            ));
        };
        let key = Key::new(options.seed).site("generate");
        let known = self.vocabulary.len();
        let mut cache = self.model.empty_projected_cache(1);
        let mut block = prompt;
        let mut bytes: Vec<u8> = vec![];
        let mut shown = 0;
        for i in 0..options.length {
            let output =
                self.model
                    .forward(tokens(&block, 1, &self.device), cache, Mode::evaluation())?;
            cache = output.cache;
            let [_, length, _] = output.hidden.dims();
            let scores = self
                .model
                .log_probabilities(output.hidden.narrow(1, length - 1, 1));
            // A model may have more ids than the vocabulary has tokens; those cannot be written.
            let scores: Vec<f32> = scores.into_data().iter::<f32>().take(known).collect();
            let next = sample_token(&scores, options, key, i as u64) as u32;
            bytes.extend(
                self.vocabulary
                    .piece(Some(last), next)
                    .map_err(Error::other)?,
            );
            if let Some(stop) = &options.stop
                && let Some(at) = find(&bytes, stop.as_bytes())
            {
                bytes.truncate(at);
                break;
            }
            // What may be the beginning of the stop word is not shown before that is known.
            let held = options
                .stop
                .as_ref()
                .map_or(0, |stop| beginning(&bytes, stop.as_bytes()));
            let free = bytes.len().saturating_sub(held).max(shown);
            let ready = complete(&bytes[shown..free]);
            sink(&String::from_utf8_lossy(&bytes[shown..shown + ready]));
            shown += ready;
            last = next;
            block = vec![next];
        }
        if shown < bytes.len() {
            sink(&String::from_utf8_lossy(&bytes[shown..]));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    (!word.is_empty()).then(|| text.windows(word.len()).position(|w| w == word))?
}

/// Length of the longest end of `text` that is a beginning of `word`.
fn beginning(text: &[u8], word: &[u8]) -> usize {
    let longest = word.len().saturating_sub(1).min(text.len());
    let fits = |n: &usize| text.ends_with(&word[..*n]);
    (1..=longest).rev().find(fits).unwrap_or(0)
}

/// Bytes that can be shown: all but a character at the end of which more bytes may come.
fn complete(bytes: &[u8]) -> usize {
    let unfinished = |n: &usize| {
        let end = std::str::from_utf8(&bytes[bytes.len() - n..]);
        end.is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    };
    let cut = (1..=bytes.len().min(3)).find(unfinished).unwrap_or(0);
    bytes.len() - cut
}

#[cfg(test)]
mod tests {
    use super::{beginning, complete, find};

    #[test]
    fn characters_are_shown_whole() {
        assert_eq!(complete("abé".as_bytes()), 4);
        assert_eq!(complete(&"abé".as_bytes()[..3]), 2);
        assert_eq!(complete(&[b'a', 0xFF, b'b']), 3);
        assert_eq!(complete(&[b'a', 0xFF, 0xF0, 0x9F]), 2);
        assert_eq!(complete(&[]), 0);
        assert_eq!(find(b"one two", b"two"), Some(4));
        assert_eq!(find(b"one two", b""), None);
        assert_eq!(beginning(b"a st", b"stop"), 2);
        assert_eq!(beginning(b"a stop", b"stop"), 0);
        assert_eq!(beginning(b"", b"stop"), 0);
    }
}
