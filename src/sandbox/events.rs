//! The envelopes of webhook events. A body is written once and delivered byte for byte as often as it takes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    authorizations,
    books::Sheet,
    captures, clock, disputes, ids, orders,
    records::{Authorization, Capture, Dispute, Event, Order, Refund},
    refunds,
};

/// The events that a webhook can want, each with PayPal's words for it.
pub(super) const EVENT_TYPES: [(&str, &str); 18] = [
    ("CHECKOUT.ORDER.APPROVED", "An order has been approved by buyer."),
    ("CHECKOUT.ORDER.COMPLETED", "An order has been completed."),
    ("CHECKOUT.ORDER.PROCESSED", "An order has been processed."),
    ("CHECKOUT.PAYMENT-APPROVAL.REVERSED", "A payment has been reversed after approval."),
    ("PAYMENT.AUTHORIZATION.CREATED", "A payment authorization was created."),
    ("PAYMENT.AUTHORIZATION.VOIDED", "A payment authorization was voided."),
    ("PAYMENT.CAPTURE.COMPLETED", "A payment capture was completed."),
    ("PAYMENT.CAPTURE.DECLINED", "A payment capture was declined."),
    ("PAYMENT.CAPTURE.DENIED", "A payment capture was denied."),
    ("PAYMENT.CAPTURE.PENDING", "A payment capture is pending."),
    ("PAYMENT.CAPTURE.REFUNDED", "A merchant refunded a payment capture."),
    ("PAYMENT.CAPTURE.REVERSED", "PayPal reversed a payment capture."),
    ("PAYMENT.REFUND.COMPLETED", "A refund was completed."),
    ("PAYMENT.REFUND.FAILED", "A refund failed."),
    ("PAYMENT.REFUND.PENDING", "A refund is pending."),
    ("CUSTOMER.DISPUTE.CREATED", "A dispute was created."),
    ("CUSTOMER.DISPUTE.RESOLVED", "A dispute was resolved."),
    ("CUSTOMER.DISPUTE.UPDATED", "A dispute was updated."),
];

/// What an event tells; the fields are those of its envelope.
struct News<'a> {
    event_type: &'a str,
    resource_type: Option<&'a str>,
    resource_version: Option<&'a str>,
    summary: String,
    /// Which order it is about, for the books.
    order_id: &'a str,
    resource_id: &'a str,
    resource: Value,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    event_version: &'a str,
    create_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
    event_type: &'a str,
    summary: String,
    resource: Value,
    links: Value,
}

/// CHECKOUT.ORDER.APPROVED carries the order.
pub(super) fn order_approved(base: &str, order: &Order, now: DateTime<Utc>) -> Event {
    let news = News {
        event_type: "CHECKOUT.ORDER.APPROVED",
        resource_type: Some("checkout-order"),
        resource_version: Some("2.0"),
        summary: "An order has been approved by buyer".to_owned(),
        order_id: &order.id,
        resource_id: &order.id,
        resource: orders::view(base, &Sheet::blank(order.clone())),
    };
    write(base, news, now)
}

/// CHECKOUT.PAYMENT-APPROVAL.REVERSED has a shape of its own: no type, and the order named in another place.
pub(super) fn approval_reversed(base: &str, order: &Order, now: DateTime<Utc>) -> Event {
    let name_of = |unit: &super::records::Unit| {
        let mut name = json!({"reference_id": unit.reference_id});
        put(&mut name, "custom_id", unit.custom_id.as_deref());
        put(&mut name, "invoice_id", unit.invoice_id.as_deref());
        name
    };
    let news = News {
        event_type: "CHECKOUT.PAYMENT-APPROVAL.REVERSED",
        resource_type: None,
        resource_version: None,
        summary: "A payment has been reversed after approval.".to_owned(),
        order_id: &order.id,
        resource_id: &order.id,
        resource: json!({
            "order_id": order.id,
            "purchase_units": order.units.iter().map(name_of).collect::<Vec<_>>(),
            "payment_source": {"paypal": {}},
        }),
    };
    write(base, news, now)
}

/// PAYMENT.AUTHORIZATION.CREATED and VOIDED carry the authorization.
pub(super) fn authorization(base: &str, one: &Authorization, event_type: &str, now: DateTime<Utc>) -> Event {
    let news = News {
        event_type,
        resource_type: Some("authorization"),
        resource_version: Some("2.0"),
        summary: format!("A payment authorization for {} was {}", one.amount.text(), word(event_type)),
        order_id: &one.order_id,
        resource_id: &one.id,
        resource: authorizations::view(base, one),
    };
    write(base, news, now)
}

/// PAYMENT.CAPTURE.COMPLETED, PENDING, DECLINED and DENIED carry the capture.
pub(super) fn capture(base: &str, capture: &Capture, event_type: &str, now: DateTime<Utc>) -> Event {
    let news = News {
        event_type,
        resource_type: Some("capture"),
        resource_version: Some("2.0"),
        summary: format!("Payment {} for {}", word(event_type), capture.amount.text()),
        order_id: &capture.order_id,
        resource_id: &capture.id,
        resource: captures::view(base, capture),
    };
    write(base, news, now)
}

/// PAYMENT.CAPTURE.REFUNDED and REVERSED, PAYMENT.REFUND.PENDING and FAILED carry the *refund*; the capture is only named
/// by its link `up`.
pub(super) fn refund(base: &str, refund: &Refund, event_type: &str, now: DateTime<Utc>) -> Event {
    let news = News {
        event_type,
        resource_type: Some("refund"),
        resource_version: Some("2.0"),
        summary: format!("A {} capture payment was {}", refund.amount.text(), word(event_type)),
        order_id: &refund.order_id,
        resource_id: &refund.id,
        resource: refunds::view(base, refund),
    };
    write(base, news, now)
}

/// CUSTOMER.DISPUTE.CREATED, UPDATED and RESOLVED carry the dispute, which is of an older API and has no version.
pub(super) fn dispute(base: &str, dispute: &Dispute, of: &Capture, event_type: &str, now: DateTime<Utc>) -> Event {
    let news = News {
        event_type,
        resource_type: Some("dispute"),
        resource_version: None,
        summary: format!("A dispute was {} with case # {}", word(event_type), dispute.id),
        order_id: &dispute.order_id,
        resource_id: &dispute.id,
        resource: disputes::view(base, dispute, of),
    };
    write(base, news, now)
}

/// An event that nothing has caused, with a resource that does not exist.
pub(super) fn simulated(base: &str, event_type: &str, now: DateTime<Utc>) -> Event {
    let id = ids::resource();
    let news = News {
        event_type,
        resource_type: None,
        resource_version: Some("2.0"),
        summary: "A simulated event".to_owned(),
        order_id: "",
        resource_id: &id,
        resource: json!({"id": id, "amount": {"currency_code": "USD", "value": "0.01"}}),
    };
    Event { simulated: true, ..write(base, news, now) }
}

/// The same fact once more under a new event id, as PayPal sometimes does.
pub(super) fn again(base: &str, event: &Event, now: DateTime<Utc>) -> Event {
    let id = ids::event();
    let mut body: Value = serde_json::from_str(event.body.get()).expect("it was written here");
    body["id"] = json!(id);
    body["create_time"] = json!(clock::stamp_ms(now));
    body["links"] = links(base, &id);
    Event { id, created: now, body: raw(&body), ..event.clone() }
}

/// The field, if there is something to put into it.
pub(super) fn put(view: &mut Value, field: &str, text: Option<&str>) {
    if let Some(text) = text {
        view[field] = json!(text);
    }
}

/// `COMPLETED` as people say it.
fn word(event_type: &str) -> String {
    event_type.rsplit('.').next().unwrap_or_default().to_lowercase()
}

fn write(base: &str, news: News<'_>, now: DateTime<Utc>) -> Event {
    let id = ids::event();
    let envelope = Envelope {
        id: &id,
        event_version: "1.0",
        create_time: clock::stamp_ms(now),
        resource_type: news.resource_type,
        resource_version: news.resource_version,
        event_type: news.event_type,
        summary: news.summary,
        resource: news.resource,
        links: links(base, &id),
    };
    let body = raw(&envelope);
    let (event_type, order_id) = (news.event_type.to_owned(), news.order_id.to_owned());
    let resource_id = news.resource_id.to_owned();
    Event { id, event_type, order_id, resource_id, created: now, simulated: false, body }
}

fn raw(body: &impl Serialize) -> Box<RawValue> {
    to_raw_value(body).expect("an envelope is plain data")
}

fn links(base: &str, id: &str) -> Value {
    let url = format!("{base}/v1/notifications/webhooks-events/{id}");
    json!([
        {"href": url, "rel": "self", "method": "GET"},
        {"href": format!("{url}/resend"), "rel": "resend", "method": "POST"},
    ])
}
