//! Model folders and published checkpoints, as the tools use them.

use crate::assignments::{Clusters, Spelling, tensors};
use crate::config::RoutingTransformerConfig;
use crate::generate::{TextGenerator, TextReader};
use crate::layers::Mode;
use crate::lm::{RoutingTransformerLM, cross_entropy, cross_entropy_of_bytes};
use crate::paper::PaperTransformer;
use crate::picture_experiment::PictureSampler;
use crate::subwords::SubwordGenerator;
use crate::task::model_ids;
use burn::module::Module;
use burn::prelude::*;
use datasets::{SubwordsT2t, Vocabulary};
use pretrained::NamedTensors;
use serde_json::Value;
use std::path::Path;
use trainer::{Conversion, Error, Generate, Predict, Pretrained, Result, Sample, Sampling};

/// The file beside the weights that says which id is which token.
pub const VOCAB_FILE: &str = "vocab.json";

/// How the name of a sub-word vocabulary of Tensor2Tensor ends, and under which one it is saved.
const SUBWORDS: &str = ".subwords";
const SUBWORDS_FILE: &str = "vocab.subwords";

/// Which id is which token.
#[derive(Clone)]
enum Spelled {
    /// The model's id 0 is padding, and the token t of the vocabulary is its id t + 1.
    Tokens(Vocabulary),
    /// The ids are the model's; with the file's text.
    Subwords(SubwordsT2t, String),
}

/// A trained model with the vocabulary it was trained on, where there is one.
pub struct Folder {
    model: RoutingTransformerLM,
    vocabulary: Option<Spelled>,
    generator: Option<Box<dyn Generate>>,
    clusters: Option<Clusters<Spelled>>,
    sampler: Option<PictureSampler>,
    device: Device,
}

impl Folder {
    /// Opens a model folder.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let model = RoutingTransformerLM::from_pretrained(dir, device).map_err(Error::other)?;
        let file = [VOCAB_FILE, SUBWORDS_FILE].map(|name| dir.join(name));
        let file = file.into_iter().find(|file| file.exists());
        let vocabulary = file.map(|file| spelled(&file, &model));
        Ok(Self::new(model, vocabulary.transpose()?, device))
    }

    fn new(model: RoutingTransformerLM, vocabulary: Option<Spelled>, device: &Device) -> Self {
        Self {
            model,
            vocabulary,
            generator: None,
            clusters: None,
            sampler: None,
            device: device.clone(),
        }
    }

    /// Reads a checkpoint under its upstream names: the package's torch file, or the released weights exported to
    /// safetensors. The configuration must be given.
    ///
    /// # Errors
    /// Files that are missing or do not fit, and TensorFlow's own checkpoint files.
    pub fn convert(from: &Conversion, device: &Device) -> Result<Self> {
        from.without_head()?;
        let name = from.checkpoint.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        if name.ends_with(".index") || name.ends_with(".meta") || name.contains(".data-0") {
            return Err(Error::Unsupported {
                what: format!("a TensorFlow checkpoint bundle ({name})"),
                remedy: "export its variables to safetensors with the Python snippet on the page of this architecture, then convert that file".to_owned(),
            });
        }
        let Some(file) = &from.config else {
            return Err(Error::value(
                "--config",
                "absent",
                "a JSON file with the model's keys: the tensors do not tell windows, flavor and norms",
            ));
        };
        let given: Value = pretrained::read_json(file)?;
        // A recipe holds the configuration in its section `model`.
        let given = match given.get("model") {
            Some(model @ Value::Object(_)) => model.clone(),
            _ => given,
        };
        let config = RoutingTransformerConfig::from_value(given, file, "").map_err(Error::other)?;
        let mut tensors = pretrained::read_tensors(&from.checkpoint)?;
        tensors.retain(|name, _| !from.ignore.iter().any(|rule| matches(rule, name)));
        let model = RoutingTransformerLM::from_tensors(&config, tensors, &from.checkpoint, device)
            .map_err(Error::other)?;
        let vocabulary = from.vocab.as_ref().map(|file| spelled(file, &model));
        Ok(Self::new(model, vocabulary.transpose()?, device))
    }
}

fn spelled(file: &Path, model: &RoutingTransformerLM) -> Result<Spelled> {
    let ids = model.config().vocab().unwrap_or(0);
    let refuse = |len: usize, expected: String| {
        let found = format!("{len} tokens");
        Err(Error::value(file.display().to_string(), found, expected))
    };
    if file.to_string_lossy().ends_with(SUBWORDS) {
        let text = std::fs::read_to_string(file).map_err(|e| {
            let expected = "a sub-word vocabulary of Tensor2Tensor";
            Error::value(file.display().to_string(), e, expected)
        })?;
        let name = file.display().to_string();
        let vocabulary = SubwordsT2t::from_lines(&text, &name).map_err(Error::other)?;
        return match vocabulary.len() > ids {
            true => refuse(vocabulary.len(), format!("at most the model's {ids} ids")),
            false => Ok(Spelled::Subwords(vocabulary, text)),
        };
    }
    let vocabulary = Vocabulary::from_file(file).map_err(Error::other)?;
    match vocabulary.len() >= ids {
        true => refuse(
            vocabulary.len(),
            format!("fewer than the model's {ids} ids, of which 0 is padding"),
        ),
        false => Ok(Spelled::Tokens(vocabulary)),
    }
}

impl Spelling for Spelled {
    fn ids(&self, text: &str) -> Result<Vec<i32>> {
        Ok(match self {
            Self::Tokens(v) => model_ids(&v.encode_prompt(text).map_err(Error::other)?),
            Self::Subwords(v, _) => v.encode(text).iter().map(|id| *id as i32).collect(),
        })
    }

    fn token(&self, id: i32) -> Result<String> {
        let id = id as u32;
        match self {
            Self::Tokens(v) if (id as usize) > v.len() => Ok("<mask>".to_owned()),
            Self::Tokens(v) => v.decode(&[id - 1]).map_err(Error::other),
            Self::Subwords(v, _) => v.decode(&[id]).map_err(Error::other),
        }
    }
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => rule == name,
    }
}

/// Whether a folder with this configuration and these tensors is one of this architecture.
pub(crate) fn claims(config: &Value, tensors: &[String]) -> bool {
    let any = |part: &str| tensors.iter().any(|n| n.replace('.', "/").contains(part));
    config.get("model_type").and_then(Value::as_str) == Some("routing-transformer")
        || any("decoder_layer_0/self_attention/self_attention/attention_nd")
        || any("routing_transformer/layers/layers/0")
        || any("routing_transformer/fn/layers/layers/0")
}

impl Pretrained for Folder {
    /// Input `targets` (the authors' flavor) or `tokens` (the package's) `[batch, length]`, ids of the model; for the package's
    /// flavor optionally `mask` `[batch, length]`, not 0 where there is a token.
    ///
    /// Outputs: `logits` `[batch, length, vocab]`, `ce_loss` `[1]` (the authors' flavor, which foretells its input),
    /// `extra_loss` `[1]`, and for every routed layer `assignment.LAYER` `[batch, heads, length]`, the nearest centroid of
    /// each position, and `members.LAYER` `[batch, heads, clusters, members]`, the positions of each cluster.
    fn forward(&mut self, inputs: NamedTensors) -> Result<NamedTensors> {
        let paper = matches!(self.model, RoutingTransformerLM::Paper(_));
        let (name, known): (&str, &[&str]) = match paper {
            true => ("targets", &["targets"]),
            false => ("tokens", &["tokens", "mask"]),
        };
        for given in inputs.keys() {
            if !known.contains(&given.as_str()) {
                let expected = format!("one of: {}", known.join(", "));
                return Err(Error::value(
                    format!("input `{given}`"),
                    "unknown",
                    expected,
                ));
            }
        }
        let rows = |name: &str, data: &burn::tensor::TensorData| match data.shape()[..] {
            [batch, length] if batch * length > 0 => Ok([batch, length]),
            _ => Err(Error::value(
                format!("input `{name}`"),
                format!("of shape {:?}", data.shape()),
                "[batch, length] with at least one token",
            )),
        };
        let data = inputs.get(name).ok_or_else(|| {
            Error::value(
                format!("input `{name}`"),
                "absent",
                "token ids [batch, length]",
            )
        })?;
        let shape = rows(name, data)?;
        let vocab = self.model.config().vocab().unwrap_or(0) as i64;
        let ids: Vec<i64> = data.iter::<i64>().collect();
        if let Some(bad) = ids.iter().find(|id| !(0..vocab).contains(*id)) {
            let expected = format!("ids in 0..{vocab}");
            let found = format!("an id of {bad}");
            return Err(Error::value(format!("input `{name}`"), found, expected));
        }
        let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &self.device);
        let mut out = NamedTensors::new();
        let mode = Mode::evaluation();
        let output = match &self.model {
            RoutingTransformerLM::Paper(model) => {
                let read = match model.config().causal {
                    true => PaperTransformer::shifted(ids.clone()),
                    false => ids.clone(),
                };
                let output = model.forward(read, mode).map_err(Error::other)?;
                let logits = output.logits.clone();
                let ce = match model.config().frame() {
                    Some(_) => cross_entropy_of_bytes(logits, ids),
                    None => cross_entropy(logits, ids).map(|(ce, _)| ce),
                };
                let ce = ce.map_err(Error::other)?;
                out.insert("ce_loss".into(), ce.into_data());
                output
            }
            RoutingTransformerLM::Lucidrains(model) => {
                let mask = match inputs.get("mask") {
                    Some(mask) => {
                        let shape = rows("mask", mask)?;
                        let marks: Vec<bool> = mask.iter::<f32>().map(|m| m != 0.0).collect();
                        Some(Tensor::from_data(
                            TensorData::new(marks, shape),
                            &self.device,
                        ))
                    }
                    None => None,
                };
                model.forward(ids, mask, mode).map_err(Error::other)?
            }
        };
        out.extend(tensors(&output));
        out.insert("logits".into(), output.logits.into_data());
        out.insert("extra_loss".into(), output.clustering_loss.into_data());
        Ok(out)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.model.save_pretrained(dir).map_err(Error::other)?;
        let (name, text) = match &self.vocabulary {
            Some(Spelled::Tokens(v)) => (VOCAB_FILE, v.to_json()),
            Some(Spelled::Subwords(_, text)) => (SUBWORDS_FILE, text.clone()),
            None => return Ok(()),
        };
        Ok(pretrained::write_atomic(&dir.join(name), text.as_bytes())?)
    }

    fn describe(&self) -> Vec<(String, String)> {
        let config = self.model.config();
        let vocabulary = match &self.vocabulary {
            Some(Spelled::Tokens(v)) => format!("{} tokens", v.len()),
            Some(Spelled::Subwords(v, _)) => format!("{} sub-words of Tensor2Tensor", v.len()),
            None => "none beside the weights: ids in, ids out".to_owned(),
        };
        [
            ("architecture", "routing-transformer".to_owned()),
            ("parameters", self.model.num_params().to_string()),
            ("model", config.summary()),
            ("vocabulary", vocabulary),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    fn generator(&mut self) -> Option<&mut dyn Generate> {
        let config = self.model.config();
        let texts = config.causal() && config.frame().is_none();
        let vocabulary = self.vocabulary.clone().filter(|_| texts)?;
        // The authors' model does not say how long its texts are; clusters times members usually is it.
        let window = match &config {
            RoutingTransformerConfig::Lucidrains(c) => c.max_seq_len / c.pad_to() * c.pad_to(),
            RoutingTransformerConfig::Paper(c) => {
                let routed = c.sparsity_cluster_size * c.sparsity_cluster_attention_window;
                let local = c.num_decoder_layers * (c.block() + c.blocks_back() * c.block());
                if c.routes() { routed } else { local }
            }
        };
        let reader = TextReader::new(self.model.clone(), window, self.device.clone());
        let generator: Box<dyn Generate> = match vocabulary {
            Spelled::Tokens(vocabulary) => Box::new(TextGenerator::new(reader, vocabulary)),
            Spelled::Subwords(vocabulary, _) => Box::new(SubwordGenerator { reader, vocabulary }),
        };
        Some(self.generator.insert(generator).as_mut())
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        let clusters = Clusters {
            model: self.model.clone(),
            spelling: self.vocabulary.clone(),
            device: self.device.clone(),
        };
        Some(self.clusters.insert(clusters))
    }
    fn sampler(&mut self) -> Option<&mut dyn Sample> {
        let frame = self.model.config().frame()?;
        let sampler = PictureSampler {
            model: self.model.clone(),
            frame,
            options: Sampling {
                temperature: 1.0,
                ..Sampling::default()
            },
            device: self.device.clone(),
        };
        Some(self.sampler.insert(sampler))
    }
}
