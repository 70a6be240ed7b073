//! What the engine needs from outside, as it would say it: a provider of payments is asked in these words, in whatever
//! words it answers. `gateways/` in the shop implements them, one file a provider.

use async_trait::async_trait;

use crate::domain::{Address, Money, PaymentId, TaskId};
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

    /// Gives `amount` of a capture back. Asked again with the same `request_id` it refunds once.
    async fn refund(&self, request_id: TaskId, capture_id: &str, amount: Money) -> Result<Vec<Fact>, ProviderError>;

    /// Which payment a verified webhook body speaks of. Only names are taken from it; facts are asked for.
    fn locate(&self, body: &[u8]) -> Locator;
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
    /// What is to be paid.
    pub total: Money,
    /// Where the goods go.
    pub ship_to: Address,
    /// Where the buyer's browser comes back to after approving.
    pub return_url: String,
    /// Where it comes back to after changing its mind.
    pub cancel_url: String,
}
