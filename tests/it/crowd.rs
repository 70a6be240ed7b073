//! More buyers than units, over real HTTP: what there is is sold, once, and everybody else hears so at once.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use serde_json::Value;

use crate::support::{
    PATIENCE,
    shop::{Answer, TestShop, basket, fresh},
};

/// Everybody's one try, so many at once. Whom a busy machine's database keeps waiting for too long asks again.
async fn rush(shop: &TestShop, baskets: Vec<Value>, at_once: usize) -> Vec<Answer> {
    let buy = async |body: Value| {
        let key = fresh("rush");
        loop {
            let answer = shop.checkout(&key, &body).await;
            if answer.status != 503 || answer.code() == "busy" {
                break answer;
            }
        }
    };
    stream::iter(baskets).map(buy).buffer_unordered(at_once).collect().await
}

/// How many answers of each kind: `201`, or a refusal's code.
fn tally(answers: &[Answer]) -> HashMap<&str, usize> {
    let mut tally = HashMap::new();
    for answer in answers {
        if answer.status != 201 {
            answer.is_well_told();
        }
        *tally.entry(if answer.status == 201 { "201" } else { answer.code() }).or_default() += 1;
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_buyers_at_once_and_one_unit() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let answers = rush(&shop, vec![basket(&[(&sku_id, 1)]); 500], 500).await;

    assert_eq!(tally(&answers), HashMap::from([("201", 1), ("out_of_stock", 499)]));
    for refused in answers.iter().filter(|answer| answer.status == 409) {
        assert_eq!(refused.body["lines"][0]["sku_id"], sku_id.as_str());
        assert_eq!(
            (&refused.body["lines"][0]["requested"], &refused.body["lines"][0]["available"]),
            (&1.into(), &0.into())
        );
    }
    assert_eq!(shop.stock(&sku_id).await, (1, 1));
    assert_eq!(shop.ledger(&sku_id).await.len(), 2, "it was opened and reserved");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_units_and_a_thousand_buyers() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(200).await;
    let answers = rush(&shop, vec![basket(&[(&sku_id, 1)]); 1_000], 64).await;

    assert_eq!(tally(&answers), HashMap::from([("201", 200), ("out_of_stock", 800)]));
    assert_eq!(shop.stock(&sku_id).await, (200, 200));
    assert_eq!(shop.orders().await.len(), 200);
    let sold_out = shop.get(&format!("/v1/skus/{sku_id}")).await.ok();
    assert_eq!(sold_out["available"], 0);
    shop.close().await;
}

/// Buyers who name the same SKUs in every order never wait for each other in a circle, and a basket is sold whole or not
/// at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn baskets_of_ten_in_any_order() {
    let shop = TestShop::open().await;
    let mut sku_ids = Vec::new();
    for _ in 0..10 {
        sku_ids.push(shop.sku(60).await);
    }
    let shuffled = |buyer: usize| {
        let mut lines: Vec<(&str, i64)> = sku_ids.iter().map(|sku_id| (sku_id.as_str(), 1)).collect();
        for last in (1..lines.len()).rev() {
            lines.swap(last, (buyer * 7_919 + last * 104_729) % (last + 1));
        }
        basket(&lines)
    };
    let answers = rush(&shop, (0..150).map(shuffled).collect(), 64).await;

    assert_eq!(tally(&answers), HashMap::from([("201", 60), ("out_of_stock", 90)]));
    for sku_id in &sku_ids {
        assert_eq!(shop.stock(sku_id).await, (60, 60));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_shop_says_so_at_once_and_loses_nothing() {
    let shop = Arc::new(TestShop::with(&[("SOUK_CHECKOUT__ADMISSION", "4")]).await);
    let sku_id = shop.sku(1_000).await;
    let answers = rush(&shop, vec![basket(&[(&sku_id, 1)]); 400], 200).await;
    let tallied = tally(&answers);
    let sold = tallied["201"];
    assert_eq!(sold + tallied.get("busy").copied().unwrap_or(0), 400, "{tallied:?}");
    assert!(sold < 400, "nobody was turned away");
    assert!(answers.iter().filter(|answer| answer.code() == "busy").all(|answer| answer.header("retry-after") == "1"));
    assert_eq!(shop.stock(&sku_id).await, (1_000, i64::try_from(sold).expect("small")));
    assert_eq!(shop.orders().await.len(), sold);

    // whoever asks again as told gets what he came for
    let insist = async |_: usize| {
        let (key, patience) = (fresh("patient"), Instant::now() + PATIENCE);
        loop {
            let answer = shop.checkout(&key, &basket(&[(&sku_id, 1)])).await;
            if answer.status == 201 {
                return;
            }
            assert!(answer.code() == "busy" && Instant::now() < patience, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    stream::iter(0..100).map(insist).buffer_unordered(50).collect::<()>().await;
    assert_eq!(shop.orders().await.len(), sold + 100);
    Arc::into_inner(shop).expect("all have left").close().await;
}

/// Ten and more times what is let in, and everybody insists: what there is is sold to the last unit, and the rest hear so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_shop_sells_out_exactly() {
    let shop = TestShop::with(&[("SOUK_CHECKOUT__ADMISSION", "8")]).await;
    let sku_id = shop.sku(60).await;
    let insist = async |_: usize| {
        let (key, patience) = (fresh("patient"), Instant::now() + Duration::from_secs(60));
        loop {
            let answer = shop.checkout(&key, &basket(&[(&sku_id, 1)])).await;
            if answer.code() != "busy" {
                return answer;
            }
            assert_eq!(answer.header("retry-after"), "1");
            assert!(Instant::now() < patience, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answers: Vec<Answer> = stream::iter(0..300).map(insist).buffer_unordered(120).collect().await;
    assert_eq!(tally(&answers), HashMap::from([("201", 60), ("out_of_stock", 240)]));
    assert_eq!(shop.stock(&sku_id).await, (60, 60));
    shop.close().await;
}

/// One key from everywhere at once is one order, whoever's answer comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_impatient_buyer_with_one_key() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let (key, body) = (fresh("key"), basket(&[(&sku_id, 2)]));
    let answers: Vec<Answer> = stream::iter(0..100)
        .map(async |_: usize| shop.checkout(&key, &body).await)
        .buffer_unordered(100)
        .collect()
        .await;

    let first = answers.iter().filter(|answer| answer.header("idempotent-replayed") != "true").count();
    assert_eq!((tally(&answers), first), (HashMap::from([("201", 100)]), 1));
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert_eq!(shop.stock(&sku_id).await, (5, 2));
    shop.close().await;
}
