//! PayPal's JSON: what Souk writes, what it reads, and how the read becomes facts.
//!
//! Reading is lenient where PayPal is known to wander (nulls, empty objects, unknown words and fields, offsets,
//! milliseconds) and strict about ids alone: an object whose id cannot be read makes the whole answer unreadable, for
//! money must not be overlooked.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;
use souk_actors::{
    domain::{Address, Money, clean},
    ports::{CreatePayment, Fact, FactKind, FactStatus},
};
use url::Url;

// ---- what Souk writes ----

/// The body of `POST /v2/checkout/orders`.
#[derive(Serialize)]
pub(super) struct CreateOrder<'a> {
    intent: &'static str,
    purchase_units: [UnitRequest<'a>; 1],
    payment_source: Source<'a>,
}

#[derive(Serialize)]
struct UnitRequest<'a> {
    custom_id: String,
    invoice_id: &'a str,
    amount: Amount,
    shipping: Shipping<'a>,
}

#[derive(Serialize)]
struct Shipping<'a> {
    name: FullName<'a>,
    address: PostalAddress<'a>,
}

#[derive(Serialize)]
struct FullName<'a> {
    full_name: &'a str,
}

#[derive(Serialize)]
struct PostalAddress<'a> {
    address_line_1: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address_line_2: Option<&'a str>,
    /// The town.
    admin_area_2: &'a str,
    /// The state or province.
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_area_1: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postal_code: Option<&'a str>,
    country_code: &'a str,
}

#[derive(Serialize)]
struct Source<'a> {
    paypal: Wallet<'a>,
}

#[derive(Serialize)]
struct Wallet<'a> {
    experience_context: Experience<'a>,
}

#[derive(Serialize)]
struct Experience<'a> {
    brand_name: &'a str,
    /// No e-check that clears in a week.
    payment_method_preference: &'static str,
    /// The goods go where the order says: an address changed at PayPal would change freight and tax.
    shipping_preference: &'static str,
    /// The buyer's last click is at PayPal.
    user_action: &'static str,
    return_url: &'a str,
    cancel_url: &'a str,
}

impl<'a> CreateOrder<'a> {
    pub(super) fn new(wish: &'a CreatePayment, brand_name: &'a str) -> Self {
        let unit = UnitRequest {
            custom_id: wish.payment_id.to_string(),
            invoice_id: &wish.reference,
            amount: Amount::from(wish.total),
            shipping: Shipping::from(&wish.ship_to),
        };
        let experience_context = Experience {
            brand_name,
            payment_method_preference: "IMMEDIATE_PAYMENT_REQUIRED",
            shipping_preference: "SET_PROVIDED_ADDRESS",
            user_action: "PAY_NOW",
            return_url: &wish.return_url,
            cancel_url: &wish.cancel_url,
        };
        Self {
            intent: "CAPTURE",
            purchase_units: [unit],
            payment_source: Source { paypal: Wallet { experience_context } },
        }
    }
}

impl<'a> From<&'a Address> for Shipping<'a> {
    fn from(address: &'a Address) -> Self {
        let given = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Self {
            name: FullName { full_name: &address.name },
            address: PostalAddress {
                address_line_1: &address.line1,
                address_line_2: address.line2.as_deref(),
                admin_area_2: &address.city,
                admin_area_1: address.region.as_deref(),
                postal_code: given(&address.postal_code),
                country_code: &address.country,
            },
        }
    }
}

/// The body of `POST /v2/payments/captures/{id}/refund`.
#[derive(Serialize)]
pub(super) struct CreateRefund {
    amount: Amount,
}

impl CreateRefund {
    pub(super) fn new(amount: Money) -> Self {
        Self { amount: amount.into() }
    }
}

/// The body of a `POST` that has nothing to say: `{}`.
#[derive(Serialize)]
pub(super) struct Nothing {}

// ---- both ways ----

/// PayPal's money. The value is a string, also when it is whole.
#[derive(Serialize, Deserialize)]
struct Amount {
    currency_code: String,
    value: String,
}

impl From<Money> for Amount {
    fn from(money: Money) -> Self {
        Self { currency_code: money.currency.code().to_owned(), value: money.amount() }
    }
}

impl Amount {
    /// None for a currency that Souk does not sell in, a negative amount, or more decimals than can be charged.
    fn money(&self) -> Option<Money> {
        Money::parse(&self.value, self.currency_code.parse().ok()?).ok()
    }
}

// ---- what Souk reads ----

/// The id of an object of PayPal: 17 letters and digits in reality. Nothing else gets into a path or a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ObjectId(String);

impl ObjectId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not an id of PayPal")
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.0
    }
}

/// Links to other objects. Never followed, only read for the ids and relations in them.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct Links {
    #[serde(deserialize_with = "lenient_list")]
    links: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    rel: String,
    href: String,
}

impl Links {
    /// The capture above a refund.
    pub(super) fn up_to_capture(&self) -> Option<ObjectId> {
        self.up_to("/v2/payments/captures/")
    }

    /// The order above a capture.
    pub(super) fn up_to_order(&self) -> Option<ObjectId> {
        self.up_to("/v2/checkout/orders/")
    }

    fn up_to(&self, collection: &str) -> Option<ObjectId> {
        let up = self.links.iter().filter(|link| link.rel.eq_ignore_ascii_case("up"));
        let ids = up.filter_map(|link| link.href.split_once(collection)).map(|(_, id)| id);
        ids.into_iter().find_map(ObjectId::parse)
    }

    /// Where the buyer approves: `payer-action` with a payment source, `approve` without; a web page either way.
    fn approval(&self) -> Option<String> {
        let named = self.links.iter().filter(|link| matches!(link.rel.as_str(), "payer-action" | "approve"));
        let urls = named.filter_map(|link| Url::parse(&link.href).ok());
        urls.into_iter().find(|url| matches!(url.scheme(), "https" | "http")).map(String::from)
    }
}

/// When an object was made and last changed.
#[derive(Deserialize)]
struct Times {
    #[serde(default, deserialize_with = "lenient")]
    create_time: Option<Time>,
    #[serde(default, deserialize_with = "lenient")]
    update_time: Option<Time>,
}

impl Times {
    fn latest(&self) -> Option<DateTime<Utc>> {
        let Time(at) = self.update_time.or(self.create_time)?;
        Some(at)
    }
}

/// RFC 3339 with any offset, to the microsecond that Postgres keeps.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Time(DateTime<Utc>);

impl TryFrom<String> for Time {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let read = DateTime::parse_from_rfc3339(&text).map_err(|_| "not a time")?;
        DateTime::from_timestamp_micros(read.timestamp_micros()).map(Self).ok_or("not a time of this era")
    }
}

/// An order with all that hangs below it.
#[derive(Deserialize)]
pub(super) struct Order {
    id: ObjectId,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    purchase_units: Vec<Unit>,
    #[serde(flatten)]
    times: Times,
    #[serde(default)]
    links: Links,
}

#[derive(Deserialize)]
struct Unit {
    #[serde(default, deserialize_with = "lenient")]
    custom_id: Option<Reference>,
    #[serde(default, deserialize_with = "lenient")]
    amount: Option<Amount>,
    #[serde(default, deserialize_with = "null_as_default")]
    payments: Payments,
}

#[derive(Deserialize, Default)]
struct Payments {
    #[serde(default, deserialize_with = "null_as_default")]
    captures: Vec<Movement>,
    #[serde(default, deserialize_with = "null_as_default")]
    refunds: Vec<Movement>,
}

/// A capture or a refund: money that moved, or was to.
#[derive(Deserialize)]
pub(super) struct Movement {
    id: ObjectId,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    amount: Option<Amount>,
    #[serde(default, deserialize_with = "lenient")]
    custom_id: Option<Reference>,
    #[serde(flatten)]
    times: Times,
    #[serde(default)]
    links: Links,
}

/// What was given to PayPal as `custom_id`, or by somebody else: any text that a row can hold.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Reference(String);

impl Reference {
    pub(super) fn text(&self) -> String {
        self.0.clone()
    }
}

impl TryFrom<String> for Reference {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let cleaned = clean("custom_id", &text, 127).map_err(|_| "no text for a row")?;
        if cleaned.is_empty() { Err("empty") } else { Ok(Self(cleaned)) }
    }
}

/// What an object says by where it stands, used where it does not say it itself.
#[derive(Default)]
struct Above<'a> {
    reference: Option<&'a Reference>,
    created: DateTime<Utc>,
}

impl Order {
    /// The order's id and the page where it is approved, if it names one.
    pub(super) fn approvable(self) -> Option<(String, String)> {
        let page = self.links.approval()?;
        Some((self.id.into(), page))
    }

    /// Everything the answer says: the order, then each capture and each refund below it.
    ///
    /// An object without a time of its own takes the order's time of creation, which never moves; without that either,
    /// the epoch. A moving time, or ours, would make two facts of one.
    pub(super) fn facts(&self) -> Vec<Fact> {
        let below = self.purchase_units.iter().flat_map(|unit| self.facts_of(unit));
        std::iter::once(self.fact()).chain(below).collect()
    }

    /// The order itself. Souk's orders have one unit: one with several, or none, is not ours and gets no reference.
    fn fact(&self) -> Fact {
        let unit = sole(&self.purchase_units);
        Fact {
            kind: FactKind::Order,
            object_id: self.id.as_str().to_owned(),
            status: status(self.status.as_deref()),
            amount: unit.and_then(|unit| unit.amount.as_ref()).and_then(Amount::money),
            reference: unit.and_then(|unit| unit.custom_id.as_ref()).map(Reference::text),
            parent: None,
            at: self.times.latest().unwrap_or_default(),
        }
    }

    fn facts_of<'a>(&self, unit: &'a Unit) -> impl Iterator<Item = Fact> + use<'a> {
        let Payments { captures, refunds } = &unit.payments;
        let created = self.times.create_time.map(|Time(at)| at).unwrap_or_default();
        let above = move || Above { reference: unit.custom_id.as_ref(), created };
        let captured = captures.iter().map(move |capture| capture.fact(FactKind::Capture, None, &above()));
        let refunded = refunds.iter().map(move |refund| {
            let parent = refund.links.up_to_capture().or_else(|| sole(captures).map(|only| only.id.clone()));
            refund.fact(FactKind::Refund, parent, &above())
        });
        captured.chain(refunded)
    }
}

impl Movement {
    /// The refund that a refund of `capture` answered with.
    pub(super) fn refund_of(&self, capture: &ObjectId) -> Fact {
        self.fact(FactKind::Refund, Some(capture.clone()), &Above::default())
    }

    fn fact(&self, kind: FactKind, parent: Option<ObjectId>, above: &Above<'_>) -> Fact {
        Fact {
            kind,
            object_id: self.id.as_str().to_owned(),
            status: status(self.status.as_deref()),
            amount: self.amount.as_ref().and_then(Amount::money),
            reference: self.custom_id.as_ref().or(above.reference).map(Reference::text),
            parent: parent.map(String::from),
            at: self.times.latest().unwrap_or(above.created),
        }
    }
}

fn sole<T>(list: &[T]) -> Option<&T> {
    match list {
        [only] => Some(only),
        [] | [_, ..] => None,
    }
}

/// PayPal's words for orders, captures and refunds; no word means two things. Both `DENIED` and `DECLINED` occur.
fn status(word: Option<&str>) -> FactStatus {
    match word.unwrap_or_default() {
        "CREATED" | "SAVED" | "PAYER_ACTION_REQUIRED" => FactStatus::Created,
        "APPROVED" => FactStatus::Approved,
        "VOIDED" => FactStatus::Voided,
        "PENDING" => FactStatus::Pending,
        "COMPLETED" => FactStatus::Completed,
        "DECLINED" | "DENIED" => FactStatus::Declined,
        "FAILED" => FactStatus::Failed,
        "PARTIALLY_REFUNDED" => FactStatus::PartiallyRefunded,
        "REFUNDED" => FactStatus::Refunded,
        "CANCELLED" => FactStatus::Cancelled,
        _ => FactStatus::Other,
    }
}

// ---- leniency ----

/// A field that is ignored where it is not what it should be.
pub(super) fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// A list whose odd elements are ignored, empty where it is no list.
pub(super) fn lenient_list<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let elements: Vec<Value> = lenient(deserializer)?.unwrap_or_default();
    Ok(elements.into_iter().filter_map(|element| serde_json::from_value(element).ok()).collect())
}

/// `null` where nothing is meant.
fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use souk_actors::domain::{Intent, PaymentId, TaskId};

    fn facts(body: &str) -> Vec<Fact> {
        serde_json::from_str::<Order>(body).expect("an order").facts()
    }

    fn usd(amount: &str) -> Option<Money> {
        Some(Money::parse(amount, "USD".parse().expect("known")).expect("an amount"))
    }

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
    }

    /// A captured and partly refunded order in the shape that PayPal sends.
    const CAPTURED: &str = r#"{
        "id":"0PF12345AB678901C","intent":"CAPTURE","status":"COMPLETED",
        "payment_source":{"paypal":{"email_address":"buyer@example.com","account_status":"VERIFIED"}},
        "purchase_units":[{
            "reference_id":"default","amount":{"currency_code":"USD","value":"30.00","breakdown":{}},
            "custom_id":"payment_1","invoice_id":"order_1","soft_descriptor":null,
            "payments":{
                "captures":[{
                    "id":"5B223658W54364539","status":"PARTIALLY_REFUNDED",
                    "amount":{"value":"30.00","currency_code":"USD"},"final_capture":true,
                    "seller_receivable_breakdown":{"gross_amount":{},"paypal_fee":{},"net_amount":{}},
                    "custom_id":"payment_1","create_time":"2026-11-22T10:00:00Z",
                    "update_time":"2026-11-22T11:30:00.250Z","links":[
                        {"href":"https:\/\/api.paypal.com\/v2\/payments\/captures\/5B223658W54364539","rel":"self"},
                        {"href":"https:\/\/api.paypal.com\/v2\/checkout\/orders\/0PF12345AB678901C","rel":"up"}]}],
                "refunds":[{
                    "id":"1Y107995YT783435V","status":"COMPLETED","amount":{"currency_code":"USD","value":"0.99"},
                    "seller_payable_breakdown":{"total_refunded_amount":{}},
                    "create_time":"2026-11-22T04:13:29-07:00",
                    "links":[{"rel":"self","href":"…/v2/payments/refunds/1Y107995YT783435V"},
                             {"rel":"up","href":"https://api.paypal.com/v2/payments/captures/5B223658W54364539"}]}]}}],
        "create_time":"2026-11-22T09:59:00Z","update_time":"2026-11-22T10:00:01Z","links":[],
        "a_field_of_next_year":[1.0]}"#;

    #[test]
    fn an_order_becomes_its_facts() {
        let reference = Some("payment_1".to_owned());
        let order = Fact {
            kind: FactKind::Order,
            object_id: "0PF12345AB678901C".to_owned(),
            status: FactStatus::Completed,
            amount: usd("30"),
            reference: reference.clone(),
            parent: None,
            at: time("2026-11-22T10:00:01Z"),
        };
        let capture = Fact {
            kind: FactKind::Capture,
            object_id: "5B223658W54364539".to_owned(),
            status: FactStatus::PartiallyRefunded,
            at: time("2026-11-22T11:30:00.25Z"),
            ..order.clone()
        };
        let refund = Fact {
            kind: FactKind::Refund,
            object_id: "1Y107995YT783435V".to_owned(),
            status: FactStatus::Completed,
            amount: usd("0.99"),
            reference,
            parent: Some("5B223658W54364539".to_owned()),
            at: time("2026-11-22T11:13:29Z"),
        };
        assert_eq!(facts(CAPTURED), [order, capture, refund]);
    }

    #[test]
    fn what_is_missing_or_odd_is_no_reason_to_lose_the_rest() {
        let body = r#"{"id":"0PF","status":"A_WORD_OF_NEXT_YEAR","links":{},"create_time":"2026-11-22T09:59:00+01:00",
            "update_time":"yesterday","purchase_units":[{"custom_id":"payment_1","amount":{},"payments":{
            "refunds":null,"captures":[{"id":"5B2","status":null,"amount":{"currency_code":"USD","value":12.5},
            "links":[null,{"rel":1}]}]}}]}"#;
        let [order, capture] = facts(body).try_into().expect("two facts");
        assert_eq!((order.status, order.amount, order.at), (FactStatus::Other, None, time("2026-11-22T08:59:00Z")));
        assert_eq!((capture.status, capture.amount, capture.at), (FactStatus::Other, None, order.at));
        assert_eq!(capture.reference.as_deref(), Some("payment_1"), "the unit's stands in");

        let unlinked =
            r#"{"id":"0PF","purchase_units":[{"payments":{"captures":[{"id":"5B2"}],"refunds":[{"id":"1Y1"}]}}]}"#;
        assert_eq!(facts(unlinked)[2].parent.as_deref(), Some("5B2"), "the only capture there is");

        let [bare] = facts(r#"{"id":"0PF","status":"APPROVED","purchase_units":null}"#).try_into().expect("one fact");
        assert_eq!((bare.status, bare.at), (FactStatus::Approved, DateTime::UNIX_EPOCH));
    }

    #[test]
    fn money_that_souk_cannot_read_is_no_amount() {
        for (currency, value, amount) in [
            ("USD", "12.5", usd("12.50")),
            ("USD", "12.500", usd("12.50")),
            ("USD", "12.505", None),
            ("USD", "-1.00", None),
            ("JPY", "100.5", None),
            ("XAU", "1.00", None),
            ("usd", "1.00", None),
        ] {
            let read = Amount { currency_code: currency.to_owned(), value: value.to_owned() };
            assert_eq!(read.money(), amount, "{value} {currency}");
        }
    }

    #[test]
    fn an_object_without_a_readable_id_spoils_the_answer() {
        for body in [
            r#"{"status":"COMPLETED"}"#,
            r#"{"id":"../../v1/oauth2/token"}"#,
            r#"{"id":"0PF","purchase_units":[{"payments":{"captures":[{"id":null,"status":"COMPLETED"}]}}]}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Order>(body).is_err(), "{body}");
        }
    }

    #[test]
    fn an_order_of_several_units_is_not_ours() {
        let unit = r#"{"custom_id":"payment_1","amount":{"currency_code":"USD","value":"1.00"}}"#;
        let [order] = facts(&format!(r#"{{"id":"0PF","purchase_units":[{unit},{unit}]}}"#)).try_into().expect("one");
        assert_eq!((order.reference, order.amount), (None, None));
    }

    #[test]
    fn a_reference_that_no_row_can_hold_is_none() {
        let [order] = facts(r#"{"id":"0PF","purchase_units":[{"custom_id":"a\u0000b"}]}"#).try_into().expect("one");
        assert_eq!(order.reference, None);
    }

    #[test]
    fn only_a_web_page_is_a_place_to_approve() {
        let page = |rel: &str, href: &str| {
            let body = format!(
                r#"{{"id":"0PF","links":[{{"rel":"self","href":"https://x.y"}},{{"rel":"{rel}","href":"{href}"}}]}}"#
            );
            serde_json::from_str::<Order>(&body).expect("an order").approvable().map(|(_, page)| page)
        };
        let href = "https://www.sandbox.paypal.com/checkoutnow?token=0PF";
        assert_eq!(page("approve", href).as_deref(), Some(href));
        assert_eq!(page("payer-action", href).as_deref(), Some(href));
        assert_eq!(page("capture", href), None);
        assert_eq!(page("approve", "javascript:alert(1)"), None);
        assert_eq!(page("approve", "/checkoutnow"), None);
    }

    #[test]
    fn an_order_is_announced_as_paypal_wants_it() {
        let wish = CreatePayment {
            intent: Intent::Capture,
            request_id: TaskId(1),
            payment_id: PaymentId(2),
            reference: "order_1".to_owned(),
            total: Money::new(1200, "JPY".parse().expect("known")),
            ship_to: Address {
                name: "Zoë".to_owned(),
                line1: "1 Way".to_owned(),
                line2: None,
                city: "Kyoto".to_owned(),
                region: Some("Kyoto".to_owned()),
                postal_code: String::new(),
                country: "JP".to_owned(),
            },
            return_url: "https://shop/back".to_owned(),
            cancel_url: "https://shop/no".to_owned(),
        };
        let body = serde_json::to_value(CreateOrder::new(&wish, "Souk")).expect("json");
        assert_eq!(
            body,
            serde_json::json!({
                "intent": "CAPTURE",
                "purchase_units": [{
                    "custom_id": PaymentId(2).to_string(),
                    "invoice_id": "order_1",
                    "amount": {"currency_code": "JPY", "value": "1200"},
                    "shipping": {
                        "name": {"full_name": "Zoë"},
                        "address": {
                            "address_line_1": "1 Way",
                            "admin_area_2": "Kyoto",
                            "admin_area_1": "Kyoto",
                            "country_code": "JP",
                        },
                    },
                }],
                "payment_source": {"paypal": {"experience_context": {
                    "brand_name": "Souk",
                    "payment_method_preference": "IMMEDIATE_PAYMENT_REQUIRED",
                    "shipping_preference": "SET_PROVIDED_ADDRESS",
                    "user_action": "PAY_NOW",
                    "return_url": "https://shop/back",
                    "cancel_url": "https://shop/no",
                }}},
            })
        );
    }

    proptest! {
        #[test]
        fn no_answer_is_a_panic(id in "[A-Z0-9]{0,20}", status in ".{0,20}", at in ".{0,30}", value in ".{0,20}") {
            let amount = serde_json::json!({"currency_code": "USD", "value": value});
            let capture = serde_json::json!({"id": id, "status": status, "update_time": at, "amount": amount});
            let unit = serde_json::json!({"payments": {"captures": [capture]}});
            let body = serde_json::json!({"id": id, "status": status, "purchase_units": [unit]});
            let _ = serde_json::from_value::<Order>(body).map(|order| order.facts());
        }
    }
}
