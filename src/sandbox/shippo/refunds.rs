//! Labels given back. A carrier takes days to decide, so nothing happens to a refund until a test says so.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    OWNER,
    books::{Books, Change, Refund, RefundStatus, Transaction, TransactionStatus},
    call::{Fields, Page},
    errors::Refusal,
    office::{self, Desk, Office},
    profile::Shape,
    transactions,
};
use crate::sandbox::clock;

/// `POST /refunds`
pub(super) async fn create(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    let id = fields.text("transaction").ok_or_else(|| Refusal::missing("transaction"))?;
    let queued = fields.flag("async").unwrap_or(true);
    let ask = |books: &Books, now| {
        let transaction = books.transactions.get(&id).ok_or_else(|| Refusal::dangling("transaction", "Transaction"))?;
        if books.refund_of(&id).is_some_and(|refund| refund.status != RefundStatus::Error) {
            return Err(Refusal::field("transaction", "A refund was already requested for this transaction."));
        }
        let may = matches!(transaction.status, TransactionStatus::Success | TransactionStatus::RefundRejected);
        if !may {
            return Err(Refusal::field("transaction", "This transaction cannot be refunded."));
        }
        let status = match (is_used(books, transaction), queued) {
            (true, _) => RefundStatus::Error,
            (false, true) => RefundStatus::Queued,
            (false, false) => RefundStatus::Pending,
        };
        let refund = Refund { id: office::id(), created: now, updated: now, transaction: id.clone(), status };
        let mut change = Change::default();
        mirror(&desk, books, &mut change, transaction, status, now);
        let answer = view(&refund);
        change.refunds.push(Arc::new(refund));
        Ok((answer, change))
    };
    let answer = desk.transact(ask).await?;
    Ok(desk.answer(StatusCode::CREATED, Shape::Refund, answer))
}

/// Whether the carrier has seen the parcel: only unused labels are given back.
fn is_used(books: &Books, transaction: &Transaction) -> bool {
    let track = books.track(&transaction.carrier, &transaction.tracking_number);
    let newest = track.and_then(|track| track.newest());
    newest.is_some_and(|scan| scan.status != "PRE_TRANSIT" && scan.status != "UNKNOWN")
}

/// The transaction follows its refund, and somebody is told.
fn mirror(
    office: &Office,
    books: &Books,
    change: &mut Change,
    transaction: &Transaction,
    refund: RefundStatus,
    now: DateTime<Utc>,
) {
    let status = match refund {
        RefundStatus::Queued | RefundStatus::Pending => TransactionStatus::RefundPending,
        RefundStatus::Success => TransactionStatus::Refunded,
        RefundStatus::Error => TransactionStatus::RefundRejected,
    };
    if transaction.status != status {
        transactions::updated(office, books, change, Transaction { status, updated: now, ..transaction.clone() });
    }
}

/// A carrier has decided.
pub(super) fn decide(
    office: &Office,
    books: &Books,
    id: &str,
    status: RefundStatus,
    now: DateTime<Utc>,
) -> Result<(Value, Change), Refusal> {
    let refund = books.refunds.get(id).ok_or_else(Refusal::not_found)?;
    let refund = Refund { status, updated: now, ..(**refund).clone() };
    let mut change = Change::default();
    if let Some(transaction) = books.transactions.get(&refund.transaction) {
        mirror(office, books, &mut change, transaction, status, now);
    }
    let answer = view(&refund);
    change.refunds.push(Arc::new(refund));
    Ok((answer, change))
}

/// `GET /refunds/{id}`
pub(super) async fn show(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let refund = desk.inspect(|books| books.refunds.get(&id).cloned()).await?.ok_or_else(Refusal::not_found)?;
    Ok(desk.answer(StatusCode::OK, Shape::Refund, view(&refund)))
}

/// `GET /refunds`: newest first.
pub(super) async fn list(State(desk): State<Desk>, Query(page): Query<Page>) -> Result<Response, Refusal> {
    let read = |books: &Books| books.refunds.rows().iter().rev().map(|refund| view(refund)).collect::<Vec<_>>();
    let rows = desk.inspect(read).await?;
    Ok(desk.answer_list(Shape::Refund, page.of(&desk.house.base, "/refunds", &rows)))
}

pub(super) fn view(refund: &Refund) -> Value {
    json!({
        "object_id": refund.id,
        "object_owner": OWNER,
        "object_created": clock::stamp_ms(refund.created),
        "object_updated": clock::stamp_ms(refund.updated),
        "status": refund.status,
        "transaction": refund.transaction,
        "test": true,
    })
}
