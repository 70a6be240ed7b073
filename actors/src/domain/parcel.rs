//! What goes into a box, and how it is sent.

use serde::{Deserialize, Serialize};

use super::Money;

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
