//! The SKU actor: one a SKU, and the only one that promises its units.
//!
//! It owns the queue of those who wait; the book it promises from lies on a [`Shelf`] that outlives it. It decides from
//! memory and never waits for Postgres: a promise is settled later, by the journal, when the entry that keeps it is
//! committed or falls through.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{Counters, Refusal, Sale, SaleId, SkuId, Sold},
    error,
    faults::Faults,
    sales::Sales,
    shelf::{Buying, Hold, NoHold, ShareMove, Shelf, Wish},
    store::load,
};

/// Buyers that may wait for others' promises to settle; the next one is told to come back.
const WAITERS: usize = 4_096;

pub(crate) enum Msg {
    /// Promise this many units, or say why not.
    Hold { units: i64, buying: Option<Buying>, reply: oneshot::Sender<Result<Hold, HoldError>> },
    /// A promise has settled, or the counters have changed: look at the queue.
    Settled,
    /// Postgres is of another opinion about the sales that the SKU is in: count afresh,
    /// unless that was done since the counters were at this version.
    Recount { since: i64, reply: oneshot::Sender<Result<(), Refusal>> },
}

/// Why a SKU gives no promise.
#[derive(Debug)]
pub(crate) enum HoldError {
    /// Committed stock does not suffice.
    SoldOut { available: i64 },
    /// Not sold in this way, or not to this customer: a sale says so.
    NotOffered(Refusal),
    /// Unknown, busy or away.
    Refused(Refusal),
}

/// What the engine holds of all SKU actors.
#[derive(Clone)]
pub(crate) struct Skus(pub Arc<Directory<Sku>>);

impl Skus {
    /// Takes `units` of a SKU away, whatever they are set aside for.
    pub(crate) async fn hold(&self, sku_id: SkuId, units: i64) -> Result<Hold, HoldError> {
        self.ask(sku_id, units, None).await
    }

    /// Promises `units` of a SKU to a buyer, as they were quoted.
    pub(crate) async fn hold_for(&self, buying: Buying, sku_id: SkuId, units: i64) -> Result<Hold, HoldError> {
        self.ask(sku_id, units, Some(buying)).await
    }

    /// What is final — sold out against committed stock, a limit reached — is said at once, without a word to the actor;
    /// where only unsettled promises stand in the way, waits until they settle, in order of arrival.
    async fn ask(&self, sku_id: SkuId, units: i64, buying: Option<Buying>) -> Result<Hold, HoldError> {
        if let Some(cell) = self.0.find(sku_id)
            && let Some(no) = self.0.kind.refuses(&cell.shared, units, buying)
        {
            return Err(no);
        }
        let (reply, answer) = oneshot::channel();
        self.0.send(sku_id, Msg::Hold { units, buying, reply }).await.map_err(HoldError::Refused)?;
        // an actor that died before it answered has promised nothing: promises are guards, and this one was dropped
        answer.await.unwrap_or(Err(HoldError::Refused(Refusal::Away("its actor has crashed"))))
    }

    /// Whether `units` can be had, as far as that is final and known in memory: what could be had where it is less. None where
    /// nobody is in, or where something else than "sold out" is to be said. Nobody is woken for it.
    pub(crate) fn short_of(&self, sku_id: SkuId, units: i64, buying: Buying) -> Option<Result<(), i64>> {
        let cell = self.0.find(sku_id)?;
        cell.shared.committed()?;
        match self.0.kind.refuses(&cell.shared, units, Some(buying)) {
            None => Some(Ok(())),
            Some(HoldError::SoldOut { available }) => Some(Err(available)),
            Some(HoldError::NotOffered(_) | HoldError::Refused(_)) => None,
        }
    }

    /// Has what sales have given of a SKU counted afresh, and waits for it. Many who were refused together ask for it at once:
    /// one count does for all.
    ///
    /// # Errors
    /// [`Refusal::Busy`] where Postgres could not be asked.
    pub(crate) async fn recount(&self, sku_id: SkuId) -> Result<(), Refusal> {
        let since = self.committed(sku_id).map_or(0, |counters| counters.version);
        self.0.ask(sku_id, |reply| Msg::Recount { since, reply }).await.or(Err(Refusal::Busy))
    }

    /// Wakes the SKU's actor, so that nobody has to wait for it; one that could not start is tried again.
    pub(crate) async fn warm(&self, sku_id: SkuId) {
        self.0.wake(sku_id).await;
    }

    /// Units that a sale has sold of a SKU, as far as its actor knows; none while nobody is in.
    pub(crate) fn sold_in(&self, sku_id: SkuId, sale_id: SaleId) -> Option<i64> {
        Some(self.0.find(sku_id)?.shared.sold_in(sale_id))
    }

    /// The counters that the SKU's actor has in memory, and what a sale has sold; none while nobody is in.
    pub(crate) fn committed_in(&self, sku_id: SkuId, sale_id: SaleId) -> Option<(Counters, Sold)> {
        self.0.find(sku_id)?.shared.committed_in(sale_id)
    }

    /// The counters that the SKU's actor has in memory; none while nobody is in.
    pub(crate) fn committed(&self, sku_id: SkuId) -> Option<Counters> {
        self.0.find(sku_id)?.shared.committed()
    }

    /// The journal has committed these, and these shares of sales.
    pub(crate) fn publish(&self, sku_id: SkuId, counters: Counters, moves: &[ShareMove]) {
        if let Some(cell) = self.0.find(sku_id) {
            cell.shared.learn(counters, moves);
        }
    }
}

/// How SKU actors are started: their counters are loaded, many in one question.
pub(crate) struct Sku {
    loader: mpsc::Sender<Load>,
    pool: PgPool,
    clock: Clock,
    sales: Arc<Sales>,
    faults: Arc<Faults>,
}

type Loaded = Result<Option<Counters>, Refusal>;

struct Load {
    sku_id: SkuId,
    reply: oneshot::Sender<Loaded>,
}

impl Sku {
    pub(crate) fn new(pool: PgPool, clock: Clock, sales: Arc<Sales>, faults: Arc<Faults>) -> Self {
        let (loader, loads) = mpsc::channel(1_024);
        tokio::spawn(load_together(pool.clone(), loads));
        Self { loader, pool, clock, sales, faults }
    }

    /// Why the units cannot be had, where that is final.
    fn refuses(&self, shelf: &Shelf, units: i64, buying: Option<Buying>) -> Option<HoldError> {
        let no = wish(shelf, &self.sales, self.clock.now(), units, buying, |wish| shelf.refuses(wish))?;
        match no {
            NoHold::SoldOut { available } => Some(HoldError::SoldOut { available }),
            NoHold::NotOffered(refusal) => Some(HoldError::NotOffered(refusal)),
            NoHold::Unsettled => None,
        }
    }
}

/// Asks a shelf for units, with the sales that the SKU is in now.
fn wish<R>(
    shelf: &Shelf,
    sales: &Sales,
    at: DateTime<Utc>,
    units: i64,
    buying: Option<Buying>,
    ask: impl FnOnce(&Wish<'_>) -> R,
) -> R {
    let sales = sales.of(shelf.sku_id());
    let sales: &[Arc<Sale>] = sales.as_deref().unwrap_or_default();
    ask(&Wish { units, buying, sales, at })
}

/// Counts what sales have given of a SKU.
async fn count(pool: &PgPool, sales: &Sales, shelf: &Shelf) -> Result<(), sqlx::Error> {
    let Some(sales) = sales.of(shelf.sku_id()) else {
        shelf.nothing_to_count();
        return Ok(());
    };
    let sale_ids: Vec<i64> = sales.iter().map(|sale| sale.id.0).collect();
    let counting = shelf.count();
    let (as_of, counted) = load::sales::counted(pool, shelf.sku_id(), &sale_ids).await?;
    counting.ends(as_of, counted);
    Ok(())
}

/// Answers as they come, all that have gathered in one question.
async fn load_together(pool: PgPool, mut loads: mpsc::Receiver<Load>) {
    let mut batch = Vec::new();
    while loads.recv_many(&mut batch, 1_000).await > 0 {
        let sku_ids: Vec<i64> = batch.iter().map(|load: &Load| load.sku_id.0).collect();
        let found = load::counters(&pool, &sku_ids).await;
        for load in batch.drain(..) {
            let loaded = match &found {
                Ok(found) => Ok(found.get(&load.sku_id.0).copied()),
                Err(error) => Err(error::refusal(error)),
            };
            load.reply.send(loaded).ok();
        }
    }
}

#[async_trait]
impl Kind for Sku {
    const NAME: &'static str = "skus";
    const ONE: &'static str = "sku";
    const MAILBOX: usize = 8_192;
    const ESCALATES: bool = false;
    type Key = SkuId;
    type Msg = Msg;
    type Shared = Arc<Shelf>;

    fn shared(&self, key: SkuId) -> Arc<Shelf> {
        Shelf::new(key)
    }

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let away = Refusal::Away("the engine is stopping");
        self.loader.send(Load { sku_id: cell.key, reply }).await.map_err(|_| away.clone())?;
        let counters = answer.await.map_err(|_| away)??.ok_or(Refusal::NotFound("SKU"))?;
        cell.shared.learn(counters, &[]);
        count(&self.pool, &self.sales, &cell.shared).await.map_err(|error| error::refusal(&error))?;
        let keeper = Keeper {
            cell: Arc::downgrade(cell),
            shelf: Arc::clone(&cell.shared),
            pool: self.pool.clone(),
            clock: self.clock.clone(),
            sales: Arc::clone(&self.sales),
            faults: Arc::clone(&self.faults),
        };
        let spawned = Actor::spawn_linked(None, keeper, (), supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, shelf: &Arc<Shelf>) -> bool {
        shelf.unsettled() == 0 && !self.sales.keep_awake(shelf.sku_id(), self.clock.now())
    }

    fn detail(&self, shelf: &Arc<Shelf>) -> Option<serde_json::Value> {
        let counters = shelf.committed()?;
        Some(serde_json::json!({
            "on_hand": counters.on_hand, "reserved": counters.reserved, "unsettled": shelf.unsettled(),
        }))
    }
}

struct Waiter {
    units: i64,
    buying: Option<Buying>,
    reply: oneshot::Sender<Result<Hold, HoldError>>,
}

struct Keeper {
    cell: Weak<Cell<Sku>>,
    shelf: Arc<Shelf>,
    pool: PgPool,
    clock: Clock,
    sales: Arc<Sales>,
    faults: Arc<Faults>,
}

impl Actor for Keeper {
    type Msg = Envelope<Sku>;
    type State = VecDeque<Waiter>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(VecDeque::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        waiting: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (msg, _ticket) = envelope.open();
        match msg {
            Msg::Hold { units, buying, reply } => self.hold(Waiter { units, buying, reply }, waiting),
            Msg::Settled => self.serve(waiting),
            // boxed: an actor that waits for messages would else keep room for a question to Postgres
            Msg::Recount { since, reply } => drop(reply.send(Box::pin(self.recount(since)).await)),
        }
        if !waiting.is_empty() {
            self.listen(&myself);
            // what settled between the last look and the listening would wake nobody
            self.serve(waiting);
        }
        Ok(())
    }
}

impl Keeper {
    /// Promises at once, refuses at once, or queues: nobody overtakes those who wait.
    fn hold(&self, waiter: Waiter, waiting: &mut VecDeque<Waiter>) {
        self.faults.hit_for("sku.hold", || self.shelf.sku_id().to_string());
        match self.refuses(&waiter) {
            _ if waiter.reply.is_closed() => {}
            Some(NoHold::SoldOut { available }) => answer(waiter, Err(HoldError::SoldOut { available })),
            Some(NoHold::NotOffered(refusal)) => answer(waiter, Err(HoldError::NotOffered(refusal))),
            None | Some(NoHold::Unsettled) if waiting.len() >= WAITERS => {
                answer(waiter, Err(HoldError::Refused(Refusal::Busy)));
            }
            None | Some(NoHold::Unsettled) => {
                waiting.push_back(waiter);
                if waiting.len() == 1 {
                    self.serve(waiting);
                }
            }
        }
    }

    /// The one time that it waits for Postgres: what it would promise meanwhile would be refused.
    async fn recount(&self, since: i64) -> Result<(), Refusal> {
        if self.shelf.is_counted_since(since) {
            return Ok(());
        }
        let counted = count(&self.pool, &self.sales, &self.shelf).await;
        counted.map_err(|error| {
            tracing::warn!(%error, sku.id = %self.shelf.sku_id(), "what sales have given cannot be counted");
            Refusal::Busy
        })
    }

    fn refuses(&self, waiter: &Waiter) -> Option<NoHold> {
        self.wish(waiter, |wish| self.shelf.refuses(wish))
    }

    fn wish<R>(&self, waiter: &Waiter, ask: impl FnOnce(&Wish<'_>) -> R) -> R {
        wish(&self.shelf, &self.sales, self.clock.now(), waiter.units, waiter.buying, ask)
    }

    /// Serves the queue from its head, as far as it goes.
    fn serve(&self, waiting: &mut VecDeque<Waiter>) {
        while let Some(waiter) = waiting.pop_front() {
            if waiter.reply.is_closed() {
                continue;
            }
            match self.wish(&waiter, |wish| self.shelf.promise(wish)) {
                Ok(hold) => answer(waiter, Ok(hold)),
                Err(NoHold::SoldOut { available }) => answer(waiter, Err(HoldError::SoldOut { available })),
                Err(NoHold::NotOffered(refusal)) => answer(waiter, Err(HoldError::NotOffered(refusal))),
                Err(NoHold::Unsettled) => return waiting.push_front(waiter),
            }
        }
    }

    fn listen(&self, myself: &ActorRef<Envelope<Sku>>) {
        let (cell, actor) = (self.cell.clone(), myself.clone());
        self.shelf.wake_on_change(Box::new(move || {
            if let Some(cell) = cell.upgrade() {
                cell.nudge(&actor, Msg::Settled);
            }
        }));
    }
}

/// A buyer that has left meanwhile gives a promise back by dropping it.
fn answer(waiter: Waiter, outcome: Result<Hold, HoldError>) {
    waiter.reply.send(outcome).ok();
}
