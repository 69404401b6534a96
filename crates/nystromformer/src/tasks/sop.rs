//! Sequences of pre-training: two stretches of a document in their order or out of it, with words to be guessed.

use super::hide::hide;
use super::text::split_sentences;
use crate::pretraining::PreTrainingBatch;
use bert::{BertTokenizer, EncoderInput, SpecialIds};
use core_attn::random::Key;
use trainer::{Error, Result};

/// The sentences of documents, as ids without special tokens. Documents of one sentence are left out: nothing can be out of
/// order in them.
#[derive(Debug, Clone, PartialEq)]
pub struct Documents {
    documents: Vec<Vec<Vec<u32>>>,
    /// Document and sentence of every place where a sequence may begin.
    starts: Vec<(usize, usize)>,
}

/// One sequence of pre-training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `[CLS] A [SEP] B [SEP]`, with hidden words.
    pub ids: Vec<u32>,
    /// 0 for the first stretch with both its special tokens, 1 for the rest.
    pub types: Vec<u32>,
    /// Places and words to be guessed.
    pub hidden: Vec<(usize, u32)>,
    /// Whether the second stretch does not follow the first.
    pub out_of_order: bool,
}

impl Documents {
    /// Cuts texts, each a document, into sentences and those into ids.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn new<S: AsRef<str>>(texts: &[S], tokenizer: &BertTokenizer) -> Result<Self> {
        let mut documents = vec![];
        for text in texts {
            let mut document = vec![];
            for sentence in split_sentences(text.as_ref()) {
                let encoded = tokenizer.encode(sentence, None, None);
                let encoded = encoded.map_err(Error::other)?;
                let ids = encoded.ids.iter().zip(&encoded.special);
                let ids: Vec<u32> = ids.filter(|(_, s)| !**s).map(|(id, _)| *id).collect();
                if !ids.is_empty() {
                    document.push(ids);
                }
            }
            documents.push(document);
        }
        Ok(Self::of_ids(documents))
    }

    /// Documents that are cut already: sentences of ids.
    pub fn of_ids(mut documents: Vec<Vec<Vec<u32>>>) -> Self {
        documents.retain(|document| document.len() > 1);
        let starts = documents
            .iter()
            .enumerate()
            .flat_map(|(d, document)| (0..document.len()).map(move |s| (d, s)));
        let starts = starts.collect();
        Self { documents, starts }
    }

    /// Number of sentences.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no sentence.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Ids of all sentences, in order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.documents.iter().flatten().flatten().copied()
    }

    /// A sequence drawn from `key`: sentences from a random start until `max_length` tokens, or in one of ten cases a random
    /// number, are reached, cut at a random sentence, and put out of order in half of the cases. What is too long is cut from
    /// either end of the longer stretch. There must be a sentence, and room for two tokens.
    pub fn instance(
        &self,
        key: Key,
        max_length: usize,
        special: SpecialIds,
        vocab: usize,
        mask: (f64, usize),
    ) -> Instance {
        let room = max_length.saturating_sub(3).max(2);
        let short = key.site("short");
        let target = match short.uniform(0) < 0.1 {
            true => 2 + short.below(1, room - 1),
            false => room,
        };
        let (document, start) = self.starts[key.site("start").below(0, self.starts.len())];
        let sentences = &self.documents[document];
        // Sentences from `from` until there are `most` tokens; at least one.
        let take = |from: usize, most: usize| {
            let mut tokens = 0;
            let taken = sentences[from..].iter().take_while(|sentence| {
                let enough = tokens >= most;
                tokens += sentence.len();
                !enough
            });
            taken.count().max(1)
        };
        let count = take(start, target);
        let chunk = &sentences[start..start + count];
        let cut = key.site("cut").below(0, count.saturating_sub(1).max(1)) + 1;
        let (mut a, mut b, out_of_order) = if count == 1 {
            let from = key.site("elsewhere").below(0, sentences.len());
            let left = target.saturating_sub(chunk[0].len());
            let others = &sentences[from..from + take(from, left)];
            (chunk[0].clone(), others.concat(), true)
        } else {
            let (a, b) = (chunk[..cut].concat(), chunk[cut..].concat());
            match key.site("swap").uniform(0) < 0.5 {
                true => (b, a, true),
                false => (a, b, false),
            }
        };
        let mut cuts = 0;
        while a.len() + b.len() > target {
            let longer = if a.len() > b.len() { &mut a } else { &mut b };
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
        let (share, most) = mask;
        let hidden = hide(&mut ids, key.site("mask"), special, vocab, share, most);
        let types = (0..ids.len()).map(|i| u32::from(i >= second)).collect();
        Instance {
            ids,
            types,
            hidden,
            out_of_order,
        }
    }
}

/// Instances as a batch, padded to `length`.
///
/// # Errors
/// No instances, or one longer than `length`.
pub(super) fn batch(instances: &[Instance], length: usize, pad: u32) -> Result<PreTrainingBatch> {
    let rows = instances.len();
    let most = instances.iter().map(|i| i.hidden.len()).max().unwrap_or(0);
    let (mut ids, mut types, mut mask) = (vec![], vec![], vec![]);
    let (mut positions, mut labels, mut counts) = (vec![], vec![], vec![]);
    for (i, instance) in instances.iter().enumerate() {
        ids.extend(instance.ids.iter().map(|id| i64::from(*id)));
        ids.resize((i + 1) * length, i64::from(pad));
        types.extend(instance.types.iter().map(|t| i64::from(*t)));
        types.resize((i + 1) * length, 0);
        mask.extend((0..length).map(|t| t < instance.ids.len()));
        let n = instance.hidden.len();
        for j in 0..most {
            let (place, word) = instance.hidden.get(j).copied().unwrap_or_default();
            positions.push(place as i64);
            labels.push(i64::from(word));
            counts.push(j < n);
        }
    }
    let input = EncoderInput::new(ids, rows, length)
        .and_then(|input| input.with_attention_mask(mask))
        .and_then(|input| input.with_token_types(types));
    Ok(PreTrainingBatch {
        input: input.map_err(Error::other)?,
        mask_positions: positions,
        mask_labels: labels,
        label_mask: counts,
        sentence_labels: instances
            .iter()
            .map(|i| i64::from(i.out_of_order))
            .collect(),
    })
}

/// Mean nats of the ids of `text` under the frequencies of `train`: what a guess without context costs.
pub(super) fn unigram_nats(
    text: impl Iterator<Item = u32>,
    train: impl Iterator<Item = u32>,
    vocab: usize,
) -> f64 {
    let mut counts = vec![1.0f64; vocab];
    for id in train {
        counts[id as usize] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    let (mut nats, mut n) = (0.0, 0usize);
    for id in text {
        nats -= (counts[id as usize] / total).ln();
        n += 1;
    }
    nats / n.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: SpecialIds = SpecialIds {
        pad: 0,
        unknown: 1,
        class: 2,
        separator: 3,
        mask: 4,
    };

    /// Every word tells its place: the ids of sentence s of document d begin at 1000 · d + 10 · s.
    fn documents() -> Documents {
        let document = |d: u32| -> Vec<Vec<u32>> {
            let sentence = |s: u32| (0..3 + s % 5).map(|w| 1000 * d + 10 * s + w).collect();
            (1..40).map(sentence).collect()
        };
        Documents::of_ids((1..9).map(document).collect())
    }

    #[test]
    fn half_of_the_sequences_are_out_of_order_and_all_are_of_one_document() {
        let text = documents();
        let (mut out, mut short) = (0, 0);
        for i in 0..2000 {
            let found = text.instance(Key::new(3).fold(i), 40, SPECIAL, 10_000, (1e-9, 1));
            let mut ids = found.ids.clone();
            for &(place, word) in &found.hidden {
                ids[place] = word;
            }
            assert!(ids.len() <= 40 && ids.len() >= 4, "{}", ids.len());
            assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
            let cut = ids.iter().position(|id| *id == 3).unwrap();
            assert_eq!(found.types.iter().filter(|t| **t == 0).count(), cut + 1);
            let (a, b) = (&ids[1..cut], &ids[cut + 1..ids.len() - 1]);
            let mut words = a.iter().chain(b).map(|word| word / 1000);
            let document = words.next();
            assert!(words.all(|other| Some(other) == document), "{ids:?}");
            if let (Some(last), Some(first), false) = (a.last(), b.first(), found.out_of_order) {
                assert!(last < first, "{last} {first}");
            }
            out += usize::from(found.out_of_order);
            short += usize::from(ids.len() < 34);
        }
        assert!((900..1200).contains(&out), "{out}");
        assert!((100..900).contains(&short), "{short}");
    }

    #[test]
    fn a_single_sentence_takes_another_of_its_document() {
        let long = |from: u32| (from..from + 60).collect::<Vec<u32>>();
        let text = Documents::of_ids(vec![vec![long(100), long(200)], vec![long(900)]]);
        assert_eq!(text.len(), 2, "a document of one sentence is left out");
        for i in 0..50 {
            let found = text.instance(Key::new(1).fold(i), 40, SPECIAL, 1000, (1e-9, 1));
            assert!(found.out_of_order);
            assert!(found.ids.iter().all(|id| *id < 900));
        }
    }

    #[test]
    fn batches_are_padded_in_every_part() {
        let text = documents();
        let instances: Vec<Instance> = (0..6)
            .map(|i| text.instance(Key::new(5).fold(i), 40, SPECIAL, 10_000, (0.15, 80)))
            .collect();
        let batch = batch(&instances, 48, 0).unwrap();
        assert_eq!((batch.input.batch(), batch.input.length()), (6, 48));
        let most = batch.mask_positions.len() / 6;
        for (i, instance) in instances.iter().enumerate() {
            let counts = &batch.label_mask[i * most..(i + 1) * most];
            let n = counts.iter().filter(|c| **c).count();
            assert_eq!(n, instance.hidden.len());
            for j in 0..n {
                let place = batch.mask_positions[i * most + j] as usize;
                assert_eq!(instance.hidden[j].0, place);
                assert_eq!(
                    i64::from(instance.hidden[j].1),
                    batch.mask_labels[i * most + j]
                );
            }
        }
    }
}
