//! The model of the PyTorch package `routing-transformer`.

mod attention;
mod config;
mod model;
mod stream;
mod weights;

pub(crate) use attention::{HIDDEN, Masks, OUTSIDE, UnitRouting, missing, own_score, route};
pub use attention::{LucidrainsAttention, MemoryKeys, RoutingHeads};
pub use config::{LocalHeads, LucidrainsConfig};
pub use model::{
    BranchNorm, LucidrainsFeedForward, LucidrainsLayer, LucidrainsTransformer, Projections,
};
pub(crate) use weights::take_initted;
