//! What staff ask of a placed order: carried out once a key, refused where it makes no sense, told in the timeline.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::shop::{Answer, Placed, STAFF, TestShop, basket};

async fn ask(shop: &TestShop, placed: &Placed, verb: &str, key: &str, body: &Value) -> Answer {
    let path = format!("/v1/admin/orders/{}/{verb}", placed.order_id);
    let request = shop.request(Method::POST, &path).bearer_auth(STAFF).header("Idempotency-Key", key);
    let request = if body.is_null() { request } else { request.json(body) };
    Answer::of(request).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_held_back_and_released_once_a_key() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let placed = shop.place(basket(&[(&sku_id, 1)])).await;
    let reason = json!({ "reason": "address looks wrong" });

    assert_eq!(ask(&shop, &placed, "hold", "h1", &reason).await.ok()["replayed"], false);
    assert_eq!(ask(&shop, &placed, "hold", "h1", &reason).await.ok()["replayed"], true);
    ask(&shop, &placed, "hold", "h1", &json!({ "reason": "other" })).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(shop.order(&placed).await["hold_reason"], "address looks wrong");

    ask(&shop, &placed, "release", "r1", &Value::Null).await.ok();
    assert_eq!(ask(&shop, &placed, "release", "r1", &Value::Null).await.ok()["replayed"], true);
    ask(&shop, &placed, "release", "r2", &Value::Null).await.is_problem(409, "order_state");
    assert!(shop.order(&placed).await["hold_reason"].is_null());
    ask(&shop, &placed, "hold", "h2", &json!({ "reason": " " })).await.is_problem(422, "invalid");
    ask(&shop, &placed, "hold", "h3", &json!({ "why": "x" })).await.is_problem(422, "invalid");

    assert_eq!(shop.timeline(&placed).await, ["placed", "held_back", "released"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_used_by_many_at_once_is_carried_out_once() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let placed = shop.place(basket(&[(&sku_id, 1)])).await;
    let note = json!({ "text": "called the buyer" });
    let asked = futures::future::join_all((0..16).map(|_| ask(&shop, &placed, "notes", "n1", &note))).await;
    let fresh = asked.into_iter().filter(|answer| answer.body["replayed"] == false).count();
    assert_eq!(fresh, 1);
    assert_eq!(shop.count("select count(*) from order_event where kind = 'note'").await, 1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_staff_writes_for_itself_is_for_staff_alone() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let placed = shop.place(basket(&[(&sku_id, 1)])).await;
    ask(&shop, &placed, "notes", "n1", &json!({ "text": "a regular" })).await.ok();
    ask(&shop, &placed, "hold", "h1", &json!({ "reason": "looks like fraud" })).await.ok();
    let all = shop.see(&format!("/v1/orders/{}/events", placed.order_id)).await.ok();
    assert_eq!(all["events"][1]["data"]["text"], "a regular");
    assert_eq!(all["events"][2]["data"]["reason"], "looks like fraud");
    let seen = shop.get(&placed.path("/events")).await.ok();
    let seen: Vec<_> = seen["events"].as_array().expect("a list").iter().map(|e| (&e["kind"], &e["data"])).collect();
    assert_eq!(seen, [(&json!("placed"), &json!({})), (&json!("held_back"), &json!({}))]);
    assert!(shop.get(&placed.path("")).await.ok()["hold_reason"].is_null());
    shop.close().await;
}
