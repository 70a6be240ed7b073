//! The load tester: drives a running shop over HTTP as its buyers do, keeps a journal of what the shop has acknowledged,
//! and holds it against the shop. It shares nothing with the shop but the API.
//!
//! A benchmark uses the first rooms by themselves: a [`Line`](line::Line) a connection, a [`Buyer`](load::Buyer) that asks
//! on it, [`drive`](load::drive) that lets buyers begin, and a [`Tally`](tally::Tally) of what came.

// One connection; when buyers come; what came of it; many buyers at once.
pub mod line;
pub mod schedule;
pub mod tally;

pub mod load;

// What buyers ask for, and what the shop says; what it has promised, on disk.
pub mod diary;
pub mod said;
pub mod wish;

// A run: what its buyers share, and how they behave.
pub mod run;
pub mod visit;

// What staff see, and whether the shop has kept its word.
pub mod staff;
pub mod verdict;

// The whole of it: scenarios, from the empty shelf to the table.
mod report;
mod scenario;

pub use report::Report;
pub use scenario::{Assortment, Plan, Scenario, hammer};
