//! What is printed beside a result.

use crate::generate::{Reader, TextGenerator};
use datasets::Corpus;
use trainer::{Error, Reference, Result, Sampled, Sampling};

/// Tokens of the test text that a sample continues where the recipe names no prompt.
const PROMPT: usize = 64;

/// What a model of the test text has to beat, where the result is in bits per byte: the order-0 entropy and xz's bound.
pub fn anchors(corpus: &Corpus) -> Vec<Reference> {
    let metric = corpus.unit.metric();
    if metric != "bits_per_byte" {
        return vec![];
    }
    let anchors = corpus.anchors(&corpus.test);
    let order0 = "order-0 entropy, statistics of the training text";
    let all = [
        (order0, Some(anchors.order0_train)),
        ("xz -9 over the whole text", anchors.xz),
    ];
    let reference = |(name, value): (&str, Option<f64>)| {
        Some(Reference {
            name: name.into(),
            metric: metric.into(),
            value: value?,
        })
    };
    all.into_iter().filter_map(reference).collect()
}

/// The line of a run's summary about its data.
pub fn describe(corpus: &Corpus) -> (String, String) {
    let [train, valid, test] = [&corpus.train, &corpus.valid, &corpus.test].map(|s| s.tokens.len());
    let ids = corpus.vocabulary.len();
    let line = format!(
        "{}: {train} / {valid} / {test} tokens, {ids} ids",
        corpus.name
    );
    ("data".into(), line)
}

/// A continuation of `prompt`, or of the beginning of the test text.
///
/// # Errors
/// A prompt with tokens that the vocabulary does not know, or options out of range.
pub fn sample<R: Reader>(
    generator: &mut TextGenerator<R>,
    corpus: &Corpus,
    prompt: Option<&str>,
    options: &Sampling,
) -> Result<Vec<Sampled>> {
    let vocabulary = &corpus.vocabulary;
    let (prompt, ids) = match prompt {
        Some(prompt) => {
            let ids = vocabulary.encode_prompt(prompt).map_err(Error::other)?;
            (prompt.to_string(), ids)
        }
        None => {
            let test = &corpus.test.tokens;
            let ids = test[..test.len().min(PROMPT)].to_vec();
            (vocabulary.decode(&ids).map_err(Error::other)?, ids)
        }
    };
    let text = generator.continue_ids(&ids, options, &mut |_| {})?;
    Ok(vec![Sampled {
        title: format!("After {prompt:?}"),
        text,
    }])
}
