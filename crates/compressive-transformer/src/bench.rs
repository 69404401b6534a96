//! The paper's claims, measured: quality at equal attention cost, what the compressed memory is worth, that a trained compression
//! keeps attention better than pooling and chance (sections 4 and 5 of the paper), and recall by distance.

use crate::experiment::CompressiveExperiment;
use crate::figures::{attention, look, reconstruction_table, reconstructions};
use crate::memory::CompressedMemoryState;
use crate::model::CompressiveTransformer;
use burn::module::Module;
use burn::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use trainer::{
    BenchOptions, Context, Error, Experiment, Figure, Recipe, Result, Split, Step, Table,
};

/// A model of the comparison.
struct Contender {
    name: &'static str,
    change: fn(&mut Value),
}

/// The chunk has 64 rows, so 64 + 64 remembered rows cost what 128 do.
const CONTENDERS: [Contender; 5] = [
    Contender {
        name: "compressive, 64 + 64 rows, 4 to 1",
        change: |_| {},
    },
    Contender {
        name: "the same, compression not trained",
        change: |model| model["compression_loss"] = "none".into(),
    },
    Contender {
        name: "the same, mean pooling",
        change: |model| model["compressor"] = "pool".into(),
    },
    Contender {
        name: "Transformer-XL, 128 rows (equal cost)",
        change: |model| {
            model["memory_size"] = 128.into();
            model["compressed_memory_size"] = 0.into();
        },
    },
    Contender {
        name: "Transformer-XL, 64 rows",
        change: |model| model["compressed_memory_size"] = 0.into(),
    },
];

fn recipe(change: fn(&mut Value), seed: u64, steps: u64) -> Result<Recipe> {
    let mut value = json!({
        "architecture": "compressive-transformer",
        "seed": seed,
        "model": {
            "chunk_size": 64, "memory_size": 64, "compressed_memory_size": 64, "compression_rate": 4, "value_size": 24,
            "num_heads": 4, "num_layers": 3, "mlp_hidden_sizes": [256],
        },
        "data": { "name": "moby-dick" },
        "training": {
            "steps": steps, "batch_size": 16, "optimizer": { "name": "adam", "lr": 3e-3 },
            "schedule": { "name": "cosine", "warmup": 100, "end_lr": 1e-4 }, "clip": 0.5,
        },
        "evaluation": { "batch_size": 4 },
    });
    change(&mut value["model"]);
    Recipe::from_value(value, Path::new("bench.json"), &[])
}

/// Trains each contender; 30 steps with `quick`, 1000 else, which takes about ten minutes on two cores.
pub(crate) fn bench(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let steps = if options.quick { 30 } else { 1000 };
    let mut rows = vec![];
    let mut figures = vec![];
    for contender in CONTENDERS {
        let recipe = recipe(contender.change, options.seed, steps)?;
        let mut experiment = CompressiveExperiment::<CompressiveTransformer>::open(
            &recipe,
            recipe.model.clone(),
            device,
        )?;
        let mut times = vec![];
        for step in 0..steps {
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
            let start = Instant::now();
            experiment.train_step(Step::new(options.seed, 0, step, step), cx)?;
            if step >= steps / 2 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            cx.progress(step + 1, steps, contender.name);
        }
        times.sort_by(f64::total_cmp);
        let ms = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
        let unit = experiment.corpus().unit;
        let valid = &experiment.corpus().valid;
        let mut bits = |change: fn(CompressedMemoryState) -> CompressedMemoryState| {
            let loss = experiment.pass(valid, Split::Valid, change, cx)?;
            Ok::<_, Error>(unit.from_nats(loss.mean()))
        };
        let own = bits(|memories| memories)?;
        let compresses = experiment.model().config().compresses();
        let blind = match compresses {
            true => format!("{:.3}", bits(CompressedMemoryState::without_compressed)?),
            false => "–".into(),
        };
        rows.push(vec![
            contender.name.to_owned(),
            format!("{own:.3}"),
            blind,
            experiment.model().config().reach().to_string(),
            format!("{ms:.1}"),
            experiment.parameters().unwrap_or(0).to_string(),
        ]);
        if figures.is_empty() {
            let model = experiment.model().valid();
            let seen = look(&model, valid, device)?;
            figures.push(attention(&seen));
            figures.push(reconstruction_table(&reconstructions(
                &model, &seen, device,
            )?));
        }
    }
    let columns = [
        "model",
        "bits per byte (valid)",
        "with compressed memory zeroed",
        "reach (bytes)",
        "ms per step",
        "parameters",
    ];
    figures.insert(
        0,
        Figure::Table(Table {
            title: format!("Moby-Dick, {steps} steps of 16 × 64 bytes"),
            columns: columns.map(str::to_owned).to_vec(),
            rows,
        }),
    );
    figures.extend(crate::probe::demonstrate(
        options.quick,
        options.seed,
        device,
        cx,
    )?);
    Ok(figures)
}
