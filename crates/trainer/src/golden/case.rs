//! Reading golden cases.

use crate::{Error, Result};
use burn::tensor::TensorData;
use pretrained::NamedTensors;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// One golden case.
#[derive(Debug, Clone)]
pub struct Case {
    /// The name of its file, without the extension.
    pub name: String,
    /// The JSON file.
    pub file: PathBuf,
    /// The architecture, `bert` or `core-attn`.
    pub model: String,
    /// Which replay runs it.
    pub check: String,
    /// The configuration, if it has one.
    pub config: Option<Value>,
    /// How far the numbers may be apart; without one they must be equal.
    pub tolerance: Option<Tolerance>,
    /// The whole JSON file.
    pub json: Value,
    /// The tensors beside it; none if there is no such file.
    pub tensors: NamedTensors,
}

/// How far numbers may be apart: `|found − expected| <= abs + rel · |expected|`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// The absolute part.
    #[serde(default)]
    pub abs: f64,
    /// The relative part.
    #[serde(default)]
    pub rel: f64,
    /// The absolute part for gradients, if it is another.
    #[serde(default)]
    pub grad_abs: Option<f64>,
    /// The relative part for gradients, if it is another.
    #[serde(default)]
    pub grad_rel: Option<f64>,
}

impl Tolerance {
    /// The tolerance for gradients.
    pub fn of_gradients(self) -> Self {
        Self {
            abs: self.grad_abs.unwrap_or(self.abs),
            rel: self.grad_rel.unwrap_or(self.rel),
            ..self
        }
    }

    /// A tolerance `by` times as wide.
    pub fn widened(self, by: f64) -> Self {
        Self {
            abs: self.abs * by,
            rel: self.rel * by,
            grad_abs: self.grad_abs.map(|abs| abs * by),
            grad_rel: self.grad_rel.map(|rel| rel * by),
        }
    }

    /// Whether two numbers are close enough; NaN is close to NaN only, an infinity to the same infinity only.
    pub fn accepts(&self, expected: f64, found: f64) -> bool {
        if expected.is_finite() && found.is_finite() {
            return (found - expected).abs() <= self.abs + self.rel * expected.abs();
        }
        expected == found || (expected.is_nan() && found.is_nan())
    }

    fn is_sound(&self) -> bool {
        let parts = [Some(self.abs), Some(self.rel), self.grad_abs, self.grad_rel];
        let mut parts = parts.into_iter().flatten();
        parts.all(|part| part >= 0.0 && part.is_finite())
    }
}

impl Case {
    /// Reads a case and the tensors beside it.
    ///
    /// # Errors
    /// When a file cannot be read, `model` or `check` is missing, or the tolerance is malformed.
    pub fn load(file: &Path) -> Result<Self> {
        let json: Value = pretrained::read_json(file)?;
        let malformed = |message: &str| Error::Golden {
            file: file.to_path_buf(),
            message: message.to_owned(),
        };
        if !json.is_object() {
            return Err(malformed("a golden case is a JSON object"));
        }
        let text = |key: &str| {
            json.get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .ok_or_else(|| malformed(&format!("`{key}` is missing or no text")))
        };
        let (model, check) = (text("model")?, text("check")?);
        let config = match json.get("config") {
            None | Some(Value::Null) => None,
            Some(config @ Value::Object(_)) => Some(config.clone()),
            Some(_) => return Err(malformed("`config` is no JSON object")),
        };
        let tolerance: Option<Tolerance> = match json.get("tolerance") {
            None | Some(Value::Null) => None,
            Some(value) => Some(pretrained::parse_value(value.clone(), file, "tolerance")?),
        };
        if tolerance.is_some_and(|tolerance| !tolerance.is_sound()) {
            return Err(malformed(
                "`tolerance` has a part that is negative or infinite",
            ));
        }
        let beside = file.with_extension("safetensors");
        let tensors = match beside.exists() {
            true => pretrained::read_tensors(&beside)?,
            false => NamedTensors::new(),
        };
        let name = file.file_stem().unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            file: file.to_path_buf(),
            model,
            check,
            config,
            tolerance,
            json,
            tensors,
        })
    }

    /// The configuration as a type of ours.
    ///
    /// # Errors
    /// When there is none or it does not fit.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let config = self.config.clone();
        let config = config.ok_or_else(|| self.malformed("`config` is missing"))?;
        Ok(pretrained::parse_value(config, &self.file, "config")?)
    }

    /// Any other part of the JSON as a type of ours.
    ///
    /// # Errors
    /// When it is missing or does not fit.
    pub fn field<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.json.get(key).cloned();
        let value = value.ok_or_else(|| self.malformed(&format!("`{key}` is missing")))?;
        Ok(pretrained::parse_value(value, &self.file, key)?)
    }

    /// A tensor of the case.
    ///
    /// # Errors
    /// When it has none of this name.
    pub fn tensor(&self, name: &str) -> Result<&TensorData> {
        self.tensors
            .get(name)
            .ok_or_else(|| self.malformed(&format!("the tensor `{name}` is missing beside it")))
    }

    /// The tensors whose name starts with `prefix`, without it: `with_prefix("weights.")`.
    pub fn with_prefix(&self, prefix: &str) -> NamedTensors {
        let all = self.tensors.iter();
        all.filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), data.clone())))
            .collect()
    }

    /// A file in the same folder.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn sibling(&self, name: &str) -> Result<PathBuf> {
        let path = self.file.with_file_name(name);
        match path.is_file() {
            true => Ok(path),
            false => Err(self.malformed(&format!("the file `{name}` is missing beside it"))),
        }
    }

    /// An error about this case.
    pub fn malformed(&self, message: &str) -> Error {
        Error::Golden {
            file: self.file.clone(),
            message: message.to_owned(),
        }
    }
}

/// The JSON files of all cases under a path: a case, a folder of cases, or a folder of such folders; sorted.
///
/// # Errors
/// When the path cannot be read or there is no case under it.
pub fn find(path: &Path) -> Result<Vec<PathBuf>> {
    let is_case = |path: &Path| path.is_file() && path.extension().is_some_and(|e| e == "json");
    let mut cases = Vec::new();
    if path.is_dir() {
        let entries = list(path)?;
        for folder in entries.iter().filter(|entry| entry.is_dir()) {
            cases.extend(list(folder)?);
        }
        cases.extend(entries);
        cases.retain(|path| is_case(path));
        cases.sort();
    } else if is_case(path) {
        cases.push(path.to_path_buf());
    }
    match cases.is_empty() {
        false => Ok(cases),
        true => Err(Error::Golden {
            file: path.to_path_buf(),
            message: "there is no golden case here: expected a `.json` file, a folder of such files, or a folder of such folders".to_owned(),
        }),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
    entries
        .map(|entry| Ok(entry.map_err(Error::io("list", dir))?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn load(value: &Value) -> Result<Case> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("case.json");
        fs::write(&file, value.to_string()).expect("a case is written");
        Case::load(&file)
    }

    #[test]
    fn a_case_may_lack_all_but_model_and_check() {
        let case = load(&json!({ "model": "m", "check": "c" })).expect("a case");
        assert_eq!((case.name.as_str(), case.check.as_str()), ("case", "c"));
        assert!(case.config.is_none() && case.tolerance.is_none() && case.tensors.is_empty());
        assert!(case.config::<Value>().is_err() && case.tensor("output.x").is_err());
        let tolerance = json!({ "abs": 1e-7, "score_abs": 0.5, "grad_rel": 0.1 });
        let case =
            load(&json!({ "model": "m", "check": "c", "tolerance": tolerance, "trace": [1] }));
        let case = case.expect("a case");
        let tolerance = case.tolerance.expect("a tolerance");
        assert_eq!((tolerance.abs, tolerance.rel), (1e-7, 0.0));
        assert_eq!(tolerance.of_gradients().rel, 0.1);
        assert_eq!(case.field::<Vec<u8>>("trace").expect("a list"), [1]);
    }

    #[test]
    fn malformed_cases_are_errors() {
        for (value, part) in [
            (json!([]), "JSON object"),
            (json!({ "check": "c" }), "`model`"),
            (json!({ "model": "m", "check": 3 }), "`check`"),
            (
                json!({ "model": "m", "check": "c", "config": 1 }),
                "`config`",
            ),
            (
                json!({ "model": "m", "check": "c", "tolerance": { "abs": -1.0 } }),
                "negative",
            ),
            (
                json!({ "model": "m", "check": "c", "tolerance": { "abs": "x" } }),
                "tolerance",
            ),
        ] {
            let error = load(&value).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn cases_are_found_in_a_folder_and_in_folders_of_a_folder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(find(dir.path()).is_err());
        for name in ["b/2.json", "a/1.json", "a/1.safetensors", "a/notes.txt"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, "{}").expect("a file");
        }
        let found = find(dir.path()).expect("two cases");
        assert_eq!(
            found,
            [dir.path().join("a/1.json"), dir.path().join("b/2.json")]
        );
        assert_eq!(find(&dir.path().join("a")).expect("one case").len(), 1);
        assert_eq!(
            find(&dir.path().join("a/1.json")).expect("one case").len(),
            1
        );
        assert!(find(&dir.path().join("none")).is_err());
    }
}
