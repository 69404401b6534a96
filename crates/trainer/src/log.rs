//! The two files a run writes line by line: `log.txt` for people, `metrics.jsonl` for programs.

use crate::{Error, Level, Metrics, Result, Split};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured.
    pub kind: Kind,
    /// In which stage.
    pub stage: String,
    /// On which split; absent for times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// After how many steps of the whole run.
    pub step: u64,
    /// The values.
    pub values: Metrics,
}

/// What a line of `metrics.jsonl` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Scalars of training steps.
    Train,
    /// Metrics of an evaluation.
    Evaluation,
    /// Rates and times, the only values that differ between two runs of one recipe.
    Time,
}

/// A file that only grows, and can be cut back to an earlier length.
#[derive(Debug)]
pub(crate) struct Appender {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Appender {
    /// Opens a file, creates it if need be, and cuts it back to `length` bytes.
    pub fn open(path: &Path, length: u64) -> Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(Error::io("open", path))?;
        let cut = || -> std::io::Result<u64> {
            // A file that lost its end (a power failure) is not padded: what is left is kept.
            let length = length.min(file.metadata()?.len());
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))
        };
        let mut cut = cut;
        let length = cut().map_err(Error::io("cut back", path))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            length,
        })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(Error::io("append to", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything durable and gives the length, for a checkpoint to remember.
    pub fn sync(&self) -> Result<u64> {
        self.file
            .sync_data()
            .map_err(Error::io("sync", &self.path))?;
        Ok(self.length)
    }
}

/// `log.txt`: one line per message, with the time.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
}

impl Log {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Adds a line. A log that cannot be written does not stop a run; the checkpoints will say that the disk is full.
    pub fn line(&self, level: Level, text: &str) {
        let mark = match level {
            Level::Info => "",
            Level::Warning => "warning: ",
        };
        let line = format!(
            "{} {mark}{}\n",
            timestamp(SystemTime::now()),
            text.trim_end()
        );
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// A time as `2026-11-24T13:00:00Z`.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that the leap day is the last of a year; 1970-01-01 is day 719468 of that count.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        era * 400 + year + late,
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_calendar_times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn files_are_cut_back_and_never_padded() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = Appender::open(&path, 0).expect("opened");
        file.append(b"one\ntwo\n").expect("appended");
        assert_eq!(file.sync().expect("synced"), 8);
        let mut file = Appender::open(&path, 4).expect("cut back");
        file.append(b"three\n").expect("appended");
        assert_eq!(std::fs::read(&path).expect("read"), b"one\nthree\n");
        let file = Appender::open(&path, 99).expect("opened");
        assert_eq!(file.sync().expect("synced"), 10);
    }
}
