//! Model folders and published checkpoints, as the tools use them.

use crate::exits::{ExitRecord, ExitRule, InferOptions, Thresholds};
use crate::model::DeeBertForSequenceClassification;
use crate::start::longest;
use crate::weights::{HIGHWAY, checkpoint_of};
use bert::{
    Answering, BertTokenizer, CONFIG_FILE, EncoderInput, Form, LoadReport, Mode, Scores,
    TOKENIZER_FILE, VOCAB_FILE, tokenizer_files,
};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::NamedTensors;
use serde_json::{Value, json};
use std::path::Path;
use trainer::{Conversion, Error, Predict, Pretrained, Result};

/// The name of the input that lets samples leave.
const THRESHOLDS: &str = "thresholds";

/// A model with its tokenizer, where there is one.
pub struct Folder {
    model: DeeBertForSequenceClassification,
    /// Why there is no tokenizer, where there is none.
    tokenizer: std::result::Result<BertTokenizer, String>,
    report: LoadReport,
    files: Vec<(&'static str, Vec<u8>)>,
}

/// Whether a folder with these tensors has off-ramps.
pub(crate) fn claims(_config: &Value, tensors: &[String]) -> bool {
    tensors.iter().any(|name| name.contains(HIGHWAY))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|source| Error::Io {
        action: "read",
        path: file.into(),
        source,
    })
}

impl Folder {
    /// Opens a model folder.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let from = Conversion {
            checkpoint: dir.to_path_buf(),
            ..Conversion::default()
        };
        Self::convert(&from, device)
    }

    /// Reads a published checkpoint: a folder, or a weights file with its `config.json`. A plain classifier gets new off-ramps.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn convert(from: &Conversion, device: &Device) -> Result<Self> {
        from.without_head()?;
        let (dir, file) = match from.checkpoint.is_file() {
            true => (
                from.checkpoint.parent().unwrap_or(Path::new("")).to_owned(),
                from.checkpoint.clone(),
            ),
            false => {
                let dir = pretrained::model_folder(&from.checkpoint)?;
                let file = pretrained::weights_file(&dir)?;
                (dir, file)
            }
        };
        let config_file = from.config.clone().unwrap_or_else(|| dir.join(CONFIG_FILE));
        let config: Value = pretrained::read_json(&config_file)?;
        let mut tensors = pretrained::read_tensors(&file)?;
        tensors.retain(|name, _| !from.ignore.iter().any(|rule| matches(rule, name)));
        let checkpoint = checkpoint_of(config, &config_file, tensors, &file)?;
        let (model, report) =
            DeeBertForSequenceClassification::from_checkpoint(checkpoint, Key::new(0), device)?;
        let mut folder = Self {
            model,
            tokenizer: BertTokenizer::from_folder(&dir).map_err(|e| e.to_string()),
            report,
            files: tokenizer_files(&dir)?,
        };
        if let Some(vocab) = &from.vocab {
            let json = vocab.extension().is_some_and(|e| e == "json");
            let (name, tokenizer) = match json {
                true => (TOKENIZER_FILE, BertTokenizer::from_json_file(vocab)),
                false => (
                    VOCAB_FILE,
                    BertTokenizer::from_vocab_file(vocab, Default::default()),
                ),
            };
            folder.tokenizer = Ok(tokenizer?);
            folder.files.retain(|(other, _)| *other != name);
            folder.files.push((name, read(vocab)?));
        }
        let rows = folder.model.config().bert.vocab_size;
        match &folder.tokenizer {
            Ok(tokenizer) if tokenizer.vocab_size() > rows => Err(Error::value(
                format!("the vocabulary of {}", dir.display()),
                format!("{} entries", tokenizer.vocab_size()),
                format!(
                    "at most the model's vocab_size = {rows}; the tokenizer belongs to another model"
                ),
            )),
            _ => Ok(folder),
        }
    }

    /// The model.
    pub fn model(&self) -> &DeeBertForSequenceClassification {
        &self.model
    }
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => rule == name,
    }
}

impl Pretrained for Folder {
    /// Inputs by Hugging Face's names, and optionally `thresholds` `[1]` or `[layers]` in nats.
    ///
    /// Outputs: `logits` (the final classifier's), `highway_logits` `[batch, layers, labels]`, `last_hidden_state`,
    /// `pooler_output`; with `thresholds` also `exit_layer` `[batch]`, counted from 1, and `exit_logits` `[batch, labels]`.
    fn forward(&mut self, mut inputs: NamedTensors) -> Result<NamedTensors> {
        const KNOWN: [&str; 5] = [
            "input_ids",
            "attention_mask",
            "token_type_ids",
            "position_ids",
            THRESHOLDS,
        ];
        if let Some(name) = inputs.keys().find(|n| !KNOWN.contains(&n.as_str())) {
            let expected = KNOWN.join(", ");
            return Err(Error::value(format!("input `{name}`"), "unknown", expected));
        }
        let thresholds = inputs.remove(THRESHOLDS);
        let input = EncoderInput::from_named(&inputs)?;
        let all = self.model.forward_all_exits(&input, Mode::evaluation())?;
        let ramps = all.highway.into_iter().map(|ramp| ramp.logits);
        let ramps: Tensor<3> = Tensor::stack(ramps.collect(), 1);
        let mut out = NamedTensors::new();
        let mut say = |name: &str, data: TensorData| drop(out.insert(name.to_owned(), data));
        say("logits", all.logits.into_data());
        say("highway_logits", ramps.into_data());
        say("last_hidden_state", all.last_hidden_state.into_data());
        say("pooler_output", all.pooler_output.into_data());
        if let Some(data) = thresholds {
            let list: Vec<f32> = data.iter::<f32>().collect();
            let thresholds = match list[..] {
                [one] => Thresholds::One(one),
                _ => Thresholds::PerLayer(list),
            };
            let records = self.model.infer(&input, &thresholds)?;
            let layers: Vec<i64> = records.iter().map(|r| r.layer as i64).collect();
            let batch = layers.len();
            say("exit_layer", TensorData::new(layers, [batch]));
            let logits: Vec<f32> = records.into_iter().flat_map(|r| r.logits).collect();
            let labels = logits.len() / batch.max(1);
            say("exit_logits", TensorData::new(logits, [batch, labels]));
        }
        Ok(out)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.model.save_pretrained(dir)?;
        for (name, bytes) in &self.files {
            pretrained::write_atomic(&dir.join(name), bytes)?;
        }
        Ok(())
    }

    fn describe(&self) -> Vec<(String, String)> {
        let c = self.model.config();
        let thresholds = match &c.deebert.thresholds {
            None => "none: no sample leaves early".to_owned(),
            Some(Thresholds::One(threshold)) => format!("{threshold} nats"),
            Some(Thresholds::PerLayer(list)) => format!("{list:?} nats"),
        };
        let pooling = |p| format!("{p:?}").to_lowercase();
        let mut all = vec![
            ("parameters", self.model.num_params().to_string()),
            ("layers", c.layers().to_string()),
            ("heads", c.bert.num_attention_heads.to_string()),
            ("hidden size", c.bert.hidden_size.to_string()),
            ("labels", c.bert.label_names().join(", ")),
            ("off-ramp pooling", pooling(c.deebert.off_ramp_pooling)),
            ("thresholds", thresholds),
            (
                "tokenizer",
                match &self.tokenizer {
                    Ok(t) => format!("{} entries", t.vocab_size()),
                    Err(_) => "none beside the weights: ids in, scores out".into(),
                },
            ),
        ];
        for (what, names) in [
            ("new tensors", &self.report.new),
            ("unused tensors", &self.report.unused),
        ] {
            if !names.is_empty() {
                all.push((what, names.join(", ")));
            }
        }
        let owned = all
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        owned.collect()
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }
}

impl Predict for Folder {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        let tokenizer = self.tokenizer.as_ref();
        let tokenizer = tokenizer
            .map_err(|reason| Error::value("the model's tokenizer", "absent", reason.clone()))?;
        answer(&self.model, tokenizer, input)
    }
}

/// Answers a text, or an object with `text` and optionally `text_pair` and `threshold`; without the last the model's own
/// thresholds count, and without those no sample leaves early. Beside what any classifier says stand `exit_layer` and the
/// `entropies` that were seen.
pub(crate) fn answer(
    model: &DeeBertForSequenceClassification,
    tokenizer: &BertTokenizer,
    input: &Value,
) -> Result<Value> {
    let config = model.config();
    let rule = match (config.check_entropy(), input.get("threshold")) {
        (Err(error), Some(_)) => return Err(error.into()),
        (Err(_), None) => ExitRule::Layer(model.layers()),
        (Ok(()), None | Some(Value::Null)) => {
            let own = config.deebert.thresholds.clone();
            ExitRule::Entropy(own.unwrap_or(Thresholds::One(0.0)))
        }
        (Ok(()), Some(value)) => {
            let read = serde_json::from_value(value.clone());
            ExitRule::Entropy(read.map_err(|_| {
                let expected = "a number in nats, or one for each layer";
                Error::value("input `threshold`", value, expected)
            })?)
        }
    };
    let options = InferOptions::new(rule);
    let device = model.bert.device().without_autodiff();
    let mut left = None;
    let answering = Answering {
        tokenizer,
        form: Form::Classes,
        longest: longest(model),
        segments: config.bert.type_vocab_size,
        labels: config.bert.label_names(),
        problem: config.bert.problem_type,
    };
    let mut said = answering.answer(input, &mut |batch| {
        let records = model.infer_with(batch, &options)?;
        let logits: Vec<f32> = records.iter().flat_map(|r| r.logits.clone()).collect();
        let shape = [1, logits.len()];
        left = records.into_iter().next();
        Ok(Scores::Classes(Tensor::from_data(
            TensorData::new(logits, shape),
            &device,
        )))
    })?;
    if let Some(ExitRecord {
        layer, entropies, ..
    }) = left
    {
        said["exit_layer"] = layer.into();
        said["entropies"] = json!(entropies);
    }
    Ok(said)
}
