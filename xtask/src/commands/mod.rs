//! The commands, one file each: the arguments and what is done with them.

pub mod bench;
pub mod ci;
pub mod compare;
pub mod convert;
pub mod data;
pub mod eval;
pub mod forward;
pub mod generate;
pub mod inspect;
pub mod list;
pub mod predict;
pub mod report;
pub mod results;
pub mod schema;
pub mod train;
pub mod verify;
