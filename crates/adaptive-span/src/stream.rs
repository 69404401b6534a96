//! What an experiment carries along a text.

use crate::cache::{HiddenCache, LayerCache};
use burn::prelude::*;
use core_attn::cache::StreamCache;
use datasets::{BatchStream, StreamCursor};
use pretrained::NamedTensors;
use trainer::{CheckpointReader, CheckpointWriter, Error, Result};

/// A batch stream and the past that belongs to its position.
pub(crate) struct Stream {
    pub blocks: BatchStream,
    pub cache: HiddenCache,
}

impl Stream {
    pub(crate) fn save(&self, name: &str, to: &mut CheckpointWriter) -> Result<()> {
        to.json(name, &self.blocks.cursor())?;
        let mut tensors = NamedTensors::new();
        for (i, layer) in self.cache.layers.iter().enumerate() {
            if let LayerCache::Hidden(rows) = layer {
                tensors.insert(format!("cache.{i}"), rows.rows().into_data());
            }
        }
        to.tensors(name, tensors)
    }

    /// Whether a checkpoint's part is of the same rows and blocks.
    pub(crate) fn fits(&self, name: &str, from: &CheckpointReader) -> Result<bool> {
        let (ours, theirs): (_, StreamCursor) = (self.blocks.cursor(), from.json(name)?);
        let sizes = |c: &StreamCursor| (c.batch, c.width, c.block);
        Ok(sizes(&ours) == sizes(&theirs))
    }

    pub(crate) fn restore(
        &mut self,
        name: &str,
        from: &CheckpointReader,
        device: &Device,
    ) -> Result<()> {
        let cursor: StreamCursor = from.json(name)?;
        self.blocks.restore(cursor).map_err(Error::other)?;
        let mut tensors = from.tensors(name)?;
        for (i, layer) in self.cache.layers.iter_mut().enumerate() {
            let key = format!("cache.{i}");
            let data = tensors.remove(&key).filter(|d| {
                let past = LayerCache::width(layer);
                matches!(d.shape()[..], [b, n, w] if [b, w] == past && n > 0)
            });
            let data = data.ok_or_else(|| {
                Error::value(
                    format!("`{key}` of the checkpoint's `{name}`"),
                    "absent or misshapen",
                    "a checkpoint of this recipe",
                )
            })?;
            *layer = LayerCache::Hidden(StreamCache::from_rows(Tensor::from_data(data, device)));
        }
        Ok(())
    }
}
