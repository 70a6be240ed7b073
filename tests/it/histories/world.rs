//! What goes on around the orders: lines that are bad for a while, and at last everybody who makes up their mind.

use serde_json::{Value, json};
use souk_actors::domain::OrderId;

use super::{Dice, list, minor, text};
use crate::support::shop::TestShop;

/// After so many hours without anything to do the shop has also read what the bank lists and never told.
const QUIET_HOURS: usize = 4;
/// What is open after so many hours stays open for good: longer than any pause between two tries.
const PATIENT_HOURS: usize = 24 * 7;

/// Lines that are bad for a while: webhooks twice, late and lost, calls that fail before and after they were done.
pub(super) async fn trouble(shop: &TestShop, dice: &mut Dice, histories: usize) {
    let some = u32::try_from(histories / 20 + 1).expect("small");
    for kind in ["duplicate", "drop", "duplicate_new", "early"] {
        shop.bank.fault(json!({ "on": "webhook", "kind": kind, "times": some })).await;
    }
    shop.bank.fault(json!({ "on": "webhook", "kind": "delay", "ms": 300, "times": some })).await;
    for kind in ["duplicate", "drop", "early"] {
        shop.bank.control("shippo/faults", json!({ "on": "webhook", "kind": kind, "times": some })).await;
    }
    for on in ["create", "inspect", "capture", "authorize", "capture_authorization", "void", "refund", "dispute"] {
        shop.bank.fault(failure(dice, on)).await;
    }
    for on in ["buy", "inspect", "refund", "track", "shipment"] {
        shop.bank.control("shippo/faults", failure(dice, on)).await;
    }
    shop.bank.control("mail/faults", json!({ "kind": "greylist" })).await;
    let refunds = *dice.pick(&["complete", "pending"]);
    shop.bank.control("settings", json!({ "refunds": refunds })).await;
}

fn failure(dice: &mut Dice, on: &str) -> Value {
    let kind = *dice.pick(&["drop_before", "drop_after", "status", "status_after", "garbage", "html", "hang_after"]);
    let mut rule = json!({ "on": on, "kind": kind, "times": 1 + dice.roll(3) });
    if kind.starts_with("status") {
        rule["status"] = json!(*dice.pick(&[500, 503, 429]));
    }
    rule
}

async fn quiet(shop: &TestShop) {
    shop.bank.forgive().await;
    for path in ["shippo/faults", "mail/faults"] {
        shop.bank.http.delete(format!("{}/_sandbox/{path}", shop.bank.base)).send().await.expect("an answer");
    }
    shop.bank.control("settings", json!({ "refunds": "complete" })).await;
}

/// Whoever has not decided decides.
async fn everybody_decides(shop: &TestShop, dice: &mut Dice) {
    let books = shop.bank.books().await;
    for capture in list(&books, "captures").iter().filter(|row| row["status"] == "PENDING") {
        let status = *dice.pick(&["COMPLETED", "DENIED"]);
        shop.bank.control(&format!("captures/{}/status", text(capture, "id")), json!({ "status": status })).await;
    }
    for authorisation in list(&books, "authorizations").iter().filter(|row| row["status"] == "PENDING") {
        let status = *dice.pick(&["CREATED", "DENIED"]);
        let path = format!("authorizations/{}", text(authorisation, "id"));
        shop.bank.control(&path, json!({ "status": status })).await;
    }
    // of a charge that was taken back the bank lets nobody give anything back: a refund that failed after that could
    // only be paid past it, by a person
    let fought_over = |capture: &Value| {
        minor(&capture["reversed"]) > 0
            || list(&books, "disputes").iter().any(|dispute| dispute["capture_id"] == capture["id"])
    };
    let fought_over: Vec<&Value> = list(&books, "captures").iter().filter(|row| fought_over(row)).collect();
    for refund in list(&books, "refunds").iter().filter(|row| row["status"] == "PENDING") {
        let may_fail = !fought_over.iter().any(|capture| capture["id"] == refund["capture_id"]);
        let status = if may_fail && dice.hits(33) { "FAILED" } else { "COMPLETED" };
        shop.bank.control(&format!("refunds/{}", text(refund, "id")), json!({ "status": status })).await;
    }
    for dispute in list(&books, "disputes").iter().filter(|row| row["status"] != "RESOLVED") {
        let whose = *dice.pick(&["seller", "buyer", "withdrawn"]);
        shop.bank.control(&format!("disputes/{}", text(dispute, "id")), json!({ "resolve": whose })).await;
    }
    let parcels = shop.bank.read("shippo/books").await;
    let open = |row: &&Value| row["status"] == "QUEUED" || row["status"] == "PENDING";
    for refund in list(&parcels, "refunds").iter().filter(open) {
        let status = *dice.pick(&["SUCCESS", "SUCCESS", "ERROR"]);
        let path = format!("shippo/refunds/{}", text(refund, "object_id"));
        shop.bank.control(&path, json!({ "status": status })).await;
    }
}

/// For the bank first: what it notes now must not lie before what the shop has read of its list of events already.
pub(super) async fn time_passes(shop: &TestShop, seconds: i64) {
    shop.bank.control("clock", json!({ "advance_ms": seconds * 1_000 })).await;
    shop.later(seconds).await;
}

/// Time passes until nothing is left to do; what is left for good. The shop's hours are counted, not the machine's: each
/// has all the time it needs for what falls due in it.
pub(super) async fn all_is_done(shop: &TestShop, dice: &mut Dice) -> Vec<String> {
    quiet(shop).await;
    let mut quiet_hours = 0;
    for _ in 0..PATIENT_HOURS {
        everybody_decides(shop, dice).await;
        shop.bank.settle().await;
        assert_eq!(shop.bank.control("shippo/webhooks/settle", json!({})).await["settled"], true);
        time_passes(shop, 3_600).await;
        shop.does_what_is_due().await;
        quiet_hours = if what_is_left(shop).await.is_empty() { quiet_hours + 1 } else { 0 };
        if quiet_hours == QUIET_HOURS {
            break;
        }
    }
    what_is_left(shop).await
}

/// What is open, with the public id of the order that it is of.
async fn what_is_left(shop: &TestShop) -> Vec<String> {
    let mut conn = shop.db.conn().await;
    let sql = "select order_id, concat('task ', kind, ' due ', due_at, ': ', attempts, ' ', last_error)
            from task where state = 'open'
        union all select id, concat('order is ', status) from customer_order
            where status in ('awaiting_payment', 'cancelling')
        union all select order_id, concat('refund of ', amount_minor, ' is ', state) from refund
            where state in ('requested', 'pending')
        union all select order_id, concat('payment is ', state) from payment
            where state in ('capturing', 'pending', 'disputed')
        union all select 0, concat('webhook ', event_type) from inbox where processed_at is null
        union all select order_id, concat('news ', kind) from outbox where state = 'open'";
    let rows: Vec<(OrderId, String)> = sqlx::query_as(sql).fetch_all(&mut conn).await.expect("a question");
    rows.into_iter().map(|(order_id, what)| format!("{order_id}: {what}")).collect()
}
