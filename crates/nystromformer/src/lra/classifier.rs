//! Classifiers of one sequence and of two.

use super::config::LraConfig;
use super::encoder::{LraEncoder, LraOutput, fan_in};
use crate::weights::{CONFIG_FILE, write_folder};
use bert::{Activation, EncoderInput, Mode, Projection, Result, input_error};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{Binder, LoadOptions, NamedTensors, Weights};
use std::path::Path;

/// `Linear → ReLU → Linear` over the pooled vectors.
#[derive(Module, Debug)]
pub struct LraHead {
    /// `[inputs, inner]`.
    pub inner: Projection,
    /// `[inner, classes]`.
    pub outer: Projection,
}

impl LraHead {
    fn new(config: &LraConfig, inputs: usize, key: Key, device: &Device) -> Result<Self> {
        let classes = LraConfig::known("num_classes", config.num_classes)?;
        let inner = config.transformer_hidden_dim;
        Ok(Self {
            inner: fan_in(inputs, inner, key.site("inner"), device),
            outer: fan_in(inner, classes, key.site("outer"), device),
        })
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.outer
            .forward(Activation::Relu.apply(self.inner.forward(x)))
    }

    fn bind<B: Binder>(&mut self, b: &mut B) {
        // Upstream's spelling.
        self.inner.bind(b, "seq_classifer.mlpblock.0");
        self.outer.bind(b, "seq_classifer.mlpblock.2");
    }
}

/// Sorts sequences: ListOps, Text, Image, Pathfinder.
#[derive(Module, Debug)]
pub struct LraClassifier {
    /// The encoder.
    pub model: LraEncoder,
    /// To the classes.
    pub head: LraHead,
}

/// Sorts pairs of sequences: Retrieval.
#[derive(Module, Debug)]
pub struct LraDualClassifier {
    /// The encoder of both.
    pub model: LraEncoder,
    /// From `[x0, x1, x0 ⊙ x1, x0 − x1]` to the classes.
    pub head: LraHead,
}

impl LraClassifier {
    /// A freshly initialised model, drawn from `key`: embeddings N(0, 0.02²), maps U(±1/√fan-in).
    ///
    /// # Errors
    /// A configuration that [`LraConfig::validate`] refuses, or one without sizes of vocabulary and classes.
    pub fn new(config: &LraConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            model: LraEncoder::new(config, key.site("model"), device)?,
            head: LraHead::new(config, config.transformer_dim, key.site("head"), device)?,
        })
    }

    /// Scores of the classes `[batch, classes]`, and what the encoder gave.
    ///
    /// # Errors
    /// As [`LraEncoder::forward`].
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<(Tensor<2>, LraOutput)> {
        let out = self.model.forward(input, mode)?;
        Ok((self.head.forward(out.pooled.clone()), out))
    }
}

impl LraDualClassifier {
    /// As [`LraClassifier::new`].
    ///
    /// # Errors
    /// As [`LraClassifier::new`].
    pub fn new(config: &LraConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            model: LraEncoder::new(config, key.site("model"), device)?,
            head: LraHead::new(config, 4 * config.transformer_dim, key.site("head"), device)?,
        })
    }

    /// Scores of the classes `[batch, classes]`, and what the encoder gave for either sequence.
    ///
    /// # Errors
    /// As [`LraEncoder::forward`]; sequences of different number.
    pub fn forward(
        &self,
        inputs: [&EncoderInput; 2],
        mode: Mode,
    ) -> Result<(Tensor<2>, [LraOutput; 2])> {
        if inputs[0].batch() != inputs[1].batch() {
            let expected = format!("expected {} sequences, as the first", inputs[0].batch());
            return Err(input_error("input_ids_1", inputs[1].batch(), expected));
        }
        let first = self.model.forward(inputs[0], mode.site("first"))?;
        let second = self.model.forward(inputs[1], mode.site("second"))?;
        let (a, b) = (first.pooled.clone(), second.pooled.clone());
        let both = vec![a.clone(), b.clone(), a.clone() * b.clone(), a - b];
        Ok((self.head.forward(Tensor::cat(both, 1)), [first, second]))
    }
}

/// A classifier of the official code: of one sequence, or of two.
pub trait LraModel: Module + Weights {
    /// Sequences of an example.
    const TOWERS: usize;

    /// A freshly initialised model, drawn from `key`.
    ///
    /// # Errors
    /// As [`LraClassifier::new`].
    fn create(config: &LraConfig, key: Key, device: &Device) -> Result<Self>;

    /// Scores of the classes `[batch, classes]` from one batch for each of the example's sequences.
    ///
    /// # Errors
    /// Another number of batches than [`LraModel::TOWERS`], and as [`LraEncoder::forward`].
    fn scores(&self, inputs: &[EncoderInput], mode: Mode) -> Result<Tensor<2>>;

    /// The encoder.
    fn encoder(&self) -> &LraEncoder;

    /// Loads a folder with `config.json` and weights, strictly.
    ///
    /// # Errors
    /// As [`LraClassifier::from_pretrained`].
    fn load(dir: &Path, device: &Device) -> Result<Self>;

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    fn save(&self, dir: &Path) -> Result<()>;
}

fn other_number(found: usize, expected: usize) -> bert::Error {
    let expected = format!("expected {expected}, one for each sequence of an example");
    input_error("inputs", format!("{found} batches"), expected)
}

macro_rules! folders {
    ($($class:ty: $towers:literal => |$model:ident, $inputs:ident, $mode:ident| $scores:expr),+ $(,)?) => {$(
        impl LraModel for $class {
            const TOWERS: usize = $towers;

            fn create(config: &LraConfig, key: Key, device: &Device) -> Result<Self> {
                Self::new(config, key, device)
            }

            fn scores(&self, $inputs: &[EncoderInput], $mode: Mode) -> Result<Tensor<2>> {
                let $model = self;
                $scores
            }

            fn encoder(&self) -> &LraEncoder {
                &self.model
            }

            fn load(dir: &Path, device: &Device) -> Result<Self> {
                Self::from_pretrained(dir, device)
            }

            fn save(&self, dir: &Path) -> Result<()> {
                self.save_pretrained(dir)
            }
        }

        impl Weights for $class {
            fn bind<B: Binder>(&mut self, b: &mut B) {
                self.model.bind(b);
                self.head.bind(b);
            }
        }

        impl $class {
            /// The model's configuration.
            pub fn config(&self) -> &LraConfig {
                &self.model.config
            }

            /// A model with these weights, by upstream's names with or without the prefix `module.`.
            ///
            /// # Errors
            /// Every tensor that is missing, unused or misshapen; `file` is named in the message.
            pub fn from_tensors(
                config: &LraConfig,
                tensors: NamedTensors,
                file: &Path,
                device: &Device,
            ) -> Result<Self> {
                let model = Self::new(&sized_by(config, &tensors), Key::new(0), device)?;
                let options = LoadOptions {
                    strip_prefix: Some("module.".into()),
                    ignore: vec!["model.embeddings.position_ids".into()],
                };
                Ok(pretrained::load_weights(model, tensors, file, &options)?.0)
            }

            /// Loads a folder with `config.json` and weights, strictly.
            ///
            /// # Errors
            /// A missing or damaged file, a wrong configuration, and every tensor that is missing, unused or misshapen.
            pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
                let dir = dir.as_ref();
                let config = LraConfig::from_file(dir.join(CONFIG_FILE))?;
                let file = pretrained::weights_file(dir)?;
                Self::from_tensors(&config, pretrained::read_tensors(&file)?, &file, device)
            }

            /// Writes `config.json` and `model.safetensors`; the names are those of upstream's `state_dict`.
            ///
            /// # Errors
            /// A folder or file that cannot be written.
            pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
                write_folder(dir.as_ref(), self.config(), &pretrained::collect_weights(self))
            }
        }
    )+};
}

folders!(
    LraClassifier: 1 => |model, inputs, mode| match inputs {
        [input] => Ok(model.forward(input, mode)?.0),
        others => Err(other_number(others.len(), 1)),
    },
    LraDualClassifier: 2 => |model, inputs, mode| match inputs {
        [first, second] => Ok(model.forward([first, second], mode)?.0),
        others => Err(other_number(others.len(), 2)),
    },
);

/// Sizes that the configuration leaves to the data follow from the tensors.
fn sized_by(config: &LraConfig, tensors: &NamedTensors) -> LraConfig {
    let rows = |name: &str| {
        let data = tensors
            .get(name)
            .or_else(|| tensors.get(&format!("module.{name}")))?;
        data.shape().first().copied()
    };
    let mut config = config.clone();
    let words = "model.embeddings.word_embeddings.weight";
    config.vocab_size = config.vocab_size.or_else(|| rows(words));
    let classes = "seq_classifer.mlpblock.2.weight";
    config.num_classes = config.num_classes.or_else(|| rows(classes));
    config
}
