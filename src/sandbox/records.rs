//! What the books are made of: orders, authorizations, captures, refunds, disputes; webhooks, events and deliveries.
//! Plain data with the statuses that follow from it. Fields with a default were added to books that exist already.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::money::Money;

/// What the buyer is asked to pay, and how far that has come.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) request_id: Option<String>,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    #[serde(default)]
    pub(super) intent: Intent,
    /// Created with `payment_source.paypal`: PayPal then uses other words for its status and links.
    pub(super) wallet: bool,
    pub(super) experience: Experience,
    pub(super) units: Vec<Unit>,
    pub(super) stage: Stage,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) trackers: Vec<Tracker>,
}

impl Order {
    /// The sum over all purchase units.
    pub(super) fn total(&self) -> Money {
        let first = self.units[0].amount.money; // a draft without units is refused
        first.of(self.units.iter().map(|unit| unit.amount.money.minor).sum())
    }

    pub(super) fn status(&self) -> &'static str {
        match (&self.stage, self.wallet) {
            (Stage::Open, true) => "PAYER_ACTION_REQUIRED",
            (Stage::Open, false) => "CREATED",
            (Stage::Approved(_), _) => "APPROVED",
            (Stage::Completed { .. }, _) => "COMPLETED",
            (Stage::Voided, _) => "VOIDED",
        }
    }

    pub(super) fn captures(&self) -> &[String] {
        match &self.stage {
            Stage::Completed { captures, .. } => captures,
            Stage::Open | Stage::Approved(_) | Stage::Voided => &[],
        }
    }

    pub(super) fn authorizations(&self) -> &[String] {
        match &self.stage {
            Stage::Completed { authorizations, .. } => authorizations,
            Stage::Open | Stage::Approved(_) | Stage::Voided => &[],
        }
    }

    pub(super) fn is_for(&self, custom_id: &str) -> bool {
        self.units.iter().any(|unit| unit.custom_id.as_deref() == Some(custom_id))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Intent {
    #[default]
    Capture,
    Authorize,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Open,
    Approved(Instrument),
    /// Captured or authorized.
    Completed {
        at: DateTime<Utc>,
        request_id: Option<String>,
        captures: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        authorizations: Vec<String>,
    },
    /// Not captured in time.
    Voided,
}

/// What happens when the instrument that the buyer has chosen is charged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Instrument {
    /// The money comes at once.
    #[default]
    Good,
    /// The capture stays PENDING, as with an eCheck.
    Slow,
    /// The capture call answers 422 `INSTRUMENT_DECLINED`, until the buyer chooses another one.
    Refused,
    /// The capture call answers 201 with a capture that is DECLINED.
    Declined,
    /// The first purchase unit gets no more than this, in minor units.
    Partial { minor: i64 },
}

/// `experience_context`, as far as the approval page needs it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Experience {
    pub(super) return_url: Option<String>,
    pub(super) cancel_url: Option<String>,
    pub(super) brand_name: Option<String>,
}

/// A purchase unit, in the shape of the wire.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Unit {
    pub(super) reference_id: String,
    pub(super) amount: Amount,
    /// Who is paid, if somebody was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payee: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) custom_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) invoice_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) soft_descriptor: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) items: Vec<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shipping: Option<Value>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Amount {
    #[serde(flatten)]
    pub(super) money: Money,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) breakdown: BTreeMap<String, Money>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) quantity: String,
    pub(super) unit_amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tax: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sku: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) category: Option<String>,
}

/// A parcel that the merchant has told PayPal of.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Tracker {
    /// PayPal's name of it: the capture's id, a dash, the tracking number.
    pub(super) id: String,
    pub(super) created: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) items: Vec<Value>,
}

/// Money that the buyer's bank keeps ready for the merchant.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Authorization {
    pub(super) id: String,
    pub(super) order_id: String,
    /// The authorization that this one has renewed.
    pub(super) parent: Option<String>,
    /// The authorization that has renewed this one. What is captured on either is captured on both.
    pub(super) successor: Option<String>,
    /// Of the call that has renewed its parent.
    pub(super) request_id: Option<String>,
    pub(super) reference_id: String,
    pub(super) amount: Money,
    pub(super) custom_id: Option<String>,
    pub(super) invoice_id: Option<String>,
    pub(super) state: AuthorizationState,
    /// What its captures will come to.
    pub(super) instrument: Instrument,
    /// In minor units.
    pub(super) captured: i64,
    pub(super) captures: Vec<String>,
    /// The merchant has said of a capture that it was the last.
    pub(super) closed: bool,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    /// Until then the money is certain.
    pub(super) honoured_until: DateTime<Utc>,
    pub(super) expires: DateTime<Utc>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuthorizationState {
    Created,
    Pending { reason: String },
    Denied,
    Voided,
}

impl Authorization {
    pub(super) fn status(&self) -> &'static str {
        match self.state {
            AuthorizationState::Created if self.closed || self.captured >= self.amount.minor => "CAPTURED",
            AuthorizationState::Created if self.captured > 0 => "PARTIALLY_CAPTURED",
            AuthorizationState::Created => "CREATED",
            AuthorizationState::Pending { .. } => "PENDING",
            AuthorizationState::Denied => "DENIED",
            AuthorizationState::Voided => "VOIDED",
        }
    }

    /// Whether something can still become of it.
    pub(super) fn is_open(&self) -> bool {
        match self.state {
            AuthorizationState::Created => !self.closed && self.captured < self.amount.minor,
            AuthorizationState::Pending { .. } => true,
            AuthorizationState::Denied | AuthorizationState::Voided => false,
        }
    }
}

/// Money taken from the buyer, or the attempt.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Capture {
    pub(super) id: String,
    pub(super) order_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) authorization_id: Option<String>,
    /// Of the call that has captured an authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
    pub(super) reference_id: String,
    pub(super) amount: Money,
    pub(super) custom_id: Option<String>,
    pub(super) invoice_id: Option<String>,
    pub(super) state: CaptureState,
    #[serde(default = "yes")]
    pub(super) final_capture: bool,
    /// What the merchant has given back or is about to, in minor units.
    pub(super) refunded: i64,
    /// What PayPal has taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reversal: Option<Reversal>,
    /// Refunds and reversals.
    pub(super) refunds: Vec<String>,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
}

fn yes() -> bool {
    true
}

impl Capture {
    pub(super) fn status(&self) -> &'static str {
        match self.state {
            CaptureState::Completed if self.rest() == self.amount.minor => "COMPLETED",
            CaptureState::Completed if self.rest() > 0 => "PARTIALLY_REFUNDED",
            CaptureState::Completed => "REFUNDED",
            CaptureState::Pending { .. } => "PENDING",
            CaptureState::Declined => "DECLINED",
            CaptureState::Failed => "FAILED",
        }
    }

    /// What has not gone back, in minor units.
    pub(super) fn rest(&self) -> i64 {
        self.amount.minor - self.refunded - self.reversed()
    }

    pub(super) fn reversed(&self) -> i64 {
        self.reversal.as_ref().map_or(0, |reversal| reversal.minor)
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CaptureState {
    Completed,
    Pending { reason: String },
    Declined,
    Failed,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Reversal {
    pub(super) refund_id: String,
    pub(super) minor: i64,
    pub(super) reason: ReversalReason,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum ReversalReason {
    #[default]
    Chargeback,
    BuyerComplaint,
}

/// Money given back.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Refund {
    pub(super) id: String,
    pub(super) capture_id: String,
    pub(super) order_id: String,
    pub(super) request_id: Option<String>,
    #[serde(default)]
    pub(super) kind: RefundKind,
    #[serde(default)]
    pub(super) status: RefundStatus,
    pub(super) amount: Money,
    /// The sum of what went back of the capture including this one, in minor units.
    pub(super) total_refunded: i64,
    pub(super) custom_id: Option<String>,
    pub(super) invoice_id: Option<String>,
    pub(super) note_to_payer: Option<String>,
    pub(super) created: DateTime<Utc>,
    /// When its status last changed, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) decided: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RefundKind {
    /// By the merchant.
    #[default]
    Refund,
    /// By PayPal.
    Reversal,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum RefundStatus {
    #[default]
    Completed,
    Pending,
    Failed,
    Cancelled,
}

impl RefundStatus {
    /// Whether its amount is taken out of what can be refunded.
    pub(super) fn is_live(self) -> bool {
        match self {
            Self::Completed | Self::Pending => true,
            Self::Failed | Self::Cancelled => false,
        }
    }
}

/// The buyer does not agree.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Dispute {
    pub(super) id: String,
    pub(super) order_id: String,
    pub(super) capture_id: String,
    pub(super) amount: Money,
    pub(super) reason: DisputeReason,
    pub(super) status: DisputeStatus,
    pub(super) stage: DisputeStage,
    /// Only of a dispute that is resolved.
    pub(super) outcome: Option<Outcome>,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
}

impl Dispute {
    pub(super) fn is_open(&self) -> bool {
        self.outcome.is_none()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum DisputeReason {
    #[default]
    MerchandiseOrServiceNotReceived,
    MerchandiseOrServiceNotAsDescribed,
    Unauthorised,
    CreditNotProcessed,
    DuplicateTransaction,
    IncorrectAmount,
    PaymentByOtherMeans,
    CanceledRecurringBilling,
    ProblemWithRemittance,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum DisputeStatus {
    #[default]
    Open,
    UnderReview,
    WaitingForBuyerResponse,
    WaitingForSellerResponse,
    Resolved,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum DisputeStage {
    #[default]
    Inquiry,
    Chargeback,
    PreArbitration,
    Arbitration,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Outcome {
    ResolvedBuyerFavour,
    ResolvedSellerFavour,
    CanceledByBuyer,
}

/// Where the merchant wants to hear of what.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Webhook {
    pub(super) id: String,
    pub(super) url: String,
    /// Names of events; `*` is every one.
    pub(super) event_types: Vec<String>,
    pub(super) deleted: bool,
}

impl Webhook {
    pub(super) fn wants(&self, event_type: &str) -> bool {
        self.event_types.iter().any(|wanted| wanted == "*" || wanted == event_type)
    }
}

/// A fact that the merchant is told of.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) event_type: String,
    pub(super) order_id: String,
    pub(super) resource_id: String,
    pub(super) created: DateTime<Utc>,
    /// Made up on request: it is delivered, and stands in no list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) simulated: bool,
    /// The envelope, byte for byte as it is delivered.
    pub(super) body: Box<RawValue>,
}

/// One transmission of an event, with its retries.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) transmission_id: String,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) order_id: String,
    /// What is signed for; the configured webhook, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) webhook_id: Option<String>,
    /// Where a simulated event goes; the others go where their webhook is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// The certificate that it was first signed with; a transmission never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<String>,
    pub(super) created: DateTime<Utc>,
    pub(super) state: DeliveryState,
    pub(super) attempts: Vec<Attempt>,
}

impl Delivery {
    /// The first transmission of an event, or another one, due at once.
    pub(super) fn of(event: &Event, webhook_id: &str, certificate: &str, now: DateTime<Utc>) -> Self {
        Self {
            transmission_id: super::ids::transmission(),
            event_id: event.id.clone(),
            event_type: event.event_type.clone(),
            order_id: event.order_id.clone(),
            webhook_id: Some(webhook_id.to_owned()),
            url: None,
            certificate: Some(certificate.to_owned()),
            created: now,
            state: DeliveryState::Due(now),
            attempts: Vec::new(),
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeliveryState {
    Due(DateTime<Utc>),
    /// Answered with a 2xx.
    Delivered,
    /// Lost on purpose by a scripted fault.
    Dropped,
    /// All retries are used up, or its webhook was deleted.
    GivenUp,
}

impl DeliveryState {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Due(_) => "due",
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
            Self::GivenUp => "given_up",
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) at: DateTime<Utc>,
    /// The status of the answer, or why there was none.
    pub(super) answer: String,
    /// The fault that was applied to this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<String>,
}

/// Whatever has a name in the books.
pub(super) trait Named {
    fn name(&self) -> &str;
}

macro_rules! named {
    ($($record:ty: $name:ident),+) => {$(
        impl Named for $record {
            fn name(&self) -> &str {
                &self.$name
            }
        }
    )+};
}

named!(
    Order: id, Authorization: id, Capture: id, Refund: id, Dispute: id, Webhook: id, Event: id,
    Delivery: transmission_id
);
