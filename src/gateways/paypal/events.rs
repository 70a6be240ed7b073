//! Which payment a webhook speaks of.
//!
//! A webhook's body is a hint: PayPal signs no more than its CRC, and bodies in the wild disagree with themselves. So
//! names are taken from it, each checked for its shape, and everything else is asked for.

use serde::Deserialize;
use serde_json::Value;
use souk_actors::ports::Locator;

use super::{
    disputes::Disputed,
    wire::{self, Links, ObjectId, Reference},
};

#[derive(Deserialize)]
struct Event {
    #[serde(default, deserialize_with = "wire::lenient")]
    event_type: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    resource_type: Option<String>,
    #[serde(default)]
    resource: Value,
}

/// The names in a resource of any kind. PayPal gives each kind some of them.
#[derive(Deserialize, Default)]
struct Resource {
    #[serde(default, deserialize_with = "wire::lenient")]
    id: Option<ObjectId>,
    #[serde(default, deserialize_with = "wire::lenient")]
    order_id: Option<ObjectId>,
    #[serde(default, deserialize_with = "wire::lenient")]
    custom_id: Option<Reference>,
    #[serde(default, deserialize_with = "wire::lenient")]
    supplementary_data: Option<Supplementary>,
    #[serde(default, deserialize_with = "wire::lenient_list")]
    purchase_units: Vec<Unit>,
    #[serde(default, deserialize_with = "wire::lenient_list")]
    disputed_transactions: Vec<Disputed>,
    #[serde(default)]
    links: Links,
}

#[derive(Deserialize)]
struct Supplementary {
    related_ids: RelatedIds,
}

#[derive(Deserialize, Default)]
struct RelatedIds {
    #[serde(default, deserialize_with = "wire::lenient")]
    order_id: Option<ObjectId>,
    #[serde(default, deserialize_with = "wire::lenient")]
    capture_id: Option<ObjectId>,
}

#[derive(Deserialize)]
struct Unit {
    custom_id: Reference,
}

/// What an event's resource is.
enum Kind {
    Order,
    /// An approval that ran out; only `order_id` names the order.
    Approval,
    Authorisation,
    Capture,
    Refund,
    Dispute,
    Other,
}

impl Kind {
    /// `PAYMENT.CAPTURE.REFUNDED` and `.REVERSED` carry the *refund*, whatever their name says; should one carry the
    /// capture, `resource_type` tells.
    fn of(event_type: &str, resource_type: &str) -> Self {
        let refund_by_name = matches!(event_type, "PAYMENT.CAPTURE.REFUNDED" | "PAYMENT.CAPTURE.REVERSED")
            || event_type.starts_with("PAYMENT.REFUND.");
        if refund_by_name && resource_type != "capture" {
            return Self::Refund;
        }
        let family = event_type.rsplit_once('.').map_or("", |(family, _)| family);
        match family {
            "CHECKOUT.ORDER" => Self::Order,
            "CHECKOUT.PAYMENT-APPROVAL" => Self::Approval,
            "PAYMENT.AUTHORIZATION" => Self::Authorisation,
            "PAYMENT.CAPTURE" => Self::Capture,
            "CUSTOMER.DISPUTE" => Self::Dispute,
            _ => Self::Other,
        }
    }
}

/// The event's own id, if the body has one that looks like one.
pub(super) fn id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default, deserialize_with = "wire::lenient")]
        id: Option<String>,
    }
    let id = serde_json::from_slice::<Named>(body).ok()?.id?;
    let fits = (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then_some(id)
}

/// The names in a webhook's body; none from a body that is no event.
pub(super) fn locate(body: &[u8]) -> Locator {
    let Ok(event) = serde_json::from_slice::<Event>(body) else {
        return Locator::default();
    };
    let event_type = event.event_type.filter(|word| is_event_type(word)).unwrap_or_default();
    let kind = Kind::of(&event_type, event.resource_type.as_deref().unwrap_or_default());
    let resource: Resource = serde_json::from_value(event.resource).unwrap_or_default();

    let unit_reference = resource.purchase_units.into_iter().map(|unit| unit.custom_id).next();
    let related = resource.supplementary_data.map(|data| data.related_ids).unwrap_or_default();
    let disputed = resource.disputed_transactions.into_iter().next();
    let (disputed_id, disputed_reference) = disputed.map(|of| (of.seller_transaction_id, of.custom)).unzip();
    let (order_id, capture_id) = match kind {
        Kind::Order => (resource.id, None),
        Kind::Approval => (resource.order_id, None),
        // what was reserved is found as what was taken is: by its own id
        Kind::Authorisation | Kind::Capture => (related.order_id.or_else(|| resource.links.up_to_order()), resource.id),
        Kind::Refund => (related.order_id, resource.links.up_to_capture().or(related.capture_id)),
        Kind::Dispute => (None, disputed_id),
        Kind::Other => (related.order_id, related.capture_id),
    };
    Locator {
        provider_order_id: order_id.map(String::from),
        capture_id: capture_id.map(String::from),
        payment_id: resource
            .custom_id
            .or(unit_reference)
            .or(disputed_reference.flatten())
            .map(|reference| reference.text()),
        event_type,
    }
}

fn is_event_type(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn locator(event_type: &str, order: Option<&str>, capture: Option<&str>, payment: Option<&str>) -> Locator {
        Locator {
            provider_order_id: order.map(str::to_owned),
            capture_id: capture.map(str::to_owned),
            payment_id: payment.map(str::to_owned),
            event_type: event_type.to_owned(),
        }
    }

    #[test]
    fn an_approved_order_is_its_resource() {
        let body = br#"{"id":"WH-COC11055RA711503B-4YM959094A144403T","event_version":"1.0",
            "resource_type":"checkout-order","event_type":"CHECKOUT.ORDER.APPROVED",
            "resource":{"id":"5O190127TN364715T","status":"APPROVED","intent":"CAPTURE","purchase_units":[{
            "reference_id":"default","custom_id":"payment_1","amount":{"currency_code":"USD","value":"1.00"}}],
            "links":[{"href":"https://api.paypal.com/v2/checkout/orders/ANOTHER0000000001","rel":"self"}]},
            "links":[{"href":"https:\/\/api.paypal.com\/v1\/x","rel":"self","encType":"application\/json"}]}"#;
        let expected = locator("CHECKOUT.ORDER.APPROVED", Some("5O190127TN364715T"), None, Some("payment_1"));
        assert_eq!(locate(body), expected);
    }

    #[test]
    fn an_approval_that_ran_out_names_its_order() {
        let body = br#"{"event_type":"CHECKOUT.PAYMENT-APPROVAL.REVERSED","resource":{"order_id":"5O190127TN364715T",
            "purchase_units":[{"reference_id":"default","custom_id":"payment_1","invoice_id":"order_1"}]}}"#;
        let expected =
            locator("CHECKOUT.PAYMENT-APPROVAL.REVERSED", Some("5O190127TN364715T"), None, Some("payment_1"));
        assert_eq!(locate(body), expected);
    }

    #[test]
    fn a_capture_names_itself_and_its_order() {
        for event_type in ["PAYMENT.CAPTURE.COMPLETED", "PAYMENT.CAPTURE.PENDING", "PAYMENT.CAPTURE.DENIED"] {
            let body = format!(
                r#"{{"event_type":"{event_type}","resource_type":"capture","resource_version":"2.0","resource":{{
                "id":"5B223658W54364539","status":"DECLINED","seller_receivable_breakdown":{{"gross_amount":{{}}}},
                "supplementary_data":{{"related_ids":{{"order_id":"0PF12345AB678901C"}}}},"custom_id":"payment_1",
                "links":[]}}}}"#
            );
            let expected = locator(event_type, Some("0PF12345AB678901C"), Some("5B223658W54364539"), Some("payment_1"));
            assert_eq!(locate(body.as_bytes()), expected);
        }
        let old = br#"{"event_type":"PAYMENT.CAPTURE.DECLINED","resource":{"id":"5B2","supplementary_data":{},
            "links":[{"rel":"up","href":"https://api.paypal.com/v2/checkout/orders/0PF"}]}}"#;
        assert_eq!(locate(old), locator("PAYMENT.CAPTURE.DECLINED", Some("0PF"), Some("5B2"), None));
    }

    #[test]
    fn a_refunds_capture_is_the_one_above_it() {
        for event_type in ["PAYMENT.CAPTURE.REFUNDED", "PAYMENT.CAPTURE.REVERSED", "PAYMENT.REFUND.FAILED"] {
            let body = format!(
                r#"{{"event_type":"{event_type}","resource_type":"refund","resource":{{"id":"1Y107995YT783435V",
                "status":"COMPLETED","amount":{{"currency_code":"USD","value":"0.99"}},
                "create_time":"2018-08-15T12:13:29-07:00",
                "links":[{{"rel":"self","href":"https:\/\/api.paypal.com\/v2\/payments\/refunds\/1Y107995YT783435V"}},
                {{"rel":"up","href":"https:\/\/api.paypal.com\/v2\/payments\/captures\/0JF852973C016714D"}}]}}}}"#
            );
            assert_eq!(locate(body.as_bytes()), locator(event_type, None, Some("0JF852973C016714D"), None));
        }
        let capture = br#"{"event_type":"PAYMENT.CAPTURE.REVERSED","resource_type":"capture","resource":{"id":"5B2"}}"#;
        assert_eq!(locate(capture), locator("PAYMENT.CAPTURE.REVERSED", None, Some("5B2"), None));
    }

    #[test]
    fn a_dispute_names_the_sellers_transaction() {
        let body = br#"{"event_type":"CUSTOMER.DISPUTE.CREATED","resource_type":"dispute",
            "resource":{"dispute_id":"PP-D-4012",
            "disputed_transactions":[{"seller_transaction_id":"00D10444LD479031K","buyer":{"name":"A"}}]}}"#;
        assert_eq!(locate(body), locator("CUSTOMER.DISPUTE.CREATED", None, Some("00D10444LD479031K"), None));
        for event_type in ["CUSTOMER.DISPUTE.UPDATED", "CUSTOMER.DISPUTE.RESOLVED"] {
            let body = format!(
                r#"{{"event_type":"{event_type}","resource":{{"dispute_id":"PP-D-4012","disputed_transactions":[
                {{"seller_transaction_id":"00D","custom":"payment_1","invoice_number":"order_1"}}]}}}}"#
            );
            assert_eq!(locate(body.as_bytes()), locator(event_type, None, Some("00D"), Some("payment_1")));
        }
    }

    #[test]
    fn an_authorisation_names_itself_and_its_order() {
        for event_type in ["PAYMENT.AUTHORIZATION.CREATED", "PAYMENT.AUTHORIZATION.VOIDED"] {
            let body = format!(
                r#"{{"event_type":"{event_type}","resource_type":"authorization","resource":{{"id":"0AW2184448108334S",
                "supplementary_data":{{"related_ids":{{"order_id":"0PF12345AB678901C"}}}},"custom_id":"payment_1"}}}}"#
            );
            let expected = locator(event_type, Some("0PF12345AB678901C"), Some("0AW2184448108334S"), Some("payment_1"));
            assert_eq!(locate(body.as_bytes()), expected);
        }
        let up = br#"{"event_type":"PAYMENT.AUTHORIZATION.VOIDED","resource":{"id":"0AW",
            "links":[{"rel":"up","href":"https://api.paypal.com/v2/checkout/orders/0PF"}]}}"#;
        assert_eq!(locate(up), locator("PAYMENT.AUTHORIZATION.VOIDED", Some("0PF"), Some("0AW"), None));
    }

    #[test]
    fn a_name_that_is_none_is_left_out() {
        let body = br#"{"event_type":"PAYMENT.CAPTURE.COMPLETED\n","resource":{"id":"../x"}}"#;
        assert_eq!(locate(body), Locator::default());
        let body = br#"{"event_type":"PAYMENT.CAPTURE.COMPLETED","resource":{"id":"../x","custom_id":"a\u0000"}}"#;
        assert_eq!(locate(body), locator("PAYMENT.CAPTURE.COMPLETED", None, None, None));
        for nothing in ["", "[]", "null", r#"{"resource":null}"#, r#"{"event_type":1,"resource":[1]}"#] {
            assert_eq!(locate(nothing.as_bytes()), Locator::default(), "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn no_body_is_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200), event_type in "[A-Z.]{0,30}") {
            let _ = locate(&body);
            let _ = locate(format!(r#"{{"event_type":"{event_type}","resource":{{"links":[1]}}}}"#).as_bytes());
        }
    }
}
