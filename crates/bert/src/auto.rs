//! A model folder as what its `architectures` says it is.

use crate::classes::{
    BertForMaskedLm, BertForMultipleChoice, BertForNextSentencePrediction, BertForPreTraining,
    BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
};
use crate::config::{BertConfig, Variant};
use crate::error::{Result, config_error, input_error};
use crate::input::EncoderInput;
use crate::model::{BertModel, BertOutput, EncoderCall};
use crate::weights::{BertClass, Checkpoint, LoadReport, load, save};
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::NamedTensors;
use std::path::Path;

macro_rules! any {
    ($($(#[$doc:meta])* $variant:ident($model:ident)),* $(,)?) => {
        /// A model of any class, chosen when the folder is opened.
        // One value a program: the size of the largest does not matter.
        #[allow(clippy::large_enum_variant)]
        #[derive(Debug, Clone)]
        pub enum AnyBert {
            $($(#[$doc])* $variant($model)),*
        }

        impl AnyBert {
            /// The classes' names without `Bert` or `Roberta`.
            pub const CLASSES: &'static [&'static str] = &[$($model::CLASS),*];

            /// Builds the model of the class with this name, such as `BertForMaskedLM` or `ForMaskedLM`.
            ///
            /// # Errors
            /// A class that is not among [`AnyBert::CLASSES`], and as [`load`].
            pub fn from_checkpoint(
                checkpoint: Checkpoint,
                class: &str,
                device: &Device,
            ) -> Result<(Self, LoadReport)> {
                let bare = bare_class(class);
                $(if bare == $model::CLASS {
                    let (model, report) = load::<$model>(checkpoint, Key::new(0), device)?;
                    return Ok((Self::$variant(model), report));
                })*
                Err(config_error(
                    "architectures",
                    format!("{class:?}"),
                    format!("expected BertX or RobertaX with X one of {}", Self::CLASSES.join(", ")),
                ))
            }

            /// The body.
            pub fn body(&self) -> &BertModel {
                match self {
                    $(Self::$variant(model) => model.body()),*
                }
            }

            /// The class's name without `Bert` or `Roberta`.
            pub fn class(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $model::CLASS),*
                }
            }

            /// Writes `config.json` and `model.safetensors`.
            ///
            /// # Errors
            /// A folder or file that cannot be written.
            pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
                match self {
                    $(Self::$variant(model) => save(model, dir.as_ref())),*
                }
            }

            /// The weights by upstream names, as they are saved.
            pub fn weights(&self) -> NamedTensors {
                match self {
                    $(Self::$variant(model) => crate::weights::saved_tensors(model)),*
                }
            }

            /// Number of scalars in the weights.
            pub fn num_params(&self) -> usize {
                use burn::module::Module;
                match self {
                    $(Self::$variant(model) => model.num_params()),*
                }
            }
        }
    };
}

any! {
    /// The body alone.
    Model(BertModel),
    /// Masked words.
    MaskedLm(BertForMaskedLm),
    /// Masked words and the next sentence.
    PreTraining(BertForPreTraining),
    /// Classes of a sequence.
    SequenceClassification(BertForSequenceClassification),
    /// Classes of every token.
    TokenClassification(BertForTokenClassification),
    /// Start and end of an answer.
    QuestionAnswering(BertForQuestionAnswering),
    /// One of several continuations.
    MultipleChoice(BertForMultipleChoice),
    /// Whether the second segment follows.
    NextSentence(BertForNextSentencePrediction),
}

/// Loads a folder as the class its `architectures` names; without that, as the class its tensors' names imply.
///
/// # Errors
/// Files that are missing or damaged, a class or configuration that is not supported, and every tensor that does not fit.
pub fn load_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<AnyBert> {
    Ok(AnyBert::complete(Checkpoint::open(dir)?, None, device)?.0)
}

/// A class's name without its family.
fn bare_class(class: &str) -> &str {
    let bare = ["Bert", "Roberta"]
        .iter()
        .find_map(|p| class.strip_prefix(p));
    bare.unwrap_or(class)
}

/// Whether `head`, as people write it, names this class: `masked-lm`, `ForMaskedLM` and the class's own name all name
/// `BertForMaskedLM`.
///
/// ```
/// assert!(bert::names_class("masked-lm", "RobertaForMaskedLM"));
/// assert!(bert::names_class("model", "BertModel"));
/// assert!(!bert::names_class("classification", "BertForTokenClassification"));
/// ```
pub fn names_class(head: &str, class: &str) -> bool {
    let plain = |text: &str| -> String {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|c| c.to_ascii_lowercase()).collect()
    };
    let forms = match class.split_once("For") {
        Some((_, task)) => [class.to_owned(), format!("For{task}"), task.to_owned()],
        None => [class.to_owned(), "Model".to_owned(), "none".to_owned()],
    };
    forms.iter().any(|form| plain(form) == plain(head))
}

/// The class, without its family, that a head's name means: see [`names_class`].
///
/// # Errors
/// A name that means none of them.
pub fn class_of_head(head: &str) -> Result<&'static str> {
    let named = |class: &&&str| {
        ["Bert", "Roberta"]
            .iter()
            .any(|family| names_class(head, &format!("{family}{class}")))
    };
    let found = AnyBert::CLASSES.iter().find(named);
    found.copied().ok_or_else(|| {
        config_error(
            "the head",
            format!("{head:?}"),
            "expected sequence-classification, token-classification, question-answering, multiple-choice, masked-lm, pretraining, next-sentence-prediction or model",
        )
    })
}

/// The class that a configuration names or tensor names imply.
pub fn class_of<'a>(
    config: &BertConfig,
    tensors: impl Iterator<Item = &'a String> + Clone,
) -> String {
    if let Some(name) = config.architectures.iter().flatten().next() {
        return name.clone();
    }
    let has = |start: &str| tensors.clone().any(|n| n.starts_with(start));
    let pooled = tensors.clone().any(|n| n.contains("pooler."));
    let roberta = matches!(config.variant(), Ok(Variant::Roberta));
    match () {
        _ if has("cls.predictions.") && has("cls.seq_relationship.") => "ForPreTraining",
        _ if has("cls.predictions.") || has("lm_head.") => "ForMaskedLM",
        _ if has("cls.seq_relationship.") => "ForNextSentencePrediction",
        _ if has("qa_outputs.") => "ForQuestionAnswering",
        // RoBERTa's head of sequences has two maps and no pooler.
        _ if has("classifier.out_proj.") => "ForSequenceClassification",
        _ if has("classifier.") && roberta && pooled => "ForMultipleChoice",
        _ if has("classifier.") && !pooled => "ForTokenClassification",
        _ if has("classifier.") => "ForSequenceClassification",
        _ => "Model",
    }
    .to_owned()
}

impl AnyBert {
    /// A model all of whose tensors are in the file: of the class that `head` names, else that `architectures` names, else
    /// that the tensors' names imply.
    ///
    /// # Errors
    /// A class that does not exist, and every tensor that is missing, unused or misshapen.
    pub fn complete(
        mut checkpoint: Checkpoint,
        head: Option<&str>,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        let class = match head {
            Some(head) => class_of_head(head)?.to_owned(),
            None => class_of(&checkpoint.config, checkpoint.tensors.keys()),
        };
        // A file is complete for the class that its configuration names.
        let family = checkpoint.config.variant()?.class_prefix();
        let name = format!("{family}{}", bare_class(&class));
        checkpoint.config.architectures = Some(vec![name]);
        Self::from_checkpoint(checkpoint, &class, device)
    }

    /// Inputs by Hugging Face's names to outputs by its names.
    ///
    /// Inputs: `input_ids` `[batch, length]` (`[batch, choices, length]` for multiple choice), and optionally
    /// `attention_mask` (absent: ones), `token_type_ids` (absent: zeros), `position_ids`. Outputs: `logits`, or
    /// `start_logits` and `end_logits`, or `prediction_logits` and `seq_relationship_logits`; `last_hidden_state`; and
    /// `pooler_output` where there is a pooler.
    ///
    /// # Errors
    /// Inputs that are unknown, misshapen or out of range.
    pub fn forward(&self, mut inputs: NamedTensors) -> Result<NamedTensors> {
        const KNOWN: [&str; 4] = [
            "input_ids",
            "attention_mask",
            "token_type_ids",
            "position_ids",
        ];
        if let Some(name) = inputs.keys().find(|n| !KNOWN.contains(&n.as_str())) {
            return Err(input_error(
                name.clone(),
                "unknown",
                format!("expected {}", KNOWN.join(", ")),
            ));
        }
        let mut choices = 1;
        if let Self::MultipleChoice(_) = self {
            choices = flatten_choices(&mut inputs)?;
        }
        let input = EncoderInput::from_named(&inputs)?;
        let call = EncoderCall::default();
        let mut out = NamedTensors::new();
        let mut say = |name: &str, data: TensorData| drop(out.insert(name.to_owned(), data));
        let body: BertOutput = match self {
            Self::Model(model) => model.forward(&input, &call)?,
            Self::MaskedLm(model) => {
                let (logits, body) = model.forward(&input, &call)?;
                say("logits", logits.into_data());
                body
            }
            Self::PreTraining(model) => {
                let found = model.forward(&input, &call)?;
                say("prediction_logits", found.prediction_logits.into_data());
                let next = found.seq_relationship_logits.into_data();
                say("seq_relationship_logits", next);
                found.body
            }
            Self::SequenceClassification(model) => {
                let (logits, body) = model.forward(&input, &call)?;
                say("logits", logits.into_data());
                body
            }
            Self::TokenClassification(model) => {
                let (logits, body) = model.forward(&input, &call)?;
                say("logits", logits.into_data());
                body
            }
            Self::QuestionAnswering(model) => {
                let (start, end, body) = model.forward(&input, &call)?;
                say("start_logits", start.into_data());
                say("end_logits", end.into_data());
                body
            }
            Self::MultipleChoice(model) => {
                let (logits, body) = model.forward(&input, choices, &call)?;
                say("logits", logits.into_data());
                body
            }
            Self::NextSentence(model) => {
                let (logits, body) = model.forward(&input, &call)?;
                say("logits", logits.into_data());
                body
            }
        };
        say("last_hidden_state", body.last_hidden_state.into_data());
        if let Some(pooled) = body.pooler_output {
            say("pooler_output", pooled.into_data());
        }
        Ok(out)
    }
}

/// `[batch, choices, length]` to `[batch · choices, length]`; returns the number of choices.
pub fn flatten_choices(inputs: &mut NamedTensors) -> Result<usize> {
    let mut choices = 1;
    for (name, data) in inputs.iter_mut() {
        match data.shape()[..] {
            [batch, n, length] => {
                choices = n;
                let flat: Vec<i64> = data.iter::<i64>().collect();
                *data = TensorData::new(flat, [batch * n, length]);
            }
            _ if name == "input_ids" => {
                return Err(input_error(
                    name.clone(),
                    format!("of shape {:?}", data.shape()),
                    "expected [batch, choices, length] for a multiple-choice model",
                ));
            }
            _ => {}
        }
    }
    Ok(choices)
}
