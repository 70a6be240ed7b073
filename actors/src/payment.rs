//! The payment actor: one a provider. It makes the calls that orders have committed to, no more than so many at once, and
//! leaves a provider alone that does not answer.
//!
//! It keeps nothing that matters: every call is a row before it is made, and its answer goes to the order, which decides.
//! A call made twice is harmless by the provider's idempotency key, which is the task's id.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use crate::{
    calls::{self, Calls, Claims, End, LeftAlone},
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{Intent, Money, OrderId, PaymentId, RefundId, Refusal, TaskId},
    order::{
        self, Orders,
        payments::{Answer, News},
    },
    ports::{CreatePayment, Fact, FactKind, FactStatus, Locator, PaymentProvider, ProviderError},
    store::{
        inbox::{self, InboxRow, Stretch},
        load,
    },
};

/// A call to be made.
pub(crate) struct Job {
    pub order_id: OrderId,
    pub payment_id: PaymentId,
    pub what: What,
}

/// What keeps one call from being made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum JobKey {
    Task(TaskId),
    Check(PaymentId),
    Signal(i64),
    Events,
}

pub(crate) enum What {
    Create(Box<CreatePayment>),
    /// Charge, or reserve, as `intent` says; or where the order no longer holds its lines (`charge_before`), only find out
    /// whether it was done.
    Charge {
        task_id: TaskId,
        provider_order_id: String,
        intent: Intent,
        look_first: bool,
        charge_before: Option<DateTime<Utc>>,
    },
    /// Take what was reserved.
    CaptureAuthorised {
        task_id: TaskId,
        provider_order_id: String,
        authorisation_id: String,
        amount: Money,
        look_first: bool,
    },
    /// Let go what was reserved.
    Void {
        task_id: TaskId,
        provider_order_id: String,
        authorisation_id: String,
    },
    /// Give back; `look_first` where the provider may have forgotten that it was asked before.
    Refund {
        task_id: TaskId,
        refund_id: RefundId,
        provider_order_id: String,
        capture_id: String,
        amount: Money,
        look_first: bool,
    },
    /// Only ask, with `disputes` also for those.
    Inspect {
        provider_order_id: String,
        disputes: bool,
    },
}

pub(crate) enum Msg {
    /// Make this call.
    Make { call: Call, claim: Claim },
    /// A call has ended; `trial` if it was to find out whether the provider is back.
    Ended { end: End, trial: bool },
}

/// A job, a webhook whose payment is still to be found, or the provider's own list of events: webhooks may have been lost.
pub(crate) enum Call {
    Job(Job),
    Signal { inbox_id: i64, locator: Locator },
    Events(Stretch),
}

/// A provider's name as a key.
pub(crate) type Provider = &'static str;

/// The right to have one call made.
pub(crate) type Claim = calls::Claim<(Provider, JobKey)>;

/// What the engine holds of the payment actors.
#[derive(Clone)]
pub(crate) struct Payments(pub Arc<Directory<Paying>>);

impl Payments {
    /// Has a call made, unless it is being made or its answer is on its way. Where it cannot be taken now it stays due and
    /// comes again.
    pub(crate) async fn run(&self, provider: &str, key: JobKey, job: Job) {
        self.make(provider, key, Call::Job(job)).await;
    }

    /// Whether a provider is set up: an order may be older than the settings.
    pub(crate) fn knows(&self, provider: &str) -> bool {
        self.0.kind.context.providers.contains_key(provider)
    }

    /// Has a webhook looked into.
    pub(crate) async fn signal(&self, provider: &str, inbox_id: i64, locator: Locator) {
        self.make(provider, JobKey::Signal(inbox_id), Call::Signal { inbox_id, locator }).await;
    }

    /// Has the provider's own list of events read.
    pub(crate) async fn read_events(&self, provider: &str, stretch: Stretch) {
        self.make(provider, JobKey::Events, Call::Events(stretch)).await;
    }

    async fn make(&self, provider: &str, key: JobKey, call: Call) {
        let Some((name, _)) = self.0.kind.context.providers.get_key_value(provider) else {
            return tracing::error!(provider, "no such provider is set up");
        };
        let Some(claim) = self.0.kind.claims.claim((name, key)) else { return };
        if let Err(refusal) = self.0.send(name, Msg::Make { call, claim }).await {
            tracing::debug!(provider, %refusal, "a call is put off");
        }
    }
}

/// How payment actors are started.
pub(crate) struct Paying {
    pub context: Arc<Context>,
    pub orders: OnceLock<Orders>,
    /// Beside the actors: one that crashes leaves its calls under way.
    pub claims: Claims<(Provider, JobKey)>,
}

#[async_trait]
impl Kind for Paying {
    const NAME: &'static str = "payments";
    const ONE: &'static str = "payment";
    const MAILBOX: usize = 65_536;
    const ESCALATES: bool = true;
    type Key = Provider;
    type Msg = Msg;
    /// Whether the provider is being left alone.
    type Shared = LeftAlone;

    fn shared(&self, _: Provider) -> LeftAlone {
        LeftAlone::default()
    }

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let provider = self.context.providers.get(cell.key).cloned().ok_or(Refusal::NotFound("provider"))?;
        let caller = Caller {
            cell: Arc::downgrade(cell),
            context: Arc::clone(&self.context),
            orders: self.orders.get().cloned().ok_or(Refusal::Away("the engine is starting"))?,
            provider,
        };
        let spawned = Actor::spawn_linked(None, caller, (), supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, _: &LeftAlone) -> bool {
        false
    }

    fn detail(&self, left_alone: &LeftAlone) -> Option<serde_json::Value> {
        Some(left_alone.detail())
    }
}

struct Caller {
    cell: std::sync::Weak<Cell<Paying>>,
    context: Arc<Context>,
    orders: Orders,
    provider: Arc<dyn PaymentProvider>,
}

impl Actor for Caller {
    type Msg = Envelope<Paying>;
    type State = Calls<(Call, Claim)>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let left_alone = self.cell.upgrade().map(|cell| cell.shared.clone()).unwrap_or_default();
        Ok(Calls::new(self.provider.name(), left_alone))
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        calls: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (msg, _ticket) = envelope.open();
        match msg {
            Msg::Make { call, claim } => calls.enqueue((call, claim)),
            Msg::Ended { end, trial } => calls.ended(end, trial, self.context.clock.now()),
        }
        self.start_calls(&myself, calls);
        Ok(())
    }
}

impl Caller {
    fn start_calls(&self, myself: &ActorRef<Envelope<Paying>>, calls: &mut Calls<(Call, Claim)>) {
        let make = |(call, claim), refused| {
            let errand = Errand {
                context: Arc::clone(&self.context),
                orders: self.orders.clone(),
                provider: Arc::clone(&self.provider),
                refused,
            };
            errand.make(call, claim)
        };
        let (cell, actor) = (self.cell.clone(), myself.clone());
        let ended = move |end, trial| {
            if let Some(cell) = cell.upgrade() {
                cell.nudge(&actor, Msg::Ended { end, trial });
            }
        };
        calls.start(self.context.clock.now(), make, ended);
    }
}

/// What an order is told, if it is told anything.
type Told = Option<(OrderId, News)>;

/// One call, from its row to its answer.
struct Errand {
    context: Arc<Context>,
    orders: Orders,
    provider: Arc<dyn PaymentProvider>,
    refused: Option<Duration>,
}

impl Errand {
    /// Makes the call and tells the order, which the claim goes to with the news.
    async fn make(self, call: Call, claim: Claim) -> End {
        let (end, told) = match call {
            Call::Job(job) => self.job(job).await,
            Call::Signal { inbox_id, locator } => self.signal(inbox_id, locator).await,
            Call::Events(stretch) => (self.events(stretch).await, None),
        };
        if let Some((order_id, news)) = told {
            self.orders.tell(order_id, order::Msg::Payment { news, claim }).await;
        }
        end
    }

    async fn job(&self, job: Job) -> (End, Told) {
        let Job { order_id, payment_id, what } = job;
        let (task_id, answer) = match what {
            What::Create(wish) => (wish.request_id, self.create(&wish).await),
            What::Charge { task_id, provider_order_id, intent, look_first, charge_before } => {
                // it may have waited for its turn
                let may_charge = charge_before.is_some_and(|limit| self.context.clock.now() < limit);
                (task_id, self.charge(task_id, &provider_order_id, intent, look_first, may_charge).await)
            }
            What::CaptureAuthorised { task_id, provider_order_id, authorisation_id, amount, look_first } => {
                let answer =
                    self.capture_authorised(task_id, &provider_order_id, &authorisation_id, amount, look_first).await;
                (task_id, answer)
            }
            What::Void { task_id, provider_order_id, authorisation_id } => {
                (task_id, self.void(task_id, &provider_order_id, &authorisation_id).await)
            }
            What::Refund { task_id, refund_id, provider_order_id, capture_id, amount, look_first } => {
                let wish = (refund_id, capture_id.as_str(), amount);
                (task_id, self.refund(task_id, wish, &provider_order_id, look_first).await)
            }
            What::Inspect { provider_order_id, disputes } => {
                return self.inspect((order_id, payment_id), &provider_order_id, None, disputes).await;
            }
        };
        let end = self.end_of(&answer);
        let answer = answer.unwrap_or_else(Answer::Failed);
        (end, Some((order_id, News::Answered { payment_id, task_id, answer })))
    }

    fn end_of<T>(&self, answer: &Result<T, ProviderError>) -> End {
        if self.refused.is_some() { End::NotAsked } else { End::of(answer) }
    }

    fn may_call(&self) -> Result<(), ProviderError> {
        calls::may_call(self.refused)
    }

    async fn create(&self, wish: &CreatePayment) -> Result<Answer, ProviderError> {
        self.may_call()?;
        self.context.faults.hit("payment.before_create", "");
        let created = self.provider.create(wish).await?;
        self.context.faults.hit("payment.after_create", "");
        Ok(Answer::Announced(created))
    }

    /// Charges or reserves once. Whoever cannot be sure that nobody has done it before looks first.
    async fn charge(
        &self,
        task_id: TaskId,
        provider_order_id: &str,
        intent: Intent,
        look_first: bool,
        may_charge: bool,
    ) -> Result<Answer, ProviderError> {
        self.may_call()?;
        if (look_first || !may_charge)
            && let Some(answer) = self.look(provider_order_id).await?
        {
            return Ok(answer);
        }
        if !may_charge {
            return Ok(Answer::NotCharged);
        }
        self.context.faults.hit("payment.before_capture", "");
        let (charged, kind) = match intent {
            Intent::Capture => (self.provider.capture(task_id, provider_order_id).await, FactKind::Capture),
            Intent::Authorise => (self.provider.authorise(task_id, provider_order_id).await, FactKind::Authorisation),
        };
        self.context.faults.hit("payment.after_capture", "");
        match charged {
            Ok(facts) if facts.iter().any(|fact| fact.kind == kind) => Ok(Answer::Facts(facts)),
            Ok(_) | Err(ProviderError::AlreadyDone(_)) => {
                let found = self.look(provider_order_id).await?;
                found.ok_or_else(|| ProviderError::NotYet("charged, and no charge is to be seen".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// What is there already: a charge, or no approval to charge on. None: it may be charged; what was declined before does
    /// not stand in the way.
    async fn look(&self, provider_order_id: &str) -> Result<Option<Answer>, ProviderError> {
        let facts = self.provider.inspect(provider_order_id).await?;
        if facts.iter().any(is_charge) {
            return Ok(Some(Answer::Facts(facts)));
        }
        let status = facts.iter().find(|fact| fact.kind == FactKind::Order).map(|fact| fact.status);
        Ok(if status == Some(FactStatus::Approved) { None } else { Some(Answer::NotApproved) })
    }

    /// Takes what was reserved, once.
    async fn capture_authorised(
        &self,
        task_id: TaskId,
        provider_order_id: &str,
        authorisation_id: &str,
        amount: Money,
        look_first: bool,
    ) -> Result<Answer, ProviderError> {
        self.may_call()?;
        if look_first {
            let facts = self.provider.inspect(provider_order_id).await?;
            let ended = |fact: &Fact| fact.object_id == authorisation_id && fact.status == FactStatus::Voided;
            if facts.iter().any(|fact| fact.kind == FactKind::Capture && is_charge(fact) || ended(fact)) {
                return Ok(Answer::Facts(facts));
            }
        }
        self.context.faults.hit("payment.before_capture", "");
        let captured = self.provider.capture_authorised(task_id, authorisation_id, amount, true).await;
        self.context.faults.hit("payment.after_capture", "");
        captured.map(Answer::Facts)
    }

    /// Lets go what was reserved. One that was used or let go before is what the provider says it is.
    async fn void(
        &self,
        task_id: TaskId,
        provider_order_id: &str,
        authorisation_id: &str,
    ) -> Result<Answer, ProviderError> {
        self.may_call()?;
        self.context.faults.hit("payment.before_void", "");
        let voided = self.provider.void(task_id, authorisation_id).await;
        self.context.faults.hit("payment.after_void", "");
        match voided {
            Err(ProviderError::AlreadyDone(_) | ProviderError::Dead(_)) => {
                Ok(Answer::Facts(self.provider.inspect(provider_order_id).await?))
            }
            other => other.map(Answer::Facts),
        }
    }

    /// Gives back once. A refund carries its name, by which it is found where the provider has forgotten the call.
    async fn refund(
        &self,
        task_id: TaskId,
        (refund_id, capture_id, amount): (RefundId, &str, Money),
        provider_order_id: &str,
        look_first: bool,
    ) -> Result<Answer, ProviderError> {
        self.may_call()?;
        if look_first {
            let facts = self.provider.inspect(provider_order_id).await?;
            if facts.iter().any(|fact| fact.refund_id() == Some(refund_id)) {
                return Ok(Answer::Facts(facts));
            }
        }
        self.context.faults.hit("payment.before_refund", "");
        let refunded = self.provider.refund(task_id, refund_id, capture_id, amount).await;
        self.context.faults.hit("payment.after_refund", "");
        // whatever the answer repeats of the name: it is about this refund
        let named = |fact: Fact| Fact { reference: Some(refund_id.to_string()), ..fact };
        match refunded {
            Err(ProviderError::AlreadyDone(_)) => Ok(Answer::Facts(self.provider.inspect(provider_order_id).await?)),
            other => other.map(|facts| Answer::Facts(facts.into_iter().map(named).collect())),
        }
    }

    /// A question without a certain answer is asked again; one that the provider will not answer is over for this time.
    async fn inspect(
        &self,
        (order_id, payment_id): (OrderId, PaymentId),
        provider_order_id: &str,
        inbox_id: Option<i64>,
        disputes: bool,
    ) -> (End, Told) {
        let answer = self.ask(provider_order_id, disputes).await;
        let end = self.end_of(&answer);
        let (facts, inbox_id) = match answer {
            Ok(facts) => (facts, inbox_id),
            // a webhook comes again by the inbox, a check by its own time
            Err(ProviderError::Unknown { .. }) if inbox_id.is_some() => return (end, None),
            Err(ProviderError::Unknown { .. }) => return (end, Some((order_id, News::NoAnswer))),
            // gone for good: there is nothing that this webhook could still mean
            Err(ProviderError::Dead(_)) => (Vec::new(), inbox_id),
            Err(
                ProviderError::Declined(_)
                | ProviderError::NotYet(_)
                | ProviderError::AlreadyDone(_)
                | ProviderError::Rejected(_)
                | ProviderError::TakenBack(_),
            ) => {
                if let Some(inbox_id) = inbox_id {
                    self.give_up_in_time(inbox_id, "unanswerable").await;
                }
                (Vec::new(), None)
            }
        };
        (end, Some((order_id, News::Facts { payment_id, facts, inbox_id })))
    }

    async fn ask(&self, provider_order_id: &str, disputes: bool) -> Result<Vec<Fact>, ProviderError> {
        self.may_call()?;
        self.context.faults.hit("payment.before_inspect", "");
        let facts = self.look_into(provider_order_id, disputes).await;
        self.context.faults.hit("payment.after_inspect", "");
        if let Err(error) = &facts {
            tracing::info!(provider = self.provider.name(), %error, "a question was not answered");
        }
        facts
    }

    async fn look_into(&self, provider_order_id: &str, disputes: bool) -> Result<Vec<Fact>, ProviderError> {
        let mut facts = self.provider.inspect(provider_order_id).await?;
        let captures = facts.iter().filter(|fact| disputes && fact.kind == FactKind::Capture);
        for capture_id in captures.map(|fact| fact.object_id.clone()).collect::<Vec<_>>() {
            facts.extend(self.provider.disputes(&capture_id).await?);
        }
        Ok(facts)
    }

    /// The second path for webhooks: what the provider lists and never delivered is put into the inbox as if it had. It comes
    /// from the provider itself, so it needs no signature. The cursor moves when all of it is there.
    async fn events(&self, stretch: Stretch) -> End {
        let (began, name) = (self.context.clock.now(), self.provider.name());
        let listed = match self.may_call() {
            Ok(()) => self.provider.events(stretch.since, stretch.until).await,
            Err(refused) => Err(refused),
        };
        let end = self.end_of(&listed);
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                tracing::info!(provider = name, %error, "the list of events was not answered");
                return end;
            }
        };
        for event in listed {
            let locator = self.provider.locate(&event.body);
            let transmission = format!("listed {}", event.event_id); // there was none
            let row = InboxRow {
                provider: name,
                event_id: &event.event_id,
                transmission_id: &transmission,
                event_type: &locator.event_type,
                body: &event.body,
            };
            match inbox::store(&self.context.pool, &row, &locator, began).await {
                Ok(None) => {}
                Ok(Some(inbox_id)) => {
                    tracing::info!(
                        inbox_id,
                        event = locator.event_type,
                        "a webhook never came and was found in the list"
                    );
                }
                Err(error) => {
                    tracing::warn!(provider = name, %error, "the list of events is put off");
                    return end;
                }
            }
        }
        if let Err(error) = inbox::move_cursor(&self.context.pool, name, stretch.until, began).await {
            tracing::warn!(provider = name, %error, "the list of events will be read again");
        }
        end
    }

    async fn give_up_in_time(&self, inbox_id: i64, outcome: &'static str) {
        inbox::give_up_in_time(&self.context.pool, inbox_id, outcome, self.context.clock.now()).await;
    }

    /// A webhook of an unknown payment stays in the inbox for a while: its order may be on its way.
    async fn signal(&self, inbox_id: i64, locator: Locator) -> (End, Told) {
        let found = load::locate(&self.context.pool, self.provider.name(), &locator).await;
        let (order_id, payment_id, known) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                tracing::info!(inbox_id, event = locator.event_type, "a webhook of an unknown payment is parked");
                self.give_up_in_time(inbox_id, "nobodys").await;
                return (End::NotAsked, None);
            }
            Err(error) => {
                tracing::warn!(inbox_id, %error, "a webhook is put off");
                return (End::NotAsked, None);
            }
        };
        let Some(provider_order_id) = known.or_else(|| locator.provider_order_id.clone()) else {
            self.give_up_in_time(inbox_id, "unanswerable").await;
            return (End::NotAsked, None);
        };
        let disputes = locator.is_about_dispute();
        self.inspect((order_id, payment_id), &provider_order_id, Some(inbox_id), disputes).await
    }
}

/// Whether money was taken or reserved, or is about to be.
fn is_charge(fact: &Fact) -> bool {
    let refused =
        matches!(fact.status, FactStatus::Declined | FactStatus::Failed | FactStatus::Voided | FactStatus::Other);
    matches!(fact.kind, FactKind::Capture | FactKind::Authorisation) && !refused
}
