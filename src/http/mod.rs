//! The JSON API. This page is its route table; a file per noun beside it; every handler extracts, calls once, shapes.

mod admin;
mod checkouts;
mod commands;
mod extract;
mod imports;
mod notices;
mod ops;
mod orders;
mod pages;
mod products;
mod refunds;
mod returns;
mod room;
mod sales;
mod serve;
mod shipments;
mod shipping;
mod sse;
mod stock;
mod subscriptions;
mod webhooks;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::FutureExt;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

pub(crate) use serve::serve;

use crate::{problem::Problem, shop::Shop, telemetry};

/// How much longer a request may take than the limits of what it waits for come to.
const MARGIN: Duration = Duration::from_secs(2);

/// What handlers share.
pub(crate) type State = axum::extract::State<Arc<Shop>>;

/// Every route of the shop.
pub fn routes(shop: Arc<Shop>) -> Router {
    let (api, document) = OpenApiRouter::with_openapi(Document::openapi())
        // buyers
        .routes(routes!(products::list))
        .routes(routes!(products::by_slug))
        .routes(routes!(products::sku))
        .routes(routes!(stock::show))
        .routes(routes!(stock::stream))
        .routes(routes!(sales::list))
        .routes(routes!(sales::show))
        .routes(routes!(shipping::quotes))
        .routes(routes!(shipping::addresses))
        .routes(routes!(checkouts::place))
        .routes(routes!(room::join, room::show))
        .routes(routes!(room::stream))
        .routes(routes!(orders::show))
        .routes(routes!(orders::events))
        .routes(routes!(orders::pay))
        .routes(routes!(orders::cancel))
        .routes(routes!(shipments::list))
        .routes(routes!(returns::ask, returns::of_order))
        // providers
        .routes(routes!(webhooks::paypal))
        .routes(routes!(webhooks::shippo))
        // staff
        .routes(routes!(admin::create_product))
        .routes(routes!(admin::update_product))
        .routes(routes!(admin::adjust_stock))
        .routes(routes!(admin::ledger))
        .routes(routes!(imports::upload, imports::list))
        .routes(routes!(imports::show))
        .routes(routes!(imports::errors))
        .routes(routes!(sales::create, sales::list_all))
        .routes(routes!(sales::show_to_staff, sales::update))
        .routes(routes!(sales::cancel))
        .routes(routes!(admin::orders))
        .routes(routes!(commands::hold))
        .routes(routes!(commands::release))
        .routes(routes!(commands::note))
        .routes(routes!(refunds::refund))
        .routes(routes!(refunds::cancel))
        .routes(routes!(refunds::capture))
        .routes(routes!(shipments::pack))
        .routes(routes!(shipments::label, shipments::buy_label))
        .routes(routes!(shipments::void))
        .routes(routes!(shipments::write_off))
        .routes(routes!(shipments::ship))
        .routes(routes!(shipments::deliver))
        .routes(routes!(returns::list))
        .routes(routes!(returns::show))
        .routes(routes!(returns::approve))
        .routes(routes!(returns::decline))
        .routes(routes!(returns::sent))
        .routes(routes!(returns::receive))
        .routes(routes!(returns::inspect))
        .routes(routes!(returns::close))
        .routes(routes!(subscriptions::subscribe, subscriptions::list))
        .routes(routes!(subscriptions::show, subscriptions::update, subscriptions::unsubscribe))
        .routes(routes!(subscriptions::test))
        .routes(routes!(subscriptions::deliveries))
        .routes(routes!(subscriptions::replay))
        // ops
        .routes(routes!(ops::actors))
        .routes(routes!(ops::release))
        .routes(routes!(ops::journal))
        .routes(routes!(ops::audit))
        .routes(routes!(notices::dead_letters))
        .routes(routes!(notices::replay))
        .routes(routes!(notices::replay_all))
        .routes(routes!(ops::clock))
        .routes(routes!(ops::health))
        .routes(routes!(ops::ready))
        .routes(routes!(ops::metrics))
        .split_for_parts();

    api.route("/", get(pages::home))
        .route("/orders/{order_id}", get(pages::order))
        .route("/orders/{order_id}/return", get(pages::back_from_provider))
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
        .fallback(|| async { Problem::not_found("page") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&shop), every_request))
        .with_state(shop)
}

/// What every request is given: an answer although its handler waits for ever or panics, and its time taken, by route and
/// status, never by id. One layer for all of it: each is a box and a clone, which "sold out" would notice.
async fn every_request(axum::extract::State(shop): State, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    // handlers that wait for one thing say so themselves, and sooner; this is for the rest, and leaves room for a body that
    // takes its time and then a handler that does
    let limit = shop.limits.timeout * 2 + MARGIN;
    let answer = tokio::time::timeout(limit, AssertUnwindSafe(next.run(request)).catch_unwind()).await;
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("a handler panicked");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error").into_response()
        }
        Err(_) => Problem::outcome_unknown().into_response(),
    };
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    telemetry::answered(route, response.status().as_u16(), began.elapsed());
    response
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Souk",
        description = "A commerce engine. Money is `{\"amount\":\"12.50\",\"currency\":\"USD\"}`, ids are opaque strings, \
                       errors are RFC 9457 problem+json with a stable `code`. A 503 carries Retry-After: ask again with \
                       the same Idempotency-Key."
    ),
    modifiers(&Bearer),
    tags(
        (name = "catalogue", description = "What can be bought"),
        (name = "checkout", description = "Placing, paying and following an order"),
        (name = "providers", description = "What providers call"),
        (name = "staff", description = "Needs the staff token"),
        (name = "ops", description = "How the engine is doing; needs the staff token but for health and metrics")
    )
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("SOUK_STAFF_TOKEN")).build();
        document.components.get_or_insert_default().add_security_scheme("staff", SecurityScheme::Http(scheme));
    }
}
