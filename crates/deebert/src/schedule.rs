//! How the exits' losses become one: the two stages of the paper, and both at once.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

/// In which order encoder and off-ramps are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExitSchedule {
    /// First everything but the off-ramps, for the final classifier; then the off-ramps alone (section 3.2 of the paper).
    #[default]
    TwoStage,
    /// Everything at once, for the sum over all exits. The paper rejects it: the last layer gets worse.
    Joint,
    /// Updates for the final classifier and for all exits in turn (BERxiT, EACL 2021).
    Alternating,
}

/// What the exits' losses count in the joint loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum JointWeights {
    /// All the same: a sum.
    #[default]
    Equal,
    /// Exit `l` counts `l / (1 + 2 + … + L)`, which keeps the last layer better.
    Linear,
}

/// The loss of stage 2: the sum over the off-ramps, `[1]`; `None` where there are none.
pub fn stage2_loss(ramps: impl IntoIterator<Item = Tensor<1>>) -> Option<Tensor<1>> {
    ramps.into_iter().reduce(|sum, loss| sum + loss)
}

/// The joint loss of all exits, first to last, `[1]`; `None` where there are none.
pub fn joint_loss(exits: &[Tensor<1>], weights: JointWeights) -> Option<Tensor<1>> {
    let total: usize = (1..=exits.len()).sum();
    let weighted = exits.iter().enumerate().map(|(i, loss)| match weights {
        JointWeights::Equal => loss.clone(),
        JointWeights::Linear => loss.clone().mul_scalar((i + 1) as f64 / total as f64),
    });
    weighted.reduce(|sum, loss| sum + loss)
}
