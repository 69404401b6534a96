//! Text, token by token.
//!
//! The clusters of the last position are those of the text up to it: nothing after a position is there when its token is
//! drawn, whatever rule the model was trained with.

use crate::layers::Mode;
use crate::lm::{PADDING, RoutingTransformerLM};
use crate::task::model_ids;
use burn::prelude::*;
use core_attn::random::Key;
use datasets::Vocabulary;
use trainer::{Error, Generate, Result, Sampling, sample_token};

/// A model that continues text.
pub struct TextGenerator {
    model: RoutingTransformerLM,
    vocabulary: Vocabulary,
    window: usize,
    device: Device,
}

impl TextGenerator {
    /// Continues text with this model, on a device without autodiff, from at most the last `window` tokens.
    pub fn new(
        model: RoutingTransformerLM,
        vocabulary: Vocabulary,
        window: usize,
        device: Device,
    ) -> Self {
        Self {
            model,
            vocabulary,
            window: window.max(2),
            device,
        }
    }

    /// Scores of the tokens of the vocabulary after these.
    fn next(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let front = matches!(self.model, RoutingTransformerLM::Paper(_));
        let room = self.window - usize::from(front);
        let tokens = &tokens[tokens.len() - tokens.len().min(room)..];
        let mut ids = model_ids(tokens);
        if front {
            ids.insert(0, PADDING as i32);
        }
        let length = ids.len();
        let ids = Tensor::from_data(TensorData::new(ids, [1, length]), &self.device);
        let output = self
            .model
            .forward(ids, Mode::evaluation())
            .map_err(Error::other)?;
        let last = output.logits.narrow(1, length - 1, 1).into_data();
        // Id 0 is padding; ids beyond the vocabulary cannot be written.
        let known = self.vocabulary.len();
        Ok(last.iter::<f32>().skip(1).take(known).collect())
    }
}

impl Generate for TextGenerator {
    fn generate(
        &mut self,
        prompt: &str,
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        options.validate("sampling")?;
        let mut tokens = self
            .vocabulary
            .encode_prompt(prompt)
            .map_err(Error::other)?;
        if tokens.is_empty() {
            let expected = "at least one token to continue";
            return Err(Error::value("the prompt", "empty", expected));
        }
        let key = Key::new(options.seed).site("generate");
        let mut bytes: Vec<u8> = vec![];
        let mut shown = 0;
        for i in 0..options.length {
            let scores = self.next(&tokens)?;
            let next = sample_token(&scores, options, key, i as u64) as u32;
            let last = tokens.last().copied();
            bytes.extend(self.vocabulary.piece(last, next).map_err(Error::other)?);
            if let Some(stop) = &options.stop
                && let Some(at) = find(&bytes, stop.as_bytes())
            {
                bytes.truncate(at);
                break;
            }
            let ready = complete(&bytes[shown..]);
            sink(&String::from_utf8_lossy(&bytes[shown..shown + ready]));
            shown += ready;
            tokens.push(next);
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
    match std::str::from_utf8(bytes) {
        Ok(text) => text.len(),
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        Err(_) => bytes.len(),
    }
}
