//! Shippo: rates, labels, tracking and addresses of many carriers behind one API, and the verification of its webhooks.
//!
//! A label is bought in two calls: a shipment is rated anew (rates live for seven days and belong to one shipment, so what
//! an order remembers is the service), and then its rate is bought. Buying knows no idempotency key. What a timeout left
//! behind is found by the shipment's id, which goes along as metadata; Shippo cannot be asked by metadata, so its newest
//! labels are read until they are older than the shipment.
//!
//! Every call goes to the configured base URL, by a path made of checked words. Nothing of a request or an answer is logged
//! but the status.

mod errors;
pub mod webhook;
mod wire;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Client, Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use souk_actors::{
    clock::Clock,
    domain::{Address, Currency, Money, Parcel, Service, ShipmentId, printable},
    ports::{BuyLabel, Carrier, Customs, Label, LabelFile, ParcelLocator, ProviderError, Tracking, Void},
};
use tokio::sync::Semaphore;
use url::Url;

use self::{
    errors::Answer,
    webhook::Verifier,
    wire::{
        CreateAddress, CreateRefund, CreateShipment, CreateTransaction, ObjectId, Page, Rate, Refund, Sender, Shipment,
        Track, Transaction, Validated,
    },
};
use super::{Secret, SettingsError, http};

/// Its name in routes and rows, and in the services that it offers.
pub const NAME: &str = "shippo";

/// The version of answers and webhooks.
const API_VERSION: &str = "2018-02-08";
/// A page of a hundred labels, each with its messages, is far below this.
const LONGEST_BODY: usize = 4 * 1024 * 1024;
/// A label is a page; a picture of one is a few hundred kilobytes.
const LONGEST_FILE: usize = 10 * 1024 * 1024;
/// Labels that are read at once when one is looked for.
const PAGE: usize = 100;
/// Past so many labels nobody can say any more whether one was bought, and nobody buys a second one.
const MOST_PAGES: usize = 1_000;
/// Shippo gives lists out fifty times a minute: a search that has begun waits for that, rather than begin again.
const MOST_PAUSES: usize = 60;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Shippo's clock and ours, and a shipment's id that runs ahead of time in a busy shop.
const LEEWAY: TimeDelta = TimeDelta::days(1);
/// Quotes and checks of addresses are asked for by anybody; so many at once, and no more, reach Shippo.
const MOST_ASKED: usize = 32;
/// How long between two looks at a shipment whose rates are still being gathered.
const POLL: Duration = Duration::from_millis(300);

/// How Shippo is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://api.goshippo.com`, or plain http on this machine.
    pub base_url: String,
    /// The key; it decides whether labels are real.
    pub api_key: Secret,
    /// The longest one call may take.
    pub timeout: Duration,
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// What kind of file a label is, in Shippo's word.
    pub label_format: String,
    /// Whom carriers call about a parcel.
    pub phone: String,
    /// Whom they write to.
    pub email: String,
    /// Whose webhooks are believed.
    pub webhook: webhook::Settings,
}

/// The formats of labels that Shippo makes.
const FORMATS: [&str; 10] =
    ["PNG", "PNG_2.3x7.5", "PDF", "PDF_2.3x7.5", "PDF_4x6", "PDF_4x8", "PDF_A4", "PDF_A5", "PDF_A6", "ZPLII"];

/// One way to send a parcel, as a carrier offers it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which.
    pub service: Service,
    /// What the carrier asks for it.
    pub price: Money,
    /// How long it takes, as a rule.
    pub estimated_days: Option<u32>,
}

/// What a carrier's books say of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressCheck {
    /// Whether a parcel can be sent there. True does not mean that nothing is to be said: a flat's number may be missing.
    pub is_valid: bool,
    /// What is to be said of it, for a person: a code where there is one, and a sentence.
    pub messages: Vec<(Option<String>, String)>,
    /// How the carrier writes it, where that differs.
    pub suggested: Option<Address>,
}

impl AddressCheck {
    /// Nobody has looked, and this is why.
    #[must_use]
    pub fn unchecked(why: &str) -> Self {
        Self { is_valid: true, messages: vec![(Some("not_checked".to_owned()), why.to_owned())], suggested: None }
    }
}

/// The client of one Shippo account.
pub struct Shippo {
    http: Client,
    base: Url,
    api_key: Secret,
    timeout: Duration,
    label_format: String,
    sender: Sender,
    clock: Clock,
    webhooks: Verifier,
    asked: Semaphore,
}

impl Shippo {
    /// Speaks to nobody yet.
    ///
    /// # Errors
    /// [`SettingsError`] for what could never work, and where no TLS client can be built.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let base = base(&settings.base_url)?;
        if !is_key(settings.api_key.expose()) {
            return Err(SettingsError::new("api_key", "is missing, or no key of Shippo's"));
        }
        if !FORMATS.contains(&settings.label_format.as_str()) {
            return Err(SettingsError::new("label_format", format!("is one of {}", FORMATS.join(", "))));
        }
        let http = http::client(base.scheme() == "http", settings.connect_timeout, settings.timeout)
            .map_err(|error| SettingsError::new("base_url", format!("no HTTP client for it: {error}")))?;
        Ok(Self {
            http,
            base,
            api_key: settings.api_key,
            timeout: settings.timeout,
            label_format: settings.label_format,
            sender: Sender { phone: settings.phone, email: settings.email },
            webhooks: Verifier::new(settings.webhook, clock.clone()),
            clock,
            asked: Semaphore::new(MOST_ASKED),
        })
    }

    /// Who checks that a webhook is Shippo's.
    #[must_use]
    pub fn webhooks(&self) -> &Verifier {
        &self.webhooks
    }

    /// What sending a parcel costs now, in this currency: nothing is converted, so an offer in no such currency is left out.
    /// The cheapest comes first. Abroad, carriers want `customs` before they say a price.
    ///
    /// # Errors
    /// [`ProviderError`], also where too many ask at once.
    pub async fn rates(
        &self,
        from: &Address,
        to: &Address,
        parcel: Parcel,
        customs: Option<&Customs>,
        currency: Currency,
    ) -> Result<Vec<Offer>, ProviderError> {
        let _turn = self.asked.try_acquire().map_err(|_| errors::no_answer("too many quotes at once"))?;
        let shipment = self.rate(&CreateShipment::to_quote(from, to, parcel, customs, &self.sender)).await?;
        let mut offers: Vec<Offer> = shipment.rates.iter().filter_map(|rate| offer(rate, currency)).collect();
        offers.sort_by(|a, b| (a.price.minor, &a.service.token).cmp(&(b.price.minor, &b.service.token)));
        // a service of two accounts is one service to a buyer
        let mut seen = std::collections::HashSet::new();
        offers.retain(|offer| seen.insert(offer.service.token.clone()));
        Ok(offers)
    }

    /// What the carriers' books say of an address.
    ///
    /// # Errors
    /// [`ProviderError`], also where too many ask at once.
    pub async fn check_address(&self, address: &Address) -> Result<AddressCheck, ProviderError> {
        let _turn = self.asked.try_acquire().map_err(|_| errors::no_answer("too many addresses at once"))?;
        let call = Call::post("check_address", &["addresses"], &CreateAddress::to_check(address))?;
        let validated: Validated = self.call(call).await?;
        Ok(validated
            .check(address)
            .unwrap_or_else(|| AddressCheck::unchecked("The carrier says nothing of this address.")))
    }

    /// A shipment with its rates; waits, within the timeout of a call, for rates that are still being gathered.
    async fn rate(&self, wanted: &CreateShipment<'_>) -> Result<Shipment, ProviderError> {
        let gathering = async {
            let mut shipment: Shipment = self.call(Call::post("rate", &["shipments"], wanted)?).await?;
            while shipment.is_waiting() {
                tokio::time::sleep(POLL).await;
                let path = ["shipments", shipment.object_id.as_str()];
                shipment = self.call(Call::get("rates", &path)).await?;
            }
            Ok(shipment)
        };
        tokio::time::timeout(self.timeout, gathering).await.unwrap_or_else(|_| Err(errors::no_answer("timed out")))
    }

    async fn transaction(&self, id: &ObjectId) -> Result<Transaction, ProviderError> {
        self.call(Call::get("look", &["transactions", id.as_str()])).await
    }

    /// A label with what only its rate knows: whose it is, and what it cost.
    async fn with_rate(&self, transaction: &Transaction) -> Result<Label, ProviderError> {
        let rate = match &transaction.rate {
            Some(wire::RateOf::Whole(rate)) => Some((**rate).clone()),
            Some(wire::RateOf::Named(id)) if transaction.is_bought() => match self.rate_by_id(id).await {
                Ok(rate) => Some(rate),
                Err(ProviderError::Dead(_)) => None, // rates are forgotten one day
                Err(error) => return Err(error),
            },
            Some(wire::RateOf::Named(_)) | None => None,
        };
        Ok(transaction.label(rate.as_ref()))
    }

    async fn rate_by_id(&self, id: &ObjectId) -> Result<Rate, ProviderError> {
        self.call(Call::get("rate", &["rates", id.as_str()])).await
    }

    async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ProviderError> {
        let answer = self.send(call).await?;
        if !matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
            return Err(errors::refusal(&answer));
        }
        read(&answer)
    }

    async fn send(&self, call: Call<'_>) -> Result<Answer, ProviderError> {
        let mut request = self
            .http
            .request(call.method, self.url(call.path, call.query))
            .header(header::AUTHORIZATION, authorization(&self.api_key))
            .header("SHIPPO-API-VERSION", API_VERSION);
        if let Some(body) = call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        let sent = request.send().await;
        let response = sent.map_err(|error| errors::broken(&error)).inspect_err(|error| {
            tracing::warn!(call = call.name, %error, "Shippo did not answer");
        })?;

        let status = response.status();
        let (date, retry_after) = errors::times(response.headers(), self.clock.now());
        if status.is_success() {
            tracing::debug!(call = call.name, status = status.as_u16(), "Shippo answered");
        } else {
            tracing::warn!(call = call.name, status = status.as_u16(), "Shippo refused");
        }

        let body = match http::read(response, LONGEST_BODY).await {
            Ok(body) => body,
            Err(http::Unread::Cut(error)) => return Err(errors::broken(&error)),
            Err(http::Unread::TooLong) => return Err(errors::no_answer("an answer without end")),
        };
        Ok(Answer { status, date, retry_after, body })
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

impl fmt::Debug for Shippo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shippo").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// What one call sends.
struct Call<'a> {
    /// For the log.
    name: &'static str,
    method: Method,
    path: &'a [&'a str],
    query: &'a [(&'a str, String)],
    body: Option<Vec<u8>>,
}

impl<'a> Call<'a> {
    fn get(name: &'static str, path: &'a [&'a str]) -> Self {
        Self { name, method: Method::GET, path, query: &[], body: None }
    }

    fn post(name: &'static str, path: &'a [&'a str], body: &impl Serialize) -> Result<Self, ProviderError> {
        let unwritable = |_| ProviderError::Rejected("the request could not be written".to_owned());
        let body = serde_json::to_vec(body).map_err(unwritable)?;
        Ok(Self { name, method: Method::POST, path, query: &[], body: Some(body) })
    }
}

#[async_trait]
impl Carrier for Shippo {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn buy(&self, wish: &BuyLabel) -> Result<Label, ProviderError> {
        let shipment = self.rate(&CreateShipment::to_buy(wish, &self.sender)).await?;
        let Some(rate) = shipment.rate_of(&wish.service) else {
            return Err(ProviderError::Rejected(shipment.no_rate(&wish.service)));
        };
        let body = CreateTransaction::new(rate, wish.shipment_id, &self.label_format);
        let transaction: Transaction = self.call(Call::post("buy", &["transactions"], &body)?).await?;
        Ok(transaction.label(Some(rate)))
    }

    async fn find(&self, shipment_id: ShipmentId) -> Result<Vec<Label>, ProviderError> {
        let metadata = shipment_id.to_string();
        let mut found: Vec<Transaction> = Vec::new();
        let mut pauses = 0;
        for number in 1..=MOST_PAGES {
            let query = [("page", number.to_string()), ("results", PAGE.to_string())];
            let mut answer = self.send(Call { query: &query, ..Call::get("find", &["transactions"]) }).await?;
            while answer.status == StatusCode::TOO_MANY_REQUESTS && number > 1 && pauses < MOST_PAUSES {
                pauses += 1;
                tokio::time::sleep(answer.retry_after.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE)).await;
                answer = self.send(Call { query: &query, ..Call::get("find", &["transactions"]) }).await?;
            }
            if answer.status != StatusCode::OK {
                return Err(errors::refusal(&answer));
            }
            let page: Page = read(&answer)?;
            let horizon = horizon(shipment_id, answer.date);
            // labels that are bought meanwhile push the list down: a label may be seen twice, and none is missed
            let is_last = page.is_last() || page.results.iter().all(|seen| seen.is_older_than(horizon));
            let ours = page.results.into_iter().filter(|one| one.metadata.as_deref() == Some(&metadata));
            for one in ours.filter(Transaction::was_not_refused) {
                if !found.iter().any(|known| known.object_id == one.object_id) {
                    found.push(one);
                }
            }
            if is_last {
                let labels = found.iter().map(|transaction| self.with_rate(transaction));
                return futures::future::try_join_all(labels).await;
            }
        }
        Err(errors::no_answer("more labels than can be looked through"))
    }

    async fn look(&self, label_id: &str) -> Result<Label, ProviderError> {
        let transaction = self.transaction(&object_id(label_id)?).await?;
        self.with_rate(&transaction).await
    }

    async fn void(&self, label_id: &str) -> Result<Void, ProviderError> {
        let transaction_id = object_id(label_id)?;
        if let Some(before) = self.transaction(&transaction_id).await?.void()? {
            return Ok(before);
        }
        let call = Call::post("void", &["refunds"], &CreateRefund::new(&transaction_id))?;
        let refund: Refund = self.call(call).await?;
        Ok(refund.void())
    }

    async fn file(&self, url: &str) -> Result<LabelFile, ProviderError> {
        let safe = Url::parse(url).ok().filter(http::is_safe);
        let url = safe.ok_or_else(|| ProviderError::Rejected("the label's address is no safe one".to_owned()))?;
        // no key goes along: the address itself is the permission
        let response = self.http.get(url).send().await.map_err(|error| errors::broken(&error))?;
        let status = response.status();
        if matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Err(ProviderError::Dead("the label's address has expired".to_owned()));
        }
        if status != StatusCode::OK {
            return Err(errors::no_answer("the label's file is not there now"));
        }
        let bytes = match http::read(response, LONGEST_FILE).await {
            Ok(bytes) => bytes,
            Err(http::Unread::Cut(error)) => return Err(errors::broken(&error)),
            Err(http::Unread::TooLong) => return Err(ProviderError::Rejected("a label without end".to_owned())),
        };
        let content_type = media_type(&bytes).ok_or_else(|| errors::no_answer("what came is no label"))?;
        Ok(LabelFile { content_type: content_type.to_owned(), bytes })
    }

    async fn track(&self, carrier: &str, tracking_number: &str) -> Result<Vec<Tracking>, ProviderError> {
        if !is_word(carrier) || !is_word(tracking_number) {
            return Err(ProviderError::Rejected("not a parcel's number".to_owned()));
        }
        let track: Track = self.call(Call::get("track", &["tracks", carrier, tracking_number])).await?;
        Ok(track.history())
    }

    fn locate(&self, body: &[u8]) -> ParcelLocator {
        webhook::locate(body)
    }
}

/// What an offer costs in this currency, if it is made in it: `amount` is in the sender's, `amount_local` in the
/// recipient's.
fn offer(rate: &Rate, currency: Currency) -> Option<Offer> {
    Some(Offer {
        service: rate.service()?,
        price: rate.price_in(currency)?,
        estimated_days: rate.estimated_days.and_then(|days| u32::try_from(days).ok()),
    })
}

/// No label of a shipment is older: its id is no lower than the milliseconds at which it was taken. The provider's own clock
/// counts where it is behind that.
fn horizon(shipment_id: ShipmentId, provider_now: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let by_id = DateTime::from_timestamp_millis(shipment_id.0)?;
    Some(by_id.min(provider_now?) - LEEWAY)
}

/// What a label's file is, by its first bytes: what storage says of its type is not to be believed.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 3] =
        [(b"%PDF-", "application/pdf"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"^XA", "application/zpl")];
    let trimmed = bytes.trim_ascii_start();
    known.iter().find(|(magic, _)| trimmed.starts_with(magic)).map(|(_, media_type)| *media_type)
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, ProviderError> {
    serde_json::from_slice(&answer.body).map_err(|_| errors::uncertain(answer, "unreadable answer"))
}

fn object_id(text: &str) -> Result<ObjectId, ProviderError> {
    ObjectId::parse(text).ok_or_else(|| ProviderError::Rejected("not an id of Shippo".to_owned()))
}

/// A carrier's token or a parcel's number, fit for a path.
fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b' ');
    (1..=64).contains(&text.len()) && text.bytes().all(plain) && !text.bytes().all(|b| matches!(b, b'.' | b' '))
}

/// Whether this can stand in a header as a key.
fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A key of Shippo's own, or a token of somebody who lets us act for him.
fn authorization(api_key: &Secret) -> String {
    let kind = if api_key.expose().starts_with("oauth.") { "Bearer" } else { "ShippoToken" };
    format!("{kind} {}", api_key.expose())
}

fn base(text: &str) -> Result<Url, SettingsError> {
    let wrong = |problem: &str| SettingsError::new("base_url", problem);
    let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    if !http::is_safe(&url) {
        return Err(wrong("is neither https nor on this machine"));
    }
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !plain || url.fragment().is_some() {
        return Err(wrong("is more than scheme, host, port and path"));
    }
    Ok(url)
}

/// A provider's text as a person may read it, where there is any.
fn words(text: &str) -> Option<String> {
    Some(printable(text.trim())).filter(|text| !text.is_empty())
}
