//! The model of the `deepmind` profile, top to bottom (section 3 of the paper and its released code).

use crate::attention::MultiHeadAttention;
use crate::compressor::{Compressor, Read};
use crate::config::{CompressiveTransformerConfig, CompressorKind, NormPlace, Usage};
use crate::error::{Result, input};
use crate::head::{Dense, LanguageHead};
use crate::memory::{CompressedMemoryState, LayerMemory, MemorySizes, Projected};
use crate::memory_model::{CompressiveOutput, LayerView, Mode};
use crate::update::{Moved, Step};
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use core_attn::dropout::{Dropout, dropout};
use core_attn::memory::{
    MemoryFifo, RelativeAttention, Segment, SinusoidTable, causal_memory_mask, relative_attention,
};
use core_attn::random::Key;

/// The normalisations around a sublayer.
#[derive(Module, Debug)]
pub struct Norms {
    /// In front of it.
    pub input: Option<LayerNorm>,
    /// Behind its residual connection.
    pub output: Option<LayerNorm>,
}

impl Norms {
    fn new(config: &CompressiveTransformerConfig, device: &Device) -> Self {
        let norm = || {
            LayerNormConfig::new(config.width())
                .with_epsilon(1e-5)
                .init(device)
        };
        let place = config.layer_norm;
        Self {
            input: (place != NormPlace::Output).then(norm),
            output: (place != NormPlace::Input).then(norm),
        }
    }

    fn before(&self, x: Tensor<3>) -> Tensor<3> {
        self.input.as_ref().map_or(x.clone(), |n| n.forward(x))
    }

    fn after(&self, x: Tensor<3>) -> Tensor<3> {
        self.output.as_ref().map_or(x.clone(), |n| n.forward(x))
    }
}

/// Attention and feed-forward, each with a residual connection.
#[derive(Module, Debug)]
pub struct TransformerLayer {
    /// Around the attention.
    pub attention_norms: Norms,
    /// Attention over compressed memory, memory and chunk.
    pub attention: MultiHeadAttention,
    /// Around the feed-forward layer.
    pub mlp_norms: Norms,
    /// Linear maps with a ReLU and dropout between them.
    pub mlp: Vec<Dense>,
}

impl TransformerLayer {
    fn new(config: &CompressiveTransformerConfig, key: Key, device: &Device) -> Self {
        let scale = 2.0 / (config.num_layers as f64).sqrt();
        let mut from = config.width();
        let widths = config.mlp_hidden_sizes.iter().copied();
        let mlp = widths.chain([from]).enumerate().map(|(i, to)| {
            let std = (scale / from as f64).sqrt();
            let dense = Dense::new(from, to, std, key.site("mlp").fold(i as u64), device);
            from = to;
            dense
        });
        let mlp = mlp.collect();
        Self {
            attention_norms: Norms::new(config, device),
            attention: MultiHeadAttention::new(config, key.site("attention"), device),
            mlp_norms: Norms::new(config, device),
            mlp,
        }
    }

    fn feed_forward(&self, mut x: Tensor<3>, drop: Dropout) -> Tensor<3> {
        for (i, dense) in self.mlp.iter().enumerate() {
            if i > 0 {
                x = dropout(relu(x), drop.site(&format!("mlp.{i}")));
            }
            x = dense.forward(x);
        }
        x
    }
}

/// A Transformer-XL whose oldest memories are compressed instead of forgotten.
#[derive(Module, Debug)]
pub struct CompressiveTransformer {
    /// In front of dense inputs: `relu(x·W + b)`.
    pub input: Option<Dense>,
    /// Embedding and output layer of a language model.
    pub head: Option<LanguageHead>,
    /// The layers, first to last.
    pub layers: Vec<TransformerLayer>,
    /// The compression function of each layer; empty without a compressed memory. They are optimised apart from the rest.
    pub compressors: Vec<Compressor>,
    #[module(skip)]
    config: CompressiveTransformerConfig,
}

/// What all layers of a forward pass share.
pub(crate) struct Scene<'a> {
    pub mode: Mode,
    mask: core_attn::mask::Mask,
    table: &'a SinusoidTable,
    pub index: u64,
}

impl CompressiveTransformerConfig {
    /// A model whose initial parameters are a function of the key.
    ///
    /// # Errors
    /// A value the model cannot have, by its key.
    pub fn init(&self, key: Key, device: &Device) -> Result<CompressiveTransformer> {
        self.validate()?;
        if self.vocab_size.is_none() && self.input_dim.is_none() {
            self.vocab()?;
        }
        let part = |name: &str, i: usize| key.site(name).fold(i as u64);
        let head = self.vocab_size.is_some();
        let head = head.then(|| LanguageHead::new(self, key.site("head"), device));
        let compressors = if self.compresses() {
            self.num_layers
        } else {
            0
        };
        Ok(CompressiveTransformer {
            input: self.input_dim.map(|n| {
                let std = (2.0 / n as f64).sqrt();
                Dense::new(n, self.width(), std, key.site("input"), device)
            }),
            head: head.transpose()?,
            layers: (0..self.num_layers)
                .map(|i| TransformerLayer::new(self, part("layers", i), device))
                .collect(),
            compressors: (0..compressors)
                .map(|i| Compressor::of(self, part("compressors", i), device))
                .collect(),
            config: self.clone(),
        })
    }
}

impl CompressiveTransformer {
    /// The configuration.
    pub fn config(&self) -> &CompressiveTransformerConfig {
        &self.config
    }

    /// The sizes of the memories it was configured with.
    pub fn memory_sizes(&self) -> MemorySizes {
        MemorySizes {
            episodic: self.config.memory_size,
            compressed: self.config.compressed_memory_size,
        }
    }

    /// The memories at the beginning of a text: zero rows, which are attended to.
    ///
    /// The sizes may differ from those of the configuration: positions are sinusoids, so larger memories need no new weights.
    /// With `projected` the keys and values of remembered rows are kept as well, which evaluation gains from and training cannot use.
    ///
    /// # Errors
    /// A compressed memory for a model without a compressor, or one without an ordinary memory.
    pub fn state(
        &self,
        batch: usize,
        sizes: MemorySizes,
        projected: bool,
    ) -> Result<CompressedMemoryState> {
        let config = &self.config;
        if sizes.compressed > 0 && (!config.compresses() || sizes.episodic == 0) {
            return Err(input(
                "the compressed memory's size",
                sizes.compressed,
                "expected 0: the model has no compressor, or there is no ordinary memory to compress from",
            ));
        }
        if batch == 0 {
            return Err(input("the batch", 0, "expected at least 1"));
        }
        let device = self.device();
        let width = config.width();
        let reach = config.chunk_size + sizes.episodic + sizes.compressed;
        let clamp = (config.clamp_time_range > 0).then_some(config.clamp_time_range);
        let table = SinusoidTable::new(reach, width, clamp, &device)?;
        let zeros = |rows: usize, width: usize| MemoryFifo::zeros(batch, rows, width, &device);
        let running =
            config.compressor == CompressorKind::MostUsed && config.usage == Usage::Running;
        let layers = self.layers.iter().map(|layer| {
            let relative = |compressed: bool| {
                Ok::<_, core_attn::Error>(layer.attention.relative(
                    table.rows(reach)?,
                    compressed,
                    Dropout::off(),
                ))
            };
            Ok(LayerMemory {
                episodic: zeros(sizes.episodic, width),
                compressed: zeros(sizes.compressed, width),
                usage: running.then(|| zeros(sizes.episodic, 2)),
                // The projections have no bias, so those of zero rows are zero.
                projected: match projected {
                    true => Some(Projected {
                        episodic: zeros(sizes.episodic, 2 * width),
                        compressed: zeros(sizes.compressed, 2 * width),
                        relative: [
                            Some(relative(false)?),
                            match config.separate() {
                                true => Some(relative(true)?),
                                false => None,
                            },
                        ],
                    }),
                    false => None,
                },
            })
        });
        Ok(CompressedMemoryState {
            layers: layers.collect::<Result<_>>()?,
            index: 0,
            table: Some(table),
        })
    }

    /// The device of the parameters, without autodiff.
    pub fn device(&self) -> Device {
        let device = self
            .layers
            .first()
            .map(|l| l.attention.query.val().device());
        device.map_or_else(
            || unreachable!("a configuration without layers is refused"),
            |d| d.without_autodiff(),
        )
    }

    /// Rows `[batch, chunk, width]` in front of the first layer, to rows behind the last one.
    ///
    /// `watch` is shown each layer's tensors.
    ///
    /// # Errors
    /// A chunk longer than the configuration's, or a state of another model or batch.
    pub fn forward_rows(
        &self,
        rows: Tensor<3>,
        state: CompressedMemoryState,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<CompressiveOutput> {
        let config = &self.config;
        let [batch, chunk, width] = rows.dims();
        if chunk == 0 || chunk > config.chunk_size {
            return Err(input(
                "the chunk",
                format!("{chunk} rows long"),
                format!("expected 1..={} (model.chunk_size)", config.chunk_size),
            ));
        }
        if width != config.width() {
            let expected = format!("expected {}", config.width());
            return Err(input("the input", format!("{width} wide"), expected));
        }
        state.check(self.layers.len(), batch, width)?;
        let Some(table) = state.table else {
            return Err(input(
                "the state",
                "of another profile",
                "make it by `state`",
            ));
        };
        let keys = state
            .layers
            .first()
            .map_or(0, |l| l.compressed.len() + l.episodic.len())
            + chunk;
        let device = self.device();
        let scene = Scene {
            mode,
            mask: causal_memory_mask(chunk, keys, config.same_attention_length, &device),
            table: &table,
            index: state.index,
        };
        let mut h = dropout(rows, mode.dropout.site("embedding"));
        let (mut memories, mut losses) = (vec![], vec![]);
        for (i, memory) in state.layers.into_iter().enumerate() {
            let (out, memory, loss) = self.layer(i, h, memory, &scene, watch)?;
            h = out;
            memories.push(memory);
            losses.push(loss.unwrap_or_else(|| Tensor::zeros([1], &device)));
        }
        Ok(CompressiveOutput {
            hidden: h,
            state: CompressedMemoryState {
                layers: memories,
                index: state.index + u64::from(mode.update),
                table: Some(table),
            },
            losses,
            loss_weight: 1.0,
        })
    }

    /// One layer: attention over the memories as they were, the feed-forward layer, and the memories moved on.
    fn layer(
        &self,
        i: usize,
        x: Tensor<3>,
        memory: LayerMemory,
        scene: &Scene<'_>,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<(Tensor<3>, LayerMemory, Option<Tensor<1>>)> {
        let config = &self.config;
        let layer = &self.layers[i];
        let attention = &layer.attention;
        let drop = scene.mode.dropout.site(&format!("layers.{i}"));
        let [_, chunk, width] = x.dims();
        let appended = layer.attention_norms.before(x.clone());
        let query = crate::attention::project(appended.clone(), &attention.query)
            .mul_scalar((config.value_size as f64).powf(-0.5));

        let own = attention.read(appended.clone());
        let (old, compressed) = match &memory.projected {
            Some(p) => (pair(&p.episodic, width), pair(&p.compressed, width)),
            None => {
                let read = |fifo: &MemoryFifo| fifo.rows().map(|rows| attention.read(rows));
                (read(&memory.episodic), read(&memory.compressed))
            }
        };
        let recent = match old {
            Some(old) => join(old, own.clone()),
            None => own.clone(),
        };
        let relative = |reach: usize, compressed: bool| -> Result<Tensor<2>> {
            let cached = memory.projected.as_ref();
            let cached = cached.and_then(|p| p.relative[usize::from(compressed)].clone());
            Ok(match cached {
                Some(all) => {
                    let [known, _] = all.dims();
                    all.narrow(0, known - reach, reach)
                }
                None => {
                    let drop = drop.site(if compressed { "table.0" } else { "table" });
                    attention.relative(scene.table.rows(reach)?, compressed, drop)
                }
            })
        };
        let [_, rows, _] = recent.key.dims();
        let bias = Some(MultiHeadAttention::bias(&attention.r_r_bias));
        let segments = match (compressed, &attention.r_r_bias_0) {
            (Some(read), Some(own_bias)) => {
                let reach = chunk + memory.compressed.len();
                vec![
                    Segment {
                        key: read.key,
                        value: read.value,
                        relative: relative(reach, true)?,
                        bias: Some(MultiHeadAttention::bias(own_bias)),
                    },
                    segment(recent.clone(), relative(rows, false)?, bias),
                ]
            }
            (Some(read), None) => {
                let reach = rows + memory.compressed.len();
                let all = join(read, recent.clone());
                vec![segment(all, relative(reach, false)?, bias)]
            }
            (None, _) => vec![segment(recent.clone(), relative(rows, false)?, bias)],
        };
        let rows_used = config.compressor == CompressorKind::MostUsed && config.compresses();
        let attended = relative_attention(RelativeAttention {
            query: query.clone(),
            heads: config.num_heads,
            content_bias: Some(MultiHeadAttention::bias(&attention.r_w_bias)),
            segments,
            mask: Some(scene.mask.clone()),
            bias: None,
            dropout: drop.site("weights"),
            weights: scene.mode.weights || (rows_used && scene.mode.update),
        })?;
        let residual = dropout(attention.output(attended.out), drop.site("attention"));
        let after_attention = layer.attention_norms.after(x + residual);
        let inner = layer.mlp_norms.before(after_attention.clone());
        let residual = dropout(layer.feed_forward(inner, drop), drop.site("mlp"));
        let after_mlp = layer.mlp_norms.after(after_attention.clone() + residual);

        let regions = [memory.compressed.len(), memory.episodic.len(), chunk];
        let mut moved = Moved {
            memory,
            view: None,
            loss: None,
        };
        if scene.mode.update && moved.memory.episodic.size() > 0 {
            let step = Step {
                appended: &appended,
                query: &query,
                own,
                recent,
                weights: attended.weights.as_ref(),
            };
            moved = self.update_memory(i, moved.memory, step, scene)?;
        }
        watch(LayerView {
            layer: i,
            appended: &appended,
            weights: attended.weights.as_ref(),
            regions,
            after_attention: &after_attention,
            after_mlp: &after_mlp,
            compression: moved.view,
        });
        Ok((after_mlp, moved.memory, moved.loss))
    }
}

fn segment(read: Read, relative: Tensor<2>, bias: Option<Tensor<2>>) -> Segment {
    Segment {
        key: read.key,
        value: read.value,
        relative,
        bias,
    }
}

fn join(first: Read, second: Read) -> Read {
    Read {
        key: Tensor::cat(vec![first.key, second.key], 1),
        value: Tensor::cat(vec![first.value, second.value], 1),
    }
}

/// Keys and values that lie side by side.
fn pair(fifo: &MemoryFifo, width: usize) -> Option<Read> {
    fifo.rows().map(|rows| Read {
        key: rows.clone().narrow(2, 0, width),
        value: rows.narrow(2, width, width),
    })
}
