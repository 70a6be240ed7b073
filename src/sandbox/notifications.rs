//! What PayPal offers around webhooks: certificates, verification on its side, and the list of events for those who
//! have missed some.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    bank::Shared,
    books::{Books, Change, Delivery, Event},
    errors::Problem,
    signing,
};

/// PayPal's largest page of events.
const PAGE_LIMIT: usize = 300;

/// `GET /v1/notifications/certs/{name}`, for everybody.
pub(super) async fn certificate(State(bank): State<Shared>, Path(name): Path<String>) -> Result<Response, Problem> {
    let signer = bank.authority.find(&name).ok_or_else(Problem::unknown_resource)?;
    let root = if bank.knobs.serve_chain() { bank.authority.root_pem.as_str() } else { "" };
    let pem = format!("{}{root}", signer.certificate);
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response())
}

#[derive(Deserialize)]
struct Verification<'a> {
    auth_algo: String,
    cert_url: String,
    transmission_id: String,
    transmission_sig: String,
    transmission_time: String,
    webhook_id: String,
    /// Taken byte for byte: an event that was parsed and written again has another CRC, at PayPal as well.
    #[serde(borrow)]
    webhook_event: &'a RawValue,
}

/// `POST /v1/notifications/verify-webhook-signature`
pub(super) async fn verify(State(bank): State<Shared>, body: Bytes) -> Result<Json<Value>, Problem> {
    let claim: Verification<'_> = serde_json::from_slice(&body)
        .map_err(|error| Problem::issue("MALFORMED_REQUEST_JSON").value(error.to_string()))?;
    let signer = &bank.authority.genuine;
    let event = claim.webhook_event.get().as_bytes();
    let message = signing::message(&claim.transmission_id, &claim.transmission_time, &claim.webhook_id, event);
    let ours = claim.auth_algo == "SHA256withRSA"
        && claim.cert_url == format!("{}/v1/notifications/certs/{}", bank.base, signer.name)
        && claim.webhook_id == bank.settings.webhook_id;
    let holds = ours && signer.verify(&message, &claim.transmission_sig);
    Ok(Json(json!({"verification_status": if holds { "SUCCESS" } else { "FAILURE" }})))
}

#[derive(Deserialize)]
pub(super) struct Search {
    page_size: Option<usize>,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    transaction_id: Option<String>,
    event_type: Option<String>,
    /// How many of the newest to pass over; comes from the link `next`.
    next_page_token: Option<usize>,
}

impl Search {
    fn finds(&self, event: &Event) -> bool {
        self.start_time.is_none_or(|start| event.created >= start)
            && self.end_time.is_none_or(|end| event.created <= end)
            && self.event_type.as_ref().is_none_or(|only| *only == event.event_type)
            && self.transaction_id.as_ref().is_none_or(|id| *id == event.resource_id)
    }
}

#[derive(Serialize)]
struct Page<'a> {
    events: Vec<&'a RawValue>,
    count: usize,
    links: Vec<Value>,
}

/// `GET /v1/notifications/webhooks-events`: newest first, also those that were never delivered.
pub(super) async fn list(State(bank): State<Shared>, Query(search): Query<Search>) -> Result<Response, Problem> {
    let size = search.page_size.unwrap_or(10).clamp(1, PAGE_LIMIT);
    let skip = search.next_page_token.unwrap_or(0);
    let mut found: Vec<Arc<Event>> = bank
        .inspect(|books| {
            let newest_first = books.events.rows().iter().rev();
            newest_first.filter(|event| search.finds(event)).skip(skip).take(size + 1).cloned().collect()
        })
        .await?;
    let url = format!("{}/v1/notifications/webhooks-events?page_size={size}", bank.base);
    let mut links = vec![json!({"href": url, "rel": "self", "method": "GET"})];
    if found.len() > size {
        found.truncate(size);
        links.push(json!({"href": format!("{url}&next_page_token={}", skip + size), "rel": "next", "method": "GET"}));
    }
    let events: Vec<_> = found.iter().map(|event| &*event.body).collect();
    Ok(Json(Page { count: events.len(), events, links }).into_response())
}

/// `GET /v1/notifications/webhooks-events/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Json<Box<RawValue>>, Problem> {
    let event = bank.inspect(|books| books.events.get(&id).cloned()).await?;
    let event = event.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(event.body.clone()))
}

/// `POST /v1/notifications/webhooks-events/{id}/resend`: the same event in a new transmission.
pub(super) async fn resend(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Response, Problem> {
    let again = |books: &Books, now| {
        let event = books.events.get(&id).ok_or_else(Problem::unknown_resource)?;
        Ok((event.body.clone(), Change::delivery(Delivery::of(event, now))))
    };
    let body = bank.transact(again).await?;
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}
