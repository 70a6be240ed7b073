//! Money that is reserved when the buyer approves and taken when the first goods leave.
//!
//! All of it is taken at once: an authorisation is used up by one capture. It is not renewed when it lapses; the order is
//! then undone, and the buyer told.

use chrono::TimeDelta;
use serde_json::json;

use super::Draft;
use crate::domain::{
    About, Intent, Money, OrderStatus, Payment, PaymentId, PaymentState, Refusal, Restock, Task, TaskKind, TaskState,
};

/// Whether goods may leave, as far as money is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Funds {
    /// What the order costs is here.
    Here,
    /// It was asked for and is not here yet.
    OnItsWay,
    /// It is not here and will not come.
    Gone,
}

impl Draft<'_> {
    /// Asked before goods leave. What is reserved is asked for now, once.
    pub fn money_for_goods(&mut self) -> Funds {
        let comes = |payment: &Payment| matches!(payment.state, PaymentState::Capturing | PaymentState::Pending);
        if !matches!(self.order.status, OrderStatus::Confirmed | OrderStatus::Completed) {
            Funds::Gone
        } else if self.order.is_paid() {
            Funds::Here
        } else if self.order.payments.iter().any(comes) || self.capture_authorised() {
            Funds::OnItsWay
        } else {
            Funds::Gone
        }
    }

    /// Has what was reserved taken: what the order costs, less what was called off. False where nothing is reserved.
    pub fn capture_authorised(&mut self) -> bool {
        let amount = Money::new(self.order.due_minor() - self.order.paid_minor(), self.order.total.currency);
        let Some(payment_id) = self.order.authorised().map(|payment| payment.id) else { return false };
        if !self.has_task(TaskKind::CaptureAuthorised, payment_id) {
            self.set_payment(payment_id, PaymentState::Capturing);
            let about = About::Payment(payment_id);
            self.open_task_for(TaskKind::CaptureAuthorised, about, Some(amount), TimeDelta::zero());
            self.event("capture_requested", json!({ "payment_id": payment_id, "amount": amount }));
        }
        true
    }

    pub(super) fn capture_by_command(&mut self) -> Result<(), Refusal> {
        if self.order.status == OrderStatus::Confirmed && !self.order.is_paid() && self.capture_authorised() {
            return Ok(());
        }
        Err(self.not_now("nothing is reserved for it"))
    }

    /// An approved payment's money is taken, or reserved: as it was announced.
    pub(super) fn take(&mut self, payment_id: PaymentId) {
        let intent = self.order.payments.iter().find(|payment| payment.id == payment_id).map(|payment| payment.intent);
        let kind = match intent {
            Some(Intent::Authorise) => TaskKind::Authorise,
            Some(Intent::Capture) | None => TaskKind::Capture,
        };
        self.set_payment(payment_id, PaymentState::Capturing);
        self.open_task(kind, About::Payment(payment_id), TimeDelta::zero());
    }

    /// Money is reserved: as good as paid, unless it is not for us, or too late, or too much.
    pub(super) fn authorised(&mut self, payment_id: PaymentId, amount: Option<Money>, ours: bool) -> Option<Restock> {
        let fits = ours && amount == Some(self.order.total);
        let told = amount.map_or_else(|| json!(null), |amount| json!(amount));
        self.event("payment_authorised", json!({ "payment_id": payment_id, "amount": told }));
        self.set_payment(payment_id, PaymentState::Authorised);
        self.keep_asking(payment_id); // it can lapse without a word
        if !fits {
            // what is reserved and not wanted is let go at the end of the decision
            self.set_payment(payment_id, PaymentState::Failed);
            self.event("payment_mismatch", json!({ "payment_id": payment_id, "charged": false }));
            return None;
        }
        match self.order.status {
            OrderStatus::AwaitingPayment => {
                self.confirm();
                None
            }
            OrderStatus::Expired => Some(Restock::LateAuthorisation { payment_id }),
            OrderStatus::Confirmed | OrderStatus::Completed => {
                self.set_payment(payment_id, PaymentState::Failed);
                None
            }
            OrderStatus::Cancelling | OrderStatus::Cancelled => None,
        }
    }

    /// What was reserved is no longer: let go by us, or lapsed, or voided at the provider.
    pub(super) fn authorisation_ended(&mut self, payment_id: PaymentId) {
        let state = self.order.payments.iter().find(|payment| payment.id == payment_id).map(|payment| payment.state);
        if !matches!(state, Some(PaymentState::Authorised | PaymentState::Capturing)) {
            return self.ask_no_more(payment_id, TaskState::Done); // it was not wanted
        }
        self.set_payment(payment_id, PaymentState::Voided);
        self.event("authorisation_ended", json!({ "payment_id": payment_id }));
        self.ask_no_more(payment_id, TaskState::Failed);
        self.without_money("authorisation_ended");
    }

    /// What was reserved could not be taken.
    pub(super) fn without_money(&mut self, reason: &'static str) {
        if !self.order.is_paid() && self.order.authorised().is_none() {
            self.undo(reason);
        }
    }

    /// Nothing is left to be taken: the call for it that was decided on is not made (again).
    pub(super) fn ask_no_more(&mut self, payment_id: PaymentId, state: TaskState) {
        let asks =
            |task: &&Task| task.kind == TaskKind::CaptureAuthorised && task.about.payment_id() == Some(payment_id);
        for task_id in self.order.tasks.iter().filter(asks).map(|task| task.id).collect::<Vec<_>>() {
            self.close_task(task_id, state, None);
        }
    }
}
