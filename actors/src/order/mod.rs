//! The order actor: one an order, and the only one that moves it.
//!
//! It activates with the first message after the placement and loads the order once, unless the checkout that has just
//! placed it hands it over. Each message is a decision tried on a [`Draft`], committed by the journal, and only then
//! believed. One entry is in flight at a time; the journal's fence on the order's version catches whatever this actor does
//! not know, and then it loads and decides again, once.

mod handover;
pub(crate) mod parcels;
pub(crate) mod payments;

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::{
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{
        Command, Commanded, Customer, Draft, Order, OrderId, OrderStatus, Part, Refusal, Restock, SaleShare, Task,
        TaskId, TaskKind, Who, change::InboxMark,
    },
    error,
    journal::Verdict,
    payment::{self, Payments},
    shelf::{Buying, Hold, keeps},
    shipping::{self, Shipping},
    sku::{HoldError, Skus},
    store::{
        entry::{Entry, Key, Line},
        load,
    },
};

use handover::Handover;

/// Numbers leased for one decision; gaps are allowed.
const IDS: i64 = 64;

/// How long a provider is left alone after a buyer who came back from it had it asked.
const LOOK_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// Numbers that any decision may need for what the order has already: for a capture a refund and its call, for a refund one
/// in its place, for a payment the call that lets it go, for a shipment its calls at the carrier or what comes back of it.
fn ids_of(order: &Order) -> i64 {
    2 * (order.captures().len() + order.payments.len() + order.shipments.len() + order.refunds.len()) as i64
}

type Reply<R> = oneshot::Sender<Result<R, Refusal>>;

pub(crate) enum Msg {
    /// Open a payment, or find the open one; answered with the page where the buyer approves it.
    Pay { provider: String, reply: Reply<String> },
    /// Call the order off.
    Cancel { who: Who, reply: Reply<OrderStatus> },
    /// What a person asks, with a key.
    Command { command: Command, who: Who, key: CommandKey, reply: Reply<Commanded> },
    /// Something may be due: the deadline, a provider call, a check.
    Work,
    /// The buyer's browser is back from the provider: ask it what happened.
    Look,
    /// Something was heard of its money.
    Payment { news: payments::News, claim: payment::Claim },
    /// Something was heard of a parcel.
    Parcel { news: parcels::News, claim: shipping::Claim },
}

/// A command's idempotency key.
#[derive(Debug, Clone)]
pub struct CommandKey {
    /// Whose key.
    pub principal: String,
    /// As the client sent it.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
}

impl CommandKey {
    /// The route that a command's key is kept under.
    pub(crate) const ROUTE: &'static str = "command";

    fn making(&self, ref_id: i64) -> Key {
        let (principal, key) = (self.principal.clone(), self.key.clone());
        Key { principal, key, route: Self::ROUTE, fingerprint: self.fingerprint, ref_id }
    }
}

/// What is committed with a decision, beside its own rows.
enum Beside {
    Nothing,
    /// The webhook that told of it has been dealt with.
    Webhook(InboxMark),
    /// The key that makes the command's repetition harmless.
    Key(CommandKey),
}

/// What the engine holds of all order actors.
#[derive(Clone)]
pub(crate) struct Orders(pub Arc<Directory<Orderly>>);

impl Orders {
    /// Leaves an order that was just placed for its actor, which begins with it as it was committed, and reads nothing.
    pub(crate) fn leave(&self, order: Order) {
        self.0.cell(order.id).shared.leave(order);
    }

    /// Sends a message that nobody waits for. Should it not arrive, what it is about is still due in Postgres.
    pub(crate) async fn tell(&self, order_id: OrderId, msg: Msg) {
        if let Err(refusal) = self.0.send(order_id, msg).await {
            tracing::debug!(order.id = %order_id, %refusal, "an order could not be told");
        }
    }
}

/// How order actors are started.
pub(crate) struct Orderly {
    pub context: Arc<Context>,
    pub skus: Skus,
    /// Set once the payment actors are there.
    pub payments: OnceLock<Payments>,
    /// Set once the shipping actors are there.
    pub shipping: OnceLock<Shipping>,
}

#[async_trait]
impl Kind for Orderly {
    const NAME: &'static str = "orders";
    const ONE: &'static str = "order";
    const MAILBOX: usize = 256;
    const ESCALATES: bool = false;
    type Key = OrderId;
    type Msg = Msg;
    type Shared = Handover<Order>;

    fn shared(&self, _: OrderId) -> Handover<Order> {
        Handover::default()
    }

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let order = match cell.shared.take() {
            Some(placed) => *placed,
            None => load(&self.context, cell.key).await?,
        };
        let keeper = Keeper {
            order_id: cell.key,
            context: Arc::clone(&self.context),
            skus: self.skus.clone(),
            payments: self.payments.get().cloned().ok_or(Refusal::Away("the engine is starting"))?,
            shipping: self.shipping.get().cloned().ok_or(Refusal::Away("the engine is starting"))?,
        };
        let spawned = Actor::spawn_linked(None, keeper, order, supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, _: &Handover<Order>) -> bool {
        true
    }
}

async fn load(context: &Context, order_id: OrderId) -> Result<Order, Refusal> {
    let loaded = load::order(&context.pool, order_id).await.map_err(|error| error::refusal(&error))?;
    loaded.ok_or(Refusal::NotFound("order"))
}

struct Keeper {
    order_id: OrderId,
    context: Arc<Context>,
    skus: Skus,
    payments: Payments,
    shipping: Shipping,
}

struct State {
    order: Order,
    /// Buyers that wait for the page where they approve.
    waiting: Vec<Reply<String>>,
    /// Purchases that this actor has decided on and nobody was asked to make.
    unasked: HashSet<TaskId>,
    /// When a buyer last had the provider asked.
    looked_at: Option<DateTime<Utc>>,
}

impl Actor for Keeper {
    type Msg = Envelope<Orderly>;
    type State = State;
    type Arguments = Order;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, order: Order) -> Result<State, ActorProcessingErr> {
        Ok(State { order, waiting: Vec::new(), unasked: HashSet::new(), looked_at: None })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (msg, _ticket) = envelope.open();
        match msg {
            Msg::Pay { provider, reply } => self.pay(state, &provider, reply).await,
            Msg::Cancel { who, reply } => drop(reply.send(self.cancel(state, who).await)),
            Msg::Command { command, who, key, reply } => {
                drop(reply.send(self.command(state, &command, who, key).await));
            }
            Msg::Work => self.work(state).await,
            Msg::Look => self.look(state).await,
            // claims end when the news have been taken in
            Msg::Payment { news, claim: _claim } => self.payment_news(state, news).await,
            Msg::Parcel { news, claim: _claim } => self.parcel_news(state, news).await,
        }
        Ok(())
    }
}

impl Keeper {
    async fn pay(&self, state: &mut State, provider: &str, reply: Reply<String>) {
        match self.decide(state, Who::Buyer, Beside::Nothing, |draft| Ok((draft.pay(provider)?, Vec::new()))).await {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(_) => {
                state.waiting.retain(|reply| !reply.is_closed()); // who asks again has stopped waiting
                state.waiting.push(reply);
                self.tell_waiting(state);
                self.dispatch(state, true).await;
            }
        }
    }

    async fn cancel(&self, state: &mut State, who: Who) -> Result<OrderStatus, Refusal> {
        let by_buyer = who == Who::Buyer;
        self.decide(state, who, Beside::Nothing, |draft| Ok((draft.cancel(by_buyer)?, Vec::new()))).await?;
        self.tell_waiting(state);
        self.dispatch(state, true).await;
        Ok(state.order.status)
    }

    async fn command(
        &self,
        state: &mut State,
        command: &Command,
        who: Who,
        key: CommandKey,
    ) -> Result<Commanded, Refusal> {
        self.check_carrier(&state.order, command)?;
        let carry_out = |draft: &mut Draft<'_>| Ok((draft.carry_out(command)?, Vec::new()));
        let id = self.decide(state, who, Beside::Key(key), carry_out).await?;
        self.tell_waiting(state);
        self.dispatch(state, true).await;
        Ok(Commanded { id, replayed: false })
    }

    async fn work(&self, state: &mut State) {
        if state.order.status == OrderStatus::AwaitingPayment && state.order.deadline <= self.context.clock.now() {
            self.context.faults.hit("order.before_expire", "");
            let expired =
                self.decide(state, Who::Engine, Beside::Nothing, |draft| Ok((draft.fall_due(), Vec::new()))).await;
            if let Err(refusal) = expired {
                return self.log(&refusal);
            }
            self.tell_waiting(state);
        }
        if state.order.late_approval().is_some() {
            let reopened = self.decide(state, Who::Engine, Beside::Nothing, |draft| {
                Ok(((), draft.order.late_approval().into_iter().collect()))
            });
            if let Err(refusal) = reopened.await {
                self.log(&refusal);
                return self.put_off(state, None).await;
            }
        }
        self.dispatch(state, false).await;
        self.check(state).await;
        self.check_parcels(state).await;
    }

    /// A buyer is back from the provider. Whoever reloads that page has it asked no more often than it is polite to.
    async fn look(&self, state: &mut State) {
        let now = self.context.clock.now();
        if state.looked_at.is_some_and(|last| now - last < LOOK_PAUSE) {
            return;
        }
        state.looked_at = Some(now);
        for payment in &state.order.payments {
            let Some(announced) = &payment.announced else { continue };
            self.inspect(payment, announced).await;
        }
    }

    async fn after_news(&self, state: &mut State, settled: Result<(), Refusal>) {
        if state.order.status == OrderStatus::Confirmed {
            self.context.faults.hit("order.confirmed", "");
        }
        self.tell_waiting(state);
        match settled {
            Ok(()) => self.dispatch(state, true).await,
            Err(refusal) => self.log(&refusal),
        }
    }

    /// The provider's word is here and cannot be acted on now — a SKU rests after a crash, say: later, and not at once
    /// again, or the provider would be asked the same as fast as it answers.
    async fn put_off(&self, state: &mut State, task_id: Option<TaskId>) {
        let later = |draft: &mut Draft<'_>| {
            match task_id {
                Some(task_id) => draft.put_off(task_id, "its answer could not be acted on"),
                None => draft.put_off_checks(),
            }
            Ok(((), Vec::new()))
        };
        if let Err(refusal) = self.decide(state, Who::Engine, Beside::Nothing, later).await {
            self.log(&refusal);
        }
    }

    /// What nobody hears of is not lost: the row that made it due is still there.
    fn log(&self, refusal: &Refusal) {
        tracing::warn!(order.id = %self.order_id, %refusal, "an order's step is put off");
    }

    /// Buyers hear of the page where they approve as soon as there is one, or that there will be none.
    fn tell_waiting(&self, state: &mut State) {
        let refuse = |why| Err(Refusal::NotNow { status: state.order.status, why });
        let live = state.order.payments.iter().rev().find(|payment| payment.is_live());
        let answer = match live {
            _ if state.order.status != OrderStatus::AwaitingPayment => refuse("there is nothing to pay"),
            Some(payment) => match &payment.announced {
                Some(created) => Ok(created.approve_url.clone()),
                None => return,
            },
            None => refuse("the provider did not take the payment"),
        };
        for reply in state.waiting.drain(..) {
            reply.send(answer.clone()).ok();
        }
    }

    // ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Tries a decision on a copy, commits its rows, believes it. A stale copy is loaded again and decided on again, once.
    async fn decide<R>(
        &self,
        state: &mut State,
        who: Who,
        beside: Beside,
        decision: impl Fn(&mut Draft<'_>) -> Result<(R, Vec<Restock>), Refusal>,
    ) -> Result<R, Refusal> {
        self.decide_with(state, who, beside, IDS, decision).await
    }

    /// The same, with so many numbers for new rows.
    async fn decide_with<R>(
        &self,
        state: &mut State,
        who: Who,
        beside: Beside,
        ids: i64,
        decision: impl Fn(&mut Draft<'_>) -> Result<(R, Vec<Restock>), Refusal>,
    ) -> Result<R, Refusal> {
        for _ in 0..2 {
            let ids = self.context.ids.take(ids + ids_of(&state.order)).await?;
            let mut draft = Draft::new(&state.order, self.context.clock.now(), &self.context.policy, ids);
            let (answer, wishes) = decision(&mut draft)?;
            let mut entry = Entry::new(draft.at, who);
            for wish in &wishes {
                if draft.order.status != OrderStatus::Expired || !draft.is_paid_for(wish) {
                    draft.overtaken(wish); // by the wish before it, or by a refund
                    continue;
                }
                let held = self.hold_again(&draft.order).await?;
                let keeps = held.as_ref().map(|holds| keeps(holds, self.context.policy.hold));
                let parts = draft.restocked(wish, keeps);
                entry.lines.extend(self.pair(&parts, held.unwrap_or_default()));
            }
            draft.follow_up();
            if entry.lines.iter().any(|line| line.hold.share().is_some()) {
                entry.look_id = draft.next_id();
            }
            let idle = draft.is_idle();
            if idle && matches!(beside, Beside::Nothing) {
                return Ok(answer);
            }
            let made = draft.made;
            let (next, mut changes) = draft.finish();
            if idle {
                changes.order = None; // nothing new: only the webhook is ticked off
            }
            match &beside {
                Beside::Nothing => {}
                Beside::Webhook(mark) => changes.inbox.push(mark.clone()),
                Beside::Key(key) => entry.key = made.map(|ref_id| key.making(ref_id)),
            }
            entry.changes = Some(Box::new(changes));
            match self.context.journal.commit(entry).await? {
                Verdict::Committed if idle => return Ok(answer),
                Verdict::Committed => {
                    let known = |task: &Task| state.order.tasks.iter().any(|old| old.id == task.id);
                    let opened = next.tasks.iter().filter(|task| task.kind == TaskKind::BuyLabel && !known(task));
                    state.unasked.extend(opened.map(|task| task.id));
                    state.order = next;
                    return Ok(answer);
                }
                Verdict::Stale => {
                    state.order = load(&self.context, self.order_id).await?;
                    self.recount(&state.order).await?;
                }
                Verdict::Superseded => return Err(Refusal::Superseded),
                Verdict::KeyTaken => return Err(Refusal::KeyReused), // the caller looks up what for
                Verdict::Failed => {
                    state.order = load(&self.context, self.order_id).await?;
                    return Err(Refusal::Fault);
                }
            }
        }
        Err(Refusal::Busy)
    }

    /// It may be a sale that has moved on: what it has given of these SKUs is counted afresh.
    async fn recount(&self, order: &Order) -> Result<(), Refusal> {
        for part in order.lines().filter(|part| part.share.is_some()) {
            self.skus.recount(part.sku_id).await?;
        }
        Ok(())
    }

    /// Holds the order's lines afresh, in order of SKU and as they were sold; none if any of them is sold out, or no longer
    /// sold in this way.
    async fn hold_again(&self, order: &Order) -> Result<Option<Vec<Hold>>, Refusal> {
        let mut lines: Vec<Part> = order.lines().collect();
        lines.sort_unstable_by_key(|part| part.sku_id);
        let mut holds = Vec::with_capacity(lines.len());
        for part in lines {
            let in_sale = |share: SaleShare| Buying::InSale(share.sale_id, Customer::guest(&order.email));
            let buying = part.share.map_or(Buying::Usual, in_sale);
            match self.skus.hold_for(buying, part.sku_id, part.quantity).await {
                Ok(hold) => holds.push(hold),
                Err(HoldError::SoldOut { .. } | HoldError::NotOffered(_)) => return Ok(None),
                Err(HoldError::Refused(refusal)) => return Err(refusal),
            }
        }
        Ok(Some(holds))
    }

    fn pair(&self, parts: &[Part], holds: Vec<Hold>) -> Vec<Line> {
        let mut by_sku: Vec<&Part> = parts.iter().collect();
        by_sku.sort_unstable_by_key(|part| part.sku_id);
        let line = |(part, hold): (&Part, Hold)| Line {
            order_id: self.order_id,
            part: part.part,
            line: part.line,
            unit_price_minor: part.unit_price_minor,
            state: part.state,
            hold,
        };
        by_sku.into_iter().zip(holds).map(line).collect()
    }
}
