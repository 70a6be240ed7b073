//! Disputes v1: a buyer's complaint about a capture, as PayPal lists it and as it shows it by itself.
//!
//! The list does not say how a dispute ended, so each one that it names is asked for.

use serde::Deserialize;
use souk_actors::ports::{Fact, FactKind, FactStatus};

use super::{
    money::Amount,
    wire::{self, Links, ObjectId, Reference, Times},
};

/// One page of `GET /v1/customer/disputes?disputed_transaction_id=…`.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default, deserialize_with = "wire::null_as_default")]
    items: Vec<Named>,
    #[serde(default)]
    links: Links,
}

#[derive(Deserialize)]
struct Named {
    dispute_id: ObjectId,
}

impl Page {
    /// The disputes it names, and the query of the page after it.
    pub(super) fn read(self) -> (Vec<ObjectId>, Option<String>) {
        (self.items.into_iter().map(|item| item.dispute_id).collect(), self.links.next_query())
    }
}

/// `GET /v1/customer/disputes/{id}`
#[derive(Deserialize)]
pub(super) struct Dispute {
    dispute_id: ObjectId,
    #[serde(default, deserialize_with = "wire::lenient")]
    status: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    dispute_outcome: Option<Outcome>,
    #[serde(default, deserialize_with = "wire::lenient")]
    dispute_amount: Option<Amount>,
    #[serde(default, deserialize_with = "wire::lenient_list")]
    disputed_transactions: Vec<Disputed>,
    #[serde(flatten)]
    times: Times,
}

#[derive(Deserialize)]
struct Outcome {
    outcome_code: String,
}

/// The transaction that a dispute is about. PayPal's word for `custom_id` is `custom` here.
#[derive(Deserialize)]
pub(super) struct Disputed {
    pub(super) seller_transaction_id: ObjectId,
    #[serde(default, deserialize_with = "wire::lenient")]
    pub(super) custom: Option<Reference>,
}

impl Dispute {
    /// What it says of `capture`.
    pub(super) fn fact(&self, capture: &ObjectId) -> Fact {
        let disputed = self.disputed_transactions.iter().find(|of| of.seller_transaction_id == *capture);
        Fact {
            kind: FactKind::Dispute,
            object_id: self.dispute_id.as_str().to_owned(),
            status: self.standing(),
            amount: self.dispute_amount.as_ref().and_then(Amount::money),
            reference: disputed.and_then(|of| of.custom.as_ref()).map(Reference::text),
            parent: Some(capture.as_str().to_owned()),
            at: self.times.latest().unwrap_or_default(),
        }
    }

    /// Whatever is not resolved is open, under whatever word. What a resolved one did to the money the capture says; an
    /// outcome that took nothing from the shop is won.
    fn standing(&self) -> FactStatus {
        if self.status.as_deref() != Some("RESOLVED") {
            return FactStatus::Open;
        }
        match self.dispute_outcome.as_ref().map(|outcome| outcome.outcome_code.as_str()).unwrap_or_default() {
            "RESOLVED_SELLER_FAVOUR" | "RESOLVED_WITH_PAYOUT" | "CANCELED_BY_BUYER" | "DENIED" | "NONE" => {
                FactStatus::Won
            }
            "RESOLVED_BUYER_FAVOUR" | "ACCEPTED" => FactStatus::Lost,
            _ => FactStatus::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn fact(status: &str, more: &str) -> Fact {
        let body = format!(
            r#"{{"dispute_id":"PP-D-27803","create_time":"2026-11-21T08:27:59.000Z",
            "update_time":"2026-11-22T01:02:03.250Z","status":"{status}","reason":"UNAUTHORISED",
            "disputed_transactions":[null,{{"seller_transaction_id":"OTHER","custom":"payment_9"}},
            {{"seller_transaction_id":"5B223658W54364539","custom":"payment_1","buyer":{{"name":"A Buyer"}}}}],
            "dispute_amount":{{"currency_code":"USD","value":"30.00"}},"dispute_life_cycle_stage":"CHARGEBACK"{more}}}"#
        );
        let dispute: Dispute = serde_json::from_str(&body).expect("a dispute");
        dispute.fact(&ObjectId::parse("5B223658W54364539").expect("an id"))
    }

    #[test]
    fn a_dispute_is_open_until_it_is_resolved() {
        for word in [
            "OPEN",
            "WAITING_FOR_BUYER_RESPONSE",
            "WAITING_FOR_SELLER_RESPONSE",
            "UNDER_REVIEW",
            "OTHER",
            "A_WORD_OF_NEXT_YEAR",
        ] {
            assert_eq!(fact(word, "").status, FactStatus::Open, "{word}");
        }
        for (outcome, status) in [
            ("RESOLVED_SELLER_FAVOUR", FactStatus::Won),
            ("RESOLVED_WITH_PAYOUT", FactStatus::Won),
            ("CANCELED_BY_BUYER", FactStatus::Won),
            ("DENIED", FactStatus::Won),
            ("NONE", FactStatus::Won),
            ("RESOLVED_BUYER_FAVOUR", FactStatus::Lost),
            ("ACCEPTED", FactStatus::Lost),
            ("A_WORD_OF_NEXT_YEAR", FactStatus::Other),
        ] {
            let more = format!(r#","dispute_outcome":{{"outcome_code":"{outcome}"}}"#);
            assert_eq!(fact("RESOLVED", &more).status, status, "{outcome}");
        }
        assert_eq!(fact("RESOLVED", "").status, FactStatus::Other);
    }

    #[test]
    fn a_dispute_names_the_capture_it_is_about() {
        let fact = fact("OPEN", "");
        assert_eq!((fact.kind, fact.object_id.as_str()), (FactKind::Dispute, "PP-D-27803"));
        assert_eq!((fact.parent.as_deref(), fact.reference.as_deref()), (Some("5B223658W54364539"), Some("payment_1")));
        assert_eq!(fact.amount.map(|amount| amount.minor), Some(3_000));
        assert_eq!(fact.at, DateTime::parse_from_rfc3339("2026-11-22T01:02:03.25Z").expect("a time"));
    }

    #[test]
    fn an_empty_answer_names_no_dispute_and_an_odd_one_is_no_answer() {
        for empty in ["{}", r#"{"items":null}"#, r#"{"items":[],"links":[]}"#] {
            let page: Page = serde_json::from_str(empty).expect("a page");
            assert_eq!(page.read(), (Vec::new(), None));
        }
        assert!(serde_json::from_str::<Page>(r#"{"items":[{"dispute_id":"../x"}]}"#).is_err());
    }
}
