//! Text in, answers out, for every class of Hugging Face's.

use crate::config::{LandmarkPolicy, NystromformerConfig};
use bert::{Answering, BertTokenizer, Encoded, EncoderInput, Form, collate};
use trainer::{Error, Result};

/// The only length that a model takes; `None` where it takes any.
pub(crate) fn fixed_length(config: &NystromformerConfig) -> Option<usize> {
    let strict = config.landmark_policy == LandmarkPolicy::Strict;
    let length = config.segment_means_seq_len;
    (strict && config.num_landmarks != length).then_some(length)
}

/// How texts are answered for a model of this configuration.
pub(crate) fn answering<'a>(
    config: &NystromformerConfig,
    tokenizer: &'a BertTokenizer,
    form: Form,
) -> Answering<'a> {
    Answering {
        tokenizer,
        form,
        longest: fixed_length(config).unwrap_or(config.max_position_embeddings),
        segments: config.type_vocab_size,
        labels: config.label_names(),
        problem: config.problem_type,
    }
}

/// A batch as a model of this configuration takes it: padded where it takes one length alone.
pub(crate) fn fitted(
    config: &NystromformerConfig,
    batch: &EncoderInput,
    tokenizer: &BertTokenizer,
) -> EncoderInput {
    let pad = i64::from(tokenizer.special().pad);
    match fixed_length(config) {
        Some(length) => batch.clone().padded_to(length, pad),
        None => batch.clone(),
    }
}

/// Rows as a batch, padded on the right with `pad` to the longest, and to `length` where that is given.
pub(crate) fn padded(rows: &[Encoded], pad: u32, length: Option<usize>) -> Result<EncoderInput> {
    let input = collate(rows, pad).map_err(Error::other)?;
    Ok(match length {
        Some(length) => input.padded_to(length, i64::from(pad)),
        None => input,
    })
}
