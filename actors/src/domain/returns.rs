//! Goods that come back: asked for, agreed to, received, looked at. What becomes of each unit is decided by a person.

use chrono::{DateTime, Utc};

use serde::Serialize;

use super::{ReturnId, ShipmentId, SkuId, words};

words! {
    /// Where a return stands.
    ReturnState {
        /// The buyer, or staff for him, wants to send goods back.
        Requested = "requested",
        /// Staff agreed.
        Approved = "approved",
        /// Staff did not.
        Declined = "declined",
        /// The goods are on their way back.
        InTransit = "in_transit",
        /// Some of them are here.
        PartlyReceived = "partly_received",
        /// All of them are here.
        Received = "received",
        /// It is decided what becomes of what came.
        Inspected = "inspected",
        /// Nothing more is done about it.
        Closed = "closed",
    }
}

/// Some units of one line of a return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReturnLine {
    /// The order's line, from 0.
    pub line: i32,
    /// What.
    pub sku_id: SkuId,
    /// How many are to come back.
    pub quantity: i64,
    /// Why, as the buyer said it.
    pub reason: String,
    /// How many came.
    pub received: i64,
    /// How many of those can be sold again.
    pub restocked: i64,
    /// How many are put aside.
    pub quarantined: i64,
    /// How many are thrown away.
    pub scrapped: i64,
}

/// A return.
#[derive(Debug, Clone)]
pub struct Return {
    /// Ours.
    pub id: ReturnId,
    /// Where it stands.
    pub state: ReturnState,
    /// What is to come back.
    pub lines: Vec<ReturnLine>,
    /// What the asker said.
    pub note: Option<String>,
    /// The number that the refunds of it carry, once it is paid back.
    pub refund_command: Option<i64>,
    /// The parcel that the carrier brings back, where nobody asked for it.
    pub shipment_id: Option<ShipmentId>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}

impl Return {
    /// Units of a line that no other return may have: those that are to come, and in the end those that came.
    #[must_use]
    pub fn claims(&self, line: i32) -> i64 {
        let units = |of: fn(&ReturnLine) -> i64| self.lines.iter().filter(|own| own.line == line).map(of).sum();
        match self.state {
            ReturnState::Requested
            | ReturnState::Approved
            | ReturnState::InTransit
            | ReturnState::PartlyReceived
            | ReturnState::Received => units(|own| own.quantity),
            ReturnState::Inspected | ReturnState::Closed => units(|own| own.received),
            ReturnState::Declined => 0,
        }
    }

    /// Units of a line that came and of which it is decided what becomes of them.
    #[must_use]
    pub fn looked_at(&self, line: i32) -> i64 {
        let own = self.lines.iter().filter(|own| own.line == line);
        own.map(|own| own.restocked + own.quarantined + own.scrapped).sum()
    }

    /// Whether goods of it may arrive.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        matches!(self.state, ReturnState::Approved | ReturnState::InTransit | ReturnState::PartlyReceived)
    }
}
