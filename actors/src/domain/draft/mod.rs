//! Every decision about an order, as a draft of rows.
//!
//! A [`Draft`] is a copy of the order on which a decision is tried out. What it changes in the copy it also notes as rows;
//! when the journal has committed the rows, the copy becomes the order. So deciding and replaying cannot differ.

mod authorised;
mod buyer;
mod calls;
mod cancel;
mod disputes;
mod money;
mod parcels;
mod refunds;
mod returns;
mod staff;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod tests;

use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

pub use authorised::Funds;

use super::{
    About, Money, Order, Part, PartState, Payment, PaymentId, PaymentState, Policy, Refund, Task, TaskId, TaskKind,
    TaskState,
    change::{Cause, Changes, EventRow, OrderMove, PartMove, PartSplit, PaymentRow, RefundRow, TaskRow},
    printable,
};

/// How long a refund that was refused waits for its next try: five minutes, doubled up to six hours.
fn patience(attempts: i32) -> TimeDelta {
    TimeDelta::minutes(5 << attempts.clamp(0, 7)).min(TimeDelta::hours(6))
}

/// A decision being tried out on a copy of the order.
pub struct Draft<'a> {
    /// The copy: the order as it will be.
    pub order: Order,
    /// The rows that make it so.
    pub changes: Changes,
    /// The time of the decision.
    pub at: DateTime<Utc>,
    /// The id that the command's key stands for, once it is carried out.
    pub made: Option<i64>,
    policy: &'a Policy,
    ids: Range<i64>,
}

impl<'a> Draft<'a> {
    /// Begins a decision at `at`. `ids` gives numbers for new rows; a decision needs a handful.
    pub fn new(order: &Order, at: DateTime<Utc>, policy: &'a Policy, ids: Range<i64>) -> Self {
        Self { order: order.clone(), changes: Changes::default(), at, made: None, policy, ids }
    }

    /// Ends it: the order as it will be, and the rows.
    #[must_use]
    pub fn finish(mut self) -> (Order, Changes) {
        let expected = self.order.version;
        self.order.version += 1;
        let moved = OrderMove {
            order_id: self.order.id,
            expected,
            status: self.order.status,
            hold_reason: self.order.hold_reason.clone(),
            deadline: self.order.deadline,
            hold_ends_at: self.order.hold_ends_at,
        };
        self.changes.order = Some(moved);
        (self.order, self.changes)
    }

    /// Whether nothing has been decided so far.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let changes = &self.changes;
        changes.parts.is_empty()
            && changes.splits.is_empty()
            && changes.events.is_empty()
            && changes.payments.is_empty()
            && changes.facts.is_empty()
            && changes.refunds.is_empty()
            && changes.tasks.is_empty()
            && changes.shipments.is_empty()
            && changes.tracking.is_empty()
            && changes.returns.is_empty()
    }

    // ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn open_payment(&mut self, provider: &str) -> PaymentId {
        let payment_id = PaymentId(self.next_id());
        let payment = Payment {
            id: payment_id,
            provider: provider.to_owned(),
            intent: self.policy.intent,
            state: PaymentState::Created,
            announced: None,
            created_at: self.at,
            check_at: None,
            checks: 0,
            facts: Vec::new(),
        };
        self.order.payments.push(payment);
        self.note_payment(payment_id);
        self.open_task(TaskKind::CreatePayment, About::Payment(payment_id), TimeDelta::zero());
        self.event("payment_started", json!({ "payment_id": payment_id, "provider": provider }));
        payment_id
    }

    fn open_task(&mut self, kind: TaskKind, about: About, pause: TimeDelta) {
        self.open_task_for(kind, about, None, pause);
    }

    fn open_task_for(&mut self, kind: TaskKind, about: About, amount: Option<Money>, pause: TimeDelta) {
        let (due_at, created_at) = (self.at + pause, self.at);
        let task =
            Task { id: TaskId(self.next_id()), about, kind, amount, attempts: 0, refused: false, due_at, created_at };
        self.note_task(&task, TaskState::Open, None);
        self.order.tasks.push(task);
    }

    fn has_task(&self, kind: TaskKind, payment_id: PaymentId) -> bool {
        self.order.tasks.iter().any(|task| task.kind == kind && task.about.payment_id() == Some(payment_id))
    }

    fn retry_task(&mut self, task_id: TaskId, pause: Option<TimeDelta>, error: &str) {
        let at = self.at;
        let Some(task) = self.order.tasks.iter_mut().find(|task| task.id == task_id) else { return };
        // 1 s, 2 s, 4 s … five minutes at the most: an outage ends, and then the backlog must drain
        let doubled = TimeDelta::seconds(1i64 << task.attempts.clamp(0, 8)).min(TimeDelta::minutes(5));
        task.attempts += 1;
        task.due_at = at + pause.unwrap_or(doubled).max(TimeDelta::milliseconds(500));
        let told = task.clone();
        self.note_task(&told, TaskState::Open, Some(printable(error)));
    }

    fn close_task(&mut self, task_id: TaskId, state: TaskState, error: Option<String>) {
        let Some(at) = self.order.tasks.iter().position(|task| task.id == task_id) else { return };
        let task = self.order.tasks.remove(at);
        self.note_task(&task, state, error.as_deref().map(printable));
    }

    fn move_parts(&mut self, from: PartState, to: PartState, cause: Cause) {
        let moving = self.order.parts.iter().filter(|part| part.state == from).map(|part| part.part);
        for number in moving.collect::<Vec<_>>() {
            self.move_part(number, to, cause);
        }
    }

    fn move_part(&mut self, number: i32, to: PartState, cause: Cause) {
        let order_id = self.order.id;
        let Some(part) = self.order.parts.iter_mut().find(|part| part.part == number) else { return };
        let from = std::mem::replace(&mut part.state, to);
        let (sku_id, units, share) = (part.sku_id, part.quantity, part.share);
        self.changes.parts.push(PartMove { order_id, part: number, sku_id, from, to, cause, units, share });
    }

    /// A part of exactly `quantity` units out of part `number`: that part itself where it has no more, else one that is split
    /// off it. Splits come before moves, so what is to change state is split first.
    fn split_part(&mut self, number: i32, quantity: i64) -> i32 {
        let order_id = self.order.id;
        let new_part = self.order.parts.iter().map(|part| part.part + 1).max().unwrap_or(0);
        let Some(part) = self.order.parts.iter_mut().find(|part| part.part == number) else { return number };
        if quantity >= part.quantity {
            return number;
        }
        part.quantity -= quantity;
        let split = Part { part: new_part, quantity, split_of: Some(part.split_of.unwrap_or(number)), ..part.clone() };
        self.order.parts.push(split);
        // what was itself split off in this decision has no row yet to split: both come off the row that is there
        let giver = match self.changes.splits.iter_mut().find(|split| split.new_part == number) {
            Some(split) => {
                split.quantity -= quantity;
                split.part
            }
            None => number,
        };
        self.changes.splits.push(PartSplit { order_id, part: giver, new_part, quantity });
        new_part
    }

    /// Moves `quantity` units of a line from one state to another, out of as many parts as it takes.
    fn move_units(&mut self, line: i32, quantity: i64, from: PartState, to: PartState, cause: Cause) {
        let mut left = quantity;
        while left > 0 {
            let giver = self.order.parts.iter().find(|part| part.line == line && part.state == from);
            let Some((number, units)) = giver.map(|part| (part.part, part.quantity)) else { return };
            let number = self.split_part(number, left.min(units));
            self.move_part(number, to, cause);
            left -= left.min(units);
        }
    }

    fn event(&mut self, kind: &'static str, data: serde_json::Value) {
        self.order.last_event += 1;
        self.changes.events.push(EventRow { order_id: self.order.id, seq: self.order.last_event, kind, data });
    }

    fn set_payment(&mut self, payment_id: PaymentId, state: PaymentState) {
        if let Some(payment) = self.payment_mut(payment_id) {
            payment.state = state;
            self.note_payment(payment_id);
        }
    }

    fn payment_mut(&mut self, payment_id: PaymentId) -> Option<&mut Payment> {
        self.order.payments.iter_mut().find(|payment| payment.id == payment_id)
    }

    /// Notes the attempt's row as it is now; one row an attempt, the last word wins.
    fn note_payment(&mut self, payment_id: PaymentId) {
        let order_id = self.order.id;
        let Some(payment) = self.order.payments.iter().find(|payment| payment.id == payment_id) else { return };
        self.changes.payments.retain(|row| row.id != payment_id);
        self.changes.payments.push(PaymentRow {
            id: payment_id,
            order_id,
            provider: payment.provider.clone(),
            intent: payment.intent,
            announced: payment.announced.clone(),
            state: payment.state,
            check_at: payment.check_at,
            checks: payment.checks,
        });
    }

    fn note_refund(&mut self, refund: &Refund) {
        self.changes.refunds.retain(|row| row.id != refund.id);
        self.changes.refunds.push(RefundRow {
            id: refund.id,
            order_id: self.order.id,
            payment_id: refund.payment_id,
            capture_id: refund.capture_id.clone(),
            amount: refund.amount,
            kind: refund.kind,
            lines: refund.lines.clone(),
            reason: refund.reason.clone(),
            state: refund.state,
            provider_refund_id: refund.provider_refund_id.clone(),
            command_id: refund.command_id,
            replaces: refund.replaces,
        });
    }

    fn note_task(&mut self, task: &Task, state: TaskState, last_error: Option<String>) {
        self.changes.tasks.retain(|row| row.id != task.id);
        self.changes.tasks.push(TaskRow {
            id: task.id,
            order_id: self.order.id,
            about: task.about,
            kind: task.kind,
            amount: task.amount,
            state,
            attempts: task.attempts,
            due_at: task.due_at,
            last_error,
        });
    }

    /// A number that nothing else has.
    pub(crate) fn next_id(&mut self) -> i64 {
        self.ids.next().expect("the caller leases more ids than one decision can use")
    }
}
