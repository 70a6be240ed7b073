//! A whole shop in this process, its provider's sandbox beside it, and a generator on a thread of its own: everything on
//! the same cores.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use souk::{
    app::App,
    config::Config,
    hammer::line::{Line, Target},
    sandbox::{self, Sandbox},
};
use souk_actors::domain::{SkuId, change::Opening};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    Outcome,
    house::{House, PLENTY},
    load::{Cpu, Measured, histogram},
};

/// Longer than any answer takes that is not lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Shop {
    pub(crate) app: App,
    sandbox: Sandbox,
    pub(crate) target: Target,
    pub(crate) bank: Target,
    pub(crate) connect: PgConnectOptions,
    dir: PathBuf,
}

impl Shop {
    /// With SKUs 1 to `skus` at 12.50 dollars, `on_hand` of each.
    pub(crate) async fn open(
        house: &House,
        name: &str,
        (skus, on_hand): (i64, i64),
        settings: &[(&str, &str)],
    ) -> Outcome<Self> {
        let connect = house.database(name).await?;
        let dir = house.room(name)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let sandbox = sandbox::start(sandbox::Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            dir: dir.join("sandbox"),
            client_id: "souk".into(),
            client_secret: "sandbox".into(),
            webhook_id: "WH-SOUK".into(),
            webhook_url: format!("{base}/v1/webhooks/paypal"),
            retry: sandbox::Settings::default_retry(),
            shippo: sandbox::ShippoSettings::default(),
            mail: sandbox::MailSettings::default(),
        })
        .await?;
        let own = [
            ("SOUK_HTTP__PUBLIC_URL", base.clone()),
            ("SOUK_SANDBOX__LISTEN", sandbox.addr.to_string()),
            ("SOUK_SANDBOX__SMTP_LISTEN", sandbox.smtp_addr.to_string()),
            ("SOUK_SANDBOX__DIR", dir.join("sandbox").display().to_string()),
            ("SOUK_DATABASE__DATA_DIR", dir.display().to_string()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(None, own.chain(settings))?;
        let app = App::start(&config, connect.clone(), listener).await?;
        fill(&app, &connect, skus, on_hand).await?;
        let (target, bank) = (Target::of(&base).await?, Target::of(&format!("http://{}", sandbox.addr)).await?);
        Ok(Self { app, sandbox, target, bank, connect, dir })
    }

    /// Ends the shop; its books must be right.
    pub(crate) async fn close(self) -> Outcome<()> {
        let findings = self.app.shop.engine.audit().await?;
        self.app.stop().await;
        self.sandbox.stop().await;
        fs::remove_dir_all(&self.dir)?;
        if findings.is_empty() { Ok(()) } else { Err(format!("the audit finds {findings:?}").into()) }
    }
}

/// Products with a SKU each, straight into the shop's own tables, and their stock through the engine.
async fn fill(app: &App, connect: &PgConnectOptions, skus: i64, on_hand: i64) -> Outcome<()> {
    let pool = PgPool::connect_with(connect.clone()).await?;
    let products = "insert into product (id, slug, name, created_at, updated_at)
         select n, 'lamp-' || n, 'Lamp ' || n, now(), now() from generate_series(1, $1) as n";
    // the shop opens what it finds unopened, and may be here first: it must find the same number
    let stocked = "insert into sku (id, product_id, code, position, first_stock)
         select n, n, 'LAMP-' || n, 1, $2 from generate_series(1, $1) as n";
    let priced =
        "insert into sku_price (sku_id, currency, minor) select n, 'USD', 1250 from generate_series(1, $1) as n";
    sqlx::query(products).bind(skus).execute(&pool).await?;
    sqlx::query(stocked).bind(skus).bind(on_hand).execute(&pool).await?;
    sqlx::query(priced).bind(skus).execute(&pool).await?;
    pool.close().await;
    let openings: Vec<Opening> = (1..=skus).map(|sku| Opening { sku_id: SkuId(sku), on_hand }).collect();
    for chunk in openings.chunks(5_000) {
        app.shop.engine.open_stock(chunk.to_vec()).await?;
    }
    Ok(())
}

/// Plenty of one SKU.
pub(crate) const ONE: (i64, i64) = (1, PLENTY);

/// What a checkout of one unit sends; `payment` announces it to the provider.
pub(crate) fn order(target: &Target, sku_id: SkuId, number: u64, payment: bool) -> Vec<u8> {
    let payment = if payment { r#","payment":"paypal""# } else { "" };
    let body = format!(
        r#"{{"lines":[{{"sku_id":"{sku_id}","quantity":1}}],"email":"buyer-{number}@example.com","currency":"USD","shipping_address":{{"name":"Ann Lee","line1":"1 Main St","city":"Springfield","region":"IL","postal_code":"62701","country":"US"}}{payment}}}"#
    );
    target.request("POST", "/v1/checkouts", &format!("Idempotency-Key: bench-{number}\r\n"), Some(&body))
}

/// Every request of a run has another number, over all runs: a key is used once.
static NUMBER: AtomicU64 = AtomicU64::new(1);

pub(crate) fn number() -> u64 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Runs on a thread and a runtime of its own, as a generator on these cores.
pub(crate) async fn beside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Outcome<T> {
    let (tell, hear) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("generator".to_owned())
        .spawn(move || tell.send(runtime.block_on(work)).map_err(drop))?;
    Ok(hear.await?)
}

/// A closed loop over so many connections, each asking again as soon as it is answered; every answer must have `status`.
pub(crate) async fn closed(
    house: &House,
    target: &Target,
    (connections, time): (usize, Duration),
    status: u16,
    request: impl Fn(&Target, u64) -> Vec<u8> + Clone + Send + Sync + 'static,
) -> Outcome<Measured> {
    let target = target.clone();
    let (began, cpu) = (Instant::now(), Cpu::now(house));
    let generated = beside(async move {
        let end = Instant::now() + time;
        let connection = || tokio::spawn(ask_until(target.clone(), end, request.clone()));
        let connections: Vec<_> = (0..connections).map(|_| connection()).collect();
        let mut all = Answers::default();
        for connection in connections {
            all.add(connection.await.expect("a client does not panic"));
        }
        all
    });
    let answers = generated.await?;
    let (took, cost) = (began.elapsed(), cpu.until(&Cpu::now(house)));
    if answers.by_status.keys().any(|seen| *seen != status) {
        let counts: Vec<_> = answers.by_status.iter().map(|(status, latency)| (status, latency.len())).collect();
        return Err(format!("answers of other kinds than {status}: {counts:?}").into());
    }
    Ok(Measured::new(answers.latency(status), took, cost))
}

async fn ask_until(target: Target, end: Instant, request: impl Fn(&Target, u64) -> Vec<u8>) -> Answers {
    let mut line = Line::new(target.clone(), PATIENCE);
    let mut answers = Answers::default();
    while Instant::now() < end {
        let bytes = request(&target, number());
        let sent = Instant::now();
        let status = line.ask(&bytes).await.map_or(0, |reply| reply.status);
        answers.note(status, sent);
    }
    answers
}

/// Answers by their status, 0 where there was none, and how long they took.
#[derive(Default)]
pub(crate) struct Answers {
    by_status: BTreeMap<u16, Histogram<u64>>,
}

impl Answers {
    pub(crate) fn note(&mut self, status: u16, since: Instant) {
        let micros = since.elapsed().as_micros() as u64;
        self.by_status.entry(status).or_insert_with(histogram).saturating_record(micros);
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (status, latency) in other.by_status {
            self.by_status.entry(status).or_insert_with(histogram).add(latency).expect("same bounds");
        }
    }

    pub(crate) fn latency(&self, status: u16) -> Histogram<u64> {
        self.by_status.get(&status).cloned().unwrap_or_else(histogram)
    }

    pub(crate) fn all(&self) -> u64 {
        self.by_status.values().map(Histogram::len).sum()
    }
}
