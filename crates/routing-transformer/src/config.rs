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
