//! Where an attempt's captures and authorisations stand: a function of the set of facts about them, in whatever order they
//! were told.

use super::{Payment, PaymentEvent, PaymentState};
use crate::domain::{Fact, FactKind, FactStatus, Money, PaymentId};

/// Where money of one object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing that means anything was said of it.
    Unknown,
    /// The provider is undecided.
    Pending,
    /// It was refused.
    Refused,
    /// It was taken (captures), or is reserved (authorisations).
    Taken,
    /// It was taken, and part of it was taken back or lost.
    Cut,
    /// It was taken, and is under dispute.
    Disputed,
    /// It was taken back or lost (captures), let go or used up (authorisations).
    Gone,
}

/// Money that has arrived at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// With which attempt.
    pub payment_id: PaymentId,
    /// The provider's id of it.
    pub capture_id: String,
    /// How much; none where it is in no currency we know.
    pub amount: Option<Money>,
    /// Taken, cut, disputed or gone.
    pub standing: Standing,
    /// What disputes about it have cost, in minor units; all of it where it was reversed.
    pub lost: i64,
}

impl Payment {
    /// The captures that have brought money, also those whose money was taken back.
    #[must_use]
    pub fn captures(&self) -> Vec<Capture> {
        let mut ids: Vec<&str> = self.of(FactKind::Capture).map(|fact| fact.object_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let known = ids.into_iter().map(|capture_id| self.capture(capture_id));
        known.filter(|capture| capture.standing >= Standing::Taken).collect()
    }

    /// What was reserved and can be taken: its provider's id and how much. One capture uses an authorisation up.
    #[must_use]
    pub fn authorisation_left(&self) -> Option<(&str, Option<Money>)> {
        if self.has_capture() {
            return None;
        }
        let used = |id: &str| {
            self.of(FactKind::Authorisation).any(|fact| fact.object_id == id && fact.status == FactStatus::Completed)
        };
        let reserved = self.of(FactKind::Authorisation).filter(|fact| fact.status != FactStatus::Pending);
        let mut live = reserved
            .rev()
            .filter(|fact| self.authorisation(&fact.object_id) == Standing::Taken && !used(&fact.object_id));
        live.next().map(|fact| (fact.object_id.as_str(), fact.amount))
    }

    /// An authorisation of which something is reserved, be it the rest of one of which part was taken: what can be let go.
    #[must_use]
    pub fn still_reserved(&self) -> Option<&str> {
        let mut ids = self.of(FactKind::Authorisation).rev().map(|fact| fact.object_id.as_str());
        ids.find(|id| matches!(self.decided(id), Some(FactStatus::Created | FactStatus::Approved)))
    }

    /// Whether there is a capture that has brought money, or may yet.
    fn has_capture(&self) -> bool {
        self.of(FactKind::Capture).any(|fact| {
            let standing = self.capture(&fact.object_id).standing;
            standing == Standing::Pending || standing >= Standing::Taken
        })
    }

    /// The attempt's state where its money has arrived, by its captures.
    #[must_use]
    pub fn state_by_captures(&self) -> Option<PaymentState> {
        let captures = self.captures();
        let any = |standing| captures.iter().any(|capture| capture.standing == standing);
        [
            (Standing::Disputed, PaymentState::Disputed),
            (Standing::Cut, PaymentState::Captured),
            (Standing::Taken, PaymentState::Captured),
            (Standing::Gone, PaymentState::Reversed),
        ]
        .into_iter()
        .find_map(|(standing, state)| any(standing).then_some(state))
    }

    fn of(&self, kind: FactKind) -> impl DoubleEndedIterator<Item = &Fact> {
        self.facts.iter().filter(move |fact| fact.kind == kind)
    }

    pub(super) fn capture(&self, capture_id: &str) -> Capture {
        let facts = || self.of(FactKind::Capture).filter(|fact| fact.object_id == capture_id);
        let amount = facts().find_map(|fact| fact.amount);
        let came = amount.map_or(0, |amount| amount.minor);
        let lost = self.lost(capture_id, came);
        let newest =
            |counts: fn(FactStatus) -> bool| facts().filter(|fact| counts(fact.status)).map(|fact| fact.at).max();
        let reversed = newest(|status| status == FactStatus::Reversed);
        let cut = newest(|status| status == FactStatus::PartiallyReversed);
        // what was refunded in full says nothing of a reversal; a later completion undoes it
        let whole = newest(|status| matches!(status, FactStatus::Completed | FactStatus::PartiallyRefunded));
        let standing = if !facts().any(|fact| is_taken(fact.status)) {
            undecided(facts())
        } else if reversed.is_some() && whole.max(cut) <= reversed || came > 0 && lost >= came {
            Standing::Gone
        } else if self.is_disputed(capture_id) {
            Standing::Disputed
        } else if cut.is_some() && whole <= cut || lost > 0 {
            Standing::Cut
        } else {
            Standing::Taken
        };
        let lost = if standing == Standing::Gone { came } else { lost };
        Capture { payment_id: self.id, capture_id: capture_id.to_owned(), amount, standing, lost }
    }

    /// The newest word on each dispute about a capture; a decision counts before an opening of the same time.
    fn disputes<'a>(&'a self, capture_id: &'a str) -> impl Iterator<Item = &'a Fact> {
        let about = move |fact: &&Fact| fact.parent.as_deref() == Some(capture_id);
        let weight = |fact: &Fact| (fact.at, fact.status != FactStatus::Open, fact.status == FactStatus::Lost);
        self.of(FactKind::Dispute).filter(about).filter(move |fact| {
            let mut others = self.of(FactKind::Dispute).filter(|other| other.object_id == fact.object_id);
            others.all(|other| weight(other) <= weight(fact))
        })
    }

    fn is_disputed(&self, capture_id: &str) -> bool {
        self.disputes(capture_id).any(|fact| fact.status == FactStatus::Open)
    }

    fn lost(&self, capture_id: &str, came: i64) -> i64 {
        let lost = self.disputes(capture_id).filter(|fact| fact.status == FactStatus::Lost);
        lost.map(|fact| fact.amount.map_or(came, |amount| amount.minor)).sum::<i64>().min(came)
    }

    pub(super) fn authorisation(&self, authorisation_id: &str) -> Standing {
        let facts = || self.of(FactKind::Authorisation).filter(|fact| fact.object_id == authorisation_id);
        match self.decided(authorisation_id) {
            None if facts().any(|fact| fact.status == FactStatus::Pending) => Standing::Pending,
            None => Standing::Unknown,
            // captured: what was reserved has arrived, and the capture says so
            Some(FactStatus::Created | FactStatus::Approved | FactStatus::Completed) => Standing::Taken,
            Some(FactStatus::Declined | FactStatus::Failed) => Standing::Refused,
            Some(
                FactStatus::Voided
                | FactStatus::PartiallyRefunded
                | FactStatus::Refunded
                | FactStatus::Cancelled
                | FactStatus::Reversed
                | FactStatus::PartiallyReversed
                | FactStatus::Pending
                | FactStatus::Open
                | FactStatus::Won
                | FactStatus::Lost
                | FactStatus::Other,
            ) => Standing::Gone,
        }
    }

    /// The newest word on an authorisation that decides something; of two of the same time the one that ends it.
    fn decided(&self, authorisation_id: &str) -> Option<FactStatus> {
        let words = self.of(FactKind::Authorisation).filter(|fact| fact.object_id == authorisation_id);
        let decided = words.filter(|fact| fact.status != FactStatus::Pending && fact.status != FactStatus::Other);
        decided.max_by_key(|fact| (fact.at, fact.status != FactStatus::Created)).map(|fact| fact.status)
    }

    /// Takes a fact about a capture in, or about a dispute of one, and says what it changes.
    pub(super) fn capture_told(&mut self, fact: &Fact, capture_id: &str, ours: bool) -> Vec<PaymentEvent> {
        let had_money = self.state_by_captures().is_some();
        let before = self.capture(capture_id);
        self.facts.push(fact.clone());
        let after = self.capture(capture_id);
        let capture_id = after.capture_id;
        let captured = PaymentEvent::Captured { capture_id: capture_id.clone(), amount: after.amount, ours };
        let cut = PaymentEvent::PartlyReversed { capture_id: capture_id.clone() };
        let disputed = PaymentEvent::Disputed { capture_id: capture_id.clone() };
        let ended = PaymentEvent::DisputeEnded { capture_id: capture_id.clone(), lost: after.lost - before.lost };
        let restored = PaymentEvent::Restored { capture_id: capture_id.clone() };
        match (before.standing, after.standing) {
            // the amount was told later
            (Standing::Taken, Standing::Taken) if before.amount != after.amount => vec![captured],
            (Standing::Cut, Standing::Cut) | (Standing::Disputed, Standing::Disputed) if before.lost < after.lost => {
                vec![cut]
            }
            // some of what was lost is here again
            (Standing::Cut, Standing::Cut) | (Standing::Disputed, Standing::Disputed) if before.lost > after.lost => {
                vec![ended]
            }
            (old, new) if old == new => Vec::new(),
            // of another capture of this attempt, whose money is here
            (_, Standing::Pending | Standing::Refused) if had_money => Vec::new(),
            (_, Standing::Unknown) => Vec::new(),
            (_, Standing::Pending) => vec![PaymentEvent::Pending],
            (_, Standing::Refused) => vec![PaymentEvent::Declined],
            (_, Standing::Gone) => vec![PaymentEvent::Reversed { capture_id }],
            (Standing::Disputed, Standing::Taken) => vec![ended],
            (Standing::Disputed, Standing::Cut) => vec![ended, cut],
            (Standing::Taken | Standing::Gone, Standing::Cut) => vec![cut],
            (Standing::Cut | Standing::Gone, Standing::Taken) => vec![restored],
            (Standing::Gone, Standing::Disputed) => vec![restored, disputed],
            (Standing::Taken | Standing::Cut, Standing::Disputed) => vec![disputed],
            (_, Standing::Disputed) => vec![captured, disputed],
            (_, Standing::Cut) => vec![captured, cut],
            (_, Standing::Taken) => vec![captured],
        }
    }

    pub(super) fn authorisation_turned(
        &self,
        before: Standing,
        after: Standing,
        amount: Option<Money>,
        ours: bool,
    ) -> Vec<PaymentEvent> {
        match (before, after) {
            _ if before == after || self.has_capture() => Vec::new(), // the captures tell more
            (_, Standing::Taken) => vec![PaymentEvent::Authorised { amount, ours }],
            (_, Standing::Pending) => vec![PaymentEvent::Pending],
            (Standing::Taken, Standing::Gone | Standing::Refused) => vec![PaymentEvent::AuthorisationEnded],
            (_, Standing::Gone | Standing::Refused) => vec![PaymentEvent::Declined],
            (_, Standing::Unknown | Standing::Cut | Standing::Disputed) => Vec::new(),
        }
    }
}

/// A capture that no word says was taken: the newest word counts, a refusal before its equal.
fn undecided<'a>(facts: impl Iterator<Item = &'a Fact>) -> Standing {
    let refused = |status| matches!(status, FactStatus::Declined | FactStatus::Failed);
    let told = facts.filter(|fact| fact.status == FactStatus::Pending || refused(fact.status));
    match told.max_by_key(|fact| (fact.at, refused(fact.status))) {
        None => Standing::Unknown,
        Some(fact) if refused(fact.status) => Standing::Refused,
        Some(_) => Standing::Pending,
    }
}

/// A capture that was refunded or reversed had been completed, even if nobody told us at the time.
pub(super) fn is_taken(status: FactStatus) -> bool {
    match status {
        FactStatus::Completed
        | FactStatus::PartiallyRefunded
        | FactStatus::Refunded
        | FactStatus::Reversed
        | FactStatus::PartiallyReversed => true,
        FactStatus::Created
        | FactStatus::Approved
        | FactStatus::Voided
        | FactStatus::Pending
        | FactStatus::Declined
        | FactStatus::Failed
        | FactStatus::Cancelled
        | FactStatus::Open
        | FactStatus::Won
        | FactStatus::Lost
        | FactStatus::Other => false,
    }
}
