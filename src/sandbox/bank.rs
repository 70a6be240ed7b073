//! The bank: its books behind one lock, its journal, its clock, and the one way in which anything changes.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{body::Bytes, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::{
    Settings,
    books::{Books, Change},
    clock::Clock,
    errors::Problem,
    faults::{Faults, Operation},
    journal::Journal,
    orders,
    records::{Delivery, Instrument, Order, RefundStatus, Webhook},
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
        let journal = Journal::open(&settings.dir, |change| books.apply(&change))?;
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
            let (line, early) = self.commit(&mut books, change);
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

    /// The webhooks that are registered; the configured one is there from the start.
    pub(super) fn webhooks(&self, books: &Books) -> Vec<Webhook> {
        let is_other = |webhook: &&Arc<Webhook>| webhook.id != self.settings.webhook_id;
        let others = books.webhooks.rows().iter().filter(is_other).map(|webhook| (**webhook).clone());
        let all = std::iter::once(self.configured(books)).chain(others);
        all.filter(|webhook| !webhook.deleted).collect()
    }

    /// The configured webhook as it is now: it may have been told to go elsewhere, changed over the API, or deleted.
    pub(super) fn configured(&self, books: &Books) -> Webhook {
        let Settings { webhook_id, webhook_url, .. } = &self.settings;
        let original = || Webhook {
            id: webhook_id.clone(),
            url: webhook_url.clone(),
            event_types: vec!["*".to_owned()],
            deleted: false,
        };
        let mut webhook = books.webhooks.get(webhook_id).map_or_else(original, |webhook| (**webhook).clone());
        if let Some(url) = self.knobs.webhook_url() {
            webhook.url = url;
        }
        webhook
    }

    /// Reads what is in memory.
    pub(super) fn look<T>(&self, read: impl FnOnce(&Books) -> T) -> T {
        read(&self.locked())
    }

    /// Changes the books without waiting for the disk: for deliveries, where the worst is a delivery too many.
    pub(super) fn note(&self, change: Change) {
        self.commit(&mut self.locked(), change);
    }

    /// Returns when line `line` of the journal is on disk.
    pub(super) async fn saved(&self, line: u64) -> Result<(), Problem> {
        self.journal.synced(line).await.map_err(|_| Problem::bare(StatusCode::INTERNAL_SERVER_ERROR))
    }

    fn commit(&self, books: &mut Books, mut change: Change) -> (u64, Vec<oneshot::Receiver<()>>) {
        if change.is_empty() {
            return (self.journal.last(), Vec::new());
        }
        self.address(books, &mut change);
        books.apply(&change);
        let line = self.journal.append(&change);
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

    /// Adds a transmission of each event to each webhook that wants it.
    fn address(&self, books: &Books, change: &mut Change) {
        let told = change.events.iter().filter(|event| !event.simulated);
        let told: Vec<_> = told.cloned().collect();
        if told.is_empty() {
            return;
        }
        let (webhooks, certificate) = (self.webhooks(books), self.authority.genuine());
        for event in told {
            let wanting = webhooks.iter().filter(|webhook| webhook.wants(&event.event_type));
            let deliveries = wanting.map(|webhook| Delivery::of(&event, &webhook.id, &certificate.name, event.created));
            change.deliveries.extend(deliveries.map(Arc::new));
        }
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

/// How often each call was made since this start, what came of it, and what the last ones said.
#[derive(Default)]
pub(super) struct Calls {
    tallies: Mutex<BTreeMap<Operation, Tally>>,
    last: Mutex<VecDeque<CallRecord>>,
}

/// How many calls are remembered word for word.
const CALLS_KEPT: usize = 256;

/// A call that wanted something done, in the caller's own words. None carries credentials.
#[derive(Clone)]
pub(super) struct CallRecord {
    pub(super) on: Operation,
    pub(super) path: String,
    pub(super) request_id: Option<String>,
    pub(super) body: Bytes,
}

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
        let mut tallies = self.tallies.lock().expect("nothing panics while it counts");
        let tally = tallies.entry(operation).or_default();
        tally.received += 1;
        match status {
            StatusCode::OK if operation.can_be_replayed() => tally.replayed += 1,
            status if status.is_success() => tally.executed += 1,
            _ => tally.refused += 1,
        }
    }

    pub(super) fn tallies(&self) -> BTreeMap<Operation, Tally> {
        self.tallies.lock().expect("nothing panics while it counts").clone()
    }

    pub(super) fn remember(&self, call: CallRecord) {
        let mut last = self.last.lock().expect("nothing panics while it remembers");
        last.push_back(call);
        if last.len() > CALLS_KEPT {
            last.pop_front();
        }
    }

    /// The oldest first.
    pub(super) fn last(&self) -> Vec<CallRecord> {
        self.last.lock().expect("nothing panics while it remembers").iter().cloned().collect()
    }
}

/// What a test may set, and a shop that finds the sandbox at work.
#[derive(Default)]
pub(super) struct Knobs {
    auto_approve: Mutex<Option<Duration>>,
    serve_chain: AtomicBool,
    webhook_url: Mutex<Option<String>>,
    refunds: Mutex<RefundStatus>,
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

    /// What refunds over the API come to.
    pub(super) fn refunds(&self) -> RefundStatus {
        *self.refunds.lock().expect("nothing panics while it holds a knob")
    }

    pub(super) fn set_refunds(&self, status: RefundStatus) {
        *self.refunds.lock().expect("nothing panics while it holds a knob") = status;
    }

    /// Where the configured webhook is, if somebody has pulled this string.
    fn webhook_url(&self) -> Option<String> {
        self.webhook_url.lock().expect("nothing panics while it holds a knob").clone()
    }

    pub(super) fn set_webhook_url(&self, url: Option<String>) {
        *self.webhook_url.lock().expect("nothing panics while it holds a knob") = url;
    }
}
