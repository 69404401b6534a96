//! What a run begins with: fresh weights, or a model that is there.

use crate::config::DeeBertConfig;
use crate::data::{DataConfig, Texts};
use crate::model::DeeBertForSequenceClassification;
use crate::recipe::TrainingConfig;
use crate::weights::open_checkpoint;
use bert::{BertConfig, Checkpoint, LoadReport, PositionRule, ProblemType, start_folder};
use burn::prelude::*;
use core_attn::random::Key;
use datasets::labelled;
use trainer::{Error, Recipe, Result};

/// The data with its tokenizer, and the model for its classes: fresh, or that of `training.from` with what the recipe's `model` says
/// about dropout and exits.
///
/// # Errors
/// Data or a model that is missing, is wrong in itself, or does not fit the other.
pub(crate) fn start(
    recipe: &Recipe,
    mut config: DeeBertConfig,
    data: &DataConfig,
    training: &TrainingConfig,
    device: &Device,
) -> Result<(DeeBertForSequenceClassification, Texts, LoadReport)> {
    let key = Key::new(recipe.seed).site("init");
    let device = device.clone().autodiff();
    let read = labelled::load(&data.labelled, recipe.base_dir()).map_err(Error::other)?;
    let (model, texts, report) = match &training.from {
        Some(from) => {
            let dir = start_folder(recipe, from)?;
            let mut checkpoint = open_checkpoint(&dir)?;
            take_over(recipe, &config.bert, &mut checkpoint)?;
            let variant = checkpoint.config.variant()?;
            let texts = Texts::new(recipe, data, read, Some(&dir), variant)?;
            checkpoint.config = for_classes(checkpoint.config, &texts);
            let (model, report) =
                DeeBertForSequenceClassification::from_checkpoint(checkpoint, key, &device)?;
            (model.with_exits(config.deebert)?, texts, report)
        }
        None => {
            let texts = Texts::new(recipe, data, read, None, config.bert.variant()?)?;
            config.bert = for_classes(config.bert, &texts);
            if recipe.model.get("vocab_size").is_none() {
                config.bert.vocab_size = texts.tokenizer.vocab_size();
                config.bert.pad_token_id = Some(texts.tokenizer.special().pad as usize);
            }
            (config.init(key, &device)?, texts, LoadReport::default())
        }
    };
    let place = match training.from {
        Some(_) => "the model's config",
        None => "model",
    };
    let (ids, rows) = (texts.tokenizer.vocab_size(), model.config().bert.vocab_size);
    if rows < ids {
        let expected = format!("at least the tokenizer's {ids} entries");
        return Err(Error::value(format!("{place}.vocab_size"), rows, expected));
    }
    let most = longest(&model);
    if data.max_length > most {
        let expected = format!("at most {most}, the positions of {place}");
        return Err(Error::value("data.max_length", data.max_length, expected));
    }
    Ok((model, texts, report))
}

/// The longest input a model takes, in tokens.
pub(crate) fn longest(model: &DeeBertForSequenceClassification) -> usize {
    let offset = match model.bert.embeddings.positions {
        PositionRule::Slots { offset } => offset,
        PositionRule::RealTokens { pad } => pad + 1,
    };
    model
        .config()
        .bert
        .max_position_embeddings
        .saturating_sub(offset)
}

/// The same model for these classes, or for a number.
fn for_classes(config: BertConfig, texts: &Texts) -> BertConfig {
    let mut config = match &texts.classes {
        Some(names) => config.with_label_names(names),
        None => config.with_label_names(&["score"]),
    };
    config.problem_type = texts.classes.is_none().then_some(ProblemType::Regression);
    config
}

/// What the recipe's `model` says about a model that has a configuration of its own: its dropout alone.
fn take_over(recipe: &Recipe, given: &BertConfig, checkpoint: &mut Checkpoint) -> Result<()> {
    let own = &mut checkpoint.config;
    for key in recipe
        .model
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys())
    {
        match key.as_str() {
            crate::EXIT_KEY => {}
            "hidden_dropout_prob" => own.hidden_dropout_prob = given.hidden_dropout_prob,
            "attention_probs_dropout_prob" => {
                own.attention_probs_dropout_prob = given.attention_probs_dropout_prob;
            }
            "classifier_dropout" => own.classifier_dropout = given.classifier_dropout,
            other => {
                return Err(Error::value(
                    format!("model.{other}"),
                    "given beside training.from",
                    "only dropout and `deebert`; the rest is the model's own",
                ));
            }
        }
    }
    // The exits are the recipe's: thresholds of before do not fit off-ramps that are trained anew.
    own.extra.shift_remove(crate::EXIT_KEY);
    Ok(())
}
