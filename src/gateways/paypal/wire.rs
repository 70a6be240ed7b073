//! PayPal's orders and what hangs below them, as Souk reads them, and how the read becomes facts.
//!
//! Reading is lenient where PayPal is known to wander (nulls, empty objects, unknown words and fields, offsets,
//! milliseconds) and strict about ids alone: an object whose id cannot be read makes the whole answer unreadable, for
//! money must not be overlooked.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use souk_actors::{
    domain::clean,
    ports::{Created, Fact, FactKind, FactStatus, ProviderError},
};
use url::Url;

use super::{errors, money::Amount};

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

    /// The authorisation above a capture.
    fn up_to_authorisation(&self) -> Option<ObjectId> {
        self.up_to("/v2/payments/authorizations/")
    }

    /// What the link to a list's next page asks for. The page is asked for at the configured host, with this alone.
    pub(super) fn next_query(&self) -> Option<String> {
        let next = self.links.iter().find(|link| link.rel.eq_ignore_ascii_case("next"))?;
        Url::parse(&next.href).ok()?.query().map(str::to_owned)
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
pub(super) struct Times {
    #[serde(default, deserialize_with = "lenient")]
    create_time: Option<Time>,
    #[serde(default, deserialize_with = "lenient")]
    update_time: Option<Time>,
}

impl Times {
    pub(super) fn latest(&self) -> Option<DateTime<Utc>> {
        let Time(at) = self.update_time.or(self.create_time)?;
        Some(at)
    }
}

/// RFC 3339 with any offset, to the microsecond that Postgres keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Time(DateTime<Utc>);

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
    authorizations: Vec<Movement>,
    #[serde(default, deserialize_with = "null_as_default")]
    captures: Vec<Movement>,
    #[serde(default, deserialize_with = "null_as_default")]
    refunds: Vec<Movement>,
}

/// An authorisation, a capture or a refund: money that is kept ready, that moved, or was to.
#[derive(Deserialize)]
pub(super) struct Movement {
    id: ObjectId,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    status_details: Option<StatusDetails>,
    #[serde(default, deserialize_with = "lenient")]
    amount: Option<Amount>,
    #[serde(default, deserialize_with = "lenient")]
    custom_id: Option<Reference>,
    /// Of a capture: whether nothing more is taken of its authorisation.
    #[serde(default, deserialize_with = "lenient")]
    final_capture: Option<bool>,
    #[serde(flatten)]
    times: Times,
    #[serde(default)]
    links: Links,
}

#[derive(Deserialize)]
struct StatusDetails {
    reason: String,
}

/// What was given to PayPal as `custom_id`, or by somebody else: any text that a row can hold.
#[derive(Clone, PartialEq, Eq, Deserialize)]
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
    /// The order's id and the page where it is approved. One that is asked for again when the buyer has been there names no
    /// page any more: nothing is left to approve, and the way on is the way `back`.
    ///
    /// # Errors
    /// [`ProviderError`]: it was given up, or says nothing of how it is approved.
    pub(super) fn announced(self, back: &str) -> Result<Created, ProviderError> {
        let stage = status(self.status.as_deref());
        if stage == FactStatus::Voided {
            return Err(ProviderError::Dead("the order was given up".to_owned()));
        }
        let is_approved = matches!(stage, FactStatus::Approved | FactStatus::Completed);
        let page = self.links.approval().or_else(|| is_approved.then(|| back.to_owned()));
        let approve_url = page.ok_or_else(|| errors::no_answer("an order without an approval link"))?;
        Ok(Created { provider_order_id: self.id.into(), approve_url })
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
        let Payments { authorizations, captures, refunds } = &unit.payments;
        let created = self.times.create_time.map(|Time(at)| at).unwrap_or_default();
        let above = move || Above { reference: unit.custom_id.as_ref(), created };
        let above_capture = move |capture: &Movement| {
            capture.links.up_to_authorisation().or_else(|| sole(authorizations).map(|one| one.id.clone()))
        };
        let authorised = authorizations.iter().map(move |one| {
            let uses_up = |capture: &Movement| capture.is_last() && above_capture(capture).as_ref() == Some(&one.id);
            let fact = one.fact(FactKind::Authorisation, None, &above());
            if captures.iter().any(uses_up) { used_up(fact) } else { fact }
        });
        let captured =
            captures.iter().map(move |capture| capture.fact(FactKind::Capture, above_capture(capture), &above()));
        let refunded = refunds.iter().map(move |refund| {
            let parent = refund.links.up_to_capture().or_else(|| sole(captures).map(|only| only.id.clone()));
            refund.fact(FactKind::Refund, parent, &above())
        });
        authorised.chain(captured).chain(refunded)
    }
}

impl Movement {
    /// The refund that a refund of `capture` answered with.
    pub(super) fn refund_of(&self, capture: &ObjectId) -> Fact {
        self.fact(FactKind::Refund, Some(capture.clone()), &Above::default())
    }

    /// The capture that a capture of `authorisation` answered with, and what it leaves of that.
    pub(super) fn captured_of(&self, authorisation: &ObjectId) -> Vec<Fact> {
        let capture = self.fact(FactKind::Capture, Some(authorisation.clone()), &Above::default());
        let kind = FactKind::Authorisation;
        let used =
            Fact { kind, object_id: authorisation.as_str().to_owned(), amount: None, parent: None, ..capture.clone() };
        let used = self.is_last().then(|| used_up(Fact { status: FactStatus::Created, ..used }));
        std::iter::once(capture).chain(used).collect()
    }

    /// Whether it was taken, or is about to be, and lets go of what it leaves of its authorisation.
    fn is_last(&self) -> bool {
        let taken = |status| {
            matches!(
                status,
                FactStatus::Completed
                    | FactStatus::Pending
                    | FactStatus::PartiallyRefunded
                    | FactStatus::Refunded
                    | FactStatus::PartiallyReversed
                    | FactStatus::Reversed
            )
        };
        self.final_capture == Some(true) && taken(self.standing(FactKind::Capture))
    }

    /// The authorisation that was asked for, or voided.
    pub(super) fn authorisation(&self) -> Fact {
        self.fact(FactKind::Authorisation, None, &Above::default())
    }

    fn fact(&self, kind: FactKind, parent: Option<ObjectId>, above: &Above<'_>) -> Fact {
        let own = self.custom_id.as_ref();
        let reference = match kind {
            // one that was given none is called what its capture is: that names the payment, not the refund
            FactKind::Refund => own.filter(|own| Some(*own) != above.reference),
            FactKind::Order | FactKind::Authorisation | FactKind::Capture | FactKind::Dispute => {
                own.or(above.reference)
            }
        };
        Fact {
            kind,
            object_id: self.id.as_str().to_owned(),
            status: self.standing(kind),
            amount: self.amount.as_ref().and_then(Amount::money),
            reference: reference.map(Reference::text),
            parent: parent.map(String::from),
            at: self.times.latest().unwrap_or(above.created),
        }
    }

    /// A capture that PayPal or the buyer's bank took back reads as refunded; only the reason tells the two apart.
    fn standing(&self, kind: FactKind) -> FactStatus {
        let reason = self.status_details.as_ref().map(|details| details.reason.as_str());
        let taken_back = matches!(reason, Some("CHARGEBACK" | "BUYER_COMPLAINT"));
        let plain = status(self.status.as_deref());
        if kind != FactKind::Capture || !taken_back {
            return plain;
        }
        if plain == FactStatus::Refunded {
            FactStatus::Reversed
        } else if plain == FactStatus::PartiallyRefunded {
            FactStatus::PartiallyReversed
        } else {
            plain
        }
    }
}

/// What an authorisation is after its last capture, whatever PayPal calls it: nothing of it is reserved any more.
fn used_up(authorisation: Fact) -> Fact {
    let reserved = authorisation.status == FactStatus::Created;
    let status = if reserved { FactStatus::Completed } else { authorisation.status };
    Fact { status, ..authorisation }
}

fn sole<T>(list: &[T]) -> Option<&T> {
    match list {
        [only] => Some(only),
        [] | [_, ..] => None,
    }
}

/// PayPal's words for orders, authorisations, captures and refunds; no word means two things. Both `DENIED` and `DECLINED`
/// occur. An authorisation of which a part was captured still waits for the rest.
fn status(word: Option<&str>) -> FactStatus {
    match word.unwrap_or_default() {
        "CREATED" | "SAVED" | "PAYER_ACTION_REQUIRED" | "PARTIALLY_CAPTURED" => FactStatus::Created,
        "APPROVED" => FactStatus::Approved,
        "VOIDED" => FactStatus::Voided,
        "PENDING" => FactStatus::Pending,
        "COMPLETED" | "CAPTURED" => FactStatus::Completed,
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
pub(super) fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use souk_actors::domain::Money;

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
        let order = Fact {
            kind: FactKind::Order,
            object_id: "0PF12345AB678901C".to_owned(),
            status: FactStatus::Completed,
            amount: usd("30"),
            reference: Some("payment_1".to_owned()),
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
            reference: None,
            parent: Some("5B223658W54364539".to_owned()),
            at: time("2026-11-22T11:13:29Z"),
        };
        assert_eq!(facts(CAPTURED), [order, capture, refund]);
    }

    #[test]
    fn a_refund_is_called_what_we_called_it_or_nothing() {
        let named = |custom_id: &str| {
            let body = format!(
                r#"{{"id":"0PF","purchase_units":[{{"custom_id":"payment_1","payments":{{
                "refunds":[{{"id":"1Y1"{custom_id}}}]}}}}]}}"#
            );
            facts(&body)[1].reference.clone()
        };
        assert_eq!(named(r#","custom_id":"refund_7""#).as_deref(), Some("refund_7"));
        assert_eq!(named(r#","custom_id":"payment_1""#), None, "lent by its capture");
        assert_eq!(named(""), None);
    }

    /// PayPal may call it `PARTIALLY_CAPTURED` for ever.
    #[test]
    fn the_last_capture_uses_its_authorisation_up() {
        let status = |last: bool, capture: &str| {
            let body = format!(
                r#"{{"id":"0PF","purchase_units":[{{"payments":{{"authorizations":[{{"id":"0AW","status":"PARTIALLY_CAPTURED"}}],
                "captures":[{{"id":"5B2","status":"{capture}","final_capture":{last}}}]}}}}]}}"#
            );
            facts(&body)[1].status
        };
        for capture in ["COMPLETED", "PENDING", "PARTIALLY_REFUNDED", "REFUNDED"] {
            assert_eq!(status(true, capture), FactStatus::Completed, "{capture}");
            assert_eq!(status(false, capture), FactStatus::Created, "{capture}");
        }
        assert_eq!(status(true, "DECLINED"), FactStatus::Created);
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
            let announced = serde_json::from_str::<Order>(&body).expect("an order").announced("https://shop/back");
            announced.map(|created| created.approve_url).ok()
        };
        let href = "https://www.sandbox.paypal.com/checkoutnow?token=0PF";
        assert_eq!(page("approve", href).as_deref(), Some(href));
        assert_eq!(page("payer-action", href).as_deref(), Some(href));
        assert_eq!(page("capture", href), None);
        assert_eq!(page("approve", "javascript:alert(1)"), None);
        assert_eq!(page("approve", "/checkoutnow"), None);
    }

    #[test]
    fn what_has_been_approved_already_leads_back() {
        let announced = |status: &str| {
            let body = format!(r#"{{"id":"0PF","status":"{status}","links":[{{"rel":"self","href":"https://x.y"}}]}}"#);
            serde_json::from_str::<Order>(&body).expect("an order").announced("https://shop/back")
        };
        for status in ["APPROVED", "COMPLETED"] {
            assert_eq!(announced(status).expect("announced").approve_url, "https://shop/back", "{status}");
        }
        assert!(matches!(announced("VOIDED"), Err(ProviderError::Dead(_))));
        assert!(matches!(announced("CREATED"), Err(ProviderError::Unknown { .. })));
    }

    #[test]
    fn an_authorised_order_names_what_was_taken_of_it() {
        let link = "https://api.paypal.com/v2/payments/authorizations/0AW2184448108334S";
        let body = format!(
            r#"{{"id":"0PF","intent":"AUTHORIZE","status":"COMPLETED","purchase_units":[{{"custom_id":"payment_1","payments":{{
            "authorizations":[{{"id":"0AW2184448108334S","status":"PARTIALLY_CAPTURED","expiration_time":"2026-12-21T10:00:00Z",
            "amount":{{"currency_code":"USD","value":"30.00"}},"update_time":"2026-11-22T10:00:00Z"}}],
            "captures":[{{"id":"5B2","status":"COMPLETED","final_capture":false,"links":[{{"rel":"up","href":"{link}"}}]}}]}}}}]}}"#
        );
        let [_, authorisation, capture] = facts(&body).try_into().expect("three facts");
        assert_eq!((authorisation.kind, authorisation.status), (FactKind::Authorisation, FactStatus::Created));
        assert_eq!((authorisation.reference.as_deref(), authorisation.amount), (Some("payment_1"), usd("30")));
        assert_eq!(capture.parent.as_deref(), Some("0AW2184448108334S"));

        for (word, status) in [
            ("CREATED", FactStatus::Created),
            ("CAPTURED", FactStatus::Completed),
            ("VOIDED", FactStatus::Voided),
            ("DENIED", FactStatus::Declined),
            ("PENDING", FactStatus::Pending),
            ("EXPIRED", FactStatus::Other),
        ] {
            let body = format!(r#"{{"id":"0AW","status":"{word}"}}"#);
            assert_eq!(serde_json::from_str::<Movement>(&body).expect("one").authorisation().status, status, "{word}");
        }
    }

    #[test]
    fn a_reason_tells_a_reversal_from_a_refund() {
        for (word, reason, status) in [
            ("REFUNDED", "CHARGEBACK", FactStatus::Reversed),
            ("REFUNDED", "BUYER_COMPLAINT", FactStatus::Reversed),
            ("REFUNDED", "REFUNDED", FactStatus::Refunded),
            ("PARTIALLY_REFUNDED", "CHARGEBACK", FactStatus::PartiallyReversed),
            ("PARTIALLY_REFUNDED", "BUYER_COMPLAINT", FactStatus::PartiallyReversed),
            ("PARTIALLY_REFUNDED", "REFUNDED", FactStatus::PartiallyRefunded),
            ("PENDING", "BUYER_COMPLAINT", FactStatus::Pending),
        ] {
            let body = format!(
                r#"{{"id":"0PF","purchase_units":[{{"payments":{{"captures":[
                {{"id":"5B2","status":"{word}","status_details":{{"reason":"{reason}"}}}}]}}}}]}}"#
            );
            assert_eq!(facts(&body)[1].status, status, "{word} {reason}");
        }
        let odd = r#"{"id":"0PF","purchase_units":[{"payments":{"captures":[
            {"id":"5B2","status":"REFUNDED","status_details":[]}]}}]}"#;
        assert_eq!(facts(odd)[1].status, FactStatus::Refunded);
    }

    #[test]
    fn only_the_question_of_a_next_page_is_taken_from_its_link() {
        let query = |href: &str| {
            let links = format!(r#"[{{"rel":"self","href":"https://x.y/?a=1"}},{{"rel":"next","href":"{href}"}}]"#);
            serde_json::from_str::<Links>(&links).expect("links").next_query()
        };
        assert_eq!(query("https://evil.example/v1/x?page_size=2&t=%2B").as_deref(), Some("page_size=2&t=%2B"));
        assert_eq!(query("https://api.paypal.com/v1/x"), None);
        assert_eq!(query("?page=2"), None);
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
