//! What providers call. 200 means: the event is in Postgres.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::Request, http::StatusCode};
use serde::Deserialize;
use serde_json::json;
use souk_actors::{ParcelWebhook, Webhook};

use super::{
    State,
    extract::{bytes, within},
};
use crate::{
    gateways::paypal::webhook::Rejection,
    problem::{Answer, Problem},
    shop::Shop,
};

/// Shippo waits three seconds for its answer; what takes longer is told to come again.
const SHIPPO_WAITS: Duration = Duration::from_millis(2_500);

/// PayPal's events. The signature is verified over the raw body; then the event is stored, once, and answered; what it
/// means is asked of PayPal itself.
#[utoipa::path(
    post, path = "/v1/webhooks/paypal", tag = "providers", request_body(content = Object),
    responses(
        (status = 200, description = "Stored, now or before"),
        (status = 400, body = Problem, description = "`bad_signature`: nothing is stored"),
        (status = 503, body = Problem, description = "The certificate, PayPal's word or the database is away: send it again")
    )
)]
pub(crate) async fn paypal(axum::extract::State(shop): State, request: Request) -> Answer<Json<serde_json::Value>> {
    let headers = request.headers().clone();
    let body = bytes(request, &shop).await?;
    let verified = match shop.paypal.verify(&headers, &body).await {
        Ok(verified) => verified,
        Err(rejection) => return Err(rejected(rejection)),
    };
    let webhook = Webhook {
        provider: "paypal",
        event_id: verified.event_id.unwrap_or_else(|| verified.transmission_id.clone()),
        transmission_id: verified.transmission_id,
        body: body.to_vec(),
    };
    let new = keep(&shop, webhook).await?;
    metrics::counter!("souk_webhooks_total", "provider" => "paypal", "outcome" => if new { "stored" } else { "known" })
        .increment(1);
    Ok(Json(json!({ "received": true })))
}

async fn keep(shop: &Arc<Shop>, webhook: Webhook) -> Answer<bool> {
    within(shop.limits.timeout, shop.engine.webhook(webhook)).await
}

/// What stands in the address that Shippo was given.
#[derive(Deserialize)]
struct Shown {
    token: Option<String>,
}

/// Shippo's events. The token in the address is checked, and the signature where there is a secret for it; then the news is
/// stored, once, and answered; where the parcel is is asked of Shippo itself.
#[utoipa::path(
    post, path = "/v1/webhooks/shippo", tag = "providers", request_body(content = Object),
    params(("token" = String, Query, description = "As it was registered at Shippo")),
    responses(
        (status = 200, description = "Stored, now or before"),
        (status = 400, body = Problem, description = "`bad_signature`: the token or the signature is wrong; nothing is stored"),
        (status = 404, body = Problem, description = "This shop has no carrier"),
        (status = 503, body = Problem, description = "The database is away: send it again")
    )
)]
pub(crate) async fn shippo(axum::extract::State(shop): State, request: Request) -> Answer<Json<serde_json::Value>> {
    let carrier = shop.shipping.carrier.as_ref().ok_or_else(|| Problem::not_found("carrier"))?;
    let headers = request.headers().clone();
    let shown = axum::extract::Query::<Shown>::try_from_uri(request.uri()).ok().and_then(|query| query.0.token);
    let body = bytes(request, &shop).await?;
    if let Err(why) = carrier.webhooks().verify(shown.as_deref(), &headers, &body) {
        metrics::counter!("souk_webhooks_total", "provider" => "shippo", "outcome" => "forged").increment(1);
        tracing::warn!(why, "a webhook that is not Shippo's");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_signature", "Bad signature"));
    }
    let webhook = ParcelWebhook { carrier: "shippo", body: body.to_vec() };
    let new = within(SHIPPO_WAITS, shop.engine.parcel_webhook(webhook)).await?;
    metrics::counter!("souk_webhooks_total", "provider" => "shippo", "outcome" => if new { "stored" } else { "known" })
        .increment(1);
    Ok(Json(json!({ "received": true })))
}

fn rejected(rejection: Rejection) -> Problem {
    match rejection {
        Rejection::Forged(why) => {
            metrics::counter!("souk_webhooks_total", "provider" => "paypal", "outcome" => "forged").increment(1);
            tracing::warn!(why, "a webhook that PayPal did not sign");
            Problem::new(StatusCode::BAD_REQUEST, "bad_signature", "Bad signature")
        }
        Rejection::CannotTell(why) => {
            tracing::warn!(why, "a webhook's signature cannot be checked now");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available right now").retry_after(10)
        }
    }
}
