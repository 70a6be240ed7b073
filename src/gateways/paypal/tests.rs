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
        timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        webhook: webhook::Settings::sandbox("9JX12345"),
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
    let refunded = paypal.refund(TaskId(9), &captured[1].object_id, usd("0.99")).await.expect("refunded");
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
    assert_eq!(calls[2].body, r#"{"amount":{"currency_code":"USD","value":"0.99"}}"#);
    let token = &stub.asked.lock().expect("whole")[0];
    assert_eq!(token.body, "grant_type=client_credentials");
    assert_eq!(token.header("authorization"), Some("Basic Y2xpZW50OnZlcnktc2VjcmV0"));
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
    let wait = Duration::from_millis(350);
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
        assert!(matches!(paypal.refund(TaskId(1), id, usd("1")).await, Err(ProviderError::Rejected(_))), "{id}");
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
