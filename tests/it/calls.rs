//! A call is made once, also where its answer has come and the order has not read it yet: it is at something else, and looks
//! what is to be done before it comes to that answer.

use souk_actors::{
    domain::{Command, OrderId, OrderStatus, ShipmentState},
    faults::Fault,
    ports::TrackingStatus,
};
use sqlx::raw_sql;

use crate::support::{Ask, Op, TestEngine, eventually, goods::some};

impl TestEngine {
    /// Something happens while the order cannot commit what it has begun; then it can.
    async fn while_busy(&self, order_id: OrderId, happens: impl AsyncFnOnce()) {
        let mut conn = self.db.conn().await;
        raw_sql("begin; lock table journal in exclusive mode").execute(&mut conn).await.expect("locked");
        let note = self.command(order_id, Command::Note { text: "called".into() });
        let meanwhile = async {
            let stands = "select count(*) from pg_stat_activity where datname = current_database()
                          and application_name = 'souk journal' and wait_event_type = 'Lock'";
            eventually("nothing is committed", async || self.count(stands).await > 0).await;
            self.has_unread(order_id, 0).await;
            happens().await;
            raw_sql("rollback").execute(&mut conn).await.expect("unlocked");
        };
        let (noted, ()) = tokio::join!(note, meanwhile);
        noted.expect("it is written down");
    }

    /// So many messages wait behind what the order is at.
    async fn has_unread(&self, order_id: OrderId, messages: usize) {
        let name = format!("order/{order_id}");
        let unread = || self.actor(&name).is_some_and(|order| order.mailbox > messages);
        eventually("the answer waits", async || unread()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_whose_answer_waits_is_not_asked_for_again() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.charged_unheard(order_id).await;
    shop.while_busy(order_id, async || {
        shop.provider.go_on();
        shop.has_unread(order_id, 1).await;
    })
    .await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.provider.calls(Op::Capture), 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_whose_answer_waits_is_not_looked_for() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(1).await, 1)]).await;
    let shipment_id = shop.labelled_unheard(order_id).await;
    shop.while_busy(order_id, async || {
        shop.carrier.go_on();
        shop.has_unread(order_id, 1).await;
    })
    .await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Labelled).await;
    assert_eq!((shop.carrier.calls(Ask::Buy), shop.carrier.calls(Ask::Find)), (1, 0));
    shop.end().await;
}

/// Else nobody could ask for it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_with_its_order_is_fetched_again() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(2).await, 2)]).await;
    let (_, number) = shop.labelled(order_id, some(&[(0, 1)])).await;
    let shipment_id = shop.labelled_unheard(order_id).await;
    shop.faults.arm("order.tracked", None, Fault::Panic, 0, 1);
    shop.while_busy(order_id, async || {
        shop.carrier.scan(&number, TrackingStatus::Transit, 1);
        shop.carrier_tells_of(&number).await;
        shop.has_unread(order_id, 1).await;
        shop.carrier.go_on();
        shop.has_unread(order_id, 2).await;
    })
    .await;
    shop.shipment_comes_to(order_id, shipment_id, ShipmentState::Labelled).await;
    assert_eq!(shop.actor(&format!("order/{order_id}")).map(|order| order.restarts), Some(1));
    assert_eq!((shop.carrier.calls(Ask::Buy), shop.carrier.labels(shipment_id).len()), (2, 1));
    shop.end().await;
}
