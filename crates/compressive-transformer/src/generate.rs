//! Text, token by token. The chunk being written is read again for each token; memories move on once a chunk is full.

use crate::language::{MemoryModel, Mode};
use crate::stream::tokens;
use burn::prelude::*;
use core_attn::random::Key;
use datasets::Vocabulary;
use trainer::{Error, Generate, Result, Sampling, sample_token};

/// A model that continues text.
pub struct TextGenerator<M> {
    model: M,
    vocabulary: Vocabulary,
    device: Device,
}

impl<M: MemoryModel> TextGenerator<M> {
    /// Continues text with this model on a device without autodiff.
    pub fn new(model: M, vocabulary: Vocabulary, device: Device) -> Self {
        Self {
            model,
            vocabulary,
            device,
        }
    }
}

impl<M: MemoryModel> Generate for TextGenerator<M> {
    fn generate(
        &mut self,
        prompt: &str,
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        options.validate("sampling")?;
        let mut chunk = self
            .vocabulary
            .encode_prompt(prompt)
            .map_err(Error::other)?;
        let Some(mut last) = chunk.last().copied() else {
            return Err(Error::value(
                "the prompt",
                "empty",
                "at least one token to continue",
            ));
        };
        let size = self.model.chunk_size();
        let key = Key::new(options.seed).site("generate");
        let known = self.vocabulary.len();
        let mut state = self
            .model
            .start(1, self.model.sizes(), true)
            .map_err(Error::other)?;
        while chunk.len() > size {
            let rest = chunk.split_off(size);
            let full = tokens(&chunk, 1, &self.device);
            let output = self
                .model
                .read(full, None, state, Mode::evaluation(), &mut |_| {})
                .map_err(Error::other)?;
            state = output.state;
            chunk = rest;
        }
        let mut bytes: Vec<u8> = vec![];
        let mut shown = 0;
        for i in 0..options.length {
            let full = chunk.len() == size;
            let mode = match full {
                true => Mode::evaluation(),
                false => Mode::peek(),
            };
            let output = self
                .model
                .read(
                    tokens(&chunk, 1, &self.device),
                    None,
                    state,
                    mode,
                    &mut |_| {},
                )
                .map_err(Error::other)?;
            state = output.state;
            let end = output.hidden.narrow(1, chunk.len() - 1, 1);
            let scores = self.model.log_probabilities(end).into_data();
            // A model may have more ids than the vocabulary has tokens; those cannot be written.
            let scores: Vec<f32> = scores.iter::<f32>().take(known).collect();
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
            let ready = complete(bytes.get(shown..).unwrap_or(&[]));
            sink(&String::from_utf8_lossy(&bytes[shown..shown + ready]));
            shown += ready;
            last = next;
            if full {
                chunk.clear();
            }
            chunk.push(next);
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

/// Bytes that can be shown: all but a character at the end of which more bytes may come.
fn complete(bytes: &[u8]) -> usize {
    let end = bytes.utf8_chunks().last().map_or(&[][..], |c| c.invalid());
    match std::str::from_utf8(end) {
        Err(e) if e.error_len().is_none() => bytes.len() - end.len(),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::{complete, find};

    #[test]
    fn characters_are_shown_whole() {
        assert_eq!(complete("abé".as_bytes()), 4);
        assert_eq!(complete(&"abé".as_bytes()[..3]), 2);
        assert_eq!(complete(&[b'a', 0xFF, b'b']), 3);
        assert_eq!(complete(&[b'a', 0xFF, b'b', 0xC3]), 3);
        assert_eq!(find(b"one two", b"two"), Some(4));
        assert_eq!(find(b"one two", b""), None);
    }
}
