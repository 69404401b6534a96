//! Model folders: the published names, and plain classifiers whose off-ramps are new.

use crate::config::DeeBertConfig;
use crate::model::DeeBertForSequenceClassification;
use bert::{
    BertClass, BertConfig, BertModel, CONFIG_FILE, Checkpoint, LoadReport, Result, Variant,
    WEIGHTS_FILE, class_name, config_error,
};
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::NamedTensors;
use serde_json::Value;
use std::path::Path;

/// What every off-ramp's tensor names contain.
pub(crate) const HIGHWAY: &str = "encoder.highway.";

impl BertClass for DeeBertForSequenceClassification {
    // Its files hold the plain classifier, which other programs load by this name.
    const CLASS: &'static str = "ForSequenceClassification";

    fn create(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        DeeBertConfig::from_bert(config.clone(), Path::new(CONFIG_FILE))?.init(key, device)
    }

    fn body(&self) -> &BertModel {
        &self.bert
    }

    fn body_mut(&mut self) -> &mut BertModel {
        &mut self.bert
    }
}

/// Reads `config.json` and the weights of a folder, or of a published model with the feature `hub`. Files of 2019 name neither model nor class: the tensors tell.
///
/// # Errors
/// Files that are missing or damaged, and a configuration that is not supported.
pub fn open_checkpoint(dir: impl AsRef<Path>) -> Result<Checkpoint> {
    let dir = pretrained::model_folder(dir.as_ref())?;
    let config_file = dir.join(CONFIG_FILE);
    let config: Value = pretrained::read_json(&config_file)?;
    let file = pretrained::weights_file(&dir)?;
    let tensors = pretrained::read_tensors(&file)?;
    checkpoint_of(config, &config_file, tensors, &file)
}

/// The same from what was read already; the files are only named in errors.
///
/// # Errors
/// A configuration that is not supported.
pub fn checkpoint_of(
    mut config: Value,
    config_file: &Path,
    tensors: NamedTensors,
    file: &Path,
) -> Result<Checkpoint> {
    let named = config.get("model_type").is_some_and(|v| !v.is_null());
    if let (false, Some(map)) = (named, config.as_object_mut()) {
        // A class such as `DeeRobertaForSequenceClassification` does not begin with the variant's name.
        let roberta = tensors.keys().any(|n| n.contains("roberta."));
        let name = if roberta { "roberta" } else { "bert" };
        map.insert("model_type".into(), name.into());
    }
    Checkpoint::new(config, config_file, tensors, file)
}

impl DeeBertForSequenceClassification {
    /// Loads a folder: a DeeBERT as it was published or saved here, or a plain classifier or encoder, which gets new off-ramps.
    ///
    /// # Errors
    /// Files that are missing or damaged, a configuration that is not supported, and every tensor that does not fit.
    pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Ok(Self::from_checkpoint(open_checkpoint(dir)?, Key::new(0), device)?.0)
    }

    /// Loads a checkpoint, telling what was made up and what was left aside.
    ///
    /// A file with off-ramps must hold the whole model. In one without, the off-ramps' poolers become copies of the encoder's, and
    /// their classifiers are drawn from `key`; so is a final classifier that the file lacks. The two maps of Hugging Face's RoBERTa
    /// classifier are taken for pooler and classifier, which compute the same.
    ///
    /// # Errors
    /// Every tensor that is missing, unused or misshapen, by name.
    pub fn from_checkpoint(
        mut checkpoint: Checkpoint,
        key: Key,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        let variant = checkpoint.config.variant()?;
        if variant == Variant::Roberta {
            without_other_pooler(&mut checkpoint.tensors);
        }
        let complete = checkpoint.tensors.keys().any(|n| n.contains(HIGHWAY));
        let last = checkpoint.config.num_hidden_layers.saturating_sub(1);
        // What a file may lack: everything in one without off-ramps, else only the one that never answers.
        let may_lack = match complete {
            true => format!("{HIGHWAY}{last}."),
            false => HIGHWAY.to_owned(),
        };
        if complete {
            let class = class_name::<Self>(&checkpoint.config);
            checkpoint.config.architectures = Some(vec![class]);
        }
        let fresh = Self::create(&checkpoint.config, key, device)?;
        let held = |wanted: &str, tensors: &NamedTensors| {
            let bare = wanted.strip_prefix(variant.prefix()).unwrap_or(wanted);
            tensors.keys().any(|name| name.ends_with(bare))
        };
        let mut new = vec![];
        for (name, data) in pretrained::collect_weights(&fresh) {
            if name.contains(&may_lack) && !held(&name, &checkpoint.tensors) {
                checkpoint.tensors.insert(name.clone(), data);
                new.push(name);
            }
        }
        let (mut model, mut report) = bert::load::<Self>(checkpoint, key, device)?;
        if !complete {
            model = model.with_copied_poolers();
        }
        report.new.extend(new);
        report.new.sort();
        Ok((model, report))
    }

    /// Writes `config.json` and `model.safetensors` under the published names.
    ///
    /// Python's transformers loads the folder as the plain classifier, with the final classifier's scores. RoBERTa's pooler and
    /// classifier are written under Hugging Face's names as well, which are others.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(|source| pretrained::Error::Io {
            path: dir.into(),
            action: "create",
            source,
        })?;
        let mut config = self.config().clone();
        config.bert.architectures = Some(vec![class_name::<Self>(&config.bert)]);
        for key in ["dtype", "torch_dtype"] {
            // The weights are written as f32, whatever they were read as.
            if let Some(value) = config.bert.extra.get_mut(key) {
                *value = "float32".into();
            }
        }
        let json = serde_json::to_string_pretty(&config)
            .map_err(|e| config_error(CONFIG_FILE, e, "cannot be written as JSON"))?;
        let weights = pretrained::collect_weights(self);
        pretrained::write_safetensors(&dir.join(WEIGHTS_FILE), &weights)?;
        pretrained::write_atomic(&dir.join(CONFIG_FILE), (json + "\n").as_bytes())?;
        Ok(())
    }
}

/// Drops a pooler beside Hugging Face's classifier, whose own first map takes the pooler's place: it was not trained with it.
fn without_other_pooler(tensors: &mut NamedTensors) {
    let has = |end: &str| {
        tensors
            .keys()
            .any(|n| n.ends_with(end) && !n.contains(HIGHWAY))
    };
    if has("classifier.out_proj.weight") && !has("classifier.weight") {
        tensors.retain(|name, _| !name.contains("pooler.dense.") || name.contains(HIGHWAY));
    }
}
