//! An encoder with a head: the classes of Hugging Face's library.

use crate::config::{BertConfig, Variant};
use crate::error::{Result, input_error};
use crate::heads::{LinearHead, MaskedLmHead, MaskedLmNames, SequenceHead, pooled, span_logits};
use crate::input::EncoderInput;
use crate::loss::{IGNORED, Labels, classification_loss, cross_entropy, span_loss};
use crate::model::{BertModel, BertOutput, EncoderCall};
use crate::parts::Projection;
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{Binder, Weights};

/// Scores of every word at every position.
#[derive(Module, Debug)]
pub struct BertForMaskedLm {
    /// The body, without a pooler.
    pub bert: BertModel,
    /// The head.
    pub head: MaskedLmHead,
}

impl BertForMaskedLm {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            bert: BertModel::new(config, false, key, device)?,
            head: MaskedLmHead::new(config, key.site("lm"), device)?,
        })
    }

    /// Scores `[batch, length, vocab]`, and the body's output.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(
        &self,
        input: &EncoderInput,
        call: &EncoderCall,
    ) -> Result<(Tensor<3>, BertOutput)> {
        let body = self.bert.forward(input, call)?;
        let logits = self.logits(&body);
        Ok((logits, body))
    }

    /// Scores `[batch, length, vocab]` from the body's output.
    pub fn logits(&self, body: &BertOutput) -> Tensor<3> {
        let words = self.bert.embeddings.word_embeddings.val();
        self.head.logits(body.last_hidden_state.clone(), words)
    }

    /// Mean cross entropy in nats over the positions whose label `[batch, length]` is not −100, `[1]`.
    ///
    /// # Errors
    /// As [`MaskedLmHead::loss`].
    pub fn loss(&self, body: &BertOutput, labels: &[i64]) -> Result<Tensor<1>> {
        let words = self.bert.embeddings.word_embeddings.val();
        self.head
            .loss(body.last_hidden_state.clone(), words, labels)
    }
}

/// Masked words and whether the second segment follows the first: BERT's pre-training.
#[derive(Module, Debug)]
pub struct BertForPreTraining {
    /// The body with its pooler.
    pub bert: BertModel,
    /// Scores of words.
    pub head: MaskedLmHead,
    /// `[hidden, 2]`; class 0 means that the second segment follows.
    pub seq_relationship: Projection,
}

/// What [`BertForPreTraining`] gives.
#[derive(Debug, Clone)]
pub struct PreTrainingOutput {
    /// `[batch, length, vocab]`.
    pub prediction_logits: Tensor<3>,
    /// `[batch, 2]`.
    pub seq_relationship_logits: Tensor<2>,
    /// The body's output.
    pub body: BertOutput,
}

impl BertForPreTraining {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses, and RoBERTa, which has no second segment.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        if config.variant()? == Variant::Roberta {
            return Err(crate::error::config_error(
                "model_type",
                "\"roberta\"",
                "RoBERTa is pre-trained without next sentences; take the masked language model",
            ));
        }
        let h = config.hidden_size;
        Ok(Self {
            bert: BertModel::new(config, true, key, device)?,
            head: MaskedLmHead::new(config, key.site("lm"), device)?,
            seq_relationship: Projection::new(
                h,
                2,
                config.initializer_range,
                key.site("nsp"),
                device,
            ),
        })
    }

    /// Both heads' scores.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &EncoderInput, call: &EncoderCall) -> Result<PreTrainingOutput> {
        let body = self.bert.forward(input, call)?;
        let words = self.bert.embeddings.word_embeddings.val();
        Ok(PreTrainingOutput {
            prediction_logits: self.head.logits(body.last_hidden_state.clone(), words),
            seq_relationship_logits: self.seq_relationship.forward(pooled(&body)?),
            body,
        })
    }

    /// The two losses, each `[1]` in nats: of the words whose label `[batch, length]` is not −100, and of the next
    /// sentence (`[batch]`, 0 = the second segment follows). Pre-training minimises their sum.
    ///
    /// # Errors
    /// Labels of another number or range.
    pub fn losses(
        &self,
        body: &BertOutput,
        labels: &[i64],
        next_sentence: &[i64],
    ) -> Result<(Tensor<1>, Tensor<1>)> {
        let words = self.bert.embeddings.word_embeddings.val();
        let masked = self
            .head
            .loss(body.last_hidden_state.clone(), words, labels)?;
        let next = self.seq_relationship.forward(pooled(body)?);
        Ok((masked, cross_entropy(next, next_sentence, IGNORED)?))
    }
}

/// Scores of classes for a sequence or a pair.
#[derive(Module, Debug)]
pub struct BertForSequenceClassification {
    /// The body, with the pooler where the head needs it.
    pub bert: BertModel,
    /// The head.
    pub head: SequenceHead,
}

impl BertForSequenceClassification {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        let pooler = config.variant()? == Variant::Bert;
        Ok(Self {
            bert: BertModel::new(config, pooler, key, device)?,
            head: SequenceHead::new(config, key.site("classifier"), device)?,
        })
    }

    /// Scores `[batch, labels]`, and the body's output.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(
        &self,
        input: &EncoderInput,
        call: &EncoderCall,
    ) -> Result<(Tensor<2>, BertOutput)> {
        let body = self.bert.forward(input, call)?;
        Ok((self.head.forward(&body, call.mode)?, body))
    }

    /// The loss of these scores, `[1]`; see [`classification_loss`].
    ///
    /// # Errors
    /// Labels of the wrong kind, number or range.
    pub fn loss(&self, logits: Tensor<2>, labels: &Labels) -> Result<Tensor<1>> {
        classification_loss(logits, labels, self.bert.config.problem_type)
    }
}

/// Scores of classes for every token.
#[derive(Module, Debug)]
pub struct BertForTokenClassification {
    /// The body, without a pooler.
    pub bert: BertModel,
    /// The head.
    pub head: LinearHead,
}

impl BertForTokenClassification {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            bert: BertModel::new(config, false, key, device)?,
            head: LinearHead::new(config, config.labels(), key.site("classifier"), device),
        })
    }

    /// Scores `[batch, length, labels]`, and the body's output.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(
        &self,
        input: &EncoderInput,
        call: &EncoderCall,
    ) -> Result<(Tensor<3>, BertOutput)> {
        let body = self.bert.forward(input, call)?;
        let logits = self
            .head
            .forward(body.last_hidden_state.clone(), call.mode)?;
        Ok((logits, body))
    }

    /// Mean cross entropy in nats over the tokens whose label `[batch, length]` is not −100, `[1]`.
    ///
    /// # Errors
    /// Labels of another number or range.
    pub fn loss(&self, logits: Tensor<3>, labels: &[i64]) -> Result<Tensor<1>> {
        let [batch, length, classes] = logits.dims();
        cross_entropy(logits.reshape([batch * length, classes]), labels, IGNORED)
    }
}

/// Where an answer starts and ends.
#[derive(Module, Debug)]
pub struct BertForQuestionAnswering {
    /// The body, without a pooler.
    pub bert: BertModel,
    /// `[hidden, 2]`: start and end.
    pub qa_outputs: Projection,
}

impl BertForQuestionAnswering {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        let (h, std) = (config.hidden_size, config.initializer_range);
        Ok(Self {
            bert: BertModel::new(config, false, key, device)?,
            qa_outputs: Projection::new(h, 2, std, key.site("qa_outputs"), device),
        })
    }

    /// Scores of start and end, each `[batch, length]`, and the body's output.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(
        &self,
        input: &EncoderInput,
        call: &EncoderCall,
    ) -> Result<(Tensor<2>, Tensor<2>, BertOutput)> {
        let body = self.bert.forward(input, call)?;
        let (start, end) = span_logits(&self.qa_outputs, body.last_hidden_state.clone());
        Ok((start, end, body))
    }

    /// The loss of these scores, `[1]`; see [`span_loss`].
    ///
    /// # Errors
    /// A number of positions other than the batch.
    pub fn loss(
        &self,
        start: Tensor<2>,
        end: Tensor<2>,
        starts: &[i64],
        ends: &[i64],
    ) -> Result<Tensor<1>> {
        span_loss(start, end, starts, ends)
    }
}

/// Which of several continuations fits.
#[derive(Module, Debug)]
pub struct BertForMultipleChoice {
    /// The body with its pooler.
    pub bert: BertModel,
    /// To one score.
    pub head: LinearHead,
}

impl BertForMultipleChoice {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            bert: BertModel::new(config, true, key, device)?,
            head: LinearHead::new(config, 1, key.site("classifier"), device),
        })
    }

    /// Scores `[batch, choices]` of an input whose sequences are the choices of sample 0, then of sample 1, and so on;
    /// and the body's output.
    ///
    /// # Errors
    /// As [`BertModel::forward`], and a number of sequences that is no multiple of `choices`.
    pub fn forward(
        &self,
        input: &EncoderInput,
        choices: usize,
        call: &EncoderCall,
    ) -> Result<(Tensor<2>, BertOutput)> {
        if choices == 0 || !input.batch().is_multiple_of(choices) {
            return Err(input_error(
                "input_ids",
                format!("{} sequences", input.batch()),
                format!("expected a multiple of {choices} choices"),
            ));
        }
        let body = self.bert.forward(input, call)?;
        let scores = self.head.forward(pooled(&body)?, call.mode)?;
        Ok((scores.reshape([input.batch() / choices, choices]), body))
    }

    /// Mean cross entropy in nats of the right choices, `[1]`.
    ///
    /// # Errors
    /// Labels of another number or range.
    pub fn loss(&self, logits: Tensor<2>, labels: &[i64]) -> Result<Tensor<1>> {
        cross_entropy(logits, labels, IGNORED)
    }
}

/// Whether the second segment follows the first.
#[derive(Module, Debug)]
pub struct BertForNextSentencePrediction {
    /// The body with its pooler.
    pub bert: BertModel,
    /// `[hidden, 2]`; class 0 means that the second segment follows.
    pub seq_relationship: Projection,
}

impl BertForNextSentencePrediction {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// A configuration that [`BertConfig::validate`] refuses.
    pub fn new(config: &BertConfig, key: Key, device: &Device) -> Result<Self> {
        let (h, std) = (config.hidden_size, config.initializer_range);
        Ok(Self {
            bert: BertModel::new(config, true, key, device)?,
            seq_relationship: Projection::new(h, 2, std, key.site("nsp"), device),
        })
    }

    /// Scores `[batch, 2]`, and the body's output.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(
        &self,
        input: &EncoderInput,
        call: &EncoderCall,
    ) -> Result<(Tensor<2>, BertOutput)> {
        let body = self.bert.forward(input, call)?;
        Ok((self.seq_relationship.forward(pooled(&body)?), body))
    }
}

/// The beginning of the body's names in a file with a head.
fn prefix(config: &BertConfig) -> &'static str {
    config.variant().unwrap_or(Variant::Bert).prefix()
}

fn masked_lm_names(config: &BertConfig) -> MaskedLmNames {
    match config.variant() {
        Ok(Variant::Roberta) => MaskedLmNames::ROBERTA,
        _ => MaskedLmNames::BERT,
    }
}

impl Weights for BertModel {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.bind_under(b, "");
    }
}

impl Weights for BertForMaskedLm {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let (prefix, names) = (
            prefix(&self.bert.config),
            masked_lm_names(&self.bert.config),
        );
        self.bert.bind_under(b, prefix);
        let words = format!("{prefix}embeddings.word_embeddings.weight");
        self.head.bind(b, names, &words);
    }
}

impl Weights for BertForPreTraining {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let prefix = prefix(&self.bert.config);
        self.bert.bind_under(b, prefix);
        let words = format!("{prefix}embeddings.word_embeddings.weight");
        self.head.bind(b, MaskedLmNames::BERT, &words);
        self.seq_relationship.bind(b, "cls.seq_relationship");
    }
}

impl Weights for BertForSequenceClassification {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.bert.bind_under(b, prefix(&self.bert.config));
        self.head.bind(b, "classifier");
    }
}

impl Weights for BertForTokenClassification {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.bert.bind_under(b, prefix(&self.bert.config));
        self.head.classifier.bind(b, "classifier");
    }
}

impl Weights for BertForQuestionAnswering {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.bert.bind_under(b, prefix(&self.bert.config));
        self.qa_outputs.bind(b, "qa_outputs");
    }
}

impl Weights for BertForMultipleChoice {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.bert.bind_under(b, prefix(&self.bert.config));
        self.head.classifier.bind(b, "classifier");
    }
}

impl Weights for BertForNextSentencePrediction {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.bert.bind_under(b, prefix(&self.bert.config));
        self.seq_relationship.bind(b, "cls.seq_relationship");
    }
}
