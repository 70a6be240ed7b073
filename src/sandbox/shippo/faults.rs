//! Scripted faults of Shippo's calls and webhooks. First in, first out, as with the bank's.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{errors::Refusal, office::Desk};
use crate::sandbox::wire::Cut;

/// The calls that can be made to fail, and that are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    Address,
    Parcel,
    Customs,
    Shipment,
    Rates,
    /// POST of a transaction.
    Buy,
    /// GET of one transaction or of many.
    Inspect,
    /// POST of a refund.
    Refund,
    InspectRefund,
    Track,
    /// Webhook management.
    Hooks,
    /// The label's file.
    Label,
    /// In a rule: any of these.
    Any,
}

impl Operation {
    fn of(request: &Request) -> Option<Self> {
        let route = request.extensions().get::<MatchedPath>()?.as_str().strip_prefix("/shippo/")?;
        let posts = request.method() == "POST";
        let (head, rest) = route.trim_end_matches('/').split_once('/').unwrap_or((route.trim_end_matches('/'), ""));
        match (head, rest) {
            ("addresses", _) => Some(Self::Address),
            ("parcels", _) => Some(Self::Parcel),
            ("customs", _) => Some(Self::Customs),
            ("shipments", "" | "{id}") => Some(Self::Shipment),
            ("shipments" | "rates", _) => Some(Self::Rates),
            ("transactions", _) => Some(if posts { Self::Buy } else { Self::Inspect }),
            ("refunds", _) => Some(if posts { Self::Refund } else { Self::InspectRefund }),
            ("tracks", _) => Some(Self::Track),
            ("webhooks", _) => Some(Self::Hooks),
            ("labels", _) => Some(Self::Label),
            _ => None,
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
    /// Nothing is done, and no answer ever comes.
    Hang,
    /// It is done, and no answer ever comes.
    HangAfter,
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
    /// Nothing is done; 400 for this field, or for an object in it.
    Invalid {
        field: String,
        message: String,
        #[serde(default)]
        nested: bool,
    },
    /// The carrier sells no label: 201 all the same, with status ERROR.
    Refused {
        #[serde(default = "carrier_timeout")]
        code: String,
        #[serde(default = "no_answer")]
        text: String,
    },
    /// The label stays QUEUED until a test says otherwise.
    Queued,
}

fn internal_error() -> u16 {
    500
}

fn carrier_timeout() -> String {
    "carrier_timeout".to_owned()
}

fn no_answer() -> String {
    "The carrier did not answer in time.".to_owned()
}

/// What the fault says to the one who sells labels.
#[derive(Clone, Default)]
pub(super) enum Verdict {
    #[default]
    Fair,
    Refused {
        code: String,
        text: String,
    },
    Queued,
}

/// What happens to a webhook.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Trick {
    /// It is never sent.
    Drop,
    /// It is sent late.
    Delay { ms: u64 },
    /// It is sent twice, byte for byte.
    Duplicate,
    /// The body was changed after it was signed.
    Tamper,
    /// Signed with another secret.
    WrongSecret,
    /// No signature.
    Unsigned,
    /// Another token in the URL.
    WrongToken,
    /// Signed an hour ago.
    Stale,
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

impl FaultRule {
    /// Only who sells labels can refuse to, or be slow about it.
    pub(super) fn is_sensible(&self) -> bool {
        self.on == Operation::Buy || !matches!(self.fault, Fault::Refused { .. } | Fault::Queued)
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct TrickRule {
    /// Only events of this type; any, if it is left out.
    event: Option<String>,
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
        let index = rules.iter().position(|rule| rule.on == operation || rule.on == Operation::Any)?;
        let fault = rules[index].fault.clone();
        if spend(&mut rules[index].times) {
            rules.remove(index);
        }
        Some(fault)
    }

    /// What happens to the next attempt to deliver an event of this type.
    pub(super) fn trick(&self, event: &str) -> Option<Trick> {
        self.take(event, |trick| trick != Trick::Early)
    }

    /// Whether an event of this type has to arrive before its cause is answered.
    pub(super) fn is_early(&self, event: &str) -> bool {
        self.take(event, |trick| trick == Trick::Early).is_some()
    }

    fn take(&self, event: &str, wanted: impl Fn(Trick) -> bool) -> Option<Trick> {
        let mut rules = locked(&self.webhooks);
        let fits = |rule: &TrickRule| rule.event.as_deref().is_none_or(|only| only == event);
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
    State(desk): State<Desk>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(operation) = Operation::of(&request) else { return next.run(request).await };
    let fault = desk.faults.strike(operation);
    request.extensions_mut().insert(match &fault {
        Some(Fault::Refused { code, text }) => Verdict::Refused { code: code.clone(), text: text.clone() },
        Some(Fault::Queued) => Verdict::Queued,
        Some(_) | None => Verdict::Fair,
    });
    let perform = perform(desk.clone(), operation, request, next);
    match fault {
        Some(fault) => suffer(&desk, &cut, fault, perform).await,
        None => perform.await,
    }
}

async fn perform(desk: Desk, operation: Operation, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    desk.calls.count(operation, response.status());
    response
}

async fn suffer(
    desk: &Desk,
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
        Fault::Hang => hang(desk, cut).await,
        Fault::HangAfter => {
            perform.await;
            hang(desk, cut).await
        }
        Fault::Status { status, retry_after } => refuse(status, retry_after),
        Fault::StatusAfter { status, retry_after } => {
            perform.await;
            refuse(status, retry_after)
        }
        Fault::Html => page(),
        Fault::Garbage => (perform.await.status(), [(header::CONTENT_TYPE, "application/json")], "{\"object_id\":\"9f")
            .into_response(),
        Fault::Invalid { field, message, nested } => {
            (StatusCode::BAD_REQUEST, invalid(&field, &message, nested)).into_response()
        }
        Fault::Refused { .. } | Fault::Queued => perform.await,
    }
}

fn invalid(field: &str, message: &str, nested: bool) -> Json<Value> {
    Json(if nested { json!({field: [{"__all__": [message]}]}) } else { json!({field: [message]}) })
}

/// Closes the connection; what is returned here is never sent.
fn silence(cut: &Cut) -> Response {
    cut.close();
    StatusCode::NO_CONTENT.into_response()
}

/// In a task of its own, for a caller who hangs up drops this future, and an office does what it was told all the same.
async fn late(pause: Duration, perform: impl Future<Output = Response> + Send + 'static) -> Response {
    let task = tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        perform.await
    });
    task.await.unwrap_or_else(|_| refuse(500, None))
}

fn refuse(status: u16, retry_after: Option<u32>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Refusal::bare(status).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn page() -> Response {
    let page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>";
    (StatusCode::BAD_GATEWAY, [(header::CONTENT_TYPE, "text/html")], page).into_response()
}

async fn hang(desk: &Desk, cut: &Cut) -> Response {
    desk.house.stopped().await;
    silence(cut)
}
