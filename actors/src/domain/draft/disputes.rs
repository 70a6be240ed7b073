//! Money that is disputed, or taken back although it was here.

use serde_json::json;

use super::Draft;
use crate::domain::{OrderStatus, PaymentId, PaymentState};

/// Why an order is held back by a dispute, until that is decided.
pub(super) const DISPUTED: &str = "disputed";
/// Why an order is held back whose money was taken back.
const REVERSED: &str = "reversed";

impl Draft<'_> {
    /// The buyer disputes what is here: nothing more leaves until that is decided.
    pub(super) fn disputed(&mut self, payment_id: PaymentId) {
        self.set_state_by_captures(payment_id);
        self.keep_asking(payment_id);
        self.event("payment_disputed", json!({ "payment_id": payment_id }));
        self.hold_back(DISPUTED);
    }

    /// Nothing more leaves; another reason for that stays as it is.
    pub(super) fn hold_back(&mut self, reason: &str) {
        if self.order.status == OrderStatus::Confirmed && self.order.hold_reason.is_none() {
            self.order.hold_reason = Some(reason.to_owned());
            self.event("held_back", json!({ "reason": reason }));
        }
    }

    /// A dispute was decided and (most of) the money is still here: the hold that it made is lifted.
    pub(super) fn dispute_ended(&mut self, payment_id: PaymentId, lost: i64) {
        self.set_state_by_captures(payment_id);
        let kind = if lost == 0 { "dispute_won" } else { "dispute_lost" };
        self.event(kind, json!({ "payment_id": payment_id }));
        let another = self.order.payments.iter().any(|payment| payment.state == PaymentState::Disputed);
        if !another {
            self.lift(DISPUTED);
        }
    }

    /// The money was taken back. What has not left stays here, and nothing is refunded for it; what has left is for a person
    /// to look at.
    pub(super) fn reversed(&mut self, payment_id: PaymentId, capture_id: &str) {
        self.set_state_by_captures(payment_id);
        self.call_off_refunds(payment_id, capture_id);
        self.event("payment_reversed", json!({ "payment_id": payment_id }));
        if self.order.status == OrderStatus::Confirmed && !self.order.is_paid() {
            self.hold_back(REVERSED);
            self.undo(REVERSED);
        }
    }

    /// What was taken back is here again. An order that was undone for it has no claim to it any more.
    pub(super) fn restored(&mut self, payment_id: PaymentId, capture_id: &str) {
        self.set_state_by_captures(payment_id);
        self.event("payment_restored", json!({ "payment_id": payment_id }));
        self.lift(REVERSED);
        let captures = self.order.captures();
        let Some(capture) = captures.iter().find(|c| c.payment_id == payment_id && c.capture_id == capture_id) else {
            return;
        };
        match self.order.status {
            OrderStatus::AwaitingPayment => {
                if let Some(amount) = capture.amount {
                    self.part_or_all(payment_id, capture_id, amount);
                }
            }
            // what was called off meanwhile is not paid for any more
            OrderStatus::Confirmed | OrderStatus::Completed => self.refund_surplus(capture, "cancelled"),
            // what comes of the order, and what it then has a claim to, is known when its carriers have decided
            OrderStatus::Cancelling if self.order.awaits_carrier() => {}
            OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Expired => {
                if let Some(amount) = capture.amount {
                    self.refund(payment_id, capture_id, amount, "cancelled");
                }
            }
        }
    }

    /// Staff let go what they held back: a dispute that is still open holds it on.
    pub(super) fn hold_while_disputed(&mut self) {
        if self.order.payments.iter().any(|payment| payment.state == PaymentState::Disputed) {
            self.hold_back(DISPUTED);
        }
    }

    fn lift(&mut self, reason: &str) {
        if self.order.hold_reason.as_deref() == Some(reason) {
            self.order.hold_reason = None;
            self.event("released", json!({ "reason": reason }));
        }
    }

    pub(super) fn set_state_by_captures(&mut self, payment_id: PaymentId) {
        let payment = self.order.payments.iter().find(|payment| payment.id == payment_id);
        if let Some(state) = payment.and_then(|payment| payment.state_by_captures()) {
            self.set_payment(payment_id, state);
        }
    }
}
