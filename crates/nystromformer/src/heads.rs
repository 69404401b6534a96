//! The task heads of Hugging Face's classes.

use crate::config::NystromformerConfig;
use crate::model::NystromformerModel;
use bert::{
    Activation, EncoderInput, FirstTokenHead, LinearHead, MaskedLmHead, MaskedLmNames, Mode, Norm,
    Projection, Result, first_token, input_error, span_logits,
};
use burn::module::Module;
use burn::prelude::*;
use core_attn::init;
use core_attn::random::Key;
use pretrained::{Binder, Weights};

/// What the names of the body begin with in a file that holds a head.
pub(crate) const PREFIX: &str = "nystromformer.";

/// A class of Hugging Face's: a body and a head.
pub trait Task: Weights {
    /// Its name in the `architectures` of a `config.json`.
    const CLASS: &'static str;
    /// What the names of the body begin with in its files.
    const PREFIX: &'static str = PREFIX;

    /// A freshly initialised model, drawn from `key`.
    ///
    /// # Errors
    /// A configuration that [`NystromformerConfig::validate`] refuses.
    fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self>;

    /// Embeddings and layers.
    fn body(&self) -> &NystromformerModel;
}

impl Task for NystromformerModel {
    const CLASS: &'static str = "NystromformerModel";
    const PREFIX: &'static str = "";

    fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self> {
        NystromformerModel::new(config, key, device)
    }

    fn body(&self) -> &NystromformerModel {
        self
    }
}

fn map(config: &NystromformerConfig, outputs: usize, key: Key, device: &Device) -> Projection {
    let d = config.hidden_size;
    Projection::new(d, outputs, config.initializer_range, key, device)
}

/// Predicts hidden words.
#[derive(Module, Debug)]
pub struct NystromformerForMaskedLm {
    /// Embeddings and layers.
    pub nystromformer: NystromformerModel,
    /// The head.
    pub cls: MaskedLmHead,
}

impl NystromformerForMaskedLm {
    /// Scores of every word at every place: `[batch, length, vocab]`.
    ///
    /// # Errors
    /// As [`NystromformerModel::forward`].
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<Tensor<3>> {
        let hidden = self.nystromformer.forward(input, mode)?;
        Ok(self.scores(hidden))
    }

    /// Hidden states `[batch, length, hidden]` to scores `[batch, length, vocab]`.
    pub fn scores(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.cls
            .logits(hidden, self.nystromformer.embeddings.word_embeddings.val())
    }

    /// Mean cross entropy in nats over the places whose label `[batch, length]` is not −100, `[1]`; only these go through
    /// the decoder.
    ///
    /// # Errors
    /// A number of labels other than the places, or a label outside the vocabulary.
    pub fn loss(&self, hidden: Tensor<3>, labels: &[i64]) -> Result<Tensor<1>> {
        let words = self.nystromformer.embeddings.word_embeddings.val();
        self.cls.loss(hidden, words, labels)
    }
}

impl Weights for NystromformerForMaskedLm {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.nystromformer.bind_under(b, PREFIX);
        let words = format!("{PREFIX}embeddings.word_embeddings.weight");
        self.cls.bind(b, MaskedLmNames::BERT, &words);
    }
}

impl Task for NystromformerForMaskedLm {
    const CLASS: &'static str = "NystromformerForMaskedLM";

    fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self> {
        let (d, vocab) = (config.hidden_size, config.vocab_size);
        let std = config.initializer_range;
        let site = key.site("decoder");
        Ok(Self {
            nystromformer: NystromformerModel::new(config, key, device)?,
            cls: MaskedLmHead {
                dense: map(config, d, key.site("transform"), device),
                norm: Norm::new(d, config.layer_norm_eps, device),
                decoder: (!config.tie_word_embeddings)
                    .then(|| init::normal([vocab, d], std, site, device)),
                bias: init::constant([vocab], 0.0, device),
                activation: Activation::from_name(&config.hidden_act)?,
            },
        })
    }

    fn body(&self) -> &NystromformerModel {
        &self.nystromformer
    }
}

/// Sorts whole sequences, or gives numbers for them.
#[derive(Module, Debug)]
pub struct NystromformerForSequenceClassification {
    /// Embeddings and layers.
    pub nystromformer: NystromformerModel,
    /// Two maps of the first token's state, with the body's activation between them.
    pub classifier: FirstTokenHead,
}

impl NystromformerForSequenceClassification {
    /// Scores of the labels: `[batch, labels]`.
    ///
    /// # Errors
    /// As [`NystromformerModel::forward`].
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<Tensor<2>> {
        self.scores(self.nystromformer.forward(input, mode)?, mode)
    }

    /// Hidden states `[batch, length, hidden]` to scores `[batch, labels]`.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn scores(&self, hidden: Tensor<3>, mode: Mode) -> Result<Tensor<2>> {
        self.classifier.forward(hidden, mode)
    }
}

impl Weights for NystromformerForSequenceClassification {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.nystromformer.bind_under(b, PREFIX);
        self.classifier.bind(b, "classifier");
    }
}

impl Task for NystromformerForSequenceClassification {
    const CLASS: &'static str = "NystromformerForSequenceClassification";

    fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            nystromformer: NystromformerModel::new(config, key, device)?,
            classifier: FirstTokenHead {
                dense: map(config, config.hidden_size, key.site("classifier"), device),
                out_proj: map(config, config.labels(), key.site("out_proj"), device),
                dropout: config.hidden_dropout_prob,
                activation: Activation::from_name(&config.hidden_act)?,
            },
        })
    }

    fn body(&self) -> &NystromformerModel {
        &self.nystromformer
    }
}

/// Sorts every token.
#[derive(Module, Debug)]
pub struct NystromformerForTokenClassification {
    /// Embeddings and layers.
    pub nystromformer: NystromformerModel,
    /// To the labels.
    pub head: LinearHead,
}

impl NystromformerForTokenClassification {
    /// Scores of the labels: `[batch, length, labels]`.
    ///
    /// # Errors
    /// As [`NystromformerModel::forward`].
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<Tensor<3>> {
        self.scores(self.nystromformer.forward(input, mode)?, mode)
    }

    /// Hidden states `[batch, length, hidden]` to scores `[batch, length, labels]`.
    ///
    /// # Errors
    /// A dropout rate outside `[0, 1)`.
    pub fn scores(&self, hidden: Tensor<3>, mode: Mode) -> Result<Tensor<3>> {
        self.head.forward(hidden, mode)
    }
}

impl Weights for NystromformerForTokenClassification {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.nystromformer.bind_under(b, PREFIX);
        self.head.classifier.bind(b, "classifier");
    }
}

impl Task for NystromformerForTokenClassification {
    const CLASS: &'static str = "NystromformerForTokenClassification";

    fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            nystromformer: NystromformerModel::new(config, key, device)?,
            head: LinearHead {
                classifier: map(config, config.labels(), key.site("classifier"), device),
                dropout: config.hidden_dropout_prob,
            },
        })
    }

    fn body(&self) -> &NystromformerModel {
        &self.nystromformer
    }
}

/// Finds the span of a text that answers a question.
#[derive(Module, Debug)]
pub struct NystromformerForQuestionAnswering {
    /// Embeddings and layers.
    pub nystromformer: NystromformerModel,
    /// `[hidden, 2]`: start and end.
    pub qa_outputs: Projection,
}

impl NystromformerForQuestionAnswering {
    /// Scores of every token as start and as end of the answer, `[batch, length]` each.
    ///
    /// # Errors
    /// As [`NystromformerModel::forward`].
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<(Tensor<2>, Tensor<2>)> {
        Ok(self.scores(self.nystromformer.forward(input, mode)?))
    }

    /// Hidden states `[batch, length, hidden]` to start and end scores, `[batch, length]` each.
    pub fn scores(&self, hidden: Tensor<3>) -> (Tensor<2>, Tensor<2>) {
        span_logits(&self.qa_outputs, hidden)
    }
}

impl Weights for NystromformerForQuestionAnswering {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.nystromformer.bind_under(b, PREFIX);
        self.qa_outputs.bind(b, "qa_outputs");
    }
}

impl Task for NystromformerForQuestionAnswering {
    const CLASS: &'static str = "NystromformerForQuestionAnswering";

    fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            nystromformer: NystromformerModel::new(config, key, device)?,
            qa_outputs: map(config, 2, key.site("qa_outputs"), device),
        })
    }

    fn body(&self) -> &NystromformerModel {
        &self.nystromformer
    }
}

/// Picks one of several texts.
#[derive(Module, Debug)]
pub struct NystromformerForMultipleChoice {
    /// Embeddings and layers.
    pub nystromformer: NystromformerModel,
    /// `[hidden, hidden]`, with a ReLU behind it.
    pub pre_classifier: Projection,
    /// `[hidden, 1]`.
    pub classifier: Projection,
}

impl NystromformerForMultipleChoice {
    /// Scores of the choices `[batch, choices]`; `input` holds the choices as rows, `[batch * choices, length]`.
    ///
    /// # Errors
    /// As [`NystromformerModel::forward`]; rows that are no multiple of `choices`.
    pub fn forward(&self, input: &EncoderInput, choices: usize, mode: Mode) -> Result<Tensor<2>> {
        self.scores(self.nystromformer.forward(input, mode)?, choices)
    }

    /// Hidden states `[batch * choices, length, hidden]` to scores `[batch, choices]`.
    ///
    /// # Errors
    /// Rows that are no multiple of `choices`.
    pub fn scores(&self, hidden: Tensor<3>, choices: usize) -> Result<Tensor<2>> {
        let [rows, _, _] = hidden.dims();
        if choices == 0 || !rows.is_multiple_of(choices) {
            let found = format!("{rows} rows");
            let expected = format!("expected a multiple of the {choices} choices");
            return Err(input_error("input_ids", found, expected));
        }
        let x = Activation::Relu.apply(self.pre_classifier.forward(first_token(hidden)));
        Ok(self
            .classifier
            .forward(x)
            .reshape([rows / choices, choices]))
    }
}

impl Weights for NystromformerForMultipleChoice {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        self.nystromformer.bind_under(b, PREFIX);
        self.pre_classifier.bind(b, "pre_classifier");
        self.classifier.bind(b, "classifier");
    }
}

impl Task for NystromformerForMultipleChoice {
    const CLASS: &'static str = "NystromformerForMultipleChoice";

    fn new(config: &NystromformerConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            nystromformer: NystromformerModel::new(config, key, device)?,
            pre_classifier: map(
                config,
                config.hidden_size,
                key.site("pre_classifier"),
                device,
            ),
            classifier: map(config, 1, key.site("classifier"), device),
        })
    }

    fn body(&self) -> &NystromformerModel {
        &self.nystromformer
    }
}
