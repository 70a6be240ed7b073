//! Moves of stock beside new reservations: every statement writes ledger rows, and the counters follow from those.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{column, read_counters, stock_by_moves};
use crate::{
    domain::{
        Counters, SkuId,
        change::{Adjustment, Changes},
    },
    store::entry::Entry,
};

/// Reservations that give units to a new one of the same line. One part may give to several in one decision.
pub(super) async fn splits(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(_, c)| c.splits.iter()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "with want as materialized (
             select * from unnest($1::bigint[], $2::int[], $3::int[], $4::bigint[]) as w(order_id, part, new_part, quantity)
         ), givers as materialized (
             select order_id, part, sum(quantity)::bigint as quantity from want group by order_id, part
         ), given as (
             update reservation r set quantity = r.quantity - g.quantity
             from givers g where r.order_id = g.order_id and r.part = g.part
             returning r.*
         ), split as (
             insert into reservation
                 (order_id, part, line, sku_id, quantity, unit_price_minor, state, split_of, sale_id, customer)
             select g.order_id, w.new_part, g.line, g.sku_id, w.quantity, g.unit_price_minor, g.state,
                 coalesce(g.split_of, g.part), g.sale_id, g.customer
             from want w join given g using (order_id, part)
             returning 1
         )
         select 1 / ((select count(*) from split) = (select count(*) from want))::int as every_part_was_there",
    )
    .bind(column(&rows, |row| row.order_id.0))
    .bind(column(&rows, |row| row.part))
    .bind(column(&rows, |row| row.new_part))
    .bind(column(&rows, |row| row.quantity))
    .execute(conn)
    .await?;
    Ok(())
}

/// Reservations that change state, the ledger rows that follow from what changed, and the counters that follow from those;
/// what was given back is given back to its sale and its customer's limit too.
pub(super) async fn parts(
    conn: &mut PgConnection,
    base: i64,
    changes: &[(&Entry, &Changes)],
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<i64, sqlx::Error> {
    let moves: Vec<_> = changes.iter().flat_map(|(e, c)| c.parts.iter().map(move |part| (*e, part))).collect();
    if moves.is_empty() {
        return Ok(base);
    }
    let row = sqlx::query(concat!(
        "with want as materialized (
             select * from unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
                 with ordinality as w(order_id, part, was, becomes, cause, who, at, n)
         ), changed as (
             update reservation r set state = w.becomes::reservation_state
             from want w
             where r.order_id = w.order_id and r.part = w.part and r.state = w.was::reservation_state
             returning r.order_id, r.sku_id, r.quantity, r.state, w.was, r.sale_id, r.customer, w.cause, w.who, w.at, w.n
         ), back as materialized (
             select sale_id, sku_id, customer, sum(quantity)::bigint as units from changed
             where sale_id is not null and state in ('released', 'expired') group by sale_id, sku_id, customer
         ), moved_in_sale as (
             update sale_sku q set sold = q.sold - m.back, unpaid = q.unpaid - m.unpaid
             from (
                 select sale_id, sku_id,
                     coalesce(sum(quantity) filter (where state in ('released', 'expired')), 0)::bigint as back,
                     coalesce(sum(quantity) filter (where was = 'held'), 0)::bigint as unpaid
                 from changed where sale_id is not null group by sale_id, sku_id
             ) m
             where q.sale_id = m.sale_id and q.sku_id = m.sku_id and m.back + m.unpaid > 0
         ), back_to_customer as (
             update limit_use u set used = u.used - b.units
             from back b where u.sale_id = b.sale_id and u.sku_id = b.sku_id and u.customer = b.customer
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
             select $8 + n, sku_id,
                 case state when 'shipped' then -quantity when 'restocked' then quantity else 0 end,
                 case when state in ('released', 'expired', 'shipped') then -quantity else 0 end,
                 cause::ledger_cause, order_id, who, at
             from changed
             returning sku_id, d_on_hand, d_reserved
         ), ",
        stock_by_moves!(
            "select sku_id, d_on_hand, d_reserved, 0 as d_unpaid from written
             union all select sku_id, 0, 0, -quantity from changed where was = 'held'"
        ),
        "
         select answer.*, 1 / ((select count(*) from changed) = (select count(*) from want))::int as every_part_was_there,
             1 / (cardinality(sku_ids) = (select count(*) from sums))::int as every_sku_was_there
         from answer"
    ))
    .bind(column(&moves, |(_, part)| part.order_id.0))
    .bind(column(&moves, |(_, part)| part.part))
    .bind(column(&moves, |(_, part)| part.from.as_str()))
    .bind(column(&moves, |(_, part)| part.to.as_str()))
    .bind(column(&moves, |(_, part)| part.cause.as_str()))
    .bind(column(&moves, |(entry, _)| entry.who.as_str()))
    .bind(column(&moves, |(entry, _)| entry.at))
    .bind(base)
    .fetch_one(conn)
    .await?;
    read_counters(&row, counters)?;
    Ok(base + moves.len() as i64)
}

/// SKUs whose stock begins. One that is open already is left as it is.
pub(super) async fn openings(
    conn: &mut PgConnection,
    base: i64,
    changes: &[(&Entry, &Changes)],
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<i64, sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.openings.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(base);
    }
    let row = sqlx::query(
        "with want as (
             -- one that is opened twice in a batch is opened by the first
             select distinct on (sku_id) * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[])
                 with ordinality as w(sku_id, on_hand, who, at, n)
             order by sku_id, n
         ), opened as (
             insert into stock (sku_id, on_hand) select sku_id, on_hand from want
             on conflict (sku_id) do nothing
             returning sku_id, on_hand, reserved, unpaid, version
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, who, at)
             select $5 + w.n, o.sku_id, o.on_hand, 0, 'open', w.who, w.at from opened o join want w using (sku_id)
         )
         select coalesce(array_agg(sku_id), '{}') as sku_ids, coalesce(array_agg(on_hand), '{}') as on_hands,
             coalesce(array_agg(reserved), '{}') as reserveds, coalesce(array_agg(unpaid), '{}') as unpaids,
             coalesce(array_agg(version), '{}') as versions
         from opened",
    )
    .bind(column(&rows, |(_, row)| row.sku_id.0))
    .bind(column(&rows, |(_, row)| row.on_hand))
    .bind(column(&rows, |(entry, _)| entry.who.as_str()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .bind(base)
    .fetch_one(conn)
    .await?;
    read_counters(&row, counters)?;
    Ok(base + rows.len() as i64)
}

/// The conditions on stock that do not hold, by their ids. The rows stay locked to the end of the transaction, so what is
/// decided here is true of what is committed; corrections of one SKU are looked at in the order in which they came, for
/// each changes what the next one finds. An entry with a condition is nothing but its corrections and its key, and none of
/// its rows is written yet.
pub(super) async fn unmet(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<Vec<i64>, sqlx::Error> {
    let asked: Vec<i64> = changes
        .iter()
        .flat_map(|(_, c)| c.adjustments.iter().filter(|row| row.only_if.is_some()))
        .map(|row| row.sku_id.0)
        .collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<(i64, i64)> =
        sqlx::query_as("select sku_id, on_hand from stock where sku_id = any($1) order by sku_id for update")
            .bind(asked)
            .fetch_all(conn)
            .await?;
    let mut on_hand: HashMap<i64, i64> = found.into_iter().collect();
    let mut unmet = Vec::new();
    for (_, change) in changes {
        let holds = |row: &&Adjustment| {
            row.only_if.is_none_or(|condition| on_hand.get(&row.sku_id.0) == Some(&condition.expected))
        };
        let failing = change.adjustments.iter().find(|row| !holds(row)).and_then(|row| row.only_if);
        if let Some(condition) = failing {
            unmet.push(condition.id);
            continue;
        }
        for row in &change.adjustments {
            on_hand.entry(row.sku_id.0).and_modify(|units| *units += row.delta);
        }
    }
    Ok(unmet)
}

/// Corrections of stock on hand.
pub(super) async fn adjustments(
    conn: &mut PgConnection,
    base: i64,
    changes: &[(&Entry, &Changes)],
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<i64, sqlx::Error> {
    let rows = changes.iter().flat_map(|(e, c)| c.adjustments.iter().map(move |row| (*e, row)));
    let rows: Vec<_> = rows.filter(|(_, row)| row.delta != 0).collect();
    if rows.is_empty() {
        return Ok(base);
    }
    let row = sqlx::query(concat!(
        "with want as materialized (
             select * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[])
                 with ordinality as w(sku_id, delta, note, who, at, n)
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, note, who, at)
             select $6 + n, sku_id, delta, 0, 'adjust', note, who, at from want
             returning sku_id, d_on_hand, d_reserved
         ), ",
        stock_by_moves!("select sku_id, d_on_hand, d_reserved, 0 as d_unpaid from written"),
        "
         select answer.*,
             1 / (cardinality(sku_ids) = (select count(*) from sums))::int as every_sku_was_there
         from answer"
    ))
    .bind(column(&rows, |(_, row)| row.sku_id.0))
    .bind(column(&rows, |(_, row)| row.delta))
    .bind(column(&rows, |(_, row)| row.note.as_str()))
    .bind(column(&rows, |(entry, _)| entry.who.as_str()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .bind(base)
    .fetch_one(conn)
    .await?;
    read_counters(&row, counters)?;
    Ok(base + rows.len() as i64)
}
