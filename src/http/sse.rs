//! Server-sent events: an answer that goes on. What is told are bytes that many listeners may share.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;

/// How long nothing is said before a comment is, so that nobody on the way takes the connection for dead, and one that is
/// dead is found out.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A comment, which clients pass over.
const PULSE: Bytes = Bytes::from_static(b": still here\n\n");

/// What a channel holds and whatever comes to be in it, always the newest; ends with the channel.
pub(super) fn newest<T: Clone + Send + Sync + 'static>(
    mut channel: watch::Receiver<T>,
) -> impl Stream<Item = T> + Send {
    channel.mark_changed();
    stream::unfold(channel, |mut channel| async move {
        channel.changed().await.ok()?;
        let now = channel.borrow_and_update().clone();
        Some((now, channel))
    })
}

/// An answer of events for as long as there are any. `place` is given up when the listener has left.
pub(super) fn answer(events: impl Stream<Item = Bytes> + Send + 'static, place: impl Send + 'static) -> Response {
    let told = stream::unfold((Box::pin(events), place), |(mut events, place)| async move {
        let next = tokio::time::timeout(HEARTBEAT, events.next()).await.unwrap_or(Some(PULSE))?;
        Some((Ok::<_, Infallible>(next), (events, place)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // a proxy that gathers would keep what is new from everybody
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(told)).into_response()
}
