//! Parcels: what staff pack, label and hand over, and what buyers see of it.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_actors::{
    domain::{Command, Customs, Invalid, OrderId, Packing, Parcel, Service, ShipmentId, Units, clean},
    store::read::{PackedView, ShipmentView, TrackingView},
};

use super::{
    State,
    commands::{Done, carry_out, staff_key},
    extract::{Body, Id, Ids, OwnOrder, Staff, within},
    refunds::LineUnits,
};
use crate::{
    problem::{Answer, Problem},
    shop::products::PriceTag,
};

/// Size and weight of a box, in whole millimetres and grams.
#[derive(Clone, Copy, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParcelRequest {
    #[schema(example = 300)]
    length_mm: i64,
    #[schema(example = 200)]
    width_mm: i64,
    #[schema(example = 100)]
    height_mm: i64,
    /// The box included.
    #[schema(example = 900)]
    grams: i64,
}

/// With whom, and how.
#[derive(Clone, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceRequest {
    /// Who is asked for the label; `manual`: nobody.
    #[schema(example = "manual")]
    provider: String,
    #[serde(default)]
    carrier: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    name: String,
}

/// What goes into a shipment.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShipmentRequest {
    /// None named: all that is in no shipment yet.
    lines: Option<Vec<LineUnits>>,
    parcel: ParcelRequest,
    /// None named: as the buyer chose.
    service: Option<ServiceRequest>,
    /// For parcels that leave the country.
    #[schema(value_type = Option<Object>)]
    customs: Option<Customs>,
    /// Where staff has a number from the carrier.
    tracking_number: Option<String>,
    carrier: Option<String>,
}

impl ShipmentRequest {
    fn packing(&self) -> Result<Packing, Invalid> {
        let ParcelRequest { length_mm, width_mm, height_mm, grams } = self.parcel;
        let optional = |field: &str, text: &Option<String>| {
            let text = text.as_deref().map(|text| clean(field, text, 100)).transpose()?;
            Ok::<_, Invalid>(text.filter(|text| !text.is_empty()))
        };
        let service = |service: &ServiceRequest| {
            Ok::<_, Invalid>(Service {
                provider: clean("service.provider", &service.provider, 40)?,
                carrier: clean("service.carrier", &service.carrier, 60)?,
                token: clean("service.token", &service.token, 60)?,
                name: clean("service.name", &service.name, 100)?,
            })
        };
        Ok(Packing {
            lines: self.lines.as_ref().map(|lines| lines.iter().copied().map(Units::from).collect()),
            parcel: Parcel { length_mm, width_mm, height_mm, grams }.checked()?,
            service: self.service.as_ref().map(service).transpose()?,
            customs: self.customs.as_ref().map(checked).transpose()?,
            tracking_number: optional("tracking_number", &self.tracking_number)?,
            carrier: optional("carrier", &self.carrier)?,
        })
    }
}

/// What customs are told, with nothing that a row or a form cannot hold.
fn checked(customs: &Customs) -> Result<Customs, Invalid> {
    let mut kept = customs.clone();
    kept.signer = clean("customs.signer", &customs.signer, 100)?;
    for item in &mut kept.items {
        item.description = clean("customs.items.description", &item.description, 100)?;
        item.origin = clean("customs.items.origin", &item.origin, 2)?;
        item.hs_code = item.hs_code.as_deref().map(|code| clean("customs.items.hs_code", code, 20)).transpose()?;
        if item.quantity < 1 || item.grams < 1 {
            return Err(Invalid::new("customs.items", "has a quantity or a weight below one"));
        }
    }
    if kept.items.is_empty() { Err(Invalid::new("customs.items", "is empty")) } else { Ok(kept) }
}

/// A shipment. Buyers see no cost and no carrier's complaint.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Shipment {
    shipment_id: String,
    order_id: String,
    /// `draft`, `purchasing`, `labelled`, `label_failed`, `voiding`, `voided`, `void_rejected`, `in_transit`, `exception`,
    /// `returned_to_sender`, `delivered`.
    status: String,
    lines: Vec<PackedLine>,
    /// What the buyer was told of the way of sending.
    service: String,
    /// What a draft waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    carrier: Option<String>,
    tracking_number: Option<String>,
    tracking_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label_cost: Option<PriceTag>,
    tracking: Vec<Track>,
    created_at: DateTime<Utc>,
    left_at: Option<DateTime<Utc>>,
}

/// Some units of a line in a shipment.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct PackedLine {
    line: i32,
    sku_id: String,
    quantity: i64,
}

/// One thing that the carrier said.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Track {
    /// `unknown`, `pre_transit`, `transit`, `failure`, `returned`, `delivered`.
    status: String,
    substatus: Option<String>,
    details: String,
    at: DateTime<Utc>,
}

impl Shipment {
    fn of(view: ShipmentView, for_staff: bool) -> Self {
        let packed = |packed: PackedView| PackedLine {
            line: packed.line,
            sku_id: packed.sku_id.to_string(),
            quantity: packed.quantity,
        };
        let track = |fact: TrackingView| Track {
            status: fact.status.to_string(),
            substatus: fact.substatus,
            details: fact.details,
            at: fact.at,
        };
        Self {
            shipment_id: view.shipment_id.to_string(),
            order_id: view.order_id.to_string(),
            status: view.status.to_string(),
            lines: view.lines.into_iter().map(packed).collect(),
            service: view.service.name,
            waits: view.waits.filter(|_| for_staff),
            error: view.error.filter(|_| for_staff),
            carrier: view.carrier,
            tracking_number: view.tracking_number,
            tracking_url: view.tracking_url,
            label_cost: view.label_cost.filter(|_| for_staff).map(PriceTag::from),
            tracking: view.tracking.into_iter().map(track).collect(),
            created_at: view.created_at,
            left_at: view.left_at,
        }
    }
}

/// An order's shipments, oldest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Shipments {
    shipments: Vec<Shipment>,
}

/// An order's shipments, and where they are.
#[utoipa::path(
    get, path = "/v1/orders/{order_id}/shipments", tag = "checkout",
    params(("order_id" = String, Path), ("token" = Option<String>, Query)),
    responses((status = 200, body = Shipments), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn list(axum::extract::State(shop): State, own: OwnOrder) -> Answer<Json<Shipments>> {
    let shipments = within(shop.limits.timeout, shop.engine.shipments(own.order_id)).await?;
    Ok(Json(Shipments { shipments: shipments.into_iter().map(|view| Shipment::of(view, own.is_staff)).collect() }))
}

/// Pack a shipment of a paid order. Its label is bought at once, unless something is in the way: then it is a draft that
/// says what it `waits` for.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/shipments", tag = "staff", request_body = ShipmentRequest,
    security(("staff" = [])), params(("order_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 201, body = Shipment), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 409, body = Problem, description = "`order_state`: not paid, held back, or so much is not there to pack")
    )
)]
pub(crate) async fn pack(
    _: Staff,
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    headers: HeaderMap,
    Body(request): Body<ShipmentRequest>,
) -> Answer<(StatusCode, Json<Shipment>)> {
    let packing = request.packing()?;
    let key = staff_key(&headers, order_id, "pack", &request)?;
    let packed = carry_out(&shop, order_id, Command::Pack(Box::new(packing)), key).await?;
    let view = within(shop.limits.timeout, shop.engine.shipment(order_id, ShipmentId(packed.id))).await?;
    Ok((StatusCode::CREATED, Json(Shipment::of(view, true))))
}

/// The printable label, once it is fetched.
#[utoipa::path(
    get, path = "/v1/admin/orders/{order_id}/shipments/{shipment_id}/label", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("shipment_id" = String, Path)),
    responses((status = 200, description = "The file as the carrier made it"), (status = 404, body = Problem))
)]
pub(crate) async fn label(
    _: Staff,
    axum::extract::State(shop): State,
    Ids(order_id, shipment_id): Ids<OrderId, ShipmentId>,
) -> Answer<Response> {
    let file = within(shop.limits.timeout, shop.engine.label(order_id, shipment_id)).await?;
    let kind = HeaderValue::from_str(&file.content_type);
    let kind = kind.unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (header::CONTENT_TYPE, kind),
        // a name and an address are on it
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, file.bytes).into_response())
}

/// Try again to buy a label that the carrier did not give.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/shipments/{shipment_id}/label", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("shipment_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Done), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn buy_label(
    _: Staff,
    axum::extract::State(shop): State,
    Ids(order_id, shipment_id): Ids<OrderId, ShipmentId>,
    headers: HeaderMap,
) -> Answer<Json<Done>> {
    let key = staff_key(&headers, order_id, "label", &shipment_id)?;
    Done::of(order_id, carry_out(&shop, order_id, Command::BuyLabel { shipment_id }, key).await)
}

/// Call a shipment off that has not left. Its lines are free again once the carrier has agreed.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/shipments/{shipment_id}/void", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("shipment_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Done), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn void(
    _: Staff,
    axum::extract::State(shop): State,
    Ids(order_id, shipment_id): Ids<OrderId, ShipmentId>,
    headers: HeaderMap,
) -> Answer<Json<Done>> {
    let key = staff_key(&headers, order_id, "void", &shipment_id)?;
    Done::of(order_id, carry_out(&shop, order_id, Command::VoidLabel { shipment_id }, key).await)
}

/// The carrier has refused to take a label back (`void_rejected`), and the parcel is here all the same: its lines are free
/// again, and what the label cost is lost.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/shipments/{shipment_id}/write-off", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("shipment_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Done), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn write_off(
    _: Staff,
    axum::extract::State(shop): State,
    Ids(order_id, shipment_id): Ids<OrderId, ShipmentId>,
    headers: HeaderMap,
) -> Answer<Json<Done>> {
    let key = staff_key(&headers, order_id, "write-off", &shipment_id)?;
    Done::of(order_id, carry_out(&shop, order_id, Command::WriteOff { shipment_id }, key).await)
}

/// The parcel was handed over: its goods have left the stock.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/shipments/{shipment_id}/ship", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("shipment_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Done), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn ship(
    _: Staff,
    axum::extract::State(shop): State,
    Ids(order_id, shipment_id): Ids<OrderId, ShipmentId>,
    headers: HeaderMap,
) -> Answer<Json<Done>> {
    let key = staff_key(&headers, order_id, "ship", &shipment_id)?;
    Done::of(order_id, carry_out(&shop, order_id, Command::Ship { shipment_id }, key).await)
}

/// The buyer has the parcel, as staff knows: a carrier that is not asked does not say so.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/shipments/{shipment_id}/deliver", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("shipment_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Done), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn deliver(
    _: Staff,
    axum::extract::State(shop): State,
    Ids(order_id, shipment_id): Ids<OrderId, ShipmentId>,
    headers: HeaderMap,
) -> Answer<Json<Done>> {
    let key = staff_key(&headers, order_id, "deliver", &shipment_id)?;
    Done::of(order_id, carry_out(&shop, order_id, Command::Deliver { shipment_id }, key).await)
}
