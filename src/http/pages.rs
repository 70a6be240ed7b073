//! The few pages that a browser meets until the storefront is there: the way to the API, the way back from a provider, and
//! how an order stands.

use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;
use souk_actors::{
    domain::{OrderId, OrderStatus},
    store::read::OrderView,
};

use super::{
    State,
    extract::{Id, OwnOrder, Query, within},
};
use crate::problem::{Answer, Problem};

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
    let headers = [("referrer-policy", "no-referrer"), ("cache-control", "no-store")];
    Ok((headers, Html(page(&order))).into_response())
}

/// The way (back) to the provider. An address that `url` has read and written has no quote or bracket left in it.
fn pay_link(approve_url: &str) -> String {
    let url = url::Url::parse(approve_url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let safe = url.map(|url| url.to_string().replace('\'', "%27").replace('&', "&amp;"));
    safe.map(|href| format!(r#"<p><a class="pay" href="{href}">Pay now</a></p>"#)).unwrap_or_default()
}

/// Nothing in it comes from the buyer, so nothing needs escaping.
fn page(order: &OrderView) -> String {
    let waits = order.status == OrderStatus::AwaitingPayment;
    let refresh = if waits { r#"<meta http-equiv="refresh" content="2">"# } else { "" };
    let headline = match order.status {
        OrderStatus::AwaitingPayment => "Waiting for your payment",
        OrderStatus::Confirmed => "Thank you, your order is confirmed",
        OrderStatus::Completed => "Your order is complete",
        OrderStatus::Cancelling | OrderStatus::Cancelled => "Your order was cancelled",
        OrderStatus::Expired => "Your order was not paid in time",
    };
    let by = order.next.by.map(|by| format!(" (by {} UTC)", by.format("%Y-%m-%d %H:%M:%S"))).unwrap_or_default();
    let pay = order
        .payments
        .iter()
        .rev()
        .find_map(|payment| payment.approve_url.as_deref())
        .map(pay_link)
        .unwrap_or_default();
    let lines: String = order
        .lines
        .iter()
        .map(|line| {
            format!("<tr><td>{} × <code>{}</code></td><td>{}</td></tr>", line.quantity, line.sku_id, line.total)
        })
        .collect();
    format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{headline}</title>{refresh}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 40rem; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; width: 100% }} td {{ border-top: 1px solid #ddd; padding: .5rem 0 }}
td:last-child {{ text-align: right }} tfoot td {{ font-weight: 600 }} p.quiet {{ color: #666 }}
a.pay {{ background: #14664e; border-radius: 6px; color: #fff; padding: .6rem 1.4rem; text-decoration: none }}
</style></head><body>
<h1>{headline}</h1>
<p>Order <code>{}</code>. Payment: {}. Next: {}{by}.</p>
{pay}
<table><tbody>{lines}</tbody><tfoot><tr><td>Total</td><td>{}</td></tr></tfoot></table>
<p class="quiet">Placed {} UTC.</p>
</body></html>"#,
        order.order_id,
        order.payment_status.as_str().replace('_', " "),
        order.next.what,
        order.total,
        order.created_at.format("%Y-%m-%d %H:%M:%S"),
    )
}
