//! The nine GLUE tasks: where their texts and labels stand, and readers of local copies.
//!
//! Nothing is fetched here. A folder holds `train.tsv` and `dev.tsv` in the layout of the benchmark's own download, or the
//! same splits as JSON lines or CSV with named columns.
//!
//! ```
//! use datasets::glue::{Label, Task};
//!
//! let rows = "sentence\tlabel\nhides new layers \t0\n";
//! let examples = Task::Sst2.parse_tsv(rows, "train.tsv".as_ref())?;
//! assert_eq!(examples[0].text_a, "hides new layers "); // the blank is the file's
//! assert_eq!(examples[0].label, Label::Class(0));
//! # Ok::<(), datasets::Error>(())
//! ```

mod read;
pub(crate) mod table;

pub use read::{GlueData, load, read_file};

/// One task of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Whether a sentence is acceptable English.
    Cola,
    /// Whether a film review is positive.
    Sst2,
    /// Whether two sentences say the same.
    Mrpc,
    /// Whether two questions ask the same.
    Qqp,
    /// How similar two sentences are, 0 to 5.
    StsB,
    /// Whether the second sentence contradicts the first, follows from it, or neither.
    Mnli,
    /// Whether a sentence answers a question.
    Qnli,
    /// Whether the second sentence follows from the first.
    Rte,
    /// Whether a pronoun was resolved rightly.
    Wnli,
}

/// Where things stand in a task's `train.tsv` and `dev.tsv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Whether the first row names the columns.
    pub header: bool,
    /// Column of the first text, from 0.
    pub text_a: usize,
    /// Column of the second text.
    pub text_b: Option<usize>,
    /// Column of the label; `None` is the last.
    pub label: Option<usize>,
    /// The columns' names in files with named columns.
    pub names: (&'static [&'static str], Option<&'static [&'static str]>),
}

/// What an example is labelled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// Index into [`Task::labels`].
    Class(usize),
    /// A number.
    Value(f64),
    /// Nothing, as in test files.
    None,
}

/// A text or a pair with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The first text, as the file has it.
    pub text_a: String,
    /// The second text.
    pub text_b: Option<String>,
    /// What is to be found.
    pub label: Label,
}

impl Task {
    /// All tasks.
    pub const ALL: [Self; 9] = [
        Self::Cola,
        Self::Sst2,
        Self::Mrpc,
        Self::Qqp,
        Self::StsB,
        Self::Mnli,
        Self::Qnli,
        Self::Rte,
        Self::Wnli,
    ];

    /// The task's name, such as `sst-2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cola => "cola",
            Self::Sst2 => "sst-2",
            Self::Mrpc => "mrpc",
            Self::Qqp => "qqp",
            Self::StsB => "sts-b",
            Self::Mnli => "mnli",
            Self::Qnli => "qnli",
            Self::Rte => "rte",
            Self::Wnli => "wnli",
        }
    }

    /// The task of a name; case and hyphens do not count, so `SST-2` and `sst2` are the same.
    ///
    /// # Errors
    /// A name that is no task's.
    pub fn from_name(name: &str) -> crate::Result<Self> {
        let plain = |s: &str| s.to_lowercase().replace(['-', '_'], "");
        let found = Self::ALL
            .into_iter()
            .find(|task| plain(task.name()) == plain(name));
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            crate::error::value("task", format!("{name:?}"), &format!("one of {known}"))
        })
    }

    /// The classes' names by their index; `None` for a regression.
    pub const fn labels(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Cola | Self::Sst2 | Self::Mrpc | Self::Qqp | Self::Wnli => Some(&["0", "1"]),
            Self::Mnli => Some(&["contradiction", "entailment", "neutral"]),
            Self::Qnli | Self::Rte => Some(&["entailment", "not_entailment"]),
            Self::StsB => None,
        }
    }

    /// The files of the development split: two for MNLI, whose second is of other sources than the training split.
    pub const fn dev_files(self) -> &'static [&'static str] {
        match self {
            Self::Mnli => &["dev_matched", "dev_mismatched"],
            _ => &["dev"],
        }
    }

    /// Where things stand in the task's files.
    pub const fn layout(self) -> Layout {
        const SENTENCE: &[&str] = &["sentence"];
        const FIRST: &[&str] = &["sentence1", "premise"];
        const SECOND: &[&str] = &["sentence2", "hypothesis"];
        const QUESTION: &[&str] = &["question"];
        let (header, text_a, text_b, label, names) = match self {
            Self::Cola => (false, 3, None, Some(1), (SENTENCE, None)),
            Self::Sst2 => (true, 0, None, Some(1), (SENTENCE, None)),
            Self::Mrpc => {
                const A: &[&str] = &["sentence1", "#1 String"];
                const B: &[&str] = &["sentence2", "#2 String"];
                (true, 3, Some(4), Some(0), (A, Some(B)))
            }
            Self::Qqp => {
                const A: &[&str] = &["question1"];
                const B: &[&str] = &["question2"];
                (true, 3, Some(4), Some(5), (A, Some(B)))
            }
            Self::StsB => (true, 7, Some(8), None, (FIRST, Some(SECOND))),
            Self::Mnli => (true, 8, Some(9), None, (FIRST, Some(SECOND))),
            Self::Qnli => (true, 1, Some(2), None, (QUESTION, Some(SENTENCE))),
            Self::Rte | Self::Wnli => (true, 1, Some(2), None, (FIRST, Some(SECOND))),
        };
        Layout {
            header,
            text_a,
            text_b,
            label,
            names,
        }
    }
}
