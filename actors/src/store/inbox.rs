//! Webhooks as they came, and how far each provider's own list of them has been read. Written beside the journal: nothing
//! of stock, orders or money is in it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{PgPool, types::Json};

/// How often a provider's own list of events is read.
const READ_EVERY: TimeDelta = TimeDelta::minutes(10);
/// Providers list events late: what was listed before is read again, and known by its id.
const OVERLAP: TimeDelta = TimeDelta::hours(1);
/// How long a provider is asked again that will not speak of what its webhook names: a permission may be given back.
const PATIENCE: TimeDelta = TimeDelta::days(3);

/// One webhook.
pub(crate) struct InboxRow<'a> {
    pub provider: &'a str,
    pub event_id: &'a str,
    pub transmission_id: &'a str,
    pub event_type: &'a str,
    pub body: &'a [u8],
}

/// Keeps a webhook. None: it was here before.
pub(crate) async fn store(
    pool: &PgPool,
    row: &InboxRow<'_>,
    locator: &(impl Serialize + Sync),
    now: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    // one statement, so nothing can be left open by a client that goes away
    sqlx::query_scalar(
        "insert into inbox (provider, event_id, transmission_id, event_type, locator, body, received_at, next_at)
         values ($1, $2, $3, $4, $5, $6, $7, $7 + interval '5 seconds')
         on conflict do nothing returning id",
    )
    .bind(row.provider)
    .bind(row.event_id)
    .bind(row.transmission_id)
    .bind(row.event_type)
    .bind(Json(locator))
    .bind(row.body)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// The provider will not speak of what this webhook names. One that has been asked about for days is asked about no more:
/// what it was about has checks of its own.
pub(crate) async fn unanswerable(pool: &PgPool, inbox_id: i64, now: DateTime<Utc>) {
    let marked = sqlx::query(
        "update inbox set processed_at = $2, outcome = 'unanswerable'
         where id = $1 and processed_at is null and received_at < $3",
    )
    .bind(inbox_id)
    .bind(now)
    .bind(now - PATIENCE)
    .execute(pool)
    .await;
    match marked {
        Ok(marked) if marked.rows_affected() > 0 => tracing::warn!(inbox_id, "a webhook is given up"),
        Ok(_) => {}
        Err(error) => tracing::debug!(inbox_id, %error, "a webhook stays in the inbox"),
    }
}

/// Gives every provider a cursor; one that is there stays where it is.
pub(crate) async fn place_cursors(pool: &PgPool, providers: &[&str], now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into provider_cursor (provider, read_until, next_at) select name, $2, $3 from unnest($1::text[]) as w(name)
         on conflict (provider) do nothing",
    )
    .bind(providers)
    .bind(now)
    .bind(now + READ_EVERY)
    .execute(pool)
    .await?;
    Ok(())
}

/// Providers whose list is to be read now, and since when. The next turn is put off by the asking.
pub(crate) async fn due_lists(pool: &PgPool, now: DateTime<Utc>) -> Result<Vec<(String, DateTime<Utc>)>, sqlx::Error> {
    let due: Vec<(String, DateTime<Utc>)> =
        sqlx::query_as("update provider_cursor set next_at = $2 where next_at <= $1 returning provider, read_until")
            .bind(now)
            .bind(now + READ_EVERY)
            .fetch_all(pool)
            .await?;
    Ok(due.into_iter().map(|(provider, read_until)| (provider, read_until - OVERLAP)).collect())
}

/// Everything that a provider had listed `until` then is in the inbox.
pub(crate) async fn move_cursor(pool: &PgPool, provider: &str, until: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("update provider_cursor set read_until = greatest(read_until, $2) where provider = $1")
        .bind(provider)
        .bind(until)
        .execute(pool)
        .await?;
    Ok(())
}
