//! What a waiting room begins with.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::domain::{Call, Draw, Room, SaleId};

/// A sale's waiting room as committed; one that nobody has joined is empty.
pub(crate) async fn room(pool: &PgPool, sale_id: SaleId, now: DateTime<Utc>) -> Result<Room, sqlx::Error> {
    let row: Option<(i64, Option<i64>, Option<i64>, i64)> =
        sqlx::query_as("select given, seed, drawn, called from waiting_room where sale_id = $1")
            .bind(sale_id.0)
            .fetch_optional(pool)
            .await?;
    let Some((given, seed, drawn, called)) = row else { return Ok(Room::default()) };
    let calls: Vec<(i64, i64, DateTime<Utc>)> = sqlx::query_as(
        "select first_place, end_place, until from room_call where sale_id = $1 and until > $2 order by first_place",
    )
    .bind(sale_id.0)
    .bind(now)
    .fetch_all(pool)
    .await?;
    let used: Vec<i64> =
        sqlx::query_scalar("select place from ticket_use where sale_id = $1").bind(sale_id.0).fetch_all(pool).await?;
    let draw = seed.zip(drawn).map(|(seed, count)| Draw::new(seed, count));
    let call = |(first, end, until)| Call { places: first..end, until };
    Ok(Room { given, draw, called, calls: calls.into_iter().map(call).collect(), used: used.into_iter().collect() })
}
