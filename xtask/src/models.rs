//! Folders: what they are, and how what is in them is opened.

use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use crate::progress::Meter;
use crate::{format, registry};
use anyhow::Context as _;
use burn::tensor::Device;
use serde_json::Value;
use std::path::{Path, PathBuf};
use trainer::{
    Architecture, CheckpointReader, Conversion, Experiment, Pretrained, Recipe, RunReader,
};

/// What a model is, where its folder does not tell.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Kind {
    /// The architecture, if the folder does not tell
    #[arg(long, value_name = "NAME")]
    pub architecture: Option<String>,
    /// The head, if `architectures` in config.json does not tell: sequence-classification, token-classification,
    /// question-answering, multiple-choice, masked-lm, pretraining, next-sentence-prediction, or model for none
    #[arg(long, value_name = "NAME")]
    pub head: Option<String>,
}

/// The folder of a model that was given as a path or, with the feature `hub`, as the name of a published one.
///
/// # Errors
/// A name that cannot be had, or that this program cannot ask for.
pub fn place(path: &Path, app: &App) -> anyhow::Result<PathBuf> {
    if !pretrained::is_published_name(path) {
        return Ok(path.to_path_buf());
    }
    if cfg!(not(feature = "hub")) {
        let words: Vec<String> = app
            .command
            .iter()
            .map(|word| format::shell_word(word))
            .collect();
        let path = path.display();
        return Err(usage(format!(
            "cannot open {path}: there is no such folder; if it is the name of a published model, run: cargo run -p xtask --features hub -- {}",
            words.join(" ")
        )));
    }
    let mut meter = Meter::new();
    let mut show = |download: pretrained::Download<'_>| {
        let size = || format!("of {}", format::bytes(download.total));
        let what = format!("getting {}", download.file);
        meter.show(&what, download.done, Some(download.total), size);
    };
    Ok(pretrained::model_folder_with(path, &mut show)?)
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A run folder: it has a `recipe.json`.
    Run,
    /// A checkpoint of a run: it has a `manifest.json` and the runner's `run.json`.
    Checkpoint,
    /// A model folder: any other folder.
    Model,
    /// A file.
    File,
}

impl Place {
    /// Looks at a path.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        let facts = path.metadata();
        let facts = facts.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(if !facts.is_dir() {
            Self::File
        } else if path.join("recipe.json").is_file() {
            Self::Run
        } else if path.join("manifest.json").is_file() && path.join("run.json").is_file() {
            Self::Checkpoint
        } else {
            Self::Model
        })
    }
}

/// Brings a recipe to life.
///
/// # Errors
/// When its architecture or backend does not exist, or the architecture refuses it.
pub fn open(recipe: &Recipe, device: &Device) -> anyhow::Result<Box<dyn Experiment>> {
    let architecture = registry::find(&recipe.architecture)
        .with_context(|| format!("{}: architecture", recipe.file.display()))?;
    recipe.clock()?;
    (architecture.open)(recipe, device).with_context(|| recipe.file.display().to_string())
}

/// Which state of a run to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Which {
    /// The best checkpoint, or the latest where none was judged
    #[default]
    Best,
    /// The latest checkpoint
    Latest,
}

/// The checkpoint of a run that is asked for.
///
/// # Errors
/// When it has none yet, or it is damaged.
pub fn checkpoint(run: &RunReader, which: Which) -> anyhow::Result<CheckpointReader> {
    let best = match which {
        Which::Best => run.best_checkpoint()?,
        Which::Latest => None,
    };
    let found = match best {
        Some(best) => Some(best),
        None => run.latest_checkpoint()?.map(|(_, latest)| latest),
    };
    found.ok_or_else(|| {
        let dir = run.dir.display();
        usage(format!(
            "{dir} has no checkpoint yet; go on with it: cargo xtask train --resume {dir}"
        ))
    })
}

/// Opens the experiment of a run in the state that is asked for.
///
/// # Errors
/// When the run has no usable checkpoint or does not fit its recipe.
pub fn restore(
    run: &RunReader,
    which: Which,
    device: &Device,
) -> anyhow::Result<Box<dyn Experiment>> {
    let from = checkpoint(run, which)?;
    let mut experiment = open(&run.recipe, device)?;
    experiment
        .restore(&from)
        .with_context(|| format!("restoring {}", from.dir().display()))?;
    Ok(experiment)
}

/// The architecture that takes a configuration and tensor names for its own.
///
/// # Errors
/// When no architecture does, or several do.
pub fn claimed(
    config: &Value,
    names: &[String],
    path: &Path,
) -> anyhow::Result<&'static Architecture> {
    let all = registry::ARCHITECTURES.iter();
    let found: Vec<&Architecture> = all.copied().filter(|a| (a.claims)(config, names)).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(usage(format!(
            "no architecture takes {} for its own; name one with --architecture: {}",
            path.display(),
            registry::ARCHITECTURES
                .iter()
                .map(|a| a.name)
                .collect::<Vec<_>>()
                .join(", ")
        ))),
        several => Err(usage(format!(
            "{} may belong to {}; name one with --architecture",
            path.display(),
            several
                .iter()
                .map(|a| a.name)
                .collect::<Vec<_>>()
                .join(" or ")
        ))),
    }
}

/// The architecture of a model folder: the one named, or the one that claims it.
///
/// # Errors
/// When the folder is no model folder or nobody claims it.
pub fn architecture_of(dir: &Path, named: Option<&str>) -> anyhow::Result<&'static Architecture> {
    if let Some(name) = named {
        return registry::find(name);
    }
    let inner = pretrained::model_folder(dir)?;
    let config = inner.join("config.json");
    if !config.is_file() {
        let dir = dir.display();
        return Err(usage(format!(
            "{dir} is not a model folder: config.json is missing; convert a published checkpoint with: cargo xtask convert"
        )));
    }
    claimed(
        &pretrained::read_json(&config)?,
        &tensor_names(&inner)?,
        dir,
    )
}

/// The names of the tensors in a weights file or model folder.
///
/// # Errors
/// When it cannot be read.
pub fn tensor_names(path: &Path) -> anyhow::Result<Vec<String>> {
    let headers = pretrained::tensor_headers(path)?;
    Ok(headers.into_iter().map(|header| header.name).collect())
}

/// Opens a model folder, or the model of a finished run.
///
/// # Errors
/// When it is none.
pub fn load(path: &Path, kind: &Kind, device: &Device) -> anyhow::Result<Box<dyn Pretrained>> {
    let dir = match Place::of(path)? {
        Place::Run => path.join("model"),
        Place::Model => path.to_path_buf(),
        Place::Checkpoint => {
            return Err(usage(format!(
                "{} is a checkpoint, not a model folder; give the run folder above it",
                path.display()
            )));
        }
        Place::File => {
            return Err(usage(format!(
                "{} is a file, not a model folder; make one of it with: cargo xtask convert",
                path.display()
            )));
        }
    };
    if !dir.is_dir() {
        return Err(usage(format!(
            "{} has no model folder yet; finish the run: cargo xtask train --resume {}",
            path.display(),
            path.display()
        )));
    }
    let architecture = architecture_of(&dir, kind.architecture.as_deref())?;
    let loaded = match &kind.head {
        None => (architecture.load)(&dir, device),
        Some(_) => {
            let from = Conversion {
                checkpoint: dir.clone(),
                head: kind.head.clone(),
                ..Conversion::default()
            };
            (architecture.convert)(&from, device)
        }
    };
    loaded.with_context(|| dir.display().to_string())
}

/// A model that somebody wants to use: the model of a folder, or the state of a run that is not finished.
pub enum Model {
    /// From a model folder.
    Pretrained(Box<dyn Pretrained>),
    /// From a checkpoint.
    Experiment(Box<dyn Experiment>),
}

impl Model {
    /// Opens a model folder, a finished run, or the best checkpoint of one that is not finished.
    ///
    /// # Errors
    /// When there is nothing usable.
    pub fn open(
        path: &Path,
        kind: &Kind,
        backend: Option<Backend>,
        app: &App,
    ) -> anyhow::Result<Self> {
        let unfinished = Place::of(path)? == Place::Run && !path.join("model").is_dir();
        if !unfinished {
            let device = Backend::choose(backend, None)?.device(&app.command)?;
            return Ok(Self::Pretrained(load(path, kind, &device)?));
        }
        let run = RunReader::open(path)?;
        let backend = Backend::choose(backend, run.recipe.backend.as_deref())?;
        app.note(&format!(
            "{} is not finished: using its best checkpoint",
            path.display()
        ));
        let device = backend.device(&app.command)?;
        Ok(Self::Experiment(restore(&run, Which::Best, &device)?))
    }

    /// The ability to continue a text.
    pub fn generator(&mut self) -> Option<&mut dyn trainer::Generate> {
        match self {
            Self::Pretrained(model) => model.generator(),
            Self::Experiment(experiment) => experiment.generator(),
        }
    }

    /// The ability to answer one input.
    pub fn predictor(&mut self) -> Option<&mut dyn trainer::Predict> {
        match self {
            Self::Pretrained(model) => model.predictor(),
            Self::Experiment(experiment) => experiment.predictor(),
        }
    }
}

/// Makes a folder for a new model.
///
/// # Errors
/// When it holds anything or cannot be made.
pub fn empty_folder(dir: &Path) -> anyhow::Result<()> {
    let occupied = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => dir.exists(),
    };
    if occupied {
        return Err(usage(format!(
            "{} is not empty; choose another folder with --out",
            dir.display()
        )));
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}
