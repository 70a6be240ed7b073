//! The sandbox plays Shippo: rates, labels, refunds, tracks and webhooks over real HTTP, on books that survive a restart.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    routing::post,
};
use hmac::{Hmac, Mac};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sha2::Sha256;
use souk::sandbox::{MailSettings, Sandbox, Settings, ShippoSettings, start};
use tempfile::TempDir;

use crate::support::{eventually, open_sandbox};

const KEY: &str = "shippo_test_of_this_test";
const SECRET: &str = "whsec";
const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

/// The merchant's end of webhooks: keeps what arrives, and answers as told.
#[derive(Clone, Default)]
struct Merchant {
    inbox: Arc<Mutex<Vec<Delivery>>>,
    answers: Arc<Mutex<Vec<StatusCode>>>,
}

#[derive(Clone)]
struct Delivery {
    token: String,
    signature: String,
    body: Bytes,
}

impl Delivery {
    fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("events are JSON")
    }

    /// Whether the signature is right, and when it was made.
    fn signed(&self) -> Option<i64> {
        let (time, hex) = self.signature.strip_prefix("t=")?.split_once(",v1=")?;
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key");
        mac.update(format!("{time}.").as_bytes());
        mac.update(&self.body);
        let right: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        (right == hex).then(|| time.parse().expect("seconds"))
    }
}

impl Merchant {
    async fn open(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let app = axum::Router::new().route("/hook", post(receive)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{addr}/hook?token=t0ken")
    }

    fn inbox(&self) -> Vec<Delivery> {
        self.inbox.lock().expect("not poisoned").clone()
    }

    fn events(&self) -> Vec<String> {
        let name = |delivery: &Delivery| delivery.event()["event"].as_str().expect("a name").to_owned();
        self.inbox().iter().map(name).collect()
    }

    fn answer_next(&self, answers: &[StatusCode]) {
        self.answers.lock().expect("not poisoned").extend(answers.iter().rev());
    }
}

async fn receive(State(merchant): State<Merchant>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let token = uri.query().and_then(|query| query.strip_prefix("token=")).unwrap_or_default().to_owned();
    let signature = headers.get("shippo-auth-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let delivery = Delivery { token, signature: signature.to_owned(), body };
    merchant.inbox.lock().expect("not poisoned").push(delivery);
    merchant.answers.lock().expect("not poisoned").pop().unwrap_or(StatusCode::OK)
}

fn settings(dir: &Path, webhook_url: &str) -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        dir: dir.to_owned(),
        client_id: "shop".into(),
        client_secret: "s3cret".into(),
        webhook_id: "WH".into(),
        webhook_url: "http://127.0.0.1:9/".into(),
        retry: Vec::new(),
        shippo: ShippoSettings {
            key: KEY.into(),
            webhook_url: Some(webhook_url.into()),
            webhook_secret: Some(SECRET.into()),
            retry: vec![Duration::from_millis(10), Duration::from_millis(10)],
        },
        mail: MailSettings::default(),
    }
}

/// A sandbox, its merchant, and somebody who calls.
struct Town {
    dir: TempDir,
    merchant: Merchant,
    sandbox: Sandbox,
    http: Client,
    webhook_url: String,
}

impl Town {
    async fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let merchant = Merchant::default();
        let webhook_url = merchant.open().await;
        let sandbox = open_sandbox(settings(dir.path(), &webhook_url)).await;
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client");
        Self { dir, merchant, sandbox, http, webhook_url }
    }

    async fn reopened(self) -> Self {
        let Self { dir, merchant, sandbox, http, webhook_url } = self;
        sandbox.stop().await;
        let sandbox = start(settings(dir.path(), &webhook_url)).await.expect("it starts again");
        Self { dir, merchant, sandbox, http, webhook_url }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.addr)
    }

    /// A call of Shippo's API: its status and what it says.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let request = self.http.request(method, self.url(&format!("/shippo{path}")));
        let mut request = request.header("authorization", format!("ShippoToken {KEY}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        read(request.send().await.expect("an answer")).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(Method::POST, path, Some(&body)).await
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Pulls a string, and it holds.
    async fn control(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(self.url(&format!("/_sandbox/{path}"))).json(&body);
        let (status, answer) = read(request.send().await.expect("an answer")).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn summary(&self) -> Value {
        let request = self.http.get(self.url("/_sandbox/shippo/summary"));
        read(request.send().await.expect("an answer")).await.1
    }

    async fn fault(&self, rule: Value) {
        self.control("shippo/faults", rule).await;
    }

    async fn settle(&self) {
        assert_eq!(self.control("shippo/webhooks/settle", json!({})).await, json!({"settled": true}));
    }

    /// The cheapest rate of a fresh shipment.
    async fn rate(&self) -> Value {
        self.made("/shipments", shipment()).await["rates"][0].clone()
    }

    async fn buy(&self, metadata: &str) -> Value {
        let rate = self.rate().await["object_id"].clone();
        self.made("/transactions", json!({"rate": rate, "async": false, "metadata": metadata})).await
    }

    async fn scan(&self, label: &Value, scan: Value) -> Value {
        let number = text(&label["tracking_number"]);
        self.control(&format!("shippo/tracks/usps/{number}"), scan).await
    }
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn address(country: &str) -> Value {
    json!({
        "name": "Ada Lovelace", "street1": "965 Mission St", "city": "San Francisco", "state": "CA", "zip": "94103",
        "country": country, "email": "ada@example.com",
    })
}

fn parcel(weight: &str, unit: &str) -> Value {
    json!({
        "length": "10", "width": "15.5", "height": "5", "distance_unit": "cm", "weight": weight, "mass_unit": unit,
    })
}

fn shipment() -> Value {
    json!({
        "address_from": address("US"), "address_to": address("US"), "parcels": [parcel("450", "g")], "async": false,
        "metadata": "order 7",
    })
}

fn item() -> Value {
    json!({
        "description": "Lamp", "quantity": 2, "net_weight": "200", "mass_unit": "g", "value_amount": "12.50",
        "value_currency": "USD", "origin_country": "US",
    })
}

#[tokio::test]
async fn a_call_needs_the_key_and_the_version_it_speaks() {
    let town = Town::new().await;
    let call = |name: &'static str, value: &'static str| {
        let request = town.http.get(town.url("/shippo/webhooks")).header(name, value);
        async move { read(request.send().await.expect("an answer")).await }
    };
    let (status, body) = call("x", "y").await;
    assert_eq!((status, body), (401, json!({"detail": "Authentication credentials were not provided."})));
    assert_eq!(call("authorization", "ShippoToken wrong").await.0, 401);
    let request = town.http.get(town.url("/shippo/webhooks")).header("authorization", format!("ShippoToken {KEY}"));
    assert_eq!(read(request.header("shippo-api-version", "2014-02-11").send().await.expect("an answer")).await.0, 400);
    assert_eq!(town.call(Method::GET, "/nowhere", None).await, (404, json!({"detail": "Not found."})));
    assert_eq!(town.call(Method::DELETE, "/parcels", None).await.0, 405);
}

#[tokio::test]
async fn paths_end_with_or_without_a_slash_and_bodies_are_json_or_forms() {
    let town = Town::new().await;
    let made = town.made("/parcels/", parcel("1.5", "kg")).await;
    assert_eq!(made["weight"], "1.5");
    let id = text(&made["object_id"]);
    assert_eq!(town.get(&format!("/parcels/{id}/")).await, town.get(&format!("/parcels/{id}")).await);

    let request = town.http.post(town.url("/shippo/addresses/")).header("authorization", format!("ShippoToken {KEY}"));
    let form = [
        ("name", "Ada"),
        ("street1", "1 High St"),
        ("city", "Leeds"),
        ("zip", "LS1"),
        ("country", "GB"),
        ("validate", "true"),
    ];
    let (status, made) = read(request.form(&form).send().await.expect("an answer")).await;
    assert_eq!(
        (status, &made["is_complete"], &made["validation_results"]["is_valid"]),
        (201, &json!(true), &json!(true))
    );
}

#[tokio::test]
async fn addresses_are_checked_as_asked() {
    let town = Town::new().await;
    assert_eq!(town.post("/addresses", json!({})).await, (400, json!({"country": ["This field is required."]})));
    let mut wrong = address("US");
    wrong["zip"] = json!("00000");
    wrong["validate"] = json!(true);
    let made = town.made("/addresses", wrong).await;
    assert_eq!(made["validation_results"]["is_valid"], false);
    let id = text(&made["object_id"]);
    assert_eq!(town.get(&format!("/addresses/{id}/validate")).await["validation_results"]["is_valid"], false);

    let mut vague = address("US");
    vague["street1"] = json!("1 Salesforce Tower");
    vague["validate"] = json!(true);
    let results = town.made("/addresses", vague).await["validation_results"].clone();
    assert_eq!((&results["is_valid"], results["messages"].as_array().map(Vec::len)), (&json!(true), Some(1)));
}

#[tokio::test]
async fn a_shipment_has_the_same_rates_every_time() {
    let town = Town::new().await;
    let one = town.made("/shipments", shipment()).await;
    let other = town.made("/shipments", shipment()).await;
    assert_eq!((&one["status"], &one["metadata"]), (&json!("SUCCESS"), &json!("order 7")));
    let prices = |shipment: &Value| {
        let rates = shipment["rates"].as_array().expect("rates").clone();
        let price = |rate: &Value| (text(&rate["servicelevel"]["token"]).to_owned(), text(&rate["amount"]).to_owned());
        rates.iter().map(price).collect::<Vec<_>>()
    };
    assert_eq!(prices(&one), prices(&other));
    assert_eq!(prices(&one).first(), Some(&("usps_ground_advantage".to_owned(), "6.30".to_owned())));
    assert_eq!(one["rates"].as_array().map(Vec::len), Some(4));
    assert_ne!(one["rates"][0]["object_id"], other["rates"][0]["object_id"], "rates belong to their shipment");

    let (id, rate) = (text(&one["object_id"]), text(&one["rates"][0]["object_id"]));
    assert_eq!(town.get(&format!("/rates/{rate}")).await, one["rates"][0]);
    assert_eq!(town.get(&format!("/shipments/{id}")).await["rates"], one["rates"]);
    let euros = town.get(&format!("/shipments/{id}/rates/EUR")).await;
    assert_eq!(
        (&euros["results"][0]["amount"], &euros["results"][0]["currency_local"]),
        (&json!("6.30"), &json!("EUR"))
    );
    let page = town.get(&format!("/shipments/{id}/rates?results=3&page=2")).await;
    assert_eq!((page["results"].as_array().map(Vec::len), page["next"].is_null()), (Some(1), true));
}

#[tokio::test]
async fn nothing_goes_abroad_without_its_papers() {
    let town = Town::new().await;
    let mut abroad = shipment();
    abroad["address_to"] = address("DE");
    let without = town.made("/shipments", abroad.clone()).await;
    assert_eq!(
        (without["rates"].as_array().map(Vec::len), &without["messages"][0]["code"]),
        (Some(0), &json!("customs_required"))
    );

    let item = town.made("/customs/items/", item()).await["object_id"].clone();
    let papers = json!({
        "certify": true, "certify_signer": "Ada", "contents_type": "MERCHANDISE", "non_delivery_option": "RETURN",
        "items": [item],
    });
    let declaration = town.made("/customs/declarations", papers.clone()).await;
    assert_eq!(declaration["items"], json!([item]));
    abroad["customs_declaration"] = declaration["object_id"].clone();
    let rates = town.made("/shipments", abroad.clone()).await["rates"].clone();
    assert_eq!((&rates[0]["currency"], &rates[0]["currency_local"]), (&json!("USD"), &json!("EUR")));

    let mut vague = papers;
    vague["contents_type"] = json!("THINGS");
    let (status, body) = town.post("/customs/declarations", vague).await;
    assert_eq!((status, body), (400, json!({"contents_type": ["\"THINGS\" is not a valid choice."]})));
}

#[tokio::test]
async fn errors_are_said_as_shippo_says_them() {
    let town = Town::new().await;
    let mut nowhere = shipment();
    nowhere["address_from"] = json!({"country": "US"});
    let (status, body) = town.post("/shipments", nowhere).await;
    assert_eq!(status, 400);
    assert!(text(&body["address_from"][0]["__all__"][0]).starts_with("For an Address to be PURCHASE'able"), "{body}");

    let mut light = shipment();
    light["parcels"] = json!([parcel("-1", "g")]);
    let (_, body) = town.post("/shipments", light).await;
    assert_eq!(body["parcels"][0]["weight"][0], "Ensure this value is greater than 0.");
    let (_, body) = town.post("/transactions", json!({"rate": "nope"})).await;
    assert_eq!(body, json!({"rate": ["Rate with supplied object_id not found."]}));
    let long = "x".repeat(101);
    let (_, body) = town.post("/transactions", json!({"rate": "nope", "metadata": long})).await;
    assert_eq!(body["metadata"][0], "Ensure this field has no more than 100 characters.");
}

#[tokio::test]
async fn a_rate_can_be_bought_for_a_week() {
    let town = Town::new().await;
    let rate = town.rate().await["object_id"].clone();
    town.control("clock", json!({"advance_ms": WEEK_MS - 60_000})).await;
    town.made("/transactions", json!({"rate": rate, "async": false})).await;
    town.control("clock", json!({"advance_ms": 60_000})).await;
    let (status, body) = town.post("/transactions", json!({"rate": rate, "async": false})).await;
    assert_eq!((status, text(&body["rate"][0]).starts_with("Rates expire after 7 days")), (400, true), "{body}");
}

#[tokio::test]
async fn every_purchase_is_another_label_and_the_books_count_them() {
    let town = Town::new().await;
    let label = town.buy("parcel 1").await;
    assert_eq!((&label["status"], &label["metadata"]), (&json!("SUCCESS"), &json!("parcel 1")));
    assert!(label.as_object().expect("an object").contains_key("created_by"), "a client crashes without it");
    let again =
        town.made("/transactions", json!({"rate": label["rate"], "async": false, "metadata": "parcel 1"})).await;
    assert_ne!(again["tracking_number"], label["tracking_number"]);
    let rate = text(&label["rate"]);
    let found = town.get(&format!("/transactions?rate={rate}&object_status=SUCCESS")).await;
    assert_eq!(found["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(town.get("/transactions?tracking_status=DELIVERED").await["results"], json!([]));

    let town = town.reopened().await;
    assert_eq!(town.summary().await["labels"]["parcel 1"], json!({"bought": 2, "live": 2}));
    let id = text(&again["object_id"]);
    assert_eq!(town.get(&format!("/transactions/{id}")).await["tracking_number"], again["tracking_number"]);
}

#[tokio::test]
async fn an_instalabel_needs_no_rate_and_answers_with_one() {
    let town = Town::new().await;
    let account = town.rate().await["carrier_account"].clone();
    let order = json!({"shipment": shipment(), "carrier_account": account, "servicelevel_token": "usps_priority"});
    let label = town.made("/transactions", order).await;
    assert_eq!((&label["status"], &label["rate"]["servicelevel_token"]), (&json!("SUCCESS"), &json!("usps_priority")));
}

#[tokio::test]
async fn an_async_label_is_queued_first_also_across_a_restart() {
    let town = Town::new().await;
    town.control("shippo/settings", json!({"queue_ms": 60_000})).await;
    let rate = town.rate().await["object_id"].clone();
    let label = town.made("/transactions", json!({"rate": rate, "metadata": "later"})).await;
    assert_eq!(
        (&label["status"], &label["label_url"], &label["tracking_number"]),
        (&json!("QUEUED"), &json!(""), &json!(""))
    );
    let mut queued = shipment();
    queued["async"] = json!(true);
    let waiting = town.made("/shipments", queued).await;
    assert_eq!((&waiting["status"], &waiting["rates"]), (&json!("QUEUED"), &json!([])));

    let town = town.reopened().await;
    town.control("clock", json!({"advance_ms": 60_000})).await;
    let path = format!("/transactions/{}", text(&label["object_id"]));
    eventually("the label is there", async || town.get(&path).await["status"] == "SUCCESS").await;
    let path = format!("/shipments/{}", text(&waiting["object_id"]));
    eventually("the rates are there", async || town.get(&path).await["rates"] != json!([])).await;
    eventually("somebody is told", async || town.merchant.events().contains(&"transaction_updated".to_owned())).await;
}

#[tokio::test]
async fn a_purchase_fails_in_every_way() {
    let town = Town::new().await;
    let rate = town.rate().await["object_id"].clone();
    let buy = json!({"rate": rate, "async": false, "metadata": "m"});
    let live = async || town.summary().await["labels"]["m"]["live"].as_u64().unwrap_or(0);

    town.fault(json!({"on": "buy", "kind": "refused", "code": "carrier_timeout"})).await;
    let refused = town.made("/transactions", buy.clone()).await;
    assert_eq!((&refused["status"], &refused["messages"][0]["code"]), (&json!("ERROR"), &json!("carrier_timeout")));
    for (fault, status) in [
        (json!({"on": "buy", "kind": "status", "status": 429, "retry_after": 1}), 429),
        (json!({"on": "buy", "kind": "status", "status": 500}), 500),
        (json!({"on": "buy", "kind": "html"}), 502),
        (json!({"on": "buy", "kind": "invalid", "field": "rate", "message": "No.", "nested": true}), 400),
    ] {
        town.fault(fault).await;
        assert_eq!(town.post("/transactions", buy.clone()).await.0, status);
    }
    town.fault(json!({"on": "buy", "kind": "drop_before"})).await;
    let lost = town.http.post(town.url("/shippo/transactions")).header("authorization", format!("ShippoToken {KEY}"));
    assert!(lost.json(&buy).send().await.is_err());
    assert_eq!(live().await, 0, "nothing was done so far");

    town.fault(json!({"on": "buy", "kind": "status_after", "status": 503})).await;
    assert_eq!(town.post("/transactions", buy.clone()).await.0, 503);
    assert_eq!(live().await, 1);
    town.fault(json!({"on": "buy", "kind": "garbage"})).await;
    assert_eq!(town.post("/transactions", buy.clone()).await, (201, json!("{\"object_id\":\"9f")));
    assert_eq!(live().await, 2);
    for fault in ["drop_after", "hang_after"] {
        town.fault(json!({"on": "buy", "kind": fault})).await;
        let request = town.http.post(town.url("/shippo/transactions")).timeout(Duration::from_secs(4));
        let request = request.header("authorization", format!("ShippoToken {KEY}")).json(&buy);
        assert!(request.send().await.is_err(), "{fault}");
    }
    assert_eq!(live().await, 4);
    town.fault(json!({"on": "buy", "kind": "queued"})).await;
    let stuck = town.made("/transactions", buy).await;
    assert_eq!(stuck["status"], "QUEUED");
    let path = format!("shippo/transactions/{}", text(&stuck["object_id"]));
    assert_eq!(town.control(&path, json!({"status": "ERROR", "text": "no"})).await["messages"][0]["text"], "no");
    assert_eq!(town.control(&path, json!({"status": "SUCCESS"})).await["status"], "SUCCESS");
}

#[tokio::test]
async fn rules_with_typing_errors_are_refused() {
    let town = Town::new().await;
    for wrong in [
        json!({"on": "buy", "kind": "nope"}),
        json!({"on": "buy", "kind": "hang", "tims": 2}),
        json!({"on": "track", "kind": "queued"}),
        json!({"on": "webhook", "kind": "hang"}),
    ] {
        let request = town.http.post(town.url("/_sandbox/shippo/faults")).json(&wrong);
        assert_eq!(read(request.send().await.expect("an answer")).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_label_is_a_file_that_can_be_had_for_a_day() {
    let town = Town::new().await;
    let label = town.buy("keep me").await;
    let url = text(&label["label_url"]);
    let fetch = async |url: String| {
        let response = town.http.get(url).send().await.expect("an answer");
        (response.status().as_u16(), response.bytes().await.expect("a body"))
    };
    let (status, file) = fetch(url.to_owned()).await;
    assert_eq!((status, &file[..5]), (200, &b"%PDF-"[..]));
    let file = String::from_utf8(file.to_vec()).expect("this one is text");
    let table = file.rsplit("startxref\n").next().and_then(|rest| rest.lines().next()).expect("a place");
    assert!(file[table.parse().expect("a number")..].starts_with("xref\n"), "readers find the table there");
    assert!(file.contains(text(&label["tracking_number"])));

    assert_eq!(fetch(format!("{}0", url)).await.0, 403);
    assert_eq!(fetch(url.split('?').next().expect("a path").to_owned()).await.0, 403);
    town.control("clock", json!({"advance_ms": 24 * 3600 * 1000})).await;
    assert_eq!(fetch(url.to_owned()).await.0, 403);

    let rate = town.rate().await["object_id"].clone();
    let order = json!({"rate": rate, "async": false, "label_file_type": "PNG"});
    let png = town.made("/transactions", order).await;
    assert_eq!(&fetch(text(&png["label_url"]).to_owned()).await.1[1..4], b"PNG");
    let order = json!({"rate": rate, "async": false, "label_file_type": "GIF"});
    assert_eq!(town.post("/transactions", order).await.0, 400);
}

#[tokio::test]
async fn a_refund_waits_for_the_carrier_and_used_labels_are_not_taken_back() {
    let town = Town::new().await;
    let label = town.buy("back").await;
    let id = label["object_id"].clone();
    let refund = town.made("/refunds/", json!({"transaction": id})).await;
    assert_eq!(refund["status"], "QUEUED");
    assert_eq!(town.post("/refunds", json!({"transaction": id})).await.0, 400, "once is enough");
    let of_label = format!("/transactions/{}", text(&id));
    let control = format!("shippo/refunds/{}", text(&refund["object_id"]));
    assert_eq!(town.get(&of_label).await["status"], "REFUNDPENDING");
    for (ruling, status) in [("PENDING", "REFUNDPENDING"), ("ERROR", "REFUNDREJECTED"), ("SUCCESS", "REFUNDED")] {
        town.control(&control, json!({"status": ruling})).await;
        assert_eq!(town.get(&of_label).await["status"], status);
        assert_eq!(town.get(&format!("/refunds/{}", text(&refund["object_id"]))).await["status"], ruling);
    }
    assert_eq!(town.summary().await["labels"]["back"], json!({"bought": 1, "live": 0}));

    let used = town.buy("used").await;
    town.scan(&used, json!({"status": "TRANSIT"})).await;
    let refund = town.made("/refunds", json!({"transaction": used["object_id"]})).await;
    assert_eq!(refund["status"], "ERROR");
    let (status, body) = town.post("/refunds", json!({"transaction": "nope"})).await;
    assert_eq!((status, body), (400, json!({"transaction": ["Transaction with supplied object_id not found."]})));
}

#[tokio::test]
async fn a_parcel_moves_as_told_and_a_late_scan_moves_it_back_nowhere() {
    let town = Town::new().await;
    let label = town.buy("walk").await;
    let path = format!("/tracks/usps/{}", text(&label["tracking_number"]));
    assert!(town.get(&path).await.get("tracking_status").is_none(), "nobody has scanned it");
    town.scan(&label, json!({"status": "DELIVERED", "substatus": "delivered", "details": "At the door"})).await;
    let late = json!({"status": "TRANSIT", "substatus": "notice_left", "status_date": "2020-01-01T00:00:00Z"});
    town.scan(&label, late).await;
    town.settle().await;
    let track = town.get(&path).await;
    assert_eq!(
        (&track["tracking_status"]["status"], &track["transaction"]),
        (&json!("DELIVERED"), &label["object_id"])
    );
    assert_eq!(track["tracking_history"][0]["substatus"]["action_required"], true);
    let told: Vec<_> =
        town.merchant.inbox().iter().map(Delivery::event).filter(|event| event["event"] == "track_updated").collect();
    assert_eq!(told.len(), 2);
    assert!(
        told.iter().any(|event| event["data"]["tracking_status"]["status"] == "TRANSIT"),
        "it was told all the same"
    );
    let of_label = format!("/transactions/{}", text(&label["object_id"]));
    assert_eq!(town.get(&of_label).await["tracking_status"], "DELIVERED");

    let number = text(&label["tracking_number"]);
    let request = town.http.post(town.url(&format!("/_sandbox/shippo/tracks/usps/{number}")));
    assert_eq!(read(request.json(&json!({"status": "LOST"})).send().await.expect("an answer")).await.0, 400);
}

#[tokio::test]
async fn test_numbers_never_move_and_asking_twice_is_told_twice() {
    let town = Town::new().await;
    let track = town.get("/tracks/shippo/SHIPPO_TRANSIT").await;
    assert_eq!((&track["tracking_status"]["status"], &track["carrier"]), (&json!("TRANSIT"), &json!("shippo")));
    assert_eq!(track["tracking_status"]["status_date"], "2018-07-30T18:49:42.586Z");
    assert_eq!(town.call(Method::GET, "/tracks/shippo/SHIPPO_NOWHERE", None).await.0, 400);
    let asked = json!({"carrier": "shippo", "tracking_number": "SHIPPO_DELIVERED", "metadata": "order 1"});
    assert_eq!(town.post("/tracks", asked).await.0, 200);
    town.settle().await;
    assert_eq!(town.merchant.events(), ["track_updated"]);

    for _ in 0..2 {
        town.post("/tracks", json!({"carrier": "ups", "tracking_number": "1Z"})).await;
    }
    town.control("shippo/tracks/ups/1Z", json!({"status": "PRE_TRANSIT"})).await;
    town.settle().await;
    assert_eq!(town.merchant.events().len(), 3, "one for each time of asking");
}

#[tokio::test]
async fn events_are_signed_and_carry_the_token() {
    let town = Town::new().await;
    town.buy("told").await;
    town.settle().await;
    let inbox = town.merchant.inbox();
    assert_eq!(town.merchant.events(), ["transaction_created"]);
    let event = inbox[0].event();
    assert_eq!((&event["test"], &event["data"]["metadata"]), (&json!(true), &json!("told")));
    assert!(inbox[0].signed().is_some() && inbox[0].token == "t0ken");
}

#[tokio::test]
async fn only_some_answers_are_tried_again_and_only_twice() {
    let town = Town::new().await;
    let bad = StatusCode::SERVICE_UNAVAILABLE;
    for (answers, tries) in [
        (vec![bad, bad, bad], 3),
        (vec![StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS], 3),
        (vec![StatusCode::BAD_REQUEST], 1),
        (vec![StatusCode::NOT_FOUND], 1),
    ] {
        let before = town.merchant.inbox().len();
        town.merchant.answer_next(&answers);
        town.buy("again").await;
        eventually("it was tried", async || town.merchant.inbox().len() == before + tries).await;
        let webhooks =
            async || read(town.http.get(town.url("/_sandbox/shippo/webhooks")).send().await.expect("it")).await.1;
        eventually("nothing is left to deliver", async || {
            let state = webhooks().await;
            state["waiting"] == 0 && state["in_flight"] == 0
        })
        .await;
        assert_eq!(town.merchant.inbox().len(), before + tries, "{answers:?}");
    }
}

#[tokio::test]
async fn webhooks_are_held_released_doubled_dropped_and_spoilt() {
    let town = Town::new().await;
    let label = town.buy("held").await;
    town.settle().await;
    town.control("shippo/webhooks/hold", json!({})).await;
    for status in ["PRE_TRANSIT", "TRANSIT", "DELIVERED"] {
        town.scan(&label, json!({"status": status})).await;
    }
    assert_eq!(town.merchant.inbox().len(), 1);
    assert_eq!(town.control("shippo/webhooks/release", json!({"order": "reversed"})).await, json!({"tried": 3}));
    let status = |delivery: &Delivery| text(&delivery.event()["data"]["tracking_status"]["status"]).to_owned();
    let told: Vec<_> = town.merchant.inbox()[1..].iter().map(status).collect();
    assert_eq!(told, ["DELIVERED", "TRANSIT", "PRE_TRANSIT"]);

    let next = async |kind: &str| {
        let before = town.merchant.inbox().len();
        town.fault(json!({"on": "webhook", "event": "track_updated", "kind": kind})).await;
        town.scan(&label, json!({"status": "TRANSIT"})).await;
        town.settle().await;
        town.merchant.inbox().split_off(before)
    };
    assert!(next("drop").await.is_empty());
    let twice = next("duplicate").await;
    assert_eq!((twice.len(), &twice[0].body), (2, &twice[1].body));
    for kind in ["tamper", "wrong_secret", "unsigned"] {
        assert_eq!(next(kind).await[0].signed(), None, "{kind}");
    }
    let wrong = next("wrong_token").await;
    assert_eq!((wrong[0].token.as_str(), wrong[0].signed().is_some()), ("wrong", true));
    let (old, fresh) =
        (next("stale").await[0].signed().expect("signed"), next("duplicate").await[0].signed().expect("signed"));
    assert!(fresh - old >= 3600, "an hour old");

    town.merchant.inbox.lock().expect("not poisoned").clear();
    town.fault(json!({"on": "webhook", "event": "track_updated", "kind": "early"})).await;
    town.scan(&label, json!({"status": "TRANSIT"})).await;
    assert_eq!(town.merchant.inbox().len(), 1, "it has arrived before the answer");
    let forged = json!({"event": "track_updated", "data": {"carrier": "usps"}, "sign": "wrong", "token": "none"});
    assert_eq!(town.control("shippo/webhooks/forge", forged).await, json!({"answer": 200}));
    let forged = town.merchant.inbox().pop().expect("it came");
    assert_eq!((forged.signed(), forged.token.as_str()), (None, ""));
}

#[tokio::test]
async fn registered_urls_hear_of_what_they_asked_for() {
    let town = Town::new().await;
    town.control("shippo/settings", json!({"webhook_url": ""})).await;
    let hook = json!({"url": town.webhook_url, "event": "track_updated", "is_test": true});
    let made = town.made("/webhooks", hook).await;
    let label = town.buy("registered").await;
    town.scan(&label, json!({"status": "TRANSIT"})).await;
    town.settle().await;
    assert_eq!(town.merchant.events(), ["track_updated"]);

    let path = format!("/webhooks/{}", text(&made["object_id"]));
    let silent = json!({"url": town.webhook_url, "event": "all", "active": false});
    let (status, changed) = town.call(Method::PUT, &path, Some(&silent)).await;
    assert_eq!((status, &changed["active"]), (200, &json!(false)));
    assert_eq!(town.get("/webhooks").await["count"], 1);
    assert_eq!(town.call(Method::DELETE, &path, None).await.0, 204);
    assert_eq!(town.call(Method::GET, &path, None).await.0, 404);
    for wrong in [json!({"url": "nowhere", "event": "all"}), json!({"url": "https://x.example/", "event": "noise"})] {
        assert_eq!(town.post("/webhooks", wrong).await.0, 400);
    }
    town.scan(&label, json!({"status": "TRANSIT"})).await;
    town.settle().await;
    assert_eq!(town.merchant.events().len(), 1);
}

/// Whether a null stands anywhere in it, `created_by` aside.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(has_null),
        Value::Object(object) => object.iter().any(|(name, value)| name != "created_by" && has_null(value)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[tokio::test]
async fn the_same_is_said_strictly_or_as_observed() {
    let town = Town::new().await;
    let label = town.buy("both").await;
    town.scan(&label, json!({"status": "TRANSIT", "substatus": "out_for_delivery"})).await;
    let shipment = town.made("/shipments", shipment()).await;
    let of_label = format!("/transactions/{}", text(&label["object_id"]));
    let of_track = format!("/tracks/usps/{}", text(&label["tracking_number"]));
    let of_shipment = format!("/shipments/{}", text(&shipment["object_id"]));
    for path in [&of_label, &of_track, &of_shipment] {
        assert!(!has_null(&town.get(path).await), "{path}");
    }
    town.control("shippo/settings", json!({"profile": "observed"})).await;
    let label = town.get(&of_label).await;
    assert_eq!((&label["tracking_status"]["status"], &label["eta"]), (&json!("TRANSIT"), &Value::Null));
    assert!(label.get("created_by").is_none() && !text(&label["object_created"]).ends_with('Z'));
    let track = town.get(&of_track).await;
    assert_eq!(track["tracking_history"][0]["object_updated"], Value::Null);
    let attributes = town.get(&of_shipment).await["rates"][0]["attributes"].clone();
    assert!(attributes.as_array().expect("a list").contains(&json!("GREENEST")));
    town.scan(&track, json!({"status": "ABDUCTED"})).await;
    assert_eq!(town.get(&of_track).await["tracking_status"]["status"], "ABDUCTED");
}
