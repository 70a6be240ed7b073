//! `/_sandbox/shippo/`: the strings that tests and developers pull at Shippo's half.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Path, Query, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    books::{Books, Delivery, RefundStatus, Transaction, TransactionStatus},
    courier::{self, Message, with_token},
    errors::Refusal,
    faults::{FaultRule, TrickRule},
    hooks, labels,
    office::Desk,
    profile::Profile,
    refunds, tracks, transactions,
};
use crate::sandbox::webhooks::Sequence;

/// How long [`settle`] waits, unless it is asked to wait longer.
const SETTLE_MS: u64 = 60_000;

/// A body that may be left out; whatever it holds must be known, for a test with a typing error must not pass.
pub(in crate::sandbox) struct Body<T>(pub(in crate::sandbox) T);

/// A string that does not exist was pulled.
pub(in crate::sandbox) struct Wrong(String);

impl Wrong {
    pub(in crate::sandbox) fn new(sentence: impl ToString) -> Self {
        Self(sentence.to_string())
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"error": self.0}))).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Wrong;

    async fn from_request(request: Request, state: &S) -> Result<Self, Wrong> {
        let body = Bytes::from_request(request, state).await.map_err(|rejection| Wrong::new(rejection.body_text()))?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text).map(Self).map_err(Wrong::new)
    }
}

/// Reads a rule. What it does not know would be lost, so it looks for that itself.
pub(in crate::sandbox) fn rule_of<T: Serialize + DeserializeOwned>(request: Value) -> Result<T, Wrong> {
    let rule: T = serde_json::from_value(request.clone()).map_err(Wrong::new)?;
    let known = json!(rule);
    let fields = request.as_object().into_iter().flatten();
    match fields.map(|(field, _)| field).find(|field| *field != "on" && known.get(field).is_none()) {
        Some(field) => Err(Wrong::new(format!("unknown field `{field}`"))),
        None => Ok(rule),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KnobRequest {
    profile: Option<Profile>,
    webhook_url: Option<String>,
    webhook_secret: Option<String>,
    #[serde(default, deserialize_with = "given")]
    queue_ms: Option<Option<i64>>,
}

/// Keeps a null apart from nothing.
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// `GET /_sandbox/shippo/settings`
pub(super) async fn settings(State(desk): State<Desk>) -> Json<Value> {
    let knobs = desk.knobs();
    let mut settings = json!(knobs);
    settings["signed"] = json!(knobs.webhook_secret.is_some());
    Json(settings)
}

/// `POST /_sandbox/shippo/settings`
pub(super) async fn set(State(desk): State<Desk>, Body(request): Body<KnobRequest>) -> Json<Value> {
    let unless_empty = |text: String| Some(text).filter(|text| !text.is_empty());
    desk.turn(|knobs| {
        if let Some(profile) = request.profile {
            knobs.profile = profile;
        }
        if let Some(url) = request.webhook_url {
            knobs.webhook_url = unless_empty(url);
        }
        if let Some(secret) = request.webhook_secret {
            knobs.webhook_secret = unless_empty(secret);
        }
        if let Some(queue_ms) = request.queue_ms {
            knobs.queue_ms = queue_ms;
        }
    });
    settings(State(desk)).await
}

/// `POST /_sandbox/shippo/faults`: one rule, on a call or on webhooks.
pub(super) async fn script(State(desk): State<Desk>, Body(request): Body<Value>) -> Result<Json<Value>, Wrong> {
    if request["on"] == "webhook" {
        desk.faults.on_webhook(rule_of::<TrickRule>(request)?);
    } else {
        let rule = rule_of::<FaultRule>(request)?;
        if !rule.is_sensible() {
            return Err(Wrong::new("only `buy` can be refused or queued"));
        }
        desk.faults.on_call(rule);
    }
    Ok(faults(State(desk)).await)
}

/// `GET /_sandbox/shippo/faults`: what has not struck yet.
pub(super) async fn faults(State(desk): State<Desk>) -> Json<Value> {
    let (calls, webhooks) = desk.faults.list();
    Json(json!({"calls": calls, "webhooks": webhooks}))
}

/// `DELETE /_sandbox/shippo/faults`
pub(super) async fn forgive(State(desk): State<Desk>) -> StatusCode {
    desk.faults.clear();
    StatusCode::NO_CONTENT
}

/// `GET /_sandbox/shippo/summary`
pub(super) async fn summary(State(desk): State<Desk>) -> Result<Json<Value>, Refusal> {
    let mut summary = desk.inspect(counts).await?;
    summary["calls"] = json!(desk.calls.tallies());
    Ok(Json(summary))
}

fn counts(books: &Books) -> Value {
    let mut by_status: BTreeMap<TransactionStatus, usize> = BTreeMap::new();
    for transaction in books.transactions.rows() {
        *by_status.entry(transaction.status).or_default() += 1;
    }
    let mut refunds: BTreeMap<RefundStatus, usize> = BTreeMap::new();
    for refund in books.refunds.rows() {
        *refunds.entry(refund.status).or_default() += 1;
    }
    json!({
        "shipments": books.shipments.rows().len(),
        "transactions": books.transactions.rows().len(),
        "by_status": by_status,
        "refunds_by_status": refunds,
        "labels": books.labels(),
    })
}

/// `GET /_sandbox/shippo/books`
pub(super) async fn books(State(desk): State<Desk>) -> Result<Json<Value>, Refusal> {
    let mut extract = desk
        .inspect(|books| {
            json!({
                "shipments": books.shipments.rows(),
                "rates": books.rates.rows().len(),
                "transactions": transaction_rows(&desk, books, &Filter::default()),
                "refunds": books.refunds.rows().iter().map(|refund| refunds::view(refund)).collect::<Vec<_>>(),
                "tracks": books.tracks.rows().iter().map(|track| tracks::view(track)).collect::<Vec<_>>(),
                "hooks": books.live_hooks().map(|hook| hooks::view(hook)).collect::<Vec<_>>(),
                "deliveries": deliveries(books),
            })
        })
        .await?;
    extract["summary"] = summary(State(desk)).await?.0;
    Ok(Json(extract))
}

#[derive(Deserialize, Default)]
pub(super) struct Filter {
    metadata: Option<String>,
    rate: Option<String>,
    shipment: Option<String>,
    status: Option<TransactionStatus>,
}

impl Filter {
    fn fits(&self, transaction: &Transaction) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        is(&self.metadata, &transaction.metadata)
            && is(&self.rate, &transaction.rate)
            && is(&self.shipment, &transaction.shipment)
            && self.status.is_none_or(|status| status == transaction.status)
    }
}

/// `GET /_sandbox/shippo/transactions`: in the order in which they were bought.
pub(super) async fn transactions(
    State(desk): State<Desk>,
    Query(filter): Query<Filter>,
) -> Result<Json<Value>, Refusal> {
    let rows = desk.inspect(|books| transaction_rows(&desk, books, &filter)).await?;
    Ok(Json(json!({"transactions": rows})))
}

fn transaction_rows(desk: &Desk, books: &Books, filter: &Filter) -> Vec<Value> {
    let rows = books.transactions.rows().iter().filter(|transaction| filter.fits(transaction));
    rows.map(|transaction| transaction_row(desk, books, transaction)).collect()
}

fn transaction_row(desk: &Desk, books: &Books, transaction: &Transaction) -> Value {
    let rate = books.rates.get(&transaction.rate);
    let rate = rate.map(|rate| super::shipments::rate_view(rate, None)).unwrap_or_default();
    json!({
        "id": transaction.id,
        "status": transaction.status,
        "metadata": transaction.metadata,
        "rate": transaction.rate,
        "shipment": transaction.shipment,
        "carrier": transaction.carrier,
        "tracking_number": transaction.tracking_number,
        "amount": rate["amount"],
        "currency": rate["currency"],
        "created": transaction.created,
        "label_url": labels::url(&desk.house.base, &desk.settings.key, transaction),
        "label_downloads": desk.downloads(&transaction.id),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransactionRuling {
    status: TransactionStatus,
    code: Option<String>,
    text: Option<String>,
}

/// `POST /_sandbox/shippo/transactions/{id}`
pub(super) async fn rule_transaction(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    Body(ruling): Body<TransactionRuling>,
) -> Result<Json<Value>, Refusal> {
    let TransactionRuling { status, code, text } = ruling;
    let ruling = transactions::Ruling { status, code, text };
    let transaction = desk.transact(|books, now| transactions::rule(&desk, books, &id, ruling, now)).await?;
    let view = |books: &Books| transactions::view(&desk.house.base, &desk.settings.key, books, &transaction, None);
    Ok(Json(desk.inspect(view).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefundRuling {
    status: RefundStatus,
}

/// `POST /_sandbox/shippo/refunds/{id}`
pub(super) async fn rule_refund(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    Body(ruling): Body<RefundRuling>,
) -> Result<Json<Value>, Refusal> {
    desk.transact(|books, now| refunds::decide(&desk, books, &id, ruling.status, now)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScanRequest {
    status: String,
    substatus: Option<String>,
    status_date: Option<DateTime<Utc>>,
    details: Option<String>,
}

/// `POST /_sandbox/shippo/tracks/{carrier}/{number}`
pub(super) async fn scan(
    State(desk): State<Desk>,
    Path((carrier, number)): Path<(String, String)>,
    Body(request): Body<ScanRequest>,
) -> Result<Json<Value>, Refusal> {
    let ScanRequest { status, substatus, status_date, details } = request;
    let news = tracks::News { status, substatus, date: status_date, details };
    desk.transact(|books, now| tracks::scanned(&desk, books, (&carrier, &number), news, now)).await.map(Json)
}

/// `GET /_sandbox/shippo/webhooks`
pub(super) async fn webhooks(State(desk): State<Desk>) -> Json<Value> {
    let (held, waiting, in_flight) = desk.courier.state();
    let deliveries = desk.look(deliveries);
    Json(json!({"held": held, "waiting": waiting, "in_flight": in_flight, "deliveries": deliveries}))
}

fn deliveries(books: &Books) -> Vec<Value> {
    books.deliveries.rows().iter().map(|delivery| delivery_row(delivery)).collect()
}

fn delivery_row(delivery: &Delivery) -> Value {
    json!({
        "event": delivery.event,
        "url": delivery.url,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "body": delivery.body,
    })
}

/// `POST /_sandbox/shippo/webhooks/hold`
pub(super) async fn hold(State(desk): State<Desk>) -> Json<Value> {
    desk.courier.hold();
    webhooks(State(desk)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    order: Option<Sequence>,
    seed: Option<u32>,
}

/// `POST /_sandbox/shippo/webhooks/release`: returns when each that was held has been tried once.
pub(super) async fn release(State(desk): State<Desk>, Body(release): Body<Release>) -> Json<Value> {
    let sequence = release.order.unwrap_or(Sequence::Given);
    Json(json!({"tried": courier::release(&desk, sequence, release.seed.unwrap_or(0)).await}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    within_ms: Option<u64>,
}

/// `POST /_sandbox/shippo/webhooks/settle`: returns when nothing is due and nothing is under way.
pub(super) async fn settle(State(desk): State<Desk>, Body(patience): Body<Patience>) -> Json<Value> {
    let limit = Duration::from_millis(patience.within_ms.unwrap_or(SETTLE_MS));
    Json(json!({"settled": courier::settle(&desk, limit).await}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forgery {
    event: String,
    data: Value,
    #[serde(default)]
    sign: Sign,
    #[serde(default)]
    token: Token,
    url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum Sign {
    Right,
    Wrong,
    #[default]
    None,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum Token {
    #[default]
    Keep,
    Wrong,
    None,
}

/// `POST /_sandbox/shippo/webhooks/forge`: somebody else's post; the books know nothing of it.
pub(super) async fn forge(State(desk): State<Desk>, Body(forgery): Body<Forgery>) -> Result<Json<Value>, Wrong> {
    let knobs = desk.knobs();
    let url = forgery.url.or(knobs.webhook_url).ok_or_else(|| Wrong::new("there is no URL to post to"))?;
    let body = json!({"event": forgery.event, "test": true, "data": forgery.data});
    let body = to_raw_value(&body).expect("it was JSON").get().to_owned();
    let at = desk.now().timestamp();
    let secret = knobs.webhook_secret.unwrap_or_default();
    let signature = match forgery.sign {
        Sign::Right => Some(courier::sign(&secret, at, &body)),
        Sign::Wrong => Some(courier::sign("not the secret", at, &body)),
        Sign::None => None,
    };
    let url = match forgery.token {
        Token::Keep => url,
        Token::Wrong => with_token(&url, Some("wrong")),
        Token::None => with_token(&url, None),
    };
    let answer = Message { url, body, signature }.send(&desk).await;
    Ok(Json(json!({"answer": answer.map_or_else(Value::from, |status| json!(status.as_u16()))})))
}
