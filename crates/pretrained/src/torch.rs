//! Torch checkpoints: archives since 1.6, and the older pickle streams.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::tensor::{BoolStore, DType};
use pytorch_reader::{PickleValue, PytorchError, PytorchReader, Tensor};

use crate::NamedTensors;
use crate::data::{dtype_name, tensor_data};
use crate::error::{Error, Result};
use crate::read::TensorHeader;

/// The keys under which training scripts put the weights, the first that holds tensors is taken.
const WEIGHT_KEYS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Longest `data.pkl` of an archive, in bytes: some hundred bytes per tensor, and each byte of a hostile one can cost
/// a hundred in memory.
const LONGEST_PICKLE: u64 = 32 << 20;

/// What a file may unpack to beyond its own length, in bytes: small archives hold small, well compressible entries.
const SLACK: u64 = 1 << 20;

/// How many times the file's length its tensors may have together: several may share one storage.
const MOST_SHARING: u64 = 16;

/// Reads the tensors of a torch checkpoint (`.pt`, `.pth`, `.bin`), in any layout `torch.save` has written.
///
/// With `top_level_key`, those under this key of the outermost dictionary are read, by the names they have there; an
/// empty key takes the dictionary as a whole, nested names joined by dots. Without it the weights are looked for: the
/// outermost dictionary if tensors lie in it directly, else its `state_dict`, `model_state_dict` or `model`, else all
/// of it but what belongs to the optimiser, the scheduler, the gradient scaler and the generators.
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Header`] for a file that is damaged, truncated, hostile or big-endian, that holds no
/// tensors, or lacks the key.
pub fn read_torch(path: &Path, top_level_key: Option<&str>) -> Result<NamedTensors> {
    guarded(path, || {
        let mut tensors = NamedTensors::new();
        for (name, tensor) in open(path, top_level_key)? {
            let dtype = burn_dtype(tensor.dtype());
            let bytes = tensor.read().map_err(|error| failed_read(path, error))?;
            let data = tensor_data(dtype, tensor.shape(), &bytes).ok_or_else(|| {
                Error::header(
                    path,
                    format!("the shape and the bytes of `{name}` do not fit together"),
                )
            })?;
            tensors.insert(name, data);
        }
        Ok(tensors)
    })
}

/// Names, types and shapes of what [`read_torch`] would read.
pub(crate) fn torch_headers(path: &Path) -> Result<Vec<TensorHeader>> {
    guarded(path, || {
        Ok(open(path, None)?
            .into_iter()
            .map(|(name, tensor)| TensorHeader {
                name,
                dtype: dtype_name(burn_dtype(tensor.dtype())),
                shape: tensor.shape().to_vec(),
            })
            .collect())
    })
}

/// Turns a panic inside the reader into an error.
///
/// Its authors hardened it and the sizes are checked here first; but the bytes come from the network, and a panic
/// in a service that loads what its users upload would be worse than a blunt message.
fn guarded<T>(path: &Path, body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        Err(Error::header(
            path,
            "the torch checkpoint is damaged in a way that its reader cannot cope with; fetch it again",
        ))
    })
}

/// The weights of the checkpoint, not yet read, with their sizes checked against the file's length.
fn open(path: &Path, top_level_key: Option<&str>) -> Result<HashMap<String, Tensor>> {
    let length = path
        .metadata()
        .map_err(|source| Error::io(path, "read", source))?
        .len();
    check_archive(path, length)?;

    let failed = |error| failed_open(path, error);
    let tensors = match top_level_key {
        Some("") => PytorchReader::new(path).map_err(failed)?.into_tensors(),
        Some(key) => PytorchReader::with_top_level_key(path, key)
            .map_err(failed)?
            .into_tensors(),
        None => weights(path)?,
    };
    if tensors.is_empty() {
        return Err(Error::header(path, "the torch checkpoint holds no tensors"));
    }

    let mut total = 0_u64;
    for (name, tensor) in &tensors {
        let bytes = tensor.byte_len() as u64;
        total = total.saturating_add(bytes);
        // A view with stride 0 can describe any size out of a few stored bytes.
        if bytes > length + SLACK || total > MOST_SHARING * length + SLACK {
            return Err(Error::header(
                path,
                format!(
                    "`{name}` {:?} would unpack to far more than the file's {length} bytes; if you trust the file, \
                     save its tensors again with `.contiguous()`",
                    tensor.shape()
                ),
            ));
        }
    }
    Ok(tensors)
}

/// Refuses archives that unpack to much more than they are. `torch.save` does not compress.
fn check_archive(path: &Path, length: u64) -> Result<()> {
    let failed = |source| Error::io(path, "read", source);
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = [0; 2];
    match io::Read::read_exact(&mut file, &mut magic) {
        Ok(()) if &magic == b"PK" => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(failed(error)),
        _ => return Ok(()),
    }
    let damaged = |error| {
        Error::header(
            path,
            format!("the archive is damaged or broken off: {error}; fetch it again"),
        )
    };
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file)).map_err(damaged)?;
    let mut total = 0_u64;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let is_pickle = entry.name().is_ok_and(|name| name.ends_with("data.pkl"));
        if is_pickle && entry.size() > LONGEST_PICKLE {
            return Err(Error::header(
                path,
                format!(
                    "`data.pkl` has {} bytes, more than {LONGEST_PICKLE}",
                    entry.size()
                ),
            ));
        }
        total = total.saturating_add(entry.size());
    }
    if total > MOST_SHARING * length + SLACK {
        return Err(Error::header(
            path,
            format!(
                "the archive of {length} bytes would unpack to {total} bytes; torch.save writes no such files"
            ),
        ));
    }
    Ok(())
}

fn weights(path: &Path) -> Result<HashMap<String, Tensor>> {
    let failed = |error| failed_open(path, error);
    let PickleValue::Dict(root) = PytorchReader::read_pickle_data(path, None).map_err(failed)?
    else {
        return Err(Error::header(
            path,
            "the torch checkpoint holds no dictionary of tensors; save `model.state_dict()`",
        ));
    };
    let direct = root
        .iter()
        .any(|(key, value)| is_tensor(value) && !is_training_state(key));
    let nested = WEIGHT_KEYS
        .into_iter()
        .find(|key| root.get(*key).is_some_and(holds_tensors));
    if let (false, Some(key)) = (direct, nested) {
        return Ok(PytorchReader::with_top_level_key(path, key)
            .map_err(failed)?
            .into_tensors());
    }

    let mut tensors = PytorchReader::new(path).map_err(failed)?.into_tensors();
    let others: Vec<&String> = root.keys().filter(|key| is_training_state(key)).collect();
    tensors.retain(|name, _| {
        !others.iter().any(|key| {
            name.strip_prefix(key.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    });
    Ok(tensors)
}

/// Whether a key of the outermost dictionary belongs to the training rather than to the model.
fn is_training_state(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // Names of parameters in a state dictionary have dots, the keys of a training script have none.
    !key.contains('.')
        && (key.starts_with("optim")
            || ["scheduler", "scaler", "rng"]
                .iter()
                .any(|part| key.contains(part)))
}

fn is_tensor(value: &PickleValue) -> bool {
    matches!(value, PickleValue::Unsupported(kind) if kind == "torch.Tensor")
}

fn holds_tensors(value: &PickleValue) -> bool {
    // The reader bounds the nesting, so the recursion is bounded too.
    match value {
        PickleValue::Dict(entries) => entries
            .values()
            .any(|value| is_tensor(value) || holds_tensors(value)),
        _ => false,
    }
}

fn failed_open(path: &Path, error: PytorchError) -> Error {
    match error {
        PytorchError::Io(error) => failed_read(path, error),
        PytorchError::KeyNotFound(message) => Error::header(path, format!("key {message}")),
        other => Error::header(
            path,
            format!(
                "the torch checkpoint cannot be read: {other}; it may be damaged or broken off"
            ),
        ),
    }
}

/// What the system refused stays an [`Error::Io`]; a file that ends too early is damaged.
fn failed_read(path: &Path, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(_) => Error::io(path, "read", error),
        None => Error::header(
            path,
            format!("the torch checkpoint is damaged or broken off: {error}; fetch it again"),
        ),
    }
}

fn burn_dtype(dtype: pytorch_reader::DType) -> DType {
    use pytorch_reader::DType as Stored;
    match dtype {
        Stored::F64 => DType::F64,
        Stored::F32 => DType::F32,
        Stored::F16 => DType::F16,
        Stored::BF16 => DType::BF16,
        Stored::I64 => DType::I64,
        Stored::I32 => DType::I32,
        Stored::I16 => DType::I16,
        Stored::I8 => DType::I8,
        Stored::U64 => DType::U64,
        Stored::U32 => DType::U32,
        Stored::U16 => DType::U16,
        Stored::U8 => DType::U8,
        Stored::Bool => DType::Bool(BoolStore::Native),
    }
}
