//! New orders with their keys, and new reservations of any order: the hot statement.

use std::collections::HashSet;

use sqlx::{PgConnection, Row};

use super::{Fence, WriteError, Written, column, read_counters, stock_by_moves};
use crate::store::entry::{Entry, Key};

/// `$1` epoch, `$2` seq; then keys, orders and lines. The fence comes first and everything selects from it. What lines have in
/// a sale is in the statement only where there are such lines: the others pay nothing for it.
///
/// `unnest` stands in select lists, not in `from`: there Postgres would write every column to a store of its own first. Keys
/// are not looked for before they are written: one that was used fails the batch, and is found by a second look (see
/// [`used_before`]). The states that all but few rows have are spelt out, since a word that is cast is looked up in the
/// catalogue, row by row. Counters move by the lines themselves and not by the ledger rows that are made of each of them,
/// which would have to be kept and read once more.
macro_rules! place_sql {
    ($fence:literal $(, sales: $arrays:literal, $names:literal, $written:literal, $all_taken:literal)?) => {
        concat!(
            "with fence as (", $fence, "),
         kept as (
             insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             select unnest($3::text[]), unnest($4::text[]), unnest($5::text[]), unnest($6::bytea[]), unnest($7::bigint[]),
                 unnest($8::timestamptz[])
             from fence
         ), placed as (
             insert into customer_order
                 (id, version, status, email, address, currency, total_minor, deadline, created_at, shipping_minor, shipping)
             select id, 1,
                 case status when 'awaiting_payment' then 'awaiting_payment'::order_status else status::order_status end,
                 email, address, currency, total_minor, deadline, at, shipping_minor, shipping
             from (
                 select unnest($9::bigint[]) as id, unnest($10::text[]) as status, unnest($11::text[]) as email,
                     unnest($12::text[]) as address, unnest($13::text[]) as currency, unnest($14::bigint[]) as total_minor,
                     unnest($15::timestamptz[]) as deadline, unnest($16::timestamptz[]) as at,
                     unnest($17::bigint[]) as shipping_minor, unnest($18::text[]) as shipping
                 from fence
             ) o
         ), want_line as materialized (
             select unnest($19::bigint[]) as order_id, unnest($20::int[]) as part, unnest($21::int[]) as line,
                 unnest($22::bigint[]) as sku_id, unnest($23::bigint[]) as quantity,
                 unnest($24::bigint[]) as unit_price_minor, unnest($25::text[]) as state, unnest($26::text[]) as who,
                 unnest($27::timestamptz[]) as at, generate_series(1, cardinality($19::bigint[])) as n", $($arrays,)? "
             from fence
         ), reserved as (
             insert into reservation (order_id, part, line, sku_id, quantity, unit_price_minor, state", $($names,)? ")
             select order_id, part, line, sku_id, quantity, unit_price_minor,
                 case state when 'held' then 'held'::reservation_state else state::reservation_state end", $($names,)? "
             from want_line
         ), ", $($written,)? "
         written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
             select $28 + n, sku_id, 0, quantity, 'reserve', order_id, who, at from want_line
         ), ",
            stock_by_moves!(
                "select sku_id, 0 as d_on_hand, quantity as d_reserved,
                     case state when 'held' then quantity else 0 end as d_unpaid from want_line"
            ),
            "
         select answer.*, (select seq from fence) as seq,
             1 / (cardinality(sku_ids) = (select count(*) from sums))::int as every_sku_was_there", $($all_taken,)? "
         from answer"
        )
    };
}
/// The same with sales: a row a sale and SKU moves by the sum of its lines, if all of them lie in its window and were decided
/// on the sale as it is, and a row a customer where the sale has a limit. The constraints of both are the last word.
macro_rules! place_in_sales_sql {
    ($fence:literal) => {
        place_sql!(
            $fence,
            sales: ",
                 unnest($29::bigint[]) as sale_id, unnest($30::bytea[]) as customer,
                 unnest($31::int[]) as version",
            ", sale_id, customer",
            "want_share as materialized (
             select sale_id, sku_id, sum(quantity)::bigint as units,
                 coalesce(sum(quantity) filter (where state = 'held'), 0)::bigint as unpaid,
                 min(at) as first_at, max(at) as last_at, min(version) as oldest, max(version) as newest
             from want_line where sale_id is not null group by sale_id, sku_id
         ), taken as (
             update sale_sku q set sold = q.sold + w.units, unpaid = q.unpaid + w.unpaid
             from want_share w join sale s on s.id = w.sale_id and s.version = w.oldest and s.version = w.newest
             where q.sale_id = w.sale_id and q.sku_id = w.sku_id and q.during @> w.first_at and q.during @> w.last_at
             returning 1
         ), limited as (
             insert into limit_use (sale_id, sku_id, customer, used, cap)
             select l.sale_id, l.sku_id, l.customer, sum(l.quantity), min(s.per_customer)
             from want_line l join sale s on s.id = l.sale_id
             where l.customer is not null and s.per_customer is not null group by l.sale_id, l.sku_id, l.customer
             on conflict (sale_id, sku_id, customer) do update set used = limit_use.used + excluded.used, cap = excluded.cap
         ),",
            ", 1 / ((select count(*) from taken) = (select count(*) from want_share))::int as every_sale_was_running"
        )
    };
}

/// A statement alone is its own transaction; inside one the fence has been raised already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Alone,
    Within,
}

impl Place {
    fn sql(self, in_sales: bool) -> &'static str {
        match (self, in_sales) {
            (Self::Alone, false) => {
                place_sql!("update journal set seq = seq + 1 where id = 1 and epoch = $1 and seq = $2 returning seq")
            }
            (Self::Alone, true) => place_in_sales_sql!(
                "update journal set seq = seq + 1 where id = 1 and epoch = $1 and seq = $2 returning seq"
            ),
            (Self::Within, false) => {
                place_sql!("select seq from journal where id = 1 and epoch = $1 and seq = $2 + 1")
            }
            (Self::Within, true) => {
                place_in_sales_sql!("select seq from journal where id = 1 and epoch = $1 and seq = $2 + 1")
            }
        }
    }
}

/// New orders with their keys, and new reservations of any order.
pub(super) async fn place(
    conn: &mut PgConnection,
    place: Place,
    fence: Fence,
    base: i64,
    entries: &[&Entry],
) -> Result<Written, WriteError> {
    let (keys, twice) = first_uses(entries.iter().filter_map(|e| Some((*e, e.placing_key()?))));
    let conflicts: Vec<i64> = column(&twice, |(_, key)| key.ref_id);
    let live = || entries.iter().filter(|entry| entry.conflict(&conflicts).is_none());
    let orders: Vec<_> = live().filter_map(|e| e.place.as_deref().map(|order| (*e, order))).collect();
    let lines: Vec<_> = live().flat_map(|e| e.lines.iter().map(move |line| (*e, line))).collect();
    if place == Place::Within && orders.is_empty() && lines.is_empty() {
        return Ok(Written::default());
    }
    let in_sales = entries.iter().any(|entry| entry.is_of_a_sale());
    let question = sqlx::query(place.sql(in_sales))
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
        .bind(base);
    let question = if in_sales {
        let shares = column(&lines, |(_, line)| line.hold.share());
        question
            .bind(column(&shares, |share| share.map(|share| share.sale_id.0)))
            .bind(column(&shares, |share| Some(share.as_ref()?.customer.as_ref()?.as_bytes())))
            .bind(column(&lines, |(_, line)| line.hold.sale().map(|sale| sale.version)))
    } else {
        question
    };
    let row = question.fetch_one(conn).await?;
    if row.try_get::<Option<i64>, _>("seq")?.is_none() {
        return Err(WriteError::Fenced);
    }
    let mut written = Written { conflicts, ..Written::default() };
    read_counters(&row, &mut written.counters)?;
    Ok(written)
}

/// Whether Postgres may have refused a batch because a checkout in it used a key again.
pub(super) fn may_be_used_before(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.constraint() == Some("idempotency_pkey"))
}

/// The placements of a batch whose keys were used before, by their orders' ids. There is one writer, so nobody can use a key
/// between this look and the next try. The engine has looked before it began where it knew a key, so this finds something
/// only where a key is of an earlier life. It does not see a key that a command of the same batch writes: a batch like that is
/// cut in two until they are apart.
pub(super) async fn used_before(conn: &mut PgConnection, entries: &[Entry]) -> Result<Vec<i64>, sqlx::Error> {
    let keys: Vec<&Key> = entries.iter().filter_map(Entry::placing_key).collect();
    sqlx::query_scalar(
        "select ref_id from unnest($1::bigint[], $2::text[], $3::text[]) as w(ref_id, principal, key)
         where exists (select from idempotency i where i.principal = w.principal and i.key = w.key)",
    )
    .bind(column(&keys, |key| key.ref_id))
    .bind(column(&keys, |key| key.principal.as_str()))
    .bind(column(&keys, |key| key.key.as_str()))
    .fetch_all(conn)
    .await
}

type Keyed<'a> = (&'a Entry, &'a Key);

/// Of keys that a batch uses twice (a client that gave up and asked again) the first counts; the others are taken.
fn first_uses<'a>(keys: impl Iterator<Item = Keyed<'a>>) -> (Vec<Keyed<'a>>, Vec<Keyed<'a>>) {
    let mut used = HashSet::with_capacity(keys.size_hint().0);
    keys.partition(|(_, key)| used.insert((key.principal.as_str(), key.key.as_str())))
}
