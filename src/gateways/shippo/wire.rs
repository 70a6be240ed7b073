//! Shippo's JSON: what Souk writes, and what it reads.
//!
//! The documented shapes and the ones that are seen differ: nulls where nothing is meant, times without a zone, a flat word
//! or a whole object for one field, words outside the closed lists. So reading is lenient about everything but ids and the
//! status of a label: those are what buying a second label hangs on.

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;
use souk_actors::{
    domain::{Address, Currency, Money, Parcel, Service, ShipmentId},
    ports::{BuyLabel, Customs, CustomsItem, Label, LabelStatus, ProviderError, Tracking, TrackingStatus, Void},
};

use super::{AddressCheck, NAME, words};

// ---- what Souk writes ----

/// Whom carriers call about a parcel.
pub(super) struct Sender {
    pub(super) phone: String,
    pub(super) email: String,
}

/// The body of `POST /addresses`, and an address within other bodies.
#[derive(Serialize)]
pub(super) struct CreateAddress<'a> {
    name: &'a str,
    street1: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    street2: Option<&'a str>,
    city: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    zip: &'a str,
    country: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validate: Option<bool>,
}

impl<'a> CreateAddress<'a> {
    pub(super) fn to_check(address: &'a Address) -> Self {
        Self { validate: Some(true), ..Self::of(address) }
    }

    fn of(address: &'a Address) -> Self {
        Self {
            name: &address.name,
            street1: &address.line1,
            street2: address.line2.as_deref(),
            city: &address.city,
            state: address.region.as_deref(),
            zip: &address.postal_code,
            country: &address.country,
            phone: None,
            email: None,
            validate: None,
        }
    }

    fn of_sender(address: &'a Address, sender: &'a Sender) -> Self {
        let given = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Self { phone: given(&sender.phone), email: given(&sender.email), ..Self::of(address) }
    }
}

/// The body of `POST /shipments`: rates are wanted at once.
#[derive(Serialize)]
pub(super) struct CreateShipment<'a> {
    address_from: CreateAddress<'a>,
    address_to: CreateAddress<'a>,
    parcels: [CreateParcel; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    customs_declaration: Option<Declaration<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    r#async: bool,
}

/// Shippo wants its numbers in strings.
#[derive(Serialize)]
struct CreateParcel {
    length: String,
    width: String,
    height: String,
    distance_unit: &'static str,
    weight: String,
    mass_unit: &'static str,
}

#[derive(Serialize)]
struct Declaration<'a> {
    certify: bool,
    certify_signer: &'a str,
    contents_type: &'static str,
    non_delivery_option: &'static str,
    /// What the United States want to know of a parcel that leaves them for less than 2500 dollars a tariff number.
    #[serde(skip_serializing_if = "Option::is_none")]
    eel_pfc: Option<&'static str>,
    items: Vec<DeclaredItem<'a>>,
}

#[derive(Serialize)]
struct DeclaredItem<'a> {
    description: &'a str,
    quantity: i64,
    /// Of all of them.
    net_weight: String,
    mass_unit: &'static str,
    /// Of all of them.
    value_amount: String,
    value_currency: String,
    origin_country: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tariff_number: Option<&'a str>,
}

impl<'a> CreateShipment<'a> {
    pub(super) fn to_quote(
        from: &'a Address,
        to: &'a Address,
        parcel: Parcel,
        customs: Option<&'a Customs>,
        sender: &'a Sender,
    ) -> Self {
        Self {
            address_from: CreateAddress::of_sender(from, sender),
            address_to: CreateAddress::of(to),
            parcels: [parcel.into()],
            customs_declaration: customs.map(|customs| Declaration::new(customs, &from.country, &to.country)),
            metadata: None,
            r#async: false,
        }
    }

    pub(super) fn to_buy(wish: &'a BuyLabel, sender: &'a Sender) -> Self {
        Self {
            address_to: CreateAddress { email: wish.email.as_deref(), ..CreateAddress::of(&wish.to) },
            metadata: Some(wish.shipment_id.to_string()),
            ..Self::to_quote(&wish.from, &wish.to, wish.parcel, wish.customs.as_ref(), sender)
        }
    }
}

impl From<Parcel> for CreateParcel {
    fn from(parcel: Parcel) -> Self {
        Self {
            length: parcel.length_mm.to_string(),
            width: parcel.width_mm.to_string(),
            height: parcel.height_mm.to_string(),
            distance_unit: "mm",
            weight: parcel.grams.to_string(),
            mass_unit: "g",
        }
    }
}

impl<'a> Declaration<'a> {
    fn new(customs: &'a Customs, from: &str, to: &str) -> Self {
        let eel_pfc = match (from, to) {
            ("US", "CA") => Some("NOEEI_30_36"),
            ("US", _) => Some("NOEEI_30_37_a"),
            _ => None,
        };
        let item = |item: &'a CustomsItem| DeclaredItem {
            description: &item.description,
            quantity: item.quantity,
            net_weight: item.grams.to_string(),
            mass_unit: "g",
            value_amount: item.value.amount(),
            value_currency: item.value.currency.to_string(),
            origin_country: &item.origin,
            tariff_number: item.hs_code.as_deref(),
        };
        Self {
            certify: true,
            certify_signer: &customs.signer,
            contents_type: "MERCHANDISE",
            non_delivery_option: "RETURN",
            eel_pfc,
            items: customs.items.iter().map(item).collect(),
        }
    }
}

/// The body of `POST /transactions`: a label is bought.
#[derive(Serialize)]
pub(super) struct CreateTransaction<'a> {
    rate: &'a str,
    /// What the label is found by.
    metadata: String,
    label_file_type: &'a str,
    r#async: bool,
}

impl<'a> CreateTransaction<'a> {
    pub(super) fn new(rate: &'a Rate, shipment_id: ShipmentId, label_format: &'a str) -> Self {
        Self {
            rate: rate.object_id.as_str(),
            metadata: shipment_id.to_string(),
            label_file_type: label_format,
            r#async: false,
        }
    }
}

/// The body of `POST /refunds`.
#[derive(Serialize)]
pub(super) struct CreateRefund<'a> {
    transaction: &'a str,
    r#async: bool,
}

impl<'a> CreateRefund<'a> {
    pub(super) fn new(transaction: &'a ObjectId) -> Self {
        Self { transaction: transaction.as_str(), r#async: false }
    }
}

// ---- what Souk reads ----

/// An id of Shippo's, fit for a path: letters, digits, `_` and `-`, 64 at the most.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ObjectId(String);

impl ObjectId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not an id")
    }
}

/// One rated shipment.
#[derive(Deserialize)]
pub(super) struct Shipment {
    pub(super) object_id: ObjectId,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
    #[serde(default, deserialize_with = "lenient_list")]
    pub(super) rates: Vec<Rate>,
    #[serde(default, deserialize_with = "lenient_list")]
    messages: Vec<Message>,
}

impl Shipment {
    /// Whether its rates are still being gathered.
    pub(super) fn is_waiting(&self) -> bool {
        self.rates.is_empty() && matches!(self.status.as_deref(), Some("WAITING" | "QUEUED"))
    }

    /// The cheapest rate of a service: several accounts may offer it.
    pub(super) fn rate_of(&self, service: &Service) -> Option<&Rate> {
        let offers = |rate: &&Rate| rate.offers(&service.token);
        self.rates.iter().filter(offers).min_by_key(|rate| rate.cost().map_or(i64::MAX, |cost| cost.minor))
    }

    /// Why a service has no rate: the carriers' words, where there are any.
    pub(super) fn no_rate(&self, service: &Service) -> String {
        match told(&self.messages) {
            Some(words) => format!("{} is not offered for this parcel: {words}", service.token),
            None => format!("{} is not offered for this parcel", service.token),
        }
    }
}

/// What a service costs for one shipment. Amounts are in the sender's currency, and again in the recipient's.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Rate {
    pub(super) object_id: ObjectId,
    #[serde(default, deserialize_with = "lenient")]
    amount: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    currency: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    amount_local: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    currency_local: Option<String>,
    /// As people know it: `USPS`, `Canada Post`.
    #[serde(default, deserialize_with = "lenient")]
    provider: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    servicelevel: Option<ServiceLevel>,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) estimated_days: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct ServiceLevel {
    #[serde(default, deserialize_with = "lenient")]
    name: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    token: Option<String>,
    /// Finer than the token, where one token stands for several services.
    #[serde(default, deserialize_with = "lenient")]
    extended_token: Option<String>,
}

impl Rate {
    /// The service as an order remembers it; none where it cannot be named.
    pub(super) fn service(&self) -> Option<Service> {
        let level = self.servicelevel.as_ref()?;
        let token = level.extended_token.as_ref().or(level.token.as_ref()).filter(|token| is_token(token))?;
        let provider = self.provider.as_deref().and_then(words);
        let name =
            [provider, level.name.as_deref().and_then(words)].into_iter().flatten().collect::<Vec<_>>().join(" ");
        Some(Service {
            provider: NAME.to_owned(),
            carrier: self.carrier()?,
            token: token.clone(),
            name: if name.is_empty() { token.clone() } else { name },
        })
    }

    fn offers(&self, token: &str) -> bool {
        let level = self.servicelevel.as_ref();
        level.is_some_and(|level| [&level.token, &level.extended_token].into_iter().flatten().any(|own| own == token))
    }

    /// The carrier's token, as tracking wants it: Shippo's are the names that people know, plainly written.
    pub(super) fn carrier(&self) -> Option<String> {
        let lower = self.provider.as_deref()?.to_lowercase();
        let parts = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
        Some(parts.collect::<Vec<_>>().join("_")).filter(|token| is_token(token))
    }

    /// What it costs in this currency, if either amount is in it.
    pub(super) fn price_in(&self, currency: Currency) -> Option<Money> {
        let amounts = [(&self.amount, &self.currency), (&self.amount_local, &self.currency_local)];
        let mut ours = amounts.into_iter().filter(|(_, code)| code.as_deref() == Some(currency.code()));
        ours.find_map(|(amount, _)| money(amount.as_deref()?, currency))
    }

    /// What the shop pays.
    pub(super) fn cost(&self) -> Option<Money> {
        self.price_in(self.currency.as_deref()?.parse().ok()?)
    }
}

/// `5.5`, `5.50` and `5.505` as money, rounded up to what the currency has.
fn money(amount: &str, currency: Currency) -> Option<Money> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let kept = fraction.len().min(currency.exponent() as usize);
    let (fraction, rest) = fraction.split_at(kept);
    let text = if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") };
    let money = Money::parse(&text, currency).ok()?;
    let more = i64::from(rest.bytes().any(|b| b != b'0'));
    money.plus(Money::new(more, currency)).ok()
}

/// A label, or the attempt to buy one.
#[derive(Deserialize)]
pub(super) struct Transaction {
    pub(super) object_id: ObjectId,
    status: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) metadata: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    object_created: Option<Time>,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) rate: Option<RateOf>,
    #[serde(default, deserialize_with = "lenient")]
    tracking_number: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    tracking_url_provider: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    label_url: Option<String>,
    #[serde(default, deserialize_with = "lenient_list")]
    messages: Vec<Message>,
}

/// A label's rate: by its id, or whole where the label was bought without asking for rates first.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RateOf {
    Named(ObjectId),
    Whole(Box<Rate>),
}

#[derive(Deserialize)]
struct Message {
    #[serde(default, deserialize_with = "lenient")]
    code: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    text: Option<String>,
}

impl Transaction {
    pub(super) fn label(&self, rate: Option<&Rate>) -> Label {
        let given = |text: &Option<String>| text.as_deref().and_then(words);
        Label {
            label_id: self.object_id.as_str().to_owned(),
            status: self.label_status(),
            carrier: rate.and_then(Rate::carrier),
            tracking_number: given(&self.tracking_number),
            tracking_url: given(&self.tracking_url_provider).filter(|url| url.starts_with("https://")),
            // not for people, so whole: a signed address with a letter missing opens nothing
            file_url: self.label_url.clone().filter(|url| !url.is_empty() && url.len() <= 4096),
            cost: rate.and_then(Rate::cost),
        }
    }

    /// A word that is not known is taken for a label that is being bought: nobody buys a second one, and it is looked at again.
    fn label_status(&self) -> LabelStatus {
        match self.status.as_str() {
            "SUCCESS" => LabelStatus::Bought,
            "ERROR" => LabelStatus::Failed(told(&self.messages).unwrap_or_else(|| "no reason was given".to_owned())),
            "REFUNDPENDING" => LabelStatus::Voiding,
            "REFUNDED" => LabelStatus::Voided,
            "REFUNDREJECTED" => LabelStatus::VoidRejected,
            _ => LabelStatus::Queued,
        }
    }

    pub(super) fn is_bought(&self) -> bool {
        match self.label_status() {
            LabelStatus::Bought | LabelStatus::Voiding | LabelStatus::Voided | LabelStatus::VoidRejected => true,
            LabelStatus::Queued | LabelStatus::Failed(_) => false,
        }
    }

    pub(super) fn was_not_refused(&self) -> bool {
        self.status != "ERROR"
    }

    pub(super) fn is_older_than(&self, horizon: Option<DateTime<Utc>>) -> bool {
        self.object_created.zip(horizon).is_some_and(|(Time(created), horizon)| created < horizon)
    }

    /// How a wish for its money back stands, if there was one.
    pub(super) fn void(&self) -> Result<Option<Void>, ProviderError> {
        match self.label_status() {
            LabelStatus::Bought => Ok(None),
            LabelStatus::Voiding => Ok(Some(Void::Pending)),
            LabelStatus::Voided => Ok(Some(Void::Done)),
            LabelStatus::VoidRejected => Ok(Some(Void::Rejected)),
            LabelStatus::Queued => Err(ProviderError::NotYet("the label is still being bought".to_owned())),
            LabelStatus::Failed(_) => Err(ProviderError::Rejected("the label was never bought".to_owned())),
        }
    }
}

/// What a carrier says, for a person.
fn told(messages: &[Message]) -> Option<String> {
    let said = |message: &Message| {
        let (code, text) = (message.code.as_deref().and_then(words), message.text.as_deref().and_then(words));
        match (code, text) {
            (Some(code), Some(text)) => Some(format!("{code}: {text}")),
            (one, other) => one.or(other),
        }
    };
    words(&messages.iter().filter_map(said).collect::<Vec<_>>().join("; "))
}

/// One page of labels. Links to other pages are not followed: pages have numbers.
#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) results: Vec<Transaction>,
    #[serde(default, deserialize_with = "lenient")]
    next: Option<String>,
}

impl Page {
    pub(super) fn is_last(&self) -> bool {
        self.next.as_deref().is_none_or(str::is_empty)
    }
}

/// A wish for a label's money.
#[derive(Deserialize)]
pub(super) struct Refund {
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
}

impl Refund {
    /// A carrier takes days; a word that is not known decides nothing.
    pub(super) fn void(&self) -> Void {
        match self.status.as_deref() {
            Some("SUCCESS") => Void::Done,
            Some("ERROR") => Void::Rejected,
            _ => Void::Pending,
        }
    }
}

/// Where a parcel has been.
#[derive(Deserialize)]
pub(super) struct Track {
    #[serde(default, deserialize_with = "lenient")]
    tracking_status: Option<Scan>,
    #[serde(default, deserialize_with = "lenient_list")]
    tracking_history: Vec<Scan>,
}

/// One thing that was said of a parcel.
#[derive(Deserialize)]
pub(super) struct Scan {
    #[serde(default, deserialize_with = "lenient")]
    pub(super) status: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) substatus: Option<Substatus>,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) status_date: Option<Time>,
    #[serde(default, deserialize_with = "lenient")]
    object_created: Option<Time>,
}

#[derive(Deserialize)]
pub(super) struct Substatus {
    #[serde(default, deserialize_with = "lenient")]
    pub(super) code: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    text: Option<String>,
}

impl Track {
    /// Everything that was said and has a time, oldest first; what was said twice stands once.
    pub(super) fn history(&self) -> Vec<Tracking> {
        let mut history: Vec<Tracking> =
            self.tracking_history.iter().chain(&self.tracking_status).filter_map(Scan::tracking).collect();
        history.sort_by_key(|said| (said.at, said.status));
        history.dedup();
        history
    }
}

impl Scan {
    fn tracking(&self) -> Option<Tracking> {
        let status = match self.status.as_deref()? {
            "PRE_TRANSIT" => TrackingStatus::PreTransit,
            "TRANSIT" => TrackingStatus::Transit,
            "DELIVERED" => TrackingStatus::Delivered,
            "RETURNED" => TrackingStatus::Returned,
            "FAILURE" => TrackingStatus::Failure,
            _ => TrackingStatus::Unknown,
        };
        let Time(at) = self.status_date.or(self.object_created)?;
        let substatus = self.substatus.as_ref();
        let code = substatus.and_then(|substatus| substatus.code.clone()).filter(|code| is_token(code));
        // `status_details` is what a driver or a machine wrote, with the place in it; this sentence is Shippo's own
        let told = substatus.and_then(|substatus| substatus.text.as_deref()).and_then(words);
        Some(Tracking { status, substatus: code, details: told.unwrap_or_else(|| plainly(status).to_owned()), at })
    }
}

fn plainly(status: TrackingStatus) -> &'static str {
    match status {
        TrackingStatus::Unknown => "Nothing is known yet.",
        TrackingStatus::PreTransit => "The carrier has been told of the parcel.",
        TrackingStatus::Transit => "The parcel is on its way.",
        TrackingStatus::Failure => "The parcel could not be delivered.",
        TrackingStatus::Returned => "The parcel is on its way back.",
        TrackingStatus::Delivered => "The parcel was delivered.",
    }
}

/// An address that was checked.
#[derive(Deserialize)]
pub(super) struct Validated {
    #[serde(default, deserialize_with = "lenient")]
    street1: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    street2: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    city: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    state: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    zip: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    validation_results: Option<Validation>,
}

#[derive(Deserialize)]
struct Validation {
    #[serde(default, deserialize_with = "lenient")]
    is_valid: Option<bool>,
    #[serde(default, deserialize_with = "lenient_list")]
    messages: Vec<Message>,
}

impl Validated {
    /// None where nothing was checked.
    pub(super) fn check(&self, asked: &Address) -> Option<AddressCheck> {
        let validation = self.validation_results.as_ref()?;
        let is_valid = validation.is_valid?;
        let message = |message: &Message| {
            let code = message.code.clone().filter(|code| is_token(code));
            Some((code, message.text.as_deref().and_then(words)?))
        };
        let suggested = Some(self.written(asked)).filter(|written| is_valid && written != asked);
        Some(AddressCheck {
            is_valid,
            messages: validation.messages.iter().filter_map(message).collect(),
            suggested: suggested.and_then(|written| written.checked().ok()),
        })
    }

    /// The address as the carrier writes it; what it leaves out stays as it was asked.
    fn written(&self, asked: &Address) -> Address {
        let or =
            |text: &Option<String>, asked: &str| text.as_deref().and_then(words).unwrap_or_else(|| asked.to_owned());
        let or_none =
            |text: &Option<String>, asked: &Option<String>| text.as_deref().and_then(words).or_else(|| asked.clone());
        Address {
            name: asked.name.clone(),
            line1: or(&self.street1, &asked.line1),
            line2: or_none(&self.street2, &asked.line2),
            city: or(&self.city, &asked.city),
            region: or_none(&self.state, &asked.region),
            postal_code: or(&self.zip, &asked.postal_code),
            country: asked.country.clone(),
        }
    }
}

/// A time of Shippo's, to the microsecond that Postgres keeps: with a zone, or without one and meant as UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Time(pub(super) DateTime<Utc>);

impl TryFrom<String> for Time {
    type Error = chrono::ParseError;
    fn try_from(text: String) -> Result<Self, chrono::ParseError> {
        let at = match DateTime::parse_from_rfc3339(&text) {
            Ok(at) => at.to_utc(),
            Err(_) => NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f")?.and_utc(),
        };
        Ok(Self(at.trunc_subsecs(6)))
    }
}

/// Shippo's words and tokens; anything else is not from it.
pub(super) fn is_token(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=128).contains(&text.len()) && text.bytes().all(plain)
}

/// What is there and can be read.
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
