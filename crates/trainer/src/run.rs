//! The run folder: taken by one process at a time, written by [`Run`], read back by [`RunReader`].
//!
//! `recipe.json` (resolved) · `environment.json` · `metrics.jsonl` · `events.out.tfevents.*` · `checkpoints/step-N/` · `best` (the
//! name of the best checkpoint) · `artefacts/` · `log.txt` · `model/` · `results.json` · `figures.json` · `plots/*.svg` ·
//! `report.html` · `lock`.

use crate::checkpoint::{CheckpointReader, Checkpoints};
use crate::context::{Level, Observer, Silent};
use crate::log::{Kind, Log, Record};
use crate::recipe::difference;
use crate::runner::{Outcome, Runner};
use crate::{Environment, Error, Experiment, Figure, Recipe, Result, Split};
use serde_json::Value;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) const RECIPE: &str = "recipe.json";
pub(crate) const ENVIRONMENT: &str = "environment.json";
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const RESULTS: &str = "results.json";
pub(crate) const FIGURES: &str = "figures.json";
pub(crate) const REPORT: &str = "report.html";
const BEST: &str = "best";
const LOCK: &str = "lock";
const CHECKPOINTS: &str = "checkpoints";

/// A run folder that this process holds.
#[derive(Debug)]
pub struct Run {
    pub(crate) dir: PathBuf,
    pub(crate) recipe: Recipe,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) resumed: bool,
    // Released when dropped, also by the system when the process dies.
    _lock: File,
}

/// What a run needs besides its recipe.
pub struct Options {
    /// Where it takes place.
    pub environment: Environment,
    /// Set to stop after the current step, with a checkpoint.
    pub cancel: Arc<AtomicBool>,
    /// Who watches.
    pub observer: Box<dyn Observer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            environment: Environment::collect("unknown", "unknown", 1, Vec::new()),
            cancel: Arc::default(),
            observer: Box::new(Silent),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("environment", &self.environment)
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}

impl Run {
    /// Takes a folder that does not exist or is empty for a new run.
    ///
    /// # Errors
    /// When another process uses the folder, it holds anything, or it cannot be written.
    pub fn create(dir: &Path, recipe: &Recipe) -> Result<Self> {
        recipe.clock()?;
        fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        let lock = lock(dir)?;
        if contents(dir)? > 0 {
            return Err(Error::NotEmpty {
                dir: dir.to_path_buf(),
            });
        }
        Self::hold(dir, recipe, lock, false)
    }

    /// Takes the folder of a run that was stopped or killed, to go on with it.
    ///
    /// The recipe must be that of the run; `training.steps` and `training.clock` may differ.
    ///
    /// # Errors
    /// When another process uses the folder, it is no run folder, or the recipe differs.
    pub fn resume(dir: &Path, recipe: &Recipe) -> Result<Self> {
        recipe.clock()?;
        let no_run = || Error::NoRun {
            dir: dir.to_path_buf(),
            missing: RECIPE,
        };
        if !dir.is_dir() {
            return Err(no_run());
        }
        let stored = dir.join(RECIPE);
        if !stored.exists() && !dir.join(LOCK).exists() {
            return Err(no_run());
        }
        let lock = lock(dir)?;
        if !stored.exists() && contents(dir)? > 0 {
            return Err(no_run());
        }
        // A folder with nothing but a lock is a run that was killed before it wrote its recipe.
        if stored.exists() {
            let was: Value = pretrained::read_json(&stored)?;
            let free = [
                "base",
                "about",
                "expected",
                "training.steps",
                "training.clock",
            ];
            let changed = difference(&was, &recipe.resolved(), "", &|at| free.contains(&at));
            if let Some((at, was, now)) = changed {
                return Err(Error::OtherRecipe {
                    dir: dir.to_path_buf(),
                    at,
                    was: was.to_string(),
                    now: now.to_string(),
                });
            }
        }
        Self::hold(dir, recipe, lock, true)
    }

    fn hold(dir: &Path, recipe: &Recipe, lock: File, resumed: bool) -> Result<Self> {
        write_json(&dir.join(RECIPE), &recipe.resolved())?;
        Ok(Self {
            dir: dir.to_path_buf(),
            recipe: recipe.clone(),
            checkpoints: Checkpoints::open(dir.join(CHECKPOINTS))?,
            resumed,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Carries the run out, from its last checkpoint or from the start, to its end: all stages, the evaluation on the test split,
    /// the model folder and the report.
    ///
    /// # Errors
    /// [`Error::Cancelled`] after a checkpoint when the cancel flag was set; [`Error::NotFinite`] when a scalar became NaN or
    /// infinite; whatever else stops the experiment. The checkpoints written before stay as they are.
    pub fn train(self, experiment: &mut dyn Experiment, options: Options) -> Result<Outcome> {
        let log = self.log();
        let result = Runner::start(&self, experiment, options).and_then(Runner::run);
        match &result {
            Ok(outcome) => log.line(
                Level::Info,
                &format!("finished after {} steps", outcome.steps),
            ),
            Err(error) => log.line(Level::Warning, &error.to_string()),
        }
        result
    }

    pub(crate) fn log(&self) -> Log {
        Log::new(self.dir.join("log.txt"))
    }

    pub(crate) fn point_to_best(&self, step: Option<u64>) -> Result<()> {
        let path = self.dir.join(BEST);
        match step {
            Some(step) => Ok(pretrained::write_atomic(
                &path,
                format!("step-{step}\n").as_bytes(),
            )?),
            None if path.exists() => fs::remove_file(&path).map_err(Error::io("remove", &path)),
            None => Ok(()),
        }
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            dir: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", path)(source)),
    }
}

/// How many entries a folder has that matter: not the lock and not the leftovers of a write that was cut off.
fn contents(dir: &Path) -> Result<usize> {
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    Ok(names
        .filter(|name| name != LOCK && !name.to_string_lossy().starts_with('.'))
        .count())
}

pub(crate) fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(Error::other)?;
    bytes.push(b'\n');
    Ok(pretrained::write_atomic(path, &bytes)?)
}

/// A run folder, read back: for reports and comparisons, also while the run is still going on.
#[derive(Debug, Clone)]
pub struct RunReader {
    /// The folder.
    pub dir: PathBuf,
    /// The recipe.
    pub recipe: Recipe,
    /// Where the last session took place.
    pub environment: Option<Environment>,
    /// All lines of `metrics.jsonl`, in order.
    pub records: Vec<Record>,
    /// The results, once the run has finished.
    pub results: Option<Outcome>,
    /// The figures of the architecture, once the run has finished.
    pub figures: Vec<Figure>,
}

impl RunReader {
    /// Reads a run folder.
    ///
    /// # Errors
    /// When it is no run folder or a file in it is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let recipe = dir.join(RECIPE);
        if !recipe.is_file() {
            return Err(Error::NoRun {
                dir: dir.to_path_buf(),
                missing: RECIPE,
            });
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            recipe: Recipe::load(&recipe, &[])?,
            environment: read_if_there(&dir.join(ENVIRONMENT))?,
            records: records(&dir.join(METRICS))?,
            results: read_if_there(&dir.join(RESULTS))?,
            figures: read_if_there(&dir.join(FIGURES))?.unwrap_or_default(),
        })
    }

    /// The name of the run: that of its folder.
    pub fn name(&self) -> String {
        let absolute = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let name = absolute.file_name().unwrap_or(absolute.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// One value over the steps of the run.
    pub fn series(&self, kind: Kind, split: Option<Split>, name: &str) -> Vec<(f64, f64)> {
        let lines = self
            .records
            .iter()
            .filter(|r| r.kind == kind && r.split == split);
        lines
            .filter_map(|r| Some((r.step as f64, r.values.get(name)?)))
            .collect()
    }

    /// The last whole checkpoint, with the number of steps done; `None` before the first.
    ///
    /// # Errors
    /// When there are checkpoints, but all are damaged.
    pub fn latest_checkpoint(&self) -> Result<Option<(u64, CheckpointReader)>> {
        Ok(self.checkpoints().latest()?.0)
    }

    /// The checkpoint with the best objective, if there is one.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn best_checkpoint(&self) -> Result<Option<CheckpointReader>> {
        let Ok(name) = fs::read_to_string(self.dir.join(BEST)) else {
            return Ok(None);
        };
        let step = name
            .trim()
            .strip_prefix("step-")
            .and_then(|step| step.parse().ok());
        match step {
            Some(step) => CheckpointReader::open(&self.checkpoints().path(step)).map(Some),
            None => Err(Error::value(
                self.dir.join(BEST).display().to_string(),
                format!("`{}`", name.trim()),
                "the name of a checkpoint such as step-100",
            )),
        }
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::view(self.dir.join(CHECKPOINTS))
    }
}

fn read_if_there<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match path.is_file() {
        true => Ok(Some(pretrained::read_json(path)?)),
        false => Ok(None),
    }
}

fn records(path: &Path) -> Result<Vec<Record>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    // A line without an end is still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| Ok(pretrained::parse_json(line, path)?))
        .collect()
}
