//! From an id to its actor: found, activated when it is first spoken to, put to rest when idle, restarted after a crash.
//!
//! Every actor of Souk lives in a directory, the thousands that are keyed by SKU or order and the few that there is one of
//! each. A [`Cell`] is an id's place in it and outlives the actor: it counts the mailbox, remembers crashes, and keeps what
//! the actor shares with others. An actor that crashes is not started again by anybody; the next message does that, no
//! sooner than a pause that doubles with every crash, and after too many crashes in a minute not before a person has
//! released it. So one poisoned SKU costs its neighbours nothing, and there is no storm of restarts.

use std::{
    fmt::{self, Debug},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use dashmap::{DashMap, DashSet};
use ractor::{ActorCell, ActorId, ActorRef};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{clock::Clock, domain::Refusal};

/// Crashes within a minute that end an actor's restarts.
const CRASHES: u32 = 5;
const CRASH_WINDOW: TimeDelta = TimeDelta::seconds(60);

/// A kind of actor: how its key is written, and how one is started.
#[async_trait]
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    /// The directory's name in the tree, e.g. `skus`.
    const NAME: &'static str;
    /// One actor's name in the tree before its key, e.g. `sku`.
    const ONE: &'static str;
    /// The most messages one actor may have waiting.
    const MAILBOX: usize;
    /// Whether too many crashes end the process (for the few that everything depends on) instead of being quarantined.
    const ESCALATES: bool;
    type Key: Copy + Eq + Hash + fmt::Display + Send + Sync + 'static;
    type Msg: Send + 'static;
    /// What a cell keeps across the actor's lives.
    type Shared: Send + Sync + 'static;

    fn shared(&self, key: Self::Key) -> Self::Shared;

    /// Loads what the actor begins with and spawns it under `supervisor`.
    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal>;

    /// Whether an actor with an empty mailbox may be put to rest.
    fn may_rest(&self, shared: &Self::Shared) -> bool;

    /// What the tree says of one actor beyond the common figures.
    fn detail(&self, _shared: &Self::Shared) -> Option<serde_json::Value> {
        None
    }
}

/// A message on its way, counted until it is dropped: handled, or lost with a crashed actor's mailbox.
pub(crate) struct Envelope<K: Kind> {
    pub msg: K::Msg,
    ticket: Ticket<K>,
}

impl<K: Kind> Envelope<K> {
    /// The message, and the ticket to keep until it is handled.
    pub(crate) fn open(self) -> (K::Msg, Ticket<K>) {
        (self.msg, self.ticket)
    }
}

impl<K: Kind> Debug for Envelope<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message to {}/{}", K::ONE, self.ticket.0.key)
    }
}

/// One place in a mailbox.
pub(crate) struct Ticket<K: Kind>(Arc<Cell<K>>);

impl<K: Kind> Drop for Ticket<K> {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Ordering::Release);
        self.0.handled.fetch_add(1, Ordering::Relaxed);
    }
}

/// An id's place in the directory.
pub(crate) struct Cell<K: Kind> {
    pub key: K::Key,
    pub shared: K::Shared,
    slot: Mutex<Slot<K>>,
    starting: tokio::sync::Mutex<()>,
    depth: AtomicUsize,
    handled: AtomicU64,
}

struct Slot<K: Kind> {
    actor: Option<ActorRef<Envelope<K>>>,
    /// Left the directory; whoever still holds the cell must look the key up again.
    retired: bool,
    quarantined: bool,
    since: DateTime<Utc>,
    used: DateTime<Utc>,
    restarts: u32,
    crashes: Vec<DateTime<Utc>>,
    rests_until: Option<DateTime<Utc>>,
    last_error: Option<String>,
}

impl<K: Kind> Cell<K> {
    fn new(key: K::Key, shared: K::Shared, now: DateTime<Utc>) -> Arc<Self> {
        let slot = Slot {
            actor: None,
            retired: false,
            quarantined: false,
            since: now,
            used: now,
            restarts: 0,
            crashes: Vec::new(),
            rests_until: None,
            last_error: None,
        };
        Arc::new(Self {
            key,
            shared,
            slot: Mutex::new(slot),
            starting: tokio::sync::Mutex::default(),
            depth: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Slot<K>> {
        self.slot.lock().expect("no panic under this lock")
    }

    /// A message from inside, past the mailbox's limit.
    pub(crate) fn nudge(self: &Arc<Self>, actor: &ActorRef<Envelope<K>>, msg: K::Msg) {
        self.depth.fetch_add(1, Ordering::AcqRel);
        let ticket = Ticket(Arc::clone(self));
        actor.cast(Envelope { msg, ticket }).ok();
    }

    /// Messages sent and not yet handled.
    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Ordering::Acquire)
    }
}

/// What a look at a cell says about sending to it.
enum Door<K: Kind> {
    Open(ActorRef<Envelope<K>>, Ticket<K>),
    /// Nobody is in: start one.
    Empty,
    /// The cell has left the directory: look again.
    Retired,
}

/// All actors of one kind.
pub(crate) struct Directory<K: Kind> {
    pub kind: K,
    clock: Clock,
    cells: DashMap<K::Key, Arc<Cell<K>>>,
    names: DashMap<ActorId, K::Key>,
    quarantine: DashSet<K::Key>,
    supervisor: OnceLock<ActorCell>,
    escalate: Arc<dyn Fn(String) + Send + Sync>,
}

impl<K: Kind> Directory<K> {
    pub(crate) fn new(kind: K, clock: Clock, escalate: Arc<dyn Fn(String) + Send + Sync>) -> Arc<Self> {
        let supervisor = OnceLock::new();
        Arc::new(Self {
            kind,
            clock,
            cells: DashMap::new(),
            names: DashMap::new(),
            quarantine: DashSet::new(),
            supervisor,
            escalate,
        })
    }

    /// Names the actor under which this directory's actors are spawned. Once, before the first message.
    pub(crate) fn supervised_by(&self, supervisor: ActorCell) {
        self.supervisor.set(supervisor).ok();
    }

    /// The cell of a key that has one.
    pub(crate) fn find(&self, key: K::Key) -> Option<Arc<Cell<K>>> {
        self.cells.get(&key).map(|cell| Arc::clone(&cell))
    }

    /// The cell of a key, a fresh one where it has none.
    pub(crate) fn cell(&self, key: K::Key) -> Arc<Cell<K>> {
        if let Some(cell) = self.find(key) {
            return cell;
        }
        let fresh = || Cell::new(key, self.kind.shared(key), self.clock.now());
        Arc::clone(&self.cells.entry(key).or_insert_with(fresh))
    }

    /// Sends a message, activating the actor where nobody is in.
    ///
    /// # Errors
    /// [`Refusal::Busy`] past the mailbox's limit, [`Refusal::Away`] while it rests after a crash, or why it cannot start.
    pub(crate) async fn send(&self, key: K::Key, msg: K::Msg) -> Result<(), Refusal> {
        let mut msg = msg;
        loop {
            let cell = self.cell(key);
            match self.door(&cell)? {
                Door::Open(actor, ticket) => match actor.cast(Envelope { msg, ticket }) {
                    Ok(()) => return Ok(()),
                    Err(ractor::MessagingErr::SendErr(back)) => {
                        msg = back.msg;
                        self.forget(&cell, actor.get_id());
                    }
                    Err(ractor::MessagingErr::ChannelClosed | ractor::MessagingErr::InvalidActorType) => {
                        return Err(Refusal::Away("it has just stopped"));
                    }
                },
                Door::Empty => self.activate(&cell).await?,
                Door::Retired => {}
            }
        }
    }

    /// Starts the actor of a key where nobody is in, as the next message would; whoever is in hears nothing of it.
    pub(crate) async fn wake(&self, key: K::Key) {
        let cell = self.cell(key);
        let is_in = cell.lock().actor.is_some();
        if !is_in && matches!(self.door(&cell), Ok(Door::Empty)) {
            self.activate(&cell).await.ok(); // whoever speaks to it hears why not
        }
    }

    /// Sends a message that carries a reply port, and waits for the reply.
    ///
    /// # Errors
    /// As [`Directory::send`], or [`Refusal::Unknown`] where the actor died before it replied.
    pub(crate) async fn ask<R>(
        &self,
        key: K::Key,
        msg: impl FnOnce(oneshot::Sender<Result<R, Refusal>>) -> K::Msg,
    ) -> Result<R, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(key, msg(reply)).await?;
        answer.await.map_err(|_| Refusal::Unknown)?
    }

    fn door(&self, cell: &Arc<Cell<K>>) -> Result<Door<K>, Refusal> {
        let mut slot = cell.lock();
        if slot.retired {
            return Ok(Door::Retired);
        }
        if slot.quarantined {
            return Err(Refusal::Away("it is quarantined after too many crashes"));
        }
        let Some(actor) = slot.actor.clone() else {
            let now = self.clock.now();
            if slot.rests_until.is_some_and(|until| now < until) {
                return Err(Refusal::Away("it rests after a crash"));
            }
            return Ok(Door::Empty);
        };
        if cell.depth.fetch_add(1, Ordering::AcqRel) >= K::MAILBOX {
            cell.depth.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::Busy);
        }
        slot.used = self.clock.now();
        Ok(Door::Open(actor, Ticket(Arc::clone(cell))))
    }

    /// Starts the actor of a cell, once for all who wait for it. The cell is in the directory before anything is loaded, so
    /// whatever the journal commits from here on reaches it.
    async fn activate(&self, cell: &Arc<Cell<K>>) -> Result<(), Refusal> {
        let _one_at_a_time = cell.starting.lock().await;
        {
            let slot = cell.lock();
            if slot.actor.is_some() || slot.retired {
                return Ok(());
            }
        }
        let supervisor = self.supervisor.get().cloned().ok_or(Refusal::Away("the engine is starting"))?;
        match self.kind.start(cell, supervisor).await {
            Ok(actor) => {
                self.names.insert(actor.get_id(), cell.key);
                let mut slot = cell.lock();
                let now = self.clock.now();
                slot.restarts += u32::from(slot.last_error.is_some());
                (slot.since, slot.used, slot.actor) = (now, now, Some(actor));
                Ok(())
            }
            Err(refusal) => {
                // an id that does not exist leaves nothing behind
                if matches!(refusal, Refusal::NotFound(_)) {
                    self.retire(cell);
                }
                Err(refusal)
            }
        }
    }

    fn retire(&self, cell: &Arc<Cell<K>>) {
        cell.lock().retired = true;
        self.cells.remove_if(&cell.key, |_, current| Arc::ptr_eq(current, cell));
    }

    fn forget(&self, cell: &Arc<Cell<K>>, actor_id: ActorId) {
        let mut slot = cell.lock();
        if slot.actor.as_ref().is_some_and(|actor| actor.get_id() == actor_id) {
            slot.actor = None;
        }
    }

    /// An actor has ended; with an error it has crashed.
    pub(crate) fn ended(&self, actor_id: ActorId, error: Option<String>) {
        let Some((_, key)) = self.names.remove(&actor_id) else { return };
        let Some(cell) = self.find(key) else { return };
        self.forget(&cell, actor_id);
        if let Some(error) = error {
            self.crashed(&cell, error);
        }
    }

    fn crashed(&self, cell: &Arc<Cell<K>>, error: String) {
        let now = self.clock.now();
        let mut slot = cell.lock();
        slot.crashes.retain(|at| now - *at < CRASH_WINDOW);
        slot.crashes.push(now);
        let recent = u32::try_from(slot.crashes.len()).unwrap_or(u32::MAX);
        // 100 ms, 200, 400 …
        slot.rests_until = Some(now + TimeDelta::milliseconds(50i64 << recent.min(9)));
        slot.quarantined = recent >= CRASHES;
        tracing::error!(actor = %format_args!("{}/{}", K::ONE, cell.key), crashes = recent, error, "an actor crashed");
        metrics::counter!("souk_actor_crashes_total", "kind" => K::ONE).increment(1);
        slot.last_error = Some(error);
        if slot.quarantined {
            self.quarantine.insert(cell.key);
        }
        if slot.quarantined && K::ESCALATES {
            (self.escalate)(format!("{}/{} crashed {recent} times in a minute", K::ONE, cell.key));
        }
    }

    /// Lets a quarantined actor start again. False if there is none of that key.
    pub(crate) fn release(&self, key: K::Key) -> bool {
        let Some(cell) = self.find(key) else { return false };
        let mut slot = cell.lock();
        slot.quarantined = false;
        slot.rests_until = None;
        slot.crashes.clear();
        self.quarantine.remove(&key);
        true
    }

    /// Actors that answer nobody until a person has released them.
    pub(crate) fn quarantined(&self) -> Vec<K::Key> {
        self.quarantine.iter().map(|key| *key).collect()
    }

    /// Puts actors to rest that nobody has spoken to since `idle` ago. Their mailboxes are empty and stay so: the cell is
    /// retired under the same lock that hands out tickets.
    pub(crate) fn sweep(&self, idle: TimeDelta) {
        let before = self.clock.now() - idle;
        let idle_cells: Vec<Arc<Cell<K>>> =
            self.cells.iter().filter(|cell| cell.lock().used < before).map(|cell| Arc::clone(&cell)).collect();
        for cell in idle_cells {
            self.put_to_rest(&cell, before);
        }
    }

    /// Puts one actor to rest at once, unless somebody needs it: whoever woke it for a moment may say so.
    pub(crate) fn rest(&self, key: K::Key) {
        if let Some(cell) = self.find(key) {
            self.put_to_rest(&cell, DateTime::<Utc>::MAX_UTC);
        }
    }

    fn put_to_rest(&self, cell: &Arc<Cell<K>>, before: DateTime<Utc>) {
        let actor = {
            let mut slot = cell.lock();
            let busy = cell.depth() > 0 || !self.kind.may_rest(&cell.shared) || cell.starting.try_lock().is_err();
            if busy || slot.used >= before || slot.quarantined {
                return;
            }
            slot.retired = true;
            slot.actor.take()
        };
        self.cells.remove_if(&cell.key, |_, current| Arc::ptr_eq(current, cell));
        if let Some(actor) = actor {
            actor.stop(Some("idle".to_owned()));
        }
    }

    /// The directory as a node of the tree, with its `most` busiest actors below it.
    pub(crate) fn node(&self, most: usize) -> Node {
        let mut children: Vec<Node> = self.cells.iter().map(|cell| self.leaf(&cell)).collect();
        let count = children.len();
        children.sort_by(|a, b| b.rank().cmp(&a.rank()).then_with(|| a.name.cmp(&b.name)));
        children.truncate(most);
        Node {
            mailbox: self.cells.iter().map(|cell| cell.depth()).sum(),
            children_total: count,
            children,
            ..Node::plain(K::NAME, "running")
        }
    }

    fn leaf(&self, cell: &Cell<K>) -> Node {
        let slot = cell.lock();
        let resting = slot.rests_until.is_some_and(|until| self.clock.now() < until);
        let status = match (&slot.actor, slot.quarantined) {
            (_, true) => "quarantined",
            (Some(_), false) => "running",
            (None, false) if resting => "resting",
            (None, false) => "idle",
        };
        Node {
            name: format!("{}/{}", K::ONE, cell.key),
            status,
            mailbox: cell.depth(),
            handled: cell.handled.load(Ordering::Relaxed),
            restarts: slot.restarts,
            last_error: slot.last_error.clone(),
            since: Some(slot.since),
            detail: self.kind.detail(&cell.shared),
            children: Vec::new(),
            children_total: 0,
        }
    }
}

/// One actor as ops see it: in `GET /v1/ops/actors`, in `souk tree`, in every console.
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// Its name, e.g. `sku/sku_…`.
    pub name: String,
    /// `running`, `idle` (nobody in, starts with the next message), `resting` (after a crash), `quarantined`, …
    pub status: &'static str,
    /// Messages waiting.
    pub mailbox: usize,
    /// Messages handled since it was first spoken to.
    pub handled: u64,
    /// How often it was started again after a crash.
    pub restarts: u32,
    /// What it last crashed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Since when it is in this life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// What only this kind of actor can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
    /// Actors below it; the busiest where there are many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
    /// How many there are in all.
    #[serde(skip_serializing_if = "is_zero")]
    pub children_total: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Node {
    /// A node with a name and a status and nothing else to say.
    #[must_use]
    pub fn plain(name: &str, status: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            status,
            mailbox: 0,
            handled: 0,
            restarts: 0,
            last_error: None,
            since: None,
            detail: None,
            children: Vec::new(),
            children_total: 0,
        }
    }

    /// Troubled first, then busy.
    fn rank(&self) -> (bool, u32, usize, u64) {
        (self.status == "quarantined", self.restarts, self.mailbox, self.handled)
    }
}
