//! Safetensors files, read without trusting a number in them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use burn::tensor::{BoolStore, DType};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::NamedTensors;
use crate::data::tensor_data;
use crate::error::{Error, Result, TensorProblem};
use crate::read::TensorHeader;

/// The key of the header under which a file's metadata stands.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// Longest header the format allows, in bytes.
pub(crate) const LONGEST_HEADER: u64 = 100_000_000;

/// Reads a safetensors file and the metadata in its header.
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Header`] if the file is truncated, damaged or no safetensors file; [`Error::Tensors`] if an
/// element type is unknown to Burn (8-bit floats, complex numbers).
pub fn read_safetensors_with_metadata(
    path: &Path,
) -> Result<(NamedTensors, BTreeMap<String, String>)> {
    let mut opened = Opened::new(path)?;
    let names = opened.layout.offset_keys();
    let mut tensors = NamedTensors::new();
    let mut problems = Vec::new();
    for name in names {
        let Some(info) = opened.layout.info(&name).cloned() else {
            continue;
        };
        let Some(dtype) = burn_dtype(info.dtype) else {
            problems.push(TensorProblem::Dtype {
                name,
                found: format!("{:?}", info.dtype),
            });
            continue;
        };
        let bytes = opened.read(path, &info)?;
        match tensor_data(dtype, &info.shape, &bytes) {
            Some(data) => tensors.insert(name, data),
            None => {
                let message = format!("the shape and the bytes of `{name}` do not fit together");
                return Err(Error::header(path, message));
            }
        };
    }
    if !problems.is_empty() {
        problems.sort_by(|a, b| a.name().cmp(b.name()));
        return Err(Error::Tensors {
            file: path.to_path_buf(),
            problems,
        });
    }
    let metadata = opened.layout.metadata().iter().flatten();
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone()));
    Ok((tensors, metadata.collect()))
}

/// Names, types and shapes, from the header alone.
pub(crate) fn safetensors_headers(path: &Path) -> Result<Vec<TensorHeader>> {
    let opened = Opened::new(path)?;
    let tensors = opened.layout.tensors();
    Ok(tensors
        .into_iter()
        .map(|(name, info)| TensorHeader {
            name,
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.clone(),
        })
        .collect())
}

/// A file whose header agrees with itself and with the file's length.
struct Opened {
    file: File,
    layout: Metadata,
    data_start: u64,
}

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let failed = |source| Error::io(path, "read", source);
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length < 8 {
            let message = format!(
                "{length} bytes are too few for a safetensors file: the download broke off; fetch it again"
            );
            return Err(Error::header(path, message));
        }
        let mut word = [0; 8];
        file.read_exact(&mut word).map_err(failed)?;
        let declared = u64::from_le_bytes(word);
        // Before anything of that size is allocated.
        if declared > (length - 8).min(LONGEST_HEADER) {
            let message = format!(
                "declares a header of {declared} bytes, but {} follow: this is no safetensors file, or the download \
                 broke off; fetch it again",
                length - 8
            );
            return Err(Error::header(path, message));
        }
        let mut header = vec![0; declared as usize];
        file.read_exact(&mut header).map_err(failed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|error| {
            Error::header(path, format!("the safetensors header is damaged: {error}"))
        })?;
        let layout = header.layout().map_err(|error| {
            Error::header(path, format!("the safetensors header is damaged: {error}"))
        })?;
        let described = layout.data_len() as u64;
        let present = length - 8 - declared;
        if described != present {
            let message = format!(
                "the header describes {described} bytes of tensors, the file holds {present}: the download broke off \
                 or the file was changed; fetch it again"
            );
            return Err(Error::header(path, message));
        }
        Ok(Self {
            file,
            layout,
            data_start: 8 + declared,
        })
    }

    /// The bytes of a tensor; its offsets were checked to lie within the file.
    fn read(&mut self, path: &Path, info: &TensorInfo) -> Result<Vec<u8>> {
        let failed = |source| Error::io(path, "read", source);
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .map_err(failed)?;
        self.file.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }
}

/// The header's JSON as it stands.
///
/// Not the library's own type: that one buffers the whole JSON before it looks at it, which costs many times the
/// header's size, and lets the last of two equal names win.
struct Header {
    metadata: HashMap<String, String>,
    tensors: HashMap<String, TensorInfo>,
}

impl Header {
    fn layout(self) -> std::result::Result<Metadata, safetensors::SafeTensorError> {
        let mut tensors: Vec<_> = self.tensors.into_iter().collect();
        // By name too, so that which of two bad tensors is reported does not depend on the map.
        tensors.sort_by(|(a, x), (b, y)| x.data_offsets.cmp(&y.data_offsets).then(a.cmp(b)));
        Metadata::new(Some(self.metadata), tensors)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let mut header = Header {
                    metadata: HashMap::new(),
                    tensors: HashMap::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA_KEY {
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                        continue;
                    }
                    match header.tensors.entry(name) {
                        Entry::Vacant(entry) => entry.insert(map.next_value()?),
                        Entry::Occupied(entry) => {
                            let message = format!("`{}` is there twice", entry.key());
                            return Err(A::Error::custom(message));
                        }
                    };
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

fn burn_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool(BoolStore::Native),
        _ => return None,
    })
}
