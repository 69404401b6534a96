//! The configuration of the `lucidrains` profile, in that package's key names.

use crate::error::{Result, config};
use crate::memory::MemorySizes;
use serde::{Deserialize, Serialize};

/// Everything that changes parameters or the forward pass of the `lucidrains` profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LucidrainsConfig {
    /// Number of token ids; a recipe takes it from the data.
    #[serde(default)]
    pub num_tokens: Option<usize>,
    /// Width of the model.
    pub dim: usize,
    /// Number of layers.
    pub depth: usize,
    /// Tokens read at a time.
    pub seq_len: usize,
    /// Width of the embeddings; absent: `dim`.
    #[serde(default)]
    pub emb_dim: Option<usize>,
    /// Rows of the ordinary memory; absent: `seq_len`.
    #[serde(default)]
    pub mem_len: Option<usize>,
    /// Rows of the compressed memory; absent: `mem_len / cmem_ratio`.
    #[serde(default)]
    pub cmem_len: Option<usize>,
    /// How many rows become one.
    #[serde(default = "four")]
    pub cmem_ratio: usize,
    /// Attention heads of a layer.
    #[serde(default = "eight")]
    pub heads: usize,
    /// Layers that have memories, counted from 1; absent: all.
    #[serde(default)]
    pub memory_layers: Option<Vec<usize>>,
    /// Whether a layer reads the memory that the next one wrote.
    #[serde(default = "yes")]
    pub enhanced_recurrence: bool,
    /// Whether residual connections are gated.
    #[serde(default = "yes")]
    pub gru_gated_residual: bool,
    /// Whether the feed-forward layer is a gated linear unit.
    #[serde(default)]
    pub ff_glu: bool,
    /// Weight of the compression loss.
    #[serde(default = "one")]
    pub reconstruction_loss_weight: f64,
    /// Not supported.
    #[serde(default)]
    pub mogrify_gru: bool,
    /// Not supported.
    #[serde(default)]
    pub one_kv_head: bool,
}

fn four() -> usize {
    4
}

fn eight() -> usize {
    8
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

impl LucidrainsConfig {
    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        for (key, n) in [
            ("dim", self.dim),
            ("depth", self.depth),
            ("seq_len", self.seq_len),
            ("heads", self.heads),
            ("cmem_ratio", self.cmem_ratio),
            ("emb_dim", self.emb_dim()),
            ("num_tokens", self.num_tokens.unwrap_or(1)),
        ] {
            if n == 0 {
                return Err(config(key, 0, "expected at least 1"));
            }
        }
        if !self.dim.is_multiple_of(self.heads) {
            let expected = format!("expected a multiple of model.heads = {}", self.heads);
            return Err(config("dim", self.dim, expected));
        }
        for (key, on) in [
            ("mogrify_gru", self.mogrify_gru),
            ("one_kv_head", self.one_kv_head),
        ] {
            if on {
                return Err(config(key, true, "not supported; set it to false"));
            }
        }
        let sizes = self.sizes();
        if sizes.episodic < self.seq_len {
            let expected = format!("expected at least model.seq_len = {}", self.seq_len);
            return Err(config("mem_len", sizes.episodic, expected));
        }
        if sizes.compressed > 0 && sizes.compressed < sizes.episodic / self.cmem_ratio {
            let expected = format!(
                "expected 0 or at least mem_len / cmem_ratio = {}",
                sizes.episodic / self.cmem_ratio
            );
            return Err(config("cmem_len", sizes.compressed, expected));
        }
        if sizes.compressed > 0 && self.seq_len < self.cmem_ratio {
            let expected = format!(
                "expected at most model.seq_len = {}, or no window fits",
                self.seq_len
            );
            return Err(config("cmem_ratio", self.cmem_ratio, expected));
        }
        let layers = self.memory_layers();
        let known = 1..=self.depth;
        let rising = layers.windows(2).all(|w| w[0] < w[1]);
        if !rising || !layers.iter().all(|l| known.contains(l)) {
            let expected = format!("expected rising numbers in 1..={}", self.depth);
            return Err(config("memory_layers", format!("{layers:?}"), expected));
        }
        if !self.reconstruction_loss_weight.is_finite() {
            let found = self.reconstruction_loss_weight;
            return Err(config(
                "reconstruction_loss_weight",
                found,
                "expected a finite number",
            ));
        }
        let scalars = self.parameters();
        if scalars > 6.0e10 {
            return Err(config(
                "dim",
                self.dim,
                format!(
                    "the sizes together ask for {scalars:.1e} numbers, more than this program takes on"
                ),
            ));
        }
        Ok(())
    }

    /// Width of the embeddings.
    pub fn emb_dim(&self) -> usize {
        self.emb_dim.unwrap_or(self.dim)
    }

    /// The sizes of the memories.
    pub fn sizes(&self) -> MemorySizes {
        let episodic = self.mem_len.unwrap_or(self.seq_len);
        let compressed = self.cmem_len.unwrap_or(episodic / self.cmem_ratio.max(1));
        MemorySizes {
            episodic,
            compressed,
        }
    }

    /// Layers that have memories, counted from 1.
    pub fn memory_layers(&self) -> Vec<usize> {
        let all = || (1..=self.depth).collect();
        self.memory_layers.clone().unwrap_or_else(all)
    }

    /// Rows of the position table.
    pub fn positions(&self) -> usize {
        let sizes = self.sizes();
        self.seq_len
            .saturating_add(sizes.episodic)
            .saturating_add(sizes.compressed)
    }

    /// The vocabulary's size.
    ///
    /// # Errors
    /// If it is neither in the configuration nor taken from data.
    pub fn vocab(&self) -> Result<usize> {
        self.num_tokens.ok_or_else(|| {
            config(
                "num_tokens",
                "absent",
                "a model built without a recipe's data must say how many token ids there are",
            )
        })
    }

    /// Number of scalars in the weights, in f64 so that no size overflows; 0 ids where the vocabulary is not known.
    pub fn parameters(&self) -> f64 {
        let (d, e) = (self.dim as f64, self.emb_dim() as f64);
        let vocab = self.num_tokens.unwrap_or(0) as f64;
        let widths = if self.emb_dim() == self.dim {
            0.0
        } else {
            2.0 * d * e + d + e
        };
        let gates = if self.gru_gated_residual {
            2.0 * (6.0 * d * d + 6.0 * d)
        } else {
            0.0
        };
        let glu = if self.ff_glu { 2.0 } else { 1.0 };
        let attention = 4.0 * d * d + d;
        let ff = 4.0 * d * glu * (d + 1.0) + 4.0 * d * d + d;
        let compressor = self.cmem_ratio as f64 * d * d + d;
        let layer = gates + attention + ff + compressor + 4.0 * d;
        vocab * (2.0 * e + 1.0) + widths + self.positions() as f64 * d + self.depth as f64 * layer
    }
}
