//! A stand-in for PayPal, Shippo and a mail relay on loopback: real books on disk, real signatures, and faults on request.
//!
//! It speaks the wire formats of PayPal's Orders v2, Payments v2 and Webhooks v1 from its own types, so that whoever
//! talks to it is checked from the other end. What it has said survives a kill; what it does wrong is scripted through
//! `/_sandbox/` ([`control`]). [`shippo`] and [`mail`] are houses of their own: they share the listener, the clock and the
//! CA with the bank, and keep their own books.
//!
//! Read on in this order: [`bank`] (the one way to change anything) over [`books`] and [`journal`]; [`orders`],
//! [`captures`] and [`refunds`] with [`draft`], [`call`] and [`errors`]; [`events`], [`webhooks`] and [`signing`] with
//! [`notifications`]; [`approve`] for the buyer; [`faults`], [`forge`] and [`wire`] for what goes wrong.

mod approve;
mod bank;
mod books;
mod call;
mod captures;
mod clock;
mod control;
mod draft;
mod errors;
mod events;
mod faults;
mod forge;
mod ids;
mod journal;
mod mail;
mod money;
mod notifications;
mod oauth;
mod orders;
mod refunds;
mod shippo;
mod signing;
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
use mail::Relay;
pub use mail::Settings as MailSettings;
use shippo::Office;
pub use shippo::Settings as ShippoSettings;
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
    /// The parcels' half.
    pub shippo: ShippoSettings,
    /// The mail relay's.
    pub mail: MailSettings,
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
    /// Where it takes mail.
    pub smtp_addr: SocketAddr,
    bank: Shared,
    office: Arc<Office>,
    relay: Arc<Relay>,
    server: JoinHandle<io::Result<()>>,
    couriers: JoinHandle<()>,
}

/// Opens the books in `settings.dir` and serves.
///
/// # Errors
/// The address is taken or not loopback, another sandbox has these books, or they cannot be read.
pub async fn start(mut settings: Settings) -> io::Result<Sandbox> {
    if !settings.listen.ip().is_loopback() || !settings.mail.listen.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the sandbox is open to all and listens on loopback only",
        ));
    }
    let listener = TcpListener::bind(settings.listen).await?;
    let addr = listener.local_addr()?;
    let smtp = TcpListener::bind(settings.mail.listen).await?;
    let smtp_addr = smtp.local_addr()?;
    settings.mail.listen = smtp_addr; // what `/_sandbox/health` tells
    let open = move || {
        std::fs::create_dir_all(&settings.dir)?;
        let bank = Arc::new(Bank::open(settings, format!("http://{addr}"))?);
        let office = Arc::new(Office::open(Arc::clone(&bank))?);
        let relay = Arc::new(Relay::open(Arc::clone(&bank))?);
        io::Result::Ok((bank, office, relay))
    };
    let (bank, office, relay) = tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??;

    let service = routes(&bank).merge(shippo::routes(&office)).merge(mail::routes(&relay));
    let service = service.into_make_service_with_connect_info::<Cut>();
    let stopped = Arc::clone(&bank);
    let serve = axum::serve(Door(listener), service).with_graceful_shutdown(async move { stopped.stopped().await });
    let server = tokio::spawn(async move { serve.await });
    let (tellers, clerks, postmen) =
        (webhooks::run(Arc::clone(&bank)), shippo::run(Arc::clone(&office)), mail::run(Arc::clone(&relay), smtp));
    let couriers = tokio::spawn(async move {
        tokio::join!(tellers, clerks, postmen);
    });
    Ok(Sandbox { addr, smtp_addr, bank, office, relay, server, couriers })
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
        let _ended = (&mut self.couriers).await;
        self.bank.close().await;
        self.office.close().await;
        self.relay.close().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.bank.stop();
    }
}

/// Everything that is served.
fn routes(bank: &Shared) -> Router {
    let guarded = Router::new()
        .route("/v2/checkout/orders", post(orders::create))
        .route("/v2/checkout/orders/{id}", get(orders::show))
        .route("/v2/checkout/orders/{id}/capture", post(orders::capture))
        .route("/v2/checkout/orders/{id}/authorize", post(orders::authorize))
        .route("/v2/payments/captures/{id}", get(captures::show))
        .route("/v2/payments/captures/{id}/refund", post(refunds::create))
        .route("/v2/payments/refunds/{id}", get(refunds::show))
        .route("/v1/notifications/verify-webhook-signature", post(notifications::verify))
        .route("/v1/notifications/webhooks-events", get(notifications::list))
        .route("/v1/notifications/webhooks-events/{id}", get(notifications::show))
        .route("/v1/notifications/webhooks-events/{id}/resend", post(notifications::resend))
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
        .route("/books", get(control::books))
        .route("/books/summary", get(control::summary))
        .route("/orders/{id}", get(control::order))
        .route("/orders/{id}/approve", post(control::approve))
        .route("/orders/{id}/decline", post(control::decline))
        .route("/orders/{id}/drift", post(control::drift))
        .route("/approve_all", post(control::approve_all))
        .route("/captures/{id}/status", post(control::rule))
        .route("/captures/{id}/refund", post(control::refund))
        .route("/captures/{id}/reverse", post(control::reverse))
        .route("/faults", get(control::faults).post(control::script).delete(control::forgive))
        .route("/webhooks", get(control::courier))
        .route("/webhooks/hold", post(control::hold))
        .route("/webhooks/release", post(control::release))
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
