//! The authors' model.

mod attention;
mod config;
mod model;
mod stream;
mod weights;

pub use attention::{PaperAttention, RelativeTables};
pub(crate) use attention::{PaperRouting, route};
pub use config::{OneAxis, PaperConfig};
pub use model::{Dense, Geglu, PaperFeedForward, PaperLayer, PaperTransformer, ReluFeedForward};
pub(crate) use weights::PREFIX;
