//! Money that is disputed, or taken back although it was here.

use serde_json::json;

use super::Draft;
use crate::domain::{Order, OrderStatus, PaymentId, PaymentState, Standing};

/// Why an order is held back of whose money a part came, and nobody reserves the rest.
pub(super) const PARTIALLY_PAID: &str = "partially_paid";
/// Why an order is held back whose money was taken back.
const REVERSED: &str = "reversed";
/// Why an order is held back by a dispute, until that is decided.
const DISPUTED: &str = "disputed";

/// What of a confirmed order's money holds it back, and whether that stands.
const REASONS: [(&str, fn(&Order) -> bool); 3] =
    [(PARTIALLY_PAID, is_partially_paid), (REVERSED, is_taken_back), (DISPUTED, is_disputed)];

fn is_partially_paid(order: &Order) -> bool {
    let captures = order.captures();
    let here = captures.iter().any(|capture| capture.standing == Standing::Taken);
    here && !order.is_paid() && order.authorised().is_none() && !is_taken_back(order)
}

fn is_taken_back(order: &Order) -> bool {
    let captures = order.captures();
    let stands = |standing| captures.iter().any(|capture| capture.standing == standing);
    stands(Standing::Cut) || (stands(Standing::Gone) && !order.is_paid())
}

fn is_disputed(order: &Order) -> bool {
    order.payments.iter().any(|payment| payment.state == PaymentState::Disputed)
}

impl Draft<'_> {
    /// The buyer disputes what is here: nothing more leaves until that is decided.
    pub(super) fn disputed(&mut self, payment_id: PaymentId) {
        self.set_state_by_captures(payment_id);
        self.keep_asking(payment_id);
        self.event("payment_disputed", json!({ "payment_id": payment_id }));
        self.hold_back(DISPUTED);
    }

    /// Nothing more leaves. Another reason for that stays as it is: this one is looked for again when that is over.
    pub(super) fn hold_back(&mut self, reason: &str) {
        if self.order.status == OrderStatus::Confirmed && self.order.hold_reason.as_deref() != Some(reason) {
            self.order.hold_reason.get_or_insert_with(|| reason.to_owned());
            self.event("held_back", json!({ "reason": reason }));
        }
    }

    /// A reason for holding the order back is over, and its money may be another. Staff who overrule one overrule those
    /// before it too: they come to an end.
    pub(super) fn hold_for_money(&mut self, overruled: Option<&str>) {
        let known = REASONS.iter().position(|(reason, _)| Some(*reason) == overruled);
        let left = REASONS.iter().skip(known.map_or(0, |at| at + 1));
        if let Some((reason, _)) = left.filter(|(_, stands)| stands(&self.order)).next() {
            self.hold_back(reason);
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

    fn lift_disputed(&mut self) {
        if !is_disputed(&self.order) {
            self.lift(DISPUTED);
        }
    }

    pub(super) fn lift(&mut self, reason: &str) {
        if self.order.hold_reason.as_deref() == Some(reason) {
            self.order.hold_reason = None;
            self.event("released", json!({ "reason": reason }));
            self.hold_for_money(None);
        }
    }

    pub(super) fn set_state_by_captures(&mut self, payment_id: PaymentId) {
        let payment = self.order.payments.iter().find(|payment| payment.id == payment_id);
        if let Some(state) = payment.and_then(|payment| payment.state_by_captures()) {
            self.set_payment(payment_id, state);
        }
    }
}
