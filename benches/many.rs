//! Many SKUs, in process: asleep, when each is woken by its first buyer, and awake.

use std::sync::Arc;

use souk_actors::domain::SkuId;

use crate::{
    Outcome, Wanted,
    baselines::{self, Rows, Way},
    house::{self, House},
    load::{by_turns, closed, count, resident, slice},
    table::{Beside, Table, thousands, verdict},
};

const CLIENTS: usize = 1_024;

struct Spread {
    skus: u64,
    cold: Option<f64>,
    warm: f64,
    /// Times the single statement.
    ahead: Option<f64>,
}

pub(crate) async fn run(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    spread(house, table, wanted, Spread { skus: 1_000, cold: None, warm: 85_000.0, ahead: Some(7.5) }).await?;
    spread(house, table, wanted, Spread { skus: 100_000, cold: Some(30_000.0), warm: 45_000.0, ahead: None }).await
}

async fn spread(house: &House, table: &Table, wanted: Wanted, aim: Spread) -> Outcome<()> {
    let Spread { skus, .. } = aim;
    let engine = house::engine(&house.database(&format!("many_{skus}")).await?, skus as i64).await?;
    let name = thousands(skus as f64);

    let before = resident();
    let woken = Arc::clone(&engine);
    let cold =
        count(house, CLIENTS, skus, move |number| house::reserve(Arc::clone(&woken), scattered(number, skus))).await;
    let each = (resident() - before) / skus as f64;
    table.line(&format!("reservations, {name} SKUs, cold, clients: {CLIENTS}"), &cold, &targets(aim.cold));
    if skus > 10_000 {
        let verdict = verdict(each <= 10_000.0);
        table.figure(
            "  memory of a SKU's actor, idle",
            &format!("{each:.0} B"),
            &format!("target 10 000 B: {verdict}"),
        );
    }

    // not before: memory that these leave behind would be the actors'
    let others = house::stocked(house, &format!("many_{skus}_others"), skus as i64).await?;
    let bulk = house::stocked(house, &format!("many_{skus}_bulk"), skus as i64).await?;
    let load = (CLIENTS, slice(wanted.time()));
    let theirs = move |number| scattered(number, skus);
    let [warm, statement, lock, limit] = by_turns(async || {
        let reserved = Arc::clone(&engine);
        let ours = move |number| house::reserve(Arc::clone(&reserved), scattered(number, skus));
        Ok([
            closed(house, load.0, load.1, ours).await,
            baselines::one_by_one(house, &others, Way::Statement, Rows::Reservation, load, theirs).await?,
            baselines::one_by_one(house, &others, Way::RowLock, Rows::Reservation, load, theirs).await?,
            baselines::bulk(house, &bulk, Rows::Reservation, skus as i64, load.1).await?,
        ])
    })
    .await?;
    let mut beside = vec![
        Beside::Times("row lock", lock.rate(), None),
        Beside::Times("one statement each", statement.rate(), aim.ahead),
        Beside::Of("bulk insert, 1 connection", limit.rate(), None),
    ];
    beside.extend(targets(Some(aim.warm)));
    table.line(&format!("reservations, {name} SKUs, warm, clients: {CLIENTS}"), &warm, &beside);
    house::close(engine).await
}

fn targets(least: Option<f64>) -> Vec<Beside<'static>> {
    least.map(Beside::Target).into_iter().collect()
}

/// Every SKU once, in no order; then again.
fn scattered(number: u64, skus: u64) -> SkuId {
    SkuId((number.wrapping_mul(7_919) % skus) as i64 + 1)
}
