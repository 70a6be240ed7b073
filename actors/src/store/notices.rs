//! What people read of news: those that were given up, and what merchants answered.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgPool, Row, postgres::PgRow};

use crate::domain::{NoticeId, OrderId, SubscriptionId};

/// A piece of news and where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct NoticeView {
    /// Its id, and the cursor after it.
    pub notice_id: NoticeId,
    /// By which way out.
    pub channel: String,
    /// To which subscription; none: to the order's buyer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<SubscriptionId>,
    /// Of which order.
    pub order_id: OrderId,
    /// The event, in one word.
    pub kind: String,
    /// `open`, `sent` or `dead`.
    pub state: String,
    /// Tries so far.
    pub attempts: i32,
    /// Why the last try that failed did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// When it is tried again, while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<DateTime<Utc>>,
    /// When it was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
}

fn notice(row: &PgRow) -> Result<NoticeView, sqlx::Error> {
    let state: String = row.try_get("state")?;
    let next_at: DateTime<Utc> = row.try_get("next_at")?;
    Ok(NoticeView {
        notice_id: row.try_get("id")?,
        channel: row.try_get("channel")?,
        subscription_id: Some(row.try_get("subscription_id")?).filter(|id| *id != SubscriptionId(0)),
        order_id: row.try_get("order_id")?,
        kind: row.try_get("kind")?,
        next_at: Some(next_at).filter(|_| state == "open"),
        state,
        attempts: row.try_get("attempts")?,
        last_error: row.try_get("last_error")?,
        created_at: row.try_get("created_at")?,
        sent_at: row.try_get("sent_at")?,
    })
}

/// News that were given up, newest first, those numbered before `before` where it is given.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn dead_letters(pool: &PgPool, before: Option<NoticeId>, most: i64) -> Result<Vec<NoticeView>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, channel, subscription_id, order_id, kind, state::text, attempts, last_error, created_at, next_at, sent_at
         from outbox where state = 'dead' and ($1::bigint is null or id < $1) order by id desc limit $2",
    )
    .bind(before)
    .bind(most)
    .fetch_all(pool)
    .await?;
    rows.iter().map(notice).collect()
}

/// One call of a merchant.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptView {
    /// When.
    pub at: DateTime<Utc>,
    /// How long it took.
    pub millis: i64,
    /// The HTTP status of the answer, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Why it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of the answer.
    pub said: String,
}

/// A piece of news for a subscription, and every call that was made to tell it.
#[derive(Debug, Clone, Serialize)]
pub struct DeliveryView {
    /// The news.
    #[serde(flatten)]
    pub notice: NoticeView,
    /// The calls, oldest first.
    pub calls: Vec<AttemptView>,
}

/// What was and is to be told to a subscription, newest first, numbered before `before` where it is given.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn deliveries(
    pool: &PgPool,
    subscription_id: SubscriptionId,
    before: Option<NoticeId>,
    most: i64,
) -> Result<Vec<DeliveryView>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, channel, subscription_id, order_id, kind, state::text, attempts, last_error, created_at, next_at, sent_at
         from outbox where subscription_id = $1 and subscription_id <> 0 and ($2::bigint is null or id < $2)
         order by id desc limit $3",
    )
    .bind(subscription_id)
    .bind(before)
    .bind(most)
    .fetch_all(pool)
    .await?;
    let notices: Vec<NoticeView> = rows.iter().map(notice).collect::<Result<_, _>>()?;
    let ids: Vec<i64> = notices.iter().map(|notice| notice.notice_id.0).collect();
    let calls = sqlx::query(
        "select notice_id, at, millis, status, error, said from webhook_attempt where notice_id = any($1) order by at, attempt",
    )
    .bind(&ids)
    .fetch_all(pool)
    .await?;
    let mut deliveries: Vec<DeliveryView> =
        notices.into_iter().map(|notice| DeliveryView { notice, calls: Vec::new() }).collect();
    for row in &calls {
        let notice_id: NoticeId = row.try_get("notice_id")?;
        let Some(delivery) = deliveries.iter_mut().find(|delivery| delivery.notice.notice_id == notice_id) else {
            continue;
        };
        delivery.calls.push(AttemptView {
            at: row.try_get("at")?,
            millis: row.try_get("millis")?,
            status: row.try_get("status")?,
            error: row.try_get("error")?,
            said: row.try_get("said")?,
        });
    }
    Ok(deliveries)
}
