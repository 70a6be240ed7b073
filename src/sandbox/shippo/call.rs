//! What Shippo's calls have in common: the key, the two kinds of bodies, and the pages of a list.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;

use super::{errors::Refusal, office::Desk};

/// Shippo's limit for `metadata`.
const METADATA_LIMIT: usize = 100;
/// The one version of the API that this sandbox speaks.
const VERSION: &str = "2018-02-08";
/// How many rows a page of a list has, unless it is asked for another number.
const PAGE: usize = 25;
const LARGEST_PAGE: usize = 200;

/// The layer before every call: who is it, and in which version does it speak?
pub(super) async fn guard(State(desk): State<Desk>, request: Request, next: Next) -> Result<Response, Refusal> {
    let headers = request.headers();
    let Some(sent) = text(headers, header::AUTHORIZATION.as_str()) else {
        return Err(Refusal::bare(StatusCode::UNAUTHORIZED));
    };
    let key = sent.strip_prefix("ShippoToken ").or_else(|| sent.strip_prefix("Bearer "));
    let known = key.is_some_and(|key| bool::from(key.as_bytes().ct_eq(desk.settings.key.as_bytes())));
    if !known {
        return Err(Refusal::detail(StatusCode::UNAUTHORIZED, "Invalid token."));
    }
    match text(headers, "shippo-api-version") {
        Some(version) if version != VERSION => {
            Err(Refusal::detail(StatusCode::BAD_REQUEST, format!("This sandbox speaks {VERSION}, not {version}.")))
        }
        Some(_) | None => Ok(next.run(request).await),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A body by its fields, whether it came as JSON or as a form.
#[derive(Default)]
pub(super) struct Fields(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let is_form = text(request.headers(), header::CONTENT_TYPE.as_str())
            .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| Refusal::bare(rejection.status()))?;
        if is_form {
            return Ok(Self(from_form(&body)));
        }
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Refusal::field("non_field_errors", "Invalid data. Expected a dictionary.")),
            Err(error) => Err(Refusal::detail(StatusCode::BAD_REQUEST, format!("JSON parse error - {error}"))),
        }
    }
}

/// `a=1`, `a[]=1` for lists and `a[b]=1` for an object within.
fn from_form(body: &[u8]) -> Map<String, Value> {
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        let value = Value::String(value.into_owned());
        let inner = name.strip_suffix(']').and_then(|name| name.split_once('['));
        match inner {
            None => {
                fields.insert(name.into_owned(), value);
            }
            Some((outer, "")) => {
                if let Value::Array(list) = fields.entry(outer).or_insert_with(|| json!([])) {
                    list.push(value);
                }
            }
            Some((outer, inner)) => {
                if let Value::Object(object) = fields.entry(outer).or_insert_with(|| json!({})) {
                    object.insert(inner.to_owned(), value);
                }
            }
        }
    }
    fields
}

impl Fields {
    pub(super) fn of(fields: &Map<String, Value>) -> Self {
        Self(fields.clone())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null() && *value != "")
    }

    /// A text, or a number as its text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => text.to_lowercase().parse().ok(),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// A list; one value alone is a list of one.
    pub(super) fn list(&self, name: &str) -> Vec<Value> {
        match self.get(name) {
            None => Vec::new(),
            Some(Value::Array(list)) => list.clone(),
            Some(one) => vec![one.clone()],
        }
    }

    /// Refuses once for all that is missing.
    pub(super) fn require(&self, names: &[&str]) -> Result<(), Refusal> {
        let missing = names.iter().filter(|name| self.get(name).is_none());
        let missing: Map<String, Value> =
            missing.map(|name| ((*name).to_owned(), json!(["This field is required."]))).collect();
        if missing.is_empty() { Ok(()) } else { Err(Refusal::fields(missing)) }
    }

    /// One of the words, if there is any.
    pub(super) fn choice(&self, name: &str, words: &[&str]) -> Result<Option<String>, Refusal> {
        let Some(word) = self.text(name) else { return Ok(None) };
        if words.contains(&word.as_str()) { Ok(Some(word)) } else { Err(Refusal::choice(name, &word)) }
    }

    /// A positive decimal, as it was written.
    pub(super) fn decimal(&self, name: &str) -> Result<String, Refusal> {
        let text = self.text(name).ok_or_else(|| Refusal::missing(name))?;
        match text.parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(text),
            Ok(_) => Err(Refusal::field(name, "Ensure this value is greater than 0.")),
            Err(_) => Err(Refusal::field(name, "A valid number is required.")),
        }
    }

    /// Ours, and kept as it is.
    pub(super) fn metadata(&self) -> Result<String, Refusal> {
        let metadata = self.text("metadata").unwrap_or_default();
        if metadata.chars().count() > METADATA_LIMIT {
            let sentence = format!("Ensure this field has no more than {METADATA_LIMIT} characters.");
            return Err(Refusal::field("metadata", sentence));
        }
        Ok(metadata)
    }

    /// Only these fields, for an answer.
    pub(super) fn only(&self, names: &[&str]) -> Map<String, Value> {
        let kept = names.iter().filter_map(|name| Some(((*name).to_owned(), self.get(name)?.clone())));
        kept.collect()
    }
}

/// `?page=…&results=…`
#[derive(Deserialize, Default)]
pub(super) struct Page {
    pub(super) page: Option<usize>,
    pub(super) results: Option<usize>,
}

impl Page {
    /// This page of the rows, as a list is answered.
    pub(super) fn of(&self, base: &str, path: &str, rows: &[Value]) -> Value {
        let size = self.results.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
        let page = self.page.unwrap_or(1).max(1);
        let start = (page - 1).saturating_mul(size).min(rows.len());
        let end = start.saturating_add(size).min(rows.len());
        let link = |page: usize| json!(format!("{base}/shippo{path}?page={page}&results={size}"));
        let mut list = json!({"results": rows[start..end]});
        if end < rows.len() {
            list["next"] = link(page + 1);
        }
        if page > 1 {
            list["previous"] = link(page - 1);
        }
        list
    }
}
