//! From a recipe to the experiment it describes.

use crate::config::BertConfig;
use crate::finetuning::FineTuning;
use crate::pretraining::PreTraining;
use crate::recipe::{BertData, EvaluationConfig, TrainingConfig, model_section};
use crate::tokenizer::BertTokenizer;
use crate::two_stages::PreTrainedTuning;
use crate::weights::{BertClass, Checkpoint, LoadReport, load};
use burn::prelude::*;
use core_attn::random::Key;
use std::path::{Path, PathBuf};
use trainer::{Error, Experiment, Recipe, Result};

/// The sections of a recipe, before its data is read.
#[derive(Clone)]
pub(crate) struct Common {
    pub config: BertConfig,
    /// Whether the recipe says how many token ids there are.
    pub vocab_given: bool,
    pub data: BertData,
    pub training: TrainingConfig,
    pub evaluation: EvaluationConfig,
}

/// Reads a recipe: a corpus alone is pre-trained on, labelled texts are a task to be fine-tuned for, after pre-training if the
/// recipe asks for that.
///
/// # Errors
/// Anything in the recipe or the data that cannot be; the message names the place.
pub(crate) fn open(recipe: &Recipe, device: &Device) -> Result<Box<dyn Experiment>> {
    let (config, vocab_given) = model_section(recipe)?;
    let evaluation: EvaluationConfig = recipe.section("evaluation")?;
    evaluation.validate()?;
    let common = Common {
        config,
        vocab_given,
        data: recipe.section("data")?,
        training: recipe.section("training")?,
        evaluation,
    };
    let text_alone = common.data.labelled.is_none() && common.data.corpus.is_some();
    Ok(match (text_alone, &common.training.pretraining) {
        (true, None) => Box::new(PreTraining::open(recipe, common, device)?),
        (true, Some(_)) => {
            return Err(Error::value(
                "training.pretraining",
                "given",
                "labelled texts in `data.labelled`; with `data.corpus` alone the whole run is pre-training",
            ));
        }
        (false, None) if common.data.corpus.is_some() => {
            return Err(Error::value(
                "data.corpus",
                "given",
                "nothing beside `data.labelled`, unless `training.pretraining` says how to learn from it first",
            ));
        }
        (false, None) => Box::new(FineTuning::open(recipe, common, device)?),
        (false, Some(first)) => {
            let first = first.clone();
            Box::new(PreTrainedTuning::open(recipe, common, &first, device)?)
        }
    })
}

/// The model at the start: fresh, or from the folder that `training.from` names, whose configuration then counts instead
/// of the recipe's, except for the classes.
pub(crate) fn start<M: BertClass>(
    recipe: &Recipe,
    mut config: BertConfig,
    vocab_given: bool,
    data: &BertData,
    training: &TrainingConfig,
    tokenizer: &BertTokenizer,
    device: &Device,
) -> Result<(M, LoadReport)> {
    let device = device.clone().autodiff();
    let key = Key::new(recipe.seed).site("init");
    let ids = tokenizer.vocab_size();
    let fits = |config: &BertConfig, place: &str| {
        if config.vocab_size < ids {
            let expected = format!("at least the tokenizer's {ids} entries");
            return Err(Error::value(
                format!("{place}.vocab_size"),
                config.vocab_size,
                expected,
            ));
        }
        if config.max_position_embeddings < data.max_length {
            return Err(Error::value(
                "data.max_length",
                data.max_length,
                format!(
                    "at most {place}.max_position_embeddings = {}",
                    config.max_position_embeddings
                ),
            ));
        }
        Ok(())
    };
    if let Some(from) = &training.from {
        let dir = start_folder(recipe, from)?;
        let mut checkpoint = Checkpoint::open(&dir).map_err(Error::other)?;
        fits(&checkpoint.config, "the model's config")?;
        checkpoint.config.num_labels = config.num_labels;
        checkpoint.config.id2label = config.id2label;
        checkpoint.config.label2id = config.label2id;
        checkpoint.config.problem_type = config.problem_type;
        return load(checkpoint, key, &device).map_err(Error::other);
    }
    if !vocab_given {
        config.vocab_size = ids;
        config.pad_token_id = Some(tokenizer.special().pad as usize);
    }
    fits(&config, "model")?;
    let model = M::create(&config, key, &device).map_err(Error::other)?;
    Ok((model, LoadReport::default()))
}

/// The folder that `training.from` names: a path relative to the recipe, a model that was imported (`minilm`), or, with the
/// feature `hub`, a published model's name.
///
/// # Errors
/// A model that can be imported and was not.
pub fn start_folder(recipe: &Recipe, from: &Path) -> Result<PathBuf> {
    let path = recipe.path(from);
    if path.exists() || !pretrained::is_published_name(from) {
        return Ok(path);
    }
    let name = from.to_string_lossy();
    match datasets::info(&name, recipe.base_dir()) {
        Ok(info) if info.kind == datasets::Kind::Model => info.folder.ok_or_else(|| {
            let commands: Vec<String> = info.commands.iter().map(|c| format!("`{c}`")).collect();
            let expected = format!(
                "a model on this machine; get it with {}",
                commands.join(", then ")
            );
            Error::value("training.from", name, expected)
        }),
        _ => Ok(from.to_path_buf()),
    }
}

/// What is said about a model before a run.
pub(crate) fn report_lines(config: &BertConfig, report: &LoadReport) -> Vec<(String, String)> {
    let mut all = vec![(
        "model".to_owned(),
        format!(
            "{} layers of {} heads, hidden size {}",
            config.num_hidden_layers, config.num_attention_heads, config.hidden_size
        ),
    )];
    for (what, names) in [("new", &report.new), ("unused", &report.unused)] {
        if !names.is_empty() {
            all.push((format!("{what} tensors"), names.join(", ")));
        }
    }
    all
}
