//! Stories about the shop, told against a real Postgres; a file per story.

mod baskets;
mod cli;
mod commands;
mod crash;
mod crowd;
mod embedded;
mod http;
mod idempotency;
mod journal;
mod model;
mod money;
mod orders;
mod payments;
mod postgres_outage;
mod ractor;
mod refunds;
mod returns;
mod sandbox;
mod shipments;
mod stock;
mod supervision;
mod support;
mod tidy;
