//! Stories about the shop, told against a real Postgres; a file per story.

mod baskets;
mod cli;
mod commands;
mod crash;
mod crowd;
mod embedded;
mod http;
mod idempotency;
mod imports;
mod journal;
mod mail;
mod merchant_webhooks;
mod model;
mod money;
mod orders;
mod postgres_outage;
mod ractor;
mod sandbox;
mod sandbox_mail;
mod sandbox_shippo;
mod shipping;
mod stock;
mod supervision;
mod support;
mod tidy;
