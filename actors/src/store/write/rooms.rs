//! Waiting rooms: their rows, whom they have called, and tickets that are used up.

use sqlx::PgConnection;

use super::column;
use crate::{domain::change::Changes, store::entry::Entry};

/// Rooms, brought up to date with whom they call. A room has one entry in flight, so each is in a batch once.
pub(super) async fn rooms(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(_, c)| c.rooms.iter()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into waiting_room (sale_id, given, seed, drawn, called)
         select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
         on conflict (sale_id) do update
         set given = excluded.given, seed = excluded.seed, drawn = excluded.drawn, called = excluded.called",
    )
    .bind(column(&rows, |row| row.sale_id.0))
    .bind(column(&rows, |row| row.given))
    .bind(column(&rows, |row| row.drawn.map(|(seed, _)| seed)))
    .bind(column(&rows, |row| row.drawn.map(|(_, count)| count)))
    .bind(column(&rows, |row| row.called))
    .execute(&mut *conn)
    .await?;
    let calls: Vec<_> = rows.iter().filter_map(|row| row.call.as_ref().map(|call| (row.sale_id, call))).collect();
    if calls.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into room_call (sale_id, first_place, end_place, until)
         select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[])",
    )
    .bind(column(&calls, |(sale_id, _)| sale_id.0))
    .bind(column(&calls, |(_, call)| call.places.start))
    .bind(column(&calls, |(_, call)| call.places.end))
    .bind(column(&calls, |(_, call)| call.until))
    .execute(conn)
    .await?;
    Ok(())
}

/// Tickets that orders of this batch use up. The room gives each to one checkout at a time; a second use is a fault of this
/// engine, and its entry fails.
pub(super) async fn tickets(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().filter_map(|(entry, c)| Some((*entry, c.ticket.as_ref()?))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into ticket_use (sale_id, place, order_id, at)
         select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[])",
    )
    .bind(column(&rows, |(_, ticket)| ticket.sale_id.0))
    .bind(column(&rows, |(_, ticket)| ticket.place))
    .bind(column(&rows, |(_, ticket)| ticket.order_id.0))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}
