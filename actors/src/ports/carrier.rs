//! A carrier of parcels, or somebody who speaks to many: labels, and where parcels are.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{Address, Money, Parcel, ProviderError, Service, ShipmentId, words};

/// A source of labels and tracking. Every method is one errand, bounded by the gateway's own timeout.
///
/// Carriers know no idempotency key: whoever buys a label looks first with [`Carrier::find`] whether it was bought.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Its name in routes, rows and the supervision tree, e.g. `shippo`.
    fn name(&self) -> &'static str;

    /// Buys the label of a shipment. The shipment's id goes along as metadata, which is what [`Carrier::find`] finds it by.
    /// A carrier that says no answers with [`LabelStatus::Failed`]; [`ProviderError::Unknown`] means that nobody knows.
    async fn buy(&self, wish: &BuyLabel) -> Result<Label, ProviderError>;

    /// Every label that was ever bought, or is being bought, for a shipment; failed ones are left out.
    async fn find(&self, shipment_id: ShipmentId) -> Result<Vec<Label>, ProviderError>;

    /// A label as it is now.
    async fn look(&self, label_id: &str) -> Result<Label, ProviderError>;

    /// Asks for the money of an unused label back, or how an earlier such wish stands: a second wish finds the first.
    async fn void(&self, label_id: &str) -> Result<Void, ProviderError>;

    /// The label's printable file: its address expires, so it is fetched once and kept.
    async fn file(&self, url: &str) -> Result<LabelFile, ProviderError>;

    /// Where a parcel has been, oldest first.
    async fn track(&self, carrier: &str, tracking_number: &str) -> Result<Vec<Tracking>, ProviderError>;

    /// Which parcel a verified webhook body speaks of. Only names are taken from it; facts are asked for.
    fn locate(&self, body: &[u8]) -> ParcelLocator;
}

/// What a carrier is told of a label.
#[derive(Debug, Clone)]
pub struct BuyLabel {
    /// Whose label; goes along as metadata.
    pub shipment_id: ShipmentId,
    /// Carrier and service, as quoted.
    pub service: Service,
    /// Where the parcel begins.
    pub from: Address,
    /// Where it goes.
    pub to: Address,
    /// For the carrier's own messages to the buyer; none: the carrier is told none.
    pub email: Option<String>,
    /// Size and weight.
    pub parcel: Parcel,
    /// What customs want to know; none inside one country.
    pub customs: Option<Customs>,
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

/// A label's printable file.
#[derive(Debug, Clone)]
pub struct LabelFile {
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
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

/// How a webhook names the parcel it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParcelLocator {
    /// The carrier's id of the label.
    pub label_id: Option<String>,
    /// Our shipment's id as it was given as metadata.
    pub shipment_id: Option<String>,
    /// The carrier's token.
    pub carrier: Option<String>,
    /// The parcel's number.
    pub tracking_number: Option<String>,
    /// The event's type, for the log.
    pub event_type: String,
    /// What makes this news the same as another delivery of it: such webhooks have no id of their own.
    pub fingerprint: String,
}
