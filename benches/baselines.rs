//! The same rows as others write them, and as fast as one connection can write them at all.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use souk_actors::{clock::Clock, domain::SkuId};
use sqlx::{
    ConnectOptions, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    Outcome,
    house::{House, address, guest},
    load::{Cpu, Measured, closed, histogram},
};

/// Sixteen connections: measured best for a row lock on this class of machine; more only wait for each other.
const CONNECTIONS: u32 = 16;
/// Rows of one statement of the bulk insert.
const BULK: i64 = 1_000;

/// How a shop without actors writes a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// A transaction that locks the SKU's row first.
    RowLock,
    /// One statement that takes the stock where there is enough.
    Statement,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Stock, reservation, ledger.
    Reservation,
    /// The same, and key and order.
    Checkout,
}

/// So many clients, each request a transaction of its own on one of these SKUs.
pub(crate) async fn one_by_one(
    house: &House,
    connect: &PgConnectOptions,
    way: Way,
    rows: Rows,
    (clients, time): (usize, Duration),
    sku: impl Fn(u64) -> SkuId + Clone + Send + 'static,
) -> Outcome<Measured> {
    let options = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(Duration::from_secs(60));
    let pool = options.connect_with(connect.clone()).await?;
    let first: i64 = sqlx::query_scalar("select coalesce(max(order_id), 0) from reservation").fetch_one(&pool).await?;
    let first = first.max(1 << 50) + 1; // beyond the engine's numbers
    let shared = pool.clone();
    let measured = closed(house, clients, time, move |number| {
        let (pool, sku_id, id) = (shared.clone(), sku(number).0, first + number as i64);
        async move {
            let written = match way {
                Way::RowLock => row_lock(&pool, rows, sku_id, id).await,
                Way::Statement => statement(&pool, rows, sku_id, id).await,
            };
            written.expect("every request succeeds");
        }
    })
    .await;
    pool.close().await;
    Ok(measured)
}

async fn row_lock(pool: &PgPool, rows: Rows, sku_id: i64, id: i64) -> Result<(), sqlx::Error> {
    let now = Clock::default().now();
    #[expect(clippy::disallowed_methods, reason = "the baseline is what others do")]
    let mut tx = pool.begin().await?;
    let available: i64 = sqlx::query_scalar("select on_hand - reserved from stock where sku_id = $1 for update")
        .bind(sku_id)
        .fetch_one(&mut *tx)
        .await?;
    assert!(available >= 1, "there is enough");
    sqlx::query(
        "update stock set reserved = reserved + 1, unpaid = unpaid + 1, version = version + 1 where sku_id = $1",
    )
    .bind(sku_id)
    .execute(&mut *tx)
    .await?;
    if rows == Rows::Checkout {
        sqlx::query(
            "insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             values ($1, $2, 'checkout', $3, $4, $5)",
        )
        .bind(guest(id as u64))
        .bind(format!("lock-{id}"))
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
        .bind(address_text())
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

async fn statement(pool: &PgPool, rows: Rows, sku_id: i64, id: i64) -> Result<(), sqlx::Error> {
    let now = Clock::default().now();
    let taken = "with taken as (
             update stock set reserved = reserved + 1, unpaid = unpaid + 1, version = version + 1
             where sku_id = $1 and on_hand - reserved >= 1
             returning 1
         ), reserved as (
             insert into reservation (order_id, part, line, sku_id, quantity, unit_price_minor, state)
             select $2, 0, 0, $1, 1, 1250, 'held' from taken
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
             select $2, $1, 0, 1, 'reserve', $2, 'buyer', $3 from taken
         )";
    let reservation = "select count(*) from taken";
    let checkout = ", kept as (
             insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             select $4, $5, 'checkout', $6, $2, $3 from taken
         ), placed as (
             insert into customer_order (id, version, status, email, address, currency, total_minor, deadline, created_at)
             select $2, 1, 'awaiting_payment', 'ann@example.com', $7, 'USD', 1250, $3 + interval '15 min', $3 from taken
         )
         select count(*) from taken";
    let sql = format!("{taken}{}", if rows == Rows::Checkout { checkout } else { reservation });
    let mut query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql)).bind(sku_id).bind(id).bind(now);
    if rows == Rows::Checkout {
        query = query.bind(guest(id as u64)).bind(format!("statement-{id}")).bind([7u8; 32].as_slice());
        query = query.bind(address_text());
    }
    let taken = query.fetch_one(pool).await?;
    assert_eq!(taken, 1, "there is enough");
    Ok(())
}

/// The same rows, a thousand a statement, each its own transaction on one connection, with nobody to answer: what one
/// writer can reach at most.
pub(crate) async fn bulk(
    house: &House,
    connect: &PgConnectOptions,
    rows: Rows,
    skus: i64,
    time: Duration,
) -> Outcome<Measured> {
    let mut conn =
        connect.clone().options([("plan_cache_mode", "force_generic_plan"), ("jit", "off")]).connect().await?;
    let first: i64 =
        sqlx::query_scalar("select coalesce(max(order_id), 0) from reservation").fetch_one(&mut conn).await?;
    let mut next = first.max(1 << 51) + 1;
    let mut latency = histogram();
    let (began, cpu) = (Instant::now(), Cpu::now(house));
    while began.elapsed() < time {
        let sent = Instant::now();
        insert(&mut conn, rows, skus, next).await?;
        latency.record_n(sent.elapsed().as_micros() as u64, BULK as u64)?;
        next += BULK;
    }
    Ok(Measured::new(latency, began.elapsed(), cpu.until(&Cpu::now(house))))
}

async fn insert(conn: &mut PgConnection, rows: Rows, skus: i64, first: i64) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = (first..first + BULK).collect();
    let sku_ids: Vec<i64> = ids.iter().map(|id| (id % skus * 7_919) % skus + 1).collect();
    let now = Clock::default().now();
    let reservations = "with moved as (
             update stock s set reserved = s.reserved + w.units, unpaid = s.unpaid + w.units, version = s.version + 1
             from (select sku_id, count(*) as units from unnest($2) as w(sku_id) group by sku_id) w
             where s.sku_id = w.sku_id
         ), reserved as (
             insert into reservation (order_id, part, line, sku_id, quantity, unit_price_minor, state)
             select id, 0, 0, sku_id, 1, 1250, 'held' from unnest($1, $2) as w(id, sku_id)
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
             select id, sku_id, 0, 1, 'reserve', id, 'buyer', $3 from unnest($1, $2) as w(id, sku_id)
         )";
    let checkouts = ", kept as (
             insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             select principal, key, 'checkout', $6, id, $3 from unnest($1, $4, $5) as w(id, principal, key)
         ), placed as (
             insert into customer_order (id, version, status, email, address, currency, total_minor, deadline, created_at)
             select id, 1, 'awaiting_payment', 'ann@example.com', $7, 'USD', 1250, $3 + interval '15 min', $3
             from unnest($1) as w(id)
         )";
    let more = if rows == Rows::Checkout { checkouts } else { "" };
    let sql = sqlx::AssertSqlSafe(format!("{reservations}{more} select 1"));
    let mut query = sqlx::query(sql).bind(&ids).bind(sku_ids).bind(now);
    if rows == Rows::Checkout {
        query = query.bind(ids.iter().map(|id| guest(*id as u64)).collect::<Vec<_>>());
        query = query.bind(ids.iter().map(|id| format!("bulk-{id}")).collect::<Vec<_>>());
        query = query.bind([7u8; 32].as_slice()).bind(address_text());
    }
    query.execute(conn).await?;
    Ok(())
}

fn address_text() -> String {
    serde_json::to_string(&address()).expect("its keys are names")
}
