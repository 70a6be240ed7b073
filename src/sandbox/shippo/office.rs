//! Shippo's office: its books behind one lock, its journal, and the clerk who does what was left QUEUED. Time and the
//! end of the sandbox are the bank's, which is in the same house.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Value, json, value::to_raw_value};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::{
    Settings,
    books::{Books, Change, Delivery, Queued},
    courier::Courier,
    errors::Refusal,
    faults::{Faults, Operation},
    profile::{self, Profile, Shape},
    shipments, transactions,
};
use crate::sandbox::{bank, books::DeliveryState, journal::Journal};

pub(super) type Desk = Arc<Office>;

/// How long a call waits for the early delivery of its own event.
const EARLY_LIMIT: Duration = Duration::from_secs(15);
/// For how long things stay QUEUED, unless a test says otherwise.
const QUEUE_MS: i64 = 100;

pub(in crate::sandbox) struct Office {
    pub(super) house: bank::Shared,
    pub(super) settings: Settings,
    pub(super) faults: Faults,
    pub(super) courier: Courier,
    pub(super) calls: Calls,
    knobs: Mutex<Knobs>,
    /// How often each label's file was fetched since this start.
    downloads: Mutex<HashMap<String, u32>>,
    books: Mutex<Books>,
    journal: Journal,
    queued: Notify,
}

/// What a test may set.
#[derive(Clone, Serialize)]
pub(super) struct Knobs {
    pub(super) profile: Profile,
    pub(super) webhook_url: Option<String>,
    #[serde(skip)]
    pub(super) webhook_secret: Option<String>,
    /// None: until a test says otherwise.
    pub(super) queue_ms: Option<i64>,
}

impl Office {
    /// Reads the books and takes up the deliveries that are due. Blocks.
    pub(in crate::sandbox) fn open(house: bank::Shared) -> io::Result<Self> {
        let settings = house.settings.shippo.clone();
        let dir = house.settings.dir.join("shippo");
        fs::create_dir_all(&dir)?;
        let mut books = Books::default();
        let journal = Journal::open(&dir, |change: Change| books.apply(&change))?;
        let courier = Courier::new()?;
        for delivery in books.deliveries.rows() {
            courier.accept(delivery, journal.last());
        }
        let knobs = Knobs {
            profile: Profile::Strict,
            webhook_url: settings.webhook_url.clone(),
            webhook_secret: settings.webhook_secret.clone(),
            queue_ms: Some(QUEUE_MS),
        };
        Ok(Self {
            house,
            settings,
            faults: Faults::default(),
            courier,
            calls: Calls::default(),
            knobs: Mutex::new(knobs),
            downloads: Mutex::default(),
            books: Mutex::new(books),
            journal,
            queued: Notify::new(),
        })
    }

    /// Decides under the lock, changes the books, and returns when that is on disk: what the caller gets to know, it may
    /// say.
    pub(super) async fn transact<T>(
        &self,
        decide: impl FnOnce(&Books, DateTime<Utc>) -> Result<(T, Change), Refusal>,
    ) -> Result<T, Refusal> {
        let (answer, line, early) = {
            let mut books = self.locked();
            let (answer, change) = decide(&books, self.now())?;
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
    pub(super) async fn inspect<T>(&self, read: impl FnOnce(&Books) -> T) -> Result<T, Refusal> {
        let (answer, line) = {
            let books = self.locked();
            (read(&books), self.journal.last())
        };
        self.saved(line).await?;
        Ok(answer)
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
    pub(super) async fn saved(&self, line: u64) -> Result<(), Refusal> {
        self.journal.synced(line).await.map_err(|_| Refusal::bare(StatusCode::INTERNAL_SERVER_ERROR))
    }

    fn commit(&self, books: &mut Books, change: &Change) -> (u64, Vec<oneshot::Receiver<()>>) {
        if change.is_empty() {
            return (self.journal.last(), Vec::new());
        }
        books.apply(change);
        let line = self.journal.append(change);
        let mut early = Vec::new();
        for delivery in &change.deliveries {
            if delivery.attempts.is_empty() && self.faults.is_early(&delivery.event) {
                early.extend(self.courier.accept_early(delivery, line));
            } else {
                self.courier.accept(delivery, line);
            }
        }
        self.queued.notify_one();
        (line, early)
    }

    /// Adds an event to a change: a delivery for every URL that wants to hear of it, as often as it is told of it.
    pub(super) fn announce(&self, books: &Books, change: &mut Change, event: &str, data: Value, times: u32) {
        let now = self.now();
        let knobs = self.knobs();
        let shape = if event == "track_updated" { Shape::Track } else { Shape::Transaction };
        let body = json!({"event": event, "test": true, "data": profile::dressed(knobs.profile, shape, data)});
        let body = to_raw_value(&body).expect("an event is plain data");
        let fits = |wanted: &str| wanted == "all" || wanted == event;
        let hooks = books.live_hooks().filter(|hook| hook.active && fits(&hook.event)).map(|hook| hook.url.clone());
        for url in hooks.chain(knobs.webhook_url) {
            for _ in 0..times {
                change.deliveries.push(Arc::new(Delivery {
                    id: id(),
                    event: event.to_owned(),
                    url: url.clone(),
                    created: now,
                    state: DeliveryState::Due(now),
                    attempts: Vec::new(),
                    body: body.clone(),
                }));
            }
        }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.house.clock.now()
    }

    /// For how long what is begun now stays QUEUED.
    pub(super) fn queue(&self, now: DateTime<Utc>) -> Queued {
        match self.knobs().queue_ms {
            Some(ms) => Queued::Until(now + TimeDelta::milliseconds(ms)),
            None => Queued::Stuck,
        }
    }

    pub(super) fn knobs(&self) -> Knobs {
        self.knobs.lock().expect("nothing panics while it holds the knobs").clone()
    }

    pub(super) fn turn(&self, turn: impl FnOnce(&mut Knobs)) {
        turn(&mut self.knobs.lock().expect("nothing panics while it holds the knobs"));
    }

    pub(super) fn downloads(&self, transaction_id: &str) -> u32 {
        self.downloads.lock().expect("nothing panics while it counts").get(transaction_id).copied().unwrap_or(0)
    }

    pub(super) fn count_download(&self, transaction_id: &str) {
        *self
            .downloads
            .lock()
            .expect("nothing panics while it counts")
            .entry(transaction_id.to_owned())
            .or_default() += 1;
    }

    /// An object as the profile has it.
    pub(super) fn answer(&self, status: StatusCode, shape: Shape, object: Value) -> Response {
        (status, Json(profile::dressed(self.knobs().profile, shape, object))).into_response()
    }

    /// A page of objects as the profile has them.
    pub(super) fn answer_list(&self, shape: Shape, list: Value) -> Response {
        Json(profile::dressed_list(self.knobs().profile, shape, list)).into_response()
    }

    fn locked(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("nothing panics while it holds the books")
    }

    /// Does what is QUEUED and due.
    async fn settle_due(&self) {
        let settle = |books: &Books, now| {
            let mut change = Change::default();
            for id in books.due(now) {
                if let Some(shipment) = books.shipments.get(&id) {
                    shipments::rated(shipment, now).put(&mut change);
                } else if let Some(transaction) = books.transactions.get(&id) {
                    transactions::bought(self, books, &mut change, transaction, now);
                }
            }
            Ok(((), change))
        };
        if self.look(|books| books.next_due().is_some_and(|due| due <= self.now())) {
            // An error says that the sandbox is stopping; the next one goes on from the books.
            let _stopping = self.transact(settle).await;
        }
    }

    /// Writes what is queued and lets go of the books.
    pub(in crate::sandbox) async fn close(&self) {
        self.journal.close().await;
    }
}

/// The clerk: works until the sandbox stops.
pub(in crate::sandbox) async fn run(desk: Desk) {
    loop {
        let queued = desk.queued.notified();
        desk.settle_due().await;
        let due = desk.look(Books::next_due);
        tokio::select! {
            () = queued => {}
            () = desk.house.clock.until(due) => {}
            () = desk.house.stopped() => return,
        }
    }
}

/// A name in Shippo's style: 32 hexadecimal digits.
pub(super) fn id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// How often each call was made since this start, and what came of it.
#[derive(Default)]
pub(super) struct Calls(Mutex<BTreeMap<Operation, Tally>>);

#[derive(Default, Clone, Copy, Serialize)]
pub(super) struct Tally {
    received: u64,
    done: u64,
    refused: u64,
}

impl Calls {
    pub(super) fn count(&self, operation: Operation, status: StatusCode) {
        let mut tallies = self.0.lock().expect("nothing panics while it counts");
        let tally = tallies.entry(operation).or_default();
        tally.received += 1;
        if status.is_success() {
            tally.done += 1;
        } else {
            tally.refused += 1;
        }
    }

    pub(super) fn tallies(&self) -> BTreeMap<Operation, Tally> {
        self.0.lock().expect("nothing panics while it counts").clone()
    }
}
