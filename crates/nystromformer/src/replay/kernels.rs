//! The kernels by themselves, in small layers of other packages.

use crate::attention::filters;
use bert::Projection;
use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Gradients;
use core_attn::low_rank::{
    NystromAttention, PinvInit, iterative_pinv, nystrom_attention, segment_lengths, segment_means,
    time_convolution,
};
use serde_json::Value;
use trainer::golden::{Case, Replayed};
use trainer::{Error, Result};

/// A leaf of the case's tensors.
fn leaf<const D: usize>(case: &Case, name: &str, device: &Device) -> Result<Tensor<D>> {
    let data = case.tensor(name)?;
    if data.shape().len() != D {
        return Err(case.malformed(&format!("`{name}` has not {D} dimensions")));
    }
    Ok(Tensor::from_data(data.clone(), device).require_grad())
}

pub(super) fn pinv(case: &Case, device: &Device) -> Result<Replayed> {
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
pub(super) fn uneven_segments(case: &Case, device: &Device) -> Result<Replayed> {
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
pub(super) fn masked_landmarks(case: &Case, device: &Device) -> Result<Replayed> {
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
