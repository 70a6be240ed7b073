//! An order's life with its provider: money that came ends as a confirmed order or goes back, whatever is lost on the way.

use chrono::TimeDelta;
use souk_actors::{
    CheckedOut,
    domain::{OrderId, OrderStatus, PaymentState, PaymentSummary, RefundState, Refusal, Who},
    ports::{FactStatus, Locator, ProviderError},
};

use crate::support::{Mood, Op, Setup, TestEngine, basket, eventually, usd};

const PRICE: i64 = 1_000;

impl TestEngine {
    /// Approved twenty seconds before its hold ends: too late to be charged in it.
    async fn approve_at_last(&self, order_id: OrderId) {
        let approve_url = self.engine.pay(order_id, "fake").await.expect("there is something to pay");
        self.later(TimeDelta::seconds(15 * 60 - 20));
        let provider_order_id = self.provider.approve(&approve_url);
        self.call_about(&provider_order_id).await;
        self.attempt_becomes(order_id, PaymentState::Approved).await;
    }

    /// Its events from its hold's end on.
    async fn since_expired(&self, order_id: OrderId) -> Vec<String> {
        self.timeline(order_id).await.into_iter().skip_while(|kind| kind != "expired").collect()
    }

    async fn state(&self, order_id: OrderId) -> Option<PaymentState> {
        self.view(order_id).await.payments.last().map(|payment| payment.status)
    }

    /// The attempt's own state, whatever becomes of the order.
    async fn attempt_becomes(&self, order_id: OrderId, state: PaymentState) {
        eventually(&format!("the attempt becomes {state}"), async || self.state(order_id).await == Some(state)).await;
    }

    async fn summary_becomes(&self, order_id: OrderId, summary: PaymentSummary) {
        eventually(&format!("the money becomes {summary}"), async || {
            self.view(order_id).await.payment_status == summary
        })
        .await;
    }

    /// The money came and went back, once.
    async fn was_refunded(&self, order_id: OrderId, reason: &str) {
        self.summary_becomes(order_id, PaymentSummary::Refunded).await;
        let refunds = self.view(order_id).await.refunds;
        let said: Vec<_> = refunds.iter().map(|refund| (refund.reason.as_str(), refund.state)).collect();
        assert_eq!(said, [(reason, RefundState::Completed)]);
        let (taken, given) = self.provider.money();
        assert_eq!(taken, given);
    }

    /// As [`TestEngine::expires`], while the provider answers no question.
    async fn expires_unasked(&self, order_id: OrderId) {
        self.provider.always(Op::Inspect, Mood::Hangs);
        self.expires(order_id).await;
    }

    /// The provider answers again, also what it was asked before.
    fn answers(&self) {
        self.provider.always(Op::Inspect, Mood::Well);
        self.provider.always(Op::Capture, Mood::Well);
        self.provider.go_on();
    }

    /// Time passes until the hold is over, and both the order and the shelf know.
    async fn expires(&self, order_id: OrderId) {
        self.later(TimeDelta::minutes(16));
        self.becomes(order_id, OrderStatus::Expired).await;
        self.sku(0).await; // what is committed is heard of in order
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_from_the_basket_to_the_money() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(3).await;
    let mut checkout = basket(&[(sku_id, 2)]);
    checkout.payment = Some("fake".into());
    let CheckedOut::New(placed) = shop.engine.checkout(checkout).await.unwrap() else { panic!("it is new") };
    assert!(placed.payment_id.is_some());
    let approve_url = shop.engine.pay(placed.order_id, "fake").await.unwrap();
    assert_eq!(shop.engine.pay(placed.order_id, "fake").await.unwrap(), approve_url, "one attempt is enough");
    assert_eq!(shop.view(placed.order_id).await.payment_status, PaymentSummary::Unpaid);
    let provider_order_id = shop.provider.approve(&approve_url);
    assert!(shop.call_about(&provider_order_id).await);
    shop.becomes(placed.order_id, OrderStatus::Confirmed).await;
    let view = shop.view(placed.order_id).await;
    assert_eq!(view.payment_status, PaymentSummary::Paid);
    assert_eq!(shop.provider.money(), (2 * PRICE, 0));
    assert_eq!(shop.stock(sku_id).await, (3, 2));
    assert_eq!(
        shop.timeline(placed.order_id).await,
        ["placed", "payment_started", "payment_announced", "payment_approved", "payment_captured", "confirmed"]
    );
    let refused = shop.engine.pay(placed.order_id, "fake").await;
    assert!(matches!(refused, Err(Refusal::NotNow { status: OrderStatus::Confirmed, .. })));
    assert_eq!(shop.provider.charges(), 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_nothing_is_sold_at_once() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let mut checkout = basket(&[(sku_id, 1)]);
    checkout.lines[0].unit_price = usd(0);
    checkout.total = usd(0);
    checkout.payment = Some("fake".into());
    let CheckedOut::New(placed) = shop.engine.checkout(checkout).await.unwrap() else { panic!("it is new") };
    assert_eq!((placed.status, placed.payment_id), (OrderStatus::Confirmed, None));
    assert_eq!(shop.provider.calls(Op::Create), 0);
    shop.later(TimeDelta::minutes(20));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_buyers_browser_comes_back_before_any_webhook() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.engine.pay(order_id, "fake").await.unwrap();
    shop.engine.look(order_id).await; // came back without approving
    eventually("the provider was asked", async || shop.provider.calls(Op::Inspect) == 1).await;
    shop.approve(order_id).await;
    eventually("the provider says it is approved", async || {
        shop.engine.look(order_id).await;
        shop.view(order_id).await.status == OrderStatus::Confirmed
    })
    .await;
    assert_eq!(shop.provider.charges(), 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_buyer_tries_again() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    shop.provider.next(Op::Capture, Mood::Says(ProviderError::Declined("no \0 funds".into())));
    shop.call_about(&provider_order_id).await;
    shop.attempt_becomes(order_id, PaymentState::Declined).await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::AwaitingPayment, "the hold lives on");
    let second = shop.approve(order_id).await;
    assert_ne!(second, provider_order_id);
    shop.call_about(&second).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.provider.money(), (PRICE, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_have_an_end() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.provider.always(Op::Create, Mood::Says(ProviderError::Rejected("misconfigured".into())));
    for _ in 0..5 {
        let refused = shop.engine.pay(order_id, "fake").await;
        assert!(
            matches!(refused, Err(Refusal::NotNow { why: "the provider did not take the payment", .. })),
            "{refused:?}"
        );
    }
    let refused = shop.engine.pay(order_id, "fake").await;
    assert!(matches!(refused, Err(Refusal::NotNow { why: "it was attempted too often", .. })));
    assert!(matches!(shop.engine.pay(order_id, "nobody").await, Err(Refusal::Invalid(_))));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_ten_times_is_a_webhook_once() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    let locator = || Locator { provider_order_id: Some(provider_order_id.clone()), ..Locator::default() };
    assert!(shop.call_as("one", locator()).await);
    for _ in 0..9 {
        assert!(!shop.call_as("one", locator()).await, "it was here before");
    }
    // the same news under other ids
    for _ in 0..10 {
        shop.call_about(&provider_order_id).await;
    }
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    for _ in 0..10 {
        shop.call_about(&provider_order_id).await;
    }
    eventually("all are dealt with", async || {
        shop.count("select count(*) from inbox where processed_at is null").await == 0
    })
    .await;
    assert_eq!(shop.count("select count(*) from inbox").await, 21);
    let captured = shop.timeline(order_id).await.into_iter().filter(|kind| kind == "payment_captured").count();
    assert_eq!((captured, shop.provider.charges()), (1, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_overtakes_the_answer_to_our_own_call() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.provider.next(Op::Create, Mood::HoldsReply);
    let engine = std::sync::Arc::clone(&shop.engine);
    let paying = tokio::spawn(async move { engine.pay(order_id, "fake").await });
    eventually("the provider has it", async || shop.state(order_id).await == Some(PaymentState::Created)).await;
    let payment_id = shop.view(order_id).await.payments[0].payment_id.to_string();
    eventually("it is announced there", async || shop.provider.order_of(&payment_id).is_some()).await;
    let provider_order_id = shop.provider.order_of(&payment_id).unwrap();
    shop.provider.approve(&provider_order_id);
    let payment_id = Some(payment_id);
    shop.call(Locator { provider_order_id: Some(provider_order_id), payment_id, ..Locator::default() }).await;
    shop.attempt_becomes(order_id, PaymentState::Capturing).await;
    assert_eq!(shop.provider.charges(), 0);
    shop.provider.go_on();
    paying.await.unwrap().unwrap();
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.provider.money(), (PRICE, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_nobody_understands_yet_is_parked() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    // fake's second order will be ours; the call comes before anything here knows of it
    let parked = Locator { provider_order_id: Some("PO1".into()), ..Locator::default() };
    assert!(shop.call(parked).await);
    let looked_into = async || shop.actor("payment/fake").is_some_and(|caller| caller.handled == 2);
    eventually("it was looked into, and that has ended", looked_into).await;
    assert_eq!(shop.count("select count(*) from inbox where processed_at is null").await, 1);
    shop.approve(order_id).await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::AwaitingPayment);
    shop.later(TimeDelta::seconds(6));
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.count("select count(*) from inbox where processed_at is null").await, 0);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_webhook_is_missed_after_two_minutes() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.approve(order_id).await;
    assert_eq!(shop.provider.calls(Op::Inspect), 0);
    shop.later(TimeDelta::seconds(121));
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.provider.charges(), 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_come_at_their_times_and_have_an_end() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.engine.pay(order_id, "fake").await.unwrap();
    let due = "select count(*) from payment where check_at is not null";
    for (minutes, checks) in [(3, 1), (8, 2), (50, 3), (24 * 60, 4), (24 * 60, 5), (24 * 60, 6)] {
        shop.later(TimeDelta::minutes(minutes));
        eventually(&format!("check {checks}"), async || shop.provider.calls(Op::Inspect) == checks).await;
        shop.all_checked().await;
        if checks == 1 {
            shop.provider.next(Op::Inspect, Mood::Broken); // the second is asked again
            shop.provider.next(Op::Inspect, Mood::Well);
        }
        if checks == 2 {
            break;
        }
    }
    let put_off = "select count(*) from payment where checks = 1 and check_at > created_at + interval '11 minutes'";
    eventually("it is asked again, and not at once", async || shop.count(put_off).await == 1).await;
    shop.later(TimeDelta::seconds(31));
    eventually("the second check got its answer", async || shop.provider.calls(Op::Inspect) == 3).await;
    shop.later(TimeDelta::days(4));
    eventually("there is nothing more to check", async || shop.count(due).await == 0).await;
    assert!(shop.provider.calls(Op::Inspect) <= 5, "an engine that slept owes one check");
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Expired);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_never_answered_is_not_asked_for_ever() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.engine.pay(order_id, "fake").await.unwrap();
    shop.provider.always(Op::Inspect, Mood::Says(ProviderError::Rejected("no such order".into())));
    shop.later(TimeDelta::minutes(3));
    eventually("the check is put off", async || shop.count("select count(*) from payment where checks = 1").await == 1)
        .await;
    assert_eq!(shop.provider.calls(Op::Inspect), 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_by_the_clock_alone() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(2).await;
    let order_id = shop.order(sku_id, 2).await;
    shop.later(TimeDelta::minutes(14));
    assert!(matches!(shop.buy(sku_id, 1).await, Err(Refusal::OutOfStock(_))));
    shop.later(TimeDelta::minutes(1));
    shop.becomes(order_id, OrderStatus::Expired).await;
    assert_eq!(shop.stock(sku_id).await, (2, 0));
    assert!(matches!(shop.engine.pay(order_id, "fake").await, Err(Refusal::NotNow { .. })));
    assert!(matches!(shop.engine.cancel(order_id, Who::Buyer).await, Err(Refusal::NotNow { .. })));
    shop.order(sku_id, 2).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_holds_end_together() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1_000).await;
    futures::future::join_all((0..1_000).map(|_| shop.order(sku_id, 1))).await;
    shop.later(TimeDelta::minutes(16));
    eventually("all are given back", async || shop.stock(sku_id).await == (1_000, 0)).await;
    assert_eq!(shop.count("select count(*) from customer_order where status = 'expired'").await, 1_000);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_comes_after_the_hold_buys_what_is_still_there() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    shop.charged_unheard(order_id).await;
    shop.expires_unasked(order_id).await;
    assert_eq!(shop.stock(sku_id).await, (1, 0));
    shop.answers();
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    assert_eq!(shop.provider.money(), (PRICE, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_comes_after_the_last_one_is_sold_goes_back_once() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    let provider_order_id = shop.charged_unheard(order_id).await;
    shop.expires_unasked(order_id).await;
    shop.order(sku_id, 1).await;
    shop.provider.next(Op::Refund, Mood::LosesReply);
    shop.answers();
    eventually("it is given back", async || shop.provider.calls(Op::Refund) >= 1).await;
    for _ in 0..5 {
        shop.call_about(&provider_order_id).await;
        shop.later(TimeDelta::seconds(10));
    }
    shop.summary_becomes(order_id, PaymentSummary::Refunded).await;
    shop.later(TimeDelta::minutes(5));
    let refunds = shop.view(order_id).await.refunds;
    assert_eq!((refunds.len(), refunds[0].reason.as_str()), (1, "out_of_stock"));
    assert_eq!(shop.provider.money(), (PRICE, PRICE));
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Expired);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_after_the_hold_is_charged_only_with_the_goods_in_hand() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    shop.engine.pay(order_id, "fake").await.unwrap();
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    shop.expires(order_id).await;
    let provider_order_id = shop.provider.approve(&approve_url);
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert!(shop.timeline(order_id).await.contains(&"reopened".to_owned()));
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_after_the_last_one_is_sold_charges_nobody() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    shop.expires(order_id).await;
    shop.order(sku_id, 1).await;
    let provider_order_id = shop.provider.approve(&approve_url);
    shop.call_about(&provider_order_id).await;
    shop.attempt_becomes(order_id, PaymentState::Failed).await;
    assert_eq!(shop.provider.charges(), 0);
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Expired);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_in_the_last_half_minute_waits_for_a_new_hold() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    shop.approve_at_last(order_id).await;
    assert_eq!(shop.provider.calls(Op::Capture), 0, "its answer could come too late");
    shop.later(TimeDelta::seconds(25));
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    let after = shop.since_expired(order_id).await;
    assert_eq!(after, ["expired", "reopened", "payment_captured", "confirmed"]);
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    shop.end().await;
}

/// Else who approves late, with a card that is declined, would keep the last one for as long as there are attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_was_renewed_for_a_charge_ends_when_that_is_declined() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    shop.approve_at_last(order_id).await;
    shop.provider.next(Op::Capture, Mood::Says(ProviderError::Declined("no funds".into())));
    shop.later(TimeDelta::seconds(25));
    shop.attempt_becomes(order_id, PaymentState::Declined).await;
    shop.becomes(order_id, OrderStatus::Expired).await;
    assert_eq!(shop.since_expired(order_id).await, ["expired", "reopened", "payment_declined", "expired"]);
    assert_eq!(shop.provider.calls(Op::Capture), 1);
    assert_eq!(shop.stock(sku_id).await, (1, 0));
    assert!(shop.engine.pay(order_id, "fake").await.is_err(), "its time is over");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_and_charge_are_heard_of_together_and_late() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    shop.expires(order_id).await;
    let provider_order_id = shop.provider.approve(&approve_url);
    shop.provider.charge(&provider_order_id, usd(PRICE));
    shop.provider.approve(&approve_url); // the order still says "approved" beside its charge
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    assert_eq!((shop.provider.charges(), shop.provider.calls(Op::Capture)), (1, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_charges_for_an_expired_order_are_one_sale_and_one_refund() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let order_id = shop.order(sku_id, 1).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    shop.expires(order_id).await;
    let provider_order_id = shop.provider.approve(&approve_url);
    shop.provider.charge(&provider_order_id, usd(PRICE));
    shop.provider.charge(&provider_order_id, usd(PRICE));
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    eventually("one went back", async || shop.provider.money() == (2 * PRICE, PRICE)).await;
    assert_eq!(shop.stock(sku_id).await, (5, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_meets_a_charge() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    shop.charged_unheard(order_id).await;
    assert_eq!(shop.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelled));
    assert_eq!(shop.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelled), "asked twice, done once");
    assert_eq!(shop.stock(sku_id).await, (1, 0));
    shop.provider.go_on();
    shop.was_refunded(order_id, "cancelled").await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Cancelled);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_after_a_cancel_charges_nobody() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    shop.engine.cancel(order_id, Who::Buyer).await.unwrap();
    let provider_order_id = shop.provider.approve(&approve_url);
    shop.call_about(&provider_order_id).await;
    shop.attempt_becomes(order_id, PaymentState::Approved).await;
    shop.later(TimeDelta::days(4));
    eventually("nobody asks any more", async || {
        shop.count("select count(*) from payment where check_at is not null").await == 0
    })
    .await;
    assert_eq!(shop.provider.charges(), 0);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_amount_is_seen_before_it_is_charged() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    let provider_order_id = shop.provider.approve_amount(&approve_url, usd(1));
    shop.call_about(&provider_order_id).await;
    shop.attempt_becomes(order_id, PaymentState::Failed).await;
    assert_eq!(shop.provider.charges(), 0);
    let second = shop.approve(order_id).await;
    shop.call_about(&second).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_amount_that_was_charged_goes_back() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    let provider_order_id = shop.provider.approve(&approve_url);
    let capture_id = shop.provider.charge(&provider_order_id, usd(PRICE + 1));
    shop.call(Locator {
        provider_order_id: Some(provider_order_id),
        capture_id: Some(capture_id),
        ..Locator::default()
    })
    .await;
    shop.was_refunded(order_id, "mismatch").await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::AwaitingPayment);
    // which does not keep the buyer from paying as he should
    let second = shop.approve(order_id).await;
    shop.call_about(&second).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_charge_goes_back() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    shop.provider.charge(&provider_order_id, usd(PRICE));
    shop.call_about(&provider_order_id).await;
    eventually("the surplus went back", async || shop.provider.money() == (2 * PRICE, PRICE)).await;
    eventually("and is known to have", async || {
        shop.view(order_id).await.refunds.iter().any(|refund| refund.state == RefundState::Completed)
    })
    .await;
    assert_eq!(shop.view(order_id).await.refunds.len(), 1);
    assert_eq!(shop.view(order_id).await.payment_status, PaymentSummary::Paid);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecided_charge_keeps_its_lines_until_it_is_decided() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(2).await;
    shop.provider.capture_as(FactStatus::Pending);
    let mut orders = Vec::new();
    for _ in 0..2 {
        let order_id = shop.order(sku_id, 1).await;
        let provider_order_id = shop.approve(order_id).await;
        shop.call_about(&provider_order_id).await;
        shop.attempt_becomes(order_id, PaymentState::Pending).await;
        orders.push((order_id, provider_order_id));
    }
    let deadline = shop.view(orders[0].0).await.hold_expires_at;
    shop.later(TimeDelta::hours(20));
    let (good, bad) = (&orders[0], &orders[1]);
    shop.call_about(&good.1).await; // still undecided: the same news
    eventually("it is dealt with", async || {
        shop.count("select count(*) from inbox where processed_at is null").await == 0
    })
    .await;
    assert_eq!(shop.view(good.0).await.hold_expires_at, deadline, "news that are none keep nothing longer");
    shop.provider.decide(&good.1, FactStatus::Completed);
    shop.provider.decide(&bad.1, FactStatus::Declined);
    shop.call_about(&good.1).await;
    shop.call_about(&bad.1).await;
    shop.becomes(good.0, OrderStatus::Confirmed).await;
    shop.attempt_becomes(bad.0, PaymentState::Declined).await;
    // its own hold was over long ago
    shop.becomes(bad.0, OrderStatus::Expired).await;
    assert_eq!(shop.stock(sku_id).await, (2, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_answers_charges_once() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(20).await;
    for op in [Op::Create, Op::Capture, Op::Inspect] {
        for mood in [Mood::Broken, Mood::LosesReply, Mood::Broken, Mood::LosesReply] {
            shop.provider.next(op, mood);
        }
    }
    let mut orders = Vec::new();
    for _ in 0..4 {
        orders.push(shop.order(sku_id, 1).await);
    }
    for order_id in &orders {
        let engine = std::sync::Arc::clone(&shop.engine);
        let order_id = *order_id;
        let paying = tokio::spawn(async move { engine.pay(order_id, "fake").await });
        eventually("the provider has answered at last", async || {
            shop.later(TimeDelta::seconds(1));
            paying.is_finished()
        })
        .await;
        let provider_order_id = shop.provider.approve(&paying.await.unwrap().unwrap());
        shop.call_about(&provider_order_id).await;
    }
    for order_id in &orders {
        eventually("it is confirmed", async || {
            shop.later(TimeDelta::seconds(1));
            shop.view(*order_id).await.status == OrderStatus::Confirmed
        })
        .await;
    }
    assert_eq!(shop.provider.charges(), 4);
    assert_eq!(shop.provider.money(), (4 * PRICE, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_opens_the_breaker_and_its_end_closes_it() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(40).await;
    let mut orders = Vec::new();
    for _ in 0..40 {
        let order_id = shop.order(sku_id, 1).await;
        orders.push((order_id, shop.approve(order_id).await));
    }
    for op in [Op::Inspect, Op::Capture] {
        shop.provider.always(op, Mood::Broken);
    }
    for (_, provider_order_id) in &orders {
        shop.call_about(provider_order_id).await;
    }
    eventually("the provider is left alone", async || shop.provider.calls(Op::Inspect) >= 8).await;
    for _ in 0..10 {
        shop.later(TimeDelta::seconds(30));
    }
    assert!(shop.provider.calls(Op::Inspect) < 200, "{}", shop.provider.calls(Op::Inspect));
    for op in [Op::Inspect, Op::Capture] {
        shop.provider.always(op, Mood::Well);
    }
    for (order_id, _) in &orders {
        eventually("the backlog drains", async || {
            shop.later(TimeDelta::milliseconds(200));
            shop.view(*order_id).await.status == OrderStatus::Confirmed
        })
        .await;
    }
    assert_eq!(shop.provider.charges(), 40);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_outlasts_the_hold_charges_nobody_for_what_is_sold() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    shop.provider.always(Op::Capture, Mood::Broken);
    shop.call_about(&provider_order_id).await;
    eventually("a charge was tried", async || shop.provider.calls(Op::Capture) >= 1).await;
    shop.expires_unasked(order_id).await;
    let other = shop.order(sku_id, 1).await;
    shop.answers();
    eventually("it is given up", async || {
        shop.later(TimeDelta::seconds(10));
        shop.state(order_id).await == Some(PaymentState::Failed)
    })
    .await;
    assert_eq!(shop.provider.charges(), 0);
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Expired);
    shop.engine.cancel(other, Who::Buyer).await.ok();
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_outlasts_the_hold_ends_in_a_sale_of_what_is_there() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    shop.provider.always(Op::Capture, Mood::Broken);
    shop.call_about(&provider_order_id).await;
    eventually("a charge was tried", async || shop.provider.calls(Op::Capture) >= 1).await;
    shop.expires_unasked(order_id).await;
    shop.answers();
    eventually("it is confirmed", async || {
        shop.later(TimeDelta::seconds(10));
        shop.view(order_id).await.status == OrderStatus::Confirmed
    })
    .await;
    assert_eq!(shop.provider.money(), (PRICE, 0));
    assert_eq!(shop.stock(sku_id).await, (1, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_goes_back_than_came() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let order_id = shop.order(sku_id, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    // a second charge, of which part went back by hand before we knew of it
    shop.provider.charge(&provider_order_id, usd(PRICE));
    shop.provider.refund_by_hand(&provider_order_id, usd(300));
    shop.call_about(&provider_order_id).await;
    eventually("the provider gave no more than the charge", async || shop.provider.calls(Op::Refund) >= 1).await;
    let (taken, given) = shop.provider.money();
    assert!(given <= taken);
    let over = "select count(*) from money_of_order where refunding > captured";
    assert_eq!(shop.count(over).await, 0);
    assert!(shop.view(order_id).await.status == OrderStatus::Confirmed);
    shop.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_finishes_what_another_one_began() {
    let old = TestEngine::start().await;
    let sku_id = old.sku(3).await;
    let (paying, charged, waiting) =
        (old.order(sku_id, 1).await, old.order(sku_id, 1).await, old.order(sku_id, 1).await);
    old.charged_unheard(charged).await;
    old.provider.next(Op::Create, Mood::Hangs);
    let engine = std::sync::Arc::clone(&old.engine);
    tokio::spawn(async move { engine.pay(paying, "fake").await });
    old.attempt_becomes(paying, PaymentState::Created).await;

    // the old one is still there, and hears the answers too late
    let setup =
        Setup { clock: old.clock.clone(), provider: Some(std::sync::Arc::clone(&old.provider)), ..Setup::default() };
    let new = TestEngine::on(std::sync::Arc::clone(&old.db), old.db.connect.clone(), setup).await;
    new.becomes(charged, OrderStatus::Confirmed).await;
    old.provider.go_on();
    let second = new.approve(paying).await;
    new.call_about(&second).await;
    new.becomes(paying, OrderStatus::Confirmed).await;
    new.expires(waiting).await;
    assert_eq!(new.provider.money(), (2 * PRICE, 0));
    assert_eq!(new.stock(sku_id).await, (3, 2));
    old.engine.stop().await;
    new.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_page_hears_that_the_order_is_over() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(2).await;
    shop.provider.always(Op::Create, Mood::Hangs);
    for cancelled in [true, false] {
        let order_id = shop.order(sku_id, 1).await;
        let engine = std::sync::Arc::clone(&shop.engine);
        let paying = tokio::spawn(async move { engine.pay(order_id, "fake").await });
        shop.attempt_becomes(order_id, PaymentState::Created).await;
        if cancelled {
            shop.engine.cancel(order_id, Who::Buyer).await.unwrap();
        } else {
            shop.later(TimeDelta::minutes(16));
        }
        let answer = paying.await.unwrap();
        assert!(matches!(answer, Err(Refusal::NotNow { why: "there is nothing to pay", .. })), "{answer:?}");
    }
    shop.provider.always(Op::Create, Mood::Well);
    shop.provider.go_on();
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_money_that_went_back_at_the_provider_buys_nothing() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    for by_hand in [PRICE, 300] {
        let order_id = shop.order(sku_id, 1).await;
        let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
        shop.expires(order_id).await;
        let provider_order_id = shop.provider.approve(&approve_url);
        shop.provider.charge(&provider_order_id, usd(PRICE));
        shop.provider.refund_by_hand(&provider_order_id, usd(by_hand));
        shop.call_about(&provider_order_id).await;
        shop.summary_becomes(order_id, PaymentSummary::Refunded).await;
        assert_eq!(shop.view(order_id).await.status, OrderStatus::Expired);
        let (taken, given) = shop.provider.money();
        assert_eq!(taken, given, "what was left went back");
    }
    assert_eq!(shop.stock(sku_id).await, (1, 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_is_refused_is_asked_for_until_it_is_granted() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    shop.charged_unheard(order_id).await;
    shop.engine.cancel(order_id, Who::Buyer).await.unwrap();
    shop.provider.always(Op::Refund, Mood::Says(ProviderError::Rejected("no funds today".into())));
    shop.answers();
    // an answer may cross with a second question, so no number of them is certain
    for put_off in [
        "select count(*) from task where kind = 'refund' and state = 'open' and attempts >= 1",
        "select count(*) from task where kind = 'refund' and state = 'open' and attempts >= 2",
    ] {
        eventually("it is refused and put off", async || shop.count(put_off).await == 1).await;
        shop.later(TimeDelta::minutes(21));
    }
    shop.provider.always(Op::Refund, Mood::Well);
    shop.later(TimeDelta::hours(7));
    shop.was_refunded(order_id, "cancelled").await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_came_and_went_unseen_confirms_nothing() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let provider_order_id = shop.approve(order_id).await;
    shop.provider.capture_as(FactStatus::Pending);
    shop.call_about(&provider_order_id).await;
    shop.attempt_becomes(order_id, PaymentState::Pending).await;
    // completed and given back on the provider's own pages, and every word of it lost
    shop.provider.decide(&provider_order_id, FactStatus::Completed);
    shop.provider.refund_by_hand(&provider_order_id, usd(PRICE));
    shop.later(TimeDelta::minutes(3));
    shop.attempt_becomes(order_id, PaymentState::Captured).await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::AwaitingPayment);
    assert_eq!(shop.view(order_id).await.payment_status, PaymentSummary::Refunded);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_approved_attempts_are_charged_once() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let first = shop.approve(order_id).await;
    shop.provider.next(Op::Capture, Mood::Says(ProviderError::Declined("no funds".into())));
    shop.call_about(&first).await;
    shop.attempt_becomes(order_id, PaymentState::Declined).await;
    let second = shop.approve(order_id).await;
    shop.provider.next(Op::Capture, Mood::HoldsReply);
    shop.call_about(&second).await;
    eventually("the second is being charged", async || shop.provider.charges() == 1).await;
    // back on the first one's page, with another card
    shop.later(TimeDelta::seconds(5));
    shop.provider.approve(&format!("/{first}"));
    shop.call_about(&first).await;
    let approved = "select count(*) from payment where state = 'approved'";
    eventually("the first is approved again", async || shop.count(approved).await == 1).await;
    shop.provider.go_on();
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    assert_eq!((shop.provider.charges(), shop.provider.money()), (1, (PRICE, 0)));
    shop.end().await;
}
