//! PayPal's error objects. What a client may branch on is `details[].issue`; all issues are in `issues.txt`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::ids;

/// Carried by every answer of the API.
pub(super) const DEBUG_ID: &str = "paypal-debug-id";

const ISSUES: &str = include_str!("issues.txt");

/// Why a call was refused, in PayPal's shape.
pub(super) struct Problem {
    status: StatusCode,
    details: Vec<Detail>,
    links: Vec<Value>,
    retry_after: Option<u32>,
    /// Name and message, where the status does not say them.
    words: Option<(&'static str, &'static str)>,
}

#[derive(Serialize)]
struct Detail {
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'static str>,
    issue: String,
    description: String,
}

impl Problem {
    /// A refusal without details: the status says it all.
    pub(super) fn bare(status: StatusCode) -> Self {
        Self { status, details: Vec::new(), links: Vec::new(), retry_after: None, words: None }
    }

    /// A refusal by the name of its issue, with PayPal's status and words. An unknown issue is a 422.
    pub(super) fn issue(issue: &str) -> Self {
        let (status, description) = documented(issue).unwrap_or((StatusCode::UNPROCESSABLE_ENTITY, issue));
        let (issue, description) = (issue.to_owned(), description.to_owned());
        let information = json!({
            "href": format!("https://developer.paypal.com/docs/api/orders/v2/#error-{issue}"),
            "rel": "information_link",
            "method": "GET",
        });
        let detail = Detail { field: None, value: None, location: None, issue, description };
        Self { details: vec![detail], links: vec![information], ..Self::bare(status) }
    }

    /// A refusal by the code of a `PayPal-Mock-Response`: an issue, or the name of a whole class of errors.
    pub(super) fn mocked(code: &str) -> Self {
        match class_status(code) {
            Some(status) => Self::bare(status),
            None => Self::issue(code),
        }
    }

    /// A refusal in the older shape of the webhooks API, where the name says what is wrong.
    pub(super) fn named(status: StatusCode, name: &'static str, message: &'static str) -> Self {
        Self { words: Some((name, message)), ..Self::bare(status) }
    }

    /// No such order, capture or refund.
    pub(super) fn unknown_resource() -> Self {
        Self::issue("INVALID_RESOURCE_ID")
    }

    /// Which field of the body the issue is about.
    pub(super) fn at(mut self, field: impl Into<String>) -> Self {
        if let Some(detail) = self.details.first_mut() {
            detail.field = Some(field.into());
            detail.location = Some("body");
        }
        self
    }

    /// What stood there.
    pub(super) fn value(mut self, value: impl Into<String>) -> Self {
        if let Some(detail) = self.details.first_mut() {
            detail.value = Some(value.into());
        }
        self
    }

    /// Replaces PayPal's general words by more exact ones.
    pub(super) fn because(mut self, why: impl Into<String>) -> Self {
        if let Some(detail) = self.details.first_mut() {
            detail.description = why.into();
        }
        self
    }

    pub(super) fn link(mut self, rel: &str, href: &str) -> Self {
        self.links.push(json!({"href": href, "rel": rel, "method": "GET"}));
        self
    }

    pub(super) fn retry_after(mut self, seconds: Option<u32>) -> Self {
        self.retry_after = seconds;
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let debug_id = ids::debug();
        let (name, message) = self.words.unwrap_or_else(|| class(self.status));
        let mut body = json!({"name": name, "message": message, "debug_id": debug_id, "links": self.links});
        if !self.details.is_empty() {
            body["details"] = json!(self.details);
        }
        let mut response = (self.status, [(DEBUG_ID, debug_id)], Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn documented(issue: &str) -> Option<(StatusCode, &'static str)> {
    ISSUES.lines().find_map(|line| {
        let (status, rest) = line.split_once(' ')?;
        let (name, description) = rest.split_once(' ')?;
        (name == issue).then_some((StatusCode::from_bytes(status.as_bytes()).ok()?, description))
    })
}

/// PayPal's classes of errors: status, name, message.
const CLASSES: [(u16, &str, &str); 10] = [
    (400, "INVALID_REQUEST", "Request is not well-formed, syntactically incorrect, or violates schema."),
    (
        401,
        "AUTHENTICATION_FAILURE",
        "Authentication failed due to missing authorization header, or invalid authentication credentials.",
    ),
    (403, "NOT_AUTHORIZED", "Authorization failed due to insufficient permissions."),
    (404, "RESOURCE_NOT_FOUND", "The specified resource does not exist."),
    (409, "RESOURCE_CONFLICT", "The server has detected a conflict while processing this request."),
    (415, "UNSUPPORTED_MEDIA_TYPE", "The server does not support the request payload's media type."),
    (
        422,
        "UNPROCESSABLE_ENTITY",
        "The requested action could not be performed, semantically incorrect, or failed business validation.",
    ),
    (429, "RATE_LIMIT_REACHED", "Too many requests. Blocked due to rate limiting."),
    (500, "INTERNAL_SERVER_ERROR", "An internal server error occurred."),
    (503, "SERVICE_UNAVAILABLE", "Service Unavailable."),
];

fn class(status: StatusCode) -> (&'static str, &'static str) {
    let known = CLASSES.iter().find(|(code, _, _)| *code == status.as_u16());
    known.map_or(("INTERNAL_SERVICE_ERROR", "An internal service error has occurred."), |(_, name, text)| (name, text))
}

fn class_status(name: &str) -> Option<StatusCode> {
    let (code, _, _) = CLASSES.iter().find(|(_, known, _)| *known == name)?;
    StatusCode::from_u16(*code).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_issue_has_a_status_and_words() {
        let lines = ISSUES.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let issue = line.split(' ').nth(1).expect("a name");
            let (status, words) = documented(issue).expect("its line can be read");
            assert!(status.is_client_error() && !words.is_empty(), "{line}");
        }
    }
}
