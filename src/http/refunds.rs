//! Money that staff give back, and orders that they call off in part. Each takes an Idempotency-Key.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use souk_actors::domain::{Command, Invalid, Money, OrderId, RefundId, RefundWish, Units};

use super::{
    State,
    commands::{Done, carry_out, said, staff_key},
    extract::{Body, Id, Staff, within},
};
use crate::{
    problem::{Answer, Problem},
    shop::products::PriceTag,
};

/// Some units of one line of an order; lines are numbered from 0, as they are shown.
#[derive(Clone, Copy, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineUnits {
    line: i32,
    quantity: i64,
}

impl From<Units> for LineUnits {
    fn from(units: Units) -> Self {
        Self { line: units.line, quantity: units.quantity }
    }
}

impl From<LineUnits> for Units {
    fn from(units: LineUnits) -> Self {
        Self { line: units.line, quantity: units.quantity }
    }
}

/// Which money goes back: one of `amount`, `lines`, `shipping` and `goodwill`; none of them means all that is left.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefundRequest {
    #[schema(value_type = Option<PriceTag>)]
    amount: Option<Money>,
    /// Units, at the price at which they were bought.
    lines: Option<Vec<LineUnits>>,
    /// What sending cost.
    #[serde(default)]
    shipping: bool,
    /// An amount, as a kindness.
    #[schema(value_type = Option<PriceTag>)]
    goodwill: Option<Money>,
    #[schema(example = "arrived broken")]
    reason: String,
}

impl RefundRequest {
    fn wish(&self) -> Result<RefundWish, Invalid> {
        let lines = self.lines.as_ref().map(|lines| lines.iter().copied().map(Units::from).collect());
        match (self.amount, lines, self.shipping, self.goodwill) {
            (None, None, false, None) => Ok(RefundWish::Full),
            (Some(amount), None, false, None) => Ok(RefundWish::Amount(amount)),
            (None, Some(lines), false, None) => Ok(RefundWish::Lines(lines)),
            (None, None, true, None) => Ok(RefundWish::Shipping),
            (None, None, false, Some(amount)) => Ok(RefundWish::Goodwill(amount)),
            _ => Err(Invalid::new("amount", "stands beside another of amount, lines, shipping and goodwill")),
        }
    }
}

/// What was begun: the provider's word follows in the order.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Refunding {
    /// One for each capture that it is taken from.
    #[schema(value_type = Vec<String>)]
    refund_ids: Vec<RefundId>,
    amount: PriceTag,
    /// Whether it had been begun before, with the same key.
    replayed: bool,
}

/// Which units are called off; none named: all that have not left.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelRequest {
    lines: Option<Vec<LineUnits>>,
    #[schema(example = "the buyer called")]
    reason: String,
}

/// Give money back. Never more than was captured: what is on its way counts.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/refunds", tag = "staff", request_body = RefundRequest, security(("staff" = [])),
    params(("order_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 201, body = Refunding), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 409, body = Problem,
         description = "`refund_exceeds_captured`, `refund_exceeds_line`, `refund_exceeds_shipping`, with what is `left`")
    )
)]
pub(crate) async fn refund(
    _: Staff,
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    headers: HeaderMap,
    Body(request): Body<RefundRequest>,
) -> Answer<(StatusCode, Json<Refunding>)> {
    let (what, reason) = (request.wish()?, said("reason", &request.reason)?);
    let key = staff_key(&headers, order_id, "refund", &request)?;
    let commanded = carry_out(&shop, order_id, Command::Refund { what, reason }, key).await?;
    let order = within(shop.limits.timeout, shop.engine.order(order_id)).await?;
    let made = order.refunds.iter().filter(|refund| refund.command_id == Some(commanded.id));
    let minor = made.clone().map(|refund| refund.amount.minor).sum();
    let refunding = Refunding {
        refund_ids: made.map(|refund| refund.id).collect(),
        amount: Money::new(minor, order.total.currency).into(),
        replayed: commanded.replayed,
    };
    Ok((StatusCode::CREATED, Json(refunding)))
}

/// Take the money that is reserved for an order now. It is taken by itself when the first goods leave.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/capture", tag = "staff", security(("staff" = [])),
    params(("order_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, body = Done), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "`order_state`: nothing is reserved for it")
    )
)]
pub(crate) async fn capture(
    _: Staff,
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    headers: HeaderMap,
) -> Answer<Json<Done>> {
    let key = staff_key(&headers, order_id, "capture", &())?;
    let commanded = carry_out(&shop, order_id, Command::Capture, key).await;
    Done::of(order_id, commanded)
}

/// Call an order off, whole or in part: what has not left is given back to the stock, and its money goes back.
#[utoipa::path(
    post, path = "/v1/admin/orders/{order_id}/cancel", tag = "staff", request_body = CancelRequest, security(("staff" = [])),
    params(("order_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, body = Done), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 409, body = Problem, description = "`order_state`: so much cannot be called off any more")
    )
)]
pub(crate) async fn cancel(
    _: Staff,
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    headers: HeaderMap,
    Body(request): Body<CancelRequest>,
) -> Answer<Json<Done>> {
    let reason = said("reason", &request.reason)?;
    let lines = request.lines.as_ref().map(|lines| lines.iter().copied().map(Units::from).collect());
    let key = staff_key(&headers, order_id, "cancel", &request)?;
    let commanded = carry_out(&shop, order_id, Command::Cancel { lines, reason }, key).await;
    Done::of(order_id, commanded)
}
