//! What the engine's stories are told with: a real Postgres, an engine on a database of its own, a provider of payments
//! with books of its own, and a line to Postgres that can be cut.

mod carrier;
mod cluster;
mod engine;
pub(crate) mod goods;
pub(crate) mod house;
mod provider;
mod proxy;
pub(crate) mod shop;

use std::time::{Duration, Instant};

pub(crate) use carrier::{Ask, FakeCarrier};
pub(crate) use cluster::TestDb;
pub(crate) use engine::{Setup, TestEngine, basket, fingerprint, usd};
pub(crate) use provider::{FakeProvider, Mood, Op};
pub(crate) use proxy::{Cut, Proxy};

/// Waits for what is bound to happen; nobody sleeps for a guessed time. Patient enough for a machine that is busy with
/// something else.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < patience, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
