//! The envelopes of webhook events. A body is written once and delivered byte for byte as often as it takes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    books::{Capture, Event, Order, Refund, Sheet},
    captures, clock, ids, orders, refunds,
};

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    event_version: &'a str,
    create_time: String,
    resource_type: &'a str,
    resource_version: &'a str,
    event_type: &'a str,
    summary: String,
    resource: Value,
    links: Value,
}

/// CHECKOUT.ORDER.APPROVED carries the order.
pub(super) fn order_approved(base: &str, order: &Order, now: DateTime<Utc>) -> Event {
    let sheet = Sheet { order: order.clone().into(), captures: Vec::new(), refunds: Vec::new() };
    let resource = orders::view(base, &sheet);
    let summary = "An order has been approved by buyer".to_owned();
    write(base, "CHECKOUT.ORDER.APPROVED", "checkout-order", summary, &order.id, resource, now)
}

/// PAYMENT.CAPTURE.COMPLETED, PENDING, DECLINED and DENIED carry the capture.
pub(super) fn capture(base: &str, capture: &Capture, event_type: &str, now: DateTime<Utc>) -> Event {
    let word = event_type.rsplit('.').next().unwrap_or_default().to_lowercase();
    let summary = format!("Payment {word} for {}", capture.amount.text());
    write(base, event_type, "capture", summary, &capture.order_id, captures::view(base, capture), now)
}

/// PAYMENT.CAPTURE.REFUNDED and REVERSED carry the *refund*; the capture is only named by its link `up`.
pub(super) fn refund(base: &str, refund: &Refund, event_type: &str, now: DateTime<Utc>) -> Event {
    let word = event_type.rsplit('.').next().unwrap_or_default().to_lowercase();
    let summary = format!("A {} capture payment was {word}", refund.amount.text());
    write(base, event_type, "refund", summary, &refund.order_id, refunds::view(base, refund), now)
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

fn write(
    base: &str,
    event_type: &str,
    resource_type: &str,
    summary: String,
    order_id: &str,
    resource: Value,
    now: DateTime<Utc>,
) -> Event {
    let id = ids::event();
    let resource_id = resource["id"].as_str().unwrap_or_default().to_owned();
    let envelope = Envelope {
        id: &id,
        event_version: "1.0",
        create_time: clock::stamp_ms(now),
        resource_type,
        resource_version: "2.0",
        event_type,
        summary,
        resource,
        links: links(base, &id),
    };
    let body = raw(&envelope);
    Event { id, event_type: event_type.to_owned(), order_id: order_id.to_owned(), resource_id, created: now, body }
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
