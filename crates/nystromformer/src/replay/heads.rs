//! The classes of Hugging Face's.

use super::{finish, input, ints};
use crate::NystromformerConfig;
use crate::heads::{
    NystromformerForMaskedLm, NystromformerForMultipleChoice, NystromformerForQuestionAnswering,
    NystromformerForSequenceClassification, NystromformerForTokenClassification, Task,
};
use crate::model::NystromformerModel;
use bert::{EncoderInput, IGNORED, Labels, Mode, classification_loss, cross_entropy, span_loss};
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::Value;
use trainer::golden::{Case, Replayed};
use trainer::{Error, Result};

/// A model of Hugging Face's with the case's weights.
fn model<T: Task>(case: &Case, device: &Device) -> Result<T> {
    let config: Value = case.config()?;
    let config = NystromformerConfig::from_value(config, &case.file).map_err(Error::other)?;
    let tensors = case.with_prefix("weights.");
    let device = device.clone().autodiff();
    crate::from_tensors(&config, tensors, &case.file, true, Key::new(0), &device)
        .map(|(model, _)| model)
        .map_err(Error::other)
}

/// Runs the body and keeps its tensors.
fn run(body: &NystromformerModel, input: &EncoderInput, found: &mut Replayed) -> Result<Tensor<3>> {
    let mut say = |name: String, data: TensorData| drop(found.tensors.insert(name, data));
    let hidden = body.forward_watched(input, Mode::evaluation(), &mut |view| {
        let i = view.layer;
        if i == 0 {
            say("mid.hidden_states.0".into(), view.input.clone().into_data());
        }
        say(
            format!("mid.hidden_states.{}", i + 1),
            view.output.clone().into_data(),
        );
        let attention = view.attention;
        say(
            format!("mid.layer{i}.attention_probs"),
            attention.probabilities().into_data(),
        );
        say(
            format!("mid.layer{i}.context"),
            attention.merged().into_data(),
        );
        if let Some(factors) = &attention.factors {
            say(
                format!("mid.layer{i}.kernel_2"),
                factors.kernel_2.clone().into_data(),
            );
            say(
                format!("mid.layer{i}.pinv"),
                factors.pinv.clone().into_data(),
            );
        }
    });
    hidden.map_err(Error::other)
}

fn encoder_input(case: &Case) -> Result<EncoderInput> {
    input(
        case,
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "position_ids",
    )
}

pub(super) fn base_model(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let model: NystromformerModel = model(case, device)?;
    let hidden = run(&model, &encoder_input(case)?, &mut found)?;
    found.tensors.insert(
        "output.last_hidden_state".into(),
        hidden.clone().into_data(),
    );
    if let Some(cotangent) = case.tensors.get("input.cotangent_last") {
        let cotangent = Tensor::<3>::from_data(cotangent.clone(), device);
        finish(&model, (hidden * cotangent).sum(), &mut found);
    }
    Ok(found)
}

pub(super) fn masked_lm(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let model: NystromformerForMaskedLm = model(case, device)?;
    let hidden = run(model.body(), &encoder_input(case)?, &mut found)?;
    let logits = model.scores(hidden.clone());
    found
        .tensors
        .insert("output.logits".into(), logits.into_data());
    if case.tensors.contains_key("input.labels") {
        let loss = model
            .loss(hidden, &ints(case, "labels")?)
            .map_err(Error::other)?;
        finish(&model, loss, &mut found);
    }
    Ok(found)
}

pub(super) fn sequence_classification(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let model: NystromformerForSequenceClassification = model(case, device)?;
    let hidden = run(model.body(), &encoder_input(case)?, &mut found)?;
    let logits = model
        .scores(hidden, Mode::evaluation())
        .map_err(Error::other)?;
    found
        .tensors
        .insert("output.logits".into(), logits.clone().into_data());
    if let Some(labels) = case.tensors.get("input.labels") {
        let labels = Labels::from_data(labels).map_err(Error::other)?;
        let problem = model.body().config().problem_type;
        let loss = classification_loss(logits, &labels, problem).map_err(Error::other)?;
        finish(&model, loss, &mut found);
    }
    Ok(found)
}

pub(super) fn token_classification(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let model: NystromformerForTokenClassification = model(case, device)?;
    let hidden = run(model.body(), &encoder_input(case)?, &mut found)?;
    let logits = model
        .scores(hidden, Mode::evaluation())
        .map_err(Error::other)?;
    found
        .tensors
        .insert("output.logits".into(), logits.clone().into_data());
    if case.tensors.contains_key("input.labels") {
        let [batch, length, labels] = logits.dims();
        let rows = logits.reshape([batch * length, labels]);
        let loss = cross_entropy(rows, &ints(case, "labels")?, IGNORED).map_err(Error::other)?;
        finish(&model, loss, &mut found);
    }
    Ok(found)
}

pub(super) fn question_answering(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let model: NystromformerForQuestionAnswering = model(case, device)?;
    let hidden = run(model.body(), &encoder_input(case)?, &mut found)?;
    let (start, end) = model.scores(hidden);
    found
        .tensors
        .insert("output.start_logits".into(), start.clone().into_data());
    found
        .tensors
        .insert("output.end_logits".into(), end.clone().into_data());
    if case.tensors.contains_key("input.start_positions") {
        let (starts, ends) = (ints(case, "start_positions")?, ints(case, "end_positions")?);
        let loss = span_loss(start, end, &starts, &ends).map_err(Error::other)?;
        finish(&model, loss, &mut found);
    }
    Ok(found)
}

pub(super) fn multiple_choice(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let model: NystromformerForMultipleChoice = model(case, device)?;
    let &[_, choices, _] = &case.tensor("input.input_ids")?.shape()[..] else {
        return Err(case.malformed("`input.input_ids` is not [batch, choices, length]"));
    };
    let hidden = run(model.body(), &encoder_input(case)?, &mut found)?;
    let logits = model.scores(hidden, choices).map_err(Error::other)?;
    found
        .tensors
        .insert("output.logits".into(), logits.clone().into_data());
    if case.tensors.contains_key("input.labels") {
        let loss = cross_entropy(logits, &ints(case, "labels")?, IGNORED).map_err(Error::other)?;
        finish(&model, loss, &mut found);
    }
    Ok(found)
}
