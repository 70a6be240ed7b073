//! The shipping actor: one a carrier. It buys the labels that orders have committed to, asks where parcels are, and leaves
//! a carrier alone that does not answer.
//!
//! It keeps nothing that matters: every call is a row before it is made, and its answer goes to the order, which decides.
//! Carriers know no idempotency key. A purchase is made only by whoever knows that nobody can have made it before; everybody
//! else looks for the label that may be there.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use crate::{
    calls::{self, Calls, Claims, End, LeftAlone},
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{OrderId, Refusal, ShipmentId, TaskId, Void},
    order::{
        self, Orders,
        parcels::{Answer, News},
    },
    ports::{BuyLabel, Carrier, Label, LabelStatus, ParcelLocator, ProviderError},
    store::{inbox, load, write::parcels},
};

/// A call to be made.
pub(crate) struct Job {
    pub order_id: OrderId,
    pub shipment_id: ShipmentId,
    pub what: What,
}

/// What keeps one call from being made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum JobKey {
    Task(TaskId),
    Track(ShipmentId),
    Signal(i64),
}

/// The right to have one call made.
pub(crate) type Claim = calls::Claim<JobKey>;

pub(crate) enum What {
    /// Buy, or where somebody may have bought before (`look`), only find out whether there is a label.
    Buy {
        task_id: TaskId,
        wish: Box<BuyLabel>,
        look: bool,
    },
    /// See what became of a label that was being bought.
    Look {
        task_id: TaskId,
        label_id: String,
    },
    Void {
        task_id: TaskId,
        label_id: String,
    },
    /// Fetch the label's file; its address may have ended, and then the label names a new one.
    Fetch {
        task_id: TaskId,
        label_id: String,
        url: Option<String>,
    },
    /// Give back every label of the shipment beside its own.
    Sweep {
        task_id: TaskId,
        own: Option<String>,
    },
    Track {
        carrier: String,
        tracking_number: String,
    },
}

pub(crate) enum Msg {
    /// Make this call.
    Make { call: Call, claim: Claim },
    /// A call has ended; `trial` if it was to find out whether the carrier is back.
    Ended { end: End, trial: bool },
}

/// A job, or a webhook whose parcel is still to be found.
pub(crate) enum Call {
    Job(Job),
    Signal { inbox_id: i64, locator: ParcelLocator },
}

/// What the engine holds of the shipping actors.
#[derive(Clone)]
pub(crate) struct Shipping(pub Arc<Directory<Carrying>>);

impl Shipping {
    /// Has a call made, unless it is being made or its answer is on its way. Where it cannot be taken now it stays due and
    /// comes again.
    pub(crate) async fn run(&self, carrier: &str, key: JobKey, job: Job) {
        self.make(carrier, key, Call::Job(job)).await;
    }

    /// Has a webhook looked into.
    pub(crate) async fn signal(&self, carrier: &str, inbox_id: i64, locator: ParcelLocator) {
        self.make(carrier, JobKey::Signal(inbox_id), Call::Signal { inbox_id, locator }).await;
    }

    async fn make(&self, carrier: &str, key: JobKey, call: Call) {
        let Some((name, _)) = self.0.kind.context.carriers.get_key_value(carrier) else {
            return tracing::error!(carrier, "no such carrier is set up");
        };
        let Some(claim) = self.0.kind.claims.claim(key) else { return };
        if let Err(refusal) = self.0.send(name, Msg::Make { call, claim }).await {
            tracing::debug!(carrier, %refusal, "a call is put off");
        }
    }
}

/// How shipping actors are started.
pub(crate) struct Carrying {
    pub context: Arc<Context>,
    pub orders: OnceLock<Orders>,
    /// Beside the actors: one that crashes leaves its calls under way.
    pub claims: Claims<JobKey>,
}

#[async_trait]
impl Kind for Carrying {
    const NAME: &'static str = "shipping";
    const ONE: &'static str = "carrier";
    const MAILBOX: usize = 65_536;
    const ESCALATES: bool = true;
    type Key = &'static str;
    type Msg = Msg;
    type Shared = LeftAlone;

    fn shared(&self, _: &'static str) -> LeftAlone {
        LeftAlone::default()
    }

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let carrier = self.context.carriers.get(cell.key).cloned().ok_or(Refusal::NotFound("carrier"))?;
        let caller = Caller {
            cell: Arc::downgrade(cell),
            context: Arc::clone(&self.context),
            orders: self.orders.get().cloned().ok_or(Refusal::Away("the engine is starting"))?,
            carrier,
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
    cell: std::sync::Weak<Cell<Carrying>>,
    context: Arc<Context>,
    orders: Orders,
    carrier: Arc<dyn Carrier>,
}

impl Actor for Caller {
    type Msg = Envelope<Carrying>;
    type State = Calls<(Call, Claim)>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let left_alone = self.cell.upgrade().map(|cell| cell.shared.clone()).unwrap_or_default();
        Ok(Calls::new(self.carrier.name(), left_alone))
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
    fn start_calls(&self, myself: &ActorRef<Envelope<Carrying>>, calls: &mut Calls<(Call, Claim)>) {
        let make = |(call, claim), refused| {
            let errand = Errand {
                context: Arc::clone(&self.context),
                orders: self.orders.clone(),
                carrier: Arc::clone(&self.carrier),
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
    carrier: Arc<dyn Carrier>,
    refused: Option<Duration>,
}

impl Errand {
    /// Makes the call and tells the order, which the claim goes to with the news.
    async fn make(self, call: Call, claim: Claim) -> End {
        let (end, told) = match call {
            Call::Job(job) => self.job(job).await,
            Call::Signal { inbox_id, locator } => self.signal(inbox_id, locator).await,
        };
        if let Some((order_id, news)) = told {
            self.orders.tell(order_id, order::Msg::Parcel { news, claim }).await;
        }
        end
    }

    async fn job(&self, job: Job) -> (End, Told) {
        let Job { order_id, shipment_id, what } = job;
        let mut bought = false;
        let (task_id, answer) = match what {
            What::Buy { task_id, wish, look: false } => {
                // refused by the breaker, it was not made: there is nothing to doubt
                bought = self.refused.is_none();
                (task_id, self.buy(&wish).await)
            }
            What::Buy { task_id, wish, look: true } => (task_id, self.find(wish.shipment_id).await),
            What::Look { task_id, label_id } => (task_id, self.look(&label_id).await.map(Answer::Label)),
            What::Void { task_id, label_id } => (task_id, self.void(&label_id).await),
            What::Fetch { task_id, label_id, url } => (task_id, self.fetch(shipment_id, &label_id, url).await),
            What::Sweep { task_id, own } => (task_id, self.sweep(shipment_id, own.as_deref()).await),
            What::Track { carrier, tracking_number } => {
                return self.track((order_id, shipment_id), &carrier, &tracking_number, None).await;
            }
        };
        let end = self.end_of(&answer);
        let answer = answer.unwrap_or_else(|error| Answer::Failed { error, bought });
        (end, Some((order_id, News::Answered { task_id, answer })))
    }

    fn end_of<T>(&self, answer: &Result<T, ProviderError>) -> End {
        if self.refused.is_some() { End::NotAsked } else { End::of(answer) }
    }

    async fn buy(&self, wish: &BuyLabel) -> Result<Answer, ProviderError> {
        calls::may_call(self.refused)?;
        self.context.faults.hit("shipping.before_buy", "");
        let bought = self.carrier.buy(wish).await;
        self.context.faults.hit("shipping.after_buy", "");
        bought.map(Answer::Label)
    }

    /// The label that somebody may have bought before: bought ones first, then those that are being bought, the same one
    /// every time.
    async fn find(&self, shipment_id: ShipmentId) -> Result<Answer, ProviderError> {
        calls::may_call(self.refused)?;
        let mut found = self.carrier.find(shipment_id).await?;
        found.retain(is_live);
        found.sort_by_key(|label| (label.status != LabelStatus::Bought, label.label_id.clone()));
        Ok(found.into_iter().next().map_or(Answer::NoLabel, Answer::Found))
    }

    async fn look(&self, label_id: &str) -> Result<Label, ProviderError> {
        calls::may_call(self.refused)?;
        self.carrier.look(label_id).await
    }

    async fn void(&self, label_id: &str) -> Result<Answer, ProviderError> {
        calls::may_call(self.refused)?;
        self.context.faults.hit("shipping.before_void", "");
        let void = self.carrier.void(label_id).await;
        self.context.faults.hit("shipping.after_void", "");
        void.map(Answer::Void)
    }

    async fn fetch(
        &self,
        shipment_id: ShipmentId,
        label_id: &str,
        url: Option<String>,
    ) -> Result<Answer, ProviderError> {
        calls::may_call(self.refused)?;
        let first = match &url {
            Some(url) => self.carrier.file(url).await,
            None => Err(ProviderError::Dead("no address".to_owned())),
        };
        let file = match first {
            Err(ProviderError::Dead(_) | ProviderError::Rejected(_)) => {
                let label = self.carrier.look(label_id).await?;
                let fresh = label.file_url.ok_or_else(|| ProviderError::NotYet("the label has no file".to_owned()))?;
                self.carrier.file(&fresh).await?
            }
            other => other?,
        };
        let kept = parcels::keep_file(&self.context.pool, shipment_id, &file, self.context.clock.now()).await;
        self.context.faults.hit("shipping.after_fetch", "");
        match kept {
            Ok(()) => Ok(Answer::Filed),
            Err(error) => {
                tracing::warn!(shipment.id = %shipment_id, %error, "a label's file could not be kept");
                Err(ProviderError::NotYet("the file could not be kept".to_owned()))
            }
        }
    }

    async fn sweep(&self, shipment_id: ShipmentId, own: Option<&str>) -> Result<Answer, ProviderError> {
        calls::may_call(self.refused)?;
        let found = self.carrier.find(shipment_id).await?;
        let mut strays = Vec::new();
        for stray in found.into_iter().filter(|label| Some(label.label_id.as_str()) != own) {
            let void = match stray.status {
                LabelStatus::Queued | LabelStatus::Bought => match self.carrier.void(&stray.label_id).await {
                    // asked for again it would be refused again
                    Err(ProviderError::Rejected(_) | ProviderError::Dead(_)) => Void::Rejected,
                    answer => answer?,
                },
                LabelStatus::VoidRejected => Void::Rejected, // decided since the last look
                LabelStatus::Failed(_) | LabelStatus::Voiding | LabelStatus::Voided => continue,
            };
            strays.push((stray.label_id, void));
        }
        self.context.faults.hit("shipping.after_sweep", "");
        Ok(Answer::Swept(strays))
    }

    /// A question without a certain answer is asked again: a webhook's by the inbox, a check by its own time.
    async fn track(
        &self,
        (order_id, shipment_id): (OrderId, ShipmentId),
        carrier: &str,
        tracking_number: &str,
        inbox_id: Option<i64>,
    ) -> (End, Told) {
        let answer = match calls::may_call(self.refused) {
            Ok(()) => self.carrier.track(carrier, tracking_number).await,
            Err(error) => Err(error),
        };
        let end = self.end_of(&answer);
        let news = match answer {
            Ok(facts) => Some(News::Tracked { shipment_id, facts, inbox_id }),
            Err(error) => {
                tracing::info!(carrier = self.carrier.name(), %error, "a question was not answered");
                match (inbox_id, error) {
                    (None, _) => Some(News::NotTracked),
                    (Some(_), ProviderError::Unknown { .. }) => None,
                    (
                        Some(inbox_id),
                        ProviderError::Declined(_)
                        | ProviderError::NotYet(_)
                        | ProviderError::AlreadyDone(_)
                        | ProviderError::Dead(_)
                        | ProviderError::Rejected(_)
                        | ProviderError::TakenBack(_),
                    ) => {
                        self.give_up_in_time(inbox_id, "unanswerable").await;
                        None
                    }
                }
            }
        };
        (end, news.map(|news| (order_id, news)))
    }

    async fn give_up_in_time(&self, inbox_id: i64, outcome: &'static str) {
        inbox::give_up_in_time(&self.context.pool, inbox_id, outcome, self.context.clock.now()).await;
    }

    /// A webhook of a parcel that is not known, or whose label's answer is not saved yet, stays in the inbox: it is on its
    /// way.
    async fn signal(&self, inbox_id: i64, locator: ParcelLocator) -> (End, Told) {
        let found = match load::locate_parcel(&self.context.pool, self.carrier.name(), &locator).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                tracing::info!(inbox_id, event = locator.event_type, "a webhook of an unknown parcel is parked");
                self.give_up_in_time(inbox_id, "nobodys").await;
                return (End::NotAsked, None);
            }
            Err(error) => {
                tracing::warn!(inbox_id, %error, "a webhook is put off");
                return (End::NotAsked, None);
            }
        };
        let (order_id, shipment_id) = (found.order_id, found.shipment_id);
        match (found.carrier, found.tracking_number, found.label_id) {
            (Some(carrier), Some(number), _) => {
                self.track((order_id, shipment_id), &carrier, &number, Some(inbox_id)).await
            }
            // news of a label that is being bought: its task looks at it
            (_, _, Some(_)) => (End::NotAsked, Some((order_id, News::LabelMoved { shipment_id, inbox_id }))),
            _ => {
                self.give_up_in_time(inbox_id, "unanswerable").await;
                (End::NotAsked, None)
            }
        }
    }
}

/// Whether a label is there to be used, or will be.
fn is_live(label: &Label) -> bool {
    match label.status {
        LabelStatus::Queued | LabelStatus::Bought => true,
        LabelStatus::Failed(_) | LabelStatus::Voiding | LabelStatus::Voided | LabelStatus::VoidRejected => false,
    }
}
