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
mod paypal_authorise;
mod paypal_lives;
mod paypal_table;
mod postgres_outage;
mod ractor;
mod refunds;
mod sandbox;
mod stock;
mod supervision;
mod support;
mod tidy;
