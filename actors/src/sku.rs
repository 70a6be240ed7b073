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
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use crate::{
    directory::{Cell, Directory, Envelope, Kind},
    domain::{Counters, Refusal, Short, SkuId},
    error,
    faults::Faults,
    shelf::{Hold, Shelf},
    store::load,
};

/// Buyers that may wait for others' promises to settle; the next one is told to come back.
const WAITERS: usize = 4_096;

pub(crate) enum Msg {
    /// Promise this many units, or say why not.
    Hold { units: i64, reply: oneshot::Sender<Result<Hold, HoldError>> },
    /// A promise has settled, or the counters have changed: look at the queue.
    Settled,
}

/// Why a SKU gives no promise.
#[derive(Debug)]
pub(crate) enum HoldError {
    /// Committed stock does not suffice.
    SoldOut { available: i64 },
    /// Unknown, busy or away.
    Refused(Refusal),
}

/// What the engine holds of all SKU actors.
#[derive(Clone)]
pub(crate) struct Skus(pub Arc<Directory<Sku>>);

impl Skus {
    /// Promises `units` of a SKU. Sold out against committed stock is said at once, without a word to the actor; where only
    /// unsettled promises stand in the way, waits until they settle, in order of arrival.
    pub(crate) async fn hold(&self, sku_id: SkuId, units: i64) -> Result<Hold, HoldError> {
        if let Some(available) = self.committed(sku_id).map(|counters| counters.available())
            && available < units
        {
            return Err(HoldError::SoldOut { available });
        }
        let (reply, answer) = oneshot::channel();
        self.0.send(sku_id, Msg::Hold { units, reply }).await.map_err(HoldError::Refused)?;
        // an actor that died before it answered has promised nothing: promises are guards, and this one was dropped
        answer.await.unwrap_or(Err(HoldError::Refused(Refusal::Away("its actor has crashed"))))
    }

    /// The counters that the SKU's actor has in memory; none while nobody is in.
    pub(crate) fn committed(&self, sku_id: SkuId) -> Option<Counters> {
        self.0.find(sku_id)?.shared.committed()
    }

    /// The journal has committed these.
    pub(crate) fn publish(&self, sku_id: SkuId, counters: Counters) {
        if let Some(cell) = self.0.find(sku_id) {
            cell.shared.learn(counters);
        }
    }
}

/// How SKU actors are started: their counters are loaded, many in one question.
pub(crate) struct Sku {
    loader: mpsc::Sender<Wish>,
    faults: Arc<Faults>,
}

type Loaded = Result<Option<Counters>, Refusal>;

struct Wish {
    sku_id: SkuId,
    reply: oneshot::Sender<Loaded>,
}

impl Sku {
    pub(crate) fn new(pool: PgPool, faults: Arc<Faults>) -> Self {
        let (loader, wishes) = mpsc::channel(1_024);
        tokio::spawn(load_together(pool, wishes));
        Self { loader, faults }
    }
}

/// Answers wishes as they come, all that have gathered in one question.
async fn load_together(pool: PgPool, mut wishes: mpsc::Receiver<Wish>) {
    let mut batch = Vec::new();
    while wishes.recv_many(&mut batch, 1_000).await > 0 {
        let sku_ids: Vec<i64> = batch.iter().map(|wish: &Wish| wish.sku_id.0).collect();
        let found = load::counters(&pool, &sku_ids).await;
        for wish in batch.drain(..) {
            let loaded = match &found {
                Ok(found) => Ok(found.get(&wish.sku_id.0).copied()),
                Err(error) => Err(error::refusal(error)),
            };
            wish.reply.send(loaded).ok();
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
        self.loader.send(Wish { sku_id: cell.key, reply }).await.map_err(|_| away.clone())?;
        let counters = answer.await.map_err(|_| away)??.ok_or(Refusal::NotFound("SKU"))?;
        cell.shared.learn(counters);
        let keeper =
            Keeper { cell: Arc::downgrade(cell), shelf: Arc::clone(&cell.shared), faults: Arc::clone(&self.faults) };
        let spawned = Actor::spawn_linked(None, keeper, (), supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, shelf: &Arc<Shelf>) -> bool {
        shelf.unsettled() == 0
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
    reply: oneshot::Sender<Result<Hold, HoldError>>,
}

struct Keeper {
    cell: Weak<Cell<Sku>>,
    shelf: Arc<Shelf>,
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
            Msg::Hold { units, reply } => self.hold(Waiter { units, reply }, waiting),
            Msg::Settled => self.serve(waiting),
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
        let sold_out =
            self.shelf.committed().map(|counters| counters.available()).filter(|available| *available < waiter.units);
        match sold_out {
            _ if waiter.reply.is_closed() => {}
            Some(available) => answer(waiter, Err(HoldError::SoldOut { available })),
            None if waiting.len() >= WAITERS => answer(waiter, Err(HoldError::Refused(Refusal::Busy))),
            None => {
                waiting.push_back(waiter);
                if waiting.len() == 1 {
                    self.serve(waiting);
                }
            }
        }
    }

    /// Serves the queue from its head, as far as it goes.
    fn serve(&self, waiting: &mut VecDeque<Waiter>) {
        while let Some(waiter) = waiting.pop_front() {
            if waiter.reply.is_closed() {
                continue;
            }
            match self.shelf.promise(waiter.units) {
                Ok(hold) => answer(waiter, Ok(hold)),
                Err(Short::SoldOut { available }) => answer(waiter, Err(HoldError::SoldOut { available })),
                Err(Short::Unsettled) => return waiting.push_front(waiter),
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
