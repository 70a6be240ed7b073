//! News that are due, and who wants to hear any.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgPool, Row, postgres::PgRow};

use crate::domain::{Channel, EventSeq, NoticeId, OrderId, Subscription, SubscriptionId};

/// A piece of news that is due.
#[derive(Debug)]
pub(crate) struct Due {
    pub id: NoticeId,
    pub order_id: OrderId,
    pub event_seq: EventSeq,
    pub kind: String,
    pub data: Value,
    pub at: DateTime<Utc>,
    /// None: the order's buyer.
    pub subscription_id: Option<SubscriptionId>,
    pub attempts: i32,
}

/// News that are due by one way out, to each receiver as many as it has room for; 0 is the receiver of mail. A row is due
/// when no earlier live one tells the same receiver of the same order: what was given up does not stand in the way.
///
/// A sale leaves thousands of rows due at once, and this is asked for every few of them: it reads the first of `outbox_due`
/// and stops. A condition that Postgres may turn into a join (`not exists`) compared all of them with all.
pub(crate) async fn due(
    pool: &PgPool,
    channel: Channel,
    rooms: &[(i64, i64)],
    carried: &[i64],
    now: DateTime<Utc>,
) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query(
        "select o.id, o.order_id, o.event_seq, o.kind, o.subscription_id, o.attempts,
             coalesce(e.data, '{}'::jsonb) as data, coalesce(e.at, o.created_at) as at
         from unnest($2::bigint[], $3::bigint[]) as receiver(id, room)
         cross join lateral (
             select * from outbox due
             where due.channel = $1 and due.subscription_id = receiver.id and due.state = 'open' and due.next_at <= $4
                 and due.id <> all ($5) and due.id = (
                     select earlier.id from outbox earlier
                     where earlier.channel = due.channel and earlier.subscription_id = due.subscription_id
                         and earlier.order_id = due.order_id and earlier.state = 'open'
                     order by earlier.id limit 1)
             order by due.next_at, due.id limit receiver.room
         ) o
         left join order_event e on e.order_id = o.order_id and e.seq = o.event_seq",
    )
    .bind(channel.as_str())
    .bind(rooms.iter().map(|(receiver, _)| *receiver).collect::<Vec<_>>())
    .bind(rooms.iter().map(|(_, room)| *room).collect::<Vec<_>>())
    .bind(now)
    .bind(carried)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Due {
            id: row.try_get("id")?,
            order_id: row.try_get("order_id")?,
            event_seq: row.try_get("event_seq")?,
            kind: row.try_get("kind")?,
            data: row.try_get("data")?,
            at: row.try_get("at")?,
            subscription_id: Some(row.try_get("subscription_id")?).filter(|id| *id != SubscriptionId(0)),
            attempts: row.try_get("attempts")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Every subscription, in the order in which they were made.
pub(crate) async fn subscriptions(pool: &PgPool) -> Result<Vec<Subscription>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, url, secret, events, description, disabled, failing_since, created_at
         from webhook_subscription order by id",
    )
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Subscription {
            id: row.try_get("id")?,
            url: row.try_get("url")?,
            secret: row.try_get("secret")?,
            events: row.try_get("events")?,
            description: row.try_get("description")?,
            disabled: row.try_get("disabled")?,
            failing_since: row.try_get("failing_since")?,
            created_at: row.try_get("created_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Rows that are forgotten at once.
const PRUNED: i64 = 5_000;

/// Forgets what was told before `then`, and what was said of it; a bounded number of rows at a time. Nothing that is still
/// to be told, or that was given up, is forgotten, but for what a subscription was to be told that ended while it was
/// being written down. True where there is more of it.
pub(crate) async fn prune(pool: &PgPool, then: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let told = sqlx::query(
        "delete from outbox where id in (select id from outbox where state = 'sent' and sent_at < $1 order by sent_at limit $2)",
    )
    .bind(then)
    .bind(PRUNED)
    .execute(pool)
    .await?;
    let said = sqlx::query(
        "delete from webhook_attempt where (notice_id, at, attempt) in (
             select notice_id, at, attempt from webhook_attempt where at < $1 order by at limit $2)",
    )
    .bind(then)
    .bind(PRUNED)
    .execute(pool)
    .await?;
    sqlx::query(
        "delete from outbox where channel = $1 and state = 'open'
             and not exists (select from webhook_subscription s where s.id = outbox.subscription_id)",
    )
    .bind(Channel::Merchants.as_str())
    .execute(pool)
    .await?;
    Ok([told, said].iter().any(|gone| gone.rows_affected() == PRUNED as u64))
}
