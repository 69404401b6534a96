//! A text, read, split, and turned into ids.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalogue;
use crate::embedded;
use crate::error::{Error, Result, io};
use crate::figures::{Anchors, Bounds, order0_cross_entropy, order0_entropy};
use crate::manifest::{Kind, Manifest};
use crate::prepare::{TextFormat, TokenUnit};
use crate::spec::{CorpusSpec, Layout};
use crate::stream::BatchStream;
use crate::vocabulary::{Builder, Vocabulary};

/// The ids of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Token ids.
    pub tokens: Arc<[u32]>,
    /// Offsets in `tokens` at which documents begin; `[0]` for one text.
    pub documents: Arc<[usize]>,
    /// Length of the raw text in bytes, to turn bits per token into bits per byte.
    pub bytes: u64,
}

impl Split {
    /// The split as `batch` rows, to be read in blocks of `block` tokens.
    ///
    /// # Errors
    /// [`Error::Value`] and [`Error::TooShort`] as [`BatchStream::new`].
    pub fn stream(&self, batch: usize, block: usize) -> Result<BatchStream> {
        BatchStream::with_documents(self.tokens.clone(), self.documents.clone(), batch, block)
    }

    /// Bits per byte of the raw text that a loss in nats per token amounts to.
    pub fn bits_per_byte(&self, nats_per_token: f64) -> f64 {
        nats_per_token / std::f64::consts::LN_2 * self.tokens.len() as f64 / self.bytes as f64
    }
}

/// A text in three splits with the vocabulary of its training part.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// Its name, or its path.
    pub name: String,
    /// Tokens and ids.
    pub vocabulary: Vocabulary,
    /// What one token stands for; decides between bits per byte, bits per character and perplexity.
    pub unit: TokenUnit,
    /// For training.
    pub train: Split,
    /// For choices made during training.
    pub valid: Split,
    /// For the reported result.
    pub test: Split,
    /// What general compressors make of the whole text, where known.
    pub bounds: Option<Bounds>,
    /// The manifest of named data.
    pub manifest: Option<Manifest>,
}

impl Corpus {
    /// What to print beside a result on `split`, which is one of this corpus' splits.
    pub fn anchors(&self, split: &Split) -> Anchors {
        let per_byte = split.tokens.len() as f64 / split.bytes as f64;
        let all = self.train.bytes + self.valid.bytes + self.test.bytes;
        let bound = |bytes: u64| bytes as f64 * 8.0 / all as f64;
        Anchors {
            order0_train: order0_cross_entropy(&self.train.tokens, &split.tokens) * per_byte,
            order0_own: order0_entropy(&split.tokens) * per_byte,
            xz: self.bounds.map(|bounds| bound(bounds.xz_bytes)),
            gzip: self.bounds.map(|bounds| bound(bounds.gzip_bytes)),
        }
    }
}

/// One document: where it stands, for messages, and its raw bytes.
struct Document {
    file: String,
    text: Vec<u8>,
}

/// The documents of train, valid and test.
type Splits = [Vec<Document>; 3];

/// Reads the corpus that `spec` describes. Relative paths count from `base`, the folder of the recipe. A name that is not embedded is
/// looked for in the folder `data` of `base` and of every folder above it.
///
/// ```
/// use datasets::{CorpusSpec, load};
///
/// let corpus = load(&CorpusSpec::named("moby-dick"), ".".as_ref())?;
/// assert_eq!((corpus.vocabulary.len(), corpus.test.tokens.len()), (85, 60_250));
/// # Ok::<(), datasets::Error>(())
/// ```
///
/// # Errors
/// Whatever is wrong with the spec, the files or the text: see [`Error`].
pub fn load(spec: &CorpusSpec, base: &Path) -> Result<Corpus> {
    spec.validate()?;
    if let Some(name) = &spec.name {
        if let Some(manifest) = embedded::manifest(name) {
            only_text(name, manifest)?;
            let text = embedded::open(name)?;
            let format = format_of(spec, Some(manifest));
            let splits = by_position(text, name, format, spec);
            return build(spec, base, name, splits, Some(manifest.clone()));
        }
        let folder = catalogue::locate(name, base)?;
        return from_path(spec, base, name, &folder);
    }
    if let Some(make) = &spec.make {
        let made = make.generate()?;
        let manifest = made.manifest(&make.name());
        let splits = made.texts().map(|(split, text)| {
            vec![Document {
                file: format!("generated {split}"),
                text: text.to_vec(),
            }]
        });
        return build(spec, base, &make.name(), splits, Some(manifest));
    }
    let path = base.join(spec.path.as_deref().unwrap_or(Path::new("")));
    from_path(spec, base, &path.display().to_string(), &path)
}

/// Data of another kind has readers of its own.
fn only_text(name: &str, manifest: &Manifest) -> Result<()> {
    match manifest.kind {
        Kind::Text => Ok(()),
        kind => Err(crate::error::value(
            "data.name",
            format!("\"{name}\" ({})", kind.name()),
            "a data set of running text, such as \"moby-dick\"",
        )),
    }
}

fn format_of(spec: &CorpusSpec, manifest: Option<&Manifest>) -> TextFormat {
    spec.format
        .or(manifest.and_then(|manifest| manifest.format))
        .unwrap_or(TextFormat::Bytes)
}

fn from_path(spec: &CorpusSpec, base: &Path, name: &str, path: &Path) -> Result<Corpus> {
    let metadata = std::fs::metadata(path).map_err(io("open", path))?;
    let manifest = if metadata.is_dir() {
        Manifest::of_folder(path)?
    } else {
        None
    };
    if let Some(manifest) = &manifest {
        only_text(name, manifest)?;
    }
    let has_splits =
        metadata.is_dir() && SPLITS.iter().any(|names| find_split(path, names).is_some());
    let layout = match spec.layout {
        Layout::Auto if !metadata.is_dir() => Layout::File,
        Layout::Auto if has_splits => Layout::Splits,
        Layout::Auto => Layout::Documents,
        layout => layout,
    };
    let splits = match layout {
        Layout::File | Layout::Auto => {
            let text = std::fs::read(path).map_err(io("read", path))?;
            by_position(
                text,
                &path.display().to_string(),
                format_of(spec, None),
                spec,
            )
        }
        Layout::Splits => split_folder(path, manifest.as_ref())?,
        Layout::Documents => by_document(path, manifest.as_ref())?,
    };
    build(spec, base, name, splits, manifest)
}

/// Accepted names of the three splits, the canonical one first.
const SPLITS: [&[&str]; 3] = [
    &["train"],
    &["valid", "validation", "val", "dev"],
    &["test"],
];

/// The file or folder of one split.
fn find_split(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let spellings = |name: &str| {
        [
            format!("{name}.txt"),
            name.to_string(),
            format!("{name}.raw"),
            format!("{name}.bin"),
            format!("{name}.tokens"),
            format!("wiki.{name}.tokens"),
            format!("wiki.{name}.raw"),
        ]
    };
    names
        .iter()
        .flat_map(|name| spellings(name))
        .map(|file| folder.join(file))
        .find(|path| path.exists())
}

fn split_folder(folder: &Path, manifest: Option<&Manifest>) -> Result<Splits> {
    let read = |names: &[&str]| -> Result<Vec<Document>> {
        let path = find_split(folder, names).ok_or_else(|| Error::Layout {
            path: folder.into(),
            message: format!(
                "no {name} split: expected the file {name}.txt (or {name}, {name}.raw, {name}.bin, {name}.tokens, wiki.{name}.tokens), or a folder {name} of .txt documents",
                name = names[0]
            ),
        })?;
        let paths = match path.is_dir() {
            true => documents_in(&path)?,
            false => vec![path],
        };
        paths
            .iter()
            .map(|path| read_document(folder, path, manifest))
            .collect()
    };
    let [train, valid, test] = SPLITS.map(read);
    Ok([train?, valid?, test?])
}

fn by_document(folder: &Path, manifest: Option<&Manifest>) -> Result<Splits> {
    let paths = documents_in(folder)?;
    if paths.len() < 6 {
        return Err(Error::Layout {
            path: folder.into(),
            message: format!(
                "{} documents are too few to split by document: at least 6 are needed (every 10th is test, every 10th + 5 is valid); give one file to split by position, or the files train.txt, valid.txt and test.txt",
                paths.len()
            ),
        });
    }
    let mut splits: Splits = Default::default();
    for (index, path) in paths.iter().enumerate() {
        splits[split_of_document(index)].push(read_document(folder, path, manifest)?);
    }
    Ok(splits)
}

/// Split (0 train, 1 valid, 2 test) of the document with this index in the order of names.
pub(crate) fn split_of_document(index: usize) -> usize {
    match index % 10 {
        0 => 2,
        5 => 1,
        _ => 0,
    }
}

/// All `.txt` files of a folder and of the folders in it, in the order of their paths; links are not followed.
fn documents_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).map_err(io("list", &next))? {
            let entry = entry.map_err(io("list", &next))?;
            let kind = entry.file_type().map_err(io("inspect", &entry.path()))?;
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if kind.is_dir() && !hidden {
                open.push(entry.path());
            } else if kind.is_file()
                && !hidden
                && entry.path().extension().is_some_and(|end| end == "txt")
            {
                found.push(entry.path());
            }
        }
    }
    if found.is_empty() {
        return Err(Error::Layout {
            path: folder.into(),
            message: "no documents: expected files ending in .txt, or the files train.txt, valid.txt and test.txt".into(),
        });
    }
    found.sort();
    Ok(found)
}

fn read_document(folder: &Path, path: &Path, manifest: Option<&Manifest>) -> Result<Document> {
    let text = std::fs::read(path).map_err(io("read", path))?;
    let file = path.display().to_string();
    if let (Some(manifest), Ok(relative)) = (manifest, path.strip_prefix(folder)) {
        let relative: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        manifest.check(&relative.join("/"), &text, &file)?;
    }
    Ok(Document { file, text })
}

/// Cuts one text by position: between lines where tokens are words, else between tokens.
fn by_position(text: Vec<u8>, file: &str, format: TextFormat, spec: &CorpusSpec) -> Splits {
    let (valid, test) = spec.split.cuts(text.len());
    let move_on = |mut at: usize| {
        let inside = |at: usize| at > 0 && at < text.len();
        match format {
            TextFormat::Words => {
                while inside(at) && text[at - 1] != b'\n' {
                    at += 1;
                }
            }
            // Prepared files spell one token with several bytes.
            TextFormat::Enwik8 | TextFormat::Text8 if spec.prepared => {
                while inside(at) && !text[at - 1].is_ascii_whitespace() {
                    at += 1;
                }
            }
            TextFormat::Chars | TextFormat::Text8 | TextFormat::Subwords => {
                while text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    at += 1;
                }
            }
            TextFormat::Bytes | TextFormat::Enwik8 => {}
        }
        at
    };
    let (valid, test) = (move_on(valid), move_on(test));
    let part = |name: &str, range: std::ops::Range<usize>| {
        vec![Document {
            file: format!("{file} ({name}, from byte {})", range.start),
            text: text[range].to_vec(),
        }]
    };
    [
        part("train", 0..valid),
        part("valid", valid..test),
        part("test", test..text.len()),
    ]
}

fn build(
    spec: &CorpusSpec,
    base: &Path,
    name: &str,
    splits: Splits,
    manifest: Option<Manifest>,
) -> Result<Corpus> {
    let format = format_of(spec, manifest.as_ref());
    let bytes = |documents: &[Document]| {
        documents
            .iter()
            .map(|document| document.text.len() as u64)
            .sum()
    };
    let sizes: [u64; 3] = [bytes(&splits[0]), bytes(&splits[1]), bytes(&splits[2])];
    let [train, valid, test] = splits;
    let mut train_ids = Vec::new();
    let mut train_documents = Vec::new();
    let mut vocabulary = match &spec.vocab {
        Some(path) => {
            let vocabulary = Vocabulary::from_file(&base.join(path))?;
            if vocabulary.format() != format {
                return Err(crate::error::value(
                    "vocab",
                    format!(
                        "{} (made for \"{}\")",
                        path.display(),
                        vocabulary.format().name()
                    ),
                    &format!("a vocabulary for \"format\": \"{}\"", format.name()),
                ));
            }
            vocabulary
        }
        None => {
            let mut builder = Builder::new(format, spec.prepared);
            for document in &train {
                train_documents.push(train_ids.len());
                builder.read(&document.text, &document.file, &mut train_ids)?;
            }
            builder.finish(spec.order, &mut train_ids)
        }
    };
    let all_bytes = spec
        .all_bytes
        .or(manifest.as_ref().map(|manifest| manifest.all_bytes));
    if all_bytes == Some(true) && spec.vocab.is_none() {
        vocabulary.complete_bytes();
    }
    let encode = |documents: &[Document]| {
        let (mut ids, mut starts) = (Vec::new(), Vec::new());
        for document in documents {
            starts.push(ids.len());
            vocabulary.encode_into(&document.text, &document.file, spec.prepared, &mut ids)?;
        }
        Ok::<_, Error>((ids, starts))
    };
    let train = match spec.vocab {
        Some(_) => encode(&train)?,
        None => (train_ids, train_documents),
    };
    let (valid, test) = (encode(&valid)?, encode(&test)?);
    let split = |which: &str, (tokens, documents): (Vec<u32>, Vec<usize>), bytes: u64| {
        // A prepared file spells a byte with several; each token stands for one byte of the raw text.
        let bytes = if spec.prepared {
            tokens.len() as u64
        } else {
            bytes
        };
        if tokens.is_empty() {
            return Err(Error::Layout {
                path: name.into(),
                message: format!("the {which} split is empty; give it more text"),
            });
        }
        Ok(Split {
            tokens: tokens.into(),
            documents: documents.into(),
            bytes,
        })
    };
    Ok(Corpus {
        name: name.into(),
        unit: format.unit(),
        train: split("train", train, sizes[0])?,
        valid: split("valid", valid, sizes[1])?,
        test: split("test", test, sizes[2])?,
        vocabulary,
        bounds: manifest.as_ref().and_then(|manifest| manifest.bounds),
        manifest,
    })
}
