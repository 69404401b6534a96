//! The two profiles as language models.

use crate::compressor::Compressor;
use crate::config::CompressiveTransformerConfig;
use crate::error::{Result, config as wrong, input};
use crate::lucidrains::LucidrainsTransformer;
use crate::lucidrains_config::LucidrainsConfig;
use crate::memory::{CompressedMemoryState, MemorySizes};
use crate::memory_model::{CompressiveOutput, LayerView, MemoryModel, Mode};
use crate::model::CompressiveTransformer;
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use core_attn::dropout::dropout;
use core_attn::random::Key;
use serde_json::Value;
use std::path::Path;

/// The configuration of either profile, as `config.json` and a recipe's `model` hold it: the key `profile` says which keys the
/// others are.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// The released code of the paper's authors; the default.
    Deepmind(CompressiveTransformerConfig),
    /// The PyTorch package `compressive-transformer-pytorch`.
    Lucidrains(LucidrainsConfig),
}

/// Keys that say what a configuration is.
const TYPE: &str = "model_type";
const PROFILE: &str = "profile";
const ARCHITECTURE: &str = "compressive-transformer";

/// Takes the keys that say what a configuration is: the profile's name and the other keys.
pub(crate) fn profile(value: Value, at: &str) -> Result<(String, Value)> {
    let Value::Object(mut keys) = value else {
        let expected = "expected a JSON object with the model's configuration";
        return Err(input("the model's configuration", at, expected));
    };
    if let Some(found) = keys.remove(TYPE)
        && found != ARCHITECTURE
    {
        return Err(wrong(TYPE, found, "expected \"compressive-transformer\""));
    }
    let profile = match keys.remove(PROFILE) {
        None | Some(Value::Null) => CompressiveTransformer::PROFILE.to_owned(),
        Some(Value::String(name)) => name,
        Some(other) => {
            return Err(wrong(
                PROFILE,
                other,
                "expected \"deepmind\" or \"lucidrains\"",
            ));
        }
    };
    let known = [
        CompressiveTransformer::PROFILE,
        LucidrainsTransformer::PROFILE,
    ];
    if !known.contains(&profile.as_str()) {
        let expected = "expected \"deepmind\" or \"lucidrains\"";
        return Err(wrong(PROFILE, format!("{profile:?}"), expected));
    }
    Ok((profile, Value::Object(keys)))
}

/// A configuration as JSON, with the keys that say what it is.
pub(crate) fn to_json<M: MemoryModel>(config: &M::Config) -> Result<Value> {
    let mut all = serde_json::Map::new();
    all.insert(TYPE.into(), ARCHITECTURE.into());
    all.insert(PROFILE.into(), M::PROFILE.into());
    if let Value::Object(keys) = M::json(config)? {
        all.extend(keys.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Ok(Value::Object(all))
}

impl ModelConfig {
    /// The configuration that a JSON object holds; `at` is its path in `file`, for messages.
    ///
    /// # Errors
    /// An unknown profile or key, a wrong type, or a value the model cannot have.
    pub fn parse(value: Value, file: &Path, at: &str) -> Result<Self> {
        let (profile, keys) = profile(value, at)?;
        Ok(match profile == LucidrainsTransformer::PROFILE {
            true => Self::Lucidrains(LucidrainsTransformer::parse(keys, file, at)?),
            false => Self::Deepmind(CompressiveTransformer::parse(keys, file, at)?),
        })
    }

    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, and whatever [`ModelConfig::parse`] refuses.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(pretrained::read_json(path)?, path, "")
    }
}

fn json(value: Result<Value, serde_json::Error>) -> Result<Value> {
    value.map_err(|e| wrong(TYPE, e, "cannot be written as JSON"))
}

impl MemoryModel for CompressiveTransformer {
    type Config = CompressiveTransformerConfig;

    const PROFILE: &'static str = "deepmind";

    fn parse(value: Value, file: &Path, at: &str) -> Result<Self::Config> {
        let config: Self::Config = pretrained::parse_value(value, file, at)?;
        config.validate()?;
        Ok(config)
    }

    fn json(config: &Self::Config) -> Result<Value> {
        json(serde_json::to_value(config))
    }

    fn vocab_size(config: &Self::Config) -> Option<usize> {
        config.vocab_size
    }

    fn set_vocab_size(config: &mut Self::Config, ids: usize) {
        config.vocab_size = Some(ids);
    }

    fn warnings(config: &Self::Config) -> Vec<String> {
        config.warnings()
    }

    fn dropout_rate(config: &Self::Config) -> f64 {
        config.dropout_rate
    }

    fn facts(c: &Self::Config) -> Vec<(String, String)> {
        let compression = match c.compresses() {
            true => format!(
                "{} rows of {} each, {:?}, learning from {:?}",
                c.compressed_memory_size, c.compression_rate, c.compressor, c.compression_loss
            ),
            false => "none: a Transformer-XL".into(),
        };
        vec![
            ("profile".into(), Self::PROFILE.into()),
            (
                "layers".into(),
                format!(
                    "{} of {} heads, width {}",
                    c.num_layers,
                    c.num_heads,
                    c.width()
                ),
            ),
            (
                "memory".into(),
                format!("{} rows, chunks of {}", c.memory_size, c.chunk_size),
            ),
            ("compressed memory".into(), compression),
            ("reach".into(), format!("{} tokens", c.reach())),
        ]
    }

    fn reach(config: &Self::Config) -> usize {
        config.reach()
    }

    fn numbers(c: &Self::Config) -> [f64; 2] {
        let d = c.width() as f64;
        let [n_s, memory, vocab] = [
            c.chunk_size,
            c.memory_size + c.compressed_memory_size,
            c.vocab_size.unwrap_or(0),
        ]
        .map(|n| n as f64);
        let keys = memory + n_s;
        let mlp: f64 = c.mlp_hidden_sizes.iter().map(|n| *n as f64).sum();
        // Per token some ten rows of the width and two of the feed-forward layer, keys and values of all that is seen, and of the
        // attention the scores by content and by position, their sum and the weights.
        let tokens = n_s * (10.0 * d + 2.0 * mlp);
        let seen = 2.0 * keys * d;
        let attention = 4.0 * c.num_heads as f64 * n_s * keys;
        let layers = c.num_layers as f64 * (tokens + seen + attention + memory * d);
        [4.0 * c.parameters(), layers + 3.0 * n_s * vocab]
    }

    fn build(config: &Self::Config, key: Key, device: &Device) -> Result<Self> {
        config.init(key, device)
    }

    fn settings(&self) -> &Self::Config {
        self.config()
    }

    fn chunk_size(&self) -> usize {
        self.config().chunk_size
    }

    fn sizes(&self) -> MemorySizes {
        self.memory_sizes()
    }

    fn start(
        &self,
        batch: usize,
        sizes: MemorySizes,
        evaluation: bool,
    ) -> Result<CompressedMemoryState> {
        self.state(batch, sizes, evaluation)
    }

    fn unrolls(&self) -> bool {
        self.config().is_bptt()
    }

    fn read(
        &self,
        tokens: Tensor<2, Int>,
        _real: Option<Tensor<2, Bool>>,
        state: CompressedMemoryState,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<CompressiveOutput> {
        let head = self.head.as_ref().ok_or_else(|| {
            let expected = "this model reads dense rows: use `forward_rows`";
            input("token ids", "given", expected)
        })?;
        let mut rows = head.embed(tokens)?;
        if let Some(dense) = &self.input {
            rows = burn::tensor::activation::relu(dense.forward(rows));
        }
        // Padding stands at the right: no real token sees it, and the memories of its row are not read again.
        self.forward_rows(rows, state, mode, watch)
    }

    fn log_probabilities(&self, hidden: Tensor<3>) -> Tensor<3> {
        match &self.head {
            Some(head) => head.log_probabilities(hidden, self.config().adapt_io_tied),
            None => hidden,
        }
    }

    fn nll(&self, hidden: Tensor<3>, targets: Tensor<2, Int>) -> Result<Tensor<2>> {
        match &self.head {
            Some(head) => head.nll(hidden, targets, self.config().adapt_io_tied),
            None => Ok(crate::head::pick(hidden, targets)),
        }
    }

    fn compressors(&self) -> &[Compressor] {
        &self.compressors
    }

    fn with_compressors(mut self, compressors: Vec<Compressor>) -> Self {
        self.compressors = compressors;
        self
    }
}

impl CompressiveTransformer {
    /// Dense rows `[batch, chunk, input_dim]` to rows behind the last layer.
    ///
    /// # Errors
    /// A model of token ids, and whatever [`CompressiveTransformer::forward_rows`] refuses.
    pub fn forward_dense(
        &self,
        x: Tensor<3>,
        state: CompressedMemoryState,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<CompressiveOutput> {
        let dense = self.input.as_ref().ok_or_else(|| {
            let expected = "this model has no `input_dim`: give it token ids";
            input("dense rows", "given", expected)
        })?;
        let [_, _, width] = x.dims();
        let [expected, _] = dense.weight.dims();
        if width != expected {
            let expected = format!("expected {expected} (model.input_dim)");
            return Err(input("the input", format!("{width} wide"), expected));
        }
        let rows = burn::tensor::activation::relu(dense.forward(x));
        let rows = dropout(rows, mode.dropout.site("input"));
        self.forward_rows(rows, state, mode, watch)
    }

    /// Token ids `[batch, chunk]` to rows behind the last layer; their log-probabilities are
    /// [`MemoryModel::log_probabilities`].
    ///
    /// # Errors
    /// A chunk that is too long, a state of another model or batch, or a model of dense inputs.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        state: CompressedMemoryState,
        mode: Mode,
    ) -> Result<CompressiveOutput> {
        self.read(tokens, None, state, mode, &mut |_| {})
    }
}

impl MemoryModel for LucidrainsTransformer {
    type Config = LucidrainsConfig;

    const PROFILE: &'static str = "lucidrains";

    fn parse(value: Value, file: &Path, at: &str) -> Result<Self::Config> {
        let config: Self::Config = pretrained::parse_value(value, file, at)?;
        config.validate()?;
        Ok(config)
    }

    fn json(config: &Self::Config) -> Result<Value> {
        json(serde_json::to_value(config))
    }

    fn vocab_size(config: &Self::Config) -> Option<usize> {
        config.num_tokens
    }

    fn set_vocab_size(config: &mut Self::Config, ids: usize) {
        config.num_tokens = Some(ids);
    }

    fn warnings(config: &Self::Config) -> Vec<String> {
        let odd = config.seq_len % config.cmem_ratio;
        let pads = config.sizes().compressed > 0 && odd > 0;
        let text = || {
            format!(
                "model.seq_len = {} is no multiple of model.cmem_ratio = {}: as in the package, rows that leave are padded by {odd} zero rows, and rows that then fill no window are dropped",
                config.seq_len, config.cmem_ratio
            )
        };
        pads.then(text).into_iter().collect()
    }

    fn dropout_rate(_: &Self::Config) -> f64 {
        0.0
    }

    fn facts(c: &Self::Config) -> Vec<(String, String)> {
        let sizes = c.sizes();
        vec![
            ("profile".into(), Self::PROFILE.into()),
            (
                "layers".into(),
                format!("{} of {} heads, width {}", c.depth, c.heads, c.dim),
            ),
            (
                "memory".into(),
                format!(
                    "{} rows, chunks of {}, in layers {:?}",
                    sizes.episodic,
                    c.seq_len,
                    c.memory_layers()
                ),
            ),
            (
                "compressed memory".into(),
                format!("{} rows of {} each", sizes.compressed, c.cmem_ratio),
            ),
            ("reach".into(), format!("{} tokens", Self::reach(c))),
        ]
    }

    fn reach(config: &Self::Config) -> usize {
        let sizes = config.sizes();
        config.memory_layers().len() * (sizes.episodic + config.cmem_ratio * sizes.compressed)
    }

    fn numbers(c: &Self::Config) -> [f64; 2] {
        let d = c.dim as f64;
        let sizes = c.sizes();
        let [n_s, memory, vocab] = [
            c.seq_len,
            sizes.episodic + sizes.compressed,
            c.num_tokens.unwrap_or(0),
        ]
        .map(|n| n as f64);
        // As in the other profile, the memories in some layers only; a gate holds some six rows of the width.
        let inner = 4.0 * d * if c.ff_glu { 2.0 } else { 1.0 };
        let gates = if c.gru_gated_residual { 12.0 * d } else { 0.0 };
        let tokens = n_s * (10.0 * d + 2.0 * inner + gates);
        let layer = |memory: f64| {
            let keys = memory + n_s;
            tokens + 2.0 * keys * d + 4.0 * c.heads as f64 * n_s * keys + memory * d
        };
        let with = c.memory_layers().len();
        let without = c.depth.saturating_sub(with) as f64;
        let layers = with as f64 * layer(memory) + without * layer(0.0);
        [4.0 * c.parameters(), layers + 3.0 * n_s * vocab]
    }

    fn build(config: &Self::Config, key: Key, device: &Device) -> Result<Self> {
        config.init(key, device)
    }

    fn settings(&self) -> &Self::Config {
        self.config()
    }

    fn chunk_size(&self) -> usize {
        self.config().seq_len
    }

    fn sizes(&self) -> MemorySizes {
        self.config().sizes()
    }

    fn start(
        &self,
        _: usize,
        sizes: MemorySizes,
        evaluation: bool,
    ) -> Result<CompressedMemoryState> {
        match evaluation {
            true => self.projected_state(sizes),
            false => self.state(sizes),
        }
    }

    fn read(
        &self,
        tokens: Tensor<2, Int>,
        real: Option<Tensor<2, Bool>>,
        state: CompressedMemoryState,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<CompressiveOutput> {
        self.forward(tokens, real, state, mode, watch)
    }

    fn log_probabilities(&self, hidden: Tensor<3>) -> Tensor<3> {
        log_softmax(self.logits(hidden), 2)
    }

    fn nll(&self, hidden: Tensor<3>, targets: Tensor<2, Int>) -> Result<Tensor<2>> {
        Ok(crate::head::pick(self.log_probabilities(hidden), targets))
    }

    fn compressors(&self) -> &[Compressor] {
        &self.compressors
    }

    fn with_compressors(mut self, compressors: Vec<Compressor>) -> Self {
        self.compressors = compressors;
        self
    }
}
