//! Model folders and published checkpoints, as the tools use them.

use crate::auto::{AnyBert, class_of};
use crate::predict::answer;
use crate::sentence::{Pooling, pooling_of};
use crate::tokenizer::{BertTokenizer, TOKENIZER_FILE, TOKENIZER_FILES, VOCAB_FILE};
use crate::weights::{CONFIG_FILE, Checkpoint, LoadReport};
use burn::prelude::*;
use pretrained::NamedTensors;
use serde_json::Value;
use std::path::Path;
use trainer::{Conversion, Error, Predict, Pretrained, Result};

/// Files of a sentence-transformers folder that travel with the weights.
const SENTENCE_FILES: [&str; 4] = [
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// A model of any class with its tokenizer, where there is one.
pub struct Folder {
    pub(crate) model: AnyBert,
    /// Why there is no tokenizer, where there is none.
    pub(crate) tokenizer: std::result::Result<BertTokenizer, String>,
    pub(crate) pooling: Pooling,
    report: LoadReport,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Folder {
    /// Opens a model folder as the class that its `architectures` names.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir).map_err(Error::other)?;
        Self::of(checkpoint, dir, device)
    }

    fn of(checkpoint: Checkpoint, dir: &Path, device: &Device) -> Result<Self> {
        let class = class_of(&checkpoint.config, checkpoint.tensors.keys());
        let (model, report) =
            AnyBert::from_checkpoint(checkpoint, &class, device).map_err(Error::other)?;
        let mut files = vec![];
        for name in TOKENIZER_FILES.into_iter().chain(SENTENCE_FILES) {
            let file = dir.join(name);
            if file.is_file() {
                let bytes = std::fs::read(&file).map_err(|source| Error::Io {
                    action: "read",
                    path: file,
                    source,
                })?;
                files.push((name, bytes));
            }
        }
        let mut folder = Self {
            model,
            tokenizer: BertTokenizer::from_folder(dir).map_err(|e| e.to_string()),
            pooling: pooling_of(dir).map_err(Error::other)?,
            report,
            files,
        };
        folder.check_vocabulary(dir)?;
        Ok(folder)
    }

    fn check_vocabulary(&mut self, dir: &Path) -> Result<()> {
        let rows = self.model.body().config().vocab_size;
        match &self.tokenizer {
            Ok(tokenizer) if tokenizer.vocab_size() > rows => Err(Error::value(
                format!("the vocabulary of {}", dir.display()),
                format!("{} entries", tokenizer.vocab_size()),
                format!(
                    "at most the model's vocab_size = {rows}; the tokenizer belongs to another model"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Reads a published checkpoint: a folder, or a weights file with its `config.json`.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn convert(from: &Conversion, device: &Device) -> Result<Self> {
        let dir = match from.checkpoint.is_dir() {
            true => from.checkpoint.clone(),
            false => from.checkpoint.parent().unwrap_or(Path::new("")).to_owned(),
        };
        let config_file = from.config.clone().unwrap_or_else(|| dir.join(CONFIG_FILE));
        let config: Value = pretrained::read_json(&config_file)?;
        let mut tensors = pretrained::read_tensors(&from.checkpoint)?;
        tensors.retain(|name, _| !from.ignore.iter().any(|rule| matches(rule, name)));
        let checkpoint = Checkpoint::new(config, &config_file, tensors, &from.checkpoint)
            .map_err(Error::other)?;
        let mut folder = Self::of(checkpoint, &dir, device)?;
        if let Some(vocab) = &from.vocab {
            let json = vocab.extension().is_some_and(|e| e == "json");
            let (name, tokenizer) = match json {
                true => (TOKENIZER_FILE, BertTokenizer::from_json_file(vocab)),
                false => (
                    VOCAB_FILE,
                    BertTokenizer::from_vocab_file(vocab, Default::default()),
                ),
            };
            folder.tokenizer = Ok(tokenizer.map_err(Error::other)?);
            let bytes = std::fs::read(vocab).map_err(|source| Error::Io {
                action: "read",
                path: vocab.clone(),
                source,
            })?;
            folder.files.retain(|(other, _)| *other != name);
            folder.files.push((name, bytes));
            folder.check_vocabulary(vocab)?;
        }
        Ok(folder)
    }

    /// The model.
    pub fn model(&self) -> &AnyBert {
        &self.model
    }
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => rule == name,
    }
}

/// Whether a folder with this configuration and these tensors is one of this architecture.
pub(crate) fn claims(config: &Value, tensors: &[String]) -> bool {
    let words = "embeddings.word_embeddings.weight";
    let body = tensors.iter().any(|name| {
        let name = name.strip_prefix("module.").unwrap_or(name);
        let prefixes = ["", "bert.", "roberta."];
        prefixes
            .iter()
            .any(|p| name.strip_prefix(p).is_some_and(|rest| rest == words))
    });
    // Early exits make it another architecture's.
    let exits = tensors.iter().any(|name| name.contains("highway"));
    let named = match config.get("model_type").and_then(Value::as_str) {
        Some(name) => matches!(name, "bert" | "roberta"),
        None => true,
    };
    body && named && !exits
}

impl Pretrained for Folder {
    /// See [`AnyBert::forward`].
    fn forward(&mut self, inputs: NamedTensors) -> Result<NamedTensors> {
        self.model.forward(inputs).map_err(Error::other)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.model.save_pretrained(dir).map_err(Error::other)?;
        for (name, bytes) in &self.files {
            let file = dir.join(name);
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent).map_err(|source| Error::Io {
                    action: "create",
                    path: parent.into(),
                    source,
                })?;
            }
            pretrained::write_atomic(&file, bytes)?;
        }
        Ok(())
    }

    fn describe(&self) -> Vec<(String, String)> {
        let c = self.model.body().config();
        let variant = c.variant().map_or("Bert", |v| v.class_prefix());
        let mut all = vec![
            ("class", format!("{variant}{}", self.model.class())),
            ("parameters", self.model.num_params().to_string()),
            ("layers", c.num_hidden_layers.to_string()),
            ("heads", c.num_attention_heads.to_string()),
            ("hidden size", c.hidden_size.to_string()),
            (
                "longest input",
                format!("{} positions", c.max_position_embeddings),
            ),
            (
                "tokenizer",
                match &self.tokenizer {
                    Ok(t) => format!("{} entries", t.vocab_size()),
                    Err(_) => "none beside the weights: ids in, scores out".into(),
                },
            ),
        ];
        for (what, names) in [
            ("new tensors", &self.report.new),
            ("unused tensors", &self.report.unused),
        ] {
            if !names.is_empty() {
                all.push((what, names.join(", ")));
            }
        }
        let owned = all
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        owned.collect()
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for Folder {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        let tokenizer = self
            .tokenizer
            .as_ref()
            .map_err(|reason| Error::value("the model's tokenizer", "absent", reason.clone()))?;
        answer(&self.model, tokenizer, self.pooling, input).map_err(Error::other)
    }
}
