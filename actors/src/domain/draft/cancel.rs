//! Calling an order off, whole or in part. Stock is given back at once, money as fast as the provider takes it: until then a
//! paid order is `cancelling`.

use serde_json::json;

use super::{Draft, refunds::GiveBack};
use crate::domain::{
    About, Money, OrderStatus, Part, PartState, Payment, PaymentState, Refund, RefundKind, RefundState, Refusal, Task,
    TaskKind, TaskState, Units, change::Cause,
};

impl Draft<'_> {
    /// Calls the order off as a whole: a buyer only before any of it is on its way. Asked again it changes nothing.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] once it is over or on its way.
    pub fn cancel(&mut self, by_buyer: bool) -> Result<(), Refusal> {
        let reason = if by_buyer { "called off by the buyer" } else { "called off by staff" };
        match self.order.status {
            OrderStatus::Cancelling | OrderStatus::Cancelled => Ok(()),
            OrderStatus::Confirmed if by_buyer && self.order.parts.iter().any(|part| part.state.is_out()) => {
                Err(self.not_now("some of it is on its way"))
            }
            OrderStatus::AwaitingPayment | OrderStatus::Confirmed => self.cancel_lines(None, reason),
            OrderStatus::Completed | OrderStatus::Expired => Err(self.not_now("there is nothing to cancel")),
        }
    }

    /// Calls `lines` off, or all that has not left.
    pub(super) fn cancel_lines(&mut self, lines: Option<&[Units]>, reason: &str) -> Result<(), Refusal> {
        match self.order.status {
            OrderStatus::AwaitingPayment if lines.is_some() => {
                Err(self.not_now("it is not paid: it can be called off as a whole only"))
            }
            OrderStatus::AwaitingPayment => {
                self.cancel_unpaid(json!({}));
                Ok(())
            }
            OrderStatus::Confirmed => self.cancel_confirmed(lines, reason),
            OrderStatus::Completed | OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Expired => {
                Err(self.not_now("there is nothing to cancel"))
            }
        }
    }

    pub(super) fn cancel_unpaid(&mut self, why: serde_json::Value) {
        self.order.status = OrderStatus::Cancelled;
        self.move_parts(PartState::Held, PartState::Released, Cause::Release);
        self.event("cancelled", why);
        self.announce_no_more();
        self.give_all_back("cancelled");
    }

    fn cancel_confirmed(&mut self, lines: Option<&[Units]>, reason: &str) -> Result<(), Refusal> {
        let wanted = match lines {
            Some(lines) => {
                let wanted = self.merged(lines)?;
                self.unpack(&wanted);
                wanted
            }
            None => {
                self.call_off_shipments(reason);
                self.all_cancellable()
            }
        };
        if lines.is_none() && self.order.awaits_carrier() {
            self.cancel_when_decided(reason, &wanted);
            return Ok(());
        }
        if wanted.is_empty() {
            return Err(self.not_now("nothing of it can be called off any more"));
        }
        for units in &wanted {
            if self.cancellable_of(units.line) < units.quantity {
                return Err(self.not_now("so many units of a line cannot be called off any more"));
            }
        }
        let price = self.price_not_paid_back(&wanted);
        for units in &wanted {
            self.release_units(*units);
        }
        if self.is_whole() {
            self.begin_cancel(reason, wanted);
        } else {
            self.event("lines_cancelled", json!({ "lines": wanted, "reason": reason }));
            self.give_back_cancelled(price, wanted, reason);
        }
        Ok(())
    }

    /// So much goes back for what was called off, as far as it is here.
    fn give_back_cancelled(&mut self, minor: i64, lines: Vec<Units>, reason: &str) {
        let amount = Money::new(minor.min(self.order.kept_minor()), self.order.total.currency);
        self.give_back(GiveBack { amount, kind: RefundKind::Cancellation, lines, reason, command_id: None });
    }

    /// The money of a confirmed order is gone: what has not left is called off, and what has is for a person to look at.
    pub(super) fn undo(&mut self, reason: &'static str) {
        if self.order.status != OrderStatus::Confirmed {
            return;
        }
        self.call_off_shipments(reason);
        let wanted = self.all_cancellable();
        if self.order.awaits_carrier() {
            return self.cancel_when_decided(reason, &wanted);
        }
        for units in &wanted {
            self.release_units(*units);
        }
        if self.is_whole() {
            self.begin_cancel(reason, wanted);
        } else if !wanted.is_empty() {
            self.event("lines_cancelled", json!({ "lines": wanted, "reason": reason }));
        }
    }

    fn begin_cancel(&mut self, reason: &str, lines: Vec<Units>) {
        self.order.status = OrderStatus::Cancelling;
        self.event("cancelling", json!({ "reason": reason }));
        self.give_back_cancelled(i64::MAX, lines, "cancelled");
    }

    /// A carrier still decides about a label: what is in no parcel is given back now, with its money, and the rest when that
    /// is decided.
    fn cancel_when_decided(&mut self, reason: &str, wanted: &[Units]) {
        for units in wanted {
            self.release_units(*units);
        }
        self.order.status = OrderStatus::Cancelling;
        self.event("cancelling", json!({ "reason": reason }));
        self.give_back_cancelled(self.not_due(), wanted.to_vec(), "cancelled");
    }

    /// Every carrier has decided. What came free is given back; where something left or stays, the order is confirmed as
    /// to that, and the rest is paid back.
    pub(super) fn go_on_with_cancel(&mut self) {
        if self.order.status != OrderStatus::Cancelling || self.order.awaits_carrier() {
            return;
        }
        let freed = self.all_cancellable();
        for units in &freed {
            self.release_units(*units);
        }
        if self.is_whole() {
            return self.give_back_cancelled(i64::MAX, freed, "cancelled");
        }
        self.order.status = OrderStatus::Confirmed;
        let released = |line: i32| self.order.units(line, |state| state == PartState::Released);
        let lines = self.order.lines().map(|line| Units { line: line.line, quantity: released(line.line) });
        let lines: Vec<Units> = lines.filter(|units| units.quantity > 0).collect();
        if lines.is_empty() {
            self.event("not_cancelled", json!({ "reason": "it is on its way" }));
        } else {
            self.event("lines_cancelled", json!({ "lines": lines, "reason": "the rest is on its way" }));
        }
        self.give_back_cancelled(self.not_due(), freed, "cancelled");
    }

    /// What is here beyond what the order costs as it is: nothing of a line that was called off before its money was taken.
    fn not_due(&self) -> i64 {
        self.order.paid_minor() - self.order.due_minor()
    }

    /// Units of a line that can still be called off: sold, and in no parcel.
    fn cancellable_of(&self, line: i32) -> i64 {
        self.order.unpacked(line)
    }

    fn all_cancellable(&self) -> Vec<Units> {
        let all = self.order.lines().map(|line| Units { line: line.line, quantity: self.cancellable_of(line.line) });
        all.filter(|units| units.quantity > 0).collect()
    }

    /// Nothing is left that could be delivered, and nothing has left.
    fn is_whole(&self) -> bool {
        !self.order.parts.iter().any(|part| part.state.is_open() || part.state.is_out())
    }

    /// Gives units of a line back to the stock; the caller has seen that they are there.
    fn release_units(&mut self, units: Units) {
        let mut wanted = units.quantity;
        while wanted > 0 {
            let sold = |part: &&Part| part.line == units.line && part.state == PartState::Committed;
            let next = self.order.parts.iter().find(sold);
            let Some((number, quantity)) = next.map(|part| (part.part, part.quantity)) else { return };
            let released = self.split_part(number, wanted.min(quantity));
            self.move_part(released, PartState::Released, Cause::Release);
            wanted -= wanted.min(quantity);
        }
    }

    // ── the end of it ────────────────────────────────────────────────────────────────────────────────────────────────

    /// An order that is over or paid for keeps no money reserved, nor does an attempt that was not its own; that is asked of
    /// the provider once, and for as long as there is something to let go.
    pub(super) fn let_go(&mut self) {
        let over = self.is_over() || self.order.is_paid();
        let reserved = |payment: &Payment| {
            let is_unwanted = over || payment.state == PaymentState::Failed;
            (payment.id, payment.still_reserved().map(|_| is_unwanted))
        };
        for (payment_id, reserved) in self.order.payments.iter().map(reserved).collect::<Vec<_>>() {
            let asks = |task: &&Task| task.kind == TaskKind::Void && task.about == About::Payment(payment_id);
            let asked = self.order.tasks.iter().find(asks).map(|task| task.id);
            match (asked, reserved) {
                (Some(task_id), None) => self.close_task(task_id, TaskState::Done, None),
                // one that is being captured shows as money, and that goes back
                (None, Some(true)) if !self.has_task(TaskKind::CaptureAuthorised, payment_id) => {
                    self.open_task(TaskKind::Void, About::Payment(payment_id), chrono::TimeDelta::zero());
                }
                (None | Some(_), _) => {}
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self.order.status {
            OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Expired => true,
            OrderStatus::AwaitingPayment | OrderStatus::Confirmed | OrderStatus::Completed => false,
        }
    }

    /// `cancelling` ends when no money is on its way any more, in either direction.
    pub(super) fn end_cancel(&mut self) {
        let waits = |refund: &Refund| matches!(refund.state, RefundState::Requested | RefundState::Pending);
        let calls = self.order.tasks.iter().any(|task| task.about.payment_id().is_some());
        let undecided = self.order.payments.iter().any(|payment| payment.state == PaymentState::Pending);
        let done = !calls && !undecided && !self.order.refunds.iter().any(waits);
        if self.order.status == OrderStatus::Cancelling && done && !self.order.awaits_carrier() {
            self.order.status = OrderStatus::Cancelled;
            self.event("cancelled", json!({}));
        }
    }
}
