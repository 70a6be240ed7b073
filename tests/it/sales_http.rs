//! Sales over HTTP: what staff make of them, what everybody sees, and what a checkout is told before, in and after one.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::clock::Clock;

use crate::support::{
    eventually,
    house::House,
    shop::{Answer, Api, Placed, TestShop, basket, fresh, paid_basket},
};

const HOUR: TimeDelta = TimeDelta::hours(1);

impl Api {
    /// Staff ask something with a key.
    async fn staff(&self, method: Method, path: &str, key: &str, body: Value) -> Answer {
        let request = self.request(method, path).bearer_auth(&self.staff).header("idempotency-key", key).json(&body);
        Answer::of(request).await.expect("an answer")
    }

    async fn makes_sale(&self, body: Value) -> Value {
        self.staff(Method::POST, "/v1/admin/sales", &fresh("sale"), body).await.ok()
    }

    async fn changes(&self, sale: &Value, body: Value) -> Answer {
        self.staff(Method::PATCH, &path("/v1/admin/sales", sale), &fresh("change"), body).await
    }
}

fn path(before: &str, sale: &Value) -> String {
    format!("{before}/{}", sale["sale_id"].as_str().expect("an id"))
}

/// The machine's time: the shop's, until it is moved.
fn now() -> DateTime<Utc> {
    Clock::default().now()
}

/// Two for one customer, at 9.99, from `starts_at` on for an hour.
fn sale(sku_id: &str, quantity: i64, starts_at: DateTime<Utc>) -> Value {
    let price = json!({ "amount": "9.99", "currency": "USD" });
    json!({
        "name": "Friday", "starts_at": starts_at, "ends_at": starts_at + HOUR, "limit_per_customer": 2,
        "skus": [{ "sku_id": sku_id, "quantity": quantity, "prices": [price] }],
    })
}

fn running(sku_id: &str, quantity: i64) -> Value {
    let mut sale = sale(sku_id, quantity, now());
    sale.as_object_mut().expect("an object").remove("starts_at");
    sale
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_from_its_announcement_to_its_end() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(10).await;
    let starts_at = now() + HOUR;
    let made = shop.makes_sale(sale(&sku_id, 10, starts_at)).await;
    assert_eq!((made["status"].as_str(), made["skus"][0]["exclusive"].as_bool()), (Some("coming"), Some(true)));

    // everybody sees it, and what a SKU will cost
    let listed = shop.get("/v1/sales").await.ok();
    assert_eq!(listed["sales"], json!([made]));
    assert_eq!(shop.get(&path("/v1/sales", &made)).await.ok(), made);
    let sku = shop.get(&format!("/v1/skus/{sku_id}")).await.ok();
    assert_eq!(sku["sale"]["prices"][0]["amount"], "9.99");
    assert_eq!((&sku["sale"]["status"], &sku["price"]["amount"]), (&json!("coming"), &json!("12.50")));

    // before it, a checkout is told when it begins
    let early = shop.checkout(&fresh("key"), &basket(&[(&sku_id, 1)])).await;
    early.is_problem(409, "sale_not_started");
    assert_eq!(
        early.body["starts_at"].as_str().expect("a time").parse::<DateTime<Utc>>().expect("a time"),
        made["starts_at"].as_str().expect("a time").parse::<DateTime<Utc>>().expect("a time")
    );

    shop.later(3_601).await;
    let answer = shop.checkout(&fresh("key"), &basket(&[(&sku_id, 2)])).await.ok();
    assert_eq!(
        (&answer["total"]["amount"], &answer["lines"][0]["unit_price"]["amount"]),
        (&json!("19.98"), &json!("9.99"))
    );
    let third = shop.checkout(&fresh("key"), &basket(&[(&sku_id, 1)])).await;
    third.is_problem(409, "limit_reached");
    assert_eq!((&third.body["limit"], &third.body["used"]), (&json!(2), &json!(2)));
    let shown = shop.get(&path("/v1/sales", &made)).await.ok();
    assert_eq!((&shown["skus"][0]["sold"], &shown["skus"][0]["left"]), (&json!(2), &json!(8)));

    // after it, the usual price and no limit
    shop.later(3_600).await;
    let mut wish = basket(&[(&sku_id, 3)]);
    wish["expected_total"] = json!({ "amount": "29.97", "currency": "USD" });
    shop.checkout(&fresh("key"), &wish).await.is_problem(409, "quote_changed");
    wish["expected_total"] = json!({ "amount": "37.50", "currency": "USD" });
    shop.checkout(&fresh("key"), &wish).await.ok();
    assert_eq!(shop.get("/v1/sales").await.ok()["sales"], json!([]));
    let all = shop.see("/v1/admin/sales").await.ok();
    assert_eq!(all["sales"][0]["status"], "over");
    let sku = shop.get(&format!("/v1/skus/{sku_id}")).await.ok();
    assert!(sku.get("sale").is_none(), "{sku}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_sale_is_refused() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(10).await;
    let good = sale(&sku_id, 5, now() + HOUR);
    let with = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad[field] = value;
        bad
    };
    let of_sku = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad["skus"][0][field] = value;
        bad
    };
    let far = now() + TimeDelta::days(400);
    let bad = [
        with("name", json!(" ")),
        with("name", json!("a\u{0}b")),
        with("name", json!("x".repeat(201))),
        with("ends_at", json!(now())),
        with("ends_at", json!("tomorrow")),
        with("ends_at", json!(now() + TimeDelta::days(4_000))),
        with("starts_at", json!(now() - HOUR)),
        with("starts_at", json!(far)),
        with("limit_per_customer", json!(0)),
        with("limit_per_customer", json!(-1)),
        with("limit_per_customer", json!(i64::MAX)),
        with("limit_per_customer", json!("2")),
        with("hold_minutes", json!(0)),
        with("hold_minutes", json!(1_441)),
        with("hold_minutes", json!(i64::MAX)),
        with("waiting_room", json!("yes")),
        with("skus", json!([])),
        with("skus", json!([good["skus"][0], good["skus"][0]])),
        with("surprise", json!(1)),
        of_sku("sku_id", json!("sku_0000000000000")),
        of_sku("sku_id", json!(made_up_sku())),
        of_sku("quantity", json!(0)),
        of_sku("quantity", json!(-5)),
        of_sku("quantity", json!(i64::MAX)),
        of_sku("prices", json!([])),
        of_sku("prices", json!([{ "amount": "-1", "currency": "USD" }])),
        of_sku("prices", json!([{ "amount": "9.999", "currency": "USD" }])),
        of_sku("prices", json!([{ "amount": "9", "currency": "XXX" }])),
        of_sku("prices", json!([{ "amount": "9", "currency": "USD" }, { "amount": "8", "currency": "USD" }])),
    ];
    for body in bad {
        let answer = shop.staff(Method::POST, "/v1/admin/sales", &fresh("bad"), body.clone()).await;
        assert_eq!((answer.status, answer.code()), (422, "invalid"), "{body} {}", answer.text);
    }
    assert_eq!(shop.post("/v1/admin/sales", good.clone()).await.status, 401);
    assert_eq!(shop.count("select count(*) from sale").await, 0);
    shop.get("/v1/sales/sale_0000000000000").await.is_problem(404, "not_found");
    shop.get("/v1/sales/7").await.is_problem(404, "not_found");
    shop.get("/v1/sales?cursor=7").await.is_problem(422, "invalid");

    // the same key makes one sale
    let first = shop.staff(Method::POST, "/v1/admin/sales", "once", good.clone()).await;
    let again = shop.staff(Method::POST, "/v1/admin/sales", "once", good.clone()).await;
    assert_eq!((first.status, again.status, again.header("idempotent-replayed")), (201, 201, "true"));
    assert_eq!(first.body, again.body);
    let other = with("name", json!("Monday"));
    shop.staff(Method::POST, "/v1/admin/sales", "once", other.clone()).await.is_problem(422, "idempotency_key_reused");
    let meets = shop.staff(Method::POST, "/v1/admin/sales", &fresh("sale"), other).await;
    meets.is_problem(409, "sale_overlaps");
    assert_eq!(meets.body["sale_id"], first.body["sale_id"]);
    shop.close().await;
}

fn made_up_sku() -> String {
    souk_actors::domain::SkuId(987_654_321).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_change_a_sale_as_far_as_it_can_change() {
    let shop = TestShop::open().await;
    let (sku_id, other) = (shop.sku(10).await, shop.sku(10).await);
    let made = shop.makes_sale(sale(&sku_id, 5, now() + HOUR)).await;
    let prices = json!([{ "amount": "8.00", "currency": "USD" }, { "amount": "7.50", "currency": "EUR" }]);
    let change = json!({
        "limit_per_customer": null, "hold_minutes": 4, "waiting_room": true,
        "skus": [{ "sku_id": other, "quantity": 3, "exclusive": true, "prices": prices }],
    });
    let changed = shop.changes(&made, change).await.ok();
    assert!(changed.get("limit_per_customer").is_none(), "{changed}");
    assert_eq!((&changed["hold_minutes"], &changed["waiting_room"]), (&json!(4), &json!(true)));
    assert_eq!(shop.changes(&made, json!({ "waiting_room": false })).await.ok()["waiting_room"], json!(false));
    assert_eq!(changed["skus"][0]["sku_id"], other.as_str());
    assert_eq!(changed["skus"].as_array().map(Vec::len), Some(1));
    shop.changes(&made, json!({ "quantities": [{ "sku_id": sku_id, "quantity": 3 }] }))
        .await
        .is_problem(422, "invalid");
    // the SKU that is no longer in it is free
    shop.makes_sale(sale(&sku_id, 5, now() + HOUR)).await;

    shop.later(3_700).await;
    let order = shop.checkout(&fresh("key"), &basket(&[(&other, 2)])).await.ok();
    assert_eq!(order["total"]["amount"], "16.00");
    shop.changes(&made, json!({ "limit_per_customer": 1 })).await.is_problem(409, "sale_state");
    let few = shop.changes(&made, json!({ "quantities": [{ "sku_id": other, "quantity": 1 }] })).await;
    few.is_problem(409, "below_sold");
    assert_eq!(few.body["sold"], 2);
    shop.changes(&made, json!({ "name": "Friday night", "quantities": [{ "sku_id": other, "quantity": 4 }] }))
        .await
        .ok();
    let end = format!("{}/cancel", path("/v1/admin/sales", &made));
    let ended = shop.staff(Method::POST, &end, "end", json!({})).await.ok();
    assert_eq!((&ended["status"], &ended["name"]), (&json!("over"), &json!("Friday night")));
    assert_eq!(shop.staff(Method::POST, &end, "end", json!({})).await.ok(), ended);
    shop.changes(&made, json!({ "name": "Too late" })).await.is_problem(409, "sale_state");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_payment_is_no_payment_in_a_sale() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    shop.makes_sale(running(&sku_id, 5)).await;
    for ruling in ["COMPLETED", "DECLINED"] {
        let placed = Placed::of(&shop.checkout(&fresh("key"), &paid_basket(&[(&sku_id, 2)])).await.ok());
        shop.bank.approve_as(&placed, "pending").await;
        eventually("it is called off at once", async || shop.status(&placed).await.0 == "cancelled").await;
        assert_eq!(shop.stock(&sku_id).await, (5, 0));
        assert_eq!(shop.count("select coalesce(sum(used), 0)::bigint from limit_use").await, 0);
        let capture_id = shop.bank.sheet(&placed).await["captures"][0]["id"].as_str().expect("an id").to_owned();
        shop.bank.control(&format!("captures/{capture_id}/status"), json!({ "status": ruling })).await;
        let wanted = if ruling == "COMPLETED" { "refunded" } else { "unpaid" };
        eventually("its money has an end", async || shop.status(&placed).await == ("cancelled".into(), wanted.into()))
            .await;
        assert_eq!(shop.stock(&sku_id).await, (5, 0), "never reserved again");
        let events = shop.get(&placed.path("/events")).await.ok();
        let cancelled = events["events"].as_array().expect("a list").iter().find(|event| event["kind"] == "cancelled");
        assert_eq!(cancelled.expect("it is told")["data"]["reason"], "slow_payment");
    }
    // outside of a sale a shop waits
    let usual = shop.sku(5).await;
    let placed = shop.sell(&usual).await;
    shop.bank.approve_as(&placed, "pending").await;
    eventually("it waits", async || shop.status(&placed).await == ("awaiting_payment".into(), "pending".into())).await;
    shop.post(&placed.path("/cancel"), Value::Null).await.ok();
    shop.clean().await;
    shop.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_dies_in_the_middle_of_a_sale_keeps_uses_and_holds_in_step() {
    let points =
        ["checkout.held", "checkout.appended", "journal.before_commit", "journal.after_commit", "order.before_expire"];
    let mut house = House::new(&[("SOUK_CHECKOUT__HOLD_SECONDS", "3"), ("SOUK_CHECKOUT__CAPTURE_MARGIN_SECONDS", "0")]);
    house.start(None).await;
    let sku_id = house.api.sku(100).await;
    let sale = house.api.makes_sale(running(&sku_id, 60)).await;
    for point in points {
        house.kill().await;
        if house.start(Some(&format!("abort:{point}:3"))).await.is_some() {
            while house.has_ended().is_none() {
                // ann's mailbox, a tab each time
                let mut wish = basket(&[(&sku_id, 1)]);
                wish["email"] = json!(format!("ann+{}@example.com", fresh("tab")));
                let Ok(answer) = house.api.try_checkout(&fresh("key"), &wish).await else { continue };
                let refused = answer.status == 503 || ["limit_reached", "out_of_stock"].contains(&answer.code());
                assert!(answer.status == 201 || refused, "{} {}", answer.status, answer.text);
                wish["email"] = json!(format!("{}@example.com", fresh("buyer")));
                house.api.try_checkout(&fresh("key"), &wish).await.ok();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        house.start(None).await;
        house.audit();
        let expired = async || house.api.orders().await.iter().all(|order| order["status"] == "expired");
        eventually("every hold has ended", expired).await;
        assert_eq!(house.api.get(&path("/v1/sales", &sale)).await.ok()["skus"][0]["left"], 60, "{point}");
        house.audit();
    }
}
