//! The model's configuration, in upstream's key names.

use crate::error::{Result, config};
use core_attn::adaptive_io::Clusters;
use core_attn::span::SoftSpanMask;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where a head's span comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SpanKind {
    /// One learned number per head.
    #[default]
    Static,
    /// A function of the query, `σ(v·x + b)` per head and position. It is in the paper but not in
    /// the published code, so no numbers of the reference stand behind it.
    Dynamic,
}

/// Everything that changes parameters or the forward pass; what `config.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveSpanConfig {
    /// Written into `config.json`, so that a folder tells what it is.
    pub model_type: String,
    /// Number of token ids; a recipe takes it from the data.
    pub vocab_size: Option<usize>,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward layer; ignored with persistent memory.
    pub inner_hidden_size: usize,
    /// Number of layers.
    pub nb_layers: usize,
    /// Attention heads of a layer.
    pub nb_heads: usize,
    /// Longest span of a head, in tokens.
    pub attn_span: usize,
    /// Dropout on attention weights and after the ReLU.
    pub dropout: f64,
    /// Dropout after the embedding and before the output layer.
    pub emb_dropout: f64,
    /// Persistent vectors per head instead of a feed-forward layer; 0 for none.
    pub pers_mem_size: usize,
    /// Whether heads learn their span.
    #[serde(alias = "adapt_span")]
    pub adapt_span_enabled: bool,
    /// Where the span comes from.
    pub adapt_span_kind: SpanKind,
    /// Weight λ of the span penalty, per token of span.
    pub adapt_span_loss: f64,
    /// Length of the soft window's ramp, in tokens.
    pub adapt_span_ramp: usize,
    /// Initial span as a fraction of `attn_span`.
    pub adapt_span_init: f64,
    /// Whether caches shrink with the spans.
    pub adapt_span_cache: bool,
    /// Adaptive input and softmax, for large vocabularies sorted by frequency.
    pub adapt_io: bool,
    /// Whether the adaptive softmax shares vectors and projections with the input.
    pub adapt_io_tied: bool,
    /// How much narrower each further cluster is.
    pub adapt_io_divval: usize,
    /// First ids of the second and further clusters.
    pub adapt_io_cutoffs: Vec<usize>,
}

impl Default for AdaptiveSpanConfig {
    fn default() -> Self {
        Self {
            model_type: "adaptive-span".into(),
            vocab_size: None,
            hidden_size: 256,
            inner_hidden_size: 1024,
            nb_layers: 8,
            nb_heads: 4,
            attn_span: 1024,
            dropout: 0.0,
            emb_dropout: 0.0,
            pers_mem_size: 0,
            adapt_span_enabled: true,
            adapt_span_kind: SpanKind::Static,
            adapt_span_loss: 0.0,
            adapt_span_ramp: 32,
            adapt_span_init: 0.0,
            adapt_span_cache: true,
            adapt_io: false,
            adapt_io_tied: false,
            adapt_io_divval: 4,
            adapt_io_cutoffs: vec![20_000, 40_000, 200_000],
        }
    }
}

impl AdaptiveSpanConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a wrong type or a value the model cannot have, each with its JSON path.
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
        if self.model_type != "adaptive-span" {
            return Err(config(
                "model_type",
                format!("{:?}", self.model_type),
                "expected \"adaptive-span\"",
            ));
        }
        for (key, n) in [
            ("hidden_size", self.hidden_size),
            ("nb_layers", self.nb_layers),
            ("nb_heads", self.nb_heads),
            ("attn_span", self.attn_span),
            ("adapt_span_ramp", self.adapt_span_ramp),
        ] {
            if n == 0 {
                return Err(config(key, n, "expected at least 1"));
            }
        }
        if self.inner_hidden_size == 0 && self.pers_mem_size == 0 {
            return Err(config(
                "inner_hidden_size",
                0,
                "expected at least 1 without persistent memory",
            ));
        }
        if !self.hidden_size.is_multiple_of(self.nb_heads) {
            let expected = format!("expected a multiple of model.nb_heads = {}", self.nb_heads);
            return Err(config("hidden_size", self.hidden_size, expected));
        }
        for (key, rate) in [("dropout", self.dropout), ("emb_dropout", self.emb_dropout)] {
            if !(0.0..1.0).contains(&rate) {
                return Err(config(key, rate, "expected a share in [0, 1)"));
            }
        }
        if !(0.0..=1.0).contains(&self.adapt_span_init) {
            return Err(config(
                "adapt_span_init",
                self.adapt_span_init,
                "expected a fraction in [0, 1]",
            ));
        }
        if !(self.adapt_span_loss >= 0.0 && self.adapt_span_loss.is_finite()) {
            return Err(config(
                "adapt_span_loss",
                self.adapt_span_loss,
                "expected 0 or a positive number",
            ));
        }
        if self.adapt_span_kind == SpanKind::Dynamic && self.pers_mem_size > 0 {
            return Err(config(
                "adapt_span_kind",
                "\"dynamic\"",
                "not available with persistent memory; set model.pers_mem_size to 0",
            ));
        }
        match self.vocab_size {
            Some(0) => return Err(config("vocab_size", 0, "expected at least 1")),
            Some(_) if self.adapt_io => drop(self.clusters()?),
            _ => {}
        }
        // A size beyond any memory is a slip of the pen, and must not become an allocation that aborts.
        let parameters = self.parameters();
        if self.nb_layers > 10_000 {
            return Err(config(
                "nb_layers",
                self.nb_layers,
                "expected at most 10000",
            ));
        }
        if parameters > 5.0e9 {
            return Err(config(
                "hidden_size",
                self.hidden_size,
                format!(
                    "the sizes together ask for {parameters:.1e} parameters, more than this program takes on"
                ),
            ));
        }
        Ok(())
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
                "a model built without a recipe's data must say how many token ids there are",
            )
        })
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.nb_heads.max(1)
    }

    /// The soft window, or `None` for a model whose heads all see `attn_span` tokens.
    pub(crate) fn window(&self) -> Result<Option<SoftSpanMask>> {
        let window = SoftSpanMask::new(self.attn_span, self.adapt_span_ramp)?;
        Ok(self.adapt_span_enabled.then_some(window))
    }

    pub(crate) fn dynamic(&self) -> bool {
        self.adapt_span_enabled && self.adapt_span_kind == SpanKind::Dynamic
    }

    pub(crate) fn clusters(&self) -> Result<Clusters> {
        let vocab = self.vocab()?;
        let cutoffs = &self.adapt_io_cutoffs;
        Clusters::new(vocab, self.hidden_size, cutoffs, self.adapt_io_divval).map_err(|e| {
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
        let [h, f, k, l, n, layers] = [
            self.hidden_size,
            self.inner_hidden_size,
            self.nb_heads,
            self.attn_span,
            self.pers_mem_size,
            self.nb_layers,
        ]
        .map(|x| x as f64);
        let vocab = self.vocab_size.unwrap_or(0) as f64;
        let rest = if self.pers_mem_size > 0 {
            2.0 * h * n
        } else {
            2.0 * h * f + f + 3.0 * h
        };
        let span = match (self.adapt_span_enabled, self.adapt_span_kind) {
            (false, _) => 0.0,
            (true, SpanKind::Static) => k,
            (true, SpanKind::Dynamic) => k * (h + 1.0),
        };
        let io = match self.adapt_io.then(|| self.clusters()) {
            Some(Ok(clusters)) => {
                let cluster =
                    |i: usize| clusters.width(i) as f64 * (clusters.range(i).len() as f64 + h);
                let once: f64 = (0..clusters.len()).map(cluster).sum();
                let tails = (clusters.len() - 1) as f64;
                once * if self.adapt_io_tied { 1.0 } else { 2.0 } + vocab + tails * (h + 1.0)
            }
            _ => vocab * (2.0 * h + 1.0),
        };
        io + h / k * l + layers * (4.0 * h * h + 2.0 * h + rest + span)
    }
}
