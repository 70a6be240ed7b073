//! A stand-in for PayPal on loopback: real books on disk, real signatures, and faults on request.
//!
//! It speaks the wire formats of PayPal's Orders v2, Payments v2 and Webhooks v1 from its own types, so that whoever
//! talks to it is checked from the other end. What it has said survives a kill; what it does wrong is scripted through
//! `/_sandbox/` ([`control`]).
//!
//! Read on in this order: [`bank`] (the one way to change anything) over [`records`], [`books`] and [`journal`];
//! [`orders`], [`authorizations`], [`captures`], [`refunds`] and [`disputes`] with [`draft`], [`patch`], [`tracking`],
//! [`call`] and [`errors`]; [`keeper`] for what falls due; [`events`], [`webhooks`] and [`signing`] with
//! [`notifications`] and [`subscriptions`]; [`approve`] for the buyer; [`control`], [`rulings`] and [`extracts`] for
//! tests; [`faults`], [`forge`] and [`wire`] for what goes wrong.

mod approve;
mod authorizations;
mod bank;
mod books;
mod call;
mod captures;
mod clock;
mod control;
mod disputes;
mod draft;
mod errors;
mod events;
mod extracts;
mod faults;
mod forge;
mod ids;
mod journal;
mod keeper;
mod money;
mod notifications;
mod oauth;
mod orders;
mod patch;
mod records;
mod refunds;
mod rulings;
mod signing;
mod subscriptions;
mod tracking;
mod webhooks;
mod wire;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderValue, StatusCode},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use tokio::{net::TcpListener, task::JoinHandle};

use bank::{Bank, Shared};
use errors::Problem;
use wire::{Cut, Door};

/// No request of PayPal's API is larger.
const BODY_LIMIT: usize = 1 << 20;
/// How long calls that are under way may take to end when the sandbox stops.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Where the sandbox listens and keeps its books, and who its one customer is.
#[derive(Clone)]
pub struct Settings {
    /// A loopback address; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Books, certificates and keys. `root.pem` in it is the CA that the customer has to trust.
    pub dir: PathBuf,
    /// The customer's credentials.
    pub client_id: String,
    /// See `client_id`.
    pub client_secret: String,
    /// The customer's registered webhook; part of what is signed.
    pub webhook_id: String,
    /// Where events are delivered.
    pub webhook_url: String,
    /// The pauses before each further attempt to deliver an event.
    pub retry: Vec<Duration>,
}

impl Settings {
    /// Like PayPal 25 retries over three days; unlike PayPal's, which are not documented, the first come soon.
    #[must_use]
    pub fn default_retry() -> Vec<Duration> {
        let minutes = [2, 5, 10, 20, 30].map(|minutes| minutes * 60);
        let hours = [1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 6, 6, 6, 6, 12].map(|hours| hours * 3600);
        let seconds = [1, 5, 30].into_iter().chain(minutes).chain(hours);
        seconds.map(Duration::from_secs).collect()
    }
}

/// A sandbox at work. It ends when it is stopped, told to through `/_sandbox/stop`, or dropped.
pub struct Sandbox {
    /// Where it listens.
    pub addr: SocketAddr,
    bank: Shared,
    server: JoinHandle<io::Result<()>>,
    courier: JoinHandle<()>,
    keeper: JoinHandle<()>,
}

/// Opens the books in `settings.dir` and serves.
///
/// # Errors
/// The address is taken or not loopback, another sandbox has these books, or they cannot be read.
pub async fn start(settings: Settings) -> io::Result<Sandbox> {
    if !settings.listen.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the sandbox is open to all and listens on loopback only",
        ));
    }
    let listener = TcpListener::bind(settings.listen).await?;
    let addr = listener.local_addr()?;
    let open = move || {
        std::fs::create_dir_all(&settings.dir)?;
        Bank::open(settings, format!("http://{addr}"))
    };
    let bank = Arc::new(tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??);

    let service = routes(&bank).into_make_service_with_connect_info::<Cut>();
    let stopped = Arc::clone(&bank);
    let serve = axum::serve(Door(listener), service).with_graceful_shutdown(async move { stopped.stopped().await });
    let server = tokio::spawn(async move { serve.await });
    let courier = tokio::spawn(webhooks::run(Arc::clone(&bank)));
    let keeper = tokio::spawn(keeper::run(Arc::clone(&bank)));
    Ok(Sandbox { addr, bank, server, courier, keeper })
}

impl Sandbox {
    /// Ends the calls under way, writes the books and lets go of them.
    pub async fn stop(self) {
        self.bank.stop();
        self.wait().await;
    }

    /// Returns when the sandbox was told to stop and has done so.
    pub async fn wait(mut self) {
        self.bank.stopped().await;
        let _cut_off = tokio::time::timeout(LAST_CALLS, &mut self.server).await;
        self.server.abort();
        let _ended = (&mut self.courier).await;
        let _ended = (&mut self.keeper).await;
        self.bank.close().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.bank.stop();
    }
}

/// Orders, payments and disputes.
fn money_routes() -> Router<Shared> {
    Router::new()
        .route("/v2/checkout/orders", post(orders::create))
        .route("/v2/checkout/orders/{id}", get(orders::show).patch(patch::order))
        .route("/v2/checkout/orders/{id}/confirm-payment-source", post(orders::confirm))
        .route("/v2/checkout/orders/{id}/capture", post(orders::capture))
        .route("/v2/checkout/orders/{id}/authorize", post(orders::authorize))
        .route("/v2/checkout/orders/{id}/track", post(tracking::create))
        .route("/v2/payments/authorizations/{id}", get(authorizations::show))
        .route("/v2/payments/authorizations/{id}/capture", post(authorizations::capture))
        .route("/v2/payments/authorizations/{id}/reauthorize", post(authorizations::reauthorize))
        .route("/v2/payments/authorizations/{id}/void", post(authorizations::void))
        .route("/v2/payments/captures/{id}", get(captures::show))
        .route("/v2/payments/captures/{id}/refund", post(refunds::create))
        .route("/v2/payments/refunds/{id}", get(refunds::show))
        .route("/v1/customer/disputes", get(disputes::list))
        .route("/v1/customer/disputes/{id}", get(disputes::show))
}

/// Webhooks and their events; official clients ask for them with and without a slash at the end.
fn webhook_routes() -> Router<Shared> {
    let one = || get(subscriptions::show).patch(subscriptions::update).delete(subscriptions::delete);
    let routes = [
        ("webhooks", get(subscriptions::list).post(subscriptions::create)),
        ("webhooks/{id}", one()),
        ("webhooks/{id}/event-types", get(subscriptions::event_types)),
        ("webhooks-event-types", get(subscriptions::all_event_types)),
        ("webhooks-events", get(notifications::list)),
        ("webhooks-events/{id}", get(notifications::show)),
        ("webhooks-events/{id}/resend", post(notifications::resend)),
        ("simulate-event", post(notifications::simulate)),
        ("verify-webhook-signature", post(notifications::verify)),
    ];
    routes.into_iter().fold(Router::new(), |router, (path, handlers)| {
        let path = format!("/v1/notifications/{path}");
        router.route(&path, handlers.clone()).route(&format!("{path}/"), handlers)
    })
}

/// Everything that is served.
fn routes(bank: &Shared) -> Router {
    let guarded = money_routes()
        .merge(webhook_routes())
        .route_layer(middleware::from_fn_with_state(Arc::clone(bank), oauth::guard));

    let open = Router::new()
        .route("/v1/oauth2/token", post(oauth::token))
        .route("/v1/notifications/certs/{name}", get(notifications::certificate))
        .route("/checkoutnow", get(approve::show).post(approve::decide));

    let control = Router::new()
        .route("/health", get(control::health))
        .route("/stop", post(control::stop))
        .route("/settings", post(control::set))
        .route("/clock", post(control::advance))
        .route("/books", get(extracts::books))
        .route("/books/summary", get(extracts::summary))
        .route("/books/money", get(extracts::money))
        .route("/calls", get(extracts::calls))
        .route("/orders/{id}", get(extracts::order))
        .route("/orders/{id}/approve", post(control::approve))
        .route("/orders/{id}/decline", post(control::decline))
        .route("/orders/{id}/drift", post(rulings::drift))
        .route("/orders/{id}/capture", post(rulings::charge))
        .route("/orders/{id}/expire", post(rulings::expire))
        .route("/approve_all", post(control::approve_all))
        .route("/authorizations/{id}", post(rulings::rule_authorization))
        .route("/authorizations/{id}/captures", post(rulings::instruct))
        .route("/captures/{id}/status", post(rulings::rule))
        .route("/captures/{id}/refund", post(rulings::refund))
        .route("/captures/{id}/reverse", post(rulings::reverse))
        .route("/captures/{id}/unreverse", post(rulings::unreverse))
        .route("/captures/{id}/dispute", post(rulings::dispute))
        .route("/refunds/{id}", post(rulings::rule_refund))
        .route("/disputes/{id}", post(rulings::rule_dispute))
        .route("/certificates/rotate", post(control::rotate))
        .route("/faults", get(control::faults).post(control::script).delete(control::forgive))
        .route("/webhooks", get(control::courier))
        .route("/webhooks/hold", post(control::hold))
        .route("/webhooks/release", post(control::release))
        .route("/webhooks/replay", post(control::replay))
        .route("/webhooks/settle", post(control::settle));

    guarded
        .merge(open)
        .layer(middleware::from_fn_with_state(Arc::clone(bank), faults::around))
        .layer(middleware::from_fn(with_debug_id))
        .nest("/_sandbox", control)
        .fallback(async || Problem::bare(StatusCode::NOT_FOUND))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Arc::clone(bank))
}

/// `PayPal-Debug-Id` on every answer; an error has put its own there.
async fn with_debug_id(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(fresh) = HeaderValue::from_str(&ids::debug()) {
        response.headers_mut().entry(errors::DEBUG_ID).or_insert(fresh);
    }
    response
}
