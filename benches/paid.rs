//! Orders that are paid: checkout, the provider's order, the buyer's approval, a signed webhook, the capture, another
//! webhook, confirmed. Shop, sandbox, generator and Postgres share the cores.

use std::time::{Duration, Instant};

use souk::hammer::line::{Line, Target};
use souk_actors::domain::SkuId;
use sqlx::PgPool;

use crate::{
    Outcome, Wanted,
    house::House,
    load::{Cpu, Measured, histogram},
    shop::{ONE, PATIENCE, Shop, beside, number, order},
    table::{Beside, Table},
};

const BUYERS: usize = 256;

pub(crate) async fn run(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let shop = Shop::open(house, "paid", ONE, &[]).await?;
    let (target, bank) = (shop.target.clone(), shop.bank.clone());
    let (began, cpu) = (Instant::now(), Cpu::now(house));
    let time = wanted.time();
    let placed: u64 = beside(async move {
        let end = Instant::now() + time;
        let buyers: Vec<_> = (0..BUYERS).map(|_| tokio::spawn(buy_until(target.clone(), bank.clone(), end))).collect();
        let mut placed = 0;
        for buyer in buyers {
            placed += buyer.await.expect("a buyer does not panic");
        }
        placed
    })
    .await?;
    confirmed(&shop, placed).await?;
    let (took, cost) = (began.elapsed(), cpu.until(&Cpu::now(house)));
    let mut latency = histogram();
    latency.record_n(took.as_micros() as u64 / placed.max(1), placed)?;
    let ours = Measured::new(latency, took, cost);
    table.line(&format!("paid orders, {BUYERS} buyers (ms: mean of all)"), &ours, &[Beside::Target(2_000.0)]);
    shop.close().await
}

/// Places, approves, and places the next; how many.
async fn buy_until(target: Target, bank: Target, end: Instant) -> u64 {
    let (mut shop, mut page) = (Line::new(target.clone(), PATIENCE), Line::new(bank.clone(), PATIENCE));
    let mut placed = 0;
    while Instant::now() < end {
        let reply = shop.ask(&order(&target, SkuId(1), number(), true)).await.expect("an answer");
        let answer: serde_json::Value = serde_json::from_slice(reply.body).expect("JSON");
        let url = answer["approve_url"].as_str().unwrap_or_else(|| panic!("announced: {answer}"));
        let id = url.rsplit_once("token=").expect("the provider's id").1;
        let path = format!("/_sandbox/orders/{id}/approve");
        let approved = page.ask(&bank.request("POST", &path, "", Some(r#"{"how":"complete"}"#))).await;
        assert_eq!(approved.expect("an answer").status / 100, 2, "approved");
        placed += 1;
    }
    placed
}

/// Waits until every order is.
async fn confirmed(shop: &Shop, placed: u64) -> Outcome<()> {
    let pool = PgPool::connect_with(shop.connect.clone()).await?;
    let patience = Instant::now() + Duration::from_secs(120);
    loop {
        let sql = "select count(*) from customer_order where status = 'confirmed'";
        let confirmed: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await?;
        if confirmed as u64 == placed {
            return Ok(());
        }
        if Instant::now() > patience {
            return Err(format!("{confirmed} of {placed} orders are confirmed").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
