//! Published models, downloaded once and kept where Python's tools keep them.
//!
//! `HF_HOME` says where (by default `~/.cache/huggingface`), `HF_ENDPOINT` from which server, and with `HF_HUB_OFFLINE=1`
//! nothing is downloaded.

use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo};

use crate::error::{Error, Result, shortened};
use crate::place::Download;

/// Weights, the preferred kind first: the file, or the index of the shards whose names begin so.
const WEIGHTS: [(&str, &str, &str); 2] = [
    (
        "model.safetensors",
        "model.safetensors.index.json",
        "model-",
    ),
    (
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-",
    ),
];

/// What else belongs to a model, where it is published.
const OTHERS: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "generation_config.json",
];

/// The folder of the published model `name`, downloaded unless it is here already.
pub(crate) fn fetch(name: &str, progress: &mut dyn FnMut(Download<'_>)) -> Result<PathBuf> {
    let failed = |message: String| Error::Hub {
        name: name.to_owned(),
        message: shortened(message),
    };
    if std::env::var_os("HF_HOME").is_none() && std::env::home_dir().is_none() {
        let message = "there is no home folder to keep it in; set HF_HOME to a folder";
        return Err(failed(message.into()));
    }
    let cache = Cache::from_env();
    let here = cache.repo(Repo::model(name.to_owned()));
    if let Some(folder) = complete(&here) {
        return Ok(folder);
    }
    if is_offline() {
        return Err(failed(format!(
            "it is not in {} and HF_HUB_OFFLINE forbids to download it; unset that, or give a folder",
            cache.path().display()
        )));
    }
    let mut builder = ApiBuilder::from_env().with_progress(false);
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let remedy = "check the name and the connection, or download the files by other means and give their folder";
    let api = builder.build().map_err(|e| failed(e.to_string()))?;
    let there = api.model(name.to_owned());
    let listed = there.info().map_err(|e| failed(format!("{e}; {remedy}")))?;
    let names: Vec<String> = listed.siblings.into_iter().map(|s| s.rfilename).collect();
    let has = |file: &str| names.iter().any(|name| name == file);
    if !has("config.json") {
        let message = "it holds no config.json, so it is no model that can be loaded here";
        return Err(failed(message.into()));
    }
    let mut wanted: Vec<&str> = vec!["config.json"];
    wanted.extend(OTHERS.into_iter().filter(|file| has(file)));
    let weights = WEIGHTS.iter().find_map(|(file, index, beginning)| {
        if has(file) {
            return Some(vec![*file]);
        }
        let shards = || names.iter().map(String::as_str);
        let ending = &file[file.rfind('.').unwrap_or(0)..];
        let shards = shards().filter(|name| name.starts_with(beginning) && name.ends_with(ending));
        has(index).then(|| shards.chain([*index]).collect())
    });
    let Some(weights) = weights else {
        let message = "it holds neither safetensors nor a torch file; convert it with the library it was written by";
        return Err(failed(message.into()));
    };
    wanted.extend(weights);
    for file in wanted {
        download(&there, &here, file, progress)
            .map_err(|e| failed(format!("{file}: {e}; {remedy}")))?;
    }
    complete(&here).ok_or_else(|| failed("the download is not complete; run it again".into()))
}

fn is_offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "yes" | "on"
    )
}

/// The folder in the cache, if its configuration and weights are all there.
fn complete(here: &CacheRepo) -> Option<PathBuf> {
    let config = here.get("config.json")?;
    let folder = config.parent()?.to_path_buf();
    let whole = WEIGHTS.iter().any(|(file, index, _)| {
        here.get(file).is_some() || here.get(index).is_some_and(|index| shards_are_here(&index))
    });
    whole.then_some(folder)
}

fn shards_are_here(index: &Path) -> bool {
    let value: Option<serde_json::Value> = crate::json::read_json(index).ok();
    let map = value
        .as_ref()
        .and_then(|v| v.get("weight_map")?.as_object());
    let folder = index.parent().unwrap_or(Path::new(""));
    map.is_some_and(|map| {
        let mut shards = map.values().filter_map(serde_json::Value::as_str);
        shards.all(|shard| folder.join(shard).is_file())
    })
}

fn download(
    there: &ApiRepo,
    here: &CacheRepo,
    file: &str,
    progress: &mut dyn FnMut(Download<'_>),
) -> std::result::Result<PathBuf, hf_hub::api::sync::ApiError> {
    if let Some(path) = here.get(file) {
        return Ok(path);
    }
    let shown = Shown {
        tell: progress,
        file,
        done: 0,
        total: 0,
    };
    there.download_with_progress(file, shown)
}

/// Hands on how far a file has come.
struct Shown<'a> {
    tell: &'a mut dyn FnMut(Download<'_>),
    file: &'a str,
    done: u64,
    total: u64,
}

impl Shown<'_> {
    fn tell(&mut self) {
        (self.tell)(Download {
            file: self.file,
            done: self.done,
            total: self.total,
        });
    }
}

impl Progress for Shown<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.total) = (0, size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        self.tell();
    }

    fn finish(&mut self) {
        self.done = self.total;
        self.tell();
    }
}
