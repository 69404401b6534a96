//! The configuration of the Hugging Face classes, in the keys of their `config.json`.

use bert::{Activation, ProblemType, Result, config_error};
use core_attn::low_rank::PinvInit;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Which rows make the landmarks, and for which lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LandmarkPolicy {
    /// As the Hugging Face classes: inputs are `segment_means_seq_len` long, cut into equal runs, and
    /// `num_landmarks == segment_means_seq_len` means full attention at every length.
    Strict,
    /// Any length, cut into runs that differ by one row at most; full attention where there are no more rows than landmarks.
    Uneven,
    /// Any length; runs count from the end, and padding takes no part in landmarks or convolution. The best choice for
    /// heavily padded batches, and not compatible with the Hugging Face classes.
    Masked,
}

/// Everything that changes parameters or the forward pass; what `config.json` holds. The defaults are Hugging Face's.
///
/// Keys that do not concern the model are kept in [`NystromformerConfig::extra`] and written again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NystromformerConfig {
    /// `nystromformer`.
    pub model_type: String,
    /// The class the weights belong to, such as `NystromformerForMaskedLM`.
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
    /// Name of the activation function.
    pub hidden_act: String,
    /// Dropout after embeddings, attention, feed-forward layers and in heads.
    pub hidden_dropout_prob: f64,
    /// Kept for upstream; upstream does not apply it either.
    pub attention_probs_dropout_prob: f64,
    /// Greatest length; the position table has two rows more.
    pub max_position_embeddings: usize,
    /// Number of segments.
    pub type_vocab_size: usize,
    /// Length of the inputs in landmark mode.
    pub segment_means_seq_len: usize,
    /// Number of landmarks; equal to `segment_means_seq_len`: full attention.
    pub num_landmarks: usize,
    /// Places of the convolution's filters, an odd number; absent or null: no convolution, unless the file of weights has one.
    #[serde(default)]
    pub conv_kernel_size: Option<usize>,
    /// Whether the pseudo-inverse starts from each matrix's own column sums (`exact`), which makes a sample's result
    /// independent of its batch.
    pub inv_coeff_init_option: bool,
    /// Iterations of the pseudo-inverse.
    pub pinv_iterations: usize,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Added to the variance in normalisations.
    pub layer_norm_eps: f64,
    /// Id of the padding token, whose embedding starts at zero and stays there.
    pub pad_token_id: Option<usize>,
    /// Whether the masked-language-model decoder is the word embedding.
    pub tie_word_embeddings: bool,
    /// Which rows make the landmarks; ours, not upstream's.
    pub landmark_policy: LandmarkPolicy,
    /// Outputs of a classification head; the length of `id2label` where absent, 2 without that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_labels: Option<usize>,
    /// Names of the classes by their index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id2label: Option<Map<String, Value>>,
    /// Loss of the classification head; follows from the labels where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<ProblemType>,
    /// Every other key of the file, kept for saving.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for NystromformerConfig {
    fn default() -> Self {
        Self {
            model_type: "nystromformer".into(),
            architectures: None,
            vocab_size: 30_000,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu_new".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 510,
            type_vocab_size: 2,
            segment_means_seq_len: 64,
            num_landmarks: 64,
            conv_kernel_size: Some(65),
            inv_coeff_init_option: false,
            pinv_iterations: 6,
            initializer_range: 0.02,
            layer_norm_eps: 1e-5,
            pad_token_id: Some(1),
            tie_word_embeddings: true,
            landmark_policy: LandmarkPolicy::Strict,
            num_labels: None,
            id2label: None,
            problem_type: None,
            extra: Map::new(),
        }
    }
}

impl NystromformerConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, a wrong type, or a value the model cannot have, with its key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_value(pretrained::read_json(path)?, path)
    }

    /// Takes the configuration from a JSON object and validates it; `file` is named in errors.
    ///
    /// # Errors
    /// As [`NystromformerConfig::from_file`].
    pub fn from_value(value: Value, file: &Path) -> Result<Self> {
        let mut config: Self = pretrained::parse_value(value, file, "")?;
        // Where a file holds both and they differ, the names count, as for Python's transformers.
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
        if self.model_type != "nystromformer" {
            let expected = "expected \"nystromformer\"";
            return Err(config_error(
                "model_type",
                format!("{:?}", self.model_type),
                expected,
            ));
        }
        for (key, n) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("segment_means_seq_len", self.segment_means_seq_len),
            ("num_landmarks", self.num_landmarks),
            ("num_labels", self.labels()),
        ] {
            if n == 0 {
                return Err(config_error(key, n, "expected at least 1"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!(
                "expected a multiple of num_attention_heads = {}",
                self.num_attention_heads
            );
            return Err(config_error("hidden_size", self.hidden_size, expected));
        }
        if self.landmark_policy == LandmarkPolicy::Strict {
            let (length, m) = (self.segment_means_seq_len, self.num_landmarks);
            if m > length || !length.is_multiple_of(m) {
                let expected = format!(
                    "expected a divisor of segment_means_seq_len = {length}, or set landmark_policy to \"uneven\""
                );
                return Err(config_error("num_landmarks", m, expected));
            }
        }
        odd_filter("conv_kernel_size", self.conv_kernel_size)?;
        Activation::from_name(&self.hidden_act)?;
        for (key, rate) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            (
                "attention_probs_dropout_prob",
                self.attention_probs_dropout_prob,
            ),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return Err(config_error(key, rate, "expected a share in [0, 1)"));
            }
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite()) {
            let expected = "expected a small positive number";
            return Err(config_error(
                "layer_norm_eps",
                self.layer_norm_eps,
                expected,
            ));
        }
        if let Some(pad) = self.pad_token_id.filter(|pad| *pad >= self.vocab_size) {
            let expected = format!("expected an id below vocab_size = {}", self.vocab_size);
            return Err(config_error("pad_token_id", pad, expected));
        }
        self.supported()
    }

    /// Refuses keys that change the mathematics in a way these classes do not know.
    fn supported(&self) -> Result<()> {
        for key in ["is_decoder", "add_cross_attention"] {
            if self.extra.get(key) == Some(&Value::Bool(true)) {
                let expected = "expected false: landmarks see the future, so there is no causal Nyström attention";
                return Err(config_error(key, true, expected));
            }
        }
        match self.extra.get("position_embedding_type") {
            None | Some(Value::Null) => {}
            Some(Value::String(kind)) if kind == "absolute" => {}
            Some(other) => {
                return Err(config_error(
                    "position_embedding_type",
                    other,
                    "expected \"absolute\"",
                ));
            }
        }
        match self.extra.get("pruned_heads") {
            Some(Value::Object(heads)) if !heads.is_empty() => {
                let found = Value::Object(heads.clone());
                Err(config_error("pruned_heads", found, "expected none"))
            }
            _ => {
                // A size beyond any memory is a slip of the pen, and must not become an allocation that aborts.
                let [d, f, v, l] = [
                    self.hidden_size,
                    self.intermediate_size,
                    self.vocab_size + self.max_position_embeddings,
                    self.num_hidden_layers,
                ]
                .map(|n| n as f64);
                let parameters = v * d + l * (4.0 * d * d + 2.0 * d * f);
                if parameters > 6.0e10 {
                    let expected = format!(
                        "the sizes together ask for {parameters:.1e} parameters, more than this program takes on"
                    );
                    return Err(config_error("hidden_size", self.hidden_size, expected));
                }
                Ok(())
            }
        }
    }

    /// Number of classes of a classification head.
    pub fn labels(&self) -> usize {
        let named = self.id2label.as_ref().map(Map::len);
        self.num_labels.or(named).unwrap_or(2)
    }

    /// The classes' names: from `id2label`, else `LABEL_0`, `LABEL_1`, …
    pub fn label_names(&self) -> Vec<String> {
        let named = |i: usize| self.id2label.as_ref()?.get(&i.to_string())?.as_str();
        let name = |i: usize| named(i).map_or_else(|| format!("LABEL_{i}"), str::to_owned);
        (0..self.labels()).map(name).collect()
    }

    /// Where the pseudo-inverse starts.
    pub fn pinv_init(&self) -> PinvInit {
        match self.inv_coeff_init_option {
            true => PinvInit::Exact,
            false => PinvInit::Original,
        }
    }
}

/// Refuses a filter without a middle.
pub(crate) fn odd_filter(key: &str, size: Option<usize>) -> Result<()> {
    match size {
        Some(n) if n.is_multiple_of(2) => {
            let expected =
                "expected an odd number, so that a filter has a middle, or null for no convolution";
            Err(config_error(key, n, expected))
        }
        _ => Ok(()),
    }
}
