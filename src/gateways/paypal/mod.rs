//! PayPal: Orders v2 and Payments v2, and the verification of its webhooks.
//!
//! Every call goes to the configured base URL, by a path made of checked ids: PayPal's own links are read for ids and
//! for the page where the buyer approves, and are never followed. Nothing of a request or an answer is logged but the
//! status and `PayPal-Debug-Id`, which PayPal's support asks for.

mod errors;
mod events;
mod token;
pub mod webhook;
mod wire;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use souk_actors::{
    clock::Clock,
    domain::{Money, TaskId},
    ports::{CreatePayment, Created, Fact, FactKind, Locator, PaymentProvider, ProviderError},
};
use url::Url;

use self::{
    errors::Answer,
    token::{Granted, Tokens},
    webhook::Verifier,
    wire::{CreateOrder, CreateRefund, Movement, Nothing, ObjectId, Order},
};
use super::{Secret, SettingsError, http};

/// An order with ten purchase units, each with a page of items, is far below this.
const LONGEST_BODY: usize = 1024 * 1024;
/// PayPal's limit for the name it shows above the buyer's total.
const LONGEST_BRAND: usize = 127;

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
            tokens: Tokens::new(clock.clone()),
            clock,
        })
    }

    /// Who checks that a webhook is PayPal's.
    #[must_use]
    pub fn webhooks(&self) -> &Verifier {
        &self.webhooks
    }

    /// One call: with a token, within the timeout, and once more with a new token if the first was refused.
    async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ProviderError> {
        let answered = tokio::time::timeout(self.timeout, self.authorised(&call)).await;
        let answer = answered.unwrap_or_else(|_| Err(errors::no_answer("timed out")))?;
        if !matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
            return Err(errors::refusal(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| errors::uncertain(&answer, "unreadable answer"))
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
            .request(call.method.clone(), self.url(call.path))
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
            .post(self.url(&["v1", "oauth2", "token"]))
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

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
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
    request_id: Option<TaskId>,
    body: Option<Vec<u8>>,
}

impl<'a> Call<'a> {
    fn get(name: &'static str, path: &'a [&'a str]) -> Self {
        Self { name, method: Method::GET, path, request_id: None, body: None }
    }

    fn post(
        name: &'static str,
        path: &'a [&'a str],
        request_id: TaskId,
        body: &impl Serialize,
    ) -> Result<Self, ProviderError> {
        let unwritable = |_| ProviderError::Rejected("the request could not be written".to_owned());
        let body = serde_json::to_vec(body).map_err(unwritable)?;
        Ok(Self { name, method: Method::POST, path, request_id: Some(request_id), body: Some(body) })
    }
}

#[async_trait]
impl PaymentProvider for PayPal {
    fn name(&self) -> &'static str {
        "paypal"
    }

    async fn create(&self, wish: &CreatePayment) -> Result<Created, ProviderError> {
        let body = CreateOrder::new(wish, &self.brand_name);
        let call = Call::post("create", &["v2", "checkout", "orders"], wish.request_id, &body)?;
        let order: Order = self.call(call).await?;
        let approvable = order.approvable().ok_or_else(|| errors::no_answer("an order without an approval link"))?;
        let (provider_order_id, approve_url) = approvable;
        Ok(Created { provider_order_id, approve_url })
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
        let facts = order.facts();
        if !facts.iter().any(|fact| fact.kind == FactKind::Capture) {
            // PayPal took the call and says nothing of money: only a look at the order tells
            return Err(ProviderError::AlreadyDone("the answer names no capture".to_owned()));
        }
        Ok(facts)
    }

    async fn refund(&self, request_id: TaskId, capture_id: &str, amount: Money) -> Result<Vec<Fact>, ProviderError> {
        let capture_id = object_id(capture_id)?;
        let path = ["v2", "payments", "captures", capture_id.as_str(), "refund"];
        let call = Call::post("refund", &path, request_id, &CreateRefund::new(amount))?;
        let refund: Movement = self.call(call).await?;
        Ok(vec![refund.refund_of(&capture_id)])
    }

    fn locate(&self, body: &[u8]) -> Locator {
        events::locate(body)
    }
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
