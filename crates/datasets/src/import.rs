//! From a package or archive that someone downloaded to a data folder.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::archive::{Found, Limits, read_wanted};
use crate::catalogue::{Entry, Origin, Shape};
use crate::corpus::split_of_document;
use crate::embedded;
use crate::error::{Error, Result, io, value};
use crate::folder::{Item, write_folder};
use crate::labelled::TEXTS;
use crate::manifest::{Kind, Manifest, Source, expect_equal, file_digests, md5, sha256};
use crate::prepare::each_token;
use crate::spec::SplitShares;

/// Digests of the archive, given by someone who trusts it although it is not the one known here.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// SHA-256 of the archive, in hexadecimal.
    pub sha256: Option<String>,
    /// MD5 of the archive, in hexadecimal.
    pub md5: Option<String>,
}

impl ImportOptions {
    pub(crate) fn given(&self) -> bool {
        self.sha256.is_some() || self.md5.is_some()
    }

    /// Compares the digests that were given with the actual ones.
    pub(crate) fn check(&self, file: &str, sha256: &str, md5: &str, remedy: &str) -> Result<()> {
        if let Some(expected) = &self.sha256 {
            expect_equal("sha256", expected, sha256, file, remedy)?;
        }
        if let Some(expected) = &self.md5 {
            expect_equal("md5", expected, md5, file, remedy)?;
        }
        Ok(())
    }
}

/// Documents and archives far larger than any of ours are refused.
const LIMITS: Limits = Limits {
    file: 1 << 30,
    total: 4 << 30,
    entries: 100_000,
};

/// Reads the data set `name` from a package archive (tar.gz, zip, wheel), from the folder of an unpacked one, or from the plain
/// file; verifies it; and writes it into the folder `data/NAME` with a manifest. Returns the folder and the manifest.
///
/// # Errors
/// [`Error::UnknownName`], [`Error::Archive`] for a damaged or hostile archive, [`Error::Layout`] when it does not hold the data
/// set, [`Error::Digest`] when it holds another version, [`Error::Io`].
pub fn import(
    name: &str,
    from: &Path,
    data: &Path,
    options: &ImportOptions,
) -> Result<(PathBuf, Manifest)> {
    if embedded::manifest(name).is_some() {
        return Err(value(
            "name",
            format!("\"{name}\""),
            "embedded, so there is nothing to import",
        ));
    }
    let entry = Entry::find(name)?;
    let is_file = std::fs::metadata(from).map_err(io("open", from))?.is_file();
    let file = from.display().to_string();
    let archive_sha256 = match is_file {
        true => {
            let (sha256, md5) = file_digests(from)?;
            let remedy = "check the file, or give the digest of the one that you trust";
            options.check(&file, &sha256, &md5, remedy)?;
            if !options.given() {
                entry.check_archive(
                    from,
                    &md5,
                    &format!("get it again, or give its digest {sha256} if you trust it"),
                )?;
            }
            Some(sha256)
        }
        false if options.given() => {
            let found = from.display();
            return Err(value(
                "from",
                found,
                "a file: a digest was given, and a folder has none",
            ));
        }
        false => None,
    };
    let mut found = read_wanted(from, &|path| entry.wants(base_name(path)), LIMITS)?;
    match &entry.shape {
        Shape::Model { files } => found = model_folder(from, found, files)?,
        Shape::Idx { .. } => unpack(from, &mut found)?,
        _ => {}
    }
    entry.check_files(from, &found)?;
    if !options.given() {
        let trust = archive_sha256.as_ref().map_or(String::new(), |digest| {
            format!(", or give its digest {digest} if you trust it")
        });
        let remedy = format!("get it again with `{}`{trust}", entry.commands()[0]);
        entry.check_content(&file, &found, &remedy)?;
    }
    let mut manifest = entry.manifest(archive_sha256);
    let items = match &entry.shape {
        Shape::Labelled { make, .. } => {
            let table = make(found).map_err(|message| Error::Layout {
                path: from.into(),
                message,
            })?;
            let content = table.to_text().into_bytes();
            manifest.labels = table.labels;
            let path = TEXTS.into();
            vec![Item { path, content }]
        }
        _ => entry.items(found),
    };
    write_folder(data, manifest, items)
}

/// Unpacks the files that end in `.gz`, and takes the ending off their names.
fn unpack(from: &Path, found: &mut [Found]) -> Result<()> {
    for (path, content) in found {
        let Some(name) = path.strip_suffix(".gz") else {
            continue;
        };
        let mut unpacked = Vec::new();
        MultiGzDecoder::new(&**content)
            .take(LIMITS.file)
            .read_to_end(&mut unpacked)
            .map_err(|error| Error::Archive {
                path: from.into(),
                message: format!("{path} is damaged or cut off: {error}; get it again"),
            })?;
        (*path, *content) = (name.to_owned(), unpacked);
    }
    Ok(())
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The files of the one model folder among those that were found, by their paths below it.
fn model_folder(from: &Path, found: Vec<Found>, files: &[(&str, &str)]) -> Result<Vec<Found>> {
    let layout = |message: String| Error::Layout {
        path: from.into(),
        message,
    };
    let weights = "model.safetensors";
    let places = found.iter().filter(|(path, _)| base_name(path) == weights);
    let folders: Vec<String> = places
        .map(|(path, _)| path[..path.len() - weights.len()].to_owned())
        .collect();
    let [folder] = &folders[..] else {
        return Err(layout(match folders.len() {
            0 => format!("holds no {weights}, so no model folder"),
            n => format!("holds {n} files {weights}; give the folder of one model"),
        }));
    };
    let below = |(path, content): Found| {
        let path = path.strip_prefix(folder.as_str())?.to_owned();
        let known = files.iter().any(|(file, _)| *file == path);
        known.then_some((path, content))
    };
    let found: Vec<Found> = found.into_iter().filter_map(below).collect();
    match files
        .iter()
        .find(|(file, _)| !found.iter().any(|(path, _)| path == file))
    {
        Some((file, _)) => Err(layout(format!("does not hold the model's file {file}"))),
        None => Ok(found),
    }
}

impl Entry {
    /// Whether a file of this name is part of the data set.
    fn wants(&self, name: &str) -> bool {
        match &self.shape {
            Shape::Documents { is_document } => is_document(name),
            Shape::Single { file } => name == *file,
            Shape::Splits { files } => files.contains(&name),
            Shape::Idx { files } => {
                let name = name.strip_suffix(".gz").unwrap_or(name);
                files.iter().any(|(file, _)| *file == name)
            }
            Shape::Model { files } | Shape::Labelled { files, .. } => {
                files.iter().any(|(file, _)| base_name(file) == name)
            }
        }
    }

    /// A file under its official name is the official one, where its digest is known.
    fn check_archive(&self, from: &Path, found: &str, remedy: &str) -> Result<()> {
        match &self.origin {
            Origin::Web {
                file,
                md5: Some(expected),
                ..
            } if from.file_name().is_some_and(|name| name == *file) => {
                expect_equal("md5", expected, found, &from.display().to_string(), remedy)
            }
            _ => Ok(()),
        }
    }

    /// Each file is there, once.
    fn check_files(&self, from: &Path, found: &[Found]) -> Result<()> {
        let layout = |message: String| Error::Layout {
            path: from.into(),
            message,
        };
        if let Shape::Model { .. } = self.shape {
            return Ok(());
        }
        let mut names: Vec<&str> = found.iter().map(|(path, _)| base_name(path)).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(layout(format!(
                "holds the file {} twice, in two folders; name one of them",
                pair[0]
            )));
        }
        let listed: Vec<&str> = self.shape.digests().iter().map(|(file, _)| *file).collect();
        let wanted: &[&str] = match &self.shape {
            Shape::Single { file } => &[file],
            Shape::Splits { files } => files,
            Shape::Labelled { .. } | Shape::Idx { .. } => &listed,
            Shape::Documents { .. } if found.is_empty() => {
                return Err(layout(format!(
                    "holds no document of {}; get it with `{}`",
                    self.name,
                    self.commands()[0]
                )));
            }
            Shape::Documents { .. } | Shape::Model { .. } => &[],
        };
        match wanted.iter().find(|file| !names.contains(*file)) {
            Some(file) => Err(layout(format!(
                "does not hold the file {file} of {}",
                self.name
            ))),
            None => Ok(()),
        }
    }

    /// The content is the known one.
    fn check_content(&self, file: &str, found: &[Found], remedy: &str) -> Result<()> {
        let expected = &self.expected;
        for (name, digest) in self.shape.digests() {
            let is_it = |path: &str| match self.shape {
                Shape::Model { .. } => path == *name,
                _ => base_name(path) == *name,
            };
            for (path, content) in found.iter().filter(|(path, _)| is_it(path)) {
                let file = format!("{path} in {file}");
                expect_equal("sha256", digest, sha256(content), &file, remedy)?;
            }
        }
        if let Some(files) = expected.files {
            expect_equal("number of documents", files, found.len(), file, remedy)?;
        }
        if let Some(bytes) = expected.bytes {
            let length: usize = found.iter().map(|(_, text)| text.len()).sum();
            expect_equal("length of the content", bytes, length, file, remedy)?;
        }
        if expected.sha256.is_some() || expected.md5.is_some() {
            let mut sorted: Vec<&Found> = found.iter().collect();
            sorted.sort_by_key(|(path, _)| base_name(path));
            let content: Vec<u8> = sorted.iter().flat_map(|(_, text)| text).copied().collect();
            if let Some(digest) = expected.sha256 {
                expect_equal(
                    "sha256 of the content",
                    digest,
                    sha256(&content),
                    file,
                    remedy,
                )?;
            }
            if let Some(digest) = expected.md5 {
                expect_equal("md5 of the content", digest, md5(&content), file, remedy)?;
            }
        }
        if let (Some(tokens), Shape::Splits { files }) = (expected.train_tokens, &self.shape) {
            let mut count = 0u64;
            for (path, text) in found.iter().filter(|(path, _)| base_name(path) == files[0]) {
                each_token(self.format, text, path, |_, _| {
                    count += 1;
                    Ok(())
                })?;
            }
            expect_equal("number of training tokens", tokens, count, file, remedy)?;
        }
        Ok(())
    }

    /// The files of the data folder.
    fn items(&self, mut found: Vec<Found>) -> Vec<Item> {
        const SPLITS: [&str; 3] = ["train", "valid", "test"];
        found.sort_by(|a, b| base_name(&a.0).cmp(base_name(&b.0)));
        let item = |path: String, content: Vec<u8>| Item { path, content };
        match &self.shape {
            Shape::Documents { .. } => found
                .into_iter()
                .enumerate()
                .map(|(index, (path, text))| {
                    let split = SPLITS[split_of_document(index)];
                    item(format!("{split}/{}", base_name(&path)), text)
                })
                .collect(),
            Shape::Single { .. } => found
                .into_iter()
                .flat_map(|(_, text)| {
                    let (valid, test) = SplitShares::default().cuts(text.len());
                    let parts = [&text[..valid], &text[valid..test], &text[test..]];
                    let named = SPLITS.into_iter().zip(parts);
                    let items: Vec<Item> = named
                        .map(|(split, part)| item(format!("{split}.txt"), part.to_vec()))
                        .collect();
                    items
                })
                .collect(),
            Shape::Splits { files } => {
                let split = |path: &str| files.iter().position(|file| *file == base_name(path));
                let mut items: Vec<(usize, Item)> = found
                    .into_iter()
                    .filter_map(|(path, text)| split(&path).map(|at| (at, text)))
                    .map(|(at, text)| (at, item(format!("{}.txt", SPLITS[at]), text)))
                    .collect();
                items.sort_by_key(|(at, _)| *at);
                items.into_iter().map(|(_, item)| item).collect()
            }
            Shape::Idx { .. } => found
                .into_iter()
                .map(|(path, content)| item(base_name(&path).to_owned(), content))
                .collect(),
            Shape::Model { .. } | Shape::Labelled { .. } => found
                .into_iter()
                .map(|(path, content)| item(path, content))
                .collect(),
        }
    }

    /// The manifest, before the files are listed in it.
    fn manifest(&self, archive_sha256: Option<String>) -> Manifest {
        let source = match &self.origin {
            Origin::Package {
                client,
                package,
                version,
                inner_path,
                ..
            } => Source {
                client: client.to_string(),
                package: package.to_string(),
                version: version.to_string(),
                inner_path: inner_path.to_string(),
                archive_sha256,
            },
            Origin::Web { url, file, .. } => Source {
                client: "web".into(),
                package: url.to_string(),
                version: String::new(),
                inner_path: file.to_string(),
                archive_sha256,
            },
        };
        Manifest {
            name: self.name.into(),
            title: self.title.into(),
            source,
            kind: self.shape.kind(),
            transformation: self.transformation.into(),
            licence: self.licence.into(),
            licence_files: Vec::new(),
            format: (self.shape.kind() == Kind::Text).then_some(self.format),
            all_bytes: self.all_bytes,
            labels: Vec::new(),
            split: self.split.into(),
            bytes: 0,
            sha256: String::new(),
            compressed: None,
            bounds: self.bounds,
            files: Vec::new(),
            facts: Default::default(),
        }
    }
}
