//! The model's configuration, in the keys of Hugging Face's `config.json`.

use crate::activation::Activation;
use crate::error::{Result, config_error};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Which loss a classification head is trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One class of several: cross entropy.
    SingleLabelClassification,
    /// Any number of classes: binary cross entropy of every output.
    MultiLabelClassification,
    /// Numbers: mean squared error.
    Regression,
}

/// Where the rows of the position table are taken from, and which names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// `bert.…`, positions from 0.
    Bert,
    /// `roberta.…`, positions counted over real tokens from behind the padding row.
    Roberta,
}

impl Variant {
    /// The beginning of a body's tensor names in a file that holds a head as well: `bert.` or `roberta.`.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
        }
    }

    /// The beginning of the classes' names: `Bert` or `Roberta`.
    pub const fn class_prefix(self) -> &'static str {
        match self {
            Self::Bert => "Bert",
            Self::Roberta => "Roberta",
        }
    }
}

/// Everything that changes parameters or the forward pass; what `config.json` holds. The defaults are bert-base-uncased's.
///
/// Keys of a `config.json` that do not concern the model are kept in [`BertConfig::extra`] and written again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct BertConfig {
    /// `bert` or `roberta`; absent in files of 2019, where the tensors' names tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// The class the weights belong to, such as `BertForMaskedLM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architectures: Option<Vec<String>>,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// Width between the two maps of the feed-forward layer.
    pub intermediate_size: usize,
    /// Width of queries, keys and values together; `hidden_size` where absent (AutoTinyBERT's extension).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qkv_size: Option<usize>,
    /// Name of the activation function.
    pub hidden_act: String,
    /// Dropout after embeddings, attention and feed-forward layers.
    pub hidden_dropout_prob: f64,
    /// Dropout on attention weights.
    pub attention_probs_dropout_prob: f64,
    /// Rows of the position table, so the greatest length.
    pub max_position_embeddings: usize,
    /// Number of segments.
    pub type_vocab_size: usize,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Added to the variance in normalisations.
    pub layer_norm_eps: f64,
    /// Id of the padding token, whose embedding starts at zero and stays there.
    pub pad_token_id: Option<usize>,
    /// Whether the masked-language-model decoder is the word embedding.
    pub tie_word_embeddings: bool,
    /// Outputs of a classification head; the length of `id2label` where absent, 2 without that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_labels: Option<usize>,
    /// Names of the classes by their index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id2label: Option<Map<String, Value>>,
    /// Indices of the classes by their name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label2id: Option<Map<String, Value>>,
    /// Loss of the classification head; follows from the labels where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<ProblemType>,
    /// Dropout before the classification head; `hidden_dropout_prob` where absent.
    pub classifier_dropout: Option<f64>,
    /// Every other key of the file, kept for saving.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            model_type: Some("bert".into()),
            architectures: None,
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            qkv_size: None,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            tie_word_embeddings: true,
            num_labels: None,
            id2label: None,
            label2id: None,
            problem_type: None,
            classifier_dropout: None,
            extra: Map::new(),
        }
    }
}

impl BertConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, a wrong type, or a value that changes the mathematics and is not supported, each with
    /// its key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_value(pretrained::read_json(path)?, path)
    }

    /// Reads and validates the contents of a `config.json`; `file` is only named in errors.
    ///
    /// # Errors
    /// As [`BertConfig::from_file`].
    pub fn from_value(value: Value, file: &Path) -> Result<Self> {
        let Value::Object(mut map) = value else {
            return Err(config_error(
                file.display().to_string(),
                "no JSON object",
                "expected the keys of a Hugging Face config.json",
            ));
        };
        // Defaults of the file are those of its own model type, not of ours.
        if map.get("model_type").is_none() {
            map.insert("model_type".into(), Value::Null);
        }
        if map.get("model_type").and_then(Value::as_str) == Some("roberta")
            && !map.contains_key("pad_token_id")
        {
            map.insert("pad_token_id".into(), 1.into());
        }
        let mut config: Self = pretrained::parse_value(Value::Object(map), file, "")?;
        // Old files hold both; where they differ, the names count, as for Python's transformers.
        let named = config.id2label.as_ref().map(Map::len);
        if named.is_some() && named != config.num_labels {
            config.num_labels = None;
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        self.variant()?;
        self.activation()?;
        for (key, n) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("num_labels", self.labels()),
            ("qkv_size", self.attention_width()),
        ] {
            if n == 0 {
                return Err(config_error(key, n, "expected at least 1"));
            }
        }
        let width = self.attention_width();
        if !width.is_multiple_of(self.num_attention_heads) {
            let key = match self.qkv_size {
                Some(_) => "qkv_size",
                None => "hidden_size",
            };
            return Err(config_error(
                key,
                width,
                format!(
                    "expected a multiple of num_attention_heads = {}",
                    self.num_attention_heads
                ),
            ));
        }
        for (key, rate) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            (
                "attention_probs_dropout_prob",
                self.attention_probs_dropout_prob,
            ),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return Err(config_error(key, rate, "expected a share in [0, 1)"));
            }
        }
        for (key, number) in [
            ("initializer_range", self.initializer_range),
            ("layer_norm_eps", self.layer_norm_eps),
        ] {
            if !(number >= 0.0 && number.is_finite()) {
                return Err(config_error(key, number, "expected 0 or a positive number"));
            }
        }
        if let Some(pad) = self.pad_token_id.filter(|pad| *pad >= self.vocab_size) {
            return Err(config_error(
                "pad_token_id",
                pad,
                format!("expected an id below vocab_size = {}", self.vocab_size),
            ));
        }
        if let (Some(n), Some(names)) = (self.num_labels, &self.id2label)
            && n != names.len()
        {
            return Err(config_error(
                "num_labels",
                n,
                format!("id2label names {} classes; make them agree", names.len()),
            ));
        }
        if self.problem_type == Some(ProblemType::SingleLabelClassification) && self.labels() == 1 {
            return Err(config_error(
                "problem_type",
                "\"single_label_classification\"",
                "one class alone cannot be told from others: expected \"regression\", or two classes",
            ));
        }
        self.refuse_other_mathematics()?;
        // A size beyond any memory is a slip of the pen, and must not become an allocation that aborts.
        let parameters = self.parameters();
        if parameters > 6.0e10 {
            return Err(config_error(
                "hidden_size",
                self.hidden_size,
                format!(
                    "the sizes together ask for {parameters:.1e} parameters, more than this program takes on"
                ),
            ));
        }
        Ok(())
    }

    /// Keys that are not ours, with values that would make it another model.
    fn refuse_other_mathematics(&self) -> Result<()> {
        for (key, value) in &self.extra {
            let expected = match (key.as_str(), value) {
                (_, Value::Null) => continue,
                ("position_embedding_type", v) if v.as_str() != Some("absolute") => {
                    "only \"absolute\" positions are supported"
                }
                ("is_decoder", Value::Bool(true)) => "decoders are not supported; expected false",
                ("add_cross_attention", Value::Bool(true)) => {
                    "cross attention is not supported; expected false"
                }
                ("pruned_heads", Value::Object(map)) if !map.is_empty() => {
                    "pruned heads are not supported; save the model with all heads"
                }
                ("embedding_size", v) if v.as_u64() != Some(self.hidden_size as u64) => {
                    "factorised embeddings are not supported; expected hidden_size"
                }
                _ => continue,
            };
            return Err(config_error(key.clone(), value, expected));
        }
        Ok(())
    }

    /// Whether this is a BERT or a RoBERTa; BERT where the file does not say.
    ///
    /// # Errors
    /// Another `model_type`.
    pub fn variant(&self) -> Result<Variant> {
        match self.model_type.as_deref() {
            Some("bert") => Ok(Variant::Bert),
            Some("roberta") => Ok(Variant::Roberta),
            Some(other) => Err(config_error(
                "model_type",
                format!("{other:?}"),
                "expected \"bert\" or \"roberta\"",
            )),
            None => {
                let named = self.architectures.iter().flatten();
                let roberta = named.into_iter().any(|name| name.starts_with("Roberta"));
                Ok(match roberta {
                    true => Variant::Roberta,
                    false => Variant::Bert,
                })
            }
        }
    }

    /// The activation function.
    ///
    /// # Errors
    /// A `hidden_act` that is not supported.
    pub fn activation(&self) -> Result<Activation> {
        Activation::from_name(&self.hidden_act)
    }

    /// Width of queries, keys and values together.
    pub fn attention_width(&self) -> usize {
        self.qkv_size.unwrap_or(self.hidden_size)
    }

    /// Outputs of a classification head.
    pub fn labels(&self) -> usize {
        let named = self.id2label.as_ref().map(Map::len);
        self.num_labels.or(named).unwrap_or(2)
    }

    /// The classes' names: from `id2label`, else `LABEL_0`, `LABEL_1`, …
    pub fn label_names(&self) -> Vec<String> {
        let name = |i: usize| {
            let named = self.id2label.as_ref()?.get(&i.to_string())?.as_str()?;
            Some(named.to_owned())
        };
        (0..self.labels())
            .map(|i| name(i).unwrap_or_else(|| format!("LABEL_{i}")))
            .collect()
    }

    /// Sets the classes' names, and with them the number of outputs.
    #[must_use]
    pub fn with_label_names<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        let names = || names.iter().map(AsRef::as_ref).enumerate();
        self.id2label = Some(names().map(|(i, n)| (i.to_string(), n.into())).collect());
        self.label2id = Some(names().map(|(i, n)| (n.to_owned(), i.into())).collect());
        self.num_labels = None;
        self
    }

    /// Dropout before a classification head.
    pub fn head_dropout(&self) -> f64 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }

    /// Number of scalars in the body with its pooler, in f64 so that no size overflows.
    pub fn parameters(&self) -> f64 {
        let [v, p, t, h, q, f, layers] = [
            self.vocab_size,
            self.max_position_embeddings,
            self.type_vocab_size,
            self.hidden_size,
            self.attention_width(),
            self.intermediate_size,
            self.num_hidden_layers,
        ]
        .map(|x| x as f64);
        let layer = 4.0 * h * q + 3.0 * q + h + 2.0 * h * f + f + h + 4.0 * h;
        (v + p + t + 2.0) * h + layers * layer + h * h + h
    }
}
