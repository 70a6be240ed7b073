//! Scripted faults: what goes wrong, where, and how often. First in, first out.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    BODY_LIMIT,
    bank::{CallRecord, Shared},
    errors::Problem,
    oauth,
    wire::Cut,
};

/// The calls that can be made to fail, and that are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    Token,
    Create,
    /// PATCH of an order.
    Patch,
    /// Any GET of an order, an authorization, a capture or a refund.
    Inspect,
    Capture,
    Authorize,
    CaptureAuthorization,
    Reauthorize,
    Void,
    Refund,
    /// Any GET of disputes.
    Dispute,
    /// Any GET of events.
    Events,
    /// The postback of a signature.
    Verify,
    /// The GET of a signing certificate.
    Certificate,
}

impl Operation {
    fn of(request: &Request) -> Option<Self> {
        let route = request.extensions().get::<MatchedPath>()?.as_str().trim_end_matches('/');
        match (request.method().as_str(), route) {
            ("POST", "/v1/oauth2/token") => Some(Self::Token),
            ("POST", "/v2/checkout/orders") => Some(Self::Create),
            ("PATCH", "/v2/checkout/orders/{id}") => Some(Self::Patch),
            ("POST", "/v2/checkout/orders/{id}/capture") => Some(Self::Capture),
            ("POST", "/v2/checkout/orders/{id}/authorize") => Some(Self::Authorize),
            ("POST", "/v2/payments/authorizations/{id}/capture") => Some(Self::CaptureAuthorization),
            ("POST", "/v2/payments/authorizations/{id}/reauthorize") => Some(Self::Reauthorize),
            ("POST", "/v2/payments/authorizations/{id}/void") => Some(Self::Void),
            ("POST", "/v2/payments/captures/{id}/refund") => Some(Self::Refund),
            ("POST", "/v1/notifications/verify-webhook-signature") => Some(Self::Verify),
            ("GET", "/v1/notifications/certs/{name}") => Some(Self::Certificate),
            ("GET", route) if route.starts_with("/v2/") => Some(Self::Inspect),
            ("GET", route) if route.starts_with("/v1/customer/disputes") => Some(Self::Dispute),
            ("GET", route) if route.starts_with("/v1/notifications/webhooks-events") => Some(Self::Events),
            _ => None,
        }
    }

    /// Whether a 200 means that an earlier call had done it already.
    pub(super) fn can_be_replayed(self) -> bool {
        match self {
            Self::Create
            | Self::Capture
            | Self::Authorize
            | Self::CaptureAuthorization
            | Self::Reauthorize
            | Self::Refund => true,
            Self::Token
            | Self::Patch
            | Self::Inspect
            | Self::Void
            | Self::Dispute
            | Self::Events
            | Self::Verify
            | Self::Certificate => false,
        }
    }
}

/// What happens to a call.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Fault {
    /// The connection is cut, and nothing was done.
    DropBefore,
    /// It is done, and the connection is cut instead of an answer.
    DropAfter,
    /// It is done late; also when the caller has hung up meanwhile.
    Delay { ms: u64 },
    /// Nothing is done.
    Status { status: u16, retry_after: Option<u32> },
    /// It is done, and the answer is an error.
    StatusAfter {
        #[serde(default = "internal_error")]
        status: u16,
        retry_after: Option<u32>,
    },
    /// Nothing is done; a proxy answers 502 with a page.
    Html,
    /// It is done, and the answer cannot be read.
    Garbage,
    /// Nothing is done, and no answer ever comes.
    Hang,
    /// It is done, and no answer ever comes.
    HangAfter,
    /// Nothing is done; PayPal's error object with this issue.
    Issue { issue: String },
}

fn internal_error() -> u16 {
    500
}

/// What happens to a webhook.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Trick {
    /// It is never sent, though it stands in the list of events.
    Drop,
    /// It is sent late.
    Delay { ms: u64 },
    /// It is sent twice, byte for byte.
    Duplicate,
    /// The same fact is told once more, as another event in another transmission.
    DuplicateNew,
    /// Signed with another key than that of the certificate.
    BadSignature,
    /// The body was changed after it was signed.
    Tamper,
    /// The body was changed so that the signature still holds.
    SameCrc,
    /// Signed with a certificate of a CA that nobody trusts.
    ForeignCa,
    /// Signed with a certificate that has run out.
    ExpiredCert,
    /// Signed for another webhook id.
    WrongWebhookId,
    /// The certificate lies on a host that is on nobody's list, though it could be fetched there.
    OffListCert,
    /// The call that causes the event is answered only after the event was delivered and answered.
    Early,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct FaultRule {
    on: Operation,
    /// How often it strikes; 0 is for ever.
    #[serde(default = "once")]
    times: u32,
    #[serde(flatten)]
    fault: Fault,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct TrickRule {
    /// Only events of this type; any, if it is left out.
    event_type: Option<String>,
    #[serde(default = "once")]
    times: u32,
    #[serde(flatten)]
    trick: Trick,
}

fn once() -> u32 {
    1
}

/// The script. Both lists are short: tests write them.
#[derive(Default)]
pub(super) struct Faults {
    calls: Mutex<VecDeque<FaultRule>>,
    webhooks: Mutex<VecDeque<TrickRule>>,
}

impl Faults {
    pub(super) fn on_call(&self, rule: FaultRule) {
        locked(&self.calls).push_back(rule);
    }

    pub(super) fn on_webhook(&self, rule: TrickRule) {
        locked(&self.webhooks).push_back(rule);
    }

    pub(super) fn clear(&self) {
        locked(&self.calls).clear();
        locked(&self.webhooks).clear();
    }

    pub(super) fn list(&self) -> (Vec<FaultRule>, Vec<TrickRule>) {
        (locked(&self.calls).iter().cloned().collect(), locked(&self.webhooks).iter().cloned().collect())
    }

    fn strike(&self, operation: Operation) -> Option<Fault> {
        let mut rules = locked(&self.calls);
        let index = rules.iter().position(|rule| rule.on == operation)?;
        let fault = rules[index].fault.clone();
        if spend(&mut rules[index].times) {
            rules.remove(index);
        }
        Some(fault)
    }

    /// What happens to the next attempt to deliver an event of this type.
    pub(super) fn trick(&self, event_type: &str) -> Option<Trick> {
        self.take(event_type, |trick| trick != Trick::Early)
    }

    /// Whether an event of this type has to arrive before its cause is answered.
    pub(super) fn is_early(&self, event_type: &str) -> bool {
        self.take(event_type, |trick| trick == Trick::Early).is_some()
    }

    fn take(&self, event_type: &str, wanted: impl Fn(Trick) -> bool) -> Option<Trick> {
        let mut rules = locked(&self.webhooks);
        let fits = |rule: &TrickRule| rule.event_type.as_deref().is_none_or(|only| only == event_type);
        let index = rules.iter().position(|rule| wanted(rule.trick) && fits(rule))?;
        let trick = rules[index].trick;
        if spend(&mut rules[index].times) {
            rules.remove(index);
        }
        Some(trick)
    }
}

/// Takes one off, and says whether that was the last.
fn spend(times: &mut u32) -> bool {
    if *times == 0 {
        return false;
    }
    *times -= 1;
    *times == 0
}

fn locked<T>(rules: &Mutex<VecDeque<T>>) -> MutexGuard<'_, VecDeque<T>> {
    rules.lock().expect("nothing panics while it holds the rules")
}

/// The layer around every call: applies the next fault of its kind, if one is scripted.
pub(super) async fn around(
    State(bank): State<Shared>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    request: Request,
    next: Next,
) -> Response {
    let Some(operation) = Operation::of(&request) else { return next.run(request).await };
    let request = match remembered(&bank, operation, request).await {
        Ok(request) => request,
        Err(too_large) => return too_large.into_response(),
    };
    let perform = perform(bank.clone(), operation, request, next);
    match bank.faults.strike(operation) {
        Some(fault) => suffer(&bank, &cut, fault, perform).await,
        None => perform.await,
    }
}

/// Keeps a copy of a call that wants something done.
async fn remembered(bank: &Shared, on: Operation, request: Request) -> Result<Request, Problem> {
    if on == Operation::Token || request.method() == Method::GET {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_LIMIT).await;
    let body = body.map_err(|_| Problem::bare(StatusCode::PAYLOAD_TOO_LARGE))?;
    let request_id = parts.headers.get("paypal-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    bank.calls.remember(CallRecord { on, path: parts.uri.path().to_owned(), request_id, body: body.clone() });
    Ok(Request::from_parts(parts, Body::from(body)))
}

async fn perform(bank: Shared, operation: Operation, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    bank.calls.count(operation, response.status());
    response
}

async fn suffer(
    bank: &Shared,
    cut: &Cut,
    fault: Fault,
    perform: impl Future<Output = Response> + Send + 'static,
) -> Response {
    match fault {
        Fault::DropBefore => silence(cut),
        Fault::DropAfter => {
            perform.await;
            silence(cut)
        }
        Fault::Delay { ms } => late(Duration::from_millis(ms), perform).await,
        Fault::Status { status, retry_after } => refuse(status, retry_after),
        Fault::StatusAfter { status, retry_after } => {
            perform.await;
            refuse(status, retry_after)
        }
        Fault::Html => page(),
        Fault::Garbage => {
            (perform.await.status(), [(header::CONTENT_TYPE, "application/json")], "{\"id\":\"5O1").into_response()
        }
        Fault::Hang => hang(bank, cut).await,
        Fault::HangAfter => {
            perform.await;
            hang(bank, cut).await
        }
        Fault::Issue { issue } => Problem::issue(&issue).into_response(),
    }
}

/// Closes the connection; what is returned here is never sent.
fn silence(cut: &Cut) -> Response {
    cut.close();
    StatusCode::NO_CONTENT.into_response()
}

/// In a task of its own, for a caller who hangs up drops this future, and a bank does what it was told all the same.
async fn late(pause: Duration, perform: impl Future<Output = Response> + Send + 'static) -> Response {
    let task = tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        perform.await
    });
    task.await.unwrap_or_else(|_| refuse(500, None))
}

fn refuse(status: u16, retry_after: Option<u32>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match status {
        StatusCode::UNAUTHORIZED => oauth::unknown_token(),
        StatusCode::CONFLICT => Problem::issue("PREVIOUS_REQUEST_IN_PROGRESS").retry_after(retry_after).into_response(),
        _ => Problem::bare(status).retry_after(retry_after).into_response(),
    }
}

fn page() -> Response {
    let page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>";
    (StatusCode::BAD_GATEWAY, [(header::CONTENT_TYPE, "text/html")], page).into_response()
}

async fn hang(bank: &Shared, cut: &Cut) -> Response {
    bank.stopped().await;
    silence(cut)
}
