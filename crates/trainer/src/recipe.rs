//! The recipe: one JSON file that says everything about a run.

use crate::{Clock, Error, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A recipe: which architecture, which model, on which data, trained how.
///
/// The four sections are JSON until an architecture reads them with [`section`](Self::section): this crate knows no model.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The architecture.
    pub architecture: String,
    /// The seed of every random number of the run.
    pub seed: u64,
    /// The backend to run on, if the recipe says so.
    pub backend: Option<String>,
    /// What the recipe is for and how long it takes, for people.
    pub about: Option<String>,
    /// Results to expect, such as `"test.bpb": 2.9`.
    pub expected: BTreeMap<String, f64>,
    /// Whatever changes parameters or the forward pass.
    pub model: Value,
    /// What is learned from.
    pub data: Value,
    /// How it is learned.
    pub training: Value,
    /// How it is measured.
    pub evaluation: Value,
    /// The file it was read from.
    pub file: PathBuf,
    base: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    architecture: String,
    #[serde(default = "default_seed")]
    seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    expected: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<PathBuf>,
    #[serde(default)]
    model: Map<String, Value>,
    #[serde(default)]
    data: Map<String, Value>,
    #[serde(default)]
    training: Map<String, Value>,
    #[serde(default)]
    evaluation: Map<String, Value>,
}

fn default_seed() -> u64 {
    1
}

impl Recipe {
    /// Reads a recipe and merges `sets`, each `dotted.path=value`, before anything is interpreted.
    ///
    /// A value is JSON if it can be read as JSON and a string otherwise.
    ///
    /// # Errors
    /// When the file is absent or is no JSON, a path leads through something that is no object, or a top-level key is unknown.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read the recipe", path))?;
        Self::from_value(pretrained::parse_json(&text, path)?, path, sets)
    }

    /// Makes a recipe of a JSON value; `file` is what errors name and what relative paths start from.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_value(mut value: Value, file: &Path, sets: &[String]) -> Result<Self> {
        for set in sets {
            merge(&mut value, set, file)?;
        }
        let document: Document = pretrained::parse_value(value, file, "")?;
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let base = match document.base {
            Some(base) => folder.join(base),
            None => folder,
        };
        Ok(Self {
            architecture: document.architecture,
            seed: document.seed,
            backend: document.backend,
            about: document.about,
            expected: document.expected,
            model: Value::Object(document.model),
            data: Value::Object(document.data),
            training: Value::Object(document.training),
            evaluation: Value::Object(document.evaluation),
            file: file.to_path_buf(),
            base,
        })
    }

    /// Reads a section (`model`, `data`, `training` or `evaluation`) into its type.
    ///
    /// # Errors
    /// When a key is unknown (the nearest known one is named), missing or of a wrong type, with its path.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = match name {
            "model" => &self.model,
            "data" => &self.data,
            "training" => &self.training,
            "evaluation" => &self.evaluation,
            _ => {
                return Err(Error::value(
                    "the name of a section",
                    format!("`{name}`"),
                    "model, data, training or evaluation",
                ));
            }
        };
        Ok(pretrained::parse_value(value.clone(), &self.file, name)?)
    }

    /// The cadence of the run, from `training.clock`.
    ///
    /// # Errors
    /// When it holds an unknown key or a value out of range.
    pub fn clock(&self) -> Result<Clock> {
        let clock = match self.training.get("clock") {
            Some(value) => pretrained::parse_value(value.clone(), &self.file, "training.clock")?,
            None => Clock::default(),
        };
        clock.validate("training.clock")?;
        Ok(clock)
    }

    /// The folder that paths in the recipe are relative to.
    pub fn base_dir(&self) -> &Path {
        &self.base
    }

    /// A path of the recipe, as seen from here.
    pub fn path(&self, relative: &Path) -> PathBuf {
        self.base.join(relative)
    }

    /// The recipe as one JSON value that means the same in any folder, as it is stored with a run.
    pub fn resolved(&self) -> Value {
        let section = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let base = std::path::absolute(&self.base).unwrap_or_else(|_| self.base.clone());
        let document = Document {
            architecture: self.architecture.clone(),
            seed: self.seed,
            backend: self.backend.clone(),
            about: self.about.clone(),
            expected: self.expected.clone(),
            base: Some(base),
            model: section(&self.model),
            data: section(&self.data),
            training: section(&self.training),
            evaluation: section(&self.evaluation),
        };
        serde_json::to_value(document).unwrap_or(Value::Null)
    }
}

fn merge(root: &mut Value, set: &str, file: &Path) -> Result<()> {
    let wrong = |at: &str, message: String| Error::Recipe {
        file: file.to_path_buf(),
        at: at.to_owned(),
        message,
    };
    let Some((path, text)) = set.split_once('=') else {
        return Err(wrong(
            "--set",
            format!("`{set}` has no `=`; write --set training.steps=50"),
        ));
    };
    if path.split('.').any(str::is_empty) {
        return Err(wrong(
            "--set",
            format!("`{path}` is no dotted path; write --set training.steps=50"),
        ));
    }
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let mut place = root;
    let mut walked = String::new();
    for key in path.split('.') {
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(key);
        if place.is_null() {
            *place = json!({});
        }
        place = match place {
            Value::Object(map) => map.entry(key).or_insert(Value::Null),
            Value::Array(items) => {
                let len = items.len();
                key.parse::<usize>()
                    .ok()
                    .and_then(|i| items.get_mut(i))
                    .ok_or_else(|| {
                        wrong(
                            &walked,
                            format!(
                                "--set {set}: the list has {len} items, `{key}` is none of 0..{len}"
                            ),
                        )
                    })?
            }
            other => {
                let found = other.to_string();
                return Err(wrong(
                    &walked,
                    format!("--set {set} leads through {found}, which has no parts"),
                ));
            }
        };
    }
    *place = value;
    Ok(())
}

/// The first place where two JSON values differ, as a dotted path, with both values.
pub(crate) fn difference(
    a: &Value,
    b: &Value,
    at: &str,
    ignore: &dyn Fn(&str) -> bool,
) -> Option<(String, Value, Value)> {
    if ignore(at) {
        return None;
    }
    let below = |key: &str| match at {
        "" => key.to_owned(),
        _ => format!("{at}.{key}"),
    };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys = x.keys().chain(y.keys().filter(|k| !x.contains_key(*k)));
            let absent = Value::Null;
            keys.into_iter().find_map(|key| {
                let (x, y) = (x.get(key).unwrap_or(&absent), y.get(key).unwrap_or(&absent));
                difference(x, y, &below(key), ignore)
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => x
            .iter()
            .zip(y)
            .enumerate()
            .find_map(|(i, (x, y))| difference(x, y, &below(&i.to_string()), ignore)),
        _ if a == b => None,
        _ => Some((at.to_owned(), a.clone(), b.clone())),
    }
}

/// The JSON schema of the recipes of one architecture, from the types of its four sections.
pub fn recipe_schema<M: JsonSchema, D: JsonSchema, T: JsonSchema, E: JsonSchema>(
    architecture: &str,
) -> Value {
    let mut generator = SchemaGenerator::default();
    let sections: [(&str, Schema); 4] = [
        ("model", generator.subschema_for::<M>()),
        ("data", generator.subschema_for::<D>()),
        ("training", generator.subschema_for::<T>()),
        ("evaluation", generator.subschema_for::<E>()),
    ];
    let mut properties = json!({
        "architecture": { "const": architecture },
        "seed": { "type": "integer", "minimum": 0, "default": default_seed(), "description": "The seed of every random number of the run." },
        "backend": { "type": "string", "description": "The backend to run on: flex, ndarray or wgpu." },
        "about": { "type": "string", "description": "What the recipe is for and how long it takes." },
        "expected": { "type": "object", "additionalProperties": { "type": "number" }, "description": "Results to expect, by split and metric." },
        "base": { "type": "string", "description": "The folder that paths are relative to, if it is not the folder of the recipe." },
    });
    for (name, schema) in sections {
        properties[name] = schema.to_value();
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Recipe for {architecture}"),
        "type": "object",
        "additionalProperties": false,
        "required": ["architecture"],
        "properties": properties,
        "$defs": Value::Object(generator.take_definitions(true)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(sets: &[&str]) -> Result<Recipe> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let value = json!({
            "architecture": "toy", "model": { "sizes": [1, 2] }, "training": { "steps": 10 }
        });
        Recipe::from_value(value, Path::new("configs/toy/quickstart.json"), &sets)
    }

    #[test]
    fn sets_are_json_or_strings_and_make_missing_objects() {
        let recipe = recipe(&[
            "training.steps=50",
            "data.name=moby-dick",
            "evaluation.sample.stop=\"10\"",
            "model.sizes.1=7",
            "seed=3",
            "training.note=a=b",
        ])
        .expect("all sets are well formed");
        assert_eq!(recipe.training, json!({ "steps": 50, "note": "a=b" }));
        assert_eq!(recipe.data, json!({ "name": "moby-dick" }));
        assert_eq!(recipe.evaluation, json!({ "sample": { "stop": "10" } }));
        assert_eq!(recipe.model, json!({ "sizes": [1, 7] }));
        assert_eq!(recipe.seed, 3);
    }

    #[test]
    fn bad_sets_and_keys_are_named() {
        for (set, part) in [
            ("training.steps", "no `=`"),
            ("training..steps=1", "no dotted path"),
            ("training.steps.x=1", "leads through 10"),
            ("model.sizes.2=1", "the list has 2 items"),
            ("trainig.steps=1", "training"),
            ("model=3", "model"),
        ] {
            let error = recipe(&[set]).expect_err(set).to_string();
            assert!(error.contains(part), "{set}: {error}");
            assert!(error.contains("quickstart.json"), "{set}: {error}");
        }
    }

    #[test]
    fn sections_name_the_path_and_the_nearest_key() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Training {
            #[serde(rename = "batch_size")]
            _batch_size: usize,
        }
        let error = recipe(&["training={\"batchsize\": 1}"])
            .and_then(|r| r.section::<Training>("training"))
            .expect_err("the key is misspelt")
            .to_string();
        assert!(
            error.contains("training") && error.contains("batch_size"),
            "{error}"
        );
        assert!(
            recipe(&[])
                .and_then(|r| r.section::<Value>("modle"))
                .is_err()
        );
    }

    #[test]
    fn paths_stay_the_same_when_the_recipe_is_stored_elsewhere() {
        let first = recipe(&[]).expect("a recipe");
        assert_eq!(
            first.path(Path::new("a.txt")),
            Path::new("configs/toy/a.txt")
        );
        let stored = first.resolved();
        let again = Recipe::from_value(stored.clone(), Path::new("/runs/1/recipe.json"), &[])
            .expect("a resolved recipe is a recipe");
        let expected = std::path::absolute("configs/toy/a.txt").expect("a current folder");
        assert_eq!(again.path(Path::new("a.txt")), expected);
        assert_eq!(again.resolved(), stored);
    }

    #[test]
    fn differences_are_found_where_they_are() {
        let a = json!({ "training": { "steps": 1, "lr": [1, 2] }, "seed": 1 });
        let b = json!({ "training": { "steps": 2, "lr": [1, 3] }, "seed": 1 });
        let found = difference(&a, &b, "", &|at| at == "training.steps");
        assert_eq!(found, Some(("training.lr.1".into(), json!(2), json!(3))));
        assert_eq!(difference(&a, &a, "", &|_| false), None);
    }

    #[test]
    fn schemas_hold_the_sections() {
        let schema = recipe_schema::<Clock, Clock, Clock, crate::Sampling>("toy");
        assert_eq!(schema["properties"]["architecture"]["const"], "toy");
        let text = schema.to_string();
        assert!(text.contains("evaluate_every") && text.contains("top_p"));
        assert_eq!(schema["additionalProperties"], false);
    }
}
