//! What actors start from, and what is due. Read on the engine's own pool, never on the journal's connection.

pub(crate) mod imports;
pub(crate) mod notices;
mod order;
mod parcels;
pub(crate) mod rooms;
pub(crate) mod sales;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Row, postgres::PgRow};

use crate::{
    domain::{Counters, OrderId, PaymentId},
    ports::Locator,
};

pub(crate) use order::order;
pub(crate) use parcels::{label_file, list_returns, locate_parcel, order_of_return};

/// A word or a value in a row that this version does not know.
fn odd(error: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(error.to_string().into())
}

fn word<T: std::str::FromStr<Err: std::fmt::Display>>(row: &PgRow, column: &str) -> Result<T, sqlx::Error> {
    row.try_get::<String, _>(column)?.parse().map_err(odd)
}

/// What is kept as plain text, and is JSON.
fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(odd)
}

/// The counters of many SKUs in one question; SKUs that do not exist are left out.
pub(crate) async fn counters(pool: &PgPool, sku_ids: &[i64]) -> Result<HashMap<i64, Counters>, sqlx::Error> {
    let rows = sqlx::query("select sku_id, on_hand, reserved, unpaid, version from stock where sku_id = any($1)")
        .bind(sku_ids)
        .fetch_all(pool)
        .await?;
    let read = |row: &PgRow| {
        let counters = Counters {
            on_hand: row.try_get("on_hand")?,
            reserved: row.try_get("reserved")?,
            unpaid: row.try_get("unpaid")?,
            version: row.try_get("version")?,
        };
        Ok((row.try_get("sku_id")?, counters))
    };
    rows.iter().map(read).collect()
}

/// The orders that something is due for — the end of a hold, a provider call, a check — the longest due first, `most` of
/// each. `without` are those whose actors answer nobody: they must not stand in the way of the others.
pub(crate) async fn due(
    looking: &PgPool,
    now: DateTime<Utc>,
    without: &[i64],
    most: i64,
) -> Result<Vec<OrderId>, sqlx::Error> {
    sqlx::query_scalar(
        "(select id from customer_order
          where status = 'awaiting_payment' and deadline <= $1 and id <> all ($2) order by deadline limit $3)
         union
         (select order_id from task where state = 'open' and due_at <= $1 and order_id <> all ($2) order by due_at limit $3)
         union
         (select order_id from payment where check_at <= $1 and order_id <> all ($2) order by check_at limit $3)
         union
         (select order_id from shipment where check_at <= $1 and order_id <> all ($2) order by check_at limit $3)",
    )
    .bind(now)
    .bind(without)
    .bind(most)
    .fetch_all(looking)
    .await
}

/// The epoch of whoever owns the database now.
pub(crate) async fn epoch(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select epoch from journal where id = 1").fetch_one(pool).await
}

/// A webhook that waits to be dealt with.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub inbox_id: i64,
    pub provider: String,
    /// How it names what it is about, in the words of whoever speaks with that provider.
    pub locator: serde_json::Value,
}

/// A new engine takes up at once what an earlier one was told and had not dealt with.
pub(crate) async fn wake_inbox(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("update inbox set next_at = $1 where processed_at is null and next_at > $1")
        .bind(now)
        .execute(pool)
        .await?;
    Ok(())
}

/// Webhooks to be dealt with (again), oldest first. Their next turn is put off by the asking, so that one that cannot be
/// dealt with yet (its order is not known) comes back later, less and less often.
pub(crate) async fn due_inbox(looking: &PgPool, now: DateTime<Utc>, most: i64) -> Result<Vec<Waiting>, sqlx::Error> {
    let rows = sqlx::query(
        "update inbox set attempts = attempts + 1,
             next_at = $1 + make_interval(secs => least(3600, 5 * power(2, least(attempts, 10))))
         where id in (
             select id from inbox where processed_at is null and next_at <= $1 order by next_at limit $2 for update skip locked
         )
         returning id, provider, locator",
    )
    .bind(now)
    .bind(most)
    .fetch_all(looking)
    .await?;
    let read = |row: &PgRow| {
        Ok(Waiting {
            inbox_id: row.try_get("id")?,
            provider: row.try_get("provider")?,
            locator: row.try_get("locator")?,
        })
    };
    rows.iter().map(read).collect()
}

/// The attempt that a webhook speaks of, by the best of its names, and the provider's order of it where that is known.
pub(crate) async fn locate(
    pool: &PgPool,
    provider: &str,
    names: &Locator,
) -> Result<Option<(OrderId, PaymentId, Option<String>)>, sqlx::Error> {
    let payment_id = names.payment_id.as_deref().and_then(|text| text.parse::<PaymentId>().ok()).map(|id| id.0);
    // one look-up a name: asked for all of them together, Postgres may read every payment of the provider
    sqlx::query_as(
        "select order_id, id, provider_order_id from (
             (select 1 as rank, * from payment where provider = $1 and provider_order_id = $2 limit 1)
             union all
             (select 2, payment.* from payment_fact f join payment on payment.id = f.payment_id where f.object_id = $3 limit 1)
             union all
             (select 3, * from payment where id = $4 limit 1)
         ) found where provider = $1 order by rank limit 1",
    )
    .bind(provider)
    .bind(names.provider_order_id.as_deref())
    .bind(names.capture_id.as_deref())
    .bind(payment_id)
    .fetch_optional(pool)
    .await
}

/// Who placed the newest orders below `before`, at the most `most`, and the oldest of those orders.
pub(crate) async fn buyers(pool: &PgPool, before: i64, most: i64) -> Result<(Vec<String>, Option<i64>), sqlx::Error> {
    let rows: Vec<(i64, String)> =
        sqlx::query_as("select id, email from customer_order where id < $1 order by id desc limit $2")
            .bind(before)
            .bind(most)
            .fetch_all(pool)
            .await?;
    let oldest = rows.last().map(|(id, _)| *id);
    Ok((rows.into_iter().map(|(_, email)| email).collect(), oldest))
}

/// Forgets keys from before `before`, at the most `most` of them. A checkout's key is not among them: it is its order's, for
/// ever. Outside the journal: a key is there or not, and nothing else follows from it.
pub(crate) async fn prune_keys(pool: &PgPool, before: DateTime<Utc>, most: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from idempotency where (principal, key) in (
             select principal, key from idempotency where route <> 'checkout' and created_at < $1
             order by created_at limit $2 for update skip locked
         )",
    )
    .bind(before)
    .bind(most)
    .execute(pool)
    .await?;
    Ok(())
}

/// What a key was used for.
#[derive(Debug)]
pub(crate) struct Used {
    pub route: String,
    pub fingerprint: Vec<u8>,
    pub ref_id: i64,
}

/// What a key was used for, if it was.
pub(crate) async fn used(pool: &PgPool, principal: &str, key: &str) -> Result<Option<Used>, sqlx::Error> {
    let row = sqlx::query("select route, fingerprint, ref_id from idempotency where principal = $1 and key = $2")
        .bind(principal)
        .bind(key)
        .fetch_optional(pool)
        .await?;
    let read = |row: PgRow| {
        Ok(Used {
            route: row.try_get("route")?,
            fingerprint: row.try_get("fingerprint")?,
            ref_id: row.try_get("ref_id")?,
        })
    };
    row.map(read).transpose()
}
