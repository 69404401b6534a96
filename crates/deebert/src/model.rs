//! The model, top to bottom.

use crate::config::DeeBertConfig;
use crate::ramp::{OffRamp, OffRamps, RampOutput, ramp_mode, summary};
use bert::{
    BertModel, BertPooler, EncoderCall, EncoderInput, Labels, LinearHead, Mode, PositionRule,
    Result, Variant, classification_loss, input_error,
};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{Binder, Weights};
use std::borrow::Cow;

/// An encoder with a classifier at its end and an off-ramp behind every layer.
#[derive(Module, Debug)]
pub struct DeeBertForSequenceClassification {
    /// Embeddings, layers and the final classifier's pooler.
    pub bert: BertModel,
    /// One off-ramp for each layer. The last stands beside the final classifier: published files hold it, untrained, and it
    /// never answers here.
    pub highway: Vec<OffRamp>,
    /// The final classifier.
    pub classifier: LinearHead,
    #[module(skip)]
    config: DeeBertConfig,
}

/// The scores of every exit.
#[derive(Debug, Clone)]
pub struct AllExits {
    /// The final classifier's: `[batch, labels]`.
    pub logits: Tensor<2>,
    /// The off-ramps', first to last, that of the last layer included.
    pub highway: Vec<RampOutput>,
    /// `[batch, length, hidden]`.
    pub last_hidden_state: Tensor<3>,
    /// What the final classifier's pooler gives: `[batch, hidden]`.
    pub pooler_output: Tensor<2>,
}

impl AllExits {
    /// The exits that answer: off-ramps `1 … L − 1`, then the final classifier; each `[batch, labels]`.
    pub fn answers(&self) -> impl Iterator<Item = &Tensor<2>> {
        let ramps = self.highway.len().saturating_sub(1);
        let ramps = self.highway.iter().take(ramps).map(|ramp| &ramp.logits);
        ramps.chain(std::iter::once(&self.logits))
    }
}

impl DeeBertForSequenceClassification {
    /// A freshly initialised model, drawn from `key`.
    ///
    /// # Errors
    /// A configuration that [`DeeBertConfig::validate`] refuses.
    pub fn new(config: &DeeBertConfig, key: Key, device: &Device) -> Result<Self> {
        config.validate()?;
        let mut bert = BertModel::new(&config.bert, true, key, device)?;
        if config.bert.variant()? == Variant::Roberta {
            // The code of 2019 counts every slot, padding included.
            bert.embeddings.positions = PositionRule::Slots { offset: 2 };
        }
        let ramp = |i: usize| OffRamp::new(config, key.site("highway").fold(i as u64), device);
        let (labels, head) = (config.bert.labels(), key.site("classifier"));
        let model = Self {
            bert,
            highway: (0..config.layers()).map(ramp).collect(),
            classifier: LinearHead::new(&config.bert, labels, head, device),
            config: config.clone(),
        };
        Ok(model.with_copied_poolers())
    }

    /// The model's configuration.
    pub fn config(&self) -> &DeeBertConfig {
        &self.config
    }

    /// The same weights under another choice of pooling and thresholds.
    ///
    /// # Errors
    /// Thresholds that do not fit the model.
    pub fn with_exits(mut self, exits: crate::ExitConfig) -> Result<Self> {
        self.config.deebert = exits;
        self.config.validate()?;
        Ok(self)
    }

    /// Number of layers `L`, which is the number of exits that answer.
    pub fn layers(&self) -> usize {
        self.bert.encoder.layers.len()
    }

    /// The model whose off-ramps begin with the encoder's pooler, as before either stage of training.
    #[must_use]
    pub fn with_copied_poolers(mut self) -> Self {
        if let Some(BertPooler { dense }) = &self.bert.pooler {
            let ramps = self.highway.into_iter();
            self.highway = ramps.map(|ramp| ramp.with_pooler(dense)).collect();
        }
        self
    }

    /// The off-ramps that answer, to be trained by themselves.
    pub fn off_ramps(&self) -> OffRamps {
        OffRamps {
            exits: self.highway[..self.layers() - 1].to_vec(),
        }
    }

    /// The model with these off-ramps in front.
    #[must_use]
    pub fn with_off_ramps(mut self, ramps: OffRamps) -> Self {
        for (place, ramp) in self.highway.iter_mut().zip(ramps.exits) {
            *place = ramp;
        }
        self
    }

    /// The final classifier alone: `[batch, labels]`. What stage 1 trains, and what early exits are compared with.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn classify(&self, input: &EncoderInput, mode: Mode) -> Result<Tensor<2>> {
        let input = self.prepared(input)?;
        let body = self.bert.forward(&input, &EncoderCall::new(mode))?;
        let mask = real_tokens(&input, &body.last_hidden_state.device());
        Ok(self.finish(body.last_hidden_state, mask.as_ref(), mode)?.1)
    }

    /// The scores of every exit, none taken.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward_all_exits(&self, input: &EncoderInput, mode: Mode) -> Result<AllExits> {
        let input = self.prepared(input)?;
        let call = EncoderCall {
            hidden_states: true,
            ..EncoderCall::new(mode)
        };
        let body = self.bert.forward(&input, &call)?;
        let mask = real_tokens(&input, &body.last_hidden_state.device());
        // The embeddings' output comes first, and has no off-ramp.
        let layers = body.hidden_states.into_iter().skip(1);
        let ramps = self.highway.iter().zip(layers).enumerate();
        let ramps = ramps.map(|(i, (ramp, states))| {
            let vector = self.ramp_input(states, mask.as_ref());
            ramp.forward(vector, ramp_mode(mode, i))
        });
        let highway = ramps.collect::<Result<_>>()?;
        let last = body.last_hidden_state.clone();
        let (pooler_output, logits) = self.finish(last, mask.as_ref(), mode)?;
        Ok(AllExits {
            logits,
            highway,
            last_hidden_state: body.last_hidden_state,
            pooler_output,
        })
    }

    /// What the off-ramps of layers `1 … L − 1` see, each `[batch, hidden]` and cut off from the encoder: stage 2 leaves it as it
    /// is.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn features(&self, input: &EncoderInput, mode: Mode) -> Result<Vec<Tensor<2>>> {
        let input = self.prepared(input)?;
        let call = EncoderCall {
            hidden_states: true,
            ..EncoderCall::new(mode)
        };
        let states = self.bert.forward(&input, &call)?.hidden_states;
        let mask = states
            .first()
            .and_then(|x| real_tokens(&input, &x.device()));
        let inner = states.into_iter().skip(1).take(self.layers() - 1);
        let vectors = inner.map(|x| self.ramp_input(x, mask.as_ref()).without_autodiff());
        Ok(vectors.collect())
    }

    /// Mean loss of each exit that answers, the final classifier's last, each `[1]`; see [`classification_loss`].
    ///
    /// # Errors
    /// Labels of the wrong kind, number or range.
    pub fn losses(&self, exits: &AllExits, labels: &Labels) -> Result<Vec<Tensor<1>>> {
        exits
            .answers()
            .map(|z| self.loss(z.clone(), labels))
            .collect()
    }

    /// The loss of one exit's scores, `[1]`.
    ///
    /// # Errors
    /// Labels of the wrong kind, number or range.
    pub fn loss(&self, logits: Tensor<2>, labels: &Labels) -> Result<Tensor<1>> {
        classification_loss(logits, labels, self.config.bert.problem_type)
    }

    /// The vector that an off-ramp sees.
    pub(crate) fn ramp_input(&self, states: Tensor<3>, mask: Option<&Tensor<2>>) -> Tensor<2> {
        summary(states, mask, self.config.deebert.off_ramp_pooling)
    }

    /// The last layer's output to the final classifier's pooled vector and scores.
    pub(crate) fn finish(
        &self,
        states: Tensor<3>,
        mask: Option<&Tensor<2>>,
        mode: Mode,
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        let pooler = self.bert.pooler.as_ref().ok_or_else(|| {
            input_error(
                "the encoder",
                "without a pooler",
                "the final classifier needs one",
            )
        })?;
        let vector = summary(states, mask, self.config.deebert.final_pooling);
        let pooled = pooler.dense.forward(vector).tanh();
        let logits = self.classifier.forward(pooled.clone(), mode)?;
        Ok((pooled, logits))
    }

    /// The input as this variant takes it: a RoBERTa knows no segments, and the published code never passes any.
    pub(crate) fn prepared<'a>(&self, input: &'a EncoderInput) -> Result<Cow<'a, EncoderInput>> {
        let roberta = self.config.bert.variant()? == Variant::Roberta;
        if !roberta || input.token_type_ids().is_none() {
            return Ok(Cow::Borrowed(input));
        }
        let ids = input.input_ids().to_vec();
        let mut plain = EncoderInput::new(ids, input.batch(), input.length())?;
        if let Some(mask) = input.attention_mask() {
            plain = plain.with_attention_mask(mask.to_vec())?;
        }
        if let Some(positions) = input.position_ids() {
            plain = plain.with_positions(positions.to_vec())?;
        }
        Ok(Cow::Owned(plain))
    }
}

/// The mask `[batch, length]`, 1 for real tokens; `None` where all are.
fn real_tokens(input: &EncoderInput, device: &Device) -> Option<Tensor<2>> {
    let padded = input.attention_mask().is_some_and(|m| m.contains(&false));
    padded.then(|| input.mask_tensor(device))
}

impl Weights for DeeBertForSequenceClassification {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let variant = self.config.bert.variant().unwrap_or(Variant::Bert);
        let prefix = variant.prefix();
        self.bert.bind_under(b, prefix);
        for (i, ramp) in self.highway.iter_mut().enumerate() {
            ramp.bind(b, &format!("{prefix}encoder.highway.{i}"));
        }
        self.classifier.classifier.bind(b, "classifier");
        if variant == Variant::Roberta {
            // Hugging Face's classifier is the same two maps under names of its own, so Python reads these files too.
            for part in ["weight", "bias"] {
                let pooler = format!("{prefix}pooler.dense.{part}");
                b.alias(&format!("classifier.dense.{part}"), &pooler);
                b.alias(
                    &format!("classifier.out_proj.{part}"),
                    &format!("classifier.{part}"),
                );
            }
        }
    }
}
