//! Goods that come back: never more than left, counted where they end, paid back with their return.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::domain::{
    Command, Inspected, OrderId, OrderStatus, PaymentSummary, RefundWish, Refusal, ReturnId, ReturnState, ReturnStep,
    SkuId, Units, Wanted,
};

use crate::support::{
    TestEngine, eventually,
    goods::{by_hand, everything, some},
    shop::{Answer, Placed, STAFF, TestShop, paid_basket},
    usd,
};

fn wanted(lines: &[(i32, i64)]) -> Command {
    let wish = |(line, quantity): &(i32, i64)| Wanted {
        units: Units { line: *line, quantity: *quantity },
        reason: "too small".into(),
    };
    Command::AskReturn { lines: lines.iter().map(wish).collect(), note: None }
}

fn verdict(line: i32, restock: i64, quarantine: i64, scrap: i64) -> Inspected {
    Inspected { line, restock, quarantine, scrap }
}

impl TestEngine {
    /// An order of some units that are with its buyer.
    async fn delivered(&self, lines: &[(SkuId, i64)]) -> OrderId {
        let order_id = self.paid(lines).await;
        let shipment_id = self.pack(order_id, by_hand(everything())).await;
        self.ask(order_id, Command::Ship { shipment_id }).await.expect("it is ready");
        self.ask(order_id, Command::Deliver { shipment_id }).await.expect("it has left");
        order_id
    }

    async fn step(&self, order_id: OrderId, return_id: ReturnId, step: ReturnStep) -> Result<i64, Refusal> {
        self.ask(order_id, Command::Return { return_id, step }).await
    }

    async fn receive(&self, order_id: OrderId, return_id: ReturnId, line: i32, quantity: i64) -> Result<i64, Refusal> {
        self.step(order_id, return_id, ReturnStep::Receive { lines: vec![Units { line, quantity }] }).await
    }

    async fn causes(&self, sku_id: SkuId) -> Vec<(String, i64, i64)> {
        let rows = self.engine.ledger(sku_id, None, 20).await.expect("a ledger");
        let back = ["restock", "quarantine", "scrap"];
        let rows = rows.into_iter().rev().filter(|row| back.contains(&row.cause.as_str()));
        rows.map(|row| (row.cause, row.d_on_hand, row.d_reserved)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_from_the_wish_to_the_money() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.delivered(&[(sku_id, 6)]).await;
    assert_eq!(shop.stock(sku_id).await, (4, 0));
    let return_id = ReturnId(shop.ask(order_id, wanted(&[(0, 3), (0, 2)])).await.unwrap());
    let too_early = shop.receive(order_id, return_id, 0, 1).await;
    assert!(matches!(too_early, Err(Refusal::NotNow { why: "nothing of this return is awaited", .. })));
    shop.step(order_id, return_id, ReturnStep::Approve).await.unwrap();
    let twice = shop.step(order_id, return_id, ReturnStep::Decline { reason: "no".into() }).await;
    assert!(matches!(twice, Err(Refusal::NotNow { why: "it is decided already", .. })));
    shop.step(order_id, return_id, ReturnStep::Sent).await.unwrap();
    shop.receive(order_id, return_id, 0, 1).await.unwrap();
    assert_eq!(shop.return_state(return_id).await, ReturnState::PartlyReceived);
    let more = shop.receive(order_id, return_id, 0, 5).await;
    assert!(matches!(more, Err(Refusal::NotNow { why: "more arrived than the return is of", .. })));
    shop.receive(order_id, return_id, 0, 4).await.unwrap();
    assert_eq!(shop.return_state(return_id).await, ReturnState::Received);
    assert_eq!(shop.stock(sku_id).await, (4, 0), "what arrived is not yet looked at");

    let part = ReturnStep::Inspect { lines: vec![verdict(0, 1, 1, 1)], refund: false };
    assert!(matches!(shop.step(order_id, return_id, part).await, Err(Refusal::NotNow { .. })));
    let odd = ReturnStep::Inspect { lines: vec![verdict(0, 7, -1, -1)], refund: false };
    assert!(matches!(shop.step(order_id, return_id, odd).await, Err(Refusal::Invalid(_))));
    let all = ReturnStep::Inspect { lines: vec![verdict(0, 2, 2, 1)], refund: true };
    shop.step(order_id, return_id, all).await.unwrap();
    assert_eq!(shop.stock(sku_id).await, (6, 0));
    assert_eq!(
        shop.causes(sku_id).await,
        [("restock".into(), 2, 0), ("quarantine".into(), 0, 0), ("scrap".into(), 0, 0)]
    );
    let view = shop.engine.goods_return(return_id).await.unwrap();
    let refunds = shop.view(order_id).await.refunds;
    assert_eq!(refunds.len(), 1);
    assert_eq!((refunds[0].amount.minor, &view.refund_ids[..]), (5_000, &[refunds[0].id][..]));
    let twice = shop.step(order_id, return_id, ReturnStep::Close { refund: true }).await;
    assert!(matches!(twice, Err(Refusal::NotNow { why: "it is paid back already", .. })));
    shop.step(order_id, return_id, ReturnStep::Close { refund: false }).await.unwrap();
    eventually("the money is back", async || {
        shop.view(order_id).await.payment_status == PaymentSummary::PartlyRefunded && shop.provider.money().1 == 5_000
    })
    .await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Completed);
    let told = shop.timeline(order_id).await;
    let told: Vec<&str> = told.iter().map(String::as_str).filter(|kind| kind.starts_with("return_")).collect();
    let story = ["requested", "approved", "sent", "received", "received", "inspected", "closed"];
    assert_eq!(told, story.map(|word| format!("return_{word}")));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_after_a_kindness_is_paid_back_as_far_as_its_price_is_here() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.delivered(&[(sku_id, 1)]).await;
    let kindness = Command::Refund { what: RefundWish::Goodwill(usd(300)), reason: "late".into() };
    shop.ask(order_id, kindness).await.unwrap();
    let return_id = ReturnId(shop.ask(order_id, wanted(&[(0, 1)])).await.unwrap());
    shop.step(order_id, return_id, ReturnStep::Approve).await.unwrap();
    shop.receive(order_id, return_id, 0, 1).await.unwrap();
    let all = ReturnStep::Inspect { lines: vec![verdict(0, 1, 0, 0)], refund: true };
    shop.step(order_id, return_id, all).await.unwrap();
    let back =
        || async { shop.view(order_id).await.refunds.iter().map(|refund| refund.amount.minor).collect::<Vec<_>>() };
    assert_eq!(back().await, [300, 700]);
    eventually("all of it is back", async || shop.provider.money().1 == 1_000).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_left_and_is_in_no_return_comes_back() {
    let shop = TestEngine::start().await;
    let (one, other) = (shop.sku(10).await, shop.sku(10).await);
    let order_id = shop.paid(&[(one, 4), (other, 2)]).await;
    assert!(matches!(shop.ask(order_id, wanted(&[(0, 1)])).await, Err(Refusal::NotNow { .. })), "nothing has left");
    let shipment_id = shop.pack(order_id, by_hand(some(&[(0, 3)]))).await;
    shop.ask(order_id, Command::Ship { shipment_id }).await.unwrap();
    assert!(matches!(shop.ask(order_id, wanted(&[(0, 4)])).await, Err(Refusal::NotNow { .. })));
    assert!(matches!(shop.ask(order_id, wanted(&[(1, 1)])).await, Err(Refusal::NotNow { .. })));
    assert!(matches!(shop.ask(order_id, wanted(&[(9, 1)])).await, Err(Refusal::Invalid(_))));
    assert!(matches!(shop.ask(order_id, wanted(&[(0, 0)])).await, Err(Refusal::Invalid(_))));
    assert!(matches!(shop.ask(order_id, wanted(&[])).await, Err(Refusal::Invalid(_))));
    let first = ReturnId(shop.ask(order_id, wanted(&[(0, 2)])).await.unwrap());
    assert!(matches!(shop.ask(order_id, wanted(&[(0, 2)])).await, Err(Refusal::NotNow { .. })));
    shop.step(order_id, first, ReturnStep::Decline { reason: "worn".into() }).await.unwrap();
    let second = ReturnId(shop.ask(order_id, wanted(&[(0, 3)])).await.unwrap());
    // one of three never comes: it may be in a return again
    shop.step(order_id, second, ReturnStep::Approve).await.unwrap();
    shop.receive(order_id, second, 0, 2).await.unwrap();
    let here = ReturnStep::Inspect { lines: vec![verdict(0, 2, 0, 0)], refund: false };
    shop.step(order_id, second, here).await.unwrap();
    assert_eq!(shop.stock(one).await, (9, 1));
    assert!(matches!(shop.ask(order_id, wanted(&[(0, 2)])).await, Err(Refusal::NotNow { .. })));
    let third = ReturnId(shop.ask(order_id, wanted(&[(0, 1)])).await.unwrap());
    let missing = shop.step(order_id, ReturnId(1), ReturnStep::Approve).await;
    assert_eq!(missing, Err(Refusal::NotFound("return")));
    shop.step(order_id, third, ReturnStep::Approve).await.unwrap();
    shop.step(order_id, third, ReturnStep::Close { refund: false }).await.unwrap();
    assert_eq!(shop.return_state(third).await, ReturnState::Closed);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_that_no_number_holds_are_refused() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.delivered(&[(sku_id, 3)]).await;
    let too_much = shop.ask(order_id, wanted(&[(0, i64::MAX), (0, i64::MAX)])).await;
    assert!(matches!(too_much, Err(Refusal::NotNow { .. })), "{too_much:?}");
    let return_id = ReturnId(shop.ask(order_id, wanted(&[(0, 3)])).await.unwrap());
    shop.step(order_id, return_id, ReturnStep::Approve).await.unwrap();
    shop.receive(order_id, return_id, 0, 1).await.unwrap();
    let too_much = shop.receive(order_id, return_id, 0, i64::MAX).await;
    assert!(matches!(too_much, Err(Refusal::NotNow { .. })), "{too_much:?}");
    let lines = vec![verdict(0, i64::MAX, i64::MAX, 0), verdict(0, 1, 1, 1)];
    let too_much = shop.step(order_id, return_id, ReturnStep::Inspect { lines, refund: false }).await;
    assert!(matches!(too_much, Err(Refusal::NotNow { .. })), "{too_much:?}");
    assert_eq!(shop.stock(sku_id).await, (7, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_for_a_parcel_that_is_on_its_way_whatever_came_back_of_another() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    let first = shop.pack(order_id, by_hand(some(&[(0, 1)]))).await;
    let second = shop.pack(order_id, by_hand(everything())).await;
    for shipment_id in [first, second] {
        shop.ask(order_id, Command::Ship { shipment_id }).await.unwrap();
    }
    shop.ask(order_id, Command::Deliver { shipment_id: first }).await.unwrap();
    let return_id = ReturnId(shop.ask(order_id, wanted(&[(0, 1)])).await.unwrap());
    shop.step(order_id, return_id, ReturnStep::Approve).await.unwrap();
    shop.receive(order_id, return_id, 0, 1).await.unwrap();
    let restock = ReturnStep::Inspect { lines: vec![verdict(0, 1, 0, 0)], refund: false };
    shop.step(order_id, return_id, restock).await.unwrap();
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Confirmed, "the other parcel is on its way");
    shop.ask(order_id, Command::Deliver { shipment_id: second }).await.unwrap();
    shop.becomes(order_id, OrderStatus::Completed).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_comes_back_than_left_however_many_ask() {
    let shop = Arc::new(TestEngine::start().await);
    let sku_id = shop.sku(10).await;
    let order_id = shop.delivered(&[(sku_id, 5)]).await;
    let ask = |n: i64| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            let return_id = ReturnId(shop.ask(order_id, wanted(&[(0, n % 3 + 1)])).await.ok()?);
            shop.step(order_id, return_id, ReturnStep::Approve).await.ok()?;
            shop.receive(order_id, return_id, 0, n % 3 + 1).await.ok()?;
            let lines = vec![verdict(0, n % 3 + 1, 0, 0)];
            shop.step(order_id, return_id, ReturnStep::Inspect { lines, refund: true }).await.ok()
        })
    };
    let askers: Vec<_> = (0..12).map(ask).collect();
    for asker in askers {
        asker.await.unwrap();
    }
    assert_eq!(shop.stock(sku_id).await, (10, 0));
    eventually("all the money is back", async || shop.provider.money() == (5_000, 5_000)).await;
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_carrier_brings_back_ends_the_order() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    let (_, number) = shop.labelled(order_id, everything()).await;
    shop.carrier.scan(&number, souk_actors::ports::TrackingStatus::Returned, 1);
    shop.carrier_tells_of(&number).await;
    shop.all_heard().await;
    let goods = shop.engine.returns(order_id).await.unwrap().remove(0);
    assert!(matches!(shop.ask(order_id, wanted(&[(0, 1)])).await, Err(Refusal::NotNow { .. })), "it is coming back");
    shop.receive(order_id, goods.return_id, 0, 2).await.unwrap();
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Confirmed);
    let lines = vec![verdict(0, 2, 0, 0)];
    shop.step(order_id, goods.return_id, ReturnStep::Inspect { lines, refund: true }).await.unwrap();
    assert_eq!((shop.view(order_id).await.status, shop.stock(sku_id).await), (OrderStatus::Completed, (5, 0)));
    eventually("the money is back", async || shop.provider.money().1 == 2_000).await;
    shop.end().await;
}

async fn as_staff(shop: &TestShop, path: &str, key: &str, body: Value) -> Answer {
    let request = shop.request(Method::POST, path).bearer_auth(STAFF).header("Idempotency-Key", key);
    let request = if body.is_null() { request } else { request.json(&body) };
    Answer::of(request).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn parcels_and_returns_over_http() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let placed: Placed = shop.place(paid_basket(&[(&sku_id, 3)])).await;
    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    let orders = format!("/v1/admin/orders/{}", placed.order_id);
    let parcel = json!({ "length_mm": 300, "width_mm": 200, "height_mm": 100, "grams": 900 });
    let wish = json!({ "parcel": parcel, "tracking_number": "BIKE-7", "carrier": "our bike" });
    let odd = json!({ "parcel": { "length_mm": 0, "width_mm": 200, "height_mm": 100, "grams": 900 } });
    as_staff(&shop, &format!("{orders}/shipments"), "p0", odd).await.is_problem(422, "invalid");
    shop.post(&format!("{orders}/shipments"), wish.clone()).await.is_problem(401, "unauthorised");
    let packed = as_staff(&shop, &format!("{orders}/shipments"), "p1", wish.clone()).await;
    assert_eq!(packed.status, 201, "{}", packed.text);
    let again = as_staff(&shop, &format!("{orders}/shipments"), "p1", wish.clone()).await;
    assert_eq!(again.body["shipment_id"], packed.body["shipment_id"], "the same key packs once");
    as_staff(&shop, &format!("{orders}/shipments"), "p2", wish).await.is_problem(409, "order_state");
    let shipment = format!("{orders}/shipments/{}", packed.body["shipment_id"].as_str().expect("an id"));
    shop.see(&format!("{shipment}/label")).await.is_problem(404, "not_found");
    assert_eq!(as_staff(&shop, &format!("{shipment}/ship"), "s1", Value::Null).await.ok()["replayed"], false);
    assert_eq!(as_staff(&shop, &format!("{shipment}/ship"), "s1", Value::Null).await.ok()["replayed"], true);
    as_staff(&shop, &format!("{shipment}/void"), "v1", Value::Null).await.is_problem(409, "order_state");
    assert_eq!(shop.stock(&sku_id).await, (2, 0));
    assert_eq!(shop.order(&placed).await["fulfilment_status"], "fulfilled");
    as_staff(&shop, &format!("{shipment}/deliver"), "d1", Value::Null).await.ok();
    let seen = shop.get(&placed.path("/shipments")).await.ok();
    assert_eq!(seen["shipments"][0]["status"], "delivered");
    assert_eq!(seen["shipments"][0]["tracking_number"], "BIKE-7");
    assert_eq!(shop.order(&placed).await["status"], "completed");

    let wish = json!({ "lines": [{ "line": 0, "quantity": 2, "reason": "too small" }], "note": "sorry" });
    let asked = shop.post(&placed.path("/returns"), wish).await;
    assert_eq!(asked.status, 201, "{}", asked.text);
    shop.post(&format!("/v1/orders/{}/returns", placed.order_id), json!({ "lines": [] }))
        .await
        .is_problem(401, "token_required");
    let goods = format!("/v1/admin/returns/{}", asked.body["return_id"].as_str().expect("an id"));
    let listed = shop.see("/v1/admin/returns?status=requested").await.ok();
    assert_eq!(listed["returns"][0]["return_id"], asked.body["return_id"]);
    as_staff(&shop, &format!("{goods}/approve"), "a1", Value::Null).await.ok();
    let arrived = json!({ "lines": [{ "line": 0, "quantity": 2 }] });
    assert_eq!(as_staff(&shop, &format!("{goods}/receive"), "r1", arrived.clone()).await.ok()["status"], "received");
    assert_eq!(as_staff(&shop, &format!("{goods}/receive"), "r1", arrived).await.ok()["lines"][0]["received"], 2);
    let verdict = json!({ "lines": [{ "line": 0, "restock": 1, "scrap": 1 }] });
    assert_eq!(as_staff(&shop, &format!("{goods}/inspect"), "i1", verdict).await.ok()["status"], "inspected");
    as_staff(&shop, &format!("{goods}/close"), "c1", json!({})).await.ok();
    assert_eq!(shop.get(&placed.path("/returns")).await.ok()["returns"][0]["status"], "closed");
    assert_eq!(shop.stock(&sku_id).await, (3, 0));
    shop.clean().await;
    shop.app.stop().await;
}
