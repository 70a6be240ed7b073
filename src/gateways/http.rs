//! The HTTP client as every gateway wants it: no redirects, hard timeouts, bodies with an end.

use std::{error::Error, time::Duration};

use reqwest::{Client, Response, redirect::Policy};
use url::{Host, Url};

/// Long enough for a burst of checkouts, shorter than the idle timeouts of the load balancers in front of providers.
const IDLE: Duration = Duration::from_secs(30);

/// Whether `url` names this machine: the only place that is spoken to without TLS.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether Souk may speak to `url` at all: by https, or by http on this machine.
pub(super) fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

/// A client that follows nobody, for https by the machine's trust store; with `plain`, for http on this machine, which
/// needs neither a trust store nor a proxy.
///
/// # Errors
/// Why no TLS can be set up, as in a container without any root certificate.
pub(super) fn client(plain: bool, connect_timeout: Duration, timeout: Duration) -> Result<Client, String> {
    let builder = Client::builder()
        .user_agent(concat!("souk/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(connect_timeout)
        .timeout(timeout)
        .pool_idle_timeout(IDLE);
    let builder = if plain { builder.no_proxy().tls_certs_only([]) } else { builder.https_only(true) };
    // reqwest's own text is "builder error": the reason is below it
    builder.build().map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is longer than anybody honest would send.
    TooLong,
    /// The connection ended before it did, or time ran out.
    Cut(reqwest::Error),
}

/// The whole body, if it has at most `cap` bytes.
pub(super) async fn read(mut response: Response, cap: usize) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Cut)? {
        if body.len() + chunk.len() > cap {
            return Err(Unread::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
