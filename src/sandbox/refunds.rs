//! Payments v2: refunds and what becomes of them, and money that PayPal takes back by itself.

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
    books::{Books, Change, Replay},
    call::Call,
    clock, disputes,
    draft::MoneyRequest,
    errors::Problem,
    events::{self, put},
    ids,
    records::{Capture, CaptureState, Refund, RefundKind, RefundStatus, Reversal, ReversalReason},
};

/// How long PayPal remembers the `PayPal-Request-Id` of calls that move money of a payment.
pub(super) const KEY_LIFETIME: TimeDelta = TimeDelta::days(45);
/// How long after a capture it can be refunded.
const PERIOD: TimeDelta = TimeDelta::days(180);

/// All of it may be left out: then the rest of the capture goes back.
#[derive(Deserialize, Default)]
pub(super) struct RefundRequest {
    pub(super) amount: Option<MoneyRequest>,
    pub(super) custom_id: Option<String>,
    pub(super) invoice_id: Option<String>,
    pub(super) note_to_payer: Option<String>,
}

/// By whom a refund is made, and what it comes to.
pub(super) enum Giver<'a> {
    /// A program, over the API.
    Api { request_id: Option<&'a str>, comes_to: RefundStatus },
    /// A person, on PayPal's own pages, where PayPal is less strict.
    Hand { comes_to: RefundStatus },
}

/// `POST /v2/payments/captures/{id}/refund`
pub(super) async fn create(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    let request: RefundRequest = call.optional_json()?;
    let giver = Giver::Api { request_id: call.request_id.as_deref(), comes_to: bank.knobs.refunds() };
    let ask = |books: &Books, now| give_back(books, &bank.base, &id, &request, &giver, now);
    let (refund, fresh) = bank.transact(ask).await?;
    Ok(call.answer(fresh, view(&bank.base, &refund)))
}

/// `GET /v2/payments/refunds/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>, _: Call) -> Result<Json<Value>, Problem> {
    let refund = bank.inspect(|books| books.refunds.get(&id).cloned()).await?;
    let refund = refund.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(view(&bank.base, &refund)))
}

/// Gives money back; or finds the refund that an earlier call with this key has made.
pub(super) fn give_back(
    books: &Books,
    base: &str,
    capture_id: &str,
    request: &RefundRequest,
    giver: &Giver<'_>,
    now: DateTime<Utc>,
) -> Result<((Arc<Refund>, bool), Change), Problem> {
    let capture = books.captures.get(capture_id).ok_or_else(Problem::unknown_resource)?;
    let (request_id, status) = match *giver {
        Giver::Api { request_id, comes_to } => (request_id, comes_to),
        Giver::Hand { comes_to } => (None, comes_to),
    };
    let earlier = books.made_by(Replay::Refund, capture_id, request_id).and_then(|id| books.refunds.get(id));
    if let Some(earlier) = earlier.filter(|refund| now < refund.created + KEY_LIFETIME) {
        return Ok(((Arc::clone(earlier), false), Change::default()));
    }
    let minor = refundable(capture, request)?;
    if let Giver::Api { .. } = giver {
        check_api_rules(books, capture, minor, now)?;
    }
    let refund = Refund {
        custom_id: request.custom_id.clone().or_else(|| capture.custom_id.clone()),
        invoice_id: request.invoice_id.clone(),
        note_to_payer: request.note_to_payer.clone(),
        request_id: request_id.map(str::to_owned),
        status,
        ..money_back(capture, minor, RefundKind::Refund, now)
    };
    let refund = Arc::new(refund);
    let mut capture = (**capture).clone();
    capture.refunds.push(refund.id.clone());
    if status.is_live() {
        (capture.refunded, capture.updated) = (capture.refunded + minor, now);
    }
    let mut change =
        Change { captures: vec![Arc::new(capture)], refunds: vec![Arc::clone(&refund)], ..Change::default() };
    change.announce(events::refund(base, &refund, event_type(status), now));
    Ok(((refund, true), change))
}

fn money_back(capture: &Capture, minor: i64, kind: RefundKind, now: DateTime<Utc>) -> Refund {
    Refund {
        id: ids::resource(),
        capture_id: capture.id.clone(),
        order_id: capture.order_id.clone(),
        request_id: None,
        kind,
        status: RefundStatus::Completed,
        amount: capture.amount.of(minor),
        total_refunded: capture.refunded + capture.reversed() + minor,
        custom_id: capture.custom_id.clone(),
        invoice_id: None,
        note_to_payer: None,
        created: now,
        decided: None,
    }
}

/// PayPal's list has no event for a cancelled refund; the nearest says that the buyer got nothing.
fn event_type(status: RefundStatus) -> &'static str {
    match status {
        RefundStatus::Completed => "PAYMENT.CAPTURE.REFUNDED",
        RefundStatus::Pending => "PAYMENT.REFUND.PENDING",
        RefundStatus::Failed | RefundStatus::Cancelled => "PAYMENT.REFUND.FAILED",
    }
}

/// How much the request takes out of the capture, if the capture can bear it.
fn refundable(capture: &Capture, request: &RefundRequest) -> Result<i64, Problem> {
    match capture.state {
        CaptureState::Completed => {}
        CaptureState::Pending { .. } => return Err(Problem::issue("PENDING_CAPTURE")),
        CaptureState::Declined | CaptureState::Failed => return Err(Problem::issue("REFUND_NOT_ALLOWED")),
    }
    if capture.reversal.is_some() {
        return Err(Problem::issue("REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK"));
    }
    let rest = capture.rest();
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

fn check_api_rules(books: &Books, capture: &Capture, minor: i64, now: DateTime<Utc>) -> Result<(), Problem> {
    if now >= capture.created + PERIOD {
        return Err(Problem::issue("REFUND_TIME_LIMIT_EXCEEDED"));
    }
    if minor < capture.rest() && books.disputes_of(&capture.id).any(|dispute| dispute.is_open()) {
        return Err(Problem::issue("TRANSACTION_DISPUTED"));
    }
    Ok(())
}

/// The bank decides about a refund, also once more. One that did not go through leaves its amount with the capture.
pub(super) fn decide(
    books: &Books,
    base: &str,
    id: &str,
    status: RefundStatus,
    now: DateTime<Utc>,
) -> Result<(Arc<Refund>, Change), Problem> {
    let before = books.refunds.get(id).ok_or_else(Problem::unknown_resource)?;
    let capture = books.captures.get(&before.capture_id).ok_or_else(Problem::unknown_resource)?;
    if before.kind == RefundKind::Reversal {
        return Err(Problem::issue("REFUND_NOT_ALLOWED").because("This is a reversal; undo it at its capture."));
    }
    if before.status == status {
        return Ok((Arc::clone(before), Change::default()));
    }
    let moved = match (before.status.is_live(), status.is_live()) {
        (true, false) => -before.amount.minor,
        (false, true) => before.amount.minor,
        (true, true) | (false, false) => 0,
    };
    if moved > capture.rest() {
        return Err(Problem::issue("REFUND_AMOUNT_EXCEEDED"));
    }
    let refund = Arc::new(Refund { status, decided: Some(now), ..(**before).clone() });
    let capture = Capture { refunded: capture.refunded + moved, updated: now, ..(**capture).clone() };
    let mut change =
        Change { captures: vec![Arc::new(capture)], refunds: vec![Arc::clone(&refund)], ..Change::default() };
    change.announce(events::refund(base, &refund, event_type(status), now));
    Ok((refund, change))
}

/// PayPal takes money back; `minor` at most, and no more than there is.
pub(super) fn reverse(
    base: &str,
    capture: &Capture,
    minor: i64,
    reason: ReversalReason,
    now: DateTime<Utc>,
) -> Result<(Arc<Refund>, Change), Problem> {
    let minor = minor.min(capture.rest());
    if capture.state != CaptureState::Completed || capture.reversal.is_some() || minor <= 0 {
        let why = format!("Nothing can be taken out of this capture any more; it is {}.", capture.status());
        return Err(Problem::issue("REFUND_NOT_ALLOWED").because(why));
    }
    let refund = Arc::new(money_back(capture, minor, RefundKind::Reversal, now));
    let reversal = Reversal { refund_id: refund.id.clone(), minor, reason };
    let mut capture = Capture { reversal: Some(reversal), updated: now, ..capture.clone() };
    capture.refunds.push(refund.id.clone());
    let mut change =
        Change { captures: vec![Arc::new(capture)], refunds: vec![Arc::clone(&refund)], ..Change::default() };
    change.announce(events::refund(base, &refund, "PAYMENT.CAPTURE.REVERSED", now));
    Ok((refund, change))
}

/// PayPal brings back what it took. No event of PayPal's says so; the capture is COMPLETED once more.
pub(super) fn undo_reversal(
    books: &Books,
    base: &str,
    capture: &Capture,
    now: DateTime<Utc>,
) -> Result<(Arc<Capture>, Change), Problem> {
    let refund = capture.reversal.as_ref().and_then(|reversal| books.refunds.get(&reversal.refund_id));
    let refund = refund.ok_or_else(|| {
        Problem::issue("CAPTURE_STATUS_NOT_VALID").because("PayPal has not taken anything out of this capture.")
    })?;
    if disputes::is_lost(books, &capture.id) {
        return Err(Problem::issue("CAPTURE_STATUS_NOT_VALID").because("The buyer has won it; that is final."));
    }
    let refund = Refund { status: RefundStatus::Cancelled, decided: Some(now), ..(**refund).clone() };
    let capture = Arc::new(Capture { reversal: None, updated: now, ..capture.clone() });
    let mut change =
        Change { captures: vec![Arc::clone(&capture)], refunds: vec![Arc::new(refund)], ..Change::default() };
    change.announce(events::capture(base, &capture, "PAYMENT.CAPTURE.COMPLETED", now));
    Ok((capture, change))
}

/// The refund as PayPal shows it. The fee of the sale is kept, so that gross and net are the same.
pub(super) fn view(base: &str, refund: &Refund) -> Value {
    let mut view = json!({
        "id": refund.id,
        "status": refund.status,
        "amount": refund.amount,
        "seller_payable_breakdown": {
            "gross_amount": refund.amount,
            "paypal_fee": refund.amount.of(0),
            "net_amount": refund.amount,
            "total_refunded_amount": refund.amount.of(refund.total_refunded),
        },
        "create_time": clock::stamp(refund.created),
        "update_time": clock::stamp(refund.decided.unwrap_or(refund.created)),
        "links": [
            {"href": format!("{base}/v2/payments/refunds/{}", refund.id), "rel": "self", "method": "GET"},
            {"href": format!("{base}/v2/payments/captures/{}", refund.capture_id), "rel": "up", "method": "GET"},
        ],
    });
    if refund.status == RefundStatus::Pending {
        view["status_details"] = json!({"reason": "ECHECK"});
    }
    put(&mut view, "custom_id", refund.custom_id.as_deref());
    put(&mut view, "invoice_id", refund.invoice_id.as_deref());
    put(&mut view, "note_to_payer", refund.note_to_payer.as_deref());
    view
}
