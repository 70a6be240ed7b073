//! The sandbox plays PayPal: over real HTTP, with real signatures, on books that survive a kill.

mod authorizations;
mod basics;
mod disputes;
mod orders;
mod refunds;
mod webhooks;
mod wire;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Client, Method, RequestBuilder, Response};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use serde_json::{Value, json};
use souk::sandbox::{MailSettings, Sandbox, Settings, ShippoSettings};
use tempfile::TempDir;

use crate::support::open_sandbox;

const WEBHOOK_ID: &str = "1JE4291016473214C";

/// A delivery as it arrived.
#[derive(Clone)]
struct Delivery {
    headers: HeaderMap,
    body: Bytes,
}

impl Delivery {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("events are JSON")
    }

    fn event_type(&self) -> String {
        self.event()["event_type"].as_str().expect("an event has a type").to_owned()
    }
}

/// The merchant's end of webhooks: keeps what arrives, and answers as told.
#[derive(Clone, Default)]
struct Merchant {
    inbox: Arc<Mutex<Vec<Delivery>>>,
    /// Answers for the next deliveries; then 200.
    answers: Arc<Mutex<Vec<StatusCode>>>,
}

impl Merchant {
    async fn open(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let app = axum::Router::new().route("/webhook", post(receive)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{addr}/webhook")
    }

    fn inbox(&self) -> Vec<Delivery> {
        self.inbox.lock().expect("not poisoned").clone()
    }

    /// The last event of this type.
    fn last(&self, event_type: &str) -> Value {
        let events = self.inbox().into_iter().rev().map(|delivery| delivery.event());
        events.into_iter().find(|event| event["event_type"] == event_type).expect("it was told")
    }

    fn event_types(&self) -> Vec<String> {
        self.inbox().iter().map(Delivery::event_type).collect()
    }

    fn answer_next(&self, answers: &[StatusCode]) {
        self.answers.lock().expect("not poisoned").extend(answers.iter().rev());
    }
}

async fn receive(State(merchant): State<Merchant>, headers: HeaderMap, body: Bytes) -> StatusCode {
    merchant.inbox.lock().expect("not poisoned").push(Delivery { headers, body });
    merchant.answers.lock().expect("not poisoned").pop().unwrap_or(StatusCode::OK)
}

fn settings(dir: &Path, webhook_url: &str) -> Settings {
    Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dir: dir.to_owned(),
        client_id: "shop".into(),
        client_secret: "s3cret".into(),
        webhook_id: WEBHOOK_ID.into(),
        webhook_url: webhook_url.into(),
        retry: vec![Duration::from_millis(20), Duration::from_millis(40), Duration::from_secs(3600)],
        shippo: ShippoSettings::default(),
        mail: MailSettings::default(),
    }
}

/// One who talks to a sandbox.
#[derive(Clone)]
struct Caller {
    http: Client,
    base: String,
    token: String,
}

impl Caller {
    async fn new(addr: SocketAddr) -> Self {
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let base = format!("http://{addr}");
        let token = Self::token(&http, &base).await;
        Self { http, base, token }
    }

    async fn token(http: &Client, base: &str) -> String {
        let request = http.post(format!("{base}/v1/oauth2/token")).basic_auth("shop", Some("s3cret"));
        let grant = read(request.form(&[("grant_type", "client_credentials")]).send().await.expect("a token")).await;
        assert_eq!(grant["expires_in"], 32400);
        grant["access_token"].as_str().expect("a token").to_owned()
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        request.header("content-type", "application/json").header("prefer", "return=representation")
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.call(Method::GET, path).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        read(response).await
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        let request = self.call(Method::POST, path).header("paypal-request-id", key);
        let response = request.body(body.to_string()).send().await.expect("an answer");
        (response.status().as_u16(), read(response).await)
    }

    /// Pulls a string, and it holds.
    async fn control(&self, path: &str, body: Value) -> Value {
        let response = self.http.post(format!("{}/_sandbox/{path}", self.base)).json(&body).send().await;
        let response = response.expect("an answer");
        let status = response.status();
        let answer = read(response).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// A call that is refused: its status and PayPal's name of the issue.
    async fn refused(&self, path: &str, key: &str, body: &Value) -> (u16, String) {
        let (status, problem) = self.post(path, key, body).await;
        (status, problem["details"][0]["issue"].as_str().unwrap_or_default().to_owned())
    }

    /// Moves the bank's clock; a token that runs out on the way is renewed.
    async fn wait(&mut self, seconds: i64) {
        self.control("clock", json!({"advance_ms": seconds * 1000})).await;
        self.token = Self::token(&self.http, &self.base).await;
    }

    /// The bank's money for a `custom_id`.
    async fn money(&self, custom_id: &str) -> Value {
        let url = format!("{}/_sandbox/books/summary?custom_id={custom_id}", self.base);
        read(self.http.get(url).send().await.expect("an answer")).await
    }

    async fn summary(&self) -> Value {
        read(self.http.get(format!("{}/_sandbox/books/summary", self.base)).send().await.expect("an answer")).await
    }

    async fn settle(&self) {
        assert_eq!(self.control("webhooks/settle", json!({})).await, json!({"settled": true}));
    }

    /// Keeps back what is told from now on …
    async fn hold(&self) {
        self.control("webhooks/hold", json!({})).await;
    }

    /// … until now: it is told in the order in which it has happened.
    async fn release(&self) {
        self.control("webhooks/release", json!({})).await;
    }

    async fn create(&self, key: &str) -> String {
        let (status, order) = self.post("/v2/checkout/orders", key, &basket()).await;
        assert_eq!(status, 201, "{order}");
        order["id"].as_str().expect("an id").to_owned()
    }

    async fn capture(&self, order_id: &str, key: &str) -> (u16, Value) {
        self.post(&format!("/v2/checkout/orders/{order_id}/capture"), key, &json!({})).await
    }

    /// From the basket to the money.
    async fn pay(&self, name: &str) -> (String, Value) {
        let order_id = self.create(&format!("create-{name}")).await;
        self.control(&format!("orders/{order_id}/approve"), json!({})).await;
        let (status, order) = self.capture(&order_id, &format!("capture-{name}")).await;
        assert_eq!(status, 201, "{order}");
        (order_id, order["purchase_units"][0]["payments"]["captures"][0].clone())
    }
}

async fn read(response: Response) -> Value {
    let text = response.text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn basket() -> Value {
    json!({
        "intent": "CAPTURE",
        "purchase_units": [{
            "custom_id": "order-1",
            "invoice_id": "INV-1",
            "description": "Two lamps",
            "amount": {
                "currency_code": "USD",
                "value": "30.00",
                "breakdown": {
                    "item_total": {"currency_code": "USD", "value": "25.00"},
                    "shipping": {"currency_code": "USD", "value": "7.50"},
                    "discount": {"currency_code": "USD", "value": "2.50"},
                },
            },
            "items": [{
                "name": "Lamp <b>", "quantity": "2", "unit_amount": {"currency_code": "USD", "value": "12.50"},
            }],
        }],
        "payment_source": {"paypal": {"experience_context": {
            "return_url": "https://shop.example/return?order=1",
            "cancel_url": "https://shop.example/cancel",
            "brand_name": "Lamps & Co",
        }}},
        "unknown_field": {"is": "passed over"},
    })
}

/// The same, to be authorized first and captured later.
fn basket_to_authorize() -> Value {
    let mut basket = basket();
    basket["intent"] = json!("AUTHORIZE");
    basket
}

/// An amount of dollars.
fn usd(value: &str) -> Value {
    json!({"currency_code": "USD", "value": value})
}

/// The id of an object.
fn id(object: &Value) -> &str {
    object["id"].as_str().expect("an id")
}

/// A sandbox, its merchant, and somebody who calls.
struct Town {
    dir: TempDir,
    merchant: Merchant,
    sandbox: Sandbox,
    caller: Caller,
}

impl Town {
    async fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let merchant = Merchant::default();
        let sandbox = open_sandbox(settings(dir.path(), &merchant.open().await)).await;
        let caller = Caller::new(sandbox.addr).await;
        Self { dir, merchant, sandbox, caller }
    }

    /// Whether the signature holds for somebody who trusts `root.pem`: chain, name and body.
    async fn verify(&self, delivery: &Delivery) -> Result<(), String> {
        self.verify_for(delivery, WEBHOOK_ID).await
    }

    /// The certificate that the delivery names.
    async fn leaf(&self, delivery: &Delivery) -> CertificateDer<'static> {
        let pem = self.caller.http.get(delivery.header("paypal-cert-url")).send().await.expect("a certificate");
        CertificateDer::from_pem_slice(&pem.bytes().await.expect("a body")).expect("PEM")
    }

    /// When that certificate runs out.
    async fn not_after(&self, delivery: &Delivery) -> i64 {
        let leaf = self.leaf(delivery).await;
        let (_, certificate) = x509_parser::parse_x509_certificate(&leaf).expect("X.509");
        certificate.validity().not_after.timestamp()
    }

    /// The same for another webhook.
    async fn verify_for(&self, delivery: &Delivery, webhook_id: &str) -> Result<(), String> {
        let leaf = self.leaf(delivery).await;
        let root = CertificateDer::from_pem_file(self.dir.path().join("root.pem")).expect("the root");
        check_chain(&leaf, &root)?;

        let (_, certificate) = x509_parser::parse_x509_certificate(&leaf).expect("X.509");
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        assert_eq!(name, Some("messageverificationcerts.sandbox.paypal.com"));
        let message = format!(
            "{}|{}|{webhook_id}|{}",
            delivery.header("paypal-transmission-id"),
            delivery.header("paypal-transmission-time"),
            crc32fast::hash(&delivery.body),
        );
        let signature = BASE64_STANDARD.decode(delivery.header("paypal-transmission-sig")).expect("base64");
        let key =
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &certificate.public_key().subject_public_key.data);
        key.verify(message.as_bytes(), &signature).map_err(|_| "signature".to_owned())
    }
}

fn check_chain(leaf: &CertificateDer<'_>, root: &CertificateDer<'_>) -> Result<(), String> {
    let anchors = [webpki::anchor_from_trusted_cert(root).expect("a root")];
    let leaf = webpki::EndEntityCert::try_from(leaf).expect("a certificate");
    let path = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &[],
        UnixTime::now(),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    path.map(|_| ()).map_err(|error| format!("{error:?}"))
}
