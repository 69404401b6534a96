//! The off-ramp: a classifier behind a layer (section 3.1 of the paper).

use crate::config::{DeeBertConfig, OffRampPooling};
use bert::{Mode, Projection, Result, first_token};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::dropout;
use core_attn::init;
use core_attn::random::Key;
use pretrained::Binder;

/// A classifier with its own pooler: `u = tanh(h·P + p)`, dropout, `z = u·C + c`.
#[derive(Module, Debug)]
pub struct OffRamp {
    /// `[hidden, hidden]`.
    pub pooler: Projection,
    /// `[hidden, labels]`.
    pub classifier: Projection,
    /// Share of `u` dropped in training.
    pub dropout: f64,
}

/// The name of [`OffRamp`] in the published code.
pub type HighwayExit = OffRamp;

/// What an off-ramp gives.
#[derive(Debug, Clone)]
pub struct RampOutput {
    /// `u`, before dropout: `[batch, hidden]`.
    pub pooled: Tensor<2>,
    /// `z`: `[batch, labels]`.
    pub logits: Tensor<2>,
}

impl OffRamp {
    /// Weights N(0, `initializer_range`²), biases 0.
    pub fn new(config: &DeeBertConfig, key: Key, device: &Device) -> Self {
        let (h, std) = (config.bert.hidden_size, config.bert.initializer_range);
        let labels = config.bert.labels();
        Self {
            pooler: Projection::new(h, h, std, key.site("pooler"), device),
            classifier: Projection::new(h, labels, std, key.site("classifier"), device),
            dropout: config.bert.hidden_dropout_prob,
        }
    }

    /// A layer's vector `[batch, hidden]`, see [`summary`], to scores.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn forward(&self, vector: Tensor<2>, mode: Mode) -> Result<RampOutput> {
        let pooled = self.pooler.forward(vector).tanh();
        let kept = dropout(pooled.clone(), mode.dropout(self.dropout)?);
        Ok(RampOutput {
            pooled,
            logits: self.classifier.forward(kept),
        })
    }

    /// The off-ramp with a copy of this pooler's values instead of its own.
    #[must_use]
    pub fn with_pooler(mut self, pooler: &Projection) -> Self {
        let device = self.classifier.bias.lazy_device();
        self.pooler = Projection {
            weight: copied(&pooler.weight, &device),
            bias: copied(&pooler.bias, &device),
        };
        self
    }

    /// Binds `name.pooler.dense.*` and `name.classifier.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        self.pooler.bind(b, &format!("{name}.pooler.dense"));
        self.classifier.bind(b, &format!("{name}.classifier"));
    }
}

/// A parameter of its own with another's values.
fn copied<const D: usize>(param: &Param<Tensor<D>>, device: &Device) -> Param<Tensor<D>> {
    let values = param.val().without_autodiff().into_data();
    init::from_tensor(Tensor::from_data(values, device))
}

/// The off-ramps that answer: those of layers `1 … L − 1`. The module that stage 2 trains.
#[derive(Module, Debug)]
pub struct OffRamps {
    /// First to last.
    pub exits: Vec<OffRamp>,
}

impl OffRamps {
    /// Scores `[batch, labels]` of each off-ramp for the vectors `[batch, hidden]` of its layer.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn forward(&self, vectors: Vec<Tensor<2>>, mode: Mode) -> Result<Vec<Tensor<2>>> {
        let ramps = self.exits.iter().zip(vectors).enumerate();
        let logits = ramps.map(|(i, (ramp, x))| Ok(ramp.forward(x, ramp_mode(mode, i))?.logits));
        logits.collect()
    }
}

/// The random stream of an off-ramp, counted from 0.
pub(crate) fn ramp_mode(mode: Mode, ramp: usize) -> Mode {
    mode.site("highway").fold(ramp as u64)
}

/// The vector of a layer's output that a classifier sees: `[batch, length, hidden]` to `[batch, hidden]`. `mask` is 1 for
/// real tokens and 0 for padding, `[batch, length]`; absent where all are real.
pub fn summary(states: Tensor<3>, mask: Option<&Tensor<2>>, pooling: OffRampPooling) -> Tensor<2> {
    let [batch, length, hidden] = states.dims();
    match (pooling, mask) {
        (OffRampPooling::Cls, _) => first_token(states),
        (OffRampPooling::Mean, None) => states.mean_dim(1).reshape([batch, hidden]),
        (OffRampPooling::Mean, Some(mask)) => {
            let count = mask.clone().sum_dim(1);
            let sum = (states * mask.clone().reshape([batch, length, 1])).sum_dim(1);
            sum.reshape([batch, hidden]) / count
        }
    }
}
