//! Outgoing webhooks: merchants are called for what they have subscribed to, in order, signed, until they have taken it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpListener;

use crate::support::{
    eventually,
    shop::{Answer, Placed, STAFF, TestShop, basket},
};

/// One call as a merchant got it.
#[derive(Debug, Clone)]
struct Call {
    id: String,
    timestamp: String,
    signature: String,
    text: String,
    body: Value,
}

impl Call {
    fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }

    fn is_about(&self, placed: &Placed) -> bool {
        self.body["data"]["order_id"] == placed.order_id.as_str()
    }
}

/// What a merchant's server answers next; 0 hangs.
type Script = VecDeque<u16>;

/// Merchants' servers, each at a path of its own.
#[derive(Clone, Default)]
struct Merchants {
    calls: Arc<Mutex<HashMap<String, Vec<Call>>>>,
    scripts: Arc<Mutex<HashMap<String, Script>>>,
}

async fn answer(State(all): State<Merchants>, Path(name): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let text = String::from_utf8(body.to_vec()).expect("UTF-8");
    let call = Call {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body: serde_json::from_str(&text).expect("JSON"),
        text,
    };
    all.calls.lock().expect("no panic").entry(name.clone()).or_default().push(call);
    let next = {
        let mut scripts = all.scripts.lock().expect("no panic");
        let script = scripts.entry(name).or_default();
        // the last word stands for ever
        if script.len() > 1 { script.pop_front() } else { script.front().copied() }
    };
    match next.unwrap_or(200) {
        0 => std::future::pending().await,
        302 => (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response(),
        status => (StatusCode::from_u16(status).expect("a status"), "x".repeat(5_000)).into_response(),
    }
}

struct Street {
    base: String,
    merchants: Merchants,
}

impl Street {
    async fn open() -> Self {
        let merchants = Merchants::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let router = Router::new().route("/{name}", axum::routing::any(answer)).with_state(merchants.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base, merchants }
    }

    fn answers(&self, name: &str, script: &[u16]) {
        let script = script.iter().copied().collect();
        self.merchants.scripts.lock().expect("no panic").insert(name.to_owned(), script);
    }

    fn calls(&self, name: &str) -> Vec<Call> {
        self.merchants.calls.lock().expect("no panic").get(name).cloned().unwrap_or_default()
    }

    async fn is_called(&self, name: &str, times: usize) -> Vec<Call> {
        eventually(&format!("{name} is called {times} times"), async || self.calls(name).len() >= times).await;
        let calls = self.calls(name);
        assert_eq!(calls.len(), times, "{calls:#?}");
        calls
    }

    /// Subscribes; the subscription's path, and its secret.
    async fn subscribe(&self, shop: &TestShop, name: &str, events: &[&str]) -> (String, String) {
        let wish = json!({ "url": format!("{}/{name}", self.base), "events": events });
        let made = shop.order_staff(SUBSCRIPTIONS, wish).await.ok();
        let id = made["subscription_id"].as_str().expect("an id");
        (format!("{SUBSCRIPTIONS}/{id}"), made["secret"].as_str().expect("a secret").to_owned())
    }
}

const SUBSCRIPTIONS: &str = "/v1/admin/webhook-subscriptions";

async fn deliveries(shop: &TestShop, path: &str) -> Vec<Value> {
    let page = shop.see(&format!("{path}/deliveries")).await.ok();
    page["deliveries"].as_array().expect("a list").clone()
}

async fn send(shop: &TestShop, method: Method, path: &str, body: Value) -> Answer {
    Answer::of(shop.request(method, path).bearer_auth(STAFF).json(&body)).await.expect("an answer")
}

/// By hand, as the specification says it.
fn assert_signed(call: &Call, secret: &str) {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(format!("{}.{}.{}", call.id, call.timestamp, call.text).as_bytes());
    assert_eq!(call.signature, format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merchant_is_called_for_what_it_has_subscribed_to_in_order_and_signed() {
    let (shop, street) = (TestShop::open().await, Street::open().await);
    let sku_id = shop.sku(10).await;
    let before = shop.sold(&sku_id).await;
    let (all, secret) = street.subscribe(&shop, "all", &["*"]).await;
    let (_, _) = street.subscribe(&shop, "some", &["order.confirmed"]).await;
    let placed = shop.sold(&sku_id).await;
    let left = shop.place(basket(&[(&sku_id, 1)])).await;

    let timeline: Vec<String> = shop.timeline(&placed).await.iter().map(|kind| format!("order.{kind}")).collect();
    let calls = street.is_called("all", timeline.len() + 1).await;
    let about: Vec<&Call> = calls.iter().filter(|call| call.is_about(&placed)).collect();
    assert_eq!(about.iter().map(|call| call.kind()).collect::<Vec<_>>(), timeline);
    assert_eq!(calls.iter().filter(|call| call.is_about(&left)).map(Call::kind).collect::<Vec<_>>(), ["order.placed"]);
    assert!(!calls.iter().any(|call| call.is_about(&before)), "it had not subscribed yet");
    for call in &calls {
        assert_signed(call, &secret);
        assert!(!call.text.contains("ann@"), "{}", call.text);
    }
    let captured = about.iter().find(|call| call.kind() == "order.payment_captured").expect("it was paid");
    assert_eq!(captured.body["data"]["total"], json!({ "amount": "12.50", "currency": "USD" }));
    assert_eq!(captured.body["data"]["event"]["amount"]["amount"], "12.50");
    let confirmed = street.is_called("some", 1).await;
    assert_eq!((confirmed[0].kind(), confirmed[0].is_about(&placed)), ("order.confirmed", true));

    let logged = deliveries(&shop, &all).await;
    assert_eq!(logged.len(), calls.len());
    eventually("all are marked", async || {
        deliveries(&shop, &all).await.iter().all(|delivery| delivery["state"] == "sent")
    })
    .await;
    let first = &deliveries(&shop, &all).await[0];
    assert_eq!(first["calls"][0]["status"], 200, "{first}");
    assert!(first["calls"][0]["said"].as_str().is_some_and(|said| said.len() == 500), "{first}");

    // told again, under the same id
    let id = first["notice_id"].as_str().expect("an id");
    shop.order_staff(&format!("{all}/deliveries/{id}/replay"), Value::Null).await.ok();
    let again = street.is_called("all", calls.len() + 1).await;
    assert_eq!(again.iter().filter(|call| call.id == id).count(), 2);
    let foreign = shop.order_staff(&format!("{all}/deliveries/notice_x/replay"), Value::Null).await;
    foreign.is_problem(404, "not_found");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_repeated_and_its_order_waits_behind_it() {
    let shop = TestShop::with(&[("SOUK_MERCHANT_WEBHOOKS__TIMEOUT_SECONDS", "4")]).await;
    let street = Street::open().await;
    let sku_id = shop.sku(10).await;
    let (path, secret) = street.subscribe(&shop, "poor", &["order.confirmed", "order.placed", "order.expired"]).await;
    let (_, _) = street.subscribe(&shop, "well", &["order.placed"]).await;
    // a server that is down, one that hangs, one that sends us elsewhere; and then it takes what it gets
    street.answers("poor", &[500, 0, 302, 200]);
    let placed = shop.place(basket(&[(&sku_id, 1)])).await;
    let mut tries = 0;
    for wait in [0, 6, 301, 1_801] {
        shop.later(wait).await;
        tries += 1;
        let calls = street.is_called("poor", if wait == 1_801 { tries + 1 } else { tries }).await;
        assert!(
            calls[..tries].iter().all(|call| call.kind() == "order.placed" && call.id == calls[0].id),
            "{calls:#?}"
        );
        assert!(calls[..tries].iter().all(|call| call.text == calls[0].text), "word for word the same");
        assert_signed(&calls[tries - 1], &secret);
        logged(&shop, &path, tries).await;
    }
    // the order has expired meanwhile, and that was told only then
    let calls = street.calls("poor");
    assert_eq!((calls[4].kind(), calls[4].is_about(&placed)), ("order.expired", true));
    assert!(street.calls("elsewhere").is_empty(), "nobody follows a redirect");
    street.is_called("well", 1).await;

    let log = deliveries(&shop, &path).await;
    let log: Vec<&Value> = log.iter().filter(|delivery| delivery["kind"] == "placed").collect();
    let statuses: Vec<&Value> =
        log[0]["calls"].as_array().expect("a list").iter().map(|call| &call["status"]).collect();
    assert_eq!(statuses, [&json!(500), &Value::Null, &json!(302), &json!(200)]);
    shop.close().await;
}

/// The oldest delivery has been tried so often, and that is written down.
async fn logged(shop: &TestShop, path: &str, tries: usize) {
    eventually(&format!("{tries} calls in the log"), async || {
        let log = deliveries(shop, path).await;
        log.last().is_some_and(|oldest| oldest["calls"].as_array().is_some_and(|calls| calls.len() == tries))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_holds_up_nobody_else() {
    let (shop, street) = (TestShop::open().await, Street::open().await);
    let sku_id = shop.sku(100).await;
    let hanging: Vec<String> = (1..=9).map(|number| format!("hangs-{number}")).collect();
    for name in &hanging {
        street.subscribe(&shop, name, &["order.placed"]).await;
        street.answers(name, &[0]);
    }
    street.subscribe(&shop, "well", &["order.placed"]).await;
    for _ in 0..30 {
        shop.place(basket(&[(&sku_id, 1)])).await;
    }
    street.is_called("well", 30).await;
    for name in &hanging {
        assert!((1..=8).contains(&street.calls(name).len()), "some at once, and no more");
    }
    shop.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_or_out_of_reach_for_days_is_called_no_more() {
    let (shop, street) = (TestShop::open().await, Street::open().await);
    let sku_id = shop.sku(10).await;
    let (gone, _) = street.subscribe(&shop, "gone", &["order.placed"]).await;
    let (lost, _) = street.subscribe(&shop, "lost", &["order.placed"]).await;
    street.answers("gone", &[410]);
    street.answers("lost", &[503]);
    shop.place(basket(&[(&sku_id, 1)])).await;
    is_disabled(&shop, &gone, "410").await;
    let still = shop.see(&lost).await.ok();
    assert_eq!(still["enabled"], true);
    logged(&shop, &lost, 1).await;
    eventually("it is known to fail", async || shop.see(&lost).await.ok()["failing_since"].is_string()).await;

    shop.later(5 * 86_400 + 1).await;
    is_disabled(&shop, &lost, "five days").await;
    let (calls, dead) = (street.calls("lost").len(), street.calls("gone").len());
    shop.place(basket(&[(&sku_id, 1)])).await;
    shop.later(86_400).await;
    // what was on its way is given up, and nothing new is written down
    eventually("it is given up", async || deliveries(&shop, &lost).await.iter().all(|one| one["state"] == "dead"))
        .await;
    assert_eq!((street.calls("lost").len(), street.calls("gone").len()), (calls, dead));
    assert_eq!(deliveries(&shop, &lost).await.len(), 1);

    // staff have it called again
    street.answers("lost", &[200]);
    assert_eq!(send(&shop, Method::PATCH, &lost, json!({ "enabled": true })).await.ok()["enabled"], true);
    shop.place(basket(&[(&sku_id, 1)])).await;
    street.is_called("lost", calls + 1).await;
    shop.close().await;
}

async fn is_disabled(shop: &TestShop, path: &str, why: &str) {
    eventually(&format!("{path} is disabled"), async || shop.see(path).await.ok()["enabled"] == false).await;
    let subscription = shop.see(path).await.ok();
    assert!(subscription["disabled_because"].as_str().is_some_and(|said| said.contains(why)), "{subscription}");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_made_once_a_key_changed_tried_and_ended() {
    let (shop, street) = (TestShop::open().await, Street::open().await);
    let sku_id = shop.sku(10).await;
    let wish = json!({ "url": format!("{}/one", street.base), "events": ["order.placed"], "description": "ERP" });
    let ask = |key: &'static str, wish: &Value| {
        let request = shop.request(Method::POST, SUBSCRIPTIONS).bearer_auth(STAFF).header("idempotency-key", key);
        Answer::of(request.json(wish))
    };
    let made = ask("k1", &wish).await.expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text);
    let again = ask("k1", &wish).await.expect("an answer");
    assert_eq!((again.status, &again.body), (200, &made.body));
    let other = json!({ "url": format!("{}/two", street.base), "events": ["*"] });
    ask("k1", &other).await.expect("an answer").is_problem(422, "idempotency_key_reused");
    assert!(made.body["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    let path = format!("{SUBSCRIPTIONS}/{}", made.body["subscription_id"].as_str().expect("an id"));
    assert!(shop.see(&path).await.ok()["secret"].is_null(), "told once");
    let all = shop.see(SUBSCRIPTIONS).await.ok();
    assert_eq!(
        (all["subscriptions"].as_array().map(Vec::len), &all["subscriptions"][0]["secret"]),
        (Some(1), &Value::Null)
    );

    for wrong in [
        json!({ "url": "not an address", "events": ["*"] }),
        json!({ "url": "ftp://merchant.example/", "events": ["*"] }),
        json!({ "url": "https://user:secret@merchant.example/", "events": ["*"] }),
        json!({ "url": "https://merchant.example/", "events": [] }),
        json!({ "url": "https://merchant.example/", "events": ["confirmed"] }),
    ] {
        shop.order_staff(SUBSCRIPTIONS, wrong).await.is_problem(422, "invalid");
    }
    assert_eq!(shop.get(SUBSCRIPTIONS).await.status, 401);

    let tested = shop.order_staff(&format!("{path}/test"), Value::Null).await.ok();
    assert_eq!((&tested["delivered"], &tested["status"]), (&json!(true), &json!(200)));
    assert_eq!(street.is_called("one", 1).await[0].kind(), "souk.test");
    street.answers("one", &[500]);
    let tested = shop.order_staff(&format!("{path}/test"), Value::Null).await.ok();
    assert_eq!((&tested["delivered"], &tested["status"]), (&json!(false), &json!(500)));

    street.answers("one", &[200]);
    let changed = json!({ "events": ["order.cancelled"] });
    assert_eq!(send(&shop, Method::PATCH, &path, changed).await.ok()["events"], json!(["order.cancelled"]));
    let placed = shop.place(basket(&[(&sku_id, 1)])).await;
    shop.post(&placed.path("/cancel"), Value::Null).await.ok();
    assert_eq!(street.is_called("one", 3).await[2].kind(), "order.cancelled");

    // what is on its way when it ends is not told any more
    street.answers("one", &[503]);
    let placed = shop.place(basket(&[(&sku_id, 1)])).await;
    shop.post(&placed.path("/cancel"), Value::Null).await.ok();
    street.is_called("one", 4).await;
    let ended = Answer::of(shop.request(Method::DELETE, &path).bearer_auth(STAFF)).await.expect("an answer");
    assert_eq!(ended.status, 204);
    assert_eq!(shop.see(&path).await.status, 404);
    shop.later(10).await;
    eventually("nothing is left", async || {
        shop.count("select count(*) from outbox where channel = 'merchants'").await == 0
    })
    .await;
    assert_eq!(street.calls("one").len(), 4);
    shop.close().await;
}
