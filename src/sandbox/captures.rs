//! Payments v2: captures, and what becomes of a pending one.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    authorizations,
    bank::Shared,
    books::{Books, Change},
    call::Call,
    clock,
    errors::Problem,
    events::{self, put},
    ids,
    money::Money,
    records::{Capture, CaptureState, Instrument, Order, Unit},
};

/// `GET /v2/payments/captures/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>, _: Call) -> Result<Json<Value>, Problem> {
    let capture = bank.inspect(|books| books.captures.get(&id).cloned()).await?;
    let capture = capture.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(view(&bank.base, &capture)))
}

/// What a charge of this instrument comes to; nothing, if it is refused.
pub(super) fn outcome(instrument: Instrument) -> Option<CaptureState> {
    match instrument {
        Instrument::Good | Instrument::Partial { .. } => Some(CaptureState::Completed),
        Instrument::Slow => Some(CaptureState::Pending { reason: "ECHECK".to_owned() }),
        Instrument::Declined => Some(CaptureState::Declined),
        Instrument::Refused => None,
    }
}

/// A charge of a purchase unit, without an authorization.
pub(super) fn charge(order: &Order, unit: &Unit, amount: Money, state: CaptureState, now: DateTime<Utc>) -> Capture {
    Capture {
        id: ids::resource(),
        order_id: order.id.clone(),
        authorization_id: None,
        request_id: None,
        reference_id: unit.reference_id.clone(),
        amount,
        custom_id: unit.custom_id.clone(),
        invoice_id: unit.invoice_id.clone(),
        state,
        final_capture: true,
        refunded: 0,
        reversal: None,
        refunds: Vec::new(),
        created: now,
        updated: now,
    }
}

/// How a new capture is announced.
pub(super) fn event_type(state: &CaptureState) -> &'static str {
    match state {
        CaptureState::Completed => "PAYMENT.CAPTURE.COMPLETED",
        CaptureState::Pending { .. } => "PAYMENT.CAPTURE.PENDING",
        CaptureState::Declined | CaptureState::Failed => "PAYMENT.CAPTURE.DECLINED",
    }
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
    if matches!(capture.state, CaptureState::Declined | CaptureState::Failed) {
        change.authorizations = authorizations::without(books, &capture, now);
    }
    if let Some(event_type) = event_type {
        change.announce(events::capture(base, &capture, event_type, now));
    }
    Ok((capture, change))
}

/// The capture as PayPal shows it.
pub(super) fn view(base: &str, capture: &Capture) -> Value {
    let url = format!("{base}/v2/payments/captures/{}", capture.id);
    let mut related = json!({"order_id": capture.order_id});
    put(&mut related, "authorization_id", capture.authorization_id.as_deref());
    let above = match &capture.authorization_id {
        Some(id) => format!("{base}/v2/payments/authorizations/{id}"),
        None => format!("{base}/v2/checkout/orders/{}", capture.order_id),
    };
    let mut view = json!({
        "id": capture.id,
        "status": capture.status(),
        "amount": capture.amount,
        "final_capture": capture.final_capture,
        "disbursement_mode": "INSTANT",
        "seller_protection": {
            "status": "ELIGIBLE",
            "dispute_categories": ["ITEM_NOT_RECEIVED", "UNAUTHORIZED_TRANSACTION"],
        },
        "supplementary_data": {"related_ids": related},
        "create_time": clock::stamp(capture.created),
        "update_time": clock::stamp(capture.updated),
        "links": [
            {"href": url, "rel": "self", "method": "GET"},
            {"href": format!("{url}/refund"), "rel": "refund", "method": "POST"},
            {"href": above, "rel": "up", "method": "GET"},
        ],
    });
    put(&mut view, "custom_id", capture.custom_id.as_deref());
    put(&mut view, "invoice_id", capture.invoice_id.as_deref());
    match &capture.state {
        CaptureState::Completed => view["seller_receivable_breakdown"] = receivable(capture),
        CaptureState::Pending { reason } => view["status_details"] = json!({"reason": reason}),
        CaptureState::Declined | CaptureState::Failed => {}
    }
    if let Some(reversal) = &capture.reversal {
        view["status_details"] = json!({"reason": reversal.reason});
    }
    view
}

fn receivable(capture: &Capture) -> Value {
    let gross = capture.amount;
    let fee = gross.fee();
    json!({"gross_amount": gross, "paypal_fee": fee, "net_amount": gross.of(gross.minor - fee.minor)})
}
