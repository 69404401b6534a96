//! Attention within clusters, within blocks, and the pieces they need.
//!
//! | what | where |
//! |---|---|
//! | which positions a cluster takes, ties to the lowest position | [`Scores`], [`Members`], [`PrefixMembers`] |
//! | gather, attention within clusters, average over a position's clusters | [`routed_attention`] |
//! | attention to a block and its neighbours | [`local_attention`] |
//! | both for a text that is read on token by token | [`ClusterStream`], [`BlockStream`] |
//! | relative embeddings by rank (Shaw et al. 2018) | [`Shaw`] |
//! | rotary embeddings | [`rotary`](mod@rotary) |
//!
//! Who attends to whom is decided on the host from scores read once; it carries no gradient. What is computed with the
//! decision are tensor operations on any backend: gathers of rows, batched products, and a scatter; on the CPU and without
//! gradients one cluster after another is attended to while it is in the cache.

mod attention;
mod cpu;
mod local;
mod members;
mod naive;
pub mod rotary;
mod shaw;
mod stream;

pub use attention::{Hide, Memory, RoutedAttention, Routing, routed_attention};
pub use local::{LocalAttention, local_attention};
pub use members::{MemberOrder, Members, PrefixMembers, Scores, blank_rows};
pub use naive::{
    local_attention_naive, prefix_members_naive, routed_attention_naive, top_members_naive,
};
pub use shaw::{Shaw, shaw_scores, shaw_scores_naive, shaw_values, shaw_values_naive};
pub use stream::{BlockStream, ClusterStream, NewToken, StreamRules};
