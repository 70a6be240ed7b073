//! Webhooks that come and go, events that are asked for, certificates that are renewed, deliveries that are repeated.

use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};
use souk::sandbox::start;

use super::{Caller, Delivery, Merchant, Town, WEBHOOK_ID, id, read, settings};

impl Caller {
    async fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let response = self.call(method, path).body(body.to_string()).send().await.expect("an answer");
        (response.status().as_u16(), read(response).await)
    }

    /// What PayPal says of a delivery that is sent back to it.
    async fn postback(&self, delivery: &Delivery, webhook_id: &str) -> String {
        let event = std::str::from_utf8(&delivery.body).expect("text");
        let header = |name: &str| delivery.header(name);
        let body = format!(
            r#"{{"auth_algo":"SHA256withRSA","cert_url":"{}","transmission_id":"{}","transmission_sig":"{}","transmission_time":"{}","webhook_id":"{webhook_id}","webhook_event":{event}}}"#,
            header("paypal-cert-url"),
            header("paypal-transmission-id"),
            header("paypal-transmission-sig"),
            header("paypal-transmission-time"),
        );
        let request = self.call(Method::POST, "/v1/notifications/verify-webhook-signature").body(body);
        let verdict = read(request.send().await.expect("an answer")).await;
        verdict["verification_status"].as_str().expect("a word").to_owned()
    }
}

#[tokio::test]
async fn a_merchant_keeps_a_list_of_webhooks() {
    let town = Town::new().await;
    let caller = &town.caller;
    let list = caller.get("/v1/notifications/webhooks").await;
    assert_eq!(
        (&list["webhooks"][0]["id"], &list["webhooks"][0]["event_types"][0]["name"]),
        (&json!(WEBHOOK_ID), &json!("*"))
    );
    let wish = json!({"url": "http://127.0.0.1:9/a", "event_types": [{"name": "PAYMENT.CAPTURE.COMPLETED"}]});
    let (status, webhook) = caller.send(Method::POST, "/v1/notifications/webhooks/", wish.clone()).await;
    assert_eq!(status, 201, "also with a slash at the end: {webhook}");
    let (status, problem) = caller.send(Method::POST, "/v1/notifications/webhooks", wish).await;
    assert_eq!((status, &problem["name"]), (400, &json!("WEBHOOK_URL_ALREADY_EXISTS")));
    let unknown = json!({"url": "http://127.0.0.1:9/b", "event_types": [{"name": "LUNCH.READY"}]});
    assert_eq!(caller.send(Method::POST, "/v1/notifications/webhooks", unknown).await.0, 400);

    let path = format!("/v1/notifications/webhooks/{}", id(&webhook));
    assert_eq!(caller.get(&path).await, webhook);
    let types = json!([{"op": "replace", "path": "/event_types", "value": [{"name": "PAYMENT.REFUND.FAILED"}]}]);
    assert_eq!(caller.send(Method::PATCH, &path, types).await.0, 200);
    let types = caller.get(&format!("{path}/event-types")).await;
    assert_eq!(types["event_types"][0]["name"], "PAYMENT.REFUND.FAILED");
    let all = caller.get("/v1/notifications/webhooks-event-types").await;
    assert!(
        all["event_types"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["name"] == "CUSTOMER.DISPUTE.CREATED"))
    );

    assert_eq!(caller.send(Method::DELETE, &path, json!({})).await.0, 204);
    assert_eq!(caller.send(Method::GET, &path, json!({})).await.0, 404);
    for n in 0..9 {
        let wish = json!({"url": format!("http://127.0.0.1:9/{n}"), "event_types": [{"name": "*"}]});
        assert_eq!(caller.send(Method::POST, "/v1/notifications/webhooks", wish).await.0, 201);
    }
    let eleventh = json!({"url": "http://127.0.0.1:9/last", "event_types": [{"name": "*"}]});
    let (_, problem) = caller.send(Method::POST, "/v1/notifications/webhooks", eleventh).await;
    assert_eq!(problem["name"], "WEBHOOK_NUMBER_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn each_webhook_hears_of_what_it_wants_signed_for_itself() {
    let town = Town::new().await;
    let caller = &town.caller;
    let second = Merchant::default();
    let wish = json!({"url": second.open().await, "event_types": [{"name": "PAYMENT.CAPTURE.COMPLETED"}]});
    let (_, webhook) = caller.send(Method::POST, "/v1/notifications/webhooks", wish).await;
    caller.pay("a").await;
    caller.settle().await;
    assert_eq!(town.merchant.event_types().len(), 2);
    assert_eq!(second.event_types(), ["PAYMENT.CAPTURE.COMPLETED"]);
    let [delivery] = &second.inbox()[..] else { unreachable!("there is one") };
    assert_eq!(caller.postback(delivery, id(&webhook)).await, "SUCCESS");
    assert_eq!(caller.postback(delivery, WEBHOOK_ID).await, "FAILURE", "it is another one's");

    let move_away = json!([{"op": "replace", "path": "/url", "value": "http://127.0.0.1:9/gone"}]);
    let configured = format!("/v1/notifications/webhooks/{WEBHOOK_ID}");
    caller.send(Method::PATCH, &configured, move_away).await;
    let list = caller.get("/v1/notifications/webhooks-events?event_type=CHECKOUT.ORDER.APPROVED").await;
    let resend = format!("/v1/notifications/webhooks-events/{}/resend", id(&list["events"][0]));
    let wish = json!({"webhook_ids": [id(&webhook)]});
    assert_eq!(caller.send(Method::POST, &resend, wish).await.0, 202);
    assert_eq!(caller.send(Method::POST, &resend, json!({"webhook_ids": ["X"]})).await.0, 404);
    caller.settle().await;
    assert_eq!(second.event_types(), ["PAYMENT.CAPTURE.COMPLETED", "CHECKOUT.ORDER.APPROVED"]);
    assert_eq!(town.merchant.event_types().len(), 2);

    assert_eq!(caller.send(Method::DELETE, &configured, json!({})).await.0, 204);
    caller.pay("b").await;
    caller.settle().await;
    assert_eq!((town.merchant.event_types().len(), second.event_types().len()), (2, 3));
    let Town { dir, sandbox, .. } = town;
    sandbox.stop().await;
    let sandbox = start(settings(dir.path(), "http://127.0.0.1:9/nobody")).await.expect("it starts again");
    let caller = Caller::new(sandbox.addr).await;
    let list = caller.get("/v1/notifications/webhooks").await;
    assert_eq!(list["webhooks"].as_array().map(Vec::len), Some(1), "what was registered and deleted stays so");
}

#[tokio::test]
async fn a_simulated_event_is_signed_for_nobody_and_stands_in_no_list() {
    let town = Town::new().await;
    let caller = &town.caller;
    let wish = json!({"webhook_id": WEBHOOK_ID, "event_type": "PAYMENT.CAPTURE.REVERSED", "resource_version": "2.0"});
    let (status, event) = caller.send(Method::POST, "/v1/notifications/simulate-event", wish).await;
    assert_eq!(status, 202);
    caller.settle().await;
    let [delivery] = &town.merchant.inbox()[..] else { unreachable!("there is one") };
    assert_eq!(delivery.event(), event);
    assert_eq!(town.verify_for(delivery, "WEBHOOK_ID").await, Ok(()));
    assert!(town.verify(delivery).await.is_err());
    assert_eq!(caller.postback(delivery, WEBHOOK_ID).await, "FAILURE");
    assert_eq!(caller.postback(delivery, "WEBHOOK_ID").await, "FAILURE");
    assert_eq!(caller.get("/v1/notifications/webhooks-events").await["count"], 0);
    let nowhere = json!({"event_type": "PAYMENT.CAPTURE.REVERSED"});
    assert_eq!(caller.send(Method::POST, "/v1/notifications/simulate-event", nowhere).await.0, 400);
}

#[tokio::test]
async fn the_list_of_events_is_searched_and_paged_while_it_grows() {
    let mut town = Town::new().await;
    let (_, first) = town.caller.pay("a").await;
    town.caller.wait(3600).await;
    let clock = town.caller.control("clock", json!({"advance_ms": 0})).await;
    let between = clock["now"].as_str().expect("a time").to_owned();
    town.caller.wait(3600).await;
    town.caller.pay("b").await;

    let caller = &town.caller;
    let count =
        async |query: &str| caller.get(&format!("/v1/notifications/webhooks-events?{query}")).await["count"].clone();
    assert_eq!(count(&format!("start_time={between}")).await, 2);
    assert_eq!(count(&format!("end_time={between}&event_type=PAYMENT.CAPTURE.COMPLETED")).await, 1);
    assert_eq!(count(&format!("transaction_id={}", id(&first))).await, 1);
    assert_eq!(count("event_type=PAYMENT.REFUND.FAILED").await, 0);
    let bad = caller.send(Method::GET, "/v1/notifications/webhooks-events?start_time=yesterday", json!(null)).await;
    assert_eq!((bad.0, &bad.1["details"][0]["issue"]), (400, &json!("INVALID_PARAMETER_SYNTAX")));

    let mut seen = Vec::new();
    let mut next = Some(format!("/v1/notifications/webhooks-events?page_size=1&end_time={between}"));
    while let Some(path) = next {
        let page = caller.get(&path).await;
        seen.extend(page["events"].as_array().expect("a list").iter().map(|event| id(event).to_owned()));
        let links = page["links"].as_array().expect("links").clone();
        let link = links.iter().find(|link| link["rel"] == "next").and_then(|link| link["href"].as_str());
        next = link.map(|link| link.strip_prefix(&caller.base).expect("its own").to_owned());
        caller.pay(&format!("more-{}", seen.len())).await;
    }
    seen.dedup();
    assert_eq!(seen.len(), 2, "each once, and none of the later ones: {seen:?}");
}

#[tokio::test]
async fn a_certificate_is_renewed_under_the_same_root() {
    let town = Town::new().await;
    let caller = &town.caller;
    caller.pay("a").await;
    caller.settle().await;
    let before = town.merchant.inbox()[0].clone();
    let renewed = caller.control("certificates/rotate", json!({"valid_days": 30})).await;
    caller.pay("b").await;
    caller.settle().await;
    let after = town.merchant.inbox().last().expect("a delivery").clone();
    assert_eq!(after.header("paypal-cert-url"), renewed["url"]);
    assert_ne!(before.header("paypal-cert-url"), after.header("paypal-cert-url"));
    for delivery in [&before, &after] {
        assert_eq!(town.verify(delivery).await, Ok(()), "both are good");
        assert_eq!(caller.postback(delivery, WEBHOOK_ID).await, "SUCCESS");
    }
    assert!(town.not_after(&after).await < town.not_after(&before).await);

    caller.control("certificates/rotate", json!({"forget_old": true})).await;
    let gone = caller.http.get(before.header("paypal-cert-url")).send().await.expect("an answer");
    assert_eq!(gone.status(), 404);
    let Town { dir, sandbox, merchant, caller } = town;
    sandbox.stop().await;
    let sandbox = start(settings(dir.path(), &merchant.open().await)).await.expect("it starts again");
    let town = Town { caller: Caller { base: format!("http://{}", sandbox.addr), ..caller }, dir, sandbox, merchant };
    town.caller.pay("c").await;
    town.caller.settle().await;
    let last = town.merchant.inbox().last().expect("a delivery").clone();
    assert_eq!(town.verify(&last).await, Ok(()));
    assert_ne!(last.header("paypal-cert-url").rsplit('/').next(), after.header("paypal-cert-url").rsplit('/').next());

    let expired = town.caller.control("certificates/rotate", json!({"valid_days": 0})).await;
    town.caller.pay("d").await;
    town.caller.settle().await;
    let last = town.merchant.inbox().last().expect("a delivery").clone();
    assert_eq!(last.header("paypal-cert-url"), expired["url"]);
    assert!(town.verify(&last).await.is_err_and(|error| error.contains("CertExpired")));
}

#[tokio::test]
async fn an_old_transmission_is_repeated_byte_for_byte() {
    let mut town = Town::new().await;
    town.caller.hold().await;
    let (order_id, _) = town.caller.pay("a").await;
    town.caller.release().await;
    town.caller.control("certificates/rotate", json!({})).await;
    town.caller.wait(5 * 86_400).await;
    let wish = json!({"order_id": order_id, "event_type": "PAYMENT.CAPTURE.COMPLETED"});
    assert_eq!(town.caller.control("webhooks/replay", wish).await, json!({"replayed": 1}));
    town.caller.settle().await;
    let [_, original, again] = &town.merchant.inbox()[..] else { unreachable!("there are three") };
    assert_eq!(original.body, again.body);
    for name in ["transmission-id", "transmission-time", "transmission-sig", "cert-url", "auth-algo"] {
        let name = format!("paypal-{name}");
        assert_eq!(original.header(&name), again.header(&name), "{name}");
    }
    assert_eq!(town.verify(again).await, Ok(()), "the signature is as good as ever");
    assert_eq!(town.caller.control("webhooks/replay", json!({"order_id": "X"})).await, json!({"replayed": 0}));
}

#[tokio::test]
async fn every_call_can_be_made_to_fail() {
    let town = Town::new().await;
    let caller = &town.caller;
    let (order_id, capture) = caller.pay("a").await;
    let calls = [
        ("patch", Method::PATCH, format!("/v2/checkout/orders/{order_id}")),
        ("inspect", Method::GET, format!("/v2/payments/captures/{}", id(&capture))),
        ("authorize", Method::POST, format!("/v2/checkout/orders/{order_id}/authorize")),
        ("capture_authorization", Method::POST, "/v2/payments/authorizations/X/capture".to_owned()),
        ("reauthorize", Method::POST, "/v2/payments/authorizations/X/reauthorize".to_owned()),
        ("void", Method::POST, "/v2/payments/authorizations/X/void".to_owned()),
        ("refund", Method::POST, format!("/v2/payments/captures/{}/refund", id(&capture))),
        ("dispute", Method::GET, "/v1/customer/disputes".to_owned()),
        ("events", Method::GET, "/v1/notifications/webhooks-events/".to_owned()),
        ("verify", Method::POST, "/v1/notifications/verify-webhook-signature".to_owned()),
    ];
    for (operation, method, path) in calls {
        caller.control("faults", json!({"on": operation, "kind": "status", "status": 503, "retry_after": 3})).await;
        let response = caller.call(method, &path).body("{}").send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{operation}");
        assert_eq!(response.headers()["retry-after"], "3");
        assert_eq!(read(response).await["name"], "SERVICE_UNAVAILABLE");
    }
    let faults = caller.http.get(format!("{}/_sandbox/faults", caller.base)).send().await.expect("an answer");
    assert_eq!(read(faults).await, json!({"calls": [], "webhooks": []}), "each has struck");
}
