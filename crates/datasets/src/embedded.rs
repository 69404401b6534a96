//! Data that is compiled in, so that everything works on a machine without a network.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::manifest::{Manifest, verify};

/// The compressed files. A new one needs a line here and an entry in `data/manifest.json`.
static FILES: &[(&str, &[u8])] = &[
    (
        "moby-dick.txt.gz",
        include_bytes!("../data/moby-dick.txt.gz"),
    ),
    (
        "sotu-era4.tsv.gz",
        include_bytes!("../data/sotu-era4.tsv.gz"),
    ),
    (
        "nt-verses.tsv.gz",
        include_bytes!("../data/nt-verses.tsv.gz"),
    ),
    (
        "noto-emoji-32.png",
        include_bytes!("../data/noto-emoji-32.png"),
    ),
    (
        "noto-emoji.tsv.gz",
        include_bytes!("../data/noto-emoji.tsv.gz"),
    ),
    (
        "vocab/bert-base-uncased.txt.gz",
        include_bytes!("../data/vocab/bert-base-uncased.txt.gz"),
    ),
];

/// Licence texts of the embedded data, by the file names that manifests give.
static LICENCES: &[(&str, &str)] = &[
    (
        "LICENSES/CC0-1.0.txt",
        include_str!("../data/LICENSES/CC0-1.0.txt"),
    ),
    (
        "LICENSES/PDDL-1.0.txt",
        include_str!("../data/LICENSES/PDDL-1.0.txt"),
    ),
    (
        "LICENSES/public-domain-bibles.txt",
        include_str!("../data/LICENSES/public-domain-bibles.txt"),
    ),
    (
        "LICENSES/Apache-2.0.txt",
        include_str!("../data/LICENSES/Apache-2.0.txt"),
    ),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    datasets: Vec<Manifest>,
}

static TABLE: LazyLock<Vec<Manifest>> = LazyLock::new(|| {
    serde_json::from_str::<Table>(include_str!("../data/manifest.json"))
        .expect("a test parses this constant")
        .datasets
});

/// Manifests of all embedded data.
pub fn manifests() -> &'static [Manifest] {
    &TABLE
}

/// The manifest of one embedded data set.
pub fn manifest(name: &str) -> Option<&'static Manifest> {
    TABLE.iter().find(|manifest| manifest.name == name)
}

/// Full text of a licence, by the name that [`Manifest::licence_files`] gives.
pub fn licence(file: &str) -> Option<&'static str> {
    LICENCES
        .iter()
        .find(|(name, _)| *name == file)
        .map(|(_, text)| *text)
}

/// The content of one embedded data set, decompressed and compared with the length and SHA-256 of its manifest.
///
/// ```
/// let book = datasets::embedded::open("moby-dick")?;
/// assert_eq!(book.len(), 1_204_997);
/// # Ok::<(), datasets::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownName`] for a name that is not embedded, [`Error::Digest`] for a damaged build.
pub fn open(name: &str) -> Result<Vec<u8>> {
    let manifest = manifest(name).ok_or_else(|| crate::catalogue::unknown(name))?;
    let compressed = manifest
        .compressed
        .as_ref()
        .and_then(|compressed| FILES.iter().find(|(file, _)| *file == compressed.file))
        .map(|(_, bytes)| *bytes)
        .unwrap_or_default();
    let mut content = Vec::with_capacity(manifest.bytes as usize);
    let read = match manifest.stored_as_is() {
        true => (&*compressed).read_to_end(&mut content),
        false => GzDecoder::new(compressed)
            .take(manifest.bytes + 1)
            .read_to_end(&mut content),
    };
    read.map_err(|source| Error::Io {
        path: name.into(),
        action: "decompress the embedded",
        source,
    })?;
    verify(
        &content,
        manifest.bytes,
        &manifest.sha256,
        &format!("embedded {name}"),
        "the build is damaged: build again from a clean checkout",
    )?;
    Ok(content)
}

/// Name of the embedded WordPiece vocabulary in manifests and lists.
pub const BERT_BASE_UNCASED: &str = "bert-base-uncased-vocabulary";

/// The WordPiece vocabulary of bert-base-uncased, the content of its `vocab.txt`: 30,522 lines, the line's number is the id.
///
/// ```
/// let vocab = datasets::embedded::bert_base_uncased()?;
/// let lines: Vec<&str> = vocab.lines().collect();
/// assert_eq!((lines.len(), lines[101], lines[102]), (30_522, "[CLS]", "[SEP]"));
/// # Ok::<(), datasets::Error>(())
/// ```
///
/// # Errors
/// As [`open`].
pub fn bert_base_uncased() -> Result<String> {
    text(BERT_BASE_UNCASED)
}

/// The content of embedded data that is text.
pub(crate) fn text(name: &str) -> Result<String> {
    String::from_utf8(open(name)?).map_err(|error| Error::NotUtf8 {
        file: format!("embedded {name}"),
        byte: error.utf8_error().valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::sha256;

    #[test]
    fn every_file_is_what_its_manifest_says() {
        assert_eq!(manifests().len(), FILES.len());
        for manifest in manifests() {
            let compressed = manifest
                .compressed
                .as_ref()
                .expect("embedded data is compressed");
            let (_, bytes) = FILES
                .iter()
                .find(|(file, _)| *file == compressed.file)
                .expect("the file is in the table");
            assert_eq!(bytes.len() as u64, compressed.bytes);
            assert_eq!(sha256(bytes), compressed.sha256);
            // Flags 0 and time 0: made by `gzip -n`, so that the same content gives the same file.
            if !manifest.stored_as_is() {
                assert_eq!(&bytes[3..8], [0; 5]);
            }
            assert_eq!(sha256(&open(&manifest.name).unwrap()), manifest.sha256);
            assert!(!manifest.licence_files.is_empty());
            for file in &manifest.licence_files {
                assert!(
                    licence(file).is_some_and(|text| text.len() > 1000),
                    "{file}"
                );
            }
        }
    }

    #[test]
    fn licences_are_the_full_texts() {
        assert!(
            licence("LICENSES/CC0-1.0.txt")
                .unwrap()
                .contains("3. Public License Fallback.")
        );
        assert!(
            licence("LICENSES/PDDL-1.0.txt")
                .unwrap()
                .contains("Open Data Commons")
        );
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let message = open("moby").unwrap_err().to_string();
        assert!(
            message.contains("moby-dick") && message.contains("enwik8"),
            "{message}"
        );
    }
}
