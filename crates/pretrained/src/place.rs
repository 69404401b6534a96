//! Where a model is: a folder, the folder inside a sentence-transformers one, or a published name.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json::read_json;

/// How far the download of a file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download<'a> {
    /// The file's name in the published folder.
    pub file: &'a str,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// Whether nothing is at this path and it could be the name of a published model: `bert-base-uncased`,
/// `uw-madison/nystromformer-512`.
///
/// ```
/// use pretrained::is_published_name;
///
/// assert!(is_published_name("uw-madison/nystromformer-512".as_ref()));
/// assert!(!is_published_name("./uw-madison".as_ref()));
/// assert!(!is_published_name(".".as_ref()));
/// ```
pub fn is_published_name(path: &Path) -> bool {
    let Some(text) = path.to_str() else {
        return false;
    };
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |part: &&str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(letters)
            && !part.contains("..")
    };
    let file = |ending: &str| text.ends_with(ending);
    let is_file = [".json", ".safetensors", ".bin", ".pt", ".txt"]
        .into_iter()
        .any(file);
    matches!(parts.len(), 1 | 2) && parts.iter().all(plain) && !is_file && !path.exists()
}

/// The folder with the `config.json` and weights of a model: `path` itself; for a sentence-transformers folder that keeps
/// them in a folder of their own, that one; for the name of a published model, under the feature `hub`, the folder it is
/// downloaded to.
///
/// # Errors
///
/// [`Error::Value`] where nothing is at `path`, and [`Error::Hub`] for a name that cannot be had.
pub fn model_folder(path: &Path) -> Result<PathBuf> {
    model_folder_with(path, &mut |_| {})
}

/// As [`model_folder`]; `progress` is told how far a download has come.
///
/// # Errors
///
/// As [`model_folder`].
pub fn model_folder_with(path: &Path, progress: &mut dyn FnMut(Download<'_>)) -> Result<PathBuf> {
    let outer = match is_published_name(path) {
        true => published(path, progress)?,
        false => path.to_path_buf(),
    };
    Ok(inner_folder(&outer)?.unwrap_or(outer))
}

#[cfg(feature = "hub")]
fn published(path: &Path, progress: &mut dyn FnMut(Download<'_>)) -> Result<PathBuf> {
    crate::hub::fetch(&path.to_string_lossy(), progress)
}

#[cfg(not(feature = "hub"))]
fn published(path: &Path, _progress: &mut dyn FnMut(Download<'_>)) -> Result<PathBuf> {
    Err(Error::value(
        "model",
        path.display(),
        "there is no such folder; if it is the name of a published model, enable the feature `hub`, or download its files \
         into a folder and give that",
    ))
}

/// Where `modules.json` says the weights are, for a folder that has none itself.
fn inner_folder(dir: &Path) -> Result<Option<PathBuf>> {
    let modules = dir.join("modules.json");
    if dir.join("config.json").is_file() || !modules.is_file() {
        return Ok(None);
    }
    let all: Vec<Value> = read_json(&modules)?;
    let text =
        |module: &Value, key: &str| module.get(key).and_then(Value::as_str).map(str::to_owned);
    let module = all
        .iter()
        .find(|m| text(m, "type").is_some_and(|kind| kind.ends_with(".Transformer")));
    let Some(path) = module.and_then(|m| text(m, "path")) else {
        return Ok(None);
    };
    // The file comes with a download: it must not reach outside its own folder.
    let mut parts = Path::new(&path).components();
    match parts.all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(Some(dir.join(path))),
        false => Err(Error::value(
            modules.display().to_string(),
            path,
            "expected a folder inside the model's",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_with_the_weights_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(model_folder(dir.path()).expect("itself"), dir.path());
        let write = |path: &str| {
            let text = format!(
                r#"[{{"type": "sentence_transformers.models.Transformer", "path": "{path}"}}]"#
            );
            std::fs::write(dir.path().join("modules.json"), text).expect("written");
        };
        write("0_Transformer");
        let inner = dir.path().join("0_Transformer");
        assert_eq!(model_folder(dir.path()).expect("inner"), inner);
        write("../elsewhere");
        let error = model_folder(dir.path()).expect_err("outside");
        assert!(error.to_string().contains("inside the model's"), "{error}");
    }

    #[test]
    fn names_and_paths_are_told_apart() {
        for name in ["bert-base-uncased", "org/model_1.5"] {
            assert!(is_published_name(name.as_ref()), "{name}");
        }
        for path in ["/a/b", "a/b/c", "..", "a/..", "model.bin", "a b", "", "src"] {
            assert!(!is_published_name(path.as_ref()), "{path}");
        }
        #[cfg(not(feature = "hub"))]
        {
            let error = model_folder("org/model".as_ref()).expect_err("no such folder");
            assert!(error.to_string().contains("feature `hub`"), "{error}");
        }
    }
}
