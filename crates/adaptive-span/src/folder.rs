//! Model folders and published checkpoints, as the tools use them.

use crate::config::AdaptiveSpanConfig;
use crate::generate::{SpanReader, TextGenerator};
use crate::model::{Mode, TransformerSeq};
use burn::prelude::*;
use datasets::Vocabulary;
use pretrained::NamedTensors;
use serde_json::Value;
use std::path::Path;
use trainer::{Conversion, Error, Generate, Pretrained, Result};

/// The file beside the weights that says which id is which token.
pub const VOCAB_FILE: &str = "vocab.json";

/// Keys that stand beside the model's in upstream's configurations and do not concern a trained model.
const TRAINING_KEYS: &[&str] = &[
    "batch",
    "batch_size",
    "batch_split",
    "block_size",
    "grad_clip",
    "lr",
    "lr_warmup",
    "momentum",
    "optim",
    "optimizer",
];

/// A trained model with the vocabulary it was trained on, where there is one.
pub struct Folder {
    model: TransformerSeq,
    vocabulary: Option<Vocabulary>,
    generator: Option<TextGenerator>,
    device: Device,
}

impl Folder {
    /// Opens a model folder.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let model = TransformerSeq::from_pretrained(dir, device)?;
        let file = dir.join(VOCAB_FILE);
        let vocabulary = file
            .exists()
            .then(|| vocabulary(&file, &model))
            .transpose()?;
        Ok(Self::new(model, vocabulary, device))
    }

    fn new(model: TransformerSeq, vocabulary: Option<Vocabulary>, device: &Device) -> Self {
        Self {
            model,
            vocabulary,
            generator: None,
            device: device.clone(),
        }
    }

    /// Reads a published checkpoint: a torch file or safetensors, with or without the prefix `module.`.
    ///
    /// What the tensors tell need not be in the configuration: all sizes, and by their equality whether adaptive input and
    /// softmax are tied. The length of the ramp must come from there; whether caches shrink changes no number and is on where
    /// it is not said.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn convert(from: &Conversion, device: &Device) -> Result<Self> {
        let given = match &from.config {
            Some(file) => pretrained::read_json(file)?,
            None => Value::Object(serde_json::Map::new()),
        };
        Self::convert_with(from, given, device)
    }

    /// [`Folder::convert`] with the configuration as a value; `from.config` is only named in errors.
    pub(crate) fn convert_with(from: &Conversion, given: Value, device: &Device) -> Result<Self> {
        from.without_head()?;
        let file = from.config.as_ref().unwrap_or(&from.checkpoint);
        let mut tensors = pretrained::read_tensors(&from.checkpoint)?;
        tensors.retain(|name, _| !from.ignore.iter().any(|rule| matches(rule, name)));
        let mut known = inferred(&tensors);
        let Value::Object(given) = given else {
            let file = file.display().to_string();
            return Err(Error::value(
                file,
                "no JSON object",
                "the model's configuration",
            ));
        };
        // A recipe holds the configuration in its section `model`.
        let mut given = match given.get("model") {
            Some(Value::Object(model)) => model.clone(),
            _ => given,
        };
        // Upstream's spelling would stand beside the inferred key.
        if let Some(enabled) = given.remove("adapt_span") {
            given.insert("adapt_span_enabled".into(), enabled);
        }
        // Upstream keeps what belongs to the training in the same place.
        given.retain(|key, _| !TRAINING_KEYS.contains(&key.as_str()));
        known.extend(given);
        if !known.contains_key("adapt_span_ramp")
            && known.get("adapt_span_enabled") == Some(&true.into())
        {
            return Err(Error::value(
                "adapt_span_ramp",
                "absent",
                "its value, which no checkpoint holds: give --config FILE with {\"adapt_span_ramp\": 32} (32 in all published models)",
            ));
        }
        let config: AdaptiveSpanConfig = pretrained::parse_value(Value::Object(known), file, "")?;
        let model = TransformerSeq::from_tensors(&config, tensors, &from.checkpoint, device)?;
        let vocabulary = from
            .vocab
            .as_ref()
            .map(|file| vocabulary(file, &model))
            .transpose()?;
        Ok(Self::new(model, vocabulary, device))
    }
}

fn vocabulary(file: &Path, model: &TransformerSeq) -> Result<Vocabulary> {
    let vocabulary = Vocabulary::from_file(file).map_err(Error::other)?;
    let ids = model.config().vocab_size.unwrap_or(0);
    if vocabulary.len() > ids {
        let found = format!("{} tokens", vocabulary.len());
        return Err(Error::value(
            file.display().to_string(),
            found,
            format!("at most the model's {ids} ids"),
        ));
    }
    Ok(vocabulary)
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => rule == name,
    }
}

/// What the tensors' names and shapes say about the configuration.
fn inferred(tensors: &NamedTensors) -> serde_json::Map<String, Value> {
    let shape = |name: &str| {
        let data = tensors
            .get(name)
            .or_else(|| tensors.get(&format!("module.{name}")))?;
        Some(data.shape().to_vec())
    };
    let names = || {
        tensors
            .keys()
            .map(|n| n.strip_prefix("module.").unwrap_or(n))
    };
    let mut known = serde_json::Map::new();
    let mut say = |key: &str, value: Value| drop(known.insert(key.into(), value));
    let layers = names()
        .filter_map(|n| {
            n.strip_prefix("layers.")?
                .split('.')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .max();
    if let Some(last) = layers {
        say("nb_layers", last.checked_add(1).into());
    }
    let hidden = shape("layers.0.attn.proj_query.weight").and_then(|s| s.first().copied());
    if let Some(h) = hidden {
        say("hidden_size", h.into());
    }
    if let Some([_, d, l]) = shape("key_pe").as_deref() {
        say("attn_span", (*l).into());
        if let Some(h) = hidden
            && *d > 0
        {
            say("nb_heads", (h / d).into());
        }
    }
    let span = names().any(|n| n.ends_with("adaptive_span._mask.current_val"));
    say("adapt_span_enabled", span.into());
    if let Some(f) = shape("layers.0.ff.fc1.weight") {
        say("inner_hidden_size", f.first().copied().into());
    }
    if let Some([_, _, n]) = shape("layers.0.attn.attn.persistent_memory.key").as_deref() {
        say("pers_mem_size", (*n).into());
    }
    if let Some(e) = shape("in_emb.weight") {
        say("vocab_size", e.first().copied().into());
    }
    let clusters: Vec<Vec<usize>> = (0..)
        .map_while(|i| shape(&format!("in_emb.emb_layers.{i}.weight")))
        .collect();
    if !clusters.is_empty() && clusters.iter().all(|s| s.len() == 2 && s[1] > 0) {
        let mut ends: Vec<usize> = clusters
            .iter()
            .scan(0, |end, s| {
                *end += s[0];
                Some(*end)
            })
            .collect();
        let vocab = ends.pop();
        say("adapt_io", true.into());
        // A state holds tied tensors under both names, or under the input's alone.
        let same = |i: usize| {
            let get = |name: String| {
                tensors
                    .get(&name)
                    .or_else(|| tensors.get(&format!("module.{name}")))
            };
            let output = get(format!("out_emb.out_layers.{i}.weight"));
            output.is_none() || output == get(format!("in_emb.emb_layers.{i}.weight"))
        };
        say("adapt_io_tied", (0..clusters.len()).all(same).into());
        say("vocab_size", vocab.into());
        say("adapt_io_cutoffs", ends.into());
        if let [first, second, ..] = &clusters[..] {
            say("adapt_io_divval", (first[1] / second[1]).into());
        }
    }
    known
}

/// Whether a folder with this configuration and these tensors is one of this architecture.
pub(crate) fn claims(config: &Value, tensors: &[String]) -> bool {
    let has = |end: &str| {
        tensors
            .iter()
            .any(|n| n.strip_prefix("module.").unwrap_or(n) == end)
    };
    config.get("model_type").and_then(Value::as_str) == Some("adaptive-span")
        || (has("key_pe") && has("layers.0.attn.proj_query.weight"))
}

impl Pretrained for Folder {
    /// Input `tokens` `[batch, length]`; optional `block_size` `[1]` runs it in blocks that carry the past.
    ///
    /// A last token that only serves as the target of the one before it is not run. Outputs per block `s`: `logprob.s` `[batch, block, vocab]`, and where the next token is known `nll.s`
    /// `[batch, block]` and `lm_loss.s` `[1]`, in nats.
    fn forward(&mut self, inputs: NamedTensors) -> Result<NamedTensors> {
        for name in inputs.keys() {
            if !["tokens", "block_size"].contains(&name.as_str()) {
                return Err(Error::value(
                    format!("input `{name}`"),
                    "unknown",
                    "`tokens`, and optionally `block_size`",
                ));
            }
        }
        let data = inputs
            .get("tokens")
            .ok_or_else(|| Error::value("input `tokens`", "absent", "token ids [batch, length]"))?;
        let &[batch, length] = &data.shape()[..] else {
            return Err(Error::value(
                "input `tokens`",
                format!("of shape {:?}", data.shape()),
                "[batch, length]",
            ));
        };
        let vocab = self.model.config().vocab()?;
        if data.dtype().is_float() && data.iter::<f64>().any(|x| x.fract() != 0.0) {
            return Err(Error::value(
                "input `tokens`",
                "of numbers that are no integers",
                "token ids",
            ));
        }
        let ids: Vec<i64> = data.iter::<i64>().collect();
        if let Some(bad) = ids.iter().find(|id| **id < 0 || **id >= vocab as i64) {
            return Err(Error::value(
                "input `tokens`",
                format!("an id of {bad}"),
                format!("ids in 0..{vocab}"),
            ));
        }
        if batch * length == 0 {
            return Err(Error::value(
                "input `tokens`",
                "empty",
                "at least one token",
            ));
        }
        let block = match inputs
            .get("block_size")
            .and_then(|d| d.iter::<i64>().next())
        {
            Some(n) if n > 0 => (n as usize).min(length),
            Some(n) => return Err(Error::value("input `block_size`", n, "at least 1")),
            None => length,
        };
        let all: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let all = Tensor::<2, Int>::from_data(TensorData::new(all, [batch, length]), &self.device);
        let mut cache = self.model.empty_projected_cache(batch);
        let mut out = NamedTensors::new();
        let mut start = 0;
        let mut step = 0;
        while start < length {
            let n = block.min(length - start);
            // A last token that only serves as the target of the one before is no block of its own.
            if step > 0 && n == 1 && block > 1 {
                break;
            }
            let output =
                self.model
                    .forward(all.clone().narrow(1, start, n), cache, Mode::evaluation())?;
            cache = output.cache;
            let scores = self.model.log_probabilities(output.hidden.clone());
            out.insert(format!("logprob.{step}"), scores.into_data());
            let known = n.min(length - start - 1);
            if known > 0 {
                let targets = all.clone().narrow(1, start + 1, known);
                let nll = self.model.nll(output.hidden.narrow(1, 0, known), targets)?;
                out.insert(format!("lm_loss.{step}"), nll.clone().mean().into_data());
                out.insert(format!("nll.{step}"), nll.into_data());
            }
            start += n;
            step += 1;
        }
        Ok(out)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.model.save_pretrained(dir)?;
        if let Some(vocabulary) = &self.vocabulary {
            pretrained::write_atomic(&dir.join(VOCAB_FILE), vocabulary.to_json().as_bytes())?;
        }
        Ok(())
    }

    fn describe(&self) -> Vec<(String, String)> {
        let c = self.model.config();
        let mut all = vec![
            ("architecture".to_owned(), "adaptive-span".to_owned()),
            ("parameters".to_owned(), self.model.num_params().to_string()),
            ("layers".to_owned(), c.nb_layers.to_string()),
            ("heads".to_owned(), c.nb_heads.to_string()),
            ("hidden size".to_owned(), c.hidden_size.to_string()),
            ("longest span".to_owned(), format!("{} tokens", c.attn_span)),
        ];
        if let Some(spans) = self.model.spans() {
            for (i, layer) in spans.tokens().iter().enumerate() {
                let heads: Vec<String> = layer.iter().map(|s| format!("{s:.1}")).collect();
                all.push((
                    format!("spans of layer {}", i + 1),
                    format!("{} tokens", heads.join(", ")),
                ));
            }
        }
        let vocabulary = match &self.vocabulary {
            Some(v) => format!("{} tokens", v.len()),
            None => "none beside the weights: ids in, ids out".to_owned(),
        };
        all.push(("vocabulary".to_owned(), vocabulary));
        all
    }

    fn generator(&mut self) -> Option<&mut dyn Generate> {
        let vocabulary = self.vocabulary.clone()?;
        let reader = SpanReader::new(self.model.clone(), self.device.clone());
        let generator = TextGenerator::new(reader, vocabulary);
        Some(self.generator.insert(generator))
    }
}

impl Folder {
    /// The weights by upstream names.
    pub fn weights(&self) -> NamedTensors {
        pretrained::collect_weights(&self.model)
    }
}
