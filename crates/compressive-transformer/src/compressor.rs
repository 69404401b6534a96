//! Compression functions: many old rows to few new ones (section 3.1 of the paper), and what they learn from (section 3.2).

use crate::config::{CompressionLoss, CompressiveTransformerConfig, CompressorKind, Pooling};
use crate::error::{Result, input};
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::relu;
use core_attn::dense::{Attention, attention};
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::random::Key;

/// How a compressor works, without its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Compression {
    /// Which function.
    pub kind: CompressorKind,
    /// The pooling, where it pools.
    pub pooling: Pooling,
    /// How many rows become one.
    pub rate: usize,
    /// Rows of a window.
    pub window: usize,
    /// Dilations of the convolutions in front.
    pub dilations: Vec<usize>,
    /// Whether the convolution's weight lies as torch has it, `[out, in, kernel]`, instead of `[kernel, in, out]`.
    pub torch_layout: bool,
}

impl Compression {
    /// That of the `deepmind` profile.
    pub fn of(config: &CompressiveTransformerConfig) -> Self {
        Self {
            kind: config.compressor,
            pooling: config.pooling,
            rate: config.compression_rate,
            window: match config.compressor {
                CompressorKind::MostUsed => config.compression_rate,
                _ => config.window(),
            },
            dilations: config.dilation_rates.clone().unwrap_or_default(),
            torch_layout: false,
        }
    }

    /// How many rows come out of `rows`; 0 where no window fits.
    pub fn rows_out(&self, rows: usize) -> usize {
        let left = rows.saturating_sub(self.dilations.iter().sum());
        match left >= self.window {
            true => (left - self.window) / self.rate + 1,
            false => 0,
        }
    }
}

/// The compression function of one layer.
#[derive(Module, Debug)]
pub struct Compressor {
    /// Convolutions of two rows `[2, in, out]`, one per dilation.
    pub dilated: Vec<Param<Tensor<3>>>,
    /// The strided convolution: `[kernel, in, out]`, or `[out, in, kernel]` as torch has it.
    pub conv: Option<Param<Tensor<3>>>,
    /// Its bias, in the `lucidrains` profile.
    pub bias: Option<Param<Tensor<1>>>,
    /// The transposed convolution that decodes: `[1, kernel, out, in]`.
    pub decoder: Option<Param<Tensor<4>>>,
    #[module(skip)]
    compression: Compression,
}

impl Compressor {
    /// Draws the parameters; `decoder` adds the auto-encoder's second half.
    pub fn new(
        compression: Compression,
        width: usize,
        bias: bool,
        decoder: bool,
        key: Key,
        device: &Device,
    ) -> Self {
        let learned = compression.kind == CompressorKind::Conv;
        let kernel = compression.window;
        let std = |rows: usize| ((rows * width) as f64).powf(-0.5);
        let dilated = compression.dilations.iter().enumerate().map(|(i, _)| {
            let key = key.site("dilated").fold(i as u64);
            init::normal([2, width, width], std(2), key, device)
        });
        let shape = match compression.torch_layout {
            true => [width, width, kernel],
            false => [kernel, width, width],
        };
        Self {
            dilated: dilated.collect(),
            conv: learned.then(|| init::normal(shape, std(kernel), key.site("conv"), device)),
            bias: (learned && bias)
                .then(|| init::uniform([width], std(kernel), key.site("bias"), device)),
            decoder: (learned && decoder).then(|| {
                let key = key.site("decoder");
                init::normal([1, kernel, width, width], std(1), key, device)
            }),
            compression,
        }
    }

    /// A compressor of the `deepmind` profile.
    pub fn of(config: &CompressiveTransformerConfig, key: Key, device: &Device) -> Self {
        let decoder = config.compression_loss == CompressionLoss::Ae;
        Self::new(
            Compression::of(config),
            config.width(),
            false,
            decoder,
            key,
            device,
        )
    }

    /// How it works.
    pub fn compression(&self) -> &Compression {
        &self.compression
    }

    /// `[batch, rows, width]` old rows, oldest first, to `[batch, rows / c, width]` new ones. `usage` `[batch, rows]` decides what
    /// is most used.
    ///
    /// # Errors
    /// Rows in which no window fits, or a missing usage.
    pub fn compress(&self, old: Tensor<3>, usage: Option<&Tensor<2>>) -> Result<Tensor<3>> {
        let plan = &self.compression;
        let [batch, rows, width] = old.dims();
        let new = plan.rows_out(rows);
        if new == 0 {
            return Err(input(
                "the rows to compress",
                format!("{rows} rows"),
                format!(
                    "no window of {} rows fits behind dilations of {:?}; use a longer chunk or memory",
                    plan.window, plan.dilations
                ),
            ));
        }
        match (plan.kind, &self.conv) {
            (CompressorKind::MostUsed, _) => {
                let usage = usage.ok_or_else(|| {
                    let expected =
                        "the compressor `most_used` needs the attention each row received";
                    input("the usage", "absent", expected)
                })?;
                let index = most_used_rows(usage, rows / plan.rate);
                let [_, kept] = index.dims();
                let index = index.unsqueeze_dim::<3>(2).expand([batch, kept, width]);
                Ok(old.gather(1, index))
            }
            (CompressorKind::Conv, Some(weight)) => {
                let mut rows = old;
                for (weight, &dilation) in self.dilated.iter().zip(&plan.dilations) {
                    rows = relu(dilated_pair(rows, weight.val(), dilation));
                }
                let weight = match plan.torch_layout {
                    true => weight.val().permute([2, 1, 0]),
                    false => weight.val(),
                };
                let matrix = weight.reshape([plan.window * width, width]);
                let windows = windows(rows, plan.window, plan.rate);
                let [_, count, _, _] = windows.dims();
                let out = windows
                    .reshape([batch * count, plan.window * width])
                    .matmul(matrix);
                let out = match &self.bias {
                    Some(bias) => out + bias.val().unsqueeze(),
                    None => out,
                };
                Ok(out.reshape([batch, count, width]))
            }
            _ => {
                let windows = windows(old, plan.window, plan.rate);
                Ok(match plan.pooling {
                    Pooling::Avg => windows.mean_dim(2),
                    Pooling::Max => windows.max_dim(2),
                }
                .squeeze_dim(2))
            }
        }
    }

    /// The rows that the decoder restores from compressed ones: `[batch, new, width]` to `[batch, new * c, width]`; `None` without a
    /// decoder.
    pub fn decode(&self, compressed: Tensor<3>) -> Option<Tensor<3>> {
        let decoder = self.decoder.as_ref()?.val();
        let [batch, new, width] = compressed.dims();
        let [_, kernel, out, _] = decoder.dims();
        let matrix = decoder.reshape([kernel * out, width]).transpose();
        let rows = compressed.reshape([batch * new, width]).matmul(matrix);
        Some(rows.reshape([batch, new * kernel, out]))
    }

    /// Mean square of what the decoder misses of the old rows that windows cover, `[1]`; `None` without a decoder.
    pub fn autoencoding_loss(&self, old: Tensor<3>, compressed: Tensor<3>) -> Option<Tensor<1>> {
        let restored = self.decode(compressed)?;
        let [_, rows, _] = restored.dims();
        Some((restored - old.narrow(1, 0, rows)).square().mean())
    }
}

/// Windows of `window` rows every `stride` rows, as many as fit: `[batch, windows, window, width]`.
fn windows(x: Tensor<3>, window: usize, stride: usize) -> Tensor<4> {
    let [batch, rows, width] = x.dims();
    let count = (rows - window) / stride + 1;
    if window == stride {
        let covered = match count * stride == rows {
            true => x,
            false => x.narrow(1, 0, count * stride),
        };
        return covered.reshape([batch, count, window, width]);
    }
    let parts = (0..count).map(|i| {
        x.clone()
            .narrow(1, i * stride, window)
            .unsqueeze_dim::<4>(1)
    });
    Tensor::cat(parts.collect(), 1)
}

/// `x[t]·W₀ + x[t + dilation]·W₁` without padding.
fn dilated_pair(x: Tensor<3>, weight: Tensor<3>, dilation: usize) -> Tensor<3> {
    let [batch, rows, width] = x.dims();
    let left = rows - dilation;
    let [_, _, out] = weight.dims();
    let part = |from: usize, tap: usize| {
        let weight = weight.clone().narrow(0, tap, 1).reshape([width, out]);
        x.clone()
            .narrow(1, from, left)
            .reshape([batch * left, width])
            .matmul(weight)
    };
    (part(0, 0) + part(dilation, 1)).reshape([batch, left, out])
}

/// The `count` rows of largest usage `[batch, rows]`, in the order of time: `[batch, count]`. Of two rows used alike the older is
/// kept. No gradient passes.
pub fn most_used_rows(usage: &Tensor<2>, count: usize) -> Tensor<2, Int> {
    let [batch, rows] = usage.dims();
    let count = count.min(rows);
    let values: Vec<f32> = usage.clone().detach().into_data().iter::<f32>().collect();
    let mut index: Vec<i32> = Vec::with_capacity(batch * count);
    for values in values.chunks(rows.max(1)) {
        let mut order: Vec<usize> = (0..rows).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        order.truncate(count);
        order.sort_unstable();
        index.extend(order.into_iter().map(|row| row as i32));
    }
    let device = usage.device().without_autodiff();
    Tensor::from_data(TensorData::new(index, [batch, count]), &device)
}

/// Keys and values of the same rows, `[batch, rows, heads * dim]` each.
#[derive(Debug, Clone)]
pub struct Read {
    /// The keys.
    pub key: Tensor<3>,
    /// The values.
    pub value: Tensor<3>,
}

impl Read {
    /// What queries read by content alone: `softmax(q·Kᵀ)·V`, `[batch, query, heads * dim]`.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn by(self, query: Tensor<3>, heads: usize) -> Result<Tensor<3>> {
        Ok(attention(Attention {
            query,
            key: self.key,
            value: self.value,
            heads,
            mask: None,
            bias: None,
            scale: 1.0,
            dropout: Dropout::off(),
        })?)
    }
}

/// The attention-reconstruction loss of a layer (Algorithm 2): the mean square of the difference between what scaled queries
/// `[batch, query, heads * dim]` read from the old rows and from the compressed ones, `[1]`.
///
/// Only the compressed rows are open to gradients.
///
/// # Errors
/// Shapes that do not fit together.
pub fn reconstruction_loss(
    query: Tensor<3>,
    old: Read,
    compressed: Read,
    heads: usize,
) -> Result<Tensor<1>> {
    let query = query.detach();
    let wanted = old.by(query.clone(), heads)?.detach();
    Ok((wanted - compressed.by(query, heads)?).square().mean())
}
