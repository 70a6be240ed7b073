//! Ten times what can be served. On two cores no generator can send ten times what the whole machine serves; so a shop is
//! taken that may have few checkouts under way, and buyers come in an open loop, whether it keeps up or not.

use std::{sync::Arc, time::Instant};

use souk::hammer::{
    line::{Line, Target},
    schedule::{Bounds, Pace, Schedule},
};
use souk_actors::domain::SkuId;

use crate::{
    Outcome, Wanted,
    house::House,
    load::resident,
    shop::{Answers, ONE, PATIENCE, Shop, beside, closed, number, order},
    table::{Table, thousands},
};

/// Buyers whose best is what can be served.
const BUYERS: usize = 3;
/// Checkouts that may be under way: a place is free again only after its buyer has heard, and may have asked for the next.
const UNDER_WAY: usize = 2 * BUYERS;
const CONNECTIONS: usize = 512;
const TIMES: f64 = 10.0;
/// A refusal takes no longer than this, in milliseconds.
const REFUSED_WITHIN: f64 = 50.0;

pub(crate) async fn run(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let admission = UNDER_WAY.to_string();
    let shop = Shop::open(house, "overload", ONE, &[("SOUK_CHECKOUT__ADMISSION", &admission)]).await?;
    let load = (BUYERS, wanted.time());
    let best = closed(house, &shop.target, load, 201, |target, number| order(target, SkuId(1), number, false)).await?;
    table.line(&format!("best of {BUYERS} buyers, where {UNDER_WAY} may be in at once"), &best, &[]);

    let schedule =
        Schedule::new(Pace::Poisson(best.rate() * TIMES), Bounds { buyers: None, time: Some(wanted.time()) }, 7);
    let before = resident();
    let began = Instant::now();
    let (schedule, target) = (Arc::new(schedule), shop.target.clone());
    let turns = Arc::clone(&schedule);
    let answers = beside(rush(turns, target)).await?;
    let took = began.elapsed().as_secs_f64();
    let grown = (resident() - before) / 1e6;

    let offered = (answers.all() + schedule.left_outside(drop)) as f64 / took;
    let goodput = answers.count(201) as f64 / took;
    let share = answers.count(503) as f64 / answers.all() as f64 * 100.0;
    let p99 = answers.latency(503).value_at_quantile(0.99) as f64 / 1_000.0;
    let verdict = |reached| if reached { "reached" } else { "MISSED" };
    let ratio = goodput / best.rate() * 100.0;
    table.figure(
        "  offered, in an open loop",
        &thousands(offered),
        &format!("{:.1} × the best", offered / best.rate()),
    );
    let aim = format!("{ratio:.0} % of the best, target 80 %: {}", verdict(ratio >= 80.0));
    table.figure("  goodput", &thousands(goodput), &aim);
    let aim = format!("target {REFUSED_WITHIN} ms: {}", verdict(p99 <= REFUSED_WITHIN));
    table.figure("  answered 503", &format!("{share:.0} %"), &format!("{} of {}", answers.count(503), answers.all()));
    table.figure("  p99 of these answers", &format!("{p99:.1} ms"), &aim);
    table.figure("  memory grown meanwhile, generator included", &format!("{grown:.0} MB"), "");
    shop.close().await
}

async fn rush(schedule: Arc<Schedule>, target: Target) -> Answers {
    let connection = || tokio::spawn(buy(Arc::clone(&schedule), target.clone()));
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| connection()).collect();
    let mut all = Answers::default();
    for connection in connections {
        all.add(connection.await.expect("a client does not panic"));
    }
    all
}

/// Latencies count from the sending: what the generator is late is not the shop's.
async fn buy(schedule: Arc<Schedule>, target: Target) -> Answers {
    let mut line = Line::new(target.clone(), PATIENCE);
    let mut answers = Answers::default();
    while let Some(turn) = schedule.next() {
        tokio::time::sleep_until(turn.due.into()).await;
        let bytes = order(&target, SkuId(1), number(), false);
        let sent = Instant::now();
        let status = line.ask(&bytes).await.map_or(0, |reply| reply.status);
        answers.note(status, sent);
    }
    answers
}
