//! Who is to hear of what: which events a buyer is mailed, and which a merchant has asked to be called for.

use std::fmt;

use chrono::{DateTime, Utc};

use super::{SubscriptionId, words};

words! {
    /// A way out for news.
    Channel {
        /// Mail to the order's buyer.
        Mail = "mail",
        /// A call of an address that a merchant has subscribed with.
        Merchants = "merchants",
    }
}

words! {
    /// Where a piece of news stands.
    NoticeState {
        /// To be told (again).
        Open = "open",
        /// Told.
        Sent = "sent",
        /// Given up; a person may have it told again.
        Dead = "dead",
    }
}

/// The placement, which is no row of the timeline but the order's own.
pub(crate) const PLACED: &str = "placed";
/// The confirmation, which for an order that costs nothing is its placement.
pub(crate) const CONFIRMED: &str = "confirmed";

/// What staff writes down for itself: no receiver outside is told of it, whatever it has subscribed to.
const NOTE: &str = "note";

/// The events that a buyer is mailed of, in one word each as in the timeline: there is a letter for every one of them.
pub const MAILED: &[&str] = &[
    // the order
    CONFIRMED,
    "expired",
    "cancelled",
    "lines_cancelled",
    "not_cancelled",
    // its payment needs the buyer
    "partially_paid",
    "payment_declined",
    "payment_failed",
    "payment_mismatch",
    "approved_too_late",
    "authorisation_ended",
    // money that goes back; that it was asked for is told by how it goes
    "refund_pending",
    "refunded",
    "refund_failed",
    // its parcels
    "shipped",
    "out_for_delivery",
    "delivery_needs_you",
    "delivered",
    "delivery_exception",
    "returned_to_sender",
    // what comes back
    "return_approved",
    "return_declined",
    "return_received",
];

/// What an event is called outside: merchants subscribe to `order.confirmed`.
const PREFIX: &str = "order.";

/// A merchant's standing wish to be called.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Ours.
    pub id: SubscriptionId,
    /// What is called.
    pub url: String,
    /// What calls are signed with, as the merchant was told it: `whsec_…`.
    pub secret: String,
    /// Of which events, e.g. `order.confirmed`; `*`: of all.
    pub events: Vec<String>,
    /// What it is for, in a person's words.
    pub description: String,
    /// Why it is not called any more; none: it is.
    pub disabled: Option<String>,
    /// Since when no call has gone well.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Subscription {
    /// Whether it is to be called for an event.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        let named = |event: &String| event == "*" || event.strip_prefix(PREFIX) == Some(kind);
        kind != NOTE && self.disabled.is_none() && self.events.iter().any(named)
    }

    /// What an event is called outside.
    #[must_use]
    pub fn event_name(kind: &str) -> String {
        format!("{PREFIX}{kind}")
    }

    /// Whether a name may stand in a subscription. Which events there will be is not known for ever, so only its form is
    /// looked at.
    #[must_use]
    pub fn is_event_name(name: &str) -> bool {
        let word =
            |kind: &str| (1..=40).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        name == "*" || name.strip_prefix(PREFIX).is_some_and(word)
    }
}

impl fmt::Debug for Subscription {
    /// Its secret, and an address that may hold another, are nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(events: &[&str]) -> Subscription {
        Subscription {
            id: SubscriptionId(1),
            url: "https://merchant.example/".into(),
            secret: "whsec_secret".into(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
            description: String::new(),
            disabled: None,
            failing_since: None,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_subscription_wants_what_it_names() {
        let some = subscription(&["order.confirmed", "order.shipped"]);
        assert!(some.wants("confirmed") && some.wants("shipped"));
        assert!(!some.wants("expired") && !some.wants("order.confirmed"));
        assert!(subscription(&["*"]).wants("anything"));
        assert!(!subscription(&["*", "order.note"]).wants("note"), "staff's notes stay with staff");
        let disabled = Subscription { disabled: Some("gone".into()), ..subscription(&["*"]) };
        assert!(!disabled.wants("confirmed"));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", subscription(&["*"])).contains("secret"));
    }

    #[test]
    fn names_of_events_have_a_form() {
        for name in ["*", "order.confirmed", "order.some_day"] {
            assert!(Subscription::is_event_name(name), "{name}");
        }
        for name in ["", "confirmed", "order.", "order.Paid", "order.*", "order.a b"] {
            assert!(!Subscription::is_event_name(name), "{name}");
        }
    }
}
