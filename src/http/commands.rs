//! What staff ask of a placed order. Each takes an Idempotency-Key: a retry with it finds what was done.

use axum::{Json, http::HeaderMap};
use serde::{Deserialize, Serialize};
use souk_actors::{
    CommandKey,
    domain::{Command, Commanded, Invalid, OrderId, Who, clean},
};

use super::{
    State,
    extract::{Body, Id, Staff, fingerprint, idempotency_key, within},
};
use crate::{
    problem::{Answer, Problem},
    shop::Shop,
};

/// Why an order is held back.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldRequest {
    #[schema(example = "address looks wrong")]
    reason: String,
}

/// A note for the timeline.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoteRequest {
    text: String,
}

/// A command was carried out, now or before.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Done {
    #[schema(value_type = String)]
    order_id: OrderId,
    /// Whether it had been carried out before, with the same key.
    replayed: bool,
}

/// Hold an order back: nothing of it is shipped until it is released.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/hold", tag = "staff", request_body = HoldRequest, security(("staff" = [])),
    params(("order_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, body = Done), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)
    )
)]
pub(crate) async fn hold(
    _: Staff,
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    headers: HeaderMap,
    Body(request): Body<HoldRequest>,
) -> Answer<Json<Done>> {
    let reason = said("reason", &request.reason)?;
    let key = staff_key(&headers, order_id, "hold", &request)?;
    Done::of(order_id, carry_out(&shop, order_id, Command::Hold { reason }, key).await)
}

/// Let an order that is held back go on.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/release", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, body = Done), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)
    )
)]
pub(crate) async fn release(
    _: Staff,
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    headers: HeaderMap,
) -> Answer<Json<Done>> {
    let key = staff_key(&headers, order_id, "release", &())?;
    Done::of(order_id, carry_out(&shop, order_id, Command::Release, key).await)
}

/// Write a note into an order's timeline, for staff alone.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/notes", tag = "staff", request_body = NoteRequest, security(("staff" = [])),
    params(("order_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, body = Done), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 422, body = Problem)
    )
)]
pub(crate) async fn note(
    _: Staff,
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    headers: HeaderMap,
    Body(request): Body<NoteRequest>,
) -> Answer<Json<Done>> {
    let text = said("text", &request.text)?;
    let key = staff_key(&headers, order_id, "note", &request)?;
    Done::of(order_id, carry_out(&shop, order_id, Command::Note { text }, key).await)
}

/// Text that a person has to give.
pub(super) fn said(field: &'static str, text: &str) -> Result<String, Invalid> {
    let text = clean(field, text, 500)?;
    if text.is_empty() { Err(Invalid::new(field, "is missing")) } else { Ok(text) }
}

/// The key of a staff command; one that is given none is never a repetition.
pub(super) fn staff_key(
    headers: &HeaderMap,
    order_id: OrderId,
    verb: &str,
    request: &impl Serialize,
) -> Result<CommandKey, Problem> {
    let key = idempotency_key(headers)?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let fingerprint = fingerprint(&format!("{verb} {order_id}"), request)?;
    Ok(CommandKey { principal: "staff".to_owned(), key, fingerprint })
}

/// Has staff's command carried out.
pub(super) async fn carry_out(
    shop: &Shop,
    order_id: OrderId,
    command: Command,
    key: CommandKey,
) -> Result<Commanded, Problem> {
    within(shop.limits.timeout, shop.engine.command(order_id, command, Who::Staff, key)).await
}

impl Done {
    pub(super) fn of(order_id: OrderId, commanded: Result<Commanded, Problem>) -> Answer<Json<Self>> {
        Ok(Json(Self { order_id, replayed: commanded?.replayed }))
    }
}
