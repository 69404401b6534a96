//! Small files of the formats under test, built byte by byte.

// Each test binary uses its own part of these.
#![allow(dead_code)]

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use pretrained::NamedTensors;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The folder of reference cases.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/adaptive-span")
        .join(name)
}

pub fn tensor(values: &[f32], shape: &[usize]) -> TensorData {
    TensorData::new(values.to_vec(), shape)
}

pub fn named(entries: &[(&str, TensorData)]) -> NamedTensors {
    let entries = entries.iter();
    entries
        .map(|(name, data)| (name.to_string(), data.clone()))
        .collect()
}

/// A pickled `str`.
fn text(value: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((value.len() as u32).to_le_bytes());
    out.extend(value.as_bytes());
    out
}

/// A pickled `int`.
pub fn int(value: i32) -> Vec<u8> {
    let mut out = vec![b'J'];
    out.extend(value.to_le_bytes());
    out
}

fn ints(values: &[i32]) -> Vec<u8> {
    let mut out = vec![b'('];
    values.iter().for_each(|&value| out.extend(int(value)));
    out.push(b't');
    out
}

/// A pickled `dict`.
pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"}(".to_vec();
    for (key, value) in entries {
        out.extend(text(key));
        out.extend(value);
    }
    out.push(b'u');
    out
}

/// A pickled float tensor over the storage `key` of `stored` elements.
pub fn float_tensor(key: &str, stored: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let mut out = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    out.extend(text("storage"));
    out.extend(b"ctorch\nFloatStorage\n");
    out.extend(text(key));
    out.extend(text("cpu"));
    out.extend(int(stored));
    out.extend(b"tQ");
    out.extend(int(0));
    out.extend(ints(shape));
    out.extend(ints(strides));
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    out
}

/// A torch archive of `root`, pickled, and its storages.
pub fn archive(
    root: &[u8],
    storages: &[(&str, &[f32])],
    compression: CompressionMethod,
) -> Vec<u8> {
    let options = SimpleFileOptions::default().compression_method(compression);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), options)
            .expect("a new entry");
        zip.write_all(bytes).expect("memory");
    };
    entry("data.pkl", &[b"\x80\x02", root, b"."].concat());
    for (key, values) in storages {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        entry(&format!("data/{key}"), &bytes);
    }
    entry("version", b"3\n");
    zip.finish().expect("memory").into_inner()
}
