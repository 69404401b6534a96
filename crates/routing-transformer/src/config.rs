//! The model's configuration: two flavors, each in its reference's key names.

use crate::error::{Result, config};
use crate::lucidrains::LucidrainsConfig;
use crate::paper::PaperConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Whose model it is. The two differ in normalisation, update of the centroids, positions and much else; the weights of one
/// mean nothing to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Flavor {
    /// The authors' model.
    #[default]
    Paper,
    /// The PyTorch package `routing-transformer`.
    Lucidrains,
}

/// How the positions of a cluster are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EmaCountRule {
    /// Every head counts its own: what the paper describes.
    #[default]
    PerHead,
    /// As the published code does, whose counts mix the heads.
    Reference,
}

/// Everything that changes parameters or the forward pass; what `config.json` holds.
///
/// The key `flavor` (`paper` where absent) says which other keys there are: those of [`PaperConfig`] or of
/// [`LucidrainsConfig`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant)] // there is one of it, not a list
pub enum RoutingTransformerConfig {
    /// The authors' model.
    Paper(PaperConfig),
    /// The PyTorch package's.
    Lucidrains(LucidrainsConfig),
}

impl From<PaperConfig> for RoutingTransformerConfig {
    fn from(config: PaperConfig) -> Self {
        Self::Paper(config)
    }
}

impl From<LucidrainsConfig> for RoutingTransformerConfig {
    fn from(config: LucidrainsConfig) -> Self {
        Self::Lucidrains(config)
    }
}

impl RoutingTransformerConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a wrong type or a value the model cannot have, each with its JSON path.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let config = Self::from_value(pretrained::read_json(path)?, path, "")?;
        config.validate()?;
        Ok(config)
    }

    /// Reads a JSON object; `file` and the path `at` are named in errors. Values are not checked.
    ///
    /// # Errors
    /// An unknown key or a wrong type.
    pub fn from_value(value: Value, file: &Path, at: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Tag {
            #[serde(default)]
            flavor: Flavor,
        }
        let tag = match &value {
            Value::Object(map) => map.get("flavor").cloned(),
            _ => None,
        };
        let tag = serde_json::Map::from_iter(tag.map(|flavor| ("flavor".to_owned(), flavor)));
        let tag: Tag = pretrained::parse_value(Value::Object(tag), file, at)?;
        Ok(match tag.flavor {
            Flavor::Paper => Self::Paper(pretrained::parse_value(value, file, at)?),
            Flavor::Lucidrains => Self::Lucidrains(pretrained::parse_value(value, file, at)?),
        })
    }

    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Paper(c) => c.validate(),
            Self::Lucidrains(c) => c.validate(),
        }
    }

    /// Whose model it is.
    pub fn flavor(&self) -> Flavor {
        match self {
            Self::Paper(_) => Flavor::Paper,
            Self::Lucidrains(_) => Flavor::Lucidrains,
        }
    }

    /// The number of token ids, with id 0 for padding (of a picture: the values of a byte).
    pub fn vocab(&self) -> Option<usize> {
        match self {
            Self::Paper(c) => c.vocab().ok(),
            Self::Lucidrains(c) => c.num_tokens,
        }
    }

    /// The same configuration with another number of token ids.
    #[must_use]
    pub fn with_vocab(mut self, ids: usize) -> Self {
        match &mut self {
            Self::Paper(c) => c.vocab_size = Some(ids),
            Self::Lucidrains(c) => c.num_tokens = Some(ids),
        }
        self
    }

    /// The key that holds the number of token ids.
    pub fn vocab_key(&self) -> &'static str {
        match self {
            Self::Paper(_) => "vocab_size",
            Self::Lucidrains(_) => "num_tokens",
        }
    }

    /// Whether a position sees only those before it.
    pub fn causal(&self) -> bool {
        match self {
            Self::Paper(c) => c.causal,
            Self::Lucidrains(c) => c.causal,
        }
    }

    /// Whether clusters take their members from a position's past alone.
    pub fn strict_causal_routing(&self) -> bool {
        match self {
            Self::Paper(c) => c.strict_causal_routing,
            Self::Lucidrains(c) => c.strict_causal_routing,
        }
    }

    /// Whether [`RoutingTransformerConfig::strict_causal_routing`] is off and could be on.
    pub fn could_be_strict(&self) -> bool {
        let mut strict = self.clone();
        match &mut strict {
            Self::Paper(c) => c.strict_causal_routing = true,
            Self::Lucidrains(c) => c.strict_causal_routing = true,
        }
        !self.strict_causal_routing() && strict.validate().is_ok()
    }

    /// The size of the pictures, where the model foretells pictures and not texts.
    pub fn frame(&self) -> Option<crate::paper::Frame> {
        match self {
            Self::Paper(c) => c.frame(),
            Self::Lucidrains(_) => None,
        }
    }

    /// The longest text the model takes, where there is a limit.
    pub fn longest(&self) -> Option<usize> {
        match self {
            Self::Paper(c) => c.frame().map(|f| f.size()),
            Self::Lucidrains(c) => Some(c.max_seq_len),
        }
    }

    /// How many tokens back the output can depend on, in a text of `length` tokens: all of them where a head routes, else what the
    /// local heads of all layers see beyond their own blocks.
    pub fn reach(&self, length: usize) -> usize {
        let local = match self {
            Self::Paper(c) if c.routes() => return length,
            Self::Paper(c) => c.num_decoder_layers * c.memory_flange.length().unwrap_or(0),
            Self::Lucidrains(c) => {
                let heads = c.local_heads().unwrap_or_default();
                if heads.iter().any(|local| *local < c.heads) {
                    return length;
                }
                // The package looks back one block.
                c.depth * c.local_attn_window_size.unwrap_or(length)
            }
        };
        local.min(length)
    }

    /// Decay of the centroids' averages.
    pub fn decay(&self) -> f64 {
        match self {
            Self::Paper(c) => c.decay,
            Self::Lucidrains(c) => c.kmeans_ema_decay,
        }
    }

    /// About how many bytes a training step takes on a CPU: the weights with `slots` numbers of the optimiser for each, their
    /// gradients and a new copy, and what the backward pass keeps of `rows` texts of `length` tokens. In f64, so that no size
    /// overflows.
    pub fn training_bytes(&self, rows: usize, length: usize, slots: f64) -> f64 {
        let n = length as f64;
        let vocab = self.vocab().unwrap_or(0) as f64;
        // Numbers kept for every token: what layers, heads and feed-forward layers write, and the scores of every key seen.
        let (parameters, layers, per_token) = match self {
            Self::Paper(c) => {
                let d = c.hidden_size as f64;
                let layers = c.num_decoder_layers;
                let span = (c.blocks_back() + 1) as f64 * c.block() as f64;
                let span = if c.causal {
                    span
                } else {
                    span + c.memory_span()
                };
                let members = c.sparsity_cluster_attention_window as f64;
                let share = c.sparsity_cluster_size as f64 * members / n;
                let one = |layer: usize| {
                    let routing = c.routing_heads(layer) as f64;
                    let local = c.heads() as f64 - routing;
                    let inner = match &*c.ffn_layer {
                        "geglu" => 3.0,
                        _ => 2.0,
                    };
                    let tables = |on: bool| if on { 1.0 } else { 0.0 };
                    SCORES * (local * span + routing * share * members)
                        + tables(c.local_relative) * local * span
                        + tables(c.sparsity_cluster_relative) * routing * share * members
                        + ROWS * d
                        + (span / c.block() as f64 + share) * d
                        + inner * c.filter_size as f64
                };
                (c.parameters(), layers, (0..layers).map(one).sum::<f64>())
            }
            Self::Lucidrains(c) => {
                let d = c.dim as f64;
                let width = c.head_dim() as f64;
                let members = c.window_size as f64;
                let share = c.clusters() as f64 * members / n;
                let block = c.local_attn_window_size.unwrap_or(0) as f64;
                let blocks = if c.causal { 2.0 } else { 3.0 };
                let locals = c.local_heads().unwrap_or_default();
                let one = |local: &usize| {
                    let routing = (c.heads - local.min(&c.heads)) as f64;
                    let local = *local as f64;
                    SCORES * (local * blocks * block + routing * share * members)
                        + ROWS * d
                        + 3.0 * width * (local * blocks + routing * share)
                        + if c.ff_glu { 16.0 } else { 8.0 } * d
                };
                (c.parameters(), c.depth, locals.iter().map(one).sum::<f64>())
            }
        };
        let ends = LOGITS * vocab;
        let kept = rows as f64 * n * (per_token + ends);
        // The backward pass of one layer works on copies of what that layer kept.
        let working = rows as f64 * n * per_token / layers.max(1) as f64;
        PROGRAM + 4.0 * (parameters * (3.0 + slots) + kept + working)
    }

    /// One line that says what the model is made of.
    pub fn summary(&self) -> String {
        match self {
            Self::Paper(c) => format!(
                "paper flavor, {} layers of {} local and {} routing heads, hidden size {}, {} clusters of {}",
                c.num_decoder_layers,
                c.local_num_heads,
                c.sparsity_cluster_num_heads,
                c.hidden_size,
                c.sparsity_cluster_size,
                c.sparsity_cluster_attention_window,
            ),
            Self::Lucidrains(c) => format!(
                "lucidrains flavor, {} layers of {} heads ({:?} of them local), dim {}, {} clusters of {}",
                c.depth,
                c.heads,
                c.local_heads().unwrap_or_default(),
                c.dim,
                c.clusters(),
                c.window_size,
            ),
        }
    }
}

/// Copies of the attention scores, of a layer's rows and of the logits that a step keeps; measured on recipes of both flavors.
const SCORES: f64 = 1.5;
const ROWS: f64 = 8.0;
/// The program itself, in bytes.
const PROGRAM: f64 = 3.0e7;
const LOGITS: f64 = 3.0;

/// A rate in `[0, 1)`.
pub(crate) fn check_rate(key: &'static str, rate: f64) -> Result<()> {
    match (0.0..1.0).contains(&rate) {
        true => Ok(()),
        false => Err(config(key, rate, "expected a share in [0, 1)")),
    }
}

/// Numbers that must not be 0.
pub(crate) fn check_positive(all: &[(&'static str, usize)]) -> Result<()> {
    match all.iter().find(|(_, n)| *n == 0) {
        Some((key, n)) => Err(config(key, n, "expected at least 1")),
        None => Ok(()),
    }
}

/// A size beyond any memory is a slip of the pen, and must not become an allocation that aborts.
pub(crate) fn check_size(key: &'static str, found: usize, parameters: f64) -> Result<()> {
    match parameters > 6.0e10 {
        true => Err(config(
            key,
            found,
            format!(
                "the sizes together ask for {parameters:.1e} parameters, more than this program takes on"
            ),
        )),
        false => Ok(()),
    }
}

#[cfg(feature = "train")]
impl schemars::JsonSchema for RoutingTransformerConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RoutingTransformerConfig".into()
    }

    /// The keys of both flavors side by side; `flavor` says which of them a file may hold.
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut all = PaperConfig::json_schema(generator);
        let other = LucidrainsConfig::json_schema(generator);
        let properties = other.as_object().and_then(|o| o.get("properties")).cloned();
        let merged = all.as_object_mut().and_then(|o| o.get_mut("properties"));
        if let (Some(Value::Object(merged)), Some(Value::Object(more))) = (merged, properties) {
            for (key, value) in more {
                merged.entry(key).or_insert(value);
            }
        }
        all
    }
}
