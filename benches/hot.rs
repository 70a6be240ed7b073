//! One hot SKU, in process.

use std::{sync::Arc, time::Duration};

use souk_actors::domain::SkuId;
use sqlx::postgres::PgConnectOptions;

use crate::{
    Outcome, Wanted,
    baselines::{self, Rows, Way},
    house::{self, House},
    load::{Measured, closed},
    table::{Beside, Table},
};

const CLIENTS: [usize; 3] = [1, 64, 1_024];
/// The engine's SKU, and the baselines': neither locks the other's row.
const OURS: SkuId = SkuId(1);
const THEIRS: SkuId = SkuId(2);

pub(crate) async fn reservations(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let connect = house.database("hot").await?;
    let limit = baselines::bulk(house, &fresh(house, "hot_bulk").await?, Rows::Reservation, 1, wanted.time()).await?;
    let engine = house::engine(&connect, 2).await?;
    for clients in CLIENTS {
        let reserved = Arc::clone(&engine);
        let ours = closed(house, clients, wanted.time(), move |_| house::reserve(Arc::clone(&reserved), OURS)).await;
        let (lock, statement) = theirs(house, &connect, Rows::Reservation, clients, wanted.time()).await?;
        let mut beside = vec![
            Beside::Times("row lock", lock.rate, (clients == 1_024).then_some(100.0)),
            Beside::Times("one statement each", statement.rate, None),
            Beside::Of("bulk insert, 1 connection", limit.rate, (clients == 1_024).then_some(80.0)),
        ];
        beside.extend(target(clients).map(Beside::Target));
        table.line(&format!("reservations, one SKU, clients: {clients}"), &ours, &beside);
    }
    table.line("  the bulk insert itself, 1 000 rows a batch", &limit, &[]);
    house::close(engine).await
}

fn target(clients: usize) -> Option<f64> {
    match clients {
        64 => Some(80_000.0),
        1_024 => Some(200_000.0),
        _ => None,
    }
}

pub(crate) async fn checkouts(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let connect = house.database("checkouts").await?;
    let limit =
        baselines::bulk(house, &fresh(house, "checkouts_bulk").await?, Rows::Checkout, 1, wanted.time()).await?;
    let engine = house::engine(&connect, 2).await?;
    for clients in CLIENTS {
        let placed = Arc::clone(&engine);
        let ours = closed(house, clients, wanted.time(), move |number| {
            house::checkout(Arc::clone(&placed), OURS, clients as u64 * 1_000_000_000 + number)
        })
        .await;
        let (lock, statement) = theirs(house, &connect, Rows::Checkout, clients, wanted.time()).await?;
        let beside = [
            Beside::Times("row lock", lock.rate, None),
            Beside::Times("one statement each", statement.rate, None),
            Beside::Of("bulk insert, 1 connection", limit.rate, None),
        ];
        table.line(&format!("whole checkouts, one SKU, clients: {clients}"), &ours, &beside);
    }
    table.line("  the bulk insert itself, 1 000 rows a batch", &limit, &[]);
    house::close(engine).await
}

async fn fresh(house: &House, name: &str) -> Outcome<PgConnectOptions> {
    let connect = house.database(name).await?;
    house::close(house::engine(&connect, 2).await?).await?;
    Ok(connect)
}

async fn theirs(
    house: &House,
    connect: &PgConnectOptions,
    rows: Rows,
    clients: usize,
    time: Duration,
) -> Outcome<(Measured, Measured)> {
    let lock = baselines::one_by_one(house, connect, Way::RowLock, rows, (clients, time), |_| THEIRS).await?;
    let statement = baselines::one_by_one(house, connect, Way::Statement, rows, (clients, time), |_| THEIRS).await?;
    Ok((lock, statement))
}
