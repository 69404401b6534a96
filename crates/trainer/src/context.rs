//! What the runner lends to an experiment, and how a run is watched.

use crate::{Error, Record, Result, Stage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Watches a run; a progress bar is one. Every method may be left out.
pub trait Observer {
    /// A stage is entered, or resumed after `done` steps of it.
    fn stage(&mut self, _index: usize, _of: usize, _stage: &Stage, _done: u64) {}

    /// A training step is done. Called for each: draw only now and then.
    fn step(&mut self, _progress: &Progress) {}

    /// A line was written to `metrics.jsonl`.
    fn record(&mut self, _record: &Record) {}

    /// A part of a longer task, such as an evaluation, is done.
    fn progress(&mut self, _done: u64, _total: u64, _what: &str) {}

    /// Something worth saying.
    fn message(&mut self, _level: Level, _text: &str) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something is not as it should be, but the run goes on.
    Warning,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress<'a> {
    /// The current stage.
    pub stage: &'a str,
    /// Steps of the stage that are done.
    pub step: u64,
    /// Steps of the stage.
    pub steps: u64,
    /// Steps of the run that are done.
    pub global: u64,
    /// Steps of the run.
    pub total: u64,
    /// Training steps per second since this process entered the stage, evaluations included; 0 before the first step.
    pub steps_per_second: f64,
    /// The time left for the whole run at this rate.
    pub remaining: Option<Duration>,
    /// What is consumed per second, and its unit.
    pub work_per_second: Option<(f64, &'static str)>,
}

/// What the runner lends to an experiment: a place for artefacts, the cancel flag, progress and messages.
pub struct Context {
    artefacts: Option<PathBuf>,
    cancel: Arc<AtomicBool>,
    observer: Box<dyn Observer>,
    log: Option<crate::log::Log>,
}

impl Context {
    /// A context that keeps artefacts under `artefacts`, if a folder is given.
    pub fn new(
        artefacts: Option<PathBuf>,
        cancel: Arc<AtomicBool>,
        observer: Box<dyn Observer>,
    ) -> Self {
        Self {
            artefacts,
            cancel,
            observer,
            log: None,
        }
    }

    /// A context outside a run: nobody watches, nobody cancels, artefacts are refused.
    pub fn detached() -> Self {
        Self::new(None, Arc::default(), Box::new(Silent))
    }

    pub(crate) fn with_log(mut self, log: crate::log::Log) -> Self {
        self.log = Some(log);
        self
    }

    /// Writes an artefact, whole or not at all, for later stages and for the user.
    ///
    /// # Errors
    /// When the name is no plain file name, the file cannot be written, or there is no run folder.
    pub fn artefact(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.artefact_path(name)?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        }
        Ok(pretrained::write_atomic(&path, bytes)?)
    }

    /// Reads an artefact that this or an earlier stage wrote.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn read_artefact(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.artefact_path(name)?;
        std::fs::read(&path).map_err(Error::io("read the artefact", path))
    }

    /// Where the artefact of this name lies or would lie.
    ///
    /// # Errors
    /// When the name is no plain file name, or there is no run folder.
    pub fn artefact_path(&self, name: &str) -> Result<PathBuf> {
        if !is_plain(name) {
            return Err(Error::value(
                "the name of an artefact",
                format!("`{name}`"),
                "letters, digits, `.`, `_` and `-`, not starting with `.`",
            ));
        }
        match &self.artefacts {
            Some(dir) => Ok(dir.join(name)),
            None => Err(Error::Unsupported {
                what: format!("the artefact `{name}`"),
                remedy: "artefacts belong to a run: use `train`".to_owned(),
            }),
        }
    }

    /// Whether the run should stop soon.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Says how much of a longer task is done.
    pub fn progress(&mut self, done: u64, total: u64, what: &str) {
        self.observer.progress(done, total, what);
    }

    /// Says something worth knowing.
    pub fn message(&mut self, text: &str) {
        self.say(Level::Info, text);
    }

    /// Says that something is not as it should be.
    pub fn warning(&mut self, text: &str) {
        self.say(Level::Warning, text);
    }

    fn say(&mut self, level: Level, text: &str) {
        if let Some(log) = &mut self.log {
            log.line(level, text);
        }
        self.observer.message(level, text);
    }

    pub(crate) fn observer(&mut self) -> &mut dyn Observer {
        self.observer.as_mut()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("artefacts", &self.artefacts)
            .field("cancelled", &self.cancelled())
            .finish_non_exhaustive()
    }
}

/// Whether a name is a plain file name: it cannot leave its folder and is the same on every file system.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && Path::new(name).file_name().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artefacts_stay_in_their_folder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cx = Context::new(
            Some(dir.path().join("artefacts")),
            Arc::default(),
            Box::new(Silent),
        );
        for bad in ["", "..", "../x", "a/b", "a\\b", ".hidden", "a b"] {
            assert!(cx.artefact(bad, b"x").is_err(), "{bad:?}");
        }
        cx.artefact("best-arch.json", b"{}")
            .expect("a plain name is written");
        assert_eq!(
            cx.read_artefact("best-arch.json").expect("it is there"),
            b"{}"
        );
        assert!(cx.read_artefact("other.json").is_err());
        assert!(Context::detached().artefact("x", b"").is_err());
    }
}
