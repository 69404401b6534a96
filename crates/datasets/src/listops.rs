//! ListOps of the Long Range Arena: nested operations on digits, to be evaluated (Nangia and Bowman, NAACL 2018;
//! Tay et al., ICLR 2021).

use std::collections::HashSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, io, value};
use crate::make::SplitMix;
use crate::sequences::{Example, Sequences};

/// The symbols in the order of their ids, which start at 1: digits, operators, and `X` for a closing bracket.
pub const SYMBOLS: [&str; 15] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "MAX", "MED", "MIN", "SM", "X",
];

/// The id of everything that is no symbol.
pub const UNKNOWN: u16 = SYMBOLS.len() as u16 + 1;

/// What to generate. The same spec gives the same trees on every machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListOpsSpec {
    /// Trees are longer than this; digits count 1, operators 2 with their bracket.
    pub min_length: usize,
    /// Trees are shorter than this.
    pub max_length: usize,
    /// Depth at which only digits are drawn.
    pub max_depth: usize,
    /// Most arguments of an operator.
    pub max_args: usize,
    /// Trees of the training split.
    pub train: usize,
    /// Trees of the validation split.
    pub valid: usize,
    /// Trees of the test split.
    pub test: usize,
    /// Whether closing brackets stay. Without them, as upstream's tokenizer leaves it, the tree cannot be told from its
    /// tokens.
    pub close_bracket: bool,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for ListOpsSpec {
    fn default() -> Self {
        Self {
            min_length: 500,
            max_length: 2000,
            max_depth: 10,
            max_args: 10,
            train: 96_000,
            valid: 2_000,
            test: 2_000,
            close_bracket: true,
            seed: 0,
        }
    }
}

/// A tree under construction.
struct Tree {
    ids: Vec<u16>,
    length: usize,
}

impl ListOpsSpec {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Value`] naming the key.
    pub fn validate(&self) -> Result<()> {
        if self.max_length > 1 << 16 || self.max_length < self.min_length.saturating_add(2) {
            let expected = "at least 2 above data.min_length, and at most 65536";
            return Err(value("data.max_length", self.max_length, expected));
        }
        if !(1..=20).contains(&self.max_depth) {
            return Err(value("data.max_depth", self.max_depth, "from 1 to 20"));
        }
        if !(2..=20).contains(&self.max_args) {
            return Err(value("data.max_args", self.max_args, "from 2 to 20"));
        }
        for (key, n) in [
            ("train", self.train),
            ("valid", self.valid),
            ("test", self.test),
        ] {
            if !(1..=1 << 22).contains(&n) {
                return Err(value(&format!("data.{key}"), n, "from 1 to 2^22"));
            }
        }
        Ok(())
    }

    /// Generates with the generator of this crate.
    ///
    /// ```
    /// use datasets::listops::{ListOpsSpec, evaluate};
    ///
    /// let spec = ListOpsSpec { min_length: 10, max_length: 40, train: 20, valid: 5, test: 5, ..Default::default() };
    /// let made = spec.generate()?;
    /// assert_eq!((made.train.len(), made.classes), (20, 10));
    /// assert!(made.train.iter().all(|tree| evaluate(&tree.ids) == Some(tree.label)));
    /// # Ok::<(), datasets::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`ListOpsSpec::validate`], and limits that hardly any tree meets.
    pub fn generate(&self) -> Result<Sequences> {
        let mut state = SplitMix::new(self.seed);
        self.generate_with(&mut |below| state.below(below))
    }

    /// Generates with `draw(n)`, which returns a number uniform in `0..n`: a node is an operator with probability 1/4 above
    /// the greatest depth, else a digit; trees outside the limits and repeated ones are thrown away.
    ///
    /// # Errors
    /// As [`ListOpsSpec::generate`].
    pub fn generate_with(&self, draw: &mut dyn FnMut(usize) -> usize) -> Result<Sequences> {
        self.validate()?;
        let draw = &mut |below: usize| draw(below) % below;
        let total = self.train + self.valid + self.test;
        let mut seen = HashSet::new();
        let mut all = Vec::with_capacity(total);
        let mut fruitless = 0u32;
        while all.len() < total {
            let mut tree = Tree {
                ids: vec![],
                length: 0,
            };
            let label = self.node(1, draw, &mut tree);
            let label =
                label.filter(|_| tree.length > self.min_length && tree.length < self.max_length);
            match label {
                Some(label) if seen.insert(tree.ids.clone()) => {
                    all.push(Example {
                        ids: tree.ids,
                        label,
                    });
                    fruitless = 0;
                }
                _ => fruitless += 1,
            }
            if fruitless > 1_000_000 {
                let found = format!("{} and {}", self.min_length, self.max_length);
                let expected =
                    "limits that more trees meet: a million draws in a row gave no new one";
                return Err(value(
                    "data.min_length and data.max_length",
                    found,
                    expected,
                ));
            }
        }
        let test = all.split_off(self.train + self.valid);
        let valid = all.split_off(self.train);
        Ok(Sequences {
            name: format!(
                "ListOps, lengths between {} and {}",
                self.min_length, self.max_length
            ),
            train: all,
            valid,
            test,
            vocab_size: usize::from(UNKNOWN) + 1,
            classes: 10,
        })
    }

    /// Draws a node and returns its value; `None` as soon as the tree is too long.
    fn node(
        &self,
        depth: usize,
        draw: &mut dyn FnMut(usize) -> usize,
        tree: &mut Tree,
    ) -> Option<u16> {
        if depth >= self.max_depth || draw(4) > 0 {
            let digit = draw(10) as u16;
            tree.ids.push(1 + digit);
            tree.length += 1;
            return (tree.length < self.max_length).then_some(digit);
        }
        let count = 2 + draw(self.max_args - 1);
        let operator = draw(4) as u16;
        tree.ids.push(11 + operator);
        tree.length += 2;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.node(depth + 1, draw, tree)?);
        }
        if self.close_bracket {
            tree.ids.push(15);
        }
        Some(apply(operator, &mut values))
    }
}

/// MAX, MED (the two middle values' mean, rounded down), MIN or SM (the sum's last digit).
fn apply(operator: u16, values: &mut [u16]) -> u16 {
    values.sort_unstable();
    let n = values.len();
    match operator {
        0 => values[n - 1],
        1 => (values[(n - 1) / 2] + values[n / 2]) / 2,
        2 => values[0],
        _ => values.iter().sum::<u16>() % 10,
    }
}

/// The value of a tree with its closing brackets; `None` for anything else.
pub fn evaluate(ids: &[u16]) -> Option<u16> {
    let mut open: Vec<(u16, Vec<u16>)> = vec![];
    let mut ids = ids.iter();
    loop {
        let done = match ids.next()? {
            id @ 1..=10 => id - 1,
            id @ 11..=14 => {
                open.push((id - 11, vec![]));
                continue;
            }
            15 => {
                let (operator, mut values) = open.pop()?;
                if values.is_empty() {
                    return None;
                }
                apply(operator, &mut values)
            }
            _ => return None,
        };
        match open.last_mut() {
            Some((_, values)) => values.push(done),
            None => return ids.next().is_none().then_some(done),
        }
    }
}

/// The ids of a tree as text, such as `( ( ( [MAX 3 ) 4 ) ] )`: parentheses and square brackets are left out, a closing one
/// becomes `X` or, without `close_bracket`, nothing.
pub fn tokenize(text: &str, close_bracket: bool) -> Vec<u16> {
    let closing = if close_bracket { " X " } else { " " };
    let text = text.replace(']', closing);
    let words = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty());
    let id = |word: &str| {
        let at = SYMBOLS.iter().position(|symbol| *symbol == word);
        at.map_or(UNKNOWN, |i| i as u16 + 1)
    };
    words.map(id).collect()
}

/// Reads the published files `basic_train.tsv`, `basic_val.tsv` and `basic_test.tsv` of a folder.
///
/// # Errors
/// A file that is missing or malformed, with the line.
pub fn read(folder: &Path, close_bracket: bool) -> Result<Sequences> {
    let split = |name: &str| -> Result<Vec<Example>> {
        let path = folder.join(format!("basic_{name}.tsv"));
        let text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
        let mut out = vec![];
        for (number, line) in text.lines().enumerate().skip(1) {
            let wrong = |message: &str| Error::Layout {
                path: path.clone(),
                message: format!("line {}: {message}", number + 1),
            };
            let (source, target) = line
                .split_once('\t')
                .ok_or_else(|| wrong("expected Source, a tab, and Target"))?;
            let label = target.trim().parse().ok().filter(|l| *l < 10);
            out.push(Example {
                ids: tokenize(source, close_bracket),
                label: label.ok_or_else(|| wrong("the target is no digit"))?,
            });
        }
        match out.is_empty() {
            true => Err(Error::Layout {
                path: path.clone(),
                message: "there is no example in it".into(),
            }),
            false => Ok(out),
        }
    };
    Ok(Sequences {
        name: format!("ListOps of {}", folder.display()),
        train: split("train")?,
        valid: split("val")?,
        test: split("test")?,
        vocab_size: usize::from(UNKNOWN) + 1,
        classes: 10,
    })
}
