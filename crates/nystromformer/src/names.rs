//! Checkpoints of other layouts, brought into Hugging Face's.

use crate::config::NystromformerConfig;
use bert::{Result, config_error, input_error};
use burn::tensor::TensorData;
use pretrained::NamedTensors;
use serde_json::Value;

/// Renames of the official code, the longer first.
const RENAMES: [(&str, &str); 16] = [
    ("backbone.backbone.encoders.", "encoder.layer."),
    ("backbone.encoders.", "encoder.layer."),
    ("transformer_", "encoder.layer."),
    ("mha.attn.conv", "attention.self.conv"),
    ("mha.W_q", "attention.self.query"),
    ("mha.W_k", "attention.self.key"),
    ("mha.W_v", "attention.self.value"),
    ("mha.ff", "attention.output.dense"),
    ("embeddings.norm", "embeddings.LayerNorm"),
    ("norm1", "attention.output.LayerNorm"),
    ("norm2", "output.LayerNorm"),
    ("mlm.dense", "cls.predictions.transform.dense"),
    ("mlm.norm", "cls.predictions.transform.LayerNorm"),
    ("mlm.mlm_class", "cls.predictions.decoder"),
    ("ff1", "intermediate.dense"),
    ("ff2", "output.dense"),
];

/// Whether these are the names of the official pre-training code.
pub fn is_official<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| name.contains(".mha.W_q."))
}

/// The official pre-training code's tensors (`.model`, `.cp`) under Hugging Face's names, and the names of those that have
/// no place there.
///
/// # Errors
/// Embeddings narrower than the hidden states, which Hugging Face's layout cannot hold.
pub fn from_official(tensors: NamedTensors) -> Result<(NamedTensors, Vec<String>)> {
    let mut out = NamedTensors::new();
    let mut dropped = vec![];
    for (name, data) in tensors {
        let bare = name.strip_prefix("module.").unwrap_or(&name);
        let mut bare = bare.strip_prefix("model.").unwrap_or(bare).to_owned();
        if bare.starts_with("embeddings.dense.") {
            let expected = "expected no such tensor: embeddings narrower than the hidden states have no place in Hugging Face's layout";
            return Err(input_error(name, format!("{:?}", data.shape()), expected));
        }
        let unplaced = bare.starts_with("pooler.")
            || bare.starts_with("sen_class.")
            || bare.ends_with("conv.bias")
            || bare.ends_with("position_ids");
        if unplaced {
            dropped.push(name);
            continue;
        }
        for (old, new) in RENAMES {
            bare = bare.replace(old, new);
        }
        // `ff.0` and `ff.2` of the encoder; `mha.ff` is gone by now.
        bare = bare
            .replace(".ff.0.", ".intermediate.dense.")
            .replace(".ff.2.", ".output.dense.");
        let body = bare.starts_with("embeddings.") || bare.starts_with("encoder.");
        let renamed = match (body, bare.as_str()) {
            (true, _) => format!("nystromformer.{bare}"),
            (false, "cls.predictions.decoder.bias") => "cls.predictions.bias".to_owned(),
            (false, _) => bare,
        };
        out.insert(renamed, data);
    }
    Ok((out, dropped))
}

/// Puts two zero rows in front of a position table that counts from 0, as these models count from 2.
///
/// # Errors
/// No position table.
pub fn shift_positions(tensors: &mut NamedTensors) -> Result<()> {
    edit_positions(tensors, |rows, width| {
        let mut shifted = vec![0.0; 2 * width];
        shifted.extend(rows);
        Ok(shifted)
    })
}

/// Makes room for longer inputs: the two first rows of the position table stay, the others are repeated until there are
/// `length` (section 4 of the paper: training then goes on with long documents).
///
/// # Errors
/// No position table, or a length that is no multiple of the present one.
pub fn extend_positions(
    tensors: &mut NamedTensors,
    config: &mut NystromformerConfig,
    length: usize,
) -> Result<()> {
    let old = config.max_position_embeddings;
    // Published models hold 510 + 2 rows and are meant for inputs of 512.
    edit_positions(tensors, |rows, width| {
        let block = rows.get(2 * width..).unwrap_or_default();
        let present = block.len() / width.max(1);
        if present == 0 || length < present || !length.is_multiple_of(present) {
            let expected = format!("expected a multiple of the present {present} positions");
            return Err(config_error("max_position_embeddings", length, expected));
        }
        let mut all = rows[..2 * width].to_vec();
        for _ in 0..length / present {
            all.extend_from_slice(block);
        }
        Ok(all)
    })?;
    config.max_position_embeddings = length;
    if config.segment_means_seq_len == old {
        config.segment_means_seq_len = length;
    }
    Ok(())
}

fn edit_positions(
    tensors: &mut NamedTensors,
    edit: impl FnOnce(Vec<f32>, usize) -> Result<Vec<f32>>,
) -> Result<()> {
    let name = "embeddings.position_embeddings.weight";
    let found = tensors.iter_mut().find(|(n, _)| n.ends_with(name));
    let Some((_, data)) = found.filter(|(_, d)| d.shape().len() == 2) else {
        return Err(input_error(
            name,
            "absent",
            "expected a position table [positions, hidden]",
        ));
    };
    let width = data.shape()[1];
    let rows = edit(data.iter::<f32>().collect(), width)?;
    let count = rows.len() / width.max(1);
    *data = TensorData::new(rows, [count, width]);
    Ok(())
}

/// A BERT checkpoint as a Nyströmformer in full mode, where it gives BERT's hidden states: no convolution, two zero rows in
/// front of the positions. Returns the configuration, the tensors, and the names left aside (the pooler's).
///
/// # Errors
/// A configuration that cannot be taken over, or no position table.
pub fn from_bert(
    config: &Value,
    tensors: NamedTensors,
) -> Result<(NystromformerConfig, NamedTensors, Vec<String>)> {
    let mut new = config.clone();
    if let Value::Object(keys) = &mut new {
        keys.insert("model_type".into(), "nystromformer".into());
        keys.insert("conv_kernel_size".into(), Value::Null);
        for key in ["segment_means_seq_len", "num_landmarks"] {
            keys.entry(key).or_insert_with(|| 64.into());
        }
        if let Some(Value::Array(classes)) = keys.get_mut("architectures") {
            for class in classes {
                let renamed = class.as_str().map(|c| c.replace("Bert", "Nystromformer"));
                *class = renamed.map_or(Value::Null, Value::String);
            }
        }
        // BERT's defaults, where its file leaves them out.
        for (key, value) in [
            ("vocab_size", Value::from(30_522)),
            ("hidden_act", "gelu".into()),
            ("layer_norm_eps", 1e-12.into()),
            ("max_position_embeddings", 512.into()),
            ("pad_token_id", 0.into()),
        ] {
            keys.entry(key).or_insert(value);
        }
    }
    let config = NystromformerConfig::from_value(new, "config.json".as_ref())?;
    let mut out = NamedTensors::new();
    let mut dropped = vec![];
    for (name, data) in tensors {
        let bare = name.strip_prefix("bert.").unwrap_or(&name);
        if bare.starts_with("pooler.") || bare.starts_with("cls.seq_relationship.") {
            dropped.push(name);
            continue;
        }
        let body = bare.starts_with("embeddings.") || bare.starts_with("encoder.");
        let renamed = match body {
            true => format!("nystromformer.{bare}"),
            false => name,
        };
        out.insert(renamed, data);
    }
    shift_positions(&mut out)?;
    Ok((config, out, dropped))
}
