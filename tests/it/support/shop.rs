//! A whole shop over real HTTP, a provider sandbox of its own beside it, and the words in which buyers and staff speak.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Deref,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use souk::{
    app::App,
    config::Config,
    sandbox::{self, Sandbox},
};
use souk_actors::domain::{OrderId, PaymentId};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{PATIENCE, TestDb, eventually, eventually_or, open_sandbox};

/// What staff show.
pub(crate) const STAFF: &str = "staff-token-of-a-test";
/// A buyer's hold, in seconds; the shop's default.
pub(crate) const HOLD: i64 = 900;

/// A shop that soon gives up waiting for its provider, for stories in which that hangs. In others it is patient: a call that
/// is slow on a busy machine is not one that fails.
pub(crate) const HASTY: (&str, &str) = ("SOUK_PAYPAL__TIMEOUT_SECONDS", "1");

/// A name that nobody else in this process has.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// Null where it is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Self { status, headers, text, body })
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// It went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.body
    }

    /// It is this problem, told as problems are told.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.text);
        self.is_well_told();
    }

    /// Every refusal is problem+json with its status and a code.
    #[track_caller]
    pub(crate) fn is_well_told(&self) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{} {}", self.status, self.text);
        assert_eq!(self.body["status"], self.status, "{}", self.text);
        assert!(!self.code().is_empty() && self.body["title"].is_string(), "{}", self.text);
        assert_eq!(self.status == 503, self.headers.contains_key("retry-after"), "{}", self.text);
    }
}

/// A placed order, as its buyer knows it.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) order_id: String,
    pub(crate) token: String,
    pub(crate) approve_url: String,
}

impl Placed {
    pub(crate) fn of(answer: &Value) -> Self {
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        Self { order_id: text("order_id"), token: text("order_token"), approve_url: text("approve_url") }
    }

    /// The provider's id of its order.
    pub(crate) fn at_provider(&self) -> &str {
        self.approve_url.rsplit_once("token=").expect("it was announced").1
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/orders/{}{rest}?token={}", self.order_id, self.token)
    }
}

/// A basket that goes to Ann.
pub(crate) fn basket(lines: &[(&str, i64)]) -> Value {
    let line = |(sku_id, quantity): &(&str, i64)| json!({ "sku_id": sku_id, "quantity": quantity });
    json!({
        "lines": lines.iter().map(line).collect::<Vec<_>>(),
        "email": "ann@example.com",
        "currency": "USD",
        "shipping_address": {
            "name": "Ann Lee", "line1": "1 Main St", "city": "Springfield", "region": "IL", "postal_code": "62701",
            "country": "US",
        },
    })
}

/// The same, to be paid at once.
pub(crate) fn paid_basket(lines: &[(&str, i64)]) -> Value {
    let mut basket = basket(lines);
    basket["payment"] = json!("paypal");
    basket
}

/// A shop by its address, wherever it runs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) http: Client,
    pub(crate) staff: String,
}

impl Api {
    pub(crate) fn new(base: String) -> Self {
        let none = reqwest::redirect::Policy::none();
        let http = Client::builder().no_proxy().redirect(none).timeout(PATIENCE);
        Self { base, http: http.build().expect("a client"), staff: STAFF.to_owned() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Asks as anybody.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await.expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body)).await.expect("an answer")
    }

    /// Asks as staff.
    pub(crate) async fn see(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).bearer_auth(&self.staff)).await.expect("an answer")
    }

    pub(crate) async fn order_staff(&self, path: &str, body: Value) -> Answer {
        let request = self.request(Method::POST, path).bearer_auth(&self.staff).json(&body);
        Answer::of(request).await.expect("an answer")
    }

    // ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A product with one SKU at 12.50 dollars; its SKU's id.
    pub(crate) async fn sku(&self, on_hand: i64) -> String {
        self.sku_at("12.50", "USD", on_hand).await
    }

    pub(crate) async fn sku_at(&self, price: &str, currency: &str, on_hand: i64) -> String {
        let sku = json!({ "code": fresh("SKU"), "price": price, "on_hand": on_hand });
        let product = json!({ "name": fresh("Lamp"), "currency": currency, "skus": [sku] });
        let made = self.order_staff("/v1/admin/products", product).await.ok();
        made["skus"][0]["sku_id"].as_str().expect("an id").to_owned()
    }

    /// On hand and reserved.
    pub(crate) async fn stock(&self, sku_id: &str) -> (i64, i64) {
        let ledger = self.see(&format!("/v1/admin/skus/{sku_id}/ledger?limit=1")).await.ok();
        let counter = |name: &str| ledger["stock"][name].as_i64().expect("a number");
        (counter("on_hand"), counter("reserved"))
    }

    /// Every row of a SKU's ledger, newest first.
    pub(crate) async fn ledger(&self, sku_id: &str) -> Vec<Value> {
        self.pages(&format!("/v1/admin/skus/{sku_id}/ledger"), "rows").await
    }

    /// Every order, newest first.
    pub(crate) async fn orders(&self) -> Vec<Value> {
        self.pages("/v1/admin/orders", "orders").await
    }

    async fn pages(&self, path: &str, list: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.see(&format!("{path}?limit=100{cursor}")).await.ok();
            rows.extend(page[list].as_array().expect("a list").iter().cloned());
            let Some(next) = page["next_cursor"].as_str() else { return rows };
            cursor = format!("&cursor={next}");
        }
    }

    /// Time passes in the shop.
    pub(crate) async fn later(&self, seconds: i64) {
        self.order_staff("/v1/ops/clock", json!({ "advance_seconds": seconds })).await.ok();
    }

    /// The books are right: at once what is never wrong, and soon what takes a moment.
    pub(crate) async fn clean(&self) {
        const TAKES_A_MOMENT: [&str; 5] =
            ["hold-overdue", "task-stuck", "webhook-unprocessed", "news-overdue", "idle-transaction"];
        let audit = self.see("/v1/ops/audit").await.ok();
        let findings = audit["findings"].as_array().expect("a list");
        let at_once = |finding: &&Value| !TAKES_A_MOMENT.iter().any(|name| finding["check"] == *name);
        let wrong: Vec<_> = findings.iter().filter(at_once).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        eventually("a clean audit", async || self.see("/v1/ops/audit").await.ok()["clean"] == true).await;
    }

    // ── buyers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// One try of a checkout, which may go any way.
    pub(crate) async fn try_checkout(&self, key: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        Answer::of(self.request(Method::POST, "/v1/checkouts").header("idempotency-key", key).json(body)).await
    }

    pub(crate) async fn checkout(&self, key: &str, body: &Value) -> Answer {
        self.try_checkout(key, body).await.expect("an answer")
    }

    /// A new buyer's order, which must go well.
    pub(crate) async fn place(&self, body: Value) -> Placed {
        Placed::of(&self.checkout(&fresh("key"), &body).await.ok())
    }

    /// A new buyer's order of one unit, announced to the provider.
    pub(crate) async fn sell(&self, sku_id: &str) -> Placed {
        let placed = self.place(paid_basket(&[(sku_id, 1)])).await;
        assert!(!placed.approve_url.is_empty(), "{placed:?} was not announced");
        placed
    }

    /// The order as staff sees it.
    pub(crate) async fn order(&self, placed: &Placed) -> Value {
        self.see(&format!("/v1/orders/{}", placed.order_id)).await.ok()
    }

    pub(crate) async fn status(&self, placed: &Placed) -> (String, String) {
        let order = self.order(placed).await;
        let text = |field: &str| order[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("payment_status"))
    }

    /// The order's statuses become these.
    pub(crate) async fn becomes(&self, placed: &Placed, status: &str, payment_status: &str) {
        let wanted = (status.to_owned(), payment_status.to_owned());
        let what = format!("{} becomes {status}, {payment_status}", placed.order_id);
        let told = async || self.order(placed).await.to_string();
        eventually_or(&what, async || self.status(placed).await == wanted, told).await;
    }

    /// The kinds of an order's events, as staff sees them.
    pub(crate) async fn timeline(&self, placed: &Placed) -> Vec<String> {
        let events = self.see(&format!("/v1/orders/{}/events", placed.order_id)).await.ok();
        let kind = |event: &Value| event["kind"].as_str().expect("a word").to_owned();
        events["events"].as_array().expect("a list").iter().map(kind).collect()
    }
}

/// A sandbox by its address, wherever it runs.
#[derive(Clone)]
pub(crate) struct Bank {
    pub(crate) base: String,
    pub(crate) http: Client,
}

impl Bank {
    pub(crate) fn new(base: String) -> Self {
        let http = Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Self { base, http }
    }

    /// Pulls a string, and it holds.
    pub(crate) async fn control(&self, path: &str, body: Value) -> Value {
        let answer = Answer::of(self.http.post(format!("{}/_sandbox/{path}", self.base)).json(&body)).await;
        answer.expect("an answer").ok()
    }

    /// The buyer approves.
    pub(crate) async fn approve(&self, placed: &Placed) {
        self.approve_as(placed, "complete").await;
    }

    /// The buyer approves with an instrument that will do this: complete, pending, 422, capture.
    pub(crate) async fn approve_as(&self, placed: &Placed, how: &str) {
        self.control(&format!("orders/{}/approve", placed.at_provider()), json!({ "how": how })).await;
    }

    /// What next goes wrong.
    pub(crate) async fn fault(&self, rule: Value) {
        self.control("faults", rule).await;
    }

    pub(crate) async fn forgive(&self) {
        self.http.delete(format!("{}/_sandbox/faults", self.base)).send().await.expect("an answer");
    }

    /// Everything that is due was tried.
    pub(crate) async fn settle(&self) {
        assert_eq!(self.control("webhooks/settle", json!({})).await["settled"], true);
    }

    pub(crate) async fn books(&self) -> Value {
        let books = self.http.get(format!("{}/_sandbox/books?limit=1000000", self.base));
        Answer::of(books).await.expect("an answer").ok()
    }

    pub(crate) async fn summary(&self) -> Value {
        Answer::of(self.http.get(format!("{}/_sandbox/books/summary", self.base))).await.expect("an answer").ok()
    }

    /// One order's sheet.
    pub(crate) async fn sheet(&self, placed: &Placed) -> Value {
        self.read(&format!("orders/{}", placed.at_provider())).await
    }

    /// What the bank's own pages show.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let page = self.http.get(format!("{}/_sandbox/{path}", self.base));
        Answer::of(page).await.expect("an answer").ok()
    }

    /// How often the bank was asked for this, whatever it answered.
    pub(crate) async fn asked(&self, operation: &str) -> u64 {
        self.summary().await["calls"][operation]["received"].as_u64().unwrap_or_default()
    }

    /// How many charges of an order went well, and how many dollars went back.
    pub(crate) async fn charged(&self, placed: &Placed) -> (usize, f64) {
        let sheet = self.sheet(placed).await;
        let captures = sheet["captures"].as_array().expect("a list");
        let charges = captures.iter().filter(|capture| is_charge(capture));
        let refunds = sheet["refunds"].as_array().expect("a list").iter();
        (charges.count(), refunds.map(|refund| dollars(&refund["amount"])).sum())
    }
}

pub(crate) fn is_charge(capture: &Value) -> bool {
    ["COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"].iter().any(|status| capture["status"] == *status)
}

pub(crate) fn dollars(amount: &Value) -> f64 {
    amount["value"].as_str().and_then(|value| value.parse().ok()).expect("an amount")
}

/// The shop has of each order, by its own rows, what the bank says that it has kept; or soon will.
pub(crate) async fn books_agree(shop: &TestShop) {
    let differ = books_differ(shop).await;
    assert!(differ.is_empty(), "{differ:#?}");
}

/// The orders of which the shop says something else than the bank, and does not soon say the same.
pub(crate) async fn books_differ(shop: &TestShop) -> Vec<String> {
    let patience = std::time::Instant::now() + PATIENCE;
    loop {
        let (here, there) = (kept_by_shop(shop).await, kept_at_bank(shop).await);
        if here == there || std::time::Instant::now() > patience {
            let known: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
            let differ = known.into_iter().filter(|order_id| here.get(*order_id) != there.get(*order_id));
            let told = |order_id: &String| {
                format!("{order_id}: the shop has {:?}, the bank says {:?}", here.get(order_id), there.get(order_id))
            };
            return differ.map(told).collect();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is left of the money of each order that has brought any, in minor units of whatever currency.
async fn kept_by_shop(shop: &TestShop) -> BTreeMap<String, i64> {
    let mut conn = shop.db.conn().await;
    let rows: Vec<(OrderId, i64)> = sqlx::query_as(
        "select order_id, (captured - gone - coalesce((
             select sum(amount_minor) from refund where order_id = m.order_id and state = 'completed'), 0))::bigint
         from money_of_order m where captured > 0",
    )
    .fetch_all(&mut conn)
    .await
    .expect("a question");
    rows.into_iter().map(|(order_id, kept)| (order_id.to_string(), kept)).filter(|(_, kept)| *kept != 0).collect()
}

async fn kept_at_bank(shop: &TestShop) -> BTreeMap<String, i64> {
    let mut conn = shop.db.conn().await;
    let attempts: Vec<(PaymentId, OrderId)> =
        sqlx::query_as("select id, order_id from payment").fetch_all(&mut conn).await.expect("a question");
    let orders: HashMap<String, String> =
        attempts.into_iter().map(|(payment, order)| (payment.to_string(), order.to_string())).collect();
    let mut kept = BTreeMap::new();
    for (custom_id, money) in shop.bank.read("books/money").await.as_object().expect("a map") {
        let Some(order_id) = orders.get(custom_id) else { continue };
        let purse = money["kept"].as_object().into_iter().flatten();
        *kept.entry(order_id.clone()).or_default() += purse.filter_map(|(_, minor)| minor.as_i64()).sum::<i64>();
    }
    kept.retain(|_, minor| *minor != 0);
    kept
}

/// The shop and the bank tell the same story of every order, or soon will: a confirmed order has one charge of its total
/// and nothing went back; of any other order all that was charged went back; nothing was charged twice.
pub(crate) async fn money_agrees(shop: &Api, bank: &Bank) {
    let told = async || format!("{:#?}", disagreements(shop, bank).await);
    eventually_or("the books agree", async || disagreements(shop, bank).await.is_empty(), told).await;
}

async fn disagreements(shop: &Api, bank: &Bank) -> Vec<String> {
    let mut charges: HashMap<String, Vec<Value>> = HashMap::new();
    for capture in bank.books().await["captures"].as_array().expect("a list").iter().filter(|row| is_charge(row)) {
        let order_id = capture["invoice_id"].as_str().expect("it names our order").to_owned();
        charges.entry(order_id).or_default().push(capture.clone());
    }
    let mut wrong = Vec::new();
    for order in shop.orders().await {
        let order_id = order["order_id"].as_str().expect("an id");
        let charged = charges.remove(order_id).unwrap_or_default();
        let total: f64 = order["total"]["amount"].as_str().and_then(|text| text.parse().ok()).expect("a total");
        let kept: f64 = charged.iter().map(|row| dollars(&row["amount"]) - dollars(&row["refunded"])).sum();
        let wanted = if order["status"] == "confirmed" { total } else { 0.0 };
        if charged.len() > 1 || (kept - wanted).abs() > 0.001 {
            wrong.push(format!("{order_id} is {}, kept {kept} of {total}: {charged:?}", order["status"]));
        }
    }
    wrong.extend(charges.keys().map(|order_id| format!("{order_id} was charged, and the shop does not know it")));
    wrong
}

/// A shop in this process, with a sandbox of its own.
pub(crate) struct TestShop {
    pub(crate) api: Api,
    pub(crate) bank: Bank,
    pub(crate) db: TestDb,
    pub(crate) app: App,
    sandbox: Sandbox,
    _dir: TempDir,
}

impl Deref for TestShop {
    type Target = Api;
    fn deref(&self) -> &Api {
        &self.api
    }
}

impl TestShop {
    /// A shop that has just opened.
    pub(crate) async fn open() -> Self {
        Self::with(&[]).await
    }

    /// A shop with settings of its own, as `SOUK_…` variables say them.
    pub(crate) async fn with(variables: &[(&str, &str)]) -> Self {
        let db = TestDb::new().await;
        let readable = std::fs::Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("souk-shop-").permissions(readable).tempdir_in("/tmp").expect("/tmp");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let books = dir.path().join("sandbox");
        let sandbox = sandbox::Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            dir: books.clone(),
            client_id: "souk".into(),
            client_secret: "sandbox".into(),
            webhook_id: "WH-SOUK".into(),
            webhook_url: format!("{base}/v1/webhooks/paypal"),
            retry: [20, 50, 100, 200, 400, 800, 1_600].map(Duration::from_millis).into(),
            shippo: sandbox::ShippoSettings::default(),
            mail: sandbox::MailSettings::default(),
        };
        let sandbox = open_sandbox(sandbox).await;
        let own = [
            ("SOUK_HTTP__PUBLIC_URL", base.clone()),
            ("SOUK_SANDBOX__LISTEN", sandbox.addr.to_string()),
            ("SOUK_SANDBOX__SMTP_LISTEN", sandbox.smtp_addr.to_string()),
            ("SOUK_SANDBOX__DIR", books.display().to_string()),
            ("SOUK_DATABASE__DATA_DIR", dir.path().display().to_string()),
            ("SOUK_DATABASE__POOL", "6".to_owned()),
            ("SOUK_PAYPAL__TIMEOUT_SECONDS", "5".to_owned()),
            ("SOUK_STAFF_TOKEN", STAFF.to_owned()),
            ("SOUK_SECRET", "what order tokens are made with".to_owned()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(None, own.chain(variables)).expect("valid settings");
        let app = App::start(&config, db.connect.clone(), listener).await.expect("the shop starts");
        let bank = Bank::new(format!("http://{}", sandbox.addr));
        Self { api: Api::new(base), bank, db, app, sandbox, _dir: dir }
    }

    /// How many rows a question finds.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        let mut conn = self.db.conn().await;
        sqlx::query_scalar(sql).fetch_one(&mut conn).await.expect("a question")
    }

    /// A unit that was sold, all the way to the money.
    pub(crate) async fn sold(&self, sku_id: &str) -> Placed {
        let placed = self.sell(sku_id).await;
        self.bank.approve(&placed).await;
        self.becomes(&placed, "confirmed", "paid").await;
        placed
    }

    /// The story's end: clean books on both sides, and a shop that stops.
    pub(crate) async fn close(self) {
        money_agrees(&self.api, &self.bank).await;
        self.clean().await;
        self.app.stop().await;
        self.sandbox.stop().await;
    }
}
