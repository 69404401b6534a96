//! A text that is read on, token by token, with what every layer remembers of it.
//!
//! Under the strict rule a position's clusters are those its own past gives it, so what was computed for a token stays
//! right when others follow. A layer keeps the members of every cluster, the blocks its local heads see, and nothing else:
//! a token costs the same however long the text is.

use crate::error::{Result, config, input};
use crate::lm::RoutingTransformerLM;
use burn::prelude::*;
use core_attn::routed::{BlockStream, ClusterStream, Hide, NewToken, StreamRules};

/// What the layers of a model remember of one text.
#[derive(Debug, Clone)]
pub struct TextStream {
    pub(crate) layers: Vec<LayerStream>,
    pub(crate) read: usize,
}

impl TextStream {
    /// Number of ids read.
    pub fn len(&self) -> usize {
        self.read
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.read == 0
    }
}

/// What one layer remembers.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerStream {
    pub routed: Option<HeadStream<ClusterStream>>,
    pub local: Option<HeadStream<BlockStream>>,
    /// The last input of attention and feed-forward layer, where tokens are shifted: `[1, 1, dim]`.
    pub previous: [Option<Tensor<3>>; 2],
}

/// Heads of one kind: their rows, and the learned numbers that scores need, on the host.
#[derive(Debug, Clone)]
pub(crate) struct HeadStream<S> {
    pub rows: S,
    pub relative: Option<(Vec<f32>, Vec<f32>)>,
    pub memory: Option<(Vec<f32>, Vec<f32>)>,
    pub scale: f64,
    pub own: Option<f64>,
    pub hide: Hide,
    pub epsilon: f64,
    /// A value of exactly zero marks a key that nobody sees.
    pub blank_is_hidden: bool,
}

impl<S> HeadStream<S> {
    /// What changes with the text, and what does not.
    fn split(&mut self) -> (&mut S, StreamRules<'_>) {
        fn slices(both: &Option<(Vec<f32>, Vec<f32>)>) -> Option<(&[f32], &[f32])> {
            both.as_ref().map(|(a, b)| (&a[..], &b[..]))
        }
        let rules = StreamRules {
            scale: self.scale,
            own: self.own,
            hide: self.hide,
            relative: slices(&self.relative),
            memory: slices(&self.memory),
            epsilon: self.epsilon,
        };
        (&mut self.rows, rules)
    }
}

/// Numbers of a tensor on the host.
pub(crate) fn host<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.into_data().iter::<f32>().collect()
}

/// `[1, heads, length, width]` as `length` rows of `heads · width`.
fn by_token(t: Tensor<4>) -> Vec<f32> {
    host(t.swap_dims(1, 2))
}

/// The tokens of a chunk, one after another: `each(token, row)` attends.
fn chunk(
    [query, key, value]: [Tensor<4>; 3],
    blank_is_hidden: bool,
    mut each: impl FnMut(NewToken<'_>, usize) -> core_attn::Result<Vec<f32>>,
) -> Result<Tensor<4>> {
    let [_, heads, length, width] = query.dims();
    let device = query.device();
    let [query, key, value] = [query, key, value].map(by_token);
    let size = heads * width;
    let mut out = Vec::with_capacity(length * size);
    for i in 0..length {
        let row = i * size..(i + 1) * size;
        let value = &value[row.clone()];
        let blank = |v: &[f32]| v.iter().all(|v| *v == 0.0);
        let hidden: Vec<bool> = match blank_is_hidden {
            true => value.chunks_exact(width).map(blank).collect(),
            false => vec![],
        };
        let new = NewToken {
            query: &query[row.clone()],
            key: &key[row],
            value,
            hidden: &hidden,
        };
        out.extend(each(new, i)?);
    }
    let out = Tensor::<4>::from_data(TensorData::new(out, [1, length, heads, width]), &device);
    Ok(out.swap_dims(1, 2))
}

impl HeadStream<ClusterStream> {
    /// Reads `[1, heads, length, width]`, with the similarities `[1, heads, length, clusters]`.
    pub fn read(&mut self, all: [Tensor<4>; 3], similarity: Tensor<4>) -> Result<Tensor<4>> {
        let [_, heads, _, clusters] = similarity.dims();
        let similarity = by_token(similarity);
        let size = heads * clusters;
        let blank_is_hidden = self.blank_is_hidden;
        let (rows, rules) = self.split();
        chunk(all, blank_is_hidden, |new, i| {
            rows.read(new, &similarity[i * size..(i + 1) * size], &rules)
        })
    }
}

impl HeadStream<BlockStream> {
    /// Reads `[1, heads, length, width]`.
    pub fn read(&mut self, all: [Tensor<4>; 3]) -> Result<Tensor<4>> {
        let blank_is_hidden = self.blank_is_hidden;
        let (rows, rules) = self.split();
        chunk(all, blank_is_hidden, |new, _| rows.read(new, &rules))
    }
}

impl RoutingTransformerLM {
    /// The beginning of a text that is to be read on.
    ///
    /// # Errors
    /// A model that is not causal, or one whose routing heads have keys of their own: what it computes for a token depends
    /// on later ones.
    pub fn stream(&self) -> Result<TextStream> {
        let all = self.config();
        if !all.causal() {
            let expected =
                "expected true: a text can be read on only where no token sees a later one";
            return Err(config("causal", false, expected));
        }
        if !all.strict_causal_routing() && !all.could_be_strict() {
            let expected =
                "expected true: membership can follow the text only where queries are keys";
            return Err(config("shared_qk", false, expected));
        }
        let layers = match self {
            Self::Paper(m) => m.layer_streams(),
            Self::Lucidrains(m) => m.layer_streams(),
        };
        Ok(TextStream {
            layers: layers?,
            read: 0,
        })
    }

    /// Reads on: the logits `[1, vocab]` after the last of the ids `[1, length]`, and the text with them. Equal to
    /// [`RoutingTransformerLM::forward`] of the whole text with `strict_causal_routing`. The authors' model is given id 0
    /// first.
    ///
    /// # Errors
    /// No ids, ids outside the vocabulary, more than one text, or more than the model takes.
    pub fn read_on(
        &self,
        ids: Tensor<2, Int>,
        mut stream: TextStream,
    ) -> Result<(Tensor<2>, TextStream)> {
        let [texts, length] = ids.dims();
        if texts != 1 {
            return Err(input("tokens", texts, "expected one text, [1, length]"));
        }
        let logits = match self {
            Self::Paper(m) => m.read_on(ids, &mut stream)?,
            Self::Lucidrains(m) => m.read_on(ids, &mut stream)?,
        };
        stream.read += length;
        let [_, _, vocab] = logits.dims();
        Ok((logits.reshape([1, vocab]), stream))
    }
}
