//! The parts that encoders are made of, each with its names in a checkpoint.

use crate::activation::Activation;
use crate::error::Result;
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::module::layer_norm;
use core_attn::dropout::{Dropout, dropout};
use core_attn::init;
use core_attn::random::Key;
use pretrained::Binder;

/// Whether a forward pass trains, and from which random stream its dropout comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mode(Option<Key>);

impl Mode {
    /// No dropout.
    pub const fn evaluation() -> Self {
        Self(None)
    }

    /// Dropout with masks drawn from `key`, which should change with every step.
    pub const fn training(key: Key) -> Self {
        Self(Some(key))
    }

    /// Whether dropout is on.
    pub const fn is_training(self) -> bool {
        self.0.is_some()
    }

    /// The same mode with the random stream of a named place.
    #[must_use]
    pub const fn site(self, name: &str) -> Self {
        match self.0 {
            Some(key) => Self(Some(key.site(name))),
            None => self,
        }
    }

    /// The same mode with the random stream of a numbered place.
    #[must_use]
    pub const fn fold(self, n: u64) -> Self {
        match self.0 {
            Some(key) => Self(Some(key.fold(n))),
            None => self,
        }
    }

    /// The dropout of this place.
    ///
    /// # Errors
    /// `rate` outside `[0, 1)`.
    pub fn dropout(self, rate: f64) -> Result<Dropout> {
        Ok(match self.0 {
            Some(key) if rate > 0.0 => Dropout::new(rate, key)?,
            _ => Dropout::off(),
        })
    }
}

/// A linear map with bias, `x·W + b`. Files hold its weight as `[output, input]`.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[input, output]`.
    pub weight: Param<Tensor<2>>,
    /// `[output]`.
    pub bias: Param<Tensor<1>>,
}

impl Projection {
    /// Weight N(0, `std`²), bias 0.
    pub fn new(input: usize, output: usize, std: f64, key: Key, device: &Device) -> Self {
        Self {
            weight: init::normal([input, output], std, key, device),
            bias: init::constant([output], 0.0, device),
        }
    }

    /// `[…, input]` to `[…, output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight.val(), self.bias.val())
    }

    /// The map from the first `input` elements to the first `output`: gradients reach the whole parameter.
    pub fn forward_sliced<const D: usize>(
        &self,
        x: Tensor<D>,
        input: usize,
        output: usize,
    ) -> Tensor<D> {
        let [rows, columns] = self.weight.val().dims();
        if [rows, columns] == [input, output] {
            return self.forward(x);
        }
        let weight = self.weight.val().slice([0..input, 0..output]);
        linear(x, weight, self.bias.val().narrow(0, 0, output))
    }

    /// Binds `name.weight` and `name.bias`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        b.linear(&format!("{name}.weight"), &mut self.weight);
        b.param(&format!("{name}.bias"), &mut self.bias);
    }
}

/// `x·W + b` over the last dimension, as one product of matrices.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    let mut shape = x.dims();
    let [input, output] = weight.dims();
    shape[D - 1] = output;
    let rows = x.reshape([-1, input as i32]);
    // A product with a single column is a product and a sum: fused GPU backends compute the other wrongly.
    let out = if output == 1 {
        (rows * weight.reshape([1, input])).sum_dim(1)
    } else {
        rows.matmul(weight)
    };
    (out + bias.unsqueeze()).reshape(shape)
}

/// Normalisation over the last dimension with learned scale and shift.
#[derive(Module, Debug)]
pub struct Norm {
    /// Scale, `[hidden]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[hidden]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance, inside the root.
    pub eps: f64,
}

impl Norm {
    /// Scale 1, shift 0.
    pub fn new(hidden: usize, eps: f64, device: &Device) -> Self {
        Self {
            weight: init::constant([hidden], 1.0, device),
            bias: init::constant([hidden], 0.0, device),
            eps,
        }
    }

    /// Normalises the last dimension: mean 0, biased variance 1, then scale and shift.
    ///
    /// A narrower input takes the first elements of scale and shift.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let width = x.dims()[D - 1];
        let (mut weight, mut bias) = (self.weight.val(), self.bias.val());
        if weight.dims()[0] != width {
            weight = weight.narrow(0, 0, width);
            bias = bias.narrow(0, 0, width);
        }
        layer_norm(x, weight, Some(bias), self.eps)
    }

    /// Binds `name.weight` and `name.bias`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        b.param(&format!("{name}.weight"), &mut self.weight);
        b.param(&format!("{name}.bias"), &mut self.bias);
    }
}

/// What follows attention and feed-forward: `LN(dropout(x·W + b) + residual)`.
#[derive(Module, Debug)]
pub struct ResidualOutput {
    /// Back to the hidden size.
    pub dense: Projection,
    /// Over the sum.
    pub norm: Norm,
    /// Share of the map's outputs dropped in training.
    pub dropout: f64,
}

impl ResidualOutput {
    /// A map from `input` to `hidden` with weights N(0, `std`²).
    pub fn new(
        [input, hidden]: [usize; 2],
        std: f64,
        eps: f64,
        dropout: f64,
        key: Key,
        device: &Device,
    ) -> Self {
        Self {
            dense: Projection::new(input, hidden, std, key, device),
            norm: Norm::new(hidden, eps, device),
            dropout,
        }
    }

    /// `[batch, length, input]` and the residual `[batch, length, hidden]` to `[batch, length, hidden]`; both may be
    /// narrower than the parameters.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn forward(&self, x: Tensor<3>, residual: Tensor<3>, mode: Mode) -> Result<Tensor<3>> {
        let (input, hidden) = (x.dims()[2], residual.dims()[2]);
        let out = self.dense.forward_sliced(x, input, hidden);
        let out = dropout(out, mode.dropout(self.dropout)?);
        Ok(self.norm.forward(out + residual))
    }

    /// Binds `name.dense.*` and `name.LayerNorm.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        self.dense.bind(b, &format!("{name}.dense"));
        self.norm.bind(b, &format!("{name}.LayerNorm"));
    }
}

/// `LN(dropout(act(x·W1 + b1)·W2 + b2) + x)`.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[hidden, intermediate]`.
    pub intermediate: Projection,
    /// `[intermediate, hidden]`, with residual and normalisation.
    pub output: ResidualOutput,
    /// Between the two maps.
    #[module(skip)]
    pub activation: Activation,
}

impl FeedForward {
    /// Weights N(0, `std`²).
    pub fn new(
        [hidden, intermediate]: [usize; 2],
        activation: Activation,
        std: f64,
        eps: f64,
        dropout: f64,
        key: Key,
        device: &Device,
    ) -> Self {
        let first = Projection::new(hidden, intermediate, std, key.site("intermediate"), device);
        let second = key.site("output");
        Self {
            intermediate: first,
            output: ResidualOutput::new([intermediate, hidden], std, eps, dropout, second, device),
            activation,
        }
    }

    /// `[batch, length, hidden]` to the same, through the first `width` intermediate neurons or all of them.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn forward(&self, x: Tensor<3>, width: Option<usize>, mode: Mode) -> Result<Tensor<3>> {
        let hidden = x.dims()[2];
        let width = width.unwrap_or_else(|| self.intermediate.weight.val().dims()[1]);
        let inner = self.intermediate.forward_sliced(x.clone(), hidden, width);
        self.output.forward(self.activation.apply(inner), x, mode)
    }

    /// Binds `name.intermediate.dense.*`, `name.output.dense.*` and `name.output.LayerNorm.*`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        self.intermediate
            .bind(b, &format!("{name}.intermediate.dense"));
        self.output.bind(b, &format!("{name}.output"));
    }
}
