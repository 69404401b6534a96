//! `data`: what there is to learn from, and how to get it.

use crate::app::App;
use crate::fail::usage;
use crate::progress::Meter;
use crate::{format, out, table};
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use datasets::{
    Availability, CorpusSpec, FetchOptions, ImportOptions, Info, Kind, MakeSpec, Manifest, Task,
    TextFormat,
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Lists, imports, fetches and makes data
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with data.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all known data sets and where they are
    List,
    /// Say everything about one data set
    Info {
        /// Its name
        name: String,
    },
    /// Read a data set out of a package or archive that is on this machine
    Import {
        /// Its name
        name: String,
        /// The archive, an unpacked folder, or the plain file
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        /// Digests of an archive you trust although it is not the known one
        #[command(flatten)]
        digests: Digests,
        /// The folder of all data
        #[arg(long, value_name = "DIR", default_value = datasets::DATA_FOLDER)]
        data: PathBuf,
    },
    /// Download a data set from its official address; an interrupted download goes on where it stopped
    Fetch {
        /// Its name
        name: String,
        /// Another address of the same file
        #[arg(long)]
        url: Option<String>,
        /// Digests of a file you trust although it is not the known one
        #[command(flatten)]
        digests: Digests,
        /// The folder of all data
        #[arg(long, value_name = "DIR", default_value = datasets::DATA_FOLDER)]
        data: PathBuf,
    },
    /// Generate a task that needs a known span
    Make(Make),
    /// Learn a vocabulary of pieces of words from the training part of a text
    Vocab {
        /// A named text, or a file or folder
        text: String,
        /// Number of tokens at most; the 256 bytes are among them
        #[arg(long, value_name = "N", default_value_t = 4096)]
        size: usize,
        /// Where to write it
        #[arg(long, value_name = "FILE", default_value = "vocab.json")]
        out: PathBuf,
    },
    /// Make an embedded file again from the package it comes from, and compare it with the one that is compiled in
    Embed {
        /// Its name
        name: String,
        /// The package, or a folder with the unpacked content of one or several
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        /// Where to write the compressed file; by default nothing is written
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Digests given by the user.
#[derive(Debug, clap::Args)]
pub struct Digests {
    /// SHA-256 of the file
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// MD5 of the file
    #[arg(long, value_name = "HEX")]
    pub md5: Option<String>,
}

impl From<Digests> for ImportOptions {
    fn from(digests: Digests) -> Self {
        Self {
            sha256: digests.sha256,
            md5: digests.md5,
        }
    }
}

/// A task to generate.
#[derive(Debug, clap::Args)]
pub struct Make {
    /// The task
    pub task: TaskName,
    /// The distance that must be attended, in tokens
    #[arg(long, value_name = "N")]
    pub span: usize,
    /// Number of different letters
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub letters: usize,
    /// Length of the training text
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    pub bytes: usize,
    /// Decides what is generated
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The name of the data set; by default TASK-SPAN
    #[arg(long)]
    pub name: Option<String>,
    /// The folder of all data
    #[arg(long, value_name = "DIR", default_value = datasets::DATA_FOLDER)]
    pub data: PathBuf,
}

/// A task as a word of the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum TaskName {
    /// Lines of random letters, each given twice
    Copy,
    /// Lines of keys and values, and a question for one of them
    Recall,
    /// A text that repeats itself at a fixed distance
    Gap,
}

/// Runs the command.
///
/// # Errors
/// When a data set is unknown, damaged, or cannot be written.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    match args.action {
        Action::List => list(app),
        Action::Info { name } => info(&name, app),
        Action::Import {
            name,
            from,
            digests,
            data,
        } => written(datasets::import(&name, &from, &data, &digests.into())?, app),
        Action::Fetch {
            name,
            url,
            digests,
            data,
        } => fetch(&name, url, digests, &data, app),
        Action::Make(make) => self::make(make, app),
        Action::Vocab {
            text,
            size,
            out: file,
        } => vocab(&text, size, &file, app),
        Action::Embed {
            name,
            from,
            out: file,
        } => embed(&name, &from, file.as_deref(), app),
    }
}

fn list(app: &App) -> anyhow::Result<()> {
    let all = datasets::list(Path::new("."));
    if app.json {
        return out::json(&all);
    }
    let row = |info: &Info| {
        let size = info.bytes.or(info.manifest.as_ref().map(|m| m.bytes));
        vec![
            info.name.clone(),
            state(info),
            format::memory(size),
            info.title.clone(),
        ]
    };
    let columns = ["name", "where", "size", "what"];
    let rows = all.iter().map(row).collect();
    out::raw(table::text(&table::table("", &columns, rows)));
    Ok(())
}

/// Where a data set is, or how it gets here.
fn state(info: &Info) -> String {
    match (&info.folder, info.availability) {
        (Some(folder), _) => folder.display().to_string(),
        (None, Availability::Embedded) => "embedded".to_owned(),
        (None, Availability::Importable) => "to import".to_owned(),
        (None, Availability::Fetchable) => "to fetch".to_owned(),
        (None, Availability::Local) => "local".to_owned(),
    }
}

fn info(name: &str, app: &App) -> anyhow::Result<()> {
    let info = datasets::info(name, Path::new("."))?;
    if app.json {
        return out::json(&info);
    }
    let mut facts = vec![
        ("name", info.name.clone()),
        ("what", info.title.clone()),
        ("where", state(&info)),
        ("source", info.source.clone()),
        ("licence", info.licence.clone()),
        ("kind", info.kind.name().to_owned()),
    ];
    if let Some(format) = info.format {
        let name = serde_json::to_value(format)?;
        facts.push(("format", name.as_str().unwrap_or_default().to_owned()));
    }
    facts.push(("split", info.split.clone()));
    if let Some(bytes) = info.bytes {
        facts.push(("bytes", format::count(bytes as f64)));
    }
    if let Some(bytes) = info.download_bytes {
        facts.push(("to download", format::bytes(bytes)));
    }
    if let Some(manifest) = &info.manifest {
        facts.push(("transformation", manifest.transformation.clone()));
        facts.push(("sha256", manifest.sha256.clone()));
        facts.extend(manifest.bounds.map(|bounds| {
            let text = format!(
                "{} after xz -9, {} after gzip -9",
                bounds.xz_bytes, bounds.gzip_bytes
            );
            ("compressed", text)
        }));
    }
    facts.extend(
        info.commands
            .iter()
            .map(|command| ("get it with", command.clone())),
    );
    out::raw(table::facts(&facts));
    Ok(())
}

fn fetch(
    name: &str,
    url: Option<String>,
    digests: Digests,
    data: &Path,
    app: &App,
) -> anyhow::Result<()> {
    let options = FetchOptions {
        url,
        digests: digests.into(),
        ..FetchOptions::default()
    };
    let mut meter = Meter::new();
    let what = format!("fetching {name}");
    let fetched = datasets::fetch(name, data, &options, &mut |progress| {
        let message = || {
            let of = progress
                .total
                .map_or(String::new(), |t| format!(" of {}", format::bytes(t)));
            format!("bytes ({}{of})", format::bytes(progress.done))
        };
        meter.show(&what, progress.done, progress.total, message);
    });
    drop(meter);
    written(fetched?, app)
}

fn make(make: Make, app: &App) -> anyhow::Result<()> {
    let spec = MakeSpec {
        task: match make.task {
            TaskName::Copy => Task::Copy,
            TaskName::Recall => Task::Recall,
            TaskName::Gap => Task::Gap,
        },
        span: make.span,
        letters: make.letters,
        bytes: make.bytes,
        seed: make.seed,
    };
    let name = make.name.unwrap_or_else(|| spec.name());
    if datasets::embedded::manifest(&name).is_some() {
        return Err(usage(format!(
            "`{name}` is embedded data; choose another --name"
        )));
    }
    let folder = spec.write(&make.data, &name)?;
    let manifest = Manifest::of_folder(&folder)?;
    let manifest = manifest.ok_or_else(|| anyhow::anyhow!("{} vanished", folder.display()))?;
    written((folder, manifest), app)
}

fn vocab(text: &str, size: usize, file: &Path, app: &App) -> anyhow::Result<()> {
    let spec = match Path::new(text).exists() {
        true => CorpusSpec::at(text, TextFormat::Bytes),
        false => CorpusSpec::named(text),
    };
    // A byte that train lacks is no obstacle here.
    let spec = CorpusSpec {
        format: Some(TextFormat::Bytes),
        all_bytes: Some(true),
        ..spec
    };
    let corpus = datasets::load(&spec, Path::new("."))?;
    let train = corpus.vocabulary.decode(&corpus.train.tokens)?;
    let valid = corpus.vocabulary.decode_bytes(&corpus.valid.tokens)?;
    let vocabulary = datasets::train_subwords(train.lines(), size)?;
    let tokens = vocabulary.encode(&valid, text)?.len();
    let per_token = valid.len() as f64 / tokens.max(1) as f64;
    std::fs::write(file, vocabulary.to_json())
        .with_context(|| format!("cannot write {}", file.display()))?;
    if app.json {
        return out::json(&json!({
            "written_to": file,
            "tokens": vocabulary.len(),
            "bytes_per_token": per_token,
        }));
    }
    let facts = [
        ("written to", file.display().to_string()),
        ("tokens", format::count(vocabulary.len() as f64)),
        ("bytes per token of valid", format!("{per_token:.2}")),
        (
            "in a recipe",
            format!(
                "\"data\": {{ {}, \"format\": \"subwords\", \"vocab\": {} }}",
                match spec.name {
                    Some(name) => format!("\"name\": \"{name}\""),
                    None => format!("\"path\": {}", json!(text)),
                },
                json!(file)
            ),
        ),
    ];
    out::raw(table::facts(&facts));
    Ok(())
}

fn embed(name: &str, from: &Path, file: Option<&Path>, app: &App) -> anyhow::Result<()> {
    let made = datasets::remake(name, from)?;
    if let Some(file) = file {
        std::fs::write(file, &made.compressed)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let same = made.is_same();
    if app.json {
        return out::json(&json!({
            "name": name,
            "bytes": made.content.len(),
            "sha256": made.sha256,
            "same_content": same,
            "compressed": { "bytes": made.compressed.len(), "sha256": made.compressed_sha256 },
            "written_to": file,
        }));
    }
    let verdict = match same {
        true => "the content that is compiled in".to_owned(),
        false => format!("compiled in is {}", made.manifest.sha256),
    };
    let mut facts = vec![
        ("made", made.manifest.title.clone()),
        ("bytes", format::count(made.content.len() as f64)),
        ("sha256", made.sha256),
        ("compared", verdict),
        (
            "compressed bytes",
            format::count(made.compressed.len() as f64),
        ),
        ("compressed sha256", made.compressed_sha256),
    ];
    facts.extend(file.map(|file| ("written to", file.display().to_string())));
    out::raw(table::facts(&facts));
    Ok(())
}

fn written((folder, manifest): (PathBuf, Manifest), app: &App) -> anyhow::Result<()> {
    if app.json {
        return out::json(&json!({ "folder": folder, "manifest": manifest }));
    }
    let is_model = manifest.kind == Kind::Model;
    let facts = [
        ("written to", folder.display().to_string()),
        ("what", manifest.title.clone()),
        ("bytes", format::count(manifest.bytes as f64)),
        ("sha256", manifest.sha256.clone()),
        match is_model {
            true => (
                "try it",
                format!(
                    "echo '\"a text\"' | cargo xtask predict {}",
                    folder.display()
                ),
            ),
            false => (
                "in a recipe",
                format!("\"data\": {{ \"name\": \"{}\" }}", manifest.name),
            ),
        },
    ];
    out::raw(table::facts(&facts));
    Ok(())
}
