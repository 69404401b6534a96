//! Model folders and published checkpoints, as the tools use them.

use crate::auto::AnyBert;
use crate::predict::answer_within;
use crate::sentence::{Pooling, longest_sentence, pooling_of};
use crate::tokenizer::{BertTokenizer, TOKENIZER_FILE, VOCAB_FILE, tokenizer_files};
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
    /// Longest input that the folder asks for, where it does.
    longest: Option<usize>,
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
        Self::of(checkpoint, None, dir, device)
    }

    fn of(checkpoint: Checkpoint, head: Option<&str>, dir: &Path, device: &Device) -> Result<Self> {
        let (model, report) = AnyBert::complete(checkpoint, head, device).map_err(Error::other)?;
        let inner = pretrained::model_folder(dir)?;
        let mut files = tokenizer_files(&inner).map_err(Error::other)?;
        for name in SENTENCE_FILES {
            let file = match dir.join(name) {
                outer if outer.is_file() => outer,
                _ => inner.join(name),
            };
            if file.is_file() {
                let bytes = std::fs::read(&file).map_err(|source| Error::Io {
                    action: "read",
                    path: file,
                    source,
                })?;
                files.push((name, flattened(name, bytes)));
            }
        }
        let mut folder = Self {
            model,
            tokenizer: BertTokenizer::from_folder(&inner).map_err(|e| e.to_string()),
            pooling: pooling_of(dir).map_err(Error::other)?,
            longest: longest_sentence(&inner).map_err(Error::other)?,
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
        let inner = pretrained::model_folder(&dir)?;
        let config_file = from
            .config
            .clone()
            .unwrap_or_else(|| inner.join(CONFIG_FILE));
        let config: Value = pretrained::read_json(&config_file)?;
        let file = match from.checkpoint.is_dir() {
            true => pretrained::weights_file(&inner)?,
            false => from.checkpoint.clone(),
        };
        let mut tensors = pretrained::read_tensors(&file)?;
        tensors.retain(|name, _| !from.ignore.iter().any(|rule| matches(rule, name)));
        let checkpoint =
            Checkpoint::new(config, &config_file, tensors, &file).map_err(Error::other)?;
        let mut folder = Self::of(checkpoint, from.head.as_deref(), &dir, device)?;
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

/// A folder is written flat: the weights of a sentence-transformers folder lie beside its `modules.json`.
fn flattened(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    if name != "modules.json" {
        return bytes;
    }
    let Ok(mut modules) = serde_json::from_slice::<Vec<Value>>(&bytes) else {
        return bytes;
    };
    for module in &mut modules {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or("");
        if kind.ends_with(".Transformer") {
            module["path"] = "".into();
        }
    }
    serde_json::to_vec_pretty(&modules).unwrap_or(bytes)
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
        answer_within(&self.model, tokenizer, self.pooling, self.longest, input)
            .map_err(Error::other)
    }
}
