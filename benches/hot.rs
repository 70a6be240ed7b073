//! One hot SKU, in process.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use souk_actors::{Engine, domain::SkuId};

use crate::{
    Outcome, Wanted,
    baselines::{self, Rows, Way},
    house::{self, House},
    load::{Measured, by_turns, closed, slice},
    table::{Beside, Table, thousands},
};

const CLIENTS: [usize; 3] = [1, 64, 1_024];
/// The clients that the targets beside others are for.
const CROWD: usize = 1_024;
const HOT: SkuId = SkuId(1);

pub(crate) async fn reservations(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let reserve = |engine, _| house::reserve(engine, HOT);
    run(house, table, wanted, ("hot", "reservations", Rows::Reservation), reserve).await
}

pub(crate) async fn checkouts(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let checkout = |engine, number| house::checkout(engine, HOT, number);
    run(house, table, wanted, ("checkouts", "whole checkouts", Rows::Checkout), checkout).await
}

/// Ours and theirs by turns, each on a database of its own.
async fn run<F>(
    house: &House,
    table: &Table,
    wanted: Wanted,
    (name, what, rows): (&str, &str, Rows),
    request: impl Fn(Arc<Engine>, u64) -> F + Copy + Send + 'static,
) -> Outcome<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let engine = house::engine(&house.database(name).await?, 1).await?;
    let others = house::stocked(house, &format!("{name}_others"), 1).await?;
    let bulk = house::stocked(house, &format!("{name}_bulk"), 1).await?;
    let time = slice(wanted.time());
    let next = Arc::new(AtomicU64::new(0)); // over all turns: a key is used once
    let mut limits: Option<Measured> = None;
    for clients in CLIENTS {
        let (mut wal, mut bulk_wal) = (0.0, 0.0);
        let [ours, lock, statement, limit] = by_turns(async || {
            let (engine, next) = (Arc::clone(&engine), Arc::clone(&next));
            let ours = move |_| request(Arc::clone(&engine), next.fetch_add(1, Ordering::Relaxed));
            let load = (clients, time);
            let before = house.wal().await?;
            let ours = closed(house, clients, time, ours).await;
            wal += house.wal().await? - before;
            let lock = baselines::one_by_one(house, &others, Way::RowLock, rows, load, |_| HOT).await?;
            let statement = baselines::one_by_one(house, &others, Way::Statement, rows, load, |_| HOT).await?;
            let before = house.wal().await?;
            let limit = baselines::bulk(house, &bulk, rows, 1, time).await?;
            bulk_wal += house.wal().await? - before;
            Ok([ours, lock, statement, limit])
        })
        .await?;
        let aim = |least| (rows == Rows::Reservation && clients == CROWD).then_some(least);
        let mut beside = vec![
            Beside::Times("row lock", lock.rate(), aim(100.0)),
            Beside::Times("one statement each", statement.rate(), None),
            Beside::Of("bulk insert, 1 connection", limit.rate(), aim(80.0)),
        ];
        beside.extend(target(rows, clients).map(Beside::Target));
        table.line(&format!("{what}, one SKU, clients: {clients}"), &ours, &beside);
        let (each, theirs) = (wal / ours.pieces() as f64, bulk_wal / limit.pieces() as f64);
        table.figure("  bytes of WAL each", &thousands(each), &format!("{} by the bulk insert", thousands(theirs)));
        match &mut limits {
            Some(limits) => limits.add(&limit),
            none => *none = Some(limit),
        }
    }
    if let Some(limits) = limits {
        table.line("  the bulk insert itself, 1 000 rows a batch", &limits, &[]);
    }
    house::close(engine).await
}

fn target(rows: Rows, clients: usize) -> Option<f64> {
    match (rows, clients) {
        (Rows::Reservation, 64) => Some(80_000.0),
        (Rows::Reservation, CROWD) => Some(200_000.0),
        _ => None,
    }
}
