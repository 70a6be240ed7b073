//! `PATCH /v2/checkout/orders/{id}`: JSON Patch on the fields that PayPal lets be changed. A changed unit must keep the
//! same rules as a new one.

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    bank::Shared,
    books::{Books, Change},
    call::Call,
    draft::{self, UnitRequest},
    errors::Problem,
    records::{Order, Stage, Unit},
};

/// What can be changed of a purchase unit. The whole unit can be added or replaced, too.
const PATCHABLE: [&str; 12] = [
    "/amount",
    "/items",
    "/custom_id",
    "/invoice_id",
    "/description",
    "/soft_descriptor",
    "/shipping/name",
    "/shipping/address",
    "/shipping/type",
    "/shipping/options",
    "/payee",
    "/payee/email_address",
];

#[derive(Deserialize)]
struct Operation {
    op: Op,
    path: Option<String>,
    value: Option<Value>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Op {
    Add,
    Remove,
    Replace,
    Move,
    Copy,
    Test,
}

/// `PATCH /v2/checkout/orders/{id}`
pub(super) async fn order(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<StatusCode, Problem> {
    let operations: Vec<Operation> = call.json()?;
    bank.transact(|books, now| Ok(((), amended(books, &id, operations, now)?))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The order after all operations, or none of them.
fn amended(books: &Books, id: &str, operations: Vec<Operation>, now: DateTime<Utc>) -> Result<Change, Problem> {
    let before = books.orders.get(id).ok_or_else(Problem::unknown_resource)?;
    if matches!(before.stage, Stage::Completed { .. } | Stage::Voided) {
        return Err(Problem::issue("ORDER_ALREADY_COMPLETED"));
    }
    let mut order = Order { updated: now, ..(**before).clone() };
    for operation in operations {
        apply(&mut order, operation)?;
    }
    draft::check_units(order.intent, &order.units)?;
    let is_approved = matches!(order.stage, Stage::Approved(_));
    let (was, is) = (before.total(), order.total());
    if is_approved && (is.currency != was.currency || is.minor > was.minor) {
        return Err(Problem::issue("AMOUNT_CHANGE_NOT_ALLOWED"));
    }
    Ok(Change::order(order))
}

fn apply(order: &mut Order, operation: Operation) -> Result<(), Problem> {
    let path = operation.path.ok_or_else(|| Problem::issue("PATCH_PATH_REQUIRED"))?;
    let (op, value) = (operation.op, operation.value);
    if matches!(op, Op::Move | Op::Copy) {
        return Err(Problem::issue("UNSUPPORTED_PATCH_PARAMETER_VALUE").at("/op"));
    }
    if op != Op::Remove && value.is_none() {
        return Err(Problem::issue("PATCH_VALUE_REQUIRED").at(path));
    }
    if path == "/intent" {
        return set_intent(order, op, value.as_ref().and_then(Value::as_str));
    }
    let (reference_id, field) = place_in_unit(&path)?;
    let index = order.units.iter().position(|unit| unit.reference_id == reference_id);
    let Some(index) = index else { return add_unit(order, op, field, value) };
    if !field.is_empty() && !PATCHABLE.contains(&field) {
        return Err(Problem::issue("NOT_PATCHABLE").at(path));
    }
    let mut unit = serde_json::to_value(&order.units[index]).expect("a unit is plain data");
    change(&mut unit, op, field, value)?;
    order.units[index] = checked(unit, index, order.units.len() > 1)?;
    Ok(())
}

fn set_intent(order: &mut Order, op: Op, intent: Option<&str>) -> Result<(), Problem> {
    if op != Op::Replace {
        return Err(Problem::issue("INVALID_PATCH_OPERATION").at("/intent"));
    }
    order.intent = draft::read_intent(intent)?;
    Ok(())
}

/// A unit that is not there yet can only be added, and whole.
fn add_unit(order: &mut Order, op: Op, field: &str, value: Option<Value>) -> Result<(), Problem> {
    if op != Op::Add || !field.is_empty() {
        return Err(Problem::issue("REFERENCE_ID_NOT_FOUND"));
    }
    order.units.push(checked(value.unwrap_or_default(), order.units.len(), true)?);
    Ok(())
}

/// `/purchase_units/@reference_id=='default'/amount`: the reference and the pointer behind it.
fn place_in_unit(path: &str) -> Result<(&str, &str), Problem> {
    let place = path.strip_prefix("/purchase_units/@reference_id==").and_then(|rest| {
        let (reference_id, field) = rest.strip_prefix('\'')?.split_once('\'')?;
        (field.is_empty() || field.starts_with('/')).then_some((reference_id, field))
    });
    place.ok_or_else(|| Problem::issue("INVALID_JSON_POINTER_FORMAT").at(path))
}

/// One operation of JSON Patch on a document whose parents may have to be made.
fn change(document: &mut Value, op: Op, pointer: &str, value: Option<Value>) -> Result<(), Problem> {
    let present = document.pointer(pointer).is_some_and(|value| !value.is_null());
    let value = value.unwrap_or_default();
    let fits = match op {
        Op::Add => !present,
        Op::Remove | Op::Replace => present,
        Op::Test => document.pointer(pointer) == Some(&value),
        Op::Move | Op::Copy => false,
    };
    if !fits {
        return Err(Problem::issue("INVALID_PATCH_OPERATION").at(pointer));
    }
    if op == Op::Test {
        return Ok(());
    }
    let Some((parents, field)) = pointer.rsplit_once('/') else {
        *document = value;
        return Ok(());
    };
    let mut parent = document;
    for name in parents.split('/').skip(1) {
        parent = object(parent).entry(name).or_insert_with(|| json!({}));
    }
    if op == Op::Remove {
        object(parent).remove(field);
    } else {
        object(parent).insert(field.to_owned(), value);
    }
    Ok(())
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made one just now")
}

fn checked(unit: Value, index: usize, several: bool) -> Result<Unit, Problem> {
    let unit: UnitRequest = serde_json::from_value(unit)
        .map_err(|error| Problem::issue("INVALID_PARAMETER_SYNTAX").at("/purchase_units").value(error.to_string()))?;
    unit.check(index, several)
}
