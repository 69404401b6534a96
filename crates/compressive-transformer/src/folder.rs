//! Model folders, as the tools use them.

use crate::error::Error as Wrong;
use crate::generate::{MemoryReader, TextGenerator};
use crate::lucidrains::LucidrainsTransformer;
use crate::memory_model::{MemoryModel, Mode};
use crate::model::CompressiveTransformer;
use crate::profile::ModelConfig;
use crate::weights::{
    CONFIG_FILE, from_pretrained, from_tensors, save_pretrained, with_vocabulary,
};
use burn::prelude::*;
use datasets::Vocabulary;
use pretrained::NamedTensors;
use serde_json::Value;
use std::path::Path;
use trainer::{Conversion, Error, Generate, Pretrained, Result};

/// The file beside the weights that says which id is which token.
pub const VOCAB_FILE: &str = "vocab.json";

/// A trained model of token ids with the vocabulary it was trained on, where there is one.
pub struct Folder<M: MemoryModel> {
    model: M,
    vocabulary: Option<Vocabulary>,
    generator: Option<TextGenerator<M>>,
    device: Device,
}

impl<M: MemoryModel> Folder<M> {
    fn new(model: M, vocabulary: Option<&Path>, device: &Device) -> Result<Self> {
        let ids = M::vocab_size(model.settings()).unwrap_or(0);
        let vocabulary = vocabulary.map(Vocabulary::from_file).transpose();
        let vocabulary = vocabulary.map_err(Error::other)?;
        if let Some(known) = vocabulary.as_ref().filter(|v| v.len() > ids) {
            let found = format!("of {} tokens", known.len());
            let expected = format!("at most the model's {ids} ids");
            return Err(Error::value("the vocabulary", found, expected));
        }
        Ok(Self {
            model,
            vocabulary,
            generator: None,
            device: device.clone(),
        })
    }
}

/// Opens a model folder of either profile.
pub(crate) fn open(dir: &Path, device: &Device) -> Result<Box<dyn Pretrained>> {
    let file = dir.join(VOCAB_FILE);
    let vocabulary = file.exists().then_some(file.as_path());
    let config = ModelConfig::from_file(dir.join(CONFIG_FILE)).map_err(Error::other)?;
    Ok(match config {
        ModelConfig::Lucidrains(_) => {
            let model: LucidrainsTransformer =
                from_pretrained(dir, device).map_err(Error::other)?;
            Box::new(Folder::new(model, vocabulary, device)?)
        }
        ModelConfig::Deepmind(config) => {
            let model: CompressiveTransformer =
                from_pretrained(dir, device).map_err(Error::other)?;
            match config.input_dim {
                Some(_) => Box::new(DenseFolder {
                    model,
                    device: device.clone(),
                }),
                None => Box::new(Folder::new(model, vocabulary, device)?),
            }
        }
    })
}

/// Reads a checkpoint of either upstream, whose configuration must be given: it does not follow from the tensors.
pub(crate) fn convert(from: &Conversion, device: &Device) -> Result<Box<dyn Pretrained>> {
    from.without_head()?;
    let mut tensors = pretrained::read_tensors(&from.checkpoint)?;
    tensors.retain(|name, _| !from.ignore.iter().any(|rule| matches(rule, name)));
    let Some(file) = &from.config else {
        return Err(Error::value(
            "the configuration",
            "absent",
            "give --config FILE with the model's configuration: memory sizes and the compression rate do not follow from the tensors",
        ));
    };
    let mut given: Value = pretrained::read_json(file)?;
    // A recipe holds the configuration in its section `model`.
    if let Some(model) = given.get_mut("model").filter(|m| m.is_object()) {
        given = model.take();
    }
    if tensors.contains_key("token_emb.weight")
        && let Some(keys) = given.as_object_mut()
    {
        keys.entry("profile").or_insert("lucidrains".into());
    }
    let config = ModelConfig::parse(given, file, "").and_then(|c| with_vocabulary(c, &tensors));
    let vocabulary = from.vocab.as_deref();
    let checkpoint = &from.checkpoint;
    Ok(match config.map_err(Error::other)? {
        ModelConfig::Lucidrains(config) => {
            let model = from_tensors(&config, tensors, checkpoint, device);
            let model: LucidrainsTransformer = model.map_err(Error::other)?;
            Box::new(Folder::new(model, vocabulary, device)?)
        }
        ModelConfig::Deepmind(config) => {
            let dense = config.input_dim.is_some();
            let model = from_tensors(&config, tensors, checkpoint, device);
            let model: CompressiveTransformer = model.map_err(Error::other)?;
            match dense {
                true => Box::new(DenseFolder {
                    model,
                    device: device.clone(),
                }),
                false => Box::new(Folder::new(model, vocabulary, device)?),
            }
        }
    })
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => rule == name,
    }
}

/// Whether a folder with this configuration and these tensors is one of this architecture.
pub(crate) fn claims(config: &Value, tensors: &[String]) -> bool {
    let has = |name: &str| tensors.iter().any(|n| n == name);
    config.get("model_type").and_then(Value::as_str) == Some("compressive-transformer")
        || tensors
            .iter()
            .any(|n| n.starts_with("compressive_transformer/transformer_tower/"))
        || has("attn_layers.0.fn.fn.compress_mem_fn.conv.weight")
}

/// The length of a chunk that an input asks for, at most the model's.
fn chunk_size(inputs: &NamedTensors, most: usize) -> Result<usize> {
    match inputs
        .get("chunk_size")
        .and_then(|d| d.iter::<i64>().next())
    {
        Some(n) if n > 0 => Ok((n as usize).min(most)),
        Some(n) => Err(Error::value("input `chunk_size`", n, "at least 1")),
        None => Ok(most),
    }
}

/// Refuses inputs that are not known, and gives the one that is needed.
fn only<'a>(inputs: &'a NamedTensors, name: &str, shape: &str) -> Result<&'a TensorData> {
    if let Some(other) = inputs.keys().find(|n| *n != name && *n != "chunk_size") {
        return Err(Error::value(
            format!("input `{other}`"),
            "unknown",
            format!("`{name}`, and optionally `chunk_size`"),
        ));
    }
    let data = inputs.get(name);
    data.ok_or_else(|| Error::value(format!("input `{name}`"), "absent", shape.to_owned()))
}

impl<M: MemoryModel> Pretrained for Folder<M> {
    /// Input `tokens` `[batch, length]`; optional `chunk_size` `[1]`.
    ///
    /// Outputs per chunk `s`: `logprob.s` `[batch, chunk, vocab]`, and where the next token is known `nll.s` `[batch, chunk]` and
    /// `ce.s` `[1]`, in nats.
    fn forward(&mut self, inputs: NamedTensors) -> Result<NamedTensors> {
        let data = only(&inputs, "tokens", "token ids [batch, length]")?;
        let &[batch, length] = &data.shape()[..] else {
            let found = format!("of shape {:?}", data.shape());
            return Err(Error::value("input `tokens`", found, "[batch, length]"));
        };
        if batch * length == 0 {
            return Err(Error::value(
                "input `tokens`",
                "empty",
                "at least one token",
            ));
        }
        let vocab = M::vocab_size(self.model.settings()).unwrap_or(0);
        let ids: Vec<i64> = data.iter::<i64>().collect();
        if let Some(bad) = ids.iter().find(|id| **id < 0 || **id >= vocab as i64) {
            let expected = format!("ids in 0..{vocab}");
            return Err(Error::value(
                "input `tokens`",
                format!("an id of {bad}"),
                expected,
            ));
        }
        let size = chunk_size(&inputs, self.model.chunk_size())?;
        let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let all = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, length]), &self.device);
        let mut state = self
            .model
            .start(batch, self.model.sizes(), true)
            .map_err(Error::other)?;
        let mut out = NamedTensors::new();
        for (s, start) in (0..length).step_by(size).enumerate() {
            let n = size.min(length - start);
            let chunk = all.clone().narrow(1, start, n);
            let output = self
                .model
                .read(chunk, None, state, Mode::evaluation(), &mut |_| {})
                .map_err(Error::other)?;
            state = output.state;
            let scores = self.model.log_probabilities(output.hidden.clone());
            out.insert(format!("logprob.{s}"), scores.into_data());
            let known = n.min(length - start - 1);
            if known > 0 {
                let targets = all.clone().narrow(1, start + 1, known);
                let nll = self
                    .model
                    .nll(output.hidden.narrow(1, 0, known), targets)
                    .map_err(Error::other)?;
                out.insert(format!("ce.{s}"), nll.clone().mean().into_data());
                out.insert(format!("nll.{s}"), nll.into_data());
            }
        }
        Ok(out)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        save_pretrained(&self.model, dir).map_err(Error::other)?;
        if let Some(vocabulary) = &self.vocabulary {
            pretrained::write_atomic(&dir.join(VOCAB_FILE), vocabulary.to_json().as_bytes())?;
        }
        Ok(())
    }

    fn describe(&self) -> Vec<(String, String)> {
        let mut all = described(&self.model);
        let vocabulary = match &self.vocabulary {
            Some(v) => format!("{} tokens", v.len()),
            None => "none beside the weights: ids in, ids out".to_owned(),
        };
        all.push(("vocabulary".to_owned(), vocabulary));
        all
    }

    fn generator(&mut self) -> Option<&mut dyn Generate> {
        let vocabulary = self.vocabulary.clone()?;
        // A model that was built has memories it can have.
        let reader = MemoryReader::new(self.model.clone(), self.device.clone()).ok()?;
        let generator = TextGenerator::new(reader, vocabulary);
        Some(self.generator.insert(generator))
    }
}

fn described<M: MemoryModel>(model: &M) -> Vec<(String, String)> {
    let mut all = vec![
        (
            "architecture".to_owned(),
            "compressive-transformer".to_owned(),
        ),
        ("parameters".to_owned(), model.num_params().to_string()),
    ];
    all.extend(M::facts(model.settings()));
    all
}

/// A model of dense inputs, as the released code has it.
struct DenseFolder {
    model: CompressiveTransformer,
    device: Device,
}

impl Pretrained for DenseFolder {
    /// Input `x` `[batch, length, input_dim]`; optional `chunk_size` `[1]`.
    ///
    /// Outputs per chunk `k` and layer `i`: `out.k` `[batch, chunk, width]`, `memory.k.i` and `compressed_memory.k.i`.
    fn forward(&mut self, inputs: NamedTensors) -> Result<NamedTensors> {
        let data = only(&inputs, "x", "dense rows [batch, length, input_dim]")?;
        let &[batch, length, _] = &data.shape()[..] else {
            let found = format!("of shape {:?}", data.shape());
            return Err(Error::value(
                "input `x`",
                found,
                "[batch, length, input_dim]",
            ));
        };
        if batch * length == 0 {
            return Err(Error::value("input `x`", "empty", "at least one row"));
        }
        let size = chunk_size(&inputs, self.model.config().chunk_size)?;
        let x = Tensor::<3>::from_data(data.clone().convert::<f32>(), &self.device);
        let wrong = |e: Wrong| Error::other(e);
        let sizes = self.model.memory_sizes();
        let mut state = self.model.state(batch, sizes, false).map_err(wrong)?;
        let mut out = NamedTensors::new();
        for (k, start) in (0..length).step_by(size).enumerate() {
            let rows = x.clone().narrow(1, start, size.min(length - start));
            let output = self
                .model
                .forward_dense(rows, state, Mode::evaluation(), &mut |_| {})
                .map_err(wrong)?;
            out.insert(format!("out.{k}"), output.hidden.into_data());
            for (i, layer) in output.state.layers.iter().enumerate() {
                for (name, fifo) in [
                    ("memory", &layer.episodic),
                    ("compressed_memory", &layer.compressed),
                ] {
                    if let Some(rows) = fifo.rows() {
                        out.insert(format!("{name}.{k}.{i}"), rows.into_data());
                    }
                }
            }
            state = output.state;
        }
        Ok(out)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        save_pretrained(&self.model, dir).map_err(Error::other)
    }

    fn describe(&self) -> Vec<(String, String)> {
        described(&self.model)
    }
}
