//! The door: everything that the shop can ask of the engine, one method each.

mod buyers;
mod imports;
mod notices;
mod parcels;
mod rooms;
mod sales;
mod staff;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    calls::Claims,
    checkout::{Checkouts, Coordinator},
    clock::Clock,
    context::{Context, ReturnUrls},
    directory::{Directory, Kind, Node},
    domain::{Address, Channel, Policy, Refusal, RoomRules},
    error,
    faults::Faults,
    flights::Flights,
    importer::{Importing, Imports},
    journal::{Condition, Journal, JournalReport},
    listeners::Listeners,
    news::News,
    order::{Orderly, Orders},
    outbox::{self, Telling},
    payment::{Paying, Payments},
    ports::{Carrier, Notifier, PaymentProvider},
    reconciler::{self, Reconciling},
    retries::Retries,
    room::{Rooms, Waiting},
    sales::Sales,
    shipping::{Carrying, Shipping},
    sku::{Sku, Skus},
    store::{
        Ids,
        audit::{self, Finding},
        inbox, load,
    },
    supervision::Tree,
};

pub use buyers::{CheckedOut, Retry, Webhook};
pub use imports::{Import, Imported};
pub use notices::{Resubscribe, Subscribe};
pub use parcels::ParcelWebhook;
pub use sales::{Made, Selling};
pub use staff::Adjust;

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
    /// The rules of waiting rooms.
    pub rooms: RoomRules,
    /// Providers of payments.
    pub providers: Vec<Arc<dyn PaymentProvider>>,
    /// Ways out for news; what has none is told to nobody.
    pub notifiers: Vec<Arc<dyn Notifier>>,
    /// Carriers of parcels.
    pub carriers: Vec<Arc<dyn Carrier>>,
    /// Where parcels begin; without it no carrier is asked for a label.
    pub ship_from: Option<Address>,
    /// Where a provider sends the buyer of an order back to: after approving, after changing its mind.
    pub return_urls: ReturnUrls,
    /// The clock; it is calibrated to the database.
    pub clock: Clock,
    /// Places that tests break.
    pub faults: Arc<Faults>,
}

/// Entries that the engine's own work may have queued beside the buyers'.
const INTERNAL: usize = 4_096;

/// A running engine. Dropping it leaves the actors running; [`Engine::stop`] ends them in order.
pub struct Engine {
    context: Arc<Context>,
    actors: Actors,
    checkouts: Checkouts,
    heartbeats: [tokio::task::JoinHandle<()>; 3],
    tree: Tree,
    admission: Arc<Semaphore>,
    flights: Flights,
    fatal: watch::Receiver<Option<String>>,
    stopping: AtomicBool,
}

impl Engine {
    /// Takes the database over and starts every actor. An older engine on it can write no more.
    ///
    /// # Errors
    /// Where the database cannot be reached or is not migrated.
    pub async fn start(settings: Settings) -> Result<Self, sqlx::Error> {
        let pool = open_pool(&settings, settings.pool, &[]).await?;
        let looking = open_pool(&settings, 1, &IN_ORDER).await?;
        let reading = open_pool(&settings, READING, &[]).await?;
        let clock = settings.clock;
        clock.calibrate(sqlx::query_scalar::<_, DateTime<Utc>>("select clock_timestamp()").fetch_one(&pool).await?);

        let (give_up, fatal) = watch::channel(None);
        let escalate: Arc<dyn Fn(String) + Send + Sync> = Arc::new(move |why| {
            tracing::error!(why, "the engine gives up");
            give_up.send_replace(Some(why));
        });
        let sales = Arc::new(Sales::default());
        let skus = Skus(Directory::new(
            Sku::new(pool.clone(), clock.clone(), Arc::clone(&sales), Arc::clone(&settings.faults)),
            clock.clone(),
            Arc::clone(&escalate),
        ));
        let notifiers: HashMap<Channel, _> =
            settings.notifiers.into_iter().map(|notifier| (notifier.channel(), notifier)).collect();
        let news = Arc::new(News::new(notifiers.contains_key(&Channel::Mail)));
        let listeners = Listeners::default();
        let (publish, told) = (skus.clone(), listeners.clone());
        let faults = Arc::clone(&settings.faults);
        let limit = settings.admission + INTERNAL;
        let journal =
            Journal::start(settings.connect, limit, faults, Arc::clone(&news), move |sku_id, counters, shares| {
                publish.publish(sku_id, counters, shares);
                told.tell(sku_id, counters);
            })
            .await?;
        news.learn(load::notices::subscriptions(&pool).await?);
        sales.learn(load::sales::open(&pool, clock.now()).await?);
        let context = Arc::new(Context {
            clock: clock.clone(),
            policy: settings.policy,
            rooms: settings.rooms,
            journal,
            ids: Ids::new(pool.clone(), clock.clone()),
            pool,
            looking,
            reading,
            faults: settings.faults,
            providers: settings
                .providers
                .into_iter()
                .map(|provider| (provider.name(), provider))
                .collect::<HashMap<_, _>>(),
            notifiers,
            news,
            sales,
            listeners,
            retries: Retries::new(),
            carriers: settings.carriers.into_iter().map(|carrier| (carrier.name(), carrier)).collect(),
            ship_from: settings.ship_from,
            return_urls: settings.return_urls,
        });

        load::wake_inbox(&context.pool, clock.now()).await?;
        let providers: Vec<&str> = context.providers.keys().copied().collect();
        inbox::place_cursors(&context.pool, &providers, clock.now()).await?;
        let actors = Actors::new(&context, skus, &escalate);
        let tree = actors.plant().await.map_err(|_| sqlx::Error::WorkerCrashed)?;
        let heartbeats = [
            tokio::spawn(reconciler::keep_beating(Arc::clone(&context), Arc::clone(&actors.reconciler))),
            tokio::spawn(outbox::keep_telling(Arc::clone(&context), Arc::clone(&actors.outbox))),
            tokio::spawn(know_retries(Arc::clone(&context))),
        ];
        Ok(Self {
            context,
            checkouts: Checkouts::new(Arc::clone(&actors.coordinators)),
            actors,
            heartbeats,
            tree,
            admission: Arc::new(Semaphore::new(settings.admission)),
            flights: Flights::default(),
            fatal,
            stopping: AtomicBool::new(false),
        })
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
            self.actors.skus.0.node(most),
            self.actors.orders.0.node(most),
            self.actors.coordinators.node(most),
            self.actors.rooms.0.node(most),
            self.actors.payments.0.node(most),
            self.actors.shipping.0.node(most),
            self.actors.imports.0.node(most),
            self.actors.outbox.node(most),
            self.actors.reconciler.node(most),
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
            Sku::ONE => key.parse().is_ok_and(|sku_id| self.actors.skus.0.release(sku_id)),
            Orderly::ONE => key.parse().is_ok_and(|order_id| self.actors.orders.0.release(order_id)),
            Paying::ONE => {
                let provider = self.context.providers.keys().find(|name| **name == key);
                provider.is_some_and(|provider| self.actors.payments.0.release(provider))
            }
            Importing::ONE => key.parse().is_ok_and(|import_id| self.actors.imports.0.release(import_id)),
            Carrying::ONE => {
                let carrier = self.context.carriers.keys().find(|name| **name == key);
                carrier.is_some_and(|carrier| self.actors.shipping.0.release(carrier))
            }
            Waiting::ONE => key.parse().is_ok_and(|sale_id| self.actors.rooms.0.release(sale_id)),
            Coordinator::ONE => key.parse().is_ok_and(|number| self.actors.coordinators.release(number)),
            Telling::ONE => key.parse().is_ok_and(|channel| self.actors.outbox.release(channel)),
            Reconciling::ONE => self.actors.reconciler.release(reconciler::KEY),
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
        audit::run(&self.context.reading, self.context.clock.now()).await.map_err(|error| error::refusal(&error))
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
        self.heartbeats.iter().for_each(tokio::task::JoinHandle::abort);
        self.tree.fell().await;
        let patience = Duration::from_secs(5);
        let Context { pool, looking, reading, .. } = &*self.context;
        let closed = futures::future::join3(pool.close(), looking.close(), reading.close());
        tokio::time::timeout(patience, closed).await.ok();
    }

    /// Whether as many checkouts are under way as there may be: the next one would be refused, whatever it is of.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.admission.available_permits() == 0
    }

    /// A place among the checkouts under way, before anything is decided.
    fn admit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.serving()?;
        Arc::clone(&self.admission).try_acquire_owned().map_err(|_| Refusal::Busy)
    }
}

async fn know_retries(context: Arc<Context>) {
    context.retries.learn(&context.pool, &context.clock).await;
}

/// Whoever asked has left long before: Postgres is not to go on for nobody, nor a connection be kept by it.
const STATEMENT_TIMEOUT: &str = "60s";
/// Connections for what people read.
const READING: u32 = 4;

/// What is due is read in the order of its index, and no more of it than is taken. A plan from the statistics of a table that
/// was smaller gathers all that was ever due to sort it, and leaves what is dead in the index for the next look.
const IN_ORDER: [(&str, &str); 1] = [("enable_bitmapscan", "off")];

async fn open_pool(settings: &Settings, connections: u32, plans: &[(&str, &str)]) -> Result<PgPool, sqlx::Error> {
    let connect = settings.connect.clone().application_name("souk engine");
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(2))
        .connect_with(connect.options([("statement_timeout", STATEMENT_TIMEOUT)]).options(plans.iter().copied()))
        .await
}

/// Every kind of actor that people and providers make busy; the journal stands by itself.
struct Actors {
    skus: Skus,
    orders: Orders,
    payments: Payments,
    shipping: Shipping,
    coordinators: Arc<Directory<Coordinator>>,
    rooms: Rooms,
    imports: Imports,
    reconciler: Arc<Directory<Reconciling>>,
    outbox: Arc<Directory<Telling>>,
}

impl Actors {
    fn new(context: &Arc<Context>, skus: Skus, escalate: &Arc<dyn Fn(String) + Send + Sync>) -> Self {
        let orderly = Orderly {
            context: Arc::clone(context),
            skus: skus.clone(),
            payments: OnceLock::new(),
            shipping: OnceLock::new(),
        };
        let orders = Orders(open(orderly, context, escalate));
        // orders and those who call for them know each other
        let paying =
            Paying { context: Arc::clone(context), orders: OnceLock::from(orders.clone()), claims: Claims::default() };
        let payments = Payments(open(paying, context, escalate));
        orders.0.kind.payments.set(payments.clone()).ok();
        let carrying = Carrying {
            context: Arc::clone(context),
            orders: OnceLock::from(orders.clone()),
            claims: Claims::default(),
        };
        let shipping = Shipping(open(carrying, context, escalate));
        orders.0.kind.shipping.set(shipping.clone()).ok();

        let rooms = Rooms(open(Waiting { context: Arc::clone(context), skus: skus.clone() }, context, escalate));
        let coordinator = Coordinator {
            context: Arc::clone(context),
            skus: skus.clone(),
            orders: orders.clone(),
            rooms: rooms.clone(),
        };
        let coordinators = open(coordinator, context, escalate);
        let importing = Importing { context: Arc::clone(context), skus: skus.clone() };
        let imports = Imports(open(importing, context, escalate));
        let reconciling = Reconciling {
            context: Arc::clone(context),
            skus: skus.clone(),
            orders: orders.clone(),
            payments: payments.clone(),
            imports: imports.clone(),
            shipping: shipping.clone(),
            rooms: rooms.clone(),
        };
        let reconciler = open(reconciling, context, escalate);
        let outbox = open(Telling { context: Arc::clone(context) }, context, escalate);
        Self { skus, orders, payments, shipping, coordinators, rooms, imports, reconciler, outbox }
    }

    /// The tree, in the order in which its branches end: whoever begins work first, whoever carries it last.
    async fn plant(&self) -> Result<Tree, Refusal> {
        let mut tree = Tree::plant().await?;
        tree.supervise(&self.reconciler).await?;
        tree.supervise(&self.imports.0).await?;
        tree.supervise(&self.outbox).await?;
        tree.supervise(&self.coordinators).await?;
        tree.supervise(&self.rooms.0).await?;
        tree.supervise(&self.payments.0).await?;
        tree.supervise(&self.shipping.0).await?;
        tree.supervise(&self.orders.0).await?;
        tree.supervise(&self.skus.0).await?;
        Ok(tree)
    }
}

fn open<K: Kind>(kind: K, context: &Context, escalate: &Arc<dyn Fn(String) + Send + Sync>) -> Arc<Directory<K>> {
    Directory::new(kind, context.clock.clone(), Arc::clone(escalate))
}
