//! What a provider says, in Souk's words: the only truth about money.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Money, RefundId, words};

/// The provider's answer to an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The provider's id of its order.
    pub provider_order_id: String,
    /// Where the buyer approves.
    pub approve_url: String,
}

/// One thing that a provider says of one of its objects: the only truth about money.
///
/// Unique by provider, kind, object, status and the provider's own time, so that what is told twice counts once and a
/// capture that is disputed and won again counts each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What kind of object.
    pub kind: FactKind,
    /// The provider's id of it.
    pub object_id: String,
    /// Its status, in our words.
    pub status: FactStatus,
    /// How much it is about; none where the provider named none, or none that Souk can read.
    pub amount: Option<Money>,
    /// Our payment's id as the provider gave it back (PayPal: `custom_id`); a wrong or missing one is a foreign order. Of a
    /// refund our refund's id: one that names anything else was not asked for by us.
    pub reference: Option<String>,
    /// A refund's capture.
    pub parent: Option<String>,
    /// When it became so, by the provider's clock.
    pub at: DateTime<Utc>,
}

impl Fact {
    /// Which of our refunds it names. One that was made at the provider names none, or what its payment is called.
    #[must_use]
    pub fn refund_id(&self) -> Option<RefundId> {
        let named = self.reference.as_deref().filter(|_| self.kind == FactKind::Refund);
        named.and_then(|reference| reference.parse().ok())
    }

    /// Whether it says the same of the same object at the same time, be it more or less of it.
    pub(super) fn repeats(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.object_id == other.object_id
            && self.status == other.status
            && self.at == other.at
    }
}

words! {
    /// The kinds of a provider's objects.
    FactKind {
        /// The provider's order: what the buyer approves.
        Order = "order",
        /// Money reserved, to be taken later.
        Authorisation = "authorisation",
        /// Money taken.
        Capture = "capture",
        /// Money given back.
        Refund = "refund",
        /// A buyer's complaint about a capture.
        Dispute = "dispute",
    }
}

words! {
    /// The statuses of a provider's objects, in Souk's words. Providers' lists are open: what is not known is `Other`,
    /// recorded and without effect.
    FactStatus {
        /// Known to the provider, waits for the buyer.
        Created = "created",
        /// The buyer approved it (orders).
        Approved = "approved",
        /// Given up (orders).
        Voided = "voided",
        /// Under way, undecided.
        Pending = "pending",
        /// Done: for a capture, the money is here; for an order it says nothing about money.
        Completed = "completed",
        /// Refused by the buyer's bank, the buyer's instrument or the provider.
        Declined = "declined",
        /// Went wrong at the provider.
        Failed = "failed",
        /// Given back in part (captures).
        PartiallyRefunded = "partially_refunded",
        /// Given back in full (captures).
        Refunded = "refunded",
        /// Called off (refunds).
        Cancelled = "cancelled",
        /// Taken back by the provider or the buyer's bank (captures).
        Reversed = "reversed",
        /// Taken back in part by them (captures).
        PartiallyReversed = "partially_reversed",
        /// Under dispute, undecided (disputes).
        Open = "open",
        /// Decided for the shop (disputes).
        Won = "won",
        /// Decided for the buyer (disputes).
        Lost = "lost",
        /// A word that this version does not know.
        Other = "other",
    }
}

/// How a webhook names the payment it is about, best name first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locator {
    /// The provider's order.
    pub provider_order_id: Option<String>,
    /// A capture of it.
    pub capture_id: Option<String>,
    /// Our payment id as it was given to the provider.
    pub payment_id: Option<String>,
    /// The event's type, for the log.
    pub event_type: String,
}

impl Locator {
    /// Whether the event is about a dispute, which providers keep apart from the payment that it is about.
    #[must_use]
    pub fn is_about_dispute(&self) -> bool {
        self.event_type.to_ascii_uppercase().contains("DISPUTE")
    }
}

/// Why a provider's call did not give facts, by what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// Nobody knows whether it happened: ask the same again, later.
    #[error("no certain answer: {reason}")]
    Unknown {
        /// For the log; no address, no token.
        reason: String,
        /// When the provider wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The buyer's instrument was refused; the buyer may approve again.
    #[error("declined: {0}")]
    Declined(String),
    /// Not possible yet (not approved, already in progress): look at it again later.
    #[error("not yet: {0}")]
    NotYet(String),
    /// It was done before: ask what is there.
    #[error("already done: {0}")]
    AlreadyDone(String),
    /// This object will never do: a new one is needed.
    #[error("dead: {0}")]
    Dead(String),
    /// The call itself is wrong (our bug, or the account's settings): a person must look.
    #[error("rejected: {0}")]
    Rejected(String),
    /// The buyer's bank has taken (some of) this money back and lets nobody give it back: not possible for as long as that
    /// stands.
    #[error("taken back: {0}")]
    TakenBack(String),
}
