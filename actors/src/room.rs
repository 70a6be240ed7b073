//! The waiting room of a sale: one actor a room, and the only one that gives numbers, draws the places and calls.
//!
//! What it decides is committed before anybody hears of it, and its state is a few rows, so an engine that dies forgets
//! nobody's place and calls nobody twice. Joining writes nothing: numbers come from leased blocks, and the ticket that the
//! shop signs is the proof of one. Who asks where they stand, or wants to buy, asks the [`Lobby`], not the actor: however
//! many join, nobody who was called waits behind them.
//!
//! The reconciler has it look around several times a second: at the clock, for the start and for calls that were not used,
//! and at the stock, for those that come next. With each look those who listen are told, once, of all that has changed.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};

use crate::{
    clock::Clock,
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{
        Draw, LineState, OrderId, Refusal, Room, Sale, SaleId, SalePhase, Sessions, TicketFault, Who,
        change::{Changes, RoomMove, TicketUse},
    },
    error,
    journal::{Condition, Verdict},
    sku::Skus,
    store::{entry::Entry, load},
};

/// Numbers that are leased at once. Twice as many with every lease, up to the most, and half as many with every look: a
/// crowd costs a few commits a look, and where it is calm few places stay empty when an engine is killed.
const FEWEST: i64 = 64;
const MOST: i64 = 8_192;
/// Those who may be joining at the same time; the rest of the mailbox is for looks.
const JOINING: usize = 65_536;

/// A client's session, as the shop's hash of what the client keeps to itself.
pub type Session = [u8; 16];

type Reply<R> = oneshot::Sender<Result<R, Refusal>>;

pub(crate) enum Msg {
    /// Give a session its number: the one it has, or the next.
    Join { session: Session, reply: Reply<i64> },
    /// Look around.
    Look(Option<OneLook>),
}

/// A look that waits in the mailbox, and no second one beside it: until it is begun, or lost with a crashed actor.
pub(crate) struct OneLook(Arc<Lobby>);

impl OneLook {
    fn at(lobby: &Arc<Lobby>) -> Option<Self> {
        (!lobby.awaits_look.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(lobby)))
    }
}

impl Drop for OneLook {
    fn drop(&mut self) {
        self.0.awaits_look.store(false, Ordering::Release);
    }
}

/// What there is to buy in the sale, as committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Units that can be had now.
    pub available: i64,
    /// Units in unpaid orders: they come back where their holds lapse.
    pub may_return: i64,
    /// Nothing is left and nothing can come back: nobody else is called.
    pub sold_out: bool,
    /// The sale is over, or has no waiting room any more.
    pub over: bool,
}

const OVER: Outlook = Outlook { available: 0, may_return: 0, sold_out: false, over: true };

/// Where somebody stands, and what there is to hope for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomView {
    /// In line.
    pub standing: LineState,
    /// About how long it takes until the turn comes, by the pace so far.
    pub wait: Option<TimeDelta>,
    /// What there is.
    pub outlook: Outlook,
}

/// What a room's actor shares with those who ask: everything committed, and who is buying right now.
pub(crate) struct Lobby {
    sale_id: SaleId,
    inner: Mutex<Inner>,
    /// Grows with everything that can change somebody's view.
    news: watch::Sender<u64>,
    awaits_look: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// As last committed; none before the first load.
    room: Option<Room>,
    /// Numbers below this are leased.
    leased: i64,
    sessions: Sessions,
    /// Places whose checkouts are on their way.
    buying: HashSet<i64>,
    outlook: Outlook,
    /// Something has changed that those who listen have not been told.
    untold: bool,
}

impl Lobby {
    fn new(sale_id: SaleId) -> Arc<Self> {
        let (inner, news) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { sale_id, inner, news, awaits_look: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }

    fn is_open(&self) -> bool {
        self.lock().room.is_some()
    }

    fn open(&self, room: Room) {
        let mut inner = self.lock();
        inner.leased = room.given;
        inner.room = Some(room);
    }

    fn change<R>(&self, how: impl FnOnce(&mut Inner, &mut Room) -> R) -> R {
        let mut inner = self.lock();
        let mut room = inner.room.take().unwrap_or_default();
        let answer = how(&mut inner, &mut room);
        inner.room = Some(room);
        answer
    }

    /// Leave to buy for whoever has this number, if it was called.
    fn pass(self: &Arc<Self>, number: i64, now: DateTime<Utc>) -> Result<Pass, Refusal> {
        self.change(|inner, room| match room.standing(number) {
            LineState::Admitted { until } if now < until => {
                let place = room.place(number).unwrap_or_default();
                if !inner.buying.insert(place) {
                    return Err(Refusal::Busy); // somebody buys with it, and may come away with nothing
                }
                Ok(Pass { lobby: Arc::clone(self), place, bought: false })
            }
            LineState::Admitted { .. } | LineState::Lapsed => Err(TicketFault::Expired.into()),
            LineState::Used => Err(TicketFault::Used.into()),
            LineState::BeforeTheDraw | LineState::Waiting { .. } => Err(TicketFault::NotAdmitted.into()),
        })
    }

    fn foresee(&self, outlook: Outlook) {
        let mut inner = self.lock();
        inner.untold |= inner.outlook != outlook;
        inner.outlook = outlook;
        drop(inner);
        self.tell();
    }

    /// Tells those who listen, if there is anything to tell.
    fn tell(&self) {
        if std::mem::take(&mut self.lock().untold) {
            self.news.send_modify(|news| *news += 1);
        }
    }
}

/// A number in line: where it stands, now and whenever that may have changed.
pub struct InLine {
    pub(crate) lobby: Arc<Lobby>,
    pub(crate) number: i64,
    /// When the sale starts; none once it is over.
    pub(crate) starts_at: Option<DateTime<Utc>>,
    pub(crate) clock: Clock,
}

impl InLine {
    /// Where it stands.
    #[must_use]
    pub fn view(&self) -> RoomView {
        let inner = self.lobby.lock();
        let Some(room) = &inner.room else {
            return RoomView { standing: LineState::BeforeTheDraw, wait: None, outlook: inner.outlook };
        };
        let standing = room.standing(self.number);
        let wait = match (standing, self.starts_at) {
            (LineState::Waiting { ahead }, Some(starts_at)) => room.wait(ahead, self.clock.now() - starts_at),
            _ => None,
        };
        RoomView { standing, wait, outlook: inner.outlook }
    }

    /// Grows whenever something has changed; a purchase is told with the room's next look.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.lobby.news.subscribe()
    }

    /// How many listen to this room's news.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.lobby.news.receiver_count()
    }
}

/// What the engine holds of all waiting rooms.
#[derive(Clone)]
pub(crate) struct Rooms(pub Arc<Directory<Waiting>>);

impl Rooms {
    /// A session's number in a room.
    pub(crate) async fn join(&self, sale_id: SaleId, session: Session) -> Result<i64, Refusal> {
        if self.0.find(sale_id).is_some_and(|cell| cell.depth() >= JOINING) {
            return Err(Refusal::Busy);
        }
        self.0.ask(sale_id, |reply| Msg::Join { session, reply }).await
    }

    /// Leave to buy, for one checkout.
    pub(crate) async fn pass(&self, sale_id: SaleId, number: i64) -> Result<Pass, Refusal> {
        let lobby = self.lobby(sale_id).await?;
        lobby.pass(number, self.0.kind.context.clock.now())
    }

    /// The room's lobby, opened where nobody has been in yet.
    pub(crate) async fn lobby(&self, sale_id: SaleId) -> Result<Arc<Lobby>, Refusal> {
        let find = || self.0.find(sale_id).map(|cell| Arc::clone(&cell.shared)).filter(|lobby| lobby.is_open());
        if let Some(lobby) = find() {
            return Ok(lobby);
        }
        self.0.send(sale_id, Msg::Look(None)).await?;
        find().ok_or(Refusal::NotFound("waiting room"))
    }

    /// Has an open room look around, however much it has to do; one look at a time waits for that. That its sale is over, or
    /// has no room any more, is told at once, whatever the room or Postgres is busy with.
    pub(crate) async fn look(&self, sale_id: SaleId) {
        let Some(cell) = self.0.find(sale_id).filter(|cell| cell.shared.is_open()) else { return };
        if open_sale(&self.0.kind.context, sale_id).is_none() {
            cell.shared.foresee(OVER);
        } else if let Some(one) = OneLook::at(&cell.shared) {
            self.0.send(sale_id, Msg::Look(Some(one))).await.ok();
        }
    }

    /// Whether all who are in a room know that its sale is over.
    pub(crate) fn know_the_end(&self, sale_id: SaleId) -> bool {
        self.0.find(sale_id).is_none_or(|cell| !cell.shared.is_open() || cell.shared.lock().outlook.over)
    }
}

/// The sale of a room, unless it is over or has no room any more.
fn open_sale(context: &Context, sale_id: SaleId) -> Option<Arc<Sale>> {
    context.sales.get(sale_id).filter(|sale| sale.waiting_room && sale.is_open(context.clock.now()))
}

/// Leave to buy: dropped before the order is in Postgres it is as if it had not been given.
pub(crate) struct Pass {
    lobby: Arc<Lobby>,
    place: i64,
    bought: bool,
}

impl Pass {
    /// The row that uses it up, in the entry of the order.
    pub(crate) fn used_for(&self, order_id: OrderId) -> TicketUse {
        TicketUse { sale_id: self.lobby.sale_id, place: self.place, order_id }
    }

    /// The order is in Postgres.
    pub(crate) fn bought(mut self) {
        self.bought = true;
    }
}

impl Drop for Pass {
    /// The journal's announcer may come by here: it wakes nobody.
    fn drop(&mut self) {
        self.lobby.change(|inner, room| {
            inner.buying.remove(&self.place);
            if self.bought {
                room.used.insert(self.place);
                inner.untold = true;
            }
        });
    }
}

/// How waiting rooms are started.
pub(crate) struct Waiting {
    pub context: Arc<Context>,
    pub skus: Skus,
}

#[async_trait]
impl Kind for Waiting {
    const NAME: &'static str = "rooms";
    const ONE: &'static str = "room";
    const MAILBOX: usize = JOINING + 1_024;
    const ESCALATES: bool = false;
    type Key = SaleId;
    type Msg = Msg;
    type Shared = Arc<Lobby>;

    fn shared(&self, key: SaleId) -> Arc<Lobby> {
        Lobby::new(key)
    }

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let sale = self.context.sales.get(cell.key);
        sale.filter(|sale| sale.waiting_room).ok_or(Refusal::NotFound("waiting room"))?;
        if !cell.shared.is_open() {
            let now = self.context.clock.now();
            let room = load::rooms::room(&self.context.pool, cell.key, now).await;
            cell.shared.open(room.map_err(|error| error::refusal(&error))?);
        }
        let keeper =
            Keeper { context: Arc::clone(&self.context), skus: self.skus.clone(), lobby: Arc::clone(&cell.shared) };
        let spawned = Actor::spawn_linked(None, keeper, (), supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, lobby: &Arc<Lobby>) -> bool {
        let inner = lobby.lock();
        inner.outlook.over && inner.buying.is_empty()
    }

    fn detail(&self, lobby: &Arc<Lobby>) -> Option<serde_json::Value> {
        let inner = lobby.lock();
        let room = inner.room.as_ref()?;
        Some(serde_json::json!({
            "given": room.given, "drawn": room.draw.as_ref().map(Draw::count), "called": room.called,
            "on_their_way": room.on_their_way(&inner.buying), "bought": room.used.len(), "sold_out": inner.outlook.sold_out,
        }))
    }
}

struct Keeper {
    context: Arc<Context>,
    skus: Skus,
    lobby: Arc<Lobby>,
}

impl Actor for Keeper {
    type Msg = Envelope<Waiting>;
    /// How many numbers are leased next.
    type State = i64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<i64, ActorProcessingErr> {
        Ok(FEWEST)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        block: &mut i64,
    ) -> Result<(), ActorProcessingErr> {
        let (msg, _ticket) = envelope.open();
        match msg {
            Msg::Join { session, reply } => drop(reply.send(self.join(session, block).await)),
            Msg::Look(one) => {
                drop(one); // what changes from here on is for the next look
                self.look().await;
                *block = (*block / 2).max(FEWEST);
                self.give_back(*block).await;
            }
        }
        Ok(())
    }

    /// After an orderly stop no place stays empty.
    async fn post_stop(&self, _: ActorRef<Self::Msg>, _: &mut i64) -> Result<(), ActorProcessingErr> {
        self.give_back(0).await;
        Ok(())
    }
}

impl Keeper {
    async fn join(&self, session: Session, block: &mut i64) -> Result<i64, Refusal> {
        let sale = open_sale(&self.context, self.lobby.sale_id).ok_or(Refusal::NotFound("waiting room"))?;
        let known = self.lobby.change(|inner, room| {
            // who has bought, or let the turn pass, may stand in line again
            let stands = |number: &i64| !matches!(room.standing(*number), LineState::Used | LineState::Lapsed);
            inner.sessions.number(session).filter(stands)
        });
        if let Some(number) = known {
            return Ok(number);
        }
        if sale.phase(self.context.clock.now()) == SalePhase::Running {
            self.draw().await?; // nobody who comes after the start takes part
        }
        let (waiting, full) = self.lobby.change(|inner, room| (room.given - room.called, room.given == inner.leased));
        if waiting >= self.context.rooms.most {
            return Err(Refusal::Busy);
        }
        if full {
            self.lease(*block).await?;
            *block = (*block * 2).min(MOST);
        }
        Ok(self.lobby.change(|inner, room| {
            let number = room.given;
            room.given += 1;
            inner.sessions.give(session, number);
            number
        }))
    }

    /// The clock and the stock: the draw when the sale has started, and then whoever comes next. What cannot be committed now
    /// is decided again with the next look.
    async fn look(&self) {
        let sale = open_sale(&self.context, self.lobby.sale_id);
        let Some(sale) = sale else { return self.lobby.foresee(OVER) };
        let now = self.context.clock.now();
        // in this order: who buys meanwhile is counted with the units that were there before
        let on_their_way = self.lapse(now);
        let outlook = self.outlook(&sale, now);
        self.lobby.foresee(outlook);
        if sale.phase(now) == SalePhase::Running && self.is_drawn() {
            self.call(outlook.available - on_their_way, now).await.ok();
        } else if sale.phase(now) == SalePhase::Running {
            self.draw().await.ok(); // it may wait for Postgres for long: the next look calls
        }
        self.lobby.tell();
    }

    /// Forgets calls whose time is over; how many are still on their way.
    fn lapse(&self, now: DateTime<Utc>) -> i64 {
        self.lobby.change(|inner, room| {
            let before = room.calls.len();
            room.lapse(now);
            inner.untold |= room.calls.len() < before;
            room.on_their_way(&inner.buying)
        })
    }

    /// What there is: of each SKU no more than the sale has left of it. What may come back to it are its own unpaid orders, and
    /// others as far as it has something left that is not there.
    fn outlook(&self, sale: &Sale, now: DateTime<Utc>) -> Outlook {
        let (mut available, mut may_return, mut all_known) = (0, 0, true);
        for item in &sale.items {
            let Some((counters, sold)) = self.skus.committed_in(item.sku_id, sale.id) else {
                all_known = false; // its actor is being woken
                continue;
            };
            let left = (item.quantity - sold.units).max(0);
            let there = counters.available().clamp(0, left);
            available += there;
            may_return += sold.unpaid + (counters.unpaid - sold.unpaid).clamp(0, left - there);
        }
        let running = sale.phase(now) == SalePhase::Running;
        Outlook { available, may_return, sold_out: running && all_known && available + may_return == 0, over: false }
    }

    /// From now on numbers up to so many more are given. Where these are fewer than before, that holds before it is known
    /// whether it was committed.
    async fn lease(&self, block: i64) -> Result<(), Refusal> {
        let leased = self.lobby.change(|inner, room| {
            let leased = room.given + block;
            inner.leased = inner.leased.min(leased);
            leased
        });
        self.commit(RoomMove { given: leased, ..self.as_it_is() }).await?;
        self.lobby.lock().leased = leased;
        Ok(())
    }

    /// Keeps so many numbers of what is leased; once the sale is over they mean nothing.
    async fn give_back(&self, block: i64) {
        let too_many = self.lobby.change(|inner, room| inner.leased > room.given + block && !inner.outlook.over);
        if too_many {
            self.lease(block).await.ok(); // they stay empty, or are given back with the next look
        }
    }

    /// Draws, once: from a number that nobody could know or choose before, for the hasher's keys are the system's randomness.
    async fn draw(&self) -> Result<(), Refusal> {
        let Some(given) = self.lobby.change(|_, room| room.draw.is_none().then_some(room.given)) else { return Ok(()) };
        let seed = RandomState::new().hash_one(self.lobby.sale_id.0).cast_signed();
        let draw = Draw::new(seed, given);
        self.commit(RoomMove { drawn: Some((seed, given)), ..self.as_it_is() }).await?;
        self.lobby.change(|inner, room| {
            room.draw = Some(draw);
            inner.untold = true;
        });
        Ok(())
    }

    fn is_drawn(&self) -> bool {
        self.lobby.change(|_, room| room.draw.is_some())
    }

    /// Calls so many more, if they wait; nobody while Postgres is away, for no one could buy before the turn has gone by.
    async fn call(&self, units: i64, now: DateTime<Utc>) -> Result<(), Refusal> {
        if self.context.journal.condition() == Condition::Away {
            return Ok(());
        }
        let until = now + self.context.rooms.admission;
        let Some(call) = self.lobby.change(|_, room| room.next_call(units, until)) else { return Ok(()) };
        let called = call.places.end;
        self.commit(RoomMove { called, call: Some(call.clone()), ..self.as_it_is() }).await?;
        self.lobby.change(|inner, room| {
            room.called = called;
            room.calls.push(call);
            inner.untold = true;
        });
        Ok(())
    }

    /// The room's row as it is in Postgres.
    fn as_it_is(&self) -> RoomMove {
        let inner = self.lobby.lock();
        let room = inner.room.as_ref();
        RoomMove {
            sale_id: self.lobby.sale_id,
            given: inner.leased,
            drawn: room.and_then(|room| room.draw.as_ref()).map(|draw| (draw.seed, draw.count())),
            called: room.map_or(0, |room| room.called),
            call: None,
        }
    }

    async fn commit(&self, row: RoomMove) -> Result<(), Refusal> {
        let mut entry = Entry::new(self.context.clock.now(), Who::Engine);
        entry.changes = Some(Box::new(Changes { rooms: vec![row], ..Changes::default() }));
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => Ok(()),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::KeyTaken | Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }
}
