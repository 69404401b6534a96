//! TensorBoard event files: TFRecord frames around hand-encoded protocol buffers.
//!
//! A frame is the length (8 bytes, little-endian), its masked CRC-32C, the data, and the masked CRC-32C of the data. The data is an
//! `Event` message: 1 `wall_time` double, 2 `step` int64, 3 `file_version` string, 5 `summary` {1 `value` {1 `tag` string,
//! 2 `simple_value` float}}.

use crate::Result;
use crate::log::Appender;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes scalars to one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: Appender,
    name: String,
}

impl EventWriter {
    /// Starts a new event file in a folder.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(dir: &Path) -> Result<Self> {
        let now = now();
        let process = std::process::id();
        let name = format!("events.out.tfevents.{:010}.{process}", now as u64);
        let mut writer = Self {
            file: Appender::open(&dir.join(&name), 0)?,
            name,
        };
        writer.file.append(&frame(&version_event(now)))?;
        Ok(writer)
    }

    /// Goes on with an event file, cut back to `length` bytes.
    pub(crate) fn resume(dir: &Path, name: &str, length: u64) -> Result<Self> {
        Ok(Self {
            file: Appender::open(&dir.join(name), length)?,
            name: name.to_owned(),
        })
    }

    /// Writes the scalars of one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<()> {
        self.file.append(&frame(&scalar_event(now(), step, values)))
    }

    /// The name of the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes everything durable and gives the length.
    pub(crate) fn sync(&self) -> Result<u64> {
        self.file.sync()
    }
}

/// The event files in a folder.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("events.out.tfevents."))
        })
        .collect()
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn version_event(time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, time);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

fn scalar_event<'a>(
    time: f64,
    step: u64,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, 5);
        entry.extend((value as f32).to_le_bytes());
        bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    double(&mut event, 1, time);
    key(&mut event, 2, 0);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    event
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// TFRecord's mask: a CRC of data that holds CRCs would be weak, so the stored one is rotated and shifted.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A decoder written from the format, not from the encoder.
    pub(crate) fn decode(mut file: &[u8]) -> Vec<(u64, Vec<(String, f32)>)> {
        fn number(bytes: &[u8]) -> (u64, &[u8]) {
            let mut value = 0;
            for (i, byte) in bytes.iter().enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * i);
                if byte & 0x80 == 0 {
                    return (value, &bytes[i + 1..]);
                }
            }
            panic!("a number without an end");
        }
        /// Field number and content; numbers come as 8 bytes.
        fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
            let mut fields = Vec::new();
            while !bytes.is_empty() {
                let (key, rest) = number(bytes);
                let (content, rest) = match key & 7 {
                    0 => {
                        let (value, rest) = number(rest);
                        (value.to_le_bytes().to_vec(), rest)
                    }
                    1 => (rest[..8].to_vec(), &rest[8..]),
                    2 => {
                        let (n, rest) = number(rest);
                        (rest[..n as usize].to_vec(), &rest[n as usize..])
                    }
                    5 => (rest[..4].to_vec(), &rest[4..]),
                    other => panic!("wire type {other}"),
                };
                fields.push((key >> 3, content));
                bytes = rest;
            }
            fields
        }
        fn crc_bitwise(data: &[u8]) -> u32 {
            let mut crc = !0u32;
            for byte in data {
                crc ^= u32::from(*byte);
                for _ in 0..8 {
                    crc = if crc & 1 == 1 {
                        crc >> 1 ^ 0x82F6_3B78
                    } else {
                        crc >> 1
                    };
                }
            }
            let crc = !crc;
            crc.rotate_right(15).wrapping_add(0xA282_EAD8)
        }
        let mut events = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
            assert_eq!(file[8..12], crc_bitwise(&file[..8]).to_le_bytes());
            let data = &file[12..12 + length];
            assert_eq!(
                file[12 + length..16 + length],
                crc_bitwise(data).to_le_bytes()
            );
            let mut step = 0;
            let mut values = Vec::new();
            for (field, content) in fields(data) {
                match field {
                    1 => assert_eq!(content.len(), 8),
                    2 => step = u64::from_le_bytes(content.try_into().expect("a number")),
                    3 => assert_eq!(content, b"brain.Event:2"),
                    5 => {
                        for (field, value) in fields(&content) {
                            assert_eq!(field, 1);
                            let parts = fields(&value);
                            assert_eq!((parts[0].0, parts[1].0), (1, 2));
                            let tag = String::from_utf8(parts[0].1.clone()).expect("text");
                            let value = parts[1].1.as_slice().try_into().expect("a float");
                            values.push((tag, f32::from_le_bytes(value)));
                        }
                    }
                    other => panic!("field {other}"),
                }
            }
            events.push((step, values));
            file = &file[16 + length..];
        }
        events
    }

    #[test]
    fn a_decoder_reads_back_what_was_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut writer = EventWriter::create(dir.path()).expect("a file");
        writer
            .scalars(1, [("train/loss", 2.5), ("lr", 1e-3)])
            .expect("written");
        writer
            .scalars(300, [("valid/bpb", f64::NAN)])
            .expect("written");
        let files = files(dir.path());
        assert_eq!(files.len(), 1);
        let events = decode(&std::fs::read(&files[0]).expect("a file"));
        assert_eq!(events.len(), 3);
        assert_eq!(events[0], (0, vec![]));
        let first = vec![("train/loss".to_owned(), 2.5), ("lr".to_owned(), 1e-3)];
        assert_eq!(events[1], (1, first));
        assert_eq!(events[2].0, 300);
        assert!(events[2].1[0].1.is_nan());
    }

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of CRC-32C for the digits 1 to 9.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    }
}
