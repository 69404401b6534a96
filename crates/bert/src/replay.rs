//! Replays of the golden cases, one for each `check`.

use crate::classes::{
    BertForMaskedLm, BertForMultipleChoice, BertForPreTraining, BertForQuestionAnswering,
    BertForSequenceClassification, BertForTokenClassification,
};
use crate::input::{EncoderInput, integers};
use crate::loss::Labels;
use crate::model::{BertModel, EncoderCall};
use crate::replay_text as text;
use crate::weights::{BertClass, Checkpoint, load};
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::Value;
use trainer::golden::{Case, Replayed};
use trainer::{Error, Replay, Result};

/// Every check of this architecture's cases.
pub(crate) const REPLAYS: &[(&str, Replay)] = &[
    ("encoder", encoder),
    ("masked_lm", masked_lm),
    ("pretraining", pretraining),
    ("sequence_classification", sequence_classification),
    ("token_classification", token_classification),
    ("question_answering", question_answering),
    ("multiple_choice", multiple_choice),
    ("tokenizer", text::tokenizer),
    ("glue_formats", text::glue_formats),
    ("glue_metrics", text::glue_metrics),
    ("sentence_embeddings", text::sentence_embeddings),
];

/// The case's model with its weights, on the autodiff device.
fn model<M: BertClass>(case: &Case, device: &Device) -> Result<M> {
    let config: Value = case.config()?;
    let tensors = case.with_prefix("weights.");
    let mut checkpoint =
        Checkpoint::new(config, &case.file, tensors, &case.file).map_err(Error::other)?;
    // A golden case is complete: a tensor that is missing must not be made up.
    checkpoint.config.architectures =
        Some(vec![crate::weights::class_name::<M>(&checkpoint.config)]);
    let device = device.clone().autodiff();
    let (model, _) = load(checkpoint, Key::new(0), &device).map_err(Error::other)?;
    Ok(model)
}

fn inputs(case: &Case) -> Result<EncoderInput> {
    EncoderInput::from_named(&case.with_prefix("input.")).map_err(Error::other)
}

fn integers_of(case: &Case, name: &str) -> Result<Vec<i64>> {
    integers(name, case.tensor(name)?).map_err(Error::other)
}

/// The loss and its gradients by name.
fn finish<M: BertClass>(found: &mut Replayed, model: &M, loss: Tensor<1>) {
    say(found, "output.loss", loss.clone());
    let grads = loss.backward();
    for (name, data) in pretrained::collect_gradients(model, &grads) {
        found.tensors.insert(format!("grad.{name}"), data);
    }
}

pub(crate) fn say<const D: usize>(found: &mut Replayed, name: &str, tensor: Tensor<D>) {
    found.tensors.insert(name.to_owned(), tensor.into_data());
}

/// The body: every hidden state, every attention, gradients of a weighted sum of the outputs.
fn encoder(case: &Case, device: &Device) -> Result<Replayed> {
    let model: BertModel = model(case, device)?;
    let input = inputs(case)?;
    let watched = EncoderCall {
        hidden_states: true,
        attentions: true,
        ..EncoderCall::default()
    };
    let mut found = Replayed::default();
    let seen = model.forward(&input, &watched).map_err(Error::other)?;
    for (i, states) in seen.hidden_states.into_iter().enumerate() {
        say(&mut found, &format!("mid.hidden_states.{i}"), states);
    }
    for (i, weights) in seen.attentions.into_iter().enumerate() {
        say(&mut found, &format!("mid.attentions.{i}"), weights);
    }
    // The outputs and gradients come from the ordinary pass, which never holds the attention weights.
    let out = model
        .forward(&input, &EncoderCall::default())
        .map_err(Error::other)?;
    let weight = |name: &str| -> Result<TensorData> { Ok(case.tensor(name)?.clone()) };
    let last = Tensor::<3>::from_data(weight("input.cotangent_last")?, device);
    let mut loss = (out.last_hidden_state.clone() * last).sum();
    say(
        &mut found,
        "output.last_hidden_state",
        out.last_hidden_state,
    );
    if let Some(pooled) = out.pooler_output {
        if case.tensors.contains_key("input.cotangent_pooled") {
            let cotangent = Tensor::<2>::from_data(weight("input.cotangent_pooled")?, device);
            loss = loss + (pooled.clone() * cotangent).sum();
        }
        say(&mut found, "output.pooler_output", pooled);
    }
    finish(&mut found, &model, loss);
    Ok(found)
}

/// Scores of every position, the loss through the labelled ones.
fn masked_lm(case: &Case, device: &Device) -> Result<Replayed> {
    let model: BertForMaskedLm = model(case, device)?;
    let (logits, body) = model
        .forward(&inputs(case)?, &EncoderCall::default())
        .map_err(Error::other)?;
    let labels = integers_of(case, "input.labels")?;
    let loss = model.loss(&body, &labels).map_err(Error::other)?;
    let mut found = Replayed::default();
    say(&mut found, "output.logits", logits);
    say(&mut found, "mid.sequence_output", body.last_hidden_state);
    finish(&mut found, &model, loss);
    Ok(found)
}

/// Both heads of pre-training.
fn pretraining(case: &Case, device: &Device) -> Result<Replayed> {
    let model: BertForPreTraining = model(case, device)?;
    let out = model
        .forward(&inputs(case)?, &EncoderCall::default())
        .map_err(Error::other)?;
    let labels = integers_of(case, "input.labels")?;
    let next = integers_of(case, "input.next_sentence_label")?;
    let (masked, next) = model
        .losses(&out.body, &labels, &next)
        .map_err(Error::other)?;
    let mut found = Replayed::default();
    say(
        &mut found,
        "output.prediction_logits",
        out.prediction_logits,
    );
    say(
        &mut found,
        "output.seq_relationship_logits",
        out.seq_relationship_logits,
    );
    say(
        &mut found,
        "mid.sequence_output",
        out.body.last_hidden_state,
    );
    finish(&mut found, &model, masked + next);
    Ok(found)
}

/// Classes of a sequence, in all three kinds of loss.
fn sequence_classification(case: &Case, device: &Device) -> Result<Replayed> {
    let model: BertForSequenceClassification = model(case, device)?;
    let (logits, body) = model
        .forward(&inputs(case)?, &EncoderCall::default())
        .map_err(Error::other)?;
    let labels = Labels::from_data(case.tensor("input.labels")?).map_err(Error::other)?;
    let loss = model.loss(logits.clone(), &labels).map_err(Error::other)?;
    let mut found = Replayed::default();
    say(&mut found, "output.logits", logits);
    say(&mut found, "mid.sequence_output", body.last_hidden_state);
    finish(&mut found, &model, loss);
    Ok(found)
}

/// Classes of every token.
fn token_classification(case: &Case, device: &Device) -> Result<Replayed> {
    let model: BertForTokenClassification = model(case, device)?;
    let (logits, body) = model
        .forward(&inputs(case)?, &EncoderCall::default())
        .map_err(Error::other)?;
    let labels = integers_of(case, "input.labels")?;
    let loss = model.loss(logits.clone(), &labels).map_err(Error::other)?;
    let mut found = Replayed::default();
    say(&mut found, "output.logits", logits);
    say(&mut found, "mid.sequence_output", body.last_hidden_state);
    finish(&mut found, &model, loss);
    Ok(found)
}

/// Start and end of an answer.
fn question_answering(case: &Case, device: &Device) -> Result<Replayed> {
    let model: BertForQuestionAnswering = model(case, device)?;
    let (start, end, body) = model
        .forward(&inputs(case)?, &EncoderCall::default())
        .map_err(Error::other)?;
    let starts = integers_of(case, "input.start_positions")?;
    let ends = integers_of(case, "input.end_positions")?;
    let loss = model
        .loss(start.clone(), end.clone(), &starts, &ends)
        .map_err(Error::other)?;
    let mut found = Replayed::default();
    say(&mut found, "output.start_logits", start);
    say(&mut found, "output.end_logits", end);
    say(&mut found, "mid.sequence_output", body.last_hidden_state);
    finish(&mut found, &model, loss);
    Ok(found)
}

/// One of several continuations.
fn multiple_choice(case: &Case, device: &Device) -> Result<Replayed> {
    let model: BertForMultipleChoice = model(case, device)?;
    let mut tensors = case.with_prefix("input.");
    tensors.retain(|name, _| name != "labels");
    let choices = crate::auto::flatten_choices(&mut tensors).map_err(Error::other)?;
    let input = EncoderInput::from_named(&tensors).map_err(Error::other)?;
    let (logits, body) = model
        .forward(&input, choices, &EncoderCall::default())
        .map_err(Error::other)?;
    let labels = integers_of(case, "input.labels")?;
    let loss = model.loss(logits.clone(), &labels).map_err(Error::other)?;
    let mut found = Replayed::default();
    say(&mut found, "output.logits", logits);
    say(&mut found, "mid.sequence_output", body.last_hidden_state);
    finish(&mut found, &model, loss);
    Ok(found)
}
