//! The buyer does not agree, or PayPal takes the money back by itself.

use serde_json::{Value, json};

use super::{Caller, Town, id, read, usd};

impl Caller {
    async fn dispute(&self, capture: &Value, complaint: Value) -> String {
        let opened = self.control(&format!("captures/{}/dispute", id(capture)), complaint).await;
        opened["dispute_id"].as_str().expect("an id").to_owned()
    }

    async fn capture_now(&self, capture: &Value) -> Value {
        self.get(&format!("/v2/payments/captures/{}", id(capture))).await
    }
}

#[tokio::test]
async fn a_dispute_is_opened_goes_on_and_the_merchant_reads_it() {
    let town = Town::new().await;
    let caller = &town.caller;
    caller.hold().await;
    let (order_id, capture) = caller.pay("a").await;
    let dispute_id = caller.dispute(&capture, json!({"amount": usd("12.00")})).await;
    assert!(dispute_id.starts_with("PP-D-"), "{dispute_id}");
    let path = format!("/v1/customer/disputes/{dispute_id}");
    let dispute = caller.get(&path).await;
    assert_eq!(dispute["disputed_transactions"][0]["seller_transaction_id"], capture["id"]);
    assert_eq!(dispute["disputed_transactions"][0]["custom"], "order-1");
    assert_eq!((&dispute["status"], &dispute["dispute_amount"]), (&json!("OPEN"), &usd("12.00")));
    assert_eq!(dispute["dispute_life_cycle_stage"], "INQUIRY");
    assert_eq!(caller.capture_now(&capture).await["status"], "COMPLETED", "the money is where it was");

    let turn = json!({"status": "WAITING_FOR_SELLER_RESPONSE", "stage": "CHARGEBACK"});
    caller.control(&format!("disputes/{dispute_id}"), turn).await;
    let moved = caller.get(&path).await;
    assert_eq!(
        (&moved["status"], &moved["dispute_life_cycle_stage"]),
        (&json!("WAITING_FOR_SELLER_RESPONSE"), &json!("CHARGEBACK"))
    );
    caller.release().await;
    let told = town.merchant.event_types();
    assert_eq!(told[2..], ["CUSTOMER.DISPUTE.CREATED", "CUSTOMER.DISPUTE.UPDATED"]);
    let event = town.merchant.last("CUSTOMER.DISPUTE.UPDATED");
    assert_eq!((&event["resource_type"], &event["resource"]), (&json!("dispute"), &moved));

    let (_, other) = caller.pay("b").await;
    caller.dispute(&other, json!({"reason": "UNAUTHORISED"})).await;
    let list = caller.get(&format!("/v1/customer/disputes?disputed_transaction_id={}", id(&capture))).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["items"][0]["dispute_id"], dispute_id);
    let first = caller.get("/v1/customer/disputes?page_size=1").await;
    let next = first["links"][1]["href"].as_str().expect("a next page").strip_prefix(&caller.base).expect("its own");
    assert_eq!(caller.get(next).await["items"][0]["dispute_id"], dispute_id);
    let sheet = caller.http.get(format!("{}/_sandbox/orders/{order_id}", caller.base)).send().await.expect("it");
    assert_eq!(read(sheet).await["disputes"][0]["id"], dispute_id);
}

#[tokio::test]
async fn a_dispute_that_the_buyer_wins_takes_the_money() {
    let town = Town::new().await;
    let caller = &town.caller;
    for (name, stage, reason) in [("a", "INQUIRY", "BUYER_COMPLAINT"), ("b", "CHARGEBACK", "CHARGEBACK")] {
        caller.hold().await;
        let (_, capture) = caller.pay(name).await;
        let dispute_id = caller.dispute(&capture, json!({"stage": stage})).await;
        let path = format!("disputes/{dispute_id}");
        let dispute = caller.control(&path, json!({"resolve": "buyer"})).await;
        assert_eq!(
            (&dispute["status"], &dispute["dispute_outcome"]["outcome_code"]),
            (&json!("RESOLVED"), &json!("RESOLVED_BUYER_FAVOUR"))
        );
        let now = caller.capture_now(&capture).await;
        assert_eq!((&now["status"], &now["status_details"]["reason"]), (&json!("REFUNDED"), &json!(reason)));
        let refund = caller.refused(&format!("/v2/payments/captures/{}/refund", id(&capture)), "r", &json!({})).await;
        assert_eq!(refund, (422, "REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK".into()));

        caller.release().await;
        let [.., reversed, resolved] = &town.merchant.inbox()[..] else { unreachable!("there are more") };
        let (reversed, resolved) = (reversed.event(), resolved.event());
        assert_eq!(
            (&reversed["event_type"], &reversed["resource_type"]),
            (&json!("PAYMENT.CAPTURE.REVERSED"), &json!("refund"))
        );
        let up = format!("{}/v2/payments/captures/{}", caller.base, id(&capture));
        assert_eq!(reversed["resource"]["links"][1]["href"], up);
        assert_eq!(resolved["event_type"], "CUSTOMER.DISPUTE.RESOLVED");
        let again = caller.http.post(format!("{}/_sandbox/{path}", caller.base)).json(&json!({"resolve": "seller"}));
        assert_eq!(again.send().await.expect("an answer").status(), 422, "it is over");
    }
    let money = caller.money("order-1").await;
    assert_eq!(
        (&money["captured"], &money["reversed"], &money["kept"]),
        (&json!({"USD": 6000}), &json!({"USD": 6000}), &json!({"USD": 0}))
    );
    assert_eq!(money["refunded"], json!({}), "the merchant has given nothing back");
}

#[tokio::test]
async fn a_reversal_is_won_back() {
    let town = Town::new().await;
    let caller = &town.caller;
    caller.hold().await;
    let (order_id, capture) = caller.pay("a").await;
    let dispute_id = caller.dispute(&capture, json!({"stage": "CHARGEBACK"})).await;
    let reversal = caller.control(&format!("captures/{}/reverse", id(&capture)), json!({})).await;
    assert_eq!((&reversal["status"], &reversal["amount"]), (&json!("COMPLETED"), &usd("30.00")));
    let order = caller.get(&format!("/v2/checkout/orders/{order_id}")).await;
    assert_eq!(order["purchase_units"][0]["payments"]["refunds"][0], reversal);

    caller.control(&format!("disputes/{dispute_id}"), json!({"resolve": "seller"})).await;
    let now = caller.capture_now(&capture).await;
    assert_eq!((&now["status"], now.get("status_details")), (&json!("COMPLETED"), None));
    let undone = caller.get(&format!("/v2/payments/refunds/{}", id(&reversal))).await;
    assert_eq!(undone["status"], "CANCELLED");
    assert_eq!(caller.money("order-1").await["kept"], json!({"USD": 3000}));
    caller.release().await;
    let told = town.merchant.event_types();
    assert_eq!(told[4..], ["PAYMENT.CAPTURE.COMPLETED", "CUSTOMER.DISPUTE.RESOLVED"]);

    caller.control(&format!("captures/{}/reverse", id(&capture)), json!({"amount": usd("10.00")})).await;
    assert_eq!(caller.capture_now(&capture).await["status"], "PARTIALLY_REFUNDED");
    caller.control(&format!("captures/{}/unreverse", id(&capture)), json!({})).await;
    assert_eq!(caller.summary().await["reversed"], json!({"USD": 0}));
}

#[tokio::test]
async fn what_one_dispute_has_cost_another_one_does_not_bring_back() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (_, capture) = caller.pay("a").await;
    let (lost, won) = (caller.dispute(&capture, json!({})).await, caller.dispute(&capture, json!({})).await);
    caller.control(&format!("disputes/{lost}"), json!({"resolve": "buyer"})).await;
    caller.control(&format!("disputes/{won}"), json!({"resolve": "seller"})).await;
    assert_eq!(caller.money("order-1").await["kept"], json!({"USD": 0}));
    let path = format!("{}/_sandbox/captures/{}/unreverse", caller.base, id(&capture));
    let answer = caller.http.post(path).json(&json!({})).send().await.expect("an answer");
    assert_eq!(answer.status(), 422, "the buyer has it for good");
}

#[tokio::test]
async fn a_disputed_capture_is_refunded_whole_or_not_at_all() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (_, capture) = caller.pay("a").await;
    let dispute_id = caller.dispute(&capture, json!({})).await;
    let path = format!("/v2/payments/captures/{}/refund", id(&capture));
    let part = json!({"amount": usd("5.00")});
    assert_eq!(caller.refused(&path, "1", &part).await, (422, "TRANSACTION_DISPUTED".into()));
    let by_hand = caller.control(&format!("captures/{}/refund", id(&capture)), part).await;
    assert_eq!(by_hand["status"], "COMPLETED", "on PayPal's own pages it goes");
    assert_eq!(caller.post(&path, "2", &json!({"amount": usd("25.00")})).await.0, 201, "that is all that is left");
    caller.control(&format!("disputes/{dispute_id}"), json!({"resolve": "buyer"})).await;
    assert_eq!(caller.money("order-1").await["reversed"], json!({}), "nothing is left to be taken");
}
