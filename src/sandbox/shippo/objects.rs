//! Addresses, parcels, customs items and declarations: checked once, kept, and shown again.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{
    OWNER,
    books::{Books, Change, Kind, Thing},
    call::{Fields, Page},
    errors::Refusal,
    office::{self, Desk},
    profile::Shape,
};
use crate::sandbox::clock;

const ADDRESS: [&str; 13] = [
    "name",
    "company",
    "street1",
    "street2",
    "street3",
    "street_no",
    "city",
    "state",
    "zip",
    "country",
    "phone",
    "email",
    "is_residential",
];
const DISTANCE_UNITS: [&str; 6] = ["cm", "in", "ft", "m", "mm", "yd"];
const MASS_UNITS: [&str; 4] = ["g", "kg", "lb", "oz"];
const CONTENTS: [&str; 7] =
    ["DOCUMENTS", "GIFT", "SAMPLE", "MERCHANDISE", "HUMANITARIAN_DONATION", "RETURN_MERCHANDISE", "OTHER"];
const NON_DELIVERY: [&str; 2] = ["ABANDON", "RETURN"];
const INCOTERMS: [&str; 5] = ["DDP", "DDU", "FCA", "DAP", "EDAP"];

/// `POST /addresses`
pub(super) async fn create_address(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    let address = |_: &Books, now| address(&fields, now);
    create(&desk, Kind::Address, address).await
}

/// `POST /parcels`
pub(super) async fn create_parcel(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    create(&desk, Kind::Parcel, |_, now| parcel(&fields, now)).await
}

/// `POST /customs/items`
pub(super) async fn create_item(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    create(&desk, Kind::CustomsItem, |_, now| customs_item(&fields, now)).await
}

/// `POST /customs/declarations`
pub(super) async fn create_declaration(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    let declare = |books: &Books, now| {
        let mut change = Change::default();
        let view = declaration(books, &mut change, &fields, now)?;
        let answer = Value::Object(view.clone());
        keep(&mut change, Kind::CustomsDeclaration, view);
        Ok((answer, change))
    };
    let view = desk.transact(declare).await?;
    Ok(desk.answer(StatusCode::CREATED, Shape::Customs, view))
}

async fn create(
    desk: &Desk,
    kind: Kind,
    make: impl FnOnce(&Books, DateTime<Utc>) -> Result<Map<String, Value>, Refusal>,
) -> Result<Response, Refusal> {
    let create = |books: &Books, now| {
        let view = make(books, now)?;
        let mut change = Change::default();
        keep(&mut change, kind, view.clone());
        Ok((Value::Object(view), change))
    };
    let view = desk.transact(create).await?;
    Ok(desk.answer(StatusCode::CREATED, shape(kind), view))
}

/// Adds an object to a change and returns its id.
pub(super) fn keep(change: &mut Change, kind: Kind, view: Map<String, Value>) -> String {
    let id = view["object_id"].as_str().unwrap_or_default().to_owned();
    change.things.push(Arc::new(Thing { id: id.clone(), kind, view }));
    id
}

fn shape(kind: Kind) -> Shape {
    match kind {
        Kind::Address => Shape::Address,
        Kind::Parcel => Shape::Parcel,
        Kind::CustomsItem | Kind::CustomsDeclaration => Shape::Customs,
    }
}

/// `GET /addresses/{id}`
pub(super) async fn show_address(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    show(&desk, Kind::Address, &id).await
}

/// `GET /parcels/{id}`
pub(super) async fn show_parcel(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    show(&desk, Kind::Parcel, &id).await
}

/// `GET /customs/items/{id}`
pub(super) async fn show_item(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    show(&desk, Kind::CustomsItem, &id).await
}

/// `GET /customs/declarations/{id}`
pub(super) async fn show_declaration(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    show(&desk, Kind::CustomsDeclaration, &id).await
}

async fn show(desk: &Desk, kind: Kind, id: &str) -> Result<Response, Refusal> {
    let found = desk.inspect(|books| books.thing(kind, id).cloned()).await?.ok_or_else(Refusal::not_found)?;
    Ok(desk.answer(StatusCode::OK, shape(kind), Value::Object(found.view.clone())))
}

/// `GET /addresses`
pub(super) async fn list_addresses(State(desk): State<Desk>, Query(page): Query<Page>) -> Result<Response, Refusal> {
    let views = desk.inspect(|books| {
        let addresses = books.things.rows().iter().rev().filter(|thing| thing.kind == Kind::Address);
        addresses.map(|thing| Value::Object(thing.view.clone())).collect::<Vec<_>>()
    });
    let list = page.of(&desk.house.base, "/addresses", &views.await?);
    Ok(desk.answer_list(Shape::Address, list))
}

/// `GET /addresses/{id}/validate`
pub(super) async fn validate(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let found = desk.inspect(|books| books.thing(Kind::Address, &id).cloned()).await?.ok_or_else(Refusal::not_found)?;
    let mut view = found.view.clone();
    view.insert("validation_results".to_owned(), validation(&Fields::of(&view)));
    Ok(desk.answer(StatusCode::OK, Shape::Address, Value::Object(view)))
}

fn begun(now: DateTime<Utc>) -> Map<String, Value> {
    let stamp = clock::stamp_ms(now);
    let head = [
        ("object_id", json!(office::id())),
        ("object_owner", json!(OWNER)),
        ("object_created", json!(stamp)),
        ("object_updated", json!(stamp)),
        ("test", json!(true)),
    ];
    head.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An address by its fields, with its head.
pub(super) fn address(fields: &Fields, now: DateTime<Utc>) -> Result<Map<String, Value>, Refusal> {
    fields.require(&["country"])?;
    let country = fields.text("country").unwrap_or_default();
    if country.len() != 2 || !country.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return Err(Refusal::field("country", "Must be a 2 letter ISO country code, e.g. 'US'."));
    }
    let mut view = begun(now);
    view.extend(fields.only(&ADDRESS));
    view.insert("metadata".to_owned(), json!(fields.metadata()?));
    view.insert("is_complete".to_owned(), json!(is_complete(fields)));
    let asked = fields.flag("validate").unwrap_or(false);
    let results = if asked { validation(fields) } else { json!({"is_valid": true, "messages": []}) };
    view.insert("validation_results".to_owned(), results);
    Ok(view)
}

/// Whether a parcel can be sent to it.
fn is_complete(fields: &Fields) -> bool {
    let needs_state = matches!(fields.text("country").as_deref(), Some("US" | "CA"));
    let named = fields.get("name").is_some() || fields.get("company").is_some();
    named && fields.require(&["street1", "city", "zip"]).is_ok() && (!needs_state || fields.get("state").is_some())
}

/// What the check of an address finds. `00000` is no postal code; a tower without a flat is found, and warned of.
fn validation(fields: &Fields) -> Value {
    let message = |code: &str, kind: &str, text: &str| json!([{"source": "Shippo Address Validator", "code": code, "type": kind, "text": text}]);
    if fields.text("zip").as_deref() == Some("00000") {
        let text = "The postal code does not exist.";
        return json!({"is_valid": false, "messages": message("postal_code_not_found", "address_error", text)});
    }
    if !is_complete(fields) {
        let text = "The address as submitted could not be found.";
        return json!({"is_valid": false, "messages": message("Address Not Found", "address_error", text)});
    }
    let street = fields.text("street1").unwrap_or_default().to_lowercase();
    if street.contains("tower") && fields.get("street2").is_none() {
        let text = "The address is found, but an apartment, suite or box number is missing.";
        return json!({"is_valid": true, "messages": message("Default Match", "address_warning", text)});
    }
    json!({"is_valid": true, "messages": []})
}

/// Refuses an address that no label can be bought for.
pub(super) fn check_complete(address: &Map<String, Value>) -> Result<(), Refusal> {
    if is_complete(&Fields::of(address)) {
        return Ok(());
    }
    let sentence = "For an Address to be PURCHASE'able, the following fields are required: name or company, street1, \
                    city, zip, country, and for some countries state.";
    Err(Refusal::field("__all__", sentence))
}

pub(super) fn parcel(fields: &Fields, now: DateTime<Utc>) -> Result<Map<String, Value>, Refusal> {
    let template = fields.text("template");
    let sizes: &[&str] = if template.is_some() { &[] } else { &["length", "width", "height", "distance_unit"] };
    fields.require(&[sizes, &["weight", "mass_unit"]].concat())?;
    let mass_unit = fields.choice("mass_unit", &MASS_UNITS)?;
    let distance_unit = fields.choice("distance_unit", &DISTANCE_UNITS)?.unwrap_or_else(|| "in".to_owned());
    let mut view = begun(now);
    for size in ["length", "width", "height"] {
        // a template's sizes are the carrier's; this one's boxes are all alike
        let size_text = if template.is_some() { "10".to_owned() } else { fields.decimal(size)? };
        view.insert(size.to_owned(), json!(size_text));
    }
    view.insert("distance_unit".to_owned(), json!(distance_unit));
    view.insert("weight".to_owned(), json!(fields.decimal("weight")?));
    view.insert("mass_unit".to_owned(), json!(mass_unit));
    view.insert("object_state".to_owned(), json!("VALID"));
    view.insert("metadata".to_owned(), json!(fields.metadata()?));
    view.extend(template.map(|template| ("template".to_owned(), json!(template))));
    Ok(view)
}

fn customs_item(fields: &Fields, now: DateTime<Utc>) -> Result<Map<String, Value>, Refusal> {
    let needed =
        ["description", "quantity", "net_weight", "mass_unit", "value_amount", "value_currency", "origin_country"];
    fields.require(&needed)?;
    let quantity = fields.text("quantity").and_then(|quantity| quantity.parse::<u32>().ok());
    let quantity = quantity.filter(|quantity| *quantity > 0);
    let quantity = quantity.ok_or_else(|| Refusal::field("quantity", "A valid integer is required."))?;
    fields.choice("mass_unit", &MASS_UNITS)?;
    let mut view = begun(now);
    view.extend(fields.only(&needed));
    view.extend(fields.only(&["sku_code", "hs_code", "tariff_number", "eccn_ear99"]));
    view.insert("quantity".to_owned(), json!(quantity));
    view.insert("net_weight".to_owned(), json!(fields.decimal("net_weight")?));
    view.insert("value_amount".to_owned(), json!(fields.decimal("value_amount")?));
    view.insert("object_state".to_owned(), json!("VALID"));
    view.insert("metadata".to_owned(), json!(fields.metadata()?));
    Ok(view)
}

/// A declaration; its items may be ids or stand in it.
pub(super) fn declaration(
    books: &Books,
    change: &mut Change,
    fields: &Fields,
    now: DateTime<Utc>,
) -> Result<Map<String, Value>, Refusal> {
    fields.require(&["certify", "certify_signer", "contents_type", "items", "non_delivery_option"])?;
    if fields.flag("certify") != Some(true) {
        return Err(Refusal::field("certify", "The contents have to be certified."));
    }
    fields.choice("contents_type", &CONTENTS)?;
    fields.choice("non_delivery_option", &NON_DELIVERY)?;
    fields.choice("incoterm", &INCOTERMS)?;
    let mut items = Vec::new();
    for item in fields.list("items") {
        items.push(match &item {
            Value::String(id) if books.thing(Kind::CustomsItem, id).is_some() => id.clone(),
            Value::Object(item) => {
                let view = customs_item(&Fields::of(item), now).map_err(|refusal| refusal.within("items"))?;
                keep(change, Kind::CustomsItem, view)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(Refusal::dangling("items", "CustomsItem"));
            }
        });
    }
    let mut view = begun(now);
    let kept = [
        "certify_signer",
        "contents_type",
        "contents_explanation",
        "non_delivery_option",
        "incoterm",
        "eel_pfc",
        "aes_itn",
        "invoice",
        "license",
        "certificate",
        "notes",
        "exporter_reference",
        "importer_reference",
    ];
    view.extend(fields.only(&kept));
    view.insert("certify".to_owned(), json!(true));
    view.insert("items".to_owned(), json!(items));
    view.insert("object_state".to_owned(), json!("VALID"));
    view.insert("metadata".to_owned(), json!(fields.metadata()?));
    Ok(view)
}
