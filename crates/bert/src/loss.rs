//! Losses of the heads. A mean over nothing is 0 with zero gradients, never NaN.

use crate::config::ProblemType;
use crate::error::{Result, input_error};
use crate::input::integers;
use burn::prelude::*;
use burn::tensor::activation::{log_sigmoid, log_softmax};

/// The label that takes a position out of the loss.
pub const IGNORED: i64 = -100;

/// What a classification head is trained towards.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// One class of several for each sample.
    Classes(Vec<i64>),
    /// Numbers, `[batch]` or `[batch, labels]`: targets of a regression, or 1 for every class that holds and 0 else.
    Values(Vec<f32>),
}

impl Labels {
    /// Integers are classes, floats are values.
    ///
    /// # Errors
    /// Elements that are neither.
    pub fn from_data(data: &TensorData) -> Result<Self> {
        match data.dtype().is_float() {
            true => Ok(Self::Values(data.iter::<f32>().collect())),
            false => Ok(Self::Classes(integers("labels", data)?)),
        }
    }

    /// The kind of loss that these labels and this number of outputs imply.
    pub fn implied(&self, outputs: usize) -> ProblemType {
        match self {
            _ if outputs == 1 => ProblemType::Regression,
            Self::Classes(_) => ProblemType::SingleLabelClassification,
            Self::Values(_) => ProblemType::MultiLabelClassification,
        }
    }
}

/// Mean cross entropy in nats of `logits` `[rows, classes]` over the rows whose label is not `ignored`, `[1]`.
///
/// # Errors
/// A number of labels other than the rows, or a label outside the classes.
pub fn cross_entropy(logits: Tensor<2>, labels: &[i64], ignored: i64) -> Result<Tensor<1>> {
    let [rows, classes] = logits.dims();
    let kept = kept_rows("labels", labels, rows, classes, ignored)?;
    if kept.is_empty() {
        return Ok(logits.sum().mul_scalar(0.0));
    }
    let targets: Vec<i64> = kept.iter().map(|&i| labels[i]).collect();
    let logits = match kept.len() == rows {
        true => logits,
        false => select_rows(logits, &kept),
    };
    let n = targets.len();
    let targets = indices(&targets, &logits.device()).reshape([n, 1]);
    Ok(log_softmax(logits, 1).gather(1, targets).mean().neg())
}

/// Indices of the rows whose label is not `ignored`.
///
/// # Errors
/// A number of labels other than `rows`, or a label outside `0..classes`.
pub fn kept_rows(
    name: &str,
    labels: &[i64],
    rows: usize,
    classes: usize,
    ignored: i64,
) -> Result<Vec<usize>> {
    if labels.len() != rows {
        return Err(input_error(
            name,
            format!("{} values", labels.len()),
            format!("expected one for each of {rows} rows"),
        ));
    }
    let bad = labels
        .iter()
        .position(|l| *l != ignored && (*l < 0 || *l >= classes as i64));
    if let Some(i) = bad {
        return Err(input_error(
            format!("{name}[{i}]"),
            labels[i],
            format!("expected a class in 0..{classes}, or {ignored} to leave it out"),
        ));
    }
    Ok((0..rows).filter(|&i| labels[i] != ignored).collect())
}

/// The rows of `x` at these indices.
pub fn select_rows(x: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let rows: Vec<i64> = rows.iter().map(|&i| i as i64).collect();
    let index = indices(&rows, &x.device());
    x.select(0, index)
}

/// Integers on the host as a tensor beside the model.
pub fn indices(values: &[i64], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|v| *v as i32).collect();
    let n = values.len();
    Tensor::from_data(
        TensorData::new(values, [n]),
        &device.clone().without_autodiff(),
    )
}

/// The loss of a classification head with outputs `logits` `[batch, labels]`, `[1]`.
///
/// An explicit `problem_type` decides; else one output is a regression, integer labels are classes and float labels are
/// marks of every class.
///
/// # Errors
/// Labels of the wrong kind, number or range.
pub fn classification_loss(
    logits: Tensor<2>,
    labels: &Labels,
    problem: Option<ProblemType>,
) -> Result<Tensor<1>> {
    let [batch, outputs] = logits.dims();
    match (problem.unwrap_or_else(|| labels.implied(outputs)), labels) {
        (ProblemType::SingleLabelClassification, Labels::Classes(classes)) => {
            cross_entropy(logits, classes, IGNORED)
        }
        (ProblemType::SingleLabelClassification, Labels::Values(_)) => Err(input_error(
            "labels",
            "numbers with a fraction",
            "expected integer classes for problem_type single_label_classification",
        )),
        (ProblemType::Regression, labels) => {
            let targets = values(labels, batch, outputs, &logits)?;
            Ok((logits - targets).powi_scalar(2).mean())
        }
        (ProblemType::MultiLabelClassification, Labels::Values(_)) => {
            let targets = values(labels, batch, outputs, &logits)?;
            // −[y·log σ(x) + (1−y)·log σ(−x)], and log σ(−x) = log σ(x) − x
            let on = log_sigmoid(logits.clone());
            Ok((logits * (targets.neg() + 1.0) - on).mean())
        }
        (ProblemType::MultiLabelClassification, Labels::Classes(_)) => Err(input_error(
            "labels",
            "integers",
            "expected floats, 0 or 1 for every class, for problem_type multi_label_classification",
        )),
    }
}

fn values(labels: &Labels, batch: usize, outputs: usize, logits: &Tensor<2>) -> Result<Tensor<2>> {
    let values: Vec<f32> = match labels {
        Labels::Classes(classes) => classes.iter().map(|c| *c as f32).collect(),
        Labels::Values(values) => values.clone(),
    };
    if values.len() != batch * outputs {
        return Err(input_error(
            "labels",
            format!("{} numbers", values.len()),
            format!("expected [{batch}, {outputs}]"),
        ));
    }
    if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
        return Err(input_error("labels", bad, "expected finite numbers"));
    }
    Ok(Tensor::from_data(
        TensorData::new(values, [batch, outputs]),
        &logits.device().without_autodiff(),
    ))
}

/// The mean of the cross entropies of start and end, each over the samples whose position lies in the sequence: positions
/// are clamped to `0..=length`, and `length` means outside, `[1]`.
///
/// # Errors
/// A number of positions other than the batch.
pub fn span_loss(
    start_logits: Tensor<2>,
    end_logits: Tensor<2>,
    starts: &[i64],
    ends: &[i64],
) -> Result<Tensor<1>> {
    let [_, length] = start_logits.dims();
    let outside = length as i64;
    let clamp = |at: &[i64]| {
        at.iter()
            .map(|p| *p.clamp(&0, &outside))
            .collect::<Vec<_>>()
    };
    let start = cross_entropy(start_logits, &clamp(starts), outside)?;
    let end = cross_entropy(end_logits, &clamp(ends), outside)?;
    Ok((start + end).div_scalar(2.0))
}
