//! A stand-in for Shippo, under `/shippo` on the sandbox's listener: rates from a fixed tariff, labels that are bought once
//! for every call that succeeds, parcels that move when a test moves them.
//!
//! Read on in this order: [`office`] (the one way to change anything) over [`books`]; [`call`] and [`errors`]; [`objects`],
//! [`shipments`] with [`tariff`], [`transactions`] with [`labels`], [`refunds`] and [`tracks`]; [`profile`] for how they
//! are said; [`hooks`] and [`courier`] for who is told; [`faults`] and [`control`] for what goes wrong.

mod books;
mod call;
pub(super) mod control;
mod courier;
mod errors;
mod faults;
mod hooks;
mod labels;
mod objects;
mod office;
mod profile;
mod refunds;
mod shipments;
mod tariff;
mod tracks;
mod transactions;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware,
    routing::{MethodRouter, any, get, post},
};

use super::BODY_LIMIT;
use errors::Refusal;
pub(super) use office::Office;

/// The account that everything belongs to.
const OWNER: &str = "shop@souk.example";

/// The one account of this stand-in, and whom it tells.
#[derive(Clone)]
pub struct Settings {
    /// The key that every call carries.
    pub key: String,
    /// Where all events are delivered, besides the URLs that were registered over the API.
    pub webhook_url: Option<String>,
    /// What deliveries are signed with, if they are.
    pub webhook_secret: Option<String>,
    /// The pauses before each further attempt to deliver an event; Shippo makes two.
    pub retry: Vec<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        let retry = vec![Duration::from_secs(1), Duration::from_secs(5)];
        Self { key: "shippo_test_souk".to_owned(), webhook_url: None, webhook_secret: None, retry }
    }
}

/// Does what is due and delivers what is to be told, until the sandbox stops.
pub(super) async fn run(office: Arc<Office>) {
    tokio::join!(office::run(Arc::clone(&office)), courier::run(office));
}

/// Everything that is served under `/shippo` and `/_sandbox/shippo`.
pub(super) fn routes(office: &Arc<Office>) -> Router {
    let guarded = Table::default()
        .route("/addresses", get(objects::list_addresses).post(objects::create_address))
        .route("/addresses/{id}", get(objects::show_address))
        .route("/addresses/{id}/validate", get(objects::validate))
        .route("/parcels", post(objects::create_parcel))
        .route("/parcels/{id}", get(objects::show_parcel))
        .route("/customs/items", post(objects::create_item))
        .route("/customs/items/{id}", get(objects::show_item))
        .route("/customs/declarations", post(objects::create_declaration))
        .route("/customs/declarations/{id}", get(objects::show_declaration))
        .route("/shipments", get(shipments::list).post(shipments::create))
        .route("/shipments/{id}", get(shipments::show))
        .route("/shipments/{id}/rates", get(shipments::rates))
        .route("/shipments/{id}/rates/{currency}", get(shipments::rates_in))
        .route("/rates/{id}", get(shipments::show_rate))
        .route("/transactions", get(transactions::list).post(transactions::create))
        .route("/transactions/{id}", get(transactions::show))
        .route("/refunds", get(refunds::list).post(refunds::create))
        .route("/refunds/{id}", get(refunds::show))
        .route("/tracks", post(tracks::register))
        .route("/tracks/{carrier}/{number}", get(tracks::show))
        .route("/webhooks", get(hooks::list).post(hooks::create))
        .route("/webhooks/{id}", get(hooks::show).put(hooks::replace).delete(hooks::delete))
        .0
        .method_not_allowed_fallback(async || Refusal::bare(StatusCode::METHOD_NOT_ALLOWED))
        .route_layer(middleware::from_fn_with_state(Arc::clone(office), call::guard));

    let open = Router::new()
        .route("/shippo/labels/{name}", get(labels::show))
        .route("/shippo/{*rest}", any(async || Refusal::not_found()));

    let control = Router::new()
        .route("/settings", get(control::settings).post(control::set))
        .route("/faults", get(control::faults).post(control::script).delete(control::forgive))
        .route("/books", get(control::books))
        .route("/summary", get(control::summary))
        .route("/transactions", get(control::transactions))
        .route("/transactions/{id}", post(control::rule_transaction))
        .route("/refunds/{id}", post(control::rule_refund))
        .route("/tracks/{carrier}/{number}", post(control::scan))
        .route("/webhooks", get(control::webhooks))
        .route("/webhooks/hold", post(control::hold))
        .route("/webhooks/release", post(control::release))
        .route("/webhooks/settle", post(control::settle))
        .route("/webhooks/forge", post(control::forge));

    guarded
        .merge(open)
        .layer(middleware::from_fn_with_state(Arc::clone(office), faults::around))
        .nest("/_sandbox/shippo", control)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Arc::clone(office))
}

/// Routes under `/shippo` that are the same with a slash at their end, as Shippo's are.
#[derive(Default)]
struct Table(Router<Arc<Office>>);

impl Table {
    fn route(self, path: &str, methods: MethodRouter<Arc<Office>>) -> Self {
        let path = format!("/shippo{path}");
        Self(self.0.route(&path, methods.clone()).route(&format!("{path}/"), methods))
    }
}
