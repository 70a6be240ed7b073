//! What a provider says of an order's money, and what follows from it.

use serde_json::json;

use super::{Draft, patience};
use crate::domain::{
    Fact, Money, OrderStatus, Part, PartState, Payment, PaymentEvent, PaymentId, PaymentState, Refund, RefundId,
    RefundState, Restock, change::Cause,
};

/// The reason of a refund that was made at the provider and is mirrored here.
const MADE_AT_PROVIDER: &str = "made_at_provider";

impl Draft<'_> {
    /// Takes a provider's facts in; says what stock they ask for. The caller tries to hold it and reports with
    /// [`Draft::restocked`] before it finishes the draft.
    pub fn learn(&mut self, payment_id: PaymentId, facts: Vec<Fact>) -> Vec<Restock> {
        let total = self.order.total;
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
            PaymentEvent::Captured { capture_id, amount, ours } => self.captured(payment_id, capture_id, amount, ours),
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
            PaymentEvent::Refund { provider_refund_id, capture_id, amount, state } => {
                self.refund_news(payment_id, provider_refund_id, capture_id, amount, state);
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
                self.capture(payment_id);
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
        if let Some(payment_id) = next.filter(|_| !self.is_charging() && self.order.may_charge(self.at, self.policy)) {
            self.capture(payment_id);
        }
    }

    /// Money arrived. It ends as a confirmed order or as a refund.
    pub(super) fn captured(
        &mut self,
        payment_id: PaymentId,
        capture_id: String,
        amount: Option<Money>,
        ours: bool,
    ) -> Option<Restock> {
        self.set_payment(payment_id, PaymentState::Captured);
        let told = amount.map_or_else(|| json!(null), |amount| json!(amount));
        self.event("payment_captured", json!({ "payment_id": payment_id, "amount": told }));
        let Some(amount) = amount else {
            self.event(
                "needs_review",
                json!({ "payment_id": payment_id, "why": "money in a currency that cannot be read" }),
            );
            return None;
        };
        if amount != self.order.total || !ours {
            self.refund(payment_id, capture_id, amount, "mismatch");
            return None;
        }
        match self.order.status {
            // (part of) it may have gone back before anybody told us that it came
            OrderStatus::AwaitingPayment
                if self.order.captured_minor() - self.order.refunding_minor() < amount.minor =>
            {
                self.refund(payment_id, capture_id, amount, "mismatch");
                None
            }
            OrderStatus::AwaitingPayment => {
                self.confirm();
                None
            }
            OrderStatus::Expired => Some(Restock::LateMoney { payment_id, capture_id, amount }),
            OrderStatus::Confirmed | OrderStatus::Completed => {
                self.refund(payment_id, capture_id, amount, "overpaid");
                None
            }
            OrderStatus::Cancelling | OrderStatus::Cancelled => {
                self.refund(payment_id, capture_id, amount, "cancelled");
                None
            }
        }
    }

    /// Stock for late money or a late approval was held again, or is gone.
    ///
    /// Returns the parts that the caller must write with the holds it has got; none where stock is gone.
    pub fn restocked(&mut self, wish: &Restock, held: bool) -> Vec<Part> {
        match (wish, held) {
            (Restock::LateMoney { .. }, true) => {
                self.order.status = OrderStatus::Confirmed;
                self.event("confirmed", json!({ "late": true }));
                self.fresh_parts(PartState::Committed)
            }
            (Restock::LateMoney { payment_id, capture_id, amount }, false) => {
                self.refund(*payment_id, capture_id.clone(), *amount, "out_of_stock");
                Vec::new()
            }
            (Restock::LateApproval { payment_id }, true) => {
                self.order.status = OrderStatus::AwaitingPayment;
                self.order.deadline = self.at + self.policy.hold;
                self.event("reopened", json!({ "hold_expires_at": self.order.deadline }));
                self.capture(*payment_id);
                self.fresh_parts(PartState::Held)
            }
            (Restock::LateApproval { payment_id }, false) => {
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
            Restock::LateMoney { .. } => {
                self.order.captured_minor() - self.order.refunding_minor() >= self.order.total.minor
            }
            Restock::LateApproval { .. } => true,
        }
    }

    /// The order is open again by other money, or this money is no longer all here: what is left of it goes back.
    pub fn overtaken(&mut self, wish: &Restock) {
        let reason = if self.order.status == OrderStatus::Expired { "mismatch" } else { "overpaid" };
        match wish {
            Restock::LateMoney { payment_id, capture_id, amount } => {
                self.refund(*payment_id, capture_id.clone(), *amount, reason);
            }
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
        self.move_parts(PartState::Held, PartState::Committed, Cause::Commit);
        self.event("confirmed", json!({}));
    }

    /// The provider is undecided: the lines stay kept for as long as the shop's policy says.
    pub(super) fn pending(&mut self, payment_id: PaymentId) {
        self.set_payment(payment_id, PaymentState::Pending);
        if self.order.status == OrderStatus::AwaitingPayment {
            self.order.deadline = self.order.deadline.max(self.at + self.policy.pending_hold);
        }
        self.event("payment_pending", json!({ "payment_id": payment_id, "hold_expires_at": self.order.deadline }));
    }

    pub(super) fn declined(&mut self, payment_id: PaymentId, why: &str) {
        self.set_payment(payment_id, PaymentState::Declined);
        self.event("payment_declined", json!({ "payment_id": payment_id, "why": why }));
        self.charge_next();
    }

    pub(super) fn dead(&mut self, payment_id: PaymentId, why: &str) {
        let open = self.order.payments.iter().any(|payment| payment.id == payment_id && payment.is_live());
        if open {
            self.set_payment(payment_id, PaymentState::Failed);
            self.event("payment_failed", json!({ "payment_id": payment_id, "why": why }));
            self.charge_next();
        }
    }

    pub(super) fn refund_news(
        &mut self,
        payment_id: PaymentId,
        provider_refund_id: String,
        capture_id: Option<String>,
        amount: Option<Money>,
        state: RefundState,
    ) {
        let known = |refund: &&mut Refund| {
            refund.provider_refund_id.as_deref() == Some(provider_refund_id.as_str())
                || refund.provider_refund_id.is_none()
                    && refund.payment_id == payment_id
                    && Some(refund.amount) == amount
        };
        let refund = match self.order.refunds.iter_mut().find(known) {
            Some(refund) if refund.state == RefundState::Completed => return,
            Some(refund) => refund,
            None => {
                // made at the provider: mirrored, so that the sums are the provider's
                let (Some(capture_id), Some(amount)) = (capture_id, amount) else { return };
                let Some(id) = self.ids.next() else { return };
                let reason = MADE_AT_PROVIDER.to_owned();
                let state = RefundState::Requested;
                self.order.refunds.push(Refund {
                    id: RefundId(id),
                    payment_id,
                    capture_id,
                    amount,
                    reason,
                    state,
                    provider_refund_id: None,
                });
                let Some(refund) = self.order.refunds.last_mut() else { return };
                refund
            }
        };
        refund.state = state;
        refund.provider_refund_id = Some(provider_refund_id);
        let told = refund.clone();
        self.note_refund(&told);
        let kind = match state {
            RefundState::Completed => "refunded",
            RefundState::Requested | RefundState::Pending => "refund_pending",
            RefundState::Failed | RefundState::Cancelled => "refund_failed",
        };
        self.event(kind, json!({ "refund_id": told.id, "amount": told.amount, "reason": told.reason }));
        let ours = told.reason != MADE_AT_PROVIDER;
        if ours && !told.is_live() {
            // it failed after it had been taken: the money is owed again
            self.refund_after(told.payment_id, told.capture_id, told.amount, &told.reason, patience(0));
        }
    }
}
