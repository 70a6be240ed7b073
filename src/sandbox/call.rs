//! What the Orders and Payments calls have in common: headers that change how a call is done, and the shape of answers.

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{bank::Shared, errors::Problem};

/// PayPal's limit for orders; longer ids are refused.
const REQUEST_ID_LIMIT: usize = 108;
/// What is left of a resource with `Prefer: return=minimal`, which is also the default.
const MINIMAL: [&str; 3] = ["id", "status", "links"];

pub(super) struct Call {
    /// `PayPal-Request-Id`: the key that makes a repetition harmless.
    pub(super) request_id: Option<String>,
    /// `Prefer: return=representation`.
    pub(super) representation: bool,
    body: Bytes,
}

impl FromRequest<Shared> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Problem> {
        let headers = request.headers();
        check_media_type(&request)?;
        check_mock_response(headers)?;
        let request_id = text(headers, "paypal-request-id").map(str::to_owned);
        if request_id.as_ref().is_some_and(|id| id.len() > REQUEST_ID_LIMIT) {
            return Err(Problem::issue("INVALID_STRING_MAX_LENGTH").value("PayPal-Request-Id"));
        }
        let representation = text(headers, "prefer").is_some_and(|prefer| prefer.contains("return=representation"));
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| Problem::bare(rejection.status()))?;
        Ok(Self { request_id, representation, body })
    }
}

impl Call {
    /// The body, which must be there.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| malformed(&error))
    }

    /// The body, which may be left out.
    pub(super) fn optional_json<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.body.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        self.json::<Option<T>>().map(Option::unwrap_or_default)
    }

    /// 201 for a thing done, 200 for one that an earlier call with the same id has done; as long as was preferred.
    pub(super) fn answer(&self, fresh: bool, mut resource: Value) -> Response {
        if !self.representation
            && let Some(fields) = resource.as_object_mut()
        {
            fields.retain(|name, _| MINIMAL.contains(&name.as_str()));
        }
        done(fresh, resource)
    }
}

/// The same for calls that know no `Prefer`: always all of it.
pub(super) fn done(fresh: bool, resource: Value) -> Response {
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    (status, Json(resource)).into_response()
}

fn malformed(error: &serde_json::Error) -> Problem {
    let issue = if error.is_data() { "INVALID_PARAMETER_SYNTAX" } else { "MALFORMED_REQUEST_JSON" };
    Problem::issue(issue).at("/").value(error.to_string())
}

/// PayPal answers 415 to a POST without this header, even when there is no body; but its own clients void without it, or
/// with the one that their HTTP library puts there.
fn check_media_type(request: &Request) -> Result<(), Problem> {
    let media_type = text(request.headers(), header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let is_asked_for = request.method() == Method::POST && !request.uri().path().ends_with("/void");
    if is_asked_for && !media_type.starts_with("application/json") {
        return Err(Problem::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    Ok(())
}

/// PayPal's own switch for negative tests: `PayPal-Mock-Response: {"mock_application_codes":"INSTRUMENT_DECLINED"}`.
fn check_mock_response(headers: &HeaderMap) -> Result<(), Problem> {
    #[derive(Deserialize)]
    struct Mock {
        mock_application_codes: String,
    }
    let Some(mock) = text(headers, "paypal-mock-response") else { return Ok(()) };
    let mock: Mock = serde_json::from_str(mock).map_err(|error| malformed(&error))?;
    Err(Problem::mocked(&mock.mock_application_codes))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
