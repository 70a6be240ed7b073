//! Outgoing webhooks: merchants' own addresses are called, signed as Standard Webhooks has it
//! (<https://www.standardwebhooks.com/>), so that any of its libraries verifies them.
//!
//! The address is a stranger's wish. In production it is https, and a connection is made to public addresses only, looked
//! at when the name has been resolved and just before it is connected to: no name can lead a call into the shop's own
//! network. Redirects are not followed for the same reason.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use reqwest::{
    Client, Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use serde_json::json;
use sha2::Sha256;
use souk_actors::{
    clock::Clock,
    domain::{Channel, Subscription},
    ports::{Delivery, Notice, Notifier, SendError},
    store::read,
};
use sqlx::PgPool;
use url::{Host, Url};

use super::SettingsError;

/// What a secret begins with.
const SECRET: &str = "whsec_";
/// As much of an answer is kept for the delivery log.
const EXCERPT: usize = 500;
/// The longest address that is called.
const LONGEST_URL: usize = 2_000;

/// How merchants are called.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The longest that a call may take.
    pub timeout: Duration,
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// Whether only public addresses are called, and only by https.
    pub public_only: bool,
}

/// Calls merchants.
pub struct Merchants {
    client: Client,
    clock: Clock,
    /// For reading what calls tell.
    pool: PgPool,
    public_only: bool,
}

impl Merchants {
    /// A caller.
    ///
    /// # Errors
    /// Where no TLS can be set up.
    pub fn new(settings: Settings, clock: Clock, pool: PgPool) -> Result<Self, SettingsError> {
        let builder = Client::builder()
            .user_agent(concat!("souk/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .referer(false)
            // a proxy would look names up itself, past the look at their addresses
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout)
            .pool_max_idle_per_host(2);
        let builder =
            if settings.public_only { builder.https_only(true).dns_resolver(Arc::new(PublicOnly)) } else { builder };
        let problem = |error: reqwest::Error| error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let client = builder.build().map_err(|error| SettingsError::new("timeout_seconds", problem(error)))?;
        Ok(Self { client, clock, pool, public_only: settings.public_only })
    }

    /// Whether an address may be subscribed with; if not, what is wrong with it.
    ///
    /// # Errors
    /// For whoever wrote it.
    pub fn check(&self, url: &str) -> Result<Url, String> {
        if url.len() > LONGEST_URL {
            return Err(format!("has more than {LONGEST_URL} characters"));
        }
        let url = Url::parse(url).map_err(|error| format!("is no address: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("names a user: calls are signed instead".to_owned());
        }
        let schemes: &[&str] = if self.public_only { &["https"] } else { &["https", "http"] };
        if !schemes.contains(&url.scheme()) {
            return Err("is an https address".to_owned());
        }
        let public = match url.host() {
            Some(Host::Ipv4(address)) => is_public(address.into()),
            Some(Host::Ipv6(address)) => is_public(address.into()),
            Some(Host::Domain(name)) => !name.is_empty() && name.trim_end_matches('.') != "localhost",
            None => false,
        };
        if self.public_only && !public {
            return Err("is not an address of the public internet".to_owned());
        }
        Ok(url)
    }

    async fn call(&self, notice: &Notice, subscription: &Subscription) -> Delivery {
        let body = match self.body(notice).await {
            Ok(body) => body,
            Err(error) => return Err(error).into(),
        };
        self.post(&notice.id.to_string(), &body, subscription).await
    }

    /// What is told: nothing in it changes with time, so a repetition is word for word the same. Whoever wants to know how
    /// the order stands by now asks for it.
    async fn body(&self, notice: &Notice) -> Result<String, SendError> {
        let put_off = |error: sqlx::Error| SendError::NotNow(format!("the order cannot be read: {error}"));
        let order = read::order(&self.pool, notice.order_id).await.map_err(put_off)?;
        let order = order.ok_or_else(|| SendError::Refused("there is no such order".to_owned()))?;
        let body = json!({
            "type": Subscription::event_name(&notice.kind),
            "timestamp": notice.at,
            "data": {
                "order_id": order.order_id,
                "seq": notice.event_seq,
                "total": order.total,
                "placed_at": order.created_at,
                "event": notice.data,
            },
        });
        Ok(body.to_string())
    }

    /// Calls a subscription's address once, to see whether it works: nothing is kept, nothing is repeated.
    pub async fn ping(&self, id: &str, subscription: &Subscription) -> Delivery {
        let data = json!({ "subscription_id": subscription.id });
        let body = json!({ "type": "souk.test", "timestamp": self.clock.now(), "data": data }).to_string();
        self.post(id, &body, subscription).await
    }

    async fn post(&self, id: &str, body: &str, subscription: &Subscription) -> Delivery {
        // looked at again: what was allowed when it was written down may not be any more
        let url = match self.check(&subscription.url) {
            Ok(url) => url,
            Err(problem) => return Err(SendError::Refused(format!("its address {problem}"))).into(),
        };
        let Some(signer) = Signer::new(&subscription.secret) else {
            return Err(SendError::Refused("its secret cannot be read".to_owned())).into();
        };
        let timestamp = self.clock.now().timestamp();
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signer.sign(id, timestamp, body))
            .body(body.to_owned());
        match request.send().await {
            Ok(response) => heard(response).await,
            Err(error) => Err(unheard(&error)).into(),
        }
    }
}

/// What an answer means. Only 2xx is a yes; 410 is a no for ever.
async fn heard(response: Response) -> Delivery {
    let status = response.status();
    let said = excerpt(response).await;
    let end = match status {
        _ if status.is_success() => Ok(()),
        StatusCode::GONE => Err(SendError::Gone("it answered 410".to_owned())),
        _ if status.is_redirection() => {
            Err(SendError::NotNow(format!("it answered {status}; redirects are not followed")))
        }
        _ => Err(SendError::NotNow(format!("it answered {status}"))),
    };
    Delivery { end, status: Some(status.as_u16()), said }
}

/// What no answer means. An address may hold a secret, so it is not repeated here.
fn unheard(error: &reqwest::Error) -> SendError {
    if error.is_connect() || error.is_builder() {
        let mut reason: &dyn Error = error;
        while let Some(deeper) = reason.source() {
            reason = deeper;
        }
        return SendError::NotNow(format!("it cannot be reached: {reason}"));
    }
    let what = if error.is_timeout() { "it did not answer in time" } else { "the connection was lost" };
    SendError::Unknown(what.to_owned())
}

/// The beginning of an answer, as far as it comes and is text; the rest is not waited for.
async fn excerpt(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < EXCERPT {
        let Ok(Some(chunk)) = response.chunk().await else { break };
        bytes.extend_from_slice(&chunk[..chunk.len().min(EXCERPT - bytes.len())]);
    }
    let text = String::from_utf8_lossy(&bytes);
    text.chars().filter(|c| !c.is_control()).collect()
}

#[async_trait]
impl Notifier for Merchants {
    fn channel(&self) -> Channel {
        Channel::Merchants
    }

    async fn send(&self, notice: &Notice) -> Delivery {
        match &notice.to {
            Some(subscription) => self.call(notice, subscription).await,
            None => Err(SendError::Refused("nobody is to be called".to_owned())).into(),
        }
    }
}

/// Makes a secret for a new subscription: 256 bits, as Standard Webhooks writes them.
#[must_use]
pub fn new_secret() -> String {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).expect("the system's randomness does not fail once it has begun");
    format!("{SECRET}{}", STANDARD.encode(key))
}

/// Signs with one subscription's secret.
struct Signer(Hmac<Sha256>);

impl Signer {
    fn new(secret: &str) -> Option<Self> {
        let key = STANDARD.decode(secret.strip_prefix(SECRET)?).ok()?;
        Hmac::new_from_slice(&key).ok().map(Self)
    }

    /// `v1,` and the HMAC-SHA256 of `id.timestamp.body`.
    fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Finds the public addresses of a name, and no others. The client connects to what is found here, so a name that means
/// something else a moment later gains nothing.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err("its name has no public address".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public internet (IANA's special-purpose registries, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127 | 224..=255, _, _) => true, // this network, private, loopback, multicast and beyond
        (100, 64..=127, _) => true,               // carriers' own
        (169, 254, _) => true,                    // link-local: where clouds tell their machines' secrets
        (172, 16..=31, _) | (192, 168, _) => true, // private
        (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113) => true, // protocols, documentation
        (192, 88, 99) => true,                    // 6to4 relays
        (198, 18 | 19, _) => true,                // benchmarks
        _ => false,
    };
    !special
}

/// Global unicast is 2000::/3; of it, what carries an IPv4 address in it or is set aside is left out.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xe000 == 0x2000;
    let aside = match (segments[0], segments[1]) {
        (0x2001, 0..=0x01ff | 0x0db8) => true, // Teredo and other protocols, documentation
        (0x2002, _) => true,                   // 6to4
        (0x3fff, 0..=0x0fff) => true,          // documentation
        _ => false,
    };
    global && !aside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merchants(public_only: bool) -> Merchants {
        let second = Duration::from_secs(1);
        let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").expect("lazy");
        let settings = Settings { timeout: second, connect_timeout: second, public_only };
        Merchants::new(settings, Clock::default(), pool).expect("a client")
    }

    /// The example of the Standard Webhooks specification's own test suite.
    #[test]
    fn a_signature_is_as_the_standard_has_it() {
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let body = r#"{"test": 2432232314}"#;
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_new_each_time_and_signs() {
        let secret = new_secret();
        assert_ne!(secret, new_secret());
        assert!(Signer::new(&secret).is_some());
        assert!(Signer::new("whsec_?").is_none() && Signer::new("secret").is_none());
    }

    #[test]
    fn public_addresses_are_told_from_all_others() {
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(other.parse().expect("an address")), "{other}");
        }
    }

    #[tokio::test]
    async fn production_calls_https_on_the_public_internet_only() {
        let strict = merchants(true);
        assert!(strict.check("https://merchant.example/hook?k=1").is_ok());
        for url in [
            "http://merchant.example/",
            "https://localhost/",
            "https://localhost./",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://user:secret@merchant.example/",
            "ftp://merchant.example/",
            "file:///etc/passwd",
            "merchant.example",
        ] {
            assert!(strict.check(url).is_err(), "{url}");
        }
        assert!(merchants(false).check("http://127.0.0.1:9/").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_called() {
        let resolved = PublicOnly.resolve("localhost".parse().expect("a name")).await;
        assert!(resolved.is_err());
    }
}
