//! What a buyer asks of an order, and what its deadline does.

use serde_json::json;

use super::Draft;
use crate::domain::{OrderStatus, PartState, PaymentId, Refusal, Task, TaskId, TaskKind, TaskState, change::Cause};

impl Draft<'_> {
    /// Opens an attempt to pay, or finds the one that is open.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] where nothing is to be paid, or too late, or too often.
    pub fn pay(&mut self, provider: &str) -> Result<PaymentId, Refusal> {
        if self.order.status != OrderStatus::AwaitingPayment {
            return Err(self.not_now("there is nothing to pay"));
        }
        if let Some(live) = self.order.payments.iter().find(|payment| payment.is_live()) {
            let payment_id = live.id;
            self.announce_now(payment_id);
            return Ok(payment_id);
        }
        if !self.order.may_charge(self.at, self.policy) {
            return Err(self.not_now("its hold is about to end"));
        }
        if self.order.payments.len() >= self.policy.attempts {
            return Err(self.not_now("it was attempted too often"));
        }
        Ok(self.open_payment(provider))
    }

    /// A buyer waits: an announcement that was put off after an outage is tried at once.
    fn announce_now(&mut self, payment_id: PaymentId) {
        let at = self.at;
        let put_off = |task: &&mut Task| {
            task.kind == TaskKind::CreatePayment && task.about.payment_id() == Some(payment_id) && task.due_at > at
        };
        let Some(task) = self.order.tasks.iter_mut().find(put_off) else { return };
        task.due_at = at;
        let told = task.clone();
        self.note_task(&told, TaskState::Open, Some("asked for again by its buyer".to_owned()));
    }

    /// The deadline may have passed. A charge in flight does not stop it: its money, if it comes, is late money. What had come
    /// of a total that was never reached goes back.
    pub fn fall_due(&mut self) {
        if self.order.status != OrderStatus::AwaitingPayment || self.at < self.order.deadline {
            return;
        }
        self.order.status = OrderStatus::Expired;
        self.order.hold_ends_at = None;
        self.move_parts(PartState::Held, PartState::Expired, Cause::Expire);
        self.event("expired", json!({}));
        self.announce_no_more();
        self.give_all_back("expired");
    }

    /// Announcements that the provider has not answered are given up: nobody has a page to approve them on.
    pub(super) fn announce_no_more(&mut self) {
        let open = self.order.tasks.iter().filter(|task| task.kind == TaskKind::CreatePayment);
        let open: Vec<(TaskId, PaymentId)> =
            open.filter_map(|task| Some((task.id, task.about.payment_id()?))).collect();
        for (task_id, payment_id) in open {
            self.close_task(task_id, TaskState::Failed, Some("the order is over".to_owned()));
            self.fails(payment_id, "payment_given_up", json!({ "payment_id": payment_id }));
        }
    }
}
