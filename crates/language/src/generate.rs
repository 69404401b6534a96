//! Text, token by token.

use core_attn::random::Key;
use datasets::Vocabulary;
use trainer::{Error, Generate, Result, Sampling, sample_token};

/// A model that reads a text from its beginning, some tokens at a time, and carries along what it needs of them.
pub trait Reader {
    /// Forgets what was read.
    ///
    /// # Errors
    /// Whatever the model refuses.
    fn restart(&mut self) -> Result<()>;

    /// Reads on: a score for each id of the vocabulary (more are allowed and not used), for the token after these.
    ///
    /// # Errors
    /// Whatever the model refuses.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;
}

/// A model that continues text.
pub struct TextGenerator<R> {
    reader: R,
    vocabulary: Vocabulary,
}

impl<R: Reader> TextGenerator<R> {
    /// Continues text of this vocabulary.
    pub fn new(reader: R, vocabulary: Vocabulary) -> Self {
        Self { reader, vocabulary }
    }

    /// Continues a text given as ids.
    ///
    /// # Errors
    /// No ids, or options out of range.
    pub fn continue_ids(
        &mut self,
        prompt: &[u32],
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        options.validate("sampling")?;
        let Some(mut last) = prompt.last().copied() else {
            let expected = "at least one token to continue";
            return Err(Error::value("the prompt", "empty", expected));
        };
        let key = Key::new(options.seed).site("generate");
        // A model may have more ids than the vocabulary has tokens; those cannot be written.
        let known = self.vocabulary.len();
        self.reader.restart()?;
        let mut unread = prompt.to_vec();
        let mut bytes: Vec<u8> = vec![];
        let mut shown = 0;
        for i in 0..options.length {
            let mut scores = self.reader.read(&unread)?;
            scores.truncate(known);
            let next = sample_token(&scores, options, key, i as u64) as u32;
            let piece = self.vocabulary.piece(Some(last), next);
            bytes.extend(piece.map_err(Error::other)?);
            if let Some(stop) = &options.stop
                && let Some(at) = find(&bytes, stop.as_bytes())
            {
                bytes.truncate(at);
                break;
            }
            // What may be the beginning of the stop word is not shown before that is known.
            let stop = options.stop.as_deref().unwrap_or("");
            let held = beginning(&bytes, stop.as_bytes());
            let free = bytes.len().saturating_sub(held).max(shown);
            let ready = complete(&bytes[shown..free]);
            sink(&String::from_utf8_lossy(&bytes[shown..shown + ready]));
            shown += ready;
            last = next;
            unread = vec![next];
        }
        if shown < bytes.len() {
            sink(&String::from_utf8_lossy(&bytes[shown..]));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl<R: Reader> Generate for TextGenerator<R> {
    fn generate(
        &mut self,
        prompt: &str,
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let ids = self.vocabulary.encode_prompt(prompt);
        self.continue_ids(&ids.map_err(Error::other)?, options, sink)
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
