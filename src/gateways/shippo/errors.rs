//! Shippo's refusals in the engine's words.
//!
//! Shippo answers in the manner of Django REST: a field's name and sentences about it, or one `detail`. Sentences change
//! without notice and may quote where a buyer lives, so fields are told and sentences are not. Whatever is not certainly
//! Shippo's own no (a 5xx, a page of HTML, a redirect, a cut connection) is [`ProviderError::Unknown`]: a label may have been
//! bought.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{StatusCode, header, header::HeaderMap};
use serde_json::Value;
use souk_actors::ports::ProviderError;

/// Asked to wait longer than this, Souk comes back earlier.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// More fields than a person reads.
const MOST_FIELDS: usize = 6;

/// One whole HTTP answer of Shippo.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// When it was answered, by Shippo's clock.
    pub(super) date: Option<DateTime<Utc>>,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// What an answer other than 200 or 201 means.
pub(super) fn refusal(answer: &Answer) -> ProviderError {
    let status = answer.status;
    if status == StatusCode::CONFLICT {
        return ProviderError::NotYet(describe(answer, "in conflict"));
    }
    if status == StatusCode::UNAUTHORIZED {
        // the account's key, not the call: labels must survive the day on which somebody changes it
        tracing::error!("Shippo refuses the shop's key");
        return uncertain(answer, "key refused");
    }
    let undecided = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if undecided || !status.is_client_error() {
        return uncertain(answer, "no decision");
    }
    let Ok(Value::Object(body)) = serde_json::from_slice(&answer.body) else {
        return uncertain(answer, "not Shippo's words");
    };
    if status == StatusCode::NOT_FOUND {
        return ProviderError::Dead(describe(answer, "not found"));
    }
    let mut fields = Vec::new();
    gather("", &Value::Object(body), &mut fields);
    fields.truncate(MOST_FIELDS);
    let fields = if fields.is_empty() { "refused".to_owned() } else { format!("refused for {}", fields.join(", ")) };
    ProviderError::Rejected(describe(answer, &fields))
}

/// The paths of the fields that an answer complains of: `address_to.zip`.
fn gather(path: &str, value: &Value, fields: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, below) in object.iter().filter(|(name, _)| is_word(name)) {
                let is_all = name == "__all__" || name == "non_field_errors";
                let path = match (path, is_all) {
                    (_, true) => path.to_owned(),
                    ("", false) => name.clone(),
                    (_, false) => format!("{path}.{name}"),
                };
                gather(&path, below, fields);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter().for_each(|below| gather(path, below, fields));
        }
        Value::Array(_) | Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {
            if !path.is_empty() && !fields.iter().any(|known| known == path) {
                fields.push(path.to_owned());
            }
        }
    }
}

/// The name of a field, and nothing that somebody may have typed.
fn is_word(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// An answer from which nothing certain follows.
pub(super) fn uncertain(answer: &Answer, why: &str) -> ProviderError {
    ProviderError::Unknown { reason: describe(answer, why), retry_after: answer.retry_after }
}

/// No answer, from which nothing certain follows either.
pub(super) fn no_answer(why: &str) -> ProviderError {
    ProviderError::Unknown { reason: why.to_owned(), retry_after: None }
}

/// A call that ended without a whole answer. The error's own text names the URL and stays here.
pub(super) fn broken(error: &reqwest::Error) -> ProviderError {
    if error.is_timeout() {
        return no_answer("timed out");
    }
    if error.is_connect() {
        return no_answer("no connection");
    }
    if error.is_builder() {
        return ProviderError::Rejected("the request could not be built".to_owned());
    }
    no_answer("the connection was cut")
}

fn describe(answer: &Answer, what: &str) -> String {
    format!("{what} (HTTP {})", answer.status.as_u16())
}

/// When it was answered, and when to come back, within reason: `Retry-After` in seconds or as a date (RFC 9110 §10.2.3),
/// else `X-RateLimit-Reset`, which some have seen as seconds and some as a time.
pub(super) fn times(headers: &HeaderMap, now: DateTime<Utc>) -> (Option<DateTime<Utc>>, Option<Duration>) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let date = text(header::DATE.as_str()).and_then(|text| DateTime::parse_from_rfc2822(text).ok());
    let date = date.map(|date| date.to_utc());
    let until = |at: DateTime<Utc>| (at - date.unwrap_or(now)).to_std().unwrap_or_default();
    let asked = text(header::RETRY_AFTER.as_str()).and_then(|text| match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(until(DateTime::parse_from_rfc2822(text).ok()?.to_utc())),
    });
    let reset = || {
        let number: i64 = text("x-ratelimit-reset")?.parse().ok().filter(|number| *number >= 0)?;
        let is_time = number > 1_000_000_000;
        if is_time {
            DateTime::from_timestamp(number, 0).map(until)
        } else {
            number.try_into().ok().map(Duration::from_secs)
        }
    };
    (date, asked.or_else(reset).map(|wait| wait.min(LONGEST_WAIT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).expect("a status");
        Answer { status, date: None, retry_after: None, body: body.as_bytes().to_vec() }
    }

    fn kind(error: &ProviderError) -> &'static str {
        match error {
            ProviderError::Unknown { .. } => "unknown",
            ProviderError::Declined(_) => "declined",
            ProviderError::NotYet(_) => "not yet",
            ProviderError::AlreadyDone(_) => "already done",
            ProviderError::Dead(_) => "dead",
            ProviderError::Rejected(_) => "rejected",
            ProviderError::TakenBack(_) => "taken back",
        }
    }

    #[test]
    fn a_no_is_told_by_its_fields_and_never_by_its_sentences() {
        for (body, told) in [
            (r#"{"rate":["Rate 12 Secret Street not found."]}"#, "refused for rate (HTTP 400)"),
            (
                r#"{"address_from":[{"__all__":["12 Secret Street"]}],"parcels":[{"weight":["no"]},{"weight":["no"]}]}"#,
                "refused for address_from, parcels.weight (HTTP 400)",
            ),
            (r#"{"12 Secret Street":["x"]}"#, "refused (HTTP 400)"),
            (r#"{"__all__":["12 Secret Street"]}"#, "refused (HTTP 400)"),
            ("{}", "refused (HTTP 400)"),
        ] {
            let error = refusal(&answer(400, body));
            assert_eq!(error, ProviderError::Rejected(told.to_owned()), "{body}");
        }
    }

    #[test]
    fn what_is_not_certainly_a_no_is_unknown() {
        let html = "<html><body>Service Unavailable</body></html>";
        for (status, body, class) in [
            (500, r#"{"detail":"Not found."}"#, "unknown"),
            (503, html, "unknown"),
            (302, "", "unknown"),
            (404, html, "unknown"),
            (400, "[]", "unknown"),
            (408, "", "unknown"),
            (429, r#"{"detail":"Request was throttled."}"#, "unknown"),
            (401, r#"{"detail":"Invalid token"}"#, "unknown"),
            (403, r#"{"detail":"You do not have permission to perform this action."}"#, "rejected"),
            (404, r#"{"detail":"Not found."}"#, "dead"),
            (409, html, "not yet"),
            (422, r#"{"detail":"no"}"#, "rejected"),
        ] {
            assert_eq!(kind(&refusal(&answer(status, body))), class, "{status} {body}");
        }
    }

    #[test]
    fn when_to_come_back_is_read_in_every_form_and_capped() {
        let now = DateTime::parse_from_rfc3339("2026-11-22T12:00:00Z").expect("a time").to_utc();
        let at = |seconds: i64| (now.timestamp() + seconds).to_string();
        for (name, text, seconds) in [
            ("retry-after", "7".to_owned(), Some(7)),
            ("retry-after", "Sun, 22 Nov 2026 12:00:30 GMT".to_owned(), Some(30)),
            ("retry-after", "999999".to_owned(), Some(3600)),
            ("retry-after", "soon".to_owned(), None),
            ("x-ratelimit-reset", "42".to_owned(), Some(42)),
            ("x-ratelimit-reset", at(20), Some(20)),
            ("x-ratelimit-reset", at(-20), Some(0)),
            ("x-ratelimit-reset", "-1".to_owned(), None),
        ] {
            let name: header::HeaderName = name.parse().expect("a name");
            let headers = HeaderMap::from_iter([(name, text.parse().expect("a value"))]);
            assert_eq!(times(&headers, now).1, seconds.map(Duration::from_secs), "{text}");
        }
        let headers = HeaderMap::from_iter([(header::DATE, "Sun, 22 Nov 2026 12:00:30 GMT".parse().expect("a value"))]);
        assert_eq!(times(&headers, now).0, Some(now + chrono::TimeDelta::seconds(30)));
    }
}
