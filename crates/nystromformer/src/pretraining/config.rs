//! The configuration of the official pre-training code, in its keys.

use crate::config::{LandmarkPolicy, NystromformerConfig, odd_filter};
use bert::{Result, config_error};
use serde::{Deserialize, Serialize};

/// The configuration of the official pre-training code, in its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PreTrainingConfig {
    /// `efficient_attention`, upstream's name of the encoder.
    pub model_type: String,
    /// `nystrom`, upstream's name of the attention.
    pub attn_type: String,
    /// Has no effect here: everything is computed in 32 bits.
    pub mixed_precision: bool,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Number of segments.
    pub num_sen_type: usize,
    /// Rows of the position table, the greatest length; landmarks are taken at this length.
    pub max_seq_len: usize,
    /// Outputs of the sentence head.
    pub num_classes: usize,
    /// Outputs of the sentence head that count.
    pub num_valid_classes: usize,
    /// Whether the first layer serves for all.
    pub shared_weight: bool,
    /// Number of layers.
    pub num_layers: usize,
    /// Dropout after embeddings, attention, feed-forward maps and pooler.
    pub dropout_prob: f64,
    /// Width of the embeddings and heads.
    pub embedding_dim: usize,
    /// Width of the hidden states.
    pub dim: usize,
    /// Width between the two maps of the feed-forward layer.
    pub hidden_dim: usize,
    /// Number of heads.
    pub num_head: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of landmarks.
    pub num_landmarks: usize,
    /// Places of the convolution's filters, an odd number; absent: no convolution.
    #[serde(default)]
    pub conv_kernel_size: Option<usize>,
    /// Which rows make the landmarks; ours.
    pub landmark_policy: LandmarkPolicy,
}

impl Default for PreTrainingConfig {
    fn default() -> Self {
        Self {
            model_type: "efficient_attention".into(),
            attn_type: "nystrom".into(),
            mixed_precision: false,
            vocab_size: 30_000,
            num_sen_type: 2,
            max_seq_len: 512,
            num_classes: 4,
            num_valid_classes: 2,
            shared_weight: false,
            num_layers: 12,
            dropout_prob: 0.1,
            embedding_dim: 768,
            dim: 768,
            hidden_dim: 3072,
            num_head: 12,
            head_dim: 64,
            num_landmarks: 64,
            conv_kernel_size: None,
            landmark_policy: LandmarkPolicy::Uneven,
        }
    }
}

impl PreTrainingConfig {
    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        for (key, n) in [
            ("vocab_size", self.vocab_size),
            ("num_sen_type", self.num_sen_type),
            ("max_seq_len", self.max_seq_len),
            ("num_classes", self.num_classes),
            ("embedding_dim", self.embedding_dim),
            ("dim", self.dim),
            ("hidden_dim", self.hidden_dim),
            ("num_head", self.num_head),
            ("head_dim", self.head_dim),
            ("num_landmarks", self.num_landmarks),
        ] {
            if n == 0 || n > 1 << 24 {
                return Err(config_error(key, n, "expected 1 to 2^24"));
            }
        }
        if !(1..=self.num_classes).contains(&self.num_valid_classes) {
            let expected = format!("expected 1 to num_classes = {}", self.num_classes);
            return Err(config_error(
                "num_valid_classes",
                self.num_valid_classes,
                expected,
            ));
        }
        if !self.attn_type.starts_with("nystrom") {
            let expected =
                "expected \"nystrom\"; other attentions of the official code are not in this crate";
            return Err(config_error(
                "attn_type",
                format!("{:?}", self.attn_type),
                expected,
            ));
        }
        let (n, m) = (self.max_seq_len, self.num_landmarks);
        if self.landmark_policy == LandmarkPolicy::Strict && (m > n || !n.is_multiple_of(m)) {
            let expected = format!("expected a divisor of max_seq_len = {n}");
            return Err(config_error("num_landmarks", m, expected));
        }
        odd_filter("conv_kernel_size", self.conv_kernel_size)?;
        if !(0.0..1.0).contains(&self.dropout_prob) {
            let expected = "expected a share in [0, 1)";
            return Err(config_error("dropout_prob", self.dropout_prob, expected));
        }
        Ok(())
    }

    /// The same encoder in Hugging Face's keys; names of tensors change as well, see [`crate::Checkpoint`].
    ///
    /// # Errors
    /// Sizes that Hugging Face's layout cannot hold: embeddings of another width than the hidden states, and heads that do not
    /// make it up.
    pub fn to_hugging_face(&self) -> Result<NystromformerConfig> {
        for (key, width) in [
            ("embedding_dim", self.embedding_dim),
            ("num_head times head_dim", self.num_head * self.head_dim),
        ] {
            if width != self.dim {
                let expected = format!(
                    "expected dim = {}, as Hugging Face's layout has it",
                    self.dim
                );
                return Err(config_error(key, width, expected));
            }
        }
        let config = NystromformerConfig {
            architectures: Some(vec!["NystromformerForMaskedLM".into()]),
            vocab_size: self.vocab_size,
            hidden_size: self.dim,
            num_hidden_layers: self.num_layers,
            num_attention_heads: self.num_head,
            intermediate_size: self.hidden_dim,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: self.dropout_prob,
            max_position_embeddings: self.max_seq_len,
            type_vocab_size: self.num_sen_type,
            segment_means_seq_len: self.max_seq_len,
            num_landmarks: self.num_landmarks,
            conv_kernel_size: self.conv_kernel_size,
            pad_token_id: None,
            landmark_policy: self.landmark_policy,
            ..NystromformerConfig::default()
        };
        config.validate()?;
        Ok(config)
    }
}
