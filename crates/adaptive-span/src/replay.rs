//! Replays of the golden cases, one for each `check`.

use crate::config::AdaptiveSpanConfig;
use crate::experiment::update;
use crate::folder::Folder;
use crate::model::{Mode, TransformerSeq};
use crate::span::{EPSILON, TRIM_GRANULARITY};
use burn::prelude::*;
use core_attn::random::Key;
use core_attn::span::SoftSpanMask;
use datasets::{Block, IdOrder, TextFormat};
use serde_json::{Value, json};
use trainer::golden::{Case, Fact, Replayed};
use trainer::{Conversion, Error, Learner, OptimizerConfig, Pretrained, Replay, Result, Schedule};

/// Every check of this architecture's cases.
pub(crate) const REPLAYS: &[(&str, Replay)] = &[
    ("model", model),
    ("span_mask", span_mask),
    ("train_steps", train_steps),
    ("checkpoint", checkpoint),
    ("data", data),
];

/// Keys of a case's `config` that belong to the harness and not to the model.
const HARNESS: &[&str] = &[
    "batch",
    "steps",
    "block_size",
    "spans",
    "lr",
    "lr_warmup",
    "grad_clip",
    "batch_split",
    "optimizer",
];

/// A case's `config`: the model's keys and the harness's.
struct Setting {
    model: AdaptiveSpanConfig,
    harness: serde_json::Map<String, Value>,
}

impl Setting {
    fn of(case: &Case) -> Result<Self> {
        let mut all: serde_json::Map<String, Value> = case.config()?;
        let mut harness = serde_json::Map::new();
        for key in HARNESS {
            if let Some(value) = all.remove(*key) {
                harness.insert((*key).to_owned(), value);
            }
        }
        let model = pretrained::parse_value(Value::Object(all), &case.file, "config")?;
        Ok(Self { model, harness })
    }

    fn number(&self, case: &Case, key: &str) -> Result<f64> {
        let value = self.harness.get(key).and_then(Value::as_f64);
        value.ok_or_else(|| case.malformed(&format!("`config.{key}` is missing or no number")))
    }

    fn size(&self, case: &Case, key: &str) -> Result<usize> {
        Ok(self.number(case, key)? as usize)
    }

    fn load(&self, case: &Case, device: &Device) -> Result<TransformerSeq> {
        TransformerSeq::from_tensors(
            &self.model,
            case.with_prefix("weights."),
            &case.file,
            device,
        )
        .map_err(Error::other)
    }
}

/// Successive blocks of `input.tokens`.
fn blocks(case: &Case, setting: &Setting) -> Result<Vec<Block>> {
    let data = case.tensor("input.tokens")?;
    let &[batch, width] = &data.shape()[..] else {
        return Err(case.malformed("`input.tokens` is not [batch, length]"));
    };
    let ids: Vec<u32> = data.iter::<i64>().map(|id| id as u32).collect();
    let length = setting.size(case, "block_size")?;
    let steps = setting.size(case, "steps")?;
    if length * steps + 1 > width {
        return Err(case.malformed("`input.tokens` is shorter than its blocks"));
    }
    let cut = |from: usize| -> Vec<u32> {
        let rows = (0..batch).map(|row| &ids[row * width + from..][..length]);
        rows.flatten().copied().collect()
    };
    let block = |step: usize| Block {
        inputs: cut(step * length),
        targets: cut(step * length + 1),
        batch,
        length,
        position: step * length,
        fresh: step == 0,
        document_starts: vec![],
    };
    Ok((0..steps).map(block).collect())
}

/// Blocks in training mode from an empty past, the gradients of the last one.
fn model(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let model = setting.load(case, &device.clone().autodiff())?;
    let mut found = Replayed::default();
    let mut trace = vec![];
    let blocks = blocks(case, &setting)?;
    let adaptive = model.spans();
    let Some(batch) = blocks.first().map(|b| b.batch) else {
        return Err(case.malformed("`config.steps` is 0"));
    };
    let mut cache = model.empty_cache(batch);
    for (s, block) in blocks.iter().enumerate() {
        let last = s + 1 == blocks.len();
        let lengths = cache.lengths();
        let inputs = crate::experiment::tokens(&block.inputs, batch, device);
        let targets = crate::experiment::tokens(&block.targets, batch, device);
        let tensors = &mut found.tensors;
        let output = model
            .forward_watched(inputs, cache, Mode::evaluation(), &mut |view| {
                if last {
                    let i = view.layer;
                    if let crate::LayerCache::Hidden(rows) = view.cache {
                        tensors.insert(format!("mid.h_cache_in_last.{i}"), rows.rows().into_data());
                    }
                    tensors.insert(
                        format!("mid.attn_out_last.{i}"),
                        view.attn_out.clone().into_data(),
                    );
                    tensors.insert(
                        format!("mid.layer_out_last.{i}"),
                        view.layer_out.clone().into_data(),
                    );
                }
            })
            .map_err(Error::other)?;
        let nll = model.nll(output.hidden.clone(), targets);
        let loss = nll.clone().mean();
        let scores = model.log_probabilities(output.hidden.clone());
        found
            .tensors
            .insert(format!("output.logprob.{s}"), scores.into_data());
        found
            .tensors
            .insert(format!("output.nll.{s}"), nll.into_data());
        found
            .tensors
            .insert(format!("output.lm_loss.{s}"), loss.clone().into_data());
        trace.push(json!({
            "step": s,
            "cache_in": lengths,
            "cache_out": output.cache.lengths(),
            "trim_len": adaptive.as_ref().map(|spans| spans.trim_len()),
        }));
        if last {
            let total = match model.span_loss(&output) {
                Some(penalty) => loss + penalty,
                None => loss,
            };
            found
                .tensors
                .insert("output.loss".into(), total.clone().into_data());
            let grads = total.backward();
            for (name, data) in pretrained::collect_gradients(&model, &grads) {
                found.tensors.insert(format!("grad.{name}"), data);
            }
        }
        cache = output.cache;
    }
    if let Some(expected) = case.json.get("cache_trace") {
        found
            .facts
            .push(Fact::exact("cache_trace", expected.clone(), trace.into()));
    }
    Ok(found)
}

/// The soft mask alone, applied to given attention weights.
fn span_mask(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let config = &setting.model;
    let window =
        SoftSpanMask::new(config.attn_span, config.adapt_span_ramp).map_err(Error::other)?;
    let device = device.clone().autodiff();
    let attn = case.tensor("input.attn")?;
    let &[_, block, columns] = &attn.shape()[..] else {
        return Err(case.malformed("`input.attn` is not [batch * heads, block, span]"));
    };
    let ramp: Vec<f32> = (0..columns)
        .map(|l| (-1.0 + 2.0 * l as f64 / (columns.max(2) - 1) as f64) as f32)
        .collect();
    let ramp = Tensor::<3>::from_data(TensorData::new(ramp, [1, 1, columns]), &device);
    let mut found = Replayed::default();
    let mut table = vec![];
    for i in 0.. {
        let Ok(values) = case.tensor(&format!("input.current_val.{i}")) else {
            break;
        };
        let z = Tensor::<1>::from_data(values.clone(), &device).require_grad();
        let a = Tensor::<3>::from_data(attn.clone(), &device).require_grad();
        let masked = window.apply(a.clone(), z.clone(), EPSILON);
        let penalty = z
            .clone()
            .mean()
            .mul_scalar(config.adapt_span_loss * config.attn_span as f64);
        let loss = (masked.clone() * ramp.clone())
            .sum()
            .div_scalar(block as f64)
            + penalty.clone();
        let mut say =
            |name: &str, data: TensorData| drop(found.tensors.insert(format!("{name}.{i}"), data));
        say("mid.mask", window.mask(z.clone(), columns).into_data());
        say("output.attn", masked.into_data());
        say("output.span_loss", penalty.into_data());
        say("output.loss", loss.clone().into_data());
        let grads = loss.backward();
        if let (Some(a), Some(z)) = (a.grad(&grads), z.grad(&grads)) {
            say("grad.attn", a.into_data());
            say("grad.current_val", z.into_data());
        }
        let host: Vec<f32> = values.iter::<f32>().collect();
        let cache = match config.adapt_span_cache {
            true => window.cache_size(&host, TRIM_GRANULARITY),
            false => config.attn_span,
        };
        table.push(json!({
            "max_size": window.max_size(&host),
            "avg_size": window.average_size(&host),
            "trim_len": window.trim_len(&host, TRIM_GRANULARITY),
            "cache_size": cache,
        }));
    }
    if let Some(Value::Array(rows)) = case.json.get("table") {
        for (i, (expected, found_row)) in rows.iter().zip(&table).enumerate() {
            let mut expected = expected.clone();
            if let Value::Object(row) = &mut expected {
                row.remove("current_val"); // an input
            }
            found.facts.push(Fact::exact(
                format!("table[{i}]"),
                expected,
                found_row.clone(),
            ));
        }
        found.facts.push(Fact::exact(
            "rows of the table",
            rows.len().into(),
            table.len().into(),
        ));
    }
    Ok(found)
}

/// Whole updates: optimiser, schedule, batch split and clamp, through the code that trains.
fn train_steps(case: &Case, device: &Device) -> Result<Replayed> {
    let setting = Setting::of(case)?;
    let model = setting.load(case, &device.clone().autodiff())?;
    let lr = setting.number(case, "lr")?;
    let grad_clip = setting.number(case, "grad_clip")?;
    let rule = setting
        .harness
        .get("optimizer")
        .and_then(Value::as_str)
        .unwrap_or("");
    let (optimizer, clip) = match rule.split_whitespace().next().unwrap_or("") {
        "AdagradWithGradClip" => (
            json!({ "name": "adagrad-grad-clip", "lr": lr, "grad_clip": grad_clip }),
            None,
        ),
        "SGD" => {
            let momentum = setting
                .harness
                .get("momentum")
                .and_then(Value::as_f64)
                .unwrap_or(0.0);
            (
                json!({ "name": "sgd", "lr": lr, "momentum": momentum }),
                Some(grad_clip),
            )
        }
        "Adam" => (json!({ "name": "adam", "lr": lr }), Some(grad_clip)),
        other => return Err(case.malformed(&format!("the optimizer `{other}` is not known"))),
    };
    let optimizer: OptimizerConfig = serde_json::from_value(optimizer).map_err(Error::other)?;
    let schedule: Schedule = serde_json::from_value(json!({
        "name": "constant",
        "warmup": setting.harness.get("lr_warmup").and_then(Value::as_u64).unwrap_or(0),
    }))
    .map_err(Error::other)?;
    let parts = setting.size(case, "batch_split").unwrap_or(1).max(1);
    let mut learner = Learner::new(
        model,
        &optimizer,
        &schedule,
        clip.filter(|c| *c > 0.0),
        None,
    )?;
    let mut found = Replayed::default();
    let mut trace = vec![];
    let mut cache = None;
    for (s, block) in blocks(case, &setting)?.iter().enumerate() {
        let past = cache.unwrap_or_else(|| learner.model().empty_cache(block.batch));
        let number = s as u64 + 1;
        let (loss, next, info) = update(
            &mut learner,
            number,
            block,
            &past,
            parts,
            Key::new(0).fold(number),
            device,
        )?;
        let before = learner.model().spans().map(|spans| spans.fractions);
        learner.update_model(TransformerSeq::clamp_spans);
        let spans = learner.model().spans();
        let nats = loss.clone().into_data().iter::<f32>().next();
        trace.push(json!({
            "step": s,
            "lr": info.lr,
            "lm_loss": nats,
            "current_val_before_clamp": before,
            "current_val": spans.as_ref().map(|spans| &spans.fractions),
            "trim_len": spans.as_ref().map(|spans| spans.trim_len()),
            "cache_len": next.lengths(),
        }));
        found
            .tensors
            .insert(format!("output.lm_loss.{s}"), loss.into_data());
        cache = Some(next);
    }
    for (name, data) in pretrained::collect_weights(learner.model()) {
        found.tensors.insert(format!("output.final.{name}"), data);
    }
    ignore_noise(case, &mut found)?;
    if let Some(Value::Array(rows)) = case.json.get("trace") {
        for (i, (expected, row)) in rows.iter().zip(&trace).enumerate() {
            let (Value::Object(expected), Some(row)) = (expected, row.as_object()) else {
                return Err(case.malformed("`trace` is no list of objects"));
            };
            for (key, expected) in expected {
                let value = row.get(key).cloned().unwrap_or(Value::Null);
                let exact = ["step", "trim_len", "cache_len"].contains(&key.as_str());
                let tolerance = if exact { None } else { case.tolerance };
                found.facts.push(Fact::close(
                    format!("trace[{i}].{key}"),
                    expected.clone(),
                    value,
                    tolerance,
                ));
            }
        }
        found.facts.push(Fact::exact(
            "steps of the trace",
            rows.len().into(),
            trace.len().into(),
        ));
    }
    Ok(found)
}

/// Columns of the position table that no head sees have no gradient here. The reference leaves rounding noise of about
/// 1e−10 there, which Adagrad turns into full steps; the case says which columns are results.
fn ignore_noise(case: &Case, found: &mut Replayed) -> Result<()> {
    const SELECTOR: &str = "mid.key_pe_comparable_columns";
    const TABLE: &str = "output.final.key_pe";
    let (Some(selector), Some(expected)) = (case.tensors.get(SELECTOR), case.tensors.get(TABLE))
    else {
        return Ok(());
    };
    found.selectors.push(SELECTOR.into());
    let compared: Vec<bool> = selector.iter::<f32>().map(|x| x != 0.0).collect();
    if let Some(ours) = found.tensors.get_mut(TABLE)
        && ours.shape() == expected.shape()
        && !compared.is_empty()
    {
        let pairs = ours.iter::<f32>().zip(expected.iter::<f32>()).enumerate();
        let values: Vec<f32> = pairs
            .map(|(i, (o, e))| if compared[i % compared.len()] { o } else { e })
            .collect();
        *ours = TensorData::new(values, ours.shape().clone());
    }
    Ok(())
}

/// Published files in both torch formats: every parameter equals that of another case.
fn checkpoint(case: &Case, device: &Device) -> Result<Replayed> {
    let files: Vec<String> = case.field("files")?;
    let weights: String = case.field("weights_from")?;
    let config: String = case.field("config_from")?;
    let weights = Case::load(&case.sibling(&format!("{weights}.json"))?)?.with_prefix("weights.");
    let setting = Setting::of(&Case::load(&case.sibling(&format!("{config}.json"))?)?)?;
    let dir = std::env::temp_dir().join(format!("adaptive-span-replay-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(Error::other)?;
    let config = dir.join(format!("config-{:?}.json", std::thread::current().id()));
    let text = serde_json::to_string(&setting.model).map_err(Error::other)?;
    pretrained::write_atomic(&config, text.as_bytes())?;
    let mut found = Replayed::default();
    for file in files {
        let from = Conversion {
            checkpoint: case.sibling(&file)?,
            config: Some(config.clone()),
            ..Conversion::default()
        };
        let folder = Folder::convert(&from, device)?;
        let mut ours = folder.weights();
        ours.retain(|name, _| !name.ends_with("mask_template"));
        let equal = |name: &String, expected: &TensorData| {
            let ours = ours.get(name)?;
            let same = ours.num_elements() == expected.num_elements()
                && ours
                    .iter::<f32>()
                    .zip(expected.iter::<f32>())
                    .all(|(a, b)| a == b);
            Some(same)
        };
        let expected: serde_json::Map<String, Value> =
            weights.keys().map(|n| (n.clone(), true.into())).collect();
        let result: serde_json::Map<String, Value> = weights
            .iter()
            .map(|(name, data)| (name.clone(), equal(name, data).into()))
            .collect();
        found.facts.push(Fact::exact(
            format!("{file}: equal tensors"),
            expected.into(),
            result.into(),
        ));
        found.facts.push(Fact::exact(
            format!("{file}: number of tensors"),
            weights.len().into(),
            ours.len().into(),
        ));
        drop(folder.describe());
    }
    std::fs::remove_file(&config).map_err(Error::other)?;
    Ok(found)
}

/// Preparation, vocabulary, ids and rows of the data.
fn data(case: &Case, _: &Device) -> Result<Replayed> {
    let kind: String = case.field("kind")?;
    let format: TextFormat = kind.parse().map_err(Error::other)?;
    let order = match case.field::<bool>("sort_dict")? {
        true => IdOrder::Count,
        false => IdOrder::FirstAppearance,
    };
    let input: Value = case.field("input")?;
    let text = |split: &str| -> Result<Vec<u8>> {
        match &input[split] {
            Value::String(text) => Ok(text.clone().into_bytes()),
            bytes => serde_json::from_value(bytes.clone()).map_err(Error::other),
        }
    };
    const SPLITS: [&str; 3] = ["train", "valid", "test"];
    let texts = [text(SPLITS[0])?, text(SPLITS[1])?, text(SPLITS[2])?];
    let batch: usize = case.field("batch_size")?;
    let done = datasets::prepare(format, order, texts.each_ref().map(|t| &**t), batch)
        .map_err(Error::other)?;
    let mut found = Replayed::default();
    let mut say = |key: &str, value: Value| {
        if let Some(expected) = case.json.get(key) {
            found.facts.push(Fact::exact(key, expected.clone(), value));
        }
    };
    let by_split = |values: [Value; 3]| -> Value {
        let pairs = SPLITS.map(str::to_owned).into_iter().zip(values);
        pairs.collect::<serde_json::Map<_, _>>().into()
    };
    say(
        "prepared_text",
        by_split(done.prepared_text.map(Value::from)),
    );
    say("ids", by_split(done.ids.map(|ids| json!(ids))));
    say("vocabulary_in_id_order", json!(done.vocabulary.names()));
    say("batchified_train", json!(done.batchified_train));
    Ok(found)
}
