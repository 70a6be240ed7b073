//! Refunds that take their time, or fail.

use serde_json::{Value, json};

use super::{Town, id, usd};

#[tokio::test]
async fn a_refund_pends_and_is_decided() {
    let town = Town::new().await;
    let caller = &town.caller;
    caller.control("settings", json!({"refunds": "pending"})).await;
    let outcomes = [
        ("COMPLETED", "PAYMENT.CAPTURE.REFUNDED", 1000),
        ("FAILED", "PAYMENT.REFUND.FAILED", 0),
        ("CANCELLED", "PAYMENT.REFUND.FAILED", 0),
    ];
    for (status, event_type, refunded) in outcomes {
        let (_, capture) = caller.pay(status).await;
        let path = format!("/v2/payments/captures/{}/refund", id(&capture));
        let (code, refund) = caller.post(&path, "1", &json!({"amount": usd("10.00")})).await;
        assert_eq!((code, &refund["status"]), (201, &json!("PENDING")));
        assert_eq!(refund["status_details"]["reason"], "ECHECK");
        let too_much = caller.refused(&path, "2", &json!({"amount": usd("20.01")})).await;
        assert_eq!(too_much, (422, "REFUND_AMOUNT_EXCEEDED".into()), "what is under way counts");
        let before = caller.summary().await;

        let decided = caller.control(&format!("refunds/{}", id(&refund)), json!({"status": status})).await;
        assert_eq!(decided["status"], status);
        assert_eq!(caller.get(&format!("/v2/payments/refunds/{}", id(&refund))).await, decided);
        let after = caller.summary().await;
        let moved =
            |field: &str| after[field]["USD"].as_i64().unwrap_or(0) - before[field]["USD"].as_i64().unwrap_or(0);
        assert_eq!((moved("refunded"), moved("refunds_pending")), (refunded, -1000), "{status}");
        caller.settle().await;
        let event = town.merchant.last(event_type);
        assert_eq!((&event["resource"]["id"], &event["resource"]["status"]), (&refund["id"], &json!(status)));

        let (_, rest) = caller.post(&path, "3", &json!({})).await;
        let left = if refunded == 0 { "30.00" } else { "20.00" };
        assert_eq!(rest["amount"], usd(left), "a failed refund gives its amount back");
    }
    assert_eq!(town.merchant.last("PAYMENT.REFUND.PENDING")["resource_type"], "refund");
}

#[tokio::test]
async fn a_failed_refund_comes_to_life_again_only_if_there_is_room() {
    let town = Town::new().await;
    let caller = &town.caller;
    caller.control("settings", json!({"refunds": "failed"})).await;
    let (_, capture) = caller.pay("a").await;
    let path = format!("/v2/payments/captures/{}/refund", id(&capture));
    let (_, failed) = caller.post(&path, "1", &json!({"amount": usd("20.00")})).await;
    assert_eq!(failed["status"], "FAILED");
    assert_eq!(caller.get(&format!("/v2/payments/captures/{}", id(&capture))).await["status"], "COMPLETED");
    caller.control("settings", json!({"refunds": "complete"})).await;
    let (_, second) = caller.post(&path, "2", &json!({"amount": usd("20.00")})).await;
    assert_eq!(second["seller_payable_breakdown"]["total_refunded_amount"], usd("20.00"));
    let revive = caller.http.post(format!("{}/_sandbox/refunds/{}", caller.base, id(&failed)));
    let answer = revive.json(&json!({"status": "COMPLETED"})).send().await.expect("an answer");
    assert_eq!(answer.status(), 422);
    assert_eq!(caller.money("order-1").await["kept"], json!({"USD": 1000}));
}

#[tokio::test]
async fn a_refund_is_refused_when_it_is_too_late_and_as_scripted() {
    let mut town = Town::new().await;
    let (_, capture) = town.caller.pay("a").await;
    let path = format!("/v2/payments/captures/{}/refund", id(&capture));
    for issue in ["REFUND_FAILED_INSUFFICIENT_FUNDS", "MAX_NUMBER_OF_REFUNDS_EXCEEDED", "PARTIAL_REFUND_NOT_ALLOWED"] {
        town.caller.control("faults", json!({"on": "refund", "kind": "issue", "issue": issue})).await;
        assert_eq!(town.caller.refused(&path, "1", &json!({})).await, (422, issue.into()));
    }
    town.caller.wait(180 * 86_400).await;
    let late = town.caller.refused(&path, "2", &json!({})).await;
    assert_eq!(late, (422, "REFUND_TIME_LIMIT_EXCEEDED".into()));
    let by_hand = town.caller.control(&format!("captures/{}/refund", id(&capture)), json!({})).await;
    assert_eq!(by_hand["status"], "COMPLETED");
}

#[tokio::test]
async fn a_key_of_a_payment_is_kept_for_45_days() {
    let mut town = Town::new().await;
    let (_, capture) = town.caller.pay("a").await;
    let path = format!("/v2/payments/captures/{}/refund", id(&capture));
    let five = json!({"amount": usd("5.00")});
    let (_, first) = town.caller.post(&path, "key", &five).await;
    town.caller.wait(45 * 86_400 - 60).await;
    assert_eq!(town.caller.post(&path, "key", &five).await, (200, first.clone()));
    town.caller.wait(120).await;
    let (status, second) = town.caller.post(&path, "key", &five).await;
    assert_eq!(status, 201, "then it is forgotten");
    assert_ne!(second["id"], first["id"]);
    assert_eq!(town.caller.post(&path, "key", &five).await.1["id"], second["id"], "and the newest is remembered");
}

#[tokio::test]
async fn the_dashboard_gives_back_in_any_state() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (_, capture) = caller.pay("a").await;
    let path = format!("captures/{}/refund", id(&capture));
    let wish = json!({"amount": usd("5.00"), "status": "PENDING", "note_to_payer": "Sorry"});
    let refund: Value = caller.control(&path, wish).await;
    assert_eq!((&refund["status"], &refund["note_to_payer"]), (&json!("PENDING"), &json!("Sorry")));
    let money = caller.money("order-1").await;
    assert_eq!((&money["refunds_pending"], &money["kept"]), (&json!({"USD": 500}), &json!({"USD": 3000})));
}
