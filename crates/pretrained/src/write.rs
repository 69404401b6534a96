//! Files that are either the old one or the whole new one.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{BoolStore, DType, TensorData};
use safetensors::tensor::{Dtype, TensorInfo};

use crate::NamedTensors;
use crate::data::elements;
use crate::error::{Error, Result};
use crate::safe::METADATA_KEY;

/// Writes `bytes` to `path`, atomically.
///
/// The bytes go to a temporary file in the same folder, which is synced and renamed over `path`: at any moment, also
/// after a crash or on a full disk, `path` is either what it was or complete.
///
/// # Errors
///
/// [`Error::Io`]; the old file is then untouched and the temporary file is gone.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    atomically(path, |file| file.write_all(bytes))
}

/// Writes a safetensors file, atomically, with the metadata `format: pt` that Python's loaders ask for.
///
/// Equal tensors give equal bytes: the tensors are sorted by element size, so that each is aligned, then by name.
///
/// # Errors
///
/// [`Error::Value`] if a tensor is quantised or named `__metadata__`, else as [`write_atomic`].
pub fn write_safetensors(path: &Path, tensors: &NamedTensors) -> Result<()> {
    write_safetensors_with_metadata(path, tensors, &BTreeMap::new())
}

/// As [`write_safetensors`], with further `metadata` in the file's header; an entry `format` replaces `pt`.
///
/// # Errors
///
/// As [`write_safetensors`].
pub fn write_safetensors_with_metadata(
    path: &Path,
    tensors: &NamedTensors,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut entries = tensors
        .iter()
        .map(|(name, data)| Ok((name.as_str(), stored_dtype(name, data)?, data)))
        .collect::<Result<Vec<_>>>()?;
    // A stable sort: tensors of one element size stay in the map's order of names.
    entries.sort_by_key(|(_, dtype, _)| Reverse(dtype.bitsize()));

    let header = header_bytes(&entries, metadata);
    atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, _, data) in &entries {
            match data.dtype() {
                DType::Bool(BoolStore::U32) => {
                    for word in elements::<4>(data.as_bytes()) {
                        file.write_all(&[u8::from(word != [0; 4])])?;
                    }
                }
                _ => file.write_all(data.as_bytes())?,
            }
        }
        Ok(())
    })
}

fn stored_dtype(name: &str, data: &TensorData) -> Result<Dtype> {
    if name == METADATA_KEY {
        return Err(Error::value(
            "tensor name",
            METADATA_KEY,
            "safetensors files keep this name for their metadata; choose another",
        ));
    }
    Ok(match data.dtype() {
        DType::F64 => Dtype::F64,
        DType::F32 | DType::Flex32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(_) => Dtype::BOOL,
        DType::QFloat(_) => {
            return Err(Error::value(
                name,
                "a quantised tensor",
                "safetensors files hold plain elements; dequantise it first",
            ));
        }
    })
}

fn header_bytes(
    entries: &[(&str, Dtype, &TensorData)],
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut metadata = metadata.clone();
    metadata
        .entry("format".to_string())
        .or_insert_with(|| "pt".to_string());

    let mut text = format!("{{{}:{}", json(METADATA_KEY), json(&metadata));
    let mut start = 0;
    for (name, dtype, data) in entries {
        let end = start + data.num_elements() * dtype.bitsize() / 8;
        let info = TensorInfo {
            dtype: *dtype,
            shape: data.shape().to_vec(),
            data_offsets: (start, end),
        };
        text.push_str(&format!(",{}:{}", json(name), json(&info)));
        start = end;
    }
    text.push('}');
    // The format pads with spaces, so that the data begins at a multiple of eight.
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings, numbers and maps of strings always serialise")
}

/// Lets `body` write a temporary file and puts it in the place of `path` if all went well.
pub(crate) fn atomically(
    path: &Path,
    body: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    let failed = |source| Error::io(path, "write", source);
    if path.file_name().is_none() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path names no file",
        )));
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (file, temporary) = create_beside(folder).map_err(failed)?;
    let written = (|| {
        let mut writer = BufWriter::with_capacity(1 << 20, &file);
        body(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(source) = written {
        // The first error is the one worth telling, whether or not the rest can be cleared away.
        let _ = fs::remove_file(&temporary);
        return Err(failed(source));
    }
    sync_folder(folder).map_err(failed)
}

fn create_beside(folder: &Path) -> io::Result<(File, PathBuf)> {
    const TRIES: u32 = 10_000;
    for number in 0..TRIES {
        let path = folder.join(format!(".writing-{}-{number}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            // Another thread's, or left by a killed process of the same id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "too many `.writing-*.tmp` files lie in the folder; remove them",
    ))
}

/// Makes the rename last: on Unix a folder's entries are synced through the folder itself.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems do not know how to sync a folder, and it is the file that counts.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_fails_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state.bin");
        write_atomic(&path, b"old").expect("first write");

        let error = atomically(&path, |file| {
            file.write_all(b"half of the new")?;
            Err(io::Error::new(io::ErrorKind::StorageFull, "disk full"))
        })
        .expect_err("the body fails");

        assert!(error.to_string().contains("disk full"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    }
}
