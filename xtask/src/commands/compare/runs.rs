//! From a recipe to a run that can be compared.

use crate::app::App;
use crate::backend::Backend;
use crate::fail::usage;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use trainer::{Recipe, RunReader};

/// The finished run of a recipe in a folder of its own below `all`: it is trained, or goes on, unless it is there.
///
/// # Errors
/// When the folder holds a run of another recipe, or the training fails.
pub fn train(
    file: &Path,
    all: &Path,
    backend: Option<Backend>,
    app: &App,
) -> anyhow::Result<PathBuf> {
    let recipe = Recipe::load(file, &[])?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let dir = all.join(format!("{}-{stem}", recipe.architecture));
    let known = dir.join("recipe.json").is_file();
    if known {
        let run = RunReader::open(&dir)?;
        if !same(&run.recipe, &recipe) {
            return Err(usage(format!(
                "{} holds a run of another recipe than {}; remove it, or choose another folder with --runs-in",
                dir.display(),
                file.display()
            )));
        }
        if run.results.is_some() {
            app.note(&format!("{} is there already", dir.display()));
            return Ok(dir);
        }
    }
    // Each in a process of its own: the peak memory is then that of the run alone.
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("train").arg(file);
    command
        .arg(if known { "--resume" } else { "--out" })
        .arg(&dir);
    command.args(["--threads", &app.threads.to_string()]);
    if let Some(backend) = backend {
        command.args(["--backend", backend.name()]);
    }
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.context("cannot start the training")?;
    match status.success() {
        true => Ok(dir),
        false => anyhow::bail!("training {} failed ({status})", file.display()),
    }
}

/// Whether two recipes ask for the same training of the same model.
fn same(a: &Recipe, b: &Recipe) -> bool {
    let parts = |r: &Recipe| {
        let sections = [&r.model, &r.data, &r.training, &r.evaluation];
        (r.architecture.clone(), r.seed, sections.map(Clone::clone))
    };
    parts(a) == parts(b)
}
