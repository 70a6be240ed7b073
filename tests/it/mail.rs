//! Mail to buyers: everything that is worth a letter gets one, whatever the mail server does, and no sale notices.

use std::{
    os::unix::process::ExitStatusExt,
    process::Command,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use chrono::TimeDelta;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::{
    domain::{Channel, OrderStatus, Who},
    ports::{Delivery, Notice, Notifier, SendError},
};

use crate::support::{
    Setup, TestDb, TestEngine, basket as engine_basket, eventually,
    house::House,
    shop::{Answer, Bank, Placed, STAFF, TestShop, basket, books_agree, paid_basket},
};

/// Mails that the sandbox has kept about an order, oldest first.
pub(crate) async fn mails(bank: &Bank, placed: &Placed) -> Vec<Value> {
    let url = format!("{}/_sandbox/mail?subject={}", bank.base, placed.order_id);
    let found = Answer::of(bank.http.get(url)).await.expect("an answer").ok();
    found["mails"].as_array().expect("a list").clone()
}

pub(crate) async fn are_mailed(bank: &Bank, placed: &Placed, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    eventually(&format!("{count} mails about {}", placed.order_id), async || {
        found = mails(bank, placed).await;
        found.len() >= count
    })
    .await;
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

async fn break_mail(shop: &TestShop, rule: Value) {
    shop.bank.control("mail/faults", rule).await;
}

async fn mend_mail(shop: &TestShop) {
    shop.bank.http.delete(format!("{}/_sandbox/mail/faults", shop.bank.base)).send().await.expect("an answer");
}

fn text<'a>(mail: &'a Value, field: &str) -> &'a str {
    mail[field].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_mailed_and_so_is_one_that_was_not_paid() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let left = shop.place(basket(&[(&sku_id, 1)])).await;
    let paid = shop.sold(&sku_id).await;

    let mail = are_mailed(&shop.bank, &paid, 1).await.remove(0);
    assert_eq!(mail["to"], json!(["ann@example.com"]));
    assert_eq!(text(&mail, "subject"), format!("Your order {} is confirmed", paid.order_id));
    assert!(text(&mail, "message_id").starts_with("notice_"), "{mail}");
    for part in ["text", "html"] {
        let said = text(&mail, part);
        assert!(said.contains("Ann Lee") && said.contains("12.50 USD") && said.contains("Lamp"), "{part}: {said}");
    }
    let link = text(&mail, "text").lines().find_map(|line| line.split_once(&shop.base)).expect("a link").1.to_owned();
    assert_eq!(shop.get(&link).await.status, 200, "{link} opens the order");
    let auto = mail["headers"].as_array().expect("a list").iter().find(|header| header["name"] == "Auto-Submitted");
    assert_eq!(auto.expect("a machine's letter")["value"], "auto-generated");

    assert!(mails(&shop.bank, &left).await.is_empty());
    shop.later(901).await;
    let expired = are_mailed(&shop.bank, &left, 1).await.remove(0);
    assert_eq!(text(&expired, "subject"), format!("Your order {} was not paid in time", left.order_id));
    are_mailed(&shop.bank, &paid, 1).await;
    shop.close().await;
}

async fn as_staff(shop: &TestShop, path: &str, body: Value) -> Value {
    Answer::of(shop.request(Method::POST, path).bearer_auth(STAFF).json(&body)).await.expect("an answer").ok()
}

/// Letters are written of what the engine says of its events: every field that a letter uses comes from a real one here.
#[tokio::test(flavor = "multi_thread")]
async fn letters_say_what_happened_to_which_part_of_an_order() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let placed = shop.place(paid_basket(&[(&sku_id, 4)])).await;
    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    let order = format!("/v1/admin/orders/{}", placed.order_id);
    let units = |quantity: i64| json!([{ "line": 0, "quantity": quantity }]);
    let said = async |count: usize| text(&are_mailed(&shop.bank, &placed, count).await[count - 1], "text").to_owned();
    said(1).await;

    as_staff(&shop, &format!("{order}/cancel"), json!({ "lines": units(1), "reason": "one is broken" })).await;
    let letters = are_mailed(&shop.bank, &placed, 3).await;
    let (cancelled, refunded) = (text(&letters[1], "text"), text(&letters[2], "text"));
    assert!(cancelled.contains("  1 × Lamp") && cancelled.contains("  Total: 12.50 USD"), "{cancelled}");
    assert!(refunded.contains("12.50 USD have gone back to you."), "{refunded}");
    assert!(!format!("{letters:?}").contains("one is broken"), "what staff writes is staff's");

    let parcel = json!({ "length_mm": 300, "width_mm": 200, "height_mm": 100, "grams": 900 });
    let mut shipments = Vec::new();
    for (number, (quantity, count)) in [(1, (1, 4)), (2, (2, 5))] {
        let wish = json!({
            "parcel": parcel, "lines": units(quantity), "tracking_number": format!("BIKE-{number}"), "carrier": "bike",
        });
        let packed = as_staff(&shop, &format!("{order}/shipments"), wish).await;
        let shipment = format!("{order}/shipments/{}", packed["shipment_id"].as_str().expect("an id"));
        as_staff(&shop, &format!("{shipment}/ship"), Value::Null).await;
        let left = said(count).await;
        let want = format!("a parcel of your order has left us, with BIKE under the number BIKE-{number}.");
        assert!(left.contains(&want), "{left}");
        shipments.push(shipment);
    }
    as_staff(&shop, &format!("{}/deliver", shipments[0]), Value::Null).await;
    let delivered = said(6).await;
    assert!(delivered.contains("delivered, with BIKE under the number BIKE-1."), "{delivered}");

    let wish = json!({ "lines": [{ "line": 0, "quantity": 1, "reason": "too small" }] });
    let asked = shop.post(&placed.path("/returns"), wish).await.ok();
    let goods = format!("/v1/admin/returns/{}", asked["return_id"].as_str().expect("an id"));
    as_staff(&shop, &format!("{goods}/decline"), json!({ "reason": "it was worn" })).await;
    let declined = said(7).await;
    assert!(declined.contains("we cannot take the goods back: it was worn."), "{declined}");
    // part of it went back, so `close` would miss it
    books_agree(&shop).await;
    shop.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_costs_nothing_is_confirmed_and_mailed_at_once() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku_at("0.00", "USD", 5).await;
    let mut wish = basket(&[(&sku_id, 1)]);
    wish["shipping_address"]["name"] = json!(r#"<script>alert("Ann")</script>"#);
    let placed = shop.place(wish).await;
    let mail = are_mailed(&shop.bank, &placed, 1).await.remove(0);
    assert_eq!(text(&mail, "subject"), format!("Your order {} is confirmed", placed.order_id));
    assert!(text(&mail, "text").contains(r#"Thank you, <script>alert("Ann")</script>: your order is confirmed."#));
    assert!(!text(&mail, "html").contains("<script") && text(&mail, "html").contains("&#60;script&#62;"), "{mail}");
    shop.close().await;
}

/// Every way in which a mail server fails: the sale never notices, and when the server is well again the letter comes, once.
/// Only a server that keeps a letter and does not say so gets it twice, with the same Message-ID.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_mail_server_does_the_sale_goes_on_and_the_letter_follows() {
    let shop = TestShop::with(&[("SOUK_MAIL__TIMEOUT_SECONDS", "4")]).await;
    let sku_id = shop.sku(100).await;
    let faults = [
        json!({ "kind": "down", "times": 0 }), // the first, while no connection is kept
        json!({ "kind": "slow", "ms": 8_000, "times": 0 }),
        json!({ "kind": "greylist", "at": "mail", "code": 451, "times": 0 }),
        json!({ "kind": "greylist", "at": "rcpt", "times": 0 }),
        json!({ "kind": "greylist", "at": "data", "times": 0 }),
        json!({ "kind": "greylist", "at": "content", "times": 0 }),
        json!({ "kind": "drop_before_data", "times": 0 }),
        json!({ "kind": "drop_in_data", "times": 0 }),
        json!({ "kind": "garbage", "times": 0 }),
        json!({ "kind": "drop_after_lost" }),
        json!({ "kind": "drop_after_kept" }),
    ];
    for fault in faults {
        break_mail(&shop, fault.clone()).await;
        let placed = shop.sold(&sku_id).await;
        eventually(&format!("a try with {fault}"), async || {
            shop.count("select count(*) from outbox where state = 'open' and attempts > 0").await == 1
        })
        .await;
        mend_mail(&shop).await;
        shop.later(31).await;
        let count = if fault["kind"] == "drop_after_kept" { 2 } else { 1 };
        let found = are_mailed(&shop.bank, &placed, count).await;
        assert!(found.iter().all(|mail| mail["message_id"] == found[0]["message_id"]), "{fault}: {found:#?}");
        eventually("it is marked", async || shop.count("select count(*) from outbox where state <> 'sent'").await == 0)
            .await;
        are_mailed(&shop.bank, &placed, count).await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_refused_makes_a_dead_letter_which_can_be_sent_again() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    break_mail(&shop, json!({ "kind": "refuse", "code": 550, "times": 2 })).await;
    let (first, second) = (shop.sold(&sku_id).await, shop.sold(&sku_id).await);
    eventually("dead letters", async || dead_letters(&shop).await.len() == 2).await;
    let dead = dead_letters(&shop).await;
    assert_eq!(
        (&dead[0]["kind"], &dead[0]["attempts"], &dead[0]["channel"]),
        (&json!("confirmed"), &json!(1), &json!("mail"))
    );
    assert_eq!(dead[0]["last_error"], "refused: the mail server answered 550");
    assert!(!dead[0].to_string().contains("ann@"), "{}", dead[0]);
    let page = shop.see("/v1/ops/dead-letters?limit=1").await.ok();
    let rest = format!("/v1/ops/dead-letters?limit=1&cursor={}", page["next_cursor"].as_str().expect("there is more"));
    assert_eq!(shop.see(&rest).await.ok()["dead_letters"][0]["notice_id"], dead[1]["notice_id"]);
    assert_eq!(shop.get("/v1/ops/dead-letters").await.status, 401);

    let listed = souk(&shop, &["dead-letters"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("the mail server answered 550"), "{listed}");
    let id = dead[0]["notice_id"].as_str().expect("an id").to_owned();
    assert!(souk(&shop, &["dead-letters", "--replay", &id]).contains("is tried again"));
    eventually("one is left", async || dead_letters(&shop).await.len() == 1).await;
    assert_eq!(souk(&shop, &["dead-letters", "--replay", "all"]).trim(), "1 are tried again.");
    are_mailed(&shop.bank, &first, 1).await;
    are_mailed(&shop.bank, &second, 1).await;
    let again = shop.order_staff(&format!("/v1/ops/dead-letters/{id}/replay"), Value::Null).await;
    again.is_problem(404, "not_found");
    shop.close().await;
}

async fn dead_letters(shop: &TestShop) -> Vec<Value> {
    let page = shop.see("/v1/ops/dead-letters").await.ok();
    page["dead_letters"].as_array().expect("a list").clone()
}

/// What a `souk` beside the shop says.
fn souk(shop: &TestShop, arguments: &[&str]) -> String {
    let listen = shop.base.trim_start_matches("http://").to_owned();
    let output = Command::new(env!("CARGO_BIN_EXE_souk"))
        .args(arguments)
        .envs([("SOUK_HTTP__LISTEN", listen.as_str()), ("SOUK_STAFF_TOKEN", STAFF)])
        .output()
        .expect("souk runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A shop that dies when the letter is out and nobody has written that down sends it again, under the same id, and then no
/// more. Nothing that it logs names the buyer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_dies_between_sending_and_marking_sends_the_same_letter_again() {
    let mut house = House::new(&[]);
    house.start(Some("abort:outbox.after_send:0")).await;
    let sku_id = house.api.sku(5).await;
    let placed = house.api.place(paid_basket(&[(&sku_id, 1)])).await;
    house.bank.approve(&placed).await;
    assert_eq!(house.ended().await.signal(), Some(Signal::SIGABRT as i32), "{}", house.log());
    assert_eq!(mails(&house.bank, &placed).await.len(), 1);

    house.start(None).await;
    let twice = are_mailed(&house.bank, &placed, 2).await;
    assert_eq!(twice[0]["message_id"], twice[1]["message_id"]);
    house.bank.control("mail/faults", json!({ "kind": "refuse", "times": 1 })).await;
    let refused = house.api.place(paid_basket(&[(&sku_id, 1)])).await;
    house.bank.approve(&refused).await;
    eventually("a dead letter", async || {
        let page = house.api.see("/v1/ops/dead-letters").await.ok();
        page["dead_letters"].as_array().is_some_and(|dead| dead.len() == 1)
    })
    .await;
    are_mailed(&house.bank, &placed, 2).await;
    house.api.clean().await;
    let log = std::fs::read_to_string(house.dir().join("log")).expect("a log");
    assert!(log.contains("news were not told"), "{log}");
    // what the shop says at its start, to be pasted, has an example buyer in it
    let logged: Vec<&str> = log.lines().filter(|line| line.starts_with("20")).collect();
    assert!(!logged.is_empty(), "{log}");
    assert!(!logged.iter().any(|line| line.contains("ann@example.com") || line.contains("Ann Lee")), "{log}");
}

/// A letter-box of this process.
#[derive(Default)]
struct LetterBox {
    told: Mutex<Vec<(String, String)>>,
    breaks: Mutex<Option<SendError>>,
}

impl LetterBox {
    fn kinds(&self, order_id: &str) -> Vec<String> {
        let told = self.told.lock().expect("no panic");
        told.iter().filter(|(order, _)| order == order_id).map(|(_, kind)| kind.clone()).collect()
    }
}

#[async_trait]
impl Notifier for LetterBox {
    fn channel(&self) -> Channel {
        Channel::Mail
    }

    async fn send(&self, notice: &Notice) -> Delivery {
        if let Some(error) = self.breaks.lock().expect("no panic").clone() {
            return Err(error).into();
        }
        self.told.lock().expect("no panic").push((notice.order_id.to_string(), notice.kind.clone()));
        Ok(()).into()
    }
}

async fn engine_with(letter_box: &Arc<LetterBox>) -> TestEngine {
    let db = Arc::new(TestDb::new().await);
    let connect = db.connect.clone();
    let notifiers: Vec<Arc<dyn Notifier>> = vec![Arc::clone(letter_box) as Arc<dyn Notifier>];
    TestEngine::on(db, connect, Setup { notifiers, ..Setup::default() }).await
}

/// An entry that was taken out of its batch tells nobody: not the decision on a stale order, not the second use of a key.
#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_happen_is_not_told() {
    let letter_box = Arc::new(LetterBox::default());
    let shop = engine_with(&letter_box).await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.order(sku_id, 1).await;
    shop.engine.pay(order_id, "fake").await.expect("it can be paid"); // its actor has it in memory
    let mut conn = shop.db.conn().await;
    let moved = sqlx::query("update customer_order set version = version + 1 where id = $1").bind(order_id);
    moved.execute(&mut conn).await.expect("moved behind its back");
    let conflicts = shop.engine.journal().conflicts;
    shop.later(TimeDelta::seconds(901));
    shop.becomes(order_id, OrderStatus::Expired).await;
    assert!(shop.engine.journal().conflicts > conflicts, "one entry was taken out");
    eventually("the letter", async || !letter_box.kinds(&order_id.to_string()).is_empty()).await;
    assert_eq!(letter_box.kinds(&order_id.to_string()), ["expired"]);

    // a free order is confirmed, and told of, by its placement; here its key is another's already
    let mut free = engine_basket(&[(sku_id, 1)]);
    free.lines[0].unit_price.minor = 0;
    free.total.minor = 0;
    let taken = sqlx::query(
        "insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
         values ($1, $2, 'checkout', $3, $4, clock_timestamp())",
    )
    .bind(&free.principal)
    .bind(&free.key)
    .bind(free.fingerprint.as_slice())
    .bind(order_id);
    taken.execute(&mut conn).await.expect("taken");
    shop.engine.checkout(free).await.expect("it finds the other order");
    assert_eq!(shop.count("select count(*) from outbox").await, 1);
    // what was done past the engine the audit would rightly find
    shop.engine.stop().await;
}

/// News wait as long as they are told to, are given up after three days, and are forgotten a month after they were told.
#[tokio::test(flavor = "multi_thread")]
async fn news_wait_are_given_up_and_forgotten() {
    let letter_box = Arc::new(LetterBox::default());
    let shop = engine_with(&letter_box).await;
    let sku_id = shop.sku(10).await;
    *letter_box.breaks.lock().expect("no panic") = Some(SendError::NotNow("the mail server answered 450".into()));
    let order_id = shop.order(sku_id, 1).await;
    shop.engine.cancel(order_id, Who::Buyer).await.expect("it can be");
    let waits = [30, 120, 600, 3_600].into_iter().chain([21_600; 12]);
    for (tries, wait) in (1..).zip(waits) {
        tried(&shop, tries).await;
        shop.later(TimeDelta::seconds(wait - 5));
        let due = "select count(*) from outbox where state = 'open'";
        assert_eq!(shop.count(due).await, 1);
        shop.later(TimeDelta::seconds(6));
    }
    tried(&shop, 17).await;
    let dead = shop.engine.dead_letters(None, 10).await.expect("a list");
    assert_eq!((dead.len(), dead[0].attempts, dead[0].state.as_str()), (1, 17, "dead"));

    *letter_box.breaks.lock().expect("no panic") = None;
    assert_eq!(shop.engine.replay_all_dead().await.expect("told again"), 1);
    eventually("it is told", async || letter_box.kinds(&order_id.to_string()) == ["cancelled"]).await;
    eventually("and marked", async || shop.count("select count(*) from outbox where state = 'sent'").await == 1).await;
    shop.later(TimeDelta::days(31));
    eventually("it is forgotten", async || shop.count("select count(*) from outbox").await == 0).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_whose_mark_is_refused_take_nobody_elses_place() {
    let letter_box = Arc::new(LetterBox::default());
    let shop = engine_with(&letter_box).await;
    let sku_id = shop.sku(20).await;
    let mut conn = shop.db.conn().await;
    let broken = sqlx::query("alter table outbox add constraint broken check (attempts = 0)");
    broken.execute(&mut conn).await.expect("marks are refused");
    for told in 1..=10 {
        let order_id = shop.order(sku_id, 1).await;
        shop.engine.cancel(order_id, Who::Buyer).await.expect("it can be");
        eventually("the letter", async || letter_box.kinds(&order_id.to_string()) == ["cancelled"]).await;
        eventually("its mark is refused", async || shop.engine.journal().failures >= told).await;
    }
    assert_eq!(letter_box.told.lock().expect("no panic").len(), 10, "each was told once");
    shop.engine.stop().await; // what was told and could not be marked the audit would rightly find
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_subscribes_to_any_more_is_forgotten() {
    let shop = engine_with(&Arc::new(LetterBox::default())).await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let mut conn = shop.db.conn().await;
    let late = sqlx::query(
        "insert into outbox (id, channel, subscription_id, order_id, event_seq, kind, state, next_at, created_at)
         values (7, 'merchants', 7, $1, 1, 'placed', 'open', $2, $2)",
    )
    .bind(order_id)
    .bind(shop.clock.now());
    late.execute(&mut conn).await.expect("written down after its subscription had ended");
    shop.later(TimeDelta::minutes(61));
    eventually("it is forgotten", async || {
        shop.count("select count(*) from outbox where channel = 'merchants'").await == 0
    })
    .await;
    shop.end().await;
}

async fn tried(shop: &TestEngine, tries: i64) {
    let most = "select coalesce(max(attempts), 0)::bigint from outbox";
    eventually(&format!("try {tries}"), async || shop.count(most).await == tries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_shows_the_outbox() {
    let shop = TestShop::open().await;
    let tree = shop.see("/v1/ops/actors").await.ok();
    let outbox = tree["children"].as_array().expect("a list").iter().find(|node| node["name"] == "outbox");
    let names: Vec<&Value> =
        outbox.expect("a branch")["children"].as_array().expect("leaves").iter().map(|n| &n["name"]).collect();
    assert!(names.contains(&&json!("outbox/mail")) && names.contains(&&json!("outbox/merchants")), "{names:?}");
    shop.close().await;
}
