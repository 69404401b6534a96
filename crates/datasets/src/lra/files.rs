//! Readers of the published files.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::pairs::{PairExample, Pairs};
use super::{BYTE_IDS, byte_ids};
use crate::error::{Error, Result, io};
use crate::images::read_png;
use crate::make::SplitMix;
use crate::sequences::{Example, Sequences};

const SEED: u64 = 7;

fn wrong(path: &Path, line: Option<usize>, message: impl Into<String>) -> Error {
    Error::Layout {
        path: match line {
            Some(line) => format!("{}:{line}", path.display()).into(),
            None => path.into(),
        },
        message: message.into(),
    }
}

/// Files of a folder in the order of their names, which is not the system's.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).map_err(io("list", folder))? {
        let entry = entry.map_err(io("list", folder))?;
        if entry
            .file_type()
            .map_err(io("inspect", &entry.path()))?
            .is_file()
        {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// IMDB reviews as bytes: `train` and `test`, each with the folders `neg` and `pos` of `.txt` files. Every tenth review of train,
/// shuffled with a fixed seed, is valid.
///
/// # Errors
/// A folder that is missing or holds no review.
pub fn imdb(folder: &Path, max_length: usize) -> Result<Sequences> {
    let half = |name: &str| -> Result<Vec<Example>> {
        let mut examples = vec![];
        for (label, class) in ["neg", "pos"].into_iter().enumerate() {
            let folder = folder.join(name).join(class);
            let before = examples.len();
            for path in files_in(&folder)? {
                if path.extension().is_some_and(|end| end == "txt") {
                    let text = std::fs::read(&path).map_err(io("read", &path))?;
                    examples.push(Example {
                        ids: byte_ids(&text, max_length),
                        label: label as u16,
                    });
                }
            }
            if examples.len() == before {
                return Err(wrong(
                    &folder,
                    None,
                    "holds no review: expected files ending in .txt",
                ));
            }
        }
        Ok(examples)
    };
    let (mut train, test) = (half("train")?, half("test")?);
    SplitMix::new(SEED).shuffle(&mut train);
    let valid = train.split_off(train.len() - train.len() / 10);
    Ok(Sequences {
        name: format!("IMDB of {}, as bytes", folder.display()),
        train,
        valid,
        test,
        vocab_size: BYTE_IDS,
        classes: 2,
    })
}

/// Pairs of papers as bytes, of which one may cite the other: `new_aan_pairs.train.tsv`, `.eval.tsv` and `.test.tsv`, each line a label,
/// two ids and two texts between tabs. Quotes are ordinary characters.
///
/// # Errors
/// A file that is missing or malformed, with the line.
pub fn retrieval(folder: &Path, max_length: usize) -> Result<Pairs> {
    let split = |name: &str| -> Result<Vec<PairExample>> {
        let path = folder.join(format!("new_aan_pairs.{name}.tsv"));
        let file = std::fs::File::open(&path).map_err(io("open", &path))?;
        let mut pairs = vec![];
        // The files have gigabytes: line by line, as bytes.
        for (i, line) in BufReader::new(file).split(b'\n').enumerate() {
            let line = line.map_err(io("read", &path))?;
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                continue;
            }
            let cells: Vec<&[u8]> = line.splitn(5, |byte| *byte == b'\t').collect();
            let [label, _, _, first, second] = cells[..] else {
                let message = format!(
                    "{} columns where label, two ids and two texts are expected",
                    cells.len()
                );
                return Err(wrong(&path, Some(i + 1), message));
            };
            let label = match label {
                b"0" | b"0.0" => 0,
                b"1" | b"1.0" => 1,
                other => {
                    let other = String::from_utf8_lossy(other).into_owned();
                    return Err(wrong(
                        &path,
                        Some(i + 1),
                        format!("the label {other:?} is neither 0 nor 1"),
                    ));
                }
            };
            pairs.push(PairExample::new(first, second, max_length, label));
        }
        match pairs.is_empty() {
            true => Err(wrong(&path, None, "there is no pair in it")),
            false => Ok(pairs),
        }
    };
    Ok(Pairs {
        name: format!("pairs of papers of {}", folder.display()),
        train: split("train")?,
        valid: split("eval")?,
        test: split("test")?,
        vocab_size: BYTE_IDS,
        classes: 2,
    })
}

/// Pathfinder pictures: `metadata` holds files whose lines name a picture (folder and file below this one) and, fourth, its label. Empty
/// pictures, of which the release has a few, are left out. Shuffled with a fixed seed; 80 % train, 10 % valid, 10 % test.
///
/// # Errors
/// Files that are missing or malformed, with the line.
pub fn pathfinder(folder: &Path) -> Result<Sequences> {
    let mut examples = vec![];
    for list in files_in(&folder.join("metadata"))? {
        let text = std::fs::read_to_string(&list).map_err(io("read", &list))?;
        for (i, line) in text.lines().enumerate() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.is_empty() {
                continue;
            }
            let label = fields
                .get(3)
                .and_then(|label| label.parse().ok())
                .filter(|label| *label < 2);
            let (Some(label), [below, file, ..]) = (label, &fields[..]) else {
                return Err(wrong(
                    &list,
                    Some(i + 1),
                    "expected a folder, a file, a number and a label of 0 or 1",
                ));
            };
            if [*below, *file]
                .iter()
                .any(|part| part.split('/').any(|name| name == "..") || part.starts_with('/'))
            {
                return Err(wrong(
                    &list,
                    Some(i + 1),
                    "the picture lies outside of the folder",
                ));
            }
            let path = folder.join(below).join(file);
            let bytes = std::fs::read(&path).map_err(io("read", &path))?;
            if bytes.is_empty() {
                continue;
            }
            let grey = read_png(&bytes, &path)?.grey();
            examples.push(Example {
                ids: grey.into_iter().map(u16::from).collect(),
                label,
            });
        }
    }
    let length = examples.first().map_or(0, |e| e.ids.len());
    if examples.len() < 10 || examples.iter().any(|e| e.ids.len() != length) {
        let message = format!(
            "holds {} pictures; at least 10 of one size are needed",
            examples.len()
        );
        return Err(wrong(folder, None, message));
    }
    SplitMix::new(SEED).shuffle(&mut examples);
    let tenth = examples.len() / 10;
    let test = examples.split_off(examples.len() - tenth);
    let valid = examples.split_off(examples.len() - tenth);
    Ok(Sequences {
        name: format!("Pathfinder of {}", folder.display()),
        train: examples,
        valid,
        test,
        vocab_size: 256,
        classes: 2,
    })
}
