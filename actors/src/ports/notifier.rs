//! Somebody who tells the world what has happened: by mail, or by calling a merchant's own address.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::domain::{Channel, EventSeq, NoticeId, OrderId, Subscription};

/// A way out for news. It renders and sends; when and how often is the outbox's business.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Which way out it is.
    fn channel(&self) -> Channel;

    /// Sends one piece of news, bounded by the gateway's own timeout. Asked again with the same notice it sends the same,
    /// under the same id.
    async fn send(&self, notice: &Notice) -> Delivery;
}

/// A piece of news, committed together with what it is about.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Its number: what its Message-ID or webhook id is made of.
    pub id: NoticeId,
    /// The order it is about.
    pub order_id: OrderId,
    /// The event's number in the order's timeline.
    pub event_seq: EventSeq,
    /// The event, in one word, as in the order's timeline.
    pub kind: String,
    /// The event's particulars.
    pub data: Value,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// To whom: a subscription; none for mail, which goes to the order's buyer.
    pub to: Option<Arc<Subscription>>,
}

/// How one try went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whether it was taken.
    pub end: Result<(), SendError>,
    /// The HTTP status of the answer, where there was one.
    pub status: Option<u16>,
    /// The beginning of the answer, for the delivery log.
    pub said: String,
}

impl From<Result<(), SendError>> for Delivery {
    /// A try of which there is nothing else to say.
    fn from(end: Result<(), SendError>) -> Self {
        Self { end, status: None, said: String::new() }
    }
}

/// Why news were not sent. The text is kept and logged: no address, no token.
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
    /// Nor will anything else: the receiver wants no more.
    #[error("gone: {0}")]
    Gone(String),
}
