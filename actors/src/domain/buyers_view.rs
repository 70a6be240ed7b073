//! What of an order's timeline its buyer sees. Events are written for staff; a buyer sees those that stand here, with the
//! fields that stand beside them. What nobody has put here is for staff alone: what labels cost, what a carrier or a
//! provider complains of, and whatever staff has written for itself.

use serde_json::Value;

use super::notice::{CONFIRMED, PLACED};

const OF_A_PARCEL: &[&str] =
    &["shipment_id", "carrier", "tracking_number", "tracking_url", "lines", "partial", "details", "substatus"];
const OF_A_REFUND: &[&str] = &["refund_id", "amount", "kind", "lines"];

/// The events that a buyer sees, and what of them.
const SEEN: &[(&str, &[&str])] = &[
    // the order
    (PLACED, &[]),
    (CONFIRMED, &["late"]),
    ("reopened", &["hold_expires_at"]),
    ("expired", &[]),
    ("held_back", &[]),
    ("released", &[]),
    ("cancelling", &[]),
    ("cancelled", &["reason"]),
    ("lines_cancelled", &["lines"]),
    ("not_cancelled", &[]),
    ("completed", &[]),
    // its money
    ("payment_started", &["payment_id", "provider"]),
    ("payment_announced", &["payment_id"]),
    ("payment_approved", &["payment_id"]),
    ("payment_pending", &["payment_id", "hold_expires_at"]),
    ("payment_authorised", &["payment_id", "amount"]),
    ("payment_captured", &["payment_id", "amount"]),
    ("payment_declined", &["payment_id"]),
    ("payment_failed", &["payment_id"]),
    ("payment_given_up", &["payment_id"]),
    ("payment_mismatch", &["payment_id", "charged"]),
    ("payment_not_charged", &["payment_id"]),
    ("payment_disputed", &["payment_id"]),
    ("dispute_won", &["payment_id"]),
    ("dispute_lost", &["payment_id"]),
    ("payment_reversed", &["payment_id"]),
    ("payment_partly_reversed", &["payment_id"]),
    ("payment_restored", &["payment_id"]),
    ("partially_paid", &["paid", "hold_expires_at"]),
    ("approved_too_late", &["payment_id", "charged"]),
    ("authorisation_ended", &["payment_id"]),
    ("refund_requested", OF_A_REFUND),
    ("refund_called_off", OF_A_REFUND),
    ("refund_pending", OF_A_REFUND),
    ("refunded", OF_A_REFUND),
    ("refund_failed", OF_A_REFUND),
    // its parcels
    ("shipped", OF_A_PARCEL),
    ("out_for_delivery", OF_A_PARCEL),
    ("delivery_needs_you", OF_A_PARCEL),
    ("delivered", OF_A_PARCEL),
    ("delivery_exception", OF_A_PARCEL),
    ("returned_to_sender", OF_A_PARCEL),
    // what comes back
    ("return_requested", &["return_id", "lines"]),
    ("return_opened", &["return_id", "shipment_id"]),
    ("return_approved", &["return_id"]),
    ("return_declined", &["return_id", "reason"]),
    ("return_sent", &["return_id"]),
    ("return_received", &["return_id", "lines", "complete"]),
    ("return_inspected", &["return_id"]),
    ("return_closed", &["return_id"]),
];

/// An event's particulars as its buyer sees them; none where the event is not for buyers.
pub(crate) fn seen_by_buyer(kind: &str, data: Value) -> Option<Value> {
    let (_, fields) = SEEN.iter().find(|(seen, _)| *seen == kind)?;
    let Value::Object(mut data) = data else { return Some(data) };
    data.retain(|field, _| fields.contains(&field.as_str()));
    Some(Value::Object(data))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::MAILED;

    #[test]
    fn a_buyer_sees_what_stands_in_the_table_and_nothing_else() {
        let said = json!({ "payment_id": "7", "why": "INSTRUMENT_DECLINED" });
        assert_eq!(seen_by_buyer("payment_declined", said), Some(json!({ "payment_id": "7" })));
        for kind in ["note", "needs_review", "label_bought", "label_failed", "void_rejected", "some_day"] {
            assert_eq!(seen_by_buyer(kind, json!({})), None, "{kind}");
        }
    }

    #[test]
    fn a_buyer_sees_whatever_letters_tell_of() {
        for kind in MAILED {
            assert!(seen_by_buyer(kind, json!({})).is_some(), "{kind}");
        }
    }
}
