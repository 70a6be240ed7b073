//! Shipments, what carriers say of them, and returns.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::column;
use crate::{
    domain::{ReturnLine, ShipmentId, ShipmentLine, change::Changes},
    ports::LabelFile,
    store::entry::Entry,
};

pub(super) async fn shipments(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(_, c)| c.shipments.iter()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into shipment
             (id, order_id, state, service, parcel, customs, waits, label_id, carrier, tracking_number, tracking_url, file_url,
              cost_minor, cost_currency, error, doubt_until, created_at, bought_at, left_at, news_at, check_at, checks)
         select id, order_id, state::shipment_state, service::jsonb, parcel::jsonb, customs::jsonb, waits, label_id, carrier,
             tracking_number, tracking_url, file_url, cost_minor, cost_currency, error, doubt_until, created_at, bought_at,
             left_at, news_at, check_at, checks
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
             $9::text[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::text[], $15::text[], $16::timestamptz[],
             $17::timestamptz[], $18::timestamptz[], $19::timestamptz[], $20::timestamptz[], $21::timestamptz[], $22::int[])
             as w(id, order_id, state, service, parcel, customs, waits, label_id, carrier, tracking_number, tracking_url,
                 file_url, cost_minor, cost_currency, error, doubt_until, created_at, bought_at, left_at, news_at, check_at,
                 checks)
         on conflict (id) do update
         set state = excluded.state, waits = excluded.waits, label_id = excluded.label_id, carrier = excluded.carrier,
             tracking_number = excluded.tracking_number, tracking_url = excluded.tracking_url,
             file_url = excluded.file_url, cost_minor = excluded.cost_minor, cost_currency = excluded.cost_currency,
             error = excluded.error, doubt_until = excluded.doubt_until, bought_at = excluded.bought_at,
             left_at = excluded.left_at, news_at = excluded.news_at, check_at = excluded.check_at, checks = excluded.checks",
    )
    .bind(column(&rows, |row| row.shipment.id.0))
    .bind(column(&rows, |row| row.order_id.0))
    .bind(column(&rows, |row| row.shipment.state.as_str()))
    .bind(column(&rows, |row| json(&row.shipment.service)))
    .bind(column(&rows, |row| json(&row.shipment.parcel)))
    .bind(column(&rows, |row| row.shipment.customs.as_ref().map(json)))
    .bind(column(&rows, |row| row.shipment.waits.as_deref()))
    .bind(column(&rows, |row| row.shipment.label_id.as_deref()))
    .bind(column(&rows, |row| row.shipment.carrier.as_deref()))
    .bind(column(&rows, |row| row.shipment.tracking_number.as_deref()))
    .bind(column(&rows, |row| row.shipment.tracking_url.as_deref()))
    .bind(column(&rows, |row| row.shipment.file_url.as_deref()))
    .bind(column(&rows, |row| row.shipment.cost.map(|cost| cost.minor)))
    .bind(column(&rows, |row| row.shipment.cost.map(|cost| cost.currency.to_string())))
    .bind(column(&rows, |row| row.shipment.error.as_deref()))
    .bind(column(&rows, |row| row.shipment.doubt_until))
    .bind(column(&rows, |row| row.shipment.created_at))
    .bind(column(&rows, |row| row.shipment.bought_at))
    .bind(column(&rows, |row| row.shipment.left_at))
    .bind(column(&rows, |row| row.shipment.news_at))
    .bind(column(&rows, |row| row.shipment.check_at))
    .bind(column(&rows, |row| row.shipment.checks))
    .execute(&mut *conn)
    .await?;
    let lines: Vec<(ShipmentId, &ShipmentLine)> =
        rows.iter().flat_map(|row| row.shipment.lines.iter().map(|line| (row.shipment.id, line))).collect();
    shipment_lines(conn, &lines).await
}

/// A shipment's lines are written with it and never change.
async fn shipment_lines(conn: &mut PgConnection, lines: &[(ShipmentId, &ShipmentLine)]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into shipment_line (shipment_id, line, sku_id, quantity)
         select * from unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[])
         on conflict (shipment_id, line) do nothing",
    )
    .bind(column(lines, |(shipment_id, _)| shipment_id.0))
    .bind(column(lines, |(_, line)| line.line))
    .bind(column(lines, |(_, line)| line.sku_id.0))
    .bind(column(lines, |(_, line)| line.quantity))
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn tracking(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.tracking.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into tracking_fact (shipment_id, status, substatus, at, details, seen_at)
         select * from unnest($1::bigint[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::timestamptz[])
         on conflict do nothing",
    )
    .bind(column(&rows, |(_, (shipment_id, _))| shipment_id.0))
    .bind(column(&rows, |(_, (_, fact))| fact.status.as_str()))
    .bind(column(&rows, |(_, (_, fact))| fact.substatus.as_deref().unwrap_or_default()))
    .bind(column(&rows, |(_, (_, fact))| fact.at))
    .bind(column(&rows, |(_, (_, fact))| fact.details.as_str()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn returns(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(_, c)| c.returns.iter()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into goods_return (id, order_id, state, note, shipment_id, created_at, refund_command)
         select id, order_id, state::return_state, note, shipment_id, created_at, refund_command
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::bigint[])
             as w(id, order_id, state, note, shipment_id, created_at, refund_command)
         on conflict (id) do update set state = excluded.state, refund_command = excluded.refund_command",
    )
    .bind(column(&rows, |row| row.goods.id.0))
    .bind(column(&rows, |row| row.order_id.0))
    .bind(column(&rows, |row| row.goods.state.as_str()))
    .bind(column(&rows, |row| row.goods.note.as_deref()))
    .bind(column(&rows, |row| row.goods.shipment_id.map(|id| id.0)))
    .bind(column(&rows, |row| row.goods.created_at))
    .bind(column(&rows, |row| row.goods.refund_command))
    .execute(&mut *conn)
    .await?;
    let lines: Vec<(i64, &ReturnLine)> =
        rows.iter().flat_map(|row| row.goods.lines.iter().map(|line| (row.goods.id.0, line))).collect();
    return_lines(conn, &lines).await
}

async fn return_lines(conn: &mut PgConnection, lines: &[(i64, &ReturnLine)]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into return_line (return_id, line, sku_id, quantity, reason, received, restocked, quarantined, scrapped)
         select * from unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
             $8::bigint[], $9::bigint[])
         on conflict (return_id, line) do update
         set received = excluded.received, restocked = excluded.restocked, quarantined = excluded.quarantined,
             scrapped = excluded.scrapped",
    )
    .bind(column(lines, |(return_id, _)| *return_id))
    .bind(column(lines, |(_, line)| line.line))
    .bind(column(lines, |(_, line)| line.sku_id.0))
    .bind(column(lines, |(_, line)| line.quantity))
    .bind(column(lines, |(_, line)| line.reason.as_str()))
    .bind(column(lines, |(_, line)| line.received))
    .bind(column(lines, |(_, line)| line.restocked))
    .bind(column(lines, |(_, line)| line.quarantined))
    .bind(column(lines, |(_, line)| line.scrapped))
    .execute(conn)
    .await?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("these types have no map with other keys than strings")
}

/// Keeps a label's file, outside the journal: it is large, and nobody decides by it. The first one stays.
pub(crate) async fn keep_file(
    pool: &PgPool,
    shipment_id: ShipmentId,
    file: &LabelFile,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into label_file (shipment_id, content_type, bytes, kept_at) values ($1, $2, $3, $4) on conflict do nothing",
    )
    .bind(shipment_id)
    .bind(&file.content_type)
    .bind(&file.bytes)
    .bind(now)
    .execute(pool)
    .await?;
    Ok(())
}
