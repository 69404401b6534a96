//! Passages of the State of the Union addresses, labelled with the era of their speech.

use std::collections::{BTreeMap, HashSet};

use crate::archive::Found;
use crate::labelled::{Row, Split, write_rows};
use crate::make::SplitMix;

/// The eras' names, and the first year after each.
const ERAS: [(&str, u32); 4] = [
    ("1790-1859", 1860),
    ("1860-1912", 1913),
    ("1913-1960", 1961),
    ("1961-2021", u32::MAX),
];

/// Passages of each era in train, valid and test.
const SHARES: [usize; 3] = [1120, 160, 320];

/// Lengths of a passage: sentences and bytes.
const SENTENCES: std::ops::RangeInclusive<usize> = 3..=5;
const BYTES: std::ops::RangeInclusive<usize> = 240..=700;

const SEED: u64 = 4;

/// Whether a file of the package is a speech: `1790_george_washington_n.txt`.
pub(super) fn is_speech(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.ends_with(".txt") && year(name).is_some()
}

fn year(name: &str) -> Option<u32> {
    let digits = name.split('_').next().filter(|digits| digits.len() == 4)?;
    digits.parse().ok()
}

/// The split of the speech with this index among those of its era, in the order of their names.
fn split_of_speech(index: usize) -> Split {
    match index % 10 {
        0 | 5 => Split::Test,
        3 => Split::Valid,
        _ => Split::Train,
    }
}

/// The table of all passages, drawn with a fixed seed and shuffled.
pub(super) fn passages(found: Vec<Found>) -> Result<Vec<u8>, String> {
    let mut speeches = BTreeMap::new();
    for (path, text) in found {
        let name = path.rsplit('/').next().unwrap_or(&path);
        let speech = name.trim_end_matches(".txt").to_owned();
        if let Some(year) = year(name) {
            let text = String::from_utf8(text).map_err(|_| format!("{name} is not UTF-8"))?;
            speeches.insert(speech, (year, text));
        }
    }
    let mut pools: [[Vec<Row>; 3]; 4] = Default::default();
    let mut seen = [0; 4];
    let mut distinct = HashSet::new();
    for (speech, (year, text)) in speeches {
        let era = ERAS.iter().position(|(_, end)| year < *end).unwrap_or(3);
        let split = split_of_speech(seen[era]);
        seen[era] += 1;
        for passage in cut(&text) {
            // The audience's applause is noted in the records of one era alone.
            if passage.to_lowercase().contains("applause") || !distinct.insert(passage.clone()) {
                continue;
            }
            pools[era][split as usize].push(Row {
                split,
                label: era,
                group: speech.clone(),
                text: passage,
                text_b: None,
            });
        }
    }
    let mut random = SplitMix::new(SEED);
    let mut rows = vec![];
    for (pool, (era, _)) in pools
        .iter_mut()
        .flatten()
        .zip(ERAS.iter().flat_map(|era| [era; 3]))
    {
        let Some(split) = pool.first().map(|row| row.split) else {
            return Err(format!("holds too few speeches of {era}"));
        };
        let wanted = SHARES[split as usize];
        if pool.len() < wanted {
            let n = pool.len();
            return Err(format!(
                "holds {n} passages of {era} for {} where {wanted} are needed",
                split.name()
            ));
        }
        random.shuffle(pool);
        rows.extend(pool.drain(..wanted));
    }
    random.shuffle(&mut rows);
    Ok(write_rows(&rows, &ERAS.map(|(name, _)| name)).into_bytes())
}

/// Consecutive passages that share no sentence.
fn cut(text: &str) -> Vec<String> {
    let sentences = sentences(text);
    let mut passages = vec![];
    let mut at = 0;
    while at < sentences.len() {
        let fitting = SENTENCES.filter_map(|n| Some((n, sentences.get(at..at + n)?.join(" "))));
        let mut fitting = fitting.filter(|(_, passage)| BYTES.contains(&passage.len()));
        match fitting.next() {
            Some((n, passage)) => {
                passages.push(passage);
                at += n;
            }
            None => at += 1,
        }
    }
    passages
}

/// Sentences end with a full stop, a question or an exclamation mark before a blank and a capital.
fn sentences(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut sentences = vec![];
    let mut start = 0;
    for (i, word) in words.iter().enumerate() {
        let capital = words
            .get(i + 1)
            .is_none_or(|next| next.starts_with(char::is_uppercase));
        if word.ends_with(['.', '?', '!']) && capital {
            sentences.push(words[start..=i].join(" "));
            start = i + 1;
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_before_a_capital() {
        let found = sentences("It cost 3.5 dollars.  Did it? Yes! and so on. An open end");
        assert_eq!(
            found,
            ["It cost 3.5 dollars.", "Did it?", "Yes! and so on."]
        );
    }

    #[test]
    fn passages_have_three_to_five_sentences_within_the_limits() {
        let short = "Nine bytes or more of it. ".repeat(100);
        // Three are 77 bytes, and five still too short.
        assert!(cut(&short).is_empty());
        let middle = format!("{}. ", "W".repeat(60)).repeat(9);
        assert_eq!(
            cut(&middle).iter().map(String::len).collect::<Vec<_>>(),
            [247, 247]
        );
        let long = format!("{}. ", "W".repeat(300)).repeat(9);
        assert!(cut(&long).is_empty());
    }

    #[test]
    fn speeches_of_an_era_are_split_whole() {
        let text = |n: usize| {
            let sentence = |i: usize| {
                format!(
                    "Speech {n} says in sentence {i} that all is well in this land of plenty and peace today. "
                )
            };
            (0..900).map(sentence).collect::<String>()
        };
        let speeches = |years: &[usize]| -> Vec<Found> {
            let each = years.iter().flat_map(|era| (0..10).map(move |i| era + i));
            each.map(|year| {
                (
                    format!("package/data/{year}_a_b_n.txt"),
                    text(year).into_bytes(),
                )
            })
            .collect()
        };
        let table =
            String::from_utf8(passages(speeches(&[1800, 1870, 1920, 1970])).unwrap()).unwrap();
        let mut splits: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for line in table.lines().skip(1) {
            let cells: Vec<&str> = line.split('\t').collect();
            splits.entry(cells[2]).or_default().insert(cells[0]);
        }
        assert_eq!(table.lines().count(), 1 + 4 * 1600);
        assert!(splits.values().all(|split| split.len() == 1));
        assert_eq!(splits["1800_a_b_n"], HashSet::from(["test"]));
        let message = passages(speeches(&[1800, 1870, 1920])).unwrap_err();
        assert!(message.contains("1961-2021"), "{message}");
    }
}
