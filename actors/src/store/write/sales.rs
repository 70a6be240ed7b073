//! Sales that are made and changed, and the second look where one had no room for a checkout after all.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::column;
use crate::{
    domain::{Customer, Sale, SaleId, SaleShare, SkuId, change::Changes},
    shelf::Hold,
    store::entry::{Entry, Line},
};

/// Whether Postgres may have refused a batch because a sale in it had no room.
pub(super) fn may_have_no_room(error: &sqlx::Error) -> bool {
    const CONSTRAINTS: [&str; 2] = ["sale_sku_sold_within_quantity", "limit_use_within_cap"];
    let Some(error) = error.as_database_error() else { return false };
    let named = error.constraint().is_some_and(|name| CONSTRAINTS.contains(&name));
    named || error.code().is_some_and(|code| code == "22012") // a sale that was not running: see `place`
}

/// The terms of a sale's SKU, what is left of it, and of its customers' limits, while a batch is looked through.
struct Room {
    version: i32,
    left: i64,
    during: (DateTime<Utc>, DateTime<Utc>),
    cap: Option<i64>,
    used: HashMap<Customer, i64>,
}

impl Room {
    fn has(&self, at: DateTime<Utc>, hold: &Hold, customer: Option<Customer>) -> bool {
        let (from, to) = self.during;
        let units = hold.units();
        let on_these_terms = hold.sale().is_some_and(|sale| sale.version == self.version);
        let used = customer.and_then(|customer| self.used.get(&customer)).copied().unwrap_or(0);
        on_these_terms && from <= at && at < to && units <= self.left && self.cap.is_none_or(|cap| used + units <= cap)
    }

    fn take(&mut self, units: i64, customer: Option<Customer>) {
        self.left -= units;
        if let Some(customer) = customer {
            *self.used.entry(customer).or_default() += units;
        }
    }
}

/// The entries of a batch that their sales have no room for, by their `look_id`s: the first come are served. The SKU's actor
/// has decided before, so this finds something only where a sale changed, began or ended meanwhile. Lines of orders that are
/// there already come first: the order's row moves with them, before a checkout is looked at.
pub(super) async fn without_room(conn: &mut PgConnection, entries: &[&Entry]) -> Result<Vec<i64>, sqlx::Error> {
    let mut of_sales: Vec<&Entry> = entries.iter().copied().filter(|entry| entry.is_of_a_sale()).collect();
    if of_sales.is_empty() {
        return Ok(Vec::new());
    }
    of_sales.sort_by_key(|entry| entry.place.is_some());
    let mut rooms = rooms(conn, &of_sales).await?;
    let mut without = Vec::new();
    for entry in of_sales {
        let shares = || entry.lines.iter().filter_map(|line| Some((line, line.hold.share()?)));
        let fits = |(line, share): (&Line, SaleShare)| {
            let room = rooms.get(&(share.sale_id, line.hold.sku_id()));
            room.is_some_and(|room| room.has(entry.at, &line.hold, share.customer))
        };
        if !shares().all(fits) {
            without.push(entry.look_id);
            continue;
        }
        for (line, share) in shares() {
            if let Some(room) = rooms.get_mut(&(share.sale_id, line.hold.sku_id())) {
                room.take(line.hold.units(), share.customer);
            }
        }
    }
    Ok(without)
}

async fn rooms(conn: &mut PgConnection, entries: &[&Entry]) -> Result<HashMap<(SaleId, SkuId), Room>, sqlx::Error> {
    type Row = (SaleId, SkuId, i32, i64, Option<DateTime<Utc>>, Option<DateTime<Utc>>, Option<i64>);
    let lines = entries.iter().flat_map(|entry| &entry.lines);
    let shares: Vec<(SkuId, SaleShare)> =
        lines.filter_map(|line| Some((line.hold.sku_id(), line.hold.share()?))).collect();
    let sale_ids = column(&shares, |(_, share)| share.sale_id.0);
    let rows: Vec<Row> = sqlx::query_as(
        "select q.sale_id, q.sku_id, s.version, q.quantity - q.sold, lower(q.during), upper(q.during), s.per_customer
         from sale_sku q join sale s on s.id = q.sale_id where q.sale_id = any($1)",
    )
    .bind(&sale_ids)
    .fetch_all(&mut *conn)
    .await?;
    let room = |(sale_id, sku_id, version, left, from, to, cap): Row| {
        let during = from.zip(to)?; // one that was called off has none
        Some(((sale_id, sku_id), Room { version, left, during, cap, used: HashMap::new() }))
    };
    let mut rooms: HashMap<(SaleId, SkuId), Room> = rows.into_iter().filter_map(room).collect();
    let used: Vec<(SaleId, SkuId, Vec<u8>, i64)> = sqlx::query_as(
        "select u.sale_id, u.sku_id, u.customer, u.used
         from (
             select distinct * from unnest($1::bigint[], $2::bigint[], $3::bytea[]) as w(sale_id, sku_id, customer)
         ) w
         join limit_use u on u.sale_id = w.sale_id and u.sku_id = w.sku_id and u.customer = w.customer
         where u.used > 0",
    )
    .bind(&sale_ids)
    .bind(column(&shares, |(sku_id, _)| sku_id.0))
    .bind(column(&shares, |(_, share)| Some(share.customer.as_ref()?.as_bytes())))
    .fetch_all(conn)
    .await?;
    for (sale_id, sku_id, customer, used) in used {
        if let Some((room, customer)) = rooms.get_mut(&(sale_id, sku_id)).zip(Customer::from_bytes(&customer)) {
            room.used.insert(customer, used);
        }
    }
    Ok(rooms)
}

/// Sales, inserted or brought up to date. Returns the conditions that do not hold: a sale that had moved on, that has sold
/// more than it is to have, or that has sold anything although the change was decided before it began. Few and seldom: some statements each.
pub(super) async fn sales(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<Vec<i64>, sqlx::Error> {
    let mut unmet = Vec::new();
    for (entry, row) in changes.iter().filter_map(|(entry, changes)| Some((entry, changes.sale.as_ref()?))) {
        if moved(conn, &row.sale, entry.at).await? {
            items(conn, &row.sale).await?;
        } else {
            unmet.push(row.condition_id);
        }
    }
    Ok(unmet)
}

async fn moved(conn: &mut PgConnection, sale: &Sale, at: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "insert into sale (id, version, name, starts_at, ends_at, per_customer, hold_seconds, waiting_room, cancelled_at,
             created_at)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
         where not exists (
             select from sale_sku q left join unnest($11::bigint[], $12::bigint[]) as w(sku_id, quantity) using (sku_id)
             where q.sale_id = $1 and q.sold > coalesce(w.quantity, 0))
         on conflict (id) do update
         set version = excluded.version, name = excluded.name, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
             per_customer = excluded.per_customer, hold_seconds = excluded.hold_seconds,
             waiting_room = excluded.waiting_room, cancelled_at = excluded.cancelled_at
         where sale.version = excluded.version - 1 and (
             sale.starts_at <= $13 or not exists (select from sale_sku where sale_id = $1 and sold > 0))",
    )
    .bind(sale.id)
    .bind(sale.version)
    .bind(&sale.name)
    .bind(sale.starts_at)
    .bind(sale.ends_at)
    .bind(sale.per_customer)
    .bind(sale.hold.map(|hold| i32::try_from(hold.num_seconds()).unwrap_or(i32::MAX)))
    .bind(sale.waiting_room)
    .bind(sale.cancelled_at)
    .bind(sale.created_at)
    .bind(column(&sale.items, |item| item.sku_id.0))
    .bind(column(&sale.items, |item| item.quantity))
    .bind(at)
    .execute(conn)
    .await?;
    Ok(moved.rows_affected() == 1)
}

async fn items(conn: &mut PgConnection, sale: &Sale) -> Result<(), sqlx::Error> {
    let sku_ids = column(&sale.items, |item| item.sku_id.0);
    sqlx::query(
        "with dropped as (delete from sale_sku where sale_id = $1 and sku_id <> all ($2))
         delete from sale_price where sale_id = $1",
    )
    .bind(sale.id)
    .bind(&sku_ids)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into sale_sku (sale_id, sku_id, position, quantity, exclusive, during)
         select $1, sku_id, n, quantity, exclusive,
             case when $5::timestamptz is null then tstzrange($6, $7) else 'empty'::tstzrange end
         from unnest($2::bigint[], $3::bigint[], $4::bool[]) with ordinality as w(sku_id, quantity, exclusive, n)
         on conflict (sale_id, sku_id) do update
         set position = excluded.position, quantity = excluded.quantity, exclusive = excluded.exclusive,
             during = excluded.during",
    )
    .bind(sale.id)
    .bind(&sku_ids)
    .bind(column(&sale.items, |item| item.quantity))
    .bind(column(&sale.items, |item| item.exclusive))
    .bind(sale.cancelled_at)
    .bind(sale.starts_at)
    .bind(sale.ends_at)
    .execute(&mut *conn)
    .await?;
    let prices: Vec<_> =
        sale.items.iter().flat_map(|item| item.prices.iter().map(|price| (item.sku_id, *price))).collect();
    sqlx::query(
        "insert into sale_price (sale_id, sku_id, currency, minor)
         select $1, sku_id, currency, minor from unnest($2::bigint[], $3::text[], $4::bigint[]) as w(sku_id, currency, minor)",
    )
    .bind(sale.id)
    .bind(column(&prices, |(sku_id, _)| sku_id.0))
    .bind(column(&prices, |(_, price)| price.currency.to_string()))
    .bind(column(&prices, |(_, price)| price.minor))
    .execute(conn)
    .await?;
    Ok(())
}
