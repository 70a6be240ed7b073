//! Calls to providers, and webhooks that were dealt with.

use sqlx::PgConnection;

use super::column;
use crate::{domain::change::Changes, store::entry::Entry};

pub(super) async fn tasks(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.tasks.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into task
             (id, order_id, payment_id, refund_id, shipment_id, kind, amount_minor, state, attempts, due_at, last_error,
              created_at)
         select id, order_id, payment_id, refund_id, shipment_id, kind::task_kind, amount_minor, state::task_state, attempts,
             due_at, last_error, at
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
             $8::text[], $9::int[], $10::timestamptz[], $11::text[], $12::timestamptz[])
             as w(id, order_id, payment_id, refund_id, shipment_id, kind, amount_minor, state, attempts, due_at,
                 last_error, at)
         on conflict (id) do update
         set state = excluded.state, attempts = excluded.attempts, due_at = excluded.due_at,
             last_error = coalesce(excluded.last_error, task.last_error)",
    )
    .bind(column(&rows, |(_, row)| row.id.0))
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.about.payment_id().map(|id| id.0)))
    .bind(column(&rows, |(_, row)| row.about.refund_id().map(|id| id.0)))
    .bind(column(&rows, |(_, row)| row.about.shipment_id().map(|id| id.0)))
    .bind(column(&rows, |(_, row)| row.kind.as_str()))
    .bind(column(&rows, |(_, row)| row.amount.map(|amount| amount.minor)))
    .bind(column(&rows, |(_, row)| row.state.as_str()))
    .bind(column(&rows, |(_, row)| row.attempts))
    .bind(column(&rows, |(_, row)| row.due_at))
    .bind(column(&rows, |(_, row)| row.last_error.as_deref()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn inbox(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.inbox.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    // the first word stands. Were `processed_at is null` a condition, all that waits would be read to find these by their
    // ids: of `inbox_open` Postgres believes that hardly anything is in it
    sqlx::query(
        "update inbox i set processed_at = coalesce(i.processed_at, w.at), outcome = coalesce(i.outcome, w.outcome)
         from unnest($1::bigint[], $2::text[], $3::timestamptz[]) as w(id, outcome, at)
         where i.id = w.id",
    )
    .bind(column(&rows, |(_, row)| row.inbox_id))
    .bind(column(&rows, |(_, row)| row.outcome))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}
