//! Texts and pairs of texts with a class each: what sentence classifiers are trained on.
//!
//! Embedded, imported and GLUE data come as the same three splits of [`Example`]s.
//!
//! ```
//! use datasets::labelled::{LabelledSpec, load};
//! use datasets::glue::Label;
//!
//! // Passages of speeches, to be told by their time; no file and no network is needed.
//! let spec: LabelledSpec = serde_json::from_str(r#"{ "name": "sotu-era4" }"#)?;
//! let data = load(&spec, ".".as_ref())?;
//! assert_eq!((data.train.len(), data.valid.len(), data.test.len()), (4480, 640, 1280));
//! assert_eq!(data.labels.as_ref().map(Vec::len), Some(4));
//! assert!(matches!(data.test[0].label, Label::Class(0..4)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pairs;
mod rows;
pub(crate) mod sources;

pub use pairs::Negatives;
pub(crate) use rows::{Row, Split, Table, one_line, read_rows, write_rows};

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalogue;
use crate::embedded;
use crate::error::{Error, Result, io, value};
use crate::glue::{self, Example, Label, Task};
use crate::manifest::{Kind, Manifest};
use crate::verses::NT_VERSES;

/// The file of a data folder that holds labelled texts.
pub(crate) const TEXTS: &str = "texts.tsv";

/// Which labelled texts to read: a `name`, or a GLUE `task` with the `path` of its folder.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LabelledSpec {
    /// An embedded or imported data set, for example "sotu-era4".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A GLUE task, such as "sst-2".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The folder with the task's files, relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// For "nt-verses": which verse stands beside one that is not its own; by default the hardest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negatives: Option<Negatives>,
    /// At most so many examples of each class; by default all. Tables are shuffled, so the first ones are as good as any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_class: Option<PerClass>,
}

/// How many examples of each class are taken at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerClass {
    /// Of the training split.
    pub train: usize,
    /// Of the validation split.
    pub valid: usize,
    /// Of the test split.
    pub test: usize,
}

/// Labelled texts in three splits.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// What it is, for reports.
    pub name: String,
    /// The GLUE task, which decides the metrics; `None`: accuracy.
    pub task: Option<Task>,
    /// The classes in the order of their indices; `None` for a regression.
    pub labels: Option<Vec<String>>,
    /// To learn from.
    pub train: Vec<Example>,
    /// To choose by.
    pub valid: Vec<Example>,
    /// To report. GLUE's own test files have no labels: the second development file, or the first again.
    pub test: Vec<Example>,
    /// The manifest of named data.
    pub manifest: Option<Manifest>,
}

impl LabelledSpec {
    /// The spec of a named data set.
    pub fn named(name: &str) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::default()
        }
    }

    /// Finds contradictions without touching a file.
    ///
    /// # Errors
    /// [`Error::Value`] naming the key.
    pub fn validate(&self) -> Result<()> {
        if self.negatives.is_some() && self.name.as_deref() != Some(NT_VERSES) {
            let found = self.name.as_deref().unwrap_or("a GLUE task");
            return Err(value(
                "data.negatives",
                found,
                "only \"nt-verses\" has a choice of them",
            ));
        }
        if let Some(PerClass { train, valid, test }) = self.per_class
            && [train, valid, test].contains(&0)
        {
            let found = format!("{train}, {valid} and {test}");
            return Err(value("data.per_class", found, "at least 1 in each split"));
        }
        let expected = "either \"name\" alone, or \"task\" with \"path\"";
        match (&self.name, &self.task, &self.path) {
            (Some(_), None, None) => Ok(()),
            (None, Some(task), Some(_)) => Task::from_name(task).map(|_| ()),
            (None, None, None) => Err(value("data", "nothing", expected)),
            (None, Some(_), None) => Err(value("data.path", "nothing", expected)),
            (None, None, Some(_)) => Err(value("data.task", "nothing", expected)),
            (Some(_), ..) => Err(value(
                "data",
                "\"name\" with \"task\" or \"path\"",
                expected,
            )),
        }
    }
}

impl Labelled {
    /// Share of `examples` that have the most frequent class of the training split: what a classifier that reads nothing gets
    /// right. `None` for a regression.
    pub fn majority_share(&self, examples: &[Example]) -> Option<f64> {
        let mut counts = vec![0usize; self.labels.as_ref()?.len()];
        for example in &self.train {
            if let Label::Class(class) = example.label
                && let Some(count) = counts.get_mut(class)
            {
                *count += 1;
            }
        }
        // The first of equals.
        let most = counts.iter().max().copied().unwrap_or(0);
        let class = counts.iter().position(|count| *count == most)?;
        let hits = examples.iter().filter(|e| e.label == Label::Class(class));
        Some(hits.count() as f64 / examples.len().max(1) as f64)
    }
}

/// Reads the labelled texts that `spec` describes. Relative paths count from `base`, the folder of the recipe. A name that is not
/// embedded is looked for in the folder `data` of `base` and of every folder above it.
///
/// # Errors
/// Whatever is wrong with the spec, the files or the texts; [`Error::Missing`] says how to get data that is not here.
pub fn load(spec: &LabelledSpec, base: &Path) -> Result<Labelled> {
    spec.validate()?;
    let mut data = read(spec, base)?;
    if let Some(PerClass { train, valid, test }) = spec.per_class {
        let splits = [
            (&mut data.train, train),
            (&mut data.valid, valid),
            (&mut data.test, test),
        ];
        for (examples, most) in splits {
            first_of_each(examples, most);
        }
    }
    Ok(data)
}

/// Keeps the first `most` examples of each class.
fn first_of_each(examples: &mut Vec<Example>, most: usize) {
    let mut counts = vec![];
    examples.retain(|example| match example.label {
        Label::Class(class) => {
            counts.resize(counts.len().max(class + 1), 0);
            counts[class] += 1;
            counts[class] <= most
        }
        Label::Value(_) | Label::None => true,
    });
}

fn read(spec: &LabelledSpec, base: &Path) -> Result<Labelled> {
    if let (Some(task), Some(path)) = (&spec.task, &spec.path) {
        return of_glue(Task::from_name(task)?, &base.join(path));
    }
    let name = spec.name.as_deref().unwrap_or_default();
    if let Some(manifest) = embedded::manifest(name) {
        if manifest.kind == Kind::Verses {
            let [train, valid, test] = pairs::pairs(spec.negatives.unwrap_or_default())?;
            return Ok(Labelled {
                name: "pairs of verses of two translations".into(),
                task: None,
                labels: Some(pairs::LABELS.map(str::to_owned).into()),
                train,
                valid,
                test,
                manifest: Some(manifest.clone()),
            });
        }
        only_labelled(name, manifest)?;
        let text = embedded::text(name)?;
        return of_rows(&text, Path::new(&format!("embedded {name}")), manifest);
    }
    let folder = catalogue::locate(name, base)?;
    let manifest = Manifest::of_folder(&folder)?.ok_or_else(|| catalogue::unknown(name))?;
    only_labelled(name, &manifest)?;
    let path = folder.join(TEXTS);
    let bytes = std::fs::read(&path).map_err(io("read", &path))?;
    manifest.check(TEXTS, &bytes, &path.display().to_string())?;
    let text = String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        file: path.display().to_string(),
        byte: error.utf8_error().valid_up_to(),
    })?;
    of_rows(&text, &path, &manifest)
}

/// Data of another kind has readers of its own.
fn only_labelled(name: &str, manifest: &Manifest) -> Result<()> {
    match manifest.kind {
        Kind::Labelled => Ok(()),
        kind => Err(value(
            "data.name",
            format!("\"{name}\" ({})", kind.name()),
            "a data set of labelled texts, such as \"sotu-era4\"",
        )),
    }
}

fn of_rows(text: &str, file: &Path, manifest: &Manifest) -> Result<Labelled> {
    let mut splits: [Vec<Example>; 3] = Default::default();
    for row in rows::read_rows(text, file, &manifest.labels)? {
        splits[row.split as usize].push(Example {
            text_a: row.text,
            text_b: row.text_b,
            label: Label::Class(row.label),
        });
    }
    let [train, valid, test] = splits;
    for (split, examples) in [("train", &train), ("test", &test)] {
        if examples.is_empty() {
            return Err(Error::Layout {
                path: file.into(),
                message: format!("the {split} split is empty"),
            });
        }
    }
    Ok(Labelled {
        name: manifest.title.clone(),
        task: None,
        labels: Some(manifest.labels.clone()),
        train,
        valid,
        test,
        manifest: Some(manifest.clone()),
    })
}

fn of_glue(task: Task, path: &Path) -> Result<Labelled> {
    let read = glue::load(path, task)?;
    let mut dev = read.dev.into_iter().map(|(_, examples)| examples);
    let valid = dev.next().unwrap_or_default();
    let test = dev.next().unwrap_or_else(|| valid.clone());
    let labels = task.labels();
    Ok(Labelled {
        name: format!("GLUE {}", task.name()),
        task: Some(task),
        labels: labels.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        train: read.train,
        valid,
        test,
        manifest: None,
    })
}
