//! The bank: its books behind one lock, its journal, its clock, and the one way in which anything changes.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::{
    Settings,
    books::{Books, Change, Instrument, Order},
    clock::Clock,
    errors::Problem,
    faults::{Faults, Operation},
    journal::Journal,
    orders,
    signing::Authority,
    webhooks::Courier,
};

pub(super) type Shared = Arc<Bank>;

/// How long a call waits for the early delivery of its own event.
const EARLY_LIMIT: Duration = Duration::from_secs(15);

pub(super) struct Bank {
    pub(super) settings: Settings,
    /// `http://127.0.0.1:port`: what every link begins with.
    pub(super) base: String,
    pub(super) clock: Clock,
    pub(super) authority: Authority,
    pub(super) faults: Faults,
    pub(super) courier: Courier,
    pub(super) calls: Calls,
    pub(super) knobs: Knobs,
    books: Mutex<Books>,
    journal: Journal,
    stop: watch::Sender<bool>,
}

impl Bank {
    /// Reads books and certificates from disk and takes up the deliveries that are due. Blocks.
    pub(super) fn open(settings: Settings, base: String) -> io::Result<Self> {
        let clock = Clock::default();
        let mut books = Books::default();
        let journal = Journal::open(&settings.dir, |change: Change| books.apply(&change))?;
        let authority = Authority::open(&settings.dir, clock.now())?;
        let courier = Courier::new()?;
        for delivery in books.deliveries.rows() {
            courier.accept(delivery, journal.last());
        }
        Ok(Self {
            settings,
            base,
            clock,
            authority,
            faults: Faults::default(),
            courier,
            calls: Calls::default(),
            knobs: Knobs::default(),
            books: Mutex::new(books),
            journal,
            stop: watch::Sender::new(false),
        })
    }

    /// Decides under the lock, changes the books, and returns when that is on disk: what the caller gets to know, it may
    /// say. An empty change (a replay) waits as well, for what it tells of may have happened a moment ago.
    pub(super) async fn transact<T>(
        &self,
        decide: impl FnOnce(&Books, DateTime<Utc>) -> Result<(T, Change), Problem>,
    ) -> Result<T, Problem> {
        let (answer, line, early) = {
            let mut books = self.locked();
            let (answer, change) = decide(&books, self.clock.now())?;
            let (line, early) = self.commit(&mut books, &change);
            (answer, line, early)
        };
        self.saved(line).await?;
        for arrival in early {
            let _late_or_lost = tokio::time::timeout(EARLY_LIMIT, arrival).await;
        }
        Ok(answer)
    }

    /// Reads what is on disk, for an answer that may be given.
    pub(super) async fn inspect<T>(&self, read: impl FnOnce(&Books) -> T) -> Result<T, Problem> {
        let (answer, line) = {
            let books = self.locked();
            (read(&books), self.journal.last())
        };
        self.saved(line).await?;
        Ok(answer)
    }

    /// Where events are delivered.
    pub(super) fn webhook_url(&self) -> String {
        self.knobs.webhook_url().unwrap_or_else(|| self.settings.webhook_url.clone())
    }

    /// Reads what is in memory.
    pub(super) fn look<T>(&self, read: impl FnOnce(&Books) -> T) -> T {
        read(&self.locked())
    }

    /// Changes the books without waiting for the disk: for deliveries, where the worst is a delivery too many.
    pub(super) fn note(&self, change: &Change) {
        self.commit(&mut self.locked(), change);
    }

    /// Returns when line `line` of the journal is on disk.
    pub(super) async fn saved(&self, line: u64) -> Result<(), Problem> {
        self.journal.synced(line).await.map_err(|_| Problem::bare(StatusCode::INTERNAL_SERVER_ERROR))
    }

    fn commit(&self, books: &mut Books, change: &Change) -> (u64, Vec<oneshot::Receiver<()>>) {
        if change.is_empty() {
            return (self.journal.last(), Vec::new());
        }
        books.apply(change);
        let line = self.journal.append(change);
        let mut early = Vec::new();
        for delivery in &change.deliveries {
            if delivery.attempts.is_empty() && self.faults.is_early(&delivery.event_type) {
                early.extend(self.courier.accept_early(delivery, line));
            } else {
                self.courier.accept(delivery, line);
            }
        }
        (line, early)
    }

    fn locked(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("nothing panics while it holds the books")
    }

    /// The buyer decides how this order is to be paid.
    pub(super) async fn approve(&self, id: &str, instrument: Instrument) -> Result<Arc<Order>, Problem> {
        self.transact(|books, now| orders::approve(books, &self.base, id, instrument, now)).await
    }

    /// The buyer of this order approves after a while, if nothing has happened until then.
    pub(super) fn approve_later(self: &Arc<Self>, id: String, after: Duration) {
        let bank = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _paid_meanwhile = bank.approve(&id, Instrument::Good).await;
        });
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Returns when the sandbox is told to stop.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        let _told = stop.wait_for(|stop| *stop).await;
    }

    /// Writes what is queued and lets go of the books.
    pub(super) async fn close(&self) {
        self.journal.close().await;
    }
}

/// How often each call was made since this start, and what came of it.
#[derive(Default)]
pub(super) struct Calls(Mutex<BTreeMap<Operation, Tally>>);

#[derive(Default, Clone, Copy, Serialize)]
pub(super) struct Tally {
    received: u64,
    /// Done just then.
    executed: u64,
    /// Told again of what an earlier call with the same `PayPal-Request-Id` has done.
    replayed: u64,
    refused: u64,
}

impl Calls {
    pub(super) fn count(&self, operation: Operation, status: StatusCode) {
        let mut tallies = self.0.lock().expect("nothing panics while it counts");
        let tally = tallies.entry(operation).or_default();
        tally.received += 1;
        let can_be_replayed = matches!(operation, Operation::Create | Operation::Capture | Operation::Refund);
        match status {
            StatusCode::OK if can_be_replayed => tally.replayed += 1,
            status if status.is_success() => tally.executed += 1,
            _ => tally.refused += 1,
        }
    }

    pub(super) fn tallies(&self) -> BTreeMap<Operation, Tally> {
        self.0.lock().expect("nothing panics while it counts").clone()
    }
}

/// What a test may set, and a shop that finds the sandbox at work.
#[derive(Default)]
pub(super) struct Knobs {
    auto_approve: Mutex<Option<Duration>>,
    serve_chain: AtomicBool,
    webhook_url: Mutex<Option<String>>,
}

impl Knobs {
    /// How long after its creation an order is approved without a buyer, if at all.
    pub(super) fn auto_approve(&self) -> Option<Duration> {
        *self.auto_approve.lock().expect("nothing panics while it holds a knob")
    }

    pub(super) fn set_auto_approve(&self, after: Option<Duration>) {
        *self.auto_approve.lock().expect("nothing panics while it holds a knob") = after;
    }

    /// Whether the certificate is served with its root behind it, or alone.
    pub(super) fn serve_chain(&self) -> bool {
        self.serve_chain.load(Ordering::Relaxed)
    }

    pub(super) fn set_serve_chain(&self, chain: bool) {
        self.serve_chain.store(chain, Ordering::Relaxed);
    }

    /// Where events are delivered, if not where the sandbox was told to when it began.
    fn webhook_url(&self) -> Option<String> {
        self.webhook_url.lock().expect("nothing panics while it holds a knob").clone()
    }

    pub(super) fn set_webhook_url(&self, url: String) {
        *self.webhook_url.lock().expect("nothing panics while it holds a knob") = Some(url);
    }
}
