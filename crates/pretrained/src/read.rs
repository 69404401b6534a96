//! Weights out of whatever file they were published in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::NamedTensors;
use crate::error::{Error, Result};
use crate::json::parse_json;
use crate::safe::{LONGEST_HEADER, read_safetensors_with_metadata, safetensors_headers};
use crate::torch::{read_torch, torch_headers};

/// The files a model folder may keep its weights in, the preferred first.
const WEIGHT_FILES: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pt",
    "checkpoint.pt",
];

/// How much of a file its kind is told from: a TAR archive says what it is at byte 257.
const HEAD: u64 = 512;

/// Ends every LevelDB table, which is what the index of a TensorFlow checkpoint is.
const LEVELDB_END: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();

/// Largest JSON file taken for the index of shards, in bytes.
const LONGEST_INDEX: u64 = 64 << 20;

/// What a weights file says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// The name in the file.
    pub name: String,
    /// The element type as safetensors files call it: `F32`, `F16`, `BF16`, `I64`, `BOOL`.
    pub dtype: String,
    /// The extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

/// Reads all tensors of a weights file.
///
/// The kind is told from the content: safetensors, the index of a sharded checkpoint (`model.safetensors.index.json`),
/// torch archives and legacy pickles (`.pt`, `.bin`; see [`read_torch`] for which part of a training checkpoint is
/// taken). For a folder, the weights in it are read, see [`weights_file`].
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Header`] for a truncated, damaged or hostile file; [`Error::Format`] for a file that is
/// something else, with what it is and what to do; [`Error::Tensors`] for element types that Burn does not have.
pub fn read_tensors(path: &Path) -> Result<NamedTensors> {
    match kind_of(path)? {
        Kind::Folder => read_tensors(&weights_file(path)?),
        Kind::Safetensors => Ok(read_safetensors_with_metadata(path)?.0),
        Kind::Torch => read_torch(path, None),
        Kind::Json => gather(
            path,
            read_shard,
            NamedTensors::new(),
            |all, name, tensor| {
                all.insert(name, tensor);
            },
        ),
    }
}

/// Lists the tensors of a weights file by name, without reading their data.
///
/// # Errors
///
/// As [`read_tensors`].
pub fn tensor_headers(path: &Path) -> Result<Vec<TensorHeader>> {
    let mut headers = match kind_of(path)? {
        Kind::Folder => return tensor_headers(&weights_file(path)?),
        Kind::Safetensors => safetensors_headers(path)?,
        Kind::Torch => torch_headers(path)?,
        Kind::Json => gather(path, shard_headers, Vec::new(), |all, _, header| {
            all.push(header);
        })?,
    };
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(headers)
}

/// The file of a model folder that holds its weights: `model.safetensors`, its index, `pytorch_model.bin`, its index,
/// `model.pt` or `checkpoint.pt`, the first that is there.
///
/// # Errors
///
/// [`Error::Format`] if there is none.
pub fn weights_file(folder: &Path) -> Result<PathBuf> {
    let candidates = WEIGHT_FILES.iter().map(|name| folder.join(name));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::format(
                folder,
                "a folder without weights",
                format!(
                    "put one of these files into it: {}",
                    WEIGHT_FILES.join(", ")
                ),
            )
        })
}

enum Kind {
    Folder,
    Safetensors,
    Torch,
    Json,
}

fn kind_of(path: &Path) -> Result<Kind> {
    let failed = |source| Error::io(path, "read", source);
    let mut file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if facts.is_dir() {
        return Ok(Kind::Folder);
    }
    let mut head = Vec::new();
    (&mut file)
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(failed)?;
    if head.is_empty() {
        return Err(Error::header(
            path,
            "the file is empty: the download or the save broke off; fetch it again",
        ));
    }
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(facts.len().saturating_sub(8)))
        .map_err(failed)?;
    file.take(8).read_to_end(&mut tail).map_err(failed)?;
    refuse_strangers(path, &head, &tail)?;

    let extension = path.extension().and_then(|extension| extension.to_str());
    if extension == Some("safetensors") || starts_like_safetensors(&head) {
        Ok(Kind::Safetensors)
    } else if starts_like_torch(&head) || matches!(extension, Some("pt" | "pth")) {
        Ok(Kind::Torch)
    } else if head.trim_ascii_start().first() == Some(&b'{') {
        Ok(Kind::Json)
    } else {
        Err(Error::header(
            path,
            "not a weights file that can be read: it begins neither like safetensors, nor like a torch archive or \
             pickle, nor like the JSON index of a sharded checkpoint",
        ))
    }
}

/// Names the files that people give by mistake, or that a failed download leaves.
fn refuse_strangers(path: &Path, head: &[u8], tail: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(&head[..head.len().min(64)])
        .trim_start()
        .to_ascii_lowercase();
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();

    let found = if text.starts_with("version https://git-lfs") {
        (
            "a git-LFS pointer, not the file it points to",
            "run `git lfs pull` in the repository it comes from, or download the file itself",
        )
    } else if ["<!doctype", "<html", "<head", "<?xml"]
        .iter()
        .any(|tag| text.starts_with(tag))
    {
        (
            "a web page, probably the error or login page of a download that failed",
            "download the file again and check its address",
        )
    } else if tail == LEVELDB_END
        || name.contains(".data-00000-of-")
        || name.ends_with(".ckpt.meta")
    {
        (
            "part of a TensorFlow checkpoint",
            "export it from TensorFlow to safetensors first (tf.train.load_checkpoint gives the arrays, \
             safetensors.numpy.save_file writes them)",
        )
    } else if head.starts_with(b"\x89HDF\r\n\x1a\n") {
        (
            "an HDF5 file (Keras)",
            "save the model's weights as safetensors or with torch.save first",
        )
    } else if head.starts_with(b"GGUF") {
        (
            "a GGUF file",
            "take the safetensors files of the same model",
        )
    } else if head.starts_with(b"\x93NUMPY") {
        (
            "a NumPy array",
            "save the arrays under their names with safetensors.numpy.save_file",
        )
    } else if head.starts_with(&[0x1f, 0x8b]) {
        (
            "gzip-compressed",
            "decompress it first (gunzip, or tar xzf)",
        )
    } else {
        return Ok(());
    };
    Err(Error::format(path, found.0, found.1))
}

fn starts_like_safetensors(head: &[u8]) -> bool {
    match head.first_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word) <= LONGEST_HEADER && head.get(8) == Some(&b'{'),
        None => false,
    }
}

fn starts_like_torch(head: &[u8]) -> bool {
    // A ZIP archive, an empty one, a pickle of protocol 2 or later, a TAR archive.
    head.starts_with(b"PK\x03\x04")
        || head.starts_with(b"PK\x05\x06")
        || head.first() == Some(&0x80)
        || head.get(257..262) == Some(b"ustar")
}

/// The index of a sharded checkpoint.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name; absent if the file is some other JSON.
    weight_map: Option<BTreeMap<String, String>>,
}

fn read_shard(path: &Path) -> Result<BTreeMap<String, burn::tensor::TensorData>> {
    match kind_of(path)? {
        Kind::Safetensors | Kind::Torch => read_tensors(path),
        Kind::Folder | Kind::Json => Err(not_a_shard(path)),
    }
}

fn shard_headers(path: &Path) -> Result<BTreeMap<String, TensorHeader>> {
    match kind_of(path)? {
        Kind::Safetensors | Kind::Torch => {
            let headers = tensor_headers(path)?.into_iter();
            Ok(headers
                .map(|header| (header.name.clone(), header))
                .collect())
        }
        Kind::Folder | Kind::Json => Err(not_a_shard(path)),
    }
}

fn not_a_shard(path: &Path) -> Error {
    Error::header(
        path,
        "is named as a shard by an index, but is no weights file itself",
    )
}

/// Reads the shards of an index one after the other and hands each tensor to `add`.
fn gather<T, A>(
    path: &Path,
    read: impl Fn(&Path) -> Result<BTreeMap<String, T>>,
    mut all: A,
    mut add: impl FnMut(&mut A, String, T),
) -> Result<A> {
    let map = shard_map(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut shards: Vec<&String> = map.values().collect();
    shards.sort();
    shards.dedup();

    let mut found = std::collections::BTreeSet::new();
    for shard in shards {
        for (name, tensor) in read(&folder.join(shard))? {
            // A tensor that the index places in another shard is taken from there.
            if map.get(&name).is_none_or(|place| place == shard) && found.insert(name.clone()) {
                add(&mut all, name, tensor);
            }
        }
    }
    match map.iter().find(|(name, _)| !found.contains(*name)) {
        None => Ok(all),
        Some((name, shard)) => Err(Error::header(
            path,
            format!(
                "places `{name}` in {shard}, which does not hold it: the shards belong to another version"
            ),
        )),
    }
}

fn shard_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let failed = |source| Error::io(path, "read", source);
    let length = path.metadata().map_err(failed)?.len();
    if length > LONGEST_INDEX {
        return Err(Error::header(
            path,
            format!("is JSON of {length} bytes, too long for the index of a sharded checkpoint"),
        ));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Error::header(path, "begins like JSON and is not UTF-8 text"))?;
    let Some(map) = parse_json::<Index>(text, path)?.weight_map else {
        return Err(Error::format(
            path,
            "JSON without a `weight_map`, so no index of a sharded checkpoint",
            "give the weights file itself",
        ));
    };
    for shard in map.values() {
        // The index comes with a download: it must not reach outside its own folder.
        let mut parts = Path::new(shard).components();
        if !matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        ) {
            return Err(Error::header(
                path,
                format!("names the shard `{shard}`; shards must lie beside the index"),
            ));
        }
    }
    Ok(map)
}
