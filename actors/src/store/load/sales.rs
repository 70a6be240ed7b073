//! Sales with what they sell, and what was sold of it.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgPool, Row, postgres::PgRow};

use super::odd;
use crate::{
    domain::{Customer, Money, Sale, SaleId, SaleItem, SkuId, Sold},
    shelf::Counted,
};

/// Which sales: all that every given one of these is true of.
#[derive(Debug, Default)]
pub(crate) struct Which {
    /// This one.
    pub id: Option<SaleId>,
    /// Coming or running at this moment.
    pub open_at: Option<DateTime<Utc>>,
    /// Numbered before this one.
    pub before: Option<SaleId>,
}

/// Sales, newest first, each with the units sold of its items, in their order.
pub(crate) async fn sales(pool: &PgPool, which: &Which, most: i64) -> Result<Vec<(Sale, Vec<i64>)>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, version, name, starts_at, ends_at, per_customer, hold_seconds, waiting_room, cancelled_at, created_at
         from sale
         where ($1::bigint is null or id = $1) and ($2::bigint is null or id < $2)
             and ($3::timestamptz is null or cancelled_at is null and ends_at > $3)
         order by id desc limit $4",
    )
    .bind(which.id)
    .bind(which.before)
    .bind(which.open_at)
    .bind(most)
    .fetch_all(pool)
    .await?;
    let mut sales = rows.iter().map(sale).collect::<Result<Vec<Sale>, _>>()?;
    let ids: Vec<i64> = sales.iter().map(|sale| sale.id.0).collect();
    let mut items = items(pool, &ids).await?;
    let with_items = |sale: &mut Sale| {
        let (items, sold) = items.remove(&sale.id).unwrap_or_default().into_iter().unzip();
        sale.items = items;
        sold
    };
    let sold: Vec<Vec<i64>> = sales.iter_mut().map(with_items).collect();
    Ok(sales.into_iter().zip(sold).collect())
}

fn sale(row: &PgRow) -> Result<Sale, sqlx::Error> {
    let hold_seconds: Option<i32> = row.try_get("hold_seconds")?;
    Ok(Sale {
        id: row.try_get("id")?,
        version: row.try_get("version")?,
        name: row.try_get("name")?,
        starts_at: row.try_get("starts_at")?,
        ends_at: row.try_get("ends_at")?,
        per_customer: row.try_get("per_customer")?,
        hold: hold_seconds.map(|seconds| TimeDelta::seconds(seconds.into())),
        waiting_room: row.try_get("waiting_room")?,
        cancelled_at: row.try_get("cancelled_at")?,
        created_at: row.try_get("created_at")?,
        items: Vec::new(),
    })
}

async fn items(pool: &PgPool, sale_ids: &[i64]) -> Result<HashMap<SaleId, Vec<(SaleItem, i64)>>, sqlx::Error> {
    let rows = sqlx::query(
        "select q.sale_id, q.sku_id, q.quantity, q.sold, q.exclusive,
             array_agg(p.currency order by p.currency) as currencies, array_agg(p.minor order by p.currency) as minors
         from sale_sku q join sale_price p using (sale_id, sku_id)
         where q.sale_id = any($1)
         group by q.sale_id, q.sku_id order by q.sale_id, q.position",
    )
    .bind(sale_ids)
    .fetch_all(pool)
    .await?;
    let mut items: HashMap<SaleId, Vec<(SaleItem, i64)>> = HashMap::new();
    for row in &rows {
        let currencies: Vec<String> = row.try_get("currencies")?;
        let minors: Vec<i64> = row.try_get("minors")?;
        let price = |(currency, minor): (&String, i64)| Ok(Money::new(minor, currency.parse().map_err(odd)?));
        let item = SaleItem {
            sku_id: row.try_get("sku_id")?,
            quantity: row.try_get("quantity")?,
            exclusive: row.try_get("exclusive")?,
            prices: currencies.iter().zip(minors).map(price).collect::<Result<_, sqlx::Error>>()?,
        };
        items.entry(row.try_get("sale_id")?).or_default().push((item, row.try_get("sold")?));
    }
    Ok(items)
}

/// Every sale that is coming or running.
pub(crate) async fn open(pool: &PgPool, now: DateTime<Utc>) -> Result<Vec<Sale>, sqlx::Error> {
    let found = sales(pool, &Which { open_at: Some(now), ..Which::default() }, i64::MAX).await?;
    Ok(found.into_iter().map(|(sale, _)| sale).collect())
}

/// What some sales have given of a SKU, and the version of its counters that this is true of: one statement, one snapshot.
pub(crate) async fn counted(
    pool: &PgPool,
    sku_id: SkuId,
    sale_ids: &[i64],
) -> Result<(i64, Vec<Counted>), sqlx::Error> {
    let rows = sqlx::query(
        "select s.version, q.sale_id, q.sold, q.unpaid, u.customers, u.used
         from stock s
         left join sale_sku q on q.sku_id = s.sku_id and q.sale_id = any($2)
         left join lateral (
             select array_agg(customer) as customers, array_agg(used) as used from limit_use
             where sale_id = q.sale_id and sku_id = q.sku_id and used > 0
         ) u on true
         where s.sku_id = $1",
    )
    .bind(sku_id)
    .bind(sale_ids)
    .fetch_all(pool)
    .await?;
    let as_of = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("version")?;
    let mut counted = Vec::with_capacity(rows.len());
    for row in &rows {
        let Some(sale_id) = row.try_get::<Option<SaleId>, _>("sale_id")? else { continue };
        let customers: Vec<Vec<u8>> = row.try_get::<Option<_>, _>("customers")?.unwrap_or_default();
        let used: Vec<i64> = row.try_get::<Option<_>, _>("used")?.unwrap_or_default();
        let customer = |bytes: &Vec<u8>| Customer::from_bytes(bytes).ok_or_else(|| odd("a customer of another length"));
        let customers = customers.iter().map(customer).collect::<Result<Vec<Customer>, _>>()?;
        let sold = Sold { units: row.try_get("sold")?, unpaid: row.try_get("unpaid")? };
        counted.push(Counted { sale_id, sold, used: customers.into_iter().zip(used).collect() });
    }
    Ok((as_of, counted))
}
