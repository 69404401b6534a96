//! From blocks of a text to what a model reads and what it is asked.

use crate::lm::PADDING;
use crate::paper::PaperTransformer;
use crate::{Mode, Routed, RoutingTransformerConfig, RoutingTransformerLM, cross_entropy};
use burn::prelude::*;
use core_attn::random::Key;
use datasets::Block;

/// Ids of a model from those of a vocabulary: 0 is padding, so every token moves up by one.
pub(crate) fn model_ids(tokens: &[u32]) -> Vec<i32> {
    tokens.iter().map(|id| *id as i32 + 1).collect()
}

/// How many ids a model needs for a vocabulary of `tokens`: padding, the tokens, and the mask of a model that is not causal.
pub(crate) fn ids_for(config: &RoutingTransformerConfig, tokens: usize) -> usize {
    tokens + 1 + usize::from(!config.causal())
}

/// What one batch asks of a model.
pub(crate) struct Question {
    pub inputs: Tensor<2, Int>,
    /// Padding where nothing is asked.
    pub targets: Tensor<2, Int>,
}

fn tensor(ids: Vec<i32>, [batch, length]: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids, [batch, length]), device)
}

/// The question of a block, its rows cut to `length`. Random numbers are those of `key`; a rate of dropped input tokens only
/// belongs to training.
pub(crate) fn question(
    config: &RoutingTransformerConfig,
    block: &Block,
    length: usize,
    masked_share: f64,
    drop: bool,
    key: Key,
    device: &Device,
) -> Question {
    let cut = |ids: &[u32]| -> Vec<u32> {
        let rows = ids.chunks_exact(block.length);
        rows.flat_map(|row| row[..length].to_vec()).collect()
    };
    let shape = [block.batch, length];
    let inputs = model_ids(&cut(&block.inputs));
    if !config.causal() {
        let mask = config.vocab().unwrap_or(1) as i32 - 1;
        let key = key.site("masked");
        let hidden = |i: usize| key.uniform(i as u64) < masked_share;
        let pick = |yes: bool, a: i32, b: i32| if yes { a } else { b };
        let all = || inputs.iter().enumerate();
        let read = all().map(|(i, id)| pick(hidden(i), mask, *id)).collect();
        let asked = all().map(|(i, id)| pick(hidden(i), *id, PADDING as i32));
        return Question {
            targets: tensor(asked.collect(), shape, device),
            inputs: tensor(read, shape, device),
        };
    }
    match config {
        // The authors' model foretells every token of its window, the first from nothing.
        RoutingTransformerConfig::Paper(c) => {
            let key = key.site("target_dropout");
            let rate = if drop { c.target_dropout } else { 0.0 };
            let dropped = inputs.iter().enumerate().map(|(i, id)| {
                match rate > 0.0 && key.uniform(i as u64) < rate {
                    true => PADDING as i32,
                    false => *id,
                }
            });
            let read = tensor(dropped.collect(), shape, device);
            Question {
                inputs: PaperTransformer::shifted(read),
                targets: tensor(inputs, shape, device),
            }
        }
        RoutingTransformerConfig::Lucidrains(_) => Question {
            inputs: tensor(inputs, shape, device),
            targets: tensor(model_ids(&cut(&block.targets)), shape, device),
        },
    }
}

/// The answer: mean loss in nats per token asked, clustering loss, what the routed layers saw.
pub(crate) fn answer(
    model: &RoutingTransformerLM,
    question: Question,
    mode: Mode,
) -> crate::Result<(Tensor<1>, Tensor<1>, Vec<Routed>)> {
    let output = model.forward(question.inputs, mode)?;
    let (loss, _) = cross_entropy(output.logits, question.targets)?;
    Ok((loss, output.clustering_loss, output.routed))
}
