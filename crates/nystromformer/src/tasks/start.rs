//! The model of a run at its beginning.

use crate::config::{LandmarkPolicy, NystromformerConfig};
use crate::heads::Task;
use crate::layout::Checkpoint;
use crate::weights::{LoadNotes, from_tensors};
use bert::BertTokenizer;
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::{Map, Value};
use std::path::Path;
use trainer::{Error, Recipe, Result};

/// The recipe's section `model` in Hugging Face's keys, where an unknown key is an error.
pub(super) fn section(recipe: &Recipe) -> Result<NystromformerConfig> {
    let config: NystromformerConfig = recipe.section("model")?;
    if let Some(key) = config.extra.keys().next() {
        let known = serde_json::to_value(NystromformerConfig::default()).map_err(Error::other)?;
        let known = known.as_object().into_iter().flat_map(|m| m.keys());
        let near = pretrained::did_you_mean(key, known.map(String::as_str));
        let expected = match near {
            Some(near) => {
                format!("a key of a Nyströmformer's configuration; did you mean `{near}`?")
            }
            None => "a key of a Nyströmformer's configuration".to_owned(),
        };
        return Err(Error::value(format!("model.{key}"), "unknown", expected));
    }
    Ok(config)
}

/// The keys of the recipe's section `model`.
fn keys(recipe: &Recipe) -> Map<String, Value> {
    recipe.model.as_object().cloned().unwrap_or_default()
}

/// What a head needs besides the sizes of the body, as keys of the configuration.
pub(super) type HeadKeys = Map<String, Value>;

/// The model at the start: fresh, or from the folder that `from` names, whose configuration then counts except for what the
/// recipe says. `longest` is the greatest length it will see.
pub(super) fn start<T: Task>(
    recipe: &Recipe,
    from: Option<&Path>,
    tokenizer: &BertTokenizer,
    longest: usize,
    head: HeadKeys,
    device: &Device,
) -> Result<(T, LoadNotes)> {
    let device = device.clone().autodiff();
    let key = Key::new(recipe.seed).site("init");
    let mut given = keys(recipe);
    let fits = |config: &NystromformerConfig, place: &str| {
        let (rows, ids) = (config.vocab_size, tokenizer.vocab_size());
        if rows < ids {
            let expected = format!("at least the tokenizer's {ids} entries");
            return Err(Error::value(format!("{place}.vocab_size"), rows, expected));
        }
        let most = config.max_position_embeddings;
        if most < longest {
            let expected = format!("at most {place}.max_position_embeddings = {most}");
            return Err(Error::value("data.max_length", longest, expected));
        }
        Ok(())
    };
    section(recipe)?;
    if let Some(from) = from {
        let dir = recipe.path(from);
        let mut checkpoint = Checkpoint::open(&dir).map_err(Error::other)?;
        given.extend(head);
        let mut new = checkpoint.change(&given).map_err(Error::other)?;
        fits(&checkpoint.config, "the model's config")?;
        let Checkpoint {
            config,
            tensors,
            left_aside,
            file,
        } = checkpoint;
        let loaded = from_tensors::<T>(&config, tensors, &file, false, key, &device);
        let (model, mut notes) = loaded.map_err(Error::other)?;
        notes.new.append(&mut new);
        notes.unused.extend(left_aside);
        return Ok((model, notes));
    }
    let mut own = Map::new();
    // Upstream's policy is for upstream's checkpoints; here sequences have any length.
    own.insert(
        "landmark_policy".into(),
        serde_json::to_value(LandmarkPolicy::Uneven).map_err(Error::other)?,
    );
    own.insert("vocab_size".into(), tokenizer.vocab_size().into());
    own.insert("pad_token_id".into(), tokenizer.special().pad.into());
    own.insert("max_position_embeddings".into(), longest.into());
    own.extend(given);
    own.extend(head);
    let config = NystromformerConfig::from_value(own.into(), &recipe.file).map_err(Error::other)?;
    fits(&config, "model")?;
    let model = config.init(key, &device).map_err(Error::other)?;
    Ok((model, LoadNotes::default()))
}

/// What is said about a model before a run.
pub(super) fn lines(config: &NystromformerConfig, notes: &LoadNotes) -> Vec<(String, String)> {
    let strict = config.landmark_policy == LandmarkPolicy::Strict;
    let attention = match strict && config.num_landmarks == config.segment_means_seq_len {
        true => "full softmax".to_owned(),
        false => format!("{} landmarks", config.num_landmarks),
    };
    let conv = match config.conv_kernel_size {
        Some(size) => format!("convolution over {size} tokens"),
        None => "no convolution".to_owned(),
    };
    let mut all = vec![
        (
            "model".to_owned(),
            format!(
                "{} layers of {} heads, hidden size {}",
                config.num_hidden_layers, config.num_attention_heads, config.hidden_size
            ),
        ),
        ("attention".to_owned(), format!("{attention}, {conv}")),
    ];
    for (what, names) in [("new", &notes.new), ("unused", &notes.unused)] {
        if !names.is_empty() {
            all.push((format!("{what} tensors"), names.join(", ")));
        }
    }
    all
}
