//! A call is made once, also where its answer has come and the order has not read it yet: it is at something else, and looks
//! what is to be done before it comes to that answer.

use sqlx::raw_sql;

use souk_actors::domain::{Command, OrderId, OrderStatus, ShipmentState};

use crate::support::{Ask, Mood, Op, TestEngine, eventually, goods::everything};

/// The answer comes while the order cannot commit what it has begun; then it can.
async fn while_busy(shop: &TestEngine, order_id: OrderId, answer: impl FnOnce()) {
    let mut conn = shop.db.conn().await;
    raw_sql("begin; lock table journal in exclusive mode").execute(&mut conn).await.expect("locked");
    let note = shop.command(order_id, Command::Note { text: "called".into() });
    let meanwhile = async {
        let name = format!("order/{order_id}");
        let waiting = || shop.actor(&name).map_or(0, |order| order.mailbox);
        eventually("it is at the note", async || waiting() == 1).await;
        answer();
        eventually("the answer waits", async || waiting() == 2).await;
        raw_sql("rollback").execute(&mut conn).await.expect("unlocked");
    };
    let (noted, ()) = tokio::join!(note, meanwhile);
    noted.expect("it is written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_whose_answer_waits_is_not_asked_for_again() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    shop.provider.next(Op::Capture, Mood::HoldsReply);
    shop.call_about(&provider_order_id).await;
    eventually("it is charged", async || shop.provider.charges() == 1).await;
    while_busy(&shop, order_id, || shop.provider.go_on()).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.provider.calls(Op::Capture), 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_whose_answer_waits_is_not_looked_for() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(1).await, 1)]).await;
    shop.carrier.next(Ask::Buy, Mood::HoldsReply);
    let shipment_id = shop.pack(order_id, everything()).await;
    eventually("it is bought there", async || shop.carrier.labels(shipment_id).len() == 1).await;
    while_busy(&shop, order_id, || shop.carrier.go_on()).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Labelled).await;
    assert_eq!((shop.carrier.calls(Ask::Buy), shop.carrier.calls(Ask::Find)), (1, 0));
    shop.end().await;
}
