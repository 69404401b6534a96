//! JSON into types, with errors that name the path, the misspelt key and what was expected.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result, shortened};
use crate::names::did_you_mean;

/// Reads `text` as `T`; `file` is only named in errors.
///
/// # Errors
///
/// [`Error::Json`] with the path of the value that does not fit: an unknown key with the nearest valid one, a missing
/// key, a value of the wrong type with what was expected and found, or the line of a syntax error.
///
/// ```
/// # use std::path::Path;
/// #[derive(serde::Deserialize, Debug)]
/// #[serde(deny_unknown_fields)]
/// struct Config { hidden_size: usize }
///
/// let error = pretrained::parse_json::<Config>(r#"{"hiden_size": 8}"#, Path::new("config.json")).unwrap_err();
/// assert_eq!(error.to_string(), "config.json: hiden_size: unknown key; did you mean `hidden_size`?");
/// ```
pub fn parse_json<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut source = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut source)
        .map_err(|error| explain(error.path().to_string(), error.inner(), file, ""))?;
    match source.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(explain(String::new(), &error, file, "")),
    }
}

/// Reads `value` as `T`; `at` is where it stands in `file`, such as `model`, and begins every path in errors.
///
/// # Errors
///
/// As [`parse_json`].
pub fn parse_value<T: DeserializeOwned>(value: Value, file: &Path, at: &str) -> Result<T> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| explain(error.path().to_string(), error.inner(), file, at))
}

/// Reads a JSON file as `T`.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read, else as [`parse_json`].
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, "read", source))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse_json(text, path),
        Err(error) => Err(Error::Json {
            file: path.to_path_buf(),
            at: String::new(),
            message: format!("byte {} is not UTF-8 text", error.valid_up_to()),
            hint: Some("save the file as UTF-8".to_string()),
        }),
    }
}

fn explain(path: String, error: &serde_json::Error, file: &Path, prefix: &str) -> Error {
    let full = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let text = full.strip_suffix(&position).unwrap_or(&full);

    let path = if path == "." { "" } else { &path };
    let (at, message, hint) = if error.is_data() {
        explain_data(&join(prefix, path), text)
    } else {
        let place = format!("line {}, column {}: ", error.line(), error.column());
        (prefix.to_string(), format!("{place}{text}"), None)
    };
    Error::Json {
        file: file.to_path_buf(),
        at: shortened(at),
        message: shortened(message),
        hint: hint.map(shortened),
    }
}

/// Puts serde's sentence about the value at `path` into the place, what is wrong, and the remedy.
fn explain_data(path: &str, text: &str) -> (String, String, Option<String>) {
    if let Some((key, rest)) = quoted(text, "unknown field ") {
        return (
            with_key(path, key),
            "unknown key".to_string(),
            Some(suggestion(key, rest, "the keys here are")),
        );
    }
    if let Some((word, rest)) = quoted(text, "unknown variant ") {
        // Where the variant is the key of an object, the path already ends with it.
        let place = path.strip_suffix(word).and_then(|p| p.strip_suffix('.'));
        return (
            place.unwrap_or(path).to_string(),
            format!("unknown value `{word}`"),
            Some(suggestion(word, rest, "the values here are")),
        );
    }
    if let Some((key, _)) = quoted(text, "missing field ") {
        return (
            with_key(path, key),
            "missing, and it has no default".to_string(),
            None,
        );
    }
    if let Some((key, _)) = quoted(text, "duplicate field ") {
        return (
            with_key(path, key),
            "given twice, maybe under two spellings".to_string(),
            None,
        );
    }
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) = text
            .strip_prefix(kind)
            .and_then(|rest| rest.rsplit_once(", expected "))
        {
            let message = format!(
                "expected {}, found {}",
                expected_words(expected),
                found_words(found)
            );
            return (path.to_string(), message, None);
        }
    }
    (path.to_string(), text.to_string(), None)
}

/// Splits "`prefix` `name`rest" into the quoted name and the rest.
fn quoted<'a>(text: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = text.strip_prefix(prefix)?.strip_prefix('`')?;
    match rest.find("`, ") {
        Some(end) => Some((&rest[..end], &rest[end + 1..])),
        None => Some((rest.strip_suffix('`')?, "")),
    }
}

fn suggestion(word: &str, listed: &str, all: &str) -> String {
    let known: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
    if known.is_empty() {
        return "none is allowed here".to_string();
    }
    match did_you_mean(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{all} `{}`", known.join("`, `")),
    }
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix.is_empty(), path.is_empty()) {
        (true, _) => path.to_string(),
        (_, true) => prefix.to_string(),
        _ if path.starts_with('[') => format!("{prefix}{path}"),
        _ => format!("{prefix}.{path}"),
    }
}

/// `path`, ending with `key`: inside tagged and flattened types serde's path stops one level above it.
fn with_key(path: &str, key: &str) -> String {
    let ends = path == key
        || path
            .strip_suffix(key)
            .is_some_and(|parent| parent.ends_with('.'));
    if ends {
        path.to_string()
    } else {
        join(path, key)
    }
}

fn expected_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "u128" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "a borrowed string" | "string" => "a string",
        "path string" => "a path",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("a nonzero ") => "a whole number other than 0",
        other if other.starts_with("internally tagged enum ") => "an object",
        other if other.starts_with("enum ") => "a name or an object with one key",
        other => other,
    }
}

fn found_words(found: &str) -> String {
    match found {
        "sequence" => "a list".to_string(),
        "map" => "an object".to_string(),
        "unit value" => "null".to_string(),
        other => {
            let value = other
                .strip_prefix("integer ")
                .or_else(|| other.strip_prefix("floating point "))
                .or_else(|| other.strip_prefix("boolean "));
            match value {
                Some(value) => value.trim_matches('`').to_string(),
                None => match other.strip_prefix("string ") {
                    Some(text) => format!("the string {text}"),
                    None => other.to_string(),
                },
            }
        }
    }
}
