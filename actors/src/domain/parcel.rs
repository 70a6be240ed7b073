//! What goes into a box, how it is sent, and what a carrier says of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Invalid, Money, words};

/// Size and weight of a box. Whole millimetres and grams: no rounding, no unit to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// Millimetres.
    pub length_mm: i64,
    /// Millimetres.
    pub width_mm: i64,
    /// Millimetres.
    pub height_mm: i64,
    /// Grams, the box included.
    pub grams: i64,
}

impl Parcel {
    /// The same box, if it is one that can be sent: up to ten metres and a tonne.
    ///
    /// # Errors
    /// [`Invalid`] with the field's path.
    pub fn checked(self) -> Result<Self, Invalid> {
        let fields = [
            ("parcel.length_mm", self.length_mm, 10_000),
            ("parcel.width_mm", self.width_mm, 10_000),
            ("parcel.height_mm", self.height_mm, 10_000),
            ("parcel.grams", self.grams, 1_000_000),
        ];
        match fields.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            Some((field, _, most)) => Err(Invalid::new(*field, format!("is a whole number from 1 to {most}"))),
            None => Ok(self),
        }
    }
}

/// A way of sending, as it was quoted and chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Who is asked for the label: a carrier gateway's name, or `manual` where staff enters a number by hand.
    pub provider: String,
    /// The carrier's token, e.g. `usps`; empty for `manual`.
    pub carrier: String,
    /// The service's token, e.g. `usps_priority`, or the method's code in the settings.
    pub token: String,
    /// What buyers see, e.g. `USPS Priority Mail`.
    pub name: String,
}

/// A way of sending, and what the buyer pays for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChosenShipping {
    /// Which.
    pub service: Service,
    /// At what price, a part of the order's total.
    pub price: Money,
}

/// What customs want to know of a parcel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Customs {
    /// Who declares it.
    pub signer: String,
    /// What is in it.
    pub items: Vec<CustomsItem>,
}

/// One kind of goods in a parcel, for customs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CustomsItem {
    /// What it is.
    pub description: String,
    /// How many.
    pub quantity: i64,
    /// What all of them weigh, in grams.
    pub grams: i64,
    /// What all of them are worth.
    pub value: Money,
    /// Where it was made, ISO 3166 alpha-2.
    pub origin: String,
    /// The tariff number, where known.
    pub hs_code: Option<String>,
}

/// A label as the carrier has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The carrier's id of it.
    pub label_id: String,
    /// Where it stands.
    pub status: LabelStatus,
    /// The carrier's token, as [`Carrier::track`] wants it.
    pub carrier: Option<String>,
    /// The parcel's number.
    pub tracking_number: Option<String>,
    /// Where a buyer can follow it.
    pub tracking_url: Option<String>,
    /// Where the file is, for a while.
    pub file_url: Option<String>,
    /// What it cost.
    pub cost: Option<Money>,
}

/// Where a label stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelStatus {
    /// Being bought.
    Queued,
    /// Bought.
    Bought,
    /// Not bought, and why, in the carrier's words.
    Failed(String),
    /// Its money is asked back.
    Voiding,
    /// Its money came back.
    Voided,
    /// Its money does not come back.
    VoidRejected,
}

/// How a void stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Void {
    /// The carrier decides; may take days.
    Pending,
    /// Granted.
    Done,
    /// Refused.
    Rejected,
}

words! {
    /// Where a parcel is, by rank: later words are further on the way.
    TrackingStatus {
        /// No word, or one that this version does not know.
        Unknown = "unknown",
        /// The carrier knows of it and does not have it.
        PreTransit = "pre_transit",
        /// On its way.
        Transit = "transit",
        /// Something went wrong: lost, destroyed, undeliverable.
        Failure = "failure",
        /// On its way back, or back.
        Returned = "returned",
        /// With the buyer.
        Delivered = "delivered",
    }
}

/// One thing that a carrier said of a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// Where it is.
    pub status: TrackingStatus,
    /// The carrier's finer word.
    pub substatus: Option<String>,
    /// For a person; no address.
    pub details: String,
    /// When it was so, by the carrier's clock.
    pub at: DateTime<Utc>,
}
