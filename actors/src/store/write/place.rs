//! New orders with their keys, and new reservations of any order: the hot statement.

use sqlx::{PgConnection, Row};

use super::{Fence, WriteError, Written, column, read_counters, stock_by_ledger};
use crate::store::entry::Entry;

/// `$1` epoch, `$2` seq; then keys, orders and lines. The fence comes first and everything selects from it.
macro_rules! place_sql {
    ($fence:literal) => {
        concat!(
            "with fence as (", $fence, "),
         want_key as (
             select k.* from fence, unnest($3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[], $8::timestamptz[])
                 as k(principal, key, route, fingerprint, ref_id, at)
         ), kept as (
             insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             select principal, key, route, fingerprint, ref_id, at from want_key
             on conflict (principal, key) do nothing
             returning ref_id
         ), dead as materialized (
             select ref_id from want_key except select ref_id from kept
         ), placed as (
             insert into customer_order
                 (id, version, status, email, address, currency, total_minor, deadline, created_at, shipping_minor, shipping)
             select o.id, 1, o.status::order_status, o.email, o.address::jsonb, o.currency, o.total_minor, o.deadline, o.at,
                 o.shipping_minor, o.shipping::jsonb
             from fence, unnest($9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[],
                 $15::timestamptz[], $16::timestamptz[], $17::bigint[], $18::text[])
                 as o(id, status, email, address, currency, total_minor, deadline, at, shipping_minor, shipping)
             where o.id not in (select ref_id from dead)
         ), want_line as materialized (
             select l.* from fence, unnest($19::bigint[], $20::int[], $21::int[], $22::bigint[], $23::bigint[], $24::bigint[],
                 $25::text[], $26::text[], $27::timestamptz[])
                 with ordinality as l(order_id, part, line, sku_id, quantity, unit_price_minor, state, who, at, n)
             where l.order_id not in (select ref_id from dead)
         ), reserved as (
             insert into reservation (order_id, part, line, sku_id, quantity, unit_price_minor, state)
             select order_id, part, line, sku_id, quantity, unit_price_minor, state::reservation_state from want_line
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
             select $28 + n, sku_id, 0, quantity, 'reserve', order_id, who, at from want_line
             returning sku_id, d_on_hand, d_reserved
         ), ",
            stock_by_ledger!(
                "select sku_id, d_on_hand, d_reserved, d_reserved as d_unpaid from written
                 union all select sku_id, 0, 0, -quantity from want_line where state <> 'held'"
            ),
            "
         select answer.*, (select seq from fence) as seq, array(select ref_id from dead) as dead,
             1 / (cardinality(sku_ids) = (select count(*) from sums))::int as every_sku_was_there
         from answer"
        )
    };
}

pub(super) const ALONE: &str =
    place_sql!("update journal set seq = seq + 1 where id = 1 and epoch = $1 and seq = $2 returning seq");
/// Inside a transaction the fence has been raised already.
pub(super) const WITHIN: &str = place_sql!("select seq from journal where id = 1 and epoch = $1 and seq = $2 + 1");

/// New orders with their keys, and new reservations of any order.
pub(super) async fn place(
    conn: &mut PgConnection,
    sql: &'static str,
    fence: Fence,
    base: i64,
    entries: &[&Entry],
) -> Result<Written, WriteError> {
    let orders: Vec<_> = entries.iter().filter_map(|e| e.place.as_deref().map(|order| (*e, order))).collect();
    let keys: Vec<_> = orders.iter().filter_map(|(e, _)| e.key.as_ref().map(|key| (*e, key))).collect();
    let lines: Vec<_> = entries.iter().flat_map(|e| e.lines.iter().map(move |line| (*e, line))).collect();
    if sql == WITHIN && orders.is_empty() && lines.is_empty() {
        return Ok(Written::default());
    }
    let row = sqlx::query(sql)
        .bind(fence.epoch)
        .bind(fence.seq)
        .bind(column(&keys, |(_, key)| key.principal.as_str()))
        .bind(column(&keys, |(_, key)| key.key.as_str()))
        .bind(column(&keys, |(_, key)| key.route))
        .bind(column(&keys, |(_, key)| key.fingerprint.as_slice()))
        .bind(column(&keys, |(_, key)| key.ref_id))
        .bind(column(&keys, |(entry, _)| entry.at))
        .bind(column(&orders, |(_, order)| order.order_id.0))
        .bind(column(&orders, |(_, order)| order.status.as_str()))
        .bind(column(&orders, |(_, order)| order.email.as_str()))
        .bind(column(&orders, |(_, order)| order.address.as_str()))
        .bind(column(&orders, |(_, order)| order.currency.as_str()))
        .bind(column(&orders, |(_, order)| order.total_minor))
        .bind(column(&orders, |(_, order)| order.deadline))
        .bind(column(&orders, |(entry, _)| entry.at))
        .bind(column(&orders, |(_, order)| order.shipping_minor))
        .bind(column(&orders, |(_, order)| order.shipping.as_deref()))
        .bind(column(&lines, |(_, line)| line.order_id.0))
        .bind(column(&lines, |(_, line)| line.part))
        .bind(column(&lines, |(_, line)| line.line))
        .bind(column(&lines, |(_, line)| line.hold.sku_id().0))
        .bind(column(&lines, |(_, line)| line.hold.units()))
        .bind(column(&lines, |(_, line)| line.unit_price_minor))
        .bind(column(&lines, |(_, line)| line.state.as_str()))
        .bind(column(&lines, |(entry, _)| entry.who.as_str()))
        .bind(column(&lines, |(entry, _)| entry.at))
        .bind(base)
        .fetch_one(conn)
        .await?;
    if row.try_get::<Option<i64>, _>("seq")?.is_none() {
        return Err(WriteError::Fenced);
    }
    let mut written = Written { conflicts: row.try_get("dead")?, ..Written::default() };
    read_counters(&row, &mut written.counters)?;
    Ok(written)
}
