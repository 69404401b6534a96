//! Model folders of Hugging Face's layout.

use crate::config::NystromformerConfig;
use crate::heads::{
    NystromformerForMaskedLm, NystromformerForMultipleChoice, NystromformerForQuestionAnswering,
    NystromformerForSequenceClassification, NystromformerForTokenClassification, PREFIX, Task,
};
use crate::model::NystromformerModel;
use bert::{Error, Result};
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{LoadOptions, NamedTensors};
use std::path::Path;

/// The file that holds the configuration in a model folder.
pub const CONFIG_FILE: &str = "config.json";
/// The file that holds the weights in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// What loading a folder made anew and left aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadNotes {
    /// Tensors of the head that the file lacks: newly initialised, to be trained.
    pub new: Vec<String>,
    /// Tensors of other heads, and buffers, that the model has no use for.
    pub unused: Vec<String>,
}

/// Reads a folder for a class. A folder whose `architectures` names the class must hold all of it; from another a body is
/// taken, and what the head lacks is drawn from `key`.
///
/// # Errors
/// A missing or damaged file, a wrong configuration, and every tensor that is missing, unused or misshapen, by name.
pub fn from_pretrained<T: Task>(
    dir: impl AsRef<Path>,
    key: Key,
    device: &Device,
) -> Result<(T, LoadNotes)> {
    let dir = pretrained::model_folder(dir.as_ref())?;
    let config = NystromformerConfig::from_file(dir.join(CONFIG_FILE))?;
    let file = pretrained::weights_file(&dir)?;
    let tensors = pretrained::read_tensors(&file)?;
    let named = |classes: &Vec<String>| classes.iter().any(|class| class == T::CLASS);
    let complete = config.architectures.as_ref().is_some_and(named);
    from_tensors(&config, tensors, &file, complete, key, device)
}

/// A model with these weights, by upstream names with or without the body's prefix. With `complete` the head must be among
/// them.
///
/// # Errors
/// Every tensor that is missing, unused or misshapen; `file` is named in the message.
pub fn from_tensors<T: Task>(
    config: &NystromformerConfig,
    tensors: NamedTensors,
    file: &Path,
    complete: bool,
    key: Key,
    device: &Device,
) -> Result<(T, LoadNotes)> {
    let mut notes = LoadNotes::default();
    let mut found = NamedTensors::new();
    for (name, data) in tensors {
        let name = canonical(&name, T::PREFIX);
        match is_buffer(&name) {
            true => notes.unused.push(name),
            false => drop(found.insert(name, data)),
        }
    }
    let mut config = config.clone();
    let conv = format!("{}encoder.layer.0.attention.self.conv.weight", T::PREFIX);
    if config.conv_kernel_size.is_none()
        && let Some(&[_, _, size, _]) = found.get(&conv).map(|data| &data.shape()[..])
    {
        config.conv_kernel_size = Some(size);
    }
    if !config.tie_word_embeddings
        && let Some(bias) = found.remove("cls.predictions.decoder.bias")
    {
        // An untied decoder has a bias of its own, and that is the one that counts.
        found.insert("cls.predictions.bias".into(), bias);
    }
    let model = T::new(&config, key, device)?;
    let fresh = pretrained::collect_weights(&model);
    let is_head = |name: &str| !T::PREFIX.is_empty() && !name.starts_with(T::PREFIX);
    let other: Vec<String> = found
        .keys()
        .filter(|name| !fresh.contains_key(*name) && is_foreign(name))
        .cloned()
        .collect();
    for name in other {
        found.remove(&name);
        notes.unused.push(name);
    }
    if !complete {
        for (name, data) in fresh {
            let second_name = name.starts_with("cls.predictions.decoder.")
                && (name.ends_with("bias") || config.tie_word_embeddings);
            if is_head(&name) && !second_name && !found.contains_key(&name) {
                notes.new.push(name.clone());
                found.insert(name, data);
            }
        }
    }
    let (model, _) = pretrained::load_weights(model, found, file, &LoadOptions::default())?;
    notes.unused.sort();
    Ok((model, notes))
}

/// Writes `config.json` and `model.safetensors`, which this crate and Python's transformers read back.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn save_pretrained<T: Task>(model: &T, dir: impl AsRef<Path>) -> Result<()> {
    let mut config = model.body().config().clone();
    config.architectures = Some(vec![T::CLASS.to_owned()]);
    let mut tensors = pretrained::collect_weights(model);
    if config.tie_word_embeddings {
        // Second names of tied tensors: Python's loader ties them again.
        tensors.remove("cls.predictions.decoder.bias");
        tensors.remove("cls.predictions.decoder.weight");
    }
    write_folder(dir.as_ref(), &config, &tensors)
}

pub(crate) fn write_folder(
    dir: &Path,
    config: &impl serde::Serialize,
    tensors: &NamedTensors,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| pretrained::Error::Io {
        path: dir.into(),
        action: "create",
        source,
    })?;
    let json = serde_json::to_string_pretty(config)
        .map_err(|e| bert::config_error(CONFIG_FILE, e, "cannot be written as JSON"))?;
    pretrained::write_safetensors(&dir.join(WEIGHTS_FILE), tensors)?;
    pretrained::write_atomic(&dir.join(CONFIG_FILE), (json + "\n").as_bytes())?;
    Ok(())
}

/// The name in a class whose body's names begin with `prefix`: with or without that prefix in the file, and with the
/// `gamma` and `beta` of old files.
fn canonical(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix("module.").unwrap_or(name);
    let bare = name.strip_prefix(PREFIX).unwrap_or(name);
    let is_body = bare.starts_with("embeddings.") || bare.starts_with("encoder.");
    let name = match is_body {
        true => format!("{prefix}{bare}"),
        false => name.to_owned(),
    };
    for (old, new) in [
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("LayerNorm.beta", "LayerNorm.bias"),
    ] {
        if let Some(begin) = name.strip_suffix(old) {
            return format!("{begin}{new}");
        }
    }
    name
}

fn is_buffer(name: &str) -> bool {
    name.ends_with("embeddings.position_ids") || name.ends_with("embeddings.token_type_ids")
}

/// Whether a tensor belongs to some head, so that a class without it may leave it aside.
fn is_foreign(name: &str) -> bool {
    const HEADS: [&str; 6] = [
        "cls.",
        "classifier.",
        "pre_classifier.",
        "qa_outputs.",
        "pooler.",
        "sen_class.",
    ];
    let bare = name.strip_prefix(PREFIX).unwrap_or(name);
    HEADS.iter().any(|head| bare.starts_with(head))
}

macro_rules! folders {
    ($($class:ty),+) => {$(
        impl $class {
            /// Loads a folder with `config.json` and weights, strictly.
            ///
            /// # Errors
            /// A missing or damaged file, a wrong configuration, and every tensor that is missing, unused or misshapen.
            pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
                let dir = dir.as_ref();
                let (model, notes) = from_pretrained::<Self>(dir, Key::new(0), device)?;
                match notes.new.is_empty() {
                    true => Ok(model),
                    false => Err(Error::Input {
                        input: dir.display().to_string(),
                        found: format!("without {}", notes.new.join(", ")),
                        expected: format!(
                            "expected all tensors of {}; to train a new head on this body, load it with `nystromformer::from_pretrained`",
                            <Self as Task>::CLASS
                        ),
                    }),
                }
            }

            /// Writes `config.json` and `model.safetensors`, which this crate and Python's transformers read back.
            ///
            /// # Errors
            /// A folder or file that cannot be written.
            pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
                save_pretrained(self, dir)
            }
        }
    )+};
}

folders!(
    NystromformerModel,
    NystromformerForMaskedLm,
    NystromformerForSequenceClassification,
    NystromformerForTokenClassification,
    NystromformerForQuestionAnswering,
    NystromformerForMultipleChoice
);

impl NystromformerConfig {
    /// A freshly initialised model of a class, drawn from `key`: weights N(0, `initializer_range`²), biases 0.
    ///
    /// # Errors
    /// A configuration that [`NystromformerConfig::validate`] refuses.
    pub fn init<T: Task>(&self, key: Key, device: &Device) -> Result<T> {
        T::new(self, key, device)
    }
}
