//! A mail relay that delivers to nobody: a small SMTP server that keeps what it takes, and an inbox to look at it.
//!
//! Read on in this order: [`relay`] (what is kept), [`session`] (one connection), [`faults`], [`letters`] (what a message
//! says), then [`inbox`] for people and [`control`] for tests.

mod control;
mod faults;
mod inbox;
mod letters;
mod relay;
mod session;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use tokio::{net::TcpListener, task::JoinSet};

pub(super) use relay::Relay;

/// How long the relay waits after an error of its listener.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the relay takes mail, and from whom.
#[derive(Clone)]
pub struct Settings {
    /// A loopback address; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Who may send. Empty: everybody, whoever they say they are.
    pub user: String,
    /// See `user`.
    pub password: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), user: String::new(), password: String::new() }
    }
}

/// Takes mail until the sandbox stops. Whoever was not told that their mail was taken sends it again.
pub(super) async fn run(relay: Arc<Relay>, listener: TcpListener) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    sessions.spawn(session::run(Arc::clone(&relay), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "the sandbox's relay cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_ended) = sessions.join_next() => {}
            () = relay.house.stopped() => return,
        }
    }
}

/// The inbox, and what tests pull.
pub(super) fn routes(relay: &Arc<Relay>) -> Router {
    Router::new()
        .route("/inbox", get(inbox::list))
        .route("/inbox/empty", post(inbox::empty))
        .route("/inbox/{id}", get(inbox::show))
        .route("/_sandbox/mail", get(control::list).delete(control::empty))
        .route("/_sandbox/mail/faults", get(control::faults).post(control::script).delete(control::forgive))
        .route("/_sandbox/mail/{id}", get(control::show))
        .route("/_sandbox/mail/{id}/raw", get(control::raw))
        .with_state(Arc::clone(relay))
}
