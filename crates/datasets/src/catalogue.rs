//! Which data sets there are, how to get them, and which of them are on this machine.

mod entries;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use entries::ENTRIES;
pub(crate) use entries::{Entry, Origin, Shape};

use crate::embedded;
use crate::error::{Error, Result};
use crate::manifest::{Kind, MANIFEST, Manifest};
use crate::prepare::TextFormat;

/// Name of the folder in which imported data lies, beside the recipe or in a folder above it.
pub const DATA_FOLDER: &str = "data";

/// How a data set gets onto a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// It is compiled in.
    Embedded,
    /// It comes from a package, which the user's package client downloads.
    Importable,
    /// It is downloaded from its official address.
    Fetchable,
    /// It was made on this machine.
    Local,
}

/// What is known about a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Info {
    /// Name used in recipes.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// How it gets onto a machine.
    pub availability: Availability,
    /// The licence as its source states it.
    pub licence: String,
    /// Length of the content in bytes, where known before it is there.
    pub bytes: Option<u64>,
    /// Bytes to download.
    pub download_bytes: Option<u64>,
    /// What is in it.
    pub kind: Kind,
    /// How it is cut into tokens, if it is running text.
    pub format: Option<TextFormat>,
    /// How it is split.
    pub split: String,
    /// Package and version, or address.
    pub source: String,
    /// The commands that get it; empty for embedded data.
    pub commands: Vec<String>,
    /// The folder it lies in, if it is on this machine; `None` for embedded data.
    pub folder: Option<PathBuf>,
    /// Its manifest, if it is embedded or on this machine.
    pub manifest: Option<Manifest>,
}

/// All known data sets: embedded, importable, fetchable, and those that were made on this machine. `base` is where the search
/// for data folders begins.
///
/// ```
/// let names: Vec<String> = datasets::list(".".as_ref()).into_iter().map(|info| info.name).collect();
/// for name in ["moby-dick", "sotu-era4", "sotu", "enwik8"] {
///     assert!(names.iter().any(|known| known == name));
/// }
/// ```
pub fn list(base: &Path) -> Vec<Info> {
    let embedded = embedded::manifests().iter().map(embedded_info);
    let others = ENTRIES.iter().map(|entry| entry_info(entry, base));
    embedded.chain(others).chain(made(base)).collect()
}

/// Data folders under names that are in no table, in the order of their names; the one nearest to `base` hides others.
fn made(base: &Path) -> Vec<Info> {
    let mut found: BTreeMap<String, Info> = BTreeMap::new();
    for data in data_folders(base) {
        for entry in std::fs::read_dir(data).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = embedded::manifest(&name).is_some() || Entry::find(&name).is_ok();
            if known || found.contains_key(&name) || !is_plain(&name) {
                continue;
            }
            if let Ok(Some(manifest)) = Manifest::of_folder(&entry.path()) {
                found.insert(name, made_info(&manifest, entry.path()));
            }
        }
    }
    found.into_values().collect()
}

fn made_info(manifest: &Manifest, folder: PathBuf) -> Info {
    Info {
        availability: Availability::Local,
        folder: Some(folder),
        ..embedded_info(manifest)
    }
}

/// What is known about one data set: embedded, known by name, or made or imported into the data folder.
///
/// # Errors
/// [`Error::UnknownName`], and [`Error::Json`] for a damaged manifest.
pub fn info(name: &str, base: &Path) -> Result<Info> {
    if let Some(manifest) = embedded::manifest(name) {
        return Ok(embedded_info(manifest));
    }
    if let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) {
        return Ok(entry_info(entry, base));
    }
    let folder = folder_of(name, base).ok_or_else(|| unknown(name))?;
    let manifest = Manifest::of_folder(&folder)?.ok_or_else(|| unknown(name))?;
    Ok(made_info(&manifest, folder))
}

fn embedded_info(manifest: &Manifest) -> Info {
    Info {
        name: manifest.name.clone(),
        title: manifest.title.clone(),
        availability: Availability::Embedded,
        licence: manifest.licence.clone(),
        bytes: Some(manifest.bytes),
        download_bytes: None,
        kind: manifest.kind,
        format: match manifest.kind {
            Kind::Text => Some(manifest.format.unwrap_or(TextFormat::Bytes)),
            _ => None,
        },
        split: manifest.split.clone(),
        source: format!(
            "{} {} {}",
            manifest.source.client, manifest.source.package, manifest.source.version
        )
        .trim_end()
        .to_string(),
        commands: Vec::new(),
        folder: None,
        manifest: Some(manifest.clone()),
    }
}

fn entry_info(entry: &Entry, base: &Path) -> Info {
    let folder = folder_of(entry.name, base);
    let manifest = folder
        .as_deref()
        .and_then(|folder| Manifest::of_folder(folder).ok().flatten());
    let (availability, download_bytes) = match &entry.origin {
        Origin::Package { .. } => (Availability::Importable, None),
        Origin::Web { bytes, .. } => (Availability::Fetchable, Some(*bytes)),
    };
    Info {
        name: entry.name.into(),
        title: entry.title.into(),
        availability,
        licence: entry.licence.into(),
        bytes: entry.expected.bytes,
        download_bytes,
        kind: entry.shape.kind(),
        format: (entry.shape.kind() == Kind::Text).then_some(entry.format),
        split: entry.split.into(),
        source: entry.source(),
        commands: entry.commands(),
        folder,
        manifest,
    }
}

impl Entry {
    pub(crate) fn find(name: &str) -> Result<&'static Entry> {
        ENTRIES
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| unknown(name))
    }

    fn source(&self) -> String {
        match &self.origin {
            Origin::Package {
                client,
                package,
                version,
                ..
            } => format!("{client} package {package}, version {version}"),
            Origin::Web { url, mirror, .. } => match mirror {
                Some(mirror) => format!("{url} (or {mirror})"),
                None => url.to_string(),
            },
        }
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        let name = self.name;
        match &self.origin {
            Origin::Package { command, file, .. } => {
                vec![
                    command.to_string(),
                    format!("cargo xtask data import {name} --from {file}"),
                ]
            }
            Origin::Web { .. } => vec![format!("cargo xtask data fetch {name}")],
        }
    }

    fn missing(&self, looked: String) -> Error {
        let commands: Vec<String> = self
            .commands()
            .iter()
            .map(|command| format!("`{command}`"))
            .collect();
        let commands = commands.join(", then ");
        let by_hand = match &self.origin {
            Origin::Package { .. } => String::new(),
            Origin::Web { file, .. } => format!(
                "; without internet on this machine bring {file} here and run `cargo xtask data import {} --from {file}`",
                self.name
            ),
        };
        Error::Missing {
            name: self.name.into(),
            looked,
            how: format!("It is {}: run {commands}{by_hand}", self.source()),
            fallback: "Embedded and always there: \"name\": \"moby-dick\"".into(),
        }
    }
}

pub(crate) fn unknown(name: &str) -> Error {
    let embedded = embedded::manifests()
        .iter()
        .map(|manifest| manifest.name.as_str());
    let known: Vec<&str> = embedded
        .chain(ENTRIES.iter().map(|entry| entry.name))
        .collect();
    Error::UnknownName {
        name: name.into(),
        known: known.join(", "),
    }
}

/// Folders in which data sets may lie: `data` beside `base` and in every folder above it.
fn data_folders(base: &Path) -> Vec<PathBuf> {
    let base = if base.as_os_str().is_empty() {
        Path::new(".")
    } else {
        base
    };
    // A relative base has no folders above it until it is made absolute; where that fails, the relative ones must do.
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_path_buf());
    base.ancestors()
        .map(|folder| folder.join(DATA_FOLDER))
        .collect()
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':'])
}

fn folder_of(name: &str, base: &Path) -> Option<PathBuf> {
    data_folders(base)
        .into_iter()
        .map(|data| data.join(name))
        .find(|folder| is_plain(name) && folder.join(MANIFEST).is_file())
}

/// The folder of a named data set, or how to get it.
pub(crate) fn locate(name: &str, base: &Path) -> Result<PathBuf> {
    if let Some(folder) = folder_of(name, base) {
        return Ok(folder);
    }
    let looked: Vec<String> = data_folders(base)
        .iter()
        .map(|data| data.display().to_string())
        .collect();
    Err(Entry::find(name)?.missing(looked.join(", ")))
}
