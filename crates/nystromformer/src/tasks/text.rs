//! Texts and their tokenizer.

use crate::recipe::TextSpec;
use bert::{BertTokenizer, TokenizerOptions, train_vocabulary};
use datasets::{CorpusSpec, TextFormat, labelled};
use std::path::Path;
use trainer::{Error, Recipe, Result};

/// Documents in three splits.
pub(super) struct Texts {
    pub name: String,
    /// Train, valid, test.
    pub splits: [Vec<String>; 3],
}

impl Texts {
    pub fn load(spec: &TextSpec, recipe: &Recipe) -> Result<Self> {
        match (&spec.corpus, &spec.texts) {
            (Some(corpus), None) => {
                let (name, splits) = corpus_text(corpus, recipe.base_dir())?;
                Ok(Self {
                    name,
                    splits: splits.map(|split| vec![split]),
                })
            }
            (None, Some(texts)) => {
                let data = labelled::load(texts, recipe.base_dir()).map_err(Error::other)?;
                let documents = |list: Vec<datasets::glue::Example>| -> Vec<String> {
                    let both = list.into_iter().flat_map(|e| [Some(e.text_a), e.text_b]);
                    both.flatten().collect()
                };
                Ok(Self {
                    name: data.name,
                    splits: [data.train, data.valid, data.test].map(documents),
                })
            }
            (corpus, _) => Err(Error::value(
                "data",
                match corpus {
                    Some(_) => "`corpus` with `texts`",
                    None => "neither `corpus` nor `texts`",
                },
                "one of the two",
            )),
        }
    }
}

/// The tokenizer a recipe asks for: that at `path`, that of the model at `from`, or one made of `text`.
pub(super) fn tokenizer(
    recipe: &Recipe,
    path: Option<&Path>,
    from: Option<&Path>,
    vocab_size: usize,
    lowercase: bool,
    text: &dyn Fn() -> String,
) -> Result<BertTokenizer> {
    let options = TokenizerOptions {
        do_lower_case: lowercase,
        ..TokenizerOptions::default()
    };
    let found = match (path, from) {
        (Some(path), _) => {
            let path = recipe.path(path);
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => BertTokenizer::from_json_file(&path),
                Some("txt") => BertTokenizer::from_vocab_file(&path, options),
                _ => BertTokenizer::from_folder(&path),
            }
        }
        (None, Some(from)) => BertTokenizer::from_folder(recipe.path(from)),
        (None, None) => train_vocabulary(&text(), vocab_size, options)
            .and_then(|vocab| BertTokenizer::from_vocab(&vocab, options, &recipe.file)),
    };
    found.map_err(Error::other)
}

/// The name of a corpus and the text of its splits: train, valid, test.
fn corpus_text(spec: &CorpusSpec, base: &Path) -> Result<(String, [String; 3])> {
    let mut spec = spec.clone();
    if matches!(spec.format, None | Some(TextFormat::Bytes)) && spec.vocab.is_none() {
        // The text is what counts here, not a vocabulary of its bytes: none of them is unknown.
        spec.all_bytes = Some(true);
    }
    let corpus = datasets::load(&spec, base).map_err(Error::other)?;
    let text = |split: &datasets::Split| -> Result<String> {
        let bytes = corpus.vocabulary.decode_bytes(&split.tokens);
        let bytes = bytes.map_err(Error::other)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let splits = [
        text(&corpus.train)?,
        text(&corpus.valid)?,
        text(&corpus.test)?,
    ];
    Ok((corpus.name, splits))
}

/// Cuts a text behind marks that end a sentence, where a blank follows, and at empty lines.
pub(super) fn split_sentences(text: &str) -> Vec<&str> {
    let mut all = vec![];
    for paragraph in text.split("\n\n") {
        let mut start = 0;
        for (at, mark) in paragraph.match_indices(['.', '!', '?']) {
            let end = at + mark.len();
            let rest = &paragraph[end..];
            if rest.chars().next().is_none_or(char::is_whitespace) {
                all.push(paragraph[start..end].trim());
                start = end;
            }
        }
        all.push(paragraph[start..].trim());
    }
    all.retain(|sentence| !sentence.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_blank_follows() {
        let text = "It is 3.5 miles. Who?\nNobody\n\nA heading\n\nYes!";
        let expected = ["It is 3.5 miles.", "Who?", "Nobody", "A heading", "Yes!"];
        assert_eq!(split_sentences(text), expected);
    }
}
