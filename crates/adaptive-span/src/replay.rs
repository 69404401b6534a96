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
use trainer::{Conversion, Error, Learner, OptimizerConfig, Replay, Result, Schedule};

/// Every check of this architecture's cases.
pub(crate) const REPLAYS: &[(&str, Replay)] = &[
    ("model", model),
    ("span_mask", span_mask),
    ("train_steps", train_steps),
    ("checkpoint", checkpoint),
    ("data", data),
];

/// A case's `config`: the model's keys, and everything else, which belongs to the harness.
struct Setting {
    model: AdaptiveSpanConfig,
    harness: serde_json::Map<String, Value>,
}

impl Setting {
    fn of(case: &Case) -> Result<Self> {
        let all: serde_json::Map<String, Value> = case.config()?;
        let Value::Object(known) = json!(AdaptiveSpanConfig::default()) else {
            return Err(case.malformed("the model's configuration is no object"));
        };
        let is_model = |key: &String| known.contains_key(key) || key == "adapt_span";
        let (mut model, harness): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
            all.into_iter().partition(|(key, _)| is_model(key));
        // Absent keys mean upstream's defaults. Dropout is off in every case: its draws could not be the same.
        let learned = |name: &String| name.ends_with("adaptive_span._mask.current_val");
        if !model.contains_key("adapt_span") && !model.contains_key("adapt_span_enabled") {
            let weights = case.tensors.keys().any(learned);
            model.insert("adapt_span".into(), weights.into());
        }
        model.entry("adapt_span_cache").or_insert(false.into());
        model.insert("dropout".into(), 0.0.into());
        model.insert("emb_dropout".into(), 0.0.into());
        let model = pretrained::parse_value(Value::Object(model), &case.file, "config")?;
        Ok(Self { model, harness })
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.harness.get(key).and_then(Value::as_f64)
    }

    /// A positive whole number.
    fn size(&self, case: &Case, key: &str) -> Result<usize> {
        let value = self.harness.get(key).and_then(Value::as_u64);
        let value = value
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0);
        value.ok_or_else(|| case.malformed(&format!("`config.{key}` is no positive whole number")))
    }

    fn load(&self, case: &Case, device: &Device) -> Result<TransformerSeq> {
        Ok(TransformerSeq::from_tensors(
            &self.model,
            case.with_prefix("weights."),
            &case.file,
            device,
        )?)
    }
}

/// Successive blocks of `input.tokens`.
fn blocks(case: &Case, setting: &Setting) -> Result<Vec<Block>> {
    let data = case.tensor("input.tokens")?;
    let &[batch, width] = &data.shape()[..] else {
        return Err(case.malformed("`input.tokens` is not [batch, length]"));
    };
    let vocab = setting.model.vocab_size.unwrap_or(usize::MAX);
    let id = |id: i64| u32::try_from(id).ok().filter(|id| (*id as usize) < vocab);
    let ids: Option<Vec<u32>> = data.iter::<i64>().map(id).collect();
    let ids =
        ids.ok_or_else(|| case.malformed("`input.tokens` holds an id outside the vocabulary"))?;
    let length = setting.size(case, "block_size")?;
    let steps = setting.size(case, "steps")?;
    if length.checked_mul(steps).is_none_or(|n| n >= width) {
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
        let inputs = language::tokens(&block.inputs, batch, device);
        let targets = language::tokens(&block.targets, batch, device);
        let tensors = &mut found.tensors;
        let output = model.forward_watched(inputs, cache, Mode::evaluation(), &mut |view| {
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
        })?;
        let nll = model.nll(output.hidden.clone(), targets)?;
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
    config.validate()?;
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
        let host: Vec<f32> = values.iter::<f32>().collect();
        let z = TensorData::new(host.clone(), [host.len()]);
        let z = Tensor::<1>::from_data(z, &device).require_grad();
        let a = Tensor::<3>::from_data(attn.clone(), &device).require_grad();
        let masked = window
            .apply(a.clone(), z.clone(), EPSILON)
            .map_err(crate::Error::from)?;
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
    let lr = setting
        .number("lr")
        .ok_or_else(|| case.malformed("`config.lr` is missing or no number"))?;
    let clip = setting.number("grad_clip").filter(|c| *c > 0.0);
    let rule = ["optimizer", "optim"]
        .iter()
        .find_map(|key| setting.harness.get(*key)?.as_str());
    let rule = rule.unwrap_or("").to_lowercase();
    let (optimizer, global_clip) = match rule.split_whitespace().next().unwrap_or("") {
        name if name.starts_with("adagrad") => (
            json!({ "name": "adagrad-grad-clip", "lr": lr, "grad_clip": clip }),
            None,
        ),
        name if name.starts_with("sgd") => {
            let momentum = setting.number("momentum").unwrap_or(0.9);
            (
                json!({ "name": "sgd", "lr": lr, "momentum": momentum }),
                clip,
            )
        }
        name if name.starts_with("adam") => (json!({ "name": "adam", "lr": lr }), clip),
        other => return Err(case.malformed(&format!("the optimizer `{other}` is not known"))),
    };
    let optimizer: OptimizerConfig = serde_json::from_value(optimizer).map_err(Error::other)?;
    let schedule: Schedule = serde_json::from_value(json!({
        "name": "constant",
        "warmup": setting.harness.get("lr_warmup").and_then(Value::as_u64).unwrap_or(0),
    }))
    .map_err(Error::other)?;
    let parts = match setting.harness.contains_key("batch_split") {
        true => setting.size(case, "batch_split")?,
        false => 1,
    };
    let mut learner = Learner::new(model, &optimizer, &schedule, global_clip, None)?;
    let mut found = Replayed::default();
    let mut trace = vec![];
    let mut before_update = vec![];
    let mut cache = None;
    for (s, block) in blocks(case, &setting)?.iter().enumerate() {
        let used = learner.model().spans();
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
        let before = learner.model().spans();
        learner.update_model(TransformerSeq::clamp_spans);
        let spans = learner.model().spans();
        let nats = loss.clone().into_data().iter::<f32>().next();
        trace.push(json!({
            "step": s,
            "lr": info.lr,
            "lm_loss": nats,
            "current_val_before_clamp": before.as_ref().map(|spans| &spans.fractions),
            "current_val": spans.as_ref().map(|spans| &spans.fractions),
            "trim_len": spans.as_ref().map(|spans| spans.trim_len()),
            "cache_len": next.lengths(),
        }));
        before_update.push(json!(used.map(|spans| spans.trim_len())));
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
                let mut value = row.get(key).cloned().unwrap_or(Value::Null);
                // A case does not say whether it took this before or after the update; where the two differ either is right.
                if key == "trim_len" && before_update[i] == *expected {
                    value = before_update[i].clone();
                }
                // Without learned spans a list of them is empty, however that is written.
                if value.is_null() && is_empty(expected) {
                    value = expected.clone();
                }
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

/// Null, an empty list, or a list of such.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().all(is_empty),
        _ => false,
    }
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
    let config = setting.model;
    let mut found = Replayed::default();
    for file in files {
        let from = Conversion {
            checkpoint: case.sibling(&file)?,
            ..Conversion::default()
        };
        let folder = Folder::convert_with(&from, json!(config), device)?;
        let mut ours = folder.weights();
        // Derived buffers and second names of spans, which a case does not list.
        ours.retain(|name, _| {
            !name.ends_with("mask_template") && !name.contains("persistent_memory.adaptive_span.")
        });
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
    }
    Ok(found)
}

/// Preparation, vocabulary, ids and rows of the data.
fn data(case: &Case, _: &Device) -> Result<Replayed> {
    let kind: String = case.field("kind")?;
    let format: TextFormat = kind.parse().map_err(Error::other)?;
    let order = match case.json.get("sort_dict").and_then(Value::as_bool) {
        Some(true) => IdOrder::Count,
        _ => IdOrder::FirstAppearance,
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
    let batch = case
        .json
        .get("batch_size")
        .and_then(Value::as_u64)
        .unwrap_or(1);
    let batch = usize::try_from(batch).unwrap_or(usize::MAX);
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
