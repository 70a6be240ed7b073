//! The journal: every change of stock, orders and money, in batches, one transaction each.
//!
//! ```text
//! append ─▶ queue ─▶ gather what has come ─▶ one transaction ─▶ shelves learn their counters ─▶ every done()
//! ```
//!
//! While one batch is on its way to the disk the next one gathers, so a batch is as large as the disk is slow, and nobody
//! waits for a timer. One task owns the one connection; nothing can drop a transaction half-way but the end of the process.
//!
//! Should the connection be lost the journal does not guess: it takes its own row over again (which waits for whatever
//! the old connection is still committing) and reads there whether the batch is in. If it is, its callers hear so; if
//! not, it is sent again, word for word.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions, types::Uuid};
use tokio::sync::{mpsc, watch};

use crate::{
    domain::{Counters, Refusal, SkuId},
    error::{is_cut, is_passing},
    faults::Faults,
    news::News,
    shelf::ShareMove,
    store::{
        entry::{Conflict, Entry},
        write::{self, Fence, Numbers, WriteError, Written},
    },
};

/// A batch takes no more entries than this …
const BATCH_ENTRIES: usize = 2_048;
/// … nor more rows, about: a batch of thousand-line baskets must not hold buyers up for a second.
const BATCH_ROWS: usize = 12_000;
/// How long a lost database is given before it is tried again; doubled up to a second.
const RETRY: Duration = Duration::from_millis(20);
/// Without an answer for so long a connection counts as lost: a network that swallows packets says nothing for hours.
const HANGS: Duration = Duration::from_secs(30);

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in Postgres.
    Committed,
    /// Its key was used before: it changed nothing, and the facts of that use are there to be read.
    KeyTaken,
    /// Its order, or the stock that it expects, had moved on: it changed nothing; load and decide again.
    Stale,
    /// Postgres refused it for itself: it changed nothing, and is logged.
    Failed,
    /// This engine no longer owns the database: it changed nothing.
    Superseded,
}

/// How the journal is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Batches are being committed.
    Running,
    /// Postgres is away; what is queued waits, nothing new is let in.
    Away,
    /// A newer engine owns the database; this one has stopped serving.
    Superseded,
}

/// Figures for ops.
#[derive(Debug, Clone, Serialize)]
pub struct JournalReport {
    /// How it is doing.
    pub condition: Condition,
    /// The epoch it holds.
    pub epoch: i64,
    /// The last committed batch.
    pub seq: i64,
    /// Entries waiting for a batch.
    pub queued: usize,
    /// Batches committed since start.
    pub batches: u64,
    /// Entries committed since start.
    pub entries: u64,
    /// Entries taken out as conflicts.
    pub conflicts: u64,
    /// Entries that Postgres refused.
    pub failures: u64,
    /// Lost connections that were recovered from.
    pub recoveries: u64,
    /// Entries in the last batch.
    pub last_batch: u64,
    /// How long the last batch took, in microseconds.
    pub last_commit_micros: u64,
}

#[derive(Default)]
struct Figures {
    epoch: AtomicI64,
    seq: AtomicI64,
    batches: AtomicU64,
    entries: AtomicU64,
    conflicts: AtomicU64,
    failures: AtomicU64,
    recoveries: AtomicU64,
    last_batch: AtomicU64,
    last_commit_micros: AtomicU64,
}

type Done = Box<dyn FnOnce(Verdict) + Send>;
type Publish = Box<dyn Fn(SkuId, Counters, &[ShareMove]) + Send>;

struct Job {
    entry: Entry,
    done: Done,
}

/// The way into the journal. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Job>,
    condition: watch::Receiver<Condition>,
    figures: Arc<Figures>,
    news: Arc<News>,
    queue_limit: usize,
}

impl Journal {
    /// Takes the database's journal over and begins to write. `publish` is told the counters of every SKU that a batch has
    /// touched, and what it has given of sales, before the batch's callers hear of it.
    ///
    /// # Errors
    /// Where Postgres cannot be reached or has no journal.
    pub(crate) async fn start(
        connect: PgConnectOptions,
        queue_limit: usize,
        faults: Arc<Faults>,
        news: Arc<News>,
        publish: impl Fn(SkuId, Counters, &[ShareMove]) + Send + 'static,
    ) -> Result<Self, sqlx::Error> {
        let mut conn = open(&connect).await?;
        let (found, owner) = take_over(&mut conn).await?;
        let figures = Arc::new(Figures::default());
        figures.epoch.store(found.fence.epoch, Ordering::Relaxed);
        figures.seq.store(found.fence.seq, Ordering::Relaxed);
        let (queue, jobs) = mpsc::channel(queue_limit);
        let (tell, condition) = watch::channel(Condition::Running);
        let (committed, settled) = mpsc::unbounded_channel();
        let writer = Writer {
            connect,
            conn: Some(conn),
            owner,
            fence: found.fence,
            numbers: Numbers::new(),
            figures: Arc::clone(&figures),
            condition: tell,
            faults,
            committed,
        };
        or_the_process_ends(writer.run(jobs));
        or_the_process_ends(announce(settled, Arc::clone(&news), Box::new(publish)));
        Ok(Self { queue, condition, figures, news, queue_limit })
    }

    /// Queues an entry; `done` hears what became of it, once. `done` must only send: everybody behind it waits.
    ///
    /// # Errors
    /// [`Refusal::Superseded`] when nothing is written any more. Waits while the queue is full, which admission keeps from
    /// happening.
    pub async fn append(&self, entry: Entry, done: impl FnOnce(Verdict) + Send + 'static) -> Result<(), Refusal> {
        // here, so that no decision can forget it: whoever is to hear of an event is written down in the event's own entry
        let notices = self.news.of(&entry);
        let job = Job { entry: Entry { notices, ..entry }, done: Box::new(done) };
        self.queue.send(job).await.map_err(|_| Refusal::Superseded)
    }

    /// Queues an entry and waits for what becomes of it. The entry is settled even if nobody waits any more.
    ///
    /// # Errors
    /// [`Refusal::Superseded`], or [`Refusal::Unknown`] where the journal ended first.
    pub async fn commit(&self, entry: Entry) -> Result<Verdict, Refusal> {
        self.commit_and(entry, |_| {}).await
    }

    /// The same; what memory makes of the verdict is in `believe`, which is called whether anybody still waits or not, and
    /// before whoever waits hears. Like every `done` it must be quick.
    pub(crate) async fn commit_and(
        &self,
        entry: Entry,
        believe: impl FnOnce(Verdict) + Send + 'static,
    ) -> Result<Verdict, Refusal> {
        let (tell, hear) = tokio::sync::oneshot::channel();
        self.append(entry, move |verdict| {
            believe(verdict);
            tell.send(verdict).ok();
        })
        .await?;
        hear.await.map_err(|_| Refusal::Unknown)
    }

    /// How it is doing.
    #[must_use]
    pub fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    /// Resolves when a newer engine has taken over.
    pub async fn superseded(&self) {
        let mut condition = self.condition.clone();
        condition.wait_for(|condition| *condition == Condition::Superseded).await.ok();
    }

    /// Figures for ops.
    #[must_use]
    pub fn report(&self) -> JournalReport {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        JournalReport {
            condition: self.condition(),
            epoch: self.figures.epoch.load(Ordering::Relaxed),
            seq: self.figures.seq.load(Ordering::Relaxed),
            queued: self.queue_limit - self.queue.capacity(),
            batches: read(&self.figures.batches),
            entries: read(&self.figures.entries),
            conflicts: read(&self.figures.conflicts),
            failures: read(&self.figures.failures),
            recoveries: read(&self.figures.recoveries),
            last_batch: read(&self.figures.last_batch),
            last_commit_micros: read(&self.figures.last_commit_micros),
        }
    }
}

/// Takes the journal over. An older engine may be in the middle of a batch: it is waited for.
async fn take_over(conn: &mut PgConnection) -> Result<(write::Found, Uuid), sqlx::Error> {
    let give_up = Instant::now() + HANGS;
    loop {
        match write::take_over(conn).await {
            Err(error) if is_passing(&error) && Instant::now() < give_up => tokio::time::sleep(RETRY).await,
            settled => return settled,
        }
    }
}

/// The journal's own connection: one, prepared, planned once. Its tables grow by the hour, so plans are pinned to indexes
/// instead of to statistics that are always yesterday's.
async fn open(connect: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let options = connect.clone().application_name("souk journal").options([
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"), // would read a whole table to find a batch's rows in it
        ("enable_mergejoin", "off"),
        ("jit", "off"),
        ("lock_timeout", "200ms"),
        ("synchronous_commit", "on"),
        // an engine whose machine has died keeps the journal's row from its successor for no longer than this
        ("idle_in_transaction_session_timeout", "10s"),
    ]);
    options.connect().await
}

struct Writer {
    connect: PgConnectOptions,
    conn: Option<PgConnection>,
    owner: Uuid,
    fence: Fence,
    numbers: Numbers,
    figures: Arc<Figures>,
    condition: watch::Sender<Condition>,
    faults: Arc<Faults>,
    /// To the announcer; holds no more than admission has let in.
    committed: mpsc::UnboundedSender<Committed>,
}

/// A batch that is in Postgres, and those who wait to hear so.
struct Committed {
    entries: Vec<Entry>,
    dones: Vec<Done>,
    written: Written,
}

/// A journal that has panicked may have promised anything: restarting is the tested path.
fn or_the_process_ends(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if tokio::spawn(work).await.is_err_and(|error| error.is_panic()) {
            tracing::error!("the journal panicked; the process ends");
            std::process::abort();
        }
    });
}

/// Every caller hears, in the order of commits; before that every shelf has learnt what its callers may ask it next. Beside
/// the writer, so that the next batch is on its way to the disk while this one's callers hear.
async fn announce(mut settled: mpsc::UnboundedReceiver<Committed>, news: Arc<News>, publish: Publish) {
    while let Some(Committed { entries, dones, written }) = settled.recv().await {
        let mut shares = shares(&entries, &written);
        for (sku_id, counters) in &written.counters {
            publish(*sku_id, *counters, &shares.remove(sku_id).unwrap_or_default());
        }
        let tells = entries.iter().any(|entry| !entry.notices.is_empty());
        for (entry, done) in entries.into_iter().zip(dones) {
            let verdict = verdict(&entry, &written);
            if verdict == Verdict::Committed {
                News::alert(&entry);
            }
            drop(entry); // with its promises: whoever decides again must not stand in its own way
            done(verdict);
        }
        if tells {
            news.wake();
        }
    }
}

/// What a batch has changed of sales' tallies, by SKU; empty for a batch without sales.
fn shares(entries: &[Entry], written: &Written) -> HashMap<SkuId, Vec<ShareMove>> {
    let mut shares: HashMap<SkuId, Vec<ShareMove>> = HashMap::new();
    let committed = |entry: &&Entry| entry.conflict(&written.conflicts).is_none();
    for moved in entries.iter().filter(committed).flat_map(Entry::shares) {
        shares.entry(moved.sku_id).or_default().push(moved);
    }
    shares
}

/// A newer engine owns the database.
struct Superseded {
    /// Whether the batch at hand is known to have changed nothing.
    refused: bool,
}

impl Writer {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut next = VecDeque::new();
        while gather(&mut jobs, &mut next).await {
            let batch = cut(&mut next);
            if self.settle(batch).await.is_err() {
                return self.refuse_all(jobs, next).await;
            }
        }
    }

    /// Sees a batch through, whatever happens to the connection meanwhile.
    async fn settle(&mut self, batch: Vec<Job>) -> Result<(), Superseded> {
        let mut open = vec![batch];
        while let Some(batch) = open.pop() {
            let (entries, dones): (Vec<Entry>, Vec<Done>) = batch.into_iter().map(|job| (job.entry, job.done)).unzip();
            match self.write(&entries).await {
                Ok(Some(written)) => {
                    self.figures.conflicts.fetch_add(written.conflicts.len() as u64, Ordering::Relaxed);
                    self.committed.send(Committed { entries, dones, written }).ok();
                }
                Ok(None) => self.split(entries, dones, &mut open),
                Err(superseded) => {
                    self.condition.send_replace(Condition::Superseded);
                    // where nobody knows, nobody is told: whoever waits finds out by the key
                    let dones = dones.into_iter().filter(|_| superseded.refused);
                    let unsent = open.into_iter().flatten().map(|job| job.done);
                    dones.chain(unsent).for_each(|done| done(Verdict::Superseded));
                    return Err(superseded);
                }
            }
        }
        Ok(())
    }

    /// Writes until it is known what became of the batch. `None`: Postgres refuses something in it.
    async fn write(&mut self, entries: &[Entry]) -> Result<Option<Written>, Superseded> {
        let mut pause = RETRY;
        loop {
            let began = Instant::now();
            let Some(conn) = &mut self.conn else {
                if let Some(written) = self.reconnect(entries).await? {
                    return Ok(Some(written));
                }
                continue;
            };
            self.faults.hit("journal.before_commit", "");
            let batch = write::batch(conn, self.fence, &mut self.numbers, entries);
            match tokio::time::timeout(HANGS, batch).await.unwrap_or_else(|late| Err(hangs(late).into())) {
                Ok(written) => {
                    self.faults.hit("journal.after_commit", "");
                    self.fence.seq += 1;
                    self.count(entries.len(), began);
                    self.answers();
                    return Ok(Some(written));
                }
                Err(WriteError::Fenced) => return Err(Superseded { refused: true }),
                Err(WriteError::Database(error)) if is_cut(&error) => {
                    tracing::warn!(%error, "the journal lost its connection");
                    self.conn = None;
                }
                Err(WriteError::Database(error)) if is_passing(&error) => {
                    tracing::warn!(%error, "a batch is sent again");
                    if pause >= Duration::from_millis(500) {
                        // a full disk, a lock that is not given back: nothing new is let in until it passes
                        self.condition.send_replace(Condition::Away);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(WriteError::Database(error)) => {
                    tracing::error!(%error, entries = entries.len(), "Postgres refuses a batch; looking for the offender");
                    self.answers(); // there may be no other batch to find that out with
                    return Ok(None);
                }
            }
        }
    }

    /// Postgres answers, whatever it says.
    fn answers(&self) {
        self.condition
            .send_if_modified(|condition| std::mem::replace(condition, Condition::Running) != Condition::Running);
    }

    /// Connects again, takes the journal's own row over, and finds out there whether the batch is in.
    async fn reconnect(&mut self, entries: &[Entry]) -> Result<Option<Written>, Superseded> {
        self.condition.send_replace(Condition::Away);
        let mut pause = RETRY;
        loop {
            match tokio::time::timeout(HANGS, self.find_out(entries)).await.unwrap_or_else(|late| Err(hangs(late))) {
                Ok(Some(known)) => {
                    self.answers();
                    self.figures.recoveries.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(epoch = self.fence.epoch, committed = known.is_some(), "the journal is back");
                    return Ok(known);
                }
                Ok(None) => return Err(Superseded { refused: false }),
                Err(error) => {
                    tracing::debug!(%error, "the journal cannot reach Postgres");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// Outer `None`: superseded. Inner `None`: the batch is not in.
    async fn find_out(&mut self, entries: &[Entry]) -> Result<Option<Option<Written>>, sqlx::Error> {
        let mut conn = open(&self.connect).await?;
        let Some(found) = write::retake(&mut conn, self.owner).await? else {
            return Ok(None);
        };
        self.fence.epoch = found.fence.epoch;
        self.figures.epoch.store(found.fence.epoch, Ordering::Relaxed);
        assert!(found.fence.seq >= self.fence.seq, "the database has lost batches that were acknowledged");
        let known = if found.fence.seq > self.fence.seq {
            let written = write::recover(&mut conn, &found, entries).await?;
            self.fence.seq = found.fence.seq;
            self.count(entries.len(), Instant::now());
            Some(written)
        } else {
            None
        };
        self.conn = Some(conn);
        Ok(Some(known))
    }

    /// A single entry that Postgres refuses fails alone; a batch is cut in two and each half tried, in order.
    fn split(&self, mut entries: Vec<Entry>, mut dones: Vec<Done>, open: &mut Vec<Vec<Job>>) {
        let half = entries.len() / 2;
        if half == 0 {
            self.figures.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(entry = ?entries, "Postgres refuses this entry");
            drop(entries);
            dones.into_iter().for_each(|done| done(Verdict::Failed));
            return;
        }
        let jobs = |entries: Vec<Entry>, dones: Vec<Done>| {
            entries.into_iter().zip(dones).map(|(entry, done)| Job { entry, done }).collect::<Vec<Job>>()
        };
        let (later_entries, later_dones) = (entries.split_off(half), dones.split_off(half));
        open.push(jobs(later_entries, later_dones));
        open.push(jobs(entries, dones));
    }

    fn count(&self, entries: usize, began: Instant) {
        let took = began.elapsed();
        self.figures.seq.store(self.fence.seq, Ordering::Relaxed);
        self.figures.batches.fetch_add(1, Ordering::Relaxed);
        self.figures.entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.figures.last_batch.store(entries as u64, Ordering::Relaxed);
        self.figures.last_commit_micros.store(took.as_micros() as u64, Ordering::Relaxed);
        metrics::histogram!("souk_journal_commit_seconds").record(took.as_secs_f64());
        metrics::histogram!("souk_journal_batch_entries").record(entries as f64);
    }

    /// Superseded: nothing is written any more, and everybody is told.
    async fn refuse_all(self, mut jobs: mpsc::Receiver<Job>, waiting: VecDeque<Job>) {
        tracing::error!(epoch = self.fence.epoch, "a newer engine has taken over; this one writes no more");
        waiting.into_iter().for_each(|job| (job.done)(Verdict::Superseded));
        while let Some(job) = jobs.recv().await {
            (job.done)(Verdict::Superseded);
        }
    }
}

fn hangs(late: tokio::time::error::Elapsed) -> sqlx::Error {
    sqlx::Error::Io(late.into())
}

fn verdict(entry: &Entry, written: &Written) -> Verdict {
    match entry.conflict(&written.conflicts) {
        None => Verdict::Committed,
        Some(Conflict::KeyTaken) => Verdict::KeyTaken,
        Some(Conflict::Stale) => Verdict::Stale,
    }
}

/// Waits for work unless some is left over. False when the journal is closed and all is done.
async fn gather(jobs: &mut mpsc::Receiver<Job>, next: &mut VecDeque<Job>) -> bool {
    let mut fresh = Vec::new();
    if next.is_empty() {
        jobs.recv_many(&mut fresh, BATCH_ENTRIES).await;
    } else {
        while fresh.len() + next.len() < BATCH_ENTRIES {
            let Ok(job) = jobs.try_recv() else { break };
            fresh.push(job);
        }
    }
    next.extend(fresh);
    !next.is_empty()
}

/// Takes the next batch off: as much as one transaction should carry.
fn cut(next: &mut VecDeque<Job>) -> Vec<Job> {
    let mut rows = 0;
    let fits = |job: &&Job| {
        rows += job.entry.weight();
        rows <= BATCH_ROWS
    };
    let count = next.iter().take_while(fits).count().max(1).min(next.len());
    next.drain(..count).collect()
}
