//! Hugging Face's tensor names and model folders.

use crate::classes::{
    BertForMaskedLm, BertForMultipleChoice, BertForNextSentencePrediction, BertForPreTraining,
    BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
};
use crate::config::{BertConfig, Variant};
use crate::error::{Result, config_error};
use crate::model::BertModel;
use burn::module::Param;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{Binder, LoadOptions, NamedTensors, Weights};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The file that holds the weights in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The file that holds the configuration in a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// What loading made up and what it left aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors of the head (or the pooler) that the file lacks and that start at random values, sorted.
    pub new: Vec<String>,
    /// Tensors of the file that the model does not use: buffers, the pooler, other heads; sorted.
    pub unused: Vec<String>,
}

/// What a model folder holds, before it is a model.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The configuration, its `model_type` filled in from the tensors' names where the file has none.
    pub config: BertConfig,
    /// The tensors under the file's names.
    pub tensors: NamedTensors,
    /// The weights file, named in errors.
    pub file: PathBuf,
}

impl Checkpoint {
    /// Reads `config.json` and the weights of a folder: safetensors, their index with shards, or a torch file. With the
    /// feature `hub` the name of a published model does as well.
    ///
    /// # Errors
    /// Files that are missing or damaged, and a configuration that is not supported.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = pretrained::model_folder(dir.as_ref())?;
        let config_file = dir.join(CONFIG_FILE);
        let config: Value = pretrained::read_json(&config_file)?;
        let file = pretrained::weights_file(&dir)?;
        Self::new(
            config,
            &config_file,
            pretrained::read_tensors(&file)?,
            &file,
        )
    }

    /// The same from a configuration and tensors already read; the files are only named in errors.
    ///
    /// # Errors
    /// A configuration that is not supported.
    pub fn new(
        mut config: Value,
        config_file: &Path,
        tensors: NamedTensors,
        file: &Path,
    ) -> Result<Self> {
        let known = |key: &str| config.get(key).is_some_and(|v| !v.is_null());
        if !known("model_type") && !known("architectures") {
            let roberta = tensors.keys().any(|n| n.starts_with("roberta."));
            if let Some(map) = config.as_object_mut() {
                let name = if roberta { "roberta" } else { "bert" };
                map.insert("model_type".into(), name.into());
            }
        }
        let mut config = BertConfig::from_value(config, config_file)?;
        config.model_type = Some(match config.variant()? {
            Variant::Bert => "bert".into(),
            Variant::Roberta => "roberta".into(),
        });
        Ok(Self {
            config,
            tensors,
            file: file.into(),
        })
    }

    /// The tensors under the names of today: `LayerNorm.gamma` is `LayerNorm.weight`, nothing begins with `module.`, and
    /// the body's names begin with `prefix`, which may be empty.
    fn renamed(self, prefix: &str) -> Result<NamedTensors> {
        let own = self.config.variant()?.prefix();
        let mut all = NamedTensors::new();
        for (name, data) in self.tensors {
            let name = name.strip_prefix("module.").unwrap_or(&name);
            let name = match (
                name.strip_suffix("LayerNorm.gamma"),
                name.strip_suffix("LayerNorm.beta"),
            ) {
                (Some(start), _) => format!("{start}LayerNorm.weight"),
                (_, Some(start)) => format!("{start}LayerNorm.bias"),
                _ => name.to_owned(),
            };
            let bare = name.strip_prefix(own).unwrap_or(&name);
            let name = match BODY.iter().any(|part| bare.starts_with(part)) {
                true => format!("{prefix}{bare}"),
                false => name,
            };
            if all.contains_key(&name) {
                return Err(pretrained::Error::Tensors {
                    file: self.file,
                    problems: vec![pretrained::TensorProblem::Duplicate {
                        other: name.clone(),
                        name,
                    }],
                }
                .into());
            }
            all.insert(name, data);
        }
        Ok(all)
    }
}

/// The first parts of the body's names.
const BODY: [&str; 3] = ["embeddings.", "encoder.", "pooler."];

/// First parts of names that belong to some head, so that a model with another head may leave them aside.
const HEADS: [&str; 5] = ["cls.", "lm_head.", "classifier.", "qa_outputs.", "pooler."];

/// Buffers that follow from the configuration.
const BUFFERS: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

/// A model class that can be loaded from a folder and saved into one.
pub trait BertClass: Weights {
    /// The class's name without `Bert` or `Roberta`: `ForMaskedLM`.
    const CLASS: &'static str;

    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that does not fit the class.
    fn create(config: &BertConfig, key: Key, device: &Device) -> Result<Self>;

    /// The body.
    fn body(&self) -> &BertModel;

    /// The body, to be changed.
    fn body_mut(&mut self) -> &mut BertModel;

    /// The beginning of the body's names in this class's files.
    fn prefix(config: &BertConfig) -> &'static str {
        config.variant().unwrap_or(Variant::Bert).prefix()
    }

    /// Whether a file without a pooler is complete.
    const POOLER_MAY_LACK: bool = false;

    /// Takes the pooler away.
    fn without_pooler(self) -> Self {
        self
    }
}

/// The name of a class with its variant: `RobertaForMaskedLM`.
pub fn class_name<M: BertClass>(config: &BertConfig) -> String {
    let variant = config.variant().unwrap_or(Variant::Bert);
    format!("{}{}", variant.class_prefix(), M::CLASS)
}

/// Builds a model from a checkpoint.
///
/// Where `architectures` names this very class, every tensor must be there; else a head or pooler that is missing starts
/// at random values drawn from `key`. A missing tensor of embeddings or layers is an error always, and so is one that is
/// neither the model's nor a buffer nor of another head.
///
/// # Errors
/// Every tensor that is missing, unused or misshapen, by name.
pub fn load<M: BertClass>(
    checkpoint: Checkpoint,
    key: Key,
    device: &Device,
) -> Result<(M, LoadReport)> {
    let config = checkpoint.config.clone();
    let file = checkpoint.file.clone();
    let named = config.architectures.iter().flatten();
    let strict = named.into_iter().any(|n| *n == class_name::<M>(&config));
    let prefix = M::prefix(&config);
    let mut tensors = checkpoint.renamed(prefix)?;

    let mut model = M::create(&config, key, device)?;
    let pooler = format!("{prefix}pooler.");
    if M::POOLER_MAY_LACK && !tensors.keys().any(|n| n.starts_with(&pooler)) {
        model = model.without_pooler();
    }
    if !config.tie_word_embeddings {
        // Files of untied models may hold both biases; the decoder's is the one that counts.
        for (own, other) in [
            ("cls.predictions.bias", "cls.predictions.decoder.bias"),
            ("lm_head.bias", "lm_head.decoder.bias"),
        ] {
            if let Some(data) = tensors.remove(other) {
                tensors.insert(own.into(), data);
            }
        }
    }

    let mut names = Names::default();
    model.bind(&mut names);
    let mut report = LoadReport::default();
    let aside = |name: &str| {
        let bare = name.strip_prefix(prefix).unwrap_or(name);
        BUFFERS.contains(&bare) || HEADS.iter().any(|head| bare.starts_with(head))
    };
    let unexpected: Vec<String> = tensors
        .keys()
        .filter(|n| !names.params.contains(*n) && !names.is_alias(n) && aside(n))
        .cloned()
        .collect();
    for name in unexpected {
        tensors.remove(&name);
        report.unused.push(name);
    }
    if !strict {
        let missing: Vec<&String> = names
            .params
            .iter()
            .filter(|n| !tensors.contains_key(*n) && aside(n))
            .filter(|n| !names.aliases_of(n).any(|a| tensors.contains_key(a)))
            .collect();
        if !missing.is_empty() {
            let fresh = pretrained::collect_weights(&model);
            for name in missing {
                if let Some(data) = fresh.get(name) {
                    tensors.insert(name.clone(), data.clone());
                    report.new.push(name.clone());
                }
            }
        }
    }
    let (model, _) = pretrained::load_weights(model, tensors, &file, &LoadOptions::default())?;
    Ok((model, report))
}

/// The names of a model's tensors.
#[derive(Default)]
struct Names {
    params: BTreeSet<String>,
    aliases: Vec<(String, String)>,
}

impl Names {
    fn is_alias(&self, name: &str) -> bool {
        self.aliases.iter().any(|(alias, _)| alias == name)
    }

    fn aliases_of<'a>(&'a self, of: &'a str) -> impl Iterator<Item = &'a String> {
        let own = self.aliases.iter().filter(move |(_, o)| o == of);
        own.map(|(alias, _)| alias)
    }
}

impl Binder for Names {
    fn param<const D: usize>(&mut self, name: &str, _param: &mut Param<Tensor<D>>) {
        self.params.insert(name.into());
    }

    fn linear(&mut self, name: &str, _param: &mut Param<Tensor<2>>) {
        self.params.insert(name.into());
    }

    fn derived(&mut self, name: &str, _value: &dyn Fn() -> TensorData) {
        self.aliases.push((name.into(), String::new()));
    }

    fn alias(&mut self, name: &str, of: &str) {
        self.aliases.push((name.into(), of.into()));
    }
}

/// The tensors of a model as Python saves them: a tied decoder is left out.
pub fn saved_tensors<M: BertClass>(model: &M) -> NamedTensors {
    let mut tensors = pretrained::collect_weights(model);
    if model.body().config.tie_word_embeddings {
        let mut names = Names::default();
        model.clone().bind(&mut names);
        for (alias, _) in &names.aliases {
            tensors.remove(alias);
        }
    }
    tensors
}

/// Writes `config.json` and `model.safetensors`, which this crate and Python's transformers load again.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn save<M: BertClass>(model: &M, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| pretrained::Error::Io {
        path: dir.into(),
        action: "create",
        source,
    })?;
    let mut config = model.body().config.clone();
    config.architectures = Some(vec![class_name::<M>(&config)]);
    for key in ["dtype", "torch_dtype"] {
        // The weights are written as f32, whatever they were read as.
        if let Some(value) = config.extra.get_mut(key) {
            *value = "float32".into();
        }
    }
    let json = serde_json::to_string_pretty(&config)
        .map_err(|e| config_error("model_type", e, "cannot be written as JSON"))?;
    pretrained::write_safetensors(&dir.join(WEIGHTS_FILE), &saved_tensors(model))?;
    pretrained::write_atomic(&dir.join(CONFIG_FILE), (json + "\n").as_bytes())?;
    Ok(())
}

macro_rules! class {
    ($model:ident, $name:literal, |$config:ident, $key:ident, $device:ident| $create:expr, $body:ident $(, { $($extra:tt)* })?) => {
        impl BertClass for $model {
            const CLASS: &'static str = $name;

            fn create($config: &BertConfig, $key: Key, $device: &Device) -> Result<Self> {
                $create
            }

            fn body(&self) -> &BertModel {
                class!(@body self $body)
            }

            fn body_mut(&mut self) -> &mut BertModel {
                class!(@body_mut self $body)
            }

            $($($extra)*)?
        }

        impl $model {
            /// Loads a folder with `config.json` and weights as Python's transformers writes it.
            ///
            /// # Errors
            /// Files that are missing or damaged, a configuration that is not supported, and every tensor that is missing,
            /// unused or misshapen, by name.
            pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
                Ok(load(Checkpoint::open(dir)?, Key::new(0), device)?.0)
            }

            /// Loads a checkpoint, telling what was made up and what was left aside: see [`load`].
            ///
            /// # Errors
            /// Every tensor that is missing, unused or misshapen, by name.
            pub fn from_checkpoint(
                checkpoint: Checkpoint,
                key: Key,
                device: &Device,
            ) -> Result<(Self, LoadReport)> {
                load(checkpoint, key, device)
            }

            /// Writes `config.json` and `model.safetensors`, which this crate and Python's transformers load again.
            ///
            /// # Errors
            /// A folder or file that cannot be written.
            pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
                save(self, dir.as_ref())
            }
        }
    };
    (@body $self:ident itself) => { $self };
    (@body $self:ident $field:ident) => { &$self.$field };
    (@body_mut $self:ident itself) => { $self };
    (@body_mut $self:ident $field:ident) => { &mut $self.$field };
}

class!(
    BertModel,
    "Model",
    |config, key, device| Self::new(config, true, key, device),
    itself,
    {
        const POOLER_MAY_LACK: bool = true;

        fn prefix(_config: &BertConfig) -> &'static str {
            ""
        }

        fn without_pooler(mut self) -> Self {
            self.pooler = None;
            self
        }
    }
);
class!(
    BertForMaskedLm,
    "ForMaskedLM",
    |config, key, device| Self::new(config, key, device),
    bert
);
class!(
    BertForPreTraining,
    "ForPreTraining",
    |config, key, device| Self::new(config, key, device),
    bert
);
class!(
    BertForSequenceClassification,
    "ForSequenceClassification",
    |config, key, device| Self::new(config, key, device),
    bert
);
class!(
    BertForTokenClassification,
    "ForTokenClassification",
    |config, key, device| Self::new(config, key, device),
    bert
);
class!(
    BertForQuestionAnswering,
    "ForQuestionAnswering",
    |config, key, device| Self::new(config, key, device),
    bert
);
class!(
    BertForMultipleChoice,
    "ForMultipleChoice",
    |config, key, device| Self::new(config, key, device),
    bert
);
class!(
    BertForNextSentencePrediction,
    "ForNextSentencePrediction",
    |config, key, device| Self::new(config, key, device),
    bert
);
