//! Labelled texts as token ids.

use bert::{
    BertTokenizer, Encoded, EncoderInput, Labels, TokenizerOptions, Variant, collate,
    train_vocabulary,
};
use datasets::glue::{Example, Label, Task};
use datasets::labelled::{Labelled, LabelledSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use trainer::{Error, Recipe, Result};

/// What is classified, and how its texts become tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Labelled texts: a data set by its `name`, for example "sotu-era4", or a GLUE `task` with the `path` of its folder.
    pub labelled: LabelledSpec,
    /// A folder or file with `tokenizer.json` or `vocab.txt`, relative to the recipe; absent: that of `training.from`, else a
    /// vocabulary is made from the training split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Most entries of a vocabulary that is made.
    pub vocab_size: usize,
    /// Whether a vocabulary that is made is of small letters.
    pub lowercase: bool,
    /// Longest sequence in tokens, special tokens included.
    pub max_length: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            labelled: LabelledSpec::default(),
            tokenizer: None,
            vocab_size: 2000,
            lowercase: true,
            max_length: 128,
        }
    }
}

/// A text or pair as ids, with its label.
pub(crate) struct Sample {
    pub encoded: Encoded,
    /// The class's index, or the number to be found.
    pub label: f64,
}

/// Labelled texts as ids.
pub(crate) struct Texts {
    /// What it is, for people.
    pub name: String,
    /// The GLUE task, whose metrics are reported; `None`: accuracy.
    pub task: Option<Task>,
    /// The classes; `None` for a regression.
    pub classes: Option<Vec<String>>,
    /// Train, valid, test.
    splits: [Vec<Sample>; 3],
    pub tokenizer: BertTokenizer,
}

impl Texts {
    /// Tokenises the data; `variant` is that of the model, since the published RoBERTa swaps two of MNLI's classes.
    ///
    /// # Errors
    /// A tokenizer that is missing or does not fit, and a split without texts.
    pub fn new(
        recipe: &Recipe,
        data: &DataConfig,
        read: Labelled,
        from: Option<&Path>,
        variant: Variant,
    ) -> Result<Self> {
        let text = |e: &Example| [Some(e.text_a.clone()), e.text_b.clone()];
        let all = || read.train.iter().flat_map(text).flatten();
        let tokenizer = tokenizer(recipe, data, from, || all().collect::<Vec<_>>().join("\n"))?;
        let swapped = variant == Variant::Roberta && read.task == Some(Task::Mnli);
        let label = |example: &Example| match example.label {
            Label::Class(class) if swapped && class > 0 => Some((3 - class) as f64),
            Label::Class(class) => Some(class as f64),
            Label::Value(value) => Some(value),
            Label::None => None,
        };
        let encode = |list: &[Example]| -> Result<Vec<Sample>> {
            let known = list.iter().filter_map(|e| Some((e, label(e)?)));
            let samples = known.map(|(e, label)| {
                let pair = e.text_b.as_deref();
                let encoded = tokenizer.encode(&e.text_a, pair, Some(data.max_length));
                Ok(Sample {
                    encoded: encoded?,
                    label,
                })
            });
            samples.collect()
        };
        let splits = [
            encode(&read.train)?,
            encode(&read.valid)?,
            encode(&read.test)?,
        ];
        if splits[0].is_empty() || splits[1].is_empty() {
            let found = format!("{} / {} examples", splits[0].len(), splits[1].len());
            return Err(Error::value(
                "data",
                found,
                "examples to train and to judge on",
            ));
        }
        let mut classes = read.labels;
        if let (true, Some(names)) = (swapped, &mut classes) {
            names.swap(1, 2);
        }
        Ok(Self {
            name: read.name,
            task: read.task,
            classes,
            splits,
            tokenizer,
        })
    }

    /// The samples of a split.
    pub fn split(&self, split: trainer::Split) -> &[Sample] {
        &self.splits[split as usize]
    }

    /// The name of the metric that decides, in the published code's order.
    pub fn metric(&self) -> &'static str {
        match self.task {
            Some(Task::Cola) => "mcc",
            Some(Task::Mrpc | Task::Qqp) => "f1",
            Some(Task::StsB) => "spearmanr",
            _ => "acc",
        }
    }

    /// The metrics of these answers, by name.
    pub fn metrics(&self, predictions: &[f64], labels: &[f64]) -> Result<trainer::Metrics> {
        let task = self.task.map_or("sst-2", Task::name);
        trainer::task_metrics::glue(task, predictions, labels)
            .ok_or_else(|| Error::value("data.task", task, "a task with metrics"))
    }

    /// Samples as one batch, padded to the longest.
    pub fn batch<'a>(
        &self,
        samples: impl Iterator<Item = &'a Sample>,
    ) -> Result<(EncoderInput, Labels)> {
        let (rows, labels): (Vec<Encoded>, Vec<f64>) =
            samples.map(|s| (s.encoded.clone(), s.label)).unzip();
        let input = collate(&rows, self.tokenizer.special().pad)?;
        Ok((input, self.labels(&labels)))
    }

    /// Labels in the form that the losses take.
    pub fn labels(&self, labels: &[f64]) -> Labels {
        match self.classes {
            Some(_) => Labels::Classes(labels.iter().map(|l| *l as i64).collect()),
            None => Labels::Values(labels.iter().map(|l| *l as f32).collect()),
        }
    }
}

/// The tokenizer a recipe asks for: its own, that of the model it starts from, or one made of the training text.
fn tokenizer(
    recipe: &Recipe,
    data: &DataConfig,
    from: Option<&Path>,
    text: impl Fn() -> String,
) -> Result<BertTokenizer> {
    let options = TokenizerOptions {
        do_lower_case: data.lowercase,
        ..TokenizerOptions::default()
    };
    let made = match (&data.tokenizer, from) {
        (Some(path), _) => {
            let path = recipe.path(path);
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => BertTokenizer::from_json_file(&path),
                Some("txt") => BertTokenizer::from_vocab_file(&path, options),
                _ => BertTokenizer::from_folder(&path),
            }
        }
        (None, Some(from)) => BertTokenizer::from_folder(pretrained::model_folder(from)?),
        (None, None) => train_vocabulary(&text(), data.vocab_size, options)
            .and_then(|vocab| BertTokenizer::from_vocab(&vocab, options, &recipe.file)),
    };
    Ok(made?)
}
