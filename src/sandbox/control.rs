//! `/_sandbox/`: the strings that tests and developers pull. JSON in, JSON out; nobody has to log in, for the sandbox
//! listens on loopback only.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Path, Query, Request, State},
    http::StatusCode,
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Amount, Books, Capture, CaptureState, Change, Delivery, Instrument, Named, Order, Refund, Shelf, Stage},
    captures,
    errors::Problem,
    faults::{FaultRule, TrickRule},
    money::Money,
    orders, refunds, webhooks,
};

/// How many rows of each list [`books`] shows, unless it is asked for more.
const ROWS: usize = 1000;
/// How long [`settle`] waits, unless it is asked to wait longer.
const SETTLE_MS: u64 = 10_000;
/// How many orders [`approve_all`] approves at once.
const APPROVALS: usize = 256;

/// A body that may be left out; whatever it holds must be known, for a test with a typing error must not pass.
pub(super) struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| Problem::bare(rejection.status()))?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text).map(Self).map_err(|error| wrong(&error))
    }
}

fn wrong(error: &serde_json::Error) -> Problem {
    Problem::issue("INVALID_PARAMETER_VALUE").because(error.to_string())
}

/// `GET /_sandbox/health`
pub(super) async fn health(State(bank): State<Shared>) -> Json<Value> {
    let smtp = bank.settings.mail.listen.to_string();
    Json(json!({"souk_sandbox": true, "dir": bank.settings.dir, "pid": std::process::id(), "smtp": smtp}))
}

/// `POST /_sandbox/stop`
pub(super) async fn stop(State(bank): State<Shared>) -> Json<Value> {
    bank.stop();
    Json(json!({"stopping": true}))
}

/// What the instrument will do when it is charged, in a test's words.
#[derive(Deserialize, Clone, Copy)]
enum How {
    #[serde(rename = "complete")]
    Complete,
    #[serde(rename = "pending")]
    Pending,
    #[serde(rename = "422")]
    Refused,
    #[serde(rename = "capture")]
    Declined,
}

impl How {
    fn instrument(self) -> Instrument {
        match self {
            Self::Complete => Instrument::Good,
            Self::Pending => Instrument::Slow,
            Self::Refused => Instrument::Refused,
            Self::Declined => Instrument::Declined,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approval {
    how: Option<How>,
}

/// `POST /_sandbox/orders/{id}/approve`
pub(super) async fn approve(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(approval): Body<Approval>,
) -> Result<Json<Value>, Problem> {
    choose(&bank, &id, approval.how.unwrap_or(How::Complete)).await
}

/// `POST /_sandbox/orders/{id}/decline`
pub(super) async fn decline(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(approval): Body<Approval>,
) -> Result<Json<Value>, Problem> {
    choose(&bank, &id, approval.how.unwrap_or(How::Refused)).await
}

async fn choose(bank: &Shared, id: &str, how: How) -> Result<Json<Value>, Problem> {
    let order = bank.approve(id, how.instrument()).await?;
    Ok(Json(json!({"id": order.id, "status": order.status()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    after_ms: Option<u64>,
}

/// `POST /_sandbox/approve_all`: every order that waits for its buyer; with a pause, the answer does not wait for it.
pub(super) async fn approve_all(State(bank): State<Shared>, Body(pause): Body<Pause>) -> Json<Value> {
    let is_open = |order: &&Arc<Order>| matches!(order.stage, Stage::Open);
    let open: Vec<String> =
        bank.look(|books| books.orders.rows().iter().filter(is_open).map(|order| order.id.clone()).collect());
    let count = open.len();
    match pause.after_ms {
        Some(after_ms) => {
            for id in open {
                bank.approve_later(id, Duration::from_millis(after_ms));
            }
        }
        None => approve_each(&bank, open).await,
    }
    Json(json!({"approved": count}))
}

/// Many at once, so that they share the disk's syncs.
async fn approve_each(bank: &Shared, ids: Vec<String>) {
    let approve = async |id: String| {
        let _paid_meanwhile = bank.approve(&id, Instrument::Good).await;
    };
    stream::iter(ids).for_each_concurrent(APPROVALS, approve).await;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KnobRequest {
    auto_approve: Option<bool>,
    after_ms: Option<u64>,
    serve_chain: Option<bool>,
    webhook_url: Option<String>,
}

/// `POST /_sandbox/settings`
pub(super) async fn set(State(bank): State<Shared>, Body(knobs): Body<KnobRequest>) -> Json<Value> {
    if let Some(on) = knobs.auto_approve {
        bank.knobs.set_auto_approve(on.then(|| Duration::from_millis(knobs.after_ms.unwrap_or(0))));
    }
    if let Some(chain) = knobs.serve_chain {
        bank.knobs.set_serve_chain(chain);
    }
    if let Some(url) = knobs.webhook_url {
        bank.knobs.set_webhook_url(url);
    }
    let after_ms = bank.knobs.auto_approve().map(|after| after.as_millis());
    Json(json!({
        "auto_approve": after_ms.is_some(), "after_ms": after_ms,
        "serve_chain": bank.knobs.serve_chain(), "webhook_url": bank.webhook_url(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drift {
    currency_code: Option<String>,
    value: Option<String>,
    custom_id: Option<String>,
}

/// `POST /_sandbox/orders/{id}/drift`: the books say something else than what was ordered.
pub(super) async fn drift(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(drift): Body<Drift>,
) -> Result<Json<Value>, Problem> {
    let change = |books: &Books, _| {
        let order = books.orders.get(&id).ok_or_else(Problem::unknown_resource)?;
        let order = drift.applied_to(order)?;
        Ok((order.total(), Change::order(order)))
    };
    let total = bank.transact(change).await?;
    Ok(Json(json!({"id": id, "amount": total})))
}

impl Drift {
    fn applied_to(self, order: &Order) -> Result<Order, Problem> {
        let mut order = order.clone();
        let unit = &mut order.units[0]; // a draft without units is refused
        if self.custom_id.is_some() {
            unit.custom_id = self.custom_id;
        }
        let money = unit.amount.money;
        let code = self.currency_code.as_deref().unwrap_or(money.currency.code);
        let value = self.value.unwrap_or_else(|| money.value());
        let money = Money::read(code, &value).map_err(Problem::issue)?;
        unit.amount = Amount { money, breakdown: BTreeMap::new() };
        unit.items.clear();
        Ok(order)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ruling {
    status: RulingStatus,
    reason: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum RulingStatus {
    Completed,
    Pending,
    /// The capture is DECLINED, and the event says DENIED.
    Denied,
    /// The capture is DECLINED, and so says the event.
    Declined,
    /// The capture is FAILED, and no event says so.
    Failed,
}

/// `POST /_sandbox/captures/{id}/status`: the bank decides about a pending capture.
pub(super) async fn rule(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(ruling): Body<Ruling>,
) -> Result<Json<Value>, Problem> {
    let reason = ruling.reason.unwrap_or_else(|| "PENDING_REVIEW".to_owned());
    let (state, event_type) = match ruling.status {
        RulingStatus::Completed => (CaptureState::Completed, Some("PAYMENT.CAPTURE.COMPLETED")),
        RulingStatus::Pending => (CaptureState::Pending { reason }, Some("PAYMENT.CAPTURE.PENDING")),
        RulingStatus::Denied => (CaptureState::Declined, Some("PAYMENT.CAPTURE.DENIED")),
        RulingStatus::Declined => (CaptureState::Declined, Some("PAYMENT.CAPTURE.DECLINED")),
        RulingStatus::Failed => (CaptureState::Failed, None),
    };
    let decide = |books: &Books, now| captures::decide(books, &bank.base, &id, state, event_type, now);
    let capture = bank.transact(decide).await?;
    Ok(Json(captures::view(&bank.base, &capture)))
}

/// `POST /_sandbox/captures/{id}/refund`: a refund that the merchant makes on PayPal's own pages.
pub(super) async fn refund(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(request): Body<refunds::RefundRequest>,
) -> Result<Json<Value>, Problem> {
    give_back(&bank, &id, &request, "PAYMENT.CAPTURE.REFUNDED").await
}

/// `POST /_sandbox/captures/{id}/reverse`: PayPal takes the money back.
pub(super) async fn reverse(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(request): Body<refunds::RefundRequest>,
) -> Result<Json<Value>, Problem> {
    give_back(&bank, &id, &request, "PAYMENT.CAPTURE.REVERSED").await
}

async fn give_back(
    bank: &Shared,
    id: &str,
    request: &refunds::RefundRequest,
    event_type: &str,
) -> Result<Json<Value>, Problem> {
    let ask = |books: &Books, now| refunds::give_back(books, &bank.base, id, request, None, event_type, now);
    let (refund, _fresh) = bank.transact(ask).await?;
    Ok(Json(refunds::view(&bank.base, &refund)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leap {
    advance_ms: i64,
}

/// `POST /_sandbox/clock`
pub(super) async fn advance(State(bank): State<Shared>, Body(leap): Body<Leap>) -> Json<Value> {
    bank.clock.advance(leap.advance_ms);
    Json(json!({"now": bank.clock.now()}))
}

/// `POST /_sandbox/faults`: one rule, on a call or on webhooks.
pub(super) async fn script(State(bank): State<Shared>, Body(request): Body<Value>) -> Result<Json<Value>, Problem> {
    if request["on"] == "webhook" {
        bank.faults.on_webhook(rule_of::<TrickRule>(request)?);
    } else {
        bank.faults.on_call(rule_of::<FaultRule>(request)?);
    }
    Ok(faults(State(bank)).await)
}

/// Reads a rule. What it does not know would be lost, so it looks for that itself.
fn rule_of<T: Serialize + DeserializeOwned>(request: Value) -> Result<T, Problem> {
    let rule: T = serde_json::from_value(request.clone()).map_err(|error| wrong(&error))?;
    let known = json!(rule);
    let fields = request.as_object().into_iter().flatten();
    match fields.map(|(field, _)| field).find(|field| *field != "on" && known.get(field).is_none()) {
        Some(field) => Err(Problem::issue("INVALID_PARAMETER_VALUE").because(format!("unknown field `{field}`"))),
        None => Ok(rule),
    }
}

/// `GET /_sandbox/faults`: what has not struck yet.
pub(super) async fn faults(State(bank): State<Shared>) -> Json<Value> {
    let (calls, webhooks) = bank.faults.list();
    Json(json!({"calls": calls, "webhooks": webhooks}))
}

/// `DELETE /_sandbox/faults`
pub(super) async fn forgive(State(bank): State<Shared>) -> StatusCode {
    bank.faults.clear();
    StatusCode::NO_CONTENT
}

/// `GET /_sandbox/webhooks`
pub(super) async fn courier(State(bank): State<Shared>) -> Json<Value> {
    let (held, waiting, in_flight) = bank.courier.state();
    Json(json!({"held": held, "waiting": waiting, "in_flight": in_flight}))
}

/// `POST /_sandbox/webhooks/hold`
pub(super) async fn hold(State(bank): State<Shared>) -> Json<Value> {
    bank.courier.hold();
    courier(State(bank)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    order: Option<webhooks::Sequence>,
    seed: Option<u32>,
}

/// `POST /_sandbox/webhooks/release`: returns when each that was held has been tried once.
pub(super) async fn release(State(bank): State<Shared>, Body(release): Body<Release>) -> Json<Value> {
    let sequence = release.order.unwrap_or(webhooks::Sequence::Given);
    let tried = webhooks::release(&bank, sequence, release.seed.unwrap_or(0)).await;
    Json(json!({"tried": tried}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    within_ms: Option<u64>,
}

/// `POST /_sandbox/webhooks/settle`: returns when nothing is due and nothing is under way.
pub(super) async fn settle(State(bank): State<Shared>, Body(patience): Body<Patience>) -> Json<Value> {
    let limit = Duration::from_millis(patience.within_ms.unwrap_or(SETTLE_MS));
    Json(json!({"settled": webhooks::settle(&bank, limit).await}))
}

/// `GET /_sandbox/books/summary`: the same at a hundred thousand orders as at one.
pub(super) async fn summary(State(bank): State<Shared>) -> Result<Json<Value>, Problem> {
    let (totals, counts) = bank.inspect(|books| (books.totals.clone(), counts(books))).await?;
    let mut summary = json!(totals);
    for (name, count) in counts {
        summary[name] = json!(count);
    }
    summary["calls"] = json!(bank.calls.tallies());
    Ok(Json(summary))
}

fn counts(books: &Books) -> [(&'static str, usize); 5] {
    [
        ("orders", books.orders.rows().len()),
        ("captures", books.captures.rows().len()),
        ("refunds", books.refunds.rows().len()),
        ("events", books.events.rows().len()),
        ("deliveries", books.deliveries.rows().len()),
    ]
}

#[derive(Deserialize)]
pub(super) struct Window {
    offset: Option<usize>,
    limit: Option<usize>,
}

impl Window {
    fn of<T: Named>(&self, shelf: &Shelf<T>) -> Vec<Arc<T>> {
        let rows = shelf.rows().iter().skip(self.offset.unwrap_or(0));
        rows.take(self.limit.unwrap_or(ROWS)).cloned().collect()
    }
}

/// The books as they are shown: a window into each list, and how long each list is.
#[derive(Serialize)]
pub(super) struct Extract {
    orders: Vec<Value>,
    captures: Vec<Value>,
    refunds: Vec<Value>,
    deliveries: Vec<Arc<Delivery>>,
    totals: Value,
}

/// `GET /_sandbox/books?offset=…&limit=…`: in the order of creation.
pub(super) async fn books(State(bank): State<Shared>, Query(window): Query<Window>) -> Result<Json<Extract>, Problem> {
    let rows = |books: &Books| {
        let deliveries = window.of(&books.deliveries);
        (window.of(&books.orders), window.of(&books.captures), window.of(&books.refunds), deliveries)
    };
    let (orders, captures, refunds, deliveries) = bank.inspect(rows).await?;
    Ok(Json(Extract {
        orders: orders.iter().map(|order| order_row(order)).collect(),
        captures: captures.iter().map(|capture| capture_row(capture)).collect(),
        refunds: refunds.iter().map(|refund| refund_row(refund)).collect(),
        deliveries,
        totals: summary(State(bank)).await?.0,
    }))
}

fn order_row(order: &Order) -> Value {
    let captures = match &order.stage {
        Stage::Completed { captures, .. } => captures.as_slice(),
        Stage::Open | Stage::Approved(_) => &[],
    };
    json!({
        "id": order.id,
        "status": order.status(),
        "amount": order.total(),
        "custom_id": order.units[0].custom_id,
        "invoice_id": order.units[0].invoice_id,
        "request_id": order.request_id,
        "captures": captures,
        "created": order.created,
    })
}

fn capture_row(capture: &Capture) -> Value {
    json!({
        "id": capture.id,
        "order_id": capture.order_id,
        "status": capture.status(),
        "amount": capture.amount,
        "refunded": capture.amount.of(capture.refunded),
        "custom_id": capture.custom_id,
        "invoice_id": capture.invoice_id,
        "refunds": capture.refunds,
        "created": capture.created,
    })
}

fn refund_row(refund: &Refund) -> Value {
    json!({
        "id": refund.id,
        "capture_id": refund.capture_id,
        "order_id": refund.order_id,
        "amount": refund.amount,
        "request_id": refund.request_id,
        "created": refund.created,
    })
}

/// `GET /_sandbox/orders/{id}`: one order with all that belongs to it.
pub(super) async fn order(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let read = |books: &Books| {
        let sheet = books.sheet(&id)?;
        let ours = books.deliveries.rows().iter().filter(|delivery| delivery.order_id == id);
        Some((sheet, ours.cloned().collect::<Vec<_>>()))
    };
    let (sheet, deliveries) = bank.inspect(read).await?.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(json!({
        "order": orders::view(&bank.base, &sheet),
        "stage": sheet.order.stage,
        "request_id": sheet.order.request_id,
        "captures": sheet.captures.iter().map(|capture| capture_row(capture)).collect::<Vec<_>>(),
        "refunds": sheet.refunds.iter().map(|refund| refund_row(refund)).collect::<Vec<_>>(),
        "deliveries": deliveries,
    })))
}
