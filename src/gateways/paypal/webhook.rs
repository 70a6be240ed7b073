//! Is this webhook PayPal's?
//!
//! PayPal signs `transmission id | transmission time | webhook id | CRC-32 of the body` with the key of a certificate
//! that it publishes, and names the certificate's URL in the request. So everything rests on whose certificate that is:
//! the URL must be one of PayPal's (else anybody signs with a key of their own, and has Souk fetch what they like), and
//! the certificate must be valid now, issued below a configured root, and for the one name PayPal signs webhooks with.
//!
//! A good signature does not prove the body. CRC-32 is no hash: whoever has seen one delivery can write another body
//! with the same CRC. What is proved is the transmission id, to be stored once; what the body says is only a reason to
//! ask PayPal.
//!
//! PayPal can be asked instead whether it made a signature ("postback"): one call a webhook more, and no certificate. It
//! proves no more of the body than the certificate does.
//!
//! Anybody can name a URL that PayPal might have, and have us ask for it; so unknown URLs are asked for so many times a
//! minute and no more. Certificates that have proved themselves are out of that: they are kept until they expire. What
//! remains is a cold start, or PayPal's change to a new certificate, in the middle of a flood of invented URLs: genuine
//! webhooks may then be told to come again, which they do, and orders are settled by asking PayPal meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::HeaderMap;
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use reqwest::{Client, StatusCode};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use serde::Deserialize;
use serde_json::value::RawValue;
use souk_actors::{clock::Clock, ports::ProviderError};
use url::Url;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{events, requests::VerifySignature};
use crate::gateways::{SettingsError, http};

/// PayPal's only algorithm: RSA PKCS#1 v1.5 with SHA-256.
const ALGORITHM: &str = "SHA256withRSA";
/// The id that PayPal's simulator signs with, the same for everybody.
const SIMULATOR: &str = "WEBHOOK_ID";

/// A leaf and two intermediates are 6 KiB.
const LONGEST_ANSWER: usize = 64 * 1024;
/// More certificates than any chain has.
const LONGEST_CHAIN: usize = 8;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// PayPal has a handful of certificates at a time, each under its own URL for good.
const KEPT_CHAINS: u64 = 32;
const KEPT_CHAINS_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long a URL that gave no certificate is not asked again.
const KEPT_FAILURES: u64 = 1024;
const KEPT_FAILURES_FOR: Duration = Duration::from_secs(10);
/// How often a minute unknown URLs are asked at all: an invented one costs its inventor nothing.
const FETCHES_A_MINUTE: u32 = 30;
/// How many signatures a minute PayPal may deny before it is asked no more, for the same reason.
const DENIALS_A_MINUTE: u32 = 30;

/// Who checks the signatures of webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Verification {
    /// Souk itself, by PayPal's certificates.
    #[serde(rename = "self")]
    Itself,
    /// PayPal, which is asked about each.
    #[serde(rename = "postback")]
    Postback,
}

/// Whose webhooks are believed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our webhook's id at PayPal. It is part of what is signed: a delivery to somebody else's webhook is not for us.
    pub webhook_id: String,
    /// Where certificates may lie, up to and with the last slash: `https://api.paypal.com/v1/notifications/certs/`.
    pub cert_urls: Vec<String>,
    /// What a certificate's chain must end in. An issuer that PayPal does not send along must be among them.
    pub roots: Vec<CertificateDer<'static>>,
    /// The subject's common name must be one of these, letter by letter.
    pub subjects: Vec<String>,
}

impl Settings {
    /// Webhooks of `https://api-m.paypal.com`.
    #[must_use]
    pub fn live(webhook_id: impl Into<String>) -> Self {
        Self::of_paypal(
            webhook_id.into(),
            &["api.paypal.com", "api-m.paypal.com"],
            "messageverificationcerts.paypal.com",
        )
    }

    /// Webhooks of `https://api-m.sandbox.paypal.com`.
    #[must_use]
    pub fn sandbox(webhook_id: impl Into<String>) -> Self {
        let hosts = ["api.sandbox.paypal.com", "api-m.sandbox.paypal.com"];
        Self::of_paypal(webhook_id.into(), &hosts, "messageverificationcerts.sandbox.paypal.com")
    }

    fn of_paypal(webhook_id: String, hosts: &[&str], subject: &str) -> Self {
        Self {
            webhook_id,
            cert_urls: hosts.iter().map(|host| format!("https://{host}/v1/notifications/certs/")).collect(),
            roots: production_roots(),
            subjects: vec![subject.to_owned()],
        }
    }
}

/// The roots below which PayPal's certificates have been and are issued.
#[must_use]
pub fn production_roots() -> Vec<CertificateDer<'static>> {
    let pems: [&[u8]; 3] = [
        include_bytes!("roots/digicert_high_assurance_ev_root_ca.pem"),
        include_bytes!("roots/digicert_global_root_ca.pem"),
        include_bytes!("roots/digicert_global_root_g2.pem"),
    ];
    pems.into_iter().map(|pem| CertificateDer::from_pem_slice(pem).expect("embedded, and read by a test")).collect()
}

/// A webhook that PayPal signed for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The delivery's id: signed, and the same when the delivery is repeated.
    pub transmission_id: String,
    /// The event's id by the body, which is not signed.
    pub event_id: Option<String>,
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is not PayPal's, or not for us: 400, counted, nothing stored.
    #[error("forged: {0}")]
    Forged(&'static str),
    /// Its certificate cannot be had right now: 503, so that PayPal sends it again.
    #[error("cannot tell: {0}")]
    CannotTell(&'static str),
}

/// Checks webhooks, and keeps the certificates that it needs for it.
pub struct Verifier {
    webhook_id: String,
    places: Vec<Url>,
    anchors: Vec<TrustAnchor<'static>>,
    subjects: Vec<String>,
    clock: Clock,
    certificates: Certificates,
    denials: Allowance,
}

impl Verifier {
    /// Fetches nothing yet.
    ///
    /// # Errors
    /// [`SettingsError`] for settings that would believe anybody, or nobody.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let places = settings.cert_urls.iter().map(|text| place(text)).collect::<Result<Vec<_>, _>>()?;
        let local = !places.is_empty() && places.iter().all(http::is_loopback);
        let webhook_id = settings.webhook_id;
        if webhook_id.is_empty() || webhook_id.contains('|') {
            return Err(SettingsError::new("webhook_id", "is missing, or no id"));
        }
        if webhook_id == SIMULATOR && !local {
            return Err(SettingsError::new("webhook_id", "is the simulator's, which everybody can have signed"));
        }
        for (setting, missing) in [
            ("cert_urls", places.is_empty()),
            ("roots", settings.roots.is_empty()),
            ("subjects", settings.subjects.is_empty()),
        ] {
            if missing {
                return Err(SettingsError::new(setting, "is empty: no webhook would be believed"));
            }
        }
        let anchors = settings.roots.iter().map(anchor).collect::<Result<Vec<_>, _>>()?;
        let certificates = Certificates::new(&places, clock.clone())?;
        let denials = Allowance::new(DENIALS_A_MINUTE, clock.clone());
        Ok(Self { webhook_id, places, anchors, subjects: settings.subjects, clock, certificates, denials })
    }

    /// Whether PayPal sent `body`, the bytes as they came, with `headers`.
    ///
    /// # Errors
    /// [`Rejection`]: not PayPal's, or not to be told right now.
    pub async fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Rejection> {
        let claim = Claim::read(headers)?;
        let url = self.certificate_url(claim.cert_url)?;
        let chain = self.certificates.get(&url).await?;
        self.check_signature(&claim, body, &chain)?;
        self.certificates.prove(&url, chain);
        Ok(claim.verified(body))
    }

    /// The same by asking PayPal: `confirm` takes its word. What could not be PayPal's is not asked about.
    ///
    /// # Errors
    /// [`Rejection`], as above.
    pub(super) async fn verify_by(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        confirm: impl AsyncFnOnce(VerifySignature<'_>) -> Result<bool, ProviderError>,
    ) -> Result<Verified, Rejection> {
        let claim = Claim::read(headers)?;
        self.certificate_url(claim.cert_url)?;
        // one whole JSON value, so that nothing in it can pass for a field beside it
        let event: &RawValue = serde_json::from_slice(body).map_err(|_| Rejection::Forged("not JSON"))?;
        if !self.denials.is_left() {
            return Err(Rejection::CannotTell("PayPal has denied too many"));
        }
        let asked = VerifySignature {
            auth_algo: ALGORITHM,
            cert_url: claim.cert_url,
            transmission_id: claim.transmission_id,
            transmission_sig: claim.encoded_signature,
            transmission_time: claim.transmission_time,
            webhook_id: &self.webhook_id,
            webhook_event: event,
        };
        match confirm(asked).await {
            Ok(true) => Ok(claim.verified(body)),
            Ok(false) => {
                self.denials.take();
                Err(Rejection::Forged("PayPal did not sign it"))
            }
            Err(error) => {
                tracing::warn!(%error, "PayPal does not say whether it signed a webhook");
                Err(Rejection::CannotTell("PayPal does not say"))
            }
        }
    }

    /// The certificate's URL, if it is one segment below an allowed place and written the one way such URLs are: as its
    /// parser writes it, so that what is compared here is what is fetched (no `..`, escapes, backslashes or capitals).
    fn certificate_url(&self, text: &str) -> Result<Url, Rejection> {
        let foreign = Rejection::Forged("foreign certificate URL");
        let url = Url::parse(text).map_err(|_| foreign)?;
        let allowed = self.places.iter().any(|place| {
            let named = (url.scheme(), url.host(), url.port()) == (place.scheme(), place.host(), place.port());
            named && url.path().strip_prefix(place.path()).is_some_and(is_file_name)
        });
        let bare = url.username().is_empty() && url.password().is_none();
        let bare = bare && url.query().is_none() && url.fragment().is_none();
        if allowed && bare && url.as_str() == text { Ok(url) } else { Err(foreign) }
    }

    /// The chain is checked at each use, by the time of that use: what is kept is the download, not the trust.
    fn check_signature(&self, claim: &Claim<'_>, body: &[u8], chain: &Chain) -> Result<(), Rejection> {
        let [leaf, issuers @ ..] = chain.as_slice() else {
            return Err(Rejection::CannotTell("no certificate"));
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| Rejection::Forged("unreadable certificate"))?;
        let seconds = self.clock.now().timestamp().try_into().unwrap_or_default();
        let trusted = certificate.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            issuers,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            KeyUsage::server_auth(),
            None,
            None,
        );
        trusted.map_err(|error| {
            tracing::warn!(%error, "a webhook's certificate is not trusted");
            Rejection::Forged("untrusted certificate")
        })?;
        if !common_name(leaf).is_some_and(|name| self.subjects.contains(&name)) {
            return Err(Rejection::Forged("somebody else's certificate"));
        }

        let crc = crc32fast::hash(body);
        let message = format!("{}|{}|{}|{crc}", claim.transmission_id, claim.transmission_time, self.webhook_id);
        certificate
            .verify_signature(webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &claim.signature)
            .map_err(|_| Rejection::Forged("wrong signature"))
    }
}

/// What the headers claim.
struct Claim<'a> {
    transmission_id: &'a str,
    transmission_time: &'a str,
    cert_url: &'a str,
    encoded_signature: &'a str,
    signature: Vec<u8>,
}

impl<'a> Claim<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, Rejection> {
        if header(headers, "paypal-auth-algo", 32)? != ALGORITHM {
            return Err(Rejection::Forged("unknown algorithm"));
        }
        let transmission_id = header(headers, "paypal-transmission-id", 64)?;
        let transmission_time = header(headers, "paypal-transmission-time", 64)?;
        if !transmission_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Rejection::Forged("odd transmission id"));
        }
        if DateTime::parse_from_rfc3339(transmission_time).is_err() {
            return Err(Rejection::Forged("odd transmission time"));
        }
        let cert_url = header(headers, "paypal-cert-url", 512)?;
        let encoded_signature = header(headers, "paypal-transmission-sig", 2048)?;
        let signature =
            BASE64_STANDARD.decode(encoded_signature).map_err(|_| Rejection::Forged("signature is not base64"))?;
        Ok(Self { transmission_id, transmission_time, cert_url, encoded_signature, signature })
    }

    fn verified(&self, body: &[u8]) -> Verified {
        Verified { transmission_id: self.transmission_id.to_owned(), event_id: events::id(body) }
    }
}

/// A header that is there once, in visible ASCII, and not longer than `max`.
fn header<'a>(headers: &'a HeaderMap, name: &str, max: usize) -> Result<&'a str, Rejection> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Rejection::Forged("a header is missing or doubled"));
    };
    let text = value.to_str().map_err(|_| Rejection::Forged("a header is not ASCII"))?;
    let plain = (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if plain { Ok(text) } else { Err(Rejection::Forged("a header is empty, too long or not plain")) }
}

/// A certificate's last path segment, as PayPal writes them: `CERT-360caa42-fca2a594-1d93a270`.
fn is_file_name(text: &str) -> bool {
    (1..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The subject's common name, if it has exactly one.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return None;
    };
    name.as_str().ok().map(str::to_owned)
}

/// When the certificate stops being valid.
fn expiry(certificate: &CertificateDer<'_>) -> Option<DateTime<Utc>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0)
}

/// A place of the allow-list.
fn place(text: &str) -> Result<Url, SettingsError> {
    let wrong = |problem: &str| SettingsError::new("cert_urls", format!("{text} {problem}"));
    let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    if !http::is_safe(&url) {
        return Err(wrong("is neither https nor on this machine"));
    }
    let bare = url.username().is_empty() && url.password().is_none();
    if !bare || url.query().is_some() || url.fragment().is_some() || !url.path().ends_with('/') {
        return Err(wrong("is not scheme, host, port and a path that ends with a slash"));
    }
    Ok(url)
}

fn anchor(root: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, SettingsError> {
    let unreadable = |error| SettingsError::new("roots", format!("unreadable certificate: {error}"));
    webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()).map_err(unreadable)
}

/// A leaf, then what it was issued by, as far as PayPal sends it.
type Chain = Vec<CertificateDer<'static>>;

struct Proved {
    chain: Arc<Chain>,
    until: DateTime<Utc>,
}

/// The certificates that were fetched, and the URLs that had none.
struct Certificates {
    http: Client,
    /// Those that have verified a webhook: whatever else is asked for does not push them out.
    proved: Mutex<HashMap<String, Proved>>,
    chains: Cache<String, Arc<Chain>>,
    failures: Cache<String, Rejection>,
    allowance: Allowance,
    clock: Clock,
}

impl Certificates {
    fn new(places: &[Url], clock: Clock) -> Result<Self, SettingsError> {
        let plain = places.iter().all(|place| place.scheme() == "http");
        let http = http::client(plain, FETCH_TIMEOUT, FETCH_TIMEOUT)
            .map_err(|error| SettingsError::new("cert_urls", format!("no HTTP client for them: {error}")))?;
        Ok(Self {
            http,
            proved: Mutex::default(),
            clock: clock.clone(),
            chains: Cache::builder().max_capacity(KEPT_CHAINS).time_to_live(KEPT_CHAINS_FOR).build(),
            failures: Cache::builder().max_capacity(KEPT_FAILURES).time_to_live(KEPT_FAILURES_FOR).build(),
            allowance: Allowance::new(FETCHES_A_MINUTE, clock),
        })
    }

    /// The chain at `url`. Those who ask at once make one fetch, and fail with it.
    async fn get(&self, url: &Url) -> Result<Arc<Chain>, Rejection> {
        if let Some(chain) = self.proved_at(url) {
            return Ok(chain);
        }
        if let Some(rejection) = self.failures.get(url.as_str()).await {
            return Err(rejection);
        }
        let fetched = self.chains.try_get_with_by_ref(url.as_str(), self.fetch(url)).await;
        fetched.map_err(|rejection| *rejection)
    }

    fn proved_at(&self, url: &Url) -> Option<Arc<Chain>> {
        let proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        let known = proved.get(url.as_str()).filter(|known| self.clock.now() <= known.until);
        known.map(|known| Arc::clone(&known.chain))
    }

    /// The chain at `url` has verified a webhook, and is kept for as long as its leaf is valid. Only PayPal can make one
    /// that does, so these are few.
    fn prove(&self, url: &Url, chain: Arc<Chain>) {
        let now = self.clock.now();
        let mut proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        if proved.get(url.as_str()).is_some_and(|known| now <= known.until) {
            return;
        }
        let Some(until) = chain.first().and_then(expiry) else { return };
        proved.retain(|_, known| now <= known.until);
        proved.insert(url.as_str().to_owned(), Proved { chain, until });
    }

    async fn fetch(&self, url: &Url) -> Result<Arc<Chain>, Rejection> {
        if !self.allowance.take() {
            return Err(Rejection::CannotTell("too many unknown certificates"));
        }
        let downloaded = self.download(url).await;
        if let Err(rejection) = downloaded {
            tracing::warn!(%url, %rejection, "a webhook's certificate was not found");
            self.failures.insert(url.as_str().to_owned(), rejection).await;
        }
        downloaded.map(Arc::new)
    }

    async fn download(&self, url: &Url) -> Result<Chain, Rejection> {
        let response = self.http.get(url.clone()).send().await;
        let response = response.map_err(|_| Rejection::CannotTell("certificate host does not answer"))?;
        if response.status() != StatusCode::OK {
            return Err(Rejection::CannotTell("no certificate there"));
        }
        let body = http::read(response, LONGEST_ANSWER).await;
        let pem = body.map_err(|_| Rejection::CannotTell("certificate too long or cut"))?;
        let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Chain, _>>();
        let chain = certificates.map_err(|_| Rejection::CannotTell("not a certificate"))?;
        if chain.is_empty() || chain.len() > LONGEST_CHAIN {
            return Err(Rejection::CannotTell("not a certificate"));
        }
        Ok(chain)
    }
}

/// So many a minute and no more: fetches of unknown certificates, denials of signatures.
struct Allowance {
    most: u32,
    clock: Clock,
    spent: Mutex<(DateTime<Utc>, u32)>,
}

impl Allowance {
    fn new(most: u32, clock: Clock) -> Self {
        let spent = Mutex::new((clock.now(), 0));
        Self { most, clock, spent }
    }

    /// Takes one of this minute's, if there is one.
    fn take(&self) -> bool {
        let now = self.clock.now();
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent = Self::of_this_minute(*spent, now);
        let is_left = spent.1 < self.most;
        spent.1 += u32::from(is_left);
        is_left
    }

    fn is_left(&self) -> bool {
        let spent = *self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        Self::of_this_minute(spent, self.clock.now()).1 < self.most
    }

    fn of_this_minute((since, count): (DateTime<Utc>, u32), now: DateTime<Utc>) -> (DateTime<Utc>, u32) {
        let within = (now - since).abs() < TimeDelta::minutes(1);
        if within { (since, count) } else { (now, 0) }
    }
}

#[cfg(test)]
mod tests;
