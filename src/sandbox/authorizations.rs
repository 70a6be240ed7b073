//! Payments v2: authorizations. The buyer's bank keeps money ready; the merchant takes it in parts, or lets go of it.
//!
//! An authorization that was renewed lives on in two objects: what is captured or voided on one is so on both.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Books, Change, Replay},
    call::Call,
    captures, clock,
    draft::MoneyRequest,
    errors::Problem,
    events::{self, put},
    ids,
    money::Money,
    orders,
    records::{Authorization, AuthorizationState, Capture, CaptureState, Instrument, Order, Stage, Unit},
    refunds::KEY_LIFETIME,
};

/// How long the money is certain, and how long it can be asked for at all.
const HONOUR_PERIOD: TimeDelta = TimeDelta::days(3);
const VALIDITY: TimeDelta = TimeDelta::days(29);
/// How much may be captured of what was authorized, or renewed, in per cent.
const ALLOWANCE: i64 = 115;
/// How many captures one authorization takes.
const CAPTURES: usize = 10;

const CREATED: &str = "PAYMENT.AUTHORIZATION.CREATED";
const VOIDED: &str = "PAYMENT.AUTHORIZATION.VOIDED";

/// `GET /v2/payments/authorizations/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>, _: Call) -> Result<Json<Value>, Problem> {
    let found = bank.inspect(|books| books.authorizations.get(&id).cloned()).await?;
    let authorization = found.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(view(&bank.base, &authorization)))
}

/// All of it may be left out: then the rest is captured, and it need not be the last time.
#[derive(Deserialize, Default)]
struct CaptureRequest {
    amount: Option<MoneyRequest>,
    invoice_id: Option<String>,
    final_capture: Option<bool>,
}

/// `POST /v2/payments/authorizations/{id}/capture`
pub(super) async fn capture(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    let request: CaptureRequest = call.optional_json()?;
    let key = call.request_id.as_deref();
    let (capture, fresh) = bank.transact(|books, now| take(books, &bank.base, &id, &request, key, now)).await?;
    Ok(call.answer(fresh, captures::view(&bank.base, &capture)))
}

#[derive(Deserialize, Default)]
struct RenewRequest {
    amount: Option<MoneyRequest>,
}

/// `POST /v2/payments/authorizations/{id}/reauthorize`
pub(super) async fn reauthorize(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    let request: RenewRequest = call.optional_json()?;
    let key = call.request_id.as_deref();
    let (renewed, fresh) = bank.transact(|books, now| renew(books, &bank.base, &id, &request, key, now)).await?;
    Ok(call.answer(fresh, view(&bank.base, &renewed)))
}

/// `POST /v2/payments/authorizations/{id}/void`
pub(super) async fn void(State(bank): State<Shared>, Path(id): Path<String>, call: Call) -> Result<Response, Problem> {
    let voided = bank.transact(|books, now| let_go(books, &bank.base, &id, now)).await?;
    if call.representation {
        return Ok(Json(view(&bank.base, &voided)).into_response());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A new authorization of a purchase unit, as the buyer's instrument allows it; none, if that is refused.
pub(super) fn authorize(
    order: &Order,
    unit: &Unit,
    instrument: Instrument,
    now: DateTime<Utc>,
) -> Option<Authorization> {
    let whole = unit.amount.money;
    let (amount, state) = match instrument {
        Instrument::Good => (whole, AuthorizationState::Created),
        Instrument::Partial { minor } => (whole.of(minor.min(whole.minor)), AuthorizationState::Created),
        Instrument::Slow => (whole, AuthorizationState::Pending { reason: "PENDING_REVIEW".to_owned() }),
        Instrument::Declined => (whole, AuthorizationState::Denied),
        Instrument::Refused => return None,
    };
    Some(Authorization {
        id: ids::resource(),
        order_id: order.id.clone(),
        parent: None,
        successor: None,
        request_id: None,
        reference_id: unit.reference_id.clone(),
        amount,
        custom_id: unit.custom_id.clone(),
        invoice_id: unit.invoice_id.clone(),
        state,
        instrument: Instrument::Good,
        captured: 0,
        captures: Vec::new(),
        closed: false,
        created: now,
        updated: now,
        honoured_until: now + HONOUR_PERIOD,
        expires: now + VALIDITY,
    })
}

/// Tells of a new authorization. One that was denied at once is told of by the answer alone.
pub(super) fn announce(change: &mut Change, base: &str, authorization: &Authorization, now: DateTime<Utc>) {
    match authorization.state {
        AuthorizationState::Created | AuthorizationState::Pending { .. } => {
            change.announce(events::authorization(base, authorization, CREATED, now));
        }
        AuthorizationState::Denied | AuthorizationState::Voided => {}
    }
}

/// Captures some of it; or finds the capture that an earlier call with this key has made.
fn take(
    books: &Books,
    base: &str,
    id: &str,
    request: &CaptureRequest,
    key: Option<&str>,
    now: DateTime<Utc>,
) -> Result<((Arc<Capture>, bool), Change), Problem> {
    let authorization = books.authorizations.get(id).ok_or_else(Problem::unknown_resource)?;
    let earlier = books.made_by(Replay::Capture, id, key).and_then(|id| books.captures.get(id));
    if let Some(earlier) = earlier.filter(|capture| now < capture.created + KEY_LIFETIME) {
        return Ok(((Arc::clone(earlier), false), Change::default()));
    }
    check_alive(authorization, now)?;
    let amount = capturable(authorization, request.amount.as_ref())?;
    let state = captures::outcome(authorization.instrument).ok_or_else(|| Problem::issue("PAYER_CANNOT_PAY"))?;
    let order = books.orders.get(&authorization.order_id).ok_or_else(Problem::unknown_resource)?;

    let final_capture = request.final_capture.unwrap_or(false);
    let event_type = captures::event_type(&state);
    let capture = Arc::new(Capture {
        id: ids::resource(),
        order_id: order.id.clone(),
        authorization_id: Some(authorization.id.clone()),
        request_id: key.map(str::to_owned),
        reference_id: authorization.reference_id.clone(),
        amount,
        custom_id: authorization.custom_id.clone(),
        invoice_id: request.invoice_id.clone().or_else(|| authorization.invoice_id.clone()),
        state,
        final_capture,
        refunded: 0,
        reversal: None,
        refunds: Vec::new(),
        created: now,
        updated: now,
    });
    let counts = capture.state != CaptureState::Declined;
    let taken = |one: &Authorization| {
        let mut one = Authorization { updated: now, ..one.clone() };
        one.captures.push(capture.id.clone());
        one.captured += if counts { amount.minor } else { 0 };
        one.closed |= counts && final_capture;
        Arc::new(one)
    };
    let mut change = Change {
        orders: vec![Arc::new(with(order, None, Some(&capture.id), now))],
        authorizations: family(books, authorization).map(|one| taken(one)).collect(),
        captures: vec![Arc::clone(&capture)],
        ..Change::default()
    };
    change.announce(events::capture(base, &capture, event_type, now));
    Ok(((capture, true), change))
}

/// The order with one authorization or one capture more.
fn with(order: &Order, authorization_id: Option<&str>, capture_id: Option<&str>, now: DateTime<Utc>) -> Order {
    let mut order = Order { updated: now, ..order.clone() };
    if let Stage::Completed { captures, authorizations, .. } = &mut order.stage {
        authorizations.extend(authorization_id.map(str::to_owned));
        captures.extend(capture_id.map(str::to_owned));
    }
    order
}

/// The authorization, and the one that it has renewed or that has renewed it.
fn family<'a>(books: &'a Books, authorization: &'a Arc<Authorization>) -> impl Iterator<Item = &'a Arc<Authorization>> {
    let other = authorization.parent.as_deref().or(authorization.successor.as_deref());
    std::iter::once(authorization).chain(other.and_then(|id| books.authorizations.get(id)))
}

fn check_alive(authorization: &Authorization, now: DateTime<Utc>) -> Result<(), Problem> {
    let issue = match authorization.state {
        AuthorizationState::Created if authorization.status() == "CAPTURED" => "AUTHORIZATION_ALREADY_CAPTURED",
        AuthorizationState::Created if now < authorization.expires => return Ok(()),
        AuthorizationState::Created => "AUTHORIZATION_EXPIRED",
        AuthorizationState::Voided if now >= authorization.expires => "AUTHORIZATION_EXPIRED",
        AuthorizationState::Voided => "AUTHORIZATION_VOIDED",
        AuthorizationState::Denied => "AUTHORIZATION_DENIED",
        // PayPal's list has no issue for it; this one says that its own controls stand in the way.
        AuthorizationState::Pending { .. } => "TRANSACTION_REFUSED",
    };
    Err(Problem::issue(issue))
}

fn capturable(authorization: &Authorization, request: Option<&MoneyRequest>) -> Result<Money, Problem> {
    let whole = authorization.amount;
    let Some(request) = request else { return Ok(whole.of(whole.minor - authorization.captured)) };
    let amount = request.check("/amount")?;
    if amount.currency != whole.currency {
        return Err(Problem::issue("AUTH_CAPTURE_CURRENCY_MISMATCH").at("/amount/currency_code"));
    }
    if amount.minor <= 0 {
        return Err(Problem::issue("CANNOT_BE_ZERO_OR_NEGATIVE").at("/amount/value").value(amount.value()));
    }
    if !is_allowed(whole, authorization.captured.saturating_add(amount.minor)) {
        return Err(Problem::issue("MAX_CAPTURE_AMOUNT_EXCEEDED").at("/amount/value").value(amount.value()));
    }
    if authorization.captures.len() >= CAPTURES {
        return Err(Problem::issue("MAX_CAPTURE_COUNT_EXCEEDED"));
    }
    Ok(amount)
}

fn is_allowed(whole: Money, minor: i64) -> bool {
    i128::from(minor) * 100 <= i128::from(whole.minor) * i128::from(ALLOWANCE)
}

/// Renews the honour period, once; or finds what an earlier call with this key has made.
fn renew(
    books: &Books,
    base: &str,
    id: &str,
    request: &RenewRequest,
    key: Option<&str>,
    now: DateTime<Utc>,
) -> Result<((Arc<Authorization>, bool), Change), Problem> {
    let parent = books.authorizations.get(id).ok_or_else(Problem::unknown_resource)?;
    let earlier = books.made_by(Replay::Reauthorize, id, key).and_then(|id| books.authorizations.get(id));
    if let Some(earlier) = earlier.filter(|renewed| now < renewed.created + KEY_LIFETIME) {
        return Ok(((Arc::clone(earlier), false), Change::default()));
    }
    let amount = renewable(parent, request.amount.as_ref(), now)?;
    let order = books.orders.get(&parent.order_id).ok_or_else(Problem::unknown_resource)?;
    let renewed = Arc::new(Authorization {
        id: ids::resource(),
        parent: Some(parent.id.clone()),
        request_id: key.map(str::to_owned),
        amount,
        created: now,
        updated: now,
        honoured_until: (now + HONOUR_PERIOD).min(parent.expires),
        ..(**parent).clone()
    });
    let parent = Authorization { successor: Some(renewed.id.clone()), updated: now, ..(**parent).clone() };
    let mut change = Change {
        orders: vec![Arc::new(with(order, Some(&renewed.id), None, now))],
        authorizations: vec![Arc::new(parent), Arc::clone(&renewed)],
        ..Change::default()
    };
    announce(&mut change, base, &renewed, now);
    Ok(((renewed, true), change))
}

fn renewable(parent: &Authorization, request: Option<&MoneyRequest>, now: DateTime<Utc>) -> Result<Money, Problem> {
    if parent.parent.is_some() || parent.successor.is_some() {
        return Err(Problem::issue("REAUTHORIZATION_NOT_SUPPORTED"));
    }
    check_alive(parent, now).map_err(|problem| {
        // the list of this call knows no expired authorization: PayPal has voided it
        if now >= parent.expires { Problem::issue("AUTHORIZATION_VOIDED") } else { problem }
    })?;
    if parent.captured > 0 {
        return Err(Problem::issue("AUTHORIZATION_ALREADY_CAPTURED"));
    }
    if now < parent.honoured_until {
        let why = "A payment can be reauthorized from day 4 to day 29, after its honor period.";
        return Err(Problem::issue("REAUTHORIZATION_NOT_SUPPORTED").because(why));
    }
    let Some(request) = request else { return Ok(parent.amount) };
    let amount = request.check("/amount")?;
    if amount.currency != parent.amount.currency {
        return Err(Problem::issue("AUTH_CURRENCY_MISMATCH").at("/amount/currency_code"));
    }
    if amount.minor <= 0 {
        return Err(Problem::issue("CANNOT_BE_ZERO_OR_NEGATIVE").at("/amount/value").value(amount.value()));
    }
    if !is_allowed(parent.amount, amount.minor) {
        return Err(Problem::issue("AUTHORIZATION_AMOUNT_EXCEEDED").at("/amount/value").value(amount.value()));
    }
    Ok(amount)
}

/// The merchant does not want the rest.
fn let_go(books: &Books, base: &str, id: &str, now: DateTime<Utc>) -> Result<(Arc<Authorization>, Change), Problem> {
    let authorization = books.authorizations.get(id).ok_or_else(Problem::unknown_resource)?;
    if authorization.state == AuthorizationState::Voided {
        return Err(Problem::issue("PREVIOUSLY_VOIDED"));
    }
    if authorization.parent.is_some() {
        return Err(Problem::issue("CANNOT_BE_VOIDED"));
    }
    if authorization.status() == "CAPTURED" {
        return Err(Problem::issue("PREVIOUSLY_CAPTURED"));
    }
    if authorization.state == AuthorizationState::Denied {
        return Err(Problem::issue("CANNOT_BE_VOIDED").because("The authorization was denied."));
    }
    let change = voided(base, family(books, authorization), now);
    Ok((Arc::clone(&change.authorizations[0]), change))
}

fn voided<'a>(base: &str, authorizations: impl Iterator<Item = &'a Arc<Authorization>>, now: DateTime<Utc>) -> Change {
    let mut change = Change::default();
    for authorization in authorizations {
        let voided = Authorization { state: AuthorizationState::Voided, updated: now, ..(**authorization).clone() };
        change.announce(events::authorization(base, &voided, VOIDED, now));
        change.authorizations.push(Arc::new(voided));
    }
    change
}

/// The bank decides about an authorization.
pub(super) fn decide(
    books: &Books,
    base: &str,
    id: &str,
    state: AuthorizationState,
    now: DateTime<Utc>,
) -> Result<(Arc<Authorization>, Change), Problem> {
    let before = books.authorizations.get(id).ok_or_else(Problem::unknown_resource)?;
    let event_type = match state {
        AuthorizationState::Created => Some(CREATED),
        AuthorizationState::Pending { .. } => None,
        AuthorizationState::Denied => Some(VOIDED), // PayPal's list has none for it
        AuthorizationState::Voided => {
            let change = voided(base, family(books, before), now);
            return Ok((Arc::clone(&change.authorizations[0]), change));
        }
    };
    let authorization = Arc::new(Authorization { state, updated: now, ..(**before).clone() });
    let mut change = Change { authorizations: vec![Arc::clone(&authorization)], ..Change::default() };
    if let Some(event_type) = event_type {
        change.announce(events::authorization(base, &authorization, event_type, now));
    }
    Ok((authorization, change))
}

/// What the captures of an authorization come to from now on.
pub(super) fn instruct(
    books: &Books,
    id: &str,
    instrument: Instrument,
) -> Result<(Arc<Authorization>, Change), Problem> {
    let before = books.authorizations.get(id).ok_or_else(Problem::unknown_resource)?;
    let authorization = Arc::new(Authorization { instrument, ..(**before).clone() });
    let change = Change { authorizations: vec![Arc::clone(&authorization)], ..Change::default() };
    Ok((authorization, change))
}

/// The authorizations of a capture that has failed, with its amount to be captured again.
pub(super) fn without(books: &Books, capture: &Capture, now: DateTime<Utc>) -> Vec<Arc<Authorization>> {
    let own = capture.authorization_id.as_deref().and_then(|id| books.authorizations.get(id));
    let freed = |one: &Arc<Authorization>| {
        let captured = one.captured - capture.amount.minor;
        let closed = one.closed && !capture.final_capture;
        Arc::new(Authorization { captured, closed, updated: now, ..(**one).clone() })
    };
    own.into_iter().flat_map(|own| family(books, own)).map(freed).collect()
}

/// Voids what has expired.
pub(super) fn expire(books: &Books, base: &str, now: DateTime<Utc>) -> Change {
    let expired = books.authorizations.rows().iter().filter(|one| one.is_open() && one.expires <= now);
    voided(base, expired, now)
}

/// When the next authorization expires.
pub(super) fn next_expiry(books: &Books) -> Option<DateTime<Utc>> {
    books.authorizations.rows().iter().filter(|one| one.is_open()).map(|one| one.expires).min()
}

/// The authorization as PayPal shows it.
pub(super) fn view(base: &str, authorization: &Authorization) -> Value {
    let url = format!("{base}/v2/payments/authorizations/{}", authorization.id);
    let order_url = format!("{base}/v2/checkout/orders/{}", authorization.order_id);
    let link = |href: String, rel: &str, method: &str| json!({"href": href, "rel": rel, "method": method});
    let mut links = vec![link(url.clone(), "self", "GET")];
    if authorization.is_open() {
        for action in ["capture", "void", "reauthorize"] {
            links.push(link(format!("{url}/{action}"), action, "POST"));
        }
    }
    links.push(link(order_url, "up", "GET"));
    let mut view = json!({
        "id": authorization.id,
        "status": authorization.status(),
        "amount": authorization.amount,
        "seller_protection": {
            "status": "ELIGIBLE",
            "dispute_categories": ["ITEM_NOT_RECEIVED", "UNAUTHORIZED_TRANSACTION"],
        },
        "supplementary_data": {"related_ids": {"order_id": authorization.order_id}},
        "payee": orders::merchant(),
        "expiration_time": clock::stamp(authorization.expires),
        "create_time": clock::stamp(authorization.created),
        "update_time": clock::stamp(authorization.updated),
        "links": links,
    });
    put(&mut view, "custom_id", authorization.custom_id.as_deref());
    put(&mut view, "invoice_id", authorization.invoice_id.as_deref());
    if let AuthorizationState::Pending { reason } = &authorization.state {
        view["status_details"] = json!({"reason": reason});
    }
    view
}
