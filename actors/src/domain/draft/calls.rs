//! What became of the calls that an order has committed to.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{Draft, patience};
use crate::domain::{
    About, Created, Fact, Payment, PaymentId, PaymentState, ProviderError, Refund, RefundState, Restock, Task, TaskId,
    TaskKind, TaskState, printable,
};

impl Draft<'_> {
    /// The provider knows the payment; the buyer can approve it.
    pub fn announced(&mut self, payment_id: PaymentId, created: Created) {
        let Some(payment) = self.payment_mut(payment_id) else { return };
        if payment.announced.is_none() {
            payment.announced = Some(created);
            payment.check_at = Some(payment.next_check());
            self.note_payment(payment_id);
            self.event("payment_announced", json!({ "payment_id": payment_id }));
        }
    }

    /// A call was answered.
    pub fn task_done(&mut self, task_id: TaskId) {
        self.close_task(task_id, TaskState::Done, None);
    }

    /// A call about money was answered with facts: they are taken in, and whatever they leave open of the call is closed.
    /// Returns what stock they ask for, as [`Draft::learn`].
    pub fn answered(&mut self, task_id: TaskId, facts: Vec<Fact>) -> Vec<Restock> {
        let Some(task) = self.order.tasks.iter().find(|task| task.id == task_id).cloned() else { return Vec::new() };
        let Some(payment_id) = task.about.payment_id() else { return Vec::new() };
        let wishes = self.learn(payment_id, facts);
        match (task.kind, task.about) {
            (TaskKind::Refund, About::Refund(_, refund_id)) => self.refund_has_nothing_left(refund_id),
            (TaskKind::Void, _) if self.is_reserved(payment_id) => {
                self.retry_task(task_id, None, "it is still reserved");
                return wishes;
            }
            (TaskKind::Capture | TaskKind::Authorise | TaskKind::CaptureAuthorised, _) => {
                self.charge_answered(payment_id)
            }
            (TaskKind::CreatePayment | TaskKind::Refund | TaskKind::Void, _)
            | (TaskKind::BuyLabel | TaskKind::VoidLabel | TaskKind::FetchLabel | TaskKind::SweepLabels, _) => {}
        }
        self.task_done(task_id);
        wishes
    }

    fn is_reserved(&self, payment_id: PaymentId) -> bool {
        let reserved = |payment: &Payment| payment.id == payment_id && payment.still_reserved().is_some();
        self.order.payments.iter().any(reserved)
    }

    /// A call was not answered as it should be: it is tried again, or the attempt has come to nothing.
    pub fn task_failed(&mut self, task_id: TaskId, error: &ProviderError) {
        let Some(task) = self.order.tasks.iter().find(|task| task.id == task_id).cloned() else { return };
        match error {
            ProviderError::Unknown { retry_after, .. } => {
                let pause = retry_after.and_then(|pause| TimeDelta::from_std(pause).ok());
                self.retry_task(task_id, pause, &error.to_string());
            }
            // what is there is found by asking: the next attempt begins with a look
            ProviderError::AlreadyDone(_) | ProviderError::NotYet(_) => {
                self.retry_task(task_id, None, &error.to_string());
            }
            // money that is owed is owed tomorrow too: the account is filled, the permission is given back
            ProviderError::Declined(why) | ProviderError::Dead(why) | ProviderError::Rejected(why)
                if task.kind == TaskKind::Refund =>
            {
                self.refused(&task, "refund_refused", &printable(why));
                self.retry_task(task_id, Some(patience(task.attempts)), &error.to_string());
            }
            ProviderError::TakenBack(_) if task.kind == TaskKind::Refund => {
                if let About::Refund(payment_id, refund_id) = task.about {
                    self.refund_is_barred(payment_id, refund_id);
                }
            }
            // so is what is reserved; what cannot be let go is gone, which the next look shows
            ProviderError::Declined(why) | ProviderError::Dead(why) | ProviderError::Rejected(why)
                if task.kind == TaskKind::Void =>
            {
                self.refused(&task, "void_refused", &printable(why));
                self.retry_task(task_id, Some(patience(task.attempts)), &error.to_string());
                if let Some(payment_id) = task.about.payment_id() {
                    let now = self.at;
                    self.set_check(payment_id, now);
                }
            }
            // our own mistake must not undo an order
            ProviderError::Rejected(why) if task.kind == TaskKind::CaptureAuthorised => {
                self.refused(&task, "capture_refused", &printable(why));
                self.retry_task(task_id, Some(patience(task.attempts)), &error.to_string());
            }
            ProviderError::Declined(why) => {
                self.close_task(task_id, TaskState::Failed, Some(error.to_string()));
                if let Some(payment_id) = task.about.payment_id() {
                    self.declined(payment_id, &printable(why));
                }
            }
            ProviderError::Dead(why) | ProviderError::Rejected(why) | ProviderError::TakenBack(why) => {
                if let ProviderError::Rejected(why) = error {
                    // our call or the account is wrong, and the next order's will be too
                    let payment_id = task.about.payment_id();
                    self.event("needs_review", json!({ "payment_id": payment_id, "why": printable(why) }));
                }
                self.close_task(task_id, TaskState::Failed, Some(error.to_string()));
                if let Some(payment_id) = task.about.payment_id() {
                    self.dead(payment_id, &printable(why));
                }
            }
        }
    }

    /// Said once, so that the timeline tells it and does not fill with it.
    fn refused(&mut self, task: &Task, kind: &'static str, why: &str) {
        let known = self.order.tasks.iter_mut().find(|open| open.id == task.id && !open.refused);
        if let Some(known) = known {
            known.refused = true;
            let payment_id = task.about.payment_id();
            self.event(kind, json!({ "payment_id": payment_id, "refund_id": task.about.refund_id(), "why": why }));
        }
    }

    /// The buyer must approve (again) before this attempt can be charged.
    pub fn not_approved(&mut self, payment_id: PaymentId) {
        if self.is_capturing(payment_id) {
            self.set_payment(payment_id, PaymentState::Created);
            self.waits_no_longer();
            self.charge_next();
        }
    }

    /// The charge that was decided on was not made in time: as if the buyer had only just approved.
    pub fn not_charged(&mut self, payment_id: PaymentId) {
        if self.is_capturing(payment_id) {
            self.set_payment(payment_id, PaymentState::Approved);
            self.event("payment_not_charged", json!({ "payment_id": payment_id }));
            let deadline = self.order.deadline;
            self.set_check(payment_id, deadline);
        }
    }

    /// A charge was answered with nothing new about money: what was refused before is refused again.
    pub fn charge_answered(&mut self, payment_id: PaymentId) {
        if self.is_capturing(payment_id) {
            self.declined(payment_id, "declined by the provider");
        }
    }

    pub(super) fn is_capturing(&self, payment_id: PaymentId) -> bool {
        let capturing = |payment: &Payment| payment.id == payment_id && payment.state == PaymentState::Capturing;
        self.order.payments.iter().any(capturing)
    }

    /// What is due cannot be done now: the provider's answer is there, and the stock that it asks for is not to be had.
    pub fn put_off(&mut self, task_id: TaskId, why: &str) {
        self.retry_task(task_id, None, why);
    }

    /// A check that is due had no answer, or its answer could not be acted on: asked again in half a minute.
    pub fn put_off_checks(&mut self) {
        let at = self.at;
        let due = |payment: &&Payment| payment.check_at.is_some_and(|due| due <= at);
        let due: Vec<PaymentId> = self.order.payments.iter().filter(due).map(|payment| payment.id).collect();
        for payment_id in due {
            self.set_check(payment_id, at + TimeDelta::seconds(30));
        }
    }

    pub(super) fn set_check(&mut self, payment_id: PaymentId, at: DateTime<Utc>) {
        if let Some(payment) = self.payment_mut(payment_id) {
            payment.check_at = Some(at);
            self.note_payment(payment_id);
        }
    }

    /// A check found what it found; sets the time of the next one, none once the attempt is settled.
    pub fn checked(&mut self, payment_id: PaymentId) {
        let at = self.at;
        let open_refund = |refund: &Refund| {
            refund.payment_id == payment_id && matches!(refund.state, RefundState::Requested | RefundState::Pending)
        };
        let refunding = self.order.refunds.iter().any(open_refund);
        let Some(payment) = self.payment_mut(payment_id) else { return };
        if payment.check_at.is_none_or(|due| due > at) {
            return;
        }
        while payment.next_check() <= at {
            payment.checks += 1; // an engine that was away for an hour owes one check, not three
        }
        // a buyer may approve a declined attempt again; the undecided is asked about until it is decided
        let undecided = refunding
            || matches!(payment.state, PaymentState::Pending | PaymentState::Authorised | PaymentState::Disputed);
        let open = payment.is_live() || payment.state == PaymentState::Declined;
        let next = payment.next_check();
        payment.check_at = (undecided || open && payment.is_scheduled()).then_some(next);
        self.note_payment(payment_id);
    }
}
