//! The classes of the official code.

use super::{finish, input, ints};
use crate::lra::{LraClassifier, LraConfig, LraDualClassifier, LraOutput};
use crate::pretraining::{NystromformerForPreTraining, PreTrainingBatch, PreTrainingConfig};
use bert::{EncoderInput, IGNORED, Mode, cross_entropy};
use burn::prelude::*;
use trainer::golden::{Case, Replayed};
use trainer::{Error, Result};

fn lra_input(case: &Case, tower: usize) -> Result<EncoderInput> {
    let at = |name: &str| format!("{name}_{tower}");
    input(case, &at("input_ids"), &at("mask"), "", "")
}

fn lra_results(
    case: &Case,
    towers: &[&LraOutput],
    scores: Tensor<2>,
    found: &mut Replayed,
) -> Result<Tensor<1>> {
    for (t, tower) in towers.iter().enumerate() {
        found.tensors.insert(
            format!("mid.token_out_{t}"),
            tower.tokens.clone().into_data(),
        );
        if let Some(attention) = &tower.first_attention {
            let heads = attention.heads.clone().into_data();
            found.tensors.insert(format!("mid.layer0_attn_{t}"), heads);
        }
    }
    let labels = ints(case, "label")?;
    let [batch, _] = scores.dims();
    let hits = scores.clone().argmax(1).reshape([batch]).into_data();
    let hits: Vec<f32> = hits
        .iter::<i64>()
        .zip(&labels)
        .map(|(a, b)| f32::from(a == *b))
        .collect();
    let losses: Result<Vec<Tensor<1>>> = (0..batch)
        .map(|i| {
            let row = scores.clone().narrow(0, i, 1);
            cross_entropy(row, &labels[i..=i], IGNORED).map_err(Error::other)
        })
        .collect();
    let losses = Tensor::cat(losses?, 0);
    let loss = losses.clone().mean();
    found
        .tensors
        .insert("output.scores".into(), scores.into_data());
    found
        .tensors
        .insert("output.loss_per_item".into(), losses.into_data());
    found.tensors.insert(
        "output.accu_per_item".into(),
        TensorData::new(hits, [batch]),
    );
    Ok(loss)
}

pub(super) fn lra_classifier(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let config: LraConfig = case.config()?;
    let device = device.clone().autodiff();
    let weights = case.with_prefix("weights.");
    let model = LraClassifier::from_tensors(&config, weights, &case.file, &device);
    let model = model.map_err(Error::other)?;
    let input = lra_input(case, 0)?;
    let (scores, tower) = model
        .forward(&input, Mode::evaluation())
        .map_err(Error::other)?;
    let loss = lra_results(case, &[&tower], scores, &mut found)?;
    finish(&model, loss, &mut found);
    Ok(found)
}

pub(super) fn lra_dual_classifier(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let config: LraConfig = case.config()?;
    let device = device.clone().autodiff();
    let weights = case.with_prefix("weights.");
    let model = LraDualClassifier::from_tensors(&config, weights, &case.file, &device);
    let model = model.map_err(Error::other)?;
    let inputs = [lra_input(case, 0)?, lra_input(case, 1)?];
    let (scores, [a, b]) = model
        .forward([&inputs[0], &inputs[1]], Mode::evaluation())
        .map_err(Error::other)?;
    let loss = lra_results(case, &[&a, &b], scores, &mut found)?;
    finish(&model, loss, &mut found);
    Ok(found)
}

pub(super) fn pretraining(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let config: PreTrainingConfig = case.config()?;
    let device = device.clone().autodiff();
    let weights = case.with_prefix("weights.");
    let model = NystromformerForPreTraining::from_tensors(&config, weights, &case.file, &device);
    let model = model.map_err(Error::other)?;
    let batch = PreTrainingBatch {
        input: input(
            case,
            "masked_sentence",
            "sentence_mask",
            "segment_ids",
            "pos_ids",
        )?,
        mask_positions: ints(case, "mask_pos_ids")?,
        mask_labels: ints(case, "mask_label")?,
        label_mask: ints(case, "label_mask")?.iter().map(|m| *m != 0).collect(),
        sentence_labels: ints(case, "sentence_label")?,
    };
    let out = model
        .forward(&batch, Mode::evaluation())
        .map_err(Error::other)?;
    let total = out.total();
    for (name, data) in [
        ("mid.backbone", out.backbone.into_data()),
        ("mid.token_out", out.token_out.into_data()),
        ("mid.mlm_scores", out.mlm_scores.into_data()),
        ("mid.sentence_out", out.sentence_out.into_data()),
        ("mid.sen_scores_all", out.sen_scores_all.into_data()),
        ("output.mlm_loss", out.mlm_loss.into_data()),
        ("output.sen_loss", out.sen_loss.into_data()),
        ("output.mlm_accu", out.mlm_accuracy.into_data()),
        ("output.sen_accu", out.sen_accuracy.into_data()),
        (
            "output.valid_count",
            TensorData::new(vec![out.valid_count as f32], [1]),
        ),
        ("output.total_loss", total.clone().into_data()),
    ] {
        found.tensors.insert(name.into(), data);
    }
    finish(&model, total, &mut found);
    Ok(found)
}
