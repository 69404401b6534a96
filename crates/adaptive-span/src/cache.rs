//! What a stream carries from block to block.

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

    /// Rows of the batch and width of a cached row.
    #[cfg(feature = "train")]
    pub(crate) fn width(&self) -> [usize; 2] {
        let (Self::Hidden(rows) | Self::Projected { key: rows, .. }) = self;
        let [batch, _, width] = rows.rows().dims();
        [batch, width]
    }

    fn join(parts: Vec<Self>) -> Self {
        let (mut hidden, mut keys, mut values) = (vec![], vec![], vec![]);
        for part in parts {
            match part {
                Self::Hidden(rows) => hidden.push(rows),
                Self::Projected { key, value } => {
                    keys.push(key);
                    values.push(value);
                }
            }
        }
        if keys.is_empty() {
            return Self::Hidden(StreamCache::join(hidden));
        }
        Self::Projected {
            key: StreamCache::join(keys),
            value: StreamCache::join(values),
        }
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
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else {
            return Self { layers: vec![] };
        };
        let layers = first.layers.into_iter().map(|l| vec![l]).collect();
        let by_layer = parts.fold(layers, |mut layers: Vec<Vec<LayerCache>>, part| {
            for (layer, rows) in layers.iter_mut().zip(part.layers) {
                layer.push(rows);
            }
            layers
        });
        Self {
            layers: by_layer.into_iter().map(LayerCache::join).collect(),
        }
    }
}
