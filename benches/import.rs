//! A file of stock corrections over HTTP, a line for each of very many SKUs, from its first byte to its last line.

use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::Value;
use souk_actors::domain::SkuId;

use crate::{
    Outcome, Wanted,
    baselines::{self, Rows, Way},
    house::{self, House},
    load::{Cpu, Measured, histogram},
    shop::Shop,
    table::{Beside, Table, thousands},
};

const LINES: i64 = 100_000;
/// Lines a second: the whole file in a minute.
const LEAST: f64 = LINES as f64 / 60.0;
const STAFF: &str = "staff-token-of-a-bench";
const LOOK: Duration = Duration::from_millis(20);
/// Far longer than the whole file may take.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn run(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let connect = house::stocked(house, "import_beside", LINES).await?;
    // who goes through the file with a statement a line, and waits for each
    let theirs = |number: u64| SkuId((number as i64 % LINES) + 1);
    let load = (1, wanted.time());
    let statement = baselines::one_by_one(house, &connect, Way::Statement, Rows::Reservation, load, theirs).await?;
    let limit = baselines::bulk(house, &connect, Rows::Reservation, LINES, wanted.time()).await?;

    let shop = Shop::open(house, "import", (LINES, 10), &[("SOUK_STAFF_TOKEN", STAFF)]).await?;
    for (form, header, line) in
        [("by so many", "code,delta,reason", "5,found"), ("to so many", "code,set,expected,reason", "7,15,counted")]
    {
        let file = (1..=LINES).fold(format!("{header}\n"), |file, sku| file + &format!("LAMP-{sku},{line}\n"));
        let (began, cpu) = (Instant::now(), Cpu::now(house));
        import(&shop, file).await?;
        let (took, cost) = (began.elapsed(), cpu.until(&Cpu::now(house)));
        let mut latency = histogram();
        latency.record_n((took.as_micros() as u64 / LINES as u64).max(1), LINES as u64)?;
        let beside = [
            Beside::Times("one statement each, 1 client", statement.rate(), None),
            Beside::Of("bulk insert, 1 connection", limit.rate(), None),
            Beside::Target(LEAST),
        ];
        let what = format!("CSV lines, {form}, {} (ms: mean)", thousands(LINES as f64));
        table.line(&what, &Measured::new(latency, took, cost), &beside);
        table.figure("  the whole file", &format!("{:.1} s", took.as_secs_f64()), "");
    }
    shop.close().await
}

/// Brings a file, and returns when every line of it is applied.
async fn import(shop: &Shop, file: String) -> Outcome<()> {
    let imports = format!("http://{}/v1/admin/stock/imports", shop.target.host);
    let client = Client::new();
    let brought = client.post(&imports).bearer_auth(STAFF).header("content-type", "text/csv").body(file);
    let answer = brought.send().await?;
    let (status, taken) = (answer.status(), answer.json::<Value>().await?);
    let id = taken["import_id"].as_str().filter(|_| status == StatusCode::ACCEPTED);
    let id = id.ok_or_else(|| format!("it is not taken: {:.300}", taken.to_string()))?;
    let patience = Instant::now() + PATIENCE;
    loop {
        let import: Value = client.get(format!("{imports}/{id}")).bearer_auth(STAFF).send().await?.json().await?;
        if import["state"] == "done" || import["state"] == "rejected" {
            let whole = import["applied"] == LINES;
            return if whole { Ok(()) } else { Err(format!("not all of it is applied: {import}").into()) };
        }
        if Instant::now() > patience {
            return Err(format!("it goes on: {import}").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
