//! Text in, answers out, for every class.

use crate::auto::AnyBert;
use crate::config::ProblemType;
use crate::error::{Result, input_error};
use crate::model::EncoderCall;
use crate::sentence::{Pooling, normalise, pool};
use crate::tokenizer::{BertTokenizer, Encoded, collate};
use burn::prelude::*;
use burn::tensor::activation::{sigmoid, softmax};
use serde_json::{Map, Value, json};

/// Most words that are named for a mask.
const FILLERS: usize = 5;

/// Longest answer, in tokens.
const LONGEST_ANSWER: usize = 30;

/// Answers one input: a string, or an object with `text` and optionally `text_pair`; `question` and `context` for a
/// question answering model; `text` and `choices` for multiple choice.
///
/// # Errors
/// An input of another form, or one that the model cannot take.
pub fn answer(
    model: &AnyBert,
    tokenizer: &BertTokenizer,
    pooling: Pooling,
    input: &Value,
) -> Result<Value> {
    let string = |key: &str| input.get(key).and_then(Value::as_str);
    let config = model.body().config();
    let most = config.max_position_embeddings
        - match model.body().embeddings.positions {
            crate::PositionRule::RealTokens { pad } => {
                (pad + 1).min(config.max_position_embeddings - 1)
            }
            crate::PositionRule::Slots { offset } => offset,
        };
    let wrong = |expected: &str| input_error("input", input, expected);
    let text = input.as_str().or_else(|| string("text"));
    let pair = string("text_pair");
    let call = EncoderCall::default();
    if let AnyBert::QuestionAnswering(model) = model {
        let (Some(question), Some(context)) = (string("question"), string("context")) else {
            return Err(wrong("expected an object with `question` and `context`"));
        };
        let encoded = tokenizer.encode(question, Some(context), Some(most))?;
        let batch = collate(std::slice::from_ref(&encoded), tokenizer.special().pad)?;
        let (start, end, _) = model.forward(&batch, &call)?;
        return Ok(best_span(&encoded, context, values(start), values(end)));
    }
    let text = text.ok_or_else(|| wrong("expected a text, or an object with `text`"))?;
    if let AnyBert::MultipleChoice(model) = model {
        let choices = input.get("choices").and_then(Value::as_array);
        let choices: Vec<&str> = choices
            .map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        if choices.is_empty() {
            return Err(wrong("expected a list of texts in `choices`"));
        }
        let rows: Vec<_> = choices.iter().map(|c| (text, Some(*c))).collect();
        let batch = tokenizer.batch(&rows, Some(most))?;
        let (logits, _) = model.forward(&batch, choices.len(), &call)?;
        let scores = values(softmax(logits, 1));
        let best = argmax(&scores);
        return Ok(
            json!({ "text": text, "choice": best, "score": scores[best], "scores": scores }),
        );
    }
    let encoded = tokenizer.encode(text, pair, Some(most))?;
    let batch = collate(std::slice::from_ref(&encoded), tokenizer.special().pad)?;
    Ok(match model {
        AnyBert::Model(model) => {
            let states = model.forward(&batch, &call)?.last_hidden_state;
            let vector = normalise(pool(states, &batch, pooling));
            json!({ "text": text, "embedding": values(vector) })
        }
        AnyBert::SequenceClassification(model) => {
            let (logits, _) = model.forward(&batch, &call)?;
            classes(text, logits, &config.label_names(), config.problem_type)
        }
        AnyBert::NextSentence(model) => {
            let (logits, _) = model.forward(&batch, &call)?;
            let names = ["follows", "does not follow"].map(str::to_owned);
            classes(text, logits, &names, None)
        }
        AnyBert::TokenClassification(model) => {
            let (logits, _) = model.forward(&batch, &call)?;
            let names = config.label_names();
            let all = values(softmax(logits, 2));
            let tokens = encoded
                .tokens
                .iter()
                .zip(all.chunks(names.len()))
                .enumerate();
            let tokens = tokens.filter(|(i, _)| !encoded.special[*i]);
            let tokens: Vec<Value> = tokens
                .map(|(i, (token, scores))| {
                    let best = argmax(scores);
                    let (start, end) = encoded.offsets[i];
                    json!({
                        "token": token, "label": names[best], "score": scores[best],
                        "start": start, "end": end,
                    })
                })
                .collect();
            json!({ "text": text, "tokens": tokens })
        }
        AnyBert::MaskedLm(model) => {
            let (logits, _) = model.forward(&batch, &call)?;
            fill(text, &encoded, logits, tokenizer)?
        }
        AnyBert::PreTraining(model) => {
            let out = model.forward(&batch, &call)?;
            fill(text, &encoded, out.prediction_logits, tokenizer)?
        }
        AnyBert::QuestionAnswering(_) | AnyBert::MultipleChoice(_) => {
            return Err(wrong("expected another form of input"));
        }
    })
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

fn argmax(x: &[f32]) -> usize {
    let better = |best: usize, i: usize| if x[i] > x[best] { i } else { best };
    (0..x.len()).reduce(better).unwrap_or(0)
}

/// The best class with its probability; the number itself for a regression.
fn classes(text: &str, logits: Tensor<2>, names: &[String], problem: Option<ProblemType>) -> Value {
    let regression = problem == Some(ProblemType::Regression) || names.len() == 1;
    if regression {
        let found = values(logits);
        return json!({ "text": text, "label": names.first(), "score": found.first(), "scores": found });
    }
    let scores = match problem {
        Some(ProblemType::MultiLabelClassification) => values(sigmoid(logits)),
        _ => values(softmax(logits, 1)),
    };
    let best = argmax(&scores);
    let all: Map<String, Value> = names
        .iter()
        .zip(&scores)
        .map(|(name, score)| (name.clone(), json!(score)))
        .collect();
    json!({ "text": text, "label": names[best], "score": scores[best], "scores": all })
}

/// The likeliest words for every mask.
fn fill(
    text: &str,
    encoded: &Encoded,
    logits: Tensor<3>,
    tokenizer: &BertTokenizer,
) -> Result<Value> {
    let mask = tokenizer.special().mask;
    let places: Vec<usize> = (0..encoded.ids.len())
        .filter(|&i| encoded.ids[i] == mask)
        .collect();
    if places.is_empty() {
        let name = tokenizer.token(mask).unwrap_or_default();
        return Err(input_error(
            "text",
            format!("{text:?}"),
            format!("expected at least one {name}, the word to be guessed"),
        ));
    }
    let mut masks = vec![];
    for place in places {
        let [_, _, vocab] = logits.dims();
        let row = logits.clone().narrow(1, place, 1).reshape([1, vocab]);
        let scores = values(softmax(row, 1));
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut found = vec![];
        for &id in order.iter().take(FILLERS) {
            let mut ids = encoded.ids.clone();
            ids[place] = id as u32;
            found.push(json!({
                "token": tokenizer.token(id as u32), "score": scores[id],
                "sequence": tokenizer.decode(&ids)?,
            }));
        }
        masks.push(Value::from(found));
    }
    Ok(json!({ "text": text, "masks": masks }))
}

/// The span of the context with the best sum of scores whose end does not lie before its start.
fn best_span(encoded: &Encoded, context: &str, start: Vec<f32>, end: Vec<f32>) -> Value {
    let offsets = &encoded.offsets;
    let context_tokens: Vec<usize> = match encoded.type_ids.contains(&1) {
        true => (0..offsets.len())
            .filter(|&i| encoded.type_ids[i] == 1 && !encoded.special[i])
            .collect(),
        // RoBERTa has no segments: the context is what follows the second separator.
        false => {
            let first = (1..offsets.len())
                .find(|&i| encoded.special[i])
                .unwrap_or(0);
            (first..offsets.len())
                .filter(|&i| !encoded.special[i])
                .collect()
        }
    };
    let mut best: Option<(f32, usize, usize)> = None;
    for (i, &from) in context_tokens.iter().enumerate() {
        for &to in context_tokens[i..].iter().take(LONGEST_ANSWER) {
            let score = start[from] + end[to];
            if best.is_none_or(|(top, ..)| score > top) {
                best = Some((score, from, to));
            }
        }
    }
    let Some((score, from, to)) = best else {
        return json!({ "answer": "", "score": Value::Null });
    };
    let (begin, finish) = (offsets[from].0, offsets[to].1);
    let answer: String = context
        .chars()
        .skip(begin)
        .take(finish.saturating_sub(begin))
        .collect();
    json!({ "answer": answer, "score": score, "start": begin, "end": finish })
}
