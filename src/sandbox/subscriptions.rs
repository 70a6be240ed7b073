//! Webhooks v1: where the merchant wants to hear of what.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{
    bank::Shared,
    books::{Books, Change},
    call::Call,
    errors::Problem,
    events::EVENT_TYPES,
    ids,
    records::Webhook,
};

/// How many webhooks PayPal lets a merchant have.
const LIMIT: usize = 10;
const URL_LIMIT: usize = 2048;

#[derive(Deserialize)]
struct WebhookRequest {
    url: Option<String>,
    event_types: Option<Vec<EventType>>,
}

#[derive(Deserialize)]
struct EventType {
    name: String,
}

/// `POST /v1/notifications/webhooks`
pub(super) async fn create(State(bank): State<Shared>, call: Call) -> Result<Response, Problem> {
    let request: WebhookRequest = call.json()?;
    let url = checked_url(request.url)?;
    let event_types = checked_types(request.event_types)?;
    let create = |books: &Books, _| {
        let others = bank.webhooks(books);
        check_free(&others, &url)?;
        if others.len() >= LIMIT {
            let words = "Webhook number limit exceeded.";
            return Err(Problem::named(StatusCode::BAD_REQUEST, "WEBHOOK_NUMBER_LIMIT_EXCEEDED", words));
        }
        let webhook = Webhook { id: ids::resource(), url, event_types, deleted: false };
        Ok((webhook.clone(), Change::webhook(webhook)))
    };
    let webhook = bank.transact(create).await?;
    Ok((StatusCode::CREATED, Json(view(&bank.base, &webhook))).into_response())
}

/// `GET /v1/notifications/webhooks`
pub(super) async fn list(State(bank): State<Shared>) -> Result<Json<Value>, Problem> {
    let webhooks = bank.inspect(|books| bank.webhooks(books)).await?;
    let webhooks: Vec<_> = webhooks.iter().map(|webhook| view(&bank.base, webhook)).collect();
    Ok(Json(json!({"webhooks": webhooks})))
}

/// `GET /v1/notifications/webhooks/{id}`
pub(super) async fn show(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let webhook = bank.inspect(|books| find(&bank.webhooks(books), &id)).await??;
    Ok(Json(view(&bank.base, &webhook)))
}

#[derive(Deserialize)]
struct Operation {
    op: String,
    path: String,
    value: Value,
}

/// `PATCH /v1/notifications/webhooks/{id}`: replaces its address, its events, or both.
pub(super) async fn update(
    State(bank): State<Shared>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Json<Value>, Problem> {
    let operations: Vec<Operation> = call.json()?;
    let update = |books: &Books, _| {
        let webhooks = bank.webhooks(books);
        let mut webhook = find(&webhooks, &id)?;
        for operation in operations {
            replace(&mut webhook, operation, &webhooks)?;
        }
        Ok((webhook.clone(), Change::webhook(webhook)))
    };
    let webhook = bank.transact(update).await?;
    if webhook.id == bank.settings.webhook_id {
        bank.knobs.set_webhook_url(None); // the books say now where it is
    }
    Ok(Json(view(&bank.base, &webhook)))
}

fn replace(webhook: &mut Webhook, operation: Operation, all: &[Webhook]) -> Result<(), Problem> {
    if operation.op != "replace" {
        return Err(Problem::named(StatusCode::BAD_REQUEST, "WEBHOOK_PATCH_REQUEST_INVALID", "Patch is invalid."));
    }
    let malformed = |error: serde_json::Error| Problem::issue("INVALID_PARAMETER_SYNTAX").value(error.to_string());
    match operation.path.as_str() {
        "/url" => {
            let url = checked_url(serde_json::from_value(operation.value).map_err(malformed)?)?;
            if url != webhook.url {
                check_free(all, &url)?;
            }
            webhook.url = url;
        }
        "/event_types" => {
            webhook.event_types = checked_types(serde_json::from_value(operation.value).map_err(malformed)?)?;
        }
        _ => return Err(Problem::issue("INVALID_PARAMETER_VALUE").at("/path").value(operation.path)),
    }
    Ok(())
}

/// `DELETE /v1/notifications/webhooks/{id}`
pub(super) async fn delete(State(bank): State<Shared>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let delete = |books: &Books, _| {
        let webhook = Webhook { deleted: true, ..find(&bank.webhooks(books), &id)? };
        Ok(((), Change::webhook(webhook)))
    };
    bank.transact(delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/notifications/webhooks/{id}/event-types`
pub(super) async fn event_types(State(bank): State<Shared>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let webhook = bank.inspect(|books| find(&bank.webhooks(books), &id)).await??;
    Ok(Json(json!({"event_types": types(&webhook)})))
}

/// `GET /v1/notifications/webhooks-event-types`
pub(super) async fn all_event_types() -> Json<Value> {
    let types: Vec<_> = EVENT_TYPES.iter().map(|(name, words)| event_type(name, words)).collect();
    Json(json!({"event_types": types}))
}

fn find(webhooks: &[Webhook], id: &str) -> Result<Webhook, Problem> {
    webhooks.iter().find(|webhook| webhook.id == id).cloned().ok_or_else(Problem::unknown_resource)
}

/// PayPal takes https alone; the sandbox' merchants live on loopback.
fn checked_url(url: Option<String>) -> Result<String, Problem> {
    let url = url.ok_or_else(|| Problem::issue("MISSING_REQUIRED_PARAMETER").at("/url"))?;
    let is_web = Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
    if !is_web || url.len() > URL_LIMIT {
        return Err(Problem::issue("INVALID_PARAMETER_VALUE").at("/url").value(url));
    }
    Ok(url)
}

fn checked_types(types: Option<Vec<EventType>>) -> Result<Vec<String>, Problem> {
    let types = types.ok_or_else(|| Problem::issue("MISSING_REQUIRED_PARAMETER").at("/event_types"))?;
    if types.is_empty() {
        return Err(Problem::issue("INVALID_ARRAY_MIN_ITEMS").at("/event_types"));
    }
    let is_known = |name: &str| name == "*" || EVENT_TYPES.iter().any(|(known, _)| *known == name);
    match types.iter().find(|one| !is_known(&one.name)) {
        Some(unknown) => Err(Problem::issue("INVALID_PARAMETER_VALUE").at("/event_types").value(&unknown.name)),
        None => Ok(types.into_iter().map(|one| one.name).collect()),
    }
}

fn check_free(webhooks: &[Webhook], url: &str) -> Result<(), Problem> {
    if webhooks.iter().any(|webhook| webhook.url == url) {
        let words = "Webhook URL already exists.";
        return Err(Problem::named(StatusCode::BAD_REQUEST, "WEBHOOK_URL_ALREADY_EXISTS", words));
    }
    Ok(())
}

fn types(webhook: &Webhook) -> Vec<Value> {
    let words = |name: &str| EVENT_TYPES.iter().find(|(known, _)| *known == name).map_or("ALL", |(_, words)| words);
    webhook.event_types.iter().map(|name| event_type(name, words(name))).collect()
}

fn event_type(name: &str, words: &str) -> Value {
    json!({"name": name, "description": words, "status": "ENABLED"})
}

fn view(base: &str, webhook: &Webhook) -> Value {
    let url = format!("{base}/v1/notifications/webhooks/{}", webhook.id);
    json!({
        "id": webhook.id,
        "url": webhook.url,
        "event_types": types(webhook),
        "links": [
            {"href": url, "rel": "self", "method": "GET"},
            {"href": url, "rel": "update", "method": "PATCH"},
            {"href": url, "rel": "delete", "method": "DELETE"},
        ],
    })
}
