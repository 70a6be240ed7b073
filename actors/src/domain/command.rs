//! What people ask of a placed order.

use super::{Customs, Money, Parcel, ReturnId, Service, ShipmentId, Units};

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
    /// Pack a shipment, and have its label bought.
    Pack(Box<Packing>),
    /// Try again to buy a label that the carrier did not give.
    BuyLabel {
        /// Of which shipment.
        shipment_id: ShipmentId,
    },
    /// Call a shipment off that has not left.
    VoidLabel {
        /// Which.
        shipment_id: ShipmentId,
    },
    /// The label that its carrier keeps the money of is not used all the same: the parcel is here.
    WriteOff {
        /// Of which shipment.
        shipment_id: ShipmentId,
    },
    /// It was handed over.
    Ship {
        /// Which.
        shipment_id: ShipmentId,
    },
    /// The buyer has it, as staff knows.
    Deliver {
        /// Which.
        shipment_id: ShipmentId,
    },
    /// Send goods back.
    AskReturn {
        /// Which, and why.
        lines: Vec<Wanted>,
        /// What else there is to say.
        note: Option<String>,
    },
    /// Something about a return.
    Return {
        /// Which.
        return_id: ReturnId,
        /// What.
        step: ReturnStep,
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

/// A shipment to be packed.
#[derive(Debug, Clone)]
pub struct Packing {
    /// What goes into it; none: all that is in no shipment yet.
    pub lines: Option<Vec<Units>>,
    /// The box.
    pub parcel: Parcel,
    /// How it is sent; none: as the buyer chose.
    pub service: Option<Service>,
    /// What customs want to know.
    pub customs: Option<Customs>,
    /// The parcel's number, where staff has it from the carrier.
    pub tracking_number: Option<String>,
    /// The carrier's name that goes with it.
    pub carrier: Option<String>,
}

/// Units that are to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub units: Units,
    /// Why.
    pub reason: String,
}

/// What staff does about a return.
#[derive(Debug, Clone)]
pub enum ReturnStep {
    /// Agree.
    Approve,
    /// Do not agree.
    Decline {
        /// Why, for the buyer.
        reason: String,
    },
    /// They were sent.
    Sent,
    /// These arrived.
    Receive {
        /// Which.
        lines: Vec<Units>,
    },
    /// This becomes of what arrived.
    Inspect {
        /// Of each line that arrived.
        lines: Vec<Inspected>,
        /// Whether what arrived is paid back.
        refund: bool,
    },
    /// Nothing more is done about it.
    Close {
        /// Whether what arrived is paid back.
        refund: bool,
    },
}

/// What becomes of the units of one line that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// The order's line, from 0.
    pub line: i32,
    /// How many can be sold again.
    pub restock: i64,
    /// How many are put aside.
    pub quarantine: i64,
    /// How many are thrown away.
    pub scrap: i64,
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
