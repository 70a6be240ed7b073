//! Orders, captures, refunds, webhooks and faults as a shop meets them every day.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};
use souk::sandbox::{Settings, start};
use tempfile::TempDir;

use super::{Caller, Merchant, Town, WEBHOOK_ID, basket, read, settings};
use crate::support::eventually;

#[tokio::test]
async fn an_order_is_opened_approved_captured_and_in_the_books() {
    let town = Town::new().await;
    let (status, order) = town.caller.post("/v2/checkout/orders", "key", &basket()).await;
    assert_eq!((status, &order["status"]), (201, &json!("PAYER_ACTION_REQUIRED")));
    let id = order["id"].as_str().expect("an id");
    assert_eq!(order["links"][1]["rel"], "payer-action");
    assert_eq!(order["links"][1]["href"], format!("{}/checkoutnow?token={id}", town.caller.base));

    let (status, problem) = town.caller.capture(id, "too-early").await;
    assert_eq!((status, &problem["details"][0]["issue"]), (422, &json!("ORDER_NOT_APPROVED")));

    town.caller.control(&format!("orders/{id}/approve"), json!({})).await;
    let order = town.caller.get(&format!("/v2/checkout/orders/{id}")).await;
    assert_eq!(order["status"], "APPROVED");

    let (status, order) = town.caller.capture(id, "now").await;
    assert_eq!((status, &order["status"]), (201, &json!("COMPLETED")));
    let capture = &order["purchase_units"][0]["payments"]["captures"][0];
    assert_eq!(capture["status"], "COMPLETED");
    assert_eq!(capture["amount"], json!({"currency_code": "USD", "value": "30.00"}));
    assert_eq!(capture["custom_id"], "order-1");
    assert_eq!(capture["supplementary_data"]["related_ids"]["order_id"], id);
    assert_eq!(capture["seller_receivable_breakdown"]["paypal_fee"]["value"], "1.54");
    let shown = town.caller.get(&format!("/v2/payments/captures/{}", capture["id"].as_str().expect("an id"))).await;
    assert_eq!(&shown, capture);

    town.caller.settle().await;
    assert_eq!(town.merchant.event_types(), ["CHECKOUT.ORDER.APPROVED", "PAYMENT.CAPTURE.COMPLETED"]);
    let summary = town.caller.summary().await;
    assert_eq!(summary["captured"], json!({"USD": 3000}));
    assert_eq!(summary["calls"]["capture"], json!({"received": 2, "executed": 1, "replayed": 0, "refused": 1}));
    let page = town.caller.http.get(format!("{}/_sandbox/books", town.caller.base)).send().await.expect("the books");
    let books = read(page).await;
    assert_eq!(books["orders"][0]["status"], "COMPLETED");
    assert_eq!(books["deliveries"][1]["attempts"][0]["answer"], "200");
    town.sandbox.stop().await;
}

#[tokio::test]
async fn a_request_id_finds_what_it_has_done_before() {
    let town = Town::new().await;
    let first = town.caller.create("once").await;
    let (status, order) = town.caller.post("/v2/checkout/orders", "once", &basket()).await;
    assert_eq!((status, order["id"].as_str()), (200, Some(first.as_str())));

    town.caller.control(&format!("orders/{first}/approve"), json!({})).await;
    let (_, captured) = town.caller.capture(&first, "pay").await;
    assert_eq!(town.caller.capture(&first, "pay").await, (200, captured.clone()));
    let (status, problem) = town.caller.capture(&first, "pay-again").await;
    assert_eq!((status, &problem["details"][0]["issue"]), (422, &json!("ORDER_ALREADY_CAPTURED")));

    let capture_id = captured["purchase_units"][0]["payments"]["captures"][0]["id"].as_str().expect("an id");
    let refund = format!("/v2/payments/captures/{capture_id}/refund");
    let five = json!({"amount": {"currency_code": "USD", "value": "5.00"}});
    let (status, given) = town.caller.post(&refund, "back", &five).await;
    assert_eq!(status, 201);
    assert_eq!(town.caller.post(&refund, "back", &five).await, (200, given));
    assert_eq!(town.caller.summary().await["refunded"], json!({"USD": 500}));

    town.caller.control("clock", json!({"advance_ms": 6 * 3_600_000})).await;
    let (status, later) = town.caller.post("/v2/checkout/orders", "once", &basket()).await;
    assert_eq!(status, 201, "after six hours the key is forgotten");
    assert_ne!(later["id"].as_str(), Some(first.as_str()));
}

#[tokio::test]
async fn calls_that_race_with_one_request_id_have_one_effect() {
    let town = Town::new().await;
    let order_id = town.caller.create("create").await;
    town.caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
    let calls = (0..20).map(|_| town.caller.capture(&order_id, "capture"));
    let answers = futures::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
    assert!(answers.iter().all(|(_, order)| order == &answers[0].1), "all hear of the same capture");
    assert_eq!(town.caller.summary().await["captures"], 1);
}

#[tokio::test]
async fn a_card_is_declined_with_the_call_or_in_the_capture() {
    let town = Town::new().await;
    let order_id = town.caller.create("a").await;
    town.caller.control(&format!("orders/{order_id}/decline"), json!({"how": "422"})).await;
    let (status, problem) = town.caller.capture(&order_id, "a").await;
    assert_eq!((status, &problem["details"][0]["issue"]), (422, &json!("INSTRUMENT_DECLINED")));
    assert_eq!(problem["links"][1]["rel"], "redirect");
    town.caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
    assert_eq!(town.caller.capture(&order_id, "a").await.0, 201, "with another card it goes");

    let order_id = town.caller.create("b").await;
    town.caller.control(&format!("orders/{order_id}/decline"), json!({"how": "capture"})).await;
    let (status, order) = town.caller.capture(&order_id, "b").await;
    let capture = &order["purchase_units"][0]["payments"]["captures"][0];
    assert_eq!((status, &order["status"], &capture["status"]), (201, &json!("COMPLETED"), &json!("DECLINED")));
    town.caller.settle().await;
    assert_eq!(town.merchant.event_types().last().map(String::as_str), Some("PAYMENT.CAPTURE.DECLINED"));
    assert_eq!(town.caller.summary().await["captured"], json!({"USD": 3000}), "only the first was paid");
}

#[tokio::test]
async fn a_pending_capture_is_decided_later() {
    let town = Town::new().await;
    for (name, ruling, status) in [("a", "COMPLETED", "COMPLETED"), ("b", "DENIED", "DECLINED")] {
        let order_id = town.caller.create(name).await;
        town.caller.control(&format!("orders/{order_id}/approve"), json!({"how": "pending"})).await;
        let (_, order) = town.caller.capture(&order_id, name).await;
        let capture = &order["purchase_units"][0]["payments"]["captures"][0];
        assert_eq!((&capture["status"], capture.get("seller_receivable_breakdown")), (&json!("PENDING"), None));
        let id = capture["id"].as_str().expect("an id");
        let (_, problem) = town.caller.post(&format!("/v2/payments/captures/{id}/refund"), "r", &json!({})).await;
        assert_eq!(problem["details"][0]["issue"], "PENDING_CAPTURE");
        town.caller.settle().await;
        let decided = town.caller.control(&format!("captures/{id}/status"), json!({"status": ruling})).await;
        assert_eq!(decided["status"], status);
        town.caller.settle().await;
        assert_eq!(town.merchant.event_types().last(), Some(&format!("PAYMENT.CAPTURE.{ruling}")));
    }
    let summary = town.caller.summary().await;
    assert_eq!((&summary["captured"], &summary["pending"]), (&json!({"USD": 3000}), &json!({"USD": 0})));
}

#[tokio::test]
async fn money_goes_back_in_parts_and_never_more_than_came() {
    let town = Town::new().await;
    let (_, capture) = town.caller.pay("a").await;
    let id = capture["id"].as_str().expect("an id");
    let path = format!("/v2/payments/captures/{id}/refund");
    let part = |value: &str| json!({"amount": {"currency_code": "USD", "value": value}, "note_to_payer": "Sorry"});

    let (_, first) = town.caller.post(&path, "1", &part("10.00")).await;
    assert_eq!(first["seller_payable_breakdown"]["total_refunded_amount"]["value"], "10.00");
    let (_, problem) = town.caller.post(&path, "2", &part("20.01")).await;
    assert_eq!(problem["details"][0]["issue"], "REFUND_AMOUNT_EXCEEDED");
    let euros = json!({"amount": {"currency_code": "EUR", "value": "1.00"}});
    let (_, problem) = town.caller.post(&path, "3", &euros).await;
    assert_eq!(problem["details"][0]["issue"], "REFUND_CAPTURE_CURRENCY_MISMATCH");

    let request = town.caller.call(Method::POST, &path).header("paypal-request-id", "4");
    let rest = read(request.send().await.expect("an answer")).await;
    assert_eq!(rest["amount"]["value"], "20.00", "an empty body is the rest");
    let (_, problem) = town.caller.post(&path, "5", &json!({})).await;
    assert_eq!(problem["details"][0]["issue"], "CAPTURE_FULLY_REFUNDED");

    let shown = town.caller.get(&format!("/v2/payments/refunds/{}", rest["id"].as_str().expect("an id"))).await;
    assert_eq!(shown["links"][1]["href"], format!("{}/v2/payments/captures/{id}", town.caller.base));
    assert_eq!(town.caller.get(&format!("/v2/payments/captures/{id}")).await["status"], "REFUNDED");
    town.caller.settle().await;
    let event = town.merchant.inbox().last().expect("an event").event();
    assert_eq!((&event["event_type"], &event["resource_type"]), (&json!("PAYMENT.CAPTURE.REFUNDED"), &json!("refund")));
}

#[tokio::test]
async fn what_is_wrong_with_an_order_has_paypals_name() {
    let town = Town::new().await;
    let usd = |value: &str| json!({"currency_code": "USD", "value": value});
    let cases = [
        ("/intent", json!(null), 400, "MISSING_REQUIRED_PARAMETER"),
        ("/intent", json!("GIFT"), 400, "INVALID_PARAMETER_VALUE"),
        ("/purchase_units", json!([]), 400, "INVALID_ARRAY_MIN_ITEMS"),
        ("/purchase_units", json!("one"), 400, "INVALID_PARAMETER_SYNTAX"),
        ("/purchase_units/0/amount", json!(null), 400, "MISSING_REQUIRED_PARAMETER"),
        ("/purchase_units/0/amount/value", json!(30), 400, "INVALID_PARAMETER_SYNTAX"),
        ("/purchase_units/0/amount/value", json!("thirty"), 400, "INVALID_PARAMETER_SYNTAX"),
        ("/purchase_units/0/amount/value", json!("30.01"), 422, "AMOUNT_MISMATCH"),
        ("/purchase_units/0/amount/value", json!("30.001"), 422, "DECIMAL_PRECISION"),
        ("/purchase_units/0/amount/value", json!("0.00"), 422, "CANNOT_BE_ZERO_OR_NEGATIVE"),
        ("/purchase_units/0/amount/currency_code", json!("JPY"), 422, "DECIMALS_NOT_SUPPORTED"),
        ("/purchase_units/0/amount/currency_code", json!("XTS"), 422, "INVALID_CURRENCY_CODE"),
        ("/purchase_units/0/amount/currency_code", json!("EUR"), 422, "MULTI_CURRENCY_ORDER"),
        ("/purchase_units/0/amount/breakdown/discount", usd("-1"), 422, "CANNOT_BE_NEGATIVE"),
        ("/purchase_units/0/amount/breakdown", json!({}), 422, "ITEM_TOTAL_REQUIRED"),
        ("/purchase_units/0/items/0/quantity", json!("3"), 422, "ITEM_TOTAL_MISMATCH"),
        ("/purchase_units/0/items/0/tax", usd("1"), 422, "TAX_TOTAL_REQUIRED"),
        ("/purchase_units/0/custom_id", json!("x".repeat(128)), 400, "INVALID_STRING_LENGTH"),
    ];
    for (place, value, status, issue) in cases {
        let mut body = basket();
        let slot = match body.pointer_mut(place) {
            Some(slot) => slot,
            None => {
                let (parent, field) = place.rsplit_once('/').expect("a pointer");
                &mut body.pointer_mut(parent).expect("its parent")[field]
            }
        };
        *slot = value.clone();
        let (answered, problem) = town.caller.post("/v2/checkout/orders", "k", &body).await;
        assert_eq!(
            (answered, &problem["details"][0]["issue"]),
            (status, &json!(issue)),
            "{place} = {value}: {problem}"
        );
        assert!(problem["debug_id"].is_string() && problem["name"].is_string());
    }
    let response =
        town.caller.call(Method::POST, "/v2/checkout/orders").body("{\"intent\":").send().await.expect("an answer");
    assert_eq!(response.status(), 400);
    assert!(response.headers().contains_key("paypal-debug-id"));
    assert_eq!(read(response).await["details"][0]["issue"], "MALFORMED_REQUEST_JSON");
    let huge = "x".repeat(2 << 20);
    let response = town.caller.call(Method::POST, "/v2/checkout/orders").body(huge).send().await.expect("an answer");
    assert_eq!(response.status(), 413);
    assert_eq!(town.caller.summary().await["orders"], 0);
}

#[tokio::test]
async fn nobody_gets_in_without_the_right_credentials() {
    let town = Town::new().await;
    let url = format!("{}/v1/oauth2/token", town.caller.base);
    let request = town.caller.http.post(&url).basic_auth("shop", Some("wrong"));
    let response = request.form(&[("grant_type", "client_credentials")]).send().await.expect("an answer");
    assert_eq!(response.status(), 401);
    assert_eq!(read(response).await["error"], "invalid_client");

    let stranger = Caller { token: "A21AAxxxx".into(), ..town.caller.clone() };
    let (status, body) = stranger.post("/v2/checkout/orders", "k", &basket()).await;
    assert_eq!((status, &body["error"]), (401, &json!("invalid_token")));

    town.caller.control("clock", json!({"advance_ms": 32_400_000})).await;
    let (status, _) = town.caller.post("/v2/checkout/orders", "k", &basket()).await;
    assert_eq!(status, 401, "a token lives nine hours");
}

#[tokio::test]
async fn prefer_and_mock_response_are_honoured() {
    let town = Town::new().await;
    let create = || {
        let request = town.caller.http.post(format!("{}/v2/checkout/orders", town.caller.base));
        request.bearer_auth(&town.caller.token).header("paypal-request-id", "k").json(&basket())
    };
    let mock = r#"{"mock_application_codes":"PAYEE_ACCOUNT_RESTRICTED"}"#;
    let response = create().header("paypal-mock-response", mock).send().await.expect("an answer");
    assert_eq!(response.status(), 422);
    assert_eq!(read(response).await["details"][0]["issue"], "PAYEE_ACCOUNT_RESTRICTED");
    let mock = r#"{"mock_application_codes":"INTERNAL_SERVER_ERROR"}"#;
    let response = create().header("paypal-mock-response", mock).send().await.expect("an answer");
    assert_eq!(response.status(), 500);

    let minimal = read(create().send().await.expect("an answer")).await;
    let fields: Vec<_> = minimal.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["id", "links", "status"]);
    let whole = read(create().header("prefer", "return=representation").send().await.expect("an answer")).await;
    assert_eq!((&whole["id"], &whole["intent"]), (&minimal["id"], &json!("CAPTURE")));
}

#[tokio::test]
async fn a_webhook_is_signed_for_whoever_trusts_the_root() {
    let town = Town::new().await;
    town.caller.pay("a").await;
    town.caller.settle().await;
    let inbox = town.merchant.inbox();
    for delivery in &inbox {
        assert_eq!(town.verify(delivery).await, Ok(()));
        assert_eq!(delivery.header("paypal-auth-algo"), "SHA256withRSA");
        let event = delivery.event();
        assert_eq!((&event["event_version"], &event["resource_version"]), (&json!("1.0"), &json!("2.0")));
    }
    let postback = |event: &str| {
        let delivery = &inbox[0];
        format!(
            r#"{{"auth_algo":"SHA256withRSA","cert_url":"{}","transmission_id":"{}","transmission_sig":"{}","transmission_time":"{}","webhook_id":"{WEBHOOK_ID}","webhook_event":{event}}}"#,
            delivery.header("paypal-cert-url"),
            delivery.header("paypal-transmission-id"),
            delivery.header("paypal-transmission-sig"),
            delivery.header("paypal-transmission-time"),
        )
    };
    let verbatim = std::str::from_utf8(&inbox[0].body).expect("text");
    let rewritten = serde_json::to_string_pretty(&inbox[0].event()).expect("JSON");
    for (event, verdict) in [(verbatim, "SUCCESS"), (rewritten.as_str(), "FAILURE")] {
        let request = town.caller.call(Method::POST, "/v1/notifications/verify-webhook-signature");
        let answer = read(request.body(postback(event)).send().await.expect("an answer")).await;
        assert_eq!(answer["verification_status"], verdict);
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(town.dir.path().join("leaf.key")).expect("the key").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_webhook_is_tried_again_until_it_is_accepted() {
    let town = Town::new().await;
    town.merchant.answer_next(&[StatusCode::INTERNAL_SERVER_ERROR, StatusCode::NOT_FOUND]);
    let order_id = town.caller.create("a").await;
    town.caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
    while town.merchant.inbox().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    town.caller.settle().await;
    let inbox = town.merchant.inbox();
    assert!(inbox.iter().all(|delivery| delivery.body == inbox[0].body));
    let ids: Vec<_> = inbox.iter().map(|delivery| delivery.header("paypal-transmission-id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "a retry is the same transmission");
    let page = town.caller.http.get(format!("{}/_sandbox/orders/{order_id}", town.caller.base)).send().await;
    let order = read(page.expect("an answer")).await;
    let attempts = order["deliveries"][0]["attempts"].as_array().expect("attempts").iter();
    assert_eq!(attempts.map(|attempt| &attempt["answer"]).collect::<Vec<_>>(), ["500", "404", "200"]);
}

#[tokio::test]
async fn a_missed_event_stands_in_the_list_and_can_be_sent_again() {
    let town = Town::new().await;
    let drop = json!({"on": "webhook", "kind": "drop", "event_type": "PAYMENT.CAPTURE.COMPLETED", "times": 0});
    town.caller.control("faults", drop).await;
    let (_, capture) = town.caller.pay("a").await;
    town.caller.settle().await;
    assert_eq!(town.merchant.event_types(), ["CHECKOUT.ORDER.APPROVED"]);

    let list = town.caller.get("/v1/notifications/webhooks-events?page_size=1").await;
    let event = &list["events"][0];
    assert_eq!((&event["resource"]["id"], &list["count"]), (&capture["id"], &json!(1)));
    assert_eq!(list["links"][1]["rel"], "next");
    let url = town.caller.http.delete(format!("{}/_sandbox/faults", town.caller.base));
    assert_eq!(url.send().await.expect("an answer").status(), 204);
    let id = event["id"].as_str().expect("an id");
    let resend = format!("/v1/notifications/webhooks-events/{id}/resend");
    assert_eq!(town.caller.post(&resend, "", &json!({"webhook_ids": [WEBHOOK_ID]})).await.0, 202);
    town.caller.settle().await;
    assert_eq!(town.merchant.inbox()[1].event()["id"], *id);
}

#[tokio::test]
async fn webhooks_are_held_and_released_in_any_order() {
    let town = Town::new().await;
    town.caller.control("webhooks/hold", json!({})).await;
    for name in ["a", "b", "c"] {
        town.caller.pay(name).await;
    }
    assert!(town.merchant.inbox().is_empty());
    let released = town.caller.control("webhooks/release", json!({"order": "reversed"})).await;
    assert_eq!(released, json!({"tried": 6}));
    let (completed, approved) = ("PAYMENT.CAPTURE.COMPLETED", "CHECKOUT.ORDER.APPROVED");
    assert_eq!(town.merchant.event_types(), [completed, approved, completed, approved, completed, approved]);

    town.caller.pay("d").await;
    town.caller.settle().await;
    assert_eq!(town.merchant.inbox().len(), 8, "nothing is held any more");
}

#[tokio::test]
async fn forged_webhooks_fail_where_they_should() {
    let town = Town::new().await;
    let forgeries = [
        ("bad_signature", Err("signature")),
        ("tamper", Err("signature")),
        ("wrong_webhook_id", Err("signature")),
        ("foreign_ca", Err("UnknownIssuer")),
        ("expired_cert", Err("CertExpired")),
        ("same_crc", Ok(())),
        ("off_list_cert", Ok(())),
    ];
    for (index, (kind, expected)) in forgeries.into_iter().enumerate() {
        town.caller.control("faults", json!({"on": "webhook", "kind": kind})).await;
        let order_id = town.caller.create(kind).await;
        town.caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
        town.caller.settle().await;
        let delivery = town.merchant.inbox()[index].clone();
        let verdict = town.verify(&delivery).await;
        match expected {
            Ok(()) => assert_eq!(verdict, Ok(()), "{kind}"),
            Err(why) => assert!(verdict.as_ref().is_err_and(|error| error.contains(why)), "{kind}: {verdict:?}"),
        }
        let amount = &delivery.event()["resource"]["purchase_units"][0]["amount"]["value"];
        assert_eq!(amount == "999.00", ["tamper", "same_crc"].contains(&kind), "{kind}: {amount}");
        let is_on_list = delivery.header("paypal-cert-url").starts_with(&town.caller.base);
        assert_eq!(is_on_list, kind != "off_list_cert");
    }
}

#[tokio::test]
async fn a_webhook_is_doubled_and_comes_before_the_reply() {
    let town = Town::new().await;
    for kind in ["duplicate", "duplicate_new"] {
        town.caller.control("faults", json!({"on": "webhook", "kind": kind})).await;
        let order_id = town.caller.create(kind).await;
        town.caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
        town.caller.settle().await;
        let inbox = town.merchant.inbox();
        let [first, second] = &inbox[inbox.len() - 2..] else { unreachable!("two were taken") };
        let same_transmission = first.header("paypal-transmission-id") == second.header("paypal-transmission-id");
        let same_event = first.event()["id"] == second.event()["id"];
        assert_eq!((same_transmission, same_event), (kind == "duplicate", kind == "duplicate"));
        assert_eq!(first.event()["resource"], second.event()["resource"]);
    }
    let early = json!({"on": "webhook", "kind": "early", "event_type": "PAYMENT.CAPTURE.COMPLETED", "times": 5});
    town.caller.control("faults", early).await;
    for name in ["a", "b", "c", "d", "e"] {
        let (_, capture) = town.caller.pay(name).await;
        let last = town.merchant.inbox().last().expect("it was there before the answer").event();
        assert_eq!(last["resource"]["id"], capture["id"]);
    }
}

#[tokio::test]
async fn calls_fail_before_or_after_their_effect() {
    let town = Town::new().await;
    let captures = async || town.caller.summary().await["captures"].as_i64();
    let capture_with = async |fault: Value, name: &str| {
        let order_id = town.caller.create(name).await;
        town.caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
        let mut rule = json!({"on": "capture"});
        rule.as_object_mut().expect("an object").extend(fault.as_object().expect("an object").clone());
        town.caller.control("faults", rule).await;
        let path = format!("/v2/checkout/orders/{order_id}/capture");
        let request = town.caller.call(Method::POST, &path).header("paypal-request-id", name);
        (order_id, request.timeout(Duration::from_secs(4)).send().await)
    };
    let faults = [
        (json!({"kind": "drop_before"}), None, false),
        (json!({"kind": "drop_after"}), None, true),
        (json!({"kind": "hang"}), None, false),
        (json!({"kind": "hang_after"}), None, true),
        (json!({"kind": "delay", "ms": 8000}), None, true),
        (json!({"kind": "status", "status": 429, "retry_after": 7}), Some(429), false),
        (json!({"kind": "status", "status": 409}), Some(409), false),
        (json!({"kind": "status", "status": 401}), Some(401), false),
        (json!({"kind": "status_after"}), Some(500), true),
        (json!({"kind": "html"}), Some(502), false),
        (json!({"kind": "garbage"}), Some(201), true),
        (json!({"kind": "issue", "issue": "PAYER_CANNOT_PAY"}), Some(422), false),
    ];
    for (index, (fault, status, takes_effect)) in faults.into_iter().enumerate() {
        let before = captures().await;
        let name = format!("fault-{index}");
        let (order_id, answer) = capture_with(fault.clone(), &name).await;
        assert_eq!(answer.as_ref().ok().map(|answer| answer.status().as_u16()), status, "{fault}");
        if fault["kind"] == "delay" {
            crate::support::eventually("it is done late", async || captures().await != before).await;
        }
        let effect = captures().await != before;
        assert_eq!(effect, takes_effect, "{fault}");
        let again = town.caller.capture(&order_id, &name).await.0;
        assert_eq!(again, if takes_effect { 200 } else { 201 }, "{fault}: the retry");
        if let Some(retry_after) = fault["retry_after"].as_i64() {
            let headers = answer.expect("an answer").headers().clone();
            assert_eq!(headers["retry-after"], retry_after.to_string());
        }
    }
}

#[tokio::test]
async fn a_script_with_a_typing_error_is_refused() {
    let town = Town::new().await;
    let rules = [
        json!({"on": "capture", "kind": "status", "status": 503, "retry_afer": 1}),
        json!({"on": "capture", "kind": "explode"}),
        json!({"on": "webhook", "kind": "drop", "type": "PAYMENT.CAPTURE.COMPLETED"}),
        json!({"on": "lunch", "kind": "drop_before"}),
    ];
    for rule in rules {
        let request = town.caller.http.post(format!("{}/_sandbox/faults", town.caller.base)).json(&rule);
        assert_eq!(request.send().await.expect("an answer").status(), 400, "{rule}");
    }
    let order_id = town.caller.create("a").await;
    let approve = town.caller.http.post(format!("{}/_sandbox/orders/{order_id}/approve", town.caller.base));
    assert_eq!(approve.json(&json!({"hoow": "pending"})).send().await.expect("an answer").status(), 400);
}

#[tokio::test]
async fn a_buyer_decides_in_a_browser_without_scripts() {
    let town = Town::new().await;
    let order_id = town.caller.create("a").await;
    let url = format!("{}/checkoutnow?token={order_id}", town.caller.base);
    let page = town.caller.http.get(&url).send().await.expect("a page").text().await.expect("text");
    assert!(page.contains("30.00 USD") && page.contains("Lamps &amp; Co") && page.contains("Lamp &lt;b&gt;"));
    assert!(!page.contains("<script") && !page.contains("Lamp <b>"));

    let click = async |action: &str| {
        let form = [("token", order_id.as_str()), ("action", action)];
        let response = town.caller.http.post(format!("{}/checkoutnow", town.caller.base)).form(&form).send().await;
        let response = response.expect("an answer");
        let to = response.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or_default().to_owned();
        (response.status().as_u16(), to)
    };
    assert_eq!(click("cancel").await, (303, format!("https://shop.example/cancel?token={order_id}")));
    let back = format!("https://shop.example/return?order=1&token={order_id}&PayerID=QYR5Z8XDVJNXQ");
    assert_eq!(click("decline").await, (303, back.clone()));
    assert_eq!(town.caller.capture(&order_id, "1").await.0, 422);
    assert_eq!(click("pay").await, (303, back));
    assert_eq!(town.caller.capture(&order_id, "2").await.0, 201);
    assert_eq!(click("pay").await.0, 409);
}

#[tokio::test]
async fn under_load_every_order_is_approved_at_once() {
    let town = Town::new().await;
    let waiting = town.caller.create("before").await;
    town.caller.control("settings", json!({"auto_approve": true})).await;
    let payments = (0..200).map(async |n| {
        let order_id = town.caller.create(&format!("create-{n}")).await;
        assert_eq!(town.caller.capture(&order_id, &format!("capture-{n}")).await.0, 201);
    });
    futures::future::join_all(payments).await;
    assert_eq!(town.caller.control("approve_all", json!({})).await, json!({"approved": 1}));
    assert_eq!(town.caller.get(&format!("/v2/checkout/orders/{waiting}")).await["status"], "APPROVED");
    town.caller.settle().await;
    let summary = town.caller.summary().await;
    assert_eq!(
        (&summary["captured"], &summary["deliveries_by_state"]["delivered"]),
        (&json!({"USD": 600_000}), &json!(401))
    );
}

#[tokio::test]
async fn only_one_sandbox_has_the_books_and_only_on_loopback() {
    let town = Town::new().await;
    let second = start(settings(town.dir.path(), "http://127.0.0.1:9/")).await;
    assert_eq!(second.err().map(|error| error.kind()), Some(std::io::ErrorKind::WouldBlock));
    let open =
        Settings { listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..settings(town.dir.path(), "http://127.0.0.1:9/") };
    assert_eq!(start(open).await.err().map(|error| error.kind()), Some(std::io::ErrorKind::InvalidInput));
}

/// Not a test: the process that [`a_kill_loses_nothing_that_was_said`] kills.
#[tokio::test]
#[ignore = "started by another test, in a process of its own"]
async fn a_sandbox_to_be_killed() {
    let dir = std::env::var("SANDBOX_DIR").expect("set by the other test");
    let sandbox = start(settings(Path::new(&dir), "http://127.0.0.1:9/nobody")).await.expect("it starts");
    println!("\nlistening on {}", sandbox.addr);
    sandbox.wait().await;
}

/// Dies with the test, however that ends.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("it is dead");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn_sandbox(dir: &Path) -> (Process, SocketAddr) {
    let program = std::env::current_exe().expect("this program");
    let arguments = ["--exact", "sandbox::basics::a_sandbox_to_be_killed", "--ignored", "--nocapture"];
    let mut command = Command::new(program);
    let command = command.args(arguments).env("SANDBOX_DIR", dir).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let line = output.lines().map_while(Result::ok).find(|line| line.starts_with("listening on "));
    let addr = line.expect("it says where")["listening on ".len()..].parse().expect("an address");
    (Process(child), addr)
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_said() {
    let dir = TempDir::new().expect("a directory");
    let (mut child, addr) = spawn_sandbox(dir.path());
    let caller = Caller::new(addr).await;
    caller.control("settings", json!({"auto_approve": true})).await;
    let said = Arc::new(Mutex::new(Vec::new()));
    let buyers: Vec<_> =
        (0..8).map(|buyer| tokio::spawn(buy_until_it_dies(caller.clone(), buyer, Arc::clone(&said)))).collect();
    eventually("enough was paid to tell", async || said.lock().expect("not poisoned").len() > 20).await;
    child.kill();
    for buyer in buyers {
        buyer.await.expect("a buyer does not panic");
    }
    let journal = dir.path().join("journal.jsonl");
    let mut journal = std::fs::OpenOptions::new().append(true).open(journal).expect("the journal");
    journal.write_all(br#"{"orders":[{"id":"TORN"#).expect("a torn line");

    let merchant = Merchant::default();
    let sandbox = start(settings(dir.path(), &merchant.open().await)).await.expect("it starts again");
    let caller = Caller { base: format!("http://{}", sandbox.addr), ..caller };
    let said = std::mem::take(&mut *said.lock().expect("not poisoned"));
    for (order_id, capture) in &said {
        let order = caller.get(&format!("/v2/checkout/orders/{order_id}")).await;
        let found = &order["purchase_units"][0]["payments"]["captures"][0];
        assert_eq!((&found["id"], &found["status"]), (&capture["id"], &capture["status"]));
    }
    let summary = caller.summary().await;
    let captured = summary["captured"]["USD"].as_i64().expect("a sum");
    assert!(captured >= 3000 * i64::try_from(said.len()).expect("few"));
    caller.control("clock", json!({"advance_ms": 3_600_000})).await; // those that had failed three times wait an hour
    while caller.summary().await["deliveries_by_state"]["due"] != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        Some(merchant.inbox().len() as i64),
        summary["events"].as_i64(),
        "what was undelivered is delivered now"
    );
    assert_eq!(caller.create("after").await.len(), 17);
    sandbox.stop().await;
}

async fn buy_until_it_dies(caller: Caller, buyer: usize, said: Arc<Mutex<Vec<(String, Value)>>>) {
    for n in 0.. {
        let request =
            caller.call(Method::POST, "/v2/checkout/orders").header("paypal-request-id", format!("{buyer}-{n}"));
        let Ok(response) = request.body(basket().to_string()).send().await else { return };
        let Ok(order) = response.json::<Value>().await else { return };
        let order_id = order["id"].as_str().expect("an id").to_owned();
        let request = caller.call(Method::POST, &format!("/v2/checkout/orders/{order_id}/capture"));
        let Ok(response) = request.send().await else { return };
        let Ok(order) = response.json::<Value>().await else { return };
        let capture = order["purchase_units"][0]["payments"]["captures"][0].clone();
        said.lock().expect("not poisoned").push((order_id, capture));
    }
}
