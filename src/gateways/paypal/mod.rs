//! PayPal: Orders v2 and Payments v2, and the verification of its webhooks.
//!
//! Every call goes to the configured base URL, by a path made of checked ids: PayPal's own links are read for ids and
//! for the page where the buyer approves, and are never followed. Nothing of a request or an answer is logged but the
//! status and `PayPal-Debug-Id`, which PayPal's support asks for.

mod disputes;
mod errors;
mod events;
mod listing;
mod money;
mod requests;
mod token;
pub mod webhook;
mod wire;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use axum::http::HeaderMap;
use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use souk_actors::{
    clock::Clock,
    domain::{Currency, Money, RefundId, TaskId},
    ports::{CreatePayment, Created, Fact, FactKind, ListedEvent, Locator, PaymentProvider, ProviderError},
};
use url::{Url, form_urlencoded};

use self::{
    disputes::Dispute,
    errors::Answer,
    money::Amount,
    requests::{CaptureAuthorised, CreateOrder, CreateRefund, Nothing},
    token::{Granted, Tokens},
    webhook::{Rejection, Verification, Verified, Verifier},
    wire::{Movement, ObjectId, Order},
};
use super::{Secret, SettingsError, http};

/// An order with ten purchase units, each with a page of items, is far below this.
const LONGEST_BODY: usize = 1024 * 1024;
/// PayPal's limit for the name it shows above the buyer's total.
const LONGEST_BRAND: usize = 127;

/// How many events, or disputes, one page of a list is asked for.
const PAGE: usize = 50;
/// How many pages of a list are read: no list of an honest shop is longer.
const MOST_PAGES: usize = 200;

/// How PayPal is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://api-m.paypal.com`, `https://api-m.sandbox.paypal.com`, or plain http on this machine.
    pub base_url: String,
    /// The app's id at PayPal.
    pub client_id: String,
    /// The app's secret.
    pub client_secret: Secret,
    /// What the buyer reads above the total.
    pub brand_name: String,
    /// The longest one call may take, token and second attempt included.
    pub timeout: Duration,
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// Whose webhooks are believed.
    pub webhook: webhook::Settings,
    /// Who checks their signatures.
    pub verification: Verification,
}

/// The client of one PayPal account. To be shared: its connections and its token are.
pub struct PayPal {
    http: Client,
    base: Url,
    client_id: String,
    client_secret: Secret,
    brand_name: String,
    timeout: Duration,
    clock: Clock,
    tokens: Tokens,
    webhooks: Verifier,
    verification: Verification,
}

impl PayPal {
    /// Speaks to nobody yet.
    ///
    /// # Errors
    /// [`SettingsError`] for what could never work, and where no TLS client can be built.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let base = base(&settings.base_url)?;
        for (setting, text) in
            [("client_id", settings.client_id.as_str()), ("client_secret", settings.client_secret.expose())]
        {
            if text.is_empty() {
                return Err(SettingsError::new(setting, "is missing"));
            }
        }
        let http = http::client(base.scheme() == "http", settings.connect_timeout, settings.timeout)
            .map_err(|error| SettingsError::new("base_url", format!("no HTTP client for it: {error}")))?;
        Ok(Self {
            http,
            base,
            client_id: settings.client_id,
            client_secret: settings.client_secret,
            brand_name: settings.brand_name.chars().take(LONGEST_BRAND).collect(),
            timeout: settings.timeout,
            webhooks: Verifier::new(settings.webhook, clock.clone())?,
            verification: settings.verification,
            tokens: Tokens::new(clock.clone()),
            clock,
        })
    }

    /// Whether PayPal sent `body`, the bytes as they came, with `headers`: by its certificate, or by asking PayPal.
    ///
    /// # Errors
    /// [`Rejection`]: not PayPal's, or not to be told right now.
    pub async fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Rejection> {
        match self.verification {
            Verification::Itself => self.webhooks.verify(headers, body).await,
            Verification::Postback => {
                self.webhooks.verify_by(headers, body, async |asked| self.confirm(asked).await).await
            }
        }
    }

    /// Asks PayPal whether it made a signature.
    async fn confirm(&self, asked: requests::VerifySignature<'_>) -> Result<bool, ProviderError> {
        #[derive(Deserialize)]
        struct Verdict {
            verification_status: String,
        }
        let path = ["v1", "notifications", "verify-webhook-signature"];
        let verdict: Verdict = self.call(Call::ask("verify", &path, &asked)?).await?;
        match verdict.verification_status.as_str() {
            "SUCCESS" => Ok(true),
            "FAILURE" => Ok(false),
            _ => Err(errors::no_answer("neither success nor failure")),
        }
    }

    /// Whether an order of this total can be told to PayPal to the last decimal.
    #[must_use]
    pub fn charges(&self, total: Money) -> bool {
        Amount::exact(total).is_ok()
    }

    /// One call whose answer says something.
    async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ProviderError> {
        let answer = self.exchange(call).await?;
        serde_json::from_slice(&answer.body).map_err(|_| errors::uncertain(&answer, "unreadable answer"))
    }

    /// One call: with a token, within the timeout, and once more with a new token if the first was refused.
    async fn exchange(&self, call: Call<'_>) -> Result<Answer, ProviderError> {
        let answered = tokio::time::timeout(self.timeout, self.authorised(&call)).await;
        let answer = answered.unwrap_or_else(|_| Err(errors::no_answer("timed out")))?;
        match answer.status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(answer),
            _ => Err(errors::refusal(&answer)),
        }
    }

    /// The first page of a list, and those after it, as far as lists go.
    async fn pages<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &[&str],
        first: String,
        mut next: impl FnMut(T) -> Option<String> + Send,
    ) -> Result<(), ProviderError> {
        let mut query = first;
        for _ in 0..MOST_PAGES {
            let page: T = self.call(Call { query: Some(query), ..Call::get(name, path) }).await?;
            let Some(after) = next(page) else { return Ok(()) };
            query = after;
        }
        tracing::warn!(call = name, pages = MOST_PAGES, "PayPal's list goes on: its older end is left out");
        Ok(())
    }

    async fn authorised(&self, call: &Call<'_>) -> Result<Answer, ProviderError> {
        let token = self.tokens.get(self.fetch_token()).await?;
        let answer = self.attempt(call, &token).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.tokens.forget(&token).await;
        let renewed = self.tokens.get(self.fetch_token()).await?;
        self.attempt(call, &renewed).await
    }

    async fn attempt(&self, call: &Call<'_>, token: &Secret) -> Result<Answer, ProviderError> {
        let mut request = self
            .http
            .request(call.method.clone(), self.url(call.path, call.query.as_deref()))
            .bearer_auth(token.expose())
            .header("Prefer", "return=representation");
        if let Some(request_id) = call.request_id {
            request = request.header("PayPal-Request-Id", request_id.to_string());
        }
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        self.send(call.name, request).await
    }

    async fn fetch_token(&self) -> Result<Granted, ProviderError> {
        let request = self
            .http
            .post(self.url(&["v1", "oauth2", "token"], None))
            .basic_auth(&self.client_id, Some(self.client_secret.expose()))
            .form(&[("grant_type", "client_credentials")]);
        let answer = self.send("token", request).await?;
        if answer.status != StatusCode::OK {
            return Err(errors::refusal(&answer));
        }
        Granted::read(&answer.body).ok_or_else(|| errors::uncertain(&answer, "unreadable token"))
    }

    async fn send(&self, name: &'static str, request: RequestBuilder) -> Result<Answer, ProviderError> {
        let sent = request.send().await;
        let response = sent.map_err(|error| errors::broken(&error)).inspect_err(|error| {
            tracing::warn!(call = name, %error, "PayPal did not answer");
        })?;

        let status = response.status();
        let debug_id = errors::debug_id(response.headers());
        let retry_after = errors::retry_after(response.headers(), self.clock.now());
        if status.is_success() {
            tracing::debug!(call = name, status = status.as_u16(), paypal.debug_id = %debug_id, "PayPal answered");
        } else {
            tracing::warn!(call = name, status = status.as_u16(), paypal.debug_id = %debug_id, "PayPal refused");
        }

        let body = match http::read(response, LONGEST_BODY).await {
            Ok(body) => body,
            Err(http::Unread::Cut(error)) => return Err(errors::broken(&error)),
            Err(http::Unread::TooLong) => return Err(errors::no_answer("an answer without end")),
        };
        Ok(Answer { status, debug_id, retry_after, body })
    }

    fn url(&self, path: &[&str], query: Option<&str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(query);
        url
    }
}

impl fmt::Debug for PayPal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayPal").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// What one call sends.
struct Call<'a> {
    /// For the log.
    name: &'static str,
    method: Method,
    path: &'a [&'a str],
    query: Option<String>,
    request_id: Option<TaskId>,
    body: Option<Vec<u8>>,
}

impl<'a> Call<'a> {
    fn get(name: &'static str, path: &'a [&'a str]) -> Self {
        Self { name, method: Method::GET, path, query: None, request_id: None, body: None }
    }

    /// A `POST` that changes nothing.
    fn ask(name: &'static str, path: &'a [&'a str], body: &impl Serialize) -> Result<Self, ProviderError> {
        let unwritable = |_| ProviderError::Rejected("the request could not be written".to_owned());
        let body = serde_json::to_vec(body).map_err(unwritable)?;
        Ok(Self { method: Method::POST, body: Some(body), ..Self::get(name, path) })
    }

    /// A `POST` that is done once, however often it is made.
    fn post(
        name: &'static str,
        path: &'a [&'a str],
        request_id: TaskId,
        body: &impl Serialize,
    ) -> Result<Self, ProviderError> {
        Ok(Self { request_id: Some(request_id), ..Self::ask(name, path, body)? })
    }
}

#[async_trait]
impl PaymentProvider for PayPal {
    fn name(&self) -> &'static str {
        "paypal"
    }

    async fn create(&self, wish: &CreatePayment) -> Result<Created, ProviderError> {
        let body = CreateOrder::new(wish, &self.brand_name)?;
        let call = Call::post("create", &["v2", "checkout", "orders"], wish.request_id, &body)?;
        let order: Order = self.call(call).await?;
        order.announced(&wish.return_url)
    }

    async fn inspect(&self, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let order_id = object_id(provider_order_id)?;
        let path = ["v2", "checkout", "orders", order_id.as_str()];
        let order: Order = self.call(Call::get("inspect", &path)).await?;
        Ok(order.facts())
    }

    async fn capture(&self, request_id: TaskId, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let order_id = object_id(provider_order_id)?;
        let path = ["v2", "checkout", "orders", order_id.as_str(), "capture"];
        let order: Order = self.call(Call::post("capture", &path, request_id, &Nothing {})?).await?;
        naming(FactKind::Capture, order.facts())
    }

    async fn authorise(&self, request_id: TaskId, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let order_id = object_id(provider_order_id)?;
        let path = ["v2", "checkout", "orders", order_id.as_str(), "authorize"];
        let order: Order = self.call(Call::post("authorize", &path, request_id, &Nothing {})?).await?;
        naming(FactKind::Authorisation, order.facts())
    }

    async fn capture_authorised(
        &self,
        request_id: TaskId,
        authorisation_id: &str,
        amount: Money,
        last: bool,
    ) -> Result<Vec<Fact>, ProviderError> {
        let authorisation_id = object_id(authorisation_id)?;
        let path = ["v2", "payments", "authorizations", authorisation_id.as_str(), "capture"];
        let call = Call::post("capture_authorization", &path, request_id, &CaptureAuthorised::new(amount, last)?)?;
        let capture: Movement = self.call(call).await?;
        Ok(capture.captured_of(&authorisation_id))
    }

    /// PayPal may answer a void with nothing at all, and refuses a second one; then the authorisation is asked for.
    async fn void(&self, request_id: TaskId, authorisation_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let authorisation_id = object_id(authorisation_id)?;
        let path = ["v2", "payments", "authorizations", authorisation_id.as_str()];
        let void = [path.as_slice(), &["void"]].concat();
        let told = match self.exchange(Call::post("void", &void, request_id, &Nothing {})?).await {
            Ok(answer) => serde_json::from_slice::<Movement>(&answer.body).ok(),
            Err(ProviderError::AlreadyDone(_)) => None,
            Err(error) => return Err(error),
        };
        let authorisation = match told {
            Some(authorisation) => authorisation,
            None => self.call(Call::get("inspect", &path)).await?,
        };
        Ok(vec![authorisation.authorisation()])
    }

    async fn refund(
        &self,
        request_id: TaskId,
        refund_id: RefundId,
        capture_id: &str,
        amount: Money,
    ) -> Result<Vec<Fact>, ProviderError> {
        let capture_id = object_id(capture_id)?;
        let path = ["v2", "payments", "captures", capture_id.as_str(), "refund"];
        let call = Call::post("refund", &path, request_id, &CreateRefund::new(refund_id, amount)?)?;
        let refund: Movement = self.call(call).await?;
        Ok(vec![refund.refund_of(&capture_id)])
    }

    async fn disputes(&self, capture_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let capture_id = object_id(capture_id)?;
        let path = ["v1", "customer", "disputes"];
        let search = [("disputed_transaction_id", capture_id.as_str()), ("page_size", &PAGE.to_string())];
        let mut found = Vec::new();
        let collect = |page: disputes::Page| {
            let (named, next) = page.read();
            let more = next.filter(|_| !named.is_empty());
            found.extend(named);
            more
        };
        self.pages("dispute", &path, query(&search), collect).await?;

        let mut facts = Vec::with_capacity(found.len());
        for dispute_id in found {
            let path = [path.as_slice(), &[dispute_id.as_str()]].concat();
            let dispute: Dispute = self.call(Call::get("dispute", &path)).await?;
            facts.push(dispute.fact(&capture_id));
        }
        Ok(facts)
    }

    async fn events(&self, since: DateTime<Utc>, until: DateTime<Utc>) -> Result<Vec<ListedEvent>, ProviderError> {
        let [start_time, end_time] = [since, until].map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true));
        let search = [("start_time", &*start_time), ("end_time", &*end_time), ("page_size", &PAGE.to_string())];
        let mut listed = Vec::new();
        let collect = |page: listing::Page| {
            let next = page.next_query();
            listed.extend(page.into_events());
            next
        };
        self.pages("events", &["v1", "notifications", "webhooks-events"], query(&search), collect).await?;
        Ok(listing::oldest_first(listed))
    }

    fn decimals(&self, currency: Currency) -> Option<u32> {
        money::decimals(currency)
    }

    fn locate(&self, body: &[u8]) -> Locator {
        events::locate(body)
    }
}

/// The facts, if they name what was asked for. PayPal can take a call and say nothing of money: then only a look at the
/// order tells.
fn naming(kind: FactKind, facts: Vec<Fact>) -> Result<Vec<Fact>, ProviderError> {
    if facts.iter().any(|fact| fact.kind == kind) {
        return Ok(facts);
    }
    Err(ProviderError::AlreadyDone(format!("the answer names no {kind}")))
}

fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn object_id(text: &str) -> Result<ObjectId, ProviderError> {
    ObjectId::parse(text).ok_or_else(|| ProviderError::Rejected("not an id of PayPal".to_owned()))
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
