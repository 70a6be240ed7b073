//! What is left, told as it changes: to whoever asks and to whoever listens; and "sold out", which asks nobody.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::Value;
use souk_actors::{
    CheckedOut, CommandKey,
    domain::{NewSale, Refusal, SaleItem},
};
use sqlx::Connection;

use crate::support::{
    Proxy, Setup, TestDb, TestEngine, basket as wish, eventually,
    shop::{Api, HOLD, TestShop, basket, fresh},
    usd,
};

/// A stream of server-sent events.
pub(crate) struct Ear {
    response: reqwest::Response,
    text: String,
}

impl Ear {
    pub(crate) async fn open(api: &Api, path: &str) -> Self {
        let response =
            api.request(Method::GET, path).timeout(Duration::from_secs(120)).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event's data; none when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                self.text = rest.to_owned();
                match data {
                    Some(data) => return Some(serde_json::from_str(&data).expect("JSON")),
                    None => continue, // a comment
                }
            }
            let chunk = self.response.chunk().await.expect("the line holds")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }

    /// Listens until it hears this; how many events that were.
    pub(crate) async fn until(&mut self, what: &str, heard: impl Fn(&Value) -> bool) -> usize {
        for count in 1.. {
            let next = tokio::time::timeout(Duration::from_secs(60), self.next()).await;
            let event = next.unwrap_or_else(|_| panic!("in vain: {what}")).unwrap_or_else(|| panic!("ended: {what}"));
            if heard(&event) {
                return count;
            }
        }
        unreachable!("it counts for ever")
    }
}

/// How many messages actors of a kind have had.
fn woken(shop: &TestEngine, kind: &str) -> u64 {
    let prefix = format!("{kind}/");
    let nodes = shop.engine.tree(usize::MAX).children.into_iter().flat_map(|directory| directory.children);
    nodes.filter(|node| node.name.starts_with(&prefix)).map(|node| node.handled).sum()
}

async fn left(shop: &Api, sku_id: &str) -> (i64, bool, i64) {
    let left = shop.get(&format!("/v1/skus/{sku_id}/stock")).await.ok();
    let number = |field: &str| left[field].as_i64().expect("a number");
    (number("available"), left["sold_out"] == true, number("may_return"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sold_out_tells_what_may_return() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(3).await;
    assert_eq!(left(&shop, &sku_id).await, (3, false, 0), "nobody is in: Postgres says so");
    let paid = shop.sell(&sku_id).await;
    shop.place(basket(&[(&sku_id, 2)])).await;
    assert_eq!(left(&shop, &sku_id).await, (0, true, 3));
    shop.bank.approve(&paid).await;
    shop.becomes(&paid, "confirmed", "paid").await;
    assert_eq!(left(&shop, &sku_id).await, (0, true, 2), "what is paid does not come back");
    shop.later(HOLD + 1).await;
    eventually("the hold lapses", async || left(&shop, &sku_id).await == (2, false, 0)).await;
    for unknown in ["sku_1", "nonsense", "sku_zzzzzzzzzzzzz"] {
        shop.get(&format!("/v1/skus/{unknown}/stock")).await.is_problem(404, "not_found");
        shop.get(&format!("/v1/skus/{unknown}/stock/stream")).await.is_problem(404, "not_found");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_hears_the_newest_and_goes_home_when_the_shop_closes() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(200).await;
    let path = format!("/v1/skus/{sku_id}/stock/stream");
    let mut ear = Ear::open(&shop, &path).await;
    assert_eq!(ear.next().await.expect("at once")["available"], 200);
    let buyers = (0..200).map(|_| shop.place(basket(&[(&sku_id, 1)])));
    futures::future::join_all(buyers).await;
    let heard = ear.until("sold out", |event| event["sold_out"] == true).await;
    assert!(heard < 150, "{heard} events of 200 changes are not put together");
    // one who comes later hears at once how it stands, and both hear of stock that comes
    let mut late = Ear::open(&shop, &path).await;
    assert_eq!(late.next().await.expect("at once")["may_return"], 200);
    shop.later(HOLD + 1).await;
    for ear in [&mut ear, &mut late] {
        ear.until("it comes back", |event| event["available"] == 200 && event["may_return"] == 0).await;
    }
    let (ends, ()) = tokio::join!(ear.next(), shop.close());
    assert!(ends.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_so_many_places_to_listen() {
    let shop = TestShop::with(&[("SOUK_HTTP__LISTENERS", "2")]).await;
    let sku_id = shop.sku(1).await;
    let path = format!("/v1/skus/{sku_id}/stock/stream");
    shop.get("/v1/skus/sku_1/stock/stream").await.is_problem(404, "not_found");
    let mut ears = vec![Ear::open(&shop, &path).await, Ear::open(&shop, &path).await];
    shop.get(&path).await.is_problem(503, "busy");
    assert_eq!(left(&shop, &sku_id).await, (1, false, 0), "who only asks needs no place");
    ears.pop();
    // a place is given back when the loss of its listener is noticed, at the next word to it
    shop.place(basket(&[(&sku_id, 1)])).await;
    eventually("a place is free", async || {
        let again = shop.request(Method::GET, &path).send().await.expect("an answer");
        again.status() == 200
    })
    .await;
    drop(ears);
    shop.close().await;
}

/// Many who listen cost one board: each hears the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_listeners_all_hear_the_end() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(20).await;
    let path = format!("/v1/skus/{sku_id}/stock/stream");
    let mut ears = futures::future::join_all((0..400).map(|_| Ear::open(&shop, &path))).await;
    for _ in 0..20 {
        shop.place(basket(&[(&sku_id, 1)])).await;
    }
    let ends = ears.iter_mut().map(|ear| ear.until("sold out", |event| event["sold_out"] == true));
    futures::future::join_all(ends).await;
    drop(ears);
    shop.close().await;
}

/// Over HTTP too: with every table that could be asked locked up, "sold out" is answered all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sold_out_is_said_without_a_word_to_postgres() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let (key, mine) = (fresh("mine"), basket(&[(&sku_id, 1)]));
    let placed = shop.checkout(&key, &mine).await.ok();
    let mut other = basket(&[(&sku_id, 1)]);
    other["email"] = "bob@example.com".into();
    shop.checkout(&fresh("warm"), &other).await.is_problem(409, "out_of_stock");
    let mut conn = shop.db.conn().await;
    let mut lock = conn.begin().await.expect("a transaction");
    sqlx::raw_sql("lock table idempotency, stock, customer_order, reservation, sku_price, product, sku, id_block")
        .execute(&mut *lock)
        .await
        .expect("locked");
    for _ in 0..50 {
        shop.checkout(&fresh("key"), &other).await.is_problem(409, "out_of_stock");
    }
    lock.rollback().await.expect("unlocked");
    let again = shop.checkout(&key, &mine).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, "true"), "{}", again.text);
    assert_eq!(again.body["order_id"], placed["order_id"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sold_out_wakes_nobody() {
    let db = Arc::new(TestDb::new().await);
    let proxy = Proxy::before(&db.connect);
    let connect = proxy.through(&db.connect);
    let shop = TestEngine::on(db, connect, Setup::default()).await;
    let sku_id = shop.sku(1).await;
    let mine = wish(&[(sku_id, 1)]);
    assert!(matches!(shop.engine.checkout(mine.clone()).await, Ok(CheckedOut::New(_))));
    let handled = || ["sku", "coordinator"].map(|kind| woken(&shop, kind));
    eventually("who ordered in earlier lives is known", async || {
        let before = handled();
        shop.buy(sku_id, 1).await.is_err() && handled() == before
    })
    .await;
    let before = handled();
    proxy.hold_up(true);
    for _ in 0..1_000 {
        let refused = shop.buy(sku_id, 1).await;
        assert!(matches!(&refused, Err(Refusal::OutOfStock(short)) if short[0].available == 0), "{refused:?}");
    }
    assert_eq!(handled(), before, "somebody was woken");
    proxy.hold_up(false);
    let again = shop.engine.checkout(mine).await;
    assert!(matches!(again, Ok(CheckedOut::Replayed(_))), "a retry hears of its order: {again:?}");
    shop.end().await;
}

/// A sale that has sold all it has, while there is more in the house.
#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_is_sold_out_wakes_nobody() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let item = SaleItem { sku_id, quantity: 1, exclusive: false, prices: vec![usd(1_000)] };
    let new = NewSale {
        name: "Friday".into(),
        starts_at: None,
        ends_at: shop.clock.now() + TimeDelta::hours(1),
        per_customer: None,
        hold: None,
        waiting_room: false,
        items: vec![(item, Some(true))],
    };
    let key = CommandKey { principal: "staff".into(), key: fresh("sale"), fingerprint: [0; 32] };
    let sale_id = shop.engine.make_sale(new, key).await.expect("it can be made").sale.sale.id;
    let buy = async || {
        let mut checkout = wish(&[(sku_id, 1)]);
        checkout.lines[0].sale_id = Some(sale_id);
        shop.engine.checkout(checkout).await
    };
    assert!(matches!(buy().await, Ok(CheckedOut::New(_))));
    let handled = || ["sku", "coordinator"].map(|kind| woken(&shop, kind));
    eventually("who ordered in earlier lives is known", async || {
        let before = handled();
        buy().await.is_err() && handled() == before
    })
    .await;
    let before = handled();
    for _ in 0..100 {
        let refused = buy().await;
        assert!(matches!(&refused, Err(Refusal::OutOfStock(short)) if short[0].available == 0), "{refused:?}");
    }
    assert_eq!(handled(), before, "somebody was woken");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_in_the_next_life_hears_of_its_order_though_all_is_sold() {
    let old = TestEngine::start().await;
    let sku_id = old.sku(1).await;
    let mine = wish(&[(sku_id, 1)]);
    assert!(matches!(old.engine.checkout(mine.clone()).await, Ok(CheckedOut::New(_))));
    old.engine.stop().await;
    let new = TestEngine::on(Arc::clone(&old.db), old.db.connect.clone(), Setup::default()).await;
    for _ in 0..50 {
        let again = new.engine.checkout(mine.clone()).await;
        assert!(matches!(again, Ok(CheckedOut::Replayed(_))), "{again:?}");
        tokio::task::yield_now().await;
    }
    new.end().await;
}
