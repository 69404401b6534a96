//! The authors' model.

mod attention;
mod config;
mod model;
mod stream;
mod weights;

pub use attention::{PaperAttention, RelativeTables};
pub(crate) use attention::{PaperRouting, route};
pub(crate) use config::BYTES;
pub use config::{Frame, OneAxis, PaperConfig};
pub use model::{
    Dense, FramePositions, Geglu, PaperFeedForward, PaperLayer, PaperTransformer, ReluFeedForward,
};
pub(crate) use weights::prefix;
