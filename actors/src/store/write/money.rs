//! Attempts to pay, what providers said of them, and refunds.

use sqlx::PgConnection;

use super::column;
use crate::{domain::change::Changes, store::entry::Entry};

pub(super) async fn payments(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.payments.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into payment
             (id, order_id, provider, intent, provider_order_id, approve_url, state, check_at, checks, created_at)
         select id, order_id, provider, intent, provider_order_id, approve_url, state::payment_state, check_at, checks, at
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
             $8::timestamptz[], $9::int[], $10::timestamptz[])
             as w(id, order_id, provider, intent, provider_order_id, approve_url, state, check_at, checks, at)
         on conflict (id) do update
         set provider_order_id = excluded.provider_order_id, approve_url = excluded.approve_url, state = excluded.state,
             check_at = excluded.check_at, checks = excluded.checks",
    )
    .bind(column(&rows, |(_, row)| row.id.0))
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.provider.as_str()))
    .bind(column(&rows, |(_, row)| row.intent.as_str()))
    .bind(column(&rows, |(_, row)| row.announced.as_ref().map(|created| created.provider_order_id.as_str())))
    .bind(column(&rows, |(_, row)| row.announced.as_ref().map(|created| created.approve_url.as_str())))
    .bind(column(&rows, |(_, row)| row.state.as_str()))
    .bind(column(&rows, |(_, row)| row.check_at))
    .bind(column(&rows, |(_, row)| row.checks))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn facts(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.facts.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into payment_fact (payment_id, kind, object_id, status, at, amount_minor, currency, parent, seen_at)
         select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::text[],
             $8::text[], $9::timestamptz[])
         on conflict (payment_id, kind, object_id, status, at) do update
         set amount_minor = coalesce(payment_fact.amount_minor, excluded.amount_minor),
             currency = coalesce(payment_fact.currency, excluded.currency),
             parent = coalesce(payment_fact.parent, excluded.parent)",
    )
    .bind(column(&rows, |(_, (payment_id, _))| payment_id.0))
    .bind(column(&rows, |(_, (_, fact))| fact.kind.as_str()))
    .bind(column(&rows, |(_, (_, fact))| fact.object_id.as_str()))
    .bind(column(&rows, |(_, (_, fact))| fact.status.as_str()))
    .bind(column(&rows, |(_, (_, fact))| fact.at))
    .bind(column(&rows, |(_, (_, fact))| fact.amount.map(|amount| amount.minor)))
    .bind(column(&rows, |(_, (_, fact))| fact.amount.map(|amount| amount.currency.to_string())))
    .bind(column(&rows, |(_, (_, fact))| fact.parent.as_deref()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn refunds(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.refunds.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into refund
             (id, order_id, payment_id, capture_id, amount_minor, currency, kind, lines, reason, state, provider_refund_id,
              command_id, replaces, created_at)
         select id, order_id, payment_id, capture_id, amount_minor, currency, kind, lines::jsonb, reason,
             state::refund_state, provider_refund_id, command_id, replaces, at
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[],
             $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::timestamptz[])
             as w(id, order_id, payment_id, capture_id, amount_minor, currency, kind, lines, reason, state,
                 provider_refund_id, command_id, replaces, at)
         on conflict (id) do update
         set state = excluded.state, provider_refund_id = excluded.provider_refund_id",
    )
    .bind(column(&rows, |(_, row)| row.id.0))
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.payment_id.0))
    .bind(column(&rows, |(_, row)| row.capture_id.as_str()))
    .bind(column(&rows, |(_, row)| row.amount.minor))
    .bind(column(&rows, |(_, row)| row.amount.currency.to_string()))
    .bind(column(&rows, |(_, row)| row.kind.as_str()))
    .bind(column(&rows, |(_, row)| serde_json::json!(row.lines).to_string()))
    .bind(column(&rows, |(_, row)| row.reason.as_str()))
    .bind(column(&rows, |(_, row)| row.state.as_str()))
    .bind(column(&rows, |(_, row)| row.provider_refund_id.as_deref()))
    .bind(column(&rows, |(_, row)| row.command_id))
    .bind(column(&rows, |(_, row)| row.replaces.map(|refund_id| refund_id.0)))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}
