//! Mail to buyers, over SMTP.
//!
//! A letter is written when it is sent, from what is committed then; the buyer's address is read for it and goes nowhere
//! else. Its Message-ID is the notice's, so a letter that is sent twice is one to any reader that looks.

mod letter;
mod line;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lettre::{
    Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, TlsParameters},
    },
};
use rustls_pki_types::CertificateDer;
use souk_actors::{
    domain::{Channel, NoticeId, OrderId, SkuId},
    ports::{Delivery, Notice, Notifier, SendError},
    store::read::{self, OrderView},
};
use sqlx::PgPool;
use url::Url;

use self::{
    letter::Letter,
    line::{Line, Privacy},
};
use super::{Secret, SettingsError, http::is_loopback};
use crate::shop::products;

/// Where an order's buyer sees it.
pub type OrderUrls = Arc<dyn Fn(OrderId) -> String + Send + Sync>;

/// How mail is sent.
pub struct Settings {
    /// `smtp://host:port?tls=required`, `smtps://host:port`, or, on this machine, `smtp://host:port`.
    pub url: String,
    /// Who logs in; empty: nobody.
    pub user: String,
    /// With what.
    pub password: Secret,
    /// What the server's certificate may lead to, besides the system's roots.
    pub roots: Vec<CertificateDer<'static>>,
    /// From whom, e.g. `Souk <orders@shop.example>`.
    pub from: String,
    /// The longest that one step of a conversation may take.
    pub timeout: Duration,
}

/// The shop's letter-box.
pub struct Mailer {
    line: Line,
    from: Mailbox,
    /// For reading what letters tell.
    pool: PgPool,
    order_urls: OrderUrls,
}

impl Mailer {
    /// A mailer; nothing is connected until there is a letter.
    ///
    /// # Errors
    /// Which setting cannot be used, and why.
    pub fn new(settings: Settings, pool: PgPool, order_urls: OrderUrls) -> Result<Self, SettingsError> {
        let from: Mailbox = settings
            .from
            .parse()
            .map_err(|_| SettingsError::new("from", "is a name and an address: Souk <orders@shop.example>"))?;
        Ok(Self { line: line(settings)?, from, pool, order_urls })
    }

    async fn post(&self, notice: &Notice) -> Result<(), SendError> {
        let put_off = |error: sqlx::Error| SendError::NotNow(format!("the order cannot be read: {error}"));
        let order = read::order(&self.pool, notice.order_id).await.map_err(put_off)?;
        let order = order.ok_or_else(|| SendError::Refused("there is no such order".to_owned()))?;
        let sku_ids: Vec<SkuId> = order.lines.iter().map(|line| line.sku_id).collect();
        let names = products::names(&self.pool, &sku_ids).await.map_err(put_off)?;
        let message = self.message(notice, &order, &names)?;
        self.line.hand_over(message.envelope(), &message.formatted()).await
    }

    fn message(
        &self,
        notice: &Notice,
        order: &OrderView,
        names: &HashMap<SkuId, String>,
    ) -> Result<Message, SendError> {
        let to: Mailbox =
            order.email.parse().map_err(|_| SendError::Refused("the buyer's address is none".to_owned()))?;
        let shop = letter::Shop {
            name: self.from.name.as_deref().unwrap_or("Souk"),
            order_url: &(self.order_urls)(order.order_id),
            names,
        };
        let written = letter::write(notice, order, &shop);
        let written = written.ok_or_else(|| SendError::Refused(format!("no letter tells of {}", notice.kind)))?;
        let Letter { subject, text, html } =
            written.map_err(|error| SendError::Refused(format!("the letter cannot be written: {error}")))?;
        // nobody's holiday should answer a machine (RFC 3834)
        let auto = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
        Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(subject)
            .date(notice.at.into())
            .message_id(Some(message_id(notice.id, self.from.email.domain())))
            .raw_header(auto)
            .multipart(MultiPart::alternative_plain_html(text, html))
            .map_err(|error| SendError::Refused(format!("the letter cannot be put together: {error}")))
    }
}

/// The same for the same notice, however often it is sent.
fn message_id(id: NoticeId, domain: &str) -> String {
    format!("<{id}@{domain}>")
}

fn line(settings: Settings) -> Result<Line, SettingsError> {
    let wrong = |problem: &str| SettingsError::new("url", problem);
    let url = Url::parse(&settings.url).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("names nobody: that is what user and password are for"));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?.to_owned();
    let tls = || believing(&host, &settings.roots);
    let (privacy, usual) = match (url.scheme(), url.query()) {
        ("smtps", None) => (Privacy::Tls(tls()?), 465),
        ("smtp", Some("tls=required")) => (Privacy::StartTls(tls()?), 587),
        ("smtp", None) if is_nearby(&url) => (Privacy::None, 25),
        ("smtp", None) => return Err(wrong("is not on this machine: add ?tls=required, or begin with smtps://")),
        _ => return Err(wrong("is smtp://host:port?tls=required, smtps://host:port, or smtp:// on this machine")),
    };
    let credentials =
        (!settings.user.is_empty()).then(|| Credentials::new(settings.user, settings.password.expose().to_owned()));
    let port = url.port().unwrap_or(usual);
    Ok(Line { host, port, privacy, credentials, timeout: settings.timeout, kept: Mutex::default() })
}

/// Encryption with a host that shows a certificate of the system's roots, or of these.
fn believing(host: &str, roots: &[CertificateDer<'static>]) -> Result<TlsParameters, SettingsError> {
    let wrong = |error| SettingsError::new("roots", format!("TLS cannot be set up: {error}"));
    let mut parameters = TlsParameters::builder(host.to_owned());
    for root in roots {
        parameters = parameters.add_root_certificate(Certificate::from_der(root.to_vec()).map_err(wrong)?);
    }
    parameters.build_rustls().map_err(wrong)
}

/// A scheme that `url` does not know leaves an address a mere name.
fn is_nearby(url: &Url) -> bool {
    let by_address = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().ok());
    is_loopback(url) || by_address.is_some_and(|address| address.is_loopback())
}

#[async_trait]
impl Notifier for Mailer {
    fn channel(&self) -> Channel {
        Channel::Mail
    }

    async fn send(&self, notice: &Notice) -> Delivery {
        self.post(notice).await.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_url(url: &str) -> Result<Line, SettingsError> {
        line(Settings {
            url: url.to_owned(),
            user: String::new(),
            password: "".into(),
            roots: Vec::new(),
            from: "Souk <a@b.example>".to_owned(),
            timeout: Duration::from_secs(1),
        })
    }

    #[test]
    fn mail_travels_in_the_open_on_this_machine_only() {
        for url in ["smtp://127.0.0.1:1025", "smtp://localhost", "smtp://[::1]:25"] {
            assert!(try_url(url).is_ok_and(|line| matches!(line.privacy, Privacy::None)), "{url}");
        }
        let line = try_url("smtp://relay.example?tls=required").expect("usual");
        assert!(matches!(line.privacy, Privacy::StartTls(_)) && line.port == 587);
        let line = try_url("smtps://relay.example").expect("usual");
        assert!(matches!(line.privacy, Privacy::Tls(_)) && line.port == 465);
        for url in [
            "smtp://relay.example",
            "smtp://relay.example?tls=opportunistic",
            "smtp://user:secret@localhost",
            "http://localhost",
            "relay.example",
            "",
        ] {
            assert!(try_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_message_id_is_the_notices() {
        let id = message_id(NoticeId(7), "shop.example");
        assert_eq!(id, message_id(NoticeId(7), "shop.example"));
        assert!(id.starts_with("<notice_") && id.ends_with("@shop.example>"), "{id}");
    }
}
