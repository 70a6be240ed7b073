//! What the engine needs from outside, as it would say it: a provider of payments is asked in these words, in whatever
//! words it answers. `gateways/` in the shop implements them, one file a provider.

mod carrier;
mod notifier;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use carrier::{
    BuyLabel, Carrier, Customs, CustomsItem, Label, LabelFile, LabelStatus, ParcelLocator, Tracking, TrackingStatus,
    Void,
};
pub use notifier::{Delivery, Notice, Notifier, SendError};

use crate::domain::{Address, Currency, Intent, Money, PaymentId, RefundId, TaskId};
pub use crate::domain::{Created, Fact, FactKind, FactStatus, Locator, ProviderError};

/// A provider of payments. Every method is one exchange with it (a method may retry a lost token, nothing else), bounded
/// by the gateway's own timeout; who calls and when is the payment actor's business.
#[async_trait]
pub trait PaymentProvider: Send + Sync + 'static {
    /// The provider's name in routes, rows and the supervision tree, e.g. `paypal`.
    fn name(&self) -> &'static str;

    /// Announces a payment; the buyer approves it at `approve_url`. Nothing is charged. Asked again with the same
    /// `request_id` the provider answers with the same order.
    async fn create(&self, wish: &CreatePayment) -> Result<Created, ProviderError>;

    /// Asks what the provider knows of an order, its captures and refunds. Changes nothing.
    async fn inspect(&self, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError>;

    /// Takes the money of an approved order. Asked again with the same `request_id` it charges once.
    async fn capture(&self, request_id: TaskId, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError>;

    /// Gives `amount` of a capture back, and answers with that refund alone. Asked again with the same `request_id` it refunds
    /// once. `refund_id` comes back as the reference of every fact about it (PayPal: `custom_id`).
    async fn refund(
        &self,
        request_id: TaskId,
        refund_id: RefundId,
        capture_id: &str,
        amount: Money,
    ) -> Result<Vec<Fact>, ProviderError>;

    /// Reserves the money of an approved order that was announced with [`Intent::Authorise`]. Asked again with the same
    /// `request_id` it authorises once.
    async fn authorise(&self, _request_id: TaskId, _provider_order_id: &str) -> Result<Vec<Fact>, ProviderError> {
        Err(ProviderError::Rejected("this provider does not authorise".to_owned()))
    }

    /// Takes `amount` of what was authorised; `last`: what is left of it is let go. Asked again with the same `request_id`
    /// it charges once.
    async fn capture_authorised(
        &self,
        _request_id: TaskId,
        _authorisation_id: &str,
        _amount: Money,
        _last: bool,
    ) -> Result<Vec<Fact>, ProviderError> {
        Err(ProviderError::Rejected("this provider does not authorise".to_owned()))
    }

    /// Lets an authorisation go. Voiding one that is void is no error.
    async fn void(&self, _request_id: TaskId, _authorisation_id: &str) -> Result<Vec<Fact>, ProviderError> {
        Err(ProviderError::Rejected("this provider does not authorise".to_owned()))
    }

    /// The disputes about a capture, as facts of kind `dispute` whose parent is the capture. Changes nothing.
    async fn disputes(&self, _capture_id: &str) -> Result<Vec<Fact>, ProviderError> {
        Ok(Vec::new())
    }

    /// The provider's own list of its events from `since` to `until`, oldest first: the second path for webhooks that never
    /// came.
    async fn events(&self, _since: DateTime<Utc>, _until: DateTime<Utc>) -> Result<Vec<ListedEvent>, ProviderError> {
        Ok(Vec::new())
    }

    /// How many decimals the provider takes in a currency, where that differs from the currency's own; none where it does
    /// not take the currency.
    fn decimals(&self, currency: Currency) -> Option<u32> {
        Some(currency.exponent())
    }

    /// Which payment a verified webhook body speaks of. Only names are taken from it; facts are asked for.
    fn locate(&self, body: &[u8]) -> Locator;
}

/// One event of a provider's own list.
#[derive(Debug, Clone)]
pub struct ListedEvent {
    /// The provider's id of it, the same as in its webhook.
    pub event_id: String,
    /// As the webhook would have carried it.
    pub body: Vec<u8>,
}

/// What a provider is told of a payment.
#[derive(Debug, Clone)]
pub struct CreatePayment {
    /// The provider's idempotency key.
    pub request_id: TaskId,
    /// Comes back in every object of the provider that belongs to this payment (PayPal: `custom_id`).
    pub payment_id: PaymentId,
    /// Shown to the buyer as the order's number.
    pub reference: String,
    /// Whether an approved payment is charged at once, or its money reserved until the goods leave.
    pub intent: Intent,
    /// What is to be paid.
    pub total: Money,
    /// Where the goods go.
    pub ship_to: Address,
    /// Where the buyer's browser comes back to after approving.
    pub return_url: String,
    /// Where it comes back to after changing its mind.
    pub cancel_url: String,
}
