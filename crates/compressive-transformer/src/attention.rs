//! Multi-head attention over compressed memory, memory and chunk (section 3 of the paper).

use crate::compressor::Read;
use crate::config::CompressiveTransformerConfig;
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::{Dropout, dropout};
use core_attn::init;
use core_attn::random::Key;

/// The projections and biases of a layer's attention. Column `head * value_size + j` of a projection belongs to that head.
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    /// `[width, width]`.
    pub query: Param<Tensor<2>>,
    /// `[width, width]`.
    pub key: Param<Tensor<2>>,
    /// `[width, width]`.
    pub value: Param<Tensor<2>>,
    /// Sinusoids to keys of relative positions `[width, width]`: of the ordinary memory and the chunk, or of all keys.
    pub relative_keys: Param<Tensor<2>>,
    /// The same for the compressed memory, where it is numbered on its own.
    pub relative_keys_0: Option<Param<Tensor<2>>>,
    /// Added to queries that meet keys: `[1, heads, 1, value_size]`.
    pub r_w_bias: Param<Tensor<4>>,
    /// Added to queries that meet relative positions: `[1, heads, 1, value_size]`.
    pub r_r_bias: Param<Tensor<4>>,
    /// The same for the compressed memory.
    pub r_r_bias_0: Option<Param<Tensor<4>>>,
    /// The output's linear map `[width, width]`.
    pub out_weight: Param<Tensor<2>>,
    /// `[width]`.
    pub out_bias: Param<Tensor<1>>,
}

impl MultiHeadAttention {
    pub(crate) fn new(config: &CompressiveTransformerConfig, key: Key, device: &Device) -> Self {
        let d = config.width();
        let (heads, size) = (config.num_heads, config.value_size);
        // Variance scaling by 2/√layers over the fan-in keeps the residual stream's growth independent of the depth.
        let std = (2.0 / (config.num_layers as f64).sqrt() / d as f64).sqrt();
        let linear =
            |name: &str| init::from_tensor(truncated_normal([d, d], std, key.site(name), device));
        // Glorot over a shape [1, heads, 1, size]: what stands in front of the last two is the receptive field.
        let bound = (6.0 / (heads as f64 * (1.0 + size as f64))).sqrt();
        let bias = |name: &str| init::uniform([1, heads, 1, size], bound, key.site(name), device);
        let separate = config.separate();
        let out = truncated_normal([d, d], (d as f64).powf(-0.5), key.site("out"), device);
        Self {
            query: linear("query"),
            key: linear("key"),
            value: linear("value"),
            relative_keys: linear("relative_keys"),
            relative_keys_0: separate.then(|| linear("relative_keys_0")),
            r_w_bias: bias("r_w_bias"),
            r_r_bias: bias("r_r_bias"),
            r_r_bias_0: separate.then(|| bias("r_r_bias_0")),
            out_weight: init::from_tensor(out),
            out_bias: init::constant([d], 0.0, device),
        }
    }

    /// Keys and values of rows `[batch, rows, width]`.
    pub fn read(&self, rows: Tensor<3>) -> Read {
        Read {
            key: project(rows.clone(), &self.key),
            value: project(rows, &self.value),
        }
    }

    /// Keys and values of rows through projections that take no gradient.
    pub fn read_fixed(&self, rows: Tensor<3>) -> Read {
        Read {
            key: product(rows.clone(), self.key.val().detach()),
            value: product(rows, self.value.val().detach()),
        }
    }

    /// Keys of relative positions from sinusoids `[distances, width]`.
    pub(crate) fn relative(&self, table: Tensor<2>, compressed: bool, drop: Dropout) -> Tensor<2> {
        let table = dropout(table, drop);
        match (&self.relative_keys_0, compressed) {
            (Some(weight), true) => table.matmul(weight.val()),
            _ => table.matmul(self.relative_keys.val()),
        }
    }

    pub(crate) fn bias(bias: &Param<Tensor<4>>) -> Tensor<2> {
        let bias = bias.val();
        let [_, heads, _, size] = bias.dims();
        bias.reshape([heads, size])
    }

    pub(crate) fn output(&self, read: Tensor<3>) -> Tensor<3> {
        project(read, &self.out_weight) + self.out_bias.val().unsqueeze()
    }
}

/// Normal values of which none lies farther than two standard deviations from 0.
pub(crate) fn truncated_normal<const D: usize>(
    shape: [usize; D],
    std: f64,
    key: Key,
    device: &Device,
) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let mut draw = 0u64;
    let mut next = || loop {
        let x = key.normal(draw);
        draw += 1;
        if x.abs() <= 2.0 {
            return (std * x) as f32;
        }
    };
    let values: Vec<f32> = (0..n).map(|_| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// `[batch, length, in]` times `[in, out]`, as one product of `batch · length` rows.
pub(crate) fn product(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [batch, length, width] = x.dims();
    let [_, out] = weight.dims();
    x.reshape([batch * length, width])
        .matmul(weight)
        .reshape([batch, length, out])
}

/// [`product`] with a parameter.
pub(crate) fn project(x: Tensor<3>, weight: &Param<Tensor<2>>) -> Tensor<3> {
    product(x, weight.val())
}
