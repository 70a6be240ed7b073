//! Orders v2: parcels that the merchant tells PayPal of, so that the buyer sees them and a dispute can be answered.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Books, Change, Sheet},
    call::{self, Call},
    clock,
    errors::Problem,
    orders,
    records::{CaptureState, Order, Tracker},
};

#[derive(Deserialize)]
struct TrackRequest {
    capture_id: Option<String>,
    tracking_number: Option<String>,
    carrier: Option<String>,
    #[serde(default)]
    items: Vec<Value>,
}

/// `POST /v2/checkout/orders/{id}/track`
pub(super) async fn create(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    let request: TrackRequest = call.json()?;
    let (sheet, fresh) = bank.transact(|books, now| track(books, &id, &request, now)).await?;
    Ok(call::done(fresh, orders::view(&bank.base, &sheet)))
}

/// Adds the parcel, unless it is known.
fn track(
    books: &Books,
    id: &str,
    request: &TrackRequest,
    now: DateTime<Utc>,
) -> Result<((Sheet, bool), Change), Problem> {
    let mut sheet = books.sheet(id).ok_or_else(Problem::unknown_resource)?;
    let required = |field: &str, text: &Option<String>| {
        text.clone().ok_or_else(|| Problem::issue("MISSING_REQUIRED_PARAMETER").at(format!("/{field}")))
    };
    let capture_id = required("capture_id", &request.capture_id)?;
    let number = required("tracking_number", &request.tracking_number)?;
    required("carrier", &request.carrier)?;
    let capture = sheet.captures.iter().find(|capture| capture.id == capture_id);
    let capture = capture.ok_or_else(|| Problem::issue("CAPTURE_ID_NOT_FOUND").at("/capture_id"))?;
    if capture.state != CaptureState::Completed {
        return Err(Problem::issue("CAPTURE_STATUS_NOT_VALID"));
    }
    let tracker = Tracker { id: format!("{capture_id}-{number}"), created: now, items: request.items.clone() };
    if sheet.order.trackers.iter().any(|known| known.id == tracker.id) {
        return Ok(((sheet, false), Change::default()));
    }
    let mut order = Order { updated: now, ..(*sheet.order).clone() };
    order.trackers.push(tracker);
    sheet.order = Arc::new(order.clone());
    Ok(((sheet, true), Change::order(order)))
}

/// The parcel as PayPal shows it, below the unit's shipping.
pub(super) fn view(base: &str, order: &Order, tracker: &Tracker) -> Value {
    let order_url = format!("{base}/v2/checkout/orders/{}", order.id);
    let mut view = json!({
        "id": tracker.id,
        "status": "SHIPPED",
        "create_time": clock::stamp(tracker.created),
        "update_time": clock::stamp(tracker.created),
        "links": [
            {"href": order_url, "rel": "up", "method": "GET"},
            {"href": format!("{order_url}/trackers/{}", tracker.id), "rel": "update", "method": "PATCH"},
        ],
    });
    if !tracker.items.is_empty() {
        view["items"] = json!(tracker.items);
    }
    view
}
