//! What is left, at once and as it changes.

use axum::{Json, response::Response};
use souk_actors::domain::SkuId;

use super::{
    State,
    extract::{Id, within},
    sse,
};
use crate::{
    problem::{Answer, Problem},
    shop::live::Left,
};

/// What is left of a SKU, as committed. Sold out is not always the end: `may_return` units are in orders that nobody has
/// paid yet.
#[utoipa::path(
    get, path = "/v1/skus/{sku_id}/stock", tag = "catalogue", params(("sku_id" = String, Path)),
    responses((status = 200, body = Left), (status = 404, body = Problem), (status = 503, body = Problem))
)]
pub(crate) async fn show(axum::extract::State(shop): State, Id(sku_id): Id<SkuId>) -> Answer<Json<Left>> {
    let counters = within(shop.limits.timeout, shop.engine.stock(sku_id)).await?;
    Ok(Json(Left::of(sku_id, counters)))
}

/// The same, as it changes: server-sent events `stock`, each with the newest and with its `version` as its id. Ten a second
/// at the most, fewer where very many listen; a comment every 15 seconds. Ends when the shop stops: connect again.
#[utoipa::path(
    get, path = "/v1/skus/{sku_id}/stock/stream", tag = "catalogue", params(("sku_id" = String, Path)),
    responses(
        (status = 200, body = Left, content_type = "text/event-stream"), (status = 404, body = Problem),
        (status = 503, body = Problem, description = "`busy`: too many listen already")
    )
)]
pub(crate) async fn stream(axum::extract::State(shop): State, Id(sku_id): Id<SkuId>) -> Answer<Response> {
    let place = shop.live.place()?;
    let board = within(shop.limits.timeout, shop.live.listen(&shop.engine, sku_id)).await?;
    Ok(sse::answer(sse::newest(board), place))
}
