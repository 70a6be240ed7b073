//! Money that goes back, and orders that are called off: by staff, by buyers, by rules, and at the provider.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;
use souk_actors::domain::{
    Command, Commanded, Money, OrderId, OrderStatus, PaymentSummary, RefundKind, RefundLimit, RefundState, RefundWish,
    Refusal, Units, Who,
};
use souk_actors::ports::FactStatus;

use crate::support::{
    Mood, Op, TestEngine, eventually,
    shop::{Answer, STAFF, TestShop},
    usd,
};

const PRICE: i64 = 1_000;

fn units(line: i32, quantity: i64) -> Units {
    Units { line, quantity }
}

impl TestEngine {
    async fn refund(&self, order_id: OrderId, what: RefundWish) -> Result<Commanded, Refusal> {
        self.command(order_id, Command::Refund { what, reason: "it was broken".into() }).await
    }

    async fn call_off(&self, order_id: OrderId, lines: Option<Vec<Units>>) -> Result<Commanded, Refusal> {
        self.command(order_id, Command::Cancel { lines, reason: "the buyer called".into() }).await
    }

    /// So much went back, and the order knows.
    async fn has_given(&self, order_id: OrderId, minor: i64) {
        eventually(&format!("{minor} went back"), async || {
            let refunds = self.view(order_id).await.refunds;
            let done = refunds.iter().filter(|refund| refund.state == RefundState::Completed);
            done.map(|refund| refund.amount.minor).sum::<i64>() == minor && self.provider.money().1 == minor
        })
        .await;
    }

    async fn kinds(&self, order_id: OrderId) -> Vec<(RefundKind, i64)> {
        self.view(order_id).await.refunds.iter().map(|refund| (refund.kind, refund.amount.minor)).collect()
    }
}

fn exceeds(limit: RefundLimit, left: i64) -> Result<Commanded, Refusal> {
    Err(Refusal::RefundExceeds { limit, left })
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_give_back_lines_sending_kindness_amounts_and_the_rest() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(3).await;
    let order_id = shop.order(sku_id, 3).await;
    let mut conn = shop.db.conn().await;
    sqlx::query("update customer_order set shipping_minor = 500, total_minor = total_minor + 500 where id = $1")
        .bind(order_id.0)
        .execute(&mut conn)
        .await
        .unwrap();
    let provider_order_id = shop.approve(order_id).await;
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;

    shop.refund(order_id, RefundWish::Lines(vec![units(0, 1), units(0, 1)])).await.unwrap();
    assert_eq!(shop.refund(order_id, RefundWish::Lines(vec![units(0, 2)])).await, exceeds(RefundLimit::Line, 1));
    shop.refund(order_id, RefundWish::Shipping).await.unwrap();
    assert_eq!(shop.refund(order_id, RefundWish::Shipping).await, exceeds(RefundLimit::Shipping, 0));
    shop.refund(order_id, RefundWish::Goodwill(usd(100))).await.unwrap();
    shop.refund(order_id, RefundWish::Amount(usd(50))).await.unwrap();
    assert_eq!(shop.refund(order_id, RefundWish::Amount(usd(851))).await, exceeds(RefundLimit::Captured, 850));
    for nonsense in [
        RefundWish::Amount(usd(0)),
        RefundWish::Amount(Money::new(1, "EUR".parse().unwrap())),
        RefundWish::Lines(vec![]),
        RefundWish::Lines(vec![units(1, 1)]),
        RefundWish::Lines(vec![units(0, 0)]),
    ] {
        assert!(matches!(shop.refund(order_id, nonsense).await, Err(Refusal::Invalid(_))));
    }
    shop.has_given(order_id, 2_650).await;
    assert_eq!(shop.view(order_id).await.payment_status, PaymentSummary::PartlyRefunded);
    shop.refund(order_id, RefundWish::Full).await.unwrap();
    shop.has_given(order_id, 3_500).await;
    assert_eq!(shop.refund(order_id, RefundWish::Full).await, exceeds(RefundLimit::Captured, 0));
    assert_eq!(
        shop.kinds(order_id).await,
        [
            (RefundKind::Lines, 2_000),
            (RefundKind::Shipping, 500),
            (RefundKind::Goodwill, 100),
            (RefundKind::Amount, 50),
            (RefundKind::Full, 850)
        ]
    );
    let view = shop.view(order_id).await;
    assert_eq!((view.status, view.payment_status), (OrderStatus::Confirmed, PaymentSummary::Refunded));
    assert_eq!(shop.stock(sku_id).await, (3, 3), "a refund moves no goods");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_refunds_at_once_never_come_to_more_than_was_captured() {
    let shop = TestEngine::start().await;
    let (order_id, _) = shop.sold(shop.sku(10).await, 10).await;
    for mood in [Mood::LosesReply, Mood::Broken, Mood::LosesReply, Mood::HoldsReply] {
        shop.provider.next(Op::Refund, mood);
    }
    let wishes = (0..50).map(|_| shop.refund(order_id, RefundWish::Amount(usd(300))));
    let answers = futures::future::join_all(wishes).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 33);
    assert!(answers.iter().all(|answer| answer.is_ok() || *answer == exceeds(RefundLimit::Captured, 100)));
    shop.provider.go_on();
    eventually("all of it is done", async || {
        shop.later(TimeDelta::seconds(2));
        shop.provider.go_on();
        shop.view(order_id).await.refunds.iter().all(|refund| refund.state == RefundState::Completed)
    })
    .await;
    shop.has_given(order_id, 9_900).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_refunds_once() {
    let shop = TestEngine::start().await;
    let (order_id, _) = shop.sold(shop.sku(1).await, 1).await;
    let wish = || Command::Refund { what: RefundWish::Amount(usd(400)), reason: "late".into() };
    let asked = futures::future::join_all((0..10).map(|_| shop.command_as("refund-1", order_id, wish()))).await;
    let fresh = asked.iter().filter(|answer| matches!(answer, Ok(Commanded { replayed: false, .. }))).count();
    assert_eq!((fresh, asked.iter().filter(|answer| answer.is_ok()).count()), (1, 10));
    shop.has_given(order_id, 400).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_of_one_amount_are_told_apart_by_their_own_answers() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    for mood in [Mood::HoldsReply, Mood::Broken] {
        shop.provider.next(Op::Refund, mood);
    }
    shop.refund(order_id, RefundWish::Amount(usd(300))).await.unwrap();
    eventually("the first is done there", async || shop.provider.money().1 == 300).await;
    shop.refund(order_id, RefundWish::Amount(usd(300))).await.unwrap();
    // the webhook is here before the answer, and does not say which of the two it means
    shop.call_about(&provider_order_id).await;
    eventually("one is known to be done", async || {
        shop.view(order_id).await.refunds.iter().filter(|refund| refund.state == RefundState::Completed).count() == 1
    })
    .await;
    shop.provider.go_on();
    shop.later(TimeDelta::seconds(5));
    shop.has_given(order_id, 600).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_fails_after_all_is_opened_anew() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(2).await, 2).await;
    shop.provider.refund_as(FactStatus::Pending);
    shop.refund(order_id, RefundWish::Lines(vec![units(0, 1)])).await.unwrap();
    let pending = async || shop.view(order_id).await.refunds.iter().any(|one| one.state == RefundState::Pending);
    eventually("the provider is undecided", pending).await;
    shop.provider.decide_refunds(&provider_order_id, FactStatus::Failed);
    shop.provider.refund_as(FactStatus::Completed);
    shop.call_about(&provider_order_id).await;
    let failed = async || shop.view(order_id).await.refunds.iter().any(|one| one.state == RefundState::Failed);
    eventually("it failed", failed).await;
    shop.later(TimeDelta::minutes(6));
    shop.has_given(order_id, PRICE).await;
    let refunds = shop.view(order_id).await.refunds;
    let said: Vec<_> = refunds.iter().map(|one| (one.kind, one.state, one.lines.clone())).collect();
    let lines = vec![units(0, 1)];
    assert_eq!(
        said,
        [(RefundKind::Lines, RefundState::Failed, lines.clone()), (RefundKind::Lines, RefundState::Completed, lines)]
    );
    assert_eq!(shop.refund(order_id, RefundWish::Lines(vec![units(0, 2)])).await, exceeds(RefundLimit::Line, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_made_at_the_provider_takes_from_what_we_were_about_to_give() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.always(Op::Refund, Mood::Broken);
    shop.refund(order_id, RefundWish::Full).await.unwrap();
    shop.provider.refund_by_hand(&provider_order_id, usd(400));
    shop.call_about(&provider_order_id).await;
    eventually("ours is cut", async || shop.kinds(order_id).await.contains(&(RefundKind::Full, 600))).await;
    shop.provider.always(Op::Refund, Mood::Well);
    shop.later(TimeDelta::minutes(6));
    shop.has_given(order_id, PRICE).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_takes_from_as_many_captures_as_it_needs() {
    let shop = TestEngine::start().await;
    let order_id = shop.order(shop.sku(1).await, 1).await;
    let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
    let provider_order_id = shop.provider.approve(&approve_url);
    shop.provider.charge(&provider_order_id, usd(400));
    shop.provider.charge(&provider_order_id, usd(600));
    shop.call_about(&provider_order_id).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    shop.refund(order_id, RefundWish::Amount(usd(700))).await.unwrap();
    shop.has_given(order_id, 700).await;
    assert_eq!(shop.kinds(order_id).await, [(RefundKind::Amount, 400), (RefundKind::Amount, 300)]);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_has_forgotten_a_refund_is_asked_before_it_is_asked_again() {
    let shop = TestEngine::start().await;
    let (order_id, _) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.always(Op::Inspect, Mood::Broken);
    shop.provider.next(Op::Refund, Mood::LosesReply);
    shop.provider.always(Op::Refund, Mood::Broken);
    shop.refund(order_id, RefundWish::Amount(usd(300))).await.unwrap();
    eventually("it is done there", async || shop.provider.money().1 == 300).await;
    shop.later(TimeDelta::days(46));
    shop.provider.forget();
    shop.provider.always(Op::Refund, Mood::Well);
    shop.later(TimeDelta::minutes(6));
    tokio::task::yield_now().await;
    shop.provider.always(Op::Inspect, Mood::Well);
    eventually("it is known", async || {
        shop.later(TimeDelta::minutes(1));
        shop.view(order_id).await.refunds.iter().all(|refund| refund.state == RefundState::Completed)
    })
    .await;
    shop.has_given(order_id, 300).await;
    shop.end().await;
}

// ── calling off ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_calls_a_paid_order_off() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(2).await;
    let (order_id, _) = shop.sold(sku_id, 2).await;
    shop.provider.next(Op::Refund, Mood::HoldsReply);
    assert_eq!(shop.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelling));
    assert_eq!(shop.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelling), "asked twice, done once");
    assert_eq!(shop.stock(sku_id).await, (2, 0), "the goods are back at once");
    assert_eq!(shop.view(order_id).await.payment_status, PaymentSummary::Refunding);
    assert!(matches!(shop.call_off(order_id, None).await, Err(Refusal::NotNow { .. })));
    shop.provider.go_on();
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    shop.has_given(order_id, 2 * PRICE).await;
    assert_eq!(shop.kinds(order_id).await, [(RefundKind::Cancellation, 2 * PRICE)]);
    assert_eq!(shop.engine.cancel(order_id, Who::Buyer).await, Ok(OrderStatus::Cancelled));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_call_off_part_of_a_line_and_then_the_rest() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let (order_id, _) = shop.sold(sku_id, 4).await;
    shop.call_off(order_id, Some(vec![units(0, 1)])).await.unwrap();
    assert_eq!(shop.stock(sku_id).await, (5, 3));
    shop.has_given(order_id, PRICE).await;
    let view = shop.view(order_id).await;
    assert_eq!((view.status, view.payment_status), (OrderStatus::Confirmed, PaymentSummary::Paid));
    assert_eq!((view.lines.len(), view.lines[0].quantity), (1, 4), "it says what was bought");
    assert!(matches!(shop.call_off(order_id, Some(vec![units(0, 4)])).await, Err(Refusal::NotNow { .. })));
    assert!(matches!(shop.call_off(order_id, Some(vec![units(7, 1)])).await, Err(Refusal::Invalid(_))));
    shop.call_off(order_id, Some(vec![units(0, 1)])).await.unwrap();
    assert_eq!(shop.stock(sku_id).await, (5, 2));
    shop.clean().await;
    shop.call_off(order_id, Some(vec![units(0, 2)])).await.unwrap();
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    shop.has_given(order_id, 4 * PRICE).await;
    assert_eq!(shop.stock(sku_id).await, (5, 0));
    let causes = shop.engine.ledger(sku_id, None, 100).await.unwrap();
    let released: i64 = causes.iter().filter(|row| row.cause == "release").map(|row| row.d_reserved).sum();
    assert_eq!(released, -4);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_back_already_is_not_paid_back_again_when_it_is_called_off() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(3).await;
    let (order_id, _) = shop.sold(sku_id, 3).await;
    shop.refund(order_id, RefundWish::Lines(vec![units(0, 1)])).await.unwrap();
    shop.call_off(order_id, Some(vec![units(0, 3)])).await.unwrap();
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    shop.has_given(order_id, 3 * PRICE).await;
    let second = shop.sold(sku_id, 3).await.0;
    shop.refund(second, RefundWish::Lines(vec![units(0, 1)])).await.unwrap();
    shop.call_off(second, Some(vec![units(0, 2)])).await.unwrap();
    let given = shop.view(second).await.refunds.iter().map(|refund| refund.amount.minor).sum::<i64>();
    assert_eq!(given, 3 * PRICE, "of three bought one was paid back and two called off");
    assert_eq!(shop.stock(sku_id).await, (3, 1));
    eventually("all went back", async || shop.provider.money() == (6 * PRICE, 6 * PRICE)).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_cancelled_only_when_its_money_is_back() {
    let shop = TestEngine::start().await;
    let (order_id, provider_order_id) = shop.sold(shop.sku(1).await, 1).await;
    shop.provider.refund_as(FactStatus::Pending);
    shop.engine.cancel(order_id, Who::Staff).await.unwrap();
    let pending = async || shop.view(order_id).await.refunds.iter().any(|one| one.state == RefundState::Pending);
    eventually("the provider is undecided", pending).await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Cancelling);
    shop.provider.decide_refunds(&provider_order_id, FactStatus::Failed);
    shop.call_about(&provider_order_id).await;
    shop.provider.refund_as(FactStatus::Completed);
    let failed = async || shop.view(order_id).await.refunds.iter().any(|one| one.state == RefundState::Failed);
    eventually("it failed", failed).await;
    assert_eq!(shop.view(order_id).await.status, OrderStatus::Cancelling);
    shop.later(TimeDelta::minutes(6));
    shop.becomes(order_id, OrderStatus::Cancelled).await;
    shop.has_given(order_id, PRICE).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cost_nothing_is_called_off_at_once() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(1).await;
    let mut checkout = crate::support::basket(&[(sku_id, 1)]);
    checkout.lines[0].unit_price = usd(0);
    checkout.total = usd(0);
    let souk_actors::CheckedOut::New(placed) = shop.engine.checkout(checkout).await.unwrap() else { panic!("new") };
    assert_eq!(shop.engine.cancel(placed.order_id, Who::Buyer).await, Ok(OrderStatus::Cancelled));
    assert_eq!(shop.stock(sku_id).await, (1, 0));
    shop.end().await;
}

// ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staff_refund_and_call_off_over_http() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;
    let placed = shop.sold(&sku_id).await;
    let ask = async |verb: &str, key: &str, body: serde_json::Value| {
        let path = format!("/v1/admin/orders/{}/{verb}", placed.order_id);
        let request = shop.request(Method::POST, &path).bearer_auth(STAFF).header("Idempotency-Key", key);
        Answer::of(request.json(&body)).await.expect("an answer")
    };
    let half = json!({ "goodwill": { "amount": "1.00", "currency": "USD" }, "reason": "late" });
    let first = ask("refunds", "r1", half.clone()).await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!((&first.body["amount"]["amount"], &first.body["replayed"]), (&json!("1.00"), &json!(false)));
    let again = ask("refunds", "r1", half).await;
    assert_eq!((&again.body["refund_ids"], &again.body["replayed"]), (&first.body["refund_ids"], &json!(true)));
    let much = json!({ "amount": { "amount": "100000.00", "currency": "USD" }, "reason": "x" });
    ask("refunds", "r2", much).await.is_problem(409, "refund_exceeds_captured");
    ask("refunds", "r3", json!({ "shipping": true, "reason": "x" })).await.is_problem(409, "refund_exceeds_shipping");
    let lines = json!({ "lines": [{ "line": 0, "quantity": 9 }], "reason": "x" });
    ask("refunds", "r4", lines.clone()).await.is_problem(409, "refund_exceeds_line");
    let both = json!({ "lines": [], "shipping": true, "reason": "x" });
    ask("refunds", "r5", both).await.is_problem(422, "invalid");
    ask("refunds", "r6", json!({})).await.is_problem(422, "invalid");
    let order = shop.order(&placed).await;
    let buyers = shop.get(&placed.path("")).await.ok();
    assert!(buyers["refunds"][0]["amount"].is_object() && buyers["refunds"][0]["reason"].is_null());
    assert_eq!((&order["refunds"][0]["kind"], &order["refunds"][0]["reason"]), (&json!("goodwill"), &json!("late")));

    ask("capture", "k1", json!({})).await.is_problem(409, "order_state");
    ask("cancel", "c1", lines).await.is_problem(409, "order_state");
    let cancelled = ask("cancel", "c2", json!({ "reason": "the buyer called" })).await;
    assert_eq!(cancelled.ok()["replayed"], false);
    shop.becomes(&placed, "cancelled", "refunded").await;
    assert_eq!(shop.stock(&sku_id).await, (2, 0));
    shop.close().await;
}
