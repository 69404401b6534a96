//! Reading a text on.

use super::attention::{EPSILON, HIDDEN, PaperAttention, RelativeTables, SPHERE_EPSILON};
use super::config::PaperConfig;
use super::model::PaperTransformer;
use crate::error::Result;
use crate::kmeans::{similarity, sphere};
use crate::layers::Mode;
use crate::stream::{HeadStream, LayerStream, TextStream, host};
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::routed::{BlockStream, ClusterStream};

impl RelativeTables {
    fn host(&self) -> (Vec<f32>, Vec<f32>) {
        (host(self.keys.val()), host(self.values.val()))
    }
}

impl PaperAttention {
    fn stream(&self, config: &PaperConfig, layer: usize) -> Result<LayerStream> {
        let (d, routing) = (config.head_dim(), config.routing_heads(layer));
        let local = config.heads() - routing;
        let window = config.sparsity_cluster_attention_window;
        let mut all = LayerStream::default();
        if routing > 0 {
            let dims = [routing, config.sparsity_cluster_size, d];
            all.routed = Some(HeadStream {
                rows: ClusterStream::new(dims, window)?,
                relative: self.routed_relative.as_ref().map(RelativeTables::host),
                memory: None,
                scale: 1.0,
                own: None,
                hide: HIDDEN,
                epsilon: EPSILON,
                blank_is_hidden: true,
            });
        }
        if local > 0 {
            all.local = Some(HeadStream {
                rows: BlockStream::new([local, d], config.block(), config.blocks_back())?,
                relative: self.local_relative.as_ref().map(RelativeTables::host),
                memory: None,
                scale: 1.0,
                own: None,
                hide: HIDDEN,
                epsilon: 0.0,
                blank_is_hidden: true,
            });
        }
        Ok(all)
    }

    /// [`PaperAttention::forward`] of `[1, length, hidden]` behind what was read before.
    fn read_on(
        &self,
        x: Tensor<3>,
        config: &PaperConfig,
        layer: usize,
        state: &mut LayerStream,
    ) -> Result<Tensor<3>> {
        let (query, key, value) = self.heads(x, config);
        let routing = config.routing_heads(layer);
        let local = config.heads() - routing;
        let part = |t: &Tensor<4>, from: usize, count: usize| t.clone().narrow(1, from, count);
        let mut outs = vec![];
        if let (Some(stream), Some(kmeans)) = (&mut state.routed, &self.kmeans) {
            let query = sphere(part(&query, 0, routing), SPHERE_EPSILON);
            let similar = similarity(&query, &kmeans.means.val());
            let all = [query.clone(), query, part(&value, 0, routing)];
            outs.push(stream.read(all, similar)?);
        }
        if let (Some(stream), Some(key)) = (&mut state.local, key) {
            let all = [&query, &key, &value].map(|t| part(t, routing, local));
            outs.push(stream.read(all)?);
        }
        Ok(self.merged(outs))
    }
}

impl PaperTransformer {
    pub(crate) fn layer_streams(&self) -> Result<Vec<LayerStream>> {
        let layers = self.layers.iter().enumerate();
        layers
            .map(|(i, l)| l.attention.stream(self.config(), i))
            .collect()
    }

    /// Logits `[1, 1, vocab]` after the last of these ids `[1, length]`.
    pub(crate) fn read_on(&self, ids: Tensor<2, Int>, text: &mut TextStream) -> Result<Tensor<3>> {
        let config = self.config();
        let [_, length] = ids.dims();
        let mut x = self.embedded(ids, text.read, Mode::evaluation())?;
        for (i, (layer, state)) in self.layers.iter().zip(&mut text.layers).enumerate() {
            let inner = layer.before(&layer.norm, &x, config)?;
            let out = layer.attention.read_on(inner, config, i, state)?;
            x = layer.after(&layer.norm, x + out, config)?;
            let inner = layer.before(&layer.ffn_norm, &x, config)?;
            let out = layer.ffn.forward(inner, Dropout::off())?;
            x = layer.after(&layer.ffn_norm, x + out, config)?;
        }
        let (_, logits) = self.scored(x.narrow(1, length - 1, 1))?;
        Ok(logits)
    }
}
