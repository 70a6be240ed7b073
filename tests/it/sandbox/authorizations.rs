//! Money that is kept ready first and taken later.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Caller, Town, basket, basket_to_authorize, id, read, usd};

const DAY: i64 = 86_400;

impl Caller {
    /// From the basket to the authorization, with an instrument that does this.
    async fn authorize(&self, name: &str, how: &str) -> (String, Value) {
        let (_, order) = self.post("/v2/checkout/orders", &format!("create-{name}"), &basket_to_authorize()).await;
        let order_id = id(&order).to_owned();
        self.control(&format!("orders/{order_id}/approve"), json!({"how": how})).await;
        let path = format!("/v2/checkout/orders/{order_id}/authorize");
        let (status, order) = self.post(&path, &format!("authorize-{name}"), &json!({})).await;
        assert_eq!((status, &order["status"]), (201, &json!("COMPLETED")), "{order}");
        (order_id, order["purchase_units"][0]["payments"]["authorizations"][0].clone())
    }
}

/// Paths of an authorization.
struct Paths {
    show: String,
    capture: String,
    void: String,
    renew: String,
}

fn paths(authorization: &Value) -> Paths {
    let show = format!("/v2/payments/authorizations/{}", id(authorization));
    let below = |action: &str| format!("{show}/{action}");
    Paths { capture: below("capture"), void: below("void"), renew: below("reauthorize"), show }
}

#[tokio::test]
async fn an_authorization_is_captured_in_parts_up_to_its_allowance() {
    let town = Town::new().await;
    let caller = &town.caller;
    caller.hold().await;
    let (order_id, authorization) = caller.authorize("a", "complete").await;
    assert_eq!((&authorization["status"], &authorization["amount"]), (&json!("CREATED"), &usd("30.00")));
    assert_eq!(caller.money("order-1").await["authorized"], json!({"USD": 3000}));
    let paths = paths(&authorization);
    assert_eq!(caller.get(&paths.show).await, authorization);

    let part = json!({"amount": usd("10.00"), "invoice_id": "INV-7"});
    let (status, capture) = caller.post(&paths.capture, "1", &part).await;
    assert_eq!((status, &capture["status"], &capture["final_capture"]), (201, &json!("COMPLETED"), &json!(false)));
    assert_eq!(capture["invoice_id"], "INV-7");
    let related = json!({"order_id": order_id, "authorization_id": id(&authorization)});
    assert_eq!(capture["supplementary_data"]["related_ids"], related);
    assert_eq!(capture["links"][2]["href"], format!("{}{}", caller.base, paths.show));
    assert_eq!(caller.post(&paths.capture, "1", &part).await, (200, capture.clone()), "the same call again");
    assert_eq!(caller.get(&paths.show).await["status"], "PARTIALLY_CAPTURED");

    let refused = async |amount: Value| caller.refused(&paths.capture, "x", &json!({"amount": amount})).await;
    assert_eq!(refused(usd("24.51")).await, (422, "MAX_CAPTURE_AMOUNT_EXCEEDED".into()), "115 % is 34.50");
    let euros = json!({"currency_code": "EUR", "value": "1.00"});
    assert_eq!(refused(euros).await, (422, "AUTH_CAPTURE_CURRENCY_MISMATCH".into()));
    assert_eq!(refused(usd("0.00")).await, (422, "CANNOT_BE_ZERO_OR_NEGATIVE".into()));

    let last = json!({"amount": usd("24.50"), "final_capture": true});
    assert_eq!(caller.post(&paths.capture, "2", &last).await.0, 201);
    assert_eq!(caller.get(&paths.show).await["status"], "CAPTURED");
    assert_eq!(refused(usd("1.00")).await, (422, "AUTHORIZATION_ALREADY_CAPTURED".into()));
    assert_eq!(caller.refused(&paths.void, "v", &json!({})).await, (422, "PREVIOUSLY_CAPTURED".into()));

    let order = caller.get(&format!("/v2/checkout/orders/{order_id}")).await;
    let payments = &order["purchase_units"][0]["payments"];
    assert_eq!(payments["captures"].as_array().map(Vec::len), Some(2));
    assert_eq!(payments["authorizations"][0]["status"], "CAPTURED");
    let money = caller.money("order-1").await;
    assert_eq!((&money["captured"], &money["authorized"]), (&json!({"USD": 3450}), &json!({})));
    caller.release().await;
    let told = town.merchant.event_types();
    let captured = "PAYMENT.CAPTURE.COMPLETED";
    assert_eq!(told, ["CHECKOUT.ORDER.APPROVED", "PAYMENT.AUTHORIZATION.CREATED", captured, captured]);
}

#[tokio::test]
async fn an_order_is_captured_or_authorized_as_it_was_meant() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (order_id, _) = caller.authorize("a", "complete").await;
    let mismatch = (422, "ACTION_DOES_NOT_MATCH_INTENT".to_owned());
    let order = format!("/v2/checkout/orders/{order_id}");
    assert_eq!(caller.refused(&format!("{order}/capture"), "c", &json!({})).await, mismatch);
    let again = caller.refused(&format!("{order}/authorize"), "other", &json!({})).await;
    assert_eq!(again, (422, "ORDER_ALREADY_AUTHORIZED".into()));
    assert_eq!(caller.post(&format!("{order}/authorize"), "authorize-a", &json!({})).await.0, 200);

    let order_id = caller.create("b").await;
    caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
    let path = format!("/v2/checkout/orders/{order_id}/authorize");
    assert_eq!(caller.refused(&path, "b", &json!({})).await, mismatch);

    let mut two_units = basket_to_authorize();
    let mut second = two_units["purchase_units"][0].clone();
    two_units["purchase_units"][0]["reference_id"] = json!("one");
    second["reference_id"] = json!("two");
    two_units["purchase_units"].as_array_mut().expect("a list").push(second);
    let refused = caller.refused("/v2/checkout/orders", "two", &two_units).await;
    assert_eq!(refused, (422, "UNSUPPORTED_INTENT".into()));
    assert_eq!(basket()["intent"], "CAPTURE");
}

#[tokio::test]
async fn an_authorization_comes_to_what_the_buyers_bank_says() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (_, denied) = caller.authorize("denied", "capture").await;
    assert_eq!(denied["status"], "DENIED");
    let refused = caller.refused(&paths(&denied).capture, "c", &json!({})).await;
    assert_eq!(refused, (422, "AUTHORIZATION_DENIED".into()));

    let (_, pending) = caller.authorize("pending", "pending").await;
    assert_eq!(
        (&pending["status"], &pending["status_details"]["reason"]),
        (&json!("PENDING"), &json!("PENDING_REVIEW"))
    );
    let refused = caller.refused(&paths(&pending).capture, "c", &json!({})).await;
    assert_eq!(refused, (422, "TRANSACTION_REFUSED".into()));
    let decide = format!("authorizations/{}", id(&pending));
    assert_eq!(caller.control(&decide, json!({"status": "CREATED"})).await["status"], "CREATED");
    caller.control(&format!("{decide}/captures"), json!({"how": "pending"})).await;
    let (_, capture) = caller.post(&paths(&pending).capture, "c", &json!({})).await;
    assert_eq!((&capture["status"], &capture["status_details"]["reason"]), (&json!("PENDING"), &json!("ECHECK")));

    let ruling = format!("captures/{}/status", id(&capture));
    caller.control(&ruling, json!({"status": "DENIED"})).await;
    assert_eq!(caller.get(&paths(&pending).show).await["status"], "CREATED", "it can be captured again");
    assert_eq!(caller.control(&decide, json!({"status": "DENIED"})).await["status"], "DENIED");

    let (_, partial) = caller.authorize("partial", "partial").await;
    assert_eq!(partial["amount"], usd("15.00"));
    let order = caller.post("/v2/checkout/orders", "refused", &basket_to_authorize()).await.1;
    caller.control(&format!("orders/{}/decline", id(&order)), json!({})).await;
    let path = format!("/v2/checkout/orders/{}/authorize", id(&order));
    assert_eq!(caller.refused(&path, "r", &json!({})).await, (422, "INSTRUMENT_DECLINED".into()));
    caller.settle().await;
    assert_eq!(town.merchant.last("PAYMENT.AUTHORIZATION.VOIDED")["resource"]["id"], id(&pending));
}

#[tokio::test]
async fn an_authorization_is_let_go_of() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (_, authorization) = caller.authorize("a", "complete").await;
    let paths = paths(&authorization);
    caller.post(&paths.capture, "1", &json!({"amount": usd("10.00")})).await;
    let (status, voided) = caller.post(&paths.void, "v", &json!({})).await;
    assert_eq!((status, &voided["status"]), (200, &json!("VOIDED")));
    assert_eq!(caller.refused(&paths.void, "v2", &json!({})).await, (422, "PREVIOUSLY_VOIDED".into()));
    assert_eq!(caller.refused(&paths.capture, "2", &json!({})).await, (422, "AUTHORIZATION_VOIDED".into()));
    let money = caller.money("order-1").await;
    assert_eq!((&money["captured"], &money["authorized"]), (&json!({"USD": 1000}), &json!({})));

    let (_, other) = caller.authorize("b", "complete").await;
    let path = format!("{}/v2/payments/authorizations/{}/void", caller.base, id(&other));
    let response = caller.http.post(path).bearer_auth(&caller.token).send().await.expect("an answer");
    assert_eq!(response.status(), 204, "with the least that can be said");
    assert_eq!(read(response).await, Value::String(String::new()));
    caller.settle().await;
    assert_eq!(town.merchant.last("PAYMENT.AUTHORIZATION.VOIDED")["resource"]["id"], id(&other));
}

#[tokio::test]
async fn an_authorization_expires_after_29_days_by_itself() {
    let mut town = Town::new().await;
    let (_, authorization) = town.caller.authorize("a", "complete").await;
    let paths = paths(&authorization);
    town.caller.wait(29 * DAY - 60).await;
    town.caller.settle().await;
    assert_eq!(town.caller.get(&paths.show).await["status"], "CREATED");

    town.caller.wait(60).await;
    crate::support::eventually("it is told", async || {
        town.merchant.event_types().last().is_some_and(|last| last == "PAYMENT.AUTHORIZATION.VOIDED")
    })
    .await;
    assert_eq!(town.caller.get(&paths.show).await["status"], "VOIDED");
    let refused = town.caller.refused(&paths.capture, "late", &json!({})).await;
    assert_eq!(refused, (422, "AUTHORIZATION_EXPIRED".into()));
    assert_eq!(town.caller.summary().await["authorized"], json!({"USD": 0}));
}

#[tokio::test]
async fn an_authorization_is_renewed_once_after_its_honour_period() {
    let mut town = Town::new().await;
    let (order_id, authorization) = town.caller.authorize("a", "complete").await;
    let first = paths(&authorization);
    let too_soon = town.caller.refused(&first.renew, "r", &json!({})).await;
    assert_eq!(too_soon, (422, "REAUTHORIZATION_NOT_SUPPORTED".into()));

    town.caller.wait(4 * DAY).await;
    let caller = &town.caller;
    let euros = json!({"amount": {"currency_code": "EUR", "value": "30.00"}});
    assert_eq!(caller.refused(&first.renew, "r", &euros).await, (422, "AUTH_CURRENCY_MISMATCH".into()));
    let (status, renewed) = caller.post(&first.renew, "renew", &json!({"amount": usd("30.00")})).await;
    assert_eq!((status, &renewed["expiration_time"]), (201, &authorization["expiration_time"]), "no longer in all");
    assert_eq!(caller.post(&first.renew, "renew", &json!({})).await, (200, renewed.clone()));
    let second = paths(&renewed);
    let once = (422, "REAUTHORIZATION_NOT_SUPPORTED".to_owned());
    assert_eq!(caller.refused(&first.renew, "other", &json!({})).await, once);
    assert_eq!(caller.refused(&second.renew, "other", &json!({})).await, once);
    assert_eq!(caller.refused(&second.void, "v", &json!({})).await, (422, "CANNOT_BE_VOIDED".into()));
    assert_eq!(caller.summary().await["authorized"], json!({"USD": 3000}), "it is the same money");

    assert_eq!(caller.post(&second.capture, "1", &json!({})).await.0, 201);
    assert_eq!(caller.refused(&first.capture, "2", &json!({})).await.1, "AUTHORIZATION_ALREADY_CAPTURED");
    let order =
        read(caller.call(Method::GET, &format!("/v2/checkout/orders/{order_id}")).send().await.expect("it")).await;
    let both = order["purchase_units"][0]["payments"]["authorizations"].as_array().expect("a list").clone();
    assert!(both.len() == 2 && both.iter().all(|one| one["status"] == "CAPTURED"), "{both:?}");
}

#[tokio::test]
async fn an_authorization_survives_a_restart() {
    let town = Town::new().await;
    let (_, authorization) = town.caller.authorize("a", "complete").await;
    let path = paths(&authorization).capture;
    let (_, capture) = town.caller.post(&path, "1", &json!({"amount": usd("10.00")})).await;
    let Town { dir, sandbox, caller, .. } = town;
    sandbox.stop().await;
    let sandbox = souk::sandbox::start(super::settings(dir.path(), "http://127.0.0.1:9/nobody")).await.expect("again");
    let caller = Caller { base: format!("http://{}", sandbox.addr), ..caller };
    assert_eq!(caller.post(&path, "1", &json!({"amount": usd("10.00")})).await.1["id"], capture["id"]);
    let money = caller.money("order-1").await;
    assert_eq!((&money["captured"], &money["authorized"]), (&json!({"USD": 1000}), &json!({"USD": 2000})));
}
