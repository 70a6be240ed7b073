//! The money side of the order actor: what payment actors are asked, and what comes of their answers.

use chrono::TimeDelta;

use super::{Beside, IDS, Keeper, State};
use crate::{
    domain::{Draft, Order, Payment, PaymentId, PaymentState, Task, TaskId, TaskKind, Who, change::InboxMark},
    payment::{Job, JobKey, What},
    ports::{CreatePayment, Created, Fact, ProviderError},
};

/// For so long providers are trusted to know a request id again (PayPal: 6 h for orders, captures and authorisations, 45
/// days for refunds). An announcement needs no look: nobody has the page of one whose answer was lost.
const REQUEST_IDS_KEPT: TimeDelta = TimeDelta::hours(6);
const REFUND_IDS_KEPT: TimeDelta = TimeDelta::days(45);

/// For each new fact of a provider: a mirror, a refund, its call, and one to spare.
fn ids_for(facts: &[Fact]) -> i64 {
    IDS + 4 * facts.len() as i64
}

/// What is heard of an order's money.
pub(crate) enum News {
    /// A call was answered.
    Answered { payment_id: PaymentId, task_id: TaskId, answer: Answer },
    /// A provider was asked and said this.
    Facts { payment_id: PaymentId, facts: Vec<Fact>, inbox_id: Option<i64> },
    /// A provider was asked, and there is no telling what it would say.
    NoAnswer,
}

/// What came of a call to a provider.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The payment is announced.
    Announced(Created),
    /// Facts about its objects.
    Facts(Vec<Fact>),
    /// It cannot be charged: the buyer has not approved it.
    NotApproved,
    /// It is approved and was not charged, and it is too late to charge it now.
    NotCharged,
    /// Nothing that settles it.
    Failed(ProviderError),
}

impl Keeper {
    pub(super) async fn payment_news(&self, state: &mut State, news: News) {
        match news {
            News::Answered { payment_id, task_id, answer } => self.answered(state, payment_id, task_id, answer).await,
            News::Facts { payment_id, facts, inbox_id } => self.facts(state, payment_id, &facts, inbox_id).await,
            News::NoAnswer => self.put_off(state, None).await,
        }
    }

    async fn answered(&self, state: &mut State, payment_id: PaymentId, task_id: TaskId, answer: Answer) {
        if !state.order.tasks.iter().any(|task| task.id == task_id) {
            // it was called off while it was under way, and may have been done all the same
            if let Answer::Facts(facts) = answer {
                self.facts(state, payment_id, &facts, None).await;
            }
            return;
        }
        let settled = match &answer {
            Answer::Announced(created) => {
                let announce = |draft: &mut Draft<'_>| {
                    draft.announced(payment_id, created.clone());
                    draft.task_done(task_id);
                    Ok(((), Vec::new()))
                };
                self.decide(state, Who::Provider, Beside::Nothing, announce).await
            }
            Answer::Facts(facts) => {
                let learn = |draft: &mut Draft<'_>| Ok(((), draft.answered(task_id, facts.clone())));
                self.decide_with(state, Who::Provider, Beside::Nothing, ids_for(facts), learn).await
            }
            Answer::NotApproved => {
                let step_back = |draft: &mut Draft<'_>| {
                    draft.not_approved(payment_id);
                    draft.task_done(task_id);
                    Ok(((), Vec::new()))
                };
                self.decide(state, Who::Provider, Beside::Nothing, step_back).await
            }
            Answer::NotCharged => {
                let put_off = |draft: &mut Draft<'_>| {
                    draft.not_charged(payment_id);
                    draft.task_done(task_id);
                    Ok(((), draft.order.late_approval().into_iter().collect()))
                };
                self.decide(state, Who::Provider, Beside::Nothing, put_off).await
            }
            Answer::Failed(error) => {
                let fail = |draft: &mut Draft<'_>| {
                    draft.task_failed(task_id, error);
                    Ok(((), Vec::new()))
                };
                self.decide(state, Who::Provider, Beside::Nothing, fail).await
            }
        };
        if matches!(answer, Answer::Announced(_)) {
            self.context.faults.hit("payment.announced", "");
        }
        if settled.is_err() {
            self.put_off(state, Some(task_id)).await;
        }
        self.after_news(state, settled).await;
    }

    async fn facts(&self, state: &mut State, payment_id: PaymentId, facts: &[Fact], inbox_id: Option<i64>) {
        self.context.faults.hit("order.learned", "");
        let mark = inbox_id.map(|inbox_id| InboxMark { inbox_id, outcome: "applied" });
        let beside = mark.map_or(Beside::Nothing, Beside::Webhook);
        let learn = |draft: &mut Draft<'_>| {
            let wishes = draft.learn(payment_id, facts.to_vec());
            draft.checked(payment_id);
            Ok(((), wishes))
        };
        let settled = self.decide_with(state, Who::Provider, beside, ids_for(facts), learn).await;
        if settled.is_err() {
            self.put_off(state, None).await;
        }
        self.after_news(state, settled).await;
    }

    /// Hands every due call to its payment actor. A call that is not `fresh` from a decision may have been made before by
    /// somebody who died: then money is looked for before it is asked for.
    pub(super) async fn dispatch(&self, state: &mut State, fresh: bool) {
        let now = self.context.clock.now();
        let mut unasked = Vec::new();
        for task in state.order.tasks.iter().filter(|task| task.due_at <= now) {
            let Some(payment) = state.order.payments.iter().find(|payment| Some(payment.id) == task.about.payment_id())
            else {
                continue;
            };
            if !self.payments.knows(&payment.provider) {
                tracing::error!(order.id = %self.order_id, "an order waits for a provider that is not set up");
                unasked.push(task.id);
                continue;
            }
            let Some(what) = self.what(&state.order, task, payment, fresh) else {
                unasked.push(task.id); // a charge is in its way that is not decided yet
                continue;
            };
            let job = Job { order_id: self.order_id, payment_id: payment.id, what };
            self.payments.run(&payment.provider, JobKey::Task(task.id), job).await;
        }
        for task_id in unasked {
            self.put_off(state, Some(task_id)).await;
        }
        self.dispatch_parcels(state).await;
    }

    fn what(&self, order: &Order, task: &Task, payment: &Payment, fresh: bool) -> Option<What> {
        let known_as = || Some(payment.announced.as_ref()?.provider_order_id.clone());
        // providers forget request ids: whoever repeats an old call looks first
        let age = self.context.clock.now() - task.created_at;
        let look_first = !fresh || task.attempts > 0 || age > REQUEST_IDS_KEPT;
        match task.kind {
            TaskKind::CreatePayment => Some(What::Create(Box::new(self.announcement(order, task, payment)))),
            TaskKind::Capture | TaskKind::Authorise => Some(What::Charge {
                task_id: task.id,
                provider_order_id: known_as()?,
                intent: payment.intent,
                look_first,
                charge_before: order.charge_before(&self.context.policy),
            }),
            TaskKind::CaptureAuthorised => Some(What::CaptureAuthorised {
                task_id: task.id,
                provider_order_id: known_as()?,
                authorisation_id: payment.authorisation_left()?.0.to_owned(),
                amount: task.amount?,
                look_first,
            }),
            TaskKind::Void => Some(What::Void {
                task_id: task.id,
                provider_order_id: known_as()?,
                authorisation_id: payment.still_reserved()?.to_owned(),
            }),
            TaskKind::Refund => {
                let refund = order.refunds.iter().find(|refund| Some(refund.id) == task.about.refund_id())?;
                Some(What::Refund {
                    task_id: task.id,
                    refund_id: refund.id,
                    provider_order_id: known_as()?,
                    capture_id: refund.capture_id.clone(),
                    amount: refund.amount,
                    look_first: age > REFUND_IDS_KEPT,
                })
            }
            TaskKind::BuyLabel | TaskKind::VoidLabel | TaskKind::FetchLabel | TaskKind::SweepLabels => None,
        }
    }

    fn announcement(&self, order: &Order, task: &Task, payment: &Payment) -> CreatePayment {
        let (return_url, cancel_url) = (self.context.return_urls)(order.id);
        CreatePayment {
            request_id: task.id,
            payment_id: payment.id,
            reference: order.id.to_string(),
            intent: payment.intent,
            total: order.total,
            ship_to: order.ship_to.clone(),
            return_url,
            cancel_url,
        }
    }

    /// Asks providers that have not called although it is time.
    pub(super) async fn check(&self, state: &mut State) {
        let now = self.context.clock.now();
        let mut unasked = false;
        for payment in &state.order.payments {
            let due = payment.check_at.is_some_and(|due| due <= now);
            let Some(announced) = payment.announced.as_ref().filter(|_| due) else { continue };
            if self.payments.knows(&payment.provider) {
                self.inspect(payment, announced).await;
            } else {
                unasked = true;
            }
        }
        if unasked {
            self.put_off(state, None).await;
        }
    }

    pub(super) async fn inspect(&self, payment: &Payment, announced: &Created) {
        let (payment_id, disputes) = (payment.id, payment.state == PaymentState::Disputed);
        let what = What::Inspect { provider_order_id: announced.provider_order_id.clone(), disputes };
        let job = Job { order_id: self.order_id, payment_id, what };
        self.payments.run(&payment.provider, JobKey::Check(payment_id), job).await;
    }
}
