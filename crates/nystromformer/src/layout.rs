//! Any checkpoint this crate knows, brought into Hugging Face's layout.

use crate::config::NystromformerConfig;
use crate::names;
use crate::pretraining::PreTrainingConfig;
use crate::weights::CONFIG_FILE;
use bert::{Result, config_error};
use burn::tensor::TensorData;
use pretrained::NamedTensors;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Configuration and weights in Hugging Face's layout.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The configuration.
    pub config: NystromformerConfig,
    /// The tensors by Hugging Face's names.
    pub tensors: NamedTensors,
    /// Tensors of the source that have no place in this layout.
    pub left_aside: Vec<String>,
    /// Where the tensors are from, for messages.
    pub file: PathBuf,
}

impl Checkpoint {
    /// Reads a model folder: Hugging Face's, the official pre-training code's, or a BERT's, which becomes a model in full mode
    /// with the same hidden states.
    ///
    /// # Errors
    /// Files that are missing or damaged, a configuration that is not supported, and tensors without a place.
    pub fn open(dir: &Path) -> Result<Self> {
        let config_file = dir.join(CONFIG_FILE);
        let config: Value = pretrained::read_json(&config_file)?;
        let file = pretrained::weights_file(dir)?;
        let tensors = pretrained::read_tensors(&file)?;
        Self::new(config, tensors, &config_file, &file)
    }

    /// As [`Checkpoint::open`], of what has been read already; `config_file` and `file` are named in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn new(
        config: Value,
        tensors: NamedTensors,
        config_file: &Path,
        file: &Path,
    ) -> Result<Self> {
        let kind = config.get("model_type").and_then(Value::as_str);
        let is_bert = kind == Some("bert")
            || kind.is_none() && tensors.keys().any(|name| name.starts_with("bert."));
        if is_bert {
            let (config, tensors, left_aside) = names::from_bert(&config, tensors)?;
            return Ok(Self {
                config,
                tensors,
                left_aside,
                file: file.into(),
            });
        }
        let (config, shared) = match kind {
            Some("efficient_attention") => {
                let config: PreTrainingConfig = pretrained::parse_value(config, config_file, "")?;
                (config.to_hugging_face()?, config.shared_weight)
            }
            _ => (NystromformerConfig::from_value(config, config_file)?, false),
        };
        let (mut tensors, mut left_aside) = (tensors, vec![]);
        if names::is_official(tensors.keys().map(String::as_str)) {
            (tensors, left_aside) = names::from_official(tensors)?;
            if position_rows(&tensors) == Some(config.max_position_embeddings) {
                names::shift_positions(&mut tensors)?;
            }
            if shared {
                repeat_first_layer(&mut tensors, config.num_hidden_layers);
            }
        }
        Ok(Self {
            config,
            tensors,
            left_aside,
            file: file.into(),
        })
    }

    /// Changes keys of the configuration: another landmark policy or number of landmarks, more positions (the present ones are
    /// repeated), a convolution (which begins at zero, where there was none). Returns the tensors that are new.
    ///
    /// # Errors
    /// A configuration that the model cannot have, and a number of positions that is no multiple of the present one.
    pub fn change(&mut self, keys: &Map<String, Value>) -> Result<Vec<String>> {
        let wrong = |e: serde_json::Error| config_error(CONFIG_FILE, e, "cannot be changed");
        let Value::Object(mut all) = serde_json::to_value(&self.config).map_err(wrong)? else {
            return Ok(vec![]);
        };
        all.extend(keys.clone());
        let mut config = NystromformerConfig::from_value(all.into(), CONFIG_FILE.as_ref())?;
        let length = config.max_position_embeddings;
        if length != self.config.max_position_embeddings {
            config.max_position_embeddings = self.config.max_position_embeddings;
            let segments = config.segment_means_seq_len;
            names::extend_positions(&mut self.tensors, &mut config, length)?;
            if keys.contains_key("segment_means_seq_len") {
                config.segment_means_seq_len = segments;
            }
            config.validate()?;
        }
        let mut new = vec![];
        if let Some(size) = config.conv_kernel_size {
            let heads = config.num_attention_heads;
            for i in 0..config.num_hidden_layers {
                let name = format!("nystromformer.encoder.layer.{i}.attention.self.conv.weight");
                let bare = name.trim_start_matches("nystromformer.");
                if !self.tensors.contains_key(&name) && !self.tensors.contains_key(bare) {
                    let zero = TensorData::new(vec![0.0f32; heads * size], [heads, 1, size, 1]);
                    self.tensors.insert(name.clone(), zero);
                    new.push(name);
                }
            }
        }
        self.config = config;
        Ok(new)
    }
}

fn position_rows(tensors: &NamedTensors) -> Option<usize> {
    let name = "position_embeddings.weight";
    let found = tensors.iter().find(|(n, _)| n.ends_with(name));
    found.and_then(|(_, data)| data.shape().first().copied())
}

fn repeat_first_layer(tensors: &mut NamedTensors, layers: usize) {
    let first = "encoder.layer.0.";
    let found: Vec<(String, TensorData)> = tensors
        .iter()
        .filter(|(name, _)| name.contains(first))
        .map(|(name, data)| (name.clone(), data.clone()))
        .collect();
    for i in 1..layers {
        for (name, data) in &found {
            let name = name.replace(first, &format!("encoder.layer.{i}."));
            tensors.insert(name, data.clone());
        }
    }
}
