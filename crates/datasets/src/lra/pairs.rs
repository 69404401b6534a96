//! Pairs of long texts.

use std::collections::BTreeMap;
use std::path::Path;

use super::BYTE_IDS;
use crate::embedded;
use crate::error::{Result, value};
use crate::labelled::{Row, Split, read_rows};
use crate::make::SplitMix;

const SEED: u64 = 8;

/// Two texts and a class. They are kept as bytes, because the published ones are many and long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairExample {
    first: Box<[u8]>,
    second: Box<[u8]>,
    /// Its class.
    pub label: u16,
}

impl PairExample {
    /// A pair of which the first `max_length` bytes of both texts count.
    pub fn new(first: &[u8], second: &[u8], max_length: usize, label: u16) -> Self {
        let cut = |text: &[u8]| text[..text.len().min(max_length)].into();
        Self {
            first: cut(first),
            second: cut(second),
            label,
        }
    }

    /// The ids of both texts: a byte's value plus 1; 0 is padding.
    pub fn ids(&self) -> [Vec<u16>; 2] {
        [&self.first, &self.second].map(|text| super::byte_ids(text, text.len()))
    }

    /// Lengths of both texts in bytes.
    pub fn lengths(&self) -> [usize; 2] {
        [self.first.len(), self.second.len()]
    }
}

/// Pairs of texts in three splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// What it is, for reports.
    pub name: String,
    /// To learn from.
    pub train: Vec<PairExample>,
    /// To choose by.
    pub valid: Vec<PairExample>,
    /// To report.
    pub test: Vec<PairExample>,
    /// Number of ids, padding included.
    pub vocab_size: usize,
    /// Number of classes.
    pub classes: usize,
}

impl Pairs {
    /// Length of the longest text.
    pub fn longest(&self) -> usize {
        let all = self.train.iter().chain(&self.valid).chain(&self.test);
        all.flat_map(PairExample::lengths).max().unwrap_or(0)
    }
}

/// Pairs of the embedded passages `sotu-era4`: 1, both are of one speech; 0, they are of two speeches of one era, so that the era tells
/// nothing. Each passage begins one pair; its split is the passage's.
///
/// # Errors
/// [`crate::Error::Digest`] for a damaged build.
pub fn same_speech(max_length: usize) -> Result<Pairs> {
    const NAME: &str = "sotu-era4";
    let manifest = embedded::manifest(NAME).ok_or_else(|| value("name", NAME, "embedded data"))?;
    let rows = read_rows(&embedded::text(NAME)?, Path::new(NAME), &manifest.labels)?;
    let mut random = SplitMix::new(SEED);
    let [train, valid, test] = Split::ALL.map(|split| {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.split == split).collect();
        pairs_of(&rows, max_length, &mut random)
    });
    Ok(Pairs {
        name: "pairs of passages: of one speech or of two".into(),
        train,
        valid,
        test,
        vocab_size: BYTE_IDS,
        classes: 2,
    })
}

fn pairs_of(rows: &[&Row], max_length: usize, random: &mut SplitMix) -> Vec<PairExample> {
    let mut speeches: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut eras: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        speeches.entry(&row.group).or_default().push(i);
        eras.entry(row.label).or_default().push(i);
    }
    let mut pairs = vec![];
    for (i, row) in rows.iter().enumerate() {
        let label = random.below(2) as u16;
        let others: Vec<usize> = match label {
            1 => speeches[row.group.as_str()]
                .iter()
                .copied()
                .filter(|other| *other != i)
                .collect(),
            _ => eras[&row.label]
                .iter()
                .copied()
                .filter(|other| rows[*other].group != row.group)
                .collect(),
        };
        // A speech with a single passage begins no pair of its own.
        if !others.is_empty() {
            let other = rows[others[random.below(others.len())]];
            pairs.push(PairExample::new(
                row.text.as_bytes(),
                other.text.as_bytes(),
                max_length,
                label,
            ));
        }
    }
    pairs
}
