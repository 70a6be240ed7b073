//! What PayPal offers around webhooks: certificates, verification on its side, and the list of events for those who
//! have missed some.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    bank::Shared,
    books::{Books, Change},
    call::Call,
    errors::Problem,
    events,
    records::{Delivery, Event},
    signing,
};

/// PayPal's page of events, unless it is asked for another, and the largest.
const PAGE: usize = 10;
const PAGE_LIMIT: usize = 300;
/// What PayPal's simulator signs for, whatever the webhook's own id is.
const SIMULATED: &str = "WEBHOOK_ID";

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
    let event = claim.webhook_event.get().as_bytes();
    let message = signing::message(&claim.transmission_id, &claim.transmission_time, &claim.webhook_id, event);
    let certificates = format!("{}/v1/notifications/certs/", bank.base);
    let signer = claim.cert_url.strip_prefix(&certificates).and_then(|name| bank.authority.genuine_of(name));
    let is_registered = |books: &Books| bank.webhooks(books).iter().any(|webhook| webhook.id == claim.webhook_id);
    let holds = claim.auth_algo == "SHA256withRSA"
        && bank.look(is_registered)
        && signer.is_some_and(|signer| signer.verify(&message, &claim.transmission_sig));
    Ok(Json(json!({"verification_status": if holds { "SUCCESS" } else { "FAILURE" }})))
}

#[derive(Deserialize, Serialize)]
pub(super) struct Search {
    page_size: Option<usize>,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    transaction_id: Option<String>,
    event_type: Option<String>,
    /// Before which row of the books the page begins, so that what is new moves nothing; comes from the link `next`.
    next_page_token: Option<usize>,
}

impl Search {
    fn finds(&self, event: &Event) -> bool {
        !event.simulated
            && self.start_time.is_none_or(|start| event.created >= start)
            && self.end_time.is_none_or(|end| event.created <= end)
            && self.event_type.as_ref().is_none_or(|only| *only == event.event_type)
            && self.transaction_id.as_ref().is_none_or(|id| *id == event.resource_id)
    }

    fn url(&self, base: &str) -> String {
        let mut url = format!("{base}/v1/notifications/webhooks-events");
        let fields = serde_json::to_value(self).expect("a search is plain data");
        let fields = fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (field, value) in fields {
            query.append_pair(field, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        let query = query.finish();
        if !query.is_empty() {
            url = format!("{url}?{query}");
        }
        url
    }
}

#[derive(Serialize)]
struct Page<'a> {
    events: Vec<&'a RawValue>,
    count: usize,
    links: Vec<Value>,
}

/// `GET /v1/notifications/webhooks-events`: newest first, also those that were never delivered.
pub(super) async fn list(
    State(bank): State<Shared>,
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(mut search) =
        search.map_err(|error| Problem::issue("INVALID_PARAMETER_SYNTAX").value(error.body_text()))?;
    let size = search.page_size.unwrap_or(PAGE).clamp(1, PAGE_LIMIT);
    let before = search.next_page_token.unwrap_or(usize::MAX);
    let mut found: Vec<(usize, Arc<Event>)> = bank
        .inspect(|books| {
            let newest_first = books.events.rows().iter().enumerate().rev().filter(|(row, _)| *row < before);
            let found = newest_first.filter(|(_, event)| search.finds(event)).take(size + 1);
            found.map(|(row, event)| (row, Arc::clone(event))).collect()
        })
        .await?;
    let mut links = vec![json!({"href": search.url(&bank.base), "rel": "self", "method": "GET"})];
    if found.len() > size {
        found.truncate(size);
        search.next_page_token = found.last().map(|(row, _)| *row);
        links.push(json!({"href": search.url(&bank.base), "rel": "next", "method": "GET"}));
    }
    let events: Vec<_> = found.iter().map(|(_, event)| &*event.body).collect();
    Ok(Json(Page { count: events.len(), events, links }).into_response())
}

/// `GET /v1/notifications/webhooks-events/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Json<Box<RawValue>>, Problem> {
    let event = bank.inspect(|books| books.events.get(&id).cloned()).await?;
    let event = event.ok_or_else(Problem::unknown_resource)?;
    Ok(Json(event.body.clone()))
}

#[derive(Deserialize, Default)]
struct ResendRequest {
    webhook_ids: Option<Vec<String>>,
}

/// `POST /v1/notifications/webhooks-events/{id}/resend`: the same event in a new transmission, to these webhooks or to
/// all that want it.
pub(super) async fn resend(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, Problem> {
    let request: ResendRequest = call.optional_json()?;
    let again = |books: &Books, now| {
        let event = books.events.get(&id).filter(|event| !event.simulated).ok_or_else(Problem::unknown_resource)?;
        let certificate = bank.authority.genuine();
        let mut webhooks = bank.webhooks(books);
        match &request.webhook_ids {
            Some(ids) if ids.iter().any(|id| webhooks.iter().all(|webhook| webhook.id != *id)) => {
                return Err(Problem::unknown_resource());
            }
            Some(ids) => webhooks.retain(|webhook| ids.contains(&webhook.id)),
            None => webhooks.retain(|webhook| webhook.wants(&event.event_type)),
        }
        let deliveries = webhooks.iter().map(|webhook| Delivery::of(event, &webhook.id, &certificate.name, now));
        let change = Change { deliveries: deliveries.map(Arc::new).collect(), ..Change::default() };
        Ok((event.body.clone(), change))
    };
    let body = bank.transact(again).await?;
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

#[derive(Deserialize)]
struct SimulateRequest {
    webhook_id: Option<String>,
    url: Option<String>,
    event_type: Option<String>,
}

/// `POST /v1/notifications/simulate-event`: an event about nothing, to a webhook or to any address. It is signed for the
/// literal id `WEBHOOK_ID`, and the postback does not know it.
pub(super) async fn simulate(State(bank): State<Shared>, call: Call) -> Result<Response, Problem> {
    let request: SimulateRequest = call.json()?;
    let required = |field: &str| Problem::issue("MISSING_REQUIRED_PARAMETER").at(field);
    let event_type = request.event_type.ok_or_else(|| required("/event_type"))?;
    if !events::EVENT_TYPES.iter().any(|(known, _)| *known == event_type) {
        return Err(Problem::issue("INVALID_PARAMETER_VALUE").at("/event_type").value(event_type));
    }
    let simulate = |books: &Books, now| {
        let url = match (&request.webhook_id, &request.url) {
            (Some(id), _) => {
                let webhook = bank.webhooks(books).into_iter().find(|webhook| webhook.id == *id);
                webhook.ok_or_else(Problem::unknown_resource)?.url
            }
            (None, Some(url)) => url.clone(),
            (None, None) => return Err(required("/webhook_id")),
        };
        let event = Arc::new(events::simulated(&bank.base, &event_type, now));
        let delivery = Delivery::of(&event, SIMULATED, &bank.authority.genuine().name, now);
        let mut change = Change::delivery(Delivery { url: Some(url), ..delivery });
        change.events.push(Arc::clone(&event));
        Ok((event, change))
    };
    let event = bank.transact(simulate).await?;
    Ok((StatusCode::ACCEPTED, Json(&*event.body)).into_response())
}
