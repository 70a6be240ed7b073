//! Somebody who tells the world what has happened: by mail, or by calling a merchant's own address.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::domain::OrderId;

/// A way out for news. It renders and sends; when and how often is the outbox's business.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Its name in rows and the supervision tree, e.g. `mail`.
    fn name(&self) -> &'static str;

    /// Sends one piece of news. Asked again with the same notice it sends the same, under the same id.
    async fn send(&self, notice: &Notice) -> Result<(), SendError>;
}

/// A piece of news, committed together with what it is about.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Its number: what its Message-ID or webhook id is made of.
    pub id: i64,
    /// The order it is about.
    pub order_id: OrderId,
    /// The event, in one word, as in the order's timeline.
    pub kind: String,
    /// The event's particulars.
    pub data: Value,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// To whom: a subscription's id for a webhook; none for mail, which goes to the order's buyer.
    pub subscription_id: Option<i64>,
}

/// Why news were not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nothing was taken: again later.
    #[error("not now: {0}")]
    NotNow(String),
    /// It may have been taken: again later, and perhaps a second time.
    #[error("no certain answer: {0}")]
    Unknown(String),
    /// It never will be.
    #[error("refused: {0}")]
    Refused(String),
}
