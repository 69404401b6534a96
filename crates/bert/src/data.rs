//! What fine-tuning reads: labelled texts and pairs as ids, and the tokenizer of a recipe.

use crate::error::Error as BertError;
use crate::experiment::start_folder;
use crate::input::EncoderInput;
use crate::loss::Labels;
use crate::recipe::{BertData, TrainingConfig};
use crate::tokenizer::{BertTokenizer, Encoded, TokenizerOptions, collate};
use crate::vocabulary::train_vocabulary;
use datasets::glue::{Example, Label, Task};
use datasets::labelled;
use trainer::{Error, Recipe, Result};

fn other(error: BertError) -> Error {
    Error::other(error)
}

/// The tokenizer a recipe asks for: its own, that of the model it starts from, or one made of `text`.
pub(crate) fn tokenizer(
    recipe: &Recipe,
    data: &BertData,
    training: &TrainingConfig,
    text: &dyn Fn() -> String,
) -> Result<BertTokenizer> {
    if let Some(path) = &data.tokenizer {
        let path = recipe.path(path);
        let found = match path.extension().and_then(|e| e.to_str()) {
            Some("json") => BertTokenizer::from_json_file(&path),
            Some("txt") => BertTokenizer::from_vocab_file(
                &path,
                TokenizerOptions {
                    do_lower_case: data.lowercase,
                    ..TokenizerOptions::default()
                },
            ),
            _ => BertTokenizer::from_folder(&path),
        };
        return found.map_err(other);
    }
    if let Some(from) = &training.from {
        return BertTokenizer::from_folder(start_folder(recipe, from)?).map_err(other);
    }
    let options = TokenizerOptions {
        do_lower_case: data.lowercase,
        ..TokenizerOptions::default()
    };
    let vocab = train_vocabulary(&text(), data.vocab_size, options).map_err(other)?;
    BertTokenizer::from_vocab(&vocab, options, &recipe.file).map_err(other)
}

/// A labelled text or pair.
pub(crate) struct Sample {
    pub encoded: Encoded,
    /// The class's index, or the number to be found.
    pub label: f64,
}

/// Labelled texts.
pub(crate) struct Labelled {
    /// What it is, for people.
    pub name: String,
    /// The GLUE task, whose metrics are reported; `None`: accuracy.
    pub task: Option<Task>,
    /// The classes; `None` for a regression.
    pub classes: Option<Vec<String>>,
    pub train: Vec<Sample>,
    /// Judged during the run.
    pub valid: Vec<Sample>,
    /// Judged at its end.
    pub test: Vec<Sample>,
    pub tokenizer: BertTokenizer,
}

impl Labelled {
    /// Reads the texts; `given` is a tokenizer that is there already.
    pub fn load(
        recipe: &Recipe,
        data: &BertData,
        training: &TrainingConfig,
        given: Option<BertTokenizer>,
    ) -> Result<Self> {
        let Some(spec) = &data.labelled else {
            let expected =
                "labelled texts in `data.labelled`, or `data.corpus` alone for pre-training";
            return Err(Error::value("data", "no task", expected));
        };
        let read = labelled::load(spec, recipe.base_dir()).map_err(Error::other)?;
        let text = || {
            let texts = read
                .train
                .iter()
                .flat_map(|e| [Some(&e.text_a), e.text_b.as_ref()])
                .flatten();
            texts.map(String::as_str).collect::<Vec<_>>().join("\n")
        };
        let tokenizer = match given {
            Some(tokenizer) => tokenizer,
            None => tokenizer(recipe, data, training, &text)?,
        };
        let encode = |list: &[Example]| -> Result<Vec<Sample>> {
            let known = list.iter().filter_map(|e| match e.label {
                Label::Class(class) => Some((e, class as f64)),
                Label::Value(value) => Some((e, value)),
                Label::None => None,
            });
            let samples = known.map(|(e, label)| {
                let most = Some(data.max_length);
                let encoded = tokenizer
                    .encode(&e.text_a, e.text_b.as_deref(), most)
                    .map_err(other)?;
                Ok(Sample { encoded, label })
            });
            samples.collect()
        };
        let [train, valid, test] = [
            encode(&read.train)?,
            encode(&read.valid)?,
            encode(&read.test)?,
        ];
        Ok(Self {
            name: read.name,
            task: read.task,
            classes: read.labels,
            train,
            valid,
            test,
            tokenizer,
        })
    }

    /// The samples at these indices as one batch, padded to the longest.
    pub fn batch(&self, samples: &[&Sample]) -> Result<(EncoderInput, Labels)> {
        let rows: Vec<Encoded> = samples.iter().map(|s| s.encoded.clone()).collect();
        let input = collate(&rows, self.tokenizer.special().pad).map_err(other)?;
        let labels = match self.classes {
            Some(_) => Labels::Classes(samples.iter().map(|s| s.label as i64).collect()),
            None => Labels::Values(samples.iter().map(|s| s.label as f32).collect()),
        };
        Ok((input, labels))
    }

    /// Share of the test that is told by counting words alone: naive Bayes on the training samples, every word's count in a
    /// class one too high. `None` for a regression.
    pub fn naive_bayes(&self) -> Option<f64> {
        let classes = self.classes.as_ref()?.len();
        let words = self.tokenizer.vocab_size();
        let mut counts = vec![1.0f64; classes * words];
        let mut share = vec![1.0f64; classes];
        for sample in &self.train {
            let class = sample.label as usize;
            *share.get_mut(class)? += 1.0;
            for id in &sample.encoded.ids {
                *counts.get_mut(class * words + *id as usize)? += 1.0;
            }
        }
        let totals: Vec<f64> = counts.chunks(words).map(|c| c.iter().sum()).collect();
        let right = self.test.iter().filter(|sample| {
            let score = |class: usize| {
                let ids = sample.encoded.ids.iter();
                let words =
                    ids.map(|id| (counts[class * words + *id as usize] / totals[class]).ln());
                share[class].ln() + words.sum::<f64>()
            };
            let best = (0..classes).max_by(|a, b| score(*a).total_cmp(&score(*b)));
            best == Some(sample.label as usize)
        });
        Some(right.count() as f64 / self.test.len().max(1) as f64)
    }
}
