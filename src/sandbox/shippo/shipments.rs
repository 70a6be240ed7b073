//! Shipments, and the rates that belong to them.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{
    OWNER,
    books::{Books, Change, Kind, Message, Rate, Shipment},
    call::{Fields, Page},
    errors::Refusal,
    objects,
    office::{self, Desk},
    profile::Shape,
    tariff::{self, Service},
};
use crate::sandbox::clock;

/// How long a rate can be bought at.
const RATE_LIFE: TimeDelta = TimeDelta::days(7);

/// `POST /shipments`
pub(super) async fn create(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    let queued = fields.flag("async").unwrap_or(true);
    let create = |books: &Books, now| {
        let mut change = Change::default();
        let mut shipment = draft(books, &mut change, &fields, now)?;
        if queued {
            shipment.queued = Some(desk.queue(now));
            let answer = view(&shipment, &[]);
            change.shipments.push(Arc::new(shipment));
            return Ok((answer, change));
        }
        let rated = rated(&shipment, now);
        let answer = view(&rated.shipment, &rated.rates);
        rated.put(&mut change);
        Ok((answer, change))
    };
    let answer = desk.transact(create).await?;
    Ok(desk.answer(StatusCode::CREATED, Shape::Shipment, answer))
}

/// A shipment as it was asked for, without rates. What stood in the request is kept with it.
pub(super) fn draft(
    books: &Books,
    change: &mut Change,
    fields: &Fields,
    now: DateTime<Utc>,
) -> Result<Shipment, Refusal> {
    fields.require(&["address_from", "address_to", "parcels"])?;
    let from = address(books, change, fields, "address_from", now)?;
    let to = address(books, change, fields, "address_to", now)?;
    let back = match fields.get("address_return") {
        Some(_) => Some(address(books, change, fields, "address_return", now)?),
        None => None,
    };
    let mut parcels = Vec::new();
    for parcel in fields.list("parcels") {
        parcels.push(part(books, change, &parcel, "parcels", Kind::Parcel, "Parcel", |fields| {
            objects::parcel(fields, now)
        })?);
    }
    let customs = match fields.get("customs_declaration") {
        Some(Value::Object(inline)) => {
            let view = objects::declaration(books, change, &Fields::of(inline), now);
            let view = view.map_err(|refusal| refusal.within("customs_declaration"))?;
            objects::keep(change, Kind::CustomsDeclaration, view.clone());
            Some(view)
        }
        Some(id) => Some(kept(books, id, "customs_declaration", Kind::CustomsDeclaration, "CustomsDeclaration")?),
        None => None,
    };
    Ok(Shipment {
        id: office::id(),
        created: now,
        updated: now,
        queued: None,
        from,
        to,
        back,
        parcels,
        customs,
        metadata: fields.metadata()?,
        shipment_date: shipment_date(fields, now)?,
        extra: fields.get("extra").cloned(),
        rates: Vec::new(),
        messages: Vec::new(),
    })
}

fn shipment_date(fields: &Fields, now: DateTime<Utc>) -> Result<String, Refusal> {
    let Some(date) = fields.text("shipment_date") else { return Ok(clock::stamp(now)) };
    let known = DateTime::parse_from_rfc3339(&date).is_ok() || date.parse::<NaiveDate>().is_ok();
    if known { Ok(date) } else { Err(Refusal::field("shipment_date", "Datetime has wrong format.")) }
}

fn address(
    books: &Books,
    change: &mut Change,
    fields: &Fields,
    name: &str,
    now: DateTime<Utc>,
) -> Result<Map<String, Value>, Refusal> {
    let given = fields.get(name).cloned().unwrap_or_default();
    let address = part(books, change, &given, name, Kind::Address, "Address", |fields| objects::address(fields, now))?;
    objects::check_complete(&address).map_err(|refusal| refusal.within(name))?;
    Ok(address)
}

/// An object by its id, or one that stands in the request and is kept now.
fn part(
    books: &Books,
    change: &mut Change,
    given: &Value,
    name: &str,
    kind: Kind,
    called: &str,
    make: impl FnOnce(&Fields) -> Result<Map<String, Value>, Refusal>,
) -> Result<Map<String, Value>, Refusal> {
    let Value::Object(inline) = given else { return kept(books, given, name, kind, called) };
    let view = make(&Fields::of(inline)).map_err(|refusal| refusal.within(name))?;
    objects::keep(change, kind, view.clone());
    Ok(view)
}

fn kept(books: &Books, id: &Value, name: &str, kind: Kind, called: &str) -> Result<Map<String, Value>, Refusal> {
    let found = id.as_str().and_then(|id| books.thing(kind, id));
    found.map(|thing| thing.view.clone()).ok_or_else(|| Refusal::dangling(name, called))
}

/// A shipment with its rates, not yet in the books.
pub(super) struct Rated {
    pub(super) shipment: Shipment,
    pub(super) rates: Vec<Rate>,
}

impl Rated {
    pub(super) fn put(self, change: &mut Change) {
        change.shipments.push(Arc::new(self.shipment));
        change.rates.extend(self.rates.into_iter().map(Arc::new));
    }
}

/// What every service asks for it. Nobody takes a parcel abroad without its papers.
pub(super) fn rated(shipment: &Shipment, now: DateTime<Utc>) -> Rated {
    let mut shipment = shipment.clone();
    shipment.queued = None;
    shipment.updated = now;
    let abroad = shipment.crosses_a_border();
    if abroad && shipment.customs.is_none() {
        let text = "A customs declaration is required for international shipments.".to_owned();
        shipment.messages = vec![Message { source: "Shippo".to_owned(), code: "customs_required".to_owned(), text }];
        return Rated { shipment, rates: Vec::new() };
    }
    let services: Vec<_> = Service::all(abroad).collect();
    let grams = weights(&shipment);
    let cheapest = services.iter().min_by_key(|service| service.price(&grams)).map(|service| service.token);
    let fastest =
        services.iter().min_by_key(|service| (service.days, service.price(&grams))).map(|service| service.token);
    let best = services.iter().min_by_key(|service| service.price(&grams) * service.days).map(|service| service.token);
    let mark = |service: &Service| {
        let marks = [("BESTVALUE", best), ("CHEAPEST", cheapest), ("FASTEST", fastest)];
        marks.into_iter().filter(|(_, token)| *token == Some(service.token)).map(|(mark, _)| mark.to_owned()).collect()
    };
    let rates: Vec<Rate> =
        services.iter().map(|service| rate(&shipment, service, &grams, mark(service), now)).collect();
    shipment.rates = rates.iter().map(|rate| rate.id.clone()).collect();
    Rated { shipment, rates }
}

fn weights(shipment: &Shipment) -> Vec<i64> {
    let text = |parcel: &Map<String, Value>, name: &str| parcel[name].as_str().unwrap_or_default().to_owned();
    shipment.parcels.iter().map(|parcel| tariff::grams(&text(parcel, "weight"), &text(parcel, "mass_unit"))).collect()
}

fn rate(shipment: &Shipment, service: &Service, grams: &[i64], attributes: Vec<String>, now: DateTime<Utc>) -> Rate {
    Rate {
        id: office::id(),
        shipment: shipment.id.clone(),
        created: now,
        service: service.token.to_owned(),
        usd_cents: service.price(grams),
        currency: tariff::currency_of(Shipment::country(&shipment.from)).to_owned(),
        currency_local: tariff::currency_of(Shipment::country(&shipment.to)).to_owned(),
        attributes,
    }
}

/// The rate of one service for a shipment that nobody asked for rates of.
pub(super) fn instant_rate(shipment: &Shipment, service: &Service, now: DateTime<Utc>) -> Rate {
    rate(shipment, service, &weights(shipment), Vec::new(), now)
}

impl Rate {
    pub(super) fn has_expired(&self, now: DateTime<Utc>) -> bool {
        now - self.created >= RATE_LIFE
    }

    pub(super) fn service(&self) -> &'static Service {
        Service::find(&self.service).expect("rates are made from the tariff")
    }
}

/// `GET /shipments/{id}`
pub(super) async fn show(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let read = |books: &Books| Some(view_of(books, books.shipments.get(&id)?));
    let answer = desk.inspect(read).await?.ok_or_else(Refusal::not_found)?;
    Ok(desk.answer(StatusCode::OK, Shape::Shipment, answer))
}

/// `GET /shipments`
pub(super) async fn list(State(desk): State<Desk>, Query(page): Query<Page>) -> Result<Response, Refusal> {
    let read = |books: &Books| {
        books.shipments.rows().iter().rev().map(|shipment| view_of(books, shipment)).collect::<Vec<_>>()
    };
    let rows = desk.inspect(read).await?;
    Ok(desk.answer_list(Shape::Shipment, page.of(&desk.house.base, "/shipments", &rows)))
}

/// `GET /shipments/{id}/rates`
pub(super) async fn rates(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Result<Response, Refusal> {
    list_rates(&desk, &id, None, &page).await
}

/// `GET /shipments/{id}/rates/{currency}`
pub(super) async fn rates_in(
    State(desk): State<Desk>,
    Path((id, currency)): Path<(String, String)>,
    Query(page): Query<Page>,
) -> Result<Response, Refusal> {
    if !tariff::is_currency(&currency) {
        return Err(Refusal::choice("currency_code", &currency));
    }
    list_rates(&desk, &id, Some(&currency), &page).await
}

async fn list_rates(desk: &Desk, id: &str, currency: Option<&str>, page: &Page) -> Result<Response, Refusal> {
    let read = |books: &Books| {
        let shipment = books.shipments.get(id)?;
        let rates = shipment.rates.iter().filter_map(|rate| books.rates.get(rate));
        Some(rates.map(|rate| rate_view(rate, currency)).collect::<Vec<_>>())
    };
    let rows = desk.inspect(read).await?.ok_or_else(Refusal::not_found)?;
    Ok(desk.answer_list(Shape::Rate, page.of(&desk.house.base, &format!("/shipments/{id}/rates"), &rows)))
}

/// `GET /rates/{id}`
pub(super) async fn show_rate(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let rate = desk.inspect(|books| books.rates.get(&id).cloned()).await?.ok_or_else(Refusal::not_found)?;
    Ok(desk.answer(StatusCode::OK, Shape::Rate, rate_view(&rate, None)))
}

fn view_of(books: &Books, shipment: &Shipment) -> Value {
    let rates: Vec<Rate> =
        shipment.rates.iter().filter_map(|id| books.rates.get(id)).map(|rate| (**rate).clone()).collect();
    view(shipment, &rates)
}

fn view(shipment: &Shipment, rates: &[Rate]) -> Value {
    let mut view = json!({
        "object_id": shipment.id,
        "object_owner": OWNER,
        "object_created": clock::stamp_ms(shipment.created),
        "object_updated": clock::stamp_ms(shipment.updated),
        "status": if shipment.queued.is_some() { "QUEUED" } else { "SUCCESS" },
        "address_from": shipment.from,
        "address_to": shipment.to,
        "address_return": shipment.back.as_ref().unwrap_or(&shipment.from),
        "parcels": shipment.parcels,
        "shipment_date": shipment.shipment_date,
        "extra": shipment.extra.clone().unwrap_or_else(|| json!({})),
        "carrier_accounts": [],
        "metadata": shipment.metadata,
        "messages": shipment.messages,
        "rates": rates.iter().map(|rate| rate_view(rate, None)).collect::<Vec<_>>(),
        "test": true,
    });
    if let Some(customs) = &shipment.customs {
        view["customs_declaration"] = json!(customs);
    }
    view
}

/// In the sender's currency, and in the recipient's or another one.
pub(super) fn rate_view(rate: &Rate, currency_local: Option<&str>) -> Value {
    let service = rate.service();
    let local = currency_local.unwrap_or(&rate.currency_local);
    json!({
        "object_id": rate.id,
        "object_owner": OWNER,
        "object_created": clock::stamp_ms(rate.created),
        "shipment": rate.shipment,
        "attributes": rate.attributes,
        "amount": tariff::amount(rate.usd_cents, &rate.currency),
        "currency": rate.currency,
        "amount_local": tariff::amount(rate.usd_cents, local),
        "currency_local": local,
        "provider": service.provider,
        "carrier_account": service.carrier_account,
        "servicelevel": {
            "name": service.name,
            "token": service.token,
            "extended_token": service.token,
            "terms": "",
        },
        "estimated_days": service.days,
        "duration_terms": service.terms,
        "messages": [],
        "zone": "4",
        "test": true,
    })
}
