//! Every way the engine says no. A refusal is an answer, not a fault: it changes nothing and is not remembered.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Invalid, OrderStatus, SaleId, SalePhase, SkuId, TicketFault, words};

words! {
    /// What bounds a refund.
    RefundLimit {
        /// What was captured and has not gone back.
        Captured = "what was captured",
        /// What was bought of a line and was not paid back.
        Line = "the line",
        /// What sending cost and was not paid back.
        Shipping = "what sending cost",
    }
}

/// A line that cannot be had, and what could.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShortLine {
    /// The line's SKU.
    pub sku_id: SkuId,
    /// Units asked for (repeated lines merged).
    pub requested: i64,
    /// Units that can be sold now.
    pub available: i64,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A value is not one that the engine takes.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Not every line can be had; nothing was held.
    #[error("not enough stock")]
    OutOfStock(Vec<ShortLine>),
    /// No such order, SKU or payment.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The key was used for something else.
    #[error("this idempotency key was used for a different request")]
    KeyReused,
    /// The order's status does not allow it.
    #[error("the order is {status}: {why}")]
    NotNow {
        /// The order's status.
        status: OrderStatus,
        /// For a person.
        why: &'static str,
    },
    /// The adjustment would take stock below what is reserved.
    #[error("only {available} units are not reserved")]
    BelowReserved {
        /// What could be taken away.
        available: i64,
    },
    /// The adjustment expects another number of units on hand than there is.
    #[error("{on_hand} units are on hand")]
    StockChanged {
        /// What is there.
        on_hand: i64,
    },
    /// More should go back than can.
    #[error("no more than {left} can go back of {limit}")]
    RefundExceeds {
        /// What it would be more than.
        limit: RefundLimit,
        /// What could go back: minor units of money, or units of a line.
        left: i64,
    },
    /// The SKU is sold in a sale that has not begun.
    #[error("{sku_id} is not sold before {starts_at}")]
    SaleNotStarted {
        /// Which SKU.
        sku_id: SkuId,
        /// In which sale it will be.
        sale_id: SaleId,
        /// When that begins.
        starts_at: DateTime<Utc>,
    },
    /// The customer has all that a sale gives one customer.
    #[error("one customer can have {limit} of {sku_id} in this sale, and this one has {used}")]
    LimitReached {
        /// Of which SKU.
        sku_id: SkuId,
        /// In which sale.
        sale_id: SaleId,
        /// How many one customer can have.
        limit: i64,
        /// How many this one has, paid or not.
        used: i64,
    },
    /// The SKU is no longer sold as it was quoted: a sale has begun or ended.
    #[error("{sku_id} is sold at another price now")]
    OfferChanged {
        /// Which SKU.
        sku_id: SkuId,
    },
    /// Another sale has the SKU in a part of the time.
    #[error("{sku_id} is in another sale at that time")]
    SaleOverlaps {
        /// Which SKU.
        sku_id: SkuId,
        /// Which sale.
        sale_id: SaleId,
    },
    /// The sale has sold more than it is to have.
    #[error("{sold} units of {sku_id} are sold in it")]
    BelowSold {
        /// Of which SKU.
        sku_id: SkuId,
        /// How many, paid or not.
        sold: i64,
    },
    /// The sale has a waiting room, and the ticket does not let its holder buy.
    #[error("the ticket does not let its holder buy: {0}")]
    Ticket(TicketFault),
    /// Where the sale stands does not allow it.
    #[error("the sale is {phase}: {why}")]
    SaleState {
        /// Where it stands.
        phase: SalePhase,
        /// For a person.
        why: &'static str,
    },
    /// Too much is waiting already; nothing was begun.
    #[error("too much is waiting already")]
    Busy,
    /// The database is away, or the actor concerned rests after a crash; nothing was begun.
    #[error("not available right now: {0}")]
    Away(&'static str),
    /// Begun, but nobody knows how it ended: ask again with the same key.
    #[error("no answer yet: ask again with the same key")]
    Unknown,
    /// A newer engine has taken over this database.
    #[error("a newer engine has taken over")]
    Superseded,
    /// The engine refused its own work: logged, nothing changed.
    #[error("internal fault")]
    Fault,
}

impl Refusal {
    /// When it makes sense to ask again, where it does.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy | Self::Away(_) | Self::Unknown => Some(Duration::from_secs(1)),
            Self::Superseded => Some(Duration::from_secs(2)),
            Self::Invalid(_)
            | Self::OutOfStock(_)
            | Self::NotFound(_)
            | Self::KeyReused
            | Self::NotNow { .. }
            | Self::BelowReserved { .. }
            | Self::StockChanged { .. }
            | Self::RefundExceeds { .. }
            | Self::SaleNotStarted { .. }
            | Self::LimitReached { .. }
            | Self::OfferChanged { .. }
            | Self::SaleOverlaps { .. }
            | Self::BelowSold { .. }
            | Self::SaleState { .. }
            | Self::Ticket(_)
            | Self::Fault => None,
        }
    }
}

impl From<TicketFault> for Refusal {
    fn from(fault: TicketFault) -> Self {
        Self::Ticket(fault)
    }
}
