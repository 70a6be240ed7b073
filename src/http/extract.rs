//! What handlers take from a request, with every way it can be wrong told as a problem.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use souk_actors::domain::{Invalid, OrderId, Refusal};

use crate::{problem::Problem, shop::Shop};

/// How many times the limit a body may be before its sender is cut off without a word.
const PATIENCE: usize = 8;

/// A JSON body.
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Shop>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shop: &Arc<Shop>) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "Not JSON");
            return Err(problem.detail("Send Content-Type: application/json."));
        }
        let bytes = bytes(request, shop).await?;
        read(&bytes).map(Self)
    }
}

/// A raw body within the limit. One that is larger is read on for a while, for a client that is still sending does not
/// hear an answer.
pub(crate) async fn bytes(request: Request, shop: &Arc<Shop>) -> Result<Bytes, Problem> {
    bytes_up_to(request, shop, shop.limits.body).await
}

/// The same, with a limit of its own.
pub(crate) async fn bytes_up_to(request: Request, shop: &Arc<Shop>, limit: usize) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(shop.limits.timeout, collect(request, limit));
    let too_slow = Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "The body did not arrive in time");
    read.await.unwrap_or(Err(too_slow))
}

async fn collect(request: Request, limit: usize) -> Result<Bytes, Problem> {
    let mut body = request.into_body().into_data_stream();
    let (mut kept, mut length) = (BytesMut::new(), 0);
    while let Some(chunk) = body.next().await {
        let unreadable = |_| Problem::new(StatusCode::BAD_REQUEST, "unreadable", "The body could not be read");
        let chunk = chunk.map_err(unreadable)?;
        length += chunk.len();
        if length <= limit {
            kept.extend_from_slice(&chunk);
        } else if length > limit.saturating_mul(PATIENCE) {
            break;
        }
    }
    if length > limit {
        let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large");
        return Err(problem.detail(format!("A request body has at most {limit} bytes.")));
    }
    Ok(kept.freeze())
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = T::deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    read.map_err(|error| {
        if error.is_data() {
            return Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid request")
                .detail(error.to_string());
        }
        Problem::new(StatusCode::BAD_REQUEST, "malformed_json", "Malformed JSON").detail(error.to_string())
    })
}

/// There is a place for one more checkout. Asked before the body is read: who comes in a rush that cannot be served is to
/// cost less than a buyer.
pub(crate) struct NotFull;

impl FromRequestParts<Arc<Shop>> for NotFull {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Problem> {
        if shop.engine.is_full() { Err(Refusal::Busy.into()) } else { Ok(Self) }
    }
}

/// A query string.
pub(crate) struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Shop>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shop>) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|rejection| {
            Problem::new(StatusCode::BAD_REQUEST, "invalid_query", "Invalid query").detail(rejection.body_text())
        })
    }
}

/// An id in the path: what is no id names nothing.
pub(crate) struct Id<T>(pub T);

impl<T: FromStr> FromRequestParts<Arc<Shop>> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Problem> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, shop).await;
        let id = path.ok().and_then(|path| path.0.parse().ok());
        id.map(Self).ok_or_else(|| Problem::not_found("thing"))
    }
}

/// Two ids in the path, one behind the other.
pub(crate) struct Ids<A, B>(pub A, pub B);

impl<A: FromStr, B: FromStr> FromRequestParts<Arc<Shop>> for Ids<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Problem> {
        let path = axum::extract::Path::<(String, String)>::from_request_parts(parts, shop).await;
        let ids = path.ok().and_then(|path| Some(Self(path.0.0.parse().ok()?, path.0.1.parse().ok()?)));
        ids.ok_or_else(|| Problem::not_found("thing"))
    }
}

/// Staff, by the bearer token.
pub(crate) struct Staff;

impl FromRequestParts<Arc<Shop>> for Staff {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Problem> {
        if is_staff(&parts.headers, shop) {
            return Ok(Self);
        }
        Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", "Staff only")
            .detail("Send Authorization: Bearer <staff token>."))
    }
}

fn is_staff(headers: &HeaderMap, shop: &Shop) -> bool {
    bearer(headers).is_some_and(|token| shop.keys.is_staff(token))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// An order that the asker may see: staff any, a guest the one whose token it shows (`?token=`, or as a bearer token).
/// Whether an order exists is told to nobody else.
pub(crate) struct OwnOrder {
    pub order_id: OrderId,
    pub is_staff: bool,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
}

impl FromRequestParts<Arc<Shop>> for OwnOrder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Problem> {
        let Id(order_id) =
            Id::<OrderId>::from_request_parts(parts, shop).await.map_err(|_| Problem::not_found("order"))?;
        if is_staff(&parts.headers, shop) {
            return Ok(Self { order_id, is_staff: true });
        }
        let query = axum::extract::Query::<Token>::try_from_uri(&parts.uri).ok();
        let shown = query.and_then(|query| query.0.token).or_else(|| bearer(&parts.headers).map(str::to_owned));
        match shown {
            Some(token) if shop.keys.opens(order_id, &token) => Ok(Self { order_id, is_staff: false }),
            Some(_) => Err(Problem::not_found("order")),
            None => Err(Problem::new(StatusCode::UNAUTHORIZED, "token_required", "Token required")
                .detail("Show the order_token of the checkout's answer as ?token=…")),
        }
    }
}

/// The Idempotency-Key header: 1 to 255 printable characters.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let printable =
        |text: &&str| (1..=255).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let text = value.to_str().ok().filter(printable).filter(|_| values.next().is_none());
    text.map(|text| Some(text.to_owned())).ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", "Invalid Idempotency-Key")
            .detail("One header of 1 to 255 printable ASCII characters.")
    })
}

/// SHA-256 over what a request means, by its parsed form: white space and the order of fields do not count.
pub(crate) fn fingerprint(route: &str, request: &impl serde::Serialize) -> Result<[u8; 32], Problem> {
    let bytes = serde_json::to_vec(request).map_err(|_| Problem::from(Invalid::new("body", "cannot be read")))?;
    Ok(Sha256::new().chain_update(route).chain_update([0]).chain_update(bytes).finalize().into())
}

/// Waits no longer than a request may; what was begun goes on, and the same key tells how it ended.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Problem> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Problem::outcome_unknown()),
    }
}
