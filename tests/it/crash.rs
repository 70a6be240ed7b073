//! Real processes that die: at every named place of a sale, and anywhere by `kill -9`. Whatever was acknowledged is there,
//! what was begun is finished or undone by itself, and shop and bank tell the same story.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use souk_actors::faults::POINTS;

use crate::support::{
    PATIENCE, eventually,
    house::House,
    shop::{Answer, Placed, basket, fresh, money_agrees, paid_basket},
};

/// Short, so that holds end while one waits.
const HOLD: (&str, &str) = ("SOUK_CHECKOUT__HOLD_SECONDS", "3");
const MARGIN: (&str, &str) = ("SOUK_CHECKOUT__CAPTURE_MARGIN_SECONDS", "0");

/// A buyer's wish, and what came of it.
struct Wish {
    body: Value,
    /// The order, once the shop has said so.
    placed: Option<Placed>,
}

/// What the buyers remember, whatever becomes of the shop.
#[derive(Default)]
struct Diary {
    wishes: BTreeMap<String, Wish>,
    /// Orders whose buyers approved and did not call off.
    approved: BTreeSet<String>,
    /// Orders that were called off, or are left to expire.
    unpaid: BTreeSet<String>,
}

/// The shop went away in the middle of it, as far as one can tell.
pub(crate) struct Gone(pub(crate) String);

/// A part of the story either goes on or the shop is gone; it never goes wrong.
pub(crate) fn alive(answer: Result<Answer, reqwest::Error>) -> Result<Answer, Gone> {
    let answer = answer.map_err(|error| Gone(error.to_string()))?;
    assert!(answer.status < 500 || answer.status == 503, "{} {}", answer.status, answer.text);
    if answer.status == 503 { Err(Gone(answer.text)) } else { Ok(answer) }
}

struct Story<'a> {
    house: &'a House,
    diary: &'a mut Diary,
}

impl Story<'_> {
    async fn place(&mut self, body: Value) -> Result<Placed, Gone> {
        let key = fresh("crash");
        self.diary.wishes.insert(key.clone(), Wish { body: body.clone(), placed: None });
        let answer = alive(self.house.api.try_checkout(&key, &body).await)?;
        let placed = Placed::of(&answer.ok());
        self.diary.wishes.get_mut(&key).expect("noted").placed = Some(placed.clone());
        Ok(placed)
    }

    async fn get(&self, placed: &Placed) -> Result<Value, Gone> {
        let order = self.house.api.request(reqwest::Method::GET, &placed.path(""));
        Ok(alive(Answer::of(order).await)?.ok())
    }

    async fn until(&self, placed: &Placed, field: &str, wanted: &str) -> Result<(), Gone> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let order = self.get(placed).await?;
            if order[field] == wanted {
                return Ok(());
            }
            assert!(Instant::now() < patience, "not {wanted}: {order}\n{}", self.house.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One sale of each kind: left to expire, paid, undecided and called off and then charged after all.
    async fn sell(&mut self, sku_id: &str) -> Result<(), Gone> {
        let left = self.place(basket(&[(sku_id, 1)])).await?;
        self.diary.unpaid.insert(left.order_id.clone());

        let paid = self.place(paid_basket(&[(sku_id, 2)])).await?;
        if paid.approve_url.is_empty() {
            return Err(Gone("no page to approve".to_owned()));
        }
        self.diary.approved.insert(paid.order_id.clone());
        self.house.bank.approve(&paid).await;

        let undone = self.place(paid_basket(&[(sku_id, 3)])).await?;
        if undone.approve_url.is_empty() {
            return Err(Gone("no page to approve".to_owned()));
        }
        self.house.bank.approve_as(&undone, "pending").await;
        self.until(&undone, "payment_status", "pending").await?;
        self.diary.unpaid.insert(undone.order_id.clone());
        let cancel = self.house.api.request(reqwest::Method::POST, &undone.path("/cancel"));
        alive(Answer::of(cancel).await)?.ok();
        let capture_id = self.house.bank.sheet(&undone).await["captures"][0]["id"].as_str().expect("an id").to_owned();
        let ruling = json!({ "status": "COMPLETED" });
        self.house.bank.control(&format!("captures/{capture_id}/status"), ruling).await;

        self.until(&undone, "payment_status", "refunded").await?;
        self.until(&paid, "status", "confirmed").await?;
        self.until(&left, "status", "expired").await
    }
}

/// The shop is back: everything comes to its end, by itself.
async fn everything_ends_well(house: &House, diary: &mut Diary, point: &str) {
    ask_again(house, diary).await;
    let patience = Instant::now() + PATIENCE;
    loop {
        // what the bank could not deliver is due again
        house.bank.control("clock", json!({ "advance_ms": 6_000 })).await;
        let orders = house.api.orders().await;
        let waits = |order: &&Value| {
            let id = order["order_id"].as_str().expect("an id");
            let wanted: &[&str] =
                if diary.approved.contains(id) { &["confirmed"] } else { &["expired", "cancelled", "confirmed"] };
            !wanted.iter().any(|status| order["status"] == *status)
        };
        let waiting: Vec<&Value> = orders.iter().filter(waits).collect();
        if waiting.is_empty() {
            break;
        }
        assert!(Instant::now() < patience, "{point}: not finished: {waiting:#?}\n{}", house.log());
        for order in waiting {
            let id = order["order_id"].as_str().expect("an id");
            if !diary.approved.contains(id) {
                // nobody waits for it to expire; whoever's money is on its way is told so
                house.api.order_staff(&format!("/v1/orders/{id}/cancel"), Value::Null).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    money_agrees(&house.api, &house.bank).await;
    house.api.clean().await;
}

/// Whose answer was lost asks again; whose was not finds the order. There are no others.
async fn ask_again(house: &House, diary: &mut Diary) {
    for (key, wish) in &mut diary.wishes {
        let Some(before) = &wish.placed else {
            let answer = house.api.checkout(key, &wish.body).await;
            wish.placed = Some(Placed::of(&answer.ok()));
            continue;
        };
        let order = house.api.order(before).await;
        assert_eq!(order["order_id"], before.order_id.as_str(), "acknowledged and lost");
    }
    let ids: BTreeSet<String> = house.order_ids().await.into_iter().collect();
    let known = diary.wishes.values().filter_map(|wish| Some(wish.placed.as_ref()?.order_id.clone()));
    assert_eq!(ids, known.collect(), "every key is one order, and there is no other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_dies_at_any_point_of_a_sale_finishes_it() {
    let mut house = House::new(&[HOLD, MARGIN]);
    house.start(None).await;
    let sku_id = house.api.sku(100_000).await;
    let mut diary = Diary::default();
    let mut slowest = Duration::ZERO;
    let mut hit = Vec::new();
    for (at, point) in POINTS.iter().enumerate() {
        house.kill().await;
        let fault = format!("abort:{point}:{}", at % 2);
        if house.start(Some(&fault)).await.is_some() {
            let patience = Instant::now() + PATIENCE;
            let gone = loop {
                assert!(Instant::now() < patience, "{point} is never passed");
                if let Err(gone) = (Story { house: &house, diary: &mut diary }).sell(&sku_id).await {
                    break gone;
                }
            };
            println!("{point}: {}", gone.0);
        }
        assert_eq!(house.ended().await.signal(), Some(Signal::SIGABRT as i32), "{point}:\n{}", house.log());
        hit.push(*point);

        let took = house.start(None).await.expect("it starts");
        slowest = slowest.max(took);
        everything_ends_well(&house, &mut diary, point).await;
        house.audit();
        println!("{point}: {} wishes, ready after {took:?}", diary.wishes.len());
    }
    assert_eq!(hit, POINTS);
    println!("the slowest was ready after {slowest:?}");
    let sold: i64 =
        house.api.ledger(&sku_id).await.iter().map(|row| row["d_reserved"].as_i64().expect("a number")).sum();
    assert_eq!(house.api.stock(&sku_id).await, (100_000, sold));
}

/// Buyers who buy as fast as they are answered, until they are told to stop; what each of them was told.
async fn load(house: &House, sku_id: &str, diary: &Mutex<Diary>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let key = fresh("load");
        let body = basket(&[(sku_id, 1)]);
        diary.lock().expect("no panic").wishes.insert(key.clone(), Wish { body: body.clone(), placed: None });
        let Ok(answer) = house.api.try_checkout(&key, &body).await else { continue };
        if answer.status == 503 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let placed = Placed::of(&answer.ok());
        diary.lock().expect("no panic").wishes.get_mut(&key).expect("noted").placed = Some(placed);
    }
}

/// How many buyers were told of their order.
fn acknowledged(diary: &Mutex<Diary>) -> usize {
    diary.lock().expect("no panic").wishes.values().filter(|wish| wish.placed.is_some()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_killed_under_load_has_every_order_that_it_acknowledged() {
    let mut house = House::new(&[("SOUK_CHECKOUT__HOLD_SECONDS", "900")]);
    house.start(None).await;
    let sku_id = house.api.sku(1_000_000).await;
    let diary = Mutex::new(Diary::default());
    for round in 0..4 {
        let (stop, before) = (AtomicBool::new(false), acknowledged(&diary));
        let killer = async {
            // so early that somebody is still being answered, and not before anybody was
            eventually("the shop sells", async || acknowledged(&diary) > before).await;
            tokio::time::sleep(Duration::from_millis(100 + 170 * round)).await;
            house.signal(Signal::SIGKILL);
            stop.store(true, Ordering::Relaxed);
        };
        let buyers = futures::future::join_all((0..16).map(|_| load(&house, &sku_id, &diary, &stop)));
        tokio::join!(killer, buyers);
        house.ended().await;
        house.start(None).await;
    }
    let mut diary = diary.into_inner().expect("no panic");
    ask_again(&house, &mut diary).await;
    let sold = i64::try_from(diary.wishes.len()).expect("small");
    assert_eq!(house.api.stock(&sku_id).await, (1_000_000, sold));
    house.api.clean().await;
    house.audit();
}
