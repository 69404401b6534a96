//! What a stream carries from block to block.

use burn::prelude::*;
use core_attn::cache::StreamCache;

/// The past of one layer: the inputs of the layer, or their keys and values.
///
/// Training keeps the inputs, since the projections change with every update and take gradients from every row. In
/// evaluation the weights rest, and projecting each row once is enough.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // a handful per model; a tensor handle is large by itself
pub enum LayerCache {
    /// Inputs of the layer.
    Hidden(StreamCache),
    /// Projected rows, for evaluation and generation.
    Projected {
        /// Keys.
        key: StreamCache,
        /// Values.
        value: StreamCache,
    },
}

impl LayerCache {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Hidden(rows) => rows.len(),
            Self::Projected { key, .. } => key.len(),
        }
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn map(&self, f: impl Fn(&StreamCache) -> StreamCache) -> Self {
        match self {
            Self::Hidden(rows) => Self::Hidden(f(rows)),
            Self::Projected { key, value } => Self::Projected {
                key: f(key),
                value: f(value),
            },
        }
    }
}

/// The past of all layers; lengths differ from layer to layer and over time.
#[derive(Debug, Clone)]
pub struct HiddenCache {
    /// First layer first.
    pub layers: Vec<LayerCache>,
}

impl HiddenCache {
    /// Rows cached per layer.
    pub fn lengths(&self) -> Vec<usize> {
        self.layers.iter().map(LayerCache::len).collect()
    }

    /// The part that belongs to rows `start .. start + count` of the batch.
    pub fn batch(&self, start: usize, count: usize) -> Self {
        let layers = self.layers.iter();
        Self {
            layers: layers
                .map(|l| l.map(|rows| rows.batch(start, count)))
                .collect(),
        }
    }

    /// Puts the parts of a batch together again, in order. All must come from the same model and step.
    pub fn join(parts: Vec<Self>) -> Self {
        let Some(first) = parts.first() else {
            return Self { layers: vec![] };
        };
        let layer = |i: usize| {
            let pick = |f: fn(&LayerCache) -> Option<StreamCache>| {
                parts
                    .iter()
                    .map(|p| f(&p.layers[i]))
                    .collect::<Option<Vec<_>>>()
            };
            let hidden = pick(|l| match l {
                LayerCache::Hidden(rows) => Some(rows.clone()),
                LayerCache::Projected { .. } => None,
            });
            match hidden {
                Some(rows) => LayerCache::Hidden(StreamCache::join(rows)),
                None => {
                    let side = |take_key: bool| {
                        let rows = parts.iter().filter_map(|p| match &p.layers[i] {
                            LayerCache::Projected { key, value } => {
                                Some(if take_key { key } else { value }.clone())
                            }
                            LayerCache::Hidden(_) => None,
                        });
                        StreamCache::join(rows.collect())
                    };
                    LayerCache::Projected {
                        key: side(true),
                        value: side(false),
                    }
                }
            }
        };
        Self {
            layers: (0..first.layers.len()).map(layer).collect(),
        }
    }

    /// Zeroed rows of the same sizes.
    pub fn cleared(&self) -> Self {
        Self {
            layers: self
                .layers
                .iter()
                .map(|l| l.map(|rows| StreamCache::from_rows(Tensor::zeros_like(&rows.rows()))))
                .collect(),
        }
    }
}
