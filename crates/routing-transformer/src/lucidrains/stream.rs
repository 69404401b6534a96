//! Reading a text on.

use super::attention::{EPSILON, HIDDEN, LucidrainsAttention, own_score};
use super::config::LucidrainsConfig;
use super::model::{BranchNorm, LucidrainsTransformer, shifted};
use crate::error::{Result, input};
use crate::kmeans::{similarity, unit};
use crate::layers::{affine, checked_ids, embed};
use crate::stream::{HeadStream, LayerStream, TextStream, host};
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::routed::{BlockStream, ClusterStream};

impl LucidrainsAttention {
    fn stream(&self, config: &LucidrainsConfig) -> Result<LayerStream> {
        let d = config.head_dim();
        let scale = (d as f64).powf(-0.5);
        let mut all = LayerStream::default();
        if let Some(heads) = &self.routing {
            all.routed = Some(HeadStream {
                rows: ClusterStream::new(heads.kmeans.means.dims(), config.window_size)?,
                relative: None,
                memory: heads
                    .memory
                    .as_ref()
                    .map(|m| (host(m.key.val()), host(m.value.val()))),
                scale,
                own: own_score(true),
                hide: HIDDEN,
                epsilon: EPSILON,
                blank_is_hidden: false,
            });
        }
        if let Some(map) = &self.local_to_qkv {
            let [_, width] = map.dims();
            let window = config.local_attn_window_size.unwrap_or(1).max(1);
            all.local = Some(HeadStream {
                rows: BlockStream::new([width / (3 * d), d], window, 1)?,
                relative: None,
                memory: None,
                scale,
                own: None,
                hide: HIDDEN,
                epsilon: 0.0,
                blank_is_hidden: false,
            });
        }
        Ok(all)
    }

    /// [`LucidrainsAttention::forward`] of `[1, length, dim]` behind `start` tokens.
    fn read_on(
        &self,
        x: Tensor<3>,
        config: &LucidrainsConfig,
        start: usize,
        state: &mut LayerStream,
    ) -> Result<Tensor<3>> {
        let mut outs = vec![];
        if let Some(stream) = &mut state.local
            && let Some(all) = self.local_heads(&x, config, start)?
        {
            outs.push(stream.read(all)?);
        }
        if let (Some(stream), Some(heads)) = (&mut state.routed, &self.routing) {
            let (query, _, value) = heads.project(&x, None, start)?;
            let key = unit(query.clone());
            let similar = similarity(&key, &heads.kmeans.means.val());
            outs.push(stream.read([query, key, value], similar)?);
        }
        Ok(self.merged(outs))
    }
}

impl LucidrainsTransformer {
    pub(crate) fn layer_streams(&self) -> Result<Vec<LayerStream>> {
        let layers = self.layers.iter();
        layers.map(|l| l.attention.stream(self.config())).collect()
    }

    /// Logits `[1, 1, vocab]` after the last of these ids `[1, length]`.
    pub(crate) fn read_on(&self, ids: Tensor<2, Int>, text: &mut TextStream) -> Result<Tensor<3>> {
        let config = self.config();
        checked_ids(&ids, config.vocab()?)?;
        let [_, length] = ids.dims();
        let start = text.read;
        if start + length > config.max_seq_len {
            let found = format!("{} tokens long", start + length);
            let expected = format!(
                "expected at most model.max_seq_len = {}",
                config.max_seq_len
            );
            return Err(input("the text", found, expected));
        }
        let mut x = embed(&self.token_emb, ids);
        if let Some(p) = &self.projections {
            x = affine(x, &p.project_in, &p.project_in_bias);
        }
        for (layer, state) in self.layers.iter().zip(&mut text.layers) {
            let inner = self.read_into(&layer.norm, &x, &mut state.previous[0])?;
            let out = layer.attention.read_on(inner, config, start, state)?;
            x = x + layer.norm.behind(out);
            let inner = self.read_into(&layer.ff_norm, &x, &mut state.previous[1])?;
            let out = layer.ff.forward(inner, Dropout::off())?;
            x = x + layer.ff_norm.behind(out);
        }
        self.scored(x.narrow(1, length - 1, 1))
    }

    /// The input of a branch, whose first token sees channels of the one before it.
    fn read_into(
        &self,
        norm: &BranchNorm,
        x: &Tensor<3>,
        previous: &mut Option<Tensor<3>>,
    ) -> Result<Tensor<3>> {
        let x = norm.before(x.clone())?;
        if !self.config().shift_tokens {
            return Ok(x);
        }
        let [_, length, _] = x.dims();
        let last = x.clone().narrow(1, length - 1, 1);
        Ok(match previous.replace(last) {
            Some(before) => shifted(Tensor::cat(vec![before, x], 1), true).narrow(1, 1, length),
            None => shifted(x, true),
        })
    }
}
