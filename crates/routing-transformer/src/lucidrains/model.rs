//! The package's language model, top to bottom.

use super::attention::{LucidrainsAttention, bias, linear};
use super::config::LucidrainsConfig;
use crate::error::{Result, input};
use crate::kmeans::PendingMeans;
use crate::layers::{LayerView, Mode, Output, Routed, affine, checked_ids, embed, project};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::{Dropout, dropout};
use core_attn::init;
use core_attn::pointwise::{Gelu, LayerNorm, gelu};
use core_attn::random::Key;

/// What makes a branch behave in a residual sum.
#[derive(Module, Debug)]
pub enum BranchNorm {
    /// Layer normalisation before it.
    Layer(LayerNorm),
    /// Division by the length before it, times one learned number `[1]`.
    Scale(Param<Tensor<1>>),
    /// One learned number `[1]` behind it, 0 at first.
    Rezero(Param<Tensor<1>>),
}

impl BranchNorm {
    fn new(config: &LucidrainsConfig, device: &Device) -> Self {
        if config.use_rezero {
            Self::Rezero(init::constant([1], 0.0, device))
        } else if config.use_scale_norm {
            Self::Scale(init::constant([1], 1.0, device))
        } else {
            Self::Layer(norm(config.dim, device))
        }
    }

    pub(super) fn before(&self, x: Tensor<3>) -> Result<Tensor<3>> {
        Ok(match self {
            Self::Layer(norm) => norm.forward(x)?,
            Self::Scale(g) => {
                let square = x.clone().square().sum_dim(2).clamp_min(1e-10);
                x / square.sqrt() * g.val().unsqueeze()
            }
            Self::Rezero(_) => x,
        })
    }

    pub(super) fn behind(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Rezero(weight) => x * weight.val().unsqueeze(),
            _ => x,
        }
    }
}

fn norm(width: usize, device: &Device) -> LayerNorm {
    LayerNorm::new(width, 1e-5, device)
}

/// `w2·gelu(w1·x)`, or gated: the first half of `w1·x` through the activation, times the second.
#[derive(Module, Debug)]
pub struct LucidrainsFeedForward {
    /// `[dim, 4 · dim]`, or twice as wide where it is gated.
    pub w1: Param<Tensor<2>>,
    /// Its bias.
    pub w1_bias: Param<Tensor<1>>,
    /// `[4 · dim, dim]`.
    pub w2: Param<Tensor<2>>,
    /// `[dim]`.
    pub w2_bias: Param<Tensor<1>>,
}

impl LucidrainsFeedForward {
    fn new(config: &LucidrainsConfig, key: Key, device: &Device) -> Self {
        let dim = config.dim;
        let inner = dim * if config.ff_glu { 8 } else { 4 };
        Self {
            w1: linear([dim, inner], key.site("w1"), device),
            w1_bias: bias(inner, dim, key.site("w1.bias"), device),
            w2: linear([4 * dim, dim], key.site("w2"), device),
            w2_bias: bias(dim, 4 * dim, key.site("w2.bias"), device),
        }
    }

    pub(super) fn forward(&self, x: Tensor<3>, drop: Dropout) -> Result<Tensor<3>> {
        let [_, _, dim] = x.dims();
        let inner = project(x, &self.w1);
        let [_, _, width] = inner.dims();
        let bias = self.w1_bias.val();
        let inner = match width == 8 * dim {
            true => {
                let inner = inner + bias.unsqueeze();
                let gate = inner.clone().narrow(2, 0, 4 * dim);
                gelu(gate, None, Gelu::Exact)? * inner.narrow(2, 4 * dim, 4 * dim)
            }
            false => gelu(inner, Some(bias), Gelu::Exact)?,
        };
        Ok(affine(dropout(inner, drop), &self.w2, &self.w2_bias))
    }
}

/// Attention and feed-forward, each in a residual sum.
#[derive(Module, Debug)]
pub struct LucidrainsLayer {
    /// Of the attention.
    pub norm: BranchNorm,
    /// Local and routing heads.
    pub attention: LucidrainsAttention,
    /// Of the feed-forward layer.
    pub ff_norm: BranchNorm,
    /// The feed-forward layer.
    pub ff: LucidrainsFeedForward,
}

/// Maps between the widths of embedding and hidden states, where these differ.
#[derive(Module, Debug)]
pub struct Projections {
    /// `[emb_dim, dim]`.
    pub project_in: Param<Tensor<2>>,
    /// `[dim]`.
    pub project_in_bias: Param<Tensor<1>>,
    /// `[dim, emb_dim]`.
    pub project_out: Param<Tensor<2>>,
    /// `[emb_dim]`.
    pub project_out_bias: Param<Tensor<1>>,
}

/// A language model whose heads attend locally or within clusters.
#[derive(Module, Debug)]
pub struct LucidrainsTransformer {
    /// `[num_tokens, emb_dim]`.
    pub token_emb: Param<Tensor<2>>,
    /// Where embedding and hidden states differ in width.
    pub projections: Option<Projections>,
    /// First to last.
    pub layers: Vec<LucidrainsLayer>,
    /// After the last layer.
    pub norm: LayerNorm,
    /// `[emb_dim, num_tokens]`; absent where the embedding serves.
    pub out: Option<Param<Tensor<2>>>,
    /// `[num_tokens]`.
    pub out_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: LucidrainsConfig,
}

impl LucidrainsConfig {
    /// A freshly initialised model, drawn from `key`.
    ///
    /// # Errors
    /// A configuration that [`LucidrainsConfig::validate`] refuses, or one without a vocabulary size.
    pub fn init(&self, key: Key, device: &Device) -> Result<LucidrainsTransformer> {
        self.validate()?;
        let (dim, e, vocab) = (self.dim, self.embedding(), self.vocab()?);
        let local = self.local_heads()?;
        let layer = |(i, local): (usize, &usize)| {
            let key = key.site("layers").fold(i as u64);
            Ok(LucidrainsLayer {
                norm: BranchNorm::new(self, device),
                attention: LucidrainsAttention::new(
                    self,
                    *local,
                    false,
                    key.site("attention"),
                    device,
                )?,
                ff_norm: BranchNorm::new(self, device),
                ff: LucidrainsFeedForward::new(self, key.site("ff"), device),
            })
        };
        let tied = self.tie_embedding;
        Ok(LucidrainsTransformer {
            token_emb: init::normal([vocab, e], 0.02, key.site("token_emb"), device),
            projections: (e != dim).then(|| Projections {
                project_in: linear([e, dim], key.site("project_in"), device),
                project_in_bias: bias(dim, e, key.site("project_in.bias"), device),
                project_out: linear([dim, e], key.site("project_out"), device),
                project_out_bias: bias(e, dim, key.site("project_out.bias"), device),
            }),
            layers: local.iter().enumerate().map(layer).collect::<Result<_>>()?,
            norm: norm(e, device),
            out: (!tied).then(|| linear([e, vocab], key.site("out"), device)),
            out_bias: (!tied).then(|| bias(vocab, e, key.site("out.bias"), device)),
            config: self.clone(),
        })
    }
}

/// Shows a branch some channels of the positions before (and after, where attention is not causal): segment `i` of equal
/// ones is shifted by 0, 1 or by −1, 0, 1 positions, with zeros where nothing is; channels left over stay. Padding is shifted
/// like everything else: the package means to clear it first, but its mask never gets there.
pub(super) fn shifted(x: Tensor<3>, causal: bool) -> Tensor<3> {
    let [batch, length, width] = x.dims();
    let shifts: &[i64] = if causal { &[0, 1] } else { &[-1, 0, 1] };
    let size = width / shifts.len();
    if size == 0 {
        return x;
    }
    let device = x.device();
    let mut parts = vec![];
    for (i, shift) in shifts.iter().enumerate() {
        let part = x.clone().narrow(2, i * size, size);
        if *shift == 0 {
            parts.push(part);
            continue;
        }
        let blank = Tensor::zeros([batch, 1, size], (&device, part.dtype()));
        parts.push(match *shift > 0 {
            true => Tensor::cat(vec![blank, part.narrow(1, 0, length - 1)], 1),
            false => Tensor::cat(vec![part.narrow(1, 1, length - 1), blank], 1),
        });
    }
    let rest = width - size * shifts.len();
    if rest > 0 {
        parts.push(x.narrow(2, width - rest, rest));
    }
    Tensor::cat(parts, 2)
}

impl LucidrainsTransformer {
    /// The model's configuration.
    pub fn config(&self) -> &LucidrainsConfig {
        &self.config
    }

    /// Runs ids `[batch, length]`; `mask` `[batch, length]` is true where there is a token. The result is as long as the input,
    /// although a model with local heads works on a multiple of their block.
    ///
    /// # Errors
    /// No tokens, ids outside the vocabulary, a text longer than `max_seq_len`, or a mask of another shape.
    pub fn forward(
        &self,
        ids: Tensor<2, Int>,
        mask: Option<Tensor<2, Bool>>,
        mode: Mode,
    ) -> Result<Output> {
        let [_, length] = ids.dims();
        let out = self.forward_padded(ids, mask, mode, &mut |_| {})?;
        Ok(Output {
            hidden: out.hidden.narrow(1, 0, length),
            logits: out.logits.narrow(1, 0, length),
            ..out
        })
    }

    /// [`LucidrainsTransformer::forward`] with the padding still on, which shows each layer's tensors to `watch`.
    ///
    /// # Errors
    /// As [`LucidrainsTransformer::forward`].
    pub fn forward_padded(
        &self,
        ids: Tensor<2, Int>,
        mask: Option<Tensor<2, Bool>>,
        mode: Mode,
        watch: &mut dyn FnMut(LayerView<'_>),
    ) -> Result<Output> {
        let config = &self.config;
        let (mut x, mask) = self.embedded(ids, mask)?;
        let mask = mask.as_deref();
        let mut clustering_loss = Tensor::<1>::zeros([1], &x.device());
        let mut routed: Vec<Routed> = vec![];
        for (i, layer) in self.layers.iter().enumerate() {
            let site = format!("layers.{i}");
            let inner = self.entering(&layer.norm, x.clone())?;
            let (out, record) = layer.attention.forward(
                inner,
                None,
                [mask, None],
                config,
                mode,
                &format!("{site}.attention"),
            )?;
            if let Some((loss, record)) = record {
                clustering_loss = clustering_loss + loss;
                routed.push(Routed { layer: i, ..record });
            }
            let attn_out = layer.norm.behind(out);
            x = x + attn_out.clone();
            let drop = mode.drop(config.ff_dropout, &format!("{site}.ff"));
            let inner = self.entering(&layer.ff_norm, x.clone())?;
            let ff_out = layer.ff_norm.behind(layer.ff.forward(inner, drop)?);
            x = x + ff_out.clone();
            watch(LayerView {
                layer: i,
                attn_out: &attn_out,
                ff_out: &ff_out,
            });
        }
        let hidden = x.clone();
        let logits = self.scored(x)?;
        Ok(Output {
            hidden,
            logits,
            clustering_loss,
            routed,
        })
    }

    /// Logits of what stands behind the last layer.
    pub(super) fn scored(&self, mut x: Tensor<3>) -> Result<Tensor<3>> {
        if let Some(p) = &self.projections {
            x = affine(x, &p.project_out, &p.project_out_bias);
        }
        let x = self.norm.forward(x)?;
        Ok(match (&self.out, &self.out_bias) {
            (Some(out), Some(bias)) => affine(x, out, bias),
            (Some(out), None) => project(x, out),
            (None, _) => {
                let [batch, length, width] = x.dims();
                let logits = x
                    .reshape([batch * length, width])
                    .matmul(self.token_emb.val().transpose());
                let [_, vocab] = logits.dims();
                logits.reshape([batch, length, vocab])
            }
        })
    }

    /// The input of a branch.
    fn entering(&self, norm: &BranchNorm, x: Tensor<3>) -> Result<Tensor<3>> {
        let x = norm.before(x)?;
        Ok(match self.config.shift_tokens {
            true => shifted(x, self.config.causal),
            false => x,
        })
    }

    /// Hidden states before the first layer, padded to whole blocks, and which positions hold a token.
    fn embedded(
        &self,
        ids: Tensor<2, Int>,
        mask: Option<Tensor<2, Bool>>,
    ) -> Result<(Tensor<3>, Option<Vec<bool>>)> {
        let config = &self.config;
        checked_ids(&ids, config.vocab()?)?;
        let [batch, length] = ids.dims();
        let padded = length.next_multiple_of(config.pad_to());
        if padded > config.max_seq_len {
            return Err(input(
                "the text",
                format!("{length} tokens long ({padded} in whole blocks)"),
                format!(
                    "expected at most model.max_seq_len = {}",
                    config.max_seq_len
                ),
            ));
        }
        let mask: Option<Vec<bool>> = match mask {
            Some(mask) if mask.dims() != [batch, length] => {
                let found = format!("{:?}", mask.dims());
                return Err(input(
                    "the mask",
                    found,
                    format!("expected [{batch}, {length}]"),
                ));
            }
            Some(mask) => Some(mask.into_data().iter::<bool>().collect()),
            None => None,
        };
        let (ids, mask) = match padded - length {
            0 => (ids, mask),
            more => {
                let tail = Tensor::zeros([batch, more], (&ids.device(), ids.dtype()));
                let mask = mask.unwrap_or_else(|| vec![true; batch * length]);
                let rows = mask.chunks_exact(length);
                let rows = rows.flat_map(|r| r.iter().copied().chain(vec![false; more]));
                (Tensor::cat(vec![ids, tail], 1), Some(rows.collect()))
            }
        };
        let x = embed(&self.token_emb, ids);
        let x = match &self.projections {
            Some(p) => affine(x, &p.project_in, &p.project_in_bias),
            None => x,
        };
        Ok((x, mask))
    }

    /// Whether centroids still wait for their first data.
    pub fn needs_first_data(&self) -> bool {
        let mut heads = self
            .layers
            .iter()
            .filter_map(|l| l.attention.routing.as_ref());
        heads.any(|h| !h.kmeans.initted)
    }

    /// The model with centroids taken from these ids, layer by layer, where they were not taken from data before. Rows are
    /// drawn by `key`.
    ///
    /// # Errors
    /// As [`LucidrainsTransformer::forward`].
    pub fn with_first_data(
        mut self,
        ids: Tensor<2, Int>,
        mask: Option<Tensor<2, Bool>>,
        key: Key,
    ) -> Result<Self> {
        let config = self.config.clone();
        let (mut x, mask) = self.embedded(ids, mask)?;
        let mask = mask.as_deref();
        for i in 0..self.layers.len() {
            let inner = self.entering(&self.layers[i].norm, x.clone())?;
            let data = self.layers[i].attention.first_data(&inner, None)?;
            if let (Some(data), Some(heads)) = (data, &mut self.layers[i].attention.routing)
                && !heads.kmeans.initted
            {
                let key = key.fold(i as u64);
                heads.kmeans = heads.kmeans.clone().initialised(&data, key);
            }
            let layer = &self.layers[i];
            let masks = [mask, None];
            let mode = Mode::evaluation();
            let (out, _) = layer
                .attention
                .forward(inner, None, masks, &config, mode, "")?;
            x = x + layer.norm.behind(out);
            let inner = self.entering(&layer.ff_norm, x.clone())?;
            x = x + layer
                .ff_norm
                .behind(layer.ff.forward(inner, Dropout::off())?);
        }
        Ok(self)
    }

    /// The model with its centroids moved by what forward passes saw: the mean over them of the mean directions.
    #[must_use]
    pub fn with_centroids(mut self, passes: &[Vec<Routed>]) -> Self {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let Some(mut heads) = layer.attention.routing.take() else {
                continue;
            };
            let means = heads.kmeans.means.val();
            let seen = passes
                .iter()
                .flatten()
                .filter(|r| r.layer == i)
                .filter_map(|r| r.seen.first());
            let pending = seen.fold(PendingMeans::default(), |p, s| p.plus(s, &means));
            heads.kmeans = heads.kmeans.updated(&pending, self.config.kmeans_ema_decay);
            layer.attention.routing = Some(heads);
        }
        self
    }
}
