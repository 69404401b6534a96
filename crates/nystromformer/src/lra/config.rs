//! The configuration of the official LRA code, in its keys.

use crate::attention::{AttentionSettings, Masking};
use crate::config::{LandmarkPolicy, odd_filter};
use bert::{Result, config_error};
use core_attn::low_rank::PinvInit;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a sequence becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
pub enum PoolingMode {
    /// The sum over the tokens divided by the full length, padding included.
    #[serde(rename = "MEAN")]
    Mean,
    /// The state of a token put in front: the last id of the vocabulary. The last token is dropped for it.
    #[serde(rename = "CLS")]
    Cls,
}

/// The configuration of the official LRA code, in its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LraConfig {
    /// Written into `config.json`, so that a folder tells what it is.
    pub model_type: String,
    /// Has no effect here: everything is computed in 32 bits.
    pub mixed_precision: bool,
    /// Must be true: the models have learned positions.
    pub learn_pos_emb: bool,
    /// Whether one block serves for all layers.
    pub tied_weights: bool,
    /// Width of the embeddings; must equal `transformer_dim`.
    pub embedding_dim: usize,
    /// Width of the hidden states.
    pub transformer_dim: usize,
    /// Width between the two maps of the feed-forward layer and of the head.
    pub transformer_hidden_dim: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of heads.
    pub num_head: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Number of token ids; a recipe takes it from the data. Id 0 is padding.
    pub vocab_size: Option<usize>,
    /// Rows of the position table, the greatest length.
    pub max_seq_len: usize,
    /// The attention's length, upstream's `seq_len`; absent: `max_seq_len`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_len: Option<usize>,
    /// Dropout after embeddings, attention and feed-forward maps.
    pub dropout_prob: f64,
    /// Kept for upstream; not applied, as there.
    pub attention_dropout: f64,
    /// How a sequence becomes one vector.
    pub pooling_mode: PoolingMode,
    /// Number of classes; a recipe takes it from the data.
    pub num_classes: Option<usize>,
    /// `softmax` for full attention without convolution, or `nystrom` with any label behind it; `num_landmarks` decides.
    pub attn_type: String,
    /// Has no effect on the results and none here.
    pub attention_grad_checkpointing: bool,
    /// Number of landmarks; equal to the length: full attention with convolution.
    pub num_landmarks: usize,
    /// Places of the convolution's filters, an odd number; absent: no convolution.
    #[serde(default)]
    pub conv_kernel_size: Option<usize>,
    /// Iterations of the pseudo-inverse; ours, upstream has 6.
    pub pinv_iterations: usize,
    /// Upstream's key: whether the pseudo-inverse starts from each matrix's own column sums, which makes a sample's result
    /// independent of its batch.
    pub inv_coeff_init_option: bool,
    /// Which rows make the landmarks; ours. At upstream's lengths `uneven` and `strict` are the same.
    pub landmark_policy: LandmarkPolicy,
}

impl Default for LraConfig {
    fn default() -> Self {
        Self {
            model_type: "nystromformer-lra".into(),
            mixed_precision: false,
            learn_pos_emb: true,
            tied_weights: false,
            embedding_dim: 64,
            transformer_dim: 64,
            transformer_hidden_dim: 128,
            head_dim: 32,
            num_head: 2,
            num_layers: 2,
            vocab_size: None,
            max_seq_len: 2048,
            seq_len: None,
            dropout_prob: 0.1,
            attention_dropout: 0.1,
            pooling_mode: PoolingMode::Mean,
            num_classes: None,
            attn_type: "nystrom".into(),
            attention_grad_checkpointing: false,
            num_landmarks: 64,
            conv_kernel_size: None,
            pinv_iterations: 6,
            inv_coeff_init_option: false,
            landmark_policy: LandmarkPolicy::Uneven,
        }
    }
}

impl LraConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, or a value the model cannot have, with its key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let config: Self = pretrained::read_json(path.as_ref())?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        if self.model_type != "nystromformer-lra" {
            let expected = "expected \"nystromformer-lra\"";
            return Err(config_error(
                "model_type",
                format!("{:?}", self.model_type),
                expected,
            ));
        }
        for (key, n) in [
            ("embedding_dim", self.embedding_dim),
            ("transformer_dim", self.transformer_dim),
            ("transformer_hidden_dim", self.transformer_hidden_dim),
            ("head_dim", self.head_dim),
            ("num_head", self.num_head),
            ("max_seq_len", self.max_seq_len),
            ("num_landmarks", self.num_landmarks),
            ("vocab_size", self.vocab_size.unwrap_or(1)),
            ("num_classes", self.num_classes.unwrap_or(1)),
        ] {
            if n == 0 || n > 1 << 24 {
                return Err(config_error(key, n, "expected 1 to 2^24"));
            }
        }
        if self.embedding_dim != self.transformer_dim {
            let expected = format!("expected transformer_dim = {}", self.transformer_dim);
            return Err(config_error("embedding_dim", self.embedding_dim, expected));
        }
        if !self.learn_pos_emb {
            let expected = "expected true: these models have learned positions";
            return Err(config_error("learn_pos_emb", false, expected));
        }
        if self.seq_len.is_some_and(|n| n != self.max_seq_len) {
            let expected = format!("expected max_seq_len = {}, or nothing", self.max_seq_len);
            return Err(config_error("seq_len", self.seq_len.unwrap_or(0), expected));
        }
        if !self.full() && !self.attn_type.starts_with("nystrom") {
            let expected = "expected \"softmax\" or \"nystrom\"; other attentions of the LRA code are not in this crate";
            return Err(config_error(
                "attn_type",
                format!("{:?}", self.attn_type),
                expected,
            ));
        }
        let (n, m) = (self.max_seq_len, self.num_landmarks);
        if self.landmark_policy == LandmarkPolicy::Strict && (m > n || !n.is_multiple_of(m)) {
            let expected = format!(
                "expected a divisor of max_seq_len = {n}, or set landmark_policy to \"uneven\""
            );
            return Err(config_error("num_landmarks", m, expected));
        }
        odd_filter("conv_kernel_size", self.conv_kernel_size)?;
        for (key, rate) in [
            ("dropout_prob", self.dropout_prob),
            ("attention_dropout", self.attention_dropout),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return Err(config_error(key, rate, "expected a share in [0, 1)"));
            }
        }
        Ok(())
    }

    pub(super) fn full(&self) -> bool {
        self.attn_type == "softmax"
    }

    /// A size that a recipe takes from its data.
    pub(super) fn known(key: &str, value: Option<usize>) -> Result<usize> {
        value.ok_or_else(|| {
            let expected = "a model built without a recipe's data must say it";
            config_error(key, "absent", expected)
        })
    }

    pub(super) fn attention(&self) -> AttentionSettings {
        AttentionSettings {
            heads: self.num_head,
            head_dim: self.head_dim,
            landmarks: (!self.full()).then_some(self.num_landmarks),
            length: self.max_seq_len,
            policy: self.landmark_policy,
            iterations: self.pinv_iterations,
            init: match self.inv_coeff_init_option {
                true => PinvInit::Exact,
                false => PinvInit::Original,
            },
            masking: Masking::Rows,
        }
    }
}
