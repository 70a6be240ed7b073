//! The client against a Shippo of a few lines on this machine.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use souk_actors::ports::{Customs, CustomsItem, LabelStatus, TrackingStatus};

use super::*;

const SHIPMENT: &str = r#"{"object_id":"5e40ead7cffe4cc1ad45108696162e42","status":"SUCCESS","messages":[],"rates":[
    {"object_id":"rate1","amount":"8.95","currency":"USD","amount_local":"8.23","currency_local":"EUR","provider":"USPS",
     "servicelevel":{"name":"Priority Mail","token":"usps_priority"},"estimated_days":2},
    {"object_id":"rate2","amount":"5.4","currency":"USD","amount_local":"4.97","currency_local":"EUR","provider":"USPS",
     "servicelevel":{"name":"Ground Advantage","token":"usps_ground_advantage"}},
    {"object_id":"rate3","amount":"58.90","currency":"USD","amount_local":"54.19","currency_local":"EUR",
     "provider":"DHL Express","servicelevel":{"name":"Worldwide","token":"dhl","extended_token":"dhl_express_worldwide"},
     "estimated_days":3}]}"#;

const BOUGHT: &str = r#"{"object_id":"915d94940ea54c3a80cbfa328722f5a1","status":"SUCCESS","object_state":"VALID",
    "object_created":"2026-11-22T10:00:00Z","metadata":"x","rate":"rate1","tracking_number":"9499907123456123456781",
    "tracking_status":"UNKNOWN","tracking_url_provider":"https://tools.usps.com/go?q=9499907123456123456781",
    "label_url":"https://shippo-delivery.s3.amazonaws.com/96.pdf?Signature=x%3D&Expires=1385930652","messages":[]}"#;

/// The same as it is seen in the wild: nulls, no zone, an object for a word, words from outside the lists.
const OBSERVED: &str = r#"{"object_id":"915d94940ea54c3a80cbfa328722f5a1","status":"SUCCESS","object_state":"NEW_WORD",
    "object_created":"2026-11-22T10:00:00.123","metadata":null,"rate":{"object_id":"rate1","amount":"8.95",
    "currency":"USD","amount_local":null,"currency_local":null,"provider":"USPS","servicelevel_token":"usps_priority"},
    "tracking_number":"9499907123456123456781","tracking_status":{"status":"TELEPORTED","substatus":null},
    "tracking_url_provider":"","label_url":"https://s3.example/96.pdf","messages":null,"eta":null,"parcel":null}"#;

const RATE: &str = r#"{"object_id":"rate1","amount":"8.95","currency":"USD","provider":"USPS",
    "servicelevel":{"token":"usps_priority"}}"#;

/// What was asked, as far as a test looks at it.
#[derive(Clone)]
struct Asked {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// How the API answers next.
enum Reply {
    Say(u16, String),
    SayWith(u16, &'static str, &'static str),
    Send(Vec<u8>),
    Stall,
    CutShort,
}

fn say(status: u16, text: impl Into<String>) -> Reply {
    Reply::Say(status, text.into())
}

#[derive(Default)]
struct Stub {
    asked: Mutex<Vec<Asked>>,
    replies: Mutex<VecDeque<Reply>>,
}

impl Stub {
    fn calls(&self) -> Vec<Asked> {
        self.asked.lock().expect("whole").clone()
    }

    fn lines(&self) -> Vec<String> {
        self.calls().into_iter().map(|asked| asked.line).collect()
    }

    fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().expect("whole").extend(replies);
    }
}

async fn answer(State(stub): State<Arc<Stub>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let line = format!("{} {}", parts.method, parts.uri);
    stub.asked.lock().expect("whole").push(Asked { line, headers: parts.headers, body });
    let reply = stub.replies.lock().expect("whole").pop_front();
    let status = |status: u16| StatusCode::from_u16(status).expect("a status");
    match reply {
        Some(Reply::Say(code, text)) => (status(code), text).into_response(),
        Some(Reply::SayWith(code, name, value)) => (status(code), [(name, value)], "{}").into_response(),
        Some(Reply::Send(bytes)) => bytes.into_response(),
        Some(Reply::Stall) => std::future::pending().await,
        Some(Reply::CutShort) => {
            let halves = [Ok(Bytes::from_static(b"{\"object_id\":")), Err(std::io::Error::other("cut"))];
            Body::from_stream(futures::stream::iter(halves)).into_response()
        }
        None => (StatusCode::INTERNAL_SERVER_ERROR, "nothing was prepared").into_response(),
    }
}

fn settings(base_url: String) -> Settings {
    Settings {
        base_url,
        api_key: "shippo_test_very-secret".into(),
        timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(3),
        label_format: "PDF_4x6".to_owned(),
        phone: "+1 555 341 9393".to_owned(),
        email: String::new(),
        webhook: webhook::Settings { token: "token-secret".into(), secret: "hmac-secret".into() },
    }
}

/// A client and the Shippo it speaks to, which will answer so.
async fn shippo(replies: impl IntoIterator<Item = Reply>) -> (Shippo, Arc<Stub>) {
    let stub = Arc::new(Stub { replies: Mutex::new(replies.into_iter().collect()), ..Stub::default() });
    let router = Router::new().fallback(answer).with_state(stub.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Shippo::new(settings(base_url), Clock::default()).expect("settings"), stub)
}

fn money(amount: &str, currency: &str) -> Money {
    Money::parse(amount, currency.parse().expect("known")).expect("an amount")
}

fn address(country: &str) -> Address {
    Address {
        name: "Zoë".to_owned(),
        line1: "1 Way".to_owned(),
        line2: None,
        city: "Town".to_owned(),
        region: Some("IL".to_owned()),
        postal_code: "12345".to_owned(),
        country: country.to_owned(),
    }
}

fn service(token: &str) -> Service {
    Service { provider: NAME.into(), carrier: "usps".into(), token: token.into(), name: "USPS Priority Mail".into() }
}

const PARCEL: Parcel = Parcel { length_mm: 250, width_mm: 200, height_mm: 100, grams: 950 };
const SHIPMENT_ID: ShipmentId = ShipmentId(1_600_000_000_000);

fn wish() -> BuyLabel {
    BuyLabel {
        shipment_id: SHIPMENT_ID,
        service: service("usps_priority"),
        from: address("US"),
        to: address("US"),
        email: Some("zoe@example.com".to_owned()),
        parcel: PARCEL,
        customs: None,
    }
}

fn unknown(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Unknown { .. })
}

#[tokio::test]
async fn a_label_is_bought_by_a_rate_of_its_own() {
    let (shippo, stub) = shippo([say(201, SHIPMENT), say(201, BOUGHT)]).await;
    let label = shippo.buy(&wish()).await.expect("bought");
    assert_eq!(label.label_id, "915d94940ea54c3a80cbfa328722f5a1");
    assert_eq!(label.status, LabelStatus::Bought);
    assert_eq!((label.carrier.as_deref(), label.cost), (Some("usps"), Some(money("8.95", "USD"))));
    assert_eq!(label.tracking_number.as_deref(), Some("9499907123456123456781"));
    assert!(label.file_url.expect("a file").ends_with("Signature=x%3D&Expires=1385930652"));

    let calls = stub.calls();
    assert_eq!(stub.lines(), ["POST /shipments", "POST /transactions"]);
    for call in &calls {
        assert_eq!(call.headers["authorization"], "ShippoToken shippo_test_very-secret");
        assert_eq!(call.headers["shippo-api-version"], "2018-02-08");
    }
    let rated = calls[0].json();
    assert_eq!(rated["metadata"], SHIPMENT_ID.to_string());
    assert_eq!(rated["async"], false);
    assert_eq!(
        (&rated["address_from"]["phone"], &rated["address_from"]["email"]),
        (&json!("+1 555 341 9393"), &Value::Null)
    );
    assert_eq!(
        (&rated["address_to"]["email"], &rated["address_to"]["phone"]),
        (&json!("zoe@example.com"), &Value::Null)
    );
    let parcel = json!({ "length": "250", "width": "200", "height": "100", "distance_unit": "mm", "weight": "950", "mass_unit": "g" });
    assert_eq!(rated["parcels"], json!([parcel]));
    assert!(rated.get("customs_declaration").is_none());
    let bought = json!({ "rate": "rate1", "metadata": SHIPMENT_ID, "label_file_type": "PDF_4x6", "async": false });
    assert_eq!(calls[1].json(), bought);
}

#[tokio::test]
async fn a_parcel_that_leaves_the_country_is_declared() {
    let (shippo, stub) = shippo([say(201, SHIPMENT), say(201, BOUGHT)]).await;
    let item = CustomsItem {
        description: "Lamp".to_owned(),
        quantity: 2,
        grams: 900,
        value: money("25.00", "USD"),
        origin: "TR".to_owned(),
        hs_code: Some("9405".to_owned()),
    };
    let customs = Some(Customs { signer: "Ann Lee".to_owned(), items: vec![item] });
    shippo.buy(&BuyLabel { to: address("DE"), customs, ..wish() }).await.expect("bought");
    let declared = &stub.calls()[0].json()["customs_declaration"];
    assert_eq!((&declared["certify_signer"], &declared["eel_pfc"]), (&json!("Ann Lee"), &json!("NOEEI_30_37_a")));
    let item = json!({ "description": "Lamp", "quantity": 2, "net_weight": "900", "mass_unit": "g", "value_amount": "25.00",
        "value_currency": "USD", "origin_country": "TR", "tariff_number": "9405" });
    assert_eq!(declared["items"], json!([item]));
}

#[tokio::test]
async fn what_is_seen_in_the_wild_is_read_like_what_is_documented() {
    let (shippo, stub) = shippo([say(200, BOUGHT), say(200, RATE), say(200, OBSERVED)]).await;
    let documented = shippo.look("915d94940ea54c3a80cbfa328722f5a1").await.expect("there");
    let observed = shippo.look("915d94940ea54c3a80cbfa328722f5a1").await.expect("there");
    assert_eq!(
        (documented.status, documented.carrier, documented.cost),
        (observed.status, observed.carrier, observed.cost)
    );
    assert_eq!((documented.tracking_url.is_some(), observed.tracking_url), (true, None));
    assert_eq!(stub.lines().len(), 3, "a rate that is there whole is not asked for");
}

#[tokio::test]
async fn created_does_not_mean_bought() {
    let refused = r#"{"object_id":"a1","status":"ERROR","messages":[{"source":"UPS","code":"carrier_timeout",
        "text":"UPS API did not respond."},{"text":"Try again."},null]}"#;
    for (text, status) in [
        (refused, LabelStatus::Failed("carrier_timeout: UPS API did not respond.; Try again.".to_owned())),
        (
            r#"{"object_id":"a1","status":"ERROR","messages":null}"#,
            LabelStatus::Failed("no reason was given".to_owned()),
        ),
        (r#"{"object_id":"a1","status":"QUEUED","tracking_number":"","label_url":null}"#, LabelStatus::Queued),
        (r#"{"object_id":"a1","status":"WAITING"}"#, LabelStatus::Queued),
        (r#"{"object_id":"a1","status":"A_WORD_OF_NEXT_YEAR"}"#, LabelStatus::Queued),
    ] {
        let (shippo, _stub) = shippo([say(201, SHIPMENT), say(201, text)]).await;
        let label = shippo.buy(&wish()).await.expect("an answer");
        assert_eq!((label.status, label.tracking_number, label.file_url), (status, None, None), "{text}");
    }
}

#[tokio::test]
async fn without_a_rate_nothing_is_bought() {
    let none = r#"{"object_id":"a1","status":"ERROR","rates":null,"messages":[{"code":"x","text":"Too heavy"}]}"#;
    let (shippo, stub) = shippo([say(201, SHIPMENT), say(201, none)]).await;
    let error = shippo.buy(&BuyLabel { service: service("ups_ground"), ..wish() }).await.expect_err("not offered");
    assert_eq!(error, ProviderError::Rejected("ups_ground is not offered for this parcel".to_owned()));
    let error = shippo.buy(&wish()).await.expect_err("not offered");
    assert!(matches!(&error, ProviderError::Rejected(why) if why.ends_with("x: Too heavy")), "{error}");
    assert_eq!(stub.lines(), ["POST /shipments", "POST /shipments"]);
}

#[tokio::test]
async fn a_service_is_found_by_either_of_its_tokens() {
    for token in ["dhl", "dhl_express_worldwide"] {
        let (shippo, stub) = shippo([say(201, SHIPMENT), say(201, BOUGHT)]).await;
        shippo.buy(&BuyLabel { service: service(token), ..wish() }).await.expect("bought");
        assert_eq!(stub.calls()[1].json()["rate"], "rate3");
    }
}

#[tokio::test]
async fn rates_that_are_still_gathered_are_waited_for() {
    let queued = r#"{"object_id":"a1","status":"QUEUED","rates":[]}"#;
    let (shippo, stub) = shippo([say(201, queued), say(200, SHIPMENT), say(201, BOUGHT)]).await;
    shippo.buy(&wish()).await.expect("bought");
    assert_eq!(stub.lines(), ["POST /shipments", "GET /shipments/a1", "POST /transactions"]);
    stub.then((0..20).map(|_| say(200, queued)));
    assert!(unknown(&shippo.buy(&wish()).await.expect_err("for ever")), "within the timeout of a call");
}

/// A page of labels: metadata, status, and when each was made.
fn page(labels: &[(&str, &str, &str, &str)], next: bool) -> Reply {
    let label = |(id, metadata, status, created): &(&str, &str, &str, &str)| {
        json!({ "object_id": id, "metadata": metadata,
        "status": status, "object_created": created, "rate": "rate1" })
    };
    let results: Vec<Value> = labels.iter().map(label).collect();
    say(200, json!({ "results": results, "next": next.then_some("https://evil.example/?page=2") }).to_string())
}

#[tokio::test]
async fn a_label_is_found_among_the_newest_by_its_shipment() {
    let ours = SHIPMENT_ID.to_string();
    let other = ShipmentId(SHIPMENT_ID.0 + 1).to_string();
    // the shipment's id is of 2020-09-13T12:26:40Z
    let first = page(
        &[("a1", &other, "SUCCESS", "2020-09-13T13:00:00Z"), ("a2", &ours, "QUEUED", "2020-09-13T12:50:00")],
        true,
    );
    let second = page(
        &[
            ("a2", &ours, "QUEUED", "2020-09-13T12:50:00"),
            ("a3", &ours, "ERROR", "2020-09-13T12:40:00Z"),
            ("a4", &ours, "REFUNDED", "2020-09-13T12:30:00Z"),
        ],
        true,
    );
    let old = page(&[("a5", &other, "SUCCESS", "2020-09-05T11:10:00Z")], true);
    let (shippo, stub) = shippo([first, second, old, say(200, RATE)]).await;
    let found = shippo.find(SHIPMENT_ID).await.expect("found");
    let ids: Vec<_> = found.iter().map(|label| (label.label_id.as_str(), label.status.clone())).collect();
    assert_eq!(ids, [("a2", LabelStatus::Queued), ("a4", LabelStatus::Voided)]);
    assert_eq!(stub.lines()[..3], [1, 2, 3].map(|page| format!("GET /transactions?page={page}&results=100")));
    assert_eq!(
        stub.lines().len(),
        4,
        "a label that was bought is asked for its rate, and nobody reads past the horizon"
    );
}

#[tokio::test]
async fn a_search_that_does_not_end_says_that_nobody_knows() {
    let (shippo, stub) =
        shippo((0..=MOST_PAGES).map(|_| page(&[("a1", "x", "SUCCESS", "2020-09-13T13:00:00Z")], true))).await;
    assert!(unknown(&shippo.find(SHIPMENT_ID).await.expect_err("no end")));
    assert_eq!(stub.lines().len(), MOST_PAGES);
    let (shippo, _stub) = self::shippo([say(200, r#"{"results":[{"object_id":"a1"}]}"#), say(503, "")]).await;
    assert!(unknown(&shippo.find(SHIPMENT_ID).await.expect_err("a label that cannot be read is not passed over")));
    assert!(unknown(&shippo.find(SHIPMENT_ID).await.expect_err("away")));
}

#[tokio::test]
async fn a_clock_that_runs_ahead_hides_no_label() {
    let ours = ShipmentId(SHIPMENT_ID.0 * 2).to_string();
    // the machine's own clock stands in the answer's Date
    let made = Clock::default().now() - TimeDelta::hours(23);
    let young = page(&[("a1", "x", "SUCCESS", &made.to_rfc3339())], true);
    let last = page(&[("a2", &ours, "QUEUED", &made.to_rfc3339())], false);
    let (shippo, _stub) = shippo([young, last]).await;
    assert_eq!(shippo.find(ShipmentId(SHIPMENT_ID.0 * 2)).await.expect("found").len(), 1);
}

#[tokio::test]
async fn a_label_is_voided_once() {
    let label = |status: &str| say(200, format!(r#"{{"object_id":"a1","status":"{status}"}}"#));
    let refund = |status: &str| say(201, format!(r#"{{"object_id":"r1","status":"{status}","transaction":"a1"}}"#));
    let (shippo, stub) = shippo([]).await;
    for (status, void) in
        [("QUEUED", Void::Pending), ("PENDING", Void::Pending), ("SUCCESS", Void::Done), ("ERROR", Void::Rejected)]
    {
        stub.then([label("SUCCESS"), refund(status)]);
        assert_eq!(shippo.void("a1").await, Ok(void), "{status}");
    }
    let asked = stub.lines().len();
    for (status, void) in
        [("REFUNDPENDING", Void::Pending), ("REFUNDED", Void::Done), ("REFUNDREJECTED", Void::Rejected)]
    {
        stub.then([label(status)]);
        assert_eq!(shippo.void("a1").await, Ok(void), "{status}");
    }
    stub.then([label("QUEUED"), label("ERROR")]);
    assert!(matches!(shippo.void("a1").await, Err(ProviderError::NotYet(_))));
    assert!(matches!(shippo.void("a1").await, Err(ProviderError::Rejected(_))));
    assert!(
        stub.lines()[asked..].iter().all(|line| line == "GET /transactions/a1"),
        "what is voided is not voided again"
    );
    assert_eq!(stub.calls()[1].json(), json!({ "transaction": "a1", "async": false }));
}

#[tokio::test]
async fn a_label_is_what_its_first_bytes_say() {
    let (shippo, stub) = shippo([]).await;
    let url = format!("{}label.pdf?Signature=x", shippo.base);
    for (bytes, media_type) in [
        (&b"%PDF-1.4 ..."[..], "application/pdf"),
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\n^XA^FO50,50^XZ", "application/zpl"),
    ] {
        stub.then([Reply::Send(bytes.to_vec())]);
        let file = shippo.file(&url).await.expect("a label");
        assert_eq!((file.content_type.as_str(), file.bytes.as_slice()), (media_type, bytes));
    }
    assert!(stub.calls().iter().all(|call| !call.headers.contains_key("authorization")), "the key is Shippo's alone");
    stub.then([Reply::Send(b"<html>Sorry</html>".to_vec()), say(503, ""), say(302, ""), Reply::CutShort, Reply::Stall]);
    for why in ["a page", "away", "a redirect", "cut", "stalled"] {
        assert!(unknown(&shippo.file(&url).await.expect_err(why)), "{why}");
    }
    stub.then([say(403, "<Error/>"), Reply::Send(vec![b'%'; LONGEST_FILE + 1])]);
    assert!(matches!(shippo.file(&url).await, Err(ProviderError::Dead(_))), "the address has expired: look again");
    assert!(matches!(shippo.file(&url).await, Err(ProviderError::Rejected(_))), "without end");
    for unsafe_url in ["", "file:///etc/passwd", "http://192.168.0.1/x", "ftp://127.0.0.1/x"] {
        assert!(matches!(shippo.file(unsafe_url).await, Err(ProviderError::Rejected(_))), "{unsafe_url}");
    }
}

#[tokio::test]
async fn a_parcels_history_is_told_oldest_first() {
    let track = r#"{"carrier":"usps","tracking_number":"92","tracking_status":{"object_updated":null,"status":"DELIVERED",
        "status_details":"Left at 1 Way, Town","status_date":"2026-11-23T09:00:00.000","substatus":null},
        "tracking_history":[
        {"status":"DELIVERED","status_details":"Left at 1 Way, Town","status_date":"2026-11-23T09:00:00Z","substatus":null},
        {"status":"TRANSIT","status_date":"2026-11-22T10:00:00+01:00","substatus":{"code":"out_for_delivery",
        "text":"Package is out for delivery.","action_required":false},"location":{"city":"Town"}},
        {"status":"BEAMED","status_date":null,"object_created":"2026-11-21T08:00:00Z"},
        {"status":"TRANSIT","status_date":null},{"status":null},"odd",
        {"status":"PRE_TRANSIT","status_date":"2026-11-20T08:00:00Z","substatus":"odd"}]}"#;
    let (shippo, stub) = shippo([say(200, track), say(200, "{}")]).await;
    let history = shippo.track("usps", "92 0000").await.expect("there");
    let told: Vec<_> =
        history.iter().map(|said| (said.status, said.substatus.as_deref(), said.details.as_str())).collect();
    assert_eq!(
        told,
        [
            (TrackingStatus::PreTransit, None, "The carrier has been told of the parcel."),
            (TrackingStatus::Unknown, None, "Nothing is known yet."),
            (TrackingStatus::Transit, Some("out_for_delivery"), "Package is out for delivery."),
            (TrackingStatus::Delivered, None, "The parcel was delivered."),
        ]
    );
    assert_eq!(history[2].at.to_rfc3339(), "2026-11-22T09:00:00+00:00");
    assert_eq!(shippo.track("usps", "1").await, Ok(Vec::new()));
    assert_eq!(stub.lines(), ["GET /tracks/usps/92%200000", "GET /tracks/usps/1"]);
}

#[tokio::test]
async fn rates_are_offered_in_the_currency_that_was_asked_for() {
    let (shippo, stub) = shippo((0..3).map(|_| say(201, SHIPMENT))).await;
    let offers = async |currency: &str| {
        let currency = currency.parse().expect("known");
        let offers = shippo.rates(&address("US"), &address("DE"), PARCEL, None, currency).await.expect("rates");
        offers.into_iter().map(|offer| (offer.service.token, offer.price.amount())).collect::<Vec<_>>()
    };
    let named = |list: [(&str, &str); 3]| list.map(|(token, price)| (token.to_owned(), price.to_owned())).to_vec();
    let usd = [("usps_ground_advantage", "5.40"), ("usps_priority", "8.95"), ("dhl_express_worldwide", "58.90")];
    let eur = [("usps_ground_advantage", "4.97"), ("usps_priority", "8.23"), ("dhl_express_worldwide", "54.19")];
    assert_eq!(offers("USD").await, named(usd));
    assert_eq!(offers("EUR").await, named(eur));
    assert_eq!(offers("GBP").await, [], "nothing is converted");
    assert!(stub.calls()[0].json().get("metadata").is_none(), "a quote is nobody's shipment");
}

#[tokio::test]
async fn an_odd_rate_is_left_out_and_a_service_is_offered_once() {
    let rate = |id: &str, amount: &str, provider: &str, token: &str| {
        json!({ "object_id": id, "amount": amount, "currency": "USD", "provider": provider,
            "servicelevel": { "name": "A\u{0} name", "token": token }, "estimated_days": -1 })
    };
    let rates = json!([
        rate("r1", "5.505", "Canada Post", "canada_post_x"), rate("r2", "5.50", "Canada Post", "canada_post_x"),
        rate("r3", "-5", "USPS", "a"), rate("r4", "1e3", "USPS", "b"), rate("r5", "", "USPS", "c"), rate("r6", "5", "", "d"),
        rate("r7", "5", "USPS", "no token"), rate("../r8", "5", "USPS", "e"), { "object_id": "r9" }, null, "odd",
    ]);
    let (shippo, _stub) =
        shippo([say(201, json!({ "object_id": "s1", "status": "SUCCESS", "rates": rates }).to_string())]).await;
    let usd = "USD".parse().expect("known");
    let offers = shippo.rates(&address("US"), &address("CA"), PARCEL, None, usd).await.expect("rates");
    let [offer] = offers.as_slice() else { panic!("{offers:?}") };
    assert_eq!((offer.service.carrier.as_str(), offer.service.name.as_str()), ("canada_post", "Canada Post A name"));
    assert_eq!((offer.price, offer.estimated_days), (money("5.50", "USD"), None));
}

#[tokio::test]
async fn amounts_are_rounded_up_to_what_the_currency_has() {
    for (amount, currency, price) in [
        ("5.505", "USD", "5.51"),
        ("5.500", "USD", "5.50"),
        ("5", "USD", "5.00"),
        ("700.1", "JPY", "701"),
        ("700.0", "JPY", "700"),
    ] {
        let rate = json!({ "object_id": "r1", "amount": amount, "currency": currency, "provider": "P", "servicelevel": { "token": "t" } });
        let (shippo, _stub) = shippo([say(201, json!({ "object_id": "s1", "rates": [rate] }).to_string())]).await;
        let code = currency.parse().expect("known");
        let offers = shippo.rates(&address("US"), &address("US"), PARCEL, None, code).await.expect("rates");
        assert_eq!(offers[0].price.amount(), price, "{amount} {currency}");
    }
}

#[tokio::test]
async fn an_address_may_be_right_and_still_lack_a_flat() {
    let right = r#"{"object_id":"a1","is_complete":true,"street1":"1 WAY","street2":"","city":"TOWN","state":"IL",
        "zip":"12345-6789","country":"US","validation_results":{"is_valid":true,"messages":[{"source":"USPS",
        "code":"Missing Secondary Number","text":"The address is missing a suite.","type":"address_warning"}]}}"#;
    let wrong = r#"{"object_id":"a1","street1":"1 Way","validation_results":{"is_valid":false,"messages":[
        {"code":"unknown_street","text":"The address could not be found."},null,{"text":null}]}}"#;
    let unchecked = r#"{"object_id":"a1","validation_results":{}}"#;
    let (shippo, stub) = shippo([say(201, right), say(201, wrong), say(201, unchecked)]).await;
    let check = shippo.check_address(&address("US")).await.expect("checked");
    assert!(check.is_valid);
    assert_eq!(check.messages, [(None, "The address is missing a suite.".to_owned())]);
    let suggested = check.suggested.expect("written otherwise");
    assert_eq!((suggested.line1.as_str(), suggested.postal_code.as_str()), ("1 WAY", "12345-6789"));
    assert_eq!((suggested.name.as_str(), suggested.line2), ("Zoë", None));
    let check = shippo.check_address(&address("US")).await.expect("checked");
    let message = (Some("unknown_street".to_owned()), "The address could not be found.".to_owned());
    assert_eq!((check.is_valid, check.messages, check.suggested), (false, vec![message], None));
    let check = shippo.check_address(&address("US")).await.expect("answered");
    assert_eq!((check.is_valid, check.messages[0].0.as_deref()), (true, Some("not_checked")), "seen in the wild");
    assert_eq!(stub.calls()[0].json()["validate"], true);
}

#[tokio::test]
async fn no_whole_answer_is_no_certain_answer() {
    for why in 0..7 {
        let reply = match why {
            0 => Reply::Stall,
            1 => Reply::CutShort,
            2 => say(201, "{"),
            3 => say(201, r#"{"object_id":"../x","status":"SUCCESS"}"#),
            4 => say(500, "<html><body>Sorry</body></html>"),
            5 => say(302, ""),
            _ => say(204, ""),
        };
        let (shippo, _stub) = shippo([say(201, SHIPMENT), reply]).await;
        let error = shippo.buy(&wish()).await.expect_err("no answer");
        assert!(unknown(&error), "{why}: {error}");
    }
    let (shippo, _stub) = shippo([say(200, "x".repeat(LONGEST_BODY + 1))]).await;
    let error = shippo.look("a1").await.expect_err("too long");
    assert!(unknown(&error) && error.to_string().contains("without end"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let shippo = Shippo::new(settings(base_url), Clock::default()).expect("settings");
    let error = shippo.look("a1").await.expect_err("nobody");
    assert!(unknown(&error) && !error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_told_by_its_class() {
    let throttled = Reply::SayWith(429, "retry-after", "7");
    let limited = Reply::SayWith(429, "x-ratelimit-reset", "9");
    let nested = r#"{"address_to":[{"__all__":["1 Way is no address"]}]}"#;
    let (shippo, _stub) = shippo([throttled, limited, say(400, nested), say(404, r#"{"detail":"Not found."}"#)]).await;
    let waits = |error: ProviderError| {
        let ProviderError::Unknown { retry_after, .. } = error else { panic!("{error}") };
        retry_after
    };
    assert_eq!(waits(shippo.buy(&wish()).await.expect_err("throttled")), Some(Duration::from_secs(7)));
    assert_eq!(waits(shippo.buy(&wish()).await.expect_err("throttled")), Some(Duration::from_secs(9)));
    let error = shippo.buy(&wish()).await.expect_err("refused");
    assert_eq!(error, ProviderError::Rejected("refused for address_to (HTTP 400)".to_owned()));
    assert!(matches!(shippo.look("a1").await, Err(ProviderError::Dead(_))));
}

#[tokio::test]
async fn what_is_no_id_goes_nowhere() {
    let (shippo, stub) = shippo([]).await;
    for id in ["", "..", "a/b", "a?b", "a%2fb", "ä", &"a".repeat(65)] {
        assert!(matches!(shippo.look(id).await, Err(ProviderError::Rejected(_))), "{id}");
        assert!(matches!(shippo.void(id).await, Err(ProviderError::Rejected(_))), "{id}");
        assert!(matches!(shippo.track("usps", id).await, Err(ProviderError::Rejected(_))), "{id}");
        assert!(matches!(shippo.track(id, "92").await, Err(ProviderError::Rejected(_))), "{id}");
    }
    assert!(stub.lines().is_empty());
}

#[tokio::test]
async fn only_so_many_quotes_are_asked_for_at_once() {
    let (shippo, stub) = shippo((0..MOST_ASKED).map(|_| Reply::Stall)).await;
    let (us, usd) = (address("US"), "USD".parse().expect("known"));
    let many = futures::future::join_all((0..MOST_ASKED + 10).map(|_| shippo.rates(&us, &us, PARCEL, None, usd)));
    let refused = many
        .await
        .into_iter()
        .filter(|answer| answer.as_ref().is_err_and(|error| error.to_string().contains("too many quotes")));
    assert_eq!((refused.count(), stub.lines().len()), (10, MOST_ASKED));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = settings("https://api.goshippo.com".to_owned());
        change(&mut settings);
        Shippo::new(settings, Clock::default()).err().map(|error| error.setting)
    };
    assert_eq!(refused(|_| {}), None);
    for base_url in ["shippo", "http://api.goshippo.com", "https://a@b.c", "https://b.c?x", "ftp://127.0.0.1"] {
        let error = Shippo::new(settings(base_url.to_owned()), Clock::default()).expect_err(base_url);
        assert_eq!(error.setting, "base_url");
    }
    assert_eq!(refused(|s| s.api_key = "".into()), Some("api_key"));
    assert_eq!(refused(|s| s.api_key = "a key\r\nX: y".into()), Some("api_key"));
    assert_eq!(refused(|s| s.label_format = "DOC".into()), Some("label_format"));
}

#[test]
fn no_secret_shows() {
    let settings = settings("https://api.goshippo.com".to_owned());
    let shown = format!("{settings:?}{:?}", Shippo::new(settings.clone(), Clock::default()).expect("settings"));
    assert!(!shown.contains("-secret"), "{shown}");
}
