//! Parcels: packed by line and quantity, one label a shipment whatever is lost on the way, stock that leaves when the goods
//! do, and a carrier whose words come late, doubled and out of order.

use std::sync::Arc;

use chrono::TimeDelta;
use souk_actors::{
    domain::{Command, Fulfilment, OrderId, OrderStatus, Refusal, ReturnState, ShipmentId, ShipmentState, Units},
    faults::{Fault, PARCEL_POINTS},
    ports::{LabelStatus, ParcelLocator, ProviderError, TrackingStatus, Void},
};

use crate::support::{
    Ask, Mood, Op, Setup, TestEngine, eventually,
    goods::{by_hand, everything, some},
};

impl TestEngine {
    /// Ledger rows of an order, as cause, moves on hand, moves reserved.
    async fn moves(&self, order_id: OrderId, cause: &str) -> Vec<(i64, i64)> {
        let mut conn = self.db.conn().await;
        sqlx::query_as("select d_on_hand, d_reserved from ledger where order_id = $1 and cause::text = $2 order by id")
            .bind(order_id)
            .bind(cause)
            .fetch_all(&mut conn)
            .await
            .expect("a question")
    }

    async fn fulfilment(&self, order_id: OrderId) -> Fulfilment {
        self.view(order_id).await.fulfilment_status
    }

    /// The purchase is decided, whatever was in the way: one label that costs money, and it is the shipment's.
    async fn has_one_label(&self, order_id: OrderId, shipment_id: ShipmentId) {
        self.shipment_comes_to(order_id, shipment_id, ShipmentState::Labelled).await;
        let number = self.shipment(order_id, shipment_id).await.tracking_number;
        eventually("every other label is given back", async || {
            self.later(TimeDelta::minutes(1));
            self.carrier.live_labels(shipment_id).len() == 1
        })
        .await;
        assert_eq!(self.carrier.live_labels(shipment_id)[0].tracking_number, number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_from_the_box_to_the_buyer() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    assert_eq!((shop.stock(sku_id).await, shop.fulfilment(order_id).await), ((5, 2), Fulfilment::Unfulfilled));
    eventually("the label can be printed", async || shop.engine.label(order_id, shipment_id).await.is_ok()).await;
    assert_eq!(shop.engine.label(order_id, shipment_id).await.unwrap().bytes, b"%PDF \0 a label");

    shop.carrier.scan(&number, TrackingStatus::PreTransit, 1);
    shop.carrier_tells_of(&number).await;
    shop.all_heard().await;
    assert_eq!(shop.stock(sku_id).await, (5, 2), "known to the carrier is not left");

    shop.carrier.scan(&number, TrackingStatus::Transit, 2);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::InTransit).await;
    assert_eq!((shop.stock(sku_id).await, shop.fulfilment(order_id).await), ((3, 0), Fulfilment::Fulfilled));
    assert_eq!(shop.moves(order_id, "ship").await, [(-2, -2)]);

    for hour in [3, 4] {
        shop.carrier.scan_as(&number, TrackingStatus::Transit, Some("pickup_available"), hour);
        shop.carrier_tells_of(&number).await;
        shop.all_heard().await;
    }
    shop.carrier.scan_as(&number, TrackingStatus::Transit, Some("out_for_delivery"), 5);
    shop.carrier_tells_of(&number).await;
    shop.carrier.scan(&number, TrackingStatus::Delivered, 6);
    shop.carrier_tells_of(&number).await;
    shop.becomes(order_id, OrderStatus::Completed).await;
    assert_eq!(shop.fulfilment(order_id).await, Fulfilment::Delivered);
    shop.all_heard().await;
    let told: Vec<String> = shop.timeline(order_id).await.into_iter().skip_while(|kind| kind != "confirmed").collect();
    let out = told.iter().filter(|kind| *kind == "out_for_delivery").count();
    let told: Vec<&str> = told.iter().map(String::as_str).filter(|kind| *kind != "out_for_delivery").collect();
    let needs_buyer = "delivery_needs_you"; // once, however often the carrier says so
    assert_eq!(
        told,
        ["confirmed", "shipment_created", "label_bought", "shipped", needs_buyer, "delivered", "completed"]
    );
    assert!(out <= 1, "both news may have been asked about at once");
    let events = shop.engine.events(order_id, true).await.unwrap();
    let delivered = events.iter().find(|event| event.kind == "delivered").unwrap();
    assert_eq!(delivered.data["shipment_id"], shipment_id.to_string());
    assert_eq!(delivered.data["tracking_number"], number);
    assert_eq!(delivered.data["tracking_url"], format!("https://track.example/{number}"));
    assert_eq!(delivered.data["lines"][0]["quantity"], 2);
    assert_eq!(
        (shop.carrier.calls(Ask::Buy), shop.carrier.calls(Ask::Find)),
        (1, 0),
        "a fresh purchase looks for nothing"
    );
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_as_many_parcels_as_it_takes() {
    let shop = TestEngine::start().await;
    let (one, other) = (shop.sku(10).await, shop.sku(10).await);
    let order_id = shop.paid(&[(one, 5), (other, 2)]).await;
    let (first, number) = shop.labelled(order_id, some(&[(0, 2)])).await;
    let refused = shop.ask(order_id, Command::Pack(Box::new(some(&[(0, 4)])))).await;
    assert!(matches!(refused, Err(Refusal::NotNow { .. })), "{refused:?}");
    let unknown = shop.ask(order_id, Command::Pack(Box::new(some(&[(7, 1)])))).await;
    assert!(matches!(unknown, Err(Refusal::Invalid(_))), "{unknown:?}");
    let (second, _) = shop.labelled(order_id, everything()).await;
    let lines = shop.shipment(order_id, second).await.lines;
    assert_eq!(lines.iter().map(|line| (line.line, line.quantity)).collect::<Vec<_>>(), [(0, 3), (1, 2)]);
    let refused = shop.ask(order_id, Command::Pack(Box::new(everything()))).await;
    assert!(matches!(refused, Err(Refusal::NotNow { why: "everything is in a shipment already", .. })));

    shop.carrier.scan(&number, TrackingStatus::Delivered, 1);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, first, ShipmentState::Delivered).await;
    assert_eq!((shop.stock(one).await, shop.stock(other).await), ((8, 3), (10, 2)));
    assert_eq!(shop.fulfilment(order_id).await, Fulfilment::Partial);
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Confirmed);
    shop.clean().await;

    shop.ask(order_id, Command::Ship { shipment_id: second }).await.unwrap();
    assert_eq!((shop.stock(one).await, shop.stock(other).await), ((5, 0), (8, 0)));
    assert_eq!(shop.fulfilment(order_id).await, Fulfilment::Fulfilled);
    shop.ask(order_id, Command::Deliver { shipment_id: second }).await.unwrap();
    shop.becomes(order_id, OrderStatus::Completed).await;
    assert_eq!(shop.view(order_id).await.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [5, 2]);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_unit_is_packed_twice_however_many_pack() {
    let shop = Arc::new(TestEngine::start().await);
    let sku_id = shop.sku(10).await;
    let order_id = shop.paid(&[(sku_id, 7)]).await;
    let pack = |n: i64| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move { shop.ask(order_id, Command::Pack(Box::new(by_hand(some(&[(0, n % 3 + 1)]))))).await })
    };
    let packers: Vec<_> = (0..12).map(pack).collect();
    for packer in packers {
        let packed = packer.await.unwrap();
        assert!(matches!(packed, Ok(_) | Err(Refusal::NotNow { .. })), "{packed:?}");
    }
    let shipments = shop.engine.shipments(order_id).await.unwrap();
    let packed: i64 = shipments.iter().flat_map(|own| &own.lines).map(|line| line.quantity).sum();
    assert_eq!(packed, 7);
    for shipment in shipments {
        shop.ask(order_id, Command::Ship { shipment_id: shipment.shipment_id }).await.unwrap();
    }
    assert_eq!(shop.stock(sku_id).await, (3, 0));
    shop.clean().await;
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_by_hand_needs_no_carrier() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(3).await;
    let order_id = shop.paid(&[(sku_id, 3)]).await;
    let shipment_id = shop.pack(order_id, by_hand(everything())).await;
    assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::Labelled);
    let early = shop.ask(order_id, Command::Deliver { shipment_id }).await;
    assert!(matches!(early, Err(Refusal::NotNow { why: "the parcel has not left", .. })));
    shop.ask(order_id, Command::VoidLabel { shipment_id }).await.unwrap();
    assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::Voided);
    let again = shop.pack(order_id, by_hand(everything())).await;
    let refused = shop.ask(order_id, Command::Ship { shipment_id }).await;
    assert!(matches!(refused, Err(Refusal::NotNow { why: "the shipment is not ready", .. })));
    shop.ask(order_id, Command::Ship { shipment_id: again }).await.unwrap();
    shop.ask(order_id, Command::Ship { shipment_id: again }).await.unwrap(); // once is enough
    assert_eq!((shop.stock(sku_id).await, shop.moves(order_id, "ship").await), ((0, 0), vec![(-3, -3)]));
    let late = shop.ask(order_id, Command::VoidLabel { shipment_id: again }).await;
    assert!(matches!(late, Err(Refusal::NotNow { why: "the parcel has left", .. })));
    shop.ask(order_id, Command::Deliver { shipment_id: again }).await.unwrap();
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Completed);
    assert_eq!(shop.carrier.calls(Ask::Buy), 0);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_paid_and_not_held_back_is_packed() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let unpaid = shop.order(sku_id, 1).await;
    let refused = shop.ask(unpaid, Command::Pack(Box::new(everything()))).await;
    assert!(matches!(refused, Err(Refusal::NotNow { status: OrderStatus::AwaitingPayment, .. })));
    let order_id = shop.paid(&[(sku_id, 1)]).await;
    let mut nobody = everything();
    nobody.service.as_mut().unwrap().provider = "nobody".into();
    let refused = shop.ask(order_id, Command::Pack(Box::new(nobody))).await;
    assert!(matches!(refused, Err(Refusal::Invalid(_))));
    shop.ask(order_id, Command::Hold { reason: "address looks wrong".into() }).await.unwrap();
    let refused = shop.ask(order_id, Command::Pack(Box::new(everything()))).await;
    assert!(matches!(refused, Err(Refusal::NotNow { why: "it is held back", .. })));
    shop.ask(order_id, Command::Release).await.unwrap();
    shop.labelled(order_id, everything()).await;
    shop.end().await;
}

// ── one label a shipment ─────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn a_label_whose_answer_was_lost_is_found_and_not_bought_again() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(50).await;
    for lost in 1..=3 {
        let order_id = shop.paid(&[(sku_id, 1)]).await;
        for _ in 0..lost {
            shop.carrier.next(Ask::Buy, Mood::LosesReply);
        }
        let before = shop.carrier.calls(Ask::Buy);
        let shipment_id = shop.pack(order_id, everything()).await;
        shop.has_one_label(order_id, shipment_id).await;
        assert_eq!(shop.carrier.calls(Ask::Buy) - before, 1);
        assert_eq!(shop.carrier.labels(shipment_id).len(), 1);
        for _ in 1..lost {
            // what was meant for this story
            let order_id = shop.paid(&[(sku_id, 1)]).await;
            let shipment_id = shop.pack(order_id, everything()).await;
            shop.has_one_label(order_id, shipment_id).await;
        }
    }
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_breaks_before_it_sells_is_asked_again_when_it_is_quiet() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    shop.carrier.next(Ask::Buy, Mood::Broken);
    shop.carrier.next(Ask::Find, Mood::Broken);
    let shipment_id = shop.pack(order_id, everything()).await;
    eventually("the carrier was looked at", async || {
        shop.later(TimeDelta::seconds(1));
        shop.carrier.calls(Ask::Find) >= 3
    })
    .await;
    assert_eq!(shop.carrier.calls(Ask::Buy), 1, "for two minutes it is only looked for");
    shop.has_one_label(order_id, shipment_id).await;
    assert_eq!((shop.carrier.calls(Ask::Buy), shop.carrier.labels(shipment_id).len()), (2, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_crosses_ours_costs_no_second_label() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    shop.carrier.next(Ask::Buy, Mood::Broken);
    let shipment_id = shop.pack(order_id, everything()).await;
    shop.shipment_comes_to(order_id, shipment_id, ShipmentState::Labelled).await;
    // what had been given up as lost arrives at the carrier only now
    shop.carrier.sell(shipment_id);
    shop.has_one_label(order_id, shipment_id).await;
    assert_eq!(shop.carrier.labels(shipment_id).len(), 2);
    eventually("it is told", async || shop.told(order_id, "stray_labels_voided").await == 1).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_while_it_buys_leaves_one_label() {
    for mood in [Mood::Hangs, Mood::HoldsReply] {
        let shop = TestEngine::start().await;
        let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
        shop.carrier.next(Ask::Buy, mood.clone());
        let shipment_id = shop.pack(order_id, everything()).await;
        eventually("the carrier was asked", async || shop.carrier.calls(Ask::Buy) == 1).await;
        // the old one is not stopped: it is shut out
        let (carrier, provider) = (Arc::clone(&shop.carrier), Arc::clone(&shop.provider));
        let setup =
            Setup { clock: shop.clock.clone(), carrier: Some(carrier), provider: Some(provider), ..Setup::default() };
        let next = TestEngine::on(Arc::clone(&shop.db), shop.db.connect.clone(), setup).await;
        eventually("the next one looks", async || {
            next.later(TimeDelta::seconds(1));
            next.carrier.calls(Ask::Find) >= 1
        })
        .await;
        assert_eq!(next.carrier.calls(Ask::Buy), 1);
        next.shipment_comes_to(order_id, shipment_id, ShipmentState::Labelled).await;
        shop.carrier.go_on(); // the dead one's request is done after all
        let made = if matches!(mood, Mood::Hangs) { 2 } else { 1 };
        eventually("it is in the books", async || next.carrier.labels(shipment_id).len() == made).await;
        next.has_one_label(order_id, shipment_id).await;
        shop.engine.stop().await;
        next.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_parcel_buys_and_ships_once() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(100).await;
    let mut left = 100;
    for point in PARCEL_POINTS {
        let order_id = shop.paid(&[(sku_id, 2)]).await;
        let shipment_id = shop.pack(order_id, some(&[(0, 1)])).await;
        shop.faults.clear();
        if point.ends_with("void") {
            shop.has_one_label(order_id, shipment_id).await;
            shop.faults.arm(point, None, Fault::Panic, 0, 1);
            shop.ask(order_id, Command::VoidLabel { shipment_id }).await.unwrap();
            shop.shipment_comes_to(order_id, shipment_id, ShipmentState::Voided).await;
            assert_eq!(shop.carrier.live_labels(shipment_id), []);
            continue;
        }
        shop.has_one_label(order_id, shipment_id).await;
        shop.faults.arm(point, None, Fault::Panic, 0, 1);
        let other = shop.pack(order_id, some(&[(0, 1)])).await;
        shop.has_one_label(order_id, other).await;
        assert_eq!(shop.carrier.labels(other).len(), 1, "{point}");
        let number = shop.shipment(order_id, other).await.tracking_number.unwrap();
        shop.carrier.scan(&number, TrackingStatus::Transit, 0);
        shop.carrier_tells_of(&number).await;
        shop.shipment_comes_to(order_id, other, ShipmentState::InTransit).await;
        left -= 1;
        assert_eq!(shop.stock(sku_id).await.0, left, "{point}");
    }
    shop.faults.clear();
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_carrier_refuses_staff_asks_for_again() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    shop.carrier.buy_as(LabelStatus::Failed("carrier_timeout: no \0 answer".into()));
    let shipment_id = shop.pack(order_id, everything()).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::LabelFailed).await;
    assert_eq!(shop.shipment(order_id, shipment_id).await.error.as_deref(), Some("carrier_timeout: no  answer"));
    shop.carrier.next(Ask::Buy, Mood::Says(ProviderError::Rejected("no such service".into())));
    shop.ask(order_id, Command::BuyLabel { shipment_id }).await.unwrap();
    eventually("it fails again", async || shop.told(order_id, "label_failed").await == 2).await;
    shop.carrier.buy_as(LabelStatus::Bought);
    shop.ask(order_id, Command::BuyLabel { shipment_id }).await.unwrap();
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Labelled).await;
    assert_eq!(shop.carrier.live_labels(shipment_id).len(), 1);
    assert_eq!(shop.shipment(order_id, shipment_id).await.error, None);
    let refused = shop.ask(order_id, Command::BuyLabel { shipment_id }).await;
    assert!(matches!(refused, Err(Refusal::NotNow { why: "its label has not failed", .. })));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_is_queued_is_asked_about_until_it_is_decided() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    for (decision, comes_to) in [
        (LabelStatus::Bought, ShipmentState::Labelled),
        (LabelStatus::Failed("no room".into()), ShipmentState::LabelFailed),
    ] {
        let order_id = shop.paid(&[(sku_id, 1)]).await;
        shop.carrier.buy_as(LabelStatus::Queued);
        let shipment_id = shop.pack(order_id, everything()).await;
        let before = shop.carrier.calls(Ask::Look);
        eventually("it is looked at", async || {
            shop.later(TimeDelta::seconds(1));
            shop.carrier.calls(Ask::Look) > before + 2
        })
        .await;
        let label_id = shop.carrier.labels(shipment_id)[0].label_id.clone();
        shop.carrier.decide(&label_id, decision);
        let locator =
            ParcelLocator { label_id: Some(label_id.clone()), fingerprint: label_id, ..ParcelLocator::default() };
        shop.carrier_calls(locator).await;
        shop.shipment_comes_to(order_id, shipment_id, comes_to).await;
        assert_eq!(shop.carrier.labels(shipment_id).len(), 1);
    }
    assert_eq!(shop.carrier.calls(Ask::Buy), 2);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labels_file_is_fetched_until_it_is_here() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    shop.carrier.next(Ask::File, Mood::Broken);
    shop.carrier.next(Ask::File, Mood::LosesReply);
    let (shipment_id, _) = shop.labelled(order_id, everything()).await;
    assert_eq!(shop.engine.label(order_id, shipment_id).await.unwrap_err(), Refusal::NotFound("label"));
    shop.carrier.move_files();
    eventually("the file is here", async || {
        shop.later(TimeDelta::seconds(2));
        shop.engine.label(order_id, shipment_id).await.is_ok()
    })
    .await;
    assert_eq!(shop.count("select count(*) from label_file").await, 1);
    shop.end().await;
}

// ── voids ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn a_voided_shipment_frees_its_lines_and_a_rejected_void_does_not() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    let (first, _) = shop.labelled(order_id, everything()).await;
    shop.carrier.void_as(Void::Pending);
    shop.ask(order_id, Command::VoidLabel { shipment_id: first }).await.unwrap();
    shop.ask(order_id, Command::VoidLabel { shipment_id: first }).await.unwrap(); // it is under way
    eventually("the carrier was asked", async || shop.carrier.calls(Ask::Void) == 1).await;
    assert_eq!(shop.shipment(order_id, first).await.status, ShipmentState::Voiding);
    let refused = shop.ask(order_id, Command::Pack(Box::new(everything()))).await;
    assert!(matches!(refused, Err(Refusal::NotNow { .. })), "the units wait for the carrier: {refused:?}");
    shop.carrier.void_as(Void::Done);
    shop.later(TimeDelta::minutes(6));
    shop.shipment_comes_to(order_id, first, ShipmentState::Voided).await;

    let (second, _) = shop.labelled(order_id, everything()).await;
    shop.carrier.void_as(Void::Rejected);
    shop.ask(order_id, Command::VoidLabel { shipment_id: second }).await.unwrap();
    shop.shipment_becomes(order_id, second, ShipmentState::VoidRejected).await;
    let refused = shop.ask(order_id, Command::Pack(Box::new(everything()))).await;
    assert!(matches!(refused, Err(Refusal::NotNow { .. })), "{refused:?}");
    shop.ask(order_id, Command::Ship { shipment_id: second }).await.unwrap(); // the label is still good
    assert_eq!(shop.stock(sku_id).await, (3, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_that_leaves_while_its_label_is_voided_has_left() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.carrier.next(Ask::Void, Mood::Hangs);
    shop.ask(order_id, Command::VoidLabel { shipment_id }).await.unwrap();
    eventually("the carrier was asked", async || shop.carrier.calls(Ask::Void) == 1).await;
    shop.carrier.scan(&number, TrackingStatus::Transit, 1);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::InTransit).await;
    shop.carrier.go_on();
    shop.later(TimeDelta::minutes(10));
    shop.all_heard().await;
    assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::InTransit);
    assert_eq!((shop.stock(sku_id).await, shop.told(order_id, "label_voided").await), ((3, 0), 0));
    shop.end().await;
}

// ── tracking: each row of the table ──────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn the_same_news_is_kept_once() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.carrier.scan(&number, TrackingStatus::Transit, 1);
    let news = || ParcelLocator {
        tracking_number: Some(number.clone()),
        fingerprint: "track_updated, transit, one minute past".into(),
        ..ParcelLocator::default()
    };
    assert!(shop.carrier_calls(news()).await);
    for _ in 0..9 {
        assert!(!shop.carrier_calls(news()).await, "it was here before");
    }
    for _ in 0..5 {
        shop.carrier_tells_of(&number).await; // the same under other names
    }
    shop.all_heard().await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::InTransit).await;
    assert_eq!(shop.count("select count(*) from inbox where provider = 'parcels'").await, 6);
    assert_eq!(shop.count("select count(*) from tracking_fact").await, 1);
    assert_eq!(shop.told(order_id, "shipped").await, 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_before_transit_and_a_late_transit_never_step_back() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.paid(&[(sku_id, 1)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.carrier.scan(&number, TrackingStatus::Delivered, 10);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Delivered).await;
    assert_eq!(shop.stock(sku_id).await, (4, 0));
    for (status, minutes) in
        [(TrackingStatus::Transit, 5), (TrackingStatus::PreTransit, 1), (TrackingStatus::Transit, 20)]
    {
        shop.carrier.scan(&number, status, minutes);
        shop.carrier_tells_of(&number).await;
        shop.all_heard().await;
        assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::Delivered);
    }
    assert_eq!(shop.shipment(order_id, shipment_id).await.tracking.len(), 4, "recorded all the same");
    assert_eq!((shop.told(order_id, "shipped").await, shop.told(order_id, "delivered").await), (1, 1));
    assert_eq!(shop.stock(sku_id).await, (4, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_is_the_last_word_also_with_an_older_date() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.carrier.scan(&number, TrackingStatus::Transit, 20);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::InTransit).await;
    shop.carrier.scan(&number, TrackingStatus::Delivered, 10);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Delivered).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_that_overtakes_the_labels_answer_waits_for_it() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    let shipment_id = shop.labelled_unheard(order_id).await;
    let label = shop.carrier.labels(shipment_id)[0].clone();
    let number = label.tracking_number.unwrap();
    shop.carrier.scan(&number, TrackingStatus::Transit, 1);
    shop.carrier_tells_of(&number).await;
    let by_metadata = ParcelLocator {
        shipment_id: Some(shipment_id.to_string()),
        label_id: Some(label.label_id),
        fingerprint: "by metadata".into(),
        ..ParcelLocator::default()
    };
    shop.carrier_calls(by_metadata).await;
    eventually("both are parked", async || {
        shop.count("select count(*) from inbox where processed_at is null and attempts > 0").await == 2 || {
            shop.later(TimeDelta::seconds(1));
            false
        }
    })
    .await;
    assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::Purchasing);
    shop.carrier.go_on();
    shop.shipment_comes_to(order_id, shipment_id, ShipmentState::InTransit).await;
    eventually("both are dealt with", async || {
        shop.later(TimeDelta::seconds(5));
        shop.count("select count(*) from inbox where processed_at is null").await == 0
    })
    .await;
    assert_eq!(shop.carrier.labels(shipment_id).len(), 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_that_moves_with_a_voided_label_calls_a_person() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.paid(&[(sku_id, 1)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.ask(order_id, Command::VoidLabel { shipment_id }).await.unwrap();
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Voided).await;
    for (status, minutes) in
        [(TrackingStatus::PreTransit, 1), (TrackingStatus::Transit, 2), (TrackingStatus::Transit, 3)]
    {
        shop.carrier.scan(&number, status, minutes);
        shop.carrier_tells_of(&number).await;
        shop.all_heard().await;
    }
    assert_eq!(shop.told(order_id, "needs_review").await, 1);
    assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::Voided);
    assert_eq!(shop.stock(sku_id).await, (5, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_after_it_was_delivered_is_awaited() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 2)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.carrier.scan(&number, TrackingStatus::Delivered, 1);
    shop.carrier_tells_of(&number).await;
    shop.becomes(order_id, OrderStatus::Completed).await;
    for minutes in [2, 3] {
        shop.carrier.scan(&number, TrackingStatus::Returned, minutes);
        shop.carrier_tells_of(&number).await;
        shop.all_heard().await;
    }
    let returns = shop.engine.returns(order_id).await.unwrap();
    assert_eq!(returns.len(), 1);
    assert_eq!((returns[0].status, returns[0].shipment_id), (ReturnState::InTransit, Some(shipment_id)));
    assert_eq!(returns[0].lines[0].quantity, 2);
    assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::Delivered);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_that_is_lost_found_and_turned_back() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.carrier.scan_as(&number, TrackingStatus::Failure, Some("package_lost"), 2);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Exception).await;
    assert_eq!(shop.stock(sku_id).await, (3, 0), "it has left, whatever became of it");
    shop.carrier.scan(&number, TrackingStatus::Transit, 1); // older news
    shop.carrier_tells_of(&number).await;
    shop.all_heard().await;
    assert_eq!(shop.shipment(order_id, shipment_id).await.status, ShipmentState::Exception);
    shop.carrier.scan(&number, TrackingStatus::Transit, 3);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::InTransit).await;
    shop.carrier.scan(&number, TrackingStatus::Returned, 4);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::ReturnedToSender).await;
    assert_eq!(shop.engine.returns(order_id).await.unwrap().len(), 1);
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Confirmed);
    let told = shop.timeline(order_id).await;
    let told: Vec<&str> = told.iter().map(String::as_str).skip_while(|kind| *kind != "label_bought").collect();
    assert_eq!(told, ["label_bought", "shipped", "delivery_exception", "returned_to_sender", "return_opened"]);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_never_calls_is_asked() {
    let shop = TestEngine::start().await;
    let order_id = shop.paid(&[(shop.sku(5).await, 1)]).await;
    let (shipment_id, number) = shop.labelled(order_id, everything()).await;
    shop.later(TimeDelta::minutes(59));
    shop.carrier.scan(&number, TrackingStatus::Transit, 0);
    assert_eq!(shop.carrier.calls(Ask::Track), 0);
    shop.carrier.next(Ask::Track, Mood::Broken);
    shop.later(TimeDelta::minutes(2));
    eventually("it is asked after an hour", async || shop.carrier.calls(Ask::Track) == 1).await;
    eventually("and again when that was not answered", async || {
        shop.later(TimeDelta::minutes(1));
        shop.shipment(order_id, shipment_id).await.status == ShipmentState::InTransit
    })
    .await;
    let asked = shop.carrier.calls(Ask::Track);
    // an answer is taken in before time goes on: the next question is counted from then
    let answers = async || shop.count("select checks::bigint from shipment").await;
    let answered = answers().await;
    shop.later(TimeDelta::hours(5));
    eventually("and after six", async || answers().await == answered + 1).await;
    for day in 1..=28 {
        shop.later(TimeDelta::hours(24));
        eventually("and daily", async || answers().await > answered + day).await;
    }
    shop.later(TimeDelta::days(12));
    eventually("nobody waits for it any more", async || {
        shop.count("select count(*) from shipment where check_at is not null").await == 0
    })
    .await;
    assert!((29..=32).contains(&(shop.carrier.calls(Ask::Track) - asked)));
    shop.end().await;
}

// ── cancels and money beside parcels ─────────────────────────────────────────────────────────────────────────────────

fn cancel(lines: Option<&[(i32, i64)]>) -> Command {
    let units = |(line, quantity): &(i32, i64)| Units { line: *line, quantity: *quantity };
    Command::Cancel { lines: lines.map(|lines| lines.iter().map(units).collect()), reason: "the buyer called".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_waits_for_its_carriers() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    for granted in [true, false] {
        let (before, money) = (shop.stock(sku_id).await, shop.provider.money());
        let order_id = shop.paid(&[(sku_id, 3)]).await;
        let (shipment_id, _) = shop.labelled(order_id, some(&[(0, 2)])).await;
        shop.carrier.void_as(Void::Pending);
        shop.ask(order_id, cancel(None)).await.unwrap();
        assert_eq!(shop.view(order_id).await.status, OrderStatus::Cancelling);
        assert_eq!(shop.stock(sku_id).await, (before.0, before.1 + 2), "what is in no parcel is free at once");
        shop.clean().await;
        shop.carrier.void_as(if granted { Void::Done } else { Void::Rejected });
        shop.later(TimeDelta::minutes(6));
        let (state, status, kept) = if granted {
            (ShipmentState::Voided, OrderStatus::Cancelled, 0)
        } else {
            (ShipmentState::VoidRejected, OrderStatus::Confirmed, 2)
        };
        shop.shipment_comes_to(order_id, shipment_id, state).await;
        shop.becomes(order_id, status).await;
        eventually("the rest is paid back", async || {
            let (taken, given) = shop.provider.money();
            (taken - money.0) - (given - money.1) == kept * 1_000
        })
        .await;
        assert_eq!(shop.stock(sku_id).await, (before.0, before.1 + kept));
        shop.clean().await;
        if !granted {
            shop.ask(order_id, Command::Ship { shipment_id }).await.unwrap();
            assert_eq!(shop.stock(sku_id).await, (before.0 - 2, before.1));
        }
    }
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_that_leaves_while_its_order_is_cancelled_stays_sold() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.paid(&[(sku_id, 3)]).await;
    let (shipment_id, number) = shop.labelled(order_id, some(&[(0, 1)])).await;
    shop.carrier.void_as(Void::Pending);
    shop.ask(order_id, cancel(None)).await.unwrap();
    shop.carrier.scan(&number, TrackingStatus::Transit, 1);
    shop.carrier_tells_of(&number).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::InTransit).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    eventually("the rest is paid back", async || shop.provider.money() == (3_000, 2_000)).await;
    assert_eq!(shop.stock(sku_id).await, (9, 0));
    let refused = shop.ask(order_id, cancel(None)).await;
    assert!(matches!(refused, Err(Refusal::NotNow { .. })), "{refused:?}");
    shop.carrier.scan(&number, TrackingStatus::Delivered, 2);
    shop.carrier_tells_of(&number).await;
    shop.becomes(order_id, OrderStatus::Completed).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_cancelled_while_its_label_is_bought_keeps_none() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    shop.carrier.next(Ask::Buy, Mood::HoldsReply);
    let shipment_id = shop.pack(order_id, everything()).await;
    eventually("the carrier was asked", async || shop.carrier.calls(Ask::Buy) == 1).await;
    shop.ask(order_id, cancel(None)).await.unwrap();
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Cancelling);
    shop.carrier.go_on();
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Voided).await;
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    assert_eq!((shop.carrier.live_labels(shipment_id).len(), shop.stock(sku_id).await), (0, (10, 0)));
    eventually("the money is back", async || shop.provider.money() == (2_000, 2_000)).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_are_called_off_come_out_of_parcels_without_a_label() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.paid(&[(sku_id, 4)]).await;
    let (labelled, _) = shop.labelled(order_id, some(&[(0, 2)])).await;
    shop.carrier.buy_as(LabelStatus::Failed("no".into()));
    let failed = shop.pack(order_id, some(&[(0, 2)])).await;
    shop.shipment_becomes(order_id, failed, ShipmentState::LabelFailed).await;
    let refused = shop.ask(order_id, cancel(Some(&[(0, 3)]))).await;
    assert!(matches!(refused, Err(Refusal::NotNow { .. })), "two have a label: {refused:?}");
    shop.ask(order_id, cancel(Some(&[(0, 1)]))).await.unwrap();
    assert_eq!(shop.shipment(order_id, failed).await.status, ShipmentState::Voided);
    assert_eq!(shop.shipment(order_id, labelled).await.status, ShipmentState::Labelled);
    assert_eq!(shop.stock(sku_id).await, (10, 3));
    eventually("its price is back", async || shop.provider.money() == (4_000, 1_000)).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_is_reserved_is_taken_before_a_label_is_bought() {
    let shop = TestEngine::reserving().await;
    let sku_id = shop.sku(10).await;
    let order_id = shop.paid(&[(sku_id, 2)]).await;
    assert_eq!(shop.provider.money(), (0, 0));
    shop.provider.next(Op::CaptureAuthorised, Mood::Hangs);
    let shipment_id = shop.pack(order_id, everything()).await;
    let waits = async || shop.shipment(order_id, shipment_id).await.waits;
    assert_eq!(waits().await.as_deref(), Some("the money is being taken"));
    shop.ask(order_id, Command::Hold { reason: "address looks wrong".into() }).await.unwrap();
    eventually("the money is asked for", async || shop.provider.calls(Op::CaptureAuthorised) == 1).await;
    shop.provider.go_on();
    eventually("the money is here", async || shop.provider.money() == (2_000, 0)).await;
    eventually("it waits for staff", async || waits().await.as_deref() == Some("the order is held back")).await;
    assert_eq!(shop.carrier.calls(Ask::Buy), 0);
    shop.ask(order_id, Command::Release).await.unwrap();
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Labelled).await;

    let order_id = shop.paid(&[(sku_id, 3)]).await;
    shop.provider.next(Op::CaptureAuthorised, Mood::Says(ProviderError::Declined("no funds".into())));
    let shipment_id = shop.pack(order_id, everything()).await;
    shop.shipment_becomes(order_id, shipment_id, ShipmentState::Voided).await;
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    assert_eq!((shop.carrier.calls(Ask::Buy), shop.stock(sku_id).await), (1, (10, 2)));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_has_as_many_labels_bought_as_wait_for_it() {
    let shop = TestEngine::reserving().await;
    let sku_id = shop.sku(70).await;
    let order_id = shop.paid(&[(sku_id, 70)]).await;
    shop.provider.next(Op::CaptureAuthorised, Mood::Hangs);
    for _ in 0..70 {
        shop.pack(order_id, some(&[(0, 1)])).await;
    }
    shop.provider.go_on();
    eventually("every parcel has its label", async || {
        let shipments = shop.engine.shipments(order_id).await.expect("they are there");
        shipments.iter().all(|own| own.status == ShipmentState::Labelled)
    })
    .await;
    // seventy answers come in meanwhile: it may have to be asked for again
    eventually("it is wished", async || shop.ask(order_id, cancel(None)).await.is_ok()).await;
    eventually("it is called off", async || {
        shop.later(TimeDelta::minutes(5));
        shop.view(order_id).await.status == OrderStatus::Cancelled
    })
    .await;
    assert_eq!(shop.stock(sku_id).await, (70, 0));
    shop.end().await;
}
