//! Payments v2: refunds, and money that the bank takes back by itself.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Books, Capture, CaptureState, Change, Refund},
    call::Call,
    clock,
    draft::MoneyRequest,
    errors::Problem,
    events, ids,
};

/// How long PayPal remembers the `PayPal-Request-Id` of a refund.
const KEY_LIFETIME: TimeDelta = TimeDelta::days(45);

/// All of it may be left out: then the rest of the capture goes back.
#[derive(Deserialize, Default)]
pub(super) struct RefundRequest {
    pub(super) amount: Option<MoneyRequest>,
    custom_id: Option<String>,
    invoice_id: Option<String>,
    note_to_payer: Option<String>,
}

/// `POST /v2/payments/captures/{id}/refund`
pub(super) async fn create(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    let request: RefundRequest = call.optional_json()?;
    let key = call.request_id.as_deref();
    let ask = |books: &Books, now| give_back(books, &bank.base, &id, &request, key, "PAYMENT.CAPTURE.REFUNDED", now);
    let (refund, fresh) = bank.transact(ask).await?;
    Ok(call.answer(fresh, view(&bank.base, &refund)))
}

/// `GET /v2/payments/refunds/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>, _: Call) -> Result<Json<Value>, Problem> {
    let refund = bank.inspect(|books| books.refunds.get(&id).cloned()).await?;
    let refund = refund.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(view(&bank.base, &refund)))
}

/// Gives money back and announces it as `event_type`; or finds the refund that an earlier call with this key has made.
pub(super) fn give_back(
    books: &Books,
    base: &str,
    capture_id: &str,
    request: &RefundRequest,
    key: Option<&str>,
    event_type: &str,
    now: DateTime<Utc>,
) -> Result<((Arc<Refund>, bool), Change), Problem> {
    let capture = books.captures.get(capture_id).ok_or_else(Problem::unknown_resource)?;
    let earlier = key.and_then(|key| books.refund_by_key(capture_id, key));
    if let Some(earlier) = earlier.filter(|refund| now < refund.created + KEY_LIFETIME) {
        return Ok(((Arc::clone(earlier), false), Change::default()));
    }
    let minor = refundable(capture, request)?;
    let refund = Arc::new(Refund {
        id: ids::resource(),
        capture_id: capture.id.clone(),
        order_id: capture.order_id.clone(),
        request_id: key.map(str::to_owned),
        amount: capture.amount.of(minor),
        total_refunded: capture.refunded + minor,
        custom_id: request.custom_id.clone(),
        invoice_id: request.invoice_id.clone(),
        note_to_payer: request.note_to_payer.clone(),
        created: now,
    });
    let mut capture = Capture { refunded: refund.total_refunded, updated: now, ..(**capture).clone() };
    capture.refunds.push(refund.id.clone());

    let mut change =
        Change { captures: vec![Arc::new(capture)], refunds: vec![Arc::clone(&refund)], ..Change::default() };
    change.announce(events::refund(base, &refund, event_type, now));
    Ok(((refund, true), change))
}

/// How much the request takes out of the capture, if the capture can bear it.
fn refundable(capture: &Capture, request: &RefundRequest) -> Result<i64, Problem> {
    match capture.state {
        CaptureState::Completed => {}
        CaptureState::Pending { .. } => return Err(Problem::issue("PENDING_CAPTURE")),
        CaptureState::Declined | CaptureState::Failed => return Err(Problem::issue("REFUND_NOT_ALLOWED")),
    }
    let rest = capture.amount.minor - capture.refunded;
    if rest == 0 {
        return Err(Problem::issue("CAPTURE_FULLY_REFUNDED"));
    }
    let Some(amount) = &request.amount else { return Ok(rest) };
    let amount = amount.check("/amount")?;
    if amount.currency != capture.amount.currency {
        return Err(Problem::issue("REFUND_CAPTURE_CURRENCY_MISMATCH").at("/amount/currency_code"));
    }
    if amount.minor <= 0 {
        return Err(Problem::issue("CANNOT_BE_ZERO_OR_NEGATIVE").at("/amount/value").value(amount.value()));
    }
    if amount.minor > rest {
        return Err(Problem::issue("REFUND_AMOUNT_EXCEEDED").at("/amount/value").value(amount.value()));
    }
    Ok(amount.minor)
}

/// The refund as PayPal shows it. The fee of the sale is kept, so that gross and net are the same.
pub(super) fn view(base: &str, refund: &Refund) -> Value {
    let mut view = json!({
        "id": refund.id,
        "status": "COMPLETED",
        "amount": refund.amount,
        "seller_payable_breakdown": {
            "gross_amount": refund.amount,
            "paypal_fee": refund.amount.of(0),
            "net_amount": refund.amount,
            "total_refunded_amount": refund.amount.of(refund.total_refunded),
        },
        "create_time": clock::stamp(refund.created),
        "update_time": clock::stamp(refund.created),
        "links": [
            {"href": format!("{base}/v2/payments/refunds/{}", refund.id), "rel": "self", "method": "GET"},
            {"href": format!("{base}/v2/payments/captures/{}", refund.capture_id), "rel": "up", "method": "GET"},
        ],
    });
    let texts = [
        ("custom_id", &refund.custom_id),
        ("invoice_id", &refund.invoice_id),
        ("note_to_payer", &refund.note_to_payer),
    ];
    for (field, text) in texts {
        if let Some(text) = text {
            view[field] = json!(text);
        }
    }
    view
}
