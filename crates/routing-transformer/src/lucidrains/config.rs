//! The configuration in the package's key names.

use crate::config::{Flavor, check_positive, check_rate, check_size};
use crate::error::{Result, config};
use serde::{Deserialize, Serialize};

/// Local heads of every layer, or one number for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum LocalHeads {
    /// The same in every layer.
    All(usize),
    /// First layer to last.
    Each(Vec<usize>),
}

/// What the package's model depends on. Keys marked as ours are not in the package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LucidrainsConfig {
    /// Written into `config.json`, so that a folder tells what it is.
    pub model_type: String,
    /// Always `lucidrains` here.
    pub flavor: Flavor,
    /// Number of token ids, id 0 being padding; a recipe takes it from the data.
    pub num_tokens: Option<usize>,
    /// Width of the hidden states.
    pub dim: usize,
    /// Number of layers.
    pub depth: usize,
    /// The longest text; with `window_size` it gives the number of clusters.
    pub max_seq_len: usize,
    /// Heads of a layer, local ones included.
    pub heads: usize,
    /// Width of a head; absent: `dim / heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim_head: Option<usize>,
    /// Members of a cluster.
    pub window_size: usize,
    /// Length of a block of the local heads; needed where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_attn_window_size: Option<usize>,
    /// Heads that attend to a block and its neighbours.
    pub n_local_attn_heads: LocalHeads,
    /// A position sees only those before it.
    pub causal: bool,
    /// Width of the token embedding; absent: `dim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emb_dim: Option<usize>,
    /// Routing heads use the normalised queries as keys; absent: as `causal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_qk: Option<bool>,
    /// Learned keys and values of every cluster.
    pub num_mem_kv: usize,
    /// Gated feed-forward layers.
    pub ff_glu: bool,
    /// Normalise by length alone.
    pub use_scale_norm: bool,
    /// No normalisation; branches start at zero.
    pub use_rezero: bool,
    /// The output layer is the embedding.
    pub tie_embedding: bool,
    /// Branches see some channels of the neighbouring positions.
    pub shift_tokens: bool,
    /// Decay of the centroids.
    pub kmeans_ema_decay: f64,
    /// Weight of the clustering loss; the package's language model knows only 1e−4.
    pub commitment_factor: f64,
    /// Dropout on attention weights.
    pub attn_dropout: f64,
    /// Dropout on the output of the attention.
    pub attn_layer_dropout: f64,
    /// Dropout inside the feed-forward layer.
    pub ff_dropout: f64,
    /// Clusters take their members from a position's past alone (ours).
    pub strict_causal_routing: bool,
}

impl Default for LucidrainsConfig {
    fn default() -> Self {
        Self {
            model_type: "routing-transformer".into(),
            flavor: Flavor::Lucidrains,
            num_tokens: None,
            dim: 512,
            depth: 6,
            max_seq_len: 4096,
            heads: 8,
            dim_head: None,
            window_size: 128,
            local_attn_window_size: None,
            n_local_attn_heads: LocalHeads::All(0),
            causal: false,
            emb_dim: None,
            shared_qk: None,
            num_mem_kv: 0,
            ff_glu: false,
            use_scale_norm: false,
            use_rezero: false,
            tie_embedding: false,
            shift_tokens: false,
            kmeans_ema_decay: 0.999,
            commitment_factor: 1e-4,
            attn_dropout: 0.0,
            attn_layer_dropout: 0.0,
            ff_dropout: 0.0,
            strict_causal_routing: false,
        }
    }
}

impl LucidrainsConfig {
    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        if self.flavor != Flavor::Lucidrains || self.model_type != "routing-transformer" {
            let found = format!("{:?} of model_type {:?}", self.flavor, self.model_type);
            let expected = "expected `lucidrains` of `routing-transformer`";
            return Err(config("flavor", found, expected));
        }
        check_positive(&[
            ("dim", self.dim),
            ("depth", self.depth),
            ("max_seq_len", self.max_seq_len),
            ("heads", self.heads),
            ("dim_head", self.head_dim()),
            ("window_size", self.window_size),
            ("emb_dim", self.embedding()),
        ])?;
        if self.dim_head.is_none() && !self.dim.is_multiple_of(self.heads) {
            let expected = format!(
                "expected a multiple of model.heads = {}, or model.dim_head beside it",
                self.heads
            );
            return Err(config("dim", self.dim, expected));
        }
        if !self.max_seq_len.is_multiple_of(self.window_size) {
            let expected = format!(
                "expected a multiple of model.window_size = {}",
                self.window_size
            );
            return Err(config("max_seq_len", self.max_seq_len, expected));
        }
        let local = self.local_heads()?;
        if local.iter().any(|n| *n > 0) {
            match self.local_attn_window_size {
                Some(0) => {
                    return Err(config("local_attn_window_size", 0, "expected at least 1"));
                }
                None => {
                    let expected = "expected the length of a block, as there are local heads";
                    return Err(config("local_attn_window_size", "absent", expected));
                }
                Some(_) => {}
            }
        }
        if !self.head_dim().is_multiple_of(2) {
            let expected = "expected an even number: rotary embeddings turn pairs of channels";
            return Err(config("dim_head", self.head_dim(), expected));
        }
        if self.strict_causal_routing && !self.causal {
            let expected = "expected false where attention is not causal";
            return Err(config("strict_causal_routing", true, expected));
        }
        if self.strict_causal_routing && !self.shared() {
            let expected = "expected false without shared_qk: a position is a query and a key of the same clusters";
            return Err(config("strict_causal_routing", true, expected));
        }
        for (key, rate) in [
            ("kmeans_ema_decay", self.kmeans_ema_decay),
            ("attn_dropout", self.attn_dropout),
            ("attn_layer_dropout", self.attn_layer_dropout),
            ("ff_dropout", self.ff_dropout),
        ] {
            check_rate(key, rate)?;
        }
        if !(self.commitment_factor >= 0.0 && self.commitment_factor.is_finite()) {
            let expected = "expected 0 or a positive number";
            return Err(config(
                "commitment_factor",
                self.commitment_factor,
                expected,
            ));
        }
        if self.num_tokens == Some(0) {
            return Err(config("num_tokens", 0, "expected at least 1"));
        }
        check_size("dim", self.dim, self.parameters())
    }

    /// The vocabulary's size.
    ///
    /// # Errors
    /// If it is neither in the configuration nor taken from data.
    pub fn vocab(&self) -> Result<usize> {
        self.num_tokens.ok_or_else(|| {
            let expected =
                "a model built without a recipe's data must say how many token ids there are";
            config("num_tokens", "absent", expected)
        })
    }

    /// Local heads of every layer.
    ///
    /// # Errors
    /// A list of another length than the depth, or more local heads than heads.
    pub fn local_heads(&self) -> Result<Vec<usize>> {
        let all = match &self.n_local_attn_heads {
            LocalHeads::All(n) => vec![*n; self.depth.min(1 << 16)],
            LocalHeads::Each(list) => list.clone(),
        };
        if all.len() != self.depth || all.iter().any(|n| *n > self.heads) {
            let found = format!("{:?}", self.n_local_attn_heads);
            let expected = format!(
                "expected one number or {} of them, each up to model.heads = {}",
                self.depth, self.heads
            );
            return Err(config("n_local_attn_heads", found, expected));
        }
        Ok(all)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim_head.unwrap_or(self.dim / self.heads.max(1))
    }

    /// Width of the token embedding.
    pub fn embedding(&self) -> usize {
        self.emb_dim.unwrap_or(self.dim)
    }

    /// Whether routing heads use the normalised queries as keys.
    pub fn shared(&self) -> bool {
        self.shared_qk.unwrap_or(self.causal)
    }

    /// Clusters of a head; fixed even for shorter texts.
    pub fn clusters(&self) -> usize {
        self.max_seq_len / self.window_size.max(1)
    }

    /// Learned keys and values of a cluster; where nothing else may be visible, there is at least one.
    pub fn memory_slots(&self) -> usize {
        let least = usize::from(self.causal && !self.shared());
        self.num_mem_kv.max(least)
    }

    /// Texts are padded to a multiple of this; 1 without local heads.
    pub fn pad_to(&self) -> usize {
        let local = self.local_heads().is_ok_and(|l| l.iter().any(|n| *n > 0));
        match self.local_attn_window_size {
            Some(n) if local => n.max(1),
            _ => 1,
        }
    }

    /// Number of scalars in the weights, in f64 so that no size overflows; 0 ids where the vocabulary is not known.
    pub fn parameters(&self) -> f64 {
        let [dim, e, d, heads, k] = [
            self.dim,
            self.embedding(),
            self.head_dim(),
            self.heads,
            self.clusters(),
        ]
        .map(|x| x as f64);
        let on = |yes: bool, n: f64| if yes { n } else { 0.0 };
        let vocab = self.num_tokens.unwrap_or(0) as f64;
        let slots = self.memory_slots() as f64;
        let norm = match (self.use_rezero, self.use_scale_norm) {
            (true, _) | (_, true) => 1.0,
            _ => 2.0 * dim,
        };
        let inner = dim * if self.ff_glu { 8.0 } else { 4.0 };
        let feed_forward = dim * inner + inner + 4.0 * dim * dim + dim;
        let layer = |local: usize| {
            let local = local as f64;
            let routing = heads - local;
            let maps = if self.shared() { 2.0 } else { 3.0 };
            on(local > 0.0, 3.0 * d * local * (dim + 1.0))
                + maps * dim * d * routing
                + heads * d * dim
                + routing * k * d * (1.0 + 2.0 * slots)
        };
        let attention: f64 = match self.local_heads() {
            Ok(all) => all.into_iter().map(layer).sum(),
            Err(_) => self.depth as f64 * layer(0),
        };
        attention
            + self.depth as f64 * (feed_forward + 2.0 * norm)
            + vocab * e
            + on(!self.tie_embedding, vocab * (e + 1.0))
            + 2.0 * e
            + on(e != dim, 2.0 * e * dim + e + dim)
    }
}
