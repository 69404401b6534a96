//! Replays of the golden cases, one for each `check`.

use crate::NystromformerConfig;
use crate::attention::filters;
use crate::heads::{
    NystromformerForMaskedLm, NystromformerForMultipleChoice, NystromformerForQuestionAnswering,
    NystromformerForSequenceClassification, NystromformerForTokenClassification, Task,
};
use crate::lra::{LraClassifier, LraConfig, LraDualClassifier, LraOutput};
use crate::model::NystromformerModel;
use crate::pretraining::{NystromformerForPreTraining, PreTrainingBatch, PreTrainingConfig};
use bert::{
    EncoderInput, IGNORED, Labels, Mode, Projection, classification_loss, cross_entropy, integers,
    span_loss,
};
use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Gradients;
use core_attn::low_rank::{
    NystromAttention, PinvInit, iterative_pinv, nystrom_attention, segment_lengths, segment_means,
    time_convolution,
};
use core_attn::random::Key;
use pretrained::{NamedTensors, Weights};
use serde_json::Value;
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

/// The inputs whose names end in `suffix`, as rows: `[batch, choices, length]` counts as `batch * choices` rows.
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

fn encoder_input(case: &Case) -> Result<EncoderInput> {
    input(
        case,
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "position_ids",
    )
}

fn base_model(case: &Case, device: &Device) -> Result<Replayed> {
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

fn masked_lm(case: &Case, device: &Device) -> Result<Replayed> {
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

fn sequence_classification(case: &Case, device: &Device) -> Result<Replayed> {
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

fn token_classification(case: &Case, device: &Device) -> Result<Replayed> {
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

fn question_answering(case: &Case, device: &Device) -> Result<Replayed> {
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

fn multiple_choice(case: &Case, device: &Device) -> Result<Replayed> {
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

/// A leaf of the case's tensors.
fn leaf<const D: usize>(case: &Case, name: &str, device: &Device) -> Result<Tensor<D>> {
    let data = case.tensor(name)?;
    if data.shape().len() != D {
        return Err(case.malformed(&format!("`{name}` has not {D} dimensions")));
    }
    Ok(Tensor::from_data(data.clone(), device).require_grad())
}

fn pinv(case: &Case, device: &Device) -> Result<Replayed> {
    let device = device.clone().autodiff();
    let mut found = Replayed::default();
    let weight = leaf::<4>(case, "input.loss_weight", &device)?.detach();
    for (name, init) in [
        ("original", PinvInit::Original),
        ("exact", PinvInit::Exact),
        ("rowcol", PinvInit::RowColumn),
    ] {
        let start = format!("output.{name}_iter");
        for key in case
            .tensors
            .keys()
            .filter_map(|key| key.strip_prefix(&start))
        {
            let Ok(iterations) = key.parse() else {
                continue;
            };
            let a = leaf::<4>(case, "input.mat", &device)?;
            let z = iterative_pinv(a, iterations, init).map_err(Error::other)?;
            found.tensors.insert(format!("{start}{key}"), z.into_data());
        }
        let a = leaf::<4>(case, "input.mat", &device)?;
        let z = iterative_pinv(a.clone(), 6, init).map_err(Error::other)?;
        let loss = (z * weight.clone()).sum();
        found
            .tensors
            .insert(format!("output.{name}_loss"), loss.clone().into_data());
        if let Some(grad) = a.grad(&loss.backward()) {
            found
                .tensors
                .insert(format!("grad.{name}_mat"), grad.into_data());
        }
    }
    for name in ["mid.true_pinv", "mid.cond"] {
        let why = "what the iteration converges to; the convergence has its own test";
        if case.tensors.contains_key(name) {
            found.skipped.push((name.into(), why.into()));
        }
    }
    Ok(found)
}

/// Named leaves of a small layer, for its gradients.
fn keep_gradients<const D: usize>(
    found: &mut Replayed,
    grads: &Gradients,
    name: &str,
    x: &Tensor<D>,
    linear: bool,
) {
    let Some(grad) = x.grad(grads) else { return };
    let grad = match linear {
        true => grad.swap_dims(0, 1),
        false => grad,
    };
    found
        .tensors
        .insert(format!("grad.{name}"), grad.into_data());
}

fn number(case: &Case, key: &str) -> Result<usize> {
    let config: Value = case.config()?;
    let value = config.get(key).and_then(Value::as_u64);
    value
        .map(|n| n as usize)
        .ok_or_else(|| case.malformed(&format!("`config.{key}` is missing or no number")))
}

/// The official vision class, whose landmark rule is ours.
fn uneven_segments(case: &Case, device: &Device) -> Result<Replayed> {
    let device = device.clone().autodiff();
    let mut found = Replayed::default();
    let config: Value = case.config()?;
    let (heads, m, dim) = (
        number(case, "num_heads")?,
        number(case, "num_landmarks")?,
        number(case, "in_dim")?,
    );
    let scale = (number(case, "dim")? as f64 / heads as f64).powf(-0.5);
    let x = leaf::<3>(case, "input.x", &device)?;
    let [b, n, _] = x.dims();
    let linear = |name: &str| -> Result<Projection> {
        let weight = leaf::<2>(case, &format!("weights.{name}.weight"), &device)?;
        Ok(Projection {
            weight: Param::from_tensor(weight.swap_dims(0, 1).detach().require_grad()),
            bias: Param::from_tensor(leaf::<1>(case, &format!("weights.{name}.bias"), &device)?),
        })
    };
    let (qkv, proj) = (linear("qkv")?, linear("proj")?);
    let conv = Param::from_tensor(leaf::<4>(case, "weights.conv.weight", &device)?);
    let all = qkv.forward(x.clone()).reshape([b, n, 3, heads, dim]);
    let part = |i: usize| -> Tensor<4> {
        all.clone()
            .narrow(2, i, 1)
            .reshape([b, n, heads, dim])
            .swap_dims(1, 2)
    };
    let (q, k, v) = (part(0).mul_scalar(scale), part(1), part(2));
    let init = match config.get("init_option").and_then(Value::as_str) {
        Some("exact") => PinvInit::Exact,
        _ => PinvInit::Original,
    };
    let factors = nystrom_attention(NystromAttention {
        query: q.clone(),
        key: k.clone(),
        value: v.clone(),
        landmarks: m,
        scale: 1.0,
        key_bias: None,
        keep: None,
        iterations: 6,
        init,
    })
    .map_err(Error::other)?;
    let filtered = time_convolution(v.clone(), filters(&conv)).map_err(Error::other)?;
    let merged = crate::attention::merge(factors.context.clone() + filtered);
    let y = crate::attention::merge(v.clone()) + proj.forward(merged);
    let loss = y.clone().square().mean();
    let landmarks = |x: Tensor<4>| segment_means(x, m).map_err(Error::other);
    let lengths: Vec<i64> = segment_lengths(n, m)
        .map_err(Error::other)?
        .into_iter()
        .map(|l| l as i64)
        .collect();
    let expected = case.tensors.get("input.segment_lengths");
    if let Some(expected) = expected {
        let expected: Vec<i64> = expected.iter::<i64>().collect();
        let fact = trainer::golden::Fact::exact("segment_lengths", expected.into(), lengths.into());
        found.facts.push(fact);
    }
    for (name, data) in [
        ("mid.q_landmarks", landmarks(q)?.into_data()),
        ("mid.k_landmarks", landmarks(k)?.into_data()),
        ("mid.kernel_2", factors.kernel_2.into_data()),
        ("mid.pinv", factors.pinv.into_data()),
        ("output.y", y.into_data()),
        ("output.loss", loss.clone().into_data()),
    ] {
        found.tensors.insert(name.into(), data);
    }
    let grads = loss.backward();
    keep_gradients(&mut found, &grads, "x", &x, false);
    for (name, map) in [("qkv", &qkv), ("proj", &proj)] {
        keep_gradients(
            &mut found,
            &grads,
            &format!("{name}.weight"),
            &map.weight.val(),
            true,
        );
        keep_gradients(
            &mut found,
            &grads,
            &format!("{name}.bias"),
            &map.bias.val(),
            false,
        );
    }
    keep_gradients(&mut found, &grads, "conv.weight", &conv.val(), false);
    Ok(found)
}

/// The class of the package `nystrom-attention`, whose masked landmarks are ours.
fn masked_landmarks(case: &Case, device: &Device) -> Result<Replayed> {
    let device = device.clone().autodiff();
    let mut found = Replayed::default();
    let (h, m, d) = (
        number(case, "heads")?,
        number(case, "num_landmarks")?,
        number(case, "dim_head")?,
    );
    let iterations = number(case, "pinv_iterations").unwrap_or(6);
    let x = leaf::<3>(case, "input.x", &device)?;
    let [b, n, dim] = x.dims();
    let keep: Vec<bool> = match case.tensors.get("input.mask") {
        Some(mask) => mask.iter::<f64>().map(|k| k != 0.0).collect(),
        None => vec![true; b * n],
    };
    let left = n.next_multiple_of(m) - n;
    let padded: Vec<bool> = keep
        .chunks(n)
        .flat_map(|row| std::iter::repeat_n(false, left).chain(row.iter().copied()))
        .collect();
    let total = n + left;
    let padded = Tensor::<2, Bool>::from_data(TensorData::new(padded, [b, total]), &device);
    let to_qkv = leaf::<2>(case, "weights.to_qkv.weight", &device)?;
    let out_weight = leaf::<2>(case, "weights.to_out.0.weight", &device)?;
    let out_bias = leaf::<1>(case, "weights.to_out.0.bias", &device)?;
    let conv = match case.tensors.contains_key("weights.res_conv.weight") {
        true => Some(leaf::<4>(case, "weights.res_conv.weight", &device)?),
        false => None,
    };
    let rows = match left {
        0 => x.clone(),
        _ => Tensor::cat(vec![Tensor::zeros([b, left, dim], &device), x.clone()], 1),
    };
    let qkv = rows
        .reshape([b * total, dim])
        .matmul(to_qkv.clone().swap_dims(0, 1))
        .reshape([b, total, 3, h, d]);
    let part = |i: usize| -> Tensor<4> {
        qkv.clone()
            .narrow(2, i, 1)
            .reshape([b, total, h, d])
            .swap_dims(1, 2)
    };
    let value = {
        let hidden = padded.clone().bool_not().reshape([b, 1, total, 1]);
        part(2).mask_fill(hidden.expand([b, h, total, d]), 0.0)
    };
    let factors = nystrom_attention(NystromAttention {
        query: part(0),
        key: part(1),
        value: value.clone(),
        landmarks: m,
        scale: (d as f64).powf(-0.5),
        key_bias: None,
        keep: Some(padded),
        iterations,
        init: PinvInit::RowColumn,
    })
    .map_err(Error::other)?;
    let mut context = factors.context.clone();
    if let Some(conv) = &conv {
        let [heads, _, size, _] = conv.dims();
        let filter = conv.clone().reshape([heads, size]);
        context = context + time_convolution(value, filter).map_err(Error::other)?;
    }
    let merged = crate::attention::merge(context).reshape([b * total, h * d]);
    let y = (merged.matmul(out_weight.clone().swap_dims(0, 1)) + out_bias.clone().unsqueeze())
        .reshape([b, total, dim])
        .narrow(1, left, n);
    let kept = keep.iter().filter(|k| **k).count();
    let keep: Vec<f32> = keep.iter().map(|k| f32::from(*k)).collect();
    let keep = Tensor::<3>::from_data(TensorData::new(keep, [b, n, 1]), &device);
    let loss = (y.clone().square() * keep)
        .sum()
        .div_scalar((kept.max(1) * dim) as f64);
    for (name, data) in [
        ("mid.attn1", factors.kernel_1().into_data()),
        ("mid.attn2", factors.kernel_2.clone().into_data()),
        ("mid.attn2_inv", factors.pinv.clone().into_data()),
        ("mid.attn3", factors.kernel_3().into_data()),
        ("output.y", y.into_data()),
        ("output.loss", loss.clone().into_data()),
    ] {
        found.tensors.insert(name.into(), data);
    }
    let grads = loss.backward();
    keep_gradients(&mut found, &grads, "x", &x, false);
    keep_gradients(&mut found, &grads, "to_qkv.weight", &to_qkv, false);
    keep_gradients(&mut found, &grads, "to_out.0.weight", &out_weight, false);
    keep_gradients(&mut found, &grads, "to_out.0.bias", &out_bias, false);
    if let Some(conv) = &conv {
        keep_gradients(&mut found, &grads, "res_conv.weight", conv, false);
    }
    Ok(found)
}

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

fn lra_classifier(case: &Case, device: &Device) -> Result<Replayed> {
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

fn lra_dual_classifier(case: &Case, device: &Device) -> Result<Replayed> {
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

fn pretraining(case: &Case, device: &Device) -> Result<Replayed> {
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
