//! The door: everything that the shop can ask of the engine, one method each.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use dashmap::DashMap;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    checkout::{Checkout, Checkouts, Coordinator, Outcome, Placed},
    clock::Clock,
    context::{Context, ReturnUrls},
    directory::{Directory, Kind, Node},
    domain::{
        Counters, Invalid, OrderId, OrderStatus, PartState, Policy, Refusal, ShortLine, SkuId, Who,
        change::{Adjustment, Changes, Opening},
    },
    error,
    faults::Faults,
    journal::{Condition, Journal, JournalReport, Verdict},
    order::{Msg, Orderly, Orders},
    payment::{Paying, Payments},
    ports::{Locator, PaymentProvider},
    reconciler::{self, Reconciling},
    sku::{HoldError, Sku, Skus},
    store::{
        Ids,
        audit::{self, Finding},
        entry::{Entry, Key, Line},
        load,
        read::{self, EventView, LedgerRow, OrderRow, OrderView},
    },
    supervision::Tree,
};

/// How an engine is set up.
pub struct Settings {
    /// The database, migrated.
    pub connect: PgConnectOptions,
    /// Connections for loading and looking; the journal has one of its own.
    pub pool: u32,
    /// Checkouts that may be under way at once; the next one is refused.
    pub admission: usize,
    /// The shop's rules.
    pub policy: Policy,
    /// Providers of payments.
    pub providers: Vec<Arc<dyn PaymentProvider>>,
    /// Where a provider sends the buyer of an order back to: after approving, after changing its mind.
    pub return_urls: ReturnUrls,
    /// The clock; it is calibrated to the database.
    pub clock: Clock,
    /// Places that tests break.
    pub faults: Arc<Faults>,
}

/// Entries that the engine's own work may have queued beside the buyers'.
const INTERNAL: usize = 4_096;

/// No SKU opens with more, and no correction is larger: far from every overflow.
const MOST_UNITS: i64 = 1_000_000_000;

/// A running engine. Dropping it leaves the actors running; [`Engine::stop`] ends them in order.
pub struct Engine {
    context: Arc<Context>,
    skus: Skus,
    orders: Orders,
    payments: Payments,
    checkouts: Checkouts,
    coordinators: Arc<Directory<Coordinator>>,
    reconciler: Arc<Directory<Reconciling>>,
    heartbeat: tokio::task::JoinHandle<()>,
    tree: Tree,
    admission: Arc<Semaphore>,
    flights: Flights,
    fatal: watch::Receiver<Option<String>>,
    stopping: AtomicBool,
}

/// How a checkout ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckedOut {
    /// A new order.
    New(Placed),
    /// The order that this key had placed before.
    Replayed(OrderId),
}

/// A staff correction of stock.
#[derive(Debug, Clone)]
pub struct Adjust {
    /// Whose key.
    pub principal: String,
    /// The client's idempotency key.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// Of which SKU.
    pub sku_id: SkuId,
    /// By how many units, up or down.
    pub delta: i64,
    /// Why.
    pub reason: String,
}

/// A verified webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// From whom.
    pub provider: &'static str,
    /// The provider's id of the event.
    pub event_id: String,
    /// The provider's id of the delivery, which is what its signature covers.
    pub transmission_id: String,
    /// As it came.
    pub body: Vec<u8>,
}

impl Engine {
    /// Takes the database over and starts every actor. An older engine on it can write no more.
    ///
    /// # Errors
    /// Where the database cannot be reached or is not migrated.
    pub async fn start(settings: Settings) -> Result<Self, sqlx::Error> {
        let pool = open_pool(&settings).await?;
        let clock = settings.clock;
        clock.calibrate(sqlx::query_scalar::<_, DateTime<Utc>>("select clock_timestamp()").fetch_one(&pool).await?);

        let (give_up, fatal) = watch::channel(None);
        let escalate: Arc<dyn Fn(String) + Send + Sync> = Arc::new(move |why| {
            tracing::error!(why, "the engine gives up");
            give_up.send_replace(Some(why));
        });
        let skus = Skus(Directory::new(
            Sku::new(pool.clone(), Arc::clone(&settings.faults)),
            clock.clone(),
            Arc::clone(&escalate),
        ));
        let publish = skus.clone();
        let faults = Arc::clone(&settings.faults);
        let limit = settings.admission + INTERNAL;
        let journal =
            Journal::start(settings.connect, limit, faults, move |sku_id, counters| publish.publish(sku_id, counters))
                .await?;
        let context = Arc::new(Context {
            clock: clock.clone(),
            policy: settings.policy,
            journal,
            ids: Ids::new(pool.clone(), clock.clone()),
            pool,
            faults: settings.faults,
            providers: settings
                .providers
                .into_iter()
                .map(|provider| (provider.name(), provider))
                .collect::<HashMap<_, _>>(),
            return_urls: settings.return_urls,
        });

        load::wake_inbox(&context.pool, clock.now()).await?;
        let orderly = Orderly { context: Arc::clone(&context), skus: skus.clone(), payments: OnceLock::new() };
        let orders = Orders(Directory::new(orderly, clock.clone(), Arc::clone(&escalate)));
        let paying = Paying { context: Arc::clone(&context), orders: OnceLock::from(orders.clone()) };
        let payments = Payments(Directory::new(paying, clock.clone(), Arc::clone(&escalate)));
        orders.0.kind.payments.set(payments.clone()).ok();
        let coordinator = Coordinator { context: Arc::clone(&context), skus: skus.clone(), orders: orders.clone() };
        let coordinators = Directory::new(coordinator, clock.clone(), Arc::clone(&escalate));
        let reconciling = Reconciling {
            context: Arc::clone(&context),
            skus: skus.clone(),
            orders: orders.clone(),
            payments: payments.clone(),
        };
        let reconciler = Directory::new(reconciling, clock.clone(), escalate);

        let tree = plant(&skus, &orders, &payments, &coordinators, &reconciler)
            .await
            .map_err(|_| sqlx::Error::WorkerCrashed)?;
        let heartbeat = tokio::spawn(reconciler::keep_beating(Arc::clone(&context), Arc::clone(&reconciler)));
        Ok(Self {
            context,
            skus,
            orders,
            payments,
            checkouts: Checkouts::new(Arc::clone(&coordinators)),
            coordinators,
            reconciler,
            heartbeat,
            tree,
            admission: Arc::new(Semaphore::new(settings.admission)),
            flights: Flights::default(),
            fatal,
            stopping: AtomicBool::new(false),
        })
    }

    // ── buyers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Places an order: its lines are held and it is in Postgres, or nothing has happened. The same key again finds the
    /// same order.
    ///
    /// # Errors
    /// Any [`Refusal`]; after [`Refusal::Unknown`] the same key tells.
    pub async fn checkout(&self, checkout: Checkout) -> Result<CheckedOut, Refusal> {
        checkout.check()?;
        if let Some(provider) = &checkout.payment {
            self.takes(provider)?;
        }
        let (principal, key, fingerprint) = (checkout.principal.clone(), checkout.key.clone(), checkout.fingerprint);
        let _flight = loop {
            match self.flights.board(&principal, &key, fingerprint)? {
                Boarding::First(flight) => break flight,
                Boarding::Behind(mut other) => {
                    other.changed().await.ok(); // ends with its sender
                    if let Some(order_id) = self.placed_before(&principal, &key, &fingerprint).await? {
                        return Ok(CheckedOut::Replayed(order_id));
                    }
                }
            }
        };
        let permit = self.admit()?;
        match self.checkouts.begin(checkout, permit).await {
            Ok(Outcome::Placed(placed)) => Ok(CheckedOut::New(placed)),
            Ok(Outcome::KeyTaken) => {
                let before = self.placed_before(&principal, &key, &fingerprint).await?;
                before.map(CheckedOut::Replayed).ok_or(Refusal::Fault)
            }
            // the order that this key has placed may be why there is nothing left
            Err(refusal @ (Refusal::OutOfStock(_) | Refusal::Invalid(_))) => {
                let before = self.placed_before(&principal, &key, &fingerprint).await?;
                before.map(CheckedOut::Replayed).ok_or(refusal)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The order that a key has placed, if it has.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`] where it was used for something else.
    pub async fn placed_before(
        &self,
        principal: &str,
        key: &str,
        fingerprint: &[u8; 32],
    ) -> Result<Option<OrderId>, Refusal> {
        let used = self.used(principal, key, "checkout", fingerprint).await?;
        Ok(used.map(OrderId))
    }

    async fn used(
        &self,
        principal: &str,
        key: &str,
        route: &str,
        fingerprint: &[u8; 32],
    ) -> Result<Option<i64>, Refusal> {
        let used = load::used(&self.context.pool, principal, key).await.map_err(|error| error::refusal(&error))?;
        let Some(used) = used else { return Ok(None) };
        if used.route != route || used.fingerprint != fingerprint {
            return Err(Refusal::KeyReused);
        }
        Ok(Some(used.ref_id))
    }

    /// Opens a payment of an order, or finds the open one; answers with the page where the buyer approves it.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] where there is nothing to pay; the caller bounds the time it waits for the provider.
    pub async fn pay(&self, order_id: OrderId, provider: &str) -> Result<String, Refusal> {
        self.takes(provider)?;
        self.serving()?;
        let provider = provider.to_owned();
        self.orders.0.ask(order_id, |reply| Msg::Pay { provider, reply }).await
    }

    fn takes(&self, provider: &str) -> Result<(), Invalid> {
        let taken = self.context.providers.contains_key(provider);
        if taken { Ok(()) } else { Err(Invalid::new("provider", "is not one that this shop takes")) }
    }

    /// The buyer's browser is back from the provider, which proves nothing: the provider is asked.
    pub async fn look(&self, order_id: OrderId) {
        self.orders.tell(order_id, Msg::Look).await;
    }

    /// Calls an unpaid order off. A second cancel finds it cancelled.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] once it is paid or over.
    pub async fn cancel(&self, order_id: OrderId, who: Who) -> Result<OrderStatus, Refusal> {
        self.serving()?;
        self.orders.0.ask(order_id, |reply| Msg::Cancel { who, reply }).await
    }

    /// An order as committed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn order(&self, order_id: OrderId) -> Result<OrderView, Refusal> {
        let found = read::order(&self.context.pool, order_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("order"))
    }

    /// An order's timeline.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn events(&self, order_id: OrderId) -> Result<Vec<EventView>, Refusal> {
        let events = read::events(&self.context.pool, order_id).await.map_err(|error| error::refusal(&error))?;
        if events.is_empty() { Err(Refusal::NotFound("order")) } else { Ok(events) }
    }

    /// What can be sold of each SKU, as committed: from its actor's memory where it has one, else from Postgres. SKUs
    /// without stock are left out.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn available(&self, sku_ids: &[SkuId]) -> Result<HashMap<SkuId, i64>, Refusal> {
        let mut known: HashMap<SkuId, i64> = HashMap::with_capacity(sku_ids.len());
        let mut unknown = Vec::new();
        for sku_id in sku_ids {
            match self.skus.committed(*sku_id) {
                Some(counters) => drop(known.insert(*sku_id, counters.available())),
                None => unknown.push(sku_id.0),
            }
        }
        if !unknown.is_empty() {
            let loaded = load::counters(&self.context.pool, &unknown).await.map_err(|error| error::refusal(&error))?;
            known.extend(loaded.into_iter().map(|(sku_id, counters)| (SkuId(sku_id), counters.available())));
        }
        Ok(known)
    }

    // ── providers ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Keeps a verified webhook, durably; what it means is found out after the answer. False: it was here before.
    ///
    /// # Errors
    /// [`Refusal::Away`], and the provider sends it again.
    pub async fn webhook(&self, webhook: Webhook) -> Result<bool, Refusal> {
        let provider = self.context.providers.get(webhook.provider).ok_or(Refusal::NotFound("provider"))?;
        let locator = provider.locate(&webhook.body);
        let now = self.context.clock.now();
        let stored = store_webhook(&self.context.pool, &webhook, &locator, now);
        let inbox_id = stored.await.map_err(|error| error::refusal(&error))?;
        let Some(inbox_id) = inbox_id else { return Ok(false) };
        self.context.faults.hit("inbox.stored", "");
        self.payments.signal(webhook.provider, inbox_id, locator).await;
        Ok(true)
    }

    // ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Numbers for the shop's own records, from the engine's one series.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn ids(&self, count: i64) -> Result<std::ops::Range<i64>, Refusal> {
        self.context.ids.take(count).await
    }

    /// Opens SKUs with their first stock. Those that are open already are left as they are.
    ///
    /// # Errors
    /// [`Refusal::Away`] and the like.
    pub async fn open_stock(&self, openings: Vec<Opening>) -> Result<(), Refusal> {
        self.serving()?;
        if openings.iter().any(|opening| !(0..=MOST_UNITS).contains(&opening.on_hand)) {
            return Err(Invalid::new("on_hand", format!("is a whole number from 0 to {MOST_UNITS}")).into());
        }
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        entry.changes = Some(Box::new(Changes { openings, ..Changes::default() }));
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => Ok(()),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::KeyTaken | Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }

    /// Corrects a SKU's stock by `delta`. The same key again changes nothing more. Answers with the counters now.
    ///
    /// # Errors
    /// [`Refusal::BelowReserved`], [`Refusal::NotFound`], [`Refusal::KeyReused`].
    pub async fn adjust(&self, adjust: Adjust) -> Result<Counters, Refusal> {
        self.serving()?;
        if adjust.delta == 0 || adjust.delta.unsigned_abs() > MOST_UNITS.unsigned_abs() {
            return Err(Invalid::new("delta", format!("is a whole number from 1 to {MOST_UNITS}, up or down")).into());
        }
        if let Some(()) = self.adjusted_before(&adjust).await? {
            return self.counters(adjust.sku_id).await;
        }
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        if adjust.delta < 0 {
            match self.skus.hold(adjust.sku_id, -adjust.delta).await {
                Ok(hold) => entry.holds.push(hold),
                Err(HoldError::SoldOut { available }) => {
                    // the correction that this key has made may be why there is nothing left
                    let done = self.adjusted_before(&adjust).await?.is_some();
                    let short = Refusal::BelowReserved { available };
                    return if done { self.counters(adjust.sku_id).await } else { Err(short) };
                }
                Err(HoldError::Refused(refusal)) => return Err(refusal),
            }
        } else {
            self.counters(adjust.sku_id).await?;
        }
        let ref_id = self.context.ids.take(1).await?.start;
        let (principal, key) = (adjust.principal.clone(), adjust.key.clone());
        entry.key = Some(Key { principal, key, route: "adjust", fingerprint: adjust.fingerprint, ref_id });
        let row = Adjustment { sku_id: adjust.sku_id, delta: adjust.delta, note: adjust.reason.clone() };
        entry.changes = Some(Box::new(Changes { adjustments: vec![row], ..Changes::default() }));
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => self.counters(adjust.sku_id).await,
            Verdict::KeyTaken => {
                self.adjusted_before(&adjust).await?;
                self.counters(adjust.sku_id).await
            }
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }

    async fn adjusted_before(&self, adjust: &Adjust) -> Result<Option<()>, Refusal> {
        let used = self.used(&adjust.principal, &adjust.key, "adjust", &adjust.fingerprint).await?;
        Ok(used.map(drop))
    }

    /// A SKU's counters as committed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn counters(&self, sku_id: SkuId) -> Result<Counters, Refusal> {
        let found = read::counters(&self.context.pool, sku_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("SKU"))
    }

    /// A SKU's ledger, newest first.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn ledger(&self, sku_id: SkuId, before: Option<i64>, most: i64) -> Result<Vec<LedgerRow>, Refusal> {
        read::ledger(&self.context.pool, sku_id, before, most).await.map_err(|error| error::refusal(&error))
    }

    /// Orders, newest first.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn orders(
        &self,
        before: Option<OrderId>,
        status: Option<OrderStatus>,
        most: i64,
    ) -> Result<Vec<OrderRow>, Refusal> {
        read::orders(&self.context.pool, before, status, most).await.map_err(|error| error::refusal(&error))
    }

    /// A reservation without the order around it: what the write path costs by itself. For `make bench`; a shop places
    /// orders.
    ///
    /// # Errors
    /// As [`Engine::checkout`].
    #[doc(hidden)]
    pub async fn reserve(&self, sku_id: SkuId, units: i64, unit_price_minor: i64) -> Result<(), Refusal> {
        let _permit = self.admit()?;
        let hold = self.skus.hold(sku_id, units).await.map_err(|error| match error {
            HoldError::SoldOut { available } => {
                Refusal::OutOfStock(vec![ShortLine { sku_id, requested: units, available }])
            }
            HoldError::Refused(refusal) => refusal,
        })?;
        let order_id = OrderId(self.context.ids.take(1).await?.start);
        let mut entry = Entry::new(self.context.clock.now(), Who::Buyer);
        entry.lines.push(Line { order_id, part: 0, line: 0, unit_price_minor, state: PartState::Held, hold });
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => Ok(()),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::KeyTaken | Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }

    // ── ops ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The whole tree, `most` actors of each kind.
    #[must_use]
    pub fn tree(&self, most: usize) -> Node {
        let report = self.context.journal.report();
        let condition = match report.condition {
            Condition::Running => "running",
            Condition::Away => "away",
            Condition::Superseded => "superseded",
        };
        let journal = Node {
            mailbox: report.queued,
            handled: report.entries,
            detail: serde_json::to_value(&report).ok(),
            ..Node::plain("journal", condition)
        };
        let children = vec![
            journal,
            self.skus.0.node(most),
            self.orders.0.node(most),
            self.coordinators.node(most),
            self.payments.0.node(most),
            self.reconciler.node(most),
        ];
        Node { children, ..Node::plain("souk", if self.serving().is_ok() { "running" } else { "away" }) }
    }

    /// Lets a quarantined actor start again, by its name in the tree, e.g. `sku/sku_…`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn release(&self, name: &str) -> Result<(), Refusal> {
        let (kind, key) = name.split_once('/').ok_or(Refusal::NotFound("actor"))?;
        let released = match kind {
            Sku::ONE => key.parse().is_ok_and(|sku_id| self.skus.0.release(sku_id)),
            Orderly::ONE => key.parse().is_ok_and(|order_id| self.orders.0.release(order_id)),
            Paying::ONE => {
                let provider = self.context.providers.keys().find(|name| **name == key);
                provider.is_some_and(|provider| self.payments.0.release(provider))
            }
            Coordinator::ONE => key.parse().is_ok_and(|number| self.coordinators.release(number)),
            Reconciling::ONE => self.reconciler.release(reconciler::KEY),
            _ => false,
        };
        if released { Ok(()) } else { Err(Refusal::NotFound("actor")) }
    }

    /// The journal's figures.
    #[must_use]
    pub fn journal(&self) -> JournalReport {
        self.context.journal.report()
    }

    /// Everything in the database that is not as it must be.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn audit(&self) -> Result<Vec<Finding>, Refusal> {
        audit::run(&self.context.pool, self.context.clock.now()).await.map_err(|error| error::refusal(&error))
    }

    /// The engine's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.context.clock
    }

    /// Whether requests are being served; if not, why.
    ///
    /// # Errors
    /// [`Refusal::Away`] or [`Refusal::Superseded`].
    pub fn serving(&self) -> Result<(), Refusal> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Away("the engine is stopping"));
        }
        match self.context.journal.condition() {
            Condition::Running => Ok(()),
            Condition::Away => Err(Refusal::Away("the database cannot be reached")),
            Condition::Superseded => Err(Refusal::Superseded),
        }
    }

    /// Resolves, with the reason, when this engine can go on no more: a newer one has taken over, or an actor that everything
    /// depends on keeps crashing.
    pub async fn gave_up(&self) -> String {
        let mut fatal = self.fatal.clone();
        tokio::select! {
            () = self.context.journal.superseded() => "a newer engine has taken over the database".to_owned(),
            Ok(why) = fatal.wait_for(Option::is_some) => why.clone().unwrap_or_default(),
        }
    }

    /// Stops in order: nothing new is let in, what was begun is finished, the actors end leaves first.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.heartbeat.abort();
        self.tree.fell().await;
        let patience = Duration::from_secs(5);
        tokio::time::timeout(patience, self.context.pool.close()).await.ok();
    }

    /// A place among the checkouts under way, before anything is decided.
    fn admit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.serving()?;
        Arc::clone(&self.admission).try_acquire_owned().map_err(|_| Refusal::Busy)
    }
}

async fn open_pool(settings: &Settings) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .max_connections(settings.pool)
        .acquire_timeout(Duration::from_secs(2))
        .connect_with(settings.connect.clone().application_name("souk engine"))
        .await
}

async fn plant(
    skus: &Skus,
    orders: &Orders,
    payments: &Payments,
    coordinators: &Arc<Directory<Coordinator>>,
    reconciler: &Arc<Directory<Reconciling>>,
) -> Result<Tree, Refusal> {
    let mut tree = Tree::plant().await?;
    // in the order in which they end: whoever begins work first, whoever carries it last
    tree.supervise(reconciler).await?;
    tree.supervise(coordinators).await?;
    tree.supervise(&payments.0).await?;
    tree.supervise(&orders.0).await?;
    tree.supervise(&skus.0).await?;
    Ok(tree)
}

async fn store_webhook(
    pool: &PgPool,
    webhook: &Webhook,
    locator: &Locator,
    now: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    // one statement, so nothing can be left open by a client that goes away
    sqlx::query_scalar(
        "insert into inbox (provider, event_id, transmission_id, event_type, locator, body, received_at, next_at)
         values ($1, $2, $3, $4, $5, $6, $7, $7 + interval '5 seconds')
         on conflict do nothing returning id",
    )
    .bind(webhook.provider)
    .bind(&webhook.event_id)
    .bind(&webhook.transmission_id)
    .bind(&locator.event_type)
    .bind(sqlx::types::Json(locator))
    .bind(&webhook.body)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// Checkouts under way in this process by their key: equal ones fly once.
#[derive(Default)]
struct Flights(Arc<DashMap<(String, String), Flying>>);

struct Flying {
    fingerprint: [u8; 32],
    landed: watch::Receiver<()>,
}

enum Boarding {
    /// Nobody flies with this key.
    First(Flight),
    /// Somebody does: wait until it has landed, and look.
    Behind(watch::Receiver<()>),
}

/// Lands when it is dropped.
struct Flight {
    flights: Arc<DashMap<(String, String), Flying>>,
    key: (String, String),
    _landing: watch::Sender<()>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.remove(&self.key);
    }
}

impl Flights {
    fn board(&self, principal: &str, key: &str, fingerprint: [u8; 32]) -> Result<Boarding, Refusal> {
        let key = (principal.to_owned(), key.to_owned());
        match self.0.entry(key.clone()) {
            dashmap::Entry::Occupied(flying) if flying.get().fingerprint != fingerprint => Err(Refusal::KeyReused),
            dashmap::Entry::Occupied(flying) => Ok(Boarding::Behind(flying.get().landed.clone())),
            dashmap::Entry::Vacant(vacant) => {
                let (landing, landed) = watch::channel(());
                vacant.insert(Flying { fingerprint, landed });
                Ok(Boarding::First(Flight { flights: Arc::clone(&self.0), key, _landing: landing }))
            }
        }
    }
}
