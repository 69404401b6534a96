//! Replays of the golden cases, one for each `check`.

mod heads;
mod kernels;
mod official;

use bert::{EncoderInput, integers};
use burn::prelude::*;
use burn::tensor::Gradients;
use heads::{
    base_model, masked_lm, multiple_choice, question_answering, sequence_classification,
    token_classification,
};
use kernels::{masked_landmarks, pinv, uneven_segments};
use official::{lra_classifier, lra_dual_classifier, pretraining};
use pretrained::{NamedTensors, Weights};
use trainer::golden::{Case, Replayed};
use trainer::{Error, Replay, Result};

/// Every check of this architecture's cases.
pub(crate) const REPLAYS: &[(&str, Replay)] = &[
    ("base_model", base_model),
    ("masked_lm", masked_lm),
    ("sequence_classification", sequence_classification),
    ("token_classification", token_classification),
    ("question_answering", question_answering),
    ("multiple_choice", multiple_choice),
    ("iterative_pinv", pinv),
    ("uneven_segments", uneven_segments),
    ("masked_landmarks", masked_landmarks),
    ("lra_classifier", lra_classifier),
    ("lra_dual_classifier", lra_dual_classifier),
    ("pretraining", pretraining),
];

fn ints(case: &Case, name: &str) -> Result<Vec<i64>> {
    integers(name, case.tensor(&format!("input.{name}"))?).map_err(Error::other)
}

/// The inputs under these names, as rows: `[batch, choices, length]` counts as `batch * choices` rows.
fn input(case: &Case, ids: &str, mask: &str, types: &str, positions: &str) -> Result<EncoderInput> {
    let mut named = NamedTensors::new();
    for (name, ours) in [
        (ids, "input_ids"),
        (mask, "attention_mask"),
        (types, "token_type_ids"),
        (positions, "position_ids"),
    ] {
        if let Some(data) = case.tensors.get(&format!("input.{name}")) {
            let mut data = data.clone();
            if let &[batch, choices, length] = &data.shape()[..] {
                data = reshaped(data, [batch * choices, length]);
            }
            named.insert(ours.to_owned(), data);
        }
    }
    EncoderInput::from_named(&named).map_err(Error::other)
}

fn reshaped(data: TensorData, shape: [usize; 2]) -> TensorData {
    TensorData::new(data.iter::<i64>().collect::<Vec<_>>(), shape)
}

/// Loss and gradients.
fn finish<T: Weights>(model: &T, loss: Tensor<1>, found: &mut Replayed) {
    found
        .tensors
        .insert("output.loss".into(), loss.clone().into_data());
    gradients(model, &loss.backward(), found);
}

fn gradients<T: Weights>(model: &T, grads: &Gradients, found: &mut Replayed) {
    for (name, data) in pretrained::collect_gradients(model, grads) {
        found.tensors.insert(format!("grad.{name}"), data);
    }
}
