//! One vector for a sentence, as sentence-transformers make it.

use crate::error::{Result, config_error};
use crate::input::EncoderInput;
use burn::prelude::*;
use serde_json::Value;
use std::path::Path;

/// How the tokens' states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The mean over real tokens.
    #[default]
    Mean,
    /// The first token's state.
    Cls,
    /// The largest value over real tokens, element by element.
    Max,
}

/// Pools `[batch, length, hidden]` to `[batch, hidden]` over the real tokens of `input`.
pub fn pool(states: Tensor<3>, input: &EncoderInput, how: Pooling) -> Tensor<2> {
    let [batch, length, hidden] = states.dims();
    let mask = input.mask_tensor(&states.device());
    match how {
        Pooling::Cls => crate::model::first_token(states),
        Pooling::Mean => {
            let count = mask.clone().sum_dim(1);
            let mask = mask.reshape([batch, length, 1]);
            let sum = (states * mask).sum_dim(1).reshape([batch, hidden]);
            sum / count
        }
        Pooling::Max => {
            let hidden_rows = mask.equal_elem(0.0).reshape([batch, length, 1]);
            let hidden_rows = hidden_rows.expand([batch, length, hidden]);
            let states = states.mask_fill(hidden_rows, f64::from(f32::MIN));
            states.max_dim(1).reshape([batch, hidden])
        }
    }
}

/// Rows of length 1: `x / max(‖x‖, 1e-12)`.
pub fn normalise(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().powi_scalar(2).sum_dim(1).sqrt();
    x / norm.clamp_min(1e-12)
}

/// How a sentence-transformers folder pools: its `modules.json` names the folder of the pooling's `config.json`. Mean where
/// the folder has no `modules.json`.
///
/// # Errors
/// Files that cannot be read, and a mode that is not supported.
pub fn pooling_of(dir: impl AsRef<Path>) -> Result<Pooling> {
    let dir = dir.as_ref();
    let modules = dir.join("modules.json");
    if !modules.is_file() {
        return Ok(Pooling::Mean);
    }
    let modules: Vec<Value> = pretrained::read_json(&modules)?;
    let text =
        |module: &Value, key: &str| module.get(key).and_then(Value::as_str).map(str::to_owned);
    let pooling = modules
        .iter()
        .find(|m| text(m, "type").is_some_and(|t| t.ends_with("Pooling")));
    let Some(path) = pooling.and_then(|m| text(m, "path")) else {
        return Ok(Pooling::Mean);
    };
    // The file comes with a download: it must not reach outside its own folder.
    let plain = Path::new(&path)
        .components()
        .all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err(config_error(
            "modules.json",
            path,
            "expected a folder inside the model's",
        ));
    }
    let config: Value = pretrained::read_json(&dir.join(path).join("config.json"))?;
    // Newer files name the mode instead of switching on one of several.
    match config.get("pooling_mode").and_then(Value::as_str) {
        Some("mean") => return Ok(Pooling::Mean),
        Some("cls") => return Ok(Pooling::Cls),
        Some("max") => return Ok(Pooling::Max),
        _ => {}
    }
    let on = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
    let modes = [
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_max_tokens", Pooling::Max),
    ];
    let asked: Vec<Pooling> = modes
        .iter()
        .filter(|(key, _)| on(key))
        .map(|(_, m)| *m)
        .collect();
    match asked[..] {
        [one] => Ok(one),
        _ => Err(config_error(
            "1_Pooling/config.json",
            config,
            "expected exactly one of pooling_mode_mean_tokens, pooling_mode_cls_token, pooling_mode_max_tokens",
        )),
    }
}

/// Longest input in tokens that a sentence-transformers folder asks for, in its `sentence_bert_config.json`.
///
/// # Errors
/// A file that cannot be read.
pub fn longest_sentence(dir: impl AsRef<Path>) -> Result<Option<usize>> {
    let file = dir.as_ref().join("sentence_bert_config.json");
    if !file.is_file() {
        return Ok(None);
    }
    let config: Value = pretrained::read_json(&file)?;
    let length = config.get("max_seq_length").and_then(Value::as_u64);
    Ok(length.filter(|n| *n > 0).map(|n| n as usize))
}
