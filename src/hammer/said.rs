//! What the shop said to a buyer, read from status and body.

use std::borrow::Cow;

use serde::Deserialize;

use super::line::{Lost, Reply};

/// An acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Placed {
    /// The order's id.
    pub order_id: String,
    /// What opens it to its buyer.
    pub order_token: String,
}

/// What came of a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It is placed, and the shop answers for that.
    Accepted(Placed),
    /// There is not enough.
    SoldOut,
    /// The sale has its rules, and they do not let this buyer in.
    NotForYou,
    /// Too busy, or away: nothing was begun.
    Refused,
    /// Nobody knows: it may be placed. For a person, why.
    Unknown(Cow<'static, str>),
    /// An answer that no buyer should get. For a person, which.
    Wrong(String),
}

/// What a sale may say to whoever comes too early, too often, or not through its waiting room.
const RULES: [&str; 7] = [
    "sale_not_started",
    "limit_reached",
    "ticket_required",
    "ticket_invalid",
    "not_admitted",
    "ticket_used",
    "ticket_expired",
];

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow, default)]
    code: Cow<'a, str>,
}

/// A problem's stable word; empty where there is none.
pub fn code(body: &[u8]) -> Cow<'_, str> {
    serde_json::from_slice::<Problem<'_>>(body).map(|problem| problem.code).unwrap_or_default()
}

/// An answer that is no good, in a few words: of those that fail alike there is one line in the table.
pub fn complaint(status: u16, body: &[u8]) -> String {
    format!("HTTP {status} {}", code(body)).trim_end().to_owned()
}

impl Said {
    /// Reads an answer to a checkout, of goods that may be in a sale or of such that cannot be.
    #[must_use]
    pub fn of(answer: Result<Reply<'_>, Lost>, in_a_sale: bool) -> Self {
        let Reply { status, body } = match answer {
            Ok(reply) => reply,
            Err(lost) => return Self::Unknown(lost.to_string().into()),
        };
        match status {
            201 => serde_json::from_slice(body)
                .map_or_else(|_| Self::Unknown("an acknowledgement that cannot be read".into()), Self::Accepted),
            409 if code(body) == "out_of_stock" => Self::SoldOut,
            403 | 409 if in_a_sale && RULES.contains(&&*code(body)) => Self::NotForYou,
            429 => Self::Refused,
            503 if matches!(&*code(body), "busy" | "unavailable" | "superseded") => Self::Refused,
            500.. => Self::Unknown(complaint(status, body).into()),
            _ => Self::Wrong(complaint(status, body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let of =
            |status, body: &'static str, in_a_sale| Said::of(Ok(Reply { status, body: body.as_bytes() }), in_a_sale);
        let said = |status, body| of(status, body, true);
        let placed = r#"{"order_id":"order_1","status":"awaiting_payment","lines":[],"order_token":"t"}"#;
        assert_eq!(said(201, placed), Said::Accepted(Placed { order_id: "order_1".into(), order_token: "t".into() }));
        assert_eq!(said(409, r#"{"code":"out_of_stock","lines":[]}"#), Said::SoldOut);
        assert_eq!(said(403, r#"{"code":"ticket_required"}"#), Said::NotForYou);
        assert_eq!(said(409, r#"{"code":"limit_reached","limit":2}"#), Said::NotForYou);
        assert_eq!(of(409, r#"{"code":"limit_reached"}"#, false), Said::Wrong("HTTP 409 limit_reached".into()));
        assert_eq!(said(409, r#"{"code":"quote_changed"}"#), Said::Wrong("HTTP 409 quote_changed".into()));
        assert_eq!(said(403, ""), Said::Wrong("HTTP 403".into()));
        assert_eq!((said(503, r#"{"code":"busy"}"#), said(429, "")), (Said::Refused, Said::Refused));
        for (status, body) in
            [(503, r#"{"code":"outcome_unknown"}"#), (500, ""), (201, "cut"), (502, "<html>"), (503, "")]
        {
            assert!(matches!(said(status, body), Said::Unknown(_)), "{status} {body}");
        }
        assert_eq!(Said::of(Err(Lost::TimedOut), true), Said::Unknown("timed out".into()));
    }
}
