//! What a payment webhook does, row by row of the design's table, over HTTP against the sandbox. Each story ends with a
//! clean audit, and with the shop having of every order what the sandbox's books say that it has kept.
//!
//! | row of the table | where it is proved |
//! |---|---|
//! | same event id or transmission id again | [`the_same_event_or_transmission_again`] |
//! | same capture under a new event id | [`the_same_capture_under_a_new_event_id`] |
//! | COMPLETED before APPROVED | [`completed_before_approved`] |
//! | … or before our own HTTP call returned | `money`: webhooks twice, early, late and shuffled |
//! | order unknown yet | [`an_order_that_is_unknown_yet`], [`an_order_that_is_nobodys`] |
//! | PENDING first | `money`: an undecided charge ends in every way |
//! | PENDING after COMPLETED | [`pending_after_completed`] |
//! | COMPLETED after the hold expired | `money`: an undecided charge ends in every way, both ways |
//! | COMPLETED after a cancel | `money`: an announcement or a refund whose answer is lost; [`a_capture_while_our_cancel_is_in_flight`] |
//! | second capture of one order | [`a_second_capture_of_one_order`] |
//! | amount or currency differs | before: `money`: another amount is never charged; after: [`another_amount_that_was_charged`] |
//! | APPROVED after the hold expired | `money`: an approval after the hold |
//! | deadline passes while a capture is in flight | `money`: a charge that ends after the hold |
//! | DENIED / DECLINED after PENDING | while the hold lives: `money`, again; after it: [`denied_after_the_holds_own_end`] |
//! | REFUNDED before our reply | [`refunded_before_our_reply`] |
//! | … or made in the provider's dashboard | [`refunded_in_the_providers_dashboard`] |
//! | REFUNDED before its capture is known | [`refunded_before_its_capture_is_known`] |
//! | capture while our cancel is in flight | [`a_capture_while_our_cancel_is_in_flight`] |
//! | partial capture | [`a_partial_capture`] |
//! | refund FAILED after PENDING | [`a_refund_that_fails_after_pending`] |
//! | REVERSED, dispute opened | [`a_reversal`], [`a_dispute`] |
//! | webhook never arrives | after 2 minutes: `money`; after 10 and 60: [`a_webhook_that_never_arrives`]; the list: [`what_no_webhook_told_stands_in_the_list`] |
//! | bad signature | [`a_bad_signature`], and all other forgeries in `money` |

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    money::{count, hurry, only_capture, pending, rule, sold_once, trick},
    support::{
        eventually, passes,
        shop::{Answer, HASTY, HOLD, Placed, TestShop, basket, books_agree, paid_basket},
    },
};

const APPROVED: &str = "CHECKOUT.ORDER.APPROVED";
const CAPTURED: &str = "PAYMENT.CAPTURE.COMPLETED";
const AN_HOUR: i64 = 3_600;
const A_DAY: i64 = 24 * AN_HOUR;

/// The story's end.
pub(crate) async fn end(shop: TestShop) {
    books_agree(&shop).await;
    shop.clean().await;
    shop.app.stop().await;
}

/// Everything that was sent has arrived, and all of it is dealt with.
pub(crate) async fn heard(shop: &TestShop) {
    shop.bank.settle().await;
    let open = "select count(*) from inbox where processed_at is null";
    passes(shop, 2, async || shop.count(open).await == 0, "all webhooks are dealt with").await;
}

/// Once more, byte for byte, with the old headers.
pub(crate) async fn replay(shop: &TestShop, placed: &Placed, event_type: Option<&str>) -> u64 {
    let mut which = json!({ "order_id": placed.at_provider() });
    if let Some(event_type) = event_type {
        which["event_type"] = json!(event_type);
    }
    shop.bank.control("webhooks/replay", which).await["replayed"].as_u64().expect("a number")
}

/// Somebody charges at the provider, by hand.
pub(crate) async fn charge(shop: &TestShop, placed: &Placed, body: Value) -> String {
    let capture = shop.bank.control(&format!("orders/{}/capture", placed.at_provider()), body).await;
    capture["id"].as_str().expect("an id").to_owned()
}

async fn payment_status(shop: &TestShop, placed: &Placed) -> String {
    shop.status(placed).await.1
}

/// What the order's refunds come to, by their states.
async fn refunds(shop: &TestShop, placed: &Placed) -> Vec<(String, String)> {
    let order = shop.order(placed).await;
    let refunds = order["refunds"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    refunds.map(|refund| (text(&refund["amount"]["amount"]), text(&refund["status"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_event_or_transmission_again() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let placed = shop.sold(&sku_id).await;
    heard(&shop).await;
    let told = shop.timeline(&placed).await;
    let stored = shop.count("select count(*) from inbox").await;
    let facts = shop.count("select count(*) from payment_fact").await;

    // at once, and from somebody's recording two days later
    for wait in [0, 2 * A_DAY] {
        shop.later(wait).await;
        assert!(replay(&shop, &placed, None).await >= 2);
        shop.bank.settle().await;
        assert_eq!(shop.count("select count(*) from inbox").await, stored);
    }
    // the same event in a transmission of its own
    let token = bearer(&shop).await;
    let listed = at_provider(&shop, Method::GET, "/v1/notifications/webhooks-events", &token, Value::Null).await;
    for event in listed["events"].as_array().expect("a list") {
        let path = format!("/v1/notifications/webhooks-events/{}/resend", event["id"].as_str().expect("an id"));
        at_provider(&shop, Method::POST, &path, &token, json!({})).await;
    }
    shop.bank.settle().await;
    assert_eq!(shop.count("select count(*) from inbox").await, stored);

    let sheet = shop.bank.sheet(&placed).await;
    let deliveries = sheet["deliveries"].as_array().expect("a list");
    let attempts = deliveries.iter().flat_map(|delivery| delivery["attempts"].as_array().expect("a list"));
    let answers: Vec<_> = attempts.map(|attempt| attempt["answer"].as_str().expect("a status")).collect();
    assert!(answers.len() >= 8 && answers.iter().all(|answer| *answer == "200"), "{sheet}");
    assert_eq!(shop.timeline(&placed).await, told);
    assert_eq!(shop.count("select count(*) from payment_fact").await, facts);
    sold_once(&shop, &placed).await;
    end(shop).await;
}

/// A token of the provider's API, for what only its API does.
async fn bearer(shop: &TestShop) -> String {
    let form = [("grant_type", "client_credentials")];
    let request = shop.bank.http.post(format!("{}/v1/oauth2/token", shop.bank.base));
    let granted = Answer::of(request.basic_auth("souk", Some("sandbox")).form(&form)).await.expect("an answer").ok();
    granted["access_token"].as_str().expect("a token").to_owned()
}

async fn at_provider(shop: &TestShop, method: Method, path: &str, token: &str, body: Value) -> Value {
    let mut request = shop.bank.http.request(method, format!("{}{path}", shop.bank.base)).bearer_auth(token);
    if !body.is_null() {
        request = request.json(&body);
    }
    Answer::of(request).await.expect("an answer").ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_capture_under_a_new_event_id() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    trick(&shop, "duplicate_new", Some(CAPTURED), 3).await;
    let placed = shop.sold(&sku_id).await;
    heard(&shop).await;
    let told = "select count(*) from inbox where event_type = 'PAYMENT.CAPTURE.COMPLETED'";
    assert_eq!(shop.count(told).await, 4);
    assert_eq!(shop.count("select count(*) from payment_fact where kind = 'capture'").await, 1);
    sold_once(&shop, &placed).await;
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completed_before_approved() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;

    // told backwards
    shop.bank.control("webhooks/hold", json!({})).await;
    let placed = shop.sell(&sku_id).await;
    shop.bank.approve(&placed).await;
    charge(&shop, &placed, json!({})).await;
    assert_eq!(shop.bank.control("webhooks/release", json!({ "order": "reversed" })).await["tried"], 2);
    shop.becomes(&placed, "confirmed", "paid").await;
    heard(&shop).await;
    sold_once(&shop, &placed).await;

    // and without any approval at all
    let placed = shop.sell(&sku_id).await;
    charge(&shop, &placed, json!({})).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    sold_once(&shop, &placed).await;
    assert_eq!(shop.bank.asked("capture").await, 0, "nobody else had to charge");
    end(shop).await;
}

/// The answer that would have told us the provider's id is lost, and lost again; the buyer has approved meanwhile. The
/// webhook names the payment by our own id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_unknown_yet() {
    let shop = TestShop::with(&[("SOUK_HTTP__TIMEOUT_SECONDS", "3")]).await;
    let sku_id = shop.sku(1).await;
    shop.bank.fault(json!({ "on": "create", "kind": "status_after", "status": 503, "times": 0 })).await;
    let placed = shop.place(paid_basket(&[(&sku_id, 1)])).await;
    assert_eq!(placed.approve_url, "");
    let mut known = Value::Null;
    eventually("the provider has it", async || {
        known = shop.bank.books().await["orders"][0].clone();
        known.is_object()
    })
    .await;
    assert_eq!(known["invoice_id"], placed.order_id.as_str());
    let provider_order_id = known["id"].as_str().expect("an id");
    shop.bank.control(&format!("orders/{provider_order_id}/approve"), json!({})).await;
    shop.bank.settle().await;
    assert_eq!(shop.count("select count(*) from inbox").await, 1, "stored");
    assert_eq!(shop.status(&placed).await.0, "awaiting_payment");

    shop.bank.forgive().await;
    hurry(&shop, async || shop.status(&placed).await.0 == "confirmed", &json!("it is known, approved and paid")).await;
    let placed = Placed { approve_url: format!("token={provider_order_id}"), ..placed };
    heard(&shop).await;
    sold_once(&shop, &placed).await;
    assert_eq!(shop.bank.summary().await["orders"], 1);
    end(shop).await;
}

/// Another shop of the same account sells, too: its webhooks are answered, and mean nothing here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_nobodys() {
    let shop = TestShop::open().await;
    let token = bearer(&shop).await;
    let unit = json!({ "custom_id": "payment_of_another_shop", "amount": { "currency_code": "USD", "value": "5.00" } });
    let order = json!({ "intent": "CAPTURE", "purchase_units": [unit] });
    let made = at_provider(&shop, Method::POST, "/v2/checkout/orders", &token, order).await;
    let foreign = Placed {
        order_id: String::new(),
        token: String::new(),
        approve_url: format!("token={}", made["id"].as_str().expect("an id")),
    };
    charge(&shop, &foreign, json!({})).await;
    shop.bank.settle().await;
    let sheet = shop.bank.sheet(&foreign).await;
    assert_eq!(sheet["deliveries"][0]["attempts"][0]["answer"], "200", "{sheet}");
    for _ in 0..5 {
        shop.later(60).await;
    }
    assert_eq!(shop.count("select count(*) from payment_fact").await, 0);
    let placed = shop.sold(&shop.sku(1).await).await;
    sold_once(&shop, &placed).await;
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_after_completed() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    shop.bank.control("webhooks/hold", json!({})).await;
    let placed = shop.sell(&sku_id).await;
    let capture_id = charge(&shop, &placed, json!({ "status": "PENDING" })).await;
    rule(&shop, &capture_id, "COMPLETED").await;
    assert_eq!(shop.bank.control("webhooks/release", json!({ "order": "reversed" })).await["tried"], 2);
    shop.becomes(&placed, "confirmed", "paid").await;
    heard(&shop).await;
    assert_eq!(shop.status(&placed).await, ("confirmed".into(), "paid".into()));
    sold_once(&shop, &placed).await;
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_capture_of_one_order() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let placed = shop.sold(&sku_id).await;
    charge(&shop, &placed, json!({})).await;
    eventually("the surplus went back", async || shop.bank.charged(&placed).await == (2, 12.5)).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    assert_eq!(refunds(&shop, &placed).await.len(), 1);

    // and of an attempt that has been given up
    let sku_id = shop.sku(1).await;
    let first = shop.sell(&sku_id).await;
    shop.bank.approve_as(&first, "422").await;
    eventually("it is declined", async || count(&shop.timeline(&first).await, "payment_declined") == 1).await;
    let opened = shop.post(&first.path("/payments"), json!({ "provider": "paypal" })).await.ok();
    let again = Placed { approve_url: opened["approve_url"].as_str().expect("a page").to_owned(), ..first.clone() };
    shop.bank.approve(&again).await;
    shop.becomes(&again, "confirmed", "paid").await;
    charge(&shop, &first, json!({})).await;
    eventually("the surplus went back", async || shop.bank.charged(&first).await == (1, 12.5)).await;
    shop.becomes(&again, "confirmed", "paid").await;
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_amount_that_was_charged() {
    let shop = TestShop::open().await;
    for amount in [
        json!({ "currency_code": "EUR", "value": "12.50" }),
        json!({ "currency_code": "USD", "value": "20.00" }),
        json!({ "currency_code": "JPY", "value": "1250" }),
    ] {
        let placed = shop.sell(&shop.sku(1).await).await;
        charge(&shop, &placed, json!({ "amount": amount })).await;
        eventually("all of it went back", async || {
            let sheet = shop.bank.sheet(&placed).await;
            sheet["captures"][0]["status"] == "REFUNDED"
        })
        .await;
        assert_eq!(shop.status(&placed).await.0, "awaiting_payment", "{amount}");
        assert_eq!(count(&shop.timeline(&placed).await, "confirmed"), 0);
        assert_eq!(shop.order(&placed).await["refunds"][0]["reason"], "mismatch", "{amount}");
    }
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_after_the_holds_own_end() {
    let shop = TestShop::open().await;
    for verdict in ["DENIED", "DECLINED"] {
        let sku_id = shop.sku(1).await;
        let (placed, capture_id) = pending(&shop, &sku_id).await;
        shop.later(HOLD + AN_HOUR).await;
        assert_eq!(shop.status(&placed).await, ("awaiting_payment".into(), "pending".into()));
        rule(&shop, &capture_id, verdict).await;
        shop.becomes(&placed, "expired", "unpaid").await;
        assert_eq!(shop.stock(&sku_id).await, (1, 0));
    }
    end(shop).await;
}

/// The order is cancelled, the money comes all the same and goes back; our call hangs, and the webhook tells of the
/// refund first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunded_before_our_reply() {
    let shop = TestShop::with(&[HASTY]).await;
    let sku_id = shop.sku(1).await;
    let (placed, capture_id) = pending(&shop, &sku_id).await;
    shop.post(&placed.path("/cancel"), Value::Null).await.ok();
    shop.bank.fault(json!({ "on": "refund", "kind": "hang_after" })).await;
    trick(&shop, "early", Some("PAYMENT.CAPTURE.REFUNDED"), 1).await;
    rule(&shop, &capture_id, "COMPLETED").await;
    let back = async || shop.status(&placed).await == ("cancelled".into(), "refunded".into());
    hurry(&shop, back, &json!("the money is back")).await;
    heard(&shop).await;
    assert_eq!(shop.bank.charged(&placed).await, (1, 12.5));
    assert_eq!(refunds(&shop, &placed).await, [("12.50".to_owned(), "completed".to_owned())]);
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunded_in_the_providers_dashboard() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let placed = shop.sold(&sku_id).await;
    let refund = format!("captures/{}/refund", only_capture(&shop, &placed).await);
    let part = json!({ "amount": { "currency_code": "USD", "value": "5.00" } });
    shop.bank.control(&refund, part).await;
    shop.becomes(&placed, "confirmed", "partially_refunded").await;
    shop.bank.control(&refund, json!({})).await;
    shop.becomes(&placed, "confirmed", "refunded").await;
    let both = [("5.00".to_owned(), "completed".to_owned()), ("7.50".to_owned(), "completed".to_owned())];
    assert_eq!(refunds(&shop, &placed).await, both);
    assert_eq!(shop.stock(&sku_id).await, (1, 1), "stock is not touched");
    assert_eq!(shop.bank.asked("refund").await, 0);
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunded_before_its_capture_is_known() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(2).await;
    trick(&shop, "drop", Some(CAPTURED), 0).await;

    // all of it: what came and went confirms nothing
    let placed = shop.sell(&sku_id).await;
    let capture_id = charge(&shop, &placed, json!({})).await;
    shop.bank.control(&format!("captures/{capture_id}/refund"), json!({})).await;
    shop.bank.settle().await;
    shop.later(121).await;
    shop.becomes(&placed, "awaiting_payment", "refunded").await;
    assert_eq!(count(&shop.timeline(&placed).await, "confirmed"), 0);

    // some of it, three times, while nobody tells of the charge
    let placed = shop.sell(&sku_id).await;
    let capture_id = charge(&shop, &placed, json!({})).await;
    for value in ["1.00", "2.00", "3.00"] {
        let part = json!({ "amount": { "currency_code": "USD", "value": value } });
        shop.bank.control(&format!("captures/{capture_id}/refund"), part).await;
    }
    shop.bank.settle().await;
    shop.later(121).await;
    eventually("all three are known", async || refunds(&shop, &placed).await.len() >= 3).await;
    shop.bank.forgive().await;
    books_agree(&shop).await;
    heard(&shop).await;
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_while_our_cancel_is_in_flight() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(100).await;
    let mut raced = Vec::new();
    for round in 0..16 {
        let placed = shop.sell(&sku_id).await;
        let cancel = async {
            // a little later each time, so that the two meet at every place of the way
            tokio::time::sleep(Duration::from_millis(round * 3)).await;
            shop.post(&placed.path("/cancel"), Value::Null).await
        };
        let ((), _either_way) = tokio::join!(shop.bank.approve(&placed), cancel);
        raced.push(placed);
    }
    for placed in &raced {
        let over = async || {
            let (status, money) = shop.status(placed).await;
            matches!((status.as_str(), money.as_str()), ("confirmed", "paid") | ("cancelled", "unpaid" | "refunded"))
        };
        hurry(&shop, over, &json!("one of the two has won")).await;
    }
    heard(&shop).await;
    let kept = raced.len() as i64 - shop.count("select count(*) from customer_order where status = 'cancelled'").await;
    assert_eq!(shop.stock(&sku_id).await, (100, kept));
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_capture() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let placed = shop.sell(&sku_id).await;
    let half = json!({ "how": "partial", "amount": { "currency_code": "USD", "value": "5.00" } });
    shop.bank.control(&format!("orders/{}/approve", placed.at_provider()), half).await;
    shop.becomes(&placed, "awaiting_payment", "partially_paid").await;
    assert_eq!(count(&shop.timeline(&placed).await, "confirmed"), 0);
    assert_eq!(shop.bank.charged(&placed).await, (1, 0.0));
    shop.later(HOLD + 1).await;
    shop.becomes(&placed, "expired", "refunded").await;
    assert_eq!(shop.bank.charged(&placed).await, (1, 5.0));
    assert_eq!(shop.stock(&sku_id).await, (1, 0));
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_fails_after_pending() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    shop.bank.control("settings", json!({ "refunds": "pending" })).await;
    let (placed, capture_id) = pending(&shop, &sku_id).await;
    shop.post(&placed.path("/cancel"), Value::Null).await.ok();
    rule(&shop, &capture_id, "COMPLETED").await;
    let taken = async || refunds(&shop, &placed).await == [("12.50".to_owned(), "pending".to_owned())];
    hurry(&shop, taken, &json!("the provider has the refund")).await;
    heard(&shop).await;

    shop.bank.control("settings", json!({ "refunds": "complete" })).await;
    let sheet = shop.bank.sheet(&placed).await;
    let refund_id = sheet["refunds"][0]["id"].as_str().expect("an id");
    shop.bank.control(&format!("refunds/{refund_id}"), json!({ "status": "FAILED" })).await;
    let again = async || shop.status(&placed).await == ("cancelled".into(), "refunded".into());
    passes(&shop, 60, again, "it was opened anew, and has gone through").await;
    let states: Vec<_> = refunds(&shop, &placed).await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states.iter().filter(|state| *state == "completed").count(), 1, "{states:?}");
    assert!(count(&shop.timeline(&placed).await, "refund_failed") >= 1, "{:?}", shop.timeline(&placed).await);
    let sheet = shop.bank.sheet(&placed).await;
    let statuses: Vec<_> = sheet["refunds"].as_array().expect("a list").iter().map(|row| &row["status"]).collect();
    assert_eq!(statuses, ["FAILED", "COMPLETED"]);
    end(shop).await;
}

/// Whether nothing of the order is shipped for now.
async fn is_held(shop: &TestShop, placed: &Placed) -> bool {
    shop.order(placed).await["hold_reason"].is_string()
}

/// The money is gone, so the goods stay: the order is undone. Money that is given back to the shop after all then has
/// nothing to pay for, and goes back to the buyer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reversal() {
    let shop = TestShop::open().await;
    for reason in ["CHARGEBACK", "BUYER_COMPLAINT"] {
        let sku_id = shop.sku(1).await;
        let placed = shop.sold(&sku_id).await;
        let capture_id = only_capture(&shop, &placed).await;
        shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
        shop.bank.control(&format!("captures/{capture_id}/reverse"), json!({ "reason": reason })).await;
        shop.becomes(&placed, "cancelled", "reversed").await;
        heard(&shop).await;
        assert_eq!(count(&shop.timeline(&placed).await, "payment_reversed"), 1);
        assert_eq!(shop.stock(&sku_id).await, (1, 0));
        assert_eq!(shop.bank.asked("refund").await, 0, "the shop gives nothing back itself");
        books_agree(&shop).await;
    }
    // and is given back
    let placed = shop.sold(&shop.sku(1).await).await;
    let capture_id = only_capture(&shop, &placed).await;
    shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    shop.bank.control(&format!("captures/{capture_id}/reverse"), json!({})).await;
    shop.becomes(&placed, "cancelled", "reversed").await;
    shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    shop.bank.control(&format!("captures/{capture_id}/unreverse"), json!({})).await;
    shop.becomes(&placed, "cancelled", "refunded").await;
    heard(&shop).await;
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispute() {
    let shop = TestShop::open().await;
    for (verdict, status, money) in
        [("seller", "confirmed", "paid"), ("withdrawn", "confirmed", "paid"), ("buyer", "cancelled", "reversed")]
    {
        let sku_id = shop.sku(1).await;
        let placed = shop.sold(&sku_id).await;
        let capture_id = only_capture(&shop, &placed).await;
        let opened = shop.bank.control(&format!("captures/{capture_id}/dispute"), json!({})).await;
        let dispute = format!("disputes/{}", opened["dispute_id"].as_str().expect("an id"));
        shop.becomes(&placed, "confirmed", "disputed").await;
        assert!(is_held(&shop, &placed).await, "nothing of it is shipped");

        shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
        shop.bank.control(&dispute, json!({ "status": "UNDER_REVIEW", "stage": "CHARGEBACK" })).await;
        heard(&shop).await;
        assert_eq!(payment_status(&shop, &placed).await, "disputed");
        assert_eq!(shop.stock(&sku_id).await, (1, 1), "nor given to anybody else");

        shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
        shop.bank.control(&dispute, json!({ "resolve": verdict })).await;
        shop.becomes(&placed, status, money).await;
        heard(&shop).await;
        assert_eq!(shop.status(&placed).await, (status.into(), money.into()));
        if verdict != "buyer" {
            assert!(!is_held(&shop, &placed).await, "it may be shipped");
        }
        books_agree(&shop).await;
    }
    end(shop).await;
}

/// The reconciler asks after 2, 10 and 60 minutes, and each time the provider may have more to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_never_arrives() {
    let shop = TestShop::open().await;
    trick(&shop, "drop", None, 0).await;
    // the list of events would tell, too; here it is out of order
    shop.bank.fault(json!({ "on": "events", "kind": "status", "status": 500, "times": 0 })).await;
    let sku_id = shop.sku(2).await;
    let (approved, undecided) = (shop.sell(&sku_id).await, shop.sell(&sku_id).await);
    shop.bank.approve_as(&undecided, "pending").await;
    let asked = shop.bank.asked("inspect").await;
    shop.later(121).await; // 2 minutes
    shop.becomes(&undecided, "awaiting_payment", "pending").await;
    eventually("both were asked about", async || shop.bank.asked("inspect").await >= asked + 2).await;
    shop.all_checked().await;

    shop.bank.approve(&approved).await;
    shop.later(481).await; // 10 minutes
    shop.becomes(&approved, "confirmed", "paid").await;
    shop.all_checked().await;
    assert_eq!(payment_status(&shop, &undecided).await, "pending");

    rule(&shop, &only_capture(&shop, &undecided).await, "COMPLETED").await;
    shop.later(50 * 60 + 1).await; // an hour
    shop.becomes(&undecided, "confirmed", "paid").await;
    sold_once(&shop, &approved).await;
    sold_once(&shop, &undecided).await;
    assert_eq!(shop.count("select count(*) from inbox").await, 0);
    end(shop).await;
}

/// The second path: the provider's own list of events, which also has those whose webhooks were lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_webhook_told_stands_in_the_list() {
    let shop = TestShop::open().await;
    let placed = shop.sold(&shop.sku(1).await).await;
    heard(&shop).await;
    trick(&shop, "drop", None, 0).await;
    let capture_id = only_capture(&shop, &placed).await;
    shop.bank.control(&format!("captures/{capture_id}/refund"), json!({})).await;
    let listed = "select count(*) from inbox where event_type = 'PAYMENT.CAPTURE.REFUNDED'";
    passes(&shop, 60, async || shop.count(listed).await == 1, "it was found in the list").await;
    shop.becomes(&placed, "confirmed", "refunded").await;
    heard(&shop).await;
    assert_eq!(shop.count(listed).await, 1);
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_signature() {
    let shop = TestShop::open().await;
    let placed = shop.sell(&shop.sku(1).await).await;
    shop.bank.control("webhooks/hold", json!({})).await;
    shop.bank.approve(&placed).await;
    trick(&shop, "bad_signature", Some(APPROVED), 1).await;
    shop.bank.control("webhooks/release", json!({})).await;
    let sheet = shop.bank.sheet(&placed).await;
    assert_eq!(sheet["deliveries"][0]["attempts"][0]["answer"], "400", "{sheet}");
    assert!(shop.get("/metrics").await.text.contains(r#"souk_webhooks_total{provider="paypal",outcome="forged"}"#));
    // it is sent again, rightly signed, and only then stored
    shop.becomes(&placed, "confirmed", "paid").await;
    sold_once(&shop, &placed).await;
    end(shop).await;
}

/// Not a row of its own: the buyer approved, nobody charged in time, and the provider takes the approval back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_is_taken_back() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1).await;
    let placed = shop.sell(&sku_id).await;
    shop.bank.control("webhooks/hold", json!({})).await;
    shop.bank.approve(&placed).await;
    shop.bank.control(&format!("orders/{}/expire", placed.at_provider()), json!({})).await;
    shop.bank.control("webhooks/release", json!({ "order": "reversed" })).await;
    heard(&shop).await;
    assert_eq!(shop.status(&placed).await, ("awaiting_payment".into(), "unpaid".into()));
    assert_eq!(shop.bank.charged(&placed).await, (0, 0.0));
    let opened = shop.post(&placed.path("/payments"), json!({ "provider": "paypal" })).await.ok();
    let again = Placed { approve_url: opened["approve_url"].as_str().expect("a page").to_owned(), ..placed.clone() };
    assert_ne!(again.at_provider(), placed.at_provider(), "a dead attempt is not opened again");
    shop.bank.approve(&again).await;
    shop.becomes(&again, "confirmed", "paid").await;
    end(shop).await;
}

/// PayPal is asked whether it signed: forgeries are refused, and while PayPal does not answer webhooks are sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_are_checked_by_asking() {
    let shop = TestShop::with(&[("SOUK_PAYPAL__VERIFICATION", "postback")]).await;
    let sku_id = shop.sku(10).await;
    let placed = shop.sold(&sku_id).await;
    sold_once(&shop, &placed).await;
    assert_eq!(shop.bank.asked("certificate").await, 0);

    for kind in ["bad_signature", "tamper", "wrong_webhook_id", "foreign_ca", "expired_cert", "off_list_cert"] {
        let stored = shop.count("select count(*) from inbox").await;
        let placed = shop.sell(&sku_id).await;
        shop.bank.control("webhooks/hold", json!({})).await;
        shop.bank.approve(&placed).await;
        trick(&shop, kind, None, 0).await;
        shop.bank.control("webhooks/release", json!({})).await;
        let sheet = shop.bank.sheet(&placed).await;
        assert_eq!(sheet["deliveries"][0]["attempts"][0]["answer"], "400", "{kind}: {sheet}");
        assert_eq!(shop.count("select count(*) from inbox").await, stored, "{kind}");
        shop.bank.forgive().await;
        shop.becomes(&placed, "confirmed", "paid").await;
    }

    shop.bank.fault(json!({ "on": "verify", "kind": "status", "status": 503, "times": 2 })).await;
    let placed = shop.sold(&sku_id).await;
    let sheet = shop.bank.sheet(&placed).await;
    assert_eq!(sheet["deliveries"][0]["attempts"][0]["answer"], "503", "{sheet}");
    sold_once(&shop, &placed).await;

    // nor does PayPal's word prove the body: it moves no money
    trick(&shop, "same_crc", Some(CAPTURED), 1).await;
    let placed = shop.sold(&sku_id).await;
    heard(&shop).await;
    sold_once(&shop, &placed).await;
    end(shop).await;
}

/// PayPal signs with a new certificate from one moment to the next. Nobody restarts anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(3).await;
    let before = shop.sold(&sku_id).await;
    let rotated = shop.bank.control("certificates/rotate", json!({})).await;
    let placed = shop.sold(&sku_id).await;
    sold_once(&shop, &placed).await;
    assert_eq!(shop.bank.asked("certificate").await, 2, "one each: {rotated}");
    // what was signed before is still PayPal's
    replay(&shop, &before, None).await;
    heard(&shop).await;
    sold_once(&shop, &before).await;

    // one that has run out by the shop's clock is not believed, and the next one is
    shop.bank.control("certificates/rotate", json!({ "valid_days": 1 })).await;
    shop.later(3 * A_DAY).await;
    let placed = shop.sell(&sku_id).await;
    shop.bank.control("webhooks/hold", json!({})).await;
    shop.bank.approve(&placed).await;
    shop.bank.control("webhooks/release", json!({})).await;
    let sheet = shop.bank.sheet(&placed).await;
    assert_eq!(sheet["deliveries"][0]["attempts"][0]["answer"], "400", "{sheet}");
    shop.bank.control("certificates/rotate", json!({})).await;
    let charged = charge(&shop, &placed, json!({})).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    assert!(!charged.is_empty());
    sold_once(&shop, &placed).await;
    end(shop).await;
}

/// Where a provider takes no decimals, no price has any, and an order is paid to the last yen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn currencies_without_decimals() {
    let shop = TestShop::open().await;
    for currency in ["JPY", "HUF", "TWD"] {
        let with_decimals = json!({ "code": crate::support::shop::fresh("SKU"), "price": "1200.50", "on_hand": 1 });
        let product = json!({ "name": "Lamp", "currency": currency, "skus": [with_decimals] });
        shop.order_staff("/v1/admin/products", product).await.is_problem(422, "invalid");

        let sku_id = shop.sku_at("1200", currency, 3).await;
        let mut wish = paid_basket(&[(&sku_id, 2)]);
        wish["currency"] = json!(currency);
        wish["expected_total"] = json!({ "amount": "2400", "currency": currency });
        let placed = shop.place(wish).await;
        shop.bank.approve(&placed).await;
        shop.becomes(&placed, "confirmed", "paid").await;
        let sheet = shop.bank.sheet(&placed).await;
        assert_eq!(sheet["captures"][0]["amount"], json!({ "currency_code": currency, "value": "2400" }), "{sheet}");

        let part = json!({ "amount": { "currency_code": currency, "value": "900" } });
        shop.bank.control(&format!("captures/{}/refund", only_capture(&shop, &placed).await), part).await;
        shop.becomes(&placed, "confirmed", "partially_refunded").await;
        assert_eq!(refunds(&shop, &placed).await, [("900".to_owned(), "completed".to_owned())]);
    }
    // a currency that nobody charges is refused before anything is held
    let sku_id = shop.sku(1).await;
    let mut wish = basket(&[(&sku_id, 1)]);
    wish["currency"] = json!("XAU");
    let refused = shop.checkout("key", &wish).await;
    refused.is_problem(422, "invalid");
    assert_eq!(shop.stock(&sku_id).await, (1, 0));
    end(shop).await;
}
