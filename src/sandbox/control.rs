//! `/_sandbox/`: the strings that tests and developers pull. JSON in, JSON out; nobody has to log in, for the sandbox
//! listens on loopback only. What becomes of money is in [`super::rulings`], the books are in [`super::extracts`].

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Path, Request, State},
    http::StatusCode,
};
use chrono::TimeDelta;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Books, Change},
    draft::MoneyRequest,
    errors::Problem,
    faults::{FaultRule, TrickRule},
    records::{Delivery, DeliveryState, Instrument, Order, RefundStatus, Stage},
    webhooks,
};

/// How long [`settle`] waits, unless it is asked to wait longer.
const SETTLE_MS: u64 = 60_000;
/// How many orders [`approve_all`] approves at once.
const APPROVALS: usize = 256;

/// A body that may be left out; whatever it holds must be known, for a test with a typing error must not pass.
pub(super) struct Body<T>(pub(super) T);

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
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    #[serde(rename = "complete")]
    Complete,
    #[serde(rename = "pending")]
    Pending,
    #[serde(rename = "422")]
    Refused,
    #[serde(rename = "capture")]
    Declined,
    /// Of the first purchase unit only so much, or half.
    #[serde(rename = "partial")]
    Partial,
}

impl How {
    /// `minor` is what a partial one gives.
    pub(super) fn instrument(self, minor: i64) -> Instrument {
        match self {
            Self::Complete => Instrument::Good,
            Self::Pending => Instrument::Slow,
            Self::Refused => Instrument::Refused,
            Self::Declined => Instrument::Declined,
            Self::Partial => Instrument::Partial { minor },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approval {
    how: Option<How>,
    amount: Option<MoneyRequest>,
}

/// `POST /_sandbox/orders/{id}/approve`
pub(super) async fn approve(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(approval): Body<Approval>,
) -> Result<Json<Value>, Problem> {
    choose(&bank, &id, approval, How::Complete).await
}

/// `POST /_sandbox/orders/{id}/decline`
pub(super) async fn decline(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(approval): Body<Approval>,
) -> Result<Json<Value>, Problem> {
    choose(&bank, &id, approval, How::Refused).await
}

async fn choose(bank: &Shared, id: &str, approval: Approval, usual: How) -> Result<Json<Value>, Problem> {
    let order = bank.look(|books| books.orders.get(id).cloned()).ok_or_else(Problem::unknown_resource)?;
    let whole = order.units[0].amount.money; // a draft without units is refused
    let part = approval.amount.map(|amount| amount.check("/amount")).transpose()?;
    if part.is_some_and(|part| part.currency != whole.currency || part.minor <= 0) {
        return Err(Problem::issue("INVALID_PARAMETER_VALUE").at("/amount"));
    }
    let minor = part.map_or(whole.minor / 2, |part| part.minor);
    let instrument = approval.how.unwrap_or(usual).instrument(minor);
    let order = bank.approve(id, instrument).await?;
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
    refunds: Option<RefundsHow>,
}

/// What refunds over the API come to.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum RefundsHow {
    Complete,
    Pending,
    Failed,
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
        bank.knobs.set_webhook_url(Some(url));
    }
    if let Some(how) = knobs.refunds {
        bank.knobs.set_refunds(match how {
            RefundsHow::Complete => RefundStatus::Completed,
            RefundsHow::Pending => RefundStatus::Pending,
            RefundsHow::Failed => RefundStatus::Failed,
        });
    }
    let after_ms = bank.knobs.auto_approve().map(|after| after.as_millis());
    Json(json!({
        "auto_approve": after_ms.is_some(), "after_ms": after_ms,
        "serve_chain": bank.knobs.serve_chain(), "webhook_url": bank.look(|books| bank.configured(books).url),
        "refunds": bank.knobs.refunds(),
    }))
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    order_id: Option<String>,
    event_type: Option<String>,
}

impl Repeat {
    /// What is due goes out anyhow.
    fn wants(&self, delivery: &Delivery) -> bool {
        !matches!(delivery.state, DeliveryState::Due(_))
            && self.order_id.as_ref().is_none_or(|only| *only == delivery.order_id)
            && self.event_type.as_ref().is_none_or(|only| *only == delivery.event_type)
    }
}

/// `POST /_sandbox/webhooks/replay`: transmissions once more as they were, as somebody would who has recorded them.
pub(super) async fn replay(State(bank): State<Shared>, Body(repeat): Body<Repeat>) -> Result<Json<Value>, Problem> {
    let again = |books: &Books, now| {
        let wanted = books.deliveries.rows().iter().filter(|delivery| repeat.wants(delivery));
        let due = wanted.map(|delivery| Delivery { state: DeliveryState::Due(now), ..(**delivery).clone() });
        let change = Change { deliveries: due.map(Arc::new).collect(), ..Change::default() };
        Ok((change.deliveries.len(), change))
    };
    let replayed = bank.transact(again).await?;
    Ok(Json(json!({"replayed": replayed})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    valid_days: Option<u16>,
    #[serde(default)]
    forget_old: bool,
}

/// How long a new certificate is valid, unless it is asked for less.
const VALID_DAYS: u16 = 365;

/// `POST /_sandbox/certificates/rotate`
pub(super) async fn rotate(State(bank): State<Shared>, Body(rotation): Body<Rotation>) -> Result<Json<Value>, Problem> {
    let valid = TimeDelta::days(rotation.valid_days.unwrap_or(VALID_DAYS).into());
    let house = Arc::clone(&bank);
    let rotate = move || house.authority.rotate(&house.settings.dir, house.clock.now(), valid, rotation.forget_old);
    let rotated = tokio::task::spawn_blocking(rotate).await.map_err(std::io::Error::other).flatten();
    rotated.map_err(|error| {
        tracing::error!(%error, "sandbox: no new certificate");
        Problem::bare(StatusCode::INTERNAL_SERVER_ERROR)
    })?;
    let name = &bank.authority.genuine().name;
    Ok(Json(json!({"name": name, "url": format!("{}/v1/notifications/certs/{name}", bank.base)})))
}
