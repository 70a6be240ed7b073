//! How the rate holds while the tables grow.

use std::sync::Arc;

use souk_actors::domain::SkuId;

use crate::{
    Outcome, Wanted,
    house::{self, House},
    load::count,
    table::{Table, thousands, verdict},
};

const CLIENTS: usize = 1_024;
const STEPS: u64 = 10;
/// The last fifth may be so much slower than the first.
const DECAY: f64 = 15.0;

pub(crate) async fn run(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let connect = house.database("age").await?;
    let engine = house::engine(&connect, 1).await?;
    let mut rates = Vec::new();
    for step in 1..=STEPS {
        let reserved = Arc::clone(&engine);
        let ours =
            count(house, CLIENTS, wanted.rows / STEPS, move |_| house::reserve(Arc::clone(&reserved), SkuId(1))).await;
        let grown = thousands((wanted.rows * step / STEPS) as f64);
        table.line(&format!("reservations, up to the {grown}th"), &ours, &[]);
        rates.push(ours.rate());
    }
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    let decay = (1.0 - mean(&rates[8..]) / mean(&rates[..2])) * 100.0;
    let verdict = verdict(decay <= DECAY);
    let what = format!("  the last fifth of {} beside the first", thousands(wanted.rows as f64));
    table.figure(
        &what,
        &format!("{:+.0} %", -decay),
        &format!("target −{DECAY} %: {verdict} (rows=10000000 for the whole)"),
    );
    house::close(engine).await
}
