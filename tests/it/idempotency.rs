//! A key makes a repetition harmless; a refusal is not remembered.

use std::sync::Arc;

use futures::future::join_all;
use souk_actors::{
    CheckedOut,
    domain::{OrderId, Refusal, change::Opening},
};

use crate::support::{Proxy, Setup, TestDb, TestEngine, basket, eventually, fingerprint};

fn order_of(answer: &Result<CheckedOut, Refusal>) -> OrderId {
    match answer {
        Ok(CheckedOut::New(placed)) => placed.order_id,
        Ok(CheckedOut::Replayed(order_id)) => *order_id,
        Err(refusal) => panic!("{refusal}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_checkout_fifty_times_at_once_is_one_order() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let checkout = basket(&[(sku_id, 1)]);
    let answers = join_all((0..50).map(|_| shop.engine.checkout(checkout.clone()))).await;
    let first = order_of(&answers[0]);
    assert!(answers.iter().all(|answer| order_of(answer) == first));
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Ok(CheckedOut::New(_)))).count(), 1);
    assert_eq!(shop.count("select count(*) from customer_order").await, 1);
    // and later, although nothing is left of the SKU
    assert_eq!(shop.engine.checkout(checkout).await, Ok(CheckedOut::Replayed(first)));
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_with_a_used_key_is_refused() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let checkout = basket(&[(sku_id, 1)]);
    let mut other = checkout.clone();
    other.fingerprint = fingerprint("another basket");
    let (one, two) = tokio::join!(shop.engine.checkout(checkout.clone()), shop.engine.checkout(other.clone()));
    assert!(one.is_ok());
    assert_eq!(two, Err(Refusal::KeyReused));
    assert_eq!(shop.engine.checkout(other).await, Err(Refusal::KeyReused));
    // keys are each principal's own
    let mut member = checkout.clone();
    member.principal = "member".into();
    assert!(matches!(shop.engine.checkout(member).await, Ok(CheckedOut::New(_))));
    // and of every command
    let adjust = souk_actors::Adjust {
        principal: checkout.principal,
        key: checkout.key,
        fingerprint: checkout.fingerprint,
        sku_id,
        correction: souk_actors::domain::Correction::By(1),
        reason: "counted".into(),
    };
    assert_eq!(shop.engine.adjust(adjust).await, Err(Refusal::KeyReused));
    assert_eq!(shop.stock(sku_id).await, (5, 2));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_remembered() {
    let shop = TestEngine::start().await;
    let sku_id = souk_actors::domain::SkuId(42);
    let checkout = basket(&[(sku_id, 2)]);
    let answers = join_all((0..10).map(|_| shop.engine.checkout(checkout.clone()))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Refusal::Invalid(_)))), "{answers:?}");
    shop.engine.open_stock(vec![Opening { sku_id, on_hand: 1 }]).await.unwrap();
    let answers = join_all((0..10).map(|_| shop.engine.checkout(checkout.clone()))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Refusal::OutOfStock(_)))), "{answers:?}");
    assert_eq!(shop.count("select count(*) from idempotency").await, 0);
    let adjust = souk_actors::Adjust {
        principal: "staff".into(),
        key: "more".into(),
        fingerprint: [0; 32],
        sku_id,
        correction: souk_actors::domain::Correction::By(1),
        reason: "found".into(),
    };
    shop.engine.adjust(adjust).await.unwrap();
    assert!(matches!(shop.engine.checkout(checkout).await, Ok(CheckedOut::New(_))));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_heard_nothing_asks_again_and_has_one_order() {
    let db = Arc::new(TestDb::new().await);
    let proxy = Proxy::before(&db.connect);
    let connect = proxy.through(&db.connect);
    let shop = Arc::new(TestEngine::on(db, connect, Setup::default()).await);
    let sku_id = shop.sku(1).await;
    shop.order(shop.sku(1).await, 1).await; // the journal's statement is prepared: the next one is one message
    proxy.hold_up(true);
    let checkout = basket(&[(sku_id, 1)]);
    let ask = || {
        let (shop, checkout) = (Arc::clone(&shop), checkout.clone());
        tokio::spawn(async move { shop.engine.checkout(checkout).await })
    };
    let impatient = ask();
    eventually("it is in Postgres, and nobody has heard", async || {
        shop.count("select count(*) from customer_order").await == 2
    })
    .await;
    impatient.abort();
    impatient.await.unwrap_err();
    let again = ask(); // its own first try stands in its way
    proxy.hold_up(false);
    let answer = again.await.unwrap();
    assert!(matches!(answer, Ok(CheckedOut::Replayed(_))), "{answer:?}");
    assert_eq!(shop.count("select count(*) from customer_order").await, 2);
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_outlives_its_engine() {
    let old = TestEngine::start().await;
    let sku_id = old.sku(2).await;
    let checkout = basket(&[(sku_id, 1)]);
    let order_id = order_of(&old.engine.checkout(checkout.clone()).await);
    old.engine.stop().await;
    let new = TestEngine::on(Arc::clone(&old.db), old.db.connect.clone(), Setup::default()).await;
    assert_eq!(new.engine.checkout(checkout).await, Ok(CheckedOut::Replayed(order_id)));
    assert_eq!(new.stock(sku_id).await, (2, 1));
    new.end().await;
}
