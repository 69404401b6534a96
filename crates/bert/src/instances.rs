//! What pre-training reads: sentences, masked words, pairs of segments (sections 3.1 and A.2 of the paper).

use crate::error::Error as BertError;
use crate::input::EncoderInput;
use crate::loss::IGNORED;
use crate::recipe::BertData;
use crate::tokenizer::{BertTokenizer, Encoded, SpecialIds, collate};
use core_attn::random::Key;
use datasets::labelled::{self, LabelledSpec};
use datasets::{Corpus, CorpusSpec, TextFormat};
use std::path::Path;
use trainer::{Error, Recipe, Result};

fn other(error: BertError) -> Error {
    Error::other(error)
}

/// A text to pre-train on, split by split and document by document.
pub(crate) struct Texts {
    pub name: String,
    /// Train, valid, test.
    pub splits: [Vec<String>; 3],
}

impl Texts {
    /// The recipe's corpus, or else the texts of its task without their labels.
    pub fn load(recipe: &Recipe, data: &BertData) -> Result<Self> {
        match (&data.corpus, &data.labelled) {
            (Some(spec), _) => Self::of_corpus(spec, recipe.base_dir()),
            (None, Some(spec)) => Self::of_labelled(spec, recipe.base_dir()),
            (None, None) => Err(Error::value(
                "data",
                "neither a text nor a task",
                "`corpus` to pre-train on, `labelled` for a classifier, or both",
            )),
        }
    }

    fn of_corpus(spec: &CorpusSpec, base: &Path) -> Result<Self> {
        let mut spec = spec.clone();
        if matches!(spec.format, None | Some(TextFormat::Bytes)) && spec.vocab.is_none() {
            // The text is what counts here, not a vocabulary of its bytes: none of them is unknown.
            spec.all_bytes = Some(true);
        }
        let corpus: Corpus = datasets::load(&spec, base).map_err(Error::other)?;
        let text = |split: &datasets::Split| -> Result<Vec<String>> {
            let ends = split.documents.iter().skip(1).copied();
            let ends = ends.chain([split.tokens.len()]);
            let starts = split.documents.iter().copied();
            let documents = starts.zip(ends).map(|(from, to)| {
                let bytes = corpus.vocabulary.decode_bytes(&split.tokens[from..to]);
                let bytes = bytes.map_err(Error::other)?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            });
            documents.collect()
        };
        Ok(Self {
            splits: [
                text(&corpus.train)?,
                text(&corpus.valid)?,
                text(&corpus.test)?,
            ],
            name: corpus.name,
        })
    }

    fn of_labelled(spec: &LabelledSpec, base: &Path) -> Result<Self> {
        let read = labelled::load(spec, base).map_err(Error::other)?;
        let texts = |list: Vec<datasets::glue::Example>| -> Vec<String> {
            let texts = list.into_iter().flat_map(|e| [Some(e.text_a), e.text_b]);
            texts.flatten().collect()
        };
        Ok(Self {
            name: read.name,
            splits: [texts(read.train), texts(read.valid), texts(read.test)],
        })
    }
}

/// The sentences of one split, as ids without special tokens, in the text's order.
pub(crate) struct Sentences {
    all: Vec<Vec<u32>>,
    /// For every sentence, the number of the first one behind its document.
    ends: Vec<usize>,
}

/// One sequence of pre-training.
pub(crate) struct Instance {
    pub encoded: Encoded,
    /// −100 where nothing is to be guessed.
    pub labels: Vec<i64>,
    /// 0: the second segment follows the first.
    pub next: i64,
}

/// Cuts a text at the ends of sentences and at empty lines.
fn sentences(text: &str) -> Vec<String> {
    let mut all = vec![];
    for paragraph in text.split("\n\n") {
        let mut start = 0;
        let mut characters = paragraph.char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            let ends = matches!(c, '.' | '!' | '?');
            let blank = characters
                .peek()
                .is_none_or(|(_, next)| next.is_whitespace());
            if ends && blank {
                all.push(paragraph[start..at + c.len_utf8()].trim().to_owned());
                start = at + c.len_utf8();
            }
        }
        all.push(paragraph[start..].trim().to_owned());
    }
    all.retain(|sentence| !sentence.is_empty());
    all
}

impl Sentences {
    pub fn new(documents: &[String], tokenizer: &BertTokenizer) -> Result<Self> {
        let (mut all, mut ends) = (vec![], vec![]);
        for document in documents {
            for sentence in sentences(document) {
                let encoded = tokenizer.encode(&sentence, None, None).map_err(other)?;
                let ids = encoded.ids.iter().zip(&encoded.special);
                let ids: Vec<u32> = ids.filter(|(_, s)| !**s).map(|(id, _)| *id).collect();
                if !ids.is_empty() {
                    all.push(ids);
                }
            }
            ends.resize(all.len(), all.len());
        }
        Ok(Self { all, ends })
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn tokens(&self) -> usize {
        self.all.iter().map(Vec::len).sum()
    }

    /// Mean nats of a token under the frequencies of `other`: what a guess without context costs.
    pub fn unigram_nats(&self, other: &Self, vocab: usize) -> f64 {
        let mut counts = vec![1.0f64; vocab];
        for id in other.all.iter().flatten() {
            counts[*id as usize] += 1.0;
        }
        let total: f64 = counts.iter().sum();
        let nats: f64 = self
            .all
            .iter()
            .flatten()
            .map(|id| -(counts[*id as usize] / total).ln())
            .sum();
        nats / self.tokens().max(1) as f64
    }

    /// Two segments of a document with masked words, drawn from `key` (section 3.1 and appendix A.1 of the paper): the second
    /// follows the first in half of the cases and is from elsewhere in the other half.
    pub fn instance(
        &self,
        key: Key,
        max_length: usize,
        special: SpecialIds,
        vocab: usize,
        mask_share: f64,
    ) -> Instance {
        let n = self.all.len();
        let room = max_length - 3;
        let start = key.site("start").below(0, n);
        let take = |from: usize, most: usize| {
            let mut count = 0;
            let mut tokens = 0;
            while from + count < self.ends[from] && tokens < most {
                tokens += self.all[from + count].len();
                count += 1;
            }
            count
        };
        let chunk = take(start, room).max(1);
        let first = 1 + key.site("cut").below(0, chunk.saturating_sub(1).max(1));
        let first = first.min(chunk);
        let join = |from: usize, count: usize| self.all[from..from + count].concat();
        let mut a = join(start, first);
        let elsewhere = chunk == first || key.site("next").uniform(0) < 0.5;
        let mut b = if elsewhere {
            // A start outside the chunk, where the text has one.
            let draw = key
                .site("elsewhere")
                .below(0, n.saturating_sub(chunk).max(1));
            let from = if draw >= start {
                (draw + chunk).min(n - 1)
            } else {
                draw
            };
            let most = room.saturating_sub(a.len()).max(1);
            join(from, take(from, most).max(1))
        } else {
            join(start + first, chunk - first)
        };
        let mut cuts = 0;
        while a.len() + b.len() > room {
            let longer = if a.len() > b.len() { &mut a } else { &mut b };
            // Front or back, so that neither end of the segments is favoured.
            match key.site("trim").bits(cuts) & 1 {
                0 => drop(longer.remove(0)),
                _ => drop(longer.pop()),
            }
            cuts += 1;
        }
        let mut ids = vec![special.class];
        ids.extend(&a);
        ids.push(special.separator);
        let second = ids.len();
        ids.extend(&b);
        ids.push(special.separator);
        let labels = mask_words(&mut ids, key.site("mask"), special, vocab, mask_share);
        let type_ids = (0..ids.len()).map(|i| u32::from(i >= second)).collect();
        Instance {
            encoded: Encoded {
                ids,
                type_ids,
                tokens: vec![],
                special: vec![],
                offsets: vec![],
            },
            labels,
            next: i64::from(elsewhere),
        }
    }
}

/// Chooses a share of the words to be guessed: 80 % become the mask, 10 % a random word, 10 % stay (section 3.1 of the
/// paper). Returns the labels, −100 where nothing is to be guessed.
pub(crate) fn mask_words(
    ids: &mut [u32],
    key: Key,
    special: SpecialIds,
    vocab: usize,
    share: f64,
) -> Vec<i64> {
    let never = [special.class, special.separator, special.pad];
    let mut labels = vec![IGNORED; ids.len()];
    for (i, id) in ids.iter_mut().enumerate() {
        let index = i as u64;
        if never.contains(id) || key.site("choose").uniform(index) >= share {
            continue;
        }
        labels[i] = i64::from(*id);
        match key.site("how").uniform(index) {
            u if u < 0.8 => *id = special.mask,
            u if u < 0.9 => *id = key.site("word").below(index, vocab) as u32,
            _ => {}
        }
    }
    labels
}

/// Instances as one batch with its labels, padded to the longest.
pub(crate) fn batch_of(
    instances: Vec<Instance>,
    pad: u32,
) -> Result<(EncoderInput, Vec<i64>, Vec<i64>)> {
    let next = instances.iter().map(|i| i.next).collect();
    let (rows, labels): (Vec<Encoded>, Vec<Vec<i64>>) =
        instances.into_iter().map(|i| (i.encoded, i.labels)).unzip();
    let input = collate(&rows, pad).map_err(other)?;
    let padded = labels.into_iter().flat_map(|mut row| {
        row.resize(input.length(), IGNORED);
        row
    });
    let labels = padded.collect();
    Ok((input, labels, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_blank_follows() {
        let text = "It is 3.5 miles. Who?\nNobody\n\nA heading\n\nYes!";
        let found = sentences(text);
        assert_eq!(
            found,
            ["It is 3.5 miles.", "Who?", "Nobody", "A heading", "Yes!"]
        );
    }

    #[test]
    fn a_share_of_the_words_is_masked_as_published() {
        let special = SpecialIds {
            pad: 0,
            unknown: 1,
            class: 2,
            separator: 3,
            mask: 4,
        };
        let before: Vec<u32> = (0..100_000).map(|i| 5 + i % 995).collect();
        let mut ids = before.clone();
        let labels = mask_words(&mut ids, Key::new(1), special, 1000, 0.15);
        let chosen = labels.iter().filter(|l| **l != IGNORED).count() as f64;
        assert!((chosen / 1e5 - 0.15).abs() < 0.005, "{chosen}");
        let masked = ids.iter().filter(|id| **id == 4).count() as f64;
        assert!((masked / chosen - 0.8).abs() < 0.02, "{masked}");
        let kept = (0..ids.len())
            .filter(|&i| labels[i] != IGNORED && ids[i] == before[i])
            .count() as f64;
        assert!((kept / chosen - 0.1).abs() < 0.02, "{kept}");
        for i in 0..ids.len() {
            assert!(labels[i] == IGNORED || labels[i] == i64::from(before[i]));
            assert!(labels[i] != IGNORED || ids[i] == before[i]);
        }
    }

    #[test]
    fn segments_fit_and_half_of_them_follow() {
        let special = SpecialIds {
            pad: 0,
            unknown: 1,
            class: 2,
            separator: 3,
            mask: 4,
        };
        let text = Sentences {
            all: (0..200u32)
                .map(|i| vec![5 + i; 3 + (i % 7) as usize])
                .collect(),
            // Two documents.
            ends: (0..200).map(|i| if i < 90 { 90 } else { 200 }).collect(),
        };
        let mut follow = 0;
        for i in 0..2000 {
            let found = text.instance(Key::new(3).fold(i), 40, special, 300, 1e-9);
            let ids = &found.encoded.ids;
            assert!(ids.len() <= 40 && ids.len() >= 5);
            assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
            let cut = ids.iter().position(|id| *id == 3).unwrap();
            let (last, first) = (ids[cut - 1], ids[cut + 1]);
            if found.next == 0 {
                follow += 1;
                assert!(first >= last && first - last <= 4, "{last} {first}");
                assert_eq!(last < 95, first < 95, "a pair of two documents");
            }
            assert_eq!(
                found.encoded.type_ids.iter().filter(|t| **t == 0).count(),
                cut + 1
            );
        }
        assert!((850..1150).contains(&follow), "{follow}");
    }
}
