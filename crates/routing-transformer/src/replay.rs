//! Replays of the golden cases, one for each `check`.

mod lucidrains;
mod paper;

use burn::prelude::*;
use serde_json::Value;
use trainer::golden::{Case, Replayed};
use trainer::{Error, Replay, Result};

/// Every check of this architecture's cases.
pub(crate) const REPLAYS: &[(&str, Replay)] = &[
    ("kmeans_paper", paper::kmeans),
    ("routing_attention_paper", paper::routing),
    ("local_layer_paper", paper::language_model),
    ("language_model_paper", paper::language_model),
    ("kmeans_lucidrains", lucidrains::kmeans),
    ("routing_attention_lucidrains", lucidrains::routing),
    ("local_attention_lucidrains", lucidrains::local),
    ("language_model_lucidrains", lucidrains::language_model),
];

/// Keys of a case's `config` that belong to the harness and not to the model.
const HARNESS: &[&str] = &[
    "seed",
    "min_topk_gap",
    "b",
    "n",
    "mode",
    "training_mode",
    "dropouts",
];

/// A case's `config`.
struct Setting<'a> {
    case: &'a Case,
    all: serde_json::Map<String, Value>,
}

impl<'a> Setting<'a> {
    fn of(case: &'a Case) -> Result<Self> {
        Ok(Self {
            case,
            all: case.config()?,
        })
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.all.get(key).and_then(Value::as_f64);
        value.ok_or_else(|| {
            let message = format!("`config.{key}` is missing or no number");
            self.case.malformed(&message)
        })
    }

    fn size(&self, key: &str) -> Result<usize> {
        Ok(self.number(key)? as usize)
    }

    /// A number that may be absent or null.
    fn size_or(&self, key: &str, default: usize) -> usize {
        let value = self.all.get(key).and_then(Value::as_u64);
        value.map_or(default, |n| n as usize)
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.all
            .get(key)
            .and_then(Value::as_bool)
            .unwrap_or(default)
    }

    /// The model's own keys.
    fn model<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let mut own = self.all.clone();
        own.retain(|key, _| !HARNESS.contains(&key.as_str()));
        Ok(pretrained::parse_value(
            Value::Object(own),
            &self.case.file,
            "config",
        )?)
    }
}

fn tensor<const D: usize>(case: &Case, name: &str, device: &Device) -> Result<Tensor<D>> {
    let data = case.tensor(name)?;
    if data.shape().len() != D {
        return Err(case.malformed(&format!("`{name}` has not {D} dimensions")));
    }
    Ok(Tensor::from_data(data.clone(), device))
}

/// A tensor of the case that takes gradients.
fn leaf<const D: usize>(case: &Case, name: &str, device: &Device) -> Result<Tensor<D>> {
    Ok(tensor(case, name, &device.clone().autodiff())?.require_grad())
}

/// Ids or marks `[batch, length]`.
fn rows(case: &Case, name: &str) -> Result<(Vec<i64>, [usize; 2])> {
    let data = case.tensor(name)?;
    let &[batch, length] = &data.shape()[..] else {
        return Err(case.malformed(&format!("`{name}` is not [batch, length]")));
    };
    Ok((data.iter::<i64>().collect(), [batch, length]))
}

/// True where `[batch, length]` is not 0; `None` if the case has no such tensor.
fn marks(case: &Case, name: &str) -> Result<Option<Vec<bool>>> {
    if !case.tensors.contains_key(name) {
        return Ok(None);
    }
    let (values, _) = rows(case, name)?;
    Ok(Some(values.iter().map(|v| *v != 0).collect()))
}

/// Columns `from .. from + count` of ids `[batch, length]`.
fn ids(
    (values, [batch, length]): &(Vec<i64>, [usize; 2]),
    from: usize,
    count: usize,
    device: &Device,
) -> Tensor<2, Int> {
    let row = |i: usize| &values[i * length + from..][..count];
    let all: Vec<i32> = (0..*batch).flat_map(row).map(|id| *id as i32).collect();
    Tensor::from_data(TensorData::new(all, [*batch, count]), device)
}

fn say(found: &mut Replayed, name: impl Into<String>, data: TensorData) {
    found.tensors.insert(name.into(), data);
}

/// Whole numbers as the cases store them.
fn whole<const D: usize>(values: &[u32], shape: [usize; D]) -> TensorData {
    let values: Vec<i64> = values.iter().map(|v| i64::from(*v)).collect();
    TensorData::new(values, shape)
}

/// Whether the case wants this tensor.
fn wanted(case: &Case, name: &str) -> bool {
    case.tensors.contains_key(name)
}

fn other<T>(result: crate::Result<T>) -> Result<T> {
    result.map_err(Error::other)
}
