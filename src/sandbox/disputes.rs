//! Disputes v1, as far as a merchant reads them, and how a dispute goes on.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    bank::Shared,
    books::{Books, Change},
    clock,
    draft::MoneyRequest,
    errors::Problem,
    events::{self, put},
    ids, orders,
    records::{Capture, CaptureState, Dispute, DisputeReason, DisputeStage, DisputeStatus, Outcome, ReversalReason},
    refunds,
};

/// How long the merchant has to answer.
const RESPONSE_TIME: TimeDelta = TimeDelta::days(10);
/// PayPal's page of disputes, unless it is asked for another, and the largest.
const PAGE: usize = 10;
const PAGE_LIMIT: usize = 50;

/// `GET /v1/customer/disputes/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let find = |books: &Books| {
        let dispute = books.disputes.get(&id)?;
        Some((Arc::clone(dispute), Arc::clone(books.captures.get(&dispute.capture_id)?)))
    };
    let (dispute, capture) = bank.inspect(find).await?.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(view(&bank.base, &dispute, &capture)))
}

#[derive(Deserialize)]
pub(super) struct Search {
    disputed_transaction_id: Option<String>,
    start_time: Option<DateTime<Utc>>,
    update_time_after: Option<DateTime<Utc>>,
    update_time_before: Option<DateTime<Utc>>,
    page_size: Option<usize>,
    /// How many of the newest to pass over; comes from the link `next`.
    next_page_token: Option<usize>,
}

impl Search {
    fn finds(&self, dispute: &Dispute) -> bool {
        self.disputed_transaction_id.as_ref().is_none_or(|id| *id == dispute.capture_id)
            && self.start_time.is_none_or(|start| dispute.created >= start)
            && self.update_time_after.is_none_or(|start| dispute.updated >= start)
            && self.update_time_before.is_none_or(|end| dispute.updated <= end)
    }
}

/// `GET /v1/customer/disputes?disputed_transaction_id=…`: newest first.
pub(super) async fn list(
    State(bank): State<Shared>,
    search: Result<Query<Search>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(search) = search.map_err(|error| Problem::issue("INVALID_PARAMETER_SYNTAX").value(error.body_text()))?;
    let size = search.page_size.unwrap_or(PAGE).clamp(1, PAGE_LIMIT);
    let skip = search.next_page_token.unwrap_or(0);
    let find = |books: &Books| -> Vec<Arc<Dispute>> {
        let newest_first = books.disputes.rows().iter().rev();
        newest_first.filter(|dispute| search.finds(dispute)).skip(skip).take(size + 1).cloned().collect()
    };
    let mut found = bank.inspect(find).await?;
    let url = format!("{}/v1/customer/disputes", bank.base);
    let mut links = vec![json!({"href": url, "rel": "self", "method": "GET"})];
    if found.len() > size {
        found.truncate(size);
        let mut next = format!("{url}?page_size={size}&next_page_token={}", skip + size);
        if let Some(id) = &search.disputed_transaction_id {
            next = format!("{next}&disputed_transaction_id={id}");
        }
        links.push(json!({"href": next, "rel": "next", "method": "GET"}));
    }
    let items: Vec<_> = found.iter().map(|dispute| head(&bank.base, dispute)).collect();
    Ok(Json(json!({"items": items, "links": links})))
}

/// What a dispute begins with; all of it may be left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Complaint {
    reason: Option<DisputeReason>,
    amount: Option<MoneyRequest>,
    stage: Option<DisputeStage>,
    status: Option<DisputeStatus>,
}

/// The buyer does not agree with a charge.
pub(super) fn open(
    books: &Books,
    base: &str,
    capture_id: &str,
    complaint: &Complaint,
    now: DateTime<Utc>,
) -> Result<(Arc<Dispute>, Change), Problem> {
    let capture = books.captures.get(capture_id).ok_or_else(Problem::unknown_resource)?;
    if capture.state != CaptureState::Completed {
        return Err(Problem::issue("CAPTURE_STATUS_NOT_VALID").because("Only a completed capture can be disputed."));
    }
    let whole = capture.amount.of(capture.rest());
    let amount = complaint.amount.as_ref().map_or(Ok(whole), |amount| amount.check("/amount"))?;
    if amount.currency != capture.amount.currency || amount.minor <= 0 {
        return Err(Problem::issue("INVALID_PARAMETER_VALUE").at("/amount").value(amount.text()));
    }
    let dispute = Arc::new(Dispute {
        id: ids::dispute(),
        order_id: capture.order_id.clone(),
        capture_id: capture.id.clone(),
        amount,
        reason: complaint.reason.unwrap_or_default(),
        status: complaint.status.unwrap_or_default(),
        stage: complaint.stage.unwrap_or_default(),
        outcome: None,
        created: now,
        updated: now,
    });
    let mut change = Change { disputes: vec![Arc::clone(&dispute)], ..Change::default() };
    change.announce(events::dispute(base, &dispute, capture, "CUSTOMER.DISPUTE.CREATED", now));
    Ok((dispute, change))
}

/// How a dispute goes on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Turn {
    status: Option<DisputeStatus>,
    stage: Option<DisputeStage>,
    resolve: Option<Verdict>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Buyer,
    Seller,
    Withdrawn,
}

/// The dispute takes a turn, or ends. Then the money goes to whom it belongs.
pub(super) fn go_on(
    books: &Books,
    base: &str,
    id: &str,
    turn: &Turn,
    now: DateTime<Utc>,
) -> Result<(Arc<Dispute>, Change), Problem> {
    let before = books.disputes.get(id).ok_or_else(Problem::unknown_resource)?;
    let capture = books.captures.get(&before.capture_id).ok_or_else(Problem::unknown_resource)?;
    if !before.is_open() {
        return Err(Problem::issue("DISPUTE_NOT_OPEN").because("The dispute is resolved."));
    }
    let mut dispute = (**before).clone();
    dispute.status = turn.status.unwrap_or(dispute.status);
    dispute.stage = turn.stage.unwrap_or(dispute.stage);
    dispute.updated = now;
    let mut change = Change::default();
    let event_type = match turn.resolve {
        None => "CUSTOMER.DISPUTE.UPDATED",
        Some(verdict) => {
            change = settle(books, base, &dispute, capture, verdict, now)?;
            dispute.status = DisputeStatus::Resolved;
            dispute.outcome = Some(verdict.outcome());
            "CUSTOMER.DISPUTE.RESOLVED"
        }
    };
    let dispute = Arc::new(dispute);
    change.disputes.push(Arc::clone(&dispute));
    change.announce(events::dispute(base, &dispute, capture, event_type, now));
    Ok((dispute, change))
}

impl Verdict {
    fn outcome(self) -> Outcome {
        match self {
            Self::Buyer => Outcome::ResolvedBuyerFavour,
            Self::Seller => Outcome::ResolvedSellerFavour,
            Self::Withdrawn => Outcome::CanceledByBuyer,
        }
    }
}

/// Whether a dispute about a capture was decided for the buyer.
pub(super) fn is_lost(books: &Books, capture_id: &str) -> bool {
    books.disputes_of(capture_id).any(|dispute| dispute.outcome == Some(Outcome::ResolvedBuyerFavour))
}

/// What the verdict does to the money. It may have moved before.
fn settle(
    books: &Books,
    base: &str,
    dispute: &Dispute,
    capture: &Capture,
    verdict: Verdict,
    now: DateTime<Utc>,
) -> Result<Change, Problem> {
    let taken = capture.reversal.is_some();
    match verdict {
        Verdict::Buyer if !taken && capture.rest() > 0 => {
            let reason = match dispute.stage {
                DisputeStage::Inquiry => ReversalReason::BuyerComplaint,
                DisputeStage::Chargeback | DisputeStage::PreArbitration | DisputeStage::Arbitration => {
                    ReversalReason::Chargeback
                }
            };
            Ok(refunds::reverse(base, capture, dispute.amount.minor, reason, now)?.1)
        }
        Verdict::Seller | Verdict::Withdrawn if taken && !is_lost(books, &capture.id) => {
            Ok(refunds::undo_reversal(books, base, capture, now)?.1)
        }
        Verdict::Buyer | Verdict::Seller | Verdict::Withdrawn => Ok(Change::default()),
    }
}

/// The dispute as PayPal's list shows it.
fn head(base: &str, dispute: &Dispute) -> Value {
    let url = format!("{base}/v1/customer/disputes/{}", dispute.id);
    let mut view = json!({
        "dispute_id": dispute.id,
        "create_time": clock::stamp_ms(dispute.created),
        "update_time": clock::stamp_ms(dispute.updated),
        "reason": dispute.reason,
        "status": dispute.status,
        "dispute_state": if dispute.is_open() { "REQUIRED_ACTION" } else { "RESOLVED" },
        "dispute_amount": dispute.amount,
        "dispute_life_cycle_stage": dispute.stage,
        "dispute_channel": "INTERNAL",
        "links": [{"href": url, "rel": "self", "method": "GET"}],
    });
    if dispute.is_open() {
        view["seller_response_due_date"] = json!(clock::stamp_ms(dispute.created + RESPONSE_TIME));
    }
    view
}

/// The dispute as PayPal shows it by itself.
pub(super) fn view(base: &str, dispute: &Dispute, capture: &Capture) -> Value {
    let merchant = orders::merchant();
    let mut transaction = json!({
        "seller_transaction_id": capture.id,
        "buyer_transaction_id": capture.id.chars().rev().collect::<String>(),
        "create_time": clock::stamp_ms(capture.created),
        "transaction_status": if capture.reversal.is_some() { "REVERSED" } else { capture.status() },
        "gross_amount": capture.amount,
        "buyer": {"name": "Salma Buyer"},
        "seller": {"email": merchant["email_address"], "merchant_id": merchant["merchant_id"], "name": "The shop"},
    });
    put(&mut transaction, "custom", capture.custom_id.as_deref());
    put(&mut transaction, "invoice_number", capture.invoice_id.as_deref());
    let mut view = head(base, dispute);
    view["disputed_transactions"] = json!([transaction]);
    if let Some(outcome) = dispute.outcome {
        view["dispute_outcome"] = json!({"outcome_code": outcome});
        if outcome == Outcome::ResolvedBuyerFavour {
            view["dispute_outcome"]["amount_refunded"] = json!(dispute.amount);
        }
    }
    if let Some(fields) = view.as_object_mut() {
        fields.remove("dispute_state"); // only the list has it
    }
    view
}
