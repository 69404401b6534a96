//! The authors' model, top to bottom.

use super::attention::{PaperAttention, unit_scaling};
use super::config::{BYTES, Frame, PaperConfig};
use crate::error::{Result, input};
use crate::layers::{LayerView, Mode, Output, Routed, affine, checked_ids, embed, project};
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::relu;
use core_attn::dropout::{Dropout, dropout};
use core_attn::init;
use core_attn::pointwise::{Gelu, LayerNorm, gelu};
use core_attn::random::Key;

/// The feed-forward layer.
#[derive(Module, Debug)]
pub enum PaperFeedForward {
    /// `W3·(gelu(W1·x) ⊙ W2·x)`.
    Geglu(Geglu),
    /// `conv2(relu(conv1(x)))`.
    Relu(ReluFeedForward),
}

/// Gated, without biases.
#[derive(Module, Debug)]
pub struct Geglu {
    /// `[hidden, filter]`.
    pub weight1: Param<Tensor<2>>,
    /// `[hidden, filter]`.
    pub weight2: Param<Tensor<2>>,
    /// `[filter, hidden]`.
    pub weight3: Param<Tensor<2>>,
}

/// Two maps with a ReLU between them.
#[derive(Module, Debug)]
pub struct ReluFeedForward {
    /// `[hidden, filter]`.
    pub conv1_kernel: Param<Tensor<2>>,
    /// `[filter]`.
    pub conv1_bias: Param<Tensor<1>>,
    /// `[filter, hidden]`.
    pub conv2_kernel: Param<Tensor<2>>,
    /// `[hidden]`.
    pub conv2_bias: Param<Tensor<1>>,
}

impl PaperFeedForward {
    fn new(config: &PaperConfig, key: Key, device: &Device) -> Self {
        let (h, f) = (config.hidden_size, config.filter_size);
        let map = |name, shape| unit_scaling(shape, key.site(name), device);
        match &*config.ffn_layer {
            "geglu" => Self::Geglu(Geglu {
                weight1: map("weight1", [h, f]),
                weight2: map("weight2", [h, f]),
                weight3: map("weight3", [f, h]),
            }),
            _ => Self::Relu(ReluFeedForward {
                conv1_kernel: map("conv1", [h, f]),
                conv1_bias: init::constant([f], 0.0, device),
                conv2_kernel: map("conv2", [f, h]),
                conv2_bias: init::constant([h], 0.0, device),
            }),
        }
    }

    pub(super) fn forward(&self, x: Tensor<3>, drop: Dropout) -> Result<Tensor<3>> {
        Ok(match self {
            Self::Geglu(ff) => {
                let gate = gelu(project(x.clone(), &ff.weight1), None, Gelu::Tanh)?;
                let inner = gate * project(x, &ff.weight2);
                project(dropout(inner, drop), &ff.weight3)
            }
            Self::Relu(ff) => {
                let inner = relu(affine(x, &ff.conv1_kernel, &ff.conv1_bias));
                affine(dropout(inner, drop), &ff.conv2_kernel, &ff.conv2_bias)
            }
        })
    }
}

/// Attention and feed-forward, each with a residual connection and a normalisation, behind it or before it.
#[derive(Module, Debug)]
pub struct PaperLayer {
    /// Local and routing heads.
    pub attention: PaperAttention,
    /// Of the attention.
    pub norm: LayerNorm,
    /// The feed-forward layer.
    pub ffn: PaperFeedForward,
    /// Of the feed-forward layer.
    pub ffn_norm: LayerNorm,
}

impl PaperLayer {
    /// The input of a branch.
    pub(super) fn before(
        &self,
        norm: &LayerNorm,
        x: &Tensor<3>,
        config: &PaperConfig,
    ) -> Result<Tensor<3>> {
        Ok(match config.pre_norm() {
            true => norm.forward(x.clone())?,
            false => x.clone(),
        })
    }

    /// What goes on from the residual sum behind a branch.
    pub(super) fn after(
        &self,
        norm: &LayerNorm,
        sum: Tensor<3>,
        config: &PaperConfig,
    ) -> Result<Tensor<3>> {
        Ok(match config.pre_norm() {
            true => sum,
            false => norm.forward(sum)?,
        })
    }
}

/// A decoder whose heads attend locally or within clusters.
#[derive(Module, Debug)]
pub struct PaperTransformer {
    /// `[vocab, embedding]`; for pictures `[256 · channels, hidden]`, the channels one after another.
    pub embedding: Param<Tensor<2>>,
    /// `[embedding, hidden]` and its bias, there even where both are the same; absent for pictures.
    pub emb_dense: Option<Dense>,
    /// Of rows, columns and channels of a picture.
    pub positions: Option<FramePositions>,
    /// First to last.
    pub layers: Vec<PaperLayer>,
    /// After the last layer, where layers normalise before their branches.
    pub final_norm: Option<LayerNorm>,
    /// `[hidden, embedding]` and its bias, where the two differ.
    pub final_dense_1: Option<Dense>,
    /// `[embedding, vocab]` and its bias (for pictures upstream's `final_dense`); not tied to the embedding.
    pub final_dense_2: Dense,
    #[module(skip)]
    config: PaperConfig,
}

/// Learned embeddings of the places in a picture, in the shapes of the reference; of each table the first rows are used.
#[derive(Module, Debug)]
pub struct FramePositions {
    /// `[1, longest side, 1, 1, hidden]`.
    pub row: Param<Tensor<5>>,
    /// `[1, 1, longest side, 1, hidden]`.
    pub column: Param<Tensor<5>>,
    /// `[1, 1, 1, longest side, hidden]`.
    pub channel: Param<Tensor<5>>,
}

impl FramePositions {
    fn new(longest: usize, hidden: usize, key: Key, device: &Device) -> Self {
        let table = |axis: usize| {
            let mut shape = [1, 1, 1, 1, hidden];
            shape[axis] = longest;
            let std = (hidden as f64).powf(-0.5);
            init::normal(shape, std, key.fold(axis as u64), device)
        };
        Self {
            row: table(1),
            column: table(2),
            channel: table(3),
        }
    }

    /// The sum of the three for these places, `[places, hidden]`.
    fn of(&self, places: &[[usize; 3]]) -> Tensor<2> {
        let part = |axis: usize, table: &Param<Tensor<5>>| {
            let table = table.val();
            let [a, b, c, d, hidden] = table.dims();
            let at: Vec<i32> = places.iter().map(|p| p[axis] as i32).collect();
            let at = Tensor::from_data(TensorData::new(at, [places.len()]), &table.device());
            table.reshape([a * b * c * d, hidden]).select(0, at)
        };
        part(0, &self.row) + part(1, &self.column) + part(2, &self.channel)
    }
}

/// `x·W + b`.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[in, out]`.
    pub kernel: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    fn new(shape: [usize; 2], key: Key, device: &Device) -> Self {
        Self {
            kernel: unit_scaling(shape, key, device),
            bias: init::constant([shape[1]], 0.0, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        affine(x, &self.kernel, &self.bias)
    }
}

impl PaperConfig {
    /// A freshly initialised model, drawn from `key`.
    ///
    /// # Errors
    /// A configuration that [`PaperConfig::validate`] refuses, or one without a vocabulary size.
    pub fn init(&self, key: Key, device: &Device) -> Result<PaperTransformer> {
        self.validate()?;
        let (h, e, vocab) = (self.hidden_size, self.embedding(), self.vocab()?);
        let norm = || LayerNorm::new(h, self.norm_epsilon, device);
        let layer = |i: usize| {
            let key = key.site("layers").fold(i as u64);
            PaperLayer {
                attention: PaperAttention::new(self, i, key.site("attention"), device),
                norm: norm(),
                ffn: PaperFeedForward::new(self, key.site("ffn"), device),
                ffn_norm: norm(),
            }
        };
        let rows = vocab * self.frame().map_or(1, |f| f.channels);
        Ok(PaperTransformer {
            embedding: unit_scaling([rows, e], key.site("embedding"), device),
            emb_dense: match self.frame() {
                Some(_) => None,
                None => Some(Dense::new([e, h], key.site("emb_dense"), device)),
            },
            positions: self
                .frame()
                .filter(|_| self.has_positions())
                .map(|f| FramePositions::new(f.longest(), h, key.site("positions"), device)),
            layers: (0..self.num_decoder_layers).map(layer).collect(),
            final_norm: self.pre_norm().then(norm),
            final_dense_1: (e != h).then(|| Dense::new([h, e], key.site("final_dense_1"), device)),
            final_dense_2: Dense::new([e, vocab], key.site("final_dense_2"), device),
            config: self.clone(),
        })
    }
}

/// `[sin | cos]` of every position from `start` on, `[length, hidden]`, as Tensor2Tensor has it; an odd width ends in a
/// column of zeros.
fn timing_signal(start: usize, length: usize, hidden: usize, device: &Device) -> Tensor<2> {
    let half = hidden / 2;
    let step = 10_000f64.ln() / (half as f64 - 1.0).max(1.0);
    let mut values = vec![0.0f32; length * hidden];
    for t in 0..length {
        for i in 0..half {
            let angle = (start + t) as f64 * (-(i as f64) * step).exp();
            values[t * hidden + i] = angle.sin() as f32;
            values[t * hidden + half + i] = angle.cos() as f32;
        }
    }
    Tensor::from_data(TensorData::new(values, [length, hidden]), device)
}

impl PaperTransformer {
    /// The model's configuration.
    pub fn config(&self) -> &PaperConfig {
        &self.config
    }

    /// The decoder's input for these tokens `[batch, length]`: shifted right by one, with id 0 in front.
    pub fn shifted(tokens: Tensor<2, Int>) -> Tensor<2, Int> {
        let [batch, length] = tokens.dims();
        let front = Tensor::zeros([batch, 1], (&tokens.device(), tokens.dtype()));
        if length < 2 {
            return tokens.zeros_like();
        }
        Tensor::cat(vec![front, tokens.narrow(1, 0, length - 1)], 1)
    }

    /// Runs ids `[batch, length]` as they are; a causal model wants [`PaperTransformer::shifted`] ones.
    ///
    /// # Errors
    /// No tokens, ids outside the vocabulary, or more bytes than a picture has.
    pub fn forward(&self, ids: Tensor<2, Int>, mode: Mode) -> Result<Output> {
        self.forward_watched(ids, mode, &mut |_| {})
    }

    /// [`PaperTransformer::forward`] that shows each layer's tensors to `watch`.
    ///
    /// # Errors
    /// As [`PaperTransformer::forward`].
    pub fn forward_watched(
        &self,
        ids: Tensor<2, Int>,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<Output> {
        let config = &self.config;
        let mut x = self.embedded(ids, 0, mode)?;
        let mut clustering_loss = Tensor::<1>::zeros([1], &x.device());
        let mut routed: Vec<Routed> = vec![];
        for (i, layer) in self.layers.iter().enumerate() {
            let drop = |site: &str| {
                let rate = config.layer_prepostprocess_dropout;
                mode.drop(rate, &format!("layers.{i}.{site}"))
            };
            let inner = layer.before(&layer.norm, &x, config)?;
            let (attn_out, record) = layer.attention.forward(inner, config, i, mode)?;
            if let Some((loss, record)) = record {
                clustering_loss = clustering_loss + loss;
                routed.push(record);
            }
            let sum = x + dropout(attn_out.clone(), drop("attention"));
            x = layer.after(&layer.norm, sum, config)?;
            let within = mode.drop(config.relu_dropout, &format!("layers.{i}.ffn.inner"));
            let inner = layer.before(&layer.ffn_norm, &x, config)?;
            let ff_out = layer.ffn.forward(inner, within)?;
            let sum = x + dropout(ff_out.clone(), drop("ffn"));
            x = layer.after(&layer.ffn_norm, sum, config)?;
            watch(LayerView {
                layer: i,
                attn_out: &attn_out,
                ff_out: &ff_out,
            });
        }
        let (hidden, logits) = self.scored(x)?;
        Ok(Output {
            hidden,
            logits,
            clustering_loss,
            routed,
        })
    }

    /// Hidden states before the first layer, of ids that stand at position `start` and after it.
    pub(super) fn embedded(
        &self,
        ids: Tensor<2, Int>,
        start: usize,
        mode: Mode,
    ) -> Result<Tensor<3>> {
        let config = &self.config;
        checked_ids(&ids, config.vocab()?)?;
        let [_, length] = ids.dims();
        if let Some(frame) = config.frame() {
            let x = self.embedded_picture(ids, start, frame)?;
            return Ok(dropout(x, mode.drop(config.dropout, "embedding")));
        }
        let mut x = embed(&self.embedding, ids);
        let device = x.device();
        if let Some(dense) = &self.emb_dense {
            x = dense.forward(x);
        }
        if config.add_timing_signal {
            x = x + timing_signal(start, length, config.hidden_size, &device).unsqueeze();
        }
        Ok(dropout(x, mode.drop(config.dropout, "embedding")))
    }

    /// Bytes of a picture that stand at position `start` and after it: every channel has rows of its own.
    fn embedded_picture(
        &self,
        ids: Tensor<2, Int>,
        start: usize,
        frame: Frame,
    ) -> Result<Tensor<3>> {
        let [batch, length] = ids.dims();
        if start + length > frame.size() {
            let Frame {
                height,
                width,
                channels,
            } = frame;
            return Err(input(
                "a picture",
                format!("{} bytes long", start + length),
                format!(
                    "expected at most {}, model.frame_height {height} x model.frame_width {width} x {channels} channels",
                    frame.size()
                ),
            ));
        }
        let places: Vec<[usize; 3]> = (start..start + length).map(|t| frame.place(t)).collect();
        let offsets: Vec<i32> = places.iter().map(|p| (p[2] * BYTES) as i32).collect();
        let offsets = TensorData::new(offsets, [1, length]);
        let offsets = Tensor::<2, Int>::from_data(offsets, &ids.device());
        let root = (self.config.hidden_size as f64).sqrt();
        let rows = ids + offsets.expand([batch, length]);
        let x = embed(&self.embedding, rows).mul_scalar(root);
        Ok(match &self.positions {
            Some(positions) => x + positions.of(&places).mul_scalar(root).unsqueeze(),
            None => x,
        })
    }

    /// What stands behind the last layer, and the logits.
    pub(super) fn scored(&self, x: Tensor<3>) -> Result<(Tensor<3>, Tensor<3>)> {
        let hidden = match &self.final_norm {
            Some(norm) => norm.forward(x)?,
            None => x,
        };
        let x = match &self.final_dense_1 {
            Some(dense) => dense.forward(hidden.clone()),
            None => hidden.clone(),
        };
        Ok((hidden, self.final_dense_2.forward(x)))
    }

    /// The model with its centroids moved by what forward passes saw: one list per shard of the batch, whose counts and sums
    /// are added up. Without moving averages nothing changes.
    #[must_use]
    pub fn with_centroids(mut self, shards: &[Vec<Routed>]) -> Self {
        if !self.config.ema {
            return self;
        }
        let Some((first, others)) = shards.split_first() else {
            return self;
        };
        for (n, record) in first.iter().enumerate() {
            let Some(layer) = self.layers.get_mut(record.layer) else {
                continue;
            };
            let mut kmeans = layer.attention.kmeans.take();
            // Queries and keys that are not shared move the averages one after the other.
            for (side, seen) in record.seen.iter().enumerate() {
                let more = others.iter().filter_map(|s| s.get(n)?.seen.get(side));
                let all = more.fold(seen.clone(), |a, b| a.plus(b.clone()));
                kmeans = kmeans.map(|k| k.updated(&all, self.config.decay));
            }
            layer.attention.kmeans = kmeans;
        }
        self
    }
}
