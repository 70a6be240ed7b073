//! Postgres dies under load, and nobody is there to help. Buyers hear 503 for a while, and nothing that was acknowledged
//! is lost.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::support::{
    eventually,
    house::House,
    shop::{Answer, basket, fresh},
};

/// What was asked with each key, and the order that it made, once that was told.
type Diary = Mutex<BTreeMap<String, Option<String>>>;

/// What the buyers met.
#[derive(Default)]
struct Met {
    sold: usize,
    refused: usize,
    slowest: Duration,
}

async fn buy(house: &House, sku_id: &str, key: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = house.api.checkout(key, &basket(&[(sku_id, 1)])).await;
    (answer, began.elapsed())
}

async fn buyer(house: &House, sku_id: &str, diary: &Diary, met: &Mutex<Met>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let key = fresh("outage");
        diary.lock().expect("no panic").insert(key.clone(), None);
        let (answer, took) = buy(house, sku_id, &key).await;
        {
            let mut met = met.lock().expect("no panic");
            met.slowest = met.slowest.max(took);
            if answer.status == 201 {
                met.sold += 1;
                let order_id = answer.body["order_id"].as_str().expect("an id").to_owned();
                diary.lock().expect("no panic").insert(key, Some(order_id));
                continue;
            }
            assert_eq!(answer.status, 503, "{}", answer.text);
            answer.is_well_told();
            met.refused += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_killed_under_load_and_everything_comes_back_by_itself() {
    let mut house = House::new(&[]);
    house.start(None).await;
    let sku_id = house.api.sku(1_000_000).await;
    let (diary, met, stop) = (Diary::default(), Mutex::<Met>::default(), AtomicBool::new(false));
    let sold = || met.lock().expect("no panic").sold;

    let story = async {
        for _ in 0..2 {
            let (before, killed) = (sold(), house.postmaster().expect("a server"));
            eventually("the shop sells", async || sold() > before + 20).await;
            kill(killed, Signal::SIGKILL).expect("it is ours");
            // on a busy machine Postgres may be back before anybody has asked
            eventually("the shop is not ready, or is again", async || {
                assert_eq!(house.api.get("/healthz").await.status, 200);
                let is_back = house.postmaster().is_some_and(|now| now != killed);
                is_back || house.api.get("/readyz").await.status == 503
            })
            .await;
            // what is known without Postgres is answered, what is not says so: nothing is a fault of ours
            for path in ["/v1/products", "/v1/orders/order_0000000000000", &format!("/v1/skus/{sku_id}"), "/metrics"] {
                let answer = house.api.see(path).await;
                assert!(answer.status < 500 || answer.status == 503, "{path}: {} {}", answer.status, answer.text);
            }
            let before = sold();
            eventually("the shop sells again", async || {
                sold() > before + 20 && house.postmaster().is_some_and(|now| now != killed)
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let buyers = futures::future::join_all((0..16).map(|_| buyer(&house, &sku_id, &diary, &met, &stop)));
    tokio::join!(story, buyers);

    let met = met.into_inner().expect("no panic");
    assert!(met.refused > 0, "nobody noticed");
    assert!(met.slowest < Duration::from_secs(60), "somebody waited for {:?}", met.slowest);
    assert!(house.has_ended().is_none(), "the shop itself went on");

    let mut diary = diary.into_inner().expect("no panic");
    for (key, order_id) in &mut diary {
        let (answer, _) = buy(&house, &sku_id, key).await;
        let told = answer.ok()["order_id"].as_str().expect("an id").to_owned();
        assert_eq!(order_id.get_or_insert_with(|| told.clone()), &told);
    }
    let mut known: Vec<String> = diary.into_values().flatten().collect();
    let mut ids = house.order_ids().await;
    known.sort_unstable();
    ids.sort_unstable();
    assert_eq!(ids, known, "every key is one order, and there is no other");
    assert_eq!(house.api.stock(&sku_id).await, (1_000_000, i64::try_from(ids.len()).expect("small")));
    house.api.clean().await;
    house.audit();
    let journal: Value = house.api.see("/v1/ops/journal").await.ok();
    assert!(journal["recoveries"].as_u64().is_some_and(|recoveries| recoveries > 0), "{journal}");
    println!("sold {}, refused {}, slowest {:?}", met.sold, met.refused, met.slowest);
}
