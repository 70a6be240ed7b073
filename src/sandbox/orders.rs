//! Orders v2: open, show, capture. What a buyer decides on the approval page ends here as well.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Books, Capture, CaptureState, Change, Instrument, Order, Sheet, Stage, Unit},
    call::Call,
    captures, clock,
    draft::{Draft, OrderRequest},
    errors::Problem,
    events, ids, refunds,
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

/// `POST /v2/checkout/orders/{id}/authorize`: every order here has `intent=CAPTURE`.
pub(super) async fn authorize(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    _: Call,
) -> Result<Response, Problem> {
    let known = bank.inspect(|books| books.orders.get(&id).is_some()).await?;
    Err(if known { Problem::issue("ACTION_DOES_NOT_MATCH_INTENT") } else { Problem::unknown_resource() })
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
    let earlier = key.as_deref().and_then(|key| books.order_by_key(key));
    if let Some(earlier) = earlier.filter(|order| now < order.created + KEY_LIFETIME) {
        let sheet = books.sheet(&earlier.id).expect("it was found just now");
        return ((sheet, false), Change::default());
    }
    let order = Order {
        id: ids::resource(),
        request_id: key,
        created: now,
        updated: now,
        wallet: draft.wallet,
        experience: draft.experience,
        units: draft.units,
        stage: Stage::Open,
    };
    let change = if at_once { approved(&order, base, Instrument::Good, now) } else { Change::order(order.clone()) };
    let sheet = Sheet { order: Arc::new(order), captures: Vec::new(), refunds: Vec::new() };
    ((sheet, true), change)
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
    }
}

fn approved(order: &Order, base: &str, instrument: Instrument, now: DateTime<Utc>) -> Change {
    let order = Order { stage: Stage::Approved(instrument), updated: now, ..order.clone() };
    let event = events::order_approved(base, &order, now);
    let mut change = Change::order(order);
    change.announce(event);
    change
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
    let instrument = match &sheet.order.stage {
        Stage::Open => return Err(Problem::issue("ORDER_NOT_APPROVED").link("approve", &approval_url(base, id))),
        Stage::Completed { at, request_id, .. } => {
            let same_call = key.is_some() && request_id.as_deref() == key && now < *at + KEY_LIFETIME;
            return if same_call {
                Ok(((sheet, false), Change::default()))
            } else {
                Err(Problem::issue("ORDER_ALREADY_CAPTURED"))
            };
        }
        Stage::Approved(instrument) => *instrument,
    };
    let (state, event_type) = match instrument {
        Instrument::Good => (CaptureState::Completed, "PAYMENT.CAPTURE.COMPLETED"),
        Instrument::Slow => (CaptureState::Pending { reason: "ECHECK".into() }, "PAYMENT.CAPTURE.PENDING"),
        Instrument::Declined => (CaptureState::Declined, "PAYMENT.CAPTURE.DECLINED"),
        Instrument::Refused => {
            return Err(Problem::issue("INSTRUMENT_DECLINED").link("redirect", &approval_url(base, id)));
        }
    };
    Ok(take(base, &sheet.order, &state, event_type, key, now))
}

fn take(
    base: &str,
    order: &Order,
    state: &CaptureState,
    event_type: &str,
    key: Option<&str>,
    now: DateTime<Utc>,
) -> (Done, Change) {
    let captures = order.units.iter().map(|unit| Arc::new(charge(order, unit, state.clone(), now)));
    let captures: Vec<_> = captures.collect();
    let capture_ids = captures.iter().map(|capture| capture.id.clone()).collect();
    let stage = Stage::Completed { at: now, request_id: key.map(str::to_owned), captures: capture_ids };
    let order = Arc::new(Order { stage, updated: now, ..order.clone() });

    let mut change = Change { orders: vec![Arc::clone(&order)], captures: captures.clone(), ..Change::default() };
    for capture in &captures {
        change.announce(events::capture(base, capture, event_type, now));
    }
    ((Sheet { order, captures, refunds: Vec::new() }, true), change)
}

fn charge(order: &Order, unit: &Unit, state: CaptureState, now: DateTime<Utc>) -> Capture {
    Capture {
        id: ids::resource(),
        order_id: order.id.clone(),
        reference_id: unit.reference_id.clone(),
        amount: unit.amount.money,
        custom_id: unit.custom_id.clone(),
        invoice_id: unit.invoice_id.clone(),
        state,
        refunded: 0,
        refunds: Vec::new(),
        created: now,
        updated: now,
    }
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
        "intent": "CAPTURE",
        "status": order.status(),
        "purchase_units": order.units.iter().map(|unit| unit_view(base, unit, sheet)).collect::<Vec<_>>(),
        "create_time": clock::stamp(order.created),
        "links": links(base, order),
    });
    if !matches!(order.stage, Stage::Open) {
        view["update_time"] = json!(clock::stamp(order.updated));
        view["payer"] = payer();
        view["payment_source"] = json!({"paypal": wallet()});
    } else if order.wallet {
        view["payment_source"] = json!({"paypal": {}});
    }
    view
}

fn unit_view(base: &str, unit: &Unit, sheet: &Sheet) -> Value {
    let mut view = serde_json::to_value(unit).expect("a unit is plain data");
    view["payee"] = unit.payee.clone().unwrap_or_else(merchant);
    let ours = sheet.captures.iter().filter(|capture| capture.reference_id == unit.reference_id);
    let captures: Vec<_> = ours.clone().map(|capture| captures::view(base, capture)).collect();
    let is_ours = |id: &str| ours.clone().any(|capture| capture.id == id);
    let refunds = sheet.refunds.iter().filter(|refund| is_ours(&refund.capture_id));
    let refunds: Vec<_> = refunds.map(|refund| refunds::view(base, refund)).collect();
    if !captures.is_empty() {
        view["payments"] = json!({"captures": captures});
    }
    if !refunds.is_empty() {
        view["payments"]["refunds"] = json!(refunds);
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
    let mut links = vec![link(&url, "self", "GET")];
    match (&order.stage, order.wallet) {
        (Stage::Open, true) => links.push(link(&approval_url(base, &order.id), "payer-action", "GET")),
        (Stage::Open, false) => {
            links.push(link(&approval_url(base, &order.id), "approve", "GET"));
            links.push(link(&url, "update", "PATCH"));
            links.push(link(&format!("{url}/capture"), "capture", "POST"));
        }
        (Stage::Approved(_), _) => {
            links.push(link(&url, "update", "PATCH"));
            links.push(link(&format!("{url}/capture"), "capture", "POST"));
        }
        (Stage::Completed { .. }, _) => {}
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
