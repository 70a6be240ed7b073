//! The reconciler: finds in Postgres what is due and tells whom it concerns. Deadlines, provider calls, checks, webhooks
//! that wait, a provider's list of events: each is a row with a time, so nothing that was begun is forgotten, whoever died meanwhile.
//!
//! It decides nothing. A hint that comes twice, or too early, or to an order that has moved on, changes nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::{StreamExt, stream};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

use crate::{
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{Refusal, Sale, SkuId, Who},
    importer::Imports,
    order::{self, Orders},
    payment::Payments,
    room::Rooms,
    shipping::Shipping,
    sku::Skus,
    store::{entry::Entry, inbox, load},
};

/// How often it looks, in real time; at once when the clock is moved.
const BEAT: Duration = Duration::from_millis(250);
/// How much of each kind it takes up in one look.
const MOST: i64 = 500;
/// Looks between two rounds that put idle actors to rest and forget what is old.
const ROUNDS: u32 = 40;
const SKU_IDLE: TimeDelta = TimeDelta::minutes(5);
const ORDER_IDLE: TimeDelta = TimeDelta::seconds(30);
/// How long a key that placed no order is remembered, and an import that came to nothing is kept: as long as providers try
/// again. A checkout's key is its order's own and never forgotten.
const KEPT: TimeDelta = TimeDelta::hours(72);
/// Rows that are forgotten in one round: nothing that a buyer would notice.
const FORGOTTEN: i64 = 5_000;
/// Imports that are applied at the same time; the next ones wait.
const IMPORTS: i64 = 2;
/// SKU actors that are woken at the same time, for a sale that is about to begin.
const WOKEN: usize = 64;

/// There is one.
pub(crate) const KEY: &str = "all";

/// How the reconciler is started.
pub(crate) struct Reconciling {
    pub context: Arc<Context>,
    pub skus: Skus,
    pub orders: Orders,
    pub payments: Payments,
    pub imports: Imports,
    pub shipping: Shipping,
    pub rooms: Rooms,
}

/// Look around.
pub(crate) struct Beat;

#[async_trait]
impl Kind for Reconciling {
    const NAME: &'static str = "reconciler";
    const ONE: &'static str = "reconciler";
    const MAILBOX: usize = 2;
    const ESCALATES: bool = true;
    type Key = &'static str;
    type Msg = Beat;
    type Shared = ();

    fn shared(&self, _: &'static str) {}

    async fn start(&self, _: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let reconciler = Reconciler {
            context: Arc::clone(&self.context),
            skus: self.skus.clone(),
            orders: self.orders.clone(),
            payments: self.payments.clone(),
            imports: self.imports.clone(),
            shipping: self.shipping.clone(),
            rooms: self.rooms.clone(),
        };
        let spawned = Actor::spawn_linked(None, reconciler, (), supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, (): &()) -> bool {
        false
    }
}

/// Keeps the reconciler going until the engine stops; a crashed one is started by the next beat. Rooms are looked at from
/// here: that a sale is over, sold out or has no room any more is told though Postgres answers nobody.
pub(crate) async fn keep_beating(context: Arc<Context>, directory: Arc<Directory<Reconciling>>) {
    loop {
        for sale in context.sales.list() {
            directory.kind.rooms.look(sale.id).await;
        }
        directory.send(KEY, Beat).await.ok(); // full: it is still looking
        context.clock.beat(BEAT).await;
    }
}

#[derive(Default)]
struct Rounds {
    /// Looks since the last round.
    looks: u32,
    /// Wakes the actors of sales that are about to begin.
    waking: Option<JoinHandle<()>>,
}

/// Beside everything else: what sales have given of a SKU may take long to count.
async fn wake(skus: Skus, sku_ids: Vec<SkuId>) {
    stream::iter(sku_ids).for_each_concurrent(WOKEN, |sku_id| skus.warm(sku_id)).await;
}

struct Reconciler {
    context: Arc<Context>,
    skus: Skus,
    orders: Orders,
    payments: Payments,
    imports: Imports,
    shipping: Shipping,
    rooms: Rooms,
}

impl Actor for Reconciler {
    type Msg = Envelope<Reconciling>;
    type State = Rounds;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Rounds, ActorProcessingErr> {
        Ok(Rounds::default())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        rounds: &mut Rounds,
    ) -> Result<(), ActorProcessingErr> {
        let (Beat, _ticket) = envelope.open();
        if rounds.waking.as_ref().is_none_or(JoinHandle::is_finished) {
            rounds.waking =
                Some(tokio::spawn(wake(self.skus.clone(), self.context.sales.awake(self.context.clock.now()))));
        }
        if let Err(error) = self.look().await {
            tracing::debug!(%error, "the reconciler cannot look");
        }
        rounds.looks += 1;
        if rounds.looks >= ROUNDS {
            rounds.looks = 0;
            self.forget_sales();
            self.skus.0.sweep(SKU_IDLE);
            self.orders.0.sweep(ORDER_IDLE);
            self.imports.0.sweep(ORDER_IDLE);
            self.rooms.0.sweep(SKU_IDLE);
            if let Err(error) = self.forget().await {
                tracing::debug!(%error, "nothing is forgotten now");
            }
        }
        Ok(())
    }
}

impl Reconciler {
    /// Sales that are over are forgotten when all who wait for them know, for then no room is looked at any more.
    fn forget_sales(&self) {
        let (sales, now) = (&self.context.sales, self.context.clock.now());
        let known = |sale: &Sale| sale.is_open(now) || self.rooms.know_the_end(sale.id);
        if sales.list().iter().all(|sale| known(sale)) {
            sales.forget_over(now);
        }
    }

    async fn look(&self) -> Result<(), sqlx::Error> {
        let Context { pool, looking, .. } = &*self.context;
        let now = self.context.clock.now();
        self.find_out_whether_superseded(load::epoch(pool).await?).await;
        for sale in self.context.sales.list().iter().filter(|sale| sale.waiting_room && sale.is_open(now)) {
            self.rooms.lobby(sale.id).await.ok(); // from then on it is looked at with every beat
        }
        let quarantined: Vec<i64> = self.orders.0.quarantined().iter().map(|order_id| order_id.0).collect();
        let orders = load::due(looking, now, &quarantined, MOST).await?;
        for order_id in orders {
            // one that is at work will come to it: what is due stays due
            if self.orders.0.find(order_id).is_none_or(|cell| cell.depth() == 0) {
                self.orders.tell(order_id, order::Msg::Work).await;
            }
        }
        for webhook in load::due_inbox(looking, now, MOST).await? {
            self.signal(webhook).await;
        }
        for (provider, stretch) in inbox::due_lists(pool, now).await? {
            self.payments.read_events(&provider, stretch).await;
        }
        let quarantined: Vec<i64> = self.imports.0.quarantined().iter().map(|import_id| import_id.0).collect();
        for import_id in load::imports::open(pool, &quarantined, IMPORTS).await? {
            self.imports.tell(import_id).await;
        }
        Ok(())
    }

    async fn forget(&self) -> Result<(), sqlx::Error> {
        let (pool, now) = (&self.context.pool, self.context.clock.now());
        let before = now - KEPT;
        inbox::forget(pool, now, FORGOTTEN).await?;
        load::prune_keys(pool, before, FORGOTTEN).await?;
        load::imports::sweep(pool, before, FORGOTTEN).await
    }

    /// A webhook goes to whoever speaks with its sender, in that one's words.
    async fn signal(&self, webhook: load::Waiting) {
        let load::Waiting { inbox_id, provider, locator } = webhook;
        let unreadable =
            |error: serde_json::Error| tracing::error!(inbox_id, %error, "a webhook's names cannot be read");
        if self.context.carriers.contains_key(provider.as_str()) {
            match serde_json::from_value(locator) {
                Ok(locator) => self.shipping.signal(&provider, inbox_id, locator).await,
                Err(error) => unreadable(error),
            }
        } else {
            match serde_json::from_value(locator) {
                Ok(locator) => self.payments.signal(&provider, inbox_id, locator).await,
                Err(error) => unreadable(error),
            }
        }
    }

    /// An engine that has nothing to write would not notice that a newer one has taken over: an empty entry meets the fence.
    async fn find_out_whether_superseded(&self, epoch: i64) {
        if epoch > self.context.journal.report().epoch {
            let empty = Entry::new(self.context.clock.now(), Who::Engine);
            self.context.journal.commit(empty).await.ok();
        }
    }
}
