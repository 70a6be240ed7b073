//! Following, paying and calling off an order.

use axum::Json;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_actors::{
    domain::{Address, OrderId, Refusal, Who},
    store::read::{EventView, OrderView},
};

use super::{
    State,
    checkouts::{ShippingAddress, ShippingAnswer},
    extract::{Body, OwnOrder, within},
    refunds::LineUnits,
};
use crate::{
    problem::{Answer, Problem},
    shop::products::PriceTag,
};

/// An order with the headlines of its three sides, and what happens next.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Order {
    order_id: String,
    /// `awaiting_payment`, `confirmed`, `completed`, `cancelling`, `cancelled`, `expired`.
    status: String,
    /// `unpaid`, `pending`, `authorised`, `partially_paid`, `paid`, `overpaid`, `disputed`, `reversed`, `partially_refunded`,
    /// `refunding`, `refunded`.
    payment_status: String,
    /// `unfulfilled`, `partially_fulfilled`, `fulfilled`, `delivered`.
    fulfilment_status: String,
    /// Why nothing of it is shipped for now; for staff alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_reason: Option<String>,
    next: Next,
    lines: Vec<OrderLine>,
    /// How it is sent, where that was chosen; a part of the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    shipping: Option<ShippingAnswer>,
    total: PriceTag,
    hold_expires_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    email: String,
    #[schema(value_type = ShippingAddress)]
    shipping_address: Address,
    payments: Vec<Payment>,
    refunds: Vec<Refund>,
}

/// What happens next, and by when.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Next {
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<DateTime<Utc>>,
}

/// One line of an order.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OrderLine {
    sku_id: String,
    quantity: i64,
    unit_price: PriceTag,
    total: PriceTag,
    /// `held`, `committed`, `released`, `expired`, `shipped`, `restocked`, `quarantined`, `scrapped`.
    reservation: String,
}

/// One attempt to pay.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Payment {
    payment_id: String,
    provider: String,
    /// `created`, `approved`, `capturing`, `pending`, `authorised`, `voided`, `captured`, `disputed`, `reversed`, `declined`,
    /// `failed`.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    approve_url: Option<String>,
}

/// Money on its way back.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Refund {
    refund_id: String,
    amount: PriceTag,
    /// `full`, `amount`, `lines`, `shipping`, `goodwill`, `cancellation`, `correction` (the order has no claim to it),
    /// `mirrored` (made at the provider).
    kind: String,
    /// The units that it pays for, where it is of lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<LineUnits>,
    /// For staff alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// `requested`, `pending`, `completed`, `failed`, `cancelled`, `set_aside` (its money went another way: owed again if that
    /// comes back).
    status: String,
}

impl From<OrderView> for Order {
    fn from(order: OrderView) -> Self {
        let line = |line: souk_actors::store::read::LineView| OrderLine {
            sku_id: line.sku_id.to_string(),
            quantity: line.quantity,
            unit_price: line.unit_price.into(),
            total: line.total.into(),
            reservation: line.reservation.to_string(),
        };
        let payment = |payment: souk_actors::store::read::PaymentView| Payment {
            payment_id: payment.payment_id.to_string(),
            provider: payment.provider,
            status: payment.status.to_string(),
            approve_url: payment.approve_url,
        };
        let refund = |refund: souk_actors::domain::Refund| Refund {
            refund_id: refund.id.to_string(),
            amount: refund.amount.into(),
            kind: refund.kind.to_string(),
            lines: refund.lines.into_iter().map(LineUnits::from).collect(),
            reason: refund.reason,
            status: refund.state.to_string(),
        };
        Self {
            order_id: order.order_id.to_string(),
            status: order.status.to_string(),
            payment_status: order.payment_status.to_string(),
            fulfilment_status: order.fulfilment_status.to_string(),
            hold_reason: order.hold_reason,
            next: Next { what: order.next.what.to_owned(), by: order.next.by },
            lines: order.lines.into_iter().map(line).collect(),
            shipping: order.shipping.map(ShippingAnswer::from),
            total: order.total.into(),
            hold_expires_at: order.hold_expires_at,
            created_at: order.created_at,
            email: order.email,
            shipping_address: order.shipping_address,
            payments: order.payments.into_iter().map(payment).collect(),
            refunds: order.refunds.into_iter().map(refund).collect(),
        }
    }
}

/// One thing that happened to an order.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Event {
    seq: i32,
    /// One word, e.g. `placed`, `payment_captured`, `confirmed`, `expired`.
    kind: String,
    #[schema(value_type = Object)]
    data: serde_json::Value,
    /// `buyer`, `staff`, `provider`, `engine`.
    who: String,
    at: DateTime<Utc>,
}

impl From<EventView> for Event {
    fn from(event: EventView) -> Self {
        Self { seq: event.seq, kind: event.kind, data: event.data, who: event.who, at: event.at }
    }
}

/// An order's timeline, oldest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Events {
    events: Vec<Event>,
}

/// Which provider to pay with.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PayRequest {
    #[schema(example = "paypal")]
    provider: String,
}

/// Where the buyer goes next.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct PayAnswer {
    approve_url: String,
}

/// What a cancel came to.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct CancelAnswer {
    #[schema(value_type = String)]
    order_id: OrderId,
    status: String,
}

/// An order.
#[utoipa::path(
    get, path = "/v1/orders/{order_id}", tag = "checkout",
    params(("order_id" = String, Path), ("token" = Option<String>, Query, description = "The order_token; not needed by staff")),
    responses((status = 200, body = Order), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn show(axum::extract::State(shop): State, own: OwnOrder) -> Answer<Json<Order>> {
    let order = within(shop.limits.timeout, shop.engine.order(own.order_id)).await?;
    Ok(Json(Order::from(if own.is_staff { order } else { order.for_buyer() })))
}

/// What happened to an order, oldest first. Buyers see what is theirs to know: no cost, no complaint of a carrier or a
/// provider, nothing that staff has written for itself.
#[utoipa::path(
    get, path = "/v1/orders/{order_id}/events", tag = "checkout",
    params(("order_id" = String, Path), ("token" = Option<String>, Query)),
    responses((status = 200, body = Events), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn events(axum::extract::State(shop): State, own: OwnOrder) -> Answer<Json<Events>> {
    let events = within(shop.limits.timeout, shop.engine.events(own.order_id, own.is_staff)).await?;
    Ok(Json(Events { events: events.into_iter().map(Event::from).collect() }))
}

/// Open a payment, or find the open one. The buyer approves it at `approve_url`; the provider's word then confirms the order.
#[utoipa::path(
    post, path = "/v1/orders/{order_id}/payments", tag = "checkout", request_body = PayRequest,
    params(("order_id" = String, Path), ("token" = Option<String>, Query)),
    responses(
        (status = 201, body = PayAnswer), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "`order_state`: there is nothing to pay, or too late"),
        (status = 503, body = Problem, description = "The provider has not answered yet: ask again")
    )
)]
pub(crate) async fn pay(
    axum::extract::State(shop): State,
    own: OwnOrder,
    Body(request): Body<PayRequest>,
) -> Answer<(axum::http::StatusCode, Json<PayAnswer>)> {
    let paid = tokio::time::timeout(shop.limits.timeout, shop.engine.pay(own.order_id, &request.provider)).await;
    let approve_url = match paid {
        Ok(Err(Refusal::Unknown)) | Err(_) => {
            return Err(Problem::outcome_unknown().detail("Ask again: the open payment is found."));
        }
        Ok(answer) => answer?,
    };
    Ok((axum::http::StatusCode::CREATED, Json(PayAnswer { approve_url })))
}

/// Call an order off before any of it is on its way: its lines are given back, and its money goes back. A second time finds it
/// cancelled, or `cancelling` while the money is on its way.
#[utoipa::path(
    post, path = "/v1/orders/{order_id}/cancel", tag = "checkout",
    params(("order_id" = String, Path), ("token" = Option<String>, Query)),
    responses(
        (status = 200, body = CancelAnswer), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "`order_state`: it is on its way, or over")
    )
)]
pub(crate) async fn cancel(axum::extract::State(shop): State, own: OwnOrder) -> Answer<Json<CancelAnswer>> {
    let who = if own.is_staff { Who::Staff } else { Who::Buyer };
    let status = within(shop.limits.timeout, shop.engine.cancel(own.order_id, who)).await?;
    Ok(Json(CancelAnswer { order_id: own.order_id, status: status.to_string() }))
}
