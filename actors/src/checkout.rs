//! The checkout saga, in its coordinators.
//!
//! ```text
//! hold every line at its SKU actor (in order of SKU, in memory) ─▶ one entry: key, order, lines, payment ─▶ committed
//!        │ short? drop the holds: nothing has happened                  │ refused? the holds drop with the entry
//! ```
//!
//! Up to the entry everything is a promise in memory, so a crash leaves nothing behind and a retry holds nothing twice.
//! From the commit on the order, its payments and its tasks *are* the saga's state: the order actor carries it on, to
//! payment and fulfilment, whoever dies in between. Holding in order of SKU keeps baskets from waiting for each other in a
//! circle.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dashmap::DashMap;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    task::JoinSet,
};

use crate::{
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{
        Address, ChosenShipping, Customer, Draft, Email, Invalid, Money, Order, OrderId, OrderStatus, Part, PartState,
        PaymentId, Quantity, Refusal, SaleId, ShortLine, SkuId, Ticket, TicketFault, Who,
    },
    flights::Flight,
    journal::Verdict,
    order::{self, Orders},
    room::{Pass, Rooms},
    shelf::{Buying, Hold, keeps},
    sku::{HoldError, Skus},
    store::entry::{Entry, Key, Line, Placement},
};

/// One line of a checkout, priced by the shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedLine {
    /// What.
    pub sku_id: SkuId,
    /// How many, 1 or more.
    pub quantity: i64,
    /// At what price each.
    pub unit_price: Money,
    /// In which sale; none: at its usual price.
    pub sale_id: Option<SaleId>,
}

/// A buyer's wish, quoted: every line a different SKU.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// Whose key: a member, or `guest`.
    pub principal: String,
    /// The client's idempotency key.
    pub key: String,
    /// SHA-256 of everything the client asked for.
    pub fingerprint: [u8; 32],
    /// What is bought.
    pub lines: Vec<PricedLine>,
    /// How it is sent, where that was chosen.
    pub shipping: Option<ChosenShipping>,
    /// What it costs together, shipping included.
    pub total: Money,
    /// Whose it is.
    pub email: Email,
    /// Where it goes.
    pub ship_to: Address,
    /// The provider to announce the payment to at once.
    pub payment: Option<String>,
    /// What a sale with a waiting room asks for.
    pub ticket: Option<Ticket>,
}

impl Checkout {
    /// How a line was quoted, and whose limit it counts against: every buyer is a guest so far, known by the mailbox.
    pub(crate) fn buying(&self, line: &PricedLine) -> Buying {
        line.sale_id.map_or(Buying::Usual, |sale_id| Buying::InSale(sale_id, Customer::guest(&self.email)))
    }

    /// The last look before anything is decided: a line that names its SKU again would wait for its own promise, and a
    /// total that is not its lines' and its shipping's would be charged.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let mut sku_ids: Vec<SkuId> = self.lines.iter().map(|line| line.sku_id).collect();
        sku_ids.sort_unstable();
        sku_ids.dedup();
        if sku_ids.is_empty() || sku_ids.len() < self.lines.len() {
            return Err(Invalid::new("lines", "is a list of different SKUs, one at least"));
        }
        let mut total = Money::new(0, self.total.currency);
        for line in &self.lines {
            let units = Quantity::new(line.quantity)?.units();
            let sum = line.unit_price.times(units).and_then(|price| total.plus(price));
            total = sum.map_err(|error| Invalid::new("lines", error.to_string()))?;
        }
        if let Some(shipping) = &self.shipping {
            total = total.plus(shipping.price).map_err(|error| Invalid::new("shipping", error.to_string()))?;
        }
        if total != self.total {
            return Err(Invalid::new("total", format!("is not what the lines and their shipping cost, {total}")));
        }
        Ok(())
    }
}

/// A checkout that is in Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The order.
    pub order_id: OrderId,
    /// `awaiting_payment`, or `confirmed` where there was nothing to pay.
    pub status: OrderStatus,
    /// When its lines are given back unless it is paid.
    pub hold_expires_at: DateTime<Utc>,
    /// The payment that was announced with it.
    pub payment_id: Option<PaymentId>,
}

/// How a checkout ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Placed(Placed),
    /// The key was used before.
    KeyTaken,
}

/// What became of a saga's entry.
enum Settled {
    /// The buyer has been told.
    Told(Verdict),
    /// Nothing was written: it is to be decided again, and this is who waits.
    Stale(Buyer),
}

/// Who waits for a checkout. It travels in the entry: should the saga die, or whoever asked have left, it stays until it is
/// known what became of it.
struct Buyer {
    reply: Reply,
    /// Leave to buy, once it was given: kept while it is decided again, for its time may be over by then.
    pass: Option<Pass>,
    /// Retries wait until it is dropped: after everything that would stand in their way.
    flight: Flight,
    /// Its place among those that the shop lets in.
    permit: OwnedSemaphorePermit,
}

impl Buyer {
    /// The last word.
    fn tell(self, answer: Result<Outcome, Refusal>) {
        let Self { reply, pass, flight, permit } = self;
        if let (Some(pass), Ok(Outcome::Placed(_))) = (pass, &answer) {
            pass.bought();
        }
        drop((flight, permit)); // whoever hears may ask again at once
        reply.send(answer).ok();
    }
}

type Reply = oneshot::Sender<Result<Outcome, Refusal>>;

pub(crate) struct Begin {
    pub checkout: Box<Checkout>,
    /// Keeps retries waiting until it is known what became of this one.
    pub flight: Flight,
    /// Taken before anything was decided; given back when it is known what became of it.
    pub permit: OwnedSemaphorePermit,
    pub reply: Reply,
}

/// Numbers that an order needs which is announced to a provider at once: its own, its payment's, its task's, and some.
const IDS: i64 = 8;
/// Numbers that any other order needs: its own, and one to be looked at again by, where a sale has no room for it.
const PLAIN_IDS: i64 = 2;

/// How many coordinators share the sagas.
const COORDINATORS: usize = 4;

/// What the engine holds of the coordinators.
pub(crate) struct Checkouts {
    directory: Arc<Directory<Coordinator>>,
    turn: AtomicUsize,
}

impl Checkouts {
    pub(crate) fn new(directory: Arc<Directory<Coordinator>>) -> Self {
        Self { directory, turn: AtomicUsize::new(0) }
    }

    /// Hands a checkout to a coordinator.
    pub(crate) async fn begin(
        &self,
        checkout: Checkout,
        flight: Flight,
        permit: OwnedSemaphorePermit,
    ) -> Result<Outcome, Refusal> {
        let which = self.turn.fetch_add(1, Ordering::Relaxed) % COORDINATORS + 1;
        let checkout = Box::new(checkout);
        self.directory.ask(which, |reply| Begin { checkout, flight, permit, reply }).await
    }
}

/// How coordinators are started.
pub(crate) struct Coordinator {
    pub context: Arc<Context>,
    pub skus: Skus,
    pub orders: Orders,
    pub rooms: Rooms,
}

/// The sagas that one coordinator carries, for the tree.
#[derive(Default)]
pub(crate) struct Carried {
    sagas: DashMap<u64, (&'static str, DateTime<Utc>)>,
    next: AtomicU64,
}

#[async_trait]
impl Kind for Coordinator {
    const NAME: &'static str = "checkouts";
    const ONE: &'static str = "coordinator";
    const MAILBOX: usize = 65_536;
    const ESCALATES: bool = true;
    type Key = usize;
    type Msg = Begin;
    type Shared = Arc<Carried>;

    fn shared(&self, _: usize) -> Arc<Carried> {
        Arc::default()
    }

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let carrier = Carrier {
            context: Arc::clone(&self.context),
            skus: self.skus.clone(),
            orders: self.orders.clone(),
            rooms: self.rooms.clone(),
            carried: Arc::clone(&cell.shared),
        };
        let spawned = Actor::spawn_linked(None, carrier, (), supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, _: &Arc<Carried>) -> bool {
        false
    }

    fn detail(&self, carried: &Arc<Carried>) -> Option<serde_json::Value> {
        let some: Vec<_> =
            carried.sagas.iter().take(20).map(|saga| json!({ "step": saga.0, "since": saga.1 })).collect();
        Some(json!({ "carries": carried.sagas.len(), "sagas": some }))
    }
}

struct Carrier {
    context: Arc<Context>,
    skus: Skus,
    orders: Orders,
    rooms: Rooms,
    carried: Arc<Carried>,
}

impl Actor for Carrier {
    type Msg = Envelope<Coordinator>;
    /// Sagas under way: a coordinator that dies takes its sagas along, and their holds drop.
    type State = JoinSet<()>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<JoinSet<()>, ActorProcessingErr> {
        Ok(JoinSet::new())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        sagas: &mut JoinSet<()>,
    ) -> Result<(), ActorProcessingErr> {
        let (begin, _ticket) = envelope.open();
        while sagas.try_join_next().is_some() {}
        let saga = Saga {
            context: Arc::clone(&self.context),
            skus: self.skus.clone(),
            orders: self.orders.clone(),
            rooms: self.rooms.clone(),
            line: CarriedLine::new(&self.carried, self.context.clock.now()),
        };
        sagas.spawn(saga.run(begin));
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, sagas: &mut JoinSet<()>) -> Result<(), ActorProcessingErr> {
        while sagas.join_next().await.is_some() {}
        Ok(())
    }
}

/// A saga's line in its coordinator's list.
struct CarriedLine {
    carried: Arc<Carried>,
    number: u64,
}

impl CarriedLine {
    fn new(carried: &Arc<Carried>, now: DateTime<Utc>) -> Self {
        let number = carried.next.fetch_add(1, Ordering::Relaxed);
        carried.sagas.insert(number, ("holding", now));
        Self { carried: Arc::clone(carried), number }
    }

    fn step(&self, step: &'static str) {
        if let Some(mut line) = self.carried.sagas.get_mut(&self.number) {
            line.0 = step;
        }
    }
}

impl Drop for CarriedLine {
    fn drop(&mut self) {
        self.carried.sagas.remove(&self.number);
    }
}

struct Saga {
    context: Arc<Context>,
    skus: Skus,
    orders: Orders,
    rooms: Rooms,
    line: CarriedLine,
}

impl Saga {
    async fn run(self, begin: Begin) {
        let Begin { checkout, flight, permit, reply } = begin;
        let mut buyer = Buyer { reply, pass: None, flight, permit };
        let faults = &self.context.faults;
        faults.hit("checkout.begun", "");
        for last in [false, true] {
            let held = tokio::select! {
                held = self.pass_and_hold(&checkout, &mut buyer.pass) => held,
                () = buyer.reply.closed() => return, // the buyer has left: nothing is decided, and the holds drop
            };
            let holds = match held {
                Ok(holds) => holds,
                Err(refusal) => return buyer.tell(Err(refusal)),
            };
            faults.hit("checkout.held", "");
            self.line.step("committing");
            let ids = match self.context.ids.take(if checkout.payment.is_some() { IDS } else { PLAIN_IDS }).await {
                Ok(ids) => ids,
                Err(refusal) => {
                    drop(holds);
                    return buyer.tell(Err(refusal));
                }
            };
            let (placed, mut entry, order) = self.write(&checkout, holds, ids);
            if let Some(pass) = &buyer.pass {
                entry.changes.get_or_insert_default().ticket = Some(pass.used_for(placed.order_id));
            }
            self.context.retries.note_key(&checkout.principal, &checkout.key);
            let Some(settled) = self.append(entry, &placed, order, buyer).await else { return };
            match settled {
                Settled::Told(Verdict::Committed) => return self.go_on(&placed).await,
                Settled::Told(_) => return,
                Settled::Stale(back) if last => return back.tell(Err(Refusal::Busy)),
                // a sale has changed, begun or ended between the promise and the commit: decided again, once
                Settled::Stale(back) => buyer = back,
            }
            self.line.step("holding");
            if let Err(refusal) = self.recount(&checkout).await {
                return buyer.tell(Err(refusal));
            }
        }
    }

    /// Appends the entry and waits for what becomes of it. None: nobody will know any more.
    async fn append(&self, entry: Entry, placed: &Placed, order: Option<Order>, buyer: Buyer) -> Option<Settled> {
        let (tell, hear) = oneshot::channel();
        let (placed, orders) = (placed.clone(), self.orders.clone());
        let done = move |verdict| {
            // before anybody hears: the buyer's next word may wake its actor
            if let Some(order) = order.filter(|_| verdict == Verdict::Committed) {
                orders.leave(order);
            }
            let settled = if verdict == Verdict::Stale {
                Settled::Stale(buyer)
            } else {
                buyer.tell(outcome(verdict, placed));
                Settled::Told(verdict)
            };
            tell.send(settled).ok();
        };
        // superseded: the reply has dropped, and its asker says so
        self.context.journal.append(entry, done).await.ok()?;
        self.context.faults.hit("checkout.appended", "");
        hear.await.ok()
    }

    async fn go_on(&self, placed: &Placed) {
        self.context.faults.hit("checkout.committed", "");
        if placed.payment_id.is_some() {
            self.line.step("announcing the payment");
            self.orders.tell(placed.order_id, order::Msg::Work).await;
        }
    }

    /// Has everything counted afresh that a sale has given of these SKUs.
    async fn recount(&self, checkout: &Checkout) -> Result<(), Refusal> {
        for line in checkout.lines.iter().filter(|line| line.sale_id.is_some()) {
            self.skus.recount(line.sku_id).await?;
        }
        Ok(())
    }

    /// What is needed before anything is written; what was held is given back with an error.
    async fn pass_and_hold(&self, checkout: &Checkout, pass: &mut Option<Pass>) -> Result<Vec<Hold>, Refusal> {
        if pass.is_none() {
            *pass = self.pass(checkout).await?;
        }
        self.hold(checkout).await
    }

    /// A sale with a waiting room sells to those whom it has called.
    async fn pass(&self, checkout: &Checkout) -> Result<Option<Pass>, Refusal> {
        let Some(sale_id) = self.room(checkout)? else { return Ok(None) };
        let ticket = checkout.ticket.ok_or(TicketFault::Required)?;
        if ticket.sale_id != sale_id {
            return Err(TicketFault::Invalid.into());
        }
        self.rooms.pass(sale_id, ticket.number).await.map(Some)
    }

    /// The sale whose waiting room stands before these lines, if one does.
    fn room(&self, checkout: &Checkout) -> Result<Option<SaleId>, Invalid> {
        let bought_in = checkout.lines.iter().filter_map(|line| self.context.sales.get(line.sale_id?));
        let mut rooms: Vec<SaleId> = bought_in.filter(|sale| sale.waiting_room).map(|sale| sale.id).collect();
        rooms.dedup();
        match rooms[..] {
            [] => Ok(None),
            [sale_id] => Ok(Some(sale_id)),
            _ => Err(Invalid::new("lines", "are of several sales with waiting rooms: order them apart")),
        }
    }

    /// Holds every line, or names every line that cannot be had; what was held is given back with the error.
    async fn hold(&self, checkout: &Checkout) -> Result<Vec<Hold>, Refusal> {
        let mut holds = Vec::with_capacity(checkout.lines.len());
        let mut short = Vec::new();
        let mut by_sku: Vec<&PricedLine> = checkout.lines.iter().collect();
        by_sku.sort_unstable_by_key(|line| line.sku_id);
        for line in by_sku {
            match self.skus.hold_for(checkout.buying(line), line.sku_id, line.quantity).await {
                Ok(hold) if !is_priced_right(&hold, line.unit_price) => {
                    return Err(Refusal::OfferChanged { sku_id: line.sku_id });
                }
                Ok(hold) => holds.push(hold),
                Err(HoldError::SoldOut { available }) => {
                    short.push(ShortLine { sku_id: line.sku_id, requested: line.quantity, available });
                }
                Err(HoldError::Refused(Refusal::NotFound(_))) => {
                    return Err(Invalid::new("lines", format!("there is no SKU {}", line.sku_id)).into());
                }
                Err(HoldError::Refused(refusal) | HoldError::NotOffered(refusal)) => return Err(refusal),
            }
        }
        if short.is_empty() { Ok(holds) } else { Err(Refusal::OutOfStock(short)) }
    }

    /// The one entry that places the order; and the order as it will be then, where a payment begins with it.
    fn write(&self, checkout: &Checkout, holds: Vec<Hold>, mut ids: Range<i64>) -> (Placed, Entry, Option<Order>) {
        let at = self.context.clock.now();
        let order_id = OrderId(ids.next().expect("two at least were taken"));
        let free = checkout.total.minor == 0;
        let (status, state) = if free {
            (OrderStatus::Confirmed, PartState::Committed)
        } else {
            (OrderStatus::AwaitingPayment, PartState::Held)
        };
        let deadline = if free { at } else { at + keeps(&holds, self.context.policy.hold) };
        let mut entry = Entry::new(at, Who::Buyer);
        if holds.iter().any(|hold| hold.sale().is_some()) {
            entry.look_id = ids.next().expect("two at least were taken");
        }
        entry.key = Some(Key {
            principal: checkout.principal.clone(),
            key: checkout.key.clone(),
            route: "checkout",
            fingerprint: checkout.fingerprint,
            ref_id: order_id.0,
        });
        entry.place = Some(Box::new(Placement {
            order_id,
            email: checkout.email.as_str().to_owned(),
            address: text(&checkout.ship_to),
            currency: checkout.total.currency.to_string(),
            total_minor: checkout.total.minor,
            shipping_minor: checkout.shipping.as_ref().map_or(0, |shipping| shipping.price.minor),
            shipping: checkout.shipping.as_ref().map(|shipping| text(&shipping.service)),
            deadline,
            status,
        }));
        entry.lines = lines(order_id, checkout, holds, state);
        let mut placed = Placed { order_id, status, hold_expires_at: deadline, payment_id: None };
        let provider = checkout.payment.as_deref().filter(|_| !free);
        let order = provider.and_then(|provider| self.begin_payment(&mut entry, &placed, checkout, provider, ids));
        placed.payment_id = order.as_ref().and_then(|order| order.payments.first()).map(|payment| payment.id);
        (placed, entry, order)
    }

    /// A payment that begins with its order: same entry, same commit.
    fn begin_payment(
        &self,
        entry: &mut Entry,
        placed: &Placed,
        checkout: &Checkout,
        provider: &str,
        ids: Range<i64>,
    ) -> Option<Order> {
        let order = new_order(placed, checkout, entry);
        let mut draft = Draft::new(&order, entry.at, &self.context.policy, ids);
        draft.pay(provider).ok()?;
        let (begun, mut changes) = draft.finish();
        changes.order = None; // it is being placed: there is no row to move yet
        entry.changes = Some(Box::new(changes));
        Some(Order { version: order.version, ..begun })
    }
}

/// Whether a line that is bought in a sale was quoted at the sale's price. Usual prices are the shop's own.
fn is_priced_right(hold: &Hold, quoted: Money) -> bool {
    let item = hold.sale().and_then(|sale| sale.item(hold.sku_id()));
    item.is_none_or(|item| item.price(quoted.currency) == Some(quoted))
}

/// As JSON.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("its keys are names, and nothing in it can fail")
}

/// The lines in the order in which they were asked for, each with its hold.
fn lines(order_id: OrderId, checkout: &Checkout, holds: Vec<Hold>, state: PartState) -> Vec<Line> {
    let mut by_sku: Vec<(i32, &PricedLine)> = (0..).zip(&checkout.lines).collect();
    by_sku.sort_unstable_by_key(|(_, line)| line.sku_id);
    let line = |((number, line), hold): ((i32, &PricedLine), Hold)| Line {
        order_id,
        part: number,
        line: number,
        unit_price_minor: line.unit_price.minor,
        state,
        hold,
    };
    by_sku.into_iter().zip(holds).map(line).collect()
}

/// The order as this entry places it.
fn new_order(placed: &Placed, checkout: &Checkout, entry: &Entry) -> Order {
    let part = |line: &Line| Part {
        part: line.part,
        line: line.line,
        sku_id: line.hold.sku_id(),
        quantity: line.hold.units(),
        unit_price_minor: line.unit_price_minor,
        state: line.state,
        split_of: None,
        share: line.hold.share(),
    };
    let mut parts: Vec<Part> = entry.lines.iter().map(part).collect();
    parts.sort_unstable_by_key(|part| part.part);
    Order {
        id: placed.order_id,
        version: 1,
        last_event: 1,
        status: placed.status,
        hold_reason: None,
        deadline: placed.hold_expires_at,
        hold_ends_at: None,
        created_at: entry.at,
        total: checkout.total,
        shipping_minor: checkout.shipping.as_ref().map_or(0, |shipping| shipping.price.minor),
        service: checkout.shipping.as_ref().map(|shipping| shipping.service.clone()),
        email: checkout.email.clone(),
        ship_to: checkout.ship_to.clone(),
        parts,
        payments: Vec::new(),
        refunds: Vec::new(),
        tasks: Vec::new(),
        shipments: Vec::new(),
        returns: Vec::new(),
    }
}

fn outcome(verdict: Verdict, placed: Placed) -> Result<Outcome, Refusal> {
    match verdict {
        Verdict::Committed => Ok(Outcome::Placed(placed)),
        Verdict::KeyTaken => Ok(Outcome::KeyTaken),
        Verdict::Superseded => Err(Refusal::Superseded),
        Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
    }
}
