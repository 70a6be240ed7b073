//! One attempt to pay an order. Its state is folded from what the provider said, never from what we hoped.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Created, Fact, FactKind, FactStatus, Money, PaymentId, RefundId, words};

mod standing;

pub use standing::{Capture, Standing};

words! {
    /// Where an attempt stands.
    PaymentState {
        /// Announced, or about to be; the buyer has not approved.
        Created = "created",
        /// The buyer approved; nothing is charged.
        Approved = "approved",
        /// We have decided to charge it, or to reserve its money.
        Capturing = "capturing",
        /// The provider has taken it and is undecided (e-check, review).
        Pending = "pending",
        /// Its money is reserved, to be taken when the goods leave.
        Authorised = "authorised",
        /// What was reserved has been let go.
        Voided = "voided",
        /// The money is here.
        Captured = "captured",
        /// The money is here, and the buyer disputes it.
        Disputed = "disputed",
        /// The money was here and was taken back.
        Reversed = "reversed",
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
        /// The provider could not; what it was of is asked for anew.
        Failed = "failed",
        /// Called off, here or at the provider.
        Cancelled = "cancelled",
        /// Its money has gone another way (taken back, or given at the provider): it is owed again if that comes back.
        SetAside = "set_aside",
    }
}

words! {
    /// What a refund is of.
    RefundKind {
        /// Everything that was left.
        Full = "full",
        /// An amount that somebody named.
        Amount = "amount",
        /// Units of lines, at their price.
        Lines = "lines",
        /// What sending cost.
        Shipping = "shipping",
        /// A kindness.
        Goodwill = "goodwill",
        /// What was called off.
        Cancellation = "cancellation",
        /// Money that the order has no claim to: too much, too late, not ours.
        Correction = "correction",
        /// Made at the provider, mirrored here.
        Mirrored = "mirrored",
    }
}

words! {
    /// What a provider is asked to do.
    TaskKind {
        /// Announce a payment.
        CreatePayment = "create_payment",
        /// Take the money of an approved payment.
        Capture = "capture",
        /// Reserve the money of an approved payment.
        Authorise = "authorise",
        /// Take what was reserved.
        CaptureAuthorised = "capture_authorised",
        /// Let go what was reserved.
        Void = "void",
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
    /// Whether its money is taken at once, or when the goods leave.
    pub intent: Intent,
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
    /// Money is reserved.
    Authorised {
        /// How much; none where it is in no currency we know.
        amount: Option<Money>,
        /// Whether it names this payment.
        ours: bool,
    },
    /// What was reserved is no longer, by our wish or by itself.
    AuthorisationEnded,
    /// The provider is undecided about a capture or an authorisation.
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
    /// Money was taken back: reversed, or lost in a dispute.
    Reversed {
        /// Of which capture.
        capture_id: String,
    },
    /// Part of what came was taken back, or more of it.
    PartlyReversed {
        /// Of which capture.
        capture_id: String,
    },
    /// Money that was taken back is here again.
    Restored {
        /// Of which capture.
        capture_id: String,
    },
    /// The buyer disputes money that is here.
    Disputed {
        /// Of which capture.
        capture_id: String,
    },
    /// No dispute about this money is open any more, and (most of) it is still here.
    DisputeEnded {
        /// Of which capture.
        capture_id: String,
        /// What has been lost by it, in minor units; nothing where it was won.
        lost: i64,
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
        /// Whether something newer was said of it before.
        late: bool,
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
            PaymentState::Authorised
            | PaymentState::Voided
            | PaymentState::Captured
            | PaymentState::Disputed
            | PaymentState::Reversed
            | PaymentState::Declined
            | PaymentState::Failed => false,
        }
    }

    fn knows(&self, fact: &Fact) -> bool {
        // the amount, and what it is of, may be told later
        let says_more = |known: &Fact| {
            known.amount.is_none() && fact.amount.is_some() || known.parent.is_none() && fact.parent.is_some()
        };
        self.facts.iter().any(|known| known.repeats(fact) && !says_more(known))
    }

    /// Those of `facts` that are new, and what they mean, in the order in which they matter: approvals, then refunds, then
    /// captures (what has gone back confirms nothing), then authorisations (what was taken has not ended), each by the
    /// provider's time.
    ///
    /// What a fact about money means is how the set of all facts looks without it and with it, so that it does not matter
    /// in which order they come. One that changes nothing in that is recorded and means nothing.
    #[must_use]
    pub fn learn(&mut self, facts: Vec<Fact>, total: Money) -> (Vec<Fact>, Vec<PaymentEvent>) {
        let mut fresh: Vec<Fact> = Vec::new();
        let mut events = Vec::new();
        let mut sorted = said_once(facts);
        sorted.sort_by_key(|fact| (rank(fact.kind), fact.at));
        let charged = sorted.iter().any(says_charged);
        for fact in sorted {
            if self.knows(&fact) {
                continue;
            }
            let meaning = self.take_in(&fact, total);
            // an approval that has been charged asks for nothing any more
            events.extend(
                meaning.into_iter().filter(|event| !(charged && matches!(event, PaymentEvent::Approved { .. }))),
            );
            fresh.push(fact);
        }
        (fresh, events)
    }

    /// A capture of an authorisation of ours, whose answer need not repeat the reference; a wrong one is foreign all the same.
    fn hangs_below_ours(&self, fact: &Fact) -> bool {
        let known = |parent: &str| {
            self.facts.iter().any(|known| known.kind == FactKind::Authorisation && known.object_id == parent)
        };
        fact.kind == FactKind::Capture
            && fact.reference.is_none()
            && self.state != PaymentState::Failed
            && fact.parent.as_deref().is_some_and(known)
    }

    fn take_in(&mut self, fact: &Fact, total: Money) -> Vec<PaymentEvent> {
        let ours = fact.reference.as_deref() == Some(self.id.to_string().as_str()) || self.hangs_below_ours(fact);
        match fact.kind {
            FactKind::Order => {
                self.facts.push(fact.clone());
                self.order_meaning(fact.status, ours && fact.amount == Some(total)).into_iter().collect()
            }
            FactKind::Refund => {
                let newer = |known: &Fact| known.object_id == fact.object_id && known.at > fact.at;
                let late = self.facts.iter().any(|known| known.kind == FactKind::Refund && newer(known));
                self.facts.push(fact.clone());
                refund_meaning(fact, late).into_iter().collect()
            }
            FactKind::Authorisation => {
                let before = self.authorisation(&fact.object_id);
                self.facts.push(fact.clone());
                let after = self.authorisation(&fact.object_id);
                self.authorisation_turned(before, after, fact.amount, ours)
            }
            FactKind::Capture => self.capture_told(fact, &fact.object_id.clone(), ours),
            FactKind::Dispute => match fact.parent.clone() {
                Some(capture_id) => self.capture_told(fact, &capture_id, ours),
                None => {
                    self.facts.push(fact.clone());
                    Vec::new()
                }
            },
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

/// An answer may name one object twice, and say more of it in one place than in the other.
fn said_once(facts: Vec<Fact>) -> Vec<Fact> {
    let mut once: Vec<Fact> = Vec::with_capacity(facts.len());
    for fact in facts {
        match once.iter_mut().find(|known| known.repeats(&fact)) {
            Some(known) => {
                known.amount = known.amount.or(fact.amount);
                known.parent = known.parent.take().or(fact.parent);
                known.reference = known.reference.take().or(fact.reference);
            }
            None => once.push(fact),
        }
    }
    once
}

fn refund_meaning(fact: &Fact, late: bool) -> Option<PaymentEvent> {
    Some(PaymentEvent::Refund {
        provider_refund_id: fact.object_id.clone(),
        capture_id: fact.parent.clone(),
        amount: fact.amount,
        state: refund_state(fact.status)?,
        late,
    })
}

/// Whether the money of an approval is taken or reserved already, or about to be.
fn says_charged(fact: &Fact) -> bool {
    match fact.kind {
        FactKind::Capture => standing::is_taken(fact.status) || fact.status == FactStatus::Pending,
        FactKind::Authorisation => {
            matches!(fact.status, FactStatus::Created | FactStatus::Pending | FactStatus::Completed)
        }
        FactKind::Order | FactKind::Refund | FactKind::Dispute => false,
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
        | FactStatus::PartiallyReversed
        | FactStatus::Open
        | FactStatus::Won
        | FactStatus::Lost
        | FactStatus::Other => None,
    }
}

fn rank(kind: FactKind) -> u8 {
    match kind {
        FactKind::Order => 0,
        FactKind::Refund => 1,
        FactKind::Capture => 2,
        FactKind::Authorisation => 3,
        FactKind::Dispute => 4,
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
    /// What it is of.
    pub kind: RefundKind,
    /// The units that it pays for, where it is of lines.
    pub lines: Vec<Units>,
    /// Why: in one word, e.g. `out_of_stock`, or as a person wrote it.
    pub reason: String,
    /// Where it stands.
    pub state: RefundState,
    /// The provider's id of it, once it has one.
    #[serde(skip)]
    pub provider_refund_id: Option<String>,
    /// The command that wished it, by the number that its key stands for.
    #[serde(skip)]
    pub command_id: Option<i64>,
    /// The refund, or the rest of one, in whose place this is asked for (or set aside).
    #[serde(skip)]
    pub replaces: Option<RefundId>,
}

/// Some units of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    /// Which line, from 0.
    pub line: i32,
    /// How many units of it.
    pub quantity: i64,
}

impl Refund {
    /// Whether its money is promised or gone: these may never sum to more than was captured.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self.state {
            RefundState::Requested | RefundState::Pending | RefundState::Completed => true,
            RefundState::Failed | RefundState::Cancelled | RefundState::SetAside => false,
        }
    }

    /// Whether its money is promised or gone, or will be as soon as it is here again.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.is_live() || self.state == RefundState::SetAside
    }

    /// Whether it is still to be asked for, and the provider has not taken it as far as anybody knows.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.state == RefundState::Requested && self.provider_refund_id.is_none()
    }
}
