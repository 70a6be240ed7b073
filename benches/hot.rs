//! One hot SKU, in process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use souk_actors::domain::SkuId;
use sqlx::postgres::PgConnectOptions;

use crate::{
    Outcome, Wanted,
    baselines::{self, Rows, Way},
    house::{self, House},
    load::{Measured, by_turns, closed, slice},
    table::{Beside, Table},
};

const CLIENTS: [usize; 3] = [1, 64, 1_024];
/// The engine's SKU, and the baselines' in databases of their own: rows of others would split its indexes in the middle.
const HOT: SkuId = SkuId(1);

pub(crate) async fn reservations(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let engine = house::engine(&house.database("hot").await?, 1).await?;
    let (others, bulk) = (fresh(house, "hot_others").await?, fresh(house, "hot_bulk").await?);
    let time = slice(wanted.time());
    let mut limits = Vec::new();
    for clients in CLIENTS {
        let [ours, lock, statement, limit] = by_turns(async || {
            let reserved = Arc::clone(&engine);
            let ours = closed(house, clients, time, move |_| house::reserve(Arc::clone(&reserved), HOT)).await;
            let [lock, statement] = theirs(house, &others, Rows::Reservation, clients, time).await?;
            Ok([ours, lock, statement, baselines::bulk(house, &bulk, Rows::Reservation, 1, time).await?])
        })
        .await?;
        let mut beside = vec![
            Beside::Times("row lock", lock.rate(), (clients == 1_024).then_some(100.0)),
            Beside::Times("one statement each", statement.rate(), None),
            Beside::Of("bulk insert, 1 connection", limit.rate(), (clients == 1_024).then_some(80.0)),
        ];
        beside.extend(target(clients).map(Beside::Target));
        table.line(&format!("reservations, one SKU, clients: {clients}"), &ours, &beside);
        limits.push(limit);
    }
    the_limit(table, limits);
    house::close(engine).await
}

fn the_limit(table: &Table, limits: Vec<Measured>) {
    if let Some(limit) = limits.into_iter().reduce(|all, one| all.and(&one)) {
        table.line("  the bulk insert itself, 1 000 rows a batch", &limit, &[]);
    }
}

fn target(clients: usize) -> Option<f64> {
    match clients {
        64 => Some(80_000.0),
        1_024 => Some(200_000.0),
        _ => None,
    }
}

pub(crate) async fn checkouts(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let engine = house::engine(&house.database("checkouts").await?, 1).await?;
    let (others, bulk) = (fresh(house, "checkouts_others").await?, fresh(house, "checkouts_bulk").await?);
    let time = slice(wanted.time());
    let first = AtomicU64::new(0);
    let mut limits = Vec::new();
    for clients in CLIENTS {
        let [ours, lock, statement, limit] = by_turns(async || {
            let placed = Arc::clone(&engine);
            let first = first.fetch_add(1_000_000_000, Ordering::Relaxed);
            let checkout = move |number| house::checkout(Arc::clone(&placed), HOT, first + number);
            let ours = closed(house, clients, time, checkout).await;
            let [lock, statement] = theirs(house, &others, Rows::Checkout, clients, time).await?;
            Ok([ours, lock, statement, baselines::bulk(house, &bulk, Rows::Checkout, 1, time).await?])
        })
        .await?;
        let beside = [
            Beside::Times("row lock", lock.rate(), None),
            Beside::Times("one statement each", statement.rate(), None),
            Beside::Of("bulk insert, 1 connection", limit.rate(), None),
        ];
        table.line(&format!("whole checkouts, one SKU, clients: {clients}"), &ours, &beside);
        limits.push(limit);
    }
    the_limit(table, limits);
    house::close(engine).await
}

async fn fresh(house: &House, name: &str) -> Outcome<PgConnectOptions> {
    let connect = house.database(name).await?;
    house::close(house::engine(&connect, 1).await?).await?;
    Ok(connect)
}

async fn theirs(
    house: &House,
    connect: &PgConnectOptions,
    rows: Rows,
    clients: usize,
    time: Duration,
) -> Outcome<[Measured; 2]> {
    let lock = baselines::one_by_one(house, connect, Way::RowLock, rows, (clients, time), |_| HOT).await?;
    let statement = baselines::one_by_one(house, connect, Way::Statement, rows, (clients, time), |_| HOT).await?;
    Ok([lock, statement])
}
