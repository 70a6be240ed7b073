//! Whole checkouts and sold-out answers over HTTP, the generator on the same cores.

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::post};
use souk::hammer::line::Target;
use souk_actors::domain::SkuId;
use tokio::net::TcpListener;

use crate::{
    Outcome, Wanted,
    house::House,
    load::{Measured, by_turns, slice},
    shop::{ONE, Shop, closed, order},
    table::{Beside, Table, verdict},
};

const CONNECTIONS: [usize; 2] = [64, 512];
/// At 512 connections, in milliseconds.
const P99: f64 = 50.0;

pub(crate) async fn checkouts(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    for (skus, what, least) in [(1, "one SKU", 20_000.0), (1_000, "1 000 SKUs", 12_000.0)] {
        let shop = Shop::open(house, &format!("http_{skus}"), (skus, ONE.1), &[]).await?;
        for connections in CONNECTIONS {
            let load = (connections, slice(wanted.time()));
            let request = move |target: &Target, number: u64| {
                order(target, SkuId((number % skus as u64) as i64 + 1), number, false)
            };
            let [ours, empty] = by_turns(async || {
                Ok([closed(house, &shop.target, load, 201, request).await?, empty(house, load).await?])
            })
            .await?;
            let mut beside = vec![Beside::Of("empty axum handler", empty.rate(), None)];
            if connections == 512 {
                beside.push(Beside::Target(least));
            }
            table.line(&format!("checkouts over HTTP, {what}, {connections} conns"), &ours, &beside);
            if connections == 512 {
                let p99 = ours.percentile(99.0);
                let verdict = verdict(p99 <= P99);
                table.figure("  its p99", &format!("{p99:.1} ms"), &format!("target {P99} ms: {verdict}"));
            }
        }
        shop.close().await?;
    }
    Ok(())
}

pub(crate) async fn sold_out(house: &House, table: &Table, wanted: Wanted) -> Outcome<()> {
    let shop = Shop::open(house, "sold_out", (1, 1), &[]).await?;
    closed(house, &shop.target, (1, Duration::ZERO), 201, |target, number| order(target, SkuId(1), number, false))
        .await?;
    let one = shop.app.shop.engine.reserve(SkuId(1), 1, 1_250).await;
    one.map_err(|refusal| format!("the last unit: {refusal}"))?;
    for connections in CONNECTIONS {
        let load = (connections, slice(wanted.time()));
        let request = |target: &Target, number: u64| order(target, SkuId(1), number, false);
        let [ours, empty] =
            by_turns(async || Ok([closed(house, &shop.target, load, 409, request).await?, empty(house, load).await?]))
                .await?;
        let beside = [Beside::Of("empty axum handler", empty.rate(), Some(80.0))];
        table.line(&format!("sold out over HTTP, {connections} conns"), &ours, &beside);
    }
    shop.close().await
}

/// The same requests to a handler that does nothing, in the same process.
async fn empty(house: &House, load: (usize, Duration)) -> Outcome<Measured> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = Target::of(&format!("http://{}", listener.local_addr()?)).await?;
    let routes = Router::new().route("/v1/checkouts", post(|| async { StatusCode::OK }));
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let measured = closed(house, &target, load, 200, |target, number| order(target, SkuId(1), number, false)).await;
    server.abort();
    measured
}
