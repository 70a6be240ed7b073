//! The client against a PayPal of a few lines on this machine.

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
use chrono::TimeDelta;
use souk_actors::{
    domain::{Address, Intent, PaymentId},
    ports::FactStatus,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const ORDER: &str = r#"{"id":"0PF12345AB678901C","status":"PAYER_ACTION_REQUIRED","links":[
    {"href":"https://evil.example/v2/checkout/orders/0PF12345AB678901C","rel":"self","method":"GET"},
    {"href":"https://www.sandbox.paypal.com/checkoutnow?token=0PF12345AB678901C","rel":"payer-action"}]}"#;

const CAPTURED: &str = r#"{"id":"0PF12345AB678901C","status":"COMPLETED","purchase_units":[{"custom_id":"payment_1",
    "payments":{"captures":[{"id":"5B223658W54364539","status":"COMPLETED",
    "amount":{"currency_code":"USD","value":"30.00"},
    "create_time":"2026-11-22T10:00:00Z","update_time":"2026-11-22T10:00:00Z"}]}}]}"#;

const REFUNDED: &str = r#"{"id":"1Y107995YT783435V","status":"PENDING","amount":{"currency_code":"USD","value":"0.99"},
    "create_time":"2026-11-22T11:00:00Z","update_time":"2026-11-22T11:00:01Z"}"#;

/// What was asked, as far as a test looks at it.
#[derive(Clone)]
struct Asked {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// How the API answers next.
enum Reply {
    Say(u16, &'static str),
    SayWith(u16, &'static str, &'static str, &'static str),
    Late(Duration, &'static str),
    Stall,
    CutShort,
}

#[derive(Default)]
struct Stub {
    asked: Mutex<Vec<Asked>>,
    replies: Mutex<VecDeque<Reply>>,
    token_replies: Mutex<VecDeque<Reply>>,
}

impl Stub {
    fn lines(&self) -> Vec<String> {
        self.asked.lock().expect("whole").iter().map(|asked| asked.line.clone()).collect()
    }

    /// The calls that were no token's.
    fn calls(&self) -> Vec<Asked> {
        let asked = self.asked.lock().expect("whole");
        asked.iter().filter(|asked| !asked.line.ends_with("/oauth2/token")).cloned().collect()
    }

    fn tokens(&self) -> usize {
        self.lines().iter().filter(|line| line.ends_with("/oauth2/token")).count()
    }
}

async fn answer(State(stub): State<Arc<Stub>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let line = format!("{} {}", parts.method, parts.uri);
    let is_token = parts.uri.path().ends_with("/oauth2/token");
    let number = {
        let mut asked = stub.asked.lock().expect("whole");
        asked.push(Asked { line, headers: parts.headers, body });
        asked.len()
    };
    let queue = if is_token { &stub.token_replies } else { &stub.replies };
    let reply = queue.lock().expect("whole").pop_front();
    match reply {
        Some(Reply::Say(status, text)) => say(status, text),
        Some(Reply::SayWith(status, text, name, value)) => ([(name, value)], say(status, text)).into_response(),
        Some(Reply::Late(wait, text)) => {
            tokio::time::sleep(wait).await;
            say(200, text)
        }
        Some(Reply::Stall) => std::future::pending().await,
        Some(Reply::CutShort) => {
            let halves = [Ok(Bytes::from_static(b"{\"id\":")), Err(std::io::Error::other("cut"))];
            Body::from_stream(futures::stream::iter(halves)).into_response()
        }
        None if is_token => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            say(200, &format!(r#"{{"access_token":"A21-{number}","token_type":"Bearer","expires_in":32400}}"#))
        }
        None => say(200, CAPTURED),
    }
}

fn say(status: u16, text: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("paypal-debug-id", "f8fc8cc9e4d97")], text.to_owned()).into_response()
}

fn settings(base_url: String) -> Settings {
    Settings {
        base_url,
        client_id: "client".to_owned(),
        client_secret: "very-secret".into(),
        brand_name: "Souk".to_owned(),
        timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(3),
        webhook: webhook::Settings::sandbox("9JX12345"),
        verification: Verification::Itself,
    }
}

/// A client and the PayPal it speaks to, which will answer so.
async fn paypal(replies: impl IntoIterator<Item = Reply>) -> (PayPal, Arc<Stub>) {
    let stub = Arc::new(Stub { replies: Mutex::new(replies.into_iter().collect()), ..Stub::default() });
    let router = Router::new().fallback(answer).with_state(stub.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (PayPal::new(settings(base_url), Clock::default()).expect("settings"), stub)
}

fn usd(amount: &str) -> Money {
    Money::parse(amount, "USD".parse().expect("known")).expect("an amount")
}

fn wish() -> CreatePayment {
    CreatePayment {
        intent: Intent::Capture,
        request_id: TaskId(7),
        payment_id: PaymentId(1),
        reference: "order_1".to_owned(),
        total: usd("30.00"),
        ship_to: Address {
            name: "Zoë".to_owned(),
            line1: "1 Way".to_owned(),
            line2: None,
            city: "Town".to_owned(),
            region: None,
            postal_code: "12345".to_owned(),
            country: "US".to_owned(),
        },
        return_url: "https://shop/back".to_owned(),
        cancel_url: "https://shop/no".to_owned(),
    }
}

fn unknown(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Unknown { .. })
}

#[tokio::test]
async fn a_payment_is_created_captured_and_refunded() {
    let replies = [Reply::Say(201, ORDER), Reply::Say(201, CAPTURED), Reply::Say(201, REFUNDED)];
    let (paypal, stub) = paypal(replies).await;

    let created = paypal.create(&wish()).await.expect("created");
    assert_eq!(created.provider_order_id, "0PF12345AB678901C");
    assert_eq!(created.approve_url, "https://www.sandbox.paypal.com/checkoutnow?token=0PF12345AB678901C");
    let captured = paypal.capture(TaskId(8), &created.provider_order_id).await.expect("captured");
    assert_eq!(captured.len(), 2);
    assert_eq!((captured[1].kind, captured[1].amount), (FactKind::Capture, Some(usd("30.00"))));
    let refunded = paypal.refund(TaskId(9), RefundId(5), &captured[1].object_id, usd("0.99")).await.expect("refunded");
    assert_eq!(refunded[0].parent.as_deref(), Some("5B223658W54364539"));
    assert_eq!((refunded[0].kind, refunded[0].status), (FactKind::Refund, FactStatus::Pending));
    paypal.inspect(&created.provider_order_id).await.expect("inspected");

    let expected = [
        "POST /v1/oauth2/token",
        "POST /v2/checkout/orders",
        "POST /v2/checkout/orders/0PF12345AB678901C/capture",
        "POST /v2/payments/captures/5B223658W54364539/refund",
        "GET /v2/checkout/orders/0PF12345AB678901C",
    ];
    assert_eq!(stub.lines(), expected);
    let calls = stub.calls();
    assert!(calls.iter().all(|call| call.header("prefer") == Some("return=representation")));
    assert!(calls.iter().all(|call| call.header("authorization") == Some("Bearer A21-1")));
    let request_ids: Vec<_> = calls.iter().map(|call| call.header("paypal-request-id").map(str::to_owned)).collect();
    let tasks = [Some(TaskId(7)), Some(TaskId(8)), Some(TaskId(9)), None];
    assert_eq!(request_ids, tasks.map(|task| task.map(|task| task.to_string())));
    assert_eq!(calls[1].body, "{}");
    let asked = format!(r#"{{"amount":{{"currency_code":"USD","value":"0.99"}},"custom_id":"{}"}}"#, RefundId(5));
    assert_eq!(calls[2].body, asked);
    let token = &stub.asked.lock().expect("whole")[0];
    assert_eq!(token.body, "grant_type=client_credentials");
    assert_eq!(token.header("authorization"), Some("Basic Y2xpZW50OnZlcnktc2VjcmV0"));
}

const AUTHORISED: &str = r#"{"id":"0PF12345AB678901C","status":"COMPLETED","purchase_units":[{"custom_id":"payment_1",
    "payments":{"authorizations":[{"id":"0AW2184448108334S","status":"CREATED",
    "amount":{"currency_code":"USD","value":"30.00"},"create_time":"2026-11-22T10:00:00Z"}]}}]}"#;

const CAPTURED_IN_PART: &str = r#"{"id":"5B223658W54364539","status":"COMPLETED","final_capture":false,
    "amount":{"currency_code":"USD","value":"12.50"},"custom_id":"payment_1","create_time":"2026-11-22T10:00:00Z"}"#;

const VOIDED: &str = r#"{"id":"0AW2184448108334S","status":"VOIDED","custom_id":"payment_1",
    "amount":{"currency_code":"USD","value":"30.00"},"update_time":"2026-11-22T12:00:00Z"}"#;

const AUTHORISATION: &str = "/v2/payments/authorizations/0AW2184448108334S";

#[tokio::test]
async fn a_payment_is_authorised_and_captured_in_parts() {
    let replies = [Reply::Say(201, ORDER), Reply::Say(201, AUTHORISED), Reply::Say(201, CAPTURED_IN_PART)];
    let (paypal, stub) = paypal(replies).await;
    let created = paypal.create(&CreatePayment { intent: Intent::Authorise, ..wish() }).await.expect("created");
    let authorised = paypal.authorise(TaskId(8), &created.provider_order_id).await.expect("authorised");
    assert_eq!((authorised[1].kind, authorised[1].status), (FactKind::Authorisation, FactStatus::Created));
    let captured = paypal.capture_authorised(TaskId(9), "0AW2184448108334S", usd("12.50"), false).await;
    let [capture] = captured.expect("captured").try_into().expect("one fact");
    assert_eq!((capture.kind, capture.amount), (FactKind::Capture, Some(usd("12.50"))));
    assert_eq!(capture.parent.as_deref(), Some("0AW2184448108334S"));
    assert_eq!(capture.reference.as_deref(), Some("payment_1"));

    let calls = stub.calls();
    let created = serde_json::from_slice::<serde_json::Value>(&calls[0].body).expect("json");
    assert_eq!(created["intent"], "AUTHORIZE");
    assert_eq!(calls[1].line, "POST /v2/checkout/orders/0PF12345AB678901C/authorize");
    assert_eq!(calls[2].line, format!("POST {AUTHORISATION}/capture"));
    assert_eq!(calls[2].body, r#"{"amount":{"currency_code":"USD","value":"12.50"},"final_capture":false}"#);
    assert_eq!(calls[2].header("paypal-request-id"), Some(TaskId(9).to_string().as_str()));
}

#[tokio::test]
async fn an_authorisation_that_names_no_money_is_looked_at_again() {
    let (paypal, _stub) = paypal([Reply::Say(201, r#"{"id":"0PF","status":"COMPLETED"}"#)]).await;
    let error = paypal.authorise(TaskId(8), "0PF").await.expect_err("no authorisation");
    assert!(matches!(error, ProviderError::AlreadyDone(_)), "{error}");
}

/// Voided now, voided without a word, voided before: each time the authorisation is void, by PayPal's own word.
#[tokio::test]
async fn a_void_is_told_in_three_ways() {
    const BEFORE: &str = r#"{"name":"UNPROCESSABLE_ENTITY","details":[{"issue":"PREVIOUSLY_VOIDED"}]}"#;
    for (reply, asked) in [(Reply::Say(200, VOIDED), 1), (Reply::Say(204, ""), 2), (Reply::Say(422, BEFORE), 2)] {
        let (paypal, stub) = paypal([reply, Reply::Say(200, VOIDED)]).await;
        let [fact] = paypal.void(TaskId(8), "0AW2184448108334S").await.expect("void").try_into().expect("one fact");
        assert_eq!((fact.kind, fact.status), (FactKind::Authorisation, FactStatus::Voided));
        assert_eq!(fact.object_id, "0AW2184448108334S");
        let lines: Vec<_> = stub.calls().into_iter().map(|call| call.line).collect();
        let expected = [format!("POST {AUTHORISATION}/void"), format!("GET {AUTHORISATION}")];
        assert_eq!(lines, expected[..asked]);
    }
}

#[tokio::test]
async fn a_void_that_is_refused_says_why() {
    let (paypal, _stub) = paypal([
        Reply::Say(422, r#"{"name":"UNPROCESSABLE_ENTITY","details":[{"issue":"CANNOT_BE_VOIDED"}]}"#),
        Reply::Say(422, r#"{"name":"UNPROCESSABLE_ENTITY","details":[{"issue":"AUTHORIZATION_EXPIRED"}]}"#),
        Reply::Say(409, r#"{"name":"RESOURCE_CONFLICT","details":[{"issue":"PREVIOUS_REQUEST_IN_PROGRESS"}]}"#),
        Reply::Say(204, ""),
        Reply::Say(503, "<html>"),
    ])
    .await;
    let void = async || paypal.void(TaskId(8), "0AW2184448108334S").await.expect_err("refused");
    assert!(matches!(void().await, ProviderError::Rejected(_)));
    assert!(matches!(void().await, ProviderError::Dead(_)));
    assert!(matches!(void().await, ProviderError::NotYet(_)));
    assert!(unknown(&void().await), "void, but nobody said so yet: it is asked again");
}

#[tokio::test]
async fn disputes_of_a_capture_are_asked_for_one_by_one() {
    let (paypal, stub) = paypal([
        Reply::Say(
            200,
            r#"{"items":[{"dispute_id":"PP-D-1","status":"OPEN","dispute_state":"REQUIRED_ACTION"}],
            "links":[{"rel":"next","href":"https://evil.example/v1/customer/disputes?next_page_token=x"}]}"#,
        ),
        Reply::Say(200, r#"{"items":[{"dispute_id":"PP-D-2","status":"RESOLVED"}],"links":[]}"#),
        Reply::Say(
            200,
            r#"{"dispute_id":"PP-D-1","status":"WAITING_FOR_SELLER_RESPONSE","update_time":"2026-11-22T10:00:00.000Z"}"#,
        ),
        Reply::Say(
            200,
            r#"{"dispute_id":"PP-D-2","status":"RESOLVED","update_time":"2026-11-22T10:00:00.000Z",
            "dispute_outcome":{"outcome_code":"RESOLVED_SELLER_FAVOUR"}}"#,
        ),
    ])
    .await;
    let facts = paypal.disputes("5B223658W54364539").await.expect("disputes");
    let told: Vec<_> = facts.iter().map(|fact| (fact.object_id.as_str(), fact.status)).collect();
    assert_eq!(told, [("PP-D-1", FactStatus::Open), ("PP-D-2", FactStatus::Won)]);
    assert!(facts.iter().all(|fact| fact.kind == FactKind::Dispute));
    assert!(facts.iter().all(|fact| fact.parent.as_deref() == Some("5B223658W54364539")));
    let lines: Vec<_> = stub.calls().into_iter().map(|call| call.line).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/customer/disputes?disputed_transaction_id=5B223658W54364539&page_size=50",
            "GET /v1/customer/disputes?next_page_token=x",
            "GET /v1/customer/disputes/PP-D-1",
            "GET /v1/customer/disputes/PP-D-2",
        ]
    );
}

#[tokio::test]
async fn events_are_listed_from_all_pages_oldest_first() {
    let (paypal, stub) = paypal([
        Reply::Say(
            200,
            r#"{"events":[{"id":"WH-3","create_time":"2026-11-22T10:00:03Z"},{"id":"WH-2","create_time":"2026-11-22T10:00:02Z"}],
            "count":2,"links":[{"rel":"next","href":"https://api.paypal.com/v1/notifications/webhooks-events?page=2"}]}"#,
        ),
        Reply::Say(200, r#"{"events":[{"id":"WH-2","create_time":"2026-11-22T10:00:02Z"},{"id":"WH-1"}],"links":[]}"#),
    ])
    .await;
    let since = DateTime::parse_from_rfc3339("2026-11-22T10:00:00.5Z").expect("a time").to_utc();
    let listed = paypal.events(since, since + TimeDelta::hours(2)).await.expect("a list");
    let ids: Vec<_> = listed.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!(ids, ["WH-1", "WH-2", "WH-3"]);
    assert_eq!(listed[0].body, br#"{"id":"WH-1"}"#);
    let lines: Vec<_> = stub.calls().into_iter().map(|call| call.line).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/notifications/webhooks-events?start_time=2026-11-22T10%3A00%3A00Z&end_time=2026-11-22T12%3A00%3A00Z&page_size=50",
            "GET /v1/notifications/webhooks-events?page=2",
        ]
    );
}

#[tokio::test]
async fn a_list_without_end_is_not_read_to_it() {
    const ENDLESS: &str = r#"{"events":[{"id":"WH-1"}],"links":[{"rel":"next","href":"https://x.y/?page=2"}]}"#;
    let (paypal, stub) = paypal((0..=MOST_PAGES).map(|_| Reply::Say(200, ENDLESS))).await;
    let listed = paypal.events(DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH).await.expect("a list");
    assert_eq!((listed.len(), stub.calls().len()), (1, MOST_PAGES));
}

/// A postback's question, signed with what is no signature: PayPal alone says what it is.
fn delivered() -> HeaderMap {
    let headers = [
        ("paypal-transmission-id", "69cd13f0-d67a-11e5-baa3-778b53f4ae55"),
        ("paypal-transmission-time", "2026-11-22T12:00:00Z"),
        ("paypal-transmission-sig", "AAAA"),
        ("paypal-cert-url", "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42"),
        ("paypal-auth-algo", "SHA256withRSA"),
    ];
    let header = |(name, value): (&'static str, &str)| {
        (axum::http::HeaderName::from_static(name), value.parse().expect("a value"))
    };
    headers.into_iter().map(header).collect()
}

async fn postback(replies: impl IntoIterator<Item = Reply>) -> (PayPal, Arc<Stub>) {
    let (paypal, stub) = paypal(replies).await;
    let base_url = paypal.base.to_string();
    let settings = Settings { verification: Verification::Postback, ..settings(base_url) };
    (PayPal::new(settings, Clock::default()).expect("settings"), stub)
}

const SUCCESS: &str = r#"{"verification_status":"SUCCESS"}"#;
const FAILURE: &str = r#"{"verification_status":"FAILURE"}"#;

#[tokio::test]
async fn a_postback_carries_the_event_to_the_byte() {
    let body = br#"{ "id":"WH-1" ,"resource": {"value":1.0, "empty":{}, "list":[], "slash":"\/"}}"#;
    let (paypal, stub) = postback([Reply::Say(200, SUCCESS)]).await;
    let verified = paypal.verify(&delivered(), body).await.expect("believed");
    assert_eq!(verified.event_id.as_deref(), Some("WH-1"));
    assert_eq!(verified.transmission_id, "69cd13f0-d67a-11e5-baa3-778b53f4ae55");

    let [asked] = stub.calls().try_into().ok().expect("one question");
    assert_eq!(asked.line, "POST /v1/notifications/verify-webhook-signature");
    assert_eq!(asked.header("paypal-request-id"), None, "a question is no deed");
    let (before, spliced) = asked.body.split_at(asked.body.len() - body.len() - 1);
    assert_eq!(spliced, [body.as_slice(), b"}"].concat());
    assert_eq!(
        before,
        concat!(
            r#"{"auth_algo":"SHA256withRSA","#,
            r#""cert_url":"https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42","#,
            r#""transmission_id":"69cd13f0-d67a-11e5-baa3-778b53f4ae55","transmission_sig":"AAAA","#,
            r#""transmission_time":"2026-11-22T12:00:00Z","webhook_id":"9JX12345","webhook_event":"#
        )
        .as_bytes()
    );
}

#[tokio::test]
async fn a_postback_that_fails_or_says_nothing() {
    let body = br#"{"id":"WH-1"}"#;
    let (paypal, _stub) = postback([
        Reply::Say(200, FAILURE),
        Reply::Say(200, r#"{"verification_status":"MAYBE"}"#),
        Reply::Say(503, "<html>"),
        Reply::Say(403, r#"{"name":"NOT_AUTHORIZED"}"#),
        Reply::Stall,
    ])
    .await;
    assert!(matches!(paypal.verify(&delivered(), body).await, Err(Rejection::Forged(_))));
    for silent in ["a new word", "a page of HTML", "an app without the right", "nothing"] {
        let answer = paypal.verify(&delivered(), body).await;
        assert!(matches!(answer, Err(Rejection::CannotTell(_))), "{silent}: {answer:?}");
    }
}

/// What could not be PayPal's costs no call, and neither does the flood of those that it has denied.
#[tokio::test]
async fn postbacks_are_not_for_everybody() {
    let (paypal, stub) = postback((0..100).map(|_| Reply::Say(200, FAILURE))).await;
    let foreign = "https://evil.example/v1/notifications/certs/CERT-1".parse().expect("a value");
    let mut headers = delivered();
    headers.insert("paypal-cert-url", foreign);
    assert!(matches!(paypal.verify(&headers, b"{}").await, Err(Rejection::Forged(_))));
    for no_json in [&b""[..], b"{", br#"{},"webhook_id":"mine","webhook_event":{}"#, b"{} {}"] {
        assert!(matches!(paypal.verify(&delivered(), no_json).await, Err(Rejection::Forged(_))), "{no_json:?}");
    }
    assert!(stub.calls().is_empty());

    for _ in 0..30 {
        assert!(matches!(paypal.verify(&delivered(), b"{}").await, Err(Rejection::Forged(_))));
    }
    assert!(matches!(paypal.verify(&delivered(), b"{}").await, Err(Rejection::CannotTell(_))));
    assert_eq!(stub.calls().len(), 30);
    paypal.clock.advance(chrono::TimeDelta::minutes(1));
    stub.replies.lock().expect("whole").push_front(Reply::Say(200, SUCCESS));
    paypal.verify(&delivered(), b"{}").await.expect("a minute later it is asked again");
}

#[tokio::test]
async fn a_base_url_may_have_a_path() {
    let (paypal, stub) = paypal([]).await;
    for suffix in ["/mirror", "/mirror/"] {
        let base_url = format!("{}{suffix}", paypal.base.as_str().trim_end_matches('/'));
        let mirrored = PayPal::new(settings(base_url), Clock::default()).expect("settings");
        mirrored.inspect("0PF").await.expect("inspected");
    }
    assert_eq!(stub.lines()[1], "GET /mirror/v2/checkout/orders/0PF");
    assert_eq!(stub.lines()[3], "GET /mirror/v2/checkout/orders/0PF");
}

#[tokio::test]
async fn many_calls_fetch_one_token() {
    let (paypal, stub) = paypal([]).await;
    let answers = futures::future::join_all((0..20).map(|_| paypal.inspect("0PF12345AB678901C"))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((stub.tokens(), stub.calls().len()), (1, 20));
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    const GONE: &str =
        r#"{"error":"invalid_token","error_description":"The token passed in was not found in the system"}"#;
    let (paypal, stub) = paypal([Reply::Say(401, GONE), Reply::Say(201, CAPTURED)]).await;
    paypal.capture(TaskId(8), "0PF12345AB678901C").await.expect("captured");
    let calls = stub.calls();
    assert_eq!((stub.tokens(), calls.len()), (2, 2));
    assert_ne!(calls[0].header("authorization"), calls[1].header("authorization"));
    assert_eq!(calls[0].header("paypal-request-id"), calls[1].header("paypal-request-id"));

    stub.replies.lock().expect("whole").extend([Reply::Say(401, GONE), Reply::Say(401, GONE)]);
    let error = paypal.capture(TaskId(8), "0PF12345AB678901C").await.expect_err("refused twice");
    assert!(unknown(&error), "credentials are changed one day, and the call is made again: {error}");
    assert_eq!(stub.calls().len(), 4);
}

#[tokio::test]
async fn without_a_token_nothing_is_called() {
    let (paypal, stub) = paypal([]).await;
    stub.token_replies.lock().expect("whole").extend([
        Reply::Say(401, r#"{"error":"invalid_client","error_description":"Client Authentication failed"}"#),
        Reply::Say(503, "<html>"),
        Reply::Say(200, "{}"),
    ]);
    assert!(unknown(&paypal.inspect("0PF").await.expect_err("no token")));
    assert!(unknown(&paypal.inspect("0PF").await.expect_err("no token")));
    assert!(unknown(&paypal.inspect("0PF").await.expect_err("no token")));
    assert!(stub.calls().is_empty());
}

#[tokio::test]
async fn a_call_has_one_timeout_whatever_it_spends_it_on() {
    let wait = Duration::from_secs(2);
    let (paypal, stub) = paypal([Reply::Late(wait, CAPTURED)]).await;
    let grant = r#"{"access_token":"A21","expires_in":32400}"#;
    stub.token_replies.lock().expect("whole").push_back(Reply::Late(wait, grant));
    let error = paypal.inspect("0PF12345AB678901C").await.expect_err("too late");
    assert!(unknown(&error), "{error}");
    paypal.inspect("0PF12345AB678901C").await.expect("the token is kept");
    assert_eq!(stub.tokens(), 1);
}

#[tokio::test]
async fn no_whole_answer_is_no_certain_answer() {
    let (paypal, _stub) = paypal([
        Reply::Stall,
        Reply::CutShort,
        Reply::Say(201, "{"),
        Reply::Say(500, "<html><body>Sorry</body></html>"),
        Reply::Say(302, ""),
        Reply::Say(204, ""),
    ])
    .await;
    for why in ["stalled", "cut", "garbage", "HTML", "redirect", "no content"] {
        let error = paypal.capture(TaskId(8), "0PF12345AB678901C").await.expect_err(why);
        assert!(unknown(&error), "{why}: {error}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_it() {
    let (paypal, _stub) = paypal([Reply::Say(200, Box::leak("x".repeat(LONGEST_BODY + 1).into_boxed_str()))]).await;
    let error = paypal.inspect("0PF").await.expect_err("too long");
    assert!(unknown(&error) && error.to_string().contains("without end"), "{error}");
}

#[tokio::test]
async fn a_connection_dropped_after_the_charge_is_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        // answers for the token, then takes the order and hangs up
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                while let Ok(length @ 1..) = connection.read(&mut request).await {
                    if !request[..length].starts_with(b"POST /v1/oauth2/token") {
                        return;
                    }
                    let grant = r#"{"access_token":"A21","expires_in":32400}"#;
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{grant}", grant.len());
                    connection.write_all(answer.as_bytes()).await.expect("written");
                }
            });
        }
    });
    let paypal = PayPal::new(settings(base_url), Clock::default()).expect("settings");
    let error = paypal.capture(TaskId(8), "0PF12345AB678901C").await.expect_err("dropped");
    assert!(unknown(&error), "{error}");
}

#[tokio::test]
async fn nobody_there_is_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let paypal = PayPal::new(settings(base_url.clone()), Clock::default()).expect("settings");
    let error = paypal.inspect("0PF").await.expect_err("nobody");
    assert!(unknown(&error) && !error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_told_by_its_issue() {
    let (paypal, _stub) = paypal([
        Reply::Say(422, r#"{"name":"UNPROCESSABLE_ENTITY","details":[{"issue":"INSTRUMENT_DECLINED"}]}"#),
        Reply::Say(422, r#"{"name":"UNPROCESSABLE_ENTITY","details":[{"issue":"ORDER_ALREADY_CAPTURED"}]}"#),
        Reply::Say(409, r#"{"name":"RESOURCE_CONFLICT","details":[{"issue":"PREVIOUS_REQUEST_IN_PROGRESS"}]}"#),
        Reply::Say(404, r#"{"name":"RESOURCE_NOT_FOUND","details":[{"issue":"INVALID_RESOURCE_ID"}]}"#),
        Reply::SayWith(429, r#"{"name":"RATE_LIMIT_REACHED","links":[]}"#, "retry-after", "7"),
    ])
    .await;
    let mut errors = Vec::new();
    for task in 0..5 {
        errors.push(paypal.capture(TaskId(task), "0PF12345AB678901C").await.expect_err("refused"));
    }
    let [declined, done, not_yet, dead, limited] = errors.try_into().expect("five");
    assert!(matches!(declined, ProviderError::Declined(_)), "{declined}");
    assert!(declined.to_string().contains("f8fc8cc9e4d97"), "{declined}");
    assert!(matches!(done, ProviderError::AlreadyDone(_)), "{done}");
    assert!(matches!(not_yet, ProviderError::NotYet(_)), "{not_yet}");
    assert!(matches!(dead, ProviderError::Dead(_)), "{dead}");
    let wait = Some(Duration::from_secs(7));
    assert!(matches!(limited, ProviderError::Unknown { retry_after, .. } if retry_after == wait), "{limited}");
}

#[tokio::test]
async fn a_capture_that_names_no_money_is_looked_at_again() {
    let (paypal, _stub) = paypal([Reply::Say(201, r#"{"id":"0PF","status":"COMPLETED"}"#)]).await;
    let error = paypal.capture(TaskId(8), "0PF").await.expect_err("no capture");
    assert!(matches!(error, ProviderError::AlreadyDone(_)), "{error}");
}

#[tokio::test]
async fn an_id_that_is_none_goes_nowhere() {
    let (paypal, stub) = paypal([]).await;
    for id in ["", "..", "a/b", "a?b", "a%2fb", "ä", &"A".repeat(65)] {
        assert!(matches!(paypal.inspect(id).await, Err(ProviderError::Rejected(_))), "{id}");
        assert!(matches!(paypal.capture(TaskId(1), id).await, Err(ProviderError::Rejected(_))), "{id}");
        assert!(
            matches!(paypal.refund(TaskId(1), RefundId(1), id, usd("1")).await, Err(ProviderError::Rejected(_))),
            "{id}"
        );
        assert!(matches!(paypal.authorise(TaskId(1), id).await, Err(ProviderError::Rejected(_))), "{id}");
        let captured = paypal.capture_authorised(TaskId(1), id, usd("1"), true).await;
        assert!(matches!(captured, Err(ProviderError::Rejected(_))), "{id}");
        assert!(matches!(paypal.void(TaskId(1), id).await, Err(ProviderError::Rejected(_))), "{id}");
        assert!(matches!(paypal.disputes(id).await, Err(ProviderError::Rejected(_))), "{id}");
    }
    assert!(stub.lines().is_empty());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = settings("https://api-m.sandbox.paypal.com".to_owned());
        change(&mut settings);
        PayPal::new(settings, Clock::default()).err().map(|error| error.setting)
    };
    assert_eq!(refused(|_| {}), None);
    for base_url in ["paypal", "http://api-m.paypal.com", "https://a@b.c", "https://b.c?x", "ftp://127.0.0.1"] {
        let error = PayPal::new(settings(base_url.to_owned()), Clock::default()).expect_err(base_url);
        assert_eq!(error.setting, "base_url");
    }
    assert_eq!(refused(|s| s.client_id.clear()), Some("client_id"));
    assert_eq!(refused(|s| s.client_secret = "".into()), Some("client_secret"));
    assert_eq!(refused(|s| s.webhook.webhook_id.clear()), Some("webhook_id"));
}

#[test]
fn no_secret_shows() {
    let settings = settings("https://api-m.paypal.com".to_owned());
    let shown = format!("{settings:?}{:?}", PayPal::new(settings.clone(), Clock::default()).expect("settings"));
    assert!(!shown.contains("very-secret"), "{shown}");
}
