//! What actors start from, and what is due. Read on the engine's own pool, never on the journal's connection.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Row, postgres::PgRow};

use crate::{
    domain::{
        Address, Counters, Currency, Email, Money, Order, OrderId, Part, Payment, PaymentId, Refund, RefundId, Task,
        TaskId,
    },
    ports::{Created, Fact, Locator},
};

/// A word or a value in a row that this version does not know.
fn odd(error: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(error.to_string().into())
}

fn word<T: std::str::FromStr<Err: std::fmt::Display>>(row: &PgRow, column: &str) -> Result<T, sqlx::Error> {
    row.try_get::<String, _>(column)?.parse().map_err(odd)
}

/// The counters of many SKUs in one question; SKUs that do not exist are left out.
pub(crate) async fn counters(pool: &PgPool, sku_ids: &[i64]) -> Result<HashMap<i64, Counters>, sqlx::Error> {
    let rows = sqlx::query("select sku_id, on_hand, reserved, version from stock where sku_id = any($1)")
        .bind(sku_ids)
        .fetch_all(pool)
        .await?;
    let read = |row: &PgRow| {
        let counters = Counters {
            on_hand: row.try_get("on_hand")?,
            reserved: row.try_get("reserved")?,
            version: row.try_get("version")?,
        };
        Ok((row.try_get("sku_id")?, counters))
    };
    rows.iter().map(read).collect()
}

/// An order with all that decisions about it need.
///
/// The version is read first: should the order move while the rest is read, the next decision meets the journal's fence,
/// changes nothing and loads again.
pub(crate) async fn order(pool: &PgPool, order_id: OrderId) -> Result<Option<Order>, sqlx::Error> {
    let Some(row) = sqlx::query(
        "select version, status::text, email, address, currency, total_minor, deadline, created_at,
             (select coalesce(max(seq), 1) from order_event e where e.order_id = o.id) as last_event
         from customer_order o where id = $1",
    )
    .bind(order_id)
    .fetch_optional(pool)
    .await?
    else {
        return Ok(None);
    };
    let currency: Currency = word(&row, "currency")?;
    let order = Order {
        id: order_id,
        version: row.try_get("version")?,
        last_event: row.try_get("last_event")?,
        status: word(&row, "status")?,
        deadline: row.try_get("deadline")?,
        created_at: row.try_get("created_at")?,
        total: Money::new(row.try_get("total_minor")?, currency),
        email: row.try_get::<String, _>("email")?.parse::<Email>().map_err(odd)?,
        ship_to: row.try_get::<sqlx::types::Json<Address>, _>("address")?.0,
        parts: parts(pool, order_id).await?,
        payments: payments(pool, order_id).await?,
        refunds: refunds(pool, order_id).await?,
        tasks: tasks(pool, order_id).await?,
    };
    Ok(Some(order))
}

async fn parts(pool: &PgPool, order_id: OrderId) -> Result<Vec<Part>, sqlx::Error> {
    let rows = sqlx::query(
        "select part, line, sku_id, quantity, unit_price_minor, state::text from reservation where order_id = $1 order by part",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Part {
            part: row.try_get("part")?,
            line: row.try_get("line")?,
            sku_id: row.try_get("sku_id")?,
            quantity: row.try_get("quantity")?,
            unit_price_minor: row.try_get("unit_price_minor")?,
            state: word(row, "state")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn payments(pool: &PgPool, order_id: OrderId) -> Result<Vec<Payment>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, provider, provider_order_id, approve_url, state::text, check_at, checks, created_at
         from payment where order_id = $1 order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let mut payments = Vec::with_capacity(rows.len());
    for row in &rows {
        let id: PaymentId = row.try_get("id")?;
        let announced = row
            .try_get::<Option<String>, _>("provider_order_id")?
            .zip(row.try_get::<Option<String>, _>("approve_url")?)
            .map(|(provider_order_id, approve_url)| Created { provider_order_id, approve_url });
        payments.push(Payment {
            id,
            provider: row.try_get("provider")?,
            state: word(row, "state")?,
            announced,
            created_at: row.try_get("created_at")?,
            check_at: row.try_get("check_at")?,
            checks: row.try_get("checks")?,
            facts: facts(pool, id).await?,
        });
    }
    Ok(payments)
}

async fn facts(pool: &PgPool, payment_id: PaymentId) -> Result<Vec<Fact>, sqlx::Error> {
    let rows = sqlx::query(
        "select kind, object_id, status, at, amount_minor, currency, parent from payment_fact
         where payment_id = $1 order by seen_at, at",
    )
    .bind(payment_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        let amount = row
            .try_get::<Option<i64>, _>("amount_minor")?
            .zip(row.try_get::<Option<String>, _>("currency")?)
            .map(|(minor, currency)| Ok::<_, sqlx::Error>(Money::new(minor, currency.parse().map_err(odd)?)))
            .transpose()?;
        Ok(Fact {
            kind: word(row, "kind")?,
            object_id: row.try_get("object_id")?,
            status: word(row, "status")?,
            amount,
            reference: None, // was weighed when the fact was new
            parent: row.try_get("parent")?,
            at: row.try_get("at")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn refunds(pool: &PgPool, order_id: OrderId) -> Result<Vec<Refund>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, payment_id, capture_id, amount_minor, currency, reason, state::text, provider_refund_id
         from refund where order_id = $1 order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Refund {
            id: RefundId(row.try_get("id")?),
            payment_id: row.try_get("payment_id")?,
            capture_id: row.try_get("capture_id")?,
            amount: Money::new(row.try_get("amount_minor")?, word(row, "currency")?),
            reason: row.try_get("reason")?,
            state: word(row, "state")?,
            provider_refund_id: row.try_get("provider_refund_id")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn tasks(pool: &PgPool, order_id: OrderId) -> Result<Vec<Task>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, payment_id, refund_id, kind::text, attempts, due_at from task
         where order_id = $1 and state = 'open' order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Task {
            id: row.try_get::<TaskId, _>("id")?,
            payment_id: row.try_get("payment_id")?,
            refund_id: row.try_get::<Option<i64>, _>("refund_id")?.map(RefundId),
            kind: word(row, "kind")?,
            attempts: row.try_get("attempts")?,
            due_at: row.try_get("due_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// The orders that something is due for — the end of a hold, a provider call, a check — the longest due first, `most` of
/// each. `without` are those whose actors answer nobody: they must not stand in the way of the others.
pub(crate) async fn due(
    pool: &PgPool,
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
         (select order_id from payment where check_at <= $1 and order_id <> all ($2) order by check_at limit $3)",
    )
    .bind(now)
    .bind(without)
    .bind(most)
    .fetch_all(pool)
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
    pub locator: Locator,
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
pub(crate) async fn due_inbox(pool: &PgPool, now: DateTime<Utc>, most: i64) -> Result<Vec<Waiting>, sqlx::Error> {
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
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        let locator = row.try_get::<sqlx::types::Json<Locator>, _>("locator")?.0;
        Ok(Waiting { inbox_id: row.try_get("id")?, provider: row.try_get("provider")?, locator })
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
    sqlx::query_as(
        "select order_id, id, provider_order_id from payment where provider = $1 and (
             provider_order_id = $2
             or id = (select payment_id from payment_fact where object_id = $3 limit 1)
             or id = $4)
         order by (provider_order_id = $2) desc nulls last limit 1",
    )
    .bind(provider)
    .bind(names.provider_order_id.as_deref())
    .bind(names.capture_id.as_deref())
    .bind(payment_id)
    .fetch_optional(pool)
    .await
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
