//! Stock: nothing is sold twice, nothing is lost, and the database has the last word.

use std::sync::Arc;

use futures::future::join_all;
use souk_actors::{
    Adjust,
    domain::{Correction, Refusal, SkuId},
};

use crate::support::{Proxy, Setup, TestDb, TestEngine, basket, eventually, fingerprint};

#[tokio::test(flavor = "multi_thread")]
async fn one_unit_and_five_hundred_buyers_make_one_order() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    // on a busy machine somebody may be asked to come again
    let insist = async |_: usize| loop {
        match shop.buy(sku_id, 1).await {
            Err(Refusal::Away(_)) => {}
            answer => break answer,
        }
    };
    let answers = join_all((0..500).map(insist)).await;
    let (sold, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(sold.len(), 1);
    for refusal in refused {
        let Err(Refusal::OutOfStock(short)) = refusal else { panic!("{refusal:?}") };
        assert_eq!((short[0].sku_id, short[0].requested, short[0].available), (sku_id, 1, 0));
    }
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_units_and_a_thousand_buyers_make_two_hundred_orders() {
    let shop = Arc::new(TestEngine::start().await);
    let sku_id = shop.sku(200).await;
    let buyers = (0..64).map(|number| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            let mut sold = 0;
            for _ in (number..1_000).step_by(64) {
                sold += i64::from(shop.buy(sku_id, 1).await.is_ok());
            }
            sold
        })
    });
    let sold: i64 = join_all(buyers).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(sold, 200);
    assert_eq!(shop.stock(sku_id).await, (200, 200));
    assert_eq!(shop.count("select count(*) from customer_order").await, 200);
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn baskets_in_any_order_never_wait_in_a_circle() {
    let shop = TestEngine::start().await;
    let mut skus = Vec::new();
    for _ in 0..10 {
        skus.push(shop.sku(30).await);
    }
    let baskets = (0..100).map(|turn| {
        let mut lines: Vec<(SkuId, i64)> = skus.iter().map(|sku_id| (*sku_id, 1)).collect();
        lines.rotate_left(turn % 10);
        if turn % 2 == 0 {
            lines.reverse();
        }
        shop.engine.checkout(basket(&lines))
    });
    let answers = join_all(baskets).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 30, "whole baskets, or nothing");
    for sku_id in skus {
        assert_eq!(shop.stock(sku_id).await, (30, 30));
    }
    shop.end().await;
}

/// An engine whose journal can be held up.
async fn behind_proxy() -> (TestEngine, Proxy) {
    let db = Arc::new(TestDb::new().await);
    let proxy = Proxy::before(&db.connect);
    let connect = proxy.through(&db.connect);
    (TestEngine::on(db, connect, Setup::default()).await, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_meets_only_promises_waits_and_is_served_in_order_of_arrival() {
    let (shop, proxy) = behind_proxy().await;
    let shop = Arc::new(shop);
    let sku_id = shop.sku(3).await;
    proxy.hold_up(true);
    let buyer = |quantity| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.buy(sku_id, quantity).await })
    };
    let handled = || shop.actor(&format!("sku/{sku_id}")).map_or(0, |actor| actor.handled);
    let first = buyer(2);
    eventually("the first is promised two", async || handled() == 1).await;
    let second = buyer(2); // one is left: waits for the first
    eventually("the second waits", async || handled() == 2).await;
    let third = buyer(1); // would fit, and does not overtake
    eventually("the third waits", async || handled() == 3).await;
    let fourth = buyer(4);
    assert!(matches!(fourth.await.unwrap(), Err(Refusal::OutOfStock(_))), "that is more than there ever was");
    assert!(!first.is_finished() && !second.is_finished() && !third.is_finished());
    proxy.hold_up(false);
    assert!(first.await.unwrap().is_ok());
    assert!(matches!(second.await.unwrap(), Err(Refusal::OutOfStock(_))));
    assert!(third.await.unwrap().is_ok());
    assert_eq!(shop.stock(sku_id).await, (3, 3));
    shop.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_overtakes_who_waits() {
    let (shop, proxy) = behind_proxy().await;
    let shop = Arc::new(shop);
    let sku_id = shop.sku(2).await;
    proxy.hold_up(true);
    let buyer = |quantity, name: &'static str| {
        let shop = Arc::clone(&shop);
        let mut checkout = basket(&[(sku_id, quantity)]);
        checkout.principal = name.into();
        tokio::spawn(async move { shop.engine.checkout(checkout).await })
    };
    let handled = || shop.actor(&format!("sku/{sku_id}")).map_or(0, |actor| actor.handled);
    let poison = buyer(1, "\0"); // Postgres will refuse it, and its promise falls through
    eventually("the first is promised one", async || handled() == 1).await;
    let early = buyer(2, "Ann");
    eventually("the second waits for it", async || handled() == 2).await;
    let late = buyer(1, "Ben");
    eventually("the third waits, although one is free", async || handled() == 3).await;
    proxy.hold_up(false);
    assert_eq!(poison.await.unwrap(), Err(Refusal::Fault));
    early.await.unwrap().expect("both are his");
    assert!(matches!(late.await.unwrap(), Err(Refusal::OutOfStock(_))));
    shop.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_that_fall_through_go_to_whoever_waits() {
    let (shop, proxy) = behind_proxy().await;
    let shop = Arc::new(shop);
    let (rare, common) = (shop.sku(1).await, shop.sku(1).await);
    let taken = shop.order(common, 1).await;
    proxy.hold_up(true);
    // a word to Postgres that nobody hears the answer of: from here on nothing settles
    let adjusting = tokio::spawn({
        let shop = Arc::clone(&shop);
        async move { shop.sku(7).await }
    });
    // this one is promised the rare one and then finds the common one gone
    let unlucky = shop.engine.checkout(basket(&[(rare, 1), (common, 1)])).await;
    assert!(matches!(unlucky, Err(Refusal::OutOfStock(_))));
    proxy.hold_up(false);
    adjusting.await.unwrap();
    shop.order(rare, 1).await;
    assert!(shop.view(taken).await.lines.len() == 1);
    shop.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_leaves_the_queue_holds_nothing() {
    let (shop, proxy) = behind_proxy().await;
    let shop = Arc::new(shop);
    let sku_id = shop.sku(2).await;
    proxy.hold_up(true);
    let buyer = || {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.buy(sku_id, 2).await })
    };
    let handled = || shop.actor(&format!("sku/{sku_id}")).map_or(0, |actor| actor.handled);
    let poison = {
        let shop = Arc::clone(&shop);
        let mut checkout = basket(&[(sku_id, 2)]);
        checkout.principal = "\0".into(); // Postgres will refuse it, and its promise falls through
        tokio::spawn(async move { shop.engine.checkout(checkout).await })
    };
    eventually("the first is promised both", async || handled() == 1).await;
    let leaver = buyer();
    eventually("one waits", async || handled() == 2).await;
    let stayer = buyer();
    eventually("two wait", async || handled() == 3).await;
    leaver.abort();
    leaver.await.unwrap_err();
    proxy.hold_up(false);
    assert_eq!(poison.await.unwrap(), Err(Refusal::Fault));
    stayer.await.unwrap().expect("both are his");
    assert_eq!(shop.count("select count(*) from customer_order").await, 1);
    shop.clean().await;
}

fn adjust(sku_id: SkuId, key: &str, delta: i64) -> Adjust {
    Adjust {
        principal: "staff".into(),
        key: key.into(),
        fingerprint: fingerprint(&format!("{sku_id:?}{delta}")[8..]),
        sku_id,
        correction: Correction::By(delta),
        reason: "counted".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_corrects_stock_by_what_changed() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    shop.order(sku_id, 4).await;
    let counters = shop.engine.adjust(adjust(sku_id, "a", -6)).await.expect("six are free");
    assert_eq!((counters.on_hand, counters.reserved), (4, 4));
    let below = shop.engine.adjust(adjust(sku_id, "b", -1)).await;
    assert_eq!(below, Err(Refusal::BelowReserved { available: 0 }));
    let counters = shop.engine.adjust(adjust(sku_id, "b", 5)).await.expect("a refusal is not remembered");
    assert_eq!((counters.on_hand, counters.reserved), (9, 4));

    shop.engine.adjust(adjust(sku_id, "a", -6)).await.expect("said twice");
    assert_eq!(shop.stock(sku_id).await, (9, 4), "and done once");
    let answers = join_all((0..50).map(|_| shop.engine.adjust(adjust(sku_id, "c", 1)))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(shop.stock(sku_id).await, (10, 4));
    let answers = join_all((0..20).map(|_| shop.engine.adjust(adjust(sku_id, "d", -6)))).await;
    assert!(answers.iter().all(Result::is_ok), "the six free ones go once, and all hear so: {answers:?}");
    assert_eq!(shop.stock(sku_id).await, (4, 4));
    assert_eq!(shop.engine.adjust(adjust(sku_id, "a", 2)).await, Err(Refusal::KeyReused));
    let unknown = SkuId(99);
    for delta in [1, -1] {
        assert_eq!(shop.engine.adjust(adjust(unknown, "e", delta)).await, Err(Refusal::NotFound("SKU")));
    }
    for absurd in [i64::MIN, i64::MAX, 0] {
        let refused = shop.engine.adjust(adjust(sku_id, "f", absurd)).await;
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    }
    shop.end().await;
}

fn set(sku_id: SkuId, key: &str, units: i64, expected: i64) -> Adjust {
    let fingerprint = fingerprint(&format!("{units}/{expected}"));
    Adjust { fingerprint, correction: Correction::To { units, expected }, ..adjust(sku_id, key, 0) }
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_sets_stock_where_it_is_as_expected() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    shop.order(sku_id, 4).await;
    let counters = shop.engine.adjust(set(sku_id, "a", 25, 10)).await.expect("ten are there");
    assert_eq!((counters.on_hand, counters.reserved), (25, 4));
    shop.engine.adjust(set(sku_id, "a", 25, 10)).await.expect("said twice, and done once");
    let late = shop.engine.adjust(set(sku_id, "b", 30, 10)).await;
    assert_eq!(late, Err(Refusal::StockChanged { on_hand: 25 }));
    assert_eq!(shop.engine.adjust(set(sku_id, "b", 3, 25)).await, Err(Refusal::BelowReserved { available: 21 }));
    let counters = shop.engine.adjust(set(sku_id, "b", 4, 25)).await.expect("a refusal is not remembered");
    assert_eq!((counters.on_hand, counters.reserved), (4, 4));

    let rows = shop.engine.ledger(sku_id, None, 100).await.expect("rows").len();
    shop.engine.adjust(set(sku_id, "same", 4, 4)).await.expect("it is so");
    assert_eq!(shop.engine.ledger(sku_id, None, 100).await.expect("rows").len(), rows, "nothing moved");
    assert_eq!(shop.engine.adjust(set(sku_id, "same", 5, 4)).await, Err(Refusal::KeyReused));
    assert_eq!(shop.engine.adjust(set(SkuId(99), "c", 1, 0)).await, Err(Refusal::NotFound("SKU")));
    for (units, expected) in [(-1, 4), (i64::MAX, 4), (5, -1), (5, i64::MIN)] {
        let refused = shop.engine.adjust(set(sku_id, "d", units, expected)).await;
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    }
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_who_expect_the_same_stock_one_sets_it() {
    let shop = TestEngine::start().await;
    for (first, up) in [(10, 100), (1_000, 0)] {
        let sku_id = shop.sku(first).await;
        let wish = |number: i64| set(sku_id, &format!("{sku_id}-{number}"), up + number, first);
        let sets = join_all((0..50).map(|number| shop.engine.adjust(wish(number)))).await;
        let won: Vec<_> = sets.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{sets:?}");
        let now = shop.counters(sku_id).await.on_hand;
        assert!((up..up + 50).contains(&now) && won[0].on_hand == now);
        for lost in sets.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(*lost, Refusal::StockChanged { on_hand: now });
        }
        assert_eq!(shop.engine.ledger(sku_id, None, 100).await.expect("rows").len(), 2);
    }
    assert_eq!(shop.count("select count(*) from idempotency where route = 'adjust'").await, 2, "who lost left no key");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_move_of_stock_is_a_row_with_its_cause() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let (kept, dropped, late) = (shop.order(sku_id, 1).await, shop.order(sku_id, 2).await, shop.order(sku_id, 1).await);
    let provider_order_id = shop.approve(kept).await;
    shop.call_about(&provider_order_id).await;
    shop.becomes(kept, souk_actors::domain::OrderStatus::Confirmed).await;
    shop.engine.cancel(dropped, souk_actors::domain::Who::Buyer).await.expect("it is unpaid");
    shop.later(chrono::TimeDelta::minutes(16));
    shop.becomes(late, souk_actors::domain::OrderStatus::Expired).await;
    shop.engine.adjust(adjust(sku_id, "count", -1)).await.expect("free");

    let ledger = shop.engine.ledger(sku_id, None, 100).await.expect("rows");
    let mut rows: Vec<_> = ledger
        .iter()
        .map(|row| (row.cause.as_str(), row.d_on_hand, row.d_reserved, row.order_id, row.who.as_str()))
        .collect();
    rows.reverse();
    assert_eq!(
        rows,
        [
            ("open", 5, 0, None, "staff"),
            ("reserve", 0, 1, Some(kept), "buyer"),
            ("reserve", 0, 2, Some(dropped), "buyer"),
            ("reserve", 0, 1, Some(late), "buyer"),
            ("commit", 0, 0, Some(kept), "provider"),
            ("release", 0, -2, Some(dropped), "buyer"),
            ("expire", 0, -1, Some(late), "engine"),
            ("adjust", -1, 0, None, "staff"),
        ]
    );
    assert!(ledger.iter().rev().is_sorted_by_key(|row| row.at));
    assert_eq!(shop.stock(sku_id).await, (4, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_alone_refuses_impossible_stock() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    shop.order(sku_id, 2).await;
    let mut conn = shop.db.conn().await;
    for (set, constraint) in [
        ("on_hand = -1, reserved = -1", "stock_on_hand_not_negative"),
        ("reserved = -1", "stock_reserved_not_negative"),
        ("reserved = 6", "stock_reserved_within_on_hand"),
        ("on_hand = 1", "stock_reserved_within_on_hand"),
        ("unpaid = 3", "stock_unpaid_within_reserved"),
        ("unpaid = -1", "stock_unpaid_within_reserved"),
    ] {
        let sql = format!("update stock set {set} where sku_id = {}", sku_id.0);
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap_err();
        let named = refused.as_database_error().and_then(|error| error.constraint().map(str::to_owned));
        assert_eq!(named.as_deref(), Some(constraint), "{set}");
    }
    let shared = "insert into reservation values (1, 0, 0, 1, 0, 0, 'held')";
    sqlx::raw_sql(shared).execute(&mut conn).await.expect_err("a reservation of nothing");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_believes_in_too_much_stock_is_refused_by_postgres() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    shop.order(sku_id, 1).await; // its actor has the counters in memory
    let mut conn = shop.db.conn().await;
    sqlx::query("update stock set on_hand = 1 where sku_id = $1")
        .bind(sku_id)
        .execute(&mut conn)
        .await
        .expect("stolen");
    assert_eq!(shop.buy(sku_id, 1).await, Err(Refusal::Fault));
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    sqlx::query("update stock set on_hand = 5 where sku_id = $1").bind(sku_id).execute(&mut conn).await.expect("back");
    shop.order(sku_id, 4).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sku_opened_twice_at_once_is_opened_once() {
    let shop = TestEngine::start().await;
    let sku_id = SkuId(77);
    let opening = || souk_actors::domain::change::Opening { sku_id, on_hand: 3 };
    let answers = join_all((0..20).map(|_| shop.engine.open_stock(vec![opening(), opening()]))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(shop.stock(sku_id).await, (3, 0));
    let impossible = souk_actors::domain::change::Opening { sku_id: SkuId(78), on_hand: -1 };
    assert!(matches!(shop.engine.open_stock(vec![impossible]).await, Err(Refusal::Invalid(_))));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_sku_leaves_nothing_behind() {
    let shop = TestEngine::start().await;
    let answers = join_all((1..=100).map(|number| shop.buy(SkuId(number), 1))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Refusal::Invalid(_)))), "{answers:?}");
    let skus = shop.engine.tree(10).children.into_iter().find(|node| node.name == "skus").expect("a branch");
    assert_eq!(skus.children_total, 0);
    // one that opens afterwards is found
    let sku_id = shop.sku(1).await;
    shop.order(sku_id, 1).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basket_that_makes_no_sense_is_refused_at_the_door() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let twice = basket(&[(sku_id, 1), (sku_id, 1)]);
    let nothing = basket(&[]);
    let none = basket(&[(sku_id, 0)]);
    let less = basket(&[(sku_id, -1)]);
    let mut wrong_sum = basket(&[(sku_id, 1)]);
    wrong_sum.total.minor -= 1;
    let mut stranger = basket(&[(sku_id, 1)]);
    stranger.payment = Some("nobody".into());
    for checkout in [twice, nothing, none, less, wrong_sum, stranger] {
        let answer = shop.engine.checkout(checkout).await;
        assert!(matches!(answer, Err(Refusal::Invalid(_))), "{answer:?}");
    }
    assert_eq!(shop.stock(sku_id).await, (5, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_limit_the_engine_refuses_at_once() {
    let db = Arc::new(TestDb::new().await);
    let proxy = Proxy::before(&db.connect);
    let connect = proxy.through(&db.connect);
    let shop = Arc::new(TestEngine::on(db, connect, Setup { admission: 8, ..Setup::default() }).await);
    let sku_id = shop.sku(100).await;
    proxy.hold_up(true);
    let inside: Vec<_> = (0..8)
        .map(|_| {
            let shop = Arc::clone(&shop);
            tokio::spawn(async move { shop.buy(sku_id, 1).await })
        })
        .collect();
    eventually("eight are inside", async || {
        shop.actor(&format!("sku/{sku_id}")).is_some_and(|actor| actor.handled == 8)
    })
    .await;
    let refused = shop.buy(sku_id, 1).await;
    assert_eq!(refused, Err(Refusal::Busy));
    assert!(Refusal::Busy.retry_after().is_some());
    proxy.hold_up(false);
    for buyer in inside {
        buyer.await.unwrap().expect("it was let in");
    }
    shop.order(sku_id, 1).await;
    shop.clean().await;
}
