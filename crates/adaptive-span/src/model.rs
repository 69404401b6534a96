//! The model, top to bottom.

use crate::attention::{Scene, SeqAttention, project};
use crate::cache::{HiddenCache, LayerCache};
use crate::config::AdaptiveSpanConfig;
use crate::error::{Result, input};
use crate::span::{SpanReport, TRIM_GRANULARITY};
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::{log_softmax, relu};
use core_attn::adaptive_io::{AdaptiveEmbedding, AdaptiveSoftmax};
use core_attn::cache::StreamCache;
use core_attn::dropout::{Dropout, dropout};
use core_attn::init;
use core_attn::pointwise::{LayerNorm, cross_entropy};
use core_attn::random::Key;

/// `max(0, x·W1 + b1)·W2 + b2`.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[hidden, inner]`.
    pub fc1_weight: Param<Tensor<2>>,
    /// `[inner]`.
    pub fc1_bias: Param<Tensor<1>>,
    /// `[inner, hidden]`.
    pub fc2_weight: Param<Tensor<2>>,
    /// `[hidden]`.
    pub fc2_bias: Param<Tensor<1>>,
}

impl FeedForward {
    fn new(config: &AdaptiveSpanConfig, key: Key, device: &Device) -> Self {
        let (h, f) = (config.hidden_size, config.inner_hidden_size);
        let bound = |fan_in: usize| (fan_in as f64).powf(-0.5);
        Self {
            fc1_weight: init::uniform([h, f], bound(h), key.site("fc1"), device),
            fc1_bias: init::uniform([f], bound(h), key.site("fc1.bias"), device),
            fc2_weight: init::uniform([f, h], bound(f), key.site("fc2"), device),
            fc2_bias: init::uniform([h], bound(f), key.site("fc2.bias"), device),
        }
    }

    fn forward(&self, h: Tensor<3>, drop: Dropout) -> Tensor<3> {
        let inner = relu(project(h, &self.fc1_weight) + self.fc1_bias.val().unsqueeze());
        project(dropout(inner, drop), &self.fc2_weight) + self.fc2_bias.val().unsqueeze()
    }
}

/// Attention and feed-forward, each with a residual connection and a normalisation behind it.
#[derive(Module, Debug)]
pub struct TransformerSeqLayer {
    /// Attention over the band.
    pub attn: SeqAttention,
    /// After the attention.
    pub norm1: LayerNorm,
    /// Absent with persistent memory, which takes its place.
    pub ff: Option<FeedForward>,
    /// After the feed-forward layer.
    pub norm2: Option<LayerNorm>,
}

impl TransformerSeqLayer {
    fn new(config: &AdaptiveSpanConfig, key: Key, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, 1e-5, device);
        let feed_forward = config.pers_mem_size == 0;
        Self {
            attn: SeqAttention::new(config, key.site("attn"), device),
            norm1: norm(),
            ff: feed_forward.then(|| FeedForward::new(config, key.site("ff"), device)),
            norm2: feed_forward.then(norm),
        }
    }
}

/// The input embedding.
#[derive(Module, Debug)]
pub enum InputEmbedding {
    /// One vector per id: `[vocab, hidden]`.
    Plain(Param<Tensor<2>>),
    /// Clusters by frequency.
    Adaptive(AdaptiveEmbedding),
}

/// The output layer.
#[derive(Module, Debug)]
pub enum OutputLayer {
    /// One linear map; not tied to the embedding.
    Plain(OutputProjection),
    /// Clusters by frequency.
    Adaptive(AdaptiveSoftmax),
}

/// `h·W + b` over the vocabulary.
#[derive(Module, Debug)]
pub struct OutputProjection {
    /// `[hidden, vocab]`.
    pub weight: Param<Tensor<2>>,
    /// `[vocab]`.
    pub bias: Param<Tensor<1>>,
}

impl OutputProjection {
    fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        rows.matmul(self.weight.val()) + self.bias.val().unsqueeze()
    }
}

/// A decoder-only sequential transformer whose heads learn how far back they look.
#[derive(Module, Debug)]
pub struct TransformerSeq {
    /// Token ids to hidden states.
    pub in_emb: InputEmbedding,
    /// Relative position table `[1, head_dim, attn_span]`, shared by all heads and layers; the last column is distance 1.
    pub key_pe: Param<Tensor<3>>,
    /// The layers, first to last.
    pub layers: Vec<TransformerSeqLayer>,
    /// Hidden states to log-probabilities.
    pub out_emb: OutputLayer,
    #[module(skip)]
    config: AdaptiveSpanConfig,
}

/// Ids outside the table would read other memory or stop the program, depending on the backend.
fn check_ids(tokens: &Tensor<2, Int>, vocab: usize) -> Result<()> {
    if !core_attn::is_host(&tokens.device()) {
        return Ok(());
    }
    let data = tokens.to_data();
    match data.iter::<i64>().find(|id| *id < 0 || *id >= vocab as i64) {
        Some(id) => Err(input("a token id", id, format!("expected 0..{vocab}"))),
        None => Ok(()),
    }
}

/// How a forward pass runs.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Dropout on attention weights and after the ReLU. Its rate is used as given; the configuration's belongs to training.
    pub dropout: Dropout,
    /// Dropout after the embedding and before the output layer.
    pub emb_dropout: Dropout,
    /// Whether columns that no head sees are left out of the computation. Always wanted, except to show that it changes
    /// nothing.
    pub trim: bool,
}

impl Mode {
    /// Evaluation: no dropout.
    pub const fn evaluation() -> Self {
        Self {
            dropout: Dropout::off(),
            emb_dropout: Dropout::off(),
            trim: true,
        }
    }
}

/// What a forward pass gives.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[batch, block, hidden]`, before the output layer.
    pub hidden: Tensor<3>,
    /// The past of the next block.
    pub cache: HiddenCache,
    /// With dynamic spans, each layer's mean fraction over heads and positions, for the penalty.
    pub dynamic_fractions: Vec<Tensor<1>>,
}

/// One layer's tensors, handed to whoever watches a forward pass.
#[derive(Debug)]
pub struct LayerView<'a> {
    /// Index of the layer.
    pub layer: usize,
    /// The cache given to the layer.
    pub cache: &'a LayerCache,
    /// Output of the attention, before the residual connection: `[batch, block, hidden]`.
    pub attn_out: &'a Tensor<3>,
    /// Output of the layer: `[batch, block, hidden]`.
    pub layer_out: &'a Tensor<3>,
}

impl AdaptiveSpanConfig {
    /// A freshly initialised model, drawn from `key`: embeddings and positions N(0, 1), linear maps U(±1/√fan-in).
    ///
    /// # Errors
    /// A configuration that [`AdaptiveSpanConfig::validate`] refuses, or one without a vocabulary size.
    pub fn init(&self, key: Key, device: &Device) -> Result<TransformerSeq> {
        self.validate()?;
        let (h, vocab) = (self.hidden_size, self.vocab()?);
        let layer =
            |i: usize| TransformerSeqLayer::new(self, key.site("layers").fold(i as u64), device);
        let (in_emb, out_emb) = if self.adapt_io {
            let clusters = self.clusters()?;
            let embedding = AdaptiveEmbedding::new(&clusters, key.site("in_emb"), device);
            let softmax =
                AdaptiveSoftmax::new(&clusters, self.adapt_io_tied, key.site("out_emb"), device);
            (
                InputEmbedding::Adaptive(embedding),
                OutputLayer::Adaptive(softmax),
            )
        } else {
            let bound = (h as f64).powf(-0.5);
            let projection = OutputProjection {
                weight: init::uniform([h, vocab], bound, key.site("out_emb"), device),
                bias: init::uniform([vocab], bound, key.site("out_emb.bias"), device),
            };
            let embedding = init::normal([vocab, h], 1.0, key.site("in_emb"), device);
            (
                InputEmbedding::Plain(embedding),
                OutputLayer::Plain(projection),
            )
        };
        Ok(TransformerSeq {
            in_emb,
            key_pe: init::normal(
                [1, self.head_dim(), self.attn_span],
                1.0,
                key.site("key_pe"),
                device,
            ),
            layers: (0..self.nb_layers).map(layer).collect(),
            out_emb,
            config: self.clone(),
        })
    }
}

impl TransformerSeq {
    /// The model's configuration.
    pub fn config(&self) -> &AdaptiveSpanConfig {
        &self.config
    }

    /// The learned spans, read from the device; `None` without learned spans per head.
    pub fn spans(&self) -> Option<SpanReport> {
        let window = self.config.window().ok().flatten()?;
        let fractions: Option<Vec<_>> = self
            .layers
            .iter()
            .map(|l| Some(l.attn.span.as_ref()?.fractions().detach()))
            .collect();
        let values: Vec<f32> = Tensor::cat(fractions?, 0)
            .into_data()
            .iter::<f32>()
            .collect();
        let layers = values.chunks(self.config.nb_heads).map(<[f32]>::to_vec);
        Some(SpanReport::new(window, layers.collect()))
    }

    /// How many tokens back the output can depend on: the sum over the layers of the largest span of a head, ramp included.
    pub fn reach(&self) -> usize {
        match (self.spans(), self.config.window().ok().flatten()) {
            (Some(spans), Some(window)) => {
                let layers = spans.fractions.iter();
                layers.map(|z| window.max_size(z)).sum()
            }
            _ => self.config.nb_layers * self.config.attn_span,
        }
    }

    /// Rows worth caching in each layer.
    fn cache_sizes(&self, spans: Option<&SpanReport>) -> Vec<usize> {
        let longest = self.config.attn_span;
        match (spans, self.config.window().ok().flatten()) {
            (Some(spans), Some(window)) if self.config.adapt_span_cache => spans
                .fractions
                .iter()
                .map(|z| window.cache_size(z, TRIM_GRANULARITY))
                .collect(),
            _ => vec![longest; self.config.nb_layers],
        }
    }

    /// Rows that [`TransformerSeq::empty_cache`] holds for one row of the batch, over all layers.
    #[cfg(feature = "train")]
    pub(crate) fn cache_rows(&self) -> usize {
        self.cache_sizes(self.spans().as_ref()).iter().sum()
    }

    /// The empty past for training: zero rows of the sizes that the spans ask for.
    pub fn empty_cache(&self, batch: usize) -> HiddenCache {
        let device = self.key_pe.val().device().without_autodiff();
        let width = self.config.hidden_size;
        let layers = self.cache_sizes(self.spans().as_ref()).into_iter();
        HiddenCache {
            layers: layers
                .map(|n| LayerCache::Hidden(StreamCache::zeros(batch, n, width, &device)))
                .collect(),
        }
    }

    /// The empty past for evaluation and generation, which keeps projected keys and values: a projection without bias
    /// turns a zero row into a zero row.
    pub fn empty_projected_cache(&self, batch: usize) -> HiddenCache {
        let mut cache = self.empty_cache(batch);
        for layer in &mut cache.layers {
            if let LayerCache::Hidden(rows) = layer {
                *layer = LayerCache::Projected {
                    key: rows.clone(),
                    value: rows.clone(),
                };
            }
        }
        cache
    }

    /// Runs one block `[batch, block]` of ids after the rows in `cache`.
    ///
    /// Ids are checked where that costs nothing, on the CPU backends; elsewhere they must be below `vocab_size`.
    ///
    /// # Errors
    /// An id outside the vocabulary, no ids, or a cache of another model.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        cache: HiddenCache,
        mode: Mode,
    ) -> Result<Output> {
        self.forward_watched(tokens, cache, mode, &mut |_| {})
    }

    /// [`TransformerSeq::forward`] that shows each layer's tensors to `watch`.
    ///
    /// # Errors
    /// As [`TransformerSeq::forward`].
    pub fn forward_watched(
        &self,
        tokens: Tensor<2, Int>,
        cache: HiddenCache,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<Output> {
        let config = &self.config;
        let [batch, block] = tokens.dims();
        if cache.layers.len() != config.nb_layers || batch * block == 0 {
            let found = format!("{} layers for a block of {block}", cache.layers.len());
            let expected = format!(
                "expected {} layers and at least one token",
                config.nb_layers
            );
            return Err(input("cache", found, expected));
        }
        let spans = self.spans();
        let sizes = self.cache_sizes(spans.as_ref());
        let window = config.window()?;
        let table = self
            .key_pe
            .val()
            .reshape([config.head_dim(), config.attn_span]);
        let embedded = match &self.in_emb {
            InputEmbedding::Plain(weight) => {
                check_ids(&tokens, config.vocab()?)?;
                weight
                    .val()
                    .select(0, tokens.reshape([batch * block]))
                    .reshape([batch, block, config.hidden_size])
            }
            InputEmbedding::Adaptive(embedding) => embedding.forward(tokens)?,
        };
        let mut h = dropout(embedded, mode.emb_dropout.site("in_emb"));
        let mut layers = Vec::with_capacity(sizes.len());
        let mut dynamic_fractions = vec![];
        for (i, ((layer, past), size)) in
            self.layers.iter().zip(cache.layers).zip(sizes).enumerate()
        {
            let drop = mode.dropout.site(&format!("layers.{i}"));
            let mut mean_fraction = None;
            let scene = Scene {
                table: &table,
                window: window.map(|w| (w, spans.as_ref().map_or(&[][..], |s| &s.fractions[i]))),
                heads: config.nb_heads,
                dropout: drop.site("attn"),
                mean_fraction: &mut mean_fraction,
                trim: mode.trim,
            };
            let (attn_out, next) = layer.attn.forward(h.clone(), past.clone(), size, scene)?;
            let mut out = layer.norm1.forward(h + attn_out.clone())?;
            if let (Some(ff), Some(norm)) = (&layer.ff, &layer.norm2) {
                out = norm.forward(out.clone() + ff.forward(out, drop.site("ff")))?;
            }
            watch(LayerView {
                layer: i,
                cache: &past,
                attn_out: &attn_out,
                layer_out: &out,
            });
            h = out;
            layers.push(next);
            dynamic_fractions.extend(mean_fraction);
        }
        Ok(Output {
            hidden: dropout(h, mode.emb_dropout.site("out_emb")),
            cache: HiddenCache { layers },
            dynamic_fractions,
        })
    }

    fn tied(&self) -> Option<&AdaptiveEmbedding> {
        match &self.in_emb {
            InputEmbedding::Adaptive(embedding) if self.config.adapt_io_tied => Some(embedding),
            _ => None,
        }
    }

    /// Log-probabilities of all ids: `[batch, block, hidden]` to `[batch, block, vocab]`.
    pub fn log_probabilities(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, block, width] = hidden.dims();
        let flat = hidden.reshape([batch * block, width]);
        let scores = match &self.out_emb {
            OutputLayer::Plain(out) => log_softmax(out.forward(flat), 1),
            OutputLayer::Adaptive(softmax) => softmax.log_probabilities(flat, self.tied()),
        };
        let [_, vocab] = scores.dims();
        scores.reshape([batch, block, vocab])
    }

    /// Negative log-likelihood in nats of each target: `[batch, block, hidden]` and ids `[batch, block]` to
    /// `[batch, block]`.
    ///
    /// # Errors
    /// Another number of targets than of hidden states.
    pub fn nll(&self, hidden: Tensor<3>, targets: Tensor<2, Int>) -> Result<Tensor<2>> {
        let [batch, block, width] = hidden.dims();
        if targets.dims() != [batch, block] {
            let expected = format!("expected [{batch}, {block}], one per hidden state");
            return Err(input("targets", format!("{:?}", targets.dims()), expected));
        }
        let flat = hidden.reshape([batch * block, width]);
        let targets = targets.reshape([batch * block]);
        let nll = match &self.out_emb {
            OutputLayer::Plain(out) => cross_entropy(out.forward(flat), targets)?,
            OutputLayer::Adaptive(softmax) => softmax.nll(flat, targets, self.tied())?,
        };
        Ok(nll.reshape([batch, block]))
    }

    /// The span penalty `Σ_layers λ · attn_span · mean_heads(z)`, `[1]`; `None` where no span is learned.
    pub fn span_loss(&self, output: &Output) -> Option<Tensor<1>> {
        let weight = self.config.adapt_span_loss * self.config.attn_span as f64;
        let means: Vec<Tensor<1>> = if self.config.dynamic() {
            output.dynamic_fractions.clone()
        } else {
            let spans = self.layers.iter().filter_map(|l| l.attn.span.as_ref());
            spans.map(|s| s.fractions().mean()).collect()
        };
        let total = means.into_iter().reduce(|a, b| a + b)?;
        Some(total.mul_scalar(weight))
    }

    /// The model with every span brought back into `[0, 1]`; to be called after each update.
    #[must_use]
    pub fn clamp_spans(mut self) -> Self {
        for layer in &mut self.layers {
            layer.attn.span = layer
                .attn
                .span
                .take()
                .map(crate::span::AdaptiveSpan::clamped);
        }
        self
    }
}
