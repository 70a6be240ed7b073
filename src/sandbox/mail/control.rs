//! `/_sandbox/mail`: what tests read of the relay, and the strings that they pull at it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    faults::Rule,
    letters,
    relay::{Letter, Relay},
};
use crate::sandbox::shippo::control::{Body, Wrong, rule_of};

#[derive(Deserialize)]
pub(super) struct Filter {
    to: Option<String>,
    subject: Option<String>,
}

impl Filter {
    /// Parts of the envelope's recipients and of the subject, in any case.
    fn fits(&self, letter: &Letter, view: &Value) -> bool {
        let within = |part: &Option<String>, text: &str| {
            part.as_ref().is_none_or(|part| text.to_lowercase().contains(&part.to_lowercase()))
        };
        let subject = view["subject"].as_str().unwrap_or_default();
        letter.envelope.to.iter().any(|to| within(&self.to, to)) && within(&self.subject, subject)
    }
}

/// `GET /_sandbox/mail?to=…&subject=…`: oldest first.
pub(super) async fn list(State(relay): State<Arc<Relay>>, Query(filter): Query<Filter>) -> Json<Value> {
    let letters = relay.letters();
    let views = letters.iter().map(|letter| (letter, letters::view(letter)));
    let mails: Vec<_> = views.filter(|(letter, view)| filter.fits(letter, view)).map(|(_, view)| view).collect();
    Json(json!({"total": mails.len(), "mails": mails}))
}

/// `GET /_sandbox/mail/{id}`
pub(super) async fn show(State(relay): State<Arc<Relay>>, Path(id): Path<u64>) -> Result<Json<Value>, StatusCode> {
    relay.letter(id).map(|letter| Json(letters::view(&letter))).ok_or(StatusCode::NOT_FOUND)
}

/// `GET /_sandbox/mail/{id}/raw`
pub(super) async fn raw(State(relay): State<Arc<Relay>>, Path(id): Path<u64>) -> Result<Response, StatusCode> {
    let letter = relay.letter(id).ok_or(StatusCode::NOT_FOUND)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], letter.raw.clone()).into_response())
}

/// `DELETE /_sandbox/mail`
pub(super) async fn empty(State(relay): State<Arc<Relay>>) -> StatusCode {
    match relay.empty().await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_stopping) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// `POST /_sandbox/mail/faults`
pub(super) async fn script(State(relay): State<Arc<Relay>>, Body(request): Body<Value>) -> Result<Json<Value>, Wrong> {
    relay.faults.add(rule_of::<Rule>(request)?);
    Ok(faults(State(relay)).await)
}

/// `GET /_sandbox/mail/faults`: what has not struck yet.
pub(super) async fn faults(State(relay): State<Arc<Relay>>) -> Json<Value> {
    Json(json!({"faults": relay.faults.list()}))
}

/// `DELETE /_sandbox/mail/faults`
pub(super) async fn forgive(State(relay): State<Arc<Relay>>) -> StatusCode {
    relay.faults.clear();
    StatusCode::NO_CONTENT
}
