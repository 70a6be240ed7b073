//! Money, with a provider that does what providers do: late, twice, not at all, or pretending to be somebody else.
//! Whatever happens, an order is charged once, and what was charged ends as a confirmed order or goes back.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    PATIENCE, eventually, passes,
    shop::{Answer, HASTY, HOLD, Placed, TestShop, basket, paid_basket},
};

const APPROVED: &str = "CHECKOUT.ORDER.APPROVED";
const CAPTURED: &str = "PAYMENT.CAPTURE.COMPLETED";
const AN_HOUR: i64 = 3_600;

/// What happens to the webhooks from now on.
pub(crate) async fn trick(shop: &TestShop, kind: &str, event_type: Option<&str>, times: u32) {
    let mut rule = json!({ "on": "webhook", "kind": kind, "times": times });
    if let Some(event_type) = event_type {
        rule["event_type"] = json!(event_type);
    }
    shop.bank.fault(rule).await;
}

/// The buyer clicks on the provider's page and is sent back to the shop; where to.
pub(crate) async fn click(shop: &TestShop, placed: &Placed, action: &str) -> String {
    let form = [("token", placed.at_provider()), ("action", action)];
    let url = format!("{}/checkoutnow", shop.bank.base);
    let sent_back = Answer::of(shop.http.post(url).form(&form)).await.expect("an answer");
    assert_eq!(sent_back.status, 303, "{sent_back:?}");
    sent_back.header("location").to_owned()
}

async fn follow(shop: &TestShop, url: &str) -> Answer {
    Answer::of(shop.http.get(url)).await.expect("an answer")
}

pub(crate) async fn only_capture(shop: &TestShop, placed: &Placed) -> String {
    let sheet = shop.bank.sheet(placed).await;
    assert_eq!(sheet["captures"].as_array().map(Vec::len), Some(1), "{sheet}");
    sheet["captures"][0]["id"].as_str().expect("an id").to_owned()
}

/// An undecided charge of this order.
pub(crate) async fn pending(shop: &TestShop, sku_id: &str) -> (Placed, String) {
    let placed = shop.sell(sku_id).await;
    shop.bank.approve_as(&placed, "pending").await;
    shop.becomes(&placed, "awaiting_payment", "pending").await;
    let capture_id = only_capture(shop, &placed).await;
    (placed, capture_id)
}

pub(crate) async fn rule(shop: &TestShop, capture_id: &str, status: &str) {
    shop.bank.control(&format!("captures/{capture_id}/status"), json!({ "status": status })).await;
}

pub(crate) fn count(timeline: &[String], kind: &str) -> usize {
    timeline.iter().filter(|event| *event == kind).count()
}

/// Sold once: one charge and nothing back, one commit in the ledger, each event once.
pub(crate) async fn sold_once(shop: &TestShop, placed: &Placed) {
    assert_eq!(shop.bank.charged(placed).await, (1, 0.0));
    let timeline = shop.timeline(placed).await;
    for kind in ["placed", "payment_captured", "confirmed"] {
        assert_eq!(count(&timeline, kind), 1, "{timeline:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_providers_word_confirms_an_order() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(3).await;
    let placed = shop.place(basket(&[(&sku_id, 2)])).await;
    assert_eq!(placed.approve_url, "", "no provider is called unless it is asked for");
    assert_eq!(shop.bank.summary().await["orders"], 0);

    let pay = json!({ "provider": "paypal" });
    let opened = shop.post(&placed.path("/payments"), pay.clone()).await.ok();
    let placed = Placed { approve_url: opened["approve_url"].as_str().expect("a page").to_owned(), ..placed };
    assert_eq!(shop.post(&placed.path("/payments"), pay.clone()).await.ok(), opened, "the open one is found");
    let order = shop.order(&placed).await;
    assert_eq!(order["next"]["what"], "the buyer approves the payment");
    assert_eq!(order["next"]["by"], order["hold_expires_at"]);

    // a buyer who says that he has paid has not
    let back = shop.get(&format!("/orders/{}/return?access={}&token=x&PayerID=y", placed.order_id, placed.token)).await;
    assert_eq!(back.status, 303, "{back:?}");
    eventually("the provider was asked", async || {
        shop.bank.summary().await["calls"]["inspect"].as_object().is_some_and(|calls| !calls.is_empty())
    })
    .await;
    assert_eq!(shop.status(&placed).await, ("awaiting_payment".into(), "unpaid".into()));

    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    sold_once(&shop, &placed).await;
    let causes: Vec<Value> = shop.ledger(&sku_id).await.iter().map(|row| row["cause"].clone()).collect();
    assert_eq!(causes, ["commit", "reserve", "open"]);
    assert_eq!(shop.stock(&sku_id).await, (3, 2));
    shop.post(&placed.path("/payments"), pay).await.is_problem(409, "order_state");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_is_enough_where_webhooks_are_lost() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;
    trick(&shop, "drop", None, 0).await;
    let placed = shop.sell(&sku_id).await;
    let back = click(&shop, &placed, "pay").await;
    let page = follow(&shop, &back).await;
    assert_eq!(page.status, 303);
    shop.becomes(&placed, "confirmed", "paid").await;
    let page = shop.get(page.header("location")).await;
    assert!(page.status == 200 && page.text.contains("Thank you"), "{}", page.text);
    sold_once(&shop, &placed).await;

    // and one who changes his mind comes back to an open order
    let placed = shop.sell(&sku_id).await;
    let back = click(&shop, &placed, "cancel").await;
    let page = shop.get(follow(&shop, &back).await.header("location")).await;
    assert!(page.status == 200 && page.text.contains("Waiting for your payment"), "{back} {}", page.text);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_webhook_is_found_by_asking() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    trick(&shop, "drop", None, 0).await;
    let placed = shop.sell(&sku_id).await;
    shop.bank.approve(&placed).await;
    shop.bank.settle().await;
    assert_eq!(shop.status(&placed).await.0, "awaiting_payment");
    shop.later(121).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    sold_once(&shop, &placed).await;
    shop.close().await;
}

/// Refused by the call, or accepted and then declined: nothing is charged, and the buyer may try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_buyer_tries_again() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;
    for how in ["422", "capture"] {
        let placed = shop.sell(&sku_id).await;
        shop.bank.approve_as(&placed, how).await;
        eventually("it is declined", async || count(&shop.timeline(&placed).await, "payment_declined") == 1).await;
        assert_eq!(shop.status(&placed).await, ("awaiting_payment".into(), "unpaid".into()), "{how}");
        assert_eq!(shop.bank.charged(&placed).await, (0, 0.0));

        let opened = shop.post(&placed.path("/payments"), json!({ "provider": "paypal" })).await.ok();
        let again = Placed { approve_url: opened["approve_url"].as_str().expect("a page").to_owned(), ..placed };
        shop.bank.approve(&again).await;
        shop.becomes(&again, "confirmed", "paid").await;
        assert_eq!(shop.bank.charged(&again).await, (1, 0.0));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_twice_early_late_and_shuffled() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(100).await;
    for kind in ["duplicate", "duplicate_new", "early"] {
        let times = if kind == "duplicate_new" { 2 } else { 0 }; // the copy of a copy of a copy …
        trick(&shop, kind, None, times).await;
        let placed = shop.sold(&sku_id).await;
        shop.bank.settle().await;
        shop.bank.forgive().await;
        sold_once(&shop, &placed).await;
    }

    // everything is told at last, and backwards, to an order that is long confirmed
    shop.bank.control("webhooks/hold", json!({})).await;
    let placed = shop.sell(&sku_id).await;
    let back = click(&shop, &placed, "pay").await;
    follow(&shop, &back).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    let told = shop.timeline(&placed).await;
    assert_eq!(shop.bank.control("webhooks/release", json!({ "order": "reversed" })).await["tried"], 2);
    eventually("all webhooks are dealt with", async || {
        shop.count("select count(*) from inbox where processed_at is null").await == 0
    })
    .await;
    assert_eq!(shop.timeline(&placed).await, told);
    sold_once(&shop, &placed).await;

    // many at once, in any order, some of them twice
    shop.bank.control("webhooks/hold", json!({})).await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(shop.sell(&sku_id).await);
    }
    shop.bank.control("approve_all", json!({})).await;
    trick(&shop, "duplicate", None, 10).await;
    shop.bank.control("webhooks/release", json!({ "order": "shuffled", "seed": 7 })).await;
    for placed in &crowd {
        shop.becomes(placed, "confirmed", "paid").await;
        sold_once(&shop, placed).await;
    }
    assert_eq!(shop.stock(&sku_id).await, (100, 24));
    shop.close().await;
}

/// Whatever goes wrong with the call that charges, and nobody tells: it is asked, and never charged twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_whose_answer_is_lost_is_made_once() {
    let shop = TestShop::with(&[HASTY]).await;
    let sku_id = shop.sku(100).await;
    trick(&shop, "drop", Some(CAPTURED), 0).await;
    for some in call_faults().chunks(4) {
        let mut sold = Vec::new();
        for fault in some {
            let mut rule = fault.clone();
            rule["on"] = json!("capture");
            shop.bank.fault(rule).await;
            sold.push(shop.sell(&sku_id).await);
        }
        shop.bank.control("approve_all", json!({})).await;
        for placed in &sold {
            hurry(&shop, async || shop.status(placed).await.0 == "confirmed", &json!(some)).await;
            assert_eq!(shop.bank.charged(placed).await, (1, 0.0), "{some:?}");
            assert_eq!(count(&shop.timeline(placed).await, "confirmed"), 1, "{some:?}");
        }
        let left = Answer::of(shop.http.get(format!("{}/_sandbox/faults", shop.bank.base))).await.expect("an answer");
        assert_eq!(left.ok()["calls"], json!([]), "each has struck");
    }
    shop.close().await;
}

fn call_faults() -> Vec<Value> {
    vec![
        json!({ "kind": "drop_before" }),
        json!({ "kind": "drop_after" }),
        json!({ "kind": "status", "status": 500 }),
        json!({ "kind": "status_after", "status": 500 }),
        json!({ "kind": "status", "status": 429, "retry_after": 1 }),
        json!({ "kind": "status", "status": 401 }),
        json!({ "kind": "status", "status": 409 }),
        json!({ "kind": "html" }),
        json!({ "kind": "garbage" }),
        json!({ "kind": "hang" }),
        json!({ "kind": "hang_after" }),
        json!({ "kind": "delay", "ms": 1_500 }),
    ]
}

/// Waits; time flies meanwhile, so that what is put off for a second or two is soon due.
pub(crate) async fn hurry(shop: &TestShop, holds: impl AsyncFnMut() -> bool, what: &Value) {
    passes(shop, 1, holds, &what.to_string()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_or_a_refund_whose_answer_is_lost_is_made_once() {
    let shop = TestShop::with(&[HASTY]).await;
    let sku_id = shop.sku(100).await;
    for fault in call_faults() {
        let mut rule_of_create = fault.clone();
        rule_of_create["on"] = json!("create");
        shop.bank.fault(rule_of_create).await;
        let placed = shop.place(paid_basket(&[(&sku_id, 1)])).await;
        let mut found = placed.approve_url.clone();
        let announced = async || {
            if found.is_empty() {
                let order = shop.order(&placed).await;
                found = order["payments"][0]["approve_url"].as_str().unwrap_or_default().to_owned();
            }
            !found.is_empty()
        };
        hurry(&shop, announced, &fault).await;
        let placed = Placed { approve_url: found, ..placed };
        let books = shop.bank.books().await;
        let orders = books["orders"].as_array().expect("a list").iter();
        assert_eq!(orders.filter(|order| order["invoice_id"] == placed.order_id.as_str()).count(), 1, "{fault}");

        // undecided, then called off, then charged after all: the money goes back, once
        shop.bank.approve_as(&placed, "pending").await;
        hurry(&shop, async || shop.status(&placed).await.1 == "pending", &fault).await;
        shop.post(&placed.path("/cancel"), Value::Null).await.ok();
        let mut rule_of_refund = fault.clone();
        rule_of_refund["on"] = json!("refund");
        shop.bank.fault(rule_of_refund).await;
        rule(&shop, &only_capture(&shop, &placed).await, "COMPLETED").await;
        hurry(&shop, async || shop.status(&placed).await == ("cancelled".into(), "refunded".into()), &fault).await;
        let sheet = shop.bank.sheet(&placed).await;
        assert_eq!(sheet["refunds"].as_array().map(Vec::len), Some(1), "{fault} {sheet}");
        assert_eq!(shop.bank.charged(&placed).await, (1, 12.5), "{fault}");
    }
    assert_eq!(shop.stock(&sku_id).await, (100, 0));
    shop.close().await;
}

/// The charge is made, its answer is lost, and meanwhile the hold ends: money that comes late gets the goods if they are
/// still there, else it goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_that_ends_after_the_hold() {
    for taken in [false, true] {
        let shop = TestShop::with(&[HASTY]).await;
        let sku_id = shop.sku(1).await;
        trick(&shop, "drop", Some(CAPTURED), 0).await;
        shop.bank.fault(json!({ "on": "capture", "kind": "hang_after" })).await;
        let placed = shop.sell(&sku_id).await;
        shop.bank.approve(&placed).await;
        eventually("it is charged", async || shop.bank.charged(&placed).await.0 == 1).await;
        shop.bank.fault(json!({ "on": "inspect", "kind": "status", "status": 500, "times": 0 })).await;
        shop.later(HOLD).await;
        eventually("it has expired", async || shop.status(&placed).await.0 == "expired").await;
        if taken {
            shop.place(basket(&[(&sku_id, 1)])).await;
        }
        shop.bank.forgive().await;
        if taken {
            let refunded = async || shop.status(&placed).await == ("expired".into(), "refunded".into());
            hurry(&shop, refunded, &json!("late money goes back")).await;
            assert_eq!(shop.bank.charged(&placed).await, (1, 12.5));
        } else {
            hurry(&shop, async || shop.status(&placed).await.0 == "confirmed", &json!("late money confirms")).await;
            assert_eq!(shop.bank.charged(&placed).await, (1, 0.0));
        }
        assert_eq!(shop.stock(&sku_id).await, (1, 1));
        shop.close().await;
    }
}

/// An e-check takes days. It keeps its lines meanwhile, and what comes of it after that is late money.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecided_charge_ends_in_every_way() {
    let shop = TestShop::open().await;
    let days = 3 * 24 * AN_HOUR;
    let sku_id = shop.sku(1).await;

    let (placed, capture_id) = pending(&shop, &sku_id).await;
    shop.later(2 * AN_HOUR).await;
    assert_eq!(shop.status(&placed).await.0, "awaiting_payment", "kept past the first deadline");
    rule(&shop, &capture_id, "COMPLETED").await;
    shop.becomes(&placed, "confirmed", "paid").await;
    sold_once(&shop, &placed).await;

    for (event, after) in [("DENIED", 60), ("DECLINED", 60), ("FAILED", 2 * AN_HOUR)] {
        let sku_id = shop.sku(1).await;
        let (placed, capture_id) = pending(&shop, &sku_id).await;
        rule(&shop, &capture_id, event).await;
        shop.later(after).await; // no event tells of a failed one: it is asked about
        if after < HOLD {
            shop.becomes(&placed, "awaiting_payment", "unpaid").await; // while its own hold lives
            shop.later(HOLD).await;
        }
        shop.becomes(&placed, "expired", "unpaid").await;
        assert_eq!(shop.stock(&sku_id).await, (1, 0));
    }

    for taken in [false, true] {
        let sku_id = shop.sku(1).await;
        let (placed, capture_id) = pending(&shop, &sku_id).await;
        shop.later(days + 1).await;
        eventually("it has expired", async || shop.status(&placed).await.0 == "expired").await;
        if taken {
            shop.place(basket(&[(&sku_id, 1)])).await;
        }
        trick(&shop, "duplicate", None, 2).await;
        rule(&shop, &capture_id, "COMPLETED").await;
        if taken {
            shop.becomes(&placed, "expired", "refunded").await;
            assert_eq!(shop.bank.charged(&placed).await, (1, 12.5));
        } else {
            shop.becomes(&placed, "confirmed", "paid").await;
            sold_once(&shop, &placed).await;
        }
        assert_eq!(shop.stock(&sku_id).await, (1, 1));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_after_the_hold_is_charged_only_if_the_goods_are_still_there() {
    let shop = TestShop::open().await;
    for taken in [false, true] {
        let sku_id = shop.sku(1).await;
        let placed = shop.sell(&sku_id).await;
        shop.later(HOLD + 1).await;
        shop.becomes(&placed, "expired", "unpaid").await;
        if taken {
            shop.place(basket(&[(&sku_id, 1)])).await;
        }
        shop.bank.approve(&placed).await;
        if taken {
            eventually("it is told", async || count(&shop.timeline(&placed).await, "approved_too_late") == 1).await;
            assert_eq!(shop.bank.charged(&placed).await, (0, 0.0));
            assert_eq!(shop.status(&placed).await, ("expired".into(), "unpaid".into()));
        } else {
            shop.becomes(&placed, "confirmed", "paid").await;
            sold_once(&shop, &placed).await;
        }
        assert_eq!(shop.stock(&sku_id).await, (1, 1));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_webhook_leaves_no_trace() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(10).await;
    for kind in ["tamper", "wrong_webhook_id", "foreign_ca", "expired_cert", "off_list_cert"] {
        let stored = shop.count("select count(*) from inbox").await;
        let placed = shop.sell(&sku_id).await;
        shop.bank.control("webhooks/hold", json!({})).await;
        shop.bank.approve(&placed).await;
        trick(&shop, kind, None, 0).await;
        shop.bank.control("webhooks/release", json!({})).await;
        let sheet = shop.bank.sheet(&placed).await;
        assert_eq!(sheet["deliveries"][0]["attempts"][0]["answer"], "400", "{kind}: {sheet}");
        assert_eq!(shop.count("select count(*) from inbox").await, stored, "{kind}");
        assert_eq!(shop.status(&placed).await, ("awaiting_payment".into(), "unpaid".into()), "{kind}");

        // and does no harm to the true one
        shop.bank.forgive().await;
        shop.becomes(&placed, "confirmed", "paid").await;
    }

    let bare = shop.post("/v1/webhooks/paypal", json!({ "event_type": CAPTURED })).await;
    bare.is_problem(400, "bad_signature");
    shop.close().await;
}

/// CRC-32 signs nothing: a body that says 999.00 under a good signature is stored, and changes nothing, for bodies are
/// not believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_the_same_crc_moves_no_money() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;
    for event_type in [APPROVED, CAPTURED] {
        trick(&shop, "same_crc", Some(event_type), 1).await;
        let placed = shop.sold(&sku_id).await;
        shop.bank.settle().await;
        let sheet = shop.bank.sheet(&placed).await;
        let deliveries = sheet["deliveries"].as_array().expect("a list");
        let forged = deliveries.iter().flat_map(|delivery| delivery["attempts"].as_array().expect("a list"));
        let forged: Vec<_> = forged.filter(|attempt| attempt["fault"] == "same_crc").collect();
        assert!(forged.len() == 1 && forged[0]["answer"] == "200", "{sheet}");
        let order = shop.order(&placed).await;
        assert_eq!((&order["payment_status"], &order["total"]["amount"]), (&json!("paid"), &json!("12.50")));
        sold_once(&shop, &placed).await;
    }
    shop.close().await;
}

/// What the provider would charge is not what was agreed: it is not charged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_amount_is_never_charged() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;
    for drift in [json!({ "value": "0.01" }), json!({ "currency_code": "EUR" })] {
        let placed = shop.sell(&sku_id).await;
        shop.bank.control(&format!("orders/{}/drift", placed.at_provider()), drift).await;
        shop.bank.approve(&placed).await;
        eventually("it is noticed", async || count(&shop.timeline(&placed).await, "payment_mismatch") == 1).await;
        assert_eq!(shop.bank.charged(&placed).await, (0, 0.0));
        assert_eq!(shop.status(&placed).await, ("awaiting_payment".into(), "unpaid".into()));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calling_off() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;

    let paid = shop.sold(&sku_id).await;
    assert_eq!(shop.post(&paid.path("/cancel"), Value::Null).await.ok()["status"], "cancelling");
    shop.becomes(&paid, "cancelled", "refunded").await;
    assert_eq!(shop.post(&paid.path("/cancel"), Value::Null).await.ok()["status"], "cancelled");

    let open = shop.sell(&sku_id).await;
    assert_eq!(shop.stock(&sku_id).await, (2, 1));
    for _ in 0..2 {
        assert_eq!(shop.post(&open.path("/cancel"), Value::Null).await.ok()["status"], "cancelled");
    }
    assert_eq!(shop.stock(&sku_id).await, (2, 0));
    assert_eq!(count(&shop.timeline(&open).await, "cancelled"), 1);
    // the provider's page is still open in another tab
    shop.bank.approve(&open).await;
    shop.bank.settle().await;
    eventually("the approval is known", async || {
        shop.count("select count(*) from inbox where processed_at is null").await == 0
    })
    .await;
    assert_eq!(shop.bank.charged(&open).await, (0, 0.0));
    shop.post(&open.path("/payments"), json!({ "provider": "paypal" })).await.is_problem(409, "order_state");
    shop.close().await;
}

/// A refund made on the provider's own pages shows in the order, and touches no stock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_made_at_the_provider_is_mirrored() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let placed = shop.sold(&sku_id).await;
    let capture_id = only_capture(&shop, &placed).await;
    shop.bank.control(&format!("captures/{capture_id}/refund"), json!({})).await;
    shop.becomes(&placed, "confirmed", "refunded").await;
    assert_eq!(shop.stock(&sku_id).await, (1, 1));
    shop.clean().await;
    shop.app.stop().await;
}

/// Nobody asks for anything, nobody restarts anything: a hold ends all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_by_itself() {
    let settings = [("SOUK_CHECKOUT__HOLD_SECONDS", "1"), ("SOUK_CHECKOUT__CAPTURE_MARGIN_SECONDS", "0")];
    let shop = TestShop::with(&settings).await;
    let sku_id = shop.sku(5).await;
    let placed = shop.place(basket(&[(&sku_id, 5)])).await;
    eventually("it has expired", async || {
        shop.count("select count(*) from customer_order where status = 'expired'").await == 1
    })
    .await;
    assert_eq!(shop.stock(&sku_id).await, (5, 0));
    let order = shop.order(&placed).await;
    assert_eq!((&order["status"], &order["lines"][0]["reservation"]), (&json!("expired"), &json!("expired")));
    shop.close().await;
}

/// The provider is away altogether: orders are taken all the same, and are paid when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_whose_provider_is_away_goes_on_selling() {
    let shop = TestShop::with(&[("SOUK_HTTP__TIMEOUT_SECONDS", "3")]).await;
    let sku_id = shop.sku(50).await;
    shop.bank.fault(json!({ "on": "create", "kind": "status", "status": 503, "times": 0 })).await;
    let buy = async |_: usize| {
        let began = Instant::now();
        let placed = shop.place(paid_basket(&[(&sku_id, 1)])).await;
        assert!(began.elapsed() < PATIENCE / 2, "the buyer was kept waiting for {:?}", began.elapsed());
        placed
    };
    let waiting = futures::future::join_all((0..12).map(buy)).await;
    assert!(waiting.iter().all(|placed| placed.approve_url.is_empty()));
    let asked = shop.request(Method::POST, &waiting[0].path("/payments")).json(&json!({ "provider": "paypal" }));
    Answer::of(asked).await.expect("an answer").is_problem(503, "outcome_unknown");

    shop.bank.forgive().await;
    for placed in waiting {
        let mut url = String::new();
        let announced = async || {
            let order = shop.order(&placed).await;
            url = order["payments"][0]["approve_url"].as_str().unwrap_or_default().to_owned();
            !url.is_empty()
        };
        hurry(&shop, announced, &json!("the provider is back")).await;
        let placed = Placed { approve_url: url, ..placed };
        shop.bank.approve(&placed).await;
        shop.becomes(&placed, "confirmed", "paid").await;
    }
    assert_eq!(shop.bank.summary().await["orders"], 12);
    shop.close().await;
}
