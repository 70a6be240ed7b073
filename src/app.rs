//! The whole shop, composed from settings and started.

use std::{fs, io, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration};

use chrono::TimeDelta;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use souk_actors::{
    Engine, Settings,
    clock::Clock,
    domain::{OrderId, Policy, RoomRules},
    faults::Faults,
    ports::{Carrier, Notifier, PaymentProvider},
};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{
    auth::Keys,
    config::{Config, Mode},
    database::{self, DatabaseError},
    gateways::{
        Secret,
        mail::{self, Mailer},
        merchants::{self, Merchants},
        paypal::{self, PayPal, webhook},
        shippo::{self, Shippo},
    },
    http,
    problem::Problem,
    shop::{Limits, Shop, demo, live::Live, products, quote::Prices, shipping::Shipping},
    telemetry,
};

/// The shortest secret that is believed to be one that was made here: those have 64 characters.
const SHORTEST_KEPT: usize = 32;
/// How long requests, and then connections to the database, may take to end when the shop stops.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often stock is looked for that was never opened.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// As many SKUs as can have been made between two looks; the first look is at all of them.
const LATELY: i64 = 20_000;

/// How often metrics are put in order; samples are kept until then, or until somebody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the shop does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The engine could not take the database over.
    #[error("the engine: {0}")]
    Engine(#[source] sqlx::Error),
    /// A file.
    #[error("{what}: {source}")]
    File {
        /// Which, and what for.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A setting that only shows to be wrong when it is used.
    #[error("{0}")]
    Setting(String),
}

/// A running shop.
pub struct App {
    /// Where it serves.
    pub addr: SocketAddr,
    /// What its handlers share.
    pub shop: Arc<Shop>,
    /// Places that tests break.
    pub faults: Arc<Faults>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    /// What goes on beside requests; it ends with the shop.
    beats: JoinSet<()>,
}

impl App {
    /// Migrates the database, starts the engine on it, and serves on `listener`.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: &Config, connect: PgConnectOptions, listener: TcpListener) -> Result<Self, StartError> {
        telemetry::metrics();
        database::migrate(&connect).await?;
        let addr = listener.local_addr().map_err(|source| file("http.listen", source))?;
        let clock = Clock::default();
        let keys = keys(config)?;
        let paypal = Arc::new(open_paypal(config, clock.clone())?);
        let carrier = open_shippo(config, clock.clone())?.map(Arc::new);
        let pool = database::shop_pool(&connect, config.database.pool).await?;
        let merchants = Arc::new(open_merchants(config, clock.clone(), pool.clone())?);
        let mut notifiers: Vec<Arc<dyn Notifier>> = vec![Arc::clone(&merchants) as Arc<dyn Notifier>];
        notifiers.extend(open_mail(config, &keys, pool.clone())?.map(|mailer| Arc::new(mailer) as Arc<dyn Notifier>));
        let faults = Arc::new(Faults::default());
        let settings = Settings {
            connect: connect.clone(),
            pool: config.database.pool,
            admission: config.checkout.admission,
            policy: policy(config),
            rooms: room_rules(config),
            providers: vec![Arc::clone(&paypal) as Arc<dyn PaymentProvider>],
            notifiers,
            carriers: carrier.iter().map(|carrier| Arc::clone(carrier) as Arc<dyn Carrier>).collect(),
            ship_from: Some(config.shipping.from.address()),
            return_urls: return_urls(config, &keys),
            clock,
            faults: Arc::clone(&faults),
        };
        let engine = Engine::start(settings).await.map_err(StartError::Engine)?;
        let (stop, stopped) = watch::channel(false);
        let shop = Arc::new(Shop {
            engine,
            prices: Prices::new(pool.clone()),
            pool,
            keys,
            paypal,
            shipping: Shipping::new(config, carrier),
            live: Live::new(config.http.listeners, stopped.clone()),
            merchants,
            limits: limits(config),
        });
        fill(config, &shop).await?;

        let idle = Duration::from_secs(config.http.idle_seconds);
        let routes = http::routes(Arc::clone(&shop));
        let server = tokio::spawn(http::serve(listener, routes, config.http.listeners, idle, stopped));
        let mut beats = JoinSet::new();
        beats.spawn(open_what_was_forgotten(Arc::clone(&shop)));
        beats.spawn(keep_metrics());
        Ok(Self { addr, shop, faults, stop, server, beats })
    }

    /// Stops in order: no new request, those under way are answered, then the engine ends what it has begun.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // a client that keeps its connection open must not keep the shop open
        if tokio::time::timeout(LAST_WORDS, &mut self.server).await.is_err() {
            self.server.abort();
        }
        self.beats.shutdown().await;
        self.shop.engine.stop().await;
        // nor a connection to a database that has gone silent
        tokio::time::timeout(LAST_WORDS, self.shop.pool.close()).await.ok();
    }
}

fn policy(config: &Config) -> Policy {
    Policy {
        hold: TimeDelta::seconds(config.checkout.hold_seconds),
        capture_margin: TimeDelta::seconds(config.checkout.capture_margin_seconds),
        pending_hold: TimeDelta::seconds(config.checkout.pending_hold_seconds),
        attempts: config.checkout.payment_attempts,
        intent: config.checkout.intent.into(),
    }
}

fn room_rules(config: &Config) -> RoomRules {
    let wanted = &config.waiting_room;
    RoomRules { admission: TimeDelta::seconds(wanted.admission_seconds), most: wanted.most_waiting }
}

fn limits(config: &Config) -> Limits {
    Limits {
        timeout: Duration::from_secs(config.http.timeout_seconds),
        body: config.http.body_limit_bytes,
        import: config.http.import_limit_bytes,
        movable_clock: config.mode == Mode::Development,
    }
}

/// Where a provider sends buyers back to, paid or not: the way back to the order's own page, opened by the order's own
/// token. The provider adds a `token` of its own, so ours must have another name.
fn return_urls(config: &Config, keys: &Keys) -> souk_actors::ReturnUrls {
    let (base, keys) = (config.http.public_url.clone(), keys.clone());
    Arc::new(move |order_id: OrderId| {
        let back = format!("{base}/orders/{order_id}/return?access={}", keys.order_token(order_id));
        (back.clone(), back)
    })
}

fn open_paypal(config: &Config, clock: Clock) -> Result<PayPal, StartError> {
    let wanted = &config.paypal;
    let mut believed = match config.mode {
        Mode::Production => webhook::Settings::live(&wanted.webhook_id),
        Mode::Development => webhook::Settings::sandbox(&wanted.webhook_id),
    };
    believed.cert_urls.clone_from(&wanted.cert_urls);
    if !wanted.roots.as_os_str().is_empty() {
        believed.roots = read_roots("paypal.roots", &wanted.roots)?;
    }
    let settings = paypal::Settings {
        base_url: wanted.base_url.clone(),
        client_id: wanted.client_id.clone(),
        client_secret: wanted.client_secret.clone(),
        brand_name: wanted.brand_name.clone(),
        timeout: Duration::from_secs(wanted.timeout_seconds),
        connect_timeout: Duration::from_secs(wanted.connect_timeout_seconds),
        webhook: believed,
        verification: wanted.verification,
    };
    PayPal::new(settings, clock)
        .map_err(|error| StartError::Setting(format!("paypal.{}: {}", error.setting, error.problem)))
}

/// Who is asked for rates and labels, where anybody is.
fn open_shippo(config: &Config, clock: Clock) -> Result<Option<Shippo>, StartError> {
    if !config.has_carrier() {
        return Ok(None);
    }
    let wanted = &config.shippo;
    let settings = shippo::Settings {
        base_url: wanted.base_url.clone(),
        api_key: wanted.api_key.clone(),
        timeout: Duration::from_secs(wanted.timeout_seconds),
        connect_timeout: Duration::from_secs(wanted.connect_timeout_seconds),
        label_format: wanted.label_format.clone(),
        phone: config.shipping.from.phone.clone(),
        email: config.shipping.from.email.clone(),
        webhook: shippo::webhook::Settings {
            token: wanted.webhook_token.clone(),
            secret: wanted.webhook_secret.clone(),
        },
    };
    let opened = Shippo::new(settings, clock);
    opened.map(Some).map_err(|error| StartError::Setting(format!("shippo.{}: {}", error.setting, error.problem)))
}

/// Mail to buyers; none where production names no mail server.
fn open_mail(config: &Config, keys: &Keys, pool: PgPool) -> Result<Option<Mailer>, StartError> {
    let wanted = &config.mail;
    if wanted.url.is_empty() {
        tracing::warn!("mail.url is empty: buyers are mailed nothing");
        return Ok(None);
    }
    let is_named = !wanted.roots.as_os_str().is_empty();
    let roots = if is_named { read_roots("mail.roots", &wanted.roots)? } else { Vec::new() };
    let settings = mail::Settings {
        url: wanted.url.clone(),
        user: wanted.user.clone(),
        password: wanted.password.clone(),
        roots,
        from: wanted.from.clone(),
        timeout: Duration::from_secs(wanted.timeout_seconds),
    };
    let (base, keys) = (config.http.public_url.clone(), keys.clone());
    let order_urls: mail::OrderUrls =
        Arc::new(move |order_id| format!("{base}/orders/{order_id}?token={}", keys.order_token(order_id)));
    let mailer = Mailer::new(settings, pool, order_urls);
    mailer.map(Some).map_err(|error| StartError::Setting(format!("mail.{}: {}", error.setting, error.problem)))
}

fn open_merchants(config: &Config, clock: Clock, pool: PgPool) -> Result<Merchants, StartError> {
    let settings = merchants::Settings {
        timeout: Duration::from_secs(config.merchant_webhooks.timeout_seconds),
        connect_timeout: Duration::from_secs(config.merchant_webhooks.connect_timeout_seconds),
        public_only: config.mode == Mode::Production,
    };
    Merchants::new(settings, clock, pool)
        .map_err(|error| StartError::Setting(format!("merchant_webhooks.{}: {}", error.setting, error.problem)))
}

/// The certificates in a PEM file; whoever names one wants at least one believed.
fn read_roots(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let named = format!("{setting}, {}", path.display());
    let pem = fs::read(path).map_err(|source| file(&named, source))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let roots = roots.map_err(|error| StartError::Setting(format!("{named}: {error}")))?;
    if roots.is_empty() { Err(StartError::Setting(format!("{named}: holds no certificate"))) } else { Ok(roots) }
}

/// The staff's token and the installation's secret: given, or made once and kept.
fn keys(config: &Config) -> Result<Keys, StartError> {
    let dir = &config.database.data_dir;
    Ok(Keys::new(kept(&config.staff.token, dir, "staff-token")?, kept(&config.secret, dir, "secret")?))
}

fn kept(given: &Secret, dir: &Path, name: &str) -> Result<Secret, StartError> {
    if !given.expose().is_empty() {
        return Ok(given.clone());
    }
    let path = dir.join(name);
    let what = path.display().to_string();
    if !path.exists() {
        fs::create_dir_all(dir).and_then(|()| make_secret(dir, &path)).map_err(|source| file(&what, source))?;
    }
    let text = fs::read_to_string(&path).map_err(|source| file(&what, source))?;
    let text = text.trim();
    // what anybody can guess opens every order
    if text.len() < SHORTEST_KEPT {
        let problem = "is empty or cut short: delete it, and a new one is made";
        return Err(StartError::Setting(format!("{what} {problem}")));
    }
    Ok(Secret::from(text))
}

/// Makes a secret that is whole or not there, however this process ends: written under another name, on disk before it
/// gets its own. Of two processes that make one at once, the first has made it.
fn make_secret(dir: &Path, path: &Path) -> io::Result<()> {
    let fresh = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let unborn = dir.join(format!("unborn-{}", uuid::Uuid::new_v4().simple()));
    let mut own = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unborn)?;
    let written = io::Write::write_all(&mut own, fresh.as_bytes()).and_then(|()| own.sync_all());
    let named = written.and_then(|()| fs::hard_link(&unborn, path));
    fs::remove_file(&unborn)?;
    match named {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => fs::File::open(dir)?.sync_all(),
    }
}

/// The staff token of this installation, where it was made rather than given.
///
/// # Errors
/// [`StartError`] where it cannot be read or made.
pub fn staff_token(config: &Config) -> Result<Secret, StartError> {
    kept(&config.staff.token, &config.database.data_dir, "staff-token")
}

fn file(what: &str, source: io::Error) -> StartError {
    StartError::File { what: what.to_owned(), source }
}

/// What an earlier life left to do, and something to sell for a shop that has nothing.
async fn fill(config: &Config, shop: &Shop) -> Result<(), StartError> {
    let said = |problem: Problem| StartError::Setting(problem.to_string());
    open_forgotten(shop, None).await.map_err(said)?;
    if config.mode == Mode::Development {
        demo::seed(&shop.pool, &shop.engine, shop.engine.clock().now()).await.map_err(said)?;
    }
    Ok(())
}

async fn open_forgotten(shop: &Shop, newest: Option<i64>) -> Result<(), Problem> {
    let forgotten = products::open_forgotten(&shop.pool, &shop.engine, newest).await?;
    if forgotten > 0 {
        tracing::warn!(skus = forgotten, "opened stock that had been left unopened");
    }
    Ok(())
}

/// A product whose stock could not be opened, the database being away, is not for sale until it is: no later than a beat
/// after the database is back.
async fn open_what_was_forgotten(shop: Arc<Shop>) {
    loop {
        tokio::time::sleep(FORGOTTEN).await;
        if let Err(problem) = open_forgotten(&shop, Some(LATELY)).await {
            tracing::debug!(%problem, "stock is not looked after now");
        }
    }
}

async fn keep_metrics() {
    loop {
        tokio::time::sleep(UPKEEP).await;
        telemetry::metrics().run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_a_broken_one_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let none = Secret::from("");
        let first = kept(&none, dir.path(), "secret").expect("made");
        assert_eq!(first.expose().len(), 64);
        assert_eq!(kept(&none, dir.path(), "secret").expect("read"), first);
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing else is left");
        for broken in ["", "\n", "short"] {
            fs::write(dir.path().join("secret"), broken).expect("written");
            let refused = kept(&none, dir.path(), "secret").expect_err("it is no secret").to_string();
            assert!(refused.contains("secret is empty or cut short"), "{refused}");
        }
        assert_eq!(kept(&Secret::from("given"), dir.path(), "secret").expect("given").expose(), "given");
    }
}
