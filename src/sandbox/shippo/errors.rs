//! Refusals as Shippo words them: a list of sentences under each field, or one sentence as `detail`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Value,
}

impl Refusal {
    /// 400, for one field.
    pub(super) fn field(name: &str, sentence: impl Into<String>) -> Self {
        Self::fields(Map::from_iter([(name.to_owned(), json!([sentence.into()]))]))
    }

    /// 400, for several.
    pub(super) fn fields(fields: Map<String, Value>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: Value::Object(fields) }
    }

    /// A field that must be there.
    pub(super) fn missing(name: &str) -> Self {
        Self::field(name, "This field is required.")
    }

    /// A word that is not on the list.
    pub(super) fn choice(name: &str, word: &str) -> Self {
        Self::field(name, format!("\"{word}\" is not a valid choice."))
    }

    /// An id that leads nowhere, in a body.
    pub(super) fn dangling(name: &str, kind: &str) -> Self {
        Self::field(name, format!("{kind} with supplied object_id not found."))
    }

    /// What is wrong with an object inside another one.
    pub(super) fn within(self, name: &str) -> Self {
        Self::fields(Map::from_iter([(name.to_owned(), json!([self.body]))]))
    }

    pub(super) fn detail(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, body: json!({"detail": sentence.into()}) }
    }

    pub(super) fn not_found() -> Self {
        Self::detail(StatusCode::NOT_FOUND, "Not found.")
    }

    /// What Shippo's framework says of a status by itself.
    pub(super) fn bare(status: StatusCode) -> Self {
        let sentence = match status {
            StatusCode::UNAUTHORIZED => "Authentication credentials were not provided.",
            StatusCode::FORBIDDEN => "You do not have permission to perform this action.",
            StatusCode::NOT_FOUND => "Not found.",
            StatusCode::TOO_MANY_REQUESTS => "Request was throttled.",
            _ => status.canonical_reason().unwrap_or("A server error occurred."),
        };
        Self::detail(status, sentence)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
