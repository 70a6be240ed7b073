//! Orders that are changed, charged by hand, paid in part, or forgotten; parcels that PayPal is told of.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Caller, Town, basket, id, read, usd};

const UNIT: &str = "/purchase_units/@reference_id=='default'";

impl Caller {
    async fn patch(&self, path: &str, operations: Value) -> (u16, Value) {
        let request = self.call(Method::PATCH, path).body(operations.to_string());
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), read(response).await)
    }
}

#[tokio::test]
async fn an_order_is_patched_and_must_still_add_up() {
    let town = Town::new().await;
    let caller = &town.caller;
    let order_id = caller.create("a").await;
    let path = format!("/v2/checkout/orders/{order_id}");
    let amount = json!({"currency_code": "USD", "value": "28.00", "breakdown": {
        "item_total": usd("25.00"), "shipping": usd("3.00"),
    }});
    let operations = json!([
        {"op": "replace", "path": format!("{UNIT}/amount"), "value": amount},
        {"op": "replace", "path": format!("{UNIT}/custom_id"), "value": "order-2"},
        {"op": "remove", "path": format!("{UNIT}/description")},
        {"op": "add", "path": format!("{UNIT}/shipping/name"), "value": {"full_name": "Ann Lee"}},
        {"op": "test", "path": format!("{UNIT}/invoice_id"), "value": "INV-1"},
    ]);
    assert_eq!(caller.patch(&path, operations).await, (204, json!("")));
    let unit = caller.get(&path).await["purchase_units"][0].clone();
    assert_eq!((&unit["amount"]["value"], &unit["custom_id"]), (&json!("28.00"), &json!("order-2")));
    assert_eq!((unit.get("description"), &unit["shipping"]["name"]["full_name"]), (None, &json!("Ann Lee")));

    let refusals = [
        (json!({"op": "replace", "path": format!("{UNIT}/amount"), "value": usd("1.00")}), 422, "ITEM_TOTAL_REQUIRED"),
        (
            json!({"op": "replace", "path": format!("{UNIT}/soft_descriptor"), "value": "X"}),
            400,
            "INVALID_PATCH_OPERATION",
        ),
        (json!({"op": "add", "path": format!("{UNIT}/custom_id"), "value": "X"}), 400, "INVALID_PATCH_OPERATION"),
        (json!({"op": "replace", "path": format!("{UNIT}/reference_id"), "value": "X"}), 422, "NOT_PATCHABLE"),
        (json!({"op": "replace", "path": "/purchase_units/0", "value": {}}), 422, "INVALID_JSON_POINTER_FORMAT"),
        (
            json!({"op": "replace", "path": "/purchase_units/@reference_id=='x'/amount", "value": {}}),
            422,
            "REFERENCE_ID_NOT_FOUND",
        ),
        (json!({"op": "replace", "path": format!("{UNIT}/custom_id")}), 422, "PATCH_VALUE_REQUIRED"),
        (json!({"op": "replace", "value": 1}), 422, "PATCH_PATH_REQUIRED"),
        (json!({"op": "test", "path": format!("{UNIT}/invoice_id"), "value": "X"}), 400, "INVALID_PATCH_OPERATION"),
        (json!({"op": "move", "path": format!("{UNIT}/custom_id")}), 422, "UNSUPPORTED_PATCH_PARAMETER_VALUE"),
        (json!({"op": "replace", "path": "/intent", "value": "GIFT"}), 400, "INVALID_PARAMETER_VALUE"),
    ];
    let before = caller.get(&path).await;
    for (operation, status, issue) in refusals {
        let first = json!({"op": "replace", "path": format!("{UNIT}/invoice_id"), "value": "INV-9"});
        let (answered, problem) = caller.patch(&path, json!([first, operation])).await;
        assert_eq!((answered, &problem["details"][0]["issue"]), (status, &json!(issue)), "{operation}");
    }
    assert_eq!(caller.get(&path).await, before, "all operations or none");

    caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
    let mut more = before["purchase_units"][0]["amount"].clone();
    more["value"] = json!("29.00");
    more["breakdown"]["shipping"] = usd("4.00");
    let raise = json!([{"op": "replace", "path": format!("{UNIT}/amount"), "value": more}]);
    let (_, problem) = caller.patch(&path, raise).await;
    assert_eq!(problem["details"][0]["issue"], "AMOUNT_CHANGE_NOT_ALLOWED", "the buyer has agreed to less");
    assert_eq!(caller.capture(&order_id, "c").await.1["purchase_units"][0]["amount"]["value"], "28.00");
    let late = json!([{"op": "replace", "path": format!("{UNIT}/custom_id"), "value": "X"}]);
    assert_eq!(caller.patch(&path, late).await.1["details"][0]["issue"], "ORDER_ALREADY_COMPLETED");
}

#[tokio::test]
async fn somebody_charges_by_hand_also_a_second_time() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (order_id, _) = caller.pay("a").await;
    let by_hand = format!("orders/{order_id}/capture");
    let second = caller.control(&by_hand, json!({})).await;
    assert_eq!((&second["status"], &second["amount"]), (&json!("COMPLETED"), &usd("30.00")));
    let yen = json!({"amount": {"currency_code": "JPY", "value": "100"}, "status": "PENDING"});
    assert_eq!(caller.control(&by_hand, yen).await["status"], "PENDING");
    let order = caller.get(&format!("/v2/checkout/orders/{order_id}")).await;
    assert_eq!(order["purchase_units"][0]["payments"]["captures"].as_array().map(Vec::len), Some(3));
    assert_eq!(caller.money("order-1").await["captured"], json!({"USD": 6000}));
    caller.settle().await;
    assert_eq!(town.merchant.last("PAYMENT.CAPTURE.COMPLETED")["resource"]["id"], second["id"]);

    let order_id = caller.create("b").await;
    caller.control(&format!("orders/{order_id}/capture"), json!({"amount": usd("1.00")})).await;
    assert_eq!(caller.get(&format!("/v2/checkout/orders/{order_id}")).await["status"], "COMPLETED");
    assert_eq!(caller.capture(&order_id, "c").await.1["details"][0]["issue"], "ORDER_ALREADY_CAPTURED");
}

#[tokio::test]
async fn a_part_of_the_money_comes() {
    let town = Town::new().await;
    let caller = &town.caller;
    for (name, approval, value) in
        [("a", json!({"how": "partial"}), "15.00"), ("b", json!({"how": "partial", "amount": usd("29.99")}), "29.99")]
    {
        let order_id = caller.create(name).await;
        caller.control(&format!("orders/{order_id}/approve"), approval).await;
        let (status, order) = caller.capture(&order_id, name).await;
        let capture = &order["purchase_units"][0]["payments"]["captures"][0];
        assert_eq!((status, &capture["amount"], &capture["final_capture"]), (201, &usd(value), &json!(false)));
    }
}

#[tokio::test]
async fn an_order_that_nobody_captures_is_forgotten() {
    let town = Town::new().await;
    let caller = &town.caller;
    let order_id = caller.create("a").await;
    caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
    let expired = caller.control(&format!("orders/{order_id}/expire"), json!({})).await;
    assert_eq!(expired["status"], "VOIDED");
    assert_eq!(caller.capture(&order_id, "c").await.1["details"][0]["issue"], "ORDER_EXPIRED");
    caller.settle().await;
    let event = town.merchant.last("CHECKOUT.PAYMENT-APPROVAL.REVERSED");
    assert_eq!((&event["resource"]["order_id"], event.get("resource_type")), (&json!(order_id), None));
    assert_eq!(event["resource"]["purchase_units"][0]["custom_id"], "order-1");
    assert_eq!(caller.summary().await["captures"], 0);
}

#[tokio::test]
async fn an_order_is_confirmed_with_the_wallet_afterwards() {
    let town = Town::new().await;
    let caller = &town.caller;
    let mut plain = basket();
    let source = plain.as_object_mut().and_then(|plain| plain.remove("payment_source")).expect("it was there");
    let (_, order) = caller.post("/v2/checkout/orders", "a", &plain).await;
    assert_eq!(order["status"], "CREATED");
    let path = format!("/v2/checkout/orders/{}/confirm-payment-source", id(&order));
    assert_eq!(caller.refused(&path, "", &json!({})).await, (400, "MISSING_REQUIRED_PARAMETER".into()));
    let (status, confirmed) = caller.post(&path, "", &json!({"payment_source": source})).await;
    assert_eq!((status, &confirmed["status"]), (200, &json!("PAYER_ACTION_REQUIRED")));
    assert_eq!(confirmed["links"][1]["rel"], "payer-action");
}

#[tokio::test]
async fn currencies_without_decimals_have_none() {
    let town = Town::new().await;
    for code in ["JPY", "HUF", "TWD"] {
        let order = |value: &str| json!({"intent": "CAPTURE", "purchase_units": [{"amount": {"currency_code": code, "value": value}}]});
        let refused = town.caller.refused("/v2/checkout/orders", "x", &order("1200.00")).await;
        assert_eq!(refused, (422, "DECIMALS_NOT_SUPPORTED".into()), "{code}");
        let (status, order) = town.caller.post("/v2/checkout/orders", code, &order("1200")).await;
        assert_eq!((status, &order["purchase_units"][0]["amount"]["value"]), (201, &json!("1200")));
    }
    let too_fine = json!({"intent": "CAPTURE", "purchase_units": [{"amount": usd("1.005")}]});
    let refused = town.caller.refused("/v2/checkout/orders", "x", &too_fine).await;
    assert_eq!(refused, (422, "DECIMAL_PRECISION".into()));
}

#[tokio::test]
async fn paypal_is_told_of_a_parcel() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (order_id, capture) = caller.pay("a").await;
    let path = format!("/v2/checkout/orders/{order_id}/track");
    let parcel =
        json!({"capture_id": id(&capture), "tracking_number": "9400", "carrier": "USPS", "items": [{"sku": "L"}]});
    let (status, order) = caller.post(&path, "", &parcel).await;
    let tracker = &order["purchase_units"][0]["shipping"]["trackers"][0];
    assert_eq!((status, &tracker["id"]), (201, &json!(format!("{}-9400", id(&capture)))));
    assert_eq!(caller.post(&path, "", &parcel).await.0, 200, "it is known");
    let stranger = json!({"capture_id": "X", "tracking_number": "1", "carrier": "USPS"});
    assert_eq!(caller.refused(&path, "", &stranger).await, (422, "CAPTURE_ID_NOT_FOUND".into()));
}

/// Whatever a shop has to tell apart can be made to happen, by a fault and by PayPal's own header.
#[tokio::test]
async fn every_issue_can_be_had() {
    const ISSUES: &str = "INSTRUMENT_DECLINED PAYER_ACTION_REQUIRED REDIRECT_PAYER_FOR_ALTERNATE_FUNDING \
        ORDER_ALREADY_CAPTURED ORDER_ALREADY_AUTHORIZED ORDER_ALREADY_COMPLETED AUTHORIZATION_ALREADY_CAPTURED \
        PREVIOUSLY_CAPTURED PREVIOUSLY_VOIDED CAPTURE_FULLY_REFUNDED ORDER_NOT_APPROVED ORDER_COMPLETION_IN_PROGRESS \
        PENDING_CAPTURE ORDER_EXPIRED AUTHORIZATION_EXPIRED AUTHORIZATION_VOIDED AUTHORIZATION_DENIED \
        MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED TRANSACTION_REFUSED PAYER_CANNOT_PAY PAYER_ACCOUNT_LOCKED_OR_CLOSED \
        PAYER_ACCOUNT_RESTRICTED COMPLIANCE_VIOLATION TRANSACTION_LIMIT_EXCEEDED ACTION_DOES_NOT_MATCH_INTENT \
        DUPLICATE_INVOICE_ID PAYEE_ACCOUNT_RESTRICTED PAYEE_ACCOUNT_LOCKED_OR_CLOSED PAYEE_BLOCKED_TRANSACTION \
        INVALID_CURRENCY_CODE AMOUNT_MISMATCH MAX_CAPTURE_COUNT_EXCEEDED MAX_CAPTURE_AMOUNT_EXCEEDED \
        AUTH_CAPTURE_CURRENCY_MISMATCH CANNOT_BE_VOIDED REAUTHORIZATION_NOT_SUPPORTED REFUND_AMOUNT_EXCEEDED \
        REFUND_CAPTURE_CURRENCY_MISMATCH REFUND_TIME_LIMIT_EXCEEDED REFUND_NOT_ALLOWED \
        REFUND_FAILED_INSUFFICIENT_FUNDS PARTIAL_REFUND_NOT_ALLOWED MAX_NUMBER_OF_REFUNDS_EXCEEDED \
        TRANSACTION_DISPUTED REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK DECIMAL_PRECISION DECIMALS_NOT_SUPPORTED";
    const OTHERS: [(&str, u16); 3] =
        [("PERMISSION_DENIED", 403), ("PREVIOUS_REQUEST_IN_PROGRESS", 409), ("PAYPAL_REQUEST_ID_REQUIRED", 400)];
    let town = Town::new().await;
    let caller = &town.caller;
    let all = ISSUES.split_whitespace().map(|issue| (issue, 422)).chain(OTHERS);
    for (issue, status) in all {
        caller.control("faults", json!({"on": "create", "kind": "issue", "issue": issue})).await;
        let scripted = caller.refused("/v2/checkout/orders", "k", &basket()).await;
        assert_eq!(scripted, (status, issue.into()));
        let mock = json!({"mock_application_codes": issue}).to_string();
        let request = caller.call(Method::GET, "/v2/payments/captures/X").header("paypal-mock-response", mock);
        let problem = read(request.send().await.expect("an answer")).await;
        let detail = &problem["details"][0];
        assert_eq!(detail["issue"], issue);
        let has_words = ["PAYER_ACCOUNT_RESTRICTED"].contains(&issue) || detail["description"] != issue;
        assert!(has_words, "{issue} is not documented");
    }
    assert_eq!(caller.summary().await["orders"], 0);
}
