//! Every decision about an order, as a draft of rows.
//!
//! A [`Draft`] is a copy of the order on which a decision is tried out. What it changes in the copy it also notes as rows;
//! when the journal has committed the rows, the copy becomes the order. So deciding and replaying cannot differ.

use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{
    Created, Fact, Money, Order, OrderStatus, Part, PartState, Payment, PaymentEvent, PaymentId, PaymentState, Policy,
    ProviderError, Refund, RefundId, RefundState, Refusal, Restock, Task, TaskId, TaskKind, TaskState,
    change::{Cause, Changes, EventRow, OrderMove, PartMove, PaymentRow, RefundRow, TaskRow},
    printable,
};

/// The reason of a refund that was made at the provider and is mirrored here.
const MADE_AT_PROVIDER: &str = "made_at_provider";

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
    policy: &'a Policy,
    ids: Range<i64>,
}

impl<'a> Draft<'a> {
    /// Begins a decision at `at`. `ids` gives numbers for new rows; a decision needs a handful.
    pub fn new(order: &Order, at: DateTime<Utc>, policy: &'a Policy, ids: Range<i64>) -> Self {
        Self { order: order.clone(), changes: Changes::default(), at, policy, ids }
    }

    /// Ends it: the order as it will be, and the rows.
    #[must_use]
    pub fn finish(mut self) -> (Order, Changes) {
        let expected = self.order.version;
        self.order.version += 1;
        let moved =
            OrderMove { order_id: self.order.id, expected, status: self.order.status, deadline: self.order.deadline };
        self.changes.order = Some(moved);
        (self.order, self.changes)
    }

    /// Whether nothing has been decided so far.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let changes = &self.changes;
        changes.parts.is_empty()
            && changes.events.is_empty()
            && changes.payments.is_empty()
            && changes.facts.is_empty()
            && changes.refunds.is_empty()
            && changes.tasks.is_empty()
    }

    // ── what people ask ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Opens an attempt to pay, or finds the one that is open.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] where nothing is to be paid, or too late, or too often.
    pub fn pay(&mut self, provider: &str) -> Result<PaymentId, Refusal> {
        let refuse = |why| Err(Refusal::NotNow { status: self.order.status, why });
        if self.order.status != OrderStatus::AwaitingPayment {
            return refuse("there is nothing to pay");
        }
        if let Some(live) = self.order.payments.iter().find(|payment| payment.is_live()) {
            return Ok(live.id);
        }
        if !self.order.may_charge(self.at, self.policy) {
            return refuse("its hold is about to end");
        }
        if self.order.payments.len() >= self.policy.attempts {
            return refuse("it was attempted too often");
        }
        Ok(self.open_payment(provider))
    }

    /// Calls an unpaid order off.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] once it is paid or over. A second cancel of a cancelled order is no error: the caller asks first.
    pub fn cancel(&mut self) -> Result<(), Refusal> {
        let refuse = |why| Err(Refusal::NotNow { status: self.order.status, why });
        match self.order.status {
            OrderStatus::AwaitingPayment => {}
            OrderStatus::Confirmed => return refuse("it is paid; cancelling a paid order is not possible yet"),
            OrderStatus::Completed | OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Expired => {
                return refuse("there is nothing to cancel");
            }
        }
        self.order.status = OrderStatus::Cancelled;
        self.move_parts(PartState::Held, PartState::Released, Cause::Release);
        self.event("cancelled", json!({}));
        self.announce_no_more();
        Ok(())
    }

    /// The deadline may have passed. A charge in flight does not stop it: its money, if it comes, is late money.
    pub fn fall_due(&mut self) {
        if self.order.status != OrderStatus::AwaitingPayment || self.at < self.order.deadline {
            return;
        }
        self.order.status = OrderStatus::Expired;
        self.move_parts(PartState::Held, PartState::Expired, Cause::Expire);
        self.event("expired", json!({}));
        self.announce_no_more();
    }

    /// Announcements that the provider has not answered are given up: nobody has a page to approve them on.
    fn announce_no_more(&mut self) {
        let open = self.order.tasks.iter().filter(|task| task.kind == TaskKind::CreatePayment);
        let open: Vec<(TaskId, PaymentId)> = open.map(|task| (task.id, task.payment_id)).collect();
        for (task_id, payment_id) in open {
            self.close_task(task_id, TaskState::Failed, Some("the order is over".to_owned()));
            self.dead(payment_id, "the order is over");
        }
    }

    // ── what a provider says ─────────────────────────────────────────────────────────────────────────────────────────

    /// Takes a provider's facts in; says what stock they ask for. The caller tries to hold it and reports with
    /// [`Draft::restocked`] before it finishes the draft.
    pub fn learn(&mut self, payment_id: PaymentId, facts: Vec<Fact>) -> Vec<Restock> {
        let total = self.order.total;
        let Some(payment) = self.payment_mut(payment_id) else { return Vec::new() };
        let (fresh, events) = payment.learn(facts, total);
        self.changes.facts.extend(fresh.into_iter().map(|fact| (payment_id, fact)));
        events.into_iter().filter_map(|event| self.weigh(payment_id, event)).collect()
    }

    fn weigh(&mut self, payment_id: PaymentId, event: PaymentEvent) -> Option<Restock> {
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
    fn approved(&mut self, payment_id: PaymentId) -> Option<Restock> {
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

    fn is_charging(&self) -> bool {
        let charging = |payment: &Payment| matches!(payment.state, PaymentState::Capturing | PaymentState::Pending);
        self.order.payments.iter().any(charging)
    }

    /// An attempt has come to nothing: one that was approved meanwhile is charged instead.
    fn charge_next(&mut self) {
        let next = self.order.payments.iter().find(|payment| payment.state == PaymentState::Approved);
        let next = next.map(|payment| payment.id);
        if let Some(payment_id) = next.filter(|_| !self.is_charging() && self.order.may_charge(self.at, self.policy)) {
            self.capture(payment_id);
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

    fn fresh_parts(&mut self, state: PartState) -> Vec<Part> {
        let next = i32::try_from(self.order.parts.len()).unwrap_or(i32::MAX);
        let again = self.order.lines().cloned();
        let fresh: Vec<Part> = (next..).zip(again).map(|(part, line)| Part { part, state, ..line }).collect();
        self.order.parts.extend(fresh.iter().cloned());
        fresh
    }

    fn confirm(&mut self) {
        self.order.status = OrderStatus::Confirmed;
        self.move_parts(PartState::Held, PartState::Committed, Cause::Commit);
        self.event("confirmed", json!({}));
    }

    /// The provider is undecided: the lines stay kept for as long as the shop's policy says.
    fn pending(&mut self, payment_id: PaymentId) {
        self.set_payment(payment_id, PaymentState::Pending);
        if self.order.status == OrderStatus::AwaitingPayment {
            self.order.deadline = self.order.deadline.max(self.at + self.policy.pending_hold);
        }
        self.event("payment_pending", json!({ "payment_id": payment_id, "hold_expires_at": self.order.deadline }));
    }

    fn declined(&mut self, payment_id: PaymentId, why: &str) {
        self.set_payment(payment_id, PaymentState::Declined);
        self.event("payment_declined", json!({ "payment_id": payment_id, "why": why }));
        self.charge_next();
    }

    fn dead(&mut self, payment_id: PaymentId, why: &str) {
        let open = self.order.payments.iter().any(|payment| payment.id == payment_id && payment.is_live());
        if open {
            self.set_payment(payment_id, PaymentState::Failed);
            self.event("payment_failed", json!({ "payment_id": payment_id, "why": why }));
            self.charge_next();
        }
    }

    fn refund_news(
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

    // ── what became of a provider call ───────────────────────────────────────────────────────────────────────────────

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
                self.refund_refused(&task, &printable(why));
                self.retry_task(task_id, Some(patience(task.attempts)), &error.to_string());
            }
            ProviderError::Declined(why) => {
                self.close_task(task_id, TaskState::Failed, Some(error.to_string()));
                self.declined(task.payment_id, &printable(why));
            }
            ProviderError::Dead(why) | ProviderError::Rejected(why) => {
                self.close_task(task_id, TaskState::Failed, Some(error.to_string()));
                self.dead(task.payment_id, &printable(why));
            }
        }
    }

    /// Said once, so that the timeline tells it and does not fill with it.
    fn refund_refused(&mut self, task: &Task, why: &str) {
        if task.attempts == 0 {
            self.event("refund_refused", json!({ "refund_id": task.refund_id, "why": why }));
        }
    }

    /// The buyer must approve (again) before this attempt can be charged.
    pub fn not_approved(&mut self, payment_id: PaymentId) {
        if self.is_capturing(payment_id) {
            self.set_payment(payment_id, PaymentState::Created);
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

    fn is_capturing(&self, payment_id: PaymentId) -> bool {
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

    fn set_check(&mut self, payment_id: PaymentId, at: DateTime<Utc>) {
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
        let undecided = refunding || payment.state == PaymentState::Pending;
        let open = payment.is_live() || payment.state == PaymentState::Declined;
        let next = payment.next_check();
        payment.check_at = (undecided || open && payment.is_scheduled()).then_some(next);
        self.note_payment(payment_id);
    }

    // ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn capture(&mut self, payment_id: PaymentId) {
        self.set_payment(payment_id, PaymentState::Capturing);
        self.open_task(TaskKind::Capture, payment_id, None, TimeDelta::zero());
    }

    fn open_payment(&mut self, provider: &str) -> PaymentId {
        let payment_id = PaymentId(self.next_id());
        let payment = Payment {
            id: payment_id,
            provider: provider.to_owned(),
            state: PaymentState::Created,
            announced: None,
            created_at: self.at,
            check_at: None,
            checks: 0,
            facts: Vec::new(),
        };
        self.order.payments.push(payment);
        self.note_payment(payment_id);
        self.open_task(TaskKind::CreatePayment, payment_id, None, TimeDelta::zero());
        self.event("payment_started", json!({ "payment_id": payment_id, "provider": provider }));
        payment_id
    }

    /// Gives (part of) a capture back, never more than is left of what was captured.
    fn refund(&mut self, payment_id: PaymentId, capture_id: String, amount: Money, reason: &str) {
        self.refund_after(payment_id, capture_id, amount, reason, TimeDelta::zero());
    }

    fn refund_after(
        &mut self,
        payment_id: PaymentId,
        capture_id: String,
        amount: Money,
        reason: &str,
        pause: TimeDelta,
    ) {
        let left = self.order.captured_minor() - self.order.refunding_minor();
        let minor = amount.minor.min(left);
        if minor <= 0 {
            return;
        }
        let refund = Refund {
            id: RefundId(self.next_id()),
            payment_id,
            capture_id,
            amount: Money { minor, ..amount },
            reason: reason.to_owned(),
            state: RefundState::Requested,
            provider_refund_id: None,
        };
        self.order.refunds.push(refund.clone());
        self.note_refund(&refund);
        self.open_task(TaskKind::Refund, payment_id, Some(refund.id), pause);
        // the provider is asked about it until it is done
        let unasked = self.payment_mut(payment_id).is_some_and(|payment| payment.check_at.is_none());
        if unasked {
            self.set_check(payment_id, self.at + TimeDelta::days(1));
        }
        self.event("refund_requested", json!({ "refund_id": refund.id, "amount": refund.amount, "reason": reason }));
    }

    fn open_task(&mut self, kind: TaskKind, payment_id: PaymentId, refund_id: Option<RefundId>, pause: TimeDelta) {
        let due_at = self.at + pause;
        let task = Task { id: TaskId(self.next_id()), payment_id, refund_id, kind, attempts: 0, due_at };
        self.note_task(&task, TaskState::Open, None);
        self.order.tasks.push(task);
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
        let order_id = self.order.id;
        for part in self.order.parts.iter_mut().filter(|part| part.state == from) {
            part.state = to;
            self.changes.parts.push(PartMove { order_id, part: part.part, sku_id: part.sku_id, from, to, cause });
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
            reason: refund.reason.clone(),
            state: refund.state,
            provider_refund_id: refund.provider_refund_id.clone(),
        });
    }

    fn note_task(&mut self, task: &Task, state: TaskState, last_error: Option<String>) {
        self.changes.tasks.retain(|row| row.id != task.id);
        self.changes.tasks.push(TaskRow {
            id: task.id,
            order_id: self.order.id,
            payment_id: task.payment_id,
            refund_id: task.refund_id,
            kind: task.kind,
            state,
            attempts: task.attempts,
            due_at: task.due_at,
            last_error,
        });
    }

    fn next_id(&mut self) -> i64 {
        self.ids.next().expect("the caller leases more ids than one decision can use")
    }
}
