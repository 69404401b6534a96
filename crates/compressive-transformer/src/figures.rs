//! What a trained model does with its memories, on text it has not seen.

use crate::compressor::{Compression, Compressor, reconstruction_loss};
use crate::config::{CompressorKind, Pooling};
use crate::memory_model::{CompressionView, MemoryModel, Mode};
use crate::model::CompressiveTransformer;
use burn::prelude::*;
use core_attn::memory::{REGION_BUCKETS, attention_region_stats};
use core_attn::random::Key;
use language::{row_pass, tokens};
use std::any::Any;
use trainer::{Axis, Bars, Error, Figure, Result, Table};

/// Chunks that are looked at, at most, after those that fill the memories.
const CHUNKS: usize = 8;
/// Rows of the text that are looked at.
const ROWS: usize = 4;

/// What was seen in the layers.
pub(crate) struct Seen {
    /// Mean attention mass by bucket, with its name, oldest first.
    pub attention: Vec<(String, f64)>,
    /// Per layer what it compressed, of each chunk.
    pub compressions: Vec<Vec<CompressionView>>,
}

/// Reads the beginning of a split and notes what happens once the memories are full.
pub(crate) fn look<M: MemoryModel>(
    model: &M,
    split: &datasets::Split,
    device: &Device,
) -> Result<Seen> {
    let chunk = model.chunk_size();
    let sizes = model.sizes();
    let rows = ROWS
        .min(split.tokens.len().saturating_sub(1) / chunk.max(1))
        .max(1);
    let chunks = row_pass(split, rows, chunk)?;
    let full: Vec<_> = chunks
        .iter()
        .filter(|c| c.inputs.len() == rows * chunk)
        .collect();
    let rate = model
        .compressors()
        .first()
        .map_or(1, |c| c.compression().rate);
    let fill = (sizes.episodic + rate * sizes.compressed).div_ceil(chunk) + 1;
    let from = fill.min(full.len().saturating_sub(CHUNKS));
    let mut state = model.start(rows, sizes, true).map_err(Error::other)?;
    let mut stats: Vec<Tensor<1>> = vec![];
    let mut names: Vec<String> = vec![];
    let mut compressions: Vec<Vec<CompressionView>> = vec![];
    let mut failed = None;
    for (i, chunk) in full.into_iter().take(from + CHUNKS).enumerate() {
        let mode = Mode {
            weights: i >= from,
            ..Mode::evaluation()
        };
        let inputs = tokens(&chunk.inputs, rows, device);
        let output = model.read(inputs, None, state, mode, &mut |view| {
            if i < from {
                return;
            }
            if let Some(weights) = view.weights {
                match attention_region_stats(weights, &view.regions) {
                    Ok(found) => {
                        stats.push(found);
                        names = bucket_names(view.regions);
                    }
                    Err(e) => failed = Some(e),
                }
            }
            if let Some(compression) = view.compression {
                while compressions.len() <= view.layer {
                    compressions.push(vec![]);
                }
                compressions[view.layer].push(compression);
            }
        });
        state = output.map_err(Error::other)?.state;
    }
    if let Some(e) = failed {
        return Err(Error::other(e));
    }
    // Layers without memories have fewer buckets; the mean is over those that have all.
    stats.retain(|s| s.dims()[0] == names.len());
    let count = stats.len().max(1) as f64;
    let mass = stats.into_iter().reduce(|a, b| a + b);
    let mass: Vec<f64> = mass.map_or(vec![], |m| m.into_data().iter::<f64>().collect());
    Ok(Seen {
        attention: names
            .into_iter()
            .zip(mass.into_iter().map(|m| m / count))
            .collect(),
        compressions,
    })
}

/// Names of the buckets, oldest first, of the regions that have keys.
fn bucket_names(regions: [usize; 3]) -> Vec<String> {
    let names = ["compressed", "memory", "chunk"];
    let present = names.iter().zip(regions).filter(|(_, n)| *n > 0);
    present
        .flat_map(|(name, _)| (1..=REGION_BUCKETS).map(move |b| format!("{name} {b}")))
        .collect()
}

/// Attention-reconstruction loss per layer of one way to compress.
pub(crate) struct Reconstruction {
    pub name: &'static str,
    pub layers: Vec<f64>,
}

impl Reconstruction {
    /// The mean over the layers.
    pub fn mean(&self) -> f64 {
        self.layers.iter().sum::<f64>() / self.layers.len().max(1) as f64
    }
}

/// How well attention is kept by the model's own compressors, by pooling, and by convolutions as they were before training, all
/// on the same rows that left the memory.
pub(crate) fn reconstructions(
    model: &CompressiveTransformer,
    seen: &Seen,
    device: &Device,
) -> Result<Vec<Reconstruction>> {
    let config = model.config();
    let plain = |kind: CompressorKind, pooling: Pooling| {
        let compression = Compression {
            kind,
            pooling,
            rate: config.compression_rate,
            window: config.compression_rate,
            dilations: vec![],
            torch_layout: false,
        };
        let width = config.width();
        move |i: usize| {
            let key = Key::new(7).site("random").fold(i as u64);
            Compressor::new(compression.clone(), width, false, false, key, device)
        }
    };
    type Make<'a> = Box<dyn Fn(usize) -> Compressor + 'a>;
    let ways: [(&'static str, Make<'_>); 4] = [
        ("trained", Box::new(|i| model.compressors[i].clone())),
        (
            "mean pooling",
            Box::new(plain(CompressorKind::Pool, Pooling::Avg)),
        ),
        (
            "max pooling",
            Box::new(plain(CompressorKind::Pool, Pooling::Max)),
        ),
        (
            "random convolution",
            Box::new(plain(CompressorKind::Conv, Pooling::Avg)),
        ),
    ];
    let mut all = vec![];
    for (name, make) in ways {
        let mut layers = vec![];
        for (i, views) in seen.compressions.iter().enumerate() {
            let compressor = make(i);
            let attention = &model.layers[i].attention;
            let mut losses = vec![];
            for view in views {
                // What is most used cannot be told again without the weights of that step.
                let new = match (name, compressor.compression().kind) {
                    ("trained", CompressorKind::MostUsed) => Ok(view.new.clone()),
                    _ => compressor.compress(view.old.clone(), None),
                };
                let loss = reconstruction_loss(
                    view.query.clone(),
                    attention.read_fixed(view.old.clone()),
                    attention.read_fixed(new.map_err(Error::other)?),
                    config.num_heads,
                );
                losses.push(loss.map_err(Error::other)?);
            }
            if !losses.is_empty() {
                let mean = Tensor::cat(losses, 0).mean().into_data();
                layers.extend(mean.iter::<f64>());
            }
        }
        all.push(Reconstruction { name, layers });
    }
    Ok(all)
}

/// The figures of a model's report.
pub(crate) fn of<M: MemoryModel>(
    model: &M,
    split: &datasets::Split,
    device: &Device,
) -> Result<Vec<Figure>> {
    let seen = look(model, split, device)?;
    let mut figures = vec![attention(&seen)];
    let model: &dyn Any = model;
    if let Some(model) = model.downcast_ref::<CompressiveTransformer>()
        && model.config().compresses()
    {
        figures.push(reconstruction_table(&reconstructions(
            model, &seen, device,
        )?));
    }
    Ok(figures)
}

/// Where attention goes, by region and age.
pub(crate) fn attention(seen: &Seen) -> Figure {
    Figure::Bars(Bars {
        title: "Attention mass by region and age, oldest first".into(),
        x: Axis::new("bucket"),
        y: Axis::new("share of attention"),
        bars: seen.attention.clone(),
    })
}

/// How well compressed rows stand for the old ones.
pub(crate) fn reconstruction_table(all: &[Reconstruction]) -> Figure {
    let layers = all.first().map_or(0, |r| r.layers.len());
    let columns = ["compression".to_owned(), "mean".to_owned()]
        .into_iter()
        .chain((1..=layers).map(|l| format!("layer {l}")));
    let rows = all.iter().map(|r| {
        let cells = [r.name.to_owned(), format!("{:.3e}", r.mean())];
        let cells = cells.into_iter();
        cells
            .chain(r.layers.iter().map(|x| format!("{x:.3e}")))
            .collect()
    });
    Figure::Table(Table {
        title: "Attention-reconstruction loss on held-out text".into(),
        columns: columns.collect(),
        rows: rows.collect(),
    })
}
