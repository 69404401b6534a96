//! Text in, answers out, for every head.

use crate::auto::AnyBert;
use crate::config::{BertConfig, ProblemType};
use crate::embeddings::PositionRule;
use crate::error::{Result, input_error};
use crate::input::EncoderInput;
use crate::model::EncoderCall;
use crate::sentence::{Pooling, normalise, pool};
use crate::tokenizer::{BertTokenizer, Encoded, collate};
use burn::prelude::*;
use burn::tensor::activation::{sigmoid, softmax};
use serde_json::{Map, Value, json};

/// Words that are named for a mask, where the input does not say how many.
const FILLERS: usize = 5;

/// Longest answer, in tokens.
const LONGEST_ANSWER: usize = 30;

/// What a head turns an input into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A vector for the text: `embedding`.
    Embedding,
    /// `label`, `score`, `scores`.
    Classes,
    /// `tokens`, and `spans` of neighbours with the same label.
    Tokens,
    /// Words for every mask of the text: `masks`.
    Words,
    /// `answer` with its place in the context.
    Span,
    /// The best of several continuations: `choice`, `score`, `scores`.
    Choices,
}

/// What a model says about one input, in the shapes of a batch of one (of the choices, for multiple choice).
// One value an answer: its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum Scores {
    /// `[1, hidden]`.
    Embedding(Tensor<2>),
    /// `[1, labels]`.
    Classes(Tensor<2>),
    /// `[1, length, labels]`.
    Tokens(Tensor<3>),
    /// `[1, length, vocab]`.
    Words(Tensor<3>),
    /// Start and end, each `[1, length]`.
    Span(Tensor<2>, Tensor<2>),
    /// `[1, choices]`.
    Choices(Tensor<2>),
}

/// Answers texts for any encoder with a head: it knows the words, the encoder makes the scores.
#[derive(Debug, Clone)]
pub struct Answering<'a> {
    /// Text to ids.
    pub tokenizer: &'a BertTokenizer,
    /// What the head is for.
    pub form: Form,
    /// Longest input in tokens, special tokens included; what is longer is cut.
    pub longest: usize,
    /// Number of segments the encoder knows.
    pub segments: usize,
    /// The classes' names.
    pub labels: Vec<String>,
    /// What the classes' scores mean.
    pub problem: Option<ProblemType>,
}

impl Answering<'_> {
    /// Answers one input: a string, or an object with `text` and optionally `text_pair` (and `top_k` for masks); `question`
    /// and `context` for [`Form::Span`]; `text` and `choices` for [`Form::Choices`]. `run` turns a batch into scores; for
    /// choices the batch holds one row a choice.
    ///
    /// # Errors
    /// An input of another form, or one that the encoder cannot take.
    pub fn answer(
        &self,
        input: &Value,
        run: &mut dyn FnMut(&EncoderInput) -> Result<Scores>,
    ) -> Result<Value> {
        let string = |key: &str| input.get(key).and_then(Value::as_str);
        let wrong = |expected: &str| input_error("input", input, expected);
        if self.form == Form::Span {
            let (Some(question), Some(context)) = (string("question"), string("context")) else {
                return Err(wrong("expected an object with `question` and `context`"));
            };
            let (encoded, batch) = self.encode(question, Some(context))?;
            return match run(&batch)? {
                Scores::Span(start, end) => {
                    Ok(best_span(&encoded, context, values(start), values(end)))
                }
                _ => Err(mixed()),
            };
        }
        let text = input.as_str().or_else(|| string("text"));
        let text = text.ok_or_else(|| wrong("expected a text, or an object with `text`"))?;
        if self.form == Form::Choices {
            let choices = input.get("choices").and_then(Value::as_array);
            let choices: Vec<&str> = choices
                .map(|list| list.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            if choices.is_empty() {
                return Err(wrong("expected a list of texts in `choices`"));
            }
            let rows = choices.iter().map(|choice| {
                let encoded = self
                    .tokenizer
                    .encode(text, Some(choice), Some(self.longest))?;
                Ok(self.known_segments(encoded))
            });
            let rows: Vec<Encoded> = rows.collect::<Result<_>>()?;
            let batch = collate(&rows, self.tokenizer.special().pad)?;
            let Scores::Choices(logits) = run(&batch)? else {
                return Err(mixed());
            };
            let scores = values(softmax(logits, 1));
            let best = argmax(&scores);
            return Ok(json!({
                "text": text, "choice": best, "label": choices.get(best), "score": scores[best], "scores": scores,
            }));
        }
        let (encoded, batch) = self.encode(text, string("text_pair"))?;
        Ok(match run(&batch)? {
            Scores::Embedding(vector) => json!({ "text": text, "embedding": values(vector) }),
            Scores::Classes(logits) => classes(text, logits, &self.labels, self.problem),
            Scores::Tokens(logits) => tokens(text, &encoded, logits, &self.labels),
            Scores::Words(logits) => {
                let count = match input.get("top_k") {
                    None | Some(Value::Null) => FILLERS,
                    Some(k) => k
                        .as_u64()
                        .filter(|k| *k > 0)
                        .ok_or_else(|| input_error("top_k", k, "expected at least 1"))?
                        as usize,
                };
                fill(text, &encoded, logits, self.tokenizer, count)?
            }
            Scores::Span(..) | Scores::Choices(_) => return Err(mixed()),
        })
    }

    fn encode(&self, a: &str, b: Option<&str>) -> Result<(Encoded, EncoderInput)> {
        let encoded = self.tokenizer.encode(a, b, Some(self.longest))?;
        let encoded = self.known_segments(encoded);
        let batch = collate(std::slice::from_ref(&encoded), self.tokenizer.special().pad)?;
        Ok((encoded, batch))
    }

    /// A tokenizer may count more segments than the encoder has; RoBERTa's have one.
    fn known_segments(&self, mut encoded: Encoded) -> Encoded {
        for id in &mut encoded.type_ids {
            if *id as usize >= self.segments {
                *id = 0;
            }
        }
        encoded
    }
}

fn mixed() -> crate::Error {
    input_error(
        "the model's answer",
        "of another form",
        "expected the scores that its head promises",
    )
}

/// Most tokens that a model of this configuration takes.
pub(crate) fn longest(config: &BertConfig, positions: PositionRule) -> usize {
    let all = config.max_position_embeddings;
    let before = match positions {
        PositionRule::RealTokens { pad } => pad + 1,
        PositionRule::Slots { offset } => offset,
    };
    all.saturating_sub(before).max(1)
}

/// Answers one input, see [`Answering::answer`]; sentence embeddings are pooled as `pooling` says and of length 1.
///
/// # Errors
/// An input of another form, or one that the model cannot take.
pub fn answer(
    model: &AnyBert,
    tokenizer: &BertTokenizer,
    pooling: Pooling,
    input: &Value,
) -> Result<Value> {
    answer_within(model, tokenizer, pooling, None, input)
}

/// The same with texts cut to `longest` tokens, where that is given and less than the model takes.
pub(crate) fn answer_within(
    model: &AnyBert,
    tokenizer: &BertTokenizer,
    pooling: Pooling,
    longest: Option<usize>,
    input: &Value,
) -> Result<Value> {
    let config = model.body().config();
    let most = self::longest(config, model.body().embeddings.positions);
    let answering = Answering {
        tokenizer,
        form: model.form(),
        longest: most.min(longest.unwrap_or(most)),
        segments: config.type_vocab_size,
        labels: match model {
            AnyBert::NextSentence(_) => ["follows", "does not follow"].map(str::to_owned).to_vec(),
            _ => config.label_names(),
        },
        problem: config.problem_type,
    };
    answering.answer(input, &mut |batch| model.scores(batch, pooling))
}

impl AnyBert {
    /// What the head turns an input into.
    pub fn form(&self) -> Form {
        match self {
            Self::Model(_) => Form::Embedding,
            Self::MaskedLm(_) | Self::PreTraining(_) => Form::Words,
            Self::SequenceClassification(_) | Self::NextSentence(_) => Form::Classes,
            Self::TokenClassification(_) => Form::Tokens,
            Self::QuestionAnswering(_) => Form::Span,
            Self::MultipleChoice(_) => Form::Choices,
        }
    }

    /// What the model says about a batch, whose rows are one input (its choices, for multiple choice).
    ///
    /// # Errors
    /// As [`crate::BertModel::forward`].
    pub fn scores(&self, batch: &EncoderInput, pooling: Pooling) -> Result<Scores> {
        let call = EncoderCall::default();
        Ok(match self {
            Self::Model(model) => {
                let states = model.forward(batch, &call)?.last_hidden_state;
                Scores::Embedding(normalise(pool(states, batch, pooling)))
            }
            Self::MaskedLm(model) => Scores::Words(model.forward(batch, &call)?.0),
            Self::PreTraining(model) => {
                Scores::Words(model.forward(batch, &call)?.prediction_logits)
            }
            Self::SequenceClassification(model) => Scores::Classes(model.forward(batch, &call)?.0),
            Self::NextSentence(model) => Scores::Classes(model.forward(batch, &call)?.0),
            Self::TokenClassification(model) => Scores::Tokens(model.forward(batch, &call)?.0),
            Self::QuestionAnswering(model) => {
                let (start, end, _) = model.forward(batch, &call)?;
                Scores::Span(start, end)
            }
            Self::MultipleChoice(model) => {
                Scores::Choices(model.forward(batch, batch.batch(), &call)?.0)
            }
        })
    }
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
    let scores = match problem {
        _ if regression => values(logits),
        Some(ProblemType::MultiLabelClassification) => values(sigmoid(logits)),
        _ => values(softmax(logits, 1)),
    };
    let best = if regression { 0 } else { argmax(&scores) };
    let all: Map<String, Value> = names
        .iter()
        .zip(&scores)
        .map(|(name, score)| (name.clone(), json!(score)))
        .collect();
    json!({ "text": text, "label": names.get(best), "score": scores.get(best), "scores": all })
}

/// The label of every token, and the spans of neighbours that carry the same one.
fn tokens(text: &str, encoded: &Encoded, logits: Tensor<3>, names: &[String]) -> Value {
    let all = values(softmax(logits, 2));
    let mut tokens = vec![];
    let mut spans: Vec<(String, usize, usize, Vec<f32>)> = vec![];
    let mut open = false;
    for (i, scores) in all.chunks(names.len()).enumerate().take(encoded.ids.len()) {
        if encoded.special[i] {
            continue;
        }
        let best = argmax(scores);
        let (start, end) = encoded.offsets[i];
        let label = &names[best];
        tokens.push(json!({
            "token": encoded.tokens[i], "label": label, "score": scores[best], "start": start, "end": end,
        }));
        // B-X begins a span, I-X goes on with it, O is outside; a label without such a mark goes on with itself.
        let (begins, kind) = match label.split_once('-') {
            Some(("B", kind)) => (true, kind),
            Some(("I", kind)) => (false, kind),
            _ => (false, label.as_str()),
        };
        if kind == "O" {
            open = false;
            continue;
        }
        match spans.last_mut() {
            Some((last, _, to, scored)) if open && !begins && last == kind => {
                *to = end;
                scored.push(scores[best]);
            }
            // A word's later pieces belong to it whatever they are labelled.
            Some((last, _, to, scored)) if open && begins && *to == start && last == kind => {
                *to = end;
                scored.push(scores[best]);
            }
            _ => spans.push((kind.to_owned(), start, end, vec![scores[best]])),
        }
        open = true;
    }
    let spans = spans.into_iter().map(|(label, start, end, scores)| {
        let mean = scores.iter().sum::<f32>() / scores.len() as f32;
        json!({ "text": slice(text, start, end), "label": label, "score": mean, "start": start, "end": end })
    });
    json!({ "text": text, "tokens": tokens, "spans": spans.collect::<Vec<_>>() })
}

/// The characters `start..end`.
fn slice(text: &str, start: usize, end: usize) -> String {
    text.chars()
        .skip(start)
        .take(end.saturating_sub(start))
        .collect()
}

/// The likeliest words for every mask.
fn fill(
    text: &str,
    encoded: &Encoded,
    logits: Tensor<3>,
    tokenizer: &BertTokenizer,
    count: usize,
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
        for &id in order.iter().take(count) {
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

/// The span of the context with the best sum of scores whose end does not lie before its start. Its score is the product of
/// the probabilities of start and end among the context's tokens.
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
    let Some((_, from, to)) = best else {
        return json!({ "answer": "", "score": 0.0, "start": 0, "end": 0 });
    };
    let share = |scores: &[f32], at: usize| {
        let parts = context_tokens
            .iter()
            .map(|&i| f64::from(scores[i] - scores[at]).exp());
        1.0 / parts.sum::<f64>()
    };
    let score = share(&start, from) * share(&end, to);
    let (begin, finish) = (offsets[from].0, offsets[to].1);
    json!({
        "answer": slice(context, begin, finish), "score": score, "start": begin, "end": finish,
    })
}
