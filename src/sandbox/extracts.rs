//! `/_sandbox/books`: what the bank has written down, for whoever wants to know where the money really is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    bank::{CallRecord, Shared},
    books::{Books, Funds, Sheet, Shelf},
    errors::Problem,
    faults::Operation,
    orders,
    records::{Authorization, Capture, Dispute, Named, Order, Refund},
};

/// How many rows of each list [`books`] shows, unless it is asked for more.
const ROWS: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    custom_id: Option<String>,
}

/// `GET /_sandbox/books/summary`: the same at a hundred thousand orders as at one; or `?custom_id=…`, of the orders for
/// this alone.
pub(super) async fn summary(State(bank): State<Shared>, Query(about): Query<About>) -> Result<Json<Value>, Problem> {
    match about.custom_id {
        Some(custom_id) => Ok(Json(bank.inspect(|books| money_of(books, &custom_id)).await?)),
        None => Ok(Json(whole(&bank).await?)),
    }
}

/// `GET /_sandbox/books/money`: the summary of each `custom_id`.
pub(super) async fn money(State(bank): State<Shared>) -> Result<Json<BTreeMap<String, Value>>, Problem> {
    let read = |books: &Books| {
        let units = books.orders.rows().iter().flat_map(|order| &order.units);
        let names: BTreeSet<&String> = units.filter_map(|unit| unit.custom_id.as_ref()).collect();
        names.into_iter().map(|custom_id| (custom_id.clone(), money_of(books, custom_id))).collect()
    };
    Ok(Json(bank.inspect(read).await?))
}

fn money_of(books: &Books, custom_id: &str) -> Value {
    let ours = books.orders.rows().iter().filter(|order| order.is_for(custom_id));
    let sheets: Vec<Sheet> = ours.filter_map(|order| books.sheet(&order.id)).collect();
    let funds = Funds::of(&sheets);
    let mut summary = json!(funds);
    summary["kept"] = json!(funds.kept());
    summary["custom_id"] = json!(custom_id);
    summary["orders"] = sheets.iter().map(|sheet| sheet.order.id.clone()).collect();
    summary
}

async fn whole(bank: &Shared) -> Result<Value, Problem> {
    let (totals, counts) = bank.inspect(|books| (books.totals.clone(), counts(books))).await?;
    let mut summary = json!(totals);
    for (name, count) in counts {
        summary[name] = json!(count);
    }
    summary["calls"] = json!(bank.calls.tallies());
    Ok(summary)
}

fn counts(books: &Books) -> [(&'static str, usize); 7] {
    [
        ("orders", books.orders.rows().len()),
        ("authorizations", books.authorizations.rows().len()),
        ("captures", books.captures.rows().len()),
        ("refunds", books.refunds.rows().len()),
        ("disputes", books.disputes.rows().len()),
        ("events", books.events.rows().len()),
        ("deliveries", books.deliveries.rows().len()),
    ]
}

#[derive(Deserialize)]
pub(super) struct Window {
    offset: Option<usize>,
    limit: Option<usize>,
}

impl Window {
    fn of<T: Named>(&self, shelf: &Shelf<T>) -> Vec<Arc<T>> {
        let rows = shelf.rows().iter().skip(self.offset.unwrap_or(0));
        rows.take(self.limit.unwrap_or(ROWS)).cloned().collect()
    }
}

/// `GET /_sandbox/books?offset=…&limit=…`: a window into each list, in the order of creation, and how long each list is.
pub(super) async fn books(State(bank): State<Shared>, Query(window): Query<Window>) -> Result<Json<Value>, Problem> {
    let read = |books: &Books| {
        json!({
            "orders": rows(&window.of(&books.orders), order_row),
            "authorizations": rows(&window.of(&books.authorizations), authorization_row),
            "captures": rows(&window.of(&books.captures), capture_row),
            "refunds": rows(&window.of(&books.refunds), refund_row),
            "disputes": rows(&window.of(&books.disputes), dispute_row),
            "deliveries": window.of(&books.deliveries),
        })
    };
    let mut extract = bank.inspect(read).await?;
    extract["totals"] = whole(&bank).await?;
    Ok(Json(extract))
}

fn rows<T>(records: &[Arc<T>], row: fn(&T) -> Value) -> Vec<Value> {
    records.iter().map(|record| row(record)).collect()
}

fn order_row(order: &Order) -> Value {
    json!({
        "id": order.id,
        "status": order.status(),
        "amount": order.total(),
        "custom_id": order.units[0].custom_id,
        "invoice_id": order.units[0].invoice_id,
        "request_id": order.request_id,
        "authorizations": order.authorizations(),
        "captures": order.captures(),
        "created": order.created,
    })
}

fn authorization_row(authorization: &Authorization) -> Value {
    json!({
        "id": authorization.id,
        "order_id": authorization.order_id,
        "parent": authorization.parent,
        "status": authorization.status(),
        "amount": authorization.amount,
        "captured": authorization.amount.of(authorization.captured),
        "custom_id": authorization.custom_id,
        "captures": authorization.captures,
        "expires": authorization.expires,
        "created": authorization.created,
    })
}

fn capture_row(capture: &Capture) -> Value {
    json!({
        "id": capture.id,
        "order_id": capture.order_id,
        "status": capture.status(),
        "amount": capture.amount,
        "authorization_id": capture.authorization_id,
        "final_capture": capture.final_capture,
        "refunded": capture.amount.of(capture.refunded),
        "reversed": capture.amount.of(capture.reversed()),
        "custom_id": capture.custom_id,
        "invoice_id": capture.invoice_id,
        "refunds": capture.refunds,
        "created": capture.created,
    })
}

fn refund_row(refund: &Refund) -> Value {
    json!({
        "id": refund.id,
        "capture_id": refund.capture_id,
        "order_id": refund.order_id,
        "kind": refund.kind,
        "status": refund.status,
        "amount": refund.amount,
        "request_id": refund.request_id,
        "custom_id": refund.custom_id,
        "created": refund.created,
    })
}

fn dispute_row(dispute: &Dispute) -> Value {
    json!({
        "id": dispute.id,
        "order_id": dispute.order_id,
        "capture_id": dispute.capture_id,
        "amount": dispute.amount,
        "reason": dispute.reason,
        "status": dispute.status,
        "stage": dispute.stage,
        "outcome": dispute.outcome,
        "created": dispute.created,
    })
}

/// `GET /_sandbox/orders/{id}`: one order with all that belongs to it.
pub(super) async fn order(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let read = |books: &Books| {
        let sheet = books.sheet(&id)?;
        let ours = books.deliveries.rows().iter().filter(|delivery| delivery.order_id == id);
        Some((sheet, ours.cloned().collect::<Vec<_>>()))
    };
    let (sheet, deliveries) = bank.inspect(read).await?.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(json!({
        "order": orders::view(&bank.base, &sheet),
        "stage": sheet.order.stage,
        "request_id": sheet.order.request_id,
        "authorizations": rows(&sheet.authorizations, authorization_row),
        "captures": rows(&sheet.captures, capture_row),
        "refunds": rows(&sheet.refunds, refund_row),
        "disputes": rows(&sheet.disputes, dispute_row),
        "deliveries": deliveries,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    on: Option<Operation>,
}

/// `GET /_sandbox/calls?on=…`: the last calls that wanted something done, word for word, oldest first.
pub(super) async fn calls(State(bank): State<Shared>, Query(which): Query<Which>) -> Json<Value> {
    let calls = bank.calls.last().into_iter().filter(|call| which.on.is_none_or(|only| only == call.on));
    let calls: Vec<_> = calls.map(|call| call_row(&call)).collect();
    Json(json!({"calls": calls}))
}

/// A body that is not JSON is shown as text.
fn call_row(call: &CallRecord) -> Value {
    let body = serde_json::from_slice(&call.body);
    let body = body.unwrap_or_else(|_| json!(String::from_utf8_lossy(&call.body)));
    json!({"on": call.on, "path": call.path, "request_id": call.request_id, "body": body})
}
