//! The few pages that a browser meets until the storefront is there: the way to the API, the way back from a provider, and
//! how an order stands.

use std::collections::HashMap;

use askama::Template;
use axum::{
    http::StatusCode,
    response::{Html, IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use souk_actors::{
    domain::{OrderId, OrderStatus, SkuId},
    store::read::{OrderView, ShipmentView},
};

use super::{
    State,
    extract::{Id, OwnOrder, Query, within},
};
use crate::{
    problem::{Answer, Problem},
    shop::products,
};

/// The browsable API.
pub(crate) async fn home() -> Redirect {
    Redirect::to("/docs/")
}

/// What a return address carries; `token` and `PayerID` are the provider's own, and prove nothing.
#[derive(Deserialize)]
pub(crate) struct Back {
    access: String,
}

/// The buyer comes back from the provider: the provider is asked what happened, and the buyer sees the order.
pub(crate) async fn back_from_provider(
    axum::extract::State(shop): State,
    Id(order_id): Id<OrderId>,
    Query(back): Query<Back>,
) -> Answer<Response> {
    if !shop.keys.opens(order_id, &back.access) {
        return Err(Problem::not_found("order"));
    }
    shop.engine.look(order_id).await;
    Ok(Redirect::to(&format!("/orders/{order_id}?token={}", back.access)).into_response())
}

/// How an order stands; looks again by itself while something is under way.
pub(crate) async fn order(axum::extract::State(shop): State, own: OwnOrder) -> Answer<Response> {
    let order = within(shop.limits.timeout, shop.engine.order(own.order_id)).await?;
    let shipments = within(shop.limits.timeout, shop.engine.shipments(own.order_id)).await?;
    let sku_ids: Vec<SkuId> = order.lines.iter().map(|line| line.sku_id).collect();
    let names = products::names(&shop.pool, &sku_ids).await?;
    let page = Page::new(&order, &shipments, &names).render().map_err(|error| {
        tracing::error!(%error, "an order's page cannot be written");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error")
    })?;
    let headers = [("referrer-policy", "no-referrer"), ("cache-control", "no-store")];
    Ok((headers, Html(page)).into_response())
}

/// An order as its buyer sees it.
#[derive(Template)]
#[template(path = "order.html")]
struct Page<'a> {
    headline: &'static str,
    waits: bool,
    by: String,
    approve_url: Option<&'a str>,
    order: &'a OrderView,
    shipments: &'a [ShipmentView],
    names: &'a HashMap<SkuId, String>,
}

impl<'a> Page<'a> {
    fn new(order: &'a OrderView, shipments: &'a [ShipmentView], names: &'a HashMap<SkuId, String>) -> Self {
        let headline = match order.status {
            OrderStatus::AwaitingPayment => "Waiting for your payment",
            OrderStatus::Confirmed => "Thank you, your order is confirmed",
            OrderStatus::Completed => "Your order is complete",
            OrderStatus::Cancelling | OrderStatus::Cancelled => "Your order was cancelled",
            OrderStatus::Expired => "Your order was not paid in time",
        };
        let by = order.next.by.map(|by| format!(" (by {} UTC)", by.format("%Y-%m-%d %H:%M:%S"))).unwrap_or_default();
        let waits = order.status == OrderStatus::AwaitingPayment;
        let approve_url = order.payments.iter().rev().find_map(|payment| payment.approve_url.as_deref());
        Self { headline, waits, by, approve_url: approve_url.and_then(web), order, shipments, names }
    }

    fn link<'p>(&self, parcel: &'p ShipmentView) -> Option<&'p str> {
        parcel.tracking_url.as_deref().and_then(web)
    }

    /// A state's word, as people read it.
    fn spoken(&self, state: impl std::fmt::Display) -> String {
        state.to_string().replace('_', " ")
    }

    fn name(&self, sku_id: &SkuId) -> String {
        self.names.get(sku_id).cloned().unwrap_or_else(|| sku_id.to_string())
    }
}

/// An address that a browser may be sent to: no script behind a link.
fn web(address: &str) -> Option<&str> {
    let url = url::Url::parse(address).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(address)
}
