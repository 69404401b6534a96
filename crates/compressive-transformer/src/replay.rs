//! Replays of the golden cases, one for each `check`.

use crate::compressor::{Compression, Compressor, Read, reconstruction_loss};
use crate::config::{CompressiveTransformerConfig, CompressorKind, Pooling};
use crate::lucidrains::LucidrainsTransformer;
use crate::lucidrains_config::LucidrainsConfig;
use crate::memory::CompressedMemoryState;
use crate::memory_model::{CompressiveOutput, MemoryModel, Mode};
use crate::model::CompressiveTransformer;
use crate::schedule::{UpdateSchedule, paper_schedule};
use burn::module::Param;
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::memory::attention_region_stats;
use core_attn::random::Key;
use pretrained::NamedTensors;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use trainer::golden::{Case, Fact, Replayed};
use trainer::{Error, Replay, Result};

/// Every check of this architecture's cases.
pub(crate) const REPLAYS: &[(&str, Replay)] = &[
    ("compression_functions", compression_functions),
    ("model_deepmind", model_deepmind),
    ("model_lucidrains", model_lucidrains),
    ("schedule", schedule),
];

/// Keys of a case's `config` that belong to the harness and not to the model.
const HARNESS: &[&str] = &[
    "batch",
    "steps",
    "segments",
    "segment_lengths",
    "mask_lengths",
];

/// A case's `config`: the model's keys and the harness's.
fn setting(case: &Case) -> Result<(Value, serde_json::Map<String, Value>)> {
    let mut all: serde_json::Map<String, Value> = case.config()?;
    let mut harness = serde_json::Map::new();
    for key in HARNESS {
        if let Some(value) = all.remove(*key) {
            harness.insert((*key).to_owned(), value);
        }
    }
    Ok((Value::Object(all), harness))
}

fn tensor<const D: usize>(case: &Case, name: &str, device: &Device) -> Result<Tensor<D>> {
    let data = case.tensor(name)?;
    if data.shape().len() != D {
        return Err(case.malformed(&format!("`{name}` has not {D} dimensions")));
    }
    Ok(Tensor::from_data(data.clone(), device))
}

/// Puts the gradients that a case states, and no others, under their names.
fn gradients(case: &Case, prefix: &str, all: &NamedTensors, found: &mut Replayed) {
    for name in case.with_prefix(prefix).into_keys() {
        if let Some(data) = all.get(&name) {
            found
                .tensors
                .insert(format!("{prefix}{name}"), data.clone());
        }
    }
}

/// The names of weights that have a gradient other than 0 and that a case gives none.
fn unexpected(case: &Case, prefixes: [&str; 2], all: &NamedTensors) -> Vec<String> {
    let expected: Vec<NamedTensors> = prefixes.iter().map(|p| case.with_prefix(p)).collect();
    all.iter()
        .filter(|(name, _)| !expected.iter().any(|e| e.contains_key(*name)))
        .filter(|(_, data)| data.iter::<f32>().any(|g| g != 0.0))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The compression functions and losses alone.
fn compression_functions(case: &Case, device: &Device) -> Result<Replayed> {
    #[derive(Deserialize)]
    struct Setting {
        dim: usize,
        compression_rate: usize,
        heads: usize,
        #[serde(default)]
        dilation_rates: Vec<usize>,
    }
    let setting: Setting = case.config()?;
    let (c, d, heads) = (setting.compression_rate, setting.dim, setting.heads);
    let device = device.clone().autodiff();
    let old: Tensor<3> = tensor(case, "input.old_mem", &device)?;
    let weights: Tensor<4> = tensor(case, "input.attention_weights", &device)?;
    let h: Tensor<3> = tensor(case, "input.h", &device)?;
    let [batch, rows, _] = old.dims();
    let matrix = |name: &str| tensor::<2>(case, &format!("weights.{name}.w"), &device);
    let (query, key, value) = (matrix("query")?, matrix("key")?, matrix("value")?);
    let product = crate::attention::product;
    let query = product(h, query).mul_scalar((d as f64 / heads as f64).powf(-0.5));
    let read = |x: Tensor<3>| Read {
        key: product(x.clone(), key.clone()),
        value: product(x, value.clone()),
    };

    let new = |kind: CompressorKind, pooling: Pooling, dilations: &[usize]| {
        let compression = Compression {
            kind,
            pooling,
            rate: c,
            window: c,
            dilations: dilations.to_vec(),
            torch_layout: false,
        };
        let mut compressor = Compressor::new(compression, d, false, true, Key::new(0), &device);
        let leaf = |name: &str| -> Result<Tensor<3>> {
            Ok(tensor::<3>(case, &format!("weights.{name}.w"), &device)?.require_grad())
        };
        let mut named: BTreeMap<String, Tensor<3>> = BTreeMap::new();
        if kind == CompressorKind::Conv {
            let conv = leaf("conv")?;
            named.insert("conv.w".into(), conv.clone());
            compressor.conv = Some(Param::from_tensor(conv));
            let decoder = leaf("decoder")?;
            named.insert("decoder.w".into(), decoder.clone());
            // The parameter must be the leaf's own values; what follows from it keeps its gradient.
            compressor.decoder = Some(Param::initialized(
                burn::module::ParamId::new(),
                decoder.unsqueeze::<4>(),
            ));
            compressor.dilated = dilations
                .iter()
                .map(|rate| {
                    let name = format!("dilated.rate_{rate}");
                    let weight = leaf(&name)?;
                    named.insert(format!("{name}.w"), weight.clone());
                    Ok(Param::from_tensor(weight))
                })
                .collect::<Result<_>>()?;
        }
        Ok::<_, Error>((compressor, named))
    };
    let usage: Tensor<2> = weights.mean_dim(1).mean_dim(2).reshape([batch, rows]);
    let mut found = Replayed::default();
    let say = |found: &mut Replayed, name: &str, data: TensorData| {
        found.tensors.insert(name.to_owned(), data);
    };
    let index = crate::compressor::most_used_rows(&usage, rows / c);
    say(&mut found, "mid.usage", usage.clone().into_data());
    say(&mut found, "mid.most_used_index", index.into_data());
    use CompressorKind::{Conv, MostUsed, Pool};
    let all: [(&str, CompressorKind, Pooling, &[usize]); 5] = [
        ("max_pool", Pool, Pooling::Max, &[]),
        ("mean_pool", Pool, Pooling::Avg, &[]),
        ("conv", Conv, Pooling::Avg, &[]),
        ("dilated_conv", Conv, Pooling::Avg, &setting.dilation_rates),
        ("most_used", MostUsed, Pooling::Avg, &[]),
    ];
    for (name, kind, pooling, dilations) in all {
        if name == "dilated_conv" && dilations.is_empty() {
            continue;
        }
        let (compressor, named) = new(kind, pooling, dilations)?;
        let compressed = compressor
            .compress(old.clone(), Some(&usage))
            .map_err(Error::other)?;
        say(
            &mut found,
            &format!("output.{name}"),
            compressed.clone().into_data(),
        );
        let loss = reconstruction_loss(
            query.clone(),
            read(old.clone()),
            read(compressed.clone()),
            heads,
        )
        .map_err(Error::other)?;
        say(
            &mut found,
            &format!("output.attention_loss.{name}"),
            loss.clone().into_data(),
        );
        if kind != Conv {
            continue;
        }
        let grads = loss.backward();
        for (weight, leaf) in &named {
            if let Some(grad) = leaf.grad(&grads) {
                let name = format!("grad.attention_loss.{name}.{weight}");
                say(&mut found, &name, grad.into_data());
            }
        }
        if name != "conv" {
            continue;
        }
        // The reads themselves, by head and without the output projection.
        for (name, rows) in [
            ("read_old_mem", old.clone()),
            ("read_compressed", compressed),
        ] {
            let read = read(rows.detach())
                .by(query.clone(), heads)
                .map_err(Error::other)?;
            let [b, n, width] = read.dims();
            let heads_apart = read.reshape([b, n, heads, width / heads]).swap_dims(1, 2);
            say(&mut found, &format!("mid.{name}"), heads_apart.into_data());
        }
        let (compressor, named) = new(kind, pooling, dilations)?;
        let compressed = compressor
            .compress(old.clone(), None)
            .map_err(Error::other)?;
        let decoded = compressor.decode(compressed.clone());
        let restored = decoded.ok_or_else(|| case.malformed("there is no decoder"))?;
        say(&mut found, "output.reconstruction", restored.into_data());
        if let Some(loss) = compressor.autoencoding_loss(old.clone(), compressed) {
            say(
                &mut found,
                "output.autoencoding_loss",
                loss.clone().into_data(),
            );
            let grads = loss.backward();
            for (weight, leaf) in &named {
                if let Some(grad) = leaf.grad(&grads) {
                    say(
                        &mut found,
                        &format!("grad.autoencoding_loss.{weight}"),
                        grad.into_data(),
                    );
                }
            }
        }
    }
    Ok(found)
}

/// The state after a step, by layer.
fn say_state(state: &CompressedMemoryState, k: usize, found: &mut Replayed) {
    for (i, layer) in state.layers.iter().enumerate() {
        for (name, fifo) in [
            ("memory", &layer.episodic),
            ("compressed_memory", &layer.compressed),
        ] {
            if let Some(rows) = fifo.rows() {
                found
                    .tensors
                    .insert(format!("output.{name}.{k}.{i}"), rows.into_data());
            }
        }
    }
}

/// Chunks of dense rows from zero memories; the gradients of the last one.
fn model_deepmind(case: &Case, device: &Device) -> Result<Replayed> {
    let (config, harness) = setting(case)?;
    let config: CompressiveTransformerConfig =
        pretrained::parse_value(config, &case.file, "config")?;
    let device = device.clone().autodiff();
    let model: CompressiveTransformer =
        crate::weights::from_tensors(&config, case.with_prefix("weights."), &case.file, &device)
            .map_err(Error::other)?;
    let plain = device.clone().without_autodiff();
    let x: Tensor<3> = tensor(case, "input.x", &plain)?;
    let readout: Tensor<3> = tensor(case, "input.readout", &plain)?;
    let [batch, length, _] = x.dims();
    let chunk = config.chunk_size;
    let steps = harness
        .get("steps")
        .and_then(Value::as_u64)
        .map_or(length / chunk, |n| n as usize);
    if steps == 0 || steps * chunk > length {
        return Err(case.malformed("`input.x` is shorter than its chunks"));
    }
    let mut state = model
        .state(batch, model.memory_sizes(), false)
        .map_err(Error::other)?;
    let mut found = Replayed::default();
    for k in 0..steps {
        let last = k + 1 == steps;
        let rows = x.clone().narrow(1, k * chunk, chunk);
        let mode = Mode {
            weights: last,
            ..Mode::training(Dropout::off())
        };
        let mut stats = vec![];
        let tensors = &mut found.tensors;
        let output = model
            .forward_dense(rows, state, mode, &mut |view| {
                if !last {
                    return;
                }
                let i = view.layer;
                let mut say = |name: &str, data: TensorData| {
                    tensors.insert(format!("mid.{name}_last.{i}"), data);
                };
                say("memory_append", view.appended.clone().into_data());
                say("after_attention", view.after_attention.clone().into_data());
                say("after_mlp", view.after_mlp.clone().into_data());
                if let Some(weights) = view.weights {
                    say("attention_weights", weights.clone().into_data());
                    stats.push(attention_region_stats(weights, &view.regions));
                }
            })
            .map_err(Error::other)?;
        let CompressiveOutput { hidden, .. } = &output;
        let layers = Tensor::cat(output.losses.clone(), 0);
        let aux = layers.clone().mean();
        let mut say = |name: String, data: TensorData| drop(found.tensors.insert(name, data));
        say(format!("output.out.{k}"), hidden.clone().into_data());
        say(format!("output.aux_loss.{k}"), aux.clone().into_data());
        say(
            format!("mid.compression_loss_per_layer.{k}"),
            layers.into_data(),
        );
        if last {
            let stats = stats.into_iter().collect::<core_attn::Result<Vec<_>>>();
            let stats = stats.map_err(Error::other)?;
            let count = stats.len() as f64;
            if let Some(sum) = stats.into_iter().reduce(|a, b| a + b) {
                let name = "mid.avg_attention_buckets_last".to_owned();
                say(name, sum.div_scalar(count).into_data());
            }
            let task = (hidden.clone() * readout.clone())
                .sum()
                .div_scalar((batch * chunk) as f64);
            say("output.task_loss".into(), task.clone().into_data());
            let grads = (task + aux).backward();
            let all = pretrained::collect_gradients(&model, &grads);
            gradients(case, "grad.task.", &all, &mut found);
            gradients(case, "grad.aux.", &all, &mut found);
            found.facts.push(Fact::exact(
                "weights with a gradient that the case does not give",
                json!([]),
                json!(unexpected(case, ["grad.task.", "grad.aux."], &all)),
            ));
        }
        say_state(&output.state, k, &mut found);
        state = output.state.detach();
    }
    Ok(found)
}

/// Segments of ids from empty memories; the gradients of the last one.
fn model_lucidrains(case: &Case, device: &Device) -> Result<Replayed> {
    let (config, harness) = setting(case)?;
    let config: LucidrainsConfig = pretrained::parse_value(config, &case.file, "config")?;
    config.validate().map_err(Error::other)?;
    let device = device.clone().autodiff();
    let mut weights = case.with_prefix("weights.");
    // Compressors of layers without a memory have no part in anything; a case may leave them out.
    let blank = config.init(Key::new(0), &device).map_err(Error::other)?;
    for (name, data) in pretrained::collect_weights(&blank) {
        let layer = name
            .strip_prefix("attn_layers.")
            .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let idle = layer.is_some_and(|i| !config.memory_layers().contains(&(i + 1)));
        if idle && name.contains("compress_mem_fn") {
            weights.entry(name).or_insert(data);
        }
    }
    let model: LucidrainsTransformer =
        crate::weights::from_tensors(&config, weights, &case.file, &device)
            .map_err(Error::other)?;
    let plain = device.clone().without_autodiff();
    let data = case.tensor("input.tokens")?;
    let &[batch, length] = &data.shape()[..] else {
        return Err(case.malformed("`input.tokens` is not [batch, length]"));
    };
    let ids: Vec<i32> = data.iter::<i64>().map(|id| id as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, length]), &plain);
    let lengths: Vec<usize> = match harness.get("segment_lengths") {
        Some(Value::Array(all)) => {
            let lengths = all.iter().filter_map(Value::as_u64);
            lengths.map(|n| n as usize).collect()
        }
        _ => {
            let segments = harness.get("segments").and_then(Value::as_u64);
            vec![config.seq_len; segments.map_or(length / config.seq_len, |n| n as usize)]
        }
    };
    if lengths.is_empty() || lengths.iter().sum::<usize>() + 1 > length {
        return Err(case.malformed("`input.tokens` is shorter than its segments"));
    }
    let mut state = model.state(model.sizes()).map_err(Error::other)?;
    let mut found = Replayed::default();
    let mut trace = vec![];
    let mut from = 0;
    for (s, &n) in lengths.iter().enumerate() {
        let last = s + 1 == lengths.len();
        let real = match case.tensors.get("input.mask_last") {
            Some(mask) if last => {
                let mask: Vec<bool> = mask.iter::<f32>().map(|x| x != 0.0).collect();
                Some(Tensor::<2, Bool>::from_data(
                    TensorData::new(mask, [batch, n]),
                    &plain,
                ))
            }
            _ => None,
        };
        let inputs = tokens.clone().narrow(1, from, n);
        let targets = tokens.clone().narrow(1, from + 1, n);
        let mode = Mode::training(Dropout::off());
        let output = model
            .forward(inputs, real.clone(), state, mode, &mut |_| {})
            .map_err(Error::other)?;
        let nll = model
            .nll(output.hidden.clone(), targets)
            .map_err(Error::other)?;
        let ce = match real {
            Some(real) => {
                let real = real.float();
                (nll * real.clone()).sum() / real.sum()
            }
            None => nll.mean(),
        };
        let aux = output
            .aux_loss()
            .unwrap_or_else(|| Tensor::zeros([1], &plain));
        let mut say = |name: String, data: TensorData| drop(found.tensors.insert(name, data));
        say(
            format!("output.logits.{s}"),
            model.logits(output.hidden.clone()).into_data(),
        );
        say(format!("output.ce.{s}"), ce.clone().into_data());
        say(format!("output.aux_loss.{s}"), aux.clone().into_data());
        let stack = |compressed: bool| -> Option<Tensor<4>> {
            let layers = output.state.layers.iter();
            let rows: Option<Vec<Tensor<3>>> = layers
                .map(|l| {
                    if compressed {
                        l.compressed.rows()
                    } else {
                        l.episodic.rows()
                    }
                })
                .collect();
            rows.filter(|r| !r.is_empty()).map(|r| Tensor::stack(r, 0))
        };
        let (mem, cmem) = (stack(false), stack(true));
        let held = |t: &Option<Tensor<4>>| t.as_ref().map_or(0, |t| t.dims()[2]);
        trace.push(json!({ "segment": s, "len": n, "mem": held(&mem), "cmem": held(&cmem) }));
        for (name, stack) in [("mem", mem), ("compressed_mem", cmem)] {
            if let Some(stack) = stack {
                say(format!("output.{name}.{s}"), stack.into_data());
            }
        }
        if last {
            let loss = ce + aux;
            say("output.loss".into(), loss.clone().into_data());
            let all = pretrained::collect_gradients(&model, &loss.backward());
            gradients(case, "grad.ce.", &all, &mut found);
            gradients(case, "grad.aux.", &all, &mut found);
            found.facts.push(Fact::exact(
                "weights with a gradient that the case does not give",
                json!([]),
                json!(unexpected(case, ["grad.ce.", "grad.aux."], &all)),
            ));
        }
        state = output.state.detach();
        from += n;
    }
    if let Some(expected) = case.json.get("memory_trace") {
        found
            .facts
            .push(Fact::exact("memory_trace", expected.clone(), trace.into()));
    }
    Ok(found)
}

/// The learning rate by chunk and the steps at which updates are applied.
fn schedule(case: &Case, _: &Device) -> Result<Replayed> {
    #[derive(Deserialize)]
    struct Rates {
        warmup: u64,
        decay: u64,
        lr: BTreeMap<String, f64>,
    }
    #[derive(Deserialize)]
    struct Updates {
        every: u64,
        after: u64,
        first_24_steps_apply: Vec<bool>,
    }
    let mut found = Replayed::default();
    for name in ["character", "word"] {
        if case.json.get(name).is_none() {
            continue;
        }
        let rates: Rates = case.field(name)?;
        let (base, schedule) = paper_schedule(rates.warmup, rates.decay);
        for (step, expected) in &rates.lr {
            let chunk: u64 = step
                .parse()
                .map_err(|_| case.malformed("a step of `lr` is no number"))?;
            found.facts.push(Fact::close(
                format!("{name}.lr.{step}"),
                json!(expected),
                json!(schedule.lr(base, chunk + 1)),
                case.tolerance,
            ));
        }
    }
    if case.json.get("update_schedule").is_some() {
        let updates: Updates = case.field("update_schedule")?;
        let schedule = UpdateSchedule::after(updates.after, updates.every);
        let applied: Vec<bool> = (0..updates.first_24_steps_apply.len() as u64)
            .map(|step| schedule.applies(step))
            .collect();
        found.facts.push(Fact::exact(
            "update_schedule.first_24_steps_apply",
            json!(updates.first_24_steps_apply),
            json!(applied),
        ));
    }
    Ok(found)
}
