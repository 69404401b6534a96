//! The configuration: a BERT's, and where and when a sample may leave.

use crate::exits::Thresholds;
use crate::model::DeeBertForSequenceClassification;
use bert::{BertConfig, ProblemType, Result, config_error};
use burn::prelude::*;
use core_attn::random::Key;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The key of `config.json` that holds [`ExitConfig`].
pub const EXIT_KEY: &str = "deebert";

/// Which vector of a layer's output a classifier sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OffRampPooling {
    /// The first token's state, as published.
    #[default]
    Cls,
    /// The mean over the real tokens. Encoders whose first token was never trained to stand for the sequence need it in
    /// their lower layers.
    Mean,
}

/// What DeeBERT adds to a BERT's `config.json`, under the key `deebert`; Python's transformers passes it by.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ExitConfig {
    /// What the off-ramps see.
    pub off_ramp_pooling: OffRampPooling,
    /// What the final classifier sees; anything but `cls` is a model that other programs read wrongly.
    #[serde(skip_serializing_if = "is_cls")]
    pub final_pooling: OffRampPooling,
    /// Entropies in nats below which a sample leaves, one for all layers or one for each; absent: none leaves early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Thresholds>,
}

fn is_cls(pooling: &OffRampPooling) -> bool {
    *pooling == OffRampPooling::Cls
}

/// Everything that changes parameters or answers; what `config.json` holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DeeBertConfig {
    /// The encoder and its final classifier, in Hugging Face's keys.
    #[serde(flatten)]
    pub bert: BertConfig,
    /// The exits.
    pub deebert: ExitConfig,
}

impl DeeBertConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, a wrong type, or a value that the model cannot have, each with its key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_value(pretrained::read_json(path)?, path)
    }

    /// Reads and validates the contents of a `config.json`; `file` is only named in errors.
    ///
    /// # Errors
    /// As [`DeeBertConfig::from_file`].
    pub fn from_value(value: Value, file: &Path) -> Result<Self> {
        Self::from_bert(BertConfig::from_value(value, file)?, file)
    }

    /// A BERT's configuration whose unused keys may hold `deebert`; `file` is only named in errors.
    ///
    /// # Errors
    /// As [`DeeBertConfig::from_file`].
    pub fn from_bert(mut bert: BertConfig, file: &Path) -> Result<Self> {
        // Not `remove`, which would change the order of the keys that are kept for saving.
        let deebert = match bert.extra.shift_remove(EXIT_KEY) {
            None | Some(Value::Null) => ExitConfig::default(),
            Some(value) => pretrained::parse_value(value, file, EXIT_KEY)?,
        };
        let config = Self { bert, deebert };
        config.validate()?;
        Ok(config)
    }

    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        self.bert.validate()?;
        if let Some(thresholds) = &self.deebert.thresholds {
            thresholds.resolve(self.layers())?;
            self.check_entropy()?;
        }
        Ok(())
    }

    /// A freshly initialised model, drawn from `key`: weights N(0, `initializer_range`²), biases 0, every off-ramp's pooler a
    /// copy of the encoder's.
    ///
    /// # Errors
    /// A configuration that [`DeeBertConfig::validate`] refuses.
    pub fn init(&self, key: Key, device: &Device) -> Result<DeeBertForSequenceClassification> {
        DeeBertForSequenceClassification::new(self, key, device)
    }

    /// Layers of the encoder.
    pub fn layers(&self) -> usize {
        self.bert.num_hidden_layers
    }

    /// Whether the model gives a number and not one class of several.
    pub fn is_regression(&self) -> bool {
        self.bert.labels() == 1 || self.bert.problem_type == Some(ProblemType::Regression)
    }

    /// Whether the entropy over the classes means anything for this model.
    ///
    /// # Errors
    /// A regression, whose single output has entropy 0 always, and labels that may hold together.
    pub fn check_entropy(&self) -> Result<()> {
        let refuse = |key: &str, found: String, what: &str| {
            let remedy = format!(
                "{what} has no entropy over classes, so no threshold can be met; leave after a fixed layer (`ExitRule::Layer`)"
            );
            Err(config_error(key, found, remedy))
        };
        match self.bert.problem_type {
            _ if self.bert.labels() == 1 => refuse("num_labels", "1".into(), "a single output"),
            Some(ProblemType::Regression) => {
                refuse("problem_type", "regression".into(), "a regression")
            }
            Some(ProblemType::MultiLabelClassification) => refuse(
                "problem_type",
                "multi_label_classification".into(),
                "a set of labels that may hold together",
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<DeeBertConfig> {
        DeeBertConfig::from_value(value, Path::new("config.json"))
    }

    #[test]
    fn keys_are_read_and_written() {
        let value = json!({
            "model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "finetuning_task": "sst-2",
            "deebert": { "off_ramp_pooling": "mean", "thresholds": 0.3 }
        });
        let config = read(value).unwrap();
        assert_eq!(config.deebert.off_ramp_pooling, OffRampPooling::Mean);
        assert_eq!(config.deebert.thresholds, Some(Thresholds::One(0.3)));
        let text = serde_json::to_string(&config).unwrap();
        assert!(
            text.contains(r#""deebert":{"off_ramp_pooling":"mean","thresholds":0.3}"#),
            "{text}"
        );
        assert!(text.contains(r#""finetuning_task":"sst-2""#), "{text}");
        assert_eq!(read(serde_json::from_str(&text).unwrap()).unwrap(), config);
        let list = json!({ "num_hidden_layers": 3, "deebert": { "thresholds": [0.1, 0, 1] } });
        let layers = read(list).unwrap().deebert.thresholds;
        assert_eq!(layers, Some(Thresholds::PerLayer(vec![0.1, 0.0, 1.0])));
    }

    #[test]
    fn wrong_values_are_told_by_their_key() {
        for (deebert, more, part) in [
            (json!({ "pooling": "mean" }), json!({}), "off_ramp_pooling"),
            (
                json!({ "off_ramp_pooling": "max" }),
                json!({}),
                "deebert.off_ramp_pooling",
            ),
            (json!({ "thresholds": [0.1] }), json!({}), "12"),
            (
                json!({ "thresholds": 0.1 }),
                json!({ "num_labels": 1 }),
                "num_labels is 1",
            ),
            (
                json!({ "thresholds": 0.1 }),
                json!({ "problem_type": "regression" }),
                "problem_type",
            ),
            (
                json!({ "thresholds": "high" }),
                json!({}),
                "deebert.thresholds",
            ),
        ] {
            let mut value = json!({ "deebert": deebert });
            let more = more.as_object().unwrap().clone();
            value.as_object_mut().unwrap().extend(more);
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(part), "{error} does not say {part}");
        }
    }
}
