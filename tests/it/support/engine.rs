//! An engine on a database of its own, a clock that tests move, and the words in which buyers speak to it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
};

use chrono::TimeDelta;
use souk_actors::{
    CheckedOut, Checkout, CommandKey, Engine, Placed, PricedLine, Settings, Webhook,
    clock::Clock,
    domain::{
        Address, Command, Commanded, Counters, Intent, Money, OrderId, OrderStatus, Policy, Refusal, RoomRules, SkuId,
        Who, change::Opening,
    },
    faults::Faults,
    ports::{Locator, Notifier, PaymentProvider},
    store::read::OrderView,
};
use sqlx::postgres::PgConnectOptions;

use super::{FakeCarrier, FakeProvider, Mood, Op, TestDb, eventually};

/// What a test may want otherwise.
pub(crate) struct Setup {
    pub(crate) admission: usize,
    pub(crate) clock: Clock,
    pub(crate) provider: Option<Arc<FakeProvider>>,
    pub(crate) notifiers: Vec<Arc<dyn Notifier>>,
    pub(crate) carrier: Option<Arc<FakeCarrier>>,
    pub(crate) intent: Intent,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            admission: 4_096,
            clock: Clock::default(),
            provider: None,
            carrier: None,
            intent: Intent::Capture,
            notifiers: Vec::new(),
        }
    }
}

pub(crate) struct TestEngine {
    pub(crate) db: Arc<TestDb>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) provider: Arc<FakeProvider>,
    pub(crate) carrier: Arc<FakeCarrier>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) clock: Clock,
}

impl TestEngine {
    /// A shop that has just opened.
    pub(crate) async fn start() -> Self {
        let db = Arc::new(TestDb::new().await);
        let connect = db.connect.clone();
        Self::on(db, connect, Setup::default()).await
    }

    /// An engine on a database, by a way of reaching it.
    pub(crate) async fn on(db: Arc<TestDb>, connect: PgConnectOptions, setup: Setup) -> Self {
        let clock = setup.clock;
        let provider = setup.provider.unwrap_or_else(|| Arc::new(FakeProvider::new("fake", clock.clone())));
        let carrier = setup.carrier.unwrap_or_else(|| Arc::new(FakeCarrier::new("parcels", clock.clone())));
        let faults = Arc::new(Faults::default());
        let port: Arc<dyn PaymentProvider> = provider.clone();
        let settings = Settings {
            connect,
            pool: 6,
            admission: setup.admission,
            policy: Policy {
                hold: TimeDelta::minutes(15),
                capture_margin: TimeDelta::seconds(30),
                pending_hold: TimeDelta::days(3),
                attempts: 5,
                intent: setup.intent,
            },
            rooms: RoomRules { admission: TimeDelta::minutes(5), most: 1_000 },
            providers: vec![port],
            notifiers: setup.notifiers,
            carriers: vec![carrier.clone()],
            ship_from: Some(address()),
            return_urls: Arc::new(|order_id| {
                (format!("https://shop.example/{order_id}"), "https://shop.example/".into())
            }),
            clock: clock.clone(),
            faults: Arc::clone(&faults),
        };
        let engine = Arc::new(Engine::start(settings).await.expect("the engine starts"));
        Self { db, engine, provider, carrier, faults, clock }
    }

    /// Opens a SKU that no other test knows.
    pub(crate) async fn sku(&self, on_hand: i64) -> SkuId {
        static NEXT: AtomicI64 = AtomicI64::new(1_000_001);
        let sku_id = SkuId(NEXT.fetch_add(1, Ordering::Relaxed));
        self.engine.open_stock(vec![Opening { sku_id, on_hand }]).await.expect("it opens");
        sku_id
    }

    /// One buyer's checkout of one SKU.
    pub(crate) async fn buy(&self, sku_id: SkuId, quantity: i64) -> Result<Placed, Refusal> {
        match self.engine.checkout(basket(&[(sku_id, quantity)])).await? {
            CheckedOut::New(placed) => Ok(placed),
            CheckedOut::Replayed(order_id) => panic!("{order_id} was placed before"),
        }
    }

    /// A checkout that must go well.
    pub(crate) async fn order(&self, sku_id: SkuId, quantity: i64) -> OrderId {
        self.buy(sku_id, quantity).await.expect("it is there").order_id
    }

    /// A shop that charges when the goods leave.
    pub(crate) async fn reserving() -> Self {
        let db = Arc::new(TestDb::new().await);
        let connect = db.connect.clone();
        Self::on(db, connect, Setup { intent: Intent::Authorise, ..Setup::default() }).await
    }

    /// Staff ask something of an order, with a key of its own.
    pub(crate) async fn command(&self, order_id: OrderId, command: Command) -> Result<Commanded, Refusal> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.command_as(&format!("command-{number}"), order_id, command).await
    }

    pub(crate) async fn command_as(
        &self,
        key: &str,
        order_id: OrderId,
        command: Command,
    ) -> Result<Commanded, Refusal> {
        let fingerprint = fingerprint(&format!("{command:?}"));
        let key = CommandKey { principal: "staff".into(), key: key.to_owned(), fingerprint };
        self.engine.command(order_id, command, Who::Staff, key).await
    }

    /// An order that is confirmed: its money is here, or reserved. Also the provider's name of it.
    pub(crate) async fn sold(&self, sku_id: SkuId, quantity: i64) -> (OrderId, String) {
        let order_id = self.order(sku_id, quantity).await;
        let provider_order_id = self.approve(order_id).await;
        self.call_about(&provider_order_id).await;
        self.becomes(order_id, OrderStatus::Confirmed).await;
        (order_id, provider_order_id)
    }

    /// The order is announced to the provider and approved by its buyer; nobody calls us.
    pub(crate) async fn approve(&self, order_id: OrderId) -> String {
        let approve_url = self.engine.pay(order_id, "fake").await.expect("it can be paid");
        self.provider.approve(&approve_url)
    }

    /// The first order that the provider has charged, and nobody here has heard so until it goes on.
    pub(crate) async fn charged_unheard(&self, order_id: OrderId) -> String {
        let provider_order_id = self.approve(order_id).await;
        self.provider.next(Op::Capture, Mood::HoldsReply);
        self.call_about(&provider_order_id).await;
        eventually("the provider has charged", async || self.provider.charges() == 1).await;
        provider_order_id
    }

    /// The provider calls us about its order.
    pub(crate) async fn call_about(&self, provider_order_id: &str) -> bool {
        let name = provider_order_id.to_owned();
        self.call(Locator { provider_order_id: Some(name), event_type: "TEST".into(), ..Locator::default() }).await
    }

    /// The provider calls us.
    pub(crate) async fn call(&self, locator: Locator) -> bool {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.call_as(&format!("event-{number}"), locator).await
    }

    pub(crate) async fn call_as(&self, event_id: &str, locator: Locator) -> bool {
        let body = serde_json::to_vec(&locator).expect("plain");
        let webhook =
            Webhook { provider: "fake", event_id: event_id.to_owned(), transmission_id: format!("t-{event_id}"), body };
        self.engine.webhook(webhook).await.expect("it is kept")
    }

    pub(crate) async fn view(&self, order_id: OrderId) -> OrderView {
        self.engine.order(order_id).await.expect("it is there")
    }

    pub(crate) async fn becomes(&self, order_id: OrderId, status: OrderStatus) {
        let what = format!("{order_id} becomes {status}");
        self.comes_about(&what, async || self.view(order_id).await.status == status).await;
    }

    /// Time passes, and the engine notices.
    pub(crate) fn later(&self, by: TimeDelta) {
        self.clock.advance(by);
    }

    pub(crate) async fn counters(&self, sku_id: SkuId) -> Counters {
        self.engine.counters(sku_id).await.expect("it is open")
    }

    /// On hand and reserved.
    pub(crate) async fn stock(&self, sku_id: SkuId) -> (i64, i64) {
        let counters = self.counters(sku_id).await;
        (counters.on_hand, counters.reserved)
    }

    /// The kinds of an order's events.
    pub(crate) async fn timeline(&self, order_id: OrderId) -> Vec<String> {
        let events = self.engine.events(order_id, true).await.expect("it is there");
        events.into_iter().map(|event| event.kind).collect()
    }

    /// How many rows a question finds.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        let mut conn = self.db.conn().await;
        sqlx::query_scalar(sql).fetch_one(&mut conn).await.expect("a question")
    }

    /// The status, in the tree, of an actor by its name.
    pub(crate) fn actor(&self, name: &str) -> Option<souk_actors::Node> {
        let tree = self.engine.tree(usize::MAX);
        tree.children.into_iter().flat_map(|kind| kind.children).find(|node| node.name == name)
    }

    /// The books are right: at once what is never wrong, and soon what takes a moment.
    pub(crate) async fn clean(&self) {
        const TAKES_A_MOMENT: [&str; 5] =
            ["hold-overdue", "task-stuck", "webhook-unprocessed", "news-overdue", "idle-transaction"];
        let findings = self.engine.audit().await.expect("an audit");
        let wrong: Vec<_> = findings.iter().filter(|finding| !TAKES_A_MOMENT.contains(&finding.check)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let mut left = HashMap::new();
        eventually("a clean audit", async || {
            let findings = self.engine.audit().await.expect("an audit");
            left = findings.iter().map(|finding| (finding.check, finding.rows.clone())).collect();
            left.is_empty()
        })
        .await;
    }

    /// The story's end: clean books, and an engine that stops.
    pub(crate) async fn end(self) {
        self.clean().await;
        self.engine.stop().await;
    }
}

pub(crate) fn usd(minor: i64) -> Money {
    Money::new(minor, "USD".parse().expect("known"))
}

fn address() -> Address {
    Address {
        name: "Ann Lee".into(),
        line1: "1 Main Street".into(),
        line2: None,
        city: "Springfield".into(),
        region: Some("IL".into()),
        postal_code: "62701".into(),
        country: "US".into(),
    }
}

pub(crate) fn fingerprint(of: &str) -> [u8; 32] {
    let mut print = [0; 32];
    print.iter_mut().zip(of.bytes()).for_each(|(to, from)| *to = from);
    print
}

/// A new buyer's basket: ten dollars a unit.
pub(crate) fn basket(lines: &[(SkuId, i64)]) -> Checkout {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let line = |(sku_id, quantity): &(SkuId, i64)| PricedLine {
        sku_id: *sku_id,
        quantity: *quantity,
        unit_price: usd(1_000),
        sale_id: None,
    };
    let total = lines.iter().map(|(_, quantity)| quantity * 1_000).sum();
    Checkout {
        principal: "guest".into(),
        key: format!("key-{number}"),
        fingerprint: fingerprint("basket"),
        lines: lines.iter().map(line).collect(),
        shipping: None,
        total: usd(total),
        email: "ann@shop.example".parse().expect("an address"),
        ship_to: address(),
        payment: None,
        ticket: None,
    }
}
