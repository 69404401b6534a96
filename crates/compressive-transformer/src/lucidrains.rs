//! The model of the `lucidrains` profile: gated residual connections, a learned position table, memories that grow from nothing.

use crate::attention::{product, project};
use crate::compressor::{Compression, Compressor, Read, reconstruction_loss};
use crate::config::{CompressorKind, Pooling};
use crate::error::{Result, input};
use crate::head::{Dense, embed};
use crate::lucidrains_config::LucidrainsConfig;
use crate::memory::{CompressedMemoryState, LayerMemory, MemorySizes, Projected};
use crate::memory_model::{CompressionView, CompressiveOutput, LayerView, Mode};
use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::prelude::*;
use burn::tensor::activation::{sigmoid, tanh};
use core_attn::dropout::Dropout;
use core_attn::init;
use core_attn::mask::Mask;
use core_attn::memory::{MemoryFifo, RelativeAttention, Segment, relative_attention};
use core_attn::random::Key;

/// A residual connection through a gated recurrent unit: the sublayer's output is its input, the stream its hidden state.
#[derive(Module, Debug)]
pub struct GruGate {
    /// `[width, 3 * width]`: reset, update, new.
    pub weight_ih: Param<Tensor<2>>,
    /// `[width, 3 * width]`.
    pub weight_hh: Param<Tensor<2>>,
    /// `[3 * width]`.
    pub bias_ih: Param<Tensor<1>>,
    /// `[3 * width]`.
    pub bias_hh: Param<Tensor<1>>,
}

impl GruGate {
    fn new(width: usize, key: Key, device: &Device) -> Self {
        let bound = (width as f64).powf(-0.5);
        let weight = |name: &str| init::uniform([width, 3 * width], bound, key.site(name), device);
        let bias = |name: &str| init::uniform([3 * width], bound, key.site(name), device);
        Self {
            weight_ih: weight("weight_ih"),
            weight_hh: weight("weight_hh"),
            bias_ih: bias("bias_ih"),
            bias_hh: bias("bias_hh"),
        }
    }

    fn forward(&self, y: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let [_, _, width] = x.dims();
        let from_y = project(y, &self.weight_ih) + self.bias_ih.val().unsqueeze();
        let from_x = project(x.clone(), &self.weight_hh) + self.bias_hh.val().unsqueeze();
        let part = |t: &Tensor<3>, i: usize| t.clone().narrow(2, i * width, width);
        let reset = sigmoid(part(&from_y, 0) + part(&from_x, 0));
        let update = sigmoid(part(&from_y, 1) + part(&from_x, 1));
        let new = tanh(part(&from_y, 2) + reset * part(&from_x, 2));
        new.clone() + update * (x - new)
    }
}

/// The residual connection around a sublayer.
fn residual(gate: &Option<GruGate>, y: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
    match gate {
        Some(gate) => gate.forward(y, x),
        None => x + y,
    }
}

/// Attention of one layer with its normalisation and residual connection.
#[derive(Module, Debug)]
pub struct AttentionLayer {
    /// Absent where residual connections are plain sums.
    pub gru: Option<GruGate>,
    /// In front of the attention.
    pub norm: LayerNorm,
    /// `[width, width]`.
    pub to_q: Param<Tensor<2>>,
    /// `[width, 2 * width]`: keys, then values.
    pub to_kv: Param<Tensor<2>>,
    /// Back to the stream.
    pub to_out: Dense,
}

/// Feed-forward sublayer with its normalisation and residual connection.
#[derive(Module, Debug)]
pub struct FeedForwardLayer {
    /// Absent where residual connections are plain sums.
    pub gru: Option<GruGate>,
    /// In front of it.
    pub norm: LayerNorm,
    /// `[width, 4 * width]`, or twice as wide with a gated linear unit.
    pub w1: Dense,
    /// `[4 * width, width]`.
    pub w2: Dense,
}

impl FeedForwardLayer {
    fn forward(&self, x: Tensor<3>, glu: bool) -> Tensor<3> {
        let inner = self.w1.forward(self.norm.forward(x));
        let inner = if glu {
            let [_, _, wide] = inner.dims();
            let half = wide / 2;
            gelu(inner.clone().narrow(2, 0, half)) * inner.narrow(2, half, half)
        } else {
            gelu(inner)
        };
        self.w2.forward(inner)
    }
}

/// `x·Φ(x)`, exactly. Composed, because ndarray differentiates its own `gelu` as the approximation by tanh.
fn gelu(x: Tensor<3>) -> Tensor<3> {
    let phi = (x.clone() / std::f64::consts::SQRT_2).erf() + 1.0;
    x * phi * 0.5
}

/// The model of the `lucidrains` profile.
#[derive(Module, Debug)]
pub struct LucidrainsTransformer {
    /// `[num_tokens, emb_dim]`.
    pub token_emb: Param<Tensor<2>>,
    /// Where embeddings have a width of their own.
    pub to_model_dim: Option<Dense>,
    /// Learned keys of relative positions, shared by the layers: `[heads, seq_len + mem_len + cmem_len, head_dim]`.
    pub pos_emb: Param<Tensor<3>>,
    /// First to last.
    pub attn_layers: Vec<AttentionLayer>,
    /// First to last.
    pub ff_layers: Vec<FeedForwardLayer>,
    /// Where embeddings have a width of their own.
    pub to_emb_dim: Option<Dense>,
    /// To the vocabulary.
    pub to_logits: Dense,
    /// One per layer; those of layers without a memory are never used, but upstream's files hold them.
    pub compressors: Vec<Compressor>,
    #[module(skip)]
    config: LucidrainsConfig,
}

impl LucidrainsConfig {
    /// A model whose initial parameters are a function of the key.
    ///
    /// # Errors
    /// A value the model cannot have, by its key.
    pub fn init(&self, key: Key, device: &Device) -> Result<LucidrainsTransformer> {
        self.validate()?;
        let vocab = self.vocab()?;
        let (d, e) = (self.dim, self.emb_dim());
        let linear = |name: &str, from: usize, to: usize, key: Key| {
            let key = key.site(name);
            let bound = (from as f64).powf(-0.5);
            Dense {
                weight: init::uniform([from, to], bound, key, device),
                bias: init::uniform([to], bound, key.site("bias"), device),
            }
        };
        let norm = || LayerNormConfig::new(d).with_epsilon(1e-5).init(device);
        let gate = |key: Key| {
            self.gru_gated_residual
                .then(|| GruGate::new(d, key.site("gru"), device))
        };
        let weight = |name: &str, to: usize, key: Key| {
            init::uniform([d, to], (d as f64).powf(-0.5), key.site(name), device)
        };
        let compression = Compression {
            kind: CompressorKind::Conv,
            pooling: Pooling::Avg,
            rate: self.cmem_ratio,
            window: self.cmem_ratio,
            dilations: vec![],
            torch_layout: true,
        };
        let inner = 4 * d;
        let layers = |name: &str, i: usize| key.site(name).fold(i as u64);
        Ok(LucidrainsTransformer {
            token_emb: init::normal([vocab, e], 1.0, key.site("token_emb"), device),
            to_model_dim: (e != d).then(|| linear("to_model_dim", e, d, key)),
            pos_emb: init::constant([self.heads, self.positions(), d / self.heads], 0.0, device),
            attn_layers: (0..self.depth)
                .map(|i| {
                    let key = layers("attn", i);
                    AttentionLayer {
                        gru: gate(key),
                        norm: norm(),
                        to_q: weight("to_q", d, key),
                        to_kv: weight("to_kv", 2 * d, key),
                        to_out: linear("to_out", d, d, key),
                    }
                })
                .collect(),
            ff_layers: (0..self.depth)
                .map(|i| {
                    let key = layers("ff", i);
                    let glu = if self.ff_glu { 2 } else { 1 };
                    FeedForwardLayer {
                        gru: gate(key),
                        norm: norm(),
                        w1: linear("w1", d, inner * glu, key),
                        w2: linear("w2", inner, d, key),
                    }
                })
                .collect(),
            to_emb_dim: (e != d).then(|| linear("to_emb_dim", d, e, key)),
            to_logits: linear("to_logits", e, vocab, key),
            compressors: (0..self.depth)
                .map(|i| {
                    let key = layers("compressors", i);
                    Compressor::new(compression.clone(), d, true, false, key, device)
                })
                .collect(),
            config: self.clone(),
        })
    }
}

/// What all layers of a forward pass share.
struct Scene {
    mode: Mode,
    /// Learned positions of the current lengths, `[M + C + t, width]`.
    table: Tensor<2>,
    /// Real tokens `[batch][chunk]`, where some are padding.
    real: Option<Vec<bool>>,
    update: bool,
}

impl LucidrainsTransformer {
    /// The configuration.
    pub fn config(&self) -> &LucidrainsConfig {
        &self.config
    }

    /// The memories at the beginning of a text: empty.
    ///
    /// # Errors
    /// Sizes other than the configuration's, which the learned position table cannot follow.
    pub fn state(&self, sizes: MemorySizes) -> Result<CompressedMemoryState> {
        let config = &self.config;
        let own = config.sizes();
        if sizes.episodic > own.episodic || sizes.compressed > own.compressed {
            return Err(input(
                "the memory's size",
                format!(
                    "{} and {} compressed rows",
                    sizes.episodic, sizes.compressed
                ),
                format!(
                    "expected at most the {} and {} that the learned position table has rows for; only sinusoids (profile \"deepmind\") can grow",
                    own.episodic, own.compressed
                ),
            ));
        }
        let layer = LayerMemory {
            episodic: MemoryFifo::empty(sizes.episodic),
            compressed: MemoryFifo::empty(sizes.compressed),
            usage: None,
            projected: None,
        };
        Ok(CompressedMemoryState {
            layers: vec![layer; config.memory_layers().len()],
            index: 0,
            table: None,
        })
    }

    /// The same memories for evaluation: beside its rows each keeps their keys and values, which never change. With enhanced
    /// recurrence over several layers there is nothing to keep, as another layer reads the rows every time.
    ///
    /// # Errors
    /// As [`LucidrainsTransformer::state`].
    pub fn projected_state(&self, sizes: MemorySizes) -> Result<CompressedMemoryState> {
        let mut state = self.state(sizes)?;
        if self.config.enhanced_recurrence && state.layers.len() > 1 {
            return Ok(state);
        }
        for layer in &mut state.layers {
            layer.projected = Some(Projected {
                episodic: MemoryFifo::empty(sizes.episodic),
                compressed: MemoryFifo::empty(sizes.compressed),
                relative: [None, None],
            });
        }
        Ok(state)
    }

    /// Ids `[batch, chunk]` to rows behind the last layer. `real` is true where a token is no padding.
    ///
    /// Memories move on only with chunks of full length. With enhanced recurrence the memories are rotated by one layer in every
    /// call, short ones included.
    ///
    /// # Errors
    /// A chunk that is too long, or a state of another model or batch.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        real: Option<Tensor<2, Bool>>,
        mut state: CompressedMemoryState,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<CompressiveOutput> {
        let config = &self.config;
        let [batch, chunk] = tokens.dims();
        if chunk == 0 || chunk > config.seq_len {
            let expected = format!("expected 1..={} (model.seq_len)", config.seq_len);
            return Err(input("the chunk", format!("{chunk} tokens long"), expected));
        }
        let memory_layers = config.memory_layers();
        state.check(memory_layers.len(), batch, config.dim)?;
        let untouched = (!mode.update).then(|| state.clone());
        if config.enhanced_recurrence && !state.layers.is_empty() {
            state.layers.rotate_left(1);
        }
        let held = state
            .layers
            .first()
            .map_or(0, |l| l.episodic.len() + l.compressed.len());
        let (heads, size) = (config.heads, config.dim / config.heads);
        // The rows move while the memories fill, as upstream's do.
        let rows = held + chunk;
        let table = self
            .pos_emb
            .val()
            .narrow(1, config.seq_len - chunk, rows)
            .permute([1, 0, 2])
            .reshape([rows, heads * size]);
        let scene = Scene {
            mode,
            table,
            real: real.map(|real| real.into_data().iter::<bool>().collect()),
            update: mode.update && chunk == config.seq_len,
        };
        let mut x = embed(&self.token_emb, tokens);
        if let Some(dense) = &self.to_model_dim {
            x = dense.forward(x);
        }
        let mut memories = state.layers.into_iter();
        let (mut moved, mut losses) = (vec![], vec![]);
        for i in 0..config.depth {
            let memory = match memory_layers.contains(&(i + 1)) {
                true => memories.next(),
                false => None,
            };
            let (out, memory, loss) = self.layer(i, x, memory, &scene, watch)?;
            x = out;
            if let Some(memory) = memory {
                moved.push(memory);
                let zero = || Tensor::zeros([1], &self.token_emb.val().device().without_autodiff());
                losses.push(loss.unwrap_or_else(zero));
            }
        }
        let next = CompressedMemoryState {
            layers: moved,
            index: state.index + u64::from(scene.update),
            table: None,
        };
        Ok(CompressiveOutput {
            hidden: x,
            state: untouched.unwrap_or(next),
            losses,
            loss_weight: config.reconstruction_loss_weight,
        })
    }

    fn layer(
        &self,
        i: usize,
        x: Tensor<3>,
        memory: Option<LayerMemory>,
        scene: &Scene,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<(Tensor<3>, Option<LayerMemory>, Option<Tensor<1>>)> {
        let config = &self.config;
        let layer = &self.attn_layers[i];
        let [batch, chunk, width] = x.dims();
        let size = width / config.heads;
        let appended = layer.norm.forward(x.clone());
        let query = project(appended.clone(), &layer.to_q).mul_scalar((size as f64).powf(-0.5));
        let remembered =
            |fifo: fn(&LayerMemory) -> &MemoryFifo| memory.as_ref().and_then(|m| fifo(m).rows());
        let (compressed, old) = (remembered(|m| &m.compressed), remembered(|m| &m.episodic));
        let regions = [&compressed, &old].map(|rows| rows.as_ref().map_or(0, |r| r.dims()[1]));
        let cached = memory.as_ref().and_then(|m| m.projected.as_ref());
        let both = match cached {
            Some(p) => {
                let own = project(appended.clone(), &layer.to_kv);
                let parts = [p.compressed.rows(), p.episodic.rows(), Some(own)];
                Tensor::cat(parts.into_iter().flatten().collect(), 1)
            }
            None => {
                let parts = [compressed, old, Some(appended.clone())];
                let all = Tensor::cat(parts.into_iter().flatten().collect(), 1);
                project(all, &layer.to_kv)
            }
        };
        let [_, keys, _] = both.dims();
        let read = split(both.clone());
        let known = scene.table.dims()[0];
        let (mask, bias) = match &scene.real {
            None => {
                let device = x.device().without_autodiff();
                (Some(Mask::causal(chunk, keys, &device)), None)
            }
            Some(real) => (
                None,
                Some(padding_bias(real, batch, chunk, keys, &x.device())),
            ),
        };
        let attended = relative_attention(RelativeAttention {
            query: query.clone(),
            heads: config.heads,
            content_bias: None,
            segments: vec![Segment {
                key: read.key.clone(),
                value: read.value.clone(),
                relative: scene.table.clone().narrow(0, known - keys, keys),
                bias: None,
            }],
            mask,
            bias,
            dropout: Dropout::off(),
            weights: scene.mode.weights,
        })?;
        let after_attention = residual(&layer.gru, layer.to_out.forward(attended.out), x);
        let ff = &self.ff_layers[i];
        let y = ff.forward(after_attention.clone(), config.ff_glu);
        let after_mlp = residual(&ff.gru, y, after_attention.clone());

        let (mut view, mut loss) = (None, None);
        let memory = match memory {
            Some(memory) if scene.update => {
                let new = self.compress(i, &memory, &appended)?;
                if let Some((old, new)) = &new {
                    let query = query.detach();
                    if scene.mode.losses {
                        let [first, rows] = regions;
                        let part = |t: &Tensor<3>| t.clone().narrow(1, first, rows).detach();
                        let old = Read {
                            key: part(&read.key),
                            value: part(&read.value),
                        };
                        let fixed = layer.to_kv.val().detach();
                        let compressed = split(product(new.clone(), fixed));
                        loss = Some(reconstruction_loss(
                            query.clone(),
                            old,
                            compressed,
                            config.heads,
                        )?);
                    }
                    view = Some(CompressionView {
                        old: old.clone(),
                        new: new.clone().detach(),
                        query,
                    });
                }
                let new = new.map(|(_, new)| new.detach());
                let projected = memory.projected.clone().map(|p| Projected {
                    episodic: p.episodic.push(both.narrow(1, keys - chunk, chunk)),
                    compressed: match &new {
                        Some(rows) => p.compressed.push(project(rows.clone(), &layer.to_kv)),
                        None => p.compressed,
                    },
                    relative: p.relative,
                });
                let memory = LayerMemory {
                    projected,
                    ..memory
                };
                Some(memory.push(appended.clone().detach(), new))
            }
            memory => memory,
        };
        watch(LayerView {
            layer: i,
            appended: &appended,
            weights: attended.weights.as_ref(),
            regions: [regions[0], regions[1], chunk],
            after_attention: &after_attention,
            after_mlp: &after_mlp,
            compression: view,
        });
        Ok((after_mlp, memory, loss))
    }

    /// The rows that a chunk drives out of the memory, and what they are compressed to.
    fn compress(
        &self,
        i: usize,
        memory: &LayerMemory,
        appended: &Tensor<3>,
    ) -> Result<Option<(Tensor<3>, Tensor<3>)>> {
        let [batch, chunk, width] = appended.dims();
        let leaving = (memory.episodic.len() + chunk).saturating_sub(memory.episodic.size());
        if memory.compressed.size() == 0 || leaving == 0 {
            return Ok(None);
        }
        let Some(old) = memory.episodic.oldest(&appended.clone().detach(), leaving) else {
            return Ok(None);
        };
        let odd = leaving % self.config.cmem_ratio;
        let old = match odd {
            0 => old,
            _ => {
                // Upstream pads by the remainder, not by what is missing to a full window.
                let zeros = Tensor::zeros([batch, odd, width], &old.device().without_autodiff());
                Tensor::cat(vec![zeros, old], 1)
            }
        };
        let new = self.compressors[i].compress(old.clone(), None)?;
        Ok(Some((old, new)))
    }

    /// Rows behind the last layer to logits: `[batch, chunk, width]` to `[batch, chunk, num_tokens]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let rows = match &self.to_emb_dim {
            Some(dense) => dense.forward(hidden),
            None => hidden,
        };
        self.to_logits.forward(rows)
    }
}

/// Keys and values of rows projected by `to_kv`.
fn split(both: Tensor<3>) -> Read {
    let [_, _, width] = both.dims();
    Read {
        key: both.clone().narrow(2, 0, width / 2),
        value: both.narrow(2, width / 2, width / 2),
    }
}

/// What hides keys in a chunk with padding: a pair of the chunk is kept only where both tokens are real; memories stay visible.
///
/// The value is finite, so that a padded row that sees nothing spreads evenly over all keys, as upstream's does.
fn padding_bias(
    real: &[bool],
    batch: usize,
    chunk: usize,
    keys: usize,
    device: &Device,
) -> Tensor<4> {
    const HIDDEN: f32 = -1e30;
    let memory = keys - chunk;
    let mut bias = Vec::with_capacity(batch * chunk * keys);
    for real in real.chunks(chunk) {
        for i in 0..chunk {
            bias.extend((0..keys).map(|column| match column.checked_sub(memory) {
                Some(j) if j > i || !real[i] || !real[j] => HIDDEN,
                _ => 0.0,
            }));
        }
    }
    let device = device.clone().without_autodiff();
    Tensor::from_data(TensorData::new(bias, [batch, 1, chunk, keys]), &device)
}
