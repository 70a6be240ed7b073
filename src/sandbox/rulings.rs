//! `/_sandbox/`, the part about money: what the bank, the buyer or somebody at PayPal's own pages decides later.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    authorizations,
    bank::Shared,
    books::{Books, Change},
    captures,
    control::{Body, How},
    disputes::{self, Complaint, Turn},
    draft::MoneyRequest,
    errors::Problem,
    money::Money,
    orders,
    records::{Amount, AuthorizationState, CaptureState, Order, RefundStatus, ReversalReason},
    refunds::{self, Giver, RefundRequest},
};

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
pub(super) struct HandCharge {
    amount: Option<MoneyRequest>,
    status: Option<HandStatus>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum HandStatus {
    Completed,
    Pending,
    Declined,
}

/// `POST /_sandbox/orders/{id}/capture`: somebody charges the buyer by hand, whatever was before.
pub(super) async fn charge(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(charge): Body<HandCharge>,
) -> Result<Json<Value>, Problem> {
    let amount = charge.amount.map(|amount| amount.check("/amount")).transpose()?;
    if amount.is_some_and(|amount| amount.minor <= 0) {
        return Err(Problem::issue("CANNOT_BE_ZERO_OR_NEGATIVE").at("/amount/value"));
    }
    let state = match charge.status.unwrap_or(HandStatus::Completed) {
        HandStatus::Completed => CaptureState::Completed,
        HandStatus::Pending => CaptureState::Pending { reason: "PENDING_REVIEW".to_owned() },
        HandStatus::Declined => CaptureState::Declined,
    };
    let charge = |books: &Books, now| orders::charge_by_hand(books, &bank.base, &id, amount, state, now);
    let capture = bank.transact(charge).await?;
    Ok(Json(captures::view(&bank.base, &capture)))
}

/// A body that says nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// `POST /_sandbox/orders/{id}/expire`
pub(super) async fn expire(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    _: Body<Nothing>,
) -> Result<Json<Value>, Problem> {
    let order = bank.transact(|books, now| orders::expire(books, &bank.base, &id, now)).await?;
    Ok(Json(json!({"id": order.id, "status": order.status()})))
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HandRefund {
    amount: Option<MoneyRequest>,
    status: Option<RefundStatus>,
    custom_id: Option<String>,
    invoice_id: Option<String>,
    note_to_payer: Option<String>,
}

/// `POST /_sandbox/captures/{id}/refund`: a refund that the merchant makes on PayPal's own pages.
pub(super) async fn refund(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(wish): Body<HandRefund>,
) -> Result<Json<Value>, Problem> {
    let giver = Giver::Hand { comes_to: wish.status.unwrap_or_default() };
    let HandRefund { amount, custom_id, invoice_id, note_to_payer, .. } = wish;
    let request = RefundRequest { amount, custom_id, invoice_id, note_to_payer };
    let ask = |books: &Books, now| refunds::give_back(books, &bank.base, &id, &request, &giver, now);
    let (refund, _fresh) = bank.transact(ask).await?;
    Ok(Json(refunds::view(&bank.base, &refund)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefundRuling {
    status: RefundStatus,
}

/// `POST /_sandbox/refunds/{id}`: the bank decides about a refund.
pub(super) async fn rule_refund(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(ruling): Body<RefundRuling>,
) -> Result<Json<Value>, Problem> {
    let refund = bank.transact(|books, now| refunds::decide(books, &bank.base, &id, ruling.status, now)).await?;
    Ok(Json(refunds::view(&bank.base, &refund)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grab {
    amount: Option<MoneyRequest>,
    reason: Option<ReversalReason>,
}

/// `POST /_sandbox/captures/{id}/reverse`: PayPal takes the money back.
pub(super) async fn reverse(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(grab): Body<Grab>,
) -> Result<Json<Value>, Problem> {
    let amount = grab.amount.map(|amount| amount.check("/amount")).transpose()?;
    let take = |books: &Books, now| {
        let capture = books.captures.get(&id).ok_or_else(Problem::unknown_resource)?;
        if amount.is_some_and(|amount| amount.currency != capture.amount.currency) {
            return Err(Problem::issue("CURRENCY_MISMATCH").at("/amount/currency_code"));
        }
        let minor = amount.map_or(capture.rest(), |amount| amount.minor);
        refunds::reverse(&bank.base, capture, minor, grab.reason.unwrap_or_default(), now)
    };
    let refund = bank.transact(take).await?;
    Ok(Json(refunds::view(&bank.base, &refund)))
}

/// `POST /_sandbox/captures/{id}/unreverse`: and brings it back.
pub(super) async fn unreverse(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    _: Body<Nothing>,
) -> Result<Json<Value>, Problem> {
    let bring = |books: &Books, now| {
        let capture = books.captures.get(&id).ok_or_else(Problem::unknown_resource)?;
        refunds::undo_reversal(books, &bank.base, capture, now)
    };
    let capture = bank.transact(bring).await?;
    Ok(Json(captures::view(&bank.base, &capture)))
}

/// `POST /_sandbox/captures/{id}/dispute`
pub(super) async fn dispute(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(complaint): Body<Complaint>,
) -> Result<Json<Value>, Problem> {
    let dispute = bank.transact(|books, now| disputes::open(books, &bank.base, &id, &complaint, now)).await?;
    Ok(Json(json!({"dispute_id": dispute.id})))
}

/// `POST /_sandbox/disputes/{id}`
pub(super) async fn rule_dispute(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(turn): Body<Turn>,
) -> Result<Json<Value>, Problem> {
    let dispute = bank.transact(|books, now| disputes::go_on(books, &bank.base, &id, &turn, now)).await?;
    let capture = bank.look(|books| books.captures.get(&dispute.capture_id).cloned());
    let capture = capture.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(disputes::view(&bank.base, &dispute, &capture)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorizationRuling {
    status: AuthorizationStatus,
    reason: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum AuthorizationStatus {
    Created,
    Pending,
    Denied,
    Voided,
}

/// `POST /_sandbox/authorizations/{id}`: the bank decides about an authorization.
pub(super) async fn rule_authorization(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(ruling): Body<AuthorizationRuling>,
) -> Result<Json<Value>, Problem> {
    let reason = ruling.reason.unwrap_or_else(|| "PENDING_REVIEW".to_owned());
    let state = match ruling.status {
        AuthorizationStatus::Created => AuthorizationState::Created,
        AuthorizationStatus::Pending => AuthorizationState::Pending { reason },
        AuthorizationStatus::Denied => AuthorizationState::Denied,
        AuthorizationStatus::Voided => AuthorizationState::Voided,
    };
    let decide = |books: &Books, now| authorizations::decide(books, &bank.base, &id, state, now);
    let authorization = bank.transact(decide).await?;
    Ok(Json(authorizations::view(&bank.base, &authorization)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CapturesHow {
    how: How,
}

/// `POST /_sandbox/authorizations/{id}/captures`: what its captures come to from now on.
pub(super) async fn instruct(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    Body(CapturesHow { how }): Body<CapturesHow>,
) -> Result<Json<Value>, Problem> {
    if how == How::Partial {
        return Err(Problem::issue("INVALID_PARAMETER_VALUE").because("The amount of a capture is in its call."));
    }
    let authorization = bank.transact(|books, _| authorizations::instruct(books, &id, how.instrument(0))).await?;
    Ok(Json(authorizations::view(&bank.base, &authorization)))
}
