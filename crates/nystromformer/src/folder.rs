//! Model folders and published checkpoints, as the tools use them.

use crate::answer::{answering, fitted};
use crate::heads::{
    NystromformerForMaskedLm, NystromformerForMultipleChoice, NystromformerForQuestionAnswering,
    NystromformerForSequenceClassification, NystromformerForTokenClassification, Task,
};
use crate::layout::Checkpoint;
use crate::lra::{LraClassifier, LraConfig, LraDualClassifier};
use crate::model::NystromformerModel;
use crate::names;
use crate::pretraining::NystromformerForPreTraining;
use crate::tasks;
use crate::weights::CONFIG_FILE;
use crate::{NystromformerConfig, from_tensors, save_pretrained};
use bert::{
    BertTokenizer, EncoderInput, Form, Mode, Pooling, Scores, names_class, normalise, pool,
    tokenizer_files,
};
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::NamedTensors;
use serde_json::Value;
use std::path::Path;
use trainer::{Conversion, Error, Predict, Pretrained, Result};

/// A model of any class of this crate that a folder may hold.
enum Model {
    Base(NystromformerModel),
    MaskedLm(NystromformerForMaskedLm),
    Sequence(NystromformerForSequenceClassification),
    Token(NystromformerForTokenClassification),
    Question(NystromformerForQuestionAnswering),
    Choice(NystromformerForMultipleChoice),
    Lra(LraClassifier),
    LraDual(LraDualClassifier),
    PreTraining(NystromformerForPreTraining),
}

/// A model folder.
pub struct Folder {
    model: Model,
    notes: Vec<(String, String)>,
    /// The tokenizer's files, which travel with the weights.
    files: Vec<(&'static str, Vec<u8>)>,
    /// Why there is no tokenizer, where there is none.
    tokenizer: std::result::Result<BertTokenizer, String>,
}

/// Whether a folder with this configuration and these tensors is one of this architecture.
pub(crate) fn claims(config: &Value, tensors: &[String]) -> bool {
    let kind = config.get("model_type").and_then(Value::as_str);
    matches!(
        kind,
        Some("nystromformer" | "nystromformer-lra" | "efficient_attention")
    ) || tensors.iter().any(|name| name.contains("nystromformer."))
        || names::is_official(tensors.iter().map(String::as_str))
}

fn is_lra(tensors: &NamedTensors) -> bool {
    tensors.keys().any(|name| name.contains("seq_classifer."))
}

impl Folder {
    /// Opens a model folder; one of the official pre-training code keeps both its heads.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let config: Value = pretrained::read_json(&dir.join(CONFIG_FILE))?;
        if config.get("model_type").and_then(Value::as_str) == Some("efficient_attention") {
            let model = NystromformerForPreTraining::from_pretrained(dir, device);
            return Ok(Self {
                model: Model::PreTraining(model.map_err(Error::other)?),
                notes: vec![],
                files: tokenizer_files(dir).map_err(Error::other)?,
                tokenizer: BertTokenizer::from_folder(dir).map_err(|e| e.to_string()),
            });
        }
        let from = Conversion {
            checkpoint: dir.to_path_buf(),
            ..Conversion::default()
        };
        Self::convert(&from, device)
    }

    /// Reads a checkpoint: a folder or file of Hugging Face's layout, of the official LRA code, of the official pre-training
    /// code, which becomes Hugging Face's, or of BERT, which becomes a model in full mode.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn convert(from: &Conversion, device: &Device) -> Result<Self> {
        let mut folder = Self::without_tokenizer(from, device)?;
        let dir = match from.checkpoint.is_dir() {
            true => from.checkpoint.as_path(),
            false => from.checkpoint.parent().unwrap_or(Path::new("")),
        };
        folder.files = tokenizer_files(dir).map_err(Error::other)?;
        folder.tokenizer = BertTokenizer::from_folder(dir).map_err(|e| e.to_string());
        Ok(folder)
    }

    fn without_tokenizer(from: &Conversion, device: &Device) -> Result<Self> {
        let file = match from.checkpoint.is_dir() {
            true => pretrained::weights_file(&from.checkpoint)?,
            false => from.checkpoint.clone(),
        };
        let mut tensors = pretrained::read_tensors(&file)?;
        tensors.retain(|name, _| !from.ignore.iter().any(|rule| matches(rule, name)));
        let config_file = from
            .config
            .clone()
            .unwrap_or_else(|| match from.checkpoint.is_dir() {
                true => from.checkpoint.join(CONFIG_FILE),
                false => from.checkpoint.with_file_name(CONFIG_FILE),
            });
        let mut config: Value = pretrained::read_json(&config_file)?;
        // A recipe holds the configuration in its section `model`.
        if let Some(model @ Value::Object(_)) = config.get("model") {
            config = model.clone();
        }
        if is_lra(&tensors) {
            from.without_head()?;
            return Self::lra(config, tensors, &config_file, &file, device);
        }
        let found = Checkpoint::new(config, tensors, &config_file, &file).map_err(Error::other)?;
        let notes = vec![("left aside".to_owned(), found.left_aside.join(", "))];
        let (config, tensors, head) = (found.config, found.tensors, from.head.as_deref());
        Self::hugging_face(&config, tensors, &file, head, notes, device)
    }

    fn lra(
        config: Value,
        tensors: NamedTensors,
        config_file: &Path,
        file: &Path,
        device: &Device,
    ) -> Result<Self> {
        let config: LraConfig = pretrained::parse_value(config, config_file, "")?;
        let inputs = tensors
            .iter()
            .find(|(name, _)| name.ends_with("seq_classifer.mlpblock.0.weight"))
            .and_then(|(_, data)| data.shape().get(1).copied());
        let model = match inputs == Some(4 * config.transformer_dim) {
            true => {
                LraDualClassifier::from_tensors(&config, tensors, file, device).map(Model::LraDual)
            }
            false => LraClassifier::from_tensors(&config, tensors, file, device).map(Model::Lra),
        };
        Ok(Self {
            model: model.map_err(Error::other)?,
            notes: vec![],
            files: vec![],
            tokenizer: Err("LRA's classifiers read ids, not words".into()),
        })
    }

    fn hugging_face(
        config: &NystromformerConfig,
        tensors: NamedTensors,
        file: &Path,
        head: Option<&str>,
        mut notes: Vec<(String, String)>,
        device: &Device,
    ) -> Result<Self> {
        const CLASSES: [&str; 6] = [
            NystromformerModel::CLASS,
            NystromformerForMaskedLm::CLASS,
            NystromformerForSequenceClassification::CLASS,
            NystromformerForTokenClassification::CLASS,
            NystromformerForQuestionAnswering::CLASS,
            NystromformerForMultipleChoice::CLASS,
        ];
        let has = |part: &str| tensors.keys().any(|name| name.contains(part));
        let named = match head {
            Some(head) => {
                let class = CLASSES.iter().find(|class| names_class(head, class));
                let class = class.ok_or_else(|| {
                    let expected = "masked-lm, sequence-classification, token-classification, question-answering, multiple-choice or model";
                    Error::value("the head", format!("{head:?}"), expected)
                })?;
                Some((*class).to_owned())
            }
            None => config
                .architectures
                .as_ref()
                .and_then(|all| all.first().cloned()),
        };
        // Where no class is named, the tensors tell.
        let class = named.unwrap_or_else(|| {
            let class = match () {
                () if has("cls.predictions.") => "NystromformerForMaskedLM",
                () if has("qa_outputs.") => "NystromformerForQuestionAnswering",
                () if has("pre_classifier.") => "NystromformerForMultipleChoice",
                () if has("classifier.out_proj.") => "NystromformerForSequenceClassification",
                () if has("classifier.") => "NystromformerForTokenClassification",
                () => "NystromformerModel",
            };
            class.to_owned()
        });
        fn load<T: Task>(
            config: &NystromformerConfig,
            tensors: NamedTensors,
            file: &Path,
            device: &Device,
            notes: &mut Vec<(String, String)>,
        ) -> Result<T> {
            let loaded = from_tensors::<T>(config, tensors, file, true, Key::new(0), device);
            let (model, found) = loaded.map_err(Error::other)?;
            if !found.unused.is_empty() {
                notes.push(("unused tensors".into(), found.unused.join(", ")));
            }
            Ok(model)
        }
        let n = &mut notes;
        let model = match class.as_str() {
            "NystromformerModel" => Model::Base(load(config, tensors, file, device, n)?),
            "NystromformerForMaskedLM" => Model::MaskedLm(load(config, tensors, file, device, n)?),
            "NystromformerForSequenceClassification" => {
                Model::Sequence(load(config, tensors, file, device, n)?)
            }
            "NystromformerForTokenClassification" => {
                Model::Token(load(config, tensors, file, device, n)?)
            }
            "NystromformerForQuestionAnswering" => {
                Model::Question(load(config, tensors, file, device, n)?)
            }
            "NystromformerForMultipleChoice" => {
                Model::Choice(load(config, tensors, file, device, n)?)
            }
            other => {
                let expected = "NystromformerModel, NystromformerForMaskedLM, …ForSequenceClassification, …ForTokenClassification, …ForQuestionAnswering or …ForMultipleChoice";
                return Err(Error::value(
                    "architectures",
                    format!("{other:?}"),
                    expected,
                ));
            }
        };
        Ok(Self {
            model,
            notes,
            files: vec![],
            tokenizer: Err("no tokenizer was read".into()),
        })
    }

    fn config(&self) -> Option<&NystromformerConfig> {
        Some(match &self.model {
            Model::Base(m) => m.config(),
            Model::MaskedLm(m) => m.body().config(),
            Model::Sequence(m) => m.body().config(),
            Model::Token(m) => m.body().config(),
            Model::Question(m) => m.body().config(),
            Model::Choice(m) => m.body().config(),
            Model::Lra(_) | Model::LraDual(_) | Model::PreTraining(_) => return None,
        })
    }
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => rule == name,
    }
}

/// An LRA sequence by the golden's names: `input_ids_T`, and `mask_T` where padding is not id 0.
fn tower(inputs: &NamedTensors, t: usize) -> Result<EncoderInput> {
    let mut named = NamedTensors::new();
    let ids = format!("input_ids_{t}");
    let data = inputs
        .get(&ids)
        .or_else(|| inputs.get("input_ids").filter(|_| t == 0));
    let data = data.ok_or_else(|| {
        Error::value(
            format!("input `{ids}`"),
            "absent",
            "token ids [batch, length]",
        )
    })?;
    named.insert("input_ids".into(), data.clone());
    let mask = inputs
        .get(&format!("mask_{t}"))
        .cloned()
        .unwrap_or_else(|| {
            let kept: Vec<i64> = data.iter::<i64>().map(|id| i64::from(id != 0)).collect();
            TensorData::new(kept, data.shape().clone())
        });
    named.insert("attention_mask".into(), mask);
    EncoderInput::from_named(&named).map_err(Error::other)
}

impl Pretrained for Folder {
    /// Hugging Face's classes: `input_ids`, optionally `attention_mask`, `token_type_ids`, `position_ids`; multiple choice
    /// `[batch, choices, length]`. Outputs `last_hidden_state`, and `logits` or `start_logits` and `end_logits`.
    ///
    /// LRA: `input_ids_0` (and `input_ids_1`), optionally `mask_0` and `mask_1`; output `scores`.
    fn forward(&mut self, mut inputs: NamedTensors) -> Result<NamedTensors> {
        let mode = Mode::evaluation();
        let mut out = NamedTensors::new();
        let scores = match &self.model {
            Model::Lra(m) => Some(
                m.forward(&tower(&inputs, 0)?, mode)
                    .map_err(Error::other)?
                    .0,
            ),
            Model::LraDual(m) => {
                let [a, b] = [tower(&inputs, 0)?, tower(&inputs, 1)?];
                Some(m.forward([&a, &b], mode).map_err(Error::other)?.0)
            }
            _ => None,
        };
        if let Some(scores) = scores {
            out.insert("scores".into(), scores.into_data());
            return Ok(out);
        }
        if let Model::PreTraining(m) = &self.model {
            let input = EncoderInput::from_named(&inputs).map_err(Error::other)?;
            let (states, words, order) = m.scores(&input, mode).map_err(Error::other)?;
            for (name, data) in [
                ("last_hidden_state", states.into_data()),
                ("prediction_logits", words.into_data()),
                ("seq_relationship_logits", order.into_data()),
            ] {
                out.insert(name.into(), data);
            }
            return Ok(out);
        }
        let mut choices = 1;
        if let Model::Choice(_) = &self.model {
            for data in inputs.values_mut() {
                if let &[batch, c, length] = &data.shape()[..] {
                    choices = c;
                    let values: Vec<i64> = data.iter::<i64>().collect();
                    *data = TensorData::new(values, [batch * c, length]);
                }
            }
        }
        let input = EncoderInput::from_named(&inputs).map_err(Error::other)?;
        let hidden = |body: &NystromformerModel| body.forward(&input, mode).map_err(Error::other);
        let (hidden, logits) = match &self.model {
            Model::Base(m) => (hidden(m)?, None),
            Model::MaskedLm(m) => {
                let hidden = hidden(m.body())?;
                (hidden.clone(), Some(m.scores(hidden).into_data()))
            }
            Model::Sequence(m) => {
                let hidden = hidden(m.body())?;
                let scores = m.scores(hidden.clone(), mode).map_err(Error::other)?;
                (hidden, Some(scores.into_data()))
            }
            Model::Token(m) => {
                let hidden = hidden(m.body())?;
                let scores = m.scores(hidden.clone(), mode).map_err(Error::other)?;
                (hidden, Some(scores.into_data()))
            }
            Model::Choice(m) => {
                let hidden = hidden(m.body())?;
                let scores = m.scores(hidden.clone(), choices).map_err(Error::other)?;
                (hidden, Some(scores.into_data()))
            }
            Model::Question(m) => {
                let hidden = hidden(m.body())?;
                let (start, end) = m.scores(hidden.clone());
                out.insert("start_logits".into(), start.into_data());
                out.insert("end_logits".into(), end.into_data());
                (hidden, None)
            }
            // Answered above.
            Model::Lra(_) | Model::LraDual(_) | Model::PreTraining(_) => return Ok(out),
        };
        out.insert("last_hidden_state".into(), hidden.into_data());
        if let Some(logits) = logits {
            out.insert("logits".into(), logits);
        }
        Ok(out)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        match &self.model {
            Model::Base(m) => save_pretrained(m, dir),
            Model::MaskedLm(m) => save_pretrained(m, dir),
            Model::Sequence(m) => save_pretrained(m, dir),
            Model::Token(m) => save_pretrained(m, dir),
            Model::Question(m) => save_pretrained(m, dir),
            Model::Choice(m) => save_pretrained(m, dir),
            Model::Lra(m) => m.save_pretrained(dir),
            Model::LraDual(m) => m.save_pretrained(dir),
            Model::PreTraining(m) => m.save_pretrained(dir),
        }
        .map_err(Error::other)?;
        for (name, bytes) in &self.files {
            pretrained::write_atomic(&dir.join(name), bytes)?;
        }
        Ok(())
    }

    fn predictor(&mut self) -> Option<&mut dyn Predict> {
        Some(self)
    }

    fn describe(&self) -> Vec<(String, String)> {
        let (class, parameters) = match &self.model {
            Model::Base(m) => (NystromformerModel::CLASS, m.num_params()),
            Model::MaskedLm(m) => (NystromformerForMaskedLm::CLASS, m.num_params()),
            Model::Sequence(m) => (
                NystromformerForSequenceClassification::CLASS,
                m.num_params(),
            ),
            Model::Token(m) => (NystromformerForTokenClassification::CLASS, m.num_params()),
            Model::Question(m) => (NystromformerForQuestionAnswering::CLASS, m.num_params()),
            Model::Choice(m) => (NystromformerForMultipleChoice::CLASS, m.num_params()),
            Model::Lra(m) => ("LRA classifier", m.num_params()),
            Model::LraDual(m) => ("LRA classifier of pairs", m.num_params()),
            Model::PreTraining(m) => ("the official pre-training model", m.num_params()),
        };
        let mut all = vec![
            ("architecture".to_owned(), "nystromformer".to_owned()),
            ("class".to_owned(), class.to_owned()),
            ("parameters".to_owned(), parameters.to_string()),
        ];
        if let Some(c) = self.config() {
            let full = c.landmark_policy == crate::LandmarkPolicy::Strict
                && c.num_landmarks == c.segment_means_seq_len;
            let attention = match full {
                true => "full (num_landmarks equals segment_means_seq_len)".to_owned(),
                false => format!("{} landmarks, {:?}", c.num_landmarks, c.landmark_policy),
            };
            all.push(("attention".into(), attention));
            all.push(("layers".into(), c.num_hidden_layers.to_string()));
        }
        all.extend(
            self.notes
                .iter()
                .filter(|(_, text)| !text.is_empty())
                .cloned(),
        );
        all
    }
}

/// A batch to what the model says about it.
type Scoring<'a> = &'a dyn Fn(&EncoderInput) -> bert::Result<Scores>;

impl Predict for Folder {
    /// Texts in, answers out: see [`bert::Answering`]. The LRA classifiers take `{"input_ids": [ids]}`, those of pairs two lists.
    fn predict(&mut self, input: &Value) -> Result<Value> {
        match &self.model {
            Model::Lra(m) => return tasks::lra_answer(m, input, &[]),
            Model::LraDual(m) => return tasks::lra_answer(m, input, &[]),
            _ => {}
        }
        let absent = |reason: &String| Error::value("the model's tokenizer", "absent", reason);
        let tokenizer = self.tokenizer.as_ref().map_err(absent)?;
        if let Model::PreTraining(m) = &self.model {
            return tasks::fill_masks(m, tokenizer, input);
        }
        let Some(config) = self.config() else {
            return Err(Error::value(
                "the model",
                "of another kind",
                "a class of Hugging Face's",
            ));
        };
        let mode = Mode::evaluation();
        let (form, scores): (Form, Scoring<'_>) = match &self.model {
            Model::MaskedLm(m) => (Form::Words, &|batch| {
                m.forward(batch, mode).map(Scores::Words)
            }),
            Model::Sequence(m) => (Form::Classes, &|batch| {
                m.forward(batch, mode).map(Scores::Classes)
            }),
            Model::Token(m) => (Form::Tokens, &|batch| {
                m.forward(batch, mode).map(Scores::Tokens)
            }),
            Model::Question(m) => (Form::Span, &|batch| {
                m.forward(batch, mode)
                    .map(|(start, end)| Scores::Span(start, end))
            }),
            Model::Choice(m) => (Form::Choices, &|batch| {
                m.forward(batch, batch.batch(), mode).map(Scores::Choices)
            }),
            Model::Base(m) => (Form::Embedding, &|batch| {
                let states = m.forward(batch, mode)?;
                let vector = normalise(pool(states, batch, Pooling::Mean));
                Ok(Scores::Embedding(vector))
            }),
            // Answered above.
            Model::Lra(_) | Model::LraDual(_) | Model::PreTraining(_) => {
                return Err(Error::value(
                    "the model",
                    "of another kind",
                    "a class of Hugging Face's",
                ));
            }
        };
        let mut run = |batch: &EncoderInput| scores(&fitted(config, batch, tokenizer));
        answering(config, tokenizer, form)
            .answer(input, &mut run)
            .map_err(Error::other)
    }
}
