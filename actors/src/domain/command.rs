//! What people ask of a placed order.

use super::{Money, Units};

/// One wish. The order's actor decides it; the key that comes with it makes its repetition harmless.
#[derive(Debug, Clone)]
pub enum Command {
    /// Nothing of it is shipped until it is released.
    Hold {
        /// Why, for the timeline.
        reason: String,
    },
    /// It may be shipped again.
    Release,
    /// A line for the timeline that only staff see.
    Note {
        /// What it says.
        text: String,
    },
    /// Money goes back to the buyer; no goods move.
    Refund {
        /// Which money.
        what: RefundWish,
        /// Why, for the timeline.
        reason: String,
    },
    /// What is reserved is taken now, before any goods leave.
    Capture,
    /// It is called off, whole or in part: what has not left is given back to the stock, and its money to the buyer.
    Cancel {
        /// Which units; none: all that has not left.
        lines: Option<Vec<Units>>,
        /// Why, for the timeline.
        reason: String,
    },
}

/// Which money is to go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundWish {
    /// All that is left.
    Full,
    /// So much.
    Amount(Money),
    /// The price of these units.
    Lines(Vec<Units>),
    /// What sending cost.
    Shipping,
    /// So much, as a kindness.
    Goodwill(Money),
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commanded {
    /// The id of what it made, or a number of its own where it made nothing that has one.
    pub id: i64,
    /// Whether it had been carried out before, with the same key.
    pub replayed: bool,
}
