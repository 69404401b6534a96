//! `inspect`: what is in a file or folder.

use crate::app::App;
use crate::models::{self, Place};
use crate::{format, out, table};
use anyhow::Context as _;
use pretrained::TensorHeader;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use trainer::RunReader;

/// Lists names, types and shapes of tensors, and what else is known
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A weights file (safetensors, .pt, .bin, an index), a model folder, a run folder or a checkpoint of a run
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// What was found: facts, and the tensors of each weights file.
#[derive(Default)]
struct Found {
    facts: Vec<(String, Value)>,
    files: Vec<(PathBuf, Vec<TensorHeader>)>,
}

/// Runs the command.
///
/// # Errors
/// When there is nothing, or it is damaged.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let path = models::place(&args.path, app)?;
    let found = match Place::of(&path)? {
        Place::Run => run_folder(&path)?,
        Place::Checkpoint => checkpoint(&path)?,
        Place::Model => model_folder(&pretrained::model_folder(&path)?)?,
        Place::File => weights(&path)?,
    };
    match app.json {
        true => out::json(&found.json()),
        false => {
            found.print();
            Ok(())
        }
    }
}

fn weights(path: &Path) -> anyhow::Result<Found> {
    let headers = pretrained::tensor_headers(path)?;
    let mut found = Found::default();
    found.fact("file", json!(path));
    found.fact("size", json!(path.metadata()?.len()));
    for (key, value) in metadata(path)? {
        found.facts.push((format!("metadata {key}"), value));
    }
    found.files.push((path.to_path_buf(), headers));
    Ok(found)
}

fn model_folder(dir: &Path) -> anyhow::Result<Found> {
    let file = pretrained::weights_file(dir)?;
    let mut found = weights(&file)?;
    let config = dir.join("config.json");
    if config.is_file() {
        let value: Value = pretrained::read_json(&config)?;
        let architecture = models::architecture_of(dir, None);
        found.fact(
            "architecture",
            match architecture {
                Ok(architecture) => json!(architecture.name),
                Err(_) => json!("none of this workspace"),
            },
        );
        found.fact("config", value);
    }
    Ok(found)
}

fn checkpoint(dir: &Path) -> anyhow::Result<Found> {
    let mut found = Found::default();
    found.fact("checkpoint", json!(dir));
    let whole = trainer::CheckpointReader::open(dir);
    found.fact(
        "digests",
        match &whole {
            Ok(_) => json!("every file is whole"),
            Err(error) => json!(error.to_string()),
        },
    );
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        files.push(entry?.path());
    }
    files.sort();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".safetensors") {
            found
                .files
                .push((file.clone(), pretrained::tensor_headers(&file)?));
        } else if name == "run.json" {
            let state: Value = pretrained::read_json(&file)?;
            for key in ["stage", "step", "global", "best", "seconds"] {
                found.fact(key, state.get(key).cloned().unwrap_or(Value::Null));
            }
        }
    }
    Ok(found)
}

fn run_folder(dir: &Path) -> anyhow::Result<Found> {
    let run = RunReader::open(dir)?;
    let mut found = Found::default();
    found.fact("run", json!(run.name()));
    found.fact("architecture", json!(run.recipe.architecture));
    if let Some(about) = &run.recipe.about {
        found.fact("about", json!(about));
    }
    if let Some(environment) = &run.environment {
        found.fact("backend", json!(environment.backend));
        found.fact("started", json!(environment.started));
    }
    found.fact("finished", json!(run.results.is_some()));
    found.fact(
        "last record of step",
        json!(run.records.last().map(|record| record.step)),
    );
    let latest = run.latest_checkpoint()?;
    found.fact(
        "latest checkpoint",
        json!(latest.as_ref().map(|(_, from)| from.dir())),
    );
    found.fact(
        "best checkpoint",
        json!(run.best_checkpoint()?.map(|from| from.dir().to_path_buf())),
    );
    if let Some(results) = &run.results {
        found.fact("test", json!(results.test));
        found.fact("model", json!(results.model));
        found.fact("report", json!(results.report));
    }
    if let Some((_, from)) = latest {
        found.files = checkpoint(from.dir())?.files;
    }
    Ok(found)
}

/// The metadata in the header of a safetensors file; `tensor_headers` has read the file before, so its lengths hold.
fn metadata(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    if path
        .extension()
        .is_none_or(|extension| extension != "safetensors")
    {
        return Ok(Map::new());
    }
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length))
        .read_to_end(&mut header)?;
    let header: Value = serde_json::from_slice(&header)?;
    let metadata = header.get("__metadata__").and_then(Value::as_object);
    Ok(metadata.cloned().unwrap_or_default())
}

impl Found {
    fn fact(&mut self, name: &str, value: Value) {
        self.facts.push((name.to_owned(), value));
    }

    fn json(&self) -> Value {
        let files = self.files.iter().map(|(path, headers)| {
            let tensors = headers.iter().map(|header| {
                json!({ "name": header.name, "dtype": header.dtype, "shape": header.shape })
            });
            json!({ "file": path, "tensors": tensors.collect::<Vec<_>>(), "elements": elements(headers) })
        });
        let facts: Map<String, Value> = self.facts.iter().cloned().collect();
        json!({ "facts": facts, "files": files.collect::<Vec<_>>() })
    }

    fn print(&self) {
        let facts = self.facts.iter().map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => "none".to_owned(),
                Value::Number(n) if name == "size" => {
                    n.as_u64().map_or(n.to_string(), format::bytes)
                }
                value => value.to_string(),
            };
            (name.clone(), text)
        });
        out::raw(table::facts(&facts.collect::<Vec<_>>()));
        for (path, headers) in &self.files {
            out::line("");
            out::line(path.display());
            let rows = headers.iter().map(|header| {
                vec![
                    header.name.clone(),
                    header.dtype.clone(),
                    format!("{:?}", header.shape),
                ]
            });
            let rows = rows.collect();
            out::raw(table::text(&table::table(
                "",
                &["tensor", "type", "shape"],
                rows,
            )));
            out::line(format!(
                "{} tensors, {} elements",
                headers.len(),
                format::count(elements(headers))
            ));
        }
    }
}

/// In f64, so that a file that claims absurd shapes overflows nothing.
fn elements(headers: &[TensorHeader]) -> f64 {
    let sizes = headers.iter();
    sizes
        .map(|header| header.shape.iter().map(|&n| n as f64).product::<f64>())
        .sum()
}
