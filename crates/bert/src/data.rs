//! What the two experiments read: sentences for pre-training, labelled texts for a classifier.

use crate::error::Error as BertError;
use crate::input::EncoderInput;
use crate::loss::{IGNORED, Labels};
use crate::recipe::{BertData, PartsSpec, TrainingConfig};
use crate::tokenizer::{BertTokenizer, Encoded, SpecialIds, TokenizerOptions, collate};
use crate::vocabulary::train_vocabulary;
use core_attn::random::Key;
use datasets::glue::{self, Label, Task};
use datasets::{Corpus, CorpusSpec, TextFormat};
use std::path::Path;
use trainer::{Error, Recipe, Result};

fn other(error: BertError) -> Error {
    Error::other(error)
}

/// The text of a corpus, split by split.
pub(crate) struct CorpusText {
    pub name: String,
    /// Train, valid, test.
    pub splits: [String; 3],
}

impl CorpusText {
    pub fn load(spec: &CorpusSpec, base: &Path) -> Result<Self> {
        let mut spec = spec.clone();
        if matches!(spec.format, None | Some(TextFormat::Bytes)) && spec.vocab.is_none() {
            // The text is what counts here, not a vocabulary of its bytes: none of them is unknown.
            spec.all_bytes = Some(true);
        }
        let corpus: Corpus = datasets::load(&spec, base).map_err(Error::other)?;
        let text = |split: &datasets::Split| -> Result<String> {
            let bytes = corpus.vocabulary.decode_bytes(&split.tokens);
            let bytes = bytes.map_err(Error::other)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
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
}

/// The tokenizer a recipe asks for: its own, that of the model it starts from, or one made of `text`.
pub(crate) fn tokenizer(
    recipe: &Recipe,
    data: &BertData,
    training: &TrainingConfig,
    text: &dyn Fn() -> String,
) -> Result<BertTokenizer> {
    if let Some(path) = &data.tokenizer {
        let path = recipe.path(path);
        let found = match path.extension().and_then(|e| e.to_str()) {
            Some("json") => BertTokenizer::from_json_file(&path),
            Some("txt") => BertTokenizer::from_vocab_file(
                &path,
                TokenizerOptions {
                    do_lower_case: data.lowercase,
                    ..TokenizerOptions::default()
                },
            ),
            _ => BertTokenizer::from_folder(&path),
        };
        return found.map_err(other);
    }
    if let Some(from) = &training.from {
        return BertTokenizer::from_folder(recipe.path(from)).map_err(other);
    }
    let options = TokenizerOptions {
        do_lower_case: data.lowercase,
        ..TokenizerOptions::default()
    };
    let vocab = train_vocabulary(&text(), data.vocab_size, options).map_err(other)?;
    BertTokenizer::from_vocab(&vocab, options, &recipe.file).map_err(other)
}

/// The sentences of one split, as ids without special tokens, in the text's order.
pub(crate) struct Sentences(Vec<Vec<u32>>);

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
    pub fn new(text: &str, tokenizer: &BertTokenizer) -> Result<Self> {
        let mut all = vec![];
        for sentence in sentences(text) {
            let encoded = tokenizer.encode(&sentence, None, None).map_err(other)?;
            let ids = encoded.ids.iter().zip(&encoded.special);
            let ids: Vec<u32> = ids.filter(|(_, s)| !**s).map(|(id, _)| *id).collect();
            if !ids.is_empty() {
                all.push(ids);
            }
        }
        Ok(Self(all))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn tokens(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Mean nats of a token under the frequencies of `other`: what a guess without context costs.
    pub fn unigram_nats(&self, other: &Self, vocab: usize) -> f64 {
        let mut counts = vec![1.0f64; vocab];
        for id in other.0.iter().flatten() {
            counts[*id as usize] += 1.0;
        }
        let total: f64 = counts.iter().sum();
        let nats: f64 = self
            .0
            .iter()
            .flatten()
            .map(|id| -(counts[*id as usize] / total).ln())
            .sum();
        nats / self.tokens().max(1) as f64
    }

    /// Two segments of the text with masked words, drawn from `key` (section 3.1 and appendix A.1 of the paper): the second
    /// follows the first in half of the cases and is from elsewhere in the other half.
    pub fn instance(
        &self,
        key: Key,
        max_length: usize,
        special: SpecialIds,
        vocab: usize,
        mask_share: f64,
    ) -> Instance {
        let n = self.0.len();
        let room = max_length - 3;
        let start = key.site("start").below(0, n);
        let take = |from: usize, most: usize| {
            let mut count = 0;
            let mut tokens = 0;
            while from + count < n && tokens < most {
                tokens += self.0[from + count].len();
                count += 1;
            }
            count
        };
        let chunk = take(start, room).max(1);
        let first = 1 + key.site("cut").below(0, chunk.saturating_sub(1).max(1));
        let first = first.min(chunk);
        let join = |from: usize, count: usize| self.0[from..from + count].concat();
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

/// A text or pair, not yet tokenised, with its label.
struct Raw {
    a: String,
    b: Option<String>,
    label: f64,
}

/// A labelled text or pair.
pub(crate) struct Sample {
    pub encoded: Encoded,
    /// The class's index, or the number to be found.
    pub label: f64,
}

/// Labelled texts.
pub(crate) struct Labelled {
    /// What it is, for people.
    pub name: String,
    /// The GLUE task, whose metrics are reported; `None`: accuracy.
    pub task: Option<Task>,
    /// The classes; `None` for a regression.
    pub classes: Option<Vec<String>>,
    pub train: Vec<Sample>,
    /// Judged during the run.
    pub valid: Vec<Sample>,
    /// Judged at its end.
    pub test: Vec<Sample>,
    pub tokenizer: BertTokenizer,
}

impl Labelled {
    pub fn load(recipe: &Recipe, data: &BertData, training: &TrainingConfig) -> Result<Self> {
        let (name, task, classes, raw) = match (&data.glue, &data.corpus, &data.parts) {
            (Some(spec), None, None) => {
                let task = Task::from_name(&spec.task).map_err(Error::other)?;
                let read = glue::load(&recipe.path(&spec.path), task).map_err(Error::other)?;
                let raw = |list: Vec<glue::Example>| -> Vec<Raw> {
                    let known = list.into_iter().filter_map(|e| {
                        let label = match e.label {
                            Label::Class(class) => class as f64,
                            Label::Value(value) => value,
                            Label::None => return None,
                        };
                        Some(Raw {
                            a: e.text_a,
                            b: e.text_b,
                            label,
                        })
                    });
                    known.collect()
                };
                // The benchmark's test files have no labels: the second development file, or the first again.
                let mut dev = read.dev.into_iter().map(|(_, list)| list);
                let valid = dev.next().unwrap_or_default();
                let test = dev.next().unwrap_or_else(|| valid.clone());
                let names = task
                    .labels()
                    .map(|l| l.iter().map(|n| (*n).to_owned()).collect());
                let raw = [raw(read.train), raw(valid), raw(test)];
                (format!("GLUE {}", task.name()), Some(task), names, raw)
            }
            (None, Some(corpus), Some(parts)) => {
                let text = CorpusText::load(corpus, recipe.base_dir())?;
                let names: Vec<String> = (1..=parts.classes).map(|i| format!("part {i}")).collect();
                let name = format!("passages of {} by their part", text.name);
                (name, None, Some(names), passages(&text, parts)?)
            }
            _ => {
                return Err(Error::value(
                    "data",
                    "neither a task nor a text",
                    "`glue` alone, or `corpus` with `parts`, or `corpus` alone for pre-training",
                ));
            }
        };
        let text = || {
            let texts = raw[0]
                .iter()
                .flat_map(|r| [Some(&r.a), r.b.as_ref()])
                .flatten();
            texts.map(String::as_str).collect::<Vec<_>>().join("\n")
        };
        let tokenizer = tokenizer(recipe, data, training, &text)?;
        let encode = |list: &[Raw]| -> Result<Vec<Sample>> {
            let samples = list.iter().map(|raw| {
                let most = Some(data.max_length);
                let encoded = tokenizer
                    .encode(&raw.a, raw.b.as_deref(), most)
                    .map_err(other)?;
                Ok(Sample {
                    encoded,
                    label: raw.label,
                })
            });
            samples.collect()
        };
        let [train, valid, test] = [encode(&raw[0])?, encode(&raw[1])?, encode(&raw[2])?];
        Ok(Self {
            name,
            task,
            classes,
            train,
            valid,
            test,
            tokenizer,
        })
    }

    /// The samples at these indices as one batch, padded to the longest.
    pub fn batch(&self, samples: &[&Sample]) -> Result<(EncoderInput, Labels)> {
        let rows: Vec<Encoded> = samples.iter().map(|s| s.encoded.clone()).collect();
        let input = collate(&rows, self.tokenizer.special().pad).map_err(other)?;
        let labels = match self.classes {
            Some(_) => Labels::Classes(samples.iter().map(|s| s.label as i64).collect()),
            None => Labels::Values(samples.iter().map(|s| s.label as f32).collect()),
        };
        Ok((input, labels))
    }
}

/// Passages of equal length in the order of the text; every tenth is for the test, the one five behind it for validation.
fn passages(text: &CorpusText, parts: &PartsSpec) -> Result<[Vec<Raw>; 3]> {
    for (key, n, least) in [("classes", parts.classes, 2), ("words", parts.words, 1)] {
        if n < least {
            let expected = format!("at least {least}");
            return Err(Error::value(format!("data.parts.{key}"), n, expected));
        }
    }
    let whole = text.splits.concat();
    let words: Vec<&str> = whole.split_whitespace().collect();
    let count = words.len() / parts.words;
    if count < 20 * parts.classes {
        return Err(Error::value(
            "data.parts.words",
            parts.words,
            format!(
                "a text of at least {} passages; this one has {count}",
                20 * parts.classes
            ),
        ));
    }
    let mut all = [vec![], vec![], vec![]];
    for (i, passage) in words.chunks_exact(parts.words).enumerate() {
        let split = match i % 10 {
            0 => 2,
            5 => 1,
            _ => 0,
        };
        all[split].push(Raw {
            a: passage.join(" "),
            b: None,
            label: (i * parts.classes / count) as f64,
        });
    }
    Ok(all)
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
        let text = Sentences(
            (0..200u32)
                .map(|i| vec![5 + i; 3 + (i % 7) as usize])
                .collect(),
        );
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
            }
            assert_eq!(
                found.encoded.type_ids.iter().filter(|t| **t == 0).count(),
                cut + 1
            );
        }
        assert!((850..1150).contains(&follow), "{follow}");
    }
}
