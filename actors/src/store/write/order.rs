//! Orders that move on, and their timelines.

use sqlx::PgConnection;

use super::column;
use crate::{domain::change::Changes, store::entry::Entry};

/// Orders move where they still are what the decision saw. Returns those that had moved on.
pub(super) async fn moves(conn: &mut PgConnection, entries: &[&Entry]) -> Result<Vec<i64>, sqlx::Error> {
    let moves: Vec<_> = entries.iter().filter_map(|e| e.changes.as_ref().and_then(|c| c.order.as_ref())).collect();
    if moves.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "with want as (
             select * from unnest($1::bigint[], $2::int[], $3::text[], $4::timestamptz[], $5::text[], $6::timestamptz[])
                 as w(id, expected, status, deadline, hold_reason, hold_ends_at)
         ), moved as (
             update customer_order o
             set version = w.expected + 1, status = w.status::order_status, deadline = w.deadline,
                 hold_reason = w.hold_reason, hold_ends_at = w.hold_ends_at
             from want w where o.id = w.id and o.version = w.expected
             returning o.id
         )
         select id from want where id not in (select id from moved)",
    )
    .bind(column(&moves, |moved| moved.order_id.0))
    .bind(column(&moves, |moved| moved.expected))
    .bind(column(&moves, |moved| moved.status.as_str()))
    .bind(column(&moves, |moved| moved.deadline))
    .bind(column(&moves, |moved| moved.hold_reason.as_deref()))
    .bind(column(&moves, |moved| moved.hold_ends_at))
    .fetch_all(conn)
    .await
}

pub(super) async fn events(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.events.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into order_event (order_id, seq, kind, data, who, at)
         select order_id, seq, kind, data::jsonb, who, at
         from unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
             as w(order_id, seq, kind, data, who, at)",
    )
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.seq))
    .bind(column(&rows, |(_, row)| row.kind))
    .bind(column(&rows, |(_, row)| row.data.to_string()))
    .bind(column(&rows, |(entry, _)| entry.who.as_str()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}
