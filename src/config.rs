//! Settings: `config.toml` is the manual and the defaults, a file overrides it, variables override both.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use souk_actors::domain::{Address, Currency, Invalid, Money, Parcel, clean};
use toml::{Table, Value};

use crate::gateways::{Secret, paypal::webhook::Verification};

const DEFAULTS: &str = include_str!("../config.toml");

/// More streams than one machine has connections for.
const MOST_LISTENERS: usize = 1_000_000;

/// PayPal's live API.
const LIVE: &str = "https://api-m.paypal.com";
/// Where its certificates are.
const LIVE_CERT_URLS: [&str; 2] =
    ["https://api.paypal.com/v1/notifications/certs/", "https://api-m.paypal.com/v1/notifications/certs/"];

/// Shippo's API, live and test.
const SHIPPO: &str = "https://api.goshippo.com";
/// What the sandbox's webhooks show; anybody can read it here.
const SHIPPO_SANDBOX_TOKEN: &str = "souk";
/// The sender of a shop that has not been given one.
const EXAMPLE_SENDER: &str = "Souk <souk@shop.example>";

/// Why the settings cannot be used; said once, at start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file or a variable that does not say what it should.
    #[error("{origin}: {problem}")]
    Wrong {
        /// The file or the variable.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Production without what production needs.
    #[error("mode = \"production\": {0}")]
    Production(&'static str),
}

/// What kind of shop this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A sandbox instead of providers, a demo catalogue, a movable clock.
    Development,
    /// None of that.
    Production,
}

/// All settings. Each field is explained in `config.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.toml is the manual; saying it twice would let one of the two grow stale")]
pub struct Config {
    pub mode: Mode,
    pub secret: Secret,
    pub http: Http,
    pub database: Database,
    pub checkout: Checkout,
    pub waiting_room: WaitingRoom,
    pub staff: Staff,
    pub paypal: PayPal,
    pub shippo: Shippo,
    pub shipping: Shipping,
    pub mail: Mail,
    pub merchant_webhooks: MerchantWebhooks,
    pub sandbox: Sandbox,
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Http {
    pub listen: SocketAddr,
    pub public_url: String,
    pub timeout_seconds: u64,
    pub idle_seconds: u64,
    pub body_limit_bytes: usize,
    pub import_limit_bytes: usize,
    pub listeners: usize,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Database {
    pub url: Secret,
    pub data_dir: PathBuf,
    pub pool: u32,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("data_dir", &self.data_dir).field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Checkout {
    pub hold_seconds: i64,
    pub capture_margin_seconds: i64,
    pub pending_hold_seconds: i64,
    pub payment_attempts: usize,
    pub intent: PayIntent,
    pub admission: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct WaitingRoom {
    pub admission_seconds: i64,
    pub most_waiting: i64,
}

/// When an approved payment is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayIntent {
    /// At once.
    Capture,
    /// When the first goods leave; until then its money is reserved.
    Authorise,
}

impl From<PayIntent> for souk_actors::domain::Intent {
    fn from(intent: PayIntent) -> Self {
        match intent {
            PayIntent::Capture => Self::Capture,
            PayIntent::Authorise => Self::Authorise,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Staff {
    pub token: Secret,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct PayPal {
    pub base_url: String,
    pub client_id: String,
    pub client_secret: Secret,
    pub webhook_id: String,
    pub verification: Verification,
    pub brand_name: String,
    pub timeout_seconds: u64,
    pub connect_timeout_seconds: u64,
    pub cert_urls: Vec<String>,
    pub roots: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Shippo {
    pub enabled: bool,
    pub base_url: String,
    pub api_key: Secret,
    pub webhook_token: Secret,
    pub webhook_secret: Secret,
    pub timeout_seconds: u64,
    pub connect_timeout_seconds: u64,
    pub label_format: String,
    pub services: Vec<String>,
    pub markup_percent: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Shipping {
    pub required: bool,
    pub option_seconds: i64,
    pub patience_seconds: u64,
    pub unit_grams: i64,
    pub methods: Vec<Method>,
    pub from: Origin,
    pub parcel: Parcel,
}

/// A method at flat prices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Method {
    pub code: String,
    pub name: String,
    pub prices: Amounts,
    #[serde(default)]
    pub free_above: Amounts,
    #[serde(default)]
    pub countries: Vec<String>,
    #[serde(default)]
    pub estimated_days: Option<u32>,
}

/// Amounts of money, one a currency: `{ USD = "5.00", EUR = "4.50" }`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Amounts(BTreeMap<Currency, Money>);

impl Amounts {
    /// The one in this currency.
    #[must_use]
    pub fn of(&self, currency: Currency) -> Option<Money> {
        self.0.get(&currency).copied()
    }
}

impl TryFrom<BTreeMap<String, String>> for Amounts {
    type Error = String;
    fn try_from(amounts: BTreeMap<String, String>) -> Result<Self, String> {
        let read = |(code, amount): (String, String)| {
            let currency: Currency = code.parse().map_err(|error| format!("{code}: {error}"))?;
            let money = Money::parse(&amount, currency).map_err(|error| format!("{code} {amount}: {error}"))?;
            Ok((currency, money))
        };
        amounts.into_iter().map(read).collect::<Result<_, String>>().map(Self)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Origin {
    pub name: String,
    pub line1: String,
    pub line2: String,
    pub city: String,
    pub region: String,
    pub postal_code: String,
    pub country: String,
    pub phone: String,
    pub email: String,
}

impl Origin {
    /// Where parcels begin.
    #[must_use]
    pub fn address(&self) -> Address {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Address {
            name: self.name.clone(),
            line1: self.line1.clone(),
            line2: given(&self.line2),
            city: self.city.clone(),
            region: given(&self.region),
            postal_code: self.postal_code.clone(),
            country: self.country.clone(),
        }
    }

    /// A street that carriers know, for a shop that is only tried out.
    fn demo() -> Self {
        Self {
            name: "Souk".into(),
            line1: "215 Clayton St".into(),
            line2: String::new(),
            city: "San Francisco".into(),
            region: "CA".into(),
            postal_code: "94117".into(),
            country: "US".into(),
            phone: "+1 555 341 9393".into(),
            email: "souk@example.com".into(),
        }
    }
}

impl Shipping {
    /// What could never be offered or sent.
    fn check(&self) -> Result<(), Invalid> {
        if !(60..=604_800).contains(&self.option_seconds) {
            return Err(Invalid::new("option_seconds", "is a minute to a week: a carrier's rates live no longer"));
        }
        if self.patience_seconds == 0 {
            return Err(Invalid::new("patience_seconds", "is at least 1"));
        }
        if !(1..=1_000_000).contains(&self.unit_grams) {
            return Err(Invalid::new("unit_grams", "is 1 to 1000000"));
        }
        let Parcel { length_mm, width_mm, height_mm, grams } = self.parcel;
        if ![length_mm, width_mm, height_mm].iter().all(|side| (1..=10_000).contains(side)) {
            return Err(Invalid::new("parcel", "is 1 to 10000 mm long, wide and high"));
        }
        if !(0..=1_000_000).contains(&grams) {
            return Err(Invalid::new("parcel.grams", "is 0 to 1000000"));
        }
        for (at, method) in self.methods.iter().enumerate() {
            method.check().map_err(|wrong| Invalid { field: format!("methods[{at}].{}", wrong.field), ..wrong })?;
            if self.methods[..at].iter().any(|other| other.code == method.code) {
                return Err(Invalid::new(format!("methods[{at}].code"), "is another method's"));
            }
        }
        Ok(())
    }
}

impl Method {
    fn check(&self) -> Result<(), Invalid> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        if !(1..=64).contains(&self.code.len()) || !self.code.chars().all(plain) {
            return Err(Invalid::new("code", "is 1 to 64 of a-z, 0-9, _ and -"));
        }
        if clean("name", &self.name, 120)?.is_empty() {
            return Err(Invalid::new("name", "is missing"));
        }
        if self.prices.0.is_empty() {
            return Err(Invalid::new("prices", "has a price in one currency at least"));
        }
        let is_country = |text: &String| text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase());
        if !self.countries.iter().all(is_country) {
            return Err(Invalid::new("countries", "is a list of two-letter country codes such as US"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Mail {
    pub url: String,
    pub user: String,
    pub password: Secret,
    pub roots: PathBuf,
    pub from: String,
    pub timeout_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct MerchantWebhooks {
    pub timeout_seconds: u64,
    pub connect_timeout_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Sandbox {
    pub listen: SocketAddr,
    pub dir: PathBuf,
    pub smtp_listen: SocketAddr,
    pub shippo_key: Secret,
    pub shippo_webhook_url: Secret,
    pub shippo_webhook_secret: Secret,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Config {
    /// The defaults, `file` over them, `SOUK_…` variables over both, then everything that is derived filled in.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file, variable or key.
    pub fn load(file: Option<&Path>, variables: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut table: Table = DEFAULTS.parse().map_err(|error| wrong("the defaults", &error))?;
        if let Some(path) = file {
            let text =
                fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            let origin = path.display().to_string();
            let over: Table = text.parse().map_err(|error| wrong(&origin, &error))?;
            merge(&mut table, over, "", &origin)?;
        }
        for (name, value) in variables {
            set_variable(&mut table, &name, &value)?;
        }
        let config: Self = table.try_into().map_err(|error| wrong("settings", &error))?;
        config.settle()
    }

    /// Derives what was left empty, and refuses what production must not have.
    fn settle(mut self) -> Result<Self, ConfigError> {
        if self.http.public_url.is_empty() {
            self.http.public_url = format!("http://{}", self.http.listen);
        }
        self.http.public_url = self.http.public_url.trim_end_matches('/').to_owned();
        if self.database.data_dir.as_os_str().is_empty() {
            self.database.data_dir = default_data_dir();
        }
        self.database.data_dir = std::path::absolute(&self.database.data_dir).unwrap_or(self.database.data_dir);
        if self.sandbox.dir.as_os_str().is_empty() {
            self.sandbox.dir = self.database.data_dir.join("sandbox");
        }
        match self.mode {
            Mode::Development => self.settle_development(),
            Mode::Production => self.check_production()?,
        }
        let WaitingRoom { admission_seconds, most_waiting } = self.waiting_room;
        if !(1..=86_400).contains(&admission_seconds) || !(1..=10_000_000).contains(&most_waiting) {
            let problem = "admission_seconds is 1 to 86400, most_waiting 1 to 10000000";
            return Err(wrong("waiting_room", &problem));
        }
        if self.http.listeners > MOST_LISTENERS {
            return Err(wrong("http.listeners", &format!("is {MOST_LISTENERS} at the most")));
        }
        let shipping = self.shipping.check();
        shipping.map_err(|invalid| wrong(&format!("shipping.{}", invalid.field), &invalid.problem))?;
        self.check_carrier()?;
        let Checkout { hold_seconds, capture_margin_seconds, .. } = self.checkout;
        if capture_margin_seconds < 0 || hold_seconds <= capture_margin_seconds {
            let problem =
                "capture_margin_seconds is at least 0, and hold_seconds more than it: else nothing could be paid";
            return Err(wrong("checkout", &problem));
        }
        Ok(self)
    }

    fn settle_development(&mut self) {
        let sandbox = format!("http://{}", self.sandbox.listen);
        if self.paypal.base_url.is_empty() {
            self.paypal.base_url = sandbox.clone();
            if self.paypal.client_secret.expose().is_empty() {
                self.paypal.client_secret = "sandbox".into();
            }
        }
        if self.mail.url.is_empty() {
            self.mail.url = format!("smtp://{}", self.sandbox.smtp_listen);
        }
        if self.uses_sandbox() {
            if self.paypal.cert_urls.is_empty() {
                self.paypal.cert_urls = vec![format!("{sandbox}/v1/notifications/certs/")];
            }
            if self.paypal.roots.as_os_str().is_empty() {
                self.paypal.roots = self.sandbox.dir.join("root.pem");
            }
        }
        if self.shippo.base_url.is_empty() {
            self.shippo.base_url = format!("{sandbox}/shippo");
            let known = [
                (&mut self.shippo.api_key, self.sandbox.shippo_key.clone()),
                (&mut self.shippo.webhook_token, SHIPPO_SANDBOX_TOKEN.into()),
                (&mut self.shippo.webhook_secret, self.sandbox.shippo_webhook_secret.clone()),
            ];
            for (setting, known) in known {
                if setting.expose().is_empty() {
                    *setting = known;
                }
            }
        }
        if self.sandbox.shippo_webhook_url.expose().is_empty() {
            let (shop, token) = (&self.http.public_url, self.shippo.webhook_token.expose());
            self.sandbox.shippo_webhook_url = format!("{shop}/v1/webhooks/shippo?token={token}").into();
        }
        if self.shipping.from.line1.is_empty() {
            self.shipping.from = Origin::demo();
        }
    }

    /// What a carrier needs, where there is one.
    fn check_carrier(&mut self) -> Result<(), ConfigError> {
        if self.shippo.base_url.is_empty() {
            self.shippo.base_url = SHIPPO.to_owned();
        }
        if !self.has_carrier() {
            return Ok(());
        }
        self.shipping.from.address().checked().map_err(|invalid| {
            let field = invalid.field.replace("shipping_address", "shipping.from");
            wrong(&field, &format!("{}: a carrier asks where parcels begin", invalid.problem))
        })?;
        if self.mode == Mode::Development {
            return Ok(());
        }
        if self.shippo.base_url.trim_end_matches('/') != SHIPPO {
            return Err(ConfigError::Production("shippo.base_url must be https://api.goshippo.com, not a sandbox"));
        }
        if self.shippo.api_key == self.sandbox.shippo_key {
            return Err(ConfigError::Production("SOUK_SHIPPO__API_KEY must be your own, not the sandbox's"));
        }
        if (1..16).contains(&self.shippo.webhook_token.expose().len()) {
            return Err(ConfigError::Production("SOUK_SHIPPO__WEBHOOK_TOKEN is shorter than 16 characters"));
        }
        Ok(())
    }

    /// Whether anybody is asked for rates and labels.
    #[must_use]
    pub fn has_carrier(&self) -> bool {
        self.shippo.enabled && !self.shippo.api_key.expose().is_empty()
    }

    /// Whether parcels go to the sandbox of this installation.
    #[must_use]
    pub fn ships_by_sandbox(&self) -> bool {
        self.has_carrier() && self.shippo.base_url == format!("http://{}/shippo", self.sandbox.listen)
    }

    fn check_production(&self) -> Result<(), ConfigError> {
        if self.paypal.base_url.trim_end_matches('/') != LIVE {
            return Err(ConfigError::Production("paypal.base_url must be https://api-m.paypal.com, not a sandbox"));
        }
        let live = |url: &String| LIVE_CERT_URLS.contains(&url.as_str());
        if self.paypal.cert_urls.is_empty() || !self.paypal.cert_urls.iter().all(live) {
            return Err(ConfigError::Production(
                "paypal.cert_urls must be https://api.paypal.com/v1/notifications/certs/, the same of api-m, or both",
            ));
        }
        if !self.paypal.roots.as_os_str().is_empty() {
            return Err(ConfigError::Production("paypal.roots must be empty: PayPal's own are built in"));
        }
        if ["", "souk"].contains(&self.paypal.client_id.as_str()) {
            return Err(ConfigError::Production("paypal.client_id must be your own, not the sandbox's"));
        }
        if ["", "WH-SOUK", "WEBHOOK_ID"].contains(&self.paypal.webhook_id.as_str()) {
            return Err(ConfigError::Production(
                "paypal.webhook_id must be your own, not the sandbox's or simulator's",
            ));
        }
        if self.paypal.client_secret.expose().is_empty() {
            return Err(ConfigError::Production("SOUK_PAYPAL__CLIENT_SECRET is missing"));
        }
        if !self.mail.url.is_empty() && self.mail.from == EXAMPLE_SENDER {
            return Err(ConfigError::Production("mail.from must be an address of your own"));
        }
        if self.staff.token.expose().len() < 16 {
            return Err(ConfigError::Production("SOUK_STAFF_TOKEN is missing or shorter than 16 characters"));
        }
        if self.secret.expose().len() < 32 {
            return Err(ConfigError::Production("SOUK_SECRET is missing or shorter than 32 characters"));
        }
        if !self.http.public_url.starts_with("https://") {
            return Err(ConfigError::Production("http.public_url must be the https address that buyers use"));
        }
        Ok(())
    }

    /// Whether payments go to the sandbox of this installation.
    #[must_use]
    pub fn uses_sandbox(&self) -> bool {
        self.paypal.base_url.is_empty() || self.paypal.base_url == format!("http://{}", self.sandbox.listen)
    }
}

fn wrong(origin: &str, problem: &impl ToString) -> ConfigError {
    ConfigError::Wrong { origin: origin.to_owned(), problem: problem.to_string().trim().to_owned() }
}

/// `./data` next to where Souk is started, unless the Postgres account cannot get there (root's own home, say).
fn default_data_dir() -> PathBuf {
    let here = PathBuf::from("data");
    match crate::postgres::usable_by_server(&std::path::absolute(&here).unwrap_or_else(|_| here.clone())) {
        Ok(()) => here,
        Err(_) => PathBuf::from("/var/lib/souk"),
    }
}

fn merge(base: &mut Table, over: Table, path: &str, origin: &str) -> Result<(), ConfigError> {
    for (key, value) in over {
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over, &name, origin)?,
            (Some(slot), value) if slot.same_type(&value) => *slot = value,
            (Some(slot), value) => {
                let problem = format!("{name} is of type {}, not {}", slot.type_str(), value.type_str());
                return Err(wrong(origin, &problem));
            }
            (None, _) => return Err(wrong(origin, &format!("there is no setting {name}"))),
        }
    }
    Ok(())
}

/// `SOUK_HTTP__LISTEN` is `http.listen`, `SOUK_MODE` is `mode`; a few names stand for themselves.
fn set_variable(table: &mut Table, name: &str, text: &str) -> Result<(), ConfigError> {
    let Some(rest) = name.strip_prefix("SOUK_") else { return Ok(()) };
    let path = match rest {
        "STAFF_TOKEN" => "staff.token".to_owned(),
        // read elsewhere: a test's fault, the place of Postgres' binaries
        "FAULT" | "POSTGRES_BIN" => return Ok(()),
        _ => rest.to_lowercase().replace("__", "."),
    };
    let unknown = || wrong(name, &format!("there is no setting {path}"));
    let (sections, key) = path.rsplit_once('.').unwrap_or(("", &path));
    let mut sections = sections.split('.').filter(|section| !section.is_empty());
    let section = sections.try_fold(table, |table, section| table.get_mut(section).and_then(Value::as_table_mut));
    let slot = section.and_then(|section| section.get_mut(key)).filter(|value| !value.is_table());
    let slot = slot.ok_or_else(unknown)?;
    *slot = match slot {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong(name, &"is a whole number"))?),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong(name, &"is true or false"))?),
        Value::Array(_) if text.starts_with('[') => {
            let table: Table = format!("list = {text}").parse().map_err(|error| wrong(name, &error))?;
            table.get("list").cloned().ok_or_else(|| wrong(name, &"is a list"))?
        }
        Value::Array(_) => Value::Array(
            text.split(',').filter(|one| !one.is_empty()).map(|one| Value::String(one.trim().to_owned())).collect(),
        ),
        Value::String(_) | Value::Float(_) | Value::Datetime(_) | Value::Table(_) => Value::String(text.to_owned()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(None, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_defaults_are_a_development_shop_on_its_sandbox() {
        let config = load(&[]).expect("valid");
        assert_eq!(config.mode, Mode::Development);
        assert!(config.uses_sandbox());
        assert_eq!(config.http.public_url, "http://127.0.0.1:8080");
    }

    #[test]
    fn variables_override_and_unknown_ones_are_errors() {
        let config =
            load(&[("SOUK_HTTP__LISTEN", "127.0.0.1:9"), ("SOUK_CHECKOUT__HOLD_SECONDS", "50"), ("HOME", "x")])
                .expect("valid");
        assert_eq!((config.http.listen.port(), config.checkout.hold_seconds), (9, 50));
        for bad in
            [("SOUK_HTTP__LISTNE", "x"), ("SOUK_NONSENSE", "x"), ("SOUK_HTTP", "x"), ("SOUK_DATABASE__POOL", "many")]
        {
            assert!(load(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn production_refuses_the_sandbox_and_missing_secrets() {
        let real = [
            ("SOUK_MODE", "production"),
            ("SOUK_PAYPAL__BASE_URL", "https://api-m.paypal.com"),
            ("SOUK_PAYPAL__CERT_URLS", "https://api.paypal.com/v1/notifications/certs/"),
            ("SOUK_PAYPAL__CLIENT_ID", "an id of our own"),
            ("SOUK_PAYPAL__WEBHOOK_ID", "1JE4291016473214C"),
            ("SOUK_PAYPAL__CLIENT_SECRET", "x"),
            ("SOUK_STAFF_TOKEN", "0123456789abcdef"),
            ("SOUK_HTTP__PUBLIC_URL", "https://shop.example"),
            ("SOUK_SECRET", "0123456789abcdef0123456789abcdef"),
        ];
        assert!(load(&real).is_ok());
        for missing in 1..real.len() {
            let without: Vec<_> =
                real.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, pair)| *pair).collect();
            assert!(load(&without).is_err(), "without {}", real[missing].0);
        }
        for wrong in [
            ("SOUK_PAYPAL__BASE_URL", "http://127.0.0.1:8081"),
            ("SOUK_PAYPAL__BASE_URL", "https://api-m.sandbox.paypal.com"),
            ("SOUK_PAYPAL__BASE_URL", "https://api-m.paypal.com.example"),
            ("SOUK_PAYPAL__CERT_URLS", "https://api.sandbox.paypal.com/v1/notifications/certs/"),
            ("SOUK_PAYPAL__CERT_URLS", "https://api.paypal.com/v1/notifications/certs/,https://shop.example/"),
            ("SOUK_PAYPAL__ROOTS", "root.pem"),
            ("SOUK_PAYPAL__CLIENT_ID", "souk"),
            ("SOUK_PAYPAL__WEBHOOK_ID", "WH-SOUK"),
            ("SOUK_PAYPAL__WEBHOOK_ID", "WEBHOOK_ID"),
        ] {
            let settings: Vec<_> = real.into_iter().filter(|(name, _)| *name != wrong.0).chain([wrong]).collect();
            assert!(load(&settings).is_err(), "{wrong:?}");
        }
        let carrier = [
            ("SOUK_SHIPPO__API_KEY", "shippo_live_1"),
            ("SOUK_SHIPPO__WEBHOOK_TOKEN", "0123456789abcdef"),
            ("SOUK_SHIPPING__FROM__NAME", "Shop"),
            ("SOUK_SHIPPING__FROM__LINE1", "1 Pier"),
            ("SOUK_SHIPPING__FROM__CITY", "Boston"),
            ("SOUK_SHIPPING__FROM__COUNTRY", "US"),
        ];
        let shipping: Vec<_> = real.into_iter().chain(carrier).collect();
        let config = load(&shipping).expect("valid");
        assert!(config.has_carrier() && config.shippo.base_url == SHIPPO);
        for wrong in [
            ("SOUK_SHIPPO__BASE_URL", "http://127.0.0.1:8081/shippo"),
            ("SOUK_SHIPPO__API_KEY", "shippo_test_souk"),
            ("SOUK_SHIPPO__WEBHOOK_TOKEN", SHIPPO_SANDBOX_TOKEN),
            ("SOUK_SHIPPING__FROM__LINE1", ""),
        ] {
            let settings: Vec<_> =
                shipping.iter().copied().filter(|(name, _)| *name != wrong.0).chain([wrong]).collect();
            assert!(load(&settings).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn webhooks_are_checked_by_souk_or_by_paypal() {
        let checked_by = |word| load(&[("SOUK_PAYPAL__VERIFICATION", word)]).map(|config| config.paypal.verification);
        assert_eq!(checked_by("self").ok(), Some(Verification::Itself));
        assert_eq!(checked_by("postback").ok(), Some(Verification::Postback));
        assert!(checked_by("nobody").is_err());
    }

    #[test]
    fn a_hold_is_longer_than_its_last_moments() {
        let holds = |hold, margin| {
            load(&[("SOUK_CHECKOUT__HOLD_SECONDS", hold), ("SOUK_CHECKOUT__CAPTURE_MARGIN_SECONDS", margin)]).is_ok()
        };
        assert!(holds("31", "30") && holds("1", "0"));
        assert!(!holds("30", "30") && !holds("0", "0") && !holds("5", "-1"));
    }

    #[test]
    fn flat_methods_are_checked_where_they_are_written() {
        let methods = |text| load(&[("SOUK_SHIPPING__METHODS", text)]).map(|config| config.shipping.methods);
        let good = methods(
            r#"[{ code = "post", name = "Post", prices = { USD = "5.00", JPY = "700" }, free_above = { USD = "50.00" },
                 countries = ["US"], estimated_days = 4 }, { code = "walk", name = "By foot", prices = { USD = "0" } }]"#,
        )
        .expect("valid");
        let usd = "USD".parse().expect("known");
        assert_eq!((good.len(), good[0].prices.of(usd)), (2, Some(Money::new(500, usd))));
        assert_eq!(good[1].free_above.of(usd), None);
        for bad in [
            r#"[{ code = "post", name = "Post" }]"#,
            r#"[{ code = "post", name = "Post", prices = {} }]"#,
            r#"[{ code = "post", name = "Post", prices = { XXX = "5.00" } }]"#,
            r#"[{ code = "post", name = "Post", prices = { USD = "5.001" } }]"#,
            r#"[{ code = "post", name = "Post", prices = { USD = "-5" } }]"#,
            r#"[{ code = "Post!", name = "Post", prices = { USD = "5" } }]"#,
            r#"[{ code = "post", name = " ", prices = { USD = "5" } }]"#,
            r#"[{ code = "post", name = "Post", prices = { USD = "5" }, countries = ["usa"] }]"#,
            r#"[{ code = "post", name = "Post", prices = { USD = "5" }, color = "red" }]"#,
            r#"[{ code = "a", name = "A", prices = { USD = "5" } }, { code = "a", name = "B", prices = { USD = "5" } }]"#,
            "[",
            "post",
        ] {
            assert!(methods(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_carrier_needs_its_key_and_a_place_where_parcels_begin() {
        let config = load(&[]).expect("valid");
        assert!(config.has_carrier() && config.ships_by_sandbox());
        assert_eq!(config.shipping.from.city, "San Francisco");
        assert!(!load(&[("SOUK_SHIPPO__ENABLED", "false")]).expect("valid").has_carrier());
        let from = [("SOUK_SHIPPING__FROM__LINE1", "1 Pier"), ("SOUK_SHIPPING__FROM__COUNTRY", "us")];
        assert!(load(&from).is_err());
        for bad in [("OPTION_SECONDS", "0"), ("PATIENCE_SECONDS", "0"), ("PARCEL__WIDTH_MM", "0"), ("UNIT_GRAMS", "0")]
        {
            assert!(load(&[(&format!("SOUK_SHIPPING__{}", bad.0), bad.1)]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_secret_shows_in_a_debug_line() {
        let config = load(&[
            ("SOUK_STAFF_TOKEN", "hunter2"),
            ("SOUK_SHIPPO__API_KEY", "hunter2"),
            ("SOUK_SHIPPO__WEBHOOK_TOKEN", "hunter2"),
            ("SOUK_DATABASE__URL", "postgres://u:hunter2@h/d"),
        ])
        .expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
