//! Generated sequences of which it is known how far back a model must look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, value};
use crate::folder::{Item, write_folder};
use crate::manifest::{Kind, Manifest, Source, sha256};
use crate::prepare::TextFormat;

/// A task to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Lines of `span` random letters, a `|`, and the same letters again.
    Copy,
    /// Lines of `span / 2` pairs of a distinct key and a value, a `?`, one of the keys, and its value.
    Recall,
    /// One long text in which each letter repeats the letter `span + 1` places before it, except that one in ten is random.
    Gap,
}

/// What to generate. The same spec gives the same bytes on every machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeSpec {
    /// The task.
    pub task: Task,
    /// The largest distance, in tokens, from the token that is read to the token that must be attended to predict the next one.
    pub span: usize,
    /// Number of different letters (for `recall`: of values), 2 to 26.
    #[serde(default = "default_letters")]
    pub letters: usize,
    /// Length of the training text in bytes; valid and test have a tenth each. Whole lines are made, so it may be a little more.
    #[serde(default = "default_bytes")]
    pub bytes: usize,
    /// Seed of the generator.
    #[serde(default)]
    pub seed: u64,
}

fn default_letters() -> usize {
    8
}

fn default_bytes() -> usize {
    400_000
}

/// A generated task.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Training text.
    pub train: Vec<u8>,
    /// Validation text, from another part of the generator's sequence.
    pub valid: Vec<u8>,
    /// Test text, from a third part.
    pub test: Vec<u8>,
    /// The largest distance that must be attended, in tokens before the one that is read.
    pub required_span: usize,
    /// Bits per byte of a perfect model that looks back far enough.
    pub floor_bits: f64,
    /// Bits per byte of a perfect model that cannot look back to what is repeated.
    pub blind_bits: f64,
}

/// Chance of a random letter in [`Task::Gap`].
const NOISE: f64 = 0.1;
/// Keys of [`Task::Recall`].
const KEYS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

impl MakeSpec {
    /// A name for what is generated, such as `copy-64`.
    pub fn name(&self) -> String {
        let task = match self.task {
            Task::Copy => "copy",
            Task::Recall => "recall",
            Task::Gap => "gap",
        };
        format!("{task}-{}", self.span)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`crate::Error::Value`] naming the key.
    pub fn validate(&self) -> Result<()> {
        if !(2..=26).contains(&self.letters) {
            return Err(value("make.letters", self.letters, "from 2 to 26"));
        }
        let spans = match self.task {
            Task::Copy | Task::Gap => 1..=1 << 20,
            Task::Recall => 2..=2 * KEYS.len(),
        };
        if !spans.contains(&self.span) {
            let expected = format!("from {} to {} for this task", spans.start(), spans.end());
            return Err(value("make.span", self.span, &expected));
        }
        if self.task == Task::Recall && !self.span.is_multiple_of(2) {
            return Err(value(
                "make.span",
                self.span,
                "an even number: each pair takes two tokens",
            ));
        }
        if !(1000..=1 << 30).contains(&self.bytes) {
            return Err(value("make.bytes", self.bytes, "from 1000 to 2^30"));
        }
        Ok(())
    }

    /// Generates with the generator of this crate.
    ///
    /// ```
    /// use datasets::{MakeSpec, Task};
    ///
    /// let spec = MakeSpec { task: Task::Copy, span: 5, letters: 4, bytes: 1000, seed: 1 };
    /// let made = spec.generate()?;
    /// let line = made.train.split(|&b| b == b'\n').next().unwrap();
    /// assert_eq!(line[..5], line[6..]);
    /// assert_eq!(made.required_span, 5);
    /// # Ok::<(), datasets::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn generate(&self) -> Result<Made> {
        let mut state = SplitMix(self.seed);
        self.generate_with(&mut |below| state.below(below))
    }

    /// Generates with `draw(n)`, which returns a number uniform in `0..n`.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn generate_with(&self, draw: &mut dyn FnMut(usize) -> usize) -> Result<Made> {
        self.validate()?;
        let draw = &mut |below: usize| draw(below) % below;
        let n = self.span;
        let letters = (self.letters as f64).log2();
        let (line, floor, extra) = match self.task {
            // Per line: n free letters, the copy costs nothing or as much again.
            Task::Copy => (2 * n + 2, n as f64 * letters, n as f64 * letters),
            Task::Recall => {
                let pairs = n / 2;
                let keys: f64 = (0..pairs)
                    .map(|used| ((KEYS.len() - used) as f64).log2())
                    .sum();
                let free = keys + pairs as f64 * letters + (pairs as f64).log2();
                (n + 4, free, letters)
            }
            Task::Gap => {
                let same = 1.0 - NOISE + NOISE / self.letters as f64;
                let other = NOISE / self.letters as f64;
                let floor = -same * same.log2() - (self.letters - 1) as f64 * other * other.log2();
                (1, floor, letters - floor)
            }
        };
        let tenth = self.bytes / 10;
        Ok(Made {
            train: self.text(self.bytes, draw),
            valid: self.text(tenth, draw),
            test: self.text(tenth, draw),
            required_span: n,
            floor_bits: floor / line as f64,
            blind_bits: (floor + extra) / line as f64,
        })
    }

    fn text(&self, bytes: usize, draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes);
        let letter = |draw: &mut dyn FnMut(usize) -> usize| b'a' + draw(self.letters) as u8;
        while out.len() < bytes {
            match self.task {
                Task::Copy => {
                    let word: Vec<u8> = (0..self.span).map(|_| letter(draw)).collect();
                    out.extend_from_slice(&word);
                    out.push(b'|');
                    out.extend_from_slice(&word);
                    out.push(b'\n');
                }
                Task::Recall => {
                    let pairs = self.span / 2;
                    let mut keys = KEYS.to_vec();
                    for at in 0..pairs {
                        keys.swap(at, at + draw(KEYS.len() - at));
                    }
                    let values: Vec<u8> = (0..pairs).map(|_| letter(draw)).collect();
                    for (key, value) in keys.iter().zip(&values) {
                        out.extend([*key, *value]);
                    }
                    let asked = draw(pairs);
                    out.extend([b'?', keys[asked], values[asked], b'\n']);
                }
                Task::Gap => {
                    let back = self.span + 1;
                    let random =
                        out.len() < back || draw(1 << 16) < ((1 << 16) as f64 * NOISE) as usize;
                    let next = match random {
                        true => letter(draw),
                        false => out[out.len() - back],
                    };
                    out.push(next);
                }
            }
        }
        out
    }

    /// Generates into the folder `data/NAME`, readable as a corpus by that name, and returns the folder.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), and [`crate::Error::Io`].
    pub fn write(&self, data: &Path, name: &str) -> Result<PathBuf> {
        let made = self.generate()?;
        let items = made
            .texts()
            .map(|(split, text)| Item {
                path: format!("{split}.txt"),
                content: text.to_vec(),
            })
            .into_iter()
            .collect();
        let manifest = Manifest {
            transformation: serde_json::to_string(self).unwrap_or_default(),
            ..made.manifest(name)
        };
        write_folder(data, manifest, items).map(|(folder, _)| folder)
    }
}

impl Made {
    /// The three texts with the names of their splits.
    pub fn texts(&self) -> [(&'static str, &[u8]); 3] {
        [
            ("train", &self.train),
            ("valid", &self.valid),
            ("test", &self.test),
        ]
    }

    pub(crate) fn manifest(&self, name: &str) -> Manifest {
        let content = [&*self.train, &self.valid, &self.test].concat();
        Manifest {
            name: name.into(),
            title: format!(
                "a generated task that needs a span of {} tokens; perfect: {:.3} bits per byte, without looking back: {:.3}",
                self.required_span, self.floor_bits, self.blind_bits
            ),
            source: Source {
                client: "generated".into(),
                package: name.into(),
                version: String::new(),
                inner_path: String::new(),
                archive_sha256: None,
            },
            kind: Kind::Text,
            transformation: "none".into(),
            licence: "none needed".into(),
            licence_files: Vec::new(),
            format: Some(TextFormat::Bytes),
            all_bytes: false,
            labels: Vec::new(),
            split: "three independent draws".into(),
            bytes: content.len() as u64,
            sha256: sha256(&content),
            compressed: None,
            bounds: None,
            files: Vec::new(),
            facts: BTreeMap::from([
                ("required_span".into(), self.required_span as f64),
                ("floor_bits".into(), self.floor_bits),
                ("blind_bits".into(), self.blind_bits),
            ]),
        }
    }
}

/// Steele, Lea and Flood's 64-bit generator, enough for drawing letters.
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..below`, up to a bias of at most `below / 2^64`.
    pub(crate) fn below(&mut self, below: usize) -> usize {
        ((u128::from(self.next()) * below as u128) >> 64) as usize
    }

    /// Puts the items into a random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
