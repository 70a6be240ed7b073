//! News to be told, what became of telling them, and who wants to hear.

use sqlx::PgConnection;

use super::column;
use crate::{domain::change::Changes, store::entry::Entry};

/// Numbered in the order in which their events happened, which is the order in which a receiver hears of them.
pub(super) async fn notices(conn: &mut PgConnection, base: i64, live: &[&Entry]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = live.iter().flat_map(|entry| entry.notices.iter().map(move |row| (*entry, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into outbox (id, channel, subscription_id, order_id, event_seq, kind, state, next_at, created_at)
         select $7 + n - 1, channel, subscription_id, order_id, event_seq, kind, 'open', at, at
         from unnest($1::text[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::timestamptz[])
             with ordinality as w(channel, subscription_id, order_id, event_seq, kind, at, n)",
    )
    .bind(column(&rows, |(_, row)| row.channel.as_str()))
    .bind(column(&rows, |(_, row)| row.subscription_id.map_or(0, |id| id.0)))
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.event_seq))
    .bind(column(&rows, |(_, row)| row.kind))
    .bind(column(&rows, |(entry, _)| entry.at))
    .bind(base)
    .execute(conn)
    .await?;
    Ok(())
}

/// What is put off puts off what follows it: else every look would find the same rows that may not be told yet.
pub(super) async fn marks(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.marks.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    // `state::text`, and the rows that follow by a question for each: else all that is open would be read to find these few,
    // for Postgres believes that hardly anything is in an index of what is open
    sqlx::query(
        "with marked as (
             update outbox o
             set state = w.state::notice_state, attempts = w.attempts, next_at = w.next_at,
                 last_error = coalesce(w.error, o.last_error), sent_at = case when w.state = 'sent' then w.at end
             from unnest($1::bigint[], $2::text[], $3::int[], $4::timestamptz[], $5::text[], $6::timestamptz[])
                 as w(id, state, attempts, next_at, error, at)
             where o.id = w.id and o.state::text = 'open'
             returning o.id, o.channel, o.subscription_id, o.order_id, o.state, o.next_at
         )
         update outbox o set next_at = m.next_at
         from marked m cross join lateral (
             select l.id from outbox l
             where l.state = 'open' and l.channel = m.channel and l.subscription_id = m.subscription_id
                 and l.order_id = m.order_id and l.id > m.id and l.next_at < m.next_at
             order by l.id offset 0
         ) later
         where m.state = 'open' and o.id = later.id",
    )
    .bind(column(&rows, |(_, row)| row.id.0))
    .bind(column(&rows, |(_, row)| row.state.as_str()))
    .bind(column(&rows, |(_, row)| row.attempts))
    .bind(column(&rows, |(_, row)| row.next_at))
    .bind(column(&rows, |(_, row)| row.error.as_deref()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

/// The delivery log of subscriptions.
pub(super) async fn attempts(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let marks = changes.iter().flat_map(|(e, c)| c.marks.iter().map(move |mark| (*e, mark)));
    let rows: Vec<_> = marks.filter_map(|(e, mark)| mark.attempt.as_ref().map(|attempt| (e, mark, attempt))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into webhook_attempt (notice_id, attempt, subscription_id, at, millis, status, error, said)
         select * from unnest($1::bigint[], $2::int[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::int[], $7::text[], $8::text[])
         on conflict do nothing",
    )
    .bind(column(&rows, |(_, mark, _)| mark.id.0))
    .bind(column(&rows, |(_, mark, _)| mark.attempts))
    .bind(column(&rows, |(_, _, row)| row.subscription_id.0))
    .bind(column(&rows, |(entry, _, _)| entry.at))
    .bind(column(&rows, |(_, _, row)| row.millis))
    .bind(column(&rows, |(_, _, row)| row.status.map(i32::from)))
    .bind(column(&rows, |(_, mark, _)| mark.error.as_deref()))
    .bind(column(&rows, |(_, _, row)| row.said.as_str()))
    .execute(conn)
    .await?;
    Ok(())
}

/// A person has news told again, those that were given up or those that were told.
pub(super) async fn replays(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.replays.iter().map(move |id| (*e, *id))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update outbox o set state = 'open', attempts = 0, next_at = w.at, sent_at = null
         from unnest($1::bigint[], $2::timestamptz[]) as w(id, at)
         where o.id = w.id and o.state <> 'open'",
    )
    .bind(column(&rows, |(_, id)| id.0))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn subscriptions(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    // few and seldom: a statement each
    for row in changes.iter().flat_map(|(_, changes)| &changes.subscriptions) {
        sqlx::query(
            "insert into webhook_subscription (id, url, secret, events, description, disabled, failing_since, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             on conflict (id) do update
             set url = excluded.url, events = excluded.events, description = excluded.description,
                 disabled = excluded.disabled, failing_since = excluded.failing_since",
        )
        .bind(row.id)
        .bind(&row.url)
        .bind(&row.secret)
        .bind(&row.events)
        .bind(&row.description)
        .bind(&row.disabled)
        .bind(row.failing_since)
        .bind(row.created_at)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// A subscription ends with everything that was on its way to it.
pub(super) async fn unsubscribed(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = changes.iter().flat_map(|(_, c)| c.unsubscribed.iter().map(|id| id.0)).collect();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "with ended as (delete from webhook_subscription where id = any($1)),
         untold as (delete from outbox where subscription_id = any($1) and subscription_id <> 0 returning id)
         delete from webhook_attempt where notice_id in (select id from untold)",
    )
    .bind(&ids)
    .execute(conn)
    .await?;
    Ok(())
}
