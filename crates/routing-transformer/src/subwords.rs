//! Text of Tensor2Tensor's sub-words, such as those of the released weights: here the ids of model and vocabulary are the
//! same, padding is 0 and 1 ends a text.

use crate::generate::TextReader;
use core_attn::random::Key;
use datasets::SubwordsT2t;
use datasets::subword_t2t::END;
use language::Reader;
use trainer::{Error, Generate, Result, Sampling, sample_token};

/// Continues text of sub-words.
pub(crate) struct SubwordGenerator {
    pub reader: TextReader,
    pub vocabulary: SubwordsT2t,
}

impl SubwordGenerator {
    fn text(&self, ids: &[u32]) -> Result<String> {
        self.vocabulary.decode(ids).map_err(Error::other)
    }
}

impl Generate for SubwordGenerator {
    fn generate(
        &mut self,
        prompt: &str,
        options: &Sampling,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        options.validate("sampling")?;
        let mut ids = self.vocabulary.encode(prompt);
        if ids.is_empty() {
            let expected = "some text to continue";
            return Err(Error::value("the prompt", "empty", expected));
        }
        let key = Key::new(options.seed).site("generate");
        let known = self.vocabulary.len() - 1;
        let before = self.text(&ids)?.len();
        self.reader.restart()?;
        // Readers count their tokens from 0, behind padding.
        let mut unread: Vec<u32> = ids.iter().map(|id| id - 1).collect();
        let (mut all, mut shown) = (String::new(), 0);
        for i in 0..options.length {
            let mut scores = self.reader.read(&unread)?;
            scores.truncate(known);
            let next = sample_token(&scores, options, key, i as u64) as u32;
            if next + 1 == END {
                break;
            }
            ids.push(next + 1);
            unread = vec![next];
            let whole = self.text(&ids)?;
            all = whole.get(before..).unwrap_or_default().to_owned();
            if let Some(stop) = &options.stop
                && let Some(at) = all.find(stop.as_str()).filter(|_| !stop.is_empty())
            {
                all.truncate(at);
                break;
            }
            // An open word may still change, and may begin the stop text.
            let held = options.stop.as_ref().map_or(0, String::len);
            let closed = all.len().saturating_sub(held);
            if closed > shown && held == 0 && self.vocabulary.ends_word(next + 1) {
                sink(&all[shown..]);
                shown = all.len();
            }
        }
        if all.len() > shown {
            sink(&all[shown..]);
        }
        Ok(all)
    }
}
