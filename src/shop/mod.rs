//! The shop's own rules and records: what nobody competes for. Stock, orders and money are asked of the engine.

pub mod checkout;
pub mod demo;
pub mod imports;
pub mod live;
pub mod products;
pub mod quote;
pub mod room;
pub mod shipping;

use std::sync::Arc;

use souk_actors::Engine;
use sqlx::PgPool;

use crate::{
    auth::Keys,
    gateways::{merchants::Merchants, paypal::PayPal},
};

/// Everything that a request can need. Cloned into handlers as an `Arc`.
pub struct Shop {
    /// The one door to stock, orders and money.
    pub engine: Engine,
    /// For the shop's own tables; cannot write the engine's.
    pub pool: PgPool,
    /// Prices, cached.
    pub prices: quote::Prices,
    /// Who may ask what.
    pub keys: Keys,
    /// Verifies PayPal's webhooks.
    pub paypal: Arc<PayPal>,
    /// What sending costs, and who is asked.
    pub shipping: shipping::Shipping,
    /// Who listens to what is left.
    pub live: live::Live,
    /// Calls merchants, and knows which addresses may be called.
    pub merchants: Arc<Merchants>,
    /// Rules of the HTTP room.
    pub limits: Limits,
}

/// Bounds on requests.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest that a request waits for an answer.
    pub timeout: std::time::Duration,
    /// The largest body.
    pub body: usize,
    /// The largest file of stock corrections.
    pub import: usize,
    /// Whether tests may move the clock.
    pub movable_clock: bool,
}
