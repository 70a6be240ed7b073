//! Orders v2: open, show, confirm, capture, authorize. What a buyer decides on the approval page ends here as well.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    authorizations,
    bank::Shared,
    books::{Books, Change, Replay, Sheet},
    call::Call,
    captures, clock,
    draft::{ConfirmRequest, Draft, OrderRequest},
    errors::Problem,
    events, ids,
    money::Money,
    records::{Authorization, Capture, CaptureState, Instrument, Intent, Order, Stage, Unit},
    refunds, tracking,
};

/// How long PayPal remembers the `PayPal-Request-Id` of an order's create and capture calls.
const KEY_LIFETIME: TimeDelta = TimeDelta::hours(6);

/// The one buyer of this world.
pub(super) const PAYER_ID: &str = "QYR5Z8XDVJNXQ";

/// What was asked for, and whether it was done just now or by an earlier call with the same id.
type Done = (Sheet, bool);

/// `POST /v2/checkout/orders`
pub(super) async fn create(State(bank): State<Shared>, call: Call) -> Result<Response, Problem> {
    let request: OrderRequest = call.json()?;
    if request.has_payment_source() && call.request_id.is_none() {
        return Err(Problem::issue("PAYPAL_REQUEST_ID_REQUIRED"));
    }
    let draft = request.check()?;
    let key = call.request_id.clone();
    let auto_approve = bank.knobs.auto_approve();
    let at_once = auto_approve.is_some_and(|after| after.is_zero());
    let (sheet, fresh) = bank.transact(|books, now| Ok(open(books, &bank.base, draft, key, at_once, now))).await?;
    if let Some(after) = auto_approve.filter(|after| fresh && !after.is_zero()) {
        bank.approve_later(sheet.order.id.clone(), after);
    }
    Ok(call.answer(fresh, view(&bank.base, &sheet)))
}

/// `GET /v2/checkout/orders/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>, _: Call) -> Result<Json<Value>, Problem> {
    let sheet = bank.inspect(|books| books.sheet(&id)).await?.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(view(&bank.base, &sheet)))
}

/// `POST /v2/checkout/orders/{id}/capture`
pub(super) async fn capture(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    call.optional_json::<Value>()?;
    let key = call.request_id.as_deref();
    let (sheet, fresh) = bank.transact(|books, now| settle(books, &bank.base, &id, key, now)).await?;
    Ok(call.answer(fresh, view(&bank.base, &sheet)))
}

/// `POST /v2/checkout/orders/{id}/authorize`
pub(super) async fn authorize(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    call.optional_json::<Value>()?;
    let key = call.request_id.as_deref();
    let (sheet, fresh) = bank.transact(|books, now| reserve(books, &bank.base, &id, key, now)).await?;
    Ok(call.answer(fresh, view(&bank.base, &sheet)))
}

/// `POST /v2/checkout/orders/{id}/confirm-payment-source`: the buyer is to pay with the wallet.
pub(super) async fn confirm(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    let experience = call.json::<ConfirmRequest>()?.check()?;
    let confirmed = |books: &Books, now| {
        let mut sheet = books.sheet(&id).ok_or_else(Problem::unknown_resource)?;
        match sheet.order.stage {
            Stage::Open => {}
            Stage::Approved(_) => return Ok((sheet, Change::default())),
            Stage::Completed { .. } => return Err(Problem::issue("ORDER_ALREADY_CAPTURED")),
            Stage::Voided => return Err(Problem::issue("ORDER_EXPIRED")),
        }
        let order = Order { wallet: true, experience, updated: now, ..(*sheet.order).clone() };
        sheet.order = Arc::new(order.clone());
        Ok((sheet, Change::order(order)))
    };
    let sheet = bank.transact(confirmed).await?;
    Ok(call.answer(false, view(&bank.base, &sheet)))
}

/// Opens an order, or finds the one that an earlier call with this key has opened.
///
/// With `at_once` the buyer approves in the same step; the caller still hears of the order as it was before.
fn open(
    books: &Books,
    base: &str,
    draft: Draft,
    key: Option<String>,
    at_once: bool,
    now: DateTime<Utc>,
) -> (Done, Change) {
    let earlier = books.made_by(Replay::Create, "", key.as_deref()).and_then(|id| books.orders.get(id));
    if let Some(earlier) = earlier.filter(|order| now < order.created + KEY_LIFETIME) {
        let sheet = books.sheet(&earlier.id).expect("it was found just now");
        return ((sheet, false), Change::default());
    }
    let order = Order {
        id: ids::resource(),
        request_id: key,
        created: now,
        updated: now,
        intent: draft.intent,
        wallet: draft.wallet,
        experience: draft.experience,
        units: draft.units,
        stage: Stage::Open,
        trackers: Vec::new(),
    };
    let change = if at_once { approved(&order, base, Instrument::Good, now) } else { Change::order(order.clone()) };
    ((Sheet::blank(order), true), change)
}

/// The buyer agrees, or comes back and chooses another instrument. Agreeing to the same again changes nothing.
pub(super) fn approve(
    books: &Books,
    base: &str,
    id: &str,
    instrument: Instrument,
    now: DateTime<Utc>,
) -> Result<(Arc<Order>, Change), Problem> {
    let order = books.orders.get(id).ok_or_else(Problem::unknown_resource)?;
    match &order.stage {
        Stage::Approved(chosen) if *chosen == instrument => Ok((Arc::clone(order), Change::default())),
        Stage::Open | Stage::Approved(_) => {
            let change = approved(order, base, instrument, now);
            Ok((Arc::clone(&change.orders[0]), change))
        }
        Stage::Completed { .. } => Err(Problem::issue("ORDER_ALREADY_CAPTURED")),
        Stage::Voided => Err(Problem::issue("ORDER_EXPIRED")),
    }
}

fn approved(order: &Order, base: &str, instrument: Instrument, now: DateTime<Utc>) -> Change {
    let order = Order { stage: Stage::Approved(instrument), updated: now, ..order.clone() };
    let event = events::order_approved(base, &order, now);
    let mut change = Change::order(order);
    change.announce(event);
    change
}

/// The instrument that an approved order is paid with; or the order as an earlier call with this key has left it.
fn instrument_of(
    base: &str,
    sheet: &Sheet,
    key: Option<&str>,
    now: DateTime<Utc>,
    already: &str,
) -> Result<Option<Instrument>, Problem> {
    match &sheet.order.stage {
        Stage::Open => Err(Problem::issue("ORDER_NOT_APPROVED").link("approve", &approval_url(base, &sheet.order.id))),
        Stage::Voided => Err(Problem::issue("ORDER_EXPIRED")),
        Stage::Completed { at, request_id, .. } => {
            let same_call = key.is_some() && request_id.as_deref() == key && now < *at + KEY_LIFETIME;
            if same_call { Ok(None) } else { Err(Problem::issue(already)) }
        }
        Stage::Approved(instrument) => Ok(Some(*instrument)),
    }
}

fn declined(base: &str, order: &Order) -> Problem {
    Problem::issue("INSTRUMENT_DECLINED").link("redirect", &approval_url(base, &order.id))
}

/// Takes the money, one capture for each purchase unit, as the buyer's instrument lets it be taken.
fn settle(
    books: &Books,
    base: &str,
    id: &str,
    key: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(Done, Change), Problem> {
    let sheet = books.sheet(id).ok_or_else(Problem::unknown_resource)?;
    if sheet.order.intent == Intent::Authorize {
        let why = "Order was created with an intent to 'AUTHORIZE'. Please use v2/checkout/orders/order_id/authorize \
                   to complete the transaction or alternately Create an order with an intent of 'CAPTURE'.";
        return Err(Problem::issue("ACTION_DOES_NOT_MATCH_INTENT").because(why));
    }
    let Some(instrument) = instrument_of(base, &sheet, key, now, "ORDER_ALREADY_CAPTURED")? else {
        return Ok(((sheet, false), Change::default()));
    };
    let state = captures::outcome(instrument).ok_or_else(|| declined(base, &sheet.order))?;
    let charge = |(index, unit): (usize, &Unit)| {
        let capture = captures::charge(&sheet.order, unit, unit.amount.money, state.clone(), now);
        Arc::new(if index == 0 { cut(capture, instrument) } else { capture })
    };
    let captures = sheet.order.units.iter().enumerate().map(charge).collect();
    Ok(complete(base, &sheet.order, Vec::new(), captures, key, now))
}

/// The first capture, where the instrument does not give all of it.
fn cut(capture: Capture, instrument: Instrument) -> Capture {
    match instrument {
        Instrument::Partial { minor } if minor < capture.amount.minor => {
            Capture { amount: capture.amount.of(minor), final_capture: false, ..capture }
        }
        Instrument::Partial { .. }
        | Instrument::Good
        | Instrument::Slow
        | Instrument::Refused
        | Instrument::Declined => capture,
    }
}

/// Has the money kept ready, as the buyer's instrument allows it.
fn reserve(
    books: &Books,
    base: &str,
    id: &str,
    key: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(Done, Change), Problem> {
    let sheet = books.sheet(id).ok_or_else(Problem::unknown_resource)?;
    if sheet.order.intent == Intent::Capture {
        return Err(Problem::issue("ACTION_DOES_NOT_MATCH_INTENT"));
    }
    let Some(instrument) = instrument_of(base, &sheet, key, now, "ORDER_ALREADY_AUTHORIZED")? else {
        return Ok(((sheet, false), Change::default()));
    };
    let units = sheet.order.units.iter();
    let authorizations: Option<Vec<_>> =
        units.map(|unit| authorizations::authorize(&sheet.order, unit, instrument, now).map(Arc::new)).collect();
    let authorizations = authorizations.ok_or_else(|| declined(base, &sheet.order))?;
    Ok(complete(base, &sheet.order, authorizations, Vec::new(), key, now))
}

/// The order is done with, and what was made of it is told.
fn complete(
    base: &str,
    order: &Order,
    authorizations: Vec<Arc<Authorization>>,
    captures: Vec<Arc<Capture>>,
    key: Option<&str>,
    now: DateTime<Utc>,
) -> (Done, Change) {
    let stage = Stage::Completed {
        at: now,
        request_id: key.map(str::to_owned),
        captures: captures.iter().map(|capture| capture.id.clone()).collect(),
        authorizations: authorizations.iter().map(|authorization| authorization.id.clone()).collect(),
    };
    let order = Order { stage, updated: now, ..order.clone() };
    let sheet = Sheet { authorizations, captures, ..Sheet::blank(order) };

    let mut change = Change {
        orders: vec![Arc::clone(&sheet.order)],
        authorizations: sheet.authorizations.clone(),
        captures: sheet.captures.clone(),
        ..Change::default()
    };
    for authorization in &sheet.authorizations {
        authorizations::announce(&mut change, base, authorization, now);
    }
    for capture in &sheet.captures {
        change.announce(events::capture(base, capture, captures::event_type(&capture.state), now));
    }
    ((sheet, true), change)
}

/// Somebody charges the buyer by hand: once more, or without an approval.
pub(super) fn charge_by_hand(
    books: &Books,
    base: &str,
    id: &str,
    amount: Option<Money>,
    state: CaptureState,
    now: DateTime<Utc>,
) -> Result<(Arc<Capture>, Change), Problem> {
    let order = books.orders.get(id).ok_or_else(Problem::unknown_resource)?;
    let unit = &order.units[0]; // a draft without units is refused
    let capture = captures::charge(order, unit, amount.unwrap_or_else(|| order.total()), state, now);
    let capture = Arc::new(capture);
    let mut order = Order { updated: now, ..(**order).clone() };
    match &mut order.stage {
        Stage::Completed { captures, .. } => captures.push(capture.id.clone()),
        Stage::Open | Stage::Approved(_) | Stage::Voided => {
            let captures = vec![capture.id.clone()];
            order.stage = Stage::Completed { at: now, request_id: None, captures, authorizations: Vec::new() };
        }
    }
    let mut change = Change { captures: vec![Arc::clone(&capture)], ..Change::order(order) };
    change.announce(events::capture(base, &capture, captures::event_type(&capture.state), now));
    Ok((capture, change))
}

/// Nobody has captured or approved in time.
pub(super) fn expire(books: &Books, base: &str, id: &str, now: DateTime<Utc>) -> Result<(Arc<Order>, Change), Problem> {
    let before = books.orders.get(id).ok_or_else(Problem::unknown_resource)?;
    let was_approved = match before.stage {
        Stage::Open => false,
        Stage::Approved(_) => true,
        Stage::Completed { .. } => return Err(Problem::issue("ORDER_ALREADY_COMPLETED")),
        Stage::Voided => return Ok((Arc::clone(before), Change::default())),
    };
    let order = Order { stage: Stage::Voided, updated: now, ..(**before).clone() };
    let mut change = Change::order(order);
    let order = Arc::clone(&change.orders[0]);
    if was_approved {
        change.announce(events::approval_reversed(base, &order, now));
    }
    Ok((order, change))
}

/// Where the buyer decides.
pub(super) fn approval_url(base: &str, id: &str) -> String {
    format!("{base}/checkoutnow?token={id}")
}

/// The whole order as PayPal shows it.
pub(super) fn view(base: &str, sheet: &Sheet) -> Value {
    let order = &sheet.order;
    let mut view = json!({
        "id": order.id,
        "intent": order.intent,
        "status": order.status(),
        "purchase_units": order.units.iter().map(|unit| unit_view(base, unit, sheet)).collect::<Vec<_>>(),
        "create_time": clock::stamp(order.created),
        "links": links(base, order),
    });
    if !matches!(order.stage, Stage::Open) {
        view["update_time"] = json!(clock::stamp(order.updated));
    }
    if matches!(order.stage, Stage::Approved(_) | Stage::Completed { .. }) {
        view["payer"] = payer();
        view["payment_source"] = json!({"paypal": wallet()});
    } else if order.wallet {
        view["payment_source"] = json!({"paypal": {}});
    }
    view
}

fn unit_view(base: &str, unit: &Unit, sheet: &Sheet) -> Value {
    let mut view = serde_json::to_value(unit).expect("a unit is plain data");
    let order = &sheet.order;
    view["payee"] = unit.payee.clone().unwrap_or_else(merchant);
    let reserved = sheet.authorizations.iter().filter(|one| one.reference_id == unit.reference_id);
    let captured = sheet.captures.iter().filter(|capture| capture.reference_id == unit.reference_id);
    let is_ours = |id: &str| captured.clone().any(|capture| capture.id == id);
    let refunded = sheet.refunds.iter().filter(|refund| is_ours(&refund.capture_id));
    let payments = [
        ("authorizations", reserved.map(|one| authorizations::view(base, one)).collect::<Vec<_>>()),
        ("captures", captured.clone().map(|capture| captures::view(base, capture)).collect()),
        ("refunds", refunded.map(|refund| refunds::view(base, refund)).collect()),
    ];
    for (kind, payments) in payments {
        if !payments.is_empty() {
            view["payments"][kind] = json!(payments);
        }
    }
    let trackers: Vec<_> = order.trackers.iter().map(|tracker| tracking::view(base, order, tracker)).collect();
    if !trackers.is_empty() {
        view["shipping"]["trackers"] = json!(trackers);
    }
    view
}

/// Who is paid when nobody is named: the owner of the client id.
pub(super) fn merchant() -> Value {
    json!({"email_address": "merchant@sandbox.example", "merchant_id": "SQUKMERCHANT2"})
}

fn links(base: &str, order: &Order) -> Vec<Value> {
    let url = format!("{base}/v2/checkout/orders/{}", order.id);
    let link = |href: &str, rel: &str, method: &str| json!({"href": href, "rel": rel, "method": method});
    let act = match order.intent {
        Intent::Capture => "capture",
        Intent::Authorize => "authorize",
    };
    let mut links = vec![link(&url, "self", "GET")];
    match (&order.stage, order.wallet) {
        (Stage::Open, true) => links.push(link(&approval_url(base, &order.id), "payer-action", "GET")),
        (Stage::Open, false) => {
            links.push(link(&approval_url(base, &order.id), "approve", "GET"));
            links.push(link(&url, "update", "PATCH"));
            links.push(link(&format!("{url}/{act}"), act, "POST"));
        }
        (Stage::Approved(_), _) => {
            links.push(link(&url, "update", "PATCH"));
            links.push(link(&format!("{url}/{act}"), act, "POST"));
        }
        (Stage::Completed { .. } | Stage::Voided, _) => {}
    }
    links
}

fn payer() -> Value {
    json!({
        "name": {"given_name": "Salma", "surname": "Buyer"},
        "email_address": "buyer@sandbox.example",
        "payer_id": PAYER_ID,
        "address": {"country_code": "US"},
    })
}

fn wallet() -> Value {
    json!({
        "email_address": "buyer@sandbox.example",
        "account_id": PAYER_ID,
        "account_status": "VERIFIED",
        "name": {"given_name": "Salma", "surname": "Buyer"},
        "address": {"country_code": "US"},
    })
}
