//! A carrier of parcels, or somebody who speaks to many: labels, and where parcels are.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::{Address, Parcel, ProviderError, Service, ShipmentId};
pub use crate::domain::{Customs, CustomsItem, Label, LabelStatus, Tracking, TrackingStatus, Void};

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

/// A label's printable file.
#[derive(Debug, Clone)]
pub struct LabelFile {
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
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
