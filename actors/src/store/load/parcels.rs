//! An order's shipments and returns, and whose parcel a carrier speaks of.

use sqlx::{PgPool, Row, postgres::PgRow, types::Json};

use super::{odd, word};
use crate::{
    domain::{Money, OrderId, Return, ReturnId, ReturnLine, Shipment, ShipmentId, ShipmentLine, Tracking},
    ports::{LabelFile, ParcelLocator},
};

/// An order's shipments, oldest first.
pub(crate) async fn shipments(pool: &PgPool, order_id: OrderId) -> Result<Vec<Shipment>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, state::text, service, parcel, customs, waits, label_id, carrier, tracking_number, tracking_url, file_url,
             cost_minor, cost_currency, error, doubt_until, created_at, bought_at, left_at, news_at, check_at, checks
         from shipment where order_id = $1 order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let mut shipments = Vec::with_capacity(rows.len());
    for row in &rows {
        let id: ShipmentId = row.try_get("id")?;
        shipments.push(Shipment {
            lines: shipment_lines(pool, id).await?,
            facts: tracking(pool, id).await?,
            ..shipment(row, id)?
        });
    }
    Ok(shipments)
}

fn shipment(row: &PgRow, id: ShipmentId) -> Result<Shipment, sqlx::Error> {
    let cost = row
        .try_get::<Option<i64>, _>("cost_minor")?
        .zip(row.try_get::<Option<String>, _>("cost_currency")?)
        .map(|(minor, currency)| Ok::<_, sqlx::Error>(Money::new(minor, currency.parse().map_err(odd)?)))
        .transpose()?;
    Ok(Shipment {
        id,
        state: word(row, "state")?,
        lines: Vec::new(),
        service: row.try_get::<Json<_>, _>("service")?.0,
        parcel: row.try_get::<Json<_>, _>("parcel")?.0,
        customs: row.try_get::<Option<Json<_>>, _>("customs")?.map(|customs| customs.0),
        waits: row.try_get("waits")?,
        label_id: row.try_get("label_id")?,
        carrier: row.try_get("carrier")?,
        tracking_number: row.try_get("tracking_number")?,
        tracking_url: row.try_get("tracking_url")?,
        file_url: row.try_get("file_url")?,
        cost,
        error: row.try_get("error")?,
        doubt_until: row.try_get("doubt_until")?,
        created_at: row.try_get("created_at")?,
        bought_at: row.try_get("bought_at")?,
        left_at: row.try_get("left_at")?,
        news_at: row.try_get("news_at")?,
        check_at: row.try_get("check_at")?,
        checks: row.try_get("checks")?,
        facts: Vec::new(),
    })
}

async fn shipment_lines(pool: &PgPool, shipment_id: ShipmentId) -> Result<Vec<ShipmentLine>, sqlx::Error> {
    let rows = sqlx::query("select line, sku_id, quantity from shipment_line where shipment_id = $1 order by line")
        .bind(shipment_id)
        .fetch_all(pool)
        .await?;
    let read = |row: &PgRow| {
        Ok(ShipmentLine {
            line: row.try_get("line")?,
            sku_id: row.try_get("sku_id")?,
            quantity: row.try_get("quantity")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn tracking(pool: &PgPool, shipment_id: ShipmentId) -> Result<Vec<Tracking>, sqlx::Error> {
    let rows = sqlx::query(
        "select status, nullif(substatus, '') as substatus, details, at from tracking_fact where shipment_id = $1 order by at",
    )
    .bind(shipment_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Tracking {
            status: word(row, "status")?,
            substatus: row.try_get("substatus")?,
            details: row.try_get("details")?,
            at: row.try_get("at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// An order's returns, oldest first.
pub(crate) async fn returns(pool: &PgPool, order_id: OrderId) -> Result<Vec<Return>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, state::text, note, shipment_id, created_at, refund_command from goods_return where order_id = $1 order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let mut returns = Vec::with_capacity(rows.len());
    for row in &rows {
        let id: ReturnId = row.try_get("id")?;
        returns.push(Return {
            id,
            state: word(row, "state")?,
            lines: return_lines(pool, id).await?,
            note: row.try_get("note")?,
            refund_command: row.try_get("refund_command")?,
            shipment_id: row.try_get("shipment_id")?,
            created_at: row.try_get("created_at")?,
        });
    }
    Ok(returns)
}

async fn return_lines(pool: &PgPool, return_id: ReturnId) -> Result<Vec<ReturnLine>, sqlx::Error> {
    let rows = sqlx::query(
        "select line, sku_id, quantity, reason, received, restocked, quarantined, scrapped from return_line
         where return_id = $1 order by line",
    )
    .bind(return_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(ReturnLine {
            line: row.try_get("line")?,
            sku_id: row.try_get("sku_id")?,
            quantity: row.try_get("quantity")?,
            reason: row.try_get("reason")?,
            received: row.try_get("received")?,
            restocked: row.try_get("restocked")?,
            quarantined: row.try_get("quarantined")?,
            scrapped: row.try_get("scrapped")?,
        })
    };
    rows.iter().map(read).collect()
}

/// A parcel that a carrier speaks of, as far as it is known.
#[derive(Debug)]
pub(crate) struct Located {
    pub order_id: OrderId,
    pub shipment_id: ShipmentId,
    pub label_id: Option<String>,
    pub carrier: Option<String>,
    pub tracking_number: Option<String>,
}

/// The shipment that a webhook speaks of, by the best of its names. Numbers are used again: of several parcels with one
/// number it is the newest.
pub(crate) async fn locate_parcel(
    pool: &PgPool,
    provider: &str,
    names: &ParcelLocator,
) -> Result<Option<Located>, sqlx::Error> {
    let shipment_id = names.shipment_id.as_deref().and_then(|text| text.parse::<ShipmentId>().ok());
    let row = sqlx::query(
        "select order_id, id, label_id, carrier, tracking_number from shipment
         where service ->> 'provider' = $1 and (
             label_id = $2 or id = $3 or tracking_number = $4 and ($5::text is null or carrier = $5))
         order by coalesce(label_id = $2, false) desc, (id is not distinct from $3) desc, id desc limit 1",
    )
    .bind(provider)
    .bind(names.label_id.as_deref())
    .bind(shipment_id)
    .bind(names.tracking_number.as_deref())
    .bind(names.carrier.as_deref())
    .fetch_optional(pool)
    .await?;
    let read = |row: PgRow| {
        Ok(Located {
            order_id: row.try_get("order_id")?,
            shipment_id: row.try_get("id")?,
            label_id: row.try_get("label_id")?,
            carrier: row.try_get("carrier")?,
            tracking_number: row.try_get("tracking_number")?,
        })
    };
    row.map(read).transpose()
}

/// The order of a return, if there is such a return.
pub(crate) async fn order_of_return(pool: &PgPool, return_id: ReturnId) -> Result<Option<OrderId>, sqlx::Error> {
    sqlx::query_scalar("select order_id from goods_return where id = $1").bind(return_id).fetch_optional(pool).await
}

/// A label's file, if it is here.
pub(crate) async fn label_file(
    pool: &PgPool,
    order_id: OrderId,
    shipment_id: ShipmentId,
) -> Result<Option<LabelFile>, sqlx::Error> {
    let row = sqlx::query(
        "select content_type, bytes from label_file join shipment on id = shipment_id where id = $1 and order_id = $2",
    )
    .bind(shipment_id)
    .bind(order_id)
    .fetch_optional(pool)
    .await?;
    let read = |row: PgRow| Ok(LabelFile { content_type: row.try_get("content_type")?, bytes: row.try_get("bytes")? });
    row.map(read).transpose()
}

/// Returns of all orders, newest first, those before `before` where it is given, of one state where it is given.
pub(crate) async fn list_returns(
    pool: &PgPool,
    before: Option<ReturnId>,
    state: Option<&str>,
    most: i64,
) -> Result<Vec<(OrderId, ReturnId)>, sqlx::Error> {
    sqlx::query_as(
        "select order_id, id from goods_return
         where ($1::bigint is null or id < $1) and ($2::text is null or state = $2::return_state)
         order by id desc limit $3",
    )
    .bind(before)
    .bind(state)
    .bind(most)
    .fetch_all(pool)
    .await
}
