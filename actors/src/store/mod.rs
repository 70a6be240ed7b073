//! The engine's SQL. Lowercase, inline, one set-based statement per kind of row; nothing here decides anything.

pub mod audit;
pub(crate) mod entry;
mod ids;
pub(crate) mod inbox;
pub(crate) mod load;
pub mod read;
pub(crate) mod write;

pub use crate::error::refusal;
pub use ids::Ids;
