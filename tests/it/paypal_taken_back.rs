//! Whose a refund is, and what banks take back of an order's money: against the sandbox over HTTP.

use serde_json::{Value, json};

use crate::{
    money::{count, hurry, only_capture},
    paypal_table::{end, heard, passes},
    support::shop::{Placed, TestShop},
};

const NOTHING_OPEN: &str = "select count(*) from task where state = 'open'";

fn usd(value: &str) -> Value {
    json!({ "currency_code": "USD", "value": value })
}

async fn staff(shop: &TestShop, placed: &Placed, verb: &str, body: Value) {
    shop.order_staff(&format!("/v1/admin/orders/{}/{verb}", placed.order_id), body).await.ok();
}

async fn give_back(shop: &TestShop, placed: &Placed, amount: &str) {
    let amount = json!({ "amount": amount, "currency": "USD" });
    staff(shop, placed, "refunds", json!({ "amount": amount, "reason": "broken" })).await;
}

/// Something happens at the bank, later than all before.
async fn at_bank(shop: &TestShop, path: String, body: Value) -> Value {
    shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    shop.bank.control(&path, body).await
}

/// What the order's refunds are of and come to.
async fn refunds(shop: &TestShop, placed: &Placed) -> Vec<[String; 3]> {
    let order = shop.order(placed).await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let told = |refund: &Value| [&refund["kind"], &refund["amount"]["amount"], &refund["status"]].map(text);
    order["refunds"].as_array().expect("a list").iter().map(told).collect()
}

async fn hold(shop: &TestShop, placed: &Placed) -> Value {
    shop.order(placed).await["hold_reason"].clone()
}

async fn nothing_is_open(shop: &TestShop) {
    passes(shop, 60, async || shop.count(NOTHING_OPEN).await == 0, "nothing is asked for any more").await;
}

fn told(rows: &[[&str; 3]]) -> Vec<[String; 3]> {
    rows.iter().map(|row| row.map(str::to_owned)).collect()
}

/// Ours do not get through, and staff give the same amount back on the provider's own pages: both are owed, both go out, and
/// each is known by its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_by_hand_is_not_taken_for_ours_of_the_same_amount() {
    let shop = TestShop::open().await;
    let placed = shop.sold(&shop.sku(1).await).await;
    shop.bank.fault(json!({ "on": "refund", "kind": "status", "status": 500, "times": 0 })).await;
    give_back(&shop, &placed, "5.00").await;
    let by_hand = format!("captures/{}/refund", only_capture(&shop, &placed).await);
    at_bank(&shop, by_hand, json!({ "amount": usd("5.00") })).await;
    let both = told(&[["amount", "5.00", "requested"], ["mirrored", "5.00", "completed"]]);
    let mirrored = async || refunds(&shop, &placed).await == both;
    passes(&shop, 1, mirrored, "what was made by hand is mirrored, ours is still asked for").await;
    shop.bank.forgive().await;
    let both = told(&[["amount", "5.00", "completed"], ["mirrored", "5.00", "completed"]]);
    hurry(&shop, async || refunds(&shop, &placed).await == both, &json!("ours goes out")).await;
    assert_eq!(shop.bank.charged(&placed).await, (1, 10.0));

    let order = shop.order(&placed).await;
    let names: Vec<Value> = shop.bank.sheet(&placed).await["refunds"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["custom_id"].clone())
        .collect();
    let lent = order["payments"][0]["payment_id"].clone();
    assert_eq!(names, [lent, order["refunds"][0]["refund_id"].clone()], "{order}");
    end(shop).await;
}

/// Part of the money is taken back: what has not left is held. It is given to the shop again: the hold is lifted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_taken_back() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let placed = shop.sold(&sku_id).await;
    let capture_id = only_capture(&shop, &placed).await;
    at_bank(&shop, format!("captures/{capture_id}/reverse"), json!({ "amount": usd("5.00") })).await;
    shop.becomes(&placed, "confirmed", "partially_refunded").await;
    heard(&shop).await;
    assert_eq!((hold(&shop, &placed).await, shop.stock(&sku_id).await), (json!("reversed"), (1, 1)));
    at_bank(&shop, format!("captures/{capture_id}/unreverse"), json!({})).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    heard(&shop).await;
    assert_eq!(hold(&shop, &placed).await, Value::Null);

    // taken once more, and called off: the bank lets nobody give the rest back, and nobody has to end that
    at_bank(&shop, format!("captures/{capture_id}/reverse"), json!({ "amount": usd("5.00") })).await;
    shop.becomes(&placed, "confirmed", "partially_refunded").await;
    staff(&shop, &placed, "cancel", json!({ "reason": "the buyer has complained" })).await;
    let over = async || shop.status(&placed).await.0 == "cancelled";
    passes(&shop, 60, over, "it is called off").await;
    nothing_is_open(&shop).await;
    assert!(refunds(&shop, &placed).await.contains(&["cancellation", "7.50", "set_aside"].map(str::to_owned)));
    assert!(count(&shop.timeline(&placed).await, "refund_called_off") >= 1);
    shop.clean().await;

    // until the bank gives in
    at_bank(&shop, format!("captures/{capture_id}/unreverse"), json!({})).await;
    shop.becomes(&placed, "cancelled", "refunded").await;
    heard(&shop).await;
    assert_eq!(shop.bank.sheet(&placed).await["captures"][0]["refunded"]["value"], "12.50");
    end(shop).await;
}

/// A refund that waited at the bank fails when the bank has taken the rest back: the bank lets nobody give it back any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_fails_after_the_bank_took_the_rest() {
    let shop = TestShop::open().await;
    let placed = shop.sold(&shop.sku(1).await).await;
    let capture_id = only_capture(&shop, &placed).await;
    shop.bank.control("settings", json!({ "refunds": "pending" })).await;
    give_back(&shop, &placed, "4.00").await;
    let taken = async || refunds(&shop, &placed).await == told(&[["amount", "4.00", "pending"]]);
    hurry(&shop, taken, &json!("the bank has the refund")).await;
    shop.bank.control("settings", json!({ "refunds": "complete" })).await;
    at_bank(&shop, format!("captures/{capture_id}/reverse"), json!({})).await;
    let undone = async || shop.status(&placed).await.0 == "cancelling";
    passes(&shop, 1, undone, "it is undone").await;
    heard(&shop).await;

    let sheet = shop.bank.sheet(&placed).await;
    let refund_id = sheet["refunds"][0]["id"].as_str().expect("an id");
    at_bank(&shop, format!("refunds/{refund_id}"), json!({ "status": "FAILED" })).await;
    let over = async || shop.status(&placed).await.0 == "cancelled";
    passes(&shop, 60, over, "it ends by itself").await;
    nothing_is_open(&shop).await;
    heard(&shop).await;
    assert!(count(&shop.timeline(&placed).await, "refund_called_off") >= 1);
    assert_eq!(shop.bank.sheet(&placed).await["captures"][0]["reversed"]["value"], "8.50");
    end(shop).await;
}

/// A dispute about a part is lost while all of it is going back: no more than the rest does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispute_that_is_lost_in_part() {
    let shop = TestShop::open().await;
    let placed = shop.sold(&shop.sku(1).await).await;
    let capture_id = only_capture(&shop, &placed).await;
    let about = json!({ "amount": usd("5.00") });
    let opened = at_bank(&shop, format!("captures/{capture_id}/dispute"), about).await;
    shop.becomes(&placed, "confirmed", "disputed").await;
    let dispute = format!("disputes/{}", opened["dispute_id"].as_str().expect("an id"));
    at_bank(&shop, dispute, json!({ "resolve": "buyer" })).await;
    shop.becomes(&placed, "confirmed", "partially_refunded").await;
    heard(&shop).await;
    assert_eq!(hold(&shop, &placed).await, json!("reversed"), "people decide");
    assert_eq!(refunds(&shop, &placed).await, told(&[["mirrored", "5.00", "completed"]]), "taken once, shown once");
    staff(&shop, &placed, "release", Value::Null).await;
    heard(&shop).await;
    assert_eq!(hold(&shop, &placed).await, Value::Null);
    end(shop).await;
}
