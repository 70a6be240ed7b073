//! Connections: taken up to a limit, given up when a client sends no request, ended in order.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// Connections at once, beside those of listeners; the next ones wait to be taken up.
const CONNECTIONS: usize = 10_000;

/// Serves until it is told to stop, and then until what was asked is answered. So many `listeners` may stay on the line
/// without being in the way of buyers. A client that takes longer than `idle` to send a request's headers, or to use its
/// connection again, is hung up on.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    listeners: usize,
    idle: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    // HTTP/1 and nothing else: a builder that still guesses the version waits without a timer for the first bytes
    let mut connections = auto::Builder::new(TokioExecutor::new()).http1_only();
    connections.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS + listeners));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        stream.set_nodelay(true).ok(); // an answer is one small packet
        let service = TowerToHyperService::new(routes.clone());
        let connection = connections.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            connection.await.ok(); // a client that hangs up is no news
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The next connection. Too many open files, say, pass: it waits and tries again.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken up");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
