//! Webhook management: which URL wants to hear of what.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use url::Url;

use super::{
    OWNER,
    books::{Books, Change, Hook},
    call::{Fields, Page},
    errors::Refusal,
    office::{self, Desk},
    profile::Shape,
};
use crate::sandbox::clock;

/// Shippo's limit for a URL.
const URL_LIMIT: usize = 200;
const EVENTS: [&str; 6] =
    ["transaction_created", "transaction_updated", "track_updated", "batch_created", "batch_purchased", "all"];

/// `POST /webhooks`
pub(super) async fn create(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    put(&desk, &fields, None, StatusCode::CREATED).await
}

/// `PUT /webhooks/{id}`
pub(super) async fn replace(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Refusal> {
    put(&desk, &fields, Some(&id), StatusCode::OK).await
}

async fn put(desk: &Desk, fields: &Fields, id: Option<&str>, status: StatusCode) -> Result<Response, Refusal> {
    let put = |books: &Books, now| {
        let before = match id {
            Some(id) => Some(found(books, id)?),
            None => None,
        };
        let hook = read(fields, before, now)?;
        let answer = view(&hook);
        Ok((answer, Change { hooks: vec![Arc::new(hook)], ..Change::default() }))
    };
    let answer = desk.transact(put).await?;
    Ok(desk.answer(status, Shape::Hook, answer))
}

fn found<'a>(books: &'a Books, id: &str) -> Result<&'a Hook, Refusal> {
    let hook = books.hooks.get(id).filter(|hook| !hook.deleted);
    hook.map(|hook| &**hook).ok_or_else(Refusal::not_found)
}

fn read(fields: &Fields, before: Option<&Hook>, now: DateTime<Utc>) -> Result<Hook, Refusal> {
    fields.require(&["url", "event"])?;
    let url = fields.text("url").unwrap_or_default();
    if !Url::parse(&url).is_ok_and(|url| ["http", "https"].contains(&url.scheme())) {
        return Err(Refusal::field("url", "Enter a valid URL."));
    }
    if url.chars().count() >= URL_LIMIT {
        return Err(Refusal::field("url", format!("Ensure this field has less than {URL_LIMIT} characters.")));
    }
    let event = fields.choice("event", &EVENTS)?.unwrap_or_default();
    Ok(Hook {
        id: before.map_or_else(office::id, |before| before.id.clone()),
        created: before.map_or(now, |before| before.created),
        updated: now,
        url,
        event,
        active: fields.flag("active").unwrap_or(true),
        is_test: fields.flag("is_test").unwrap_or(true),
        deleted: false,
    })
}

/// `GET /webhooks`
pub(super) async fn list(State(desk): State<Desk>, Query(page): Query<Page>) -> Result<Response, Refusal> {
    let rows = desk.inspect(|books| books.live_hooks().map(|hook| view(hook)).collect::<Vec<_>>()).await?;
    let mut list = page.of(&desk.house.base, "/webhooks", &rows);
    list["count"] = json!(rows.len());
    Ok(desk.answer_list(Shape::Hook, list))
}

/// `GET /webhooks/{id}`
pub(super) async fn show(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let answer = desk.inspect(|books| found(books, &id).map(view)).await??;
    Ok(desk.answer(StatusCode::OK, Shape::Hook, answer))
}

/// `DELETE /webhooks/{id}`
pub(super) async fn delete(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let delete = |books: &Books, now| {
        let hook = Hook { deleted: true, updated: now, ..found(books, &id)?.clone() };
        Ok(((), Change { hooks: vec![Arc::new(hook)], ..Change::default() }))
    };
    desk.transact(delete).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) fn view(hook: &Hook) -> Value {
    json!({
        "object_id": hook.id,
        "object_owner": OWNER,
        "object_created": clock::stamp_ms(hook.created),
        "object_updated": clock::stamp_ms(hook.updated),
        "url": hook.url,
        "event": hook.event,
        "active": hook.active,
        "is_test": hook.is_test,
    })
}
