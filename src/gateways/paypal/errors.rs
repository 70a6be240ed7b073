//! PayPal's refusals in the engine's words.
//!
//! Only `details[].issue` decides, a closed vocabulary of PayPal's; `message` and `description` change without notice
//! and may quote what the buyer typed, so they are neither branched on nor repeated. Whatever is not certainly PayPal's
//! own no (a 5xx, a page of HTML, a redirect, a cut connection) is [`ProviderError::Unknown`]: it may have been done.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;
use souk_actors::ports::ProviderError;

use super::wire;

/// Asked to wait longer than this, Souk comes back earlier: no `Retry-After` parks a payment for a day.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// One whole HTTP answer of PayPal.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `PayPal-Debug-Id`, which PayPal's support asks for; `-` where there was none.
    pub(super) debug_id: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// What follows from an issue, where something better than "a person must look" does.
#[derive(Clone, Copy)]
enum Class {
    Declined,
    NotYet,
    AlreadyDone,
    Dead,
    TakenBack,
}

/// PayPal's issues by what follows from them. Not listed are those about our call or the merchant's account
/// (arithmetic, `PAYEE_*`, `PERMISSION_DENIED`, `DUPLICATE_INVOICE_ID`, more captured than authorised, and nearly all of a
/// refund's): a person's work.
fn class_of(issue: &str) -> Option<Class> {
    match issue {
        "INSTRUMENT_DECLINED" | "PAYER_ACTION_REQUIRED" | "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING" => {
            Some(Class::Declined)
        }

        "ORDER_NOT_APPROVED"
        | "ORDER_IS_PENDING_APPROVAL"
        | "ORDER_COMPLETION_IN_PROGRESS"
        | "PENDING_CAPTURE"
        | "PREVIOUS_REQUEST_IN_PROGRESS"
        | "RESOURCE_CONFLICT" => Some(Class::NotYet),

        "ORDER_ALREADY_CAPTURED"
        | "ORDER_ALREADY_AUTHORIZED"
        | "ORDER_ALREADY_COMPLETED"
        | "ORDER_COMPLETED_OR_VOIDED"
        | "AUTHORIZATION_ALREADY_CAPTURED"
        | "PREVIOUSLY_CAPTURED"
        | "PREVIOUSLY_VOIDED"
        | "CAPTURE_FULLY_REFUNDED" => Some(Class::AlreadyDone),

        "ORDER_EXPIRED"
        | "AUTHORIZATION_EXPIRED"
        | "AUTHORIZATION_VOIDED"
        | "AUTHORIZATION_DENIED"
        | "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED"
        | "TRANSACTION_REFUSED"
        | "TRANSACTION_LIMIT_EXCEEDED"
        | "TRANSACTION_BLOCKED_BY_PAYEE"
        | "PAYEE_BLOCKED_TRANSACTION"
        | "DOMESTIC_TRANSACTION_REQUIRED"
        | "PAYER_CANNOT_PAY"
        | "PAYER_ACCOUNT_LOCKED_OR_CLOSED"
        | "PAYER_ACCOUNT_RESTRICTED"
        | "PAYMENT_SOURCE_DECLINED_BY_PROCESSOR"
        | "PAYMENT_SOURCE_CANNOT_BE_USED"
        | "PAYMENT_SOURCE_INFO_CANNOT_BE_VERIFIED"
        | "COMPLIANCE_VIOLATION"
        | "INVALID_RESOURCE_ID"
        | "RESOURCE_NOT_FOUND" => Some(Class::Dead),

        "REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK" => Some(Class::TakenBack),

        _ => None,
    }
}

/// An error of the API (`name`, `details[].issue`), or one of OAuth (`error`).
#[derive(Deserialize)]
struct Refusal {
    #[serde(default, deserialize_with = "wire::lenient")]
    name: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    error: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient_list")]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    issue: String,
}

impl Refusal {
    /// The words of the answer, most telling first.
    fn words(self) -> Vec<String> {
        let issues = self.details.into_iter().map(|detail| detail.issue);
        issues.chain(self.name).chain(self.error).filter(|word| is_word(word)).collect()
    }
}

/// PayPal's vocabulary is letters and underscores: anything else is not from it, and not for a log.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What an answer other than 200 or 201 means.
pub(super) fn refusal(answer: &Answer) -> ProviderError {
    let status = answer.status;
    if status == StatusCode::CONFLICT {
        return ProviderError::NotYet(describe(answer, "RESOURCE_CONFLICT"));
    }
    if status == StatusCode::UNAUTHORIZED {
        // the account's credentials, not the call: refunds must survive the day on which somebody changes them
        tracing::error!(debug_id = answer.debug_id, "PayPal refuses the shop's credentials");
        return uncertain(answer, "credentials refused");
    }
    let undecided = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if undecided || !status.is_client_error() {
        return uncertain(answer, "no decision");
    }

    let words = serde_json::from_slice::<Refusal>(&answer.body).map(Refusal::words).unwrap_or_default();
    let Some(first) = words.first() else {
        return uncertain(answer, "not PayPal's words");
    };
    let known = words.iter().find_map(|word| class_of(word).map(|class| (word, class)));
    match known {
        Some((word, Class::Declined)) => ProviderError::Declined(describe(answer, word)),
        Some((word, Class::NotYet)) => ProviderError::NotYet(describe(answer, word)),
        Some((word, Class::AlreadyDone)) => ProviderError::AlreadyDone(describe(answer, word)),
        Some((word, Class::Dead)) => ProviderError::Dead(describe(answer, word)),
        Some((word, Class::TakenBack)) => ProviderError::TakenBack(describe(answer, word)),
        None => ProviderError::Rejected(describe(answer, first)),
    }
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

fn describe(answer: &Answer, word: &str) -> String {
    format!("{word} (HTTP {}, PayPal-Debug-Id {})", answer.status.as_u16(), answer.debug_id)
}

/// `PayPal-Debug-Id`, if it looks like one.
pub(super) fn debug_id(headers: &HeaderMap) -> String {
    let text = headers.get("paypal-debug-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { text.to_owned() } else { "-".to_owned() }
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), within reason.
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            debug_id: "f12345".to_owned(),
            retry_after: None,
            body: body.as_bytes().to_vec(),
        }
    }

    /// An error in the recorded shape, with a description that must not matter or show.
    fn unprocessable(issue: &str) -> String {
        format!(
            r#"{{"name":"UNPROCESSABLE_ENTITY","message":"The requested action could not be performed.",
            "debug_id":"f12345","details":[{{"field":"/purchase_units/0","location":"body",
            "value":"12 Secret Street","issue":"{issue}","description":"ORDER_EXPIRED? 12 Secret Street"}}],
            "links":[{{"href":"https://developer.paypal.com/","rel":"information_link","method":"GET"}}]}}"#
        )
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

    /// Every issue of PayPal's that a call of ours can meet, by what follows from it.
    const CLASSES: [(&str, &[&str]); 6] = [
        ("declined", &["INSTRUMENT_DECLINED", "PAYER_ACTION_REQUIRED", "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING"]),
        (
            "not yet",
            &[
                "ORDER_NOT_APPROVED",
                "ORDER_IS_PENDING_APPROVAL",
                "ORDER_COMPLETION_IN_PROGRESS",
                "PENDING_CAPTURE",
                "PREVIOUS_REQUEST_IN_PROGRESS",
            ],
        ),
        (
            "already done",
            &[
                "ORDER_ALREADY_CAPTURED",
                "ORDER_ALREADY_AUTHORIZED",
                "ORDER_ALREADY_COMPLETED",
                "ORDER_COMPLETED_OR_VOIDED",
                "AUTHORIZATION_ALREADY_CAPTURED",
                "PREVIOUSLY_CAPTURED",
                "PREVIOUSLY_VOIDED",
                "CAPTURE_FULLY_REFUNDED",
            ],
        ),
        (
            "dead",
            &[
                "ORDER_EXPIRED",
                "AUTHORIZATION_EXPIRED",
                "AUTHORIZATION_VOIDED",
                "AUTHORIZATION_DENIED",
                "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED",
                "TRANSACTION_REFUSED",
                "PAYER_CANNOT_PAY",
                "PAYER_ACCOUNT_LOCKED_OR_CLOSED",
                "PAYER_ACCOUNT_RESTRICTED",
                "COMPLIANCE_VIOLATION",
                "TRANSACTION_LIMIT_EXCEEDED",
                "INVALID_RESOURCE_ID",
            ],
        ),
        (
            "rejected",
            &[
                "ACTION_DOES_NOT_MATCH_INTENT",
                "DUPLICATE_INVOICE_ID",
                "PERMISSION_DENIED",
                "PAYEE_ACCOUNT_RESTRICTED",
                "PAYEE_ACCOUNT_LOCKED_OR_CLOSED",
                "INVALID_CURRENCY_CODE",
                "DECIMAL_PRECISION",
                "DECIMALS_NOT_SUPPORTED",
                "AMOUNT_MISMATCH",
                "ITEM_TOTAL_MISMATCH",
                "TAX_TOTAL_REQUIRED",
                "MULTI_CURRENCY_ORDER",
                "PAYPAL_REQUEST_ID_REQUIRED",
                "MAX_CAPTURE_COUNT_EXCEEDED",
                "MAX_CAPTURE_AMOUNT_EXCEEDED",
                "AUTH_CAPTURE_CURRENCY_MISMATCH",
                "CANNOT_BE_VOIDED",
                "REAUTHORIZATION_NOT_SUPPORTED",
                "REFUND_AMOUNT_EXCEEDED",
                "REFUND_CAPTURE_CURRENCY_MISMATCH",
                "REFUND_TIME_LIMIT_EXCEEDED",
                "REFUND_NOT_ALLOWED",
                "REFUND_FAILED_INSUFFICIENT_FUNDS",
                "PARTIAL_REFUND_NOT_ALLOWED",
                "MAX_NUMBER_OF_REFUNDS_EXCEEDED",
                "TRANSACTION_DISPUTED",
                "AN_ISSUE_OF_NEXT_YEAR",
            ],
        ),
        ("taken back", &["REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK"]),
    ];

    #[test]
    fn an_issue_decides() {
        let every = CLASSES.iter().flat_map(|(class, issues)| issues.iter().map(move |issue| (*class, *issue)));
        for (class, issue) in every {
            let error = refusal(&answer(422, &unprocessable(issue)));
            assert_eq!(kind(&error), class, "{issue}");
            assert!(error.to_string().contains(issue) && error.to_string().contains("f12345"), "{error}");
            assert!(!error.to_string().contains("Secret Street"), "{error}");
        }
    }

    #[test]
    fn among_several_issues_the_first_known_one_decides() {
        let body = r#"{"name":"UNPROCESSABLE_ENTITY","details":[null,{"issue":"NEW_ONE"},{"issue":"ORDER_EXPIRED"}]}"#;
        assert_eq!(kind(&refusal(&answer(422, body))), "dead");
    }

    #[test]
    fn a_refusal_without_details_is_judged_by_its_name() {
        for (status, body, class) in [
            (404, r#"{"name":"RESOURCE_NOT_FOUND","details":null}"#, "dead"),
            (403, r#"{"name":"NOT_AUTHORIZED","details":[]}"#, "rejected"),
            (401, r#"{"error":"invalid_client","error_description":"Client Authentication failed"}"#, "unknown"),
            (400, r#"{"name":"INVALID_REQUEST"}"#, "rejected"),
        ] {
            assert_eq!(kind(&refusal(&answer(status, body))), class, "{status}");
        }
    }

    #[test]
    fn what_is_not_certainly_a_no_is_unknown() {
        let html = "<html><body>Service Unavailable</body></html>";
        for (status, body) in [
            (500, r#"{"name":"INTERNAL_SERVER_ERROR","details":[{"issue":"ORDER_EXPIRED"}]}"#),
            (500, html),
            (503, html),
            (302, ""),
            (404, html),
            (422, r#"{"details":[{"issue":"no word at all"}]}"#),
            (400, "[]"),
            (408, ""),
            (429, r#"{"name":"RATE_LIMIT_REACHED","message":"Too many requests.","debug_id":"f","links":[]}"#),
        ] {
            assert_eq!(kind(&refusal(&answer(status, body))), "unknown", "{status} {body}");
        }
        assert_eq!(kind(&refusal(&answer(409, html))), "not yet");
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_capped() {
        let now = DateTime::parse_from_rfc3339("2026-11-22T12:00:00Z").expect("a time").to_utc();
        for (text, seconds) in [
            ("7", Some(7)),
            ("Sun, 22 Nov 2026 12:00:30 GMT", Some(30)),
            ("Sun, 22 Nov 2026 11:00:00 GMT", Some(0)),
            ("999999", Some(3600)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(reqwest::header::RETRY_AFTER, text.parse().expect("a value"))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
