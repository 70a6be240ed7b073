//! Payments v2: captures, and what becomes of a pending one.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Books, Capture, CaptureState, Change},
    call::Call,
    clock,
    errors::Problem,
    events,
};

/// `GET /v2/payments/captures/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>, _: Call) -> Result<Json<Value>, Problem> {
    let capture = bank.inspect(|books| books.captures.get(&id).cloned()).await?;
    let capture = capture.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(view(&bank.base, &capture)))
}

/// The bank decides about a pending capture.
pub(super) fn decide(
    books: &Books,
    base: &str,
    id: &str,
    state: CaptureState,
    event_type: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(Arc<Capture>, Change), Problem> {
    let capture = books.captures.get(id).ok_or_else(Problem::unknown_resource)?;
    if !matches!(capture.state, CaptureState::Pending { .. }) {
        let why = format!("Only a pending capture can be decided about; this one is {}.", capture.status());
        return Err(Problem::issue("CAPTURE_STATUS_NOT_VALID").because(why));
    }
    let capture = Arc::new(Capture { state, updated: now, ..(**capture).clone() });
    let mut change = Change { captures: vec![Arc::clone(&capture)], ..Change::default() };
    if let Some(event_type) = event_type {
        change.announce(events::capture(base, &capture, event_type, now));
    }
    Ok((capture, change))
}

/// The capture as PayPal shows it.
pub(super) fn view(base: &str, capture: &Capture) -> Value {
    let url = format!("{base}/v2/payments/captures/{}", capture.id);
    let order_url = format!("{base}/v2/checkout/orders/{}", capture.order_id);
    let mut view = json!({
        "id": capture.id,
        "status": capture.status(),
        "amount": capture.amount,
        "final_capture": true,
        "disbursement_mode": "INSTANT",
        "seller_protection": {
            "status": "ELIGIBLE",
            "dispute_categories": ["ITEM_NOT_RECEIVED", "UNAUTHORIZED_TRANSACTION"],
        },
        "supplementary_data": {"related_ids": {"order_id": capture.order_id}},
        "create_time": clock::stamp(capture.created),
        "update_time": clock::stamp(capture.updated),
        "links": [
            {"href": url, "rel": "self", "method": "GET"},
            {"href": format!("{url}/refund"), "rel": "refund", "method": "POST"},
            {"href": order_url, "rel": "up", "method": "GET"},
        ],
    });
    if let Some(custom_id) = &capture.custom_id {
        view["custom_id"] = json!(custom_id);
    }
    if let Some(invoice_id) = &capture.invoice_id {
        view["invoice_id"] = json!(invoice_id);
    }
    match &capture.state {
        CaptureState::Completed => view["seller_receivable_breakdown"] = receivable(capture),
        CaptureState::Pending { reason } => view["status_details"] = json!({"reason": reason}),
        CaptureState::Declined | CaptureState::Failed => {}
    }
    view
}

fn receivable(capture: &Capture) -> Value {
    let gross = capture.amount;
    let fee = gross.fee();
    json!({"gross_amount": gross, "paypal_fee": fee, "net_amount": gross.of(gross.minor - fee.minor)})
}
