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
    pub(super) fn dispute_ended(&mut self, payment_id: PaymentId, capture_id: &str, lost: i64) {
        self.set_state_by_captures(payment_id);
        let kind = if lost > 0 { "dispute_lost" } else { "dispute_won" };
        self.event(kind, json!({ "payment_id": payment_id }));
        self.settle(payment_id, capture_id);
        self.lift_disputed();
    }

    /// The money was taken back. What has not left stays here, and nothing is refunded for it; what has left is for a person
    /// to look at.
    pub(super) fn reversed(&mut self, payment_id: PaymentId, capture_id: &str) {
        self.set_state_by_captures(payment_id);
        self.trim(payment_id, capture_id);
        self.event("payment_reversed", json!({ "payment_id": payment_id }));
        if self.order.status == OrderStatus::Confirmed && !self.order.is_paid() {
            self.hold_back(REVERSED);
            self.undo(REVERSED);
        }
    }

    /// Part of the money was taken back. What has not left is held until people have decided, or it is here again; an order
    /// of whose money nothing is left is undone.
    pub(super) fn partly_reversed(&mut self, payment_id: PaymentId, capture_id: &str) {
        self.set_state_by_captures(payment_id);
        self.trim(payment_id, capture_id);
        self.event("payment_partly_reversed", json!({ "payment_id": payment_id }));
        self.hold_back(REVERSED);
        if self.order.kept_minor() == 0 {
            self.undo(REVERSED);
        }
        self.settle(payment_id, capture_id);
    }

    /// What was taken back is here again. An order that was undone for it has no claim to it any more.
    pub(super) fn restored(&mut self, payment_id: PaymentId, capture_id: &str) {
        self.set_state_by_captures(payment_id);
        self.event("payment_restored", json!({ "payment_id": payment_id }));
        self.lift(REVERSED);
        self.lift_disputed();
        self.settle(payment_id, capture_id);
    }

    /// How much of a capture is here has changed: what was set aside goes back, and the order keeps what it has a claim to.
    pub(super) fn settle(&mut self, payment_id: PaymentId, capture_id: &str) {
        self.ask_for_set_aside(payment_id, capture_id);
        let Some(capture) = self.capture(payment_id, capture_id) else { return };
        let Some(amount) = capture.amount else { return };
        match self.order.status {
            OrderStatus::AwaitingPayment => self.part_or_all(payment_id, capture_id, amount),
            // what was called off meanwhile is not paid for any more
            OrderStatus::Confirmed | OrderStatus::Completed | OrderStatus::Cancelling if self.may_have_claim() => {
                self.refund_surplus(&capture, "cancelled");
            }
            OrderStatus::Confirmed
            | OrderStatus::Completed
            | OrderStatus::Cancelling
            | OrderStatus::Cancelled
            | OrderStatus::Expired => self.refund(payment_id, capture_id, amount, "cancelled"),
        }
    }

    /// Staff let go what they held back: a dispute that is still open holds it on.
    pub(super) fn hold_while_disputed(&mut self) {
        if self.order.payments.iter().any(|payment| payment.state == PaymentState::Disputed) {
            self.hold_back(DISPUTED);
        }
    }

    fn lift_disputed(&mut self) {
        if !self.order.payments.iter().any(|payment| payment.state == PaymentState::Disputed) {
            self.lift(DISPUTED);
        }
    }

    pub(super) fn lift(&mut self, reason: &str) {
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
