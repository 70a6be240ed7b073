//! Webhooks as they came, and how far each provider's own list of them has been read. Written beside the journal: nothing
//! of stock, orders or money is in it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{PgPool, types::Json};

/// How often a provider's own list of events is read.
const READ_EVERY: TimeDelta = TimeDelta::minutes(10);
/// Providers list events late: what was listed before is read again, and known by its id.
const OVERLAP: TimeDelta = TimeDelta::hours(1);
/// How long a webhook is tried again that leads nowhere: a permission may be given back, an order be on its way.
const PATIENCE: TimeDelta = TimeDelta::days(3);
/// How much of a list is read at once: a long absence is made up for bit by bit.
const WINDOW: TimeDelta = TimeDelta::hours(2);
/// Providers keep their lists for about so long; who asks for more may hear nothing at all.
const LISTED: TimeDelta = TimeDelta::days(29);
/// How long webhooks are kept that were dealt with, longer than any provider repeats one.
const KEPT: TimeDelta = TimeDelta::days(30);

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

/// A webhook names nothing that is known here (another shop may share the account), or nothing that its provider will speak
/// of. One that has been tried for days is given up: what it was about has checks of its own.
pub(crate) async fn give_up_in_time(pool: &PgPool, inbox_id: i64, outcome: &'static str, now: DateTime<Utc>) {
    // `coalesce`: with `is null` all that waits would be read to find this one
    let marked = sqlx::query(
        "update inbox set processed_at = $2, outcome = $4
         where id = $1 and coalesce(processed_at, 'infinity') = 'infinity' and received_at < $3",
    )
    .bind(inbox_id)
    .bind(now)
    .bind(now - PATIENCE)
    .bind(outcome)
    .execute(pool)
    .await;
    match marked {
        Ok(marked) if marked.rows_affected() > 0 => tracing::warn!(inbox_id, "a webhook is given up"),
        Ok(_) => {}
        Err(error) => tracing::debug!(inbox_id, %error, "a webhook stays in the inbox"),
    }
}

/// Forgets webhooks that were dealt with long ago, at the most `most` of them.
pub(crate) async fn forget(pool: &PgPool, now: DateTime<Utc>, most: i64) -> Result<(), sqlx::Error> {
    // the oldest are looked at and no others, for there is no index that only this would use
    sqlx::query("delete from inbox where id in (select id from inbox order by id limit $2) and processed_at < $1")
        .bind(now - KEPT)
        .bind(most)
        .execute(pool)
        .await?;
    Ok(())
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

/// A part of a provider's list that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// Providers whose list is to be read now, and which part of it. The next turn is put off by the asking.
pub(crate) async fn due_lists(pool: &PgPool, now: DateTime<Utc>) -> Result<Vec<(String, Stretch)>, sqlx::Error> {
    let due: Vec<(String, DateTime<Utc>)> =
        sqlx::query_as("update provider_cursor set next_at = $2 where next_at <= $1 returning provider, read_until")
            .bind(now)
            .bind(now + READ_EVERY)
            .fetch_all(pool)
            .await?;
    Ok(due.into_iter().map(|(provider, read_until)| (provider, stretch(read_until, now))).collect())
}

fn stretch(read_until: DateTime<Utc>, now: DateTime<Utc>) -> Stretch {
    let begin = read_until.max(now - LISTED);
    Stretch { since: begin - OVERLAP, until: now.min(begin + WINDOW) }
}

/// Everything that a provider had listed `until` then is in the inbox. Where that is long ago, the next part is due at once.
pub(crate) async fn move_cursor(
    pool: &PgPool,
    provider: &str,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update provider_cursor set read_until = greatest(read_until, $2),
             next_at = case when $2 < $3 then $3 else next_at end
         where provider = $1",
    )
    .bind(provider)
    .bind(until)
    .bind(now)
    .execute(pool)
    .await?;
    Ok(())
}
