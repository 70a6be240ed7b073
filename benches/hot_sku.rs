//! How many durable checkouts of one SKU a second, in process: Souk beside a row lock and a transaction per request, on the
//! same Postgres (fsync on), in the same run. Figures drift with the machine; the ratio is what counts.
//!
//! `cargo bench --bench hot_sku -- [seconds]`, 5 where it is not given.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use hdrhistogram::Histogram;
use souk::{database, postgres};
use souk_actors::{
    Checkout, Engine, PricedLine, Settings,
    clock::Clock,
    domain::{Address, Intent, Money, Policy, RoomRules, SkuId, change::Opening},
    faults::Faults,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CLIENTS: [usize; 3] = [1, 64, 1_024];

fn main() -> Outcome<()> {
    // cargo passes --bench and the like; a bare number is ours
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(5);
    tokio::runtime::Runtime::new()?.block_on(run(Duration::from_secs(seconds)))
}

async fn run(time: Duration) -> Outcome<()> {
    let dir = std::env::temp_dir().join(format!("souk-bench-{}", std::process::id()));
    let server =
        postgres::Server::start(postgres::Settings { data_dir: dir.clone(), durable: true, bin_dir: None }).await?;
    let measured = measure(&server, time).await;
    server.stop().await?;
    std::fs::remove_dir_all(&dir)?;
    measured
}

async fn measure(server: &postgres::Server, time: Duration) -> Outcome<()> {
    let connect = server.connect_options();
    sqlx::query("create database bench").execute(&PgPool::connect_with(connect.clone()).await?).await?;
    let connect = connect.database("bench");
    database::migrate(&connect).await?;
    let engine = Arc::new(start_engine(connect.clone()).await?);
    engine.open_stock((1..=4).map(|sku| Opening { sku_id: SkuId(sku), on_hand: 1_000_000_000 }).collect()).await?;

    header("Reservations (stock, reservation, ledger)", time);
    for clients in CLIENTS {
        let ours = Arc::clone(&engine);
        let souk = load(clients, time, move |_| reserve(Arc::clone(&ours))).await;
        let lock = baseline(&connect, clients, time, false).await?;
        line(clients, &souk, &lock);
    }
    header("Whole checkouts (the same, and key and order)", time);
    for clients in CLIENTS {
        let ours = Arc::clone(&engine);
        let souk = load(clients, time, move |number| checkout(Arc::clone(&ours), number)).await;
        let lock = baseline(&connect, clients, time, true).await?;
        line(clients, &souk, &lock);
    }
    let report = engine.journal();
    println!("journal: {} entries in {} batches", report.entries, report.batches);
    let findings = engine.audit().await?;
    println!("audit: {}", if findings.is_empty() { "clean".to_owned() } else { format!("{findings:?}") });
    engine.stop().await;
    Ok(())
}

async fn start_engine(connect: PgConnectOptions) -> Outcome<Engine> {
    let policy = Policy {
        hold: TimeDelta::minutes(15),
        capture_margin: TimeDelta::seconds(30),
        pending_hold: TimeDelta::days(3),
        attempts: 10,
        intent: Intent::Capture,
    };
    let settings = Settings {
        connect,
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
    Ok(Engine::start(settings).await?)
}

fn header(what: &str, time: Duration) {
    println!("One hot SKU, durable, {} s each. {what}", time.as_secs());
    let [clients, ours, theirs, p50, p99] = ["clients", "souk /s", "row lock", "p50 ms", "p99 ms"];
    println!("{clients:>8} │ {ours:>10} {p50:>8} {p99:>8} │ {theirs:>10} {p50:>8} {p99:>8} │");
}

fn line(clients: usize, souk: &Measured, lock: &Measured) {
    let ratio = souk.rate / lock.rate;
    let one = |m: &Measured| format!("{:>10.0} {:>8.2} {:>8.2}", m.rate, m.p50, m.p99);
    println!("{clients:>8} │ {} │ {} │ {ratio:>6.1}×", one(souk), one(lock));
}

/// Sixteen connections: measured best for a row lock on this class of machine; more only wait for each other.
async fn baseline(connect: &PgConnectOptions, clients: usize, time: Duration, whole: bool) -> Outcome<Measured> {
    let options = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(60));
    let pool = options.connect_with(connect.clone()).await?;
    let shared = pool.clone();
    let measured = load(clients, time, move |number| row_lock(shared.clone(), number, whole)).await;
    pool.close().await;
    Ok(measured)
}

struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// A closed loop of so many clients, each a task; every request must succeed.
async fn load<F>(clients: usize, time: Duration, request: impl Fn(u64) -> F + Clone + Send + 'static) -> Measured
where
    F: Future<Output = ()> + Send + 'static,
{
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let client = || {
        let (stop, request) = (Arc::clone(&stop), request.clone());
        tokio::spawn(async move {
            let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("valid bounds");
            while !stop.load(Ordering::Relaxed) {
                let sent = Instant::now();
                request(NUMBER.fetch_add(1, Ordering::Relaxed)).await;
                latency.saturating_record(sent.elapsed().as_micros() as u64);
            }
            latency
        })
    };
    let clients: Vec<_> = (0..clients).map(|_| client()).collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("valid bounds");
    for client in clients {
        all.add(client.await.expect("every request succeeds")).expect("same bounds");
    }
    let took = began.elapsed().as_secs_f64();
    let millis = |quantile| all.value_at_quantile(quantile) as f64 / 1_000.0;
    Measured { rate: all.len() as f64 / took, p50: millis(0.5), p99: millis(0.99) }
}

fn address() -> Address {
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

async fn reserve(engine: Arc<Engine>) {
    engine.reserve(SkuId(1), 1, 1_250).await.expect("there is enough");
}

async fn checkout(engine: Arc<Engine>, number: u64) {
    let unit_price = Money::new(1_250, "USD".parse().expect("a known currency"));
    let placed = engine
        .checkout(Checkout {
            principal: "guest".to_owned(),
            key: format!("bench-{number}"),
            fingerprint: [7; 32],
            lines: vec![PricedLine { sku_id: SkuId(1), quantity: 1, unit_price, sale_id: None }],
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

/// The same rows as a shop with row locks writes them: a transaction per request, the SKU's row locked first.
async fn row_lock(pool: PgPool, number: u64, whole: bool) {
    transaction(&pool, number, whole).await.expect("every request succeeds");
}

async fn transaction(pool: &PgPool, number: u64, whole: bool) -> Result<(), sqlx::Error> {
    let (sku_id, id, now) = (2i64, (1i64 << 40) + number as i64, Clock::default().now());
    #[expect(clippy::disallowed_methods, reason = "the baseline is what others do")]
    let mut tx = pool.begin().await?;
    let available: i64 = sqlx::query_scalar("select on_hand - reserved from stock where sku_id = $1 for update")
        .bind(sku_id)
        .fetch_one(&mut *tx)
        .await?;
    assert!(available >= 1, "there is enough");
    sqlx::query("update stock set reserved = reserved + 1, version = version + 1 where sku_id = $1")
        .bind(sku_id)
        .execute(&mut *tx)
        .await?;
    if whole {
        sqlx::query(
            "insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             values ('guest', $1, 'checkout', $2, $3, $4)",
        )
        .bind(format!("lock-{number}"))
        .bind([7u8; 32].as_slice())
        .bind(id)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into customer_order (id, version, status, email, address, currency, total_minor, deadline, created_at)
             values ($1, 1, 'awaiting_payment', 'ann@example.com', $2, 'USD', 1250, $3, $4)",
        )
        .bind(id)
        .bind(sqlx::types::Json(address()))
        .bind(now + TimeDelta::minutes(15))
        .bind(now)
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query(
        "insert into reservation (order_id, part, line, sku_id, quantity, unit_price_minor, state)
         values ($1, 0, 0, $2, 1, 1250, 'held')",
    )
    .bind(id)
    .bind(sku_id)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
         values ($1, $2, 0, 1, 'reserve', $1, 'buyer', $3)",
    )
    .bind(id)
    .bind(sku_id)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
