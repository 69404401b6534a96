//! A language model of either flavor, with its folder.

use crate::config::RoutingTransformerConfig;
use crate::error::{Result, config as wrong};
use crate::layers::{Mode, Output, Routed};
use crate::lucidrains::{LucidrainsTransformer, take_initted};
use crate::paper::{PaperTransformer, prefix};
use burn::module::Module;
use burn::prelude::*;
use core_attn::pointwise;
use core_attn::random::Key;
use pretrained::{LoadOptions, NamedTensors};
use std::path::Path;

/// The file that holds the weights in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The file that holds the configuration in a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// The id that stands for no token: it is never scored.
pub const PADDING: u32 = 0;

/// A Routing Transformer of either flavor.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one of it, not a list
pub enum RoutingTransformerLM {
    /// The authors' model.
    Paper(PaperTransformer),
    /// The PyTorch package's.
    Lucidrains(LucidrainsTransformer),
}

impl RoutingTransformerConfig {
    /// A freshly initialised model, drawn from `key`.
    ///
    /// # Errors
    /// A configuration that [`RoutingTransformerConfig::validate`] refuses, or one without a vocabulary size.
    pub fn init(&self, key: Key, device: &Device) -> Result<RoutingTransformerLM> {
        Ok(match self {
            Self::Paper(c) => RoutingTransformerLM::Paper(c.init(key, device)?),
            Self::Lucidrains(c) => RoutingTransformerLM::Lucidrains(c.init(key, device)?),
        })
    }
}

/// Mean cross-entropy in nats, `[1]`, of logits `[batch, length, vocab]` over the targets `[batch, length]` that are not
/// padding, and their number. Without any it is 0.
///
/// # Errors
/// Targets of another shape than the logits.
pub fn cross_entropy(logits: Tensor<3>, targets: Tensor<2, Int>) -> Result<(Tensor<1>, usize)> {
    let [batch, length, vocab] = logits.dims();
    let rows = batch * length;
    let scored: Vec<bool> = targets
        .clone()
        .into_data()
        .iter::<i64>()
        .map(|id| id != i64::from(PADDING))
        .collect();
    let count = scored.iter().filter(|s| **s).count();
    let logits = logits.reshape([rows, vocab]);
    let device = logits.device();
    let nll = pointwise::cross_entropy(logits, targets.flatten(0, 1))?;
    let nll = match count == rows {
        true => nll,
        false => {
            let left: Vec<bool> = scored.iter().map(|s| !s).collect();
            let n = left.len();
            let left = Tensor::<1, Bool>::from_data(TensorData::new(left, [n]), &device);
            nll.mask_fill(left, 0.0)
        }
    };
    Ok((nll.sum().div_scalar(count.max(1) as f64), count))
}

/// Mean cross-entropy in nats, `[1]`, of logits `[batch, length, 256]` over bytes of pictures `[batch, length]`, of which
/// all count.
///
/// # Errors
/// Targets of another shape than the logits.
pub fn cross_entropy_of_bytes(logits: Tensor<3>, targets: Tensor<2, Int>) -> Result<Tensor<1>> {
    let [batch, length, values] = logits.dims();
    let logits = logits.reshape([batch * length, values]);
    let nll = pointwise::cross_entropy(logits, targets.flatten(0, 1))?;
    Ok(nll.mean())
}

impl RoutingTransformerLM {
    /// The model's configuration.
    pub fn config(&self) -> RoutingTransformerConfig {
        match self {
            Self::Paper(m) => m.config().clone().into(),
            Self::Lucidrains(m) => m.config().clone().into(),
        }
    }

    /// Runs ids `[batch, length]`: the logits at a position of a causal model foretell the next token.
    ///
    /// The authors' model is given its text shifted by one, with id 0 in front: see [`PaperTransformer::shifted`].
    ///
    /// # Errors
    /// No tokens, ids outside the vocabulary, or more than the model takes.
    pub fn forward(&self, ids: Tensor<2, Int>, mode: Mode) -> Result<Output> {
        match self {
            Self::Paper(m) => m.forward(ids, mode),
            Self::Lucidrains(m) => m.forward(ids, None, mode),
        }
    }

    /// The model with its centroids moved by what forward passes saw, one list per shard of the batch.
    #[must_use]
    pub fn with_centroids(self, passes: &[Vec<Routed>]) -> Self {
        match self {
            Self::Paper(m) => Self::Paper(m.with_centroids(passes)),
            Self::Lucidrains(m) => Self::Lucidrains(m.with_centroids(passes)),
        }
    }

    /// Whether centroids still wait for their first data; only the package's take theirs from data.
    pub fn needs_first_data(&self) -> bool {
        match self {
            Self::Paper(_) => false,
            Self::Lucidrains(m) => m.needs_first_data(),
        }
    }

    /// The model with centroids taken from these ids, where they wait for it.
    ///
    /// # Errors
    /// As [`RoutingTransformerLM::forward`].
    pub fn with_first_data(self, ids: Tensor<2, Int>, key: Key) -> Result<Self> {
        match self {
            Self::Lucidrains(m) if m.needs_first_data() => {
                Ok(Self::Lucidrains(m.with_first_data(ids, None, key)?))
            }
            other => Ok(other),
        }
    }

    /// Which layers took their centroids from data; empty for the authors' model.
    pub(crate) fn initted(&self) -> Vec<bool> {
        match self {
            Self::Paper(_) => vec![],
            Self::Lucidrains(m) => m
                .layers
                .iter()
                .map(|l| {
                    l.attention
                        .routing
                        .as_ref()
                        .is_none_or(|h| h.kmeans.initted)
                })
                .collect(),
        }
    }

    /// Restores what [`RoutingTransformerLM::initted`] said.
    pub(crate) fn with_initted(mut self, flags: &[bool]) -> Self {
        if let Self::Lucidrains(m) = &mut self {
            for (layer, flag) in m.layers.iter_mut().zip(flags) {
                if let Some(heads) = &mut layer.attention.routing {
                    heads.kmeans.initted = *flag;
                }
            }
        }
        self
    }

    /// Loads a folder with `config.json` and `model.safetensors` (or a torch file), strictly.
    ///
    /// # Errors
    /// A missing or damaged file, a wrong configuration, and every tensor that is missing, unused or misshapen, by name.
    pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let dir = dir.as_ref();
        let config = RoutingTransformerConfig::from_file(dir.join(CONFIG_FILE))?;
        let file = [
            WEIGHTS_FILE,
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "model.pt",
        ]
        .map(|name| dir.join(name))
        .into_iter()
        .find(|file| file.exists())
        .unwrap_or_else(|| dir.join(WEIGHTS_FILE));
        Self::from_tensors(&config, pretrained::read_tensors(&file)?, &file, device)
    }

    /// A model with these weights by upstream names. TensorFlow's may be written with `.` for `/` and without
    /// `sparse_transformer/body/` (or `sparse_imagetransformer/body/`), torch's with `module.` before them.
    ///
    /// # Errors
    /// Every tensor that is missing, unused or misshapen; `file` is named in the message.
    pub fn from_tensors(
        config: &RoutingTransformerConfig,
        tensors: NamedTensors,
        file: &Path,
        device: &Device,
    ) -> Result<Self> {
        let first = |name: &str, tensors: &NamedTensors| {
            let data = tensors.iter().find(|(n, _)| n.ends_with(name))?.1;
            data.shape().first().copied()
        };
        let key = Key::new(0);
        Ok(match config {
            RoutingTransformerConfig::Paper(c) => {
                let tensors = tensor_flow_names(tensors, prefix(c));
                let mut c = c.clone();
                if c.frame().is_none() {
                    c.vocab_size = c.vocab_size.or(first("embeddings/embedding", &tensors));
                }
                let options = LoadOptions::default();
                let model = c.init(key, device)?;
                Self::Paper(pretrained::load_weights(model, tensors, file, &options)?.0)
            }
            RoutingTransformerConfig::Lucidrains(c) => {
                let mut c = c.clone();
                c.num_tokens = c.num_tokens.or(first("token_emb.weight", &tensors));
                let options = LoadOptions {
                    strip_prefix: Some("module.".into()),
                    ignore: vec![],
                };
                let model = take_initted(c.init(key, device)?, &tensors);
                Self::Lucidrains(pretrained::load_weights(model, tensors, file, &options)?.0)
            }
        })
    }

    /// The weights under their upstream names.
    pub fn weights(&self) -> NamedTensors {
        match self {
            Self::Paper(m) => pretrained::collect_weights(m),
            Self::Lucidrains(m) => pretrained::collect_weights(m),
        }
    }

    /// The gradients under their upstream names.
    pub fn gradients(&self, grads: &burn::tensor::Gradients) -> NamedTensors {
        match self {
            Self::Paper(m) => pretrained::collect_gradients(m, grads),
            Self::Lucidrains(m) => pretrained::collect_gradients(m, grads),
        }
    }

    /// Writes `config.json` and `model.safetensors`, which this crate and Python's `safetensors.torch.load_file` read back;
    /// the names are upstream's.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(|source| pretrained::Error::Io {
            path: dir.into(),
            action: "create",
            source,
        })?;
        let json = serde_json::to_string_pretty(&self.config())
            .map_err(|e| wrong("model_type", e, "cannot be written as JSON"))?;
        pretrained::write_safetensors(&dir.join(WEIGHTS_FILE), &self.weights())?;
        pretrained::write_atomic(&dir.join(CONFIG_FILE), (json + "\n").as_bytes())?;
        Ok(())
    }
}

/// Names as the variables have them: `/` for `.`, and the common beginning where it was cut off.
fn tensor_flow_names(tensors: NamedTensors, prefix: &str) -> NamedTensors {
    let named: Vec<_> = tensors
        .into_iter()
        .map(|(name, data)| (name.replace('.', "/"), data))
        .collect();
    let whole = named.iter().any(|(name, _)| name.starts_with(prefix));
    let complete = |name: String| match whole {
        true => name,
        false => format!("{prefix}{name}"),
    };
    named.into_iter().map(|(n, d)| (complete(n), d)).collect()
}
