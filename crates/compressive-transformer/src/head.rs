//! From token ids to rows, and from rows to log-probabilities.

use crate::attention::truncated_normal;
use crate::config::CompressiveTransformerConfig;
use crate::error::Result;
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use core_attn::adaptive_io::{AdaptiveEmbedding, AdaptiveSoftmax};
use core_attn::init;
use core_attn::random::Key;

/// A linear map `x·W + b`.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    pub(crate) fn new(from: usize, to: usize, std: f64, key: Key, device: &Device) -> Self {
        Self {
            weight: init::normal([from, to], std, key, device),
            bias: init::constant([to], 0.0, device),
        }
    }

    /// `[batch, length, in]` to `[batch, length, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        crate::attention::project(x, &self.weight) + self.bias.val().unsqueeze()
    }
}

/// The input embedding.
#[derive(Module, Debug)]
pub enum TokenEmbedding {
    /// One vector per id: `[vocab, width]`.
    Plain(Param<Tensor<2>>),
    /// Clusters by frequency.
    Adaptive(AdaptiveEmbedding),
}

/// The output layer.
#[derive(Module, Debug)]
pub enum OutputLayer {
    /// One linear map; not tied to the embedding.
    Plain(Dense),
    /// Clusters by frequency.
    Adaptive(AdaptiveSoftmax),
}

/// What makes a language model of the core.
#[derive(Module, Debug)]
pub struct LanguageHead {
    /// Ids to rows.
    pub embedding: TokenEmbedding,
    /// Rows to log-probabilities.
    pub output: OutputLayer,
}

impl LanguageHead {
    pub(crate) fn new(
        config: &CompressiveTransformerConfig,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        let (vocab, width) = (config.vocab()?, config.width());
        if config.adapt_io {
            let clusters = config.clusters()?;
            let tied = config.adapt_io_tied;
            return Ok(Self {
                embedding: TokenEmbedding::Adaptive(AdaptiveEmbedding::new(
                    &clusters,
                    key.site("embedding"),
                    device,
                )),
                output: OutputLayer::Adaptive(AdaptiveSoftmax::new(
                    &clusters,
                    tied,
                    key.site("output"),
                    device,
                )),
            });
        }
        let std = (width as f64).powf(-0.5);
        let vectors = truncated_normal([vocab, width], std, key.site("embedding"), device);
        Ok(Self {
            embedding: TokenEmbedding::Plain(init::from_tensor(vectors)),
            output: OutputLayer::Plain(Dense::new(width, vocab, std, key.site("output"), device)),
        })
    }

    /// `[batch, length]` ids to `[batch, length, width]`.
    ///
    /// # Errors
    /// With clusters, an id outside the vocabulary.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>> {
        match &self.embedding {
            TokenEmbedding::Plain(weight) => Ok(embed(weight, tokens)),
            TokenEmbedding::Adaptive(embedding) => Ok(embedding.forward(tokens)?),
        }
    }

    fn tied(&self, tied: bool) -> Option<&AdaptiveEmbedding> {
        match &self.embedding {
            TokenEmbedding::Adaptive(embedding) if tied => Some(embedding),
            _ => None,
        }
    }

    /// Log-probabilities of all ids: `[batch, length, width]` to `[batch, length, vocab]`.
    pub fn log_probabilities(&self, hidden: Tensor<3>, tied: bool) -> Tensor<3> {
        match &self.output {
            OutputLayer::Plain(dense) => log_softmax(dense.forward(hidden), 2),
            OutputLayer::Adaptive(softmax) => {
                let [batch, length, width] = hidden.dims();
                let flat = hidden.reshape([batch * length, width]);
                let scores = softmax.log_probabilities(flat, self.tied(tied));
                let [_, vocab] = scores.dims();
                scores.reshape([batch, length, vocab])
            }
        }
    }

    /// Negative log-likelihood in nats of each target: `[batch, length, width]` and ids `[batch, length]` to `[batch, length]`.
    ///
    /// # Errors
    /// With clusters, a target outside the vocabulary.
    pub fn nll(&self, hidden: Tensor<3>, targets: Tensor<2, Int>, tied: bool) -> Result<Tensor<2>> {
        let [batch, length, width] = hidden.dims();
        match &self.output {
            OutputLayer::Plain(dense) => Ok(pick(log_softmax(dense.forward(hidden), 2), targets)),
            OutputLayer::Adaptive(softmax) => {
                let flat = hidden.reshape([batch * length, width]);
                let targets = targets.reshape([batch * length]);
                let nll = softmax.nll(flat, targets, self.tied(tied))?;
                Ok(nll.reshape([batch, length]))
            }
        }
    }
}

/// Rows of a table `[vocab, width]` by id.
pub(crate) fn embed(weight: &Param<Tensor<2>>, tokens: Tensor<2, Int>) -> Tensor<3> {
    let [batch, length] = tokens.dims();
    let weight = weight.val();
    let [_, width] = weight.dims();
    weight
        .select(0, tokens.reshape([batch * length]))
        .reshape([batch, length, width])
}

/// Minus the log-probability of each target.
pub(crate) fn pick(scores: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    scores
        .gather(2, targets.unsqueeze_dim(2))
        .squeeze_dim::<2>(2)
        .neg()
}
