//! Checkpoints: folders that are there whole or not at all, with a digest of every file.
//!
//! A checkpoint is written into a hidden folder, every file synced, a manifest of lengths and SHA-256 digests added last, and the
//! folder renamed: a killed process, a full disk or a lost power supply at any moment leaves the checkpoints before it as they were.

use crate::context::is_plain;
use crate::{Error, Result};
use pretrained::NamedTensors;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "manifest.json";
const NEW: &str = ".new-";
const OLD: &str = ".old-";

/// Collects the parts of one checkpoint.
#[derive(Debug)]
pub struct CheckpointWriter {
    dir: PathBuf,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

impl CheckpointWriter {
    /// Writes a checkpoint folder: `fill` adds its parts, then it appears at `dir` whole, replacing one that may be there.
    ///
    /// # Errors
    /// When `fill` fails or a file cannot be written; what was at `dir` stays then.
    pub fn write(dir: &Path, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let new = dir.with_file_name(format!("{NEW}{name}"));
        let old = dir.with_file_name(format!("{OLD}{name}"));
        let result = Self::write_in(&new, &old, dir, fill);
        if result.is_err() {
            // Whatever went wrong is reported; a leftover that cannot be removed now is removed on the next start.
            let _ = fs::remove_dir_all(&new);
        }
        result
    }

    fn write_in(
        new: &Path,
        old: &Path,
        place: &Path,
        fill: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if new.exists() {
            fs::remove_dir_all(new).map_err(Error::io("remove", new))?;
        }
        fs::create_dir_all(new).map_err(Error::io("create the folder", new))?;
        let mut writer = Self {
            dir: new.to_path_buf(),
            files: BTreeMap::new(),
        };
        fill(&mut writer)?;
        let manifest = Manifest {
            files: writer.files,
        };
        let bytes = serde_json::to_vec_pretty(&manifest).map_err(Error::other)?;
        pretrained::write_atomic(&new.join(MANIFEST), &bytes)?;
        sync(new)?;
        if place.exists() {
            fs::rename(place, old).map_err(Error::io("replace", place))?;
        }
        fs::rename(new, place).map_err(Error::io("put into place", place))?;
        if let Some(parent) = place.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync(parent)?;
        }
        if old.exists() {
            fs::remove_dir_all(old).map_err(Error::io("remove", old))?;
        }
        Ok(())
    }

    /// Writes a value as `name.json`.
    ///
    /// # Errors
    /// When the name is taken or no plain file name, the value is no JSON, or the file cannot be written.
    pub fn json<T: Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        let path = self.place(name, "json")?;
        let bytes = serde_json::to_vec_pretty(value).map_err(|e| {
            Error::value(path.display().to_string(), e, "a value that JSON can hold")
        })?;
        pretrained::write_atomic(&path, &bytes)?;
        self.note(&path)
    }

    /// Writes tensors as `name.safetensors`.
    ///
    /// # Errors
    /// When the name is taken or no plain file name, or the file cannot be written.
    pub fn tensors(&mut self, name: &str, tensors: NamedTensors) -> Result<()> {
        let path = self.place(name, "safetensors")?;
        pretrained::write_safetensors(&path, &tensors)?;
        self.note(&path)
    }

    fn place(&self, name: &str, extension: &str) -> Result<PathBuf> {
        let file = format!("{name}.{extension}");
        if !is_plain(name) || file == MANIFEST || self.files.contains_key(&file) {
            return Err(Error::value(
                "the name of a part of a checkpoint",
                format!("`{name}`"),
                "a plain file name not used before (letters, digits, `.`, `_`, `-`)",
            ));
        }
        Ok(self.dir.join(file))
    }

    fn note(&mut self, path: &Path) -> Result<()> {
        let entry = digest(path).map_err(Error::io("read back", path))?;
        let name = path.file_name().unwrap_or_default();
        self.files
            .insert(name.to_string_lossy().into_owned(), entry);
        Ok(())
    }
}

/// Reads the parts of one checkpoint, whose digests were verified when it was opened.
#[derive(Debug, Clone)]
pub struct CheckpointReader {
    dir: PathBuf,
}

impl CheckpointReader {
    /// Opens a checkpoint folder and verifies every file in it.
    ///
    /// # Errors
    /// When a file is missing or differs from its digest.
    pub fn open(dir: &Path) -> Result<Self> {
        match damage(dir) {
            None => Ok(Self {
                dir: dir.to_path_buf(),
            }),
            Some(reason) => Err(Error::State {
                what: dir.display().to_string(),
                problems: reason,
            }),
        }
    }

    /// Reads `name.json`.
    ///
    /// # Errors
    /// When the file is missing or does not fit the type.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        Ok(pretrained::read_json(
            &self.dir.join(format!("{name}.json")),
        )?)
    }

    /// Reads `name.safetensors`.
    ///
    /// # Errors
    /// When the file is missing or no tensor file.
    pub fn tensors(&self, name: &str) -> Result<NamedTensors> {
        let path = self.dir.join(format!("{name}.safetensors"));
        Ok(pretrained::read_tensors(&path)?)
    }

    /// Whether there is a part of this name.
    pub fn has(&self, name: &str) -> bool {
        ["json", "safetensors"]
            .iter()
            .any(|extension| self.dir.join(format!("{name}.{extension}")).is_file())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Steps whose checkpoints are damaged, and how.
pub(crate) type Damaged = Vec<(u64, String)>;

/// The checkpoints of a run, `step-N` by the number of steps done in the whole run.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Opens the folder for writing and clears away what a killed process left half done.
    pub fn open(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(Error::io("create the folder", &dir))?;
        for name in names(&dir)? {
            let path = dir.join(&name);
            if name.starts_with(NEW) {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            } else if let Some(step) = name.strip_prefix(OLD) {
                // A checkpoint was being replaced: if its successor did not arrive, it takes its place again.
                let place = dir.join(step);
                if place.exists() {
                    fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
                } else {
                    fs::rename(&path, &place).map_err(Error::io("put back", &path))?;
                }
            }
        }
        Ok(Self { dir })
    }

    /// Opens the folder for reading only.
    pub fn view(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("step-{step}"))
    }

    /// Writes the checkpoint of a step, replacing the one that may be there.
    pub fn write(
        &self,
        step: u64,
        fill: impl FnOnce(&mut CheckpointWriter) -> Result<()>,
    ) -> Result<PathBuf> {
        let place = self.path(step);
        CheckpointWriter::write(&place, fill)?;
        Ok(place)
    }

    /// The steps there is a checkpoint of, in order.
    pub fn steps(&self) -> Result<Vec<u64>> {
        if !self.dir.is_dir() {
            return Ok(Vec::new());
        }
        let mut steps: Vec<u64> = names(&self.dir)?
            .iter()
            .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The last checkpoint that is whole, and what is wrong with those after it. `None` if none was ever written.
    pub fn latest(&self) -> Result<(Option<(u64, CheckpointReader)>, Damaged)> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let dir = self.path(step);
            match damage(&dir) {
                None => return Ok((Some((step, CheckpointReader { dir })), damaged)),
                Some(reason) => damaged.push((step, reason)),
            }
        }
        if damaged.is_empty() {
            return Ok((None, damaged));
        }
        let reasons = damaged.iter().map(|(s, r)| format!("step-{s}: {r}"));
        Err(Error::NoGoodCheckpoint {
            dir: self.dir.clone(),
            reasons: reasons.collect::<Vec<_>>().join("; "),
        })
    }

    /// Removes one checkpoint.
    pub fn remove(&self, step: u64) -> Result<()> {
        let path = self.path(step);
        fs::remove_dir_all(&path).map_err(Error::io("remove", &path))
    }

    /// Removes all but the last `keep` and one more.
    pub fn prune(&self, keep: usize, also: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        let excess = steps.len().saturating_sub(keep);
        for &step in steps.iter().take(excess).filter(|&&s| Some(s) != also) {
            self.remove(step)?;
        }
        Ok(())
    }
}

/// What is wrong with a checkpoint, if anything is.
fn damage(dir: &Path) -> Option<String> {
    let bytes = match fs::read(dir.join(MANIFEST)) {
        Ok(bytes) => bytes,
        Err(error) => return Some(format!("its {MANIFEST} cannot be read ({error})")),
    };
    let manifest: Manifest = match serde_json::from_slice(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => return Some(format!("its {MANIFEST} is damaged ({error})")),
    };
    manifest.files.iter().find_map(|(name, entry)| {
        if !is_plain(name) {
            return Some(format!("its {MANIFEST} names a file outside"));
        }
        match digest(&dir.join(name)) {
            Err(error) => Some(format!("{name} cannot be read ({error})")),
            Ok(found) if found.bytes != entry.bytes => Some(format!(
                "{name} has {} bytes instead of {}",
                found.bytes, entry.bytes
            )),
            Ok(found) if found.sha256 != entry.sha256 => {
                Some(format!("{name} differs from its digest"))
            }
            Ok(_) => None,
        }
    })
}

fn digest(path: &Path) -> std::io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        hash.update(&buffer[..n]);
    }
    let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Entry { bytes, sha256 })
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Makes the entries of a folder durable, where the system can do that.
fn sync(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let file = File::open(dir).map_err(Error::io("open", dir))?;
        file.sync_all().map_err(Error::io("sync", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    fn filled(checkpoints: &Checkpoints, step: u64) -> PathBuf {
        let tensors = NamedTensors::from([("w".to_owned(), TensorData::from([step as f32, 0.5]))]);
        checkpoints
            .write(step, |to| {
                to.json("state", &step)?;
                to.tensors("weights", tensors)
            })
            .expect("a checkpoint is written")
    }

    #[test]
    fn what_is_written_is_read_and_names_are_checked() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let checkpoints = Checkpoints::open(dir.path().join("c")).expect("a folder");
        filled(&checkpoints, 3);
        let (last, damaged) = checkpoints.latest().expect("one checkpoint");
        let (step, reader) = last.expect("it is whole");
        assert!(step == 3 && damaged.is_empty());
        assert_eq!(reader.json::<u64>("state").expect("a number"), 3);
        let tensors = reader.tensors("weights").expect("tensors");
        assert_eq!(tensors["w"], TensorData::from([3.0f32, 0.5]));
        assert!(reader.has("state") && !reader.has("other"));
        for bad in ["../x", "manifest", "state", ""] {
            let result = checkpoints.write(4, |to| {
                to.json("state", &1)?;
                to.json(bad, &1)
            });
            assert!(result.is_err(), "{bad:?}");
        }
        assert_eq!(
            checkpoints.steps().expect("a list"),
            [3],
            "a failed write leaves nothing"
        );
    }

    #[test]
    fn damage_is_noticed_and_the_one_before_is_used() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let checkpoints = Checkpoints::open(dir.path().join("c")).expect("a folder");
        let first = filled(&checkpoints, 1);
        let second = filled(&checkpoints, 2);
        let weights = second.join("weights.safetensors");
        let mut bytes = fs::read(&weights).expect("weights");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&weights, &bytes).expect("damage is done");
        let (found, damaged) = checkpoints.latest().expect("the first is whole");
        assert_eq!(found.map(|f| f.0), Some(1));
        assert!(
            damaged[0].1.contains("weights.safetensors differs"),
            "{damaged:?}"
        );
        fs::remove_file(first.join("state.json")).expect("a file is lost");
        let error = checkpoints
            .latest()
            .expect_err("both are damaged")
            .to_string();
        assert!(
            error.contains("step-1: state.json") && error.contains("step-2"),
            "{error}"
        );
        fs::write(first.join(MANIFEST), "{").expect("damage is done");
        assert!(CheckpointReader::open(&first).is_err());
    }

    #[test]
    fn a_kill_at_any_point_of_a_write_leaves_a_whole_checkpoint() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("c");
        let checkpoints = Checkpoints::open(place.clone()).expect("a folder");
        let path = filled(&checkpoints, 5);
        // Killed while writing the next one:
        fs::create_dir(place.join(".new-step-6")).expect("a leftover");
        // Killed between moving the old one away and the new one into place:
        fs::rename(&path, place.join(".old-step-5")).expect("a move");
        let checkpoints = Checkpoints::open(place.clone()).expect("cleared");
        let (found, _) = checkpoints.latest().expect("whole");
        assert_eq!(found.map(|f| f.0), Some(5));
        // Killed after both moves:
        fs::create_dir(place.join(".old-step-5")).expect("a leftover");
        Checkpoints::open(place.clone()).expect("cleared");
        assert_eq!(names(&place).expect("a list"), ["step-5"]);
        filled(&checkpoints, 5);
        assert_eq!(
            names(&place).expect("a list"),
            ["step-5"],
            "replaced in place"
        );
    }

    #[test]
    fn the_last_ones_and_the_best_are_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let checkpoints = Checkpoints::open(dir.path().join("c")).expect("a folder");
        for step in [1, 2, 9, 10, 11] {
            filled(&checkpoints, step);
        }
        checkpoints.prune(2, Some(2)).expect("pruned");
        assert_eq!(checkpoints.steps().expect("a list"), [2, 10, 11]);
    }
}
