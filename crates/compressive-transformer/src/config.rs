//! The configuration of the `deepmind` profile, in upstream's key names.

use crate::error::{Result, config};
use core_attn::adaptive_io::Clusters;
use serde::{Deserialize, Serialize};

/// Where the normalisations stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NormPlace {
    /// In front of each sublayer; memories hold normalised rows.
    #[default]
    Input,
    /// Behind each residual connection (Algorithm 1 of the paper); memories hold the layer's input.
    Output,
    /// In both places.
    Both,
}

/// What turns old rows into compressed ones (section 3.1 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CompressorKind {
    /// A strided convolution, with `dilation_rates` behind dilated ones.
    #[default]
    Conv,
    /// Pooling over windows; nothing is learned.
    Pool,
    /// The rows that were attended to most; nothing is learned.
    MostUsed,
}

/// The pooling of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Pooling {
    /// The mean.
    #[default]
    Avg,
    /// The maximum of each feature.
    Max,
}

/// What the compression function learns from (section 3.2 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CompressionLoss {
    /// The layer's attention should read from the compressed rows what it read from the old ones (Algorithm 2).
    #[default]
    Mha,
    /// A transposed convolution should restore the old rows.
    Ae,
    /// Nothing: the function stays as it was initialised.
    None,
    /// The task's loss, through the compressed memory of later chunks.
    Bptt,
}

/// How keys are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// Compressed rows and ordinary rows each count from the chunk on, with projections and biases of their own: the released
    /// code.
    #[default]
    Separate,
    /// One count over compressed memory, memory and chunk: the text of the paper.
    Contiguous,
}

/// Which attention decides what is most used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// That of the step in which a row leaves.
    #[default]
    Leaving,
    /// The mean over all steps of a row's life.
    Running,
}

/// Everything that changes parameters or the forward pass of the `deepmind` profile; what `config.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CompressiveTransformerConfig {
    /// Number of token ids; a recipe takes it from the data. Absent for a model of dense inputs.
    pub vocab_size: Option<usize>,
    /// Width of dense inputs, for which a layer `relu(x·W + b)` is put in front; absent for token ids.
    pub input_dim: Option<usize>,
    /// Tokens read at a time, n_s.
    pub chunk_size: usize,
    /// Rows of the ordinary memory of a layer, n_m.
    pub memory_size: usize,
    /// Rows of the compressed memory of a layer, n_cm; 0 makes it a Transformer-XL.
    pub compressed_memory_size: usize,
    /// How many rows become one, c.
    pub compression_rate: usize,
    /// Width of a head; the model is `value_size * num_heads` wide.
    pub value_size: usize,
    /// Attention heads of a layer.
    pub num_heads: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Widths of the feed-forward layer between its input and its output.
    pub mlp_hidden_sizes: Vec<usize>,
    /// Where the normalisations stand.
    pub layer_norm: NormPlace,
    /// What turns old rows into compressed ones.
    pub compressor: CompressorKind,
    /// The pooling, where the compressor pools.
    pub pooling: Pooling,
    /// What the windows of compressor are wider than `compression_rate`.
    pub kernel_size: usize,
    /// Dilations of the convolutions in front of the strided one.
    pub dilation_rates: Option<Vec<usize>>,
    /// What the compressor learns from; without effect where there is nothing to learn.
    pub compression_loss: CompressionLoss,
    /// Which attention decides what is most used, for that compressor.
    pub usage: Usage,
    /// Distances above count as this; 0 for no limit.
    pub clamp_time_range: usize,
    /// Hide one more of the oldest keys for each query, so that all see equally many.
    pub same_attention_length: bool,
    /// How keys are numbered.
    pub position: Position,
    /// Dropout of embeddings, position tables, attention weights, feed-forward layers and residual connections.
    pub dropout_rate: f64,
    /// Adaptive input and softmax, for large vocabularies sorted by frequency.
    pub adapt_io: bool,
    /// Whether the adaptive softmax shares vectors and projections with the input.
    pub adapt_io_tied: bool,
    /// How much narrower each further cluster is.
    pub adapt_io_divval: usize,
    /// First ids of the second and further clusters.
    pub adapt_io_cutoffs: Vec<usize>,
}

impl Default for CompressiveTransformerConfig {
    fn default() -> Self {
        Self {
            vocab_size: None,
            input_dim: None,
            chunk_size: 512,
            memory_size: 512,
            compressed_memory_size: 512,
            compression_rate: 4,
            value_size: 64,
            num_heads: 8,
            num_layers: 8,
            mlp_hidden_sizes: vec![1024],
            layer_norm: NormPlace::Input,
            compressor: CompressorKind::Conv,
            pooling: Pooling::Avg,
            kernel_size: 0,
            dilation_rates: None,
            compression_loss: CompressionLoss::Mha,
            usage: Usage::Leaving,
            clamp_time_range: 0,
            same_attention_length: false,
            position: Position::Separate,
            dropout_rate: 0.0,
            adapt_io: false,
            adapt_io_tied: false,
            adapt_io_divval: 4,
            adapt_io_cutoffs: vec![20_000, 40_000, 200_000],
        }
    }
}

impl CompressiveTransformerConfig {
    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        for (key, n) in [
            ("chunk_size", self.chunk_size),
            ("compression_rate", self.compression_rate),
            ("value_size", self.value_size),
            ("num_heads", self.num_heads),
            ("num_layers", self.num_layers),
        ] {
            if n == 0 {
                return Err(config(key, n, "expected at least 1"));
            }
        }
        if self.mlp_hidden_sizes.is_empty() || self.mlp_hidden_sizes.contains(&0) {
            return Err(config(
                "mlp_hidden_sizes",
                format!("{:?}", self.mlp_hidden_sizes),
                "expected one or more widths of at least 1",
            ));
        }
        if !self.width().is_multiple_of(2) {
            return Err(config(
                "value_size",
                self.value_size,
                "the width value_size * num_heads must be even, one half for sines and one for cosines",
            ));
        }
        if !(0.0..1.0).contains(&self.dropout_rate) {
            let expected = "expected a share in [0, 1)";
            return Err(config("dropout_rate", self.dropout_rate, expected));
        }
        if self.vocab_size == Some(0) || self.input_dim == Some(0) {
            return Err(config("vocab_size or input_dim", 0, "expected at least 1"));
        }
        if self.vocab_size.is_some() && self.input_dim.is_some() {
            return Err(config(
                "input_dim",
                self.input_dim.unwrap_or(0),
                "a model reads either token ids (vocab_size) or dense inputs (input_dim)",
            ));
        }
        if self.memory_size == 0 && self.compressed_memory_size > 0 {
            return Err(config(
                "memory_size",
                0,
                "without a memory nothing can be compressed; set model.compressed_memory_size to 0 as well",
            ));
        }
        if self.vocab_size.is_some() && self.adapt_io {
            self.clusters()?;
        }
        self.validate_compressor()?;
        // A size beyond any memory is a slip of the pen, and must not become an allocation that aborts.
        let rows = [
            self.chunk_size,
            self.memory_size,
            self.compressed_memory_size,
        ]
        .map(|n| n as f64)
        .iter()
        .sum::<f64>();
        let scalars = self.parameters() + rows * self.width() as f64;
        if scalars > 6.0e10 {
            return Err(config(
                "num_layers",
                self.num_layers,
                format!(
                    "the sizes together ask for {scalars:.1e} numbers, more than this program takes on"
                ),
            ));
        }
        Ok(())
    }

    fn validate_compressor(&self) -> Result<()> {
        if !self.compresses() {
            return Ok(());
        }
        let dilations = self.dilation_rates.as_deref().unwrap_or(&[]);
        if dilations.contains(&0) {
            let expected = "expected rates of at least 1";
            return Err(config("dilation_rates", "with a 0", expected));
        }
        if self.compressor != CompressorKind::Conv && !dilations.is_empty() {
            return Err(config(
                "dilation_rates",
                format!("{dilations:?}"),
                "only the compressor \"conv\" is dilated",
            ));
        }
        if self.compressor == CompressorKind::Conv
            && self.compression_loss == CompressionLoss::Ae
            && (self.kernel_size > 0 || !dilations.is_empty())
        {
            return Err(config(
                "compression_loss",
                "\"ae\"",
                "not available with kernel_size > 0 or dilation_rates: what is decoded would not have the length of what was compressed",
            ));
        }
        let lost: usize = dilations.iter().sum();
        let window = match self.compressor {
            CompressorKind::MostUsed => self.compression_rate,
            _ => self.window(),
        };
        let rows = self.compressed_rows(self.chunk_size, self.memory_size);
        if rows < window + lost {
            return Err(config(
                "compression_rate",
                self.compression_rate,
                format!(
                    "no window fits: {rows} rows are compressed at a time, and a window needs {} of them; use a longer chunk_size or memory_size, or smaller compression_rate, kernel_size or dilation_rates",
                    window + lost
                ),
            ));
        }
        Ok(())
    }

    /// What is worth saying about a configuration that is valid: rows lost, memory that is never filled.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = vec![];
        if !self.compresses() {
            return all;
        }
        let (n, c) = (self.chunk_size, self.compression_rate);
        let lost = n % c;
        if n > 1 && lost > 0 {
            all.push(format!(
                "model.chunk_size = {n} is no multiple of model.compression_rate = {c}: of every {n} rows that leave the memory the newest {lost} are dropped, not compressed"
            ));
        }
        let new = n / c;
        if self.compressed_memory_size < new {
            all.push(format!(
                "model.compressed_memory_size = {} holds fewer rows than one chunk gives ({new}): the older of them are dropped at once",
                self.compressed_memory_size
            ));
        }
        all
    }

    /// The model's width.
    pub fn width(&self) -> usize {
        self.value_size.saturating_mul(self.num_heads)
    }

    /// Rows of a compressor's window.
    pub fn window(&self) -> usize {
        self.compression_rate + self.kernel_size
    }

    /// Whether there is a compressed memory.
    pub fn compresses(&self) -> bool {
        self.compressed_memory_size > 0 && self.memory_size > 0
    }

    /// Whether the compressed memory has projections and biases of its own.
    pub(crate) fn separate(&self) -> bool {
        self.compresses() && self.position == Position::Separate
    }

    /// Whether the compressor learns from a loss of its own.
    pub fn has_compression_loss(&self) -> bool {
        self.compresses()
            && self.compressor == CompressorKind::Conv
            && matches!(
                self.compression_loss,
                CompressionLoss::Mha | CompressionLoss::Ae
            )
    }

    /// Whether the task's loss reaches the compressor.
    pub fn is_bptt(&self) -> bool {
        self.compresses()
            && self.compressor == CompressorKind::Conv
            && self.compression_loss == CompressionLoss::Bptt
    }

    /// How many of the oldest rows are handed to the compressor after a chunk.
    pub fn compressed_rows(&self, chunk: usize, memory: usize) -> usize {
        self.window()
            .max(chunk)
            .min((chunk + memory).saturating_sub(1))
    }

    /// How far back the model reaches, in tokens: `l·(n_m + c·n_cm)`.
    pub fn reach(&self) -> usize {
        let compressed = match self.compresses() {
            true => self.compression_rate * self.compressed_memory_size,
            false => 0,
        };
        self.num_layers * (self.memory_size + compressed)
    }

    /// The vocabulary's size.
    ///
    /// # Errors
    /// If it is neither in the configuration nor taken from data.
    pub fn vocab(&self) -> Result<usize> {
        self.vocab_size.ok_or_else(|| {
            config(
                "vocab_size",
                "absent",
                "a model of token ids that is built without a recipe's data must say how many ids there are",
            )
        })
    }

    pub(crate) fn clusters(&self) -> Result<Clusters> {
        let vocab = self.vocab()?;
        let cutoffs = &self.adapt_io_cutoffs;
        Clusters::new(vocab, self.width(), cutoffs, self.adapt_io_divval).map_err(|e| {
            let (key, found) = match e {
                core_attn::Error::Value {
                    argument: "div", ..
                } => ("adapt_io_divval", self.adapt_io_divval.to_string()),
                _ => ("adapt_io_cutoffs", format!("{cutoffs:?}")),
            };
            config(key, found, format!("{e}; the vocabulary has {vocab} ids"))
        })
    }

    /// Number of scalars in the weights, in f64 so that no size overflows; 0 ids where the vocabulary is not known.
    pub fn parameters(&self) -> f64 {
        let (d, h, k) = (
            self.value_size as f64 * self.num_heads as f64,
            self.num_heads as f64,
            self.value_size as f64,
        );
        let vocab = self.vocab_size.unwrap_or(0) as f64;
        let dense = self.input_dim.map_or(0.0, |n| n as f64 * d + d);
        let io = match (self.vocab_size.is_some() && self.adapt_io).then(|| self.clusters()) {
            Some(Ok(clusters)) => {
                let cluster =
                    |i: usize| clusters.width(i) as f64 * (clusters.range(i).len() as f64 + d);
                let once: f64 = (0..clusters.len()).map(cluster).sum();
                let tails = (clusters.len() - 1) as f64;
                once * if self.adapt_io_tied { 1.0 } else { 2.0 } + vocab + tails * (d + 1.0)
            }
            _ => vocab * (2.0 * d + 1.0),
        };
        let norms = match self.layer_norm {
            NormPlace::Both => 8.0 * d,
            _ => 4.0 * d,
        };
        let mut mlp = 0.0;
        let mut from = d;
        for &to in self.mlp_hidden_sizes.iter().chain([&self.width()]) {
            mlp += (from + 1.0) * to as f64;
            from = to as f64;
        }
        let separate = if self.separate() { d * d + h * k } else { 0.0 };
        let attention = 5.0 * d * d + 2.0 * h * k + d + separate;
        let compressor = match (self.compresses(), self.compressor) {
            (true, CompressorKind::Conv) => {
                let dilated = self.dilation_rates.as_ref().map_or(0, Vec::len) as f64;
                let decoder = f64::from(u8::from(self.compression_loss == CompressionLoss::Ae));
                d * d * (self.window() as f64 * (1.0 + decoder) + 2.0 * dilated)
            }
            _ => 0.0,
        };
        dense + io + self.num_layers as f64 * (norms + mlp + attention + compressor)
    }
}
