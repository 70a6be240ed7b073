//! The journal: acknowledged is committed, once; what nobody knows is found out; neighbours in a batch do not suffer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use souk_actors::{
    CheckedOut, Engine,
    domain::{OrderId, OrderStatus, Refusal, SkuId, Who},
};
use sqlx::{Connection, PgConnection};

use crate::support::{Cut, PATIENCE, Proxy, Setup, TestDb, TestEngine, basket, eventually};

async fn behind_proxy() -> (Arc<TestEngine>, Proxy) {
    let db = Arc::new(TestDb::new().await);
    let proxy = Proxy::before(&db.connect);
    let connect = proxy.through(&db.connect);
    (Arc::new(TestEngine::on(db, connect, Setup::default()).await), proxy)
}

/// What buyers were told, by their keys.
#[derive(Default)]
struct Told {
    placed: Vec<(String, OrderId)>,
    refused: Vec<String>,
    cancelled: Vec<OrderId>,
}

/// Buys until told to stop, asking again with the same key while the answer is "nobody knows"; calls every third order off.
async fn buyer(engine: Arc<Engine>, sku_id: SkuId, enough: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    while !enough.load(Ordering::Relaxed) {
        let checkout = basket(&[(sku_id, 1)]);
        let order_id = loop {
            match engine.checkout(checkout.clone()).await {
                Ok(CheckedOut::New(placed)) => break Some(placed.order_id),
                Ok(CheckedOut::Replayed(order_id)) => break Some(order_id),
                Err(Refusal::Unknown) => tokio::task::yield_now().await,
                Err(Refusal::Away(_) | Refusal::OutOfStock(_) | Refusal::Superseded) => break None,
                Err(refusal) => panic!("{refusal}"),
            }
        };
        match order_id {
            Some(order_id) => told.placed.push((checkout.key, order_id)),
            None => told.refused.push(checkout.key),
        }
        let Some(order_id) = order_id.filter(|_| told.placed.len().is_multiple_of(3)) else {
            tokio::task::yield_now().await;
            continue;
        };
        if engine.cancel(order_id, Who::Buyer).await.is_ok() {
            told.cancelled.push(order_id);
        }
    }
    told
}

async fn compare(conn: &mut PgConnection, told: &[Told]) {
    let placed: Vec<_> = told.iter().flat_map(|told| told.placed.iter().cloned()).collect();
    let refused: Vec<_> = told.iter().flat_map(|told| told.refused.iter().cloned()).collect();
    let cancelled: Vec<i64> = told.iter().flat_map(|told| told.cancelled.iter().map(|id| id.0)).collect();
    let (keys, ids): (Vec<_>, Vec<_>) = placed.into_iter().map(|(key, id)| (key, id.0)).unzip();
    let kept: i64 = sqlx::query_scalar(
        "select count(*) from unnest($1::text[], $2::bigint[]) w(key, id)
         join idempotency i on i.key = w.key and i.ref_id = w.id join customer_order o on o.id = w.id",
    )
    .bind(&keys)
    .bind(&ids)
    .fetch_one(&mut *conn)
    .await
    .expect("an answer");
    assert_eq!(kept, keys.len() as i64, "acknowledged, so it is there");
    let sql = "select count(*) from idempotency where key = any($1)";
    let wrong: i64 = sqlx::query_scalar(sql).bind(&refused).fetch_one(&mut *conn).await.expect("an answer");
    assert_eq!(wrong, 0, "refused, so it is not there");
    let sql = "select count(*) from customer_order where id = any($1) and status = 'cancelled'";
    let undone: i64 = sqlx::query_scalar(sql).bind(&cancelled).fetch_one(&mut *conn).await.expect("an answer");
    assert_eq!(undone, cancelled.len() as i64, "called off, so it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_cuts_at_the_worst_moments_and_every_buyer_knows_the_truth() {
    let (shop, proxy) = behind_proxy().await;
    let sku_id = shop.sku(1_000_000).await;
    let enough = Arc::new(AtomicBool::new(false));
    let buyers: Vec<_> =
        (0..12).map(|_| tokio::spawn(buyer(Arc::clone(&shop.engine), sku_id, Arc::clone(&enough)))).collect();
    for turn in 0..50 {
        let how = [Cut::Before, Cut::After, Cut::During, Cut::AfterCommit][turn % 4];
        proxy.cut(how);
        eventually("the line is cut", async || proxy.cuts() as usize == turn + 1).await;
    }
    eventually("the journal is back", async || shop.engine.serving().is_ok()).await;
    enough.store(true, Ordering::Relaxed);
    let told: Vec<Told> = join_all(buyers).await.into_iter().map(Result::unwrap).collect();
    compare(&mut shop.db.conn().await, &told).await;
    let (placed, cancelled): (usize, usize) =
        told.iter().fold((0, 0), |sum, told| (sum.0 + told.placed.len(), sum.1 + told.cancelled.len()));
    assert!(placed > 50, "{placed} were placed meanwhile");
    assert_eq!(shop.stock(sku_id).await, (1_000_000, (placed - cancelled) as i64));
    assert!(shop.engine.journal().recoveries >= 10, "{:?}", shop.engine.journal());
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_ends_the_journals_sessions_and_nothing_is_lost() {
    let shop = Arc::new(TestEngine::start().await);
    let sku_id = shop.sku(1_000_000).await;
    let enough = Arc::new(AtomicBool::new(false));
    let buyers: Vec<_> =
        (0..4).map(|_| tokio::spawn(buyer(Arc::clone(&shop.engine), sku_id, Arc::clone(&enough)))).collect();
    let mut conn = shop.db.conn().await;
    for turn in 1..=10 {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
                   where application_name = 'souk journal' and datname = current_database()";
        sqlx::query(sql).execute(&mut conn).await.unwrap();
        eventually("the journal is back", async || shop.engine.journal().recoveries >= turn).await;
    }
    enough.store(true, Ordering::Relaxed);
    let told: Vec<Told> = join_all(buyers).await.into_iter().map(Result::unwrap).collect();
    compare(&mut conn, &told).await;
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hears_of_what_is_not_committed() {
    let shop = Arc::new(TestEngine::start().await);
    let sku_id = shop.sku(5).await;
    let order_id = shop.order(sku_id, 1).await;
    let mut other = shop.db.conn().await;
    sqlx::raw_sql("begin; lock table ledger in exclusive mode").execute(&mut other).await.unwrap();
    let begun = Arc::clone(&shop);
    let mut buying = tokio::spawn(async move { begun.buy(sku_id, 1).await });
    let begun = Arc::clone(&shop);
    let mut cancelling = tokio::spawn(async move { begun.engine.cancel(order_id, Who::Buyer).await });
    // longer than the journal waits for a lock, so it has given up and tried again
    let patience = Duration::from_millis(500);
    tokio::time::timeout(patience, &mut buying).await.expect_err("it cannot be committed");
    assert!(!cancelling.is_finished());
    assert_eq!(shop.engine.available(&[sku_id]).await.unwrap()[&sku_id], 4, "what is shown is committed");
    assert_eq!(shop.view(order_id).await.status, OrderStatus::AwaitingPayment);
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    buying.await.unwrap().unwrap();
    assert_eq!((&mut cancelling).await.unwrap(), Ok(OrderStatus::Cancelled));
    assert_eq!(shop.stock(sku_id).await, (5, 1));
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_engine_takes_over_and_the_older_one_changes_nothing_more() {
    let old = TestEngine::start().await;
    let sku_id = old.sku(10).await;
    let order_id = old.order(sku_id, 1).await;
    let new = TestEngine::on(Arc::clone(&old.db), old.db.connect.clone(), Setup::default()).await;
    new.order(sku_id, 2).await;

    assert_eq!(old.buy(sku_id, 1).await, Err(Refusal::Superseded));
    assert_eq!(old.engine.serving(), Err(Refusal::Superseded));
    assert!(old.engine.gave_up().await.contains("newer engine"));
    assert_eq!(old.engine.cancel(order_id, Who::Buyer).await, Err(Refusal::Superseded));
    assert_eq!(new.stock(sku_id).await, (10, 3));
    assert_eq!(new.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelled));
    old.engine.stop().await;
    new.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_engine_finds_out_that_it_was_superseded() {
    let old = TestEngine::start().await;
    let new = TestEngine::on(Arc::clone(&old.db), old.db.connect.clone(), Setup::default()).await;
    let gave_up = tokio::time::timeout(PATIENCE, old.engine.gave_up()).await;
    assert!(gave_up.is_ok_and(|why| why.contains("newer engine")), "nobody asked it for anything, and yet it knows");
    old.engine.stop().await;
    new.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_take_over_from_each_other_in_the_middle_of_a_sale() {
    let db = Arc::new(TestDb::new().await);
    let mut serving = TestEngine::on(Arc::clone(&db), db.connect.clone(), Setup::default()).await;
    let sku_id = serving.sku(300).await;
    let mut told = Vec::new();
    for _ in 0..4 {
        let enough = Arc::new(AtomicBool::new(false));
        let buyers: Vec<_> =
            (0..6).map(|_| tokio::spawn(buyer(Arc::clone(&serving.engine), sku_id, Arc::clone(&enough)))).collect();
        let sold = serving.engine.journal().entries + 10;
        eventually("some are sold", async || {
            serving.engine.journal().entries >= sold || serving.stock(sku_id).await.1 == 300
        })
        .await;
        let next = TestEngine::on(Arc::clone(&db), db.connect.clone(), Setup::default()).await;
        // an idle journal learns it with its next batch
        next.order(next.sku(1).await, 1).await;
        eventually("the older one knows", async || {
            serving.buy(sku_id, 1_000_000).await.ok();
            serving.engine.serving().is_err() || serving.engine.adjust(nudge(sku_id)).await.is_err()
        })
        .await;
        enough.store(true, Ordering::Relaxed);
        for told_one in join_all(buyers).await {
            told.push(told_one.unwrap());
        }
        serving.engine.stop().await;
        serving = next;
    }
    // who was superseded in the middle may have been refused although nobody knew: only what was acknowledged counts
    for told in &mut told {
        told.refused.clear();
    }
    compare(&mut db.conn().await, &told).await;
    assert!(serving.stock(sku_id).await.1 <= 300);
    serving.end().await;
}

fn nudge(sku_id: SkuId) -> souk_actors::Adjust {
    let key = basket(&[]).key;
    souk_actors::Adjust {
        principal: "staff".into(),
        key,
        fingerprint: [0; 32],
        sku_id,
        correction: souk_actors::domain::Correction::By(1),
        reason: "nudge".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_or_a_failure_in_a_batch_harms_no_neighbour() {
    let (shop, proxy) = behind_proxy().await;
    let sku_id = shop.sku(1_000).await;
    let mut used = basket(&[(sku_id, 1)]);
    let CheckedOut::New(before) = shop.engine.checkout(used.clone()).await.unwrap() else { panic!("it is new") };
    let moved = shop.order(sku_id, 1).await;
    let steady = shop.order(sku_id, 1).await;
    for order_id in [moved, steady] {
        shop.engine.pay(order_id, "fake").await.unwrap(); // their actors are awake
    }
    // somebody has moved an order behind its actor's back
    let mut conn = shop.db.conn().await;
    sqlx::query("update customer_order set version = version + 1 where id = $1")
        .bind(moved)
        .execute(&mut conn)
        .await
        .unwrap();
    // and a key is one that this engine has not seen used
    used.key = "of an earlier life".into();
    sqlx::query("update idempotency set key = $1 where ref_id = $2")
        .bind(&used.key)
        .bind(before.order_id)
        .execute(&mut conn)
        .await
        .unwrap();

    let open = shop.engine.journal().entries;
    proxy.hold_up(true);
    let buy = |checkout: souk_actors::Checkout| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.engine.checkout(checkout).await })
    };
    let first = buy(basket(&[(sku_id, 1)]));
    eventually("the first batch is on its way", async || {
        shop.actor(&format!("sku/{sku_id}")).is_some_and(|actor| actor.handled == 4)
            && shop.engine.journal().queued == 0
    })
    .await;
    let good: Vec<_> = (0..40).map(|_| buy(basket(&[(sku_id, 1)]))).collect();
    let again = buy(used.clone());
    let poison: Vec<_> = (0..3)
        .map(|_| {
            let mut checkout = basket(&[(sku_id, 1)]);
            checkout.principal = "no\0body".into();
            buy(checkout)
        })
        .collect();
    let cancel = |order_id| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.engine.cancel(order_id, Who::Buyer).await })
    };
    let (stale, fresh) = (cancel(moved), cancel(steady));
    eventually("all are in the queue", async || shop.engine.journal().queued == 46).await;
    proxy.hold_up(false);

    assert!(matches!(first.await.unwrap(), Ok(CheckedOut::New(_))));
    for checkout in good {
        assert!(matches!(checkout.await.unwrap(), Ok(CheckedOut::New(_))));
    }
    assert_eq!(again.await.unwrap(), Ok(CheckedOut::Replayed(before.order_id)));
    for checkout in poison {
        assert_eq!(checkout.await.unwrap(), Err(Refusal::Fault));
    }
    assert_eq!(stale.await.unwrap(), Ok(OrderStatus::Cancelled), "loaded again, and decided again");
    assert_eq!(fresh.await.unwrap(), Ok(OrderStatus::Cancelled));
    let report = shop.engine.journal();
    assert_eq!((report.failures, report.conflicts), (3, 2), "{report:?}");
    assert!(report.entries > open);
    assert_eq!(shop.stock(sku_id).await, (1_000, 42));
    shop.clean().await;
    shop.engine.stop().await;
}

/// The client has hung up, so nothing in this process holds the second one back: both are in one batch, and the first counts.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_after_hanging_up_waits_and_finds_the_order() {
    let (shop, proxy) = behind_proxy().await;
    let sku_id = shop.sku(10).await;
    shop.order(sku_id, 1).await; // its actor is awake, and there are numbers
    let buy = |checkout: souk_actors::Checkout| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.engine.checkout(checkout).await })
    };
    let queued = async |entries: usize| {
        eventually("they are in the queue", async || shop.engine.journal().queued == entries).await;
    };
    proxy.hold_up(true);
    let ahead = buy(basket(&[(sku_id, 1)]));
    eventually("the first batch is on its way", async || {
        shop.actor(&format!("sku/{sku_id}")).is_some_and(|actor| actor.handled == 2)
            && shop.engine.journal().queued == 0
    })
    .await;
    let checkout = basket(&[(sku_id, 2)]);
    let impatient = buy(checkout.clone());
    queued(1).await;
    impatient.abort();
    impatient.await.expect_err("it hung up");
    let again = buy(checkout); // behind the first, or after it: its key is taken then
    proxy.hold_up(false);

    assert!(matches!(ahead.await.unwrap(), Ok(CheckedOut::New(_))));
    assert!(matches!(again.await.unwrap(), Ok(CheckedOut::Replayed(_))));
    assert_eq!(shop.engine.journal().failures, 0);
    assert_eq!(shop.count("select count(*) from customer_order").await, 3);
    assert_eq!(shop.stock(sku_id).await, (10, 4));
    shop.clean().await;
    shop.engine.stop().await;
}

/// A key of an earlier life is not known to this one, so it is the journal that finds it: its batch is written without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_an_earlier_life_costs_its_neighbours_nothing() {
    let (before, proxy) = behind_proxy().await;
    let sku_id = before.sku(100).await;
    let old = basket(&[(sku_id, 2)]);
    let Ok(CheckedOut::New(placed)) = before.engine.checkout(old.clone()).await else { panic!("placed") };
    before.engine.stop().await;

    let shop =
        Arc::new(TestEngine::on(Arc::clone(&before.db), proxy.through(&before.db.connect), Setup::default()).await);
    shop.order(sku_id, 1).await; // its actor is awake, and there are numbers
    let buy = |checkout: souk_actors::Checkout| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.engine.checkout(checkout).await })
    };
    proxy.hold_up(true);
    let mut buyers = vec![buy(basket(&[(sku_id, 1)]))];
    eventually("the first batch is on its way", async || {
        shop.actor(&format!("sku/{sku_id}")).is_some_and(|actor| actor.handled == 2)
            && shop.engine.journal().queued == 0
    })
    .await;
    buyers.extend((0..5).map(|_| buy(basket(&[(sku_id, 1)]))));
    let again = buy(old.clone());
    buyers.extend((0..5).map(|_| buy(basket(&[(sku_id, 1)]))));
    eventually("they are in the queue", async || shop.engine.journal().queued == 11).await;
    let batches = shop.engine.journal().batches;
    proxy.hold_up(false);

    for buyer in buyers {
        assert!(matches!(buyer.await.unwrap(), Ok(CheckedOut::New(_))));
    }
    assert_eq!(again.await.unwrap().expect("it is found"), CheckedOut::Replayed(placed.order_id));
    let report = shop.engine.journal();
    assert_eq!((report.batches - batches, report.conflicts, report.failures), (2, 1, 0), "one batch, one taken out");
    // and from now on it is known, and does not come to the journal again
    assert_eq!(shop.engine.checkout(old).await.expect("it is found"), CheckedOut::Replayed(placed.order_id));
    assert_eq!(shop.engine.journal().conflicts, 1);
    assert_eq!(shop.stock(sku_id).await, (100, 2 + 1 + 11));
    shop.clean().await;
    shop.engine.stop().await;
}

/// Postgres believes that hardly anything waits, and would find a webhook among those that do; and what it believes of whole
/// tables it is asked to count again before an audit reads them.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_not_read_to_mark_one_of_it() {
    const WAITING: i64 = 5_000;
    let shop = TestEngine::start().await;
    let mut conn = shop.db.conn().await;
    let waiting =
        "insert into inbox (provider, event_id, transmission_id, event_type, locator, body, received_at, next_at)
                   select 'other', n::text, n::text, '', '{}', '', now(), 'infinity' from generate_series(1, $1) n";
    sqlx::query(waiting).bind(WAITING).execute(&mut conn).await.expect("webhooks");
    conn.close().await.expect("what it did is counted");
    shop.sold(shop.sku(1).await, 1).await;
    let marked = "select n_tup_upd from pg_stat_user_tables where relname = 'inbox'";
    eventually("one is marked", async || shop.count(marked).await > 0).await;
    let read = "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'inbox_open'";
    assert!(shop.count(read).await < WAITING);
    shop.clean().await;
    let counted = "select analyze_count + autoanalyze_count from pg_stat_user_tables where relname = 'inbox'";
    assert!(shop.count(counted).await > 0);
    shop.end().await;
}
