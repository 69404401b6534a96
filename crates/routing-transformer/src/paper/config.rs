//! The configuration in the key names of the authors' hyperparameters.

use crate::config::{EmaCountRule, Flavor, check_positive, check_rate, check_size};
use crate::error::{Result, config};
use serde::{Deserialize, Serialize};

/// A length per axis of the input; text has one axis. A plain number is accepted too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum OneAxis {
    /// The number alone.
    Number(usize),
    /// As the reference has it.
    List(Vec<usize>),
}

impl OneAxis {
    /// The length along the one axis; `None` where there is not exactly one.
    pub fn length(&self) -> Option<usize> {
        match self {
            Self::Number(n) => Some(*n),
            Self::List(list) => match list[..] {
                [n] => Some(n),
                _ => None,
            },
        }
    }
}

/// The values of a byte of a picture.
pub(crate) const BYTES: usize = 256;

/// The size of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// Bytes of a pixel.
    pub channels: usize,
}

impl Frame {
    /// Bytes of a picture.
    pub fn size(self) -> usize {
        self.height * self.width * self.channels
    }

    /// Rows of each table of positions.
    pub(crate) fn longest(self) -> usize {
        self.height.max(self.width).max(self.channels)
    }

    /// Row, column and channel of a byte.
    pub(crate) fn place(self, position: usize) -> [usize; 3] {
        let pixel = position / self.channels.max(1);
        let width = self.width.max(1);
        [
            pixel / width,
            pixel % width,
            position % self.channels.max(1),
        ]
    }
}

/// What the authors' model depends on. Keys marked as ours are not in the published code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PaperConfig {
    /// Written into `config.json`, so that a folder tells what it is.
    pub model_type: String,
    /// Always `paper` here.
    pub flavor: Flavor,
    /// Number of token ids, id 0 being padding; a recipe takes it from the data.
    pub vocab_size: Option<usize>,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the token embedding; absent: `hidden_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_dims: Option<usize>,
    /// Number of layers.
    pub num_decoder_layers: usize,
    /// Width of the feed-forward layer.
    pub filter_size: usize,
    /// `geglu`, or `relu` / `conv_hidden_relu`.
    pub ffn_layer: String,
    /// Heads that attend to a block and its neighbours.
    pub local_num_heads: usize,
    /// Heads that attend within clusters.
    pub sparsity_cluster_num_heads: usize,
    /// The first so many layers have local heads only, as many as both kinds together.
    pub sparsity_skip_first: usize,
    /// Number of clusters of a head.
    pub sparsity_cluster_size: usize,
    /// Members of a cluster.
    pub sparsity_cluster_attention_window: usize,
    /// Length of a block of the local heads.
    pub query_shape: OneAxis,
    /// How far local heads see beyond their block: a multiple of it.
    pub memory_flange: OneAxis,
    /// Relative embeddings on local heads.
    pub local_relative: bool,
    /// Relative embeddings by rank on routing heads.
    pub sparsity_cluster_relative: bool,
    /// Distances from this on share an embedding.
    pub max_relative_position: Option<usize>,
    /// Routing heads use the queries as keys.
    pub share_qk: bool,
    /// Centroids follow moving averages; else they are trained by gradients.
    pub ema: bool,
    /// Weight of the clustering loss.
    pub beta: f64,
    /// Decay of the moving averages.
    pub decay: f64,
    /// How a cluster's positions are counted (ours).
    pub ema_count_rule: EmaCountRule,
    /// `none` with `dan` normalises after each branch.
    pub layer_preprocess_sequence: String,
    /// `da` with `n` before it normalises before each branch.
    pub layer_postprocess_sequence: String,
    /// Added to variances.
    pub norm_epsilon: f64,
    /// Dropout on attention weights.
    pub attention_dropout: f64,
    /// Dropout inside the feed-forward layer.
    pub relu_dropout: f64,
    /// Dropout on the output of each branch.
    pub layer_prepostprocess_dropout: f64,
    /// Dropout on the embedded input.
    pub dropout: f64,
    /// Share of input tokens replaced by padding in training.
    pub target_dropout: f64,
    /// Adds sinusoids of the absolute position.
    pub add_timing_signal: bool,
    /// Pixels of a picture from top to bottom. With it the model foretells the bytes of pictures in raster order, as the
    /// published image model does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_height: Option<usize>,
    /// Pixels of a picture from left to right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_width: Option<usize>,
    /// Bytes of a pixel; absent: 3 (the published code takes it from its data).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_channels: Option<usize>,
    /// Adds learned embeddings of row, column and channel to those of a picture's bytes; absent: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_positional_emb: Option<bool>,
    /// Must be true: pictures are foretold from nothing, not from a class.
    #[serde(skip_serializing)]
    pub unconditional: bool,
    /// A position sees only those before it (ours; the published code knows no other).
    pub causal: bool,
    /// Clusters take their members from a position's past alone (ours).
    pub strict_causal_routing: bool,
    /// 0: `hidden_size`.
    pub attention_key_channels: usize,
    /// 0: `hidden_size`.
    pub attention_value_channels: usize,
    /// Cross-attention's, which a decoder alone does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_query_shape: Option<OneAxis>,
    /// Must be 0.
    #[serde(skip_serializing)]
    pub sparsity_cluster_strided_num_heads: usize,
    /// Of no effect without strided heads.
    #[serde(skip_serializing)]
    pub sparsity_cluster_strided_relative: bool,
    /// Must be 0.
    #[serde(skip_serializing)]
    pub sparsity_strided_num_heads: usize,
    /// Of no effect without strided heads.
    #[serde(skip_serializing)]
    pub sparsity_strided_relative: bool,
    /// Must be false.
    #[serde(skip_serializing)]
    pub cache_padding_bias: bool,
    /// Must be false.
    #[serde(skip_serializing)]
    pub hash_items: bool,
    /// Must be false.
    #[serde(skip_serializing)]
    pub token_bias_wt_trainable: bool,
    /// Must be false.
    #[serde(skip_serializing)]
    pub use_tpu: bool,
}

impl Default for PaperConfig {
    fn default() -> Self {
        Self {
            model_type: "routing-transformer".into(),
            flavor: Flavor::Paper,
            vocab_size: None,
            hidden_size: 512,
            embedding_dims: None,
            num_decoder_layers: 24,
            filter_size: 2048,
            ffn_layer: "geglu".into(),
            local_num_heads: 8,
            sparsity_cluster_num_heads: 0,
            sparsity_skip_first: 0,
            sparsity_cluster_size: 8,
            sparsity_cluster_attention_window: 512,
            query_shape: OneAxis::Number(512),
            memory_flange: OneAxis::Number(512),
            local_relative: true,
            sparsity_cluster_relative: true,
            max_relative_position: Some(1024),
            share_qk: true,
            ema: true,
            beta: 1e-4,
            decay: 0.999,
            ema_count_rule: EmaCountRule::PerHead,
            layer_preprocess_sequence: "none".into(),
            layer_postprocess_sequence: "dan".into(),
            norm_epsilon: 1e-6,
            attention_dropout: 0.0,
            relu_dropout: 0.0,
            layer_prepostprocess_dropout: 0.1,
            dropout: 0.0,
            target_dropout: 0.0,
            add_timing_signal: false,
            frame_height: None,
            frame_width: None,
            num_channels: None,
            add_positional_emb: None,
            unconditional: true,
            causal: true,
            strict_causal_routing: false,
            attention_key_channels: 0,
            attention_value_channels: 0,
            memory_query_shape: None,
            sparsity_cluster_strided_num_heads: 0,
            sparsity_cluster_strided_relative: false,
            sparsity_strided_num_heads: 0,
            sparsity_strided_relative: false,
            cache_padding_bias: false,
            hash_items: false,
            token_bias_wt_trainable: false,
            use_tpu: false,
        }
    }
}

impl PaperConfig {
    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        if self.flavor != Flavor::Paper || self.model_type != "routing-transformer" {
            let found = format!("{:?} of model_type {:?}", self.flavor, self.model_type);
            return Err(config(
                "flavor",
                found,
                "expected `paper` of `routing-transformer`",
            ));
        }
        check_positive(&[
            ("hidden_size", self.hidden_size),
            ("embedding_dims", self.embedding()),
            ("num_decoder_layers", self.num_decoder_layers),
        ])?;
        let heads = self.heads();
        if heads == 0 {
            let expected = "expected at least one local or routing head";
            return Err(config("local_num_heads", 0, expected));
        }
        if !self.hidden_size.is_multiple_of(heads) {
            let expected = format!(
                "expected a multiple of the {heads} heads (local_num_heads + sparsity_cluster_num_heads)"
            );
            return Err(config("hidden_size", self.hidden_size, expected));
        }
        for (key, n) in [
            ("attention_key_channels", self.attention_key_channels),
            ("attention_value_channels", self.attention_value_channels),
        ] {
            if n != 0 {
                return Err(config(key, n, "expected 0, which means hidden_size"));
            }
        }
        for (key, n) in [
            (
                "sparsity_cluster_strided_num_heads",
                self.sparsity_cluster_strided_num_heads,
            ),
            (
                "sparsity_strided_num_heads",
                self.sparsity_strided_num_heads,
            ),
        ] {
            if n != 0 {
                return Err(config(
                    key,
                    n,
                    "expected 0: there are no strided heads here",
                ));
            }
        }
        for (key, on) in [
            ("cache_padding_bias", self.cache_padding_bias),
            ("hash_items", self.hash_items),
            ("token_bias_wt_trainable", self.token_bias_wt_trainable),
            ("use_tpu", self.use_tpu),
        ] {
            if on {
                return Err(config(key, on, "expected false"));
            }
        }
        if self.routes() {
            check_positive(&[
                ("sparsity_cluster_size", self.sparsity_cluster_size),
                (
                    "sparsity_cluster_attention_window",
                    self.sparsity_cluster_attention_window,
                ),
            ])?;
            if self.causal && !self.share_qk {
                let expected = "expected true with causal attention: the mask by rank would let the future through; or set model.causal to false";
                return Err(config("share_qk", false, expected));
            }
        }
        if self.strict_causal_routing && !self.causal {
            let expected = "expected false where attention is not causal";
            return Err(config("strict_causal_routing", true, expected));
        }
        let window = self.query_shape.length();
        let Some(window) = window.filter(|w| *w > 0) else {
            let found = format!("{:?}", self.query_shape);
            return Err(config(
                "query_shape",
                found,
                "expected one length of at least 1",
            ));
        };
        match self.memory_flange.length() {
            Some(flange) if flange.is_multiple_of(window) => {}
            _ => {
                let found = format!("{:?}", self.memory_flange);
                let expected = format!("expected a multiple of model.query_shape = {window}");
                return Err(config("memory_flange", found, expected));
            }
        }
        let relative = (self.local_relative && self.has_local_heads())
            || (self.sparsity_cluster_relative && self.routes());
        if relative && self.max_relative_position.is_none_or(|m| m == 0) {
            let found = format!("{:?}", self.max_relative_position);
            let expected = "expected at least 1 with relative embeddings";
            return Err(config("max_relative_position", found, expected));
        }
        if !["geglu", "relu", "conv_hidden_relu"].contains(&&*self.ffn_layer) {
            let expected = "expected \"geglu\", \"relu\" or \"conv_hidden_relu\"";
            return Err(config(
                "ffn_layer",
                format!("{:?}", self.ffn_layer),
                expected,
            ));
        }
        check_positive(&[("filter_size", self.filter_size)])?;
        self.validate_frame()?;
        let sequences = (
            &*self.layer_preprocess_sequence,
            &*self.layer_postprocess_sequence,
        );
        if !matches!(sequences, ("none", "dan") | ("n", "da")) {
            let expected =
                "expected \"none\" with \"dan\" (normalised after) or \"n\" with \"da\" (before)";
            return Err(config(
                "layer_postprocess_sequence",
                format!("{:?} with {:?} before it", sequences.1, sequences.0),
                expected,
            ));
        }
        for (key, rate) in [
            ("attention_dropout", self.attention_dropout),
            ("relu_dropout", self.relu_dropout),
            (
                "layer_prepostprocess_dropout",
                self.layer_prepostprocess_dropout,
            ),
            ("dropout", self.dropout),
            ("target_dropout", self.target_dropout),
            ("decay", self.decay),
        ] {
            check_rate(key, rate)?;
        }
        for (key, n) in [("beta", self.beta), ("norm_epsilon", self.norm_epsilon)] {
            if !(n >= 0.0 && n.is_finite()) {
                return Err(config(key, n, "expected 0 or a positive number"));
            }
        }
        if self.vocab_size == Some(0) {
            return Err(config("vocab_size", 0, "expected at least 1"));
        }
        check_size("hidden_size", self.hidden_size, self.parameters())
    }

    /// What only a picture has, and what only a text has.
    fn validate_frame(&self) -> Result<()> {
        if !self.unconditional {
            let expected = "expected true: there is no class to condition on here";
            return Err(config("unconditional", false, expected));
        }
        let Some(frame) = self.frame() else {
            for (key, given) in [
                ("num_channels", self.num_channels.is_some()),
                ("add_positional_emb", self.add_positional_emb.is_some()),
            ] {
                if given {
                    let expected = "expected nothing without frame_height and frame_width";
                    return Err(config(key, "given", expected));
                }
            }
            return Ok(());
        };
        check_positive(&[
            ("frame_height", frame.height),
            ("frame_width", frame.width),
            ("num_channels", frame.channels),
        ])?;
        if frame.height.max(frame.width).max(frame.channels) > 1 << 12 {
            let found = format!("{} x {} x {}", frame.height, frame.width, frame.channels);
            return Err(config(
                "frame_height",
                found,
                "expected at most 4096 in each direction",
            ));
        }
        if let Some(n) = self.vocab_size.filter(|n| *n != BYTES) {
            let expected = "expected 256 (or nothing): a picture is made of bytes";
            return Err(config("vocab_size", n, expected));
        }
        if self.embedding() != self.hidden_size {
            let expected = "expected nothing: bytes of pictures are embedded in the hidden size";
            return Err(config("embedding_dims", self.embedding(), expected));
        }
        for (key, on) in [
            ("add_timing_signal", self.add_timing_signal),
            ("target_dropout", self.target_dropout > 0.0),
        ] {
            if on {
                return Err(config(key, "on", "expected nothing: it belongs to texts"));
            }
        }
        match self.causal {
            true => Ok(()),
            false => Err(config("causal", false, "expected true for pictures")),
        }
    }

    /// The size of the pictures, where the model foretells pictures.
    pub fn frame(&self) -> Option<Frame> {
        let given = self.frame_height.is_some() || self.frame_width.is_some();
        given.then(|| Frame {
            height: self.frame_height.unwrap_or(0),
            width: self.frame_width.unwrap_or(0),
            channels: self.num_channels.unwrap_or(3),
        })
    }

    /// Whether rows, columns and channels have embeddings.
    pub fn has_positions(&self) -> bool {
        self.frame().is_some() && self.add_positional_emb.unwrap_or(true)
    }

    /// The vocabulary's size.
    ///
    /// # Errors
    /// If it is neither in the configuration nor taken from data.
    pub fn vocab(&self) -> Result<usize> {
        if self.frame().is_some() {
            return Ok(BYTES);
        }
        self.vocab_size.ok_or_else(|| {
            let expected =
                "a model built without a recipe's data must say how many token ids there are";
            config("vocab_size", "absent", expected)
        })
    }

    /// Width of the token embedding.
    pub fn embedding(&self) -> usize {
        self.embedding_dims.unwrap_or(self.hidden_size)
    }

    /// Heads of a layer.
    pub fn heads(&self) -> usize {
        self.local_num_heads
            .saturating_add(self.sparsity_cluster_num_heads)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.heads().max(1)
    }

    /// Routing heads of a layer.
    pub fn routing_heads(&self, layer: usize) -> usize {
        match layer < self.sparsity_skip_first {
            true => 0,
            false => self.sparsity_cluster_num_heads,
        }
    }

    /// Whether any layer has routing heads.
    pub fn routes(&self) -> bool {
        self.sparsity_cluster_num_heads > 0 && self.sparsity_skip_first < self.num_decoder_layers
    }

    fn has_local_heads(&self) -> bool {
        self.local_num_heads > 0 || self.sparsity_skip_first > 0
    }

    /// Length of a block of the local heads.
    pub fn block(&self) -> usize {
        self.query_shape.length().unwrap_or(1).max(1)
    }

    /// How many blocks before their own local heads see.
    pub fn blocks_back(&self) -> usize {
        self.memory_flange.length().unwrap_or(0) / self.block()
    }

    /// How far local heads see ahead where attention is not causal.
    pub(crate) fn memory_span(&self) -> f64 {
        (self.blocks_back() * self.block()) as f64
    }

    /// Whether branches are normalised before instead of after.
    pub fn pre_norm(&self) -> bool {
        self.layer_preprocess_sequence == "n"
    }

    /// Number of scalars in the weights, in f64 so that no size overflows; 0 ids where the vocabulary is not known.
    pub fn parameters(&self) -> f64 {
        let [d, e, f, h] = [
            self.hidden_size,
            self.embedding(),
            self.filter_size,
            self.head_dim(),
        ]
        .map(|x| x as f64);
        let vocab = self.vocab_size.unwrap_or(0) as f64;
        let table = 2.0 * (2.0 * self.max_relative_position.unwrap_or(0) as f64 + 1.0) * h;
        let on = |yes: bool, n: f64| if yes { n } else { 0.0 };
        let routing = self.sparsity_cluster_num_heads as f64 * self.sparsity_cluster_size as f64;
        let clusters = routing * (2.0 * h + 1.0) + on(self.sparsity_cluster_relative, table);
        let feed_forward = match &*self.ffn_layer {
            "geglu" => 3.0 * d * f,
            _ => 2.0 * d * f + f + d,
        };
        let layers = self.num_decoder_layers as f64;
        let routed = match self.sparsity_cluster_num_heads {
            0 => 0.0,
            _ => (layers - self.sparsity_skip_first as f64).max(0.0),
        };
        let local = match self.local_num_heads {
            0 => layers - routed,
            _ => layers,
        };
        let ends = match self.frame() {
            Some(frame) => {
                let bytes = BYTES as f64;
                let positions = 3.0 * frame.longest() as f64 * d;
                let channels = frame.channels as f64;
                bytes * channels * d + on(self.has_positions(), positions) + bytes * (d + 1.0)
            }
            None => vocab * (2.0 * e + 1.0) + e * d + d + on(e != d, d * e + e),
        };
        layers * (4.0 * d * d + h * h + 4.0 * d + feed_forward)
            + routed * clusters
            + local * on(self.local_relative, table)
            + ends
            + on(self.pre_norm(), 2.0 * d)
    }
}
