//! The load tester: drives a running shop over HTTP as its buyers do. It shares nothing with the shop but the API.
//!
//! A benchmark uses the first rooms by themselves: a [`Line`](line::Line) a connection, a [`Buyer`](load::Buyer) that asks
//! on it, [`drive`](load::drive) that lets buyers begin, and a [`Tally`](tally::Tally) of what came.

// One connection; when buyers come; what came of it; many buyers at once.
pub mod line;
pub mod schedule;
pub mod tally;

pub mod load;

// What buyers ask for, and what the shop says.
pub mod said;
pub mod wish;
