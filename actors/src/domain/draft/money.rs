//! What a provider says of an order's money, and what follows from it.

use chrono::TimeDelta;
use serde_json::json;

use super::{Draft, disputes::PARTIALLY_PAID};
use crate::domain::{
    Fact, FactKind, FactStatus, Money, OrderStatus, Part, PartState, Payment, PaymentEvent, PaymentId, PaymentState,
    Restock, TaskState, change::Cause,
};

impl Draft<'_> {
    /// Takes a provider's facts in; says what stock they ask for. The caller tries to hold it and reports with
    /// [`Draft::restocked`] before it finishes the draft.
    pub fn learn(&mut self, payment_id: PaymentId, facts: Vec<Fact>) -> Vec<Restock> {
        let total = self.order.total;
        self.know_ours(payment_id, &facts);
        let Some(payment) = self.payment_mut(payment_id) else { return Vec::new() };
        let (fresh, events) = payment.learn(facts, total);
        self.changes.facts.extend(fresh.into_iter().map(|fact| (payment_id, fact)));
        events.into_iter().filter_map(|event| self.weigh(payment_id, event)).collect()
    }

    pub(super) fn weigh(&mut self, payment_id: PaymentId, event: PaymentEvent) -> Option<Restock> {
        match event {
            PaymentEvent::Approved { fits: true } => self.approved(payment_id),
            PaymentEvent::Approved { fits: false } => {
                self.set_payment(payment_id, PaymentState::Failed);
                self.event("payment_mismatch", json!({ "payment_id": payment_id, "charged": false }));
                None
            }
            PaymentEvent::Authorised { amount, ours } => self.authorised(payment_id, amount, ours),
            PaymentEvent::Captured { capture_id, amount, ours } => self.captured(payment_id, capture_id, amount, ours),
            PaymentEvent::AuthorisationEnded => {
                self.authorisation_ended(payment_id);
                None
            }
            PaymentEvent::Pending => {
                self.pending(payment_id);
                None
            }
            PaymentEvent::Declined => {
                self.declined(payment_id, "declined by the provider");
                None
            }
            PaymentEvent::Dead => {
                self.dead(payment_id, "given up by the provider");
                None
            }
            PaymentEvent::Reversed { capture_id } => {
                self.reversed(payment_id, &capture_id);
                None
            }
            PaymentEvent::PartlyReversed { capture_id } => {
                self.partly_reversed(payment_id, &capture_id);
                None
            }
            PaymentEvent::Restored { capture_id } => {
                self.restored(payment_id, &capture_id);
                None
            }
            PaymentEvent::Disputed { .. } => {
                self.disputed(payment_id);
                None
            }
            PaymentEvent::DisputeEnded { capture_id, lost } => {
                self.dispute_ended(payment_id, &capture_id, lost);
                None
            }
            PaymentEvent::Refund { provider_refund_id, capture_id, amount, state, late } => {
                self.refund_news(payment_id, provider_refund_id, capture_id, amount, (state, late));
                None
            }
        }
    }

    /// The buyer approved: charge, unless the hold is over or about to be.
    pub(super) fn approved(&mut self, payment_id: PaymentId) -> Option<Restock> {
        self.set_payment(payment_id, PaymentState::Approved);
        self.event("payment_approved", json!({ "payment_id": payment_id }));
        match self.order.status {
            // another attempt is being charged: this one waits for how that ends
            OrderStatus::AwaitingPayment if self.is_charging() => None,
            OrderStatus::AwaitingPayment if self.order.may_charge(self.at, self.policy) => {
                self.take(payment_id);
                None
            }
            // in the last moments of a hold: falls due first, and then asks for stock again
            OrderStatus::AwaitingPayment => {
                let deadline = self.order.deadline;
                self.set_check(payment_id, deadline);
                None
            }
            OrderStatus::Expired => Some(Restock::LateApproval { payment_id }),
            OrderStatus::Confirmed | OrderStatus::Completed | OrderStatus::Cancelling | OrderStatus::Cancelled => None,
        }
    }

    pub(super) fn is_charging(&self) -> bool {
        let charging = |payment: &Payment| matches!(payment.state, PaymentState::Capturing | PaymentState::Pending);
        self.order.payments.iter().any(charging)
    }

    /// An attempt has come to nothing: one that was approved meanwhile is charged instead.
    pub(super) fn charge_next(&mut self) {
        let next = self.order.payments.iter().find(|payment| payment.state == PaymentState::Approved);
        let next = next.map(|payment| payment.id);
        let Some(payment_id) = next.filter(|_| !self.is_charging()) else { return };
        if self.order.may_charge(self.at, self.policy) {
            self.take(payment_id);
        } else {
            let at = self.at;
            self.set_check(payment_id, at); // its hold is over: it asks for stock again
        }
    }

    /// Money arrived. It ends as a confirmed order or as a refund.
    fn captured(
        &mut self,
        payment_id: PaymentId,
        capture_id: String,
        amount: Option<Money>,
        ours: bool,
    ) -> Option<Restock> {
        self.set_state_by_captures(payment_id);
        // a webhook may tell of it before the answer to our own call, which then has nothing left to ask
        let taken = |payment: &Payment| payment.id == payment_id && payment.authorisation_left().is_none();
        if self.order.payments.iter().any(taken) {
            self.ask_no_more(payment_id, TaskState::Done);
        }
        let told = amount.map_or_else(|| json!(null), |amount| json!(amount));
        self.event("payment_captured", json!({ "payment_id": payment_id, "amount": told }));
        let Some(amount) = amount else {
            let why = "money in a currency that cannot be read";
            self.event("needs_review", json!({ "payment_id": payment_id, "why": why }));
            return None;
        };
        let total = self.order.total;
        let too_much = amount.minor > total.minor && !self.may_have_claim();
        if amount.currency != total.currency || too_much || !ours {
            self.refund(payment_id, &capture_id, amount, "mismatch");
            return None;
        }
        match self.order.status {
            OrderStatus::AwaitingPayment => self.part_or_all(payment_id, &capture_id, amount),
            OrderStatus::Expired if amount == total && !self.was_slow(payment_id) => {
                return Some(Restock::LateMoney { payment_id, capture_id, amount });
            }
            OrderStatus::Expired => self.refund(payment_id, &capture_id, amount, "expired"),
            OrderStatus::Cancelling | OrderStatus::Cancelled if !self.may_have_claim() => {
                self.refund(payment_id, &capture_id, amount, "cancelled");
            }
            OrderStatus::Confirmed | OrderStatus::Completed | OrderStatus::Cancelling | OrderStatus::Cancelled => {
                let capture = self.capture(payment_id, &capture_id)?;
                self.refund_surplus(&capture, "overpaid");
                // somebody took less than was reserved, at the provider: they take the rest, or a person must look
                if self.order.is_paid() {
                    self.lift(PARTIALLY_PAID);
                } else if self.order.authorised().is_none() {
                    self.hold_back(PARTIALLY_PAID);
                }
            }
        }
        None
    }

    /// Whether the order keeps what it costs of money that comes: while carriers decide about a cancel, too.
    pub(super) fn may_have_claim(&self) -> bool {
        match self.order.status {
            OrderStatus::Confirmed | OrderStatus::Completed => true,
            OrderStatus::Cancelling => self.order.awaits_carrier(),
            OrderStatus::AwaitingPayment | OrderStatus::Cancelled | OrderStatus::Expired => false,
        }
    }

    /// The total is here, or part of it: several parts that together reach the total are as good as the whole.
    pub(super) fn part_or_all(&mut self, payment_id: PaymentId, capture_id: &str, amount: Money) {
        let Some(capture) = self.capture(payment_id, capture_id) else { return };
        if self.order.left_of(&capture) < amount.minor {
            // (part of) it went back before anybody told us that it came
            self.refund(payment_id, capture_id, amount, "mismatch");
        } else if self.order.kept_minor() >= self.order.total.minor {
            self.confirm();
            self.refund_surplus(&capture, "overpaid");
        } else {
            let kept = Money::new(self.order.kept_minor(), amount.currency);
            self.event("partially_paid", json!({ "paid": kept, "hold_expires_at": self.order.deadline }));
        }
    }

    /// Stock for late money or a late approval was held again, or is gone.
    ///
    /// Told for how long it is held again, it returns the parts that the caller must write with the holds it has got; none
    /// where stock is gone.
    pub fn restocked(&mut self, wish: &Restock, held: Option<TimeDelta>) -> Vec<Part> {
        match (wish, held) {
            (Restock::LateMoney { .. } | Restock::LateAuthorisation { .. }, Some(_)) => {
                self.order.status = OrderStatus::Confirmed;
                self.event("confirmed", json!({ "late": true }));
                self.fresh_parts(PartState::Committed)
            }
            (Restock::LateMoney { payment_id, capture_id, amount }, None) => {
                self.refund(*payment_id, capture_id, *amount, "out_of_stock");
                Vec::new()
            }
            (Restock::LateAuthorisation { payment_id }, None) => {
                self.set_payment(*payment_id, PaymentState::Failed); // and what is reserved is let go
                self.event("approved_too_late", json!({ "payment_id": payment_id, "charged": false }));
                Vec::new()
            }
            (Restock::LateApproval { payment_id }, Some(keeps)) => {
                self.order.status = OrderStatus::AwaitingPayment;
                // for this charge only: should it come to nothing, the buyer has had the time there was
                self.order.hold_ends_at = Some(self.order.deadline);
                self.order.deadline = self.at + keeps;
                self.event("reopened", json!({ "hold_expires_at": self.order.deadline }));
                self.take(*payment_id);
                self.fresh_parts(PartState::Held)
            }
            (Restock::LateApproval { payment_id }, None) => {
                self.set_payment(*payment_id, PaymentState::Failed);
                self.event("approved_too_late", json!({ "payment_id": payment_id, "charged": false }));
                Vec::new()
            }
        }
    }

    /// Whether the money that came late is still all here: part of it may have gone back at the provider.
    #[must_use]
    pub fn is_paid_for(&self, wish: &Restock) -> bool {
        match wish {
            Restock::LateMoney { payment_id, capture_id, amount } => {
                let late = self.capture(*payment_id, capture_id);
                late.is_some_and(|capture| self.order.left_of(&capture) >= amount.minor)
            }
            Restock::LateApproval { .. } | Restock::LateAuthorisation { .. } => true,
        }
    }

    /// The order is open again by other money, or this money is no longer all here: what is left of it goes back.
    pub fn overtaken(&mut self, wish: &Restock) {
        let reason = if self.order.status == OrderStatus::Expired { "mismatch" } else { "overpaid" };
        match wish {
            Restock::LateMoney { payment_id, capture_id, amount } => {
                self.refund(*payment_id, capture_id, *amount, reason);
            }
            Restock::LateAuthorisation { payment_id } => self.set_payment(*payment_id, PaymentState::Failed),
            Restock::LateApproval { .. } => {}
        }
    }

    pub(super) fn fresh_parts(&mut self, state: PartState) -> Vec<Part> {
        let next = i32::try_from(self.order.parts.len()).unwrap_or(i32::MAX);
        let fresh: Vec<Part> =
            (next..).zip(self.order.lines()).map(|(part, line)| Part { part, state, ..line }).collect();
        self.order.parts.extend(fresh.iter().cloned());
        fresh
    }

    pub(super) fn confirm(&mut self) {
        self.order.status = OrderStatus::Confirmed;
        self.order.hold_ends_at = None;
        self.move_parts(PartState::Held, PartState::Committed, Cause::Commit);
        self.event("confirmed", json!({}));
    }

    /// The provider is undecided: the lines stay kept for as long as the shop's policy says. What was bought in a sale is not
    /// kept for days: the order is called off, and its money, should it come, goes back.
    fn pending(&mut self, payment_id: PaymentId) {
        self.set_payment(payment_id, PaymentState::Pending);
        let waits = self.order.status == OrderStatus::AwaitingPayment;
        if waits && !self.order.is_of_a_sale() {
            let own_end = self.order.deadline;
            self.order.hold_ends_at.get_or_insert(own_end);
            self.order.deadline = own_end.max(self.at + self.policy.pending_hold);
        }
        self.event("payment_pending", json!({ "payment_id": payment_id, "hold_expires_at": self.order.deadline }));
        if waits && self.order.is_of_a_sale() {
            self.cancel_unpaid(json!({ "reason": "slow_payment" }));
        }
    }

    /// Whether an attempt was undecided for a while, which a sale does not wait for.
    fn was_slow(&self, payment_id: PaymentId) -> bool {
        let pending = |fact: &Fact| fact.kind == FactKind::Capture && fact.status == FactStatus::Pending;
        let slow = |payment: &Payment| payment.id == payment_id && payment.facts.iter().any(pending);
        self.order.is_of_a_sale() && self.order.payments.iter().any(slow)
    }

    pub(super) fn declined(&mut self, payment_id: PaymentId, why: &str) {
        // an order that was confirmed on what is reserved has nothing else to wait for
        let relied_on = self.order.status == OrderStatus::Confirmed && !self.order.is_paid();
        self.set_payment(payment_id, if relied_on { PaymentState::Failed } else { PaymentState::Declined });
        self.event("payment_declined", json!({ "payment_id": payment_id, "why": why }));
        self.came_to_nothing();
    }

    pub(super) fn dead(&mut self, payment_id: PaymentId, why: &str) {
        self.fails(payment_id, "payment_failed", json!({ "payment_id": payment_id, "why": why }));
    }

    pub(super) fn fails(&mut self, payment_id: PaymentId, kind: &'static str, told: serde_json::Value) {
        let open = self.order.payments.iter().any(|payment| payment.id == payment_id && payment.is_live());
        if open {
            self.set_payment(payment_id, PaymentState::Failed);
            self.event(kind, told);
            self.came_to_nothing();
        }
    }

    /// An attempt has ended without money: the hold has its own end again, which may be past; another attempt has its turn;
    /// and an order that was confirmed on this money is undone.
    fn came_to_nothing(&mut self) {
        self.waits_no_longer();
        self.charge_next();
        self.without_money("payment_failed");
    }

    /// A hold that was kept for a charge has its own end again, unless another is under way.
    pub(super) fn waits_no_longer(&mut self) {
        if let Some(own_end) = self.order.hold_ends_at.filter(|_| !self.is_charging()) {
            self.order.hold_ends_at = None;
            self.order.deadline = own_end;
            self.fall_due();
        }
    }
}
