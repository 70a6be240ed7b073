//! Every step of an order's life that asks somebody outside, failed before and after its effect, and asked for twice: it ends
//! with one charge, one refund and one label. Announcements, charges and refunds alone are in `money`, reservations in
//! `paypal_authorise`; here a whole life meets the same failure at every step.

use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    eventually_or, passes,
    shop::{Answer, HASTY, Placed, STAFF, TestShop, books_agree, fresh, paid_basket},
};

/// Lives told side by side.
const AT_ONCE: usize = 3;

/// What each call of a life meets, once.
fn faults() -> Vec<Value> {
    vec![
        json!({ "kind": "drop_before" }),
        json!({ "kind": "drop_after" }),
        json!({ "kind": "status", "status": 503 }),
        json!({ "kind": "status_after", "status": 500 }),
        json!({ "kind": "garbage" }),
        json!({ "kind": "hang" }),
        json!({ "kind": "hang_after" }),
    ]
}

/// Time passes until it is so.
async fn comes(shop: &TestShop, what: &str, holds: impl AsyncFnMut() -> bool) {
    passes(shop, 2, holds, what).await;
}

/// Staff ask twice, with one key.
async fn twice(shop: &TestShop, placed: &Placed, verb: &str, body: &Value) {
    let path = format!("/v1/admin/orders/{}/{verb}", placed.order_id);
    let key = fresh("step");
    for _ in 0..2 {
        let request = shop.request(Method::POST, &path).bearer_auth(STAFF).header("Idempotency-Key", &key);
        let request = if body.is_null() { request } else { request.json(body) };
        Answer::of(request).await.expect("an answer").ok();
    }
}

async fn parcel(shop: &TestShop, placed: &Placed, at: usize) -> Value {
    let path = format!("/v1/orders/{}/shipments", placed.order_id);
    shop.see(&path).await.ok()["shipments"][at].clone()
}

async fn carrier_gives_back(shop: &TestShop) {
    let books = shop.bank.read("shippo/books").await;
    for refund in books["refunds"].as_array().expect("a list").iter().filter(|row| row["status"] == "PENDING") {
        let path = format!("shippo/refunds/{}", refund["object_id"].as_str().expect("an id"));
        shop.bank.control(&path, json!({ "status": "SUCCESS" })).await;
    }
}

/// The labels of a shipment that cost money, by the carrier's books.
async fn live_labels(shop: &TestShop, shipment: &Value) -> Vec<Value> {
    let about = format!("shippo/transactions?metadata={}", shipment["shipment_id"].as_str().expect("an id"));
    let labels = shop.bank.read(&about).await;
    labels["transactions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|row| row["status"] == "SUCCESS")
        .cloned()
        .collect()
}

/// Sold, packed, the label called off, packed again, some money back, brought to its buyer; each call fails once, so.
async fn life(intent: &str, fault: &Value) {
    let own = [HASTY, ("SOUK_CHECKOUT__INTENT", intent), ("SOUK_SHIPPO__TIMEOUT_SECONDS", "2")];
    let shop = TestShop::with(&own).await;
    let sku_id = shop.sku(100).await;
    for on in ["create", "capture", "authorize", "capture_authorization", "refund", "void"] {
        let mut rule = fault.clone();
        rule["on"] = json!(on);
        shop.bank.fault(rule).await;
    }
    for on in ["buy", "refund", "track", "label"] {
        let mut rule = fault.clone();
        rule["on"] = json!(on);
        shop.bank.control("shippo/faults", rule).await;
    }
    let what = |step: &str| format!("{step}, {intent}, {fault}");

    let placed = sell(&shop, &sku_id, &what("it is announced")).await;
    shop.bank.approve(&placed).await;
    comes(&shop, &what("it is confirmed"), async || shop.status(&placed).await.0 == "confirmed").await;
    let service =
        json!({ "provider": "shippo", "carrier": "usps", "token": "usps_priority", "name": "USPS Priority Mail" });
    let size = json!({ "length_mm": 300, "width_mm": 200, "height_mm": 100, "grams": 900 });
    let packing = json!({ "parcel": size, "service": service });
    twice(&shop, &placed, "shipments", &packing).await;
    comes(&shop, &what("it has a label"), async || parcel(&shop, &placed, 0).await["status"] == "labelled").await;
    let first = parcel(&shop, &placed, 0).await;
    assert_eq!(live_labels(&shop, &first).await.len(), 1, "{fault}");
    twice(&shop, &placed, &format!("shipments/{}/void", first["shipment_id"].as_str().expect("an id")), &Value::Null)
        .await;
    comes(&shop, &what("the label is given back"), async || {
        carrier_gives_back(&shop).await;
        shop.later(60).await; // it is asked every five minutes
        parcel(&shop, &placed, 0).await["status"] == "voided"
    })
    .await;
    assert_eq!(live_labels(&shop, &first).await.len(), 0, "{fault}");
    twice(&shop, &placed, "shipments", &packing).await;
    comes(&shop, &what("it has another label"), async || parcel(&shop, &placed, 1).await["status"] == "labelled").await;
    let second = parcel(&shop, &placed, 1).await;
    let kindness = json!({ "amount": "1.00", "currency": "USD" });
    twice(&shop, &placed, "refunds", &json!({ "goodwill": kindness, "reason": "it took so long" })).await;
    let track = format!("shippo/tracks/usps/{}", second["tracking_number"].as_str().expect("a number"));
    shop.bank.control(&track, json!({ "status": "DELIVERED" })).await;
    comes(&shop, &what("it is with its buyer"), async || {
        shop.later(600).await;
        shop.status(&placed).await == ("completed".into(), "partially_refunded".into())
    })
    .await;
    assert_eq!(live_labels(&shop, &second).await.len(), 1, "{fault}");
    assert_eq!(shop.bank.charged(&placed).await, (1, 1.0), "{fault}");

    let undone = sell(&shop, &sku_id, &what("another is announced")).await;
    shop.bank.approve(&undone).await;
    comes(&shop, &what("another is confirmed"), async || shop.status(&undone).await.0 == "confirmed").await;
    twice(&shop, &undone, "cancel", &json!({ "reason": "the buyer called" })).await;
    comes(&shop, &what("it is called off"), async || shop.status(&undone).await.0 == "cancelled").await;
    let (charges, back) = shop.bank.charged(&undone).await;
    assert!((charges, back) == (0, 0.0) || (charges, back) == (1, 12.5), "{charges} charges, {back} back: {fault}");
    assert_eq!(shop.stock(&sku_id).await, (99, 0), "{fault}");
    books_agree(&shop).await;
    // what was put off comes again by itself
    let clean = async || {
        shop.later(60).await;
        shop.see("/v1/ops/audit").await.ok()["clean"] == true
    };
    eventually_or(&what("the audit is clean"), clean, async || shop.see("/v1/ops/audit").await.text).await;
    shop.app.stop().await;
}

/// A unit that is bought, until the provider's page is there.
async fn sell(shop: &TestShop, sku_id: &str, what: &str) -> Placed {
    let placed = shop.place(paid_basket(&[(sku_id, 1)])).await;
    let mut approve_url = placed.approve_url.clone();
    comes(shop, what, async || {
        if approve_url.is_empty() {
            let order = shop.order(&placed).await;
            approve_url = order["payments"][0]["approve_url"].as_str().unwrap_or_default().to_owned();
        }
        !approve_url.is_empty()
    })
    .await;
    Placed { approve_url, ..placed }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_fails_once_and_is_asked_for_twice() {
    let lives =
        ["capture", "authorise"].into_iter().flat_map(|intent| faults().into_iter().map(move |it| (intent, it)));
    stream::iter(lives).for_each_concurrent(AT_ONCE, |(intent, fault)| async move { life(intent, &fault).await }).await;
}
