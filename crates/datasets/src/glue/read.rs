//! Readers of the three forms the tasks are kept in.

use super::table::{csv, named};
use super::{Example, Label, Task};
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// A task's splits.
#[derive(Debug, Clone, PartialEq)]
pub struct GlueData {
    /// What to train on.
    pub train: Vec<Example>,
    /// What to evaluate on, by the file's name: `dev`, or `dev_matched` and `dev_mismatched`.
    pub dev: Vec<(String, Vec<Example>)>,
    /// Without labels; empty where there is no such file.
    pub test: Vec<Example>,
}

/// Reads a task's folder: `train`, `dev` (for MNLI `dev_matched` and, if there, `dev_mismatched`) and, if there, `test`,
/// each as `.tsv`, `.jsonl`, `.json` or `.csv`. `validation` is accepted for `dev`.
///
/// # Errors
/// A split that is missing, a row without its columns, a label that is not the task's, each with file and line; an example
/// without a label in `train` or `dev`.
pub fn load(dir: &Path, task: Task) -> Result<GlueData> {
    let find = |names: &[String]| {
        let files = names.iter().flat_map(|n| {
            ["tsv", "jsonl", "json", "csv"].map(|end| dir.join(format!("{n}.{end}")))
        });
        files.into_iter().find(|file| file.is_file())
    };
    let missing = |name: &str| Error::Layout {
        path: dir.into(),
        message: format!(
            "has no {name}.tsv (nor .jsonl, .json, .csv); put the files of {} there",
            task.name()
        ),
    };
    let train = find(&["train".into()]).ok_or_else(|| missing("train"))?;
    let mut dev = vec![];
    for (i, name) in task.dev_files().iter().enumerate() {
        match find(&[(*name).into(), name.replace("dev", "validation")]) {
            Some(file) => dev.push(((*name).to_owned(), labelled(&file, task)?)),
            None if i == 0 => return Err(missing(name)),
            None => {}
        }
    }
    let test = find(&["test".into(), "test_matched".into()]);
    Ok(GlueData {
        train: labelled(&train, task)?,
        dev,
        test: match test {
            Some(file) => read_test(&file, task)?,
            None => vec![],
        },
    })
}

fn labelled(file: &Path, task: Task) -> Result<Vec<Example>> {
    let examples = read_file(file, task)?;
    match examples.iter().position(|e| e.label == Label::None) {
        None if examples.is_empty() => Err(at(file, 1, "holds no examples")),
        None => Ok(examples),
        Some(i) => Err(Error::Layout {
            path: file.into(),
            message: format!(
                "example {i} has no label (-1); train and dev need one for each, as unlabelled rows belong into test"
            ),
        }),
    }
}

/// Reads one labelled file; its ending says whether it is `.tsv`, `.jsonl`, `.json` (one object a line) or `.csv`.
///
/// # Errors
/// A row without its columns and a label that is not the task's, with file and line.
pub fn read_file(file: &Path, task: Task) -> Result<Vec<Example>> {
    let text = text_of(file)?;
    match file.extension().and_then(|e| e.to_str()) {
        Some("jsonl" | "json") => task.parse_json_lines(&text, file),
        Some("csv") => task.parse_csv(&text, file),
        _ => task.parse_tsv(&text, file),
    }
}

/// Test files have other columns, whose names stand in their first row.
fn read_test(file: &Path, task: Task) -> Result<Vec<Example>> {
    if file.extension().and_then(|e| e.to_str()) != Some("tsv") {
        return read_file(file, task);
    }
    let text = text_of(file)?;
    let rows = lines(&text).map(|(n, line)| (n, line.split('\t').map(str::to_owned).collect()));
    named(task, rows, file, false)
}

fn text_of(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).map_err(|source| Error::Io {
        path: file.into(),
        action: "read",
        source,
    })?;
    String::from_utf8(bytes).map_err(|e| Error::NotUtf8 {
        file: file.display().to_string(),
        byte: e.utf8_error().valid_up_to(),
    })
}

/// Lines with their number, from 1; the end of the file is no line, and a byte-order mark is no text.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l));
    let numbered = lines.enumerate().map(|(i, line)| (i + 1, line));
    numbered.filter(|(_, line)| !line.is_empty())
}

pub(super) fn at(file: &Path, line: usize, message: impl Into<String>) -> Error {
    Error::Layout {
        path: format!("{}:{line}", file.display()).into(),
        message: message.into(),
    }
}

impl Task {
    /// Reads the benchmark's own layout: split on tabs only, quotes are ordinary characters. Rows of QQP with too few
    /// columns are left out, as the reference does; `file` is only named in errors.
    ///
    /// # Errors
    /// A row without its columns and a label that is not the task's, with file and line.
    pub fn parse_tsv(self, text: &str, file: &Path) -> Result<Vec<Example>> {
        let layout = self.layout();
        let mut all = vec![];
        for (number, line) in lines(text).skip(usize::from(layout.header)) {
            let cells: Vec<&str> = line.split('\t').collect();
            let label = layout.label.unwrap_or(cells.len() - 1);
            let last = [Some(layout.text_a), layout.text_b, Some(label)];
            let needed = last.into_iter().flatten().max().unwrap_or(0) + 1;
            // Where the label is the last column, it must not be a text.
            let behind = layout.text_b.unwrap_or(layout.text_a) + 1;
            if cells.len() < needed || (layout.label.is_none() && label < behind) {
                if self == Self::Qqp {
                    continue;
                }
                let wanted = needed.max(behind + usize::from(layout.label.is_none()));
                return Err(at(
                    file,
                    number,
                    format!(
                        "{} columns where {} has at least {wanted}; columns are separated by tabs",
                        cells.len(),
                        self.name()
                    ),
                ));
            }
            all.push(Example {
                text_a: cells[layout.text_a].to_owned(),
                text_b: layout.text_b.map(|b| cells[b].to_owned()),
                label: self.label(cells[label], file, number)?,
            });
        }
        Ok(all)
    }

    /// Reads comma-separated values with named columns, quoted by `"` where needed.
    ///
    /// # Errors
    /// Columns that are missing, and a label that is not the task's, with file and line.
    pub fn parse_csv(self, text: &str, file: &Path) -> Result<Vec<Example>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        named(self, csv(text).into_iter(), file, true)
    }

    /// Reads one JSON object a line.
    ///
    /// # Errors
    /// Lines that are no objects, keys that are missing, and a label that is not the task's, with file and line.
    pub fn parse_json_lines(self, text: &str, file: &Path) -> Result<Vec<Example>> {
        let (a, b) = self.layout().names;
        let mut all = vec![];
        for (number, line) in lines(text) {
            let row: Value =
                serde_json::from_str(line).map_err(|e| at(file, number, e.to_string()))?;
            let text = |names: &[&str]| {
                let found = names.iter().find_map(|n| row.get(n)?.as_str());
                found.map(str::to_owned).ok_or_else(|| {
                    at(
                        file,
                        number,
                        format!("has no text under {}", names.join(" or ")),
                    )
                })
            };
            let label = match row.get("label") {
                None | Some(Value::Null) => Label::None,
                Some(Value::String(s)) => self.label(s, file, number)?,
                Some(other) => self.label(&other.to_string(), file, number)?,
            };
            all.push(Example {
                text_a: text(a)?,
                text_b: b.map(text).transpose()?,
                label,
            });
        }
        Ok(all)
    }

    /// A label by its name, its index or, for a regression, its number; −1 is no label.
    pub(super) fn label(self, text: &str, file: &Path, line: usize) -> Result<Label> {
        let text = text.trim();
        let number = text.parse::<f64>().ok().filter(|x| x.is_finite());
        let Some(labels) = self.labels() else {
            return match number {
                Some(x) if (0.0..=5.0).contains(&x) => Ok(Label::Value(x)),
                Some(-1.0) => Ok(Label::None),
                _ => Err(at(
                    file,
                    line,
                    format!("the label {text:?} is no number from 0 to 5"),
                )),
            };
        };
        if let Some(i) = labels.iter().position(|l| *l == text) {
            return Ok(Label::Class(i));
        }
        match number {
            Some(-1.0) => Ok(Label::None),
            Some(x) if x.fract() == 0.0 && (0.0..labels.len() as f64).contains(&x) => {
                Ok(Label::Class(x as usize))
            }
            _ => Err(at(
                file,
                line,
                format!(
                    "the label {text:?} is none of {}: {}",
                    self.name(),
                    labels.join(", ")
                ),
            )),
        }
    }
}
