//! One Postgres of our own for the whole run, and engines on databases of it.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use chrono::TimeDelta;
use souk::{database, postgres};
use souk_actors::{
    Checkout, Engine, PricedLine, Settings,
    clock::Clock,
    domain::{Address, Intent, Money, Policy, RoomRules, SkuId, change::Opening},
    faults::Faults,
};
use sqlx::{ConnectOptions, Connection, PgPool, postgres::PgConnectOptions};

use crate::Outcome;

/// More than any part sells.
pub(crate) const PLENTY: i64 = 1_000_000_000;

pub(crate) struct House {
    dir: PathBuf,
    server: postgres::Server,
}

impl House {
    pub(crate) async fn open() -> Outcome<Self> {
        let dir = std::env::temp_dir().join(format!("souk-bench-{}", std::process::id()));
        let settings = postgres::Settings { data_dir: dir.clone(), durable: true, bin_dir: None };
        Ok(Self { server: postgres::Server::start(settings).await?, dir })
    }

    pub(crate) async fn close(self) -> Outcome<()> {
        self.server.stop().await?;
        Ok(fs::remove_dir_all(&self.dir)?)
    }

    /// The server's first process.
    pub(crate) fn postmaster(&self) -> u32 {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        text.lines().next().and_then(|pid| pid.parse().ok()).unwrap_or(0)
    }

    /// A directory for whatever else a part keeps.
    pub(crate) fn room(&self, name: &str) -> Outcome<PathBuf> {
        let dir = std::env::temp_dir().join(format!("souk-bench-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Bytes of WAL so far, whoever wrote them.
    pub(crate) async fn wal(&self) -> Outcome<f64> {
        let mut conn = self.server.connect_options().connect().await?;
        let bytes = "select (pg_current_wal_insert_lsn() - '0/0')::float8";
        let bytes = sqlx::query_scalar(bytes).fetch_one(&mut conn).await?;
        conn.close().await?;
        Ok(bytes)
    }

    /// Lets every commit take so much longer, as on a slower disk: whoever flushes the log waits first.
    pub(crate) async fn slow_down(&self, commit: Duration) -> Outcome<()> {
        let pool = PgPool::connect_with(self.server.connect_options()).await?;
        let micros = commit.as_micros();
        for change in [
            format!("alter system set commit_delay = {micros}"),
            "alter system set commit_siblings = 0".to_owned(),
            "select pg_reload_conf()".to_owned(),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(change)).execute(&pool).await?;
        }
        pool.close().await;
        Ok(())
    }

    /// A database with every table and nothing in it.
    pub(crate) async fn database(&self, name: &str) -> Outcome<PgConnectOptions> {
        let connect = self.server.connect_options();
        let pool = PgPool::connect_with(connect.clone()).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&pool).await?;
        pool.close().await;
        let connect = connect.database(name);
        database::migrate(&connect).await?;
        Ok(connect)
    }
}

/// An engine with plenty of SKUs 1 to `skus`, each asleep.
pub(crate) async fn engine(connect: &PgConnectOptions, skus: i64) -> Outcome<Arc<Engine>> {
    let policy = Policy {
        hold: TimeDelta::minutes(15),
        capture_margin: TimeDelta::seconds(30),
        pending_hold: TimeDelta::days(3),
        attempts: 10,
        intent: Intent::Capture,
    };
    let settings = Settings {
        connect: connect.clone(),
        pool: 8,
        admission: 16_384,
        policy,
        rooms: RoomRules { admission: TimeDelta::minutes(5), most: 1_000 },
        providers: Vec::new(),
        notifiers: Vec::new(),
        carriers: Vec::new(),
        ship_from: None,
        return_urls: Arc::new(|_| (String::new(), String::new())),
        clock: Clock::default(),
        faults: Arc::new(Faults::default()),
    };
    let engine = Engine::start(settings).await?;
    let openings: Vec<Opening> = (1..=skus).map(|sku| Opening { sku_id: SkuId(sku), on_hand: PLENTY }).collect();
    for chunk in openings.chunks(5_000) {
        engine.open_stock(chunk.to_vec()).await?;
    }
    Ok(Arc::new(engine))
}

/// A database with plenty of SKUs 1 to `skus`, for those who do without an engine. Not ours: rows of theirs, with higher
/// numbers, would have our indexes split in the middle.
pub(crate) async fn stocked(house: &House, name: &str, skus: i64) -> Outcome<PgConnectOptions> {
    let connect = house.database(name).await?;
    close(engine(&connect, skus).await?).await?;
    Ok(connect)
}

/// Ends an engine whose books must be right.
pub(crate) async fn close(engine: Arc<Engine>) -> Outcome<()> {
    let findings = engine.audit().await?;
    engine.stop().await;
    if findings.is_empty() { Ok(()) } else { Err(format!("the audit finds {findings:?}").into()) }
}

/// A bare reservation: stock, reservation and ledger.
pub(crate) async fn reserve(engine: Arc<Engine>, sku_id: SkuId) {
    engine.reserve(sku_id, 1, 1_250).await.expect("there is enough");
}

/// A whole checkout: the same, and key and order.
pub(crate) async fn checkout(engine: Arc<Engine>, sku_id: SkuId, number: u64) {
    let unit_price = Money::new(1_250, "USD".parse().expect("a known currency"));
    let placed = engine
        .checkout(Checkout {
            principal: guest(number),
            key: format!("bench-{number}"),
            fingerprint: [7; 32],
            lines: vec![PricedLine { sku_id, quantity: 1, unit_price, sale_id: None }],
            shipping: None,
            total: unit_price,
            email: "ann@example.com".parse().expect("an address"),
            ship_to: address(),
            payment: None,
            ticket: None,
        })
        .await;
    placed.expect("there is enough");
}

/// Buyers' hashes are scattered over the index of keys.
pub(crate) fn guest(number: u64) -> String {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("guest:{scattered:016x}{:06x}", number % 0x0100_0000)
}

pub(crate) fn address() -> Address {
    Address {
        name: "Ann Lee".to_owned(),
        line1: "1 Main St".to_owned(),
        line2: None,
        city: "Springfield".to_owned(),
        region: Some("IL".to_owned()),
        postal_code: "62701".to_owned(),
        country: "US".to_owned(),
    }
}
