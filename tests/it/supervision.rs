//! Crashes: whoever crashes comes back, costs its neighbours nothing, and takes no promise along.

use std::sync::Arc;

use chrono::TimeDelta;
use futures::future::join_all;
use souk_actors::{
    domain::{OrderStatus, PaymentState, Refusal, Who},
    faults::Fault,
};

use crate::support::{Mood, Op, PATIENCE, Proxy, Setup, TestDb, TestEngine, basket, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_sku_is_quarantined_and_its_neighbours_sell_on() {
    let shop = TestEngine::start().await;
    let (poisoned, healthy) = (shop.sku(10).await, shop.sku(10).await);
    let name = format!("sku/{poisoned}");
    shop.order(poisoned, 1).await;
    shop.faults.arm("sku.hold", Some(&poisoned.to_string()), Fault::Panic, 0, 5);
    for crash in 1..=5 {
        let refused = shop.buy(poisoned, 1).await;
        assert!(matches!(refused, Err(Refusal::Away(_))), "{refused:?}");
        let known = || shop.actor(&name).is_some_and(|actor| actor.restarts >= crash - 1 && actor.status != "running");
        eventually("the crash is known", async || known()).await;
        shop.order(healthy, 1).await;
        shop.later(TimeDelta::seconds(4));
    }
    eventually("it is quarantined", async || shop.actor(&name).is_some_and(|actor| actor.status == "quarantined"))
        .await;
    shop.later(TimeDelta::minutes(10)); // no time heals it
    let refused = shop.buy(poisoned, 1).await;
    assert!(matches!(refused, Err(Refusal::Away(why)) if why.contains("quarantined")));
    let both = shop.engine.checkout(basket(&[(healthy, 1), (poisoned, 1)])).await;
    assert!(matches!(both, Err(Refusal::Away(_))));
    assert!(shop.actor(&name).and_then(|actor| actor.last_error).is_some_and(|error| error.contains("sku.hold")));

    shop.engine.release(&name).unwrap();
    assert_eq!(shop.engine.release("sku/nonsense"), Err(Refusal::NotFound("actor")));
    shop.order(poisoned, 1).await;
    assert_eq!(shop.stock(poisoned).await.1 + shop.stock(healthy).await.1, 7);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_with_promises_out_sells_nothing_twice() {
    let db = Arc::new(TestDb::new().await);
    let proxy = Proxy::before(&db.connect);
    let connect = proxy.through(&db.connect);
    let shop = Arc::new(TestEngine::on(db, connect, Setup::default()).await);
    let sku_id = shop.sku(10).await;
    let name = format!("sku/{sku_id}");
    proxy.hold_up(true);
    let buy = || {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.buy(sku_id, 1).await })
    };
    let promised: Vec<_> = (0..8).map(|_| buy()).collect();
    eventually("eight are promised", async || shop.actor(&name).is_some_and(|actor| actor.handled == 8)).await;
    shop.faults.arm("sku.hold", None, Fault::Panic, 0, 1);
    assert!(matches!(buy().await.unwrap(), Err(Refusal::Away(_))));
    eventually("the crash is known", async || shop.actor(&name).is_some_and(|actor| actor.last_error.is_some())).await;
    shop.later(TimeDelta::seconds(1));
    // two are left, however the new actor counts
    let after: Vec<_> = (0..5).map(|_| buy()).collect();
    eventually("they have asked", async || shop.actor(&name).is_some_and(|actor| actor.handled == 14)).await;
    proxy.hold_up(false);
    let sold = join_all(promised).await.into_iter().filter(|answer| answer.as_ref().unwrap().is_ok()).count();
    let more = join_all(after).await.into_iter().filter(|answer| answer.as_ref().unwrap().is_ok()).count();
    assert_eq!((sold, more), (8, 2));
    assert_eq!(shop.stock(sku_id).await, (10, 10));
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_crashes_in_the_middle_of_its_money_is_finished_all_the_same() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    for point in ["order.learned", "order.confirmed", "payment.announced"] {
        let order_id = shop.order(sku_id, 1).await;
        shop.faults.arm(point, None, Fault::Panic, 0, 1);
        let provider_order_id = if point == "payment.announced" {
            assert_eq!(shop.engine.pay(order_id, "fake").await, Err(Refusal::Unknown));
            eventually("its actor is back", async || {
                shop.later(TimeDelta::seconds(1));
                shop.engine.pay(order_id, "fake").await.is_ok()
            })
            .await;
            shop.approve(order_id).await
        } else {
            shop.approve(order_id).await
        };
        shop.call_about(&provider_order_id).await;
        eventually("it is confirmed", async || {
            shop.later(TimeDelta::seconds(1));
            shop.view(order_id).await.status == OrderStatus::Confirmed
        })
        .await;
    }
    let order_id = shop.order(sku_id, 1).await;
    shop.faults.arm("order.before_expire", None, Fault::Panic, 0, 2);
    eventually("it expires", async || {
        shop.later(TimeDelta::minutes(1));
        shop.view(order_id).await.status == OrderStatus::Expired
    })
    .await;
    assert_eq!(shop.provider.charges(), 3);
    assert_eq!(shop.stock(sku_id).await, (10, 3));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_sale_loses_and_doubles_nothing() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(100).await;
    let mut placed = 0;
    for point in souk_actors::faults::POINTS {
        if point.starts_with("journal.") || *point == "inbox.stored" {
            continue; // a journal that panics ends the process, and the third is our own task here
        }
        shop.faults.clear();
        shop.faults.arm(point, None, Fault::Panic, 0, 1);
        let mut checkout = basket(&[(sku_id, 1)]);
        checkout.payment = Some("fake".into());
        let order_id = eventually_placed(&shop, &checkout).await;
        placed += 1;
        let mut page = None;
        eventually(&format!("{point}: it is announced"), async || {
            shop.later(TimeDelta::milliseconds(500));
            page = shop.engine.pay(order_id, "fake").await.ok();
            page.is_some()
        })
        .await;
        let provider_order_id = shop.provider.approve(&page.unwrap());
        shop.call_about(&provider_order_id).await;
        eventually(&format!("{point}: it is confirmed"), async || {
            shop.later(TimeDelta::seconds(1));
            shop.view(order_id).await.status == OrderStatus::Confirmed
        })
        .await;
        assert_eq!(shop.provider.charges(), placed, "{point}");
    }
    shop.faults.clear();
    assert_eq!(shop.stock(sku_id).await, (100, placed as i64));
    assert_eq!(shop.count("select count(*) from customer_order").await, placed as i64);
    shop.end().await;
}

async fn eventually_placed(shop: &TestEngine, checkout: &souk_actors::Checkout) -> souk_actors::domain::OrderId {
    let mut placed = None;
    eventually("it is placed", async || {
        shop.later(TimeDelta::seconds(1));
        placed = match shop.engine.checkout(checkout.clone()).await {
            Ok(souk_actors::CheckedOut::New(new)) => Some(new.order_id),
            Ok(souk_actors::CheckedOut::Replayed(order_id)) => Some(order_id),
            Err(Refusal::Unknown | Refusal::Away(_)) => None,
            Err(refusal) => panic!("{refusal}"),
        };
        placed.is_some()
    })
    .await;
    placed.expect("just seen")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_everything_depends_on_gives_up_in_the_end() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.order(sku_id, 1).await;
    shop.provider.always(Op::Create, Mood::Hangs);
    // a call that panics is a call without an answer, not a crash of whoever makes it
    shop.faults.arm("payment.before_create", None, Fault::Panic, 0, 3);
    let engine = Arc::clone(&shop.engine);
    let paying = tokio::spawn(async move { engine.pay(order_id, "fake").await });
    shop.provider.always(Op::Create, Mood::Well);
    eventually("the fourth is made", async || {
        shop.later(TimeDelta::seconds(1));
        paying.is_finished()
    })
    .await;
    paying.await.unwrap().unwrap();
    assert!(shop.actor("payment/fake").is_some_and(|actor| actor.restarts == 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_actors_rest_and_wake_with_what_they_knew() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.order(sku_id, 3).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    let (sku, order) = (format!("sku/{sku_id}"), format!("order/{order_id}"));
    assert!(shop.actor(&sku).is_some() && shop.actor(&order).is_some());
    eventually("both rest", async || {
        shop.later(TimeDelta::seconds(10));
        shop.actor(&sku).is_none() && shop.actor(&order).is_none()
    })
    .await;
    assert_eq!(shop.engine.available(&[sku_id]).await.unwrap()[&sku_id], shop.counters(sku_id).await.available());
    match shop.engine.pay(order_id, "fake").await {
        Ok(page) => assert_eq!(page, approve_url),
        // it took so long that the hold was over
        Err(refusal) => assert!(matches!(refusal, Refusal::NotNow { status: OrderStatus::Expired, .. }), "{refusal}"),
    }
    let reserved = shop.stock(sku_id).await.1;
    shop.order(sku_id, 10 - reserved).await;
    assert!(matches!(shop.buy(sku_id, 1).await, Err(Refusal::OutOfStock(_))));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selling_goes_on_while_actors_are_put_to_rest() {
    let shop = Arc::new(TestEngine::start().await);
    let sku_id = shop.sku(400).await;
    let buyers: Vec<_> = (0..8)
        .map(|_| {
            let shop = Arc::clone(&shop);
            tokio::spawn(async move {
                for turn in 0..50 {
                    let order_id = shop.order(sku_id, 1).await;
                    shop.clock.advance(TimeDelta::milliseconds(500));
                    if turn % 5 == 0 {
                        shop.engine.cancel(order_id, Who::Buyer).await.expect("it is unpaid");
                    }
                }
            })
        })
        .collect();
    for buyer in buyers {
        buyer.await.unwrap();
    }
    assert_eq!(shop.stock(sku_id).await, (400, 320));
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_stops_finishes_what_was_begun() {
    let shop = Arc::new(TestEngine::start().await);
    let sku_id = shop.sku(1_000).await;
    let buyers: Vec<_> = (0..200)
        .map(|_| {
            let shop = Arc::clone(&shop);
            tokio::spawn(async move { shop.buy(sku_id, 1).await })
        })
        .collect();
    eventually("some are sold", async || shop.engine.journal().entries > 5).await;
    shop.engine.stop().await;
    let mut sold = 0;
    for buyer in buyers {
        match buyer.await.unwrap() {
            Ok(_) => sold += 1,
            Err(Refusal::Away(_) | Refusal::Unknown) => {}
            Err(refusal) => panic!("{refusal}"),
        }
    }
    assert!(sold > 0);
    let next = TestEngine::on(Arc::clone(&shop.db), shop.db.connect.clone(), Setup::default()).await;
    assert_eq!(next.stock(sku_id).await, (1_000, sold), "who heard nothing else has nothing");
    next.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_stops_although_a_provider_hangs() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.provider.always(Op::Create, Mood::Hangs);
    let engine = Arc::clone(&shop.engine);
    let paying = tokio::spawn(async move { engine.pay(order_id, "fake").await });
    eventually("the provider was asked", async || shop.provider.calls(Op::Create) == 1).await;
    let stopping = tokio::time::timeout(PATIENCE, shop.engine.stop());
    stopping.await.expect("it stops");
    assert_eq!(paying.await.unwrap(), Err(Refusal::Unknown));
    let next = TestEngine::on(Arc::clone(&shop.db), shop.db.connect.clone(), Setup::default()).await;
    eventually("the next one announces it", async || next.view(order_id).await.payments[0].approve_url.is_some()).await;
    assert_eq!(next.view(order_id).await.payments[0].status, PaymentState::Created);
    next.end().await;
}
