//! What the engine's stories are told with: a real Postgres, an engine on a database of its own, a provider of payments
//! with books of its own, and a line to Postgres that can be cut.

mod carrier;
mod cluster;
mod engine;
pub(crate) mod goods;
pub(crate) mod house;
mod keys;
mod moods;
mod provider;
mod proxy;
pub(crate) mod shop;
mod waiting;

pub(crate) use carrier::{Ask, FakeCarrier};
pub(crate) use cluster::TestDb;
pub(crate) use engine::{Setup, TestEngine, basket, fingerprint, usd};
pub(crate) use keys::open_sandbox;
pub(crate) use moods::Mood;
pub(crate) use provider::{FakeProvider, Op};
pub(crate) use proxy::{Cut, Proxy};
pub(crate) use waiting::{PATIENCE, eventually, eventually_or, passes};
