//! What comes after a sale, with a process that dies at every named place of it: money that is taken when the goods leave,
//! given back or let go, labels that are bought and called off, parcels that are tracked and come back, letters, files of
//! stock. The shop starts again and finishes what it had begun; the bank, the carrier and the mail server tell the same story.
//!
//! `SOUK_COMMITS=1` dies after each commit of a life, and not only after some of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::faults::{LISTS, POINTS};

use crate::{
    crash::{Gone, alive},
    support::{
        PATIENCE,
        house::House,
        shop::{Answer, Placed, STAFF, dollars, fresh, is_charge, paid_basket},
    },
};

/// Money is reserved at first, so that there is some to take later and some to let go.
const RESERVES: (&str, &str) = ("SOUK_CHECKOUT__INTENT", "authorise");
const OPENING: i64 = 100_000;
/// So many commits apart are the deaths of a run that was not told otherwise.
const SOME_COMMITS: usize = 7;

/// The places of a sale that a paid order passes again, and for other reasons.
const AGAIN: [&str; 8] = [
    "journal.before_commit",
    "journal.after_commit",
    "payment.before_capture",
    "payment.after_capture",
    "payment.before_refund",
    "payment.after_refund",
    "outbox.before_send",
    "outbox.after_send",
];

/// Something that was asked with a key, and what the shop said, if it did.
struct Asked {
    path: String,
    body: String,
    answer: Option<Value>,
}

/// What people remember, whatever becomes of the shop.
#[derive(Default)]
struct Diary {
    asked: BTreeMap<String, Asked>,
    placed: BTreeMap<String, Placed>,
}

struct Story<'a> {
    house: &'a House,
    diary: &'a mut Diary,
    sku_id: &'a str,
    code: &'a str,
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

async fn send(house: &House, key: &str, path: &str, body: &str) -> Result<Answer, reqwest::Error> {
    let kind = if path.contains("imports") { "text/csv" } else { "application/json" };
    let request = house.api.request(Method::POST, path).bearer_auth(STAFF).header("idempotency-key", key);
    let request = if body.is_empty() { request } else { request.header("content-type", kind).body(body.to_owned()) };
    Answer::of(request).await
}

async fn shipments(house: &House, placed: &Placed) -> Result<Vec<Value>, Gone> {
    let path = format!("/v1/orders/{}/shipments", placed.order_id);
    let answer = alive(Answer::of(house.api.request(Method::GET, &path).bearer_auth(STAFF)).await)?;
    Ok(list(&answer.ok(), "shipments").to_vec())
}

impl Story<'_> {
    /// Asks once, with a key that can be asked again.
    async fn ask(&mut self, path: &str, body: String) -> Result<Value, Gone> {
        let key = fresh("life");
        self.diary.asked.insert(key.clone(), Asked { path: path.to_owned(), body: body.clone(), answer: None });
        let answer = alive(send(self.house, &key, path, &body).await)?.ok();
        self.diary.asked.get_mut(&key).expect("noted").answer = Some(answer.clone());
        Ok(answer)
    }

    async fn staff(&mut self, placed: &Placed, verb: &str, body: &Value) -> Result<Value, Gone> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask(&format!("/v1/admin/orders/{}/{verb}", placed.order_id), body).await
    }

    /// An order whose money is reserved.
    async fn reserved(&mut self, quantity: i64) -> Result<Placed, Gone> {
        let basket = paid_basket(&[(self.sku_id, quantity)]).to_string();
        let placed = Placed::of(&self.ask("/v1/checkouts", basket).await?);
        self.diary.placed.insert(placed.order_id.clone(), placed.clone());
        if placed.approve_url.is_empty() {
            return Err(Gone("no page to approve".to_owned()));
        }
        self.house.bank.approve(&placed).await;
        self.until(&placed, "status", "confirmed").await?;
        Ok(placed)
    }

    async fn until(&self, placed: &Placed, field: &str, wanted: &str) -> Result<(), Gone> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let order = alive(Answer::of(self.house.api.request(Method::GET, &placed.path(""))).await)?.ok();
            if order[field] == wanted {
                return Ok(());
            }
            assert!(Instant::now() < patience, "not {wanted}: {order}\n{}", self.house.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_parcel(&self, placed: &Placed, at: usize, wanted: &str) -> Result<Value, Gone> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let parcel = shipments(self.house, placed).await?.remove(at);
            if parcel["status"] == wanted {
                return Ok(parcel);
            }
            assert!(Instant::now() < patience, "not {wanted}: {parcel}\n{}", self.house.log());
            // a carrier that was asked to take a label back decides later, and is then asked again
            carrier_gives_back(self.house).await;
            let clock = self.house.api.request(Method::POST, "/v1/ops/clock").bearer_auth(STAFF);
            alive(Answer::of(clock.json(&json!({ "advance_seconds": 31 }))).await)?.ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn pack(&mut self, placed: &Placed) -> Result<Value, Gone> {
        let service = json!({
            "provider": "shippo", "carrier": "usps", "token": "usps_priority", "name": "USPS Priority Mail",
        });
        let parcel = json!({ "length_mm": 300, "width_mm": 200, "height_mm": 100, "grams": 900 });
        self.staff(placed, "shipments", &json!({ "parcel": parcel, "service": service })).await
    }

    /// A unit that has arrived comes back, is put on the shelf again and paid back.
    async fn comes_back(&mut self, placed: &Placed) -> Result<(), Gone> {
        let unit = json!({ "line": 0, "quantity": 1, "reason": "too small" });
        let goods = self.ask(&placed.path("/returns"), json!({ "lines": [unit] }).to_string()).await?;
        let steps = [
            ("approve", String::new()),
            ("receive", json!({ "lines": [{ "line": 0, "quantity": 1 }] }).to_string()),
            ("inspect", json!({ "lines": [{ "line": 0, "restock": 1 }], "refund": true }).to_string()),
        ];
        for (step, body) in steps {
            self.ask(&format!("/v1/admin/returns/{}/{step}", text(&goods, "return_id")), body).await?;
        }
        Ok(())
    }

    /// Stock is corrected by a file, one order is called off, another goes to its buyer by its second label and comes back in
    /// part. The carrier's answer to the first purchase is lost.
    async fn live(&mut self) -> Result<(), Gone> {
        let file = format!("code,delta,reason\n{},1,found behind the shelf\n", self.code);
        self.ask("/v1/admin/stock/imports?mode=all", file).await?;

        let undone = self.reserved(1).await?;
        self.staff(&undone, "cancel", &json!({ "reason": "the buyer called" })).await?;
        self.until(&undone, "status", "cancelled").await?;

        let sent = self.reserved(2).await?;
        self.house.bank.control("shippo/faults", json!({ "on": "buy", "kind": "drop_after" })).await;
        self.pack(&sent).await?;
        let first = self.until_parcel(&sent, 0, "labelled").await?;
        self.staff(&sent, &format!("shipments/{}/void", text(&first, "shipment_id")), &Value::Null).await?;
        self.until_parcel(&sent, 0, "voided").await?;
        self.pack(&sent).await?;
        let second = self.until_parcel(&sent, 1, "labelled").await?;
        let kindness = json!({ "amount": "1.00", "currency": "USD" });
        self.staff(&sent, "refunds", &json!({ "goodwill": kindness, "reason": "it took so long" })).await?;
        for status in ["TRANSIT", "DELIVERED"] {
            let path = format!("shippo/tracks/usps/{}", text(&second, "tracking_number"));
            self.house.bank.control(&path, json!({ "status": status })).await;
        }
        self.until(&sent, "status", "completed").await?;
        self.comes_back(&sent).await
    }
}

/// The carrier pays for every label that it was asked to take back.
async fn carrier_gives_back(house: &House) {
    let books = house.bank.read("shippo/books").await;
    for refund in list(&books, "refunds").iter().filter(|row| row["status"] == "QUEUED" || row["status"] == "PENDING") {
        let path = format!("shippo/refunds/{}", text(refund, "object_id"));
        house.bank.control(&path, json!({ "status": "SUCCESS" })).await;
    }
}

/// Whoever was not answered asks again; whoever was hears the same.
async fn ask_again(house: &House, diary: &mut Diary) {
    for (key, asked) in &mut diary.asked {
        let answer = send(house, key, &asked.path, &asked.body).await.expect("an answer");
        let Some(before) = &asked.answer else {
            // what it was about may have gone on without it
            assert!(answer.status < 300 || answer.status == 409, "{} {}", answer.status, answer.text);
            if asked.path.ends_with("checkouts") {
                let placed = Placed::of(&answer.body);
                diary.placed.insert(placed.order_id.clone(), placed);
            }
            asked.answer = Some(answer.body);
            continue;
        };
        if before["code"].is_string() {
            continue;
        }
        let now = answer.ok();
        // a return shows how it is now, and so what has been paid back of it
        let names: &[&str] = if asked.path.contains("returns") {
            &["order_id", "return_id"]
        } else {
            &["order_id", "shipment_id", "refund_ids", "import_id"]
        };
        for name in names {
            assert_eq!(now[name], before[name], "{}: acknowledged and lost: {before} {now}", asked.path);
        }
        assert!(now["replayed"].as_bool().unwrap_or(true), "{}: done twice: {now}", asked.path);
    }
}

/// The shop is back: everything comes to its end, by itself.
async fn everything_ends_well(house: &House, diary: &mut Diary, point: &str) {
    ask_again(house, diary).await;
    let patience = Instant::now() + PATIENCE;
    loop {
        carrier_gives_back(house).await;
        // what the bank and the carrier could not deliver is due again, and so is what the shop has put off
        house.bank.control("clock", json!({ "advance_ms": 6_000 })).await;
        house.api.later(31).await;
        let wrong = unfinished(house, diary).await;
        if wrong.is_empty() {
            break;
        }
        assert!(Instant::now() < patience, "{point}: not finished: {wrong:#?}\n{}", house.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Where shop, bank and carrier do not agree yet, and what the audit has found.
async fn unfinished(house: &House, diary: &Diary) -> Vec<String> {
    let audit = house.api.see("/v1/ops/audit").await.ok();
    let mut wrong: Vec<String> = list(&audit, "findings").iter().map(Value::to_string).collect();
    let books = house.bank.books().await;
    for placed in diary.placed.values() {
        let order = house.api.order(placed).await;
        let (status, money) = (text(&order, "status"), text(&order, "payment_status"));
        let charges: Vec<&Value> = list(&books, "captures")
            .iter()
            .filter(|row| row["invoice_id"] == placed.order_id.as_str() && is_charge(row))
            .collect();
        let kept: f64 = charges.iter().map(|row| dollars(&row["amount"]) - dollars(&row["refunded"])).sum();
        let total: f64 = text(&order["total"], "amount").parse().expect("a total");
        let done = list(&order, "refunds").iter().filter(|refund| refund["status"] == "completed");
        let back: f64 = done.map(|refund| text(&refund["amount"], "amount").parse::<f64>().expect("an amount")).sum();
        let wanted = match (status, money) {
            ("cancelled" | "expired", _) | ("confirmed", "authorised") => Some(0.0),
            ("confirmed" | "completed", "paid" | "partially_refunded") => Some(total - back),
            _ => None,
        };
        let agrees = wanted.is_some_and(|wanted| (kept - wanted).abs() < 0.001) && charges.len() <= 1;
        if !agrees {
            wrong.push(format!("{} is {status} {money}, kept {kept} of {total}", placed.order_id));
        }
        wrong.extend(parcels_that_wait(house, placed).await);
    }
    wrong
}

/// Every parcel of an order is decided; one that has a label has one that costs money, and no other parcel has.
async fn parcels_that_wait(house: &House, placed: &Placed) -> Vec<String> {
    let mut wrong = Vec::new();
    for parcel in shipments(house, placed).await.unwrap_or_default() {
        let about = format!("shippo/transactions?metadata={}", text(&parcel, "shipment_id"));
        let labels = house.bank.read(&about).await;
        let costs = |label: &&Value| ["SUCCESS", "QUEUED", "WAITING"].contains(&text(label, "status"));
        let live: Vec<&Value> = list(&labels, "transactions").iter().filter(costs).collect();
        assert!(live.len() <= 1, "a parcel with two labels: {parcel} {labels}");
        let is_right = match text(&parcel, "status") {
            "labelled" | "in_transit" | "delivered" => {
                live.len() == 1 && live[0]["tracking_number"] == parcel["tracking_number"]
            }
            "voided" => live.is_empty(),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{parcel}: {live:?}"));
        }
    }
    wrong
}

/// No letter came more often than a mail server makes unavoidable: once more for each death.
async fn letters_came_once(house: &House, deaths: usize) {
    let mails = house.bank.read("mail").await;
    let mut copies: BTreeMap<&str, usize> = BTreeMap::new();
    for mail in list(&mails, "mails") {
        *copies.entry(text(mail, "message_id")).or_default() += 1;
    }
    let doubled: usize = copies.values().map(|copies| copies - 1).sum();
    println!("{} letters, {doubled} more than once, {deaths} deaths", copies.len());
    assert!(doubled <= deaths, "{copies:?}");
}

/// The file of every wish was applied once, what left is what was in the parcels that left, and what came back is there.
async fn stock_is_right(house: &House, diary: &Diary, sku_id: &str) {
    let files = diary.asked.values().filter(|asked| asked.path.contains("imports"));
    let applied = files.filter(|asked| asked.answer.as_ref().is_some_and(|answer| answer["import_id"].is_string()));
    let found = i64::try_from(applied.count()).expect("few");
    let mut left = 0;
    for placed in diary.placed.values() {
        let parcels = shipments(house, placed).await.unwrap_or_default();
        let gone = parcels.iter().filter(|parcel| parcel["left_at"].is_string());
        left += gone.flat_map(|parcel| list(parcel, "lines")).filter_map(|line| line["quantity"].as_i64()).sum::<i64>();
        let returns = house.api.see(&format!("/v1/orders/{}/returns", placed.order_id)).await.ok();
        let back = list(&returns, "returns").iter().flat_map(|goods| list(goods, "lines"));
        left -= back.filter_map(|line| line["restocked"].as_i64()).sum::<i64>();
    }
    assert_eq!(house.api.stock(sku_id).await.0, OPENING + found - left, "{found} found, {left} left");
}

/// The text of every file of the engine.
fn engine(dir: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a directory of the project") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            engine(&path, texts);
        } else {
            texts.push(fs::read_to_string(path).expect("text"));
        }
    }
}

/// What is written in the engine is what its lists say, and each of these has a story: [`POINTS`] that of sales, the others
/// this one.
#[test]
fn every_named_place_is_in_a_story() {
    let mut texts = Vec::new();
    engine(&Path::new(env!("CARGO_MANIFEST_DIR")).join("actors/src"), &mut texts);
    let calls = texts.iter().flat_map(|text| [".hit(", ".hit_for("].map(|call| text.split(call).skip(1)));
    let name = |call: &str| call.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned);
    let named: Vec<String> = calls.flatten().map(|call| name(call).expect("a place has a name")).collect();
    let listed: BTreeSet<String> = LISTS.iter().copied().flatten().map(|point| (*point).to_owned()).collect();
    assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), listed, "a place that is in no list, or nowhere");
    assert_eq!(LISTS[0], POINTS, "the lists after the first are told here");
}

/// A shop that reserves money and sells one thing, and all that people remember of it.
struct Town {
    house: House,
    diary: Diary,
    code: String,
    sku_id: String,
    deaths: usize,
}

impl Town {
    async fn open() -> Self {
        let mut house = House::new(&[RESERVES]);
        house.start(None).await;
        let code = fresh("PART");
        let skus = json!([{ "code": code, "price": "12.50", "on_hand": OPENING }]);
        let product = json!({ "name": fresh("Part"), "currency": "USD", "skus": skus });
        let made = house.api.order_staff("/v1/admin/products", product).await.ok();
        let sku_id = text(&made["skus"][0], "sku_id").to_owned();
        Self { house, diary: Diary::default(), code, sku_id, deaths: 0 }
    }

    /// A life in a shop that dies at this place, after so many passes, or an earlier one. What the shop then says; none where
    /// the whole life went by.
    async fn live(&mut self, point: &str, passes: usize) -> Option<String> {
        self.house.kill().await;
        let Some(_) = self.house.start(Some(&format!("abort:{point}:{passes}"))).await else {
            return Some("it died at once".to_owned());
        };
        let (house, diary) = (&self.house, &mut self.diary);
        let lived = Story { house, diary, sku_id: &self.sku_id, code: &self.code }.live().await;
        lived.err().map(|Gone(why)| why)
    }

    /// The shop is dead, starts again, and everything ends well.
    async fn go_on(&mut self, point: &str) {
        let ended = self.house.ended().await;
        assert_eq!(ended.signal(), Some(Signal::SIGABRT as i32), "{point}:\n{}", self.house.log());
        self.start_again(point).await;
    }

    async fn start_again(&mut self, point: &str) {
        self.deaths += 1;
        self.house.start(None).await.expect("it starts");
        everything_ends_well(&self.house, &mut self.diary, point).await;
        self.house.audit();
    }

    async fn close(mut self) {
        self.house.kill().await; // a fault may still be armed
        self.start_again("the end").await;
        letters_came_once(&self.house, 2 * self.deaths).await;
        stock_is_right(&self.house, &self.diary, &self.sku_id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_dies_at_any_point_of_an_orders_life_finishes_it() {
    let mut town = Town::open().await;
    for (at, point) in LISTS[1..].iter().copied().flatten().chain(&AGAIN).enumerate() {
        let patience = Instant::now() + PATIENCE;
        let mut gone = town.live(point, at % 2).await;
        while gone.is_none() {
            assert!(Instant::now() < patience, "{point} is never passed");
            gone = town.live(point, 0).await;
        }
        println!("{point}: {}", gone.unwrap_or_default());
        town.go_on(point).await;
    }
    town.close().await;
}

/// Wherever a decision of any kind has just been committed and nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_dies_after_any_commit_of_an_orders_life_finishes_it() {
    let apart = std::env::var("SOUK_COMMITS").map_or(SOME_COMMITS, |apart| apart.parse().expect("a number"));
    let mut town = Town::open().await;
    for passes in (0..).step_by(apart) {
        let Some(gone) = town.live("journal.after_commit", passes).await else { break };
        println!("after {passes} commits: {gone}");
        town.go_on("journal.after_commit").await;
    }
    assert!(town.deaths > 40 / apart, "a life has more commits");
    town.close().await;
}
