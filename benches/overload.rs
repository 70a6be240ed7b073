//! Ten times what can be served. On two cores no generator can send ten times what the whole machine serves; so a shop is
//! taken that may have few checkouts under way, and buyers come in an open loop, whether it keeps up or not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use souk::hammer::{
    line::{Line, Target},
    schedule::{Bounds, Pace, Schedule},
};
use souk_actors::domain::SkuId;

use crate::{
    Outcome, Wanted,
    house::House,
    load::{Cpu, Measured, by_turns, histogram, resident, slice},
    shop::{Answers, ONE, PATIENCE, Shop, beside, closed, number, order},
    table::{Beside, Table, thousands, verdict},
};

/// What a commit takes on a disk that is the limit, as in a shop whose disk is across a network.
const SLOW: Duration = Duration::from_millis(4);
const CONNECTIONS: usize = 512;
const TIMES: f64 = 10.0;
/// A refusal takes no longer than this, in milliseconds.
const REFUSED_WITHIN: f64 = 50.0;

pub(crate) async fn run(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    house.slow_down(SLOW).await?;
    let slow = limited(house, table, wanted, ("overload_disk", 24)).await;
    house.slow_down(Duration::ZERO).await?;
    slow?;
    limited(house, table, wanted, ("overload", 3)).await
}

/// A shop that may have so many checkouts under way, and as many buyers whose best is what can be served.
async fn limited(house: &House, table: &Table, wanted: Wanted, (name, places): (&str, usize)) -> Outcome<()> {
    let admission = places.to_string();
    let shop = Shop::open(house, name, ONE, &[("SOUK_CHECKOUT__ADMISSION", &admission)]).await?;
    let (time, before) = (slice(wanted.time()), resident());
    let mut refused = histogram();
    let (mut offered, mut all) = (0, 0);
    let [best, served] = by_turns(async || {
        let request = |target: &Target, number| order(target, SkuId(1), number, false);
        let best = closed(house, &shop.target, (places, time), 201, request).await?;
        let bounds = Bounds { buyers: None, time: Some(time) };
        let schedule = Arc::new(Schedule::new(Pace::Poisson(best.rate() * TIMES), bounds, 7));
        let (began, cpu) = (Instant::now(), Cpu::now(house));
        let answers = beside(rush(Arc::clone(&schedule), shop.target.clone())).await?;
        let served = Measured::new(answers.latency(201), began.elapsed(), cpu.until(&Cpu::now(house)));
        refused.add(answers.latency(503))?;
        all += answers.all();
        offered += answers.all() + schedule.left_outside(drop);
        Ok([best, served])
    })
    .await?;
    let grown = (resident() - before) / 1e6;

    table.line(&format!("best of {places} buyers, as many as may be in at once"), &best, &[]);
    let beside = [Beside::Of("the best", best.rate(), Some(80.0))];
    table.line("ten times as many, in an open loop: served", &served, &beside);
    let rate = offered as f64 / served.took().as_secs_f64();
    table.figure("  offered, a second", &thousands(rate), &format!("{:.1} × the best", rate / best.rate()));
    let share = refused.len() as f64 / all as f64 * 100.0;
    table.figure("  answered 503", &format!("{share:.0} %"), &format!("{} of {all}", refused.len()));
    let p99 = refused.value_at_quantile(0.99) as f64 / 1_000.0;
    let verdict = verdict(p99 <= REFUSED_WITHIN);
    table.figure("  p99 of these answers", &format!("{p99:.1} ms"), &format!("target {REFUSED_WITHIN} ms: {verdict}"));
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
