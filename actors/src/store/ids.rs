//! Numbers for new rows, leased from Postgres in blocks: an id costs no round trip. A crash loses the rest of a block,
//! which is what `bigint` is for.
//!
//! A block begins no lower than the milliseconds of its time. Task ids are providers' idempotency keys, and providers
//! remember: a fresh database, or one that came back from a backup, must not use a key a second time.

use std::{ops::Range, sync::Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::{clock::Clock, domain::Refusal};

/// The least that is leased at once, and the most.
const BLOCK: i64 = 10_000;
const BLOCK_MAX: i64 = 1_000_000;
/// A block that lasted for less makes the next one larger: everybody waits while one is leased.
const LASTS: TimeDelta = TimeDelta::seconds(1);

/// The one series that orders, products, SKUs, payments, refunds and tasks are numbered from.
pub struct Ids {
    pool: PgPool,
    clock: Clock,
    left: Mutex<Range<i64>>,
    refill: tokio::sync::Mutex<Leased>,
}

/// The last block that was leased.
struct Leased {
    size: i64,
    at: DateTime<Utc>,
}

impl Ids {
    /// Leases from the series `id` of this database.
    #[must_use]
    pub fn new(pool: PgPool, clock: Clock) -> Self {
        let leased = Leased { size: BLOCK, at: clock.now() };
        Self { pool, clock, left: Mutex::new(0..0), refill: tokio::sync::Mutex::new(leased) }
    }

    /// `count` numbers that nobody else has; at most a block.
    ///
    /// # Errors
    /// [`Refusal::Away`] where a new block is needed and Postgres is away.
    pub async fn take(&self, count: i64) -> Result<Range<i64>, Refusal> {
        loop {
            if let Some(taken) = self.take_from_block(count) {
                return Ok(taken);
            }
            let mut leased = self.refill.lock().await; // one at a time
            if let Some(taken) = self.take_from_block(count) {
                return Ok(taken);
            }
            let now = self.clock.now();
            let floor = now.timestamp_millis();
            let size = if now - leased.at < LASTS { (leased.size * 4).min(BLOCK_MAX) } else { BLOCK };
            let block = lease(&self.pool, "id", floor, size.max(count)).await.map_err(|_| Refusal::Away("no ids"))?;
            *leased = Leased { size, at: now };
            *self.left.lock().expect("no panic under this lock") = block;
        }
    }

    fn take_from_block(&self, count: i64) -> Option<Range<i64>> {
        let mut left = self.left.lock().expect("no panic under this lock");
        if left.end - left.start < count {
            return None;
        }
        let taken = left.start..left.start + count;
        left.start = taken.end;
        Some(taken)
    }
}

/// Leases the next `count` numbers of a series, none of them below `floor`.
pub(super) async fn lease<'c>(
    executor: impl sqlx::PgExecutor<'c>,
    series: &str,
    floor: i64,
    count: i64,
) -> Result<Range<i64>, sqlx::Error> {
    let end: i64 = sqlx::query_scalar(
        "insert into id_block as b (name, next) values ($1, $2 + $3)
         on conflict (name) do update set next = greatest(b.next, $2) + $3
         returning next",
    )
    .bind(series)
    .bind(floor)
    .bind(count)
    .fetch_one(executor)
    .await?;
    Ok(end - count..end)
}
