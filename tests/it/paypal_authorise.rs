//! Money that is reserved when the buyer approves, and taken when the goods leave; and the gateway's own calls, each against
//! the sandbox over HTTP.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use souk_actors::{
    domain::{Intent, Money, PaymentId, RefundId, TaskId},
    ports::{CreatePayment, Fact, FactKind, FactStatus, PaymentProvider, ProviderError},
};

use crate::{
    money::{count, hurry},
    paypal_table::{end, heard},
    support::{
        eventually,
        shop::{HASTY, Placed, TestShop},
    },
};

const RESERVES: [(&str, &str); 1] = [("SOUK_CHECKOUT__INTENT", "authorise")];
const A_MONTH_MS: i64 = 30 * 24 * 3_600 * 1_000;

async fn authorisation(shop: &TestShop, placed: &Placed) -> Value {
    let sheet = shop.bank.sheet(placed).await;
    assert_eq!(sheet["authorizations"].as_array().map(Vec::len), Some(1), "{sheet}");
    sheet["authorizations"][0].clone()
}

/// Sold, its money reserved.
async fn reserved(shop: &TestShop, sku_id: &str) -> Placed {
    let placed = shop.sell(sku_id).await;
    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "authorised").await;
    placed
}

fn usd(amount: &str) -> Money {
    Money::parse(amount, "USD".parse().expect("known")).expect("an amount")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_when_approved_and_taken_later() {
    let shop = TestShop::with(&RESERVES).await;
    let sku_id = shop.sku(1).await;
    let placed = reserved(&shop, &sku_id).await;
    assert_eq!(authorisation(&shop, &placed).await["status"], "CREATED");
    assert_eq!(shop.bank.charged(&placed).await, (0, 0.0));
    assert_eq!(shop.stock(&sku_id).await, (1, 1));
    let timeline = shop.timeline(&placed).await;
    assert_eq!((count(&timeline, "payment_authorised"), count(&timeline, "confirmed")), (1, 1), "{timeline:?}");

    // somebody takes it at the provider, ahead of the shop
    let id = authorisation(&shop, &placed).await["id"].as_str().expect("an id").to_owned();
    shop.app.shop.paypal.capture_authorised(TaskId(1), &id, usd("12.50"), true).await.expect("taken");
    shop.becomes(&placed, "confirmed", "paid").await;
    heard(&shop).await;
    assert_eq!(shop.bank.charged(&placed).await, (1, 0.0));
    assert_eq!(authorisation(&shop, &placed).await["status"], "CAPTURED");
    end(shop).await;
}

/// Somebody takes more than was reserved, at the provider (PayPal lets them, up to 115 per cent): only the surplus goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_was_reserved() {
    let shop = TestShop::with(&RESERVES).await;
    let placed = reserved(&shop, &shop.sku(1).await).await;
    let id = authorisation(&shop, &placed).await["id"].as_str().expect("an id").to_owned();
    shop.app.shop.paypal.capture_authorised(TaskId(1), &id, usd("14.00"), true).await.expect("taken");
    hurry(&shop, async || shop.bank.charged(&placed).await == (1, 1.5), &json!("the surplus goes back")).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    heard(&shop).await;
    end(shop).await;
}

/// Somebody takes a part of what was reserved, at the provider. Called off, the order gives that back and lets go of the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_what_was_taken_in_part_is_let_go() {
    let shop = TestShop::with(&RESERVES).await;
    let placed = reserved(&shop, &shop.sku(1).await).await;
    let id = authorisation(&shop, &placed).await["id"].as_str().expect("an id").to_owned();
    shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    shop.app.shop.paypal.capture_authorised(TaskId(1), &id, usd("5.00"), false).await.expect("taken");
    shop.becomes(&placed, "confirmed", "partially_paid").await;
    heard(&shop).await;
    assert_eq!(authorisation(&shop, &placed).await["status"], "PARTIALLY_CAPTURED");
    shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    shop.post(&placed.path("/cancel"), Value::Null).await.ok();
    let over = async || shop.status(&placed).await == ("cancelled".into(), "refunded".into());
    hurry(&shop, over, &json!("it is called off")).await;
    assert_eq!(authorisation(&shop, &placed).await["status"], "VOIDED");
    assert_eq!(shop.bank.charged(&placed).await, (1, 5.0));
    heard(&shop).await;
    end(shop).await;
}

/// Staff take what is reserved, twice over and whatever becomes of the answer: it is taken once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taken_once_whatever_becomes_of_the_answer() {
    let shop = TestShop::with(&[RESERVES[0], HASTY]).await;
    let sku_id = shop.sku(10).await;
    let faults = [
        Value::Null,
        json!({ "kind": "drop_before" }),
        json!({ "kind": "drop_after" }),
        json!({ "kind": "status_after", "status": 500 }),
        json!({ "kind": "status", "status": 429, "retry_after": 1 }),
        json!({ "kind": "garbage" }),
        json!({ "kind": "hang_after" }),
    ];
    for fault in faults {
        let placed = reserved(&shop, &sku_id).await;
        if fault.is_object() {
            let mut rule = fault.clone();
            rule["on"] = json!("capture_authorization");
            shop.bank.fault(rule).await;
        }
        let take = format!("/v1/admin/orders/{}/capture", placed.order_id);
        shop.order_staff(&take, json!({})).await.ok();
        shop.order_staff(&take, json!({})).await; // now or a moment ago: it has begun, or is over
        hurry(&shop, async || shop.status(&placed).await == ("confirmed".into(), "paid".into()), &fault).await;
        assert_eq!(shop.bank.charged(&placed).await, (1, 0.0), "{fault}");
        assert_eq!(authorisation(&shop, &placed).await["status"], "CAPTURED", "{fault}");
    }
    heard(&shop).await;
    end(shop).await;
}

/// Whatever goes wrong with the call that reserves, it is made once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_once_whatever_becomes_of_the_answer() {
    let shop = TestShop::with(&[RESERVES[0], HASTY]).await;
    let sku_id = shop.sku(10).await;
    let faults = [
        json!({ "kind": "drop_before" }),
        json!({ "kind": "drop_after" }),
        json!({ "kind": "status_after", "status": 500 }),
        json!({ "kind": "status", "status": 429, "retry_after": 1 }),
        json!({ "kind": "status", "status": 409 }),
        json!({ "kind": "html" }),
        json!({ "kind": "garbage" }),
        json!({ "kind": "hang_after" }),
    ];
    for fault in faults {
        let mut rule = fault.clone();
        rule["on"] = json!("authorize");
        shop.bank.fault(rule).await;
        let placed = shop.sell(&sku_id).await;
        shop.bank.approve(&placed).await;
        let known = async || shop.status(&placed).await == ("confirmed".into(), "authorised".into());
        hurry(&shop, known, &fault).await;
        assert_eq!(authorisation(&shop, &placed).await["status"], "CREATED", "{fault}");
    }
    heard(&shop).await;
    end(shop).await;
}

/// Called off: what was reserved is let go, once, whatever becomes of the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn called_off_and_let_go() {
    let shop = TestShop::with(&[RESERVES[0], HASTY]).await;
    let faults = [
        Value::Null,
        json!({ "kind": "drop_after" }),
        json!({ "kind": "status_after", "status": 500 }),
        json!({ "kind": "status", "status": 503 }),
        json!({ "kind": "garbage" }),
        json!({ "kind": "hang_after" }),
    ];
    for fault in faults {
        let sku_id = shop.sku(1).await;
        let placed = reserved(&shop, &sku_id).await;
        if fault.is_object() {
            let mut rule = fault.clone();
            rule["on"] = json!("void");
            shop.bank.fault(rule).await;
        }
        shop.post(&placed.path("/cancel"), Value::Null).await.ok();
        hurry(&shop, async || authorisation(&shop, &placed).await["status"] == "VOIDED", &fault).await;
        hurry(&shop, async || shop.status(&placed).await == ("cancelled".into(), "unpaid".into()), &fault).await;
        assert_eq!(shop.stock(&sku_id).await, (1, 0), "{fault}");
        let open = "select count(*) from task where state = 'open'";
        hurry(&shop, async || shop.count(open).await == 0, &json!("nothing is left to do")).await;
        assert_eq!(shop.bank.charged(&placed).await, (0, 0.0));
    }
    heard(&shop).await;
    end(shop).await;
}

/// What was reserved lapses after 29 days, or is let go at the provider: nothing of the order can be paid any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_that_lapses() {
    let shop = TestShop::with(&RESERVES).await;
    let sku_id = shop.sku(2).await;
    let (let_go, lapsed) = (reserved(&shop, &sku_id).await, reserved(&shop, &sku_id).await);
    let id = authorisation(&shop, &let_go).await["id"].as_str().expect("an id").to_owned();
    shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    shop.bank.control(&format!("authorizations/{id}"), json!({ "status": "VOIDED" })).await;
    shop.becomes(&let_go, "cancelled", "unpaid").await;
    assert_eq!(shop.status(&lapsed).await, ("confirmed".into(), "authorised".into()));
    shop.bank.control("clock", json!({ "advance_ms": A_MONTH_MS })).await;
    shop.becomes(&lapsed, "cancelled", "unpaid").await;
    assert_eq!(shop.stock(&sku_id).await, (2, 0));
    heard(&shop).await;
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_that_is_refused_or_reviewed() {
    let shop = TestShop::with(&RESERVES).await;
    let sku_id = shop.sku(3).await;
    for how in ["capture", "422"] {
        let placed = shop.sell(&sku_id).await;
        shop.bank.approve_as(&placed, how).await;
        eventually("it is declined", async || count(&shop.timeline(&placed).await, "payment_declined") == 1).await;
        assert_eq!(shop.status(&placed).await, ("awaiting_payment".into(), "unpaid".into()), "{how}");
    }
    let placed = shop.sell(&sku_id).await;
    shop.bank.approve_as(&placed, "pending").await;
    shop.becomes(&placed, "awaiting_payment", "pending").await;
    let id = authorisation(&shop, &placed).await["id"].as_str().expect("an id").to_owned();
    shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    shop.bank.control(&format!("authorizations/{id}"), json!({ "status": "CREATED" })).await;
    shop.becomes(&placed, "confirmed", "authorised").await;
    heard(&shop).await;
    end(shop).await;
}

// ── the gateway by itself ────────────────────────────────────────────────────────────────────────────────────────────

/// A payment that no order knows, announced to the provider and approved there.
async fn approved(shop: &TestShop, number: i64, intent: Intent, total: &str) -> String {
    let wish = CreatePayment {
        request_id: TaskId(1_000 + number),
        payment_id: PaymentId(number),
        reference: format!("order of test {number}"),
        intent,
        total: usd(total),
        ship_to: serde_json::from_value(crate::support::shop::basket(&[])["shipping_address"].clone()).expect("Ann's"),
        return_url: "https://shop.example/back".to_owned(),
        cancel_url: "https://shop.example/no".to_owned(),
    };
    let created = shop.app.shop.paypal.create(&wish).await.expect("announced");
    let again = shop.app.shop.paypal.create(&wish).await.expect("announced before");
    assert_eq!(created, again, "asked again with one key it is one order");
    shop.bank.control(&format!("orders/{}/approve", created.provider_order_id), json!({})).await;
    created.provider_order_id
}

fn the(kind: FactKind, facts: &[Fact]) -> &Fact {
    facts.iter().rfind(|fact| fact.kind == kind).expect("it is named")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_authorises_takes_parts_and_lets_go() {
    let shop = TestShop::open().await;
    let paypal = &shop.app.shop.paypal;
    let order_id = approved(&shop, 1, Intent::Authorise, "30.00").await;
    let refused = paypal.capture(TaskId(1), &order_id).await.expect_err("it is to be authorised");
    assert!(matches!(refused, ProviderError::Rejected(_)), "{refused}");

    let facts = paypal.authorise(TaskId(2), &order_id).await.expect("authorised");
    let authorised = the(FactKind::Authorisation, &facts).clone();
    assert_eq!((authorised.status, authorised.amount), (FactStatus::Created, Some(usd("30.00"))));
    assert_eq!(authorised.reference, Some(PaymentId(1).to_string()));
    let again = paypal.authorise(TaskId(2), &order_id).await.expect("the same");
    assert_eq!(the(FactKind::Authorisation, &again).object_id, authorised.object_id);
    let other = paypal.authorise(TaskId(3), &order_id).await.expect_err("once is enough");
    assert!(matches!(other, ProviderError::AlreadyDone(_)), "{other}");

    for (task, amount, last) in [(4, "5.00", false), (4, "5.00", false), (5, "12.50", true)] {
        let taken = paypal.capture_authorised(TaskId(task), &authorised.object_id, usd(amount), last).await;
        let taken = taken.expect("taken");
        let capture = the(FactKind::Capture, &taken);
        assert_eq!((capture.status, taken.len()), (FactStatus::Completed, 1 + usize::from(last)));
        assert_eq!(capture.parent.as_ref(), Some(&authorised.object_id));
        assert_eq!((capture.amount, capture.reference.as_ref()), (Some(usd(amount)), authorised.reference.as_ref()));
    }
    let facts = paypal.inspect(&order_id).await.expect("facts");
    assert_eq!(facts.iter().filter(|fact| fact.kind == FactKind::Capture).count(), 2, "one key charges once");
    assert!(facts.iter().filter(|fact| fact.kind == FactKind::Capture).all(|fact| fact.parent.is_some()));
    assert_eq!(the(FactKind::Authorisation, &facts).status, FactStatus::Completed, "the last one used it up");
    let more = paypal.capture_authorised(TaskId(6), &authorised.object_id, usd("1.00"), false).await;
    assert!(matches!(more, Err(ProviderError::AlreadyDone(_))), "{more:?}");

    let order_id = approved(&shop, 2, Intent::Authorise, "30.00").await;
    let facts = paypal.authorise(TaskId(7), &order_id).await.expect("authorised");
    let id = &the(FactKind::Authorisation, &facts).object_id;
    for task in [8, 9] {
        let voided = paypal.void(TaskId(task), id).await.expect("let go, now or before");
        assert_eq!(the(FactKind::Authorisation, &voided).status, FactStatus::Voided);
    }
    let dead = paypal.capture_authorised(TaskId(10), id, usd("1.00"), false).await.expect_err("it is void");
    assert!(matches!(dead, ProviderError::Dead(_)), "{dead}");
    shop.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_reads_disputes_reversals_and_the_list_of_events() {
    let shop = TestShop::open().await;
    let paypal = &shop.app.shop.paypal;
    let order_id = approved(&shop, 1, Intent::Capture, "30.00").await;
    let facts = paypal.capture(TaskId(1), &order_id).await.expect("captured");
    let capture_id = the(FactKind::Capture, &facts).object_id.clone();
    assert_eq!(paypal.disputes(&capture_id).await, Ok(Vec::new()));

    let opened = shop.bank.control(&format!("captures/{capture_id}/dispute"), json!({ "stage": "CHARGEBACK" })).await;
    let dispute_id = opened["dispute_id"].as_str().expect("an id");
    let [open] = paypal.disputes(&capture_id).await.expect("disputes").try_into().expect("one");
    assert_eq!((open.object_id.as_str(), open.status), (dispute_id, FactStatus::Open));
    assert_eq!((open.parent.as_ref(), open.amount), (Some(&capture_id), Some(usd("30.00"))));
    assert_eq!(open.reference, Some(PaymentId(1).to_string()));
    let partly = paypal.refund(TaskId(2), RefundId(2), &capture_id, usd("1.00")).await.expect_err("only all of it");
    assert!(matches!(partly, ProviderError::Rejected(_)), "{partly}");

    shop.bank.control(&format!("disputes/{dispute_id}"), json!({ "resolve": "buyer" })).await;
    let [lost] = paypal.disputes(&capture_id).await.expect("disputes").try_into().expect("one");
    assert_eq!(lost.status, FactStatus::Lost);
    let facts = paypal.inspect(&order_id).await.expect("facts");
    assert_eq!(the(FactKind::Capture, &facts).status, FactStatus::Reversed);
    let refused = paypal.refund(TaskId(3), RefundId(3), &capture_id, usd("30.00")).await.expect_err("it is gone");
    assert!(matches!(refused, ProviderError::TakenBack(_)), "{refused}");

    // more events than a page has, each to the byte as its webhook would have carried it
    for number in 0..30 {
        let order_id = approved(&shop, 100 + number, Intent::Capture, "1.00").await;
        paypal.capture(TaskId(100 + number), &order_id).await.expect("captured");
    }
    let tomorrow = souk_actors::clock::Clock::default().now() + chrono::TimeDelta::days(1);
    let listed = paypal.events(DateTime::<Utc>::UNIX_EPOCH, tomorrow).await.expect("a list");
    assert_eq!(shop.bank.summary().await["events"], listed.len());
    assert!(listed.len() > 60);
    let created = |event: &souk_actors::ports::ListedEvent| {
        let body: Value = serde_json::from_slice(&event.body).expect("json");
        assert_eq!(body["id"], event.event_id.as_str());
        body["create_time"].as_str().expect("a time").to_owned()
    };
    let times: Vec<_> = listed.iter().map(created).collect();
    assert!(times.is_sorted(), "oldest first");
    let located = paypal.locate(&listed[0].body);
    assert_eq!(located.provider_order_id, Some(order_id));
    let later = paypal.events(tomorrow, tomorrow + chrono::TimeDelta::days(1)).await;
    assert_eq!(later.expect("a list").len(), 0);
    shop.app.stop().await;
}
