//! Pairs of verses: does the second translation say what the first says?

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Split;
use crate::error::Result;
use crate::glue::{Example, Label};
use crate::make::SplitMix;
use crate::verses::{self, Translation, Verse};

/// Names of the classes: a verse of the King James Version beside another verse of the World English Bible, or the same.
pub(super) const LABELS: [&str; 2] = ["other", "same"];

const SEED: u64 = 5;

/// Which verse stands beside a verse that is not its own. It is always of the same split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Negatives {
    /// The one with the highest TF-IDF cosine, so that words in common tell little.
    #[default]
    Hardest,
    /// The next one of the chapter; for a chapter's last verse the one before.
    Neighbouring,
    /// Any other one.
    Random,
}

/// The pairs of one split, as many of the same verse as of different ones, shuffled with a fixed seed.
pub(super) fn pairs(negatives: Negatives) -> Result<[Vec<Example>; 3]> {
    let verses::Verses { train, valid, test } = verses::splits()?;
    let splits = [
        (Split::Train, train),
        (Split::Valid, valid),
        (Split::Test, test),
    ];
    Ok(splits.map(|(split, verses)| {
        let mut random = SplitMix::new(SEED + split as u64);
        let others = match negatives {
            Negatives::Hardest => hardest(&verses),
            Negatives::Neighbouring => neighbouring(&verses),
            Negatives::Random => others(&verses, &mut random),
        };
        let pair = |first: &Verse, second: &Verse, label: usize| Example {
            text_a: first.text(Translation::Kjv).to_owned(),
            text_b: Some(second.text(Translation::Web).to_owned()),
            label: Label::Class(label),
        };
        let mut examples = Vec::with_capacity(2 * verses.len());
        for (verse, other) in verses.iter().zip(others) {
            examples.push(pair(verse, verse, 1));
            examples.push(pair(verse, &verses[other], 0));
        }
        random.shuffle(&mut examples);
        examples
    }))
}

/// The verse behind each, or before it at the end of a chapter.
fn neighbouring(verses: &[Verse]) -> Vec<usize> {
    let same = |a: usize, b: usize| {
        let chapter = |i: usize| verses.get(i).map(Verse::chapter_index);
        chapter(a).is_some() && chapter(a) == chapter(b)
    };
    (0..verses.len())
        .map(|i| {
            if same(i, i + 1) {
                i + 1
            } else {
                i.saturating_sub(1)
            }
        })
        .collect()
}

/// Any other verse for each, with other words.
fn others(verses: &[Verse], random: &mut SplitMix) -> Vec<usize> {
    let web = |i: usize| verses[i].text(Translation::Web);
    (0..verses.len())
        .map(|i| {
            let drawn = (i + 1 + random.below(verses.len() - 1)) % verses.len();
            let found = (0..verses.len()).map(|k| (drawn + k) % verses.len());
            found
                .into_iter()
                .find(|&other| web(other) != web(i))
                .unwrap_or(drawn)
        })
        .collect()
}

/// A text as the numbers of its words with their weights, of length 1.
type Vector = Vec<(usize, f64)>;

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
}

/// For each verse of the first translation the verse of the second that is nearest by TF-IDF cosine among those that are not its own.
/// The gospels tell some things in the same words: verses that are equal in either translation are no negatives.
fn hardest(verses: &[Verse]) -> Vec<usize> {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut documents: Vec<usize> = vec![];
    let mut count = |translation| -> Vec<BTreeMap<usize, usize>> {
        let verse = |verse: &Verse| {
            let mut counts = BTreeMap::new();
            for word in words(verse.text(translation)) {
                let next = numbers.len();
                *counts
                    .entry(*numbers.entry(word).or_insert(next))
                    .or_insert(0) += 1;
            }
            documents.resize(numbers.len(), 0);
            counts.keys().for_each(|&word| documents[word] += 1);
            counts
        };
        verses.iter().map(verse).collect()
    };
    let (first, second) = (count(Translation::Kjv), count(Translation::Web));
    let all = 2.0 * verses.len() as f64;
    // Rounded, so that no machine's logarithm decides between two verses.
    let weight = |word: usize| {
        let rarity = (all / documents[word] as f64).ln() + 1.0;
        (rarity * f64::from(1 << 20)).round() / f64::from(1 << 20)
    };
    let vector = |counts: &BTreeMap<usize, usize>| -> Vector {
        let weighted = counts
            .iter()
            .map(|(&word, &n)| (word, n as f64 * weight(word)));
        let mut vector: Vector = weighted.collect();
        let norm = vector.iter().map(|(_, w)| w * w).sum::<f64>().sqrt();
        vector
            .iter_mut()
            .for_each(|(_, w)| *w /= norm.max(f64::MIN_POSITIVE));
        vector
    };
    let mut holding: Vec<Vec<(usize, f64)>> = vec![vec![]; numbers.len()];
    for (i, counts) in second.iter().enumerate() {
        for (word, weight) in vector(counts) {
            holding[word].push((i, weight));
        }
    }
    let text = |i: usize, translation| words(verses[i].text(translation)).collect::<Vec<_>>();
    let equal = |a: usize, b: usize| {
        [Translation::Kjv, Translation::Web]
            .iter()
            .any(|&t| text(a, t) == text(b, t))
    };
    let mut scores = vec![0.0; verses.len()];
    let nearest = |(i, counts): (usize, &BTreeMap<usize, usize>)| {
        scores.fill(0.0);
        for (word, weight) in vector(counts) {
            for (other, with) in &holding[word] {
                scores[*other] += weight * with;
            }
        }
        scores[i] = -1.0;
        let mut tried = HashSet::new();
        loop {
            let mut best = usize::from(i == 0);
            for (other, score) in scores.iter().enumerate() {
                // The first of equals.
                if *score > scores[best] {
                    best = other;
                }
            }
            if !tried.insert(best) || !equal(i, best) {
                return best;
            }
            scores[best] = -1.0;
        }
    };
    first.iter().enumerate().map(nearest).collect()
}
