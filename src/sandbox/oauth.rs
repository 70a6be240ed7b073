//! `POST /v1/oauth2/token`, and the bearer check on everything else.
//!
//! A token carries its own end and a MAC, so that the tokens that were handed out survive a restart of the sandbox
//! without being kept.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::Sha256;

use super::{bank::Shared, clock, ids};

/// PayPal's tokens live for nine hours.
const LIFETIME_SECONDS: i64 = 32_400;
const MAC_BYTES: usize = 32;

pub(super) async fn token(State(bank): State<Shared>, headers: HeaderMap, body: String) -> Response {
    if !has_credentials(&headers, &bank.settings.client_id, &bank.settings.client_secret) {
        return refuse(StatusCode::UNAUTHORIZED, "invalid_client", "Client Authentication failed");
    }
    let mut form = url::form_urlencoded::parse(body.as_bytes());
    if !form.any(|(field, value)| field == "grant_type" && value == "client_credentials") {
        return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", "Grant Type is NULL");
    }
    let now = bank.clock.now();
    let grant = json!({
        "scope": "https://uri.paypal.com/services/payments/payment https://uri.paypal.com/services/applications/webhooks",
        "access_token": issue(&bank.settings.client_secret, now.timestamp() + LIFETIME_SECONDS),
        "token_type": "Bearer",
        "app_id": "APP-80W284485P519543T",
        "expires_in": LIFETIME_SECONDS,
        "nonce": format!("{}{}", clock::stamp(now), ids::resource()),
    });
    Json(grant).into_response()
}

/// Lets a call through that carries a token of ours which has not run out.
pub(super) async fn guard(State(bank): State<Shared>, request: Request, next: Next) -> Response {
    let token = credentials(request.headers(), "Bearer ");
    if !token.is_some_and(|token| is_valid(&bank.settings.client_secret, token, bank.clock.now())) {
        return unknown_token();
    }
    next.run(request).await
}

/// What a bad bearer hears; it is in OAuth's shape, not in PayPal's.
pub(super) fn unknown_token() -> Response {
    refuse(StatusCode::UNAUTHORIZED, "invalid_token", "The token passed in was not found in the system")
}

fn refuse(status: StatusCode, error: &str, description: &str) -> Response {
    (status, Json(json!({"error": error, "error_description": description}))).into_response()
}

fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let matches = value.get(..scheme.len())?.eq_ignore_ascii_case(scheme);
    matches.then(|| value[scheme.len()..].trim())
}

fn has_credentials(headers: &HeaderMap, client_id: &str, client_secret: &str) -> bool {
    let given = credentials(headers, "Basic ").and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    given.is_some_and(|given| given == format!("{client_id}:{client_secret}").as_bytes())
}

fn issue(secret: &str, end: i64) -> String {
    let claim = format!("{end}.{}", ids::resource());
    let mut token = mac(secret, &claim).finalize().into_bytes().to_vec();
    token.extend_from_slice(claim.as_bytes());
    format!("A21AA{}", BASE64_URL_SAFE_NO_PAD.encode(token))
}

fn is_valid(secret: &str, token: &str, now: DateTime<Utc>) -> bool {
    let decoded = token.strip_prefix("A21AA").and_then(|token| BASE64_URL_SAFE_NO_PAD.decode(token).ok());
    let Some((tag, claim)) = decoded.as_deref().and_then(|bytes| bytes.split_at_checked(MAC_BYTES)) else {
        return false;
    };
    let Ok(claim) = str::from_utf8(claim) else { return false };
    let end: Option<i64> = claim.split('.').next().and_then(|end| end.parse().ok());
    mac(secret, claim).verify_slice(tag).is_ok() && end.is_some_and(|end| now.timestamp() < end)
}

fn mac(secret: &str, claim: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a MAC takes a key of any length");
    mac.update(claim.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_its_end_and_only_with_its_secret() {
        let token = issue("secret", 1000);
        let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        assert!(is_valid("secret", &token, at(999)));
        assert!(!is_valid("secret", &token, at(1000)));
        assert!(!is_valid("other", &token, at(999)));
        for bad in ["", "A21AA", "A21AA!!", "A21AAAAAA", "nonsense"] {
            assert!(!is_valid("secret", bad, at(0)), "{bad}");
        }
    }
}
