//! One attempt to pay an order. Its state is folded from what the provider said, never from what we hoped.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{Created, Fact, FactKind, FactStatus, Money, PaymentId, RefundId, words};

words! {
    /// Where an attempt stands.
    PaymentState {
        /// Announced, or about to be; the buyer has not approved.
        Created = "created",
        /// The buyer approved; nothing is charged.
        Approved = "approved",
        /// We have decided to charge.
        Capturing = "capturing",
        /// The provider has taken it and is undecided (e-check, review).
        Pending = "pending",
        /// The money is here.
        Captured = "captured",
        /// Refused; the buyer may try again with a new attempt.
        Declined = "declined",
        /// Given up: foreign, mismatched or dead.
        Failed = "failed",
    }
}

words! {
    /// When an approved payment is charged.
    Intent {
        /// At once.
        Capture = "capture",
        /// Its money is reserved, and charged when the goods leave.
        Authorise = "authorise",
    }
}

words! {
    /// Where a refund stands.
    RefundState {
        /// Decided and committed; the provider may not know yet.
        Requested = "requested",
        /// The provider has it and is undecided.
        Pending = "pending",
        /// The money is back with the buyer.
        Completed = "completed",
        /// The provider could not; a person must look.
        Failed = "failed",
        /// Called off at the provider.
        Cancelled = "cancelled",
    }
}

words! {
    /// What a provider is asked to do.
    TaskKind {
        /// Announce a payment.
        CreatePayment = "create_payment",
        /// Take the money of an approved payment.
        Capture = "capture",
        /// Give money back.
        Refund = "refund",
        /// Buy a shipment's label.
        BuyLabel = "buy_label",
        /// Ask a label's money back.
        VoidLabel = "void_label",
        /// Fetch a label's printable file.
        FetchLabel = "fetch_label",
        /// Find labels of a shipment beside its own, and ask their money back.
        SweepLabels = "sweep_labels",
    }
}

words! {
    /// Whether a provider call is still to be made.
    TaskState {
        /// To be made, or made and unanswered.
        Open = "open",
        /// Answered.
        Done = "done",
        /// Never will be.
        Failed = "failed",
    }
}

/// One attempt, with all that the provider has said of it.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Ours.
    pub id: PaymentId,
    /// The provider's name.
    pub provider: String,
    /// Where it stands.
    pub state: PaymentState,
    /// The provider's order and the page where the buyer approves it, once the provider has answered.
    pub announced: Option<Created>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When the provider is next asked unbidden.
    pub check_at: Option<DateTime<Utc>>,
    /// How often it was.
    pub checks: i32,
    /// What it said, each once.
    pub facts: Vec<Fact>,
}

/// What a new fact means for the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentEvent {
    /// The buyer approved; `fits` says whether it is our payment, our amount and our currency.
    Approved {
        /// Whether amount and reference are ours.
        fits: bool,
    },
    /// The provider is undecided about a capture.
    Pending,
    /// Money arrived.
    Captured {
        /// The provider's id of the capture.
        capture_id: String,
        /// How much; none where it is in no currency we know.
        amount: Option<Money>,
        /// Whether the capture names this payment.
        ours: bool,
    },
    /// The buyer's instrument or the provider said no.
    Declined,
    /// The provider gave its order up.
    Dead,
    /// News of a refund, ours or made at the provider.
    Refund {
        /// The provider's id of the refund.
        provider_refund_id: String,
        /// The capture it is of.
        capture_id: Option<String>,
        /// How much.
        amount: Option<Money>,
        /// Where it stands.
        state: RefundState,
    },
}

/// When a provider that has not called is asked: 2, 10 and 60 minutes, then daily for three days.
const CHECKS: [TimeDelta; 6] = [
    TimeDelta::minutes(2),
    TimeDelta::minutes(10),
    TimeDelta::minutes(60),
    TimeDelta::hours(24),
    TimeDelta::hours(48),
    TimeDelta::hours(72),
];

impl Payment {
    /// When the provider is to be asked next, unbidden; daily after the schedule has ended.
    #[must_use]
    pub fn next_check(&self) -> DateTime<Utc> {
        let number = usize::try_from(self.checks).unwrap_or(0);
        let beyond = TimeDelta::days(i64::try_from(number).unwrap_or(0) - CHECKS.len() as i64 + 4);
        self.created_at + CHECKS.get(number).copied().unwrap_or(beyond)
    }

    /// Whether the schedule has not ended.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        usize::try_from(self.checks).is_ok_and(|number| number < CHECKS.len())
    }

    /// Whether the buyer can still approve it, or it is under way.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self.state {
            PaymentState::Created | PaymentState::Approved | PaymentState::Capturing | PaymentState::Pending => true,
            PaymentState::Captured | PaymentState::Declined | PaymentState::Failed => false,
        }
    }

    /// Money of this attempt that has arrived, refunds not deducted.
    #[must_use]
    pub fn captured_minor(&self) -> i64 {
        let mut captures: Vec<(&str, i64)> = self
            .facts
            .iter()
            .filter(|fact| fact.kind == FactKind::Capture && is_taken(fact.status))
            .map(|fact| (fact.object_id.as_str(), fact.amount.map_or(0, |amount| amount.minor)))
            .collect();
        captures.sort_unstable();
        captures.dedup_by_key(|(capture_id, _)| *capture_id);
        captures.iter().map(|(_, minor)| minor).sum()
    }

    fn knows(&self, fact: &Fact) -> bool {
        let same = |known: &&Fact| {
            known.kind == fact.kind
                && known.object_id == fact.object_id
                && known.status == fact.status
                && known.at == fact.at
                && (known.amount.is_some() || fact.amount.is_none()) // the amount may be told later
        };
        self.facts.iter().any(|known| same(&known))
    }

    /// Whether a fact about a capture comes too late to mean anything: this capture's money is here already, or it says less
    /// than money of this attempt that is here, or than what is known of this capture from a later time.
    fn is_late(&self, late: &Fact) -> bool {
        self.facts.iter().filter(|known| known.kind == FactKind::Capture).any(|known| {
            let same = known.object_id == late.object_id;
            is_taken(known.status) && known.amount.is_some() && (same || !is_taken(late.status))
                || same && known.at > late.at && !is_taken(late.status)
        })
    }

    /// Those of `facts` that are new, and what they mean, in the order in which they matter: approvals, then refunds, then
    /// captures (what has gone back confirms nothing), each by the provider's time. A late fact of lower rank is recorded and means nothing.
    #[must_use]
    pub fn learn(&mut self, facts: Vec<Fact>, total: Money) -> (Vec<Fact>, Vec<PaymentEvent>) {
        let mut fresh: Vec<Fact> = Vec::new();
        let mut events = Vec::new();
        let mut sorted = facts;
        sorted.sort_by_key(|fact| (rank(fact.kind), fact.at));
        let charged = sorted.iter().any(|fact| {
            fact.kind == FactKind::Capture && (is_taken(fact.status) || fact.status == FactStatus::Pending)
        });
        for fact in sorted {
            if self.knows(&fact) {
                continue;
            }
            let meaning = self.meaning(&fact, total);
            // an approval that has been charged asks for nothing any more
            events.extend(meaning.filter(|event| !(charged && matches!(event, PaymentEvent::Approved { .. }))));
            self.facts.push(fact.clone());
            fresh.push(fact);
        }
        (fresh, events)
    }

    fn meaning(&self, fact: &Fact, total: Money) -> Option<PaymentEvent> {
        let ours = fact.reference.as_deref() == Some(self.id.to_string().as_str());
        match fact.kind {
            FactKind::Order => self.order_meaning(fact.status, ours && fact.amount == Some(total)),
            FactKind::Capture if self.is_late(fact) => None,
            FactKind::Capture => capture_meaning(fact, ours),
            FactKind::Refund => Some(PaymentEvent::Refund {
                provider_refund_id: fact.object_id.clone(),
                capture_id: fact.parent.clone(),
                amount: fact.amount,
                state: refund_state(fact.status)?,
            }),
            FactKind::Authorisation | FactKind::Dispute => None,
        }
    }

    fn order_meaning(&self, status: FactStatus, fits: bool) -> Option<PaymentEvent> {
        if status == FactStatus::Voided {
            return Some(PaymentEvent::Dead);
        }
        let waits = matches!(self.state, PaymentState::Created | PaymentState::Declined);
        let news = status == FactStatus::Approved && waits;
        news.then_some(PaymentEvent::Approved { fits })
    }
}

fn capture_meaning(fact: &Fact, ours: bool) -> Option<PaymentEvent> {
    match fact.status {
        FactStatus::Completed | FactStatus::PartiallyRefunded | FactStatus::Refunded => {
            Some(PaymentEvent::Captured { capture_id: fact.object_id.clone(), amount: fact.amount, ours })
        }
        FactStatus::Pending => Some(PaymentEvent::Pending),
        FactStatus::Declined | FactStatus::Failed => Some(PaymentEvent::Declined),
        FactStatus::Created
        | FactStatus::Approved
        | FactStatus::Voided
        | FactStatus::Cancelled
        | FactStatus::Reversed
        | FactStatus::Open
        | FactStatus::Won
        | FactStatus::Lost
        | FactStatus::Other => None,
    }
}

fn refund_state(status: FactStatus) -> Option<RefundState> {
    match status {
        FactStatus::Completed => Some(RefundState::Completed),
        FactStatus::Pending => Some(RefundState::Pending),
        FactStatus::Cancelled => Some(RefundState::Cancelled),
        FactStatus::Failed | FactStatus::Declined => Some(RefundState::Failed),
        FactStatus::Created
        | FactStatus::Approved
        | FactStatus::Voided
        | FactStatus::PartiallyRefunded
        | FactStatus::Refunded
        | FactStatus::Reversed
        | FactStatus::Open
        | FactStatus::Won
        | FactStatus::Lost
        | FactStatus::Other => None,
    }
}

fn rank(kind: FactKind) -> u8 {
    match kind {
        FactKind::Order => 0,
        FactKind::Authorisation => 1,
        FactKind::Refund => 2,
        FactKind::Capture => 3,
        FactKind::Dispute => 4,
    }
}

/// A capture that was refunded had been completed, even if nobody told us at the time.
fn is_taken(status: FactStatus) -> bool {
    match status {
        FactStatus::Completed | FactStatus::PartiallyRefunded | FactStatus::Refunded => true,
        FactStatus::Created
        | FactStatus::Approved
        | FactStatus::Voided
        | FactStatus::Pending
        | FactStatus::Declined
        | FactStatus::Failed
        | FactStatus::Cancelled
        | FactStatus::Reversed
        | FactStatus::Open
        | FactStatus::Won
        | FactStatus::Lost
        | FactStatus::Other => false,
    }
}

/// Money on its way back to a buyer.
#[derive(Debug, Clone, Serialize)]
pub struct Refund {
    /// Ours.
    pub id: RefundId,
    /// The attempt whose money it is.
    #[serde(skip)]
    pub payment_id: PaymentId,
    /// The provider's id of the capture.
    #[serde(skip)]
    pub capture_id: String,
    /// How much.
    pub amount: Money,
    /// Why, in one word, e.g. `out_of_stock`.
    pub reason: String,
    /// Where it stands.
    pub state: RefundState,
    /// The provider's id of it, once it has one.
    #[serde(skip)]
    pub provider_refund_id: Option<String>,
}

impl Refund {
    /// Whether its money is promised or gone: these may never sum to more than was captured.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self.state {
            RefundState::Requested | RefundState::Pending | RefundState::Completed => true,
            RefundState::Failed | RefundState::Cancelled => false,
        }
    }
}
