//! How buyers behave.

mod rush;
mod whole;

pub use rush::Rush;
pub use whole::{Bank, Whole};
