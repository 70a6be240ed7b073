//! What a payment webhook does, row by row of the table: whatever comes, and in whatever order, the money ends as a confirmed
//! order or goes back, and a headline never depends on which word came last. Rows that are not here are in `orders.rs`.

use std::sync::Arc;

use chrono::TimeDelta;
use souk_actors::{
    domain::{Command, OrderId, OrderStatus, PaymentState, PaymentSummary, RefundState, RefundWish, Refusal, Who},
    ports::{FactStatus, Locator, ProviderError},
};

use crate::support::{FakeProvider, Mood, Op, Setup, TestEngine, eventually, usd};

const PRICE: i64 = 1_000;

impl TestEngine {
    async fn money_becomes(&self, order_id: OrderId, summary: PaymentSummary) {
        eventually(&format!("the money becomes {summary}"), async || {
            self.view(order_id).await.payment_status == summary
        })
        .await;
    }

    async fn attempt_is(&self, order_id: OrderId, state: PaymentState) {
        eventually(&format!("the attempt becomes {state}"), async || {
            self.view(order_id).await.payments.last().map(|payment| payment.status) == Some(state)
        })
        .await;
    }

    /// Everything that was delivered has been dealt with.
    async fn settled(&self) {
        let open = "select count(*) from inbox where processed_at is null";
        eventually("the inbox is empty", async || self.count(open).await == 0).await;
    }

    /// The provider calls us about a dispute of its order.
    async fn call_about_dispute(&self, provider_order_id: &str) {
        let provider_order_id = Some(provider_order_id.to_owned());
        self.call(Locator { provider_order_id, event_type: "TEST.DISPUTE".into(), ..Locator::default() }).await;
    }

    /// An order with an announced payment that its buyer has approved, uncharged.
    async fn approved(&self, on_hand: i64) -> (OrderId, String) {
        let order_id = self.order(self.sku(on_hand).await, 1).await;
        let approve_url = self.engine.pay(order_id, "fake").await.expect("it can be paid");
        (order_id, self.provider.approve(&approve_url))
    }
}

// ── undecided ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn denied_after_pending_while_the_hold_lives_lets_the_buyer_try_again() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.approved(1).await;
    let own_end = shop.view(order_id).await.hold_expires_at;
    shop.provider.capture_as(FactStatus::Pending);
    shop.call_about(&provider_order_id).await;
    shop.attempt_is(order_id, PaymentState::Pending).await;
    assert!(shop.view(order_id).await.hold_expires_at > own_end + TimeDelta::days(2));
    shop.provider.decide(&provider_order_id, FactStatus::Declined);
    shop.call_about(&provider_order_id).await;
    shop.attempt_is(order_id, PaymentState::Declined).await;
    let view = shop.view(order_id).await;
    assert_eq!((view.status, view.hold_expires_at), (OrderStatus::AwaitingPayment, own_end));
    shop.provider.capture_as(FactStatus::Completed);
    let second = shop.approve(order_id).await;
    shop.call_about(&second).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_after_pending_when_the_hold_is_over_gives_the_stock_back() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.approved(1).await;
    shop.provider.capture_as(FactStatus::Pending);
    shop.call_about(&provider_order_id).await;
    shop.attempt_is(order_id, PaymentState::Pending).await;
    shop.later(TimeDelta::hours(30));
    assert_eq!(shop.view(order_id).await.status, OrderStatus::AwaitingPayment, "it waits for the provider");
    shop.provider.decide(&provider_order_id, FactStatus::Declined);
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Expired).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_after_completed_is_recorded_only() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    let before = shop.timeline(order_id).await;
    for late in [FactStatus::Pending, FactStatus::Declined] {
        shop.later(TimeDelta::seconds(1));
        shop.provider.decide(&provider_order_id, late);
        shop.call_about(&provider_order_id).await;
        shop.settled().await;
    }
    assert_eq!(shop.timeline(order_id).await, before);
    let view = shop.view(order_id).await;
    assert_eq!((view.status, view.payment_status), (OrderStatus::Confirmed, PaymentSummary::Paid));
    assert_eq!(shop.count("select count(*) from payment_fact where status in ('pending', 'declined')").await, 2);
    shop.end().await;
}

// ── partial ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn part_of_the_total_waits_for_the_rest_and_goes_back_at_the_deadline() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.approved(1).await;
    shop.provider.charge(&provider_order_id, usd(400));
    shop.call_about(&provider_order_id).await;
    shop.money_becomes(order_id, PaymentSummary::Partial).await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::AwaitingPayment);
    shop.clean().await;
    shop.later(TimeDelta::minutes(16));
    shop.becomes(order_id, OrderStatus::Expired).await;
    shop.money_becomes(order_id, PaymentSummary::Refunded).await;
    assert_eq!(shop.provider.money(), (400, 400));
    // more of it, later still
    shop.provider.charge(&provider_order_id, usd(600));
    shop.call_about(&provider_order_id).await;
    eventually("that goes back too", async || shop.provider.money() == (PRICE, PRICE)).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_together_reach_the_total_confirm_and_the_surplus_goes_back() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.approved(1).await;
    for part in [400, 700] {
        shop.provider.charge(&provider_order_id, usd(part));
        shop.call_about(&provider_order_id).await;
        shop.settled().await;
    }
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    eventually("the surplus went back", async || shop.provider.money() == (1_100, 100)).await;
    shop.money_becomes(order_id, PaymentSummary::Paid).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_the_total_goes_back_when_the_buyer_calls_the_order_off() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.approved(1).await;
    shop.provider.charge(&provider_order_id, usd(400));
    shop.call_about(&provider_order_id).await;
    shop.money_becomes(order_id, PaymentSummary::Partial).await;
    assert_eq!(shop.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelled));
    eventually("it went back", async || shop.provider.money() == (400, 400)).await;
    shop.end().await;
}

// ── taken back and disputed ──────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn reversed_money_undoes_the_order_and_nothing_is_refunded_for_it() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let (order_id, provider_order_id) = shop.sold(sku_id, 1).await;
    shop.provider.decide(&provider_order_id, FactStatus::Reversed);
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    let view = shop.view(order_id).await;
    assert_eq!(view.payment_status, PaymentSummary::Reversed);
    assert_eq!(view.hold_reason.as_deref(), Some("reversed"));
    assert_eq!((view.refunds.len(), shop.stock(sku_id).await), (0, (1, 0)));
    shop.clean().await;
    // and then the provider changes its mind: the goods are no longer promised to this buyer
    shop.later(TimeDelta::seconds(1));
    shop.provider.decide(&provider_order_id, FactStatus::Completed);
    shop.call_about(&provider_order_id).await;
    shop.money_becomes(order_id, PaymentSummary::Refunded).await;
    assert_eq!(shop.provider.money(), (PRICE, PRICE));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reversal_ends_a_refund_that_was_on_its_way() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.always(Op::Refund, Mood::Broken);
    shop.engine.cancel(order_id, Who::Staff).await.unwrap();
    shop.provider.decide(&provider_order_id, FactStatus::Reversed);
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    assert_eq!(shop.view(order_id).await.payment_status, PaymentSummary::Reversed);
    shop.end().await;
}

/// A dispute is lost in part while our refund is on its way to the provider. It is cut, and goes out whole all the same:
/// what is gone is counted, and nothing more goes out in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_goes_out_although_it_was_called_off_is_counted() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.next(Op::Refund, Mood::Hangs);
    shop.provider.always(Op::Refund, Mood::Broken);
    let what = RefundWish::Amount(usd(600));
    shop.command(order_id, Command::Refund { what, reason: "broken".into() }).await.unwrap();
    eventually("it is asked for", async || shop.provider.calls(Op::Refund) == 1).await;
    shop.provider.lose(&provider_order_id, usd(500));
    shop.call_about_dispute(&provider_order_id).await;
    let live = async || -> Vec<(i64, RefundState)> {
        let refunds = shop.view(order_id).await.refunds;
        refunds.iter().filter(|one| one.is_live()).map(|one| (one.amount.minor, one.state)).collect()
    };
    eventually("no more than the rest goes back", async || live().await == [(500, RefundState::Requested)]).await;
    shop.provider.go_on();
    eventually("it is counted", async || live().await == [(600, RefundState::Completed)]).await;
    assert_eq!(shop.provider.given(), 600);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disputed_order_is_held_until_the_dispute_is_won() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.dispute(&provider_order_id, FactStatus::Open);
    shop.call_about_dispute(&provider_order_id).await;
    shop.money_becomes(order_id, PaymentSummary::Disputed).await;
    let view = shop.view(order_id).await;
    assert_eq!((view.hold_reason.as_deref(), view.next.what), (Some("disputed"), "the dispute is decided"));
    shop.clean().await;
    // the word of its end is lost: whoever is in dispute is asked about it daily
    shop.later(TimeDelta::seconds(1));
    shop.provider.dispute(&provider_order_id, FactStatus::Won);
    shop.later(TimeDelta::hours(25));
    shop.money_becomes(order_id, PaymentSummary::Paid).await;
    let view = shop.view(order_id).await;
    assert_eq!((view.status, view.hold_reason), (OrderStatus::Confirmed, None));
    let timeline = shop.timeline(order_id).await;
    assert!(timeline.ends_with(&["payment_disputed", "held_back", "dispute_won", "released"].map(str::to_owned)));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_that_is_lost_is_money_taken_back() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let (order_id, provider_order_id) = shop.sold(sku_id, 1).await;
    for word in [FactStatus::Open, FactStatus::Lost] {
        shop.provider.dispute(&provider_order_id, word);
        shop.later(TimeDelta::seconds(1));
        shop.call_about_dispute(&provider_order_id).await;
        shop.settled().await;
    }
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    let view = shop.view(order_id).await;
    assert_eq!((view.payment_status, view.refunds.len()), (PaymentSummary::Reversed, 0));
    assert_eq!(shop.stock(sku_id).await, (1, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_staff_made_outlives_a_dispute() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    shop.command(order_id, Command::Hold { reason: "odd address".into() }).await.unwrap();
    for word in [FactStatus::Open, FactStatus::Won] {
        shop.provider.dispute(&provider_order_id, word);
        shop.later(TimeDelta::seconds(1));
        shop.call_about_dispute(&provider_order_id).await;
        shop.settled().await;
    }
    shop.money_becomes(order_id, PaymentSummary::Paid).await;
    assert_eq!(shop.view(order_id).await.hold_reason.as_deref(), Some("odd address"));
    shop.end().await;
}

// ── reserved first ───────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn reserved_money_confirms_and_is_taken_when_it_is_asked_for() {
    let shop = TestEngine::reserving().await;
    let sku_id = shop.sku(3).await;
    let (order_id, _) = shop.sold(sku_id, 3).await;
    let view = shop.view(order_id).await;
    assert_eq!((view.payment_status, shop.provider.charges()), (PaymentSummary::Authorised, 0));
    assert_eq!(view.next.what, "the money is taken and the goods are shipped");
    shop.clean().await;
    // one is called off before: only what is left of the order is taken
    let lines = Some(vec![souk_actors::domain::Units { line: 0, quantity: 1 }]);
    shop.command(order_id, Command::Cancel { lines, reason: "two are enough".into() }).await.unwrap();
    shop.provider.next(Op::CaptureAuthorised, Mood::LosesReply);
    shop.command(order_id, Command::Capture).await.unwrap();
    eventually("the money is here", async || {
        shop.later(TimeDelta::seconds(1));
        shop.view(order_id).await.payment_status == PaymentSummary::Paid
    })
    .await;
    assert_eq!((shop.provider.money(), shop.provider.charges()), ((2 * PRICE, 0), 1));
    assert!(matches!(shop.command(order_id, Command::Capture).await, Err(Refusal::NotNow { .. })));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_lets_reserved_money_go() {
    let shop = TestEngine::reserving().await;
    let sku_id = shop.sku(1).await;
    let (order_id, _) = shop.sold(sku_id, 1).await;
    shop.provider.next(Op::Void, Mood::LosesReply);
    assert_eq!(shop.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelling));
    eventually("it is cancelled", async || {
        shop.later(TimeDelta::seconds(1));
        shop.view(order_id).await.status == OrderStatus::Cancelled
    })
    .await;
    shop.attempt_is(order_id, PaymentState::Voided).await;
    assert_eq!((shop.provider.reserved(), shop.provider.money(), shop.stock(sku_id).await), (0, (0, 0), (1, 0)));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_meets_a_capture_of_what_was_reserved() {
    let shop = TestEngine::reserving().await;
    let (order_id, _) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.next(Op::CaptureAuthorised, Mood::HoldsReply);
    shop.command(order_id, Command::Capture).await.unwrap();
    eventually("the provider has charged", async || shop.provider.charges() == 1).await;
    shop.engine.cancel(order_id, Who::Staff).await.unwrap();
    shop.provider.go_on();
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    shop.money_becomes(order_id, PaymentSummary::Refunded).await;
    assert_eq!(shop.provider.money(), (PRICE, PRICE));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_money_that_lapses_undoes_the_order() {
    let shop = TestEngine::reserving().await;
    let sku_id = shop.sku(1).await;
    let (order_id, provider_order_id) = shop.sold(sku_id, 1).await;
    shop.later(TimeDelta::days(2));
    shop.all_checked().await;
    shop.provider.decide_authorisation(&provider_order_id, FactStatus::Voided);
    shop.later(TimeDelta::days(2)); // nobody calls: it is asked about daily
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    assert!(shop.timeline(order_id).await.contains(&"authorisation_ended".to_owned()));
    assert_eq!(shop.view(order_id).await.payment_status, PaymentSummary::Unpaid);
    assert_eq!(shop.stock(sku_id).await, (1, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_money_that_cannot_be_taken_undoes_the_order() {
    let shop = TestEngine::reserving().await;
    let (order_id, _) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.next(Op::CaptureAuthorised, Mood::Says(ProviderError::Declined("no funds".into())));
    shop.command(order_id, Command::Capture).await.unwrap();
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    assert_eq!(shop.provider.reserved(), 0);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecided_reservation_keeps_its_lines_until_it_is_decided() {
    let shop = TestEngine::reserving().await;
    shop.provider.authorise_as(FactStatus::Pending);
    let (good, good_name) = shop.approved(1).await;
    let (bad, bad_name) = shop.approved(1).await;
    for (order_id, name) in [(good, &good_name), (bad, &bad_name)] {
        shop.call_about(name).await;
        shop.attempt_is(order_id, PaymentState::Pending).await;
    }
    shop.later(TimeDelta::hours(20));
    shop.provider.decide_authorisation(&good_name, FactStatus::Created);
    shop.provider.decide_authorisation(&bad_name, FactStatus::Declined);
    shop.call_about(&good_name).await;
    shop.call_about(&bad_name).await;
    shop.becomes(good, OrderStatus::Confirmed).await;
    shop.becomes(bad, OrderStatus::Expired).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_reserved_after_the_hold_buys_what_is_there_or_is_let_go() {
    for sold_out in [false, true] {
        let shop = TestEngine::reserving().await;
        let sku_id = shop.sku(1).await;
        let order_id = shop.order(sku_id, 1).await;
        let provider_order_id = shop.approve(order_id).await;
        shop.provider.next(Op::Authorise, Mood::HoldsReply);
        shop.call_about(&provider_order_id).await;
        eventually("the provider has reserved it", async || shop.provider.reserved() == PRICE).await;
        shop.provider.always(Op::Inspect, Mood::Hangs);
        shop.later(TimeDelta::minutes(16));
        shop.becomes(order_id, OrderStatus::Expired).await;
        if sold_out {
            shop.order(sku_id, 1).await;
        }
        shop.provider.always(Op::Inspect, Mood::Well);
        shop.provider.go_on();
        if sold_out {
            eventually("it is let go", async || shop.provider.reserved() == 0).await;
            assert_eq!(shop.view(order_id).await.status, OrderStatus::Expired);
        } else {
            shop.becomes(order_id, OrderStatus::Confirmed).await;
            assert_eq!(shop.view(order_id).await.payment_status, PaymentSummary::Authorised);
        }
        shop.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reserving_is_asked_for_once_whatever_is_lost() {
    let shop = TestEngine::reserving().await;
    let (order_id, provider_order_id) = shop.approved(1).await;
    for mood in [Mood::Broken, Mood::LosesReply] {
        shop.provider.next(Op::Authorise, mood);
    }
    shop.call_about(&provider_order_id).await;
    eventually("it is confirmed", async || {
        shop.later(TimeDelta::seconds(1));
        shop.view(order_id).await.status == OrderStatus::Confirmed
    })
    .await;
    assert_eq!(shop.provider.reserved(), PRICE);
    shop.end().await;
}

// ── the provider's own list ──────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_never_came_are_found_in_the_providers_list_once() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    let name = Some(provider_order_id.clone());
    let locator = Locator { provider_order_id: name, event_type: "TEST.DISPUTE".into(), ..Locator::default() };
    shop.provider.dispute(&provider_order_id, FactStatus::Open);
    shop.provider.list("lost-1", &locator);
    assert_eq!(shop.provider.calls(Op::Events), 0);
    shop.provider.next(Op::Events, Mood::Broken); // it is read again, ten minutes later
    shop.later(TimeDelta::minutes(11));
    eventually("the list was asked for", async || shop.provider.calls(Op::Events) == 1).await;
    shop.later(TimeDelta::minutes(11));
    eventually("the list was read", async || shop.provider.calls(Op::Events) == 2).await;
    eventually("the event is here", async || shop.count("select count(*) from inbox").await == 2).await;
    shop.later(TimeDelta::seconds(6));
    shop.money_becomes(order_id, PaymentSummary::Disputed).await;
    // listed again, and at last delivered as well
    shop.later(TimeDelta::minutes(11));
    eventually("the list was read again", async || shop.provider.calls(Op::Events) == 3).await;
    assert!(!shop.call_as("lost-1", locator).await, "it was here before");
    assert_eq!(shop.count("select count(*) from inbox").await, 2);
    shop.end().await;
}

// ── what nobody can answer ───────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_its_provider_will_not_speak_of_is_given_up_after_three_days() {
    let shop = TestEngine::start().await;
    let (_, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    shop.settled().await;
    shop.provider.always(Op::Inspect, Mood::Says(ProviderError::Rejected("no permission".into())));
    shop.call_about(&provider_order_id).await;
    let asked = shop.provider.calls(Op::Inspect);
    shop.later(TimeDelta::hours(70));
    eventually("it is asked again", async || shop.provider.calls(Op::Inspect) > asked).await;
    assert_eq!(shop.count("select count(*) from inbox where processed_at is null").await, 1, "it may still be told");
    shop.later(TimeDelta::hours(3));
    shop.settled().await;
    assert_eq!(shop.count("select count(*) from inbox where outcome = 'unanswerable'").await, 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_provider_is_not_set_up_any_more_waits_without_a_busy_loop() {
    let shop = TestEngine::start().await;
    shop.sold(shop.sku(1).await, 1).await;
    shop.provider.always(Op::Create, Mood::Hangs);
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let (engine, db, clock) = (Arc::clone(&shop.engine), Arc::clone(&shop.db), shop.clock.clone());
    let pays = tokio::spawn(async move { engine.pay(order_id, "fake").await });
    eventually("it is announced", async || shop.provider.calls(Op::Create) == 2).await;
    shop.engine.stop().await;
    assert!(pays.await.expect("no panic").is_err());

    let provider = Some(Arc::new(FakeProvider::new("another", clock.clone())));
    let shop = TestEngine::on(Arc::clone(&db), db.connect.clone(), Setup { clock, provider, ..Setup::default() }).await;
    let put_off = "select count(*) from task where state = 'open' and attempts > 0 and due_at > created_at";
    eventually("the call is put off", async || shop.count(put_off).await == 1).await;
    shop.later(TimeDelta::minutes(6));
    eventually("so is the check", async || {
        let overdue =
            "select count(*) from payment where check_at is not null and check_at <= now() + interval '6 minutes'";
        shop.count(overdue).await == 0
    })
    .await;
    shop.engine.stop().await;
}
